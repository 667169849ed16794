//! A request to the client: who asks, where it must go, and how it may end without a reply.

use super::codec::ErrorReply;
use super::command::{Script, Spelling};
use super::reply_type::ReplyType;
use std::fmt;

/// A requester's name for a request; comes back with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// For whom it is.
    pub tag: u64,
    /// Which of several for that one.
    pub part: u32,
}

/// Who awaits a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A requester.
    Requester(Ticket),
    /// The topology, which knows its questions by such numbers.
    Topology(u8),
    /// The client, which wants to know whether the server is there, and a master.
    Role,
    /// Nobody, or nobody any more: the reply is read and dropped in its turn.
    Nobody,
}

/// Which server must get a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// On a cluster the node that has this slot; otherwise the one server.
    Slot(u16),
    /// This node of the client's only: the command continues something that was begun there.
    Node(u64),
    /// This node, once, behind ASKING; if it is none of ours by now, as for the slot.
    Ask {
        /// The node.
        node: u64,
        /// The slot.
        slot: u16,
    },
}

/// A command whose reply is awaited: the one entry that it has.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Who awaits the reply.
    pub asker: Asker,
    /// The replies it may get.
    pub reply_type: ReplyType,
    /// Which server must get it.
    pub route: Route,
    /// It changes nothing, so it may be sent again even when its first outcome is unknown.
    pub read_only: bool,
    /// It calls this script, spelled in this way: with its text once the server has not known it.
    pub script: Option<&'static Script>,
    /// See `script`.
    pub spelling: Spelling,
    /// How often it was given to a connection; how often it was sent whole, and lost; how many redirects it followed.
    pub tries: u8,
    /// See `tries`.
    pub lost: u8,
    /// See `tries`.
    pub hops: u8,
    /// Where in the stream of its connection it ends.
    pub(super) end: u64,
}

impl Slot {
    /// A command that has not been sent yet.
    pub fn new(asker: Asker, reply_type: ReplyType, route: Route, read_only: bool) -> Slot {
        Slot {
            asker,
            reply_type,
            route,
            read_only,
            script: None,
            spelling: Spelling::default(),
            tries: 0,
            lost: 0,
            hops: 0,
            end: 0,
        }
    }

    /// Whether a server that does this, and does not refuse it, takes writes.
    pub fn has_written(&self) -> bool {
        // At a node that stands in for another the probe is a PING.
        let is_set = self.reply_type == ReplyType::Probe && matches!(self.route, Route::Slot(_));
        !self.read_only || is_set
    }

    /// Whether a requester awaits the reply, for this tag.
    pub fn is_for(&self, tag: u64) -> bool {
        matches!(self.asker, Asker::Requester(ticket) if ticket.tag == tag)
    }
}

/// Why a request has no reply, or a server no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was sent, and its time is over. It may have run.
    Timeout,
    /// There is no connection. It did not run.
    Unreachable(String),
    /// The connection was lost after it had been sent. It may have run.
    Broken(String),
    /// A limit of ours is reached. It did not run.
    Overloaded,
    /// The server refuses it, or our connection. It did not run.
    Refused(ErrorReply),
    /// The node that it must go to has no keys any more. It did not run.
    Left,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Unreachable(why) | Failure::Broken(why) => f.write_str(why),
            Failure::Overloaded => f.write_str("too many commands wait"),
            Failure::Refused(e) => e.fmt(f),
            Failure::Left => f.write_str("the server has left"),
        }
    }
}
