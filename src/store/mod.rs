//! What a store is: the few commands the service sends, and the ways an answer can fail.
//!
//! ```text
//! Store ── session() ──▶ Session (one for each worker)
//!                          submit(tag, Command)     queue it; never blocks
//!                          progress(world)          move bytes; Replies are the finished commands
//!                          give_back(Replies)       when they have been handled
//!                          abandon(tag)             its deadline has passed: why is there no answer?
//!                          next_deadline()          when it must be called at the latest
//! ```
//!
//! Commands name one key each (except the two that read many), so that they work on a cluster. A store for another
//! backend is an afternoon's work: [`noop`] is the shortest, [`memory`] runs with nothing installed, [`redis`] is the
//! one for production; `docs/store.md` walks through one more, in `examples/file_store`. All of them pass the same
//! contract in `tests/support/contract.rs`. A session belongs to one thread and does no locking of its own.

pub mod blocking;
pub mod cursor;
mod immediate;
pub mod memory;
pub mod noop;
pub mod redis;
pub mod trouble;

use crate::net::{Ready, World};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A place where items are kept.
pub trait Store: Send + Sync {
    /// `memory`, `noop` or `redis`: for the start-up line.
    fn kind(&self) -> &'static str;

    /// The store's address, for the start-up line; never with a secret in it.
    fn place(&self) -> String;

    /// Whether it serves, as far as is known without asking it.
    fn is_up(&self, _now: Instant) -> bool {
        true
    }

    /// What it has counted.
    fn measures(&self) -> Vec<Measure> {
        Vec::new()
    }

    /// A session, for one worker. A server that cannot be reached is not an error here: the session connects when it
    /// can and reports failures in its answers.
    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session>;
}

/// Something that a store has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Its name, as metrics call it.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// It only grows.
    pub is_counter: bool,
    /// Its value now.
    pub value: u64,
}

/// Names a submitted command; chosen by the submitter.
pub type Tag = u64;

/// The owner of every socket of a session ([`World::set_owner`]); no client's socket has this owner.
pub const OWNER: u64 = u64::MAX;

/// One worker's session with the store. Every submitted command is answered once, by [`progress`](Session::progress) or
/// by [`abandon`](Session::abandon).
pub trait Session {
    /// Queues a command. It is sent again, where that is safe, until the submitter abandons it.
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>);

    /// Takes an event for one of this session's sockets.
    fn ready(&mut self, _ready: Ready) {}

    /// Makes the next [`progress`](Session::progress) read from the sockets themselves, whatever events were reported:
    /// after a pause of the whole process there may be replies for which there was no event.
    fn look(&mut self) {}

    /// Moves the bytes that can be moved without waiting. Finished commands come with the buffer that holds their
    /// bytes, which must be given back. If none is finished, call again when a socket is ready, or at the
    /// [`next_deadline`](Session::next_deadline).
    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies;

    /// Takes the buffer back, to use it again.
    fn give_back(&mut self, replies: Replies);

    /// Forgets a command whose deadline has passed, and says why it has no answer.
    fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError;

    /// When `progress` must be called even if nothing becomes ready.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether it has no connection and is making one: a moment later it may serve.
    fn is_connecting(&self) -> bool {
        false
    }

    /// Whether commands are answered as they are submitted: then call `progress` after each, before more answers add
    /// up.
    fn is_immediate(&self) -> bool {
        false
    }
}

/// Finished commands, and the bytes of their answers.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    list: Vec<(Tag, Kept)>,
    failed: bool,
}

/// A reply whose bytes are in [`Replies`].
type Kept = Result<Answer<Range<usize>>, StoreError>;

/// How many bytes of capacity the buffers keep when they come back.
const KEPT_BYTES: usize = 64 * 1024;
const KEPT_REPLIES: usize = 256;

