//! Conditional requests (RFC 9110 §13): what a request says about the state it wants to find.
//!
//! ```text
//! If-Match: "a", "b"     only if one of these is there (strong comparison)
//! If-Match: *            only if something is there
//! If-None-Match: *       only if nothing is there
//! If-None-Match: W/"a"   only if it is none of these (weak comparison)
//! ```
//!
//! If-Match is judged before If-None-Match (§13.2.2). There are no dates here, so the conditions on
//! dates do not exist. A condition that cannot be read is 400, not ignored: a client that asked for
//! protection must not get a write without it.

use super::etag::etag;
use super::problem::Problem;
use crate::http::Head;
use crate::store::When;

/// The condition did not hold, and nothing was changed.
const FAILED: Problem = Problem::new(412, "precondition_failed", "precondition failed");

/// The tag came from us, and somebody on the way made it weak.
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

/// Tags in one request; a list of more is not a condition but an attack.
const TAGS_MAX: usize = 100;

/// What the request demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    Any,
    /// Opaque tags with their quotes; `true` for weak ones.
    List(Vec<(bool, String)>),
}

/// How to write under the conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// In one step: the store can judge it.
    Direct(When),
    /// Only after a look at the document.
    Look,
    /// Never: the conditions contradict each other.
    Never,
}

impl Conditions {
    /// Reads both fields.
    ///
    /// # Errors
    /// 400 when one of them is malformed.
    pub fn of(head: &Head) -> Result<Conditions, Problem> {
        Ok(Conditions {
            if_match: tags(head, "if-match")?,
            if_none_match: tags(head, "if-none-match")?,
        })
    }

    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Whether `document` (or its absence) is what the request wants to find, for a write.
    pub fn hold(&self, document: Option<&[u8]>) -> bool {
        self.is_matched(document) && !self.is_none_matched(document)
    }

    /// What to answer when they do not hold: 412.
    pub fn failed(&self) -> Problem {
        match &self.if_match {
            Some(Tags::List(tags)) if tags.iter().any(|(weak, _)| *weak) => FAILED_WEAK,
            _ => FAILED,
        }
    }

    /// If-Match holds, or is not there.
    pub fn is_matched(&self, document: Option<&[u8]>) -> bool {
        match (&self.if_match, document) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Tags::Any), Some(_)) => true,
            (Some(Tags::List(tags)), Some(document)) => {
                let own = etag(document);
                tags.iter().any(|(weak, tag)| !weak && *tag == own)
            }
        }
    }

    /// If-None-Match is there and names the document: 304 for a read, 412 for a write.
    pub fn is_none_matched(&self, document: Option<&[u8]>) -> bool {
        match (&self.if_none_match, document) {
            (None, _) | (_, None) => false,
            (Some(Tags::Any), Some(_)) => true,
            (Some(Tags::List(tags)), Some(document)) => {
                let own = etag(document);
                tags.iter().any(|(_, tag)| *tag == own)
            }
        }
    }

    /// How to write under them.
    pub fn plan(&self) -> Plan {
        match (&self.if_match, &self.if_none_match) {
            (None, None) => Plan::Direct(When::Always),
            (Some(Tags::Any), None) => Plan::Direct(When::Present),
            (None, Some(Tags::Any)) => Plan::Direct(When::Absent),
            // Something must be there, and nothing may be.
            (Some(_), Some(Tags::Any)) => Plan::Never,
            _ => Plan::Look,
        }
    }
}

/// `*`, or `[W/]"opaque"` with commas (RFC 9110 §8.8.3), over all fields of that name.
fn tags(head: &Head, name: &str) -> Result<Option<Tags>, Problem> {
    let mut list = Vec::new();
    let mut any = false;
    let mut fields = 0;
    for value in head.all(name) {
        fields += 1;
        if value.trim() == "*" {
            any = true;
            continue;
        }
        read_list(value, &mut list)?;
    }
    match (fields, any) {
        (0, _) => Ok(None),
        (1, true) => Ok(Some(Tags::Any)),
        // `*` beside anything else.
        (_, true) => Err(BAD),
        _ if list.is_empty() => Err(BAD),
        _ => Ok(Some(Tags::List(list))),
    }
}

fn read_list(value: &str, list: &mut Vec<(bool, String)>) -> Result<(), Problem> {
    let mut rest = value;
    loop {
        // Empty members are allowed (RFC 9110 §5.6.1), so commas and blanks go together.
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(());
        }
        let weak = rest.starts_with("W/");
        let opaque = if weak { &rest[2..] } else { rest };
        let end = opaque.strip_prefix('"').and_then(|inner| inner.find('"')).ok_or(BAD)? + 2;
        let (tag, behind) = opaque.split_at(end);
        if tag.bytes().any(|b| b <= b' ') || list.len() == TAGS_MAX {
            return Err(BAD);
        }
        list.push((weak, tag.to_owned()));
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(BAD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HeadLimits, HeadParser};

    fn conditions(fields: &str) -> Result<Conditions, Problem> {
        let text = format!("GET /items/7 HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let (head, _) =
            HeadParser::new().parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap();
        Conditions::of(&head)
    }

    #[test]
    fn conditions_hold_as_the_rfc_says() {
        let document = b"{\"a\":1}";
        let tag = etag(document);
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
            assert_eq!((c.hold(Some(document)), c.hold(None)), (present, absent), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_never_ignored() {
        for value in
            ["", "x", "\"x", "\"x\"y", "\"x\" \"y\"", "w/\"x\"", "*, \"x\"", "W/", "\"a b\"", ","]
        {
            assert_eq!(conditions(&format!("If-Match: {value}\r\n")), Err(BAD), "{value}");
        }
        assert_eq!(conditions("If-Match: *\r\nIf-Match: \"x\"\r\n"), Err(BAD));
        let many = |n| format!("If-Match: {}\r\n", vec!["\"x\""; n].join(","));
        assert!(conditions(&many(TAGS_MAX)).is_ok());
        assert_eq!(conditions(&many(TAGS_MAX + 1)), Err(BAD));
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
