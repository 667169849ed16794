//! A world: replicas, a server and clients, what goes wrong in it, and its end.
//!
//! ```text
//! 0 s   2 s                            calm             rest          leave            drain
//! ├──────┼── one fault after the other ──┼── 25 s, all is well ──┼── answers ──┼── tables are empty ──┼── exit
//! ```

use crate::book::{Book, Lost};
use crate::client::{Client, Plan};
use crate::net::{Dice, EndId, Host, MS, NEVER, Net, SECOND, Time};
use crate::redis::{Db, Mode, command};
use crate::replica::{NAME, Names, Replica, address};
use crate::tell;
use kioskd::config::{Config, System};
use kioskd::lifecycle::State;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What happens to a world at a certain time.
type Later = Box<dyn FnOnce(&mut World)>;

/// See the module's text.
pub struct World {
    /// Its network, with the time, the digest and the story.
    pub net: Net,
    /// What happened, and whether a promise was broken.
    pub book: Book,
    plan: Plan,
    config: Config,
    names: Names,
    by_name: bool,
    server: Host,
    replicas: BTreeMap<Host, Replica>,
    clients: Vec<Client>,
    db: Db,
    conns: BTreeMap<EndId, (bool, Vec<u8>, Vec<u8>)>,
    /// The server answers so slowly, is busy until then, and takes so many clients.
    slow: Time,
    busy: Time,
    clients_max: usize,
    server_faulty: bool,
    later: BTreeMap<(Time, u64), Later>,
    count: u64,
    calm: Time,
    /// Draining replicas that had no request under way three seconds before their end.
    idle: BTreeSet<Host>,
    /// How long a replica's next tick stands still.
    stall: BTreeMap<Host, Time>,
}

/// Settings as an operator writes them: often smaller than the defaults, so that limits and deadlines are met.
fn settings(dice: &mut Dice, by_name: bool) -> Vec<(&'static str, String)> {
    let mut time = |most: Time| format!("{}ms", dice.between(most / 10, most) / MS);
    let mut settings = vec![
        ("REQUEST_TIMEOUT", time(2 * SECOND)),
        ("HEAD_TIMEOUT", time(10 * SECOND)),
        ("BODY_TIMEOUT", time(30 * SECOND)),
        ("WRITE_TIMEOUT", time(10 * SECOND)),
        ("IDLE_TIMEOUT", format!("{}ms", dice.between(150, 75_000))),
        ("ITEM_TTL", dice.pick(&["3s", "1m", "30m"]).to_owned()),
        ("SESSION_TTL", dice.pick(&["3s", "10s", "30m"]).to_owned()),
        ("DRAIN_DELAY", dice.pick(&["0s", "1s"]).to_owned()),
        ("DRAIN_TIMEOUT", dice.pick(&["1s", "10s"]).to_owned()),
        ("MAX_CONNECTIONS", dice.pick(&["40", "1000", "1000", "1000"]).to_owned()),
        ("MAX_BODY_BYTES", "30000".to_owned()),
        ("MAX_BUFFERED_BYTES", dice.pick(&["60000", "1000000"]).to_owned()),
        ("ACCESS_LOG", "all".to_owned()),
        ("WORKERS", "1".to_owned()),
    ];
    let host = if by_name { format!("{}:{}", NAME.0, NAME.1) } else { address(1).to_string() };
    settings.push(("REDIS_ADDR", host));
    settings
}

impl World {
    /// The world of this seed, from its beginning to its end.
    pub fn run(seed: u64, tells: bool) -> World {
        let mut world = World::new(seed, tells);
        if catch_unwind(AssertUnwindSafe(|| world.live())).is_err() {
            world.book.breaks("no peer can make it panic; what it says is above".to_owned());
        }
        world
    }

