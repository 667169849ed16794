//! Small helpers for calls to the operating system.

use std::{fmt, io};

/// Makes a system error say what failed: "too many open files" alone could be anything.
pub fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("failed to {what}: {e}"))
}

/// Applies an expression to a stream of either kind. Each implementation has its own type `Stream`, of sockets from
/// different crates that have the same methods.
macro_rules! either {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($socket) => $call,
            Stream::Unix($socket) => $call,
        }
    };
}
pub(super) use either;

/// Repeats a read or write that a signal interrupted, or the pause of a process that was stopped.
pub fn undisturbed<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The error for an operation on a closed socket.
pub(super) fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
