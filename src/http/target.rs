//! The request target in its four forms (RFC 9112 §3.2), and the decoder for its parts.
//!
//! ```text
//! /items?id=7                   origin-form      path "/items", query "id=7"
//! http://kiosk/items?id=7       absolute-form    the same path and query
//! kiosk:443                     authority-form   CONNECT only; path ""
//! *                             asterisk-form    OPTIONS only; path "*"
//! ```
//!
//! A target is kept as sent. Decoding is a separate step for the service, which splits first and
//! decodes after: `/items/a%2Fb` is one segment, and a decode-first reader would see two.

use super::authority::Authority;
use super::{Method, ParseError};
use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Origin,
    Absolute,
    Authority,
    Asterisk,
}

/// Finds the form of a target, checks it against `method`, and finds where the path begins. Escapes are not checked.
#[inline]
pub(super) fn form(method: Method, raw: &[u8]) -> Result<(Form, usize), ParseError> {
    match raw.first() {
        Some(b'/') if method != Method::Connect => Ok((Form::Origin, 0)),
        _ => rare_form(method, raw),
    }
}

/// The same for all but the origin-form.
fn rare_form(method: Method, raw: &[u8]) -> Result<(Form, usize), ParseError> {
    let bad = ParseError::BadTarget;
    if method == Method::Connect {
        // RFC 9110 §9.3.6: there is no default port to tunnel to.
        Authority::parse(raw).ok_or(bad)?.port.ok_or(bad)?;
        Ok((Form::Authority, raw.len()))
    } else if raw == b"*" && method == Method::Options {
        Ok((Form::Asterisk, 0))
    } else {
        Ok((Form::Absolute, absolute_path_at(raw).ok_or(bad)?))
    }
}

/// Where the path of an absolute-form target begins, if it is one.
fn absolute_path_at(raw: &[u8]) -> Option<usize> {
    let scheme_len = raw.windows(3).position(|w| w == b"://")?;
    let (scheme, rest) = (&raw[..scheme_len], &raw[scheme_len + 3..]);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let authority_len = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
    Authority::parse(&rest[..authority_len])?;
    Some(scheme_len + 3 + authority_len)
}

/// Undoes percent-encoding (RFC 3986 §2.1), and with `plus_is_space` that of HTML forms as well. `None` for a `%` that two
/// hexadecimal digits do not follow.
///
/// The result is bytes: whether they must be UTF-8 is the caller's rule. It is never longer than
/// `raw`, and borrows what needs no decoding, which is nearly everything.
#[inline]
pub fn percent_decode(raw: &[u8], plus_is_space: bool) -> Option<Cow<'_, [u8]>> {
    let is_coded = |byte: &u8| *byte == b'%' || (plus_is_space && *byte == b'+');
    match raw.iter().any(is_coded) {
        true => decode(raw, plus_is_space).map(Cow::Owned),
        false => Some(Cow::Borrowed(raw)),
    }
}

fn decode(raw: &[u8], plus_is_space: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next())? << 4 | hex_digit(bytes.next())?,
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    Some(decoded)
}

fn hex_digit(byte: Option<u8>) -> Option<u8> {
    char::from(byte?).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, OwnedHead, parse};
    use super::*;

    #[test]
    fn accepts_the_four_forms() {
        for (method, raw, path, query, authority) in [
            ("GET", "/", "/", None, None),
            ("GET", "/?", "/", Some(""), None),
            ("GET", "/items?id=7?&/", "/items", Some("id=7?&/"), None),
            ("GET", "/a%2Fb%zz", "/a%2Fb%zz", None, None),
            ("GET", "//a", "//a", None, None),
            ("GET", "http://a", "/", None, Some("a")),
            ("GET", "http://a?x", "/", Some("x"), Some("a")),
            ("GET", "HTTPS://[::1]:443/b?x", "/b", Some("x"), Some("[::1]:443")),
            ("GET", "http://a:80//b?c://d", "//b", Some("c://d"), Some("a:80")),
            ("OPTIONS", "*", "*", None, None),
            ("OPTIONS", "/", "/", None, None),
            ("CONNECT", "a:443", "", None, None),
            ("CONNECT", "[::1]:443", "", None, None),
        ] {
            let read = OwnedHead::of(format!("{method} {raw} HTTP/1.1\r\nHost: b\r\n\r\n"));
            let head = read.head();
            let found = (head.path(), head.query_text(), head.authority());
            let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
            assert_eq!(found, (path.as_bytes(), bytes(query), bytes(authority)), "{raw}");
            assert_eq!(head.is_asterisk(), raw == "*");
            assert_eq!(head.target_text(), raw.as_bytes());
        }
    }

    #[test]
    fn refuses_forms_the_method_may_not_use_and_malformed_ones() {
        let fails = |method: &str, raw: &str| {
            let head = format!("{method} {raw} HTTP/1.1\r\nHost: b\r\n\r\n");
            parse(head.as_bytes(), &HeadLimits::default()).err()
        };
        for (method, raw) in [
            ("GET", "*"),
            ("OPTIONS", "**"),
            ("OPTIONS", "*?a"),
            ("GET", "items"),
            ("GET", "?a"),
            ("GET", "a:443"),
            ("GET", "ftp://a/"),
            ("GET", "http:/a"),
            ("GET", "http://"),
            ("GET", "http:///a"),
            ("GET", "http://:80/"),
            ("GET", "http://u@a/"),
            ("GET", "http://a,b/"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "/"),
            ("CONNECT", "*"),
            ("CONNECT", "a:443/"),
            ("CONNECT", "http://a:443"),
        ] {
            let found = form(Method::of(method.as_bytes()), raw.as_bytes());
            assert_eq!(found, Err(ParseError::BadTarget), "{method} {raw}");
            assert_eq!(fails(method, raw), Some(ParseError::BadTarget), "{method} {raw}");
        }
        // A byte in no alphabet of a target is refused before its form is determined.
        for raw in ["", "/?a=http://b#c", "/#", "/ a", "/\u{e9}", "/\x7f"] {
            assert!(fails("GET", raw).is_some(), "{raw}");
        }
    }

    #[test]
    fn decodes_escapes_strictly() {
        for (raw, plus_is_space, wanted) in [
            ("", true, Some(&b""[..])),
            ("a+b", true, Some(b"a b")),
            ("a+b", false, Some(b"a+b")),
            ("a%2Bb", true, Some(b"a+b")),
            ("%00%fF%C3%a9", false, Some(b"\0\xff\xc3\xa9")),
            ("%2541", false, Some(b"%41")),
            ("%", false, None),
            ("%4", false, None),
            ("%4g", false, None),
            ("%+1", true, None),
            ("%%41", false, None),
            ("a%4\u{e9}", false, None),
        ] {
            let decoded = percent_decode(raw.as_bytes(), plus_is_space);
            assert_eq!(decoded.as_deref(), wanted, "{raw}");
        }
    }
}
