//! Names to addresses, and files to passwords, off the loop.
//!
//! `getaddrinfo` can block for as long as a dead DNS server likes, and a file may lie on a mount
//! that hangs. So both are done on a thread of their own, and the loop is woken when they are. A
//! link has at most one such errand under way (it does not start a second before the first has
//! ended), so a dead DNS server costs one waiting thread for each link and nothing more. What needs
//! neither, an address written in numbers and a password that is known, needs no thread.

use super::credentials::Secret;
use super::endpoint::Endpoint;
use mio::Waker;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

/// The largest password file that is read.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// An errand that has ended or will.
#[derive(Debug)]
pub struct Lookup {
    result: Receiver<io::Result<Found>>,
}

/// What it brought.
#[derive(Debug)]
pub struct Found {
    /// Every address of the name; none for a Unix socket, which needs none.
    pub addresses: Vec<SocketAddr>,
    /// What was in the password file, if there is one.
    pub password: Option<Secret>,
}

impl Lookup {
    /// Starts for the server at `endpoint`; `waker` is woken when [`poll`](Lookup::poll) has the
    /// result.
    pub fn start(
        endpoint: &Endpoint,
        password_file: Option<&PathBuf>,
        waker: &Arc<Waker>,
    ) -> Lookup {
        let (send, result) = sync_channel(1);
        if let (Some(addresses), None) = (known_addresses(endpoint), password_file) {
            // Cannot fail: the channel has room for one and the receiver is in our hand.
            let _ = send.try_send(Ok(Found { addresses, password: None }));
            return Lookup { result };
        }
        let (endpoint, file, waker) = (endpoint.clone(), password_file.cloned(), Arc::clone(waker));
        let spawned = thread::Builder::new().name("resolver".to_owned()).spawn({
            let send = send.clone();
            move || {
                // The receiver may have gone with its worker: then nobody wants to know.
                let _ = send.send(find(&endpoint, file.as_deref()));
                let _ = waker.wake();
            }
        });
        if let Err(e) = spawned {
            let _ = send.try_send(Err(e));
        }
        Lookup { result }
    }

    /// The result, once it is there.
    pub fn poll(&self) -> Option<io::Result<Found>> {
        match self.result.try_recv() {
            Ok(found) => Some(found),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(io::Error::other("the resolver thread died")))
            }
        }
    }
}

fn known_addresses(endpoint: &Endpoint) -> Option<Vec<SocketAddr>> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            Some(vec![SocketAddr::new(host.parse::<IpAddr>().ok()?, *port)])
        }
        Endpoint::Unix(_) => Some(Vec::new()),
    }
}

fn find(endpoint: &Endpoint, file: Option<&Path>) -> io::Result<Found> {
    let password = file.map(read_password).transpose()?;
    let addresses = match (known_addresses(endpoint), endpoint) {
        (Some(addresses), _) => addresses,
        (None, Endpoint::Tcp { host, port }) => (host.as_str(), *port).to_socket_addrs()?.collect(),
        (None, Endpoint::Unix(_)) => Vec::new(),
    };
    Ok(Found { addresses, password })
}

/// Reads a password from a file. A line break at the end is no part of it: editors and `echo` put
/// one there.
///
/// # Errors
/// When the file cannot be read, is empty, is not UTF-8 or larger than 64 KiB.
pub fn read_password(path: &Path) -> io::Result<Secret> {
    let told = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!("failed to read the password file {}: {e}", path.display()),
        )
    };
    let length = std::fs::metadata(path).map_err(told)?.len();
    if length > PASSWORD_BYTES_MAX {
        return Err(told(io::Error::other("it is too large to hold a password")));
    }
    let text = std::fs::read_to_string(path).map_err(told)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(told(io::Error::other("it is empty"))),
        password => Ok(Secret::new(password)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port: 6379 };
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let lookup = Lookup::start(&endpoint, None, &waker);
        let mut events = Events::with_capacity(4);
        loop {
            if let Some(found) = lookup.poll() {
                return found.map(|f| f.addresses);
            }
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        }
    }

    #[test]
    fn a_number_needs_no_thread_and_a_name_wakes_the_loop() {
        assert_eq!(look_up("127.0.0.1").unwrap(), ["127.0.0.1:6379".parse().unwrap()]);
        assert_eq!(look_up("::1").unwrap(), ["[::1]:6379".parse().unwrap()]);
        assert!(look_up("localhost").unwrap().iter().all(|a| a.ip().is_loopback()));
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        assert!(look_up("no such name").is_err());
    }

    #[test]
    fn a_password_is_read_without_its_line_break_and_an_empty_one_is_none() {
        let path = std::env::temp_dir().join(format!("kioskd-password-{}", std::process::id()));
        for (text, password) in [
            ("s3cret\n", Some("s3cret")),
            ("s3cret", Some("s3cret")),
            (" s3 \r\n", Some(" s3 ")),
            ("\n", None),
            ("", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                read_password(&path).ok().map(|p| p.expose().to_owned()).as_deref(),
                password,
                "{text:?}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        assert!(
            read_password(&path)
                .unwrap_err()
                .to_string()
                .contains("failed to read the password file")
        );
    }
}
