//! `RATE_LIMIT`: at most so many requests of one client in a window, over all replicas, because the store counts.
//!
//! ```text
//! GET /items/7 ─▶ Take rate:t:ci  ─▶ the 7th in this window ─▶ Get item:7 …, RateLimit: "default";r=3;t=42
//!                                 ─▶ the 11th               ─▶ 429, Retry-After: 42
//!                                 ─▶ no answer              ─▶ as if there were no limit
//! ```
//!
//! A client is known by its token, or else by its address, of which only the first half counts for IPv6 (who has one
//! address of a /64 has all). A store that is too slow to count must not stop requests that it could serve, so the
//! count has a tenth of the request's time, and a request that is not counted by then passes.

use super::access::Token;
use super::problem::Problem;
use crate::http::{self, Extra, Quota};
use crate::store::{Answer, Command, Key, Reply};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Requests of one client, and the window in which they are counted; it begins with the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many, and one more is refused.
    pub limit: u64,
    /// See above.
    pub window: Duration,
}

impl Rate {
    /// Reads `N/s`, `N/m` or `N/h`.
    pub fn parse(text: &str) -> Option<Rate> {
        let (limit, unit) = text.split_once('/')?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let limit = http::decimal(limit.as_bytes());
        let limit = limit.filter(|n| (1..=1_000_000_000).contains(n))?;
        Some(Rate { limit, window: Duration::from_secs(seconds) })
    }

    /// The command that counts a request.
    pub fn take(&self, token: Option<&Token>, client: Option<IpAddr>) -> Command<'static> {
        let id = match (token, client) {
            (Some(token), _) => format!("t:{}", token.name),
            (None, Some(IpAddr::V6(address))) => {
                let half = Ipv6Addr::from(u128::from(address) >> 64 << 64);
                format!("a:{half}/64")
            }
            (None, Some(address)) => format!("a:{address}"),
            // A Unix socket, whose client no proxy names: the start was refused, but for a proxy that forgets to.
            (None, None) => "a:unix".to_owned(),
        };
        Command::Take {
            key: Key { prefix: "rate:", id: id.into_bytes().into() },
            window: self.window,
        }
    }

    /// What is left of the limit; `None` when the store has not counted.
    pub fn quota(&self, reply: &Reply) -> Option<Counted> {
        let Ok(Answer::Taken { count, resets_in }) = reply else {
            return None;
        };
        let quota = Quota {
            limit: self.limit,
            window: self.window.as_secs(),
            left: self.limit.saturating_sub(*count),
            resets_in: resets_in.as_millis().div_ceil(1000) as u64,
        };
        Some(Counted { quota, is_over: *count > self.limit })
    }
}

/// A request that was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// For the response.
    pub quota: Quota,
    is_over: bool,
}

impl Counted {
    /// Lets a request pass that is within the limit.
    ///
    /// # Errors
    /// 429, with the rest of the window in `Retry-After`.
    pub fn judge(&self) -> Result<(), Problem> {
        if !self.is_over {
            return Ok(());
        }
        let Quota { limit, window, resets_in, .. } = self.quota;
        let extra = Extra::RetryAfter(resets_in.max(1) as u32);
        let detail = format!("more than {limit} requests in {window} s");
        Err(Problem::with(extra, 429, "rate_limited", "").detailed(detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for (text, wanted) in [
            ("1/s", Some((1, 1))),
            ("10/m", Some((10, 60))),
            ("1000000000/h", Some((1_000_000_000, 3600))),
            ("0/s", None),
            ("1000000001/h", None),
            ("-1/s", None),
            ("+1/s", None),
            ("1/d", None),
            ("1", None),
            ("/s", None),
            ("1 /s", None),
        ] {
            let rate = Rate::parse(text).map(|rate| (rate.limit, rate.window.as_secs()));
            assert_eq!(rate, wanted, "{text}");
        }
    }

    #[test]
    fn a_client_is_its_address_and_of_ipv6_the_first_half() {
        let rate = Rate::parse("1/s").unwrap();
        let key = |client: &str| match rate.take(None, client.parse().ok()) {
            Command::Take { key, .. } => String::from_utf8(key.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(key("203.0.113.9"), "rate:a:203.0.113.9");
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "rate:a:2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2::"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::"), key("2001:db8:1:3::"));
        assert_eq!(key("unix"), "rate:a:unix");
    }

    #[test]
    fn one_more_than_the_limit_is_refused_until_the_window_ends() {
        let rate = Rate::parse("10/m").unwrap();
        let taken = |count, ms| {
            let resets_in = Duration::from_millis(ms);
            rate.quota(&Ok(Answer::Taken { count, resets_in })).unwrap()
        };
        for (count, left) in [(1, 9), (9, 1), (10, 0)] {
            let counted = taken(count, 42_001);
            assert_eq!((counted.judge(), counted.quota.left), (Ok(()), left));
            assert_eq!(counted.quota.resets_in, 43);
        }
        let refused = taken(11, 0).judge().unwrap_err();
        assert_eq!((refused.status, refused.extra), (429, Extra::RetryAfter(1)));
        assert_eq!(rate.quota(&Ok(Answer::Stored)), None);
    }
}
