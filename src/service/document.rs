//! A document: exactly one JSON object, checked but never built as a tree.
//!
//! serde_json checks the grammar without making a tree (`RawValue`), so what is stored is what was
//! sent: every digit of `12345678901234567890` and of `1.10`, the order of the keys, the white
//! space inside. Only the white space around it goes.

use super::problem::Problem;
use serde_json::value::RawValue;

/// Objects and arrays inside each other; one deeper is `bad json`. The answer to a bulk read has
/// three more around it: 127 is serde_json's own limit for building values, and near that of others.
pub const DEPTH_MAX: usize = 124;

/// Stored by another program.
pub const FOREIGN: Problem =
    Problem::new(502, "store_error", "store error: what is stored is not a JSON object");

/// The body if it is exactly one JSON object (RFC 8259), without the white space around it.
///
/// # Errors
/// 400, with what is wrong and where in the body.
pub fn document(body: &[u8]) -> Result<&[u8], Problem> {
    judge(body)?;
    let document = trimmed(body);
    match document.first() {
        Some(b'{') => Ok(document),
        _ => {
            let start = body.iter().position(|b| !is_space(b)).unwrap_or(0);
            Err(bad(body, start, "not an object"))
        }
    }
}

/// A text without the white space of JSON around it.
pub fn trimmed(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &text[start..end]
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Accepts one JSON value that is not nested too deep.
///
/// # Errors
/// 400, with what is wrong and where in `text`.
pub fn judge(text: &[u8]) -> Result<(), Problem> {
    // The depth comes first: it bounds every later reader of the text.
    if let Some(at) = too_deep(text) {
        return Err(bad(text, at, &format!("nested deeper than {DEPTH_MAX}")));
    }
    let utf8 = std::str::from_utf8(text).map_err(|e| bad(text, e.valid_up_to(), "not UTF-8"))?;
    let json = serde_json::from_str::<&RawValue>(utf8);
    json.map(drop).map_err(|e| bad_json(&e.to_string()))
}

/// The message for the byte at `at`, worded as serde_json words it.
fn bad(text: &[u8], at: usize, reason: &str) -> Problem {
    let before = &text[..at];
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
    bad_json(&format!("{reason} at line {line} column {column}"))
}

fn bad_json(reason: &str) -> Problem {
    Problem::new(400, "bad_json", "").detailed(format!("bad json: {reason}"))
}

/// Where brackets outside strings nest deeper than [`DEPTH_MAX`]. Meant for JSON; for other bytes the result means
/// nothing, but those are refused all the same.
fn too_deep(text: &[u8]) -> Option<usize> {
    // Most documents have fewer brackets than the depth allows, and counting them is cheap.
    if opening_brackets(text) <= DEPTH_MAX {
        return None;
    }
    let (mut depth, mut at) = (0usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' if depth == DEPTH_MAX => return Some(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = string_end(text, at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Counts opening brackets, in strings too. Sums of one byte each, which no chunk exceeds, are added up sixteen at a
/// time.
fn opening_brackets(text: &[u8]) -> usize {
    // `[` and `{` differ in this bit alone, and no other byte becomes `{` by it.
    let count = |chunk: &[u8]| chunk.iter().map(|b| u8::from(b | 0x20 == b'{')).sum::<u8>();
    text.chunks(128).map(|chunk| usize::from(count(chunk))).sum()
}

/// The quote that ends the string beginning at `at`.
pub fn string_end(text: &[u8], mut at: usize) -> usize {
    loop {
        at += 1;
        match text.get(at) {
            Some(b'\\') => at += 1,
            Some(b'"') | None => return at,
            Some(_) => {}
        }
    }
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
            (" \r\n\t{ \"b\": 1, \"a\": [ ] }\n", Some("{ \"b\": 1, \"a\": [ ] }")),
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
            assert_eq!(document(body.as_bytes()).ok(), kept.map(str::as_bytes), "{body}");
        }
    }

    #[test]
    fn what_is_no_document_is_told_why_and_where() {
        let deep = format!("{{\"a\":\n{}", "[".repeat(DEPTH_MAX));
        let rows: [(&[u8], &str); 14] = [
            (b"", "EOF while parsing a value at line 1 column 0"),
            (b" \n ", "EOF while parsing a value at line 2 column 1"),
            (b"oops", "expected value at line 1 column 1"),
            (b"null", "not an object at line 1 column 1"),
            (b"\n\n  []", "not an object at line 3 column 3"),
            (b" \"{}\"", "not an object at line 1 column 2"),
            (b"{\"a\":1,}", "key must be a string at line 1 column 8"),
            (b"{\"a\":1} junk", "trailing characters at line 1 column 9"),
            (b"{}{}", "trailing characters at line 1 column 3"),
            (b"{\n\"a\": 01}", "invalid number at line 2 column 7"),
            (b"\n{'a':1}", "key must be a string at line 2 column 2"),
            (b"{\"a\"", "EOF while parsing an object at line 1 column 4"),
            (b"{\"a\":\n\"\xff\"}", "not UTF-8 at line 2 column 2"),
            (
                deep.as_bytes(),
                &format!("nested deeper than {DEPTH_MAX} at line 2 column {DEPTH_MAX}"),
            ),
        ];
        for (body, reason) in rows {
            let problem = document(body).expect_err(reason);
            assert_eq!((problem.status, problem.code), (400, "bad_json"));
            assert_eq!(problem.detail, format!("bad json: {reason}"));
        }
    }

    #[test]
    fn nesting_is_refused_one_beyond_the_limit_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n)).into_bytes();
        for (n, fits) in
            [(DEPTH_MAX - 1, true), (DEPTH_MAX, true), (DEPTH_MAX + 1, false), (300_000, false)]
        {
            assert_eq!(document(&nested(n)).is_ok(), fits, "{n}");
        }
        // A document within the depth can be built as a value, so a PATCH can read it.
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX + 3)).is_ok());
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX + 4)).is_err());
        let brackets = format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1000)).into_bytes();
        assert!(document(&brackets).is_ok());
    }
}
