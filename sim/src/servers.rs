//! The servers of a world, what they follow, and how they answer.
//!
//! ```text
//! single      one server
//! sentinel    a master ──lag──▶ replicas      sentinels, each with its own view of who is the master
//! cluster     masters, each with its slots ──lag──▶ replicas      nodes, each with its own view of the map
//! ```
//!
//! Who is the master of what is decided here, by the world, and not by votes: the *truth*. Each server learns it after a
//! delay. What a server does that is not, or no longer, a master by this truth is a *stray*: its writes are lost.
//!
//! Replication is asynchronous. What one command has changed is one unit: it comes to a replica as a whole, in order,
//! after a lag, or never, if the replica takes its master's place before that.

use crate::book::{Lost, Stray};
use crate::cluster::{Map, Moving, names_of};
use crate::net::{EndId, Host, NEVER, Time};
use crate::redis::{Change, Db, Reply, command};
use crate::sentinel::{Seen, Told};
use crate::tell;
use crate::world::{ALL, World};
use kioskd::resp::slot::slot;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

/// How the servers belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// There is one.
    Single,
    /// One master, its replicas, and sentinels.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// A connection, from the server's side.
#[derive(Debug, Default)]
pub struct Conn {
    /// It speaks RESP3.
    pub resp3: bool,
    input: Vec<u8>,
    /// What is still to be sent.
    pub out: Vec<u8>,
    /// Bytes of commands that were executed, and of replies that were made.
    read: u64,
    /// As there.
    pub made: u64,
    asking: bool,
    /// It is told of `+switch-master`.
    pub subscribed: bool,
}

/// What one command has changed, and the writers of it.
#[derive(Debug, Clone)]
pub struct Unit(Rc<(Vec<Change>, Vec<String>)>);

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Its host.
    pub host: Host,
    /// Its name, for people and for the resolver.
    pub title: String,
    /// As there.
    pub name: String,
    /// Where it is.
    pub at: SocketAddr,
    /// Its data; a sentinel has none.
    pub db: Db,
    /// What it sees, if it is a sentinel.
    pub seen: Option<Seen>,
    /// Its connections.
    pub conns: BTreeMap<EndId, Conn>,
    /// It answers so slowly, is busy until then, and takes so many clients.
    pub slow: Time,
    /// As there.
    pub busy: Time,
    /// As there.
    pub clients_max: usize,
    /// A fault has it.
    pub faulty: bool,
    /// The faults it has are over by then.
    pub troubled: Time,
    /// It lets writes wait, for its replica will take its place.
    pub pauses: bool,
    /// Its master.
    pub follows: Option<usize>,
    /// What is on its way to it, and when it arrives.
    behind: VecDeque<(Time, Unit)>,
    /// Nothing arrives before this time.
    pub cut: Time,
}

/// Everything about the servers that is not a server's own.
#[derive(Debug)]
pub struct Truth {
    /// How they belong together.
    pub shape: Shape,
    /// The master, where there is one.
    pub master: usize,
    /// How often it has changed.
    pub epoch: u64,
    /// The map of a cluster.
    pub map: Rc<Map>,
    /// The slots that are being moved.
    pub moving: Option<Moving>,
    /// The master, or the map, is about to change: one change comes after the other.
    pub changing: bool,
    /// When which server has lost which keys to another.
    pub had: Vec<(Time, usize, u32)>,
    /// This one is a node of another cluster, which has all slots.
    pub foreigner: Option<usize>,
    /// Sentinels allow only one question.
    pub strict: bool,
    /// The longest lag of a replica.
    pub lag: Time,
    /// What each replica of kioskd was told of the present master.
    pub told: Vec<Told>,
    /// Changes after which a list may give a key twice.
    pub shifts: u64,
}

impl Server {
    /// One that has just been set up.
    pub fn new(host: Host, title: String, name: String, at: SocketAddr, db: Db) -> Server {
        let (conns, behind) = (BTreeMap::new(), VecDeque::new());
        let (slow, busy, troubled, cut, clients_max) = (0, 0, 0, 0, 10_000);
        let (faulty, pauses, follows, seen) = (false, false, None, None);
        Server {
            host,
            title,
            name,
            at,
            db,
            seen,
            conns,
            slow,
            busy,
            clients_max,
            faulty,
            troubled,
            pauses,
            follows,
            behind,
            cut,
        }
    }

    /// How much it has not got yet.
    pub fn lags(&self) -> usize {
        self.behind.len()
    }
}

/// Whether a server that lets writes wait lets this one wait.
fn may_write(words: &[Vec<u8>]) -> bool {
    words.first().is_some_and(|verb| matches!(verb.as_slice(), b"SET" | b"DEL" | b"EVAL" | b"EVALSHA"))
}

/// The number of an item's or a session's key.
pub fn number(key: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(key).ok()?;
    text.strip_prefix("item:k").or_else(|| text.strip_prefix("sess:s"))?.parse().ok()
}

