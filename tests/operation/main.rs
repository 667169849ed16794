//! What an operator sees: settings, start and end, logs, and a README that says what is so.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod alerts;
mod deploy;
mod lifecycle;
mod logs;
mod metrics;
mod readme;
mod rolling;
mod settings;
mod traceability;
