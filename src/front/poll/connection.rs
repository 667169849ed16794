//! One client of the poll front: its socket, its phase, its buffers.
//!
//! ```text
//!          ┌──────────────────── response written, connection kept ───────────────────┐
//!          ▼                                                                          │
//!   Idle ─▶ Head ─▶ Body ─▶ Answering (the service, the store) ─▶ Writing ────────────┤
//!    75 s    10 s    30 s*   REQUEST_TIMEOUT                        10 s*             ▼
//!                                                                     Lingering ─▶ closed
//! ```
//!
//! Each phase has one deadline ([`timers`](super::timers)). Where many bytes may have to move (*) the deadline moves
//! with them, for as long as they keep the [`pace`]; else it is set when the phase begins, and no byte renews it. At
//! most one request is in flight; what a client sends behind it waits: in `input`, if it came with the last bytes of
//! the request, else in the kernel. This file knows no rule of the service and reads no clock.
//!
//! An idle connection has no buffers: [`Work`], a request with its buffers, is lent by the worker's pool while there is
//! a request, or bytes to hold. The bytes of a head stay in `input` where they were read until the response is out,
//! because the parsed head is an index into them.
//!
//! A request refused by its head ends the connection, unless its whole body has already arrived: later bytes could be
//! taken for a body by one reader and for a request by another.
//!
//! A connection that we close is closed in two steps (RFC 9112 §9.6): our half first, then the rest, after a bounded
//! time of reading and dropping. Closing with unread bytes in the socket would send a reset, and a reset can destroy
//! the response before the client has read it.
//!
//! *In doubt* is a response to a client that had shut down its sending half: it may have closed altogether, and nothing
//! tells until the kernel refuses bytes or acknowledges them. Whether such a request was answered is accounted for only
//! when that is known.

use super::pool::{Body, Pool, Work};
use super::timers::{Ages, Link, Linked};
use crate::front::exchange::Exchange;
use crate::front::options::Options;
use crate::front::pace;
use crate::http::{self, Framing, HeadIndex, ParseError, Parsed};
use crate::net::{Ready, Socket, World};
use std::io;
use std::time::{Duration, Instant};

/// How long, and for how many bytes, a connection is drained before it is closed.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// How long a client above `MAX_CONNECTIONS` may take to begin a request, and then for its head, before it is refused.
/// It is not refused at once, because its request decides how: a refused HEAD gets no body, and `/livez` is answered.
const REFUSAL_TIME: Duration = Duration::from_millis(100);

/// Scratch buffers' worth of bytes that are read from one client before the others have their turn.
const READS_PER_TURN: usize = 2;

/// See the module's text. Small, because every idle client has one.
pub struct Connection {
    /// The client's socket.
    pub socket: Socket,
    link: Link,
    work: Option<Box<Work>>,
    phase: Phase,
    /// The client is above `MAX_CONNECTIONS`: it gets 503 to every request but `/livez`.
    pub refused: bool,
    /// The client has a turn in this tick or the next, whatever its socket says.
    pub queued: bool,
    /// There may be bytes to read.
    readable: bool,
    /// The peer has shut down its sending half: read on until the end of the stream. It may still read.
    ended: bool,
    age: Age,
    /// Both directions are dead; a response would not be read.
    broken: bool,
    /// The last response is in doubt: see the module's text.
    doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// No event has been reported yet, so the client may have ended its stream without our knowing.
    Fresh,
    /// Events have been reported, but no response was written yet.
    Heard,
    /// A response was written. It has said whether the connection closes.
    Used,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Body,
    Answering,
    Writing,
    Lingering,
}

