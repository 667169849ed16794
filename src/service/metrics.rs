//! Counters, and `/metrics` in the Prometheus text format (exposition format 0.0.4).
//!
//! ```text
//! kioskd_http_responses_total{status="201"} 17
//! kioskd_http_refused_total{code="head_too_large"} 2
//! ```
//!
//! Every worker counts in a shard of its own, which nobody else writes; a scrape adds them up. So
//! counting costs no worker a cache line that another one has. Labels come from fixed sets only:
//! a client cannot make a new time series, whatever it sends.

use super::Vitals;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a request was refused before a rule saw it: the codes of [`ParseError`](crate::http::ParseError)
/// and of the front.
const REFUSALS: [&str; 11] = [
    "bad_request",
    "head_too_large",
    "too_many_headers",
    "uri_too_long",
    "body_too_large",
    "version_not_supported",
    "not_implemented",
    "expectation_failed",
    "request_timeout",
    "overloaded",
    "other",
];

/// Statuses are 100 to 599.
const STATUSES: usize = 500;

/// All shards of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// What one worker has counted.
#[derive(Debug)]
pub struct Shard {
    responses: [AtomicU64; STATUSES],
    cut: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
    panics: AtomicU64,
    connections: AtomicU64,
}

impl Metrics {
    /// A shard for one more worker.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard {
            responses: [const { AtomicU64::new(0) }; STATUSES],
            cut: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; REFUSALS.len()],
            panics: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        self.lock().push(Arc::clone(&shard));
        shard
    }

    /// The text of a scrape.
    pub fn render(&self, vitals: Vitals) -> String {
        let shards = self.lock().clone();
        let sum = |pick: &dyn Fn(&Shard) -> &AtomicU64| -> u64 {
            shards.iter().map(|s| pick(s).load(Ordering::Relaxed)).sum()
        };
        let mut out = String::with_capacity(2048);
        head(&mut out, "kioskd_build_info", "gauge", "The version that runs.");
        line(&mut out, "kioskd_build_info", Some(("version", env!("CARGO_PKG_VERSION"))), 1);
        head(&mut out, "kioskd_ready", "gauge", "1 when started and not draining.");
        line(&mut out, "kioskd_ready", None, u64::from(vitals.ready));
        head(&mut out, "kioskd_connections", "gauge", "Open connections of clients.");
        line(&mut out, "kioskd_connections", None, vitals.connections as u64);
        head(&mut out, "kioskd_requests_in_flight", "gauge", "Requests begun and not answered.");
        line(&mut out, "kioskd_requests_in_flight", None, vitals.in_flight as u64);
        head(&mut out, "kioskd_connections_total", "counter", "Connections accepted.");
        line(&mut out, "kioskd_connections_total", None, sum(&|s| &s.connections));
        head(
            &mut out,
            "kioskd_http_responses_total",
            "counter",
            "Responses, by status; 499: the client was gone before it.",
        );
        for i in 0..STATUSES {
            let n = sum(&|s| &s.responses[i]);
            if n > 0 {
                let status = (i + 100).to_string();
                line(&mut out, "kioskd_http_responses_total", Some(("status", &status)), n);
            }
        }
        head(
            &mut out,
            "kioskd_http_cut_total",
            "counter",
            "Responses cut off because the client did not take them.",
        );
        line(&mut out, "kioskd_http_cut_total", None, sum(&|s| &s.cut));
        head(
            &mut out,
            "kioskd_http_refused_total",
            "counter",
            "Requests refused before a rule saw them, by problem code.",
        );
        for (i, code) in REFUSALS.iter().enumerate() {
            let n = sum(&|s| &s.refused[i]);
            line(&mut out, "kioskd_http_refused_total", Some(("code", code)), n);
        }
        head(
            &mut out,
            "kioskd_panics_total",
            "counter",
            "Panics in a rule or in a session of the store, each of them caught: bugs.",
        );
        line(&mut out, "kioskd_panics_total", None, sum(&|s| &s.panics));
        head(
            &mut out,
            "kioskd_log_lines_dropped_total",
            "counter",
            "Log lines that stdout did not take.",
        );
        line(&mut out, "kioskd_log_lines_dropped_total", None, vitals.log_lines_dropped);
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shard>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// A request has ended with this status.
    pub fn responded(&self, status: u16) {
        if let Some(n) = self.responses.get(usize::from(status).wrapping_sub(100)) {
            add_one(n);
        }
    }

    /// A response was cut off.
    pub fn cut(&self) {
        add_one(&self.cut);
    }

    /// A request was refused with this problem code before a rule saw it.
    pub fn refused(&self, code: &str) {
        let known = REFUSALS.iter().position(|c| *c == code);
        add_one(&self.refused[known.unwrap_or(REFUSALS.len() - 1)]);
    }

    /// A rule panicked, or a session of the store.
    pub fn panicked(&self) {
        add_one(&self.panics);
    }

    /// A client was taken in.
    pub fn connected(&self) {
        add_one(&self.connections);
    }
}

/// A load and a store, not a locked instruction: a shard has one writer.
fn add_one(n: &AtomicU64) {
    n.store(n.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, label: Option<(&str, &str)>, value: u64) {
    let _ = match label {
        Some((key, text)) => writeln!(out, "{name}{{{key}=\"{text}\"}} {value}"),
        None => writeln!(out, "{name} {value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ParseError;

    const VITALS: Vitals =
        Vitals { ready: true, turning: true, connections: 3, in_flight: 2, log_lines_dropped: 5 };

    #[test]
    fn a_scrape_adds_up_all_shards() {
        let metrics = Metrics::default();
        let (a, b) = (metrics.shard(), metrics.shard());
        a.responded(200);
        b.responded(200);
        b.responded(504);
        a.refused("head_too_large");
        b.refused("what the future brings");
        a.panicked();
        b.cut();
        b.connected();
        let text = metrics.render(VITALS);
        for line in [
            "kioskd_http_responses_total{status=\"200\"} 2",
            "kioskd_http_responses_total{status=\"504\"} 1",
            "kioskd_http_refused_total{code=\"head_too_large\"} 1",
            "kioskd_http_refused_total{code=\"uri_too_long\"} 0",
            "kioskd_http_refused_total{code=\"other\"} 1",
            "kioskd_http_cut_total 1",
            "kioskd_panics_total 1",
            "kioskd_connections 3",
            "kioskd_connections_total 1",
            "kioskd_requests_in_flight 2",
            "kioskd_ready 1",
            "kioskd_log_lines_dropped_total 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn every_code_of_the_parser_has_its_own_series() {
        for e in [
            ParseError::BareLf,
            ParseError::HeadTooLarge,
            ParseError::TooManyHeaders,
            ParseError::UriTooLong,
            ParseError::BodyTooLarge,
            ParseError::VersionNotSupported,
            ParseError::MethodTooLong,
            ParseError::TrailersTooLarge,
        ] {
            assert!(REFUSALS.contains(&e.code()), "{e:?}: {}", e.code());
        }
    }

    #[test]
    fn odd_statuses_are_not_counted_and_do_not_panic() {
        let shard = Metrics::default().shard();
        for status in [0, 99, 100, 599, 600, u16::MAX] {
            shard.responded(status);
        }
    }
}
