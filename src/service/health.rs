//! The probes: liveness and readiness, which must never be the same check.
//!
//! `/livez` checks whether this process's loops still run. It checks nothing outside: a restart does not cure a dead
//! Redis, and a liveness probe that fails for one restarts every replica at once. `/readyz` checks whether a request
//! sent now would be served, and that is a real round trip.

use super::problem::Problem;
use super::step::{Cx, Outcome, ask, done};
use crate::http::{Head, Parameter, Response};
use crate::store::{Answer, Command, Reply};
use std::rc::Rc;

const NOT_READY: Problem = Problem::new(503, "not_ready", "dependencies not ready");

/// Whether each check is to be listed (`?verbose`).
fn is_verbose(head: &Head) -> bool {
    head.query().has(Parameter::Verbose)
}

/// `/livez`: 200 `ok` while every worker's loop runs; 500 `stuck` otherwise.
///
/// # Errors
/// 500.
pub fn live<'a>(is_turning: bool) -> Outcome<'a> {
    match is_turning {
        true => done(ok()),
        false => Err(Problem::new(500, "stuck", "stuck")),
    }
}

/// `/readyz`: 200 `ok` when started, not draining, and the store answers; else 503. Of a store with several servers one
/// that serves is enough: a replica that is taken out of service for one shard would take the others with it.
///
/// # Errors
/// 503.
pub fn ready<'a>(cx: &Cx<'a>, is_ready: bool) -> Outcome<'a> {
    // A draining replica answers without asking the store: the load balancer should not wait.
    if !is_ready && !is_verbose(&cx.head) {
        return Err(NOT_READY);
    }
    ask(Command::Ping, move |cx, reply| match is_verbose(&cx.head) {
        true => done(listed(is_ready, reply)),
        false if matches!(reply, Ok(Answer::Pong | Answer::Partial(_))) => done(ok()),
        false => Err(NOT_READY),
    })
}

fn listed<'a>(is_ready: bool, reply: Reply) -> Response<'a> {
    let mut away: Rc<[String]> = Rc::default();
    let store = match reply {
        Ok(Answer::Pong) => Ok(()),
        Ok(Answer::Partial(servers)) => {
            away = servers;
            Ok(())
        }
        Ok(_) => Err("unexpected answer".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    let lifecycle = is_ready.then_some(()).ok_or_else(|| "starting or draining".to_owned());
    let all_well = is_ready && store.is_ok();
    let mut text = String::new();
    for (name, result) in [("lifecycle", lifecycle), ("store", store)] {
        text.push_str(&match result {
            Ok(()) => format!("[+] {name} ok\n"),
            Err(why) => format!("[-] {name} failed: {why}\n"),
        });
    }
    for server in &*away {
        text.push_str(&format!("[-] store server {server}\n"));
    }
    text.push_str(if all_well { "ok\n" } else { "dependencies not ready\n" });
    Response::text(if all_well { 200 } else { 503 }, text.into_bytes()).no_store()
}

fn ok<'a>() -> Response<'a> {
    Response::text(200, &b"ok"[..]).no_store()
}
