//! Items in Redis: our few commands as Redis commands, its replies as our answers.
//!
//! ```text
//! Get                     GET key                       or GETEX key EX n (a read that renews)
//! Set Always              SET key value EX n            exactly what the Go service writes
//! Set Absent / Present    SET key value EX n NX | XX
//! Set Unchanged(old)      a script: compare, then SET
//! Delete Always           DEL key
//! Delete Present          a script, as Unchanged: so that "was not there" is an answer
//! Take                    a script: INCR, and PEXPIRE on the first
//! Ping                    SET item: "" PX 1 XX          a write that never happens
//! ```
//!
//! Value and time to live always go in one command: a crash between two would leave a key that
//! lives for ever. Scripts begin with `#!lua`: without it a replica that was a master a moment ago
//! judges the condition on stale data and says "no"; with it, it says READONLY.

use super::{Answer, Command, Done, Session, Store, StoreError, Tag, When, Wiring};
use crate::resp::client::{Client, Failure, Outcome, Request};
use crate::resp::codec::{ErrorReply, Reply, encode};
use crate::resp::connection::Shape;
use crate::resp::link::Options as LinkOptions;
use crate::resp::url::Endpoint;
use mio::event::Event;
use std::io;
use std::time::{Duration, Instant};

const SET_UNCHANGED: &[u8] = b"#!lua
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1";

/// `allow-oom`: as DEL, it passes when memory is full. It is the way out.
const DELETE_UNCHANGED: &[u8] = b"#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
return redis.call('DEL', KEYS[1])";

const DELETE_PRESENT: &[u8] = b"#!lua flags=allow-oom
if redis.call('DEL', KEYS[1]) == 0 then return -1 end
return 1";

const TAKE: &[u8] = b"#!lua
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {n, redis.call('PTTL', KEYS[1])}";

/// The key of no item, since an id has a byte at least; but with an item's prefix, so that whoever
/// may write items may ask it.
const NO_ITEM: &[u8] = b"item:";

/// A Redis server, or anything that speaks its protocol.
#[derive(Debug)]
pub struct Redis {
    endpoint: Endpoint,
    options: LinkOptions,
}

impl Redis {
    /// The store on the server at `endpoint`. Nothing is connected yet.
    pub fn new(endpoint: Endpoint, options: LinkOptions) -> Redis {
        Redis { endpoint, options }
    }
}

impl Store for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> String {
        self.endpoint.to_string()
    }

    fn session(&self, wiring: Wiring<'_>) -> io::Result<Box<dyn Session>> {
        let registry = wiring.registry.try_clone()?;
        let client = Client::new(
            self.endpoint.clone(),
            self.options.clone(),
            registry,
            wiring.waker,
            wiring.first_token,
            Instant::now(),
        );
        Ok(Box::new(RedisSession {
            client,
            outcomes: Vec::new(),
            refused: Vec::new(),
        }))
    }
}

struct RedisSession {
    client: Client,
    outcomes: Vec<Outcome>,
    refused: Done,
}

impl Session for RedisSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command, deadline: Instant) {
        let mut bytes = Vec::new();
        match write_command(&mut bytes, &command) {
            Some(shape) => {
                let read_only = matches!(command, Command::Get { .. } | Command::Ping);
                self.client.submit(
                    now,
                    Request {
                        tag,
                        bytes,
                        shape,
                        read_only,
                        deadline,
                    },
                );
            }
            None => self.refused.push((tag, Ok(Answer::Unmet))),
        }
    }

    fn ready(&mut self, event: &Event) {
        self.client.ready(event);
    }

    fn progress(&mut self, now: Instant, done: &mut Done) {
        done.append(&mut self.refused);
        self.client.progress(now, &mut self.outcomes);
        done.extend(
            self.outcomes
                .drain(..)
                .map(|(tag, shape, result)| (tag, answer(shape, result))),
        );
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.client.next_deadline()
    }
}

