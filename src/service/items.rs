//! Items and sessions: JSON objects under an id, with a time to live (API.md, "Items").
//!
//! ```text
//! POST /items?id=7&ttl=60  {"name":"Bob"}   ─▶ Set item:7 … for 60 s   ─▶ 201, Location, ETag
//! GET  /items/7                             ─▶ Get item:7              ─▶ 200, ETag | 404
//! GET  /sess/abc                            ─▶ Get sess:abc, renewing its time to live
//! ```
//!
//! What is stored is what was sent, white space at the ends aside: the document is checked, never
//! built, so every digit of every number and the order of the keys survive.

use super::Options;
use super::etag::etag;
use super::problem::{Problem, unexpected};
use super::step::Step;
use crate::http::{self, Head, Method, header};
use crate::store::{Answer, Command, When};
use serde_json::value::RawValue;
use std::time::Duration;

/// Ids are 1 to this many bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 512;

/// Objects and arrays inside each other; one deeper is `bad json`. The same number as
/// serde_json's own limit for building values, so that no document can be stored that a later
/// PATCH could not read.
pub const DEPTH_MAX: usize = 127;

const BAD_ID: Problem = Problem::new(400, "bad_id", "bad id");
const BAD_JSON: Problem = Problem::new(400, "bad_json", "bad json");
const BAD_TTL: Problem = Problem::new(400, "bad_ttl", "bad ttl");
const NOT_FOUND: Problem = Problem::new(404, "not_found", "not found");

/// The two collections: same rules, other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// `/items`, `item:`.
    Items,
    /// `/sess`, `sess:`; reading renews.
    Sessions,
}

impl Collection {
    /// The collection a raw path names, and the raw id behind it when the path has one.
    pub fn of(path: &str) -> Option<(Collection, Option<&str>)> {
        let path = path.strip_prefix('/')?;
        let (name, id) = path
            .split_once('/')
            .map_or((path, None), |(name, id)| (name, Some(id)));
        if id.is_some_and(|id| id.contains('/')) {
            return None;
        }
        match name {
            "items" => Some((Collection::Items, id)),
            "sess" => Some((Collection::Sessions, id)),
            _ => None,
        }
    }

    /// The methods of its paths.
    pub fn allow(self) -> &'static str {
        "GET, HEAD, POST, OPTIONS"
    }

    /// The Redis key of an id. An id can hold anything but control characters and still never
    /// leave its prefix: a key is one argument, not a path.
    fn key(self, id: &str) -> Vec<u8> {
        let prefix = match self {
            Collection::Items => "item:",
            Collection::Sessions => "sess:",
        };
        [prefix.as_bytes(), id.as_bytes()].concat()
    }

    fn id_parameter(self) -> &'static str {
        match self {
            Collection::Items => "id",
            Collection::Sessions => "sid",
        }
    }

    fn missing_id(self) -> Problem {
        match self {
            Collection::Items => Problem::new(400, "missing_id", "missing id"),
            Collection::Sessions => Problem::new(400, "missing_sid", "missing sid"),
        }
    }

    fn ttl(self, options: &Options) -> Duration {
        match self {
            Collection::Items => options.item_ttl,
            Collection::Sessions => options.session_ttl,
        }
    }

    /// Where the item can be found: the path form, unless the id would mean something else there:
    /// a reserved word, or a dot segment, which a client takes out of the path before it asks
    /// (RFC 3986 §5.2.4), escaped or not.
    fn location(self, id: &str) -> String {
        let (path, parameter) = match self {
            Collection::Items => ("/items", "id"),
            Collection::Sessions => ("/sess", "sid"),
        };
        let mut location = path.to_owned();
        match id.starts_with('_') || matches!(id, "." | "..") {
            true => location.extend(["?", parameter, "="]),
            false => location.push('/'),
        }
        push_percent_encoded(&mut location, id);
        location
    }
}

