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
//! way, however often the connector tries meanwhile, so a dead name server costs one waiting thread for each. And a
//! name is looked up now and then while all is well: it may stand for another server by now.

use super::advice::advice;
use super::backoff::Backoff;
use super::codec::{Protocol, Reply};
use super::command::{Spelling, Words};
use super::connection::{Connection, Fault, Heard, WINDOW_FIRST};
use super::credentials::{PASSWORD_BYTES_MAX, Secret, parse_password};
use super::endpoint::Endpoint;
use super::error_action::is_passing;
use super::handshake::{Handshake, Server};
use super::options::Options;
use super::renewal::Renewal;
use super::request::{Asker, Failure, Route, Slot};
use super::tls;
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

/// For this many attempts since the last healthy connection.
const SOON_TRIES: u32 = 12;

/// After a refusal: a wrong password stays wrong, some servers lock out clients that retry fast, and retries do not
/// help a server that is full.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// The next address is tried when the one before it has not answered after this long (RFC 8305, section 5).
const RACE: Duration = Duration::from_millis(250);

/// A name is looked up this often while a connection to it is in use.
const LOOK_UP_EVERY: Duration = Duration::from_secs(45);

/// The whole of the handshake, however many commands it takes; longer where connecting may take longer, because the
/// server is far away or slow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

const NOT_RESOLVED: &str = "the name is not resolved yet";
const NO_ADDRESS: &str = "the name has no address";

/// Whether it will be the same next time, if nobody changes our settings or the server's.
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
    /// What errands have brought before now was for an attempt that was given up.
    begins: bool,
    /// The address that was connected last.
    good: Option<SocketAddr>,
    /// Why that address is tried although the name is not resolved.
    unresolved: Option<String>,
    /// This was logged, and no name was resolved since.
    fell_back: bool,
    /// Of the next connection.
    window: usize,
}

enum State {
    Idle,
    Waiting {
        until: Instant,
    },
    Resolving {
        addresses: Option<VecDeque<Address>>,
        until: Instant,
        /// That it is late was noted.
        is_late: bool,
    },
    /// Addresses that are to be tried, with the protocol to begin in; the next at that time.
    Racing {
        rest: VecDeque<(Address, Protocol)>,
        next: Instant,
        attempts: Vec<Attempt>,
    },
}

/// One address in a race.
struct Attempt {
    address: Address,
    connection: Connection,
    protocol: Protocol,
    /// Once it is connected.
    handshake: Option<Handshake>,
    until: Instant,
    /// The handshake is over: it is a replica, and others may do better.
    is_spare: bool,
}

impl Connector {
    /// One that has not begun. Its sockets belong to `owner`.
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
            backoff: Backoff::new(RETRY_FLOOR, RETRY_BASE, RETRY_CAP, random),
            failing: None,
            failures: 0,
            resolving: None,
            look_up_at: now + LOOK_UP_EVERY,
            reading: None,
            password: None,
            tls: options.tls.clone().map(Renewal::of),
            begins: false,
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

    /// Begins, if it has not begun yet. The first attempt is made at once; if the last connection was of no use for
    /// long, after a while.
    pub fn start(&mut self, now: Instant, last_was_good: bool) {
        if let State::Idle = self.state {
            if last_was_good {
                self.backoff.reset();
            }
            let at_once = self.backoff.tries() == 0 && self.failing.is_none();
            let wait = self.wait(now);
            self.state = State::Waiting { until: if at_once { now } else { now + wait } };
            self.begins = true;
        }
    }

