//! One pipelined socket to one Redis server.
//!
//! Replies carry no name: the n-th reply belongs to the n-th command. So a connection is either in step, or it is dead.
//! A reply of the wrong type, a reply to no command, bytes that are not RESP, or an I/O error ends it at once, and
//! every command that waits on it learns how much of it was sent.
//!
//! ```text
//! push ─▶ out  ░░░░▓▓▓▓▓▓▓▓   ▓ = not yet taken by the kernel (sent .. queued)
//!         slots [a][b][c][d]  each remembers where its last byte is in the stream, so
//!                             a, b: unknown outcome    c, d: certainly did not run
//! ```
//!
//! A command whose request was abandoned keeps its slot: its reply is read and dropped in its turn (the famous leak of
//! 2023 was a client that did not). A reply that arrives before its command has been sent is not its reply, whatever it
//! looks like. Reading never waits for writing, so a server that does not read until it has written cannot deadlock
//! with us.
//!
//! A command's bytes stay in `out` until its reply has come. So a command that has to be sent again is copied from
//! there, and no other copy of it is kept meanwhile. Replies are read into one buffer and, if they are plain, handed on
//! as slices of it.

use super::codec::{
    Decoder, ErrorReply, FIRST_BYTES_MAX, Frame, Limits, Plain, Protocol, Received, Reply,
};
use super::output::{KEPT_BYTES, Output};
use super::reply_type::ReplyType;
use super::request::{Asker, Failure, Slot};
use super::tls;
use crate::net::{Ready, Socket, World};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Replies are read in pieces of this size. Low idle memory is part of the promise, so not more.
const READ_BYTES: usize = 16 * 1024;

/// A large buffer is freed this long after it was emptied: if it were freed at once, it would be allocated again for
/// each of many large values.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// So many bytes of replies may be on their way, if they are as long as the last one: Redis keeps them until we have
/// read them, counts them to its memory, and may have a limit for them (`client-output-buffer-limit`).
const REPLIES_BYTES_MAX: usize = 6 * 1024 * 1024;

/// How many reads may be on their way (the *window*) while nothing is known of the length of their replies.
pub const WINDOW_FIRST: usize = 32;

/// How Redis begins to say that it reads no more from us.
const PROTOCOL_ERROR: &[u8] = b"ERR Protocol error";

/// The most that is read in one turn, from one [`flush`](Connection::flush) to the next; the rest is read in the next
/// turn.
const READ_BYTES_AT_A_TIME: usize = 1024 * 1024;

/// Why a connection died.
#[derive(Debug)]
pub enum Fault {
    /// The server closed it.
    Closed,
    /// The operating system reported an error.
    Io(io::Error),
    /// The server, or another process in its place, breaks the protocol: bytes that are not RESP, a reply of a type
    /// that the command cannot have, or one with nothing sent that it could answer. Sending it the same command again
    /// would only bring the same result.
    Nonsense(String),
    /// An error when no command was sent that it could answer: a server sends it before it closes the connection, `-ERR
    /// max number of clients reached` for one.
    Dismissed(ErrorReply),
    /// Commands waited and none was answered for this long.
    Stalled(Duration),
}

impl From<Fault> for Failure {
    /// For a connection that never came to be used: no command is lost with it.
    fn from(fault: Fault) -> Failure {
        match fault {
            Fault::Dismissed(e) => Failure::Refused(e),
            fault => Failure::Unreachable(fault.to_string()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Closed => f.write_str("closed by the server"),
            Fault::Io(e) => write!(f, "{e}"),
            Fault::Nonsense(what) => f.write_str(what),
            Fault::Dismissed(e) => write!(f, "dismissed by the server: {e}"),
            Fault::Stalled(d) => write!(f, "no reply for {} ms", d.as_millis()),
        }
    }
}

/// What was read from a connection.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A reply, in its turn.
    Reply {
        /// The command that it answers, which may have been abandoned by now.
        slot: Slot,
        /// The reply, which has a type that the command may have.
        reply: Received<'a>,
        /// The command, as it was sent.
        command: &'a [u8],
    },
    /// A message that answers no command.
    Push(Vec<Reply>),
}

