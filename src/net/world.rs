//! The world of a worker: every call it makes to the operating system, as one argument.
//!
//! ```text
//! loop { ready = world.wait(until);  worker.tick(now, ready) }      and inside a tick, sockets as numbers:
//!        world.recv(socket, …)  world.send(socket, …)  world.connect(…)  world.close(socket)
//! ```
//!
//! It is passed down as `&mut dyn World` and never stored, so that what a tick does depends on nothing but what the
//! world has reported. Implementations: `mio` (the default) and `std` (one blocking connection, the build without the
//! feature `poll`); unit tests use `resp::fake`. A virtual call costs some ten instructions beside a system call of
//! thousands.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A socket: a number that the world assigned, and assigns to no other socket afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub u64);

/// What became ready on a socket since its last event. Edges, not levels: each is reported once, and the receiver
/// reads, or writes, until `WouldBlock` or a short count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The socket's owner, as set by [`World::set_owner`].
    pub owner: u64,
    /// Which socket.
    pub socket: Socket,
    /// There are bytes to read, or the end of the stream.
    pub readable: bool,
    /// There is room to write, or a connect has ended.
    pub writable: bool,
    /// The peer has shut down its sending half; what it sent before may still have to be read.
    pub ended: bool,
    /// Both directions are closed, or the socket has an error.
    pub broken: bool,
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The outcome of asking for a client from the acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// A client; `refused` when it is above `MAX_CONNECTIONS` and is to be sent a 503.
    Client {
        /// Its socket, registered already.
        socket: Socket,
        /// Beyond `MAX_CONNECTIONS`.
        refused: bool,
    },
    /// No client now.
    Nobody,
    /// No more clients: accepting has ended.
    Closed,
}

/// Identifies an errand of [`World::look_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errand(pub u64);

/// The result of an errand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The addresses of the name.
    pub addresses: Vec<SocketAddr>,
    /// The content of the file, cut to the requested number of bytes.
    pub file: Option<Vec<u8>>,
}

/// See the module's text.
pub trait World {
    /// Waits until a socket is ready, or until `until`; appends the events. Gives the time after that.
    ///
    /// May return early, with no events: when a waker was used, or an errand has ended.
    ///
    /// # Errors
    /// The operating system cannot wait: the worker gets no more events.
    fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant>;

    /// The time now. A tick has its own from [`wait`](World::wait), and calls this only to learn how long it has taken.
    fn now(&self) -> Instant;

    /// The time of day, since 1970 in UTC.
    fn unix_time(&self) -> Duration;

    /// A random number: for spread, not for secrecy.
    fn random(&mut self) -> u64;

    /// The next client that the acceptor has taken in. A world without an acceptor has none.
    fn accepted(&mut self) -> Accepted {
        Accepted::Closed
    }

    /// Begins to connect, within `timeout`; the end of the attempt is reported as readiness to write, and its outcome
    /// by [`connected`](World::connected).
    ///
    /// # Errors
    /// As the operating system says.
    fn connect(&mut self, to: &Address, timeout: Duration) -> io::Result<Socket>;

    /// Whether the connection is made; false while the connect is under way.
    ///
    /// # Errors
    /// The connect failed.
    fn connected(&mut self, socket: Socket) -> io::Result<bool>;

    /// Sets the owner of a socket, which its events carry. A new socket's owner is 0.
    fn set_owner(&mut self, socket: Socket, owner: u64);

    /// Reads the bytes that have arrived; 0 is the end of the stream. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when there are none; otherwise the connection is dead. `Interrupted` is never returned.
    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what the system takes now. Never waits.
    ///
    /// # Errors
    /// As [`recv`](World::recv).
    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize>;

    /// Shuts down our half of the connection.
    ///
    /// # Errors
    /// The peer has gone already.
    fn shut_down(&mut self, socket: Socket) -> io::Result<()>;

    /// Whether the end of the stream is the next thing to be read. Takes nothing out of the socket.
    fn has_ended(&mut self, socket: Socket) -> bool;

    /// Once both sides have shut down their sending half: whether the peer has received all that was sent; false while
    /// that is under way. (On a Unix socket all that was written counts as received.) Called for clients only.
    ///
    /// # Errors
    /// The peer had closed the whole connection, and its kernel refused the bytes.
    fn has_taken(&mut self, _socket: Socket) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A client's IP address, an IPv4 address as such; `None` on a Unix socket, and for a server.
    fn peer(&self, _socket: Socket) -> Option<IpAddr> {
        None
    }

    /// Closes a socket. Closing one that is closed already does nothing.
    fn close(&mut self, socket: Socket);

    /// Closes every socket of this owner.
    fn close_all(&mut self, owner: u64);

    /// Resolves `name` (host and port), and reads `file` up to so many bytes, on another thread: both can hang.
    /// [`wait`](World::wait) returns when the errand has ended.
    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand;

    /// The result of an errand, once; `None` while it is under way.
    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>>;
}
