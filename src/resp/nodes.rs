//! The servers of a client.
//!
//! There is one node, or a handful, or at most a thousand; they are added and removed rarely, but every request looks
//! one up and every tick walks over all. So they are a sorted list. Keys count up and are never given out twice.
//!
//! Topologies add and close nodes here, and do no I/O for that: a new one connects, and a closed one gives its sockets
//! back, when the client drives them next.

use super::codec::{ErrorReply, Reply};
use super::endpoint::Endpoint;
use super::node::Node;
use super::options::Options;
use super::request::Failure;
use crate::net::Random;
use std::rc::Rc;
use std::time::Instant;

/// Nodes that are remembered; no cluster has more.
const NODES_MAX: usize = 1024;

/// See the module's text.
pub struct Nodes {
    list: Vec<(u64, Box<Node>)>,
    next: u64,
    /// For the servers that have the data.
    pub options: Rc<Options>,
    owner: u64,
    /// Differs for every client of every process.
    pub random: Random,
    /// Nodes were added since they were last driven.
    pub are_new: bool,
    /// Those that were closed, with their sockets and commands.
    pub closed: Vec<(u64, Box<Node>)>,
    /// The answer of a server that should know where the data is, and does not.
    pub complaint: Option<String>,
}

impl Nodes {
    /// A list without nodes.
    pub fn new(options: Options, owner: u64, random: u64) -> Nodes {
        Nodes {
            list: Vec::new(),
            next: 0,
            options: Rc::new(options),
            owner,
            random: Random::new(random),
            are_new: false,
            closed: Vec::new(),
            complaint: None,
        }
    }

    /// The key of the node at this endpoint, which is added if there is none. `None`: there are too many.
    pub fn open(&mut self, endpoint: &Endpoint, now: Instant) -> Option<u64> {
        self.find(endpoint).or_else(|| self.add(endpoint, Rc::clone(&self.options), now))
    }

    /// Adds a node, with options of its own.
    pub fn add(&mut self, endpoint: &Endpoint, options: Rc<Options>, now: Instant) -> Option<u64> {
        if self.list.len() >= NODES_MAX {
            return None;
        }
        let key = self.next;
        self.next += 1;
        // The number itself would begin the rest of our own series.
        let random = self.random.draw().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let node = Node::new(endpoint.clone(), options, self.owner, random, now);
        self.list.push((key, Box::new(node)));
        self.are_new = true;
        Some(key)
    }

    /// The node under `key`; `None` when it has been closed.
    pub fn get(&self, key: u64) -> Option<&Node> {
        self.list.get(self.place(key)?).map(|(_, node)| &**node)
    }

    /// As [`get`](Nodes::get), mutable.
    #[inline]
    pub fn get_mut(&mut self, key: u64) -> Option<&mut Node> {
        let place = self.place(key)?;
        self.list.get_mut(place).map(|(_, node)| &mut **node)
    }

    /// As [`get`](Nodes::get), but only a node that its identity does not keep from getting requests.
    pub fn trusted(&self, key: u64) -> Option<&Node> {
        self.get(key).filter(|node| node.is_trusted())
    }

    /// Closes the node under `key`.
    pub fn close(&mut self, key: u64) {
        if let Some(place) = self.place(key) {
            self.closed.push(self.list.remove(place));
        }
    }

    /// Notes the answer of the server under `key`, which does not know where the data is. It is logged once, though
    /// each server may send its own.
    pub fn complain(&mut self, what: &str, key: u64, answer: &Reply) {
        let Some(node) = self.get(key) else {
            return;
        };
        let said = match answer {
            Reply::Error(e) => e.to_string(),
            _ => "no such thing".to_owned(),
        };
        let why = format!("{what}: {} says {said}", node.endpoint());
        if self.complaint.replace(why.clone()).is_none() {
            log::warn!("redis: {why}");
        }
    }

    /// Why no node is known for a request, if that will last: a complaint, or all servers are away.
    pub fn why_none(&self, now: Instant) -> Option<Failure> {
        let refused = |why: &String| Failure::Refused(ErrorReply::parse(why.as_bytes()));
        let errors: Option<Vec<_>> = self.iter().map(|(_, node)| node.known_away(now)).collect();
        let all_away = || errors?.first().copied().cloned();
        self.complaint.as_ref().map(refused).or_else(all_away)
    }

    /// The key of the server at `endpoint`.
    pub fn find(&self, endpoint: &Endpoint) -> Option<u64> {
        let mut nodes = self.iter();
        nodes.find_map(|(key, node)| (node.endpoint() == endpoint).then_some(key))
    }

    /// All nodes, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Node)> {
        self.list.iter().map(|(key, node)| (*key, &**node))
    }

    /// All nodes, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.list.iter_mut().map(|(_, node)| &mut **node)
    }

    /// How many there are, and the key of the one at this place.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// See [`count`](Nodes::count).
    pub fn key_at(&self, place: usize) -> Option<u64> {
        self.list.get(place).map(|(key, _)| *key)
    }

    #[inline]
    fn place(&self, key: u64) -> Option<usize> {
        match self.list.first() {
            Some((first, _)) if *first == key => Some(0),
            _ => self.list.binary_search_by_key(&key, |(key, _)| *key).ok(),
        }
    }
}
