//! Items in Redis: our few commands as Redis commands, its replies as our answers.
//!
//! ```text
//! Get                      GET key
//! Get, renewing            READ      GET, and PEXPIRE where less is left
//! Get, before once         LOOK      the record, or the item
//! Set Always               SET key value EX n           exactly what the Go service writes
//! Set Absent / Present     SET key value EX n NX | XX
//! … keeping its TTL        SET key value KEEPTTL XX     what is absent has no time to keep
//! Set otherwise            SET       compare, then SET; with once the record, too
//! Delete Always            DEL key
//! Delete otherwise         DELETE    as SET: so that "was not there" is an answer
//! Take                     TAKE      INCR, and PEXPIRE on the first
//! Scan                     a script around SCAN          see [`scan`]
//! GetMany                  many GETs, a few at a time       see [`bulk`]
//! Ping                     SET item:⏎… "" PX 1 XX         a write that never happens
//! ```
//!
//! What stands alone after the command's name is a script ([`scripts`]), one step all the same. Value and time to live
//! always go in one command: a crash between two would leave a key that lives for ever.

pub mod bulk;
pub mod record;
pub mod scan;
pub mod scripts;

use super::trouble::Trouble;
use super::{Answer, Command, Done, Once, Session, Store, StoreError, Tag, Ttl, When, Wiring};
use crate::resp::client::{Client, Target};
use crate::resp::codec::{ErrorReply, Reply};
use crate::resp::connection::Shape;
use crate::resp::link::{Options as LinkOptions, Wires};
use crate::resp::remedy::{is_full, is_passing};
use crate::resp::request::{Failure, Home, Outcome, Request, Wire};
use crate::slab::Slab;
use bulk::Bulks;
use mio::event::Event;
use record::record_key;
use scan::Scan;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The key of no item, since no id has a control character, and most likely of nothing else; but with an
/// item's prefix, so that whoever may write items may ask it.
const NO_ITEM: &[u8] = b"item:\nkioskd asks whether it could write";

/// A Redis server, a master behind sentinels, or a cluster.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    options: LinkOptions,
    /// What operators are told, by all sessions together.
    trouble: Arc<Trouble>,
}

impl Redis {
    /// The store at `target`. Nothing is connected yet.
    pub fn new(target: Target, options: LinkOptions) -> Redis {
        Redis { target, options, trouble: Arc::default() }
    }
}

