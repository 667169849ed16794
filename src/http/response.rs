//! A response as a value: a status, the few fields that kioskd sends, and a body.
//!
//! Typed fields instead of a list: none can occur twice, none can contain a line end, and printing one is a copy. The
//! fields of every response (`Date`, `X-Request-Id`, the length, `Connection`) are not here but in
//! [`print`](super::print).

use std::borrow::Cow;

/// The type of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// JSON.
    Json,
    /// A problem document (RFC 9457).
    Problem,
    /// Plain text.
    Text,
    /// A page.
    Html,
    /// Metrics in the text format of Prometheus; without the version a scraper has to guess.
    Metrics,
}

impl ContentType {
    /// The value of `Content-Type`.
    pub fn text(self) -> &'static str {
        match self {
            ContentType::Json => "application/json",
            ContentType::Problem => "application/problem+json",
            ContentType::Text => "text/plain; charset=utf-8",
            ContentType::Html => "text/html; charset=utf-8",
            ContentType::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// An entity tag with its quotes (RFC 9110 §8.8.3): 32 hexadecimal digits.
pub type Tag = [u8; 34];

/// A response; `'a` is the life of the bytes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<ContentType>,
    /// `ETag`.
    pub etag: Option<Tag>,
    /// `Cache-Control: no-store`: the response describes this moment only.
    pub no_store: bool,
    /// `Idempotency-Replayed: true`: the response was built from the record of an earlier request.
    pub replayed: bool,
    /// One more field.
    pub extra: Extra<'a>,
    /// The content. A HEAD has the response of its GET, body included; printing leaves that out.
    pub body: Cow<'a, [u8]>,
}

/// A field that few responses have; none has two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra<'a> {
    /// No field.
    None,
    /// `Location`.
    Location(Location<'a>),
    /// `Link`, to the next page.
    Link(String),
    /// `Allow`, the methods of the path, and `Accept-Patch`, the types for a PATCH of it (RFC 5789 §3.1), if it has
    /// one.
    Allow(&'static str, Option<&'static str>),
    /// `Accept-Patch` alone.
    AcceptPatch(&'static str),
    /// `Accept-Encoding: identity`.
    AcceptIdentity,
    /// `Retry-After`, in seconds.
    RetryAfter(u32),
    /// `WWW-Authenticate`.
    Authenticate(&'static str),
    /// `Access-Control-Allow-Methods`, and what else a preflight asks for.
    Preflight(&'static str),
    /// `Vary: Accept`, `Cache-Control: no-cache`, and `Content-Security-Policy` for a page.
    Negotiated(Option<&'static str>),
}

/// The target of a link: a path, and an id that is percent-encoded when it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location<'a> {
    /// `/items/`, say, or `/items?id=`.
    pub before: &'static str,
    /// The id, not encoded.
    pub id: Cow<'a, [u8]>,
}

impl<'a> Response<'a> {
    /// A response with neither body nor fields.
    pub const fn empty(status: u16) -> Response<'a> {
        Response {
            status,
            content_type: None,
            etag: None,
            no_store: false,
            replayed: false,
            extra: Extra::None,
            body: Cow::Borrowed(b""),
        }
    }

    /// A response with a body.
    pub fn of(
        status: u16,
        content_type: ContentType,
        body: impl Into<Cow<'a, [u8]>>,
    ) -> Response<'a> {
        let content_type = Some(content_type);
        Response { content_type, body: body.into(), ..Response::empty(status) }
    }

    /// A response whose body is JSON already.
    pub fn json(status: u16, body: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::of(status, ContentType::Json, body)
    }

    /// A response of plain text.
    pub fn text(status: u16, body: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::of(status, ContentType::Text, body)
    }

    /// The same response, with `Cache-Control: no-store`.
    pub fn no_store(mut self) -> Response<'a> {
        self.no_store = true;
        self
    }
}

/// The reason phrase of a status (RFC 9110 §15); empty for one that kioskd never sends.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}
