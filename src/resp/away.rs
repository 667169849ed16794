//! Why a server is away, as far as the attempt to connect shows.

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Away {
    /// No such name, connection refused, and the like.
    Unreachable(String),
    /// It accepted the connection, or the packets, and never answered.
    Silent(String),
    /// It refuses us: our settings or its settings are wrong.
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
