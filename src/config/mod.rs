//! The environment, turned into each layer's own options.
//!
//! Environment only: no file to mount, no flags to quote. An empty value counts as unset. Every
//! mistake is collected, so that an operator sees all of them at once and not one for each restart.
//! Names that Kubernetes injects for services (`REDIS_PORT=tcp://10.0.0.1:6379`) are never read.
//!
//! [`SETTINGS`] is the one list: `--help` prints it, the README shows it, a test compares them.

use crate::front::access::AccessLog;
use crate::front::listen::Listen;
use crate::front::{self, Kind};
use crate::http::HeadLimits;
use crate::log;
use crate::resp::client::Target;
use crate::resp::codec::{Limits, Protocol};
use crate::resp::link;
use crate::resp::resolve::read_password;
use crate::resp::sign_on::{self, Purpose};
use crate::resp::tls;
use crate::resp::url::{Credentials, RedisUrl, Secret, Topology};
use crate::service;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Every setting: name, default, meaning.
pub const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "PORT",
        "8080",
        "listen on this port of all interfaces, IPv6 and IPv4",
    ),
    (
        "LISTEN",
        "unset",
        "instead of PORT: 127.0.0.1:8080, [::]:8080 or unix:/run/kioskd.sock",
    ),
    (
        "STORE",
        "redis if an address is set, else memory",
        "memory, noop or redis",
    ),
    ("REDIS_ADDR", "unset", "host:port"),
    (
        "REDIS_URL",
        "unset",
        "redis://user:password@host:port/db, unix:///path, redis+sentinel://h1,h2/name or redis+cluster://h1,h2",
    ),
    (
        "REDIS_PASSWORD_FILE",
        "unset",
        "a file that holds the password",
    ),
    (
        "REDIS_CA_FILE",
        "unset",
        "certificates to trust instead of Mozilla's (feature `tls`)",
    ),
    ("REDIS_CONNECT_TIMEOUT", "500ms", "for one address"),
    ("FRONT", "poll", "poll or tiny_http"),
    (
        "WORKERS",
        "one per core",
        "loops, or threads of the plain front: 1 to 256",
    ),
    (
        "REQUEST_TIMEOUT",
        "2s",
        "from the end of the request to the store's answer, retries included",
    ),
    ("ITEM_TTL", "30m", "time to live of an item"),
    (
        "SESSION_TTL",
        "30m",
        "time to live of a session, renewed by every read",
    ),
    ("MAX_TTL", "7d", "the most that ?ttl= may ask for"),
    (
        "IDEMPOTENCY_TTL",
        "24h",
        "how long the outcome under an Idempotency-Key is kept",
    ),
    (
        "MEMORY_MAX_BYTES",
        "67108864",
        "the memory store refuses writes beyond it",
    ),
    (
        "MAX_HEAD_BYTES",
        "16384",
        "request line and headers; beyond it 431",
    ),
    ("MAX_BODY_BYTES", "1048576", "beyond it 413"),
    (
        "HEAD_TIMEOUT",
        "10s",
        "from the first byte to the end of the head",
    ),
    (
        "BODY_TIMEOUT",
        "30s",
        "without a byte of a body, nor slower than 1 KiB/s over all beyond that",
    ),
    ("IDLE_TIMEOUT", "75s", "a connection between requests"),
    (
        "WRITE_TIMEOUT",
        "10s",
        "a client that takes no byte of its response, nor 1 KiB/s over all beyond that",
    ),
    (
        "MAX_CONNECTIONS",
        "10000",
        "or what the limit on open files allows; beyond it 503",
    ),
    (
        "MAX_BUFFERED_BYTES",
        "268435456",
        "bodies and responses of all clients in memory; beyond it 503",
    ),
    (
        "DRAIN_DELAY",
        "0s",
        "after SIGTERM: how long to go on accepting",
    ),
    (
        "DRAIN_TIMEOUT",
        "10s",
        "then: how long to finish what is in flight",
    ),
    (
        "LOG",
        "info",
        "error, warn, info, debug, trace, or off (also RUST_LOG)",
    ),
    ("LOG_FORMAT", "text", "text or json"),
    ("ACCESS_LOG", "errors", "off, errors or all"),
    (
        "POD_NAME",
        "unset",
        "in the start-up line and every JSON log line",
    ),
    (
        "NAMESPACE",
        "unset",
        "in the start-up line and every JSON log line",
    ),
];