/// One request about one item, as far as its head tells.
#[derive(Debug)]
pub struct ItemCall {
    collection: Collection,
    id: String,
    ttl: Duration,
    write: bool,
}

impl ItemCall {
    /// Reads id and time to live from the target. The id comes first: the original tests demand
    /// `missing id` whatever the body is.
    pub fn read(
        options: &Options,
        head: &Head,
        collection: Collection,
        path_id: Option<&str>,
    ) -> Result<ItemCall, Problem> {
        let query = head.target.query().unwrap_or("");
        let id = match path_id {
            Some(raw) => path_form_id(collection, raw, query)?,
            None => query_form_id(collection, query)?,
        };
        let write = head.method == Method::Post;
        let ttl = if write {
            asked_ttl(query, options)?
        } else {
            None
        };
        Ok(ItemCall {
            collection,
            id,
            ttl: ttl.unwrap_or(collection.ttl(options)),
            write,
        })
    }

    /// What to do, now that the body is there. A body on a GET means nothing and is dropped.
    pub fn perform(self, body: Vec<u8>) -> Step {
        if self.write {
            self.post(body)
        } else {
            self.get()
        }
    }

    fn post(self, body: Vec<u8>) -> Step {
        let Some(document) = document(body) else {
            return BAD_JSON.into();
        };
        let (tag, location) = (etag(&document), self.collection.location(&self.id));
        let set = Command::Set {
            key: self.collection.key(&self.id),
            value: document,
            ttl: Some(self.ttl),
            when: When::Always,
        };
        Step::ask(set, move |answer| {
            Step::Done(match answer {
                Ok(Answer::Stored) => Ok(http::empty(201)
                    .with_header(header("Location", &location))
                    .with_header(header("ETag", &tag))),
                Ok(other) => Err(unexpected(&other)),
                Err(e) => Err(e.into()),
            })
        })
    }

    fn get(self) -> Step {
        let touch = (self.collection == Collection::Sessions).then_some(self.ttl);
        Step::ask(
            Command::Get {
                key: self.collection.key(&self.id),
                touch,
            },
            |answer| {
                Step::Done(match answer {
                    Ok(Answer::Value(Some(document))) => {
                        let tag = etag(&document);
                        Ok(http::json(200, document)
                            .with_header(header("ETag", &tag))
                            .with_header(header("Cache-Control", "no-store")))
                    }
                    Ok(Answer::Value(None)) => Err(NOT_FOUND),
                    Ok(other) => Err(unexpected(&other)),
                    Err(e) => Err(e.into()),
                })
            },
        )
    }
}

fn path_form_id(collection: Collection, raw: &str, query: &str) -> Result<String, Problem> {
    if raw.is_empty() {
        return Err(collection.missing_id());
    }
    // Two ids in one request.
    if http::query_values(query, collection.id_parameter())
        .next()
        .is_some()
    {
        return Err(BAD_ID);
    }
    let id = checked_id(http::percent_decode(raw, false).map_err(|_| BAD_ID)?)?;
    // A word kept for paths like `/items/_get`, judged after decoding: `%5F` is `_`.
    if id.starts_with('_') {
        return Err(BAD_ID);
    }
    Ok(id)
}

fn query_form_id(collection: Collection, query: &str) -> Result<String, Problem> {
    let mut values = http::query_values(query, collection.id_parameter());
    let id = values
        .next()
        .ok_or_else(|| collection.missing_id())?
        .map_err(|_| BAD_ID)?;
    if values.next().is_some() {
        return Err(BAD_ID);
    }
    if id.is_empty() {
        return Err(collection.missing_id());
    }
    checked_id(id)
}

fn checked_id(id: Vec<u8>) -> Result<String, Problem> {
    let id = String::from_utf8(id).map_err(|_| BAD_ID)?;
    if id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(BAD_ID);
    }
    Ok(id)
}

