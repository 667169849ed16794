//! The embedded store: everything in this process, bounded, and lost when the process ends.
//!
//! It lets `cargo run` serve with nothing installed. It is not shared between replicas and does not survive a restart,
//! and the start-up log says so: the very mistake kioskd exists to avoid, kept for trying things out.
//!
//! ```text
//! items:  key ─▶ (value, expiry)       expiry = (Instant, serial)
//! order:  serial ─▶ key, oldest first  lists: a cursor holds a serial and no key
//! queue:  expiries, earliest first     so the next thing to expire is the first
//! bytes:  keys + values + ENTRY_BYTES for each   above `MEMORY_MAX_BYTES` only by records of deletes
//! ```

use super::immediate::Immediate;
use super::{
    Answer, Command, Measure, Once, Page, Replies, Reply, Session, Store, StoreError, Tag, Ttl,
    When, cursor,
};
use crate::net::World;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an entry costs beside its key and value: three table entries, a shared header and their
/// share of empty places, measured at about 230 bytes on a 64-bit host.
pub const ENTRY_BYTES: usize = 230;

/// How many expired entries one command removes, so that no request pays for a thousand.
const SWEEP_MAX: usize = 16;

/// How many entries one page looks at, a millisecond's work. All workers wait for one another on this lock.
const SCAN_MAX: usize = 10_000;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Mutex<Table>>,
}

impl Memory {
    /// An empty store that refuses writes beyond `bytes_max` (`MEMORY_MAX_BYTES`, 64 MiB).
    pub fn new(bytes_max: usize) -> Memory {
        Memory { shared: Arc::new(Mutex::new(Table { bytes_max, ..Table::default() })) }
    }
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn place(&self) -> String {
        "this process".to_owned()
    }

    fn measures(&self) -> Vec<Measure> {
        let table = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let measure = |name, help, value: usize| Measure {
            name,
            help,
            is_counter: false,
            value: value as u64,
        };
        vec![
            measure("kioskd_memory_store_bytes", "Bytes in the memory store.", table.bytes),
            measure("kioskd_memory_store_limit_bytes", "MEMORY_MAX_BYTES.", table.bytes_max),
            measure(
                "kioskd_memory_store_entries",
                "Items, sessions and records.",
                table.items.len(),
            ),
        ]
    }

    fn session(&self, _: &mut dyn World, _: Instant) -> Box<dyn Session> {
        let shared = Arc::clone(&self.shared);
        Box::new(Immediate::new(move |now, tag, command: Command<'_>, replies: &mut Replies| {
            // A panic while the lock was held would have been a bug in the table, which changes only after its last
            // fallible step; so the table it left is sound.
            let mut table = shared.lock().unwrap_or_else(PoisonError::into_inner);
            table.run(now, tag, command, replies);
        }))
    }
}

/// When an entry expires, and its serial, so that no two are the same.
type Expiry = (Instant, u64);

#[derive(Debug, Default)]
struct Table {
    items: HashMap<Arc<[u8]>, Entry>,
    queue: BTreeSet<Expiry>,
    order: BTreeMap<u64, Arc<[u8]>>,
    /// The last serial that was given out. An entry keeps its serial for as long as it exists.
    serial: u64,
    bytes: usize,
    bytes_max: usize,
    /// The key of the present command, in one piece; kept for its capacity.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    expiry: Expiry,
}

impl Table {
    fn run(&mut self, now: Instant, tag: Tag, command: Command<'_>, replies: &mut Replies) {
        self.sweep(now);
        let mut key = std::mem::take(&mut self.key);
        if let Command::Get { key: whole, .. }
        | Command::Set { key: whole, .. }
        | Command::Delete { key: whole, .. }
        | Command::Take { key: whole, .. }
        | Command::Scan { prefix: whole, .. } = &command
        {
            whole.join(b"", &mut key);
        }
        self.answer(now, tag, &key, command, replies);
        self.key = key;
    }