/// All of it, ready for each layer.
#[derive(Debug)]
pub struct Config {
    /// Which front.
    pub kind: Kind,
    /// For the front.
    pub front: front::Options,
    /// For the rules.
    pub service: service::Options,
    /// Which store, and what it needs.
    pub store: StoreChoice,
    /// For the log.
    pub log: log::Options,
    /// How long a draining process goes on accepting.
    pub drain_delay: Duration,
    /// How long it then has to finish.
    pub drain_timeout: Duration,
    /// Kubernetes' name for this replica.
    pub pod_name: Option<String>,
    /// And where it is.
    pub namespace: Option<String>,
}

/// Which store, and what it needs.
#[derive(Debug)]
pub enum StoreChoice {
    /// In this process, bounded by this many bytes.
    Memory(usize),
    /// Nowhere.
    Noop,
    /// A Redis server, or several.
    Redis(Target, Box<link::Options>),
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    name: &'static str,
    value: String,
    expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.name, self.value, self.expected)
    }
}

impl Config {
    /// Reads the settings through `lookup` (the process environment, or a test's).
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Config, Vec<Mistake>> {
        let mut env = Env {
            lookup: &lookup,
            mistakes: Vec::new(),
        };
        let config = env.config();
        if env.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(env.mistakes)
        }
    }
}

/// Reads, remembers what was wrong, and goes on with the default.
struct Env<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<Mistake>,
}

