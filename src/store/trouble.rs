//! What is logged for operators while requests fail because of the store: once when it begins, with what to do; every
//! minute while it lasts, with how many requests failed; and when it is over.
//!
//! ```text
//! WARN  redis: requests fail: OOM command not allowed when used memory > 'maxmemory'; its memory is full: …
//! WARN  redis: requests still fail (OOM): 318 in 120 s
//! INFO  redis: requests no longer fail (OOM): 330 did in 134 s
//! ```
//!
//! One [`Trouble`] for all workers, so that each kind is logged once. Kinds are those of
//! [`advice`](crate::resp::advice), and a few for failures without an error reply. Trouble is over when a request
//! succeeds of the sort that would have failed, and none has failed in that way for `QUIET`: only part of a cluster may
//! be in trouble. Probes count as requests: to the store they are. Each single failure is logged at `debug`.

use super::{Answer, Replies, StoreError};
use crate::resp::advice::advice;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One kind of trouble is logged at most this often, not counting its end.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// After this long without a failure, a success ends the trouble.
const QUIET: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Whether there is any trouble: without it a success has nothing to end, and takes no lock.
    any: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Trouble {
    /// Counts the failures and successes among a session's replies, abandoned commands included.
    pub fn hear(&self, now: Instant, replies: &Replies) {
        let is_all_well = replies.is_empty() || !self.any.load(Ordering::Relaxed);
        if replies.has_failed() || !is_all_well {
            self.judge(now, replies);
        }
    }

    #[cold]
    fn judge(&self, now: Instant, replies: &Replies) {
        let mut lines = Vec::new();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for e in replies.iter().filter_map(|(_, reply)| reply.err()) {
            lines.extend(ledger.failed(now, &e).map(|line| (log::Level::Warn, line)));
        }
        let is_write = |answer: Answer<&[u8]>| {
            matches!(
                answer,
                Answer::Stored
                    | Answer::Done { .. }
                    | Answer::Taken { .. }
                    | Answer::Removed(_)
                    | Answer::Pong
                    | Answer::Partial(_)
            )
        };
        let mut successes = replies.iter().filter_map(|(_, reply)| reply.ok());
        if let Some(first) = successes.next() {
            let wrote = is_write(first) || successes.any(is_write);
            let ended = ledger.succeeded(now, wrote);
            lines.extend(ended.into_iter().map(|line| (log::Level::Info, line)));
        }
        self.any.store(ledger.0.values().any(|kind| kind.open), Ordering::Relaxed);
        drop(ledger);
        for (level, line) in lines {
            log::log!(level, "redis: {line}");
        }
    }
}

