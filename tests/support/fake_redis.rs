//! A Redis that says what the test wants: late, in pieces, wrong, nothing, or goodbye.
//!
//! It reads the commands properly (an array of bulk strings, as every client sends them) and asks the test's function
//! what to do with each. The function answers with an [`Act`], for instance:
//!
//! ```text
//! let fake = FakeRedis::start(|command| match command[0].as_str() {
//!     "GET" => Act::Hold(b"$2\r\n{}\r\n".to_vec()),   // a request is now in flight …
//!     _ => Act::Usual,
//! });
//! …
//! fake.wait_for("GET");
//! fake.release();                                       // … and is answered here
//! ```

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// What the fake does with one command.
pub enum Act {
    /// What an empty server would answer to the commands of a polite client; `+OK` to what it does not know.
    Usual,
    /// These bytes, whatever they are.
    Send(Vec<u8>),
    /// Each piece in a write of its own.
    Pieces(Vec<Vec<u8>>),
    /// These bytes, once [`FakeRedis::release`] is called. Commands behind it on the same connection wait too.
    Hold(Vec<u8>),
    /// Nothing, though the connection stays.
    Silence,
    /// Closes the connection.
    Close,
}

type Script = dyn Fn(&[String]) -> Act + Send + Sync;

/// A listening fake. Its threads end with the connections they serve.
pub struct FakeRedis {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    commands: Vec<Vec<String>>,
    connections: Vec<TcpStream>,
    released: bool,
    stopped: bool,
}

impl FakeRedis {
    pub fn start(script: impl Fn(&[String]) -> Act + Send + Sync + 'static) -> FakeRedis {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let shared = Arc::new(Shared::default());
        let script: Arc<Script> = Arc::new(script);
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &for_thread, &script));
        FakeRedis { address, shared }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.clone()
    }

    /// Waits until a command of this name has arrived (upper case), and returns the first such.
    #[track_caller]
    pub fn wait_for(&self, name: &str) -> Vec<String> {
        let state = self.shared.state.lock().expect("no script panics");
        let missing = |state: &mut State| !state.commands.iter().any(|command| command[0] == name);
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, missing);
        let (state, _) = waited.expect("no script panics");
        let found = state.commands.iter().find(|command| command[0] == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} arrived, only {:?}", state.commands))
    }

    /// Every command so far, in the order of arrival over all connections.
    pub fn commands(&self) -> Vec<Vec<String>> {
        self.shared.state.lock().expect("no script panics").commands.clone()
    }

    /// Sends what [`Act::Hold`] holds back, now and from now on.
    pub fn release(&self) {
        self.shared.state.lock().expect("no script panics").released = true;
        self.shared.changed.notify_all();
    }

    /// Closes every connection there is; new ones are accepted.
    pub fn close_all(&self) {
        for connection in self.shared.state.lock().expect("no script panics").connections.drain(..)
        {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FakeRedis {
    fn drop(&mut self) {
        self.shared.state.lock().expect("no script panics").stopped = true;
        self.release();
        self.close_all();
        // Wakes the thread in accept(), so that it sees `stopped` and closes the port.
        let _ = TcpStream::connect(&self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<Script>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let mut state = shared.state.lock().expect("no script panics");
        if state.stopped {
            return;
        }
        state.connections.extend(stream.try_clone());
        drop(state);
        let (shared, script) = (Arc::clone(shared), Arc::clone(script));
        std::thread::spawn(move || {
            // An error here is the other side going away, which is its right.
            let _ = serve(&stream, &shared, &script);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared, script: &Arc<Script>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut command = read_value(&mut reader)?;
        if command.is_empty() {
            return Err(Error::new(ErrorKind::InvalidData, "an empty command"));
        }
        command[0].make_ascii_uppercase();
        shared.state.lock().expect("no script panics").commands.push(command.clone());
        shared.changed.notify_all();
        match script(&command) {
            Act::Usual => stream.write_all(&usual(&command))?,
            Act::Send(bytes) => stream.write_all(&bytes)?,
            Act::Pieces(pieces) => pieces.iter().try_for_each(|piece| stream.write_all(piece))?,
            Act::Hold(bytes) => {
                let state = shared.state.lock().expect("no script panics");
                let waited =
                    shared.changed.wait_timeout_while(state, PATIENCE, |state| !state.released);
                drop(waited.expect("no script panics"));
                stream.write_all(&bytes)?;
            }
            Act::Silence => {}
            Act::Close => return Ok(()),
        }
    }
}

/// An empty server's answers, in the protocol version the client last asked for being 3 or not making no difference:
/// RESP3 clients must accept RESP2 nulls too, and the fake has no maps to send but HELLO's.
fn usual(command: &[String]) -> Vec<u8> {
    let reply: &[u8] = match command[0].as_str() {
        "PING" => b"+PONG\r\n",
        "HELLO" if command.get(1).is_some_and(|version| version == "3") => {
            b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
        }
        "HELLO" => b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n",
        "GET" => b"$-1\r\n",
        "DEL" | "UNLINK" => b":0\r\n",
        _ => b"+OK\r\n",
    };
    reply.to_vec()
}

/// A command as clients send it: an array of bulk strings.
pub fn request(arguments: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n{argument}\r\n", argument.len()).as_bytes());
    }
    bytes
}

/// Reads one RESP2 value; an array becomes its elements, anything else a single text.
pub fn read_value(reader: &mut impl BufRead) -> Result<Vec<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let bad = || Error::new(ErrorKind::InvalidData, format!("not RESP: {line:?}"));
    let rest = line.strip_suffix("\r\n").and_then(|line| line.get(1..)).ok_or_else(bad)?;
    match line.as_bytes()[0] {
        b'+' | b'-' | b':' => Ok(vec![rest.to_owned()]),
        b'$' => {
            let Ok(length) = usize::try_from(rest.parse::<i64>().map_err(|_| bad())?) else {
                return Ok(vec![String::new()]);
            };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(vec![String::from_utf8_lossy(&bytes).into_owned()])
        }
        b'*' => {
            let count = rest.parse::<i64>().map_err(|_| bad())?;
            let mut values = Vec::new();
            for _ in 0..count {
                values.extend(read_value(reader)?);
            }
            Ok(values)
        }
        _ => Err(bad()),
    }
}
