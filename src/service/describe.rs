//! What this is: `/version`, and `/openapi.json`, the contract for programs.
//!
//! The OpenAPI document lies beside this file and is served from the binary. It has to say what
//! API.md says and what the code does: a test walks over its paths and methods and compares.

use super::Options;
use crate::http::{self, Response};

/// The document, with `0.0.0` where the version goes.
const OPENAPI: &str = include_str!("openapi.json");

/// Set by whoever builds a release: `KIOSKD_REVISION=$(git rev-parse HEAD) cargo build …`.
const REVISION: Option<&str> = option_env!("KIOSKD_REVISION");

/// `/version`.
pub fn version(options: &Options) -> Response {
    // A string cannot fail to be printed.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let revision = REVISION.map_or("null".to_owned(), quoted);
    let mut body = format!(
        "{{\"name\":\"kioskd\",\"version\":\"{}\",\"revision\":{revision},\"store\":\"{}\"",
        env!("CARGO_PKG_VERSION"),
        options.store,
    );
    for (name, value) in &options.context {
        body.push_str(&format!(",\"{name}\":{}", quoted(value)));
    }
    body.push('}');
    http::json(200, body.into_bytes())
}

/// `/openapi.json`.
pub fn openapi() -> Response {
    let text = OPENAPI.replacen("0.0.0", env!("CARGO_PKG_VERSION"), 1);
    http::json(200, text.into_bytes())
}
