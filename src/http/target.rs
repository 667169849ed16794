//! The request target in its four forms (RFC 9112 §3.2), and the decoders for its parts.
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
use super::bytes::{TARGET, run};
use super::{Method, ParseError};
use std::borrow::Cow;
use std::fmt;

/// A well-formed request target, kept as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    raw: String,
    form: Form,
    path_at: usize,
    /// Where the `?` is, or the end.
    query_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Origin,
    Absolute,
    Authority,
    Asterisk,
}

impl Target {
    /// Tells the form and checks it against `method`. Escapes are not decoded and not judged.
    pub fn parse(method: &Method, raw: &str) -> Result<Target, ParseError> {
        if run(raw.as_bytes(), TARGET) != raw.len() {
            return Err(ParseError::BadTarget);
        }
        let (form, path_at) = if *method == Method::Connect {
            let authority = Authority::parse(raw).ok_or(ParseError::BadTarget)?;
            // RFC 9110 §9.3.6: there is no default port to tunnel to.
            authority.port.ok_or(ParseError::BadTarget)?;
            (Form::Authority, raw.len())
        } else if raw.starts_with('/') {
            (Form::Origin, 0)
        } else if raw == "*" && *method == Method::Options {
            (Form::Asterisk, 0)
        } else {
            (Form::Absolute, absolute_path_at(raw).ok_or(ParseError::BadTarget)?)
        };
        let query_at = raw[path_at..].find('?').map_or(raw.len(), |i| path_at + i);
        let raw = raw.to_owned();
        Ok(Target { raw, form, path_at, query_at })
    }

    /// The target as sent.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The raw path: begins with `/`, or is `*` (asterisk-form) or empty (authority-form).
    pub fn path(&self) -> &str {
        match &self.raw[self.path_at..self.query_at] {
            "" if self.form == Form::Absolute => "/",
            path => path,
        }
    }

    /// The raw query behind the first `?`; `Some("")` for a `?` with nothing behind it.
    pub fn query(&self) -> Option<&str> {
        self.raw.get(self.query_at + 1..)
    }

    /// True for `OPTIONS *`, which asks about the server and not about a path.
    pub fn is_asterisk(&self) -> bool {
        self.form == Form::Asterisk
    }

    /// The host and port that an absolute-form target names; what `Host` says is then ignored (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&str> {
        let rest = self.raw.get(..self.path_at)?;
        rest.split_once("://").map(|(_, authority)| authority)
    }

    /// True if the target itself names a host.
    pub(super) fn has_authority(&self) -> bool {
        matches!(self.form, Form::Absolute | Form::Authority)
    }
}

/// Where the path of an absolute-form target begins, if it is one.
fn absolute_path_at(raw: &str) -> Option<usize> {
    let (scheme, rest) = raw.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
    Authority::parse(&rest[..authority_len])?;
    Some(raw.len() - rest.len() + authority_len)
}

/// A `%` that two hexadecimal digits do not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadEscape;

impl fmt::Display for BadEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed percent escape")
    }
}

impl std::error::Error for BadEscape {}

/// Undoes percent-encoding (RFC 3986 §2.1), and with `plus_is_space` that of HTML forms as well.
///
/// The result is bytes: whether they must be UTF-8 is the caller's rule. It is never longer than
/// `raw`.
pub fn percent_decode(raw: &str, plus_is_space: bool) -> Result<Vec<u8>, BadEscape> {
    decode(raw, plus_is_space).map(Cow::into_owned)
}

/// The `name=value` pairs of a query, in order: the name decoded (`+` is a space), the value raw.
///
/// Empty pairs are skipped, a pair without `=` has an empty value, and a name with a malformed
/// escape says so in its place. Lazy, so a caller may stop early; there are never more pairs than
/// bytes, and the head's limits bound those.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (Result<Cow<'_, [u8]>, BadEscape>, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name, true), value)
    })
}

/// The decoded values of each pair called `name`, in order: a caller that wants exactly one can
/// see the second. Pairs whose name is malformed are passed over: they are not called `name`.
pub fn query_values<'a>(
    query: &'a str,
    name: &'a str,
) -> impl Iterator<Item = Result<Vec<u8>, BadEscape>> + 'a {
    query_pairs(query)
        .filter(move |(found, _)| found.as_deref() == Ok(name.as_bytes()))
        .map(|(_, value)| percent_decode(value, true))
}

