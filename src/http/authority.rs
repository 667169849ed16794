//! `uri-host [ ":" port ]`, the authority of `Host`, of absolute targets and of CONNECT
//! (RFC 9110 §7.2, RFC 3986 §3.2.2).
//!
//! Stricter than RFC 3986 where laxness has only ever served attackers: no userinfo (`@`), no
//! comma (two joined `Host` values), no empty host, no IPvFuture, and a port that fits a port.

use super::body::decimal;
use super::bytes::{REG_NAME, run};
use std::net::Ipv6Addr;

/// A well-formed host and its port, if one is given.
#[derive(Debug, PartialEq)]
pub struct Authority<'a> {
    /// As it was written, an IPv6 address with its brackets.
    pub host: &'a [u8],
    /// `None` also for an empty port, `example.com:`, which RFC 3986 allows.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// The authority that `raw` is, whole.
    pub fn parse(raw: &'a [u8]) -> Option<Authority<'a>> {
        let (host, rest) = if raw.first() == Some(&b'[') {
            let (host, rest) = raw.split_at(raw.iter().position(|b| *b == b']')? + 1);
            let address = std::str::from_utf8(&host[1..host.len() - 1]).ok()?;
            address.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        } else {
            let (host, rest) = raw.split_at(reg_name_len(raw)?);
            if host.is_empty() {
                return None;
            }
            (host, rest)
        };
        let port = match rest {
            b"" | b":" => None,
            _ => Some(decimal(rest.strip_prefix(b":")?).filter(|port| *port <= 65_535)? as u16),
        };
        Some(Authority { host, port })
    }
}

/// How much of `raw` is a `reg-name` without the comma (every IPv4 address is one too); `None` for an escape that is
/// none.
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
