//! Parses where Redis is, and the user and password for it, from one string.
//!
//! ```text
//! redis://[user[:password]@]host[:port][/database][?options]          rediss:// for TLS
//! unix://[user[:password]@]/path[?db=n&options]                       also redis+unix://
//! redis+sentinel://[user[:password]@]host[:26379],…/name[/database][?options]
//! redis+cluster://[user[:password]@]host[:6379],…[?options]           rediss+… for TLS
//! ```
//!
//! Options: `connect_timeout`, `protocol=2|3`, `client_name`; for a Unix socket `db`; for sentinels
//! `sentinel_user`, `sentinel_password_file`, `sentinel_tls=yes|no`. There is none for the number of connections (each
//! worker has one to each node) or the size of values (the largest document decides).
//!
//! Parsing is strict, because a URL that is almost right connects to the wrong place or leaks: a raw `@` or `/` in a
//! password moves the end of the password, and the rest of it would be taken for a host, resolved, and logged. So they
//! must be percent-encoded, and user and password are the only parts where percent has a meaning.
//!
//! An error says what to write instead. None shows a user, a password, or a piece of the URL that might be part of one:
//! hosts are shown once they look like hosts, options by name only.
//!
//! Whether TLS is built in is checked in `store`, which also reads the password files.

use super::env::{SOCKET_PATH_BYTES_MAX, duration};
use crate::http::percent_decode;
use crate::resp::codec::Protocol;
use crate::resp::credentials::{Credentials, Secret};
use crate::resp::endpoint::Endpoint;
use crate::resp::options::Options;
use crate::resp::options::Target;
use std::time::Duration;

/// Longest URL. Room for 64 hosts of a cloud provider.
const URL_BYTES_MAX: usize = 4096;
/// Most sentinels or cluster nodes named in a URL.
const SEEDS_MAX: usize = 64;
/// Longest `client_name` and `sentinel_user`.
const NAME_BYTES_MAX: usize = 64;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Everything in a URL.
#[derive(Debug, Clone)]
pub(super) struct RedisUrl {
    /// The servers: 1 to 64 sentinels (default port 26379) or nodes of a cluster.
    pub target: Target,
    /// The given options, with those that the URL sets in place of some.
    pub options: Options,
    /// The scheme was `rediss…`. The code that connects must refuse if TLS is not built in, and never fall back to
    /// plaintext.
    pub tls: bool,
    /// The same for the sentinels: as the scheme says, unless `sentinel_tls` says otherwise.
    pub sentinel_tls: bool,
}

impl RedisUrl {
    /// Parses a URL in one of the forms above; `options` are the values for what it leaves out.
    ///
    /// # Errors
    /// If the URL is not exactly in one of these forms.
    pub fn parse(url: &str, mut options: Options) -> Result<Self, String> {
        check_characters(url)?;
        let (scheme, rest) = url.split_once("://").ok_or(SCHEMES)?;
        // RFC 3986 §3.1: case does not matter.
        let scheme = scheme.to_ascii_lowercase();
        if rest.contains('#') {
            return Err("`#` has no meaning here; in user and password write it as %23".into());
        }
        // A socket path may contain an `@`, if the URL has no user or password.
        let (credentials, rest) = match scheme.ends_with("unix") && rest.starts_with('/') {
            true => (Credentials::default(), rest),
            false => split_credentials(rest)?,
        };
        let (place, query) = split(rest, '?');
        let (hosts, path) = split(place, '/');
        let (target, database) = match &*scheme {
            "redis" | "rediss" => (Target::Single(read_host(hosts)?), read_path(path)?),
            "unix" | "redis+unix" => (Target::Single(read_socket(place)?), 0),
            "redis+sentinel" | "rediss+sentinel" => {
                let seeds = read_seeds(hosts, SENTINEL_PORT)?;
                let (name, database) = split(path.unwrap_or_default(), '/');
                let name = read_master_name(name)?;
                let (user, password_file, tls) = (None, None, None);
                let target = Target::Sentinel { seeds, name, user, password_file, tls };
                (target, read_path(database)?)
            }
            "redis+cluster" | "rediss+cluster" if path.is_none_or(str::is_empty) => {
                (Target::Cluster { seeds: read_seeds(hosts, REDIS_PORT)? }, 0)
            }
            "redis+cluster" | "rediss+cluster" => {
                return Err("a cluster has no databases: leave the path out".into());
            }
            _ => return Err(SCHEMES.into()),
        };
        options.credentials = credentials;
        options.database = database;
        let tls = scheme.starts_with("rediss");
        let mut url = RedisUrl { target, options, tls, sentinel_tls: tls };
        if let Some(query) = query {
            url.read_options(query)?;
        }
        Ok(url)
    }

    /// Parses a bare `host:port`, `host`, `[::1]:port` or `[::1]`: one server without TLS, password or database.
    ///
    /// # Errors
    /// As [`Endpoint::parse`], and if it is a URL.
    pub fn from_addr(addr: &str, options: Options) -> Result<Self, String> {
        check_characters(addr)?;
        if addr.contains(['@', '/']) {
            return Err("expected only host:port; a URL or a password goes in REDIS_URL".into());
        }
        let target = Target::Single(read_host(addr)?);
        Ok(RedisUrl { target, options, tls: false, sentinel_tls: false })
    }

