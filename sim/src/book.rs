//! What was asked and answered, and whether it kept the promises in docs/simulation.md.
//!
//! The history of each key must be linearizable (Herlihy and Wing): there must be one moment for each operation, between
//! its call and its return, such that one after the other they explain every answer. The search is that of Wing and Gong,
//! with Lowe's memory of places already seen. A write of unknown outcome may take effect at any time after its call, or
//! never. Expiry is an operation, too: a value may be gone from its deadline on, by the server's clock.

use crate::net::{Host, MS, NEVER, SECOND, Time};
use crate::owed::SHARDS_ARE_APART;
use kioskd::service::etag::etag;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How long after a fault everything has to work again.
const RECOVERY: Time = 5 * SECOND;

/// A document, by number.
pub type Doc = u32;

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// GET, HEAD, or a part of a bulk read.
    Read,
    /// PUT of a document.
    Put(Doc),
    /// POST of a document: the answer does not tell whether there was one before.
    Post(Doc),
    /// PATCH with a merge patch.
    Patch(Doc),
    /// DELETE.
    Delete,
}

/// Its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cond {
    /// None.
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match` with the tag of this document.
    Is(Doc),
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// This document; also that of a tag.
    Doc(Doc),
    /// 404.
    Nothing,
    /// 201.
    Created,
    /// 204, or 201 to a POST.
    Done,
    /// 412.
    Unmet,
    /// It is unknown whether it took effect.
    Unknown,
}

/// An operation.
#[derive(Debug, Clone)]
pub struct Op {
    /// On which key.
    pub key: usize,
    /// See [`Verb`].
    pub verb: Verb,
    /// See [`Cond`].
    pub cond: Cond,
    /// How long what it writes lives; for a read and a PATCH of a session, at least; `None`: as long as before.
    pub ttl: Option<Time>,
    /// When it was sent.
    pub call: Time,
    /// When its answer was there.
    pub ret: Time,
    /// See [`Seen`].
    pub seen: Seen,
}

/// What a fault of the store, or on the way to it, takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Something, perhaps.
    Some,
    /// All writes, and no read of an item.
    Writes,
    /// Writes with an Idempotency-Key, perhaps, and nothing else.
    Guarded,
    /// Everything.
    All,
}

/// A fault of the store, or on the way to it.
#[derive(Debug)]
pub struct Outage {
    /// From when,
    pub from: Time,
    /// and until when.
    pub to: Time,
    /// See [`Lost`].
    pub lost: Lost,
    /// Which keys it is about, a bit for each; the highest stands for all that is not about one key.
    pub keys: u32,
}

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// It only reads an item.
    pub reads: bool,
    /// It has an Idempotency-Key.
    pub guarded: bool,
    /// As in [`Outage`].
    pub keys: u32,
}

/// A command that was executed by a server that is no master any more, or not yet known to be none.
#[derive(Debug)]
pub struct Stray {
    /// Which process had sent it.
    pub host: Host,
    /// On which key.
    pub key: usize,
    /// When it was executed.
    pub at: Time,
}

impl Op {
    /// An operation of which nothing is known yet.
    pub fn new(key: usize, verb: Verb) -> Op {
        Op { key, verb, cond: Cond::Always, ttl: None, call: NEVER, ret: NEVER, seen: Seen::Unknown }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Book {
    /// Every document that was ever written, by its number.
    pub docs: Vec<String>,
    numbers: HashMap<String, Doc>,
    /// Which document has which entity tag.
    pub tags: BTreeMap<String, Doc>,
    /// The tag of each key that was seen last.
    pub latest: BTreeMap<usize, (String, Doc)>,
    /// All operations.
    pub history: Vec<Op>,
    /// When a server lost all data.
    pub wipes: Vec<Time>,
    /// When a master began anew, with what each of its keys held then.
    pub reigns: BTreeMap<usize, Vec<(Time, State)>>,
    /// See [`Stray`].
    pub strays: Vec<Stray>,
    /// Writers whose writes were lost, with a master that was replaced.
    pub lost: BTreeSet<String>,
    /// Writers that were told of success.
    pub told: BTreeSet<String>,
    /// Answers to writes that have not been looked at: by whom, whose, and when.
    pub acks: Vec<(Host, String, Time)>,
    /// When a master or a map has changed the last time.
    pub turned: Time,
    /// When slots were moved the last time.
    pub reshards: Option<Time>,
    /// Items that are moved from one server to another, until when: a list may miss them.
    pub carried: BTreeMap<String, Time>,
    /// When the server's clock jumped, and by how much.
    pub jumps: Vec<(Time, Time)>,
    /// See [`Outage`].
    pub outages: Vec<Outage>,
    /// When a process stood still.
    pub pauses: Vec<(Host, Time, Time)>,
    /// When a process was started.
    pub starts: BTreeMap<Host, Time>,
    /// Since when a process drains.
    pub drains: BTreeMap<Host, Time>,
    /// Conditional writes that won, by key and the document they replaced.
    won: BTreeSet<(usize, Doc, usize)>,
    /// How often each writer's value was written since the last wipe, and when first.
    pub effects: BTreeMap<String, (u32, Time)>,
    /// Who has written under each name, since it was wiped the last time.
    pub by_key: BTreeMap<Vec<u8>, Vec<String>>,
    /// How long what each writer writes is to live, in milliseconds, where that is told in advance.
    pub lives: BTreeMap<String, i64>,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// See [`crate::redis::Db`].
    pub moves: u64,
    /// Requests that were sent, answers that came, faults, and histories too large to search.
    pub counts: [u64; 4],
}

impl Book {
    /// A promise is broken: the first is kept.
    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// The number of a document.
    pub fn doc(&mut self, text: &str) -> Doc {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.docs.push(text.to_owned());
        let number = self.docs.len() as Doc - 1;
        self.tags.insert(String::from_utf8_lossy(&etag(text.as_bytes())).into_owned(), number);
        self.numbers.insert(text.to_owned(), number);
        number
    }

    /// Records an answered operation.
    pub fn record(&mut self, host: Host, mut op: Op) {
        // What a server says that is no master any more, and is not known to be none, may be stale or lost.
        if op.ret < NEVER && self.strayed(host, op.key, op.call, op.ret) {
            (op.seen, op.ret) = (Seen::Unknown, NEVER);
        }
        let reigns = self.reigns.get(&op.key);
        if let (Cond::Is(old), Seen::Created | Seen::Done | Seen::Doc(_)) = (&op.cond, op.seen)
            && op.verb != Verb::Read
            && reigns.and_then(|reigns| reigns.last()).is_none_or(|reign| op.call > reign.0)
            && !self.won.insert((op.key, *old, reigns.map_or(0, Vec::len)))
        {
            self.breaks(format!("of concurrent conditional writers one wins; a second one did: {op:?}"));
        }
        self.history.push(op);
    }

    /// Whether a process had this key's value from a server that was no master any more, between these times.
    pub fn strayed(&self, host: Host, key: usize, from: Time, to: Time) -> bool {
        let strays = self.strays.iter().rev().take_while(|stray| stray.at >= from);
        strays.into_iter().any(|stray| (stray.host, stray.key) == (host, key) && stray.at <= to)
    }

    /// How many writes were acknowledged, and then lost by a failover.
    pub fn lost_acknowledged(&self) -> usize {
        self.told.intersection(&self.lost).count()
    }

    /// Who has written a value.
    pub fn writer(&self, value: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(value);
        let (_, rest) = text.split_once("\"by\":\"")?;
        rest.split('"').next().map(str::to_owned)
    }

    /// A value was written by the server: every writer's at most once, however often it was sent. Gives the writer.
    pub fn written(&mut self, value: &[u8], ttl: Option<i64>, now: Time) -> Option<String> {
        let (by, text) = (self.writer(value)?, String::from_utf8_lossy(value));
        if text.starts_with('{') {
            self.doc(&text);
        }
        let (times, _) = self.effects.entry(by.clone()).or_insert((0, now));
        *times += 1;
        if *times > 1 && by != "static" {
            self.breaks(format!("a write takes effect once; that of {by} did so again: {text}"));
        }
        if self.lives.get(&by).is_some_and(|life| Some(*life) != ttl) {
            self.breaks(format!("what is written lives as long as it is to; that of {by} lives {ttl:?} ms"));
        }
        Some(by)
    }

    /// Whether nothing was wrong with the store, nor had been shortly before; who stood still hears of it late. For a
    /// read of an item, what takes away only writes is nothing.
    pub fn is_calm(&self, host: Host, since: Time, until: Time, need: Need) -> bool {
        let heard = |end: Time| {
            let pauses = self.pauses.iter().filter(|pause| pause.0 == host);
            pauses.fold(end, |end, pause| if pause.1 <= end + RECOVERY { end.max(pause.2) } else { end })
        };
        let mut outages = self.outages.iter().filter(|outage| match outage.lost {
            _ if outage.keys & if SHARDS_ARE_APART { need.keys } else { u32::MAX } == 0 => false,
            Lost::Writes => !need.reads,
            Lost::Guarded => need.guarded,
            Lost::Some | Lost::All => true,
        });
        !outages.any(|outage| outage.from <= until && heard(outage.to) + RECOVERY >= since)
    }

    /// Whether the store could serve no write in all this time.
    pub fn is_out(&self, since: Time, until: Time) -> bool {
        // Who has not heard of a new master may have the old one.
        if self.turned > 0 && self.turned + 10 * SECOND > since {
            return false;
        }
        let out = |outage: &&Outage| matches!(outage.lost, Lost::Writes | Lost::All) && outage.keys == u32::MAX;
        self.outages.iter().filter(out).any(|outage| outage.from <= since && outage.to >= until)
    }

    /// How long this process stood still in this time.
    pub fn paused(&self, host: Host, from: Time, to: Time) -> Time {
        let of_host = self.pauses.iter().filter(|pause| pause.0 == host);
        of_host.map(|(_, a, b)| to.min(*b).saturating_sub(from.max(*a))).sum()
    }

    /// The server's clock.
    pub fn clock(&self, at: Time) -> Time {
        at + self.jumps.iter().filter(|jump| jump.0 <= at).map(|jump| jump.1).sum::<Time>()
    }

    /// Checks every key's history, master by master.
    pub fn judge(&mut self, keys: usize) {
        for key in 0..keys {
            let mut reigns = vec![(0, (None, 0))];
            reigns.extend(self.reigns.get(&key).into_iter().flatten());
            reigns.push((NEVER, (None, 0)));
            for reign in reigns.windows(2) {
                let ((from, begin), (to, _)) = (reign[0], reign[1]);
                let within = |op: &&Op| op.key == key && op.call < to && op.ret >= from;
                let mut ops: Vec<Op> = self.history.iter().filter(within).cloned().collect();
                for op in &mut ops {
                    // Which of two masters it reached is unknown, unless it was over in time.
                    if op.call < from || op.ret >= to {
                        (op.seen, op.ret) = (Seen::Unknown, NEVER);
                        op.call = op.call.max(from);
                    }
                }
                ops.retain(|op| op.seen != Seen::Unknown || op.verb != Verb::Read);
                let verdict = self.is_linearizable(&ops, begin);
                self.counts[3] += u64::from(verdict.is_none());
                if verdict == Some(false) {
                    let story = self.story(ops);
                    return self.breaks(format!("operations on one key are linearizable; these are not:\n{story}"));
                }
            }
        }
    }

    /// `None`: it would take too long to find out.
    fn is_linearizable(&mut self, ops: &[Op], begin: State) -> Option<bool> {
        // Most writes of unknown outcome explain nothing. First those are tried whose document was seen, then these and
        // the deletes, at last all.
        let by = |doc: &Doc| self.docs[*doc as usize].split("\"by\":").nth(1).and_then(|rest| rest.split(',').next());
        let seen = |op: &Op| if let Seen::Doc(doc) = &op.seen { by(doc).map(str::to_owned) } else { None };
        let seen: HashSet<String> = ops.iter().filter_map(seen).collect();
        let rank = |op: &Op| match &op.verb {
            Verb::Put(doc) | Verb::Post(doc) | Verb::Patch(doc) if by(doc).is_some_and(|by| seen.contains(by)) => 0,
            Verb::Delete => 1,
            _ => 2,
        };
        let ranks: Vec<u32> = ops.iter().map(|op| if op.seen == Seen::Unknown { rank(op) } else { 0 }).collect();
        let mut verdict = Some(false);
        for most in 0..3 {
            let some = ops.iter().zip(&ranks).filter(|(_, rank)| **rank <= most);
            let mut search = Search::new(self, some.map(|(op, _)| op.clone()).collect());
            if search.search(begin, 0, 0, 0) {
                return Some(true);
            }
            verdict = (search.budget > 0).then_some(false);
        }
        verdict
    }

    /// For people.
    fn story(&self, mut ops: Vec<Op>) -> String {
        ops.sort_by_key(|op| op.call);
        let line = |Op { verb, cond, ttl, call, ret, seen, .. }: &Op| {
            let doc = match (verb, seen) {
                (Verb::Put(doc) | Verb::Post(doc) | Verb::Patch(doc), _) | (_, Seen::Doc(doc)) => *doc as usize,
                _ => usize::MAX,
            };
            let (doc, ret) =
                (self.docs.get(doc).map_or("", String::as_str), if *ret == NEVER { "?" } else { &ms(*ret) });
            format!("  {:>12} to {ret:>12}  {verb:?} {cond:?} ttl {:?} -> {seen:?} {doc:.100}", ms(*call), ttl.map(ms))
        };
        ops.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn ms(time: Time) -> String {
    format!("{:.3} ms", time as f64 / MS as f64)
}

/// A document after a merge patch (RFC 7396); members are simple values, as those of our documents.
pub fn merge(old: &str, patch: &str) -> String {
    let members = |text: &str| -> Vec<(String, String)> {
        let inner = &text[1..text.len() - 1];
        let pairs = inner.split(',').filter_map(|member| member.split_once(':'));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let mut all = members(old);
    for (name, value) in members(patch) {
        match all.iter().position(|member| member.0 == name) {
            Some(at) if value == "null" => drop(all.remove(at)),
            Some(at) => all[at].1 = value,
            None if value != "null" => all.push((name, value)),
            None => {}
        }
    }
    let all: Vec<String> = all.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{{{}}}", all.join(","))
}

/// What a key holds, and the earliest time at which it may expire.
pub type State = (Option<Doc>, Time);

/// The places at which one key's history may be after some of its operations.
struct Search<'a> {
    book: &'a mut Book,
    /// Those with an answer, by their calls; and those without.
    ops: Vec<Op>,
    open: Vec<Op>,
    done: Vec<bool>,
    left: usize,
    seen: HashSet<(u64, State, Time)>,
    budget: usize,
    merged: HashMap<(Doc, Doc), Doc>,
}

impl<'a> Search<'a> {
    fn new(book: &'a mut Book, mut all: Vec<Op>) -> Search<'a> {
        all.sort_by_key(|op| op.call);
        let (open, ops): (Vec<Op>, Vec<Op>) = all.into_iter().partition(|op| op.seen == Seen::Unknown);
        let (done, left) = (vec![false; ops.len() + open.len()], ops.len());
        Search { book, ops, open, done, left, seen: HashSet::new(), budget: 100_000, merged: HashMap::new() }
    }

    /// Whether the operations that are left can follow, the first of which is `first`; `place` stands for those done,
    /// and `low` is the earliest time of the next.
    fn search(&mut self, state: State, first: usize, place: u64, low: Time) -> bool {
        if self.left == 0 {
            return true;
        }
        if self.budget == 0 || !self.seen.insert((place, state, low)) {
            return false;
        }
        self.budget -= 1;
        let first = first + self.done[first..self.ops.len()].iter().take_while(|done| **done).count();
        let (mut high, mut next) = (NEVER, Vec::new());
        for at in first..self.ops.len() {
            if self.ops[at].call > high {
                break;
            }
            if !self.done[at] {
                high = high.min(self.ops[at].ret);
                next.push(at);
            }
        }
        next.retain(|at| self.ops[*at].call <= high);
        let open = (0..self.open.len()).map(|at| at + self.ops.len());
        next.extend(open.filter(|at| !self.done[*at] && self.open[at - self.ops.len()].call <= high));
        // What fits and changes nothing may as well come now. It might have come later, so it does not make `low` later.
        let idle = |search: &mut Search<'_>, at: &usize| {
            let op = search.op(*at).clone();
            *at < search.ops.len()
                && search
                    .apply(&op, state, low.max(op.call))
                    .is_some_and(|after| after.0 == state.0 && op.verb != Verb::Delete)
        };
        let idle = next.clone().into_iter().find(|at| idle(self, at));
        for at in idle.map_or(next, |at| vec![at]) {
            let op = self.op(at).clone();
            let late = low.max(op.call);
            let expired = (state.0.is_some() && state.1 <= self.book.clock(high) + MS).then_some((None, 0));
            for before in [Some(state), expired].into_iter().flatten() {
                let Some(after) = self.apply(&op, before, late) else { continue };
                let low = if idle.is_some() { low } else { late };
                let answered = usize::from(at < self.ops.len());
                if answered == 0 && after.0 == state.0 {
                    continue;
                }
                self.done[at] = true;
                self.left -= answered;
                let mark = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if self.search(after, first, place ^ mark ^ mark.rotate_right(23), low) {
                    return true;
                }
                self.done[at] = false;
                self.left += answered;
            }
        }
        false
    }

    fn op(&self, at: usize) -> &Op {
        if at < self.ops.len() { &self.ops[at] } else { &self.open[at - self.ops.len()] }
    }

    /// What an operation makes of a state, if its answer fits.
    fn apply(&mut self, op: &Op, (doc, expires): State, low: Time) -> Option<State> {
        let lives = op.ttl.map(|ttl| self.book.clock(low) + ttl);
        let met = match op.cond {
            Cond::Always => true,
            Cond::Absent => doc.is_none(),
            Cond::Present => doc.is_some(),
            Cond::Is(old) => doc == Some(old),
        };
        let unknown = op.seen == Seen::Unknown;
        if !met {
            return (unknown || op.seen == Seen::Unmet).then_some((doc, expires));
        }
        let fits = |seen: Seen| unknown || op.seen == seen;
        match op.verb {
            Verb::Read => {
                let seen = doc.map_or(Seen::Nothing, Seen::Doc);
                (op.seen == seen).then_some((doc, expires.max(lives.filter(|_| doc.is_some()).unwrap_or(0))))
            }
            Verb::Put(new) => {
                let seen = if doc.is_some() { Seen::Done } else { Seen::Created };
                fits(seen).then_some((Some(new), lives?))
            }
            Verb::Post(new) => fits(Seen::Done).then_some((Some(new), lives?)),
            Verb::Delete => fits(Seen::Done).then_some((None, 0)),
            Verb::Patch(patch) => match doc {
                None => fits(Seen::Nothing).then_some((None, 0)),
                Some(old) => {
                    let new = self.merge(old, patch);
                    fits(Seen::Doc(new)).then_some((Some(new), expires.max(lives.unwrap_or(0))))
                }
            },
        }
    }

    fn merge(&mut self, old: Doc, patch: Doc) -> Doc {
        if let Some(new) = self.merged.get(&(old, patch)) {
            return *new;
        }
        let text = merge(&self.book.docs[old as usize], &self.book.docs[patch as usize]);
        let new = self.book.doc(&text);
        self.merged.insert((old, patch), new);
        new
    }
}
