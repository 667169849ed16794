//! `uri-host [ ":" port ]`, the authority of `Host`, of absolute targets and of CONNECT
//! (RFC 9110 §7.2, RFC 3986 §3.2.2).
//!
//! Stricter than RFC 3986 where laxness has only ever served attackers: no userinfo (`@`), no
//! comma (two joined `Host` values), no empty host, no IPvFuture, and a port that fits a port.

use super::bytes::{REG_NAME, run};
use std::net::Ipv6Addr;

/// A well-formed host and its port, if one is given.
#[derive(Debug, PartialEq)]
pub struct Authority<'a> {
    /// As written, an IPv6 address with its brackets.
    pub host: &'a [u8],
    /// `None` also for an empty port, `example.com:`, which RFC 3986 allows.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses `raw`, all of it, as an authority.
    pub fn parse(raw: &'a [u8]) -> Option<Authority<'a>> {
        let host_len = match raw.first()? {
            b'[' => address_len(raw)?,
            _ => reg_name_len(raw).filter(|len| *len > 0)?,
        };
        let (host, rest) = raw.split_at(host_len);
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Authority { host, port })
    }
}

/// The length of the IPv6 address in brackets at the front of `raw`.
fn address_len(raw: &[u8]) -> Option<usize> {
    let end = raw.iter().position(|b| *b == b']')?;
    std::str::from_utf8(&raw[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// The length of the `reg-name` without the comma at the front of `raw` (every IPv4 address is one too); `None` for a
/// malformed escape.
fn reg_name_len(raw: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += run(&raw[at..], REG_NAME);
        match raw[at..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 3,
            [b'%', ..] => return None,
            _ => return Some(at),
        }
    }
}

/// A number of nothing but digits that fits a port; leading zeros mean nothing.
fn port(digits: &[u8]) -> Option<u16> {
    let mut port = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        port = port * 10 + u32::from(digit);
        if digit > 9 || port > 65_535 {
            return None;
        }
    }
    Some(port as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hosts_with_and_without_port() {
        for (raw, host, port) in [
            ("a", "a", None),
            ("example.com:", "example.com", None),
            ("example.com:0", "example.com", Some(0)),
            ("example.com:00080", "example.com", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[::ffff:1.2.3.4]:80", "[::ffff:1.2.3.4]", Some(80)),
            ("a_b-c.~!$&'()*+;=%41", "a_b-c.~!$&'()*+;=%41", None),
        ] {
            let host = host.as_bytes();
            assert_eq!(Authority::parse(raw.as_bytes()), Some(Authority { host, port }));
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        for raw in [
            "",
            ":",
            ":80",
            "a b",
            "a@b",
            "a/b",
            "a,b",
            "a?b",
            "a#b",
            "a\\b",
            "a\tb",
            "a\"b",
            "a<b",
            "a:65536",
            "a:+80",
            "a:-1",
            "a:8 0",
            "a:80:90",
            "a:x",
            "::1",
            "[]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:x",
            "[::1%eth0]",
            "[1.2.3.4]",
            "[v1.a]",
            "[a]",
            "%",
            "%4",
            "%4g",
            "a%",
            "caf\u{e9}",
        ] {
            assert_eq!(Authority::parse(raw.as_bytes()), None, "{raw}");
        }
    }
}
