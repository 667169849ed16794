//! What went wrong, as a value: the texts and codes of API.md, "Errors", in one place.
//!
//! A problem is a plain value for as long as it can be, so that rules can return it with `?` and
//! tests compare it; [`Problem::respond`] prints it as `application/problem+json` (RFC 9457).

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
    /// What would have been right.
    pub right: Right,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
}

/// What would have been right, in the field that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing that a field could say.
    Unsaid,
    /// `Allow`: these methods (405).
    Methods(&'static str),
    /// `Accept-Patch`: these types (415).
    Patches(&'static str),
    /// `Accept-Encoding: identity` (415).
    Plain,
}

impl Problem {
    /// A problem with no header of its own.
    pub const fn new(status: u16, code: &'static str, detail: &'static str) -> Problem {
        Problem {
            status,
            code,
            detail: Cow::Borrowed(detail),
            right: Right::Unsaid,
            retry_after: None,
        }
    }

    /// 405 with the methods the path does have.
    pub const fn method_not_allowed(allow: &'static str) -> Problem {
        Problem::new(405, "method_not_allowed", "method not allowed").with(Right::Methods(allow))
    }

    /// The same with a field of its own.
    pub const fn with(mut self, right: Right) -> Problem {
        self.right = right;
        self
    }

    /// The same in other words.
    pub fn detailed(mut self, detail: String) -> Problem {
        self.detail = Cow::Owned(detail);
        self
    }

    /// 413: `what` may have this many bytes.
    pub fn too_large(what: &str, bytes_max: usize) -> Problem {
        Problem::new(413, "body_too_large", "")
            .detailed(format!("{what} is too large: at most {bytes_max} bytes"))
    }

    /// 503: come back in a second.
    pub const fn overloaded(detail: &'static str) -> Problem {
        let mut problem = Problem::new(503, "overloaded", detail);
        problem.retry_after = Some(1);
        problem
    }

    /// A handler panicked; the log knows more.
    pub const INTERNAL: Problem = Problem::new(500, "internal_error", "internal error");

    /// Whether the protocol was broken or its limits were, and not a rule of ours. A front logs and
    /// counts such a request as refused.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, "bad_request" | "body_too_large" | "expectation_failed")
    }

    /// The response, with the request's id in it; its body is written to `buffer`.
    pub fn respond<'a>(&self, request_id: &[u8], buffer: &'a mut Vec<u8>) -> Response<'a> {
        buffer.clear();
        http::write_problem(buffer, self.status, self.code, &self.detail, request_id);
        Response {
            extra: match self.right {
                Right::Unsaid => self.retry_after.map_or(Extra::None, Extra::RetryAfter),
                Right::Methods(methods) => Extra::Allow(methods, None),
                Right::Patches(types) => Extra::AcceptPatch(types),
                Right::Plain => Extra::AcceptIdentity,
            },
            // It speaks of this moment: without the word a cache may keep a 404 or a 501 for a while
            // (RFC 9111 §4.2.2).
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
        let (status, code, retry_after) = match &e {
            StoreError::Timeout => (504, "store_timeout", None),
            StoreError::Unreachable(_) | StoreError::Broken(_) => (502, "store_unreachable", None),
            StoreError::Refused(_) => (502, "store_error", None),
            StoreError::Overloaded | StoreError::Unavailable(_) => {
                (503, "store_unavailable", Some(1))
            }
            StoreError::Full => (507, "store_full", None),
        };
        // What the store said goes to the log, not to the client: it names our insides.
        let detail = match &e {
            StoreError::Timeout => "store error: no answer in time",
            StoreError::Unreachable(_) => "store error: cannot be reached",
            StoreError::Broken(_) => "store error: the connection broke, the outcome is unknown",
            StoreError::Refused(_) => "store error: it answered with an error",
            StoreError::Overloaded => "store error: too many requests are waiting for it",
            StoreError::Unavailable(_) => "store error: it cannot serve this now",
            StoreError::Full => "store error: memory limit reached",
        };
        if !matches!(e, StoreError::Overloaded) {
            log::debug!("store: {e}");
        }
        Problem { retry_after, ..Problem::new(status, code, detail) }
    }
}

/// A store that answers something else than it was asked. A bug of ours, but one that costs one
/// request a 502 and not everybody the process.
pub fn unexpected() -> Problem {
    log::error!("BUG: the store gave an answer to another question");
    Problem::new(502, "store_error", "store error: unexpected answer")
}
