//! A world: replicas, servers and clients, what goes wrong in it, and its end.
//!
//! ```text
//! 0 s   2 s                            calm             rest          leave            drain
//! ├──────┼── one fault after the other ──┼── 25 s, all is well ──┼── answers ──┼── tables are empty ──┼── exit
//! ```

use crate::book::{Book, Lost, Outage};
use crate::client::{Client, Plan};
use crate::cluster::{Map, Node, Style, unnoticed};
use crate::net::{Dice, EndId, Host, MS, NEVER, Net, SECOND, Time};
use crate::owed::{IDLE_FINDS_NODES, OWN_NAME_IS_ONE, STRANGERS_COME};
use crate::redis::{Db, Mode};
use crate::replica::{Names, Replica, address};
use crate::sentinel::{MASTER, Seen};
use crate::servers::{Server, Shape, Truth};
use crate::tell;
use kioskd::config::{Config, StoreChoice, System};
use kioskd::lifecycle::State;
use kioskd::resp::options::Target;
use kioskd::resp::slot::{SLOTS, slot};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// All keys, and all that is not about one.
pub(crate) const ALL: u32 = u32::MAX;

/// What happens to a world at a certain time.
type Later = Box<dyn FnOnce(&mut World)>;

/// See the module's text.
pub struct World {
    /// Its network, with the time, the digest and the story.
    pub net: Net,
    /// What happened, and whether a promise was broken.
    pub book: Book,
    pub(crate) plan: Plan,
    config: Config,
    names: Names,
    pub(crate) by_name: bool,
    /// The first server's host.
    base: Host,
    replicas: BTreeMap<Host, Replica>,
    clients: Vec<Client>,
    pub(crate) servers: Vec<Server>,
    pub(crate) truth: Truth,
    /// How many addresses there were.
    addresses: u8,
    later: BTreeMap<(Time, u64), Later>,
    count: u64,
    pub(crate) calm: Time,
    /// Draining replicas that had no request under way three seconds before their end.
    idle: BTreeSet<Host>,
    /// How long a replica's next tick stands still.
    stall: BTreeMap<Host, Time>,
}

/// Settings as an operator writes them: often smaller than the defaults, so that limits and deadlines are met.
fn settings(dice: &mut Dice) -> Vec<(&'static str, String)> {
    let mut time = |most: Time| format!("{}ms", dice.between(most / 10, most) / MS);
    vec![
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
    ]
}

