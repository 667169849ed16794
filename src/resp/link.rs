//! The line to one server, kept up: resolve, connect, sign on, serve, and again.
//!
//! ```text
//!            ┌────────────── any fault, after a wait with jitter ──────────────┐
//!            ▼                                                                 │
//!   Down ─▶ Resolving ─▶ Connecting (each address in turn) ─▶ SigningOn ─▶ Up ─┘
//! ```
//!
//! There is never more than one attempt under way, and every step has a deadline. Signing on goes
//! one command at a time, each awaited: some servers drop the error of a failed AUTH that is part
//! of a batch, and what followed would then be answered one place off.
//!
//! After [`PATIENCE`] without a connection the server is *known to be away*: the client then fails
//! requests at once instead of letting each of them wait out its deadline, and the next attempt
//! of this link decides when it is back.

use super::backoff::Backoff;
use super::codec::{Limits, Reply};
use super::connection::{Connection, Fault, Shape};
use super::resolve::Lookup;
use super::url::{Credentials, Endpoint};
use crate::stream::{BOTH, Stream};
use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Registry, Token, Waker};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
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

/// A connection that has lived this long starts the series of waits anew when it is lost.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// All of signing on, however many commands it takes.
const SIGN_ON_TIMEOUT: Duration = Duration::from_secs(1);

/// The `id` of signing-on commands; no request has it (keys of a `Slab` count up from zero).
const OURS: u64 = u64::MAX;

/// How one server is reached and what may pass.
#[derive(Debug, Clone)]
pub struct Options {
    /// For one address; a name with several has them tried in turn.
    pub connect_timeout: Duration,
    /// A connection on which commands wait and nothing moves for this long is replaced.
    pub stall_timeout: Duration,
    /// User and password for AUTH, if there are any.
    pub credentials: Credentials,
    /// For SELECT; 0 needs none.
    pub database: u32,
    /// What a reply may be.
    pub limits: Limits,
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
    /// Replies, in order.
    pub replies: Vec<(u64, Shape, Reply)>,
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
    /// It may be sent again, as far as the connection is concerned.
    pub again: bool,
    /// What happened to the connection.
    pub why: Away,
}

/// See the module's text.
pub struct Link {
    endpoint: Endpoint,
    options: Options,
    registry: Registry,
    waker: Arc<Waker>,
    /// Every connection gets a token of its own, so that a late event of the last one is not
    /// taken for one of the next.
    next_token: usize,
    token: Token,
    state: State,
    backoff: Backoff,
    away_since: Option<Instant>,
    away: Option<Away>,
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
    },
    SigningOn {
        connection: Connection,
        steps: VecDeque<(&'static str, Shape, Vec<Vec<u8>>)>,
        until: Instant,
    },
    Up {
        connection: Connection,
        since: Instant,
    },
}

impl Link {
    /// A link that is down; the first [`progress`](Link::progress) starts to bring it up.
    pub fn new(
        endpoint: Endpoint,
        options: Options,
        registry: Registry,
        waker: Arc<Waker>,
        first_token: usize,
        now: Instant,
    ) -> Link {
        Link {
            endpoint,
            options,
            registry,
            waker,
            next_token: first_token,
            token: Token(first_token),
            state: State::Down { until: now },
            backoff: Backoff::new(RETRY_FLOOR, RETRY_BASE, RETRY_CAP),
            away_since: None,
            away: None,
        }
    }

