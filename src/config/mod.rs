//! The environment, turned into each layer's own options.
//!
//! Environment only: no file to mount, no flags to quote. An empty value counts as unset. Every error is collected, so
//! that an operator sees all of them at once and not one for each restart; and a setting that would start another
//! service than was meant is an error, too. Names that Kubernetes injects for services
//! (`REDIS_PORT=tcp://10.0.0.1:6379`) are never read.
//!
//! `settings` is the one list, with the defaults; `env` reads one value; `limits` fits those together that depend on
//! each other and on the [`System`]; `store` and `redis_url` are about Redis.

mod access;
mod env;
mod limits;
mod redis_url;
mod service_link;
mod settings;
mod store;
mod system;

pub use access::{Access, read_tokens};
pub use settings::{BUILD, SETTINGS};
pub use store::StoreChoice;
pub use system::System;

use crate::front::access_log::AccessLog;
use crate::front::listen::Listen;
use crate::front::{self, Front};
use crate::http::HeadLimits;
use crate::log;
use crate::service;
use env::{
    Env, NEEDS_POLL, SOCKET_PATH_BYTES_MAX, VALUE_BYTES_MAX, count, one_of, time, time_or_zero,
};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

/// The settings of all layers.
#[derive(Debug)]
pub struct Config {
    /// Which front.
    pub kind: Front,
    /// For the front.
    pub front: front::Options,
    /// For the rules.
    pub service: service::Options,
    /// Which store, and its settings.
    pub store: StoreChoice,
    /// Stands before every key in Redis (`KEY_PREFIX`).
    pub key_prefix: String,
    /// Where metrics are served to those without a token (`METRICS_LISTEN`).
    pub metrics_listen: Option<SocketAddr>,
    /// Who may do what; the rules have the rest of it.
    pub access: Access,
    /// For the log.
    pub log: log::Options,
    /// The log's filter comes from `RUST_LOG`, which may have been set for other programs.
    pub rust_log: bool,
    /// How long a draining process goes on accepting.
    pub drain_delay: Duration,
    /// How long it then has to finish.
    pub drain_timeout: Duration,
    /// Notes for the operator, logged once: which default was changed and why, and which settings are not used.
    pub notes: Vec<String>,
}

impl Config {
    /// Reads the settings from `variables` (those of the process, or a test's).
    ///
    /// # Errors
    /// A line for every setting that cannot be used: its name, its value, what it may be.
    pub fn read<T: Into<OsString>>(
        variables: impl IntoIterator<Item = (T, T)>,
        system: &System,
    ) -> Result<Config, Vec<String>> {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let mut env = Env::new(variables);
        let mut config = read(&mut env, system);
        config.notes = env.notes;
        if env.errors.is_empty() { Ok(config) } else { Err(env.errors) }
    }

    /// Reads only where to listen.
    ///
    /// # Errors
    /// As [`read`](Config::read).
    pub fn listen<T: Into<OsString>>(
        variables: impl IntoIterator<Item = (T, T)>,
    ) -> Result<Listen, Vec<String>> {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let mut env = Env::new(variables.filter(|(name, _)| name == "PORT" || name == "LISTEN"));
        let listen = listen(&mut env);
        if env.errors.is_empty() { Ok(listen) } else { Err(env.errors) }
    }
}

