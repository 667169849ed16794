//! HTTP/1.1 messages: bytes in, values out, and back. No sockets, no threads, no clocks.
//!
//! ```text
//! bytes ─▶ parse ─▶ HeadIndex (with its bytes: Head) ─▶ Framing ─▶ a plain count or ChunkedDecoder
//!          (head.rs)                                    (body.rs)
//! bytes ◀─ print ◀─ Response
//!          (print.rs) (response.rs)
//! ```
//!
//! Everything here obeys RFC 9112 strictly and checks in byte order: the result for an input, a value or an error,
//! never depends on how the network cut it into pieces. Deadlines, and whether to close after an error, belong to the
//! front; the meaning of a method or a path, to the service.
//!
//! Reading order: `error` (the errors), `bytes` (the alphabets), `field` (one line), `head` (the lines together),
//! `target`, `query` and `authority`, `body`, then the way out: `response`, `date`, `print`.

mod authority;
mod body;
mod bytes;
mod date;
mod error;
mod field;
mod head;
mod method;
mod print;
mod query;
mod response;
mod target;

pub use authority::Authority;
pub use body::{ChunkedDecoder, Framing, decimal};
pub use date::{Date, DateCache, http_date};
pub use error::ParseError;
pub use field::Field;
#[cfg(test)]
pub(crate) use head::tests::OwnedHead;
pub use head::{Head, HeadIndex, HeadLimits, Parsed, is_head, parse};
pub use method::Method;
pub use print::{
    CONTINUE, Cors, Printing, Quota, print, push_number, push_percent_encoded, push_string,
    write_problem,
};
pub use query::{Parameter, Query};
pub use response::{ContentType, Extra, Location, Response, Tag, reason};
pub use target::percent_decode;
