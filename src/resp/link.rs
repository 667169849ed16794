//! The connection to one server, kept up: resolve, connect, sign on, serve, and again.
//!
//! ```text
//!            ┌────────────── any fault, after a wait with jitter ──────────────┐
//!            ▼                                                                 │
//!   Down ─▶ Resolving ─▶ Connecting ─▶ SigningOn (each address in turn) ─▶ Up ─┘
//! ```
//!
//! There is never more than one attempt under way, and every step has a deadline.
//!
//! A failed look-up is no reason to lose a server that is running: when a name cannot be resolved, or not within the
//! connect timeout, the address that was connected last is tried (RFC 8767). At most one errand for a name is under
//! way, however often the link tries meanwhile, so a dead name server costs one waiting thread for each link.
//!
//! After [`PATIENCE`] without a connection the server is *known to be away*: the client then fails
//! requests at once instead of letting each of them wait out its deadline, and the next attempt
//! of this link decides when it is back.

use super::advice::advice;
use super::away::Away;
use super::backoff::Backoff;
use super::codec::{Limits, Reply};
use super::connection::{Connection, Fault, Heard, Shape};
use super::credentials::Secret;
use super::endpoint::Endpoint;
use super::password::{PASSWORD_BYTES_MAX, parse_password};
use super::sign_on::{self, SignOn};
use super::tls;
use crate::net::{Address, Errand, Found, Ready, Socket, World};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long requests wait for a lost server to come back before they are failed at once. A restart or a dropped
/// connection is over sooner; an outage is not.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Waits between attempts: up to 50 ms at first, up to one second in an outage, so that the service has reconnected
/// before the next readiness probe.
const RETRY_FLOOR: Duration = Duration::from_millis(10);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// No wait is longer than this while requests still wait for the server to come back.
const RETRY_SOON: Duration = Duration::from_millis(100);

/// For this many attempts since the last healthy connection.
const SOON_TRIES: u32 = 12;

/// After a refusal: a wrong password stays wrong, some servers lock out clients that retry fast, and retries do not
/// help a server that is full.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// A connection that has lived this long restarts the series of waits when it is lost, and may be renewed; a younger
/// one would be replaced as fast as it is made.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// A connection without commands is asked this often whether the server is still there. A firewall or a NAT forgets idle
/// connections without a word, and the next request would wait for its whole deadline to find out.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The whole of signing on, however many commands it takes; longer where connecting may take longer, because the server
/// is far away or slow.
const SIGN_ON_TIMEOUT: Duration = Duration::from_secs(1);

/// The `id` of commands that belong to no request (keys of a `Slab` count up from zero).
pub const NOBODY: u64 = u64::MAX;

const NOT_RESOLVED: &str = "the name is not resolved yet";
const NO_ADDRESS: &str = "the name has no address";

/// The default; see [`Options::queue_bytes_max`].
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How one server is reached, and the limits for its commands and replies.
#[derive(Debug, Clone)]
pub struct Options {
    /// For one address; a name with several has them tried in turn.
    pub connect_timeout: Duration,
    /// A connection on which commands wait and none is answered for this long is replaced.
    pub stall_timeout: Duration,
    /// User, password, and what kind of server is required.
    pub sign_on: sign_on::Options,
    /// Where the password is; read again for every connection, so that it can be changed.
    pub password_file: Option<PathBuf>,
    /// For `rediss://`.
    pub tls: Option<tls::Config>,
    /// Limits of a reply.
    pub limits: Limits,
    /// Bytes of commands that may be under way or waiting in one client; one more is refused. On a connection the bytes
    /// that the kernel has not taken count as well, those of abandoned requests included.
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

/// A connection that has ended, with the commands that were lost with it.
pub struct Wreck {
    /// The connection, which holds the [commands](Connection::commands).
    pub connection: Connection,
    /// As far as the connection is concerned, the commands may be sent again even though they have been sent.
    pub again: bool,
    /// What happened to the connection.
    pub why: Away,
}

/// See the module's text.
pub struct Link {
    endpoint: Endpoint,
    options: Options,
    /// The owner of the link's sockets, for the world.
    owner: u64,
    state: State,
    /// Present while connecting, signing on and up.
    connection: Option<Connection>,
    /// Addresses that have not been tried yet, while the link comes up.
    rest: VecDeque<Address>,
    backoff: Backoff,
    away_since: Option<Instant>,
    away: Option<Away>,
    /// An attempt has failed since the last connection.
    tried: bool,
    /// Take no more commands, and connect anew when the present ones are answered.
    renew: bool,
    /// The errand for the addresses of the name, and when it began. It cannot be stopped, and no second one is started
    /// beside it.
    resolving: Option<(Errand, Instant)>,
    /// The errand for the password, likewise.
    reading: Option<Errand>,
    /// The password that was read, for the present attempt.
    password: Option<Secret>,
    /// The address that is being tried, and the one that was connected last.
    address: Option<Address>,
    last_good: Option<SocketAddr>,
    /// Why that address is tried although the name is not resolved.
    unresolved: Option<String>,
    /// This was logged, and no name was resolved since.
    fell_back: bool,
}

enum State {
    Down {
        until: Instant,
    },
    Resolving {
        /// The addresses, once they are known.
        addresses: Option<VecDeque<Address>>,
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    SigningOn {
        sign_on: SignOn,
        until: Instant,
    },
    Up {
        since: Instant,
        /// The connection is dead, for this reason.
        fault: Option<Fault>,
    },
}

impl Link {
    /// A link that is down; the first [`progress`](Link::progress) starts to bring it up. Its sockets belong to
    /// `owner`.
    pub fn new(
        endpoint: Endpoint,
        options: Options,
        owner: u64,
        world: &mut dyn World,
        now: Instant,
    ) -> Link {
        Link {
            endpoint,
            options,
            owner,
            state: State::Down { until: now },
            connection: None,
            rest: VecDeque::new(),
            backoff: Backoff::new(RETRY_FLOOR, RETRY_BASE, RETRY_CAP, world.random()),
            away_since: None,
            away: None,
            tried: false,
            renew: false,
            resolving: None,
            reading: None,
            password: None,
            address: None,
            last_good: None,
            unresolved: None,
            fell_back: false,
        }
    }

