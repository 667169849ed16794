//! Items in Redis: our few commands as Redis commands, its replies as our answers.
//!
//! ```text
//! Get                     GET key                       or GETEX key EX n (a read that renews)
//! Set Always              SET key value EX n            exactly what the Go service writes
//! Set Absent / Present    SET key value EX n NX | XX
//! … with no TTL of its own SET key value KEEPTTL XX      what is absent has no time to keep
//! Set Unchanged(old)      a script: compare, then SET
//! Delete Always           DEL key
//! Delete Present          a script, as Unchanged: so that "was not there" is an answer
//! Take                    a script: INCR, and PEXPIRE on the first
//! Scan                    a script around SCAN                   see [`scan`]
//! GetMany                 many GETs, a few at a time             see [`bulk`]
//! Ping                    SET item: "" PX 1 XX          a write that never happens
//! ```
//!
//! Value and time to live always go in one command: a crash between two would leave a key that
//! lives for ever. Scripts begin with `#!lua`: without it a replica that was a master a moment ago
//! judges the condition on stale data and says "no"; with it, it says READONLY.

pub mod bulk;
pub mod scan;

use super::{Answer, Command, Done, Session, Store, StoreError, Tag, When, Wiring};
use crate::resp::client::{Client, Target};
use crate::resp::codec::Reply;
use crate::resp::connection::Shape;
use crate::resp::link::{Options as LinkOptions, Wires};
use crate::resp::remedy::is_passing;
use crate::resp::request::{Failure, Home, Outcome, Request, Script, Wire};
use crate::slab::Slab;
use bulk::Bulks;
use mio::event::Event;
use scan::Scan;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

static SET_UNCHANGED: Script = Script {
    text: "#!lua
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1",
    sha: "62abfb06eb24daef27eaec9153735e86b9718377",
    plain_sha: "d18de07389fc7289b49b389df061eb11a6a80923",
};

/// `allow-oom`: as DEL, it passes when memory is full. It is the way out.
static DELETE_UNCHANGED: Script = Script {
    text: "#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
return redis.call('DEL', KEYS[1])",
    sha: "7ab541dfb4389b188970ae12bcb2e208b4ff6f06",
    plain_sha: "f562e2ec351a2144b5a60a9de8012910e9622579",
};

static DELETE_PRESENT: Script = Script {
    text: "#!lua flags=allow-oom
if redis.call('DEL', KEYS[1]) == 0 then return -1 end
return 1",
    sha: "b6b4fe59132132fa75caa39231eb2467be99b4b3",
    plain_sha: "4abb66c8eb41d45f9be2152f2ca6514d5b589cc2",
};

static TAKE: Script = Script {
    text: "#!lua
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {n, redis.call('PTTL', KEYS[1])}",
    sha: "4fbf5b3ecc36c7085db564721f2e95ca526ec1d6",
    plain_sha: "3c0f0d807263a8bbf46db6ddccd5c54844fee588",
};

/// The scripts, for the test that asks a real server for their names.
pub fn scripts() -> [&'static Script; 5] {
    [
        &SET_UNCHANGED,
        &DELETE_UNCHANGED,
        &DELETE_PRESENT,
        &TAKE,
        &scan::SCAN,
    ]
}

/// The key of no item, since an id has a byte at least; but with an item's prefix, so that whoever
/// may write items may ask it.
const NO_ITEM: &[u8] = b"item:";

/// A Redis server, a master behind sentinels, or a cluster.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    options: LinkOptions,
}

impl Redis {
    /// The store at `target`. Nothing is connected yet.
    pub fn new(target: Target, options: LinkOptions) -> Redis {
        Redis { target, options }
    }
}

impl Store for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> String {
        let list = |seeds: &[_]| {
            seeds
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        match &self.target {
            Target::Single(endpoint) => endpoint.to_string(),
            Target::Sentinel { seeds, name, .. } => format!("{name} by sentinels {}", list(seeds)),
            Target::Cluster { seeds } => format!("cluster {}", list(seeds)),
        }
    }

    fn session(&self, wiring: Wiring<'_>) -> io::Result<Box<dyn Session>> {
        let wires = Wires {
            registry: Rc::new(wiring.registry.try_clone()?),
            waker: wiring.waker,
            next_token: Rc::new(Cell::new(wiring.first_token)),
        };
        let client = Client::new(
            self.target.clone(),
            self.options.clone(),
            wires,
            Instant::now(),
        );
        Ok(Box::new(RedisSession {
            client,
            outcomes: Vec::new(),
            asked: Slab::default(),
            bulks: Bulks::default(),
            early: Vec::new(),
            again: None,
        }))
    }
}

struct RedisSession {
    client: Client,
    outcomes: Vec<Outcome>,
    /// What each request to the client is for.
    asked: Slab<Asked>,
    /// Bulk reads under way.
    bulks: Bulks,
    /// Answered without asking.
    early: Done,
    /// Outcomes are there that `progress` has not looked at, since then.
    again: Option<Instant>,
}

