//! Which node has which slot, what else is known of a cluster, and when to ask again.
//!
//! A map is believed when it shares a node with the present one: the address of a node that is gone may be that of
//! another cluster by now. Only when for long no other has answered, any map is better than none. Pure: nodes are the
//! client's keys.

use super::reply::{ClusterNode, Row};
use crate::resp::endpoint::Endpoint;
use crate::resp::slot::SLOTS;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A map is fetched again this often even if nothing requires it.
const MAP_EVERY: Duration = Duration::from_secs(60);
/// And never sooner than this after the last fetch.
const MAP_GAP: Duration = Duration::from_millis(200);

/// After so much longer a map does not prove that no other node has slots.
const OLD_AFTER: Duration = Duration::from_secs(1);

/// Another node is asked when there is no answer after this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// When for so long only strangers have answered, their map is taken.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Replicas that are considered in one map, where with many rows most are named many times; and those that are kept.
const NAMED_MAX: usize = 65_536;
/// See `NAMED_MAX`.
const REPLICAS_MAX: usize = 1024;

/// No node.
const NONE: u16 = u16::MAX;

/// Which node has which slot.
#[derive(Debug)]
pub struct SlotMap {
    /// The nodes of the URL. They are kept for ever: names may resolve to other addresses when all known nodes are
    /// gone.
    pub seeds: Vec<Endpoint>,
    /// Nodes that may take the place of a member. They have no slots, but when all members are gone they know the new
    /// ones.
    replicas: Vec<Endpoint>,
    /// The names of all nodes of the map, and since when maps have come that have none of them.
    ids: BTreeSet<String>,
    strange_since: Option<Instant>,
    members: Vec<u64>,
    owners: Box<[u16]>,
    /// Which node is asked for the map next.
    turn: usize,
    next_fetch: Instant,
    not_before: Instant,
    fetching: Option<Instant>,
    /// The map was doubted while a fetch was under way: the answer may be older than the doubt.
    doubted: bool,
    /// A fetch is due and no node can be asked.
    stuck: bool,
}

impl SlotMap {
    /// An empty map, to be fetched at once.
    pub fn new(seeds: Vec<Endpoint>, now: Instant) -> SlotMap {
        let owners = vec![NONE; usize::from(SLOTS)].into_boxed_slice();
        SlotMap {
            seeds,
            replicas: Vec::new(),
            ids: BTreeSet::new(),
            strange_since: None,
            members: Vec::new(),
            owners,
            turn: 0,
            next_fetch: now,
            not_before: now,
            fetching: None,
            doubted: false,
            stuck: false,
        }
    }

    /// The node of a slot.
    pub fn node(&self, slot: u16) -> Option<u64> {
        let place = *self.owners.get(usize::from(slot))?;
        self.members.get(usize::from(place)).copied()
    }

    /// The nodes that have slots.
    pub fn members(&self) -> &[u64] {
        &self.members
    }

    /// Every member that has a slot now, with the lowest of them, in that order; `None` while some slot has no member.
    pub fn owners(&self) -> Option<Vec<(u16, u64)>> {
        let mut owners: Vec<(u16, u64)> = Vec::new();
        let mut seen = vec![false; self.members.len()];
        for (slot, place) in (0..).zip(&self.owners) {
            let seen = seen.get_mut(usize::from(*place))?;
            if !std::mem::replace(seen, true) {
                owners.push((slot, *self.members.get(usize::from(*place))?));
            }
        }
        Some(owners)
    }

    /// Where to ask for the slots when no known node can be asked: every node that was ever named.
    pub fn sources(&self) -> Vec<Endpoint> {
        self.seeds.iter().chain(&self.replicas).cloned().collect()
    }

    /// Whether a map is one of our cluster.
    pub fn is_ours(&mut self, now: Instant, rows: &[Row]) -> bool {
        let mut nodes = rows.iter().flat_map(Row::nodes);
        if self.ids.is_empty() || nodes.any(|node| self.ids.contains(&node.id)) {
            self.strange_since = None;
            return true;
        }
        let since = *self.strange_since.get_or_insert(now);
        let long = now.saturating_duration_since(since) >= FORGOTTEN;
        if long {
            log::warn!(
                "redis: for {} s only another cluster has answered at the addresses of ours, and that is used",
                FORGOTTEN.as_secs()
            );
        }
        long
    }

