//! Which server gets a request: the one server, the master that sentinels name, or the node that has the slot.
//!
//! ```text
//! Single     one node, always
//! Sentinel   one node at a time; the sentinels are asked in rounds which one it is
//! Cluster    a map from slots to nodes; any node is asked for a new one
//! ```
//!
//! A guide keeps what is known and says what else it needs to know; the client sends its requests (marked by their
//! [`Origin`]) and hands in the answers. It identifies nodes by their keys in the client's table and does no I/O.

use super::cluster::Row;
use super::endpoint::Endpoint;
use super::sentinel::{Master, most_named};
use super::slot::SLOTS;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<P> {
    /// A requester, for this purpose.
    Requester(P),
    /// The guide: CLUSTER SLOTS.
    Map,
    /// The guide: SENTINEL MASTER.
    Master,
    /// The guide: SENTINEL GET-MASTER-ADDR-BY-NAME.
    Address,
    /// The guide: SENTINEL SENTINELS.
    Others,
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
/// As long as no master is followed: the links to the sentinels are still being made, and workers that decide by the
/// answers of only some sentinels might choose different masters.
const ROUND_AT_FIRST: Duration = Duration::from_millis(600);
/// Between rounds while a master is followed. `+switch-master` and any trouble begin one at once.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Between questions for the other sentinels of the group.
const OTHERS_EVERY: Duration = Duration::from_secs(10);
/// Between rounds while there is no master.
const ROUND_SOON: Duration = Duration::from_millis(100);
/// Sentinels that agree for this long on an older epoch than ours were set up anew.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The watch over a master behind sentinels.
#[derive(Debug)]
pub struct Watch {
    /// The master's name at the sentinels.
    pub name: String,
    /// The keys of the sentinels.
    pub sentinels: Vec<u64>,
    /// The other sentinels, as one of them has reported. When all that we ask have gone, these are asked.
    pub others: Vec<Endpoint>,
    next_others: Instant,
    /// The key of the present master.
    pub master: Option<u64>,
    /// Its endpoint.
    followed: Option<Endpoint>,
    /// The highest epoch seen.
    epoch: u64,
    /// Where the master was before the last switch. A sentinel that still names it is out of date.
    replaced: Option<Endpoint>,
    /// The master has refused a command as only a replica does.
    refused: bool,
    /// The last statement of each sentinel. It holds until the sentinel's next one, or until the sentinel is away.
    said: Vec<(u64, Master)>,
    /// For this many rounds in a row they have named different masters under one epoch.
    split: u32,
    /// Since when most of the sentinels have been naming a live master of an older epoch.
    older_since: Option<Instant>,
    round: Option<Round>,
    next_round: Instant,
    /// A switch was reported while a round was under way: the round's answers may be older.
    hurried: bool,
}

#[derive(Debug)]
struct Round {
    until: Instant,
    asked: Vec<u64>,
    open: Vec<u64>,
}

/// The next action for a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ask this sentinel.
    Ask(u64),
    /// The master is at this endpoint now; follow it.
    Follow(Endpoint),
}

/// The state of the link to the present master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Commands can be sent.
    Up,
    /// Not up, but it may be soon; or there is no master yet.
    Shaky,
    /// Not up, and waiting has not helped.
    Away,
}

impl Watch {
    /// A watch that knows nothing yet and begins its first round at once.
    pub fn new(name: String, sentinels: Vec<u64>, now: Instant) -> Watch {
        Watch {
            name,
            sentinels,
            others: Vec::new(),
            next_others: now,
            master: None,
            followed: None,
            epoch: 0,
            replaced: None,
            refused: false,
            said: Vec::new(),
            split: 0,
            older_since: None,
            round: None,
            next_round: now,
            hurried: false,
        }
    }