    fn new(seed: u64, tells: bool) -> World {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (replicas, clients) = (1 + dice.below(3) as usize, 2 + dice.below(7) as usize);
        let (hello, shebang) = dice.pick(&[(true, true), (true, true), (true, false), (false, false)]);
        let (by_name, server) = (dice.percent(50), replicas);
        let settings = settings(&mut dice, by_name);
        let system = System { processors: 1, files_max: None, files_open: 0, memory_max: None };
        let config = Config::read(settings.clone().into_iter().map(|(k, v)| (k.to_owned(), v)), &system);
        let config = config.unwrap_or_else(|errors| panic!("BUG: {errors:?}"));
        let nanos = |t: std::time::Duration| t.as_nanos() as Time;
        let items = 1 + dice.below(4) as usize;
        let plan = Plan {
            replicas: replicas as u64,
            items,
            keys: items + 1 + dice.below(2) as usize,
            statics: dice.pick(&[0, 1, 49, 51, 200, 700]),
            quiet: dice.percent(15),
            ease: dice.pick(&[1, 1, 1, 1, 1, 4]),
            request_timeout: nanos(config.front.request_timeout),
            roomy: config.front.buffered_bytes_max >= 1_000_000,
            ttls: [nanos(config.service.item_ttl), nanos(config.service.session_ttl)],
        };
        let calm = 2 * SECOND + dice.between(10 * SECOND, 80 * SECOND) * plan.ease;
        let mut world = World {
            net: Net::new(dice, server + clients + 2, tells),
            book: Book::default(),
            names: Names { at: 1, says: vec![1], delay: 2 * MS },
            replicas: BTreeMap::new(),
            clients: Vec::new(),
            db: Db::new(hello, shebang),
            conns: BTreeMap::new(),
            slow: 0,
            busy: 0,
            clients_max: 10_000,
            server_faulty: false,
            later: BTreeMap::new(),
            count: 0,
            idle: BTreeSet::new(),
            stall: BTreeMap::new(),
            plan,
            config,
            by_name,
            server,
            calm,
        };
        tell!(world.net, "{replicas} replicas with {settings:?}; Redis with HELLO: {hello}, with #!lua: {shebang}");
        world.net.sites[server].listening = true;
        world.seed_statics();
        (0..replicas).for_each(|host| world.start(host));
        for host in server + 1..=server + clients {
            world.clients.push(Client::new(host, &mut world.net, &world.plan));
            world.net.wake(host, 0);
        }
        world.after(2 * SECOND, World::fault);
        world
    }

    fn after(&mut self, delay: Time, what: impl FnOnce(&mut World) + 'static) {
        self.count += 1;
        self.later.insert((self.net.now + delay, self.count), Box::new(what));
    }

    /// Lets everything happen for so long.
    fn pass(&mut self, time: Time) {
        let end = self.net.now + time;
        while self.book.broken.is_none() {
            let timer = self.later.first_key_value().map_or(NEVER, |(key, _)| key.0);
            match self.net.next(end.min(timer)) {
                Some(Some(host)) => self.awake(host),
                Some(None) => {}
                None if end < timer => return,
                None => self.later.pop_first().into_iter().for_each(|(_, what)| what(self)),
            }
        }
    }

    fn awake(&mut self, host: Host) {
        let now = self.net.now;
        if host == self.server {
            return self.serve();
        }
        if let Some(replica) = self.replicas.get_mut(&host) {
            let stall = self.stall.remove(&host).unwrap_or(0);
            if stall > 0 {
                self.book.pauses.push((host, now, now + stall));
                tell!(self.net, "replica {host} stands still for {} ms at the end of a tick", stall / MS);
            }
            if replica.up {
                replica.tick(&mut self.net, &self.names, stall);
            }
            if replica.ticks > 5000 * (1 + (now - self.book.starts[&host]) / SECOND) {
                self.book.breaks(format!("a worker that waits rests: {} ticks", replica.ticks));
            }
        } else if let Some(client) = self.clients.get_mut(host - self.server - 1) {
            client.run(&mut self.net, &mut self.book, &self.plan);
        } else {
            self.net.ready(host);
        }
    }

    /// The server reads, executes and answers.
    fn serve(&mut self) {
        let now = self.net.now;
        if now < self.busy {
            return self.net.wake(self.server, self.busy);
        }
        self.busy = now + self.slow;
        self.db.now = (self.book.clock(now) / MS) as i64;
        while let Some(end) = self.net.accept(self.server) {
            if self.conns.len() < self.clients_max {
                self.conns.insert(end, Default::default());
            } else {
                let _ = self.net.send(end, b"-ERR max number of clients reached\r\n");
                self.net.close(end);
            }
        }
        for end in self.net.ready(self.server) {
            let Some((resp3, input, out)) = self.conns.get_mut(&end) else { continue };
            let mut bytes = [0; 16 * 1024];
            let mut alive = loop {
                match self.net.recv(end, &mut bytes) {
                    Ok(0) => break false,
                    Ok(n) => input.extend_from_slice(&bytes[..n]),
                    Err(e) => break e.kind() == std::io::ErrorKind::WouldBlock,
                }
            };
            while let Some((words, length)) = command(input) {
                let reply = self.db.execute(resp3, &words);
                if self.net.story.is_some() {
                    let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
                    let words = words.join(" ").replace('\n', " ");
                    tell!(self.net, "server, connection {end}: {words:.200} -> {:.100}", reply.shown());
                }
                reply.write(*resp3, out);
                alive &= !words.is_empty();
                input.drain(..length);
            }
            if let Ok(n) = self.net.send(end, out) {
                out.drain(..n);
            }
            if !alive {
                self.conns.remove(&end);
                self.net.close(end);
            }
        }
        self.book.moves = self.db.moves;
        for (key, value, ttl) in self.db.written.drain(..) {
            if !key.starts_with(b"idem:") {
                self.book.written(&value, ttl, now);
            }
        }
    }

