//! `Idempotency-Key`: a request that may arrive twice, and late, and takes effect once, over all replicas.
//!
//! ```text
//! PUT /items/7, Idempotency-Key: k  ─▶ Set item:7 …, once { name: ":k", fingerprint, … }
//!   there is no record              ─▶ done and recorded, in one step of the store
//!   a record of the same request    ─▶ its outcome, built from the record: Idempotency-Replayed: true
//!   a record of another request     ─▶ 422
//! ```
//!
//! There is no lock to take and none to release: the key is a property of the write ([`Once`]). So it does not matter
//! whether a first attempt is lost, still under way or behind its retry: the second write finds the record and does
//! nothing. Only a write that took effect has a record. A refusal changed nothing, so a repeat of it is evaluated anew.
//!
//! The record is short, because the response can be built again from the request: all it adds is whether the item
//! existed before, and for a PATCH the new document.
//!
//! The header follows draft-ietf-httpapi-idempotency-key-header: a structured string (RFC 8941 §3.3.3), which most
//! clients send without its quotes.

use super::etag::etag;
use super::problem::Problem;
use super::step::Cx;
use crate::http::{Field, Method};
use crate::store::Once;
use std::time::Duration;

const BAD_KEY: Problem = Problem::new(
    400,
    "bad_idempotency_key",
    "bad Idempotency-Key: one value of 1 to 255 printable ASCII characters, in quotes or without",
);
const REUSED: Problem = Problem::new(
    422,
    "idempotency_key_reused",
    "this Idempotency-Key was used with a different request",
);
const UNREADABLE: Problem = Problem::new(
    502,
    "store_error",
    "store error: the record of this Idempotency-Key cannot be read",
);

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// The identity of a request that must be done once; `None` without the field. `ttl` is the time to live as requested.
/// Before the body has arrived the fingerprint is not the right one: then only the errors are of use.
///
/// # Errors
/// The key is empty, too long, given twice, or not printable ASCII.
pub fn once<'a>(cx: &Cx<'a>, ttl: Option<Duration>) -> Result<Option<Once<'a>>, Problem> {
    let Some(value) = cx.head.first(Field::IdempotencyKey) else {
        return Ok(None);
    };
    let key = key(value).filter(|_| !cx.head.is_repeated(Field::IdempotencyKey)).ok_or(BAD_KEY)?;
    Ok(Some(Once {
        // A key belongs to the token of its client: clients with other tokens may choose the same key.
        name: [cx.token.map_or("", |token| &token.name), ":", &key].concat().into_bytes().into(),
        fingerprint: fingerprint(cx, ttl),
        ttl: cx.options.idempotency_ttl,
        keeps_value: cx.head.method() == Method::Patch,
    }))
}

/// What distinguishes this request from another: method, time to live, conditions, body. The id is in the record's key.
fn fingerprint(cx: &Cx, ttl: Option<Duration>) -> [u8; 32] {
    let ttl = ttl.map_or(String::new(), |ttl| ttl.as_secs().to_string());
    let mut about = [cx.head.method_text(), b"\n", ttl.as_bytes(), b"\n"].concat();
    // Conditions are part of the request (RFC 9110 §13.1), also those that no rule here reads.
    for (name, value) in cx.head.fields() {
        let name = name.to_ascii_lowercase();
        if name.starts_with(b"if-") {
            about.extend_from_slice(&[&name, &b":"[..], value, b"\n"].concat());
        }
    }
    about.push(b'\n');
    about.extend_from_slice(cx.body);
    // The 32 digits of the tag, without its quotes.
    let mut digits = [0; 32];
    digits.copy_from_slice(&etag(&about)[1..33]);
    digits
}

