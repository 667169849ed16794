//! Many clients, random faults, and one question asked all the time: do I read what I last wrote?
//!
//! ```text
//! 32 clients ── HTTP ──▶ kioskd ──▶ proxy ──▶ redis-server, AOF with fsync at every write
//!                                     ▲            ▲
//!                                   cuts      freezes, kills
//! ```
//!
//! Every client has an item of its own and writes numbers into it that grow. A write answered 201 must be what is read
//! until the next write; one answered 5xx may have happened, or happen a little later, so it may be read too. Anything
//! else read (an older number, nothing, somebody else's document) is a wrong answer, and so is an error that is not
//! 502, 503 or 504, or one that comes long after the deadline.
//!
//! `cargo test` runs it for ten seconds, `cargo test --release --test soak -- 600` for ten minutes; a second number
//! is the seed of the faults, which every run prints. Not under the usual harness, because that takes no duration.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use support::{Client, Cut, Kioskd, PATIENCE, Proxy, Redis, Way, eventually};

const CLIENTS: usize = 32;
const DEADLINE: Duration = Duration::from_secs(1);
/// The deadline is the service's; this much more is the machine's.
const LATE: Duration = Duration::from_secs(3);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // What `cargo test NAME` hands to every suite: a name that is not ours.
    let other = |word: &String| !word.starts_with('-') && word.parse::<u64>().is_err();
    if words.iter().any(|word| other(word) && !"soak".contains(word.as_str())) {
        return;
    }
    let mut numbers = words.iter().filter_map(|word| word.parse().ok());
    let time = Duration::from_secs(numbers.next().unwrap_or(10));
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = numbers.next().unwrap_or(clock.map_or(1, |t| t.as_nanos() as u64) | 1);
    println!("\nrunning 1 test\nsoak for {time:?}, seed {seed}");
    soak(time, seed);
    println!("test result: ok. 1 passed; 0 failed");
}

fn soak(time: Duration, seed: u64) {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::start(&redis.addr());
    let kioskd = Kioskd::start(&[
        ("FRONT", "poll"),
        ("WORKERS", "2"),
        ("REDIS_ADDR", &proxy.addr()),
        ("REQUEST_TIMEOUT", "1s"),
    ]);
    let over = AtomicBool::new(false);
    let address = kioskd.addr();
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (address, over) = (&address, &over);
                scope.spawn(move || play(n, address, over))
            })
            .collect();
        let (start, mut faults) = (Instant::now(), Faults::new(seed));
        let mut rss = Vec::new();
        while start.elapsed() < time && !clients.iter().any(|client| client.is_finished()) {
            faults.next(&mut redis, &proxy);
            rss.push(kioskd.rss_kib());
        }
        over.store(true, Ordering::SeqCst);
        println!("faults: {:?}", faults.counts);
        println!(
            "memory: {} KiB after the first fault, {} at most, {} after the last; {} descriptors",
            rss.first().unwrap_or(&0),
            rss.iter().max().unwrap_or(&0),
            rss.last().unwrap_or(&0),
            kioskd.fd_count()
        );
        for client in clients {
            total.add(&client.join().expect("no client had a wrong answer"));
        }
    });
    println!("{total:?}");
    assert!(total.stored > 0 && total.read > 0, "nothing was served");
    // When the faults end, so do the errors.
    let mut client = kioskd.connect();
    eventually("the service to recover", || client.get("/readyz").status == 200);
}

/// What happened.
#[derive(Debug, Default)]
struct Tally {
    /// Writes answered 201.
    stored: u64,
    /// Reads answered with what was to be read.
    read: u64,
    /// Reads that showed a write which had been answered 5xx.
    doubtful_read: u64,
    /// … and which came through after a later one had been answered 201.
    overtaken: u64,
    /// Errors by status and method.
    errors: BTreeMap<(u16, &'static str), u64>,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.stored += other.stored;
        self.read += other.read;
        self.doubtful_read += other.doubtful_read;
        self.overtaken += other.overtaken;
        self.slowest = self.slowest.max(other.slowest);
        for (key, n) in &other.errors {
            *self.errors.entry(*key).or_default() += n;
        }
    }
}

