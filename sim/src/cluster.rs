//! A cluster: which node has which slot, what each node believes of that, and what it says to who asks the wrong one.
//!
//! ```text
//! truth ──delay──▶ the map of each node ──▶ execute | MOVED | ASK | TRYAGAIN | CLUSTERDOWN | CROSSSLOT
//! ```
//!
//! As `getNodeByQuery` of Redis 7.0 decides it.

use crate::book::Lost;
use crate::net::{MS, NEVER, SECOND, Time};
use crate::owed::{IDLE_FINDS_NODES, NODES_SWAP};
use crate::redis::Reply;
use crate::servers::Shape;
use crate::tell;
use crate::world::{ALL, World};
use kioskd::resp::slot::{SLOTS, slot};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;

/// How much longer that is then.
pub(crate) fn unnoticed() -> Time {
    if IDLE_FINDS_NODES { 0 } else { 30 * SECOND }
}

/// How nodes give their hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As addresses.
    Address,
    /// As names.
    Name,
    /// As addresses; of itself a node knows none, and says "" (or NULL).
    Own(bool),
    /// As `?`, with the address behind it (`cluster-preferred-endpoint-type hostname`, and no host name is set).
    Unknown,
}

/// A map of the cluster.
#[derive(Debug, Clone)]
pub struct Map {
    /// Which server has which slot.
    pub owners: Vec<usize>,
    /// Which one each server follows; `None`: it is a master.
    pub follows: Vec<Option<usize>>,
    /// Their names and addresses.
    pub at: Vec<(String, SocketAddr)>,
    /// Slots have no master that is there, and the cluster is to serve all of them or none.
    pub down: bool,
}

/// Slots on their way from one node to another.
#[derive(Debug, Clone)]
pub struct Moving {
    /// These.
    pub slots: Range<u16>,
    /// From this node,
    pub from: usize,
    /// to this one.
    pub to: usize,
}

/// What a node knows.
#[derive(Debug, Clone)]
pub struct Node {
    /// Which server it is.
    pub me: usize,
    /// See [`Style`].
    pub style: Style,
    /// Its map.
    pub map: Rc<Map>,
    /// Slots that are moved from it, or to it.
    pub moving: Option<Moving>,
    /// The present command came behind ASKING.
    pub asking: bool,
}

/// The keys that a command names.
pub fn names_of(words: &[Vec<u8>]) -> Vec<&[u8]> {
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    match words[..] {
        [b"GET" | b"PTTL" | b"DEL" | b"SET", key, ..] => vec![key],
        [b"EVAL" | b"EVALSHA", _, number, ref rest @ ..] => {
            let number = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
            rest.iter().copied().take(number).collect()
        }
        _ => vec![],
    }
}

impl Node {
    /// Whether a script may read this key here.
    pub fn owns(&self, key: &[u8]) -> bool {
        let at = slot(key);
        let comes = |moving: &Moving| moving.to == self.me && moving.slots.contains(&at);
        self.map.owners[usize::from(at)] == self.me || self.asking && self.moving.as_ref().is_some_and(comes)
    }

    /// What it says instead of executing a command; `has` tells whether a key is there.
    pub fn route(&self, words: &[Vec<u8>], asking: bool, has: impl Fn(&[u8]) -> bool) -> Option<Reply> {
        let error = |text: String| Some(Reply::Error(text));
        match words.first()?.as_slice() {
            b"CLUSTER" if words[1] == b"SLOTS" => return Some(self.slots()),
            b"CLUSTER" if words[1] == b"MYID" => return Some(Reply::text(&format!("{:040}", self.me))),
            b"ASKING" => return Some(Reply::Simple("OK")),
            _ => {}
        }
        let keys = names_of(words);
        let at = slot(keys.first()?);
        if keys.iter().any(|key| slot(key) != at) {
            return error("CROSSSLOT Keys in request don't hash to the same slot".to_owned());
        }
        if self.map.down {
            return error("CLUSTERDOWN The cluster is down".to_owned());
        }
        let missing = keys.iter().filter(|key| !has(key)).count();
        let moving = self.moving.as_ref().filter(|moving| moving.slots.contains(&at));
        let again = "TRYAGAIN Multiple keys request during rehashing of slot".to_owned();
        match (self.map.owners[usize::from(at)], moving) {
            (owner, Some(moving)) if owner == self.me && moving.from == self.me && missing > 0 => {
                let to = self.place(moving.to);
                if missing < keys.len() { error(again) } else { error(format!("ASK {at} {to}")) }
            }
            (owner, _) if owner == self.me => None,
            (_, Some(moving)) if asking && moving.to == self.me => {
                if keys.len() > 1 && missing > 0 {
                    error(again)
                } else {
                    None
                }
            }
            (owner, _) => error(format!("MOVED {at} {}", self.place(owner))),
        }
    }

