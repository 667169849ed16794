//! What this is: `/version`, and `/openapi.json`, the contract for programs.
//!
//! The OpenAPI document lies beside this file and is served from the binary. It has to say what
//! API.md says and what the code does: a test walks over its paths and methods and compares.

use super::Options;
use crate::http::{self, Response};
use serde_json::json;

/// The document, with `0.0.0` where the version goes.
const OPENAPI: &str = include_str!("openapi.json");

/// Set by whoever builds a release: `KIOSKD_REVISION=$(git rev-parse HEAD) cargo build …`.
const REVISION: Option<&str> = option_env!("KIOSKD_REVISION");

/// `/version`.
pub fn version(options: &Options) -> Response {
    let mut body = json!({
        "name": "kioskd",
        "version": env!("CARGO_PKG_VERSION"),
        "revision": REVISION,
        "store": options.store,
    });
    for (name, value) in &options.context {
        body[*name] = value.as_str().into();
    }
    http::json(200, body.to_string().into_bytes())
}

/// `/openapi.json`.
pub fn openapi() -> Response {
    let text = OPENAPI.replacen("0.0.0", env!("CARGO_PKG_VERSION"), 1);
    http::json(200, text.into_bytes())
}
