//! Where a Redis server listens: `host:port`, or the path of a socket.
//!
//! A host is a DNS name or an address. Names are not resolved here; addresses that mean "every
//! interface" (`0.0.0.0`, `::`) are refused, for they are where one listens, not where one
//! connects, and would reach whatever runs on this machine.

use super::UrlError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// One server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Displayed as `host:port`, with brackets around an IPv6 address.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix domain socket. Displayed as its path.
    Unix(PathBuf),
}

/// RFC 1035 §2.3.4, without the length bytes and the root.
const HOST_BYTES_MAX: usize = 253;

impl Endpoint {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the host or the port. A host that is shown has only the characters
    /// of a host; a port that is no port is not shown, it might be a part of a password.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, UrlError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(UrlError::Ipv6)?;
                let (address, zone) = match host.split_once('%') {
                    Some((address, zone)) => (address, Some(zone)),
                    None => (host, None),
                };
                address.parse::<Ipv6Addr>().map_err(|_| UrlError::Ipv6)?;
                if zone.is_some() {
                    return Err(UrlError::Zone);
                }
                let port = match after.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if after.is_empty() => None,
                    None => return Err(UrlError::Ipv6),
                };
                (host, port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                if port.is_some_and(|port| port.contains(':')) {
                    return Err(UrlError::Ipv6);
                }
                check_name(host)?;
                (host, port)
            }
        };
        if is_unspecified(host) {
            return Err(UrlError::Unspecified { host: host.to_owned() });
        }
        let port = match port {
            Some(port) => decimal(port)
                .filter(|&port| port != 0)
                .ok_or_else(|| UrlError::Port { host: host.to_owned() })?,
            None => default_port,
        };
        Ok(Endpoint::Tcp { host: host.to_owned(), port })
    }
}

/// Letters, digits, `-`, `.` and the `_` of container names. A name that ends in a number must be
/// a whole IPv4 address: resolvers read `0` as 0.0.0.0 and `127.1` as 127.0.0.1.
fn check_name(host: &str) -> Result<(), UrlError> {
    if host.is_empty() {
        return Err(UrlError::EmptyHost);
    }
    let is_name = host.len() <= HOST_BYTES_MAX
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let labels = host.strip_suffix('.').unwrap_or(host);
    let last = labels.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.starts_with("0x")
        || last.starts_with("0X");
    match is_name && (!is_number || host.parse::<Ipv4Addr>().is_ok()) {
        true => Ok(()),
        false => Err(UrlError::Host),
    }
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_unspecified())
}

/// Digits only: `u16::from_str` would take `+6379`.
pub(super) fn decimal<N: FromStr>(text: &str) -> Option<N> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_endpoints() {
        let longest = "a".repeat(253);
        for (text, shown) in [
            ("redis", "redis:6379"),
            ("redis:1", "redis:1"),
            ("redis:65535", "redis:65535"),
            ("kiosk_redis-0.svc.cluster.local.", "kiosk_redis-0.svc.cluster.local.:6379"),
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("[::1]", "[::1]:6379"),
            ("[2001:db8::7]:7000", "[2001:db8::7]:7000"),
            ("1password.example", "1password.example:6379"),
            (&longest, &format!("{longest}:6379")),
        ] {
            let endpoint =
                Endpoint::parse(text, 6379).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(Endpoint::parse(shown, 1), Ok(endpoint), "shown as it is read");
        }
    }

    #[test]
    fn refuses_what_cannot_be_connected_to() {
        let host = |host: &str| host.to_owned();
        let too_long = "a".repeat(254);
        for (text, error) in [
            ("", UrlError::EmptyHost),
            (":6379", UrlError::EmptyHost),
            ("redis:", UrlError::Port { host: host("redis") }),
            ("redis:0", UrlError::Port { host: host("redis") }),
            ("redis:00", UrlError::Port { host: host("redis") }),
            ("redis:65536", UrlError::Port { host: host("redis") }),
            ("redis:+6379", UrlError::Port { host: host("redis") }),
            ("redis:-1", UrlError::Port { host: host("redis") }),
            ("redis: 6379", UrlError::Port { host: host("redis") }),
            ("[::1]:0", UrlError::Port { host: host("::1") }),
            ("0.0.0.0", UrlError::Unspecified { host: host("0.0.0.0") }),
            ("[::]:6379", UrlError::Unspecified { host: host("::") }),
            ("[::ffff:0.0.0.0]", UrlError::Unspecified { host: host("::ffff:0.0.0.0") }),
            ("0", UrlError::Host),
            ("127.1", UrlError::Host),
            ("0x7f.0x1", UrlError::Host),
            ("256.0.0.1", UrlError::Host),
            ("0.", UrlError::Host),
            ("a b", UrlError::Host),
            ("redis%2e", UrlError::Host),
            ("höst", UrlError::Host),
            (&too_long, UrlError::Host),
            ("::1", UrlError::Ipv6),
            ("::1:6379", UrlError::Ipv6),
            ("[::1", UrlError::Ipv6),
            ("[::1]6379", UrlError::Ipv6),
            ("[127.0.0.1]", UrlError::Ipv6),
            ("[fe80::1%eth0]", UrlError::Zone),
            ("[fe80::1%25eth0]:6379", UrlError::Zone),
            ("[eth0%1]", UrlError::Ipv6),
            ("[]", UrlError::Ipv6),
        ] {
            assert_eq!(Endpoint::parse(text, 6379), Err(error), "{text}");
        }
    }

    #[test]
    fn shows_a_socket_by_its_path() {
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