/// The servers of a world, and how an operator writes where they are.
fn servers(
    dice: &mut Dice,
    base: Host,
    by_name: bool,
    db: impl Fn() -> Db,
) -> (Vec<Server>, Truth, (&'static str, String)) {
    let shape = dice.pick(&[Shape::Single, Shape::Single, Shape::Sentinel, Shape::Cluster]);
    let (masters, sentinels) = match shape {
        Shape::Single => (1, 0),
        Shape::Sentinel => (1, dice.pick(&[3, 3, 3, 3, 1, 5])),
        Shape::Cluster => (3 + dice.below(3) as usize, 0),
    };
    let mut follows = vec![None; masters];
    for master in 0..masters {
        let replicas = match shape {
            Shape::Single => 0,
            Shape::Sentinel => 1 + dice.below(3),
            Shape::Cluster => dice.below(3),
        };
        follows.extend((0..replicas).map(|_| Some(master)));
    }
    let ours = follows.len();
    // Whose seeds are addresses, and who has just started, cannot know to which cluster they lead.
    let foreigner = (shape == Shape::Cluster && STRANGERS_COME && dice.percent(50) && by_name).then_some(ours);
    follows.extend(foreigner.map(Some));
    let data = follows.len();
    let mut servers: Vec<Server> = (0..data + sentinels)
        .map(|at| {
            let name = match shape {
                Shape::Single => "redis.example".to_owned(),
                _ if at < data => format!("redis-{at}.example"),
                _ => format!("sentinel-{}.example", at - data),
            };
            let title = match shape {
                Shape::Single => "the server".to_owned(),
                _ if at < data => format!("server {at}"),
                _ => format!("sentinel {at}"),
            };
            Server::new(base + at, title, name, address(at as u8 + 1, at >= data), db())
        })
        .collect();
    let at = servers.iter().map(|server| (server.name.clone(), server.at)).collect();
    let owners = (0..usize::from(SLOTS)).map(|slot| slot * masters / usize::from(SLOTS)).collect();
    let map = Map { owners, follows: follows.clone(), at, down: false };
    let truth = Truth {
        shape,
        master: 0,
        epoch: 1,
        map: map.into(),
        moving: None,
        changing: false,
        foreigner,
        had: Vec::new(),
        strict: dice.percent(15),
        lag: dice.pick(&[MS, 20 * MS, SECOND]),
        told: Vec::new(),
        shifts: 0,
    };
    let names = if by_name { Style::Name } else { Style::Address };
    let [one, other] = [false, true].map(|null| if by_name && !OWN_NAME_IS_ONE { names } else { Style::Own(null) });
    let style = dice.pick(&[Style::Address, names, one, other, Style::Unknown]);
    for (me, server) in servers.iter_mut().enumerate() {
        server.seen = (me >= data).then_some(Seen { master: 0, epoch: 1, leads: None });
        server.follows = follows.get(me).copied().flatten();
        server.db.replica = server.follows.is_some();
        if shape == Shape::Cluster {
            let mut map = Rc::clone(&truth.map);
            if foreigner == Some(me) {
                (server.follows, server.db.replica) = (None, false);
                Rc::make_mut(&mut map).owners.fill(me);
            }
            server.db.node = Some(Node { me, style, map, moving: None, asking: false });
        }
    }
    let place =
        |server: &Server| if by_name { format!("{}:{}", server.name, server.at.port()) } else { server.at.to_string() };
    let all = |servers: &[Server]| servers.iter().map(place).collect::<Vec<_>>().join(",");
    let setting = match shape {
        Shape::Single => ("REDIS_ADDR", all(&servers)),
        Shape::Sentinel => ("REDIS_URL", format!("redis+sentinel://{}/{MASTER}", all(&servers[data..]))),
        Shape::Cluster => {
            ("REDIS_URL", format!("redis+cluster://{}", all(&servers[..2 + dice.below(ours as u64 - 1) as usize])))
        }
    };
    (servers, truth, setting)
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
        let (by_name, base) = (dice.percent(50), replicas);
        let mut settings = settings(&mut dice);
        // Dice of their own: a world with one server is what it was before there were others.
        let mut shapes = Dice(seed.wrapping_mul(0x8ebc_6af0_9c88_c6e3));
        let (servers, truth, setting) = servers(&mut shapes, base, by_name, || Db::new(hello, shebang));
        settings.push(setting);
        let system = System { processors: 1, files_max: None, files_open: 0, memory_max: None };
        let config = Config::read(settings.clone().into_iter().map(|(k, v)| (k.to_owned(), v)), &system);
        let config = config.unwrap_or_else(|errors| panic!("BUG: {errors:?}"));
        let shape = truth.shape;
        let nanos = |t: std::time::Duration| t.as_nanos() as Time;
        let items = 1 + dice.below(4) as usize;
        let plan = Plan {
            replicas: replicas as u64,
            cluster: shape == Shape::Cluster,
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
            net: Net::new(dice, base + servers.len() + clients + 1, tells),
            book: Book::default(),
            names: Names {
                at: servers.iter().map(|server| (server.at, server.host)).collect(),
                says: servers.iter().map(|server| (server.name.clone(), vec![server.at])).collect(),
                delay: 2 * MS,
            },
            addresses: servers.len() as u8,
            replicas: BTreeMap::new(),
            clients: Vec::new(),
            servers,
            truth,
            later: BTreeMap::new(),
            count: 0,
            idle: BTreeSet::new(),
            stall: BTreeMap::new(),
            plan,
            config,
            by_name,
            base,
            calm,
        };
        tell!(world.net, "{replicas} replicas with {settings:?}; Redis with HELLO: {hello}, with #!lua: {shebang}");
        for at in 0..world.servers.len() {
            world.net.sites[base + at].listening = true;
            world.seed_statics(at);
        }
        (0..replicas).for_each(|host| world.start(host));
        let first = base + world.servers.len();
        for host in first..first + clients {
            world.clients.push(Client::new(host, &mut world.net, &world.plan));
            world.net.wake(host, 0);
        }
        world.after(2 * SECOND, World::fault);
        world
    }

    pub(crate) fn after(&mut self, delay: Time, what: impl FnOnce(&mut World) + 'static) {
        self.count += 1;
        self.later.insert((self.net.now + delay, self.count), Box::new(what));
    }

    /// How its servers belong together.
    pub fn shape(&self) -> &'static str {
        match self.truth.shape {
            Shape::Single => "single",
            Shape::Sentinel => "sentinel",
            Shape::Cluster => "cluster",
        }
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
        let first = self.base + self.servers.len();
        if (self.base..first).contains(&host) {
            return self.serve(host - self.base);
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
        } else if let Some(client) = self.clients.get_mut(host - first) {
            client.run(&mut self.net, &mut self.book, &self.plan);
            self.check_acks();
        } else {
            self.net.ready(host);
        }
    }

    /// The items that are there throughout, on the server that has them and on those that follow it.
    pub(crate) fn seed_statics(&mut self, at: usize) {
        for n in 0..self.plan.statics {
            let name = format!("item:static-{n}").into_bytes();
            let home = self.home_of(&name);
            let server = &mut self.servers[at];
            if home == at || server.follows == Some(home) {
                server.db.put(&name, b"{\"by\":\"static\"}".to_vec(), None);
            }
        }
        self.servers[at].db.written.clear();
        self.servers[at].db.changes.clear();
    }

    /// How long a fault lasts: no longer than the faults of this world do.
    pub(crate) fn lasting(&mut self, least: Time, most: Time) -> Time {
        self.net.dice.between(least, most).min(self.calm.saturating_sub(self.net.now))
    }

    fn outage(&mut self, lasting: Time, lost: Lost) {
        self.outage_of(lasting, lost, ALL);
    }

    /// As [`outage`](World::outage), of a server; that of a sentinel is one only for who starts meanwhile.
    fn outage_at(&mut self, at: usize, lasting: Time, lost: Lost) -> usize {
        let server = &mut self.servers[at];
        server.troubled = server.troubled.max(self.net.now + lasting);
        let (harm, lost) = match self.servers[at].seen {
            Some(_) => (if self.may_miss(at) { ALL } else { 0 }, Lost::Some),
            None => (self.harm_of(at), lost),
        };
        self.outage_of(lasting, lost, harm)
    }

    /// As [`outage`](World::outage), of these keys; gives its number.
    pub(crate) fn outage_of(&mut self, lasting: Time, lost: Lost, keys: u32) -> usize {
        self.book.outages.push(Outage { from: self.net.now, to: self.net.now + lasting, lost, keys });
        self.book.outages.len() - 1
    }

    /// The keys of a server, as in [`Outage`].
    pub(crate) fn keys_of(&self, at: usize) -> u32 {
        if self.servers[at].seen.is_some() || !self.rules(at) {
            return 0;
        }
        if !self.is_cluster() {
            return ALL;
        }
        let has = |key: &usize| {
            let slot = slot(&self.name_of(*key));
            let moves =
                self.truth.moving.as_ref().is_some_and(|m| m.slots.contains(&slot) && (m.from == at || m.to == at));
            moves || self.truth.map.owners[usize::from(slot)] == at
        };
        (0..self.plan.keys).filter(has).fold(1 << 31, |keys, key| keys | 1 << key)
    }

    /// The keys that suffer with a server: whose map is old still asks it for what it had.
    pub(crate) fn harm_of(&self, at: usize) -> u32 {
        // Where no MOVED tells the new place, it takes a map, and that may be asked of this one.
        if self.servers[at].db.node.as_ref().is_some_and(|node| node.style == Style::Unknown) {
            return ALL ^ 1 << 30;
        }
        let had = self.truth.had.iter().filter(|had| had.1 == at && had.0 + 80 * SECOND > self.net.now);
        had.fold(self.keys_of(at), |keys, had| keys | had.2)
    }

    /// A server of all; rather a master.
    fn victim(&mut self) -> usize {
        let all = self.servers.len();
        if all == 1 {
            return 0;
        }
        let masters: Vec<usize> = (0..all).filter(|at| self.servers[*at].seen.is_none() && self.rules(*at)).collect();
        if self.net.dice.percent(60) { self.net.dice.pick(&masters) } else { self.net.dice.below(all as u64) as usize }
    }

    /// A server is killed, frozen or cut off, the first of these.
    pub(crate) fn strike(&mut self, at: usize, lasting: Time, kinds: u64) {
        let (kind, until) = (self.net.dice.below(kinds), self.net.now + lasting);
        let how = ["is killed", "is frozen", "cannot be reached"][kind as usize];
        tell!(self.net, "server {at} {how} for {} ms", lasting / MS);
        let host = self.servers[at].host;
        self.orphan(at);
        match kind {
            0 => {
                self.net.die(host);
                self.servers[at].conns.clear();
                self.servers[at].db.restart(false);
            }
            1 => self.net.sites[host].frozen = until,
            _ => self.net.part(host, until),
        }
    }

    /// A server that was struck is there again.
    pub(crate) fn revive(&mut self, at: usize) {
        let host = self.servers[at].host;
        self.net.sites[host].listening = true;
        self.net.wake(host, self.net.now);
        for other in 0..self.servers.len() {
            if self.servers[other].follows == Some(at) && self.rules(at) {
                self.servers[other].cut = 0;
                self.cut(other, self.net.now);
            }
        }
    }

    /// Nothing that a server writes arrives at its replicas any more.
    pub(crate) fn orphan(&mut self, at: usize) {
        for other in 0..self.servers.len() {
            if self.servers[other].follows == Some(at) {
                self.cut(other, NEVER);
            }
        }
    }

    /// The replica that has most of what its master has, of those that are there.
    pub(crate) fn heir_of(&self, master: usize) -> Option<usize> {
        let heirs = (0..self.servers.len()).filter(|at| self.servers[*at].follows == Some(master) && self.is_well(*at));
        heirs.min_by_key(|at| self.servers[*at].lags())
    }

    /// The link from a master to a replica is cut for a while.
    pub(crate) fn link_fault(&mut self) {
        let replicas = (0..self.servers.len()).filter(|at| self.servers[*at].follows.is_some());
        let (replicas, lasting) = (replicas.collect::<Vec<_>>(), self.lasting(5 * MS, 10 * SECOND));
        if !replicas.is_empty() && !self.truth.changing {
            let at = self.net.dice.pick(&replicas);
            tell!(self.net, "server {at} hears nothing of its master for {} ms", lasting / MS);
            self.cut(at, self.net.now + lasting);
        }
    }

    /// A server has another address from now on; its name says so later.
    pub(crate) fn moves(&mut self, at: usize) {
        self.addresses += 1;
        self.names.at.remove(&self.servers[at].at);
        // Somebody else has the old one; but who has just started, and has no map yet, would take that cluster for ours.
        let all_know = self.book.starts.values().all(|start| *start + 2 * SECOND < self.net.now);
        if let Some(foreigner) = self.truth.foreigner.filter(|_| self.net.dice.percent(70) && all_know) {
            tell!(self.net, "{} is where server {at} was, and of another cluster", self.servers[foreigner].title);
            self.names.at.insert(self.servers[at].at, self.servers[foreigner].host);
        }
        self.settles(at, address(self.addresses, self.servers[at].seen.is_some()));
    }

    /// A server is at this address now, whoever was there before.
    pub(crate) fn settles(&mut self, at: usize, new: SocketAddr) {
        let server = &mut self.servers[at];
        server.at = new;
        self.names.at.insert(new, server.host);
    }

    /// The resolver says where a server is.
    pub(crate) fn says(&mut self, at: usize) {
        let server = &self.servers[at];
        self.names.says.insert(server.name.clone(), vec![server.at]);
    }

    /// One fault, and later the next.
    fn fault(&mut self) {
        if self.net.now >= self.calm {
            return;
        }
        self.book.counts[2] += 1;
        let (next, kind) = (self.net.dice.between(50 * MS, 8 * SECOND * self.plan.ease), self.net.dice.below(16));
        self.net.note(kind);
        match (self.truth.shape, kind) {
            (Shape::Sentinel, _) if self.net.dice.percent(30) => self.sentinel_fault(),
            (Shape::Cluster, _) if self.net.dice.percent(30) => self.cluster_fault(),
            _ => self.usual_fault(kind),
        }
        self.after(next, World::fault);
    }

    /// A fault that is about one server, or none.
    fn usual_fault(&mut self, kind: u64) {
        let at = if kind < 8 { self.victim() } else { 0 };
        match kind {
            0..=4 if self.servers[at].faulty => {}
            0..=4 => self.server_fault(kind, at),
            5..=7 => self.net_fault(at),
            8 => {
                let by = self.net.dice.between(MS, 1000 * SECOND);
                tell!(self.net, "the server's clock jumps by {} ms", by / MS);
                self.book.jumps.push((self.net.now, by));
            }
            9..=13 => self.replica_fault(kind),
            14 => self.client_fault(),
            _ => self.storm(),
        }
    }

    fn server_fault(&mut self, kind: u64, at: usize) {
        self.servers[at].faulty = true;
        let lasting = self.lasting(5 * MS, 10 * SECOND);
        let (server, ms, now) = (self.servers[at].host, lasting / MS, self.net.now);
        let outage = self.outage_at(at, lasting, if kind < 2 { Lost::All } else { Lost::Some });
        match kind {
            0 => {
                tell!(self.net, "{} is frozen for {ms} ms", self.servers[at].title);
                self.net.sites[server].frozen = now + lasting;
            }
            1 => self.server_dies(lasting, at),
            2 => {
                self.servers[at].slow = self.net.dice.between(MS, 3 * SECOND);
                tell!(
                    self.net,
                    "{} takes {} ms for each turn, for {ms} ms",
                    self.servers[at].title,
                    self.servers[at].slow / MS
                );
            }
            3 => {
                let modes = [Mode::Loading, Mode::Busy, Mode::Full, Mode::ReadOnly, Mode::NoDisk];
                let mode = self.net.dice.pick(&modes);
                self.servers[at].db.mode = mode;
                // Who asks for a master is not content with a server that is none.
                let single = self.truth.shape == Shape::Single;
                let reads = matches!(mode, Mode::Full | Mode::NoDisk) || mode == Mode::ReadOnly && single;
                if self.servers[at].seen.is_none() {
                    self.book.outages[outage].lost = if reads { Lost::Writes } else { Lost::All };
                }
                tell!(self.net, "{} is {mode:?} for {ms} ms", self.servers[at].title);
            }
            _ => {
                self.servers[at].clients_max = self.net.dice.below(4) as usize;
                tell!(
                    self.net,
                    "{} takes {} clients, for {ms} ms",
                    self.servers[at].title,
                    self.servers[at].clients_max
                );
            }
        }
        self.after(lasting, move |world| {
            let server = &mut world.servers[at];
            (server.slow, server.busy, server.clients_max, server.faulty) = (0, 0, 10_000, false);
            server.db.mode = Mode::Serves;
            world.net.wake(server.host, world.net.now);
        });
    }

    /// The server is killed and comes back, with its data or without, here or at another address.
    fn server_dies(&mut self, lasting: Time, at: usize) {
        let loses = self.net.dice.percent(40);
        // Sentinels know addresses.
        let may_move = self.by_name
            && match self.truth.shape {
                Shape::Single => true,
                Shape::Sentinel => self.servers[at].seen.is_some(),
                Shape::Cluster => IDLE_FINDS_NODES || self.plan.ease == 1,
            };
        let moves = may_move && self.net.dice.percent(50);
        tell!(
            self.net,
            "{} dies for {} ms; its data is lost: {loses}, its address changes: {moves}",
            self.servers[at].title,
            lasting / MS
        );
        self.net.die(self.servers[at].host);
        self.servers[at].conns.clear();
        if self.servers[at].follows.is_some() {
            self.servers[at].db.restart(false);
        } else {
            // A slot that is moved has its keys on two servers: half of them would be lost.
            let loses = loses && self.truth.moving.as_ref().is_none_or(|moving| moving.from != at && moving.to != at);
            self.servers[at].db.restart(loses);
            if loses && self.servers[at].seen.is_none() {
                self.wipe(at);
            }
        }
        if moves {
            self.moves(at);
            if self.is_cluster() {
                self.node_moves(at);
            }
            let late = self.lasting(MS, 3 * SECOND);
            let late_too = if self.is_cluster() { unnoticed() } else { 0 };
            self.outage_at(at, late + late_too, Lost::Some);
            self.after(late, move |world| world.says(at));
        }
        self.servers[at].db.mode = Mode::Loading;
        let loading = self.net.dice.below(lasting / 2);
        self.after(lasting - loading, move |world| {
            tell!(world.net, "{} is there again", world.servers[at].title);
            let host = world.servers[at].host;
            world.net.sites[host].listening = true;
        });
    }

    /// A master's data is lost, and so that of its replicas.
    fn wipe(&mut self, at: usize) {
        self.book.wipes.push(self.net.now);
        let (lost, kept) =
            std::mem::take(&mut self.book.by_key).into_iter().partition(|(name, _)| self.home_of(name) == at);
        self.book.by_key = kept;
        let lost: BTreeMap<Vec<u8>, Vec<String>> = lost;
        lost.values().flatten().for_each(|writer| {
            self.book.effects.remove(writer);
        });
        let keys = self.keys_of(at);
        self.seed_statics(at);
        for other in 0..self.servers.len() {
            if self.servers[other].follows == Some(at) {
                self.follow(other, at);
            }
        }
        self.end_reign(keys);
    }

    /// Connections to a server end, or it cannot be reached, or its name not be resolved, or all is slow.
    fn net_fault(&mut self, at: usize) {
        let (lasting, now, server) = (self.lasting(5 * MS, 10 * SECOND), self.net.now, self.servers[at].host);
        let ms = lasting / MS;
        match self.net.dice.below(5) {
            0 => {
                self.net.lag = 1 + self.net.dice.below(100);
                tell!(self.net, "delays are {} times as long for {ms} ms", self.net.lag);
                self.outage(lasting, Lost::Some);
                self.after(lasting, |world| world.net.lag = 1);
            }
            1 => {
                tell!(self.net, "{} cannot be reached for {ms} ms", self.servers[at].title);
                self.outage_at(at, lasting, Lost::All);
                self.net.part(server, now + lasting);
            }
            2 => {
                let (some, late, here, nobody) = (2 * MS, 3 * SECOND, self.servers[at].at, address(250, false));
                let faults = [
                    (vec![], some),
                    (vec![], 10 * SECOND),
                    (vec![nobody], some),
                    (vec![nobody, here], some),
                    (vec![here], late),
                ];
                let (says, delay) = self.net.dice.pick(&faults);
                let name = self.servers[at].name.clone();
                tell!(self.net, "{name} resolves to {says:?} after {} ms, for {ms} ms", delay / MS);
                // Resolvers give up at last.
                self.outage(lasting + delay, Lost::Some);
                self.names.says.insert(name, says);
                self.names.delay = delay;
                self.after(lasting, move |world| {
                    world.says(at);
                    world.names.delay = 2 * MS;
                });
            }
            silent => {
                let (all, until) = (self.net.dice.percent(50), self.net.dice.pick(&[NEVER, now + lasting]));
                tell!(self.net, "connections to {} end; all: {all}, silently: {}", self.servers[at].title, silent == 3);
                // A connection that is idle is asked every 5 seconds whether its server is there.
                self.outage_at(at, if silent == 3 { 10 * SECOND } else { 0 }, Lost::Some);
                for end in self.net.ends_of(server) {
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
        if self.truth.foreigner.is_some() {
            // Names are all that it knows of the cluster.
            (0..self.servers.len()).for_each(|at| self.says(at));
        }
        self.book.drains.remove(&host);
        self.idle.remove(&host);
        self.forget(host);
        self.book.starts.insert(host, self.net.now);
        // Who can reach none of the servers that it was told of knows of no other.
        if let StoreChoice::Redis(Target::Cluster { seeds }, _) = &self.config.store {
            let soonest = self.servers[..seeds.len()].iter().map(|server| server.troubled).min().unwrap_or(0);
            if soonest > self.net.now {
                self.outage(soonest - self.net.now, Lost::Some);
            }
        }
        self.stall.remove(&host);
        self.net.sites[host].frozen = 0;
        let replica = Replica::start(host, &self.config, &mut self.net, &self.names);
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
        let first = self.base + self.servers.len();
        let ends: Vec<EndId> = (first..first + self.clients.len()).flat_map(|host| self.net.ends_of(host)).collect();
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
        let crowd = self.base + self.servers.len() + self.clients.len();
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
            // Sentinels are asked every second who is the master.
            for _ in 0..20 {
                if self.replica(host).left().1 > 0 && self.truth.shape != Shape::Single {
                    self.pass(100 * MS);
                }
            }
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
        for host in 0..self.base {
            // Even ends are those that connected.
            let ends = self.net.ends.iter().step_by(2).filter(|end| end.host == host);
            let connects: Vec<Time> = ends.map(|end| end.since).collect();
            // Twenty in its first second for each, by its address and by its name.
            let most = 100.max(40 * self.servers.len());
            let storms = connects.windows(most).any(|many| many[most - 1] - many[0] < SECOND);
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