    fn answer(
        &mut self,
        now: Instant,
        tag: Tag,
        key: &[u8],
        command: Command<'_>,
        replies: &mut Replies,
    ) {
        if let Command::Get { once: Some(once), .. }
        | Command::Set { once: Some(once), .. }
        | Command::Delete { once: Some(once), .. } = &command
            && let Some(record) = self.live(now, &record_key(key, once))
        {
            return replies.push(tag, Ok(Answer::Recorded(&record.value)));
        }
        let reply = match command {
            Command::Get { renew, .. } => {
                let entry = self.live(now, key);
                replies.push(tag, Ok(Answer::Value(entry.map(|e| &*e.value))));
                if let (Some(entry), Some(ttl)) = (entry, renew)
                    && now + ttl > entry.expiry.0
                {
                    self.expire_at(key, now + ttl);
                }
                return;
            }
            Command::Set { value, ttl, when, once, .. } => {
                self.set(now, key, &value, ttl, &when, once.as_deref())
            }
            Command::Delete { when, once, .. } => Ok(self.delete(now, key, &when, once.as_deref())),
            Command::Take { window, .. } => self.take(now, key, window),
            Command::Scan { cursor, limit, .. } => {
                let page = self.scan(now, key, cursor, limit);
                Ok(page.map_or(Answer::BadCursor, |page| Answer::Page(Rc::new(page))))
            }
            Command::GetMany { keys, bytes_max } => {
                let found = || keys.iter().map(|key| self.live(now, key));
                match found().flatten().map(|e| e.value.len()).sum::<usize>() <= bytes_max {
                    true => Ok(Answer::Values(
                        found().map(|e| Ok(e.map(|e| e.value.clone()))).collect(),
                    )),
                    false => Ok(Answer::TooLarge),
                }
            }
            Command::DeleteMany { keys } => {
                let mut removed = 0;
                for key in keys {
                    let was_there = self.delete(now, &key, &When::Always, None);
                    removed += usize::from(was_there == Answer::Deleted(true));
                }
                Ok(Answer::Removed(removed))
            }
            Command::Ping => Ok(Answer::Pong),
        };
        replies.push(tag, reply);
    }

