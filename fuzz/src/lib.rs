//! What the fuzz targets check. The same files are a module of `tests/http` in the main
//! crate, so that stable Rust and CI run every committed input through them.

pub mod checks;
