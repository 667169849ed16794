//! Which replies a command may have. Anything else, but an error, means that we are out of step.

use super::codec::Reply;

/// The reply a command may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyType {
    /// GET: a bulk string or null.
    Value,
    /// SET with an option: `+OK`, or null when the condition did not hold.
    Stored,
    /// A script's -1 (condition did not hold), or whether something was there: a SET.
    StoredFlag,
    /// As `StoredFlag`: a delete.
    DeletedFlag,
    /// As `StoredFlag`, or the record of the same write done before.
    Once,
    /// 0 and a value or null, or 1 and the record of a write.
    Look,
    /// DEL: how many keys were removed.
    Count,
    /// Two integers in an array.
    Pair,
    /// AUTH, SELECT: `+OK`.
    Ok,
    /// A SET that only tests whether writes are possible: `+OK` or null; or a PING.
    Probe,
    /// Any reply: who asked judges it.
    Any,
    /// SUBSCRIBE in RESP3: a push confirms it, a reply is a refusal.
    Pushed,
}

impl ReplyType {
    /// Whether the command may have this reply.
    pub fn fits(self, reply: &Reply) -> bool {
        match reply {
            _ if self == Self::Any => true,
            Reply::Error(_) => true,
            Reply::Bulk(_) | Reply::TooLarge(_) => self.may_be_bulk(),
            Reply::Null => matches!(self, Self::Value | Self::Stored | Self::Probe),
            Reply::Ok => matches!(self, Self::Stored | Self::Probe | Self::Ok),
            Reply::Simple(text) => self == Self::Probe && text == b"PONG",
            Reply::Integer(n) => match self {
                Self::StoredFlag | Self::DeletedFlag | Self::Once => (-1..=1).contains(n),
                Self::Count => *n >= 0,
                _ => false,
            },
            Reply::Array(parts) => matches!(
                (self, &parts[..]),
                (
                    Self::Look,
                    [Reply::Integer(0), Reply::Bulk(_) | Reply::Null | Reply::TooLarge(_)]
                ) | (Self::Look, [Reply::Integer(1), Reply::Bulk(_) | Reply::TooLarge(_)])
                    | (Self::Pair, [Reply::Integer(_), Reply::Integer(_)])
            ),
        }
    }

    /// Whether it may be a bulk string.
    pub fn may_be_bulk(self) -> bool {
        matches!(self, Self::Value | Self::Once | Self::Any)
    }
}