    /// The server at the other end.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection, when commands can be pushed into it.
    pub fn up(&mut self) -> Option<&mut Connection> {
        if self.is_up() { self.connection.as_mut() } else { None }
    }

    /// Whether commands can be pushed.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. }) && !self.renew
    }

    /// Whether there may be more to read, for which no event will come.
    pub fn has_more(&self) -> bool {
        self.serving().is_some_and(Connection::has_more)
    }

    /// Commands that wait for their replies on this link.
    pub fn in_flight(&self) -> usize {
        self.serving().map_or(0, Connection::in_flight)
    }

    fn serving(&self) -> Option<&Connection> {
        self.connection.as_ref().filter(|_| matches!(self.state, State::Up { .. }))
    }

    /// Why the last attempt failed, since the last connection; `None` while the link works or nothing is known yet.
    pub fn away(&self) -> Option<&Away> {
        self.away.as_ref()
    }

    /// As [`away`](Link::away), but only when the server has been away for longer than [`PATIENCE`], or when waiting
    /// cannot help. Before the first attempt after a loss nothing is known: the wait for it may be as long as the
    /// patience is.
    pub fn known_away(&self, now: Instant) -> Option<&Away> {
        let away = self.away.as_ref()?;
        let long = self.away_since.is_some_and(|t| now.saturating_duration_since(t) >= PATIENCE);
        (long && self.tried || matches!(away, Away::Refused(_))).then_some(away)
    }

    /// Makes a new connection, once the commands under way on this one are answered: the name may stand for another
    /// server by now, or the server may not accept this one any more. A connection that was made a moment ago is kept,
    /// or a server that always refuses would have us reconnect without end.
    pub fn renew(&mut self, now: Instant) {
        if let State::Up { since, .. } = &self.state {
            self.renew |= now.saturating_duration_since(*since) >= HEALTHY_AFTER;
        }
    }

    /// The present socket.
    pub fn socket(&self) -> Option<Socket> {
        self.connection.as_ref().map(Connection::socket)
    }

    /// Takes an event for our [socket](Link::socket).
    pub fn ready(&mut self, ready: Ready) {
        if let Some(connection) = &mut self.connection {
            connection.ready(ready);
        }
    }

    /// Makes the next [`progress`](Link::progress) read from the socket itself, whatever events were reported.
    pub fn look(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.look();
        }
    }

