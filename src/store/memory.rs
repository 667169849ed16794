//! The embedded store: everything in this process, bounded, gone with it.
//!
//! It lets `cargo run` serve with nothing installed. It is not shared between replicas and does
//! not survive a restart, and the start-up log says so: the very mistake kioskd exists to avoid,
//! kept for trying things out.
//!
//! ```text
//! items:  key ─▶ (value, expiry), in order       expiry = (Instant, serial), unique
//! queue:  expiry ─▶ key, earliest first          so the next thing to expire is the first entry
//! bytes:  keys + values + ENTRY_BYTES for each   never above `MEMORY_MAX_BYTES`
//! ```

use super::{Answer, Command, Done, Session, Store, StoreError, Tag, When, Wiring};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an entry costs beside its key and value: two table entries, two shared headers and their
/// share of empty places, measured at about 200 bytes on a 64-bit host.
const ENTRY_BYTES: usize = 200;

/// How many expired entries one command clears away, so that no request pays for a thousand.
const SWEEP_MAX: usize = 16;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Mutex<Table>>,
}

impl Memory {
    /// An empty store that refuses writes beyond `bytes_max` (`MEMORY_MAX_BYTES`, 64 MiB).
    pub fn new(bytes_max: usize) -> Memory {
        let table = Table {
            items: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            bytes: 0,
            bytes_max,
        };
        Memory {
            shared: Arc::new(Mutex::new(table)),
        }
    }
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn place(&self) -> String {
        "this process".to_owned()
    }

    fn session(&self, _: Wiring<'_>) -> io::Result<Box<dyn Session>> {
        Ok(Box::new(MemorySession {
            shared: Arc::clone(&self.shared),
            done: Vec::new(),
        }))
    }
}

struct MemorySession {
    shared: Arc<Mutex<Table>>,
    done: Done,
}

impl Session for MemorySession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command, _: Instant) {
        // A panic while the lock was held would have been a bug in `run`, which changes the table
        // only after its last fallible step; what it left is sound.
        let mut table = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.done.push((tag, table.run(now, command)));
    }

    fn progress(&mut self, _: Instant, done: &mut Done) {
        done.append(&mut self.done);
    }
}

type Expiry = (Instant, u64);

#[derive(Debug)]
struct Table {
    items: BTreeMap<Arc<[u8]>, Entry>,
    queue: BTreeMap<Expiry, Arc<[u8]>>,
    serial: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    expiry: Expiry,
}

impl Table {
    fn run(&mut self, now: Instant, command: Command) -> Result<Answer, StoreError> {
        self.sweep(now);
        match command {
            Command::Get { key, touch } => Ok(Answer::Value(self.get(now, &key, touch))),
            Command::Set {
                key,
                value,
                ttl,
                when,
            } => {
                // What is absent has no time left that could be kept.
                let keeps_nothing = ttl.is_none() && self.live(now, &key).is_none();
                if keeps_nothing || !self.holds(now, &key, &when) {
                    return Ok(Answer::Unmet);
                }
                self.set(now, &key, value, ttl)?;
                Ok(Answer::Stored)
            }
            Command::Delete { key, when } => {
                if when == When::Absent || !self.holds(now, &key, &when) {
                    return Ok(Answer::Unmet);
                }
                let there = self.live(now, &key).is_some();
                self.remove(&key);
                Ok(Answer::Deleted(there))
            }
            Command::Take { key, window } => self.take(now, &key, window),
            Command::Scan {
                prefix,
                cursor,
                limit,
            } => Ok(self.scan(now, &prefix, cursor, limit)),
            Command::GetMany { keys, bytes_max } => Ok(self.get_many(now, &keys, bytes_max)),
            Command::Ping => Ok(Answer::Pong),
        }
    }

    fn get(&mut self, now: Instant, key: &[u8], touch: Option<Duration>) -> Option<Vec<u8>> {
        let value = self.live(now, key)?.value.clone();
        if let Some(ttl) = touch {
            self.expire_at(key, now + ttl);
        }
        Some(value)
    }

