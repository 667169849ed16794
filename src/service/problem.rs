//! An error as a value: every status, code and text, in one place.
//!
//! A problem stays a plain value as long as possible, so that rules can return it with `?` and tests compare it;
//! [`Problem::respond`] prints it as `application/problem+json` (RFC 9457).

use crate::http::{self, ContentType, Extra, ParseError, Response};
use crate::store::StoreError;
use std::borrow::Cow;

/// A refusal or a failure, on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable word for programs, in snake case.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: Cow<'static, str>,
    /// The field that says what would have been right, or when to retry.
    pub extra: Extra<'static>,
}

impl Problem {
    /// A problem with no field of its own.
    pub const fn new(status: u16, code: &'static str, detail: &'static str) -> Problem {
        Problem::with(Extra::None, status, code, detail)
    }

    /// A problem with a field that says what would have been right.
    pub const fn with(
        extra: Extra<'static>,
        status: u16,
        code: &'static str,
        detail: &'static str,
    ) -> Problem {
        Problem { status, code, detail: Cow::Borrowed(detail), extra }
    }

    /// 405 with the methods the path does have.
    pub const fn method_not_allowed(allow: &'static str) -> Problem {
        let extra = Extra::Allow(allow, None);
        Problem::with(extra, 405, "method_not_allowed", "method not allowed")
    }

    /// The same problem with another detail text.
    pub fn detailed(mut self, detail: String) -> Problem {
        self.detail = Cow::Owned(detail);
        self
    }

    /// 413: `what` may have this many bytes.
    pub fn too_large(what: &str, bytes_max: usize) -> Problem {
        Problem::new(413, "body_too_large", "")
            .detailed(format!("{what} is too large: at most {bytes_max} bytes"))
    }

    /// 503: retry after a second.
    pub const fn overloaded(detail: &'static str) -> Problem {
        Problem::with(Extra::RetryAfter(1), 503, "overloaded", detail)
    }

    /// A handler panicked; the log has the details.
    pub const INTERNAL: Problem = Problem::new(500, "internal_error", "internal error");

    /// Whether the request broke the protocol or exceeded its limits, rather than a rule of the service. A front logs
    /// and counts such a request as refused.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, "bad_request" | "body_too_large" | "expectation_failed")
    }

    /// The response, with the request's id in it; its body is written to `buffer`.
    pub fn respond<'a>(&self, request_id: &[u8], buffer: &'a mut Vec<u8>) -> Response<'a> {
        buffer.clear();
        http::write_problem(buffer, self.status, self.code, &self.detail, request_id);
        Response {
            extra: self.extra.clone(),
            // A problem describes this moment: without `no-store` a cache may keep a 404 or a 501 for a while (RFC 9111
            // §4.2.2).
            no_store: true,
            ..Response::of(self.status, ContentType::Problem, buffer.as_slice())
        }
    }
}

impl From<ParseError> for Problem {
    fn from(e: ParseError) -> Problem {
        Problem::new(e.status(), e.code(), e.detail())
    }
}

/// Store trouble is never a 404 and never a success.
impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Problem {
        // The store's own message goes to the log, not to the client: it reveals internals.
        let (status, code, detail) = match &e {
            StoreError::Timeout => (504, "store_timeout", "no answer in time"),
            StoreError::Unreachable(_) => (502, "store_unreachable", "cannot be reached"),
            StoreError::Broken(_) => {
                (502, "store_unreachable", "the connection broke, the outcome is unknown")
            }
            StoreError::Refused(_) => (502, "store_error", "it answered with an error"),
            StoreError::Overloaded => {
                (503, "store_unavailable", "too many requests are waiting for it")
            }
            StoreError::Unavailable(_) => (503, "store_unavailable", "it cannot serve this now"),
            StoreError::Full => (507, "store_full", "memory limit reached"),
        };
        if !matches!(e, StoreError::Overloaded) {
            log::debug!("store: {e}");
        }
        let extra = if status == 503 { Extra::RetryAfter(1) } else { Extra::None };
        Problem::with(extra, status, code, "").detailed(format!("store error: {detail}"))
    }
}

/// A store gave an answer that does not fit the command. A bug of ours, but it costs one request a 502 and does not end
/// the process.
pub fn unexpected() -> Problem {
    log::error!("BUG: the store gave an answer to another question");
    Problem::new(502, "store_error", "store error: unexpected answer")
}
