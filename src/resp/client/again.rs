//! What becomes of a command that was refused, or has lost its connection: it is tried again, or fails.
//!
//! An error reply proves that it did not run, and so does a connection that was lost before it was sent: then any
//! command may be tried again. Where it is not known whether it ran, only a read may. Every try beyond the first is
//! paid for out of the budget of its node, and redirects have a number.

use super::{AGAIN_CAP, Client, Sink};
use crate::resp::codec::{ErrorReply, Received, Reply};
use crate::resp::command::{Words, words_of};
use crate::resp::connection::Lost;
use crate::resp::error_action::{ErrorAction, error_action, is_shebang_unknown, is_too_long};
use crate::resp::node::Node;
use crate::resp::request::{Asker, Failure, Route, Slot};
use crate::resp::topology::Redirect;
use std::time::Instant;

/// How often one request is given to a connection at the most, if each is lost before it was sent. (A request that is
/// refused is tried again until it is abandoned, or until its node's budget is spent.)
const TRIES_MAX: u8 = 16;

/// How often a read is sent, and a write that was not sent whole, at the most: it may be the cause that the connection
/// ends, and with it the commands of others.
const SENT_MAX: u8 = 3;

/// Redirects that one request follows; a sound cluster needs one or two.
const HOPS_MAX: u8 = 5;

impl Client {
    /// Handles a request that was answered with an error.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        key: u64,
        (mut slot, command): (Slot, Vec<u8>),
        e: ErrorReply,
        sink: Sink<'_>,
    ) {
        let words = Words::again(&command, slot.script);
        let action = error_action(&e);
        match action {
            // The spelling of this very request counts, for others were sent already when the first came back.
            ErrorAction::Report if is_shebang_unknown(&e) && !slot.spelling.plain => {
                self.plain_scripts = true;
                if !std::mem::replace(&mut self.said_plain, true) {
                    log::warn!(
                        "redis does not know `#!lua` (before 7.0, KeyDB, Dragonfly): scripts cannot tell a stale replica from its master"
                    );
                }
                return self.place(now, slot, words, None);
            }
            ErrorAction::SendScript if !slot.spelling.text => {
                slot.spelling.text = true;
                return self.place(now, slot, words, None);
            }
            ErrorAction::Report | ErrorAction::SendScript => {}
            ErrorAction::Lost => {
                let failure = Failure::Broken(e.to_string());
                let lost = Lost { slot, command, sent: true, begun: true };
                return self.lost(now, key, lost, true, &failure);
            }
            ErrorAction::Wait => return self.try_again(now, key, slot, words, e),
            ErrorAction::Rediscover => {
                self.topology.on_refusal(&mut self.nodes, now, key);
                return self.try_again(now, key, slot, words, e);
            }
            ErrorAction::Reconnect => {
                self.nodes.get_mut(key).into_iter().for_each(|node| node.renew_if_old(now));
                return self.try_again(now, key, slot, words, e);
            }
            ErrorAction::Moved | ErrorAction::Ask => {
                self.counts.redirects += 1;
                if let Route::Slot(number) = slot.route
                    && slot.hops < HOPS_MAX
                {
                    slot.hops += 1;
                    match self.topology.on_redirect(&mut self.nodes, now, (key, number), &e) {
                        Redirect::To(node) if action == ErrorAction::Ask => {
                            slot.route = Route::Ask { node, slot: number };
                            return match self.nodes.get(node).is_some_and(Node::is_up) {
                                true => self.place(now, slot, words, None),
                                false => self.park(now, slot, words, None, None),
                            };
                        }
                        Redirect::To(_) => return self.place(now, slot, words, None),
                        // Hops are few, so this need not be paid for by the budget.
                        Redirect::Later => {
                            self.note_refusal(key, &e);
                            return self.park(now, slot, words, Some(now + AGAIN_CAP), Some(e));
                        }
                        Redirect::Nowhere => {}
                    }
                }
            }
        }
        if is_too_long(&e)
            && let Some(node) = self.nodes.get_mut(key)
        {
            let longest = words_of(&command).into_iter().map(<[u8]>::len).max();
            node.note_too_long(now, longest.unwrap_or(0), e.clone());
        }
        if let Asker::Requester(ticket) = slot.asker {
            sink(ticket, slot.reply_type, Ok(Received::Other(Reply::Error(e))), &command);
        }
    }

    /// Tries a refused request again after a wait, if the node's budget allows it. The request did not run, so this is
    /// safe for writes too.
    fn try_again(&mut self, now: Instant, key: u64, slot: Slot, words: Words<'_>, e: ErrorReply) {
        let until = now + self.backoff.wait_of(slot.tries.into());
        self.note_refusal(key, &e);
        if !self.pays(key, now) {
            return self.fail(slot, Failure::Refused(e));
        }
        self.park(now, slot, words, Some(until), Some(e));
    }

    fn note_refusal(&mut self, key: u64, e: &ErrorReply) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.refusal = Some(e.clone());
        }
    }

    /// Handles a command that has lost its connection: it is placed anew, or fails. `again` says whether a read that
    /// was sent may be sent again.
    pub(super) fn lost(
        &mut self,
        now: Instant,
        key: u64,
        Lost { mut slot, command, sent, begun }: Lost,
        again: bool,
        failure: &Failure,
    ) {
        match slot.asker {
            Asker::Requester(_) => {}
            Asker::Topology(question) => {
                let nodes = &mut self.nodes;
                return self.topology.on_answer(nodes, now, (key, question), None);
            }
            Asker::Role | Asker::Nobody => return,
        }
        slot.lost = slot.lost.saturating_add(sent.into());
        let may = if sent && again && slot.read_only && slot.lost < SENT_MAX {
            self.pays(key, now)
        } else {
            !sent && slot.tries < if begun { SENT_MAX } else { TRIES_MAX }
        };
        match may {
            true => self.place(now, slot, Words::again(&command, slot.script), None),
            false if sent => self.fail(slot, failure.clone()),
            false => self.fail(slot, Failure::Unreachable("every connection is lost".to_owned())),
        }
    }

    /// Whether another try at a node can be paid for.
    fn pays(&mut self, key: u64, now: Instant) -> bool {
        let pays = self.nodes.get_mut(key).is_none_or(|node| node.budget.spend(now));
        self.counts.retries += u64::from(pays);
        self.counts.unpaid += u64::from(!pays);
        pays
    }
}
