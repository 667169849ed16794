//! Redis.

pub mod codec;
mod encode;
mod header;
mod limits;
mod protocol_error;
pub mod slot;
pub mod url;
mod value;