/// The content of a record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Whether the item existed before.
    pub there: bool,
    /// The new document, for a PATCH; else empty.
    pub document: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record found under `once`.
    ///
    /// # Errors
    /// The bytes are not a record, or the record of another request.
    pub fn read(once: &Once, record: &'a [u8]) -> Result<Record<'a>, Problem> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let Some((fingerprint, [there @ (b'0' | b'1'), document @ ..])) =
            record.split_at_checked(32)
        else {
            return Err(UNREADABLE);
        };
        if !fingerprint.iter().all(hex) {
            return Err(UNREADABLE);
        }
        if fingerprint != once.fingerprint {
            return Err(REUSED);
        }
        if document.is_empty() == once.keeps_value {
            return Err(UNREADABLE);
        }
        Ok(Record { there: *there == b'1', document })
    }
}

/// The key in a field value.
fn key(value: &[u8]) -> Option<String> {
    if !value.iter().all(|b| (b' '..=b'~').contains(b)) {
        return None;
    }
    let value = std::str::from_utf8(value).ok()?;
    let key = match value.starts_with('"') {
        true => {
            let (text, behind) = string(value)?;
            parameters(behind)?;
            text
        }
        false => value.to_owned(),
    };
    (1..=KEY_BYTES_MAX).contains(&key.len()).then_some(key)
}

/// The string that `value` begins with, and what follows it (RFC 8941 §3.3.3).
fn string(value: &str) -> Option<(String, &str)> {
    let rest = value.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = rest.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((text, &rest[at + 1..])),
            (_, '\\') => match characters.next()? {
                (_, escaped @ ('"' | '\\')) => text.push(escaped),
                _ => return None,
            },
            (_, plain) => text.push(plain),
        }
    }
}

/// `*( ";" *SP key [ "=" bare-item ] )` (RFC 8941 §3.1.2). The parameters mean nothing here, but anything else after a
/// key in quotes is a mistake.
fn parameters(mut rest: &str) -> Option<()> {
    while let Some(parameter) = rest.strip_prefix(';') {
        let parameter = parameter.trim_start_matches(' ');
        if !parameter.starts_with(|c: char| c.is_ascii_lowercase() || c == '*') {
            return None;
        }
        let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c);
        rest = parameter.trim_start_matches(is_key);
        if let Some(item) = rest.strip_prefix('=') {
            rest = bare_item(item)?;
        }
    }
    rest.is_empty().then_some(())
}

/// What follows the bare item that `item` begins with (RFC 8941 §3.3).
fn bare_item(item: &str) -> Option<&str> {
    match item.as_bytes().first()? {
        b'"' => string(item).map(|(_, behind)| behind),
        b'?' => item.strip_prefix("?0").or_else(|| item.strip_prefix("?1")),
        b':' => {
            let (bytes, behind) = item[1..].split_once(':')?;
            let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/".contains(&b);
            let padding = bytes.len() - bytes.trim_end_matches('=').len();
            let text = &bytes[..bytes.len() - padding];
            (padding <= 2 && text.bytes().all(is_base64)).then_some(behind)
        }
        b'-' | b'0'..=b'9' => number(item),
        first if first.is_ascii_alphabetic() || *first == b'*' => {
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c);
            Some(item.trim_start_matches(is_token))
        }
        _ => None,
    }
}

