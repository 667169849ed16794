//! The fronts: sockets on one side, [`Service`] and [`Store`] on the other.
//!
//! Two of them carry the same service. [`tiny`] is the plain one, one thread for each request in progress; read it
//! first. The other is built to face a network directly: a few loops that never block (`poll`, with the feature of that
//! name). There `pace` says how slow a client may be, and `accept` hands new clients to the loops.
//!
//! Both share [`exchange`], the life of one request; [`access_log`], its line in the log; and their options, here.

#[cfg(feature = "poll")]
pub mod accept;
pub mod access_log;
pub mod exchange;
#[cfg(feature = "poll")]
mod guard;
pub mod listen;
mod options;
#[cfg(feature = "poll")]
pub mod pace;
#[cfg(feature = "poll")]
pub mod poll;
pub mod scrape;
pub mod tiny;

use crate::lifecycle::Lifecycle;
use crate::service::Service;
use crate::store::Store;
use std::io;
use std::sync::Arc;

pub use options::{Front, Options, Server};

/// Starts the front. It accepts at once; `main` moves the lifecycle to ready afterwards.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    front: Front,
    options: Options,
    service: Arc<Service>,
    store: Arc<dyn Store>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Server> {
    match front {
        #[cfg(feature = "poll")]
        Front::Poll => poll::start(options, service, store, lifecycle),
        #[cfg(not(feature = "poll"))]
        Front::Poll => Err(io::Error::other("FRONT=poll is not in this build")),
        Front::TinyHttp => tiny::start(options, service, store, lifecycle),
    }
}
