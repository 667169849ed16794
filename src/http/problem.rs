//! The responses everybody makes: problem documents (RFC 9457), JSON, plain text, nothing.
//!
//! ```text
//! {"type":"about:blank","title":"Not Found","status":404,"detail":"not found",
//!  "code":"not_found","request_id":"4f3a"}
//! ```
//!
//! `type` stays `about:blank`: a program reads `code`, and a URL nobody serves would help no one.
//! A problem is made for every refused request, so it is written straight into its bytes.

use super::{Header, Response, StatusCode};
use std::io::{Cursor, Write};

/// An `application/problem+json` response; `code` is a stable snake_case word, `detail` a text.
pub fn problem(status: u16, code: &str, detail: &str, request_id: &str) -> Response {
    let title = StatusCode(status).default_reason_phrase();
    let mut body = Vec::with_capacity(160);
    body.extend_from_slice(b"{\"type\":\"about:blank\",\"title\":");
    push_string(&mut body, title);
    write!(body, ",\"status\":{status},\"detail\":").expect("BUG: a Vec takes any write");
    push_string(&mut body, detail);
    body.extend_from_slice(b",\"code\":");
    push_string(&mut body, code);
    body.extend_from_slice(b",\"request_id\":");
    push_string(&mut body, request_id);
    body.push(b'}');
    response(status, Some("application/problem+json"), body)
}

/// A response whose body is JSON already.
pub fn json(status: u16, body: Vec<u8>) -> Response {
    response(status, Some("application/json"), body)
}

/// A plain text response in UTF-8.
pub fn text(status: u16, body: &str) -> Response {
    response(status, Some("text/plain; charset=utf-8"), body.into())
}

/// A response with neither body nor headers.
pub fn empty(status: u16) -> Response {
    response(status, None, Vec::new())
}

/// Takes the body out of a response, to look at it.
pub fn take_body(response: Response) -> (Response, Vec<u8>) {
    let (status, headers) = (response.status_code(), response.headers().to_vec());
    let body = response.into_reader().into_inner();
    let rest = Response::new(status, headers, Cursor::new(Vec::new()), Some(0), None);
    (rest, body)
}

/// Puts a body into a response, in place of the one it has.
pub fn with_body(response: Response, body: Vec<u8>) -> Response {
    let length = body.len();
    response.with_data(Cursor::new(body), Some(length))
}

/// A header of our own making. Panics on text a header cannot hold; for text that came from
/// outside there is `checked_header`.
pub fn header(name: &'static str, value: &str) -> Header {
    // What could end a line in it, printing leaves out; here only ASCII counts.
    Header::from_bytes(name, value).expect("BUG: our own headers are ASCII")
}

/// A header whose value came from outside; `None` if it is not printable ASCII (spaces and HTAB
/// may be inside). Nothing that could split a response passes.
pub fn checked_header(name: &'static str, value: &str) -> Option<Header> {
    let printable = |byte: u8| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
    if !value.bytes().all(printable) {
        return None;
    }
    Header::from_bytes(name, value).ok()
}

fn response(status: u16, content_type: Option<&str>, body: Vec<u8>) -> Response {
    let length = body.len();
    let headers = content_type.map(|value| header("Content-Type", value));
    let headers = headers.into_iter().collect();
    Response::new(StatusCode(status), headers, Cursor::new(body), Some(length), None)
}

fn push_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("BUG: a string is JSON and a Vec takes any write");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(response: &Response) -> Option<&str> {
        let mut headers = response.headers().iter();
        let found = headers.find(|header| header.field.equiv("Content-Type"));
        found.map(|header| header.value.as_str())
    }

    #[test]
    fn problem_is_a_json_object_with_every_member() {
        let response = problem(404, "not_found", "no \"x\"\n\u{e9}", "id-1");
        assert_eq!(response.status_code(), 404);
        assert_eq!(content_type(&response), Some("application/problem+json"));
        let length = response.data_length();
        let body = response.into_reader().into_inner();
        assert_eq!(length, Some(body.len()));
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"type\":\"about:blank\",\"title\":\"Not Found\",\"status\":404,\
             \"detail\":\"no \\\"x\\\"\\n\u{e9}\",\"code\":\"not_found\",\"request_id\":\"id-1\"}"
        );
    }

    #[test]
    fn helpers_declare_the_exact_length() {
        for (response, kind, length) in [
            (json(200, b"{}".to_vec()), Some("application/json"), 2),
            (text(503, "\u{e9}"), Some("text/plain; charset=utf-8"), 2),
            (empty(204), None, 0),
        ] {
            assert_eq!(content_type(&response), kind);
            assert_eq!(response.data_length(), Some(length));
        }
    }

    #[test]
    fn checked_header_refuses_what_could_split_a_response() {
        for (value, passes) in [
            ("", true),
            ("/items/a%20b", true),
            ("a\tb c", true),
            ("a\r\nSet-Cookie: x", false),
            ("a\nb", false),
            ("a\0", false),
            ("a\x7f", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(checked_header("Location", value).is_some(), passes, "{value:?}");
        }
    }
}
