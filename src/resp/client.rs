//! Requests to Redis: which node gets them, and which may be sent again.
//!
//! A [`Client`] belongs to one worker. It writes each command into the connection of the right node, where its
//! [`Slot`] is its only entry, and answers it exactly once: with its reply, or with an error that says what is known.
//!
//! ```text
//! submit ─▶ route ─┬─ a connection ──▶ slot ─▶ reply ─┬─▶ the requester
//!                  ├─ none yet ──────▶ parked ─┐      └─ an error that passes ─▶ parked, for a while
//!                  └─ known away ────▶ failed  └─▶ route, again and again
//!
//! connection lost:  not sent, or a read that was sent   ─▶ route
//!                   a write that was sent               ─▶ failed (Broken: unknown)
//! ```
//!
//! A try has three outcomes, not two: it did not reach the server, the server proved that it did not run, or it is
//! unknown whether it ran. After the first two any command may be tried again; after the third only a read. Deadlines
//! are the requester's: at its deadline it [abandons](Client::abandon) a request. One that is *parked* (it waits for a
//! connection, for a map of the cluster, or for its next try) is forgotten then; of one on a connection the slot stays,
//! and its reply is dropped in its turn.
//!
//! This file decides where a command goes; `again` decides what becomes of one that was refused or lost.

mod again;

use super::backoff::Backoff;
#[cfg(feature = "poll")]
use super::cluster::Cluster;
use super::codec::{ErrorReply, Received, Reply};
use super::command::{Spelling, Words};
use super::connection::Heard;
use super::connector::PATIENCE;
use super::counts::Counts;
#[cfg(feature = "poll")]
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error_action::{ErrorAction, error_action};
use super::node::{Ended, Identity, Node};
use super::nodes::Nodes;
use super::options::{Options, Purpose, Target};
use super::parked::{Parked, ParkedList};
use super::reply_type::ReplyType;
use super::request::{Asker, Failure, Route, Slot, Ticket};
#[cfg(feature = "poll")]
use super::sentinel::Sentinels;
use super::slot::slot;
use super::topology::{Master, Single, Topology};
use crate::net::{Ready, World};
#[cfg(feature = "poll")]
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Commands that may be under way on one connection, and as many that may be parked; one more is refused. Abandoned
/// requests whose replies a connection still awaits count as well.
pub const COMMANDS_MAX: usize = 10_000;

/// Waits before another try of a request that was refused.
const AGAIN_FLOOR: Duration = Duration::from_millis(2);
const AGAIN_BASE: Duration = Duration::from_millis(10);
const AGAIN_CAP: Duration = Duration::from_millis(200);

/// See the module's text.
pub struct Client {
    nodes: Nodes,
    topology: Box<dyn Topology>,
    parked: ParkedList,
    began: Instant,
    /// A command was pushed into a connection since the nodes were last driven.
    pushed: bool,
    backoff: Backoff,
    /// The servers do not support `#!lua`: scripts are sent without that line, until there is another connection. It
    /// may lead to a newer server.
    plain_scripts: bool,
    /// That was logged.
    said_plain: bool,
    counts: Counts,
    /// Requests that have failed and are handed out by the next `progress`.
    done: Vec<(Ticket, ReplyType, Failure)>,
    /// As of the last turn: when the next one has something to do.
    next: Option<Instant>,
}

