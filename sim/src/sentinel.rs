//! Sentinels: what each of them sees, what it answers, and the failovers.
//!
//! ```text
//! the master is struck ─ down-after ─▶ a replica rules (truth) ─ delay ─▶ each sentinel sees it, and pushes
//!       └ comes back as it was ── takes writes that will be lost ── is made a replica
//! ```
//!
//! The sentinel that leads a failover is late: until the other replicas follow the new master it names the old one,
//! under the new epoch already, with the flag `failover_in_progress`. Only where it is asked for the address alone it
//! says the new one.

use crate::book::Lost;
use crate::net::{EndId, Host, MS, NEVER, SECOND, Time};
use crate::owed::{ADDRESSES_BY_MAJORITY, FIRST_PUSHES_COUNT};
use crate::redis::Reply;
use crate::servers::Conn;
use crate::tell;
use crate::world::{ALL, World};

/// What the sentinels call the master.
pub const MASTER: &str = "mymaster";
/// From a push to a replica of kioskd that acts by it, and from the answers of a majority: a round of questions waits
/// for those who are silent, and who answers later is weighed in the next.
const HEARD: [Time; 2] = [50 * MS, 1500 * MS];

/// What a sentinel sees.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The master.
    pub master: usize,
    /// Its epoch.
    pub epoch: u64,
    /// The sentinel leads a failover to this server, and the other replicas do not follow it yet.
    pub leads: Option<usize>,
}

/// A sentinel has told a replica of kioskd who is the master.
#[derive(Debug)]
pub struct Told {
    host: Host,
    sentinel: usize,
    /// With a push.
    push: bool,
    /// When the bytes up to there have arrived at this end.
    end: EndId,
    upto: u64,
}

