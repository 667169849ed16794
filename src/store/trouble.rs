//! What is logged for operators while requests fail because of the store: once when it begins, with what to do; every
//! minute while it lasts, with how many requests failed; and when it is over.
//!
//! ```text
//! WARN  redis: requests fail: OOM command not allowed when used memory > 'maxmemory'; its memory is full: …
//! WARN  redis: requests still fail (OOM): 318 in 120 s
//! INFO  redis: requests no longer fail (OOM): 330 did in 134 s
//! ```
//!
//! A count for `RATE_LIMIT` that fails costs its request nothing, so that is told for itself: `RATE_LIMIT does not hold,
//! requests pass uncounted: …`.
//!
//! One [`Trouble`] for all workers, so that each kind is logged once. Kinds are those of
//! [`advice`](crate::resp::advice), and a few for failures without an error reply. Trouble is over when a request
//! succeeds of the sort that would have failed, and none has failed in that way for `QUIET`: only part of a cluster may
//! be in trouble. Probes count as requests: to the store they are. Each single failure is logged at `debug`.

use super::{Answer, Replies, StoreError, Tag};
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
    /// Counts the failures and successes among a session's replies, abandoned commands included; `is_count` tells of one
    /// that failed whether it was to count a request for `RATE_LIMIT`.
    pub fn hear(&self, now: Instant, replies: &Replies, is_count: impl Fn(Tag) -> bool) {
        let is_all_well = replies.is_empty() || !self.any.load(Ordering::Relaxed);
        if replies.has_failed() || !is_all_well {
            self.judge(now, replies, &is_count);
        }
    }

    #[cold]
    fn judge(&self, now: Instant, replies: &Replies, is_count: &dyn Fn(Tag) -> bool) {
        let mut lines = Vec::new();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for (tag, e) in replies.iter().filter_map(|(tag, reply)| Some((tag, reply.err()?))) {
            let line = ledger.failed(now, &e, is_count(tag));
            lines.extend(line.map(|line| (log::Level::Warn, line)));
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
        let successes = || replies.iter().filter_map(|(_, reply)| reply.ok());
        if successes().next().is_some() {
            let wrote = successes().any(is_write);
            let counted = successes().any(|answer| matches!(answer, Answer::Taken { .. }));
            let ended = ledger.succeeded(now, wrote, counted);
            lines.extend(ended.into_iter().map(|line| (log::Level::Info, line)));
        }
        self.any.store(ledger.0.values().any(|kind| kind.open), Ordering::Relaxed);
        drop(ledger);
        for (level, line) in lines {
            log::log!(level, "redis: {line}");
        }
    }
}

/// Every kind of trouble seen so far, that of counts for `RATE_LIMIT` apart.
#[derive(Debug, Default)]
struct Ledger(HashMap<(&'static str, bool), Kind>);

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
    fn failed(&mut self, now: Instant, e: &StoreError, is_count: bool) -> Option<String> {
        let (name, text, writes_only) = recognise(e);
        let kind = self.0.entry((name, is_count)).or_insert(Kind {
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
            let still = if is_count { "still pass uncounted" } else { "still fail" };
            return Some(format!("requests {still} ({name}): {n} in {s} s"));
        }
        let said = match e {
            StoreError::Unavailable(said) | StoreError::Refused(said) => said.clone(),
            e => e.to_string(),
        };
        let said = said.trim_end_matches('.');
        let what = match is_count {
            true => "RATE_LIMIT does not hold, requests pass uncounted",
            false => "requests fail",
        };
        let text = match (is_count, e) {
            (true, StoreError::Timeout) => Some("a count has a tenth of REQUEST_TIMEOUT"),
            _ => text,
        };
        Some(match text {
            Some(text) => format!("{what}: {said}; {text}"),
            None => format!("{what}: {said}"),
        })
    }

    /// Notes that requests have succeeded, whether one of them wrote, and whether one was counted; gives a line for each
    /// trouble that this ends.
    fn succeeded(&mut self, now: Instant, wrote: bool, counted: bool) -> Vec<String> {
        let is_over = |is_count: bool, kind: &Kind| {
            let quiet = now.saturating_duration_since(kind.failed) >= QUIET;
            kind.open && quiet && if is_count { counted } else { wrote || !kind.writes_only }
        };
        let mut lines = Vec::new();
        for ((name, is_count), kind) in &mut self.0 {
            if !is_over(*is_count, kind) {
                continue;
            }
            kind.open = false;
            if kind.announced {
                let (n, s) = (kind.requests, seconds(kind.began, kind.failed));
                let what = if *is_count { "pass uncounted" } else { "fail" };
                lines.push(format!("requests no longer {what} ({name}): {n} did in {s} s"));
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
        let begun = ledger.failed(at(0), &oom(), false).unwrap();
        assert!(begun.starts_with("requests fail: OOM command not allowed; its memory is full"));
        for s in 1..60 {
            assert_eq!(ledger.failed(at(s), &oom(), false), None, "{s}");
        }
        let still = "requests still fail (OOM): 61 in 60 s";
        assert_eq!(ledger.failed(at(60), &oom(), false).as_deref(), Some(still));
        assert_eq!(ledger.failed(at(61), &oom(), false), None);
        // Too soon after the failure; and then a read, which proves nothing about writes.
        assert_eq!(ledger.succeeded(at(61), true, true), Vec::<String>::new());
        assert_eq!(ledger.succeeded(at(62), false, false), Vec::<String>::new());
        let over = "requests no longer fail (OOM): 62 did in 61 s";
        assert_eq!(ledger.succeeded(at(62), true, true), [over]);
        assert_eq!(ledger.succeeded(at(63), true, true), Vec::<String>::new());
    }

    /// An end and a beginning every few seconds are two lines in a minute, not two every few seconds.
    #[test]
    fn trouble_that_comes_and_goes_is_told_once_a_minute() {
        let (mut ledger, zero) = (Ledger::default(), Instant::now());
        let mut lines = Vec::new();
        for s in (0..120).step_by(2) {
            let at = |s| zero + Duration::from_secs(s);
            lines.extend(ledger.failed(at(s), &StoreError::Timeout, false));
            lines.extend(ledger.succeeded(at(s + 1), false, false));
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
            assert_eq!(ledger.failed(now, &e, false).is_some(), told, "{e}");
        }
    }

    /// The request goes on uncounted: whoever looks for one that failed finds none.
    #[test]
    fn a_count_that_fails_is_no_request_that_fails() {
        let (mut ledger, zero) = (Ledger::default(), Instant::now());
        let at = |s| zero + Duration::from_secs(s);
        let begun = ledger.failed(at(0), &StoreError::Timeout, true).unwrap();
        assert_eq!(
            begun,
            "RATE_LIMIT does not hold, requests pass uncounted: no answer in time; a count has a tenth of \
             REQUEST_TIMEOUT"
        );
        let still = "requests still pass uncounted (no answer in time): 2 in 60 s";
        assert_eq!(ledger.failed(at(60), &StoreError::Timeout, true).as_deref(), Some(still));
        assert!(
            ledger.failed(at(60), &StoreError::Timeout, false).is_some(),
            "it is another trouble"
        );
        let over = "requests no longer fail (no answer in time): 1 did in 0 s";
        assert_eq!(ledger.succeeded(at(62), true, false), [over]);
        let over = "requests no longer pass uncounted (no answer in time): 2 did in 60 s";
        assert_eq!(ledger.succeeded(at(63), true, true), [over]);
    }
}
