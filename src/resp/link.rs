//! The line to one server, kept up: resolve, connect, sign on, serve, and again.
//!
//! ```text
//!            ┌────────────── any fault, after a wait with jitter ──────────────┐
//!            ▼                                                                 │
//!   Down ─▶ Resolving ─▶ Connecting (each address in turn) ─▶ SigningOn ─▶ Up ─┘
//! ```
//!
//! There is never more than one attempt under way, and every step has a deadline.
//!
//! After [`PATIENCE`] without a connection the server is *known to be away*: the client then fails
//! requests at once instead of letting each of them wait out its deadline, and the next attempt
//! of this link decides when it is back.

use super::advice::advice;
use super::backoff::Backoff;
use super::codec::Limits;
use super::connection::{Connection, Fault, Heard};
use super::credentials::Secret;
use super::endpoint::Endpoint;
use super::resolve::Lookup;
use super::sign_on::{self, SignOn};
use super::tls;
use crate::stream::{BOTH, Stream};
use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Registry, Token, Waker};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long requests wait for a lost server to come back before they are turned away at once. A
/// restart or a dropped connection is over sooner; an outage is not.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Waits between attempts: up to 50 ms at first, up to one second in an outage, so that the
/// service has found its way back before the next readiness probe asks.
const RETRY_FLOOR: Duration = Duration::from_millis(10);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// No wait is longer than this while requests still wait for the server to come back.
const RETRY_SOON: Duration = Duration::from_millis(100);

/// For so many attempts since the last healthy connection.
const SOON_TRIES: u32 = 12;

/// After a refusal: a wrong password stays wrong, some servers lock out those who hammer, and one
/// that is full gets no emptier by being asked.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// A connection that has lived this long starts the series of waits anew when it is lost, and may
/// be renewed; a younger one would be thrown away as fast as it is made.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// All of signing on, however many commands it takes.
const SIGN_ON_TIMEOUT: Duration = Duration::from_secs(1);

/// The `id` of commands that belong to no request (keys of a `Slab` count up from zero).
pub const NOBODY: u64 = u64::MAX;

/// As a default; see [`Options::queue_bytes_max`].
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How one server is reached and what may pass.
#[derive(Debug, Clone)]
pub struct Options {
    /// For one address; a name with several has them tried in turn.
    pub connect_timeout: Duration,
    /// A connection on which commands wait and none is answered for this long is replaced.
    pub stall_timeout: Duration,
    /// Who we are and what the server has to be.
    pub sign_on: sign_on::Options,
    /// Where the password is; read again for every connection, so that it can be changed.
    pub password_file: Option<PathBuf>,
    /// For `rediss://`.
    pub tls: Option<tls::Config>,
    /// What a reply may be.
    pub limits: Limits,
    /// Bytes of commands that may be under way or waiting in one client; one more is refused. On a
    /// connection the bytes that wait for the kernel count as well, whoever still waits for them.
    pub queue_bytes_max: usize,
}

impl Default for Options {
    /// One server without a password, and the times of API.md.
    fn default() -> Options {
        Options {
            connect_timeout: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(2),
            sign_on: sign_on::Options::default(),
            password_file: None,
            tls: None,
            limits: Limits::default(),
            queue_bytes_max: QUEUE_BYTES_MAX,
        }
    }
}

