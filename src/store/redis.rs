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
//! GetMany, DeleteMany      many GETs, or DELs, a few at a time    see [`bulk`]
//! Ping                     SET item:⏎… "" PX 1 XX         a write that never happens
//! ```
//!
//! An upper-case name alone in the second column is a script ([`scripts`]), and still one step. Value and time to live
//! always go in one command: a crash between two would leave a key that never expires.

pub mod bulk;
mod health;
pub mod record;
mod reply;
pub mod scan;
pub mod scripts;

use super::trouble::Trouble;
use super::{
    Answer, Command, Measure, OWNER, Once, Replies, Session, Store, StoreError, Tag, Ttl, When,
};
use crate::net::{Ready, World};
use crate::resp::client::Client;
use crate::resp::codec::{ErrorReply, Received, Reply};
use crate::resp::command::{Decimal, Script, Words, words_of};
use crate::resp::error_action::is_full;
use crate::resp::options::{Options, Target};
use crate::resp::reply_type::ReplyType;
use crate::resp::request::{Asker, Failure, Route, Slot, Ticket};
use bulk::Bulks;
use health::{Health, Voice};
use record::record_key;
use reply::{answer, error, reply, without_reply, wrong_type};
use scan::Scan;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of no item, since no id has a control character, and most likely of nothing else; but with an item's prefix,
/// so that a user who may write items may use it.
const NO_ITEM: &[u8] = b"item:\nkioskd asks whether it could write";

/// How many words a recorded delete has, after the name of its script.
const DELETE_WORDS: usize = 8;

/// Capacity for large replies is kept for this long.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A Redis server, a master behind sentinels, or a cluster.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    options: Options,
    /// Stands before every key (`KEY_PREFIX`), so that two deployments can share one server.
    key_prefix: String,
    /// What is logged for operators, and what readiness depends on, shared by all sessions.
    trouble: Arc<Trouble>,
    health: Arc<Health>,
}

impl Redis {
    /// The store at `target`. Nothing is connected yet.
    pub fn new(target: Target, options: Options) -> Redis {
        let key_prefix = String::new();
        Redis { target, options, key_prefix, trouble: Arc::default(), health: Arc::default() }
    }

    /// The same store, with this before every key.
    #[must_use]
    pub fn with_key_prefix(self, key_prefix: String) -> Redis {
        Redis { key_prefix, ..self }
    }

