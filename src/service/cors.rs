//! `CORS_ORIGINS`: pages of other sites whose scripts may use this service (Fetch, "CORS protocol").
//!
//! ```text
//! OPTIONS /items/7, Origin: https://app.example, Access-Control-Request-Method: PUT     a preflight
//! 204, Access-Control-Allow-Origin: https://app.example, Access-Control-Allow-Methods: …
//! PUT /items/7, Origin: https://app.example                                             then the request
//! ```
//!
//! A browser asks first, without the token, so a preflight is answered before any token is wanted. Every response to a
//! listed origin names it, errors too, or the page could not read why. Never with credentials: those of kioskd are
//! tokens, which a page sends itself.

use crate::http::{Cors, Field, Head, Method};

/// The origins that are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Reads origins, separated by commas, as browsers spell them: `https://app.example,http://localhost:3000`.
    ///
    /// # Errors
    /// What an entry has to be. Not `*`: it would let every page that somebody opens write here.
    pub fn parse(text: &str) -> Result<Origins, &'static str> {
        const WANTED: &str = "origins as browsers send them (https://app.example, http://localhost:3000: no path, no \
            default port, lower case), with commas between them; not *, which every page would be";
        let is_origin = |origin: &&str| {
            let (host, default) =
                match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
                    (Some(host), _) => (host, ":80"),
                    (_, Some(host)) => (host, ":443"),
                    _ => return false,
                };
            let is_plain =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
            !host.is_empty() && host.bytes().all(is_plain) && !host.ends_with(default)
        };
        let origins: Vec<&str> = text.split(',').map(str::trim).collect();
        match origins.iter().all(is_origin) {
            true => Ok(Origins(origins.into_iter().map(str::to_owned).collect())),
            false => Err(WANTED),
        }
    }

    fn has(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|listed| listed.as_bytes() == origin)
    }

    /// The origin of a request, if it is listed.
    pub fn listed<'a>(&self, head: &Head<'a>) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        head.only(Field::Origin).filter(|origin| self.has(origin))
    }

    /// Whether a request is a browser's question whether a listed origin may send another.
    pub fn is_preflight(&self, head: &Head) -> bool {
        head.method() == Method::Options
            && head.has(Field::RequestMethod)
            && self.listed(head).is_some()
    }

    /// What the response to a request says about other sites. `bytes` are what has arrived of it, for one whose head is not
    /// whole, or no head.
    pub fn cors<'a>(&'a self, head: Option<&Head<'a>>, bytes: &[u8]) -> Cors<'a> {
        if self.0.is_empty() {
            return Cors::Off;
        }
        let listed = match head {
            Some(head) => self.listed(head),
            None => self.mentioned(bytes),
        };
        listed.map_or(Cors::Others, Cors::Origin)
    }

    /// The listed origin that some bytes name, be they what they may: a page has to be able to read that it is refused.
    fn mentioned(&self, bytes: &[u8]) -> Option<&[u8]> {
        let lines = bytes.split(|b| *b == b'\n').filter_map(|line| line.split_at_checked(7));
        let values = lines.filter(|(name, _)| name.eq_ignore_ascii_case(b"origin:"));
        let mut values = values.map(|(_, value)| value.trim_ascii());
        let (first, second) = (values.next()?, values.next());
        let listed = self.0.iter().map(String::as_bytes).find(|listed| *listed == first);
        listed.filter(|_| second.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::OwnedHead;

    #[test]
    fn origins_are_listed_as_browsers_send_them() {
        for (text, well) in [
            ("https://app.example", true),
            ("https://app.example, http://localhost:3000,http://[::1]:3000", true),
            ("*", false),
            ("null", false),
            ("", false),
            ("app.example", false),
            ("https://app.example/", false),
            ("https://App.example", false),
            ("https://app.example:443", false),
            ("http://app.example:80", false),
            ("http://app.example:443", true),
            ("https://u@app.example", false),
            ("https://", false),
            ("https://a b", false),
            ("https://a,", false),
        ] {
            assert_eq!(Origins::parse(text).is_ok(), well, "{text}");
        }
    }

    #[test]
    fn only_a_listed_origin_is_named_and_only_if_there_is_one() {
        let origins = Origins::parse("https://a.example,https://b.example").unwrap();
        let at = |fields: &str| {
            let head =
                OwnedHead::of(format!("OPTIONS /items/7 HTTP/1.1\r\nHost: k\r\n{fields}\r\n"));
            let cors = match origins.cors(Some(&head.head()), b"") {
                Cors::Origin(origin) => String::from_utf8(origin.to_vec()).unwrap(),
                other => format!("{other:?}"),
            };
            (cors, origins.is_preflight(&head.head()))
        };
        let asks = "Access-Control-Request-Method: PUT\r\n";
        for (fields, named, preflight) in [
            (format!("Origin: https://b.example\r\n{asks}"), "https://b.example", true),
            ("Origin: https://b.example\r\n".to_owned(), "https://b.example", false),
            (format!("Origin: https://c.example\r\n{asks}"), "Others", false),
            (
                format!("Origin: https://b.example\r\nOrigin: https://b.example\r\n{asks}"),
                "Others",
                false,
            ),
            (asks.to_owned(), "Others", false),
        ] {
            assert_eq!(at(&fields), (named.to_owned(), preflight), "{fields}");
        }
        for (bytes, named) in [
            (&b""[..], false),
            (b"GET / HTTP/1.1\r\nOrigin: https://b.example\r\nA: ", true),
            (b"GET / HTTP/1.1\norigin:https://b.example\n", true),
            (b"GET / HTTP/1.1\r\nOrigin: https://b.exampl", false),
            (b"GET / HTTP/1.1\r\nOrigin: https://c.example\r\n", false),
            (b"Origin: https://b.example\r\nOrigin: https://b.example\r\n", false),
            (b"GET / HTTP/1.1\r\nX-Origin: https://b.example\r\n", false),
        ] {
            let cors = origins.cors(None, bytes);
            let wanted = if named { Cors::Origin(b"https://b.example") } else { Cors::Others };
            assert_eq!(cors, wanted, "{}", bytes.escape_ascii());
            assert_eq!(Origins::default().cors(None, bytes), Cors::Off);
        }
    }
}
