//! The access log: one line for a request, by `ACCESS_LOG`.
//!
//! ```text
//! GET /items?id=7 504 2001ms id=4f3a… trace=4bf9… peer=10.0.0.9
//! ```
//!
//! `errors` means faults of the service and of the protocol: every 5xx, every request that was refused before a rule
//! saw it (bad framing, limits, time), and every request whose response was not sent in full: 499 when the client had
//! gone, `cut` when it did not read. A 404 is an answer, not an error.
//!
//! The id of a session is a secret, so a target that may hold one is shown without it: `/sess/…`,
//! `/items?sid=…`.

use log::kv::{self, Key, Source, Value, VisitSource};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Which requests are logged (`ACCESS_LOG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// No requests.
    Off,
    /// Requests that failed; the default.
    Errors,
    /// All requests.
    All,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its response, as far as can be known here.
    Answered,
    /// The client had gone before all of its response was sent: [`GONE`].
    Gone,
    /// The response was cut off, for this reason: the client did not read it.
    Cut(&'static str),
}

/// The status that stands for a client that had gone. No client ever sees it; nginx made it known.
pub const GONE: u16 = 499;

/// What is logged about a request when it is over.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The method, or `-` when the head was unreadable.
    pub method: &'a [u8],
    /// The target as sent, or `-`.
    pub target: &'a [u8],
    /// How it ended.
    pub end: End,
    /// The status of its response, if one was made.
    pub status: u16,
    /// Why the protocol refused it before any rule saw it, if it did.
    pub refused: Option<&'a str>,
    /// What the path means to us, from a fixed set.
    pub route: &'static str,
    /// From the complete head to the end of the response.
    pub took: Duration,
    /// How much of that the store has taken.
    pub stored: Duration,
    /// The size of the response, as printed.
    pub bytes: usize,
    /// The request's id.
    pub request_id: &'a [u8],
    /// The id of the client's trace.
    pub trace_id: Option<&'a str>,
    /// The client's address; a Unix socket has none.
    pub peer: Option<IpAddr>,
    /// The name of its token.
    pub token: Option<&'a str>,
}

impl AccessLog {
    /// Whether a request that ended like this is to be logged.
    pub fn wants(self, end: End, status: u16, is_refused: bool) -> bool {
        match self {
            AccessLog::Off => false,
            AccessLog::All => true,
            AccessLog::Errors => end != End::Answered || status >= 500 || is_refused,
        }
    }

    /// Logs a request: as a sentence, and as fields for `LOG_FORMAT=json`.
    pub fn record(self, entry: &Entry) {
        let level = match (entry.end, entry.status) {
            (End::Answered, 500..) => log::Level::Warn,
            _ => log::Level::Info,
        };
        if log::log_enabled!(target: "access", level) {
            let args = format_args!("{entry}");
            let fields = Fields::of(entry);
            let mut record = log::Record::builder();
            let record = record.level(level).target("access").args(args).key_values(&fields);
            log::logger().log(&record.build());
        }
    }
}

/// The fields of an entry. A name that begins with `#` is that of a number.
struct Fields<'a>([(&'static str, Option<Cow<'a, str>>); 13]);

impl<'a> Fields<'a> {
    fn of(entry: &Entry<'a>) -> Fields<'a> {
        let millis = |time: Duration| {
            let micros = time.as_micros();
            format!("{}.{:03}", micros / 1000, micros % 1000)
        };
        let cut = if let End::Cut(why) = entry.end { Some(why.into()) } else { None };
        let status = if entry.end == End::Answered { entry.status } else { GONE };
        let path = masked(&String::from_utf8_lossy(entry.target)).into_owned();
        Fields([
            ("method", Some(String::from_utf8_lossy(entry.method))),
            ("path", Some(path.into())),
            ("route", Some(entry.route.into())),
            ("#status", Some(status.to_string().into())),
            ("#ms", Some(millis(entry.took).into())),
            ("#store_ms", Some(millis(entry.stored).into())),
            ("#bytes", Some(entry.bytes.to_string().into())),
            ("request_id", Some(String::from_utf8_lossy(entry.request_id))),
            ("trace_id", entry.trace_id.map(Cow::Borrowed)),
            ("peer", entry.peer.map(|peer| peer.to_string().into())),
            ("token", entry.token.map(Cow::Borrowed)),
            ("refused", entry.refused.map(Cow::Borrowed)),
            ("cut", cut),
        ])
    }
}

impl Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let Fields(fields) = self;
        let there = fields.iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
        for (name, text) in there {
            visitor.visit_pair(Key::from_str(name), Value::from(text))?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        write!(f, "{} {} ", text(self.method), masked(&text(self.target)))?;
        match self.end {
            End::Answered => write!(f, "{}", self.status)?,
            End::Gone => write!(f, "{GONE}")?,
            End::Cut(_) => f.write_str("cut")?,
        }
        write!(f, " {}ms id={}", self.took.as_millis(), text(self.request_id))?;
        if let Some(id) = self.trace_id {
            write!(f, " trace={id}")?;
        }
        if let Some(peer) = self.peer {
            write!(f, " peer={peer}")?;
        }
        if let Some(token) = self.token {
            write!(f, " token={token}")?;
        }
        if let Some(why) = self.refused {
            write!(f, " refused: {why}")?;
        }
        if let End::Cut(why) = self.end {
            write!(f, " cut: {why}")?;
        }
        Ok(())
    }
}

/// What is shown instead of a secret.
const MASK: &str = "…";

/// The query parameters that sessions use; their names may be shown.
const SESSION_PARAMETERS: [&str; 5] = ["sid", "ttl", "prefix", "cursor", "limit"];

/// The target without anything that could be a session's id.
///
/// It masks more than our router would accept (other letter case, an encoded slash, a parameter of another path): a
/// client that spells its secret wrongly has still sent it.
fn masked(target: &str) -> Cow<'_, str> {
    let (path, query) =
        target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let sessions = masked_path(path);
    // `next=/sess/ID` tells it as well.
    let is_secret = |pair: &str| decoded(pair).contains("sid=") || masked_path(pair).is_some();
    if sessions.is_none() && !query.is_some_and(|query| query.split('&').any(is_secret)) {
        return Cow::Borrowed(target);
    }
    let mut out = sessions.clone().unwrap_or_else(|| path.to_owned());
    for (n, pair) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        let name = pair.split_once('=').map(|(name, _)| decoded(name));
        let known = name.filter(|name| SESSION_PARAMETERS.contains(&name.as_str()));
        match known {
            _ if sessions.is_none() && !is_secret(pair) => out.push_str(pair),
            Some(name) => out.extend([&*name, "=", MASK]),
            None if pair.is_empty() => {}
            None => out.push_str(MASK),
        }
    }
    Cow::Owned(out)
}

