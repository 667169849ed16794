//! One client of the poll front: its socket, its phase, its deadline.
//!
//! ```text
//!          ┌──────────────────── response written, connection kept ───────────────────┐
//!          ▼                                                                          │
//!   Idle ─▶ Head ─▶ Body ─▶ Answering (the service, the store) ─▶ Writing ────────────┤
//!    75 s    10 s    30 s*   REQUEST_TIMEOUT, by the store          10 s*             ▼
//!                                                                     Lingering ─▶ closed
//! ```
//!
//! Each phase has one deadline. Where many bytes may have to move (*) it moves with them, for as long as
//! they keep the [`pace`]; else it is set when the phase begins, and no byte renews it. At most one
//! request is in flight; what a client sends behind it waits, first in `input` and then, when
//! that has a scratch buffer's worth, in the kernel. Nothing here knows a rule of the service, or
//! what time it is.
//!
//! A request refused by its head ends the connection, unless its whole body lies there already: what
//! comes later could be taken for a body by one reader and for a request by another.
//!
//! A connection the server closes is closed in two steps (RFC 9112 §9.6): our half first, then a
//! bounded time of reading and dropping. Closing with unread bytes in the socket would send a
//! reset, and a reset can destroy the response before the client has read it.

use super::{Options, pace};
use crate::http::{self, ChunkedDecoder, Framing, Head, HeadParser, ParseError};
use crate::service::Call;
use crate::service::step::Next;
use crate::service::trace::Trace;
use crate::stream::Stream;
use mio::event::Event;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::time::{Duration, Instant};

/// How long, and for how many bytes, a connection is drained before it is closed.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// How long a client for whom there is no room may take to begin a request before it is told so: an answer
/// to HEAD has no body, and the first byte tells.
const REFUSAL_TIME: Duration = Duration::from_millis(100);

/// Scratch buffers' worth of bytes one client may bring in before the others have their turn.
const READS_PER_TURN: usize = 2;

/// A request in the hands of the service.
pub struct Exchange {
    /// Its head.
    pub head: Head,
    /// Bytes that its worker counts for that.
    pub head_bytes: usize,
    /// Its ids.
    pub trace: Trace,
    /// When its head was complete.
    pub began: Instant,
    /// When the store must have answered: its time begins when the request is whole.
    pub deadline: Instant,
    /// What to do with the store's answer, while the store has the word.
    pub next: Option<Next>,
}

/// A request whose response is printed, until it is known what came of that.
pub struct Account {
    /// Its head, but for the fields; none when it was unreadable.
    pub head: Option<Head>,
    /// Its ids.
    pub trace: Trace,
    /// When its head was complete.
    pub began: Instant,
    /// Refused by the protocol, and why.
    pub refused: Option<String>,
    /// The status of the response.
    pub status: u16,
}

/// See the module's text.
pub struct Connection {
    stream: Stream,
    /// Who it is; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// There is no room for it, and it is to be told so.
    pub refused: bool,
    /// Bytes that its worker has on its account for it.
    pub counted: usize,
    /// The length of the last head it has sent.
    pub head_bytes: usize,
    /// It has a turn coming, whatever its socket says.
    pub queued: bool,
    /// What it had sent behind its request is gone, so nothing more can be read from it.
    forgotten: bool,
    phase: Phase,
    /// When the body or the response began to move, in those phases.
    began: Instant,
    deadline: Instant,
    /// When the deadline was set.
    set: Instant,
    readable: bool,
    /// The peer has shut down its sending half: read on until the end shows. It still listens.
    ended: bool,
    /// No event has told of it yet, and so of no end either.
    fresh: bool,
    /// Both directions are dead; nobody will read an answer.
    broken: bool,
    input: Input,
    parser: HeadParser,
    output: Vec<u8>,
    sent: usize,
    after: After,
    /// The peer had ended when the last response was written: it may have gone altogether.
    doubt: bool,
    /// The request being served.
    pub exchange: Option<Box<Exchange>>,
    /// The request that was served, while its response is not out or in doubt.
    pub account: Option<Box<Account>>,
}

enum Phase {
    Idle,
    Head,
    Body(Box<Body>),
    Answering,
    Writing,
    Lingering { left: usize },
}

struct Body {
    call: Call,
    framing: BodyFraming,
    bytes: Vec<u8>,
}

enum BodyFraming {
    Length(usize),
    Chunked(ChunkedDecoder),
}

/// What becomes of a connection when the response is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next request may come.
    Keep,
    /// It ends.
    Close,
}

