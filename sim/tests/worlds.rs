//! The same seed is the same world, and the promises hold in some.

use kioskd_sim::world::run;
use std::thread;

/// Deep enough for the search for an order.
fn with_room<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    thread::Builder::new().stack_size(256 << 20).spawn(test).unwrap().join().unwrap()
}

#[test]
fn the_same_seed_is_the_same_world_told_or_not() {
    for seed in [1, 2, 3] {
        let (a, b) = (with_room(move || run(seed, false)), with_room(move || run(seed, true)));
        assert_eq!((a.digest, a.counts, a.time), (b.digest, b.counts, b.time));
        assert!(a.story.is_empty() && b.story.len() > 1000);
        assert_ne!(a.digest, with_room(move || run(seed + 100, false)).digest);
    }
}

#[test]
fn the_promises_hold_in_some_worlds() {
    for seed in 100..150 {
        assert_eq!(with_room(move || run(seed, false)).broken, None, "seed {seed}");
    }
}
