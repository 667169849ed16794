//! The world of a build with `poll`: any number of non-blocking sockets, and one wait for all of them (mio: epoll,
//! kqueue).
//!
//! ```text
//! Token(key) ─ event ─▶ the slab's entry under that key ─▶ Ready { owner, socket, … }
//! ```
//!
//! Each socket is registered once, for both directions, edge-triggered, and never again: epoll raises the writable edge
//! only after a write came up short, so registering for it always costs nothing. The events of one wait are translated
//! at once, before anything is closed or accepted; so no event can be taken for one of a socket that is created later
//! in the same tick in the place of a closed one. Nor in a later tick: closing a descriptor ends its registration only if
//! it was the last one of its socket, and a child process has another between its fork and its exec. kioskd has no
//! children, but a program around it may. So the token is the whole key, on a machine of 64 bits.

use super::look_up::Errands;
use super::random::Random;
use super::slab::Slab;
use super::system::{closed, either, failed, undisturbed};
use super::world::{Accepted, Address, Errand, Found, Ready, Socket, World};
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events taken in one wait; any others come with the next.
const EVENTS: usize = 256;

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// The waker's token, never a socket's: a slab has fewer than four billion places.
const WAKE: Token = Token(usize::MAX);

/// See the module's text.
#[derive(Debug)]
pub struct MioWorld {
    poll: Poll,
    events: Events,
    waker: Waker,
    sockets: Slab<Entry>,
    /// Where clients from the acceptor arrive; `None` where there is no acceptor.
    clients: Option<Receiver<Client>>,
    errands: Errands,
    random: Random,
}

/// Small, because every idle connection has one.
#[derive(Debug)]
struct Entry {
    owner: u64,
    /// As an IPv6 address, `::` for none: half as large as the `Option` it stands for.
    peer: [u8; 16],
    stream: Stream,
}

/// A non-blocking stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP over IPv4 or IPv6.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
}

/// A client on its way from the acceptor to a worker.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub stream: Stream,
    /// Its address; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The client is above `MAX_CONNECTIONS`: it gets 503 to every request but `/livez`.
    pub refused: bool,
}

/// The acceptor's sending end to a worker. When it is dropped the worker learns, at its next wait, that no more clients
/// will come: wake the worker.
#[derive(Debug)]
pub struct Inbox {
    clients: Sender<Client>,
    waker: Waker,
}

/// Ends another thread's wait.
#[derive(Debug, Clone)]
pub struct Waker(Arc<mio::Waker>);

impl MioWorld {
    /// A world for one worker, and the inbox for its clients.
    ///
    /// # Errors
    /// The operating system has no file descriptor left.
    pub fn new() -> io::Result<(MioWorld, Inbox)> {
        let (send, clients) = channel();
        let mut world = MioWorld::for_calls()?;
        world.clients = Some(clients);
        let inbox = Inbox { clients: send, waker: world.waker.clone() };
        Ok((world, inbox))
    }

    /// A world for a thread that gets no clients from an acceptor.
    ///
    /// # Errors
    /// As [`new`](MioWorld::new).
    pub fn for_calls() -> io::Result<MioWorld> {
        let poll = Poll::new().map_err(failed("open a poll"))?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok(MioWorld {
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
            sockets: Slab::default(),
            clients: None,
            errands: Errands::default(),
            random: Random::default(),
        })
    }

    fn add(&mut self, stream: Stream, peer: Option<IpAddr>) -> Socket {
        let peer = match peer {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
            Some(IpAddr::V6(address)) => address,
            None => Ipv6Addr::UNSPECIFIED,
        };
        Socket(self.sockets.insert(Entry { owner: 0, peer: peer.octets(), stream }))
    }

    fn watch(&mut self, socket: Socket) -> io::Result<()> {
        let entry = self.sockets.get_mut(socket.0).ok_or_else(closed)?;
        let token = Token(socket.0 as usize);
        either!(&mut entry.stream, s => self.poll.registry().register(s, token, BOTH))
    }

    fn stream(&mut self, socket: Socket) -> io::Result<&mut Stream> {
        self.sockets.get_mut(socket.0).map(|entry| &mut entry.stream).ok_or_else(closed)
    }
}

