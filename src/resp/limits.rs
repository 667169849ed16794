//! How much a peer may send in one reply, and in which protocol version.
//!
//! Each number is what the largest legitimate reply needs plus a margin, not what memory would bear: a reply beyond it
//! is a mistake or an attack, and both end the connection.

/// What one reply may cost, with the pushes and attributes before it. A reply at a limit is read, and one more is
/// fatal, except for `value_bytes_max`.
///
/// A reply's elements themselves (about 60 bytes each) are bounded by their number only:
/// `elements_total_max` of them are about 30 MB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest payload that is kept. A longer one is read, dropped and reported as
    /// [`Reply::TooLarge`](super::codec::Reply::TooLarge): the connection stays in step, and other requests are not
    /// affected. Default: 1 MiB and 64 KiB, the largest document and room for what a store adds to it.
    pub value_bytes_max: usize,
    /// The longest payload that is read at all, and the most bytes dropped in one reply. Default: 512 MiB, the longest
    /// that Redis stores (`proto-max-bulk-len`), so that another application's value never ends a connection with our
    /// writes on it.
    pub bulk_bytes_max: usize,
    /// Aggregates inside each other, attributes included. Default: 8; the deepest reply that kioskd asks for, `CLUSTER
    /// SLOTS`, has 4.
    pub depth_max: usize,
    /// Elements of one aggregate; a pair counts as two. Default: 100,000, which holds the slot
    /// map of a cluster where every slot is a range of its own.
    pub elements_max: usize,
    /// Elements of all aggregates of a reply together. Default: 500,000.
    pub elements_total_max: usize,
    /// Payload bytes kept for one reply, of all its elements together. Default: 16 MiB.
    pub bytes_total_max: usize,
    /// The text of a simple string or an error. Default: 64 KiB, of which 320 bytes are kept.
    pub line_bytes_max: usize,
    /// Pushes and attributes between two replies. Default: 1000. A connection that subscribes
    /// should PING now and then, or have a higher limit.
    pub out_of_band_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            value_bytes_max: (1 << 20) + (64 << 10),
            bulk_bytes_max: 512 << 20,
            depth_max: 8,
            elements_max: 100_000,
            elements_total_max: 500_000,
            bytes_total_max: 16 << 20,
            line_bytes_max: 64 << 10,
            out_of_band_max: 1000,
        }
    }
}

/// Which protocol the connection speaks.
///
/// The protocol decides one thing: in RESP2 a push frame is an error. The other types of RESP3 are read in either,
/// because they cannot be mistaken for something else, because the reply to `HELLO 3` is already in RESP3, and because
/// the code that waits for the reply knows which types may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Redis before 6, and every connection before `HELLO 3`.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}
