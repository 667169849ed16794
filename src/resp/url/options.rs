//! What may follow the `?` of a Redis URL. Each option once, each only where it means something.

use super::endpoint::decimal;
use super::{Endpoint, RedisUrl, Topology, UrlError};
use crate::resp::codec::Protocol;
use std::path::PathBuf;
use std::time::Duration;

/// Options that were given; `None` leaves the matter to the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// `timeout`: for one request, from 1 ms to 10 minutes.
    pub timeout: Option<Duration>,
    /// `connect_timeout`: for one attempt to connect, from 1 ms to 10 minutes.
    pub connect_timeout: Option<Duration>,
    /// `protocol`
    pub protocol: Option<Protocol>,
    /// `client_name`: what CLIENT LIST shows. 1 to 64 bytes of printable ASCII.
    pub client_name: Option<String>,
}

const OPTION_NAMES: [&str; 7] = [
    "timeout",
    "connect_timeout",
    "protocol",
    "client_name",
    "db",
    "sentinel_user",
    "sentinel_password_file",
];

/// Of `client_name` and `sentinel_user`.
const NAME_BYTES_MAX: usize = 64;
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Reads `a=1&b=2` into the URL it belongs to.
pub(super) fn read_options(url: &mut RedisUrl, query: &str) -> Result<(), UrlError> {
    let mut given: Vec<&'static str> = Vec::new();
    for option in query.split('&') {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let known = OPTION_NAMES.iter().find(|known| **known == name);
        let name = known.copied().ok_or_else(|| unknown_option(name))?;
        if given.contains(&name) {
            return Err(UrlError::RepeatedOption { name });
        }
        given.push(name);
        read_option(url, name, value)?;
    }
    match &url.topology {
        Topology::Sentinel { user: Some(_), password_file: None, .. } => {
            Err(UrlError::SentinelPassword)
        }
        _ => Ok(()),
    }
}

fn read_option(url: &mut RedisUrl, name: &'static str, value: &str) -> Result<(), UrlError> {
    let options = &mut url.options;
    match (name, &mut url.topology) {
        ("timeout", _) => options.timeout = Some(read_duration(name, value)?),
        ("connect_timeout", _) => options.connect_timeout = Some(read_duration(name, value)?),
        ("protocol", _) => options.protocol = Some(read_protocol(name, value)?),
        ("client_name", _) => options.client_name = Some(read_name(name, value)?),
        ("db", Topology::Single(Endpoint::Unix(_))) => {
            url.database = decimal(value).ok_or(UrlError::Database)?;
        }
        ("sentinel_user", Topology::Sentinel { user, .. }) => {
            *user = Some(read_name(name, value)?);
        }
        ("sentinel_password_file", Topology::Sentinel { password_file, .. }) => {
            *password_file = Some(read_path(name, value)?);
        }
        _ => return Err(unknown_option(name)),
    }
    Ok(())
}

/// Shown only so far: it may be anything.
fn unknown_option(name: &str) -> UrlError {
    UrlError::UnknownOption { name: name.chars().take(32).collect() }
}

fn read_duration(name: &'static str, value: &str) -> Result<Duration, UrlError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = decimal::<u32>(digits).map(u64::from);
    let duration = number.and_then(|number| match &value[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        _ => None,
    });
    duration.filter(|&duration| !duration.is_zero() && duration <= TIMEOUT_MAX).ok_or(
        UrlError::OptionValue { name, expected: "a time from 1ms to 10m, such as 500ms or 2s" },
    )
}

fn read_protocol(name: &'static str, value: &str) -> Result<Protocol, UrlError> {
    match value {
        "2" => Ok(Protocol::Resp2),
        "3" => Ok(Protocol::Resp3),
        _ => Err(UrlError::OptionValue { name, expected: "2 or 3" }),
    }
}

fn read_name(name: &'static str, value: &str) -> Result<String, UrlError> {
    match value.len() {
        1..=NAME_BYTES_MAX => Ok(value.to_owned()),
        _ => Err(UrlError::OptionValue { name, expected: "a text of 1 to 64 bytes" }),
    }
}

fn read_path(name: &'static str, value: &str) -> Result<PathBuf, UrlError> {
    match value {
        "" => Err(UrlError::OptionValue { name, expected: "a path" }),
        path => Ok(path.into()),
    }
}
