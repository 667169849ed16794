//! `?ttl=SECONDS`: how long an item is to live, or a session at least (API.md, "TTL").
//!
//! ```text
//! POST /items/7?ttl=60      ─▶ 60 s        GET   /sess/a?ttl=60    ─▶ 60 s at least
//! PATCH /items/7?ttl=60     ─▶ 60 s        GET   /items/7?ttl=60   ─▶ 400, it could have no effect
//! ```

use super::Options;
use super::problem::Problem;
use crate::http;
use std::borrow::Cow;
use std::time::Duration;

/// What the query asks for: digits only, 1 to `MAX_TTL`, once. `obeyed` is whether this request can
/// give anything that long to live.
///
/// # Errors
/// 400 for anything else, and for any where it cannot be obeyed: a client that asked for a time to
/// live must not believe it got it.
pub fn asked(query: &str, options: &Options, obeyed: bool) -> Result<Option<Duration>, Problem> {
    let mut values = http::query_values(query, "ttl");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let seconds = value.ok().as_deref().and_then(seconds);
    let ttl = seconds.filter(|ttl| !ttl.is_zero() && *ttl <= options.max_ttl);
    if ttl.is_none() || values.next().is_some() || !obeyed {
        return Err(bad(options));
    }
    Ok(ttl)
}

fn seconds(digits: &[u8]) -> Option<Duration> {
    // `u64::from_str` alone would take `+1`.
    let digits = std::str::from_utf8(digits).ok()?;
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok().map(Duration::from_secs))?
}

fn bad(options: &Options) -> Problem {
    Problem {
        detail: Cow::Owned(format!(
            "bad ttl: 1 to {} seconds, given once, with POST, PUT, PATCH or a read of a session",
            options.max_ttl.as_secs()
        )),
        ..Problem::new(400, "bad_ttl", "")
    }
}
