//! JSON Merge Patch (RFC 7396) on text: what the patch does not touch stays as it is, byte for byte.
//!
//! ```text
//! {"a": 1.10, "b": {"c": 1}}  +  {"b": {"c": null, "d": 2}}  ─▶  {"a": 1.10,"b": {"d": 2}}
//! ```
//!
//! Building a tree and printing it again would round numbers and sort keys. So both texts, which
//! are known to be JSON, are only cut into members; untouched members are copied. Names are
//! compared by what they mean (`"\u0061"` is `"a"`). Work is linear in both texts times their
//! depth, which [`document`](super::document) bounds.

use std::borrow::Cow;
use std::collections::HashMap;

/// Applies `patch`, an object, to `target`. Both must be JSON, as [`document`](super::document)
/// checks it.
pub fn merge(target: &str, patch: &str) -> String {
    let mut out = String::with_capacity(target.len() + patch.len());
    merge_into(&mut out, Some(target), patch);
    out
}

/// The `MergePatch` of RFC 7396 §2, printed to `out`.
fn merge_into(out: &mut String, target: Option<&str>, patch: &str) {
    if !is_object(patch) {
        return out.push_str(patch.trim());
    }
    let changes: Vec<(&str, Cow<str>, &str)> = members(patch)
        .map(|(raw, value)| (raw, name(raw), value))
        .collect();
    // A name that comes twice means its last value, as nearly every reader has it.
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (i, (_, name, _)) in changes.iter().enumerate() {
        last.insert(name, i);
    }
    let mut done = vec![false; changes.len()];
    out.push('{');
    let empty = out.len();
    for (raw, old) in target
        .filter(|t| is_object(t))
        .into_iter()
        .flat_map(members)
    {
        match last.get(&*name(raw)) {
            None => push_member(out, empty, raw, |out| out.push_str(old)),
            Some(&i) if done[i] || changes[i].2 == "null" => {}
            Some(&i) => {
                done[i] = true;
                push_member(out, empty, raw, |out| {
                    merge_into(out, Some(old), changes[i].2)
                });
            }
        }
    }
    for (i, (raw, name, value)) in changes.iter().enumerate() {
        if last.get(&**name) == Some(&i) && !done[i] && *value != "null" {
            push_member(out, empty, raw, |out| merge_into(out, None, value));
        }
    }
    out.push('}');
}

fn push_member(out: &mut String, empty: usize, name: &str, value: impl FnOnce(&mut String)) {
    if out.len() > empty {
        out.push(',');
    }
    out.push_str(name);
    out.push(':');
    value(out);
}

fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// What a name in quotes means. One that means no text (half a surrogate pair) means itself.
pub fn name(raw: &str) -> Cow<'_, str> {
    let inner = &raw[1..raw.len() - 1];
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str(raw).map_or(Cow::Borrowed(raw), Cow::Owned)
}

/// The members of an object: names with their quotes, values without the space around them.
pub fn members(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = object.trim();
    let mut rest = &inner[1..inner.len() - 1];
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
        if rest.is_empty() {
            return None;
        }
        let (name, behind) = rest.split_at(value_len(rest));
        let value = behind.trim_start_matches([' ', '\t', '\r', '\n', ':']);
        let (value, behind) = value.split_at(value_len(value));
        rest = behind;
        Some((name, value))
    })
}

/// The elements of an array, without the space around them.
pub fn elements(array: &str) -> impl Iterator<Item = &str> {
    let inner = array.trim();
    let mut rest = &inner[1..inner.len() - 1];
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
        if rest.is_empty() {
            return None;
        }
        let (value, behind) = rest.split_at(value_len(rest));
        rest = behind;
        Some(value)
    })
}

