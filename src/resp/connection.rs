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
    Decoder, ErrorReply, FIRST_BYTES_MAX, Frame, Limits, Plain, Protocol, ProtocolError, Received,
    Reply, Unsendable, encode,
};
use super::tls;
use crate::net::{Ready, Socket, World};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Replies are read in pieces of this size. Low idle memory is part of the promise, so not more.
const READ_BYTES: usize = 16 * 1024;

/// A buffer that has become larger than this is freed after a while.
const KEPT_BYTES: usize = 64 * 1024;

/// This long after it was emptied: at once would mean to allocate it again for each of many large values.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The most that is read in one turn, from one [`flush`](Connection::flush) to the next; the rest is read in the next
/// turn.
const READ_BYTES_AT_A_TIME: usize = 1024 * 1024;

/// The reply a command may have; anything else but an error means we are out of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// GET: a bulk string or null.
    Value,
    /// SET with an option: `+OK`, or null when the condition did not hold.
    Stored,
    /// A script's -1 (condition did not hold), or whether something was there: a SET.
    StoredFlag,
    /// As `StoredFlag`: a delete.
    DeletedFlag,
    /// As `StoredFlag`, or the record of the same write done before.
    Once,
    /// 0 and a value or null, or 1 and the record of a write.
    Look,
    /// DEL: how many keys were removed.
    Count,
    /// Two integers in an array.
    Pair,
    /// AUTH, SELECT: `+OK`.
    Ok,
    /// A SET that only tests whether writes are possible: `+OK` or null.
    Probe,
    /// Any reply: the caller will judge it.
    Any,
    /// SUBSCRIBE in RESP3: a push confirms it, a reply is a refusal.
    Pushed,
}

impl Shape {
    fn fits(self, reply: &Reply) -> bool {
        match reply {
            Reply::Error(_) => true,
            Reply::Bulk(_) | Reply::TooLarge(_) => self.may_be_bulk(),
            Reply::Null => self.may_be_null(),
            Reply::Simple(text) if text == b"OK" => self.may_be_ok(),
            reply => self.fits_otherwise(reply),
        }
    }

    fn may_be_bulk(self) -> bool {
        matches!(self, Shape::Value | Shape::Once | Shape::Any)
    }

    fn may_be_null(self) -> bool {
        matches!(self, Shape::Value | Shape::Stored | Shape::Probe | Shape::Any)
    }

    fn may_be_ok(self) -> bool {
        matches!(self, Shape::Stored | Shape::Probe | Shape::Ok | Shape::Any)
    }

    fn fits_otherwise(self, reply: &Reply) -> bool {
        match (self, reply) {
            (Shape::Any, _) => true,
            (Shape::StoredFlag | Shape::DeletedFlag | Shape::Once, Reply::Integer(-1..=1)) => true,
            (Shape::Look, Reply::Array(parts)) => matches!(
                parts[..],
                [Reply::Integer(0), Reply::Bulk(_) | Reply::Null | Reply::TooLarge(_)]
                    | [Reply::Integer(1), Reply::Bulk(_) | Reply::TooLarge(_)]
            ),
            (Shape::Count, Reply::Integer(0..)) => true,
            (Shape::Pair, Reply::Array(items)) => {
                matches!(items[..], [Reply::Integer(_), Reply::Integer(_)])
            }
            _ => false,
        }
    }
}

/// A command that waits for its reply.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// The request it belongs to, which may have been abandoned by now.
    pub id: u64,
    /// The replies it may get.
    pub shape: Shape,
    end: u64,
}

/// Why a connection died.
#[derive(Debug)]
pub enum Fault {
    /// The server closed it.
    Closed,
    /// The operating system reported an error.
    Io(io::Error),
    /// The server sent something that is not RESP.
    Protocol(ProtocolError),
    /// A reply of a type the command cannot have.
    WrongType(Shape),
    /// A reply, or the beginning of one, with nothing sent that it could answer.
    Stray,
    /// An error when no command was sent that it could answer: a server sends it before it closes the connection, `-ERR
    /// max number of clients reached` for one.
    Dismissed(ErrorReply),
    /// Commands waited and none was answered for this long.
    Stalled(Duration),
}

