//! The head of a request: the request line and the header fields (RFC 9112 §2–5).
//!
//! ```text
//! GET /items?id=7 HTTP/1.1␍␊      checked as a whole, its version first
//! Host: kiosk:8080␍␊              one field each; Host is checked here
//! ␍␊                              the end: was there a Host, and where does the body end?
//! ```
//!
//! A head is an index into the bytes it was read into ([`HeadIndex`]): where the path and the query are, and which of
//! the fields that the rules use are present. It is joined with the bytes only while it is read ([`Head`]). So a
//! request costs no allocation, and for most fields that the rules look up, one bit shows that they are absent.
//!
//! [`parse`] keeps no state: it is given the message from its first byte, and again with the bytes that have arrived
//! since. So the work for one read is at most that for one head (`MAX_HEAD_BYTES`), and an error is found at its byte,
//! whether or not its line has ended: an error in a head that never ends does not wait for 16 KiB.

use super::authority::Authority;
use super::body::{Framing, One, framing};
use super::bytes::{PATH, TARGET, TOKEN, misplaced, run};
use super::field::{self, Field, line_end};
use super::query::{Parameters, Query};
use super::target::{self, Form};
use super::{Method, ParseError};
use std::ops::Range;

/// How many empty lines before a request line are tolerated.
///
/// RFC 9112 §2.2 asks for at least one, for old clients that end a body with a CRLF too many. A
/// stream of nothing but empty lines is no client.
const EMPTY_LINES_MAX: usize = 4;

/// The longest registered method, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// The first bytes from a client of the PROXY protocol: version 1 is a line of text, and version 2 a signature whose
/// first five bytes no other message has (`proxy-protocol.txt`, 2.1 and 2.2).
const PROXY_V1: &[u8] = b"PROXY ";
const PROXY_V2: &[u8] = b"\r\n\r\n\0";

/// The type of the record that every TLS connection begins with, a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Limits of a head. At each limit the request passes; one more is refused.
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

/// The text between a target and the fields.
const VERSION_LINE: &[u8] = b" HTTP/1.1\r\n";

/// A head that has passed every rule of RFC 9112, as places in its bytes, which are counted from its request line on.
///
/// ```text
/// ␍␊PUT http://kiosk/items?ttl=60 HTTP/1.1␍␊Host: kiosk␍␊␍␊
///   ↑at ↑target     ↑path ↑path_end ↑target_end           ↑end
/// ```
///
/// Heads are no longer than `head_bytes_max`, which is far below 4 GiB.
#[derive(Debug, Clone, Copy)]
pub struct HeadIndex {
    method: Method,
    method_len: u8,
    /// The x of HTTP/1.x as it was sent. Any x above 1 means what 1.1 means (RFC 9110 §2.5).
    minor: u8,
    form: Form,
    parameters: Parameters,
    /// The known fields that are present, as bits.
    present: u32,
    /// The known fields that occur more than once.
    repeated: u32,
    /// Where the request line begins: behind the empty lines.
    at: u32,
    target: u32,
    path: u32,
    /// Where the `?` is, if there is one.
    path_end: u32,
    target_end: u32,
    end: u32,
    framing: Framing,
}

impl HeadIndex {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The length of the head, with its empty lines.
    pub fn len(&self) -> usize {
        self.at as usize + self.end as usize
    }

    /// No head is empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the body behind this head ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Where the fields begin.
    fn fields_at(&self) -> usize {
        self.target_end as usize + VERSION_LINE.len()
    }

    /// Where the query is; `None` without a `?`.
    fn query(&self) -> Option<Range<usize>> {
        (self.path_end < self.target_end)
            .then_some(self.path_end as usize + 1..self.target_end as usize)
    }
}

/// The result of [`parse`].
#[derive(Debug)]
pub enum Parsed {
    /// A whole head; the body begins behind it.
    Whole(HeadIndex),
    /// Incomplete: read more. `begun` when there is a byte of the request line: empty lines before it begin no request.
    More {
        /// See above.
        begun: bool,
    },
}

/// Parses the bytes of a message that have arrived, from its first byte.
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
/// assert_eq!(Head::new(&index, message).query_text(), Some(&b"id=7"[..]));
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
    let Some(at) = empty_lines(window)? else { return Ok(Parsed::More { begun: false }) };
    let message = &window[at..];
    if message.is_empty() {
        return Ok(Parsed::More { begun: false });
    }
    let index = request_line(message, limits).map_err(|e| name(e, window, message))?;
    let Some(mut index) = index else { return Ok(Parsed::More { begun: true }) };
    index.at = at as u32;
    if !fields(&mut index, message, limits)? {
        return Ok(Parsed::More { begun: true });
    }
    if let Some(query) = index.query() {
        index.parameters.find(&message[query]);
    }
    Ok(Parsed::Whole(index))
}

