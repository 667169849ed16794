//! See `checks::connection`.
#![no_main]

use kioskd_fuzz::checks::connection::check;
use kioskd_fuzz::checks::front::Front;

thread_local! {
    /// One front for all inputs, each on a connection of its own.
    static FRONT: Front = Front::start();
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| FRONT.with(|front| check(front, input)));