    /// The next action, if there is one now. `state` gives the state of a sentinel: `Some(true)` it can be asked,
    /// `Some(false)` it is away, `None` it may soon be reachable.
    pub fn step(
        &mut self,
        now: Instant,
        standing: Standing,
        state: impl Fn(u64) -> Option<bool>,
    ) -> Option<Wish> {
        if self.round.is_none() {
            if now < self.next_round {
                return None;
            }
            let first = self.followed.is_none();
            self.round = Some(Round {
                until: now + if first { ROUND_AT_FIRST } else { ROUND },
                asked: Vec::new(),
                open: Vec::new(),
            });
        }
        let round = self.round.as_mut()?;
        if let Some(next) =
            self.sentinels.iter().find(|s| !round.asked.contains(s) && state(**s) == Some(true))
        {
            round.asked.push(*next);
            round.open.push(*next);
            return Some(Wish::Ask(*next));
        }
        let nobody_to_come =
            self.sentinels.iter().all(|s| round.asked.contains(s) || state(*s) == Some(false));
        if now < round.until && !(nobody_to_come && round.open.is_empty()) {
            return None;
        }
        self.round = None;
        let well = standing == Standing::Up && !std::mem::take(&mut self.hurried);
        self.next_round = now + if well { ROUND_EVERY } else { ROUND_SOON };
        self.said.retain(|(s, _)| state(*s) != Some(false));
        let refused = std::mem::take(&mut self.refused);
        let master = self.weigh(now, standing, refused)?;
        if self.followed.as_ref() != Some(&master.endpoint) {
            let old = self.followed.replace(master.endpoint.clone());
            // Gone back on purpose, or the old one never existed: then nothing was replaced.
            self.replaced = old.filter(|_| master.epoch > self.epoch);
        }
        self.heard_of(master.epoch);
        Some(Wish::Follow(master.endpoint))
    }

