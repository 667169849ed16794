//! The protocol violations that end a connection, as text for the log.
//!
//! Bytes from the peer are shown escaped, and never more than 16 of them: they may be a client's data, or an attempt to
//! write to a terminal.

use std::fmt;

/// Why a connection can no longer be trusted.
///
/// The response to all of them is the same: close the connection and fail what is in flight, for it is unknown where
/// the next reply starts. The variants are for the log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// The first byte of a connection begins no reply. Most likely another kind of server listens there: HTTP (`H`),
    /// TLS (0x15), SSH (`S`).
    NotRedis {
        /// The byte.
        byte: u8,
    },
    /// A later byte should have begun a value and does not.
    UnknownType {
        /// The byte.
        byte: u8,
    },
    /// A `>` frame on a RESP2 connection, or inside another frame.
    UnexpectedPush,
    /// A line of a known type with a text its type does not allow.
    BadLine {
        /// The type byte.
        kind: u8,
        /// How the text begins, 16 bytes of it, escaped.
        text: String,
    },
    /// A CR without LF, or an LF without CR, inside a line.
    BareLineBreak {
        /// The type byte.
        kind: u8,
    },
    /// No line end within what its type may need.
    LineTooLong {
        /// The type byte.
        kind: u8,
        /// Most bytes between type byte and CRLF.
        limit: usize,
    },
    /// The bytes of a bulk are not followed by CRLF.
    UnterminatedBulk {
        /// The byte in the place of CR or LF.
        byte: u8,
    },
    /// The reply is within the grammar and larger than the limits.
    OverLimit {
        /// What exceeds the limit, with its unit: "bytes in a bulk".
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// The first 16 bytes of a text from the peer, escaped.
pub(super) fn excerpt(text: &[u8]) -> String {
    text[..text.len().min(16)].escape_ascii().to_string()
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRedis { byte } => {
                write!(
                    f,
                    "first byte is `{}`, which begins no reply: not Redis?",
                    byte.escape_ascii()
                )
            }
            Self::UnknownType { byte } => {
                write!(f, "expected a reply and saw `{}`, which begins none", byte.escape_ascii())
            }
            Self::UnexpectedPush => {
                f.write_str("saw a push frame where none may be (RESP2, or inside another frame)")
            }
            Self::BadLine { kind, text } => {
                write!(f, "saw `{text}`, which a `{}` line cannot say", kind.escape_ascii())
            }
            Self::BareLineBreak { kind } => {
                write!(f, "saw a CR or LF that is no CRLF in a `{}` line", kind.escape_ascii())
            }
            Self::LineTooLong { kind, limit } => {
                write!(f, "saw a `{}` line of more than {limit} bytes", kind.escape_ascii())
            }
            Self::UnterminatedBulk { byte } => {
                write!(f, "expected CRLF after a bulk and saw `{}`", byte.escape_ascii())
            }
            Self::OverLimit { what, limit } => write!(f, "saw more than {limit} {what}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_seen_and_little_of_it() {
        let cases = [
            (
                ProtocolError::NotRedis { byte: b'H' },
                "first byte is `H`, which begins no reply: not Redis?",
            ),
            (
                ProtocolError::NotRedis { byte: 0x15 },
                r"first byte is `\x15`, which begins no reply: not Redis?",
            ),
            (
                ProtocolError::BadLine { kind: b'$', text: excerpt(b"\x1b[31m and a long rest") },
                r"saw `\x1b[31m and a long`, which a `$` line cannot say",
            ),
            (
                ProtocolError::OverLimit { what: "levels of nesting", limit: 8 },
                "saw more than 8 levels of nesting",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