fn read(env: &mut Env, system: &System) -> Config {
    let kind = env.read("FRONT", one_of(&[("poll", Front::Poll), ("tiny_http", Front::TinyHttp)]));
    if kind == Front::Poll && !cfg!(feature = "poll") {
        env.wrong("FRONT", NEEDS_POLL);
    }
    let request_timeout = env.read("REQUEST_TIMEOUT", time);
    let mut store = store::choose(env, request_timeout);
    let access_logs =
        [("off", AccessLog::Off), ("errors", AccessLog::Errors), ("all", AccessLog::All)];
    let mut front = front::Options {
        listen: listen(env),
        workers: limits::workers(env, kind, system),
        request_timeout,
        head: HeadLimits {
            head_bytes_max: env.read("MAX_HEAD_BYTES", count(256..=1024 * 1024)),
            ..HeadLimits::default()
        },
        body_bytes_max: env.read("MAX_BODY_BYTES", count("{}".len()..=VALUE_BYTES_MAX)),
        head_timeout: env.read("HEAD_TIMEOUT", time),
        body_timeout: env.read("BODY_TIMEOUT", time),
        idle_timeout: env.read("IDLE_TIMEOUT", time),
        keepalive_time: env.read("KEEPALIVE_TIME", time),
        write_timeout: env.read("WRITE_TIMEOUT", time),
        connections_max: env.read("MAX_CONNECTIONS", count(1..=1_000_000)),
        buffered_bytes_max: env.read("MAX_BUFFERED_BYTES", count(1..=usize::MAX)),
        access_log: env.read("ACCESS_LOG", one_of(&access_logs)),
    };
    limits::fit(env, &mut front, kind, store.links(), system);
    store::fit(env, &mut store, &mut front, system);
    let is_clients = |at: SocketAddr| match front.listen {
        Listen::Port(port) => port != 0 && at.port() == port,
        Listen::Tcp(clients) => {
            let every = at.ip().is_unspecified() || clients.ip().is_unspecified();
            let one_kind = at.is_ipv4() == clients.is_ipv4();
            at.port() != 0
                && at.port() == clients.port()
                && (at.ip() == clients.ip() || every && one_kind)
        }
        Listen::Unix(_) => false,
    };
    let metrics_listen = env.read_set("METRICS_LISTEN", |text| match text.parse() {
        Ok(at) if is_clients(at) => Err("another port than that of clients"),
        Ok(at) => Ok(at),
        Err(_) => Err("an address and a port: 127.0.0.1:9090, [::]:9090"),
    });
    let access = access::read(env, &front.listen, &store);
    let [item_ttl, session_ttl, max_ttl] = limits::ttls(env);
    let context = [("pod", "POD_NAME"), ("namespace", "NAMESPACE")];
    let context = context.into_iter().filter_map(|(field, name)| Some((field, env.text(name)?)));
    let context: Vec<(&str, String)> = context.collect();
    Config {
        kind,
        service: service::Options {
            item_ttl,
            session_ttl,
            max_ttl,
            idempotency_ttl: env.read("IDEMPOTENCY_TTL", time),
            body_bytes_max: front.body_bytes_max,
            // A document's values and the answer printed from them are in memory at the same time.
            bulk_bytes_max: service::list::BULK_BYTES_MAX.min(front.worker_share() / 2),
            origins: access.origins.clone(),
            proxies: access.proxies.clone(),
            rate: access.rate,
            status_page: env.read("STATUS_PAGE", one_of(&[("on", true), ("off", false)])),
            // `main` sets it when the store is chosen.
            store: "",
            context: context.clone(),
        },
        metrics_listen,
        access,
        front,
        key_prefix: store::key_prefix(env, &store),
        store,
        log: log::Options {
            filter: log_filter(env),
            json: env.read("LOG_FORMAT", one_of(&[("text", false), ("json", true)])),
            context,
        },
        rust_log: env.is_set("RUST_LOG") && !env.is_set("LOG"),
        drain_delay: env.read("DRAIN_DELAY", time_or_zero),
        drain_timeout: env.read("DRAIN_TIMEOUT", time_or_zero),
        notes: Vec::new(),
    }
}

fn listen(env: &mut Env) -> Listen {
    let port = Listen::Port(env.read("PORT", count(0..=65_535)) as u16);
    let listen = env.read_set("LISTEN", |text| match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('@') => Err(
            "a socket needs a path in the file system, unix:/path: abstract ones are not supported",
        ),
        Some(path) if path.len() > SOCKET_PATH_BYTES_MAX => {
            Err("the path of a socket has at most 107 bytes")
        }
        Some(path) if !path.is_empty() => Ok(Listen::Unix(path.into())),
        _ => text.parse().map(Listen::Tcp).map_err(|_| match text.contains('%') {
            true => {
                "the interface of a link-local address is a number here, the one `ip link` shows: \
                 [fe80::1%2]:8080"
            }
            false => "an address and a port (127.0.0.1:8080, [::]:8080), or unix:/path",
        }),
    });
    if listen.is_some() && env.is_set("PORT") {
        env.notes.push("LISTEN is used, not PORT".to_owned());
    }
    listen.unwrap_or(port)
}

