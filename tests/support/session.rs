//! A session of a store, driven by the test itself: for deadlines, bounds and crowds that HTTP would only blur.
//!
//! [`Line`] asks one question at a time, on the [`Blocking`] that the plain front has. [`Loop`] has many under way, as
//! a worker of the poll front has them: a world, a session, and for each question a deadline at which it is abandoned.
//! Answers are given out with bytes of their own, so that a test may keep them.

use kioskd::net::{self, Ready, World};
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::options::Options;
use kioskd::resp::options::Target;
use kioskd::store::blocking::Blocking;
use kioskd::store::redis::Redis;
use kioskd::store::{self, Key, Reply, Session, Store, StoreError, Tag, Ttl};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Those of a test own what they ask with.
pub type Command = store::Command<'static>;
pub type When = store::When<'static>;
pub type Once = store::Once<'static>;

/// What has become of commands, in the order in which they were finished.
pub type Done = Vec<(Tag, Result<Answer, StoreError>)>;

/// [`store::Answer`], with bytes of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Value(Option<Vec<u8>>),
    Stored,
    Done { there: bool },
    Recorded(Vec<u8>),
    Deleted(bool),
    Unmet,
    Taken { count: u64, resets_in: Duration },
    Pong,
}

fn owned(reply: Reply) -> Result<Answer, StoreError> {
    Ok(match reply? {
        store::Answer::Value(value) => Answer::Value(value.map(<[u8]>::to_vec)),
        store::Answer::Stored => Answer::Stored,
        store::Answer::Done { there } => Answer::Done { there },
        store::Answer::Recorded(record) => Answer::Recorded(record.to_vec()),
        store::Answer::Deleted(there) => Answer::Deleted(there),
        store::Answer::Unmet => Answer::Unmet,
        store::Answer::Taken { count, resets_in } => Answer::Taken { count, resets_in },
        store::Answer::Pong => Answer::Pong,
        other => panic!("nobody here has asked for {other:?}"),
    })
}

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
        let session = Blocking::new(store).expect("the system has a descriptor left");
        Line { session, timeout }
    }

    pub fn ask(&mut self, command: Command) -> Result<Answer, StoreError> {
        self.ask_until(command, Instant::now() + self.timeout)
    }

    pub fn ask_until(&mut self, command: Command, deadline: Instant) -> Result<Answer, StoreError> {
        let replies = self.session.call(command, deadline);
        assert_eq!(replies.len(), 1, "one question has one answer");
        let answer = replies.iter().next().map(|(_, reply)| owned(reply));
        self.session.give_back(replies);
        answer.expect("there is one")
    }
}

/// Many questions at once: the loop of a worker, turned by hand.
pub struct Loop {
    world: Box<dyn World>,
    session: Box<dyn Session>,
    ready: Vec<Ready>,
    /// Those that have no answer yet, and the same in the order of their deadlines.
    open: HashMap<Tag, Instant>,
    deadlines: BTreeSet<(Instant, Tag)>,
}

impl Loop {
    pub fn open(store: &dyn Store) -> Loop {
        let mut world = net::for_calls().expect("the system has a descriptor left");
        let now = world.now();
        let session = store.session(&mut *world, now);
        Loop { world, session, ready: Vec::new(), open: HashMap::new(), deadlines: BTreeSet::new() }
    }

    /// What became ready meanwhile is seen first, as in a worker, which submits only after it has waited.
    pub fn submit(&mut self, tag: Tag, command: Command, timeout: Duration) {
        let now = self.world.now();
        let now = self.wait(now);
        let deadline = now + timeout;
        assert!(self.open.insert(tag, deadline).is_none(), "{tag} is under way");
        self.deadlines.insert((deadline, tag));
        self.session.submit(now, tag, command);
    }

    /// One turn, which waits for `longest` at the most. What it finished is appended to `done`.
    #[track_caller]
    pub fn turn(&mut self, longest: Duration, done: &mut Done) {
        let now = self.world.now();
        self.progress(now, done);
        self.time_out(now, done);
        if !done.is_empty() {
            return;
        }
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let until = [self.session.next_deadline(), deadline].into_iter().flatten().min();
        let until = until.map_or(now + longest, |until| until.min(now + longest));
        let now = self.wait(until);
        self.progress(now, done);
        self.time_out(now, done);
    }

    fn wait(&mut self, until: Instant) -> Instant {
        let now = self.world.wait(Some(until), &mut self.ready).expect("a world that can wait");
        for ready in self.ready.drain(..) {
            self.session.ready(ready);
        }
        now
    }

    /// Takes what is there. Each command is answered once, and none that was abandoned.
    #[track_caller]
    fn progress(&mut self, now: Instant, done: &mut Done) {
        loop {
            let replies = self.session.progress(&mut *self.world, now);
            for (tag, reply) in replies.iter() {
                let deadline = self.open.remove(&tag);
                let deadline = deadline.unwrap_or_else(|| panic!("{tag} is not under way"));
                self.deadlines.remove(&(deadline, tag));
                done.push((tag, owned(reply)));
            }
            let is_empty = replies.is_empty();
            self.session.give_back(replies);
            if is_empty {
                return;
            }
        }
    }

    /// Abandons those whose time is over. Replies that have come by now count.
    #[track_caller]
    fn time_out(&mut self, now: Instant, done: &mut Done) {
        if self.deadlines.first().is_none_or(|(deadline, _)| *deadline > now) {
            return;
        }
        self.session.look();
        self.progress(now, done);
        while let Some(&(deadline, tag)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.open.remove(&tag);
            done.push((tag, Err(self.session.abandon(now, tag))));
        }
    }

    /// Turns for this long.
    #[track_caller]
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

/// A key as the rules make it: a prefix that they know, and the rest.
pub fn key(key: &[u8]) -> Key<'static> {
    let known = ["item:", "sess:", "rate:"].into_iter();
    let prefix = known.into_iter().find(|known| key.starts_with(known.as_bytes())).unwrap_or("");
    Key { prefix, id: key[prefix.len()..].to_vec().into() }
}

pub fn get(name: &str) -> Command {
    Command::Get { key: key(name.as_bytes()), renew: None, once: None }
}

pub fn set(name: &str, value: &[u8]) -> Command {
    Command::Set {
        key: key(name.as_bytes()),
        value: value.to_vec().into(),
        ttl: Ttl::Exactly(Duration::from_secs(600)),
        when: When::Always,
        once: None,
    }
}

/// Counts: the write whose every execution can be seen.
pub fn take(name: &str) -> Command {
    Command::Take { key: key(name.as_bytes()), window: Duration::from_secs(600) }
}