    fn place(&self, node: usize) -> String {
        let (name, at) = &self.map.at[node];
        match self.style {
            Style::Unknown => format!("?:{}", at.port()),
            Style::Name => format!("{name}:{}", at.port()),
            Style::Address | Style::Own(_) => at.to_string(),
        }
    }

    /// CLUSTER SLOTS.
    fn slots(&self) -> Reply {
        let node = |node: usize| {
            let (name, at) = &self.map.at[node];
            let (ip, id) = (at.ip().to_string(), format!("{node:040}"));
            let (host, meta) = match self.style {
                Style::Own(null) if node == self.me => (if null { Reply::Null } else { Reply::text("") }, vec![]),
                Style::Address | Style::Own(_) => (Reply::text(&ip), vec![]),
                Style::Name => (Reply::text(name), vec![Reply::text("ip"), Reply::text(&ip)]),
                Style::Unknown => (Reply::text("?"), vec![Reply::text("ip"), Reply::text(&ip)]),
            };
            Reply::Array(vec![host, Reply::Integer(at.port().into()), Reply::text(&id), Reply::Map(meta)])
        };
        let (mut rows, mut first) = (Vec::new(), 0);
        for end in 1..=self.map.owners.len() {
            let owner = self.map.owners[first];
            if self.map.owners.get(end) == Some(&owner) {
                continue;
            }
            let mut row = vec![Reply::Integer(first as i64), Reply::Integer(end as i64 - 1), node(owner)];
            row.extend((0..self.map.follows.len()).filter(|n| self.map.follows[*n] == Some(owner)).map(node));
            rows.push(Reply::Array(row));
            first = end;
        }
        Reply::Array(rows)
    }
}

impl World {
    /// Something changes in the cluster.
    pub(crate) fn cluster_fault(&mut self) {
        match self.net.dice.below(8) {
            0..=2 => self.take_over(),
            3..=5 => self.reshard(),
            6 => self.all_move(),
            _ => self.link_fault(),
        }
    }

    /// The truth has changed: each node that is there learns it after a while, the others when they are back.
    fn spread(&mut self, least: Time, most: Time) {
        for at in 0..self.servers.len() {
            let delay = self.net.dice.between(least, most);
            self.after(delay, move |world| world.learn(at));
        }
    }

    fn learn(&mut self, at: usize) {
        if self.truth.foreigner == Some(at) {
            return;
        }
        if !self.is_well(at) {
            return self.after(300 * MS, move |world| world.learn(at));
        }
        let (map, moving) = (Rc::clone(&self.truth.map), self.truth.moving.clone());
        let node = self.servers[at].db.node.as_mut().expect("BUG: a node");
        (node.map, node.moving) = (map, moving.filter(|moving| moving.from == at || moving.to == at));
        // A master that has been replaced follows its successor, and loses what only it has.
        if let Some(master) = self.truth.map.follows[at].filter(|_| self.servers[at].follows.is_none()) {
            tell!(self.net, "server {at} is a replica of {master} from now on");
            self.follow(at, master);
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Map)) {
        change(Rc::make_mut(&mut self.truth.map));
        self.turn();
    }

    /// A master dies, and a replica takes its place; it comes back as a replica.
    fn take_over(&mut self) {
        let (now, all) = (self.net.now, self.net.dice.percent(50));
        let masters: Vec<usize> = (0..self.servers.len()).filter(|at| self.rules(*at)).collect();
        let old = self.net.dice.pick(&masters);
        if self.truth.changing
            || self.servers[old].faulty
            || self.heir_of(old).is_none()
            || now + 12 * SECOND > self.calm
        {
            return;
        }
        (self.truth.changing, self.servers[old].faulty) = (true, true);
        let outage = self.outage_of(NEVER, Lost::All, self.harm_of(old));
        let (failed, elected) =
            (self.net.dice.between(SECOND, 3 * SECOND), self.net.dice.between(300 * MS, 2 * SECOND));
        let back = failed + elected + self.net.dice.between(MS, 5 * SECOND);
        self.strike(old, back, 3);
        if all {
            self.after(failed, move |world| {
                world.change(|map| map.down = true);
                world.spread(MS, 300 * MS);
                world.outage_of(elected + SECOND, Lost::Some, ALL);
            });
        }
        self.after(failed + elected, move |world| world.succeed(old, outage));
        self.after(back, move |world| {
            world.revive(old);
            world.servers[old].faulty = false;
            let delay = world.net.dice.between(MS, 500 * MS);
            world.after(delay, move |world| world.learn(old));
        });
    }

