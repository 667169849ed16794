//! `Idempotency-Key`: a request that may arrive twice and must run once, over all replicas.
//!
//! ```text
//! idem:KEY absent        ─▶ "running <fingerprint>", for the request's own deadline, if absent
//!                           run; then "done <fingerprint> <outcome>", for IDEMPOTENCY_TTL
//! idem:KEY running       ─▶ 409, Retry-After
//! idem:KEY done, same    ─▶ the stored outcome, Idempotency-Replayed: true
//! idem:KEY of another    ─▶ 422
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
use crate::http::{self, Head, Response, header};
use crate::store::{Answer, Command, When};
use serde_json::{Value, json};
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
        let record: Value = serde_json::from_slice(record).map_err(|_| REUSED)?;
        if record["of"] != self.fingerprint.as_str() {
            return Err(REUSED);
        }
        let replayed =
            |response: Response| response.with_header(header("Idempotency-Replayed", "true"));
        match record["status"].as_u64() {
            None => Err(Problem {
                retry_after: Some(1),
                ..RUNNING
            }),
            Some(404) => Err(NOT_FOUND.replayed()),
            Some(412) => Err(FAILED.replayed()),
            Some(status) => {
                let status = u16::try_from(status).unwrap_or(500);
                let mut response = match record["body"].as_str() {
                    Some(body) => http::json(status, body.as_bytes().to_vec()),
                    None => http::empty(status),
                };
                for name in ["Location", "ETag", "Cache-Control"] {
                    let field = record[name]
                        .as_str()
                        .and_then(|value| http::checked_header(name, value));
                    field
                        .into_iter()
                        .for_each(|field| response.add_header(field));
                }
                Ok(replayed(response))
            }
        }
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
        json!({ "of": self.fingerprint }).to_string().into_bytes()
    }

    /// The record of an outcome that may be replayed.
    fn record(&self, outcome: Outcome) -> (Option<Vec<u8>>, Outcome) {
        let mut record = json!({ "of": self.fingerprint });
        let outcome = match outcome {
            Err(problem) if problem == NOT_FOUND || problem == FAILED => {
                record["status"] = problem.status.into();
                Err(problem)
            }
            Err(problem) => return (None, Err(problem)),
            Ok(response) => {
                record["status"] = response.status_code().0.into();
                for field in response.headers() {
                    let name = field.field.as_str().as_str();
                    if matches!(name, "Location" | "ETag" | "Cache-Control") {
                        record[name] = field.value.as_str().into();
                    }
                }
                let (response, body) = http::take_body(response);
                if !body.is_empty() {
                    record["body"] = String::from_utf8_lossy(&body).into_owned().into();
                }
                Ok(http::with_body(response, body))
            }
        };
        (Some(record.to_string().into_bytes()), outcome)
    }
}
