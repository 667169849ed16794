//! The harness: real processes on real sockets, and nothing left behind.
//!
//! [`Kioskd`] is the binary under test, [`Redis`] a real redis-server in a temporary directory, [`FakeRedis`] a Redis
//! that says what a test tells it to, [`ByHand`] a server played byte by byte, [`Proxy`] a bad network before a good server,
//! [`session`] the store without HTTP, [`Client`] an HTTP client that shows the bytes instead of hiding them, [`Cluster`]
//! and [`Sentinels`] several real servers that know each other, [`Balancer`] a real nginx or HAProxy as `deploy/` has it,
//! [`Prometheus`] a real one that scrapes them, [`under_load`] clients that never pause, [`texts`] runs what the documents
//! show.
//!
//! Three rules keep the suites honest on a slow machine. A test waits for an event (a line in the log, a byte on a
//! socket, the end of a process), never for an amount of time. A wait that finds nothing gives up after [`PATIENCE`]
//! and shows all it has seen. Ports come from the kernel: kioskd binds port 0 and its start-up line tells which it got.

// Every suite is its own crate and uses its own part of the harness.
#![allow(dead_code, unused_imports)]

mod balancer;
mod by_hand;
mod client;
mod cluster;
mod fake_redis;
pub mod hostile;
mod kioskd;
mod load;
mod place;
mod port;
mod process;
mod prometheus;
mod proxy;
mod redis;
mod sentinels;
pub mod session;
pub mod texts;

pub use balancer::{Balancer, Kind};
pub use by_hand::{ByHand, Caller, HELLO};
pub use client::{Client, Reply};
pub use cluster::Cluster;
pub use fake_redis::{Act, FakeRedis};
pub use kioskd::{Finished, IN_A_CONTAINER, Kioskd, needs_namespaces};
pub use load::{Journal, Op, Saw, under_load, under_load_of};
pub use port::Port;
pub use process::{on_path, temp_dir, tethered};
pub use prometheus::Prometheus;
pub use proxy::{Cut, Proxy, Way};
pub use redis::{Redis, ask};
pub use sentinels::{News, Sentinels, Switch};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a wait may last before the test fails: far longer than anything here takes, so that only a real fault
/// reaches it, and short enough that a hang is reported before the job that runs the tests is cut off.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The values of `FRONT` that this build has. What a client sees must not depend on it.
pub const FRONTS: &[&str] =
    if cfg!(feature = "poll") { &["poll", "tiny_http"] } else { &["tiny_http"] };

/// Runs `test` once for each front, and says in the captured output which one is on.
pub fn for_each_front(test: impl Fn(&str)) {
    for &front in FRONTS {
        eprintln!("== FRONT={front}");
        test(front);
    }
}

/// Runs `test` against a new kioskd for each front on each store that keeps what it is given (`noop` does not).
///
/// `settings` are added to each start. All starts share one Redis, flushed before each.
pub fn for_each_service(settings: &[(&str, &str)], test: impl Fn(&Kioskd)) {
    let redis = Redis::start();
    for &front in FRONTS {
        for store in ["memory", "redis"] {
            eprintln!("== FRONT={front} STORE={store}");
            redis.command(&["FLUSHALL"]);
            let addr = redis.addr();
            let mut all = vec![("FRONT", front), ("STORE", store)];
            if store == "redis" {
                all.push(("REDIS_ADDR", &addr));
            }
            all.extend_from_slice(settings);
            test(&Kioskd::start(&all));
        }
    }
}

/// Tells the other threads of a scope that it is over, also when what they wait for has panicked: the scope would wait for
/// them for ever, and hide it.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks `holds` until it says yes, for things that send no event of their own (another process's recovery).
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting after {PATIENCE:?}: {what}");
        // Not a guess at how long it takes: only a pause that leaves the processor to the processes waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
}
