//! See `checks::chunked`.
#![no_main]

use kioskd_fuzz::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::chunked::check(input));
