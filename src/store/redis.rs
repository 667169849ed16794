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
mod reply;
pub mod scan;
pub mod scripts;

use super::trouble::Trouble;
use super::{
    Answer, Command, Key, OWNER, Once, Replies, Session, Store, StoreError, Tag, Ttl, When,
};
use crate::net::{Ready, Slab, World};
use crate::resp::client::{Client, Target};
use crate::resp::codec::{Decimal, ErrorReply, Received, Reply};
use crate::resp::connection::Shape;
use crate::resp::link::Options as LinkOptions;
use crate::resp::remedy::is_full;
use crate::resp::request::{Encoded, Failure, Home, Request, Words};
use bulk::Bulks;
use record::record_key;
use reply::{Judged, answer, error, reply, wrong_type};
use scan::Scan;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The key of no item, since no id has a control character, and most likely of nothing else; but with an
/// item's prefix, so that whoever may write items may ask it.
const NO_ITEM: &[u8] = b"item:\nkioskd asks whether it could write";

/// Room for large replies is kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A Redis server, a master behind sentinels, or a cluster.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    options: LinkOptions,
    /// What is logged for operators, by all sessions together.
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

    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session> {
        Box::new(RedisSession {
            client: Client::new(self.target.clone(), self.options.clone(), OWNER, world, now),
            tags: Tags::default(),
            bulks: Bulks::default(),
            full: Vec::new(),
            replies: Replies::default(),
            failed: false,
            key: Vec::new(),
            trim_at: None,
            now,
            trouble: Arc::clone(&self.trouble),
        })
    }
}

struct RedisSession {
    client: Client<Asked>,
    /// Where each command is that has no answer yet.
    tags: Tags,
    /// Bulk reads under way.
    bulks: Bulks,
    /// Writes that were refused because memory is full, and what to ask next.
    full: Vec<(Asked, Box<WhenFull>)>,
    /// What is finished.
    replies: Replies,
    /// There is an error in it.
    failed: bool,
    /// For keys in one piece; kept for its room.
    key: Vec<u8>,
    /// When its room is given back, if it is large.
    trim_at: Option<Instant>,
    /// The time of the last turn.
    now: Instant,
    trouble: Arc<Trouble>,
}

/// What a request to the client is for.
enum Asked {
    /// The command of this tag, as a whole.
    Whole(Tag),
    /// A write with a record; and what to ask where it is refused because memory is full.
    Once(Tag, Box<WhenFull>),
    /// Whether a write that was refused like this has a record all the same: then it was done before.
    Seen(Tag, Box<ErrorReply>),
    /// A page for this tag.
    Page(Tag, Box<Scan>),
    /// One value of a bulk read.
    Part(bulk::Part),
}

