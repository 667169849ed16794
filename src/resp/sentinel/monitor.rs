//! Who is believed: what the sentinels say in rounds, weighed together.
//!
//! The highest configuration epoch wins: a sentinel that was cut off still names the old master, but with its old
//! epoch. Under one epoch the master that is followed stays, as long as one of them names it: otherwise sentinels that
//! were set up to watch different servers would have us scatter the data over all. Where no epoch is told, most of them
//! decide. Pure: time and the state of the links are arguments, sentinels are numbers.

use super::reply::{Master, most_named};
use crate::resp::endpoint::Endpoint;
use std::time::{Duration, Instant};

/// How long a round of questions to the sentinels may take.
pub const ROUND: Duration = Duration::from_millis(300);
/// The same as long as no master is followed: the links to the sentinels are still being made, and workers that decide
/// by the answers of only some sentinels might choose different masters.
const ROUND_AT_FIRST: Duration = Duration::from_millis(600);
/// The time between rounds while a master is followed. `+switch-master` and any trouble begin one at once.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// The time between rounds while there is no master.
const ROUND_SOON: Duration = Duration::from_millis(100);
/// Sentinels that agree for this long on an older epoch than ours were set up anew, and are believed.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug)]
pub struct SentinelMonitor {
    /// The master's name at the sentinels.
    pub name: String,
    /// The keys of the sentinels.
    pub sentinels: Vec<u64>,
    /// The endpoint of the master that is followed.
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

/// The next action.
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

impl SentinelMonitor {
    /// One that knows nothing yet and begins its first round at once.
    pub fn new(name: String, sentinels: Vec<u64>, now: Instant) -> SentinelMonitor {
        SentinelMonitor {
            name,
            sentinels,
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
        // A higher epoch ends the round at once; so does, at first, a master that most of them name.
        let is_new = |m: &Master| m.sure && m.epoch > self.epoch;
        let votes = |of: &Master| self.said.iter().filter(|(_, m)| m == of).count();
        let news = self.said.iter().any(|(_, m)| match self.followed {
            Some(_) => is_new(m),
            None => !m.down && 2 * votes(m) > self.sentinels.len(),
        });
        if now < round.until && !news && !(nobody_to_come && round.open.is_empty()) {
            return None;
        }
        self.round = None;
        self.next_round = match (std::mem::take(&mut self.hurried), standing) {
            (true, _) => now,
            (false, Standing::Up) => now + ROUND_EVERY,
            (false, _) => now + ROUND_SOON,
        };
        self.said.retain(|(s, _)| state(*s) != Some(false));
        let refused = std::mem::take(&mut self.refused);
        let master = self.weigh(now, standing, refused)?;
        let is_said = |m: &(u64, Master)| m.1.endpoint == master.endpoint;
        if self.followed.as_ref() == Some(&master.endpoint) {
            // When all have named the new master, one that names the old address again is believed: it is a master
            // anew.
            let all = self.said.iter().all(is_said) && 2 * self.said.len() > self.sentinels.len();
            self.replaced = self.replaced.take().filter(|_| !all);
        } else {
            let old = self.followed.replace(master.endpoint.clone());
            // Gone back on purpose, or the old one never existed: then nothing was replaced.
            self.replaced = old.filter(|_| master.epoch > self.epoch);
        }
        self.heard_of(master.epoch);
        Some(Wish::Follow(master.endpoint))
    }

    /// The master to follow after all statements; `None` when that is no change.
    ///
    /// A master is left for a higher epoch, or when it is away and another one is named: not because one sentinel
    /// contradicts another, nor because the one sentinel that names it has gone.
    fn weigh(&mut self, now: Instant, standing: Standing, refused: bool) -> Option<Master> {
        let said = |s| self.said.iter().find(|(of, _)| of == s);
        // In the order of the list, so that all workers decide the same.
        let said = self.sentinels.iter().filter_map(said);
        let said: Vec<Master> = said.map(|(_, m)| m.clone()).collect();
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
        // A sentinel that tells no epoch may be behind, so it alone does not keep the master.
        let stays = newest.iter().find(|m| m.sure && followed == Some(&m.endpoint));
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

    /// Logs, once, that the sentinels do not monitor the same server. (Not at once: while a failover spreads, an
    /// address may be a moment ahead of its epoch.)
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
        // What was said before the switch is older.
        self.said.retain(|(_, m)| m.endpoint != *old);
        let is_back = self.replaced.as_ref() == Some(new);
        let news = self.followed.as_ref() == Some(old) && old != new && !is_back;
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

    /// A sentinel has answered where the master is, if it knows, and what else it says of it. Who allows no other
    /// question than the first is taken to speak of the present epoch.
    pub fn heard(&mut self, sentinel: u64, address: Option<Endpoint>, master: Option<&Master>) {
        self.silent(sentinel);
        self.said.retain(|(s, _)| *s != sentinel);
        self.said.extend(address.map(|endpoint| {
            let (epoch, sure) = master.map_or((self.epoch, false), |m| (m.epoch, true));
            // The old address may be the one that is down.
            let down = master.is_some_and(|m| m.down && m.endpoint == endpoint);
            (sentinel, Master { endpoint, epoch, sure, down })
        }));
    }

    /// A sentinel will not answer any more in this round. Its last statement still holds.
    pub fn silent(&mut self, sentinel: u64) {
        if let Some(round) = &mut self.round {
            round.open.retain(|s| *s != sentinel);
        }
    }

    /// Only the first so many sentinels are asked from now on; gives the others.
    pub fn keep(&mut self, many: usize) -> Vec<u64> {
        let left = self.sentinels.split_off(many.min(self.sentinels.len()));
        self.said.retain(|(s, _)| !left.contains(s));
        left
    }

    /// Begins a round now, because there is reason to ask again.
    pub fn hurry(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now);
        self.hurried |= self.round.is_some();
    }

    /// As [`hurry`](SentinelMonitor::hurry), but for trouble that may last: a little later.
    pub fn hurry_soon(&mut self, now: Instant) {
        self.next_round = self.next_round.min(now + ROUND_SOON);
    }

    /// When `step` has something to do even if no answer comes.
    pub fn next_deadline(&self) -> Instant {
        self.round.as_ref().map_or(self.next_round, |round| round.until)
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
        Some(Master { endpoint: at(host), epoch, sure: true, down: false })
    }

    fn hear(monitor: &mut SentinelMonitor, sentinel: u64, said: Option<Master>) {
        monitor.heard(sentinel, said.as_ref().map(|m| m.endpoint.clone()), said.as_ref());
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_round_asks_all_and_follows_the_newest() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        let asked: Vec<_> = std::iter::from_fn(|| monitor.step(now, Shaky, up)).collect();
        assert_eq!(asked, [Wish::Ask(1), Wish::Ask(2), Wish::Ask(3)]);
        hear(&mut monitor, 1, say("old", 1));
        assert_eq!(monitor.step(now, Shaky, up), None, "the others may know better");
        hear(&mut monitor, 2, say("new", 2));
        hear(&mut monitor, 3, None);
        assert_eq!(monitor.step(now, Shaky, up), Some(Wish::Follow(at("new"))));
        assert_eq!(monitor.step(now + 99 * MS, Shaky, up), None, "not again at once");
    }

    #[test]
    fn a_stale_sentinel_never_leads_back() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(monitor.step(now, Up, up), Some(Wish::Ask(1)));
        hear(&mut monitor, 1, say("new", 2));
        assert_eq!(monitor.step(now, Up, up), Some(Wish::Follow(at("new"))));
        let later = now + 2 * ROUND_EVERY;
        assert_eq!(monitor.step(later, Up, up), Some(Wish::Ask(1)));
        hear(&mut monitor, 1, say("old", 1));
        assert_eq!(monitor.step(later, Up, up), None);
    }

