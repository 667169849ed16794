//! One connection to one Redis, 1 to 256 commands in flight: our session, redis-rs, redis-benchmark.
//!
//! ```text
//! cargo run --release --manifest-path benches/resp/Cargo.toml [SECONDS]
//! ```
//!
//! GET of a value of 100 bytes, on a redis-server of this program's own, the contenders in turn within each round so
//! that a busy machine is busy for all. CPU is user and system time of the client alone, from `/proc/self/stat` (for
//! redis-benchmark, of the child). The table gives the median round.
//!
//! What is compared: a session of the store on the loop it has in a worker, each answer matched to its request; the
//! `MultiplexedConnection` of redis-rs on a current-thread tokio, a task for each command in flight; and
//! `redis-benchmark -c 1 -P n`, which sends n, waits for n, and parses next to nothing: a lower bound, not a peer.

use kioskd::net::{MioWorld, World};
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::options::{Options, Target};
use kioskd::store::redis::Redis;
use kioskd::store::{Answer, Command, Key, Store};
use redis::AsyncCommands;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const VALUE: [u8; 100] = [b'x'; 100];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|word| word.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    let (server, port) = start_server();
    let address = format!("127.0.0.1:{port}");
    println!("in flight | client          | commands/s | CPU µs/command");
    for in_flight in [1, 4, 16, 64, 256] {
        let mut rounds: [Vec<(f64, f64)>; 3] = Default::default();
        for _ in 0..ROUNDS {
            rounds[0].push(measure(|| ours(&address, in_flight, time)));
            rounds[1].push(measure(|| redis_rs(&address, in_flight, time)));
            let commands = (rounds[0][0].0 * time.as_secs_f64()) as u64;
            rounds[2].push(measure(|| redis_benchmark(port, in_flight, commands)));
        }
        for (name, mut rounds) in
            ["kioskd session", "redis-rs", "redis-benchmark"].into_iter().zip(rounds)
        {
            rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (rate, cpu) = rounds[ROUNDS / 2];
            println!("{in_flight:9} | {name:15} | {rate:10.0} | {cpu:6.2}");
        }
    }
    drop(server);
}

/// Commands per second, and microseconds of CPU for each.
fn measure(run: impl FnOnce() -> (u64, Duration)) -> (f64, f64) {
    let before = cpu();
    let (commands, time) = run();
    let spent = cpu() - before;
    (commands as f64 / time.as_secs_f64(), spent * 1e6 / commands as f64)
}

/// Seconds of CPU, ours and of the children that have ended.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this runs on Linux");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 =
        fields[11..15].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 / 100.0
}

fn ours(address: &str, in_flight: u64, time: Duration) -> (u64, Duration) {
    let endpoint = Endpoint::parse(address, 6379).expect("an address");
    let store = Redis::new(Target::Single(endpoint), Options::default());
    let mut world = MioWorld::for_calls().expect("a poll");
    let start = world.now();
    let mut session = store.session(&mut world, start);
    let mut ready = Vec::new();
    let get = || {
        let key = Key { prefix: "item:", id: b"1"[..].into() };
        Command::Get { key, renew: None, once: None }
    };
    let mut next = 0;
    let mut turn = |fresh: u64, answered: &mut u64| {
        let now = world.now();
        for _ in 0..fresh {
            // Of so many, none is used again while it is under way.
            next = (next + 1) % 1024;
            session.submit(now, next, get());
        }
        let replies = session.progress(&mut world, now);
        let finished = replies.len() as u64;
        for (_, answer) in replies.iter() {
            match answer {
                Ok(Answer::Value(Some(value))) => assert_eq!(value.len(), VALUE.len()),
                other => panic!("{other:?}"),
            }
        }
        session.give_back(replies);
        *answered += finished;
        if finished == 0 {
            world.wait(session.next_deadline(), &mut ready).expect("a poll");
            ready.drain(..).for_each(|ready| session.ready(ready));
        }
        finished
    };
    // Connected first: that is not what is measured.
    let mut answered = 0;
    turn(in_flight, &mut answered);
    while answered < in_flight {
        turn(0, &mut answered);
    }
    let start = Instant::now();
    let (mut answered, mut fresh) = (0, in_flight);
    while start.elapsed() < time {
        fresh = turn(fresh, &mut answered);
    }
    (answered, start.elapsed())
}

fn redis_rs(address: &str, in_flight: u64, time: Duration) -> (u64, Duration) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = redis::Client::open(format!("redis://{address}/")).expect("an address");
        let connection = client.get_multiplexed_async_connection().await.expect("a connection");
        let start = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|_| {
                let mut connection = connection.clone();
                tokio::spawn(async move {
                    let mut answered = 0;
                    while start.elapsed() < time {
                        let value: Vec<u8> = connection.get("item:1").await.expect("a value");
                        assert_eq!(value.len(), VALUE.len());
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        let mut answered = 0;
        for task in tasks {
            answered += task.await.expect("no panic");
        }
        (answered, start.elapsed())
    })
}

fn redis_benchmark(port: u16, in_flight: u64, commands: u64) -> (u64, Duration) {
    let start = Instant::now();
    let output = std::process::Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-c", "1", "-q"])
        .args(["-P", &in_flight.to_string(), "-n", &commands.to_string()])
        .args(["GET", "item:1"])
        .stderr(Stdio::null())
        .output()
        .expect("redis-benchmark is installed");
    assert!(output.status.success());
    (commands, start.elapsed())
}

fn start_server() -> (Server, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let child = std::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let server = Server(child);
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let start = Instant::now();
    loop {
        let set = client.get_connection().and_then(|mut connection| {
            redis::cmd("SET").arg("item:1").arg(&VALUE[..]).exec(&mut connection)
        });
        match set {
            Ok(()) => return (server, port),
            Err(e) => assert!(start.elapsed() < Duration::from_secs(10), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