    /// A connection that was in use has died. The next has such a window.
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
        if let State::Racing { attempts, .. } = &mut self.state {
            let mut attempts = attempts.iter_mut().map(|attempt| &mut attempt.connection);
            if let Some(connection) = attempts.find(|c| c.socket() == ready.socket) {
                connection.ready(ready);
            }
        }
    }

    /// Makes the next [`progress`](Connector::progress) read from the sockets themselves.
    pub fn look(&mut self) {
        if let State::Racing { attempts, .. } = &mut self.state {
            attempts.iter_mut().for_each(|attempt| attempt.connection.look());
        }
    }

    /// Whether the name does not stand any more for the address that is in use. Looks it up now and then.
    pub fn has_moved(&mut self, world: &mut dyn World, now: Instant) -> bool {
        let (State::Idle, Endpoint::Tcp { host, port }) = (&self.state, &self.endpoint) else {
            return false;
        };
        let is_name = host.parse::<IpAddr>().is_err();
        if is_name && now >= self.look_up_at && self.resolving.is_none() {
            self.look_up_at = now + LOOK_UP_EVERY;
            self.resolving = Some((world.look_up(Some((host, *port)), None), now));
        }
        let Some(found) = self.resolving.and_then(|(errand, _)| world.looked_up(errand)) else {
            return false;
        };
        self.resolving = None;
        let found = found.map(|found| found.addresses).unwrap_or_default();
        !found.is_empty() && self.good.is_some_and(|good| !found.contains(&good))
    }

    /// Goes as far as it can without waiting. Gives a connection that can be used, once.
    pub fn progress(
        &mut self,
        world: &mut dyn World,
        now: Instant,
    ) -> Option<(Connection, Server)> {
        // Each step waits (and returns) or moves to the next state; a failure ends in Waiting.
        loop {
            match &mut self.state {
                State::Idle => return None,
                State::Waiting { until } if now < *until => return None,
                State::Waiting { .. } => self.look_up(world, now),
                State::Resolving { .. } => {
                    if !self.resolve(world, now) {
                        return None;
                    }
                }
                State::Racing { .. } => return self.race(world, now),
            }
        }
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle => None,
            State::Waiting { until } => Some(*until),
            // The errand's end wakes the loop; this deadline only fails waiting requests, or starts the try of the last
            // address.
            State::Resolving { addresses, until, .. } => {
                let falls_back = match addresses {
                    None => self.good.is_some(),
                    Some(_) => self.reading.is_none(),
                };
                (self.failing.is_none() || falls_back).then_some(*until)
            }
            State::Racing { rest, next, attempts } => {
                let next = (!rest.is_empty()).then_some(*next);
                let untils = attempts.iter().filter(|a| !a.is_spare).map(|attempt| attempt.until);
                untils.chain(next).min()
            }
        }
    }

    /// Whether an attempt is under way.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Resolving { .. } | State::Racing { .. })
    }

    /// Whether no attempt is under way, or to come.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// No connection is needed any more. A race that has begun goes on.
    pub fn rest(&mut self) {
        if !matches!(self.state, State::Racing { .. }) {
            self.state = State::Idle;
        }
    }

    /// Closes what is open.
    pub fn close(&mut self, world: &mut dyn World) {
        if let State::Racing { attempts, .. } = std::mem::replace(&mut self.state, State::Idle) {
            attempts.iter().for_each(|attempt| world.close(attempt.connection.socket()));
        }
    }

    /// Starts the errands for what must be known first: the addresses of the name, the password, the certificates.
    fn look_up(&mut self, world: &mut dyn World, now: Instant) {
        self.unresolved = None;
        if std::mem::take(&mut self.begins) {
            self.reading = self.reading.filter(|errand| world.looked_up(*errand).is_none());
            if let Some(tls) = &mut self.tls {
                tls.forget(world);
            }
            let found = self.resolving.and_then(|(errand, _)| world.looked_up(errand));
            self.resolving = self.resolving.filter(|_| found.is_none());
        }
        self.password = self.options.credentials.password.clone();
        if let (Some(path), None) = (&self.options.password_file, self.reading) {
            self.reading = Some(world.look_up(None, Some((path, PASSWORD_BYTES_MAX + 1))));
        }
        if let Some(tls) = &mut self.tls {
            tls.begin(world);
        }
        let addresses = match &self.endpoint {
            Endpoint::Unix(path) => Some([Address::Unix(path.clone())].into()),
            Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Some([Address::Tcp(SocketAddr::new(ip, *port))].into()),
                Err(_) => {
                    let errand = || (world.look_up(Some((host, *port)), None), now);
                    self.resolving.get_or_insert_with(errand);
                    None
                }
            },
        };
        let since = self.resolving.map_or(now, |(_, since)| since);
        let until = since + self.options.connect_timeout;
        self.state = State::Resolving { addresses, until, is_late: false };
    }

    /// Takes what the errands have brought. False while there is more to come.
    fn resolve(&mut self, world: &mut dyn World, now: Instant) -> bool {
        let State::Resolving { addresses, until, is_late } = &mut self.state else {
            return true;
        };
        let (mut addresses, until, was_late) = (addresses.take(), *until, *is_late);
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
        if addresses.is_none() {
            addresses = match (self.take_addresses(world), self.good) {
                (Some(Ok(found)), _) => Some(found),
                (Some(Err(e)), Some(good)) => Some(self.fall_back(good, e)),
                (Some(Err(e)), None) => {
                    self.failed(now, Failure::Unreachable(e));
                    return true;
                }
                (None, Some(good)) if now >= until => {
                    Some(self.fall_back(good, NOT_RESOLVED.to_owned()))
                }
                (None, _) => None,
            };
        }
        // Certificates that were read before are better than none.
        if self.reading.is_none()
            && (!self.tls.as_ref().is_some_and(Renewal::is_under_way) || now >= until)
            && let Some(addresses) = addresses.take()
        {
            let protocol = self.options.protocol;
            let rest = addresses.into_iter().map(|address| (address, protocol)).collect();
            self.state = State::Racing { rest, next: now, attempts: Vec::new() };
            return true;
        }
        let is_late = now >= until;
        if is_late && !was_late {
            self.failures = self.failures.saturating_add(1);
            let what = match addresses {
                None => NOT_RESOLVED,
                Some(_) => "the password file is not read yet",
            };
            self.note(now, Failure::Unreachable(what.to_owned()));
        }
        self.state = State::Resolving { addresses, until, is_late };
        false
    }

    /// The addresses of the name, once the errand has ended.
    fn take_addresses(
        &mut self,
        world: &mut dyn World,
    ) -> Option<Result<VecDeque<Address>, String>> {
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

    fn fall_back(&mut self, good: SocketAddr, why: String) -> VecDeque<Address> {
        if !std::mem::replace(&mut self.fell_back, true) {
            log::warn!("redis {}: {why}; its last address, {good}, is tried", self.endpoint);
        }
        self.unresolved = Some(why);
        [Address::Tcp(good)].into()
    }

    fn race(&mut self, world: &mut dyn World, now: Instant) -> Option<(Connection, Server)> {
        // The name is resolved after its last address was tried: the new ones come next.
        let late = self.take_addresses(world).and_then(Result::ok);
        let State::Racing { rest, next, attempts } = &mut self.state else {
            return None;
        };
        let protocol = self.options.protocol;
        rest.extend(late.into_iter().flatten().map(|address| (address, protocol)));
        let mut error = None;
        let mut at = 0;
        while let Some(attempt) = attempts.get_mut(at) {
            let answer = match attempt.is_spare {
                true => Ok(false),
                false => attempt.progress(world, now, &self.options, &self.password),
            };
            let others = attempts.len() > 1 || !rest.is_empty();
            match answer {
                Ok(true) if !attempts[at].is_replica() || !others => return self.won(world, at),
                Ok(true) => {
                    attempts[at].is_spare = true;
                    *next = now;
                    at += 1;
                }
                Ok(false) => at += 1,
                Err(e) => {
                    let attempt = attempts.swap_remove(at);
                    world.close(attempt.connection.socket());
                    // Some proxies hang up on commands that they do not know.
                    if attempt.has_hung_up_on_hello(&e) {
                        rest.push_back((attempt.address, Protocol::Resp2));
                    }
                    // What one refuses, all do.
                    if is_final(&e) {
                        rest.clear();
                    }
                    *next = now;
                    error = Some(e);
                }
            }
        }
        while now >= *next
            && let Some((address, protocol)) = rest.pop_front()
        {
            let begun = Attempt::begin(
                world,
                now,
                (address, protocol),
                &self.endpoint,
                self.tls.as_ref().map(Renewal::config),
                &self.options,
            );
            match begun {
                Ok(mut attempt) => {
                    world.set_owner(attempt.connection.socket(), self.owner);
                    attempt.connection.narrow(self.window);
                    attempts.push(attempt);
                    *next = now + RACE;
                    // It may be connected by now.
                    return self.race(world, now);
                }
                Err(e) => error = Some(Failure::Unreachable(e.to_string())),
            }
        }
        if rest.is_empty() && attempts.iter().all(|attempt| attempt.is_spare) {
            if !attempts.is_empty() {
                return self.won(world, 0);
            }
            self.failed(now, error.unwrap_or(Failure::Unreachable(NO_ADDRESS.to_owned())));
        }
        None
    }

    /// An attempt has a connection that can be used: the others end.
    fn won(&mut self, world: &mut dyn World, at: usize) -> Option<(Connection, Server)> {
        let State::Racing { mut attempts, .. } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return None;
        };
        let Attempt { address, connection, handshake, .. } = attempts.swap_remove(at);
        attempts.iter().for_each(|other| world.close(other.connection.socket()));
        if let Address::Tcp(address) = address {
            self.good = Some(address);
        }
        // One beside another, or in its place, is no news.
        let is_news = self.failing.is_some() || self.backoff.tries() <= 1;
        let level = if is_news { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "redis {}: connected", self.endpoint);
        self.password = None;
        self.unresolved = None;
        self.failing = None;
        self.failures = 0;
        Some((connection, handshake?.server().clone()))
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

impl Attempt {
    fn begin(
        world: &mut dyn World,
        now: Instant,
        (address, protocol): (Address, Protocol),
        endpoint: &Endpoint,
        tls: Option<&tls::Config>,
        options: &Options,
    ) -> io::Result<Attempt> {
        let tls = match (tls, endpoint) {
            (Some(tls), Endpoint::Tcp { host, .. }) => Some(tls.begin(host)?),
            _ => None,
        };
        let socket = world.connect(&address, options.connect_timeout)?;
        let connection = Connection::new(socket, tls, options.limits.clone(), now);
        let until = now + options.connect_timeout;
        Ok(Attempt { address, connection, protocol, handshake: None, until, is_spare: false })
    }

    fn is_replica(&self) -> bool {
        self.handshake.as_ref().is_some_and(|handshake| handshake.server().is_replica)
    }

    fn has_hung_up_on_hello(&self, e: &Failure) -> bool {
        let in_hello = |h: &Handshake| matches!(h.next(), Some((_, words)) if words[0] == b"HELLO");
        self.handshake.as_ref().is_some_and(in_hello)
            && matches!(e, Failure::Unreachable(why) if *why == Fault::Closed.to_string())
    }

    /// Connects, and sends one command after the other. True when the last has its answer.
    fn progress(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        options: &Rc<Options>,
        password: &Option<Secret>,
    ) -> Result<bool, Failure> {
        let silent = |what: &str, timeout: Duration| {
            let why = format!("{what} within {} ms", timeout.as_millis());
            Err(Failure::Unreachable(why))
        };
        let Attempt { connection, protocol, handshake, until, .. } = self;
        let timeout = options.connect_timeout.max(HANDSHAKE_TIMEOUT);
        if handshake.is_none() {
            match world.connected(connection.socket()) {
                Ok(true) => *until = now + timeout,
                Ok(false) if now < *until => return Ok(false),
                Ok(false) => return silent("no connection", options.connect_timeout),
                Err(e) => return Err(Failure::Unreachable(e.to_string())),
            }
        }
        let handshake = handshake
            .get_or_insert_with(|| Handshake::new(Rc::clone(options), password.clone(), *protocol));
        while let Some((reply_type, words)) = handshake.next() {
            if connection.in_flight() == 0 {
                let slot = Slot::new(Asker::Nobody, reply_type, Route::Slot(0), false);
                connection
                    .push(now, slot, |out| Words::plain(&words).write(out, Spelling::default()));
            }
            let Some(reply) = next_reply(connection, world, now)? else {
                connection.flush(world, now)?;
                if now >= *until {
                    return silent("no answer to the handshake", timeout);
                }
                return Ok(false);
            };
            handshake.answered(reply).map_err(Failure::Refused)?;
            connection.set_protocol(handshake.protocol());
        }
        // Bytes behind the last answer would be taken for the answer to the next command: they are a fault.
        next_reply(connection, world, now)?;
        Ok(true)
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
