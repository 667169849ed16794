//! Why a server is away, as far as a connection to it can tell.

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Away {
    /// No such name, connection refused, and the like.
    Unreachable(String),
    /// It took the connection, or the packets, and said nothing.
    Silent(String),
    /// It does not let us in: an error in our settings, or in its.
    Refused(String),
}

impl Away {
    /// For logs and messages.
    pub fn reason(&self) -> &str {
        match self {
            Away::Unreachable(why) | Away::Silent(why) | Away::Refused(why) => why,
        }
    }
}