/// What the worker has to do for a client.
pub enum Progress {
    /// Nothing until its socket is ready again.
    Wait,
    /// Nothing yet, but there is more to read: the other clients first.
    Again,
    /// A head has arrived. Answer with [`Connection::expect`] or [`Connection::respond`].
    Head(HeadIndex),
    /// The request is complete. Answer with [`Connection::respond`].
    Whole,
    /// The last response is out and, as far as can be known here, received by the client.
    Answered,
    /// The bytes are not a valid request, and where the next one begins is unknown. Answer with [`Connection::respond`]
    /// and close.
    Malformed(ParseError),
    /// The client closed its half in the middle of a request. As `Malformed`.
    Truncated,
    /// A deadline has passed in the middle of a request. As `Malformed`; 408.
    TimedOut,
    /// The client is above `MAX_CONNECTIONS`. As `Malformed`; 503.
    Refused,
    /// The connection is over: drop it.
    Gone,
}

impl Linked for Connection {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl Connection {
    /// A client that has just been accepted.
    pub fn new(socket: Socket, refused: bool, old_at: u16) -> Connection {
        Connection {
            socket,
            link: Link::new(old_at),
            work: None,
            phase: Phase::Idle,
            refused,
            queued: false,
            // Data may have arrived before the registration, and then no edge follows.
            readable: true,
            ended: false,
            age: Age::Fresh,
            broken: false,
            doubt: false,
        }
    }

    /// Takes an event that was reported for its socket.
    pub fn ready(&mut self, ready: &Ready) {
        if self.age == Age::Fresh {
            self.age = Age::Heard;
        }
        self.readable |= ready.readable;
        self.ended |= ready.ended;
        self.broken |= ready.broken;
    }

    /// How long its phase may take, if a phase has begun since the last call.
    pub fn time(&mut self, options: &Options) -> Option<Duration> {
        if !std::mem::take(&mut self.link.begun) {
            return None;
        }
        Some(match self.phase {
            Phase::Idle | Phase::Head if self.refused => REFUSAL_TIME,
            Phase::Idle => options.idle_timeout,
            Phase::Head => options.head_timeout,
            Phase::Body => options.body_timeout,
            Phase::Answering => options.request_timeout,
            Phase::Writing => options.write_timeout,
            Phase::Lingering => LINGER_TIME,
        })
    }

    /// Whether its request waits for the service or the store.
    pub fn is_answering(&self) -> bool {
        self.phase == Phase::Answering
    }

    /// When the body or response in transfer becomes too slow, if no more bytes move.
    pub fn pace_deadline(&self, options: &Options) -> Option<Instant> {
        let work = self.work.as_ref()?;
        let (timeout, bytes) = match self.phase {
            Phase::Body => (options.body_timeout, work.body_bytes()),
            // What the kernel took at first is not counted: the client need not have received any of it.
            Phase::Writing => (options.write_timeout, work.sent),
            _ => return None,
        };
        Some(pace::deadline(timeout, work.began, work.moved, bytes))
    }

    /// Bytes buffered for it: input that is still needed, and output that is not written.
    pub fn held(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.held())
    }

