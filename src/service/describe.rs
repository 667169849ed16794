//! What this is: `/version`, and `/openapi.json`, the contract for programs.
//!
//! The OpenAPI document lies beside this file and is served as it lies there, byte for byte, but for
//! one number: the most that `?ttl=` may ask for is the operator's. It has to say what API.md says
//! and what the code does: tests walk over its paths, methods and codes and compare.
//!
//! All of it is in the binary, which has to stay small. So what every request can be told stands
//! once, under `default`, and whatever two operations share is a component.

use super::options::Options;
use crate::http::Response;
use std::borrow::Cow;
use std::time::Duration;

/// The document as it is written.
const WRITTEN: &str = include_str!("openapi.json");

/// The one place where the default of `MAX_TTL` stands in it.
const MAX_TTL: &str = "\"maximum\": 604800";

/// Set by whoever builds a release: `KIOSKD_REVISION=$(git rev-parse HEAD) cargo build …`.
const REVISION: Option<&str> = option_env!("KIOSKD_REVISION");

/// `/version`.
pub fn version<'a>(options: &Options) -> Response<'a> {
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