    /// The next reply or push, while commands can be sent. `None` when there is no more now; then call
    /// [`progress`](Link::progress).
    pub fn hear(&mut self, world: &mut dyn World, now: Instant) -> Option<Heard<'_>> {
        let State::Up { fault: fault @ None, .. } = &mut self.state else {
            return None;
        };
        match self.connection.as_mut()?.hear(world, now) {
            Ok(heard) => heard,
            Err(e) => {
                *fault = Some(e);
                None
            }
        }
    }

    /// The command whose reply [`hear`](Link::hear) gave last, as it was sent.
    pub fn last_command(&self) -> &[u8] {
        self.serving().map_or(&[], Connection::last_command)
    }

    /// Sends, and goes as far as it can without waiting. Gives the commands that were lost if the connection has ended.
    pub fn progress(&mut self, world: &mut dyn World, now: Instant) -> Option<Wreck> {
        if let State::Up { .. } = self.state {
            let (next, wreck) = self.serve(world, now)?;
            self.state = next;
            if wreck.is_some() {
                return wreck;
            }
        }
        if self.resolving.is_some() {
            self.take_late_addresses(world);
        }
        // Each step either waits (and returns) or moves to another state; the number of moves is
        // bounded by the addresses of the server, because a failure ends in Down with a wait.
        loop {
            let next = match &mut self.state {
                State::Down { until } if now < *until => return None,
                State::Down { .. } => Ok(self.look_up(world, now)),
                State::Resolving { .. } => self.resolve(world, now)?,
                State::Connecting { until } => {
                    let until = *until;
                    match world.connected(self.socket()?) {
                        Ok(true) => Ok(self.sign_on(now)),
                        Ok(false) if now < until => return None,
                        outcome => self.next_address(world, outcome, now),
                    }
                }
                State::SigningOn { .. } => match self.signing_on(world, now) {
                    Ok(true) => Ok(State::Up { since: now, fault: None }),
                    Ok(false) => return None,
                    Err(away) => {
                        self.drop_connection(world);
                        // What one refuses, all do; but who does not answer may be the only one.
                        if matches!(away, Away::Refused(_)) {
                            self.rest.clear();
                        }
                        self.connect(world, now, away)
                    }
                },
                // Up: the waiting commands come next.
                State::Up { .. } => return None,
            };
            self.state = next.unwrap_or_else(|until| State::Down { until });
        }
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Down { until }
            | State::Connecting { until }
            | State::SigningOn { until, .. } => Some(*until),
            // The errand's end wakes the loop; this deadline only fails waiting requests, or starts the try of the last
            // address.
            State::Resolving { addresses, until, .. } => {
                let falls_back = addresses.is_none() && self.last_good.is_some();
                (self.away.is_none() || falls_back).then_some(*until)
            }
            // More can be read: call at once.
            State::Up { since, .. } if self.has_more() => Some(*since),
            State::Up { fault: Some(_), since, .. } => Some(*since),
            State::Up { .. } => {
                let connection = self.connection.as_ref()?;
                let stall = connection.waiting_since().map(|t| t + self.options.stall_timeout);
                let ping = connection.idle_since().map(|t| t + PING_EVERY);
                stall.or(ping).into_iter().chain(connection.next_deadline()).min()
            }
        }
    }

    /// Starts the errands for what must be known first: the addresses of the name, and the password.
    fn look_up(&mut self, world: &mut dyn World, now: Instant) -> State {
        self.unresolved = None;
        self.password = None;
        if let (Some(path), None) = (&self.options.password_file, self.reading) {
            self.reading = Some(world.look_up(None, Some((path, PASSWORD_BYTES_MAX + 1))));
        }
        let addresses = match &self.endpoint {
            Endpoint::Unix(path) => Some([Address::Unix(path.clone())].into()),
            Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Some([Address::Tcp(SocketAddr::new(ip, *port))].into()),
                Err(_) => {
                    self.resolving
                        .get_or_insert_with(|| (world.look_up(Some((host, *port)), None), now));
                    None
                }
            },
        };
        let since = self.resolving.map_or(now, |(_, since)| since);
        State::Resolving { addresses, until: since + self.options.connect_timeout }
    }

    /// The next state when both are known; `None` while they are not.
    fn resolve(&mut self, world: &mut dyn World, now: Instant) -> Option<Result<State, Instant>> {
        let State::Resolving { addresses, until } = &mut self.state else {
            return None;
        };
        let (mut addresses, until) = (addresses.take(), *until);
        if let Some(found) = self.reading.and_then(|errand| world.looked_up(errand)) {
            self.reading = None;
            let found = found.map_err(|e| e.to_string());
            match found.and_then(|found| Ok(parse_password(&found.file.unwrap_or_default())?)) {
                Ok(password) => self.password = Some(password),
                Err(e) => {
                    let path = self.options.password_file.clone().unwrap_or_default();
                    let why = format!("failed to read the password file {}: {e}", path.display());
                    return Some(self.fail(now, Away::Unreachable(why)));
                }
            }
        }
        if addresses.is_none()
            && let Some((errand, _)) = self.resolving
        {
            let found = world.looked_up(errand);
            self.resolving = self.resolving.filter(|_| found.is_none());
            addresses = match (found.map(some_addresses), self.last_good) {
                (Some(Ok(found)), _) => {
                    self.fell_back = false;
                    Some(found)
                }
                (Some(Err(e)), Some(last)) => Some(self.fall_back(last, e)),
                (Some(Err(e)), None) => return Some(self.fail(now, Away::Unreachable(e))),
                (None, Some(last)) if now >= until => {
                    Some(self.fall_back(last, NOT_RESOLVED.to_owned()))
                }
                (None, _) => None,
            };
        }
        if self.reading.is_none()
            && let Some(addresses) = addresses.take()
        {
            self.rest = addresses;
            return Some(self.connect(world, now, Away::Unreachable(NO_ADDRESS.into())));
        }
        if now >= until {
            self.tried = true;
            let what = match addresses {
                None => NOT_RESOLVED,
                Some(_) => "the password file is not read yet",
            };
            self.note(now, Away::Silent(what.to_owned()));
        }
        self.state = State::Resolving { addresses, until };
        None
    }

    fn fall_back(&mut self, last: SocketAddr, why: String) -> VecDeque<Address> {
        if !std::mem::replace(&mut self.fell_back, true) {
            log::warn!("redis {}: {why}; its last address, {last}, is tried", self.endpoint);
        }
        self.unresolved = Some(why);
        [Address::Tcp(last)].into()
    }

    /// The name is resolved after its last address was tried: while that is being connected to, the new addresses come
    /// next.
    fn take_late_addresses(&mut self, world: &mut dyn World) {
        if let Some((errand, _)) = self.resolving
            && !matches!(self.state, State::Resolving { addresses: None, .. })
            && let Some(found) = world.looked_up(errand)
        {
            self.resolving = None;
            if let (State::Connecting { .. }, Ok(found)) = (&self.state, found) {
                self.rest.extend(found.addresses.into_iter().map(Address::Tcp));
            }
        }
    }

    /// The present address has failed: tries the next.
    fn next_address(
        &mut self,
        world: &mut dyn World,
        outcome: io::Result<bool>,
        now: Instant,
    ) -> Result<State, Instant> {
        let why = match outcome {
            Err(e) => Away::Unreachable(e.to_string()),
            Ok(_) => Away::Silent(format!(
                "no connection within {} ms",
                self.options.connect_timeout.as_millis()
            )),
        };
        self.drop_connection(world);
        self.connect(world, now, why)
    }

    /// Tries the next address; `why` is the error when there is none left.
    fn connect(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        mut why: Away,
    ) -> Result<State, Instant> {
        while let Some(address) = self.rest.pop_front() {
            match self.connect_to(world, &address, now) {
                Ok(connection) => {
                    self.address = Some(address);
                    self.connection = Some(connection);
                    let until = now + self.options.connect_timeout;
                    return Ok(State::Connecting { until });
                }
                Err(e) => why = Away::Unreachable(e.to_string()),
            }
        }
        self.fail(now, why)
    }

    fn connect_to(
        &self,
        world: &mut dyn World,
        address: &Address,
        now: Instant,
    ) -> io::Result<Connection> {
        let tls = match (&self.options.tls, &self.endpoint) {
            (Some(tls), Endpoint::Tcp { host, .. }) => Some(tls.begin(host)?),
            _ => None,
        };
        let socket = world.connect(address, self.options.connect_timeout)?;
        world.set_owner(socket, self.owner);
        Ok(Connection::new(socket, tls, self.options.limits.clone(), now))
    }

    fn sign_on_timeout(&self) -> Duration {
        self.options.connect_timeout.max(SIGN_ON_TIMEOUT)
    }

    fn sign_on(&mut self, now: Instant) -> State {
        let mut options = self.options.sign_on.clone();
        if let Some(password) = self.password.clone() {
            options.credentials.password = Some(password);
        }
        let until = now + self.sign_on_timeout();
        State::SigningOn { sign_on: SignOn::new(options), until }
    }

    /// Sends one command after the other. True when the last has its answer.
    fn signing_on(&mut self, world: &mut dyn World, now: Instant) -> Result<bool, Away> {
        let timeout = self.sign_on_timeout();
        let (State::SigningOn { sign_on, until }, Some(connection)) =
            (&mut self.state, &mut self.connection)
        else {
            return Ok(false);
        };
        let gone = |fault: Fault| match fault {
            Fault::Dismissed(e) => Away::Refused(e.to_string()),
            fault => Away::Unreachable(fault.to_string()),
        };
        while let Some((shape, args)) = sign_on.next() {
            if connection.in_flight() == 0 {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                connection
                    .push(now, NOBODY, shape, &args)
                    .map_err(|e| Away::Refused(e.to_string()))?;
            }
            let Some(reply) = next_reply(connection, world, now).map_err(gone)? else {
                connection.flush(world, now).map_err(gone)?;
                if now < *until {
                    return Ok(false);
                }
                return Err(Away::Silent(format!(
                    "no answer to signing on within {} ms",
                    timeout.as_millis()
                )));
            };
            sign_on.answered(reply)?;
            connection.set_protocol(sign_on.protocol());
        }
        // Bytes behind the last answer would be taken for the answer to the next command: they are a fault.
        next_reply(connection, world, now).map_err(gone)?;
        log::info!("redis {}: connected", self.endpoint);
        if let Some(Address::Tcp(address)) = self.address {
            self.last_good = Some(address);
        }
        // Kept for the other addresses only.
        self.password = None;
        self.rest.clear();
        self.unresolved = None;
        self.away = None;
        self.away_since = None;
        self.tried = false;
        self.renew = false;
        Ok(true)
    }

    /// Sends on the connection. `Some` when it has ended: the next state, and the lost commands if it did not end
    /// cleanly.
    fn serve(&mut self, world: &mut dyn World, now: Instant) -> Option<(State, Option<Wreck>)> {
        let (State::Up { since, fault }, Some(connection)) =
            (&mut self.state, &mut self.connection)
        else {
            return None;
        };
        let stall = self.options.stall_timeout;
        if fault.is_none() && connection.idle_since().is_some_and(|t| now >= t + PING_EVERY) {
            // One short word is always sendable, and nobody waits for the reply.
            let _ = connection.push(now, NOBODY, Shape::Any, &[b"PING"]);
        }
        let outcome =
            fault.take().map_or_else(|| connection.flush(world, now), Err).and_then(|()| {
                let due = connection.waiting_since().is_some_and(|t| now >= t + stall);
                let stalled = due && !connection.has_more();
                if stalled { Err(Fault::Stalled(stall)) } else { Ok(()) }
            });
        let fault = match outcome {
            Ok(()) if self.renew && connection.in_flight() == 0 => {
                self.drop_connection(world);
                return Some((State::Down { until: now }, None));
            }
            Ok(()) => return None,
            Err(fault) => fault,
        };
        if now >= *since + HEALTHY_AFTER {
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
        let connection = self.drop_connection(world)?;
        // Logged above, with the number.
        self.away = Some(why.clone());
        self.unresolved = None;
        let next = self.fail(now, why.clone());
        self.tried = false;
        let next = next.unwrap_or_else(|until| State::Down { until });
        Some((next, Some(Wreck { connection, again, why })))
    }

    /// Closes the link for good; the commands that wait on it are lost.
    pub fn close(mut self, world: &mut dyn World, why: &str) -> Option<Wreck> {
        let why = Away::Unreachable(why.to_owned());
        self.drop_connection(world).map(|connection| Wreck { connection, again: true, why })
    }

    fn drop_connection(&mut self, world: &mut dyn World) -> Option<Connection> {
        let connection = self.connection.take()?;
        world.close(connection.socket());
        Some(connection)
    }

    /// Notes the failure; returns when to try again (an `Err`, so that callers can hand it on).
    fn fail(&mut self, now: Instant, mut away: Away) -> Result<State, Instant> {
        if let Some(unresolved) = &self.unresolved {
            let (Away::Unreachable(why) | Away::Silent(why) | Away::Refused(why)) = &mut away;
            *why = format!("{unresolved}; at its last address: {why}");
        }
        let refused = matches!(away, Away::Refused(_));
        self.tried = true;
        let mut wait = self.backoff.next_wait();
        self.note(now, away);
        if refused {
            return Err(now + REFUSED_WAIT + wait);
        }
        // While requests wait for it, a server that is back is found at once, not after their patience has ended; but
        // not a server that accepts us and then closes the connection, again and again.
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

fn some_addresses(found: io::Result<Found>) -> Result<VecDeque<Address>, String> {
    let found = found.map_err(|e| e.to_string())?.addresses;
    match found.is_empty() {
        true => Err(NO_ADDRESS.to_owned()),
        false => Ok(found.into_iter().map(Address::Tcp).collect()),
    }
}

/// The next reply, skipping pushes.
fn next_reply(
    connection: &mut Connection,
    world: &mut dyn World,
    now: Instant,
) -> Result<Option<Reply>, Fault> {
    loop {
        match connection.hear(world, now)? {
            Some(Heard::Reply { reply, .. }) => return Ok(Some(reply.into_reply())),
            Some(Heard::Push(_)) => {}
            None => return Ok(None),
        }
    }
}
