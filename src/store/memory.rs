//! The embedded store: everything in this process, bounded, gone with it.
//!
//! It lets `cargo run` serve with nothing installed. It is not shared between replicas and does
//! not survive a restart, and the start-up log says so: the very mistake kioskd exists to avoid,
//! kept for trying things out.
//!
//! ```text
//! items:  key ─▶ (value, expiry)       expiry = (Instant, serial)
//! order:  serial ─▶ key, oldest first  lists: a cursor holds a serial and no key
//! queue:  expiries, earliest first     so the next thing to expire is the first
//! bytes:  keys + values + ENTRY_BYTES for each   above `MEMORY_MAX_BYTES` only by records of deletes
//! ```

use super::{
    Answer, Command, Done, Once, Session, Store, StoreError, Tag, Ttl, When, Wiring, cursor,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an entry costs beside its key and value: three table entries, a shared header and their
/// share of empty places, measured at about 230 bytes on a 64-bit host.
pub const ENTRY_BYTES: usize = 230;

/// How many expired entries one command clears away, so that no request pays for a thousand.
const SWEEP_MAX: usize = 16;

/// How many entries one page looks at, a millisecond's work. All workers wait for one another here.
const SCAN_MAX: usize = 10_000;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Mutex<Table>>,
}

impl Memory {
    /// An empty store that refuses writes beyond `bytes_max` (`MEMORY_MAX_BYTES`, 64 MiB).
    pub fn new(bytes_max: usize) -> Memory {
        let table = Table {
            items: HashMap::new(),
            queue: BTreeSet::new(),
            order: BTreeMap::new(),
            serial: 0,
            bytes: 0,
            bytes_max,
        };
        Memory { shared: Arc::new(Mutex::new(table)) }
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
        Ok(Box::new(MemorySession { shared: Arc::clone(&self.shared), done: Vec::new() }))
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

    fn answered(&mut self, done: &mut Done) {
        done.append(&mut self.done);
    }

    fn progress(&mut self, _: Instant, done: &mut Done) {
        self.answered(done);
    }
}

/// When, and the entry's serial, so that no two are the same.
type Expiry = (Instant, u64);

#[derive(Debug)]
struct Table {
    items: HashMap<Arc<[u8]>, Entry>,
    queue: BTreeSet<Expiry>,
    order: BTreeMap<u64, Arc<[u8]>>,
    /// The last that was given out. An entry keeps its own for as long as it is there.
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
            Command::Get { key, renew, once } => {
                Ok(match self.recorded(now, &key, once.as_ref()) {
                    Some(record) => Answer::Recorded(record),
                    None => Answer::Value(self.get(now, &key, renew)),
                })
            }
            Command::Set { key, value, ttl, when, once } => {
                self.set(now, &key, value, ttl, &when, once.as_ref())
            }
            Command::Delete { key, when, once } => Ok(self.delete(now, &key, &when, once.as_ref())),
            Command::Take { key, window } => self.take(now, &key, window),
            Command::Scan { prefix, cursor, limit } => Ok(self.scan(now, &prefix, cursor, limit)),
            Command::GetMany { keys, bytes_max } => Ok(self.get_many(now, &keys, bytes_max)),
            Command::Ping => Ok(Answer::Pong),
        }
    }

    fn get(&mut self, now: Instant, key: &[u8], renew: Option<Duration>) -> Option<Vec<u8>> {
        let entry = self.live(now, key)?;
        let (value, left) = (entry.value.clone(), entry.expiry.0);
        if let Some(until) = renew.map(|ttl| now + ttl).filter(|until| *until > left) {
            self.expire_at(key, until);
        }
        Some(value)
    }

    fn set(
        &mut self,
        now: Instant,
        key: &[u8],
        value: Vec<u8>,
        ttl: Ttl,
        when: &When,
        once: Option<&Once>,
    ) -> Result<Answer, StoreError> {
        if let Some(record) = self.recorded(now, key, once) {
            return Ok(Answer::Recorded(record));
        }
        let left = self.live(now, key).map(|e| e.expiry.0);
        let until = match (ttl, left) {
            (Ttl::Exactly(ttl), _) | (Ttl::AtLeast(ttl), None) => now + ttl,
            (Ttl::AtLeast(ttl), Some(left)) => left.max(now + ttl),
            (Ttl::Keep, Some(left)) => left,
            (Ttl::Keep, None) => return Ok(Answer::Unmet),
        };
        if !self.holds(now, key, when) {
            return Ok(Answer::Unmet);
        }
        let there = left.is_some();
        let record = once.map(|once| (once, record_key(key, once), record(once, there, &value)));
        let recorded = record.as_ref().map_or(0, |(_, key, value)| cost(key, value));
        self.make_room(now, key, cost(key, &value) + recorded)?;
        self.put(key, value, until);
        Ok(match record {
            None => Answer::Stored,
            Some((once, key, record)) => {
                self.put(&key, record, now + once.ttl);
                Answer::Done { there }
            }
        })
    }

    fn delete(&mut self, now: Instant, key: &[u8], when: &When, once: Option<&Once>) -> Answer {
        if let Some(record) = self.recorded(now, key, once) {
            return Answer::Recorded(record);
        }
        if !self.holds(now, key, when) {
            return Answer::Unmet;
        }
        let there = self.live(now, key).is_some();
        self.remove(key);
        let Some(once) = once else {
            return Answer::Deleted(there);
        };
        let (key, record) = (record_key(key, once), record(once, there, b""));
        // What removes something is recorded even beyond the bound, for no DELETE is refused: once for each item, so that
        // all records together are at most about twice the bound (a small item, a long key). What removes nothing
        // could go on for ever.
        if self.make_room(now, &key, cost(&key, &record)).is_ok() || there {
            self.put(&key, record, now + once.ttl);
        }
        Answer::Done { there }
    }

    /// The record of `once`, if it was done before.
    fn recorded(&self, now: Instant, key: &[u8], once: Option<&Once>) -> Option<Vec<u8>> {
        let entry = self.live(now, &record_key(key, once?))?;
        Some(entry.value.clone())
    }

    /// Sees to it that `bytes` more fit when what is under `key` has gone. What has expired makes room, as much as
    /// is needed.
    fn make_room(&mut self, now: Instant, key: &[u8], bytes: usize) -> Result<(), StoreError> {
        loop {
            let freed = self.items.get(key).map_or(0, |e| cost(key, &e.value));
            if self.bytes - freed + bytes <= self.bytes_max {
                return Ok(());
            }
            if !self.drop_expired(now) {
                return Err(StoreError::Full);
            }
        }
    }

    /// Nothing here can fail, so what is made of several of these is made as a whole.
    fn put(&mut self, key: &[u8], value: Vec<u8>, until: Instant) {
        let serial = self.items.get(key).map(|e| e.expiry.1);
        let serial = serial.unwrap_or(self.serial + 1);
        self.serial = self.serial.max(serial);
        self.remove(key);
        self.bytes += cost(key, &value);
        let key: Arc<[u8]> = key.into();
        let expiry = (until, serial);
        self.queue.insert(expiry);
        self.order.insert(serial, Arc::clone(&key));
        self.items.insert(key, Entry { value, expiry });
    }

    /// A counter is an entry like any other: eight bytes, its window as its time to live.
    fn take(&mut self, now: Instant, key: &[u8], window: Duration) -> Result<Answer, StoreError> {
        let before = self.live(now, key).and_then(|e| {
            Some((u64::from_be_bytes(e.value.as_slice().try_into().ok()?), e.expiry.0))
        });
        let (count, until) = match before {
            Some((n, until)) => (n.saturating_add(1), until),
            None => (1, now + window),
        };
        self.make_room(now, key, cost(key, &[0; 8]))?;
        self.put(key, count.to_be_bytes().to_vec(), until);
        Ok(Answer::Taken { count, resets_in: until - now })
    }

    /// In the order in which keys came: a key that is there throughout keeps its place, however
    /// often it is written. The cursor is the place of the last that was looked at.
    fn scan(&self, now: Instant, prefix: &[u8], cursor: Option<Vec<u8>>, limit: usize) -> Answer {
        let last = match &cursor {
            None => Some(0),
            Some(cursor) => cursor::position(cursor, prefix)
                .and_then(|serial| serial.try_into().ok())
                .map(u64::from_be_bytes),
        };
        let Some(mut last) = last else {
            return Answer::BadCursor;
        };
        let mut keys = Vec::new();
        let mut rest = self.order.range((Bound::Excluded(last), Bound::Unbounded)).peekable();
        for (serial, key) in rest.by_ref().take(SCAN_MAX) {
            last = *serial;
            if key.starts_with(prefix)
                && let Some(entry) = self.live(now, key)
            {
                keys.push((key.to_vec(), Some(entry.expiry.0 - now)));
            }
            if keys.len() >= limit {
                break;
            }
        }
        let next = rest.peek().map(|_| {
            let mut cursor = cursor::begin(prefix);
            cursor.extend_from_slice(&last.to_be_bytes());
            cursor
        });
        Answer::Page { keys, next }
    }

    fn get_many(&self, now: Instant, keys: &[Vec<u8>], bytes_max: usize) -> Answer {
        let found: Vec<Option<&Entry>> = keys.iter().map(|key| self.live(now, key)).collect();
        if found.iter().flatten().map(|e| e.value.len()).sum::<usize>() > bytes_max {
            return Answer::TooLarge;
        }
        Answer::Values(found.into_iter().map(|e| Ok(e.map(|e| e.value.clone()))).collect())
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
        if let Some(entry) = self.items.get_mut(key)
            && self.queue.remove(&entry.expiry)
        {
            entry.expiry.0 = until;
            self.queue.insert(entry.expiry);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.items.remove(key) {
            self.queue.remove(&entry.expiry);
            self.order.remove(&entry.expiry.1);
            self.bytes -= cost(key, &entry.value);
        }
    }

    /// Clears what has expired, a little with every command. What is left over is invisible
    /// (`live`) and goes with the next commands; only its bytes count until then.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            if !self.drop_expired(now) {
                return;
            }
        }
    }

    /// Drops the entry that expired first; false when none has.
    fn drop_expired(&mut self, now: Instant) -> bool {
        let due = self.queue.first().filter(|(until, _)| *until <= now);
        let Some(key) = due.and_then(|(_, serial)| self.order.get(serial).cloned()) else {
            return false;
        };
        self.remove(&key);
        true
    }
}