/// The length of the empty lines before a request line; `None` when the last is incomplete.
fn empty_lines(window: &[u8]) -> Result<Option<usize>, ParseError> {
    let mut at = 0;
    while window.get(at) == Some(&b'\r') {
        if at == EMPTY_LINES_MAX * 2 {
            return Err(ParseError::TooManyEmptyLines);
        }
        let Some(n) = line_end(&window[at..])? else { return Ok(None) };
        at += n;
    }
    Ok(Some(at))
}

/// The specific error for bytes that are not HTTP at all. (`PROXY` alone is a method like any other.)
fn name(e: ParseError, window: &[u8], message: &[u8]) -> ParseError {
    if message.starts_with(PROXY_V1) || window.starts_with(PROXY_V2) {
        ParseError::ProxyProtocol
    } else if message[0] == TLS_HANDSHAKE {
        ParseError::Tls
    } else {
        e
    }
}

/// `method SP target SP "HTTP/" DIGIT "." DIGIT CRLF` (RFC 9112 §3); `None` while it is incomplete.
///
/// RFC 9112 lets a server split on any white space; we do not, because two servers that split differently see different
/// targets. A wrong byte is reported at that byte; the meaning of the parts is checked at the line end, version first,
/// so that the HTTP/2 preface `PRI * HTTP/2.0` is an unsupported version (505) and not a bad target (400).
fn request_line(message: &[u8], limits: &HeadLimits) -> Result<Option<HeadIndex>, ParseError> {
    let method_len = run(message, TOKEN);
    if method_len > METHOD_BYTES_MAX {
        return Err(ParseError::MethodTooLong);
    }
    match message.get(method_len) {
        Some(b' ') if method_len > 0 => {}
        byte => return no_space(byte, ParseError::BadMethod).map_or(Ok(None), Err),
    }
    let target = method_len + 1;
    let path_end = target + run(&message[target..], PATH);
    let target_end = path_end + run(&message[path_end..], TARGET);
    if target_end - target > limits.target_bytes_max {
        return Err(ParseError::UriTooLong);
    }
    match message.get(target_end) {
        Some(b' ') if target_end > target => {}
        Some(b' ') => return Err(ParseError::BadRequestLine),
        byte => return no_space(byte, ParseError::BadTarget).map_or(Ok(None), Err),
    }
    let version = &message[target_end + 1..];
    let minor = match version.first_chunk::<10>() {
        Some(line) if is_http_1(line) => line[7] - b'0',
        _ if !is_version_line(version)? => return Ok(None),
        // All that is left is another major version.
        _ => return Err(ParseError::VersionNotSupported),
    };
    let method = Method::of(&message[..method_len]);
    let (form, path_at) = target::form(method, &message[target..target_end])?;
    Ok(Some(HeadIndex {
        method,
        method_len: method_len as u8,
        minor,
        form,
        parameters: Parameters::default(),
        present: 0,
        repeated: 0,
        at: 0,
        target: target as u32,
        path: (target + path_at) as u32,
        path_end: path_end as u32,
        target_end: target_end as u32,
        end: 0,
        framing: Framing::Length(0),
    }))
}

/// The error when no space follows a method or a target, the `place`; `None` if no byte follows yet.
#[cold]
fn no_space(found: Option<&u8>, place: ParseError) -> Option<ParseError> {
    match found? {
        b'\r' => Some(ParseError::BadRequestLine),
        &byte => Some(misplaced(byte, place)),
    }
}

/// Whether this is an HTTP/1 version with its line end: two comparisons for what nearly every request line ends with.
fn is_http_1(line: &[u8; 10]) -> bool {
    line[..7] == *b"HTTP/1." && line[7].is_ascii_digit() && line[8..] == *b"\r\n"
}

/// Whether this is the complete rest of a request line from its version on; the first byte that does not fit is an
/// error.
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

/// Reads the fields of a message up to the empty line, and checks them; false while that has not arrived.
fn fields(index: &mut HeadIndex, message: &[u8], limits: &HeadLimits) -> Result<bool, ParseError> {
    let (mut length, mut coding): (&[u8], &[u8]) = (b"", b"");
    let mut rest = &message[index.fields_at()..];
    let mut n = 0;
    while n < limits.headers_max
        && let Some((name, value, behind)) = field::split(rest)
    {
        if let Some(field) = Field::of(name) {
            let value = value.trim_ascii();
            index.note(field, value)?;
            match field {
                Field::ContentLength => length = value,
                Field::TransferEncoding => coding = value,
                _ => {}
            }
        }
        rest = behind;
        n += 1;
    }
    let Some(behind) = rest.strip_prefix(field::LINE_END) else {
        return field::fault(rest, n == limits.headers_max).map_or(Ok(false), Err);
    };
    index.end = (message.len() - behind.len()) as u32;
    if index.minor >= 1 && !index.has(Field::Host) {
        return Err(ParseError::MissingHost);
    }
    if index.has(Field::ContentLength) || index.has(Field::TransferEncoding) {
        let length = index.one(Field::ContentLength, length);
        let coding = index.one(Field::TransferEncoding, coding);
        index.framing = framing(index.minor == 0, length, coding)?;
    }
    Ok(true)
}

