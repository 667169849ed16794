//! One loop: its clients, its requests, its session of the store. One tick:
//!
//! ```text
//! 1  wait for readiness, or for the earliest deadline
//! 2  new clients, and every ready one: read, parse, run the service ──▶ commands queue up
//! 3  clients whose deadlines have passed: one more read, then the deadline is enforced
//! 4  the store: everything queued goes out in one write; replies that have arrived are read
//! 5  their requests go on: another command, or a response, written at once
//! ```
//!
//! A tick is a function of what the world has reported. Batching follows from it: the busier the worker, the more
//! requests share a write to Redis. A client has at most one request in each tick, however many it has sent, so no
//! client starves.
//!
//! This file has the tick, and a client's turn in it. The steps of a request are in `request`, deadlines in
//! `deadlines`.

mod deadlines;
mod request;

use super::connection::{Connection, Progress};
use super::pool::Pool;
use super::timers::{Ages, Timers};
use crate::front::access_log::End;
use crate::front::exchange::Printer;
use crate::front::guard::{Guarded, broken};
use crate::front::options::Options;
use crate::lifecycle::{Lifecycle, State};
use crate::net::{Accepted, Ready, Slab, World};
use crate::service::Service;
use crate::service::problem::Problem;
use crate::store::{OWNER, Store};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients accepted in one tick: a flood of them must not hold up those already connected.
const ACCEPTED_PER_TICK: usize = 256;

/// Room for about as many events as one wait reports. It is allocated at the start: later, it could be placed behind
/// the memory of a burst of clients, which could then not be given back.
const READY_PER_TICK: usize = 256;

/// The size of the buffer that every client is read into, and so the most that one call reads.
const SCRATCH_BYTES: usize = 64 * 1024;

/// A tick that took longer was interrupted: the process was stopped, or had no processor. Clients could not use the
/// time of such a tick, so the deadlines set in it are counted from its end.
const LONG_TICK: Duration = Duration::from_millis(200);

/// Buffers that are not needed are freed this often.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// What is left of the print buffer then, if a response has made it larger than this.
const PRINTED_KEPT_BYTES: usize = 256 * 1024;

const TOO_MANY: Problem = Problem::overloaded("too many connections");
const TOO_MANY_BYTES: Problem = Problem::overloaded("too many bytes are being received");
const TOO_SLOW: Problem =
    Problem::new(408, "request_timeout", "the request did not arrive in time");
const ENDED_EARLY: Problem = Problem::new(400, "bad_request", "request ended early");

/// See the module's text.
pub struct Worker {
    /// Which worker it is, counted from 0.
    n: usize,
    options: Arc<Options>,
    service: Arc<Service>,
    store: Arc<dyn Store>,
    lifecycle: Arc<Lifecycle>,
    session: Guarded,
    clients: Slab<Connection>,
    timers: Timers,
    ages: Ages,
    pool: Pool,
    /// When buffers that are not needed are freed; `None` when there are none, and no client has had a turn since.
    trim_at: Option<Instant>,
    /// Bytes buffered for all clients, and the most there may be.
    held: usize,
    held_max: usize,
    /// Clients that get a turn in the next tick, whether or not their sockets are ready.
    again: Vec<u64>,
    /// Clients that get a turn in this tick; kept between ticks for its capacity.
    turns: Vec<u64>,
    /// Clients whose request has waited for the store until its deadline.
    late: Vec<u64>,
    /// The acceptor may have sent more clients than this tick has taken in, and no event will report them.
    more_clients: bool,
    /// The acceptor may still send clients.
    accepting: bool,
    /// When the service was seen to have stopped.
    stopped_at: Option<Instant>,
    /// Every client is read into this first.
    scratch: Box<[u8]>,
    /// Responses are printed into this.
    printed: Vec<u8>,
    printer: Printer,
}

/// What is in a worker's tables: nothing, once its clients have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Connections.
    pub clients: usize,
    /// Requests without a complete response.
    pub exchanges: usize,
    /// Bytes buffered for clients.
    pub bytes: usize,
    /// Clients that are to have a turn.
    pub turns: usize,
}

impl Worker {
    /// Runs a worker in this world until the service has stopped, or waiting for events fails.
    pub fn run(
        n: usize,
        options: Arc<Options>,
        service: Arc<Service>,
        store: Arc<dyn Store>,
        lifecycle: Arc<Lifecycle>,
        mut world: impl World,
    ) {
        let mut worker = Worker::new(n, options, service, store, lifecycle, &mut world);
        let mut ready = Vec::with_capacity(READY_PER_TICK);
        loop {
            worker.service.metrics().wait(n);
            let until = worker.until(world.now());
            let now = match world.wait(until, &mut ready) {
                Ok(now) => now,
                Err(e) => {
                    // Without events a worker cannot go on; its end ends the process.
                    log::error!("failed to wait for events: {e}");
                    return;
                }
            };
            worker.service.metrics().begin(n, now);
            if worker.tick(&mut world, now, &mut ready).is_break() {
                return worker.service.metrics().wait(n);
            }
        }
    }

