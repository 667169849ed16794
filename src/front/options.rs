//! What both fronts are told, and what they show of themselves.

use super::access_log::AccessLog;
use super::listen::{Listen, SocketFile};
use crate::http::HeadLimits;
use std::time::Duration;

/// Which front carries the service (`FRONT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Readiness loops; the default of the build that has them (feature `poll`).
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

/// What both fronts are told. A byte a second renews no duration here: see `front::pace`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: Listen,
    /// Loops, or threads (`WORKERS`).
    pub workers: usize,
    /// From the end of the request, its body included, to the store's answer, everything included
    /// (`REQUEST_TIMEOUT`, 2 s).
    pub request_timeout: Duration,
    /// Limits of a request head (`MAX_HEAD_BYTES`).
    pub head: HeadLimits,
    /// The largest body (`MAX_BODY_BYTES`, 1 MiB).
    pub body_bytes_max: usize,
    /// From the first byte of a head to its end (`HEAD_TIMEOUT`, 10 s): 408.
    pub head_timeout: Duration,
    /// A body that does not come: so long without a byte, or slower than 1 KiB a second over all
    /// beyond that (`BODY_TIMEOUT`, 30 s): 408.
    pub body_timeout: Duration,
    /// Between requests, and before the first (`IDLE_TIMEOUT`, 75 s): close.
    pub idle_timeout: Duration,
    /// For a client that does not take its response: as for a body (`WRITE_TIMEOUT`, 10 s): close.
    pub write_timeout: Duration,
    /// Connections at a time (`MAX_CONNECTIONS`, 10000): one more gets 503 and is closed.
    pub connections_max: usize,
    /// Bytes kept for all clients together, of bodies that are not whole and of responses not taken
    /// (`MAX_BUFFERED_BYTES`): beyond it 503 for who sends, close for who does not read. Each worker has
    /// its share, which must have room for two of the largest bodies.
    pub buffered_bytes_max: usize,
    /// Which requests are logged (`ACCESS_LOG`).
    pub access_log: AccessLog,
}

impl Options {
    /// What of `buffered_bytes_max` falls to one worker.
    pub fn worker_share(&self) -> usize {
        self.buffered_bytes_max / self.workers.max(1)
    }
}

/// A front at work.
pub struct Server {
    /// Where it listens, with the port it really got.
    pub address: String,
    /// The names of its threads; each ends with a [`lifecycle::Event::Ended`](crate::lifecycle::Event::Ended).
    pub threads: usize,
    pub(super) wake: Box<dyn Fn() + Send>,
    /// Removed at the end, unless a thread sees to that.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) socket_file: Option<SocketFile>,
}

impl Server {
    /// Makes every thread look at the lifecycle's state. To be called when it has changed.
    pub fn wake(&self) {
        (self.wake)();
    }
}
