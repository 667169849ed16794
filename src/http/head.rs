//! The head of a request: the request line and the header fields (RFC 9112 §2–5).
//!
//! ```text
//! GET /items?id=7 HTTP/1.1␍␊      judged as a whole, its version first
//! Host: kiosk:8080␍␊              one field each; Host is judged here
//! ␍␊                              the end: is Host there, and where does the body end?
//! ```
//!
//! A head is an index into the bytes it came in ([`HeadIndex`]): where the path is, the query, and which of the fields
//! that the rules ask for are there. It is joined with the bytes for as long as somebody looks ([`Head`]). So a request
//! costs no allocation, and most of what is asked for is not there, which one bit tells.
//!
//! [`parse`] keeps no state: it is given the message from its first byte, and again with what has come since. That
//! makes the work of one read at most that of one head (`MAX_HEAD_BYTES`), and a fault is found at its byte, whether
//! or not the line it is in has ended: a client that never sends an empty line is not wrong for 16 KiB.

use super::authority::Authority;
use super::body::{Framing, One, framing};
use super::bytes::{TARGET, TOKEN, misplaced, run};
use super::field::{self, Field, Line, line_end};
use super::target::{self, Form};
use super::{Method, ParseError};

/// How many empty lines before a request line are forgiven.
///
/// RFC 9112 §2.2 asks for at least one, for old clients that end a body with a CRLF too many. A
/// stream of nothing but empty lines is no client.
const EMPTY_LINES_MAX: usize = 4;

/// The longest registered method, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// What a client of the PROXY protocol sends before everything else: version 1 is a line of text, and
/// version 2 a signature whose first five bytes no other message has (`proxy-protocol.txt`, 2.1 and 2.2).
const PROXY_V1: &[u8] = b"PROXY ";
const PROXY_V2: &[u8] = b"\r\n\r\n\0";

