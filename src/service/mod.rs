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
pub mod page;
pub mod patch;
pub mod problem;
pub mod rate;
pub mod route;
pub mod step;
pub mod trace;
pub mod traffic;
pub mod ttl;

pub use options::Options;
use route::ITEM;
pub use route::{ROUTES, Route, Row};

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
    /// The valid tokens, if tokens are required.
    guard: Option<Arc<Guard>>,
    metrics: Arc<Metrics>,
    /// The state of the process: all of it for `true`, or what costs nothing to find out.
    status: Box<dyn Fn(bool) -> Status + Send + Sync>,
    openapi: Cow<'static, str>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Service {
    /// The rules with these options. `status` gives the state of the process: all of it for `true` (scrapes), or what
    /// costs nothing to find out (probes).
    pub fn new(
        options: Options,
        metrics: Arc<Metrics>,
        status: impl Fn(bool) -> Status + Send + Sync + 'static,
    ) -> Service {
        let openapi = describe::document(options.max_ttl);
        Service { options, guard: None, metrics, status: Box::new(status), openapi }
    }

    /// The same rules, for clients that have one of these tokens.
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

    /// The token of a request, where tokens are required. Probes need none, nor do preflights of browsers, and the
    /// status page, which asks its reader for one.
    ///
    /// # Errors
    /// 401: it has none.
    #[inline]
    pub fn identify(&self, head: &Head) -> Result<Option<Arc<Token>>, Problem> {
        self.guard.as_ref().map_or(Ok(None), |guard| self.identify_by(guard, head))
    }

    fn identify_by(&self, guard: &Guard, head: &Head) -> Result<Option<Arc<Token>>, Problem> {
        let probes = [Route::Live, Route::Ready];
        let is_probe = ROUTES.iter().any(|row| row.has(head.path()) && probes.contains(&row.route));
        if is_probe || self.options.origins.is_preflight(head) || self.is_page(head) {
            return Ok(None);
        }
        guard.judge(head).map(Some)
    }

    fn is_page(&self, head: &Head) -> bool {
        self.options.status_page && page::is_wanted(head)
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
            Route::Index if self.is_page(head) => Ok(Route::Page),
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
            Route::Ready => health::ready(cx, (self.status)(false).ready),
            Route::Metrics => done(self.scrape(now)),
            Route::Version => done(describe::version(&self.options)),
            Route::OpenApi => done(describe::openapi(&self.openapi)),
            Route::Index => done(page::index()),
            Route::Page => done(page::page(&cx.head)?),
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

    /// The response to a scrape.
    pub fn scrape<'a>(&self, now: Instant) -> Response<'a> {
        let text = self.metrics.render(&(self.status)(true), now);
        Response::of(200, ContentType::Metrics, text.into_bytes()).no_store()
    }
}

#[cfg(test)]
pub(crate) mod tests;
