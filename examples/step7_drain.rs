//! Step 7: deadlines, and a drain. Whoever keeps us waiting has so long; and SIGTERM lets everybody finish.
//!
//! ```text
//! Idle ──first byte──▶ Reading ──whole request──▶ Asking ──reply──▶ Writing ──taken──▶ Idle
//! 75 s                 3 s, then 408              1 s, then 504     10 s
//! ```
//!
//! A phase has one deadline, which no byte renews: a client that sends one byte a second does not stay for ever. At
//! SIGTERM the listener closes, idle clients go, every answer says `Connection: close`, and with the last we exit: 0.
//!
//! What is still missing is the rest of kioskd: chunked bodies, `Expect`, closing without a reset, ids in percent
//! notation, entity tags, a Redis that fails over, more than one core, logs and metrics.
//!
//! In src/: `front/poll/timers.rs` (deadlines without looking at every client), `front/pace.rs`, `lifecycle.rs`.

#[allow(dead_code, reason = "its main is not ours")]
#[path = "step6_pipelining.rs"]
mod step6;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use step6::step5::step2::Request;
use step6::step5::step4::{command, decode, outcome};
use step6::step5::{Client, accept, listen};
use step6::{LISTENER, REDIS, Redis};

/// How often the loop looks at the deadlines.
const TICK: Duration = Duration::from_millis(100);
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A client's phases, each with the seconds that it may last. Some are short, so that you can watch them pass.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Idle = 75,
    Reading = 3,
    Asking = 1,
    Writing = 10,
}

struct Server {
    poll: Poll,
    listener: Option<TcpListener>,
    clients: HashMap<Token, Client>,
    next: usize,
    asked: HashMap<Token, Request>,
    phases: HashMap<Token, (Phase, Instant)>,
    redis: Redis,
}

fn main() -> io::Result<ExitCode> {
    // Before the address is known: whoever reads it may send the signal.
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    let (poll, mut listener) = (Poll::new()?, listen()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (clients, asked, phases) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (listener, redis) = (Some(listener), Redis::default());
    Server { poll, listener, clients, next: 2, asked, phases, redis }.run(&stop)
}

impl Server {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<ExitCode> {
        let mut events = Events::with_capacity(1024);
        let mut end = None;
        loop {
            while self.redis.flush(&self.poll).is_err() {
                self.lose_redis(502);
            }
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    REDIS => self.hear_redis(),
                    client => self.turn(client),
                }
            }
            self.enforce_deadlines();
            if stop.load(Ordering::Relaxed) {
                self.drain();
                let end = *end.get_or_insert(Instant::now() + DRAIN_TIME);
                if self.clients.is_empty() || Instant::now() > end {
                    return Ok(ExitCode::from(u8::from(!self.clients.is_empty())));
                }
            }
        }
    }

    fn accept(&mut self) {
        let first = self.next;
        if let Some(listener) = &self.listener {
            accept(listener, &self.poll, &mut self.clients, &mut self.next);
        }
        (first..self.next).for_each(|token| self.set_phase(Token(token), Phase::Idle));
    }

    fn turn(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let mut alive = client.read() && client.write();
        let mut answered = false;
        while alive && client.output.is_empty() && !self.asked.contains_key(&token) {
            let Some(mut request) = client.next_request() else { break };
            match command(&request.method, &request.path, &request.body) {
                Ok(command) => {
                    self.redis.push(token, &command);
                    self.asked.insert(token, request);
                }
                Err(status) => {
                    request.close |= self.listener.is_none();
                    client.answer(status, b"", &request);
                    answered = true;
                }
            }
            alive = client.write();
        }
        alive &= client.write();
        let phase = match (client.output.is_empty(), client.input.is_empty()) {
            _ if self.asked.contains_key(&token) => Phase::Asking,
            (false, _) => Phase::Writing,
            (_, false) => Phase::Reading,
            _ => Phase::Idle,
        };
        let waits = phase == Phase::Asking;
        if !waits && (!alive || client.is_done() || !client.look_again(&self.poll, token)) {
            return self.remove(token);
        }
        // What follows an answer is a new request, with a time of its own.
        if answered || self.phases.get(&token).is_none_or(|(old, _)| *old != phase) {
            self.set_phase(token, phase);
        }
    }

    fn set_phase(&mut self, token: Token, phase: Phase) {
        let deadline = Instant::now() + Duration::from_secs(phase as u64);
        self.phases.insert(token, (phase, deadline));
    }

    fn remove(&mut self, token: Token) {
        self.clients.remove(&token);
        self.phases.remove(&token);
        self.asked.remove(&token);
    }

    /// Looks at every client: there are a thousand at most. (kioskd has lists of those that may be due.)
    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for token in self.clients.keys().copied().collect::<Vec<_>>() {
            let phase = match self.phases.get(&token) {
                Some((phase, deadline)) if *deadline < now => *phase,
                _ => continue,
            };
            match (phase, self.clients.get_mut(&token)) {
                // Its reply may still come, and would be taken for the next one's: so this connection is over, and all
                // who wait on it hear so. Their next requests have a deadline of their own.
                (Phase::Asking, _) => self.lose_redis(504),
                (Phase::Reading, Some(client)) => {
                    client.answer(408, b"", &Request::broken());
                    self.turn(token);
                }
                _ => self.remove(token),
            }
        }
    }

    fn drain(&mut self) {
        // Who has connected by now is still served, and a request may have come that we have not seen.
        self.accept();
        self.listener = None;
        for token in self.clients.keys().copied().collect::<Vec<_>>() {
            self.turn(token);
            if self.phases.get(&token).is_some_and(|(phase, _)| *phase == Phase::Idle) {
                self.remove(token);
            }
        }
    }

    fn hear_redis(&mut self) {
        let alive = self.redis.read();
        while let Ok(Some((reply, length))) = decode(&self.redis.input) {
            self.redis.input.drain(..length);
            let Some(token) = self.redis.waiting.pop_front() else { return self.lose_redis(502) };
            if let Some(request) = self.asked.remove(&token) {
                let (status, body) = outcome(&request.method, reply);
                self.deliver(token, status, &body, request);
            }
        }
        if !alive || decode(&self.redis.input).is_err() {
            self.lose_redis(502);
        }
    }

    fn lose_redis(&mut self, status: u16) {
        for token in std::mem::take(&mut self.redis).waiting {
            if let Some(request) = self.asked.remove(&token) {
                self.deliver(token, status, b"", request);
            }
        }
    }

    fn deliver(&mut self, token: Token, status: u16, body: &[u8], mut request: Request) {
        if let Some(client) = self.clients.get_mut(&token) {
            request.close |= self.listener.is_none();
            client.answer(status, body, &request);
            // A new phase, even if the next request is here already.
            self.set_phase(token, Phase::Writing);
            self.turn(token);
        }
    }
}
