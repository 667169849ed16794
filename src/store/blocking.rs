//! Turns a [`Session`] into a blocking call, for the front that has a thread for every request.
//!
//! The adaptor is a loop with one inhabitant: its own poll, its own waker, its own session.

use super::{Answer, Command, Done, Session, Store, StoreError, Tag, Wiring};
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::sync::Arc;
use std::time::Instant;

const WAKE: Token = Token(0);

/// A session that waits for its answer. Belongs to one thread.
pub struct Blocking {
    poll: Poll,
    events: Events,
    session: Box<dyn Session>,
    /// A call began and did not end: it panicked, and what it was doing is half done.
    broken: bool,
    done: Done,
    next: Tag,
    /// The session has a share of it.
    waker: Arc<Waker>,
}

impl Blocking {
    /// Opens a session of `store` for the calling thread.
    ///
    /// # Errors
    /// When the operating system has no file descriptor left for a poll or a waker.
    pub fn new(store: &dyn Store) -> io::Result<Blocking> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let session = open(store, &poll, &waker)?;
        Ok(Blocking {
            poll,
            events: Events::with_capacity(16),
            session,
            broken: false,
            done: Vec::new(),
            next: 0,
            waker,
        })
    }

    /// Opens another session in the place of one that has panicked; to be called before the next
    /// [`call`](Blocking::call). Of a sound one it does nothing.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when the operating system refuses a resource.
    pub fn renew(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if self.broken {
            let session = open(store, &self.poll, &self.waker);
            self.session = session.map_err(|e| StoreError::Unreachable(e.to_string()))?;
            self.broken = false;
            self.done.clear();
        }
        Ok(())
    }

    /// Asks, and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// As the session says; a poll that fails counts as [`StoreError::Unreachable`].
    pub fn call(&mut self, command: Command, deadline: Instant) -> Result<Answer, StoreError> {
        self.broken = true;
        let answer = self.wait_for(command, deadline);
        self.broken = false;
        answer
    }

    fn wait_for(&mut self, command: Command, deadline: Instant) -> Result<Answer, StoreError> {
        let tag = self.next;
        self.next += 1;
        // What became ready since the last call, a closed connection above all, is seen before
        // anything new is written.
        self.turn(Some(Instant::now()))?;
        self.session.submit(Instant::now(), tag, command, deadline);
        loop {
            self.session.progress(Instant::now(), &mut self.done);
            if let Some((_, answer)) = self.done.drain(..).find(|(t, _)| *t == tag) {
                return answer;
            }
            let until = self.session.next_deadline();
            self.turn(until)?;
        }
    }

    /// One poll, until `until` at the latest.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), StoreError> {
        let wait = until.map(|t| t.saturating_duration_since(Instant::now()));
        match self.poll.poll(&mut self.events, wait) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                return Err(StoreError::Unreachable(e.to_string()));
            }
            _ => {}
        }
        for event in self.events.iter().filter(|e| e.token() != WAKE) {
            self.session.ready(event);
        }
        Ok(())
    }
}

fn open(store: &dyn Store, poll: &Poll, waker: &Arc<Waker>) -> io::Result<Box<dyn Session>> {
    store.session(Wiring {
        registry: poll.registry(),
        first_token: WAKE.0 + 1,
        waker: Arc::clone(waker),
    })
}
