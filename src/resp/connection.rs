//! One pipelined socket to one Redis server.
//!
//! Replies carry no name: the n-th reply belongs to the n-th command. So a connection is either in
//! step, or it is dead. A reply of the wrong type, a reply nobody asked for, garbage, or an I/O
//! error ends it at once, and everything that waited on it is told how far its command had got.
//!
//! ```text
//! push ─▶ out  ░░░░▓▓▓▓▓▓▓▓   ▓ = not yet taken by the kernel (sent .. queued)
//!         slots [a][b][c][d]  each remembers where its last byte is in the stream, so
//!                             a, b: unknown outcome    c, d: certainly did not run
//! ```
//!
//! A command whose requester gave up keeps its slot: its reply is read and dropped in its turn
//! (the famous leak of 2023 was a client that did not). What comes before its command has gone out
//! is not its reply, whatever it looks like. Reading never waits for writing, so a server that will
//! not read until it has written cannot lock us up with it.

use super::codec::{
    Decoder, ErrorReply, Frame, Limits, Protocol, ProtocolError, Reply, Unsendable, encode,
};
use crate::stream::Stream;
use mio::event::Event;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Replies are read in pieces of this size. Idle memory is part of the promise, so not more.
const READ_BYTES: usize = 16 * 1024;

/// Read in one [`progress`](Connection::progress); what is left, in the next.
const READ_BYTES_AT_A_TIME: usize = 1024 * 1024;

/// The out buffer is given back when it has grown beyond this and is empty again.
const OUT_KEPT_BYTES: usize = 64 * 1024;

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
    /// A SET that only asks whether it could: `+OK` or null.
    Probe,
    /// Whatever it is: the asker will judge.
    Any,
    /// SUBSCRIBE in RESP3: a push says that it is done, a reply that it is not.
    Pushed,
}

impl Shape {
    fn fits(self, reply: &Reply) -> bool {
        match (self, reply) {
            (_, Reply::Error(_)) | (Shape::Any, _) => true,
            (Shape::Value, Reply::Bulk(_) | Reply::Null | Reply::TooLarge(_)) => true,
            (Shape::Stored | Shape::Probe, Reply::Simple(s)) => s == b"OK",
            (Shape::Stored | Shape::Probe, Reply::Null) => true,
            (Shape::StoredFlag | Shape::DeletedFlag | Shape::Once, Reply::Integer(-1..=1)) => true,
            (Shape::Once, Reply::Bulk(_) | Reply::TooLarge(_)) => true,
            (Shape::Look, Reply::Array(parts)) => matches!(
                parts[..],
                [Reply::Integer(0), Reply::Bulk(_) | Reply::Null | Reply::TooLarge(_)]
                    | [Reply::Integer(1), Reply::Bulk(_) | Reply::TooLarge(_)]
            ),
            (Shape::Count, Reply::Integer(0..)) => true,
            (Shape::Pair, Reply::Array(items)) => {
                matches!(items[..], [Reply::Integer(_), Reply::Integer(_)])
            }
            (Shape::Ok, Reply::Simple(s)) => s == b"OK",
            _ => false,
        }
    }
}

/// A command that waits for its reply.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Who asked; may be gone by now.
    pub id: u64,
    /// What it may be answered with.
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
    /// An error with nothing sent that it could answer: what a server says that hangs up on us,
    /// `-ERR max number of clients reached` for one.
    Dismissed(ErrorReply),
    /// Commands waited and none was answered for this long.
    Stalled(Duration),
}

impl Fault {
    /// The server, or something in its place, does not speak as it should. Asking it the same
    /// again would only bring the same again.
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
            Fault::Stray => f.write_str("a reply that nobody asked for"),
            Fault::Dismissed(e) => write!(f, "dismissed by the server: {e}"),
            Fault::Stalled(d) => write!(f, "no reply for {} ms", d.as_millis()),
        }
    }
}

