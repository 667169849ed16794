//! What a client sees: the contract of docs/api.md, and HTTP itself, on both fronts and on each store that keeps what
//! it is given.
//!
//! ```text
//! contract  items  lists  idempotency  openapi  page     what a request means
//! semantics  syntax  limits  transcripts                how it is written, and what is refused
//! splits  differential  corpus                          any bytes, however they are cut
//! tiny_http_faults                                      what the other front cannot help
//! ```
//!
//! Without the feature `poll` it is the contract, on the front there is; the suites of the front that faces a network are
//! left out. What goes wrong with Redis is in `tests/redis`, and clients that mean harm are in `tests/hostile`.

// What the suites that are left out would have used.
#![cfg_attr(not(feature = "poll"), allow(dead_code, unused_imports))]

#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;
#[path = "../support/mod.rs"]
mod support;

mod contract;
mod corpus;
mod differential;
mod idempotency;
mod items;
#[cfg(feature = "poll")]
mod limits;
mod lists;
mod openapi;
mod page;
#[cfg(feature = "poll")]
mod semantics;
mod splits;
#[cfg(feature = "poll")]
mod syntax;
#[cfg(feature = "poll")]
mod tiny_http_faults;
mod transcripts;
