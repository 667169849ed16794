//! `?ttl=SECONDS`: how long an item is to live, or a session at least (docs/api.md).
//!
//! ```text
//! POST /items/7?ttl=60      ─▶ 60 s        GET   /sess/a?ttl=60    ─▶ 60 s at least
//! PATCH /items/7?ttl=60     ─▶ 60 s        GET   /items/7?ttl=60   ─▶ 400, it could have no effect
//! ```

use super::options::Options;
use super::problem::Problem;
use super::step::Cx;
use crate::http::{self, Parameter, Query};
use std::time::Duration;

/// The time to live in the query: digits only, 1 to `MAX_TTL`, once. `obeyed` is whether this request can set a time to
/// live.
///
/// # Errors
/// 400 for anything else, and for any value where it cannot be obeyed: a client that asked for a time to live must not
/// believe it got it.
pub fn asked(query: &Query, options: &Options, obeyed: bool) -> Result<Option<Duration>, Problem> {
    let Some(raw) = query.first(Parameter::Ttl) else {
        return Ok(None);
    };
    let value = http::percent_decode(raw, true);
    let seconds = value.as_deref().and_then(http::decimal).map(Duration::from_secs);
    let ttl = seconds.filter(|ttl| !ttl.is_zero() && *ttl <= options.max_ttl);
    if ttl.is_none() || query.is_repeated(Parameter::Ttl) || !obeyed {
        return Err(bad(options));
    }
    Ok(ttl)
}

/// `?ttl=` can have no effect here.
///
/// # Errors
/// 400 where it is given all the same.
pub fn none(cx: &Cx) -> Result<(), Problem> {
    asked(&cx.head.query(), cx.options, false).map(drop)
}

fn bad(options: &Options) -> Problem {
    Problem::new(400, "bad_ttl", "").detailed(format!(
        "bad ttl: 1 to {} seconds, given once, with POST, PUT, PATCH or a read of a session",
        options.max_ttl.as_secs()
    ))
}
