//! Takes new clients in and hands each to the worker with the fewest.
//!
//! One thread accepts for all workers. If each of them waited on the listener, the kernel would
//! wake them all for every client, and the first to run would take most; handed out like this,
//! sixteen connections on two workers are eight each, every time.
//!
//! Beyond `MAX_CONNECTIONS` a client is still taken in, to be told 503 and why; up to 64 at a
//! time, and those beyond that get a bare 503 and are closed. When the process has no file
//! descriptor left, the one kept back for this moment is given up, the client accepted and told the
//! same, and the descriptor taken back: the queue of the listener empties, and nothing spins. The log
//! says so, once a second at most.

use super::listen::{Bound, Listen, SocketFile};
use crate::lifecycle::{Lifecycle, State};
use crate::net::{Client, Inbox, Stream, Waker, failed};
use crate::service::metrics::Metrics;
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKE: Token = Token(1);

/// Clients above `MAX_CONNECTIONS` that may be hearing their 503 at a time.
pub const REFUSALS_MAX: usize = 64;

/// After an accept that failed for want of a resource, for edge-triggered readiness will not tell
/// again of clients that wait already.
const RETRY: Duration = Duration::from_millis(100);

/// While clients are turned away the log says so, and how many, this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);

/// The listener of either kind, non-blocking.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// The file of a Unix socket, to be dropped first, and the socket.
    Unix(SocketFile, UnixListener),
}

impl Listener {
    /// Binds and listens; says where.
    ///
    /// # Errors
    /// As [`Listen::bind`].
    pub fn bind(listen: &Listen) -> io::Result<(Listener, String)> {
        let (bound, address) = listen.bind()?;
        let listener = match bound {
            Bound::Tcp(l) => {
                l.set_nonblocking(true)?;
                Listener::Tcp(TcpListener::from_std(l))
            }
            Bound::Unix(l, file) => {
                l.set_nonblocking(true)?;
                Listener::Unix(file, UnixListener::from_std(l))
            }
        };
        Ok((listener, address))
    }

    /// A client, and its address if it has one: one of IPv4 as such on a socket of both.
    fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(l) => {
                l.accept().map(|(s, peer)| (Stream::Tcp(s), Some(peer.ip().to_canonical())))
            }
            Listener::Unix(_, l) => l.accept().map(|(s, _)| (Stream::Unix(s), None)),
        }
    }
}

/// The accepting thread.
pub struct Acceptor {
    poll: Poll,
    waker: Waker,
    listener: Listener,
    inboxes: Vec<Inbox>,
    metrics: Arc<Metrics>,
    connections_max: usize,
    turn: usize,
    /// A descriptor kept back for the moment when there is none.
    reserve: Option<File>,
    /// Clients turned away for want of a descriptor, and when the log last spoke of it.
    turned_away: usize,
    complained: Option<Instant>,
}

impl Acceptor {
    /// An acceptor that hands clients to `inboxes`, one for each worker that `metrics` counts for.
    ///
    /// # Errors
    /// When the operating system refuses a poll or a waker.
    pub fn new(
        mut listener: Listener,
        inboxes: Vec<Inbox>,
        metrics: Arc<Metrics>,
        connections_max: usize,
    ) -> io::Result<Acceptor> {
        let poll = Poll::new().map_err(failed("open a poll for the acceptor"))?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        match &mut listener {
            Listener::Tcp(l) => poll.registry().register(l, LISTENER, Interest::READABLE)?,
            Listener::Unix(_, l) => poll.registry().register(l, LISTENER, Interest::READABLE)?,
        }
        Ok(Acceptor {
            poll,
            waker,
            listener,
            inboxes,
            metrics,
            connections_max,
            turn: 0,
            reserve: reserve(),
            turned_away: 0,
            complained: None,
        })
    }

    /// Wakes it, so that it sees that the lifecycle has moved on.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Accepts until the lifecycle says stop.
    pub fn run(mut self, lifecycle: &Lifecycle) {
        let mut events = Events::with_capacity(8);
        let mut retry = None;
        loop {
            if let Err(e) = self.poll.poll(&mut events, retry)
                && e.kind() != io::ErrorKind::Interrupted
            {
                log::error!("failed to wait for clients: {e}");
                return;
            }
            // Read before the queue is emptied: who is in it when accepting ends is still taken in.
            let stopped = lifecycle.state() >= State::Stopped;
            retry = None;
            if let Err(e) = self.accept_all() {
                self.complain(&e);
                retry = Some(RETRY);
            }
            if stopped {
                return self.close();
            }
        }
    }

    /// No worker leaves before it knows that nobody more will come.
    fn close(self) {
        for inbox in self.inboxes {
            let waker = inbox.waker();
            drop(inbox);
            waker.wake();
        }
    }

    /// Empties the listener's queue. An error means that it may not be empty.
    fn accept_all(&mut self) -> io::Result<()> {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => self.hand_over(stream, peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client has gone already, or a signal came: the next one.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => {
                    // Most likely no descriptor is left. Linux looks for one before it looks for a
                    // client, so there may be nobody at all.
                    if !self.turn_one_away(&e)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Accepts with the descriptor kept back, and closes. False when nobody waits; an error when
    /// that did not help, because somebody else was faster or there was none.
    fn turn_one_away(&mut self, because: &io::Error) -> io::Result<bool> {
        self.reserve = None;
        let accepted = self.listener.accept().map(|(stream, _)| turn_away(stream));
        self.reserve = reserve();
        match accepted {
            Ok(()) => {
                self.turned_away += 1;
                self.complain(because);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn complain(&mut self, because: &io::Error) {
        let now = Instant::now();
        if self.complained.is_some_and(|t| now.duration_since(t) < COMPLAINT_EVERY) {
            return;
        }
        log::error!(
            "failed to accept a client: {because}; {} turned away so far",
            self.turned_away
        );
        self.complained = Some(now);
    }

    fn hand_over(&mut self, stream: Stream, peer: Option<IpAddr>) {
        let refused = self.metrics.connections() >= self.connections_max;
        if refused && self.metrics.refusals() >= REFUSALS_MAX {
            return turn_away(stream);
        }
        let worker = self.metrics.least_busy(self.turn);
        self.turn = (worker + 1) % self.inboxes.len();
        self.metrics.worker(worker).connected(refused);
        self.inboxes[worker].send(Client { stream, peer, refused });
    }
}

/// A word to a client for whom there is not even room to hear it out: with luck it reads this before
/// it learns that the connection is gone.
fn turn_away(mut stream: Stream) {
    const WORD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
        Connection: close\r\nContent-Length: 0\r\n\r\n";
    // A fresh socket takes so little at once. Whoever has gone already need not hear it.
    let _ = stream.send(WORD);
    let _ = stream.shut_down();
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