impl World {
    /// Whether a server is a master, by the truth.
    pub(crate) fn rules(&self, at: usize) -> bool {
        match self.truth.shape {
            Shape::Single => true,
            Shape::Sentinel => at == self.truth.master,
            Shape::Cluster => self.truth.map.follows[at].is_none(),
        }
    }

    /// Whether somebody who asks this server gets an answer.
    pub(crate) fn is_well(&self, at: usize) -> bool {
        let site = &self.net.sites[self.servers[at].host];
        site.listening && site.frozen <= self.net.now && !self.net.is_parted(self.servers[at].host)
    }

    /// The name of a key.
    pub(crate) fn name_of(&self, key: usize) -> Vec<u8> {
        if key < self.plan.items { format!("item:k{key}") } else { format!("sess:s{key}") }.into_bytes()
    }

    /// The server reads, executes and answers.
    pub(crate) fn serve(&mut self, at: usize) {
        let (now, host) = (self.net.now, self.servers[at].host);
        if now < self.servers[at].busy {
            return self.net.wake(host, self.servers[at].busy);
        }
        self.servers[at].busy = now + self.servers[at].slow;
        self.catch_up(at);
        while let Some(end) = self.net.accept(host) {
            if self.servers[at].conns.len() < self.servers[at].clients_max {
                self.servers[at].conns.insert(end, Conn::default());
            } else {
                let _ = self.net.send(end, b"-ERR max number of clients reached\r\n");
                self.net.close(end);
            }
        }
        for end in self.net.ready(host) {
            let Some(mut conn) = self.servers[at].conns.remove(&end) else { continue };
            let mut bytes = [0; 16 * 1024];
            let mut alive = loop {
                match self.net.recv(end, &mut bytes) {
                    Ok(0) => break false,
                    Ok(n) => conn.input.extend_from_slice(&bytes[..n]),
                    Err(e) => break e.kind() == std::io::ErrorKind::WouldBlock,
                }
            };
            while let Some((words, length)) = command(&conn.input) {
                if self.servers[at].pauses && may_write(&words) {
                    break;
                }
                let reply = self.execute(at, end, &mut conn, &words);
                if self.net.story.is_some() {
                    let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
                    let words = words.join(" ").replace(char::is_control, " ");
                    let title = self.servers[at].title.trim_start_matches("the ");
                    tell!(self.net, "{title}, connection {end}: {words:.200} -> {:.100}", reply.shown());
                }
                let before = conn.out.len();
                reply.write(conn.resp3, &mut conn.out);
                conn.made += (conn.out.len() - before) as u64;
                alive &= !words.is_empty();
                conn.input.drain(..length);
                conn.read += length as u64;
            }
            self.flush(end, &mut conn);
            if alive {
                self.servers[at].conns.insert(end, conn);
            } else {
                self.net.close(end);
            }
        }
        self.book.moves = self.servers.iter().map(|server| server.db.moves).sum::<u64>() + self.truth.shifts;
    }

    /// Sends what a server has said.
    pub(crate) fn flush(&mut self, end: EndId, conn: &mut Conn) {
        if let Ok(n) = self.net.send(end, &conn.out) {
            conn.out.drain(..n);
        }
    }

    fn execute(&mut self, at: usize, end: EndId, conn: &mut Conn, words: &[Vec<u8>]) -> Reply {
        if self.servers[at].seen.is_some() {
            return self.ask_sentinel(at, end, conn, words);
        }
        let db = &mut self.servers[at].db;
        let asking = std::mem::replace(&mut conn.asking, words.first().is_some_and(|verb| verb == b"ASKING"));
        if let Some(reply) = db.node.as_ref().and_then(|node| node.route(words, asking, |key| db.peek(key).is_some())) {
            return reply;
        }
        db.node.iter_mut().for_each(|node| node.asking = asking);
        let reply = db.execute(&mut conn.resp3, words);
        let (changes, written) = (std::mem::take(&mut db.changes), std::mem::take(&mut db.written));
        let (rules, now, mut writers) = (self.rules(at), self.net.now, Vec::new());
        for (key, value, ttl) in written {
            if !key.starts_with(b"idem:") && rules {
                let writer = self.book.written(&value, ttl, now);
                self.book.by_key.entry(key).or_default().extend(writer.clone());
                writers.extend(writer);
            } else if !key.starts_with(b"idem:") {
                // Somebody may read it there.
                let (writer, text) = (self.book.writer(&value), String::from_utf8_lossy(&value));
                self.book.doc(&text);
                self.book.lost.extend(writer);
            }
        }
        if self.truth.foreigner == Some(at) && names_of(words).into_iter().any(|name| number(name).is_some()) {
            self.book.breaks(format!(
                "nothing is asked of another cluster: {}",
                String::from_utf8_lossy(&words.join(&b' '))
            ));
        }
        if rules {
            self.replicate(at, changes, writers);
        } else if let (Some(key), false) = (names_of(words).into_iter().find_map(number), reply.is_error()) {
            let (peer, sent) = (self.net.ends[end ^ 1].host, self.net.departure(end ^ 1, conn.read).unwrap_or(now));
            self.book.strays.push(Stray { host: peer, key, at: now });
            self.check_stray(peer, sent, words);
        }
        reply
    }

