//! Field lines: one at a time, whole, and the names that the rules ask for (RFC 9112 §5).
//!
//! ```text
//! name ":" OWS value OWS CRLF     a field       CRLF     the end of the section
//! ```
//!
//! Headers and trailers share this, so neither is laxer than the other. A line that is not whole yet is judged as far
//! as it goes: what is wrong is said at the byte that is wrong, however the network has cut the line.

use super::ParseError;
use super::bytes::{TOKEN, VALUE, misplaced, run};

/// A whole line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// The end of the section: two bytes.
    Empty,
    /// A field of `len` bytes, its CRLF included, whose name is the first `name_len` of them; the colon comes next.
    Field { name_len: usize, len: usize },
}

/// Reads the line that `input` begins with; `None` when it is not whole.
///
/// With `full`, another field is refused at its first byte; the empty line may still come.
pub(super) fn line(input: &[u8], full: bool) -> Result<Option<Line>, ParseError> {
    match input.first() {
        None => return Ok(None),
        Some(b'\r') => return Ok(line_end(input)?.map(|_| Line::Empty)),
        Some(b' ' | b'\t') => return Err(ParseError::FoldedLine),
        Some(_) if full => return Err(ParseError::TooManyHeaders),
        Some(_) => {}
    }
    let name_len = run(input, TOKEN);
    match input.get(name_len) {
        None => return Ok(None),
        Some(b':') if name_len > 0 => {}
        Some(b' ' | b'\t') => return Err(ParseError::SpaceBeforeColon),
        Some(&byte) => return Err(misplaced(byte, ParseError::BadFieldName)),
    }
    let at = name_len + 1;
    let end = at + run(&input[at..], VALUE);
    match input.get(end) {
        None => Ok(None),
        Some(b'\r') => Ok(line_end(&input[end..])?.map(|n| Line::Field { name_len, len: end + n })),
        Some(&byte) => Err(misplaced(byte, ParseError::ControlByte)),
    }
}

/// The CRLF that `input`, whose first byte is CR, begins with.
pub(super) fn line_end(input: &[u8]) -> Result<Option<usize>, ParseError> {
    match input.get(1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(2)),
        Some(_) => Err(ParseError::BareCr),
    }
}

/// The fields that somebody here asks for: found once, while the head is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Field {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Expect,
    ContentType,
    ContentEncoding,
    ContentRange,
    IfMatch,
    IfNoneMatch,
    IdempotencyKey,
    RequestId,
    Traceparent,
    SecFetchSite,
    Origin,
}

impl Field {
    /// Its place in a set of fields.
    pub(super) fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The field called `name`, in any case.
    pub(super) fn of(name: &[u8]) -> Option<Field> {
        let candidates: &[(&[u8], Field)] = match name.len() {
            4 => &[(b"host", Field::Host)],
            6 => &[(b"expect", Field::Expect), (b"origin", Field::Origin)],
            8 => &[(b"if-match", Field::IfMatch)],
            10 => &[(b"connection", Field::Connection)],
            11 => &[(b"traceparent", Field::Traceparent)],
            12 => &[(b"content-type", Field::ContentType), (b"x-request-id", Field::RequestId)],
            13 => {
                &[(b"content-range", Field::ContentRange), (b"if-none-match", Field::IfNoneMatch)]
            }
            14 => &[
                (b"content-length", Field::ContentLength),
                (b"sec-fetch-site", Field::SecFetchSite),
            ],
            15 => &[(b"idempotency-key", Field::IdempotencyKey)],
            16 => &[(b"content-encoding", Field::ContentEncoding)],
            17 => &[(b"transfer-encoding", Field::TransferEncoding)],
            _ => return None,
        };
        candidates
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map(|(_, field)| *field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_or_wrong_or_not_there_yet() {
        let field = |name_len, len| Ok(Some(Line::Field { name_len, len }));
        for (whole, wanted) in [
            (&b"Host: a\r\n"[..], field(4, 9)),
            (b"Host:a\r\n", field(4, 8)),
            (b"!#$%&'*+-.^_`|~9: \r\n", field(16, 20)),
            (b"a:\t b \t\r\n", field(1, 9)),
            (b"a:\x80\xff\r\n", field(1, 6)),
            (b"a: b: c\r\n", field(1, 9)),
            (b"a:\r\n", field(1, 4)),
            (b"\r\n", Ok(Some(Line::Empty))),
        ] {
            assert_eq!(line(whole, false), wanted, "{:?}", whole.escape_ascii().to_string());
            assert_eq!(line(&[whole, b"\0\n x"].concat(), false), wanted);
            for n in 0..whole.len() {
                assert_eq!(line(&whole[..n], false), Ok(None), "{n}");
            }
        }
    }

    /// At the byte that is wrong, and not before.
    #[test]
    fn a_line_is_wrong_at_its_first_wrong_byte() {
        for (input, error) in [
            (&b"\rx"[..], ParseError::BareCr),
            (b"a: b\rx", ParseError::BareCr),
            (b"a: b\r\r", ParseError::BareCr),
            (b"a: b\n", ParseError::BareLf),
            (b"a\n", ParseError::BareLf),
            (b"\n", ParseError::BareLf),
            (b" ", ParseError::FoldedLine),
            (b"\t", ParseError::FoldedLine),
            (b"a ", ParseError::SpaceBeforeColon),
            (b"a\t", ParseError::SpaceBeforeColon),
            (b":", ParseError::BadFieldName),
            (b"a(", ParseError::BadFieldName),
            (b"\xc3", ParseError::BadFieldName),
            (b"a\r", ParseError::BadFieldName),
            (b"a\0", ParseError::ControlByte),
            (b"a: \0", ParseError::ControlByte),
            (b"a: \x7f", ParseError::ControlByte),
            (b"a: \x1b", ParseError::ControlByte),
        ] {
            let text = input.escape_ascii().to_string();
            assert_eq!(line(input, false), Err(error), "{text}");
            assert_eq!(line(&[input, b": c\r\n"].concat(), false), Err(error), "{text}");
            assert_eq!(line(&input[..input.len() - 1], false), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_full_section_takes_nothing_but_its_end() {
        assert_eq!(line(b"a", true), Err(ParseError::TooManyHeaders));
        assert_eq!(line(b"\r\nx", true), Ok(Some(Line::Empty)));
        assert_eq!(line(b"\r", true), Ok(None));
        assert_eq!(line(b"", true), Ok(None));
    }

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(Field::of(b"HOST"), Some(Field::Host));
        assert_eq!(Field::of(b"Sec-Fetch-Site"), Some(Field::SecFetchSite));
        assert_eq!(Field::of(b"hosts"), None);
        assert_eq!(Field::of(b"hosT "), None);
        assert_eq!(Field::of(b""), None);
    }
}
