//! Items in Redis: our few commands as Redis commands, its replies as our answers.
//!
//! ```text
//! Get                      GET key
//! Get, renewing            READ      GET, and PEXPIRE where less is left
//! Get, before once         LOOK      the record, or the item
//! Set Always               SET key value EX n           exactly what the Go service writes
//! Set Absent / Present     SET key value EX n NX | XX
//! Set otherwise            SET       compare, then SET; with once the record, too
//! Delete Always            DEL key
//! Delete otherwise         DELETE    as SET: so that "was not there" is an answer
//! Take                     TAKE      INCR, and PEXPIRE on the first
//! Scan                     a script around SCAN          see [`scan`]
//! GetMany                  many GETs, a few at a time       see [`bulk`]
//! Ping                     SET item:⏎… "" PX 1 XX         a write that never happens
//! ```
//!
//! An upper-case name alone in the second column is a script ([`scripts`]), and still one step. Value and time to live
//! always go in one command: a crash between two would leave a key that never expires.

pub mod bulk;
pub mod record;
mod reply;
pub mod scan;
pub mod scripts;

use super::trouble::Trouble;
use super::{
    self as store, Answer, Command, OWNER, Once, Replies, Session, Store, StoreError, Tag, Ttl,
    When,
};
use crate::net::{Ready, Slab, World};
use crate::resp::client::{Client, Target};
use crate::resp::codec::{Decimal, ErrorReply, Received, Reply};
use crate::resp::connection::Shape;
use crate::resp::link::Options as LinkOptions;
use crate::resp::remedy::is_full;
use crate::resp::request::{Encoded, Failure, Home, Request, Script, Words};
use bulk::Bulks;
use record::record_key;
use reply::{answer, error, reply, wrong_type};
use scan::Scan;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of no item, since no id has a control character, and most likely of nothing else; but with an item's prefix,
/// so that a user who may write items may use it.
const NO_ITEM: &[u8] = b"item:\nkioskd asks whether it could write";

/// Capacity for large replies is kept for this long.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A Redis server, a master behind sentinels, or a cluster.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    options: LinkOptions,
    /// What is logged for operators, shared by all sessions.
    trouble: Arc<Trouble>,
}

impl Redis {
    /// The store at `target`. Nothing is connected yet.
    pub fn new(target: Target, options: LinkOptions) -> Redis {
        Redis { target, options, trouble: Arc::default() }
    }