    fn seed_statics(&mut self) {
        for n in 0..self.plan.statics {
            self.db.put(format!("item:static-{n}").as_bytes(), b"{\"by\":\"static\"}".to_vec(), None);
        }
        self.db.written.clear();
    }

    /// How long a fault lasts: no longer than the faults of this world do.
    fn lasting(&mut self, least: Time, most: Time) -> Time {
        self.net.dice.between(least, most).min(self.calm.saturating_sub(self.net.now))
    }

    fn outage(&mut self, lasting: Time, lost: Lost) {
        self.book.outages.push((self.net.now, self.net.now + lasting, lost));
    }

    /// One fault, and later the next.
    fn fault(&mut self) {
        if self.net.now >= self.calm {
            return;
        }
        self.book.counts[2] += 1;
        let (next, kind) = (self.net.dice.between(50 * MS, 8 * SECOND * self.plan.ease), self.net.dice.below(16));
        self.net.note(kind);
        match kind {
            0..=4 if self.server_faulty => {}
            0..=4 => self.server_fault(kind),
            5..=7 => self.net_fault(),
            8 => {
                let by = self.net.dice.between(MS, 1000 * SECOND);
                tell!(self.net, "the server's clock jumps by {} ms", by / MS);
                self.book.jumps.push((self.net.now, by));
            }
            9..=13 => self.replica_fault(kind),
            14 => self.client_fault(),
            _ => self.storm(),
        }
        self.after(next, World::fault);
    }

    fn server_fault(&mut self, kind: u64) {
        self.server_faulty = true;
        let lasting = self.lasting(5 * MS, 10 * SECOND);
        let (server, ms) = (self.server, lasting / MS);
        self.outage(lasting, if kind < 2 { Lost::All } else { Lost::Some });
        match kind {
            0 => {
                tell!(self.net, "the server is frozen for {ms} ms");
                self.net.sites[server].frozen = self.net.now + lasting;
            }
            1 => self.server_dies(lasting),
            2 => {
                self.slow = self.net.dice.between(MS, 3 * SECOND);
                tell!(self.net, "the server takes {} ms for each turn, for {ms} ms", self.slow / MS);
            }
            3 => {
                let modes = [Mode::Loading, Mode::Busy, Mode::Full, Mode::ReadOnly, Mode::NoDisk];
                self.db.mode = self.net.dice.pick(&modes);
                let reads = matches!(self.db.mode, Mode::Full | Mode::ReadOnly | Mode::NoDisk);
                self.book.outages.pop();
                self.outage(lasting, if reads { Lost::Writes } else { Lost::All });
                tell!(self.net, "the server is {:?} for {ms} ms", self.db.mode);
            }
            _ => {
                self.clients_max = self.net.dice.below(4) as usize;
                tell!(self.net, "the server takes {} clients, for {ms} ms", self.clients_max);
            }
        }
        self.after(lasting, |world| {
            (world.slow, world.busy, world.clients_max, world.server_faulty) = (0, 0, 10_000, false);
            world.db.mode = Mode::Serves;
            world.net.wake(world.server, world.net.now);
        });
    }

    /// The server is killed and comes back, with its data or without, here or at another address.
    fn server_dies(&mut self, lasting: Time) {
        let (loses, moves) = (self.net.dice.percent(40), self.by_name && self.net.dice.percent(50));
        tell!(
            self.net,
            "the server dies for {} ms; its data is lost: {loses}, its address changes: {moves}",
            lasting / MS
        );
        self.net.die(self.server);
        self.conns.clear();
        self.db.restart(loses);
        if loses {
            self.book.wipes.push(self.net.now);
            self.book.effects.clear();
            self.seed_statics();
        }
        if moves {
            self.names.at += 1;
            let late = self.lasting(MS, 3 * SECOND);
            self.outage(late, Lost::Some);
            self.after(late, |world| world.names.says = vec![world.names.at]);
        }
        self.db.mode = Mode::Loading;
        let loading = self.net.dice.below(lasting / 2);
        self.after(lasting - loading, |world| {
            tell!(world.net, "the server is there again");
            world.net.sites[world.server].listening = true;
        });
    }

