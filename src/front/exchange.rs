//! One request, from its complete head until the fate of its response is known: the same code for both fronts.
//!
//! ```text
//! begin ─▶ admit ─▶ (check, the body) ─▶ perform ─▶ Ask(command) ─▶ resume(reply) ─▶ … ─▶ End(outcome)
//!                                                                                          │
//!                                  account: counted, and logged ◀── sent ◀── print ◀───────┘
//! ```
//!
//! The front moves the bytes and keeps the time; judging, running, printing, counting and logging happen here. A panic
//! in a rule costs its own request a 500 and nothing else ([`guarded`]): a rule changes no state, it only returns a
//! value.

use super::access_log::{AccessLog, End, Entry, GONE};
use crate::http::{self, DateCache, Head, HeadIndex, Method, Printing, Response};
use crate::service::access::{self, Token};
use crate::service::metrics::Worker;
use crate::service::problem::Problem;
use crate::service::rate::Counted;
use crate::service::step::{Cx, Next, Outcome, ask};
use crate::service::trace::{given_id, made_id, trace_id};
use crate::service::traffic::{self, Kind};
use crate::service::{Route, Service};
use crate::store::Reply;
use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module's text.
pub struct Exchange {
    /// Where each part of the head is; `None` when the head could not be parsed.
    index: Option<HeadIndex>,
    /// Its number among the requests of its worker: a part of its tag in the store, and of the request id that is made
    /// when the client sent none.
    pub number: u64,
    /// When the head was complete.
    began: Instant,
    /// When the store must have answered: the store's time begins when the request is complete.
    pub deadline: Instant,
    route: Option<Route>,
    /// How to continue with the store's answer, while a command is under way.
    pub next: Option<Next>,
    /// Why the protocol refused the request, if it did.
    refused: Option<Cow<'static, str>>,
    /// How the rules have refused it, while it is still to be counted for `RATE_LIMIT`.
    refusal: Option<Box<Refusal>>,
    /// The status of the response; 0 before there is one.
    status: u16,
    /// And its size.
    bytes: usize,
    /// Who has sent it, where tokens are required.
    token: Option<Arc<Token>>,
    count: Count,
    /// The command that is under way, and since when; and how long the store has taken in all, in microseconds.
    kind: Kind,
    asked_at: Instant,
    stored: u32,
}

/// A refusal from the head alone, and whether the connection can be kept after it.
struct Refusal {
    problem: Problem,
    keep: bool,
}

/// How far the counting of a request for `RATE_LIMIT` is.
#[derive(Debug, PartialEq, Eq)]
enum Count {
    /// Not counted yet, and perhaps never.
    Before,
    /// The store has been asked to count it.
    Asked,
    /// It has been counted, or the store has not done that in time.
    Done(Option<Box<Counted>>),
}

impl Exchange {
    /// Begins the exchange of a request whose head has been read, or (without an index) of bytes that are not a valid
    /// request and still have to be answered.
    pub fn begin(index: Option<HeadIndex>, number: u64, now: Instant, time: Duration) -> Exchange {
        Exchange {
            index,
            number,
            began: now,
            deadline: now + time,
            route: None,
            next: None,
            refused: None,
            refusal: None,
            status: 0,
            bytes: 0,
            token: None,
            count: Count::Before,
            kind: Kind::TAKE,
            asked_at: now,
            stored: 0,
        }
    }

    /// The request's head; `bytes` begin with it.
    pub fn head<'a>(&'a self, bytes: &'a [u8]) -> Option<Head<'a>> {
        self.index.as_ref().map(|index| Head::new(index, bytes))
    }

    /// Notes that the response has been printed, with this status and so many bytes.
    pub fn answered(&mut self, status: u16, bytes: usize) {
        self.status = status;
        self.bytes = bytes;
    }

    /// Judges the request by its head.
    ///
    /// # Errors
    /// The request is refused; its body must not be read.
    pub fn admit(&mut self, service: &Service, bytes: &[u8]) -> Result<(), Problem> {
        let Some(index) = &self.index else { return Err(Problem::INTERNAL) };
        let head = Head::new(index, bytes);
        self.token = service.identify(&head)?;
        if let Some(token) = &self.token {
            token.may_send(access::writes(&head))?;
        }
        self.route = Some(service.admit(&head)?);
        Ok(())
    }

    /// Whether it asks if the process lives, and nothing else.
    pub fn is_liveness(&self) -> bool {
        self.route == Some(Route::Live)
    }

    /// Judges what else the head says, for a request whose body is still to come.
    ///
    /// # Errors
    /// As [`admit`](Exchange::admit).
    pub fn check(&self, service: &Service, bytes: &[u8]) -> Result<(), Problem> {
        let (Some(route), Some(cx)) = (self.route, self.cx(service, bytes, b"")) else {
            return Err(Problem::INTERNAL);
        };
        service.check(route, &cx)
    }

