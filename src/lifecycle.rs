//! From start to exit: four states, the signals that move between them, and every long-lived thread.
//!
//! ```text
//! Starting ─▶ Ready ─▶ Draining ─▶ Stopped
//!             │        │           └ accepts nothing more; finishes what is in flight; exits
//!             │        └ SIGTERM, SIGINT or SIGQUIT: /readyz is 503, every response says `Connection:
//!             │          close`, and for DRAIN_DELAY all else goes on, while load balancers take note
//!             └ accepts and answers
//! ```
//!
//! No other signal that has a use ends the process: at SIGHUP tokens are read again, SIGUSR1, SIGUSR2 and SIGXFSZ (a
//! log file at its size limit) do nothing. SIGPIPE is ignored by Rust's runtime already.
//!
//! The state is one byte that every thread may read and only `main` changes. Threads are started here so that their
//! end, wanted or not, arrives as an event in the same queue as the signals: a worker that dies ends the process
//! instead of leaving one that accepts and never answers.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

/// The state of the process. The order of the variants is the order in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Not accepting yet.
    Starting,
    /// Accepting and answering.
    Ready,
    /// Still accepting and answering, and closing connections so that clients go to another replica.
    Draining,
    /// Accepting nothing more, finishing what is in flight.
    Stopped,
}

/// An event that `main` has to react to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM, SIGINT or SIGQUIT has come.
    Signal {
        /// The signal.
        name: &'static str,
        /// When it came.
        at: Instant,
    },
    /// A thread has ended; with `panicked`, by a bug.
    Ended {
        /// Its name.
        thread: String,
        /// Whether it died.
        panicked: bool,
    },
}

/// The shared state and the queue of events.
#[derive(Debug)]
pub struct Lifecycle {
    state: AtomicU8,
    events: Sender<Event>,
}

impl Lifecycle {
    /// The lifecycle in `Starting`, and the receiving end of its events.
    pub fn new() -> (Arc<Lifecycle>, Receiver<Event>) {
        let (events, queue) = channel();
        (Arc::new(Lifecycle { state: AtomicU8::new(State::Starting as u8), events }), queue)
    }

    /// The present state.
    pub fn state(&self) -> State {
        // Relaxed: the state guards no other memory, and whether one response more or less says `close` does not
        // matter.
        match self.state.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            2 => State::Draining,
            _ => State::Stopped,
        }
    }

    /// Moves to a later state; never back.
    pub fn advance(&self, state: State) {
        self.state.fetch_max(state as u8, Ordering::Relaxed);
    }

    /// Turns the signals that end the service into events from now on; SIGHUP, which ends a process that has no handler
    /// for it, calls `read_again`.
    ///
    /// # Errors
    /// When the operating system refuses the handlers or the thread that waits for them.
    pub fn watch_signals(&self, read_again: impl Fn() + Send + 'static) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP])?;
        let events = self.events.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let (name, at) = (signal_name(signal).unwrap_or("a signal"), Instant::now());
                if signal == SIGHUP {
                    read_again();
                } else if events.send(Event::Signal { name, at }).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Starts a thread whose end is an event.
    ///
    /// # Errors
    /// When the operating system cannot start another thread; the message names it.
    pub fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (events, thread) = (self.events.clone(), name.clone());
        let run = move || {
            let panicked = catch_unwind(AssertUnwindSafe(run)).is_err();
            // The receiver is gone only when `main` has ended already.
            let _ = events.send(Event::Ended { thread, panicked });
        };
        let named = |e: io::Error| {
            io::Error::new(e.kind(), format!("failed to start the thread {name}: {e}"))
        };
        thread::Builder::new().name(name.clone()).spawn(run).map(drop).map_err(named)
    }

    /// Reports that a thread died that was not started here and that the service cannot do without.
    pub fn died(&self, thread: &str) {
        let thread = thread.to_owned();
        // The receiver is gone only when `main` has ended already.
        let _ = self.events.send(Event::Ended { thread, panicked: true });
    }
}

/// From now on these signals do nothing: one from a log rotation, one from a tool that checks whether the process
/// exists, one for a file that has reached `ulimit -f`, which the write reports as an error; and SIGHUP, which may come
/// before there is anything to read again.
///
/// # Errors
/// When the operating system refuses the handlers.
pub fn ignore_signals() -> io::Result<()> {
    // The handler sets a flag that is never read; std and signal-hook have no call for "ignore".
    let unread = Arc::new(AtomicBool::new(false));
    [SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ]
        .into_iter()
        .try_for_each(|signal| signal_hook::flag::register(signal, Arc::clone(&unread)).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_on_and_never_back() {
        let (lifecycle, _events) = Lifecycle::new();
        assert_eq!(lifecycle.state(), State::Starting);
        for state in [State::Ready, State::Stopped, State::Draining] {
            lifecycle.advance(state);
        }
        assert_eq!(lifecycle.state(), State::Stopped);
    }

    /// One that is not ignored ends this process.
    #[test]
    fn no_signal_that_is_ignored_ends_the_process() {
        ignore_signals().unwrap();
        for signal in [SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ] {
            signal_hook::low_level::raise(signal).unwrap();
        }
    }

    #[test]
    fn the_end_of_a_thread_is_an_event_also_when_it_panics() {
        let (lifecycle, events) = Lifecycle::new();
        lifecycle.spawn("a".to_owned(), || {}).unwrap();
        assert_eq!(events.recv(), Ok(Event::Ended { thread: "a".to_owned(), panicked: false }));
        lifecycle.spawn("b".to_owned(), || panic!("a panic this test wants")).unwrap();
        assert_eq!(events.recv(), Ok(Event::Ended { thread: "b".to_owned(), panicked: true }));
    }
}