    /// Whether it is time to ask for the other sentinels as well.
    pub fn is_others_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_others;
        if due {
            self.next_others = now + OTHERS_EVERY;
        }
        due
    }

    /// The master to follow after all statements; `None` when that is no change.
    ///
    /// A master is left for a higher epoch, or when it is away and another one is named: not because one sentinel
    /// contradicts another, nor because the one sentinel that names it has gone.
    fn weigh(&mut self, now: Instant, standing: Standing, refused: bool) -> Option<Master> {
        let said = |s| self.said.iter().find(|(of, _)| of == s);
        // In the order of the list, so that all workers decide the same.
        let said = self.sentinels.iter().filter_map(said);
        let said: Vec<Master> = said.filter(|(_, m)| !m.in_doubt).map(|(_, m)| m.clone()).collect();
        let is_late = |m: &Master| {
            m.epoch < self.epoch
                || m.epoch == self.epoch && self.replaced.as_ref() == Some(&m.endpoint)
        };
        let Some(epoch) = said.iter().filter(|m| !is_late(m)).map(|m| m.epoch).max() else {
            return self.have_forgotten(now, &said, standing, refused);
        };
        let newest = said.iter().filter(|m| m.epoch == epoch && !is_late(m));
        let newest: Vec<&Master> = newest.collect();
        let followed = self.followed.as_ref();
        let away = standing == Standing::Away || refused;
        let stays = newest.iter().find(|m| followed == Some(&m.endpoint));
        let chosen = match stays {
            Some(stays) if !away => *stays,
            _ => most_named(&newest, followed.filter(|_| away))?,
        };
        let votes = newest.iter().filter(|m| m.endpoint == chosen.endpoint);
        let by_most = votes.count() * 2 > self.sentinels.len();
        let leaves = followed.is_some_and(|f| *f != chosen.endpoint);
        let news = epoch > self.epoch || !leaves || by_most || away;
        let chosen = news.then(|| chosen.clone());
        self.older_since = None;
        self.note_split(epoch, &newest);
        chosen
    }

    /// Whether statements older than the one we follow count. A single sentinel with an older epoch was cut off. If
    /// most of them have one, for a while, they have lost their files: their epochs begin at 0 again, and waiting for
    /// ours would mean to follow no master for ever. Nor is there a reason to wait when our master itself answers as a
    /// replica, and all sentinels agree on another; or when it is away, and they do not even name an older epoch: then
    /// the switch that was reported to us was an old one.
    fn have_forgotten(
        &mut self,
        now: Instant,
        said: &[Master],
        standing: Standing,
        refused: bool,
    ) -> Option<Master> {
        let epoch = said.iter().map(|m| m.epoch).max();
        let newest: Vec<&Master> = said.iter().filter(|m| Some(m.epoch) == epoch).collect();
        let most = most_named(&newest, None)
            .filter(|m| said.len() * 2 > self.sentinels.len() && !m.down)
            .cloned();
        let Some(most) = most else {
            self.older_since = None;
            return None;
        };
        let since = *self.older_since.get_or_insert(now);
        let agreed = refused && said.iter().all(|m| m.endpoint == most.endpoint);
        let was_old = standing == Standing::Away && most.epoch == self.epoch;
        let long = now.saturating_duration_since(since) >= FORGOTTEN;
        (agreed || was_old || long).then_some(most)
    }

    /// Logs, once, that the sentinels do not watch the same server. (Not at once: while a failover spreads, an address
    /// may be a moment ahead of its epoch.)
    fn note_split(&mut self, epoch: u64, newest: &[&Master]) {
        let mut places: Vec<String> = newest.iter().map(|m| m.endpoint.to_string()).collect();
        places.sort_unstable();
        places.dedup();
        if places.len() < 2 {
            // Once logged, it is not logged again: such disagreements come and go.
            self.split = if self.split < 2 { 0 } else { self.split };
            return;
        }
        self.split = self.split.saturating_add(1);
        if self.split == 2 {
            log::warn!(
                "redis: the sentinels name different masters {:?} under one epoch ({epoch}): {}; only one of them is \
                 used. Let all sentinels watch the same server, under one name for it",
                self.name,
                places.join(", ")
            );
        }
    }

    fn heard_of(&mut self, epoch: u64) {
        if epoch != self.epoch {
            self.split = 0;
        }
        self.epoch = epoch;
        self.older_since = None;
    }

    /// A sentinel has pushed that the master has moved. True if that is news: then the new one is followed from now on,
    /// though its epoch will be known only after a round.
    pub fn switched(&mut self, now: Instant, old: &Endpoint, new: &Endpoint) -> bool {
        self.hurry(now);
        let news = self.followed.as_ref() == Some(old) && old != new;
        if news {
            self.replaced = self.followed.replace(new.clone());
        }
        news
    }

    /// The master has refused a command as only a replica does.
    pub fn refused(&mut self, now: Instant) {
        self.refused = true;
        self.hurry_soon(now);
    }

    /// A sentinel has answered SENTINEL MASTER; `None` when it does not know this master.
    pub fn heard(&mut self, sentinel: u64, master: Option<Master>) {
        self.said.retain(|(s, _)| *s != sentinel);
        if master.as_ref().is_none_or(|m| !m.in_doubt) {
            self.silent(sentinel);
        }
        self.said.extend(master.map(|m| (sentinel, m)));
    }

    /// A sentinel has answered where the master is. That replaces its earlier statement; the answer of a sentinel that
    /// allows no other question is taken to be of the present epoch.
    pub fn located(&mut self, sentinel: u64, endpoint: Option<Endpoint>) {
        self.silent(sentinel);
        let Some(endpoint) = endpoint else {
            return;
        };
        let before = self.said.iter().find(|(s, _)| *s == sentinel);
        let master = Master {
            epoch: before.map_or(self.epoch, |(_, m)| m.epoch),
            // The old address is the one that is down.
            down: before.is_some_and(|(_, m)| m.down && m.endpoint == endpoint),
            in_doubt: false,
            endpoint,
        };
        self.heard(sentinel, Some(master));
    }

    /// A sentinel will not answer any more in this round. Its last statement still holds.
    pub fn silent(&mut self, sentinel: u64) {
        if let Some(round) = &mut self.round {
            round.open.retain(|s| *s != sentinel);
        }
    }

    /// Begins a round now, because there is reason to ask again.
    pub fn hurry(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now);
        self.hurried |= self.round.is_some();
    }

    /// As [`hurry`](Watch::hurry), but for trouble that may last: a little later.
    pub fn hurry_soon(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now + ROUND_SOON);
    }

    /// When `step` has something to do even if no answer comes.
    pub fn next_deadline(&self) -> Instant {
        self.round.as_ref().map_or(self.next_round, |round| round.until)
    }
}