struct WhenFull {
    command: Encoded,
    home: Home,
    deadline: Instant,
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>, deadline: Instant) {
        let mut buffer = std::mem::take(&mut self.key);
        self.submit_with(now, tag, command, deadline, &mut buffer);
        self.key = buffer;
    }

    fn ready(&mut self, ready: Ready) {
        self.client.ready(ready);
    }

    fn look(&mut self) {
        self.client.look();
    }

    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies {
        let RedisSession { client, tags, bulks, full, replies, failed, .. } = self;
        client.progress(world, now, &mut |asked, shape, result| {
            let (tag, answer) = match asked {
                Asked::Whole(tag) => match result {
                    // Most are that, and so it comes first.
                    Ok(Received::Bulk(value)) if shape == Shape::Value => {
                        tags.forget(tag);
                        return replies.push_value(tag, value);
                    }
                    result => (tag, answer(shape, result)),
                },
                Asked::Once(tag, when_full) => match result {
                    Ok(Received::Other(Reply::Error(e))) if is_full(&e) => {
                        let asked = match when_full.command.is_of(&scripts::LOOK) {
                            true => Asked::Seen(tag, Box::new(e)),
                            false => Asked::Whole(tag),
                        };
                        return full.push((asked, when_full));
                    }
                    result => (tag, answer(shape, result)),
                },
                Asked::Seen(tag, e) => match answer(shape, result) {
                    Ok(Judged::Record(record)) => (tag, Ok(Judged::Record(record))),
                    _ => (tag, answer(shape, Ok(Received::Other(Reply::Error(*e))))),
                },
                Asked::Page(tag, scan) => {
                    tags.forget(tag);
                    match page(*scan, result) {
                        Ok((keys, next)) => replies.push_page(tag, keys, next),
                        Err(e) => {
                            *failed = true;
                            replies.push(tag, Err(e));
                        }
                    }
                    return;
                }
                Asked::Part(part) => {
                    if let Some((tag, end)) = bulks.answered(part, result) {
                        tags.forget(tag);
                        *failed |= end.is_err();
                        match end {
                            Ok(bulk::End::Values(values)) => replies.push_values(tag, values),
                            Ok(bulk::End::TooLarge) => replies.push(tag, Ok(Answer::TooLarge)),
                            Err(e) => replies.push(tag, Err(e)),
                        }
                    }
                    return;
                }
            };
            tags.forget(tag);
            match answer {
                Ok(Judged::Value(value)) => replies.push_value(tag, &value),
                Ok(Judged::Record(record)) => replies.push_record(tag, &record),
                Ok(Judged::Plain(answer)) => replies.push(tag, Ok(answer)),
                Err(e) => {
                    *failed = true;
                    replies.push(tag, Err(e));
                }
            }
        });
        let again = self.ask_when_full(now);
        if self.ask_parts(now) || again {
            // What was asked goes out now; what is there already waits for the next turn, so that one
            // bulk after the other cannot keep a worker from its other clients.
            self.client.send(world, now);
        }
        self.trouble.hear(now, &self.replies, std::mem::take(&mut self.failed));
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
        let without = |result: Result<Reply, Failure>| match result {
            Ok(Reply::Error(e)) => error(&e),
            result => reply(result.map(Received::Other)).err().unwrap_or(StoreError::Timeout),
        };
        let why = match self.tags.take(tag) {
            Some(Doing::Request(key)) => match self.client.abandon(key) {
                // Refused before, for want of memory, and then there was no time to look for a record.
                Some((Asked::Seen(_, e), _)) => error(&e),
                Some((_, result)) => without(result),
                None => StoreError::Timeout,
            },
            // Its parts, which have the same deadline, know why.
            Some(Doing::Bulk(key)) => {
                let bulk = self.bulks.end(key);
                let parts = bulk.iter().flat_map(|bulk| bulk.requests());
                let mut whys = parts.filter_map(|part| self.client.why_not(part)).map(without);
                whys.find(|why| *why != StoreError::Timeout).unwrap_or(StoreError::Timeout)
            }
            None => StoreError::Timeout,
        };
        self.trouble.hear_one(now, &why);
        why
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.replies.is_empty() {
            // At once.
            return Some(self.now);
        }
        self.client.next_deadline().into_iter().chain(self.trim_at).min()
    }
}

