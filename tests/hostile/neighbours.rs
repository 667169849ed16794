//! One client's greed, one request's panic and one worker's death: what each costs the others.
//!
//! Greed is shown on the real binary. The faults are ours, so no client can provoke them and no setting should; here
//! the library is put together with a part that fails on demand, and driven over a real socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::support::hostile::{PROMPT, alone, ask_until, for_each_store_in_turn, median};
use crate::support::{Client, Kioskd, PATIENCE};
use kioskd::config::{Config, System};
use kioskd::front::{self, Server};
use kioskd::lifecycle::{Event, Lifecycle, State};
use kioskd::net::World;
use kioskd::service::Service;
use kioskd::service::metrics::{Metrics, Status};
use kioskd::store::{Command, Replies, Session, Store, StoreError, Tag, memory::Memory};

/// Runs `greedy` on a connection of its own while a polite client asks; both on the one worker there is.
#[track_caller]
fn assert_greed_disturbs_nobody(greedy: fn(&TcpStream, &AtomicBool) -> usize) {
    let _alone = alone();
    for_each_store_in_turn(&[("WORKERS", "1")], |kioskd: &Kioskd| {
        assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
        let mut left = 100;
        let alone = median(ask_until(kioskd, "/items?id=1", || count_down(&mut left)));
        let stop = AtomicBool::new(false);
        let stream = TcpStream::connect(kioskd.addr()).expect("it listens");
        let start = Instant::now();
        let (took, greed) = std::thread::scope(|scope| {
            let greed = scope.spawn(|| greedy(&stream, &stop));
            let mut left = 100;
            let took = ask_until(kioskd, "/items?id=1", || count_down(&mut left));
            stop.store(true, Ordering::Relaxed);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            (took, greed.join().expect("the greedy one only stops"))
        });
        let with = median(took);
        eprintln!("alone {alone:?}, beside {greed} greedy requests {with:?} in the median");
        assert!(greed > 10, "it was not greedy: {greed} requests");
        // A few of those may be before one of ours. What each of them takes is for this machine to say: a MiB of JSON on
        // a busy one 20 ms.
        let each = start.elapsed() / greed as u32;
        let most = PROMPT.max(4 * each);
        assert!(with < most, "{with:?} in the median, {alone:?} alone, {each:?} a greedy one");
    });
}

fn count_down(left: &mut usize) -> bool {
    *left -= 1;
    *left == 0
}

#[test]
fn a_client_that_pipelines_without_end_disturbs_nobody() {
    assert_greed_disturbs_nobody(|stream, stop| pipeline(stream, stop, "/items?id=1"));
}

/// The same with requests that are answered without the store, in the tick in which they are read.
#[test]
fn a_client_that_pipelines_probes_without_end_disturbs_nobody() {
    assert_greed_disturbs_nobody(|stream, stop| pipeline(stream, stop, "/livez"));
}

fn pipeline(stream: &TcpStream, stop: &AtomicBool, path: &str) -> usize {
    let requests = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(500);
    send_until(stream, stop, requests.as_bytes())
}

/// Sends these bytes again and again from one thread, and reads the responses on this one.
fn send_until(stream: &TcpStream, stop: &AtomicBool, bytes: &[u8]) -> usize {
    std::thread::scope(|scope| {
        let mut sender = stream;
        scope.spawn(
            move || {
                while !stop.load(Ordering::Relaxed) && sender.write_all(bytes).is_ok() {}
            },
        );
        count_responses(stream)
    })
}

#[test]
fn a_client_that_sends_large_bodies_without_pause_disturbs_nobody() {
    assert_greed_disturbs_nobody(|stream, stop| {
        let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(1024 * 1024 - 100));
        let request = format!(
            "POST /items?id=2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        send_until(stream, stop, request.as_bytes())
    });
}

/// Reads to the end and counts the status lines; one cut in two by a read is missed, which does not matter here.
fn count_responses(mut stream: &TcpStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        let text = buffer[..n].windows(9);
        count += text.filter(|w| w == b"HTTP/1.1 ").count();
    }
    count
}

/// The front as `main` puts it together, with a store and a status of the test's own.
struct InProcess {
    server: Server,
    events: Receiver<Event>,
    lifecycle: Arc<Lifecycle>,
    metrics: Arc<Metrics>,
}

impl InProcess {
    fn start(
        store: Arc<dyn Store>,
        status: impl Fn(bool) -> Status + Send + Sync + 'static,
    ) -> Self {
        InProcess::start_on("poll", store, status)
    }