/// A name belongs to its item. No prefix of ours begins like this, so no item can be under it.
fn record_key(key: &[u8], once: &Once) -> Vec<u8> {
    [b"idem:", key, b"\n", &once.name].concat()
}

fn record(once: &Once, there: bool, value: &[u8]) -> Vec<u8> {
    let value = if once.keeps_value { value } else { b"" };
    let there: &[u8] = if there { b"1" } else { b"0" };
    [&once.fingerprint, there, value].concat()
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
            ttl: Ttl::Exactly(Duration::from_secs(seconds)),
            when: When::Always,
            once: None,
        }
    }

    fn get(key: &[u8]) -> Command {
        Command::Get { key: key.to_vec(), renew: None, once: None }
    }

    #[test]
    fn an_entry_is_gone_at_its_expiry_and_not_before() {
        let (mut t, now) = table(1000);
        t.run(now, set(b"k", b"v", 10)).unwrap();
        let just_before = now + Duration::from_secs(10) - Duration::from_nanos(1);
        assert_eq!(t.run(just_before, get(b"k")), Ok(Answer::Value(Some(b"v".to_vec()))));
        assert_eq!(t.run(now + Duration::from_secs(10), get(b"k")), Ok(Answer::Value(None)));
        assert_eq!((t.items.len(), t.queue.len(), t.bytes), (0, 0, 0));
    }

    #[test]
    fn a_read_renews_only_when_told_to() {
        let (mut t, now) = table(1000);
        let at = |s| now + Duration::from_secs(s);
        t.run(now, set(b"k", b"v", 10)).unwrap();
        t.run(at(9), get(b"k")).unwrap();
        t.run(
            at(9),
            Command::Get { key: b"k".to_vec(), renew: Some(Duration::from_secs(10)), once: None },
        )
        .unwrap();
        assert_eq!(t.run(at(18), get(b"k")), Ok(Answer::Value(Some(b"v".to_vec()))));
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
        assert_eq!(t.run(now, get(b"k")), Ok(Answer::Value(Some(b"54321".to_vec()))));
        let later = now + Duration::from_secs(11);
        assert_eq!(
            t.run(later, set(b"x", b"", 10)),
            Ok(Answer::Stored),
            "expired entries make room"
        );
    }

    fn page(
        t: &mut Table,
        now: Instant,
        cursor: Option<Vec<u8>>,
    ) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let scan = Command::Scan { prefix: b"k".to_vec(), cursor, limit: 2 };
        match t.run(now, scan) {
            Ok(Answer::Page { keys, next }) => {
                (keys.into_iter().map(|(key, _)| key).collect(), next)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_keeps_its_place_in_lists_however_often_it_is_written_or_read() {
        let (mut t, now) = table(1 << 20);
        for key in [b"k1", b"x1", b"k2", b"k3", b"x2"] {
            t.run(now, set(key, b"v", 10)).unwrap();
        }
        let (first, next) = page(&mut t, now, None);
        assert_eq!(first, [b"k1", b"k2"]);
        t.run(now, set(b"k1", b"longer", 5)).unwrap();
        t.run(now, set(b"k3", b"longer", 5)).unwrap();
        let renew = Some(Duration::from_secs(99));
        t.run(now, Command::Get { key: b"k3".to_vec(), renew, once: None }).unwrap();
        // The one that the cursor stands on may go.
        t.run(now, Command::Delete { key: b"k2".to_vec(), when: When::Always, once: None })
            .unwrap();
        let (second, next) = page(&mut t, now, next);
        assert_eq!(second, [b"k3"]);
        assert_eq!(next, None);
        assert_eq!((t.items.len(), t.queue.len(), t.order.len()), (4, 4, 4));
    }

    #[test]
    fn a_page_looks_at_so_many_entries_and_no_more() {
        let (mut t, now) = table(1 << 30);
        for n in 0..SCAN_MAX {
            t.run(now, set(format!("x{n}").as_bytes(), b"", 10)).unwrap();
        }
        t.run(now, set(b"k1", b"", 10)).unwrap();
        let (first, next) = page(&mut t, now, None);
        assert!(first.is_empty());
        assert_eq!(page(&mut t, now, next), (vec![b"k1".to_vec()], None));
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
