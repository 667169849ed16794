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
use super::model::Given;
use kioskd::config::{Config, System};
use kioskd::front::{self, Options, Server};
use kioskd::lifecycle::{Event, Lifecycle, State};
use kioskd::net::World;
use kioskd::service::Service;
use kioskd::service::metrics::{Metrics, Status};
use kioskd::store::{Command, Replies, Session, Store, StoreError, Tag};
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
    service: Arc<Service>,
    options: Options,
    lifecycle: Arc<Lifecycle>,
    scripts: Sender<Script>,
    transcripts: Receiver<Transcript>,
    server: Server,
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

        let metrics = Arc::new(Metrics::new(1, Duration::ZERO, Instant::now()));
        let service = Service::new(config.service, Arc::clone(&metrics), |_| Status {
            ready: true,
            ..Status::default()
        });
        let service = Arc::new(service);
        let (lifecycle, events) = Lifecycle::new();
        let (scripts, to_play) = channel();
        let (played, transcripts) = channel();
        let stage = Stage { path, metrics, ways: Mutex::new(Some((to_play, played))) };
        let server = front::start(
            front::Front::Poll,
            config.front.clone(),
            Arc::clone(&service),
            Arc::new(stage),
            &lifecycle,
        )
        .expect("the front starts");
        lifecycle.advance(State::Ready);
        Front { service, options: config.front, lifecycle, scripts, transcripts, server, events }
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
        self.server.wake();
        self.transcripts.recv_timeout(PATIENCE * 2).expect("the worker turns")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.lifecycle.advance(State::Stopped);
        self.server.wake();
        for _ in 0..self.server.threads {
            // A thread that does not end has said why; here it only leaves its socket behind.
            let _ = self.events.recv_timeout(PATIENCE);
        }
    }
}

/// The store: it makes the one session that plays.
struct Stage {
    path: PathBuf,
    metrics: Arc<Metrics>,
    ways: Mutex<Option<(Receiver<Script>, Sender<Transcript>)>>,
}

impl Store for Stage {
    fn kind(&self) -> &'static str {
        "stage"
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }

    fn session(&self, _: &mut dyn World, _: Instant) -> Box<dyn Session> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (scripts, transcripts) = ways.expect("the only worker opens one session");
        Box::new(Actor {
            path: self.path.clone(),
            metrics: Arc::clone(&self.metrics),
            scripts,
            transcripts,
            client: None,
            asked: Vec::new(),
        })
    }
}

struct Actor {
    path: PathBuf,
    metrics: Arc<Metrics>,
    scripts: Receiver<Script>,
    transcripts: Sender<Transcript>,
    client: Option<Client>,
    /// Answers, and the ticks until they are given.
    asked: Vec<(u32, Tag, Given)>,
}

impl Session for Actor {
    fn submit(&mut self, _: Instant, tag: Tag, command: Command<'_>) {
        let ticks = self.client.as_ref().map_or(0, Client::store_ticks);
        self.asked.push((ticks, tag, Given::to(&command)));
    }

    fn progress(&mut self, _: &mut dyn World, _: Instant) -> Replies {
        let mut replies = Replies::default();
        for (ticks, tag, given) in std::mem::take(&mut self.asked) {
            match ticks.checked_sub(1) {
                None => given.push(tag, &mut replies),
                Some(left) => self.asked.push((left, tag, given)),
            }
        }
        if !replies.is_empty() {
            // The tick is not over: the worker takes these and comes back.
            return replies;
        }
        if self.client.is_none()
            && let Ok(script) = self.scripts.try_recv()
        {
            self.client = Some(Client::connect(&self.path, script));
        }
        if let Some(client) = &mut self.client
            && let Some(end) = client.act(self.metrics.connections() > 0)
        {
            let transcript = client.transcript(end);
            self.client = None;
            // Nobody waits for it when the check has given up.
            let _ = self.transcripts.send(transcript);
        }
        replies
    }

    fn give_back(&mut self, _: Replies) {}

    fn abandon(&mut self, _: Instant, tag: Tag) -> StoreError {
        self.asked.retain(|(_, asked, _)| *asked != tag);
        StoreError::Timeout
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.client.is_some().then(Instant::now)
    }
}