    /// Their pods were restarted, with empty disks.
    #[test]
    fn most_sentinels_for_a_while_lead_back() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2, 3], now);
        let up = |_| Some(true);
        // A round in which these sentinels answer.
        let mut round = |after: Duration, said: [Option<Master>; 3]| {
            let asked = (0..3).all(|_| monitor.step(now + after, Up, up).is_some());
            assert!(asked);
            (1..).zip(said).for_each(|(s, said)| hear(&mut monitor, s, said));
            monitor.step(now + after, Up, up)
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
        monitor: SentinelMonitor,
        now: Instant,
    }

    impl Group {
        fn new() -> Group {
            let now = Instant::now();
            let monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2, 3], now);
            Group { monitor, now }
        }

        /// Runs the next round, in which sentinels without an answer are away. Gives the master that is followed after
        /// it.
        fn round(&mut self, standing: Standing, said: [Option<Master>; 3]) -> String {
            self.now += ROUND_EVERY;
            let away: Vec<bool> = said.iter().map(Option::is_none).collect();
            let state = |s: u64| Some(!away[usize::try_from(s).unwrap() - 1]);
            while let Some(wish) = self.monitor.step(self.now, standing, state) {
                match wish {
                    Wish::Ask(s) => {
                        let said = said[usize::try_from(s).unwrap() - 1].clone();
                        hear(&mut self.monitor, s, said);
                    }
                    Wish::Follow(_) => break,
                }
            }
            self.followed()
        }

        fn followed(&self) -> String {
            let followed = self.monitor.followed.as_ref().map(|e| e.to_string());
            followed.map_or(String::new(), |e| e.trim_end_matches(":1").to_owned())
        }

        fn switched(&mut self, old: &str, new: &str) -> String {
            self.monitor.switched(self.now, &at(old), &at(new));
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

    /// During a failover its leader calls the old address the master, under the new epoch, and knows the new one.
    #[test]
    fn where_the_master_is_counts_and_not_what_it_is_called() {
        let now = Instant::now();
        let up = |_| Some(true);
        for (master, said) in [(down("old", 2), say("new", 2)), (None, say("new", 0))] {
            let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1], now);
            assert_eq!(monitor.step(now, Shaky, up), Some(Wish::Ask(1)));
            assert_eq!(monitor.step(now, Shaky, up), None, "there is more to come");
            monitor.heard(1, Some(at("new")), master.as_ref());
            assert_eq!(monitor.step(now, Shaky, up), Some(Wish::Follow(at("new"))));
            let said = said.map(|m| Master { sure: master.is_some(), ..m });
            assert_eq!(monitor.said[0].1, said.unwrap(), "and not down");
        }
    }

    /// They allow GET-MASTER-ADDR-BY-NAME only, and one of them is behind.
    #[test]
    fn without_epochs_most_sentinels_decide() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2, 3], now);
        let mut round = |n: u32, said: [&str; 3]| {
            let (now, up) = (now + n * ROUND_EVERY, |_| Some(true));
            while let Some(Wish::Ask(s)) = monitor.step(now, Up, up) {
                let said = said[usize::try_from(s).unwrap() - 1];
                monitor.heard(s, Some(at(said)), None);
            }
            monitor.followed.as_ref().map(|e| e.to_string())
        };
        assert_eq!(round(0, ["a", "a", "a"]).as_deref(), Some("a:1"));
        assert_eq!(round(1, ["a", "b", "a"]).as_deref(), Some("a:1"));
        assert_eq!(round(2, ["a", "b", "b"]).as_deref(), Some("b:1"));
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
        assert_eq!(group.monitor.split, 4);
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
        // Nor is a push believed that leads back.
        assert_eq!(group.switched("a", "b"), "b");
        assert_eq!(group.switched("b", "a"), "b");
        assert_eq!(group.round(Away, all), "a");
    }

    #[test]
    fn a_master_that_says_it_is_none_is_left_without_an_epoch_if_all_agree() {
        let mut group = Group::new();
        let all = |m: Option<Master>| [m.clone(), m.clone(), m];
        assert_eq!(group.round(Shaky, all(say("a", 4))), "a");
        let old = all(say("b", 0));
        assert_eq!(group.round(Up, old.clone()), "a");
        group.monitor.refused(group.now);
        let split = [say("b", 0), say("b", 0), say("c", 0)];
        assert_eq!(group.round(Up, split), "a");
        group.monitor.refused(group.now);
        assert_eq!(group.round(Up, old), "b");
    }

    #[test]
    fn news_during_a_round_begin_another() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1], now);
        let up = |_| Some(true);
        assert_eq!(monitor.step(now, Up, up), Some(Wish::Ask(1)));
        monitor.hurry(now);
        hear(&mut monitor, 1, say("old", 1));
        assert_eq!(monitor.step(now, Up, up), Some(Wish::Follow(at("old"))));
        assert_eq!(monitor.step(now + ROUND_SOON, Up, up), Some(Wish::Ask(1)));
    }

    #[test]
    fn a_silent_sentinel_costs_a_round_and_a_dead_one_nothing() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2], now);
        let one_dead = |s| Some(s == 1);
        assert_eq!(monitor.step(now, Shaky, one_dead), Some(Wish::Ask(1)));
        hear(&mut monitor, 1, say("a", 1));
        assert_eq!(monitor.step(now, Shaky, one_dead), Some(Wish::Follow(at("a"))));
        let later = now + 2 * ROUND_SOON;
        let one_coming = |s| if s == 1 { Some(true) } else { None };
        assert_eq!(monitor.step(later, Shaky, one_coming), Some(Wish::Ask(1)));
        hear(&mut monitor, 1, say("a", 1));
        assert_eq!(monitor.step(later, Shaky, one_coming), None, "the other may still come");
        assert_eq!(monitor.step(later + ROUND, Shaky, one_coming), Some(Wish::Follow(at("a"))));
    }

    /// There and back, by sentinels that tell no epochs.
    #[test]
    fn a_failback_is_followed_though_sentinels_tell_no_epochs() {
        let now = Instant::now();
        let mut monitor = SentinelMonitor::new("m".to_owned(), vec![1, 2, 3], now);
        let round = |monitor: &mut SentinelMonitor, n: u32, said: &str| {
            let (now, up) = (now + n * ROUND_EVERY, |_| Some(true));
            while let Some(Wish::Ask(s)) = monitor.step(now, Up, up) {
                monitor.heard(s, Some(at(said)), None);
            }
            monitor.followed.as_ref().map(|e| e.to_string())
        };
        assert_eq!(round(&mut monitor, 0, "a").as_deref(), Some("a:1"));
        assert!(monitor.switched(now + ROUND_EVERY, &at("a"), &at("b")));
        assert_eq!(round(&mut monitor, 1, "b").as_deref(), Some("b:1"));
        assert_eq!(round(&mut monitor, 600, "b").as_deref(), Some("b:1"));
        // Ten minutes later, back again: it is pushed, and all sentinels say so. The old one still answers.
        monitor.switched(now + 601 * ROUND_EVERY, &at("b"), &at("a"));
        let mut rounds = 1;
        while round(&mut monitor, 600 + rounds, "a").as_deref() != Some("a:1") {
            rounds += 1;
            assert!(rounds < 60);
        }
        assert!(rounds <= 2, "the replaced master was used for {rounds} s more");
    }
}
