//! A client that reports what it does not like, and does not panic: most steps of the ladder are meant to fail here.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long an answer may take. Whoever answers at all does so within milliseconds, or at a deadline of three seconds.
/// Where a step never answers, its check lasts this long.
pub const SILENCE: Duration = Duration::from_secs(5);

/// One connection, and what has come on it and is not read.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The whole head, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> Result<Client, String> {
        let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
        // A server that does not accept has a queue that fills.
        let stream = TcpStream::connect_timeout(&address, SILENCE);
        let stream = stream.map_err(|e| format!("no connection: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(SILENCE)).map_err(|e| e.to_string())?;
        Ok(Client { stream, input: Vec::new() })
    }

    /// An error of writing is none of the check: a server that refuses may close early. What it has answered tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        self.send(request(method, path, body));
        self.answer(method)
    }

    /// The next answer, `100 Continue` as well.
    pub fn answer(&mut self, method: &str) -> Result<Answer, String> {
        let end = self.read_until(|input| {
            input.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
        })?;
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("not an answer: {head:?}"))?;
        let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let length = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let length = if method == "HEAD" { 0 } else { length };
        self.read_until(|input| (input.len() >= length).then_some(length))?;
        Ok(Answer { status, head, body: self.input.drain(..length).collect() })
    }

    /// That the server ends the connection in order: a reset can destroy an answer on its way.
    pub fn clean_end(&mut self) -> Result<(), String> {
        match self.read_until(|_| None::<()>) {
            Err(why) if why == END => Ok(()),
            Err(why) => Err(why),
            Ok(()) => unreachable!("nothing is found"),
        }
    }

    /// That the server ends the connection, no matter how.
    pub fn end(&mut self) -> Result<(), String> {
        match self.read_until(|_| None::<()>) {
            Err(why) if why == SILENT => Err(why),
            _ => Ok(()),
        }
    }

    fn read_until<T>(&mut self, found: impl Fn(&[u8]) -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + SILENCE;
        let mut buffer = [0; 4096];
        loop {
            if let Some(found) = found(&self.input) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(END.to_owned()),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(SILENT.to_owned());
                }
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

const END: &str = "the connection has ended";
const SILENT: &str = "no answer";

pub fn request(method: &str, path: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { length(body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: kiosk\r\n{length}\r\n{body}")
}

fn length(length: usize) -> String {
    format!("Content-Length: {length}\r\n")
}
