//! Requests to Redis: until when, over which node, and what may be asked again.
//!
//! A [`Client`] belongs to one worker. It gives each request a place in a table, pushes its bytes
//! into the link of the right node when that is up, and answers it exactly once: with its reply,
//! or with an honest error when its deadline comes first.
//!
//! ```text
//! submit ─▶ table ─┬─ link up ────▶ connection ─▶ reply ─┬─▶ done
//!                  ├─ link coming ▶ waiting ─────┘       └─ an error with a remedy ─▶ again
//!                  └─ known away ─▶ done, at once
//!
//! connection lost:  not sent, or a read that was sent   ─▶ waiting
//!                   a write that was sent               ─▶ done (Broken: nobody knows)
//! ```
//!
//! Three outcomes of a try, not two: it did not reach the server, the server proved that it did
//! not run, or nobody knows. The first two may be tried again, whatever it was; the third only
//! if it was a read. A request that gave up leaves the table but not the connection's order of
//! replies: its slot stays there, and the reply finds nobody under its key.

use super::backoff::Backoff;
use super::cluster::{read_redirect, read_slots};
use super::codec::{ErrorReply, Reply, Unsendable};
use super::connection::Shape;
use super::endpoint::Endpoint;
use super::guide::{Guide, Map, Origin, ROUND, Standing, Watch, Wish};
use super::link::{Away, Events, Link, Lost, NOBODY, Options, Wires};
use super::remedy::{Remedy, is_shebang_unknown, remedy};
use super::request::{Failure, Home, Outcome, Request, Spelling, Wire};
use super::sentinel::{read_address, read_master, read_others, read_switch};
use crate::slab::Slab;
use mio::event::Event;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Commands that may be under way or waiting in one client; one more is refused. What requests
/// that gave up have left behind on a connection counts there as well.
pub const COMMANDS_MAX: usize = 10_000;

/// Nodes of a cluster that are kept in mind; more than any has.
const NODES_MAX: usize = 1024;

/// Sentinels that are asked at the same time; the URL may name more.
const SENTINELS_MAX: usize = 32;

/// How often one request is sent at the most when each time its connection is lost. (What is
/// refused is tried again until its deadline, or until the budget is spent.)
const TRIES_MAX: u32 = 16;

/// Redirects that one request follows; a cluster in its senses needs one or two.
const HOPS_MAX: u32 = 5;

/// Waits before another try of a request that was refused.
const AGAIN_FLOOR: Duration = Duration::from_millis(2);
const AGAIN_BASE: Duration = Duration::from_millis(10);
const AGAIN_CAP: Duration = Duration::from_millis(200);

/// The last try of a refused request is made this long before its deadline.
const LAST_TRY: Duration = Duration::from_millis(100);

/// For the guide's own questions.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the data is.
#[derive(Debug, Clone)]
pub enum Target {
    /// On one server.
    Single(Endpoint),
    /// On the master that these sentinels call by this name.
    Sentinel {
        /// The sentinels.
        seeds: Vec<Endpoint>,
        /// The master's name.
        name: String,
        /// How the sentinels are reached; they have passwords of their own.
        options: Box<Options>,
    },
    /// On a cluster that has these nodes, among others.
    Cluster {
        /// The nodes to begin with.
        seeds: Vec<Endpoint>,
    },
}

/// See the module's text.
pub struct Client {
    nodes: Slab<Node>,
    options: Options,
    /// For sentinels.
    sentinel_options: Options,
    wires: Wires,
    guide: Guide,
    table: Slab<Entry>,
    bytes: usize,
    /// Keys of requests for which no node is known.
    homeless: VecDeque<u64>,
    /// Keys of requests that wait before another try, and until when.
    delayed: Vec<(Instant, u64)>,
    /// No deadline in the table is before this. It may lie: entries leave without raising it.
    earliest: Option<Instant>,
    began: Instant,
    /// Something was pushed into a link, or a link was made, since they were last driven.
    pushed: bool,
    backoff: Backoff,
    budget: Budget,
    /// The servers do not know `#!lua`.
    plain_scripts: bool,
    /// What the last one said who was asked where the data is, and did not tell.
    complaint: Option<String>,
    events: Events,
    done: Vec<Outcome>,
}

