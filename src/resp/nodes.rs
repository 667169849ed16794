//! The servers of a client: the link to each, and the requests that wait for it.
//!
//! There is one, or a handful, or at most a thousand; they are added and removed rarely, but every request looks one up
//! and every tick walks over all. So they are a sorted list. Keys count up and are never given out twice.

use super::endpoint::Endpoint;
use super::link::Link;
use std::collections::VecDeque;

/// A server.
pub struct Node {
    /// The link to it.
    pub link: Link,
    /// Keys of requests that wait for the link, oldest first.
    pub waiting: VecDeque<u64>,
}

/// See the module's text.
#[derive(Default)]
pub struct Nodes {
    list: Vec<(u64, Box<Node>)>,
    next: u64,
}

impl Nodes {
    /// Adds a server; gives its key.
    pub fn insert(&mut self, link: Link) -> u64 {
        let key = self.next;
        self.next += 1;
        self.list.push((key, Box::new(Node { link, waiting: VecDeque::new() })));
        key
    }

    /// The node under `key`; `None` when it has been removed.
    pub fn get(&self, key: u64) -> Option<&Node> {
        self.list.get(self.place(key)?).map(|(_, node)| &**node)
    }

    /// As [`get`](Nodes::get), mutable.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut Node> {
        let place = self.place(key)?;
        self.list.get_mut(place).map(|(_, node)| &mut **node)
    }

    /// Removes the node under `key`.
    pub fn remove(&mut self, key: u64) -> Option<Node> {
        let place = self.place(key)?;
        Some(*self.list.remove(place).1)
    }

    /// The key of the server at `endpoint`.
    pub fn find(&self, endpoint: &Endpoint) -> Option<u64> {
        let mut nodes = self.iter();
        nodes.find_map(|(key, node)| (node.link.endpoint() == endpoint).then_some(key))
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// All nodes, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Node)> {
        self.list.iter().map(|(key, node)| (*key, &**node))
    }

    /// All nodes, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.list.iter_mut().map(|(_, node)| &mut **node)
    }

    fn place(&self, key: u64) -> Option<usize> {
        match self.list.first() {
            Some((first, _)) if *first == key => Some(0),
            _ => self.list.binary_search_by_key(&key, |(key, _)| *key).ok(),
        }
    }
}
