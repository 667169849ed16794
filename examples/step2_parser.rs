//! Step 2: a parser that can wait.
//!
//! ```text
//! input   "GET /it"                        Ok(None): read more
//! input   "GET /items/7 HTTP/1.1␍␊…␍␊␍␊GE"   Ok(Some(request, length)); "GE" is the beginning of the next one
//! input   "GET  /items/7"                  Err(400): no request, and nothing behind it can be trusted
//! ```
//!
//! [`parse`] looks at the bytes that have come so far and does not care how the network has cut them. With that come
//! bodies, requests one behind the other, and a bound for each thing a client can send. Items are kept in a map.
//!
//! Still one client at a time: whoever connects and says nothing keeps all others waiting. Step 3 mends that.
//!
//! In src/: `http/head.rs`, `http/body.rs` (which reads chunks, too) and `http/print.rs`.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

pub(crate) const HEAD_MAX: usize = 16 * 1024;
pub(crate) const BODY_MAX: usize = 64 * 1024;
const ITEMS_MAX: usize = 1000;

type Items = HashMap<String, Vec<u8>>;

/// A request that has arrived whole.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    /// The connection closes after the answer to this request.
    pub(crate) close: bool,
}

fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or("8080".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on {}", listener.local_addr()?);
    let mut items = Items::new();
    for client in listener.incoming() {
        let _ = client.and_then(|client| serve(client, &mut items));
    }
    Ok(())
}

/// All requests of one client.
fn serve(mut client: TcpStream, items: &mut Items) -> io::Result<()> {
    let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let (status, body, request, length) = match parse(&input) {
            Ok(None) => {
                let n = client.read(&mut buffer)?;
                if n == 0 {
                    return Ok(());
                }
                input.extend_from_slice(&buffer[..n]);
                continue;
            }
            Ok(Some((request, length))) => {
                let (status, body) = handle(&request, items);
                (status, body, request, length)
            }
            Err(status) => (status, Vec::new(), Request::broken(), 0),
        };
        let mut output = Vec::new();
        print(status, &body, &request, &mut output);
        client.write_all(&output)?;
        if request.close {
            return Ok(());
        }
        input.drain(..length);
    }
}

fn handle(request: &Request, items: &mut Items) -> (u16, Vec<u8>) {
    let Some(id) = item_id(&request.path) else { return (404, Vec::new()) };
    let status = match request.method.as_str() {
        "GET" | "HEAD" => match items.get(id) {
            Some(item) => return (200, item.clone()),
            None => 404,
        },
        "PUT" | "POST" if !is_object(&request.body) => 400,
        // Without this, a client decides how much memory we have.
        "PUT" | "POST" if items.len() >= ITEMS_MAX && !items.contains_key(id) => 503,
        "PUT" | "POST" => match items.insert(id.to_owned(), request.body.clone()) {
            None => 201,
            Some(_) => 204,
        },
        "DELETE" => {
            items.remove(id);
            204
        }
        _ => 501,
    };
    (status, Vec::new())
}

/// The ID in `/items/ID`, which has to be a plain word here.
pub(crate) fn item_id(path: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let id = path.strip_prefix("/items/")?;
    ((1..=64).contains(&id.len()) && id.bytes().all(is_plain)).then_some(id)
}

pub(crate) fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<_, _>>(body).is_ok()
}

impl Request {
    /// Stands for a request that could not be read; the connection closes after its answer.
    pub(crate) fn broken() -> Request {
        Request { method: String::new(), path: String::new(), body: Vec::new(), close: true }
    }
}

/// The first request in `input`, and its length; `None`: read more. An error is the status of the answer.
pub(crate) fn parse(input: &[u8]) -> Result<Option<(Request, usize)>, u16> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if input.len() > HEAD_MAX { Err(431) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| 400_u16)?;
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1"] = words[..] else { return Err(400) };
    let (mut hosts, mut length, mut close) = (0, None, false);
    for line in lines {
        // Two readers that disagree about a line disagree about where the request ends: so nothing is repaired.
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) || value.contains(['\r', '\n', '\0']) {
            return Err(400);
        }
        match (name.to_ascii_lowercase().as_str(), value.trim_matches([' ', '\t'])) {
            ("host", _) => hosts += 1,
            ("connection", value) => close |= value.eq_ignore_ascii_case("close"),
            ("transfer-encoding", _) => return Err(501),
            ("content-length", value) if length.is_none() && is_number(value) => {
                length = Some(value.parse().unwrap_or(usize::MAX));
            }
            ("content-length", _) => return Err(400),
            _ => {}
        }
    }
    let (start, length) = (end + 4, length.unwrap_or(0));
    if hosts != 1 || start > HEAD_MAX || length > BODY_MAX {
        return Err(if hosts != 1 {
            400
        } else if start > HEAD_MAX {
            431
        } else {
            413
        });
    }
    let Some(body) = input.get(start..start + length).map(<[u8]>::to_vec) else { return Ok(None) };
    let (method, path) = (method.to_owned(), path.to_owned());
    Ok(Some((Request { method, path, body, close }, start + length)))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Appends an answer.
pub(crate) fn print(status: u16, body: &[u8], request: &Request, output: &mut Vec<u8>) {
    // The number is enough: the phrase behind it may be empty (RFC 9112 §4).
    let mut head = format!("HTTP/1.1 {status} \r\n");
    if status != 204 {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    if status == 200 {
        head += "Content-Type: application/json\r\n";
    }
    if request.close {
        head += "Connection: close\r\n";
    }
    output.extend_from_slice(head.as_bytes());
    output.extend_from_slice(b"\r\n");
    if request.method != "HEAD" {
        output.extend_from_slice(body);
    }
}
