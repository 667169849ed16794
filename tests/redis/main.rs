//! The store behind the service: what every store promises, and everything that goes wrong between us and Redis, be it one
//! server, a group behind sentinels, or a cluster.
//!
//! `redis_tls` is a crate of its own, because it needs a feature.

#[path = "../support/contract.rs"]
mod contract;
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "poll")]
mod cluster;
#[cfg(feature = "poll")]
mod faults;
#[cfg(feature = "poll")]
mod identity;
#[cfg(feature = "poll")]
mod large;
#[cfg(target_os = "linux")]
mod names;
#[cfg(feature = "poll")]
mod sentinel;
mod sign_on;
mod store_contract;
mod store_down;
mod store_errors;