/// Borrows what needs no decoding, which is nearly everything.
fn decode(raw: &str, plus_is_space: bool) -> Result<Cow<'_, [u8]>, BadEscape> {
    let is_coded = |byte: u8| byte == b'%' || (plus_is_space && byte == b'+');
    if !raw.bytes().any(is_coded) {
        return Ok(Cow::Borrowed(raw.as_bytes()));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next())? << 4 | hex_digit(bytes.next())?,
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    Ok(Cow::Owned(decoded))
}

fn hex_digit(byte: Option<u8>) -> Result<u8, BadEscape> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
    digit.map(|digit| digit as u8).ok_or(BadEscape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_four_forms() {
        for (method, raw, path, query) in [
            (Method::Get, "/", "/", None),
            (Method::Get, "/?", "/", Some("")),
            (Method::Get, "/items?id=7?&/", "/items", Some("id=7?&/")),
            (Method::Get, "/a%2Fb%zz", "/a%2Fb%zz", None),
            (Method::Get, "//a", "//a", None),
            (Method::Get, "http://a", "/", None),
            (Method::Get, "http://a?x", "/", Some("x")),
            (Method::Get, "HTTPS://[::1]:443/b?x", "/b", Some("x")),
            (Method::Get, "http://a:80//b?c://d", "//b", Some("c://d")),
            (Method::Options, "*", "*", None),
            (Method::Options, "/", "/", None),
            (Method::Connect, "a:443", "", None),
            (Method::Connect, "[::1]:443", "", None),
        ] {
            let target = Target::parse(&method, raw).unwrap();
            assert_eq!((target.path(), target.query()), (path, query), "{raw}");
            assert_eq!(target.is_asterisk(), raw == "*");
            assert_eq!(target.as_str(), raw);
        }
    }

    #[test]
    fn refuses_forms_the_method_may_not_use_and_malformed_ones() {
        for (method, raw) in [
            (Method::Get, ""),
            (Method::Get, "*"),
            (Method::Options, "**"),
            (Method::Options, "*?a"),
            (Method::Get, "items"),
            (Method::Get, "?a"),
            (Method::Get, "a:443"),
            (Method::Get, "ftp://a/"),
            (Method::Get, "http:/a"),
            (Method::Get, "http://"),
            (Method::Get, "http:///a"),
            (Method::Get, "http://:80/"),
            (Method::Get, "http://u@a/"),
            (Method::Get, "http://a,b/"),
            (Method::Get, "/?a=http://b#c"),
            (Method::Get, "/#"),
            (Method::Get, "/ a"),
            (Method::Get, "/\u{e9}"),
            (Method::Get, "/\x7f"),
            (Method::Connect, "a"),
            (Method::Connect, "a:"),
            (Method::Connect, "/"),
            (Method::Connect, "*"),
            (Method::Connect, "a:443/"),
            (Method::Connect, "http://a:443"),
        ] {
            let result = Target::parse(&method, raw);
            assert_eq!(result, Err(ParseError::BadTarget), "{method} {raw}");
        }
    }

    #[test]
    fn decodes_escapes_strictly() {
        for (raw, plus_is_space, wanted) in [
            ("", true, Ok(&b""[..])),
            ("a+b", true, Ok(b"a b")),
            ("a+b", false, Ok(b"a+b")),
            ("a%2Bb", true, Ok(b"a+b")),
            ("%00%fF%C3%a9", false, Ok(b"\0\xff\xc3\xa9")),
            ("%2541", false, Ok(b"%41")),
            ("%", false, Err(BadEscape)),
            ("%4", false, Err(BadEscape)),
            ("%4g", false, Err(BadEscape)),
            ("%+1", true, Err(BadEscape)),
            ("%%41", false, Err(BadEscape)),
            ("a%4\u{e9}", false, Err(BadEscape)),
        ] {
            let decoded = percent_decode(raw, plus_is_space);
            assert_eq!(decoded.as_deref(), wanted.as_ref().copied(), "{raw}");
        }
    }

    #[test]
    fn finds_every_value_of_a_parameter() {
        let query = "id=7&&x&i%64=a+b%2B&%zz=1&id&id=%&ID=9&=&id=c=d";
        let values: Vec<_> = query_values(query, "id").collect();
        let wanted = [Ok(&b"7"[..]), Ok(b"a b+"), Ok(b""), Err(BadEscape), Ok(b"c=d")];
        assert_eq!(values.len(), wanted.len());
        for (value, wanted) in values.iter().zip(wanted) {
            assert_eq!(value.as_deref(), wanted.as_ref().copied());
        }
        assert_eq!(query_pairs(query).count(), 9);
        assert_eq!(query_pairs(query).filter(|(name, _)| name.is_err()).count(), 1);
        assert_eq!(query_pairs("").count(), 0);
    }
}