    /// As [`session`](Store::session).
    pub fn open(&self, world: &mut dyn World, now: Instant) -> RedisSession {
        RedisSession {
            client: Client::new(self.target.clone(), self.options.clone(), OWNER, world, now),
            bulks: Bulks::default(),
            pages: Vec::new(),
            unplanned: Vec::new(),
            full: Vec::new(),
            seen: Vec::new(),
            pings: Vec::new(),
            pongs: Vec::new(),
            uncounted: Vec::new(),
            replies: Replies::default(),
            key_prefix: self.key_prefix.as_bytes().into(),
            no_item: [self.key_prefix.as_bytes(), NO_ITEM].concat().into(),
            key: Vec::new(),
            trim_at: None,
            now,
            trouble: Arc::clone(&self.trouble),
            voice: self.health.join(),
            health: Arc::clone(&self.health),
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

    fn is_up(&self, now: Instant) -> bool {
        self.health.is_up(now)
    }

    fn measures(&self) -> Vec<Measure> {
        self.health.measures()
    }

    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session> {
        Box::new(self.open(world, now))
    }
}

/// A worker's session with Redis. The client knows each command by its tag; here is only what must be known beside that
/// to answer it.
pub struct RedisSession {
    client: Client,
    /// Bulk reads under way.
    bulks: Bulks,
    /// Pages under way, and those for which the servers are not all known yet.
    pages: Vec<(Scan, List)>,
    unplanned: Vec<List>,
    /// Writes that were refused because memory is full, and are to be followed by a second request.
    full: Vec<(Tag, ErrorReply, Vec<u8>)>,
    /// Of these, the ones whose second request is under way: it looks for a record, because they may have been done
    /// before.
    seen: Vec<(Tag, ErrorReply)>,
    /// Probes under way, and those whose server has answered well.
    pings: Vec<Tag>,
    pongs: Vec<Tag>,
    /// Of the finished commands those that were to count a request, and have not.
    uncounted: Vec<Tag>,
    /// Finished commands.
    replies: Replies,
    /// Stands before every key.
    key_prefix: Rc<[u8]>,
    /// See [`NO_ITEM`].
    no_item: Rc<[u8]>,
    /// For keys in one piece; kept for its capacity.
    key: Vec<u8>,
    /// When the capacity of the replies is freed, if it is large.
    trim_at: Option<Instant>,
    /// The time of the last call of `progress`.
    now: Instant,
    trouble: Arc<Trouble>,
    voice: Voice,
    health: Arc<Health>,
}

/// Which request of a command a reply is for: its only one; the second one, after a refusal because memory is full; a
/// page; and, from [`PARTS`] on, the parts of a bulk.
const WHOLE: u32 = 0;
const AGAIN: u32 = 1;
const PAGE: u32 = 2;
const PARTS: u32 = 3;

/// A page that was asked for, and since when.
struct List {
    call: Call,
    prefix: Vec<u8>,
    cursor: Option<Vec<u8>>,
    limit: usize,
}

/// How long a page waits until all servers are known, and it was heard lately who they are.
const UNPLANNED_FOR: Duration = Duration::from_secs(1);

/// When a command was submitted, and its tag.
#[derive(Clone, Copy)]
struct Call {
    now: Instant,
    tag: Tag,
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) {
        let call = Call { now, tag };
        let mut buffer = std::mem::take(&mut self.key);
        match command {
            Command::Get { key, renew, once } => {
                self.get(call, key.join(&self.key_prefix, &mut buffer), renew, once.as_deref());
            }
            Command::Set { key, value, ttl, when, once } => {
                self.set(
                    call,
                    key.join(&self.key_prefix, &mut buffer),
                    &value,
                    ttl,
                    &when,
                    once.as_deref(),
                );
            }
            Command::Delete { key, when, once } => {
                self.delete(call, key.join(&self.key_prefix, &mut buffer), &when, once.as_deref());
            }
            Command::Take { key, window } => {
                let (key, ms) =
                    (key.join(&self.key_prefix, &mut buffer), Decimal::new(millis(window)));
                self.run(call, key, &scripts::TAKE, &[b"1", key, ms.as_bytes()], ReplyType::Pair);
            }
            // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. There a SET is refused
            // before its condition is checked, and XX never holds for this key.
            Command::Ping => {
                self.pings.push(tag);
                let no_item = Rc::clone(&self.no_item);
                let set: [&[u8]; 6] = [b"SET", &no_item, b"", b"PX", b"1", b"XX"];
                match self.client.instead_of(now, &no_item) {
                    None => self.ask(call, &no_item, Words::plain(&set), ReplyType::Probe),
                    // Only a part of the cluster is away: it serves what it can.
                    Some(node) => {
                        let (ping, route) = (Words::plain(&[b"PING"]), Route::Node(node));
                        self.send(call, WHOLE, ReplyType::Probe, route, ping);
                    }
                }
            }
            Command::Scan { prefix, cursor, limit } => {
                let prefix = prefix.join(&self.key_prefix, &mut buffer).to_vec();
                self.scan(now, List { call, prefix, cursor, limit });
            }
            Command::GetMany { keys, bytes_max } => self.begin(call, keys, bytes_max, false),
            Command::DeleteMany { keys } => self.begin(call, keys, usize::MAX, true),
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
        let RedisSession {
            client,
            bulks,
            pages,
            unplanned,
            full,
            seen,
            pings,
            pongs,
            uncounted,
            replies,
            health,
            ..
        } = self;
        client.progress(world, now, &mut |Ticket { tag, part }, reply_type, result, command| {
            // Most replies are of this kind, so it comes first.
            if let (Ok(Received::Bulk(value)), ReplyType::Value, WHOLE) =
                (&result, reply_type, part)
            {
                return replies.push(tag, Ok(Answer::Value(Some(value))));
            }
            match (part, result) {
                (WHOLE, Ok(Received::Other(Reply::Error(e))))
                    if reply_type == ReplyType::Once && is_full(&e) =>
                {
                    full.push((tag, e, command.to_vec()));
                }
                (AGAIN, result) if reply_type == ReplyType::Look => {
                    let Some((_, e)) = take(seen, |(of, _)| *of == tag) else {
                        return;
                    };
                    let received = reply(result);
                    match received.as_ref().map(|received| answer(reply_type, received)) {
                        Ok(Ok(recorded @ Answer::Recorded(_))) => replies.push(tag, Ok(recorded)),
                        _ => replies.push(tag, Err(error(&e))),
                    }
                }
                (WHOLE | AGAIN, result) => {
                    let received = reply(result);
                    let answer = match &received {
                        Ok(received) => answer(reply_type, received),
                        Err(e) => Err(e.clone()),
                    };
                    if reply_type == ReplyType::Probe {
                        pings.retain(|ping| *ping != tag);
                        health.probed(now, answer.is_ok());
                    }
                    if reply_type == ReplyType::Pair && answer.is_err() {
                        uncounted.push(tag);
                    }
                    match answer {
                        Ok(Answer::Pong) => pongs.push(tag),
                        answer => replies.push(tag, answer),
                    }
                }
                (PAGE, result) => {
                    let Some((scan, list)) = take(pages, |(_, list)| list.call.tag == tag) else {
                        return;
                    };
                    // The master was replaced: its successor is asked, as soon as it is known.
                    if matches!(result, Err(Failure::Left)) {
                        return unplanned.push(list);
                    }
                    let before = self.key_prefix.len();
                    let page =
                        reply(result).map(|received| scan.end(received.into_reply(), before));
                    let page = page.and_then(|page| page.ok_or_else(wrong_type));
                    replies.push(tag, page.map(|page| Answer::Page(page.into())));
                }
                (part, result) => {
                    let place = (part - PARTS) as usize;
                    if let Some(reply) = bulks.answered(tag, place, result) {
                        replies.push(tag, reply);
                    }
                }
            }
        });
        while let Some(tag) = self.pongs.pop() {
            // This worker is ready; others may not be.
            let trouble = self.health.trouble(now).map_or(Ok(()), Err);
            self.replies.push(tag, trouble.map(|()| self.pong(now)));
        }
        let has_more =
            !self.full.is_empty() || !self.bulks.is_empty() || !self.unplanned.is_empty();
        if has_more && (self.ask_when_full(now) | self.ask_parts(now) | self.ask_pages(now)) {
            // New requests go out now; replies that have arrived already wait for the next turn, so that one bulk after
            // the other cannot keep a worker from its other clients.
            self.client.send(world, now);
        }
        self.voice.count(self.client.counts(), self.client.in_flight());
        self.voice.say(now, self.client.trouble(now).map(without_reply));
        // There may be thousands of both.
        self.uncounted.sort_unstable();
        self.trouble.hear(now, &self.replies, |tag| self.uncounted.binary_search(&tag).is_ok());
        self.uncounted.clear();
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
        self.pages.retain(|(_, list)| list.call.tag != tag);
        if take(&mut self.pings, |ping| *ping == tag).is_some() {
            self.health.probed(now, false);
        }
        let unplanned = take(&mut self.unplanned, |list| list.call.tag == tag);
        let mut why = unplanned.map(|_| not_all_known());
        // The parts of a bulk have the same tag. Why one was not sent says more than the timeout of one that was.
        let was_bulk = self.bulks.end(tag).is_some();
        let mut is_count = false;
        while let Some((reply_type, failure)) = self.client.abandon(tag) {
            is_count = reply_type == ReplyType::Pair;
            why = why.filter(|why| *why != StoreError::Timeout).or(Some(without_reply(failure)));
            if !was_bulk {
                break;
            }
        }
        // A write was refused because memory is full, and there was no time left to look for a record.
        if let Some((_, e)) = take(&mut self.seen, |(of, _)| *of == tag) {
            why = Some(error(&e));
        }
        let why = why.unwrap_or(StoreError::Timeout);
        self.trouble.hear(now, &Replies::of(Err(why.clone())), |_| is_count);
        why
    }

    fn is_connecting(&self) -> bool {
        self.client.is_connecting()
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.replies.is_empty() {
            // There are finished commands: call at once.
            return Some(self.now);
        }
        let unplanned = self.unplanned.first().map(|page| page.call.now + UNPLANNED_FOR);
        let told = self.voice.next_after(self.now);
        let next = self.client.next_deadline().into_iter();
        next.chain(self.trim_at).chain(unplanned).chain(told).min()
    }
}

impl RedisSession {
    /// How many entries its tables have, for tests and the simulator: none when every command was answered or abandoned
    /// and no reply is awaited.
    pub fn waiting(&self) -> usize {
        let (requests, bytes) = self.client.waiting();
        let bulks = usize::from(!self.bulks.is_empty()) + self.bulks.counted();
        requests
            + bytes
            + self.pages.len()
            + self.unplanned.len()
            + self.full.len()
            + self.seen.len()
            + self.pings.len()
            + bulks
    }

    /// Begins a bulk.
    fn begin(&mut self, call: Call, mut keys: Vec<Vec<u8>>, bytes_max: usize, removes: bool) {
        let before = &self.key_prefix;
        keys.iter_mut().for_each(|key| drop(key.splice(..0, before.iter().copied())));
        match self.bulks.begin(call.tag, keys, bytes_max, removes) {
            Ok(()) => drop(self.ask_parts(call.now)),
            Err(e) => self.replies.push(call.tag, Err(e)),
        }
    }

    fn pong(&self, now: Instant) -> Answer<&'static [u8]> {
        let away = self.client.away(now).into_iter();
        let away: Vec<String> =
            away.map(|(at, why)| format!("{at}: {}", without_reply(why))).collect();
        if away.is_empty() { Answer::Pong } else { Answer::Partial(away.into()) }
    }

    fn get(&mut self, call: Call, key: &[u8], renew: Option<Duration>, once: Option<&Once<'_>>) {
        match (renew, once) {
            (None, None) => self.ask(call, key, Words::get(&[key]), ReplyType::Value),
            (_, Some(once)) => {
                let record = record_key(&self.key_prefix, key, &once.name);
                self.run(call, key, &scripts::LOOK, &[b"2", key, &record], ReplyType::Look);
            }
            // Renewing twice has the same effect as once: the command may be sent again like any read.
            (Some(ttl), None) => {
                let ms = Decimal::new(millis(ttl));
                self.run(call, key, &scripts::READ, &[b"1", key, ms.as_bytes()], ReplyType::Value);
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
            return self.ask(call, key, Words::plain(words), ReplyType::Stored);
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
            return self.run(call, key, &scripts::SET, &words, ReplyType::StoredFlag);
        };
        let (record, record_ms) =
            (record_key(&self.key_prefix, key, &once.name), Decimal::new(millis(once.ttl)));
        let (fingerprint, record_ms) = (&once.fingerprint, record_ms.as_bytes());
        let keeps: &[u8] = if once.keeps_value { b"1" } else { b"0" };
        let words: [&[u8]; 11] =
            [b"2", key, &record, when, old, value, ms, mode, fingerprint, record_ms, keeps];
        self.run(call, key, &scripts::SET, &words, ReplyType::Once);
    }

    fn delete(&mut self, call: Call, key: &[u8], when: &When<'_>, once: Option<&Once<'_>>) {
        if let (When::Always, None) = (when, once) {
            return self.ask(call, key, Words::plain(&[b"DEL", key]), ReplyType::Count);
        }
        let [when, old] = condition(when);
        let Some(once) = once else {
            let words: [&[u8]; 4] = [b"1", key, when, old];
            return self.run(call, key, &scripts::DELETE_WHEN_FULL, &words, ReplyType::DeletedFlag);
        };
        let (record, ms) =
            (record_key(&self.key_prefix, key, &once.name), Decimal::new(millis(once.ttl)));
        let words: [&[u8]; 8] =
            [b"2", key, &record, when, old, &once.fingerprint, ms.as_bytes(), b"always"];
        self.run(call, key, &scripts::DELETE, &words, ReplyType::Once);
    }

    #[inline]
    fn ask(&mut self, call: Call, key: &[u8], words: Words<'_>, reply_type: ReplyType) {
        let route = self.client.route_of(key);
        self.send(call, WHOLE, reply_type, route, words);
    }

    fn run(
        &mut self,
        call: Call,
        key: &[u8],
        script: &'static Script,
        words: &[&[u8]],
        reply_type: ReplyType,
    ) {
        self.ask(call, key, Words::script(script, words), reply_type);
    }

    #[inline]
    fn send(
        &mut self,
        Call { now, tag }: Call,
        part: u32,
        reply_type: ReplyType,
        route: Route,
        words: Words<'_>,
    ) {
        use ReplyType::{Any, Look, Probe, Value};
        let read_only = matches!(reply_type, Value | Look | Probe | Any);
        let asker = Asker::Requester(Ticket { tag, part });
        self.client.submit(now, Slot::new(asker, reply_type, route, read_only), words);
    }

    /// Sends the second requests of writes that were refused because memory is full; whether there are any. Redis has
    /// not run them, so it is not known whether they were done before.
    fn ask_when_full(&mut self, now: Instant) -> bool {
        let full = std::mem::take(&mut self.full);
        let any = !full.is_empty();
        for (tag, e, command) in full {
            let (call, words) = (Call { now, tag }, words_of(&command));
            let (route, words) = (self.client.route_of(words[3]), &words[2..]);
            if words.len() == DELETE_WORDS {
                // When memory is full this script still runs, and records a delete only if it removed something:
                // deletes that remove nothing could be sent without end, and each would leave a record.
                let words = [&words[..DELETE_WORDS - 1], &[b"removed"]].concat();
                let words = Words::script(&scripts::DELETE_WHEN_FULL, &words);
                self.send(call, AGAIN, ReplyType::Once, route, words);
            } else {
                self.seen.push((tag, e));
                let words = Words::script(&scripts::LOOK, &words[..3]);
                self.send(call, AGAIN, ReplyType::Look, route, words);
            }
        }
        any
    }

    /// Asks for the pages that wait for the servers to be known; whether there are any.
    fn ask_pages(&mut self, now: Instant) -> bool {
        let unplanned = std::mem::take(&mut self.unplanned);
        let any = !unplanned.is_empty();
        unplanned.into_iter().for_each(|list| self.scan(now, list));
        any
    }

    fn scan(&mut self, now: Instant, list: List) {
        let List { call, prefix, cursor, limit } = &list;
        let (tag, since) = (call.tag, call.now);
        let waits = now.saturating_duration_since(since) < UNPLANNED_FOR;
        let Some(masters) = self.client.masters(now, waits) else {
            if waits {
                return self.unplanned.push(list);
            }
            return self.replies.push(tag, Err(not_all_known()));
        };
        let Some((scan, node)) = Scan::begin(prefix, cursor.as_deref(), &masters) else {
            return self.replies.push(tag, Ok(Answer::BadCursor));
        };
        scan.ask(*limit, |words| {
            self.send(Call { now, tag }, PAGE, ReplyType::Any, Route::Node(node), words);
        });
        self.pages.push((scan, list));
    }

    /// Sends the next requests of the bulk reads; whether there are any.
    fn ask_parts(&mut self, now: Instant) -> bool {
        let mut asked = false;
        while let Some((tag, place, key, removes)) = self.bulks.ask() {
            let (route, part) = (self.client.route_of(key), PARTS + place as u32);
            let asker = Asker::Requester(Ticket { tag, part });
            // Like any write, a removal that was sent is not sent again: the first could come after the answer, and
            // remove what was stored since.
            let reply_type = if removes { ReplyType::Count } else { ReplyType::Value };
            let slot = Slot::new(asker, reply_type, route, !removes);
            let words: [&[u8]; 2] = [b"DEL", key];
            match removes {
                true => self.client.submit(now, slot, Words::plain(&words)),
                false => self.client.submit(now, slot, Words::get(&[key])),
            }
            asked = true;
        }
        asked
    }
}

fn not_all_known() -> StoreError {
    StoreError::Unavailable("not all of its servers are known".to_owned())
}

/// Takes the first out for which this holds.
fn take<T>(list: &mut Vec<T>, is_meant: impl FnMut(&T) -> bool) -> Option<T> {
    list.iter().position(is_meant).map(|at| list.remove(at))
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
