//! What a client sees: the contract of API.md, and HTTP itself, on both fronts and on each store that keeps what it is
//! given.
//!
//! ```text
//! contract  items  lists  idempotency  openapi      what a request means
//! semantics  syntax  limits  transcripts            how it is written, and what is refused
//! splits  differential  corpus                      any bytes, however they are cut
//! tiny_http_faults                                  what the other front cannot help
//! ```
//!
//! What goes wrong with Redis is in `tests/redis`, and clients that mean harm are in `tests/hostile`.

#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;
#[path = "../support/mod.rs"]
mod support;

mod contract;
mod corpus;
mod differential;
mod idempotency;
mod items;
mod limits;
mod lists;
mod openapi;
mod semantics;
mod splits;
mod syntax;
mod tiny_http_faults;
mod transcripts;
