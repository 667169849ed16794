//! Who to ask: one server, the master that sentinels name, or the node that has the slot.
//!
//! ```text
//! Single     one node, always
//! Sentinel   one node at a time; the sentinels are asked in rounds which one
//! Cluster    a map from slots to nodes; any node is asked for a new one
//! ```
//!
//! A guide keeps what is known and says when it wants to know more; the client sends its questions
//! (as requests of its own, [`Origin`]) and hands in the answers. It names nodes by their keys in
//! the client's table and does no I/O.

use super::cluster::Row;
use super::sentinel::{Master, better};
use super::slot::SLOTS;
use super::url::Endpoint;
use std::time::{Duration, Instant};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A requester, by its tag.
    Requester(u64),
    /// The guide: CLUSTER SLOTS.
    Map,
    /// The guide: SENTINEL MASTER, of this sentinel.
    Master(u64),
}

/// See the module's text.
#[derive(Debug)]
pub enum Guide {
    /// The key of the one node.
    Single(u64),
    /// Through sentinels.
    Sentinel(Watch),
    /// A cluster.
    Cluster(Map),
}

/// How long a round of questions to the sentinels may take.
pub const ROUND: Duration = Duration::from_millis(300);
/// Between rounds while all is well. `+switch-master` and any trouble begin one at once.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Between rounds while there is no master.
const ROUND_SOON: Duration = Duration::from_millis(100);
/// Sentinels that agree for so long on an older epoch than ours were set up anew.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The watch over a master behind sentinels.
#[derive(Debug)]
pub struct Watch {
    /// What the sentinels call it.
    pub name: String,
    /// The keys of the sentinels.
    pub sentinels: Vec<u64>,
    /// The key of the present master.
    pub master: Option<u64>,
    epoch: u64,
    /// Since when most of the sentinels have been naming a live master of an older epoch.
    older_since: Option<Instant>,
    round: Option<Round>,
    next_round: Instant,
    /// The news came while a round was under way: its answers may be older.
    hurried: bool,
}

#[derive(Debug)]
struct Round {
    until: Instant,
    asked: Vec<u64>,
    open: usize,
    named: usize,
    best: Option<Master>,
}

/// What a watch wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ask this sentinel.
    Ask(u64),
    /// The master is here now, if it is not already.
    Follow(Endpoint),
}

impl Watch {
    /// A watch that knows nothing yet and begins its first round at once.
    pub fn new(name: String, sentinels: Vec<u64>, now: Instant) -> Watch {
        Watch {
            name,
            sentinels,
            master: None,
            epoch: 0,
            older_since: None,
            round: None,
            next_round: now,
            hurried: false,
        }
    }

    /// The next thing to do, if there is one now. `state` tells of a sentinel: `Some(true)` it can
    /// be asked, `Some(false)` it is away, `None` it may soon be there.
    pub fn step(
        &mut self,
        now: Instant,
        healthy: bool,
        state: impl Fn(u64) -> Option<bool>,
    ) -> Option<Wish> {
        if self.round.is_none() {
            if now < self.next_round {
                return None;
            }
            self.round = Some(Round {
                until: now + ROUND,
                asked: Vec::new(),
                open: 0,
                named: 0,
                best: None,
            });
        }
        let round = self.round.as_mut()?;
        if let Some(next) = self
            .sentinels
            .iter()
            .find(|s| !round.asked.contains(s) && state(**s) == Some(true))
        {
            round.asked.push(*next);
            round.open += 1;
            return Some(Wish::Ask(*next));
        }
        let nobody_to_come = self
            .sentinels
            .iter()
            .all(|s| round.asked.contains(s) || state(*s) == Some(false));
        if now < round.until && !(nobody_to_come && round.open == 0) {
            return None;
        }
        let Round { best, named, .. } = self.round.take()?;
        let well = healthy && !std::mem::take(&mut self.hurried);
        self.next_round = now + if well { ROUND_EVERY } else { ROUND_SOON };
        let master = best?;
        if master.epoch >= self.epoch {
            self.older_since = None;
        } else if !self.have_forgotten(now, named, &master) {
            return None;
        }
        self.epoch = master.epoch;
        Some(Wish::Follow(master.endpoint))
    }

