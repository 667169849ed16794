//! Reads where Redis is, and who we are there, from one string.
//!
//! ```text
//! redis://[user[:password]@]host[:port][/database][?options]          rediss:// for TLS
//! unix://[user[:password]@]/path[?db=n&options]                       also redis+unix://
//! redis+sentinel://[user[:password]@]host[:26379],…/name[/database][?options]
//! redis+cluster://[user[:password]@]host[:6379],…[?options]           rediss+… for TLS
//! ```
//!
//! Options: `timeout`, `connect_timeout`, `protocol=2|3`, `client_name`; for a Unix socket `db`;
//! for sentinels `sentinel_user`, `sentinel_password_file`. There is none for the number of
//! connections (each worker has one to each node) or the size of values (the largest document
//! decides).
//!
//! Reading is strict, because a URL that is almost right connects to the wrong place or leaks: a
//! raw `@` or `/` in a password moves the end of the password, and the rest of it would be taken
//! for a host, resolved, and logged. So they must be percent-encoded, and user and password are
//! the only parts where percent means anything.
//!
//! Whether TLS is built in, and reading any password file, is for others.

mod credentials;
mod endpoint;
mod error;
mod options;

pub use credentials::{Credentials, Secret};
pub use endpoint::Endpoint;
pub use error::UrlError;
pub use options::Options;

use endpoint::decimal;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest URL. Room for 64 hosts of a cloud provider.
pub const URL_BYTES_MAX: usize = 4096;
/// Most sentinels or cluster nodes named in a URL.
pub const SEEDS_MAX: usize = 64;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// `sun_path` of Linux has 108 bytes, the last of them 0.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Everything a URL says. `Display` gives it back without the password and without options:
/// `redis://kiosk:***@redis-0:6379/0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// What listens where.
    pub topology: Topology,
    /// For the data nodes; sentinels have their own.
    pub credentials: Credentials,
    /// What to SELECT. Default: 0.
    pub database: u16,
    /// The scheme was `rediss…`. Nothing here knows whether TLS is built in: whoever connects must
    /// refuse if it is not, never fall back to plaintext.
    pub tls: bool,
    /// What stood after `?`.
    pub options: Options,
}

/// What the named hosts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single(Endpoint),
    /// Sentinels, which know the address of the master they call `name`.
    Sentinel {
        /// 1 to 64 sentinels. Default port: 26379.
        seeds: Vec<Endpoint>,
        /// The master's name.
        name: String,
        /// `sentinel_user`: who we are to the sentinels. `None`: Redis's `default` user.
        user: Option<String>,
        /// `sentinel_password_file`. `None`: sentinels ask for no password. That of the data nodes
        /// is not sent to them.
        password_file: Option<PathBuf>,
    },
    /// Some nodes of a cluster, which know the others.
    Cluster {
        /// 1 to 64 nodes. Default port: 6379.
        seeds: Vec<Endpoint>,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Single,
    Unix,
    Sentinel,
    Cluster,
}

impl RedisUrl {
    /// Reads a URL in one of the forms above.
    ///
    /// # Errors
    ///
    /// If any of it is not exactly so. The message tells what to write instead and shows nothing
    /// secret.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        check_characters(url)?;
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (kind, tls) = read_scheme(scheme)?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        // A socket path may hold an `@`, if there is nothing before the path.
        let (credentials, rest) = match kind == Kind::Unix && rest.starts_with('/') {
            true => (Credentials::default(), rest),
            false => Credentials::split_from(rest)?,
        };
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (topology, database) = match kind {
            Kind::Single => read_single(place)?,
            Kind::Unix => read_socket(place)?,
            Kind::Sentinel => read_sentinel(place)?,
            Kind::Cluster => read_cluster(place)?,
        };
        let options = Options::default();
        let mut url = RedisUrl { topology, credentials, database, tls, options };
        if let Some(query) = query {
            options::read_options(&mut url, query)?;
        }
        Ok(url)
    }

    /// Reads a bare `host:port`, `host`, `[::1]:port` or `[::1]`: one server without TLS, password
    /// or database.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::parse`], and if it is a URL.
    pub fn from_addr(addr: &str) -> Result<Self, UrlError> {
        check_characters(addr)?;
        if addr.contains('@') || addr.contains('/') {
            return Err(UrlError::UrlAsAddress);
        }
        let (topology, database) = read_single(addr)?;
        Ok(RedisUrl {
            topology,
            credentials: Credentials::default(),
            database,
            tls: false,
            options: Options::default(),
        })
    }
}

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        RedisUrl::parse(url)
    }
}

