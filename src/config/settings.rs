//! Every setting: its name, its default, its meaning. The one list.
//!
//! `--help` prints it, docs/configuration.md shows it (`tests/operation/readme.rs` compares them), and a setting that is
//! not set gets its default from here, through the parser that reads set ones. So a default is written once, as an
//! operator would write it.
//! Defaults that are words for people (`unset`, and those of STORE and WORKERS) are never parsed: the code that uses
//! such a setting checks whether it is set.

/// Name, default, meaning.
#[rustfmt::skip] // a table
pub const SETTINGS: &[(&str, &str, &str)] = &[
    ("PORT", "8080", "listen on this port of all interfaces, IPv6 and IPv4"),
    ("LISTEN", "unset", "instead of PORT: 127.0.0.1:8080, [::]:8080 or unix:/run/kioskd.sock"),
    ("STORE", "redis if an address is set, else memory", "memory, noop or redis"),
    ("REDIS_ADDR", "unset", "host:port"),
    ("REDIS_URL", "unset", "redis://user:password@host:port/db, unix:///path, redis+sentinel://h1,h2/name or redis+cluster://h1,h2"),
    ("REDIS_PASSWORD_FILE", "unset", "a file that holds the password"),
    ("REDIS_PASSWORD", "unset", "the password; REDIS_PASSWORD_FILE overrides it, and it overrides that of REDIS_URL"),
    ("REDIS_CA_FILE", "unset", "certificates to trust instead of Mozilla's (feature `tls`); read again for every connection"),
    ("REDIS_CERT_FILE", "unset", "our certificate with its chain, for a server that asks for one (feature `tls`); read again for every connection"),
    ("REDIS_KEY_FILE", "unset", "the key of REDIS_CERT_FILE, not encrypted"),
    ("REDIS_SERVER_NAME", "unset", "the name or IP address in every server's certificate, if it is not the host of its address (feature `tls`)"),
    ("REDIS_CONNECT_TIMEOUT", "500ms", "to connect to one address; then as long again to sign on, at least 1s"),
    ("KEY_PREFIX", "unset", "stands before every key, so that two deployments can share one Redis: name:"),
    ("FRONT", if cfg!(feature = "poll") { "poll" } else { "tiny_http" }, "poll or tiny_http"),
    ("WORKERS", "half of the processors, at least 1; 16 with tiny_http", "event loops, or threads with tiny_http: 1 to 256"),
    ("REQUEST_TIMEOUT", "2s", "from the end of the request to the store's answer, retries included"),
    ("ITEM_TTL", "30m", "time to live of an item"),
    ("SESSION_TTL", "30m", "time to live of a session, renewed by every read and PATCH"),
    ("MAX_TTL", "7d", "the most that ?ttl= may ask for"),
    ("IDEMPOTENCY_TTL", "24h", "time to live of the record of a write with an Idempotency-Key"),
    ("MEMORY_MAX_BYTES", "67108864", "the memory store refuses writes beyond it; unset, half of the memory limit at most"),
    ("MAX_HEAD_BYTES", "16384", "request line and headers; beyond it 431"),
    ("MAX_BODY_BYTES", "1048576", "beyond it 413"),
    ("HEAD_TIMEOUT", "10s", "from the first byte to the end of the head; beyond it 408"),
    ("BODY_TIMEOUT", "30s", "how long a body may pause; beyond that time it must average 1 KiB/s: else 408"),
    ("IDLE_TIMEOUT", "75s", "how long a connection may stay open without a request"),
    ("KEEPALIVE_TIME", "1h", "the age, give or take a tenth, at which a connection ends with its next response (poll)"),
    ("WRITE_TIMEOUT", "10s", "how long a client may take no byte of its response; beyond that time it must average 1 KiB/s: else it is closed"),
    ("MAX_CONNECTIONS", "10000", "at most what the limit on open files allows; beyond it 503"),
    ("MAX_BUFFERED_BYTES", "268435456", "bodies and responses of all clients in memory; unset, a quarter of the memory limit at most; beyond it 503"),
    ("AUTH_TOKENS", "unset", "who may use the service: name:secret[:ro][:PREFIX*], with commas or lines between them"),
    ("AUTH_TOKENS_FILE", "unset", "a file of them, read again every 10 s and on SIGHUP"),
    ("RATE_LIMIT", "unset", "requests of one token, or, without tokens, of one address: N/s, N/m or N/h, counted in the store"),
    ("TRUSTED_PROXIES", "unset", "proxies whose X-Forwarded-For is believed: addresses, networks, unix"),
    ("CORS_ORIGINS", "unset", "other sites whose pages may use the service: https://app.example"),
    ("METRICS_LISTEN", "unset", "/metrics at an address of its own, without a token: 127.0.0.1:9090"),
    ("STATUS_PAGE", "on", "the page that browsers get at /: on or off"),
    ("DRAIN_DELAY", "0s", "after SIGTERM: how long to go on accepting"),
    ("DRAIN_TIMEOUT", "10s", "then: how long to finish what is in flight"),
    ("LOG", "info", "error, warn, info, debug, trace, or off (also RUST_LOG)"),
    ("LOG_FORMAT", "text", "text or json"),
    ("ACCESS_LOG", "errors", "off, errors or all"),
    ("POD_NAME", "unset", "in the start-up line, every JSON log line and /version"),
    ("NAMESPACE", "unset", "in the start-up line, every JSON log line and /version"),
];

/// Which build this is, for `--version` and `--help`.
pub const BUILD: &str = match (cfg!(feature = "poll"), cfg!(feature = "tls")) {
    (true, false) => "the default build, with the feature poll",
    (true, true) => "the default build, with the features poll and tls",
    (false, false) => "built without the feature poll, which the default build has",
    (false, true) => "built with the feature tls, without poll, which the default build has",
};

/// The text of a setting's default.
pub(super) fn default_of(name: &str) -> &'static str {
    let row = SETTINGS.iter().find(|(setting, _, _)| *setting == name);
    row.map(|(_, default, _)| *default).expect("BUG: a setting that is read is in the table")
}