    /// Whether the map has a node of this name.
    pub fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Whether its nodes have names.
    pub fn has_names(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Installs a new map. `key` gives the key of a node.
    pub fn replace(&mut self, rows: &[Row], mut key: impl FnMut(&ClusterNode) -> u64) {
        self.members.clear();
        self.owners.fill(NONE);
        self.ids = rows.iter().flat_map(Row::nodes).map(|node| node.id.clone()).collect();
        self.ids.remove("");
        let named = rows.iter().flat_map(|row| &row.replicas).take(NAMED_MAX);
        let replicas: BTreeSet<&Endpoint> = named.map(|node| &node.endpoint).collect();
        self.replicas = replicas.into_iter().take(REPLICAS_MAX).cloned().collect();
        for row in rows {
            let place = self.place(key(&row.master));
            for slot in row.slots.clone() {
                if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                    *owner = place;
                }
            }
        }
    }

    /// Records that one slot has moved.
    pub fn moved(&mut self, slot: u16, node: u64) {
        let place = self.place(node);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
    }

    fn place(&mut self, node: u64) -> u16 {
        let at = self.members.iter().position(|m| *m == node).unwrap_or_else(|| {
            self.members.push(node);
            self.members.len() - 1
        });
        u16::try_from(at).unwrap_or(NONE)
    }

