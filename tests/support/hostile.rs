//! What the hostile suites share: the services they attack, crowds of bad clients, and one good client to watch.
//!
//! The good client is the judge. A test starts a crowd, lets the good client ask again and again for as long as the
//! crowd is at work, and looks at its [`median`] and its answers. Bounds on time are orders of magnitude, because the
//! machine may be slow and busy: what they must tell apart is "served in its turn" and "waits for the others".

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Kioskd, PATIENCE, Redis};

/// Slower than this, in the median, and a client is being kept waiting by the others. Alone it takes well below 1 ms.
pub const PROMPT: Duration = Duration::from_millis(50);

/// Tests that load the machine take turns, or they would measure each other. A test that failed has its turn over.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const STORES: [&str; 2] = ["memory", "redis"];

/// Runs `test` against a new kioskd with the default front, on memory and on Redis. Both at the same time: most of what
/// these tests do is wait. The name of the thread in the report of a panic says which one it was.
#[track_caller]
pub fn for_each_store(settings: &[(&str, &str)], test: impl Fn(&Kioskd) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        let runs = STORES.map(|store| {
            let thread = std::thread::Builder::new().name(format!("STORE={store}"));
            thread.spawn_scoped(scope, move || on_store(store, settings, test))
        });
        for run in runs {
            let ended = run.expect("the system has a thread left").join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// As [`for_each_store`], one after the other, where the processor or memory of this machine is what is shared.
pub fn for_each_store_in_turn(settings: &[(&str, &str)], test: impl Fn(&Kioskd)) {
    for store in STORES {
        eprintln!("== STORE={store}");
        on_store(store, settings, &test);
    }
}

fn on_store(store: &str, settings: &[(&str, &str)], test: impl Fn(&Kioskd)) {
    let redis = (store == "redis").then(Redis::start);
    let addr = redis.as_ref().map(Redis::addr);
    let mut all = vec![("STORE", store)];
    all.extend(addr.as_deref().map(|addr| ("REDIS_ADDR", addr)));
    all.extend_from_slice(settings);
    test(&Kioskd::start(&all));
}

/// Asks for `path` on one connection until `over` says so, and at least once; returns how long each answer took.
#[track_caller]
pub fn ask_until(kioskd: &Kioskd, path: &str, mut over: impl FnMut() -> bool) -> Vec<Duration> {
    let start = Instant::now();
    let mut client = kioskd.connect();
    let mut took = Vec::new();
    loop {
        let asked = Instant::now();
        assert_eq!(client.get(path).status, 200);
        took.push(asked.elapsed());
        if over() {
            return took;
        }
        assert!(start.elapsed() < PATIENCE, "the others are not done after {PATIENCE:?}");
        // A polite client: the processor is needed by the crowd.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The middle one.
pub fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

/// How many files it has open when nobody is connected. Asks until every worker has its connection to Redis: clients
/// are handed out evenly, so eight on at most eight workers reach them all.
#[track_caller]
pub fn files_at_rest(kioskd: &Kioskd) -> usize {
    const CLIENTS: usize = 8;
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| kioskd.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/items?id=nobody").status, 404);
    }
    kioskd.fd_count() - CLIENTS
}

/// Many raw connections in one thread, none of which blocks.
pub struct Crowd {
    members: Vec<TcpStream>,
}

impl Crowd {
    /// Connects `n` clients and lets each say `first`.
    #[track_caller]
    pub fn connect(address: &str, n: usize, first: &[u8]) -> Crowd {
        allow_files(n + 200);
        let members = (0..n).map(|_| {
            let mut stream = connect(address);
            stream.write_all(first).expect("a new connection takes it");
            stream.set_nonblocking(true).expect("any socket can");
            stream
        });
        Crowd { members: members.collect() }
    }

    /// Everybody sends these bytes, where the kernel takes them.
    pub fn send(&mut self, bytes: &[u8]) {
        for member in &mut self.members {
            // Whoever has been sent home is found out when it reads.
            let _ = member.write(bytes);
        }
    }

    /// Reads what is there and lets those go whose connection has ended. Returns what these had been told.
    pub fn ended(&mut self, heard: &mut [Vec<u8>]) -> usize {
        let mut buffer = [0; 4096];
        let mut ended = 0;
        for (member, heard) in self.members.iter_mut().zip(heard) {
            loop {
                match member.read(&mut buffer) {
                    Ok(0) => {
                        ended += 1;
                        break;
                    }
                    Ok(n) => heard.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        ended += 1;
                        break;
                    }
                }
            }
        }
        ended
    }

    /// How many have been sent something. They keep it: it is looked at, not read.
    pub fn answers(&self) -> usize {
        let answered = |member: &&TcpStream| member.peek(&mut [0]).is_ok_and(|n| n > 0);
        self.members.iter().filter(answered).count()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }
}

/// A connection, tried again when the ports of this side are used up for the moment by closed ones (`TIME_WAIT`).
#[track_caller]
pub fn connect(address: &str) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).expect("a TCP socket can");
                stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket can");
                return stream;
            }
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => panic!("failed to connect to {address}: {e}"),
        }
    }
}

/// Makes sure that this process, and those it starts from now on, may open `wanted` files, or fails loudly.
///
/// The soft limit is often 1024 and may be raised up to the hard one, which is done whatever `wanted` is: other tests of
/// this process want theirs at the same time. std has no call for it; util-linux has a tool.
#[track_caller]
pub fn allow_files(wanted: usize) {
    let [soft, hard] = file_limits();
    assert!(
        hard >= wanted,
        "this test needs {wanted} open files and the hard limit (`ulimit -Hn`) is {hard}"
    );
    if soft < hard {
        limit_files(std::process::id(), &format!("{hard}:{hard}"));
    }
}

/// Sets the limit on open files of a running process: `64`, or `soft:hard`.
#[track_caller]
pub fn limit_files(pid: u32, limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={limit}")])
        .status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "failed to set the limit on open files with prlimit (util-linux): {status:?}"
    );
}

fn file_limits() -> [usize; 2] {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("these suites run on Linux");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("the kernel writes this line");
    let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap_or(usize::MAX));
    [(); 2].map(|()| numbers.next().expect("a soft and a hard limit"))
}
