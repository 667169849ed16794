//! What this is: `/version`, and `/openapi.json`, the contract for programs.
//!
//! The OpenAPI document lies beside this file and is served from the binary. It has to say what
//! API.md says and what the code does: a test walks over its paths and methods and compares.
//!
//! The binary is small, and a document of 51 operations is not. So the file has `"x-common": true`
//! (OpenAPI lets any `x-` be there) where the errors stand that every operation can have, and what
//! is compiled in has no white space.

use super::Options;
use crate::http::{self, Response};

/// The document as it is written, with `0.0.0` where the version goes.
const WRITTEN: &[u8] = include_bytes!("openapi.json");

/// As it is kept: the same without white space.
static PACKED: [u8; packed_len(WRITTEN)] = pack(WRITTEN);

/// The errors that every operation can have, by status, with their names in `components/responses`.
const COMMON: [(&str, &str); 9] = [
    ("400", "BadRequest"),
    ("405", "MethodNotAllowed"),
    ("408", "RequestTimeout"),
    ("413", "ContentTooLarge"),
    ("414", "UriTooLong"),
    ("417", "ExpectationFailed"),
    ("431", "FieldsTooLarge"),
    ("501", "NotImplemented"),
    ("505", "VersionNotSupported"),
];

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
    let line =
        |(status, name)| format!("\"{status}\":{{\"$ref\":\"#/components/responses/{name}\"}}");
    let common: Vec<String> = COMMON.into_iter().map(line).collect();
    let text = String::from_utf8_lossy(&PACKED)
        .replacen("0.0.0", env!("CARGO_PKG_VERSION"), 1)
        .replace("\"x-common\":true", &common.join(","));
    http::json(200, text.into_bytes())
}

/// How long `json` is without the white space outside its strings.
const fn packed_len(json: &[u8]) -> usize {
    let (mut at, mut len, mut quoted) = (0, 0, false);
    while at < json.len() {
        let step = step(json, at, &mut quoted);
        len += step.0;
        at += step.1;
    }
    len
}

const fn pack<const N: usize>(json: &[u8]) -> [u8; N] {
    let mut packed = [0; N];
    let (mut at, mut len, mut quoted) = (0, 0, false);
    while at < json.len() {
        let step = step(json, at, &mut quoted);
        let mut i = 0;
        while i < step.0 {
            packed[len] = json[at + i];
            len += 1;
            i += 1;
        }
        at += step.1;
    }
    packed
}

/// How many of the bytes at `at` to keep, and how many to go on.
const fn step(json: &[u8], at: usize, quoted: &mut bool) -> (usize, usize) {
    match json[at] {
        b'\\' => (2, 2),
        b'"' => {
            *quoted = !*quoted;
            (1, 1)
        }
        b' ' | b'\n' if !*quoted => (0, 1),
        _ => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_is_kept_is_what_is_written() {
        let written: Value = serde_json::from_slice(WRITTEN).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&PACKED).unwrap(), written);
        assert!(PACKED.len() < WRITTEN.len());
    }
}
