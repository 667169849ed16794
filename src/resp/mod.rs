//! Redis on the wire: a minimal client, from the bytes up.
//!
//! ```text
//! client             requests, and which may be sent again      one for each worker
//!   ├ topology       which server to ask                          one server | sentinel | cluster
//!   └ nodes          the servers
//!     └ node         one server: its connection, watched
//!       ├ connector  resolve, race, back off                     makes the next connection
//!       │ └ attempt  one address: connect, handshake
//!       └ connection one socket                                  replies matched by position
//!         ├ output   the stream of commands
//!         └ codec    bytes and replies                           RESP2 and RESP3, within limits
//! ```
//!
//! Who wants to know how one server is spoken to reads [`codec`], [`command`], [`connection`], [`handshake`],
//! [`connector`], [`node`], [`client`] in this order, and never meets a sentinel or a cluster: those are topologies, in
//! folders of their own. Pure: [`codec`], [`command`], [`reply_type`], [`request`], [`handshake`], [`error_action`] (what
//! to do about an error reply), [`advice`] (what an operator can do), [`slot`], [`endpoint`], [`credentials`],
//! [`backoff`]. The others do their I/O through the world.

pub mod advice;
mod attempt;
pub mod backoff;
pub mod client;
#[cfg(feature = "poll")]
pub mod cluster;
pub mod codec;
pub mod command;
pub mod connection;
pub mod connector;
pub mod counts;
pub mod credentials;
pub mod endpoint;
pub mod error_action;
#[cfg(test)]
pub(crate) mod fake;
pub mod handshake;
mod header;
mod limits;
pub mod node;
pub mod nodes;
pub mod options;
mod output;
mod parked;
mod protocol_error;
pub mod renewal;
pub mod reply_type;
pub mod request;
#[cfg(feature = "poll")]
pub mod sentinel;
pub mod slot;
pub mod tls;
pub mod topology;
mod value;
