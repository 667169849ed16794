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

use super::connection::{Connection, Progress};
use super::pool::Pool;
use super::timers::{Ages, Linked, Timers};
use crate::front::access_log::End;
use crate::front::exchange::{Exchange, Printer, guarded};
use crate::front::guard::{Guarded, broken};
use crate::front::options::Options;
use crate::http::{Field, Framing, Head, HeadIndex, Response};
use crate::lifecycle::{Lifecycle, State};
use crate::net::{Accepted, Ready, Slab, World};
use crate::service::Service;
use crate::service::problem::Problem;
use crate::service::step::Step;
use crate::service::traffic::Kind;
use crate::store::{OWNER, Reply, Store, StoreError};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients accepted in one tick: a flood of them must not hold up those already connected.
const ACCEPTED_PER_TICK: usize = 256;

/// About as many events as one wait reports: allocated early, lest the list be placed behind what a burst leaves.
const READY_PER_TICK: usize = 256;

/// Bytes read in one call, for whichever client is next.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The print buffer is freed when a response has made it larger than this.
const PRINTED_KEPT_BYTES: usize = 256 * 1024;

/// A tick that took longer was interrupted: the process was stopped, or had no processor. Clients could not use the
/// time of such a tick, so the deadlines set in it are counted from its end.
const LONG_TICK: Duration = Duration::from_millis(200);

/// So long after the end of accepting, a client that has had no response yet may begin a request: a proxy that has just
/// connected, and could not know, would answer its own client with 502.
const GRACE: Duration = Duration::from_millis(250);

/// Counting a request may take so much of its time: a tenth.
const COUNT_PART: u32 = 10;

/// Buffers that are not needed are freed this often.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// A store session that panics is replaced after this at the latest, and one that panics every time costs no more than
/// ten replacements a second.
const BROKEN_FOR: Duration = Duration::from_millis(100);

const TOO_MANY: Problem = Problem::overloaded("too many connections");
const TOO_MANY_WAIT: Problem = Problem::overloaded("too many requests are waiting");
const TOO_MANY_BYTES: Problem = Problem::overloaded("too many bytes are being received");
const TOO_SLOW: Problem =
    Problem::new(408, "request_timeout", "the request did not arrive in time");
const ENDED_EARLY: Problem = Problem::new(400, "bad_request", "request ended early");

/// See the module's text.
pub struct Worker {
    n: usize,
    options: Arc<Options>,
    service: Arc<Service>,
    store: Arc<dyn Store>,
    lifecycle: Arc<Lifecycle>,
    session: Guarded,
    clients: Slab<Connection>,
    exchanges: Slab<Exchange>,
    timers: Timers,
    ages: Ages,
    pool: Pool,
    trim_at: Option<Instant>,
    /// Bytes buffered for all clients, and the most there may be.
    held: usize,
    held_max: usize,
    /// Clients that get a turn in the next tick, whether or not their sockets are ready.
    again: Vec<u64>,
    /// The list of [`tick`](Worker::tick): kept for its capacity.
    turns: Vec<u64>,
    /// Clients whose store deadline has passed.
    late: Vec<u64>,
    /// More clients may have been accepted, and no event will wake us for them.
    more_clients: bool,
    /// The acceptor may still send clients.
    accepting: bool,
    /// When the service was seen to have stopped.
    stopped_at: Option<Instant>,
    scratch: Box<[u8]>,
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
                return;
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
            ages: Ages::new(now, options.keepalive_time),
            held_max: options.worker_share(),
            options,
            service,
            session: Guarded::open(&*store, world, now),
            store,
            lifecycle,
            clients: Slab::default(),
            exchanges: Slab::default(),
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

    /// What is in its tables.
    pub fn left(&self) -> Left {
        Left {
            clients: self.clients.len(),
            exchanges: self.exchanges.len(),
            bytes: self.held,
            turns: self.again.len() + self.late.len(),
        }
    }