    /// Whether a statement older than the one we follow counts. One sentinel that says so was cut
    /// off. Most of them, for a while, have lost their files: their epochs begin at 0 again, and to
    /// wait for ours would be to follow nobody for ever.
    fn have_forgotten(&mut self, now: Instant, named: usize, master: &Master) -> bool {
        if named * 2 <= self.sentinels.len() || master.down {
            self.older_since = None;
            return false;
        }
        let since = *self.older_since.get_or_insert(now);
        now.saturating_duration_since(since) >= FORGOTTEN
    }

    /// A sentinel has answered, or will not.
    pub fn heard(&mut self, master: Option<Master>) {
        if let Some(round) = &mut self.round {
            round.open = round.open.saturating_sub(1);
            if let Some(master) = master {
                round.named += 1;
                round.best = Some(better(round.best.take(), master));
            }
        }
    }

    /// There is reason to ask again now.
    pub fn hurry(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now);
        self.hurried |= self.round.is_some();
    }

    /// As [`hurry`](Watch::hurry), but for trouble that may last: a little later.
    pub fn hurry_soon(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now + ROUND_SOON);
    }

    /// When `step` has something to do even if nothing happens.
    pub fn next_deadline(&self) -> Instant {
        self.round
            .as_ref()
            .map_or(self.next_round, |round| round.until)
    }
}

/// A map is fetched anew this often even if nothing asks for it.
const MAP_EVERY: Duration = Duration::from_secs(60);
/// And never sooner than this after the last time, whatever happens.
const MAP_GAP: Duration = Duration::from_millis(200);

/// No node.
const NONE: u16 = u16::MAX;

/// Which node has which slot.
#[derive(Debug)]
pub struct Map {
    /// The nodes of the URL. They stay for ever: names can come to mean other addresses when all
    /// that we know are gone.
    pub seeds: Vec<Endpoint>,
    members: Vec<u64>,
    owners: Box<[u16]>,
    /// Whose turn it is to be asked for the map.
    turn: usize,
    next_fetch: Instant,
    not_before: Instant,
    fetching: bool,
    /// Doubts came while a fetch was under way: its answer may be older than they are.
    doubted: bool,
    /// A fetch is due and nobody can be asked.
    stuck: bool,
}

impl Map {
    /// An empty map, to be fetched at once.
    pub fn new(seeds: Vec<Endpoint>, now: Instant) -> Map {
        let owners = vec![NONE; usize::from(SLOTS)].into_boxed_slice();
        Map {
            seeds,
            members: Vec::new(),
            owners,
            turn: 0,
            next_fetch: now,
            not_before: now,
            fetching: false,
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

    /// Every member that has a slot now, with the lowest of them, in that order; `None` while some
    /// slot has nobody.
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

    /// A new map. `key` gives the key of a node's endpoint.
    pub fn replace(&mut self, rows: &[Row], mut key: impl FnMut(&Endpoint) -> u64) {
        self.members.clear();
        self.owners.fill(NONE);
        for row in rows {
            let place = self.place(key(&row.master));
            for slot in row.slots.clone() {
                if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                    *owner = place;
                }
            }
        }
    }

    /// One slot has moved.
    pub fn moved(&mut self, slot: u16, node: u64) {
        let place = self.place(node);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
    }

    fn place(&mut self, node: u64) -> u16 {
        let at = self
            .members
            .iter()
            .position(|m| *m == node)
            .unwrap_or_else(|| {
                self.members.push(node);
                self.members.len() - 1
            });
        u16::try_from(at).unwrap_or(NONE)
    }

    /// Whether to fetch a map now.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.fetching && now >= self.next_fetch
    }

    /// Whose turn it is to be asked for the map, of those that can be: all take turns, for one may
    /// be wrong, or silent. `None`: nobody, and the fetch stays due until somebody can.
    pub fn fetch(&mut self, askable: &[u64]) -> Option<u64> {
        self.stuck = askable.is_empty();
        self.fetching = !self.stuck;
        self.turn = self.turn.wrapping_add(1);
        askable.get(self.turn % askable.len().max(1)).copied()
    }

