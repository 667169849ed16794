//! The rules: what a request means and what it is answered. No sockets, no threads, no clocks.
//!
//! The life of a request, top to bottom, in two functions a front calls in turn:
//!
//! ```text
//! head ─▶ admit ─┬▶ Err(Problem)              refused from the head alone, its body never read
//!                └▶ Ok(Call) ─ body ─▶ perform ─▶ Step::Ask ⇄ store … ─▶ Step::Done
//! either way ─▶ seal ─▶ Response              the headers every response carries
//! ```
//!
//! Read [`step`] first (how a handler asks the store without calling it), then this file, then
//! [`items`].

pub mod condition;
pub mod content;
pub mod describe;
pub mod document;
pub mod etag;
pub mod health;
pub mod id;
pub mod idempotency;
pub mod items;
pub mod list;
pub mod metrics;
pub mod origin;
pub mod patch;
pub mod problem;
pub mod step;
pub mod trace;
pub mod ttl;

use crate::http::{self, Framing, Head, Method, ParseError, Request, Response};
use id::Collection;
use items::ItemCall;
use list::ListCall;
use metrics::{Metrics, Shard};
use problem::Problem;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use step::{Outcome, Step};
use trace::{Ids, Trace};

/// What the rules can be told by the operator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time to live of an item without `?ttl=` (`ITEM_TTL`, 30 minutes).
    pub item_ttl: Duration,
    /// Time to live of a session, renewed by every read and PATCH (`SESSION_TTL`, 30 minutes).
    pub session_ttl: Duration,
    /// The most `?ttl=` may ask for (`MAX_TTL`, 7 days).
    pub max_ttl: Duration,
    /// `memory`, `noop` or `redis`, for `/version`.
    pub store: &'static str,
    /// Kubernetes' name for this replica and where it is, for `/version`.
    pub context: Vec<(&'static str, String)>,
    /// How long the record of a write with an `Idempotency-Key` is kept (`IDEMPOTENCY_TTL`, 24 h).
    pub idempotency_ttl: Duration,
    /// The largest body (`MAX_BODY_BYTES`, 1 MiB); one byte more is 413, judged from the declared
    /// length before any of it is read.
    pub body_bytes_max: usize,
    /// All documents of a bulk read together (at most [`list::BULK_BYTES_MAX`], 16 MiB); one byte more
    /// is 413.
    pub bulk_bytes_max: usize,
}

/// How the process is, as far as the probes want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Started and not draining.
    pub ready: bool,
    /// Every worker's loop turns.
    pub turning: bool,
    /// Open connections of clients.
    pub connections: usize,
    /// Requests begun and not answered.
    pub in_flight: usize,
    /// Lines of the log that stdout did not take.
    pub log_lines_dropped: u64,
}

/// The rules, as one worker holds them.
pub struct Service {
    options: Arc<Options>,
    vitals: Arc<dyn Fn() -> Vitals + Send + Sync>,
    ids: Ids,
    metrics: Arc<Metrics>,
    shard: Arc<Shard>,
    openapi: Arc<Cow<'static, str>>,
}

