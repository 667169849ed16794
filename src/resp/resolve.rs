//! Names to addresses, off the loop.
//!
//! `getaddrinfo` can block for as long as a dead DNS server likes, so a name is looked up on a
//! thread of its own; the loop is woken when it is done. A session has at most one look-up under
//! way (it does not start a second before the first has ended), so a dead DNS server costs one
//! waiting thread for each worker and nothing more. Addresses written as numbers need no thread.

use mio::Waker;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

/// A look-up that has ended or will.
#[derive(Debug)]
pub struct Lookup {
    result: Receiver<io::Result<Vec<SocketAddr>>>,
}

impl Lookup {
    /// Starts to look `host` up; `waker` is woken when [`poll`](Lookup::poll) has the result.
    pub fn start(host: &str, port: u16, waker: &Arc<Waker>) -> Lookup {
        let (send, result) = sync_channel(1);
        if let Ok(ip) = host.parse::<IpAddr>() {
            // Cannot fail: the channel has room for one and the receiver is in our hand.
            let _ = send.try_send(Ok(vec![SocketAddr::new(ip, port)]));
            return Lookup { result };
        }
        let (name, waker) = (host.to_owned(), Arc::clone(waker));
        let spawned = thread::Builder::new().name("resolver".to_owned()).spawn({
            let send = send.clone();
            move || {
                let found = (name.as_str(), port)
                    .to_socket_addrs()
                    .map(Iterator::collect);
                // The receiver may have gone with its worker: then nobody wants to know.
                let _ = send.send(found);
                let _ = waker.wake();
            }
        });
        if let Err(e) = spawned {
            let _ = send.try_send(Err(e));
        }
        Lookup { result }
    }

    /// The addresses, once they are there.
    pub fn poll(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        match self.result.try_recv() {
            Ok(found) => Some(found),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(io::Error::other("the resolver thread died")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let lookup = Lookup::start(host, 6379, &waker);
        let mut events = Events::with_capacity(4);
        loop {
            if let Some(found) = lookup.poll() {
                return found;
            }
            poll.poll(&mut events, Some(Duration::from_secs(60)))
                .unwrap();
        }
    }

    #[test]
    fn a_number_needs_no_thread_and_a_name_wakes_the_loop() {
        assert_eq!(
            look_up("127.0.0.1").unwrap(),
            ["127.0.0.1:6379".parse().unwrap()]
        );
        assert_eq!(look_up("::1").unwrap(), ["[::1]:6379".parse().unwrap()]);
        assert!(
            look_up("localhost")
                .unwrap()
                .iter()
                .all(|a| a.ip().is_loopback())
        );
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        assert!(look_up("no such name").is_err());
    }
}
