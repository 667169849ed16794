//! What ends a connection: a violation of the protocol.

use std::fmt;

/// Why a connection can no longer be trusted, as text for the log: nobody decides by it.
///
/// The response is always the same: close the connection and fail what is in flight, for it is unknown where the next
/// reply starts. Bytes from the peer are shown escaped, and few of them: they may be a client's data, or an attempt to
/// write to a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(pub(super) String);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtocolError {}
