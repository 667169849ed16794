//! Request ids, and the trace that a client may have begun.
//!
//! `X-Request-Id` is taken from the request when it is fit to be echoed and logged (`[A-Za-z0-9._-]{1,128}`), else made
//! here: 64 random bits that a worker draws once, then its count of requests. `traceparent` (W3C Trace Context) is read
//! for its trace id, so that a log line can be found from a trace; kioskd starts no spans of its own. Either field
//! given twice is ignored: the client and kioskd could mean different ones.

use super::etag::hex;
use crate::http::{Field, Head};

/// A request id made by kioskd: one that no other worker and no other replica makes. It is unique, and no secret.
pub fn made_id(maker: u64, number: u64) -> [u8; 32] {
    let mut id = [0; 32];
    id[..16].copy_from_slice(&hex(maker));
    id[16..].copy_from_slice(&hex(number));
    id
}

/// The id that came with the request, if it can be used.
pub fn given_id<'a>(head: &Head<'a>) -> Option<&'a [u8]> {
    head.only(Field::RequestId).filter(|id| is_fit(id))
}

/// The 32 hexadecimal digits of a valid `traceparent`.
pub fn trace_id<'a>(head: &Head<'a>) -> Option<&'a str> {
    let value = head.only(Field::Traceparent)?;
    read_traceparent(std::str::from_utf8(value).ok()?)
}

fn is_fit(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// `version "-" trace-id "-" parent-id "-" flags`, lower-case hexadecimal, ids not all zero; a
/// version above 00 may have more behind (W3C Trace Context §3.2).
fn read_traceparent(value: &str) -> Option<&str> {
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
    (fits && (version != "00" || parts.next().is_none())).then_some(trace)
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
            assert_eq!(is_fit(id.as_bytes()), yes, "{id}");
        }
    }

    #[test]
    fn made_ids_are_fit_and_never_the_same() {
        let made: std::collections::HashSet<_> =
            (0..100).flat_map(|n| [made_id(7, n), made_id(u64::MAX, n)]).collect();
        assert_eq!(made.len(), 200);
        assert!(made.iter().all(|id| is_fit(id)));
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
            assert_eq!(read_traceparent(&value), yes.then_some(id), "{value}");
        }
    }
}
