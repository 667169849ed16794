//! Limits that depend on each other, and on what the system gives us.
//!
//! ```text
//! files    own + WORKERS × (3 + links to Redis) + clients being refused + MAX_CONNECTIONS  ≤ ulimit -n
//! memory   WORKERS × 2 × MAX_BODY_BYTES ≤ MAX_BUFFERED_BYTES ≤ a quarter of what the process may use
//! ```
//!
//! What was set stands. Where two that were set contradict each other, or one of them the system, the
//! start ends; where one is a default, the default gives way, and that is told once.

use super::env::Env;
use super::system::System;
use crate::front::Kind;
use crate::front::accept::REFUSALS_MAX;
use std::time::Duration;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub workers: usize,
    pub connections_max: usize,
    pub body_bytes_max: usize,
    pub buffered_bytes_max: usize,
}

/// Times to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ttls {
    pub item: Duration,
    pub session: Duration,
    pub max: Duration,
}

const WORKERS_MAX: usize = 256;

/// Threads of the plain front: each waits for Redis with its request.
const PLAIN_WORKERS: usize = 16;

/// Files of the process itself, beside those that were open before it read its settings: two for
/// signals, the log's own stdout, the listener, poll and waker of the acceptor, its reserve, and two that
/// are open for a moment (a name being resolved, a client being turned away).
const OWN_FILES: usize = 9;

/// Files of a worker beside its links to Redis: its poll, its waker, and a second handle on the poll.
const WORKER_FILES: usize = 3;

const BUFFERED_BYTES_MAX: usize = 256 * 1024 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// As a default, MAX_BODY_BYTES gives way down to this.
const BODY_BYTES_LEAST: usize = 1024;

impl Env {
    /// `links` is how many connections to Redis each worker has.
    pub fn limits(&mut self, kind: Kind, links: usize, system: &System) -> Limits {
        let workers = self.count("WORKERS", 1..=WORKERS_MAX);
        let connections = self.count("MAX_CONNECTIONS", 1..=1_000_000);
        let mut limits = Limits {
            workers: workers.unwrap_or(match kind {
                // Halves, because the kernel and Redis have work to do for each request, too.
                Kind::Poll => (system.processors / 2).clamp(1, WORKERS_MAX),
                Kind::TinyHttp => PLAIN_WORKERS,
            }),
            connections_max: connections.unwrap_or(10_000),
            body_bytes_max: BODY_BYTES_MAX,
            buffered_bytes_max: BUFFERED_BYTES_MAX,
        };
        self.fit_files(&mut limits, kind, links, system);
        self.fit_buffers(&mut limits, kind, system);
        limits
    }

    /// Clients get what the process leaves of the files that may be open.
    fn fit_files(&mut self, limits: &mut Limits, kind: Kind, links: usize, system: &System) {
        let Some(files_max) = system.files_max else {
            return;
        };
        // tiny_http takes in whoever comes, and MAX_CONNECTIONS is none of its limits.
        let refused = if kind == Kind::Poll { REFUSALS_MAX } else { 0 };
        let own = system.files_open + OWN_FILES + refused;
        let each = WORKER_FILES + links;
        let fitting = files_max.saturating_sub(own + 1) / each;
        if fitting < limits.workers {
            if self.is_set("WORKERS") || fitting == 0 {
                let least = own + each * limits.workers + 1;
                let expected = format!(
                    "with a limit of {files_max} open files (`ulimit -n`) at most {fitting}, for each needs \
                     {each} and the process {own}; so many want a limit of {least} or more"
                );
                return self.mistake("WORKERS", limits.workers.to_string(), &expected);
            }
            self.gives_way(
                "WORKERS",
                &mut limits.workers,
                fitting,
                &format!("the limit on open files is {files_max} (`ulimit -n`)"),
            );
        }
        let left = files_max - own - each * limits.workers;
        if kind == Kind::Poll && left < limits.connections_max {
            let others = files_max - left;
            self.gives_way("MAX_CONNECTIONS", &mut limits.connections_max, left, &format!(
                "the limit on open files is {files_max} (`ulimit -n`), and {others} of them are not for clients"
            ));
        }
    }