    fn succeed(&mut self, old: usize, outage: usize) {
        let Some(new) = self.heir_of(old) else {
            // Meanwhile the old one may be there again.
            self.book.outages[outage].lost = Lost::Some;
            if self.truth.map.down {
                self.outage_of(2 * SECOND, Lost::Some, ALL);
            }
            return self.after(500 * MS, move |world| world.succeed(old, outage));
        };
        let keys = self.keys_of(old);
        self.truth.had.push((self.net.now, old, keys));
        self.promote(new, false);
        self.change(|map| {
            map.down = false;
            map.owners.iter_mut().filter(|owner| **owner == old).for_each(|owner| *owner = new);
            let of_old = |follows: &&mut Option<usize>| **follows == Some(old);
            map.follows.iter_mut().filter(of_old).for_each(|follows| *follows = Some(new));
            (map.follows[new], map.follows[old]) = (None, Some(new));
        });
        // Items that were moved to the old one, and not yet here, are put back: they are there throughout.
        self.seed_statics(new);
        for at in 0..self.servers.len() {
            if self.servers[at].follows == Some(old) {
                self.follow(at, new);
            }
        }
        self.end_reign(keys);
        self.learn(new);
        self.spread(MS, 500 * MS);
        tell!(self.net, "server {new} takes the place of {old}");
        self.book.outages[outage].to = self.net.now + SECOND / 2;
        self.truth.changing = false;
    }

    /// Slots are moved from one master to another, key by key, while they are used.
    fn reshard(&mut self) {
        let key = self.net.dice.below(self.plan.keys as u64) as usize;
        let name = self.name_of(key);
        let (at, size) = (slot(&name), 1 + self.net.dice.below(800) as u16);
        let from = self.home_of(&name);
        let others: Vec<usize> = (0..self.servers.len()).filter(|to| *to != from && self.rules(*to)).collect();
        if self.truth.changing || self.net.now + 5 * SECOND > self.calm || others.is_empty() {
            return;
        }
        let to = self.net.dice.pick(&others);
        let owned = |at: &u16| self.truth.map.owners[usize::from(*at)] == from;
        let first = (at.saturating_sub(size)..=at).rev().take_while(owned).last().unwrap_or(at);
        let end = (at..at.saturating_add(size).min(SLOTS)).take_while(owned).last().unwrap_or(at) + 1;
        tell!(self.net, "slots {first} to {} are moved from server {from} to {to}", end - 1);
        let moving = Moving { slots: first..end, from, to };
        self.truth.changing = true;
        // A replica that came to rule may have what had moved away from its master by then. Redis would show that to who
        // asks here during the move; whoever moves slots has to look for it before.
        for (at, server) in self.servers.iter_mut().enumerate() {
            let stale = server.db.keys().filter(|key| moving.slots.contains(&slot(key))).cloned();
            let stale: Vec<_> = stale.collect();
            let comes = at == to || server.follows == Some(to);
            stale.into_iter().filter(|_| comes).for_each(|key| server.db.apply(&(key, None)));
        }
        self.truth.moving = Some(moving.clone());
        self.turn();
        for side in [to, from] {
            let node = self.servers[side].db.node.as_mut().expect("BUG: a node");
            node.moving = Some(moving.clone());
        }
        for key in self.servers[from].db.keys().filter(|key| moving.slots.contains(&slot(key))) {
            self.book.carried.insert(String::from_utf8_lossy(key).replace("item:", ""), NEVER);
        }
        self.book.reshards = Some(NEVER / 2);
        let mut keys = 0;
        for key in 0..self.plan.keys {
            keys |= u32::from(moving.slots.contains(&slot(&self.name_of(key)))) << key;
        }
        // An ASK to `?` cannot be followed, and no map tells where it leads.
        let style = self.servers[from].db.node.as_ref().map(|node| node.style);
        let lost = if style == Some(Style::Unknown) { Lost::Some } else { Lost::Guarded };
        self.truth.had.push((self.net.now + 5 * SECOND, from, keys));
        // What was wrong with the new node lately is felt by these keys, too.
        let lately = self.net.now.saturating_sub(20 * SECOND);
        let outages = self.book.outages.iter_mut().filter(|outage| outage.keys != 0 && outage.to > lately);
        outages.for_each(|outage| outage.keys |= keys);
        let outage = self.outage_of(NEVER, lost, keys);
        let pace = self.net.dice.between(MS, 200 * MS);
        self.after(pace, move |world| world.carry(pace, outage));
    }

