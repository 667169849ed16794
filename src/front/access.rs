//! The access log: one line for a request, by `ACCESS_LOG`.
//!
//! ```text
//! GET /items?id=7 504 2001ms id=4f3a… trace=4bf9… peer=10.0.0.9
//! ```
//!
//! `errors` means faults of the service and of the protocol: every 5xx, and every request that was
//! refused before a rule saw it (bad framing, limits, time). A 404 is an answer, not an error.

use crate::service::trace::Trace;
use std::net::IpAddr;
use std::time::Duration;

/// Which requests are logged (`ACCESS_LOG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed; the default.
    Errors,
    /// All.
    All,
}

/// What there is to say about a request when it is over.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The method, or `-` when the head was unreadable.
    pub method: &'a str,
    /// The target as sent, or `-`.
    pub target: &'a str,
    /// The status it was answered with.
    pub status: u16,
    /// Refused by the protocol, before any rule saw it; and why.
    pub refused: Option<&'a str>,
    /// From the complete head to the response.
    pub took: Duration,
    /// Its ids.
    pub trace: &'a Trace,
    /// Who asked; nobody has an address on a Unix socket.
    pub peer: Option<IpAddr>,
}

impl AccessLog {
    /// Logs the request, if it is one of those to be logged.
    pub fn record(self, entry: &Entry) {
        let failed = entry.status >= 500 || entry.refused.is_some();
        if self == AccessLog::Off || (self == AccessLog::Errors && !failed) {
            return;
        }
        let level = if entry.status >= 500 {
            log::Level::Warn
        } else {
            log::Level::Info
        };
        let mut more = String::new();
        if let Some(id) = &entry.trace.trace_id {
            more.push_str(" trace=");
            more.push_str(id);
        }
        if let Some(peer) = entry.peer {
            more.push_str(&format!(" peer={peer}"));
        }
        if let Some(why) = entry.refused {
            more.push_str(" refused: ");
            more.push_str(why);
        }
        let Entry {
            method,
            target,
            status,
            took,
            trace,
            ..
        } = entry;
        log::log!(target: "access", level, "{method} {target} {status} {}ms id={}{more}", took.as_millis(), trace.request_id);
    }
}
