//! The load: one thread, any number of connections, each with one batch of requests under way.
//!
//! The loop is closed: a connection sends its next batch when the last response of the one before is there. So a slow
//! server is asked less often, and its latencies look better than those of a server under a load that does not wait. That
//! goes for all contenders alike.
//!
//! The requests are bytes made beforehand, and of a response only status and length are looked at: what the generator
//! costs is taken from the server, because both share the processors.

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Before anything is counted: connections are made, caches filled.
const WARM_UP: Duration = Duration::from_millis(200);

/// A server that says nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is asked, and how.
pub struct Load<'a> {
    pub address: SocketAddr,
    /// Taken in turn, over and over, by whichever connection is free.
    pub batches: &'a [Vec<u8>],
    /// Requests in each batch; more than one is pipelining.
    pub batch_size: usize,
    pub connections: usize,
    /// A connection is used for one batch, which asks the server to close it.
    pub reconnect: bool,
    pub time: Duration,
}

/// What came back.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub per_second: f64,
    /// From sending a batch to each of its responses; 99 of 100 took no longer.
    pub p99_us: f64,
    /// Processor time of the server for each response.
    pub cpu_us: f64,
    /// Responses that were no 2xx.
    pub failed: usize,
}

struct Connection {
    stream: TcpStream,
    batch: usize,
    /// How much of it the kernel has taken.
    sent: usize,
    /// Responses still to come.
    awaited: usize,
    began: Instant,
    received: Vec<u8>,
}

impl Load<'_> {
    /// Asks for as long as it should. `cpu` is how many seconds of processor time the server has used so far.
    pub fn run(&self, cpu: impl Fn() -> f64) -> io::Result<Measured> {
        let mut running =
            Running { load: self, poll: Poll::new()?, next: 0, latencies: Vec::new(), failed: 0 };
        let mut connections =
            (0..self.connections).map(|n| running.connect(n)).collect::<io::Result<Vec<_>>>()?;
        running.ask_until(Instant::now() + WARM_UP, &mut connections)?;

        running.latencies.clear();
        let (began, cpu_before) = (Instant::now(), cpu());
        running.ask_until(began + self.time, &mut connections)?;
        let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu() - cpu_before);

        let mut latencies = running.latencies;
        latencies.sort_unstable();
        let responses = latencies.len() as f64;
        Ok(Measured {
            per_second: responses / seconds,
            p99_us: latencies
                .get(latencies.len() * 99 / 100)
                .map_or(f64::NAN, |&ns| f64::from(ns) / 1e3),
            cpu_us: cpu_seconds * 1e6 / responses,
            failed: running.failed,
        })
    }
}

struct Running<'a> {
    load: &'a Load<'a>,
    poll: Poll,
    /// The batch that is sent next.
    next: usize,
    /// In nanoseconds, of every response.
    latencies: Vec<u32>,
    failed: usize,
}

impl Running<'_> {
    fn connect(&mut self, number: usize) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(self.load.address)?;
        self.poll.registry().register(
            &mut stream,
            Token(number),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            batch: 0,
            sent: 0,
            awaited: 0,
            began: Instant::now(),
            received: Vec::new(),
        };
        self.begin_batch(&mut connection);
        Ok(connection)
    }

    fn begin_batch(&mut self, connection: &mut Connection) {
        connection.batch = self.next;
        self.next = (self.next + 1) % self.load.batches.len();
        (connection.sent, connection.awaited) = (0, self.load.batch_size);
        connection.began = Instant::now();
    }

    fn ask_until(&mut self, end: Instant, connections: &mut [Connection]) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 256 * 1024];
        let mut heard = Instant::now();
        while Instant::now() < end {
            self.poll.poll(&mut events, Some(Duration::from_millis(10)))?;
            for event in &events {
                let connection = &mut connections[event.token().0];
                if event.is_writable() {
                    self.send(connection)?;
                }
                if event.is_readable() {
                    heard = Instant::now();
                    self.receive(connection, event.token(), event.is_read_closed(), &mut buffer)?;
                }
            }
            if heard.elapsed() > SILENCE_MAX {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("no response in {SILENCE_MAX:?}"),
                ));
            }
        }
        Ok(())
    }

    fn send(&mut self, connection: &mut Connection) -> io::Result<()> {
        let batch = &self.load.batches[connection.batch];
        while connection.sent < batch.len() {
            match connection.stream.write(&batch[connection.sent..]) {
                Ok(length) => connection.sent += length,
                // Not connected yet, or the peer's window is full; an event says when to go on.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        connection: &mut Connection,
        token: Token,
        ends: bool,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        loop {
            let length = match connection.stream.read(buffer) {
                Ok(0) if self.load.reconnect && connection.awaited == 0 => {
                    *connection = self.connect(token.0)?;
                    return Ok(());
                }
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            connection.received.extend_from_slice(&buffer[..length]);
            self.take_responses(connection);
            if connection.awaited == 0 && !self.load.reconnect {
                self.begin_batch(connection);
                return self.send(connection);
            }
            // A read that leaves room has emptied the socket, and saves asking it again. The end is no byte, so where
            // it has been announced it is asked for.
            if length < buffer.len() && !ends {
                return Ok(());
            }
        }
    }

    fn take_responses(&mut self, connection: &mut Connection) {
        let mut taken = 0;
        let latency = connection.began.elapsed().as_nanos() as u32;
        while let Some((status, length)) = response(&connection.received[taken..]) {
            taken += length;
            connection.awaited = connection.awaited.saturating_sub(1);
            self.latencies.push(latency);
            self.failed += usize::from(!(200..300).contains(&status));
        }
        connection.received.drain(..taken);
    }
}

/// Status and length of the response that `bytes` begin with, once all of it is there.
///
/// No contender sends chunks or folds lines, and nothing but `Content-Length` has this tail in its name.
fn response(bytes: &[u8]) -> Option<(u16, usize)> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let number = |from: usize| {
        let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    };
    let body = memmem::find(&bytes[..head], b"-Length: ")
        .or_else(|| memmem::find(&bytes[..head], b"-length: "))
        .map_or(0, |at| number(at + 9));
    let length = head + body;
    (bytes.len() >= length).then(|| (number("HTTP/1.1 ".len()) as u16, length))
}
