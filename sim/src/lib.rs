#![forbid(unsafe_code)]
//! kioskd in simulation: the code that ships, in worlds that are made of values.
//!
//! ```text
//! seed ─▶ world ─┬▶ replica   the real worker: front::poll, service, store::redis, resp
//!                ├▶ redis     a model of the server
//!                ├▶ client    what is asked, and what each answer must be
//!                ├▶ net       time, bytes on their way, chance
//!                └▶ book      what happened, and whether it kept the promises of API.md
//! ```
//!
//! One thread, one seed, no clock but the virtual one: a world that broke a promise breaks it again, every time.
//! `docs/simulation.md` is the tour.

pub mod book;
pub mod client;
pub mod net;
pub mod redis;
pub mod replica;
pub mod world;
