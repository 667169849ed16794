//! Step 4: the state moves out, into Redis, by a client of one page.
//!
//! ```text
//! SET item:7 {"a":1} EX 1800 GET   ─▶   *6␍␊$3␍␊SET␍␊$6␍␊item:7␍␊…       [`encode`]
//! nothing was there before         ◀─   $-1␍␊                              [`decode`]
//! ```
//!
//! Now this process keeps nothing: it may be restarted, there may be ten of it, and other programs read the same items.
//! Each worker has a connection of its own and waits on it for each reply. RESP needs no library: four kinds of reply
//! are all that these commands have, and the decoder can wait as our parser could.
//!
//! Each connection still costs a thread of tiny_http, which still lets pass what our parser refused. Step 5 mends that.
//! And a worker waits for as long as Redis is silent, so four requests stop everybody: that is for step 6.
//!
//! In src/: `resp/command.rs`, `resp/codec.rs`, and `store/redis.rs` for `command` and `outcome`.

#[allow(dead_code, reason = "its main is not ours")]
#[path = "step3_threads.rs"]
mod step3;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use step3::{is_object, item_id, read_body};
use tiny_http::{Header, Request, Response, Server};

const WORKERS: usize = 4;
const REPLY_MAX: i64 = 1024 * 1024;

fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or("8080".to_owned());
    let server = Server::http(format!("127.0.0.1:{port}")).map_err(io::Error::other)?;
    println!("listening on {}", server.server_addr());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut redis = Redis::default();
                for request in server.incoming_requests() {
                    serve(request, &mut redis);
                }
            });
        }
    });
    Ok(())
}

fn serve(mut request: Request, redis: &mut Redis) {
    let command = read_body(&mut request)
        .and_then(|body| command(request.method().as_str(), request.url(), &body));
    let (status, item) = match command {
        Ok(command) => redis.answer(request.method().as_str(), &command),
        Err(status) => (status, Vec::new()),
    };
    let mut response = Response::from_data(item).with_status_code(status);
    if let Ok(header) = Header::from_bytes("Content-Type", "application/json") {
        response.add_header(header);
    }
    // An error means that the client has gone.
    let _ = request.respond(response);
}

/// One connection, made when it is needed.
#[derive(Default)]
pub(crate) struct Redis {
    stream: Option<TcpStream>,
    input: Vec<u8>,
}

impl Redis {
    pub(crate) fn answer(&mut self, method: &str, command: &[u8]) -> (u16, Vec<u8>) {
        match self.ask(command) {
            Ok(reply) => outcome(method, reply),
            // The command may have run or not: nobody can say, so it is not sent again. Bytes of its reply may still be
            // on their way, and would be taken for the next one's: this connection is over.
            Err(_) => {
                *self = Redis::default();
                (502, Vec::new())
            }
        }
    }

    fn ask(&mut self, command: &[u8]) -> io::Result<Reply> {
        // A reply that nobody asked for: from here on each would be taken for the one after it.
        if !self.input.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(TcpStream::connect(redis_address())?),
        };
        stream.write_all(command)?;
        let mut buffer = [0; 4096];
        loop {
            let decoded = decode(&self.input).map_err(io::Error::other)?;
            if let Some((reply, length)) = decoded {
                self.input.drain(..length);
                return Ok(reply);
            }
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&buffer[..n]);
        }
    }
}

pub(crate) fn redis_address() -> String {
    std::env::var("REDIS_ADDR").unwrap_or("127.0.0.1:6379".to_owned())
}

/// The command to send to Redis, or the status of the answer, if the request needs no Redis.
pub(crate) fn command(method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, u16> {
    let key = format!("item:{}", item_id(path).ok_or(404_u16)?);
    let words: &[&[u8]] = match method {
        "GET" | "HEAD" => &[b"GET", key.as_bytes()],
        "PUT" | "POST" if !is_object(body) => return Err(400),
        // The value and its time to live in one command. The reply is what was there before (Redis 6.2).
        "PUT" | "POST" => &[b"SET", key.as_bytes(), body, b"EX", b"1800", b"GET"],
        "DELETE" => &[b"DEL", key.as_bytes()],
        _ => return Err(501),
    };
    Ok(encode(words))
}

/// The answer, status and body, that a reply of Redis leads to.
pub(crate) fn outcome(method: &str, reply: Reply) -> (u16, Vec<u8>) {
    match (method, reply) {
        ("GET" | "HEAD", Reply::Bulk(item)) => (200, item),
        ("GET" | "HEAD", Reply::Nil) => (404, Vec::new()),
        ("PUT" | "POST", Reply::Nil) => (201, Vec::new()),
        ("PUT" | "POST", Reply::Bulk(_)) | ("DELETE", Reply::Number) => (204, Vec::new()),
        _ => (502, Vec::new()),
    }
}

/// A command as Redis reads it: the number of words, and each with its length, so a word may hold any byte.
fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

pub(crate) enum Reply {
    Nil,
    Bulk(Vec<u8>),
    Number,
    Error,
}

/// The first reply, and its length; `None`: read more.
pub(crate) fn decode(input: &[u8]) -> Result<Option<(Reply, usize)>, &'static str> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return if input.len() > 1024 { Err("no end of a line") } else { Ok(None) };
    };
    let number =
        std::str::from_utf8(&input[1.min(end)..end]).ok().and_then(|text| text.parse().ok());
    let start = end + 2;
    Ok(match (input[0], number) {
        (b'-', _) => Some((Reply::Error, start)),
        (b':', Some(0..)) => Some((Reply::Number, start)),
        (b'$', Some(-1)) => Some((Reply::Nil, start)),
        (b'$', Some(length @ 0..=REPLY_MAX)) => {
            let end = start + length as usize;
            (input.len() >= end + 2).then(|| (Reply::Bulk(input[start..end].to_vec()), end + 2))
        }
        _ => return Err("not a reply that we ask for"),
    })
}
