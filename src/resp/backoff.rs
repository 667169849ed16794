//! How long to wait before the next try: exponential, with full jitter.
//!
//! `random(0, min(cap, base * 2^n))`, never below a floor. Full jitter, because replicas that lost the same server at
//! the same moment must not reconnect at the same moment (the AWS Architecture Blog, "Exponential Backoff And Jitter",
//! compares the kinds).

use crate::net::Random;
use std::time::Duration;

/// The state of one series of tries.
#[derive(Debug)]
pub struct Backoff {
    floor: Duration,
    base: Duration,
    cap: Duration,
    tries: u32,
    random: Random,
}

impl Backoff {
    /// A new series: waits of up to `base`, doubling up to `cap`, none below `floor`. `random` differs for every
    /// instance and process.
    pub fn new(floor: Duration, base: Duration, cap: Duration, random: u64) -> Backoff {
        Backoff { floor, base, cap, tries: 0, random: Random::new(random) }
    }

    /// The next wait of the series.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.wait_of(self.tries);
        self.tries = self.tries.saturating_add(1);
        wait
    }

    /// The wait after this many tries, for a caller that counts the tries itself.
    pub fn wait_of(&mut self, tries: u32) -> Duration {
        let top = self.base.saturating_mul(1 << tries.min(16)).min(self.cap);
        let wait = Duration::from_nanos(self.random.draw() % (top.as_nanos() as u64).max(1));
        wait.max(self.floor)
    }

    /// Waits given out since the series began.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts the series again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_stay_between_floor_and_a_doubling_top() {
        let mut b = Backoff::new(10 * MS, 50 * MS, 1000 * MS, 7);
        for n in 0..40u32 {
            let wait = b.next_wait();
            let top = (50 * MS * (1 << n.min(10))).min(1000 * MS);
            assert!(wait >= 10 * MS && wait <= top, "try {n}: {wait:?}");
        }
    }

    #[test]
    fn waits_differ_between_series() {
        let series = |random| {
            let mut b = Backoff::new(MS, 1000 * MS, 60_000 * MS, random);
            [b.next_wait(), b.next_wait(), b.next_wait()]
        };
        assert_ne!(series(1 << 40), series(3 << 40));
        assert_ne!(series(0), [MS; 3]);
    }

    #[test]
    fn reset_starts_small_again() {
        let mut b = Backoff::new(MS, 10 * MS, 10_000 * MS, 7);
        for _ in 0..20 {
            b.next_wait();
        }
        b.reset();
        assert!(b.next_wait() <= 10 * MS);
    }
}