    /// As [`session`](Store::session).
    pub fn open(&self, world: &mut dyn World, now: Instant) -> RedisSession {
        RedisSession {
            client: Client::new(self.target.clone(), self.options.clone(), OWNER, world, now),
            tags: Tags::default(),
            bulks: Bulks::default(),
            full: Vec::new(),
            replies: Replies::default(),
            key: Vec::new(),
            trim_at: None,
            now,
            trouble: Arc::clone(&self.trouble),
        }
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

    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session> {
        Box::new(self.open(world, now))
    }
}

/// A worker's connection to Redis, and the commands on it.
pub struct RedisSession {
    client: Client<Asked>,
    /// The request that belongs to each command without an answer, bulk reads aside.
    tags: Tags,
    /// Bulk reads under way.
    bulks: Bulks,
    /// Writes that were refused because memory is full, and what to send next.
    full: Vec<(Tag, Asked, Box<WhenFull>)>,
    /// Finished commands.
    replies: Replies,
    /// For keys in one piece; kept for its capacity.
    key: Vec<u8>,
    /// When the capacity of the replies is freed, if it is large.
    trim_at: Option<Instant>,
    /// The time of the last call of `progress`.
    now: Instant,
    trouble: Arc<Trouble>,
}

/// What a request to the client is for.
enum Asked {
    /// The command of this tag, as a whole.
    Whole(Tag),
    /// A write with a record; and what to send if it is refused because memory is full.
    Once(Tag, Box<WhenFull>),
    /// A write that was refused with this error: whether it has a record all the same, because it was done before.
    Seen(Tag, Box<ErrorReply>),
    /// A page for this tag.
    Page(Tag, Box<Scan>),
    /// One value of a bulk read.
    Part(bulk::Part),
}

struct WhenFull {
    command: Encoded,
    shape: Shape,
    home: Home,
    deadline: Instant,
}

/// The command's tag, when it was submitted, and its deadline.
#[derive(Clone, Copy)]
struct Call {
    now: Instant,
    tag: Tag,
    deadline: Instant,
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>, deadline: Instant) {
        let call = Call { now, tag, deadline };
        let mut buffer = std::mem::take(&mut self.key);
        match command {
            Command::Get { key, renew, once } => {
                self.get(call, key.join(&mut buffer), renew, once.as_deref());
            }
            Command::Set { key, value, ttl, when, once } => {
                self.set(call, key.join(&mut buffer), &value, ttl, &when, once.as_deref());
            }
            Command::Delete { key, when, once } => {
                self.delete(call, key.join(&mut buffer), &when, once.as_deref());
            }
            Command::Take { key, window } => {
                let (key, ms) = (key.join(&mut buffer), Decimal::new(millis(window)));
                self.run(call, key, &scripts::TAKE, &[b"1", key, ms.as_bytes()], Shape::Pair);
            }
            // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. There a SET is refused
            // before its condition is checked, and XX never holds for this key.
            Command::Ping => {
                let set: [&[u8]; 6] = [b"SET", NO_ITEM, b"", b"PX", b"1", b"XX"];
                self.ask(call, NO_ITEM, Words::plain(&set), Shape::Probe);
            }
            Command::Scan { prefix, cursor, limit } => {
                self.scan(call, prefix.join(&mut buffer), cursor.as_deref(), limit);
            }
            Command::GetMany { keys, bytes_max } => {
                match self.bulks.begin(tag, keys, bytes_max, deadline) {
                    Ok(()) => drop(self.ask_parts(now)),
                    Err(e) => self.replies.push(tag, Err(e)),
                }
            }
        }
        self.key = buffer;
    }

    fn ready(&mut self, ready: Ready) {
        self.client.ready(ready);
    }

    fn look(&mut self) {
        self.client.look();
    }

    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies {
        let RedisSession { client, tags, bulks, full, replies, .. } = self;
        client.progress(world, now, &mut |asked, shape, result| {
            let mut finish = |tag, reply: store::Reply<'_>| {
                tags.take(tag);
                replies.push(tag, reply);
            };
            // Most replies are of this kind, so it comes first.
            if let (Asked::Whole(tag), Ok(Received::Bulk(value)), Shape::Value) =
                (&asked, &result, shape)
            {
                return finish(*tag, Ok(Answer::Value(Some(value))));
            }
            match (asked, result) {
                (Asked::Once(tag, when_full), Ok(Received::Other(Reply::Error(e))))
                    if is_full(&e) =>
                {
                    let asked = match when_full.shape {
                        Shape::Look => Asked::Seen(tag, Box::new(e)),
                        _ => Asked::Whole(tag),
                    };
                    full.push((tag, asked, when_full));
                }
                (Asked::Whole(tag) | Asked::Once(tag, _), result) => match reply(result) {
                    Ok(received) => finish(tag, answer(shape, &received)),
                    Err(e) => finish(tag, Err(e)),
                },
                (Asked::Seen(tag, e), result) => {
                    let received = reply(result);
                    match received.as_ref().map(|received| answer(shape, received)) {
                        Ok(Ok(recorded @ Answer::Recorded(_))) => finish(tag, Ok(recorded)),
                        _ => finish(tag, Err(error(&e))),
                    }
                }
                (Asked::Page(tag, scan), result) => {
                    let page = reply(result).map(|received| scan.end(received.into_reply()));
                    let page = page.and_then(|page| page.ok_or_else(wrong_type));
                    finish(tag, page.map(|page| Answer::Page(page.into())));
                }
                (Asked::Part(part), result) => {
                    if let Some((tag, reply)) = bulks.answered(part, result) {
                        finish(tag, reply);
                    }
                }
            }
        });
        let has_more = !self.full.is_empty() || !self.bulks.is_empty();
        if has_more && (self.ask_when_full(now) | self.ask_parts(now)) {
            // New requests go out now; replies that have arrived already wait for the next turn, so that one bulk after
            // the other cannot keep a worker from its other clients.
            self.client.send(world, now);
        }
        self.trouble.hear(now, &self.replies);
        if self.replies.is_empty() && self.trim_at.is_some_and(|t| now >= t) {
            self.replies.trim();
            self.trim_at = None;
        }
        self.now = now;
        std::mem::take(&mut self.replies)
    }

    fn give_back(&mut self, mut replies: Replies) {
        if self.replies.is_empty() {
            replies.clear();
            if replies.is_large() {
                self.trim_at.get_or_insert(self.now + KEPT_FOR);
            }
            self.replies = replies;
        }
    }

    fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError {
        let without = |result: Result<Reply, Failure>| {
            reply(result.map(Received::Other)).err().unwrap_or(StoreError::Timeout)
        };
        let why = if let Some(bulk) = self.bulks.end(tag) {
            // The requests of its parts, which have the same deadline, know the reason.
            let mut whys =
                bulk.requests().filter_map(|part| self.client.why_not(part)).map(without);
            whys.find(|why| *why != StoreError::Timeout)
        } else {
            match self.tags.take(tag).and_then(|key| self.client.abandon(key)) {
                // The write was refused because memory is full, and there was no time left to look for a record.
                Some((Asked::Seen(_, e), _)) => Some(error(&e)),
                other => other.map(|(_, result)| without(result)),
            }
        };
        let why = why.unwrap_or(StoreError::Timeout);
        self.trouble.hear(now, &Replies::of(Err(why.clone())));
        why
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.replies.is_empty() {
            // There are finished commands: call at once.
            return Some(self.now);
        }
        self.client.next_deadline().into_iter().chain(self.trim_at).min()
    }
}