impl RedisSession {
    fn submit_with(
        &mut self,
        now: Instant,
        tag: Tag,
        command: Command<'_>,
        deadline: Instant,
        buffer: &mut Vec<u8>,
    ) {
        let plain = Words::plain;
        match command {
            Command::Get { key, renew, once } => {
                let key = key.join(buffer);
                match (renew, once) {
                    (_, Some(once)) => {
                        let record = record_key(key, &once.name);
                        let look: [&[u8]; 3] = [b"2", key, &record];
                        let look = Words::script(&scripts::LOOK, &look);
                        self.ask(now, tag, look, Shape::Look, key, deadline);
                    }
                    (None, None) => {
                        self.ask(now, tag, Words::get(&[key]), Shape::Value, key, deadline)
                    }
                    // To renew twice is to renew: it may be asked again like any read.
                    (Some(ttl), None) => {
                        let ms = Decimal::new(millis(ttl));
                        let read: [&[u8]; 3] = [b"1", key, ms.as_bytes()];
                        self.ask(
                            now,
                            tag,
                            Words::script(&scripts::READ, &read),
                            Shape::Value,
                            key,
                            deadline,
                        );
                    }
                }
            }
            Command::Set { key, value, ttl, when, once } => {
                let key = key.join(buffer);
                match (ttl, &when, &once) {
                    (_, _, Some(once)) => {
                        let record = record_key(key, &once.name);
                        let look: [&[u8]; 3] = [b"2", key, &record];
                        let when_full = Words::script(&scripts::LOOK, &look).encode();
                        set_by_script(key, &value, ttl, &when, Some((once, &record)), |first| {
                            self.ask_once(now, tag, first, when_full, key, deadline);
                        });
                    }
                    (Ttl::AtLeast(_), _, None) | (_, When::Unchanged(_), None) => {
                        set_by_script(key, &value, ttl, &when, None, |set| {
                            self.ask(now, tag, set, Shape::StoredFlag, key, deadline);
                        });
                    }
                    (_, _, None) => set_plainly(key, &value, ttl, &when, |set| {
                        self.ask(now, tag, set, Shape::Stored, key, deadline);
                    }),
                }
            }
            Command::Delete { key, when: When::Always, once: None } => {
                let key = key.join(buffer);
                self.ask(now, tag, plain(&[b"DEL", key]), Shape::Count, key, deadline);
            }
            Command::Delete { key, when, once: None } => {
                let key = key.join(buffer);
                delete(key, &when, None, true, |delete| {
                    self.ask(now, tag, delete, Shape::DeletedFlag, key, deadline);
                });
            }
            Command::Delete { key, when, once: Some(once) } => {
                let key = key.join(buffer);
                let mut when_full = Encoded::default();
                delete(key, &when, Some(&once), true, |delete| when_full = delete.encode());
                delete(key, &when, Some(&once), false, |first| {
                    self.ask_once(now, tag, first, when_full, key, deadline);
                });
            }
            Command::Take { key, window } => {
                let key = key.join(buffer);
                let ms = Decimal::new(millis(window));
                let take: [&[u8]; 3] = [b"1", key, ms.as_bytes()];
                self.ask(
                    now,
                    tag,
                    Words::script(&scripts::TAKE, &take),
                    Shape::Pair,
                    key,
                    deadline,
                );
            }
            // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. A SET is
            // refused there before its condition is looked at, and XX never holds.
            Command::Ping => {
                let set: [&[u8]; 6] = [b"SET", NO_ITEM, b"", b"PX", b"1", b"XX"];
                self.ask(now, tag, plain(&set), Shape::Probe, NO_ITEM, deadline);
            }
            Command::Scan { prefix, cursor, limit } => {
                let prefix = prefix.join(buffer);
                self.scan(now, tag, prefix, cursor.as_deref(), limit, deadline);
            }
            Command::GetMany { keys, bytes_max } => {
                match self.bulks.begin(tag, keys, bytes_max, deadline) {
                    Ok(key) => {
                        self.tags.set(tag, Doing::Bulk(key));
                        self.ask_parts(now);
                    }
                    Err(e) => self.refuse(tag, e),
                }
            }
        }
    }

    fn refuse(&mut self, tag: Tag, e: StoreError) {
        self.failed = true;
        self.replies.push(tag, Err(e));
    }

    /// Asks the whole of a command at once.
    fn ask(
        &mut self,
        now: Instant,
        tag: Tag,
        words: Words<'_>,
        shape: Shape,
        key: &[u8],
        deadline: Instant,
    ) {
        let request = request(Asked::Whole(tag), shape, self.client.home_of(key), deadline);
        let key = self.client.submit(now, request, words);
        self.tags.set(tag, Doing::Request(key));
    }

