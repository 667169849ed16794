//! Redis on the wire: a minimal client, from the bytes up.
//!
//! ```text
//! client      requests, deadlines, retries     one for each worker
//!   └ link    resolve, connect, sign on        one server, kept up
//!       └ connection   one socket              replies matched by position
//!           └ codec    bytes and replies       RESP2 and RESP3, within limits
//! ```
//!
//! Beside them: [`url`] (where to connect), [`resolve`] (names, off the loop), [`backoff`] (when to
//! try again), [`slot`] (which part of a cluster a key belongs to). Read [`codec`] first.

pub mod backoff;
pub mod client;
pub mod codec;
pub mod connection;
mod encode;
mod header;
mod limits;
pub mod link;
mod protocol_error;
pub mod resolve;
pub mod slot;
pub mod url;
mod value;