impl RedisSession {
    /// How many entries its tables have: none when every command is answered or abandoned, and has been replied to.
    pub fn waiting(&self) -> usize {
        let (requests, bytes) = self.client.waiting();
        let bulks = usize::from(!self.bulks.is_empty()) + self.bulks.counted();
        requests + bytes + self.tags.len + self.tags.others.len() + self.full.len() + bulks
    }

    fn get(&mut self, call: Call, key: &[u8], renew: Option<Duration>, once: Option<&Once<'_>>) {
        match (renew, once) {
            (None, None) => self.ask(call, key, Words::get(&[key]), Shape::Value),
            (_, Some(once)) => {
                let record = record_key(key, &once.name);
                self.run(call, key, &scripts::LOOK, &[b"2", key, &record], Shape::Look);
            }
            // Renewing twice has the same effect as once: the command may be sent again like any read.
            (Some(ttl), None) => {
                let ms = Decimal::new(millis(ttl));
                self.run(call, key, &scripts::READ, &[b"1", key, ms.as_bytes()], Shape::Value);
            }
        }
    }

    fn set(
        &mut self,
        call: Call,
        key: &[u8],
        value: &[u8],
        ttl: Ttl,
        when: &When<'_>,
        once: Option<&Once<'_>>,
    ) {
        if let (Ttl::Exactly(ttl), Some(option), None) = (ttl, option(when), once) {
            let (unit, n) = time(ttl);
            let words: [&[u8]; 6] = [b"SET", key, value, unit, n.as_bytes(), option];
            let words = if option.is_empty() { &words[..5] } else { &words };
            return self.ask(call, key, Words::plain(words), Shape::Stored);
        }
        let [when, old] = condition(when);
        let (mode, ms): (&[u8], _) = match ttl {
            Ttl::Exactly(ttl) => (b"set", millis(ttl)),
            Ttl::AtLeast(ttl) => (b"least", millis(ttl)),
            Ttl::Keep => (b"keep", 0),
        };
        let ms = Decimal::new(ms);
        let ms = ms.as_bytes();
        let Some(once) = once else {
            let words: [&[u8]; 7] = [b"1", key, when, old, value, ms, mode];
            return self.run(call, key, &scripts::SET, &words, Shape::StoredFlag);
        };
        let (record, record_ms) = (record_key(key, &once.name), Decimal::new(millis(once.ttl)));
        let (fingerprint, record_ms) = (&once.fingerprint, record_ms.as_bytes());
        let keeps: &[u8] = if once.keeps_value { b"1" } else { b"0" };
        let when_full = Words::script(&scripts::LOOK, &[b"2", key, &record]).encode();
        let words: [&[u8]; 11] =
            [b"2", key, &record, when, old, value, ms, mode, fingerprint, record_ms, keeps];
        let first = Words::script(&scripts::SET, &words);
        self.ask_once(call, key, first, when_full, Shape::Look);
    }