struct Node {
    link: Link,
    /// Keys of requests that wait for the link, oldest first.
    waiting: VecDeque<u64>,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    origin: Origin,
    tries: u32,
    hops: u32,
    /// A connection has it; whether it ran is then unknown.
    sent: bool,
    /// The node an ASK has named; the command goes there once, behind ASKING.
    asking: Option<u64>,
    /// The server did not know the script.
    as_text: bool,
    /// It was sent without `#!lua` the last time.
    plain: bool,
    /// What it was refused with the last time.
    refusal: Option<ErrorReply>,
}

impl Client {
    /// A client for `target`. Connects at the first `progress`.
    pub fn new(target: Target, options: Options, wires: Wires, now: Instant) -> Client {
        let mut nodes = Slab::default();
        let mut open = |endpoint, options: &Options| {
            let link = Link::new(endpoint, options.clone(), wires.clone(), now);
            nodes.insert(Node { link, waiting: VecDeque::new() })
        };
        let mut sentinel_options = options.clone();
        let guide = match target {
            Target::Single(endpoint) => Guide::Single(open(endpoint, &options)),
            Target::Sentinel { seeds, name, options } => {
                let sentinels = seeds.into_iter().map(|seed| open(seed, &options)).collect();
                sentinel_options = *options;
                Guide::Sentinel(Watch::new(name, sentinels, now))
            }
            Target::Cluster { seeds } => Guide::Cluster(Map::new(seeds, now)),
        };
        Client {
            nodes,
            options,
            sentinel_options,
            wires,
            guide,
            table: Slab::default(),
            bytes: 0,
            homeless: VecDeque::new(),
            delayed: Vec::new(),
            earliest: None,
            began: now,
            pushed: false,
            backoff: Backoff::new(AGAIN_FLOOR, AGAIN_BASE, AGAIN_CAP),
            budget: Budget::default(),
            plain_scripts: false,
            complaint: None,
            events: Events::default(),
            done: Vec::new(),
        }
    }

    /// Takes a request; its outcome comes from [`progress`](Client::progress).
    pub fn submit(&mut self, now: Instant, request: Request) {
        if self.table.len() >= COMMANDS_MAX
            || self.bytes + request.command.len() > self.options.queue_bytes_max
        {
            return self.done.push((request.tag, request.shape, Err(Failure::Overloaded)));
        }
        let origin = Origin::Requester(request.tag);
        let key = self.enter(request, origin);
        self.place(now, key);
    }

    /// Every server that has keys of its own, with the lowest of its slots, in that order. `None`
    /// while they are not all known: what is read from some of them would not be the whole.
    pub fn masters(&mut self, now: Instant) -> Option<Vec<(u16, Endpoint)>> {
        let owners = match &mut self.guide {
            Guide::Single(node) => vec![(0, *node)],
            Guide::Sentinel(watch) => vec![(0, watch.master?)],
            Guide::Cluster(map) => {
                let owners = map.owners();
                if owners.is_none() {
                    map.doubt(now, self.backoff.unit());
                }
                owners?
            }
        };
        let endpoint = |(slot, key)| Some((slot, self.nodes.get(key)?.link.endpoint().clone()));
        owners.into_iter().map(endpoint).collect()
    }

    /// The loop saw readiness on one of our tokens.
    pub fn ready(&mut self, event: &Event) {
        for node in self.nodes.iter_mut() {
            node.link.ready(event);
        }
    }