/// A command that has lost its connection.
#[derive(Debug)]
pub struct Lost {
    /// Its entry.
    pub slot: Slot,
    /// Its bytes.
    pub command: Vec<u8>,
    /// Whether it may have run: the kernel had taken all of it.
    pub sent: bool,
    /// Whether it may be what ended the connection: the kernel had taken some of it.
    pub begun: bool,
}

/// See the module's text.
pub struct Connection {
    socket: Socket,
    tls: Option<Box<dyn tls::Session>>,
    readable: bool,
    writable: bool,
    /// The peer has closed, or the socket has an error: read on until the end of the stream.
    ended: bool,
    out: Output,
    /// What was read is in `input[..filled]`; what of it was not decoded yet is in `input[taken..filled]`.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// How many bytes may still be read in this turn.
    left: usize,
    decoder: Decoder,
    slots: VecDeque<Slot>,
    /// How many reads may be on their way; the next one waits, and so does every command behind it.
    window: usize,
    /// How many of the slots may be sent by now, and how many of these are reads.
    admitted: usize,
    reads: usize,
    /// Bytes decoded since the last reply.
    reply_bytes: usize,
    /// So many of the first slots are known to be abandoned.
    abandoned: usize,
    /// The server has said that it reads no more (a protocol error), so nothing more is sent to it; and where the command
    /// ends that it has said so of. If no other reply has come since, it does not run what was sent behind. (If one has,
    /// this is a proxy, and only its server has read no more.)
    deaf_behind: Option<u64>,
    /// When large buffers are freed, if they are empty then.
    trim_at: Option<Instant>,
    /// When a reply last came, or the first of the present commands was queued on an idle connection.
    answered: Instant,
    /// When bytes last came.
    heard: Instant,
}

impl Connection {
    /// Takes over a socket, connected or still connecting.
    pub fn new(
        socket: Socket,
        tls: Option<Box<dyn tls::Session>>,
        limits: Limits,
        now: Instant,
    ) -> Connection {
        Connection {
            socket,
            tls,
            readable: true,
            writable: false,
            ended: false,
            out: Output::default(),
            input: vec![0; READ_BYTES],
            taken: 0,
            filled: 0,
            left: READ_BYTES_AT_A_TIME,
            decoder: Decoder::new(limits),
            slots: VecDeque::new(),
            window: WINDOW_FIRST,
            admitted: 0,
            reads: 0,
            reply_bytes: 0,
            abandoned: 0,
            deaf_behind: None,
            trim_at: None,
            answered: now,
            heard: now,
        }
    }

    /// The socket.
    pub fn socket(&self) -> Socket {
        self.socket
    }

    /// Takes an event for its socket.
    pub fn ready(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.ended |= ready.ended || ready.broken;
    }

    /// Makes the next read use the socket itself, whatever events were reported.
    pub fn look(&mut self) {
        self.readable = true;
    }

    /// Queues one command, which `write` appends. Nothing between its bytes and its slot can fail, so they stay
    /// together.
    #[inline]
    pub fn push(&mut self, now: Instant, mut slot: Slot, write: impl FnOnce(&mut Vec<u8>)) {
        if self.slots.is_empty() {
            self.wake_up(now);
        }
        slot.end = self.out.push(write);
        self.slots.push_back(slot);
    }

    /// The first command after a while.
    fn wake_up(&mut self, now: Instant) {
        // The socket is read before it is written to, whatever events were reported: the server may have closed the
        // connection since, and a command written into a closed connection has an unknown outcome; or it may have sent
        // bytes that answer no command, which would be taken for the reply. One call, and only where nothing is in
        // flight; and not again in the turn in which replies came.
        self.readable |= self.heard != now;
        // What is asked now need not be as small as what was asked then.
        if now.saturating_duration_since(self.answered) > KEPT_FOR {
            self.window = self.window.min(WINDOW_FIRST);
        }
        // The stall timeout counts from here: before, no reply was awaited.
        (self.answered, self.heard) = (now, now);
    }

