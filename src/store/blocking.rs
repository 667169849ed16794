//! Turns a [`Session`] into a blocking call, for the front that has a thread for every request.
//!
//! The adapter is an event loop for a single call: its own world, its own session.

use super::{Command, Replies, Session, Store, StoreError, Tag};
use crate::net::{self, Ready, World};
use std::io;
use std::time::{Duration, Instant};

/// How long a call waits for a connection that is being made, before it is told that there is none.
const CONNECTING: Duration = Duration::from_millis(500);

/// A session whose calls wait for their answers. Belongs to one thread.
pub struct Blocking {
    world: Box<dyn World>,
    session: Box<dyn Session>,
    ready: Vec<Ready>,
    /// A call began and did not return: it panicked, and what it was doing is half done.
    broken: bool,
    calls: u64,
}

impl Blocking {
    /// Opens a session of `store` for the calling thread.
    ///
    /// # Errors
    /// When the operating system has no file descriptor left.
    pub fn new(store: &dyn Store) -> io::Result<Blocking> {
        let mut world = net::for_calls()?;
        let now = world.now();
        let session = store.session(&mut *world, now);
        Ok(Blocking { world, session, ready: Vec::new(), broken: false, calls: 0 })
    }

    /// Opens a new session in place of one that has panicked; to be called before the next [`call`](Blocking::call). On
    /// a sound session it does nothing.
    ///
    /// # Errors
    /// As [`new`](Blocking::new).
    pub fn renew(&mut self, store: &dyn Store) -> io::Result<()> {
        if self.broken {
            *self = Blocking::new(store)?;
        }
        Ok(())
    }

    /// Submits a command, and waits for the answer until `deadline`. The result holds that one answer; give it
    /// [back](Blocking::give_back) afterwards.
    pub fn call(&mut self, command: Command<'_>, deadline: Instant) -> Replies {
        self.broken = true;
        // Like the key of a slab that has one place.
        self.calls += 1;
        let tag = self.calls << 32;
        let replies = self
            .wait_for(tag, command, deadline)
            .unwrap_or_else(|e| Replies::of(Err(StoreError::Unreachable(e.to_string()))));
        self.broken = false;
        replies
    }

    /// Takes back the result of a call.
    pub fn give_back(&mut self, replies: Replies) {
        self.session.give_back(replies);
    }

    fn wait_for(
        &mut self,
        tag: Tag,
        command: Command<'_>,
        deadline: Instant,
    ) -> io::Result<Replies> {
        // Events since the last call, a closed connection above all, are handled before anything new is written.
        let now = self.world.now();
        let mut now = self.wait(now)?;
        // Between calls nobody drives an attempt to connect: without this wait it would be found to have taken too long by
        // the next call, each time, for as long as there are few of them.
        let patience = deadline.min(now + CONNECTING);
        loop {
            let replies = self.session.progress(&mut *self.world, now);
            self.session.give_back(replies);
            if !self.session.is_connecting() || now >= patience {
                break;
            }
            let next = self.session.next_deadline();
            now = self.wait(next.map_or(patience, |next| next.min(patience)))?;
        }
        self.session.submit(now, tag, command);
        loop {
            let is_late = now >= deadline;
            if is_late {
                // Replies that have come by now count.
                self.session.look();
            }
            let replies = self.session.progress(&mut *self.world, now);
            if replies.iter().any(|(answered, _)| answered == tag) {
                return Ok(replies.only(tag));
            }
            self.session.give_back(replies);
            if is_late {
                return Ok(Replies::of(Err(self.session.abandon(now, tag))));
            }
            let next = self.session.next_deadline();
            now = self.wait(next.map_or(deadline, |next| next.min(deadline)))?;
        }
    }

    /// Waits once, until `until` at the latest.
    fn wait(&mut self, until: Instant) -> io::Result<Instant> {
        let now = self.world.wait(Some(until), &mut self.ready)?;
        for ready in self.ready.drain(..) {
            self.session.ready(ready);
        }
        Ok(now)
    }
}
