//! Random numbers for spread, not for secrecy: xorshift64 (Marsaglia 2003).

use std::hash::{BuildHasher, Hasher, RandomState};

/// A series of random numbers, different for every instance and process.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Random {
        // The only source of randomness in std.
        Random::new(RandomState::new().build_hasher().finish())
    }
}

impl Random {
    /// The series that begins with this number.
    pub fn new(seed: u64) -> Random {
        // Never 0: xorshift would return 0 for ever.
        Random(seed | 1)
    }

    /// The next number of the series.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number, in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_differ_and_do_not_stand_still() {
        let series = || {
            let mut random = Random::default();
            [random.draw(), random.draw(), random.draw()]
        };
        let (a, b) = (series(), series());
        assert_ne!(a, b);
        assert!(a[0] != a[1] && a[1] != a[2]);
    }
}