    /// How many bytes the worker counts for it.
    pub fn counted(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.counted)
    }

    /// Records that the worker now counts `held` bytes for it; gives the number before.
    pub fn count(&mut self, held: usize) -> usize {
        self.work.as_mut().map_or(0, |work| std::mem::replace(&mut work.counted, held))
    }

    /// The exchange whose response is not out, or not known to have arrived.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.work.as_ref()?.exchange.as_ref()
    }

    /// Its next request begins.
    pub fn begin(&mut self, exchange: Exchange, pool: &mut Pool) {
        self.work(pool).exchange = Some(exchange);
    }

    /// The request in hand, the bytes of its message from the first byte of its head, and those of its body.
    pub fn request(&mut self) -> Option<(&mut Exchange, &[u8], &[u8])> {
        self.work.as_mut()?.request()
    }

    /// Drops what the client has sent behind the request that is being answered, which is then its last.
    pub fn forget_the_rest(&mut self) {
        if let Some(work) = &mut self.work {
            work.drop_the_rest();
            work.forgotten = true;
        }
    }

    /// Whether bytes that the client sent were dropped.
    fn has_forgotten(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.forgotten)
    }

    /// Whether its next response is its last, whatever that is.
    pub fn ends(&self, ages: &Ages) -> bool {
        self.refused || self.has_forgotten() || ages.is_old(self.link.old_at)
    }

    /// Whether the client is in the middle of sending a request.
    pub fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Head | Phase::Body)
    }

    /// Whether no complete head has arrived, so that closing the connection cuts off no request.
    pub fn awaits_head(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Head)
    }

    /// Whether it has had no response, sent no whole head, and is still open: it may be only a moment old.
    pub fn is_new(&self) -> bool {
        self.age != Age::Used && !self.ended && !self.broken && self.awaits_head()
    }

    /// Reads and parses until there is something for the worker to do.
    pub fn advance(
        &mut self,
        world: &mut dyn World,
        now: Instant,
        scratch: &mut [u8],
        pool: &mut Pool,
        options: &Options,
    ) -> Progress {
        if self.phase == Phase::Lingering {
            return self.linger(world, scratch);
        }
        if self.broken || self.flush(world, now).is_err() {
            return Progress::Gone;
        }
        if self.phase == Phase::Writing {
            if self.is_writing() {
                return Progress::Wait;
            }
            if !self.written(world) {
                return Progress::Gone;
            }
        }
        // A client that has ended its sending half, and had sent more requests before, is taken to be still there: if
        // it had closed, its kernel would have refused the last response by now, and an event would have reported that.
        if self.is_answered() || self.phase == Phase::Idle && self.has_pipelined() {
            return Progress::Answered;
        }
        let mut reads = 0;
        loop {
            if let Some(progress) = self.parse(now, reads > 0, options) {
                return progress;
            }
            if reads == READS_PER_TURN {
                return Progress::Again;
            }
            reads += 1;
            match self.read(world, scratch) {
                // What follows bytes that were dropped begins no request: for us that stream has ended, too.
                Ok(Some(n)) if self.phase == Phase::Idle && (n == 0 || self.has_forgotten()) => {
                    // If the last response is in doubt, shutting down our half will show whether it arrived.
                    if self.doubt && self.exchange().is_some() && self.end(world) {
                        return self.linger(world, scratch);
                    }
                    // No more bytes will come: the same as if its time were up.
                    return self.expired();
                }
                Ok(Some(0)) => return Progress::Truncated,
                Ok(Some(n)) => {
                    self.work(pool).input.extend_from_slice(&scratch[..n]);
                    if self.phase == Phase::Idle && self.exchange().is_some() {
                        // The client has sent more, so it has not gone.
                        self.doubt = false;
                        return Progress::Answered;
                    }
                }
                Ok(None) => return Progress::Wait,
                Err(_) => return Progress::Gone,
            }
        }
    }

    /// Parses what has arrived; `None` when more must be read.
    fn parse(&mut self, now: Instant, has_read: bool, options: &Options) -> Option<Progress> {
        let work = self.work.as_deref_mut();
        match (self.phase, work) {
            (Phase::Answering | Phase::Writing | Phase::Lingering, _) => Some(Progress::Wait),
            (Phase::Idle | Phase::Head, None) => None,
            // The last response is in doubt: the next request begins when that is resolved.
            (Phase::Idle, Some(work)) if work.exchange.is_some() => None,
            (Phase::Idle | Phase::Head, Some(work)) => {
                match http::parse(&work.input[work.at..], &options.head) {
                    Ok(Parsed::Whole(index)) => {
                        work.head_len = index.len();
                        self.enter(Phase::Answering);
                        Some(Progress::Head(index))
                    }
                    // Empty lines begin no request, so they start no clock.
                    Ok(Parsed::More { begun }) => {
                        if begun && self.phase == Phase::Idle {
                            self.enter(Phase::Head);
                        }
                        None
                    }
                    Err(e) => Some(Progress::Malformed(e)),
                }
            }
            (Phase::Body, Some(work)) => match work.take_body(options.body_bytes_max) {
                Ok(true) => {
                    self.enter(Phase::Answering);
                    Some(Progress::Whole)
                }
                Ok(false) => {
                    if has_read {
                        work.moved = now;
                    }
                    None
                }
                Err(e) => Some(Progress::Malformed(e)),
            },
            (Phase::Body, None) => Some(Progress::Gone),
        }
    }

    /// Whether the whole body of the request in hand has arrived.
    pub fn has_body(&self, framing: Framing) -> bool {
        let there = self.work.as_ref().map_or(0, |work| work.behind_head().len());
        matches!(framing, Framing::Length(n) if n <= there as u64)
    }

    /// The request is admitted: its body is read next. A client that sent `Expect: 100-continue` gets `100 Continue`.
    pub fn expect(
        &mut self,
        world: &mut dyn World,
        framing: Framing,
        expects_continue: bool,
        now: Instant,
        pool: &mut Pool,
    ) {
        self.enter(Phase::Body);
        let work = self.work(pool);
        work.began = now;
        work.moved = now;
        work.body = match framing {
            Framing::Length(n) => Body::Length(usize::try_from(n).unwrap_or(usize::MAX)),
            Framing::Chunked => Body::Chunked(Box::default()),
        };
        // Nothing has arrived behind the head, so the client may really be waiting.
        if work.behind_head().is_empty() && expects_continue {
            work.output.extend_from_slice(http::CONTINUE);
            // A failure shows again at the next read.
            let _ = self.flush(world, now);
        }
    }

    /// The request is refused by its head. Its body is dropped if all of it has arrived; else nothing more may be
    /// parsed on this connection. Whether the connection may be kept.
    pub fn drop_body(&mut self, framing: Framing, expects: bool) -> bool {
        match framing {
            Framing::Length(0) => true,
            // A client that sent any `Expect` and sees a final status might never send the body (RFC 9110 §10.1.1),
            // in HTTP/1.0 too: these bytes may be the next request.
            Framing::Length(n) if self.has_body(framing) && !expects => {
                if let Some(work) = &mut self.work {
                    work.body = Body::Length(n as usize);
                }
                true
            }
            _ => false,
        }
    }

    /// Sends a response. False when it cannot be written; else the connection stays, even if only to linger.
    pub fn respond(
        &mut self,
        world: &mut dyn World,
        bytes: &[u8],
        close: bool,
        now: Instant,
        pool: &mut Pool,
    ) -> bool {
        self.enter(Phase::Writing);
        let socket = self.socket;
        let work = self.work(pool);
        work.close = close;
        work.began = now;
        work.moved = now;
        let sent = match work.output.is_empty() {
            true => match send_some(world, socket, bytes) {
                Ok(n) => n,
                Err(_) => return false,
            },
            false => 0,
        };
        if sent < bytes.len() {
            work.output.extend_from_slice(&bytes[sent..]);
            work.drop_body();
            return true;
        }
        self.written(world)
    }

    /// Whether the last response is out and, as far as can be known here, received by the client.
    pub fn is_answered(&self) -> bool {
        let is_out = matches!(self.phase, Phase::Idle | Phase::Lingering);
        is_out && !self.doubt && self.exchange().is_some()
    }

    /// Whether there are bytes behind the request whose response is in doubt.
    fn has_pipelined(&self) -> bool {
        let work = self.work.as_ref().filter(|work| work.exchange.is_some());
        work.is_some_and(|work| work.message_end() < work.input.len())
    }

    /// Whether the connection has something to do now, or may have.
    pub fn has_more(&self) -> bool {
        let has_input = self.work.as_ref().is_some_and(|work| work.has_input());
        match self.phase {
            Phase::Idle => has_input || self.readable || self.ended,
            Phase::Lingering => self.readable || self.ended,
            _ => false,
        }
    }

    /// Whether a part of the last response is still to be written.
    pub fn is_writing(&self) -> bool {
        self.work.as_ref().is_some_and(|work| !work.output.is_empty())
    }

    /// Ends the exchange: its message is dropped, and what has arrived behind it is next.
    pub fn finish(&mut self) {
        if let Some(work) = &mut self.work {
            work.finish();
        }
    }

    /// Gives its buffers back if they are empty; to be called when no bytes are counted for them.
    pub fn rest(&mut self, pool: &mut Pool) {
        if self.work.as_ref().is_some_and(|work| work.is_empty())
            && self.phase == Phase::Idle
            && let Some(work) = self.work.take()
        {
            pool.put(work);
        }
    }

    /// Makes the next turn read from the socket, whatever events were reported.
    pub fn look(&mut self) {
        self.readable = true;
    }

    /// Handles a deadline that has passed: what it means depends on the phase.
    pub fn expired(&mut self) -> Progress {
        match self.phase {
            Phase::Idle | Phase::Head if self.refused => Progress::Refused,
            Phase::Head | Phase::Body => Progress::TimedOut,
            Phase::Idle | Phase::Writing | Phase::Lingering => Progress::Gone,
            // The worker handles the store's deadline.
            Phase::Answering => Progress::Wait,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.link.begun = true;
    }

    fn work(&mut self, pool: &mut Pool) -> &mut Work {
        self.work.get_or_insert_with(|| pool.take())
    }

    /// The response is written. False when the kernel refused it.
    fn written(&mut self, world: &mut dyn World) -> bool {
        // A client that has shut down its sending half may still read, or have closed altogether; that shows when the
        // response, or our end of the stream behind it, is refused.
        if self.age == Age::Fresh {
            self.ended |= world.has_ended(self.socket);
        }
        self.age = Age::Used;
        self.doubt = self.ended;
        if self.work.as_ref().is_some_and(|work| work.close) {
            return self.end(world);
        }
        self.enter(Phase::Idle);
        true
    }

    /// Shuts down our half, to linger. False when the connection is already gone.
    fn end(&mut self, world: &mut dyn World) -> bool {
        if world.shut_down(self.socket).is_err() {
            self.doubt = true;
            return false;
        }
        self.enter(Phase::Lingering);
        if let Some(work) = &mut self.work {
            work.drop_the_rest();
            work.linger = LINGER_BYTES;
        }
        true
    }

    /// Reads and drops until the client closes too, or the limit is reached.
    fn linger(&mut self, world: &mut dyn World, scratch: &mut [u8]) -> Progress {
        if self.doubt {
            match world.has_taken(self.socket) {
                Ok(true) => self.doubt = false,
                Ok(false) => return Progress::Wait,
                Err(_) => return Progress::Gone,
            }
        }
        if self.is_answered() {
            return Progress::Answered;
        }
        for _ in 0..READS_PER_TURN {
            match self.read(world, scratch) {
                Ok(Some(n)) if n > 0 => match &mut self.work {
                    Some(work) if work.linger == 0 => return Progress::Gone,
                    Some(work) => work.linger = work.linger.saturating_sub(n),
                    None => return Progress::Gone,
                },
                Ok(None) => return Progress::Wait,
                _ => return Progress::Gone,
            }
        }
        Progress::Again
    }

    /// `Some(0)` is the end of the stream, `None` that nothing can be read now.
    fn read(&mut self, world: &mut dyn World, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable && !self.ended {
            return Ok(None);
        }
        match world.recv(self.socket, scratch) {
            Ok(n) => {
                // Edge-triggered: a short read means that the socket is drained, and saves the call that would say so;
                // but a close that came with the data is reported only once (`ended`).
                self.readable = n == scratch.len();
                Ok(Some(n))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn flush(&mut self, world: &mut dyn World, now: Instant) -> io::Result<()> {
        let Some(work) = self.work.as_deref_mut().filter(|work| !work.output.is_empty()) else {
            return Ok(());
        };
        let taken = send_some(world, self.socket, &work.output[work.sent..])?;
        work.sent += taken;
        if taken > 0 {
            work.moved = now;
        }
        if work.sent == work.output.len() {
            work.output.clear();
            work.sent = 0;
        }
        Ok(())
    }
}

/// Writes what the kernel takes now.
fn send_some(world: &mut dyn World, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match world.send(socket, &bytes[at..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its part of the key and its 40 bytes in the table of sockets, an idle client takes 96 bytes.
    #[test]
    fn an_idle_client_takes_little() {
        assert_eq!(size_of::<Option<Connection>>(), 48);
    }
}
