//! `http::parse` on any bytes.
//!
//! - The outcome, be it a head or an error, is the same in every cut, and it is there at the first
//!   byte that decides it: bytes behind that one change nothing.
//! - An accepted head is clean, looked at with other eyes: every line ends in CRLF, no CR, LF or
//!   control byte stands elsewhere, a 1.1 request has one `Host`, no length stands beside a coding.
//! - It is within the limits, a known field is found by its name, and printed plainly it is read as the same
//!   head again.

use super::all_cuts;
use kioskd::http::{Field, Framing, Head, HeadIndex, HeadLimits, ParseError, Parsed, parse};

type Outcome = Result<Option<HeadIndex>, ParseError>;

/// Panics if a claim does not hold for `input`.
pub fn check(input: &[u8]) {
    check_within(input, &HeadLimits::default());
    // Met by inputs of a few hundred bytes.
    let small = HeadLimits { head_bytes_max: 256, target_bytes_max: 40, headers_max: 5 };
    check_within(input, &small);
}

fn check_within(input: &[u8], limits: &HeadLimits) {
    let (whole, _) = read(input, &[input.len()], limits);
    for ends in all_cuts(input.len(), input.len() as u64) {
        let (cut, _) = read(input, &ends, limits);
        assert_eq!(text(&cut), text(&whole), "{}", input.escape_ascii());
    }
    let by_byte: Vec<usize> = (1..=input.len()).collect();
    let (_, decided_at) = read(input, &by_byte, limits);
    if let Ok(Some(index)) = &whole {
        assert_eq!(index.len(), decided_at, "{}", input.escape_ascii());
        let head = Head::new(index, input);
        assert_is_clean(&head, &input[..index.len()], limits);
        assert_reads_back(&head);
    }
    if whole.is_err() {
        let before = &input[..decided_at];
        let (outcome, _) = read(before, &[before.len()], limits);
        assert_eq!(text(&outcome), text(&whole), "{}", input.escape_ascii());
    }
}

/// Parses `input` up to each of `ends`; gives the first outcome and where it came.
fn read(input: &[u8], ends: &[usize], limits: &HeadLimits) -> (Outcome, usize) {
    for &end in ends {
        match parse(&input[..end], limits) {
            Ok(Parsed::More { .. }) => {}
            Ok(Parsed::Whole(index)) => return (Ok(Some(index)), end),
            Err(error) => return (Err(error), end),
        }
    }
    (Ok(None), input.len())
}

/// Indices do not compare, their debug texts do.
fn text(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}

fn assert_is_clean(head: &Head, bytes: &[u8], limits: &HeadLimits) {
    let shown = bytes.escape_ascii();
    assert!(bytes.len() <= limits.head_bytes_max, "{shown}");
    assert!(head.fields().count() <= limits.headers_max, "{shown}");
    assert!(head.target_text().len() <= limits.target_bytes_max, "{shown}");
    assert!(bytes.ends_with(b"\r\n\r\n"), "{shown}");

    let text: Vec<&[u8]> = lines(bytes);
    let fields = text.len() - 2;
    assert_eq!(head.fields().count(), fields, "{shown}");
    for line in &text {
        let is_control = |&byte: &u8| byte != b'\t' && byte.is_ascii_control();
        assert!(!line.iter().any(is_control), "{shown}");
    }
    for line in &text[1..=fields] {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let is_plain = |&byte: &u8| byte.is_ascii_graphic();
        assert!(
            !name.is_empty() && name.len() < line.len() && name.iter().all(is_plain),
            "{shown}"
        );
    }

    let number_of = |name: &str| {
        head.fields().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).count()
    };
    for (name, field) in KNOWN {
        let number = number_of(name);
        assert_eq!(head.all(field).count(), number, "{name} of {shown}");
        assert_eq!((head.has(field), head.is_repeated(field)), (number > 0, number > 1), "{shown}");
    }
    assert!(number_of("Host") <= 1, "{shown}");
    assert!(head.is_http_1_0() || number_of("Host") == 1, "{shown}");
    let wanted = match head.framing() {
        Framing::Chunked => (0, 1),
        Framing::Length(_) => (number_of("Content-Length").min(1), 0),
    };
    let found = (number_of("Content-Length"), number_of("Transfer-Encoding"));
    assert_eq!(found, wanted, "{shown}");
}

/// The fields that an index has a bit for.
const KNOWN: [(&str, Field); 15] = [
    ("Host", Field::Host),
    ("Connection", Field::Connection),
    ("Content-Length", Field::ContentLength),
    ("Transfer-Encoding", Field::TransferEncoding),
    ("Expect", Field::Expect),
    ("Content-Type", Field::ContentType),
    ("Content-Encoding", Field::ContentEncoding),
    ("Content-Range", Field::ContentRange),
    ("If-Match", Field::IfMatch),
    ("If-None-Match", Field::IfNoneMatch),
    ("Idempotency-Key", Field::IdempotencyKey),
    ("X-Request-Id", Field::RequestId),
    ("Traceparent", Field::Traceparent),
    ("Sec-Fetch-Site", Field::SecFetchSite),
    ("Origin", Field::Origin),
];

/// The lines of a head without their CRLF and without the empty ones before the request: request
/// line, fields, and the empty line that ends it.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        if end > 0 || !lines.is_empty() {
            lines.push(&rest[..end]);
        }
        rest = &rest[end + 2..];
    }
    assert!(rest.is_empty(), "{}", bytes.escape_ascii());
    lines
}

fn assert_reads_back(head: &Head) {
    let minor = if head.is_http_1_0() { b"0" } else { b"1" };
    let mut printed =
        [head.method_text(), b" ", head.target_text(), b" HTTP/1.", minor, b"\r\n"].concat();
    for (name, value) in head.fields() {
        // White space at the ends is gone.
        printed.extend([name, b":", value, b"\r\n"].concat());
    }
    printed.extend(b"\r\n");
    let limits = HeadLimits { head_bytes_max: printed.len() + 1, ..HeadLimits::default() };
    let (again, _) = read(&printed, &[printed.len()], &limits);
    let shown = printed.escape_ascii();
    let Ok(Some(again)) = again else { panic!("{again:?} of {shown}") };
    assert_eq!(again.len(), printed.len(), "{shown}");
    assert_eq!(parts(&Head::new(&again, &printed)), parts(head), "{shown}");
}

/// All there is to know of a head but where it lies.
fn parts<'a>(head: &Head<'a>) -> impl PartialEq + std::fmt::Debug + use<'a> {
    let target = (head.target_text(), head.path(), head.query_text(), head.authority());
    let fields: Vec<_> = head.fields().collect();
    let is = (head.is_http_1_0(), head.is_asterisk(), head.keep_alive(), head.expects_continue());
    (head.method(), head.method_text(), target, fields, head.framing(), is)
}