enum Asked {
    /// The command of this tag, as a whole.
    Whole(Tag),
    /// A page for this tag.
    Page(Tag, Scan),
    /// One value of a bulk read.
    Part(bulk::Part),
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command, deadline: Instant) {
        match command {
            Command::Scan {
                prefix,
                cursor,
                limit,
            } => self.scan(now, tag, &prefix, cursor.as_deref(), limit, deadline),
            Command::GetMany { keys, bytes_max } => {
                match self.bulks.begin(tag, keys, bytes_max, deadline) {
                    Ok(()) => {
                        self.ask_parts(now);
                    }
                    Err(e) => self.early.push((tag, Err(e))),
                }
            }
            command => match wire(&command) {
                Some((wire, shape, home)) => {
                    self.ask(now, Asked::Whole(tag), wire, shape, home, deadline)
                }
                None => self.early.push((tag, Ok(Answer::Unmet))),
            },
        }
    }

    fn ready(&mut self, event: &Event) {
        self.client.ready(event);
    }

    fn progress(&mut self, now: Instant, done: &mut Done) {
        self.client.progress(now, &mut self.outcomes);
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (key, shape, result) in outcomes.drain(..) {
            match self.asked.remove(key) {
                Some(Asked::Whole(tag)) => done.push((tag, answer(shape, result))),
                Some(Asked::Page(tag, scan)) => done.push((tag, page(scan, result))),
                Some(Asked::Part(part)) => self.bulks.answered(part, result, done),
                None => {}
            }
        }
        self.outcomes = outcomes;
        self.bulks.time_out(now, done);
        if self.ask_parts(now) {
            // What was asked goes out now; what is there already waits for the next turn, so that one
            // bulk after the other cannot keep a worker from its other clients.
            self.client.progress(now, &mut self.outcomes);
        }
        self.again = (!self.outcomes.is_empty()).then_some(now);
        done.append(&mut self.early);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let client = self.client.next_deadline();
        let times = [self.again, client, self.bulks.next_deadline()];
        times.into_iter().flatten().min()
    }
}

impl RedisSession {
    fn ask(
        &mut self,
        now: Instant,
        asked: Asked,
        command: Wire,
        shape: Shape,
        home: Home,
        deadline: Instant,
    ) {
        let read_only = matches!(shape, Shape::Value | Shape::Probe | Shape::Any);
        let tag = self.asked.insert(asked);
        self.client.submit(
            now,
            Request {
                tag,
                command,
                shape,
                home,
                read_only,
                deadline,
            },
        );
    }

    fn scan(
        &mut self,
        now: Instant,
        tag: Tag,
        prefix: &[u8],
        cursor: Option<&[u8]>,
        limit: usize,
        deadline: Instant,
    ) {
        let early = match self.client.masters(now) {
            None => Err(StoreError::Unavailable(
                "not all of its servers are known".to_owned(),
            )),
            Some(masters) => match Scan::begin(prefix, cursor, limit, &masters) {
                None => Ok(Answer::BadCursor),
                Some((scan, server, wire)) => {
                    let page = Asked::Page(tag, scan);
                    return self.ask(now, page, wire, Shape::Any, Home::Server(server), deadline);
                }
            },
        };
        self.early.push((tag, early));
    }

    /// Asks what the bulk reads may ask now; whether that is anything.
    fn ask_parts(&mut self, now: Instant) -> bool {
        let mut asked = false;
        while let Some((part, key, deadline)) = self.bulks.ask() {
            let (get, home) = (Wire::plain(&[b"GET", key]), Home::of(key));
            self.ask(now, Asked::Part(part), get, Shape::Value, home, deadline);
            asked = true;
        }
        asked
    }
}

fn page(scan: Scan, result: Result<Reply, Failure>) -> Result<Answer, StoreError> {
    let reply = reply(result)?;
    let wrong = || StoreError::Refused("a reply of the wrong type".to_owned());
    scan.end(reply)
        .map(|(keys, next)| Answer::Page { keys, next })
        .ok_or_else(wrong)
}

