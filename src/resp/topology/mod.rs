//! Which server gets a request.
//!
//! ```text
//! Single       one node, always                                                   here
//! Sentinels    one node at a time; sentinels are asked in rounds which one it is     `sentinel`
//! Cluster      a map from slots to nodes; any node is asked for a new one            `cluster`
//! ```
//!
//! A topology does its own asking: it opens and closes nodes, and sends them questions. The client hands in the answers
//! and tells what became of nodes and requests. What a topology does not care for has a default. It does no I/O itself.

use super::codec::{ErrorReply, Reply};
use super::nodes::Nodes;
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
    /// To this node.
    To(u64),
    /// Nobody knows yet: try again later.
    Later,
    /// It makes no sense here.
    Nowhere,
}

/// See the module's text.
pub trait Topology {
    /// The nodes that have keys of their own, as far as they are known.
    fn members(&self) -> &[u64];

    /// The node that a slot is at; `None` while it is not known.
    fn route(&self, _slot: u16, _nodes: &Nodes) -> Option<u64> {
        self.members().first().copied()
    }

    /// Every server that has keys of its own, in the order of their lowest slots. `None` while they are not all known:
    /// a scan over only some of them would be incomplete. With `fresh` also while it was not heard lately who they are.
    fn masters(&mut self, nodes: &mut Nodes, _now: Instant, _fresh: bool) -> Option<Vec<Master>> {
        let node = *self.members().first()?;
        let name = nodes.get(node)?.endpoint().to_string();
        Some(vec![Master { slot: 0, node, name }])
    }

    /// Whether keys have slots.
    fn has_slots(&self) -> bool {
        false
    }

    /// Asks what has to be asked now.
    fn tick(&mut self, _nodes: &mut Nodes, _now: Instant) {}

    /// When there is something to ask.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// A message that answers no command.
    fn on_push(&mut self, _nodes: &mut Nodes, _now: Instant, _push: &[Reply]) {}

    /// The answer of a node to a question; `None` if there will be none.
    fn on_answer(
        &mut self,
        _nodes: &mut Nodes,
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

    /// A node says that the key of a command for this slot is elsewhere.
    fn on_redirect(
        &mut self,
        _nodes: &mut Nodes,
        _now: Instant,
        _from: (u64, u16),
        _e: &ErrorReply,
    ) -> Redirect {
        Redirect::Nowhere
    }
}

/// One server.
pub struct Single(pub u64);

impl Topology for Single {
    fn members(&self) -> &[u64] {
        std::slice::from_ref(&self.0)
    }
}
