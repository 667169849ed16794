//! The fronts: sockets on one side, [`Service`] and [`Store`] on the other.
//!
//! Two of them carry the same service. [`tiny`] is the plain one, a thread for every request that
//! is being served; read it first. [`poll`] is the one to face a network with: a few loops that
//! never block. [`connection`] is one client of it, [`pace`] how slow it may be, [`accept`] hands
//! the clients out.
//!
//! This file holds what they share: their options, the board on which workers show that they
//! live, and the line in the access log.

pub mod accept;
pub mod access;
pub mod connection;
mod guard;
pub mod listen;
pub mod pace;
pub mod poll;
pub mod tiny;

use crate::http::HeadLimits;
use crate::lifecycle::Lifecycle;
use crate::service::Service;
use crate::store::Store;
use access::{AccessLog, End, Entry};
use listen::{Listen, SocketFile};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which front carries the service (`FRONT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Readiness loops; the default.
    Poll,
    /// `tiny_http` and a pool of threads.
    TinyHttp,
}

impl Kind {
    /// As `FRONT` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Poll => "poll",
            Kind::TinyHttp => "tiny_http",
        }
    }
}

/// What both fronts are told. A byte a second renews no duration here: see [`pace`].
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
    /// A body that does not come: so long without a byte, or slower than [`pace::LEAST_RATE`] over all
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
pub struct Running {
    /// Where it listens, with the port it really got.
    pub address: String,
    /// The names of its threads; each ends with a [`lifecycle::Event::Ended`](crate::lifecycle::Event::Ended).
    pub threads: usize,
    wake: Box<dyn Fn() + Send>,
    /// Removed at the end, unless a thread sees to that.
    #[expect(dead_code, reason = "it is there to be dropped")]
    socket_file: Option<SocketFile>,
}

impl Running {
    /// Makes every thread look at the lifecycle's state. To be called when it has changed.
    pub fn wake(&self) {
        (self.wake)();
    }
}

/// Starts the front. It accepts at once; `main` moves the lifecycle to ready afterwards.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    kind: Kind,
    options: Options,
    service: Service,
    store: Arc<dyn Store>,
    board: Arc<Board>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Running> {
    match kind {
        Kind::Poll => poll::start(options, service, store, board, lifecycle),
        Kind::TinyHttp => tiny::start(options, service, store, board, lifecycle),
    }
}

/// A worker that has been at one tick for this long is stuck: no rule takes a millisecond, and no
/// call in a loop may block. The plain front's ticks are whole requests, so it adds their deadline.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Where workers show what they are doing. Each writes its own line and reads nobody's.
#[derive(Debug)]
pub struct Board {
    epoch: Instant,
    patience: Duration,
    lines: Vec<Line>,
}

/// One worker's line, on a cache line of its own so that writing it slows nobody down.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Line {
    /// Milliseconds after the epoch, plus one, at which the present tick began; 0 while waiting.
    busy_since: AtomicU64,
    /// The tick that seemed too long when it was last looked at, and when it first did.
    suspected: AtomicU64,
    suspected_at: AtomicU64,
    /// Open connections of clients that are served.
    connections: AtomicUsize,
    /// Open connections of clients that are being told 503: they take nobody's room.
    refusals: AtomicUsize,
    /// Requests whose head is complete and whose response is not yet written.
    in_flight: AtomicUsize,
}

impl Board {
    /// A board for `workers` workers whose ticks may last `tick` (nothing for a loop).
    pub fn new(workers: usize, tick: Duration) -> Board {
        let lines = (0..workers).map(|_| Line::default()).collect();
        Board { epoch: Instant::now(), patience: STUCK_AFTER + tick, lines }
    }

    /// One worker's line.
    pub fn line(&self, worker: usize) -> &Line {
        &self.lines[worker]
    }

    /// A worker begins a tick.
    pub fn begin(&self, worker: usize, now: Instant) {
        let ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.lines[worker].busy_since.store(ms + 1, Ordering::Relaxed);
    }

    /// A worker goes to wait for events.
    pub fn wait(&self, worker: usize) {
        self.lines[worker].busy_since.store(0, Ordering::Relaxed);
    }

    /// Whether no worker is stuck in a tick.
    ///
    /// A worker is stuck when it is found so twice, a second apart: to a process that was stopped in the middle of
    /// its ticks, all of them look as if they had lasted as long, until they have run.
    pub fn turning(&self, now: Instant) -> bool {
        let ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let patience = self.patience.as_millis() as u64;
        self.lines.iter().all(|line| {
            let since = line.busy_since.load(Ordering::Relaxed);
            if since == 0 || ms.saturating_sub(since - 1) < patience {
                return true;
            }
            if line.suspected.load(Ordering::Acquire) != since {
                // In this order: who sees the suspicion sees when it arose.
                line.suspected_at.store(ms, Ordering::Relaxed);
                line.suspected.store(since, Ordering::Release);
            }
            ms.saturating_sub(line.suspected_at.load(Ordering::Relaxed)) < 1000
        })
    }

    /// Open connections of all workers, those of refused clients aside.
    pub fn connections(&self) -> usize {
        self.lines.iter().map(|line| line.connections.load(Ordering::Relaxed)).sum()
    }

    /// Connections beyond the limit, open only to be told so.
    pub fn refusals(&self) -> usize {
        self.lines.iter().map(|line| line.refusals.load(Ordering::Relaxed)).sum()
    }

    /// Requests in flight on all workers.
    pub fn in_flight(&self) -> usize {
        self.lines.iter().map(|line| line.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest connections; ties go round.
    fn least_busy(&self, turn: usize) -> usize {
        let n = self.lines.len();
        (0..n)
            .map(|i| (turn + i) % n)
            .min_by_key(|&i| self.lines[i].connections.load(Ordering::Relaxed))
            .unwrap_or(0)
    }
}

impl Line {
    fn connected(&self, refused: bool) {
        self.count(refused).fetch_add(1, Ordering::Relaxed);
    }

    fn disconnected(&self, refused: bool) {
        self.count(refused).fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, refused: bool) -> &AtomicUsize {
        match refused {
            true => &self.refusals,
            false => &self.connections,
        }
    }

    fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request is over: it is counted and logged, once, and as what it came to.
fn account(service: &Service, log: AccessLog, entry: &Entry) {
    match entry.end {
        End::Answered(status) => service.shard().responded(status),
        End::Gone => service.shard().responded(access::GONE),
        End::Cut(_) => service.shard().cut(),
    }
    log.record(entry);
}

/// Makes an error of the system say what it was that failed: "too many open files" alone could be anything.
pub fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("failed to {what}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_when_one_tick_takes_too_long_and_not_while_it_waits() {
        let board = Board::new(2, Duration::ZERO);
        let at = |s| board.epoch + Duration::from_secs(s);
        assert!(board.turning(at(1000)), "both wait");
        board.begin(1, at(1000));
        assert!(board.turning(at(1004)));
        assert!(board.turning(at(1005)), "the process may have been stopped");
        assert!(!board.turning(at(1006)));
        board.wait(1);
        assert!(board.turning(at(2000)));
    }

    #[test]
    fn clients_go_to_the_worker_with_the_fewest_and_ties_go_round() {
        let board = Board::new(3, Duration::ZERO);
        assert_eq!([0, 1, 2, 3].map(|turn| board.least_busy(turn)), [0, 1, 2, 0]);
        board.line(0).connected(false);
        board.line(1).connected(false);
        assert_eq!([0, 1, 2].map(|turn| board.least_busy(turn)), [2, 2, 2]);
    }
}
