//! Small things about calls to the operating system.

use std::{fmt, io};

/// Makes an error of the system say what it was that failed: "too many open files" alone could be anything.
pub fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("failed to {what}: {e}"))
}

/// Looks at a stream of either kind. The tenants have a type `Stream` each, of sockets from different crates, that
/// have the same calls.
macro_rules! either {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($socket) => $call,
            Stream::Unix($socket) => $call,
        }
    };
}
pub(super) use either;

/// Reads or writes again when a signal came in between.
pub(super) fn undisturbed<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// To whoever names a socket that is closed.
pub(super) fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