/// The type of the record that every TLS connection begins with, a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How much a head may hold. At each limit the request passes; one more is refused.
#[derive(Debug, Clone)]
pub struct HeadLimits {
    /// Bytes of the whole head, its empty lines included; beyond it 431. Default 16 KiB, at most 1 MiB.
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

/// Where something stands in the bytes of a head. What is not there begins at 0, where only a method can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    /// Heads are no longer than `head_bytes_max`, which is far below 4 GiB.
    pub fn new(at: usize, len: usize) -> Span {
        Span { at: at as u32, len: len as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        let at = self.at as usize;
        bytes.get(at..at + self.len as usize).unwrap_or_default()
    }
}

/// A head that has passed every rule of RFC 9112, as places in its bytes.
#[derive(Debug, Clone, Copy)]
pub struct HeadIndex {
    kind: Method,
    /// The x of HTTP/1.x as it was sent. Any x above 1 means what 1.1 means (RFC 9110 §2.5).
    minor: u8,
    form: Form,
    framing: Framing,
    /// The known fields that are there, as bits.
    present: u16,
    /// And those that came more than once.
    repeated: u16,
    method: Span,
    target: Span,
    path: Span,
    /// Behind the `?`; at 0 when there is none.
    query: Span,
    /// Where the fields begin.
    fields: u32,
    len: u32,
}

impl HeadIndex {
    /// The length of the head, with its empty lines.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// No head is empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the body behind this head ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }
}

/// What [`parse`] has found.
#[derive(Debug)]
pub enum Parsed {
    /// A whole head; the body begins behind it.
    Whole(HeadIndex),
    /// Read more. `begun` when there is a byte of the request line: empty lines before it begin no request.
    More {
        /// See above.
        begun: bool,
    },
}

/// Judges what has come of a message, from its first byte.
///
/// # Errors
/// The first fault, in the order of the bytes. After it nothing on this connection can be trusted.
///
/// ```
/// use kioskd::http::{Head, HeadLimits, ParseError, Parsed, parse};
///
/// let limits = HeadLimits::default();
/// let message = b"GET /items?id=7 HTTP/1.1\r\nHost: kiosk\r\n\r\nthe next message";
/// assert!(matches!(parse(&message[..30], &limits)?, Parsed::More { begun: true }));
/// let Parsed::Whole(index) = parse(message, &limits)? else { panic!() };
/// assert_eq!(Head::new(&index, message).query(), Some(&b"id=7"[..]));
/// assert_eq!(&message[index.len()..], b"the next message");
/// # Ok::<(), ParseError>(())
/// ```
pub fn parse(input: &[u8], limits: &HeadLimits) -> Result<Parsed, ParseError> {
    let window = &input[..input.len().min(limits.head_bytes_max)];
    match parse_window(window, limits)? {
        Parsed::More { .. } if window.len() == limits.head_bytes_max => {
            Err(ParseError::HeadTooLarge)
        }
        parsed => Ok(parsed),
    }
}

fn parse_window(window: &[u8], limits: &HeadLimits) -> Result<Parsed, ParseError> {
    let mut at = 0;
    let mut empty_lines = 0;
    while window.get(at) == Some(&b'\r') {
        if empty_lines == EMPTY_LINES_MAX {
            return Err(ParseError::TooManyEmptyLines);
        }
        let Some(n) = line_end(&window[at..])? else { return Ok(Parsed::More { begun: false }) };
        at += n;
        empty_lines += 1;
    }
    let message = &window[at..];
    if message.is_empty() {
        return Ok(Parsed::More { begun: false });
    }
    let Some(mut index) =
        request_line(message, at, limits).map_err(|e| name(e, window, message))?
    else {
        return Ok(Parsed::More { begun: true });
    };
    at = index.fields as usize;
    let (mut fields, mut length, mut coding) = (0, One::None, One::None);
    loop {
        match field::line(&window[at..], fields >= limits.headers_max)? {
            None => return Ok(Parsed::More { begun: true }),
            Some(Line::Empty) => break,
            Some(Line::Field { name_len, len }) => {
                let (name, value) = (&window[at..at + name_len], at + name_len + 1..at + len);
                if let Some(field) = Field::of(name) {
                    let value = window[value].trim_ascii();
                    index.note(field, value)?;
                    match field {
                        Field::ContentLength => length.add(value),
                        Field::TransferEncoding => coding.add(value),
                        _ => {}
                    }
                }
                fields += 1;
                at += len;
            }
        }
    }
    index.len = (at + 2) as u32;
    if index.minor >= 1 && index.present & Field::Host.bit() == 0 {
        return Err(ParseError::MissingHost);
    }
    index.framing = framing(index.minor == 0, length, coding)?;
    Ok(Parsed::Whole(index))
}

/// Gives the fault of what is no request at all its name. (`PROXY` alone is a method like any other.)
fn name(e: ParseError, window: &[u8], message: &[u8]) -> ParseError {
    if message.starts_with(PROXY_V1) || window.starts_with(PROXY_V2) {
        ParseError::ProxyProtocol
    } else if message[0] == TLS_HANDSHAKE {
        ParseError::Tls
    } else {
        e
    }
}

/// `method SP target SP "HTTP/" DIGIT "." DIGIT CRLF` (RFC 9112 §3); `None` while it is not whole.
///
/// RFC 9112 lets a server split on any white space; we do not, because two servers that split
/// differently see different targets. What is wrong with a byte is said at that byte; what the
/// parts mean is judged at the line end, version first, so that the HTTP/2 preface
/// `PRI * HTTP/2.0` is a version we do not speak (505) and not a strange target (400).
fn request_line(
    message: &[u8],
    line_at: usize,
    limits: &HeadLimits,
) -> Result<Option<HeadIndex>, ParseError> {
    let method_len = run(message, TOKEN);
    if method_len > METHOD_BYTES_MAX {
        return Err(ParseError::MethodTooLong);
    }
    match message.get(method_len) {
        None => return Ok(None),
        Some(b' ') if method_len > 0 => {}
        Some(b'\r') => return Err(ParseError::BadRequestLine),
        Some(&byte) => return Err(misplaced(byte, ParseError::BadMethod)),
    }
    let target_at = method_len + 1;
    let target_len = run(&message[target_at..], TARGET);
    if target_len > limits.target_bytes_max {
        return Err(ParseError::UriTooLong);
    }
    let version_at = target_at + target_len + 1;
    match message.get(version_at - 1) {
        None => return Ok(None),
        Some(b' ') if target_len > 0 => {}
        Some(b' ' | b'\r') => return Err(ParseError::BadRequestLine),
        Some(&byte) => return Err(misplaced(byte, ParseError::BadTarget)),
    }
    let version = &message[version_at..];
    let is_plain = matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', x, b'\r', b'\n', ..] if x.is_ascii_digit());
    if !is_plain && !is_version_line(version)? {
        return Ok(None);
    }
    if version[5] != b'1' {
        return Err(ParseError::VersionNotSupported);
    }
    let method = Method::of(&message[..method_len]);
    let raw = &message[target_at..target_at + target_len];
    let (form, path_at) = target::form(method, raw)?;
    let query_at = raw[path_at..].iter().position(|b| *b == b'?').map(|i| path_at + i);
    let path_end = query_at.unwrap_or(target_len);
    let in_head = |at: usize, end: usize| Span::new(line_at + target_at + at, end - at);
    Ok(Some(HeadIndex {
        kind: method,
        minor: version[7] - b'0',
        form,
        framing: Framing::Length(0),
        present: 0,
        repeated: 0,
        method: Span::new(line_at, method_len),
        target: in_head(0, target_len),
        path: in_head(path_at, path_end),
        query: query_at.map_or(Span::default(), |at| in_head(at + 1, target_len)),
        fields: (line_at + version_at + 10) as u32,
        len: 0,
    }))
}

/// Whether this is the rest of a request line from its version on, whole; the first byte that cannot be is its fault.
fn is_version_line(version: &[u8]) -> Result<bool, ParseError> {
    for (i, &byte) in version.iter().take(9).enumerate() {
        let fits = match i {
            5 | 7 => byte.is_ascii_digit(),
            i => byte == b"HTTP/ . \r"[i],
        };
        if !fits {
            return Err(misplaced(byte, ParseError::BadVersion));
        }
    }
    Ok(version.len() >= 9 && line_end(&version[8..])?.is_some())
}

impl HeadIndex {
    /// Takes note of a field.
    fn note(&mut self, field: Field, value: &[u8]) -> Result<(), ParseError> {
        if self.present & field.bit() != 0 {
            self.repeated |= field.bit();
            return if field == Field::Host { Err(ParseError::RepeatedHost) } else { Ok(()) };
        }
        self.present |= field.bit();
        if field == Field::Host {
            // It may be empty if the target names no authority either (RFC 9110 §7.2). One that differs from an
            // absolute target's authority is ignored, as RFC 9112 §3.2.2 wants.
            let may_be_empty = !matches!(self.form, Form::Absolute | Form::Authority);
            if !(value.is_empty() && may_be_empty || Authority::parse(value).is_some()) {
                return Err(ParseError::BadHost);
            }
        }
        Ok(())
    }
}

/// A head: its index, and the bytes it came in.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    index: &'a HeadIndex,
    bytes: &'a [u8],
}