    /// Runs the request, now that it is complete; where there is a limit, it is counted first. `peer` gives the address
    /// of the connection.
    pub fn perform<'a>(
        &'a self,
        service: &'a Service,
        (bytes, body): (&'a [u8], &'a [u8]),
        peer: impl FnOnce() -> Option<IpAddr>,
        now: Instant,
    ) -> Outcome<'a> {
        let Some(cx) = self.cx(service, bytes, body) else {
            return Err(Problem::INTERNAL);
        };
        match (&cx.options.rate, &self.count) {
            (Some(rate), Count::Before) if self.is_counted() => {
                let client = cx.options.proxies.client(peer(), Some(&cx.head));
                // Its answer is for the exchange and not for the rules: see `counted`.
                return ask(rate.take(cx.token, client), |_, _| Err(Problem::INTERNAL));
            }
            (_, Count::Done(Some(counted))) => counted.judge()?,
            _ => {}
        }
        if let Some(refusal) = &self.refusal {
            return Err(refusal.problem.clone());
        }
        service.perform(self.route.ok_or(Problem::INTERNAL)?, &cx, now)
    }

    /// Whether it counts for `RATE_LIMIT`. A request without a route has, for example, an unknown path or an invalid
    /// token: such requests are to be limited most of all.
    fn is_counted(&self) -> bool {
        self.route.is_none_or(Route::is_counted)
    }

    /// Takes a refusal that is to be counted before it is sent; gives it back where nothing is counted.
    pub fn refuse_counted(
        &mut self,
        service: &Service,
        problem: Problem,
        keep: bool,
    ) -> Option<Problem> {
        let counts = service.options().rate.is_some() && self.is_counted();
        if !counts || problem.is_refusal() {
            return Some(problem);
        }
        self.refusal = Some(Box::new(Refusal { problem, keep }));
        None
    }

    /// Whether its connection can be kept.
    pub fn keeps(&self) -> bool {
        self.refusal.as_ref().is_none_or(|refusal| refusal.keep)
    }

    /// Notes that a command of this kind is under way, and what comes next.
    pub fn asked(&mut self, kind: Kind, next: Next, now: Instant) {
        self.next = Some(next);
        (self.kind, self.asked_at) = (kind, now);
        log::debug!("request {} of this worker asks the store: {}", self.number, kind.name());
        if kind == Kind::TAKE {
            self.count = Count::Asked;
        }
    }

    /// Notes that the command that was under way has an answer, or will have none.
    pub fn replied(&mut self, worker: &Worker, reply: &Reply, now: Instant) {
        let took = since(self.asked_at, now);
        self.stored = self.stored.saturating_add(took.as_micros() as u32);
        worker.traffic.answered(self.kind, reply, took);
        log::debug!(
            "request {}: the store answers {}: {}, after {took:?}",
            self.number,
            self.kind.name(),
            traffic::outcome_name(reply)
        );
    }

    /// Takes the store's answer if it is to the count of `RATE_LIMIT`, and returns true: then the request itself
    /// begins.
    #[inline]
    pub fn counted(&mut self, service: &Service, worker: &Worker, reply: &Reply) -> bool {
        let is_count = self.count == Count::Asked;
        if is_count {
            self.count = Count::Done(count(service, worker, reply).map(Box::new));
        }
        is_count
    }

    /// Continues with the store's answer.
    pub fn resume<'a>(
        &'a self,
        service: &'a Service,
        bytes: &'a [u8],
        body: &'a [u8],
        next: Next,
        reply: Reply<'a>,
    ) -> Outcome<'a> {
        let Some(cx) = self.cx(service, bytes, body) else {
            return Err(Problem::INTERNAL);
        };
        next(&cx, reply)
    }

    fn cx<'a>(&'a self, service: &'a Service, bytes: &'a [u8], body: &'a [u8]) -> Option<Cx<'a>> {
        let token = self.token.as_deref();
        Some(Cx { head: self.head(bytes)?, body, options: service.options(), token })
    }

    /// Notes that the request broke the protocol or exceeded its limits, rather than a rule of the service.
    pub fn refused(&mut self, worker: &Worker, problem: &Problem) {
        worker.refused(problem.code);
        self.refused = Some(problem.detail.clone());
    }

    /// Ends the request, exactly once: it is counted, and logged with its outcome. `bytes` begin with its head.
    pub fn account(
        &self,
        end: End,
        (service, worker): (&Service, &Worker),
        log: AccessLog,
        (maker, bytes): (u64, &[u8]),
        peer: impl FnOnce() -> Option<IpAddr>,
        now: Instant,
    ) {
        if self.index.is_some() {
            worker.request_ended();
        }
        let end = match end {
            End::Answered if self.status == 0 => End::Gone,
            end => end,
        };
        let took = since(self.began, now);
        let status = match end {
            End::Answered => self.status,
            End::Gone | End::Cut(_) => GONE,
        };
        let method = self.index.as_ref().map(HeadIndex::method);
        worker.traffic.responded(self.route, method, status, took);
        match end {
            End::Answered | End::Gone => worker.responded(status),
            End::Cut(_) => worker.cut(),
        }
        if !log.wants(end, self.status, self.refused.is_some()) {
            return;
        }
        let head = self.head(bytes);
        let made = made_id(maker, self.number);
        log.record(&Entry {
            method: head.map_or(b"-", |head| head.method_text()),
            target: head.map_or(b"-", |head| head.target_text()),
            status: self.status,
            end,
            refused: self.refused.as_deref(),
            route: traffic::route_name(self.route, method),
            took,
            stored: Duration::from_micros(self.stored.into()),
            bytes: self.bytes,
            request_id: head.and_then(|head| given_id(&head)).unwrap_or(&made),
            trace_id: head.as_ref().and_then(trace_id),
            peer: service.options().proxies.client(peer(), head.as_ref()),
            token: self.token.as_deref().map(|token| &*token.name),
        });
    }
}

