//! Reads one RESP line: the type byte, the text after it, and CRLF.
//!
//! ```text
//! $5\r\nhello\r\n
//! ^^       the line: type `$`, text `5`
//! ```
//!
//! The grammar is narrower than most clients': bytes that no Redis server sends are refused, because a stream that
//! contains them is more likely out of step than creative. Numbers have no `+`, no space and no leading zero; a bare CR
//! or LF inside a line ends the connection; streamed lengths (`$?`), which no released server sends, are refused.
//!
//! Of the types of RESP3 those that no command of ours is answered with are read as what they resemble: a map and a set
//! as an array, a double, a boolean and a big number as their text, a verbatim string as a bulk string. So a server may
//! send them, and nobody has to care.
//!
//! Types: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. What the values mean for a reply, and all
//! limits on the reply as a whole, are in `codec`.

use super::protocol_error::ProtocolError;
use super::value::{ERROR_MESSAGE_BYTES_MAX, ErrorReply, Reply};

/// The content of one line.
#[derive(Debug, PartialEq)]
pub(super) enum Header {
    /// The line is the whole value.
    Value(Reply),
    /// A payload of this many bytes and a CRLF follow.
    Bulk(BulkKind, u64),
    /// This many elements follow; a pair counts as two.
    Aggregate(AggregateKind, u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BulkKind {
    String,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AggregateKind {
    Array,
    Push,
    Attribute,
}

/// Most bytes between the type byte and CRLF. A length or integer needs 20; 64 is generous.
const TEXT_BYTES_MAX: usize = 64;

/// The longest text a line of this type may have; `None` if there is no such type.
/// `status_bytes_max` is the limit of what is text.
pub(super) fn text_bytes_max(kind: u8, status_bytes_max: usize) -> Option<usize> {
    match kind {
        b'+' | b'-' | b',' | b'(' | b'#' => Some(status_bytes_max),
        b':' | b'$' | b'*' | b'%' | b'~' | b'>' | b'|' | b'=' | b'!' | b'_' => Some(TEXT_BYTES_MAX),
        _ => None,
    }
}

/// Finds the end of the line that starts `input` with type byte `kind`: the length of its text, or `None` while CRLF
/// has not arrived.
///
/// `scanned` is how much of the line an earlier call has searched, type byte included, and is updated: a line that
/// arrives a byte at a time is still scanned once.
pub(super) fn find_line_end(
    input: &[u8],
    scanned: &mut usize,
    kind: u8,
    text_bytes_max: usize,
) -> Result<Option<usize>, ProtocolError> {
    const AFTER_KIND: usize = 1;
    let shown = || kind.escape_ascii();
    let bare =
        || Err(ProtocolError(format!("saw a CR or LF that is no CRLF in a `{}` line", shown())));
    let from = (*scanned).max(AFTER_KIND).min(input.len());
    // The byte after the longest text must be the CR, so there is no reason to look further.
    let window = &input[from..input.len().min(AFTER_KIND + text_bytes_max + 1)];
    match window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(offset) if window[offset] == b'\n' => bare(),
        Some(offset) => {
            let cr = from + offset;
            *scanned = cr;
            match input.get(cr + 1) {
                Some(b'\n') => Ok(Some(cr - AFTER_KIND)),
                Some(_) => bare(),
                None => Ok(None),
            }
        }
        None if input.len() > AFTER_KIND + text_bytes_max => Err(ProtocolError(format!(
            "saw a `{}` line of more than {text_bytes_max} bytes",
            shown()
        ))),
        None => {
            *scanned = input.len();
            Ok(None)
        }
    }
}

/// Parses a whole line.
pub(super) fn parse_line(kind: u8, text: &[u8]) -> Result<Header, ProtocolError> {
    let bad = || {
        let (text, kind) = (text[..text.len().min(16)].escape_ascii(), kind.escape_ascii());
        ProtocolError(format!("saw `{text}`, which a `{kind}` line cannot say"))
    };
    let length = || parse_integer(text).and_then(|n| u64::try_from(n).ok()).ok_or_else(bad);
    let aggregate = |kind, each: u64| Ok(Header::Aggregate(kind, length()?.saturating_mul(each)));
    let value = |reply: Option<Reply>| reply.map(Header::Value).ok_or_else(bad);
    match kind {
        b'$' | b'*' if text == b"-1" => Ok(Header::Value(Reply::Null)),
        b'$' | b'=' => Ok(Header::Bulk(BulkKind::String, length()?)),
        b'!' => Ok(Header::Bulk(BulkKind::Error, length()?)),
        b'*' | b'~' => aggregate(AggregateKind::Array, 1),
        b'%' => aggregate(AggregateKind::Array, 2),
        b'>' => aggregate(AggregateKind::Push, 1),
        b'|' => aggregate(AggregateKind::Attribute, 2),
        b'+' if text == b"OK" => value(Some(Reply::Ok)),
        b'+' | b',' | b'(' | b'#' => {
            let kept = text.len().min(ERROR_MESSAGE_BYTES_MAX);
            value(Some(Reply::Simple(text[..kept].to_vec())))
        }
        b'-' => value(Some(Reply::Error(ErrorReply::parse(text)))),
        b':' => value(parse_integer(text).map(Reply::Integer)),
        b'_' => value(text.is_empty().then_some(Reply::Null)),
        byte => Err(unknown_type(byte)),
    }
}

/// A byte that should have begun a value, and does not.
pub(super) fn unknown_type(byte: u8) -> ProtocolError {
    let byte = byte.escape_ascii();
    ProtocolError(format!("expected a reply and saw `{byte}`, which begins none"))
}

/// Whether the CRLF after a bulk has arrived. A wrong byte is refused as soon as it arrives.
pub(super) fn is_bulk_ended(after: &[u8]) -> Result<bool, ProtocolError> {
    match after {
        [] | [b'\r'] => Ok(false),
        [b'\r', b'\n', ..] => Ok(true),
        [b'\r', byte, ..] | [byte, ..] => {
            let byte = byte.escape_ascii();
            Err(ProtocolError(format!("expected CRLF after a bulk and saw `{byte}`")))
        }
    }
}

/// Optional `-`, then 1–19 digits without a leading zero, within i64. `-0` is not a number either.
fn parse_integer(text: &[u8]) -> Option<i64> {
    match text {
        b"0" => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Accepted and refused texts of each type stand side by side: moving one to the other column
    // is a change of grammar.
    #[test]
    fn accepts_and_refuses_the_texts_of_each_type() {
        type Row = (u8, &'static [&'static str], &'static [&'static str]);
        let grammar: &[Row] = &[
            (
                b':',
                &["0", "1", "-1", "10", "9223372036854775807", "-9223372036854775808"],
                &[
                    "",
                    "-",
                    "+5",
                    " 5",
                    "5 ",
                    "05",
                    "-05",
                    "-0",
                    "00",
                    "5a",
                    "1.0",
                    "0x1",
                    "9223372036854775808",
                    "-9223372036854775809",
                    "12345678901234567890",
                ],
            ),
            (
                b'$',
                &["-1", "0", "5", "9223372036854775807"],
                &["", "-2", "+5", " 5", "05", "-0", "-01", "?", "9223372036854775808"],
            ),
            (
                b'*',
                &["-1", "0", "5", "4294967295"],
                &["", "-2", "+5", " 5", "05", "?", "9223372036854775808"],
            ),
            (b'%', &["0", "7", "9223372036854775807"], &["", "-1", "-2", "+1", "01", "?"]),
            (b'~', &["0", "7"], &["", "-1", "+1", "01", "?"]),
            (b'>', &["0", "7"], &["", "-1", "+1", "01", "?"]),
            (b'|', &["0", "7"], &["", "-1", "+1", "01", "?"]),
            (b'=', &["0", "4", "40"], &["", "-1", "+4", "04", "?"]),
            (b'!', &["0", "21"], &["", "-1", "+1", "021", "?"]),
            (b'_', &[""], &[" ", "0", "null"]),
            (b'#', &["t", "f"], &[]),
            (b',', &["3.141", "1e+20", "inf"], &[]),
            (b'(', &["1234567999999999999999999999999999999"], &[]),
            (b'+', &["", "OK", "any text \u{1}"], &[]),
            (b'-', &["", "ERR", "any text"], &[]),
        ];
        for (kind, accepted, refused) in grammar {
            for text in *accepted {
                let parsed = parse_line(*kind, text.as_bytes());
                assert!(parsed.is_ok(), "{}{text}: {parsed:?}", char::from(*kind));
            }
            for text in *refused {
                let parsed = parse_line(*kind, text.as_bytes());
                assert!(parsed.is_err(), "{}{text}: {parsed:?}", char::from(*kind));
            }
        }
    }

    #[test]
    fn errors_say_what_was_seen_and_little_of_it() {
        let error = parse_line(b'$', b"\x1b[31m and a long rest").unwrap_err();
        assert_eq!(error.to_string(), r"saw `\x1b[31m and a long`, which a `$` line cannot say");
    }

    #[test]
    fn reads_numbers_at_the_edges() {
        for number in [0, 1, -1, 9, 10, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1] {
            assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number));
        }
    }

    #[test]
    fn knows_exactly_the_type_bytes_of_resp2_and_resp3() {
        let known: Vec<u8> = (0..=255).filter(|&byte| text_bytes_max(byte, 1).is_some()).collect();
        assert_eq!(known, b"!#$%(*+,-:=>_|~");
        for byte in 0..=255 {
            let refused = parse_line(byte, b"") == Err(unknown_type(byte));
            assert_eq!(refused, !known.contains(&byte), "{byte}");
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_its_limit() {
        for (kind, limit) in [(b'+', 100), (b'-', 100), (b':', 64), (b',', 100), (b'$', 64)] {
            assert_eq!(text_bytes_max(kind, 100), Some(limit));
            for length in [limit - 1, limit] {
                let mut line = vec![b'1'; length + 1];
                line.extend_from_slice(b"\r\n");
                assert_eq!(find_line_end(&line, &mut 0, kind, limit), Ok(Some(length)));
                let cut = &line[..length + 1];
                assert_eq!(find_line_end(cut, &mut 0, kind, limit), Ok(None));
            }
            let long = vec![b'1'; limit + 2];
            let kind_shown = char::from(kind);
            let refused =
                ProtocolError(format!("saw a `{kind_shown}` line of more than {limit} bytes"));
            assert_eq!(find_line_end(&long, &mut 0, kind, limit), Err(refused));
        }
    }
}
