//! What a client counts for operators.

/// See the module's text. Every field only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections made to servers to which there was none.
    pub connected: u64,
    /// Commands that were sent or tried again.
    pub retries: u64,
    /// Commands that were not, because too few have succeeded lately.
    pub unpaid: u64,
    /// MOVED and ASK.
    pub redirects: u64,
}
