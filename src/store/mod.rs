//! What a store is: the few questions the service asks, and the ways an answer can fail.
//!
//! ```text
//! Store ── session() ──▶ Session (one for each worker)
//!                          submit(tag, Command, deadline)   queue it; never blocks
//!                          progress(done)                   move bytes; collect (tag, Answer)
//!                          next_deadline()                  when it wants to be called at the latest
//! ```
//!
//! Commands name one key each (but for the two that read many), so that they work on a cluster, and
//! a store for another backend is an afternoon's work: [`noop`] is the shortest, [`memory`] the one that runs with nothing
//! installed, [`redis`] the one that matters. All of them pass the one contract in
//! `tests/redis/store_contract.rs`. A session belongs to one thread and does no locking of its own.

pub mod blocking;
pub mod cursor;
pub mod memory;
pub mod noop;
pub mod redis;
pub mod trouble;

use mio::event::Event;
use mio::{Registry, Waker};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Somewhere items can be kept.
pub trait Store: Send + Sync {
    /// `memory`, `noop` or `redis`: for the start-up line.
    fn kind(&self) -> &'static str;

    /// Where it is, for the start-up line; never with a secret in it.
    fn place(&self) -> String;

    /// A session for the loop described by `wiring`.
    ///
    /// # Errors
    /// When the operating system refuses a resource. A server that cannot be reached is no error
    /// here: the session connects when it can and says so in its answers.
    fn session(&self, wiring: Wiring<'_>) -> io::Result<Box<dyn Session>>;
}

/// What a session needs to know of the loop that drives it.
pub struct Wiring<'a> {
    /// Where the session registers its sockets.
    pub registry: &'a Registry,
    /// The session's tokens are this one and all above it; the loop hands their events to `ready`.
    pub first_token: usize,
    /// Wakes the loop from another thread (a resolver that has finished, say).
    pub waker: Arc<Waker>,
}

/// Names a submitted command to the one who submitted it.
pub type Tag = u64;

/// What `progress` collects.
pub type Done = Vec<(Tag, Result<Answer, StoreError>)>;

/// One worker's line to the store. Every submitted command is answered exactly once.
pub trait Session {
    /// Queues a command; it is answered by `deadline` at the latest, give or take one tick.
    fn submit(&mut self, now: Instant, tag: Tag, command: Command, deadline: Instant);

    /// The loop saw readiness on one of this session's tokens.
    fn ready(&mut self, _event: &Event) {}

    /// Appends what is finished already, and moves nothing: for a store that answers at once.
    fn answered(&mut self, _done: &mut Done) {}

    /// Moves what can be moved without blocking and appends what is finished to `done`.
    fn progress(&mut self, now: Instant, done: &mut Done);

    /// When `progress` must be called even if nothing becomes ready.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

/// A question to the store, about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The value under `key`.
    Get {
        /// The whole key, prefix included.
        key: Vec<u8>,
        /// Reading gives it at least so long to live (a session that is read). It takes nothing away from what
        /// is left, and gives no end to what has none.
        renew: Option<Duration>,
        /// The look before a write that is to happen once: the record, if there is one, is the answer.
        once: Option<Once>,
    },
    /// Puts `value` under `key`, value and time to live in one step.
    Set {
        /// The whole key, prefix included.
        key: Vec<u8>,
        /// The bytes to store.
        value: Vec<u8>,
        /// How long they live.
        ttl: Ttl,
        /// The condition under which to do it.
        when: When,
        /// The record to make of it, in the same step; what is recorded already is not done again.
        once: Option<Once>,
    },
    /// Removes `key`.
    Delete {
        /// The whole key, prefix included.
        key: Vec<u8>,
        /// The condition under which to do it. Under `Absent` nothing is ever removed, but that is said, and recorded.
        when: When,
        /// As for `Set`. A full store stops no `Delete`: there it is recorded only if it removed something.
        once: Option<Once>,
    },
    /// Counts one use of a limit shared by all replicas, in windows of fixed length.
    Take {
        /// The whole key, prefix included.
        key: Vec<u8>,
        /// The window's length; it starts at the first use.
        window: Duration,
    },
    /// A page of the keys that begin with `prefix`, in an order of the store's own.
    Scan {
        /// What the keys begin with.
        prefix: Vec<u8>,
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
pub struct Once {
    /// What the writer calls it; a name belongs to its item, so two items may have records of one name.
    pub name: Vec<u8>,
    /// What tells this write from another of the same name.
    pub fingerprint: [u8; 32],
    /// How long the record is kept.
    pub ttl: Duration,
    /// Whether the record holds the value that was written, too.
    pub keeps_value: bool,
}

/// The condition of a write; judged and done in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// No condition.
    Always,
    /// Only if nothing is there.
    Absent,
    /// Only if something is there.
    Present,
    /// Only if exactly these bytes are there (compare-and-set).
    Unchanged(Vec<u8>),
}

/// What a store says when it did what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Get`: the value, or `None` when there is none.
    Value(Option<Vec<u8>>),
    /// To `Set`: done.
    Stored,
    /// To `Set` and `Delete` with `once`: done and recorded.
    Done {
        /// Whether something was there before.
        there: bool,
    },
    /// To any command with `once`: it was done before, and this is its record. Nothing was changed.
    Recorded(Vec<u8>),
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
    /// To `Scan`: keys with what is left of their time (`None`: they live for ever), and where the
    /// next page begins; `None` at the end. A page may be empty before that.
    Page {
        /// The keys.
        keys: Vec<(Vec<u8>, Option<Duration>)>,
        /// Where to go on.
        next: Option<Vec<u8>>,
    },
    /// To `Scan`: this cursor is none of ours.
    BadCursor,
    /// To `GetMany`: for each key, in order, a value, its absence, or why there is none though
    /// something is there: it spoils nobody else's.
    Values(Vec<Result<Option<Vec<u8>>, StoreError>>),
    /// To `GetMany`: they are larger than allowed.
    TooLarge,
    /// To `Ping`.
    Pong,
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
