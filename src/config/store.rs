//! Which store, and how Redis is reached.
//!
//! An address chooses Redis, unless STORE says otherwise. Any other Redis setting that would not be used is an error,
//! because a service that keeps items in its own memory answers like one that shares them, until it restarts.

use super::env::{Env, NEEDS_POLL, VALUE_BYTES_MAX, count, is_key, one_of, time};
use super::limits::gives_way;
use super::redis_url::RedisUrl;
use super::service_link::is_service_link;
use super::system::System;
use crate::front;
use crate::net::read_file;
use crate::resp::credentials::{Credentials, PASSWORD_BYTES_MAX, Secret, parse_password};
use crate::resp::options::{self, Target};
use crate::resp::tls;
use crate::store::memory;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which store, and its settings.
#[derive(Debug)]
pub enum StoreChoice {
    /// In this process, bounded by this many bytes.
    Memory(usize),
    /// Keeps nothing.
    Noop,
    /// A Redis server, or several.
    Redis(Target, Box<options::Options>),
}

/// The files of TLS, in the order of [`tls::File`].
const TLS_FILES: [&str; 3] = ["REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"];

/// Settings of TLS.
const FOR_TLS: [&str; 4] =
    ["REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE", "REDIS_SERVER_NAME"];

/// A cluster has as many links as it has masters, and reports their number only once connected: files are reserved for
/// twice the nodes that the URL names, and for this many at least.
const CLUSTER_LINKS_LEAST: usize = 16;

/// Room for the keys and the script of a command whose two documents have the largest size, as those of a PATCH may.
const AROUND_DOCUMENTS_BYTES: usize = 16 * 1024;

impl StoreChoice {
    /// Connections to Redis for each worker.
    pub(super) fn links(&self) -> usize {
        match self {
            StoreChoice::Memory(_) | StoreChoice::Noop => 0,
            StoreChoice::Redis(Target::Single(_), _) => 1,
            StoreChoice::Redis(Target::Sentinel { seeds, .. }, _) => seeds.len() + 1,
            StoreChoice::Redis(Target::Cluster { seeds }, _) => {
                (2 * seeds.len()).max(CLUSTER_LINKS_LEAST)
            }
        }
    }
}

/// The chosen store, with everything that does not depend on the limits: those are set by [`fit`].
pub(super) fn choose(env: &mut Env, request_timeout: Duration) -> StoreChoice {
    let address = ["REDIS_URL", "REDIS_ADDR"].into_iter().find(|name| env.is_set(name));
    let url = redis_url(env, request_timeout);
    let words = ["memory", "noop", "redis"].map(|word| (word, word));
    let store = env.read_set("STORE", one_of(&words));
    if address.is_none() || matches!(store, Some("memory" | "noop")) {
        refuse_what_nothing_uses(env, address, store);
        return if store == Some("noop") { StoreChoice::Noop } else { StoreChoice::Memory(0) };
    }
    let of_file = env.read_set("REDIS_PASSWORD_FILE", |path| read_password(Path::new(path)));
    match url {
        Some(url) => redis(env, url, of_file),
        // There is an error already, and the start fails.
        None => StoreChoice::Noop,
    }
}

fn redis_url(env: &mut Env, request_timeout: Duration) -> Option<RedisUrl> {
    let options = options::Options {
        connect_timeout: env.read("REDIS_CONNECT_TIMEOUT", time),
        stall_timeout: request_timeout,
        ..options::Options::default()
    };
    if !env.is_set("REDIS_URL") {
        return env.read_set("REDIS_ADDR", |addr| RedisUrl::from_addr(addr, options.clone()));
    }
    if env.is_set("REDIS_ADDR") {
        env.wrong("REDIS_ADDR", "set either REDIS_ADDR or REDIS_URL, not both");
    }
    let url = env.read_set("REDIS_URL", |url| RedisUrl::parse(url, options.clone()))?;
    if !cfg!(feature = "poll") && !matches!(url.target, Target::Single(_)) {
        env.wrong("REDIS_URL", &format!("redis+sentinel:// or redis+cluster://: {NEEDS_POLL}"));
    }
    Some(url)
}