/// The command on the wire, the shape of its reply, and its home; `None` for the one that can
/// never act (delete what is absent).
fn wire(command: &Command) -> Option<(Wire, Shape, Home)> {
    let (key, wire, shape) = match command {
        Command::Get { key, touch: None } => {
            (key.as_slice(), Wire::plain(&[b"GET", key]), Shape::Value)
        }
        Command::Get {
            key,
            touch: Some(ttl),
        } => {
            let (unit, n) = time(*ttl);
            // To renew twice is to renew: it may be asked again like any read.
            (
                key.as_slice(),
                Wire::plain(&[b"GETEX", key, unit, n.as_bytes()]),
                Shape::Value,
            )
        }
        Command::Set {
            key,
            value,
            ttl,
            when,
        } => {
            let (wire, shape) = set(key, value, *ttl, when);
            (key.as_slice(), wire, shape)
        }
        Command::Delete { key, when } => {
            let (wire, shape) = match when {
                When::Always => (Wire::plain(&[b"DEL", key]), Shape::Count),
                When::Present => (Wire::script(&DELETE_PRESENT, key, &[]), Shape::DeletedFlag),
                When::Unchanged(old) => (
                    Wire::script(&DELETE_UNCHANGED, key, &[old]),
                    Shape::DeletedFlag,
                ),
                When::Absent => return None,
            };
            (key.as_slice(), wire, shape)
        }
        Command::Take { key, window } => {
            let ms = millis(*window).to_string();
            (
                key.as_slice(),
                Wire::script(&TAKE, key, &[ms.as_bytes()]),
                Shape::Pair,
            )
        }
        // These are asked in their own ways.
        Command::Scan { .. } | Command::GetMany { .. } => return None,
        // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. A SET is
        // refused there before its condition is looked at, and XX never holds.
        Command::Ping => (
            NO_ITEM,
            Wire::plain(&[b"SET", NO_ITEM, b"", b"PX", b"1", b"XX"]),
            Shape::Probe,
        ),
    };
    Some((wire, shape, Home::of(key)))
}

fn set(key: &[u8], value: &[u8], ttl: Option<Duration>, when: &When) -> (Wire, Shape) {
    if let When::Unchanged(old) = when {
        let ms = ttl.map_or(String::new(), |t| millis(t).to_string());
        return (
            Wire::script(&SET_UNCHANGED, key, &[old, value, ms.as_bytes()]),
            Shape::StoredFlag,
        );
    }
    let (unit, n) = ttl.map_or((&b"KEEPTTL"[..], String::new()), time);
    let mut words: Vec<&[u8]> = vec![b"SET", key, value, unit];
    if !n.is_empty() {
        words.push(n.as_bytes());
    }
    match when {
        When::Absent => words.push(b"NX"),
        When::Present => words.push(b"XX"),
        // A key with no time to keep would live for ever.
        When::Always | When::Unchanged(_) if ttl.is_none() => words.push(b"XX"),
        When::Always | When::Unchanged(_) => {}
    }
    (Wire::plain(&words), Shape::Stored)
}

/// `EX seconds` where it comes out even, as the Go service writes it, else `PX milliseconds`.
fn time(ttl: Duration) -> (&'static [u8], String) {
    match millis(ttl) {
        ms if ms % 1000 == 0 => (b"EX", (ms / 1000).to_string()),
        ms => (b"PX", ms.to_string()),
    }
}

/// Redis refuses an expiry of zero.
fn millis(t: Duration) -> u64 {
    u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The connection has checked that reply and shape belong together.
fn answer(shape: Shape, result: Result<Reply, Failure>) -> Result<Answer, StoreError> {
    let reply = reply(result)?;
    Ok(match (shape, reply) {
        (_, Reply::TooLarge(n)) => {
            return Err(StoreError::Refused(format!(
                "a value of {n} bytes is larger than any document of ours"
            )));
        }
        (Shape::Value, Reply::Bulk(value)) => Answer::Value(Some(value)),
        (Shape::Value, Reply::Null) => Answer::Value(None),
        (Shape::Stored, Reply::Simple(_)) | (Shape::StoredFlag, Reply::Integer(1)) => {
            Answer::Stored
        }
        (Shape::Stored, Reply::Null) | (Shape::StoredFlag, Reply::Integer(0)) => Answer::Unmet,
        (Shape::DeletedFlag, Reply::Integer(-1)) => Answer::Unmet,
        (Shape::DeletedFlag | Shape::Count, Reply::Integer(n)) => Answer::Deleted(n > 0),
        (Shape::Pair, Reply::Array(items)) => match items[..] {
            [Reply::Integer(count), Reply::Integer(left)] => Answer::Taken {
                count: u64::try_from(count).unwrap_or(0),
                resets_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
            },
            _ => return Err(StoreError::Refused("a reply of the wrong type".to_owned())),
        },
        (Shape::Probe, Reply::Simple(_) | Reply::Null) => Answer::Pong,
        // Not shown: there may be somebody's document in it.
        _ => return Err(StoreError::Refused("a reply of the wrong type".to_owned())),
    })
}

/// The reply, unless it is an error or there is none. Errors that pass by themselves are 503.
fn reply(result: Result<Reply, Failure>) -> Result<Reply, StoreError> {
    match result {
        Ok(Reply::Error(e)) if is_passing(&e) => Err(StoreError::Unavailable(e.to_string())),
        Ok(Reply::Error(e)) => Err(StoreError::Refused(e.to_string())),
        Ok(reply) => Ok(reply),
        Err(Failure::Timeout) => Err(StoreError::Timeout),
        Err(Failure::Unreachable(why)) => Err(StoreError::Unreachable(why)),
        Err(Failure::Broken(why)) => Err(StoreError::Broken(why)),
        Err(Failure::Overloaded) => Err(StoreError::Overloaded),
        Err(Failure::Refused(why)) => Err(StoreError::Refused(why)),
    }
}
