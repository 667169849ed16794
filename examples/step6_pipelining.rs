//! Step 6: what many clients ask goes to Redis in one write, and nobody waits for the reply.
//!
//! ```text
//! clients that are ready   ─▶  GET item:1  GET item:2  SET item:3 …   one write for a turn of the loop
//! Redis is ready           ─▶  $14…        $-1         $-1            the n-th reply belongs to the n-th command
//! ```
//!
//! Redis is one more socket of the loop. [`Redis::waiting`] remembers who asked, in order, because replies carry no
//! name. The busier the loop, the more requests share a system call here and one there, and a silent Redis stops only
//! those who want something of it.
//!
//! But those it stops for ever; so does a client that never ends its head keep its place for ever; and SIGTERM cuts
//! everybody off. Step 7 mends that.
//!
//! In src/: `resp/connection.rs` (commands and their replies), `resp/node.rs` (a connection and the next one).

#[allow(dead_code, reason = "its main is not ours")]
#[path = "step5_loop.rs"]
pub(crate) mod step5;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read};
use step5::step2::Request;
use step5::step4::{command, decode, outcome, redis_address};
use step5::{Client, accept, listen, send, wait};

pub(crate) const LISTENER: Token = Token(0);
pub(crate) const REDIS: Token = Token(1);

struct Server {
    poll: Poll,
    listener: TcpListener,
    clients: HashMap<Token, Client>,
    next: usize,
    /// The request that waits for Redis; at most one of each client, so that no queue is longer than there are clients.
    asked: HashMap<Token, Request>,
    redis: Redis,
}

fn main() -> io::Result<()> {
    let (poll, listener) = (Poll::new()?, listen()?);
    let (clients, asked, redis) = (HashMap::new(), HashMap::new(), Redis::default());
    Server { poll, listener, clients, next: 2, asked, redis }.run()
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        self.poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        loop {
            // All that was asked in the last turn, in one write.
            while self.redis.flush(&self.poll).is_err() {
                self.lose_redis(502);
            }
            wait(&mut self.poll, &mut events)?;
            for event in &events {
                match event.token() {
                    LISTENER => {
                        accept(&self.listener, &self.poll, &mut self.clients, &mut self.next)
                    }
                    REDIS => self.hear_redis(),
                    client => self.turn(client),
                }
            }
        }
    }

    /// As far as this client can go now: read, ask or answer, write.
    fn turn(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let mut alive = client.read() && client.write();
        while alive && client.output.is_empty() && !self.asked.contains_key(&token) {
            let Some(request) = client.next_request() else { break };
            match command(&request.method, &request.path, &request.body) {
                Ok(command) => {
                    self.redis.push(token, &command);
                    self.asked.insert(token, request);
                }
                Err(status) => client.answer(status, b"", &request),
            }
            alive = client.write();
        }
        alive &= client.write();
        // Who has gone keeps its place until its reply has come: places are bounded, and so is what waits for Redis.
        if self.asked.contains_key(&token) {
            return;
        }
        if !alive || client.is_done() || !client.look_again(&self.poll, token) {
            self.clients.remove(&token);
        }
    }

    fn hear_redis(&mut self) {
        let alive = self.redis.read();
        while let Ok(Some((reply, length))) = decode(&self.redis.input) {
            self.redis.input.drain(..length);
            // A reply that nobody asked for: we are out of step, and can trust no later one.
            let Some(token) = self.redis.waiting.pop_front() else { return self.lose_redis(502) };
            if let Some(request) = self.asked.remove(&token) {
                let (status, body) = outcome(&request.method, reply);
                self.deliver(token, status, &body, &request);
            }
        }
        if !alive || decode(&self.redis.input).is_err() {
            self.lose_redis(502);
        }
    }

    /// Commands on their way may have run or not, and nobody can say: so those who asked are answered with an error.
    fn lose_redis(&mut self, status: u16) {
        for token in std::mem::take(&mut self.redis).waiting {
            if let Some(request) = self.asked.remove(&token) {
                self.deliver(token, status, b"", &request);
            }
        }
    }

    fn deliver(&mut self, token: Token, status: u16, body: &[u8], request: &Request) {
        if let Some(client) = self.clients.get_mut(&token) {
            client.answer(status, body, request);
            self.turn(token);
        }
    }
}

/// One connection, made when it is needed.
#[derive(Default)]
pub(crate) struct Redis {
    stream: Option<TcpStream>,
    pub(crate) input: Vec<u8>,
    output: Vec<u8>,
    /// Who asked, in the order of the questions.
    pub(crate) waiting: VecDeque<Token>,
}

impl Redis {
    pub(crate) fn push(&mut self, token: Token, command: &[u8]) {
        self.waiting.push_back(token);
        self.output.extend_from_slice(command);
    }

    /// Connects, if there is something to ask, and writes what Redis takes.
    pub(crate) fn flush(&mut self, poll: &Poll) -> io::Result<()> {
        if self.stream.is_none() && !self.waiting.is_empty() {
            let address = redis_address().parse().map_err(io::Error::other)?;
            let mut stream = TcpStream::connect(address)?;
            poll.registry().register(
                &mut stream,
                REDIS,
                Interest::READABLE | Interest::WRITABLE,
            )?;
            self.stream = Some(stream);
        }
        match &mut self.stream {
            Some(stream) if !self.output.is_empty() => match send(stream, &mut self.output) {
                true => Ok(()),
                false => Err(ErrorKind::BrokenPipe.into()),
            },
            _ => Ok(()),
        }
    }

    /// Reads what is there; false when the connection is over.
    pub(crate) fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) => {
                    return matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected);
                }
            }
        }
        true
    }
}
