//! Redis on the wire: a minimal client, from the bytes up.
//!
//! ```text
//! client       requests and retries               one for each worker
//!   ├ guide    which server to ask: Single | Sentinel | Cluster
//!   └ link     resolve, connect, sign on            one for each server, kept up
//!       └ connection   one socket                   replies matched by position
//!           └ codec    bytes and replies            RESP2 and RESP3, within limits
//! ```
//!
//! Pure, and readable alone: [`codec`], [`slot`], [`endpoint`], [`credentials`], [`remedy`] (what to do about an error
//! reply), [`advice`] (what an operator can do), [`sign_on`] (the first commands on a connection), [`cluster`] and
//! [`sentinel`] (how their replies are read), [`guide`], [`backoff`], [`password`]. With I/O through the world:
//! [`connection`], [`link`], [`client`]. Read [`codec`] first, then [`connection`], then up.

pub mod advice;
pub mod away;
pub mod backoff;
pub mod client;
pub mod cluster;
pub mod codec;
pub mod connection;
pub mod credentials;
mod encode;
pub mod endpoint;
#[cfg(test)]
pub(crate) mod fake;
pub mod guide;
mod header;
mod limits;
pub mod link;
pub mod nodes;
pub mod password;
mod protocol_error;
pub mod remedy;
pub mod request;
pub mod sentinel;
pub mod sign_on;
pub mod slot;
pub mod tls;
mod value;
