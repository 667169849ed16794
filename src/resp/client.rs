//! Requests to Redis: which node gets them, and which may be sent again.
//!
//! A [`Client`] belongs to one worker. It gives each request a place in a table, pushes its bytes into the link of the
//! right node when that is up, and answers it exactly once: with its reply, or with an error that says what is known.
//!
//! ```text
//! submit ─▶ table ─┬─ link up ────▶ connection ─▶ reply ─┬─▶ done
//!                  ├─ link coming ▶ waiting ─────┘       └─ an error with a remedy ─▶ again
//!                  └─ known away ─▶ done, at once
//!
//! connection lost:  not sent, or a read that was sent   ─▶ waiting
//!                   a write that was sent               ─▶ done (Broken: unknown)
//! deadline:         the requester abandons it, and gets the error that is known
//! ```
//!
//! A try has three outcomes, not two: it did not reach the server, the server proved that it did not run, or it is
//! unknown whether it ran. After the first two any command may be tried again; after the third only a read. A request
//! that was abandoned leaves the table but not the connection's order of replies: its slot stays there, and the reply
//! finds no request under its key.
//!
//! A command is encoded directly into the output buffer of its connection, which keeps the bytes until the reply. The
//! table has the bytes only while no connection has them.

use super::away::Away;
use super::backoff::Backoff;
use super::cluster::{read_redirect, read_slots};
use super::codec::{ErrorReply, Received, Reply, Unsendable};
use super::connection::{Heard, Shape};
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::guide::{Guide, Map, Origin, ROUND, Standing, Watch, Wish};
use super::link::{Link, NOBODY, Options, Wreck};
use super::nodes::{Node, Nodes};
use super::remedy::{Remedy, is_shebang_unknown, remedy};
use super::request::{Encoded, Failure, Home, Outcome, Outline, Request, Spelling, Words};
use super::sentinel::{read_address, read_master, read_others, read_switch};
use super::sign_on::Purpose;
use crate::net::Slab;
use crate::net::{Ready, World};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Commands that may be under way or waiting in one client; one more is refused. Abandoned requests whose replies a
/// connection still awaits count as well.
pub const COMMANDS_MAX: usize = 10_000;

/// Nodes of a cluster that are remembered; no cluster has more.
const NODES_MAX: usize = 1024;

/// Sentinels that are asked at the same time; the URL may name more.
const SENTINELS_MAX: usize = 32;

/// Keys that may wait in one queue; at this number those of abandoned requests are removed.
const WAITING_MAX: usize = 2 * COMMANDS_MAX;

/// How often one request is tried at the most if its connection is lost each time. (A request that is refused is tried
/// again until its deadline, or until the budget is spent.)
const TRIES_MAX: u32 = 16;

/// The same for a read that was sent whole: it may be what ends the connection, and with it what others have there.
const SENT_MAX: u32 = 3;

/// Redirects that one request follows; a sound cluster needs one or two.
const HOPS_MAX: u32 = 5;

/// Waits before another try of a request that was refused.
const AGAIN_FLOOR: Duration = Duration::from_millis(2);
const AGAIN_BASE: Duration = Duration::from_millis(10);
const AGAIN_CAP: Duration = Duration::from_millis(200);

/// The last try of a refused request is made this long before its deadline.
const LAST_TRY: Duration = Duration::from_millis(100);

/// For the guide's own requests.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How to find the server that has the data.
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
        /// Our user at the sentinels. `None`: Redis's `default` user.
        user: Option<String>,
        /// Where the sentinels' password is. `None`: they require none. The password of the data nodes is not sent to
        /// them.
        password_file: Option<PathBuf>,
    },
    /// On a cluster that has these nodes, among others.
    Cluster {
        /// The nodes to begin with.
        seeds: Vec<Endpoint>,
    },
}

/// See the module's text.
pub struct Client<P> {
    nodes: Nodes,
    options: Options,
    /// Link options for sentinels.
    sentinel_options: Options,
    /// The owner of all sockets, for the world.
    owner: u64,
    guide: Guide,
    table: Slab<Entry<P>>,
    bytes: usize,
    /// Keys of requests for which no node is known.
    homeless: VecDeque<u64>,
    /// Keys of requests that wait before another try, and until when.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Keys of requests that the client itself ends at their deadlines: the guide's and a few of the requester's.
    expiring: Vec<u64>,
    began: Instant,
    /// Replies have been read in this turn.
    came: bool,
    /// A command was pushed into a link, or a link was made, since the links were last driven.
    pushed: bool,
    backoff: Backoff,
    budget: Budget,
    /// The servers do not support `#!lua`.
    plain_scripts: bool,
    /// The last reply of a server that was asked where the data is and did not answer that.
    complaint: Option<String>,
    done: Vec<Outcome<P>>,
    /// As of the last turn: when the next one has something to do.
    next: Option<Instant>,
    /// For iterating over the nodes; kept for its capacity.
    walk: Vec<u64>,
}

