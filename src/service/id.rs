//! Collections and ids: what a path and a query name, and under which key it is stored.
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

/// The two collections: same rules, other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// `/items`, `item:`.
    Items,
    /// `/sess`, `sess:`; reading renews.
    Sessions,
}

/// What an id is: 1 to [`ID_BYTES_MAX`] bytes of UTF-8 without control characters, decoded.
pub type Id<'a> = Cow<'a, [u8]>;

impl Collection {
    /// The raw id in a path of this collection; `None` when the path has none.
    pub fn id_in_path(self, path: &[u8]) -> Option<&[u8]> {
        let name = match self {
            Collection::Items => "/items/",
            Collection::Sessions => "/sess/",
        };
        path.strip_prefix(name.as_bytes())
    }

    /// What the key of every id of the collection begins with.
    pub fn key_prefix(self) -> &'static str {
        match self {
            Collection::Items => "item:",
            Collection::Sessions => "sess:",
        }
    }

    /// The key of an id.
    pub fn key(self, id: Id<'_>) -> Key<'_> {
        Key { prefix: self.key_prefix(), id }
    }

    fn id_parameter(self) -> Parameter {
        match self {
            Collection::Items => Parameter::Id,
            Collection::Sessions => Parameter::Sid,
        }
    }

    fn missing_id(self) -> Problem {
        match self {
            Collection::Items => {
                Problem::new(400, "missing_id", "missing id: give it as /items?id=ID or /items/ID")
            }
            Collection::Sessions => Problem::new(
                400,
                "missing_sid",
                "missing sid: give it as /sess?sid=SID or /sess/SID",
            ),
        }
    }

    /// The id of a request, from its path when it has one there, else from its query.
    ///
    /// # Errors
    /// There is none, or two, or it is not an id.
    pub fn id<'a>(self, path: &'a [u8], query: &Query<'a>) -> Result<Id<'a>, Problem> {
        let in_path = self.id_in_path(path);
        let parameter = self.id_parameter();
        let id = match in_path {
            Some(raw) => {
                if query.has(parameter) {
                    return Err(TWICE);
                }
                http::percent_decode(raw, false).map_err(|_| BAD_ID)?
            }
            None => {
                let raw = query.first(parameter).ok_or_else(|| self.missing_id())?;
                let id = http::percent_decode(raw, true).map_err(|_| BAD_ID)?;
                if query.is_repeated(parameter) {
                    return Err(TWICE);
                }
                id
            }
        };
        // Judged once decoded: `%5Fget` is `_get` to whoever decodes it before us.
        if in_path.is_some() && id.first() == Some(&b'_') {
            return Err(RESERVED);
        }
        if id.is_empty() {
            return Err(self.missing_id());
        }
        if is_id(&id) { Ok(id) } else { Err(BAD_ID) }
    }

    /// Where the item can be found: the path form, unless the id could mean something else there.
    /// A word that begins with `_` is reserved; a dot segment is cut out of the path by clients
    /// (RFC 3986 §5.2.4), escaped or not; and a slash makes segments of its own for a proxy that
    /// decodes paths: `/items/a%2F..%2Fb` through nginx with `proxy_pass http://kioskd/;` is
    /// `/items/b`, another item. Some take a backslash for a slash, too.
    pub fn location(self, id: Id<'_>) -> Location<'_> {
        let may_be_cut =
            id.iter().any(|b| matches!(b, b'/' | b'\\')) || matches!(&*id, b"." | b"..");
        let in_query = may_be_cut || id.first() == Some(&b'_');
        let before = match (self, in_query) {
            (Collection::Items, false) => "/items/",
            (Collection::Items, true) => "/items?id=",
            (Collection::Sessions, false) => "/sess/",
            (Collection::Sessions, true) => "/sess?sid=",
        };
        Location { before, id }
    }
}

/// Whether these bytes are an id.
pub fn is_id(id: &[u8]) -> bool {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return false;
    }
    // Nearly all are plain ASCII, which needs no second look.
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