    /// A worker without clients, in a world of its own.
    pub fn new(
        n: usize,
        options: Arc<Options>,
        service: Arc<Service>,
        store: Arc<dyn Store>,
        lifecycle: Arc<Lifecycle>,
        world: &mut dyn World,
    ) -> Worker {
        let now = world.now();
        Worker {
            n,
            timers: Timers::new(now),
            ages: Ages::new(now, options.keepalive_time, options.idle_timeout),
            held_max: options.worker_share(),
            options,
            service,
            session: Guarded::open(&*store, world, now),
            store,
            lifecycle,
            clients: Slab::default(),
            pool: Pool::new(now),
            trim_at: None,
            held: 0,
            again: Vec::new(),
            turns: Vec::new(),
            late: Vec::new(),
            more_clients: false,
            accepting: true,
            stopped_at: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            printed: Vec::new(),
            printer: Printer::new(world.random()),
        }
    }

    /// What is in its tables, for tests and the simulator.
    pub fn left(&self) -> Left {
        Left {
            clients: self.clients.len(),
            exchanges: self
                .clients
                .iter()
                .filter(|(_, client)| client.exchange().is_some())
                .count(),
            bytes: self.held,
            turns: self.again.len() + self.late.len(),
        }
    }

    /// See the module's text. Breaks when the service has stopped and no client is left.
    pub fn tick(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        ready: &mut Vec<Ready>,
    ) -> ControlFlow<()> {
        self.printer.set_time(world.unix_time());
        self.timers.begin(now);
        self.ages.begin(now);
        if self.session.is_broken() {
            self.replace_session(world, now);
        }
        let mut turns = std::mem::take(&mut self.turns);
        turns.append(&mut self.again);
        for ready in ready.drain(..) {
            if ready.owner == OWNER {
                self.session.ready(ready);
            } else if let Some(client) = self.clients.get_mut(ready.owner) {
                client.ready(&ready);
                // One turn in a tick, also for a client that already has one queued.
                if !std::mem::replace(&mut client.queued, true) {
                    turns.push(ready.owner);
                }
            }
        }
        self.accept(world, &mut turns);
        for key in turns.drain(..) {
            self.turn(world, key, now);
            // A store that answers at once has the document already. Those of all ready clients, each within its limit,
            // would together be too much to hold, so each response is made before the next client's turn.
            if self.session.is_immediate() {
                self.follow_store(world, now);
            }
        }
        self.turns = turns;
        self.check_deadlines(world, now);
        let stopped = self.lifecycle.state() >= State::Stopped;
        if stopped {
            self.send_home(world, now);
        }
        // What is asked now because something else was not answered in time goes out, too.
        self.time_out(world, now);
        self.follow_store(world, now);
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = self.pool.trim().then_some(now + TRIM_EVERY);
            for list in [&mut self.again, &mut self.turns, &mut self.late] {
                list.shrink_to_fit();
            }
            self.printed.clear();
            self.printed.shrink_to(PRINTED_KEPT_BYTES);
        }
        self.service.metrics().worker(self.n).buffered(self.held);
        if stopped && !self.accepting && self.clients.is_empty() {
            return ControlFlow::Break(());
        }
        let took = world.now().saturating_duration_since(now);
        if took > LONG_TICK {
            self.timers.postpone(&mut self.clients, took);
        }
        ControlFlow::Continue(())
    }

    /// Replaces a session that has panicked. The requests that wait for it are answered: the new session does not know
    /// them.
    fn replace_session(&mut self, world: &mut dyn World, now: Instant) {
        self.service.metrics().worker(self.n).panicked();
        self.session.replace(&*self.store, world, now);
        for key in self.clients.keys() {
            let exchange = self.clients.get(key).and_then(Connection::exchange);
            if exchange.is_some_and(|exchange| exchange.next.is_some()) {
                self.step(world, key, now, Some(Err(broken())), true);
                self.note(world, key, now);
            }
        }
    }

    /// Moves bytes to and from the store, and resumes the requests whose answers have come.
    fn follow_store(&mut self, world: &mut dyn World, now: Instant) {
        loop {
            let replies = self.session.progress(world, now);
            for (tag, reply) in replies.iter() {
                if let Some(key) = self.waiting(tag) {
                    self.step(world, key, now, Some(reply), true);
                    self.note(world, key, now);
                }
            }
            self.session.give_back(replies);
            if !self.session.has_submitted() {
                return;
            }
        }
    }

    /// Takes in the clients that the acceptor has sent.
    fn accept(&mut self, world: &mut dyn World, turns: &mut Vec<u64>) {
        self.more_clients = false;
        for _ in 0..ACCEPTED_PER_TICK {
            match world.accepted() {
                Accepted::Client { socket, refused } => {
                    self.service.metrics().worker(self.n).accepted();
                    let old_at = self.ages.old_at(world.random());
                    let key = self.clients.insert(Connection::new(socket, refused, old_at));
                    world.set_owner(socket, key);
                    if log::log_enabled!(log::Level::Debug) {
                        log_client(key, world.peer(socket));
                    }
                    turns.push(key);
                }
                Accepted::Nobody => return,
                Accepted::Closed => {
                    self.accepting = false;
                    return;
                }
            }
        }
        self.more_clients = true;
    }

    /// Takes one client as far as it can go: to the store, to its response, or until it needs more bytes than have
    /// arrived.
    fn turn(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        while let Some(client) = self.clients.get_mut(key) {
            client.queued = false;
            let (scratch, pool) = (&mut self.scratch, &mut self.pool);
            match client.advance(world, now, scratch, pool, &self.options) {
                Progress::Wait => break,
                Progress::Again => {
                    self.queue(key);
                    break;
                }
                Progress::Gone => return self.remove(world, key, End::Gone, now),
                Progress::Answered => {
                    self.close_account(world, key, End::Answered, now);
                    if self.clients.get(key).is_some_and(Connection::has_more) {
                        self.queue(key);
                        break;
                    }
                }
                Progress::Head(index) => {
                    if !self.head(world, key, index, now) {
                        break;
                    }
                }
                Progress::Whole => {
                    if let Some((exchange, ..)) = client.request() {
                        exchange.deadline = now + self.options.request_timeout;
                    }
                    self.step(world, key, now, None, true);
                    break;
                }
                Progress::Malformed(e) => {
                    let problem = self.service.malformed(e);
                    return self.refuse(world, key, problem, false, now);
                }
                Progress::Truncated => return self.refuse(world, key, ENDED_EARLY, false, now),
                Progress::TimedOut => return self.refuse(world, key, TOO_SLOW, false, now),
                Progress::Refused => return self.refuse(world, key, TOO_MANY, false, now),
            }
        }
        self.note(world, key, now);
    }

    /// Queues a client for a turn in the next tick.
    fn queue(&mut self, key: u64) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            self.again.push(key);
        }
    }

    /// After a client's turn: notes what it waits for, and how much is buffered for it. When that is too much for all
    /// clients together, the client that adds to it is refused: a thousand of the largest bodies at a time, each within
    /// its own limit, would be a gigabyte.
    fn note(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let held = client.held();
        let counted = client.count(held);
        self.held = self.held - counted + held;
        if held == 0 {
            client.rest(&mut self.pool);
        }
        if self.trim_at.is_none() {
            self.trim_at = Some(now + TRIM_EVERY);
        }
        if let Some(time) = client.time(&self.options) {
            self.timers.set(&mut self.clients, key, time);
        }
        if self.held > self.held_max && held > counted {
            self.too_much(world, key, now);
        }
    }

    /// Refuses or closes a client whose bytes exceed what all clients together may hold.
    fn too_much(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.is_writing() {
            return self.remove(world, key, End::Cut("too many bytes wait to be taken"), now);
        }
        if client.exchange().is_some() && !client.is_sending() {
            // Its request is under way and may have had its effect, so the client gets the response; what it has sent
            // behind the request is dropped.
            client.forget_the_rest();
            let held = client.held();
            self.held = self.held - client.count(held) + held;
            return;
        }
        self.refuse(world, key, TOO_MANY_BYTES, false, now);
    }

    /// Closes a client's connection. If its request is not over, `end` is how it ended.
    fn remove(&mut self, world: &mut dyn World, key: u64, end: End, now: Instant) {
        self.close_account(world, key, end, now);
        self.timers.clear(&mut self.clients, key);
        let Some(mut client) = self.clients.remove(key) else { return };
        self.held -= client.count(0);
        log::debug!("the connection of client {key} is closed: {end:?}");
        world.close(client.socket);
        self.service.metrics().worker(self.n).disconnected(client.refused);
    }
}

fn log_client(key: u64, peer: Option<IpAddr>) {
    match peer {
        Some(peer) => log::debug!("client {key} connects from {peer}"),
        None => log::debug!("client {key} connects over the Unix socket"),
    }
}