/// The length of the value that `json` begins with. Every step is over an ASCII byte, so the result
/// lies between characters.
fn value_len(json: &str) -> usize {
    let bytes = json.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(byte) = bytes.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                if depth == 0 {
                    return at + 1;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + depth,
            b'}' | b']' => depth -= 1,
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The table of RFC 7396, appendix A, as far as target and patch are objects; the others are
    /// put inside one, as they can come up.
    #[test]
    fn the_examples_of_the_rfc() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (
                r#"{}"#,
                r#"{"a":{"bb":{"ccc":null}}}"#,
                r#"{"a":{"bb":{}}}"#,
            ),
        ] {
            assert_eq!(merge(target, patch), result, "{target} + {patch}");
            let inside = merge(
                &format!(r#"{{"x":{target}}}"#),
                &format!(r#"{{"x":{patch}}}"#),
            );
            let expected = if patch == "null" {
                "{}".to_owned()
            } else {
                format!(r#"{{"x":{result}}}"#)
            };
            assert_eq!(inside, expected, "inside: {target} + {patch}");
        }
    }

    #[test]
    fn what_is_not_touched_keeps_every_byte() {
        let target = "{ \"n\" : 12345678901234567890 , \"m\":1.10,\"z\":{ \"e\" : 1E+2 },\"\\u0061\":\"\\ud800\", \"l\":[ 1 ,2] }";
        assert_eq!(
            merge(target, "{\"new\": -0.0}"),
            "{\"n\":12345678901234567890,\"m\":1.10,\"z\":{ \"e\" : 1E+2 },\"\\u0061\":\"\\ud800\",\"l\":[ 1 ,2],\"new\":-0.0}"
        );
    }

    #[test]
    fn names_are_compared_by_what_they_mean() {
        assert_eq!(
            merge(r#"{"\u0061":1,"b":2}"#, r#"{"a":3}"#),
            r#"{"\u0061":3,"b":2}"#
        );
        assert_eq!(merge(r#"{"a":1}"#, r#"{"\u0061":null}"#), "{}");
        assert_eq!(
            merge(r#"{"a":1,"a":2,"b":3}"#, r#"{"a":4}"#),
            r#"{"a":4,"b":3}"#,
            "one of two"
        );
        assert_eq!(
            merge(r#"{"a":1}"#, r#"{"a":2,"a":3}"#),
            r#"{"a":3}"#,
            "the last of two"
        );
        assert_eq!(
            merge(r#"{"a\"}":1}"#, r#"{"b":[]}"#),
            r#"{"a\"}":1,"b":[]}"#
        );
        assert_eq!(merge(r#"{"":1}"#, r#"{"":2}"#), r#"{"":2}"#);
    }

    /// Against the algorithm of the RFC on built values, over random texts.
    #[test]
    fn agrees_with_the_same_on_values() {
        fn on_values(target: &mut Value, patch: &Value) {
            let Value::Object(changes) = patch else {
                *target = patch.clone();
                return;
            };
            if !target.is_object() {
                *target = Value::Object(serde_json::Map::new());
            }
            let Value::Object(target) = target else {
                unreachable!()
            };
            for (name, value) in changes {
                if value.is_null() {
                    target.remove(name);
                } else {
                    on_values(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        let mut seed = 7u64;
        let mut draw = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        fn random(draw: &mut dyn FnMut(u64) -> u64, depth: u64) -> Value {
            match draw(if depth == 0 { 4 } else { 8 }) {
                0 => Value::Null,
                1 => Value::from(draw(100)),
                2 => Value::from("\\\"{},: é"),
                3 => Value::Bool(true),
                4 => Value::Array((0..draw(3)).map(|_| random(draw, depth - 1)).collect()),
                _ => Value::Object(
                    (0..draw(5))
                        .map(|_| {
                            (
                                ["a", "b", "\"", "}", "é\\"][draw(5) as usize].to_owned(),
                                random(draw, depth - 1),
                            )
                        })
                        .collect(),
                ),
            }
        }
        for _ in 0..3000 {
            let (target, patch) = (random(&mut draw, 4), random(&mut draw, 4));
            let mut expected = target.clone();
            on_values(&mut expected, &patch);
            let spaced = serde_json::to_string_pretty(&target).unwrap();
            for target in [target.to_string(), spaced] {
                let merged = merge(&target, &patch.to_string());
                assert_eq!(
                    serde_json::from_str::<Value>(&merged).unwrap(),
                    expected,
                    "{target} + {patch}"
                );
            }
        }
    }

    #[test]
    fn a_hundred_thousand_members_take_no_square_time() {
        let members = |from: usize| {
            (from..from + 100_000)
                .map(|i| format!("\"{i}\":{i}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let merged = merge(
            &format!("{{{}}}", members(0)),
            &format!("{{{}}}", members(50_000)),
        );
        assert_eq!(merged.matches(':').count(), 150_000);
    }
}
