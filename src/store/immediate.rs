//! A session of a store that has every answer at once.

use super::{Command, Replies, Session, StoreError, Tag};
use crate::net::World;
use std::time::Instant;

/// Wraps a store that is a function: it adds its answer to the replies.
pub(super) struct Immediate<F> {
    pub(super) store: F,
    pub(super) replies: Replies,
}

impl<F: FnMut(Instant, Tag, Command<'_>, &mut Replies)> Immediate<F> {
    pub(super) fn new(store: F) -> Immediate<F> {
        Immediate { store, replies: Replies::default() }
    }
}

impl<F: FnMut(Instant, Tag, Command<'_>, &mut Replies)> Session for Immediate<F> {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) {
        (self.store)(now, tag, command, &mut self.replies);
    }

    fn progress(&mut self, _: &mut dyn World, _: Instant) -> Replies {
        std::mem::take(&mut self.replies)
    }

    fn give_back(&mut self, mut replies: Replies) {
        if self.replies.is_empty() {
            replies.clear();
            replies.trim();
            self.replies = replies;
        }
    }

    fn abandon(&mut self, _: Instant, _: Tag) -> StoreError {
        StoreError::Timeout
    }

    fn is_immediate(&self) -> bool {
        true
    }
}
