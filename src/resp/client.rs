//! Requests to Redis: who to ask, until when, and what may be asked again.
//!
//! A [`Client`] belongs to one worker. It gives each request a place in a table, pushes its bytes
//! into the link when that is up, and answers it exactly once: with its reply, or with an honest
//! error when its deadline comes first.
//!
//! ```text
//! submit ─▶ table ─┬─ link up ───▶ connection ─▶ reply ─▶ done
//!                  ├─ link coming ▶ waiting ─────┘   │
//!                  └─ known away ──▶ done (at once)  └─ connection lost:
//!                                                       not sent, or only reads ▶ waiting
//!                                                       a write that was sent    ▶ done (Broken)
//! ```
//!
//! A request that gave up leaves the table but not the connection's order of replies: its slot
//! stays there, and the reply finds nobody under its key.

use super::codec::Reply;
use super::connection::Shape;
use super::link::{Away, Events, Link, Lost, Options};
use super::url::Endpoint;
use crate::slab::Slab;
use mio::event::Event;
use mio::{Registry, Waker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Commands that may be under way or waiting in one client; one more is refused.
pub const COMMANDS_MAX: usize = 10_000;

/// Bytes of commands that may be under way or waiting in one client; one more is refused.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often one request is sent at the most, its first time included.
const TRIES_MAX: u32 = 3;

/// One command, encoded, and how it may be treated.
#[derive(Debug)]
pub struct Request {
    /// The requester's name for it; comes back with the outcome.
    pub tag: u64,
    /// The command as it goes on the wire.
    pub bytes: Vec<u8>,
    /// What its reply may be.
    pub shape: Shape,
    /// It changes nothing, so it may be sent again even when its first outcome is unknown.
    pub read_only: bool,
    /// The outcome is due then.
    pub deadline: Instant,
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline came first. It may have run.
    Timeout,
    /// There is no connection. It did not run.
    Unreachable(String),
    /// The connection was lost after it had been sent. It may have run.
    Broken(String),
    /// [`COMMANDS_MAX`] or [`BYTES_MAX`] is reached. It did not run.
    Overloaded,
    /// The server does not let us in. It did not run.
    Refused(String),
}

/// The end of a request: its tag, its shape, and the reply or the reason there is none.
pub type Outcome = (u64, Shape, Result<Reply, Failure>);

/// See the module's text.
pub struct Client {
    link: Link,
    table: Slab<Entry>,
    bytes: usize,
    /// Keys of requests that no connection has, oldest first.
    waiting: VecDeque<u64>,
    /// No deadline in the table is before this. It may lie: entries leave without raising it.
    earliest: Option<Instant>,
    events: Events,
    done: Vec<Outcome>,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    tries: u32,
    sent: bool,
}

impl Client {
    /// A client for one server. Connects at the first `progress`.
    pub fn new(
        endpoint: Endpoint,
        options: Options,
        registry: Registry,
        waker: Arc<Waker>,
        first_token: usize,
        now: Instant,
    ) -> Client {
        Client {
            link: Link::new(endpoint, options, registry, waker, first_token, now),
            table: Slab::default(),
            bytes: 0,
            waiting: VecDeque::new(),
            earliest: None,
            events: Events::default(),
            done: Vec::new(),
        }
    }

    /// Takes a request; its outcome comes from [`progress`](Client::progress).
    pub fn submit(&mut self, now: Instant, request: Request) {
        if self.table.len() >= COMMANDS_MAX || self.bytes + request.bytes.len() > BYTES_MAX {
            return self
                .done
                .push((request.tag, request.shape, Err(Failure::Overloaded)));
        }
        if let Some(away) = self.link.known_away(now) {
            return self
                .done
                .push((request.tag, request.shape, Err(failure(away))));
        }
        self.earliest = Some(
            self.earliest
                .map_or(request.deadline, |t| t.min(request.deadline)),
        );
        self.bytes += request.bytes.len();
        let key = self.table.insert(Entry {
            request,
            tries: 0,
            sent: false,
        });
        self.waiting.push_back(key);
        // Written by the next `progress`, in one write with all its neighbours.
        self.push_waiting(now);
    }

    /// The loop saw readiness on one of our tokens.
    pub fn ready(&mut self, event: &Event) {
        self.link.ready(event);
    }

    /// Moves what can be moved and collects the outcomes.
    pub fn progress(&mut self, now: Instant, done: &mut Vec<Outcome>) {
        self.turn(now);
        if !self.waiting.is_empty() {
            // The link may have come up just now, or been lost for good.
            self.push_waiting(now);
            self.turn_away(now);
            self.turn(now);
        }
        self.time_out(now);
        done.append(&mut self.done);
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.link.next_deadline(), self.earliest]
            .into_iter()
            .flatten()
            .min()
    }

    /// One step of the link, and what came of it.
    fn turn(&mut self, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        self.link.progress(now, &mut events);
        for (key, shape, reply) in events.replies.drain(..) {
            // Nobody there: it gave up, and this is its reply, read and dropped in its turn.
            if let Some(entry) = self.remove(key) {
                self.done.push((entry.request.tag, shape, Ok(reply)));
            }
        }
        for lost in events.lost.drain(..) {
            self.lost(lost);
        }
        // Kept for its room: no allocation in the next tick.
        self.events = events;
    }

    fn push_waiting(&mut self, now: Instant) {
        let Some(connection) = self.link.up() else {
            return;
        };
        while let Some(key) = self.waiting.pop_front() {
            if let Some(entry) = self.table.get_mut(key) {
                entry.tries += 1;
                entry.sent = true;
                connection.push_encoded(now, key, entry.request.shape, &entry.request.bytes);
            }
        }
    }

    /// The connection was lost with this request in its order of replies.
    fn lost(
        &mut self,
        Lost {
            id,
            sent,
            again,
            why,
        }: Lost,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if again && (!sent || entry.request.read_only) && entry.tries < TRIES_MAX {
            entry.sent = false;
            return self.waiting.push_back(id);
        }
        let Some(entry) = self.remove(id) else {
            return;
        };
        let failure = match why {
            Away::Unreachable(why) if sent => Failure::Broken(why),
            why => failure(&why),
        };
        self.done
            .push((entry.request.tag, entry.request.shape, Err(failure)));
    }

    /// Fails what waits for a server that is known to be away.
    fn turn_away(&mut self, now: Instant) {
        let Some(failure) = self.link.known_away(now).map(failure) else {
            return;
        };
        while let Some(key) = self.waiting.pop_front() {
            if let Some(entry) = self.remove(key) {
                self.done
                    .push((entry.request.tag, entry.request.shape, Err(failure.clone())));
            }
        }
    }

    /// Fails what is due. A request that was never sent says why: nothing could have run.
    fn time_out(&mut self, now: Instant) {
        if self.earliest.is_none_or(|t| t > now) {
            return;
        }
        let due: Vec<u64> = self
            .table
            .iter()
            .filter(|(_, e)| e.request.deadline <= now)
            .map(|(key, _)| key)
            .collect();
        for key in due {
            let Some(entry) = self.remove(key) else {
                continue;
            };
            let failure = match self.link.away() {
                Some(away) if !entry.sent => failure(away),
                _ => Failure::Timeout,
            };
            self.done
                .push((entry.request.tag, entry.request.shape, Err(failure)));
        }
        self.waiting.retain(|key| self.table.contains(*key));
        self.earliest = self.table.iter().map(|(_, e)| e.request.deadline).min();
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.table.remove(key)?;
        self.bytes -= entry.request.bytes.len();
        Some(entry)
    }
}

fn failure(away: &Away) -> Failure {
    match away {
        Away::Unreachable(why) => Failure::Unreachable(why.clone()),
        Away::Silent(_) => Failure::Timeout,
        Away::Refused(why) => Failure::Refused(why.clone()),
    }
}
