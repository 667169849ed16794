//! A document: exactly one JSON object, checked and never built.
//!
//! serde_json checks the grammar without making a tree (`RawValue`), so what is stored is what was
//! sent: every digit of `12345678901234567890` and of `1.10`, the order of the keys, the white
//! space inside. Only the white space around it goes.

use super::problem::Problem;
use serde_json::value::RawValue;

/// Objects and arrays inside each other; one deeper is `bad json`. The answer to a bulk read has
/// three more around it: 127 is serde_json's own limit for building values, and near that of others.
pub const DEPTH_MAX: usize = 124;

/// Not a document.
pub const BAD_JSON: Problem = Problem::new(400, "bad_json", "bad json");

/// The body if it is exactly one JSON object (RFC 8259), without the white space around it.
pub fn document(mut body: Vec<u8>) -> Option<Vec<u8>> {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let end = body.iter().rposition(|b| !is_space(b))? + 1;
    let start = body.iter().position(|b| !is_space(b))?;
    body.truncate(end);
    body.drain(..start);
    (body[0] == b'{' && is_json(&body)).then_some(body)
}

/// Whether `text` is one JSON value, not nested too deep.
pub fn is_json(text: &[u8]) -> bool {
    // The depth comes first: it bounds whatever reads the text after us.
    depth(text) <= DEPTH_MAX
        && std::str::from_utf8(text)
            .is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

/// How deep brackets nest outside strings. Meant for JSON; of other bytes it says something, but
/// those are refused afterwards.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_exactly_one_object_kept_as_sent() {
        for (body, kept) in [
            (
                r#"{"n":12345678901234567890,"m":1.10}"#,
                Some(r#"{"n":12345678901234567890,"m":1.10}"#),
            ),
            (
                " \r\n\t{ \"b\": 1, \"a\": [ ] }\n",
                Some("{ \"b\": 1, \"a\": [ ] }"),
            ),
            ("{}", Some("{}")),
            (
                r#"{"a":1e999,"a":-0.0,"\u00e9":"\ud83d\ude00"}"#,
                Some(r#"{"a":1e999,"a":-0.0,"\u00e9":"\ud83d\ude00"}"#),
            ),
            ("", None),
            ("  ", None),
            ("oops", None),
            ("null", None),
            ("[]", None),
            ("\"{}\"", None),
            ("{\"a\":1} junk", None),
            ("{}{}", None),
            ("{\"a\":1,}", None),
            ("{\"a\":01}", None),
            ("{'a':1}", None),
            ("{\"a\":\"\n\"}", None),
            ("\u{feff}{}", None),
            ("{\"a\":NaN}", None),
        ] {
            assert_eq!(
                document(body.into()).as_deref(),
                kept.map(str::as_bytes),
                "{body}"
            );
        }
        assert_eq!(document(b"{\"a\":\"\xff\"}".to_vec()), None);
    }

    #[test]
    fn nesting_is_refused_one_beyond_the_limit_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n)).into_bytes();
        for (n, fits) in [
            (DEPTH_MAX - 1, true),
            (DEPTH_MAX, true),
            (DEPTH_MAX + 1, false),
            (300_000, false),
        ] {
            assert_eq!(document(nested(n)).is_some(), fits, "{n}");
        }
        // What fits can be built as a value, so a PATCH can read it.
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX + 3)).is_ok());
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX + 4)).is_err());
        let brackets = format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1000)).into_bytes();
        assert!(document(brackets).is_some());
    }
}
