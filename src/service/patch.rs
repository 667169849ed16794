//! JSON Merge Patch (RFC 7396) on text: what the patch does not touch stays as it is, byte for byte.
//!
//! ```text
//! {"a": 1.10, "b": {"c": 1}}  +  {"b": {"c": null, "d": 2}}  ─▶  {"a": 1.10,"b": {"d": 2}}
//! ```
//!
//! Building a tree and printing it again would round numbers and sort keys. So both texts, which are known to be JSON,
//! are only cut into members; untouched members are copied. Names are compared by what they mean (`"\u0061"` is `"a"`),
//! and a name that occurs twice means its last value, in target and patch: nearly every reader does the same, so a
//! patch is applied to the last, and the others are removed. Work is nearly linear in both texts: where the arrays and
//! objects in them end is found once, and not on each level again.

use super::document::string_end;
use std::borrow::Cow;
use std::collections::HashMap;

/// Applies `patch`, an object, to `target`. Both must be JSON, as [`document`](super::document)
/// checks it.
pub fn merge(target: &str, patch: &str) -> String {
    let mut out = String::with_capacity(target.len() + patch.len());
    merge_into(&mut out, (&Cut::of(target), Some(target)), (&Cut::of(patch), patch));
    out
}

/// The patch of one name.
struct Change<'a> {
    /// The member of the patch that counts, by its index, and its value.
    number: usize,
    value: &'a str,
    /// The member of the target that counts, if it has one of that name.
    of: Option<usize>,
}

/// The `MergePatch` of RFC 7396 §2, printed to `out`. Each value is a part of its text.
fn merge_into(out: &mut String, (olds, target): (&Cut, Option<&str>), (news, patch): (&Cut, &str)) {
    if !is_object(patch) {
        return out.push_str(patch.trim());
    }
    let target = target.filter(|t| is_object(t));
    let old: Vec<(&str, &str)> = target.into_iter().flat_map(|t| olds.members(t)).collect();
    let new: Vec<(&str, &str)> = news.members(patch).collect();
    let mut changes: HashMap<Cow<[u8]>, Change> = HashMap::new();
    for (number, &(raw, value)) in new.iter().enumerate() {
        let of = None;
        changes.insert(name(raw), Change { number, value, of });
    }
    for (number, &(raw, _)) in old.iter().enumerate() {
        if let Some(change) = changes.get_mut(&*name(raw)) {
            change.of = Some(number);
        }
    }
    out.push('{');
    let empty = out.len();
    for (number, &(raw, value)) in old.iter().enumerate() {
        match changes.get(&*name(raw)) {
            None => push_member(out, empty, raw, |out| out.push_str(value)),
            Some(change) if change.of != Some(number) || change.value == "null" => {}
            Some(change) => {
                let merge = |out: &mut String| {
                    merge_into(out, (olds, Some(value)), (news, change.value));
                };
                push_member(out, empty, raw, merge);
            }
        }
    }
    for (number, &(raw, value)) in new.iter().enumerate() {
        let adds = |change: &Change| change.number == number && change.of.is_none();
        if changes.get(&*name(raw)).is_some_and(adds) && value != "null" {
            push_member(out, empty, raw, |out| merge_into(out, (olds, None), (news, value)));
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

/// What a name in quotes means, in UTF-8. Half a surrogate pair, which JSON allows and UTF-8 does
/// not, is written as UTF-8 would if it could (WTF-8), so that no text means the same.
pub fn name(raw: &str) -> Cow<'_, [u8]> {
    let inner = &raw[1..raw.len() - 1];
    if !inner.contains('\\') {
        return Cow::Borrowed(inner.as_bytes());
    }
    let mut meant = Vec::with_capacity(inner.len());
    for unit in char::decode_utf16(utf16(inner)) {
        match unit {
            Ok(c) => meant.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let half = half.unpaired_surrogate();
                let low = |bits: u16| 0x80 | (bits & 0x3f) as u8;
                meant.extend([0xe0 | (half >> 12) as u8, low(half >> 6), low(half)]);
            }
        }
    }
    Cow::Owned(meant)
}

/// The code units of a string without its quotes, its escapes undone (RFC 8259 §7).
fn utf16(inner: &str) -> impl Iterator<Item = u16> {
    let mut chars = inner.chars();
    let mut low = None;
    std::iter::from_fn(move || {
        if low.is_some() {
            return low.take();
        }
        let c = match chars.next()? {
            '\\' => match chars.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits = chars.by_ref().take(4).filter_map(|c| c.to_digit(16));
                    return Some(digits.fold(0, |n, digit| n << 4 | digit as u16));
                }
                itself => itself,
            },
            c => c,
        };
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units);
        low = units.get(1).copied();
        Some(units[0])
    })
}