    /// The fetch has ended. `jitter` in 0..1 spreads the replicas of a service.
    pub fn fetched(&mut self, now: Instant, well: bool, jitter: f64) {
        self.fetching = false;
        self.not_before = now + MAP_GAP.mul_f64(1.0 + jitter);
        self.next_fetch = if well && !self.doubted {
            now + MAP_EVERY.mul_f64(0.8 + 0.4 * jitter)
        } else {
            self.not_before
        };
        self.doubted = false;
    }

    /// There is reason to doubt the map.
    pub fn doubt(&mut self, now: Instant, jitter: f64) {
        self.doubted |= self.fetching;
        let soon = now + MAP_GAP.mul_f64(jitter);
        self.next_fetch = self.next_fetch.min(soon.max(self.not_before));
    }

    /// When to fetch next; `None` while that is under way, or waits for somebody to ask.
    pub fn next_deadline(&self) -> Option<Instant> {
        (!self.fetching && !self.stuck).then_some(self.next_fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Endpoint {
        Endpoint::Tcp {
            host: host.to_owned(),
            port: 1,
        }
    }

    fn say(host: &str, epoch: u64) -> Option<Master> {
        Some(Master {
            endpoint: at(host),
            epoch,
            down: false,
        })
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_round_asks_all_and_follows_the_newest() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        let asked: Vec<_> = std::iter::from_fn(|| watch.step(now, false, up)).collect();
        assert_eq!(asked, [Wish::Ask(1), Wish::Ask(2), Wish::Ask(3)]);
        watch.heard(say("old", 1));
        assert_eq!(
            watch.step(now, false, up),
            None,
            "the others may know better"
        );
        watch.heard(say("new", 2));
        watch.heard(None);
        assert_eq!(watch.step(now, false, up), Some(Wish::Follow(at("new"))));
        assert_eq!(
            watch.step(now + 99 * MS, false, up),
            None,
            "not again at once"
        );
    }

    #[test]
    fn a_stale_sentinel_never_leads_back() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(watch.step(now, true, up), Some(Wish::Ask(1)));
        watch.heard(say("new", 2));
        assert_eq!(watch.step(now, true, up), Some(Wish::Follow(at("new"))));
        let later = now + 2 * ROUND_EVERY;
        assert_eq!(watch.step(later, true, up), Some(Wish::Ask(1)));
        watch.heard(say("old", 1));
        assert_eq!(watch.step(later, true, up), None);
    }

    /// Their pods were started anew, with empty disks.
    #[test]
    fn most_sentinels_for_a_while_lead_back() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        // A round in which these answer.
        let mut round = |after: Duration, said: [Option<Master>; 3]| {
            let asked = (0..3).all(|_| watch.step(now + after, true, up).is_some());
            assert!(asked);
            said.into_iter().for_each(|said| watch.heard(said));
            watch.step(now + after, true, up)
        };
        let second = Duration::from_secs(1);
        let new = || say("new", 7);
        let old = || say("old", 0);
        let down = || old().map(|m| Master { down: true, ..m });
        assert_eq!(
            round(Duration::ZERO, [new(), None, None]),
            Some(Wish::Follow(at("new")))
        );
        assert_eq!(round(2 * second, [old(), old(), None]), None);
        assert_eq!(
            round(11 * second, [old(), None, None]),
            None,
            "one is not most"
        );
        assert_eq!(round(13 * second, [old(), old(), old()]), None);
        assert_eq!(round(22 * second, [old(), old(), None]), None);
        assert_eq!(
            round(23 * second, [old(), old(), None]),
            Some(Wish::Follow(at("old")))
        );
        assert_eq!(
            round(25 * second, [new(), old(), old()]),
            Some(Wish::Follow(at("new")))
        );
        assert_eq!(round(27 * second, [down(), down(), down()]), None);
        assert_eq!(round(40 * second, [down(), down(), down()]), None);
    }

