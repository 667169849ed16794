//! A port for one server of one test, its own also while the server is down.
//!
//! ```text
//! 10000 ─────────────────────── 32767 │ 32768 ────────────────────── 60999
//! handed out here, held by a UDP      │ handed out by the kernel to whoever binds port 0
//! socket on the port of that number   │ or connects: never on this side
//! ```
//!
//! A server that was killed comes back to its port. If the kernel could give it away meanwhile, kioskd would find the
//! Redis of another test there; with many tests at a time that happens. Who else runs these tests on this machine sees the
//! UDP socket, and takes another port.

use std::net::{TcpListener, UdpSocket};
use std::sync::{Mutex, OnceLock, PoisonError};

const LOWEST: u16 = 10_000;

/// Held until dropped.
pub struct Port {
    number: u16,
    _held: UdpSocket,
}

impl Port {
    /// The next one on which nobody listens.
    #[track_caller]
    pub fn take() -> Port {
        static NEXT: OnceLock<Mutex<u16>> = OnceLock::new();
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let first = range.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        let end = first.filter(|first| *first > LOWEST + 1000).unwrap_or(32_768);
        // Not all runs need to begin at the same place.
        let somewhere = std::process::id() * 797 % u32::from(end - LOWEST);
        let next = NEXT.get_or_init(|| Mutex::new(LOWEST + somewhere as u16));
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in LOWEST..end {
            *next = if *next + 1 < end { *next + 1 } else { LOWEST };
            let number = *next;
            let held = UdpSocket::bind(("127.0.0.1", number));
            if let (Ok(held), Ok(_)) = (held, TcpListener::bind(("127.0.0.1", number))) {
                return Port { number, _held: held };
            }
        }
        panic!("no port from {LOWEST} to {end} is free");
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
