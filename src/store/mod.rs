//! What a store is: the few questions the service asks, and the ways an answer can fail.
//!
//! ```text
//! Store ── session() ──▶ Session (one for each worker)
//!                          submit(tag, Command)     queue it; never blocks
//!                          progress(world)          move bytes; Replies are what is finished
//!                          give_back(Replies)       when they have been looked at
//!                          abandon(tag)             its time is over: why is there no answer?
//!                          next_deadline()          when it wants to be called at the latest
//! ```
//!
//! Commands name one key each (but for the two that read many), so that they work on a cluster, and
//! a store for another backend is an afternoon's work: [`noop`] is the shortest, [`memory`] the one that runs with nothing
//! installed, [`redis`] the one that matters. All of them pass the one contract in
//! `tests/redis/store_contract.rs`. A session belongs to one thread and does no locking of its own.

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

/// Somewhere items can be kept.
pub trait Store: Send + Sync {
    /// `memory`, `noop` or `redis`: for the start-up line.
    fn kind(&self) -> &'static str;

    /// Where it is, for the start-up line; never with a secret in it.
    fn place(&self) -> String;

    /// A session, for one worker. A server that cannot be reached is no error: the session connects when it can and
    /// says so in its answers.
    fn session(&self, world: &mut dyn World, now: Instant) -> Box<dyn Session>;
}

/// Names a submitted command to the one who submitted it.
pub type Tag = u64;

/// The owner of every socket of a session ([`World::set_owner`]); no client's socket has it.
pub const OWNER: u64 = u64::MAX;

/// One worker's line to the store. Every submitted command is answered once, by [`progress`](Session::progress) or by
/// [`abandon`](Session::abandon).
pub trait Session {
    /// Queues a command. It is asked again, where it may be, as long as there is time until `deadline`; when that has
    /// come whoever submitted it abandons it.
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>, deadline: Instant);

    /// The world has told of one of this session's sockets.
    fn ready(&mut self, _ready: Ready) {}

    /// The next [`progress`](Session::progress) asks the sockets themselves, whatever the world has told: after a
    /// pause of the whole process replies may be there of which no event tells.
    fn look(&mut self) {}

    /// Moves what can be moved without waiting. What is finished comes with the buffer it lies in, which is to be
    /// given back. Nothing finished: call again when something is ready, or at the [`next_deadline`](Session::next_deadline).
    fn progress(&mut self, world: &mut dyn World, now: Instant) -> Replies;

    /// Takes the buffer back, for the next time.
    fn give_back(&mut self, replies: Replies);

    /// The deadline of a command has come: it is forgotten, and this is why it has no answer.
    fn abandon(&mut self, now: Instant, tag: Tag) -> StoreError;

    /// When `progress` must be called even if nothing becomes ready.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Commands are answered as they are submitted: so ask for the answer at once, before more of them wait to be sent.
    fn is_immediate(&self) -> bool {
        false
    }
}

/// Finished commands, and the bytes of what they found.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    list: Vec<(Tag, Kept)>,
    failed: bool,
}

/// A reply whose bytes lie in [`Replies`].
type Kept = Result<Answer<Range<usize>>, StoreError>;

/// What is kept of the buffers when they come back.
const KEPT_BYTES: usize = 64 * 1024;
const KEPT_REPLIES: usize = 256;

impl Replies {
    /// Whether nothing is finished.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many are finished.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them is an error.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The commands that are finished, in the order in which they were.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, Reply<'_>)> {
        self.list.iter().map(|(tag, kept)| {
            let reply = match kept {
                Ok(answer) => Ok(answer.with(|range| &self.bytes[range.clone()])),
                Err(e) => Err(e.clone()),
            };
            (*tag, reply)
        })
    }

    /// Adds what has come of a command.
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

    /// Without those of other commands.
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

    /// Whether it has more room than is often needed.
    pub fn is_large(&self) -> bool {
        self.bytes.capacity() > KEPT_BYTES || self.list.capacity() > KEPT_REPLIES
    }

    /// Gives back what room is often not needed. Not each time: to allocate it again costs more than all else.
    pub fn trim(&mut self) {
        self.bytes.shrink_to(KEPT_BYTES);
        self.list.shrink_to(KEPT_REPLIES);
    }
}

/// One of many values: itself, its absence, or why there is none though something is there.
pub type Found = Result<Option<Vec<u8>>, StoreError>;

/// A page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, with what is left of their time (`None`: they live for ever). There may be none before the end.
    pub keys: Vec<(Vec<u8>, Option<Duration>)>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// What comes of a command.
pub type Reply<'a> = Result<Answer<&'a [u8]>, StoreError>;

