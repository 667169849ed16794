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
use super::node::{Identity, Node, Nodes};
use super::request::{Asker, Failure};
use super::topology::{Complaint, Master, Redirect, Topology, trouble_of};
use crate::net::{Random, World};
use reply::{ClusterNode, read_redirect, read_slots};
use slot_map::SlotMap;
use std::net::SocketAddr;
use std::time::Instant;

/// No node has this key.
const NOBODY: u64 = u64::MAX;

/// See the module's text.
pub struct Cluster {
    map: SlotMap,
    /// Which node the map has at an endpoint.
    names: Vec<(Endpoint, String)>,
    random: Random,
    /// What a node has said that knows no map.
    complaint: Complaint,
}

impl Cluster {
    /// The cluster of these nodes.
    pub fn new(seeds: Vec<Endpoint>, world: &mut dyn World, now: Instant) -> Cluster {
        let random = Random::new(world.random());
        Cluster {
            map: SlotMap::new(seeds, now),
            names: Vec::new(),
            random,
            complaint: Complaint::default(),
        }
    }

    fn doubt(&mut self, now: Instant) {
        self.map.doubt(now, self.random.unit());
    }

    /// Whether requests may be sent to a node.
    fn serves(nodes: &Nodes, key: u64, is_needed: impl Fn(&Node) -> bool) -> bool {
        nodes.get(key).is_some_and(|node| node.is_trusted() && is_needed(node))
    }

