//! What must come back for some bytes, read the slow way: one byte after the other.
//!
//! The model knows nothing of buffers, phases and readiness. It asks the same service the same
//! questions, and for it the store is a table that nobody can write to (`answer_of`).

use kioskd::front::Options;
use kioskd::http::{ChunkedDecoder, Framing, Head, HeadParser, Method, ParseError};
use kioskd::service::step::Step;
use kioskd::service::{Call, Service};
use kioskd::store::{Answer, Command, StoreError, When};
use std::ops::Range;

/// When the client has closed its half.
const AT_THE_END: usize = usize::MAX;

/// One response.
#[derive(Debug, PartialEq)]
pub struct Expected {
    /// It comes as soon as this many bytes are sent.
    pub due_at: usize,
    /// Its status.
    pub status: u16,
    /// It says how long a body is that it does not have.
    pub head_only: bool,
    /// It is the last one.
    pub closes: bool,
    /// `100 Continue` may come before it.
    pub may_continue: bool,
    /// The id that its request has chosen.
    pub request_id: Option<String>,
}

/// Every response to `input`, of which nothing more comes.
///
/// A request refused by its head ends the connection unless its whole body was there: that alone depends
/// on how the bytes came. `is_whole` is asked, with the number of the response and where the body lies.
pub fn expected(
    input: &[u8],
    service: &Service,
    options: &Options,
    is_whole: &dyn Fn(usize, Range<usize>) -> bool,
) -> Vec<Expected> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some((head, end)) = read_head(input, at, options, &mut all) {
        let n = all.len();
        let is_whole = |body: Range<usize>| body.end <= input.len() && is_whole(n, body);
        let (mut response, next) = answer(&head, input, end, service, options, &is_whole);
        response.closes |= !head.keep_alive();
        let closes = response.closes;
        all.push(response);
        match next {
            Some(next) if !closes => at = next,
            _ => break,
        }
    }
    all
}

/// The head that begins at `at` and where it ends. Without one, `all` gets what is to be said.
fn read_head(
    input: &[u8],
    at: usize,
    options: &Options,
    all: &mut Vec<Expected>,
) -> Option<(Head, usize)> {
    let mut parser = HeadParser::new();
    for end in at + 1..=input.len() {
        match parser.parse(&input[at..end], &options.head) {
            Ok(None) => {}
            Ok(Some((head, length))) => return Some((head, at + length)),
            Err(error) => {
                all.push(refusal(error.status(), end, &input[at..end]));
                return None;
            }
        }
    }
    // An empty line, or half of one, begins no request.
    if input[at.min(input.len())..].iter().any(|byte| !b"\r\n".contains(byte)) {
        all.push(refusal(400, AT_THE_END, &input[at..]));
    }
    None
}

/// The answer to what is no request. If its first word is HEAD, or would have been, it has no body.
fn refusal(status: u16, due_at: usize, message: &[u8]) -> Expected {
    let text: String = message.iter().copied().map(char::from).collect();
    let mut text = text.as_str();
    // No more than that are forgiven; of one that is not whole nobody knows what would come.
    for _ in 0..4 {
        text = text.strip_prefix("\r\n").unwrap_or(text);
    }
    let head_only = match text.strip_prefix("HEAD").and_then(|rest| rest.chars().next()) {
        Some(next) => !(next.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(next)),
        None => !text.is_empty() && "HEAD".starts_with(text),
    };
    Expected { due_at, status, head_only, closes: true, may_continue: false, request_id: None }
}