    /// Parses `a=1&b=2`. Each option once, and only where it has a meaning.
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
        match &self.target {
            Target::Sentinel { user: Some(_), password_file: None, .. } => {
                Err("sentinel_user needs sentinel_password_file".into())
            }
            _ => Ok(()),
        }
    }

    fn read_option(&mut self, name: &str, value: &str) -> Result<(), String> {
        let must_be = |expected| format!("option `{name}` must be {expected}");
        let text = || match value.len() {
            1..=NAME_BYTES_MAX => Ok(value.to_owned()),
            _ => Err(must_be("a text of 1 to 64 bytes")),
        };
        let Options { connect_timeout, protocol, client_name, database, .. } = &mut self.options;
        match (name, &mut self.target) {
            ("connect_timeout", _) => {
                let range = Duration::from_millis(1)..=Duration::from_secs(600);
                let time = duration(value).filter(|time| range.contains(time));
                *connect_timeout =
                    time.ok_or_else(|| must_be("a time from 1ms to 10m, such as 500ms or 2s"))?;
            }
            ("timeout", _) => {
                let instead = "option `timeout`: set REQUEST_TIMEOUT instead: it covers everything";
                return Err(instead.into());
            }
            ("protocol", _) => {
                *protocol = match value {
                    "2" => Protocol::Resp2,
                    "3" => Protocol::Resp3,
                    _ => return Err(must_be("2 or 3")),
                }
            }
            ("client_name", _) => *client_name = text()?,
            ("db", Target::Single(Endpoint::Unix(_))) => *database = read_database(value)?,
            ("sentinel_tls", Target::Sentinel { .. }) => {
                self.sentinel_tls = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(must_be("yes or no")),
                }
            }
            ("sentinel_user", Target::Sentinel { user, .. }) => *user = Some(text()?),
            ("sentinel_password_file", Target::Sentinel { password_file, .. }) => match value {
                "" => return Err(must_be("a path")),
                path => *password_file = Some(path.into()),
            },
            // Only this much is shown: the rest may be anything.
            _ => return Err(format!("unknown option `{name:.32}`")),
        }
        Ok(())
    }
}

const SCHEMES: &str = "expected redis://, rediss://, unix://, redis+unix://, redis+sentinel://, \
                       rediss+sentinel://, redis+cluster:// or rediss+cluster://";

/// Checked first, so that no later step need consider newlines, spaces or length.
fn check_characters(text: &str) -> Result<(), &'static str> {
    if text.len() > URL_BYTES_MAX {
        return Err("longer than 4096 bytes");
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain
        .then_some(())
        .ok_or("only printable ASCII may stand in it; write others as %XX in user and password")
}

/// Splits user and password from the front of the text after `://`; returns the rest as well.
///
/// Splits at the *last* `@`, even one in the path or the options: a delimiter before it may be part of a password that
/// was not encoded, and then the text after the first delimiter is secret.
fn split_credentials(rest: &str) -> Result<(Credentials, &str), &'static str> {
    let Some((userinfo, rest)) = rest.rsplit_once('@') else {
        return Ok((Credentials::default(), rest));
    };
    let (user, password) = split(userinfo, ':');
    if userinfo.contains(['@', '/', '?']) || password.is_some_and(|text| text.contains(':')) {
        return Err("in user and password write `@` as %40, `/` as %2F, `:` as %3A and `?` as %3F");
    }
    if password.unwrap_or(user).is_empty() {
        return Err("nothing before `@`, or nothing after the `:` before it");
    }
    let escapes = "in user and password `%` must begin a %XX; in UTF-8, the user without control \
                   characters; write `%` itself as %25";
    let decode = |text: &str| {
        let bytes = percent_decode(text.as_bytes(), false).ok_or(escapes)?;
        String::from_utf8(bytes.into()).map_err(|_| escapes)
    };
    let user = decode(user)?;
    if user.contains(char::is_control) {
        return Err(escapes);
    }
    let user = Some(user).filter(|user| !user.is_empty());
    let password = password.map(decode).transpose()?.map(Secret::new);
    Ok((Credentials { user, password }, rest))
}

fn read_host(host: &str) -> Result<Endpoint, String> {
    match host.contains(',') {
        true => {
            Err("several hosts need redis+sentinel:// or redis+cluster:// to say what they are")?
        }
        false => Endpoint::parse(host, REDIS_PORT),
    }
}

fn read_seeds(hosts: &str, default_port: u16) -> Result<Vec<Endpoint>, String> {
    if hosts.split(',').count() > SEEDS_MAX {
        return Err(format!("more than {SEEDS_MAX} hosts"));
    }
    hosts.split(',').map(|host| Endpoint::parse(host, default_port)).collect()
}

fn read_socket(path: &str) -> Result<Endpoint, &'static str> {
    let is_path =
        path.starts_with('/') && !path.ends_with('/') && path.len() <= SOCKET_PATH_BYTES_MAX;
    is_path
        .then(|| Endpoint::Unix(path.into()))
        .ok_or("expected an absolute path of at most 107 bytes: unix:///run/redis.sock")
}

/// The characters that `sentinel monitor` itself accepts in a name.
fn read_master_name(name: &str) -> Result<String, &'static str> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (is_name && !name.is_empty()).then(|| name.to_owned()).ok_or(
        "after the sentinels, /name: what they call the master, of letters, digits, `.`, `-` and `_`",
    )
}

/// `/` alone means 0, like no path at all.
fn read_path(path: Option<&str>) -> Result<u16, &'static str> {
    match path.unwrap_or_default() {
        "" => Ok(0),
        path if path.contains('/') => Err("the path is longer than its scheme allows"),
        path => read_database(path),
    }
}

fn read_database(text: &str) -> Result<u16, &'static str> {
    // Rust's parser accepts a leading plus.
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.ok_or("the database is not a number from 0 to 65535")
}

/// The text before the first `delimiter`, and the text after it if there is one.
fn split(text: &str, delimiter: char) -> (&str, Option<&str>) {
    text.split_once(delimiter).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

#[cfg(test)]
mod tests;
