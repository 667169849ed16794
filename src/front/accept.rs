//! Accepts new clients and hands each to the worker with the fewest.
//!
//! One thread accepts for all workers. If each of them waited on the listener, the kernel would wake them all for every
//! client, and the first to run would take most; handed out like this, sixteen connections on two workers are eight
//! each, every time.
//!
//! Beyond `MAX_CONNECTIONS` a client is still accepted, to be sent a 503 with the reason; up to 64 at a time, and those
//! beyond that get a bare 503 and are closed. When the process has no file descriptor left, a reserved one is released,
//! the client accepted with it, sent the same bare 503 and closed, and the descriptor reserved again: so the listener's
//! queue empties, and the loop does not spin. The log reports this, once a second at most.

use super::listen::{Bound, Listen, SocketFile};
use crate::lifecycle::{Lifecycle, State};
use crate::net::{Client, Inbox, Stream, Waker, failed};
use crate::service::metrics::{Metrics, Refused};
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKE: Token = Token(1);

/// Clients above `MAX_CONNECTIONS` that may be receiving their 503 at a time.
pub const REFUSALS_MAX: usize = 64;

/// The wait after an accept that failed for lack of a resource: edge-triggered readiness reports no second event for
/// clients that already wait.
const RETRY: Duration = Duration::from_millis(100);

/// While clients are turned away, the log reports how many, this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);

/// The listener of either kind, non-blocking.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// The file of a Unix socket, dropped first, and the socket.
    Unix(SocketFile, UnixListener),
}

impl Listener {
    /// Binds and listens; gives the address, too.
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

    /// Accepts a client; gives its address if it has one, an IPv4 address as such even on a dual-stack socket.
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
    /// A descriptor reserved for the moment when there is no other.
    reserve: Option<File>,
    /// Clients turned away for lack of a descriptor, and when the log last reported it.
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

    /// Wakes the acceptor, so that it sees a change of the lifecycle.
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
            // Read before the queue is emptied: a client that is in the queue when accepting ends is still accepted.
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

    /// No worker ends before it knows that no more clients will come.
    fn close(self) {
        let Acceptor { listener, inboxes, .. } = self;
        // At once: whoever connects from here on is refused, and goes to another replica.
        drop(listener);
        for inbox in inboxes {
            let waker = inbox.waker();
            drop(inbox);
            waker.wake();
        }
    }

    /// Accepts until the listener's queue is empty. An error means that it may not be empty.
    fn accept_all(&mut self) -> io::Result<()> {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => self.hand_over(stream, peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if concerns_one(&e) => {}
                Err(e) if lacks_descriptor(&e) => {
                    // Linux checks for a descriptor before it checks for a client, so the queue may be empty.
                    if !self.turn_one_away(&e)? {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Accepts with the reserved descriptor, and closes the connection. False when no client waits; an error when this
    /// did not help, because another thread took the descriptor first or none was reserved.
    fn turn_one_away(&mut self, because: &io::Error) -> io::Result<bool> {
        self.reserve = None;
        let accepted = self.listener.accept().map(|(stream, _)| turn_away(stream));
        self.reserve = reserve();
        match accepted {
            Ok(()) => {
                self.turned_away += 1;
                self.metrics.turned_away(Refused::Descriptors);
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
        if refused {
            self.metrics.turned_away(Refused::Limit);
        }
        if refused && self.metrics.refusals() >= REFUSALS_MAX {
            return turn_away(stream);
        }
        let worker = self.metrics.least_busy(self.turn);
        self.turn = (worker + 1) % self.inboxes.len();
        self.metrics.worker(worker).connected(refused);
        self.inboxes[worker].send(Client { stream, peer, refused });
    }
}

/// Sends a short 503 to a client whose request we have no capacity to read: with luck the client reads it before it
/// sees that the connection is closed.
fn turn_away(mut stream: Stream) {
    const WORD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
        Connection: close\r\nContent-Length: 0\r\n\r\n";
    // A fresh socket takes so few bytes at once. For a client that has gone already the error does not matter.
    let _ = stream.send(WORD);
    let _ = stream.shut_down();
}

/// Whether the client has gone already, or a signal interrupted the call: the next one can be accepted. Linux also
/// reports here what the network has said of a connection in the queue (accept(2), "Error handling").
fn concerns_one(e: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable,
    };
    matches!(
        e.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
    )
}

/// Whether the process (EMFILE) or the system (ENFILE) has no descriptor left: std has no stable name for these numbers,
/// which are the same on every Unix.
fn lacks_descriptor(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(23 | 24))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Only who could be helped by the reserved descriptor is turned away with it: an error of one connection once cost
    /// the next client its place.
    #[test]
    fn an_error_of_one_connection_turns_nobody_else_away() {
        let judged = |number| {
            let e = io::Error::from_raw_os_error(number);
            (concerns_one(&e), lacks_descriptor(&e))
        };
        const EINTR: i32 = 4;
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const EPROTO: i32 = 71;
        const ENETDOWN: i32 = 100;
        const ENETUNREACH: i32 = 101;
        const ECONNABORTED: i32 = 103;
        const ECONNRESET: i32 = 104;
        const EHOSTUNREACH: i32 = 113;
        for one in [EINTR, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, EHOSTUNREACH] {
            assert_eq!(judged(one), (true, false), "{one}");
        }
        for lack in [ENFILE, EMFILE] {
            assert_eq!(judged(lack), (false, true), "{lack}");
        }
        for other in [ENOMEM, EPROTO] {
            assert_eq!(judged(other), (false, false), "{other}");
        }
    }
}
