//! One server: the connection to it, kept up and watched.
//!
//! ```text
//! Node ── connector    makes the next connection
//!      ├─ connection   the one that is used
//!      └─ old          the one before it: no new commands, but replies may still come
//! ```
//!
//! A connection is replaced when it dies; and while it still lives when it says nothing for long, when the server says
//! that it is no master, or when its name has moved. Then commands that were not sent move to the new one, and so do
//! reads that wait for a silent server. A write that was sent stays: nobody knows whether it ran.

use super::codec::ErrorReply;
use super::command::{Spelling, Words};
use super::connection::{Connection, Fault, Heard, Lost};
use super::connector::Connector;
use super::endpoint::Endpoint;
use super::handshake::Server;
use super::options::Options;
use super::reply_type::ReplyType;
use super::request::{Asker, Failure, Route, Slot};
use crate::net::{Ready, World};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A connection that has lived this long was healthy: the next one is not waited for.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// Each connection is asked this often whether the server is there, and a master. A firewall or a NAT forgets idle
/// connections without a word; and a worker that only reads would never notice that its server has become a replica.
const ROLE_EVERY: Duration = Duration::from_secs(5);

/// How often a server is asked that has said that it is a replica.
const ROLE_SOON: Duration = Duration::from_secs(1);

/// A server that has hung up on HELLO (it is *touchy*) is asked for nothing optional, its role included. After this
/// time HELLO is tried again: it may have hung up for another reason.
const TOUCHY_FOR: Duration = Duration::from_secs(60);

/// A connection that says nothing for so long, while commands wait, gets a successor; half of the stall timeout if that
/// is less.
const SILENT_AFTER: Duration = Duration::from_millis(800);

/// After Redis has refused a value as too long, values as long are refused here, for this time: then somebody may have
/// raised its limit.
const TOO_LONG_FOR: Duration = Duration::from_secs(60);

/// Shorter values are not refused here. No server has so low a limit: that of Redis is a mebibyte at least.
const TOO_LONG_MIN: usize = 64 * 1024;

/// A server.
pub struct Node {
    connector: Connector,
    /// The connection that is used, and the one before it, from which replies may still come.
    live: Option<Live>,
    old: Option<Live>,
    /// Since when the connection is in use, and when its server is asked for its role.
    since: Instant,
    role_at: Instant,
    /// A connection is given up when commands wait for so long and none is answered.
    stall: Duration,
    /// The connection is to be replaced, though it lives.
    renew: bool,
    /// What it has told of itself.
    pub server: Server,
    /// What is known of whether it is the node that was expected at this address.
    pub identity: Identity,
    /// The error that it last refused a command with, if it has answered none since.
    pub refusal: Option<ErrorReply>,
    /// It refuses words of this length and more, with this error; refused here until then.
    too_long: Option<(usize, ErrorReply, Instant)>,
    /// Pays for second tries.
    pub budget: Budget,
}

/// Whether a node is the one that a cluster has at this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It was not asked, and there is no reason for doubt: it gets requests.
    Unknown,
    /// It does not tell its name. It gets no requests before it has told its map.
    Asked,
    /// It is: it gets requests.
    Ours,
    /// It is not: it gets none.
    Stranger,
}

/// A connection, and why it is dead.
struct Live {
    connection: Connection,
    fault: Option<Fault>,
}

/// What became of a node's commands in a turn.
pub struct Ended {
    /// Those that are to be sent again, or to fail.
    pub commands: Vec<Lost>,
    /// Whether reads among them that were sent may be sent again: not after nonsense, which they may have caused.
    pub again: bool,
    /// Why they have no reply.
    pub failure: Failure,
}

impl Ended {
    fn by(fault: &Fault, commands: Vec<Lost>) -> Ended {
        let failure = match fault {
            Fault::Stalled(_) => Failure::Timeout,
            fault => Failure::Broken(fault.to_string()),
        };
        Ended { commands, again: !matches!(fault, Fault::Nonsense(_)), failure }
    }
}

