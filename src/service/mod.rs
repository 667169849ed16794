//! The rules: what a request means and what its response is. No sockets, no threads, no clocks.
//!
//! The life of a request, top to bottom, in the functions a front calls in turn:
//!
//! ```text
//! head ─▶ admit ─┬▶ Err(Problem)               refused from the head alone, its body never read
//!                └▶ Ok(Route) ─▶ check         the same for the route's rules on the head, when a body follows
//! head, body ─▶ perform ─▶ Step::Ask ⇄ store … ─▶ Step::Done
//! ```
//!
//! Read [`step`] first (how a handler uses the store without calling it), then this file, then [`items`].

pub mod access;
pub mod condition;
pub mod content;
pub mod cors;
pub mod describe;
pub mod document;
pub mod etag;
pub mod health;
pub mod id;
pub mod idempotency;
pub mod items;
pub mod list;
pub mod metrics;
mod options;
pub mod origin;
pub mod patch;
pub mod problem;
pub mod rate;
pub mod step;
pub mod trace;
pub mod ttl;

pub use options::Options;

use crate::http::{ContentType, Extra, Framing, Head, Method, ParseError, Response};
use access::{Guard, Token};
use id::Collection;
use metrics::{Metrics, Status};
use problem::Problem;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use step::{Cx, Outcome, done};

/// The rules, for all workers.
pub struct Service {
    options: Options,
    /// The tokens that are wanted, if any are.
    guard: Option<Arc<Guard>>,
    metrics: Arc<Metrics>,
    status: Box<dyn Fn() -> Status + Send + Sync>,
    openapi: Cow<'static, str>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// One item.
    Item(Collection),
    /// A page of ids, or one item if that is what the query asks for.
    List,
    /// The sessions under a prefix.
    Purge,
    /// Many items.
    Bulk,
    /// `/livez`
    Live,
    /// `/readyz`
    Ready,
    /// `/metrics`
    Metrics,
    /// `/version`
    Version,
    /// `/openapi.json`
    OpenApi,
    /// OPTIONS of a path with these methods.
    Options(&'static Methods),
    /// The same, asked by a browser for a listed origin.
    Preflight(&'static Methods),
}

impl Route {
    /// Whether such requests count for `RATE_LIMIT`. Probes and scrapes come whatever the clients do.
    pub fn is_counted(self) -> bool {
        !matches!(self, Route::Live | Route::Ready | Route::Metrics | Route::Preflight(_))
    }
}

/// The methods of a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Methods {
    list: &'static [Method],
    /// As `Allow` lists them.
    pub allow: &'static str,
}

static READS: Methods = Methods { list: &[Method::Get, Method::Head], allow: "GET, HEAD, OPTIONS" };
static BULK: Methods = Methods { list: &[Method::Post], allow: "POST, OPTIONS" };
static ITEM: Methods = Methods {
    list: &[Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete],
    allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
};

/// A row of the routing table.
#[derive(Debug)]
pub struct Row {
    /// The path, or the part before its last segment.
    pub path: &'static str,
    /// The meaning of the last segment, where it can be anything.
    pub parameter: Option<&'static str>,
    methods: &'static Methods,
    route: Route,
}

/// Every path there is.
pub static ROUTES: [Row; 12] = [
    row("/items", None, &ITEM, Route::List),
    row("/items/_get", None, &BULK, Route::Bulk),
    row("/items/", Some("id"), &ITEM, Route::Item(Collection::Items)),
    row("/sess", None, &ITEM, Route::Item(Collection::Sessions)),
    row("/sess/", Some("sid"), &ITEM, Route::Item(Collection::Sessions)),
    row("/livez", None, &READS, Route::Live),
    row("/healthz", None, &READS, Route::Live),
    row("/readyz", None, &READS, Route::Ready),
    row("/ready", None, &READS, Route::Ready),
    row("/metrics", None, &READS, Route::Metrics),
    row("/version", None, &READS, Route::Version),
    row("/openapi.json", None, &READS, Route::OpenApi),
];

const fn row(
    path: &'static str,
    parameter: Option<&'static str>,
    methods: &'static Methods,
    route: Route,
) -> Row {
    Row { path, parameter, methods, route }
}

impl Row {
    /// Whether a raw path matches this row.
    fn has(&self, path: &[u8]) -> bool {
        match self.parameter {
            None => path == self.path.as_bytes(),
            Some(_) => {
                let segment = path.strip_prefix(self.path.as_bytes());
                segment.is_some_and(|segment| !segment.contains(&b'/'))
            }
        }
    }
}

impl Service {
    /// The rules with these options; probes and scrapes read `status`.
    pub fn new(
        options: Options,
        metrics: Arc<Metrics>,
        status: impl Fn() -> Status + Send + Sync + 'static,
    ) -> Service {
        let openapi = describe::document(options.max_ttl);
        Service { options, guard: None, metrics, status: Box::new(status), openapi }
    }

    /// The same rules, for those who have one of these tokens.
    #[must_use]
    pub fn guarded_by(self, guard: Arc<Guard>) -> Service {
        Service { guard: Some(guard), ..self }
    }

