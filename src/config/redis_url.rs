//! Reads where Redis is, and who we are there, from one string.
//!
//! ```text
//! redis://[user[:password]@]host[:port][/database][?options]          rediss:// for TLS
//! unix://[user[:password]@]/path[?db=n&options]                       also redis+unix://
//! redis+sentinel://[user[:password]@]host[:26379],…/name[/database][?options]
//! redis+cluster://[user[:password]@]host[:6379],…[?options]           rediss+… for TLS
//! ```
//!
//! Options: `connect_timeout`, `protocol=2|3`, `client_name`; for a Unix socket `db`; for sentinels
//! `sentinel_user`, `sentinel_password_file`. There is none for the number of connections (each worker
//! has one to each node) or the size of values (the largest document decides).
//!
//! Reading is strict, because a URL that is almost right connects to the wrong place or leaks: a
//! raw `@` or `/` in a password moves the end of the password, and the rest of it would be taken
//! for a host, resolved, and logged. So they must be percent-encoded, and user and password are
//! the only parts where percent means anything.
//!
//! An error is what to write instead. None shows a user, a password, or a piece of the URL that might
//! turn out to be one: hosts are shown once they look like hosts, options by name only.
//!
//! Whether TLS is built in, and reading any password file, is for `store`.

use super::env::{SOCKET_PATH_BYTES_MAX, duration};
use crate::resp::codec::Protocol;
use crate::resp::credentials::{Credentials, Secret};
use crate::resp::endpoint::Endpoint;
use std::path::PathBuf;
use std::time::Duration;

/// Longest URL. Room for 64 hosts of a cloud provider.
const URL_BYTES_MAX: usize = 4096;
/// Most sentinels or cluster nodes named in a URL.
const SEEDS_MAX: usize = 64;
/// Of `client_name` and `sentinel_user`.
const NAME_BYTES_MAX: usize = 64;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Everything a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RedisUrl {
    /// What listens where.
    pub topology: Topology,
    /// For the data nodes; sentinels have their own.
    pub credentials: Credentials,
    /// What to SELECT. Default: 0.
    pub database: u16,
    /// The scheme was `rediss…`. Whoever connects must refuse if TLS is not built in, and never fall
    /// back to plaintext.
    pub tls: bool,
    /// For one attempt to connect, from 1 ms to 10 minutes.
    pub connect_timeout: Option<Duration>,
    /// The newest to ask for.
    pub protocol: Option<Protocol>,
    /// What CLIENT LIST shows. 1 to 64 bytes of printable ASCII.
    pub client_name: Option<String>,
}

/// What the named hosts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    /// One server.
    Single(Endpoint),
    /// Sentinels, which know the address of the master they call `name`.
    Sentinel {
        /// 1 to 64 sentinels. Default port: 26379.
        seeds: Vec<Endpoint>,
        name: String,
        /// `sentinel_user`: who we are to the sentinels. `None`: Redis's `default` user.
        user: Option<String>,
        /// `sentinel_password_file`. `None`: sentinels ask for no password. That of the data nodes
        /// is not sent to them.
        password_file: Option<PathBuf>,
    },
    /// Some nodes of a cluster, which know the others: 1 to 64. Default port: 6379.
    Cluster { seeds: Vec<Endpoint> },
}

