//! An HTTP/1.1 client that hides nothing: it sends the bytes it is given and shows the response as it came.
//!
//! It frames responses by RFC 9112 §6.3 (no body after HEAD, 1xx, 204 and 304; chunked; Content-Length; else until the
//! connection closes) and refuses what a careless client would forgive, so that a wrong frame fails a test instead of
//! turning up as garbage in the next response.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

/// No read or write of a test waits longer. A request that is meant to be slow takes a second or two.
const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// One connection.
pub struct Client {
    stream: BufReader<Stream>,
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `HTTP/1.1`
    pub version: String,
    pub status: u16,
    /// In the order they came, names as they were written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: &str) -> Client {
        let stream = if let Some(path) = address.strip_prefix("unix:") {
            Stream::Unix(
                UnixStream::connect(path)
                    .unwrap_or_else(|error| panic!("failed to connect to {address}: {error}")),
            )
        } else {
            Stream::Tcp(
                TcpStream::connect(address)
                    .unwrap_or_else(|error| panic!("failed to connect to {address}: {error}")),
            )
        };
        stream.set_timeouts(IO_TIMEOUT);
        Client { stream: BufReader::new(stream) }
    }

    /// Writes these bytes, in one write where the kernel takes them all.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what a client sends");
    }

    /// As [`Client::send`], for requests the server may refuse before it has read them all.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// As [`Client::send`], each byte in a write of its own, so that the server may see any of them alone.
    #[track_caller]
    pub fn send_by_byte(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
    }

    /// Sends GET and returns the response; the connection stays open.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn head(&mut self, path: &str) -> Reply {
        self.request("HEAD", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request("POST", path, &[("Content-Type", "application/json")], body.as_ref())
    }

    /// Sends a request with `Host`, these headers and, when there is a body or the method expects one, its length.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: kiosk\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(bytes);
        if method == "HEAD" { self.read_head_response() } else { self.read_response() }
    }

    /// Reads one response with its body.
    #[track_caller]
    pub fn read_response(&mut self) -> Reply {
        let mut reply = self.read_head_response();
        if reply.status < 200 || [204, 304].contains(&reply.status) {
            return reply;
        }
        let chunked = reply
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        reply.body = match (chunked, reply.header("content-length")) {
            (true, Some(_)) => panic!("a length beside chunked: {reply:?}"),
            (true, None) => self.read_chunked(),
            (false, Some(length)) => {
                let length =
                    length.parse().unwrap_or_else(|_| panic!("bad Content-Length: {reply:?}"));
                self.read_exactly(length)
            }
            (false, None) => self.read_to_end(),
        };
        reply
    }

    /// Reads one response that has no body: the answer to HEAD.
    #[track_caller]
    pub fn read_head_response(&mut self) -> Reply {
        let status_line = self.read_line();
        let mut words = status_line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        assert!(version.starts_with("HTTP/1."), "not a status line: {status_line:?}");
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.read_line();
            if line.is_empty() {
                return Reply { version, status, headers, body: Vec::new() };
            }
            let (name, value) =
                line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// All bytes until the server closes the connection (a reset counts as a close).
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if is_timeout(&error) => {
                panic!("the server keeps the connection open; so far {:?}", lossy(&bytes))
            }
            _ => bytes,
        }
    }

    /// All bytes until the server ends the connection in order. A reset fails the test: it can destroy a response that
    /// the client has not read yet.
    #[track_caller]
    pub fn read_to_clean_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            panic!("no clean end ({error}); so far {:?}", lossy(&bytes));
        }
        bytes
    }

    /// Waits for the server to close the connection; false when it sends something instead, or nothing at all.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => !is_timeout(&error),
        }
    }

    /// Whether something comes within this time: bytes, which stay to be read, or the end of the connection.
    pub fn hears_within(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_timeouts(time);
        let heard = !matches!(self.stream.fill_buf(), Err(error) if is_timeout(&error));
        self.stream.get_ref().set_timeouts(IO_TIMEOUT);
        heard
    }

    /// The status of the response that comes next; `None` when it is the end of the connection that comes.
    pub fn status_or_end(&mut self) -> Option<u16> {
        (!self.is_closed()).then(|| self.read_response().status)
    }

    /// Reads one byte, if one is there and the connection has not ended.
    pub fn take_byte(&mut self) {
        let _ = self.stream.read(&mut [0]);
    }

    /// Ends our side: the server reads an end of file, and may still answer.
    pub fn close_write(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// Ends the connection by a reset (SO_LINGER of zero), which takes back what is still on its way; that of a Unix
    /// socket by a close, which is as abrupt.
    pub fn reset(self) {
        if let Stream::Tcp(stream) = self.stream.get_ref() {
            let socket = socket2::SockRef::from(stream);
            socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
        }
    }

    fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        let result = self.stream.read_until(b'\n', &mut line);
        assert!(
            result.is_ok() && line.ends_with(b"\r\n"),
            "no complete line: {result:?} {:?}",
            lossy(&line)
        );
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap_or_else(|error| panic!("not UTF-8: {error}"))
    }

    fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .unwrap_or_else(|error| panic!("failed to read {length} bytes: {error}"));
        body
    }

    fn read_chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line();
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16)
                .unwrap_or_else(|_| panic!("bad chunk size {line:?}"));
            body.extend_from_slice(&self.read_exactly(size));
            assert_eq!(self.read_exactly(2), b"\r\n", "a chunk ends with an empty line");
            if size == 0 {
                return body;
            }
        }
    }
}

impl Reply {
    /// The value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        lossy(&self.body)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// Whether `Connection` lists `close`.
    pub fn says_close(&self) -> bool {
        let mut options = self.header("connection").into_iter().flat_map(|value| value.split(','));
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    }

    /// Checks the whole of a problem body (RFC 9457): media type, members, and that they agree with the status line
    /// and `X-Request-Id`. Returns its `code` and `detail`.
    #[track_caller]
    pub fn problem(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        let word = |name: &str| {
            let value = body[name].as_str().filter(|text| !text.is_empty());
            value.unwrap_or_else(|| panic!("no `{name}` in {body}")).to_owned()
        };
        assert_eq!(body["status"], self.status, "{body}");
        for name in ["type", "title"] {
            word(name);
        }
        assert_eq!(Some(word("request_id").as_str()), self.header("x-request-id"), "{self:?}");
        let code = word("code");
        assert!(CODES.contains(&code), "openapi.json has no code {code}");
        (code, word("detail"))
    }
}

/// The codes of problems that the description of the service names.
static CODES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let text = include_str!("../../src/service/openapi.json");
    let document: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let codes = document["components"]["schemas"]["Code"]["examples"].clone();
    serde_json::from_value(codes).expect("a list of words")
});

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// The two kinds of socket kioskd can listen on.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeouts(&self, timeout: Duration) {
        let timeout = Some(timeout);
        let result = match self {
            // Nagle's algorithm would hold back the second of two small writes, and with it the case under test.
            Stream::Tcp(stream) => stream
                .set_nodelay(true)
                .and_then(|()| stream.set_read_timeout(timeout))
                .and_then(|()| stream.set_write_timeout(timeout)),
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
        };
        result.expect("a connected socket takes options");
    }

    fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