/// A map is fetched again this often even if nothing requires it.
const MAP_EVERY: Duration = Duration::from_secs(60);
/// And never sooner than this after the last fetch.
const MAP_GAP: Duration = Duration::from_millis(200);

/// Replicas that are considered in one map; with many rows, most are named many times.
const REPLICAS_MAX: usize = 65_536;

/// No node.
const NONE: u16 = u16::MAX;

/// Which node has which slot.
#[derive(Debug)]
pub struct Map {
    /// The nodes of the URL. They are kept for ever: names may resolve to other addresses when all known nodes are
    /// gone.
    pub seeds: Vec<Endpoint>,
    /// Nodes that may take the place of a member. They have no slots, but when all members are gone they know the new
    /// ones.
    replicas: HashSet<Endpoint>,
    members: Vec<u64>,
    owners: Box<[u16]>,
    /// Which node is asked for the map next.
    turn: usize,
    next_fetch: Instant,
    not_before: Instant,
    fetching: bool,
    /// The map was doubted while a fetch was under way: the answer may be older than the doubt.
    doubted: bool,
    /// A fetch is due and no node can be asked.
    stuck: bool,
}

impl Map {
    /// An empty map, to be fetched at once.
    pub fn new(seeds: Vec<Endpoint>, now: Instant) -> Map {
        let owners = vec![NONE; usize::from(SLOTS)].into_boxed_slice();
        Map {
            seeds,
            replicas: HashSet::new(),
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

    /// Installs a new map. `key` gives the key of a node's endpoint.
    pub fn replace(&mut self, rows: &[Row], mut key: impl FnMut(&Endpoint) -> u64) {
        self.members.clear();
        self.owners.fill(NONE);
        let replicas = rows.iter().flat_map(|row| &row.replicas);
        self.replicas = replicas.take(REPLICAS_MAX).cloned().collect();
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
        !self.fetching && now >= self.next_fetch
    }

    /// Which of the nodes that can be asked is asked for the map: all take turns, for one may be wrong, or silent.
    /// `None`: none can, and the fetch stays due until one can.
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

    /// Notes that there is reason to doubt the map.
    pub fn doubt(&mut self, now: Instant, jitter: f64) {
        self.doubted |= self.fetching;
        let soon = now + MAP_GAP.mul_f64(jitter);
        self.next_fetch = self.next_fetch.min(soon.max(self.not_before));
    }

    /// When to fetch next; `None` while a fetch is under way, or waits for a node to ask.
    pub fn next_deadline(&self) -> Option<Instant> {
        (!self.fetching && !self.stuck).then_some(self.next_fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Away, Shaky, Up};
    use super::*;

    fn at(host: &str) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port: 1 }
    }

    fn say(host: &str, epoch: u64) -> Option<Master> {
        Some(Master { endpoint: at(host), epoch, down: false, in_doubt: false })
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_round_asks_all_and_follows_the_newest() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        let asked: Vec<_> = std::iter::from_fn(|| watch.step(now, Shaky, up)).collect();
        assert_eq!(asked, [Wish::Ask(1), Wish::Ask(2), Wish::Ask(3)]);
        watch.heard(1, say("old", 1));
        assert_eq!(watch.step(now, Shaky, up), None, "the others may know better");
        watch.heard(2, say("new", 2));
        watch.heard(3, None);
        assert_eq!(watch.step(now, Shaky, up), Some(Wish::Follow(at("new"))));
        assert_eq!(watch.step(now + 99 * MS, Shaky, up), None, "not again at once");
    }

    #[test]
    fn a_stale_sentinel_never_leads_back() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(watch.step(now, Up, up), Some(Wish::Ask(1)));
        watch.heard(1, say("new", 2));
        assert_eq!(watch.step(now, Up, up), Some(Wish::Follow(at("new"))));
        let later = now + 2 * ROUND_EVERY;
        assert_eq!(watch.step(later, Up, up), Some(Wish::Ask(1)));
        watch.heard(1, say("old", 1));
        assert_eq!(watch.step(later, Up, up), None);
    }