impl Node {
    /// A server to which there is no connection yet. Its sockets belong to `owner`.
    pub fn new(
        endpoint: Endpoint,
        options: Rc<Options>,
        owner: u64,
        random: u64,
        now: Instant,
    ) -> Node {
        Node {
            stall: options.stall_timeout,
            connector: Connector::new(endpoint, options, owner, random, now),
            live: None,
            old: None,
            since: now,
            role_at: now,
            renew: false,
            server: Server::default(),
            identity: Identity::Unknown,
            refusal: None,
            too_long: None,
            budget: Budget::new(now),
        }
    }

    /// The server at the other end.
    pub fn endpoint(&self) -> &Endpoint {
        self.connector.endpoint()
    }

    /// The connection, when commands can be pushed into it.
    pub fn up(&mut self) -> Option<&mut Connection> {
        self.live.as_mut().filter(|live| live.fault.is_none()).map(|live| &mut live.connection)
    }

    /// Whether commands can be pushed.
    pub fn is_up(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.fault.is_none())
    }

    /// Whether there may be more to read, for which no event will come.
    pub fn has_more(&self) -> bool {
        self.connections().any(Connection::has_more)
    }

    /// Whether commands wait until what is there has been read.
    #[inline]
    pub fn hears_first(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.connection.hears_first())
    }

    /// Commands that wait for their replies.
    pub fn in_flight(&self) -> usize {
        self.connections().map(Connection::in_flight).sum()
    }

    /// How many of these are requests.
    pub fn requests(&self) -> usize {
        self.connections().map(Connection::requests).sum()
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.live.iter().chain(&self.old).map(|live| &live.connection)
    }

    /// The connections, to look for a command.
    pub fn connections_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.live.iter_mut().chain(&mut self.old).map(|live| &mut live.connection)
    }

    /// Why there is no connection; `None` while there is one, or nothing is known yet.
    pub fn error(&self) -> Option<&Failure> {
        self.connector.error().filter(|_| !self.is_up())
    }

    /// Whether there is a connection, and how many attempts to make one have failed since there was.
    pub fn state(&self) -> (bool, u32) {
        (self.is_up(), self.connector.failures())
    }

    /// What keeps it from taking writes, as far as is known.
    pub fn trouble(&self, now: Instant) -> Option<Failure> {
        if self.server.is_replica {
            let why = format!("READONLY {} says that it is a replica", self.endpoint());
            return Some(Failure::Refused(ErrorReply::parse(why.as_bytes())));
        }
        self.known_away(now).cloned()
    }

    /// An address of the server, to be tried when its name does not resolve.
    pub fn set_good(&mut self, good: SocketAddr) {
        self.connector.set_good(good);
    }

    /// As [`error`](Node::error), but only when it has been so for long, or waiting cannot help.
    pub fn known_away(&self, now: Instant) -> Option<&Failure> {
        if self.is_up() { None } else { self.connector.known_away(now) }
    }

    /// Has the connection replaced: behind its address there may be another server by now.
    pub fn renew(&mut self) {
        self.renew = true;
    }

    /// Whether requests may be sent to it, as far as its identity matters.
    pub fn is_trusted(&self) -> bool {
        matches!(self.identity, Identity::Unknown | Identity::Ours)
    }

    /// Notes that it is another server than was expected. Its name may soon lead to the right one, so the connection is
    /// replaced.
    pub fn estrange(&mut self) {
        if std::mem::replace(&mut self.identity, Identity::Stranger) != Identity::Stranger {
            log::warn!(
                "redis {}: this is a node of another cluster, or of another place in it",
                self.endpoint()
            );
        }
        self.renew = true;
    }

    /// Has the connection replaced because the server does not accept it any more. One that was made a moment ago is
    /// kept, or we would sign on without end to a server that always refuses.
    pub fn renew_if_old(&mut self, now: Instant) {
        self.renew |= self.was_healthy(now);
    }

    /// Notes that a command was answered, and not with an error; `wrote`: that a write was.
    #[inline]
    pub fn answered(&mut self, wrote: bool) {
        self.budget.earn();
        self.server.is_replica &= !wrote;
        if self.refusal.is_some() {
            self.refusal = None;
        }
    }

    /// Notes that the server has refused a word of this length as too long, if it was not short. The connection is of no
    /// more use: Redis closes it, but a proxy may not.
    pub fn note_too_long(&mut self, now: Instant, length: usize, e: ErrorReply) {
        self.renew = true;
        if length >= TOO_LONG_MIN {
            self.too_long = Some((length, e, now + TOO_LONG_FOR));
        }
    }

    /// The error with which the server would refuse a word of this length.
    pub fn too_long(&self, now: Instant, length: usize) -> Option<&ErrorReply> {
        let (most, e, until) = self.too_long.as_ref()?;
        (length >= *most && now < *until).then_some(e)
    }

    /// Whether a connection is being made.
    pub fn is_connecting(&self) -> bool {
        self.connector.is_connecting()
    }

    /// Takes an event for one of the sockets.
    pub fn ready(&mut self, ready: Ready) {
        let ours = self.connections_mut().filter(|connection| connection.socket() == ready.socket);
        ours.for_each(|connection| connection.ready(ready));
        self.connector.ready(ready);
    }

    /// Makes the next turn read from the sockets themselves, whatever events were reported.
    pub fn look(&mut self) {
        self.connections_mut().for_each(Connection::look);
        self.connector.look();
    }

    /// The next reply or push, of the connection that is used or of the one before it. `None` when there is no more
    /// now; then call [`progress`](Node::progress).
    #[inline]
    pub fn hear(&mut self, world: &mut dyn World, now: Instant, old: bool) -> Option<Heard<'_>> {
        let live = if old { &mut self.old } else { &mut self.live };
        let Live { connection, fault: fault @ None } = live.as_mut()? else {
            return None;
        };
        match connection.hear(world, now) {
            Ok(heard) => heard,
            Err(e) => {
                *fault = Some(e);
                None
            }
        }
    }

    /// Asks the server a question of our own. False, and nothing is kept, if there is no connection.
    pub fn ask(&mut self, now: Instant, asker: Asker, words: &[&[u8]]) -> bool {
        let slot = Slot::new(asker, ReplyType::Any, Route::Slot(0), true);
        let Some(connection) = self.up() else {
            return false;
        };
        connection.push(now, slot, |out| Words::plain(words).write(out, Spelling::default()));
        true
    }

    /// Sends, and goes as far as it can without waiting. Tells what became of commands whose connection has ended; then
    /// call it again.
    pub fn progress(&mut self, world: &mut dyn World, now: Instant) -> Option<Ended> {
        if let Some(live) = &mut self.live {
            if now >= self.role_at {
                self.role_at = now + self.role_every();
                self.renew |= self.connector.has_moved(world, now);
                self.renew |= self.server.is_touchy
                    && now.saturating_duration_since(self.since) >= TOUCHY_FOR;
                let ask: &[u8] = if self.server.is_touchy { b"PING" } else { b"ROLE" };
                self.ask(now, Asker::Role, &[ask]);
                return self.progress(world, now);
            }
            if let Err(fault) = live.flush(world, now, self.stall) {
                return self.ended(world, now, fault);
            }
        }
        if let Some(old) = &mut self.old {
            let outcome = old.flush(world, now, self.stall);
            if outcome.is_err() || old.connection.in_flight() == 0 {
                let old = self.old.take()?.connection;
                world.close(old.socket());
                return Some(Ended::by(&outcome.err().unwrap_or(Fault::Closed), old.lost()));
            }
        }
        let is_due = self.renew || self.is_silent(now);
        match self.live.is_none() || self.old.is_none() && is_due {
            true => self.connector.start(world, now, self.was_healthy(now)),
            false => self.connector.rest(),
        }
        let (connection, server) = self.connector.progress(world, now)?;
        let silent = self.is_silent(now);
        self.server = server;
        // Its identity is judged anew, but a stranger that tells its name stays one until its name is found to be
        // right.
        if self.identity != Identity::Stranger || self.server.id.is_none() {
            self.identity = Identity::Unknown;
        }
        (self.renew, self.since, self.role_at) = (false, now, now + self.role_every());
        let mut before = self.live.replace(Live { connection, fault: None })?;
        let commands = before.connection.withdraw(silent);
        self.old = Some(before);
        let why = || Failure::Broken("the connection was replaced".to_owned());
        let failure = if silent { Failure::Timeout } else { why() };
        Some(Ended { commands, again: true, failure })
    }

    fn ended(&mut self, world: &mut dyn World, now: Instant, fault: Fault) -> Option<Ended> {
        let Live { connection, .. } = self.live.take()?;
        world.close(connection.socket());
        let in_flight = connection.in_flight();
        log::warn!("redis {}: {fault}; {in_flight} commands were in flight", self.endpoint());
        self.connector.lost(now, &fault, connection.next_window());
        self.connector.start(world, now, self.was_healthy(now));
        Some(Ended::by(&fault, connection.lost()))
    }

    /// When `progress` must be called again if nothing becomes ready before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let is_dead = |live: &Option<Live>| live.as_ref().is_some_and(|live| live.fault.is_some());
        if is_dead(&self.live) || is_dead(&self.old) || self.has_more() {
            // Call at once.
            return Some(self.since);
        }
        let stalls = self.connections().filter_map(|c| Some(c.waiting_since()? + self.stall));
        let trims = self.connections().filter_map(Connection::next_deadline);
        let silent = self.live.as_ref().and_then(|live| live.connection.silent_since());
        let silent = silent.filter(|_| self.old.is_none() && self.connector.is_idle());
        let silent = silent.map(|since| since + self.silent_after());
        let role_at = self.live.as_ref().map(|_| self.role_at);
        let connecting = self.connector.next_deadline();
        stalls.chain(trims).chain(silent).chain(role_at).chain(connecting).min()
    }

    /// Closes it for good.
    pub fn close(&mut self, world: &mut dyn World) -> Vec<Lost> {
        self.connector.close(world);
        let both = [self.live.take(), self.old.take()].into_iter().flatten();
        let lost = both.flat_map(|live| {
            world.close(live.connection.socket());
            live.connection.lost()
        });
        lost.collect()
    }

    fn was_healthy(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= HEALTHY_AFTER
    }

    fn role_every(&self) -> Duration {
        if self.server.is_replica { ROLE_SOON } else { ROLE_EVERY }
    }

    fn silent_after(&self) -> Duration {
        SILENT_AFTER.min(self.stall / 2)
    }

    fn is_silent(&self, now: Instant) -> bool {
        let since = self.live.as_ref().and_then(|live| live.connection.silent_since());
        self.old.is_none() && since.is_some_and(|since| now >= since + self.silent_after())
    }
}