/// The response to a head and the body behind it, and where the next message begins.
fn answer(
    head: &Head,
    input: &[u8],
    body_at: usize,
    service: &Service,
    options: &Options,
    is_whole: &dyn Fn(Range<usize>) -> bool,
) -> (Expected, Option<usize>) {
    let mut response = Expected {
        due_at: body_at,
        status: 0,
        head_only: head.method == Method::Head,
        closes: false,
        may_continue: false,
        request_id: chosen_id(head),
    };
    let call = match service.admit(head) {
        Ok(call) => call,
        Err(problem) => {
            response.status = problem.status;
            let next = dropped(head)
                .and_then(|length| body_at.checked_add(length))
                .filter(|&end| end == body_at || is_whole(body_at..end));
            response.closes = next.is_none();
            return (response, next);
        }
    };
    response.may_continue = head.framing != Framing::Length(0) && head.expects_continue();
    match read_body(head.framing, &input[body_at..], options.body_bytes_max) {
        Body::Whole(body, length) => {
            response.due_at = body_at + length;
            response.status = status(service, call, body);
            (response, Some(body_at + length))
        }
        Body::Bad(error, length) => {
            response.due_at = body_at + length;
            (response.status, response.closes) = (error.status(), true);
            (response, None)
        }
        Body::Unfinished => {
            (response.due_at, response.status, response.closes) = (AT_THE_END, 400, true);
            (response, None)
        }
    }
}

/// How much of a refused request's body to drop if it is whole; `None` if the connection ends anyhow.
fn dropped(head: &Head) -> Option<usize> {
    match head.framing {
        Framing::Length(0) => Some(0),
        // A client that expects anything may keep its body to itself.
        Framing::Length(n) if head.header("Expect").is_none() => usize::try_from(n).ok(),
        _ => None,
    }
}

/// What became of a body, and how many bytes of the wire that took.
enum Body {
    Whole(Vec<u8>, usize),
    Bad(ParseError, usize),
    Unfinished,
}

fn read_body(framing: Framing, input: &[u8], body_bytes_max: usize) -> Body {
    if let Framing::Length(length) = framing {
        return match input.get(..length as usize) {
            Some(body) => Body::Whole(body.to_vec(), body.len()),
            None => Body::Unfinished,
        };
    }
    let (mut decoder, mut body) = (ChunkedDecoder::default(), Vec::new());
    for (i, byte) in input.iter().enumerate() {
        match decoder.decode(&[*byte], &mut body, body_bytes_max) {
            Ok((_, false)) => {}
            Ok((_, true)) => return Body::Whole(body, i + 1),
            Err(error) => return Body::Bad(error, i + 1),
        }
    }
    Body::Unfinished
}

fn status(service: &Service, call: Call, body: Vec<u8>) -> u16 {
    let mut step = service.perform(call, body);
    loop {
        step = match step {
            Step::Done(Ok(response)) => return response.status_code().0,
            Step::Done(Err(problem)) => return problem.status,
            Step::Ask(command, next) => next(answer_of(&command)),
        }
    }
}

/// The store of these tests, a function of the question: under every key that ends in `1` there is
/// `DOCUMENT`, under the others nothing, and no write changes that.
pub fn answer_of(command: &Command) -> Result<Answer, StoreError> {
    const DOCUMENT: &[u8] = br#"{"name":"Bob"}"#;
    let value = |key: &[u8]| key.ends_with(b"1").then(|| DOCUMENT.to_vec());
    let holds = |key: &[u8], when: &When| match when {
        When::Always => true,
        When::Absent => value(key).is_none(),
        When::Present => value(key).is_some(),
        When::Unchanged(wanted) => value(key).as_ref() == Some(wanted),
    };
    Ok(match command {
        Command::Get { key, .. } => Answer::Value(value(key)),
        Command::GetMany { keys, .. } => {
            Answer::Values(keys.iter().map(|key| Ok(value(key))).collect())
        }
        Command::Set { key, when, once, .. } if holds(key, when) => match once {
            None => Answer::Stored,
            Some(_) => Answer::Done { there: value(key).is_some() },
        },
        Command::Delete { key, when, once } if holds(key, when) => match once {
            None => Answer::Deleted(value(key).is_some()),
            Some(_) => Answer::Done { there: value(key).is_some() },
        },
        Command::Set { .. } | Command::Delete { .. } => Answer::Unmet,
        Command::Scan { prefix, .. } => {
            Answer::Page { keys: vec![([prefix, &b"1"[..]].concat(), None)], next: None }
        }
        Command::Ping => Answer::Pong,
        Command::Take { .. } => return Err(StoreError::Overloaded),
    })
}

fn chosen_id(head: &Head) -> Option<String> {
    let id = head.only("X-Request-Id")?;
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(is_fit);
    fits.then(|| id.to_owned())
}
