//! Limits that depend on each other, and on the limits of the system.
//!
//! ```text
//! files    own + WORKERS × (3 + links to Redis) + clients being refused + scrapers + MAX_CONNECTIONS  ≤ ulimit -n
//! memory   WORKERS × 2 × MAX_BODY_BYTES ≤ MAX_BUFFERED_BYTES ≤ a quarter of what the process may use
//! ```
//!
//! A value that was set stays. Where two that were set contradict each other, or one of them the system, the start
//! fails; where one is a default, the default is changed, and the log says so once. MAX_CONNECTIONS alone is lowered by
//! the system though it was set: it is a bound, and promises no room.

use super::env::{Env, count, time};
use super::settings::default_of;
use super::system::System;
#[cfg(feature = "poll")]
use crate::front::accept::REFUSALS_MAX;
use crate::front::{Front, Options, scrape};
use std::time::Duration;

/// Only the poll front sends refusals.
#[cfg(not(feature = "poll"))]
const REFUSALS_MAX: usize = 0;

const WORKERS_MAX: usize = 256;

/// Threads of the plain front: each waits for Redis during its request.
const PLAIN_WORKERS: usize = 16;

/// Files of the process itself, beside those that were open before it read its settings: two for signals, the log's own
/// stdout, the listener, poll and waker of the acceptor, its reserve, and two that are open only briefly (a name being
/// resolved, a client being turned away).
const OWN_FILES: usize = 9;

/// Files of a worker beside its links to Redis: its poll, its waker, and a second handle on the poll.
const WORKER_FILES: usize = 3;

/// A default MAX_BODY_BYTES is reduced to no less than this.
const BODY_BYTES_LEAST: usize = 1024;

/// WORKERS, or the number that suits the front.
pub(super) fn workers(env: &mut Env, kind: Front, system: &System) -> usize {
    env.read_set("WORKERS", count(1..=WORKERS_MAX)).unwrap_or(match kind {
        // Half, because the kernel and Redis have work to do for each request, too.
        Front::Poll => (system.processors / 2).clamp(1, WORKERS_MAX),
        Front::TinyHttp => PLAIN_WORKERS,
    })
}

/// Fits `limits` to each other and to the system, for a front whose workers have `links` connections to Redis each.
pub(super) fn fit(env: &mut Env, limits: &mut Options, kind: Front, links: usize, system: &System) {
    fit_files(env, limits, kind, links, system);
    if let Some(bytes) = system.memory_max.filter(|_| !env.is_set("MAX_BUFFERED_BYTES")) {
        let why = "a quarter of what this process may use";
        at_most(env, "MAX_BUFFERED_BYTES", &mut limits.buffered_bytes_max, bytes / 4, why);
    }
    if kind == Front::Poll {
        fit_buffers(env, limits, system);
    }
}

/// Clients get the files that the process leaves of those that may be open.
fn fit_files(env: &mut Env, limits: &mut Options, kind: Front, links: usize, system: &System) {
    let Some(files_max) = system.files_max else { return };
    // tiny_http accepts every client, and MAX_CONNECTIONS does not limit it.
    let refused = if kind == Front::Poll { REFUSALS_MAX } else { 0 };
    let scrapers = if env.is_set("METRICS_LISTEN") { scrape::FILES } else { 0 };
    let own = system.files_open + OWN_FILES + refused + scrapers;
    let each = WORKER_FILES + links;
    let fitting = files_max.saturating_sub(own + 1) / each;
    let workers = limits.workers;
    if fitting < workers && (env.is_set("WORKERS") || fitting == 0) {
        let least = own + each * workers + 1;
        let expected = format!(
            "with a limit of {files_max} open files (`ulimit -n`) at most {fitting}, for each needs \
             {each} and the process {own}; so many want a limit of {least} or more"
        );
        return env.fail("WORKERS", workers.to_string(), &expected);
    }
    let why = format!("the limit on open files is {files_max} (`ulimit -n`)");
    at_most(env, "WORKERS", &mut limits.workers, fitting, &why);
    if kind == Front::Poll {
        let others = own + each * limits.workers;
        let why = format!("{why}, and {others} of them are not for clients");
        at_most(env, "MAX_CONNECTIONS", &mut limits.connections_max, files_max - others, &why);
    }
}

