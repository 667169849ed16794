//! Prints responses. The mirror of `head`: values in, bytes out.
//!
//! ```text
//! HTTP/1.1 200 OK␍␊
//! Content-Type: application/json␍␊
//! X-Request-Id: 4f3a␍␊
//! X-Content-Type-Options: nosniff␍␊
//! Content-Length: 2␍␊
//! Date: Sun, 06 Nov 1994 08:49:37 GMT␍␊
//! Connection: close␍␊
//! ␍␊
//! {}
//! ```
//!
//! The length is always counted here, so it cannot be wrong: a wrong one would shift every response
//! behind it.

use super::response::{ContentType, Extra, Location, reason};
use super::{Date, Response};

/// The interim response to `Expect: 100-continue` (RFC 9110 §10.1.1), ready to send.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The properties of the connection and the request that printing needs beside the response.
#[derive(Debug, Clone, Copy)]
pub struct Printing<'a> {
    /// The request was HEAD: everything but the body.
    pub head_only: bool,
    /// The connection closes behind this response; wins over `keep_alive_1_0`.
    pub close: bool,
    /// The client speaks HTTP/1.0 and asked to keep the connection, so the response must say so (for a 1.1 client RFC
    /// 9112 §9.3 needs no field).
    pub keep_alive_1_0: bool,
    /// The current date.
    pub date: &'a Date,
    /// Who else than this service's own pages may read the response (Fetch, "CORS protocol").
    pub cors: Cors<'a>,
    /// How much of a limit is left (`RateLimit`).
    pub quota: Option<&'a Quota>,
    /// The request's id: letters, digits, `.`, `_` and `-`.
    pub request_id: &'a [u8],
}

/// What a response says about other sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cors<'a> {
    /// Nothing: no other site may read any.
    Off,
    /// Other sites may read some; not the one that this request is from.
    Others,
    /// This origin may read it.
    Origin(&'a [u8]),
}

/// A limit on requests, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests in a window.
    pub limit: u64,
    /// Seconds in a window.
    pub window: u64,
    /// Requests that are left in this window.
    pub left: u64,
    /// Seconds that are left of it.
    pub resets_in: u64,
}

/// The fields that scripts of listed origins may read beside those that all may (Fetch, "CORS-safelisted
/// response-header name").
const EXPOSED: &[u8] =
    b"Access-Control-Expose-Headers: ETag, Location, Link, Retry-After, X-Request-Id, \
    Idempotency-Replayed, RateLimit\r\n";

/// The fields of a request that a preflight asks for, and how long its answer holds.
const PREFLIGHT: &[u8] =
    b"Access-Control-Allow-Headers: Authorization, Content-Type, If-Match, If-None-Match, \
    Idempotency-Key, X-Request-Id, traceparent, tracestate\r\nAccess-Control-Max-Age: 600\r\n";

/// Room for a head: the longest has a location of 512 bytes, each of them printed as three.
const HEAD_BYTES: usize = 512;

/// Appends the response to `out`.
///
/// The version printed is always HTTP/1.1, also to a 1.0 client (RFC 9110 §6.2).
pub fn print(response: &Response, how: &Printing, out: &mut Vec<u8>) {
    let status = response.status;
    let has_body = !matches!(status, 204 | 304);
    let body: &[u8] = if has_body { &response.body } else { b"" };
    out.reserve(HEAD_BYTES + if how.head_only { 0 } else { body.len() });

    push_start(out, status, response.content_type);
    if let Some(etag) = &response.etag {
        out.extend_from_slice(b"ETag: ");
        out.extend_from_slice(etag);
        out.extend_from_slice(b"\r\n");
    }
    if response.no_store {
        out.extend_from_slice(b"Cache-Control: no-store\r\n");
    }
    if response.replayed {
        out.extend_from_slice(b"Idempotency-Replayed: true\r\n");
    }
    if response.extra != Extra::None {
        push_extra(out, &response.extra);
    }
    if how.cors != Cors::Off {
        push_cors(out, how.cors);
    }
    if let Some(quota) = how.quota {
        push_quota(out, quota);
    }
    out.extend_from_slice(b"X-Request-Id: ");
    out.extend_from_slice(how.request_id);
    if has_body {
        out.extend_from_slice(b"\r\nX-Content-Type-Options: nosniff\r\nContent-Length: ");
        push_number(out, body.len());
        out.extend_from_slice(b"\r\nDate: ");
    } else {
        out.extend_from_slice(b"\r\nX-Content-Type-Options: nosniff\r\nDate: ");
    }
    out.extend_from_slice(how.date);
    if how.close {
        out.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
    } else if how.keep_alive_1_0 {
        out.extend_from_slice(b"\r\nConnection: keep-alive\r\n\r\n");
    } else {
        out.extend_from_slice(b"\r\n\r\n");
    }
    if !how.head_only {
        out.extend_from_slice(body);
    }
}

