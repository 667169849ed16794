//! A proxy between many clients and a server, and the comparison of what each of them has seen.

use crate::client::{Told, play};
use crate::logs::{Line, Logged, Tail};
use crate::proxy::Proxy;
use crate::relay::{Relay, Turn};
use crate::streams::Stream;
use crate::support::{Client, PATIENCE, eventually};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Clients at a time. Many streams end in the middle of a request, for which a proxy has up to a second's patience.
const CLIENTS: usize = 32;

/// A proxy with a server behind it.
pub struct Scene {
    relay: Relay,
    pub proxy: Proxy,
    proxy_log: Tail,
    /// varnishncsa writes what was at the same time in any order.
    log_is_in_order: bool,
    server_log: Tail,
    pub mark: String,
    /// With a log in which something is missing, and with a proxy that says nothing.
    pub patience: Duration,
    pub tally: Tally,
}

/// What has been seen.
#[derive(Default)]
pub struct Tally {
    pub streams: u64,
    forwarded: usize,
    answered: usize,
    /// Answers of which the proxy's log has none: its client had gone.
    unheard: usize,
    refused: usize,
    /// Requests that came out of the body of another.
    from_bodies: usize,
    connections: usize,
    statuses: BTreeMap<u16, usize>,
    /// The longest stream, and its seed.
    slowest: (Duration, u64),
    pub faults: Vec<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} streams; {} requests forwarded on {} connections, {} of them from bodies; {} answered, of which kioskd \
             refused {} and the proxy no longer wanted {}; {} faults; {:?}; the longest took {:?}",
            self.streams,
            self.forwarded,
            self.connections,
            self.from_bodies,
            self.answered,
            self.refused,
            self.unheard,
            self.faults.len(),
            self.statuses,
            self.slowest
        )
    }
}

impl Tally {
    /// That nothing is wrong says nothing where nothing happens.
    pub fn assert_it_is_worth_something(&self) {
        assert!(self.forwarded > self.streams as usize, "{self}");
        assert!(self.answered > self.forwarded / 2 && self.refused > 0, "{self}");
        assert!(self.unheard < self.forwarded / 10, "{self}");
        assert!(self.connections < self.forwarded / 4, "too few were kept alive: {self}");
    }
}

impl Scene {
    /// In front of the server on this Unix socket.
    #[track_caller]
    pub fn new(proxy: &str, server: &str, server_log: Tail) -> Scene {
        let chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mark = format!("M{:x}", chance.map_or(1, |t| t.as_nanos()));
        let relay = Relay::start(server, &mark);
        let log_is_in_order = proxy != "varnishd";
        let proxy = Proxy::start(proxy, &relay.addr(), &mark);
        let proxy_log = Tail::of(proxy.log.clone());
        let tally = Tally::default();
        let mut scene = Scene {
            relay,
            proxy,
            proxy_log,
            log_is_in_order,
            server_log,
            mark,
            patience: PATIENCE,
            tally,
        };
        scene.warm_up();
        scene
    }

    /// Asks until an answer's id is in the logs: Varnish's is written by a program that needs a moment, and misses what
    /// was before.
    #[track_caller]
    fn warm_up(&mut self) {
        let mut id = String::new();
        eventually("the proxy's log", || {
            let reply = Client::connect(&self.proxy.doors[0]).get("/items/warm-up");
            assert_eq!(reply.status, 404, "{reply:?}");
            reply.header("x-request-id").expect("kioskd sends one").clone_into(&mut id);
            let wait = Duration::from_millis(100);
            let lines = self.proxy_log.read_until(wait, |line| line.starts_with(&id));
            lines.iter().any(|line| line.text.starts_with(&id))
        });
        let log = &mut self.server_log;
        eventually("kioskd's log", || log.read().iter().any(|line| line.contains(&id)));
        self.relay.take();
    }

