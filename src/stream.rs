//! One type for a TCP and a Unix stream socket, both non-blocking.
//!
//! The front accepts either (`LISTEN=unix:…`) and the Redis client connects to either
//! (`unix:///…`), and neither cares which it got once bytes move. Nothing here decides anything.

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;
use std::fmt;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown};

/// A connected, or connecting, non-blocking stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP over IPv4 or IPv6.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// Either, with something on top that turns bytes into other bytes: TLS.
    Layered(Box<dyn Layer>),
}

/// Something on top of a socket. Reads and writes as one, and may hold bytes back: `flush` sends
/// what the socket takes now, and a short read does not mean that the socket is drained.
pub trait Layer: Read + Write + fmt::Debug + Send {
    /// What is under it.
    fn socket(&self) -> &Stream;

    /// What is under it.
    fn socket_mut(&mut self) -> &mut Stream;
}

/// Both directions, edge-triggered: registered once, never again, because epoll raises the
/// writable edge only after a write came up short, so asking for it always costs nothing.
pub const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Stream {
    /// Sends small segments at once (Nagle's algorithm off); nothing to do for a Unix socket.
    ///
    /// # Errors
    /// What the operating system says; a connection reset before this call is the usual reason.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nodelay(true),
            Stream::Unix(_) => Ok(()),
            Stream::Layered(s) => s.socket().set_nodelay(),
        }
    }

    /// Whether a read that does not fill its buffer has drained the socket.
    pub fn is_plain(&self) -> bool {
        !matches!(self, Stream::Layered(_))
    }

    /// Closes one direction or both; see `std::net::TcpStream::shutdown`.
    ///
    /// # Errors
    /// `NotConnected` when the peer has gone already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.shutdown(how),
            Stream::Unix(s) => s.shutdown(how),
            Stream::Layered(s) => s.socket().shutdown(how),
        }
    }

    /// Takes the pending error of the socket: how a non-blocking connect tells that it failed.
    ///
    /// # Errors
    /// When the option itself cannot be read.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(s) => s.take_error(),
            Stream::Unix(s) => s.take_error(),
            Stream::Layered(s) => s.socket().take_error(),
        }
    }

    /// Whether the peer is there: an error while a non-blocking connect is still under way.
    ///
    /// # Errors
    /// `NotConnected` until the connection stands.
    pub fn check_connected(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.peer_addr().map(drop),
            Stream::Unix(s) => s.peer_addr().map(drop),
            Stream::Layered(s) => s.socket().check_connected(),
        }
    }

    /// Once both sides have shut down their sending half: whether the peer has taken all that was sent, or
    /// false while that is under way. (On a Unix socket it has whatever was written.)
    ///
    /// # Errors
    /// The peer had closed the whole connection, and its kernel refused what came.
    pub fn check_taken(&self) -> io::Result<bool> {
        if let Some(e) = self.take_error()? {
            return Err(e);
        }
        match self.check_connected() {
            Ok(()) => Ok(matches!(self, Stream::Unix(_))),
            // A connection that both have ended is none any more.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Whether the peer's end is the next thing to be read. Takes nothing out of the socket.
    pub fn has_ended(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Stream::Tcp(s) => SockRef::from(s).peek(&mut byte),
            Stream::Unix(s) => SockRef::from(s).peek(&mut byte),
            Stream::Layered(s) => return s.socket().has_ended(),
        };
        matches!(peeked, Ok(0))
    }

    /// The peer's IP address, one of IPv4 as such on a socket of both; `None` for a Unix socket, whose
    /// peers have no address.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        match self {
            Stream::Tcp(s) => s.peer_addr().ok().map(|a| a.ip().to_canonical()),
            Stream::Unix(_) => None,
            Stream::Layered(s) => s.socket().peer_ip(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buf),
            Stream::Unix(s) => s.read(buf),
            Stream::Layered(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(buf),
            Stream::Unix(s) => s.write(buf),
            Stream::Layered(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Ok(()),
            Stream::Layered(s) => s.flush(),
        }
    }
}

impl Source for Stream {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.register(registry, token, interest),
            Stream::Unix(s) => s.register(registry, token, interest),
            Stream::Layered(s) => s.socket_mut().register(registry, token, interest),
        }
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.reregister(registry, token, interest),
            Stream::Unix(s) => s.reregister(registry, token, interest),
            Stream::Layered(s) => s.socket_mut().reregister(registry, token, interest),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.deregister(registry),
            Stream::Unix(s) => s.deregister(registry),
            Stream::Layered(s) => s.socket_mut().deregister(registry),
        }
    }
}