/// The command on the wire; `None` for the one that can never act (delete what is absent).
fn write_command(out: &mut Vec<u8>, command: &Command) -> Option<Shape> {
    match command {
        Command::Get { key, touch: None } => {
            encode(out, &[b"GET", key]);
            Some(Shape::Value)
        }
        Command::Get {
            key,
            touch: Some(ttl),
        } => {
            let (unit, n) = time(*ttl);
            encode(out, &[b"GETEX", key, unit, n.as_bytes()]);
            Some(Shape::Value)
        }
        Command::Set {
            key,
            value,
            ttl,
            when: When::Unchanged(old),
        } => {
            let ms = ttl.map_or(String::new(), |t| millis(t).to_string());
            encode(
                out,
                &[b"EVAL", SET_UNCHANGED, b"1", key, old, value, ms.as_bytes()],
            );
            Some(Shape::StoredFlag)
        }
        Command::Set {
            key,
            value,
            ttl,
            when,
        } => {
            let (unit, n) = ttl.map_or((&b"KEEPTTL"[..], String::new()), time);
            let mut args: Vec<&[u8]> = vec![b"SET", key, value, unit];
            if !n.is_empty() {
                args.push(n.as_bytes());
            }
            match when {
                When::Absent => args.push(b"NX"),
                When::Present => args.push(b"XX"),
                When::Always | When::Unchanged(_) => {}
            }
            encode(out, &args);
            Some(Shape::Stored)
        }
        Command::Delete {
            key,
            when: When::Always,
        } => {
            encode(out, &[b"DEL", key]);
            Some(Shape::Count)
        }
        Command::Delete {
            key,
            when: When::Present,
        } => {
            encode(out, &[b"EVAL", DELETE_PRESENT, b"1", key]);
            Some(Shape::DeletedFlag)
        }
        Command::Delete {
            key,
            when: When::Unchanged(old),
        } => {
            encode(out, &[b"EVAL", DELETE_UNCHANGED, b"1", key, old]);
            Some(Shape::DeletedFlag)
        }
        Command::Delete {
            when: When::Absent, ..
        } => None,
        Command::Take { key, window } => {
            encode(
                out,
                &[
                    b"EVAL",
                    TAKE,
                    b"1",
                    key,
                    millis(*window).to_string().as_bytes(),
                ],
            );
            Some(Shape::Pair)
        }
        Command::Ping => {
            // PING says PONG on a read-only replica, at `maxmemory` and with too few replicas. A
            // SET is refused there before its condition is looked at, and XX never holds.
            encode(out, &[b"SET", NO_ITEM, b"", b"PX", b"1", b"XX"]);
            Some(Shape::Probe)
        }
    }
}

/// `EX seconds` where it comes out even, as the Go service writes it, else `PX milliseconds`.
fn time(ttl: Duration) -> (&'static [u8], String) {
    match millis(ttl) {
        ms if ms % 1000 == 0 => (b"EX", (ms / 1000).to_string()),
        ms => (b"PX", ms.to_string()),
    }
}

/// Redis refuses an expiry of zero.
fn millis(t: Duration) -> u64 {
    u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The connection has checked that reply and shape belong together.
fn answer(shape: Shape, result: Result<Reply, Failure>) -> Result<Answer, StoreError> {
    let reply = result.map_err(|failure| match failure {
        Failure::Timeout => StoreError::Timeout,
        Failure::Unreachable(why) => StoreError::Unreachable(why),
        Failure::Broken(why) => StoreError::Broken(why),
        Failure::Overloaded => StoreError::Overloaded,
        Failure::Refused(why) => StoreError::Refused(why),
    })?;
    Ok(match (shape, reply) {
        (_, Reply::Error(e)) => return Err(refusal(&e)),
        (_, Reply::TooLarge(n)) => {
            return Err(StoreError::Refused(format!(
                "a value of {n} bytes is larger than any document of ours"
            )));
        }
        (Shape::Value, Reply::Bulk(value)) => Answer::Value(Some(value)),
        (Shape::Value, Reply::Null) => Answer::Value(None),
        (Shape::Stored, Reply::Simple(_)) | (Shape::StoredFlag, Reply::Integer(1)) => {
            Answer::Stored
        }
        (Shape::Stored, Reply::Null) | (Shape::StoredFlag, Reply::Integer(0)) => Answer::Unmet,
        (Shape::DeletedFlag, Reply::Integer(-1)) => Answer::Unmet,
        (Shape::DeletedFlag | Shape::Count, Reply::Integer(n)) => Answer::Deleted(n > 0),
        (Shape::Pair, Reply::Array(items)) => match items[..] {
            [Reply::Integer(count), Reply::Integer(left)] => Answer::Taken {
                count: u64::try_from(count).unwrap_or(0),
                resets_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
            },
            _ => return Err(StoreError::Refused("a reply of the wrong type".to_owned())),
        },
        (Shape::Probe, Reply::Simple(_) | Reply::Null) => Answer::Pong,
        (_, reply) => {
            return Err(StoreError::Refused(format!(
                "a reply of the wrong type: {reply:?}"
            )));
        }
    })
}

/// What an error reply means for the client. Those that pass by themselves are 503.
fn refusal(e: &ErrorReply) -> StoreError {
    match e.code.as_str() {
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY"
        | "NOREPLICAS" | "OOM" | "MISCONF" => StoreError::Unavailable(e.to_string()),
        _ => StoreError::Refused(e.to_string()),
    }
}