    fn delete(&mut self, call: Call, key: &[u8], when: &When<'_>, once: Option<&Once<'_>>) {
        if let (When::Always, None) = (when, once) {
            return self.ask(call, key, Words::plain(&[b"DEL", key]), Shape::Count);
        }
        let [when, old] = condition(when);
        let Some(once) = once else {
            let words: [&[u8]; 4] = [b"1", key, when, old];
            return self.run(call, key, &scripts::DELETE_WHEN_FULL, &words, Shape::DeletedFlag);
        };
        let (record, ms) = (record_key(key, &once.name), Decimal::new(millis(once.ttl)));
        let words = |records: &'static [u8]| -> [&[u8]; 8] {
            [b"2", key, &record, when, old, &once.fingerprint, ms.as_bytes(), records]
        };
        // When memory is full this script still runs, and records a delete only if it removed something: deletes that
        // remove nothing could be sent without end, and each would leave a record.
        let when_full = Words::script(&scripts::DELETE_WHEN_FULL, &words(b"removed")).encode();
        let first = words(b"always");
        self.ask_once(call, key, Words::script(&scripts::DELETE, &first), when_full, Shape::Once);
    }

    /// Sends a command that needs only one request.
    fn ask(&mut self, call: Call, key: &[u8], words: Words<'_>, shape: Shape) {
        let home = self.client.home_of(key);
        self.send(call, Asked::Whole(call.tag), shape, home, words);
    }

    fn run(
        &mut self,
        call: Call,
        key: &[u8],
        script: &'static Script,
        words: &[&[u8]],
        shape: Shape,
    ) {
        self.ask(call, key, Words::script(script, words), shape);
    }

    /// Sends a write with a record. When memory is full Redis refuses the write without running it, so a second request
    /// must look for the record.
    fn ask_once(
        &mut self,
        call: Call,
        key: &[u8],
        first: Words<'_>,
        command: Encoded,
        shape: Shape,
    ) {
        let home = self.client.home_of(key);
        let when_full = WhenFull { command, shape, home: home.clone(), deadline: call.deadline };
        self.send(call, Asked::Once(call.tag, Box::new(when_full)), Shape::Once, home, first);
    }

    // As for `Client::submit`: otherwise a request is copied on its way.
    #[inline(always)]
    fn send(&mut self, call: Call, asked: Asked, shape: Shape, home: Home, words: Words<'_>) {
        let request = request(asked, shape, home, call.deadline);
        let key = self.client.submit(call.now, request, words);
        self.tags.set(call.tag, key);
    }

    /// Sends the second requests of writes that were refused because memory is full; whether there are any.
    fn ask_when_full(&mut self, now: Instant) -> bool {
        let full = std::mem::take(&mut self.full);
        let any = !full.is_empty();
        for (tag, asked, when_full) in full {
            let WhenFull { command, shape, home, deadline } = *when_full;
            let request = request(asked, shape, home, deadline);
            let key = self.client.submit_encoded(now, request, command);
            self.tags.set(tag, key);
        }
        any
    }

    fn scan(&mut self, call: Call, prefix: &[u8], cursor: Option<&[u8]>, limit: usize) {
        let Some(masters) = self.client.masters(call.now) else {
            let why = "not all of its servers are known".to_owned();
            return self.replies.push(call.tag, Err(StoreError::Unavailable(why)));
        };
        let Some((scan, server)) = Scan::begin(prefix, cursor, &masters) else {
            return self.replies.push(call.tag, Ok(Answer::BadCursor));
        };
        let home = Home::Server(Box::new(server));
        scan.ask(limit, |scan, words| {
            self.send(call, Asked::Page(call.tag, Box::new(scan)), Shape::Any, home, words);
        });
    }

    /// Sends the next requests of the bulk reads; whether there are any.
    fn ask_parts(&mut self, now: Instant) -> bool {
        let mut asked = false;
        while let Some((part, key, deadline)) = self.bulks.ask() {
            let home = self.client.home_of(key);
            // The bulk may have ended before this part, so the part has a deadline of its own.
            let request = request(Asked::Part(part), Shape::Value, home, deadline);
            let request = Request { expires: true, ..request };
            let key = self.client.submit(now, request, Words::get(&[key]));
            self.bulks.asked(part, key);
            asked = true;
        }
        asked
    }
}