impl Store for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> String {
        let list =
            |seeds: &[_]| seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
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
        let client = Client::new(self.target.clone(), self.options.clone(), wires, Instant::now());
        Ok(Box::new(RedisSession {
            client,
            outcomes: Vec::new(),
            asked: Slab::default(),
            bulks: Bulks::default(),
            early: Vec::new(),
            again: None,
            trouble: Arc::clone(&self.trouble),
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
    trouble: Arc<Trouble>,
}

enum Asked {
    /// The command of this tag, as a whole.
    Whole(Tag),
    /// A write with a record; and what to ask where it is refused because memory is full.
    Once { tag: Tag, when_full: Wire, home: Home, deadline: Instant },
    /// Whether a write that was refused like this has a record all the same: then it was done before.
    Seen(Tag, ErrorReply),
    /// A page for this tag.
    Page(Tag, Scan),
    /// One value of a bulk read.
    Part(bulk::Part),
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command, deadline: Instant) {
        match command {
            Command::Scan { prefix, cursor, limit } => {
                self.scan(now, tag, &prefix, cursor.as_deref(), limit, deadline)
            }
            Command::GetMany { keys, bytes_max } => {
                match self.bulks.begin(tag, keys, bytes_max, deadline) {
                    Ok(()) => {
                        self.ask_parts(now);
                    }
                    Err(e) => self.early.push((tag, Err(e))),
                }
            }
            Command::Delete { ref key, ref when, once: Some(ref once) } => {
                let first = delete(key, when, Some(once), false);
                let when_full = delete(key, when, Some(once), true);
                self.ask_once(now, tag, key, first, when_full, deadline);
            }
            Command::Set { ref key, ref value, ttl, ref when, once: Some(ref once) } => {
                let first = set_by_script(key, value, ttl, when, Some(once));
                self.ask_once(now, tag, key, first, look(key, once), deadline);
            }
            command => {
                if let Some((wire, shape, home)) = wire(&command) {
                    self.ask(now, Asked::Whole(tag), wire, shape, home, deadline);
                }
            }
        }
    }

    fn ready(&mut self, event: &Event) {
        self.client.ready(event);
    }

    fn progress(&mut self, now: Instant, done: &mut Done) {
        let (mut asked_more, before) = (false, done.len());
        self.client.progress(now, &mut self.outcomes);
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (key, shape, result) in outcomes.drain(..) {
            match self.asked.remove(key) {
                Some(Asked::Whole(tag)) => done.push((tag, answer(shape, result))),
                Some(Asked::Once { tag, when_full, home, deadline }) => match result {
                    Ok(Reply::Error(e)) if is_full(&e) => {
                        let (asked, shape) = match when_full.is_of(&scripts::LOOK) {
                            true => (Asked::Seen(tag, e), Shape::Look),
                            false => (Asked::Whole(tag), Shape::Once),
                        };
                        self.ask(now, asked, when_full, shape, home, deadline);
                        asked_more = true;
                    }
                    result => done.push((tag, answer(shape, result))),
                },
                Some(Asked::Seen(tag, e)) => done.push((
                    tag,
                    match answer(shape, result) {
                        Ok(Answer::Recorded(record)) => Ok(Answer::Recorded(record)),
                        _ => answer(shape, Ok(Reply::Error(e))),
                    },
                )),
                Some(Asked::Page(tag, scan)) => done.push((tag, page(scan, result))),
                Some(Asked::Part(part)) => self.bulks.answered(part, result, done),
                None => {}
            }
        }
        self.outcomes = outcomes;
        self.bulks.time_out(now, done);
        if self.ask_parts(now) || asked_more {
            // What was asked goes out now; what is there already waits for the next turn, so that one
            // bulk after the other cannot keep a worker from its other clients.
            self.client.progress(now, &mut self.outcomes);
        }
        self.again = (!self.outcomes.is_empty()).then_some(now);
        done.append(&mut self.early);
        self.trouble.hear(now, &done[before..]);
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
        let read_only = matches!(shape, Shape::Value | Shape::Look | Shape::Probe | Shape::Any);
        let tag = self.asked.insert(asked);
        self.client.submit(now, Request { tag, command, shape, home, read_only, deadline });
    }

    /// A write with a record. Memory that is full refuses it unseen, so there a second step has to see.
    fn ask_once(
        &mut self,
        now: Instant,
        tag: Tag,
        key: &[u8],
        first: Wire,
        when_full: Wire,
        deadline: Instant,
    ) {
        let home = Home::of(key);
        let asked = Asked::Once { tag, when_full, home: home.clone(), deadline };
        self.ask(now, asked, first, Shape::Once, home, deadline);
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
            None => Err(StoreError::Unavailable("not all of its servers are known".to_owned())),
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
    scan.end(reply).map(|(keys, next)| Answer::Page { keys, next }).ok_or_else(wrong)
}

/// The command on the wire, the shape of its reply, and its home; `None` for those that are asked in their own ways.
fn wire(command: &Command) -> Option<(Wire, Shape, Home)> {
    let (key, wire, shape) = match command {
        Command::Get { key, once: Some(once), .. } => {
            (key.as_slice(), look(key, once), Shape::Look)
        }
        Command::Get { key, renew: None, .. } => {
            (key.as_slice(), Wire::plain(&[b"GET", key]), Shape::Value)
        }
        // To renew twice is to renew: it may be asked again like any read.
        Command::Get { key, renew: Some(ttl), .. } => {
            let ms = millis(*ttl).to_string();
            let read = Wire::script(&scripts::READ, &[key], &[ms.as_bytes()]);
            (key.as_slice(), read, Shape::Value)
        }
        Command::Set { key, value, ttl, when, once } => {
            let (wire, shape) = set(key, value, *ttl, when, once.as_ref());
            (key.as_slice(), wire, shape)
        }
        Command::Delete { key, when: When::Always, once: None } => {
            (key.as_slice(), Wire::plain(&[b"DEL", key]), Shape::Count)
        }
        Command::Delete { key, when, once } => {
            (key.as_slice(), delete(key, when, once.as_ref(), true), Shape::DeletedFlag)
        }
        Command::Take { key, window } => {
            let ms = millis(*window).to_string();
            let take = Wire::script(&scripts::TAKE, &[key], &[ms.as_bytes()]);
            (key.as_slice(), take, Shape::Pair)
        }
        Command::Scan { .. } | Command::GetMany { .. } => return None,
        // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. A SET is
        // refused there before its condition is looked at, and XX never holds.
        Command::Ping => {
            (NO_ITEM, Wire::plain(&[b"SET", NO_ITEM, b"", b"PX", b"1", b"XX"]), Shape::Probe)
        }
    };
    Some((wire, shape, Home::of(key)))
}

fn look(key: &[u8], once: &Once) -> Wire {
    Wire::script(&scripts::LOOK, &[key, &record_key(key, &once.name)], &[])
}

/// How a script spells a condition, and the bytes it compares with.
fn condition(when: &When) -> [&[u8]; 2] {
    match when {
        When::Always => [b"always", b""],
        When::Absent => [b"absent", b""],
        When::Present => [b"present", b""],
        When::Unchanged(old) => [b"same", old],
    }
}

fn set(key: &[u8], value: &[u8], ttl: Ttl, when: &When, once: Option<&Once>) -> (Wire, Shape) {
    match (ttl, when, once) {
        (Ttl::AtLeast(_), ..) | (_, When::Unchanged(_), _) | (.., Some(_)) => {
            let shape = once.map_or(Shape::StoredFlag, |_| Shape::Once);
            (set_by_script(key, value, ttl, when, once), shape)
        }
        (_, _, None) => (set_plainly(key, value, ttl, when), Shape::Stored),
    }
}

fn set_by_script(key: &[u8], value: &[u8], ttl: Ttl, when: &When, once: Option<&Once>) -> Wire {
    let [when, old] = condition(when);
    let (mode, ms): (&[u8], _) = match ttl {
        Ttl::Exactly(ttl) => (b"set", millis(ttl)),
        Ttl::AtLeast(ttl) => (b"least", millis(ttl)),
        Ttl::Keep => (b"keep", 0),
    };
    let ms = ms.to_string();
    let own = [when, old, value, ms.as_bytes(), mode];
    let Some(once) = once else {
        return Wire::script(&scripts::SET, &[key], &own);
    };
    let record_ms = millis(once.ttl).to_string();
    let keeps: &[u8] = if once.keeps_value { b"1" } else { b"0" };
    let record = record_key(key, &once.name);
    let arguments = [&own[..], &[&once.fingerprint, record_ms.as_bytes(), keeps]].concat();
    Wire::script(&scripts::SET, &[key, &record], &arguments)
}

fn set_plainly(key: &[u8], value: &[u8], ttl: Ttl, when: &When) -> Wire {
    let (unit, n) = match ttl {
        Ttl::Exactly(ttl) | Ttl::AtLeast(ttl) => time(ttl),
        Ttl::Keep => (&b"KEEPTTL"[..], String::new()),
    };
    let mut words: Vec<&[u8]> = vec![b"SET", key, value, unit];
    if !n.is_empty() {
        words.push(n.as_bytes());
    }
    match when {
        When::Absent => words.push(b"NX"),
        When::Present => words.push(b"XX"),
        // A key with no time to keep would live for ever.
        When::Always | When::Unchanged(_) if ttl == Ttl::Keep => words.push(b"XX"),
        When::Always | When::Unchanged(_) => {}
    }
    Wire::plain(&words)
}

/// With `when_full` it passes when memory is full, and records only that something was removed: what removes nothing
/// could be sent for ever, and each would leave a record.
fn delete(key: &[u8], when: &When, once: Option<&Once>, when_full: bool) -> Wire {
    let [when, old] = condition(when);
    let (script, record_what): (_, &[u8]) = match when_full {
        true => (&scripts::DELETE_WHEN_FULL, b"removed"),
        false => (&scripts::DELETE, b"always"),
    };
    let Some(once) = once else {
        return Wire::script(script, &[key], &[when, old]);
    };
    let ms = millis(once.ttl).to_string();
    let record = record_key(key, &once.name);
    let arguments = [when, old, &once.fingerprint, ms.as_bytes(), record_what];
    Wire::script(script, &[key, &record], &arguments)
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
        (_, Reply::TooLarge(n)) => return Err(too_large(n)),
        (Shape::Value, Reply::Bulk(value)) => Answer::Value(Some(value)),
        (Shape::Value, Reply::Null) => Answer::Value(None),
        (Shape::Stored, Reply::Null) => Answer::Unmet,
        (Shape::StoredFlag | Shape::DeletedFlag | Shape::Once, Reply::Integer(-1)) => Answer::Unmet,
        (Shape::Stored, Reply::Simple(_)) | (Shape::StoredFlag, Reply::Integer(_)) => {
            Answer::Stored
        }
        (Shape::DeletedFlag | Shape::Count, Reply::Integer(n)) => Answer::Deleted(n > 0),
        (Shape::Once, Reply::Integer(n)) => Answer::Done { there: n > 0 },
        (Shape::Once, Reply::Bulk(record)) => Answer::Recorded(record),
        (Shape::Look, Reply::Array(parts)) => match <[Reply; 2]>::try_from(parts) {
            Ok([Reply::Integer(1), Reply::Bulk(record)]) => Answer::Recorded(record),
            Ok([_, Reply::Bulk(value)]) => Answer::Value(Some(value)),
            Ok([_, Reply::Null]) => Answer::Value(None),
            Ok([_, Reply::TooLarge(n)]) => return Err(too_large(n)),
            _ => return Err(StoreError::Refused("a reply of the wrong type".to_owned())),
        },
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

fn too_large(n: u64) -> StoreError {
    StoreError::Refused(format!("a value of {n} bytes is larger than any document of ours"))
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
