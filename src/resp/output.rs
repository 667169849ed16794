//! The commands of one connection, as one stream of bytes.
//!
//! ```text
//!      base      answered_to      sent        queued
//!        ░░░░░░░░░░░░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓    ░ has its replies   ▒ is with the kernel   ▓ waits
//! ```
//!
//! Places are counted from the beginning of the connection. Bytes stay until their replies have come: a command that has
//! to be sent again is copied from here.

/// A buffer that has become larger than this is freed after a while.
pub const KEPT_BYTES: usize = 64 * 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    base: u64,
    /// Where the most recently answered command ends.
    pub answered_to: u64,
    /// What the kernel has taken.
    pub sent: u64,
    /// Where the last command ends.
    pub queued: u64,
}

impl Output {
    /// Appends a command, which `write` writes; gives where it ends.
    #[inline]
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.queued += (self.bytes.len() - before) as u64;
        self.queued
    }

    /// The bytes between two places; none if they are not there any more.
    #[inline]
    pub fn between(&self, from: u64, to: u64) -> &[u8] {
        let index = |place: u64| place.saturating_sub(self.base) as usize;
        self.bytes.get(index(from)..index(to)).unwrap_or_default()
    }

    /// How many bytes are with the kernel, or wait.
    pub fn held(&self) -> usize {
        (self.queued - self.answered_to) as usize
    }

    /// Takes back what waits behind this place.
    pub fn cut(&mut self, queued: u64) {
        self.queued = queued;
        self.bytes.truncate((queued - self.base) as usize);
    }

    /// Drops what has its replies, if that is worth the while.
    pub fn drop_answered(&mut self) {
        let done = (self.answered_to - self.base) as usize;
        if self.answered_to == self.queued {
            self.bytes.clear();
            self.base = self.queued;
        } else if done > KEPT_BYTES.max(self.bytes.len() / 2) {
            // Under steady load the buffer is never empty, and would only ever grow. Each byte is moved at most once
            // for each byte that was answered.
            self.bytes.drain(..done);
            self.base = self.answered_to;
        }
    }

    /// How much memory it has.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives back what is not needed.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to(KEPT_BYTES);
    }
}
