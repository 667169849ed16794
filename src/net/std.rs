//! The world of the build without `poll`: one thread that asks one server and waits, with nothing but std.
//!
//! std can wait for one thing at a time: for bytes on one socket (a read with a timeout) or for a resolver thread.
//! Usually there is only one. Where there are more, each is waited for in turn, for a millisecond. Bytes that a wait
//! reads to detect readiness are kept, and the next `recv` returns them first (std can peek only on a TCP socket).
//!
//! std has no wait for writability either. A blocking write with a timeout would hold up the thread beyond the deadline
//! of its request, which is not known here, and would not read what the server sends meanwhile. So a write never waits:
//! when the socket is full, the next wait is cut to a millisecond and then reports the socket as writable, so that the
//! write is tried again. That is a thousand tries in a second at worst, on a thread that has nothing else to do.

use super::look_up::Errands;
use super::random::Random;
use super::slab::Slab;
use super::system::{closed, either, failed, undisturbed};
use super::world::{Address, Errand, Found, Ready, Socket, World};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When there are several things to wait for, each is waited for this long in turn.
const TURN: Duration = Duration::from_millis(1);

/// How much a wait may read ahead: a small document and the protocol around it.
const AHEAD_BYTES: usize = 4096;

/// See the module's text.
#[derive(Debug, Default)]
pub struct StdWorld {
    sockets: Slab<Connection>,
    errands: Errands,
    /// A connect to a Unix socket that did not end in its time.
    pending: Option<(PathBuf, PendingConnect)>,
    random: Random,
}

type PendingConnect = Receiver<io::Result<UnixStream>>;

#[derive(Debug)]
struct Connection {
    stream: Stream,
    owner: u64,
    /// Bytes read by a wait, and not returned by `recv` yet.
    ahead: Vec<u8>,
    /// What follows those bytes: the end of the stream, or an error.
    end: Option<Result<(), io::Error>>,
    /// To be reported as writable: the socket is new, or a write came up short.
    writable: bool,
    /// The last write came up short.
    full: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl World for StdWorld {
    fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant> {
        loop {
            let left = until.map(|t| t.saturating_duration_since(Instant::now()));
            let is_over = left == Some(Duration::ZERO);
            let is_pending = self.errands.are_under_way();
            let things = self.sockets.len() + usize::from(is_pending);
            let is_full = self.sockets.iter().any(|(_, c)| c.full);
            let time = match things {
                _ if self.sockets.iter().any(|(_, c)| c.has_news()) => Some(Duration::ZERO),
                // No socket to wait for, only time; without `until`, all that is left is to return early.
                0 => {
                    let nap = left.unwrap_or(100 * TURN);
                    thread::sleep(nap);
                    return Ok(Instant::now());
                }
                1 if !is_full => left,
                _ => Some(left.map_or(TURN, |left| left.min(TURN))),
            };
            let has_ended = is_pending && self.errands.wait(time.unwrap_or(Duration::MAX));
            for connection in self.sockets.iter_mut() {
                connection.read_ahead(time);
                if time != Some(Duration::ZERO) || is_over {
                    connection.writable |= std::mem::take(&mut connection.full);
                }
            }
            let before = ready.len();
            ready.extend(self.news());
            if has_ended || is_over || ready.len() > before {
                return Ok(Instant::now());
            }
        }
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

    /// Waits here until the connection is made.
    fn connect(&mut self, to: &Address, timeout: Duration) -> io::Result<Socket> {
        let stream = match to {
            Address::Tcp(to) => {
                // std refuses a timeout of zero.
                let stream = TcpStream::connect_timeout(to, timeout.max(TURN))?;
                // A socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(self.connect_unix(path, timeout)?),
        };
        either!(&stream, s => s.set_nonblocking(true))?;
        Ok(Socket(self.sockets.insert(Connection {
            stream,
            owner: 0,
            ahead: Vec::new(),
            end: None,
            writable: true,
            full: false,
        })))
    }

    fn connected(&mut self, socket: Socket) -> io::Result<bool> {
        self.get(socket).map(|_| true)
    }

    fn set_owner(&mut self, socket: Socket, owner: u64) {
        if let Some(connection) = self.sockets.get_mut(socket.0) {
            connection.owner = owner;
        }
    }

    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize> {
        self.get(socket)?.recv(into)
    }

    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        let connection = self.get(socket)?;
        let sent = undisturbed(|| either!(&mut connection.stream, s => s.write(bytes)));
        connection.full = sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        sent
    }

    fn shut_down(&mut self, socket: Socket) -> io::Result<()> {
        either!(&self.get(socket)?.stream, s => s.shutdown(Shutdown::Write))
    }

    fn has_ended(&mut self, socket: Socket) -> bool {
        let Ok(connection) = self.get(socket) else {
            return true;
        };
        connection.read_ahead(Some(Duration::ZERO));
        connection.ahead.is_empty() && matches!(connection.end, Some(Ok(())))
    }

    fn close(&mut self, socket: Socket) {
        self.sockets.remove(socket.0);
    }

    fn close_all(&mut self, _: u64) {
        // All sockets have the same owner.
        self.sockets = Slab::default();
    }

    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand {
        // No waker is needed: this thread itself waits.
        self.errands.start(name, file, || {})
    }

    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        self.errands.take(errand)
    }
}

impl StdWorld {
    fn get(&mut self, socket: Socket) -> io::Result<&mut Connection> {
        self.sockets.get_mut(socket.0).ok_or_else(closed)
    }

