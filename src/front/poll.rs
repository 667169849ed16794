//! The front to face a network with: `WORKERS` loops that never block.
//!
//! Each worker owns a poll, its clients and a session of the store; nothing is shared on the way of
//! a request. One tick:
//!
//! ```text
//! 1  wait for readiness, or for the earliest deadline
//! 2  newcomers, and every ready client: read, parse, run the service ──▶ commands queue up
//! 3  clients whose deadlines have passed: a last look, then the verdict
//! 4  the store: everything queued goes out in one write; replies that are there come in
//! 5  their requests go on: another question, or a response, written at once
//! ```
//!
//! Batching falls out of it: the busier the worker, the more requests share a write to Redis. A
//! client has at most one request in each tick, however many it has sent, so nobody starves.

use super::accept::{Acceptor, Door, Listener, Newcomer};
use super::access::{End, Entry};
use super::connection::{Account, After, Connection, Exchange, Turn};
use super::guard::{Guarded, guarded};
use super::{Board, Options, Running, failed};
use crate::http::{self, DateCache, Framing, Head, Method, Printing};
use crate::lifecycle::{Lifecycle, State};
use crate::service::Service;
use crate::service::problem::Problem;
use crate::service::step::{Outcome, Step};
use crate::slab::Slab;
use crate::store::{Done, Store, StoreError, Wiring};
use crate::stream::BOTH;
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events taken in one tick; the rest are there in the next.
const EVENTS_PER_TICK: usize = 256;

/// Bytes read in one go, for whichever client is next.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The print buffer is given back when a response has made it larger than this.
const PRINTED_KEPT_BYTES: usize = 256 * 1024;

/// Tokens: a client has the number of its place; the store's are far above any place.
const STORE: usize = usize::MAX / 2;
const WAKE: Token = Token(usize::MAX);

/// What a head costs, parsed, for each of its bytes: some 25 KiB for 15 KiB in a hundred fields.
const HEAD_COST: usize = 2;

/// A tick that took longer was interrupted: the process was stopped, or had no processor. What clients were given to do
/// in it, counted from its beginning, they have had no time for.
const LONG_TICK: Duration = Duration::from_millis(200);

/// Deadlines are looked at no more often than this.
const DEADLINE_STEP: Duration = Duration::from_millis(10);

/// A store session that panics is replaced after this at the latest, and one that always does costs no
/// more than ten of them in a second.
const BROKEN_FOR: Duration = Duration::from_millis(100);

/// Starts the workers and the thread that accepts.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    options: Options,
    service: Service,
    store: Arc<dyn Store>,
    board: Arc<Board>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Running> {
    let (listener, address) = Listener::bind(&options.listen)?;
    let options = Arc::new(options);
    let mut wakers = Vec::new();
    let mut doors = Vec::new();
    for n in 0..options.workers {
        let (inbox, newcomers) = channel();
        let name = format!("worker-{n}");
        let poll = Poll::new().map_err(failed(format_args!("open a poll for {name}")))?;
        let waker = Waker::new(poll.registry(), WAKE)
            .map_err(failed(format_args!("open a waker for {name}")))?;
        let waker = Arc::new(waker);
        let worker = Worker {
            n,
            options: Arc::clone(&options),
            service: service.clone(),
            board: Arc::clone(&board),
            lifecycle: Arc::clone(lifecycle),
            store: Arc::clone(&store),
            waker: Arc::clone(&waker),
            newcomers,
            poll,
            clients: Slab::default(),
            held: 0,
            heads: 0,
            held_max: options.worker_share(),
            again: Vec::new(),
            more_newcomers: false,
            accepting: true,
            next_check: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            printed: Vec::new(),
            date: DateCache::default(),
        };
        wakers.push(Arc::clone(&waker));
        doors.push(Door { inbox, waker });
        lifecycle.spawn(name, move || {
            // Opened there, because a session belongs to its thread.
            if let Some(session) = worker.open() {
                worker.run(session);
            }
        })?;
    }
    let acceptor = Acceptor::new(listener, doors, board, options.connections_max)
        .map_err(failed("open a poll for the acceptor"))?;
    wakers.push(acceptor.waker());
    lifecycle.spawn("acceptor".to_owned(), {
        let lifecycle = Arc::clone(lifecycle);
        move || acceptor.run(&lifecycle)
    })?;
    let wake = move || {
        for waker in &wakers {
            // A loop that cannot be woken has ended.
            let _ = waker.wake();
        }
    };
    Ok(Running {
        address,
        threads: options.workers + 1,
        wake: Box::new(wake),
        // The acceptor has it.
        socket_file: None,
    })
}

