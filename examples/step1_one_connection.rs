//! Step 1: one connection, one GET, on std alone.
//!
//! ```text
//! accept ─▶ read once ─▶ look at the first line ─▶ write ─▶ close, and the next one
//! ```
//!
//! This is a server: `curl localhost:8080/items/1` shows Bob. It believes that a request arrives in one piece, that the
//! next client can wait, and that there is one item. The first of these is false even with honest clients: TCP carries
//! bytes, not messages. Step 2 mends that.
//!
//! In src/: what `main` does here is in `main.rs` and `front/listen.rs`, what `answer` does in `front/exchange.rs`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

const ITEM: &str = r#"{"name":"Bob"}"#;

fn main() -> io::Result<()> {
    let port = std::env::var("PORT").unwrap_or("8080".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on {}", listener.local_addr()?);
    for client in listener.incoming() {
        // What goes wrong with one client must not end the program; the next one knows nothing of it.
        let _ = client.and_then(serve);
    }
    Ok(())
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    let mut request = [0; 1024];
    // The mistake that this step is about: what one read gives is taken for the whole request.
    let n = client.read(&mut request)?;
    client.write_all(answer(&request[..n]).as_bytes())
}

fn answer(request: &[u8]) -> String {
    let (status, body) = match request {
        [b'G', b'E', b'T', b' ', path @ ..] if path.starts_with(b"/items/1 ") => ("200 OK", ITEM),
        [b'G', b'E', b'T', b' ', ..] => ("404 Not Found", ""),
        _ => ("501 Not Implemented", ""),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