    /// Moves what can be moved and collects the outcomes.
    ///
    /// What has come by now counts, so before any deadline is judged the sockets themselves are asked:
    /// a process that was stopped for a while wakes up to a wait that was interrupted, with no events,
    /// and to deadlines long past.
    pub fn progress(&mut self, now: Instant, done: &mut Vec<Outcome>) {
        if self.next_deadline().is_some_and(|t| t <= now) {
            for node in self.nodes.iter_mut() {
                node.link.look();
            }
        }
        self.drive(now);
        self.follow_guide(now);
        self.wake_delayed(now);
        if !self.homeless.is_empty() {
            for key in std::mem::take(&mut self.homeless) {
                self.place(now, key);
            }
        }
        if self.pushed {
            self.drive(now);
        }
        // Those who are due may have their replies among what is left to read. That comes at once and is no
        // more than was asked for: only where nothing came of reading is a deadline judged without it.
        let more = self.nodes.iter().any(|(_, node)| node.link.has_more());
        if !more || self.done.is_empty() {
            self.time_out(now);
        }
        done.append(&mut self.done);
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let guide = match &self.guide {
            Guide::Single(_) => None,
            Guide::Sentinel(watch) => Some(watch.next_deadline()),
            Guide::Cluster(map) => map.next_deadline(),
        };
        let links = self.nodes.iter().filter_map(|(_, node)| node.link.next_deadline());
        let delayed = self.delayed.iter().map(|(until, _)| *until);
        links.chain(delayed).chain(guide).chain(self.earliest).min()
    }

    /// Drives every link until none has anything new to send.
    fn drive(&mut self, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        loop {
            self.pushed = false;
            let mut nodes = self.nodes.keys();
            if let Guide::Sentinel(watch) = &self.guide {
                nodes.sort_by_key(|node| !watch.sentinels.contains(node));
            }
            for node_key in nodes {
                let Some(node) = self.nodes.get_mut(node_key) else {
                    continue;
                };
                node.link.progress(now, &mut events);
                for push in events.heard.pushes.drain(..) {
                    self.told(now, &push);
                }
                for (key, _, reply) in events.heard.replies.drain(..) {
                    self.answered(now, node_key, key, reply);
                }
                for lost in events.lost.drain(..) {
                    self.lost(now, lost);
                }
                self.serve_waiting(now, node_key);
            }
            if !self.pushed {
                break;
            }
        }
        // Kept for its room: no allocation in the next tick.
        self.events = events;
    }