struct Worker {
    n: usize,
    options: Arc<Options>,
    service: Service,
    board: Arc<Board>,
    lifecycle: Arc<Lifecycle>,
    store: Arc<dyn Store>,
    waker: Arc<Waker>,
    newcomers: Receiver<Newcomer>,
    poll: Poll,
    clients: Slab<Connection>,
    /// Bytes kept for all clients, and how many may be.
    held: usize,
    held_max: usize,
    /// Bytes kept of the heads of requests that are not answered, and no more than `held_max` of these either.
    heads: usize,
    /// Clients with more to do in the next tick, whether or not their sockets say so.
    again: Vec<u64>,
    /// There may be more in `newcomers`, and nothing will wake us for them.
    more_newcomers: bool,
    /// The acceptor may send more of them.
    accepting: bool,
    /// No client's deadline is before this. It may lie: deadlines move on without raising it.
    next_check: Option<Instant>,
    scratch: Box<[u8]>,
    printed: Vec<u8>,
    date: DateCache,
}

impl Worker {
    /// A session of the store; without one a worker is of no use, and its end ends the process.
    fn open(&self) -> Option<Guarded> {
        let session = self.store.session(Wiring {
            registry: self.poll.registry(),
            first_token: STORE,
            waker: Arc::clone(&self.waker),
        });
        match session {
            Ok(session) => Some(Guarded::new(session)),
            Err(e) => {
                log::error!("failed to open a session of the store: {e}");
                None
            }
        }
    }