impl Env<'_> {
    fn config(&mut self) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kind = self.one_of(
            "FRONT",
            &[("poll", Kind::Poll), ("tiny_http", Kind::TinyHttp)],
            Kind::Poll,
        );
        let body_bytes_max = self.bytes("MAX_BODY_BYTES", 1024 * 1024);
        let request_timeout = self.duration("REQUEST_TIMEOUT", Duration::from_secs(2));
        let pod_name = self.text("POD_NAME");
        let namespace = self.text("NAMESPACE");
        Config {
            kind,
            front: front::Options {
                listen: self.listen(),
                workers: self.count("WORKERS", cores.min(256), 1..=256),
                request_timeout,
                head: HeadLimits {
                    head_bytes_max: self.count("MAX_HEAD_BYTES", 16 * 1024, 256..=1024 * 1024),
                    ..HeadLimits::default()
                },
                body_bytes_max,
                head_timeout: self.duration("HEAD_TIMEOUT", Duration::from_secs(10)),
                body_timeout: self.duration("BODY_TIMEOUT", Duration::from_secs(30)),
                idle_timeout: self.duration("IDLE_TIMEOUT", Duration::from_secs(75)),
                write_timeout: self.duration("WRITE_TIMEOUT", Duration::from_secs(10)),
                connections_max: self.connections(),
                buffered_bytes_max: self.count(
                    "MAX_BUFFERED_BYTES",
                    256 * 1024 * 1024,
                    1..=usize::MAX,
                ),
                access_log: self.one_of(
                    "ACCESS_LOG",
                    &[
                        ("off", AccessLog::Off),
                        ("errors", AccessLog::Errors),
                        ("all", AccessLog::All),
                    ],
                    AccessLog::Errors,
                ),
            },
            service: self.service(body_bytes_max, context(&pod_name, &namespace)),
            store: self.store(body_bytes_max, request_timeout),
            log: self.log(&pod_name, &namespace),
            drain_delay: self.duration_or_zero("DRAIN_DELAY", Duration::ZERO),
            drain_timeout: self.duration_or_zero("DRAIN_TIMEOUT", Duration::from_secs(10)),
            pod_name,
            namespace,
        }
    }

    fn service(
        &mut self,
        body_bytes_max: usize,
        context: Vec<(&'static str, String)>,
    ) -> service::Options {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        service::Options {
            item_ttl: self.duration("ITEM_TTL", minutes(30)),
            session_ttl: self.duration("SESSION_TTL", minutes(30)),
            max_ttl: self.duration("MAX_TTL", minutes(7 * 24 * 60)),
            idempotency_ttl: self.duration("IDEMPOTENCY_TTL", minutes(24 * 60)),
            body_bytes_max,
            bulk_bytes_max: service::list::BULK_BYTES_MAX,
            // `main` knows it when the store is chosen.
            store: "",
            context,
        }
    }

    fn listen(&mut self) -> Listen {
        let port = self.count("PORT", 8080, 0..=65_535);
        let default = Listen::Port(port as u16);
        let Some(text) = self.text("LISTEN") else {
            return default;
        };
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Listen::Unix(path.into());
        }
        match text.parse() {
            Ok(address) => Listen::Tcp(address),
            Err(_) => {
                self.mistake(
                    "LISTEN",
                    text,
                    "an address and a port (127.0.0.1:8080, [::]:8080), or unix:/path",
                );
                default
            }
        }
    }

    fn connections(&mut self) -> usize {
        let wanted = self.count("MAX_CONNECTIONS", 10_000, 1..=1_000_000);
        // Some descriptors are not for clients: the listener, polls, wakers, Redis, a reserve.
        const OTHERS: usize = 64;
        match open_files_limit() {
            Some(limit) if limit < wanted.saturating_add(OTHERS) => {
                limit.saturating_sub(OTHERS).max(1)
            }
            _ => wanted,
        }
    }

    fn store(&mut self, body_bytes_max: usize, request_timeout: Duration) -> StoreChoice {
        let url = self.redis_url();
        let password_file = self.password_file();
        let memory = StoreChoice::Memory(self.bytes("MEMORY_MAX_BYTES", 64 * 1024 * 1024));
        let connect_timeout = self.duration("REDIS_CONNECT_TIMEOUT", Duration::from_millis(500));
        match (self.text("STORE").as_deref(), url) {
            (Some("memory"), _) | (None, None) => memory,
            (Some("noop"), _) => StoreChoice::Noop,
            (Some("redis") | None, Some(url)) => self.redis(
                url,
                password_file,
                connect_timeout,
                request_timeout,
                body_bytes_max,
            ),
            (Some("redis"), None) => {
                self.mistake("STORE", "redis".to_owned(), "needs REDIS_ADDR or REDIS_URL");
                memory
            }
            (Some(other), _) => {
                let other = other.to_owned();
                self.mistake("STORE", other, "memory, noop or redis");
                memory
            }
        }
    }

    fn redis(
        &mut self,
        url: RedisUrl,
        password_file: Option<(PathBuf, Secret)>,
        connect_timeout: Duration,
        request_timeout: Duration,
        body_bytes_max: usize,
    ) -> StoreChoice {
        if url.options.timeout.is_some() {
            self.mistake(
                "REDIS_URL",
                "?timeout=".to_owned(),
                "set REQUEST_TIMEOUT instead: it covers everything",
            );
        }
        let mut credentials = url.credentials;
        if let Some((_, password)) = &password_file {
            credentials.password = Some(password.clone());
        }
        let data = link::Options {
            connect_timeout: url.options.connect_timeout.unwrap_or(connect_timeout),
            stall_timeout: request_timeout,
            sign_on: sign_on::Options {
                credentials,
                database: url.database,
                client_name: url
                    .options
                    .client_name
                    .unwrap_or_else(|| "kioskd".to_owned()),
                protocol: url.options.protocol.unwrap_or(Protocol::Resp3),
                purpose: match &url.topology {
                    Topology::Single(_) => Purpose::Single,
                    Topology::Sentinel { .. } => Purpose::Master,
                    Topology::Cluster { .. } => Purpose::ClusterNode,
                },
            },
            password_file: password_file.map(|(path, _)| path),
            tls: if url.tls { self.tls() } else { None },
            limits: Limits {
                value_bytes_max: body_bytes_max + 64 * 1024,
                ..Limits::default()
            },
        };
        let target = match url.topology {
            Topology::Single(endpoint) => Target::Single(endpoint),
            Topology::Cluster { seeds } => Target::Cluster { seeds },
            Topology::Sentinel {
                seeds,
                name,
                user,
                password_file,
            } => {
                let mut options = data.clone();
                options.sign_on.credentials = Credentials {
                    user,
                    password: None,
                };
                options.sign_on.database = 0;
                options.sign_on.purpose = Purpose::Sentinel;
                options.password_file = password_file;
                Target::Sentinel {
                    seeds,
                    name,
                    options: Box::new(options),
                }
            }
        };
        StoreChoice::Redis(target, Box::new(data))
    }

    fn redis_url(&mut self) -> Option<RedisUrl> {
        if let Some(text) = self.text("REDIS_URL") {
            if self.text("REDIS_ADDR").is_some() {
                self.mistake(
                    "REDIS_ADDR",
                    "…".to_owned(),
                    "set either REDIS_ADDR or REDIS_URL, not both",
                );
            }
            match RedisUrl::parse(&text) {
                Ok(url) => return Some(url),
                // The error never quotes the password; the value might be nothing but one.
                Err(e) => self.mistake("REDIS_URL", "***".to_owned(), &e.to_string()),
            }
            return None;
        }
        let text = self.text("REDIS_ADDR")?;
        match RedisUrl::from_addr(&text) {
            Ok(url) => Some(url),
            Err(e) => {
                self.mistake(
                    "REDIS_ADDR",
                    if text.contains('@') {
                        "***".to_owned()
                    } else {
                        text
                    },
                    &e.to_string(),
                );
                None
            }
        }
    }

    fn tls(&mut self) -> Option<tls::Config> {
        let ca_file = self.text("REDIS_CA_FILE").map(PathBuf::from);
        match tls::Config::new(ca_file.as_deref()) {
            Ok(config) => Some(config),
            Err(e) => {
                let (name, value) = match ca_file {
                    Some(path) if cfg!(feature = "tls") => {
                        ("REDIS_CA_FILE", path.display().to_string())
                    }
                    _ => ("REDIS_URL", "rediss://…".to_owned()),
                };
                self.mistake(name, value, &e);
                None
            }
        }
    }

    /// The file is read again for every connection; here, to report a mistake at the start.
    fn password_file(&mut self) -> Option<(PathBuf, Secret)> {
        let path = PathBuf::from(self.text("REDIS_PASSWORD_FILE")?);
        match read_password(&path) {
            Ok(password) => Some((path, password)),
            Err(e) => {
                self.mistake(
                    "REDIS_PASSWORD_FILE",
                    path.display().to_string(),
                    &e.to_string(),
                );
                None
            }
        }
    }

    fn log(&mut self, pod_name: &Option<String>, namespace: &Option<String>) -> log::Options {
        let name = if self.text("LOG").is_some() {
            "LOG"
        } else {
            "RUST_LOG"
        };
        let mut filter = self.text(name).unwrap_or_else(|| "info".to_owned());
        if !log::is_filter(&filter) {
            self.mistake(
                name,
                filter,
                "error, warn, info, debug, trace or off; also as target=level, with commas",
            );
            filter = "info".to_owned();
        }
        let json = self.one_of("LOG_FORMAT", &[("text", false), ("json", true)], false);
        let context = context(pod_name, namespace);
        log::Options {
            filter,
            json,
            context,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn one_of<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.mistake(name, text, &format!("one of {}", list.join(", ")));
        default
    }

    fn count(
        &mut self,
        name: &'static str,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> usize {
        let Some(text) = self.text(name) else {
            return default;
        };
        match text.parse() {
            Ok(n) if range.contains(&n) => n,
            _ => {
                self.mistake(
                    name,
                    text,
                    &format!("a whole number from {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    fn bytes(&mut self, name: &'static str, default: usize) -> usize {
        // The upper end is what one value in Redis can be.
        self.count(name, default, 1..=512 * 1024 * 1024)
    }

    fn duration(&mut self, name: &'static str, default: Duration) -> Duration {
        let value = self.duration_or_zero(name, default);
        if value.is_zero() {
            self.mistake(
                name,
                "0".to_owned(),
                "a duration above zero, such as 250ms, 2s, 30m, 24h or 7d",
            );
            return default;
        }
        value
    }

    fn duration_or_zero(&mut self, name: &'static str, default: Duration) -> Duration {
        let Some(text) = self.text(name) else {
            return default;
        };
        duration(&text).unwrap_or_else(|| {
            self.mistake(
                name,
                text,
                "a duration such as 250ms, 2s, 30m, 24h or 7d, 365d at most",
            );
            default
        })
    }

    fn mistake(&mut self, name: &'static str, value: String, expected: &str) {
        self.mistakes.push(Mistake {
            name,
            value,
            expected: expected.to_owned(),
        });
    }
}

fn context(pod_name: &Option<String>, namespace: &Option<String>) -> Vec<(&'static str, String)> {
    let context = [("pod", pod_name), ("namespace", namespace)];
    context
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
}

/// A whole number and a unit: `ms`, `s`, `m`, `h` or `d`. A year at most.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let n: u64 = digits.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let value = Duration::from_millis(n.checked_mul(ms)?);
    (value <= Duration::from_secs(365 * 86_400)).then_some(value)
}

/// The soft limit on open files; `None` where there is no `/proc`, or no limit.
fn open_files_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let lookup = |name: &str| {
            settings
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Config::read(lookup).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in [
            ("250ms", Some(250)),
            ("2s", Some(2000)),
            ("30m", Some(1_800_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("0s", Some(0)),
            ("365d", Some(31_536_000_000)),
            ("366d", None),
            ("2", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1S", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn empty_means_unset() {
        let config = read(&[
            ("PORT", ""),
            ("REDIS_ADDR", ""),
            ("FRONT", ""),
            ("REQUEST_TIMEOUT", ""),
        ])
        .unwrap();
        assert_eq!(config.front.listen, Listen::Port(8080));
        assert!(matches!(config.store, StoreChoice::Memory(67_108_864)));
        assert_eq!(config.kind, Kind::Poll);
        assert_eq!(config.front.request_timeout, Duration::from_secs(2));
    }

    #[test]
    fn an_address_chooses_redis_and_store_overrules_it() {
        let store = |settings: &[(&str, &str)]| read(settings).unwrap().store;
        assert!(
            matches!(store(&[("REDIS_ADDR", "redis.local:6380")]), StoreChoice::Redis(Target::Single(e), _) if e.to_string() == "redis.local:6380")
        );
        assert!(matches!(
            store(&[("REDIS_ADDR", "redis.local:6380"), ("STORE", "memory")]),
            StoreChoice::Memory(_)
        ));
        assert!(matches!(store(&[("STORE", "noop")]), StoreChoice::Noop));
        let StoreChoice::Redis(_, options) = store(&[("REDIS_URL", "redis://u:p%40@h/3")]) else {
            panic!()
        };
        assert_eq!(options.sign_on.database, 3);
        assert_eq!(options.sign_on.credentials.password.unwrap().expose(), "p@");
        let service_of_kubernetes = [("REDIS_PORT", "tcp://10.0.0.1:6379")];
        assert!(matches!(
            store(&service_of_kubernetes),
            StoreChoice::Memory(_)
        ));
    }

    #[test]
    fn every_mistake_is_reported_and_no_secret() {
        let mistakes = read(&[
            ("PORT", "http"),
            ("LISTEN", "localhost"),
            ("FRONT", "async"),
            ("WORKERS", "0"),
            ("ITEM_TTL", "30"),
            ("REQUEST_TIMEOUT", "0s"),
            ("LOG", "loud"),
            ("REDIS_URL", "redis://u:hunter2@host:port"),
            ("REDIS_PASSWORD_FILE", "/does/not/exist"),
        ])
        .unwrap_err();
        for name in [
            "PORT",
            "LISTEN",
            "FRONT",
            "WORKERS",
            "ITEM_TTL",
            "REQUEST_TIMEOUT",
            "LOG",
            "REDIS_URL",
            "REDIS_PASSWORD_FILE",
        ] {
            assert_eq!(
                mistakes
                    .iter()
                    .filter(|m| m.starts_with(&format!("{name}=")))
                    .count(),
                1,
                "{name} in {mistakes:#?}"
            );
        }
        assert!(!mistakes.concat().contains("hunter2"));
    }
}
