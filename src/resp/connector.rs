//! Makes connections to one server: resolve, connect, handshake; and again after a while.
//!
//! ```text
//!   Idle ─▶ Waiting ─▶ Resolving ─▶ Racing ─▶ a connection that can be used, and Idle
//!              ▲                      │  each address of the name, 250 ms after the one before it
//!              └──── all failed ──────┘
//! ```
//!
//! There is never more than one race under way, and every step has a deadline. Addresses are raced (RFC 8305) because
//! one that drops packets, or accepts and says nothing, must not hold up the others. Of those that answer, one that
//! says it is a replica is taken only when no other does better.
//!
//! A failed look-up is no reason to lose a server that is running: when a name cannot be resolved, or not within the
//! connect timeout, the address that was connected last is tried (RFC 8767). At most one errand for a name is under
//! way, however often the connector tries meanwhile, so a dead name server costs one waiting thread for each name. And
//! a name is looked up now and then while all is well: it may stand for another server by now. (An *errand* is a
//! look-up of a name, or the reading of a file, on a thread of the world.)

use super::advice::advice;
use super::attempt::Attempt;
use super::backoff::Backoff;
use super::codec::Protocol;
use super::connection::{Connection, Fault, WINDOW_FIRST};
use super::credentials::{PASSWORD_BYTES_MAX, Secret, parse_password};
use super::endpoint::Endpoint;
use super::error_action::is_passing;
use super::handshake::{Handshake, Server};
use super::options::Options;
use super::renewal::Renewal;
use super::request::Failure;
use crate::net::{Address, Errand, Found, Ready, World};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
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

/// [`RETRY_SOON`] holds for this many attempts since the last healthy connection.
const SOON_TRIES: u32 = 12;

/// After a refusal: a wrong password stays wrong, some servers lock out clients that retry fast, and retries do not
/// help a server that is full.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// The next address is tried when the one before it has not answered after this long (RFC 8305, section 5).
const RACE: Duration = Duration::from_millis(250);

/// A name is looked up this often while a connection to it is in use.
const LOOK_UP_EVERY: Duration = Duration::from_secs(45);

const NOT_RESOLVED: &str = "the name is not resolved yet";
const NO_ADDRESS: &str = "the name has no address";

/// Whether the next attempt will fail in the same way unless somebody changes our settings or the server's.
fn is_final(error: &Failure) -> bool {
    matches!(error, Failure::Refused(e) if !is_passing(e))
}

/// See the module's text.
pub struct Connector {
    endpoint: Endpoint,
    options: Rc<Options>,
    /// The owner of the sockets, for the world.
    owner: u64,
    state: State,
    /// Addresses that are still to be tried, with the protocol to begin in; and when the next of them is.
    rest: VecDeque<(Address, Protocol)>,
    next: Instant,
    /// Addresses that are being tried.
    attempts: Vec<Attempt>,
    backoff: Backoff,
    /// Since when there has been no connection, and why the last attempt failed.
    failing: Option<(Instant, Failure)>,
    /// Attempts that have failed since the last connection.
    failures: u32,
    /// The errand for the addresses of the name, and when it began. It cannot be stopped, and no second one is started
    /// beside it.
    resolving: Option<(Errand, Instant)>,
    /// When the name is looked up though all is well.
    look_up_at: Instant,
    /// The errand for the password, likewise; and the password, once it was read.
    reading: Option<Errand>,
    password: Option<Secret>,
    /// The certificates, and the errands for them, likewise.
    tls: Option<Renewal>,
    /// The address that was connected last.
    good: Option<SocketAddr>,
    /// If that address is tried because the name is not resolved: why it is not.
    unresolved: Option<String>,
    /// That was logged, and the name was not resolved since.
    fell_back: bool,
    /// The window that the next connection begins with.
    window: usize,
}

#[derive(Clone, Copy)]
enum State {
    Idle,
    Waiting {
        until: Instant,
    },
    Resolving {
        until: Instant,
        /// It takes longer than it should, and that was noted.
        is_late: bool,
    },
    Racing,
}

