//! Which server gets a request.
//!
//! ```text
//! Single       one node, always                                                   here
//! Sentinels    one node at a time; sentinels are asked in rounds which one it is     `sentinel`
//! Cluster      a map from slots to nodes; any node is asked for a new one            `cluster`
//! ```
//!
//! A topology does its own asking: it opens and closes nodes, and sends them questions. The client hands in the answers
//! and tells what became of nodes and requests. What a topology does not care for has a default.

use super::codec::{ErrorReply, Reply};
use super::endpoint::Endpoint;
use super::node::{Node, Nodes};
use super::request::Failure;
use crate::net::World;
use std::time::Instant;

/// A server that has keys of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// The lowest of its slots; 0 where there are none.
    pub slot: u16,
    /// Its node.
    pub node: u64,
    /// What it is called, today and after a restart of ours.
    pub name: String,
}

/// Where a redirect leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// To this node; once only, and behind ASKING, if it is `asking`.
    To {
        /// The node.
        node: u64,
        /// See above.
        asking: bool,
    },
    /// Nobody knows yet: try again later.
    Later,
    /// It makes no sense here.
    Nowhere,
}

/// See the module's text.
pub trait Topology {
    /// The node that a slot is at; `None` while it is not known.
    fn route(&self, slot: u16, nodes: &Nodes) -> Option<u64>;

    /// Every server that has keys of its own, in the order of their lowest slots. `None` while they are not all known:
    /// a scan over only some of them would be incomplete.
    fn masters(&mut self, now: Instant, nodes: &Nodes) -> Option<Vec<Master>> {
        let _ = now;
        let node = self.route(0, nodes)?;
        let name = nodes.get(node)?.endpoint().to_string();
        Some(vec![Master { slot: 0, node, name }])
    }

    /// Whether keys have slots.
    fn has_slots(&self) -> bool {
        false
    }

    /// Whether a node has keys of its own, as far as it is known.
    fn is_master(&self, _node: u64, _nodes: &Nodes) -> bool {
        true
    }

    /// Asks what has to be asked now.
    fn tick(&mut self, _nodes: &mut Nodes, _world: &mut dyn World, _now: Instant) {}

    /// When there is something to ask.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// A message that answers no command.
    fn on_push(&mut self, _nodes: &mut Nodes, _world: &mut dyn World, _now: Instant, _: &[Reply]) {}

    /// The answer of a node to a question; `None` if there will be none.
    fn on_answer(
        &mut self,
        _nodes: &mut Nodes,
        _world: &mut dyn World,
        _now: Instant,
        _asked: (u64, u8),
        _answer: Option<&Reply>,
    ) {
    }

    /// A node says that it is not the right one, or not any more.
    fn on_refusal(&mut self, nodes: &mut Nodes, _now: Instant, node: u64) {
        // Another server may have its name by now.
        if let Some(node) = nodes.get_mut(node) {
            node.renew();
        }
    }

    /// A node has a connection, or has lost it, or there is none for a request.
    fn on_change(&mut self, _nodes: &mut Nodes, _now: Instant, _node: u64) {}

    /// A node says that a key is elsewhere.
    fn on_redirect(
        &mut self,
        _nodes: &mut Nodes,
        _world: &mut dyn World,
        _now: Instant,
        _from: (u64, u16),
        _e: &ErrorReply,
    ) -> Redirect {
        Redirect::Nowhere
    }

    /// Why no node is known for a request, if that is no matter of a moment.
    fn why_unrouted(&self, nodes: &Nodes, now: Instant) -> Option<Failure> {
        Complaint::default().failure(nodes, now)
    }

    /// Nodes that keep only a part of the requests from being served, and why.
    fn away<'a>(&self, _nodes: &'a Nodes, _now: Instant) -> Vec<(&'a Endpoint, Failure)> {
        Vec::new()
    }

    /// What keeps requests from being served, and writes from being taken.
    fn trouble(&self, nodes: &Nodes, now: Instant) -> Option<Failure> {
        match self.route(0, nodes).and_then(|key| nodes.get(key)) {
            Some(node) => trouble_of(node, now),
            None => self.why_unrouted(nodes, now),
        }
    }
}

/// What a server has said that should know where the data is, and does not.
#[derive(Debug, Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Notes such an answer, and logs it, once, though each server may send its own.
    pub fn note(&mut self, what: &str, node: &Node, answer: &Reply) {
        let said = match answer {
            Reply::Error(e) => e.to_string(),
            _ => "no such thing".to_owned(),
        };
        let why = format!("{what}: {} says {said}", node.endpoint());
        if self.0.replace(why.clone()).is_none() {
            log::warn!("redis: {why}");
        }
    }

    /// Why there is no node: this, or because all servers are away.
    pub fn failure(&self, nodes: &Nodes, now: Instant) -> Option<Failure> {
        let refused = |why: &String| Failure::Refused(ErrorReply::parse(why.as_bytes()));
        let errors: Option<Vec<_>> = nodes.iter().map(|(_, node)| node.known_away(now)).collect();
        let all_away = || Some(Failure::from(*errors?.first()?));
        self.0.as_ref().map(refused).or_else(all_away)
    }
}

/// What keeps this node from taking writes.
pub fn trouble_of(node: &Node, now: Instant) -> Option<Failure> {
    if node.is_replica {
        let why = format!("READONLY {} says that it is a replica", node.endpoint());
        return Some(Failure::Refused(ErrorReply::parse(why.as_bytes())));
    }
    node.known_away(now).map(Failure::from)
}

/// One server.
pub struct Single(pub u64);

impl Topology for Single {
    fn route(&self, _slot: u16, _nodes: &Nodes) -> Option<u64> {
        Some(self.0)
    }
}
