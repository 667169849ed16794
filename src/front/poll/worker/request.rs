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
use crate::net::World;
use crate::service::Service;
use crate::service::problem::Problem;
use crate::service::step::Step;
use crate::service::traffic::Kind;
use crate::store::{Reply, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counting a request may take so much of its time: a tenth.
const COUNT_PART: u32 = 10;

/// The print buffer is freed when a response has made it larger than this.
const PRINTED_KEPT_BYTES: usize = 256 * 1024;

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
        let refused = client.refused;
        let admitted = guarded(worker, || {
            let admitted = request.admit(service, bytes);
            // No restart cures a crowd of clients, and most of all not one that the supervisor makes for lack of an
            // answer.
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
                self.step(world, exchange, now, None, !full);
                false
            }
            Err(problem) => {
                let keep = client.drop_body(index.framing(), expects) && !refused;
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
        let keep = (may_wait || outcome.is_ok()) && request.keeps() && !client.refused;
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
    pub(super) fn refuse(
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

    /// Ends the exchange of a client, if it has one.
    pub(super) fn close_account(
        &mut self,
        world: &mut dyn World,
        key: u64,
        end: End,
        now: Instant,
    ) {
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