impl World for MioWorld {
    fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant> {
        let time = until.map(|until| until.saturating_duration_since(Instant::now()));
        match self.poll.poll(&mut self.events, time) {
            // A signal interrupted the wait; there are no events then.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        for event in &self.events {
            // The waker has no socket in the slab.
            let Token(token) = event.token();
            let found = self.sockets.at(Slab::<Entry>::place(token as u64));
            if let Some((key, entry)) = found.filter(|(key, _)| *key as usize == token) {
                ready.push(Ready {
                    owner: entry.owner,
                    socket: Socket(key),
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    ended: event.is_read_closed(),
                    broken: event.is_error() || event.is_write_closed(),
                });
            }
        }
        Ok(Instant::now())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn random(&mut self) -> u64 {
        self.random.draw()
    }

    /// A client that cannot be registered is delivered like any other, for it has been counted; but it is closed, and the
    /// first read tells.
    fn accepted(&mut self) -> Accepted {
        let client = match self.clients.as_ref().map(Receiver::try_recv) {
            Some(Ok(client)) => client,
            Some(Err(TryRecvError::Empty)) => return Accepted::Nobody,
            Some(Err(TryRecvError::Disconnected)) | None => return Accepted::Closed,
        };
        // A client that has gone already is detected when it is read from.
        let _ = client.stream.set_nodelay();
        let socket = self.add(client.stream, client.peer);
        if let Err(e) = self.watch(socket) {
            log::error!("failed to watch a client: {e}");
            self.close(socket);
        }
        Accepted::Client { socket, refused: client.refused }
    }

    /// The caller keeps the time: it closes the socket when the timeout has passed.
    fn connect(&mut self, to: &Address, _timeout: Duration) -> io::Result<Socket> {
        let (stream, peer) = match to {
            Address::Tcp(to) => (Stream::Tcp(TcpStream::connect(*to)?), Some(to.ip())),
            // A Unix socket connects at once, or fails: a server whose queue is full is not waited for.
            Address::Unix(path) => (Stream::Unix(UnixStream::connect(path)?), None),
        };
        // Without TCP_NODELAY, small commands would wait for the acknowledgement of the ones before; but a socket that
        // refuses the option still works.
        let _ = stream.set_nodelay();
        let socket = self.add(stream, peer);
        if let Err(e) = self.watch(socket) {
            self.close(socket);
            return Err(e);
        }
        Ok(socket)
    }

    fn connected(&mut self, socket: Socket) -> io::Result<bool> {
        self.stream(socket)?.is_connected()
    }

    fn set_owner(&mut self, socket: Socket, owner: u64) {
        if let Some(entry) = self.sockets.get_mut(socket.0) {
            entry.owner = owner;
        }
    }

    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream(socket)?;
        undisturbed(|| either!(&mut *stream, s => s.read(into)))
    }

    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        self.stream(socket)?.send(bytes)
    }

    fn shut_down(&mut self, socket: Socket) -> io::Result<()> {
        self.stream(socket)?.shut_down()
    }

    fn has_ended(&mut self, socket: Socket) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let Ok(stream) = self.stream(socket) else {
            return true;
        };
        // mio's Unix socket has no call for peeking.
        let peeked = undisturbed(|| either!(&*stream, s => SockRef::from(s).peek(&mut byte)));
        matches!(peeked, Ok(0))
    }

    fn has_taken(&mut self, socket: Socket) -> io::Result<bool> {
        let stream = self.stream(socket)?;
        // A TCP connection that both sides have ended, and whose last bytes are acknowledged, no longer counts as
        // connected.
        Ok(!stream.is_connected()? || matches!(stream, Stream::Unix(_)))
    }

    fn peer(&self, socket: Socket) -> Option<IpAddr> {
        let peer = Ipv6Addr::from(self.sockets.get(socket.0)?.peer);
        (!peer.is_unspecified()).then(|| IpAddr::from(peer).to_canonical())
    }

    fn close(&mut self, socket: Socket) {
        // Closing the descriptor removes it from the poll, or else its events find nobody.
        self.sockets.remove(socket.0);
    }

    fn close_all(&mut self, owner: u64) {
        for key in self.sockets.keys() {
            if self.sockets.get(key).is_some_and(|entry| entry.owner == owner) {
                self.sockets.remove(key);
            }
        }
    }

    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand {
        let waker = self.waker.clone();
        self.errands.start(name, file, move || waker.wake())
    }

    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        self.errands.take(errand)
    }
}