impl<'a> Head<'a> {
    /// Joins an index with the bytes that [`parse`] made it of; there may be more behind them.
    pub fn new(index: &'a HeadIndex, bytes: &'a [u8]) -> Head<'a> {
        Head { index, bytes }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.index.kind
    }

    /// The method as it was sent.
    pub fn method_text(&self) -> &'a [u8] {
        self.index.method.of(self.bytes)
    }

    /// The target as it was sent: ASCII.
    pub fn target_text(&self) -> &'a [u8] {
        self.index.target.of(self.bytes)
    }

    /// The raw path: begins with `/`, or is `*` (asterisk-form) or empty (authority-form).
    pub fn path(&self) -> &'a [u8] {
        match self.index.path.of(self.bytes) {
            b"" if self.index.form == Form::Absolute => b"/",
            path => path,
        }
    }

    /// The raw query behind the first `?`; empty for a `?` with nothing behind it.
    pub fn query(&self) -> Option<&'a [u8]> {
        let query = self.index.query;
        (query.at > 0).then(|| query.of(self.bytes))
    }

    /// True for `OPTIONS *`, which asks about the server and not about a path.
    pub fn is_asterisk(&self) -> bool {
        self.index.form == Form::Asterisk
    }

    /// The host and port that an absolute-form target names; what `Host` says is then ignored (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&'a [u8]> {
        if self.index.form != Form::Absolute {
            return None;
        }
        let end = (self.index.path.at - self.index.target.at) as usize;
        let before = &self.target_text()[..end];
        before.windows(3).position(|w| w == b"://").map(|at| &before[at + 3..])
    }

    /// Whether it is HTTP/1.0.
    pub fn is_http_1_0(&self) -> bool {
        self.index.minor == 0
    }

    /// Where the body behind this head ends.
    pub fn framing(&self) -> Framing {
        self.index.framing
    }

    /// Whether a field is there.
    pub fn has(&self, field: Field) -> bool {
        self.index.present & field.bit() != 0
    }

    /// The first value of a field, without the space around it.
    pub fn first(&self, field: Field) -> Option<&'a [u8]> {
        if self.has(field) { self.all(field).next() } else { None }
    }

    /// The value of a field, if there is just one: of two it is not clear which was meant.
    pub fn only(&self, field: Field) -> Option<&'a [u8]> {
        if self.is_repeated(field) { None } else { self.first(field) }
    }

    /// Whether a field is there more than once.
    pub fn is_repeated(&self, field: Field) -> bool {
        self.index.repeated & field.bit() != 0
    }

    /// Every value of a field, in order.
    pub fn all(&self, field: Field) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let fields = self.has(field).then(|| self.fields()).into_iter().flatten();
        fields.filter(move |(name, _)| Field::of(name) == Some(field)).map(|(_, value)| value)
    }

    /// Every field, in order: its name as it was sent, and its value.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = &self.bytes[self.index.fields as usize..self.index.len as usize];
        std::iter::from_fn(move || match field::line(rest, false) {
            Ok(Some(Line::Field { name_len, len })) => {
                let (line, behind) = rest.split_at(len);
                rest = behind;
                Some((&line[..name_len], line[name_len + 1..].trim_ascii()))
            }
            _ => None,
        })
    }

    /// Whether the client means to send another request on this connection (RFC 9112 §9.3).
    ///
    /// Not behind a CONNECT: what comes there is for a tunnel, and no request of this client's.
    pub fn keep_alive(&self) -> bool {
        if self.method() == Method::Connect || self.lists(Field::Connection, b"close") {
            return false;
        }
        !self.is_http_1_0() || self.lists(Field::Connection, b"keep-alive")
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    ///
    /// HTTP/1.0 has no 1xx responses, so there the expectation is ignored (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        !self.is_http_1_0() && self.lists(Field::Expect, b"100-continue")
    }

    /// Whether the client expects something that is not `100-continue` (RFC 9110 §10.1.1: 417).
    ///
    /// To HTTP/1.0 no expectation is known, so there it is ignored like any unknown field.
    pub fn expects_the_unknown(&self) -> bool {
        let known =
            |member: &[u8]| member.is_empty() || member.eq_ignore_ascii_case(b"100-continue");
        !self.is_http_1_0()
            && self.has(Field::Expect)
            && self.members(Field::Expect).any(|member| !known(member))
    }

    /// The members of the comma-separated lists of all values of a field.
    pub fn members(&self, field: Field) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.all(field).flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii)
    }

    fn lists(&self, field: Field, token: &[u8]) -> bool {
        self.has(field) && self.members(field).any(|member| member.eq_ignore_ascii_case(token))
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

#[cfg(test)]
pub(super) mod tests;