    #[test]
    fn news_during_a_round_begin_another() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(watch.step(now, true, up), Some(Wish::Ask(1)));
        watch.hurry(now);
        watch.heard(say("old", 1));
        assert_eq!(watch.step(now, true, up), Some(Wish::Follow(at("old"))));
        assert_eq!(watch.step(now + ROUND_SOON, true, up), Some(Wish::Ask(1)));
    }

    #[test]
    fn a_silent_sentinel_costs_a_round_and_a_dead_one_nothing() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2], now);
        let one_dead = |s| Some(s == 1);
        assert_eq!(watch.step(now, false, one_dead), Some(Wish::Ask(1)));
        watch.heard(say("a", 1));
        assert_eq!(
            watch.step(now, false, one_dead),
            Some(Wish::Follow(at("a")))
        );
        let later = now + 2 * ROUND_SOON;
        let one_coming = |s| if s == 1 { Some(true) } else { None };
        assert_eq!(watch.step(later, false, one_coming), Some(Wish::Ask(1)));
        watch.heard(say("a", 1));
        assert_eq!(
            watch.step(later, false, one_coming),
            None,
            "the other may still come"
        );
        assert_eq!(
            watch.step(later + ROUND, false, one_coming),
            Some(Wish::Follow(at("a")))
        );
    }

    #[test]
    fn a_map_is_patched_and_replaced() {
        let now = Instant::now();
        let mut map = Map::new(vec![at("seed")], now);
        assert_eq!(map.node(0), None);
        let row = |first, last, host| Row {
            slots: first..=last,
            master: at(host),
        };
        let key = |e: &Endpoint| if *e == at("a") { 7 } else { 8 };
        map.replace(&[row(0, 99, "a"), row(100, 16_383, "b")], key);
        assert_eq!(
            [0, 99, 100, 16_383].map(|slot| map.node(slot)),
            [Some(7), Some(7), Some(8), Some(8)]
        );
        map.moved(99, 9);
        assert_eq!(
            [98, 99, 100].map(|slot| map.node(slot)),
            [Some(7), Some(9), Some(8)]
        );
        map.replace(&[row(5, 5, "b")], key);
        assert_eq!([4, 5].map(|slot| map.node(slot)), [None, Some(8)]);
        assert_eq!(map.owners(), None, "not whole");
        map.replace(&[row(0, 16_383, "b"), row(7, 7, "a")], key);
        assert_eq!(map.owners(), Some(vec![(0, 8), (7, 7)]));
        map.replace(&[row(0, 16_382, "b")], key);
        assert_eq!(map.owners(), None, "but for one slot");
    }

    #[test]
    fn a_map_is_fetched_by_one_at_a_time_and_not_too_often() {
        let now = Instant::now();
        let mut map = Map::new(vec![at("seed")], now);
        let due = |map: &Map, ms: u32| map.is_due(now + ms * MS);
        assert!(due(&map, 0));
        assert!(map.fetch(&[1]).is_some());
        assert!(!due(&map, 0), "one at a time");
        map.fetched(now, false, 0.0);
        assert!(!due(&map, 199) && due(&map, 200));
        assert!(map.fetch(&[1]).is_some());
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
    fn a_doubt_during_a_fetch_outlives_it() {
        let now = Instant::now();
        let mut map = Map::new(vec![at("seed")], now);
        assert!(map.fetch(&[1]).is_some());
        map.doubt(now, 0.0);
        map.fetched(now, true, 0.0);
        assert!(map.is_due(now + 200 * MS));
        assert!(map.fetch(&[1]).is_some());
        map.fetched(now, true, 0.0);
        assert!(!map.is_due(now + 1000 * MS));
    }

    #[test]
    fn a_fetch_waits_for_somebody_to_ask_and_asks_all_in_turn() {
        let now = Instant::now();
        let mut map = Map::new(vec![at("seed")], now);
        assert_eq!(map.fetch(&[]), None);
        assert!(map.is_due(now));
        assert_eq!(map.next_deadline(), None, "nothing would come of it");
        let mut asked: Vec<u64> = (0..3).filter_map(|_| map.fetch(&[4, 5, 6])).collect();
        asked.sort_unstable();
        assert_eq!(asked, [4, 5, 6]);
    }
}
