//! Which store, and how Redis is reached.

use super::env::Env;
use super::service_link::is_service_link;
use super::system::System;
use super::{SETTINGS, StoreChoice};
use crate::resp::client::Target;
use crate::resp::codec::{Limits, Protocol};
use crate::resp::link;
use crate::resp::resolve::read_password;
use crate::resp::sign_on::{self, Purpose};
use crate::resp::tls;
use crate::resp::url::{Credentials, RedisUrl, Secret, Topology};
use crate::store::memory;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The memory store's bound, if nobody sets another.
const MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Links to a cluster are as many as it has masters, which nobody knows before it is asked: room is kept
/// for twice the nodes that the URL names, and for this many at least.
const CLUSTER_LINKS_LEAST: usize = 16;

/// Keys and script of a command whose documents are two of the largest, as those of a PATCH may be.
const AROUND_DOCUMENTS_BYTES: usize = 16 * 1024;

/// What was chosen, before its limits are known.
#[derive(Debug)]
pub(super) enum Chosen {
    Memory,
    Noop,
    Redis(Box<RedisUrl>, Option<(PathBuf, Secret)>),
}

impl Chosen {
    /// Connections to Redis that each worker has.
    pub fn links(&self) -> usize {
        match self {
            Chosen::Memory | Chosen::Noop => 0,
            Chosen::Redis(url, _) => match &url.topology {
                Topology::Single(_) => 1,
                Topology::Sentinel { seeds, .. } => seeds.len() + 1,
                Topology::Cluster { seeds } => (2 * seeds.len()).max(CLUSTER_LINKS_LEAST),
            },
        }
    }
}

impl Env {
    pub fn chosen(&mut self) -> Chosen {
        let address = ["REDIS_URL", "REDIS_ADDR"].into_iter().find(|name| self.is_set(name));
        let url = self.redis_url();
        // Now, so that its mistakes are told whatever else is wrong.
        let store = self.text("STORE");
        let uses_redis = address.is_some() && !matches!(store.as_deref(), Some("memory" | "noop"));
        let password_file = if uses_redis {
            self.password_file()
        } else {
            self.nothing_uses(&["REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_CA_FILE"]);
            None
        };
        let chosen = match (store.as_deref(), url) {
            (Some("memory"), _) | (None, None) => Chosen::Memory,
            (Some("noop"), _) => Chosen::Noop,
            (Some("redis") | None, Some(url)) => Chosen::Redis(Box::new(url), password_file),
            (Some("redis"), None) => {
                if address.is_none() {
                    self.wrong("STORE", "needs REDIS_ADDR or REDIS_URL");
                }
                return Chosen::Memory;
            }
            (Some(_), _) => {
                self.wrong("STORE", "memory, noop or redis");
                return Chosen::Memory;
            }
        };
        if let (Some(name), Some(store), false) = (address, &store, uses_redis) {
            self.notes.push(format!("STORE={store}: {name} is not used"));
        }
        if address.is_none() && store.is_none() {
            self.unknown_redis_names();
        }
        chosen
    }

    /// Whoever set these means something by them, and nothing would come of it.
    fn nothing_uses(&mut self, names: &[&str]) {
        for name in names.iter().filter(|name| self.is_set(name)).collect::<Vec<_>>() {
            self.wrong(
                name,
                "nothing uses it: set REDIS_ADDR or REDIS_URL, and no other STORE, or leave it out",
            );
        }
    }

    /// A misspelt address would start the memory store, which loses everything and is not shared.
    fn unknown_redis_names(&mut self) {
        let is_known = |name: &str| SETTINGS.iter().any(|(setting, _, _)| *setting == name);
        let unknown = self.all().filter(|(name, value)| {
            name.starts_with("REDIS_") && !is_known(name) && !is_service_link(name, value)
        });
        let unknown: Vec<String> = unknown.map(|(name, _)| name.to_owned()).collect();
        for name in unknown {
            self.wrong(
                &name,
                "there is no such setting, and no store is chosen: set REDIS_ADDR or REDIS_URL, or STORE=memory",
            );
        }
    }

