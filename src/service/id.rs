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
use crate::http;

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

impl Collection {
    /// The collection a raw path names, and the raw id behind it when the path has one.
    pub fn of(path: &str) -> Option<(Collection, Option<&str>)> {
        let path = path.strip_prefix('/')?;
        let (name, id) = path.split_once('/').map_or((path, None), |(name, id)| (name, Some(id)));
        if id.is_some_and(|id| id.contains('/')) {
            return None;
        }
        match name {
            "items" => Some((Collection::Items, id)),
            "sess" => Some((Collection::Sessions, id)),
            _ => None,
        }
    }

    /// What the key of every id of the collection begins with.
    pub fn key_prefix(self) -> &'static str {
        match self {
            Collection::Items => "item:",
            Collection::Sessions => "sess:",
        }
    }

    /// The Redis key of an id. An id can hold anything but control characters and still never
    /// leave its prefix: a key is one argument, not a path.
    pub fn key(self, id: &str) -> Vec<u8> {
        [self.key_prefix().as_bytes(), id.as_bytes()].concat()
    }

    fn id_parameter(self) -> &'static str {
        match self {
            Collection::Items => "id",
            Collection::Sessions => "sid",
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
    pub fn id(self, in_path: Option<&str>, query: &str) -> Result<String, Problem> {
        let mut in_query = http::query_values(query, self.id_parameter());
        let id = match in_path {
            Some(raw) => {
                if in_query.next().is_some() {
                    return Err(TWICE);
                }
                http::percent_decode(raw, false).map_err(|_| BAD_ID)?
            }
            None => {
                let id = in_query.next().ok_or_else(|| self.missing_id())?.map_err(|_| BAD_ID)?;
                if in_query.next().is_some() {
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
        checked(id)
    }

    /// Where the item can be found: the path form, unless the id could mean something else there.
    /// A word that begins with `_` is reserved; a dot segment is cut out of the path by clients
    /// (RFC 3986 §5.2.4), escaped or not; and a slash makes segments of its own for a proxy that
    /// decodes paths: `/items/a%2F..%2Fb` through nginx with `proxy_pass http://kioskd/;` is
    /// `/items/b`, another item. Some take a backslash for a slash, too.
    pub fn location(self, id: &str) -> String {
        let path = match self {
            Collection::Items => "/items",
            Collection::Sessions => "/sess",
        };
        let mut location = path.to_owned();
        let may_be_cut = id.contains(['/', '\\']) || matches!(id, "." | "..");
        match may_be_cut || id.starts_with('_') {
            true => location.extend(["?", self.id_parameter(), "="]),
            false => location.push('/'),
        }
        push_percent_encoded(&mut location, id);
        location
    }
}

/// The bytes as an id, if they are one.
///
/// # Errors
/// Empty, longer than [`ID_BYTES_MAX`], not UTF-8, or with a control character in it.
pub fn checked(id: Vec<u8>) -> Result<String, Problem> {
    let id = String::from_utf8(id).map_err(|_| BAD_ID)?;
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(BAD_ID);
    }
    Ok(id)
}

/// Everything but unreserved characters (RFC 3986 §2.3) as `%XX`.
pub fn push_percent_encoded(out: &mut String, text: &str) {
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
            assert_eq!(Collection::Items.location(id), location);
            let (path, query) = location.split_once('?').unwrap_or((location, ""));
            let (collection, in_path) = Collection::of(path).unwrap();
            assert_eq!(collection.id(in_path, query), Ok(id.to_owned()));
        }
        assert_eq!(Collection::Sessions.location("_x"), "/sess?sid=_x");
    }
}