/// Redis is not used. The operator who set these meant something by them, and they would have no effect; a misspelt
/// address would start the memory store.
fn refuse_what_nothing_uses(env: &mut Env, address: Option<&str>, store: Option<&str>) {
    for name in ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE"].into_iter().chain(FOR_TLS) {
        if env.is_set(name) {
            let expected =
                "nothing uses it: set REDIS_ADDR or REDIS_URL, and no other STORE, or leave it out";
            env.wrong(name, expected);
        }
    }
    match (address, store) {
        (Some(name), Some(store)) => env.notes.push(format!("STORE={store}: {name} is not used")),
        (None, Some("redis")) => env.wrong("STORE", "needs REDIS_ADDR or REDIS_URL"),
        (_, Some(_)) => {}
        (_, None) => {
            let unknown = env.unknown().filter(|(name, value)| !is_service_link(name, value));
            for name in unknown.map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
                env.wrong(
                    &name,
                    "there is no such setting, and no store is chosen: set REDIS_ADDR or REDIS_URL, or STORE=memory",
                );
            }
        }
    }
}

fn redis(env: &mut Env, url: RedisUrl, of_file: Option<Secret>) -> StoreChoice {
    let RedisUrl { mut target, mut options, tls, sentinel_tls } = url;
    if tls || sentinel_tls {
        let config = self::tls(env);
        if let Target::Sentinel { tls, .. } = &mut target {
            *tls = config.clone().filter(|_| sentinel_tls);
        }
        options.tls = config.filter(|_| tls);
    } else {
        for name in FOR_TLS.into_iter().filter(|name| env.is_set(name)).collect::<Vec<_>>() {
            env.wrong(name, "only TLS uses it: write rediss:// in REDIS_URL, or leave it out");
        }
    }
    if let Target::Sentinel { password_file: Some(path), .. } = &target
        && let Err(e) = read_password(path)
    {
        env.fail("REDIS_URL", "…?sentinel_password_file=…".to_owned(), &e);
    }
    if env.read_set("REDIS_CONNECT_TIMEOUT", time).is_some_and(|set| set != options.connect_timeout)
    {
        let note = "connect_timeout in REDIS_URL is used, not REDIS_CONNECT_TIMEOUT";
        env.notes.push(note.to_owned());
    }
    options.password_file = env.text("REDIS_PASSWORD_FILE").map(PathBuf::from);
    let Credentials { user, password } = &mut options.credentials;
    *password = first_password(env, of_file, password.take());
    // Without AUTH we would be the default user, who may have other rights.
    if user.is_some() && password.is_none() && options.password_file.is_none() {
        let expected = "its user has no password: set REDIS_PASSWORD_FILE or REDIS_PASSWORD (any for `nopass`)";
        env.wrong("REDIS_URL", expected);
    }
    StoreChoice::Redis(target, Box::new(options))
}

/// The certificates, and the name in the server's. They are read again for every connection; here, to report a mistake
/// at the start.
fn tls(env: &mut Env) -> Option<tls::Config> {
    let mut config = match tls::Config::new() {
        Ok(config) => config,
        Err(e) => {
            env.fail("REDIS_URL", "rediss://…".to_owned(), &e);
            return None;
        }
    };
    for name in TLS_FILES {
        if env.text(name).is_some_and(|text| is_key(&text)) {
            env.wrong(name, "the path of a file, not what is in it");
            return None;
        }
    }
    let paths = TLS_FILES.map(|name| env.text(name).map(PathBuf::from));
    match &paths {
        [_, Some(_), None] => {
            env.wrong("REDIS_CERT_FILE", "its key is missing: set REDIS_KEY_FILE");
        }
        [_, None, Some(_)] => {
            env.wrong("REDIS_KEY_FILE", "its certificate is missing: set REDIS_CERT_FILE");
        }
        _ => {}
    }
    for (file, e) in config.read(paths) {
        env.wrong(TLS_FILES[file as usize], &e);
    }
    if let Some(Err(e)) = env.text("REDIS_SERVER_NAME").map(|name| config.expect(&name)) {
        env.wrong("REDIS_SERVER_NAME", &e);
    }
    Some(config)
}