    pub fn store(
        &mut self,
        chosen: Chosen,
        request_timeout: Duration,
        limits: &super::limits::Limits,
        queue_bytes_max: usize,
        system: &System,
    ) -> StoreChoice {
        let body_bytes_max = limits.body_bytes_max;
        let around = memory::ENTRY_BYTES + "item:i".len();
        // The upper end is that of `bytes`.
        let memory_max = self.count("MEMORY_MAX_BYTES", around + "{}".len()..=512 * 1024 * 1024);
        let connect_timeout = self.duration("REDIS_CONNECT_TIMEOUT");
        match chosen {
            Chosen::Noop => StoreChoice::Noop,
            Chosen::Memory => {
                let smallest = around + body_bytes_max;
                if self.is_set("MAX_BODY_BYTES") && memory_max.is_some_and(|max| smallest > max) {
                    self.wrong(
                        "MAX_BODY_BYTES",
                        &format!(
                            "at most {} with {} bytes for all items together (MEMORY_MAX_BYTES)",
                            memory_max.unwrap_or(0).saturating_sub(around),
                            memory_max.unwrap_or(0)
                        ),
                    );
                }
                StoreChoice::Memory(memory_max.unwrap_or_else(|| {
                    let mut default = MEMORY_BYTES_MAX;
                    let half = system.memory_max.map_or(default, |bytes| default.min(bytes / 2));
                    let why = match smallest > half {
                        true => format!("MAX_BODY_BYTES is {body_bytes_max}"),
                        false => "half of what this process may use".to_owned(),
                    };
                    if half.max(smallest) != default {
                        self.gives_way("MEMORY_MAX_BYTES", &mut default, half.max(smallest), &why);
                    }
                    default
                }))
            }
            Chosen::Redis(url, password_file) => {
                let connect_timeout =
                    connect_timeout.unwrap_or(link::Options::default().connect_timeout);
                let (target, options) =
                    self.redis(*url, password_file, connect_timeout, request_timeout);
                let with_limits = |options: link::Options| {
                    let value_bytes_max = body_bytes_max + 64 * 1024;
                    let defaults = Limits::default();
                    link::Options {
                        limits: Limits {
                            value_bytes_max,
                            // A document that was stored must come back, whatever its size.
                            bytes_total_max: defaults.bytes_total_max.max(2 * value_bytes_max),
                            ..defaults
                        },
                        // So must the two that a compare-and-set is made of find room on their way.
                        queue_bytes_max: (queue_bytes_max + AROUND_DOCUMENTS_BYTES)
                            .min(options.queue_bytes_max)
                            .max(2 * body_bytes_max + AROUND_DOCUMENTS_BYTES),
                        ..options
                    }
                };
                let target = match target {
                    Target::Sentinel { seeds, name, options } => {
                        Target::Sentinel { seeds, name, options: Box::new(with_limits(*options)) }
                    }
                    target => target,
                };
                StoreChoice::Redis(target, Box::new(with_limits(options)))
            }
        }
    }