/// What a client has for its worker.
pub enum Turn {
    /// Nothing until its socket is ready again.
    Wait,
    /// Nothing yet, but there is more to read: the others first.
    Again,
    /// A head. Answer with [`Connection::expect`] or [`Connection::respond`].
    Head(Head),
    /// The whole request. Answer with [`Connection::respond`].
    Body(Call, Vec<u8>),
    /// No request, and no way to find the next one. Answer with [`Connection::respond`] and close.
    Malformed(ParseError),
    /// The client closed its half in the middle of a request. As `Malformed`.
    Truncated,
    /// A deadline has passed in the middle of a request. As `Malformed`; 408.
    TimedOut,
    /// There is no room for it. As `Malformed`; 503.
    Refused,
    /// It is over: drop the connection.
    Gone,
}

impl Connection {
    /// A client that has just been accepted and registered.
    pub fn new(stream: Stream, refused: bool, options: &Options, now: Instant) -> Connection {
        Connection {
            peer: stream.peer_ip(),
            refused,
            stream,
            counted: 0,
            head_bytes: 0,
            queued: false,
            forgotten: false,
            phase: Phase::Idle,
            began: now,
            set: now,
            deadline: now
                + match refused {
                    true => REFUSAL_TIME,
                    false => options.idle_timeout,
                },
            // Data may have come before the registration, and with it the edge.
            readable: true,
            ended: false,
            fresh: true,
            broken: false,
            input: Input::default(),
            parser: HeadParser::new(),
            output: Vec::new(),
            sent: 0,
            after: After::Keep,
            doubt: false,
            exchange: None,
            account: None,
        }
    }

    /// The loop saw readiness.
    pub fn ready(&mut self, event: &Event) {
        self.fresh = false;
        self.readable |= event.is_readable();
        self.ended |= event.is_read_closed();
        self.broken |= event.is_error() || event.is_write_closed();
    }

    /// When its phase must be over; `None` while the store has the word, for then its deadline
    /// counts.
    pub fn deadline(&self) -> Option<Instant> {
        (!matches!(self.phase, Phase::Answering)).then_some(self.deadline)
    }

    /// Bytes kept for it: of what it has sent and nobody has taken yet, of a body that is not whole, and
    /// of a response it has not taken.
    pub fn held(&self) -> usize {
        let body = match &self.phase {
            Phase::Body(body) => body.bytes.len(),
            _ => 0,
        };
        self.input.bytes.len() + body + self.output.len()
    }

    /// Gives up what it has sent behind the request that is being answered, which then is its last; says how many
    /// bytes that were.
    pub fn forget_the_rest(&mut self) -> usize {
        let before = self.held();
        self.input = Input::default();
        self.forgotten = true;
        self.counted = self.held();
        before - self.counted
    }

    /// Whether it has sent something that was not kept.
    pub fn has_forgotten(&self) -> bool {
        self.forgotten
    }

    fn due(&mut self, now: Instant, deadline: Instant) {
        (self.set, self.deadline) = (now, deadline);
    }

    /// The tick of `now` took this long: what was set in it is counted from its end. What was set before is not put
    /// off, or whoever makes a worker's ticks long would stop every clock.
    pub fn postpone(&mut self, now: Instant, by: Duration) {
        if self.set == now {
            self.deadline += by;
        }
        if self.began == now {
            self.began += by;
        }
    }