impl Fault {
    /// Whether the server, or another process in its place, breaks the protocol. Sending it the same command again
    /// would only bring the same result.
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Fault::Protocol(_) | Fault::WrongType(_) | Fault::Stray)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Closed => f.write_str("closed by the server"),
            Fault::Io(e) => write!(f, "{e}"),
            Fault::Protocol(e) => write!(f, "{e}"),
            Fault::WrongType(shape) => write!(f, "reply of the wrong type ({shape:?} expected)"),
            Fault::Stray => f.write_str("a reply that was not asked for"),
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
        /// To this command, with its `id` as it was [pushed](Connection::push).
        id: u64,
        /// The shape that was allowed.
        shape: Shape,
        /// The reply, which has that shape.
        reply: Received<'a>,
    },
    /// A message that answers no command.
    Push(Vec<Reply>),
}

/// See the module's text.
pub struct Connection {
    socket: Socket,
    tls: Option<tls::Session>,
    readable: bool,
    writable: bool,
    /// The peer has closed, or the socket has an error: read on until the end of the stream.
    ended: bool,
    /// The stream of commands from `base` to `queued`.
    out: Vec<u8>,
    base: u64,
    /// Where in the stream the most recently answered command begins and ends.
    answered_from: u64,
    answered_to: u64,
    sent: u64,
    queued: u64,
    /// Bytes that were read and not taken yet: those between these two.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// How many bytes may still be read in this turn.
    left: usize,
    decoder: Decoder,
    slots: VecDeque<Slot>,
    /// When large buffers are freed, if they are empty then.
    trim_at: Option<Instant>,
    /// When a reply last came, or the first of the present commands was queued on an idle connection.
    answered: Instant,
}