    /// Whether to fetch a map now.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_fetch && self.fetching.is_none_or(|since| now >= since + ANSWER_TIMEOUT)
    }

    /// Which of the nodes that can be asked is asked for the map: all take turns, for one may be wrong, or silent.
    /// `None`: none can, and the fetch stays due until one can.
    pub fn fetch(&mut self, now: Instant, askable: &[u64]) -> Option<u64> {
        self.stuck = askable.is_empty();
        self.fetching = (!self.stuck).then_some(now);
        self.turn = self.turn.wrapping_add(1);
        askable.get(self.turn % askable.len().max(1)).copied()
    }

    /// The fetch has ended. `jitter` in 0..1 spreads the replicas of a service.
    pub fn fetched(&mut self, now: Instant, well: bool, jitter: f64) {
        self.fetching = None;
        self.not_before = now + MAP_GAP.mul_f64(1.0 + jitter);
        self.next_fetch = if well && !self.doubted {
            now + MAP_EVERY.mul_f64(0.8 + 0.4 * jitter)
        } else {
            self.not_before
        };
        self.doubted = false;
    }

    /// Notes that there is reason to doubt the map.
    pub fn doubt(&mut self, now: Instant, jitter: f64) {
        self.doubted |= self.fetching.is_some();
        let soon = now + MAP_GAP.mul_f64(jitter);
        self.next_fetch = self.next_fetch.min(soon.max(self.not_before));
    }

    /// Whether somebody else may have slots by now. If so, a map is fetched next, unless no node can be asked.
    pub fn is_old(&mut self, now: Instant) -> bool {
        let is_old = now > self.not_before + OLD_AFTER && !self.stuck;
        if is_old {
            self.next_fetch = now;
        }
        is_old
    }

    /// When to fetch next; `None` while a fetch is under way, or waits for a node to ask.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.fetching.map_or(self.next_fetch, |since| since + ANSWER_TIMEOUT);
        (!self.stuck).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(host: &str) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port: 1 }
    }

    fn node(host: &str) -> ClusterNode {
        ClusterNode { id: format!("id-{host}"), endpoint: at(host), ip: None }
    }

    /// A dead node's address is another cluster's by now.
    #[test]
    fn a_strangers_map_is_taken_when_nobody_else_has_answered_for_long() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        let rows = |hosts: &[&str]| -> Vec<Row> {
            let row =
                |host: &&str| Row { slots: 0..=9, master: node(host), replicas: vec![node("r")] };
            hosts.iter().map(row).collect()
        };
        let mut strange = rows(&["x"]);
        strange[0].replicas.clear();
        assert!(map.is_ours(now, &strange), "nothing is known yet");
        assert!(map.is_ours(now, &rows(&["a"])));
        map.replace(&rows(&["a"]), |_| 1);
        let later = now + 100_000 * MS;
        assert!(!map.is_ours(later, &strange));
        assert!(!map.is_ours(later + 29_999 * MS, &strange));
        assert!(map.is_ours(later + 29_999 * MS, &rows(&["x"])), "it has a replica of ours");
        assert!(!map.is_ours(later + 30_000 * MS, &strange));
        assert!(!map.is_ours(later + 59_999 * MS, &strange));
        assert!(map.is_ours(later + 60_000 * MS, &strange));
        // Servers that give no names are all taken for ours.
        let nameless = |host| ClusterNode { id: String::new(), ..node(host) };
        map.replace(&[Row { slots: 0..=9, master: nameless("a"), replicas: vec![] }], |_| 1);
        assert!(map.is_ours(now, &strange));
    }

    #[test]
    fn a_map_is_patched_and_replaced() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        assert_eq!(map.node(0), None);
        let row = |first, last, host| Row {
            slots: first..=last,
            master: node(host),
            replicas: vec![node("r"), node(&format!("r-{host}"))],
        };
        let key = |node: &ClusterNode| if node.endpoint == at("a") { 7 } else { 8 };
        map.replace(&[row(0, 99, "a"), row(100, 16_383, "b")], key);
        assert_eq!(
            [0, 99, 100, 16_383].map(|slot| map.node(slot)),
            [Some(7), Some(7), Some(8), Some(8)]
        );
        map.moved(99, 9);
        assert_eq!([98, 99, 100].map(|slot| map.node(slot)), [Some(7), Some(9), Some(8)]);
        map.replace(&[row(5, 5, "b")], key);
        assert_eq!([4, 5].map(|slot| map.node(slot)), [None, Some(8)]);
        assert_eq!(map.owners(), None, "not whole");
        let mut sources: Vec<_> = map.sources().iter().map(Endpoint::to_string).collect();
        sources.sort_unstable();
        assert_eq!(sources, ["r-b:1", "r:1", "seed:1"]);
        map.replace(&[row(0, 16_383, "b"), row(7, 7, "a")], key);
        assert_eq!(map.owners(), Some(vec![(0, 8), (7, 7)]));
        map.replace(&[row(0, 16_382, "b")], key);
        assert_eq!(map.owners(), None, "but for one slot");
    }

    #[test]
    fn a_map_is_fetched_by_one_at_a_time_and_not_too_often() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        let due = |map: &SlotMap, ms: u32| map.is_due(now + ms * MS);
        assert!(due(&map, 0));
        assert!(map.fetch(now, &[1]).is_some());
        assert!(!due(&map, 0), "one at a time");
        map.fetched(now, false, 0.0);
        assert!(!due(&map, 199) && due(&map, 200));
        assert!(map.fetch(now, &[1]).is_some());
        map.fetched(now, true, 0.0);
        assert!(!due(&map, 47_000));
        // Not at once either: the last answer is a moment old.
        map.doubt(now, 0.0);
        assert!(!due(&map, 199) && due(&map, 200));
        map.fetched(now, true, 0.0);
        map.doubt(now + 1000 * MS, 0.5);
        assert!(!due(&map, 1099) && due(&map, 1100));
    }

    #[test]
    fn an_old_map_is_fetched_for_who_needs_all_nodes_if_one_can_be_asked() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        map.fetched(now, true, 0.0);
        assert!(!map.is_old(now + 1200 * MS) && !map.is_due(now + 1201 * MS));
        let later = now + 1201 * MS;
        assert!(map.is_old(later) && map.is_due(later));
        assert_eq!(map.fetch(later, &[]), None);
        assert!(!map.is_old(later), "there is no newer one to wait for");
        assert_eq!(map.fetch(later, &[1]), Some(1));
        assert!(map.is_old(later) && !map.is_due(later), "it is under way");
        map.fetched(later, true, 0.0);
        assert!(!map.is_old(later));
    }

    #[test]
    fn a_doubt_during_a_fetch_outlives_it() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        assert!(map.fetch(now, &[1]).is_some());
        map.doubt(now, 0.0);
        map.fetched(now, true, 0.0);
        assert!(map.is_due(now + 200 * MS));
        assert!(map.fetch(now, &[1]).is_some());
        map.fetched(now, true, 0.0);
        assert!(!map.is_due(now + 1000 * MS));
    }

    #[test]
    fn a_fetch_waits_for_somebody_to_ask_and_asks_all_in_turn() {
        let now = Instant::now();
        let mut map = SlotMap::new(vec![at("seed")], now);
        assert_eq!(map.fetch(now, &[]), None);
        assert!(map.is_due(now));
        assert_eq!(map.next_deadline(), None, "nothing would come of it");
        assert_eq!(map.fetch(now, &[]), None);
        let mut asked: Vec<u64> = (0..3).filter_map(|_| map.fetch(now, &[4, 5, 6])).collect();
        asked.sort_unstable();
        assert_eq!(asked, [4, 5, 6]);
    }
}