    /// A write with a record. Memory that is full refuses it unseen, so there a second step has to see.
    fn ask_once(
        &mut self,
        now: Instant,
        tag: Tag,
        first: Words<'_>,
        command: Encoded,
        key: &[u8],
        deadline: Instant,
    ) {
        let home = self.client.home_of(key);
        let when_full = Box::new(WhenFull { command, home: home.clone(), deadline });
        let request = request(Asked::Once(tag, when_full), Shape::Once, home, deadline);
        let key = self.client.submit(now, request, first);
        self.tags.set(tag, Doing::Request(key));
    }

    /// Asks the second steps of writes that were refused because memory is full; whether there are any.
    fn ask_when_full(&mut self, now: Instant) -> bool {
        if self.full.is_empty() {
            return false;
        }
        for (asked, when_full) in std::mem::take(&mut self.full) {
            let (Asked::Whole(tag) | Asked::Seen(tag, _)) = asked else {
                continue;
            };
            let shape = if matches!(asked, Asked::Seen(..)) { Shape::Look } else { Shape::Once };
            let WhenFull { command, home, deadline } = *when_full;
            let request = request(asked, shape, home, deadline);
            let key = self.client.submit_encoded(now, request, command);
            self.tags.set(tag, Doing::Request(key));
        }
        true
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
        let Some(masters) = self.client.masters(now) else {
            let why = "not all of its servers are known".to_owned();
            return self.refuse(tag, StoreError::Unavailable(why));
        };
        let Some((scan, server)) = Scan::begin(prefix, cursor, &masters) else {
            return self.replies.push(tag, Ok(Answer::BadCursor));
        };
        scan.ask(limit, |scan, words| {
            let asked = Asked::Page(tag, Box::new(scan));
            let request = request(asked, Shape::Any, Home::Server(Box::new(server)), deadline);
            let key = self.client.submit(now, request, words);
            self.tags.set(tag, Doing::Request(key));
        });
    }

    /// Asks what the bulk reads may ask now; whether that is anything.
    fn ask_parts(&mut self, now: Instant) -> bool {
        let mut asked = false;
        if self.bulks.is_empty() {
            return false;
        }
        while let Some((part, key, deadline)) = self.bulks.ask() {
            let home = self.client.home_of(key);
            // The bulk may have ended before it, so it has a deadline of its own.
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

/// Where the commands are that have no answer yet, by the places of their tags: those are keys of a
/// [`Slab`], and so small numbers that differ. (Any others work, too, but have to be searched for.)
#[derive(Default)]
struct Tags {
    places: Vec<Option<(Tag, Doing)>>,
    others: Vec<(Tag, Doing)>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// A request to the client, by its key.
    Request(u64),
    /// A bulk read, by its key.
    Bulk(u64),
}

/// Places that there can be, and that are kept when no command is under way.
const PLACES_MAX: usize = 1 << 20;
const PLACES_KEPT: usize = 256;

impl Tags {
    fn set(&mut self, tag: Tag, doing: Doing) {
        let place = Slab::<()>::place(tag);
        if place >= self.places.len() && place < PLACES_MAX {
            self.places.resize(place + 1, None);
        }
        match self.places.get_mut(place) {
            Some(free @ None) => {
                *free = Some((tag, doing));
                self.len += 1;
            }
            Some(Some((same, old))) if *same == tag => *old = doing,
            _ => self.others.push((tag, doing)),
        }
    }

    fn take(&mut self, tag: Tag) -> Option<Doing> {
        let place = self.places.get_mut(Slab::<()>::place(tag));
        let Some((_, doing)) = place.and_then(|place| place.take_if(|(other, _)| *other == tag))
        else {
            let at = self.others.iter().position(|(other, _)| *other == tag)?;
            return Some(self.others.swap_remove(at).1);
        };
        self.len -= 1;
        if self.len == 0 && self.places.len() > PLACES_KEPT {
            self.places.truncate(PLACES_KEPT);
            self.places.shrink_to_fit();
        }
        Some(doing)
    }

    fn forget(&mut self, tag: Tag) {
        self.take(tag);
    }
}

impl Key<'_> {
    /// All of it, in `buffer`.
    fn join<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        buffer.extend_from_slice(self.prefix.as_bytes());
        buffer.extend_from_slice(&self.id);
        buffer
    }
}

fn page(
    scan: Scan,
    result: Result<Received<'_>, Failure>,
) -> Result<(scan::Keys, Option<Vec<u8>>), StoreError> {
    scan.end(reply(result)?.into_reply()).ok_or_else(wrong_type)
}

/// How a script spells a condition, and the bytes it compares with.
fn condition<'a>(when: &'a When<'_>) -> [&'a [u8]; 2] {
    match when {
        When::Always => [b"always", b""],
        When::Absent => [b"absent", b""],
        When::Present => [b"present", b""],
        When::Unchanged(old) => [b"same", old],
    }
}