    /// The time until which there is nothing to do unless something becomes ready.
    pub fn until(&mut self, now: Instant) -> Option<Instant> {
        if !self.again.is_empty() || self.more_clients {
            return Some(now);
        }
        let store = match self.session.next_deadline() {
            _ if self.session.is_broken() => Some(now + BROKEN_FOR),
            deadline => deadline,
        };
        let timers = self.timers.next(&mut self.clients);
        let grace = self.stopped_at.map(|at| at + GRACE).filter(|at| *at > now);
        [store, timers, self.trim_at, grace].into_iter().flatten().min()
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
            // For a store that answers at once: the documents of all ready clients, each small enough, would together
            // be too much to hold.
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
        self.follow_store(world, now);
        self.time_out(world, now);
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = self.pool.trim().then_some(now + TRIM_EVERY);
            for list in [&mut self.again, &mut self.turns, &mut self.late] {
                list.shrink_to_fit();
            }
        }
        if stopped && !self.accepting && self.clients.is_empty() {
            return ControlFlow::Break(());
        }
        self.service.metrics().worker(self.n).buffered(self.held);
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
        for key in self.exchanges.keys() {
            let waits = self.exchanges.get(key).filter(|exchange| exchange.next.is_some());
            if let Some(client) = waits.map(|exchange| exchange.connection) {
                self.step(world, key, now, Some(Err(broken())), true);
                self.note(world, client, now);
            }
        }
    }

    /// Moves bytes to and from the store, and resumes the requests whose answers have come.
    fn follow_store(&mut self, world: &mut dyn World, now: Instant) {
        loop {
            let replies = self.session.progress(world, now);
            for (key, reply) in replies.iter() {
                let client = self.exchanges.get(key).map(|exchange| exchange.connection);
                self.step(world, key, now, Some(reply), true);
                if let Some(client) = client {
                    self.note(world, client, now);
                }
            }
            let is_empty = replies.is_empty();
            self.session.give_back(replies);
            if is_empty {
                return;
            }
        }
    }

    /// Answers the requests whose store deadline has passed. Replies that have come by now count.
    fn time_out(&mut self, world: &mut dyn World, now: Instant) {
        if self.late.is_empty() {
            return;
        }
        self.session.look();
        self.follow_store(world, now);
        for key in std::mem::take(&mut self.late) {
            // The client may have been answered, and have another request by now.
            let Some(client) = self.clients.get_mut(key).filter(|c| c.is_answering()) else {
                continue;
            };
            if !self.timers.is_due(client.link()) {
                continue;
            }
            let Some(exchange) = client.exchange() else { continue };
            let error = self.session.abandon(now, exchange);
            self.step(world, exchange, now, Some(Err(error)), true);
            self.note(world, key, now);
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
                    if let Some(exchange) = client.exchange() {
                        if let Some(exchange) = self.exchanges.get_mut(exchange) {
                            exchange.deadline = now + self.options.request_timeout;
                        }
                        self.step(world, exchange, now, None, true);
                    }
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

    /// Begins a request. True when its body has to be read next.
    fn head(&mut self, world: &mut dyn World, key: u64, index: HeadIndex, now: Instant) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let worker = self.service.metrics().worker(self.n);
        worker.request_began();
        let number = self.printer.next_number();
        let time = self.options.request_timeout;
        let exchange = self.exchanges.insert(Exchange::begin(Some(index), key, number, now, time));
        client.set_exchange(exchange, &mut self.pool);
        let Some(request) = self.exchanges.get_mut(exchange) else { return false };

        let has_body = index.framing() != Framing::Length(0);
        let body_is_here = client.has_body(index.framing());
        // A request that can be answered at once is answered. One that would have to wait, for a body or for the store,
        // is refused when the buffers are full; but a single client is never refused for that.
        let held = client.held();
        let full = self.held + held > self.held_max.max(held);
        let (bytes, _) = client.message();
        let head = Head::new(&index, bytes);
        let continues = head.expects_continue();
        let expects = head.first(Field::Expect).is_some();
        let service = &self.service;
        let admitted = guarded(worker, || {
            request.admit(service, bytes)?;
            // A request whose body has arrived is judged as a whole; but a client that sent `Expect` may not have sent
            // its body: these bytes may be the next request.
            if has_body && (!body_is_here || expects) {
                request.check(service, bytes)?;
            }
            if has_body && full { Err(TOO_MANY_WAIT) } else { Ok(()) }
        });
        let admitted = admitted.and_then(|admitted| admitted);
        match admitted {
            Ok(()) if has_body => {
                client.expect(world, index.framing(), continues, now, &mut self.pool);
                true
            }
            Ok(()) => {
                self.step(world, exchange, now, None, !full);
                false
            }
            Err(problem) => {
                let keep = client.drop_body(index.framing(), expects);
                match request.refuse_counted(&self.service, problem, keep) {
                    None => self.step(world, exchange, now, None, !full),
                    Some(problem) if problem.is_refusal() => {
                        self.refuse(world, key, problem, keep, now);
                    }
                    Some(problem) => self.end(world, exchange, Err(problem), keep, now),
                }
                false
            }
        }
    }

    /// Takes a request one step further: begins it, or continues it with the store's `reply`.
    fn step(
        &mut self,
        world: &mut dyn World,
        key: u64,
        now: Instant,
        reply: Option<Reply<'_>>,
        may_wait: bool,
    ) {
        let service = Arc::clone(&self.service);
        let worker = service.metrics().worker(self.n);
        if let Err(problem) = guarded(worker, || self.run_step(world, key, now, reply, may_wait)) {
            self.end(world, key, Err(problem), true, now);
        }
    }

    fn run_step(
        &mut self,
        world: &mut dyn World,
        key: u64,
        now: Instant,
        reply: Option<Reply<'_>>,
        may_wait: bool,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let connection = exchange.connection;
        let Some(client) = self.clients.get_mut(connection) else { return };
        let next = exchange.next.take();
        let service = &*self.service;
        let (bytes, body) = client.message();
        let worker = service.metrics().worker(self.n);
        let mut counted = false;
        if let (Some(reply), Some(_)) = (&reply, &next) {
            exchange.replied(worker, reply, now);
            // The answer was for the exchange, perhaps: the request begins now.
            counted = exchange.counted(service, worker, reply);
        }
        let request = &*exchange;
        let mut step = match (reply, next) {
            (Some(reply), Some(next)) if !counted => {
                request.resume(service, bytes, body, next, reply)
            }
            // It has been answered without this reply.
            (Some(_), None) => return,
            _ => request.perform(service, (bytes, body), || world.peer(client.socket), now),
        };
        let outcome = loop {
            match step {
                Err(problem) => break Err(problem),
                Ok(Step::Done(response)) => break Ok(response),
                Ok(Step::Ask(..)) if !may_wait => break Err(TOO_MANY_WAIT),
                Ok(Step::Ask(command, next)) if now < request.deadline => {
                    let kind = Kind::of(&command);
                    let left = request.deadline - now;
                    if self.session.submit(now, key, command) {
                        if let Some(exchange) = self.exchanges.get_mut(key) {
                            exchange.asked(kind, next, now);
                        }
                        // A store that cannot count must not stop who it could serve.
                        if kind == Kind::TAKE {
                            self.wait(connection, left / COUNT_PART);
                        } else if counted {
                            self.wait(connection, left);
                        }
                        return;
                    }
                    break Err(Problem::INTERNAL);
                }
                // The last answer came in time, but the next would come too late. A command that is not sent certainly
                // does not run.
                Ok(Step::Ask(_, next)) => {
                    let late = Err(StoreError::Timeout);
                    step = request.resume(service, bytes, body, next, late);
                }
            }
        };
        let keep = (may_wait || outcome.is_ok()) && request.keeps();
        let keep = keep && !self.ages.is_old(client.old_at());
        let printing = (&mut self.printer, &mut self.printed, &*self.lifecycle, &*self.service);
        let (status, close) = print(printing, request, client, &outcome, keep);
        if matches!(&outcome, Ok(response) if response.replayed) {
            worker.replayed();
        }
        drop(outcome);
        self.send(world, key, status, close, now);
    }

    /// Sets the deadline of a client whose request waits for the store.
    fn wait(&mut self, key: u64, time: Duration) {
        if let Some(client) = self.clients.get_mut(key) {
            client.link().begun = false;
            self.timers.set(&mut self.clients, key, time);
        }
    }

    /// Answers, counts and logs a request that broke the protocol or exceeded its limits. Unless the head was sound,
    /// what follows cannot be trusted, and the connection must close.
    fn refuse(
        &mut self,
        world: &mut dyn World,
        key: u64,
        problem: Problem,
        keep: bool,
        now: Instant,
    ) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let exchange = match client.exchange() {
            Some(exchange) => exchange,
            None => {
                let number = self.printer.next_number();
                let exchange =
                    self.exchanges.insert(Exchange::begin(None, key, number, now, Duration::ZERO));
                client.set_exchange(exchange, &mut self.pool);
                exchange
            }
        };
        if let Some(exchange) = self.exchanges.get_mut(exchange) {
            exchange.refused(self.service.metrics().worker(self.n), &problem);
        }
        self.end(world, exchange, Err(problem), keep, now);
        self.note(world, key, now);
    }

    /// Answers a request without running it further.
    fn end(
        &mut self,
        world: &mut dyn World,
        key: u64,
        outcome: Result<Response<'_>, Problem>,
        keep: bool,
        now: Instant,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(client) = self.clients.get_mut(exchange.connection) else { return };
        exchange.next = None;
        let keep = keep && !self.ages.is_old(client.old_at());
        let printing = (&mut self.printer, &mut self.printed, &*self.lifecycle, &*self.service);
        let (status, close) = print(printing, exchange, client, &outcome, keep);
        self.send(world, key, status, close, now);
    }

    /// Sends what has been printed.
    fn send(&mut self, world: &mut dyn World, key: u64, status: u16, close: bool, now: Instant) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.answered(status, self.printed.len());
        let connection = exchange.connection;
        let Some(client) = self.clients.get_mut(connection) else { return };
        if !client.respond(world, &self.printed, close, now, &mut self.pool) {
            return self.remove(world, connection, End::Gone, now);
        }
        if client.is_answered() {
            exchange.account(
                End::Answered,
                (&*self.service, self.service.metrics().worker(self.n)),
                self.options.access_log,
                (self.printer.maker(), client.message().0),
                || world.peer(client.socket),
                now,
            );
            client.finish();
            self.exchanges.discard(key);
        }
        if client.has_more() && !std::mem::replace(&mut client.queued, true) {
            self.again.push(connection);
        }
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
            if self.trim_at.is_none() {
                self.trim_at = Some(now + TRIM_EVERY);
            }
        }
        if let Some(time) = client.time(&self.options) {
            self.timers.set(&mut self.clients, key, time);
        }
        if self.held > self.held_max && held > counted {
            self.too_much(world, key, now);
        }
    }

    /// Refuses or closes a client whose bytes exceed what all clients may hold.
    fn too_much(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.is_writing() {
            return self.remove(world, key, End::Cut("too many bytes wait to be taken"), now);
        }
        if client.exchange().is_some() && !client.is_sending() {
            // Its request is under way, perhaps done by now: the client gets its response, and what it has sent behind
            // the request is dropped.
            client.forget_the_rest();
            let held = client.held();
            self.held = self.held - client.count(held) + held;
            return;
        }
        self.refuse(world, key, TOO_MANY_BYTES, false, now);
    }

    /// Handles the clients whose deadlines have passed.
    ///
    /// Bytes that have arrived by now count, so each of these clients has a turn first: the loop may not have been
    /// given their events yet. A process that was stopped for a while resumes in a wait that was interrupted, with no
    /// events, and finds deadlines long past; and one wait reports only so many clients.
    fn check_deadlines(&mut self, world: &mut dyn World, now: Instant) {
        while let Some(key) = self.timers.next_look(&mut self.clients) {
            self.timers.wait_on(&mut self.clients, key);
            let Some(client) = self.clients.get_mut(key) else { continue };
            // A client with a turn queued has sent more than was read yet, and is handled after that.
            if !self.timers.is_due(client.link()) || client.queued {
                continue;
            }
            if client.is_answering() {
                self.late.push(key);
                continue;
            }
            client.look();
            self.turn(world, key, now);
            let Some(client) = self.clients.get_mut(key) else { continue };
            if !client.queued && !client.is_answering() && self.timers.is_due(client.link()) {
                self.expire(world, key, now);
            }
        }
    }

    /// Handles the deadline of this client.
    fn expire(&mut self, world: &mut dyn World, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some(deadline) = client.pace_deadline(&self.options)
            && deadline > now
        {
            return self.timers.set(&mut self.clients, key, deadline - now);
        }
        match client.expired() {
            Progress::TimedOut => self.refuse(world, key, TOO_SLOW, false, now),
            Progress::Refused => self.refuse(world, key, TOO_MANY, false, now),
            _ => {
                // A response that was in doubt, and was not refused, has been received.
                let end = match client.is_writing() {
                    true => End::Cut("not taken in time"),
                    false => End::Answered,
                };
                self.remove(world, key, end, now);
            }
        }
    }

    /// The service has stopped: a connection without a complete head by now is closed, or a single byte would hold up
    /// every restart; one that is new, after [`GRACE`]. The other requests are finished.
    fn send_home(&mut self, world: &mut dyn World, now: Instant) {
        // A client with a turn queued has sent more than was read yet.
        let grace = now < *self.stopped_at.get_or_insert(now) + GRACE;
        let waits = |client: &Connection| {
            !client.queued && client.awaits_head() && !(grace && client.is_new())
        };
        let clients = self.clients.iter();
        let waiting: Vec<u64> =
            clients.filter(|(_, client)| waits(client)).map(|(key, _)| key).collect();
        for key in waiting {
            // A request may have arrived for which there was no event yet.
            if let Some(client) = self.clients.get_mut(key) {
                client.look();
                self.turn(world, key, now);
            }
            if self.clients.get(key).is_some_and(waits) {
                self.remove(world, key, End::Gone, now);
            }
        }
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

    /// Ends the exchange of a client, if it has one.
    fn close_account(&mut self, world: &mut dyn World, key: u64, end: End, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some(key) = client.exchange()
            && let Some(exchange) = self.exchanges.get(key)
        {
            exchange.account(
                end,
                (&*self.service, self.service.metrics().worker(self.n)),
                self.options.access_log,
                (self.printer.maker(), client.message().0),
                || world.peer(client.socket),
                now,
            );
            self.exchanges.discard(key);
        }
        client.finish();
    }
}

fn log_client(key: u64, peer: Option<IpAddr>) {
    match peer {
        Some(peer) => log::debug!("client {key} connects from {peer}"),
        None => log::debug!("client {key} connects over the Unix socket"),
    }
}

/// Prints the response to a client's request; gives its status, and whether the connection closes after it.
fn print(
    (printer, printed, lifecycle, service): (&mut Printer, &mut Vec<u8>, &Lifecycle, &Service),
    exchange: &Exchange,
    client: &Connection,
    outcome: &Result<Response<'_>, Problem>,
    keep: bool,
) -> (u16, bool) {
    let (bytes, _) = client.message();
    let keep = keep && exchange.head(bytes).is_some_and(|head| head.keep_alive());
    let close = !keep || client.has_forgotten() || lifecycle.state() >= State::Draining;
    printed.clear();
    printed.shrink_to(PRINTED_KEPT_BYTES);
    (printer.print(service, exchange, bytes, outcome, close, printed), close)
}
