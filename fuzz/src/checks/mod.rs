//! Claims about any bytes at all, one file for each reader of bytes a stranger sends.
//!
//! Each check takes one input and panics if a claim does not hold for it. It needs no fuzzer: the
//! targets in `fuzz_targets/` feed it from libFuzzer, `tests/http/corpus.rs` from files. All of them
//! claim two things: nothing panics, and the outcome is the same however the bytes are cut. What
//! else is known of the outcome stands in each file.

pub mod chunked;
pub mod client;
pub mod connection;
pub mod front;
pub mod head;
pub mod model;
pub mod random;
pub mod resp;

use random::Random;

/// Ways to cut `length` bytes: whole, one by one, and a few at random, the same in every run.
///
/// Each is a list of ends, the last of which is `length`.
fn all_cuts(length: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Random::new(seed);
    let mut cuts = vec![vec![length], (1..=length).collect()];
    cuts.extend([2, 9, 80, 1000].map(|piece_max| walk(&mut random, length, piece_max)));
    cuts
}

/// Where to cut `length` bytes into pieces of at most `piece_max`.
fn walk(random: &mut Random, length: usize, piece_max: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < length {
        at = (at + 1 + random.below(piece_max)).min(length);
        ends.push(at);
    }
    ends
}
