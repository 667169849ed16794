//! Many items at once: a page of ids, and a bulk read.
//!
//! ```text
//! GET /items?prefix=a&limit=2   ─▶ Scan item:a…   ─▶ {"items":[{"id":"a1","ttl":1799},…],"cursor":"…"}
//!                                                    Link: </items?prefix=a&limit=2&cursor=…>; rel="next"
//! POST /items/_get {"ids":[…]}  ─▶ GetMany        ─▶ {"items":[{"id":"a1","etag":"…","item":{…}},null]}
//! ```
//!
//! A page has at most `limit` ids, and may have fewer, or none, with more to come: only a missing
//! cursor is the end. Every id that is there throughout is seen at least once; one may be seen
//! twice. The cursor is opaque, and good for the same prefix only.
//!
//! A bulk read asks for an id once, however often it is named. What is there and is no document (put
//! there by somebody else) has an `error` in its place, with the `code` that it would be given alone.

use super::condition::Conditions;
use super::document::{is_json, judge};
use super::etag::etag;
use super::id::{BAD_ID, Collection, checked, push_percent_encoded};
use super::patch::{elements, members, name};
use super::problem::{Problem, unexpected};
use super::step::{Outcome, Step};
use crate::http::{self, Head, Method, header};
use crate::store::{Answer, Command, StoreError};
use std::borrow::Cow;
use std::collections::HashMap;

const BAD_LIMIT: Problem = Problem::new(400, "bad_limit", "bad limit: 1 to 1000, given once");
const BAD_PREFIX: Problem = Problem::new(
    400,
    "bad_prefix",
    "bad prefix: up to 512 bytes of UTF-8 without control characters, given once",
);
const BAD_CURSOR: Problem = Problem::new(400, "bad_cursor", "bad cursor");
const BAD_IDS: Problem =
    Problem::new(400, "bad_ids", "bad ids: {\"ids\":[…]} with 1 to 1000 of them");
const FOREIGN: Problem =
    Problem::new(502, "store_error", "store error: what is stored is not a JSON object");

/// Ids in a page, and documents in a bulk read.
pub const LIMIT_MAX: usize = 1000;
const LIMIT: usize = 100;

/// All documents of a bulk read together, at the most; one byte more is 413. Sixteen of the largest.
pub const BULK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A cursor is never longer than this: it has to fit into a request target.
const CURSOR_BYTES_MAX: usize = 4096;

/// A page of ids.
#[derive(Debug)]
pub struct ListCall {
    prefix: String,
    limit: usize,
    cursor: Option<Vec<u8>>,
}

impl ListCall {
    /// Whether the query asks for a page: any of the three, and no id.
    pub fn is_meant(head: &Head) -> bool {
        let query = head.target.query().unwrap_or("");
        let reads = matches!(head.method, Method::Get | Method::Head);
        let has = |name| http::query_values(query, name).next().is_some();
        reads && !has("id") && (has("prefix") || has("limit") || has("cursor"))
    }

    /// Reads the query.
    ///
    /// # Errors
    /// 400 for what cannot be meant.
    pub fn read(head: &Head) -> Result<ListCall, Problem> {
        let query = head.target.query().unwrap_or("");
        // A page has no entity tag for them to be about, but what cannot be read is refused here too.
        Conditions::of(head)?;
        let prefix = match one(query, "prefix", &BAD_PREFIX)? {
            Some(prefix) if !prefix.is_empty() => checked(prefix).map_err(|_| BAD_PREFIX)?,
            _ => String::new(),
        };
        let limit = match one(query, "limit", &BAD_LIMIT)? {
            Some(digits) if digits.len() <= 4 && digits.iter().all(u8::is_ascii_digit) => {
                let n = String::from_utf8_lossy(&digits).parse().map_err(|_| BAD_LIMIT)?;
                if n == 0 || n > LIMIT_MAX {
                    return Err(BAD_LIMIT);
                } else {
                    n
                }
            }
            Some(_) => return Err(BAD_LIMIT),
            None => LIMIT,
        };
        let cursor = match one(query, "cursor", &BAD_CURSOR)? {
            Some(hex) if !hex.is_empty() => Some(from_hex(&hex).ok_or(BAD_CURSOR)?),
            _ => None,
        };
        Ok(ListCall { prefix, limit, cursor })
    }

    /// Asks for the page.
    pub fn perform(self) -> Step {
        let collection = Collection::Items;
        let scan = Command::Scan {
            prefix: collection.key(&self.prefix),
            cursor: self.cursor.clone(),
            limit: self.limit,
        };
        Step::ask(scan, move |answer| {
            Step::Done(match answer {
                Ok(Answer::Page { keys, next }) => Ok(self.page(&keys, next)),
                Ok(Answer::BadCursor) => Err(BAD_CURSOR),
                Ok(other) => Err(unexpected(&other)),
                Err(e) => Err(e.into()),
            })
        })
    }