    /// The operator's settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The metrics of the workers.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The same, as a shared pointer to keep.
    pub fn metrics_shared(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The token of a request, where tokens are wanted. Probes need none, nor do browsers that ask whether they may ask.
    ///
    /// # Errors
    /// 401: it has none. 403: it may not do this.
    #[inline]
    pub fn identify(&self, head: &Head) -> Result<Option<Arc<Token>>, Problem> {
        self.guard.as_ref().map_or(Ok(None), |guard| self.identify_by(guard, head))
    }

    fn identify_by(&self, guard: &Guard, head: &Head) -> Result<Option<Arc<Token>>, Problem> {
        let probes = [Route::Live, Route::Ready];
        let is_probe = ROUTES.iter().any(|row| row.has(head.path()) && probes.contains(&row.route));
        if is_probe || self.options.origins.is_preflight(head) {
            return Ok(None);
        }
        let token = guard.judge(head)?;
        token.may_send(access::writes(head))?;
        Ok(Some(token))
    }

    /// Checks a request by its head, as far as possible without its route.
    ///
    /// # Errors
    /// An unknown path or method, a write from another site, a body declared too large or coded.
    pub fn admit(&self, head: &Head) -> Result<Route, Problem> {
        const UNKNOWN: Problem = Problem::new(404, "no_such_path", "no such path");
        let method = head.method();
        match method {
            Method::Other => {
                return Err(Problem::new(501, "not_implemented", "method not implemented"));
            }
            // There is no path to list methods of; the server's methods, as for `OPTIONS *`.
            Method::Connect => return Err(Problem::method_not_allowed(ITEM.allow)),
            _ => {}
        }
        if head.expects_the_unknown() {
            return Err(Problem::new(
                417,
                "expectation_failed",
                "only `100-continue` can be expected",
            ));
        }
        if matches!(head.framing(), Framing::Length(n) if n > self.options.body_bytes_max as u64) {
            return Err(self.malformed(ParseError::BodyTooLarge));
        }
        if head.is_asterisk() {
            return Ok(Route::Options(&ITEM));
        }
        let path = head.path();
        let &Row { methods, route, .. } = ROUTES.iter().find(|row| row.has(path)).ok_or(UNKNOWN)?;
        if method == Method::Options {
            return Ok(match self.options.origins.is_preflight(head) {
                true => Route::Preflight(methods),
                false => Route::Options(methods),
            });
        }
        if !methods.list.contains(&method) {
            return Err(Problem::method_not_allowed(methods.allow));
        }
        origin::judge(head, &self.options.origins)?;
        content::plain(head)?;
        match route {
            Route::List if !list::is_meant(head) => Ok(Route::Item(Collection::Items)),
            Route::Item(Collection::Sessions) if path == b"/sess" && list::is_purge(head) => {
                Ok(Route::Purge)
            }
            route => Ok(route),
        }
    }

    /// Checks the route's rules on the head, before the body is read. [`perform`](Service::perform) does so as well.
    ///
    /// # Errors
    /// A missing or bad id, or any other error in the head.
    pub fn check(&self, route: Route, cx: &Cx) -> Result<(), Problem> {
        match route {
            Route::List | Route::Purge => list::check(cx),
            Route::Item(_) => items::check(cx),
            Route::Bulk => ttl::none(cx),
            _ => Ok(()),
        }
    }

    /// The problem for a request that cannot be parsed. Only the rules know how large a body may be.
    pub fn malformed(&self, e: ParseError) -> Problem {
        match e {
            ParseError::BodyTooLarge => Problem::too_large("the body", self.options.body_bytes_max),
            other => other.into(),
        }
    }

    /// Runs an admitted request, now that its body has arrived.
    ///
    /// # Errors
    /// Any error in the request.
    pub fn perform<'a>(&'a self, route: Route, cx: &Cx<'a>, now: Instant) -> Outcome<'a> {
        match route {
            Route::List => list::page(cx),
            Route::Purge => list::purge(cx),
            Route::Item(_) => items::perform(cx),
            Route::Bulk => list::bulk(cx),
            Route::Live => health::live(self.metrics.is_turning(now)),
            Route::Ready => health::ready(cx, (self.status)().ready),
            Route::Metrics => done(self.scrape()),
            Route::Version => done(describe::version(&self.options)),
            Route::OpenApi => done(describe::openapi(&self.openapi)),
            Route::Preflight(methods) => {
                done(Response { extra: Extra::Preflight(methods.allow), ..Response::empty(204) })
            }
            Route::Options(methods) => done(Response {
                extra: Extra::Allow(
                    methods.allow,
                    methods.list.contains(&Method::Patch).then_some(content::PATCHES),
                ),
                ..Response::empty(204)
            }),
        }
    }

    fn scrape<'a>(&self) -> Response<'a> {
        let text = self.metrics.render((self.status)());
        Response::of(200, ContentType::Metrics, text.into_bytes()).no_store()
    }
}

#[cfg(test)]
pub(crate) mod tests;
