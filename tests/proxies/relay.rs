//! What passes between a proxy and its server, written down and judged while it passes.
//!
//! ```text
//! proxy ──up──▶ relay ──▶ kioskd      up    GET /items/s7-1 … X-Request-Id: MARK-18001.40312-1f…
//!       ◀─down─       ◀──             down  404 …             X-Request-Id: MARK-18001.40312-1f…
//! ```
//!
//! The proxy puts an id of its own into every request it forwards, in the place of the client's. No client can know the
//! mark that these ids begin with, so each id on the wire is one request as the proxy understood it; and kioskd gives the
//! id back with the answer. Bytes are written down before they are passed on, so what is written down here about an
//! answer is no later than what the proxy knows.
//!
//! No proxy we know sends a request before the last one on that connection is answered. So between two answers there is
//! one request, and it must be whole for a [third reader](super::reading) when it is answered.

use super::reading::{self, Answer, Request, find};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A little less than a proxy's patience with its server.
const LATE: Duration = Duration::from_secs(3);

/// A listening relay. Its threads end with the connections they carry.
pub struct Relay {
    address: String,
    ledger: Arc<Ledger>,
    stopped: Arc<AtomicBool>,
}

/// A request that the proxy forwarded, and what became of it.
#[derive(Debug)]
pub struct Turn {
    /// Counts what is forwarded from 1, in the order in which it began.
    pub number: usize,
    /// The id that the proxy gave it; empty if it did not come so far.
    pub id: String,
    /// Its request line.
    pub line: String,
    pub answer: Option<Answer>,
}

#[derive(Default)]
struct Ledger {
    mark: String,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    turns: Vec<Turn>,
    begun: usize,
    faults: Vec<String>,
    /// Conversations in which a request has begun and has no answer.
    waiting: usize,
    connections: usize,
}

impl Relay {
    /// In front of the server that listens on this Unix socket. `mark` begins every id of the proxy.
    pub fn start(server: &str, mark: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let ledger = Arc::new(Ledger { mark: mark.to_owned(), ..Ledger::default() });
        let stopped = Arc::new(AtomicBool::new(false));
        let (for_thread, stop, path) =
            (Arc::clone(&ledger), Arc::clone(&stopped), server.to_owned());
        std::thread::spawn(move || {
            for proxy in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let server = UnixStream::connect(&path).expect("the server outlives the relay");
                carry(&for_thread, proxy, server);
            }
        });
        Relay { address, ledger, stopped }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.clone()
    }

    /// Whether every request that has begun is over.
    pub fn is_quiet(&self) -> bool {
        self.ledger.pages().waiting == 0
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.ledger.pages().connections
    }

    /// What is over since the last call, in the order in which it began, and what was wrong with it.
    pub fn take(&self) -> (Vec<Turn>, Vec<String>) {
        let mut pages = self.ledger.pages();
        pages.turns.sort_unstable_by_key(|turn| turn.number);
        (std::mem::take(&mut pages.turns), std::mem::take(&mut pages.faults))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no pump panics")
    }
}

