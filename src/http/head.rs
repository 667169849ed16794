//! Reads the head of a request: the request line and the header fields (RFC 9112 §2–5).
//!
//! ```text
//! GET /items?id=7 HTTP/1.1␍␊      RequestLine   judged at its end, before the next line is seen
//! Host: kiosk:8080␍␊              FieldLine     one header each; Host is judged here
//! ␍␊                              the end       is Host there, and where does the body end?
//! ```
//!
//! The parser owns no input. The caller keeps the message from its first byte and hands all of it
//! over again after each read; the parser remembers how far it judged, so the work stays linear
//! however small the pieces are. The usual shortcut, to search for the empty line first and parse
//! then, would let a client that never sends one be wrong for 16 KiB before it hears so.

use super::authority::Authority;
use super::body::{Framing, framing};
use super::bytes::{TOKEN, run};
use super::field::{FieldLine, Line, to_header};
use super::request_line::RequestLine;
use super::{Head, Header, ParseError};

/// How many empty lines before a request line are forgiven.
///
/// RFC 9112 §2.2 asks for at least one, for old clients that end a body with a CRLF too many. A
/// stream of nothing but empty lines is no client.
const EMPTY_LINES_MAX: u8 = 4;

/// What a client of the PROXY protocol sends before everything else: version 1 is a line of text, and
/// version 2 a signature whose first five bytes no other message has (`proxy-protocol.txt`, 2.1 and 2.2).
const PROXY_V1: &[u8] = b"PROXY ";
const PROXY_V2: &[u8] = b"\r\n\r\n\0";

/// The type of the record that every TLS connection begins with, a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How much a head may hold. At each limit the request passes; one more is refused.
#[derive(Debug, Clone)]
pub struct HeadLimits {
    /// Bytes of the whole head, its empty lines included; beyond it 431. Default 16 KiB.
    ///
    /// Bytes beyond it are never looked at, so it also caps a larger `target_bytes_max`.
    pub head_bytes_max: usize,
    /// Bytes of the request target; beyond it 414. Default 8 KiB, RFC 9112 §3 asks for 8000.
    pub target_bytes_max: usize,
    /// Header fields; beyond it 431. Default 100, which is also Apache's.
    pub headers_max: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { head_bytes_max: 16 * 1024, target_bytes_max: 8 * 1024, headers_max: 100 }
    }
}

/// Reads one head after the other; allocates nothing while it waits for one.
///
/// ```
/// use kioskd::http::{HeadLimits, HeadParser, ParseError};
///
/// let (mut parser, limits) = (HeadParser::new(), HeadLimits::default());
/// let message = b"GET /items?id=7 HTTP/1.1\r\nHost: kiosk\r\n\r\nthe next message";
/// assert!(parser.parse(&message[..30], &limits)?.is_none());
/// let (head, length) = parser.parse(message, &limits)?.unwrap();
/// assert_eq!(head.target.query(), Some("id=7"));
/// assert_eq!(&message[length..], b"the next message");
/// # Ok::<(), ParseError>(())
/// ```
#[derive(Debug, Default)]
pub struct HeadParser {
    /// Bytes judged so far, always a prefix of the message.
    at: usize,
    /// Where the current line began.
    line_at: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Before the request line, after this many empty lines.
    Before(u8),
    /// Inside an empty line: CR seen, LF wanted.
    EmptyLine(u8),
    RequestLine(RequestLine),
    Fields(FieldLine, Head),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Before(0)
    }
}

impl HeadParser {
    /// A parser at the first byte of a message.
    pub fn new() -> HeadParser {
        HeadParser::default()
    }

