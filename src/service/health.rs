//! The probes: two questions that must never be one.
//!
//! `/livez` asks whether this process still turns. It asks nothing outside: a restart does not
//! cure a dead Redis, and a liveness probe that thinks so restarts every replica at once.
//! `/readyz` asks whether a request sent here now would be served, and that is a real round trip.

use super::Vitals;
use super::problem::Problem;
use super::step::Step;
use crate::http::{self, Head, Response};
use crate::store::{Answer, Command};

const NOT_READY: Problem = Problem::new(503, "not_ready", "dependencies not ready");

/// Whether each check is to be listed (`?verbose`).
pub fn verbose(head: &Head) -> bool {
    head.target.query().is_some_and(|q| http::query_values(q, "verbose").next().is_some())
}

/// `/livez`: 200 `ok` while every worker's loop turns; 500 `stuck` otherwise.
pub fn live(vitals: Vitals) -> Step {
    Step::Done(if vitals.turning { Ok(ok("ok")) } else { Err(Problem::new(500, "stuck", "stuck")) })
}

/// `/readyz`: 200 `ok` when started, not draining, and the store answers; else 503.
pub fn ready(vitals: Vitals, verbose: bool) -> Step {
    // A draining replica says so without asking the store: the load balancer should not wait.
    if !vitals.ready && !verbose {
        return NOT_READY.into();
    }
    Step::ask(Command::Ping, move |answer| {
        let store = answer.map(|a| a == Answer::Pong);
        if !verbose {
            return Step::Done(if store == Ok(true) { Ok(ok("ok")) } else { Err(NOT_READY) });
        }
        let mut text = String::new();
        let mut line = |name: &str, result: Result<(), String>| match result {
            Ok(()) => text.push_str(&format!("[+] {name} ok\n")),
            Err(why) => text.push_str(&format!("[-] {name} failed: {why}\n")),
        };
        line(
            "lifecycle",
            if vitals.ready { Ok(()) } else { Err("starting or draining".to_owned()) },
        );
        line(
            "store",
            match &store {
                Ok(true) => Ok(()),
                Ok(false) => Err("unexpected answer".to_owned()),
                Err(e) => Err(e.to_string()),
            },
        );
        let ready = vitals.ready && store == Ok(true);
        text.push_str(if ready { "ok\n" } else { "dependencies not ready\n" });
        Step::Done(Ok(http::text(if ready { 200 } else { 503 }, &text).with_header(no_store())))
    })
}

fn ok(text: &str) -> Response {
    http::text(200, text).with_header(no_store())
}

fn no_store() -> http::Header {
    http::header("Cache-Control", "no-store")
}