    /// The events to report.
    fn news(&mut self) -> impl Iterator<Item = Ready> {
        let keys = self.sockets.keys();
        keys.into_iter().filter_map(|key| {
            let connection = self.sockets.get_mut(key).filter(|c| c.has_news())?;
            Some(Ready {
                owner: connection.owner,
                socket: Socket(key),
                readable: connection.is_readable(),
                writable: std::mem::take(&mut connection.writable),
                ended: connection.end.is_some(),
                broken: matches!(connection.end, Some(Err(_))),
            })
        })
    }

    /// A connect that hangs is not begun a second time: its thread cannot be stopped, and every try would add another.
    fn connect_unix(&mut self, path: &Path, timeout: Duration) -> io::Result<UnixStream> {
        let pending = match self.pending.take() {
            Some((before, pending)) if before == path => pending,
            _ => start_connect(path)?,
        };
        pending.recv_timeout(timeout).unwrap_or_else(|_| {
            self.pending = Some((path.to_owned(), pending));
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl Connection {
    fn is_readable(&self) -> bool {
        !self.ahead.is_empty() || self.end.is_some()
    }

    fn has_news(&self) -> bool {
        self.is_readable() || self.writable
    }

    /// Waits up to `time` for bytes to read, if there are none yet; without limit for `None`.
    fn read_ahead(&mut self, time: Option<Duration>) {
        if self.is_readable() {
            return;
        }
        let mut bytes = [0; AHEAD_BYTES];
        let read = match time {
            Some(Duration::ZERO) => either!(&mut self.stream, s => s.read(&mut bytes)),
            _ => self.read_blocking(time, &mut bytes),
        };
        if let Ok(n) = self.note(read) {
            self.ahead.extend_from_slice(&bytes[..n]);
        }
    }

    fn read_blocking(&mut self, time: Option<Duration>, into: &mut [u8]) -> io::Result<usize> {
        either!(&self.stream, s => s.set_read_timeout(time))?;
        either!(&self.stream, s => s.set_nonblocking(false))?;
        let read = either!(&mut self.stream, s => s.read(into));
        either!(&self.stream, s => s.set_nonblocking(true))?;
        read
    }

    /// Returns the bytes read ahead, and then those that can be read now: a short read must mean that there are no
    /// more.
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.ahead.len().min(into.len());
        into[..n].copy_from_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        if n == into.len() {
            return Ok(n);
        }
        if self.end.is_none() {
            let read = undisturbed(|| either!(&mut self.stream, s => s.read(&mut into[n..])));
            match self.note(read) {
                Ok(more) if n + more > 0 => return Ok(n + more),
                Err(e) if n == 0 => return Err(e),
                _ => {}
            }
        }
        match self.end.take() {
            // First the bytes that came before it.
            end if n > 0 => {
                self.end = end;
                Ok(n)
            }
            // An error is reported once; from then on it is the end of the stream.
            Some(end) => {
                self.end = Some(Ok(()));
                end.map(|()| 0)
            }
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Keeps the end of the stream, which the system may report only once.
    fn note(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match read {
            Ok(0) => self.end = Some(Ok(())),
            Ok(n) => return Ok(n),
            Err(e) if matches!(e.kind(), WouldBlock | TimedOut | Interrupted) => return Err(e),
            Err(e) => self.end = Some(Err(e)),
        }
        Ok(0)
    }
}

/// Connects to a Unix socket, within `timeout`. std has no call for it, and a connect to a server that has stopped
/// accepting would block for ever.
///
/// # Errors
/// `TimedOut`, or what the operating system says.
pub fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let result = start_connect(path)?.recv_timeout(timeout);
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn start_connect(path: &Path) -> io::Result<PendingConnect> {
    let (send, result) = sync_channel(1);
    let path = path.to_owned();
    thread::Builder::new()
        .name("connector".to_owned())
        .spawn(move || {
            // After the timeout the receiver is gone, and the connection is closed.
            let _ = send.send(UnixStream::connect(&path));
        })
        .map_err(failed("start a thread to connect"))?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Accepted;
    use crate::net::tests::{self, wait_for};
    use std::net::TcpListener;

    #[test]
    fn a_store_is_reached_over_tcp() {
        tests::a_server_is_asked_and_answers_over_tcp(&mut StdWorld::default());
    }

    #[test]
    fn a_store_is_reached_over_a_unix_socket() {
        tests::a_server_is_asked_and_answers_over_a_unix_socket(&mut StdWorld::default());
    }

    #[test]
    fn a_connect_that_is_refused_is_an_error() {
        tests::a_connect_that_is_refused_is_an_error(&mut StdWorld::default());
    }

    #[test]
    fn a_peer_that_reads_late_gets_everything() {
        tests::a_peer_that_reads_late_gets_everything(&mut StdWorld::default());
    }

    #[test]
    fn a_name_ends_the_wait() {
        tests::a_name_ends_the_wait(&mut StdWorld::default());
    }

    #[test]
    fn a_wait_ends_when_it_should() {
        tests::a_wait_ends_when_it_should(&mut StdWorld::default());
    }

    #[test]
    fn there_are_no_clients() {
        assert_eq!(StdWorld::default().accepted(), Accepted::Closed);
    }

    #[test]
    fn of_several_sockets_the_one_that_has_something_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let mut world = StdWorld::default();
        let sockets = [0; 3].map(|_| world.connect(&address, Duration::from_secs(5)).unwrap());
        let mut servers = [0; 3].map(|_| listener.accept().unwrap().0);
        let mut ready = Vec::new();
        world.wait(None, &mut ready).unwrap();
        assert!(ready.iter().all(|r| r.writable) && ready.len() == 3, "{ready:?}");
        for n in [2, 0, 1] {
            servers[n].write_all(b"x").unwrap();
            ready.clear();
            world.wait(None, &mut ready).unwrap();
            assert_eq!(ready.iter().map(|r| r.socket).collect::<Vec<_>>(), [sockets[n]]);
            assert_eq!(world.recv(sockets[n], &mut [0; 8]).unwrap(), 1);
        }
    }

    #[test]
    fn what_was_read_ahead_and_what_came_later_are_one_stream_and_the_end_comes_last() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let mut world = StdWorld::default();
        let socket = world.connect(&address, Duration::from_secs(5)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"ahead").unwrap();
        wait_for(&mut world, socket, |ready| ready.readable && !ready.ended);
        server.write_all(b" and later").unwrap();
        drop(server);
        let mut bytes = [0; 64];
        assert!(!world.has_ended(socket));
        assert_eq!(world.recv(socket, &mut bytes[..3]).unwrap(), 3);
        assert_eq!(&bytes[..3], b"ahe");
        // Local, but still a network: the bytes may not all have arrived at once.
        let mut n = 3;
        while n < 15 {
            match world.recv(socket, &mut bytes[n..]) {
                Ok(0) => panic!("the end after {n} bytes"),
                Ok(more) => n += more,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(&bytes[..15], b"ahead and later");
        wait_for(&mut world, socket, |ready| ready.ended);
        assert!(world.has_ended(socket));
        assert_eq!(world.recv(socket, &mut bytes).unwrap(), 0);
        assert_eq!(world.recv(socket, &mut bytes).unwrap(), 0);
    }

    /// The queue of a listener can be shortened with socket2 only.
    #[cfg(feature = "poll")]
    #[test]
    fn a_connect_to_a_unix_socket_ends_in_time_and_is_not_begun_twice() {
        use socket2::{Domain, SockAddr, Type};
        let path = std::env::temp_dir().join(format!("kioskd-full-{}", std::process::id()));
        let listener = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(listener));
        let mut world = StdWorld::default();
        let address = Address::Unix(path.clone());
        let short = Duration::from_millis(20);
        let mut standing = Vec::new();
        loop {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            match socket.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => standing.push(socket),
                Err(e) => break assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(standing.len() < 10, "the queue is not short");
        }
        let stand = standing.len();
        assert_eq!(world.connect(&address, short).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(connect_unix(&path, short).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(world.connect(&address, short).is_err());
        // The established connections, the pending one, and the one whose caller gave up: no others.
        let accepting = thread::spawn(move || {
            (0..stand + 2).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>()
        });
        world.connect(&address, Duration::from_secs(10)).unwrap();
        assert!(world.pending.is_none());
        accepting.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