/// An integer of up to 15 digits, or a decimal of up to 12 and 3 (RFC 8941 §3.3.1, §3.3.2).
fn number(item: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = item.strip_prefix('-').unwrap_or(item);
    let count = digits(whole);
    let behind = &whole[count..];
    match behind.strip_prefix('.') {
        None => (1..=15).contains(&count).then_some(behind),
        Some(fraction) => {
            let fits = (1..=12).contains(&count) && (1..=3).contains(&digits(fraction));
            fits.then(|| &fraction[digits(fraction)..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{request_of, with_fields};
    use super::*;

    #[test]
    fn a_key_is_one_string_with_its_quotes_or_without() {
        for (value, wanted) in [
            ("abc", Some("abc")),
            ("\"abc\"", Some("abc")),
            ("a b", Some("a b")),
            ("a\"b", Some("a\"b")),
            ("a, b", Some("a, b")),
            ("\"a, b\"", Some("a, b")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            ("\"k\";a", Some("k")),
            ("\"k\"; a=1;b=-1.5;c=\"x;\\\"y\";d=?1;*e=tok/en;f=:aGk=:", Some("k")),
            ("", None),
            ("\"\"", None),
            ("\"", None),
            ("\"abc", None),
            ("\"a\", \"b\"", None),
            ("\"a\" \"b\"", None),
            ("\"a\"b", None),
            ("\"a\\b\"", None),
            ("\"a\\\"", None),
            ("\"a\" ;b", None),
            ("\"a\";", None),
            ("\"a\";B", None),
            ("\"a\";b=", None),
            ("\"a\";b=?2", None),
            ("\"a\";b=\"x", None),
            ("\"a\";b=1.", None),
            ("\"a\";b=1.2345", None),
            ("\"a\";b=:a b:", None),
            ("\"a\";b=:=:", Some("a")),
            ("\"a\";b=:a=a:", None),
            ("\"a\";b=:aGk===:", None),
            ("\"a\";b=\"\\q\"", None),
            ("\"a\";b=\"\u{1}\"", None),
            ("\"a\";b=1234567890123456", None),
            ("\"a\";b=123456789012345;c=-123456789012.123", Some("a")),
            ("\"a\";b=1234567890123.1", None),
            ("\"a\";b=-", None),
            ("\"a\tb\"", None),
            ("a\tb", None),
            ("a\u{7f}C3", None),
        ] {
            assert_eq!(key(value.as_bytes()).as_deref(), wanted, "{value}");
        }
        for (n, fits) in [(255, true), (256, false)] {
            assert_eq!(key("k".repeat(n).as_bytes()).is_some(), fits);
            assert_eq!(key(format!("\"{}\"", "k".repeat(n)).as_bytes()).is_some(), fits);
            assert_eq!(key(format!("\"{}\"", "\\\"".repeat(n)).as_bytes()).is_some(), fits);
        }
    }

    #[test]
    fn a_record_is_of_this_request_or_of_another_or_none() {
        let once = |keeps_value| Once {
            name: b":k"[..].into(),
            fingerprint: [b'a'; 32],
            ttl: std::time::Duration::from_secs(1),
            keeps_value,
        };
        let read = |keeps, record: &str| {
            Record::read(&once(keeps), record.as_bytes()).map(|r| (r.there, r.document.to_vec()))
        };
        let (own, other) = ("a".repeat(32), "b".repeat(32));
        for there in [false, true] {
            let digit = u8::from(there);
            assert_eq!(read(false, &format!("{own}{digit}")), Ok((there, Vec::new())));
            assert_eq!(read(true, &format!("{own}{digit}{{}}")), Ok((there, b"{}".to_vec())));
            assert_eq!(read(false, &format!("{other}{digit}")), Err(REUSED));
            assert_eq!(read(false, &format!("{other}{digit}{{}}")), Err(REUSED));
        }
        for (keeps, record) in [
            (false, String::new()),
            (false, own.clone()),
            (false, format!("{own}2")),
            (false, format!("{}1", own.to_uppercase())),
            (false, format!("{own}\n201\n\n\n\n")),
            (false, format!("{own}1{{}}")),
            (true, format!("{own}1")),
        ] {
            assert_eq!(read(keeps, &record), Err(UNREADABLE), "{record:?}");
        }
    }

    /// Replicas of other versions read the record, too.
    #[test]
    fn a_fingerprint_is_the_same_in_all_versions() {
        let fields = "Idempotency-Key: k\r\nIF-Match: \"a\"\r\nX: y\r\nIf-Range: b\r\n";
        for (method, ttl, body, text) in [
            ("POST", None, " {}", "POST\n\nif-match:\"a\"\nif-range:b\n\n {}"),
            ("PATCH", Some(60), "{}", "PATCH\n60\nif-match:\"a\"\nif-range:b\n\n{}"),
        ] {
            let cx = request_of(&with_fields(method, "/items/7", fields, body));
            let once = once(&cx, ttl.map(Duration::from_secs)).unwrap().unwrap();
            assert_eq!(once.fingerprint, etag(text.as_bytes())[1..33], "{text:?}");
        }
    }
}