impl Live {
    /// Sends what can be sent now, and finds out whether the connection is dead.
    fn flush(&mut self, world: &mut dyn World, now: Instant, stall: Duration) -> Result<(), Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.connection.flush(world, now)?;
        let due = self.connection.waiting_since().is_some_and(|since| now >= since + stall);
        if due && !self.connection.has_more() { Err(Fault::Stalled(stall)) } else { Ok(()) }
    }
}

/// Tries beyond the first are paid for by successes, ten for one, so that an outage cannot double the load on the
/// remaining servers; and by time, one in a second, so that a service with little traffic survives a short failure.
/// Each server has a budget of its own: one that is loading must not spend what the others need.
#[derive(Debug)]
pub struct Budget {
    tenths: u32,
    /// When time last paid.
    paid_at: Instant,
}

const BUDGET_MAX: u32 = 500;

impl Budget {
    fn new(now: Instant) -> Budget {
        Budget { tenths: BUDGET_MAX, paid_at: now }
    }

    /// A command was answered.
    pub fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(BUDGET_MAX);
    }

    /// Whether another try can be paid for.
    pub fn spend(&mut self, now: Instant) -> bool {
        let tenths = now.saturating_duration_since(self.paid_at).as_millis() / 100;
        if tenths > 0 {
            let tenths = u32::try_from(tenths).unwrap_or(BUDGET_MAX);
            self.tenths = self.tenths.saturating_add(tenths).min(BUDGET_MAX);
            self.paid_at = now;
        }
        let paid = self.tenths >= 10;
        self.tenths -= if paid { 10 } else { 0 };
        paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_costs_ten_successes_or_a_second() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let spent = |budget: &mut Budget, now| (0..).take_while(|_| budget.spend(now)).count();
        assert_eq!(spent(&mut budget, now), 50);
        (0..29).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, now), 2);
        budget.earn();
        assert_eq!(spent(&mut budget, now), 1);
        assert_eq!(spent(&mut budget, now + Duration::from_millis(999)), 0);
        let later = now + Duration::from_millis(3999);
        assert_eq!(spent(&mut budget, later), 3);
        assert_eq!(spent(&mut budget, later + Duration::from_secs(1000)), 50);
    }
}