/// The password in the file has priority over that in the environment, and both over the URL's.
fn first_password(env: &mut Env, file: Option<Secret>, url: Option<Secret>) -> Option<Secret> {
    let mut passwords = [
        ("REDIS_PASSWORD_FILE", file),
        ("REDIS_PASSWORD", env.text("REDIS_PASSWORD").map(Secret::new)),
        ("the password in REDIS_URL", url),
    ]
    .into_iter()
    .filter_map(|(name, password)| Some((name, password?)));
    let (used, password) = passwords.next()?;
    env.notes.extend(passwords.map(|(other, _)| format!("{used} is used, not {other}")));
    Some(password)
}

/// What stands before every key: two deployments on one Redis must not read each other's items, nor may one's prefix be
/// the beginning of another's keys.
pub(super) fn key_prefix(env: &mut Env, store: &StoreChoice) -> String {
    const OURS: [&str; 4] = ["item:", "sess:", "idem:", "rate:"];
    let prefix = env.read_set("KEY_PREFIX", |text| {
        let name = text.strip_suffix(':').unwrap_or("");
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        match name.len() {
            1..=64 if name.bytes().all(is_plain) && !OURS.contains(&text) => Ok(text.to_owned()),
            _ => Err("1 to 64 letters, digits, `.`, `_` and `-`, then a colon; not item: sess: idem: rate:"),
        }
    });
    if prefix.is_some() && !matches!(store, StoreChoice::Redis(..)) {
        env.notes.push("KEY_PREFIX is not used: this store is not shared".to_owned());
    }
    prefix.unwrap_or_default()
}

/// Sets the limits of a store, and lowers a default MAX_BODY_BYTES to what the memory store could ever hold.
pub(super) fn fit(
    env: &mut Env,
    store: &mut StoreChoice,
    front: &mut front::Options,
    system: &System,
) {
    let body_bytes_max = front.body_bytes_max;
    let around = memory::ENTRY_BYTES + "item:i".len();
    let memory_max = env.read("MEMORY_MAX_BYTES", count(around + "{}".len()..=VALUE_BYTES_MAX));
    match store {
        StoreChoice::Noop => {}
        StoreChoice::Memory(bytes_max) => {
            *bytes_max = memory_max;
            let smallest = around + body_bytes_max;
            if !env.is_set("MEMORY_MAX_BYTES") {
                let half = system.memory_max.map_or(memory_max, |bytes| memory_max.min(bytes / 2));
                let why = match smallest > half {
                    true => format!("MAX_BODY_BYTES is {body_bytes_max}"),
                    false => "half of what this process may use".to_owned(),
                };
                gives_way(env, "MEMORY_MAX_BYTES", bytes_max, half.max(smallest), &why);
            } else if smallest > memory_max {
                let most = memory_max.saturating_sub(around);
                if env.is_set("MAX_BODY_BYTES") {
                    let expected = format!(
                        "at most {most} with {memory_max} bytes for all items together (MEMORY_MAX_BYTES)"
                    );
                    env.wrong("MAX_BODY_BYTES", &expected);
                } else {
                    let why = format!("MEMORY_MAX_BYTES is {memory_max}");
                    gives_way(env, "MAX_BODY_BYTES", &mut front.body_bytes_max, most, &why);
                }
            }
        }
        StoreChoice::Redis(_, options) => {
            let replies = &mut options.limits;
            replies.value_bytes_max = body_bytes_max + 64 * 1024;
            // A document that was stored must be readable again, whatever its size.
            replies.bytes_total_max = replies.bytes_total_max.max(2 * replies.value_bytes_max);
            // And the two documents of a compare-and-set must fit into the queue.
            options.queue_bytes_max = front
                .worker_share()
                .saturating_add(AROUND_DOCUMENTS_BYTES)
                .min(options.queue_bytes_max)
                .max(2 * body_bytes_max + AROUND_DOCUMENTS_BYTES);
        }
    }
}

/// The password in a file. It is read again for every connection; here, to report a mistake at the start.
fn read_password(path: &Path) -> Result<Secret, String> {
    let bytes = read_file(path, PASSWORD_BYTES_MAX + 1).map_err(|e| e.to_string());
    let password = bytes.and_then(|bytes| parse_password(&bytes).map_err(str::to_owned));
    password.map_err(|e| format!("failed to read the password file: {e}"))
}
