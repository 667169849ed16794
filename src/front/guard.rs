//! What a panic may cost: a rule's its own request, a store session's those who wait for it; nobody a worker.
//!
//! ```text
//! rule      owns what it works on: nothing is half-changed     500 to its request
//! session   may have stopped in the middle of a command        dropped at once, connections and all;
//!                                                              500 to the request that was being asked,
//!                                                              502 to those that wait, a new session
//! ```
//!
//! Half a command in a connection would shift every reply after it, one user's data to another: so a session
//! that has panicked is never called again.

use crate::service::Service;
use crate::service::problem::Problem;
use crate::store::{Command, Done, Session, Tag};
use mio::event::Event;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Runs a rule; 500 if it panics. The panic itself is logged where it happens.
pub fn guarded<T>(service: &Service, run: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        service.shard().panicked();
        Problem::INTERNAL
    })
}

/// A session of the store until it panics. From then on it does nothing, and is to be replaced.
pub struct Guarded {
    session: Option<Box<dyn Session>>,
}

impl Guarded {
    /// Puts a session behind a guard.
    pub fn new(session: Box<dyn Session>) -> Guarded {
        Guarded { session: Some(session) }
    }

    /// It has panicked, and answers nobody any more.
    pub fn is_broken(&self) -> bool {
        self.session.is_none()
    }

    /// As [`Session::submit`]; false if it panicked over this very command.
    pub fn submit(&mut self, now: Instant, tag: Tag, command: Command, deadline: Instant) -> bool {
        let was_broken = self.is_broken();
        self.call(|session| session.submit(now, tag, command, deadline));
        was_broken || !self.is_broken()
    }

    /// As [`Session::ready`].
    pub fn ready(&mut self, event: &Event) {
        self.call(|session| session.ready(event));
    }

    /// As [`Session::answered`].
    pub fn answered(&mut self, done: &mut Done) {
        self.call(|session| session.answered(done));
    }

    /// As [`Session::progress`].
    pub fn progress(&mut self, now: Instant, done: &mut Done) {
        self.call(|session| session.progress(now, done));
    }

    /// As [`Session::next_deadline`].
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.call(|session| session.next_deadline()).flatten()
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut dyn Session) -> T) -> Option<T> {
        let session = self.session.as_deref_mut()?;
        let result = catch_unwind(AssertUnwindSafe(|| call(session))).ok();
        if result.is_none() {
            self.session = None;
        }
        result
    }
}
