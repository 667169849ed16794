//! Conditional requests (RFC 9110 §13): the state of the document that a request requires.
//!
//! ```text
//! If-Match: "a", "b"     only if the document has one of these tags (strong comparison)
//! If-Match: *            only if the document exists
//! If-None-Match: *       only if it does not exist
//! If-None-Match: W/"a"   only if it has none of these tags (weak comparison)
//! ```
//!
//! If-Match is evaluated before If-None-Match (§13.2.2). Documents have no dates here, so conditions on dates are not
//! supported. A condition that cannot be parsed is 400, not ignored: a client that asked for protection must not get a
//! write without it.

use super::problem::Problem;
use crate::http::{Field, Head, Tag};
use crate::store::When;

/// The condition did not hold, and nothing was changed.
const FAILED: Problem = Problem::new(412, "precondition_failed", "precondition failed");

/// The tag came from kioskd, and a proxy on the way made it weak.
const FAILED_WEAK: Problem = Problem::new(
    412,
    "precondition_failed",
    "precondition failed: a weak tag (W/) never matches in If-Match; a proxy that compresses makes tags weak",
);

const BAD: Problem = Problem::new(
    400,
    "bad_condition",
    "bad If-Match or If-None-Match: `*`, or 1 to 100 entity tags in quotes",
);

/// Tags in one request; a longer list is not a condition but an attack.
const TAGS_MAX: usize = 100;

/// The request's conditions. The tags stay in the head, and are compared there.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    head: Head<'a>,
    if_match: Tags,
    if_none_match: Tags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tags {
    /// The field is absent.
    Unasked,
    /// `*`.
    Any,
    /// Some tags.
    List,
}

/// How to write under the conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// In one step: the store can evaluate the condition.
    Direct(When<'static>),
    /// Only after reading the document.
    Look,
    /// Never: the conditions contradict each other.
    Never,
}

impl<'a> Conditions<'a> {
    /// Reads both fields.
    ///
    /// # Errors
    /// 400 when one of them is malformed.
    pub fn of(head: &Head<'a>) -> Result<Conditions<'a>, Problem> {
        Ok(Conditions {
            head: *head,
            if_match: read(head, Field::IfMatch)?,
            if_none_match: read(head, Field::IfNoneMatch)?,
        })
    }

    /// Whether the document with this tag (or its absence) meets the conditions, for a write.
    pub fn hold(&self, tag: Option<&Tag>) -> bool {
        self.is_matched(tag) && !self.is_none_matched(tag)
    }

    /// The response when they do not hold: 412.
    pub fn failed(&self) -> Problem {
        let is_weak = self.if_match == Tags::List
            && tags(self.head, Field::IfMatch).any(|tag| matches!(tag, Ok((true, _))));
        if is_weak { FAILED_WEAK } else { FAILED }
    }

    /// If-Match holds, or is absent.
    pub fn is_matched(&self, tag: Option<&Tag>) -> bool {
        self.if_match == Tags::Unasked || self.name(Field::IfMatch, self.if_match, tag)
    }

    /// If-None-Match is present and names the document: 304 for a read, 412 for a write.
    pub fn is_none_matched(&self, tag: Option<&Tag>) -> bool {
        self.name(Field::IfNoneMatch, self.if_none_match, tag)
    }

    /// Whether a field is present and names the document. In If-Match a weak tag names none.
    fn name(&self, field: Field, asked: Tags, tag: Option<&Tag>) -> bool {
        let Some(own) = tag else { return false };
        let is_own = |(weak, tag): (bool, &[u8])| tag == own && !(weak && field == Field::IfMatch);
        match asked {
            Tags::Unasked => false,
            Tags::Any => true,
            Tags::List => tags(self.head, field).any(|tag| tag.is_ok_and(is_own)),
        }
    }

    /// How to write under these conditions.
    pub fn plan(&self) -> Plan {
        match (self.if_match, self.if_none_match) {
            (Tags::Unasked, Tags::Unasked) => Plan::Direct(When::Always),
            (Tags::Any, Tags::Unasked) => Plan::Direct(When::Present),
            (Tags::Unasked, Tags::Any) => Plan::Direct(When::Absent),
            // The document must exist, and must not exist.
            (Tags::Any | Tags::List, Tags::Any) => Plan::Never,
            _ => Plan::Look,
        }
    }
}

/// `*`, or `[W/]"opaque"` with commas (RFC 9110 §8.8.3), over all fields of that name.
fn read(head: &Head, field: Field) -> Result<Tags, Problem> {
    let Some(first) = head.first(field) else { return Ok(Tags::Unasked) };
    if head.only(field).is_some() && first == b"*" {
        return Ok(Tags::Any);
    }
    let mut count = 0;
    for tag in tags(*head, field) {
        tag?;
        count += 1;
        if count > TAGS_MAX {
            return Err(BAD);
        }
    }
    if count > 0 { Ok(Tags::List) } else { Err(BAD) }
}

/// Every tag in a field: whether it is weak, and the opaque part with its quotes. An error ends a value.
fn tags<'a>(
    head: Head<'a>,
    field: Field,
) -> impl Iterator<Item = Result<(bool, &'a [u8]), Problem>> {
    head.all(field).flat_map(|mut rest| {
        std::iter::from_fn(move || {
            // Empty members are allowed (RFC 9110 §5.6.1), so commas and blanks go together.
            let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b',')).count();
            let text = &rest[blanks..];
            let read = read_tag(text);
            rest = read.map_or(b"", |(_, _, behind)| behind);
            (!text.is_empty()).then(|| read.map(|(weak, tag, _)| (weak, tag)).ok_or(BAD))
        })
    })
}

