//! Many items at once: a page of ids, and a bulk read.
//!
//! ```text
//! GET /items?prefix=a&limit=2   ─▶ Scan item:a…   ─▶ {"items":[{"id":"a1","ttl":1799},…],"cursor":"…"}
//!                                                    Link: </items?prefix=a&limit=2&cursor=…>; rel="next"
//! DELETE /sess?prefix=u42.      ─▶ Scan, DeleteMany ─▶ {"deleted":3,"cursor":null}
//! POST /items/_get {"ids":[…]}  ─▶ GetMany        ─▶ {"items":[{"id":"a1","etag":"…","item":{…}},null]}
//! ```
//!
//! A page has at most `limit` ids, and may have fewer, or none, with more to come: only a missing cursor is the end.
//! Every id that exists throughout is returned at least once; one may be returned twice. The cursor is opaque, and
//! valid for the same prefix only.
//!
//! A bulk read requests each id once, however often it is named. A value that is not a document (written by another
//! program) has an `error` in its place, for it would spoil the others; alone it is given as it is.

use super::condition::Conditions;
use super::document::{FOREIGN, document, judge};
use super::etag::etag;
use super::id::{BAD_ID, Collection, is_id};
use super::patch::{Cut, name};
use super::problem::{Problem, unexpected};
use super::step::{Cx, Outcome, ask, done};
use super::ttl;
use crate::http::{
    self, Extra, Head, Method, Parameter, Query, Response, push_number, push_string,
};
use crate::store::{Answer, Command, Found, Page, Reply};
use std::borrow::Cow;
use std::collections::HashMap;

const BAD_LIMIT: Problem = Problem::new(400, "bad_limit", "bad limit: 1 to 1000, given once");
const BAD_PREFIX: Problem = Problem::new(
    400,
    "bad_prefix",
    "bad prefix: up to 512 bytes of UTF-8 without control characters, given once",
);
const NO_PREFIX: Problem = Problem::new(
    400,
    "bad_prefix",
    "bad prefix: one byte at least, for without one it would be all sessions",
);
const BAD_CURSOR: Problem = Problem::new(400, "bad_cursor", "bad cursor");
const BAD_IDS: Problem =
    Problem::new(400, "bad_ids", "bad ids: {\"ids\":[…]} with 1 to 1000 of them");

/// The most ids in a page, and documents in a bulk read; one more is 400.
pub const LIMIT_MAX: usize = 1000;

/// Ids in a page, unless `?limit=` says otherwise.
const LIMIT: usize = 100;

/// All documents of a bulk read together, at the most; one byte more is 413. Room for sixteen documents of the default
/// `MAX_BODY_BYTES`.
pub const BULK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A cursor has no more digits than this. The longest of Redis has 3,227 bytes, and fits into a request target with the
/// longest prefix.
const CURSOR_DIGITS_MAX: usize = 2 * 3227;

/// A page of ids, as the query asks for it.
struct Wanted<'a> {
    prefix: Cow<'a, [u8]>,
    limit: usize,
    cursor: Option<Vec<u8>>,
}

/// Whether the query asks for a page: it has any of the three parameters, and no id.
pub fn is_meant(head: &Head) -> bool {
    use Parameter::*;
    let query = head.query();
    let reads = matches!(head.method(), Method::Get | Method::Head);
    reads && !query.has(Id) && [Prefix, Limit, Cursor].into_iter().any(|asked| query.has(asked))
}

/// Whether a request for `/sess` is to end all sessions under a prefix.
pub fn is_purge(head: &Head) -> bool {
    let query = head.query();
    let has = |parameter| query.has(parameter);
    head.method() == Method::Delete && has(Parameter::Prefix) && !has(Parameter::Sid)
}

impl<'a> Wanted<'a> {
    fn of(cx: &Cx<'a>) -> Result<Wanted<'a>, Problem> {
        ttl::none(cx)?;
        let query = &cx.head.query();
        // A page has no entity tag to compare, but conditions that cannot be parsed are refused here too.
        Conditions::of(&cx.head)?;
        let prefix = one(query, Parameter::Prefix, &BAD_PREFIX)?.unwrap_or_default();
        if !prefix.is_empty() && !is_id(&prefix) {
            return Err(BAD_PREFIX);
        }
        if let Some(token) = cx.token {
            token.may_use(&prefix)?;
        }
        let limit = match one(query, Parameter::Limit, &BAD_LIMIT)? {
            Some(digits) => http::decimal(&digits)
                .filter(|n| digits.len() <= 4 && (1..=LIMIT_MAX as u64).contains(n))
                .ok_or(BAD_LIMIT)? as usize,
            None => LIMIT,
        };
        let cursor = match one(query, Parameter::Cursor, &BAD_CURSOR)? {
            Some(hex) if !hex.is_empty() => Some(from_hex(&hex).ok_or(BAD_CURSOR)?),
            _ => None,
        };
        Ok(Wanted { prefix, limit, cursor })
    }
}

/// Checks everything in the head of a request for a page.
///
/// # Errors
/// The first error in it.
pub fn check(cx: &Cx) -> Result<(), Problem> {
    Wanted::of(cx).map(drop)
}

/// `GET /items?prefix=…`.
///
/// # Errors
/// 400 for a malformed or contradictory query.
pub fn page<'a>(cx: &Cx<'a>) -> Outcome<'a> {
    let Wanted { prefix, limit, cursor } = Wanted::of(cx)?;
    let prefix = Collection::Items.key(prefix);
    ask(Command::Scan { prefix, cursor, limit }, |cx, reply| match reply? {
        Answer::Page(page) => done(print_page(&Wanted::of(cx)?, &page)),
        Answer::BadCursor => Err(BAD_CURSOR),
        _ => Err(unexpected()),
    })
}