impl RedisUrl {
    /// Reads a URL in one of the forms above.
    ///
    /// # Errors
    /// If any of it is not exactly so.
    pub fn parse(url: &str) -> Result<Self, String> {
        check_characters(url)?;
        let (scheme, rest) = url.split_once("://").ok_or(SCHEMES)?;
        // RFC 3986 §3.1: without regard to case.
        let scheme = scheme.to_ascii_lowercase();
        let (scheme, tls) = match scheme.strip_prefix("rediss") {
            Some(kind) => (format!("redis{kind}"), true),
            None => (scheme, false),
        };
        let is_socket = match &*scheme {
            "redis" | "redis+sentinel" | "redis+cluster" => false,
            "unix" | "redis+unix" if !tls => true,
            _ => return Err(SCHEMES.into()),
        };
        if rest.contains('#') {
            return Err("`#` has no meaning here; in user and password write it as %23".into());
        }
        // A socket path may hold an `@`, if there is nothing before the path.
        let (credentials, rest) = match is_socket && rest.starts_with('/') {
            true => (Credentials::default(), rest),
            false => split_credentials(rest)?,
        };
        let (place, query) = split(rest, '?');
        let (hosts, path) = split(place, '/');
        let (topology, database) = match &*scheme {
            "redis" => (Topology::Single(read_host(hosts)?), read_path(path)?),
            "redis+sentinel" => {
                let seeds = read_seeds(hosts, SENTINEL_PORT)?;
                let (name, database) = split(path.unwrap_or_default(), '/');
                let name = read_master_name(name)?;
                let topology = Topology::Sentinel { seeds, name, user: None, password_file: None };
                (topology, read_path(database)?)
            }
            "redis+cluster" => match path {
                None | Some("") => (Topology::Cluster { seeds: read_seeds(hosts, REDIS_PORT)? }, 0),
                Some(_) => return Err("a cluster has no databases: leave the path out".into()),
            },
            _ => (Topology::Single(read_socket(place)?), 0),
        };
        let mut url = RedisUrl { credentials, database, tls, ..RedisUrl::of(topology) };
        if let Some(query) = query {
            url.read_options(query)?;
        }
        Ok(url)
    }

    /// Reads a bare `host:port`, `host`, `[::1]:port` or `[::1]`: one server without TLS, password
    /// or database.
    ///
    /// # Errors
    /// As [`Endpoint::parse`], and if it is a URL.
    pub fn from_addr(addr: &str) -> Result<Self, String> {
        check_characters(addr)?;
        if addr.contains(['@', '/']) {
            return Err("expected only host:port; a URL or a password goes in REDIS_URL".into());
        }
        Ok(RedisUrl::of(Topology::Single(read_host(addr)?)))
    }

    fn of(topology: Topology) -> Self {
        RedisUrl {
            topology,
            credentials: Credentials::default(),
            database: 0,
            tls: false,
            connect_timeout: None,
            protocol: None,
            client_name: None,
        }
    }

    /// Reads `a=1&b=2`. Each option once, each only where it means something.
    fn read_options(&mut self, query: &str) -> Result<(), String> {
        let mut given = Vec::new();
        for option in query.split('&') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if given.contains(&name) {
                return Err(format!("option `{name}` is given twice"));
            }
            given.push(name);
            self.read_option(name, value)?;
        }
        match &self.topology {
            Topology::Sentinel { user: Some(_), password_file: None, .. } => {
                Err("sentinel_user needs sentinel_password_file".into())
            }
            _ => Ok(()),
        }
    }

    fn read_option(&mut self, name: &str, value: &str) -> Result<(), String> {
        let must_be = |expected| format!("option `{name}` must be {expected}");
        let text = || match value.len() {
            1..=NAME_BYTES_MAX => Ok(Some(value.to_owned())),
            _ => Err(must_be("a text of 1 to 64 bytes")),
        };
        match (name, &mut self.topology) {
            ("connect_timeout", _) => {
                let range = Duration::from_millis(1)..=Duration::from_secs(600);
                let time = duration(value).filter(|time| range.contains(time));
                let expected = "a time from 1ms to 10m, such as 500ms or 2s";
                self.connect_timeout = Some(time.ok_or_else(|| must_be(expected))?);
            }
            ("timeout", _) => {
                return Err(
                    "option `timeout`: set REQUEST_TIMEOUT instead: it covers everything".into()
                );
            }
            ("protocol", _) => {
                self.protocol = Some(match value {
                    "2" => Protocol::Resp2,
                    "3" => Protocol::Resp3,
                    _ => return Err(must_be("2 or 3")),
                });
            }
            ("client_name", _) => self.client_name = text()?,
            ("db", Topology::Single(Endpoint::Unix(_))) => self.database = read_database(value)?,
            ("sentinel_user", Topology::Sentinel { user, .. }) => *user = text()?,
            ("sentinel_password_file", Topology::Sentinel { password_file, .. }) => {
                let path = Some(value).filter(|value| !value.is_empty());
                *password_file = Some(path.ok_or_else(|| must_be("a path"))?.into());
            }
            // Shown only so far: it may be anything.
            _ => {
                return Err(format!(
                    "unknown option `{}`",
                    name.chars().take(32).collect::<String>()
                ));
            }
        }
        Ok(())
    }
}

