//! One request: its head is judged, its steps are taken, its response is printed and sent.
//!
//! ```text
//! head ─▶ admitted ─▶ (body) ─▶ step ─▶ Ask ─▶ the store ─▶ step …
//!   └───▶ refused ─────┐          └───▶ Done ──┐
//!                      └──── print, send ◀─────┘
//! ```

use super::super::connection::Connection;
use super::super::timers::Linked;
use super::{TOO_MANY, Worker};
use crate::front::access_log::End;
use crate::front::exchange::{Exchange, Printer, guarded};
use crate::http::{Field, Framing, Head, HeadIndex, Response};
use crate::lifecycle::{Lifecycle, State};
use crate::net::{Slab, World};
use crate::service::Service;
use crate::service::problem::Problem;
use crate::service::step::Step;
use crate::service::traffic::Kind;
use crate::store::{Reply, StoreError, Tag};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The store may take a tenth of a request's time to count it for `RATE_LIMIT`.
const COUNT_PART: u32 = 10;

const TOO_MANY_WAIT: Problem = Problem::overloaded("too many requests are waiting");

impl Worker {
    /// Begins a request. True when its body has to be read next.
    pub(super) fn head(
        &mut self,
        world: &mut dyn World,
        key: u64,
        index: HeadIndex,
        now: Instant,
    ) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let worker = self.service.metrics().worker(self.n);
        worker.request_began();
        let number = self.printer.next_number();
        let time = self.options.request_timeout;
        client.begin(Exchange::begin(Some(index), number, now, time), &mut self.pool);