    fn page(
        &self,
        keys: &[(Vec<u8>, Option<std::time::Duration>)],
        next: Option<Vec<u8>>,
    ) -> http::Response {
        let mut text = String::from("{\"items\":[");
        let at = Collection::Items.key_prefix().len();
        for (key, left) in keys {
            // What somebody else put there under a name that no request of ours can spell.
            let Ok(id) = checked(key.get(at..).unwrap_or_default().to_vec()) else {
                continue;
            };
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&format!("{{\"id\":{},\"ttl\":", quoted(&id)));
            match left {
                // Up, so that what is there has at least one second.
                Some(left) => text.push_str(&left.as_millis().div_ceil(1000).to_string()),
                None => text.push_str("null"),
            }
            text.push('}');
        }
        text.push_str("],\"cursor\":");
        let next = next.map(|cursor| to_hex(&cursor));
        text.push_str(&next.as_ref().map_or("null".to_owned(), |cursor| format!("\"{cursor}\"")));
        text.push('}');
        let response =
            http::json(200, text.into_bytes()).with_header(header("Cache-Control", "no-store"));
        match next {
            Some(cursor) => response.with_header(header("Link", &self.link(&cursor))),
            None => response,
        }
    }

    fn link(&self, cursor: &str) -> String {
        let mut link = String::from("</items?prefix=");
        push_percent_encoded(&mut link, &self.prefix);
        link + &format!("&limit={}&cursor={cursor}>; rel=\"next\"", self.limit)
    }
}

/// The one value of a parameter.
fn one(query: &str, name: &str, problem: &Problem) -> Result<Option<Vec<u8>>, Problem> {
    let mut values = http::query_values(query, name);
    let value = values.next().transpose().map_err(|_| problem.clone())?;
    if values.next().is_some() { Err(problem.clone()) } else { Ok(value) }
}

/// `POST /items/_get`, for documents of `bytes_max` together.
pub fn bulk(body: &[u8], bytes_max: usize) -> Step {
    let ids = match ids(body) {
        Ok(ids) => ids,
        Err(problem) => return problem.into(),
    };
    let mut keys = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let places: Vec<usize> = ids
        .iter()
        .map(|id| {
            *known.entry(id).or_insert_with(|| {
                keys.push(Collection::Items.key(id));
                keys.len() - 1
            })
        })
        .collect();
    Step::ask(Command::GetMany { keys, bytes_max }, move |answer| {
        Step::Done(match answer {
            Ok(Answer::Values(values)) => {
                let found = places.iter().map(|place| values.get(*place));
                let found: Vec<&Found> = found.map(|f| f.unwrap_or(&Ok(None))).collect();
                print(&ids, &found, bytes_max)
            }
            Ok(Answer::TooLarge) => Err(too_much(bytes_max)),
            Ok(other) => Err(unexpected(&other)),
            Err(e) => Err(e.into()),
        })
    })
}

/// What the store says about one id.
type Found = Result<Option<Vec<u8>>, StoreError>;

fn too_much(bytes_max: usize) -> Problem {
    Problem {
        detail: Cow::Owned(format!(
            "these documents are larger than {bytes_max} bytes together: ask for fewer"
        )),
        ..Problem::new(413, "bulk_too_large", "")
    }
}

/// The ids of a bulk read, cut out of its text.
fn ids(body: &[u8]) -> Result<Vec<String>, Problem> {
    judge(body)?;
    let text = std::str::from_utf8(body).map_err(|_| BAD_IDS)?.trim();
    if !text.starts_with('{') {
        return Err(BAD_IDS);
    }
    let found = members(text).filter(|(raw, _)| *name(raw) == *b"ids").last();
    let (_, list) = found.filter(|(_, value)| value.starts_with('[')).ok_or(BAD_IDS)?;
    let ids: Vec<&str> = elements(list).take(LIMIT_MAX + 1).collect();
    if ids.is_empty() || ids.len() > LIMIT_MAX {
        return Err(BAD_IDS);
    }
    let id = |raw: &str| {
        serde_json::from_str::<String>(raw)
            .map_err(|_| BAD_ID)
            .and_then(|id| checked(id.into_bytes()))
    };
    ids.into_iter().map(id).collect()
}

fn print(ids: &[String], found: &[&Found], bytes_max: usize) -> Outcome {
    let bytes = |found: &&Found| found.as_ref().map_or(0, |v| v.as_ref().map_or(0, Vec::len));
    // The store has counted each once; one that is asked for a thousand times is printed as often.
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
            Ok(Some(document)) if is_object(document) => Ok(document),
            Ok(Some(_)) => Err(FOREIGN),
            Err(e) => Err(e.clone().into()),
        };
        body.extend_from_slice(format!("{{\"id\":{},", quoted(id)).as_bytes());
        match document {
            Ok(document) => {
                let tag = quoted(&etag(document));
                body.extend_from_slice(format!("\"etag\":{tag},\"item\":").as_bytes());
                body.extend_from_slice(document);
            }
            Err(Problem { code, detail, .. }) => {
                let (code, detail) = (quoted(code), quoted(&detail));
                let error = format!("\"error\":{{\"code\":{code},\"detail\":{detail}}}");
                body.extend_from_slice(error.as_bytes());
            }
        }
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    Ok(http::json(200, body).with_header(header("Cache-Control", "no-store")))
}

/// Whether what is stored is a document, as far as others can read it.
fn is_object(stored: &[u8]) -> bool {
    stored.trim_ascii_start().starts_with(b"{") && is_json(stored)
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A cursor on its way out: two digits a byte need no escapes anywhere.
fn to_hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    if hex.len() > CURSOR_BYTES_MAX || !hex.len().is_multiple_of(2) {
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
        assert_eq!(from_hex(&vec![b'0'; CURSOR_BYTES_MAX + 2]), None);
    }
}
