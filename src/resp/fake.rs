//! A world for tests: the test acts as the servers, and advances the clock.

use crate::net::{Address, Errand, Found, Ready, Socket, World};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// See the module's text.
pub(crate) struct Fake {
    pub(crate) now: Instant,
    random: u64,
    /// Every socket ever made, in order.
    pub(crate) sockets: Vec<Peer>,
    /// Addresses to which nothing connects; they refuse, or never answer.
    pub(crate) refusing: Vec<SocketAddr>,
    pub(crate) silent: Vec<SocketAddr>,
    /// The results of look-ups, in turn; `None`: none yet.
    pub(crate) found: VecDeque<Option<Result<Found, &'static str>>>,
    /// The look-ups so far, and their results.
    pub(crate) errands: Vec<(String, Option<Result<Found, &'static str>>)>,
    ready: Vec<Ready>,
}

/// A socket, as its server sees it.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<Address>,
    owner: u64,
    up: bool,
    pub(crate) closed: bool,
    /// The connection has ended, or been reset.
    ended: bool,
    reset: bool,
    /// Bytes for the client to read, and bytes it has written.
    to_client: VecDeque<u8>,
    pub(crate) from_client: Vec<u8>,
    /// How many more bytes the client may write; no limit if not set.
    pub(crate) room: Option<usize>,
    /// How many bytes the client gets in one read.
    pub(crate) piece: Option<usize>,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        Fake {
            now: Instant::now(),
            random: 1,
            sockets: Vec::new(),
            refusing: Vec::new(),
            silent: Vec::new(),
            found: VecDeque::new(),
            errands: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Takes the events that are ready.
    pub(crate) fn take_ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }

    /// The socket made most recently.
    pub(crate) fn last(&mut self) -> &mut Peer {
        self.sockets.last_mut().expect("a socket")
    }

    /// The server sends this on the socket made most recently.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.last().to_client.extend(bytes.as_ref());
        self.tell(|ready| ready.readable = true);
    }

    /// The server sends this on another socket.
    pub(crate) fn say_on(&mut self, socket: usize, bytes: impl AsRef<[u8]>) {
        self.sockets[socket].to_client.extend(bytes.as_ref());
        let (owner, socket) = (self.sockets[socket].owner, Socket(socket as u64));
        let (readable, writable, ended, broken) = (true, false, false, false);
        self.ready.push(Ready { owner, socket, readable, writable, ended, broken });
    }

    /// The server closes the socket made most recently; with a reset, bytes it has sent before are lost.
    pub(crate) fn hang_up(&mut self, reset: bool) {
        (self.last().ended, self.last().reset) = (true, reset);
        self.tell(|ready| (ready.readable, ready.ended, ready.broken) = (true, true, reset));
    }

    /// The server closes another socket.
    pub(crate) fn hang_up_on(&mut self, socket: usize) {
        self.sockets[socket].ended = true;
        let (owner, socket) = (self.sockets[socket].owner, Socket(socket as u64));
        let (readable, writable, ended, broken) = (true, false, true, false);
        self.ready.push(Ready { owner, socket, readable, writable, ended, broken });
    }

    /// Lets the client write this many more bytes.
    pub(crate) fn give_room(&mut self, room: Option<usize>) {
        self.last().room = room;
        self.tell(|ready| ready.writable = true);
    }

    /// What the client has written since the last call.
    pub(crate) fn heard(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.last().from_client)).into_owned()
    }

    /// Ends an errand with this result.
    pub(crate) fn find(&mut self, errand: usize, found: Result<Found, &'static str>) {
        self.errands[errand].1 = Some(found);
    }

    fn tell(&mut self, what: impl FnOnce(&mut Ready)) {
        let socket = Socket(self.sockets.len() as u64 - 1);
        let owner = self.last().owner;
        let mut ready =
            Ready { owner, socket, readable: false, writable: false, ended: false, broken: false };
        what(&mut ready);
        self.ready.push(ready);
    }

    fn peer(&mut self, socket: Socket) -> &mut Peer {
        let peer = &mut self.sockets[socket.0 as usize];
        assert!(!peer.closed, "a socket that was closed");
        peer
    }
}

/// The addresses of a name.
pub(crate) fn addresses(addresses: &[&str]) -> Result<Found, &'static str> {
    Ok(Found { addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(), file: None })
}

impl World for Fake {
    fn wait(&mut self, _: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant> {
        ready.append(&mut self.ready);
        Ok(self.now)
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.random >> 11
    }

    fn connect(&mut self, to: &Address, _: Duration) -> io::Result<Socket> {
        let refused = matches!(to, Address::Tcp(to) if self.refusing.contains(to));
        let up = !matches!(to, Address::Tcp(to) if self.silent.contains(to));
        let address = Some(to.clone());
        self.sockets.push(Peer { address, up, reset: refused, ..Peer::default() });
        if up {
            self.tell(|ready| ready.writable = true);
        }
        Ok(Socket(self.sockets.len() as u64 - 1))
    }

    fn connected(&mut self, socket: Socket) -> io::Result<bool> {
        let peer = self.peer(socket);
        if peer.reset { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(peer.up) }
    }

    fn set_owner(&mut self, socket: Socket, owner: u64) {
        self.peer(socket).owner = owner;
        let reported = self.ready.iter_mut().filter(|ready| ready.socket == socket);
        reported.for_each(|ready| ready.owner = owner);
    }

    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize> {
        let peer = self.peer(socket);
        if peer.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = into.len().min(peer.to_client.len()).min(peer.piece.unwrap_or(usize::MAX));
        if n == 0 && !peer.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (byte, from) in into.iter_mut().zip(peer.to_client.drain(..n)) {
            *byte = from;
        }
        // A short read means that the socket is drained, so the rest is reported again.
        let more = !peer.to_client.is_empty() && n < into.len();
        if more {
            self.tell(|ready| ready.readable = true);
        }
        Ok(n)
    }

    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        let peer = self.peer(socket);
        let n = bytes.len().min(peer.room.unwrap_or(usize::MAX));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.room = peer.room.map(|room| room - n);
        peer.from_client.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn shut_down(&mut self, _: Socket) -> io::Result<()> {
        Ok(())
    }

    fn has_ended(&mut self, socket: Socket) -> bool {
        self.peer(socket).ended
    }

    fn close(&mut self, socket: Socket) {
        self.sockets[socket.0 as usize].closed = true;
        self.ready.retain(|ready| ready.socket != socket);
    }

    fn close_all(&mut self, owner: u64) {
        let all = self.sockets.iter().enumerate().filter(|(_, peer)| peer.owner == owner);
        let all: Vec<_> = all.map(|(n, _)| Socket(n as u64)).collect();
        all.into_iter().for_each(|socket| self.close(socket));
    }

    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand {
        let what = match (name, file) {
            (Some((host, port)), _) => format!("{host}:{port}"),
            (_, Some((path, _))) => path.display().to_string(),
            _ => String::new(),
        };
        let found = self.found.pop_front().flatten();
        self.errands.push((what, found));
        Errand(self.errands.len() as u64 - 1)
    }

    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        let found = self.errands[errand.0 as usize].1.take()?;
        Some(found.map_err(io::Error::other))
    }
}
