//! The operator's settings for the rules.

use super::access::Proxies;
use super::cors::Origins;
use super::rate::Rate;
use std::time::Duration;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time to live of an item without `?ttl=` (`ITEM_TTL`, 30 minutes).
    pub item_ttl: Duration,
    /// Time to live of a session, renewed by every read and PATCH (`SESSION_TTL`, 30 minutes).
    pub session_ttl: Duration,
    /// The largest `?ttl=` (`MAX_TTL`, 7 days).
    pub max_ttl: Duration,
    /// `memory`, `noop` or `redis`, for `/version`.
    pub store: &'static str,
    /// Kubernetes' name and namespace for this replica, for `/version`.
    pub context: Vec<(&'static str, String)>,
    /// How long the record of a write with an `Idempotency-Key` is kept (`IDEMPOTENCY_TTL`, 24 h).
    pub idempotency_ttl: Duration,
    /// The largest body (`MAX_BODY_BYTES`, 1 MiB); one byte more is 413, decided by the declared length before any of
    /// it is read.
    pub body_bytes_max: usize,
    /// Pages of these sites may use the service (`CORS_ORIGINS`).
    pub origins: Origins,
    /// From these `X-Forwarded-For` is believed (`TRUSTED_PROXIES`).
    pub proxies: Proxies,
    /// How often a client may ask (`RATE_LIMIT`).
    pub rate: Option<Rate>,
    /// Browsers get a page at `/` (`STATUS_PAGE`).
    pub status_page: bool,
    /// All documents of a bulk read together (at most [`list::BULK_BYTES_MAX`](super::list::BULK_BYTES_MAX), 16 MiB);
    /// one byte more is 413.
    pub bulk_bytes_max: usize,
}