    /// A worker's share must hold a body on its way in and one on its way out, and no more memory is
    /// promised to clients than there is.
    fn fit_buffers(&mut self, limits: &mut Limits, kind: Kind, system: &System) {
        let body = self.bytes("MAX_BODY_BYTES");
        let buffered = self.count("MAX_BUFFERED_BYTES", 1..=usize::MAX);
        let quarter = system.memory_max.map(|bytes| bytes / 4);
        let default = quarter.unwrap_or(BUFFERED_BYTES_MAX).min(BUFFERED_BYTES_MAX);
        limits.buffered_bytes_max = buffered.unwrap_or(default);
        limits.body_bytes_max = body.unwrap_or(BODY_BYTES_MAX);
        if kind == Kind::TinyHttp {
            return;
        }
        let two = 2 * limits.body_bytes_max;
        let why = match buffered {
            Some(bytes) => format!("MAX_BUFFERED_BYTES is {bytes}"),
            None => {
                format!("MAX_BUFFERED_BYTES is {default}, a quarter of what this process may use")
            }
        };
        if !self.is_set("WORKERS") {
            let fitting = (limits.buffered_bytes_max / two).max(1);
            if fitting < limits.workers {
                self.gives_way("WORKERS", &mut limits.workers, fitting, &why);
            }
        }
        let share = limits.buffered_bytes_max / limits.workers;
        if two <= share {
            return;
        }
        match (body, buffered) {
            (Some(_), Some(_)) => self.wrong(
                "MAX_BODY_BYTES",
                &format!("half of a worker's share of MAX_BUFFERED_BYTES at most: {}", share / 2),
            ),
            (Some(_), None) => {
                let needed = two * limits.workers;
                if let Some(bytes) = system.memory_max.filter(|bytes| needed > bytes / 2) {
                    self.wrong("MAX_BODY_BYTES", &format!(
                        "two for each of {} workers are more than half of the {bytes} bytes that this \
                         process may use; at most {}",
                        limits.workers,
                        bytes / 4 / limits.workers
                    ));
                }
                let why = format!("MAX_BODY_BYTES is {}, for {} workers", two / 2, limits.workers);
                self.gives_way("MAX_BUFFERED_BYTES", &mut limits.buffered_bytes_max, needed, &why);
            }
            (None, _) if share / 2 < BODY_BYTES_LEAST => {
                let least = 2 * BODY_BYTES_LEAST * limits.workers;
                let (name, value) = match buffered {
                    Some(bytes) => ("MAX_BUFFERED_BYTES", bytes),
                    None => ("WORKERS", limits.workers),
                };
                let expected = format!("{why}; so many workers want {least} or more");
                self.mistake(name, value.to_string(), &expected);
            }
            (None, _) => {
                let workers = limits.workers;
                self.gives_way(
                    "MAX_BODY_BYTES",
                    &mut limits.body_bytes_max,
                    share / 2,
                    &format!("{why}, for {workers} workers"),
                );
            }
        }
    }

    /// A default that gives way, and why.
    pub fn gives_way(&mut self, name: &str, value: &mut usize, to: usize, why: &str) {
        self.notes.push(format!("{name} is {to}, not {value}: {why}"));
        *value = to;
    }

    pub fn ttls(&mut self) -> Ttls {
        let half_an_hour = Duration::from_secs(30 * 60);
        let max = self.duration("MAX_TTL");
        if max.is_some_and(|max| max < Duration::from_secs(1)) {
            self.wrong("MAX_TTL", "a second at least, for ?ttl= counts whole ones");
        }
        let [item, session] = ["ITEM_TTL", "SESSION_TTL"].map(|name| {
            let ttl = self.duration(name);
            if ttl.zip(max).is_some_and(|(ttl, max)| ttl > max) {
                let max = self.text("MAX_TTL").unwrap_or_default();
                self.wrong(name, &format!("at most MAX_TTL, which is {max}"));
            }
            ttl
        });
        let week = Duration::from_secs(7 * 86_400);
        let longest = item.max(session).unwrap_or(week);
        let longer = if item > session { "ITEM_TTL" } else { "SESSION_TTL" };
        let raised = max.is_none() && longest > week;
        let max = max.unwrap_or(longest.max(week));
        let lowered = |ttl: Option<Duration>| ttl.is_none() && max < half_an_hour;
        for (gives_way, name, default, to) in [
            (raised, "MAX_TTL", "7d", longer),
            (lowered(item), "ITEM_TTL", "30m", "MAX_TTL"),
            (lowered(session), "SESSION_TTL", "30m", "MAX_TTL"),
        ] {
            if gives_way {
                let value = self.text(to).unwrap_or_default();
                self.notes.push(format!("{name} is {value}, not {default}: {to} is {value}"));
            }
        }
        Ttls {
            item: item.unwrap_or(half_an_hour.min(max)),
            session: session.unwrap_or(half_an_hour.min(max)),
            max,
        }
    }
}
