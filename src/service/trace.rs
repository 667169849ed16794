//! Who asked: the request id, and the trace a caller may have begun.
//!
//! `X-Request-Id` is taken from the request when it is fit to be echoed and logged
//! (`[A-Za-z0-9._-]{1,128}`), else made here. `traceparent` (W3C Trace Context) is read for its
//! trace id, so that a log line can be found from a trace; we start no spans of our own. Either of
//! them given twice is none: the caller and we could mean different ones.

use super::etag::push_hex;
use crate::http::Head;
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The ids of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// On the response, in problem bodies, on log lines.
    pub request_id: String,
    /// The 32 hexadecimal digits of a valid `traceparent`.
    pub trace_id: Option<String>,
}

impl Trace {
    /// The ids that came with the request, the rest made by `ids`.
    pub fn of(head: &Head, ids: &Ids) -> Trace {
        let request_id = match head.only("x-request-id") {
            Some(id) if fit(id) => id.to_owned(),
            _ => ids.next(),
        };
        Trace { request_id, trace_id: head.only("traceparent").and_then(trace_id) }
    }

    /// For a request whose head could not be read.
    pub fn unread(ids: &Ids) -> Trace {
        Trace { request_id: ids.next(), trace_id: None }
    }
}

/// Makes request ids that no other worker and no other replica makes: 64 random bits drawn once,
/// then a counter. Unique is all they are; nobody should take one for a secret.
#[derive(Debug)]
pub struct Ids {
    maker: u64,
    count: Cell<u64>,
}

impl Default for Ids {
    fn default() -> Self {
        Ids { maker: RandomState::new().build_hasher().finish(), count: Cell::new(0) }
    }
}

impl Ids {
    fn next(&self) -> String {
        let n = self.count.get();
        self.count.set(n.wrapping_add(1));
        let mut id = String::with_capacity(32);
        push_hex(&mut id, self.maker);
        push_hex(&mut id, n);
        id
    }
}

fn fit(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// `version "-" trace-id "-" parent-id "-" flags`, lower-case hexadecimal, ids not all zero; a
/// version above 00 may have more behind (W3C Trace Context §3.2).
fn trace_id(value: &str) -> Option<String> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| {
        s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let fits = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    (fits && (version != "00" || parts.next().is_none())).then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fit_ids_are_taken() {
        for (id, yes) in [
            ("a", true),
            ("A.b_c-9", true),
            (&"x".repeat(128), true),
            ("", false),
            (&"x".repeat(129), false),
            ("a b", false),
            ("a\"", false),
        ] {
            assert_eq!(fit(id), yes, "{id}");
        }
    }

    #[test]
    fn made_ids_are_fit_and_never_the_same() {
        let (a, b) = (Ids::default(), Ids::default());
        let made: std::collections::HashSet<String> =
            (0..100).flat_map(|_| [a.next(), b.next()]).collect();
        assert_eq!(made.len(), 200);
        assert!(made.iter().all(|id| fit(id)));
    }

    #[test]
    fn traceparent_gives_its_trace_id_or_nothing() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (value, yes) in [
            (format!("00-{id}-00f067aa0ba902b7-01"), true),
            (format!("cc-{id}-00f067aa0ba902b7-01-what-the-future-brings"), true),
            (format!("00-{id}-00f067aa0ba902b7-01-"), false),
            (format!("ff-{id}-00f067aa0ba902b7-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
            (format!("00-{id}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()), false),
            (format!("00-{id}-00f067aa0ba902b7"), false),
            (String::new(), false),
        ] {
            assert_eq!(trace_id(&value), yes.then(|| id.to_owned()), "{value}");
        }
    }
}
