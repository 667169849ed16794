//! HTTP/1.1 messages: bytes in, values out, and back. No sockets, no threads, no clocks.
//!
//! ```text
//! bytes ─▶ HeadParser ─▶ Head ─▶ Framing ─▶ ChunkedDecoder or a plain count ─▶ Request
//!          (head.rs)     (message.rs)  (body.rs)
//! bytes ◀─ print ◀──────────────────────────────────────────────────────────── Response
//!          (print.rs)
//! ```
//!
//! Everything here obeys RFC 9112 strictly and judges in byte order: what an input is worth, a
//! value or an error, never depends on how the network cut it into pieces. Deadlines, and whether
//! to close after an error, belong to the front; what a method or a path means, to the service.
//!
//! Reading order: `error` (what can be wrong), `bytes` (the alphabets), `request_line` and `field`
//! (one line each), `head` (the lines together), `target` and `authority`, `message`, `body`, then
//! the way out: `problem`, `date`, `print`.

mod authority;
mod body;
mod bytes;
mod date;
mod error;
mod field;
mod head;
mod message;
mod print;
mod problem;
mod request_line;
mod target;

pub use authority::Authority;
pub use body::{ChunkedDecoder, Framing, framing};
pub use date::{DateCache, http_date};
pub use error::ParseError;
pub use head::{HeadLimits, HeadParser, is_head};
pub use message::{Head, Request};
pub use print::{CONTINUE, Printing, print};
pub use problem::{checked_header, empty, header, json, problem, take_body, text, with_body};
pub use target::{BadEscape, Target, percent_decode, query_pairs, query_values};
pub use tiny_http::{HTTPVersion, Header, Method, StatusCode};

/// A response whose body is bytes in memory, so that its length is always known.
pub type Response = tiny_http::Response<std::io::Cursor<Vec<u8>>>;