impl Replies {
    /// Whether nothing is finished.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many commands are finished.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them is an error.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The finished commands, in the order in which they finished.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, Reply<'_>)> {
        self.list.iter().map(|(tag, kept)| {
            let reply = match kept {
                Ok(answer) => Ok(answer.with(|range| &self.bytes[range.clone()])),
                Err(e) => Err(e.clone()),
            };
            (*tag, reply)
        })
    }

    /// Adds the outcome of a command.
    #[inline]
    pub fn push(&mut self, tag: Tag, reply: Reply<'_>) {
        self.failed |= reply.is_err();
        let kept = reply.map(|answer| {
            answer.with(|bytes| {
                let at = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                at..self.bytes.len()
            })
        });
        self.list.push((tag, kept));
    }

    /// One reply, to tag 0.
    pub fn of(reply: Reply<'_>) -> Replies {
        let mut replies = Replies::default();
        replies.push(0, reply);
        replies
    }

    /// Drops the replies to other commands.
    #[must_use]
    pub fn only(mut self, tag: Tag) -> Replies {
        self.list.retain(|(of, _)| *of == tag);
        self
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.failed = false;
    }

    /// Whether the buffers have more capacity than is often needed.
    pub fn is_large(&self) -> bool {
        self.bytes.capacity() > KEPT_BYTES || self.list.capacity() > KEPT_REPLIES
    }

    /// Frees capacity that is not often needed. Not each time: to allocate it again costs more than all else.
    pub fn trim(&mut self) {
        self.bytes.shrink_to(KEPT_BYTES);
        self.list.shrink_to(KEPT_REPLIES);
    }
}

/// One of many values: the value, its absence, or why it cannot be given though something is stored.
pub type Found = Result<Option<Vec<u8>>, StoreError>;

/// A page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, with the rest of their time to live (`None`: no expiry). A page may be empty before the end.
    pub keys: Vec<(Vec<u8>, Option<Duration>)>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// The outcome of a command.
pub type Reply<'a> = Result<Answer<&'a [u8]>, StoreError>;

/// A key in a store. An id can hold anything but control characters and still never leave its prefix: a key is one
/// argument, not a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key<'a> {
    /// The collection's prefix.
    pub prefix: &'static str,
    /// The id.
    pub id: Cow<'a, [u8]>,
}

impl Key<'_> {
    /// The whole key, in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.prefix.as_bytes(), &self.id].concat()
    }

    /// The whole key, in `buffer`, behind `before`.
    pub fn join<'b>(&self, before: &[u8], buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        buffer.extend_from_slice(before);
        buffer.extend_from_slice(self.prefix.as_bytes());
        buffer.extend_from_slice(&self.id);
        buffer
    }
}

/// A command to the store, about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// The value under `key`.
    Get {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// Reading extends the time to live to at least this (a session that is read). It never shortens it, and a key
        /// without an expiry gets none.
        renew: Option<Duration>,
        /// The read before a write that must take effect once: the record, if there is one, is the answer.
        once: Option<Box<Once<'a>>>,
    },
    /// Puts `value` under `key`, value and time to live in one step.
    Set {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// The bytes to store.
        value: Cow<'a, [u8]>,
        /// How long they live.
        ttl: Ttl,
        /// The condition under which to do it.
        when: When<'a>,
        /// The record to make of the write, in the same step; a write that is recorded already is not done again.
        once: Option<Box<Once<'a>>>,
    },
    /// Removes `key`.
    Delete {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// The condition under which to do it. Under `Absent` nothing is ever removed, but the answer says so, and is
        /// recorded.
        when: When<'a>,
        /// As for `Set`. A full store refuses no `Delete`: there it is recorded only if it removed something.
        once: Option<Box<Once<'a>>>,
    },
    /// Counts one use of a limit shared by all replicas, in windows of fixed length.
    Take {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// The window's length; it starts at the first use.
        window: Duration,
    },
    /// A page of the keys that begin with `prefix`, in an order that the store chooses.
    Scan {
        /// What the keys begin with.
        prefix: Key<'a>,
        /// Where the last page ended, as that page's cursor; `None` to begin.
        cursor: Option<Vec<u8>>,
        /// Keys in the page, at the most; more where a cursor could not express which ones were left out.
        limit: usize,
    },
    /// The values under many keys, a few at a time.
    GetMany {
        /// The whole keys, none twice.
        keys: Vec<Vec<u8>>,
        /// The most bytes of all values together; keys beyond that are not even requested.
        bytes_max: usize,
    },
    /// Removes many keys, a few at a time.
    DeleteMany {
        /// The whole keys, none twice.
        keys: Vec<Vec<u8>>,
    },
    /// A round trip that proves the store can serve.
    Ping,
}

/// The time to live of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// This long, from now.
    Exactly(Duration),
    /// This long from now, or the rest of the present value's time where that is more.
    AtLeast(Duration),
    /// The rest of the present value's time. If there is no value, nothing is written.
    Keep,
}