/// Receives the outcomes: whose it is, the type of the reply, the result, and, if the server refused the command, the
/// command's bytes.
pub type Sink<'a> = &'a mut dyn FnMut(Ticket, ReplyType, Result<Received<'_>, Failure>, &[u8]);

impl Client {
    /// A client for `target`, with `owner` as the owner of its sockets. Connects at the first `progress`. What kind of
    /// server is required follows from the target, not from the options.
    pub fn new(
        target: Target,
        mut options: Options,
        owner: u64,
        world: &mut dyn World,
        now: Instant,
    ) -> Client {
        options.purpose = match target {
            Target::Single(_) => Purpose::Single,
            Target::Sentinel { .. } => Purpose::Master,
            Target::Cluster { .. } => Purpose::ClusterNode,
        };
        let mut nodes = Nodes::new(options, owner, world.random());
        Client {
            topology: topology(target, &mut nodes, now),
            nodes,
            parked: ParkedList::new(now),
            began: now,
            pushed: false,
            backoff: Backoff::new(AGAIN_FLOOR, AGAIN_BASE, AGAIN_CAP, world.random()),
            plain_scripts: false,
            said_plain: false,
            counts: Counts::default(),
            done: Vec::new(),
            next: Some(now),
        }
    }

    /// How many commands have no outcome yet, questions of our own included.
    pub fn in_flight(&self) -> usize {
        let sent: usize = self.nodes.iter().map(|(_, node)| node.in_flight()).sum();
        sent + self.parked.list.len() + self.done.len()
    }

    /// How many requests have no outcome yet, and how many bytes are counted for those that are parked. It looks at each.
    pub fn waiting(&self) -> (usize, usize) {
        let requests: usize = self.nodes.iter().map(|(_, node)| node.requests()).sum();
        (requests + self.parked.list.len() + self.done.len(), self.parked.bytes)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The route of a key. Only a cluster has slots.
    #[inline]
    pub fn route_of(&self, key: &[u8]) -> Route {
        Route::Slot(if self.topology.has_slots() { slot(key) } else { 0 })
    }

    /// Every server that has keys of its own. See [`Topology::masters`].
    pub fn masters(&mut self, now: Instant, fresh: bool) -> Option<Vec<Master>> {
        self.topology.masters(&mut self.nodes, now, fresh)
    }

    /// If the node of this key is known to be away: another node of the cluster that has a connection.
    pub fn instead_of(&self, now: Instant, key: &[u8]) -> Option<u64> {
        let node = self.node_of(self.route_of(key)).and_then(|key| self.nodes.get(key))?;
        node.known_away(now).filter(|_| self.topology.has_slots())?;
        let is_well = |key: &u64| self.nodes.trusted(*key).is_some_and(Node::is_up);
        self.topology.members().iter().copied().find(is_well)
    }

    /// What keeps requests from being served, and writes from being taken, as far as it is known. A cluster serves as
    /// long as a part of it does.
    pub fn trouble(&self, now: Instant) -> Option<Failure> {
        let mut members = self.members();
        let Some(first) = members.next() else {
            return self.nodes.why_none(now);
        };
        first.trouble(now).filter(|_| members.all(|node| node.trouble(now).is_some()))
    }

    /// Servers that are away while others serve what they have, and why.
    pub fn away(&self, now: Instant) -> Vec<(&Endpoint, Failure)> {
        let parts = self.members().filter(|_| self.topology.has_slots());
        parts.filter_map(|node| Some((node.endpoint(), node.trouble(now)?))).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Node> {
        self.topology.members().iter().filter_map(|key| self.nodes.get(*key))
    }

    /// Whether no server has a connection, and one is being made.
    pub fn is_connecting(&self) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.all(|(_, node)| !node.is_up()) && self.nodes.iter().any(|(_, n)| n.is_connecting())
    }

    /// Takes a request; its outcome comes from [`progress`](Client::progress).
    #[inline]
    pub fn submit(&mut self, now: Instant, slot: Slot, words: Words<'_>) {
        if !words.is_sendable() {
            let why = ErrorReply::parse(b"a command of no or too many words or bytes");
            return self.fail(slot, Failure::Refused(why));
        }
        self.place(now, Slot { script: words.script, ..slot }, words, None);
    }

    /// Abandons a request with this tag, and says why there is no answer; `None` when there is none any more.
    ///
    /// A request that no connection has gets the reason for its wait: it certainly did not run. So does a read that is
    /// being tried again: for a server that answers LOADING now and then, LOADING is the better answer than a timeout.
    pub fn abandon(&mut self, tag: u64) -> Option<(ReplyType, Failure)> {
        if let Some(parked) = self.parked.remove(tag) {
            return Some((parked.slot.reply_type, self.why_parked(&parked)));
        }
        for node in self.nodes.iter_mut() {
            let mut connections = node.connections_mut();
            if let Some(slot) = connections.find_map(|connection| connection.abandon(tag)) {
                drop(connections);
                let refusal = node.refusal.clone().filter(|_| slot.read_only && slot.tries > 1);
                let failure = refusal.map_or(Failure::Timeout, Failure::Refused);
                return Some((slot.reply_type, failure));
            }
        }
        None
    }

    fn why_parked(&self, parked: &Parked) -> Failure {
        let node = self.node_of(parked.slot.route).and_then(|key| self.nodes.get(key));
        let error = node.and_then(Node::error).cloned();
        match &parked.error {
            Some(e) => Failure::Refused(e.clone()),
            // It was sent before, and not answered in time.
            None if parked.slot.lost > 0 => Failure::Timeout,
            None => error.unwrap_or(Failure::Unreachable("there is no connection yet".to_owned())),
        }
    }

    /// Takes an event for one of our sockets.
    pub fn ready(&mut self, ready: Ready) {
        // Each knows its own sockets. Nearly always there is one node.
        self.nodes.iter_mut().for_each(|node| node.ready(ready));
    }

    /// Makes the next [`progress`](Client::progress) read from the sockets themselves, whatever events were reported.
    pub fn look(&mut self) {
        self.nodes.iter_mut().for_each(Node::look);
    }

    /// Moves the bytes that can be moved and hands out the outcomes.
    ///
    /// Replies that have arrived by now count, so the sockets themselves are read before any deadline is enforced: a
    /// process that was stopped for a while resumes in a wait that was interrupted, with no events, and finds deadlines
    /// long past.
    pub fn progress(&mut self, world: &mut dyn World, now: Instant, sink: Sink<'_>) {
        if self.next.is_some_and(|t| t <= now) {
            self.look();
        }
        self.drive(world, now, sink);
        self.topology.tick(&mut self.nodes, now);
        self.place_orphans(world, now);
        if self.parked.next().is_some_and(|at| now >= at) {
            self.place_parked(now);
        }
        if self.pushed || self.nodes.are_new || self.topology.next_deadline().is_some() {
            self.drive(world, now, sink);
        }
        for (ticket, reply_type, failure) in self.done.drain(..) {
            sink(ticket, reply_type, Err(failure), &[]);
        }
        self.next = self.earliest();
    }

    /// Sends what was submitted since. Replies wait for the next [`progress`](Client::progress).
    pub fn send(&mut self, world: &mut dyn World, now: Instant) {
        for at in 0..self.nodes.count() {
            if let Some(key) = self.nodes.key_at(at) {
                self.serve(world, now, key);
            }
        }
        self.next = self.earliest();
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.done.is_empty() {
            return Some(self.began);
        }
        self.next.into_iter().chain(self.parked.next()).min()
    }

    fn earliest(&self) -> Option<Instant> {
        let nodes = self.nodes.iter().filter_map(|(_, node)| node.next_deadline());
        nodes.chain(self.topology.next_deadline()).chain(self.parked.next()).min()
    }

    /// Drives every node until none has anything new to send.
    fn drive(&mut self, world: &mut dyn World, now: Instant, sink: Sink<'_>) {
        loop {
            (self.pushed, self.nodes.are_new) = (false, false);
            let mut at = 0;
            // Handling a reply may add nodes, or close them.
            while let Some(key) = self.nodes.key_at(at) {
                self.hear(world, now, key, sink);
                self.place_orphans(world, now);
                self.serve(world, now, key);
                at += 1;
            }
            if !self.pushed {
                return;
            }
        }
    }

    /// Reads and handles the replies of a node.
    fn hear(&mut self, world: &mut dyn World, now: Instant, key: u64, sink: Sink<'_>) {
        let mut old = false;
        loop {
            let Some(node) = self.nodes.get_mut(key) else {
                return;
            };
            match node.hear(world, now, old) {
                None if old => return,
                None => old = true,
                Some(Heard::Push(push)) => {
                    self.topology.on_push(&mut self.nodes, now, &push);
                }
                Some(Heard::Reply { slot, reply, command }) => match (slot.asker, reply) {
                    (Asker::Requester(_), Received::Other(Reply::Error(e))) => {
                        let command = command.to_vec();
                        self.refused(now, key, (slot, command), e, sink);
                    }
                    (Asker::Requester(ticket), reply) => {
                        sink(ticket, slot.reply_type, Ok(reply), &[]);
                        node.answered(slot.has_written() && !old);
                    }
                    // The old connection may lead to another server, so its role does not count.
                    (Asker::Role, _) if old => {}
                    (asker, reply) => {
                        let reply = reply.into_reply();
                        self.told(now, key, asker, &reply);
                    }
                },
            }
        }
    }

    /// Takes the answer to a question of our own.
    fn told(&mut self, now: Instant, key: u64, asker: Asker, reply: &Reply) {
        match asker {
            Asker::Topology(question) => {
                self.topology.on_answer(&mut self.nodes, now, (key, question), Some(reply));
                // There may be a node now for what is parked, also for what was redirected without being told where to.
                let is_lost = |e: &ErrorReply| error_action(e) == ErrorAction::Moved;
                let parked = self.parked.list.iter_mut();
                let moved = parked.filter(|parked| parked.error.as_ref().is_some_and(is_lost));
                moved.for_each(|parked| parked.until = None);
                self.parked.hurry(now);
            }
            Asker::Role => {
                let role = reply.array().and_then(|parts| parts.first()?.text());
                let Some(node) = self.nodes.get_mut(key).filter(|_| role.is_some()) else {
                    return;
                };
                node.server.is_replica = role == Some("slave");
                if node.server.is_replica {
                    self.topology.on_refusal(&mut self.nodes, now, key);
                }
            }
            Asker::Requester(_) | Asker::Nobody => {}
        }
    }

    /// Sends the commands of a node, and handles those that have lost their connection.
    fn serve(&mut self, world: &mut dyn World, now: Instant, key: u64) {
        while let Some(node) = self.nodes.get_mut(key) {
            let before = node.state();
            let ended = node.progress(world, now);
            self.pushed |= ended.is_none() && node.hears_first();
            if before != node.state() || ended.is_some() {
                self.counts.connected += u64::from(before != node.state() && node.is_up());
                self.plain_scripts &= !node.is_up();
                self.parked.hurry(now);
                self.topology.on_change(&mut self.nodes, now, key);
                self.place_parked(now);
            }
            let Some(Ended { commands, again, failure }) = ended else {
                return;
            };
            for lost in commands {
                self.lost(now, key, lost, again, &failure);
            }
        }
    }

    /// Finds another place for the commands of nodes that a topology has closed.
    fn place_orphans(&mut self, world: &mut dyn World, now: Instant) {
        while let Some((key, mut node)) = self.nodes.closed.pop() {
            let failure = Failure::Broken("the master was replaced".to_owned());
            for lost in node.close(world) {
                self.lost(now, key, lost, true, &failure);
            }
        }
    }

    fn place_parked(&mut self, now: Instant) {
        for parked in self.parked.take(now) {
            let is_asked =
                |node| self.nodes.get(node).is_some_and(|n| n.identity == Identity::Asked);
            let waits = matches!(parked.slot.route, Route::Ask { node, .. } if is_asked(node));
            if waits || parked.until.is_some_and(|until| until > now) {
                self.parked.push(now, parked);
            } else {
                let words = Words::again(&parked.command, parked.slot.script);
                self.place(now, parked.slot, words, parked.error);
            }
        }
    }

    /// The node that a command must go to; `None` while it is not known.
    #[inline]
    fn node_of(&self, route: Route) -> Option<u64> {
        match route {
            Route::Slot(slot) => self.topology.route(slot, &self.nodes),
            Route::Node(node) | Route::Ask { node, .. } => Some(node),
        }
    }

    /// Finds the node for a command and pushes it into that node's connection, or parks it. `error` is what it was
    /// refused with before, if it was.
    #[inline]
    fn place(&mut self, now: Instant, mut slot: Slot, words: Words<'_>, error: Option<ErrorReply>) {
        if let Route::Ask { node, slot: number } = slot.route
            && self.nodes.trusted(node).is_none_or(|node| node.known_away(now).is_some())
        {
            slot.route = Route::Slot(number);
        }
        let (key, bytes_max) = (self.node_of(slot.route), self.nodes.options.queue_bytes_max);
        let Some((key, node)) = key.and_then(|key| Some((key, self.nodes.get_mut(key)?))) else {
            return self.unrouted(now, slot, words, error);
        };
        let is_whole = matches!(slot.route, Route::Node(_));
        if is_whole && !(self.topology.members().contains(&key) && node.is_trusted()) {
            return self.fail(slot, Failure::Left);
        }
        let too_long = node.too_long(now, words.longest()).cloned();
        let Some(connection) = node.up() else {
            let away = node.known_away(now).cloned();
            // ASK says where a slot is going: that this node is away is no reason to doubt the map.
            if !matches!(slot.route, Route::Ask { .. }) {
                self.topology.on_change(&mut self.nodes, now, key);
            }
            return match away {
                Some(failure) => self.fail(slot, failure),
                None => self.park(now, slot, words, None, error),
            };
        };
        if let Some(e) = too_long {
            return self.fail(slot, Failure::Refused(e));
        }
        if connection.in_flight() >= COMMANDS_MAX || connection.held() + words.size() > bytes_max {
            return self.fail(slot, Failure::Overloaded);
        }
        let asking = match slot.route {
            Route::Slot(_) => false,
            // A command for a whole node (a page of a list) has to see slots that are on their way to it, too.
            Route::Node(_) => self.topology.has_slots(),
            Route::Ask { slot: number, .. } => {
                slot.route = Route::Slot(number);
                true
            }
        };
        // Behind ASKING never EVALSHA: its NOSCRIPT would use the ASKING up.
        slot.spelling = Spelling { text: slot.spelling.text || asking, plain: self.plain_scripts };
        if asking {
            // Adjacent: ASKING applies to the very next command only.
            let asking = Slot::new(Asker::Nobody, ReplyType::Any, Route::Node(key), true);
            connection.push(now, asking, |out| {
                Words::plain(&[b"ASKING"]).write(out, Spelling::default());
            });
        }
        slot.tries = slot.tries.saturating_add(1);
        connection.push(now, slot, |out| words.write(out, slot.spelling));
        self.pushed = true;
    }

    /// No node is known for this command: it is parked, but not without limit.
    fn unrouted(&mut self, now: Instant, slot: Slot, words: Words<'_>, error: Option<ErrorReply>) {
        let long = now.saturating_duration_since(self.began) >= PATIENCE;
        let why = match slot.route {
            Route::Node(_) => Some(Failure::Left),
            _ if long => self.nodes.why_none(now),
            _ => None,
        };
        match why {
            Some(failure) => self.fail(slot, failure),
            None => self.park(now, slot, words, None, error),
        }
    }

    fn park(
        &mut self,
        now: Instant,
        slot: Slot,
        words: Words<'_>,
        until: Option<Instant>,
        error: Option<ErrorReply>,
    ) {
        let bytes = self.parked.bytes + words.size();
        if self.parked.list.len() >= COMMANDS_MAX || bytes > self.nodes.options.queue_bytes_max {
            return self.fail(slot, Failure::Overloaded);
        }
        let mut command = Vec::new();
        words.write(&mut command, slot.spelling);
        self.parked.push(now, Parked { slot, command, until, error });
    }

    fn fail(&mut self, slot: Slot, failure: Failure) {
        if let Asker::Requester(ticket) = slot.asker {
            self.done.push((ticket, slot.reply_type, failure));
        }
    }
}

/// Without the feature `poll` there is only one server: the configuration has refused all else.
fn topology(target: Target, nodes: &mut Nodes, now: Instant) -> Box<dyn Topology> {
    let endpoint = match target {
        Target::Single(endpoint) => Some(endpoint),
        #[cfg(feature = "poll")]
        Target::Sentinel { seeds, name, user, password_file, tls } => {
            let options = Rc::new(Options {
                credentials: Credentials { user, password: None },
                password_file,
                tls,
                database: 0,
                purpose: Purpose::Sentinel,
                ..(*nodes.options).clone()
            });
            return Box::new(Sentinels::new(name, &seeds, options, nodes, now));
        }
        #[cfg(feature = "poll")]
        Target::Cluster { seeds } => return Box::new(Cluster::new(seeds, now)),
        #[cfg(not(feature = "poll"))]
        Target::Sentinel { seeds, .. } | Target::Cluster { seeds } => seeds.into_iter().next(),
    };
    let node = endpoint.and_then(|endpoint| nodes.open(&endpoint, now));
    Box::new(Single(node.unwrap_or(u64::MAX)))
}