    /// The next key moves; behind the last, the slots do.
    fn carry(&mut self, pace: Time, outage: usize) {
        let Moving { slots, from, to } = self.truth.moving.clone().expect("BUG: nothing moves");
        let serve = |at: usize| self.is_well(at) && self.servers[at].db.mode == crate::redis::Mode::Serves;
        if !serve(from) || !serve(to) {
            return self.after(pace.max(100 * MS), move |world| world.carry(pace, outage));
        }
        let delay = if self.net.now > self.calm { MS } else { 1 + self.net.dice.below(2 * pace) };
        self.catch_up(from);
        let next = self.servers[from].db.keys().find(|key| slots.contains(&slot(key))).cloned();
        if let Some(key) = next {
            self.servers[from].db.now = (self.book.clock(self.net.now) / MS) as i64;
            // What has expired does not move: there may be a new one already.
            let value = self.servers[from].db.peek(&key).cloned();
            tell!(self.net, "{} moves from server {from} to {to}", String::from_utf8_lossy(&key));
            let there = value.map(|value| (to, (key.clone(), Some(value))));
            // If it is lost there, so is all that was ever written to it; or that somebody was answered.
            let record = String::from_utf8_lossy(&key).rsplit_once("::").map(|(_, id)| vec![id.to_owned()]);
            let writers = record.unwrap_or_else(|| self.book.by_key.get(&key).cloned().unwrap_or_default());
            for (at, change) in there.into_iter().chain([(from, (key, None))]) {
                self.servers[at].db.apply(&change);
                self.replicate(at, vec![change], if at == to { writers.clone() } else { vec![] });
            }
            return self.after(delay, move |world| world.carry(pace, outage));
        }
        self.change(|map| map.owners[usize::from(slots.start)..usize::from(slots.end)].fill(to));
        self.truth.moving = None;
        tell!(self.net, "slots {} to {} are at server {to}", slots.start, slots.end - 1);
        self.learn(to);
        self.spread(MS, 500 * MS);
        self.book.outages[outage].to = self.net.now + SECOND / 2;
        self.book.reshards = Some(self.net.now);
        self.book.carried.values_mut().for_each(|until| *until = (*until).min(self.net.now + SECOND));
        self.after(SECOND / 2, |world| world.truth.changing = false);
    }

    /// All nodes are started anew, at other addresses, or at each other's; the names follow.
    fn all_move(&mut self) {
        let busy = IDLE_FINDS_NODES || self.plan.ease == 1;
        if self.truth.changing || !self.by_name || !busy || self.net.now + 5 * SECOND > self.calm {
            return;
        }
        self.truth.changing = true;
        let (away, late) = (self.net.dice.between(5 * MS, 2 * SECOND), self.net.dice.between(MS, 2 * SECOND));
        let swap = NODES_SWAP && self.net.dice.percent(50);
        let places: Vec<SocketAddr> = self.servers.iter().map(|server| server.at).collect();
        tell!(
            self.net,
            "all nodes move, to each other's places: {swap}; they are away for {} ms, their names for {} more",
            away / MS,
            late / MS
        );
        self.outage_of(away + late + SECOND + unnoticed(), Lost::Some, ALL);
        for at in 0..self.servers.len() {
            if swap {
                self.settles(at, places[(at + 1) % places.len()]);
            } else {
                self.moves(at);
            }
            self.strike(at, away, 1);
            self.node_moves(at);
            self.after(away, move |world| {
                world.revive(at);
                world.learn(at);
            });
            self.after(away + late, move |world| world.says(at));
        }
        self.after(away + late, |world| world.truth.changing = false);
    }

    /// A node is at another address: it knows that itself, and the others hear it from it.
    pub(crate) fn node_moves(&mut self, at: usize) {
        let place = (self.servers[at].name.clone(), self.servers[at].at);
        self.change(|map| map.at[at] = place);
        self.spread(MS, SECOND);
    }

    /// Whether there are slots.
    pub(crate) fn is_cluster(&self) -> bool {
        self.truth.shape == Shape::Cluster
    }
}
