//! A Redis Cluster: each slot is at the node that the map says.
//!
//! ```text
//! GET item:7 ─▶ slot 8431 ─▶ node 2 ─▶ the value
//!                                   ├▶ -MOVED 8431 10.0.0.3:6379   the map is patched, and soon fetched anew
//!                                   └▶ -ASK 8431 10.0.0.3:6379     there, once, behind ASKING
//! ```
//!
//! The map is fetched from any node that can be asked: at the start, on each doubt, and now and then. Nodes are known by
//! their names, which they keep: a node that is another than the one that the map has at that address gets no request.

pub mod reply;
pub mod slot_map;

use super::codec::{ErrorReply, Reply};
use super::endpoint::Endpoint;
use super::error_action::{ErrorAction, error_action};
use super::node::{Identity, Node};
use super::nodes::Nodes;
use super::request::Asker;
use super::topology::{Master, Redirect, Topology};
use reply::{ClusterNode, read_redirect, read_slots};
use slot_map::SlotMap;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

/// No node has this key.
const NOBODY: u64 = u64::MAX;

/// See the module's text.
pub struct Cluster {
    map: SlotMap,
    /// Which node the map has at an endpoint.
    names: BTreeMap<Endpoint, String>,
}

impl Cluster {
    /// The cluster of these nodes.
    pub fn new(seeds: Vec<Endpoint>, now: Instant) -> Cluster {
        Cluster { map: SlotMap::new(seeds, now), names: BTreeMap::new() }
    }

    /// Compares the name of a node with that in the map. One that may not tell its name, or is in no map of ours, is asked
    /// for its own: it may be new, or another cluster's.
    fn judge(&self, node: &mut Node, now: Instant) {
        match (self.names.get(node.endpoint()), &node.server.id) {
            (Some(named), Some(id)) if named != id => node.estrange(),
            (Some(_), Some(_)) => node.identity = Identity::Ours,
            (None, Some(id)) if self.map.has(id) => node.identity = Identity::Ours,
            (Some(_), None) | (None, Some(_))
                if node.identity == Identity::Unknown && node.is_up() && self.map.has_names() =>
            {
                node.identity = Identity::Asked;
                node.ask(now, Asker::Topology(0), &[b"CLUSTER", b"SLOTS"]);
            }
            _ => {}
        }
    }

    fn fetch(&mut self, nodes: &mut Nodes, now: Instant) {
        // Any reachable node can answer, a replica too; one that has left does not answer.
        let mut askable: Vec<u64> =
            nodes.iter().filter(|(_, node)| node.is_up()).map(|(key, _)| key).collect();
        if askable.iter().any(|key| nodes.trusted(*key).is_some()) {
            askable.retain(|key| nodes.trusted(*key).is_some());
        } else {
            for source in self.map.sources() {
                nodes.open(&source, now);
            }
        }
        let node = self.map.fetch(now, &askable).and_then(|key| nodes.get_mut(key));
        node.map(|node| node.ask(now, Asker::Topology(0), &[b"CLUSTER", b"SLOTS"]));
    }

    /// Closes nodes that the map does not have. But while no node of it is reachable, the map came from those, and so
    /// will the next. Who has just told it is spared: a request may wait for that.
    fn clear(&self, nodes: &mut Nodes, told: u64) {
        let members = self.map.members();
        let is_away = |key: &u64| nodes.get(*key).is_none_or(|node| node.error().is_some());
        if members.iter().all(is_away) {
            return;
        }
        let is_needed = |key: &u64| *key == told || members.contains(key);
        let idle = nodes.iter().filter(|(key, node)| node.in_flight() == 0 && !is_needed(key));
        let idle: Vec<u64> = idle.map(|(key, _)| key).collect();
        idle.into_iter().for_each(|key| nodes.close(key));
    }
}

impl Topology for Cluster {
    fn members(&self) -> &[u64] {
        self.map.members()
    }

    fn route(&self, slot: u16, nodes: &Nodes) -> Option<u64> {
        let owner = self.map.node(slot).filter(|key| nodes.trusted(*key).is_some());
        // Where a slot has no master, any node can report so, or that it has one by now.
        let is_up = |key: &u64| nodes.trusted(*key).is_some_and(Node::is_up);
        owner.or_else(|| self.members().iter().copied().find(is_up))
    }