/// What every link of a worker shares: the worker's poll.
#[derive(Debug, Clone)]
pub struct Wires {
    /// Where sockets are registered.
    pub registry: Rc<Registry>,
    /// Wakes the worker from a resolver thread.
    pub waker: Arc<Waker>,
    /// The next free token. Every connection gets one of its own, so that a late event of one is
    /// not taken for one of the next.
    pub next_token: Rc<Cell<usize>>,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Away {
    /// No such name, connection refused, and the like.
    Unreachable(String),
    /// It took the connection, or the packets, and said nothing.
    Silent(String),
    /// It does not let us in: an error in our settings, or in its.
    Refused(String),
}

/// What happened on the link since it was last asked.
#[derive(Debug, Default)]
pub struct Events {
    /// What the server said.
    pub heard: Heard,
    /// Commands that lost their connection.
    pub lost: Vec<Lost>,
}

/// A command that lost its connection.
#[derive(Debug)]
pub struct Lost {
    /// The request it belongs to.
    pub id: u64,
    /// The kernel had taken all of it, so it may have run; otherwise it certainly did not.
    pub sent: bool,
    /// It may be sent again even though it has been, as far as the connection is concerned.
    pub again: bool,
    /// What happened to the connection.
    pub why: Away,
}

/// See the module's text.
pub struct Link {
    endpoint: Endpoint,
    options: Options,
    wires: Wires,
    token: Token,
    state: State,
    backoff: Backoff,
    away_since: Option<Instant>,
    away: Option<Away>,
    /// An attempt has failed since there was a connection.
    tried: bool,
    /// Take no more commands, and connect anew when the present ones are answered.
    renew: bool,
}

enum State {
    Down {
        until: Instant,
    },
    Resolving {
        lookup: Lookup,
        until: Instant,
    },
    Connecting {
        connection: Connection,
        rest: VecDeque<SocketAddr>,
        until: Instant,
        password: Option<Secret>,
    },
    SigningOn {
        connection: Connection,
        sign_on: SignOn,
        until: Instant,
    },
    Up {
        connection: Connection,
        since: Instant,
    },
}

impl Link {
    /// A link that is down; the first [`progress`](Link::progress) starts to bring it up.
    pub fn new(endpoint: Endpoint, options: Options, wires: Wires, now: Instant) -> Link {
        Link {
            endpoint,
            options,
            wires,
            // Nobody's, until there is a socket.
            token: Token(usize::MAX),
            state: State::Down { until: now },
            backoff: Backoff::new(RETRY_FLOOR, RETRY_BASE, RETRY_CAP),
            away_since: None,
            away: None,
            tried: false,
            renew: false,
        }
    }

    /// The server at the other end.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection, when commands can be pushed into it.
    pub fn up(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Up { connection, .. } if !self.renew => Some(connection),
            _ => None,
        }
    }

