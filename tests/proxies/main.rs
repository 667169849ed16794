//! Behind the proxies that people use, nobody can make kioskd act on another request than the proxy forwarded.
//!
//! ```text
//!                    one per client                kept alive, shared by all
//! clients ── streams ──▶ nginx | haproxy | httpd | varnish ──▶ relay ──▶ kioskd
//!    │                       │                                   │          │
//!    what they were told     its log                             the bytes  its log
//!    └───────────────────────┴───────────── compared ────────────┴──────────┘
//! ```
//!
//! Who finds bytes that a proxy takes for one request and its server for two, or the reverse, reads the answers of others
//! and acts in their name (request smuggling, RFC 9112 §11.2). So each of many clients sends a [stream](streams) that was
//! made to be misunderstood. The proxy marks each request it forwards with an id that no client knows, and then
//!
//! - on each connection to kioskd the answers are those to the requests, in number and in order, and each request is
//!   whole when it is answered ([`relay`]);
//! - kioskd's log has each of these requests once, its method and target as the proxy wrote them, and nothing else;
//! - the proxy's log has them in the same order for each client, each with the answer that kioskd gave to it;
//! - each client gets answers to its own requests, in the order in which the proxy forwarded them.
//!
//! [`lenient`] puts servers that are wrong in kioskd's place, and this notices.
//!
//! `KIOSKD_TEST_STREAMS=100000 cargo test --test proxies see_the_same -- --nocapture` is a long run. Every run has streams of
//! its own; they are numbered on from its seed, and the targets in a stream begin with its number. So
//! `KIOSKD_TEST_STREAMS=1 KIOSKD_TEST_SEED=0x1a2173e91a2078dd` shows the stream of `/items/s1a2173e91a2078dd-0` and plays it
//! alone.
//!
//! With Debian 12 (nginx 1.22.1, haproxy 2.6.12, httpd 2.4.71, Varnish 7.1.1) 100,000 streams for each were 674,921 requests
//! forwarded in 5½ minutes, of which kioskd refused 17,277; no fault. A kioskd that was made to find no chunks showed 11
//! faults in 1,000 streams behind httpd, 17 behind nginx, 94 behind Varnish and 343 behind haproxy.
#![cfg(all(feature = "poll", target_os = "linux"))]

mod client;
mod lenient;
mod logs;
mod mistakes;
mod proxy;
#[path = "../../fuzz/src/checks/random.rs"]
mod random;
mod reading;
mod relay;
mod scene;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use logs::Tail;
use scene::Scene;
use std::fs::File;
use std::time::{Instant, SystemTime};
use streams::{Piece, Stream};
use support::{Kioskd, temp_dir};

/// Streams for each proxy where nobody asks for more: it has to fit into the other suites.
const STREAMS: u64 = 1000;

/// Streams after which everything must come to rest and is compared.
const ROUND: u64 = 2000;

#[test]
fn nginx_and_kioskd_see_the_same_requests() {
    assert_same_requests("nginx");
}

#[test]
fn haproxy_and_kioskd_see_the_same_requests() {
    assert_same_requests("haproxy");
}

#[test]
fn httpd_and_kioskd_see_the_same_requests() {
    assert_same_requests("apache2");
}

#[test]
fn varnish_and_kioskd_see_the_same_requests() {
    assert_same_requests("varnishd");
}

/// A variable of the environment, also as `0x…`.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[track_caller]
fn assert_same_requests(proxy: &str) {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("KIOSKD_TEST_SEED")
        .unwrap_or_else(|| clock.map_or(1, |t| t.as_millis() as u64) << 20);
    let streams = number("KIOSKD_TEST_STREAMS").unwrap_or(STREAMS);
    if streams == 1 {
        show(&Stream::of(seed));
    }
    let folder = temp_dir();
    let log = folder.join("kioskd.log");
    let socket = folder.join("kioskd.sock");
    let listen = format!("unix:{}", socket.display());
    // A connection that ends because it is idle may lose a request that is on its way, which is no fault. A long run
    // would fill the store.
    let settings = [
        ("STORE", "memory"),
        ("ITEM_TTL", "30s"),
        ("ACCESS_LOG", "all"),
        ("WORKERS", "2"),
        ("IDLE_TIMEOUT", "1d"),
    ];
    let out = File::create(&log).expect("the folder is ours");
    let _kioskd = Kioskd::start_into(out, &listen, &settings);
    let mut scene = Scene::new(proxy, &socket.display().to_string(), Tail::of(log));
    let start = Instant::now();
    let mut done = 0;
    while done < streams {
        let n = ROUND.min(streams - done);
        scene.round(seed + done, n);
        done += n;
        if done == streams {
            scene.settle();
        }
        let faults = scene.tally.faults.len();
        if done % (10 * ROUND) == 0 || done == streams || faults > 0 {
            eprintln!("{proxy}, seed {seed}, {:?}: {}", start.elapsed(), scene.tally);
        }
        let first: Vec<_> = scene.tally.faults.iter().take(5).map(|f| shortened(f)).collect();
        assert!(
            first.is_empty(),
            "{proxy}, seed {seed}: {faults} faults in {done} streams. The first:\n{}\n{}",
            first.join("\n"),
            scene.proxy.complaints()
        );
    }
    // A few streams may be of any kind.
    if streams >= STREAMS {
        scene.tally.assert_it_is_worth_something();
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// For who looks for a fault.
fn show(stream: &Stream) {
    for piece in &stream.pieces {
        match piece {
            Piece::Pause => eprintln!("(a pause)"),
            Piece::Bytes(bytes) => eprintln!("{}", bytes.escape_ascii()),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(4000) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