    /// Compares the name of a node with that in the map. One that may not tell its name, or is in no map of ours, is asked
    /// for its own: it may be new, or another cluster's.
    fn judge(&self, node: &mut Node, now: Instant) {
        let named = self.names.iter().find(|(endpoint, _)| endpoint == node.endpoint());
        match (named, &node.id) {
            (Some((_, named)), Some(id)) if named != id => node.estrange(),
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

    fn fetch(&mut self, nodes: &mut Nodes, world: &mut dyn World, now: Instant) {
        // Any reachable node can answer, a replica too; one that has left does not answer.
        let mut askable: Vec<u64> =
            nodes.iter().filter(|(_, node)| node.is_up()).map(|(key, _)| key).collect();
        if askable.iter().any(|key| Cluster::serves(nodes, *key, |_| true)) {
            askable.retain(|key| Cluster::serves(nodes, *key, |_| true));
        } else {
            for source in self.map.sources() {
                nodes.open(&source, None, world, now);
            }
        }
        let node = self.map.fetch(now, &askable).and_then(|key| nodes.get_mut(key));
        node.map(|node| node.ask(now, Asker::Topology(0), &[b"CLUSTER", b"SLOTS"]));
    }

    /// Closes nodes that the map does not have. But while no node of it is reachable, the map came from those, and so
    /// will the next. Who has just told it is spared: a request may wait for that.
    fn clear(&self, nodes: &mut Nodes, world: &mut dyn World, told: u64) {
        let members = self.map.members();
        let is_away = |key: &u64| nodes.get(*key).is_none_or(|node| node.error().is_some());
        if members.iter().all(is_away) {
            return;
        }
        let is_needed = |key: &u64| *key == told || members.contains(key);
        let idle = nodes.iter().filter(|(key, node)| node.in_flight() == 0 && !is_needed(key));
        let idle: Vec<u64> = idle.map(|(key, _)| key).collect();
        idle.into_iter().for_each(|key| nodes.close(world, key));
    }
}

impl Topology for Cluster {
    fn route(&self, slot: u16, nodes: &Nodes) -> Option<u64> {
        let owner = self.map.node(slot).filter(|key| Cluster::serves(nodes, *key, |_| true));
        // Where a slot has no master, any node can report so, or that it has one by now.
        let members = || self.map.members().iter().copied();
        owner.or_else(|| members().find(|key| Cluster::serves(nodes, *key, Node::is_up)))
    }

    fn masters(&mut self, now: Instant, nodes: &Nodes) -> Option<Vec<Master>> {
        let Some(owners) = self.map.owners() else {
            self.doubt(now);
            return None;
        };
        let master = |(slot, key)| {
            let node = nodes.get(key).filter(|node| node.is_trusted())?;
            let named = self.names.iter().find(|(endpoint, _)| endpoint == node.endpoint());
            let name = named.map_or_else(|| node.endpoint().to_string(), |(_, name)| name.clone());
            Some(Master { slot, node: key, name })
        };
        owners.into_iter().map(master).collect()
    }

    fn has_slots(&self) -> bool {
        true
    }

    fn is_master(&self, node: u64, nodes: &Nodes) -> bool {
        self.map.members().contains(&node) && Cluster::serves(nodes, node, |_| true)
    }

    fn tick(&mut self, nodes: &mut Nodes, world: &mut dyn World, now: Instant) {
        if self.map.is_due(now) {
            self.fetch(nodes, world, now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.map.next_deadline()
    }

    fn on_answer(
        &mut self,
        nodes: &mut Nodes,
        world: &mut dyn World,
        now: Instant,
        (asked, _): (u64, u8),
        answer: Option<&Reply>,
    ) {
        let said = nodes.get(asked).zip(answer);
        let rows = said.and_then(|(node, answer)| read_slots(answer, node.endpoint()));
        if let (None, Some((node, answer))) = (&rows, said) {
            self.complaint.note("no node tells where the slots are", node, answer);
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
        self.map.fetched(now, rows.is_some(), self.random.unit());
        let Some(rows) = rows else {
            return;
        };
        self.complaint = Complaint::default();
        self.map.replace(&rows, |ClusterNode { endpoint, ip, .. }| {
            let port = if let Endpoint::Tcp { port, .. } = endpoint { *port } else { 0 };
            let good = ip.map(|ip| SocketAddr::new(ip, port));
            nodes.open(endpoint, good, world, now).unwrap_or(NOBODY)
        });
        let named = rows.iter().map(|row| &row.master).filter(|node| !node.id.is_empty());
        self.names = named.map(|node| (node.endpoint.clone(), node.id.clone())).collect();
        self.names.sort_unstable();
        self.names.dedup();
        nodes.iter_mut().for_each(|node| self.judge(node, now));
        self.clear(nodes, world, asked);
    }

    fn on_refusal(&mut self, _nodes: &mut Nodes, now: Instant, _node: u64) {
        self.doubt(now);
    }

    fn on_change(&mut self, nodes: &mut Nodes, now: Instant, node: u64) {
        match nodes.get_mut(node) {
            Some(node) if node.is_up() => {
                self.judge(node, now);
                // The one that the map has there is somewhere else.
                if node.identity == Identity::Stranger {
                    self.doubt(now);
                }
            }
            // Its slots may have gone to its replica, and no request will reach a node that knows.
            _ => self.doubt(now),
        }
    }

    fn on_redirect(
        &mut self,
        nodes: &mut Nodes,
        world: &mut dyn World,
        now: Instant,
        (from, slot): (u64, u16),
        e: &ErrorReply,
    ) -> Redirect {
        let asked = nodes.get(from).map(|node| node.endpoint().clone());
        let redirect = asked.as_ref().and_then(|asked| read_redirect(e, asked));
        let Some(redirect) = redirect.filter(|redirect| redirect.slot == slot) else {
            return Redirect::Nowhere;
        };
        let asking = error_action(e) == ErrorAction::Ask;
        if redirect.to == asked {
            // The name of another machine by now, to which this connection does not lead.
            nodes.get_mut(from).into_iter().for_each(Node::renew);
        }
        let to = redirect.to.filter(|to| Some(to) != asked.as_ref());
        let node = to.and_then(|to| nodes.open(&to, None, world, now));
        if !asking || node.is_none() {
            self.map.doubt(now, if node.is_some() { self.random.unit() } else { 0.0 });
        }
        let Some(node) = node else {
            return Redirect::Later;
        };
        if !asking {
            self.map.moved(slot, node);
        }
        match Cluster::serves(nodes, node, |_| true) {
            true => Redirect::To { node, asking },
            // The name has not led to the right one yet.
            false => Redirect::Later,
        }
    }

    fn why_unrouted(&self, nodes: &Nodes, now: Instant) -> Option<Failure> {
        self.complaint.failure(nodes, now)
    }

    fn away<'a>(&self, nodes: &'a Nodes, now: Instant) -> Vec<(&'a Endpoint, Failure)> {
        let members = self.map.members().iter().filter_map(|key| nodes.get(*key));
        members.filter_map(|node| Some((node.endpoint(), trouble_of(node, now)?))).collect()
    }

    /// A cluster serves as long as a part of it does.
    fn trouble(&self, nodes: &Nodes, now: Instant) -> Option<Failure> {
        let mut members = self.map.members().iter().filter_map(|key| nodes.get(*key));
        let Some(first) = members.next() else {
            return self.why_unrouted(nodes, now);
        };
        trouble_of(first, now).filter(|_| members.all(|node| trouble_of(node, now).is_some()))
    }
}