    /// Their pods were restarted, with empty disks.
    #[test]
    fn most_sentinels_for_a_while_lead_back() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        // A round in which these sentinels answer.
        let mut round = |after: Duration, said: [Option<Master>; 3]| {
            let asked = (0..3).all(|_| watch.step(now + after, Up, up).is_some());
            assert!(asked);
            (1..).zip(said).for_each(|(s, said)| watch.heard(s, said));
            watch.step(now + after, Up, up)
        };
        let second = Duration::from_secs(1);
        let new = || say("new", 7);
        let old = || say("old", 0);
        let down = || old().map(|m| Master { down: true, ..m });
        assert_eq!(round(Duration::ZERO, [new(), None, None]), Some(Wish::Follow(at("new"))));
        assert_eq!(round(2 * second, [old(), old(), None]), None);
        assert_eq!(round(11 * second, [old(), None, None]), None, "one is not most");
        assert_eq!(round(13 * second, [old(), old(), old()]), None);
        assert_eq!(round(22 * second, [old(), old(), None]), None);
        assert_eq!(round(23 * second, [old(), old(), None]), Some(Wish::Follow(at("old"))));
        assert_eq!(round(25 * second, [new(), old(), old()]), Some(Wish::Follow(at("new"))));
        assert_eq!(round(27 * second, [down(), down(), down()]), None);
        assert_eq!(round(40 * second, [down(), down(), down()]), None);
    }

    /// Three sentinels, and rounds with a given answer or none from each.
    struct Group {
        watch: Watch,
        now: Instant,
    }

    impl Group {
        fn new() -> Group {
            let now = Instant::now();
            let watch = Watch::new("m".to_owned(), vec![1, 2, 3], now);
            Group { watch, now }
        }

        /// Runs the next round, in which sentinels without an answer are away. Gives the master that is followed after
        /// it.
        fn round(&mut self, standing: Standing, said: [Option<Master>; 3]) -> String {
            self.now += ROUND_EVERY;
            let away: Vec<bool> = said.iter().map(Option::is_none).collect();
            let state = |s: u64| Some(!away[usize::try_from(s).unwrap() - 1]);
            while let Some(wish) = self.watch.step(self.now, standing, state) {
                match wish {
                    Wish::Ask(s) => {
                        let said = said[usize::try_from(s).unwrap() - 1].clone();
                        self.watch.heard(s, said);
                    }
                    Wish::Follow(_) => break,
                }
            }
            self.followed()
        }

        fn followed(&self) -> String {
            let followed = self.watch.followed.as_ref().map(|e| e.to_string());
            followed.map_or(String::new(), |e| e.trim_end_matches(":1").to_owned())
        }

        fn switched(&mut self, old: &str, new: &str) -> String {
            self.watch.switched(self.now, &at(old), &at(new));
            self.followed()
        }
    }

    fn down(host: &str, epoch: u64) -> Option<Master> {
        say(host, epoch).map(|m| Master { down: true, ..m })
    }

    /// The sentinel that leads the failover names the old address under the new epoch, before the others know of it.
    #[test]
    fn a_replaced_address_is_not_gone_back_to_without_a_higher_epoch() {
        for leader in 0..3 {
            let mut group = Group::new();
            let said = |leads: Option<Master>, other: Option<Master>| {
                let mut said = [other.clone(), other.clone(), other];
                said[leader] = leads;
                said
            };
            assert_eq!(group.round(Up, said(say("a", 1), say("a", 1))), "a");
            assert_eq!(group.switched("a", "b"), "b");
            // No other sentinel knows of it yet, or can answer.
            assert_eq!(group.round(Shaky, said(say("a", 1), say("a", 1))), "b");
            assert_eq!(group.round(Up, said(say("a", 1), None)), "b");
            assert_eq!(group.round(Up, said(say("a", 2), say("b", 2))), "b");
            // The other sentinels have gone.
            assert_eq!(group.round(Up, said(say("a", 1), None)), "b");
            assert_eq!(group.round(Away, said(say("a", 2), None)), "b");
            assert_eq!(group.round(Up, said(say("b", 2), say("b", 2))), "b");
            assert_eq!(group.switched("x", "a"), "b", "not news of ours");
            assert_eq!(group.round(Up, said(say("b", 2), say("a", 3))), "a");
            assert_eq!(group.round(Up, said(say("b", 3), say("a", 3))), "a");
        }
    }

    #[test]
    fn a_sentinel_in_doubt_has_no_say_until_it_has_told_the_address() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(watch.step(now, Shaky, up), Some(Wish::Ask(1)));
        let in_doubt = say("old", 2).map(|m| Master { in_doubt: true, down: true, ..m });
        watch.heard(1, in_doubt.clone());
        assert_eq!(watch.step(now, Shaky, up), None, "there is more to come");
        watch.located(1, Some(at("new")));
        assert_eq!(watch.step(now, Shaky, up), Some(Wish::Follow(at("new"))));
        assert_eq!(watch.said[0].1, say("new", 2).unwrap(), "and not down");

        let later = now + ROUND_EVERY;
        assert_eq!(watch.step(later, Up, up), Some(Wish::Ask(1)));
        watch.heard(1, in_doubt);
        watch.silent(1);
        assert_eq!(watch.step(later, Up, up), None, "it did not tell");
        // A sentinel that allows GET-MASTER-ADDR-BY-NAME only.
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        assert_eq!(watch.step(now, Shaky, up), Some(Wish::Ask(1)));
        watch.located(1, Some(at("new")));
        assert_eq!(watch.step(now, Shaky, up), Some(Wish::Follow(at("new"))));
    }

    #[test]
    fn of_several_masters_under_one_epoch_the_followed_stays() {
        let [a, b, c] = [say("a", 0), say("b", 0), say("c", 0)];
        let mut group = Group::new();
        let all = [a.clone(), b.clone(), c.clone()];
        assert_eq!(group.round(Shaky, all.clone()), "a");
        for _ in 0..3 {
            assert_eq!(group.round(Up, all.clone()), "a");
        }
        assert_eq!(group.watch.split, 4);
        // Not left for a sentinel that has gone, nor for one that considers it down.
        assert_eq!(group.round(Up, [None, b.clone(), c.clone()]), "a");
        assert_eq!(group.round(Up, [None, b.clone(), None]), "a");
        assert_eq!(group.round(Shaky, [down("a", 0), b.clone(), c.clone()]), "a");
        // It is left when it is away, once, and not gone back to.
        assert_eq!(group.round(Away, [down("a", 0), b.clone(), c.clone()]), "b");
        assert_eq!(group.round(Up, all.clone()), "b");
        // Or when most agree on another.
        assert_eq!(group.round(Up, [c.clone(), None, c.clone()]), "c");
        // The majority at the start, wherever it is in the list.
        for said in [
            [a.clone(), b.clone(), b.clone()],
            [b.clone(), a.clone(), b.clone()],
            [b.clone(), b.clone(), a.clone()],
        ] {
            let mut group = Group::new();
            assert_eq!(group.round(Shaky, said.clone()), "b");
            assert_eq!(group.round(Up, [say("a", 0), say("a", 0), say("b", 0)]), "b");
            assert_eq!(group.round(Up, [say("b", 0), say("a", 1), say("b", 0)]), "a");
        }
    }

    /// No other master is named, so there is nothing to leave it for.
    #[test]
    fn a_dead_master_is_followed_until_there_is_another() {
        let mut group = Group::new();
        let dead = || [down("a", 4), down("a", 4), down("a", 4)];
        assert_eq!(group.round(Shaky, dead()), "a");
        assert_eq!(group.round(Away, dead()), "a");
        assert_eq!(group.round(Away, [down("a", 4), say("b", 5), down("a", 4)]), "b");
    }

    /// A sentinel that was stopped through two failovers reports both when it resumes.
    #[test]
    fn an_old_switch_is_taken_back() {
        let mut group = Group::new();
        let all = [say("a", 2), say("a", 2), say("a", 2)];
        assert_eq!(group.round(Up, all.clone()), "a");
        assert_eq!(group.switched("a", "b"), "b");
        let late = [say("b", 1), say("a", 2), say("a", 2)];
        assert_eq!(group.round(Shaky, late.clone()), "b");
        assert_eq!(group.round(Away, [say("a", 2), None, None]), "b", "one");
        assert_eq!(group.round(Away, late), "a", "it is a replica");
        assert_eq!(group.switched("a", "b"), "b");
        assert_eq!(group.switched("b", "a"), "a");
        assert_eq!(group.round(Up, all), "a");
    }

    #[test]
    fn a_master_that_says_it_is_none_is_left_without_an_epoch_if_all_agree() {
        let mut group = Group::new();
        let all = |m: Option<Master>| [m.clone(), m.clone(), m];
        assert_eq!(group.round(Shaky, all(say("a", 4))), "a");
        let old = all(say("b", 0));
        assert_eq!(group.round(Up, old.clone()), "a");
        group.watch.refused(group.now);
        let split = [say("b", 0), say("b", 0), say("c", 0)];
        assert_eq!(group.round(Up, split), "a");
        group.watch.refused(group.now);
        assert_eq!(group.round(Up, old), "b");
    }

    #[test]
    fn news_during_a_round_begin_another() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(watch.step(now, Up, up), Some(Wish::Ask(1)));
        watch.hurry(now);
        watch.heard(1, say("old", 1));
        assert_eq!(watch.step(now, Up, up), Some(Wish::Follow(at("old"))));
        assert_eq!(watch.step(now + ROUND_SOON, Up, up), Some(Wish::Ask(1)));
    }

    #[test]
    fn a_silent_sentinel_costs_a_round_and_a_dead_one_nothing() {
        let now = Instant::now();
        let mut watch = Watch::new("m".to_owned(), vec![1, 2], now);
        let one_dead = |s| Some(s == 1);
        assert_eq!(watch.step(now, Shaky, one_dead), Some(Wish::Ask(1)));
        watch.heard(1, say("a", 1));
        assert_eq!(watch.step(now, Shaky, one_dead), Some(Wish::Follow(at("a"))));
        let later = now + 2 * ROUND_SOON;
        let one_coming = |s| if s == 1 { Some(true) } else { None };
        assert_eq!(watch.step(later, Shaky, one_coming), Some(Wish::Ask(1)));
        watch.heard(1, say("a", 1));
        assert_eq!(watch.step(later, Shaky, one_coming), None, "the other may still come");
        assert_eq!(watch.step(later + ROUND, Shaky, one_coming), Some(Wish::Follow(at("a"))));
    }

    #[test]
    fn a_map_is_patched_and_replaced() {
        let now = Instant::now();
        let mut map = Map::new(vec![at("seed")], now);
        assert_eq!(map.node(0), None);
        let row = |first, last, host| Row {
            slots: first..=last,
            master: at(host),
            replicas: vec![at("r"), at(&format!("r-{host}"))],
        };
        let key = |e: &Endpoint| if *e == at("a") { 7 } else { 8 };
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