/// A worker's share must hold a body on its way in and one on its way out, and clients are promised no more memory than
/// exists.
fn fit_buffers(env: &mut Env, limits: &mut Options, system: &System) {
    let Options { body_bytes_max, buffered_bytes_max, .. } = *limits;
    let is_body_set = env.is_set("MAX_BODY_BYTES");
    let are_buffers_set = env.is_set("MAX_BUFFERED_BYTES");
    let is_quarter = system.memory_max.is_some_and(|bytes| buffered_bytes_max == bytes / 4);
    let whose = match is_quarter && !are_buffers_set {
        true => ", a quarter of what this process may use",
        false => "",
    };
    let why = format!("MAX_BUFFERED_BYTES is {buffered_bytes_max}{whose}");
    let two = 2 * body_bytes_max;
    if !env.is_set("WORKERS") {
        let fitting = (buffered_bytes_max / two).max(1);
        at_most(env, "WORKERS", &mut limits.workers, fitting, &why);
    }
    let workers = limits.workers;
    let half_a_share = buffered_bytes_max / workers / 2;
    if body_bytes_max <= half_a_share {
        return;
    }
    if is_body_set && are_buffers_set {
        let expected =
            format!("half of a worker's share of MAX_BUFFERED_BYTES at most: {half_a_share}");
        env.wrong("MAX_BODY_BYTES", &expected);
    } else if is_body_set {
        let needed = two * workers;
        if let Some(bytes) = system.memory_max.filter(|bytes| needed > bytes / 2) {
            let expected = format!(
                "two for each of {workers} workers are more than half of the {bytes} bytes that this \
                 process may use; at most {}",
                bytes / 4 / workers
            );
            env.wrong("MAX_BODY_BYTES", &expected);
        }
        let why = format!("MAX_BODY_BYTES is {body_bytes_max}, for {workers} workers");
        gives_way(env, "MAX_BUFFERED_BYTES", &mut limits.buffered_bytes_max, needed, &why);
    } else if half_a_share >= BODY_BYTES_LEAST {
        let why = format!("{why}, for {workers} workers");
        gives_way(env, "MAX_BODY_BYTES", &mut limits.body_bytes_max, half_a_share, &why);
    } else {
        let least = 2 * BODY_BYTES_LEAST * workers;
        let (name, value) = match are_buffers_set {
            true => ("MAX_BUFFERED_BYTES", buffered_bytes_max),
            false => ("WORKERS", workers),
        };
        let expected = format!("{why}; so many workers want {least} or more");
        env.fail(name, value.to_string(), &expected);
    }
}

/// Changes a default, if it has to, and says why.
fn at_most(env: &mut Env, name: &str, value: &mut usize, most: usize, why: &str) {
    gives_way(env, name, value, most.min(*value), why);
}

/// Changes a default to another value, unless it has that value, and says why.
pub(super) fn gives_way(env: &mut Env, name: &str, value: &mut usize, to: usize, why: &str) {
    if *value != to {
        env.notes.push(format!("{name} is {to}, not {value}: {why}"));
        *value = to;
    }
}

/// Times to live: of an item, of a session, and the longest that a request may set.
pub(super) fn ttls(env: &mut Env) -> [Duration; 3] {
    let mut max = env.read("MAX_TTL", time);
    if max < Duration::from_secs(1) {
        env.wrong("MAX_TTL", "a second at least, for ?ttl= counts whole ones");
    }
    let mut ttls = ["ITEM_TTL", "SESSION_TTL"].map(|name| (name, env.read(name, time)));
    let longest = ttls.into_iter().max_by_key(|(_, ttl)| *ttl);
    if let Some((name, ttl)) = longest.filter(|(_, ttl)| !env.is_set("MAX_TTL") && *ttl > max) {
        follows(env, "MAX_TTL", name);
        max = ttl;
    }
    for (name, ttl) in ttls.iter_mut().filter(|(_, ttl)| *ttl > max) {
        if env.is_set(name) {
            let max = env.text("MAX_TTL").unwrap_or_default();
            env.wrong(name, &format!("at most MAX_TTL, which is {max}"));
        } else {
            follows(env, name, "MAX_TTL");
            *ttl = max;
        }
    }
    let [(_, item), (_, session)] = ttls;
    [item, session, max]
}

/// Changes a default to the value of another setting.
fn follows(env: &mut Env, name: &str, other: &str) {
    let (value, default) = (env.text(other).unwrap_or_default(), default_of(name));
    env.notes.push(format!("{name} is {value}, not {default}: {other} is {value}"));
}
