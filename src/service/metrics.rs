//! Counters, and `/metrics` in the Prometheus text format (exposition format 0.0.4).
//!
//! ```text
//! kioskd_http_responses_total{status="201"} 17
//! kioskd_http_refused_total{code="head_too_large"} 2
//! ```
//!
//! Every worker counts in a [`Worker`] of its own, which no other writes; a scrape adds them up. So counting causes no
//! contention for a cache line. Labels come from fixed sets only: a client cannot create a new time series, whatever it
//! sends.
//!
//! A worker also publishes here when its present tick began, for `/livez`, and how many connections it has, for the
//! acceptor.

use super::traffic::{self, Micros, Traffic, add, family};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Why a request was refused before a rule saw it: the codes of [`ParseError`](crate::http::ParseError)
/// and of the front.
const REFUSALS: [&str; 11] = [
    "bad_request",
    "head_too_large",
    "too_many_headers",
    "uri_too_long",
    "body_too_large",
    "version_not_supported",
    "not_implemented",
    "expectation_failed",
    "request_timeout",
    "overloaded",
    "other",
];

/// Statuses are 100 to 599.
const STATUSES: usize = 500;

/// A worker that has been at one tick for this long is stuck: no rule takes a millisecond, and no
/// call in a loop may block. The plain front's ticks are whole requests, so it adds their deadline.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// It must look stuck for this long: in a process that was stopped in the middle of its ticks, all of them look that
/// long until they have run.
const STUCK_TWICE_MS: usize = 1000;

/// The metrics of all workers of one process.
#[derive(Debug)]
pub struct Metrics {
    epoch: Instant,
    patience: Duration,
    workers: Vec<Worker>,
    /// By reason.
    turned_away: [AtomicUsize; 2],
}

/// The metrics of one worker. On cache lines of its own, so that writing it slows no other worker.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Worker {
    /// Milliseconds after the epoch at which the present tick began, at least 1; 0 while waiting.
    busy_since: AtomicUsize,
    /// The tick that seemed too long at the last check, and when it first did.
    suspected: AtomicUsize,
    suspected_at: AtomicUsize,
    /// Open connections of clients that are served.
    connections: AtomicUsize,
    /// Open connections of clients that only get a 503: they do not count as load.
    refusals: AtomicUsize,
    /// Requests whose head is complete and whose response is not yet written.
    in_flight: AtomicUsize,
    responses: Responses,
    cut: AtomicUsize,
    refused: [AtomicUsize; REFUSALS.len()],
    panics: AtomicUsize,
    connected: AtomicUsize,
    limited: AtomicUsize,
    uncounted: AtomicUsize,
    replayed: AtomicUsize,
    buffered: AtomicUsize,
    /// What is counted by route, and by command.
    pub traffic: Traffic,
}

/// One count for each status.
#[derive(Debug)]
struct Responses([AtomicUsize; STATUSES]);

impl Default for Responses {
    fn default() -> Responses {
        Responses([const { AtomicUsize::new(0) }; STATUSES])
    }
}

/// The state of the process, apart from its workers' counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Started and not draining.
    pub ready: bool,
    /// A signal has come.
    pub draining: bool,
    /// No worker knows of trouble with the store.
    pub store_up: bool,
    /// Which front runs, as `FRONT` spells it. (tiny_http tells of no connection, so there is nothing to count.)
    pub front: &'static str,
    /// Log lines that stdout did not take.
    pub log_lines_dropped: usize,
    /// What others have measured: the store, the operating system.
    pub others: Vec<Sample>,
}

/// A family of one series, measured elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// Its value.
    pub value: Value,
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Millionths.
    Micros(u64),
}

/// Why a connection was refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is beyond `MAX_CONNECTIONS`.
    Limit,
    /// The process has no file descriptor left.
    Descriptors,
}

impl Metrics {
    /// For `workers` workers whose ticks may last `tick` (nothing for a loop).
    pub fn new(workers: usize, tick: Duration, now: Instant) -> Metrics {
        let workers = (0..workers).map(|_| Worker::default()).collect();
        Metrics {
            epoch: now,
            patience: STUCK_AFTER + tick,
            workers,
            turned_away: Default::default(),
        }
    }

    /// The metrics of one worker.
    pub fn worker(&self, n: usize) -> &Worker {
        &self.workers[n]
    }

