//! What an operator sees: settings, start and end, logs, and a README that says what is so.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod alerts;
mod deploy;
#[cfg(feature = "poll")]
mod experiments; // The documents show the default build.
mod lifecycle;
mod logs;
mod metrics;
mod readme;
mod rolling;
mod settings;
mod traceability;
