//! `kioskd healthcheck [URL]`: the probe from inside an image that has no shell and no curl.
//!
//! ```text
//! HEALTHCHECK CMD ["/kioskd", "healthcheck"]            /readyz, where PORT or LISTEN say
//! kioskd healthcheck http://127.0.0.1:8080/livez        another path, another place
//! ```
//!
//! Exit code 0 for a status of 2xx; else 1, and on stderr why.

use kioskd::config::Config;
use kioskd::front::listen::Listen;
use kioskd::net::{call_tcp, call_unix};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Longer than `/readyz` waits for Redis by default.
const TIMEOUT: Duration = Duration::from_secs(3);

const PATH: &str = "/readyz";

/// Where to ask.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Tcp(String, u16),
    /// The first of these that can be reached.
    Own(Vec<SocketAddr>),
    Unix(PathBuf),
}

/// Asks, and says what is wrong.
///
/// # Errors
/// The text for the operator; also when the URL is none.
pub fn run(url: Option<&str>) -> Result<(), String> {
    let (place, path) = match url {
        Some(url) => parse(url).ok_or("a URL is http://HOST[:PORT][/PATH] or unix:/PATH")?,
        None => {
            let listen = Config::listen(std::env::vars_os()).map_err(|errors| errors.join("; "))?;
            (own(listen), PATH.to_owned())
        }
    };
    let answer = ask(&place, &path).map_err(|e| format!("{path}: {e}"))?;
    match status(&answer) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(format!("{path}: {status}")),
        None => Err(format!("{path}: no whole answer that is HTTP")),
    }
}

/// The status of an answer whose head is whole.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.1 ").or(answer.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = line.split_at_checked(3)?;
    let is_line = matches!(rest.first(), Some(b' ' | b'\r')) && is_whole(answer);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_line)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn is_whole(answer: &[u8]) -> bool {
    answer.windows(4).any(|four| four == b"\r\n\r\n")
}

fn ask(place: &Place, path: &str) -> io::Result<Vec<u8>> {
    let host = match place {
        // A zone names an interface of this host, and is no part of an address elsewhere.
        Place::Tcp(host, port) => match host.split_once('%') {
            Some((address, _)) if host.starts_with('[') => format!("{address}]:{port}"),
            _ => format!("{host}:{port}"),
        },
        Place::Own(_) | Place::Unix(_) => "localhost".to_owned(),
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    match place {
        Place::Tcp(host, port) => {
            let host = host.trim_matches(['[', ']']);
            call_tcp((host, *port), request.as_bytes(), TIMEOUT, is_whole)
        }
        Place::Own(all) => call_tcp(&**all, request.as_bytes(), TIMEOUT, is_whole),
        Place::Unix(path) => call_unix(path, request.as_bytes(), TIMEOUT, is_whole),
    }
}

/// How we reach ourselves. Who listens on `[::]` accepts IPv4, too, wherever the system has not forbidden it; and a
/// container without IPv6 lets us listen there, and has no `::1`.
fn own(listen: Listen) -> Place {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let (ips, port) = match listen {
        Listen::Port(port) => (vec![v4, v6], port),
        Listen::Tcp(address) if !address.ip().is_unspecified() => return Place::Own(vec![address]),
        Listen::Tcp(address) if address.is_ipv4() => (vec![v4], address.port()),
        Listen::Tcp(address) => (vec![v6, v4], address.port()),
        Listen::Unix(path) => return Place::Unix(path),
    };
    Place::Own(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn parse(url: &str) -> Option<(Place, String)> {
    if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return None;
    }
    if let Some(path) = url.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| (Place::Unix(path.into()), PATH.to_owned()));
    }
    let rest = url.strip_prefix("http://")?;
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (place, 80),
    };
    let path = if path.is_empty() { PATH } else { path };
    (!host.is_empty()).then(|| (Place::Tcp(host.to_owned(), port), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_place_and_a_path() {
        let tcp = |host: &str, port| Place::Tcp(host.to_owned(), port);
        for (url, expected) in [
            ("http://h:81/livez", Some((tcp("h", 81), "/livez"))),
            ("http://h", Some((tcp("h", 80), "/readyz"))),
            ("http://[::1]:81", Some((tcp("[::1]", 81), "/readyz"))),
            ("http://[::1]/x?y", Some((tcp("[::1]", 80), "/x?y"))),
            ("unix:/run/k", Some((Place::Unix("/run/k".into()), "/readyz"))),
            ("https://h", None),
            ("http://", None),
            ("http://h:port", None),
            ("http://h/a b", None),
            ("h:80", None),
            ("unix:", None),
        ] {
            let parsed = parse(url);
            assert_eq!(parsed, expected.map(|(at, path)| (at, path.to_owned())), "{url}");
        }
    }

    #[test]
    fn only_a_whole_answer_counts() {
        for (answer, wanted) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.0 503 \r\nA: b\r\n\r\nx", Some(503)),
            ("HTTP/1.1 204\r\n\r\n", Some(204)),
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 2zz OK\r\n\r\n", None),
            ("HTTP/1.1 204xyz\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(answer.as_bytes()), wanted, "{answer}");
        }
    }

    #[test]
    fn we_reach_ourselves_at_an_address_that_is_one() {
        for (listen, places) in [
            ("0.0.0.0:81", &["127.0.0.1:81"][..]),
            ("[::]:81", &["[::1]:81", "127.0.0.1:81"]),
            ("[::%7]:81", &["[::1]:81", "127.0.0.1:81"]),
            ("127.0.0.2:81", &["127.0.0.2:81"]),
            ("[fe80::1%7]:81", &["[fe80::1%7]:81"]),
        ] {
            let place = own(Listen::Tcp(listen.parse().unwrap()));
            let places = places.iter().map(|place| place.parse().unwrap());
            assert_eq!(place, Place::Own(places.collect()), "{listen}");
        }
    }
}
