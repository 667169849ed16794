//! One field line, `name ":" OWS value OWS CRLF`, or the empty line that ends a section
//! (RFC 9112 §5). Headers and trailers share it, so neither is laxer than the other.
//!
//! The scanner keeps no bytes, only where it stands in the line. It takes any number of bytes at a
//! time and stops behind each line end:
//!
//! ```text
//! Start ─▶ Name ─":"─▶ Value ─CR─▶ LineFeed ─LF─▶ Line::Field
//!    └────────────────CR─▶ EmptyLineFeed ─LF─▶ Line::Empty
//! ```

use super::bytes::{TOKEN, VALUE, misplaced, run};
use super::{Header, ParseError};

/// Where the scanner stands in the current line.
#[derive(Debug, Default)]
pub(super) struct FieldLine {
    state: State,
    name_len: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Start,
    Name,
    Value,
    LineFeed,
    EmptyLineFeed,
}

/// A finished line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// The end of the section.
    Empty,
    /// A field whose name is the line's first `name_len` bytes; the colon comes next.
    Field { name_len: usize },
}

impl FieldLine {
    /// Reads on to the end of the line. Gives the bytes taken, and the line once it is whole.
    ///
    /// With `full`, another field is refused at its first byte; the empty line may still come.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        full: bool,
    ) -> Result<(usize, Option<Line>), ParseError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Start => match byte {
                    b'\r' => {
                        self.state = State::EmptyLineFeed;
                        at += 1;
                    }
                    b' ' | b'\t' => return Err(ParseError::FoldedLine),
                    _ if full => return Err(ParseError::TooManyHeaders),
                    _ => self.state = State::Name,
                },
                State::Name => {
                    let len = run(&input[at..], TOKEN);
                    self.name_len += len;
                    at += len;
                    match input.get(at) {
                        None => break,
                        Some(b':') if self.name_len > 0 => self.state = State::Value,
                        Some(b' ' | b'\t') => return Err(ParseError::SpaceBeforeColon),
                        Some(&byte) => return Err(misplaced(byte, ParseError::BadFieldName)),
                    }
                    at += 1;
                }
                State::Value => {
                    at += run(&input[at..], VALUE);
                    match input.get(at) {
                        None => break,
                        Some(b'\r') => self.state = State::LineFeed,
                        Some(&byte) => return Err(misplaced(byte, ParseError::ControlByte)),
                    }
                    at += 1;
                }
                State::LineFeed if byte == b'\n' => {
                    let name_len = std::mem::take(self).name_len;
                    return Ok((at + 1, Some(Line::Field { name_len })));
                }
                State::EmptyLineFeed if byte == b'\n' => {
                    *self = FieldLine::default();
                    return Ok((at + 1, Some(Line::Empty)));
                }
                State::LineFeed | State::EmptyLineFeed => return Err(ParseError::BareCr),
            }
        }
        Ok((at, None))
    }
}

/// Makes the header of a whole, already accepted line, its CRLF included.
pub(super) fn to_header(line: &[u8], name_len: usize) -> Header {
    let value = line[name_len + 1..].trim_ascii();
    let header = if value.is_ascii() {
        Header::from_bytes(&line[..name_len], value)
    } else {
        Header::from_bytes(&line[..name_len], escape_obs_text(value))
    };
    header.expect("BUG: the name is a token and the value was made ASCII")
}

/// Prints each byte above ASCII as DEL and two digits.
///
/// Such bytes are legal but opaque (RFC 9110 §5.5), and tiny_http's `Header` is ASCII only. No rule
/// of ours matches them, so refusing the request would punish a harmless client, and dropping them
/// would make different values equal. Escaped, they differ wherever the bytes differ, and from
/// everything a sender can spell, because no value may hold DEL. At most, a value grows threefold.
fn escape_obs_text(value: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = Vec::with_capacity(value.len() * 3);
    for &byte in value {
        if byte.is_ascii() {
            escaped.push(byte);
        } else {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            escaped.extend_from_slice(&[0x7f, high, low]);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a line whole, byte by byte and with trailing bytes; all three must agree.
    fn scan(line: &[u8]) -> Result<Option<(usize, Line)>, ParseError> {
        let whole = |input: &[u8]| {
            let (taken, line) = FieldLine::default().advance(input, false)?;
            Ok(line.map(|line| (taken, line)))
        };
        let by_byte = || {
            let mut scanner = FieldLine::default();
            for (i, byte) in line.iter().enumerate() {
                if let (1, Some(line)) = scanner.advance(&[*byte], false)? {
                    return Ok(Some((i + 1, line)));
                }
            }
            Ok(None)
        };
        let result = whole(line);
        assert_eq!(by_byte(), result, "{line:?}");
        if result != Ok(None) {
            assert_eq!(whole(&[line, b"\0\n x".as_slice()].concat()), result);
        }
        result
    }

    #[test]
    fn accepts_and_refuses_lines_in_pairs() {
        use ParseError::*;
        let field = |name_len| Some(Line::Field { name_len });
        for (line, wanted) in [
            (&b"Host: a\r\n"[..], Ok(field(4))),
            (b"Host:a\r\n", Ok(field(4))),
            (b"!#$%&'*+-.^_`|~9: \r\n", Ok(field(16))),
            (b"a:\t b \t\r\n", Ok(field(1))),
            (b"a:\x80\xff\r\n", Ok(field(1))),
            (b"a: b: c\r\n", Ok(field(1))),
            (b"\r\n", Ok(Some(Line::Empty))),
            (b"a: b\r", Ok(None)),
            (b"\r", Ok(None)),
            (b" a: b", Err(FoldedLine)),
            (b"\ta: b", Err(FoldedLine)),
            (b": b", Err(BadFieldName)),
            (b"a b", Err(SpaceBeforeColon)),
            (b"a : b", Err(SpaceBeforeColon)),
            (b"a\t: b", Err(SpaceBeforeColon)),
            (b"a(b): c", Err(BadFieldName)),
            (b"\xc3\xa9: c", Err(BadFieldName)),
            (b"a\r\n", Err(BadFieldName)),
            (b"a\n", Err(BareLf)),
            (b"a\0: b", Err(ControlByte)),
            (b"a: \0", Err(ControlByte)),
            (b"a: \x7f", Err(ControlByte)),
            (b"a: \x1b[0m", Err(ControlByte)),
            (b"a: b\n", Err(BareLf)),
            (b"a: b\rc", Err(BareCr)),
            (b"a: b\r\r", Err(BareCr)),
            (b"\n", Err(BareLf)),
            (b"\ra", Err(BareCr)),
        ] {
            let result = scan(line).map(|found| found.map(|(_, line)| line));
            assert_eq!(result, wanted, "{:?}", line.escape_ascii().to_string());
        }
    }

    #[test]
    fn trims_white_space_and_escapes_obs_text() {
        for (line, value) in [
            (&b"a:\r\n"[..], ""),
            (b"a: \t \r\n", ""),
            (b"a: \tb  c\t \r\n", "b  c"),
            (b"a: caf\xc3\xa9\r\n", "caf\x7fC3\x7fA9"),
            (b"a: caf\xe9\r\n", "caf\x7fE9"),
            (b"a: 100%\r\n", "100%"),
        ] {
            assert_eq!(to_header(line, 1).value.as_str(), value);
        }
    }
}