/// The status line and `Content-Type`, in one piece for the most frequent responses.
fn push_start(out: &mut Vec<u8>, status: u16, content_type: Option<ContentType>) {
    if (status, content_type) == (200, Some(ContentType::Json)) {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(content_type) = content_type {
        push_field(out, b"Content-Type: ", content_type.text().as_bytes());
    }
}

#[cold]
fn push_cors(out: &mut Vec<u8>, cors: Cors) {
    // Caches must not give one origin's response to another.
    out.extend_from_slice(b"Vary: Origin\r\n");
    if let Cors::Origin(origin) = cors {
        push_field(out, b"Access-Control-Allow-Origin: ", origin);
        out.extend_from_slice(EXPOSED);
    }
}

/// As draft-ietf-httpapi-ratelimit-headers spells them.
#[cold]
fn push_quota(out: &mut Vec<u8>, quota: &Quota) {
    let Quota { limit, window, left, resets_in } = quota;
    let fields = format!(
        "RateLimit-Policy: \"default\";q={limit};w={window}\r\nRateLimit: \"default\";r={left};t={resets_in}\r\n"
    );
    out.extend_from_slice(fields.as_bytes());
}

fn push_extra(out: &mut Vec<u8>, extra: &Extra) {
    match extra {
        Extra::None => {}
        Extra::Location(Location { before, id }) => {
            out.extend_from_slice(b"Location: ");
            out.extend_from_slice(before.as_bytes());
            push_percent_encoded(out, id);
            out.extend_from_slice(b"\r\n");
        }
        Extra::Link(link) => push_field(out, b"Link: ", link.as_bytes()),
        Extra::Allow(methods, patches) => {
            push_field(out, b"Allow: ", methods.as_bytes());
            if let Some(types) = patches {
                push_field(out, b"Accept-Patch: ", types.as_bytes());
            }
        }
        Extra::AcceptPatch(types) => push_field(out, b"Accept-Patch: ", types.as_bytes()),
        Extra::AcceptIdentity => out.extend_from_slice(b"Accept-Encoding: identity\r\n"),
        Extra::Authenticate(challenge) => {
            push_field(out, b"WWW-Authenticate: ", challenge.as_bytes());
        }
        Extra::Preflight(methods) => {
            push_field(out, b"Access-Control-Allow-Methods: ", methods.as_bytes());
            out.extend_from_slice(PREFLIGHT);
        }
        Extra::Negotiated(policy) => {
            out.extend_from_slice(b"Vary: Accept\r\nCache-Control: no-cache\r\n");
            if let Some(policy) = policy {
                push_field(out, b"Content-Security-Policy: ", policy.as_bytes());
            }
        }
        Extra::RetryAfter(seconds) => {
            out.extend_from_slice(b"Retry-After: ");
            push_number(out, *seconds as usize);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes a problem document (RFC 9457): `code` is a stable snake_case word, `detail` a text. `code` and `request_id`
/// are words that JSON need not escape.
///
/// ```text
/// {"type":"about:blank","title":"Not Found","status":404,"detail":"not found",
///  "code":"not_found","request_id":"4f3a"}
/// ```
///
/// `type` stays `about:blank`: a program reads `code`, and a URL that is not served would be of no use.
pub fn write_problem(out: &mut Vec<u8>, status: u16, code: &str, detail: &str, request_id: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"about:blank\",\"title\":\"");
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    push_number(out, status.into());
    out.extend_from_slice(b",\"detail\":");
    push_string(out, detail);
    out.extend_from_slice(b",\"code\":\"");
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(b"\",\"request_id\":\"");
    out.extend_from_slice(request_id);
    out.extend_from_slice(b"\"}");
}

/// Writes a text as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("BUG: a string is JSON and a Vec takes any write");
    }
}

/// `name` includes its colon.
#[inline]
fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Everything but unreserved characters (RFC 3986 §2.3) as `%XX`.
pub fn push_percent_encoded(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let digit = |n: u8| b"0123456789ABCDEF"[usize::from(n)];
            out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Decimal digits without the format machinery, which costs more than the rest of a small head.
pub fn push_number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    const PLAIN: Printing<'static> = Printing {
        head_only: false,
        close: false,
        keep_alive_1_0: false,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        cors: Cors::Off,
        quota: None,
        request_id: b"id-1",
    };
    const HEAD: Printing<'static> = Printing { head_only: true, ..PLAIN };

    fn printed(response: &Response, how: &Printing) -> String {
        let mut out = b"before".to_vec();
        print(response, how, &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn prints_status_headers_length_date_and_body() {
        let response = Response { etag: Some([b'a'; 34]), ..Response::json(200, &b"{}"[..]) };
        assert_eq!(
            printed(&response, &PLAIN),
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: {}\r\n\
                 X-Request-Id: id-1\r\nX-Content-Type-Options: nosniff\r\n\
                 Content-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{{}}",
                "a".repeat(34)
            )
        );
    }

    #[test]
    fn length_and_body_follow_status_and_method() {
        let long = "x".repeat(40_000);
        let text = |status, body: &'static str| Response::text(status, body.as_bytes());
        for (response, how, length, body) in [
            (text(200, "abc"), PLAIN, Some("3"), "abc"),
            (text(200, "abc"), HEAD, Some("3"), ""),
            (text(200, ""), PLAIN, Some("0"), ""),
            (Response::empty(404), PLAIN, Some("0"), ""),
            (Response::empty(204), PLAIN, None, ""),
            (Response::empty(204), HEAD, None, ""),
            (text(204, "abc"), PLAIN, None, ""),
            (Response::empty(304), PLAIN, None, ""),
            (text(304, "abc"), PLAIN, None, ""),
            (Response::text(200, long.as_bytes()), PLAIN, Some("40000"), &long),
        ] {
            let printed = printed(&response, &how);
            let (head, rest) = printed.split_once("\r\n\r\n").unwrap();
            let found: Vec<_> =
                head.lines().filter_map(|line| line.strip_prefix("Content-Length: ")).collect();
            assert_eq!(found, Vec::from_iter(length), "{}", response.status);
            assert_eq!(rest, body, "{}", response.status);
        }
    }

    #[test]
    fn an_interim_response_is_its_status_line() {
        assert_eq!(CONTINUE, format!("HTTP/1.1 100 {}\r\n\r\n", reason(100)).as_bytes());
    }

    #[test]
    fn close_wins_over_keep_alive() {
        for (close, keep_alive_1_0, wanted) in [
            (false, false, None),
            (true, false, Some("close")),
            (false, true, Some("keep-alive")),
            (true, true, Some("close")),
        ] {
            let how = Printing { close, keep_alive_1_0, ..PLAIN };
            let printed = printed(&Response::empty(204), &how);
            let mut lines = printed.lines();
            assert_eq!(lines.find_map(|line| line.strip_prefix("Connection: ")), wanted);
            assert_eq!(lines.find(|line| line.starts_with("Connection")), None);
        }
    }

    #[test]
    fn no_id_splits_a_response() {
        let id = Cow::Borrowed(&b"a b\r\nSet-Cookie: x\0\xc3\xa9~"[..]);
        let extra = Extra::Location(Location { before: "/items/", id });
        let printed = printed(&Response { extra, ..Response::empty(201) }, &PLAIN);
        let lines: Vec<_> = printed.lines().filter(|l| l.starts_with("Location")).collect();
        assert_eq!(lines, ["Location: /items/a%20b%0D%0ASet-Cookie%3A%20x%00%C3%A9~"]);
    }

    #[test]
    fn every_field_is_printed() {
        for (extra, lines) in [
            (Extra::Link("</a>; rel=\"next\"".to_owned()), "Link: </a>; rel=\"next\"\r\n"),
            (Extra::Negotiated(None), "Vary: Accept\r\nCache-Control: no-cache\r\n"),
            (
                Extra::Negotiated(Some("default-src 'none'")),
                "Vary: Accept\r\nCache-Control: no-cache\r\n\
                 Content-Security-Policy: default-src 'none'\r\n",
            ),
            (Extra::Allow("GET", None), "Allow: GET\r\n"),
            (Extra::Allow("GET", Some("a/b")), "Allow: GET\r\nAccept-Patch: a/b\r\n"),
            (Extra::AcceptPatch("a/b"), "Accept-Patch: a/b\r\n"),
            (Extra::AcceptIdentity, "Accept-Encoding: identity\r\n"),
            (Extra::RetryAfter(1), "Retry-After: 1\r\n"),
            (Extra::Authenticate("Bearer"), "WWW-Authenticate: Bearer\r\n"),
            (
                Extra::Preflight("GET"),
                "Access-Control-Allow-Methods: GET\r\nAccess-Control-Allow-Headers: Authorization, \
                 Content-Type, If-Match, If-None-Match, Idempotency-Key, X-Request-Id, traceparent, \
                 tracestate\r\nAccess-Control-Max-Age: 600\r\n",
            ),
        ] {
            let response =
                Response { extra, no_store: true, replayed: true, ..Response::empty(200) };
            let printed = printed(&response, &PLAIN);
            let fields = format!("no-store\r\nIdempotency-Replayed: true\r\n{lines}X-Request-Id");
            assert!(printed.contains(&fields), "{printed}");
        }
    }

    #[test]
    fn what_a_response_says_of_other_sites_and_of_a_limit() {
        let quota = Some(&Quota { limit: 10, window: 60, left: 3, resets_in: 42 });
        for (how, fields) in [
            (Printing { cors: Cors::Others, ..PLAIN }, "Vary: Origin\r\n"),
            (
                Printing { cors: Cors::Origin(b"https://a"), ..PLAIN },
                "Vary: Origin\r\nAccess-Control-Allow-Origin: https://a\r\n\
                 Access-Control-Expose-Headers: ETag, Location, Link, Retry-After, X-Request-Id, \
                 Idempotency-Replayed, RateLimit\r\n",
            ),
            (
                Printing { quota, ..PLAIN },
                "RateLimit-Policy: \"default\";q=10;w=60\r\nRateLimit: \"default\";r=3;t=42\r\n",
            ),
        ] {
            let printed = printed(&Response::empty(204), &how);
            let wanted = format!("HTTP/1.1 204 No Content\r\n{fields}X-Request-Id: ");
            assert!(printed.starts_with(&wanted), "{printed}");
        }
    }

    #[test]
    fn prints_every_digit() {
        for number in [0, 9, 10, 204, 40_000, usize::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn problem_is_a_json_object_with_every_member() {
        let mut body = Vec::new();
        write_problem(&mut body, 404, "not_found", "no \"x\"\n\u{e9}", b"id-1");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"type\":\"about:blank\",\"title\":\"Not Found\",\"status\":404,\
             \"detail\":\"no \\\"x\\\"\\n\u{e9}\",\"code\":\"not_found\",\"request_id\":\"id-1\"}"
        );
    }

    #[test]
    fn a_plain_string_is_written_as_the_json_library_writes_it() {
        for text in ["", "a b", "~", " ", "\"", "\\", "\x1f", "\x7f", "\u{e9}", "a\tb"] {
            let mut out = Vec::new();
            push_string(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(text).unwrap());
        }
    }
}
