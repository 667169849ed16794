//! Writes that a browser sends for a page of another site: 403 (docs/api.md).
//!
//! By default kioskd requires no sign-in, so where a browser can reach it, on a developer's machine or in an intranet,
//! so can the script of any page that is open there. CORS keeps such a page from *reading* the answer; a POST of
//! `text/plain` is sent all the same. The browser states where a request comes from, and no script can change that:
//!
//! ```text
//! Sec-Fetch-Site: cross-site      Fetch Metadata, sent to https and to localhost
//! Origin: https://evil.example    Fetch §3.1, with every write, to any server
//! Host: kiosk:8080                the host that the browser was asked to call
//! ```
//!
//! A request without either is not from a browser. Reading changes nothing, and is CORS's to forbid.

use super::cors::Origins;
use super::problem::Problem;
use crate::http::{Authority, Field, Head, Method};

const CROSS_ORIGIN: Problem = Problem::new(403, "cross_origin", "");

/// Lets a request pass unless it is a write from another site that is not listed.
///
/// # Errors
/// 403, with the browser's value in its detail.
pub fn judge(head: &Head, origins: &Origins) -> Result<(), Problem> {
    let writes = !matches!(head.method(), Method::Get | Method::Head | Method::Options);
    if !writes || comes_from_here(head) || origins.listed(head).is_some() {
        return Ok(());
    }
    let said =
        |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or(b"missing")).into_owned();
    Err(CROSS_ORIGIN.detailed(format!(
        "a write from another site: Sec-Fetch-Site is {}, Origin is {}, Host is {}",
        said(head.first(Field::SecFetchSite)),
        said(head.first(Field::Origin)),
        said(head.authority().or(head.first(Field::Host))),
    )))
}

/// Sec-Fetch-Site alone decides where it is present: unlike kioskd, the browser knows the scheme of its request. `none`
/// is the user's own action, an address typed in or a bookmark.
fn comes_from_here(head: &Head) -> bool {
    if head.has(Field::SecFetchSite) {
        let is_here = |site: &[u8]| matches!(site, b"same-origin" | b"none");
        return head.all(Field::SecFetchSite).all(is_here);
    }
    if !head.has(Field::Origin) {
        return true;
    }
    let host = head.authority().or(head.first(Field::Host)).unwrap_or_default();
    head.all(Field::Origin).all(|origin| is_at(origin, host))
}

/// Whether `origin` and `host` are one host and port. A missing port is the default of the origin's scheme on both
/// sides: behind a proxy that ends TLS, `Host` alone does not show the scheme.
fn is_at(origin: &[u8], host: &[u8]) -> bool {
    let (origin, default) =
        match (origin.strip_prefix(b"http://"), origin.strip_prefix(b"https://")) {
            (Some(authority), _) => (authority, 80),
            (_, Some(authority)) => (authority, 443),
            _ => return false,
        };
    let (Some(origin), Some(host)) = (Authority::parse(origin), Authority::parse(host)) else {
        return false;
    };
    origin.host.eq_ignore_ascii_case(host.host)
        && origin.port.unwrap_or(default) == host.port.unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_here_when_host_and_port_are_the_same() {
        for (origin, host, here) in [
            ("http://kiosk", "kiosk", true),
            ("http://kiosk", "KIOSK", true),
            ("http://kiosk", "kiosk:80", true),
            ("http://kiosk:80", "kiosk", true),
            ("https://kiosk", "kiosk", true),
            ("https://kiosk", "kiosk:443", true),
            ("https://kiosk:443", "kiosk", true),
            ("http://kiosk:8080", "kiosk:8080", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://kiosk", "kiosk:443", false),
            ("https://kiosk", "kiosk:80", false),
            ("http://kiosk:8080", "kiosk", false),
            ("http://kiosk", "kiosk:8080", false),
            ("http://kiosk:8081", "kiosk:8080", false),
            ("http://evil.kiosk", "kiosk", false),
            ("http://kiosk.evil", "kiosk", false),
            ("http://127.0.0.1:8080", "localhost:8080", false),
            ("null", "kiosk", false),
            ("null", "null", false),
            ("", "", false),
            ("", "kiosk", false),
            ("http://", "", false),
            ("http://kiosk", "", false),
            ("kiosk", "kiosk", false),
            ("//kiosk", "kiosk", false),
            ("HTTP://kiosk", "kiosk", false),
            ("http://kiosk/", "kiosk", false),
            ("http://u@kiosk", "kiosk", false),
            ("http://kiosk http://evil", "kiosk", false),
            ("ws://kiosk", "kiosk", false),
            ("chrome-extension://kiosk", "kiosk", false),
        ] {
            assert_eq!(is_at(origin.as_bytes(), host.as_bytes()), here, "{origin} at {host}");
        }
    }
}