    fn start_on(
        front: &str,
        store: Arc<dyn Store>,
        status: impl Fn(bool) -> Status + Send + Sync + 'static,
    ) -> Self {
        let settings = [("FRONT", front), ("LISTEN", "127.0.0.1:0"), ("WORKERS", "1")];
        let config = Config::read(settings, &System::look()).expect("these are good settings");
        let (lifecycle, events) = Lifecycle::new();
        let metrics = Arc::new(Metrics::new(1, Duration::ZERO, Instant::now()));
        let service = Service::new(config.service, Arc::clone(&metrics), status).into();
        let server = front::start(config.kind, config.front, service, store, &lifecycle)
            .expect("loopback has a free port");
        lifecycle.advance(State::Ready);
        InProcess { server, events, lifecycle, metrics }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.server.address)
    }

    fn stop(self) {
        self.lifecycle.advance(State::Stopped);
        self.server.wake();
        for _ in 0..self.server.threads {
            let event = self.events.recv_timeout(PATIENCE);
            assert!(matches!(event, Ok(Event::Ended { panicked: false, .. })), "{event:?}");
        }
        // Others may go on, and scrapers come: who has ended is not stuck, and holds nothing.
        let later = Instant::now() + Duration::from_secs(60);
        let text = self.metrics.render(&Status::default(), later);
        for wanted in ["kioskd_worker_tick_seconds 0", "kioskd_buffered_bytes 0"] {
            assert!(text.lines().any(|line| line == wanted), "no `{wanted}` in\n{text}");
        }
    }
}

fn well(_: bool) -> Status {
    Status { ready: true, ..Status::default() }
}

/// The log of this process, errors only: what the panic hook of `main` writes goes here too.
fn errors() -> Vec<String> {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    struct Collector;
    impl log::Log for Collector {
        fn enabled(&self, metadata: &log::Metadata) -> bool {
            metadata.level() == log::Level::Error
        }
        fn log(&self, record: &log::Record) {
            if self.enabled(record.metadata()) {
                // The panics of the other tests come here too, and the report of a failed one wants its own.
                eprintln!("{}", record.args());
                LINES.lock().expect("no collector panics").push(record.args().to_string());
            }
        }
        fn flush(&self) {}
    }
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        log::set_logger(&Collector).expect("no other test of this crate sets one");
        log::set_max_level(log::LevelFilter::Error);
        kioskd::log::log_panics();
    });
    LINES.lock().expect("no collector panics").clone()
}

/// Nothing is global: not the store, not the metrics, not the state.
#[test]
fn two_services_in_one_process_share_nothing() {
    let [one, other] = [(); 2].map(|()| InProcess::start(Arc::new(Memory::new(1 << 20)), well));
    assert_eq!(one.connect().post("/items/1", "{}").status, 201);
    assert_eq!(one.connect().get("/items/1").status, 200);
    assert_eq!(other.connect().get("/items/1").status, 404);
    let posts = |process: &InProcess| {
        let counted = r#"kioskd_http_requests_total{route="item",method="POST",status="2xx"} 1"#;
        process.connect().get("/metrics").text().lines().any(|line| line == counted)
    };
    assert_eq!((posts(&one), posts(&other)), (true, false));
    one.stop();
    assert_eq!(other.connect().post("/items/1", "{}").status, 201);
    other.stop();
}

/// The rules ask for the status in the middle of a probe, so a status that panics is a handler that panics.
#[test]
fn a_panic_in_a_handler_is_a_500_for_that_request_and_nothing_else() {
    errors();
    let bad = Arc::new(AtomicBool::new(false));
    let process = InProcess::start(Arc::new(Memory::new(1 << 20)), {
        let bad = Arc::clone(&bad);
        move |all| {
            assert!(!bad.load(Ordering::Relaxed), "a panic this test wants");
            well(all)
        }
    });
    let (mut unlucky, mut neighbour) = (process.connect(), process.connect());
    assert_eq!(neighbour.post("/items?id=1", r#"{"a":1}"#).status, 201);
    bad.store(true, Ordering::Relaxed);
    for _ in 0..100 {
        let reply = unlucky.get("/readyz");
        assert_eq!((reply.status, &*reply.problem().0), (500, "internal_error"));
        assert!(!reply.text().contains("wants"), "the text stays with us");
        assert_eq!(neighbour.get("/items?id=1").text(), r#"{"a":1}"#);
    }
    // Pipelined between good ones it is answered in its place.
    unlucky.send(
        "GET /items?id=1 HTTP/1.1\r\nHost: a\r\n\r\nGET /readyz HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /items?id=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let statuses = [(); 3].map(|()| unlucky.read_response().status);
    assert_eq!(statuses, [200, 500, 200]);
    bad.store(false, Ordering::Relaxed);
    assert_eq!(unlucky.get("/readyz").status, 200);
    let told = errors();
    let told = told
        .iter()
        .filter(|line| line.contains("worker-0") && line.contains("a panic this test wants"));
    assert_eq!(told.count(), 101);
    process.stop();
}

/// A store whose session panics when it is told to, in one of its calls; and which can refuse to open another.
#[derive(Clone)]
struct Mortal {
    inner: Memory,
    dies_in: Arc<Mutex<&'static str>>,
    last: bool,
    opened: Arc<AtomicUsize>,
}

struct MortalSession {
    inner: Box<dyn Session>,
    /// Something was submitted since the last progress.
    asked: bool,
    dies_in: Arc<Mutex<&'static str>>,
}

impl Mortal {
    fn new(last: bool) -> Mortal {
        Mortal {
            inner: Memory::new(1 << 20),
            dies_in: Arc::default(),
            last,
            opened: Arc::default(),
        }
    }

    /// The next session call of this name panics.
    fn die_in(&self, call: &'static str) {
        *self.dies_in.lock().expect("it is let go before the panic") = call;
    }
}

impl MortalSession {
    fn may_die(&self, call: &str) {
        let mut dies_in = self.dies_in.lock().expect("it is let go before the panic");
        if *dies_in == call {
            *dies_in = "";
            drop(dies_in);
            panic!("a death this test wants");
        }
    }
}

impl Store for Mortal {
    fn kind(&self) -> &'static str {
        "mortal"
    }

    fn place(&self) -> String {
        "at this test".to_owned()
    }

    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session> {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed);
        assert!(!self.last || opened == 0, "a death this test wants");
        Box::new(MortalSession {
            inner: self.inner.session(world, now),
            asked: false,
            dies_in: Arc::clone(&self.dies_in),
        })
    }
}

impl Session for MortalSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) {
        self.may_die("submit");
        self.asked = true;
        // Nobody answers this one.
        if !matches!(&command, Command::Get { key, .. } if key.to_vec() == b"item:silence") {
            self.inner.submit(now, tag, command);
        }
    }

    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies {
        // Not in the idle end of a tick, before there is anybody to hear of it.
        if std::mem::take(&mut self.asked) {
            self.may_die("progress");
        }
        self.inner.progress(world, now)
    }

    fn give_back(&mut self, replies: Replies) {
        self.inner.give_back(replies);
    }

    fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError {
        self.inner.abandon(now, tag)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.may_die("next_deadline");
        self.inner.next_deadline()
    }
}

