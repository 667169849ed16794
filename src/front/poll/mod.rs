//! The front that can face a network directly: `WORKERS` loops that never block.
//!
//! Each worker owns its world, its clients and a session of the store; nothing is shared on the path of a request
//! ([`worker`]). [`connection`] is one client, [`timers`] their deadlines, [`pool`] their buffers.

pub mod connection;
pub mod pool;
pub mod timers;
pub mod worker;

use super::accept::{Acceptor, Listener};
use super::options::{Options, Server};
use crate::lifecycle::Lifecycle;
use crate::net::{MioWorld, failed};
use crate::service::Service;
use crate::store::Store;
use std::io;
use std::sync::Arc;
use worker::Worker;

/// Starts the workers and the thread that accepts.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    options: Options,
    service: Arc<Service>,
    store: Arc<dyn Store>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Server> {
    let (listener, address) = Listener::bind(&options.listen)?;
    let options = Arc::new(options);
    let (mut wakers, mut inboxes) = (Vec::new(), Vec::new());
    for n in 0..options.workers {
        let name = format!("worker-{n}");
        let (world, inbox) =
            MioWorld::new().map_err(failed(format_args!("make the world for {name}")))?;
        wakers.push(inbox.waker());
        inboxes.push(inbox);
        let worker = (Arc::clone(&options), Arc::clone(&service), Arc::clone(&store));
        let lifecycle_of_worker = Arc::clone(lifecycle);
        lifecycle.spawn(name, move || {
            let (options, service, store) = worker;
            Worker::run(n, options, service, store, lifecycle_of_worker, world);
        })?;
    }
    let metrics = service.metrics_shared();
    let acceptor = Acceptor::new(listener, inboxes, metrics, options.connections_max)?;
    wakers.push(acceptor.waker());
    lifecycle.spawn("acceptor".to_owned(), {
        let lifecycle = Arc::clone(lifecycle);
        move || acceptor.run(&lifecycle)
    })?;
    Ok(Server {
        address,
        threads: options.workers + 1,
        wake: Box::new(move || wakers.iter().for_each(|waker| waker.wake())),
        // The acceptor owns it.
        socket_file: None,
    })
}
