//! Where a Redis server listens: `host:port`, or the path of a socket.
//!
//! A host is a DNS name or an address. Names are not resolved here; addresses that mean "every interface" (`0.0.0.0`,
//! `::`) are refused, for they are addresses to listen on, not to connect to, and would reach whatever runs on this
//! machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// One server's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

const BRACKETS: &str = "write an IPv6 address in brackets: [::1]:6379";

impl Endpoint {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    ///
    /// # Errors
    /// What is wrong with it. A host that the message shows has only the characters of a host; an invalid port is not
    /// shown, because it might be a part of a password.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let (host, after) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(BRACKETS)?;
                check_ipv6(host)?;
                (host, after)
            }
            None => {
                let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
                if after.matches(':').count() > 1 {
                    return Err(BRACKETS.into());
                }
                check_name(host)?;
                (host, after)
            }
        };
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
            return Err(format!("`{host}` is an address to listen on, not one to connect to"));
        }
        let port = match after.strip_prefix(':') {
            None if !after.is_empty() => return Err(BRACKETS.into()),
            None => Some(default_port),
            // Rust's parser accepts a leading plus.
            Some(port) => port.parse().ok().filter(|n| *n != 0 && !port.starts_with('+')),
        };
        let no_port = || format!("the port of `{host}` is not a number from 1 to 65535");
        Ok(Endpoint::Tcp { host: host.to_owned(), port: port.ok_or_else(no_port)? })
    }
}

fn check_ipv6(host: &str) -> Result<(), &'static str> {
    let (address, zone) = host.split_once('%').map_or((host, None), |(a, z)| (a, Some(z)));
    match (address.parse::<Ipv6Addr>(), zone) {
        (Err(_), _) => Err(BRACKETS),
        (Ok(_), None) => Ok(()),
        (Ok(_), Some(_)) => {
            Err("an IPv6 address with a zone (`%` and an interface) is not supported: \
             use a name, or an address that is not link-local")
        }
    }
}

/// Letters, digits, `-`, `.` and the `_` of container names. A name that ends in a number must be
/// a whole IPv4 address: resolvers read `0` as 0.0.0.0 and `127.1` as 127.0.0.1.
fn check_name(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("a host is missing");
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
        false => Err("a host is neither a name nor an address"),
    }
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
        let port = |host| format!("the port of `{host}` is not");
        let listen = |host| format!("`{host}` is an address to listen on");
        let name = || "neither a name nor an address".to_owned();
        let (missing, brackets) = (|| "a host is missing".to_owned(), || BRACKETS.to_owned());
        let zone = || "with a zone".to_owned();
        let too_long = "a".repeat(254);
        for (text, error) in [
            ("", missing()),
            (":6379", missing()),
            ("redis:", port("redis")),
            ("redis:0", port("redis")),
            ("redis:00", port("redis")),
            ("redis:65536", port("redis")),
            ("redis:+6379", port("redis")),
            ("redis:-1", port("redis")),
            ("redis: 6379", port("redis")),
            ("[::1]:0", port("::1")),
            ("0.0.0.0", listen("0.0.0.0")),
            ("[::]:6379", listen("::")),
            ("[::ffff:0.0.0.0]", listen("::ffff:0.0.0.0")),
            ("0", name()),
            ("127.1", name()),
            ("0x7f.0x1", name()),
            ("256.0.0.1", name()),
            ("0.", name()),
            ("a b", name()),
            ("redis%2e", name()),
            ("höst", name()),
            (&too_long, name()),
            ("::1", brackets()),
            ("::1:6379", brackets()),
            ("[::1", brackets()),
            ("[::1]6379", brackets()),
            ("[127.0.0.1]", brackets()),
            ("[fe80::1%eth0]", zone()),
            ("[fe80::1%25eth0]:6379", zone()),
            ("[eth0%1]", brackets()),
            ("[]", brackets()),
        ] {
            let said = Endpoint::parse(text, 6379).expect_err(text);
            assert!(said.contains(&error), "{text}: {said}");
        }
    }

    #[test]
    fn shows_a_socket_by_its_path() {
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