impl World {
    fn sentinels(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|at| self.servers[*at].seen.is_some()).collect()
    }

    /// The one that leads, or the only one, may be in trouble: then who starts does not find the master.
    pub(crate) fn may_miss(&self, at: usize) -> bool {
        let others = self.sentinels().into_iter().filter(|other| *other != at);
        2 * others.filter(|other| self.is_well(*other)).count() <= self.sentinels().len()
    }

    /// A sentinel's answer.
    pub(crate) fn ask_sentinel(&mut self, at: usize, end: EndId, conn: &mut Conn, words: &[Vec<u8>]) -> Reply {
        let words: Vec<&str> = words.iter().filter_map(|word| std::str::from_utf8(word).ok()).collect();
        let seen = self.servers[at].seen.clone().expect("BUG: no sentinel");
        let place = |server: usize| self.servers[server].at;
        let map = |pairs: &[(&str, &str)]| {
            Reply::Map(pairs.iter().flat_map(|(k, v)| [k, v]).map(|t| Reply::text(t)).collect())
        };
        let (strict, denied) = (self.truth.strict, Reply::Error("NOPERM this user has no permissions".to_owned()));
        let told = seen.leads.unwrap_or(seen.master);
        let reply = match words[..] {
            ["HELLO", version, ..] if self.servers[at].db.hello => {
                conn.resp3 = version == "3";
                map(&[("mode", "sentinel"), ("role", "sentinel")])
            }
            ["PING"] => Reply::Simple("PONG"),
            ["CLIENT", ..] => Reply::Simple("OK"),
            ["ROLE"] => Reply::Array(vec![Reply::text("sentinel"), Reply::Array(vec![Reply::text(MASTER)])]),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER] => {
                let (ip, port) = (place(told).ip().to_string(), place(told).port().to_string());
                Reply::Array([ip, port].map(|text| Reply::text(&text)).into())
            }
            ["SENTINEL" | "SUBSCRIBE", ..] if strict => denied,
            ["SENTINEL", "MASTER", MASTER] => {
                let well = if self.is_well(seen.master) { "" } else { ",s_down,o_down" };
                let doubt = if seen.leads.is_some() { ",failover_in_progress" } else { "" };
                let (ip, port) = (place(seen.master).ip().to_string(), place(seen.master).port().to_string());
                let (flags, epoch) = (format!("master{well}{doubt}"), seen.epoch.to_string());
                map(&[("name", MASTER), ("ip", &ip), ("port", &port), ("flags", &flags), ("config-epoch", &epoch)])
            }
            ["SENTINEL", "SENTINELS", MASTER] => {
                let others = self.sentinels().into_iter().filter(|other| *other != at).map(place);
                Reply::Array(
                    others.map(|at| map(&[("ip", &at.ip().to_string()), ("port", &at.port().to_string())])).collect(),
                )
            }
            ["SUBSCRIBE", channel] => {
                conn.subscribed = true;
                Reply::Push(vec![Reply::text("subscribe"), Reply::text(channel), Reply::Integer(1)])
            }
            _ => Reply::Error("ERR unknown command, or no such master".to_owned()),
        };
        let names = !reply.is_error() && words.starts_with(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME"]);
        if names && told == self.truth.master && seen.epoch == self.truth.epoch {
            let mut bytes = Vec::new();
            reply.write(conn.resp3, &mut bytes);
            self.tells(at, end, conn.made + bytes.len() as u64, false);
        }
        reply
    }

    /// A process that starts has been told nothing.
    pub(crate) fn forget(&mut self, host: Host) {
        self.truth.told.retain(|told| told.host != host);
    }

    fn tells(&mut self, sentinel: usize, end: EndId, upto: u64, push: bool) {
        let told = Told { host: self.net.ends[end ^ 1].host, sentinel, push, end: end ^ 1, upto };
        self.truth.told.push(told);
    }

    /// Since when a replica of kioskd has to know the present master: it has had a push, or the answers of a majority.
    fn knows(&self, host: Host) -> Option<Time> {
        let mut first: Vec<(usize, Time)> = Vec::new();
        let mut pushed = NEVER;
        for told in self.truth.told.iter().filter(|told| told.host == host) {
            let Some(came) = self.net.arrival(told.end, told.upto) else { continue };
            // Where addresses have no epoch, that of a sentinel which has gone since is not weighed against another's.
            let end = &self.net.ends[told.end];
            if self.truth.strict && !told.push && (end.closed || end.ended || end.reset) {
                continue;
            }
            let young = !FIRST_PUSHES_COUNT && came < self.book.starts[&host] + SECOND;
            if told.push && !young {
                pushed = pushed.min(came + HEARD[0]);
            } else if first.iter().all(|first| first.0 != told.sentinel) {
                first.push((told.sentinel, came + if young { SECOND } else { 0 }));
            }
        }
        first.sort_by_key(|first| first.1);
        let all = self.sentinels().len();
        let most = if self.truth.strict && !ADDRESSES_BY_MAJORITY { all.saturating_sub(1) } else { all / 2 };
        let answered = first.get(most).map_or(NEVER, |first| first.1 + HEARD[1]);
        let least = pushed.min(answered);
        (least < NEVER).then(|| least + self.book.paused(host, least - HEARD[1].min(least), self.net.now))
    }

    /// A server that is no master any more has done what it was sent at this time.
    pub(crate) fn check_stray(&mut self, host: Host, sent: Time, words: &[Vec<u8>]) {
        if let Some(known) = self.knows(host).filter(|known| sent > *known) {
            let (late, words) = ((sent - known) / MS, words.iter().map(|word| String::from_utf8_lossy(word)));
            let words = words.collect::<Vec<_>>().join(" ");
            self.book
                .breaks(format!("who knows the new master asks the old one nothing; {late} ms late: {words:.200}"));
        }
    }

    /// Nor is anything answered that only it did.
    pub(crate) fn check_acks(&mut self) {
        for (host, writer, left) in std::mem::take(&mut self.book.acks) {
            if self.book.effects.contains_key(&writer) || !self.book.lost.contains(&writer) {
                continue;
            }
            if self.knows(host).is_some_and(|known| left > known) {
                self.book.breaks(format!("who knows the new master acknowledges no write to the old one: {writer}"));
            }
        }
    }

    /// Something happens to the master, the sentinels or the links between the servers.
    pub(crate) fn sentinel_fault(&mut self) {
        match self.net.dice.below(8) {
            0..=2 => self.fail_over(),
            3 | 4 => self.hand_over(),
            5 => self.sentinels_fail(),
            _ => self.link_fault(),
        }
    }

    /// Whether the master may be replaced now.
    fn may_change(&self) -> bool {
        let well = self.sentinels().into_iter().filter(|at| self.is_well(*at)).count();
        let master = self.truth.master;
        !self.truth.changing
            && !self.servers[master].faulty
            && self.heir_of(master).is_some()
            && 2 * well > self.sentinels().len()
            && self.net.now + 15 * SECOND < self.calm
    }

    /// The master is struck, or only cut off from the others; a replica takes its place; it comes back.
    fn fail_over(&mut self) {
        let old = self.truth.master;
        if !self.may_change() {
            return;
        }
        (self.truth.changing, self.servers[old].faulty) = (true, true);
        let (down, back) = (self.net.dice.between(500 * MS, 4 * SECOND), self.net.dice.between(MS, 6 * SECOND));
        if self.net.dice.percent(70) {
            let outage = self.outage_of(NEVER, Lost::All, ALL);
            self.strike(old, down + back, 3);
            self.after(down, move |world| world.replace(old, outage));
        } else {
            tell!(self.net, "server {old} is cut off from the other servers, not from us");
            self.orphan(old);
            let outage = self.outage_of(0, Lost::Some, ALL);
            self.after(down, move |world| world.replace(old, outage));
        }
        self.after(down + back, move |world| world.demote(old));
    }

    /// A replica rules from now on.
    fn replace(&mut self, old: usize, outage: usize) {
        let Some(new) = self.heir_of(old) else {
            // Meanwhile the old one may be there again.
            self.book.outages[outage].lost = Lost::Some;
            return self.after(500 * MS, move |world| world.replace(old, outage));
        };
        self.book.outages[outage].to = self.net.now;
        self.promote(new, false);
        self.rule(old, new);
        self.end_reign(ALL);
    }

    /// The old master is there again, as it was; sooner or later it is made a replica.
    fn demote(&mut self, old: usize) {
        if self.truth.master == old {
            return self.after(500 * MS, move |world| world.demote(old));
        }
        self.revive(old);
        let still = self.net.dice.between(10 * MS, 8 * SECOND);
        self.after(still, move |world| {
            tell!(world.net, "server {old} is made a replica");
            world.follow(old, world.truth.master);
            world.hang_up(old);
            (world.servers[old].faulty, world.truth.changing) = (false, false);
        });
    }

    /// `SENTINEL FAILOVER`: the master lets writes wait until a replica has them all.
    fn hand_over(&mut self) {
        let (old, wait) = (self.truth.master, self.net.dice.between(5 * MS, 500 * MS));
        if !self.may_change() {
            return;
        }
        tell!(self.net, "server {old} is to be replaced, and lets writes wait");
        (self.truth.changing, self.servers[old].faulty, self.servers[old].pauses) = (true, true, true);
        self.outage_of(wait, Lost::Some, ALL);
        self.after(wait, move |world| {
            if let Some(new) = world.heir_of(old) {
                world.promote(new, true);
                world.follow(old, new);
                world.rule(old, new);
            }
            world.servers[old].pauses = false;
            world.hang_up(old);
            (world.servers[old].faulty, world.truth.changing) = (false, false);
        });
    }

    fn rule(&mut self, old: usize, new: usize) {
        tell!(self.net, "server {new} is the master now, in place of {old}");
        (self.truth.master, self.truth.epoch) = (new, self.truth.epoch + 1);
        self.truth.told.clear();
        // What the old one suffers from is over, for who follows the new one.
        let now = self.net.now;
        self.book.outages.iter_mut().filter(|outage| outage.lost != Lost::Some).for_each(|o| o.to = o.to.min(now));
        let others: Vec<usize> = (0..self.servers.len()).filter(|at| self.servers[*at].follows == Some(old)).collect();
        let mut done = MS;
        for at in others {
            let delay = self.net.dice.between(10 * MS, 6 * SECOND);
            done = done.max(delay);
            let epoch = self.truth.epoch;
            self.after(delay, move |world| {
                if world.truth.epoch == epoch {
                    world.follow(at, new);
                }
            });
        }
        let (sentinels, epoch, mut late) = (self.sentinels(), self.truth.epoch, 0);
        let well: Vec<usize> = sentinels.iter().copied().filter(|at| self.is_well(*at)).collect();
        let leader = if well.is_empty() { usize::MAX } else { self.net.dice.pick(&well) };
        for at in sentinels {
            let delay = self.net.dice.between(MS, SECOND);
            late = late.max(delay);
            if at == leader {
                self.after(0, move |world| world.sees(at, Seen { master: old, epoch, leads: Some(new) }));
                self.after(done, move |world| world.sees(at, Seen { master: new, epoch, leads: None }));
            } else {
                self.after(delay, move |world| world.sees(at, Seen { master: new, epoch, leads: None }));
            }
        }
        self.outage_of(late, Lost::Some, ALL);
    }

    /// A sentinel learns of a change, when it can, and tells who has subscribed.
    fn sees(&mut self, at: usize, now: Seen) {
        let before = self.servers[at].seen.clone().expect("BUG: no sentinel");
        // Who is late learns of the last change only.
        if self.truth.epoch != now.epoch {
            return;
        }
        if !self.is_well(at) {
            let delay = self.net.dice.between(100 * MS, 2 * SECOND);
            return self.after(delay, move |world| world.sees(at, now));
        }
        let [old, new] = [before.master, now.master].map(|server| self.servers[server].at);
        self.servers[at].seen = Some(now.clone());
        tell!(self.net, "sentinel {at} sees {now:?}");
        if old == new {
            return;
        }
        let words = [old, new].map(|at| format!("{} {}", at.ip(), at.port())).join(" ");
        let push = ["message", "+switch-master", &format!("{MASTER} {words}")].map(Reply::text);
        let mut bytes = Vec::new();
        Reply::Push(push.into()).write(true, &mut bytes);
        let mut conns = std::mem::take(&mut self.servers[at].conns);
        for (end, conn) in conns.iter_mut().filter(|(_, conn)| conn.subscribed) {
            conn.out.extend_from_slice(&bytes);
            conn.made += bytes.len() as u64;
            self.tells(at, *end, conn.made, true);
            self.flush(*end, conn);
        }
        self.servers[at].conns = conns;
    }

    /// One sentinel or all of them are away: killed, frozen or cut off.
    fn sentinels_fail(&mut self) {
        let (all, lasting) = (self.net.dice.percent(40), self.lasting(5 * MS, 10 * SECOND));
        let one = self.net.dice.pick(&self.sentinels());
        if self.truth.changing {
            return;
        }
        let struck = if all { self.sentinels() } else { vec![one] };
        if all || self.may_miss(one) {
            // Who runs keeps the master; who starts has none yet.
            self.outage_of(lasting, Lost::Some, ALL);
        }
        for at in struck {
            self.strike(at, lasting, 3);
            self.after(lasting, move |world| world.revive(at));
        }
    }
}