impl Connection {
    /// Takes over a socket, connected or still connecting.
    pub fn new(
        socket: Socket,
        tls: Option<tls::Session>,
        limits: Limits,
        now: Instant,
    ) -> Connection {
        Connection {
            socket,
            tls,
            readable: false,
            writable: false,
            ended: false,
            out: Vec::new(),
            base: 0,
            answered_from: 0,
            answered_to: 0,
            sent: 0,
            queued: 0,
            input: vec![0; READ_BYTES],
            taken: 0,
            filled: 0,
            left: READ_BYTES_AT_A_TIME,
            decoder: Decoder::new(limits),
            slots: VecDeque::new(),
            trim_at: None,
            answered: now,
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

    /// Queues one command. Nothing between its bytes and its slot can fail, so they stay together.
    ///
    /// # Errors
    /// When it cannot be sent; then nothing is queued.
    pub fn push(
        &mut self,
        now: Instant,
        id: u64,
        shape: Shape,
        args: &[&[u8]],
    ) -> Result<(), Unsendable> {
        let before = self.out.len();
        encode(&mut self.out, args)?;
        self.enqueue(now, id, shape, before);
        Ok(())
    }

    /// As [`push`](Connection::push), for a command that encodes itself.
    pub fn push_with(
        &mut self,
        now: Instant,
        id: u64,
        shape: Shape,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let before = self.out.len();
        write(&mut self.out);
        self.enqueue(now, id, shape, before);
    }

    fn enqueue(&mut self, now: Instant, id: u64, shape: Shape, before: usize) {
        if self.slots.is_empty() {
            // The socket is read before it is written to, whatever events were reported: the server may have closed the
            // connection since, and a command written into a closed connection has an unknown outcome; or it may have
            // sent bytes that answer no command, which would be taken for the reply. One call, and only where nothing
            // is in flight.
            self.readable = true;
            // The stall timeout counts from here: before, no reply was awaited.
            self.answered = now;
        }
        self.queued += (self.out.len() - before) as u64;
        self.slots.push_back(Slot { id, shape, end: self.queued });
    }

    /// The next reply or push; reads as far as that needs, without waiting. `None` when there is no more, or when
    /// enough was read in this turn.
    ///
    /// Reading comes before writing so that a connection the server has closed is found dead before
    /// anything is written to it.
    ///
    /// # Errors
    /// The connection is dead; call [`commands`](Connection::commands) next.
    pub fn hear(
        &mut self,
        world: &mut dyn World,
        now: Instant,
    ) -> Result<Option<Heard<'_>>, Fault> {
        let plain = loop {
            let mut wanted = 0;
            if self.taken < self.filled {
                let (from, input) = (self.taken, &self.input[self.taken..self.filled]);
                match self.decoder.plain_reply(input) {
                    Some((_, Plain::Growing(whole))) => wanted = whole,
                    Some((taken, plain)) => {
                        self.taken += taken;
                        break match plain {
                            Plain::Bulk(at) => Plain::Bulk(from + at.start..from + at.end),
                            plain => plain,
                        };
                    }
                    None => {
                        let (taken, frame) = self.decoder.decode(input).map_err(Fault::Protocol)?;
                        self.taken += taken;
                        if let Some(frame) = frame {
                            return self.heard(now, frame).map(Some);
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
            self.read(world)?;
        };
        let slot = self.answer(now, |shape| match plain {
            Plain::Bulk(_) => shape.may_be_bulk(),
            Plain::Ok => shape.may_be_ok(),
            Plain::Null | Plain::Growing(_) => shape.may_be_null(),
        })?;
        let reply = match plain {
            Plain::Bulk(at) => Received::Bulk(&self.input[at]),
            Plain::Ok => Received::Ok,
            Plain::Null | Plain::Growing(_) => Received::Other(Reply::Null),
        };
        Ok(Some(Heard::Reply { id: slot.id, shape: slot.shape, reply }))
    }

    fn heard(&mut self, now: Instant, frame: Frame) -> Result<Heard<'static>, Fault> {
        let reply = match frame {
            Frame::Push(push) => {
                let asked = self.asked().is_some_and(|slot| slot.shape == Shape::Pushed);
                if !asked || !confirms(&push) {
                    return Ok(Heard::Push(push));
                }
                let slot = self.answer(now, |_| true)?;
                let reply = Received::Other(Reply::Null);
                return Ok(Heard::Reply { id: slot.id, shape: slot.shape, reply });
            }
            Frame::Reply(Reply::Error(e)) if self.asked().is_none() => {
                return Err(Fault::Dismissed(e));
            }
            Frame::Reply(reply) => reply,
        };
        let slot = self.answer(now, |shape| shape.fits(&reply))?;
        Ok(Heard::Reply { id: slot.id, shape: slot.shape, reply: Received::Other(reply) })
    }

    /// The oldest command whose reply has not come, if all of it has gone out.
    fn asked(&self) -> Option<Slot> {
        self.slots.front().filter(|slot| slot.end <= self.sent).copied()
    }

    /// Finds the command that a reply answers.
    fn answer(&mut self, now: Instant, fits: impl Fn(Shape) -> bool) -> Result<Slot, Fault> {
        let slot = self.asked().ok_or(Fault::Stray)?;
        // Removed only when its reply is good: otherwise it is lost with the rest.
        if !fits(slot.shape) {
            return Err(Fault::WrongType(slot.shape));
        }
        self.slots.pop_front();
        self.answered = now;
        self.answered_from = self.answered_to;
        self.answered_to = slot.end;
        Ok(slot)
    }

    /// Half a reply to no command is as bad as a whole one: its other half would come after our next command. Half an
    /// error may yet tell why the server closes the connection.
    fn check_asked(&self) -> Result<(), Fault> {
        let rest = &self.input[self.taken..self.filled];
        let unasked = self.slots.front().is_none_or(|slot| slot.end > self.sent);
        let inside = unasked && self.decoder.is_inside_reply(rest) && rest.first() != Some(&b'-');
        if inside { Err(Fault::Stray) } else { Ok(()) }
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

    fn read(&mut self, world: &mut dyn World) -> Result<(), Fault> {
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
                self.left = self.left.saturating_sub(n);
                // Edge-triggered: a short read means that the socket is drained, and saves the call that would say so.
                // But the edge may have been that of a close as well; it comes only once.
                let drained = n < size && self.tls.is_none();
                self.readable = !drained || self.ended;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
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
        while self.writable && self.sent < self.queued {
            let rest = &self.out[(self.sent - self.base) as usize..];
            let outcome = match &mut self.tls {
                None => world.send(self.socket, rest),
                Some(tls) => tls.send(world, self.socket, rest),
            };
            match outcome {
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => self.sent += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) => return Err(Fault::Io(e)),
            }
        }
        if let Some(tls) = &mut self.tls
            && self.writable
        {
            tls.flush(world, self.socket).map_err(Fault::Io)?;
        }
        self.drop_answered();
        if self.trim_at.is_some()
            || self.input.len() > KEPT_BYTES
            || self.out.capacity() > KEPT_BYTES
        {
            self.trim(now);
        }
        Ok(())
    }

    fn drop_answered(&mut self) {
        let done = (self.answered_to - self.base) as usize;
        if self.answered_to == self.queued {
            self.out.clear();
            self.base = self.queued;
        } else if done > KEPT_BYTES.max(self.out.len() / 2) {
            // Under steady load the buffer is never empty, and would only ever grow. Each byte is moved at most once
            // for each byte that was answered.
            self.out.drain(..done);
            self.base = self.answered_to;
        }
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
        self.out.shrink_to(KEPT_BYTES);
    }

    /// When [`flush`](Connection::flush) has something to do even if nothing becomes ready.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.trim_at
    }

    /// The command whose reply [`hear`](Connection::hear) gave last, as it was sent; until the next call of that or of
    /// [`flush`](Connection::flush).
    pub fn last_command(&self) -> &[u8] {
        let place = |at: u64| at.saturating_sub(self.base) as usize;
        self.out.get(place(self.answered_from)..place(self.answered_to)).unwrap_or_default()
    }

    /// Sets the protocol that the server speaks from here on.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.decoder.set_protocol(protocol);
    }

    /// How many commands wait for their replies, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Whether there may be more to read, for which no event will come.
    pub fn has_more(&self) -> bool {
        self.readable
    }

    /// How many bytes of commands are held: those the kernel has not taken yet, and those whose replies have not come.
    pub fn held(&self) -> usize {
        (self.queued - self.answered_to) as usize
    }

    /// When commands wait: since when none has been answered. Bytes that move are no answer: the kernel takes our
    /// commands long after the server is gone, and a reply that trickles in for longer than any request waits for it is
    /// of no use either.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.slots.is_empty()).then_some(self.answered)
    }

    /// When no command waits: since when none has.
    pub fn idle_since(&self) -> Option<Instant> {
        self.slots.is_empty().then_some(self.answered)
    }

    /// The commands that wait for their replies, each with its bytes and with whether the kernel has taken all of it.
    /// When the connection is dead it is unknown whether a command that was taken whole ran; the others certainly did
    /// not.
    pub fn commands(&self) -> impl Iterator<Item = (u64, &[u8], bool)> {
        let mut from = self.answered_to;
        self.slots.iter().map(move |slot| {
            let place = |at: u64| (at - self.base) as usize;
            let bytes = self.out.get(place(from)..place(slot.end)).unwrap_or_default();
            from = slot.end;
            (slot.id, bytes, slot.end <= self.sent)
        })
    }
}

fn confirms(push: &[Reply]) -> bool {
    matches!(push.first(), Some(Reply::Bulk(kind) | Reply::Simple(kind)) if kind == b"subscribe")
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;
    use crate::net::Address;

    fn connection(world: &mut Fake) -> Connection {
        let socket = world.connect(&Address::Unix("/redis".into()), Duration::ZERO).unwrap();
        let mut connection = Connection::new(socket, None, Limits::default(), world.now);
        world.take_ready().into_iter().for_each(|ready| connection.ready(ready));
        connection
    }

    fn say(world: &mut Fake, connection: &mut Connection, bytes: impl AsRef<[u8]>) {
        world.say(bytes);
        world.take_ready().into_iter().for_each(|ready| connection.ready(ready));
    }

    #[test]
    fn the_buffer_follows_what_has_come_and_is_given_back_after_a_while() {
        let mut world = Fake::new();
        let now = world.now;
        let mut connection = connection(&mut world);
        connection.push(now, 1, Shape::Value, &[b"GET", b"k"]).unwrap();
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
        let Some(Heard::Reply { id: 1, reply: Received::Bulk(bulk), .. }) =
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
        for id in 0..300 {
            connection.push(now, id, Shape::Value, &[b"GET", b"k"]).unwrap();
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
            connection
                .push(now, n, Shape::Stored, &[b"SET", n.to_string().as_bytes(), &long])
                .unwrap();
        }
        connection.flush(&mut world, now).unwrap();
        for n in 0..4 {
            assert_eq!(connection.commands().count(), 4 - n as usize);
            say(&mut world, &mut connection, "+OK\r\n");
            assert!(connection.hear(&mut world, now).unwrap().is_some());
            let start = format!("*3\r\n$3\r\nSET\r\n$1\r\n{n}\r\n");
            assert!(connection.last_command().starts_with(start.as_bytes()));
            let whole =
                |(id, bytes, sent): (u64, &[u8], bool)| id > n && bytes.len() > 100_000 && sent;
            assert!(connection.commands().all(whole));
            connection.flush(&mut world, now).unwrap();
        }
        assert_eq!((connection.held(), connection.out.len()), (0, 0));
        connection.flush(&mut world, now + KEPT_FOR).unwrap();
        assert!(connection.out.capacity() <= KEPT_BYTES);
    }
}
