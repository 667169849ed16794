//! Describes the service: `/version`, and `/openapi.json`, the contract for programs.
//!
//! The OpenAPI document is a file beside this one and is served as it is, byte for byte, but for one number: the
//! largest `?ttl=` is set by the operator. It must agree with docs/api.md and with the code: tests walk over its paths,
//! methods and codes and compare.
//!
//! All of it is in the binary, which has to stay small. So the responses that every request can get are described once,
//! under `default`, and parts that two operations share are components.

use super::options::Options;
use crate::http::Response;
use std::borrow::Cow;
use std::time::Duration;

/// The document as it is written.
const WRITTEN: &str = include_str!("openapi.json");

/// The one place where the default of `MAX_TTL` occurs in it.
const MAX_TTL: &str = "\"maximum\": 604800";

/// Set by the builder of a release: `KIOSKD_REVISION=$(git rev-parse HEAD) cargo build …`.
const REVISION: Option<&str> = option_env!("KIOSKD_REVISION");

/// `/version`.
pub fn version<'a>(options: &Options) -> Response<'a> {
    // Printing a string cannot fail.
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
    Response::json(200, body.into_bytes())
}

/// The document under this `MAX_TTL`, made once at the start.
pub fn document(max_ttl: Duration) -> Cow<'static, str> {
    let maximum = format!("\"maximum\": {}", max_ttl.as_secs());
    if maximum == MAX_TTL {
        Cow::Borrowed(WRITTEN)
    } else {
        Cow::Owned(WRITTEN.replacen(MAX_TTL, &maximum, 1))
    }
}

/// `/openapi.json`.
pub fn openapi(document: &str) -> Response<'_> {
    Response::json(200, document.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_the_max_ttl_and_is_else_the_file() {
        assert_eq!(WRITTEN.matches(MAX_TTL).count(), 1);
        assert_eq!(document(Duration::from_secs(604_800)), WRITTEN);
        let hour = document(Duration::from_secs(3600));
        assert_eq!(hour.replacen("\"maximum\": 3600", MAX_TTL, 1), WRITTEN);
    }
}