impl Connector {
    /// A connector that has not begun. Its sockets belong to `owner`.
    pub fn new(
        endpoint: Endpoint,
        options: Rc<Options>,
        owner: u64,
        random: u64,
        now: Instant,
    ) -> Connector {
        Connector {
            endpoint,
            owner,
            state: State::Idle,
            rest: VecDeque::new(),
            next: now,
            attempts: Vec::new(),
            backoff: Backoff::new(RETRY_FLOOR, RETRY_BASE, RETRY_CAP, random),
            failing: None,
            failures: 0,
            resolving: None,
            look_up_at: now + LOOK_UP_EVERY,
            reading: None,
            password: None,
            tls: options.tls.clone().map(Renewal::of),
            good: None,
            unresolved: None,
            fell_back: false,
            window: WINDOW_FIRST,
            options,
        }
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Why the last attempt failed, since the last connection; `None` while all works or nothing is known yet.
    pub fn error(&self) -> Option<&Failure> {
        self.failing.as_ref().map(|(_, error)| error)
    }

    /// How many attempts have failed since the last connection.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// As [`error`](Connector::error), but only when the server has been away for longer than [`PATIENCE`], or when
    /// waiting cannot help. Before the first attempt after a loss nothing is known: the wait for it may be as long as
    /// the patience is.
    pub fn known_away(&self, now: Instant) -> Option<&Failure> {
        let (since, error) = self.failing.as_ref()?;
        let long = now.saturating_duration_since(*since) >= PATIENCE;
        (long && self.failures > 0 || is_final(error)).then_some(error)
    }

    /// Begins, if it has not begun yet. The first attempt is made at once, or after a wait if the last connection did
    /// not last (`last_was_good` is false).
    pub fn start(&mut self, world: &mut dyn World, now: Instant, last_was_good: bool) {
        if !self.is_idle() {
            return;
        }
        if last_was_good {
            self.backoff.reset();
        }
        let at_once = self.backoff.tries() == 0 && self.failing.is_none();
        let wait = self.wait(now);
        self.state = State::Waiting { until: if at_once { now } else { now + wait } };
        // What errands have brought by now was for an attempt that was given up.
        self.reading = self.reading.filter(|errand| world.looked_up(*errand).is_none());
        self.resolving = self.resolving.filter(|(errand, _)| world.looked_up(*errand).is_none());
        if let Some(tls) = &mut self.tls {
            tls.forget(world);
        }
    }

    /// Notes that a connection that was in use has died. The next one begins with this window.
    pub fn lost(&mut self, now: Instant, fault: &Fault, window: usize) {
        self.window = window;
        // A wait that was set while there was a connection is over.
        if let State::Waiting { .. } = self.state {
            self.state = State::Idle;
        }
        self.failing = Some((now, Failure::Unreachable(fault.to_string())));
        self.failures = 0;
    }

    /// An address of the server, to be tried when its name does not resolve.
    pub fn set_good(&mut self, good: SocketAddr) {
        self.good = Some(good);
    }

    /// The socket of an attempt is ready.
    pub fn ready(&mut self, ready: Ready) {
        let mut attempts = self.attempts.iter_mut().map(|attempt| &mut attempt.connection);
        if let Some(connection) = attempts.find(|c| c.socket() == ready.socket) {
            connection.ready(ready);
        }
    }

    /// Makes the next [`progress`](Connector::progress) read from the sockets themselves.
    pub fn look(&mut self) {
        self.attempts.iter_mut().for_each(|attempt| attempt.connection.look());
    }

    /// Whether the name no longer stands for the address that is in use. Looks it up now and then.
    pub fn has_moved(&mut self, world: &mut dyn World, now: Instant) -> bool {
        let (State::Idle, Endpoint::Tcp { host, port }) = (&self.state, &self.endpoint) else {
            return false;
        };
        let is_name = host.parse::<IpAddr>().is_err();
        if is_name && now >= self.look_up_at && self.resolving.is_none() {
            self.look_up_at = now + LOOK_UP_EVERY;
            self.resolving = Some((world.look_up(Some((host, *port)), None), now));
        }
        let found = self.take_addresses(world).and_then(Result::ok);
        let good = self.good.map(Address::Tcp);
        found.zip(good).is_some_and(|(found, good)| !found.contains(&good))
    }

    /// Goes as far as it can without waiting. Gives a connection that can be used, once.
    pub fn progress(
        &mut self,
        world: &mut dyn World,
        now: Instant,
    ) -> Option<(Connection, Server)> {
        // Each step waits (and returns) or moves to the next state; a failure ends in Waiting.
        loop {
            match self.state {
                State::Idle => return None,
                State::Waiting { until } if now < until => return None,
                State::Waiting { .. } => self.look_up(world, now),
                State::Resolving { until, is_late } => {
                    if !self.resolve(world, now, until, is_late) {
                        return None;
                    }
                }
                State::Racing => return self.race(world, now),
            }
        }
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Waiting { until } => Some(until),
            // The end of an errand wakes the loop. This deadline is for the requests that wait, which fail then, and
            // for the last good address, which is tried then.
            State::Resolving { until, .. } => {
                let falls_back = match self.rest.is_empty() {
                    true => self.good.is_some(),
                    false => self.reading.is_none(),
                };
                (self.failing.is_none() || falls_back).then_some(until)
            }
            State::Racing => {
                let next = (!self.rest.is_empty()).then_some(self.next);
                let attempts = self.attempts.iter().filter(|attempt| !attempt.is_spare);
                attempts.map(|attempt| attempt.until).chain(next).min()
            }
        }
    }