    /// Whether commands can be pushed.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. }) && !self.renew
    }

    /// Whether there may be more to read, of which no event will tell.
    pub fn has_more(&self) -> bool {
        matches!(&self.state, State::Up { connection, .. } if connection.has_more())
    }

    /// Commands that wait for their replies on this link.
    pub fn in_flight(&self) -> usize {
        match &self.state {
            State::Up { connection, .. } => connection.in_flight(),
            _ => 0,
        }
    }

    /// Why the last attempt failed, since the last connection; `None` while all is well or
    /// nothing is known yet.
    pub fn away(&self) -> Option<&Away> {
        self.away.as_ref()
    }

    /// As [`away`](Link::away), but only when it has been so for longer than [`PATIENCE`], or when
    /// waiting cannot help. Before the first attempt after a loss nothing is known: the wait for it
    /// may be as long as the patience is.
    pub fn known_away(&self, now: Instant) -> Option<&Away> {
        let away = self.away.as_ref()?;
        let long = self.away_since.is_some_and(|t| now.saturating_duration_since(t) >= PATIENCE);
        (long && self.tried || matches!(away, Away::Refused(_))).then_some(away)
    }

    /// Makes a new connection, once what is under way on this one is answered: the server behind
    /// the name may be another by now, or the connection may have lost its standing. A connection
    /// that was made a moment ago is kept, or a server that always refuses would have us connect
    /// without end.
    pub fn renew(&mut self, now: Instant) {
        if let State::Up { since, .. } = &self.state {
            self.renew |= now.saturating_duration_since(*since) >= HEALTHY_AFTER;
        }
    }

    /// The loop saw readiness on one of our tokens.
    pub fn ready(&mut self, event: &Event) {
        if event.token() != self.token {
            return;
        }
        match &mut self.state {
            State::Connecting { connection, .. }
            | State::SigningOn { connection, .. }
            | State::Up { connection, .. } => connection.ready(event),
            State::Down { .. } | State::Resolving { .. } => {}
        }
    }

    /// The next [`progress`](Link::progress) asks the socket itself, whatever the loop has been told.
    pub fn look(&mut self) {
        match &mut self.state {
            State::SigningOn { connection, .. } | State::Up { connection, .. } => connection.look(),
            // These are asked each time.
            State::Connecting { .. } | State::Resolving { .. } | State::Down { .. } => {}
        }
    }

    /// Goes as far as it can without waiting.
    pub fn progress(&mut self, now: Instant, events: &mut Events) {
        // Each step either waits (and returns) or moves to another state; the number of moves is
        // bounded by the addresses of the server, because a failure ends in Down with a wait.
        loop {
            let next = match &mut self.state {
                State::Down { until } if now < *until => return,
                State::Down { .. } => Ok(self.look_up(now)),
                State::Resolving { lookup, until } => match lookup.poll() {
                    Some(Ok(found)) => self.first_address(found.addresses, found.password, now),
                    Some(Err(e)) => self.fail(now, Away::Unreachable(e.to_string())),
                    // The errand itself cannot be stopped, and no second one is started beside it.
                    None => {
                        if now >= *until {
                            self.tried = true;
                            self.note(now, Away::Silent("the name is not resolved yet".to_owned()));
                        }
                        return;
                    }
                },
                State::Connecting { connection, until, .. } => match connected(connection.stream())
                {
                    Ok(true) => match self.sign_on(now) {
                        Some(state) => Ok(state),
                        None => return,
                    },
                    Ok(false) if now < *until => return,
                    outcome => self.next_address(outcome, now),
                },
                State::SigningOn { .. } => match self.signing_on(now) {
                    Ok(None) => return,
                    Ok(Some(up)) => Ok(up),
                    Err(away) => {
                        self.drop_connection(now);
                        self.fail(now, away)
                    }
                },
                State::Up { .. } => match self.serve(now, events) {
                    Some(next) => next,
                    None => return,
                },
            };
            match next {
                Ok(state) => self.state = state,
                Err(until) => {
                    self.state = State::Down { until };
                    return;
                }
            }
        }
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Down { until }
            | State::Connecting { until, .. }
            | State::SigningOn { until, .. } => Some(*until),
            // Its end wakes the loop; the time limit only lets requests know.
            State::Resolving { until, .. } => self.away.is_none().then_some(*until),
            // At once.
            State::Up { since, .. } if self.has_more() => Some(*since),
            State::Up { connection, .. } => {
                connection.waiting_since().map(|t| t + self.options.stall_timeout)
            }
        }
    }

    fn look_up(&self, now: Instant) -> State {
        let lookup =
            Lookup::start(&self.endpoint, self.options.password_file.as_ref(), &self.wires.waker);
        State::Resolving { lookup, until: now + self.options.connect_timeout }
    }

    fn first_address(
        &mut self,
        addresses: Vec<SocketAddr>,
        password: Option<Secret>,
        now: Instant,
    ) -> Result<State, Instant> {
        if let Endpoint::Unix(path) = &self.endpoint {
            return match UnixStream::connect(path)
                .map(Stream::Unix)
                .and_then(|s| self.adopt(s, now))
            {
                Ok(connection) => Ok(State::Connecting {
                    connection,
                    rest: VecDeque::new(),
                    until: now + self.options.connect_timeout,
                    password,
                }),
                Err(e) => self.fail(now, Away::Unreachable(e.to_string())),
            };
        }
        self.connect(
            addresses.into(),
            password,
            now,
            Away::Unreachable("the name has no address".to_owned()),
        )
    }

    /// The last address did not work out: tries the next.
    fn next_address(&mut self, outcome: io::Result<bool>, now: Instant) -> Result<State, Instant> {
        let why = match outcome {
            Err(e) => Away::Unreachable(e.to_string()),
            Ok(_) => Away::Silent(format!(
                "no connection within {} ms",
                self.options.connect_timeout.as_millis()
            )),
        };
        let (rest, password) = match &mut self.state {
            State::Connecting { rest, password, .. } => (std::mem::take(rest), password.take()),
            _ => (VecDeque::new(), None),
        };
        self.drop_connection(now);
        self.connect(rest, password, now, why)
    }

    /// Tries the addresses in turn; `why` is what to say when there is none left.
    fn connect(
        &mut self,
        mut rest: VecDeque<SocketAddr>,
        password: Option<Secret>,
        now: Instant,
        mut why: Away,
    ) -> Result<State, Instant> {
        while let Some(address) = rest.pop_front() {
            match TcpStream::connect(address).map(Stream::Tcp).and_then(|s| self.adopt(s, now)) {
                Ok(connection) => {
                    return Ok(State::Connecting {
                        connection,
                        rest,
                        until: now + self.options.connect_timeout,
                        password,
                    });
                }
                Err(e) => why = Away::Unreachable(e.to_string()),
            }
        }
        self.fail(now, why)
    }

    fn adopt(&mut self, mut stream: Stream, now: Instant) -> io::Result<Connection> {
        let token = self.wires.next_token.get();
        self.wires.next_token.set(token + 1);
        self.token = Token(token);
        self.wires.registry.register(&mut stream, self.token, BOTH)?;
        if let (Some(tls), Endpoint::Tcp { host, .. }) = (&self.options.tls, &self.endpoint) {
            stream = tls.wrap(stream, host)?;
        }
        Ok(Connection::new(stream, self.options.limits.clone(), now))
    }

    fn sign_on(&mut self, now: Instant) -> Option<State> {
        let mut options = self.options.sign_on.clone();
        if let State::Connecting { password: Some(password), .. } = &self.state {
            options.credentials.password = Some(password.clone());
        }
        let mut connection = self.take_connection(now)?;
        // Without it, small commands would wait for the acknowledgement of the ones before; but a
        // socket that refuses the option still works.
        let _ = connection.stream().set_nodelay();
        Some(State::SigningOn {
            connection,
            sign_on: SignOn::new(options),
            until: now + SIGN_ON_TIMEOUT,
        })
    }

    /// One command after the other. `Ok(Some)` when the last has its answer.
    fn signing_on(&mut self, now: Instant) -> Result<Option<State>, Away> {
        let State::SigningOn { connection, sign_on, until } = &mut self.state else {
            return Ok(None);
        };
        let mut heard = Heard::default();
        while let Some((shape, args)) = sign_on.next() {
            if connection.in_flight() == 0 {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                connection
                    .push(now, NOBODY, shape, &args)
                    .map_err(|e| Away::Refused(e.to_string()))?;
            }
            let end = connection.progress(now, &mut heard).map_err(|fault| match fault {
                Fault::Dismissed(e) => Away::Refused(e.to_string()),
                fault => Away::Unreachable(fault.to_string()),
            });
            let Some((.., reply)) = heard.replies.pop() else {
                end?;
                if now < *until {
                    return Ok(None);
                }
                return Err(Away::Silent(format!(
                    "no answer to signing on within {} ms",
                    SIGN_ON_TIMEOUT.as_millis()
                )));
            };
            // First what it said: a server that is full says so and hangs up.
            sign_on.answered(reply)?;
            end?;
            connection.set_protocol(sign_on.protocol());
        }
        // What has come behind the last answer would be nobody's.
        if !heard.replies.is_empty() || connection.in_flight() > 0 {
            return Err(Away::Unreachable(Fault::Stray.to_string()));
        }
        log::info!("redis {}: connected", self.endpoint);
        self.away = None;
        self.away_since = None;
        self.tried = false;
        self.renew = false;
        Ok(self.take_connection(now).map(|connection| State::Up { connection, since: now }))
    }

    /// Moves bytes on the connection. `Some` when it has ended: the next state.
    fn serve(&mut self, now: Instant, events: &mut Events) -> Option<Result<State, Instant>> {
        let State::Up { connection, since } = &mut self.state else {
            return None;
        };
        let healthy = now.saturating_duration_since(*since) >= HEALTHY_AFTER;
        let stall = self.options.stall_timeout;
        let outcome = connection.progress(now, &mut events.heard).and_then(|()| {
            let stalled = connection
                .waiting_since()
                .is_some_and(|t| now.saturating_duration_since(t) >= stall)
                && !connection.has_more();
            if stalled { Err(Fault::Stalled(stall)) } else { Ok(()) }
        });
        let fault = match outcome {
            Ok(()) if self.renew && connection.in_flight() == 0 => {
                self.drop_connection(now);
                return Some(Ok(State::Down { until: now }));
            }
            Ok(()) => return None,
            Err(fault) => fault,
        };
        if healthy {
            self.backoff.reset();
        }
        log::warn!(
            "redis {}: {fault}; {} commands were in flight",
            self.endpoint,
            connection.in_flight()
        );
        let why = match fault {
            Fault::Stalled(_) => Away::Silent(fault.to_string()),
            _ => Away::Unreachable(fault.to_string()),
        };
        let again = !fault.is_nonsense();
        let connection = self.drop_connection(now)?;
        events.lost.extend(connection.into_slots().map(|(slot, sent)| Lost {
            id: slot.id,
            sent,
            again,
            why: why.clone(),
        }));
        // Logged above, with the number.
        self.away = Some(why.clone());
        let next = self.fail(now, why);
        self.tried = false;
        Some(next)
    }

    /// Closes the link for good; what waits on it is lost.
    pub fn close(mut self, now: Instant, why: &str) -> Vec<Lost> {
        let lost = |connection: Connection| {
            let why = Away::Unreachable(why.to_owned());
            connection
                .into_slots()
                .map(|(slot, sent)| Lost { id: slot.id, sent, again: true, why: why.clone() })
                .collect()
        };
        self.drop_connection(now).map_or_else(Vec::new, lost)
    }

    fn take_connection(&mut self, now: Instant) -> Option<Connection> {
        match std::mem::replace(&mut self.state, State::Down { until: now }) {
            State::Connecting { connection, .. }
            | State::SigningOn { connection, .. }
            | State::Up { connection, .. } => Some(connection),
            State::Down { .. } | State::Resolving { .. } => None,
        }
    }

    /// Takes the connection out of the poll.
    fn drop_connection(&mut self, now: Instant) -> Option<Connection> {
        let mut connection = self.take_connection(now)?;
        self.token = Token(usize::MAX);
        // Closing the descriptor takes it out of the poll anyway; an error changes nothing.
        let _ = self.wires.registry.deregister(connection.stream());
        Some(connection)
    }

    /// Notes the failure; returns when to try again (an `Err`, so that callers can hand it on).
    fn fail(&mut self, now: Instant, away: Away) -> Result<State, Instant> {
        let refused = matches!(away, Away::Refused(_));
        self.tried = true;
        let mut wait = self.backoff.next_wait();
        self.note(now, away);
        if refused {
            return Err(now + REFUSED_WAIT + wait);
        }
        // While requests wait for it, a server that is back is found at once, not after their
        // patience has ended; but not one that lets us in and hangs up, again and again.
        let impatient = |t: Instant| now.saturating_duration_since(t) < PATIENCE;
        if self.away_since.is_some_and(impatient) && self.backoff.tries() <= SOON_TRIES {
            wait = wait.min(RETRY_SOON);
        }
        Err(now + wait)
    }

    fn note(&mut self, now: Instant, away: Away) {
        if self.away.as_ref() != Some(&away) {
            match advice(away.reason()) {
                Some(advice) => log::warn!(
                    "redis {}: {}; {}",
                    self.endpoint,
                    away.reason().trim_end_matches('.'),
                    advice.text
                ),
                None => log::warn!("redis {}: {}", self.endpoint, away.reason()),
            }
        }
        self.away_since.get_or_insert(now);
        self.away = Some(away);
    }
}

impl Away {
    /// For logs and messages.
    pub fn reason(&self) -> &str {
        match self {
            Away::Unreachable(why) | Away::Silent(why) | Away::Refused(why) => why,
        }
    }
}

fn connected(stream: &mut Stream) -> io::Result<bool> {
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    match stream.check_connected() {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}