    /// The next reply or push; reads as far as that needs, without waiting. `None` when there is no more, or when
    /// enough was read in this turn.
    ///
    /// Reading comes before writing so that a connection the server has closed is found dead before
    /// anything is written to it.
    ///
    /// # Errors
    /// The connection is dead; call [`lost`](Connection::lost) next.
    pub fn hear(
        &mut self,
        world: &mut dyn World,
        now: Instant,
    ) -> Result<Option<Heard<'_>>, Fault> {
        let at = loop {
            let mut wanted = 0;
            if self.taken < self.filled {
                let (from, input) = (self.taken, &self.input[self.taken..self.filled]);
                match self.decoder.plain_reply(input) {
                    Some((_, Plain::Growing(whole))) => wanted = whole,
                    Some((taken, Plain::Bulk(at))) => {
                        self.take(taken);
                        break from + at.start..from + at.end;
                    }
                    Some((taken, Plain::Line(reply))) => {
                        self.take(taken);
                        return self.reply(now, reply).map(Some);
                    }
                    None => {
                        let decoded = self.decoder.decode(input);
                        let (taken, frame) = decoded.map_err(|e| Fault::Nonsense(e.to_string()))?;
                        self.take(taken);
                        match frame {
                            Some(Frame::Reply(reply)) => return self.reply(now, reply).map(Some),
                            Some(Frame::Push(push)) => return self.push_frame(now, push).map(Some),
                            None => {}
                        }
                    }
                }
                self.check_asked()?;
            }
            self.readable |= self.ended;
            // The replies of a fast server need not end, and other connections wait.
            if !self.readable || self.left == 0 {
                return Ok(None);
            }
            self.make_room(wanted);
            self.read(world, now)?;
        };
        let (slot, from) = self.answer(now, ReplyType::may_be_bulk)?;
        let (reply, command) = (Received::Bulk(&self.input[at]), self.out.between(from, slot.end));
        Ok(Some(Heard::Reply { slot, reply, command }))
    }

    fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        self.reply_bytes += bytes;
    }

    /// A push answers one command, SUBSCRIBE, and only if it says that it does.
    fn push_frame(&mut self, now: Instant, push: Vec<Reply>) -> Result<Heard<'_>, Fault> {
        let asked = self.asked().is_some_and(|slot| slot.reply_type == ReplyType::Pushed);
        if !asked || push.first().and_then(Reply::text) != Some("subscribe") {
            return Ok(Heard::Push(push));
        }
        let (slot, _) = self.answer(now, |_| true)?;
        Ok(Heard::Reply { slot, reply: Received::Other(Reply::Null), command: &[] })
    }

    fn reply(&mut self, now: Instant, reply: Reply) -> Result<Heard<'_>, Fault> {
        let mut is_deaf = false;
        if let Reply::Error(e) = &reply {
            is_deaf = e.message.starts_with(PROTOCOL_ERROR);
            // What it refuses so it need not have had to the end, and it takes no more of it.
            if is_deaf && self.out.sent > self.out.answered_to {
                self.out.sent = self.slots.front().map_or(0, |slot| slot.end).max(self.out.sent);
            }
            if !self.is_asked() {
                return Err(Fault::Dismissed(e.clone()));
            }
        }
        let (slot, from) = self.answer(now, |shape| shape.fits(&reply))?;
        if is_deaf {
            self.deaf_behind.get_or_insert(slot.end);
        }
        let command = self.out.between(from, slot.end);
        Ok(Heard::Reply { slot, reply: Received::Other(reply), command })
    }

    /// Whether a reply may come.
    #[inline]
    fn is_asked(&self) -> bool {
        self.slots.front().is_some_and(|slot| slot.end <= self.out.sent)
    }

    /// The oldest command whose reply has not come, if all of it has gone out.
    fn asked(&self) -> Option<Slot> {
        self.slots.front().filter(|slot| slot.end <= self.out.sent).copied()
    }

    /// Finds the command that a reply answers, and where in the stream it begins.
    fn answer(
        &mut self,
        now: Instant,
        fits: impl Fn(ReplyType) -> bool,
    ) -> Result<(Slot, u64), Fault> {
        let slot = self.asked().ok_or_else(stray)?;
        // Removed only when its reply is good: otherwise it is lost with the rest.
        if !fits(slot.reply_type) {
            let why = format!("reply of the wrong type ({:?} expected)", slot.reply_type);
            return Err(Fault::Nonsense(why));
        }
        self.slots.pop_front();
        self.abandoned = self.abandoned.saturating_sub(1);
        self.admitted -= 1;
        self.reads -= usize::from(slot.read_only);
        self.answered = now;
        self.adapt_window();
        Ok((slot, std::mem::replace(&mut self.out.answered_to, slot.end)))
    }

    /// A large reply narrows the window at once; a small one widens it by one, if commands wait for that.
    fn adapt_window(&mut self) {
        let bytes = std::mem::take(&mut self.reply_bytes);
        let most = REPLIES_BYTES_MAX / bytes.max(1);
        if most < self.window {
            self.window = most.max(1);
        } else if self.window < most && self.admitted < self.slots.len() {
            self.window += 1;
        }
    }

    /// Half a reply to no command is as bad as a whole one: its other half would come after our next command. Half an
    /// error may yet tell why the server closes the connection.
    fn check_asked(&self) -> Result<(), Fault> {
        let rest = &self.input[self.taken..self.filled];
        let inside =
            !self.is_asked() && self.decoder.is_inside_reply(rest) && rest.first() != Some(&b'-');
        if inside { Err(stray()) } else { Ok(()) }
    }

    /// Makes room in the input buffer: for all of a reply of `wanted` bytes, if that is known.
    ///
    /// A length is no reason to allocate that much: beyond a first piece memory follows the bytes that arrive.
    fn make_room(&mut self, wanted: usize) {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
            return;
        }
        let there = self.filled - self.taken;
        let goal = wanted.min(FIRST_BYTES_MAX.max(2 * there)).max(there + 1);
        let room = self.input.len() - self.filled;
        if self.taken > 0 && room < (goal - there).max(READ_BYTES / 2) {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, there);
        }
        if self.input.len() < goal {
            // If that is not much, for a few more replies like this: a reply that is cut off has to be moved.
            let size = goal.max(KEPT_BYTES.min(4 * goal));
            self.input.reserve_exact(size - self.input.len());
            self.input.resize(size, 0);
        }
    }

    fn read(&mut self, world: &mut dyn World, now: Instant) -> Result<(), Fault> {
        let room = &mut self.input[self.filled..];
        let size = room.len();
        let outcome = match &mut self.tls {
            None => world.recv(self.socket, room),
            Some(tls) => tls.recv(world, self.socket, room),
        };
        match outcome {
            Ok(0) => return Err(Fault::Closed),
            Ok(n) => {
                self.filled += n;
                self.heard = now;
                self.left = self.left.saturating_sub(n);
                // Edge-triggered: a short read means that the socket is drained, and saves the call that would say so.
                // But the edge may have been that of a close as well; it comes only once.
                let drained = n < size && self.tls.is_none();
                self.readable = !drained || self.ended;
            }
            // Whatever an event has said of an end: there is none.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                (self.readable, self.ended) = (false, false);
            }
            Err(e) => return Err(Fault::Io(e)),
        }
        Ok(())
    }

    /// Writes as far as the socket takes it, and begins a new turn of reading.
    ///
    /// # Errors
    /// As for [`hear`](Connection::hear).
    pub fn flush(&mut self, world: &mut dyn World, now: Instant) -> Result<(), Fault> {
        self.left = READ_BYTES_AT_A_TIME;
        let until = if self.may_send() { self.admit() } else { self.out.sent };
        let (from, oldest) = (self.out.sent, self.slots.front().map_or(0, |slot| slot.end));
        while self.writable && self.out.sent < until {
            let rest = self.out.between(self.out.sent, until);
            let outcome = match &mut self.tls {
                None => world.send(self.socket, rest),
                Some(tls) => tls.send(world, self.socket, rest),
            };
            match outcome {
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => self.out.sent += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                // What it has sent before its end may tell why, and which commands it has answered.
                Err(_) => (self.writable, self.readable, self.ended) = (false, true, true),
            }
        }
        if from < oldest && from < self.out.sent {
            // The server had not got all of the command that it has to answer next, so its silence begins here at the
            // earliest: this process may have stood still before it sent these bytes.
            (self.answered, self.heard) = (now, now);
        }
        if let Some(tls) = &mut self.tls
            && self.writable
            && tls.flush(world, self.socket).is_err()
        {
            (self.writable, self.readable, self.ended) = (false, true, true);
        }
        self.out.drop_answered();
        if self.trim_at.is_some()
            || self.input.len() > KEPT_BYTES
            || self.out.capacity() > KEPT_BYTES
        {
            self.trim(now);
        }
        Ok(())
    }

    /// While no reply is awaited, the socket is read to its end before a command is sent: bytes that are there by then
    /// cannot be taken for its reply. A server that reads no more is sent no more.
    #[inline]
    fn may_send(&self) -> bool {
        self.deaf_behind.is_none()
            && (self.is_asked() || !self.readable && self.taken == self.filled)
    }

    /// Whether commands wait until the socket has been read.
    #[inline]
    pub fn hears_first(&self) -> bool {
        self.readable && self.out.sent < self.out.queued && !self.is_asked()
    }

    /// Where in the stream the first command begins that must wait.
    fn admit(&mut self) -> u64 {
        while let Some(slot) = self.slots.get(self.admitted) {
            if slot.read_only && self.reads >= self.window {
                let before = self.admitted.checked_sub(1).map(|before| self.slots[before].end);
                return before.unwrap_or(self.out.answered_to);
            }
            self.admitted += 1;
            self.reads += usize::from(slot.read_only);
        }
        self.out.queued
    }

    #[cold]
    fn trim(&mut self, now: Instant) {
        if now < *self.trim_at.get_or_insert(now + KEPT_FOR) {
            return;
        }
        self.trim_at = None;
        if self.taken == self.filled && self.input.len() > KEPT_BYTES {
            (self.taken, self.filled) = (0, 0);
            self.input.truncate(READ_BYTES);
            self.input.shrink_to_fit();
        }
        self.out.shrink();
    }

    /// When [`flush`](Connection::flush) has something to do even if nothing becomes ready.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.trim_at
    }

    /// Begins with this window.
    pub fn narrow(&mut self, window: usize) {
        self.window = window;
    }

    /// The window for the connection that replaces this one, which is dead: perhaps Redis closed it because so many
    /// replies were on their way.
    pub fn next_window(&self) -> usize {
        if self.reads == 0 { WINDOW_FIRST } else { (self.reads.min(WINDOW_FIRST) / 4).max(1) }
    }

    /// Sets the protocol that the server speaks from here on.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.decoder.set_protocol(protocol);
    }

    /// How many commands wait for their replies, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// How many of these are a requester's, abandoned ones included, and not questions of our own.
    pub fn requests(&self) -> usize {
        let is_ours = |slot: &&Slot| matches!(slot.asker, Asker::Requester(_) | Asker::Nobody);
        self.slots.iter().filter(is_ours).count()
    }

    /// Whether there may be more to read, for which no event will come.
    pub fn has_more(&self) -> bool {
        self.readable
    }

    /// How many bytes of commands are held: those the kernel has not taken yet, and those whose replies have not come.
    pub fn held(&self) -> usize {
        self.out.held()
    }

    /// When commands wait: since when none has been answered. The clock starts anew while the oldest command is still
    /// being sent, but not when later ones are (the kernel takes them long after the server is gone), nor when a part
    /// of a reply comes: one that trickles in for longer than a request waits is of no use.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.slots.is_empty()).then_some(self.answered)
    }

    /// When commands wait: since when no byte has come.
    pub fn silent_since(&self) -> Option<Instant> {
        (!self.slots.is_empty()).then_some(self.answered.max(self.heard))
    }

    /// A command of this tag is abandoned: its reply is awaited no more. Gives its entry.
    pub fn abandon(&mut self, tag: u64) -> Option<Slot> {
        // Deadlines are in the order of the commands, more or less, so the next to be abandoned is behind the last.
        let behind = self.slots.range(self.abandoned..);
        self.abandoned += behind.take_while(|slot| slot.asker == Asker::Nobody).count();
        let mut behind = self.slots.range(self.abandoned..);
        let at = behind.position(|slot| slot.is_for(tag))? + self.abandoned;
        let slot = self.slots.get_mut(at)?;
        Some(std::mem::replace(slot, Slot { asker: Asker::Nobody, ..*slot }))
    }

    /// Takes out the commands that another connection is to get: those that were not sent, and, if this one is
    /// `silent`, the reads that were. Replies to the latter are dropped if they still come.
    pub fn withdraw(&mut self, silent: bool) -> Vec<Lost> {
        let from = self.out.sent.max(self.out.answered_to);
        let mut lost = Vec::new();
        for (at, begin) in self.begins().into_iter().enumerate() {
            let slot = self.slots[at];
            let unsent = begin >= from;
            if unsent || silent && slot.read_only && slot.end <= self.out.sent {
                let command = self.out.between(begin, slot.end).to_vec();
                lost.push(Lost { slot, command, sent: !unsent, begun: !unsent });
                self.slots[at].asker = Asker::Nobody;
            }
        }
        // A command that the kernel has a part of stays.
        let kept = self.begins().partition_point(|begin| *begin < from);
        self.slots.truncate(kept);
        self.admitted = self.admitted.min(self.slots.len());
        self.abandoned = 0;
        self.reads = self.slots.iter().take(self.admitted).filter(|slot| slot.read_only).count();
        let queued =
            self.slots.back().map_or(self.out.answered_to, |last| last.end).max(self.out.sent);
        self.out.cut(queued);
        lost
    }

    /// The commands of a connection that is dead.
    pub fn lost(&self) -> Vec<Lost> {
        let is_deaf = self.deaf_behind == Some(self.out.answered_to);
        let lost = self.begins().into_iter().zip(&self.slots).map(|(begin, slot)| {
            let command = self.out.between(begin, slot.end).to_vec();
            let sent = slot.end <= self.out.sent && !is_deaf;
            Lost { slot: *slot, command, sent, begun: begin < self.out.sent && !is_deaf }
        });
        lost.collect()
    }

    /// Where in the stream each command begins whose reply has not come.
    fn begins(&self) -> Vec<u64> {
        let ends = self.slots.iter().map(|slot| slot.end);
        std::iter::once(self.out.answered_to).chain(ends).take(self.slots.len()).collect()
    }
}

