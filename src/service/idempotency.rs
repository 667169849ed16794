//! `Idempotency-Key`: a request that may arrive twice and must run once, over all replicas.
//!
//! ```text
//! idem:KEY absent        ─▶ claimed, for the request's own deadline; run; then the outcome is put
//!                           in place of the claim, for IDEMPOTENCY_TTL
//! idem:KEY claimed       ─▶ 409, Retry-After
//! idem:KEY, same request ─▶ the stored outcome, Idempotency-Replayed: true
//! idem:KEY, another one  ─▶ 422
//!
//! record = fingerprint⏎ [status⏎ Location⏎ ETag⏎ Cache-Control⏎ body]     no status: it runs
//! ```
//!
//! Claiming the key and recording the outcome are one atomic step each. Server errors are not
//! recorded: the key is given free, so that the client's retry runs. A replica that dies in between
//! blocks the key no longer than one request may take. What the client is told is always what
//! happened: when the outcome cannot be recorded any more, it is still given, and a repeat after
//! that may run again.
//!
//! The header is that of draft-ietf-httpapi-idempotency-key-header; its value is taken as it is, with
//! or without the quotes of a structured string.

use super::Options;
use super::condition::FAILED;
use super::etag::etag;
use super::items::NOT_FOUND;
use super::problem::{Problem, unexpected};
use super::step::{Outcome, Step};
use crate::http::{self, Head, header};
use crate::store::{Answer, Command, When};
use std::time::Duration;

const BAD_KEY: Problem = Problem::new(400, "bad_idempotency_key", "bad Idempotency-Key");
const REUSED: Problem = Problem::new(
    422,
    "idempotency_key_reused",
    "this Idempotency-Key was used with a different request",
);
const RUNNING: Problem = Problem::new(
    409,
    "idempotency_key_in_use",
    "the first request with this Idempotency-Key still runs",
);

/// The fields of a response that its record keeps. A line break cannot be in them.
const FIELDS: [&str; 3] = ["Location", "ETag", "Cache-Control"];

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// One request under an idempotency key.
#[derive(Debug, Clone)]
pub struct Idempotency {
    key: Vec<u8>,
    /// What tells this request from another: method, target, conditions, type, body.
    fingerprint: String,
    /// How long a claim holds without an outcome.
    claim: Duration,
    /// How long an outcome is kept.
    ttl: Duration,
}

impl Idempotency {
    /// What the head says; `None` without the field.
    ///
    /// # Errors
    /// The key is empty, too long, given twice, or not printable ASCII.
    pub fn of(options: &Options, head: &Head) -> Result<Option<Idempotency>, Problem> {
        let mut values = head.all("idempotency-key");
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let text = value
            .strip_prefix('"')
            .and_then(|v| v.strip_suffix('"'))
            .unwrap_or(value);
        let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
        if values.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX || !printable {
            return Err(BAD_KEY);
        }
        let mut about = format!("{}\n{}\n", head.method.as_str(), head.target.as_str());
        for name in ["if-match", "if-none-match", "content-type"] {
            head.all(name).for_each(|v| about.extend([v, ","]));
            about.push('\n');
        }
        let key = [b"idem:", text.as_bytes()].concat();
        Ok(Some(Idempotency {
            key,
            fingerprint: about,
            claim: options.request_timeout,
            ttl: options.idempotency_ttl,
        }))
    }

    /// The same, now that the body is known.
    pub fn with_body(mut self, body: &[u8]) -> Idempotency {
        let whole = [self.fingerprint.as_bytes(), body].concat();
        // A hash in quotes; without them it needs no escapes in a record.
        self.fingerprint = etag(&whole).trim_matches('"').to_owned();
        self
    }

