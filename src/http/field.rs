//! Field lines, one complete line at a time, and the names that the rules use (RFC 9112 §5).
//!
//! ```text
//! name ":" OWS value OWS CRLF     a field       CRLF     the end of the section
//! ```
//!
//! Headers and trailers share this, so neither is laxer than the other. An incomplete line is checked as far as it
//! goes: an error is reported at the byte that causes it, however the network has cut the line.

use super::ParseError;
use super::bytes::{TOKEN, misplaced, run, run_of_value};

/// The end of a line; alone, the end of the section.
pub(super) const LINE_END: &[u8] = b"\r\n";

/// Splits off the field that `input` begins with: its name, its value, and the bytes behind its line. The value is
/// everything between colon and CRLF, white space included. `None` for anything else: the [`LINE_END`] of the section,
/// or input for [`fault`].
///
/// Always inlined: through a call, all three would go through memory for each field.
#[inline(always)]
pub(super) fn split(input: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = input.split_at(run(input, TOKEN));
    let rest = rest.strip_prefix(b":").filter(|_| !name.is_empty())?;
    let (value, rest) = rest.split_at(run_of_value(rest));
    Some((name, value, rest.strip_prefix(LINE_END)?))
}

/// The error of a line that is neither a field nor the end of the section; `None` if it is only incomplete.
///
/// With `full`, another field is refused at its first byte.
pub(super) fn fault(input: &[u8], full: bool) -> Option<ParseError> {
    let (name, rest) = input.split_at(run(input, TOKEN));
    match (input.first()?, rest.first()) {
        (b'\r', _) => line_end(input).err(),
        (b' ' | b'\t', _) => Some(ParseError::FoldedLine),
        _ if full => Some(ParseError::TooManyHeaders),
        (_, Some(b':')) if !name.is_empty() => {
            let rest = &rest[1..];
            match &rest[run_of_value(rest)..] {
                [] => None,
                line_break @ [b'\r', ..] => line_end(line_break).err(),
                [byte, ..] => Some(misplaced(*byte, ParseError::ControlByte)),
            }
        }
        (_, Some(b' ' | b'\t')) => Some(ParseError::SpaceBeforeColon),
        (_, Some(&byte)) => Some(misplaced(byte, ParseError::BadFieldName)),
        (_, None) => None,
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

/// The bit in which `A` and `a` differ. No two bytes of a token become the same letter or hyphen with it.
const CASE: u8 = 0x20;

/// The fields that the code uses: found once, while the head is parsed.
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
    Authorization,
    ForwardedFor,
    RequestMethod,
}

impl Field {
    /// Its position in a set of fields.
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The field called `name`, a token, in any case.
    #[inline(always)] // once for each field of each request
    pub(super) fn of(name: &[u8]) -> Option<Field> {
        // Length and first letter leave one candidate, and for most names none.
        let (known, field): (&[u8], Field) = match (name.len(), name.first()? | CASE) {
            (4, b'h') => (b"host", Field::Host),
            (6, b'e') => (b"expect", Field::Expect),
            (6, b'o') => (b"origin", Field::Origin),
            (8, b'i') => (b"if-match", Field::IfMatch),
            (10, b'c') => (b"connection", Field::Connection),
            (11, b't') => (b"traceparent", Field::Traceparent),
            (12, b'c') => (b"content-type", Field::ContentType),
            (12, b'x') => (b"x-request-id", Field::RequestId),
            (13, b'a') => (b"authorization", Field::Authorization),
            (13, b'c') => (b"content-range", Field::ContentRange),
            (13, b'i') => (b"if-none-match", Field::IfNoneMatch),
            (14, b'c') => (b"content-length", Field::ContentLength),
            (14, b's') => (b"sec-fetch-site", Field::SecFetchSite),
            (15, b'i') => (b"idempotency-key", Field::IdempotencyKey),
            (15, b'x') => (b"x-forwarded-for", Field::ForwardedFor),
            (16, b'c') => (b"content-encoding", Field::ContentEncoding),
            (17, b't') => (b"transfer-encoding", Field::TransferEncoding),
            (29, b'a') => (b"access-control-request-method", Field::RequestMethod),
            _ => return None,
        };
        let is_known = name.iter().zip(known).all(|(byte, known)| byte | CASE == *known);
        is_known.then_some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_whole_or_not_there_yet() {
        for (whole, name, value) in [
            (&b"Host: a\r\n"[..], &b"Host"[..], &b" a"[..]),
            (b"Host:a\r\n", b"Host", b"a"),
            (b"!#$%&'*+-.^_`|~9: \r\n", b"!#$%&'*+-.^_`|~9", b" "),
            (b"a:\t b \t\r\n", b"a", b"\t b \t"),
            (b"a:\x80\xff\r\n", b"a", b"\x80\xff"),
            (b"a: b: c\r\n", b"a", b" b: c"),
            (b"a:\r\n", b"a", b""),
            (
                b"A-Long-Name-Of-A-Field: \xc3\xa9\twith a long value\r\n",
                b"A-Long-Name-Of-A-Field",
                b" \xc3\xa9\twith a long value",
            ),
        ] {
            assert_eq!(split(whole), Some((name, value, &b""[..])), "{}", whole.escape_ascii());
            let trailed = [whole, b"\0\n x"].concat();
            assert_eq!(split(&trailed), Some((name, value, &b"\0\n x"[..])));
            for n in 0..whole.len() {
                assert_eq!((split(&whole[..n]), fault(&whole[..n], false)), (None, None), "{n}");
            }
        }
        assert_eq!((split(LINE_END), split(b"\r"), fault(b"\r", false)), (None, None, None));
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
            (b"a: long enough for eight at a time\x7f", ParseError::ControlByte),
        ] {
            let text = input.escape_ascii().to_string();
            for (input, error) in [
                (input, Some(error)),
                (&[input, b": c\r\n"].concat(), Some(error)),
                (&input[..input.len() - 1], None),
            ] {
                assert_eq!((split(input), fault(input, false)), (None, error), "{text}");
            }
        }
    }

    #[test]
    fn a_full_section_takes_nothing_but_its_end() {
        assert_eq!(fault(b"a", true), Some(ParseError::TooManyHeaders));
        assert_eq!(fault(b"a: b\r\n", true), Some(ParseError::TooManyHeaders));
        assert_eq!(fault(b"\r", true), None);
        assert_eq!(fault(b"", true), None);
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