fn log_filter(env: &mut Env) -> String {
    let parse = |filter: &str| match log::is_filter(filter) {
        true => Ok(filter.to_owned()),
        false => Err("error, warn, info, debug, trace or off; also as target=level, with commas"),
    };
    let rust_log = if env.is_set("LOG") { None } else { env.read_set("RUST_LOG", parse) };
    let filter = rust_log.unwrap_or_else(|| env.read("LOG", parse));
    if filter.split(',').all(|part| part.contains('=')) {
        // The filter names only some targets, perhaps none of kioskd's: RUST_LOG is read by other programs, too.
        return format!("{},{filter}", settings::default_of("LOG"));
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::options;
    use crate::resp::options::Target;

    /// A host whose limits are never reached.
    const SYSTEM: System =
        System { processors: 4, files_max: None, files_open: 3, memory_max: None };

    fn read_on(system: &System, settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        Config::read(settings.iter().copied(), system)
    }

    fn read(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        read_on(&SYSTEM, settings)
    }

    #[test]
    fn empty_means_unset() {
        let config =
            read(&[("PORT", ""), ("REDIS_ADDR", ""), ("FRONT", ""), ("REQUEST_TIMEOUT", "")])
                .unwrap();
        assert_eq!(config.front.listen, Listen::Port(8080));
        assert!(matches!(config.store, StoreChoice::Memory(67_108_864)));
        assert_eq!(config.kind.name(), settings::default_of("FRONT"));
        assert_eq!(config.front.request_timeout, Duration::from_secs(2));
    }

    /// Some layers have defaults of their own, for tests and other programs.
    #[test]
    fn a_default_of_a_layer_is_that_of_the_table() {
        let config = read(&[("REDIS_ADDR", "h")]).unwrap();
        let StoreChoice::Redis(_, options) = config.store else { panic!("an address is set") };
        let default = options::Options::default();
        assert_eq!(options.connect_timeout, default.connect_timeout);
        assert_eq!(options.stall_timeout, default.stall_timeout);
        assert_eq!(options.limits, default.limits);
        assert_eq!(config.front.head.head_bytes_max, HeadLimits::default().head_bytes_max);
    }

    #[cfg(not(feature = "poll"))]
    #[test]
    fn a_build_without_poll_says_which_build_has_what_is_asked_for() {
        let read = |front, url| read(&[("FRONT", front), ("REDIS_URL", url)]);
        let has_it = "the default build has it (cargo feature `poll`), this one was built without";
        assert!(read("tiny_http", "redis://h").is_ok());
        assert_eq!(read("poll", "").unwrap_err(), [format!("FRONT=\"poll\": {has_it}")]);
        for url in ["redis+sentinel://:hunter2@h/n", "redis+cluster://:hunter2@h"] {
            let error = format!("redis+sentinel:// or redis+cluster://: {has_it}");
            assert_eq!(
                read("tiny_http", url).unwrap_err(),
                [format!("REDIS_URL=\"***\": {error}")]
            );
        }
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
        assert_eq!(options.database, 3);
        assert_eq!(options.credentials.password.unwrap().expose(), "p@");
        let service_of_kubernetes = [("REDIS_PORT", "tcp://10.0.0.1:6379")];
        assert!(matches!(store(&service_of_kubernetes), StoreChoice::Memory(_)));
    }

    #[test]
    fn every_error_is_reported_and_no_secret() {
        let errors = read(&[
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
                errors.iter().filter(|m| m.starts_with(&format!("{name}="))).count(),
                1,
                "{name} in {errors:#?}"
            );
        }
        assert!(!errors.concat().contains("hunter2"));
    }

    #[cfg(feature = "poll")]
    #[test]
    fn there_are_half_as_many_workers_as_processors_and_sixteen_threads() {
        let workers = |processors, front| {
            let system = System { processors, ..SYSTEM };
            read_on(&system, &[("FRONT", front)]).unwrap().front.workers
        };
        for (processors, expected) in [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32), (1024, 256)] {
            let system = System { processors, memory_max: None, ..SYSTEM };
            let settings = [("MAX_BODY_BYTES", "1000")];
            let workers = read_on(&system, &settings).unwrap().front.workers;
            assert_eq!(workers, expected, "{processors}");
        }
        assert_eq!(workers(64, "tiny_http"), 16);
        assert_eq!(workers(1, "tiny_http"), 16);
    }

    #[cfg(feature = "poll")]
    #[test]
    fn clients_get_the_files_that_nothing_else_needs() {
        let on = |files_max, settings: &[(&str, &str)]| {
            let system = System { files_max: Some(files_max), ..SYSTEM };
            read_on(&system, settings)
        };
        let redis = ("REDIS_ADDR", "redis");
        let sentinels = ("REDIS_URL", "redis+sentinel://a,b,c/m");
        let cluster = ("REDIS_URL", "redis+cluster://a,b,c");
        let scraped = ("METRICS_LISTEN", "127.0.0.1:0");
        let two = ("WORKERS", "2");
        for (settings, own) in [
            (&[two][..], 76 + 2 * 3),
            (&[two, redis], 76 + 2 * 4),
            (&[two, sentinels], 76 + 2 * 7),
            (&[two, cluster], 76 + 2 * 19),
            (&[two, scraped], 76 + 2 * 3 + 34),
        ] {
            let config = on(1024, settings).unwrap();
            assert_eq!(config.front.connections_max, 1024 - own, "{settings:?}");
            assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
            let start = format!("MAX_CONNECTIONS is {}, not 10000: ", 1024 - own);
            assert!(config.notes[0].starts_with(&start), "{:?}", config.notes);
            // At the limit there is room for one client, and with one file less for none.
            let least = on(own + 1, settings).unwrap();
            assert_eq!(least.front.connections_max, 1);
            let errors = on(own, settings).unwrap_err();
            assert!(errors[0].starts_with("WORKERS=\"2\": "), "{errors:?}");
            assert_eq!(errors.len(), 1);
        }
        let config = on(20_000, &[]).unwrap();
        assert_eq!((config.front.connections_max, config.notes.len()), (10_000, 0));
        let config = on(1024, &[two, ("MAX_CONNECTIONS", "942")]).unwrap();
        assert_eq!((config.front.connections_max, config.notes.len()), (942, 0));
        // The default is reduced; room for no client at all stops the start.
        let few = on(76 + 3 + 1, &[]).unwrap();
        assert_eq!((few.front.workers, few.front.connections_max), (1, 1));
        assert_eq!(few.notes.len(), 2, "{:?}", few.notes);
        assert!(on(76 + 3, &[]).is_err());
        assert!(on(0, &[]).is_err());
        // tiny_http turns no client away, so no files are reserved for that.
        let plain = ("FRONT", "tiny_http");
        assert_eq!(on(13 + 3 * 16, &[plain]).unwrap().front.workers, 16);
        assert_eq!(on(12 + 3 * 16, &[plain]).unwrap().front.workers, 15);
        assert!(on(12 + 3 * 16, &[plain, ("WORKERS", "16")]).is_err());
    }

    #[cfg(feature = "poll")]
    #[test]
    fn buffers_are_a_quarter_of_the_memory_and_a_share_holds_two_bodies() {
        const MIB: usize = 1024 * 1024;
        let on = |memory_max, settings: &[(&str, &str)]| {
            let system = System { processors: 64, memory_max, ..SYSTEM };
            read_on(&system, settings).map(|config| config.front)
        };
        // (memory, settings, buffers, workers, body)
        for (memory, settings, expected) in [
            (None, &[][..], (256 * MIB, 32, MIB)),
            (Some(usize::MAX), &[], (256 * MIB, 32, MIB)),
            (Some(1024 * MIB), &[], (256 * MIB, 32, MIB)),
            (Some(1024 * MIB - 4), &[], (256 * MIB - 1, 32, MIB)),
            (Some(64 * MIB), &[], (16 * MIB, 8, MIB)),
            (Some(8 * MIB), &[], (2 * MIB, 1, MIB)),
            (Some(4 * MIB), &[], (MIB, 1, MIB / 2)),
            (Some(64 * MIB), &[("WORKERS", "32")], (16 * MIB, 32, MIB / 4)),
            (Some(64 * MIB), &[("MAX_BUFFERED_BYTES", "4194304")], (4 * MIB, 2, MIB)),
            (None, &[("MAX_BODY_BYTES", "268435456")], (512 * MIB, 1, 256 * MIB)),
            (Some(64 * MIB), &[("MAX_BODY_BYTES", "16777216")], (32 * MIB, 1, 16 * MIB)),
            (
                None,
                &[("MAX_BODY_BYTES", "1000"), ("MAX_BUFFERED_BYTES", "8000"), ("WORKERS", "4")],
                (8000, 4, 1000),
            ),
        ] {
            let front = on(memory, settings).unwrap();
            let got = (front.buffered_bytes_max, front.workers, front.body_bytes_max);
            assert_eq!(got, expected, "{memory:?} {settings:?}");
            assert!(front.worker_share() * front.workers <= front.buffered_bytes_max);
            assert!(2 * front.body_bytes_max <= front.worker_share());
        }
        let lowered = read_on(&System { memory_max: Some(64 * MIB), ..SYSTEM }, &[]).unwrap().notes;
        let wanted =
            "MAX_BUFFERED_BYTES is 16777216, not 268435456: a quarter of what this process may use";
        assert!(lowered.iter().any(|note| note == wanted), "{lowered:?}");
        let raised = read(&[("MAX_BODY_BYTES", "268435456"), ("STORE", "noop")]).unwrap().notes;
        let wanted = "MAX_BUFFERED_BYTES is 536870912, not 268435456: MAX_BODY_BYTES is 268435456, for 1 workers";
        assert!(raised.iter().any(|note| note == wanted), "{raised:?}");
        for (memory, settings, name) in [
            (
                None,
                &[("MAX_BODY_BYTES", "1001"), ("MAX_BUFFERED_BYTES", "8000"), ("WORKERS", "4")][..],
                "MAX_BODY_BYTES",
            ),
            (None, &[("MAX_BODY_BYTES", "4001"), ("MAX_BUFFERED_BYTES", "8000")], "MAX_BODY_BYTES"),
            (Some(64 * MIB), &[("MAX_BODY_BYTES", "16777217")], "MAX_BODY_BYTES"),
            (None, &[("MAX_BUFFERED_BYTES", "1")], "MAX_BUFFERED_BYTES"),
            (Some(MIB), &[("WORKERS", "256")], "WORKERS"),
        ] {
            let errors = on(memory, settings).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with(&format!("{name}=")), "{errors:?}");
        }
    }

    /// The queue to Redis is a worker's share and some room, 64 MiB at most; that sum once overflowed.
    #[test]
    fn buffers_may_be_as_large_as_a_number() {
        let most = usize::MAX.to_string();
        let settings = [("MAX_BUFFERED_BYTES", &*most), ("WORKERS", "1"), ("REDIS_ADDR", "h")];
        let StoreChoice::Redis(_, options) = read(&settings).unwrap().store else { panic!() };
        assert_eq!(options.queue_bytes_max, options::Options::default().queue_bytes_max);
    }

    #[cfg(feature = "poll")]
    #[test]
    fn limits_that_were_set_must_agree_and_a_default_gives_way() {
        let ttls = |settings: &[(&str, &str)]| {
            read(settings).map(|config| {
                let service = config.service;
                [service.item_ttl, service.session_ttl, service.max_ttl].map(|ttl| ttl.as_secs())
            })
        };
        const WEEK: u64 = 7 * 86_400;
        assert_eq!(ttls(&[]), Ok([1800, 1800, WEEK]));
        assert_eq!(ttls(&[("MAX_TTL", "60s")]), Ok([60, 60, 60]));
        assert_eq!(ttls(&[("ITEM_TTL", "8d")]), Ok([WEEK + 86_400, 1800, WEEK + 86_400]));
        assert_eq!(ttls(&[("ITEM_TTL", "60s"), ("MAX_TTL", "60s")]), Ok([60, 60, 60]));
        for name in ["ITEM_TTL", "SESSION_TTL"] {
            let errors = ttls(&[(name, "61s"), ("MAX_TTL", "60s")]).unwrap_err();
            assert_eq!(errors, [format!("{name}=\"61s\": at most MAX_TTL, which is 60s")]);
        }

        let memory = |body: &'static str, max: &'static str| {
            let store = read(&[("MAX_BODY_BYTES", body), ("MEMORY_MAX_BYTES", max)])?.store;
            let StoreChoice::Memory(max) = store else { panic!("no address is set") };
            Ok::<_, Vec<String>>(max)
        };
        assert_eq!(memory("764", "1000"), Ok(1000));
        assert!(memory("765", "1000").is_err());
        assert_eq!(memory("", "1000"), Ok(1000));
        let small = read(&[("MEMORY_MAX_BYTES", "1000")]).unwrap();
        assert_eq!((small.front.body_bytes_max, small.service.body_bytes_max), (764, 764));
        assert_eq!(small.notes, ["MAX_BODY_BYTES is 764, not 1048576: MEMORY_MAX_BYTES is 1000"]);
        assert_eq!(memory("100000000", ""), Ok(100_000_236));
        for (limit, expected) in [(1 << 27, 1 << 26), (1 << 26, 1 << 25), (4096, 1024 + 236)] {
            let system = System { memory_max: Some(limit), ..SYSTEM };
            let settings = [("WORKERS", "1"), ("MAX_BUFFERED_BYTES", "2048")];
            let store = read_on(&system, &settings).unwrap().store;
            assert!(
                matches!(store, StoreChoice::Memory(max) if max == expected.max(2048)),
                "{store:?}"
            );
        }
        // Redis keeps the items, and the limit of the memory store is not read.
        let settings =
            [("MAX_BODY_BYTES", "765"), ("MEMORY_MAX_BYTES", "1000"), ("REDIS_ADDR", "redis")];
        assert!(read(&settings).is_ok());
    }

    #[test]
    fn a_password_comes_from_the_file_or_the_environment_or_the_url() {
        let path = std::env::temp_dir().join(format!("kioskd-config-{}", std::process::id()));
        std::fs::write(&path, "of the file\n").unwrap();
        let file = ("REDIS_PASSWORD_FILE", path.to_str().unwrap());
        let plain = ("REDIS_PASSWORD", "plain");
        let url = ("REDIS_URL", "redis://:url@h");
        let address = ("REDIS_ADDR", "h");
        for (settings, expected, notes) in [
            (&[url][..], "url", 0),
            (&[url, plain], "plain", 1),
            (&[url, plain, file], "of the file", 2),
            (&[address, file], "of the file", 0),
            (&[address, plain], "plain", 0),
        ] {
            let config = read(settings).unwrap();
            let StoreChoice::Redis(_, options) = &config.store else { panic!("an address is set") };
            let password = options.credentials.password.as_ref().unwrap();
            assert_eq!(password.expose(), expected);
            assert_eq!(config.notes.len(), notes, "{:?}", config.notes);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_filter_for_some_targets_leaves_the_others_at_info() {
        for (filter, expected) in [
            ("debug", "debug"),
            ("off", "off"),
            ("warn,kioskd::resp=debug", "warn,kioskd::resp=debug"),
            ("h2=debug", "info,h2=debug"),
            ("h2=debug,kioskd=off", "info,h2=debug,kioskd=off"),
        ] {
            for name in ["LOG", "RUST_LOG"] {
                assert_eq!(read(&[(name, filter)]).unwrap().log.filter, expected);
            }
        }
    }
}
