//! The options of both fronts, and what a running front exposes.

use super::access_log::AccessLog;
use super::listen::{Listen, SocketFile};
use crate::http::HeadLimits;
use std::time::Duration;

/// Which front carries the service (`FRONT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Readiness loops; the default in a build with the feature `poll`.
    Poll,
    /// `tiny_http` and a pool of threads.
    TinyHttp,
}

impl Front {
    /// As `FRONT` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Front::Poll => "poll",
            Front::TinyHttp => "tiny_http",
        }
    }
}

/// The options of both fronts. A byte a second does not extend any of these durations: see `front::pace`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: Listen,
    /// Event loops, or threads with tiny_http (`WORKERS`; half of the processors, or 16).
    pub workers: usize,
    /// From the end of the request, its body included, to the store's answer, all waiting and retries included
    /// (`REQUEST_TIMEOUT`, 2 s).
    pub request_timeout: Duration,
    /// Limits of a request head (`MAX_HEAD_BYTES`, 16 KiB): 431, or 414 for its target.
    pub head: HeadLimits,
    /// The largest body (`MAX_BODY_BYTES`, 1 MiB): one byte more is 413.
    pub body_bytes_max: usize,
    /// From the first byte of a head to its end (`HEAD_TIMEOUT`, 10 s): 408.
    pub head_timeout: Duration,
    /// A body that stalls for this long without a byte, or that beyond this time has averaged less than 1 KiB a second
    /// (`BODY_TIMEOUT`, 30 s): 408.
    pub body_timeout: Duration,
    /// Between requests, and before the first (`IDLE_TIMEOUT`, 75 s): close.
    pub idle_timeout: Duration,
    /// The age of a connection, a tenth of it more or less, by chance (`KEEPALIVE_TIME`, 1 h): its next response says
    /// `Connection: close`, so that clients spread over new replicas. tiny_http does not tell how old one is.
    pub keepalive_time: Duration,
    /// For a client that does not read its response: measured as for a body (`WRITE_TIMEOUT`, 10 s): close.
    pub write_timeout: Duration,
    /// Connections at a time (`MAX_CONNECTIONS`, 10000): one more gets 503 and is closed.
    pub connections_max: usize,
    /// Bytes buffered for all clients together: bodies that are incomplete and responses not yet read
    /// (`MAX_BUFFERED_BYTES`, 256 MiB, but a quarter of the memory limit at most). Beyond it a client that is sending
    /// gets 503, and one that does not read is closed. Each worker has its share, which must be able to hold two of the
    /// largest bodies.
    pub buffered_bytes_max: usize,
    /// Which requests are logged (`ACCESS_LOG`).
    pub access_log: AccessLog,
}

impl Options {
    /// One worker's share of `buffered_bytes_max`.
    pub fn worker_share(&self) -> usize {
        self.buffered_bytes_max / self.workers.max(1)
    }
}

/// A running front.
pub struct Server {
    /// Where it listens, with the actual port.
    pub address: String,
    /// How many threads it has; each ends with a [`lifecycle::Event::Ended`](crate::lifecycle::Event::Ended).
    pub threads: usize,
    pub(super) wake: Box<dyn Fn() + Send>,
    /// Removed at the end, unless a thread does that.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) socket_file: Option<SocketFile>,
}

impl Server {
    /// Makes every thread check the lifecycle's state. To be called when it has changed.
    pub fn wake(&self) {
        (self.wake)();
    }
}