fn request(purpose: Asked, shape: Shape, home: Home, deadline: Instant) -> Request<Asked> {
    let read_only = matches!(shape, Shape::Value | Shape::Look | Shape::Probe | Shape::Any);
    Request { purpose, shape, home, read_only, deadline, expires: false }
}

/// The requests of commands without an answer, by the places of their tags: those are keys of a [`Slab`], and so small
/// numbers that differ. (Any other tags work too, and cost more.)
#[derive(Default)]
struct Tags {
    places: Vec<Option<(Tag, u64)>>,
    others: HashMap<Tag, u64>,
    len: usize,
}

/// The most places there can be, and how many are kept when no command is under way.
const PLACES_MAX: usize = 1 << 20;
const PLACES_KEPT: usize = 256;

impl Tags {
    fn set(&mut self, tag: Tag, key: u64) {
        let place = Slab::<()>::place(tag);
        if place >= self.places.len() && place < PLACES_MAX {
            self.places.resize(place + 1, None);
        }
        match self.places.get_mut(place) {
            Some(free @ None) => {
                *free = Some((tag, key));
                self.len += 1;
            }
            Some(Some((same, old))) if *same == tag => *old = key,
            _ => drop(self.others.insert(tag, key)),
        }
    }

    fn take(&mut self, tag: Tag) -> Option<u64> {
        let place = self.places.get_mut(Slab::<()>::place(tag));
        let Some((_, key)) = place.and_then(|place| place.take_if(|(other, _)| *other == tag))
        else {
            return self.others.remove(&tag);
        };
        self.len -= 1;
        if self.len == 0 && self.places.len() > PLACES_KEPT {
            self.places.truncate(PLACES_KEPT);
            self.places.shrink_to_fit();
        }
        Some(key)
    }
}

/// How a script spells a condition, and the bytes to compare with.
fn condition<'a>(when: &'a When<'_>) -> [&'a [u8]; 2] {
    match when {
        When::Always => [b"always", b""],
        When::Absent => [b"absent", b""],
        When::Present => [b"present", b""],
        When::Unchanged(old) => [b"same", old],
    }
}

/// The condition as an option of SET; `None` if SET has none for it.
fn option(when: &When<'_>) -> Option<&'static [u8]> {
    match when {
        When::Always => Some(b""),
        When::Absent => Some(b"NX"),
        When::Present => Some(b"XX"),
        When::Unchanged(_) => None,
    }
}

/// `EX seconds` for whole seconds, as the Go service writes it, else `PX milliseconds`.
fn time(ttl: Duration) -> (&'static [u8], Decimal) {
    match millis(ttl) {
        ms if ms % 1000 == 0 => (b"EX", Decimal::new(ms / 1000)),
        ms => (b"PX", Decimal::new(ms)),
    }
}

/// Redis refuses an expiry of zero.
fn millis(t: Duration) -> u64 {
    let ms = t.as_secs().saturating_mul(1000);
    ms.saturating_add(u64::from(t.subsec_millis())).max(1)
}

#[cfg(test)]
mod tests;