    /// Whether it is in the middle of sending a request.
    pub fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Head | Phase::Body(_))
    }

    /// Whether it has sent no whole head of a request, so that closing it cuts nothing.
    pub fn awaits_head(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Head)
    }

    /// Whether what it asks is a HEAD, as far as that can be told of a request without a whole head.
    pub fn asks_head(&self) -> bool {
        http::is_head(self.input.bytes()) == Some(true)
    }

    /// Reads and parses until there is something for the worker to do.
    pub fn advance(&mut self, now: Instant, scratch: &mut [u8], options: &Options) -> Turn {
        if matches!(self.phase, Phase::Lingering { .. }) {
            return self.linger(scratch);
        }
        if self.broken || self.flush(now, options).is_err() {
            return Turn::Gone;
        }
        if matches!(self.phase, Phase::Writing) {
            if !self.output.is_empty() {
                return Turn::Wait;
            }
            if !self.written(now, options) {
                return Turn::Gone;
            }
        }
        let mut reads = 0;
        loop {
            match &mut self.phase {
                Phase::Answering | Phase::Writing | Phase::Lingering { .. } => return Turn::Wait,
                Phase::Idle if self.refused => {
                    if !self.input.bytes().trim_ascii().is_empty() {
                        return Turn::Refused;
                    }
                }
                Phase::Idle | Phase::Head => {
                    if !self.input.is_empty() {
                        match self.parser.parse(self.input.bytes(), &options.head) {
                            Ok(Some((head, length))) => {
                                self.input.consume(length);
                                self.head_bytes = length;
                                self.phase = Phase::Answering;
                                return Turn::Head(head);
                            }
                            Ok(None) if matches!(self.phase, Phase::Idle) => {
                                self.input.compact();
                                // Empty lines begin no request, so they start no clock. The
                                // parser keeps count of them.
                                if self.parser.has_begun() {
                                    self.phase = Phase::Head;
                                    self.due(now, now + options.head_timeout);
                                }
                            }
                            Ok(None) => {}
                            Err(e) => return Turn::Malformed(e),
                        }
                    }
                }
                Phase::Body(body) => match body.take(&mut self.input, options.body_bytes_max) {
                    Ok(false) if reads > 0 => {
                        let bytes = body.bytes.len();
                        let due = pace::deadline(options.body_timeout, self.began, now, bytes);
                        self.due(now, due);
                    }
                    Ok(false) => {}
                    Ok(true) => {
                        let Phase::Body(body) =
                            std::mem::replace(&mut self.phase, Phase::Answering)
                        else {
                            return Turn::Gone;
                        };
                        return Turn::Body(body.call, body.bytes);
                    }
                    Err(e) => return Turn::Malformed(e),
                },
            }
            if reads == READS_PER_TURN {
                return Turn::Again;
            }
            reads += 1;
            match self.read(scratch) {
                Ok(Some(0)) if matches!(self.phase, Phase::Idle) => {
                    // In doubt whether the last response arrived, our end is what will tell.
                    if self.doubt && self.account.is_some() && self.close(now) {
                        return self.linger(scratch);
                    }
                    // No more comes, as if its time were up.
                    return self.expired();
                }
                Ok(Some(0)) => return Turn::Truncated,
                Ok(Some(n)) => self.input.push(&scratch[..n]),
                Ok(None) => return Turn::Wait,
                Err(_) => return Turn::Gone,
            }
        }
    }

    /// The request is admitted: read its body next. A client that asked gets `100 Continue`.
    pub fn expect(&mut self, call: Call, head: &Head, now: Instant, options: &Options) {
        // Nothing has come behind the head, so the client may really be waiting.
        if head.framing != Framing::Length(0) && head.expects_continue() && self.input.is_empty() {
            self.output.extend_from_slice(http::CONTINUE);
            // A failure shows again at the next read.
            let _ = self.flush(now, options);
        }
        let framing = match head.framing {
            Framing::Length(n) => BodyFraming::Length(usize::try_from(n).unwrap_or(usize::MAX)),
            Framing::Chunked => BodyFraming::Chunked(ChunkedDecoder::default()),
        };
        self.phase = Phase::Body(Box::new(Body { call, framing, bytes: Vec::new() }));
        self.began = now;
        self.due(now, now + options.body_timeout);
    }

    /// The request is refused by its head. Its body is dropped if the whole of it lies here; else nobody
    /// may read on.
    pub fn drop_body(&mut self, head: &Head) -> After {
        match head.framing {
            Framing::Length(0) => After::Keep,
            // Who expects anything and sees a final status may keep the body to itself (RFC 9110
            // §10.1.1), in HTTP/1.0 too: these bytes may be the next request.
            Framing::Length(n)
                if n <= self.input.bytes().len() as u64 && head.header("Expect").is_none() =>
            {
                self.input.consume(n as usize);
                After::Keep
            }
            _ => After::Close,
        }
    }

    /// Sends a response. False when nobody is there to take it; else the connection lives on, be it
    /// only to linger.
    pub fn respond(&mut self, bytes: &[u8], after: After, now: Instant, options: &Options) -> bool {
        self.exchange = None;
        self.after = after;
        self.phase = Phase::Writing;
        self.began = now;
        self.due(now, now + options.write_timeout);
        let written = if self.output.is_empty() {
            match write_some(&mut self.stream, bytes) {
                Ok(n) => n,
                Err(_) => return false,
            }
        } else {
            0
        };
        if written < bytes.len() {
            self.output.extend_from_slice(&bytes[written..]);
            return true;
        }
        self.written(now, options)
    }

    /// Whether the last response is out and, as far as anybody can see, in the hands of the client.
    pub fn is_answered(&self) -> bool {
        self.output.is_empty() && !self.doubt
    }

    /// Whether a part of the last response is not out.
    pub fn is_writing(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether bytes wait that may be a request already.
    pub fn has_more(&self) -> bool {
        match self.phase {
            Phase::Idle => !self.input.is_empty() || self.readable || self.ended,
            Phase::Lingering { .. } => self.readable || self.ended,
            _ => false,
        }
    }

    /// The socket itself is asked in the next turn, whatever the loop has been told of it.
    pub fn look(&mut self) {
        self.readable = true;
    }

    /// A deadline has passed: what it means depends on the phase.
    pub fn expired(&mut self) -> Turn {
        match self.phase {
            Phase::Idle if self.refused => Turn::Refused,
            Phase::Head | Phase::Body(_) => Turn::TimedOut,
            Phase::Idle | Phase::Writing | Phase::Lingering { .. } => Turn::Gone,
            // The store's deadline answers it.
            Phase::Answering => Turn::Wait,
        }
    }

    /// The socket, to deregister it.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The response is out. False when nobody took it.
    fn written(&mut self, now: Instant, options: &Options) -> bool {
        // Who has shut down its sending half may still read, or have closed altogether; that shows when
        // the response, or our end behind it, is refused.
        if std::mem::take(&mut self.fresh) {
            self.ended |= self.stream.has_ended();
        }
        self.doubt = self.ended;
        if self.after == After::Keep {
            self.phase = Phase::Idle;
            self.due(now, now + options.idle_timeout);
            return true;
        }
        self.close(now)
    }

    /// Ends our half, to linger. False when there is no connection any more.
    fn close(&mut self, now: Instant) -> bool {
        if self.stream.shutdown(Shutdown::Write).is_err() {
            self.doubt = true;
            return false;
        }
        self.input = Input::default();
        self.phase = Phase::Lingering { left: LINGER_BYTES };
        self.due(now, now + LINGER_TIME);
        true
    }

    /// Reads and drops until the client closes too, or has had its share.
    fn linger(&mut self, scratch: &mut [u8]) -> Turn {
        if self.doubt {
            match self.stream.check_taken() {
                Ok(true) => self.doubt = false,
                Ok(false) => return Turn::Wait,
                Err(_) => return Turn::Gone,
            }
        }
        for _ in 0..READS_PER_TURN {
            let Phase::Lingering { left } = &mut self.phase else {
                return Turn::Gone;
            };
            let enough = *left == 0;
            match self.read(scratch) {
                Ok(Some(n)) if n > 0 && !enough => {
                    if let Phase::Lingering { left } = &mut self.phase {
                        *left = left.saturating_sub(n);
                    }
                }
                Ok(None) => return Turn::Wait,
                _ => return Turn::Gone,
            }
        }
        Turn::Again
    }

    /// `Some(0)` is the end of the stream, `None` that there is nothing now.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable || self.ended {
            match self.stream.read(scratch) {
                Ok(n) => {
                    // Edge-triggered: a short read means drained, and saves the call that would
                    // say so; but a close that came with the data is told only once (`ended`).
                    self.readable = n == scratch.len();
                    return Ok(Some(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn flush(&mut self, now: Instant, options: &Options) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let taken = write_some(&mut self.stream, &self.output[self.sent..])?;
        self.sent += taken;
        // What the kernel took at first is not counted: the client need not have taken any of it.
        if taken > 0 && matches!(self.phase, Phase::Writing) {
            let due = pace::deadline(options.write_timeout, self.began, now, self.sent);
            self.due(now, due);
        }
        if self.sent == self.output.len() {
            // Given back: most connections are idle most of the time.
            self.output = Vec::new();
            self.sent = 0;
        }
        Ok(())
    }
}

/// Writes what the kernel takes now.
fn write_some(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match stream.write(&bytes[at..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

impl Body {
    /// Takes what `input` has of the body; true when it is whole.
    fn take(&mut self, input: &mut Input, body_bytes_max: usize) -> Result<bool, ParseError> {
        match &mut self.framing {
            BodyFraming::Length(length) => {
                // The service has refused a length above the limit. The room grows with what
                // comes, never with what was declared.
                let n = (*length - self.bytes.len()).min(input.bytes().len());
                self.bytes.extend_from_slice(&input.bytes()[..n]);
                input.consume(n);
                Ok(self.bytes.len() == *length)
            }
            BodyFraming::Chunked(decoder) => {
                let (n, whole) = decoder.decode(input.bytes(), &mut self.bytes, body_bytes_max)?;
                input.consume(n);
                Ok(whole)
            }
        }
    }
}

/// Bytes read and not yet taken. Empty, it holds no memory.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl Input {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn push(&mut self, fresh: &[u8]) {
        // Moving the rest to the front is paid for by the bytes taken before it.
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(fresh);
    }

    /// Gives back the room of what was taken: the rest may have to wait for long.
    fn compact(&mut self) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.shrink_to_fit();
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
        if self.is_empty() {
            *self = Input::default();
        }
    }
}