/// Before anything else, so that nothing later need think of newlines, spaces or length.
fn check_characters(text: &str) -> Result<(), UrlError> {
    if text.len() > URL_BYTES_MAX {
        return Err(UrlError::TooLong);
    }
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(UrlError::Character),
    }
}

fn read_scheme(scheme: &str) -> Result<(Kind, bool), UrlError> {
    // RFC 3986 §3.1: without regard to case.
    Ok(match &scheme.to_ascii_lowercase()[..] {
        "redis" => (Kind::Single, false),
        "rediss" => (Kind::Single, true),
        "unix" | "redis+unix" => (Kind::Unix, false),
        "redis+sentinel" => (Kind::Sentinel, false),
        "rediss+sentinel" => (Kind::Sentinel, true),
        "redis+cluster" => (Kind::Cluster, false),
        "rediss+cluster" => (Kind::Cluster, true),
        _ => return Err(UrlError::Scheme),
    })
}

fn read_single(place: &str) -> Result<(Topology, u16), UrlError> {
    let (host, path) = split_path(place);
    if host.contains(',') {
        return Err(UrlError::SeveralHosts);
    }
    let endpoint = Endpoint::parse(host, REDIS_PORT)?;
    Ok((Topology::Single(endpoint), read_database(path)?))
}

fn read_socket(place: &str) -> Result<(Topology, u16), UrlError> {
    let is_path =
        place.starts_with('/') && !place.ends_with('/') && place.len() <= SOCKET_PATH_BYTES_MAX;
    match is_path {
        true => Ok((Topology::Single(Endpoint::Unix(place.into())), 0)),
        false => Err(UrlError::SocketPath),
    }
}

fn read_sentinel(place: &str) -> Result<(Topology, u16), UrlError> {
    let (hosts, path) = split_path(place);
    let seeds = read_seeds(hosts, SENTINEL_PORT)?;
    let (name, database) = split_path(path.unwrap_or_default());
    // The characters that `sentinel monitor` itself accepts in a name.
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if name.is_empty() || !is_name {
        return Err(UrlError::SentinelName);
    }
    let name = name.to_owned();
    let topology = Topology::Sentinel { seeds, name, user: None, password_file: None };
    Ok((topology, read_database(database)?))
}

fn read_cluster(place: &str) -> Result<(Topology, u16), UrlError> {
    let (hosts, path) = split_path(place);
    let seeds = read_seeds(hosts, REDIS_PORT)?;
    match path {
        None | Some("") => Ok((Topology::Cluster { seeds }, 0)),
        Some(_) => Err(UrlError::ClusterDatabase),
    }
}

fn split_path(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((before, path)) => (before, Some(path)),
        None => (text, None),
    }
}

fn read_seeds(hosts: &str, default_port: u16) -> Result<Vec<Endpoint>, UrlError> {
    if hosts.split(',').count() > SEEDS_MAX {
        return Err(UrlError::TooManySeeds);
    }
    hosts.split(',').map(|host| Endpoint::parse(host, default_port)).collect()
}

/// `/` alone means 0, like no path at all.
fn read_database(path: Option<&str>) -> Result<u16, UrlError> {
    match path {
        None | Some("") => Ok(0),
        Some(path) if path.contains('/') => Err(UrlError::Path),
        Some(path) => decimal(path).ok_or(UrlError::Database),
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "s" } else { "" };
        let who = &self.credentials;
        let database = self.database;
        match &self.topology {
            Topology::Single(Endpoint::Unix(path)) => {
                write!(f, "unix://{who}{}", path.display())?;
                if database == 0 { Ok(()) } else { write!(f, "?db={database}") }
            }
            Topology::Single(endpoint) => write!(f, "redis{tls}://{who}{endpoint}/{database}"),
            Topology::Sentinel { seeds, name, .. } => {
                let seeds = join(seeds);
                write!(f, "redis{tls}+sentinel://{who}{seeds}/{name}/{database}")
            }
            Topology::Cluster { seeds } => {
                write!(f, "redis{tls}+cluster://{who}{}", join(seeds))
            }
        }
    }
}

fn join(seeds: &[Endpoint]) -> String {
    seeds.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