    /// Connections to the server end, or it cannot be reached, or its name not be resolved, or all is slow.
    fn net_fault(&mut self) {
        let (lasting, now) = (self.lasting(5 * MS, 10 * SECOND), self.net.now);
        let ms = lasting / MS;
        match self.net.dice.below(5) {
            0 => {
                self.net.lag = 1 + self.net.dice.below(100);
                tell!(self.net, "delays are {} times as long for {ms} ms", self.net.lag);
                self.outage(lasting, Lost::Some);
                self.after(lasting, |world| world.net.lag = 1);
            }
            1 => {
                tell!(self.net, "the server cannot be reached for {ms} ms");
                self.outage(lasting, Lost::All);
                self.net.part(self.server, now + lasting);
            }
            2 => {
                let (some, late, at) = (2 * MS, 3 * SECOND, self.names.at);
                let faults =
                    [(vec![], some), (vec![], 10 * SECOND), (vec![99], some), (vec![99, at], some), (vec![at], late)];
                let (says, delay) = self.net.dice.pick(&faults);
                tell!(self.net, "the name resolves to {says:?} after {} ms, for {ms} ms", delay / MS);
                // Resolvers give up at last.
                self.outage(lasting + delay, Lost::Some);
                (self.names.says, self.names.delay) = (says, delay);
                self.after(lasting, |world| (world.names.says, world.names.delay) = (vec![world.names.at], 2 * MS));
            }
            silent => {
                let (all, until) = (self.net.dice.percent(50), self.net.dice.pick(&[NEVER, now + lasting]));
                tell!(self.net, "connections to the server end; all: {all}, silently: {}", silent == 3);
                // A link that is idle is asked every 15 seconds whether it is there.
                self.outage(if silent == 3 { 10 * SECOND } else { 0 }, Lost::Some);
                for end in self.net.ends_of(self.server) {
                    match silent {
                        _ if !all && self.net.dice.percent(50) => {}
                        3 => self.net.drop_until(end, until),
                        _ => self.net.cut(end),
                    }
                }
            }
        }
    }

    fn replica_fault(&mut self, kind: u64) {
        let (host, lasting) = (self.net.dice.below(self.plan.replicas) as Host, self.lasting(5 * MS, 10 * SECOND));
        let (now, Some(replica)) = (self.net.now, self.replicas.get_mut(&host)) else { return };
        match kind {
            _ if !replica.up || replica.lifecycle.state() > State::Ready || self.net.sites[host].frozen > now => {}
            9 => {
                tell!(self.net, "replica {host} is frozen for {} ms", lasting / MS);
                self.book.pauses.push((host, now, now + lasting));
                self.net.sites[host].frozen = now + lasting;
            }
            10 => drop(self.stall.insert(host, lasting)),
            11 => {
                replica.kill(&mut self.net, "is killed");
                self.after(lasting, move |world| world.start(host));
            }
            12 => self.drain(host, lasting),
            _ => replica.jump(self.net.dice.between(MS, 100_000 * SECOND)),
        }
    }

    fn start(&mut self, host: Host) {
        self.book.drains.remove(&host);
        self.idle.remove(&host);
        self.book.starts.insert(host, self.net.now);
        self.stall.remove(&host);
        self.net.sites[host].frozen = 0;
        let replica = Replica::start(host, self.server, &self.config, &mut self.net, &self.names);
        self.replicas.insert(host, replica);
    }

    fn replica(&mut self, host: Host) -> &mut Replica {
        self.replicas.get_mut(&host).expect("BUG: no such replica")
    }

    /// As `main` does on SIGTERM; a new process takes its place.
    fn drain(&mut self, host: Host, down: Time) {
        tell!(self.net, "replica {host} drains");
        self.replica(host).lifecycle.advance(State::Draining);
        self.book.drains.insert(host, self.net.now);
        let [delay, timeout] = [self.config.drain_delay, self.config.drain_timeout].map(|t| t.as_nanos() as Time);
        let stop = move |world: &mut World| {
            let World { net, replicas, .. } = world;
            replicas.get_mut(&host).into_iter().for_each(|replica| replica.stop(net));
        };
        self.after(delay, stop);
        self.after((delay + timeout).saturating_sub(3 * SECOND), move |world| {
            if world.replica(host).left().0.exchanges == 0 {
                world.idle.insert(host);
            }
        });
        self.after(delay + timeout, move |world| {
            if world.replica(host).up {
                world.check_cut(host, timeout);
                let World { net, replicas, .. } = world;
                replicas.get_mut(&host).into_iter().for_each(|replica| replica.kill(net, "is cut short"));
            }
            world.after(down.min(SECOND), move |world| world.start(host));
        });
    }