    /// Whether an attempt is under way.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Resolving { .. } | State::Racing)
    }

    /// Whether no attempt is under way, or to come.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// No connection is needed any more. A race that has begun goes on.
    pub fn rest(&mut self) {
        if !matches!(self.state, State::Racing) {
            self.state = State::Idle;
        }
    }

    /// Closes what is open.
    pub fn close(&mut self, world: &mut dyn World) {
        self.state = State::Idle;
        self.attempts.drain(..).for_each(|attempt| world.close(attempt.connection.socket()));
    }

    /// Starts the errands for what must be known first: the addresses of the name, the password, the certificates.
    fn look_up(&mut self, world: &mut dyn World, now: Instant) {
        self.unresolved = None;
        self.password = self.options.credentials.password.clone();
        if let (Some(path), None) = (&self.options.password_file, self.reading) {
            self.reading = Some(world.look_up(None, Some((path, PASSWORD_BYTES_MAX + 1))));
        }
        if let Some(tls) = &mut self.tls {
            tls.begin(world);
        }
        self.rest.clear();
        let mut since = now;
        match &self.endpoint {
            Endpoint::Unix(path) => self.add([Address::Unix(path.clone())]),
            Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => self.add([Address::Tcp(SocketAddr::new(ip, *port))]),
                Err(_) => {
                    let errand = || (world.look_up(Some((host, *port)), None), now);
                    since = self.resolving.get_or_insert_with(errand).1;
                }
            },
        }
        let until = since + self.options.connect_timeout;
        self.state = State::Resolving { until, is_late: false };
    }

    /// Addresses to be tried.
    fn add(&mut self, addresses: impl IntoIterator<Item = Address>) {
        let protocol = self.options.protocol;
        self.rest.extend(addresses.into_iter().map(|address| (address, protocol)));
    }

    /// Takes what the errands have brought. False while there is more to come.
    fn resolve(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        until: Instant,
        was_late: bool,
    ) -> bool {
        if let Some(found) = self.reading.and_then(|errand| world.looked_up(errand)) {
            self.reading = None;
            match read_password(found) {
                Ok(password) => self.password = Some(password),
                Err(e) => {
                    let path = self.options.password_file.clone().unwrap_or_default();
                    let why = format!("failed to read the password file {}: {e}", path.display());
                    self.failed(now, Failure::Unreachable(why));
                    return true;
                }
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.take(world, &self.endpoint);
        }
        if self.rest.is_empty() {
            match (self.take_addresses(world), self.good) {
                (Some(Ok(found)), _) => self.add(found),
                (Some(Err(e)), Some(good)) => self.fall_back(good, e),
                (Some(Err(e)), None) => {
                    self.failed(now, Failure::Unreachable(e));
                    return true;
                }
                (None, Some(good)) if now >= until => self.fall_back(good, NOT_RESOLVED.to_owned()),
                (None, _) => {}
            }
        }
        // Certificates that were read before are better than none.
        let reads_tls = self.tls.as_ref().is_some_and(Renewal::is_under_way) && now < until;
        if self.reading.is_none() && !reads_tls && !self.rest.is_empty() {
            (self.state, self.next) = (State::Racing, now);
            return true;
        }
        if now >= until && !was_late {
            self.failures = self.failures.saturating_add(1);
            let what = match self.rest.is_empty() {
                true => NOT_RESOLVED,
                false => "the password file is not read yet",
            };
            self.note(now, Failure::Unreachable(what.to_owned()));
            self.state = State::Resolving { until, is_late: true };
        }
        false
    }

    /// The addresses of the name, once the errand has ended.
    fn take_addresses(&mut self, world: &mut dyn World) -> Option<Result<Vec<Address>, String>> {
        let found = world.looked_up(self.resolving?.0)?;
        self.resolving = None;
        Some(match found.map(|found| found.addresses) {
            Err(e) => Err(e.to_string()),
            Ok(addresses) if addresses.is_empty() => Err(NO_ADDRESS.to_owned()),
            Ok(addresses) => {
                self.fell_back = false;
                Ok(addresses.into_iter().map(Address::Tcp).collect())
            }
        })
    }

    fn fall_back(&mut self, good: SocketAddr, why: String) {
        if !std::mem::replace(&mut self.fell_back, true) {
            log::warn!("redis {}: {why}; its last address, {good}, is tried", self.endpoint);
        }
        self.unresolved = Some(why);
        self.add([Address::Tcp(good)]);
    }

    fn race(&mut self, world: &mut dyn World, now: Instant) -> Option<(Connection, Server)> {
        // The name was resolved only after its last good address was tried: the new ones come next.
        if let Some(Ok(late)) = self.take_addresses(world) {
            self.add(late);
        }
        let mut error = None;
        let mut won = self.look_at(world, now, &mut error);
        while won.is_none()
            && now >= self.next
            && let Some((address, protocol)) = self.rest.pop_front()
        {
            match self.attempt(world, now, address, protocol) {
                Ok(attempt) => {
                    self.attempts.push(attempt);
                    self.next = now + RACE;
                    // It may be connected by now.
                    won = self.look_at(world, now, &mut error);
                }
                Err(e) => error = Some(Failure::Unreachable(e.to_string())),
            }
        }
        if won.is_none()
            && self.rest.is_empty()
            && self.attempts.iter().all(|attempt| attempt.is_spare)
        {
            if !self.attempts.is_empty() {
                return Some(self.won(world, 0));
            }
            self.failed(now, error.unwrap_or(Failure::Unreachable(NO_ADDRESS.to_owned())));
        }
        won
    }

    /// Goes on with all attempts: the connection of one that has won, or why one has failed.
    fn look_at(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        error: &mut Option<Failure>,
    ) -> Option<(Connection, Server)> {
        let mut at = 0;
        while let Some(attempt) = self.attempts.get_mut(at) {
            let answer = if attempt.is_spare { Ok(false) } else { attempt.progress(world, now) };
            let is_replica = attempt.handshake.server().is_replica;
            let others = self.attempts.len() > 1 || !self.rest.is_empty();
            match answer {
                Ok(true) if !is_replica || !others => return Some(self.won(world, at)),
                Ok(true) => {
                    self.attempts[at].is_spare = true;
                    self.next = now;
                    at += 1;
                }
                Ok(false) => at += 1,
                Err(e) => {
                    let attempt = self.attempts.swap_remove(at);
                    world.close(attempt.connection.socket());
                    // Some proxies hang up on commands that they do not know.
                    if attempt.has_hung_up_on_hello(&e) {
                        self.rest.push_back((attempt.address, Protocol::Resp2));
                    }
                    // Such a refusal (of a password, say) would be the same at every address.
                    if is_final(&e) {
                        self.rest.clear();
                    }
                    self.next = now;
                    *error = Some(e);
                }
            }
        }
        None
    }

    fn attempt(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        address: Address,
        protocol: Protocol,
    ) -> io::Result<Attempt> {
        let tls = match (&self.tls, &self.endpoint) {
            (Some(tls), Endpoint::Tcp { host, .. }) => Some(tls.config().begin(host)?),
            _ => None,
        };
        let socket = world.connect(&address, self.options.connect_timeout)?;
        world.set_owner(socket, self.owner);
        let mut connection = Connection::new(socket, tls, self.options.limits.clone(), now);
        connection.narrow(self.window);
        let handshake = Handshake::new(Rc::clone(&self.options), self.password.clone(), protocol);
        Ok(Attempt::new(address, connection, handshake, self.options.connect_timeout, now))
    }

    /// An attempt has a connection that can be used: the others end.
    fn won(&mut self, world: &mut dyn World, at: usize) -> (Connection, Server) {
        let Attempt { address, connection, handshake, .. } = self.attempts.swap_remove(at);
        self.close(world);
        if let Address::Tcp(address) = address {
            self.good = Some(address);
        }
        // Only the first connection, and the first after a failure, is news; one that replaces another is not.
        let is_news = self.failing.is_some() || self.backoff.tries() <= 1;
        let level = if is_news { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "redis {}: connected", self.endpoint);
        self.password = None;
        self.unresolved = None;
        self.failing = None;
        self.failures = 0;
        (connection, handshake.server().clone())
    }

    /// Notes the failure, and waits.
    fn failed(&mut self, now: Instant, mut error: Failure) {
        if let (Some(unresolved), Failure::Unreachable(why)) = (&self.unresolved, &mut error) {
            *why = format!("{unresolved}; at its last address: {why}");
        }
        self.failures = self.failures.saturating_add(1);
        let refused = is_final(&error);
        self.note(now, error);
        let wait = self.wait(now) + if refused { REFUSED_WAIT } else { Duration::ZERO };
        self.state = State::Waiting { until: now + wait };
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.backoff.next_wait();
        // While requests wait for it, a server that is back is found at once, not after their patience has ended; but
        // not a server that accepts us and then closes the connection, again and again.
        let impatient =
            |(since, _): &(Instant, _)| now.saturating_duration_since(*since) < PATIENCE;
        match self.failing.as_ref().is_some_and(impatient) && self.backoff.tries() <= SOON_TRIES {
            true => wait.min(RETRY_SOON),
            false => wait,
        }
    }

    fn note(&mut self, now: Instant, error: Failure) {
        let since = self.failing.as_ref().map_or(now, |(since, _)| *since);
        if self.error() != Some(&error) {
            let reason = error.to_string();
            let advice =
                advice(&reason).map_or(String::new(), |advice| format!("; {}", advice.text));
            log::warn!("redis {}: {}{advice}", self.endpoint, reason.trim_end_matches('.'));
        }
        self.failing = Some((since, error));
    }
}

fn read_password(found: io::Result<Found>) -> Result<Secret, String> {
    let file = found.map_err(|e| e.to_string())?.file.unwrap_or_default();
    Ok(parse_password(&file)?)
}
