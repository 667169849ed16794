//! Chance that is the same in every run.

/// xorshift64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The walk that `seed` names.
    pub fn new(seed: u64) -> Random {
        // Small seeds differ in few bits, and zero would stand still.
        Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Any number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
