//! One request as both fronts carry it: request bytes in, response bytes out, and the request is counted.
//!
//! What the rules say is tested in `service::tests`, whose requests, rules and printed responses these are.

use super::*;
use crate::http::{HeadLimits, ParseError, Parsed};
use crate::service::metrics::Status;
use crate::service::step::{Step, ask};
use crate::service::tests::{Sent, get, message, post, service_with, with_fields};
use crate::store::{Answer, Command, Reply, StoreError};

/// A front with only this request, and a service of its own.
struct Played {
    service: &'static Service,
    printer: Printer,
    bytes: Vec<u8>,
    exchange: Exchange,
    now: Instant,
}

impl Played {
    fn new(message: &str) -> Played {
        Played::with(service_with(|| true), message)
    }

    fn with(service: &'static Service, message: &str) -> Played {
        let (bytes, mut printer) = (message.as_bytes().to_vec(), Printer::new(7));
        printer.set_time(Duration::from_secs(784_111_777));
        let (now, number) = (Instant::now(), printer.next_number());
        let exchange = match http::parse(&bytes, &HeadLimits::default()) {
            Ok(Parsed::Whole(index)) => {
                service.metrics().worker(0).request_began();
                Exchange::begin(Some(index), number, now, Duration::from_secs(2))
            }
            _ => Exchange::begin(None, number, now, Duration::ZERO),
        };
        Played { service, printer, bytes, exchange, now }
    }