        let has_body = index.framing() != Framing::Length(0);
        let body_is_here = client.has_body(index.framing());
        // A request that can be answered at once is answered. One that would have to wait, for a body or for the store,
        // is refused when the buffers are full; but a single client is never refused for that.
        let held = client.held();
        let full = self.held - client.counted() + held > self.held_max.max(held);
        let refused = client.refused;
        let Some((request, bytes, _)) = client.request() else { return false };
        let head = Head::new(&index, bytes);
        let continues = head.expects_continue();
        let expects = head.first(Field::Expect).is_some();
        let service = &self.service;
        let admitted = guarded(worker, || {
            let admitted = request.admit(service, bytes);
            // Above `MAX_CONNECTIONS` only the liveness probe is answered: without an answer a supervisor would restart
            // the process, which cures no crowd of clients.
            if refused && (has_body || !request.is_liveness()) {
                return Err(TOO_MANY);
            }
            admitted?;
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
                self.step(world, key, now, None, !full);
                false
            }
            Err(problem) => {
                let keep = client.drop_body(index.framing(), expects);
                let Some((request, ..)) = client.request() else { return false };
                match request.refuse_counted(&self.service, problem, keep) {
                    None => self.step(world, key, now, None, !full),
                    Some(problem) if problem.is_refusal() => {
                        self.refuse(world, key, problem, keep, now);
                    }
                    Some(problem) => self.end(world, key, Err(problem), keep, now),
                }
                false
            }
        }
    }

    /// Takes a client's request one step further: begins it, or continues it with the store's `reply`. Unless it
    /// `may_wait`, because the buffers are full, it is refused where it needs the store. A panic in a rule is a 500.
    pub(super) fn step(
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
        let Some(client) = self.clients.get_mut(key) else { return };
        let socket = client.socket;
        let ends = client.ends(&self.ages);
        let Some((exchange, bytes, body)) = client.request() else { return };
        let tag = tag(key, exchange.number);
        let next = exchange.next.take();
        let service = &*self.service;
        let worker = service.metrics().worker(self.n);
        let mut counted = false;
        if let (Some(reply), Some(_)) = (&reply, &next) {
            exchange.replied(worker, reply, now);
            // If it was the answer to the count of `RATE_LIMIT`, the request itself begins now.
            counted = exchange.counted(service, worker, reply);
        }
        let request = &*exchange;
        let mut step = match (reply, next) {
            (Some(reply), Some(next)) if !counted => {
                request.resume(service, bytes, body, next, reply)
            }
            // The request has been answered without this reply.
            (Some(_), None) => return,
            _ => request.perform(service, (bytes, body), || world.peer(socket), now),
        };
        let outcome = loop {
            match step {
                Err(problem) => break Err(problem),
                Ok(Step::Done(response)) => break Ok(response),
                Ok(Step::Ask(..)) if !may_wait => break Err(TOO_MANY_WAIT),
                Ok(Step::Ask(command, next)) if now < request.deadline => {
                    let kind = Kind::of(&command);
                    if self.session.submit(now, tag, command) {
                        exchange.asked(kind, next, now);
                        // A request that is not counted in time is served uncounted.
                        let time = match kind {
                            Kind::TAKE => (exchange.deadline - now) / COUNT_PART,
                            _ if counted => exchange.deadline - now,
                            _ => return,
                        };
                        return self.wait(key, time);
                    }
                    break Err(Problem::INTERNAL);
                }
                // No time is left for another command. One that is not sent certainly does not run.
                Ok(Step::Ask(_, next)) => {
                    let late = Err(StoreError::Timeout);
                    step = request.resume(service, bytes, body, next, late);
                }
            }
        };
        let keep = (may_wait || outcome.is_ok()) && request.keeps() && !ends;
        let printing = (&mut self.printer, &mut self.printed, &*self.lifecycle, &*self.service);
        let (status, close) = print(printing, request, bytes, &outcome, keep);
        if matches!(&outcome, Ok(response) if response.replayed) {
            worker.replayed();
        }
        drop(outcome);
        self.send(world, key, status, close, now);
    }

    /// The client whose request has this tag, if that still waits for the store.
    pub(super) fn waiting(&self, tag: Tag) -> Option<u64> {
        let (key, client) = self.clients.at(Slab::<Connection>::place(tag))?;
        let exchange = client.exchange().filter(|exchange| exchange.next.is_some())?;
        (self::tag(key, exchange.number) == tag).then_some(key)
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
    pub(super) fn refuse(
        &mut self,
        world: &mut dyn World,
        key: u64,
        problem: Problem,
        keep: bool,
        now: Instant,
    ) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.exchange().is_none() {
            let number = self.printer.next_number();
            client.begin(Exchange::begin(None, number, now, Duration::ZERO), &mut self.pool);
        }
        if let Some((exchange, ..)) = client.request() {
            exchange.refused(self.service.metrics().worker(self.n), &problem);
        }
        self.end(world, key, Err(problem), keep, now);
        self.note(world, key, now);
    }

    /// Answers a client's request without running it further.
    fn end(
        &mut self,
        world: &mut dyn World,
        key: u64,
        outcome: Result<Response<'_>, Problem>,
        keep: bool,
        now: Instant,
    ) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let ends = client.ends(&self.ages);
        let Some((exchange, bytes, _)) = client.request() else { return };
        exchange.next = None;
        let keep = keep && exchange.keeps() && !ends;
        let printing = (&mut self.printer, &mut self.printed, &*self.lifecycle, &*self.service);
        let (status, close) = print(printing, exchange, bytes, &outcome, keep);
        self.send(world, key, status, close, now);
    }

    /// Sends what has been printed.
    fn send(&mut self, world: &mut dyn World, key: u64, status: u16, close: bool, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some((exchange, ..)) = client.request() {
            exchange.answered(status, self.printed.len());
        }
        if !client.respond(world, &self.printed, close, now, &mut self.pool) {
            return self.remove(world, key, End::Gone, now);
        }
        if client.is_answered() {
            self.close_account(world, key, End::Answered, now);
        }
        if self.clients.get(key).is_some_and(Connection::has_more) {
            self.queue(key);
        }
    }

    /// Counts and logs the request of a client, if it has one, and ends it.
    pub(super) fn close_account(
        &mut self,
        world: &mut dyn World,
        key: u64,
        end: End,
        now: Instant,
    ) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let socket = client.socket;
        if let Some((exchange, bytes, _)) = client.request() {
            exchange.account(
                end,
                (&*self.service, self.service.metrics().worker(self.n)),
                self.options.access_log,
                (self.printer.maker(), bytes),
                || world.peer(socket),
                now,
            );
        }
        client.finish();
    }
}

/// The tag of a request in the store: the place of its client, and its number, which no other request of this worker
/// has (until four billion of them later). So a reply that comes when its request is over finds nothing: neither the
/// client's next request, nor the client that has its place now. This is the whole protection against handing one
/// user's data to another.
pub(super) fn tag(key: u64, number: u64) -> Tag {
    number << 32 | Slab::<Connection>::place(key) as u64
}

/// Prints the response to a client's request; gives its status, and whether the connection closes after it.
fn print(
    (printer, printed, lifecycle, service): (&mut Printer, &mut Vec<u8>, &Lifecycle, &Service),
    exchange: &Exchange,
    bytes: &[u8],
    outcome: &Result<Response<'_>, Problem>,
    keep: bool,
) -> (u16, bool) {
    let keep = keep && exchange.head(bytes).is_some_and(|head| head.keep_alive());
    let close = !keep || lifecycle.state() >= State::Draining;
    printed.clear();
    (printer.print(service, exchange, bytes, outcome, close, printed), close)
}
