//! One address in a race: connects, and signs on.

use super::codec::Reply;
use super::command::{Spelling, Words};
use super::connection::{Connection, Fault, Heard};
use super::handshake::Handshake;
use super::request::{Asker, Failure, Route, Slot};
use crate::net::{Address, World};
use std::time::{Duration, Instant};

/// The whole of the handshake, however many commands it takes; longer where connecting may take longer, because the
/// server is far away or slow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module's text.
pub struct Attempt {
    /// Where it leads.
    pub address: Address,
    /// To be used once it has signed on.
    pub connection: Connection,
    /// What has been said so far.
    pub handshake: Handshake,
    is_connected: bool,
    timeout: Duration,
    /// When what it does now must be done.
    pub until: Instant,
    /// It has signed on: at a replica, and others may do better.
    pub is_spare: bool,
}

impl Attempt {
    /// One that is just connecting.
    pub fn new(
        address: Address,
        connection: Connection,
        handshake: Handshake,
        timeout: Duration,
        now: Instant,
    ) -> Attempt {
        let (is_connected, is_spare, until) = (false, false, now + timeout);
        Attempt { address, connection, handshake, is_connected, timeout, until, is_spare }
    }

    /// Whether the server has closed the connection instead of an answer to HELLO.
    pub fn has_hung_up_on_hello(&self, e: &Failure) -> bool {
        let in_hello = matches!(self.handshake.next(), Some((_, words)) if words[0] == b"HELLO");
        let is_closed = matches!(e, Failure::Unreachable(why) if *why == Fault::Closed.to_string());
        self.is_connected && in_hello && is_closed
    }

    /// Connects, and sends one command after the other. True when the last has its answer.
    ///
    /// # Errors
    /// Why it leads to no connection that can be used.
    pub fn progress(&mut self, world: &mut dyn World, now: Instant) -> Result<bool, Failure> {
        let silent = |what: &str, timeout: Duration| {
            let why = format!("{what} within {} ms", timeout.as_millis());
            Err(Failure::Unreachable(why))
        };
        let Attempt { connection, handshake, is_connected, timeout, until, .. } = self;
        let handshake_timeout = HANDSHAKE_TIMEOUT.max(*timeout);
        if !*is_connected {
            match world.connected(connection.socket()) {
                Ok(true) => (*is_connected, *until) = (true, now + handshake_timeout),
                Ok(false) if now < *until => return Ok(false),
                Ok(false) => return silent("no connection", *timeout),
                Err(e) => return Err(Failure::Unreachable(e.to_string())),
            }
        }
        while let Some((reply_type, words)) = handshake.next() {
            if connection.in_flight() == 0 {
                let slot = Slot::new(Asker::Nobody, reply_type, Route::Slot(0), false);
                connection
                    .push(now, slot, |out| Words::plain(&words).write(out, Spelling::default()));
            }
            let Some(reply) = next_reply(connection, world, now)? else {
                connection.flush(world, now)?;
                if now >= *until {
                    return silent("no answer to the handshake", handshake_timeout);
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
