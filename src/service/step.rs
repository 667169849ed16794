//! What a handler returns: the end, or a question to the store and what to do with its answer.
//!
//! ```text
//! GET /items?id=7   ─▶ Ask(Get("item:7"), next)      next(Ok(Value(None))) ─▶ Done(Err(404))
//!                                                    next(Err(Timeout))    ─▶ Done(Err(504))
//! ```
//!
//! A handler never blocks and never sees a store, so a test plays the store by hand: it looks at
//! the command and feeds in any answer and any error. A longer rule is a longer chain of steps.

use super::problem::Problem;
use crate::http::Response;
use crate::store::{Answer, Command, StoreError};
use std::fmt;

/// The end of a request: a response, or a problem that becomes one at the last moment, when the
/// request's id is added.
pub type Outcome = Result<Response, Problem>;

/// What to do with the store's answer.
pub type Next = Box<dyn FnOnce(Result<Answer, StoreError>) -> Step + Send>;

/// See the module's text.
pub enum Step {
    /// Send this.
    Done(Outcome),
    /// Ask the store this, then go on.
    Ask(Command, Next),
}

impl Step {
    /// Ask `command`, then go on with `next`.
    pub fn ask(
        command: Command,
        next: impl FnOnce(Result<Answer, StoreError>) -> Step + Send + 'static,
    ) -> Step {
        Step::Ask(command, Box::new(next))
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Done(Ok(response)) => write!(f, "Done({})", response.status_code().0),
            Step::Done(Err(problem)) => write!(f, "Done({problem:?})"),
            Step::Ask(command, _) => write!(f, "Ask({command:?})"),
        }
    }
}

impl From<Problem> for Step {
    fn from(problem: Problem) -> Step {
        Step::Done(Err(problem))
    }
}

impl From<Response> for Step {
    fn from(response: Response) -> Step {
        Step::Done(Ok(response))
    }
}
