//! The process: assembly, and the way out.
//!
//! ```text
//! Config ─▶ assemble: log, signals, Store ─▶ Service ─▶ front ─▶ serve … SIGTERM ─▶ drain
//! ```
//!
//! Exit codes: 0 a clean drain (or `--help`), 1 a drain cut short or a failure at run time, 2 bad
//! configuration or arguments.

mod arguments;
mod healthcheck;
mod process;
mod tokens;

use arguments::{VERSION, complain};
use kioskd::config::{Config, StoreChoice, System};
use kioskd::front::{self, Front, Server};
use kioskd::lifecycle::{self, Event, Lifecycle, State};
use kioskd::log::Log;
use kioskd::net::failed;
use kioskd::service::Service;
use kioskd::service::access::Guard;
use kioskd::service::metrics::{Metrics, Status};
use kioskd::store::{Store, memory::Memory, noop::Noop, redis::Redis};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    // First of all: `--help` into a file at its size limit writes, too. Without the handlers these signals kill.
    let _ = lifecycle::ignore_signals();
    if let Some(code) = arguments::follow() {
        return code;
    }
    let config = match Config::read(std::env::vars_os(), &System::look()) {
        Ok(config) => config,
        Err(errors) => {
            complain(errors.join("\nkioskd: "));
            return ExitCode::from(2);
        }
    };
    let log = match kioskd::log::start(config.log.clone()) {
        Ok(log) => log,
        Err(e) => {
            complain(format_args!("failed to start the log: {e}"));
            return ExitCode::FAILURE;
        }
    };
    kioskd::log::log_panics();
    let code = run(config, &log);
    log.flush();
    code
}

