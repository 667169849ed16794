//! Contains a panic in a store session: the requests that wait for it get a 502, and the worker goes on.
//!
//! A session that panicked may have stopped in the middle of a command, and half a command in a connection would shift
//! every reply after it, one user's data to another. So a session that has panicked is dropped at once and never called
//! again; its sockets are closed, and a new session takes its place.

use crate::net::{Ready, World};
use crate::store::{Command, OWNER, Replies, Session, Store, StoreError, Tag};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A session of the store until it panics. From then on it does nothing, and must be replaced.
pub struct Guarded {
    session: Option<Box<dyn Session>>,
    is_immediate: bool,
    has_submitted: bool,
}

impl Guarded {
    /// Opens a session of `store`. A panic here is not caught: without a session a worker is of no use, and its end
    /// ends the process.
    pub fn open(store: &dyn Store, world: &mut dyn World, now: Instant) -> Guarded {
        let session = store.session(world, now);
        let is_immediate = session.is_immediate();
        Guarded { session: Some(session), is_immediate, has_submitted: false }
    }

    /// Whether the session has panicked; then it answers no more commands.
    pub fn is_broken(&self) -> bool {
        self.session.is_none()
    }

    /// Opens a new session in place of a broken one.
    pub fn replace(&mut self, store: &dyn Store, world: &mut dyn World, now: Instant) {
        world.close_all(OWNER);
        *self = Guarded::open(store, world, now);
    }

    /// As [`Session::submit`]; false if this very command made it panic.
    pub fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) -> bool {
        let was_broken = self.is_broken();
        self.has_submitted = true;
        self.call(|session| session.submit(now, tag, command));
        was_broken || !self.is_broken()
    }

    /// Whether a command was submitted since the last [`progress`](Guarded::progress), which is to be sent.
    pub fn has_submitted(&self) -> bool {
        self.has_submitted
    }

    /// As [`Session::ready`].
    pub fn ready(&mut self, ready: Ready) {
        self.call(|session| session.ready(ready));
    }

    /// As [`Session::look`].
    pub fn look(&mut self) {
        self.call(|session| session.look());
    }

    /// As [`Session::progress`].
    pub fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies {
        self.has_submitted = false;
        self.call(|session| session.progress(world, now)).unwrap_or_default()
    }

    /// As [`Session::give_back`].
    pub fn give_back(&mut self, replies: Replies) {
        self.call(|session| session.give_back(replies));
    }

    /// As [`Session::abandon`].
    pub fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError {
        self.call(|session| session.abandon(now, tag)).unwrap_or_else(broken)
    }

    /// As [`Session::next_deadline`].
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.call(|session| session.next_deadline()).flatten()
    }

    /// As [`Session::is_immediate`].
    pub fn is_immediate(&self) -> bool {
        self.is_immediate
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

/// Why requests that wait for a broken session have no answer.
pub fn broken() -> StoreError {
    StoreError::Broken("its session panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::StdWorld;
    use crate::store::Answer;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Its sessions answer `Pong`, until one receives another command: that one panics.
    #[derive(Default)]
    struct Touchy {
        opened: AtomicUsize,
    }

    struct TouchySession(Replies);

    impl Store for Touchy {
        fn kind(&self) -> &'static str {
            "touchy"
        }

        fn place(&self) -> String {
            String::new()
        }

        fn session(&self, _: &mut dyn World, _: Instant) -> Box<dyn Session> {
            self.opened.fetch_add(1, Ordering::Relaxed);
            Box::new(TouchySession(Replies::default()))
        }
    }

    impl Session for TouchySession {
        fn submit(&mut self, _: Instant, tag: Tag, command: Command<'_>) {
            assert_eq!(command, Command::Ping, "on purpose");
            self.0.push(tag, Ok(Answer::Pong));
        }

        fn progress(&mut self, _: &mut dyn World, _: Instant) -> Replies {
            std::mem::take(&mut self.0)
        }

        fn give_back(&mut self, _: Replies) {}

        fn abandon(&mut self, _: Instant, _: Tag) -> StoreError {
            StoreError::Timeout
        }

        fn next_deadline(&self) -> Option<Instant> {
            Some(Instant::now())
        }

        fn is_immediate(&self) -> bool {
            true
        }
    }

    fn unexpected() -> Command<'static> {
        Command::GetMany { keys: Vec::new(), bytes_max: 0 }
    }

    #[test]
    fn a_session_that_has_panicked_is_never_called_again() {
        let (store, mut world, now) = (Touchy::default(), StdWorld::default(), Instant::now());
        let mut session = Guarded::open(&store, &mut world, now);
        assert!(session.submit(now, 1, Command::Ping));
        assert!(session.is_immediate() && session.next_deadline().is_some());
        assert_eq!(session.abandon(now, 9), StoreError::Timeout);

        // Only the command that was submitted is to blame; what was answered before is lost with the session.
        assert!(!session.submit(now, 2, unexpected()));
        assert!(session.is_broken());
        assert!(session.submit(now, 3, Command::Ping), "those who come now wait for another");
        assert!(session.progress(&mut world, now).is_empty());
        assert_eq!(session.abandon(now, 1), broken());
        assert_eq!(session.next_deadline(), None);
    }

    #[test]
    fn another_takes_the_place_of_a_broken_one() {
        let (store, mut world, now) = (Touchy::default(), StdWorld::default(), Instant::now());
        let mut session = Guarded::open(&store, &mut world, now);
        session.submit(now, 1, unexpected());
        session.replace(&store, &mut world, now);
        assert_eq!(store.opened.load(Ordering::Relaxed), 2);
        assert!(session.submit(now, 2, Command::Ping));
        let replies = session.progress(&mut world, now);
        assert_eq!(replies.iter().collect::<Vec<_>>(), [(2, Ok(Answer::Pong))]);
    }
}