    /// A drain that is cut short has answered what could be answered.
    fn check_cut(&mut self, host: Host, timeout: Time) {
        let (now, patient) = (self.net.now, self.plan.request_timeout + SECOND);
        let still = self.replica(host).left().0.exchanges == 0 && self.book.paused(host, now - timeout, now) == 0;
        // A connection that the server has ended lingers for two seconds.
        let idle = self.idle.remove(&host) && still;
        self.expect(|_| !idle || timeout < 5 * SECOND, "a drain ends when every request is answered");
        for came in self.clients.iter().filter_map(|client| client.whole(host, &self.net)) {
            if now - came > patient + self.book.paused(host, came, now) {
                let ago = (now - came) / MS;
                self.book.breaks(format!("a drain cuts only what it says; a request came {ago} ms ago"));
            }
        }
    }

    /// Something happens to the connection of a client.
    fn client_fault(&mut self) {
        let clients = self.server + 1..self.server + 1 + self.clients.len();
        let ends: Vec<EndId> = clients.flat_map(|host| self.net.ends_of(host)).collect();
        if ends.is_empty() {
            return;
        }
        let (end, until) = (self.net.dice.pick(&ends), self.net.now + self.net.dice.between(MS, 20 * SECOND));
        tell!(self.net, "connection {end} of a client suffers");
        self.net.taint(end);
        match self.net.dice.below(4) {
            0 => self.net.cut(end),
            1 => self.net.drop_until(end, NEVER),
            2 => self.net.drop_until(end, until),
            _ => self.net.ends[end].room = 100,
        }
    }

    /// Many clients come at once: silent ones, noisy ones, good ones.
    fn storm(&mut self) {
        let (host, n) = (self.net.dice.below(self.plan.replicas) as Host, self.net.dice.between(10, 300));
        let says: &[&[u8]] =
            &[b"", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01 what", b"GET /items/k0 HT"];
        let says = self.net.dice.pick(says);
        tell!(self.net, "{n} clients come to replica {host} and say {:?}", says.escape_ascii().to_string());
        let crowd = self.server + self.clients.len() + 1;
        let ends: Vec<EndId> = (0..n).map(|_| self.net.connect(crowd, Some(host))).collect();
        let (speak, leave) = (self.net.dice.between(MS, SECOND), self.net.dice.between(MS, 5 * SECOND));
        self.after(speak, move |world| {
            ends.iter().for_each(|end| drop(world.net.send(*end, says)));
            world.after(leave, move |world| ends.into_iter().for_each(|end| world.net.close(end)));
        });
    }

    /// From the beginning to the end.
    fn live(&mut self) {
        self.pass(self.calm + 25 * SECOND * self.plan.ease);
        self.clients.iter_mut().for_each(|client| client.resting = true);
        self.pass(90 * SECOND);
        self.expect(|world| world.clients.iter().all(Client::is_idle), "after all faults every request ends");
        for client in &mut self.clients {
            client.leave(&mut self.net, &mut self.book);
        }
        self.pass(10 * SECOND);
        for host in 0..self.replicas.len() {
            let (left, waiting) = self.replica(host).left();
            let all = [left.clients, left.exchanges, left.bytes, left.turns, waiting];
            self.expect(
                |_| all == [0; 5],
                &format!("at the end nothing is left; {left:?} and {waiting} in the store's"),
            );
            self.expect(|world| !world.replica(host).panics(), "no rule panics");
            self.expect(|world| world.replica(host).connections() == 0, "a connection that is gone is not counted");
            self.drain(host, NEVER);
        }
        self.pass(self.config.drain_delay.as_nanos() as Time + SECOND / 2);
        self.expect(|world| !world.replicas.values().any(|replica| replica.up), "a drain without clients ends at once");
        for host in 0..self.server {
            // Even ends are those that connected.
            let ends = self.net.ends.iter().step_by(2).filter(|end| end.host == host);
            let connects: Vec<Time> = ends.map(|end| end.since).collect();
            let storms = connects.windows(100).any(|many| many[99] - many[0] < SECOND);
            self.expect(|_| !storms, "a server that is away is not stormed");
        }
        if self.book.broken.is_none() {
            self.book.judge(self.plan.keys);
        }
    }

    fn expect(&mut self, holds: impl FnOnce(&mut World) -> bool, promise: &str) {
        if self.book.broken.is_none() && !holds(self) {
            self.book.breaks(promise.to_owned());
        }
    }
}