    fn set(
        &mut self,
        now: Instant,
        key: &[u8],
        value: &[u8],
        ttl: Ttl,
        when: &When,
        once: Option<&Once>,
    ) -> Reply<'static> {
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
        let record = once.map(|once| (once, record_key(key, once), record(once, there, value)));
        let recorded = record.as_ref().map_or(0, |(_, key, value)| cost(key, value));
        self.make_room(now, key, cost(key, value) + recorded)?;
        self.put(key, value.to_vec(), until);
        Ok(match record {
            None => Answer::Stored,
            Some((once, key, record)) => {
                self.put(&key, record, now + once.ttl);
                Answer::Done { there }
            }
        })
    }

    fn delete(
        &mut self,
        now: Instant,
        key: &[u8],
        when: &When,
        once: Option<&Once>,
    ) -> Answer<&'static [u8]> {
        if !self.holds(now, key, when) {
            return Answer::Unmet;
        }
        let there = self.live(now, key).is_some();
        self.remove(key);
        let Some(once) = once else {
            return Answer::Deleted(there);
        };
        let (key, record) = (record_key(key, once), record(once, there, b""));
        // A delete that removes something is recorded even beyond the bound, for no DELETE is refused: once for each
        // item, so that all records together are at most about twice the bound (a small item, a long key). Deletes that
        // remove nothing could be sent without end.
        if self.make_room(now, &key, cost(&key, &record)).is_ok() || there {
            self.put(&key, record, now + once.ttl);
        }
        Answer::Done { there }
    }

    /// Frees space until `bytes` more fit, counting what is under `key` as removed. Expired entries are dropped, as
    /// many as needed.
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

    /// Nothing here can fail, so a change made of several of these is atomic.
    fn put(&mut self, key: &[u8], value: Vec<u8>, until: Instant) {
        let serial = self.items.get(key).map_or(self.serial + 1, |e| e.expiry.1);
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
    fn take(&mut self, now: Instant, key: &[u8], window: Duration) -> Reply<'static> {
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

    /// In the order in which keys were added: a key that exists throughout keeps its position, however often it is
    /// written. The cursor is the position of the last key that was looked at.
    fn scan(
        &self,
        now: Instant,
        prefix: &[u8],
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Option<Page> {
        let mut last = match &cursor {
            Some(cursor) => u64::from_be_bytes(cursor::position(cursor, prefix)?.try_into().ok()?),
            None => 0,
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
        let next = rest.peek().map(|_| [&cursor::begin(prefix)[..], &last.to_be_bytes()].concat());
        Some(Page { keys, next })
    }

    fn holds(&self, now: Instant, key: &[u8], when: &When) -> bool {
        let there = self.live(now, key);
        match when {
            When::Always => true,
            When::Absent => there.is_none(),
            When::Present => there.is_some(),
            When::Unchanged(old) => there.is_some_and(|e| *e.value == **old),
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

    /// Removes expired entries, a few with every command. What is left over is invisible (`live`) and goes with the
    /// next commands; only its bytes count until then.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            if !self.drop_expired(now) {
                return;
            }
        }
    }

    /// Drops the entry that expired first; false when none has expired.
    fn drop_expired(&mut self, now: Instant) -> bool {
        let due = self.queue.first().filter(|(until, _)| *until <= now);
        let Some(key) = due.and_then(|(_, serial)| self.order.get(serial).cloned()) else {
            return false;
        };
        self.remove(&key);
        true
    }
}

/// A record's name belongs to its item. No prefix in use begins like this, so no item can have such a key.
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
    use super::super::Key;
    use super::*;

    /// A table, and a moment to begin at.
    fn table(bytes_max: usize) -> (Table, Instant) {
        (Table { bytes_max, ..Table::default() }, Instant::now())
    }

    impl Table {
        fn ask(&mut self, now: Instant, command: Command) -> Replies {
            let mut replies = Replies::default();
            self.run(now, 7, command, &mut replies);
            replies
        }

        /// Entries in each of the three tables, and their bytes.
        fn sizes(&self) -> ([usize; 3], usize) {
            ([self.items.len(), self.queue.len(), self.order.len()], self.bytes)
        }
    }

    /// The reply to the one command that was submitted.
    fn only(replies: &Replies) -> Reply<'_> {
        assert_eq!(replies.len(), 1);
        let (tag, reply) = replies.iter().next().unwrap();
        assert_eq!(tag, 7);
        reply
    }

    fn key(id: &[u8]) -> Key<'_> {
        Key { prefix: "", id: id.into() }
    }

    fn set<'a>(id: &'a [u8], value: &'a [u8], seconds: u64) -> Command<'a> {
        let ttl = Ttl::Exactly(Duration::from_secs(seconds));
        Command::Set { key: key(id), value: value.into(), ttl, when: When::Always, once: None }
    }

    fn get(id: &[u8]) -> Command<'_> {
        Command::Get { key: key(id), renew: None, once: None }
    }

    fn renew(id: &[u8], seconds: u64) -> Command<'_> {
        Command::Get { key: key(id), renew: Some(Duration::from_secs(seconds)), once: None }
    }

    #[test]
    fn an_entry_is_gone_at_its_expiry_and_not_before() {
        let (mut s, now) = table(1000);
        assert_eq!(only(&s.ask(now, set(b"k", b"v", 10))), Ok(Answer::Stored));
        let just_before = now + Duration::from_secs(10) - Duration::from_nanos(1);
        assert_eq!(only(&s.ask(just_before, get(b"k"))), Ok(Answer::Value(Some(&b"v"[..]))));
        let then = now + Duration::from_secs(10);
        assert_eq!(only(&s.ask(then, get(b"k"))), Ok(Answer::Value(None)));
        assert_eq!(s.sizes(), ([0, 0, 0], 0));
    }

    #[test]
    fn a_read_renews_only_when_told_to() {
        let (mut s, now) = table(1000);
        let at = |s| now + Duration::from_secs(s);
        s.ask(now, set(b"k", b"v", 10));
        s.ask(at(9), get(b"k"));
        assert_eq!(only(&s.ask(at(9), renew(b"k", 10))), Ok(Answer::Value(Some(&b"v"[..]))));
        // It does not shorten the time to live.
        s.ask(at(9), renew(b"k", 1));
        assert_eq!(only(&s.ask(at(18), get(b"k"))), Ok(Answer::Value(Some(&b"v"[..]))));
        assert_eq!(only(&s.ask(at(19), get(b"k"))), Ok(Answer::Value(None)));
    }

    #[test]
    fn writes_are_refused_at_the_byte_limit_and_not_before() {
        let size = cost(b"k", b"12345");
        let (mut s, now) = table(size);
        assert_eq!(only(&s.ask(now, set(b"k", b"123456", 10))), Err(StoreError::Full));
        assert_eq!(only(&s.ask(now, set(b"k", b"12345", 10))), Ok(Answer::Stored));
        assert_eq!(
            only(&s.ask(now, set(b"k", b"54321", 10))),
            Ok(Answer::Stored),
            "replacing needs no second room"
        );
        assert_eq!(only(&s.ask(now, set(b"x", b"", 10))), Err(StoreError::Full));
        assert_eq!(only(&s.ask(now, get(b"k"))), Ok(Answer::Value(Some(&b"54321"[..]))));
        let later = now + Duration::from_secs(11);
        assert_eq!(
            only(&s.ask(later, set(b"x", b"", 10))),
            Ok(Answer::Stored),
            "expired entries make room"
        );
    }

    fn page(
        s: &mut Table,
        now: Instant,
        cursor: Option<Vec<u8>>,
    ) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let replies = s.ask(now, Command::Scan { prefix: key(b"k"), cursor, limit: 2 });
        match only(&replies) {
            Ok(Answer::Page(page)) => {
                (page.keys.iter().map(|(key, _)| key.clone()).collect(), page.next.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_keeps_its_place_in_lists_however_often_it_is_written_or_read() {
        let (mut s, now) = table(1 << 20);
        for id in [b"k1", b"x1", b"k2", b"k3", b"x2"] {
            s.ask(now, set(id, b"v", 10));
        }
        let (first, next) = page(&mut s, now, None);
        assert_eq!(first, [b"k1", b"k2"]);
        s.ask(now, set(b"k1", b"longer", 5));
        s.ask(now, set(b"k3", b"longer", 5));
        s.ask(now, renew(b"k3", 99));
        // The key that the cursor points to may be deleted.
        let delete = Command::Delete { key: key(b"k2"), when: When::Always, once: None };
        assert_eq!(only(&s.ask(now, delete)), Ok(Answer::Deleted(true)));
        let (second, next) = page(&mut s, now, next);
        assert_eq!(second, [b"k3"]);
        assert_eq!(next, None);
        assert_eq!(s.sizes().0, [4, 4, 4]);
    }

    #[test]
    fn a_page_looks_at_so_many_entries_and_no_more() {
        let (mut s, now) = table(1 << 30);
        for n in 0..SCAN_MAX {
            s.ask(now, set(format!("x{n}").as_bytes(), b"", 10));
        }
        s.ask(now, set(b"k1", b"", 10));
        let (first, next) = page(&mut s, now, None);
        assert!(first.is_empty());
        assert_eq!(page(&mut s, now, next), (vec![b"k1".to_vec()], None));
    }

    #[test]
    fn a_sweep_is_bounded_and_catches_up() {
        let (mut s, now) = table(1 << 20);
        for i in 0..100u8 {
            s.ask(now, set(&[i], b"v", 1));
        }
        let later = now + Duration::from_secs(2);
        s.ask(later, Command::Ping);
        assert_eq!(s.sizes().0, [100 - SWEEP_MAX; 3]);
        for _ in 0..10 {
            s.ask(later, Command::Ping);
        }
        assert_eq!(s.sizes(), ([0, 0, 0], 0));
    }

    /// The key is put together anew for each command, and answers keep their own bytes.
    #[test]
    fn answers_to_one_tick_do_not_mix() {
        let (mut s, now) = table(1 << 20);
        let long = Key { prefix: "item:", id: b"long"[..].into() };
        let put = |key, value: &'static [u8]| {
            let ttl = Ttl::Exactly(Duration::from_secs(1));
            Command::Set { key, value: value.into(), ttl, when: When::Always, once: None }
        };
        let read = |key| Command::Get { key, renew: None, once: None };
        let commands = [
            put(long.clone(), b"first"),
            put(key(b"item:l"), b"2"),
            read(long),
            read(key(b"item:l")),
        ];
        let mut replies = Replies::default();
        for (tag, command) in commands.into_iter().enumerate() {
            s.run(now, tag as Tag, command, &mut replies);
        }
        let found: Vec<_> = replies.iter().collect();
        assert_eq!(
            found[2..],
            [(2, Ok(Answer::Value(Some(&b"first"[..])))), (3, Ok(Answer::Value(Some(&b"2"[..])))),]
        );
    }
}