/// The path up to its `/sess`, if it contains one; nothing of a path with `sid=` in it, whose `?` is missing.
fn masked_path(path: &str) -> Option<String> {
    let path = decoded(path);
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
    let found = path.match_indices("/sess").find(|(at, name)| is_end(&path[at + name.len()..]));
    let Some((at, _)) = found else {
        return path.contains("sid=").then(|| MASK.to_owned());
    };
    // What comes before `/sess` is not shown: decoded, it could look like a field of the log line.
    let before = if at == 0 { "" } else { MASK };
    Some(match &path[at + "/sess".len()..] {
        rest @ ("" | "/") => format!("{before}/sess{rest}"),
        _ => format!("{before}/sess/{MASK}"),
    })
}

/// Percent-decoded until no escape is left, in lower case: only to be searched.
fn decoded(raw: &str) -> String {
    let mut bytes = Vec::with_capacity(raw.len());
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for byte in raw.bytes() {
        bytes.push(byte);
        // The decoded byte may complete another escape.
        while let [.., b'%', high, low] = bytes[..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            bytes.truncate(bytes.len() - 3);
            bytes.push((high << 4 | low) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_session_shows_its_id() {
        for (target, shown) in [
            ("/sess/SECRET", "/sess/…"),
            ("/sess/SECRET/", "/sess/…"),
            ("/sess//SECRET", "/sess/…"),
            ("/sess/", "/sess/"),
            ("/sess", "/sess"),
            ("/sess?", "/sess?"),
            ("/%73ess/SECRET", "/sess/…"),
            ("/%53%45ss/SECRET%zz", "/sess/…"),
            ("/%2573ess/SECRET", "/sess/…"),
            ("/%252525252573ess/SECRET", "/sess/…"),
            ("/%%37%33ess/SECRET", "/sess/…"),
            ("/items?id=s%2569d%253DSECRET", "/items?…"),
            ("/sess%2FSECRET", "/sess/…"),
            ("/sess%3Fsid=SECRET", "/sess/…"),
            ("/sess;SECRET", "/sess/…"),
            ("//sess/SECRET", "…/sess/…"),
            ("/a%20200%20b/sess/SECRET", "…/sess/…"),
            ("http://kiosk/sess/SECRET?ttl=5", "…/sess/…?ttl=…"),
            ("/sess?sid=SECRET", "/sess?sid=…"),
            ("/sess?ttl=5&sid=SECRET&sid=SECRET", "/sess?ttl=…&sid=…&sid=…"),
            ("/sess?s%69d=SECRET&&", "/sess?sid=…&&"),
            ("/sess?id=SECRET&SECRET", "/sess?…&…"),
            ("/sess?prefix=SECRET&limit=1", "/sess?prefix=…&limit=…"),
            ("/sess/SECRET?sid=SECRET", "/sess/…?sid=…"),
            ("/sess?x?sid=SECRET", "/sess?…"),
            ("/items?id=7&sid=SECRET", "/items?id=7&sid=…"),
            ("/items?id=7;sid=SECRET", "/items?…"),
            ("/?SID=SECRET&a=b", "/?sid=…&a=b"),
            ("/items;sid=SECRET", "…"),
            ("/sessions;s%69d=SECRET", "…"),
            ("/items&sid=SECRET?a=b", "…?…"),
            ("/?next=/sess/SECRET&a=b", "/?…&a=b"),
            ("/?u=http%3A%2F%2Fkiosk%2Fsess%2FSECRET", "/?…"),
        ] {
            assert_eq!(masked(target), shown, "{target}");
        }
    }

    #[test]
    fn what_is_no_session_is_shown_as_sent() {
        for target in [
            "-",
            "*",
            "/items?id=7&ttl=5",
            "/items/a%2Fb?prefix=x",
            "/session/7",
            "/sessions?id=7",
            "/items/sess",
            "/items?id=%zz&a%",
            "kiosk:443",
        ] {
            match target {
                "/items/sess" => assert_eq!(masked(target), "…/sess"),
                _ => assert_eq!(masked(target), target),
            }
        }
    }

    #[test]
    fn errors_are_faults_of_the_service_and_of_the_protocol() {
        let cut = End::Cut("not taken in time");
        for (end, status, is_refused, is_error) in [
            (End::Answered, 200, false, false),
            (End::Answered, 404, false, false),
            (End::Answered, 400, true, true),
            (End::Answered, 408, true, true),
            (End::Answered, 499, false, false),
            (End::Answered, 500, false, true),
            (End::Answered, 504, false, true),
            (End::Gone, 0, false, true),
            (End::Gone, 200, false, true),
            (cut, 200, false, true),
        ] {
            let wants = |log: AccessLog| log.wants(end, status, is_refused);
            assert_eq!(wants(AccessLog::Errors), is_error, "{end:?} {status}");
            assert!(wants(AccessLog::All) && !wants(AccessLog::Off));
        }
    }

    #[test]
    fn a_line_says_what_there_is_to_say() {
        let entry = |end, refused| Entry {
            method: b"GET",
            target: b"/sess/SECRET",
            end,
            status: 503,
            refused,
            route: "session",
            took: Duration::from_micros(2001),
            stored: Duration::from_micros(1500),
            bytes: 7,
            request_id: b"r-1",
            trace_id: Some("4bf9"),
            peer: Some([10, 0, 0, 9].into()),
            token: Some("ci"),
        };
        let full = entry(End::Answered, Some("too many connections"));
        assert_eq!(
            full.to_string(),
            "GET /sess/… 503 2ms id=r-1 trace=4bf9 peer=10.0.0.9 token=ci refused: too many connections"
        );
        let bare = Entry { trace_id: None, peer: None, token: None, ..entry(End::Gone, None) };
        assert_eq!(bare.to_string(), "GET /sess/… 499 2ms id=r-1");
        let cut = Entry {
            method: b"-",
            target: b"-",
            peer: None,
            token: None,
            ..entry(End::Cut("too slow"), None)
        };
        assert_eq!(cut.to_string(), "- - cut 2ms id=r-1 trace=4bf9 cut: too slow");
    }
}