impl Stream {
    /// Writes what the system takes now.
    ///
    /// # Errors
    /// As [`World::send`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        undisturbed(|| either!(&mut *self, s => s.write(bytes)))
    }

    /// Shuts down our half.
    ///
    /// # Errors
    /// As [`World::shut_down`].
    pub fn shut_down(&self) -> io::Result<()> {
        either!(self, s => s.shutdown(Shutdown::Write))
    }

    /// Sends small segments at once (Nagle's algorithm off).
    fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nodelay(true),
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Whether the socket is connected. A failed non-blocking connect shows as the socket's pending error.
    fn is_connected(&self) -> io::Result<bool> {
        if let Some(e) = either!(self, s => s.take_error())? {
            return Err(e);
        }
        match either!(self, s => s.peer_addr().map(drop)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Inbox {
    /// Sends a client to the worker, and wakes it. A worker that has ended has ended the process too, or is about to.
    pub fn send(&self, client: Client) {
        let _ = self.clients.send(client);
        self.waker.wake();
    }

    /// A waker for the worker, to wake it without a client.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Waker {
    /// A waker for another poll.
    ///
    /// # Errors
    /// The operating system has no file descriptor left.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Waker> {
        let waker = mio::Waker::new(registry, token).map_err(failed("open a waker"))?;
        Ok(Waker(Arc::new(waker)))
    }

    /// Ends the wait that is under way, or the next.
    pub fn wake(&self) {
        // If the loop cannot be woken it has ended.
        let _ = self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::{self, wait_for};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn accepted(world: &mut MioWorld) -> Socket {
        match world.accepted() {
            Accepted::Client { socket, refused: false } => socket,
            other => panic!("{other:?}"),
        }
    }

    /// A client of the world, and the other end of its connection.
    fn client(world: &mut MioWorld, inbox: &Inbox) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, address) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        let stream = Stream::Tcp(mio::net::TcpStream::from_std(far));
        inbox.send(Client { stream, peer: Some(address.ip()), refused: false });
        (accepted(world), near)
    }

    #[test]
    fn a_store_is_reached_over_tcp() {
        tests::a_server_is_asked_and_answers_over_tcp(&mut MioWorld::for_calls().unwrap());
    }

    #[test]
    fn a_store_is_reached_over_a_unix_socket() {
        tests::a_server_is_asked_and_answers_over_a_unix_socket(
            &mut MioWorld::for_calls().unwrap(),
        );
    }

    #[test]
    fn a_connect_that_is_refused_is_an_error() {
        tests::a_connect_that_is_refused_is_an_error(&mut MioWorld::for_calls().unwrap());
    }

    #[test]
    fn a_peer_that_reads_late_gets_everything() {
        tests::a_peer_that_reads_late_gets_everything(&mut MioWorld::for_calls().unwrap());
    }

    #[test]
    fn a_name_ends_the_wait() {
        tests::a_name_ends_the_wait(&mut MioWorld::for_calls().unwrap());
    }

    #[test]
    fn a_wait_ends_when_it_should() {
        tests::a_wait_ends_when_it_should(&mut MioWorld::for_calls().unwrap());
    }

    #[test]
    fn clients_come_from_the_inbox_until_it_is_dropped() {
        let (mut world, inbox) = MioWorld::new().unwrap();
        assert_eq!(world.accepted(), Accepted::Nobody);
        let (socket, mut near) = client(&mut world, &inbox);
        assert_eq!(world.peer(socket), Some("127.0.0.1".parse().unwrap()));
        world.set_owner(socket, 7);
        near.write_all(b"hello").unwrap();
        let ready = wait_for(&mut world, socket, |ready| ready.readable);
        assert_eq!(ready.owner, 7);
        let mut bytes = [0; 16];
        assert_eq!(world.recv(socket, &mut bytes).unwrap(), 5);
        assert_eq!(world.recv(socket, &mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let waker = inbox.waker();
        drop(inbox);
        waker.wake();
        world.wait(None, &mut Vec::new()).unwrap();
        assert_eq!(world.accepted(), Accepted::Closed);
        assert_eq!(MioWorld::for_calls().unwrap().accepted(), Accepted::Closed);
    }

    #[test]
    fn what_becomes_of_a_closed_socket_is_not_told_of_the_next_in_its_place() {
        let (mut world, inbox) = MioWorld::new().unwrap();
        let (socket, near) = client(&mut world, &inbox);
        // As a child process has it between its fork and its exec.
        let Stream::Tcp(stream) = world.stream(socket).unwrap() else { panic!("TCP") };
        let duplicate = stream.as_fd().try_clone_to_owned().unwrap();
        world.close(socket);
        let (next, _near) = client(&mut world, &inbox);
        assert_eq!(Slab::<Entry>::place(next.0), Slab::<Entry>::place(socket.0));
        drop(near);
        let until = Instant::now() + Duration::from_millis(50);
        let mut ready = Vec::new();
        while world.wait(Some(until), &mut ready).unwrap() < until {}
        assert!(!ready.iter().any(|ready| ready.ended || ready.broken), "{ready:?}");
        drop(duplicate);
    }

    #[test]
    fn an_end_is_seen_without_taking_anything_out() {
        let (mut world, inbox) = MioWorld::new().unwrap();
        let (socket, mut near) = client(&mut world, &inbox);
        assert!(!world.has_ended(socket));
        near.write_all(b"x").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        wait_for(&mut world, socket, |ready| ready.ended);
        assert!(!world.has_ended(socket), "a byte comes first");
        assert_eq!(world.recv(socket, &mut [0; 16]).unwrap(), 1);
        assert!(world.has_ended(socket));
        assert_eq!(world.recv(socket, &mut [0; 16]).unwrap(), 0);
    }

    #[test]
    fn what_a_peer_that_has_ended_takes_or_refuses_is_known() {
        for refuses in [false, true] {
            let (mut world, inbox) = MioWorld::new().unwrap();
            let (socket, near) = client(&mut world, &inbox);
            let mut near = Some(near);
            near.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
            wait_for(&mut world, socket, |ready| ready.ended);
            if refuses {
                near = None;
            }
            assert_eq!(world.send(socket, b"answer").unwrap(), 6);
            // Our own shutdown may fail if the refusal has arrived already.
            let _ = world.shut_down(socket);
            let verdict = loop {
                match world.has_taken(socket) {
                    Ok(false) => std::thread::yield_now(),
                    verdict => break verdict,
                }
            };
            assert_eq!(verdict.is_err(), refuses, "{verdict:?}");
            drop(near);
        }
    }

    #[test]
    fn an_event_of_a_closed_socket_is_not_that_of_its_successor() {
        let (mut world, inbox) = MioWorld::new().unwrap();
        let (first, mut near) = client(&mut world, &inbox);
        near.write_all(b"x").unwrap();
        wait_for(&mut world, first, |ready| ready.readable);
        world.close(first);
        let (second, _near) = client(&mut world, &inbox);
        assert_eq!(Slab::<Entry>::place(first.0), Slab::<Entry>::place(second.0));
        assert_ne!(first, second);
        world.close(first);
        assert!(world.recv(first, &mut [0]).is_err());
        assert!(world.has_ended(first) && world.peer(first).is_none());
        assert_eq!(world.recv(second, &mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "epoll refuses a directory, kqueue may not")]
    fn a_client_that_cannot_be_watched_is_closed_and_delivered() {
        let (mut world, inbox) = MioWorld::new().unwrap();
        let directory = std::fs::File::open("/").unwrap();
        let stream = TcpStream::from(std::os::fd::OwnedFd::from(directory));
        let stream = Stream::Tcp(mio::net::TcpStream::from_std(stream));
        inbox.send(Client { stream, peer: None, refused: false });
        let socket = accepted(&mut world);
        assert!(world.sockets.is_empty());
        assert_eq!(world.recv(socket, &mut [0]).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn addresses_come_back_as_they_went_in() {
        let mut world = MioWorld::for_calls().unwrap();
        for (peer, back) in [
            (Some("192.0.2.1"), Some("192.0.2.1")),
            (Some("2001:db8::1"), Some("2001:db8::1")),
            (Some("::ffff:192.0.2.1"), Some("192.0.2.1")),
            (None, None),
        ] {
            let (stream, _other) = UnixStream::pair().unwrap();
            let ip = |text: Option<&str>| text.map(|text| text.parse::<IpAddr>().unwrap());
            let socket = world.add(Stream::Unix(stream), ip(peer));
            assert_eq!(world.peer(socket), ip(back));
        }
    }

    #[test]
    fn an_idle_socket_takes_little() {
        // With debug assertions mio's sockets keep the number of their poll.
        let size = if cfg!(debug_assertions) { 48 } else { 32 };
        assert_eq!(size_of::<Option<Entry>>(), size);
    }
}