    /// What a master has changed is on its way to its replicas.
    pub(crate) fn replicate(&mut self, from: usize, changes: Vec<Change>, writers: Vec<String>) {
        if !changes.is_empty() {
            self.send_on(from, self.net.now, &Unit(Rc::new((changes, writers))));
        }
    }

    /// What a server has since this time is on its way to those that follow it.
    fn send_on(&mut self, from: usize, since: Time, unit: &Unit) {
        for to in 0..self.servers.len() {
            if self.servers[to].follows == Some(from) {
                let lag = self.net.dice.between(100_000, self.truth.lag);
                let server = &mut self.servers[to];
                let last = server.behind.back().map_or(0, |last| last.0);
                server.behind.push_back(((since + lag).max(server.cut).max(last), unit.clone()));
            }
        }
    }

    /// A server takes in what has come from its master, and passes it on to those that still follow it, though it is no
    /// master any more.
    pub(crate) fn catch_up(&mut self, at: usize) {
        let now = self.net.now;
        if let Some(master) = self.servers[at].follows.filter(|master| self.servers[*master].follows.is_some()) {
            self.catch_up(master);
        }
        self.servers[at].db.now = (self.book.clock(now) / crate::net::MS) as i64;
        while let Some((since, unit)) = self.servers[at].behind.pop_front_if(|unit| unit.0 <= now) {
            let db = &mut self.servers[at].db;
            unit.0.0.iter().for_each(|change| db.apply(change));
            self.send_on(at, since, &unit);
        }
    }

    /// What a server's master sends comes no earlier than this.
    pub(crate) fn cut(&mut self, at: usize, until: Time) {
        self.catch_up(at);
        let server = &mut self.servers[at];
        server.cut = until;
        server.behind.iter_mut().for_each(|unit| unit.0 = unit.0.max(until));
    }

    /// A server has all that its master has: from now on it follows it.
    pub(crate) fn follow(&mut self, at: usize, master: usize) {
        let mut db = std::mem::replace(&mut self.servers[at].db, Db::new(true, true));
        db.copy(&self.servers[master].db);
        db.replica = true;
        let server = &mut self.servers[at];
        (server.db, server.follows, server.cut) = (db, Some(master), 0);
        server.behind.clear();
        // Who follows a replica, since its sentinels have not come to it yet, has what that has.
        let below = |server: &Server| server.follows == Some(at);
        for next in
            (0..self.servers.len()).filter(|next| *next != master && below(&self.servers[*next])).collect::<Vec<_>>()
        {
            self.follow(next, at);
        }
    }

    /// A replica takes its master's place, with what it has: the rest is lost, or comes at once if nothing may be.
    pub(crate) fn promote(&mut self, at: usize, all: bool) {
        if all {
            self.cut(at, 0);
            self.servers[at].behind.iter_mut().for_each(|unit| unit.0 = 0);
        }
        self.catch_up(at);
        let server = &mut self.servers[at];
        (server.follows, server.db.replica) = (None, false);
        for (_, unit) in std::mem::take(&mut server.behind) {
            for writer in &unit.0.1 {
                self.book.effects.remove(writer);
                self.book.lost.insert(writer.clone());
            }
        }
        self.turn();
        // It may be in trouble of its own, which now is that of its keys.
        self.outage_of(self.servers[at].troubled.saturating_sub(self.net.now), Lost::Some, ALL);
    }

    /// From now on somebody else has what is asked for.
    pub(crate) fn turn(&mut self) {
        self.truth.shifts += 1;
        self.book.turned = self.net.now;
    }

    /// All connections to a server end.
    pub(crate) fn hang_up(&mut self, at: usize) {
        let host = self.servers[at].host;
        let listening = self.net.sites[host].listening;
        self.net.die(host);
        self.net.sites[host].listening = listening;
        self.servers[at].conns.clear();
    }

    /// For these keys something new begins: with what their masters have now.
    pub(crate) fn end_reign(&mut self, keys: u32) {
        for key in (0..self.plan.keys).filter(|key| keys >> key & 1 == 1) {
            let name = self.name_of(key);
            let masters = (0..self.servers.len()).filter(|at| self.servers[*at].seen.is_none() && self.rules(*at));
            let found = masters.filter_map(|at| self.servers[at].db.peek(&name).cloned()).next();
            let state = found.map_or((None, 0), |value| {
                let expires = value.expires.map_or(NEVER, |ms| ms as Time * crate::net::MS);
                (Some(self.book.doc(&String::from_utf8_lossy(&value.bytes))), expires)
            });
            self.book.reigns.entry(key).or_default().push((self.net.now, state));
        }
    }

    /// The servers that have a key of this name, or should have: its master by the truth, and who follows that.
    pub(crate) fn home_of(&self, name: &[u8]) -> usize {
        match (self.truth.shape, &self.truth.moving) {
            (Shape::Cluster, Some(moving)) if moving.slots.contains(&slot(name)) => moving.to,
            (Shape::Cluster, _) => self.truth.map.owners[usize::from(slot(name))],
            _ => self.truth.master,
        }
    }
}