/// Every kind of trouble seen so far.
#[derive(Debug, Default)]
struct Ledger(HashMap<&'static str, Kind>);

#[derive(Debug)]
struct Kind {
    open: bool,
    began: Instant,
    failed: Instant,
    requests: u64,
    /// Only writes fail in this way.
    writes_only: bool,
    /// When it was last logged that requests fail, and whether that was since this trouble began.
    told: Option<Instant>,
    announced: bool,
}

impl Ledger {
    /// Notes a failed request; gives the line to log, if one is due.
    fn failed(&mut self, now: Instant, e: &StoreError) -> Option<String> {
        let (name, text, writes_only) = recognise(e);
        let kind = self.0.entry(name).or_insert(Kind {
            open: false,
            began: now,
            failed: now,
            requests: 0,
            writes_only,
            told: None,
            announced: false,
        });
        if !kind.open {
            (kind.open, kind.began, kind.requests, kind.announced) = (true, now, 0, false);
        }
        kind.requests += 1;
        kind.failed = now;
        let early = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        if kind.told.is_some_and(early) {
            return None;
        }
        kind.told = Some(now);
        if std::mem::replace(&mut kind.announced, true) {
            let (n, s) = (kind.requests, seconds(kind.began, now));
            return Some(format!("requests still fail ({name}): {n} in {s} s"));
        }
        let said = match e {
            StoreError::Unavailable(said) | StoreError::Refused(said) => said.clone(),
            e => e.to_string(),
        };
        let said = said.trim_end_matches('.');
        Some(match text {
            Some(text) => format!("requests fail: {said}; {text}"),
            None => format!("requests fail: {said}"),
        })
    }

    /// Notes a successful request; gives a line for each trouble that it ends.
    fn succeeded(&mut self, now: Instant, wrote: bool) -> Vec<String> {
        let is_over = |kind: &Kind| {
            let quiet = now.saturating_duration_since(kind.failed) >= QUIET;
            kind.open && quiet && (wrote || !kind.writes_only)
        };
        let mut lines = Vec::new();
        for (name, kind) in self.0.iter_mut().filter(|(_, kind)| is_over(kind)) {
            kind.open = false;
            if kind.announced {
                let (n, s) = (kind.requests, seconds(kind.began, kind.failed));
                lines.push(format!("requests no longer fail ({name}): {n} did in {s} s"));
            }
        }
        lines
    }
}

/// The kind of trouble, what to do about it, and whether it affects only writes. There are no more kinds than there are
/// rows here and in the table of advice.
fn recognise(e: &StoreError) -> (&'static str, Option<&'static str>, bool) {
    match e {
        StoreError::Timeout => (
            "no answer in time",
            Some(
                "it is frozen, overloaded or far away: look at its CPU, SLOWLOG GET and the network; REQUEST_TIMEOUT is what it has",
            ),
            false,
        ),
        StoreError::Unreachable(_) | StoreError::Broken(_) => (
            "no connection",
            Some("look whether it runs, at REDIS_ADDR or REDIS_URL, and at the network"),
            false,
        ),
        StoreError::Overloaded => (
            "too many waiting",
            Some("more is asked than it answers: look at its CPU and SLOWLOG GET"),
            false,
        ),
        StoreError::Full => ("full", None, true),
        StoreError::Unavailable(said) | StoreError::Refused(said) => match advice(said) {
            Some(advice) => (advice.kind, Some(advice.text), advice.writes_only),
            None => ("an error", None, false),
        },
    }
}

fn seconds(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oom() -> StoreError {
        StoreError::Unavailable("OOM command not allowed.".to_owned())
    }

    #[test]
    fn trouble_is_told_when_it_begins_every_minute_and_when_it_ends() {
        let (mut ledger, zero) = (Ledger::default(), Instant::now());
        let at = |s| zero + Duration::from_secs(s);
        let begun = ledger.failed(at(0), &oom()).unwrap();
        assert!(begun.starts_with("requests fail: OOM command not allowed; its memory is full"));
        for s in 1..60 {
            assert_eq!(ledger.failed(at(s), &oom()), None, "{s}");
        }
        let still = "requests still fail (OOM): 61 in 60 s";
        assert_eq!(ledger.failed(at(60), &oom()).as_deref(), Some(still));
        assert_eq!(ledger.failed(at(61), &oom()), None);
        // Too soon after the failure; and then a read, which proves nothing about writes.
        assert_eq!(ledger.succeeded(at(61), true), Vec::<String>::new());
        assert_eq!(ledger.succeeded(at(62), false), Vec::<String>::new());
        let over = "requests no longer fail (OOM): 62 did in 61 s";
        assert_eq!(ledger.succeeded(at(62), true), [over]);
        assert_eq!(ledger.succeeded(at(63), true), Vec::<String>::new());
    }

    /// An end and a beginning every few seconds are two lines in a minute, not two every few seconds.
    #[test]
    fn trouble_that_comes_and_goes_is_told_once_a_minute() {
        let (mut ledger, zero) = (Ledger::default(), Instant::now());
        let mut lines = Vec::new();
        for s in (0..120).step_by(2) {
            let at = |s| zero + Duration::from_secs(s);
            lines.extend(ledger.failed(at(s), &StoreError::Timeout));
            lines.extend(ledger.succeeded(at(s + 1), false));
        }
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2].starts_with("requests fail: no answer in time; "));
        assert_eq!(lines[3], "requests no longer fail (no answer in time): 1 did in 0 s");
    }

    #[test]
    fn each_kind_is_told_for_itself_and_unknown_errors_are_one_kind() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let refused = |said: &str| StoreError::Refused(said.to_owned());
        for (e, told) in [
            (oom(), true),
            (StoreError::Timeout, true),
            (StoreError::Unreachable("refused".to_owned()), true),
            (StoreError::Broken("closed".to_owned()), false),
            (refused("ERR syntax error"), true),
            (refused("ERR whatever else"), false),
            (refused("NOPERM no"), true),
            (oom(), false),
        ] {
            assert_eq!(ledger.failed(now, &e).is_some(), told, "{e}");
        }
    }
}
