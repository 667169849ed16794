//! The architecture, checked against the source itself: data flows one way through the layers, and that only stays true
//! if a file cannot reach back for what it is not given.
//!
//! ```text
//! rooms    which folder of src/ may name which, and who may ask the operating system
//! circles  files that need each other
//! crates   who may name which crate, and what the build without `poll` consists of
//! ```
//!
//! All of them read tokens, not lines ([`source`]): comments and strings may say what they like, and a path counts
//! wherever it stands, in a `use`, in a group, in a signature, through `super`. Code under `#[cfg(test)]` is left out: a
//! test may need a neighbour that the code may not have. Each has a test of itself.

mod circles;
mod crates;
mod paths;
mod rooms;
mod source;
