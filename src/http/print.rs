//! Prints responses. The mirror of `head`: values in, bytes out.
//!
//! ```text
//! HTTP/1.1 200 OK␍␊
//! Content-Type: application/json␍␊
//! Content-Length: 2␍␊
//! Date: Sun, 06 Nov 1994 08:49:37 GMT␍␊
//! Connection: close␍␊
//! ␍␊
//! {}
//! ```
//!
//! tiny_http's own `raw_print` is not used, for reasons checked on 0.12.0: it sends
//! `Content-Length: 0` with a 204, which RFC 9110 §8.6 forbids; it cannot send `Connection: close`;
//! it turns to chunks at 32 KiB although the length is known; it sorts the request's `TE` by q-values
//! that may be NaN, an order no sort can rely on; and it formats a date for every response.
//!
//! The length is always counted here, never believed: a wrong one would shift every response
//! behind it.

use super::bytes::{TOKEN, VALUE, run};
use super::{Header, Response};

/// The interim response to `Expect: 100-continue` (RFC 9110 §10.1.1), ready to send.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What printing needs to know beside the response.
#[derive(Debug, Clone, Copy)]
pub struct Printing<'a> {
    /// The request was HEAD: everything but the body.
    pub head_only: bool,
    /// The connection closes behind this response; wins over `keep_alive_1_0`.
    pub close: bool,
    /// The client speaks HTTP/1.0 and asked to keep the connection, so it must be told (RFC 9112
    /// §9.3 keeps silent about a 1.1 client).
    pub keep_alive_1_0: bool,
    /// The current date as `http_date` prints it.
    pub date: &'a str,
}