fn run(config: Config, log: &Log) -> ExitCode {
    let (lifecycle, events) = Lifecycle::new();
    let started = match assemble(&config, &lifecycle, log) {
        Ok(started) => started,
        Err(e) => {
            log::error!("failed to start: {e}");
            // LOG=off, or a RUST_LOG for every program on this host: an exit code alone does not say why.
            if !log::log_enabled!(log::Level::Error) {
                complain(format_args!("failed to start: {e}"));
            }
            return ExitCode::FAILURE;
        }
    };
    lifecycle.advance(State::Ready);
    announce(&config, &started);
    let Some((signal, first)) = serve(&events) else {
        return ExitCode::FAILURE;
    };
    // Before the log says so: a program that reads that line must find it true.
    lifecycle.advance(State::Draining);
    let accepting = match config.drain_delay {
        Duration::ZERO => String::new(),
        delay => format!("accepting for another {delay:?}, then "),
    };
    let timeout = config.drain_timeout;
    log::info!("shutting down on {signal}, draining: {accepting}finishing for up to {timeout:?}");
    let drained = drain(&config, &lifecycle, &events, first, &started);
    match drained {
        Ok(()) => log::info!("drained: every request was answered"),
        Err(why) => {
            let cut = started.metrics.in_flight();
            log::error!("shutdown failed: {why}; {cut} requests in flight were cut");
        }
    }
    if lifecycle.state() < State::Stopped {
        close(&lifecycle, &events, first, &started.server);
    }
    if log.dropped() > 0 {
        log::warn!("{} log lines were dropped in all", log.dropped());
    }
    if drained.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for a signal: gives its name, and when it came. `None` when a thread has ended instead.
fn serve(events: &Receiver<Event>) -> Option<(&'static str, Instant)> {
    match events.recv().ok()? {
        Event::Signal { name, at } => Some((name, at)),
        Event::Ended { thread, panicked } => {
            let how = if panicked { "died of a panic" } else { "ended" };
            log::error!(
                "thread {thread} {how}; a service without it would accept and never answer: exiting"
            );
            None
        }
    }
}

struct Started {
    server: Server,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
}

fn assemble(config: &Config, lifecycle: &Arc<Lifecycle>, log: &Log) -> io::Result<Started> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Before anything else: a signal that comes during the start must find its handler.
    let (nudge, nudges) = sync_channel(1);
    let read_again = move || {
        // One that is still there says the same.
        if let Err(TrySendError::Disconnected(())) = nudge.try_send(()) {
            log::info!("SIGHUP: there is nothing to read again");
        }
    };
    lifecycle.watch_signals(read_again).map_err(failed("watch for signals"))?;
    let store: Arc<dyn Store> = match &config.store {
        StoreChoice::Memory(bytes_max) => Arc::new(Memory::new(*bytes_max)),
        StoreChoice::Noop => Arc::new(Noop),
        StoreChoice::Redis(target, options) => {
            let redis = Redis::new(target.clone(), (**options).clone());
            Arc::new(redis.with_key_prefix(config.key_prefix.clone()))
        }
    };
    let tick = match config.kind {
        Front::Poll => Duration::ZERO,
        // A thread of the plain front is busy with one request for as long as that takes.
        Front::TinyHttp => config.front.request_timeout + config.front.body_timeout,
    };
    let metrics = Arc::new(Metrics::new(config.front.workers, tick, Instant::now()));
    let mut options = config.service.clone();
    options.store = store.kind();
    let service = Service::new(options, Arc::clone(&metrics), {
        let lifecycle = Arc::clone(lifecycle);
        let log = log.clone();
        let store = Arc::clone(&store);
        let limits = process::limits(config);
        let front = config.kind.name();
        move |all| Status {
            front,
            ready: lifecycle.state() == State::Ready,
            draining: lifecycle.state() >= State::Draining,
            store_up: all && store.is_up(Instant::now()),
            log_lines_dropped: log.dropped(),
            others: if all { process::others(&*store, &limits, began) } else { Vec::new() },
        }
    });
    let service = match config.access.tokens.clone() {
        Some(tokens) => {
            let guard = Arc::new(Guard::new(tokens.clone()));
            if let Some(path) = config.access.tokens_file.clone() {
                let guard = Arc::clone(&guard);
                let watch = move || tokens::watch(&path, tokens, &guard, &nudges);
                lifecycle.spawn("tokens".to_owned(), watch)?;
            }
            service.guarded_by(guard)
        }
        None => service,
    };
    let service = Arc::new(service);
    if let Some(listen) = config.metrics_listen {
        let address = front::scrape::start(listen, Arc::clone(&service), lifecycle)?;
        log::info!("metrics at {address}");
    }
    let options = config.front.clone();
    let server = front::start(config.kind, options, service, Arc::clone(&store), lifecycle)?;
    Ok(Started { server, metrics, store })
}

/// Logs the one start-up line, and the notes for the operator.
fn announce(config: &Config, Started { server, store, .. }: &Started) {
    let context = &config.log.context;
    let place: Vec<_> = context.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let line = format!(
        "{VERSION} listening on {} front={} workers={} store={} at {}{}",
        server.address,
        config.kind.name(),
        config.front.workers,
        store.kind(),
        store.place(),
        place.concat(),
    );
    log::info!("{line}");
    // RUST_LOG may have been set for every program on this host: the operator must not take silence for a hang.
    if config.rust_log && !log::log_enabled!(log::Level::Info) {
        complain(format_args!(
            "{line} (RUST_LOG mutes this line and more; LOG goes before it, LOG=info)"
        ));
    }
    for note in &config.notes {
        log::warn!("{note}");
    }
    if matches!(config.store, StoreChoice::Memory(_)) {
        log::warn!(
            "the memory store loses everything on restart and is not shared between replicas; set REDIS_ADDR"
        );
    }
    if config.access.tokens.is_none() {
        log::info!("no AUTH_TOKENS: whoever reaches this address may read and write");
    }
    if config.front.listen.is_loopback() && context.iter().any(|(name, _)| *name == "pod") {
        log::warn!("listening on loopback inside a pod: no Service can reach it");
    }
}