/// Not over 128 bytes: it is moved in and out of the table.
#[derive(Debug)]
struct Entry<P> {
    origin: Origin<P>,
    home: Home,
    deadline: Instant,
    command: Outline,
    /// Its size, as counted for the bounds.
    len: usize,
    place: Place,
    tries: u32,
    shape: Shape,
    read_only: bool,
    expires: bool,
    /// How it was sent the last time.
    spelling: Spelling,
    detour: Option<Box<Detour>>,
}

/// Parts of a request that few requests need.
#[derive(Debug, Default)]
struct Detour {
    /// The bytes of the command, while no connection has them.
    bytes: Vec<u8>,
    hops: u32,
    /// The node that an ASK has named; the command goes there once, behind ASKING.
    asking: Option<u64>,
    /// The server did not know the script.
    as_text: bool,
    /// The error it was last refused with.
    refusal: Option<ErrorReply>,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the client: it waits before another try, or until its node is known.
    Here,
    /// In the queue of this node, whose link is not up.
    Waiting(u64),
    /// On a connection; if that is lost, it is unknown whether it ran.
    Sent,
}

/// Receives the outcomes: what the request was for, the shape of its reply, and the result.
pub type Sink<'a, P> = &'a mut dyn FnMut(P, Shape, Result<Received<'_>, Failure>);

impl<P> Client<P> {
    /// A client for `target`, with `owner` as the owner of its sockets. Connects at the first `progress`. What kind of
    /// server is required follows from the target, not from the options.
    pub fn new(
        target: Target,
        mut options: Options,
        owner: u64,
        world: &mut dyn World,
        now: Instant,
    ) -> Client<P> {
        let mut nodes = Nodes::default();
        let mut open = |endpoint, options: &Options| {
            nodes.insert(Link::new(endpoint, options.clone(), owner, world, now))
        };
        options.sign_on.purpose = match target {
            Target::Single(_) => Purpose::Single,
            Target::Sentinel { .. } => Purpose::Master,
            Target::Cluster { .. } => Purpose::ClusterNode,
        };
        let mut sentinel_options = options.clone();
        let guide = match target {
            Target::Single(endpoint) => Guide::Single(open(endpoint, &options)),
            Target::Sentinel { seeds, name, user, password_file } => {
                sentinel_options.sign_on.credentials = Credentials { user, password: None };
                sentinel_options.sign_on.database = 0;
                sentinel_options.sign_on.purpose = Purpose::Sentinel;
                sentinel_options.password_file = password_file;
                let open = |seed| open(seed, &sentinel_options);
                let sentinels = seeds.into_iter().map(open).collect();
                Guide::Sentinel(Watch::new(name, sentinels, now))
            }
            Target::Cluster { seeds } => Guide::Cluster(Map::new(seeds, now)),
        };
        Client {
            nodes,
            options,
            sentinel_options,
            owner,
            guide,
            table: Slab::default(),
            bytes: 0,
            homeless: VecDeque::new(),
            delayed: BinaryHeap::new(),
            expiring: Vec::new(),
            began: now,
            came: false,
            pushed: false,
            backoff: Backoff::new(AGAIN_FLOOR, AGAIN_BASE, AGAIN_CAP, world.random()),
            budget: Budget::default(),
            plain_scripts: false,
            complaint: None,
            done: Vec::new(),
            next: Some(now),
            walk: Vec::new(),
        }
    }

    /// How many requests have no outcome yet, and the bytes that are counted for them.
    pub fn waiting(&self) -> (usize, usize) {
        (self.table.len(), self.bytes)
    }

    /// The home of a key. Only a cluster has slots.
    pub fn home_of(&self, key: &[u8]) -> Home {
        match self.guide {
            Guide::Cluster(_) => Home::of(key),
            Guide::Single(_) | Guide::Sentinel(_) => Home::Slot(0),
        }
    }

    /// Takes a request; its outcome comes from [`progress`](Client::progress). Gives the key to
    /// [abandon](Client::abandon) it by.
    // Inlined like the three functions that it calls for its entry: otherwise a request is copied from one to the next,
    // which costs as much as to encode a GET.
    #[inline(always)]
    pub fn submit(&mut self, now: Instant, request: Request<P>, words: Words<'_>) -> u64 {
        let sendable = words.is_sendable();
        let full = self.is_full(words.len());
        let key = self.enter(request, words.outline(), words.len());
        match (full, sendable) {
            (true, _) => self.finish(key, Err(Failure::Overloaded)),
            (_, false) => self.finish(key, Err(Failure::Refused(Unsendable.to_string()))),
            (false, true) => self.place(now, key, Some(words)),
        }
        key
    }

    /// As [`submit`](Client::submit), for a command that is encoded already.
    pub fn submit_encoded(&mut self, now: Instant, request: Request<P>, command: Encoded) -> u64 {
        let full = self.is_full(command.len());
        let key = self.enter(request, command.outline, command.len());
        if full {
            self.finish(key, Err(Failure::Overloaded));
        } else {
            if let Some(entry) = self.table.get_mut(key) {
                entry.detour().bytes = command.bytes;
            }
            self.place(now, key, None);
        }
        key
    }

    fn is_full(&self, len: usize) -> bool {
        self.table.len() >= COMMANDS_MAX || self.bytes + len > self.options.queue_bytes_max
    }

    #[inline(always)]
    fn enter(&mut self, request: Request<P>, command: Outline, len: usize) -> u64 {
        let Request { purpose, shape, home, read_only, deadline, expires } = request;
        self.insert(Entry {
            origin: Origin::Requester(purpose),
            home,
            deadline,
            command,
            len,
            place: Place::Here,
            tries: 0,
            shape,
            read_only,
            expires,
            spelling: Spelling::default(),
            detour: None,
        })
    }

    #[inline(always)]
    fn insert(&mut self, entry: Entry<P>) -> u64 {
        self.bytes += entry.len;
        let expires = entry.expires;
        let key = self.table.insert(entry);
        if expires {
            self.expiring.push(key);
            self.pushed = true;
        }
        key
    }

    /// Abandons a request, which is forgotten; its reply is dropped when it comes. Gives what the request was for, and
    /// why there is no answer; `None` when its outcome is on its way or was given already.
    ///
    /// A request that no connection has gets the reason for its wait: it certainly did not run. So does a read that is
    /// being tried again: for a server that answers LOADING now and then, LOADING is the better answer than a timeout.
    pub fn abandon(&mut self, key: u64) -> Option<(P, Result<Reply, Failure>)> {
        let result = self.give_up(self.table.get(key)?);
        match self.remove(key)?.origin {
            Origin::Requester(purpose) => Some((purpose, result)),
            _ => None,
        }
    }

    /// Why there is no answer yet; `None` as for [`abandon`](Client::abandon).
    pub fn why_not(&self, key: u64) -> Option<Result<Reply, Failure>> {
        Some(self.give_up(self.table.get(key)?))
    }

    fn give_up(&self, entry: &Entry<P>) -> Result<Reply, Failure> {
        let refusal = entry.detour.as_ref().and_then(|detour| detour.refusal.as_ref());
        if let Some(e) = refusal
            && (entry.place != Place::Sent || entry.read_only)
        {
            return Ok(Reply::Error(e.clone()));
        }
        // A request that waits for a link that is down gets that link's reason.
        let Place::Waiting(node) = entry.place else {
            return Err(Failure::Timeout);
        };
        let away = self.nodes.get(node).and_then(|node| node.link.away());
        Err(away.map_or(Failure::Timeout, Failure::from))
    }

    /// Every server that has keys of its own, with the lowest of its slots, in that order. `None` while they are not
    /// all known: a scan over only some of them would be incomplete.
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

    /// Takes an event for one of our sockets.
    pub fn ready(&mut self, ready: Ready) {
        let mut nodes = self.nodes.iter_mut();
        if let Some(node) = nodes.find(|node| node.link.socket() == Some(ready.socket)) {
            node.link.ready(ready);
        }
    }

    /// Makes the next [`progress`](Client::progress) read from the sockets themselves, whatever events were reported.
    pub fn look(&mut self) {
        for node in self.nodes.iter_mut() {
            node.link.look();
        }
    }

    /// Moves the bytes that can be moved and hands out the outcomes.
    ///
    /// Replies that have arrived by now count, so the sockets themselves are read before any deadline is enforced: a
    /// process that was stopped for a while resumes in a wait that was interrupted, with no events, and finds deadlines
    /// long past.
    pub fn progress(&mut self, world: &mut dyn World, now: Instant, sink: Sink<'_, P>) {
        if self.next.is_some_and(|t| t <= now) {
            self.look();
        }
        self.came = false;
        self.drive(world, now, sink);
        self.follow_guide(world, now);
        self.wake_delayed(now);
        for key in std::mem::take(&mut self.homeless) {
            self.place(now, key, None);
        }
        if self.pushed {
            self.drive(world, now, sink);
        }
        // Requests that are due may have their replies among the bytes left to read. Those bytes can be read at once
        // and are no more than was requested: a deadline is enforced without reading only if reading brought nothing.
        if !self.expiring.is_empty() {
            let more = self.nodes.iter().any(|(_, node)| node.link.has_more());
            if !more || !self.came && self.done.is_empty() {
                self.time_out(now);
            }
        }
        for (purpose, shape, result) in self.done.drain(..) {
            sink(purpose, shape, result.map(Received::Other));
        }
        self.next = self.earliest();
    }

    /// Sends what was submitted since. Replies wait for the next [`progress`](Client::progress).
    pub fn send(&mut self, world: &mut dyn World, now: Instant) {
        self.walk(|client, node_key| client.serve(world, now, node_key));
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.done.is_empty() {
            return Some(self.began);
        }
        // A request submitted since may be due before anything else.
        if self.pushed { self.earliest() } else { self.next }
    }

    fn earliest(&self) -> Option<Instant> {
        let guide = match &self.guide {
            Guide::Single(_) => None,
            Guide::Sentinel(watch) => Some(watch.next_deadline()),
            Guide::Cluster(map) => map.next_deadline(),
        };
        let links = self.nodes.iter().filter_map(|(_, node)| node.link.next_deadline());
        let delayed = self.delayed.peek().map(|Reverse((until, _))| *until);
        let expiring = self.expiring.iter().filter_map(|key| Some(self.table.get(*key)?.deadline));
        links.chain(delayed).chain(guide).chain(expiring).min()
    }

    /// Drives every link until none has anything new to send.
    fn drive(&mut self, world: &mut dyn World, now: Instant, sink: Sink<'_, P>) {
        loop {
            self.pushed = false;
            self.walk(|client, node_key| {
                client.hear(world, now, node_key, sink);
                client.serve(world, now, node_key);
            });
            if !self.pushed {
                break;
            }
        }
    }

    /// Does something for every node, sentinels before servers.
    fn walk(&mut self, mut each: impl FnMut(&mut Client<P>, u64)) {
        if let Guide::Single(node) = self.guide {
            return each(self, node);
        }
        let mut walk = std::mem::take(&mut self.walk);
        walk.extend(self.nodes.iter().map(|(key, _)| key));
        if let Guide::Sentinel(watch) = &self.guide {
            walk.sort_by_key(|node| !watch.sentinels.contains(node));
        }
        for node in walk.drain(..) {
            each(self, node);
        }
        self.walk = walk;
    }

    /// Reads and handles the replies of a node.
    fn hear(&mut self, world: &mut dyn World, now: Instant, node_key: u64, sink: Sink<'_, P>) {
        loop {
            // Handling a reply may remove the node.
            let Some(node) = self.nodes.get_mut(node_key) else {
                return;
            };
            match node.link.hear(world, now) {
                None => return,
                Some(Heard::Push(push)) => self.heard_push(world, now, &push),
                Some(Heard::Reply { id, shape, reply }) => match self.table.get(id) {
                    // Its request was abandoned, and this is the reply, read and dropped in its turn.
                    None => {}
                    Some(Entry { origin: Origin::Requester(_), .. })
                        if !matches!(reply, Received::Other(Reply::Error(_))) =>
                    {
                        self.came = true;
                        self.budget.earn();
                        let entry =
                            remove(&mut self.table, &mut self.bytes, &mut self.expiring, id);
                        if let Some(Entry { origin: Origin::Requester(purpose), .. }) = entry {
                            sink(purpose, shape, Ok(reply));
                        }
                    }
                    Some(_) => {
                        let reply = reply.into_reply();
                        self.answered(world, now, node_key, id, reply);
                    }
                },
            }
        }
    }

    /// Sends the commands for a node, or finds out which were lost with its connection.
    fn serve(&mut self, world: &mut dyn World, now: Instant, node_key: u64) {
        let Some(node) = self.nodes.get_mut(node_key) else {
            return;
        };
        let wreck = node.link.progress(world, now);
        if wreck.is_none() && node.waiting.is_empty() {
            return;
        }
        if let Some(wreck) = wreck {
            self.all_lost(now, &wreck);
        }
        self.serve_waiting(now, node_key);
    }

    /// Handles a push from a sentinel. That our master was replaced is believed at once: the old one may resume this
    /// very moment and say OK to commands that it should refuse. A round follows, for the epoch. (Sentinels are driven
    /// before servers, so their pushes are handled first.)
    fn heard_push(&mut self, world: &mut dyn World, now: Instant, push: &[Reply]) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let Some((old, new)) = read_switch(push, &watch.name) else {
            return;
        };
        if watch.switched(now, &old, &new) {
            self.follow_master(world, now, new);
        }
    }

    /// The requests that wait for this link are sent if it is up, and answered with an error if it is known to be away.
    fn serve_waiting(&mut self, now: Instant, node_key: u64) {
        let Some(node) = self.nodes.get_mut(node_key) else {
            return;
        };
        if node.waiting.is_empty() || !node.link.is_up() && node.link.known_away(now).is_none() {
            return;
        }
        for key in std::mem::take(&mut node.waiting) {
            self.place(now, key, None);
        }
    }

    /// Finds the node for a request, and sends it or queues it. At first its command is in `words`, then in the table.
    fn place(&mut self, now: Instant, key: u64, words: Option<Words<'_>>) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        // No command is sent behind its deadline, be it a first time or again: its requester is about to give it up.
        if entry.deadline <= now {
            return self.expire(now, key);
        }
        entry.place = Place::Here;
        let node_key = match (&self.guide, &entry.home) {
            // Nearly all requests to a single server take this branch.
            (Guide::Single(node), Home::Slot(_)) => Some(*node),
            (_, Home::Node(node)) => Some(*node),
            _ if let Some(Detour { asking: Some(node), .. }) = entry.detour.as_deref() => {
                Some(*node)
            }
            (_, Home::Server(server)) => match self.nodes.find(server) {
                Some(node) => Some(node),
                None => {
                    let why = format!("{server} has left");
                    return self.fail(now, key, Failure::Unreachable(why));
                }
            },
            (Guide::Sentinel(watch), Home::Slot(_)) => watch.master,
            // Where a slot has no master, any node can report so, or that it has one by now.
            (Guide::Cluster(map), Home::Slot(slot)) => map.node(*slot).or_else(|| {
                let is_up = |n: &u64| self.nodes.get(*n).is_some_and(|node| node.link.is_up());
                map.members().iter().copied().find(is_up)
            }),
        };
        let node = node_key.and_then(|n| Some((n, self.nodes.get_mut(n)?)));
        let Some((node_key, node)) = node else {
            entry.keep(words);
            return self.shelter(now, key);
        };
        let Some(connection) = node.link.up() else {
            // Its slots may have gone to its replica, and no request will reach a node that knows.
            if let Guide::Cluster(map) = &mut self.guide
                && node.link.away().is_some()
            {
                map.doubt(now, self.backoff.unit());
            }
            if let Some(away) = node.link.known_away(now) {
                let failure = Failure::from(away);
                return self.fail(now, key, failure);
            }
            entry.keep(words);
            entry.place = Place::Waiting(node_key);
            if node.waiting.len() >= WAITING_MAX {
                node.waiting.retain(|key| self.table.contains(*key));
            }
            return node.waiting.push_back(key);
        };
        // The table is bounded, but abandoned entries leave it at their deadlines while their commands stay in the
        // connection.
        if connection.in_flight() >= COMMANDS_MAX
            || connection.held() + entry.len > self.options.queue_bytes_max
        {
            return self.fail(now, key, Failure::Overloaded);
        }
        entry.tries += 1;
        entry.place = Place::Sent;
        let detour = entry.detour.as_deref_mut();
        let (asking, as_text) = detour
            .map_or((false, false), |detour| (detour.asking.take().is_some(), detour.as_text));
        if asking {
            // Adjacent, in one push: ASKING applies to the very next command only.
            let pushed = connection.push(now, NOBODY, Shape::Any, &[b"ASKING"]);
            debug_assert!(pushed.is_ok(), "BUG: one short word is sendable");
        }
        // Behind ASKING never EVALSHA: its NOSCRIPT would use the ASKING up.
        let spelling = Spelling { text: as_text || asking, plain: self.plain_scripts };
        entry.spelling = spelling;
        connection.push_with(now, key, entry.shape, |out| match words {
            Some(words) => words.write(out, spelling),
            None => {
                let bytes = entry.detour.as_mut().map(|detour| std::mem::take(&mut detour.bytes));
                entry.command.write(&bytes.unwrap_or_default(), out, spelling);
            }
        });
        self.pushed = true;
    }

    /// The command of a request is needed again: it is copied back from the connection on which its reply has come.
    fn take_back(&mut self, node_key: u64, key: u64) {
        if let (Some(node), Some(entry)) = (self.nodes.get(node_key), self.table.get_mut(key)) {
            entry.take_back(node.link.last_command());
        }
    }

    /// No node is known for this request: it waits for the guide, but not without limit.
    fn shelter(&mut self, now: Instant, key: u64) {
        if !matches!(self.table.get(key), Some(Entry { origin: Origin::Requester(_), .. })) {
            let why = "the node asked has left".to_owned();
            return self.fail(now, key, Failure::Unreachable(why));
        }
        // A server that cannot be found for this long counts as away.
        let long = now.saturating_duration_since(self.began) >= super::link::PATIENCE;
        if self.homeless.len() >= WAITING_MAX {
            self.homeless.retain(|key| self.table.contains(*key));
        }
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

    /// Handles a reply to the request under `key` that is an error, or the answer to a request of the guide's.
    fn answered(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        node_key: u64,
        key: u64,
        reply: Reply,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.place = Place::Here;
        if !matches!(entry.origin, Origin::Requester(_)) {
            return self.guide_answered(world, now, node_key, key, reply);
        }
        let Reply::Error(e) = reply else {
            return self.finish(key, Ok(reply));
        };
        if remedy(&e) != Remedy::Report || is_shebang_unknown(&e) {
            self.take_back(node_key, key);
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        match remedy(&e) {
            // The spelling of this very request counts, for others were sent already when the first came back.
            Remedy::Report if is_shebang_unknown(&e) && !entry.spelling.plain => {
                if !std::mem::replace(&mut self.plain_scripts, true) {
                    log::warn!(
                        "redis does not know `#!lua` (before 7.0, KeyDB, Dragonfly): scripts cannot tell a stale replica from its master"
                    );
                }
                self.place(now, key, None);
            }
            Remedy::SendScript if !entry.spelling.text => {
                entry.detour().as_text = true;
                self.place(now, key, None);
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
            Remedy::Moved | Remedy::Ask => self.redirect(world, now, node_key, key, e),
        }
    }

    /// Tries a refused request again after a wait, if there is time and the budget allows it. The request did not run,
    /// so this is safe for writes too.
    fn try_again(&mut self, now: Instant, key: u64, e: ErrorReply) {
        let wait = self.backoff.wait_of(self.table.get_mut(key).map_or(0, |entry| entry.tries));
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        // A write that is sent and not answered by its deadline has an unknown outcome. So the last try is not made at
        // the last moment: until then it is known that nothing ran.
        if now + wait + LAST_TRY >= entry.deadline || !self.budget.spend() {
            return self.finish(key, Ok(Reply::Error(e)));
        }
        entry.detour().refusal = Some(e);
        self.delayed.push(Reverse((now + wait, key)));
    }

    /// Looks for the right server: this one may not be it any more.
    fn rediscover(&mut self, now: Instant, node_key: u64) {
        let jitter = self.backoff.unit();
        match &mut self.guide {
            // The name may resolve to another address by now.
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

    fn redirect(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        node_key: u64,
        key: u64,
        e: ErrorReply,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let asked = self.nodes.get(node_key).map(|node| node.link.endpoint().clone());
        let redirect = asked.as_ref().and_then(|asked| read_redirect(&e, asked));
        let (Guide::Cluster(_), Some(redirect)) = (&self.guide, redirect) else {
            return self.finish(key, Ok(Reply::Error(e)));
        };
        let hops = &mut entry.detour().hops;
        *hops += 1;
        if *hops > HOPS_MAX || entry.home != Home::Slot(redirect.slot) {
            return self.finish(key, Ok(Reply::Error(e)));
        }
        let is_ask = remedy(&e) == Remedy::Ask;
        let jitter = self.backoff.unit();
        let to = redirect.to.as_ref().filter(|to| Some(*to) != asked.as_ref());
        let to = to.cloned().and_then(|to| self.node_at(world, to, now));
        let Guide::Cluster(map) = &mut self.guide else {
            return;
        };
        match to {
            Some(node) if is_ask => {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.detour().asking = Some(node);
                }
                self.place(now, key, None);
            }
            Some(node) => {
                map.moved(redirect.slot, node);
                map.doubt(now, jitter);
                self.place(now, key, None);
            }
            // The redirect names no node, or the node itself: only a new map can tell.
            None => {
                map.doubt(now, 0.0);
                self.try_again(now, key, e);
            }
        }
    }

    fn all_lost(&mut self, now: Instant, wreck: &Wreck) {
        for (key, command, sent) in wreck.connection.commands() {
            self.lost(now, key, command, sent, wreck);
        }
    }

    /// The connection was lost while this request awaited its reply; `sent`: whether the kernel had taken all of it.
    fn lost(&mut self, now: Instant, key: u64, command: &[u8], sent: bool, wreck: &Wreck) {
        if let Guide::Cluster(map) = &mut self.guide {
            map.doubt(now, 0.0);
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.place = Place::Here;
        // A request of the guide's is better sent to another node.
        let ours = !matches!(entry.origin, Origin::Requester(_));
        let again = !ours && (!sent || wreck.again && entry.read_only);
        if again && entry.tries < if sent { SENT_MAX } else { TRIES_MAX } {
            entry.take_back(command);
            return self.place(now, key, None);
        }
        let failure = match &wreck.why {
            Away::Unreachable(why) if sent => Failure::Broken(why.clone()),
            why => Failure::from(why),
        };
        self.fail(now, key, failure);
    }

    /// Sends the requests that the guide needs.
    fn follow_guide(&mut self, world: &mut dyn World, now: Instant) {
        match &mut self.guide {
            Guide::Single(_) => {}
            Guide::Sentinel(_) => self.follow_sentinels(world, now),
            Guide::Cluster(map) if map.is_due(now) => self.fetch_map(world, now),
            Guide::Cluster(_) => {}
        }
    }

    /// When every sentinel that we ask is away, the others that they have named are asked, too.
    fn join_other_sentinels(&mut self, world: &mut dyn World, now: Instant) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let is_away = |s: &u64| self.nodes.get(*s).is_none_or(|n| n.link.away().is_some());
        if watch.others.is_empty() || !watch.sentinels.iter().all(is_away) {
            return;
        }
        for other in std::mem::take(&mut watch.others) {
            if self.nodes.find(&other).is_none() && watch.sentinels.len() < SENTINELS_MAX {
                let link = Link::new(other, self.sentinel_options.clone(), self.owner, world, now);
                watch.sentinels.push(self.nodes.insert(link));
                self.pushed = true;
            }
        }
    }

    fn follow_sentinels(&mut self, world: &mut dyn World, now: Instant) {
        self.join_other_sentinels(world, now);
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
                    let others_too = watch.is_others_due(now);
                    self.ask_sentinel(now, Origin::Master, sentinel, b"MASTER");
                    if others_too {
                        self.ask_sentinel(now, Origin::Others, sentinel, b"SENTINELS");
                    }
                }
                Some(Wish::Follow(endpoint)) => self.follow_master(world, now, endpoint),
            }
        }
    }

    fn follow_master(&mut self, world: &mut dyn World, now: Instant, endpoint: Endpoint) {
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
        let link = Link::new(endpoint, self.options.clone(), self.owner, world, now);
        watch.master = Some(self.nodes.insert(link));
        self.pushed = true;
        if let Some(old) = old {
            self.close(world, now, old, "the master was replaced");
        }
    }

    fn fetch_map(&mut self, world: &mut dyn World, now: Instant) {
        let Guide::Cluster(map) = &mut self.guide else {
            return;
        };
        // Any reachable node can answer, a replica too; one that has left does not answer.
        let nodes = self.nodes.iter();
        let up = nodes.filter_map(|(key, node)| node.link.is_up().then_some(key));
        let Some(node) = map.fetch(&up.collect::<Vec<_>>()) else {
            for source in map.sources() {
                self.node_at(world, source, now);
            }
            return;
        };
        self.ask(now, Origin::Map, node, &[b"CLUSTER", b"SLOTS"], now + QUESTION_TIMEOUT);
    }

    /// Asks a sentinel about the master.
    fn ask_sentinel(&mut self, now: Instant, origin: Origin<P>, sentinel: u64, what: &[u8]) {
        if let Guide::Sentinel(watch) = &self.guide {
            let name = watch.name.clone();
            let words: [&[u8]; 3] = [b"SENTINEL", what, name.as_bytes()];
            self.ask(now, origin, sentinel, &words, now + ROUND);
        }
    }

    /// Sends a request of the guide's own.
    fn ask(
        &mut self,
        now: Instant,
        origin: Origin<P>,
        node: u64,
        words: &[&[u8]],
        deadline: Instant,
    ) {
        let words = Words::plain(words);
        let key = self.insert(Entry {
            origin,
            home: Home::Node(node),
            deadline,
            command: words.outline(),
            len: words.len(),
            place: Place::Here,
            tries: 0,
            shape: Shape::Any,
            read_only: true,
            expires: true,
            spelling: Spelling::default(),
            detour: None,
        });
        self.place(now, key, Some(words));
    }

    /// Handles the answer.
    fn guide_answered(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        node_key: u64,
        key: u64,
        reply: Reply,
    ) {
        let Some(entry) = self.remove(key) else {
            return;
        };
        match entry.origin {
            Origin::Requester(_) => {}
            Origin::Others => {
                if let (Guide::Sentinel(watch), Some(others)) =
                    (&mut self.guide, read_others(&reply))
                {
                    watch.others = others;
                }
            }
            Origin::Master => self.sentinel_answered(now, node_key, true, &reply),
            Origin::Address => self.sentinel_answered(now, node_key, false, &reply),
            Origin::Map => self.map_answered(world, now, node_key, &reply),
        }
    }

    /// Handles a request of the guide's that got no answer.
    fn guide_unanswered(&mut self, now: Instant, key: u64) {
        let Some(entry) = self.remove(key) else {
            return;
        };
        match (entry.origin, entry.home, &mut self.guide) {
            (Origin::Master | Origin::Address, Home::Node(asked), Guide::Sentinel(watch)) => {
                watch.silent(asked);
            }
            (Origin::Map, _, Guide::Cluster(map)) => map.fetched(now, false, self.backoff.unit()),
            _ => {}
        }
    }

    fn map_answered(&mut self, world: &mut dyn World, now: Instant, node_key: u64, reply: &Reply) {
        let asked = self.nodes.get(node_key).map(|node| node.link.endpoint().clone());
        let rows = asked.and_then(|asked| read_slots(reply, &asked));
        match rows {
            Some(_) => self.complaint = None,
            None => self.complain(node_key, reply),
        }
        let jitter = self.backoff.unit();
        let Guide::Cluster(mut map) = std::mem::replace(&mut self.guide, Guide::Single(NOBODY))
        else {
            return;
        };
        map.fetched(now, rows.is_some(), jitter);
        if let Some(rows) = &rows {
            let mut node_at = |at: &Endpoint| self.node_at(world, at.clone(), now);
            map.replace(rows, |at| node_at(at).unwrap_or(NOBODY));
        }
        self.guide = Guide::Cluster(map);
        if rows.is_some() {
            self.regroup(world, now);
        }
    }

    /// Handles a sentinel's answer to SENTINEL MASTER, or to the question where the master is.
    fn sentinel_answered(&mut self, now: Instant, sentinel: u64, first: bool, reply: &Reply) {
        let Guide::Sentinel(watch) = &mut self.guide else {
            return;
        };
        let master = read_master(reply);
        let forbidden = matches!(reply, Reply::Error(e) if e.code == "NOPERM");
        if first && (forbidden || master.as_ref().is_some_and(|m| m.in_doubt)) {
            if !forbidden {
                watch.heard(sentinel, master);
            }
            let what = b"GET-MASTER-ADDR-BY-NAME";
            return self.ask_sentinel(now, Origin::Address, sentinel, what);
        }
        let address = read_address(reply).filter(|_| !first);
        let knows_none = master.is_none() && address.is_none() && watch.master.is_none();
        match first {
            true => watch.heard(sentinel, master),
            false => watch.located(sentinel, address),
        }
        if knows_none {
            self.complain(sentinel, reply);
        }
    }

    /// Logs a reply that does not answer where the data is.
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
        // Once, though each server may send its own.
        if self.complaint.replace(why.clone()).is_none() {
            log::warn!("redis: {why}");
        }
    }

    /// After a new map: queued requests may have another node now, and nodes without slots may be removed. But while no
    /// node with slots is reachable, the map came from those, and so will the next.
    fn regroup(&mut self, world: &mut dyn World, now: Instant) {
        let is_away = |n: &u64| self.nodes.get(*n).is_none_or(|n| n.link.away().is_some());
        let all_away = match &self.guide {
            Guide::Cluster(map) => map.members().iter().all(is_away),
            _ => return,
        };
        let keys: Vec<u64> = self.nodes.iter().map(|(key, _)| key).collect();
        for node_key in keys {
            let Some(node) = self.nodes.get_mut(node_key) else {
                continue;
            };
            for key in std::mem::take(&mut node.waiting) {
                self.place(now, key, None);
            }
            let Guide::Cluster(map) = &self.guide else {
                return;
            };
            let is_idle = |n: &Node| n.waiting.is_empty() && n.link.in_flight() == 0;
            let idle = self.nodes.get(node_key).is_some_and(is_idle);
            if idle && !all_away && !map.members().contains(&node_key) {
                self.close(world, now, node_key, "no slots are there any more");
            }
        }
    }

    /// The node at `endpoint`, created if there is none; `None` when there are too many already.
    fn node_at(&mut self, world: &mut dyn World, endpoint: Endpoint, now: Instant) -> Option<u64> {
        if let Some(key) = self.nodes.find(&endpoint) {
            return Some(key);
        }
        if self.nodes.count() >= NODES_MAX {
            return None;
        }
        self.pushed = true;
        let link = Link::new(endpoint, self.options.clone(), self.owner, world, now);
        Some(self.nodes.insert(link))
    }

    fn close(&mut self, world: &mut dyn World, now: Instant, node_key: u64, why: &str) {
        let Some(node) = self.nodes.remove(node_key) else {
            return;
        };
        if let Some(wreck) = node.link.close(world, why) {
            self.all_lost(now, &wreck);
        }
        for key in node.waiting {
            self.place(now, key, None);
        }
    }

    fn wake_delayed(&mut self, now: Instant) {
        while let Some(Reverse((until, key))) = self.delayed.peek().copied()
            && until <= now
        {
            self.delayed.pop();
            self.place(now, key, None);
        }
    }

    /// Ends the requests that are due and that the client itself ends.
    fn time_out(&mut self, now: Instant) {
        let is_due = |key: &u64| self.table.get(*key).is_none_or(|entry| entry.deadline <= now);
        let due: Vec<u64> = self.expiring.iter().copied().filter(is_due).collect();
        due.into_iter().for_each(|key| self.expire(now, key));
    }

    /// Ends a request whose deadline has passed, with the reason that is known.
    fn expire(&mut self, now: Instant, key: u64) {
        match self.table.get(key).map(|entry| self.give_up(entry)) {
            Some(Ok(reply)) => self.finish(key, Ok(reply)),
            Some(Err(failure)) => self.fail(now, key, failure),
            None => self.expiring.retain(|other| *other != key),
        }
    }

    fn fail(&mut self, now: Instant, key: u64, failure: Failure) {
        match self.table.get(key).map(|entry| &entry.origin) {
            Some(Origin::Requester(_)) => self.finish(key, Err(failure)),
            Some(_) => self.guide_unanswered(now, key),
            None => {}
        }
    }

    fn finish(&mut self, key: u64, result: Result<Reply, Failure>) {
        if let Some(entry) = self.remove(key)
            && let Origin::Requester(purpose) = entry.origin
        {
            self.done.push((purpose, entry.shape, result));
        }
    }

    fn remove(&mut self, key: u64) -> Option<Entry<P>> {
        remove(&mut self.table, &mut self.bytes, &mut self.expiring, key)
    }
}

impl<P> Entry<P> {
    /// Encodes the command now: it is needed after its words are gone.
    fn keep(&mut self, words: Option<Words<'_>>) {
        if let Some(words) = words {
            self.detour().bytes = words.encode().bytes;
        }
    }

    /// Copies the command back from a connection: it is needed again.
    fn take_back(&mut self, written: &[u8]) {
        self.detour().bytes = self.command.take_back(written, self.spelling);
    }

    fn detour(&mut self) -> &mut Detour {
        self.detour.get_or_insert_default()
    }
}

#[inline(always)]
fn remove<P>(
    table: &mut Slab<Entry<P>>,
    bytes: &mut usize,
    expiring: &mut Vec<u64>,
    key: u64,
) -> Option<Entry<P>> {
    let entry = table.remove(key)?;
    *bytes -= entry.len;
    if entry.expires {
        expiring.retain(|other| *other != key);
    }
    Some(entry)
}

/// Tries beyond the first are paid for by successes, ten for one, so that an outage cannot double the load on the
/// remaining servers. A few are free, so that a service with little traffic survives a short failure.
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
