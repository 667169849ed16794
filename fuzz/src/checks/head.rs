//! `HeadParser` on any bytes.
//!
//! - The outcome, be it a head or an error, is the same in every cut, and it is there at the first
//!   byte that decides it: bytes behind that one change nothing.
//! - An accepted head is clean, looked at with other eyes: every line ends in CRLF, no CR, LF or
//!   control byte stands elsewhere, a 1.1 request has one `Host`, no length stands beside a coding.
//! - It is within the limits, and printed plainly it is read as the same head again.

use super::all_cuts;
use kioskd::http::{Framing, Head, HeadLimits, HeadParser, ParseError};

type Outcome = Result<Option<(Head, usize)>, ParseError>;

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
    if let Ok(Some((head, length))) = &whole {
        assert_eq!(*length, decided_at, "{}", input.escape_ascii());
        assert_is_clean(head, &input[..*length], limits);
        assert_reads_back(head);
    }
    if whole.is_err() {
        let before = &input[..decided_at];
        let (outcome, _) = read(before, &[before.len()], limits);
        assert_eq!(text(&outcome), text(&whole), "{}", input.escape_ascii());
    }
}

/// Shows the parser `input` up to each of `ends`; gives the first outcome and where it came.
fn read(input: &[u8], ends: &[usize], limits: &HeadLimits) -> (Outcome, usize) {
    let mut parser = HeadParser::new();
    for &end in ends {
        match parser.parse(&input[..end], limits) {
            Ok(None) => {}
            outcome => return (outcome, end),
        }
    }
    (Ok(None), input.len())
}

/// Heads do not compare, their debug texts do.
fn text(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}

fn assert_is_clean(head: &Head, bytes: &[u8], limits: &HeadLimits) {
    let shown = bytes.escape_ascii();
    assert!(bytes.len() <= limits.head_bytes_max, "{shown}");
    assert!(head.headers.len() <= limits.headers_max, "{shown}");
    assert!(head.target.as_str().len() <= limits.target_bytes_max, "{shown}");
    assert!(bytes.ends_with(b"\r\n\r\n"), "{shown}");

    let text: Vec<&[u8]> = lines(bytes);
    let fields = text.len() - 2;
    assert_eq!(head.headers.len(), fields, "{shown}");
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

    let number_of = |name: &str| head.all(name).count();
    assert!(number_of("Host") <= 1, "{shown}");
    assert!(head.version < (1, 1) || number_of("Host") == 1, "{shown}");
    let wanted = match head.framing {
        Framing::Chunked => (0, 1),
        Framing::Length(_) => (number_of("Content-Length").min(1), 0),
    };
    let found = (number_of("Content-Length"), number_of("Transfer-Encoding"));
    assert_eq!(found, wanted, "{shown}");
}

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
    let version = &head.version;
    let mut printed =
        format!("{} {} HTTP/{}.{}\r\n", head.method, head.target.as_str(), version.0, version.1);
    for header in &head.headers {
        printed.push_str(&format!("{}:{}\r\n", header.field, header.value));
    }
    printed.push_str("\r\n");
    // White space at the ends is gone.
    let printed = unescaped(printed.as_bytes());
    let limits = HeadLimits { head_bytes_max: printed.len() + 1, ..HeadLimits::default() };
    let (again, _) = read(&printed, &[printed.len()], &limits);
    let wanted = Ok(Some((head.clone(), printed.len())));
    assert_eq!(text(&again), text(&wanted), "{}", printed.escape_ascii());
}

/// DEL and two digits stand for a byte above ASCII.
fn unescaped(printed: &[u8]) -> Vec<u8> {
    let mut pieces = printed.split(|byte| *byte == 0x7f);
    let mut bytes = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let digits = std::str::from_utf8(&piece[..2]).expect("two digits");
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        bytes.extend_from_slice(&piece[2..]);
    }
    bytes
}
