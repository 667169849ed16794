//! A replica: the worker that ships, in a world made of values.
//!
//! What `main` and the acceptor do around a worker is done here: its life from start to drain, and clients beyond
//! `MAX_CONNECTIONS`. All else is the code of the crate: `front::poll`, `service`, `store::redis`, `resp`.

use crate::net::{EndId, Host, Net, Time};
use crate::tell;
use kioskd::config::{Config, StoreChoice};
use kioskd::front::poll::worker::{Left, Worker};
use kioskd::lifecycle::{Lifecycle, State};
use kioskd::net::{Accepted, Address, Errand, Found, Ready, Socket, World};
use kioskd::service::Service;
use kioskd::service::metrics::{Metrics, Status};
use kioskd::store::redis::{Redis, RedisSession};
use kioskd::store::{Command, Replies, Session, Store, StoreError, Tag};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// An `Instant` for a virtual time. Only differences between them mean anything.
fn instant(at: Time) -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now) + Duration::from_nanos(at)
}

/// Where the servers are, and what their names resolve to, after this time.
#[derive(Debug)]
pub struct Names {
    /// Who is at which address.
    pub at: BTreeMap<SocketAddr, Host>,
    /// What the resolver says.
    pub says: BTreeMap<String, Vec<SocketAddr>>,
    /// After what time.
    pub delay: Time,
}

/// The address of this number; sentinels have their own.
pub fn address(number: u8, sentinel: bool) -> SocketAddr {
    if sentinel {
        (Ipv4Addr::new(10, 0, 2, number), 26379).into()
    } else {
        (Ipv4Addr::new(10, 0, 0, number), 6379).into()
    }
}

/// A process with one worker.
pub struct Replica {
    worker: Worker,
    /// The state of the process.
    pub lifecycle: Arc<Lifecycle>,
    waiting: Arc<AtomicUsize>,
    seat: Seat,
    /// The process is there.
    pub up: bool,
    /// Ticks so far.
    pub ticks: u64,
}

/// What the world of one worker remembers.
struct Seat {
    host: Host,
    connections_max: usize,
    metrics: Arc<Metrics>,
    /// When each ends, and for which name it is.
    errands: Vec<(Time, Option<String>)>,
    /// `World::now` is so much later than the tick's beginning.
    stall: Time,
    unix_jump: Time,
}

/// The world of one worker, during one tick.
struct View<'a> {
    net: &'a mut Net,
    names: &'a Names,
    seat: &'a mut Seat,
}

/// The store, which lets us see into the tables of its session.
struct Watched(Redis, Arc<AtomicUsize>);

struct WatchedSession(RedisSession, Arc<AtomicUsize>);

impl Store for Watched {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session> {
        Box::new(WatchedSession(self.0.open(world, now), Arc::clone(&self.1)))
    }
}

impl Session for WatchedSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) {
        self.0.submit(now, tag, command);
    }

    fn ready(&mut self, ready: Ready) {
        self.0.ready(ready);
    }

    fn look(&mut self) {
        self.0.look();
    }

    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies {
        let replies = self.0.progress(world, now);
        self.1.store(self.0.waiting(), Ordering::Relaxed);
        replies
    }

    fn give_back(&mut self, replies: Replies) {
        self.0.give_back(replies);
    }

    fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError {
        self.0.abandon(now, tag)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }
}

impl Replica {
    /// Starts the process.
    pub fn start(host: Host, config: &Config, net: &mut Net, names: &Names) -> Replica {
        tell!(net, "replica {host} starts");
        let (lifecycle, _) = Lifecycle::new();
        lifecycle.advance(State::Ready);
        let metrics = Arc::new(Metrics::new(1, Duration::ZERO, instant(net.now)));
        let state = Arc::clone(&lifecycle);
        let status = move |_| Status { ready: state.state() == State::Ready, ..Status::default() };
        let service = Arc::new(Service::new(config.service.clone(), Arc::clone(&metrics), status));
        let StoreChoice::Redis(target, link) = &config.store else { panic!("BUG: a store that is not simulated") };
        let waiting = Arc::<AtomicUsize>::default();
        let store = Arc::new(Watched(Redis::new(target.clone(), (**link).clone()), Arc::clone(&waiting)));
        let options = Arc::new(config.front.clone());
        let (errands, connections_max) = (Vec::new(), options.connections_max);
        let mut seat = Seat { host, connections_max, metrics, errands, stall: 0, unix_jump: 0 };
        let mut view = View { net, names, seat: &mut seat };
        let worker = Worker::new(0, options, service, store, Arc::clone(&lifecycle), &mut view);
        net.sites[host].listening = true;
        net.wake(host, net.now);
        Replica { worker, lifecycle, waiting, seat, up: true, ticks: 0 }
    }

    /// One tick, as `Worker::run` makes them; the process stands still at its end for the time `stall`.
    pub fn tick(&mut self, net: &mut Net, names: &Names, stall: Time) {
        self.ticks += 1;
        self.seat.stall = stall;
        let (host, now) = (self.seat.host, instant(net.now));
        let ids = net.ready(host);
        let event = |id: EndId| {
            let (end, socket) = (&net.ends[id], Socket(id as u64));
            let (writable, ended) = (net.is_writable(id) || end.reset, end.ended || end.reset);
            let (readable, broken) = (!end.inbox.is_empty() || ended, end.reset || end.ended && end.fin.is_some());
            Ready { owner: end.owner, socket, readable, writable, ended, broken }
        };
        let mut ready: Vec<Ready> = ids.into_iter().map(event).collect();
        LINES.set(net.story.is_some().then(Vec::new));
        self.seat.metrics.begin(0, now);
        let flow = self.worker.tick(&mut View { net, names, seat: &mut self.seat }, now, &mut ready);
        self.seat.metrics.wait(0);
        LINES.take().into_iter().flatten().for_each(|line| tell!(net, "replica {host} logs: {line}"));
        if flow.is_break() {
            return self.kill(net, "has ended");
        }
        net.sites[host].frozen = net.sites[host].frozen.max(net.now + stall);
        if let Some(until) = self.worker.until(instant(net.now + stall)) {
            // A tick takes its time.
            let until = until.saturating_duration_since(instant(0)).as_nanos() as Time;
            net.wake(host, until.max(net.now + 5000 + stall));
        }
        if let Some(at) = self.seat.errands.iter().map(|errand| errand.0).filter(|at| *at > net.now).min() {
            net.wake(host, at);
        }
    }

