//! Clients that are too many, too slow, too greedy, or gone; and what a good one notices of them.
//!
//! Times are measured here and memory is counted, so nothing stands in this crate that is busy without need: what
//! loads the machine takes turns (`support::hostile::alone`), the others wait.

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod gone;
mod neighbours;
mod pauses;
mod time;