/// Each worker clones its own: request ids and metrics are counted without sharing anything.
impl Clone for Service {
    fn clone(&self) -> Self {
        Service {
            options: Arc::clone(&self.options),
            vitals: Arc::clone(&self.vitals),
            ids: Ids::default(),
            metrics: Arc::clone(&self.metrics),
            shard: self.metrics.shard(),
            openapi: Arc::clone(&self.openapi),
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A request that is understood and allowed; what is missing is its body.
#[derive(Debug)]
pub struct Call(Route);

#[derive(Debug)]
enum Route {
    Item(Box<ItemCall>),
    List(ListCall),
    Bulk,
    Version,
    OpenApi,
    Live,
    Ready { verbose: bool },
    Metrics,
    Options { allow: &'static str },
}

impl Service {
    /// The rules with these options; `vitals` is asked by the probes.
    pub fn new(options: Options, vitals: impl Fn() -> Vitals + Send + Sync + 'static) -> Service {
        let metrics = Arc::new(Metrics::default());
        Service {
            openapi: Arc::new(describe::document(options.max_ttl)),
            options: Arc::new(options),
            vitals: Arc::new(vitals),
            ids: Ids::default(),
            shard: metrics.shard(),
            metrics,
        }
    }

    /// The ids of a request, to be kept until its response is sealed.
    pub fn trace(&self, head: Option<&Head>) -> Trace {
        head.map_or_else(|| Trace::unread(&self.ids), |head| Trace::of(head, &self.ids))
    }

    /// Judges a request by its head.
    ///
    /// # Errors
    /// Whatever can be refused without its body: an unknown path or method, a write from another
    /// site, a missing or bad id, a body declared too large, coded, or a part.
    pub fn admit(&self, head: &Head) -> Result<Call, Problem> {
        const UNKNOWN: Problem = Problem::new(404, "no_such_path", "no such path");
        if is_undefined(&head.method) {
            return Err(Problem::new(501, "not_implemented", "method not implemented"));
        }
        if head.method == Method::Connect {
            // There is no path to say it of; what the server has, as for `OPTIONS *`.
            return Err(Problem::method_not_allowed(items::ALLOW));
        }
        if head.expects_the_unknown() {
            return Err(Problem::new(
                417,
                "expectation_failed",
                "only `100-continue` can be expected",
            ));
        }
        if matches!(head.framing, Framing::Length(n) if n > self.options.body_bytes_max as u64) {
            return Err(self.malformed(ParseError::BodyTooLarge));
        }
        if head.target.is_asterisk() {
            return Ok(Call(Route::Options { allow: items::ALLOW }));
        }
        let resource = Resource::of(head.target.path()).ok_or(UNKNOWN)?;
        let allow = resource.allow();
        if head.method == Method::Options {
            return Ok(Call(Route::Options { allow }));
        }
        if !allow.split(", ").any(|method| method == head.method.as_str()) {
            return Err(Problem::method_not_allowed(allow));
        }
        origin::judge(head)?;
        content::plain(head)?;
        self.route(head, resource).map(Call)
    }

    /// What to answer to a request that cannot be read. Only the rules know how large a body may be.
    pub fn malformed(&self, e: ParseError) -> Problem {
        match e {
            ParseError::BodyTooLarge => Problem::too_large("the body", self.options.body_bytes_max),
            other => other.into(),
        }
    }

    fn route(&self, head: &Head, resource: Resource) -> Result<Route, Problem> {
        let no_ttl = || ttl::asked(head.target.query().unwrap_or(""), &self.options, false);
        Ok(match resource {
            Resource::Live => Route::Live,
            Resource::Ready => Route::Ready { verbose: health::verbose(head) },
            Resource::Metrics => Route::Metrics,
            Resource::Version => Route::Version,
            Resource::OpenApi => Route::OpenApi,
            Resource::Bulk => {
                no_ttl()?;
                Route::Bulk
            }
            Resource::Item(Collection::Items, None) if ListCall::is_meant(head) => {
                no_ttl()?;
                Route::List(ListCall::read(head)?)
            }
            Resource::Item(collection, in_path) => {
                let call = ItemCall::read(&self.options, head, collection, in_path)?;
                Route::Item(Box::new(call))
            }
        })
    }

    /// Runs an admitted request, now that its body is there.
    pub fn perform(&self, Call(route): Call, body: Vec<u8>) -> Step {
        match route {
            Route::Item(call) => call.perform(body),
            Route::List(call) => call.perform(),
            Route::Bulk => list::bulk(&body, self.options.bulk_bytes_max),
            Route::Version => Step::Done(Ok(describe::version(&self.options))),
            Route::OpenApi => Step::Done(Ok(describe::openapi(&self.openapi))),
            Route::Live => health::live((self.vitals)()),
            Route::Ready { verbose } => health::ready((self.vitals)(), verbose),
            Route::Metrics => Step::Done(Ok(self.scrape())),
            Route::Options { allow } => Step::Done(Ok(methods(allow))),
        }
    }

    /// Both at once, for a request that is here as a whole.
    pub fn handle(&self, request: Request) -> Step {
        match self.admit(&request.head) {
            Ok(call) => self.perform(call, request.body),
            Err(problem) => problem.into(),
        }
    }

    /// Where this worker counts.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    fn scrape(&self) -> Response {
        // A content type of its own: without the version Prometheus has to guess.
        http::text(200, &self.metrics.render((self.vitals)()))
            .with_header(http::header("Content-Type", "text/plain; version=0.0.4; charset=utf-8"))
            .with_header(http::header("Cache-Control", "no-store"))
    }

    /// Turns the end of a request into its response, with the headers every response carries.
    pub fn seal(&self, outcome: Outcome, trace: &Trace) -> Response {
        let mut response = outcome.unwrap_or_else(|problem| problem.respond(&trace.request_id));
        // The id is one of ours or has passed `fit`, so it is a header value.
        response.add_header(http::header("X-Request-Id", &trace.request_id));
        response.add_header(http::header("X-Content-Type-Options", "nosniff"));
        response
    }
}

/// The methods of a path, and what its PATCH takes if it has one (RFC 5789 §3.1).
fn methods(allow: &'static str) -> Response {
    let response = http::empty(204).with_header(http::header("Allow", allow));
    match allow.contains("PATCH") {
        true => response.with_header(http::header("Accept-Patch", content::PATCHES)),
        false => response,
    }
}

/// A method no one defined. QUERY is newer than the type that lists the others; that we have it
/// nowhere is 405, as for TRACE.
fn is_undefined(method: &Method) -> bool {
    matches!(method, Method::NonStandard(_)) && method.as_str() != "QUERY"
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource<'a> {
    Live,
    Ready,
    Metrics,
    Version,
    OpenApi,
    Bulk,
    /// An item, or a page of them; the raw id when the path has one.
    Item(Collection, Option<&'a str>),
}

/// Every path, as the OpenAPI document spells it; a test holds the two together.
pub const PATHS: [&str; 12] = [
    "/items",
    "/items/{id}",
    "/items/_get",
    "/sess",
    "/sess/{sid}",
    "/livez",
    "/healthz",
    "/readyz",
    "/ready",
    "/metrics",
    "/version",
    "/openapi.json",
];

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Resource<'a>> {
        Some(match path {
            "/livez" | "/healthz" => Resource::Live,
            "/readyz" | "/ready" => Resource::Ready,
            "/metrics" => Resource::Metrics,
            "/version" => Resource::Version,
            "/openapi.json" => Resource::OpenApi,
            "/items/_get" => Resource::Bulk,
            _ => {
                let (collection, in_path) = Collection::of(path)?;
                Resource::Item(collection, in_path)
            }
        })
    }

    fn allow(self) -> &'static str {
        match self {
            Resource::Bulk => "POST, OPTIONS",
            Resource::Item(..) => items::ALLOW,
            _ => "GET, HEAD, OPTIONS",
        }
    }
}

#[cfg(test)]
mod tests;