    /// A worker begins a tick.
    pub fn begin(&self, n: usize, now: Instant) {
        self.worker(n).busy_since.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    /// A worker goes to wait for events.
    pub fn wait(&self, n: usize) {
        self.worker(n).busy_since.store(0, Ordering::Relaxed);
    }

    /// Whether no worker is stuck in a tick: one is when two checks, a second apart, find it so.
    pub fn is_turning(&self, now: Instant) -> bool {
        let (ms, patience) = (self.millis(now), self.patience.as_millis() as usize);
        self.workers.iter().all(|worker| {
            let since = worker.busy_since.load(Ordering::Relaxed);
            if since == 0 || since_then(ms, since) < patience {
                return true;
            }
            if worker.suspected.load(Ordering::Acquire) != since {
                // In this order: a reader that sees the suspicion also sees when it arose.
                worker.suspected_at.store(ms, Ordering::Relaxed);
                worker.suspected.store(since, Ordering::Release);
            }
            since_then(ms, worker.suspected_at.load(Ordering::Relaxed)) < STUCK_TWICE_MS
        })
    }

    /// Milliseconds since the epoch; where a word has 32 bits, modulo 49 days.
    fn millis(&self, now: Instant) -> usize {
        now.saturating_duration_since(self.epoch).as_millis() as usize
    }

    /// Open connections of all workers, those of refused clients excluded.
    pub fn connections(&self) -> usize {
        self.sum(&|w| &w.connections)
    }

    /// Connections beyond the limit, open only for their 503.
    pub fn refusals(&self) -> usize {
        self.sum(&|w| &w.refusals)
    }

    /// Requests in flight on all workers.
    pub fn in_flight(&self) -> usize {
        self.sum(&|w| &w.in_flight)
    }

    /// Panics that were caught.
    pub fn panics(&self) -> usize {
        self.sum(&|w| &w.panics)
    }

    /// A count, added up over all workers.
    fn sum(&self, pick: &dyn Fn(&Worker) -> &AtomicUsize) -> usize {
        self.workers.iter().map(|w| pick(w).load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest connections; ties are broken in rotation, from `turn` on.
    pub fn least_busy(&self, turn: usize) -> usize {
        let n = self.workers.len();
        (0..n)
            .map(|i| (turn + i) % n)
            .min_by_key(|&i| self.workers[i].connections.load(Ordering::Relaxed))
            .unwrap_or(0)
    }

    /// Milliseconds since the present tick of some worker began, of the longest; 0 while all wait.
    fn longest_tick(&self, now: Instant) -> usize {
        let ms = self.millis(now);
        let since = self.workers.iter().map(|worker| worker.busy_since.load(Ordering::Relaxed));
        since.filter(|since| *since > 0).map(|since| since_then(ms, since)).max().unwrap_or(0)
    }

    /// A connection was refused, without a request of it being read.
    pub fn turned_away(&self, reason: Refused) {
        // Written by the acceptor alone.
        add(&self.turned_away[reason as usize], 1);
    }

    /// The text of a scrape.
    pub fn render(&self, status: &Status, now: Instant) -> String {
        let mut out = String::with_capacity(64 * 1024);
        let name = "kioskd_build_info";
        family(&mut out, GAUGE, name, "The version that runs.");
        let version = env!("CARGO_PKG_VERSION");
        let revision = option_env!("KIOSKD_REVISION").unwrap_or("");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{name}{{version=\"{version}\",revision=\"{revision}\",front=\"{}\"}} 1",
            status.front
        );
        for (name, help, value) in [
            (
                "kioskd_ready",
                "1 when /readyz is 200: started, not draining, and the store answers, as far as is known.",
                usize::from(status.ready && status.store_up),
            ),
            ("kioskd_draining", "1 from the first signal on.", status.draining.into()),
            (
                "kioskd_store_up",
                "1 while no worker knows of trouble with the store.",
                status.store_up.into(),
            ),
            ("kioskd_requests_in_flight", "Requests begun and not answered.", self.in_flight()),
            (
                "kioskd_buffered_bytes",
                "Bodies and responses of clients in memory.",
                self.sum(&|w| &w.buffered),
            ),
        ] {
            one(&mut out, GAUGE, name, help, value);
        }
        let tick = Micros(self.longest_tick(now) as u64 * 1000);
        let name = "kioskd_worker_tick_seconds";
        family(
            &mut out,
            GAUGE,
            name,
            "For how long some worker has been at its present tick; 0 while all wait.",
        );
        let _ = writeln!(out, "{name} {tick}");
        for (name, help, value) in [
            (
                "kioskd_http_cut_total",
                "Responses cut off because the client did not take them.",
                self.sum(&|w| &w.cut),
            ),
            (
                "kioskd_idempotency_replays_total",
                "Responses built from the record of an earlier request.",
                self.sum(&|w| &w.replayed),
            ),
            (
                "kioskd_rate_limited_total",
                "Requests that were over RATE_LIMIT.",
                self.sum(&|w| &w.limited),
            ),
            (
                "kioskd_rate_limit_skipped_total",
                "Requests that passed because the store has not counted them in time.",
                self.sum(&|w| &w.uncounted),
            ),
            (
                "kioskd_panics_total",
                "Panics in a rule or in a session of the store, each of them caught: bugs.",
                self.panics(),
            ),
            (
                "kioskd_log_lines_dropped_total",
                "Log lines that stdout did not take.",
                status.log_lines_dropped,
            ),
        ] {
            one(&mut out, COUNTER, name, help, value);
        }
        if status.front == "poll" {
            let (name, help) = ("kioskd_connections", "Open connections of clients.");
            one(&mut out, GAUGE, name, help, self.connections());
            let name = "kioskd_connections_total";
            one(&mut out, COUNTER, name, "Connections accepted.", self.sum(&|w| &w.connected));
            let name = "kioskd_connections_refused_total";
            family(&mut out, COUNTER, name, "Connections refused at once, by reason.");
            for (reason, n) in ["limit", "descriptors"].iter().zip(&self.turned_away) {
                line(&mut out, name, Some(("reason", reason)), n.load(Ordering::Relaxed));
            }
        }
        let name = "kioskd_http_responses_total";
        family(
            &mut out,
            COUNTER,
            name,
            "Responses, by status; 499: the client was gone before it.",
        );
        for i in 0..STATUSES {
            let n = self.sum(&|w| &w.responses.0[i]);
            if n > 0 {
                line(&mut out, name, Some(("status", &(i + 100).to_string())), n);
            }
        }
        let name = "kioskd_http_refused_total";
        family(
            &mut out,
            COUNTER,
            name,
            "Requests refused before a rule saw them, by problem code.",
        );
        for (i, code) in REFUSALS.iter().enumerate() {
            line(&mut out, name, Some(("code", code)), self.sum(&|w| &w.refused[i]));
        }
        traffic::render(&mut out, self.workers.iter().map(|worker| &worker.traffic));
        for Sample { name, help, kind, value } in &status.others {
            family(&mut out, kind, name, help);
            let _ = match value {
                Value::Whole(n) => writeln!(out, "{name} {n}"),
                Value::Micros(n) => writeln!(out, "{name} {}", Micros(*n)),
            };
        }
        out
    }
}

impl Worker {
    /// A response was built from the record of an earlier request.
    pub fn replayed(&self) {
        add(&self.replayed, 1);
    }

    /// So many bytes are in memory for its clients.
    pub fn buffered(&self, bytes: usize) {
        self.buffered.store(bytes, Ordering::Relaxed);
    }

    /// A response has this status.
    pub fn responded(&self, status: u16) {
        if let Some(n) = self.responses.0.get(usize::from(status).wrapping_sub(100)) {
            add(n, 1);
        }
    }

    /// A response was cut off.
    pub fn cut(&self) {
        add(&self.cut, 1);
    }

    /// A request was refused with this problem code before a rule saw it.
    pub fn refused(&self, code: &str) {
        let known = REFUSALS.iter().position(|c| *c == code);
        add(&self.refused[known.unwrap_or(REFUSALS.len() - 1)], 1);
    }

    /// A request was within the limit, or not, or the store has not counted it.
    pub fn counted(&self, is_within: Option<bool>) {
        match is_within {
            Some(true) => {}
            Some(false) => add(&self.limited, 1),
            None => add(&self.uncounted, 1),
        }
    }

    /// A rule or a session of the store panicked.
    pub fn panicked(&self) {
        add(&self.panics, 1);
    }

    /// The acceptor has sent a client to this worker. `refused` when the client only gets a 503.
    pub fn connected(&self, refused: bool) {
        self.open(refused).fetch_add(1, Ordering::Relaxed);
    }

    /// The worker has accepted the client.
    pub fn accepted(&self) {
        add(&self.connected, 1);
    }

    /// The client has gone.
    pub fn disconnected(&self, refused: bool) {
        self.open(refused).fetch_sub(1, Ordering::Relaxed);
    }

    fn open(&self, refused: bool) -> &AtomicUsize {
        if refused { &self.refusals } else { &self.connections }
    }

    /// A request has a complete head.
    pub fn request_began(&self) {
        add(&self.in_flight, 1);
    }

    /// A request is over.
    pub fn request_ended(&self) {
        let n = self.in_flight.load(Ordering::Relaxed);
        self.in_flight.store(n.saturating_sub(1), Ordering::Relaxed);
    }
}

/// Milliseconds from one time to another; 0 when the other is later, as that of another worker may be.
fn since_then(now: usize, then: usize) -> usize {
    usize::try_from(now.wrapping_sub(then) as isize).unwrap_or(0)
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// A family of one series.
#[inline(never)]
fn one(out: &mut String, kind: &str, name: &str, help: &str, value: usize) {
    family(out, kind, name, help);
    line(out, name, None, value);
}

#[inline(never)]
fn line(out: &mut String, name: &str, label: Option<(&str, &str)>, value: usize) {
    let _ = match label {
        Some((key, text)) => writeln!(out, "{name}{{{key}=\"{text}\"}} {value}"),
        None => writeln!(out, "{name} {value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ParseError;

    fn metrics(workers: usize) -> Metrics {
        Metrics::new(workers, Duration::ZERO, Instant::now())
    }

    #[test]
    fn a_scrape_adds_up_all_workers() {
        let metrics = metrics(2);
        let (a, b) = (metrics.worker(0), metrics.worker(1));
        a.responded(200);
        b.responded(200);
        b.responded(504);
        a.refused("head_too_large");
        b.refused("what the future brings");
        a.panicked();
        b.cut();
        b.accepted();
        for _ in 0..3 {
            a.connected(false);
            b.request_began();
        }
        a.connected(true);
        b.request_ended();
        let text = metrics.render(
            &Status {
                front: "poll",
                ready: true,
                store_up: true,
                log_lines_dropped: 5,
                ..Status::default()
            },
            Instant::now(),
        );
        for line in [
            "kioskd_http_responses_total{status=\"200\"} 2",
            "kioskd_http_responses_total{status=\"504\"} 1",
            "kioskd_http_refused_total{code=\"head_too_large\"} 1",
            "kioskd_http_refused_total{code=\"uri_too_long\"} 0",
            "kioskd_http_refused_total{code=\"other\"} 1",
            "kioskd_http_cut_total 1",
            "kioskd_panics_total 1",
            "kioskd_connections 3",
            "kioskd_connections_total 1",
            "kioskd_requests_in_flight 2",
            "kioskd_ready 1",
            "kioskd_log_lines_dropped_total 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    /// docs/production.md has it.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_counters_of_a_worker_take_26_kib() {
        assert_eq!(size_of::<Worker>() / 1024, 26);
    }

    #[test]
    fn every_code_of_the_parser_has_its_own_series() {
        for e in [
            ParseError::BareLf,
            ParseError::HeadTooLarge,
            ParseError::TooManyHeaders,
            ParseError::UriTooLong,
            ParseError::BodyTooLarge,
            ParseError::VersionNotSupported,
            ParseError::MethodTooLong,
            ParseError::TrailersTooLarge,
        ] {
            assert!(REFUSALS.contains(&e.code()), "{e:?}: {}", e.code());
        }
    }

    #[test]
    fn odd_statuses_are_not_counted_and_do_not_panic() {
        let metrics = metrics(1);
        let worker = metrics.worker(0);
        for status in [0, 99, 100, 599, 600, u16::MAX] {
            worker.responded(status);
        }
    }

    #[test]
    fn a_worker_is_stuck_when_one_tick_takes_too_long_and_not_while_it_waits() {
        let metrics = metrics(2);
        let at = |s| metrics.epoch + Duration::from_secs(s);
        assert!(metrics.is_turning(at(1000)), "both wait");
        metrics.begin(1, at(1000));
        assert!(metrics.is_turning(at(1004)));
        assert!(metrics.is_turning(at(1005)), "the process may have been stopped");
        assert!(!metrics.is_turning(at(1006)));
        metrics.wait(1);
        assert!(metrics.is_turning(at(2000)));
    }

    #[test]
    fn a_tick_may_take_as_long_as_it_is_allowed_to() {
        let metrics = Metrics::new(1, Duration::from_secs(2), Instant::now());
        let at = |s| metrics.epoch + Duration::from_secs(s);
        metrics.begin(0, at(10));
        assert!(metrics.is_turning(at(16)));
        assert!(metrics.is_turning(at(17)));
        assert!(!metrics.is_turning(at(18)));
        // The next one is checked twice again.
        metrics.begin(0, at(18));
        assert!(metrics.is_turning(at(30)));
        assert!(!metrics.is_turning(at(31)));
    }

    #[test]
    fn clients_go_to_the_worker_with_the_fewest_and_ties_go_round() {
        let metrics = metrics(3);
        assert_eq!([0, 1, 2, 3].map(|turn| metrics.least_busy(turn)), [0, 1, 2, 0]);
        metrics.worker(0).connected(false);
        metrics.worker(1).connected(false);
        assert_eq!([0, 1, 2].map(|turn| metrics.least_busy(turn)), [2, 2, 2]);
        // A refused client does not count as load.
        metrics.worker(2).connected(true);
        assert_eq!(metrics.least_busy(0), 2);
        assert_eq!((metrics.connections(), metrics.refusals()), (2, 1));
    }
}
