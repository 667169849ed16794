//! A client that follows a script, one step in each tick of the front.
//!
//! It never blocks and never sleeps. A patient one sends a piece only when every response due for
//! the pieces before it has come; an impatient one sends a piece in every other tick. Behind the
//! last piece it closes its half, and reads on until the front has closed the other.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Far longer than any script takes, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a client does.
#[derive(Debug)]
pub struct Script {
    /// What it sends.
    pub bytes: Vec<u8>,
    /// Up to where, one piece after the other.
    pub ends: Vec<usize>,
    /// Responses that must have come when a piece has been read.
    pub due: Vec<usize>,
    /// Which responses answer HEAD.
    pub head_only: Vec<bool>,
    /// How long the store thinks.
    pub store_ticks: u32,
    /// Whether to wait for what is due before the next piece.
    pub patient: bool,
}

/// What a client saw.
#[derive(Debug)]
pub struct Transcript {
    /// Every whole response, 100 included.
    pub replies: Vec<Reply>,
    /// What is no whole response.
    pub rest: Vec<u8>,
    /// The end of it.
    pub end: End,
}

impl Transcript {
    /// Whether the response of this number, interim ones aside, says that it is the last one.
    pub fn closes(&self, n: usize) -> bool {
        let mut finals = self.replies.iter().filter(|reply| reply.status >= 200);
        finals.nth(n).is_some_and(|reply| reply.header("Connection") == Some("close"))
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// With the end of the stream.
    Closed,
    /// With an error.
    Broken(io::Error),
    /// Not at all.
    Stalled,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    head: String,
}

impl Reply {
    /// The first field called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }
}

/// A client at work.
pub struct Client {
    stream: UnixStream,
    script: Script,
    began: Instant,
    /// Pieces sent as a whole, bytes sent, ticks since.
    pieces: usize,
    sent: usize,
    ticks: u32,
    accepted: bool,
    half_closed: bool,
    received: Vec<u8>,
    replies: Vec<Reply>,
    /// Replies that are not interim.
    finals: usize,
}

impl Client {
    /// Connects to a front that listens.
    pub fn connect(path: &Path, script: Script) -> Client {
        let stream = UnixStream::connect(path).expect("the front listens");
        stream.set_nonblocking(true).expect("a socket can be set");
        Client {
            stream,
            script,
            began: Instant::now(),
            pieces: 0,
            sent: 0,
            ticks: 0,
            accepted: false,
            half_closed: false,
            received: Vec::new(),
            replies: Vec::new(),
            finals: 0,
        }
    }

    /// How long its script lets the store think.
    pub fn store_ticks(&self) -> u32 {
        self.script.store_ticks
    }

    /// One tick of its life; the end of it if this was the last.
    pub fn act(&mut self, accepted: bool) -> Option<End> {
        self.accepted |= accepted;
        match self.read() {
            Ok(true) => return Some(End::Closed),
            Ok(false) => {}
            Err(error) => return Some(End::Broken(error)),
        }
        if self.began.elapsed() > PATIENCE {
            return Some(End::Stalled);
        }
        self.ticks += u32::from(self.accepted);
        // One tick for the worker to read, and at the start a few for it to be handed the client.
        let rest = if self.pieces == 0 && self.sent == 0 { 4 } else { 2 };
        if self.half_closed
            || self.ticks < rest
            || (self.script.patient && self.finals < self.due())
        {
            return None;
        }
        match self.send() {
            Ok(()) => None,
            Err(error) => Some(End::Broken(error)),
        }
    }

    /// What must have come for the pieces sent.
    fn due(&self) -> usize {
        self.pieces.checked_sub(1).map_or(0, |last| self.script.due[last])
    }

    /// Sends what the socket takes of the next piece, or says that there is none.
    fn send(&mut self) -> io::Result<()> {
        let Some(&end) = self.script.ends.get(self.pieces) else {
            self.half_closed = true;
            return self.stream.shutdown(Shutdown::Write);
        };
        match self.stream.write(&self.script.bytes[self.sent..end]) {
            Ok(n) => self.sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if self.sent == end {
            self.pieces += 1;
            self.ticks = 0;
        }
        Ok(())
    }

    /// Takes all there is; true at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => {
                    self.received.extend_from_slice(&buffer[..n]);
                    self.take_replies();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn take_replies(&mut self) {
        let mut at = 0;
        loop {
            let head_only = self.script.head_only.get(self.finals) == Some(&true);
            let Some((reply, length)) = parse(&self.received[at..], head_only) else {
                break;
            };
            at += length;
            self.finals += usize::from(reply.status >= 200);
            self.replies.push(reply);
        }
        self.received.drain(..at);
    }

    /// What it saw.
    pub fn transcript(&mut self, end: End) -> Transcript {
        Transcript {
            replies: std::mem::take(&mut self.replies),
            rest: std::mem::take(&mut self.received),
            end,
        }
    }
}

/// The response at the front of `bytes` and its length, once it is whole.
fn parse(bytes: &[u8], head_only: bool) -> Option<(Reply, usize)> {
    let head_length = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..head_length].to_vec()).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let reply = Reply { status, head };
    let body_length = match status {
        100..200 | 204 | 304 => 0,
        _ if head_only => 0,
        _ => reply.header("Content-Length")?.parse().ok()?,
    };
    let length = head_length + body_length;
    (bytes.len() >= length).then_some((reply, length))
}