    /// The connection, when commands can be pushed into it.
    pub fn up(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Up { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// Why the last attempt failed, since the last connection; `None` while all is well or
    /// nothing is known yet.
    pub fn away(&self) -> Option<&Away> {
        self.away.as_ref()
    }

    /// As [`away`](Link::away), but only when it has been so for longer than [`PATIENCE`], or when
    /// waiting cannot help.
    pub fn known_away(&self, now: Instant) -> Option<&Away> {
        let away = self.away.as_ref()?;
        let long = self
            .away_since
            .is_some_and(|t| now.saturating_duration_since(t) >= PATIENCE);
        (long || matches!(away, Away::Refused(_))).then_some(away)
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

    /// Goes as far as it can without waiting.
    pub fn progress(&mut self, now: Instant, events: &mut Events) {
        // Each step either waits (and returns) or moves to another state; the number of moves is
        // bounded by the addresses of the server, because a failure ends in Down with a wait.
        loop {
            let next = match &mut self.state {
                State::Down { until } if now < *until => return,
                State::Down { .. } => self.resolve(now),
                State::Resolving { lookup, until } => match lookup.poll() {
                    Some(Ok(addresses)) => self.connect(
                        addresses.into(),
                        now,
                        Away::Unreachable("the name has no address".to_owned()),
                    ),
                    Some(Err(e)) => self.fail(
                        now,
                        Away::Unreachable(format!("failed to resolve the name: {e}")),
                    ),
                    // The look-up itself cannot be stopped, and no second one is started beside it.
                    None => {
                        if now >= *until {
                            self.note(now, Away::Silent("the name is not resolved yet".to_owned()));
                        }
                        return;
                    }
                },
                State::Connecting {
                    connection,
                    rest,
                    until,
                } => match connected(connection.stream()) {
                    Ok(true) => {
                        let Some(connection) = self.take_connection(now) else {
                            return;
                        };
                        Ok(self.sign_on(connection, now))
                    }
                    Ok(false) if now < *until => return,
                    outcome => {
                        let why = match outcome {
                            Err(e) => Away::Unreachable(e.to_string()),
                            Ok(_) => Away::Silent(format!(
                                "no connection within {} ms",
                                self.options.connect_timeout.as_millis()
                            )),
                        };
                        let rest = std::mem::take(rest);
                        self.drop_connection(now);
                        self.connect(rest, now, why)
                    }
                },
                State::SigningOn { .. } => match self.signing_on(now) {
                    Ok(None) => return,
                    Ok(Some(up)) => Ok(up),
                    Err(away) => {
                        self.drop_connection(now);
                        self.fail(now, away)
                    }
                },
                State::Up { connection, since } => {
                    let healthy = now.saturating_duration_since(*since) >= HEALTHY_AFTER;
                    let outcome = connection
                        .progress(now, &mut events.replies)
                        .and_then(|()| {
                            let stalled = connection.waiting_since().is_some_and(|t| {
                                now.saturating_duration_since(t) >= self.options.stall_timeout
                            });
                            if stalled {
                                Err(Fault::Stalled(self.options.stall_timeout))
                            } else {
                                Ok(())
                            }
                        });
                    let Err(fault) = outcome else { return };
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
                    if let Some(connection) = self.drop_connection(now) {
                        events
                            .lost
                            .extend(connection.into_slots().map(|(slot, sent)| {
                                let why = why.clone();
                                Lost {
                                    id: slot.id,
                                    sent,
                                    again,
                                    why,
                                }
                            }));
                    }
                    self.fail(now, why)
                }
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
            // Its end wakes the loop; the first time limit only lets requests know.
            State::Resolving { until, .. } => self.away.is_none().then_some(*until),
            State::Up { connection, .. } => connection
                .waiting_since()
                .map(|t| t + self.options.stall_timeout),
        }
    }

    fn resolve(&mut self, now: Instant) -> Result<State, Instant> {
        match &self.endpoint {
            Endpoint::Tcp { host, port } => Ok(State::Resolving {
                lookup: Lookup::start(host, *port, &self.waker),
                until: now + self.options.connect_timeout,
            }),
            Endpoint::Unix(path) => match UnixStream::connect(path)
                .map(Stream::Unix)
                .and_then(|s| self.adopt(s, now))
            {
                Ok(connection) => Ok(State::Connecting {
                    connection,
                    rest: VecDeque::new(),
                    until: now + self.options.connect_timeout,
                }),
                Err(e) => self.fail(now, Away::Unreachable(e.to_string())),
            },
        }
    }

    /// Tries the addresses in turn; `why` is what to say when there is none left.
    fn connect(
        &mut self,
        mut rest: VecDeque<SocketAddr>,
        now: Instant,
        mut why: Away,
    ) -> Result<State, Instant> {
        while let Some(address) = rest.pop_front() {
            match TcpStream::connect(address)
                .map(Stream::Tcp)
                .and_then(|s| self.adopt(s, now))
            {
                Ok(connection) => {
                    return Ok(State::Connecting {
                        connection,
                        rest,
                        until: now + self.options.connect_timeout,
                    });
                }
                Err(e) => why = Away::Unreachable(e.to_string()),
            }
        }
        self.fail(now, why)
    }

    fn adopt(&mut self, mut stream: Stream, now: Instant) -> io::Result<Connection> {
        self.token = Token(self.next_token);
        self.next_token += 1;
        self.registry.register(&mut stream, self.token, BOTH)?;
        Ok(Connection::new(stream, self.options.limits.clone(), now))
    }

    fn sign_on(&self, mut connection: Connection, now: Instant) -> State {
        // Without it, small commands would wait for the acknowledgement of the ones before; but a
        // socket that refuses the option still works.
        let _ = connection.stream().set_nodelay();
        let mut steps = VecDeque::new();
        let Credentials { user, password } = &self.options.credentials;
        if let Some(password) = password {
            let mut args = vec![b"AUTH".to_vec()];
            args.extend(user.iter().map(|u| u.clone().into_bytes()));
            args.push(password.expose().as_bytes().to_vec());
            steps.push_back(("AUTH", Shape::Ok, args));
        }
        if self.options.database != 0 {
            steps.push_back((
                "SELECT",
                Shape::Ok,
                vec![
                    b"SELECT".to_vec(),
                    self.options.database.to_string().into_bytes(),
                ],
            ));
        }
        steps.push_back(("PING", Shape::Pong, vec![b"PING".to_vec()]));
        State::SigningOn {
            connection,
            steps,
            until: now + SIGN_ON_TIMEOUT,
        }
    }

    /// One command after the other. `Ok(Some)` when the last has its answer.
    fn signing_on(&mut self, now: Instant) -> Result<Option<State>, Away> {
        let State::SigningOn {
            connection,
            steps,
            until,
        } = &mut self.state
        else {
            return Ok(None);
        };
        if now >= *until {
            return Err(Away::Silent(format!(
                "no answer to signing on within {} ms",
                SIGN_ON_TIMEOUT.as_millis()
            )));
        }
        loop {
            if connection.in_flight() == 0 {
                let Some((_, shape, args)) = steps.front() else {
                    break;
                };
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                connection.push(now, OURS, *shape, &args);
            }
            let mut replies = Vec::new();
            connection
                .progress(now, &mut replies)
                .map_err(|fault| Away::Unreachable(fault.to_string()))?;
            let Some((.., reply)) = replies.pop() else {
                return Ok(None);
            };
            let Some((name, ..)) = steps.pop_front() else {
                return Ok(None);
            };
            if let Reply::Error(e) = reply {
                // PING is the last step: a server that is loading or busy answers it with an
                // error and is up all the same; the requests get their own such answers.
                let lets_us_in =
                    name == "PING" && !matches!(e.code.as_str(), "NOAUTH" | "WRONGPASS");
                if !lets_us_in {
                    return Err(Away::Refused(format!("{name}: {e}")));
                }
            }
        }
        log::info!("redis {}: connected", self.endpoint);
        self.away = None;
        self.away_since = None;
        Ok(self.take_connection(now).map(|connection| State::Up {
            connection,
            since: now,
        }))
    }

    fn take_connection(&mut self, now: Instant) -> Option<Connection> {
        match std::mem::replace(&mut self.state, State::Down { until: now }) {
            State::Connecting { connection, .. }
            | State::SigningOn { connection, .. }
            | State::Up { connection, .. } => Some(connection),
            State::Down { .. } | State::Resolving { .. } => None,
        }
    }

    /// Takes the dead connection out of the poll.
    fn drop_connection(&mut self, now: Instant) -> Option<Connection> {
        let mut connection = self.take_connection(now)?;
        // Closing the descriptor takes it out of the poll anyway; an error changes nothing.
        let _ = self.registry.deregister(connection.stream());
        Some(connection)
    }

    /// Notes the failure; returns when to try again (an `Err`, so that callers can hand it on).
    fn fail(&mut self, now: Instant, away: Away) -> Result<State, Instant> {
        // A wrong password stays wrong, and some servers lock out those who hammer.
        let wait = if matches!(away, Away::Refused(_)) {
            self.backoff.longest()
        } else {
            self.backoff.next_wait()
        };
        self.note(now, away);
        Err(now + wait)
    }

    fn note(&mut self, now: Instant, away: Away) {
        if self.away.as_ref() != Some(&away) {
            log::warn!("redis {}: {}", self.endpoint, away.reason());
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
