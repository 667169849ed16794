//! Where a Redis server listens: `host:port`, or the path of a socket.
//!
//! A host is a DNS name or an address. Names are not resolved here; addresses that mean "every
//! interface" (`0.0.0.0`, `::`) are refused, for they are where one listens, not where one
//! connects, and would reach whatever runs on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

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

/// Why a text is no endpoint. A host that is shown has only the characters of a host; a port that is
/// no port is not shown, because it might be a part of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages below say it")]
pub enum EndpointError {
    EmptyHost,
    Host,
    Ipv6,
    Zone,
    Unspecified { host: String },
    Port { host: String },
}

/// RFC 1035 §2.3.4, without the length bytes and the root.
const HOST_BYTES_MAX: usize = 253;

impl Endpoint {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    ///
    /// # Errors
    /// Says what is wrong with the host or the port.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, EndpointError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(EndpointError::Ipv6)?;
                let address = host.split_once('%').map_or(host, |(address, _zone)| address);
                address.parse::<Ipv6Addr>().map_err(|_| EndpointError::Ipv6)?;
                if address != host {
                    return Err(EndpointError::Zone);
                }
                match after.strip_prefix(':') {
                    None if !after.is_empty() => return Err(EndpointError::Ipv6),
                    port => (host, port),
                }
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((_, port)) if port.contains(':') => return Err(EndpointError::Ipv6),
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                check_name(host)?;
                (host, port)
            }
        };
        let host = host.to_owned();
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
            return Err(EndpointError::Unspecified { host });
        }
        match port.map(|port| (port, port.parse())) {
            None => Ok(Endpoint::Tcp { host, port: default_port }),
            // Rust reads over a plus.
            Some((text, Ok(port))) if port != 0 && !text.starts_with('+') => {
                Ok(Endpoint::Tcp { host, port })
            }
            Some(_) => Err(EndpointError::Port { host }),
        }
    }
}

/// Letters, digits, `-`, `.` and the `_` of container names. A name that ends in a number must be
/// a whole IPv4 address: resolvers read `0` as 0.0.0.0 and `127.1` as 127.0.0.1.
fn check_name(host: &str) -> Result<(), EndpointError> {
    if host.is_empty() {
        return Err(EndpointError::EmptyHost);
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
        false => Err(EndpointError::Host),
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

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyHost => f.write_str("a host is missing"),
            Self::Host => f.write_str("a host is neither a name nor an address"),
            Self::Ipv6 => f.write_str("write an IPv6 address in brackets: [::1]:6379"),
            Self::Zone => f.write_str(
                "an IPv6 address with a zone (`%` and an interface) is not supported: use a name, or an \
                 address that is not link-local",
            ),
            Self::Unspecified { host } => {
                write!(f, "`{host}` is an address to listen on, not one to connect to")
            }
            Self::Port { host } => {
                write!(f, "the port of `{host}` is not a number from 1 to 65535")
            }
        }
    }
}

impl std::error::Error for EndpointError {}

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
            ("", EndpointError::EmptyHost),
            (":6379", EndpointError::EmptyHost),
            ("redis:", EndpointError::Port { host: host("redis") }),
            ("redis:0", EndpointError::Port { host: host("redis") }),
            ("redis:00", EndpointError::Port { host: host("redis") }),
            ("redis:65536", EndpointError::Port { host: host("redis") }),
            ("redis:+6379", EndpointError::Port { host: host("redis") }),
            ("redis:-1", EndpointError::Port { host: host("redis") }),
            ("redis: 6379", EndpointError::Port { host: host("redis") }),
            ("[::1]:0", EndpointError::Port { host: host("::1") }),
            ("0.0.0.0", EndpointError::Unspecified { host: host("0.0.0.0") }),
            ("[::]:6379", EndpointError::Unspecified { host: host("::") }),
            ("[::ffff:0.0.0.0]", EndpointError::Unspecified { host: host("::ffff:0.0.0.0") }),
            ("0", EndpointError::Host),
            ("127.1", EndpointError::Host),
            ("0x7f.0x1", EndpointError::Host),
            ("256.0.0.1", EndpointError::Host),
            ("0.", EndpointError::Host),
            ("a b", EndpointError::Host),
            ("redis%2e", EndpointError::Host),
            ("höst", EndpointError::Host),
            (&too_long, EndpointError::Host),
            ("::1", EndpointError::Ipv6),
            ("::1:6379", EndpointError::Ipv6),
            ("[::1", EndpointError::Ipv6),
            ("[::1]6379", EndpointError::Ipv6),
            ("[127.0.0.1]", EndpointError::Ipv6),
            ("[fe80::1%eth0]", EndpointError::Zone),
            ("[fe80::1%25eth0]:6379", EndpointError::Zone),
            ("[eth0%1]", EndpointError::Ipv6),
            ("[]", EndpointError::Ipv6),
        ] {
            assert_eq!(Endpoint::parse(text, 6379), Err(error), "{text}");
        }
    }

    #[test]
    fn shows_a_socket_by_its_path() {
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
