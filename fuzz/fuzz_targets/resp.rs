//! See `checks::resp`.
#![no_main]

use kioskd_fuzz::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::resp::check(input));
