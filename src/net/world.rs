//! The world of a worker: everything it asks of the operating system, as one argument.
//!
//! ```text
//! loop { ready = world.wait(until);  worker.tick(now, ready) }      and inside a tick, sockets as numbers:
//!        world.recv(socket, …)  world.send(socket, …)  world.connect(…)  world.close(socket)
//! ```
//!
//! It is passed down as `&mut dyn World` and never stored, so that what a tick does depends on nothing but what the
//! world has told it. Tenants: `mio` (what ships), `std` (one blocking connection, the build without the feature
//! `poll`), and a simulator. An indirect call costs some ten instructions beside a system call of thousands.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A socket: a number that the world gave out, and gives to no other socket afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub u64);

/// What became ready on a socket since it was last told. Edges, not levels: each is told once, and whoever was told
/// reads, or writes, until there is nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The socket's owner, as [`World::set_owner`] has it.
    pub owner: u64,
    /// Which socket.
    pub socket: Socket,
    /// There is something to read, or the end.
    pub readable: bool,
    /// There is room to write, or a connect has come to its end.
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

/// A client that the acceptor has taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// This one; `refused` when there is no room for it, and it is to be told so.
    Client {
        /// Its socket, watched already.
        socket: Socket,
        /// Beyond `MAX_CONNECTIONS`.
        refused: bool,
    },
    /// None now.
    Nobody,
    /// None any more: accepting has ended.
    Closed,
}

/// Names an errand of [`World::look_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errand(pub u64);

/// What an errand has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The addresses of the name.
    pub addresses: Vec<SocketAddr>,
    /// What is in the file, cut to the bytes that were asked for.
    pub file: Option<Vec<u8>>,
}

/// See the module's text.
pub trait World {
    /// Waits until something is ready, or until `until`; appends what is. Gives the time after that.
    ///
    /// May return early, with nothing: when a waker was used, or an errand has ended.
    ///
    /// # Errors
    /// The operating system cannot wait: the worker is deaf.
    fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant>;

    /// The time now. A tick has its own from [`wait`](World::wait), and asks only how long it has taken.
    fn now(&self) -> Instant;

    /// The time of day, since 1970 in UTC.
    fn unix_time(&self) -> Duration;

    /// A random number: spread, not secrecy.
    fn random(&mut self) -> u64;

    /// The next client that the acceptor has taken in. A world without an acceptor has none.
    fn accepted(&mut self) -> Accepted {
        Accepted::Closed
    }

    /// Begins to connect, within `timeout`; what comes of it is told as readiness to write, and by
    /// [`connected`](World::connected).
    ///
    /// # Errors
    /// As the operating system says.
    fn connect(&mut self, to: &Address, timeout: Duration) -> io::Result<Socket>;

    /// Whether the connection stands; false while that is under way.
    ///
    /// # Errors
    /// It failed.
    fn connected(&mut self, socket: Socket) -> io::Result<bool>;

    /// Names the owner of a socket: its events come with that. A new socket's owner is 0.
    fn set_owner(&mut self, socket: Socket, owner: u64);

    /// Reads what is there; 0 is the end. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else the connection is dead. `Interrupted` is not told.
    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what the system takes now. Never waits.
    ///
    /// # Errors
    /// As [`recv`](World::recv).
    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize>;

    /// Ends our half of the connection.
    ///
    /// # Errors
    /// The peer has gone already.
    fn shut_down(&mut self, socket: Socket) -> io::Result<()>;

    /// Whether the peer's end is the next thing to be read. Takes nothing out of the socket.
    fn has_ended(&mut self, socket: Socket) -> bool;

    /// Once both sides have shut down their sending half: whether the peer has taken all that was sent, or false while
    /// that is under way. (On a Unix socket it has whatever was written.) Asked of clients only.
    ///
    /// # Errors
    /// The peer had closed the whole connection, and its kernel refused what came.
    fn has_taken(&mut self, _socket: Socket) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A client's IP address, one of IPv4 as such; `None` on a Unix socket, and of a server.
    fn peer(&self, _socket: Socket) -> Option<IpAddr> {
        None
    }

    /// Closes a socket. One that is closed already is no matter.
    fn close(&mut self, socket: Socket);

    /// Closes every socket of this owner.
    fn close_all(&mut self, owner: u64);

    /// Finds the addresses of `name` (host and port), and reads `file` up to so many bytes, somewhere else: both can
    /// hang. [`wait`](World::wait) returns when it has ended.
    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand;

    /// What an errand has brought, once; `None` while it is under way.
    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>>;
}