    fn set(
        &mut self,
        now: Instant,
        key: &[u8],
        value: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<(), StoreError> {
        let left = self.live(now, key).map(|e| e.expiry.0);
        let freed = self.items.get(key).map_or(0, |e| cost(key, &e.value));
        let after = self.bytes - freed + cost(key, &value);
        if after > self.bytes_max {
            return Err(StoreError::Full);
        }
        // `run` has seen to it that there is one or the other; no entry here lives for ever.
        let until = ttl.map(|t| now + t).or(left).unwrap_or(now);
        self.remove(key);
        self.bytes += cost(key, &value);
        self.serial += 1;
        let key: Arc<[u8]> = key.into();
        let expiry = (until, self.serial);
        self.queue.insert(expiry, Arc::clone(&key));
        self.items.insert(key, Entry { value, expiry });
        Ok(())
    }

    /// A counter is an entry like any other: eight bytes, its window as its time to live.
    fn take(&mut self, now: Instant, key: &[u8], window: Duration) -> Result<Answer, StoreError> {
        let before = self.live(now, key).and_then(|e| {
            Some((
                u64::from_be_bytes(e.value.as_slice().try_into().ok()?),
                e.expiry.0,
            ))
        });
        let (count, until) = match before {
            Some((n, until)) => (n.saturating_add(1), until),
            None => (1, now + window),
        };
        self.set(now, key, count.to_be_bytes().to_vec(), Some(until - now))?;
        Ok(Answer::Taken {
            count,
            resets_in: until - now,
        })
    }

    /// The table is in order, so the cursor is the last key of the page before.
    fn scan(&self, now: Instant, prefix: &[u8], cursor: Option<Vec<u8>>, limit: usize) -> Answer {
        if cursor.as_ref().is_some_and(|c| !c.starts_with(prefix)) {
            return Answer::BadCursor;
        }
        let from = match &cursor {
            Some(last) => Bound::Excluded(last.as_slice()),
            None => Bound::Included(prefix),
        };
        let entries = self.items.range::<[u8], _>((from, Bound::Unbounded));
        let entries = entries.take_while(|(key, _)| key.starts_with(prefix));
        let mut live = entries.filter(|(_, entry)| entry.expiry.0 > now);
        let keys: Vec<_> = live
            .by_ref()
            .take(limit)
            .map(|(key, e)| (key.to_vec(), Some(e.expiry.0 - now)))
            .collect();
        let next = live.next().and(keys.last()).map(|(key, _)| key.clone());
        Answer::Page { keys, next }
    }

    fn get_many(&self, now: Instant, keys: &[Vec<u8>], bytes_max: usize) -> Answer {
        let found: Vec<Option<&Entry>> = keys.iter().map(|key| self.live(now, key)).collect();
        if found.iter().flatten().map(|e| e.value.len()).sum::<usize>() > bytes_max {
            return Answer::TooLarge;
        }
        Answer::Values(
            found
                .into_iter()
                .map(|e| e.map(|e| e.value.clone()))
                .collect(),
        )
    }

    fn holds(&self, now: Instant, key: &[u8], when: &When) -> bool {
        let there = self.live(now, key);
        match when {
            When::Always => true,
            When::Absent => there.is_none(),
            When::Present => there.is_some(),
            When::Unchanged(old) => there.is_some_and(|e| e.value == *old),
        }
    }

    fn live(&self, now: Instant, key: &[u8]) -> Option<&Entry> {
        self.items.get(key).filter(|e| e.expiry.0 > now)
    }

    fn expire_at(&mut self, key: &[u8], until: Instant) {
        self.serial += 1;
        let expiry = (until, self.serial);
        if let Some(entry) = self.items.get_mut(key)
            && let Some(key) = self.queue.remove(&entry.expiry)
        {
            entry.expiry = expiry;
            self.queue.insert(expiry, key);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.items.remove(key) {
            self.queue.remove(&entry.expiry);
            self.bytes -= cost(key, &entry.value);
        }
    }

    /// Clears what has expired, a little with every command. What is left over is invisible
    /// (`live`) and goes with the next commands; only its bytes count until then.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            match self.queue.first_key_value() {
                Some((&(until, _), key)) if until <= now => {
                    let key = Arc::clone(key);
                    self.remove(&key);
                }
                _ => return,
            }
        }
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    // The key is stored once and shared by both tables.
    key.len() + value.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bytes_max: usize) -> (Table, Instant) {
        let Memory { shared } = Memory::new(bytes_max);
        let table = Arc::into_inner(shared).unwrap().into_inner().unwrap();
        (table, Instant::now())
    }

    fn set(key: &[u8], value: &[u8], seconds: u64) -> Command {
        Command::Set {
            key: key.to_vec(),
            value: value.to_vec(),
            ttl: Some(Duration::from_secs(seconds)),
            when: When::Always,
        }
    }

    fn get(key: &[u8]) -> Command {
        Command::Get {
            key: key.to_vec(),
            touch: None,
        }
    }

    #[test]
    fn an_entry_is_gone_at_its_expiry_and_not_before() {
        let (mut t, now) = table(1000);
        t.run(now, set(b"k", b"v", 10)).unwrap();
        let just_before = now + Duration::from_secs(10) - Duration::from_nanos(1);
        assert_eq!(
            t.run(just_before, get(b"k")),
            Ok(Answer::Value(Some(b"v".to_vec())))
        );
        assert_eq!(
            t.run(now + Duration::from_secs(10), get(b"k")),
            Ok(Answer::Value(None))
        );
        assert_eq!((t.items.len(), t.queue.len(), t.bytes), (0, 0, 0));
    }

    #[test]
    fn touch_renews_and_plain_get_does_not() {
        let (mut t, now) = table(1000);
        let at = |s| now + Duration::from_secs(s);
        t.run(now, set(b"k", b"v", 10)).unwrap();
        t.run(at(9), get(b"k")).unwrap();
        t.run(
            at(9),
            Command::Get {
                key: b"k".to_vec(),
                touch: Some(Duration::from_secs(10)),
            },
        )
        .unwrap();
        assert_eq!(
            t.run(at(18), get(b"k")),
            Ok(Answer::Value(Some(b"v".to_vec())))
        );
        assert_eq!(t.run(at(19), get(b"k")), Ok(Answer::Value(None)));
    }

    #[test]
    fn writes_are_refused_at_the_byte_limit_and_not_before() {
        let size = cost(b"k", b"12345");
        let (mut t, now) = table(size);
        assert_eq!(t.run(now, set(b"k", b"123456", 10)), Err(StoreError::Full));
        assert_eq!(t.run(now, set(b"k", b"12345", 10)), Ok(Answer::Stored));
        assert_eq!(
            t.run(now, set(b"k", b"54321", 10)),
            Ok(Answer::Stored),
            "replacing needs no second room"
        );
        assert_eq!(t.run(now, set(b"x", b"", 10)), Err(StoreError::Full));
        assert_eq!(
            t.run(now, get(b"k")),
            Ok(Answer::Value(Some(b"54321".to_vec())))
        );
        let later = now + Duration::from_secs(11);
        assert_eq!(
            t.run(later, set(b"x", b"", 10)),
            Ok(Answer::Stored),
            "expired entries make room"
        );
    }

    #[test]
    fn a_sweep_is_bounded_and_catches_up() {
        let (mut t, now) = table(1 << 20);
        for i in 0..100u8 {
            t.run(now, set(&[i], b"v", 1)).unwrap();
        }
        let later = now + Duration::from_secs(2);
        t.run(later, Command::Ping).unwrap();
        assert_eq!(t.items.len(), 100 - SWEEP_MAX);
        for _ in 0..10 {
            t.run(later, Command::Ping).unwrap();
        }
        assert_eq!((t.items.len(), t.bytes), (0, 0));
    }
}