/// Drains, from the first signal to the end, or to the event that cuts it short.
fn drain(
    config: &Config,
    lifecycle: &Lifecycle,
    events: &Receiver<Event>,
    first: Instant,
    Started { server, metrics, .. }: &Started,
) -> Result<(), &'static str> {
    let mut threads = server.threads;
    wait(events, first, config.drain_delay, &mut threads)?;
    lifecycle.advance(State::Stopped);
    server.wake();
    wait(events, first, config.drain_timeout, &mut threads)?;
    // Clients that have their responses and keep the connection open do not make a drain unclean.
    match threads > 0 && metrics.in_flight() > 0 {
        true => Err("DRAIN_TIMEOUT has passed"),
        false => Ok(()),
    }
}

/// Closes the listener of a server whose drain was cut short before that; with it goes the file of a Unix socket.
fn close(lifecycle: &Lifecycle, events: &Receiver<Event>, first: Instant, server: &Server) {
    let (mut threads, until) = (server.threads, Instant::now() + STEP);
    lifecycle.advance(State::Stopped);
    server.wake();
    while wait(events, first, STEP, &mut threads).is_err() && Instant::now() < until {}
}

/// How long one step of a wait takes.
const STEP: Duration = Duration::from_millis(100);

/// Signals this soon after the first count as the same one, sent twice: by a terminal to the whole group and by the
/// parent to its child, or by two processes that both want to stop this one.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Waits for all threads to end, or until `left` has passed.
///
/// Time is counted in steps: a process that was stopped for a while resumes at the end of a step, and not at the end of
/// the wait, before the workers have seen the events that came meanwhile.
///
/// # Errors
/// The reason why the wait ends early.
fn wait(
    events: &Receiver<Event>,
    first: Instant,
    mut left: Duration,
    threads: &mut usize,
) -> Result<(), &'static str> {
    while *threads > 0 {
        let step = left.min(STEP);
        match events.recv_timeout(step) {
            Ok(Event::Signal { at, .. }) if at > first + ONE_SIGNAL => {
                return Err("a second signal came");
            }
            Ok(Event::Signal { name, .. }) => {
                log::info!("{name} within a second of the first: taken for the same");
            }
            Ok(Event::Ended { panicked: true, .. }) => return Err("a thread died of a panic"),
            Ok(Event::Ended { .. }) => *threads -= 1,
            Err(_) if left == step => break,
            Err(_) => left -= step,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_worker_that_dies_ends_the_service_and_so_does_one_that_ends() {
        for run in [(|| ()) as fn(), || panic!("a panic this test wants")] {
            let (lifecycle, events) = Lifecycle::new();
            lifecycle.spawn("worker-0".to_owned(), run).unwrap();
            assert_eq!(serve(&events), None);
        }
    }

    /// Its requests were not answered, so the exit code must not be that of a clean drain.
    #[test]
    fn a_worker_that_dies_in_a_drain_does_not_count_as_finished() {
        let (lifecycle, events) = Lifecycle::new();
        let dies = || panic!("a panic this test wants");
        lifecycle.spawn("worker-0".to_owned(), dies).unwrap();
        let mut threads = 1;
        let died = Err("a thread died of a panic");
        assert_eq!(wait(&events, Instant::now(), SOON, &mut threads), died);

        lifecycle.spawn("worker-0".to_owned(), || ()).unwrap();
        assert_eq!(wait(&events, Instant::now(), SOON, &mut threads), Ok(()));
        assert_eq!(threads, 0);
    }

    #[test]
    fn a_signal_within_a_second_of_the_first_is_that_one() {
        let first = Instant::now();
        for (ms, waited) in [(0, Ok(())), (1000, Ok(())), (1001, Err("a second signal came"))] {
            let (signals, events) = channel();
            let (name, at) = ("SIGTERM", first + Duration::from_millis(ms));
            signals.send(Event::Signal { name, at }).unwrap();
            assert_eq!(wait(&events, first, Duration::ZERO, &mut 1), waited, "{ms}");
        }
    }
}