/// One client: a write, three reads, and again.
fn play(me: usize, address: &str, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut client = Client::connect(address);
    let path = format!("/items?id=soak-{me}");
    let (mut acknowledged, mut doubtful) = (None, Vec::new());
    let mut settled = false;
    for n in 0u64.. {
        // At the end one round more, which must succeed within a while: nobody stays broken.
        let ending = over.load(Ordering::SeqCst);
        let asked = Instant::now();
        let reply = client.post(&path, document(me, n));
        tally.slowest = tally.slowest.max(asked.elapsed());
        match reply.status {
            201 => {
                acknowledged = Some(n);
                tally.stored += 1;
                settled = ending;
            }
            status => {
                assert_honest(me, n, status, asked.elapsed());
                reply.problem();
                *tally.errors.entry((status, "POST")).or_default() += 1;
                doubtful.push(n);
            }
        }
        for _ in 0..3 {
            let asked = Instant::now();
            let reply = client.get(&path);
            tally.slowest = tally.slowest.max(asked.elapsed());
            let found = match reply.status {
                200 => Some(number(me, &reply.text())),
                404 => None,
                status => {
                    assert_honest(me, n, status, asked.elapsed());
                    reply.problem();
                    *tally.errors.entry((status, "GET")).or_default() += 1;
                    continue;
                }
            };
            if found == acknowledged {
                tally.read += 1;
                continue;
            }
            let Some(found) = found.filter(|found| doubtful.contains(found)) else {
                panic!("client {me} read {found:?} after {acknowledged:?} was acknowledged");
            };
            tally.doubtful_read += 1;
            if acknowledged.is_some_and(|n| found < n) {
                tally.overtaken += 1;
            }
        }
        if settled {
            return tally;
        }
        assert!(!ending || tally.slowest < PATIENCE, "client {me} finds no end");
    }
    tally
}

fn document(me: usize, n: u64) -> String {
    format!("{{\"of\":{me},\"n\":{n}}}")
}

/// The number in a document, which must be ours.
fn number(me: usize, text: &str) -> u64 {
    text.strip_prefix(&format!("{{\"of\":{me},\"n\":"))
        .and_then(|rest| rest.strip_suffix('}'))
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("client {me} read {text:?}"))
}

fn assert_honest(me: usize, n: u64, status: u16, after: Duration) {
    assert!([502, 503, 504].contains(&status), "client {me}, {n}: status {status}");
    assert!(after < DEADLINE + LATE, "client {me}, {n}: {status} after {after:?}");
}

/// Troubles at random, one after the other.
struct Faults {
    random: u64,
    counts: BTreeMap<&'static str, u32>,
}

impl Faults {
    fn new(seed: u64) -> Faults {
        Faults { random: seed | 1, counts: BTreeMap::new() }
    }

    fn next(&mut self, redis: &mut Redis, proxy: &Proxy) {
        let pause = self.below(700);
        std::thread::sleep(Duration::from_millis(100 + pause));
        let name = match self.below(10) {
            0 => {
                let frozen = self.below(2500);
                redis.stop();
                std::thread::sleep(Duration::from_millis(frozen));
                redis.cont();
                "freeze"
            }
            1 => {
                redis.kill();
                let away = self.below(1500);
                std::thread::sleep(Duration::from_millis(away));
                redis.restart();
                "kill -9 and restart"
            }
            2 | 3 => {
                redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                "CLIENT KILL"
            }
            4 => {
                let pause = self.below(400).to_string();
                redis.command(&["CLIENT", "PAUSE", &pause, "ALL"]);
                "CLIENT PAUSE"
            }
            5 => {
                proxy.swallow_all();
                "swallow"
            }
            6 => {
                proxy.drip_all(Duration::from_millis(1));
                "drip"
            }
            7 => {
                proxy.cut_all();
                "cut"
            }
            _ => {
                // Both workers' next connections end somewhere in their conversations.
                for way in [Way::Up, Way::Down] {
                    let after = self.below(5000) as usize;
                    proxy.cut_next(Cut { way, after });
                }
                proxy.cut_all();
                "cut within a message"
            }
        };
        *self.counts.entry(name).or_default() += 1;
    }

    /// xorshift64: a seed names a run.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }
}