    /// Runs `run` unless it ran before or runs now.
    pub fn guard(self, run: impl FnOnce() -> Step + Send + 'static) -> Step {
        let claim = Command::Set {
            key: self.key.clone(),
            value: self.claimed(),
            ttl: Some(self.claim),
            when: When::Absent,
        };
        Step::ask(claim, move |answer| match answer {
            Ok(Answer::Stored) => run().then(move |outcome| self.settle(outcome)),
            Ok(Answer::Unmet) => self.look(run),
            Ok(other) => unexpected(&other).into(),
            Err(e) => Problem::from(e).into(),
        })
    }

    /// Somebody was here before.
    fn look(self, run: impl FnOnce() -> Step + Send + 'static) -> Step {
        Step::ask(
            Command::Get {
                key: self.key.clone(),
                touch: None,
            },
            move |answer| match answer {
                Ok(Answer::Value(Some(record))) => Step::Done(self.replay(&record)),
                // Given free, or run out, just now: it is ours to claim.
                Ok(Answer::Value(None)) => self.guard(run),
                Ok(other) => unexpected(&other).into(),
                Err(e) => Problem::from(e).into(),
            },
        )
    }

    fn replay(&self, record: &[u8]) -> Outcome {
        let mut lines = record.splitn(6, |byte| *byte == b'\n');
        let mut line = || lines.next().and_then(|line| std::str::from_utf8(line).ok());
        if line() != Some(&self.fingerprint) {
            return Err(REUSED);
        }
        let Some(status) = line().and_then(|status| status.parse().ok()) else {
            return Err(Problem {
                retry_after: Some(1),
                ..RUNNING
            });
        };
        match status {
            404 => return Err(NOT_FOUND.replayed()),
            412 => return Err(FAILED.replayed()),
            _ => {}
        }
        let fields = FIELDS.map(|name| (name, line().unwrap_or_default()));
        let mut response = match lines.next() {
            Some(body) if !body.is_empty() => http::json(status, body.to_vec()),
            _ => http::empty(status),
        };
        for (name, value) in fields {
            let field = http::checked_header(name, value).filter(|_| !value.is_empty());
            field
                .into_iter()
                .for_each(|field| response.add_header(field));
        }
        Ok(response.with_header(header("Idempotency-Replayed", "true")))
    }

    /// The request has run: records what came of it, or gives the key free.
    fn settle(self, outcome: Outcome) -> Step {
        let when = When::Unchanged(self.claimed());
        let (record, response) = match self.record(outcome) {
            (Some(record), outcome) => (record, outcome),
            (None, outcome) => {
                let free = Command::Delete {
                    key: self.key.clone(),
                    when,
                };
                return Step::ask(free, |_| Step::Done(outcome));
            }
        };
        let keep = Command::Set {
            key: self.key.clone(),
            value: record,
            ttl: Some(self.ttl),
            when,
        };
        // It has happened, so that is what the client is told, recorded or not.
        Step::ask(keep, |_| Step::Done(response))
    }

    fn claimed(&self) -> Vec<u8> {
        format!("{}\n", self.fingerprint).into_bytes()
    }

    /// The record of an outcome that may be replayed.
    fn record(&self, outcome: Outcome) -> (Option<Vec<u8>>, Outcome) {
        match outcome {
            Err(problem) if problem == NOT_FOUND || problem.status == FAILED.status => {
                let record = format!("{}\n{}\n\n\n\n", self.fingerprint, problem.status);
                (Some(record.into_bytes()), Err(problem))
            }
            Err(problem) => (None, Err(problem)),
            Ok(response) => {
                let mut record = format!("{}\n{}\n", self.fingerprint, response.status_code().0);
                for name in FIELDS {
                    let field = response
                        .headers()
                        .iter()
                        .find(|field| field.field.equiv(name));
                    record.push_str(field.map_or("", |field| field.value.as_str()));
                    record.push('\n');
                }
                let (response, body) = http::take_body(response);
                let record = [record.as_bytes(), &body].concat();
                (Some(record), Ok(http::with_body(response, body)))
            }
        }
    }
}