    fn redis(
        &mut self,
        url: RedisUrl,
        password_file: Option<(PathBuf, Secret)>,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> (Target, link::Options) {
        if url.options.timeout.is_some() {
            self.mistake(
                "REDIS_URL",
                "…?timeout=…".to_owned(),
                "set REQUEST_TIMEOUT instead: it covers everything",
            );
        }
        let tls = if url.tls {
            self.tls()
        } else {
            if self.is_set("REDIS_CA_FILE") {
                self.wrong(
                    "REDIS_CA_FILE",
                    "only TLS uses it: write rediss:// in REDIS_URL, or leave it out",
                );
            }
            None
        };
        let mut credentials = url.credentials;
        if let Some(password) =
            self.password(credentials.password.is_some(), password_file.as_ref())
        {
            credentials.password = Some(password);
        }
        let data = link::Options {
            connect_timeout: url.options.connect_timeout.unwrap_or(connect_timeout),
            stall_timeout: request_timeout,
            sign_on: sign_on::Options {
                credentials,
                database: url.database,
                client_name: url.options.client_name.unwrap_or_else(|| "kioskd".to_owned()),
                protocol: url.options.protocol.unwrap_or(Protocol::Resp3),
                purpose: match &url.topology {
                    Topology::Single(_) => Purpose::Single,
                    Topology::Sentinel { .. } => Purpose::Master,
                    Topology::Cluster { .. } => Purpose::ClusterNode,
                },
            },
            password_file: password_file.map(|(path, _)| path),
            tls,
            ..link::Options::default()
        };
        let target = match url.topology {
            Topology::Single(endpoint) => Target::Single(endpoint),
            Topology::Cluster { seeds } => Target::Cluster { seeds },
            Topology::Sentinel { seeds, name, user, password_file } => {
                if let Some(path) = &password_file {
                    self.check_password(path, "REDIS_URL", "…?sentinel_password_file=…");
                }
                let mut options = data.clone();
                options.sign_on.credentials = Credentials { user, password: None };
                options.sign_on.database = 0;
                options.sign_on.purpose = Purpose::Sentinel;
                options.password_file = password_file;
                Target::Sentinel { seeds, name, options: Box::new(options) }
            }
        };
        (target, data)
    }

    fn redis_url(&mut self) -> Option<RedisUrl> {
        if let Some(text) = self.text("REDIS_URL") {
            if self.is_set("REDIS_ADDR") {
                self.wrong("REDIS_ADDR", "set either REDIS_ADDR or REDIS_URL, not both");
            }
            return match RedisUrl::parse(&text) {
                Ok(url) => Some(url),
                // The error never quotes the password; the value might be nothing but one.
                Err(e) => {
                    self.wrong("REDIS_URL", &e.to_string());
                    None
                }
            };
        }
        let text = self.text("REDIS_ADDR")?;
        let url = RedisUrl::from_addr(&text);
        url.map_err(|e| self.wrong("REDIS_ADDR", &e.to_string())).ok()
    }

    fn tls(&mut self) -> Option<tls::Config> {
        let ca_file = self.text("REDIS_CA_FILE").map(PathBuf::from);
        let config = tls::Config::new(ca_file.as_deref());
        let told = config.map_err(|e| match ca_file {
            Some(_) if cfg!(feature = "tls") => self.wrong("REDIS_CA_FILE", &e),
            _ => self.mistake("REDIS_URL", "rediss://…".to_owned(), &e),
        });
        told.ok()
    }

    /// The password that stands in the environment or in the file, which has the last word.
    fn password(&mut self, in_url: bool, file: Option<&(PathBuf, Secret)>) -> Option<Secret> {
        let plain = self.text("REDIS_PASSWORD").map(Secret::new);
        let used = match (&plain, file) {
            (_, Some(_)) => "REDIS_PASSWORD_FILE",
            (Some(_), None) => "REDIS_PASSWORD",
            (None, None) => return None,
        };
        if file.is_some() && plain.is_some() {
            self.notes.push(format!("{used} is used, not REDIS_PASSWORD"));
        }
        if in_url {
            self.notes.push(format!("{used} is used, not the password in REDIS_URL"));
        }
        file.map(|(_, password)| password.clone()).or(plain)
    }

    /// The file is read again for every connection; here, to report a mistake at the start.
    fn password_file(&mut self) -> Option<(PathBuf, Secret)> {
        let path = PathBuf::from(self.text("REDIS_PASSWORD_FILE")?);
        let shown = path.display().to_string();
        let password = self.check_password(&path, "REDIS_PASSWORD_FILE", &shown)?;
        Some((path, password))
    }

    fn check_password(&mut self, path: &Path, name: &str, shown: &str) -> Option<Secret> {
        let password = read_password(path);
        let told = password.map_err(|e| self.mistake(name, shown.to_owned(), &e.to_string()));
        told.ok()
    }
}