/// A JSON text, and how long each array and object in it is.
pub struct Cut<'a> {
    text: &'a str,
    /// For each, in their order, the place of its opening bracket and its length.
    spans: Vec<(u32, u32)>,
}

impl<'a> Cut<'a> {
    /// Looks through `text`, which must be JSON.
    pub fn of(text: &'a str) -> Cut<'a> {
        let bytes = text.as_bytes();
        let (mut spans, mut open, mut at): (Vec<(u32, u32)>, _, _) = (Vec::new(), Vec::new(), 0);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => at = string_end(bytes, at),
                b'{' | b'[' => {
                    open.push(spans.len());
                    spans.push((at as u32, 0));
                }
                b'}' | b']' => {
                    if let Some((begin, length)) = open.pop().map(|n| &mut spans[n]) {
                        *length = at as u32 + 1 - *begin;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        Cut { text, spans }
    }

    /// The members of an object in the text: names with their quotes, values without the space around them.
    pub fn members(&self, object: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut values = self.elements(object);
        std::iter::from_fn(move || Some((values.next()?, values.next()?)))
    }

    /// The elements of an array in the text, without the space around them; for an object its names and values in turn.
    pub fn elements(&self, array: &'a str) -> impl Iterator<Item = &'a str> {
        let inner = array.trim();
        let mut rest = &inner[1..inner.len() - 1];
        std::iter::from_fn(move || {
            rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',', ':']);
            if rest.is_empty() {
                return None;
            }
            let (value, behind) = rest.split_at(self.value_len(rest));
            rest = behind;
            Some(value)
        })
    }

    /// The length of the value that `rest`, a part of the text, begins with. It ends at an ASCII byte, so it is on a
    /// character boundary.
    fn value_len(&self, rest: &str) -> usize {
        let ends = |b: &u8| b",:]} \t\r\n".contains(b);
        match rest.as_bytes() {
            bytes @ [b'"', ..] => string_end(bytes, 0) + 1,
            [b'{' | b'[', ..] => {
                let at = rest.as_ptr().addr() - self.text.as_ptr().addr();
                let n = self.spans.partition_point(|&(begin, _)| (begin as usize) < at);
                self.spans[n].1 as usize
            }
            bytes => bytes.iter().position(ends).unwrap_or(bytes.len()),
        }
    }
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
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merge(target, patch), result, "{target} + {patch}");
            let inside = merge(&format!(r#"{{"x":{target}}}"#), &format!(r#"{{"x":{patch}}}"#));
            let expected =
                if patch == "null" { "{}".to_owned() } else { format!(r#"{{"x":{result}}}"#) };
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

    /// A small patch of a large document that is nested deep: each level was looked through once more.
    #[test]
    fn a_deep_document_costs_no_more_than_a_flat_one() {
        let list = format!("[{}1]", "[],".repeat(80_000));
        let time = |depth: usize| {
            let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
            let target = format!(r#"{open}{{"l":{list}}}{close}"#);
            let patch = format!(r#"{open}{{"b":2}}{close}"#);
            let wanted = format!(r#"{open}{{"l":{list},"b":2}}{close}"#);
            let took = (0..10).map(|_| {
                let began = std::time::Instant::now();
                assert!(merge(&target, &patch) == wanted);
                began.elapsed()
            });
            took.min().unwrap_or_default()
        };
        let (flat, deep) = (time(1), time(120));
        assert!(deep < 10 * flat, "{deep:?}, and flat {flat:?}");
    }

    #[test]
    fn names_are_compared_by_what_they_mean() {
        assert_eq!(merge(r#"{"\u0061":1,"b":2}"#, r#"{"a":3}"#), r#"{"\u0061":3,"b":2}"#);
        assert_eq!(merge(r#"{"a":1}"#, r#"{"\u0061":null}"#), "{}");
        assert_eq!(merge(r#"{"a\"}":1}"#, r#"{"b":[]}"#), r#"{"a\"}":1,"b":[]}"#);
        assert_eq!(merge(r#"{"":1}"#, r#"{"":2}"#), r#"{"":2}"#);
    }

    #[test]
    fn of_equal_names_the_last_counts() {
        for (target, patch, result) in [
            (r#"{"a":{"x":1},"a":{"y":2}}"#, r#"{"a":{"z":3}}"#, r#"{"a":{"y":2,"z":3}}"#),
            (r#"{"a":1,"b":3,"a":2}"#, r#"{"a":4}"#, r#"{"b":3,"a":4}"#),
            (r#"{"a":1,"a":2}"#, r#"{"b":3}"#, r#"{"a":1,"a":2,"b":3}"#),
            (r#"{"a":1,"a":2,"a":3}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":{"x":1},"a":2}"#, r#"{"a":{}}"#, r#"{"a":{}}"#),
            (r#"{"a":2,"\u0061":{"x":1}}"#, r#"{"a":{}}"#, r#"{"\u0061":{"x":1}}"#),
            (r#"{"a":{"x":1},"a":2}"#, r#"{"b":{"c":null}}"#, r#"{"a":{"x":1},"a":2,"b":{}}"#),
            (r#"{"a":1}"#, r#"{"a":2,"a":3}"#, r#"{"a":3}"#),
            (r#"{"a":1}"#, r#"{"a":null,"a":3}"#, r#"{"a":3}"#),
            (r#"{"a":1}"#, r#"{"a":3,"a":null}"#, "{}"),
            ("{}", r#"{"a":2,"\u0061":3}"#, r#"{"\u0061":3}"#),
            ("{}", r#"{"a":3,"a":null}"#, "{}"),
            (
                r#"{"o":{"a":1,"a":2},"o":{"a":{"x":1},"a":{"y":2}}}"#,
                r#"{"o":{"a":{"x":9,"x":3}}}"#,
                r#"{"o":{"a":{"y":2,"x":3}}}"#,
            ),
        ] {
            assert_eq!(merge(target, patch), result, "{target} + {patch}");
        }
    }

    #[test]
    fn a_name_means_its_text_however_it_is_escaped() {
        let same: [&[&str]; 11] = [
            &["a", "\\u0061", "\\u0061"],
            &["é", "\\u00e9", "\\u00E9"],
            &["😀", "\\ud83d\\ude00", "\\uD83D\\uDE00"],
            &["\\ud800", "\\uD800"],
            &["\\udbff", "\\uDBFF"],
            &["\\udc00", "\\uDC00"],
            &["\\udfffa", "\\uDFFF\\u0061"],
            &["\\ud83da", "\\ud83d\\u0061"],
            &["\\ude00\\ud83d", "\\uDE00\\uD83D"],
            &["\\\"\\\\ud800\\\"", "\\u0022\\u005cud800\\u0022"],
            &["\\b\\f\\n\\r\\t\\/\\\\", "\\u0008\\u000c\\u000a\\u000d\\u0009/\\u005C"],
        ];
        let meant: Vec<_> = same
            .iter()
            .map(|names| {
                let meant: Vec<_> =
                    names.iter().map(|n| name(&format!("\"{n}\"")).into_owned()).collect();
                assert!(meant.windows(2).all(|two| two[0] == two[1]), "{names:?}");
                meant[0].clone()
            })
            .collect();
        for (i, one) in meant.iter().enumerate() {
            assert!(!meant[..i].contains(one), "{:?}", same[i]);
        }
        // If serde_json can read the name, it reads it the same way.
        for names in same {
            for n in names {
                let raw = format!("\"{n}\"");
                if let Ok(text) = serde_json::from_str::<String>(&raw) {
                    assert_eq!(*name(&raw), *text.as_bytes(), "{n}");
                }
            }
        }
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
            let Value::Object(target) = target else { unreachable!() };
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
        // The text of an object, some of its members a second time with another value before them.
        fn doubled(draw: &mut dyn FnMut(u64) -> u64, value: &Value) -> String {
            match value {
                Value::Object(members) => {
                    let mut texts = Vec::new();
                    for (name, value) in members {
                        let name = Value::from(name.as_str());
                        if draw(2) == 0 {
                            texts.push(format!("{name}:{}", random(draw, 2)));
                        }
                        texts.push(format!("{name} : {}", doubled(draw, value)));
                    }
                    format!("{{{}}}", texts.join(","))
                }
                other => other.to_string(),
            }
        }
        for _ in 0..3000 {
            let (target, patch) = (random(&mut draw, 4), random(&mut draw, 4));
            let mut expected = target.clone();
            on_values(&mut expected, &patch);
            let spaced = serde_json::to_string_pretty(&target).unwrap();
            let doubles = [doubled(&mut draw, &target), doubled(&mut draw, &patch)];
            for (target, patch) in [
                (target.to_string(), patch.to_string()),
                (spaced, patch.to_string()),
                (doubles[0].clone(), doubles[1].clone()),
            ] {
                let merged = merge(&target, &patch);
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
            (from..from + 100_000).map(|i| format!("\"{i}\":{i}")).collect::<Vec<_>>().join(",")
        };
        let merged = merge(&format!("{{{}}}", members(0)), &format!("{{{}}}", members(50_000)));
        assert_eq!(merged.matches(':').count(), 150_000);
        // All of one name, on both sides: the last of each.
        let equal =
            |value: &str| format!("{{{}\"a\":{value}}}", "\"a\":{\"x\":1},".repeat(100_000));
        let merged = merge(&equal("{\"y\":2}"), &equal("{\"z\":3}"));
        assert_eq!(merged, r#"{"a":{"y":2,"z":3}}"#);
    }
}