    /// A sentinel has said something unasked. That our master was replaced is believed at once: the
    /// old one may wake up this very moment and say OK to what it should not. A round follows, for
    /// the epoch. (Sentinels are driven before servers, so they are heard first.)
    fn told(&mut self, now: Instant, push: &[Reply]) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let Some((old, new)) = read_switch(push, &watch.name) else {
            return;
        };
        if watch.switched(now, &old, &new) {
            self.follow_master(now, new);
        }
    }

    /// What waits for this link goes out if it is up, and is turned away if it is known to be away.
    fn serve_waiting(&mut self, now: Instant, node_key: u64) {
        let Some(node) = self.nodes.get_mut(node_key) else {
            return;
        };
        let away = node.link.known_away(now).is_some();
        if node.waiting.is_empty() || (node.link.up().is_none() && !away) {
            return;
        }
        for key in std::mem::take(&mut node.waiting) {
            self.place(now, key);
        }
    }

    /// Finds the node for a request, and sends it or lets it wait.
    fn place(&mut self, now: Instant, key: u64) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let node_key = match (&self.guide, &entry.request.home) {
            _ if let Origin::Master(asked) | Origin::Address(asked) | Origin::Others(asked) =
                entry.origin =>
            {
                Some(asked)
            }
            _ if entry.asking.is_some() => entry.asking,
            (_, Home::Elsewhere) => None,
            (_, Home::Server(server)) => match find(&self.nodes, server) {
                Some(node) => Some(node),
                None => {
                    let why = format!("{server} has left");
                    return self.fail(now, key, Failure::Unreachable(why));
                }
            },
            (Guide::Single(node), _) => Some(*node),
            (Guide::Sentinel(watch), _) => watch.master,
            // Where a slot has no master any node can say so, or that it has one by now.
            (Guide::Cluster(map), Home::Slot(slot)) => map.node(*slot).or_else(|| {
                let is_up = |n: &u64| self.nodes.get(*n).is_some_and(|node| node.link.is_up());
                map.members().iter().copied().find(is_up)
            }),
        };
        let Some(node) = node_key.and_then(|n| self.nodes.get_mut(n)) else {
            return self.shelter(now, key);
        };
        // Its slots may have gone to its replica, and nobody who knows will be asked by a request.
        if let Guide::Cluster(map) = &mut self.guide
            && node.link.away().is_some()
        {
            map.doubt(now, self.backoff.unit());
        }
        if let Some(away) = node.link.known_away(now) {
            let failure = Failure::from(away);
            return self.fail(now, key, failure);
        }
        let Some(connection) = node.link.up() else {
            entry.sent = false;
            return node.waiting.push_back(key);
        };
        // The table is bounded, but entries leave it at their deadlines and their commands stay.
        if connection.in_flight() >= COMMANDS_MAX
            || connection.backlog() + entry.request.command.len() > self.options.queue_bytes_max
        {
            return self.fail(now, key, Failure::Overloaded);
        }
        if !entry.request.command.is_sendable() {
            let why = Unsendable.to_string();
            return self.fail(now, key, Failure::Refused(why));
        }
        entry.tries += 1;
        entry.sent = true;
        let asking = entry.asking.take().is_some() && matches!(entry.origin, Origin::Requester(_));
        if asking {
            // Adjacent, in one push: ASKING counts for the very next command and no other.
            let pushed = connection.push(now, NOBODY, Shape::Any, &[b"ASKING"]);
            debug_assert!(pushed.is_ok(), "BUG: one short word is sendable");
        }
        entry.plain = self.plain_scripts;
        // Behind ASKING never by name: NOSCRIPT would use the ASKING up.
        let spelling = Spelling { text: entry.as_text || asking, plain: entry.plain };
        connection.push_with(now, key, entry.request.shape, |out| {
            entry.request.command.write(out, spelling)
        });
        self.pushed = true;
    }

    /// No node is known for this request: it waits for the guide, but not for ever.
    fn shelter(&mut self, now: Instant, key: u64) {
        if !matches!(self.table.get(key), Some(Entry { origin: Origin::Requester(_), .. })) {
            let why = "the node asked has left".to_owned();
            return self.fail(now, key, Failure::Unreachable(why));
        }
        // Somebody who was there for a while and whom nobody can find is away.
        let long = now.saturating_duration_since(self.began) >= super::link::PATIENCE;
        if !long {
            return self.homeless.push_back(key);
        }
        let away = || {
            let mut nodes = self.nodes.iter();
            nodes.find_map(|(_, node)| node.link.known_away(now).map(Failure::from))
        };
        match self.complaint.clone().map(Failure::Refused).or_else(away) {
            Some(failure) => self.fail(now, key, failure),
            None => self.homeless.push_back(key),
        }
    }

    /// A reply has come for the request under `key`.
    fn answered(&mut self, now: Instant, node_key: u64, key: u64, reply: Reply) {
        // Nobody there: it gave up, and this is its reply, read and dropped in its turn.
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.sent = false;
        if !matches!(entry.origin, Origin::Requester(_)) {
            return self.guide_answered(now, node_key, key, Some(reply));
        }
        let e = match reply {
            Reply::Error(e) => e,
            reply => {
                self.budget.earn();
                return self.finish(key, Ok(reply));
            }
        };
        match remedy(&e) {
            // Of this one, for others were on their way already when the first came back.
            Remedy::Report if is_shebang_unknown(&e) && !entry.plain => {
                if !std::mem::replace(&mut self.plain_scripts, true) {
                    log::warn!(
                        "redis does not know `#!lua` (before 7.0, KeyDB, Dragonfly): scripts cannot tell a stale replica from its master"
                    );
                }
                self.place(now, key);
            }
            Remedy::SendScript if !entry.as_text => {
                entry.as_text = true;
                self.place(now, key);
            }
            Remedy::Report | Remedy::SendScript => self.finish(key, Ok(Reply::Error(e))),
            Remedy::Wait => self.try_again(now, key, e),
            Remedy::Rediscover => {
                self.rediscover(now, node_key);
                self.try_again(now, key, e);
            }
            Remedy::Reconnect => {
                if let Some(node) = self.nodes.get_mut(node_key) {
                    node.link.renew(now);
                }
                self.try_again(now, key, e);
            }
            Remedy::Moved | Remedy::Ask => self.redirect(now, node_key, key, e),
        }
    }

    /// Tries a refused request again after a wait, if there is time and the budget allows it. It
    /// did not run, so that is safe for writes too.
    fn try_again(&mut self, now: Instant, key: u64, e: ErrorReply) {
        let wait = self.backoff.wait_of(self.table.get_mut(key).map_or(0, |entry| entry.tries));
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        // A write that is sent and not answered by its deadline has an outcome that nobody knows. So
        // the last try is not made in the last moment: until then it is known that nothing ran.
        if now + wait + LAST_TRY >= entry.request.deadline || !self.budget.spend() {
            return self.finish(key, Ok(Reply::Error(e)));
        }
        entry.refusal = Some(e);
        self.delayed.push((now + wait, key));
    }

    /// This server may not be the right one any more.
    fn rediscover(&mut self, now: Instant, node_key: u64) {
        let jitter = self.backoff.unit();
        match &mut self.guide {
            // The name may mean another address by now.
            Guide::Single(_) => {
                if let Some(node) = self.nodes.get_mut(node_key) {
                    node.link.renew(now);
                }
            }
            Guide::Sentinel(watch) if watch.master == Some(node_key) => watch.refused(now),
            Guide::Sentinel(watch) => watch.hurry_soon(now),
            Guide::Cluster(map) => map.doubt(now, jitter),
        }
    }

    fn redirect(&mut self, now: Instant, node_key: u64, key: u64, e: ErrorReply) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let asked = self.nodes.get_mut(node_key).map(|node| node.link.endpoint().clone());
        let redirect = asked.as_ref().and_then(|asked| read_redirect(&e, asked));
        let (Guide::Cluster(_), Some(redirect)) = (&self.guide, redirect) else {
            return self.finish(key, Ok(Reply::Error(e)));
        };
        entry.hops += 1;
        if entry.hops > HOPS_MAX || entry.request.home != Home::Slot(redirect.slot) {
            return self.finish(key, Ok(Reply::Error(e)));
        }
        let is_ask = remedy(&e) == Remedy::Ask;
        let jitter = self.backoff.unit();
        let to = redirect.to.as_ref().filter(|to| Some(*to) != asked.as_ref());
        let to = to.cloned().and_then(|to| self.node_at(to, now));
        let Guide::Cluster(map) = &mut self.guide else {
            return;
        };
        match to {
            Some(node) if is_ask => {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.asking = Some(node);
                }
                self.place(now, key);
            }
            Some(node) => {
                map.moved(redirect.slot, node);
                map.doubt(now, jitter);
                self.place(now, key);
            }
            // To nowhere, or to itself: only a new map can tell.
            None => {
                map.doubt(now, 0.0);
                self.try_again(now, key, e);
            }
        }
    }

    /// The connection was lost with this request in its order of replies.
    fn lost(&mut self, now: Instant, Lost { id, sent, again, why }: Lost) {
        if let Guide::Cluster(map) = &mut self.guide {
            map.doubt(now, 0.0);
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.sent = false;
        // A question of the guide's is better put to another.
        let ours = !matches!(entry.origin, Origin::Requester(_));
        let again = !ours && (!sent || again && entry.request.read_only);
        if again && entry.tries < TRIES_MAX {
            return self.place(now, id);
        }
        let failure = match why {
            Away::Unreachable(why) if sent => Failure::Broken(why),
            why => Failure::from(&why),
        };
        self.fail(now, id, failure);
    }

    /// Lets the guide find out what it wants to know.
    fn follow_guide(&mut self, now: Instant) {
        match &mut self.guide {
            Guide::Single(_) => {}
            Guide::Sentinel(_) => self.follow_sentinels(now),
            Guide::Cluster(map) if map.is_due(now) => self.fetch_map(now),
            Guide::Cluster(_) => {}
        }
    }

    /// When every sentinel that we ask is away, those that they knew are asked, too.
    fn join_other_sentinels(&mut self, now: Instant) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let is_away = |s: &u64| self.nodes.get(*s).is_none_or(|n| n.link.away().is_some());
        if watch.others.is_empty() || !watch.sentinels.iter().all(is_away) {
            return;
        }
        for other in std::mem::take(&mut watch.others) {
            if find(&self.nodes, &other).is_none() && watch.sentinels.len() < SENTINELS_MAX {
                let (options, wires) = (self.sentinel_options.clone(), self.wires.clone());
                watch.sentinels.push(self.nodes.insert(Node {
                    link: Link::new(other, options, wires, now),
                    waiting: VecDeque::new(),
                }));
                self.pushed = true;
            }
        }
    }

    fn follow_sentinels(&mut self, now: Instant) {
        self.join_other_sentinels(now);
        loop {
            let Guide::Sentinel(watch) = &mut self.guide else {
                return;
            };
            let node = watch.master.and_then(|m| self.nodes.get(m));
            let standing = match node.map(|node| &node.link) {
                Some(link) if link.is_up() => Standing::Up,
                Some(link) if link.known_away(now).is_some() => Standing::Away,
                _ => Standing::Shaky,
            };
            if standing != Standing::Up {
                watch.hurry_soon(now);
            }
            let nodes = &self.nodes;
            let state = |key| {
                let link = nodes.get(key).map(|node| &node.link)?;
                if link.is_up() { Some(true) } else { link.away().map(|_| false) }
            };
            match watch.step(now, standing, state) {
                None => return,
                Some(Wish::Ask(sentinel)) => {
                    let name = watch.name.as_bytes();
                    let command = Wire::plain(&[b"SENTINEL", b"MASTER", name]);
                    let others = Wire::plain(&[b"SENTINEL", b"SENTINELS", name]);
                    let others_too = watch.is_others_due(now);
                    self.ask(now, Origin::Master(sentinel), None, command, now + ROUND);
                    if others_too {
                        self.ask(now, Origin::Others(sentinel), None, others, now + ROUND);
                    }
                }
                Some(Wish::Follow(endpoint)) => self.follow_master(now, endpoint),
            }
        }
    }

    fn follow_master(&mut self, now: Instant, endpoint: Endpoint) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let old = watch.master;
        if old
            .and_then(|old| self.nodes.get(old))
            .is_some_and(|node| *node.link.endpoint() == endpoint)
        {
            return;
        }
        log::info!("redis: the master of {:?} is {endpoint}", watch.name);
        self.complaint = None;
        let link = Link::new(endpoint, self.options.clone(), self.wires.clone(), now);
        watch.master = Some(self.nodes.insert(Node { link, waiting: VecDeque::new() }));
        self.pushed = true;
        if let Some(old) = old {
            self.close(now, old, "the master was replaced");
        }
    }

    fn fetch_map(&mut self, now: Instant) {
        let Guide::Cluster(map) = &mut self.guide else {
            return;
        };
        // Any node that is there can tell, a replica too; one that has left answers nothing.
        let nodes = self.nodes.iter();
        let up = nodes.filter_map(|(key, node)| node.link.is_up().then_some(key));
        let node = map.fetch(&up.collect::<Vec<_>>());
        if node.is_none() {
            for source in map.sources() {
                self.node_at(source, now);
            }
            return;
        }
        let command = Wire::plain(&[b"CLUSTER", b"SLOTS"]);
        self.ask(now, Origin::Map, node, command, now + QUESTION_TIMEOUT);
    }

    /// A question of the guide's own.
    fn ask(
        &mut self,
        now: Instant,
        origin: Origin,
        node: Option<u64>,
        command: Wire,
        deadline: Instant,
    ) {
        let request = Request {
            tag: 0,
            command,
            shape: Shape::Any,
            home: Home::Elsewhere,
            read_only: true,
            deadline,
        };
        let key = self.enter(request, origin);
        if let Some(entry) = self.table.get_mut(key) {
            entry.asking = node;
        }
        self.place(now, key);
    }

    /// What came of it; `None` when nothing did.
    fn guide_answered(&mut self, now: Instant, node_key: u64, key: u64, reply: Option<Reply>) {
        let Some(entry) = self.remove(key) else {
            return;
        };
        let jitter = self.backoff.unit();
        if let Origin::Others(_) = entry.origin {
            if let (Guide::Sentinel(watch), Some(others)) =
                (&mut self.guide, reply.as_ref().and_then(read_others))
            {
                watch.others = others;
            }
            return;
        }
        if let Origin::Master(sentinel) | Origin::Address(sentinel) = entry.origin {
            return self.sentinel_answered(now, sentinel, entry.origin, reply);
        }
        let asked = self.nodes.get(node_key).map(|node| node.link.endpoint().clone());
        let rows = reply.as_ref().zip(asked);
        let rows = rows.and_then(|(reply, asked)| read_slots(reply, &asked));
        match reply {
            Some(_) if rows.is_some() => self.complaint = None,
            Some(reply) => self.complain(node_key, &reply),
            None => {}
        }
        let Guide::Cluster(mut map) = std::mem::replace(&mut self.guide, Guide::Single(NOBODY))
        else {
            return;
        };
        map.fetched(now, rows.is_some(), jitter);
        if let Some(rows) = rows {
            map.replace(&rows, |endpoint| self.node_at(endpoint.clone(), now).unwrap_or(NOBODY));
            self.guide = Guide::Cluster(map);
            self.regroup(now);
        } else {
            self.guide = Guide::Cluster(map);
        }
    }

    fn sentinel_answered(
        &mut self,
        now: Instant,
        sentinel: u64,
        origin: Origin,
        reply: Option<Reply>,
    ) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let Some(reply) = reply else {
            return watch.silent(sentinel);
        };
        let (first, master) = (origin == Origin::Master(sentinel), read_master(&reply));
        let forbidden = matches!(&reply, Reply::Error(e) if e.code == "NOPERM");
        if first && (forbidden || master.as_ref().is_some_and(|m| m.in_doubt)) {
            let name = watch.name.as_bytes();
            let command = Wire::plain(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name]);
            if !forbidden {
                watch.heard(sentinel, master);
            }
            return self.ask(now, Origin::Address(sentinel), None, command, now + ROUND);
        }
        let address = read_address(&reply).filter(|_| !first);
        let knows_none = master.is_none() && address.is_none() && watch.master.is_none();
        match first {
            true => watch.heard(sentinel, master),
            false => watch.located(sentinel, address),
        }
        if knows_none {
            self.complain(sentinel, &reply);
        }
    }

    /// It was asked where the data is, and this is no answer to that.
    fn complain(&mut self, node_key: u64, reply: &Reply) {
        let Some(node) = self.nodes.get(node_key) else {
            return;
        };
        let what = match &self.guide {
            Guide::Sentinel(watch) => format!("no sentinel names a master {:?}", watch.name),
            _ => "no node tells where the slots are".to_owned(),
        };
        let said = match reply {
            Reply::Error(e) => e.to_string(),
            _ => "no such thing".to_owned(),
        };
        let why = format!("{what}: {} says {said}", node.link.endpoint());
        // Once, though each of them may have its own.
        if self.complaint.replace(why.clone()).is_none() {
            log::warn!("redis: {why}");
        }
    }

    /// After a new map: what waits may have another node now, and nodes without slots may go. But
    /// while no node with slots is there, it came from those, and so will the next.
    fn regroup(&mut self, now: Instant) {
        let is_away = |n: &u64| self.nodes.get(*n).is_none_or(|n| n.link.away().is_some());
        let all_away = match &self.guide {
            Guide::Cluster(map) => map.members().iter().all(is_away),
            _ => return,
        };
        for node_key in self.nodes.keys() {
            let Some(node) = self.nodes.get_mut(node_key) else {
                continue;
            };
            for key in std::mem::take(&mut node.waiting) {
                self.place(now, key);
            }
            let Guide::Cluster(map) = &self.guide else {
                return;
            };
            let idle = self
                .nodes
                .get(node_key)
                .is_some_and(|n| n.waiting.is_empty() && n.link.in_flight() == 0);
            if idle && !all_away && !map.members().contains(&node_key) {
                self.close(now, node_key, "no slots are there any more");
            }
        }
    }

    /// The node at `endpoint`, made if there is none; `None` when there are too many already.
    fn node_at(&mut self, endpoint: Endpoint, now: Instant) -> Option<u64> {
        if let Some(key) = find(&self.nodes, &endpoint) {
            return Some(key);
        }
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        self.pushed = true;
        let link = Link::new(endpoint, self.options.clone(), self.wires.clone(), now);
        Some(self.nodes.insert(Node { link, waiting: VecDeque::new() }))
    }

    fn close(&mut self, now: Instant, node_key: u64, why: &str) {
        let Some(node) = self.nodes.remove(node_key) else {
            return;
        };
        for lost in node.link.close(now, why) {
            self.lost(now, lost);
        }
        for key in node.waiting {
            self.place(now, key);
        }
    }

    fn wake_delayed(&mut self, now: Instant) {
        if self.delayed.iter().all(|(until, _)| *until > now) {
            return;
        }
        for (until, key) in std::mem::take(&mut self.delayed) {
            if until <= now {
                self.place(now, key);
            } else {
                self.delayed.push((until, key));
            }
        }
    }

    /// Fails what is due. What no connection has says why it waited: it certainly did not run. A
    /// read says so too while it is being tried again: of a server that answers LOADING now and
    /// then, LOADING is the better answer than silence.
    fn time_out(&mut self, now: Instant) {
        if self.earliest.is_none_or(|t| t > now) {
            return;
        }
        let due = |(key, entry): (u64, &Entry)| (entry.request.deadline <= now).then_some(key);
        let due: Vec<u64> = self.table.iter().filter_map(due).collect();
        // What waits for a link that knows why it is down is told so.
        let links = self.nodes.iter().map(|(_, node)| node);
        let mut away: HashMap<u64, Failure> = links
            .filter_map(|node| Some((node, node.link.away()?)))
            .flat_map(|(node, away)| node.waiting.iter().map(move |key| (*key, away.into())))
            .collect();
        for key in due {
            match self.table.get_mut(key) {
                Some(Entry { sent, request, refusal: Some(e), .. })
                    if !*sent || request.read_only =>
                {
                    let e = e.clone();
                    self.finish(key, Ok(Reply::Error(e)));
                }
                _ => {
                    let failure = away.remove(&key).unwrap_or(Failure::Timeout);
                    self.fail(now, key, failure);
                }
            }
        }
        for node in self.nodes.iter_mut() {
            node.waiting.retain(|key| self.table.contains(*key));
        }
        self.homeless.retain(|key| self.table.contains(*key));
        self.delayed.retain(|(_, key)| self.table.contains(*key));
        self.earliest = self.table.iter().map(|(_, e)| e.request.deadline).min();
    }

    fn enter(&mut self, request: Request, origin: Origin) -> u64 {
        self.earliest = Some(self.earliest.map_or(request.deadline, |t| t.min(request.deadline)));
        self.bytes += request.command.len();
        let entry = Entry {
            request,
            origin,
            tries: 0,
            hops: 0,
            sent: false,
            asking: None,
            as_text: false,
            plain: false,
            refusal: None,
        };
        self.table.insert(entry)
    }

    fn fail(&mut self, now: Instant, key: u64, failure: Failure) {
        match self.table.get(key).map(|entry| entry.origin) {
            Some(Origin::Requester(_)) => self.finish(key, Err(failure)),
            Some(_) => self.guide_answered(now, NOBODY, key, None),
            None => {}
        }
    }

    fn finish(&mut self, key: u64, result: Result<Reply, Failure>) {
        if let Some(entry) = self.remove(key) {
            self.done.push((entry.request.tag, entry.request.shape, result));
        }
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.table.remove(key)?;
        self.bytes -= entry.request.command.len();
        Some(entry)
    }
}

fn find(nodes: &Slab<Node>, endpoint: &Endpoint) -> Option<u64> {
    let mut nodes = nodes.iter();
    let found = nodes.find(|(_, node)| node.link.endpoint() == endpoint);
    found.map(|(key, _)| key)
}

/// Tries beyond the first are paid for by successes, ten for one, so that an outage cannot double
/// the load on what is left. A few are free, so that a quiet service can ride out a hiccup.
#[derive(Debug)]
struct Budget {
    tenths: u32,
}

const BUDGET_MAX: u32 = 500;

impl Default for Budget {
    fn default() -> Budget {
        Budget { tenths: BUDGET_MAX }
    }
}

impl Budget {
    fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(BUDGET_MAX);
    }

    fn spend(&mut self) -> bool {
        let paid = self.tenths >= 10;
        self.tenths -= if paid { 10 } else { 0 };
        paid
    }
}