/// A list cursor once ended the process this way: a panic in `submit`, which nothing guarded.
#[test]
fn a_panic_in_the_store_costs_requests_and_no_worker() {
    errors();
    let poll = ["submit", "progress", "next_deadline", "submit"];
    for (front, calls) in [("poll", &poll[..]), ("tiny_http", &poll[..2])] {
        let store = Mortal::new(false);
        let process = InProcess::start_on(front, Arc::new(store.clone()), well);
        let mut client = process.connect();
        assert_eq!(client.post("/items?id=1", r#"{"a":1}"#).status, 201);
        for (n, call) in (1..).zip(calls) {
            store.die_in(call);
            let reply = client.get("/items?id=1");
            match (front, *call) {
                // It was what the session was at.
                (_, "submit") | ("tiny_http", "progress") => {
                    let saw = (reply.status, &*reply.problem().0);
                    assert_eq!(saw, (500, "internal_error"));
                }
                // It may have been anybody's.
                ("poll", "progress") => {
                    let saw = (reply.status, &*reply.problem().0);
                    assert_eq!(saw, (502, "store_unreachable"));
                }
                // Before it was asked, or after it was answered.
                _ => {}
            }
            // A new session, on the same connection of the client.
            let reply = client.get("/items?id=1");
            assert_eq!((reply.status, reply.text()), (200, r#"{"a":1}"#.to_owned()));
            let metrics = client.get("/metrics").text();
            let panics = format!("kioskd_panics_total {n}\n");
            assert!(metrics.contains(&panics), "{call}: {metrics}");
        }
        process.stop();
    }
}

/// What an old session has been asked, a new one knows nothing of: who waits is told.
#[test]
fn who_waits_for_a_session_that_panics_is_told() {
    errors();
    let store = Mortal::new(false);
    let process = InProcess::start(Arc::new(store.clone()), well);
    let (mut waits, mut unlucky) = (process.connect(), process.connect());
    waits.send("GET /items?id=silence HTTP/1.1\r\nHost: a\r\n\r\n");
    // It has been read when another one, which came later, is answered twice: a tick reads all.
    for _ in 0..2 {
        assert_eq!(unlucky.get("/items?id=1").status, 404);
    }
    store.die_in("submit");
    assert_eq!(unlucky.get("/items?id=1").status, 500);
    let reply = waits.read_response();
    assert_eq!((reply.status, &*reply.problem().0), (502, "store_unreachable"));
    assert_eq!(waits.get("/items?id=1").status, 404);
    process.stop();
}

/// What `main` makes of the event, exit code 1, is tested beside it.
#[test]
fn a_worker_that_dies_is_an_event_and_closes_its_connections() {
    errors();
    let store = Mortal::new(true);
    let process = InProcess::start(Arc::new(store.clone()), well);
    let (mut first, mut second) = (process.connect(), process.connect());
    assert_eq!(first.get("/items?id=1").status, 404);
    store.die_in("progress");
    second.send("GET /items?id=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let event = process.events.recv_timeout(PATIENCE);
    assert_eq!(event, Ok(Event::Ended { thread: "worker-0".to_owned(), panicked: true }));
    assert!(first.is_closed());
    assert!(second.is_closed());
    let told = errors();
    assert!(told.iter().any(|line| line.contains("a death this test wants")), "{told:?}");
}