const SCHEMES: &str = "expected redis://, rediss://, unix://, redis+unix://, redis+sentinel://, \
                       rediss+sentinel://, redis+cluster:// or rediss+cluster://";

/// Before anything else, so that nothing later need think of newlines, spaces or length.
fn check_characters(text: &str) -> Result<(), String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("longer than {URL_BYTES_MAX} bytes"));
    }
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => {
            Err("only printable ASCII may stand in it; write others as %XX in user and password"
                .into())
        }
    }
}

/// Takes user and password from the front of what follows `://`; returns the rest as well.
///
/// Splits at the *last* `@` there is, even one in the path or the options: a delimiter before
/// it may stand inside a password that was not encoded, and then what follows the first
/// delimiter is secret.
fn split_credentials(rest: &str) -> Result<(Credentials, &str), String> {
    let Some((userinfo, rest)) = rest.rsplit_once('@') else {
        return Ok((Credentials::default(), rest));
    };
    let (user, password) = split(userinfo, ':');
    if userinfo.contains(['@', '/', '?']) || password.is_some_and(|text| text.contains(':')) {
        return Err(
            "in user and password write `@` as %40, `/` as %2F, `:` as %3A and `?` as %3F".into()
        );
    }
    if password.unwrap_or(user).is_empty() {
        return Err("nothing before `@`, or nothing after the `:` before it".into());
    }
    let escapes = "in user and password `%` must begin a %XX; in UTF-8, the user without control \
                   characters; write `%` itself as %25";
    let user = percent_decode(user).filter(|user| !user.contains(|c: char| c.is_control()));
    let user = Some(user.ok_or(escapes)?).filter(|user| !user.is_empty());
    let password = match password {
        Some(text) => Some(Secret::new(percent_decode(text).ok_or(escapes)?)),
        None => None,
    };
    Ok((Credentials { user, password }, rest))
}

fn percent_decode(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn read_host(host: &str) -> Result<Endpoint, String> {
    if host.contains(',') {
        return Err(
            "several hosts need redis+sentinel:// or redis+cluster:// to say what they are".into(),
        );
    }
    Endpoint::parse(host, REDIS_PORT).map_err(|e| e.to_string())
}

fn read_seeds(hosts: &str, default_port: u16) -> Result<Vec<Endpoint>, String> {
    if hosts.split(',').count() > SEEDS_MAX {
        return Err(format!("more than {SEEDS_MAX} hosts"));
    }
    let endpoints = hosts.split(',').map(|host| Endpoint::parse(host, default_port));
    endpoints.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn read_socket(path: &str) -> Result<Endpoint, String> {
    let is_path =
        path.starts_with('/') && !path.ends_with('/') && path.len() <= SOCKET_PATH_BYTES_MAX;
    match is_path {
        true => Ok(Endpoint::Unix(path.into())),
        false => Err(format!(
            "expected an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes: unix:///run/redis.sock"
        )),
    }
}

/// The characters that `sentinel monitor` itself accepts in a name.
fn read_master_name(name: &str) -> Result<String, String> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    match is_name && !name.is_empty() {
        true => Ok(name.to_owned()),
        false => Err("after the sentinels, /name: what they call the master, of letters, digits, \
                      `.`, `-` and `_`"
            .into()),
    }
}

/// `/` alone means 0, like no path at all.
fn read_path(path: Option<&str>) -> Result<u16, String> {
    match path.unwrap_or_default() {
        "" => Ok(0),
        path if path.contains('/') => Err("the path is longer than its scheme allows".into()),
        path => read_database(path),
    }
}

fn read_database(text: &str) -> Result<u16, String> {
    // Rust reads over a plus.
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.ok_or("the database is not a number from 0 to 65535".into())
}

/// What stands before the first `delimiter`, and what behind it if there is one.
fn split(text: &str, delimiter: char) -> (&str, Option<&str>) {
    match text.split_once(delimiter) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests;