    /// Whether a byte of the request line has been seen: empty lines before it begin no request.
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Before(_) | Stage::EmptyLine(_))
    }

    /// Judges what is new in `input`, the whole message so far from its first byte.
    ///
    /// `Ok(None)` means "read more". A head comes with its length in bytes, and leaves the parser
    /// ready for the next message, which begins behind the body. After an error the parser is
    /// spent.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<(Head, usize)>, ParseError> {
        let window = &input[..input.len().min(limits.head_bytes_max)];
        while self.at < window.len() {
            if self.advance(window, limits)? {
                let done = std::mem::take(self);
                let Stage::Fields(_, mut head) = done.stage else {
                    unreachable!("BUG: a head ends in its fields");
                };
                finish(&mut head)?;
                return Ok(Some((head, done.at)));
            }
        }
        if window.len() == limits.head_bytes_max {
            return Err(ParseError::HeadTooLarge);
        }
        Ok(None)
    }

    /// Takes one step, to the end of a line at most; true when that line ended the head.
    fn advance(&mut self, window: &[u8], limits: &HeadLimits) -> Result<bool, ParseError> {
        let rest = &window[self.at..];
        match &mut self.stage {
            Stage::Before(seen) => {
                let seen = *seen;
                if rest[0] != b'\r' {
                    self.line_at = self.at;
                    self.stage = Stage::RequestLine(RequestLine::default());
                } else if seen == EMPTY_LINES_MAX {
                    return Err(ParseError::TooManyEmptyLines);
                } else {
                    self.at += 1;
                    self.stage = Stage::EmptyLine(seen + 1);
                }
            }
            Stage::EmptyLine(seen) => {
                if rest[0] != b'\n' {
                    return Err(ParseError::BareCr);
                }
                self.at += 1;
                self.stage = Stage::Before(*seen);
            }
            Stage::RequestLine(line) => {
                let message = &window[self.line_at..];
                // Only what is no request at all is one of these: `PROXY` is a method like any other.
                let name = |e| match e {
                    _ if message.starts_with(PROXY_V1) => ParseError::ProxyProtocol,
                    _ if window.starts_with(PROXY_V2) => ParseError::ProxyProtocol,
                    _ if message[0] == TLS_HANDSHAKE => ParseError::Tls,
                    _ => e,
                };
                let (taken, whole) = line.advance(rest, limits).map_err(name)?;
                self.at += taken;
                if whole {
                    let line_bytes = &window[self.line_at..self.at];
                    let (method, target, version) = line.parts(line_bytes).map_err(name)?;
                    let head = Head {
                        method,
                        target,
                        version,
                        headers: Vec::new(),
                        framing: Framing::Length(0),
                    };
                    self.line_at = self.at;
                    self.stage = Stage::Fields(FieldLine::default(), head);
                }
            }
            Stage::Fields(line, head) => {
                let full = head.headers.len() >= limits.headers_max;
                let (taken, line) = line.advance(rest, full)?;
                self.at += taken;
                match line {
                    None => {}
                    Some(Line::Empty) => return Ok(true),
                    Some(Line::Field { name_len }) => {
                        let line = &window[self.line_at..self.at];
                        let header = to_header(line, name_len);
                        judge_host(head, &header)?;
                        head.headers.push(header);
                        self.line_at = self.at;
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Whether a message that begins so is a HEAD, whatever is wrong with the rest of it: the answer has no
/// body. `None` before its first word.
///
/// Of a word that is not whole yet, any beginning of `HEAD` counts: no other method begins like that.
pub fn is_head(message: &[u8]) -> Option<bool> {
    let mut word = message;
    for _ in 0..EMPTY_LINES_MAX {
        word = word.strip_prefix(b"\r\n").unwrap_or(word);
    }
    if b"\r\n".starts_with(word) {
        return None;
    }
    let token = &word[..run(word, TOKEN)];
    Some(if token.len() < word.len() { token == b"HEAD" } else { b"HEAD".starts_with(token) })
}

/// `Host` comes at most once and names a host (RFC 9112 §3.2).
///
/// It may be empty if the target names no authority either (RFC 9110 §7.2). A `Host` that differs
/// from an absolute target's authority is ignored, as RFC 9112 §3.2.2 wants.
fn judge_host(head: &Head, header: &Header) -> Result<(), ParseError> {
    if !header.field.equiv("Host") {
        return Ok(());
    }
    if head.header("Host").is_some() {
        return Err(ParseError::RepeatedHost);
    }
    let value = header.value.as_str();
    let may_be_empty = !head.target.has_authority();
    if (value.is_empty() && may_be_empty) || Authority::parse(value).is_some() {
        return Ok(());
    }
    Err(ParseError::BadHost)
}

/// Judges what only the end of the head can tell.
fn finish(head: &mut Head) -> Result<(), ParseError> {
    if head.version >= (1, 1) && head.header("Host").is_none() {
        return Err(ParseError::MissingHost);
    }
    head.framing = framing(&head.version, &head.headers)?;
    Ok(())
}

#[cfg(test)]
mod tests;
