//! Step 5: a loop that is told who is ready, so that a client costs memory and no thread.
//!
//! ```text
//! wait ─▶ who is ready? ─▶ listener: accept all    client: read all, parse, answer, write ─▶ wait
//! ```
//!
//! One thread serves everybody, because no call waits for a client: where the kernel has nothing for us, or takes
//! nothing, the client's [`input`](Client::input) and [`output`](Client::output) keep what there is until it is ready
//! again. The parser of step 2 is back: it could wait all along.
//!
//! One call still waits, the one to Redis. Requests pay a round trip each, one after the other, and when Redis is
//! silent even those who want nothing of it get no answer. Step 6 mends that.
//!
//! In src/: `net/mio.rs`, `front/poll/worker.rs` (the loop), `front/poll/connection.rs` (the client).

#[allow(dead_code, reason = "its main is not ours")]
#[path = "step2_parser.rs"]
pub(crate) mod step2;
#[allow(dead_code, reason = "its main is not ours")]
#[path = "step4_redis.rs"]
pub(crate) mod step4;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use step2::{BODY_MAX, HEAD_MAX, Request, parse, print};
use step4::command;

const CLIENTS_MAX: usize = 1000;
const LISTENER: Token = Token(0);

struct Server {
    poll: Poll,
    listener: TcpListener,
    clients: HashMap<Token, Client>,
    next: usize,
    redis: step4::Redis,
}

fn main() -> io::Result<()> {
    let (poll, listener) = (Poll::new()?, listen()?);
    let (clients, redis) = (HashMap::new(), step4::Redis::default());
    Server { poll, listener, clients, next: 1, redis }.run()
}

pub(crate) fn listen() -> io::Result<TcpListener> {
    let port = std::env::var("PORT").unwrap_or("8080".to_owned());
    let address = format!("127.0.0.1:{port}").parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        self.poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        loop {
            wait(&mut self.poll, &mut events)?;
            for event in &events {
                match event.token() {
                    LISTENER => {
                        accept(&self.listener, &self.poll, &mut self.clients, &mut self.next)
                    }
                    client => self.turn(client),
                }
            }
        }
    }

    /// As far as this client can go now: read, answer, write.
    fn turn(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let mut alive = client.read() && client.write();
        // The next request when the answer to the last has been taken: so nothing grows that a client does not take.
        while alive && client.output.is_empty() {
            let Some(request) = client.next_request() else { break };
            let (status, body) = match command(&request.method, &request.path, &request.body) {
                Ok(command) => self.redis.answer(&request.method, &command),
                Err(status) => (status, Vec::new()),
            };
            client.answer(status, &body, &request);
            alive = client.write();
        }
        alive &= client.write() && client.look_again(&self.poll, token);
        if !alive || client.is_done() {
            self.clients.remove(&token);
        }
    }
}

/// Waits for readiness. A signal interrupts that, and is no error.
pub(crate) fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, None) {
        Err(e) if e.kind() != ErrorKind::Interrupted => Err(e),
        _ => Ok(()),
    }
}

/// Accepts all clients that wait: readiness is reported once, and not again for those that were left. (After an error,
/// such as no more open files, they are left until another client comes; kioskd tries again by itself.)
pub(crate) fn accept(
    listener: &TcpListener,
    poll: &Poll,
    clients: &mut HashMap<Token, Client>,
    next: &mut usize,
) {
    while let Ok((mut stream, _)) = listener.accept() {
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut stream, Token(*next), both);
        // Beyond the limit the connection is dropped, that is, closed.
        if clients.len() < CLIENTS_MAX && registered.is_ok() {
            clients.insert(Token(*next), Client::new(stream));
            // Tokens count up: news of a client that has gone must not reach another one.
            *next += 1;
        }
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes that were read and not parsed yet.
    pub(crate) input: Vec<u8>,
    /// Answers that the kernel has not taken yet.
    pub(crate) output: Vec<u8>,
    /// Nothing more is read: the client has ended its side, or sent what we do not trust.
    last: bool,
    /// The kernel may have more bytes than were read.
    more: bool,
}

impl Client {
    fn new(stream: TcpStream) -> Client {
        Client { stream, input: Vec::new(), output: Vec::new(), last: false, more: false }
    }

    /// Reads what is there; false when the connection has failed.
    pub(crate) fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        // More than one whole request need not be here. What we do not take, the kernel keeps, and then the client.
        self.more = false;
        while !self.last && self.input.len() <= HEAD_MAX + BODY_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.last = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        self.more = !self.last;
        true
    }

    /// If bytes are left in the kernel, has readiness reported once more, after the other clients (it is reported only
    /// when it begins). False when that failed. While an answer is not taken, the event for that will do.
    pub(crate) fn look_again(&mut self, poll: &Poll, token: Token) -> bool {
        let both = Interest::READABLE | Interest::WRITABLE;
        let wanted = std::mem::take(&mut self.more) && self.output.is_empty();
        !wanted || poll.registry().reregister(&mut self.stream, token, both).is_ok()
    }

    /// The next request, if it is whole. Bytes that are no request are answered here.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        match parse(&self.input) {
            Ok(None) => None,
            Ok(Some((request, length))) => {
                self.input.drain(..length);
                Some(request)
            }
            Err(status) => {
                self.answer(status, b"", &Request::broken());
                None
            }
        }
    }

    pub(crate) fn answer(&mut self, status: u16, body: &[u8], request: &Request) {
        print(status, body, request, &mut self.output);
        if request.close {
            self.last = true;
            self.input.clear();
        }
    }

    pub(crate) fn write(&mut self) -> bool {
        send(&mut self.stream, &mut self.output)
    }

    /// Whether nothing more is read and all answers are taken: half a request that is left will never be whole.
    pub(crate) fn is_done(&self) -> bool {
        self.last && self.output.is_empty()
    }
}

/// Writes what the kernel takes; false when the connection has failed.
pub(crate) fn send(stream: &mut TcpStream, output: &mut Vec<u8>) -> bool {
    while !output.is_empty() {
        match stream.write(output) {
            Ok(n) => drop(output.drain(..n)),
            // A connection that is still being made takes nothing, either.
            Err(e) => return matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected),
        }
    }
    true
}