fn set_by_script(
    key: &[u8],
    value: &[u8],
    ttl: Ttl,
    when: &When<'_>,
    once: Option<(&Once<'_>, &[u8])>,
    ask: impl FnOnce(Words<'_>),
) {
    let [when, old] = condition(when);
    let (mode, ms): (&[u8], _) = match ttl {
        Ttl::Exactly(ttl) => (b"set", millis(ttl)),
        Ttl::AtLeast(ttl) => (b"least", millis(ttl)),
        Ttl::Keep => (b"keep", 0),
    };
    let ms = Decimal::new(ms);
    let Some((once, record)) = once else {
        return ask(Words::script(
            &scripts::SET,
            &[b"1", key, when, old, value, ms.as_bytes(), mode],
        ));
    };
    let record_ms = Decimal::new(millis(once.ttl));
    let keeps: &[u8] = if once.keeps_value { b"1" } else { b"0" };
    ask(Words::script(
        &scripts::SET,
        &[
            b"2",
            key,
            record,
            when,
            old,
            value,
            ms.as_bytes(),
            mode,
            &once.fingerprint,
            record_ms.as_bytes(),
            keeps,
        ],
    ));
}

fn set_plainly(key: &[u8], value: &[u8], ttl: Ttl, when: &When<'_>, ask: impl FnOnce(Words<'_>)) {
    let mut words: [&[u8]; 6] = [b"SET", key, value, b"KEEPTTL", b"", b""];
    let (unit, n) = match ttl {
        Ttl::Exactly(ttl) | Ttl::AtLeast(ttl) => time(ttl),
        Ttl::Keep => (&b"KEEPTTL"[..], Decimal::new(0)),
    };
    let mut count = 4;
    words[3] = unit;
    if ttl != Ttl::Keep {
        words[count] = n.as_bytes();
        count += 1;
    }
    match when {
        When::Absent => words[count] = b"NX",
        When::Present => words[count] = b"XX",
        // A key with no time to keep would live for ever.
        When::Always | When::Unchanged(_) if ttl == Ttl::Keep => words[count] = b"XX",
        When::Always | When::Unchanged(_) => count -= 1,
    }
    ask(Words::plain(&words[..=count]));
}

/// With `when_full` it passes when memory is full, and records only that something was removed: what removes nothing
/// could be sent for ever, and each would leave a record.
fn delete(
    key: &[u8],
    when: &When<'_>,
    once: Option<&Once<'_>>,
    when_full: bool,
    ask: impl FnOnce(Words<'_>),
) {
    let [when, old] = condition(when);
    let (script, record_what): (_, &[u8]) = match when_full {
        true => (&scripts::DELETE_WHEN_FULL, b"removed"),
        false => (&scripts::DELETE, b"always"),
    };
    let Some(once) = once else {
        return ask(Words::script(script, &[b"1", key, when, old]));
    };
    let ms = Decimal::new(millis(once.ttl));
    let record = record_key(key, &once.name);
    ask(Words::script(
        script,
        &[b"2", key, &record, when, old, &once.fingerprint, ms.as_bytes(), record_what],
    ));
}

/// `EX seconds` where it comes out even, as the Go service writes it, else `PX milliseconds`.
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
