//! What can be wrong with a Redis URL, in words for whoever wrote it.
//!
//! None of it shows a user, a password, or a piece of the URL that might turn out to be one: hosts
//! are shown once they are known to look like hosts, options by name only.

use super::SEEDS_MAX;
use std::fmt;

/// Why a URL or address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages below say it")]
pub enum UrlError {
    TooLong,
    Character,
    Scheme,
    UrlAsAddress,
    Fragment,
    RawDelimiter,
    Escape,
    EmptyCredential,
    EmptyHost,
    Host,
    Ipv6,
    Zone,
    Unspecified { host: String },
    Port { host: String },
    SeveralHosts,
    TooManySeeds,
    Path,
    Database,
    ClusterDatabase,
    SentinelName,
    SentinelPassword,
    SocketPath,
    UnknownOption { name: String },
    RepeatedOption { name: &'static str },
    OptionValue { name: &'static str, expected: &'static str },
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than 4096 bytes",
            Self::Character => {
                "only printable ASCII may stand in it; write others as %XX in user and password"
            }
            Self::Scheme => {
                "expected redis://, rediss://, unix://, redis+unix://, redis+sentinel://, \
                 rediss+sentinel://, redis+cluster:// or rediss+cluster://"
            }
            Self::UrlAsAddress => "expected only host:port; a URL or a password goes in REDIS_URL",
            Self::Fragment => "`#` has no meaning here; in user and password write it as %23",
            Self::RawDelimiter => {
                "in user and password write `@` as %40, `/` as %2F, `:` as %3A and `?` as %3F"
            }
            Self::Escape => {
                "in user and password `%` must begin a %XX; in UTF-8, the user without control \
                 characters; write `%` itself as %25"
            }
            Self::EmptyCredential => "nothing before `@`, or nothing after the `:` before it",
            Self::EmptyHost => "a host is missing",
            Self::Host => "a host is neither a name nor an address",
            Self::Ipv6 => "write an IPv6 address in brackets: [::1]:6379",
            Self::Zone => {
                "an IPv6 address with a zone (`%` and an interface) is not supported: use a name, or an \
                 address that is not link-local"
            }
            Self::Unspecified { host } => {
                return write!(
                    f,
                    "`{host}` is an address to listen on, not one to connect to"
                );
            }
            Self::Port { host } => {
                return write!(f, "the port of `{host}` is not a number from 1 to 65535");
            }
            Self::SeveralHosts => {
                "several hosts need redis+sentinel:// or redis+cluster:// to say what they are"
            }
            Self::TooManySeeds => return write!(f, "more than {SEEDS_MAX} hosts"),
            Self::Path => "the path is longer than its scheme allows",
            Self::Database => "the database is not a number from 0 to 65535",
            Self::ClusterDatabase => "a cluster has no databases: leave the path out",
            Self::SentinelName => {
                "after the sentinels, /name: what they call the master, of letters, digits, \
                 `.`, `-` and `_`"
            }
            Self::SentinelPassword => "sentinel_user needs sentinel_password_file",
            Self::SocketPath => {
                "expected an absolute path of at most 107 bytes: unix:///run/redis.sock"
            }
            Self::UnknownOption { name } => return write!(f, "unknown option `{name}`"),
            Self::RepeatedOption { name } => return write!(f, "option `{name}` is given twice"),
            Self::OptionValue { name, expected } => {
                return write!(f, "option `{name}` must be {expected}");
            }
        })
    }
}

impl std::error::Error for UrlError {}