/// The tag that `text` begins with, and what follows it: nothing, or a comma.
fn read_tag(text: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let weak = text.starts_with(b"W/");
    let opaque = if weak { &text[2..] } else { text };
    let inner = opaque.strip_prefix(b"\"")?;
    let (tag, behind) = opaque.split_at(inner.iter().position(|b| *b == b'"')? + 2);
    let behind = behind.trim_ascii_start();
    let ends = behind.is_empty() || behind[0] == b',';
    (ends && tag.iter().all(|b| *b > b' ')).then_some((weak, tag, behind))
}

#[cfg(test)]
mod tests {
    use super::super::etag::etag;
    use super::super::tests::{request_of, with_fields};
    use super::*;

    fn conditions(fields: &str) -> Result<Conditions<'static>, Problem> {
        Conditions::of(&request_of(&with_fields("GET", "/items/7", fields, "")).head)
    }

    #[test]
    fn conditions_hold_as_the_rfc_says() {
        let own = etag(b"{\"a\":1}");
        let tag = std::str::from_utf8(&own).unwrap();
        for (fields, present, absent) in [
            (String::new(), true, true),
            (format!("If-Match: {tag}\r\n"), true, false),
            (format!("If-Match: \"x\", {tag} ,\"y\"\r\n"), true, false),
            (format!("If-Match: \"x\"\r\nIf-Match: {tag}\r\n"), true, false),
            (format!("If-Match: W/{tag}\r\n"), false, false),
            ("If-Match: \"x\"\r\n".to_owned(), false, false),
            ("If-Match: *\r\n".to_owned(), true, false),
            ("If-None-Match: *\r\n".to_owned(), false, true),
            (format!("If-None-Match: {tag}\r\n"), false, true),
            (format!("If-None-Match: W/{tag}\r\n"), false, true),
            ("If-None-Match: \"x\"\r\n".to_owned(), true, true),
            (format!("If-Match: {tag}\r\nIf-None-Match: {tag}\r\n"), false, false),
            (format!("If-Match: {tag}\r\nIf-None-Match: \"x\"\r\n"), true, false),
            ("If-Match: \"a,b\", ,,\r\n".to_owned(), false, false),
        ] {
            let c = conditions(&fields).unwrap();
            assert_eq!((c.hold(Some(&own)), c.hold(None)), (present, absent), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_never_ignored() {
        let fault = |fields: &str| conditions(fields).err();
        for value in
            ["", "x", "\"x", "\"x\"y", "\"x\" \"y\"", "w/\"x\"", "*, \"x\"", "W/", "\"a b\"", ","]
        {
            assert_eq!(fault(&format!("If-Match: {value}\r\n")), Some(BAD), "{value}");
        }
        assert_eq!(fault("If-Match: *\r\nIf-Match: \"x\"\r\n"), Some(BAD));
        let many = |n| format!("If-Match: {}\r\n", vec!["\"x\""; n].join(","));
        assert!(conditions(&many(TAGS_MAX)).is_ok());
        assert_eq!(fault(&many(TAGS_MAX + 1)), Some(BAD));
    }

    #[test]
    fn what_the_store_can_judge_takes_one_step() {
        for (fields, plan) in [
            ("", Plan::Direct(When::Always)),
            ("If-Match: *\r\n", Plan::Direct(When::Present)),
            ("If-None-Match: *\r\n", Plan::Direct(When::Absent)),
            ("If-Match: *\r\nIf-None-Match: *\r\n", Plan::Never),
            ("If-Match: \"x\"\r\n", Plan::Look),
            ("If-None-Match: \"x\"\r\n", Plan::Look),
            ("If-Match: *\r\nIf-None-Match: \"x\"\r\n", Plan::Look),
        ] {
            assert_eq!(conditions(fields).unwrap().plan(), plan, "{fields}");
        }
    }
}
