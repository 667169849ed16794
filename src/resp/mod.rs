//! Redis.

pub mod codec;
mod encode;
mod header;
mod limits;
mod protocol_error;
mod value;
