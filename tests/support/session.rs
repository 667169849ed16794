//! A session of the Redis store, driven by the test itself: for deadlines, bounds and crowds that HTTP would only blur.

use kioskd::resp::client::Target;
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::link::Options;
use kioskd::store::blocking::Blocking;
use kioskd::store::redis::Redis;
use kioskd::store::{Answer, Command, Done, Session, Store, StoreError, Tag, Ttl, When, Wiring};
use mio::{Events, Poll, Token, Waker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The store at `address`, `host:port`.
pub fn redis_store(address: &str, options: Options) -> Redis {
    let endpoint = Endpoint::parse(address, 6379).expect("a host and a port");
    Redis::new(Target::Single(endpoint), options)
}

/// One question at a time.
pub struct Line {
    session: Blocking,
    /// For each.
    pub timeout: Duration,
}

impl Line {
    pub fn open(store: &dyn Store, timeout: Duration) -> Line {
        let session = Blocking::new(store).expect("the system has a poll left");
        Line { session, timeout }
    }

    pub fn ask(&mut self, command: Command) -> Result<Answer, StoreError> {
        self.session.call(command, Instant::now() + self.timeout)
    }
}

/// Many questions at once: the loop of a worker, turned by hand.
pub struct Loop {
    poll: Poll,
    events: Events,
    session: Box<dyn Session>,
    _waker: Arc<Waker>,
}

impl Loop {
    pub fn open(store: &dyn Store) -> Loop {
        let poll = Poll::new().expect("the system has a poll left");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("and a waker"));
        let session = store.session(Wiring {
            registry: poll.registry(),
            first_token: 1,
            waker: Arc::clone(&waker),
        });
        Loop {
            poll,
            events: Events::with_capacity(64),
            session: session.expect("a session needs no server yet"),
            _waker: waker,
        }
    }

    pub fn submit(&mut self, tag: Tag, command: Command, timeout: Duration) {
        let now = Instant::now();
        self.session.submit(now, tag, command, now + timeout);
    }

    /// One turn, which waits for `longest` at the most. What it finished is appended to `done`.
    pub fn turn(&mut self, longest: Duration, done: &mut Done) {
        self.session.progress(Instant::now(), done);
        if !done.is_empty() {
            return;
        }
        let until = self.session.next_deadline();
        let wait =
            until.map_or(longest, |t| t.saturating_duration_since(Instant::now())).min(longest);
        self.poll.poll(&mut self.events, Some(wait)).expect("a poll");
        for event in self.events.iter().filter(|e| e.token() != Token(0)) {
            self.session.ready(event);
        }
        self.session.progress(Instant::now(), done);
    }

    /// Turns for this long.
    pub fn turn_for(&mut self, time: Duration) -> Done {
        let (mut done, end) = (Done::new(), Instant::now() + time);
        while Instant::now() < end {
            let mut fresh = Done::new();
            self.turn(end.saturating_duration_since(Instant::now()), &mut fresh);
            done.append(&mut fresh);
        }
        done
    }
}

pub fn get(key: &str) -> Command {
    Command::Get { key: key.as_bytes().to_vec(), renew: None, once: None }
}

pub fn set(key: &str, value: &[u8]) -> Command {
    Command::Set {
        key: key.as_bytes().to_vec(),
        value: value.to_vec(),
        ttl: Ttl::Exactly(Duration::from_secs(600)),
        when: When::Always,
        once: None,
    }
}

/// Counts: the write whose every execution can be seen.
pub fn take(key: &str) -> Command {
    Command::Take { key: key.as_bytes().to_vec(), window: Duration::from_secs(600) }
}