    fn worker(&self) -> &'static Worker {
        self.service.metrics().worker(0)
    }

    /// Runs the request; the store answers each of its commands with `reply`.
    fn run(&mut self, reply: Reply<'static>, close: bool) -> Vec<u8> {
        let (worker, mut out) = (self.worker(), Vec::new());
        let Played { service, printer, bytes, exchange, now } = self;
        let admitted = guarded(worker, || exchange.admit(service, bytes));
        let exchange = &*exchange;
        let rules = || match admitted.and_then(|admitted| admitted) {
            Err(problem) => Err(problem),
            Ok(()) => {
                let body = &bytes[exchange.index.as_ref().map_or(0, HeadIndex::len)..];
                let mut step = exchange.perform(service, (bytes, body), || None, *now);
                loop {
                    match step {
                        Ok(Step::Done(response)) => break Ok(response),
                        Err(problem) => break Err(problem),
                        Ok(Step::Ask(_, next)) => {
                            let reply = reply.clone();
                            step = exchange.resume(service, bytes, body, next, reply);
                        }
                    }
                }
            }
        };
        let outcome = guarded(worker, rules).and_then(|outcome| outcome);
        let status = printer.print(service, exchange, bytes, &outcome, close, &mut out);
        self.exchange.answered(status, out.len());
        out
    }

    fn print(&mut self, outcome: Result<Response, Problem>) -> Vec<u8> {
        let mut out = Vec::new();
        let Played { service, printer, bytes, exchange, .. } = self;
        let status = printer.print(service, exchange, bytes, &outcome, true, &mut out);
        exchange.answered(status, out.len());
        out
    }

    fn account(&self, end: End) {
        let (log, maker) = (AccessLog::Off, self.printer.maker());
        let (service, bytes) = (self.service, (maker, &*self.bytes));
        self.exchange.account(end, (service, self.worker()), log, bytes, || None, self.now);
    }

    /// Whether the metrics contain this line.
    #[track_caller]
    fn assert_counted(&self, line: &str) {
        let text = self.service.metrics().render(&Status::default(), self.now);
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn a_request_id_is_taken_when_fit_and_else_made() {
    for (id, taken) in [
        ("abc-1.2_Z", true),
        (&*"x".repeat(128), true),
        (&*"x".repeat(129), false),
        ("", false),
        ("a b", false),
        ("<script>", false),
        ("caf\u{e9}", false),
    ] {
        let request = with_fields("GET", "/items", &format!("X-Request-Id: {id}\r\n"), "");
        let sent = Sent::read(&Played::new(&request).run(Ok(Answer::Pong), false));
        let sent_id = sent.header("X-Request-Id").expect("on every response");
        assert_eq!(sent_id == id, taken, "{id} gave {sent_id}");
        assert!(sent.body.contains(&format!("\"request_id\":\"{sent_id}\"")));
    }
    // With two ids it is not clear which was meant.
    let request = with_fields("GET", "/items", "X-Request-Id: a\r\nX-Request-Id: a\r\n", "");
    let sent = Sent::read(&Played::new(&request).run(Ok(Answer::Pong), false));
    assert_ne!(sent.header("X-Request-Id"), Some("a"));
}

#[test]
fn made_request_ids_differ_between_requests_and_between_workers() {
    let mut ids = std::collections::HashSet::new();
    let mut workers = [7, 8].map(Printer::new);
    for _ in 0..2 {
        for printer in &mut workers {
            let number = printer.next_number();
            let exchange = Exchange::begin(None, number, Instant::now(), Duration::ZERO);
            let mut out = Vec::new();
            printer.print(
                service_with(|| true),
                &exchange,
                b"",
                &Ok(Response::empty(204)),
                false,
                &mut out,
            );
            ids.insert(Sent::read(&out).header("X-Request-Id").unwrap().to_owned());
        }
    }
    assert_eq!(ids.len(), 4);
}

#[test]
fn every_response_has_its_id_and_is_not_to_be_sniffed() {
    let value = Ok(Answer::Value(Some(&b"{}"[..])));
    for (request, reply) in [
        (get("/items/7"), value),
        (post("/items/7", "{}"), Ok(Answer::Stored)),
        (get("/items/7"), Err(StoreError::Timeout)),
        (get("/readyz"), Ok(Answer::Pong)),
        (get("/livez"), Ok(Answer::Pong)),
        (get("/nowhere"), Ok(Answer::Pong)),
        (message("OPTIONS", "*", ""), Ok(Answer::Pong)),
    ] {
        let sent = Sent::read(&Played::new(&request).run(reply, false));
        for name in ["X-Request-Id", "X-Content-Type-Options", "Date"] {
            assert_eq!(sent.all(name).count(), 1, "{name} to {request}");
        }
        assert_eq!(sent.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(sent.header("Date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
}

/// When the parser has refused the head the front has none, and the client still gets a problem response.
#[test]
fn a_request_that_could_not_be_read_is_answered_all_the_same() {
    let mut played = Played::new("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    let printed = played.print(Err(played.service.malformed(ParseError::HeadTooLarge)));
    let sent = Sent::read(&printed);
    assert_eq!(sent.status, 431);
    assert_eq!(sent.problem().0, "head_too_large");
    assert_eq!(sent.header("Connection"), Some("close"));
}

/// Even when the request is found to be wrong early: a body would be taken for the next response.
#[test]
fn no_answer_to_a_head_request_has_a_body() {
    for (bytes, has_body) in [
        ("HEAD / HTTP/1.1\r\nHost : a", false),
        ("HEAD /\0", false),
        ("HEAD\0", false),
        ("\r\nHEA", false),
        ("HEADS /\0", true),
        ("GET /\0", true),
        ("\0", true),
        ("", true),
    ] {
        let printed = Played::new(bytes).print(Err(ParseError::BadTarget.into()));
        let sent = Sent::read(&printed);
        assert_eq!(sent.status, 400);
        assert_eq!(!sent.body.is_empty(), has_body, "{bytes:?}");
        assert_ne!(sent.header("Content-Length"), Some("0"));
    }
    for (target, reply) in [
        ("/items/7", Ok(Answer::Value(Some(&b"{}"[..])))),
        ("/items/7", Ok(Answer::Value(None))),
        ("/items", Ok(Answer::Pong)),
        ("/nowhere", Ok(Answer::Pong)),
    ] {
        let printed = Played::new(&message("HEAD", target, "")).run(reply, false);
        let sent = Sent::read(&printed);
        assert_eq!(sent.body, "", "{target}");
        assert_ne!(sent.header("Content-Length"), Some("0"), "{target}");
    }
}

#[test]
fn the_connection_field_says_what_a_client_of_its_version_has_to_know() {
    let old = "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    for (request, close, wanted) in [
        (&*get("/livez"), false, None),
        (&*get("/livez"), true, Some("close")),
        (old, false, Some("keep-alive")),
        (old, true, Some("close")),
    ] {
        let sent = Sent::read(&Played::new(request).run(Ok(Answer::Pong), close));
        assert_eq!(sent.header("Connection"), wanted);
    }
}

#[test]
fn a_panic_in_a_rule_costs_its_own_request_a_500() {
    let mut played = Played::with(service_with(|| panic!("on purpose")), &get("/readyz"));
    let sent = Sent::read(&played.run(Ok(Answer::Pong), false));
    assert_eq!((sent.status, sent.problem().0), (500, "internal_error".to_owned()));
    played.assert_counted("kioskd_panics_total 1");

    // And in a rule that continues with a store answer.
    let outcome = ask(Command::Ping, |_, _| panic!("on purpose"));
    let Ok(Step::Ask(_, next)) = outcome else { panic!("{outcome:?}") };
    let (service, worker) = (played.service, played.worker());
    let reply = Ok(Answer::Pong);
    let goes_on = || played.exchange.resume(service, &played.bytes, b"", next, reply).is_ok();
    assert_eq!(guarded(worker, goes_on), Err(Problem::INTERNAL));
    played.assert_counted("kioskd_panics_total 2");
}

/// An error in the head is found before the body has arrived.
#[test]
fn a_head_is_checked_while_its_body_is_still_to_come() {
    for (target, status) in
        [("/items/7", None), ("/items", Some(400)), ("/items/7?ttl=0", Some(400))]
    {
        let mut played = Played::new(&post(target, "oops"));
        let Played { service, bytes, exchange, .. } = &mut played;
        exchange.admit(service, bytes).expect("the path is known");
        let fault = exchange.check(service, bytes).err();
        assert_eq!(fault.map(|problem| problem.status), status, "{target}");
    }
}

#[test]
fn a_request_is_counted_as_what_it_came_to() {
    let responses = |status| format!("kioskd_http_responses_total{{status=\"{status}\"}} 1");
    for (is_answered, end, line) in [
        (true, End::Answered, responses(404)),
        (true, End::Gone, responses(499)),
        (true, End::Cut("not taken in time"), "kioskd_http_cut_total 1".to_owned()),
        // No response was ever made for the client to take.
        (false, End::Answered, responses(499)),
        (false, End::Gone, responses(499)),
    ] {
        let mut played = Played::new(&get("/nowhere"));
        assert_eq!(played.service.metrics().in_flight(), 1);
        if is_answered {
            played.run(Ok(Answer::Pong), false);
        }
        played.account(end);
        played.assert_counted(&line);
        assert_eq!(played.service.metrics().in_flight(), 0);
    }
}

#[test]
fn what_the_protocol_refuses_is_counted_by_its_code() {
    let mut played = Played::new("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    let problem = played.service.malformed(ParseError::TooManyHeaders);
    let worker = played.worker();
    played.exchange.refused(worker, &problem);
    played.print(Err(problem));
    played.account(End::Answered);
    played.assert_counted("kioskd_http_refused_total{code=\"too_many_headers\"} 1");
    played.assert_counted("kioskd_http_responses_total{status=\"431\"} 1");
    // It never had a complete head, so it was never in flight.
    assert_eq!(played.service.metrics().in_flight(), 0);
}