fn stray() -> Fault {
    Fault::Nonsense("a reply that was not asked for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::command::{Spelling, Words};
    use super::super::fake::Fake;
    use super::super::request::{Route, Ticket};
    use super::*;
    use crate::net::Address;

    fn connection(world: &mut Fake) -> Connection {
        let socket = world.connect(&Address::Unix("/redis".into()), Duration::ZERO).unwrap();
        let mut connection = Connection::new(socket, None, Limits::default(), world.now);
        world.take_ready().into_iter().for_each(|ready| connection.ready(ready));
        let now = world.now;
        assert!(connection.hear(world, now).unwrap().is_none());
        connection
    }

    fn say(world: &mut Fake, connection: &mut Connection, bytes: impl AsRef<[u8]>) {
        world.say(bytes);
        world.take_ready().into_iter().for_each(|ready| connection.ready(ready));
    }

    fn push(connection: &mut Connection, now: Instant, tag: u64, words: &[&[u8]]) {
        let asker = Asker::Requester(Ticket { tag, part: 0 });
        let reply_type = if words[0] == b"GET" { ReplyType::Value } else { ReplyType::Stored };
        let slot = Slot::new(asker, reply_type, Route::Slot(0), words[0] == b"GET");
        connection.push(now, slot, |out| Words::plain(words).write(out, Spelling::default()));
    }

    #[test]
    fn the_buffer_follows_what_has_come_and_is_given_back_after_a_while() {
        let mut world = Fake::new();
        let now = world.now;
        let mut connection = connection(&mut world);
        push(&mut connection, now, 1, &[b"GET", b"k"]);
        connection.flush(&mut world, now).unwrap();
        let mut sizes = vec![connection.input.len()];
        say(&mut world, &mut connection, "$1000000\r\n");
        for n in [1, 100_000, 899_999] {
            say(&mut world, &mut connection, "x".repeat(n));
            assert!(connection.hear(&mut world, now).unwrap().is_none());
            sizes.push(connection.input.len());
        }
        let [first, second, third, fourth] = sizes[..] else {
            panic!("{sizes:?}");
        };
        assert_eq!((first, second), (READ_BYTES, READ_BYTES));
        assert!(third <= 256 * 1024 && fourth <= 1_048_576, "{sizes:?}");
        say(&mut world, &mut connection, "\r\n");
        let Some(Heard::Reply { reply: Received::Bulk(bulk), .. }) =
            connection.hear(&mut world, now).unwrap()
        else {
            panic!("the reply");
        };
        assert_eq!(bulk.len(), 1_000_000);
        connection.flush(&mut world, now).unwrap();
        let trim_at = connection.next_deadline().unwrap();
        connection.flush(&mut world, trim_at - Duration::from_millis(1)).unwrap();
        assert_eq!((connection.input.capacity(), fourth), (1_000_012, 1_000_012));
        connection.flush(&mut world, trim_at).unwrap();
        assert_eq!((connection.input.capacity(), connection.next_deadline()), (READ_BYTES, None));
    }

    #[test]
    fn in_one_turn_so_much_is_read_and_the_rest_in_the_next() {
        let mut world = Fake::new();
        let now = world.now;
        let mut connection = connection(&mut world);
        connection.window = 1000;
        for id in 0..300 {
            push(&mut connection, now, id, &[b"GET", b"k"]);
        }
        connection.flush(&mut world, now).unwrap();
        say(
            &mut world,
            &mut connection,
            format!("$10000\r\n{}\r\n", "x".repeat(10_000)).repeat(300),
        );
        let mut turns = Vec::new();
        while connection.in_flight() > 0 {
            let mut count = 0;
            while connection.hear(&mut world, now).unwrap().is_some() {
                count += 1;
            }
            turns.push(count);
            assert!(connection.has_more() || connection.in_flight() == 0);
            connection.flush(&mut world, now).unwrap();
        }
        assert!(turns.iter().all(|count| *count <= 110) && turns.len() == 3, "{turns:?}");
    }

    #[test]
    fn a_command_is_kept_until_its_reply_has_been_looked_at() {
        let mut world = Fake::new();
        let now = world.now;
        let mut connection = connection(&mut world);
        let long = vec![b'v'; 100_000];
        for n in 0..4u64 {
            push(&mut connection, now, n, &[b"SET", n.to_string().as_bytes(), &long]);
        }
        connection.flush(&mut world, now).unwrap();
        for n in 0..4 {
            assert_eq!(connection.lost().len(), 4 - n as usize);
            say(&mut world, &mut connection, "+OK\r\n");
            let heard = connection.hear(&mut world, now).unwrap();
            let start = format!("*3\r\n$3\r\nSET\r\n$1\r\n{n}\r\n");
            let is_it = |command: &[u8]| command.starts_with(start.as_bytes());
            assert!(matches!(heard, Some(Heard::Reply { command, .. }) if is_it(command)));
            let whole =
                |lost: Lost| lost.sent && lost.command.len() > 100_000 && !is_it(&lost.command);
            assert!(connection.lost().into_iter().all(whole));
            connection.flush(&mut world, now).unwrap();
        }
        assert_eq!(
            (connection.held(), connection.out.between(0, connection.out.queued).len()),
            (0, 0)
        );
        connection.flush(&mut world, now + KEPT_FOR).unwrap();
        assert!(connection.out.capacity() <= KEPT_BYTES);
    }
}