/// Appends the response to `out`.
///
/// The version printed is always HTTP/1.1, also to a 1.0 client (RFC 9110 §6.2). A header that
/// would split the response, or that printing itself decides, is left out.
pub fn print(response: Response, how: &Printing, out: &mut Vec<u8>) {
    let status = response.status_code();
    let declared = response.data_length();
    out.reserve(room_for(&response, how.head_only));

    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, status.0.into());
    out.push(b' ');
    out.extend_from_slice(status.default_reason_phrase().as_bytes());
    out.extend_from_slice(b"\r\n");
    for header in response.headers() {
        if may_print(header) {
            push_field(out, header.field.as_str().as_str(), header.value.as_str());
        }
    }
    let body = response.into_reader().into_inner();
    if let Some(length) = content_length(status.0, how.head_only, declared, body.len()) {
        out.extend_from_slice(b"Content-Length: ");
        push_number(out, length);
        out.extend_from_slice(b"\r\n");
    }
    // An interim response says nothing about the connection; its final one will.
    if status.0 >= 200 {
        push_field(out, "Date", how.date);
        if how.close {
            push_field(out, "Connection", "close");
        } else if how.keep_alive_1_0 {
            push_field(out, "Connection", "keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n");

    if !how.head_only && !matches!(status.0, 100..=199 | 204 | 304) {
        out.extend_from_slice(&body);
    }
}

/// A guess at the printed size, so that `out` grows once. Only a guess: the declared length may be
/// wrong, so it buys 64 KiB at most.
fn room_for(response: &Response, head_only: bool) -> usize {
    /// Status line, Date, Content-Length, Connection and the empty line.
    const OWN_LINES: usize = 160;
    let length = |header: &Header| header.field.as_str().len() + header.value.len() + 4;
    let headers: usize = response.headers().iter().map(length).sum();
    let body = if head_only { 0 } else { response.data_length().unwrap_or(0) };
    OWN_LINES + headers + body.min(64 * 1024)
}

/// What `Content-Length` says, if it may be sent at all (RFC 9110 §8.6).
///
/// A HEAD and a 304 speak of the body a GET would get, which a service may declare without making
/// it. For a 304 that is optional, so there only a length that was set beside the body counts.
fn content_length(
    status: u16,
    head_only: bool,
    declared: Option<usize>,
    body: usize,
) -> Option<usize> {
    match status {
        100..=199 | 204 => None,
        304 => declared.filter(|&length| length != body),
        _ if head_only => Some(declared.unwrap_or(body)),
        _ => Some(body),
    }
}

/// Whether a header may go out: `print` owns `Date`, and no name or value may end its line.
///
/// tiny_http keeps `Connection`, `Transfer-Encoding` and `Content-Length` out of the list by itself,
/// but lets any ASCII into a value, CR and LF included. Such a header is dropped, not escaped: what
/// it was meant to say is lost already, and the rest of the response is sound.
fn may_print(header: &Header) -> bool {
    let (name, value) = (header.field.as_str().as_bytes(), header.value.as_bytes());
    let well_formed =
        !name.is_empty() && run(name, TOKEN) == name.len() && run(value, VALUE) == value.len();
    well_formed && !header.field.equiv("Date")
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Decimal digits without the format machinery, which costs more than the rest of a small head.
fn push_number(out: &mut Vec<u8>, mut number: usize) {
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
    use super::super::{empty, header, json, text};
    use super::*;

    const PLAIN: Printing<'static> = Printing {
        head_only: false,
        close: false,
        keep_alive_1_0: false,
        date: "Sun, 06 Nov 1994 08:49:37 GMT",
    };
    const HEAD: Printing<'static> = Printing { head_only: true, ..PLAIN };

    fn printed(response: Response, how: &Printing) -> String {
        let mut out = b"before".to_vec();
        print(response, how, &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn prints_status_headers_length_date_and_body() {
        assert_eq!(
            printed(json(200, b"{}".to_vec()).with_header(header("ETag", "\"a\"")), &PLAIN),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"a\"\r\n\
             Content-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{}"
        );
    }

    #[test]
    fn length_and_body_follow_status_and_method() {
        let declared = |status| empty(status).with_header(header("Content-Length", "77"));
        for (response, how, length, body) in [
            (text(200, "abc"), PLAIN, Some("3"), "abc"),
            (text(200, "abc"), HEAD, Some("3"), ""),
            (text(200, ""), PLAIN, Some("0"), ""),
            (empty(404), PLAIN, Some("0"), ""),
            (empty(204), PLAIN, None, ""),
            (empty(204), HEAD, None, ""),
            (text(204, "abc"), PLAIN, None, ""),
            (declared(204), PLAIN, None, ""),
            (empty(304), PLAIN, None, ""),
            (text(304, "abc"), PLAIN, None, ""),
            (declared(304), PLAIN, Some("77"), ""),
            (declared(200), HEAD, Some("77"), ""),
            // A declared length is not believed where a body follows.
            (declared(200), PLAIN, Some("0"), ""),
            (text(200, &"x".repeat(40_000)), PLAIN, Some("40000"), &"x".repeat(40_000)),
        ] {
            let status = response.status_code().0;
            let printed = printed(response, &how);
            let (head, rest) = printed.split_once("\r\n\r\n").unwrap();
            let found: Vec<_> =
                head.lines().filter_map(|line| line.strip_prefix("Content-Length: ")).collect();
            assert_eq!(found, Vec::from_iter(length), "{status}");
            assert_eq!(rest, body, "{status}");
        }
    }

    #[test]
    fn an_interim_response_is_its_status_line() {
        let how = Printing { close: true, keep_alive_1_0: true, ..PLAIN };
        assert_eq!(printed(empty(100), &how).as_bytes(), CONTINUE);
    }

    #[test]
    fn close_wins_over_keep_alive() {
        for (close, keep_alive_1_0, wanted) in [
            (false, false, None),
            (true, false, Some("close")),
            (false, true, Some("keep-alive")),
            (true, true, Some("close")),
        ] {
            let printed = printed(empty(204), &Printing { close, keep_alive_1_0, ..PLAIN });
            let mut lines = printed.lines();
            assert_eq!(lines.find_map(|line| line.strip_prefix("Connection: ")), wanted);
            assert_eq!(lines.find(|line| line.starts_with("Connection")), None);
        }
    }

    #[test]
    fn headers_cannot_split_the_response_or_repeat_ours() {
        let sound = printed(text(200, "abc"), &PLAIN);
        for (name, value) in [
            ("Location", "/a\r\nSet-Cookie: b=c"),
            ("Location", "/a\n\nb"),
            ("Location", "/a\rb"),
            ("Location", "/a\0"),
            ("X-A\r\nX-B", "a"),
            ("X A", "a"),
            ("X-A:", "a"),
            ("", "a"),
            ("Date", "never"),
            ("date", "never"),
            ("Connection", "upgrade"),
            ("Content-Length", "9"),
            ("Transfer-Encoding", "chunked"),
        ] {
            let header = Header::from_bytes(name, value).unwrap();
            assert_eq!(printed(text(200, "abc").with_header(header), &PLAIN), sound);
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
}
