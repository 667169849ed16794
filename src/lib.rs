#![forbid(unsafe_code)]
//! kioskd.

pub mod http;
pub mod resp;