/// What a connection has said.
#[derive(Debug, Default)]
pub struct Heard {
    /// Replies, in order, each with the command it belongs to.
    pub replies: Vec<(u64, Shape, Reply)>,
    /// What was sent unasked.
    pub pushes: Vec<Vec<Reply>>,
}

/// See the module's text.
pub struct Connection {
    stream: Stream,
    readable: bool,
    writable: bool,
    /// The peer has closed, or the socket has an error: read on until it shows.
    ended: bool,
    out: Vec<u8>,
    out_at: usize,
    queued: u64,
    sent: u64,
    scratch: Box<[u8]>,
    input: Vec<u8>,
    decoder: Decoder,
    slots: VecDeque<Slot>,
    /// When a reply last came, or the first of the present commands was queued after a silence.
    answered: Instant,
}

impl Connection {
    /// Takes over a stream that is registered for both directions, connected or still connecting.
    pub fn new(stream: Stream, limits: Limits, now: Instant) -> Connection {
        Connection {
            stream,
            readable: false,
            writable: false,
            ended: false,
            out: Vec::new(),
            out_at: 0,
            queued: 0,
            sent: 0,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            input: Vec::new(),
            decoder: Decoder::new(limits),
            slots: VecDeque::new(),
            answered: now,
        }
    }

    /// The socket, to finish connecting or to deregister it.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The loop saw readiness.
    pub fn ready(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        self.ended |= event.is_read_closed() || event.is_error();
    }

    /// The socket itself is asked next, whatever the loop has been told of it.
    pub fn look(&mut self) {
        self.readable = true;
    }

    /// Queues one command. Nothing between its bytes and its slot can fail, so they cannot part.
    ///
    /// # Errors
    /// When it cannot be sent; nothing is queued then.
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

