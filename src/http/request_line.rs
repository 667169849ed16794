//! The request line, `method SP target SP "HTTP/" DIGIT "." DIGIT CRLF` (RFC 9112 §3).
//!
//! RFC 9112 lets a server split on any white space; we do not, because two servers that split
//! differently see different targets. What is wrong with a byte is said at that byte; what the
//! parts mean is judged at the line end, version first, so that the HTTP/2 preface
//! `PRI * HTTP/2.0` is a version we do not speak (505) and not a strange target (400).

use super::bytes::{TARGET, TOKEN, misplaced, run};
use super::{HTTPVersion, HeadLimits, Method, ParseError, Target};
use std::str::FromStr;

/// The longest registered method, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Where the scanner stands in the line; the bytes stay with the caller.
#[derive(Debug, Default)]
pub(super) struct RequestLine {
    part: Part,
    method_len: usize,
    target_len: usize,
}

#[derive(Debug, Default)]
enum Part {
    #[default]
    Method,
    Target,
    /// How many bytes of the version have been seen.
    Version(u8),
    LineFeed,
}

impl RequestLine {
    /// Reads on to the end of the line. Gives the bytes taken, and whether the line is whole.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
    ) -> Result<(usize, bool), ParseError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.part {
                Part::Method => {
                    let len = run(&input[at..], TOKEN);
                    self.method_len += len;
                    at += len;
                    if self.method_len > METHOD_BYTES_MAX {
                        return Err(ParseError::MethodTooLong);
                    }
                    match input.get(at) {
                        None => break,
                        Some(b' ') if self.method_len > 0 => self.part = Part::Target,
                        Some(b'\r') => return Err(ParseError::BadRequestLine),
                        Some(&byte) => return Err(misplaced(byte, ParseError::BadMethod)),
                    }
                }
                Part::Target => {
                    let len = run(&input[at..], TARGET);
                    self.target_len += len;
                    at += len;
                    if self.target_len > limits.target_bytes_max {
                        return Err(ParseError::UriTooLong);
                    }
                    match input.get(at) {
                        None => break,
                        Some(b' ') if self.target_len > 0 => self.part = Part::Version(0),
                        Some(b' ' | b'\r') => return Err(ParseError::BadRequestLine),
                        Some(&byte) => return Err(misplaced(byte, ParseError::BadTarget)),
                    }
                }
                Part::Version(seen) => {
                    self.part = match (seen, byte) {
                        (0, b'H') | (1 | 2, b'T') | (3, b'P') | (4, b'/') => {
                            Part::Version(seen + 1)
                        }
                        (5 | 7, b'0'..=b'9') | (6, b'.') => Part::Version(seen + 1),
                        (8, b'\r') => Part::LineFeed,
                        _ => return Err(misplaced(byte, ParseError::BadVersion)),
                    }
                }
                Part::LineFeed if byte == b'\n' => return Ok((at + 1, true)),
                Part::LineFeed => return Err(ParseError::BareCr),
            }
            at += 1;
        }
        Ok((at, false))
    }

    /// Judges the parts of the whole `line`, its CRLF included.
    pub(super) fn parts(&self, line: &[u8]) -> Result<(Method, Target, HTTPVersion), ParseError> {
        let text = std::str::from_utf8(line).expect("BUG: an accepted request line is ASCII");
        let target_at = self.method_len + 1;
        let version_at = target_at + self.target_len + 1;
        let digit = |i: usize| line[version_at + i] - b'0';

        let version = HTTPVersion(digit(5), digit(7));
        if version.0 != 1 {
            return Err(ParseError::VersionNotSupported);
        }
        let method = Method::from_str(&text[..self.method_len])
            .expect("BUG: tiny_http takes any ASCII method");
        let target = Target::parse(&method, &text[target_at..version_at - 1])?;
        Ok((method, target, version))
    }
}
