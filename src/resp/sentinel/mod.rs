//! One server at a time: the master that sentinels name.
//!
//! ```text
//! every second, and at once on trouble      SENTINEL MASTER name                  its epoch, and whether it is down
//!                                           SENTINEL GET-MASTER-ADDR-BY-NAME name   where it is
//! every ten seconds                         SENTINEL SENTINELS name               who else could be asked
//! pushed                                    +switch-master                       at once to the new one
//! ```
//!
//! Sentinels are believed before the server: an old master that resumes goes on saying +OK for seconds after it has been
//! replaced (Redis Sentinel documentation, "Consistency under partitions"). Which of them is believed: [`monitor`].

pub mod monitor;
pub mod reply;

use super::codec::Reply;
use super::endpoint::Endpoint;
use super::node::Node;
use super::nodes::Nodes;
use super::options::Options;
use super::request::Asker;
use super::topology::Topology;
use monitor::{SentinelMonitor, Standing, Wish};
use reply::{Master, read_address, read_master, read_others, read_switch};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Sentinels that are asked at the same time; the URL may name more.
const SENTINELS_MAX: usize = 32;

/// The time between questions for the other sentinels of the group.
const OTHERS_EVERY: Duration = Duration::from_secs(10);

const MASTER: u8 = 0;
const ADDRESS: u8 = 1;
const OTHERS: u8 = 2;

/// See the module's text.
pub struct Sentinels {
    name: String,
    /// How sentinels are reached.
    options: Rc<Options>,
    /// The sentinels of the URL, so many, and behind them others that have joined.
    monitor: SentinelMonitor,
    seeds: usize,
    /// The node of the present master.
    master: Option<u64>,
    /// What sentinels have said of the master, before they say where it is.
    said: Vec<(u64, Master)>,
    /// The other sentinels, as one of them has reported. When all that we ask have gone, these are asked.
    others: Vec<Endpoint>,
    next_others: Instant,
}

impl Sentinels {
    /// The master `name` of these sentinels, which are reached with `options`.
    pub fn new(
        name: String,
        seeds: &[Endpoint],
        options: Rc<Options>,
        nodes: &mut Nodes,
        now: Instant,
    ) -> Sentinels {
        let mut sentinels: Vec<u64> = Vec::new();
        for seed in seeds {
            // One that is named twice has one vote.
            if nodes.find(seed).is_none() {
                sentinels.extend(nodes.add(seed, Rc::clone(&options), now));
            }
        }
        Sentinels {
            seeds: sentinels.len(),
            monitor: SentinelMonitor::new(name.clone(), sentinels, now),
            name,
            options,
            master: None,
            said: Vec::new(),
            others: Vec::new(),
            next_others: now,
        }
    }

    /// Asks a sentinel for all that a round needs.
    fn ask(&mut self, nodes: &mut Nodes, now: Instant, sentinel: u64) {
        let mut ask = |question, what: &[u8]| {
            let words = [b"SENTINEL", what, self.name.as_bytes()];
            let node = nodes.get_mut(sentinel);
            node.is_some_and(|node| node.ask(now, Asker::Topology(question), &words))
        };
        let asked = ask(MASTER, b"MASTER") && ask(ADDRESS, b"GET-MASTER-ADDR-BY-NAME");
        if now >= self.next_others && asked {
            self.next_others = now + OTHERS_EVERY;
            ask(OTHERS, b"SENTINELS");
        }
        if !asked {
            self.monitor.silent(sentinel);
        }
    }

    /// When every sentinel that we ask is away, the others that they have named are asked, too: until one of the URL is
    /// back. These may be the same under other names, or be gone for good.
    fn join_others(&mut self, nodes: &mut Nodes, now: Instant) {
        let is_up = |s: &u64| nodes.get(*s).is_some_and(Node::is_up);
        if self.monitor.sentinels.iter().take(self.seeds).any(is_up) {
            for other in self.monitor.keep(self.seeds) {
                self.said.retain(|(of, _)| *of != other);
                nodes.close(other);
            }
            return;
        }
        let is_away = |s: &u64| nodes.get(*s).is_none_or(|node| node.error().is_some());
        if self.others.is_empty() || !self.monitor.sentinels.iter().all(is_away) {
            return;
        }
        for other in std::mem::take(&mut self.others) {
            let is_new = nodes.find(&other).is_none();
            if is_new && self.monitor.sentinels.len() < SENTINELS_MAX {
                let node = nodes.add(&other, Rc::clone(&self.options), now);
                self.monitor.sentinels.extend(node);
            }
        }
    }

    fn follow(&mut self, nodes: &mut Nodes, now: Instant, at: Endpoint) {
        let old = self.master;
        if old.and_then(|old| nodes.get(old)).is_some_and(|node| *node.endpoint() == at) {
            return;
        }
        log::info!("redis: the master of {:?} is {at}", self.name);
        nodes.complaint = None;
        self.master = nodes.add(&at, Rc::clone(&nodes.options), now);
        old.into_iter().for_each(|old| nodes.close(old));
    }
}

impl Topology for Sentinels {
    fn members(&self) -> &[u64] {
        self.master.as_slice()
    }

    fn tick(&mut self, nodes: &mut Nodes, now: Instant) {
        self.join_others(nodes, now);
        loop {
            let standing = match self.master.and_then(|m| nodes.get(m)) {
                Some(node) if node.is_up() => Standing::Up,
                Some(node) if node.known_away(now).is_some() => Standing::Away,
                _ => Standing::Shaky,
            };
            if standing != Standing::Up {
                self.monitor.hurry_soon(now);
            }
            let state = |key| {
                let node = nodes.get(key)?;
                if node.is_up() { Some(true) } else { node.error().map(|_| false) }
            };
            match self.monitor.step(now, standing, state) {
                None => return,
                Some(Wish::Ask(sentinel)) => self.ask(nodes, now, sentinel),
                Some(Wish::Follow(endpoint)) => self.follow(nodes, now, endpoint),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.monitor.next_deadline())
    }

    /// That our master was replaced is believed at once: the old one may resume this very moment and say OK to commands
    /// that it should refuse. A round follows, for the epoch.
    fn on_push(&mut self, nodes: &mut Nodes, now: Instant, push: &[Reply]) {
        if let Some((old, new)) = read_switch(push, &self.name)
            && self.monitor.switched(now, &old, &new)
        {
            self.follow(nodes, now, new);
        }
    }

    fn on_answer(
        &mut self,
        nodes: &mut Nodes,
        _now: Instant,
        (sentinel, question): (u64, u8),
        answer: Option<&Reply>,
    ) {
        match (question, answer) {
            (MASTER, Some(answer)) => {
                self.said.retain(|(of, _)| *of != sentinel);
                self.said.extend(read_master(answer).map(|master| (sentinel, master)));
            }
            (ADDRESS, Some(answer)) => {
                let said = self.said.iter().find(|(of, _)| *of == sentinel);
                let address = read_address(answer);
                if address.is_none() && self.master.is_none() {
                    let what = format!("no sentinel names a master {:?}", self.name);
                    nodes.complain(&what, sentinel, answer);
                }
                self.monitor.heard(sentinel, address, said.map(|(_, master)| master));
            }
            (OTHERS, Some(answer)) => self.others = read_others(answer).unwrap_or_default(),
            _ => self.monitor.silent(sentinel),
        }
    }

    fn on_refusal(&mut self, _nodes: &mut Nodes, now: Instant, node: u64) {
        match self.master == Some(node) {
            true => self.monitor.refused(now),
            false => self.monitor.hurry_soon(now),
        }
    }
}
