//! Step 3: threads, so that nobody waits for a client who says nothing.
//!
//! ```text
//! clients ─▶ tiny_http ─▶ queue of requests ─▶ 4 workers ─▶ items, under a lock
//! ```
//!
//! tiny_http gives each connection a thread of its own and hands over whole heads, so our parser is gone, and chunked
//! bodies and `Expect` come for free. Our parser's strictness goes with it: a head may be of any size, a lone line feed
//! is no error, and a declared length of 64 TiB ends the process. Step 5 takes the parser back.
//!
//! The items still live and die with this process, and no second replica can see them. Step 4 mends that.
//!
//! In src/: `front/tiny.rs`, which parses each head once more, and `store/memory.rs`.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;
use tiny_http::{Header, Method, Request, Response, Server};

const WORKERS: usize = 4;
const BODY_MAX: usize = 64 * 1024;
const ITEMS_MAX: usize = 1000;

type Items = HashMap<String, Vec<u8>>;

fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or("8080".to_owned());
    let server = Server::http(format!("127.0.0.1:{port}")).map_err(io::Error::other)?;
    println!("listening on {}", server.server_addr());
    let items = Mutex::new(Items::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for request in server.incoming_requests() {
                    serve(request, &items);
                }
            });
        }
    });
    Ok(())
}

fn serve(mut request: Request, items: &Mutex<Items>) {
    let (status, item) = match read_body(&mut request) {
        // Read before the lock is taken: a client that is slow to send must not hold it.
        Ok(body) => {
            let mut items = items.lock().unwrap_or_else(PoisonError::into_inner);
            handle(request.method(), request.url(), body, &mut items)
        }
        Err(status) => (status, Vec::new()),
    };
    let mut response = Response::from_data(item).with_status_code(status);
    if let Ok(header) = Header::from_bytes("Content-Type", "application/json") {
        response.add_header(header);
    }
    // An error means that the client has gone.
    let _ = request.respond(response);
}

/// The body, or the status of a refusal.
pub(crate) fn read_body(request: &mut Request) -> Result<Vec<u8>, u16> {
    // tiny_http takes the first of two lengths; who stands before us may take the last. So there may be only one.
    let lengths = request.headers().iter().filter(|header| header.field.equiv("Content-Length"));
    if lengths.count() > 1 {
        return Err(400);
    }
    if request.body_length().is_some_and(|length| length > BODY_MAX) {
        return Err(413);
    }
    // A chunked body has no declared length.
    let mut body = Vec::new();
    let mut reader = request.as_reader().take(BODY_MAX as u64 + 1);
    reader.read_to_end(&mut body).map_err(|_| 400_u16)?;
    if body.len() > BODY_MAX { Err(413) } else { Ok(body) }
}

fn handle(method: &Method, path: &str, body: Vec<u8>, items: &mut Items) -> (u16, Vec<u8>) {
    let Some(id) = item_id(path) else { return (404, Vec::new()) };
    let status = match method {
        Method::Get | Method::Head => match items.get(id) {
            Some(item) => return (200, item.clone()),
            None => 404,
        },
        Method::Put | Method::Post if !is_object(&body) => 400,
        Method::Put | Method::Post if items.len() >= ITEMS_MAX && !items.contains_key(id) => 503,
        Method::Put | Method::Post => match items.insert(id.to_owned(), body) {
            None => 201,
            Some(_) => 204,
        },
        Method::Delete => {
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