fn carry(ledger: &Arc<Ledger>, proxy: TcpStream, server: UnixStream) {
    let _ = proxy.set_nodelay(true);
    ledger.pages().connections += 1;
    let talk = Arc::new(Mutex::new(Conversation::default()));
    let (mut from, mut to) =
        (proxy.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
    let (up, up_ledger) = (Arc::clone(&talk), Arc::clone(ledger));
    std::thread::spawn(move || {
        each_read(&mut from, |bytes| {
            up.lock().expect("no pump panics").hear_proxy(bytes, &up_ledger);
            to.write_all(bytes).is_ok()
        });
        up.lock().expect("no pump panics").proxy_has_ended = true;
        // The server may still have something to say, which is to be written down though nobody takes it.
        let _ = to.shutdown(Shutdown::Write);
    });
    let (ledger, mut from, mut to) = (Arc::clone(ledger), server, proxy);
    std::thread::spawn(move || {
        each_read(&mut from, |bytes| {
            talk.lock().expect("no pump panics").hear_server(bytes, &ledger);
            let _ = to.write_all(bytes);
            true
        });
        talk.lock().expect("no pump panics").end(&ledger);
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn each_read(from: &mut impl Read, mut pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !pass(&buffer[..n]) {
            return;
        }
    }
}

/// One connection between the proxy and the server.
#[derive(Default)]
struct Conversation {
    /// From the proxy since the last answer.
    up: Vec<u8>,
    /// Of the request that these are, and when it began.
    number: usize,
    began: Option<Instant>,
    /// From the server: an answer that is not whole.
    down: Vec<u8>,
    proxy_has_ended: bool,
    /// The server has said that it closes.
    is_closing: bool,
    over: bool,
}

impl Conversation {
    fn hear_proxy(&mut self, bytes: &[u8], ledger: &Ledger) {
        if self.is_closing || self.over {
            return;
        }
        if self.up.is_empty() {
            let mut pages = ledger.pages();
            pages.waiting += 1;
            pages.begun += 1;
            self.number = pages.begun;
            self.began = Some(Instant::now());
        }
        self.up.extend_from_slice(bytes);
    }

    fn hear_server(&mut self, bytes: &[u8], ledger: &Ledger) {
        self.down.extend_from_slice(bytes);
        while let Some(read) = reading::answer(&self.down, self.up.starts_with(b"HEAD ")) {
            match read {
                Err(why) => {
                    ledger.pages().faults.push(format!("{why}: {}", self.down.escape_ascii()));
                    self.down.clear();
                    return;
                }
                Ok(answer) => {
                    self.down.drain(..answer.len);
                    // An interim response belongs to the answer that follows.
                    if answer.status >= 200 {
                        self.judge(answer, ledger);
                    }
                }
            }
        }
    }

    /// An answer is whole: was there one request for it, all of it?
    fn judge(&mut self, answer: Answer, ledger: &Ledger) {
        let mut pages = ledger.pages();
        let up = std::mem::take(&mut self.up);
        let ids = ids(&up, &ledger.mark);
        let request = reading::request(&up);
        // It may not have come as far as the id, and need not have all of the body.
        let is_refusal = answer.closes && answer.status >= 400;
        let has_own_id = !answer.id.starts_with(&ledger.mark);
        let is_whole = request == Request::Whole(up.len());
        let is_late = self.began.is_some_and(|began| began.elapsed() > LATE);
        let why = if self.is_closing {
            Some("an answer after the last")
        } else if up.is_empty() {
            Some("an answer that nobody has asked for")
        } else if ids.len() > 1 || ids.is_empty() && !is_whole {
            Some("not one request between two answers")
        } else if ids.first() != Some(&answer.id) && !((is_refusal || ids.is_empty()) && has_own_id)
        {
            Some("an answer to something else")
        } else if !is_whole && !is_refusal {
            Some("an answer to what is not exactly one whole request")
        } else if is_whole && answer.status == 400 && self.proxy_has_ended && is_late {
            Some("the server waited for more until the proxy gave up")
        } else {
            None
        };
        if let Some(why) = why {
            pages.faults.push(format!("{why} ({request:?}): {} -> {answer:?}", up.escape_ascii()));
        }
        if !up.is_empty() {
            pages.waiting -= 1;
        }
        self.is_closing = answer.closes;
        let id = ids.into_iter().next().unwrap_or_default();
        pages.turns.push(Turn {
            number: self.number,
            id,
            line: first_line(&up),
            answer: Some(answer),
        });
    }

    /// The server has closed.
    fn end(&mut self, ledger: &Ledger) {
        let mut pages = ledger.pages();
        self.over = true;
        if !self.down.is_empty() {
            pages.faults.push(format!("half an answer: {}", self.down.escape_ascii()));
        }
        if self.up.is_empty() {
            return;
        }
        pages.waiting -= 1;
        let request = reading::request(&self.up);
        if request != Request::Part {
            pages.faults.push(format!("no answer ({request:?}): {}", self.up.escape_ascii()));
        }
        let id = ids(&self.up, &ledger.mark).into_iter().next().unwrap_or_default();
        pages.turns.push(Turn {
            number: self.number,
            id,
            line: first_line(&self.up),
            answer: None,
        });
    }
}

/// The ids that begin with this mark, in their order. One that ends with the bytes may be cut, and is left out.
pub fn ids(mut bytes: &[u8], mark: &str) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(at) = find(bytes, mark.as_bytes()) {
        let is_id = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let len = bytes[at..].iter().take_while(|b| is_id(b)).count();
        if at + len < bytes.len() {
            ids.push(String::from_utf8_lossy(&bytes[at..at + len]).into_owned());
        }
        bytes = &bytes[at + len..];
    }
    ids
}

fn first_line(bytes: &[u8]) -> String {
    let end = find(bytes, b"\r\n").unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