impl HeadIndex {
    /// Records a field.
    fn note(&mut self, field: Field, value: &[u8]) -> Result<(), ParseError> {
        if self.has(field) {
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

    fn has(&self, field: Field) -> bool {
        self.present & field.bit() != 0
    }

    fn is_repeated(&self, field: Field) -> bool {
        self.repeated & field.bit() != 0
    }

    /// A field whose last value is this, if it is present.
    fn one<'a>(&self, field: Field, value: &'a [u8]) -> One<'a> {
        match (self.has(field), self.is_repeated(field)) {
            (false, _) => One::None,
            (true, false) => One::Value(value),
            (true, true) => One::Several,
        }
    }
}

/// A head: its index, and the bytes it came in.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    index: &'a HeadIndex,
    /// From the request line on.
    bytes: &'a [u8],
}

impl<'a> Head<'a> {
    /// Joins an index with the bytes that [`parse`] made it from; more may follow them.
    pub fn new(index: &'a HeadIndex, bytes: &'a [u8]) -> Head<'a> {
        Head { index, bytes: bytes.get(index.at as usize..).unwrap_or_default() }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.index.method
    }

    /// The method as it was sent.
    pub fn method_text(&self) -> &'a [u8] {
        self.slice(0..usize::from(self.index.method_len))
    }

    /// The target as it was sent: ASCII.
    pub fn target_text(&self) -> &'a [u8] {
        self.slice(self.index.target as usize..self.index.target_end as usize)
    }

    /// The raw path: begins with `/`, or is `*` (asterisk-form) or empty (authority-form).
    pub fn path(&self) -> &'a [u8] {
        match self.slice(self.index.path as usize..self.index.path_end as usize) {
            b"" if self.index.form == Form::Absolute => b"/",
            path => path,
        }
    }

    /// The raw query behind the first `?`; empty for a `?` with nothing behind it.
    pub fn query_text(&self) -> Option<&'a [u8]> {
        self.index.query().map(|range| self.slice(range))
    }

    /// The query as parameters; without a `?` there are none.
    pub fn query(&self) -> Query<'a> {
        Query::new(self.query_text().unwrap_or_default(), self.index.parameters)
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
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
        let end = (self.index.path - self.index.target) as usize;
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
        self.index.has(field)
    }

    /// The first value of a field, without the space around it.
    pub fn first(&self, field: Field) -> Option<&'a [u8]> {
        if self.has(field) { self.all(field).next() } else { None }
    }

    /// The value of a field that occurs just once: of two it is not clear which was meant.
    pub fn only(&self, field: Field) -> Option<&'a [u8]> {
        if self.is_repeated(field) { None } else { self.first(field) }
    }

    /// Whether a field occurs more than once.
    pub fn is_repeated(&self, field: Field) -> bool {
        self.index.is_repeated(field)
    }

    /// Every value of a field, in order.
    pub fn all(&self, field: Field) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let fields = self.has(field).then(|| self.fields()).into_iter().flatten();
        fields.filter(move |(name, _)| Field::of(name) == Some(field)).map(|(_, value)| value)
    }

    /// Every field, in order: its name as it was sent, and its value.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.slice(self.index.fields_at()..self.index.end as usize);
        std::iter::from_fn(move || {
            let (name, value, behind) = field::split(rest)?;
            rest = behind;
            Some((name, value.trim_ascii()))
        })
    }

    /// Whether the client means to send another request on this connection (RFC 9112 §9.3).
    ///
    /// Not after a CONNECT: the bytes that follow are for a tunnel, and not a request of this client's.
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

    /// Whether the client expects anything other than `100-continue` (RFC 9110 §10.1.1: 417).
    ///
    /// HTTP/1.0 has no expectations, so there the field is ignored like any unknown one.
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

/// Whether a message that begins like this is a HEAD, whatever is wrong with the rest of it: its response has no body.
/// `None` before its first word.
///
/// Of an incomplete word, any beginning of `HEAD` counts: no other method begins like that. The word ends at white space,
/// or at what no word has in it. `HEAD:` is another word, though no method: a proxy that passes it on (Varnish does) wants
/// a body.
pub fn is_head(message: &[u8]) -> Option<bool> {
    let mut word = message;
    for _ in 0..EMPTY_LINES_MAX {
        word = word.strip_prefix(b"\r\n").unwrap_or(word);
    }
    if b"\r\n".starts_with(word) {
        return None;
    }
    let (token, behind) = word.split_at(run(word, TOKEN));
    Some(match behind.first() {
        Some(byte) => token == b"HEAD" && byte.is_ascii() && !byte.is_ascii_graphic(),
        None => b"HEAD".starts_with(token),
    })
}

#[cfg(test)]
pub(super) mod tests;
