//! Commands that no connection has, and when they are looked at next.

use super::codec::ErrorReply;
use super::request::Slot;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Commands that wait for a connection are looked at this often: by then it may be known that there will be none.
const EVERY: Duration = Duration::from_millis(100);

/// A command that no connection has.
pub struct Parked {
    /// Its entry.
    pub slot: Slot,
    /// Its bytes.
    pub command: Vec<u8>,
    /// It is not tried before this time. `None`: it waits for a connection.
    pub until: Option<Instant>,
    /// The error that it was refused with, if it was.
    pub error: Option<ErrorReply>,
}

/// The parked commands of a client.
pub struct ParkedList {
    /// In the order in which they were parked, and not of `until`.
    pub list: VecDeque<Parked>,
    /// The bytes of their commands.
    pub bytes: usize,
    /// When they are looked at next.
    at: Instant,
}

impl ParkedList {
    /// An empty list.
    pub fn new(now: Instant) -> ParkedList {
        ParkedList { list: VecDeque::new(), bytes: 0, at: now }
    }

    /// Adds one.
    pub fn push(&mut self, now: Instant, parked: Parked) {
        self.bytes += parked.command.len();
        self.at = self.at.min(parked.until.unwrap_or(now + EVERY));
        self.list.push_back(parked);
    }

    /// Takes out one with this tag.
    pub fn remove(&mut self, tag: u64) -> Option<Parked> {
        let at = self.list.iter().position(|parked| parked.slot.is_for(tag))?;
        let parked = self.list.remove(at)?;
        self.bytes -= parked.command.len();
        Some(parked)
    }

    /// Takes out all, to be placed or [pushed](ParkedList::push) again.
    pub fn take(&mut self, now: Instant) -> VecDeque<Parked> {
        (self.bytes, self.at) = (0, now + EVERY);
        std::mem::take(&mut self.list)
    }

    /// Has all of them looked at now: they may be sent, or go elsewhere.
    pub fn hurry(&mut self, now: Instant) {
        self.at = now;
    }

    /// When they are looked at next, if there are any.
    pub fn next(&self) -> Option<Instant> {
        (!self.list.is_empty()).then_some(self.at)
    }
}