fn print_page<'a>(wanted: &Wanted, page: &Page) -> Response<'a> {
    let mut body = b"{\"items\":[".to_vec();
    let at = Collection::Items.key_prefix().len();
    for (key, left) in &page.keys {
        // Keys of another program that no request can spell are skipped.
        let id = key.get(at..).filter(|id| is_id(id)).and_then(|id| std::str::from_utf8(id).ok());
        let Some(id) = id else { continue };
        if body.last() != Some(&b'[') {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"id\":");
        push_string(&mut body, id);
        body.extend_from_slice(b",\"ttl\":");
        match left {
            // Rounded up, so that every key has at least one second left, in its last millisecond too.
            Some(left) => push_number(&mut body, left.as_millis().div_ceil(1000).max(1) as usize),
            None => body.extend_from_slice(b"null"),
        }
        body.push(b'}');
    }
    let next = page.next.as_deref().map(to_hex);
    match &next {
        Some(next) => body.extend_from_slice(format!("],\"cursor\":\"{next}\"}}").as_bytes()),
        None => body.extend_from_slice(b"],\"cursor\":null}"),
    }
    let extra = next.map_or(Extra::None, |cursor| {
        let mut prefix = Vec::new();
        http::push_percent_encoded(&mut prefix, &wanted.prefix);
        let prefix = String::from_utf8_lossy(&prefix);
        let limit = wanted.limit;
        Extra::Link(format!("</items?prefix={prefix}&limit={limit}&cursor={cursor}>; rel=\"next\""))
    });
    Response { extra, ..Response::json(200, body).no_store() }
}

/// `DELETE /sess?prefix=…`: "log out everywhere", a page at a time. If it fails in the middle of a page, the sessions
/// that are left stay, and the same request, sent again, ends them.
///
/// # Errors
/// 400 for a malformed query, and for the empty prefix: that would be everybody.
pub fn purge<'a>(cx: &Cx<'a>) -> Outcome<'a> {
    let Wanted { prefix, limit, cursor } = Wanted::of(cx)?;
    if prefix.is_empty() {
        return Err(NO_PREFIX);
    }
    // An entity tag is of one document, so `If-Match` cannot hold here.
    let conditions = Conditions::of(&cx.head)?;
    if !conditions.is_matched(None) {
        return Err(conditions.failed());
    }
    let prefix = Collection::Sessions.key(prefix);
    ask(Command::Scan { prefix, cursor, limit }, |_, reply| match reply? {
        Answer::Page(page) => {
            let at = Collection::Sessions.key_prefix().len();
            let ids = page.keys.iter().filter_map(|(key, _)| key.get(at..));
            // Keys of another program that no request can spell are left alone.
            let keys: Vec<Vec<u8>> = ids
                .filter(|id| is_id(id))
                .map(|id| Collection::Sessions.key(id.into()).to_vec())
                .collect();
            let next = page.next.as_deref().map(to_hex);
            if keys.is_empty() {
                return done(purged(0, next));
            }
            ask(Command::DeleteMany { keys }, |_, reply| match reply? {
                Answer::Removed(deleted) => done(purged(deleted, next)),
                _ => Err(unexpected()),
            })
        }
        Answer::BadCursor => Err(BAD_CURSOR),
        _ => Err(unexpected()),
    })
}

fn purged<'a>(deleted: usize, next: Option<String>) -> Response<'a> {
    let cursor = next.map_or("null".to_owned(), |next| format!("\"{next}\""));
    let body = format!("{{\"deleted\":{deleted},\"cursor\":{cursor}}}");
    Response::json(200, body.into_bytes()).no_store()
}

/// The one value of a parameter.
fn one<'a>(
    query: &Query<'a>,
    parameter: Parameter,
    problem: &Problem,
) -> Result<Option<Cow<'a, [u8]>>, Problem> {
    let Some(raw) = query.first(parameter) else { return Ok(None) };
    let value = http::percent_decode(raw, true).filter(|_| !query.is_repeated(parameter));
    value.ok_or_else(|| problem.clone()).map(Some)
}

