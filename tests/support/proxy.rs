//! A TCP proxy that does to a conversation what networks do: cuts it, swallows it, slows it down.
//!
//! ```text
//! kioskd ──up──▶ Proxy ──up──▶ redis-server
//!        ◀─down─       ◀─down─
//! ```
//!
//! The server behind it is a real one, so what arrives there has effects that a test can look at.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The end of a connection: when exactly this many bytes have passed in this direction.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub way: Way,
    pub after: usize,
}

/// A listening proxy. Its threads end with the connections they carry.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    target: String,
    /// For the connections to come, in their order.
    cuts: VecDeque<Cut>,
    links: Vec<Link>,
    accepted: usize,
    stopped: bool,
}

struct Link {
    client: TcpStream,
    server: TcpStream,
    mood: Arc<Mood>,
}

/// How the bytes of one connection are treated.
#[derive(Default)]
struct Mood {
    swallow: AtomicBool,
    drip: Mutex<Option<Duration>>,
    /// What comes from the client is kept here from this word on.
    hold: Mutex<Option<String>>,
    held: AtomicBool,
    released: Condvar,
}

impl Proxy {
    /// In front of the server at `target`.
    pub fn start(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let shared = Arc::new(Shared::default());
        shared.lock().target = target.to_owned();
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !for_thread.carry(client) {
                    return;
                }
            }
        });
        Proxy { address, shared }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.clone()
    }

    /// New connections lead there from now on: a balancer, or a name that stands for another machine.
    pub fn lead_to(&self, target: &str) {
        self.shared.lock().target = target.to_owned();
    }

    /// Ends the next connection there will be as `cut` says; with several, each has its turn.
    pub fn cut_next(&self, cut: Cut) {
        self.shared.lock().cuts.push_back(cut);
    }

    /// Closes every connection there is. When this returns the client's kernel knows.
    pub fn cut_all(&self) {
        for link in self.shared.lock().links.drain(..) {
            link.close();
        }
    }

    /// From now on nothing passes on the present connections, though they stay; new ones work.
    pub fn swallow_all(&self) {
        for link in &self.shared.lock().links {
            link.mood.swallow.store(true, Ordering::SeqCst);
        }
    }

    /// From now on the present connections bring replies a byte at a time, this far apart.
    pub fn drip_all(&self, pause: Duration) {
        for link in &self.shared.lock().links {
            *link.mood.drip.lock().expect("no pump panics") = Some(pause);
        }
    }

    /// What comes from the client on the present connections is kept back as soon as `word` is in it.
    pub fn hold_all(&self, word: &str) {
        for link in &self.shared.lock().links {
            *link.mood.hold.lock().expect("no pump panics") = Some(word.to_owned());
        }
    }

    /// Whether something has been kept back.
    pub fn has_held(&self) -> bool {
        let links = &self.shared.lock().links;
        links.iter().any(|link| link.mood.held.load(Ordering::SeqCst))
    }

    /// What was kept back goes on its way, though the client may have gone by now: a network that was slow.
    pub fn release_all(&self) {
        for link in &self.shared.lock().links {
            link.mood.release();
        }
    }

    /// How many connections there were.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.cut_all();
        // Wakes the thread in accept(), so that it sees `stopped` and closes the port.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no pump panics")
    }

    /// False when the proxy has ended.
    fn carry(&self, client: TcpStream) -> bool {
        let mut state = self.lock();
        if state.stopped {
            return false;
        }
        state.accepted += 1;
        let cut = state.cuts.pop_front();
        // A server that is down: the client sees its connection closed, as through any proxy.
        let Ok(server) = TcpStream::connect(&state.target) else {
            return true;
        };
        let mood = Arc::new(Mood::default());
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let end = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
        for way in [Way::Up, Way::Down] {
            let left = cut.filter(|cut| cut.way == way).map(|cut| cut.after);
            let (from, to) = match way {
                Way::Up => (end(&client), end(&server)),
                Way::Down => (end(&server), end(&client)),
            };
            let mood = Arc::clone(&mood);
            std::thread::spawn(move || {
                let _ = pump(&from, &to, left, &mood, way);
                for stream in [from, to] {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        }
        state.links.push(Link { client, server, mood });
        true
    }
}

impl Mood {
    /// Waits as long as these bytes are to be kept back.
    fn pass(&self, bytes: &[u8]) {
        let hold = self.hold.lock().expect("no pump panics");
        let has = |word: &String| bytes.windows(word.len()).any(|part| part == word.as_bytes());
        if hold.as_ref().is_some_and(has) {
            self.held.store(true, Ordering::SeqCst);
            drop(self.released.wait_while(hold, |hold| hold.is_some()));
        }
    }

    fn release(&self) {
        *self.hold.lock().expect("no pump panics") = None;
        self.released.notify_all();
    }
}

impl Link {
    fn close(&self) {
        self.mood.release();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    mut left: Option<usize>,
    mood: &Mood,
    way: Way,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while left != Some(0) {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if mood.swallow.load(Ordering::SeqCst) {
            continue;
        }
        if way == Way::Up {
            mood.pass(&buffer[..n]);
        }
        let n = left.map_or(n, |left| left.min(n));
        left = left.map(|left| left - n);
        let drip = *mood.drip.lock().expect("no pump panics");
        match drip {
            Some(pause) if way == Way::Down => {
                for byte in &buffer[..n] {
                    to.write_all(std::slice::from_ref(byte))?;
                    std::thread::sleep(pause);
                }
            }
            _ => to.write_all(&buffer[..n])?,
        }
    }
    Ok(())
}