/// `?ttl=SECONDS`, digits only, 1 to `MAX_TTL`; twice is as bad as zero.
fn asked_ttl(query: &str, options: &Options) -> Result<Option<Duration>, Problem> {
    let mut values = http::query_values(query, "ttl");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.map_err(|_| BAD_TTL)?;
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD_TTL);
    }
    let seconds = std::str::from_utf8(&digits)
        .ok()
        .and_then(|s| s.parse().ok())
        .ok_or(BAD_TTL)?;
    let ttl = Duration::from_secs(seconds);
    if seconds == 0 || ttl > options.max_ttl {
        return Err(BAD_TTL);
    }
    Ok(Some(ttl))
}

/// The body if it is exactly one JSON object (RFC 8259), without the white space around it.
fn document(mut body: Vec<u8>) -> Option<Vec<u8>> {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let end = body.iter().rposition(|b| !is_space(b))? + 1;
    let start = body.iter().position(|b| !is_space(b))?;
    body.truncate(end);
    body.drain(..start);
    if body[0] != b'{' || depth(&body) > DEPTH_MAX {
        return None;
    }
    let text = std::str::from_utf8(&body).ok()?;
    serde_json::from_str::<&RawValue>(text).ok()?;
    Some(body)
}

/// How deep brackets nest outside strings. Meant for JSON; of other bytes it says something, but
/// those are refused afterwards.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Everything but unreserved characters (RFC 3986 §2.3) as `%XX`.
fn push_percent_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_exactly_one_object_kept_as_sent() {
        for (body, kept) in [
            (
                r#"{"n":12345678901234567890,"m":1.10}"#,
                Some(r#"{"n":12345678901234567890,"m":1.10}"#),
            ),
            (
                " \r\n\t{ \"b\": 1, \"a\": [ ] }\n",
                Some("{ \"b\": 1, \"a\": [ ] }"),
            ),
            ("{}", Some("{}")),
            (
                r#"{"a":1e999,"a":-0.0,"\u00e9":"\ud83d\ude00"}"#,
                Some(r#"{"a":1e999,"a":-0.0,"\u00e9":"\ud83d\ude00"}"#),
            ),
            ("", None),
            ("  ", None),
            ("oops", None),
            ("null", None),
            ("[]", None),
            ("\"{}\"", None),
            ("{\"a\":1} junk", None),
            ("{}{}", None),
            ("{\"a\":1,}", None),
            ("{\"a\":01}", None),
            ("{'a':1}", None),
            ("{\"a\":\"\n\"}", None),
            ("\u{feff}{}", None),
            ("{\"a\":NaN}", None),
        ] {
            assert_eq!(
                document(body.into()).as_deref(),
                kept.map(str::as_bytes),
                "{body}"
            );
        }
        assert_eq!(document(b"{\"a\":\"\xff\"}".to_vec()), None);
    }

    #[test]
    fn nesting_is_refused_one_beyond_the_limit_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n)).into_bytes();
        for (n, fits) in [
            (DEPTH_MAX - 1, true),
            (DEPTH_MAX, true),
            (DEPTH_MAX + 1, false),
            (300_000, false),
        ] {
            assert_eq!(document(nested(n)).is_some(), fits, "{n}");
        }
        // What fits can be built as a value, so a PATCH can read it.
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX)).is_ok());
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX + 1)).is_err());
        let brackets = format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1000)).into_bytes();
        assert!(document(brackets).is_some());
    }

    #[test]
    fn the_location_leads_back_to_the_id() {
        for (id, location) in [
            ("7", "/items/7"),
            ("a/b", "/items/a%2Fb"),
            ("a b+c", "/items/a%20b%2Bc"),
            ("_x", "/items?id=_x"),
            ("é", "/items/%C3%A9"),
        ] {
            assert_eq!(Collection::Items.location(id), location);
        }
        assert_eq!(Collection::Sessions.location("_x"), "/sess?sid=_x");
    }
}