/// `POST /items/_get`.
///
/// # Errors
/// 400 when the body is not a list of ids.
pub fn bulk<'a>(cx: &Cx<'a>) -> Outcome<'a> {
    ttl::none(cx)?;
    let ids = ids(cx.body)?;
    if let Some(token) = cx.token {
        ids.iter().try_for_each(|id| token.may_use(id.as_bytes()))?;
    }
    let mut keys = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let places: Vec<usize> = ids
        .iter()
        .map(|id| {
            *known.entry(id).or_insert_with(|| {
                keys.push(Collection::Items.key(id.as_bytes().into()).to_vec());
                keys.len() - 1
            })
        })
        .collect();
    let bytes_max = cx.options.bulk_bytes_max;
    ask(Command::GetMany { keys, bytes_max }, move |_, reply: Reply| match reply? {
        Answer::Values(values) => {
            let found = places.iter().map(|place| values.get(*place).unwrap_or(&Ok(None)));
            print_bulk(&ids, &found.collect::<Vec<_>>(), bytes_max)
        }
        Answer::TooLarge => Err(too_much(bytes_max)),
        _ => Err(unexpected()),
    })
}

fn too_much(bytes_max: usize) -> Problem {
    Problem::new(413, "bulk_too_large", "").detailed(format!(
        "these documents are larger than {bytes_max} bytes together: ask for fewer"
    ))
}

/// The ids of a bulk read, as slices of its text.
fn ids(body: &[u8]) -> Result<Vec<String>, Problem> {
    judge(body)?;
    let text = std::str::from_utf8(body).map_err(|_| BAD_IDS)?.trim();
    if !text.starts_with('{') {
        return Err(BAD_IDS);
    }
    let cut = Cut::of(text);
    let found = cut.members(text).filter(|(raw, _)| *name(raw) == *b"ids").last();
    let (_, list) = found.filter(|(_, value)| value.starts_with('[')).ok_or(BAD_IDS)?;
    let ids: Vec<&str> = cut.elements(list).take(LIMIT_MAX + 1).collect();
    if ids.is_empty() || ids.len() > LIMIT_MAX {
        return Err(BAD_IDS);
    }
    let id = |raw: &str| {
        serde_json::from_str::<String>(raw).ok().filter(|id| is_id(id.as_bytes())).ok_or(BAD_ID)
    };
    ids.into_iter().map(id).collect()
}

fn print_bulk<'a>(ids: &[String], found: &[&Found], bytes_max: usize) -> Outcome<'a> {
    let bytes = |found: &&Found| found.as_ref().map_or(0, |v| v.as_ref().map_or(0, Vec::len));
    // The store has counted each document once; one that is requested a thousand times is printed as often.
    let bytes = found.iter().map(bytes).fold(0, usize::saturating_add);
    if bytes > bytes_max {
        return Err(too_much(bytes_max));
    }
    let mut body = Vec::with_capacity(bytes + 64 * ids.len());
    body.extend_from_slice(b"{\"items\":[");
    for (i, (id, found)) in ids.iter().zip(found).enumerate() {
        if i > 0 {
            body.push(b',');
        }
        let document = match found {
            Ok(None) => {
                body.extend_from_slice(b"null");
                continue;
            }
            Ok(Some(stored)) => document(stored).map(|_| stored).map_err(|_| FOREIGN),
            Err(e) => Err(e.clone().into()),
        };
        body.extend_from_slice(b"{\"id\":");
        push_string(&mut body, id);
        match document {
            Ok(document) => {
                // A tag is a string in JSON once its quotes are escaped.
                body.extend_from_slice(b",\"etag\":\"\\\"");
                body.extend_from_slice(&etag(document)[1..33]);
                body.extend_from_slice(b"\\\"\",\"item\":");
                body.extend_from_slice(document);
            }
            Err(Problem { code, detail, .. }) => {
                body.extend_from_slice(b",\"error\":{\"code\":");
                push_string(&mut body, code);
                body.extend_from_slice(b",\"detail\":");
                push_string(&mut body, &detail);
                body.push(b'}');
            }
        }
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    done(Response::json(200, body).no_store())
}

/// A cursor as printed: two hexadecimal digits a byte need no escapes anywhere.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    if hex.len() > CURSOR_DIGITS_MAX || !hex.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).map(|n| n as u8);
    hex.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went_out() {
        let cursor: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(to_hex(&cursor).as_bytes()), Some(cursor));
        for bad in ["0", "0g", "zz"] {
            assert_eq!(from_hex(bad.as_bytes()), None);
        }
        for (bytes, fits) in [(3227, true), (3228, false)] {
            assert_eq!(from_hex(&vec![b'0'; 2 * bytes]).is_some(), fits);
        }
    }
}
