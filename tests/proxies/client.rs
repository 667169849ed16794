//! One client: it says all of a stream, whatever it hears, and listens to the end.

use crate::relay;
use crate::scene::Scene;
use crate::streams::{Piece, Stream};
use crate::support::hostile::connect;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What one client was told.
pub struct Told {
    pub seed: u64,
    /// The ports of its connection, as in the ids.
    pub client: String,
    pub ids: Vec<String>,
    pub took: Duration,
    /// It waited, and neither an end nor an answer came.
    pub hangs: bool,
}

/// Plays a stream at one of the proxy's doors.
pub fn play(stream: &Stream, scene: &Scene) -> Told {
    let start = Instant::now();
    let mut socket = connect(&scene.proxy.doors[stream.door]);
    socket.set_read_timeout(Some(scene.patience)).expect("a TCP socket can");
    let port = |address: std::io::Result<SocketAddr>| address.map_or(0, |address| address.port());
    let client = format!("{}.{}", port(socket.peer_addr()), port(socket.local_addr()));
    for piece in &stream.pieces {
        match piece {
            // The stream consists of it: nothing is waited for.
            Piece::Pause => std::thread::sleep(Duration::from_millis(3)),
            // The proxy may have had enough.
            Piece::Bytes(bytes) if socket.write_all(bytes).is_err() => break,
            Piece::Bytes(_) => {}
        }
    }
    let (mut heard, mut hangs) = (Vec::new(), false);
    if stream.leaves {
        leave(&socket);
    } else {
        let end = socket.read_to_end(&mut heard);
        hangs = end.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    }
    // A body says it again.
    let mut ids = relay::ids(&heard, &scene.mark);
    ids.dedup();
    Told { seed: stream.seed, client, ids, hangs, took: start.elapsed() }
}

/// By a reset: what it has not been told, it will not be.
fn leave(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
