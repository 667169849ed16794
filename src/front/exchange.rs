//! One request, from its whole head until it is known what came of its response: the same for both fronts.
//!
//! ```text
//! begin ─▶ admit ─▶ (check, the body) ─▶ perform ─▶ Ask(command) ─▶ resume(reply) ─▶ … ─▶ End(outcome)
//!                                                                                          │
//!                                  account: counted, and logged ◀── sent ◀── print ◀───────┘
//! ```
//!
//! The front moves the bytes and keeps the time; what is judged, run, printed, counted and logged is here. A panic in
//! a rule costs its own request a 500 and nothing else ([`guarded`]): a rule changes nothing but what it gives back.

use super::access_log::{AccessLog, End, Entry, GONE};
use crate::http::{self, DateCache, Head, HeadIndex, Method, Printing, Response};
use crate::service::metrics::Worker;
use crate::service::problem::Problem;
use crate::service::step::{Cx, Next, Outcome};
use crate::service::trace::{given_id, made_id, trace_id};
use crate::service::{Route, Service};
use crate::store::Reply;
use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// See the module's text.
pub struct Exchange {
    /// Where everything is in its head; `None` when that could not be read.
    index: Option<HeadIndex>,
    /// The client it came from, as the front names it.
    pub connection: u64,
    /// Its worker's count, for the id that is made when none was given.
    number: u64,
    /// When its head was complete.
    began: Instant,
    /// When the store must have answered: its time begins when the request is whole.
    pub deadline: Instant,
    route: Option<Route>,
    /// What to do with the store's answer, while that is under way.
    pub next: Option<Next>,
    /// Refused by the protocol, and why.
    refused: Option<Cow<'static, str>>,
    /// The status of the response; 0 before there is one.
    status: u16,
}

impl Exchange {
    /// A request whose head has been read; without one, something that is none and has to be answered all the same.
    pub fn begin(
        index: Option<HeadIndex>,
        connection: u64,
        number: u64,
        now: Instant,
        time: Duration,
    ) -> Exchange {
        Exchange {
            index,
            connection,
            number,
            began: now,
            deadline: now + time,
            route: None,
            next: None,
            refused: None,
            status: 0,
        }
    }

    /// Its head, which lies at the beginning of these bytes.
    pub fn head<'a>(&'a self, bytes: &'a [u8]) -> Option<Head<'a>> {
        self.index.as_ref().map(|index| Head::new(index, bytes))
    }

    /// Its response has been printed, with this status.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// Judges the request by its head.
    ///
    /// # Errors
    /// It is refused; its body is not to be read.
    pub fn admit(&mut self, service: &Service, bytes: &[u8]) -> Result<(), Problem> {
        let Some(index) = &self.index else { return Err(Problem::INTERNAL) };
        let head = Head::new(index, bytes);
        self.route = Some(service.admit(&head)?);
        Ok(())
    }

    /// Judges the rest of what the head tells, for a request whose body is still to come.
    ///
    /// # Errors
    /// As [`admit`](Exchange::admit).
    pub fn check(&self, service: &Service, bytes: &[u8]) -> Result<(), Problem> {
        let (Some(route), Some(cx)) = (self.route, self.cx(service, bytes, b"")) else {
            return Err(Problem::INTERNAL);
        };
        service.check(route, &cx)
    }

    /// Runs the request, now that it is whole.
    pub fn perform<'a>(
        &'a self,
        service: &'a Service,
        bytes: &'a [u8],
        body: &'a [u8],
        now: Instant,
    ) -> Outcome<'a> {
        let (Some(route), Some(cx)) = (self.route, self.cx(service, bytes, body)) else {
            return Err(Problem::INTERNAL);
        };
        service.perform(route, &cx, now)
    }

    /// Goes on with what the store has answered.
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
        Some(Cx { head: self.head(bytes)?, body, options: service.options() })
    }

    /// The protocol was broken or its limits were, not a rule.
    pub fn refused(&mut self, worker: &Worker, problem: &Problem) {
        worker.refused(problem.code);
        self.refused = Some(problem.detail.clone());
    }

    /// The request is over, once: it is counted, and logged as what it came to. `bytes` begin with its head.
    pub fn account(
        &self,
        end: End,
        worker: &Worker,
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
        match end {
            End::Answered => worker.responded(self.status),
            End::Gone => worker.responded(GONE),
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
            took: now.saturating_duration_since(self.began),
            request_id: head.and_then(|head| given_id(&head)).unwrap_or(&made),
            trace_id: head.as_ref().and_then(trace_id),
            peer: peer(),
        });
    }
}

/// Runs the rules of one request; 500 if they panic. The panic itself is logged where it happens.
///
/// # Errors
/// They have panicked.
pub fn guarded<T>(worker: &Worker, rules: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(rules)).map_err(|_| {
        worker.panicked();
        Problem::INTERNAL
    })
}

/// Prints the responses of one worker, and numbers its requests.
#[derive(Debug)]
pub struct Printer {
    /// Which worker of which process: random, drawn once.
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

    /// The random number it was made with.
    pub fn maker(&self) -> u64 {
        self.maker
    }

    /// The time of day of what is printed next.
    pub fn set_time(&mut self, unix: Duration) {
        self.unix_seconds = unix.as_secs();
    }

    /// The number of one more request.
    pub fn next_number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Appends the response of an exchange to `out`; `bytes` are its message from the first byte, or what there is of
    /// it. Gives the status, for [`Exchange::answered`]: the outcome may borrow the exchange.
    pub fn print(
        &mut self,
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
                // However early it is found to be wrong, the answer to a HEAD has no body.
                None => http::is_head(bytes) == Some(true),
            },
            close,
            keep_alive_1_0: head.is_some_and(|head| head.is_http_1_0()),
            date: self.date.at(self.unix_seconds),
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
