//! What must come back for some bytes, read the slow way: one byte after the other.
//!
//! The model knows nothing of buffers, phases and readiness. It asks the same service the same
//! questions, and for it the store is a table that nobody can write to (`Given`).

use kioskd::front::Options;
use kioskd::http::{
    ChunkedDecoder, Field, Framing, Head, HeadIndex, Method, ParseError, Parsed, parse,
};
use kioskd::service::step::{Cx, Step};
use kioskd::service::{Route, Service};
use kioskd::store::{Answer, Command, Found, Key, Page, Replies, Reply, StoreError, Tag, When};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

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
    while let Some(index) = read_head(input, at, options, &mut all) {
        let n = all.len();
        let is_whole = |body: Range<usize>| body.end <= input.len() && is_whole(n, body);
        let head = Head::new(&index, &input[at..]);
        let body_at = at + index.len();
        let (mut response, next) = answer(&head, input, body_at, service, options, &is_whole);
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

/// The head that begins at `at`. Without one, `all` gets what is to be said.
fn read_head(
    input: &[u8],
    at: usize,
    options: &Options,
    all: &mut Vec<Expected>,
) -> Option<HeadIndex> {
    for end in at + 1..=input.len() {
        match parse(&input[at..end], &options.head) {
            Ok(Parsed::More { .. }) => {}
            Ok(Parsed::Whole(index)) => return Some(index),
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
        // The word ends at white space or a control, not at what one can see.
        Some(next) => next <= ' ' || next == '\x7f',
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
        head_only: head.method() == Method::Head,
        closes: false,
        may_continue: false,
        request_id: chosen_id(head),
    };
    let cx = |body| Cx { head: *head, body, options: service.options(), token: None };
    let has_body = head.framing() != Framing::Length(0);
    let admitted = service.admit(head).and_then(|route| {
        if has_body {
            service.check(route, &cx(b""))?;
        }
        Ok(route)
    });
    let route = match admitted {
        Ok(route) => route,
        Err(problem) => {
            response.status = problem.status;
            let next = dropped(head)
                .and_then(|length| body_at.checked_add(length))
                .filter(|&end| end == body_at || is_whole(body_at..end));
            response.closes = next.is_none();
            return (response, next);
        }
    };
    response.may_continue = has_body && head.expects_continue();
    match read_body(head.framing(), &input[body_at..], options.body_bytes_max) {
        Body::Whole(body, length) => {
            response.due_at = body_at + length;
            response.status = status(service, route, &cx(&body));
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
    match head.framing() {
        Framing::Length(0) => Some(0),
        // A client that expects anything may keep its body to itself.
        Framing::Length(n) if !head.has(Field::Expect) => usize::try_from(n).ok(),
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
    let mut at = 0;
    for end in 1..=input.len() {
        match decoder.decode(&input[at..end], &mut body, body_bytes_max) {
            Ok((taken, false)) => at += taken,
            Ok((_, true)) => return Body::Whole(body, end),
            Err(error) => return Body::Bad(error, end),
        }
    }
    Body::Unfinished
}

fn status(service: &Service, route: Route, cx: &Cx) -> u16 {
    // What a step borrows of the answer stays until the next one.
    let mut replies;
    let mut outcome = service.perform(route, cx, Instant::now());
    loop {
        outcome = match outcome {
            Ok(Step::Done(response)) => return response.status,
            Err(problem) => return problem.status,
            Ok(Step::Ask(command, next)) => {
                let mut given = Replies::default();
                Given::to(&command).push(0, &mut given);
                replies = given;
                let (_, reply) = replies.iter().next().expect("one was given");
                next(cx, reply)
            }
        }
    }
}

/// The answer of the store of these tests.
pub enum Given {
    /// One with no bytes but those of `DOCUMENT`.
    Plain(Reply<'static>),
    /// `Answer::Page`, the only one.
    Page(Vec<(Vec<u8>, Option<Duration>)>),
    /// `Answer::Values`.
    Values(Vec<Found>),
}

impl Given {
    /// A function of the question: under every key that ends in `1` there is `DOCUMENT`, under the others nothing, and
    /// no write changes that.
    pub fn to(command: &Command) -> Given {
        const DOCUMENT: &[u8] = br#"{"name":"Bob"}"#;
        let value = |key: &[u8]| key.ends_with(b"1").then_some(DOCUMENT);
        let there = |key: &Key| value(&key.to_vec()).is_some();
        let holds = |key: &Key, when: &When| match when {
            When::Always => true,
            When::Absent => !there(key),
            When::Present => there(key),
            When::Unchanged(wanted) => value(&key.to_vec()) == Some(&**wanted),
        };
        Given::Plain(Ok(match command {
            Command::Get { key, .. } => Answer::Value(value(&key.to_vec())),
            Command::GetMany { keys, .. } => {
                let values = keys.iter().map(|key| Ok(value(key).map(<[u8]>::to_vec)));
                return Given::Values(values.collect());
            }
            Command::Set { key, when, once, .. } if holds(key, when) => match once {
                None => Answer::Stored,
                Some(_) => Answer::Done { there: there(key) },
            },
            Command::Delete { key, when, once } if holds(key, when) => match once {
                None => Answer::Deleted(there(key)),
                Some(_) => Answer::Done { there: there(key) },
            },
            Command::Set { .. } | Command::Delete { .. } => Answer::Unmet,
            Command::Scan { prefix, .. } => {
                return Given::Page(vec![([&prefix.to_vec()[..], b"1"].concat(), None)]);
            }
            Command::DeleteMany { keys } => Answer::Removed(keys.len()),
            Command::Ping => Answer::Pong,
            Command::Take { .. } => return Given::Plain(Err(StoreError::Overloaded)),
        }))
    }

    /// Adds it to what is finished.
    pub fn push(self, tag: Tag, replies: &mut Replies) {
        match self {
            Given::Plain(reply) => replies.push(tag, reply),
            Given::Page(keys) => {
                replies.push(tag, Ok(Answer::Page(Rc::new(Page { keys, next: None }))))
            }
            Given::Values(values) => replies.push(tag, Ok(Answer::Values(values.into()))),
        }
    }
}

fn chosen_id(head: &Head) -> Option<String> {
    let id = head.only(Field::RequestId)?;
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = (1..=128).contains(&id.len()) && id.iter().all(is_fit);
    fits.then(|| id.iter().copied().map(char::from).collect())
}
