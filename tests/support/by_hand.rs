//! A server whose every connection a test plays by hand, for what [`FakeRedis`](super::FakeRedis) cannot do: not
//! reading, not accepting, resetting.

use std::io::{BufReader, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::fake_redis::read_value;

/// A listening server. A connection's thread ends when the test's function does.
pub struct ByHand {
    address: String,
    accepted: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

/// One connection of it.
pub struct Caller {
    /// Counts from 1.
    pub number: usize,
    pub stream: TcpStream,
}

impl ByHand {
    /// Calls `play` for each connection, on a thread of its own. An error there is the other side going away.
    pub fn start(play: impl Fn(&mut Caller) -> Result<()> + Send + Sync + 'static) -> ByHand {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let (accepted, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, play) = (Arc::clone(&accepted), Arc::clone(&stopped), Arc::new(play));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                // Two writes in a row are two segments, and the second does not wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                let play = Arc::clone(&play);
                std::thread::spawn(move || play(&mut Caller { number, stream }));
            }
        });
        ByHand { address, accepted, stopped }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.clone()
    }

    /// How many connections there were.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

impl Caller {
    /// The next command, and not a byte more: what follows stays in the kernel.
    pub fn command(&mut self) -> Result<Vec<String>> {
        read_value(&mut BufReader::with_capacity(1, &self.stream))
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Lets the client in: HELLO and PING.
    pub fn let_in(&mut self) -> Result<()> {
        self.command()?;
        self.say(HELLO)?;
        self.command()?;
        self.say("+PONG\r\n")
    }

    /// An empty server from here on.
    pub fn serve(&mut self) -> Result<()> {
        loop {
            let reply: &[u8] = match self.command()?[0].as_str() {
                "HELLO" => HELLO,
                "PING" => b"+PONG\r\n",
                "GET" | "GETEX" => b"$-1\r\n",
                "DEL" => b":0\r\n",
                _ => b"+OK\r\n",
            };
            self.say(reply)?;
        }
    }
}

/// The answer to `HELLO 3`, as short as it may be.
pub const HELLO: &[u8] = b"%1\r\n$5\r\nproto\r\n:3\r\n";