    /// Moves the wall clock.
    pub fn jump(&mut self, by: Time) {
        self.seat.unix_jump += by;
    }

    /// The process is there no more.
    pub fn kill(&mut self, net: &mut Net, why: &str) {
        tell!(net, "replica {} {why}", self.seat.host);
        self.up = false;
        net.die(self.seat.host);
    }

    /// `DRAIN_DELAY` is over: it stops accepting.
    pub fn stop(&mut self, net: &mut Net) {
        tell!(net, "replica {} stops accepting", self.seat.host);
        self.lifecycle.advance(State::Stopped);
        net.sites[self.seat.host].listening = false;
        net.wake(self.seat.host, net.now);
    }

    /// What is in its tables, and how many entries in those of its session.
    pub fn left(&self) -> (Left, usize) {
        (self.worker.left(), self.waiting.load(Ordering::Relaxed))
    }

    /// Connections that are counted.
    pub fn connections(&self) -> usize {
        self.seat.metrics.connections() + self.seat.metrics.refusals()
    }

    /// Panics that were caught.
    pub fn panics(&self) -> bool {
        self.seat.metrics.panics() > 0
    }
}

impl World for View<'_> {
    /// Never called: the simulation waits.
    fn wait(&mut self, _: Option<Instant>, _: &mut Vec<Ready>) -> io::Result<Instant> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        instant(self.net.now + self.seat.stall)
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + Duration::from_nanos(self.net.now + self.seat.unix_jump)
    }

    fn random(&mut self) -> u64 {
        self.net.dice.draw()
    }

    fn accepted(&mut self) -> Accepted {
        let Some(end) = self.net.accept(self.seat.host) else {
            return if self.net.sites[self.seat.host].listening { Accepted::Nobody } else { Accepted::Closed };
        };
        let refused = self.seat.metrics.connections() >= self.seat.connections_max;
        self.seat.metrics.worker(0).connected(refused);
        Accepted::Client { socket: Socket(end as u64), refused }
    }

    fn connect(&mut self, to: &Address, _: Duration) -> io::Result<Socket> {
        let server = if let Address::Tcp(at) = to { self.names.at.get(at).copied() } else { None };
        tell!(self.net, "replica {} connects to {to:?}", self.seat.host);
        Ok(Socket(self.net.connect(self.seat.host, server) as u64))
    }

    fn connected(&mut self, socket: Socket) -> io::Result<bool> {
        let end = &self.net.ends[socket.0 as EndId];
        if end.reset && !end.open { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(end.open) }
    }

    fn set_owner(&mut self, socket: Socket, owner: u64) {
        self.net.ends[socket.0 as EndId].owner = owner;
    }

    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize> {
        self.net.recv(socket.0 as EndId, into)
    }

    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        self.net.send(socket.0 as EndId, bytes)
    }

    fn shut_down(&mut self, socket: Socket) -> io::Result<()> {
        self.net.shut_down(socket.0 as EndId)
    }

    fn has_ended(&mut self, socket: Socket) -> bool {
        let end = &self.net.ends[socket.0 as EndId];
        end.ended && !end.reset && end.inbox.is_empty()
    }

    fn has_taken(&mut self, socket: Socket) -> io::Result<bool> {
        self.net.has_taken(socket.0 as EndId)
    }

    fn peer(&self, socket: Socket) -> Option<IpAddr> {
        let host = self.net.ends[socket.0 as EndId ^ 1].host;
        Some(Ipv4Addr::new(10, 0, 1, host as u8).into())
    }

    fn close(&mut self, socket: Socket) {
        self.net.close(socket.0 as EndId);
    }

    fn close_all(&mut self, owner: u64) {
        let all = self.net.ends_of(self.seat.host).into_iter();
        all.for_each(|end| {
            if self.net.ends[end].owner == owner {
                self.net.close(end)
            }
        });
    }

    fn look_up(&mut self, name: Option<(&str, u16)>, _: Option<(&Path, usize)>) -> Errand {
        let at = self.net.now + self.names.delay;
        self.seat.errands.push((at, Some(name.map_or(String::new(), |(name, _)| name.to_owned()))));
        self.net.wake(self.seat.host, at);
        Errand(self.seat.errands.len() as u64 - 1)
    }

    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        let (at, name) = self.seat.errands.get_mut(errand.0 as usize)?;
        // A name server that is silent for long answers with what is true then.
        let name = if *at <= self.net.now { name.take()? } else { return None };
        let says = self.names.says.get(&name).filter(|says| !says.is_empty());
        let found = says.map(|says| Found { addresses: says.clone(), file: None });
        Some(found.ok_or_else(|| io::Error::other("no such name")))
    }
}

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.iter_mut().for_each(|lines| lines.push(record.args().to_string())));
    }

    fn flush(&self) {}
}

/// From now on what replicas log is a part of stories that are told.
pub fn hear_logs() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
