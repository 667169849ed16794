//! The network: time, bytes on their way, and everything that can happen to them.
//!
//! ```text
//! send ──▶ on the way (delay, pieces, a hole) ──▶ inbox ──▶ recv        an End is one side of a connection;
//!                                                   └──▶ its host is woken    its peer has the neighbouring number
//! ```
//!
//! Everything happens in the order of a queue of events, each at a virtual time in nanoseconds. All chance comes from
//! one [`Dice`], so a seed is a world.

use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Nanoseconds since the world began.
pub type Time = u64;
/// A millisecond.
pub const MS: Time = 1_000_000;
/// A second.
pub const SECOND: Time = 1000 * MS;
/// Later than every world.
pub const NEVER: Time = Time::MAX / 4;

/// A process: a replica, the server, or a client.
pub type Host = usize;
/// One side of a connection.
pub type EndId = usize;

/// Bytes on their way to one side, and its unread bytes, at most; some connections have less.
const ROOM: usize = 128 * 1024;

/// Chance, from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// A time of any order of magnitude between the two.
    pub fn between(&mut self, least: Time, most: Time) -> Time {
        let doublings = u64::from((most / least.max(1)).max(1).ilog2());
        let low = least << self.below(doublings + 1);
        (low + self.below(low)).min(most)
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

#[derive(Debug)]
enum Event {
    Wake(Host),
    Arrive(EndId, Segment),
}

#[derive(Debug)]
enum Segment {
    Connect,
    Bytes(Vec<u8>),
    Fin,
    Reset,
    /// The peer has read, so there is room to write again; or the connection is made.
    Room,
}

/// One side of a connection.
#[derive(Debug, Default)]
pub struct End {
    /// Whose it is.
    pub host: Host,
    /// As [`kioskd::net::World::set_owner`] says.
    pub owner: u64,
    /// Connected.
    pub open: bool,
    /// Its host has closed it.
    pub closed: bool,
    /// Its host knows of it: it has connected, or accepted.
    known: bool,
    /// Bytes that have arrived and were not read.
    pub inbox: VecDeque<u8>,
    on_the_way: usize,
    /// The peer's end of the stream has arrived.
    pub ended: bool,
    /// A reset has arrived, or the connect was refused.
    pub reset: bool,
    /// Our end of the stream was sent, at this time.
    pub fin: Option<Time>,
    /// How much may be on the way to this side or unread.
    pub room: usize,
    last_arrival: Time,
    lag: Time,
    /// What is sent to this side arrives no earlier; never, from [`NEVER`] on.
    hole: Time,
    /// When it was made.
    pub since: Time,
    dirty: bool,
    /// The network or its client has done something after which an answer may be lost.
    pub tainted: bool,
    /// How many bytes had arrived, and been sent, at which time.
    arrived: Vec<(u64, Time)>,
    sent: Vec<(u64, Time, Time)>,
    /// Since when its host has had bytes to send that were not taken.
    held: Option<Time>,
}

/// A host, as the network knows it.
#[derive(Debug, Default)]
pub struct Site {
    ready: Vec<EndId>,
    wake: Option<Time>,
    /// It does nothing until then; its kernel does.
    pub frozen: Time,
    /// Whether it accepts connections.
    pub listening: bool,
    accepted: VecDeque<EndId>,
    hole: Time,
}

/// See the module's text.
#[derive(Debug)]
pub struct Net {
    /// The time.
    pub now: Time,
    /// All chance.
    pub dice: Dice,
    /// Delays are this many times as long.
    pub lag: Time,
    /// Every side of every connection there was.
    pub ends: Vec<End>,
    /// All hosts.
    pub sites: Vec<Site>,
    queue: BTreeMap<(Time, u64), Event>,
    /// Events so far.
    pub count: u64,
    /// A number that differs when anything went differently.
    pub digest: u64,
    /// The story so far, if one is told.
    pub story: Option<Vec<String>>,
}

/// Adds a line to a world's story, if one is told.
#[macro_export]
macro_rules! tell {
    ($net:expr, $($text:tt)*) => {
        if let Some(story) = &mut $net.story {
            let us = $net.now / 1000;
            story.push(format!("{:>6}.{:06} {}", us / 1_000_000, us % 1_000_000, format_args!($($text)*)));
        }
    };
}

impl Net {
    /// A network of so many hosts.
    pub fn new(dice: Dice, hosts: usize, tells: bool) -> Net {
        let sites = (0..hosts).map(|_| Site::default()).collect();
        let (ends, queue, story) = (Vec::new(), BTreeMap::new(), tells.then(Vec::new));
        Net { now: 0, dice, lag: 1, ends, sites, queue, count: 0, digest: 0, story }
    }

    /// Makes something a part of the digest.
    pub fn note(&mut self, what: u64) {
        let mixed = (self.digest ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.digest = mixed.rotate_left(29).wrapping_add(self.now);
    }

    fn push(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.queue.insert((at.max(self.now), self.count), event);
    }

    /// Goes to the next event before `end`, and gives the host that it wakes, if it does. `None`: it is `end` now.
    pub fn next(&mut self, end: Time) -> Option<Option<Host>> {
        let first = self.queue.first_entry().filter(|first| first.key().0 <= end);
        let Some(((at, _), event)) = first.map(|first| first.remove_entry()) else {
            self.now = end;
            return None;
        };
        self.now = at;
        match event {
            Event::Arrive(end, segment) => self.arrive(end, segment),
            Event::Wake(host) if self.sites[host].wake == Some(at) => {
                self.sites[host].wake = None;
                if at >= self.sites[host].frozen {
                    return Some(Some(host));
                }
                self.wake(host, self.sites[host].frozen);
            }
            Event::Wake(_) => {}
        }
        Some(None)
    }

    /// Wakes a host at this time, or earlier if it is to be woken earlier.
    pub fn wake(&mut self, host: Host, at: Time) {
        let at = at.max(self.now);
        if at < NEVER && self.sites[host].wake.is_none_or(|wake| at < wake) {
            self.sites[host].wake = Some(at);
            self.push(at, Event::Wake(host));
        }
    }

    /// The next connection that a host's kernel has accepted.
    pub fn accept(&mut self, host: Host) -> Option<EndId> {
        let end = self.sites[host].accepted.pop_front()?;
        self.ends[end].known = true;
        self.report(end);
        Some(end)
    }

    /// The ends of a host that have something to report.
    pub fn ready(&mut self, host: Host) -> Vec<EndId> {
        let mut ready = std::mem::take(&mut self.sites[host].ready);
        ready.retain(|end| {
            let end = &mut self.ends[*end];
            std::mem::take(&mut end.dirty) && end.known && !end.closed
        });
        ready
    }

    fn report(&mut self, end: EndId) {
        let host = self.ends[end].host;
        if !std::mem::replace(&mut self.ends[end].dirty, true) {
            self.sites[host].ready.push(end);
        }
        let soon = self.now + 1000 + self.dice.below(50_000);
        self.wake(host, soon);
    }

    /// The open ends of a host.
    pub fn ends_of(&self, host: Host) -> Vec<EndId> {
        let open = |end: &EndId| self.ends[*end].host == host && !self.ends[*end].closed;
        (0..self.ends.len()).filter(open).collect()
    }

    /// Begins to connect; `None` is an address where nobody answers.
    pub fn connect(&mut self, from: Host, to: Option<Host>) -> EndId {
        let lag = self.dice.between(20_000, 5 * MS);
        let room = if self.dice.percent(5) { 2000 + self.dice.below(10_000) as usize } else { ROOM };
        let hole = self.sites[from].hole.max(to.map_or(NEVER, |to| self.sites[to].hole));
        let (end, since) = (self.ends.len(), self.now);
        for (host, known) in [(from, true), (to.unwrap_or(from), false)] {
            self.ends.push(End {
                host,
                known,
                lag,
                room,
                hole,
                since,
                closed: !known && to.is_none(),
                ..End::default()
            });
        }
        self.transmit(end, Segment::Connect);
        end
    }

    fn transmit(&mut self, from: EndId, segment: Segment) {
        let jitter = if self.dice.percent(10) { self.dice.below(20 * MS) } else { self.dice.below(100_000) };
        let to = &mut self.ends[from ^ 1];
        let at = (self.now + (to.lag + jitter) * self.lag).max(to.last_arrival).max(to.hole);
        if at < NEVER {
            to.last_arrival = at;
            self.push(at, Event::Arrive(from ^ 1, segment));
        }
    }

    fn arrive(&mut self, at: EndId, segment: Segment) {
        let (now, purges) = (self.now, self.dice.percent(50));
        self.note((at as u64) << 32);
        let end = &mut self.ends[at];
        let site = &mut self.sites[end.host];
        match segment {
            Segment::Connect if site.listening && !end.closed => {
                end.open = true;
                site.accepted.push_back(at);
                let host = end.host;
                self.wake(host, now + 1000);
                return self.transmit(at, Segment::Room);
            }
            Segment::Connect => {
                end.closed = true;
                return self.transmit(at, Segment::Reset);
            }
            Segment::Bytes(bytes) => {
                end.on_the_way -= bytes.len();
                if end.closed {
                    return self.transmit(at, Segment::Reset);
                }
                end.arrived.push((end.arrived.last().map_or(0, |last| last.0) + bytes.len() as u64, now));
                end.inbox.extend(bytes);
            }
            Segment::Fin => end.ended = true,
            Segment::Reset => {
                end.reset = true;
                // What has arrived before is lost with some kernels, and can still be read with others.
                if purges {
                    end.inbox.clear();
                }
            }
            Segment::Room => end.open = true,
        }
        if !end.closed {
            self.report(at);
        }
    }

    /// Whether there is room to write.
    pub fn is_writable(&self, end: EndId) -> bool {
        let (me, peer) = (&self.ends[end], &self.ends[end ^ 1]);
        me.open && me.fin.is_none() && peer.on_the_way + peer.inbox.len() < peer.room
    }

    /// As [`kioskd::net::World::recv`].
    ///
    /// # Errors
    /// As there.
    pub fn recv(&mut self, id: EndId, into: &mut [u8]) -> io::Result<usize> {
        let end = &mut self.ends[id];
        if end.inbox.is_empty() || end.closed {
            return match (end.reset || end.closed, end.ended) {
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
                (_, true) => Ok(0),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let n = into.len().min(end.inbox.len());
        into.iter_mut().zip(end.inbox.drain(..n)).for_each(|(to, from)| *to = from);
        self.transmit(id, Segment::Room);
        Ok(n)
    }

    /// As [`kioskd::net::World::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, id: EndId, bytes: &[u8]) -> io::Result<usize> {
        let peer = &self.ends[id ^ 1];
        let n = bytes.len().min(peer.room.saturating_sub(peer.on_the_way + peer.inbox.len()));
        let end = &mut self.ends[id];
        if end.reset || end.closed || end.fin.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let held = end.held;
        if n < bytes.len() {
            end.held.get_or_insert(self.now);
        } else {
            end.held = None;
        }
        if n == 0 || !end.open {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        end.sent.push((end.sent.last().map_or(0, |last| last.0) + n as u64, self.now, held.unwrap_or(self.now)));
        self.ends[id ^ 1].on_the_way += n;
        let mut rest = &bytes[..n];
        self.note(rest.iter().fold(n as u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte)));
        while !rest.is_empty() {
            let split = self.dice.percent(10);
            let piece = if split { 1 + self.dice.below(rest.len() as u64) as usize } else { rest.len() };
            self.transmit(id, Segment::Bytes(rest[..piece].to_vec()));
            rest = &rest[piece..];
        }
        Ok(n)
    }

    /// As [`kioskd::net::World::shut_down`].
    ///
    /// # Errors
    /// As there.
    pub fn shut_down(&mut self, id: EndId) -> io::Result<()> {
        let end = &mut self.ends[id];
        if end.reset || end.closed || !end.open {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if end.fin.is_none() {
            end.fin = Some(self.now);
            self.transmit(id, Segment::Fin);
        }
        Ok(())
    }

    /// As [`kioskd::net::World::has_taken`].
    ///
    /// # Errors
    /// As there.
    pub fn has_taken(&self, id: EndId) -> io::Result<bool> {
        let (end, peer) = (&self.ends[id], &self.ends[id ^ 1]);
        if end.reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(peer.on_the_way == 0 && peer.ended) }
    }

    /// Closes an end: with a reset, where bytes were not read.
    pub fn close(&mut self, id: EndId) {
        let end = &mut self.ends[id];
        if std::mem::replace(&mut end.closed, true) {
            return;
        }
        let unread = !std::mem::take(&mut end.inbox).is_empty() || !end.open;
        if end.fin.replace(end.fin.unwrap_or(self.now)).is_none() || unread {
            self.transmit(id, if unread { Segment::Reset } else { Segment::Fin });
        }
    }

    /// A host dies: its kernel closes everything.
    pub fn die(&mut self, host: Host) {
        self.sites[host].listening = false;
        self.sites[host].accepted.clear();
        for end in self.ends_of(host) {
            self.taint(end);
            self.close(end);
        }
    }

    /// Something on the way resets a connection.
    pub fn cut(&mut self, end: EndId) {
        self.taint(end);
        for end in [end, end ^ 1] {
            self.push(self.now, Event::Arrive(end, Segment::Reset));
        }
    }

    /// Nothing that is sent on a connection from now on arrives before this time.
    pub fn drop_until(&mut self, end: EndId, until: Time) {
        self.taint(end);
        for end in [end, end ^ 1] {
            self.ends[end].hole = self.ends[end].hole.max(until);
        }
    }

    /// As [`drop_until`](Net::drop_until), for all of a host's connections and those that are begun.
    pub fn part(&mut self, host: Host, until: Time) {
        self.sites[host].hole = self.sites[host].hole.max(until);
        self.ends_of(host).into_iter().for_each(|end| self.drop_until(end, until));
    }

    /// Whether nothing that is sent to a host arrives.
    pub fn is_parted(&self, host: Host) -> bool {
        self.sites[host].hole > self.now
    }

    /// From now on an answer may be lost without anybody's fault.
    pub fn taint(&mut self, end: EndId) {
        (self.ends[end].tainted, self.ends[end ^ 1].tainted) = (true, true);
    }

    /// When so many bytes had arrived at an end.
    pub fn arrival(&self, end: EndId, total: u64) -> Option<Time> {
        let log = &self.ends[end].arrived;
        log.get(log.partition_point(|entry| entry.0 < total)).map(|entry| entry.1)
    }

    /// When the byte behind so many bytes was sent.
    pub fn departure(&self, end: EndId, before: u64) -> Option<Time> {
        let log = &self.ends[end].sent;
        log.get(log.partition_point(|entry| entry.0 <= before)).map(|entry| entry.1)
    }

    /// When it might have been, had there been room: it may be as old as that.
    pub fn held(&self, end: EndId, before: u64) -> Option<Time> {
        let log = &self.ends[end].sent;
        log.get(log.partition_point(|entry| entry.0 <= before)).map(|entry| entry.2)
    }
}