    fn run(mut self, mut session: Guarded) {
        let mut events = Events::with_capacity(EVENTS_PER_TICK);
        let mut ready = Vec::new();
        let mut done = Done::new();
        loop {
            self.board.wait(self.n);
            let wait = self.wait(&mut session);
            if let Err(e) = self.poll.poll(&mut events, wait)
                && e.kind() != io::ErrorKind::Interrupted
            {
                // Without its poll a worker is deaf; its end ends the process.
                log::error!("failed to wait for events: {e}");
                return;
            }
            let now = Instant::now();
            self.board.begin(self.n, now);

            if session.is_broken() {
                self.service.shard().panicked();
                let Some(another) = self.open() else { return };
                session = another;
                self.let_down(now, &mut session);
            }
            // All events first: none of them can then mean a client that sits in a place whose
            // last owner has left in this very tick.
            ready.append(&mut self.again);
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(t) if t >= STORE => session.ready(event),
                    Token(place) => {
                        if let Some(key) = self.clients.key_at(place)
                            && let Some(client) = self.clients.get_mut(key)
                        {
                            client.ready(event);
                            // One turn in a tick, also for who has one coming already.
                            if !client.queued {
                                ready.push(key);
                            }
                        }
                    }
                }
            }
            self.welcome(now, &mut ready);
            for key in ready.drain(..) {
                self.turn(key, now, &mut session);
                // Of a store that answers at once. The documents of all that are ready, each of them small
                // enough, would be too much to hold at a time.
                session.answered(&mut done);
                self.follow(&mut done, now, &mut session);
            }
            self.check_deadlines(now, &mut session);
            let stopped = self.lifecycle.state() >= State::Stopped;
            if stopped {
                self.send_home(now, &mut session);
            }
            loop {
                session.progress(now, &mut done);
                if done.is_empty() {
                    break;
                }
                self.follow(&mut done, now, &mut session);
            }
            if stopped && !self.accepting && self.clients.is_empty() {
                return;
            }
            let took = now.elapsed();
            if took > LONG_TICK {
                self.clients.iter_mut().for_each(|client| client.postpone(now, took));
            }
        }
    }

    /// Lets those go on who have their answers.
    fn follow(&mut self, done: &mut Done, now: Instant, session: &mut Guarded) {
        for (key, answer) in done.drain(..) {
            // Nobody there: the client left before its answer came.
            let next = self
                .clients
                .get_mut(key)
                .and_then(|c| c.exchange.as_mut())
                .and_then(|e| e.next.take());
            if let Some(next) = next {
                let step = guarded(&self.service, || next(answer)).unwrap_or_else(Step::from);
                self.drive(key, step, now, session);
            }
        }
    }

    /// The session has broken, and a new one knows nothing of those who wait for the old.
    fn let_down(&mut self, now: Instant, session: &mut Guarded) {
        for key in self.clients.keys() {
            let exchange = self.clients.get_mut(key).and_then(|c| c.exchange.as_mut());
            if let Some(next) = exchange.and_then(|e| e.next.take()) {
                let broken = StoreError::Broken("its session panicked".to_owned());
                let step = guarded(&self.service, || next(Err(broken)));
                self.drive(key, step.unwrap_or_else(Step::from), now, session);
            }
        }
    }

    fn wait(&self, session: &mut Guarded) -> Option<Duration> {
        if !self.again.is_empty() || self.more_newcomers {
            return Some(Duration::ZERO);
        }
        let store = session.next_deadline();
        if session.is_broken() {
            return Some(BROKEN_FOR);
        }
        let earliest = [store, self.next_check].into_iter().flatten().min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    /// Takes in the clients that the acceptor has sent, no more in one tick than there are events: a
    /// flood of them must not hold up those who are here, nor be in flight all at once.
    fn welcome(&mut self, now: Instant, ready: &mut Vec<u64>) {
        self.more_newcomers = false;
        for _ in 0..EVENTS_PER_TICK {
            let Newcomer { stream, refused } = match self.newcomers.try_recv() {
                Ok(newcomer) => newcomer,
                Err(why) => {
                    self.accepting = why != TryRecvError::Disconnected;
                    return;
                }
            };
            self.service.shard().connected();
            let key = self.clients.insert(Connection::new(stream, refused, &self.options, now));
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            if let Err(e) = self.poll.registry().register(
                client.stream(),
                Token(Slab::<Connection>::place(key)),
                BOTH,
            ) {
                log::error!("failed to watch a client: {e}");
                self.remove(key, End::Gone, now);
            } else {
                ready.push(key);
                self.settle(key, now);
            }
        }
        self.more_newcomers = true;
    }

    /// Lets one client go as far as it can: to the store, to its answer, or until it needs to read
    /// more than there is.
    fn turn(&mut self, key: u64, now: Instant, session: &mut Guarded) {
        while let Some(client) = self.clients.get_mut(key) {
            client.queued = false;
            let turn = client.advance(now, &mut self.scratch, &self.options);
            // The last response is out; or the client has more to say, so it is there.
            let is_silent = matches!(turn, Turn::Wait | Turn::Again | Turn::Gone);
            if client.account.is_some() && (client.is_answered() || !is_silent) {
                self.close_account(key, None, now);
            }
            let Some(client) = self.clients.get_mut(key) else {
                return;
            };
            match turn {
                Turn::Wait => return self.settle(key, now),
                Turn::Again => {
                    self.queue(key);
                    return self.settle(key, now);
                }
                Turn::Gone => return self.remove(key, End::Gone, now),
                Turn::Head(head) => {
                    if !self.head(key, head, now, session) {
                        return;
                    }
                }
                Turn::Body(call, body) => {
                    if let Some(exchange) = &mut client.exchange {
                        exchange.deadline = now + self.options.request_timeout;
                    }
                    let step = guarded(&self.service, || self.service.perform(call, body))
                        .unwrap_or_else(Step::from);
                    return self.drive(key, step, now, session);
                }
                Turn::Malformed(e) => {
                    let problem = self.service.malformed(e);
                    return self.refuse(key, problem, After::Close, now);
                }
                Turn::Truncated => {
                    return self.refuse(
                        key,
                        Problem::new(400, "bad_request", "request ended early"),
                        After::Close,
                        now,
                    );
                }
                Turn::TimedOut => return self.refuse(key, TOO_SLOW, After::Close, now),
                Turn::Refused => return self.refuse(key, TOO_MANY, After::Close, now),
            }
        }
    }

    /// A request has begun. True when its body has to be read next.
    fn head(&mut self, key: u64, head: Head, now: Instant, session: &mut Guarded) -> bool {
        let trace = self.service.trace(Some(&head));
        let admitted =
            guarded(&self.service, || self.service.admit(&head)).and_then(|admitted| admitted);
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        self.board.line(self.n).request_began();
        let has_body = head.framing != Framing::Length(0);
        let head_bytes = HEAD_COST * client.head_bytes;
        self.heads += head_bytes;
        // Who can be answered at once is. Who would have to wait, for a body or the store, has no room to; but
        // there is always room for one.
        let full = self.heads > self.held_max.max(head_bytes);
        let admitted = match admitted {
            Ok(_) if full && has_body => Err(TOO_MANY_HEADS),
            admitted => admitted,
        };
        let after = match &admitted {
            Ok(_) => After::Keep,
            Err(_) => client.drop_body(&head),
        };
        let exchange = |head| {
            Some(Box::new(Exchange {
                head,
                head_bytes,
                trace,
                began: now,
                deadline: now + self.options.request_timeout,
                next: None,
            }))
        };
        let call = match admitted {
            Ok(call) if has_body => {
                // Borrowed before it is boxed away with the rest.
                client.expect(call, &head, now, &self.options);
                client.exchange = exchange(head);
                return true;
            }
            admitted => {
                client.exchange = exchange(head);
                admitted
            }
        };
        match call {
            Ok(call) => {
                let step = guarded(&self.service, || self.service.perform(call, Vec::new()))
                    .unwrap_or_else(Step::from);
                match step {
                    Step::Ask(..) if full => {
                        self.refuse(key, TOO_MANY_HEADS, After::Close, now);
                    }
                    step => self.drive(key, step, now, session),
                }
            }
            Err(problem) if problem.is_refusal() => self.refuse(key, problem, after, now),
            Err(problem) => self.finish(key, Err(problem), after, None, now),
        }
        false
    }

    /// Follows a request one step further.
    fn drive(&mut self, key: u64, mut step: Step, now: Instant, session: &mut Guarded) {
        loop {
            let (command, next) = match step {
                Step::Done(outcome) => return self.finish(key, outcome, After::Keep, None, now),
                Step::Ask(command, next) => (command, next),
            };
            let Some(exchange) = self.clients.get_mut(key).and_then(|c| c.exchange.as_mut()) else {
                return;
            };
            if now < exchange.deadline {
                exchange.next = Some(next);
                if !session.submit(now, key, command, exchange.deadline) {
                    self.finish(key, Err(Problem::INTERNAL), After::Keep, None, now);
                }
                return;
            }
            // The last answer was here in time, but nobody would wait for another. What is not asked
            // certainly does not run.
            step = guarded(&self.service, || next(Err(StoreError::Timeout)))
                .unwrap_or_else(Step::from);
        }
    }

    /// The protocol was broken: answer, count and log it. Unless the head was sound, what follows
    /// cannot be trusted, and the connection must close.
    fn refuse(&mut self, key: u64, problem: Problem, after: After, now: Instant) {
        let why = problem.detail.clone();
        self.service.shard().refused(problem.code);
        self.finish(key, Err(problem), after, Some(&why), now);
    }

    fn finish(
        &mut self,
        key: u64,
        outcome: Outcome,
        after: After,
        refused: Option<&str>,
        now: Instant,
    ) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let exchange = client.exchange.take();
        let (mut head, trace, began) = match exchange {
            Some(exchange) => {
                let Exchange { head, head_bytes, trace, began, .. } = *exchange;
                self.heads -= head_bytes;
                (Some(head), trace, began)
            }
            None => (None, self.service.trace(None), now),
        };
        let response = self.service.seal(outcome, &trace);
        let status = response.status_code().0;
        let keep_alive = head.as_ref().is_some_and(Head::keep_alive);
        let after = match self.lifecycle.state() {
            State::Draining | State::Stopped => After::Close,
            _ if !keep_alive || client.has_forgotten() => After::Close,
            _ => after,
        };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let printing = Printing {
            head_only: head
                .as_ref()
                .map_or_else(|| client.asks_head(), |h| h.method == Method::Head),
            close: after == After::Close,
            keep_alive_1_0: head.as_ref().is_some_and(|h| h.version < (1, 1)),
            date: self.date.at(seconds),
        };
        self.printed.clear();
        self.printed.shrink_to(PRINTED_KEPT_BYTES);
        http::print(response, &printing, &mut self.printed);
        // Nobody asks for its fields any more, and the client may take its time.
        if let Some(head) = &mut head {
            head.headers = Vec::new();
        }
        let account = Account { head, trace, began, refused: refused.map(str::to_owned), status };
        let lives = client.respond(&self.printed, after, now, &self.options);
        let more = client.has_more();
        if lives && client.is_answered() {
            let peer = client.peer;
            self.account(&account, End::Answered(status), peer, now);
        } else {
            client.account = Some(Box::new(account));
        }
        if !lives {
            return self.remove(key, End::Gone, now);
        }
        if more {
            self.queue(key);
        }
        self.settle(key, now);
    }

    /// Gives a client a turn in the next tick.
    fn queue(&mut self, key: u64) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            self.again.push(key);
        }
    }

    /// After a client's turn: notes its deadline, and what is kept for it. When that is too much
    /// for all clients together, the one that adds to it has to go: a thousand of the largest
    /// bodies at a time, each within its own limit, would be a gigabyte.
    fn settle(&mut self, key: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if let Some(deadline) = client.deadline() {
            self.next_check = Some(self.next_check.map_or(deadline, |t| t.min(deadline)));
        }
        let held = client.held();
        self.held = self.held - client.counted + held;
        let grew = held > client.counted;
        client.counted = held;
        if self.held <= self.held_max || !grew {
            return;
        }
        if client.is_writing() {
            let end = End::Cut("too many bytes wait to be taken");
            return self.remove(key, end, now);
        }
        if client.exchange.is_some() && !client.is_sending() {
            // Its request is under way, perhaps done by now: it gets its answer, and what it has sent behind that
            // is not kept.
            self.held -= client.forget_the_rest();
            return;
        }
        let problem = Problem::overloaded("too many bytes are being received");
        self.refuse(key, problem, After::Close, now);
    }

    /// One pass over all clients, when the earliest deadline may have come. Deadlines are seconds
    /// away and mostly never reached, so this costs less than any structure that keeps them sorted.
    ///
    /// What has come by now counts, so each of them has a turn before it is judged: the loop may not
    /// have been told. A process that was stopped for a while wakes up to a wait that was interrupted,
    /// with no events, and to deadlines long past; and one wait tells of so many clients only.
    fn check_deadlines(&mut self, now: Instant, session: &mut Guarded) {
        if self.next_check.is_none_or(|t| t > now) {
            return;
        }
        // Who has a turn coming has sent more than was read yet, and is judged after that.
        let is_due = |c: &Connection| !c.queued && c.deadline().is_some_and(|t| t <= now);
        let due: Vec<u64> =
            self.clients.iter().filter(|(_, c)| is_due(c)).map(|(key, _)| key).collect();
        for key in due {
            if let Some(client) = self.clients.get_mut(key) {
                client.look();
                self.turn(key, now, session);
            }
            let Some(client) = self.clients.get_mut(key).filter(|c| is_due(c)) else {
                continue;
            };
            match client.expired() {
                Turn::TimedOut => self.refuse(key, TOO_SLOW, After::Close, now),
                Turn::Refused => self.refuse(key, TOO_MANY, After::Close, now),
                _ => {
                    // A response that was in doubt, and that nobody has refused.
                    if !client.is_writing() {
                        self.close_account(key, None, now);
                    }
                    self.remove(key, End::Cut("not taken in time"), now);
                }
            }
        }
        let earliest = self.clients.iter().filter_map(|(_, c)| c.deadline()).min();
        self.next_check = earliest.map(|t| t.max(now + DEADLINE_STEP));
    }

    /// The service has stopped: who has not sent a whole head by now is sent home, or a single byte
    /// would hold up every restart. The others are finished.
    fn send_home(&mut self, now: Instant, session: &mut Guarded) {
        // Who has a turn coming has sent more than was read yet.
        let waits = |c: &Connection| !c.queued && c.awaits_head();
        let waiting: Vec<u64> =
            self.clients.iter().filter(|(_, c)| waits(c)).map(|(key, _)| key).collect();
        for key in waiting {
            // A request may be there that no event has told of yet.
            if let Some(client) = self.clients.get_mut(key) {
                client.look();
                self.turn(key, now, session);
            }
            if self.clients.get_mut(key).is_some_and(|c| waits(c)) {
                self.remove(key, End::Gone, now);
            }
        }
    }

    /// Lets a client go. If it has a request that is not over, this is how it ended.
    fn remove(&mut self, key: u64, end: End, now: Instant) {
        if let Some(client) = self.clients.get_mut(key)
            && let Some(exchange) = client.exchange.take()
        {
            let Exchange { head, head_bytes, trace, began, .. } = *exchange;
            self.heads -= head_bytes;
            client.account = Some(Box::new(Account {
                head: Some(head),
                trace,
                began,
                refused: None,
                status: 0,
            }));
        }
        self.close_account(key, Some(end), now);
        let Some(mut client) = self.clients.remove(key) else {
            return;
        };
        // Closing the descriptor takes it out of the poll anyway; an error changes nothing.
        let _ = self.poll.registry().deregister(client.stream());
        self.held -= client.counted;
        self.board.line(self.n).disconnected(client.refused);
    }

    /// The end of the request whose response was not out, or in doubt; `None`: it was answered.
    fn close_account(&mut self, key: u64, end: Option<End>, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let peer = client.peer;
        if let Some(account) = client.account.take() {
            let end = end.unwrap_or(End::Answered(account.status));
            self.account(&account, end, peer, now);
        }
    }

    /// A request is over.
    fn account(&self, account: &Account, end: End, peer: Option<IpAddr>, now: Instant) {
        let head = account.head.as_ref();
        if head.is_some() {
            self.board.line(self.n).request_ended();
        }
        let entry = Entry {
            method: head.map_or("-", |h| h.method.as_str()),
            target: head.map_or("-", |h| h.target.as_str()),
            end,
            refused: account.refused.as_deref(),
            took: now.saturating_duration_since(account.began),
            trace: &account.trace,
            peer,
        };
        super::account(&self.service, self.options.access_log, &entry);
    }
}

const TOO_MANY: Problem = Problem::overloaded("too many connections");

const TOO_MANY_HEADS: Problem = Problem::overloaded("too many requests are waiting");

const TOO_SLOW: Problem =
    Problem::new(408, "request_timeout", "the request did not arrive in time");