/// A write that takes effect once, however often and however late it arrives: its effect and the record of it are one
/// step on two keys, so at no moment does one exist without the other.
///
/// ```text
/// record = fingerprint, then `0` or `1` (whether something was there before), then the value, where it is to be kept
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once<'a> {
    /// The writer's name for it; a name belongs to its item, so two items may have records of the same name.
    pub name: Cow<'a, [u8]>,
    /// What distinguishes this write from another of the same name.
    pub fingerprint: [u8; 32],
    /// How long the record is kept.
    pub ttl: Duration,
    /// Whether the record also holds the value that was written.
    pub keeps_value: bool,
}

/// The condition of a write; checked in the same atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When<'a> {
    /// No condition.
    Always,
    /// Only if the key does not exist.
    Absent,
    /// Only if the key exists.
    Present,
    /// Only if the value is exactly these bytes (compare-and-set).
    Unchanged(Cow<'a, [u8]>),
}

/// The answer to a command that succeeded. `B` is where the bytes of a value are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<B> {
    /// To `Get`: the value, or `None` when there is none.
    Value(Option<B>),
    /// To `Set`: done.
    Stored,
    /// To `Set` and `Delete` with `once`: done and recorded.
    Done {
        /// Whether something was there before.
        there: bool,
    },
    /// To any command with `once`: the write was done before, and this is its record. Nothing was changed.
    Recorded(B),
    /// To `Delete`: done; whether there was something to remove.
    Deleted(bool),
    /// To `Set` and `Delete`: the condition did not hold, and nothing was changed.
    Unmet,
    /// To `Take`: the uses in this window, this one included, and what is left of the window.
    Taken {
        /// Uses so far.
        count: u64,
        /// Time to the next window.
        resets_in: Duration,
    },
    /// To `Scan`.
    Page(Rc<Page>),
    /// To `Scan`: the cursor was not made by this store.
    BadCursor,
    /// To `GetMany`: for each key, in order, the value, its absence, or why it cannot be given though something is
    /// stored: that does not affect the other keys.
    Values(Rc<[Found]>),
    /// To `GetMany`: the values are larger than allowed.
    TooLarge,
    /// To `DeleteMany`: so many of them were there.
    Removed(usize),
    /// To `Ping`.
    Pong,
    /// To `Ping`: these of its servers are away, each with the reason, and others serve what they have.
    Partial(Rc<[String]>),
}

impl<B> Answer<B> {
    /// The same answer, with its bytes elsewhere.
    #[inline(always)]
    fn with<'a, C>(&'a self, bytes: impl FnOnce(&'a B) -> C) -> Answer<C> {
        match self {
            Answer::Value(value) => Answer::Value(value.as_ref().map(bytes)),
            Answer::Recorded(record) => Answer::Recorded(bytes(record)),
            Answer::Stored => Answer::Stored,
            Answer::Done { there } => Answer::Done { there: *there },
            Answer::Deleted(there) => Answer::Deleted(*there),
            Answer::Unmet => Answer::Unmet,
            Answer::Taken { count, resets_in } => {
                Answer::Taken { count: *count, resets_in: *resets_in }
            }
            Answer::Page(page) => Answer::Page(Rc::clone(page)),
            Answer::BadCursor => Answer::BadCursor,
            Answer::Values(values) => Answer::Values(Rc::clone(values)),
            Answer::TooLarge => Answer::TooLarge,
            Answer::Removed(n) => Answer::Removed(*n),
            Answer::Pong => Answer::Pong,
            Answer::Partial(away) => Answer::Partial(Rc::clone(away)),
        }
    }
}

/// Why there is no answer. Each variant leads to its own status (docs/api.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No answer by the deadline. Whether the command ran is unknown: 504.
    Timeout,
    /// The store could not be reached; the command did not run: 502.
    Unreachable(String),
    /// The connection broke between command and answer. Whether it ran is unknown: 502.
    Broken(String),
    /// A queue of ours is at its bound; the command did not run: 503.
    Overloaded,
    /// The store is reachable but cannot serve this now (loading, read-only, out of memory): 503.
    Unavailable(String),
    /// The memory store is at `MEMORY_MAX_BYTES`: 507.
    Full,
    /// The store answered with an error that waiting will not cure: 502.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Timeout => f.write_str("no answer in time"),
            StoreError::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            StoreError::Broken(why) => write!(f, "connection broke: {why}"),
            StoreError::Overloaded => f.write_str("too many commands are waiting"),
            StoreError::Unavailable(why) => write!(f, "cannot serve now: {why}"),
            StoreError::Full => f.write_str("memory limit reached"),
            StoreError::Refused(why) => write!(f, "answered with an error: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}
