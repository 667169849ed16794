//! Deadlines: those of clients, those of requests that wait for the store, and the end of the service.

use super::super::connection::{Connection, Progress};
use super::super::timers::Linked;
use super::request::tag;
use super::{TOO_MANY, TOO_SLOW, Worker};
use crate::front::access_log::End;
use crate::net::World;
use std::time::{Duration, Instant};

/// For this long after accepting has ended, a client that has had no response yet may begin a request. A proxy that has
/// just connected could not know of the end, and would have to answer its own client with 502.
const GRACE: Duration = Duration::from_millis(250);

/// A store session that panics is replaced after this at the latest, and one that panics every time costs no more than
/// ten replacements a second.
const BROKEN_FOR: Duration = Duration::from_millis(100);

impl Worker {
    /// The time until which there is nothing to do unless something becomes ready.
    pub fn until(&mut self, now: Instant) -> Option<Instant> {
        if !self.again.is_empty() || self.more_clients {
            return Some(now);
        }
        let store = match self.session.next_deadline() {
            _ if self.session.is_broken() => Some(now + BROKEN_FOR),
            deadline => deadline,
        };
        let timers = self.timers.next(&mut self.clients);
        let grace = self.stopped_at.map(|at| at + GRACE).filter(|at| *at > now);
        [store, timers, self.trim_at, grace].into_iter().flatten().min()
    }

    /// Handles the clients whose deadlines have passed.
    ///
    /// Bytes that have arrived by now count, so each of these clients has a turn first: their events may not have been
    /// reported yet. A process that was stopped for a while resumes in a wait that was interrupted, with no events, and
    /// finds deadlines long past; and one wait reports only so many clients.
    pub(super) fn check_deadlines(&mut self, world: &mut dyn World, now: Instant) {
        while let Some(key) = self.timers.next_look(&mut self.clients) {
            self.timers.wait_on(&mut self.clients, key);
            let Some(client) = self.clients.get_mut(key) else { continue };
            // A client with a turn queued has sent more than was read yet, and is handled after that.
            if !self.timers.is_due(client.link()) || client.queued {
                continue;
            }
            if client.is_answering() {
                self.late.push(key);
                continue;
            }
            client.look();
            self.turn(world, key, now);
            let Some(client) = self.clients.get_mut(key) else { continue };
            if !client.queued && !client.is_answering() && self.timers.is_due(client.link()) {
                self.expire(world, key, now);
            }
        }
    }

    /// Handles the deadline of this client.
    fn expire(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some(deadline) = client.pace_deadline(&self.options)
            && deadline > now
        {
            return self.timers.set(&mut self.clients, key, deadline - now);
        }
        match client.expired() {
            Progress::TimedOut => self.refuse(world, key, TOO_SLOW, false, now),
            Progress::Refused => self.refuse(world, key, TOO_MANY, false, now),
            _ => {
                // A response that was in doubt, and was not refused, has been received.
                let end = match client.is_writing() {
                    true => End::Cut("not taken in time"),
                    false => End::Answered,
                };
                self.remove(world, key, end, now);
            }
        }
    }

    /// Answers the requests whose store deadline has passed. Replies that have come by now count.
    pub(super) fn time_out(&mut self, world: &mut dyn World, now: Instant) {
        if self.late.is_empty() {
            return;
        }
        self.session.look();
        self.follow_store(world, now);
        for key in std::mem::take(&mut self.late) {
            // The client may have been answered, and have another request by now.
            let Some(client) = self.clients.get_mut(key).filter(|c| c.is_answering()) else {
                continue;
            };
            if !self.timers.is_due(client.link()) {
                continue;
            }
            let Some(exchange) = client.exchange() else { continue };
            let error = self.session.abandon(now, tag(key, exchange.number));
            self.step(world, key, now, Some(Err(error)), true);
            self.note(world, key, now);
        }
    }

    /// The service has stopped. A connection without a complete head is closed, or a client that has sent one byte
    /// would hold up a restart; a new one, after [`GRACE`]. Requests whose head is complete are finished.
    pub(super) fn send_home(&mut self, world: &mut dyn World, now: Instant) {
        // A client with a turn queued has sent more than was read yet.
        let grace = now < *self.stopped_at.get_or_insert(now) + GRACE;
        let waits = |client: &Connection| {
            !client.queued && client.awaits_head() && !(grace && client.is_new())
        };
        let clients = self.clients.iter();
        let waiting: Vec<u64> =
            clients.filter(|(_, client)| waits(client)).map(|(key, _)| key).collect();
        for key in waiting {
            // A request may have arrived for which there was no event yet.
            if let Some(client) = self.clients.get_mut(key) {
                client.look();
                self.turn(world, key, now);
            }
            if self.clients.get(key).is_some_and(waits) {
                self.remove(world, key, End::Gone, now);
            }
        }
    }
}
