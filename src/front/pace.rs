//! How slow a client may be while it sends a body or takes a response.
//!
//! ```text
//! a timeout of 10 s    nothing for 10 s                                too slow
//!                      100 KiB, at 2.5 KiB a second                    as long as it takes
//!                      a byte every second, to stay just within it     too slow after 10.009 s
//! ```
//!
//! A time limit for the whole would cut off a client that has much to send on a slow line; a time limit for each byte
//! alone would let a client that trickles stay for ever. So there are two: a time without a byte, and a minimum average
//! rate for what goes beyond that time.

use std::time::{Duration, Instant};

/// Bytes a second, on average, beyond the timeout. Far below any line in use (GPRS brought 4 KiB), far above what an
/// attacker likes to spend; at this rate the largest body of 1 MiB ends after 18 minutes.
pub const LEAST_RATE: u64 = 1024;

/// When a client becomes too slow that began at `began` and has moved `bytes` since, the last of them at `last`, if no
/// more follow.
pub fn deadline(timeout: Duration, began: Instant, last: Instant, bytes: usize) -> Instant {
    let paid_for = Duration::from_millis((bytes as u64).saturating_mul(1000) / LEAST_RATE);
    last.min(began + paid_for) + timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Plays a client that moves `step` bytes every `every` until it is too slow or has moved `bytes`.
    fn ends_after(step: usize, every: Duration, bytes: usize) -> Result<Duration, Duration> {
        let began = Instant::now();
        let (mut now, mut moved) = (began, 0);
        let mut until = deadline(TIMEOUT, began, began, 0);
        while moved < bytes {
            now += every;
            if now >= until {
                return Err(until - began);
            }
            moved += step;
            until = deadline(TIMEOUT, began, now, moved);
        }
        Ok(now - began)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_steady_client_has_the_time_it_needs() {
        // 20 kbit/s; 50 kB/s; and exactly the least rate, for as long as it takes.
        assert_eq!(ends_after(250, ms(100), 100_000), Ok(ms(40_000)));
        assert_eq!(ends_after(50_000, ms(1000), 1_000_000), Ok(ms(20_000)));
        assert_eq!(ends_after(1024, ms(1000), 1 << 20), Ok(ms(1_024_000)));
        // A pause that is just within the timeout costs nothing when the rest is fast.
        assert_eq!(ends_after(20_000, ms(9_999), 100_000), Ok(ms(49_995)));
    }

    #[test]
    fn silence_is_too_slow_after_the_timeout_whatever_came_before() {
        assert_eq!(ends_after(1, TIMEOUT, 1), Err(TIMEOUT));
        let now = Instant::now();
        let last = now + ms(5_000);
        assert_eq!(deadline(TIMEOUT, now, last, 1 << 30), last + TIMEOUT);
    }

    #[test]
    fn a_trickle_is_too_slow_soon_after_the_timeout() {
        assert_eq!(ends_after(1, ms(1000), 100), Err(ms(10_009)));
        // Just below the rate it takes longer, and is still detected.
        assert!(ends_after(1000, ms(1000), 1 << 30).is_err());
        assert_eq!(ends_after(0, ms(1000), 1), Err(TIMEOUT));
    }

    #[test]
    fn no_number_of_bytes_is_too_large() {
        let now = Instant::now();
        assert_eq!(deadline(TIMEOUT, now, now, usize::MAX), now + TIMEOUT);
    }
}