    /// Plays these streams, waits until all is at rest, and compares.
    #[track_caller]
    pub fn round(&mut self, first: u64, count: u64) {
        let next = AtomicU64::new(first);
        let told: Vec<Told> = std::thread::scope(|scope| {
            let players: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut told = Vec::new();
                        loop {
                            let seed = next.fetch_add(1, Ordering::Relaxed);
                            if seed >= first + count {
                                return told;
                            }
                            told.push(play(&Stream::of(seed), self));
                        }
                    })
                })
                .collect();
            players.into_iter().flat_map(|p| p.join().expect("no player panics")).collect()
        });
        self.tally.streams += count;
        eventually("every forwarded request to be over", || self.relay.is_quiet());
        let (turns, faults) = self.relay.take();
        self.tally.faults.extend(faults);
        self.count(&turns);
        self.compare_with_proxy(&turns);
        self.compare_with_server(&turns);
        self.compare_with_clients(&turns, &told);
    }

    /// Compares what may have come late. kioskd logs nothing before the relay has seen that it begins, so this is all.
    pub fn settle(&mut self) {
        self.round(0, 0);
    }

    fn count(&mut self, turns: &[Turn]) {
        let tally = &mut self.tally;
        tally.connections = self.relay.connections();
        tally.forwarded += turns.len();
        tally.from_bodies += turns.iter().filter(|turn| turn.line.contains("-hidden")).count();
        for answer in turns.iter().filter_map(|turn| turn.answer.as_ref()) {
            tally.answered += 1;
            *tally.statuses.entry(answer.status).or_default() += 1;
            tally.refused += usize::from(answer.closes && answer.status >= 400);
        }
    }

    /// The proxy gave each answer to the request that it was given to, in the order in which it forwarded them.
    fn compare_with_proxy(&mut self, turns: &[Turn]) {
        let mut known: HashMap<&str, &Turn> = HashMap::new();
        for turn in turns.iter().filter(|turn| !turn.id.is_empty()) {
            if known.insert(&turn.id, turn).is_some() {
                self.tally.faults.push(format!("forwarded twice: {turn:?}"));
            }
        }
        let mut missing: HashSet<&str> = known.keys().copied().collect();
        let lines = self.proxy_log.read_until(self.patience, |line| {
            missing.remove(line.split(' ').next().unwrap_or_default());
            missing.is_empty()
        });
        let mut faults = Vec::new();
        faults.extend(missing.iter().map(|id| format!("not in the proxy's log: {:?}", known[id])));
        let mut order: HashMap<&str, Vec<&str>> = HashMap::new();
        for Line { text: line, was_kept } in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [id, method, _, answer] = words[..] else {
                if line.starts_with(&self.mark) {
                    faults.push(format!("what does the proxy's log say? {line}"));
                }
                continue;
            };
            let Some(turn) = known.get(id) else {
                // What the proxy answered itself, or what is still to come.
                if !was_kept {
                    self.proxy_log.keep(line.clone());
                } else if answer.starts_with(&self.mark) {
                    faults.push(format!("an answer to what was not forwarded: {line}"));
                }
                continue;
            };
            if self.log_is_in_order {
                order.entry(client_of(id)).or_default().push(id);
            }
            let right = turn.answer.as_ref().map_or("", |answer| &answer.id);
            if answer == "-" {
                self.tally.unheard += usize::from(turn.answer.is_some());
            } else if answer != right {
                faults.push(format!("the proxy took another answer: {line} for {turn:?}"));
            }
            // Logs write other bytes in ways of their own.
            let is_plain = |method: &&str| method.bytes().all(|b| b.is_ascii_alphanumeric());
            let meant = turn.line.split(' ').next().filter(is_plain);
            if meant.is_some_and(|meant| meant != method) {
                faults.push(format!("the proxy meant another method: {line} for {turn:?}"));
            }
        }
        let mut forwarded: HashMap<&str, Vec<&str>> = HashMap::new();
        for turn in turns.iter().filter(|turn| !turn.id.is_empty()) {
            forwarded.entry(client_of(&turn.id)).or_default().push(&turn.id);
        }
        for (client, ids) in forwarded {
            if order.get(client).is_some_and(|order| *order != ids) {
                let order = &order[client];
                faults.push(format!(
                    "the proxy's log has {order:?}, the wire has {ids:?}: {:?}",
                    ids.iter().map(|id| known[id]).collect::<Vec<_>>()
                ));
            }
        }
        self.tally.faults.extend(faults);
    }

    /// kioskd acted on each request once, and on nothing else.
    fn compare_with_server(&mut self, turns: &[Turn]) {
        let log = &mut self.server_log;
        let mut wanted: HashMap<&str, &Turn> = HashMap::new();
        for turn in turns {
            if let Some(answer) = &turn.answer {
                wanted.insert(&answer.id, turn);
            }
        }
        let cut: HashMap<&str, &Turn> =
            turns.iter().filter(|turn| turn.answer.is_none()).map(|t| (&*t.id, t)).collect();
        let mut missing: HashSet<&str> = wanted.keys().copied().collect();
        let lines = log.read_until(self.patience, |line| {
            if let Some(entry) = Logged::read(line) {
                missing.remove(entry.id);
            }
            missing.is_empty()
        });
        let mut faults = Vec::new();
        faults.extend(missing.iter().map(|id| format!("not in kioskd's log: {:?}", wanted[id])));
        for Line { text, was_kept } in &lines {
            let Some(entry) = Logged::read(text) else { continue };
            match wanted.remove(entry.id) {
                Some(turn) if !entry.is(turn) => {
                    faults.push(format!("kioskd read {entry:?}, and the proxy wrote {turn:?}"));
                }
                Some(_) => {}
                None if cut.contains_key(entry.id) && entry.status == "499" => {}
                None if !was_kept => log.keep(text.clone()),
                None => faults.push(format!("kioskd acted on what nobody forwarded: {entry:?}")),
            }
        }
        self.tally.faults.extend(faults);
    }

    /// Each client was told about its own requests, in their order.
    fn compare_with_clients(&mut self, turns: &[Turn], told: &[Told]) {
        let mut answers: HashMap<&str, Vec<&str>> = HashMap::new();
        for turn in turns {
            answers.entry(client_of(&turn.id)).or_default().push(&turn.id);
        }
        for told in told {
            let Told { seed, client, ids, hangs, took } = told;
            self.tally.slowest = self.tally.slowest.max((*took, *seed));
            if *hangs {
                self.tally.faults.push(format!("the stream of {seed} has no end"));
            }
            let mut own = answers.get(client.as_str()).into_iter().flatten();
            if !ids.iter().all(|id| own.any(|own| own == id)) {
                let own = answers.get(client.as_str());
                self.tally.faults.push(format!(
                    "the stream of {seed} from {client} was told of {ids:?}; it had asked {own:?}"
                ));
            }
        }
    }
}

/// The ports in `MARK-DOOR.CLIENT-…`.
fn client_of(id: &str) -> &str {
    id.split('-').nth(1).unwrap_or_default()
}
