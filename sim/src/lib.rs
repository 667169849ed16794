#![forbid(unsafe_code)]
//! kioskd in simulation: the code that ships, in worlds that are made of values.
//!
//! ```text
//! seed ─▶ world ─┬▶ replica   the real worker: front::poll, service, store::redis, resp
//!                ├▶ servers   one, or a master with its replicas, or a cluster, and what goes wrong between them
//!                │             redis     a model of a server's data
//!                │             sentinel  who says which server is the master
//!                │             cluster   who says which server has a key
//!                ├▶ client    what is asked, and what each answer must be
//!                ├▶ net       time, bytes on their way, chance
//!                └▶ book      what happened, and whether it kept the promises in docs/simulation.md
//! ```
//!
//! One thread, one seed, no clock but the virtual one: a world that broke a promise breaks it again, every time.
//! `docs/simulation.md` is the tour.

pub mod book;
pub mod client;
pub mod cluster;
pub mod net;
pub mod owed;
pub mod redis;
pub mod replica;
pub mod sentinel;
pub mod servers;
pub mod world;