/// The time between two moments, which most often are in one tick, and equal.
fn since(then: Instant, now: Instant) -> Duration {
    if then == now { Duration::ZERO } else { now.saturating_duration_since(then) }
}

#[cold]
fn count(service: &Service, worker: &Worker, reply: &Reply) -> Option<Counted> {
    let counted = service.options().rate.as_ref()?.quota(reply);
    worker.counted(counted.as_ref().map(|counted| counted.judge().is_ok()));
    counted
}

/// Runs the rules for one request; gives a 500 if they panic. The panic itself is logged where it happens.
///
/// # Errors
/// The rules panicked.
pub fn guarded<T>(worker: &Worker, rules: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(rules)).map_err(|_| {
        worker.panicked();
        Problem::INTERNAL
    })
}

/// Prints the responses of one worker, and numbers its requests.
#[derive(Debug)]
pub struct Printer {
    /// Which worker of which process: a random number, drawn once.
    maker: u64,
    count: u64,
    date: DateCache,
    unix_seconds: u64,
    /// The body of a problem, while it is printed.
    problem: Vec<u8>,
}

impl Printer {
    /// The printer of a worker; `maker` is a random number.
    pub fn new(maker: u64) -> Printer {
        Printer {
            maker,
            count: 0,
            date: DateCache::default(),
            unix_seconds: 0,
            problem: Vec::new(),
        }
    }

    /// The random number this printer was made with.
    pub fn maker(&self) -> u64 {
        self.maker
    }

    /// Sets the time of day for the responses printed next.
    pub fn set_time(&mut self, unix: Duration) {
        self.unix_seconds = unix.as_secs();
    }

    /// Numbers the next request.
    pub fn next_number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Appends the response of an exchange to `out`; `bytes` are its message from the first byte, or as much of it as
    /// has arrived. Gives the status, for [`Exchange::answered`]: the outcome may borrow the exchange.
    pub fn print(
        &mut self,
        service: &Service,
        exchange: &Exchange,
        bytes: &[u8],
        outcome: &Result<Response, Problem>,
        close: bool,
        out: &mut Vec<u8>,
    ) -> u16 {
        let head = exchange.head(bytes);
        let made;
        let request_id = match head.as_ref().and_then(given_id) {
            Some(id) => id,
            None => {
                made = made_id(self.maker, exchange.number);
                &made
            }
        };
        let how = Printing {
            head_only: match &head {
                Some(head) => head.method() == Method::Head,
                // However early the request is found to be wrong, the response to HEAD has no body.
                None => http::is_head(bytes) == Some(true),
            },
            close,
            keep_alive_1_0: head.is_some_and(|head| head.is_http_1_0()),
            date: self.date.at(self.unix_seconds),
            cors: service.options().origins.cors(head.as_ref(), bytes),
            quota: match &exchange.count {
                Count::Done(Some(counted)) => Some(&counted.quota),
                _ => None,
            },
            request_id,
        };
        match outcome {
            Ok(response) => {
                http::print(response, &how, out);
                response.status
            }
            Err(problem) => {
                http::print(&problem.respond(request_id, &mut self.problem), &how, out);
                problem.status
            }
        }
    }
}

#[cfg(test)]
mod tests;
