//! The one interface to the operating system: the trait [`World`], and its implementations.
//!
//! ```text
//! acceptor ── Client ──▶ Inbox ─┐
//!                               ├─▶ MioWorld ─ &mut dyn World ─▶ a worker: its clients, its store session
//! resolver threads ─ Found ─────┘   StdWorld ─ &mut dyn World ─▶ a store session that is waited for
//! ```
//!
//! `MioWorld` waits for any number of sockets (feature `poll`, on by default). [`StdWorld`] is for one thread that
//! waits on one socket, with nothing but std. Both look names up on threads of their own (`look_up`), and identify
//! sockets by keys of a [`Slab`], which are never given out twice. The meaning of the bytes is left to the callers.

mod call;
mod look_up;
#[cfg(feature = "poll")]
mod mio;
mod random;
mod slab;
mod std;
mod system;
mod world;

#[cfg(feature = "poll")]
pub use self::mio::{Client, Inbox, MioWorld, Stream, Waker};
pub use self::std::{StdWorld, connect_unix};
pub use call::{call_tcp, call_unix};
pub use look_up::read_file;
pub use random::Random;
pub use slab::Slab;
pub use system::{failed, undisturbed};
pub use world::{Accepted, Address, Errand, Found, Ready, Socket, World};

use ::std::io;

/// A world for a thread that has no clients and waits for one store session.
///
/// # Errors
/// The operating system has no file descriptor left.
pub fn for_calls() -> io::Result<Box<dyn World>> {
    #[cfg(feature = "poll")]
    return Ok(Box::new(MioWorld::for_calls()?));
    #[cfg(not(feature = "poll"))]
    return Ok(Box::new(StdWorld::default()));
}

/// What both implementations promise.
#[cfg(test)]
mod tests {
    use super::*;
    use ::std::io::{Read, Write};
    use ::std::net::TcpListener;
    use ::std::os::unix::net::UnixListener;
    use ::std::path::Path;
    use ::std::sync::mpsc::channel;
    use ::std::time::{Duration, Instant};
    use ::std::{env, fs, process, thread};

    const LONG: Duration = Duration::from_secs(20);

    /// Waits for an event of a socket.
    pub fn wait_for(world: &mut dyn World, socket: Socket, is: impl Fn(&Ready) -> bool) -> Ready {
        let (mut ready, began) = (Vec::new(), Instant::now());
        while began.elapsed() < LONG {
            world.wait(Some(began + LONG), &mut ready).unwrap();
            if let Some(event) = ready.drain(..).find(|event| event.socket == socket && is(event)) {
                return event;
            }
        }
        panic!("nothing of the kind has come");
    }

    fn connect(world: &mut dyn World, address: &Address) -> Socket {
        let socket = world.connect(address, LONG).unwrap();
        world.set_owner(socket, 42);
        while !world.connected(socket).unwrap() {
            wait_for(world, socket, |ready| ready.writable);
        }
        socket
    }

    /// Reads to the end.
    fn read_all(world: &mut dyn World, socket: Socket) -> Vec<u8> {
        let (mut all, mut bytes) = (Vec::new(), vec![0; 10_000]);
        loop {
            match world.recv(socket, &mut bytes) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let event = wait_for(world, socket, |ready| ready.readable || ready.ended);
                    assert_eq!(event.owner, 42);
                }
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Sends a request, and reads an answer that is larger than any buffer here.
    fn ask(world: &mut dyn World, address: &Address) {
        let socket = connect(world, address);
        let mut none = [0; 4];
        assert_eq!(world.recv(socket, &mut none).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(world.send(socket, b"question").unwrap(), 8);
        assert_eq!(read_all(world, socket), [b'x'; 100_000]);
        assert!(world.has_ended(socket));
        world.close(socket);
        assert!(world.recv(socket, &mut none).is_err());
        assert!(world.send(socket, b"x").is_err());
    }

    fn answer(mut stream: impl Read + Write) {
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        for part in [b'x'; 100_000].chunks(30_000) {
            thread::sleep(Duration::from_millis(1));
            stream.write_all(part).unwrap();
        }
    }

    pub fn a_server_is_asked_and_answers_over_tcp(world: &mut dyn World) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0));
        ask(world, &Address::Tcp(address));
        server.join().unwrap();
    }

    pub fn a_server_is_asked_and_answers_over_a_unix_socket(world: &mut dyn World) {
        let thread = thread::current().id();
        let path = env::temp_dir().join(format!("kioskd-net-{}-{thread:?}", process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0));
        ask(world, &Address::Unix(path.clone()));
        server.join().unwrap();
        fs::remove_file(path).unwrap();
    }

    pub fn a_connect_that_is_refused_is_an_error(world: &mut dyn World) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let error = match world.connect(&address, LONG) {
            Err(e) => e,
            Ok(socket) => {
                wait_for(world, socket, |ready| ready.writable || ready.broken);
                world.connected(socket).unwrap_err()
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = Address::Unix("/does/not/exist".into());
        assert_eq!(world.connect(&nowhere, LONG).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    pub fn a_peer_that_reads_late_gets_everything(world: &mut dyn World) {
        const BYTES: usize = 16 * 1024 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (start, started) = channel();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            started.recv().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        let socket = connect(world, &address);
        let (bytes, mut sent) = (vec![b'x'; BYTES], 0);
        while sent < BYTES {
            match world.send(socket, &bytes[sent..]) {
                Ok(n) => sent += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    start.send(()).unwrap();
                    wait_for(world, socket, |ready| ready.writable);
                }
            }
        }
        world.shut_down(socket).unwrap();
        assert_eq!(server.join().unwrap(), BYTES);
        assert!(read_all(world, socket).is_empty());
    }

    pub fn a_name_ends_the_wait(world: &mut dyn World) {
        let errand = world.look_up(Some(("localhost", 1)), Some((Path::new("/dev/null"), 10)));
        let until = Instant::now() + LONG;
        let found = loop {
            if let Some(found) = world.looked_up(errand) {
                break found.unwrap();
            }
            assert!(world.wait(Some(until), &mut Vec::new()).unwrap() < until);
        };
        assert!(!found.addresses.is_empty());
        assert_eq!(found.file, Some(Vec::new()));
    }

    pub fn a_wait_ends_when_it_should(world: &mut dyn World) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wait = Duration::from_millis(30);
        for open in [0, 1, 2] {
            for _ in 0..open {
                connect(world, &Address::Tcp(listener.local_addr().unwrap()));
            }
            let mut ready = Vec::new();
            // Takes the events that report the new sockets as writable.
            world.wait(Some(Instant::now()), &mut ready).unwrap();
            ready.clear();
            let began = Instant::now();
            let now = world.wait(Some(began + wait), &mut ready).unwrap();
            assert_eq!(ready, []);
            assert!(now >= began + wait && now <= Instant::now());
        }
    }
}
