//! One request to a server, and the beginning of its answer: for a program that asks once and ends.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

/// Sends `request` to the first address that can be reached, and reads until `is_enough`, the end, or 64 KiB. In all it
/// takes no longer than `timeout`, after the name has been resolved.
///
/// # Errors
/// As the operating system says: of several addresses, of the last one.
pub fn call_tcp(
    to: impl ToSocketAddrs,
    request: &[u8],
    timeout: Duration,
    is_enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let addresses = to.to_socket_addrs()?;
    let until = Instant::now() + timeout;
    let mut failed = io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => {
                let set = |left| stream.set_read_timeout(left).and(stream.set_write_timeout(left));
                return exchange(&stream, set, request, until, is_enough);
            }
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// As [`call_tcp`], over a Unix socket.
///
/// # Errors
/// As there.
pub fn call_unix(
    path: &Path,
    request: &[u8],
    timeout: Duration,
    is_enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let until = Instant::now() + timeout;
    let stream = super::connect_unix(path, timeout)?;
    let set = |left| stream.set_read_timeout(left).and(stream.set_write_timeout(left));
    exchange(&stream, set, request, until, is_enough)
}

fn exchange(
    mut stream: impl Read + Write,
    set_timeouts: impl Fn(Option<Duration>) -> io::Result<()>,
    request: &[u8],
    until: Instant,
    is_enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    set_timeouts(Some(left(until)?))?;
    stream.write_all(request)?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 4096]);
    while !is_enough(&answer) && answer.len() < 64 * 1024 {
        set_timeouts(Some(left(until)?))?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(e) => return Err(e),
        }
    }
    Ok(answer)
}

/// What is left of the time: zero is no timeout for a socket, but none at all.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
