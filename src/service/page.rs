//! `/`: for browsers a page that shows how the process is and sends requests, for programs the paths there are.
//!
//! ```text
//! GET /   Accept: text/html, */*;q=0.8     the page                  unless STATUS_PAGE=off
//! GET /   Accept: */*, or none             {"name":"kioskd",…}
//! ```
//!
//! The page is a file beside this one, of at most 10 KiB, and names no other resource. It holds nothing secret, so it
//! wants no token, and costs the store nothing, so it is not limited: what it shows it asks for as any client does, at
//! `/readyz`, `/metrics` and `/version`, with a token where one is wanted. Its Content-Security-Policy lets run what
//! stands in the file, and nothing that a document or an id could bring in; and no script can make markup of a text.

use super::condition::Conditions;
use super::etag::etag;
use super::problem::Problem;
use super::route::ROUTES;
use crate::http::{ContentType, Extra, Head, Method, Response};

/// The page as it is served.
const PAGE: &str = include_str!("status.html");

/// With the SHA-256 of the page's style and of its script. A test compares them and says what they have to be.
const POLICY: &str = "default-src 'none'; connect-src 'self'; \
    style-src 'sha256-N+2vLWBabngvRrbUASWm8xZYW/gF4J2l8Q0ynyJR4Ig='; \
    script-src 'sha256-VN8apbnQtHrwpObnGU5jwhCxtmrtWuPflne96KNbNbk='; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'";

/// Whether a request for `/` is a browser's, for the page.
pub fn is_wanted(head: &Head) -> bool {
    let is_read = matches!(head.method(), Method::Get | Method::Head);
    is_read && head.path() == b"/" && rank(head, b"html") > rank(head, b"json")
}

/// How much a client wants `text/html` or `application/json` (RFC 9110 §12.5.1): the weight in thousandths of the most
/// precise range for it, then how precise that is. `text/html, */*` asks for HTML, `*/*` for nothing.
///
/// `Accept` is none of the fields that are noted while a head is read: nothing else looks at it.
fn rank(head: &Head, subtype: &[u8]) -> (u16, u8) {
    let ranges: [&[u8]; 3] = match subtype {
        b"html" => [b"*/*", b"text/*", b"text/html"],
        _ => [b"*/*", b"application/*", b"application/json"],
    };
    let accepts = head.fields().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
    let mut best = (0, 0);
    for member in accepts.flat_map(|(_, value)| value.split(|b| *b == b',')) {
        let mut parts = member.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let Some(place) = ranges.iter().position(|known| known.eq_ignore_ascii_case(range)) else {
            continue;
        };
        let precision = place as u8 + 1;
        if precision >= best.1 {
            best = (parts.find_map(weight).unwrap_or(1000), precision);
        }
    }
    // What has no weight is not wanted, however precisely it says so.
    if best.0 == 0 { (0, 0) } else { best }
}

/// `q=0.8` in thousandths; `None` for another parameter, and 0 for a weight that is none.
fn weight(parameter: &[u8]) -> Option<u16> {
    let (name, digits) = parameter.split_at_checked(2)?;
    if !name.eq_ignore_ascii_case(b"q=") {
        return None;
    }
    let thousandths = |fraction: &[u8]| {
        let is_well = fraction.len() <= 3 && fraction.iter().all(u8::is_ascii_digit);
        let digits = fraction.iter().chain(b"000").take(3);
        is_well.then(|| digits.fold(0, |n, digit| n * 10 + u16::from(digit - b'0')))
    };
    let weight = match digits {
        b"1" => Some(1000),
        b"0" => Some(0),
        [b'1', b'.', fraction @ ..] => thousandths(fraction).filter(|n| *n == 0).map(|_| 1000),
        [b'0', b'.', fraction @ ..] => thousandths(fraction),
        _ => None,
    };
    Some(weight.unwrap_or(0))
}

/// The page. It may be kept, and is asked for again: it changes with the version only.
///
/// # Errors
/// 400 or 412: the conditions of the request.
pub fn page<'a>(head: &Head) -> Result<Response<'a>, Problem> {
    let (tag, conditions) = (etag(PAGE.as_bytes()), Conditions::of(head)?);
    if !conditions.is_matched(Some(&tag)) {
        return Err(conditions.failed());
    }
    let response = match conditions.is_none_matched(Some(&tag)) {
        true => Response::empty(304),
        false => Response::of(200, ContentType::Html, PAGE.as_bytes()),
    };
    Ok(Response { etag: Some(tag), extra: Extra::Negotiated(Some(POLICY)), ..response })
}

/// The paths there are, and where they are described.
pub fn index<'a>() -> Response<'a> {
    let mut body = "{\"name\":\"kioskd\",\"description\":\"/openapi.json\",\"paths\":[".to_owned();
    for (n, row) in ROUTES.iter().enumerate() {
        body.push_str(if n == 0 { "\"" } else { ",\"" });
        body.push_str(row.path);
        if let Some(name) = row.parameter {
            body.extend(["{", name, "}"]);
        }
        body.push('"');
    }
    body.push_str("]}");
    Response { extra: Extra::Negotiated(None), ..Response::json(200, body.into_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::OwnedHead;

    #[test]
    fn a_browser_gets_the_page_and_who_wants_anything_does_not() {
        for (fields, wanted) in [
            ("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n", true),
            ("accept: TEXT/HTML\r\n", true),
            ("Accept: text/html, */*\r\n", true),
            ("Accept: text/*\r\n", true),
            ("Accept: application/json;q=0.5\r\nAccept: text/html;level=1;q=0.501\r\n", true),
            ("Accept: application/json;q=0, */*\r\n", true),
            ("Accept: text/html;Q=0.001\r\n", true),
            ("Accept: text/html;q=1.000\r\n", true),
            ("", false),
            ("Accept:\r\n", false),
            ("Accept: */*\r\n", false),
            ("Accept: application/json, text/html\r\n", false),
            ("Accept: application/json, text/html;q=0.999\r\n", false),
            ("Accept: text/html;q=0, */*\r\n", false),
            ("Accept: text/html;q=0\r\n", false),
            ("Accept: text/html;q=2\r\n", false),
            ("Accept: text/html;q=0.1234\r\n", false),
            ("Accept: text/html;q=\r\n", false),
            ("Accept: text/htmlx, text/htm\r\n", false),
            ("Accept: ,;,;q=1,\r\n", false),
            ("X-Accept: text/html\r\n", false),
        ] {
            for (line, is_read) in [("GET /", true), ("HEAD /?x=1", true), ("GET /livez", false)] {
                let message = format!("{line} HTTP/1.1\r\nHost: k\r\n{fields}\r\n");
                let found = is_wanted(&OwnedHead::of(&message).head());
                assert_eq!(found, wanted && is_read, "{message}");
            }
        }
    }
}
