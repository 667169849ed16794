//! kioskd with a store of one's own: a file for each item, in one directory. `docs/store.md` walks through it.
//!
//! ```text
//! PORT=8080 cargo run --example file_store -- DIRECTORY
//! ```
//!
//! `store.rs` is the store, `entry.rs` what is in one of its files. Here is only what `main.rs` of kioskd does to put a
//! service together, without tokens, notes and the bound on draining.

#![forbid(unsafe_code)]

mod entry;
mod store;

use kioskd::config::{Config, System};
use kioskd::front;
use kioskd::lifecycle::{Event, Lifecycle, State};
use kioskd::service::{Service, metrics::Metrics, metrics::Status};
use kioskd::store::Store;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map_or("items".into(), PathBuf::from);
    let ours =
        std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("REDIS_"));
    let config = Config::read(ours, &System::look()).map_err(|e| io::Error::other(e.join("\n")))?;
    // What would be ignored is refused: an operator who set it counts on it.
    if ["AUTH_TOKENS", "AUTH_TOKENS_FILE"].iter().any(|name| std::env::var_os(name).is_some()) {
        return Err(io::Error::other("AUTH_TOKENS: this example asks for none"));
    }
    let log = kioskd::log::start(config.log.clone())?;
    let (lifecycle, events) = Lifecycle::new();
    lifecycle.watch_signals(|| ())?;
    let store: Arc<dyn Store> = Arc::new(store::FileStore::open(&directory, 1 << 30)?);
    let metrics = Arc::new(Metrics::new(config.front.workers, Duration::ZERO, Instant::now()));
    let mut options = config.service.clone();
    options.store = store.kind();
    let (state, status_log, front) = (Arc::clone(&lifecycle), log.clone(), config.kind.name());
    let service = Service::new(options, metrics, move |_| Status {
        front,
        ready: state.state() == State::Ready,
        draining: state.state() >= State::Draining,
        store_up: true,
        log_lines_dropped: status_log.dropped(),
        others: Vec::new(),
    });
    let server =
        front::start(config.kind, config.front, Arc::new(service), Arc::clone(&store), &lifecycle)?;
    lifecycle.advance(State::Ready);
    log::info!("listening on {}, items in {}", server.address, store.place());
    // A signal, or a worker that has died.
    let _ = events.recv();
    lifecycle.advance(State::Stopped);
    server.wake();
    let mut threads = server.threads;
    while threads > 0
        && let Ok(event) = events.recv()
    {
        threads -= usize::from(matches!(event, Event::Ended { .. }));
    }
    log.flush();
    Ok(())
}
