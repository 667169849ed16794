//! The routing table: every path there is, its methods, and what it is about.

use super::id::Collection;
use crate::http::Method;

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
    /// `/`, for programs.
    Index,
    /// `/`, for a browser.
    Page,
    /// OPTIONS of a path with these methods.
    Options(&'static Methods),
    /// The same, asked by a browser for a listed origin.
    Preflight(&'static Methods),
}

impl Route {
    /// Whether such requests count for `RATE_LIMIT`. Probes and scrapes come whatever the clients do,
    /// and the page that shows them.
    pub fn is_counted(self) -> bool {
        !matches!(
            self,
            Route::Live | Route::Ready | Route::Metrics | Route::Page | Route::Preflight(_)
        )
    }
}

/// The methods of a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Methods {
    /// The methods.
    pub list: &'static [Method],
    /// As `Allow` lists them.
    pub allow: &'static str,
}

/// Of what can only be read.
pub static READS: Methods =
    Methods { list: &[Method::Get, Method::Head], allow: "GET, HEAD, OPTIONS" };
static BULK: Methods = Methods { list: &[Method::Post], allow: "POST, OPTIONS" };
pub(super) static ITEM: Methods = Methods {
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
    /// The methods of the path.
    pub methods: &'static Methods,
    /// What it is about.
    pub route: Route,
}

/// Every path there is.
pub static ROUTES: [Row; 13] = [
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
    row("/", None, &READS, Route::Index),
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
    pub fn has(&self, path: &[u8]) -> bool {
        match self.parameter {
            None => path == self.path.as_bytes(),
            Some(_) => {
                let segment = path.strip_prefix(self.path.as_bytes());
                segment.is_some_and(|segment| !segment.contains(&b'/'))
            }
        }
    }
}