/// The name of something in a store. An id can hold anything but control characters and still never leave its prefix:
/// a key is one argument, not a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key<'a> {
    /// The collection's.
    pub prefix: &'static str,
    /// The rest.
    pub id: Cow<'a, [u8]>,
}

impl Key<'_> {
    /// All of it, in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.prefix.as_bytes(), &self.id].concat()
    }

    /// All of it, in `buffer`.
    pub fn join<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        buffer.extend_from_slice(self.prefix.as_bytes());
        buffer.extend_from_slice(&self.id);
        buffer
    }
}

/// A question to the store, about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// The value under `key`.
    Get {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// Reading gives it at least so long to live (a session that is read). It takes nothing away from what
        /// is left, and gives no end to what has none.
        renew: Option<Duration>,
        /// The look before a write that is to happen once: the record, if there is one, is the answer.
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
        /// The record to make of it, in the same step; what is recorded already is not done again.
        once: Option<Box<Once<'a>>>,
    },
    /// Removes `key`.
    Delete {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// The condition under which to do it. Under `Absent` nothing is ever removed, but that is said, and recorded.
        when: When<'a>,
        /// As for `Set`. A full store stops no `Delete`: there it is recorded only if it removed something.
        once: Option<Box<Once<'a>>>,
    },
    /// Counts one use of a limit shared by all replicas, in windows of fixed length.
    Take {
        /// The whole key, prefix included.
        key: Key<'a>,
        /// The window's length; it starts at the first use.
        window: Duration,
    },
    /// A page of the keys that begin with `prefix`, in an order of the store's own.
    Scan {
        /// What the keys begin with.
        prefix: Key<'a>,
        /// Where the last page ended, in the store's own words; `None` to begin.
        cursor: Option<Vec<u8>>,
        /// Keys in the page, at the most; more where a cursor could not tell what is left out.
        limit: usize,
    },
    /// The values under many keys, a few at a time.
    GetMany {
        /// The whole keys, none twice.
        keys: Vec<Vec<u8>>,
        /// All values together may be this large; what is beyond it is not even asked for.
        bytes_max: usize,
    },
    /// A round trip that proves the store can serve.
    Ping,
}

/// The time to live of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// This, from now.
    Exactly(Duration),
    /// This from now, or what the present value has left where that is more.
    AtLeast(Duration),
    /// What the present value has left. Where nothing is there, nothing is written.
    Keep,
}

/// A write that takes effect once, however often and however late it comes: its effect and the record of it are one
/// step on two keys, so there is no moment at which one is there without the other.
///
/// ```text
/// record = fingerprint, then `0` or `1` (whether something was there before), then the value, where it is to be kept
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once<'a> {
    /// What the writer calls it; a name belongs to its item, so two items may have records of one name.
    pub name: Cow<'a, [u8]>,
    /// What tells this write from another of the same name.
    pub fingerprint: [u8; 32],
    /// How long the record is kept.
    pub ttl: Duration,
    /// Whether the record holds the value that was written, too.
    pub keeps_value: bool,
}

/// The condition of a write; judged and done in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When<'a> {
    /// No condition.
    Always,
    /// Only if nothing is there.
    Absent,
    /// Only if something is there.
    Present,
    /// Only if exactly these bytes are there (compare-and-set).
    Unchanged(Cow<'a, [u8]>),
}

/// What a store says when it did what it was asked. `B` is where the bytes are that it found.
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
    /// To any command with `once`: it was done before, and this is its record. Nothing was changed.
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
    /// To `Scan`: this cursor is none of ours.
    BadCursor,
    /// To `GetMany`: for each key, in order, a value, its absence, or why there is none though
    /// something is there: it spoils nobody else's.
    Values(Rc<[Found]>),
    /// To `GetMany`: they are larger than allowed.
    TooLarge,
    /// To `Ping`.
    Pong,
}

impl<B> Answer<B> {
    /// The same, its bytes somewhere else.
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
            Answer::Pong => Answer::Pong,
        }
    }
}

/// Why there is no answer. Each variant leads to its own status (API.md, Errors).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No answer by the deadline. Whether the command ran is unknown: 504.
    Timeout,
    /// It could not be reached; the command did not run: 502.
    Unreachable(String),
    /// The connection broke between command and answer. Whether it ran is unknown: 502.
    Broken(String),
    /// Our own queue is at its bound; the command did not run: 503.
    Overloaded,
    /// It is there but cannot serve this now (loading, read-only, out of memory): 503.
    Unavailable(String),
    /// The memory store is at `MEMORY_MAX_BYTES`: 507.
    Full,
    /// It answered with an error that waiting will not cure: 502.
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
