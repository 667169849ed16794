//! The errors of a request, and the status, code and text for each.
//!
//! One variant per message a client may read; `row` below is the whole table of status, code and text. After any of
//! these errors the connection may be out of step, so the front answers and closes.

use std::fmt;

/// Why bytes are not a request. Every variant knows its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// A line feed without a carriage return before it (RFC 9112 §2.2).
    BareLf,
    /// A carriage return without a line feed after it (RFC 9112 §2.2).
    BareCr,
    /// NUL, DEL or another control byte where text belongs (RFC 9110 §5.5).
    ControlByte,
    /// The PROXY protocol of HAProxy, either version, where a request should be. A load balancer that is set to send it
    /// fails every request, and its operator needs to read why.
    ProxyProtocol,
    /// TLS where a request should be: an `https` URL, or a proxy set to re-encrypt.
    Tls,
    /// More empty lines before the request line than are tolerated (RFC 9112 §2.2).
    TooManyEmptyLines,
    /// Not `method SP target SP version` (RFC 9112 §3).
    BadRequestLine,
    /// The method is not a token (RFC 9110 §9.1).
    BadMethod,
    /// The method is longer than any registered method (RFC 9112 §3 asks for 501).
    MethodTooLong,
    /// The target is in none of the four forms, or in one its method may not use (RFC 9112 §3.2).
    BadTarget,
    /// The target is longer than `target_bytes_max`.
    UriTooLong,
    /// Not `HTTP/` digit `.` digit (RFC 9112 §2.3).
    BadVersion,
    /// A well-formed version that is not HTTP/1, such as the HTTP/2 preface.
    VersionNotSupported,
    /// The head is longer than `head_bytes_max`.
    HeadTooLarge,
    /// More fields than `headers_max`; trailer fields are counted the same way.
    TooManyHeaders,
    /// A field line begins with white space: the folding RFC 9112 §5.2 lets a server refuse.
    FoldedLine,
    /// A field name is empty, is not a token, or no colon follows it (RFC 9112 §5.1).
    BadFieldName,
    /// White space between field name and colon, which RFC 9112 §5.1 orders refused.
    SpaceBeforeColon,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    MissingHost,
    /// More than one `Host` (RFC 9112 §3.2).
    RepeatedHost,
    /// `Host` is not `uri-host [ ":" port ]` (RFC 9110 §7.2).
    BadHost,
    /// `Content-Length` is not a plain decimal number (RFC 9110 §8.6).
    BadContentLength,
    /// More than one `Content-Length`, even if they agree.
    RepeatedContentLength,
    /// `Content-Length` beside `Transfer-Encoding`: request smuggling (RFC 9112 §6.1).
    LengthBesideEncoding,
    /// `Transfer-Encoding` is not exactly one `chunked`.
    BadTransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, which has none (RFC 9112 §6.1).
    EncodingInHttp10,
    /// The body is, or declares to be, longer than allowed.
    BodyTooLarge,
    /// A chunk size is not 1 to 16 hexadecimal digits (RFC 9112 §7.1).
    BadChunkSize,
    /// Chunk data runs past the size its chunk declared.
    BadChunkEnd,
    /// A chunk extension is not `name` or `name=value` (RFC 9112 §7.1.1).
    BadChunkExtension,
    /// Chunk extensions beyond the limit for one body.
    ChunkExtensionsTooLarge,
    /// Trailer fields beyond the limit for one body.
    TrailersTooLarge,
}

impl ParseError {
    /// The HTTP status to answer with.
    pub fn status(&self) -> u16 {
        self.row().0
    }

    /// A stable snake_case word for programs, the `code` of the problem document.
    pub fn code(&self) -> &'static str {
        match self.status() {
            413 => "body_too_large",
            414 => "uri_too_long",
            431 if *self == ParseError::TooManyHeaders => "too_many_headers",
            431 => "head_too_large",
            501 => "not_implemented",
            505 => "version_not_supported",
            _ => "bad_request",
        }
    }

    /// The detail text: lower case, fit for a problem document.
    pub fn detail(&self) -> &'static str {
        self.row().1
    }

    fn row(&self) -> (u16, &'static str) {
        use ParseError::*;
        match self {
            BareLf => (400, "line feed without carriage return"),
            BareCr => (400, "carriage return without line feed"),
            ControlByte => (400, "control byte in the message"),
            ProxyProtocol => {
                (400, "a PROXY protocol line instead of a request: only plain HTTP is spoken here")
            }
            Tls => (400, "TLS bytes instead of a request: only plain HTTP is spoken here"),
            TooManyEmptyLines => (400, "too many empty lines before the request"),
            BadRequestLine => (400, "request line is not `method target version`"),
            BadMethod => (400, "method is not a token"),
            MethodTooLong => (501, "method is too long"),
            BadTarget => (400, "malformed request target"),
            UriTooLong => (414, "request target is too long"),
            BadVersion => (400, "malformed http version"),
            VersionNotSupported => (505, "only http/1.0 and http/1.1 are spoken here"),
            HeadTooLarge => (431, "request head is too large"),
            TooManyHeaders => (431, "too many header fields"),
            FoldedLine => (400, "folded header line"),
            BadFieldName => (400, "malformed header field name"),
            SpaceBeforeColon => (400, "white space before the colon of a header field"),
            MissingHost => (400, "missing host"),
            RepeatedHost => (400, "repeated host"),
            BadHost => (400, "malformed host"),
            BadContentLength => (400, "malformed content-length"),
            RepeatedContentLength => (400, "repeated content-length"),
            LengthBesideEncoding => (400, "content-length beside transfer-encoding"),
            BadTransferEncoding => (400, "transfer-encoding is not `chunked`"),
            EncodingInHttp10 => (400, "transfer-encoding in http/1.0"),
            BodyTooLarge => (413, "body is too large"),
            BadChunkSize => (400, "malformed chunk size"),
            BadChunkEnd => (400, "chunk data is not followed by a line end"),
            BadChunkExtension => (400, "malformed chunk extension"),
            ChunkExtensionsTooLarge => (400, "chunk extensions are too large"),
            TrailersTooLarge => (431, "trailer fields are too large"),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::ParseError::*;

    #[test]
    fn each_status_has_its_code() {
        for (error, status, code) in [
            (BareLf, 400, "bad_request"),
            (BodyTooLarge, 413, "body_too_large"),
            (UriTooLong, 414, "uri_too_long"),
            (HeadTooLarge, 431, "head_too_large"),
            (TrailersTooLarge, 431, "head_too_large"),
            (TooManyHeaders, 431, "too_many_headers"),
            (MethodTooLong, 501, "not_implemented"),
            (VersionNotSupported, 505, "version_not_supported"),
        ] {
            assert_eq!((error.status(), error.code()), (status, code));
        }
    }
}
