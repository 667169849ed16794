//! Collections and ids: which item a path or a query names, and the key under which it is stored.
//!
//! ```text
//! /items?id=a%20b ┐
//! /items/a%20b    ┴▶ (Items, "a b") ─▶ item:a b ─▶ Location: /items/a%20b
//! ```
//!
//! In a query `+` is a space (HTML forms), in a path it is a plus. Path words that begin with `_`
//! are reserved, so `/items/_get` can never be an id; the query form takes such ids.

use super::problem::Problem;
use crate::http::{self, Location, Parameter, Query};
use crate::store::Key;
use std::borrow::Cow;

/// Ids are 1 to this many bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 512;

/// Not an id.
pub const BAD_ID: Problem =
    Problem::new(400, "bad_id", "bad id: 1 to 512 bytes of UTF-8 without control characters");

const TWICE: Problem = Problem::new(400, "bad_id", "bad id: given twice");

const RESERVED: Problem = Problem::new(
    400,
    "bad_id",
    "bad id: words that begin with `_` are reserved in a path; such an id is given in the query",
);

/// The two collections: the same rules, other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// `/items`, `item:`.
    Items,
    /// `/sess`, `sess:`; reading renews the time to live.
    Sessions,
}

/// How the collections differ.
struct Names {
    /// Before an id in a path.
    in_path: &'static str,
    /// Before an id in a query.
    in_query: &'static str,
    /// The name of the id in a query.
    parameter: Parameter,
    /// Before an id in a key.
    key: &'static str,
    missing: Problem,
}

static ITEMS: Names = Names {
    in_path: "/items/",
    in_query: "/items?id=",
    parameter: Parameter::Id,
    key: "item:",
    missing: Problem::new(400, "missing_id", "missing id: give it as /items?id=ID or /items/ID"),
};

static SESSIONS: Names = Names {
    in_path: "/sess/",
    in_query: "/sess?sid=",
    parameter: Parameter::Sid,
    key: "sess:",
    missing: Problem::new(400, "missing_sid", "missing sid: give it as /sess?sid=SID or /sess/SID"),
};

/// What an id is: 1 to [`ID_BYTES_MAX`] bytes of UTF-8 without control characters, decoded.
pub type Id<'a> = Cow<'a, [u8]>;

impl Collection {
    fn names(self) -> &'static Names {
        match self {
            Collection::Items => &ITEMS,
            Collection::Sessions => &SESSIONS,
        }
    }

    /// The beginning of every key of the collection.
    pub fn key_prefix(self) -> &'static str {
        self.names().key
    }

    /// The key of an id.
    pub fn key(self, id: Id<'_>) -> Key<'_> {
        Key { prefix: self.key_prefix(), id }
    }

    /// The id of a request, from its path when it has one there, else from its query.
    ///
    /// # Errors
    /// The id is missing, given twice, or malformed.
    pub fn id<'a>(self, path: &'a [u8], query: &Query<'a>) -> Result<Id<'a>, Problem> {
        let names = self.names();
        let in_path = path.strip_prefix(names.in_path.as_bytes());
        let in_query = query.first(names.parameter);
        let is_again = in_path.is_some() && in_query.is_some();
        if is_again || query.is_repeated(names.parameter) {
            return Err(TWICE);
        }
        let id = match in_path {
            Some(raw) => http::percent_decode(raw, false),
            None => http::percent_decode(in_query.ok_or_else(|| names.missing.clone())?, true),
        };
        let id = id.ok_or(BAD_ID)?;
        // Checked once decoded: to a proxy that decodes paths, `%5Fget` is `_get`.
        if in_path.is_some() && id.first() == Some(&b'_') {
            return Err(RESERVED);
        }
        if id.is_empty() {
            return Err(names.missing.clone());
        }
        if is_id(&id) { Ok(id) } else { Err(BAD_ID) }
    }

    /// The item's `Location`: the path form, unless the id could mean something else there. A word that begins with `_`
    /// is reserved; a dot segment is cut out of the path by clients (RFC 3986 §5.2.4), escaped or not; and a slash
    /// makes segments of its own for a proxy that decodes paths: `/items/a%2F..%2Fb` through nginx with `proxy_pass
    /// http://kioskd/;` is `/items/b`, another item. Some proxies take a backslash for a slash, too.
    pub fn location(self, id: Id<'_>) -> Location<'_> {
        let may_be_cut =
            id.iter().any(|b| matches!(b, b'/' | b'\\')) || matches!(&*id, b"." | b"..");
        let in_query = may_be_cut || id.first() == Some(&b'_');
        let names = self.names();
        let before = if in_query { names.in_query } else { names.in_path };
        Location { before, id }
    }
}

/// Whether these bytes are an id.
pub fn is_id(id: &[u8]) -> bool {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return false;
    }
    // Nearly all ids are plain ASCII, which needs no further check.
    id.iter().all(|b| (b' '..=b'~').contains(b))
        || std::str::from_utf8(id).is_ok_and(|id| !id.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_leads_back_to_the_id() {
        for (id, location) in [
            ("7", "/items/7"),
            ("a/b", "/items?id=a%2Fb"),
            ("/", "/items?id=%2F"),
            ("a/../b", "/items?id=a%2F..%2Fb"),
            ("a\\b", "/items?id=a%5Cb"),
            ("a%2Fb", "/items/a%252Fb"),
            ("a b+c", "/items/a%20b%2Bc"),
            ("_x", "/items?id=_x"),
            ("_a+b/&=", "/items?id=_a%2Bb%2F%26%3D"),
            (".", "/items?id=."),
            ("..", "/items?id=.."),
            ("...", "/items/..."),
            (".a", "/items/.a"),
            ("é", "/items/%C3%A9"),
        ] {
            assert_eq!(printed(Collection::Items.location(id.as_bytes().into())), location);
            let (path, query) = location.split_once('?').unwrap_or((location, ""));
            let found = Collection::Items.id(path.as_bytes(), &Query::of(query.as_bytes()));
            assert_eq!(found, Ok(id.as_bytes().into()));
        }
        let reserved = Collection::Sessions.location(b"_x"[..].into());
        assert_eq!(printed(reserved), "/sess?sid=_x");
    }

    fn printed(Location { before, id }: Location) -> String {
        let mut out = before.as_bytes().to_vec();
        http::push_percent_encoded(&mut out, &id);
        String::from_utf8(out).unwrap()
    }
}
