//! A poll front that runs, and a client that is played by its store.
//!
//! A worker calls its store once in every tick, after it has looked at every client. That makes
//! the store the place to act from: what the client did in one tick has been seen in the next, so
//! a script is played in the same way every time, on one thread, without a guess at how long
//! anything takes.
//!
//! ```text
//! tick 1   store: the client sends a piece
//! tick 2   front: reads it, asks the store …    store: answers now, or some ticks later
//! tick 3   front: responds                      store: the client reads; sends the next piece
//! ```

use super::client::{Client, PATIENCE, Script, Transcript};
use super::model::answer_of;
use kioskd::config::{Config, System};
use kioskd::front::{self, Board, Kind, Options, Running};
use kioskd::lifecycle::{Event, Lifecycle, State};
use kioskd::service::{Service, Vitals};
use kioskd::store::{Answer, Command, Done, Session, Store, StoreError, Tag, Wiring};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Small limits, so that short inputs meet them; no deadline that a slow machine could meet.
const SETTINGS: [(&str, &str); 9] = [
    ("WORKERS", "1"),
    ("MAX_HEAD_BYTES", "512"),
    ("MAX_BODY_BYTES", "200"),
    ("REQUEST_TIMEOUT", "1h"),
    ("HEAD_TIMEOUT", "1h"),
    ("BODY_TIMEOUT", "1h"),
    ("IDLE_TIMEOUT", "1h"),
    ("WRITE_TIMEOUT", "1h"),
    ("MAX_CONNECTIONS", "10"),
];

/// The front with its one worker, for one script at a time.
pub struct Front {
    service: Service,
    options: Options,
    lifecycle: Arc<Lifecycle>,
    scripts: Sender<Script>,
    transcripts: Receiver<Transcript>,
    running: Running,
    events: Receiver<Event>,
}

impl Front {
    /// Starts it on a Unix socket in the directory for temporary files.
    pub fn start() -> Front {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let n = STARTED.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("kioskd-checks-{}-{n}.sock", std::process::id()));
        let listen = format!("unix:{}", path.display());
        let settings = SETTINGS.into_iter().chain([("LISTEN", &*listen)]);
        let config = Config::read(settings, &System::look()).expect("the settings are right");

        let service = Service::new(config.service, || Vitals {
            ready: true,
            turning: true,
            connections: 0,
            in_flight: 0,
            log_lines_dropped: 0,
        });
        let (lifecycle, events) = Lifecycle::new();
        let board = Arc::new(Board::new(1, Duration::ZERO));
        let (scripts, to_play) = channel();
        let (played, transcripts) = channel();
        let stage =
            Stage { path, board: Arc::clone(&board), ways: Mutex::new(Some((to_play, played))) };
        let running = front::start(
            Kind::Poll,
            config.front.clone(),
            service.clone(),
            Arc::new(stage),
            board,
            &lifecycle,
        )
        .expect("the front starts");
        lifecycle.advance(State::Ready);
        Front { service, options: config.front, lifecycle, scripts, transcripts, running, events }
    }

    /// The rules it serves by.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The limits it has.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Plays a client from its connect to the end of its connection.
    pub fn play(&self, script: Script) -> Transcript {
        self.scripts.send(script).expect("the worker lives");
        self.running.wake();
        self.transcripts.recv_timeout(PATIENCE * 2).expect("the worker turns")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.lifecycle.advance(State::Stopped);
        self.running.wake();
        for _ in 0..self.running.threads {
            // A thread that does not end has said why; here it only leaves its socket behind.
            let _ = self.events.recv_timeout(PATIENCE);
        }
    }
}

/// The store: it makes the one session that plays.
struct Stage {
    path: PathBuf,
    board: Arc<Board>,
    ways: Mutex<Option<(Receiver<Script>, Sender<Transcript>)>>,
}

impl Store for Stage {
    fn kind(&self) -> &'static str {
        "stage"
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }

    fn session(&self, _: Wiring<'_>) -> io::Result<Box<dyn Session>> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (scripts, transcripts) = ways.ok_or(io::ErrorKind::AlreadyExists)?;
        Ok(Box::new(Actor {
            path: self.path.clone(),
            board: Arc::clone(&self.board),
            scripts,
            transcripts,
            client: None,
            asked: Vec::new(),
        }))
    }
}

struct Actor {
    path: PathBuf,
    board: Arc<Board>,
    scripts: Receiver<Script>,
    transcripts: Sender<Transcript>,
    client: Option<Client>,
    /// Answers, and the ticks until they are given.
    asked: Vec<(u32, Tag, Result<Answer, StoreError>)>,
}

impl Session for Actor {
    fn submit(&mut self, _: Instant, tag: Tag, command: Command, _: Instant) {
        let ticks = self.client.as_ref().map_or(0, Client::store_ticks);
        self.asked.push((ticks, tag, answer_of(&command)));
    }

    fn progress(&mut self, _: Instant, done: &mut Done) {
        for (ticks, tag, answer) in std::mem::take(&mut self.asked) {
            match ticks.checked_sub(1) {
                None => done.push((tag, answer)),
                Some(left) => self.asked.push((left, tag, answer)),
            }
        }
        if !done.is_empty() {
            // The tick is not over: the worker takes these and comes back.
            return;
        }
        if self.client.is_none()
            && let Ok(script) = self.scripts.try_recv()
        {
            self.client = Some(Client::connect(&self.path, script));
        }
        if let Some(client) = &mut self.client
            && let Some(end) = client.act(self.board.connections() > 0)
        {
            let transcript = client.transcript(end);
            self.client = None;
            // Nobody waits for it when the check has given up.
            let _ = self.transcripts.send(transcript);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.client.is_some().then(Instant::now)
    }
}