    fn masters(&mut self, nodes: &mut Nodes, now: Instant, fresh: bool) -> Option<Vec<Master>> {
        // Only a request for one key is told that it has moved, and where.
        if fresh && self.map.is_old(now) {
            return None;
        }
        let Some(owners) = self.map.owners() else {
            self.map.doubt(now, nodes.random.unit());
            return None;
        };
        let master = |(slot, key)| {
            let at = nodes.trusted(key)?.endpoint();
            let name = self.names.get(at).cloned().unwrap_or_else(|| at.to_string());
            Some(Master { slot, node: key, name })
        };
        owners.into_iter().map(master).collect()
    }

    fn has_slots(&self) -> bool {
        true
    }

    fn tick(&mut self, nodes: &mut Nodes, now: Instant) {
        if self.map.is_due(now) {
            self.fetch(nodes, now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.map.next_deadline()
    }

    fn on_answer(
        &mut self,
        nodes: &mut Nodes,
        now: Instant,
        (asked, _): (u64, u8),
        answer: Option<&Reply>,
    ) {
        let rows = answer.and_then(|answer| read_slots(answer, nodes.get(asked)?.endpoint()));
        if let (None, Some(answer)) = (&rows, answer) {
            nodes.complain("no node tells where the slots are", asked, answer);
        }
        let is_known = rows.is_some();
        let rows = rows.filter(|rows| self.map.is_ours(now, rows));
        match nodes.get_mut(asked) {
            Some(node) if rows.is_some() => node.identity = Identity::Ours,
            Some(node) if is_known => node.estrange(),
            // It is asked again on its next connection.
            Some(node) if node.identity == Identity::Asked => node.renew(),
            _ => {}
        }
        self.map.fetched(now, rows.is_some(), nodes.random.unit());
        let Some(rows) = rows else {
            return;
        };
        nodes.complaint = None;
        self.map.replace(&rows, |ClusterNode { endpoint, ip, .. }| {
            let Some(key) = nodes.open(endpoint, now) else {
                return NOBODY;
            };
            if let (Endpoint::Tcp { port, .. }, Some(ip)) = (endpoint, ip)
                && let Some(node) = nodes.get_mut(key).filter(|node| !node.is_up())
            {
                node.set_good(SocketAddr::new(*ip, *port));
            }
            key
        });
        // Of two names for one endpoint the first counts.
        let named = rows.iter().rev().map(|row| &row.master).filter(|node| !node.id.is_empty());
        self.names = named.map(|node| (node.endpoint.clone(), node.id.clone())).collect();
        nodes.iter_mut().for_each(|node| self.judge(node, now));
        self.clear(nodes, asked);
    }

    fn on_refusal(&mut self, nodes: &mut Nodes, now: Instant, _node: u64) {
        self.map.doubt(now, nodes.random.unit());
    }

    fn on_change(&mut self, nodes: &mut Nodes, now: Instant, node: u64) {
        if let Some(node) = nodes.get_mut(node).filter(|node| node.is_up()) {
            self.judge(node, now);
            // The one that the map has there is somewhere else.
            if node.identity != Identity::Stranger {
                return;
            }
        }
        // Its slots may have gone to its replica, and no request will reach a node that knows.
        self.map.doubt(now, nodes.random.unit());
    }

    fn on_redirect(
        &mut self,
        nodes: &mut Nodes,
        now: Instant,
        (from, slot): (u64, u16),
        e: &ErrorReply,
    ) -> Redirect {
        let Some(asked) = nodes.get_mut(from) else {
            return Redirect::Nowhere;
        };
        let redirect = read_redirect(e, asked.endpoint()).filter(|redirect| redirect.slot == slot);
        let Some(reply::Redirect { mut to, .. }) = redirect else {
            return Redirect::Nowhere;
        };
        if to.as_ref() == Some(asked.endpoint()) {
            // The name of another machine by now, to which this connection does not lead.
            asked.renew();
            to = None;
        }
        let asking = error_action(e) == ErrorAction::Ask;
        let node = to.and_then(|to| nodes.open(&to, now));
        if !asking || node.is_none() {
            self.map.doubt(now, if node.is_some() { nodes.random.unit() } else { 0.0 });
        }
        let Some(node) = node else {
            // A newer map may have come while this reply was on its way.
            let known = self.map.node(slot).filter(|key| *key != from && !asking);
            return known
                .filter(|key| nodes.trusted(*key).is_some())
                .map_or(Redirect::Later, Redirect::To);
        };
        if !asking {
            self.map.moved(slot, node);
        }
        match nodes.trusted(node) {
            Some(_) => Redirect::To(node),
            // The name has not led to the right one yet.
            None => Redirect::Later,
        }
    }
}
