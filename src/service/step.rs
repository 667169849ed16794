//! What a handler returns: the response, or a command for the store and what to do with its answer.
//!
//! ```text
//! GET /items?id=7   ─▶ Ask(Get("item:7"), next)      next(cx, Ok(Value(None))) ─▶ Err(404)
//!                                                    next(cx, Err(Timeout))    ─▶ Err(504)
//! ```
//!
//! A handler never blocks and never sees a store, so a test acts as the store: it checks the command and feeds in any
//! answer and any error. A longer rule is a longer chain of steps.
//!
//! A continuation is given the request again, so it reads what it needs from the request once more instead of capturing
//! it. Those of GET and PUT capture nothing, and a box of nothing does not allocate.

use super::access::Token;
use super::options::Options;
use super::problem::Problem;
use crate::http::{Head, Response};
use crate::store::{Command, Reply};
use std::fmt;

/// A request, as a handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct Cx<'a> {
    /// Its head.
    pub head: Head<'a>,
    /// Its content, without framing; empty before it has arrived.
    pub body: &'a [u8],
    /// The operator's settings.
    pub options: &'a Options,
    /// Who has sent it, where tokens are required.
    pub token: Option<&'a Token>,
}

/// See the module's text. It borrows from the request, or from the store's answer.
pub enum Step<'a> {
    /// Send this response.
    Done(Response<'a>),
    /// Send the store this command, then continue.
    Ask(Command<'a>, Next),
}

/// The result of a request, or of a part of it: a step, or a problem that becomes a response at the last moment, when
/// the request's id is added.
pub type Outcome<'a> = Result<Step<'a>, Problem>;

/// What to do with the store's answer.
pub type Next = Box<dyn for<'a> FnOnce(&Cx<'a>, Reply<'a>) -> Outcome<'a>>;

/// Send `command` to the store, then continue with `next`.
///
/// # Errors
/// None: for the end of a handler.
pub fn ask<'a>(
    command: Command<'a>,
    next: impl for<'b> FnOnce(&Cx<'b>, Reply<'b>) -> Outcome<'b> + 'static,
) -> Outcome<'a> {
    Ok(Step::Ask(command, Box::new(next)))
}

/// Answer with `response`.
///
/// # Errors
/// None: for the end of a handler.
pub fn done(response: Response<'_>) -> Outcome<'_> {
    Ok(Step::Done(response))
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Done(response) => write!(f, "Done({})", response.status),
            Step::Ask(command, _) => write!(f, "Ask({command:?})"),
        }
    }
}