    /// As [`push`](Connection::push), for a command that writes itself.
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
            // Looked at before it is written to, whatever the poll has said so far: the server may
            // have closed it since, and a command written into a closed connection has an unknown
            // outcome. One call, and only where nothing is in flight.
            self.readable = true;
            // Silence is counted from here: before, nobody waited.
            self.answered = now;
        }
        self.queued += (self.out.len() - before) as u64;
        self.slots.push_back(Slot { id, shape, end: self.queued });
    }

    /// Reads, then writes, as far as both go without waiting. What was said goes to `heard`.
    ///
    /// Reading comes first so that a connection the server has closed is found dead before
    /// anything is written to it.
    ///
    /// # Errors
    /// The connection is dead; call [`into_slots`](Connection::into_slots) next.
    pub fn progress(&mut self, now: Instant, heard: &mut Heard) -> Result<(), Fault> {
        self.read(now, heard)?;
        self.write()
    }

    fn read(&mut self, now: Instant, heard: &mut Heard) -> Result<(), Fault> {
        self.readable |= self.ended;
        // Replies that are heard are kept until somebody takes them, and a fast server never stops.
        let mut left = READ_BYTES_AT_A_TIME;
        while self.readable && left > 0 {
            match self.stream.read(&mut self.scratch) {
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => {
                    // Edge-triggered: a short read means drained, and saves the call that would
                    // say so. But the edge may have told of a close as well; it comes only once.
                    let drained = n < self.scratch.len() && self.stream.is_plain();
                    self.readable = !drained || self.ended;
                    left = left.saturating_sub(n);
                    self.take(now, n, heard)?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Fault::Io(e)),
            }
        }
        Ok(())
    }

    /// Decodes `n` fresh bytes, straight from the scratch buffer when nothing was left over.
    fn take(&mut self, now: Instant, n: usize, heard: &mut Heard) -> Result<(), Fault> {
        let Connection { scratch, input, decoder, slots, sent, .. } = self;
        let (fresh, before) = (&scratch[..n], slots.len());
        if input.is_empty() {
            let taken = decode(decoder, fresh, slots, *sent, heard)?;
            input.extend_from_slice(&fresh[taken..]);
        } else {
            input.extend_from_slice(fresh);
            let taken = decode(decoder, input, slots, *sent, heard)?;
            input.drain(..taken);
        }
        // Half a reply is as bad as a whole one: its other half would come after our next command.
        // Half an error may yet tell why we are dismissed.
        let unasked = slots.front().is_none_or(|slot| slot.end > *sent);
        if unasked && decoder.is_inside_reply(input) && input.first() != Some(&b'-') {
            return Err(Fault::Stray);
        }
        if slots.len() < before {
            self.answered = now;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Fault> {
        while self.writable && self.out_at < self.out.len() {
            match self.stream.write(&self.out[self.out_at..]) {
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => {
                    self.out_at += n;
                    self.sent += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Fault::Io(e)),
            }
        }
        if self.writable {
            self.stream.flush().map_err(Fault::Io)?;
        }
        if self.out_at == self.out.len() {
            self.out_at = 0;
            self.out.clear();
            self.out.shrink_to(OUT_KEPT_BYTES);
        } else if self.out_at > OUT_KEPT_BYTES.max(self.out.len() / 2) {
            // Under steady pressure it is never empty, and would only ever grow. Each byte is
            // moved once at the most for each byte that was sent.
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
        Ok(())
    }

    /// From here on the server speaks this protocol.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.decoder.set_protocol(protocol);
    }

    /// How many commands wait for their replies, given up ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Whether there may be more to read, of which no event will tell.
    pub fn has_more(&self) -> bool {
        self.readable
    }

    /// How many bytes the kernel has not taken yet.
    pub fn backlog(&self) -> usize {
        self.out.len() - self.out_at
    }

    /// When commands wait: since when none has been answered. Bytes that move are no answer: the
    /// kernel takes our commands long after the server is gone, and a reply that drips in for
    /// longer than anybody waits for it is not coming either.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.slots.is_empty()).then_some(self.answered)
    }

    /// Ends a dead connection: its waiting commands, each with whether the kernel had taken all
    /// of it (then nobody can know whether it ran; otherwise it certainly did not).
    pub fn into_slots(self) -> impl Iterator<Item = (Slot, bool)> {
        let sent = self.sent;
        self.slots.into_iter().map(move |slot| {
            let complete = slot.end <= sent;
            (slot, complete)
        })
    }
}

fn decode(
    decoder: &mut Decoder,
    mut input: &[u8],
    slots: &mut VecDeque<Slot>,
    sent: u64,
    heard: &mut Heard,
) -> Result<usize, Fault> {
    let whole = input.len();
    while !input.is_empty() {
        let (taken, frame) = decoder.decode(input).map_err(Fault::Protocol)?;
        input = &input[taken..];
        match frame {
            Some(Frame::Push(push)) => match slots.front() {
                Some(slot)
                    if slot.shape == Shape::Pushed && slot.end <= sent && confirms(&push) =>
                {
                    heard.replies.push((slot.id, slot.shape, Reply::Null));
                    slots.pop_front();
                }
                _ => heard.pushes.push(push),
            },
            Some(Frame::Reply(reply)) => {
                // Taken out only when its reply is good: otherwise it is lost with the rest.
                let asked = slots.front().filter(|slot| slot.end <= sent);
                let Some(&Slot { id, shape, .. }) = asked else {
                    return Err(match reply {
                        Reply::Error(e) => Fault::Dismissed(e),
                        _ => Fault::Stray,
                    });
                };
                if !shape.fits(&reply) {
                    return Err(Fault::WrongType(shape));
                }
                slots.pop_front();
                heard.replies.push((id, shape, reply));
            }
            None => break,
        }
    }
    Ok(whole - input.len())
}

fn confirms(push: &[Reply]) -> bool {
    matches!(push.first(), Some(Reply::Bulk(kind) | Reply::Simple(kind)) if kind == b"subscribe")
}
