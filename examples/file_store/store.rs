//! The store: one directory, one process that owns it, one lock that orders its commands.
//!
//! ```text
//! DIRECTORY/lock                 held by the owner
//! DIRECTORY/new                  the file that is being written
//! DIRECTORY/0c5d…-6974656d3a37   an entry: the FNV-1a of its key, and the key's first bytes in hexadecimal
//! ```
//!
//! What has to change in one step is in one file, and a file is replaced by a rename. It waits for the disk on the
//! worker's own thread, so a disk that hangs is a service that hangs: an example, not a product.

use crate::entry::Entry;
use kioskd::net::World;
use kioskd::store::{self, Answer, Command, Page, Replies, Reply, Session, Store, Ttl};
use kioskd::store::{StoreError, Tag, cursor};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// All records of one item are in its file, which is read and written whole.
const FILE_BYTES_MAX: usize = 16 << 20;
/// A file is counted with this many bytes at least.
const BLOCK_BYTES: usize = 4096;
/// Files that one command looks at to see whether they have expired, and one page for its keys.
const SWEEP_MAX: usize = 16;
const SCAN_MAX: usize = 1000;

/// The lock of the directory, and the file that is being written. No key has such a name.
const LOCK: &str = "lock";
const NEW: &str = "new";

/// See the module's text.
pub struct FileStore(PathBuf, Arc<Mutex<Table>>);

struct Table {
    directory: PathBuf,
    /// Held for as long as the store exists.
    _lock: File,
    /// By the name of a file: its bytes, and when the last thing in it expires.
    files: BTreeMap<String, (usize, u64)>,
    bytes: usize,
    bytes_max: usize,
    swept_to: String,
    /// The same moment on two clocks. A command brings the time as an `Instant`, which means nothing after a restart.
    began: (Instant, u64),
}

impl FileStore {
    /// The store in this directory, which is made if it is not there. All files together have `bytes_max` bytes at
    /// most.
    pub fn open(directory: &Path, bytes_max: usize) -> io::Result<FileStore> {
        fs::create_dir_all(directory)?;
        // Its own name must outlive a power cut, too.
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        let lock = File::create(directory.join(LOCK))?;
        lock.try_lock().map_err(|e| io::Error::other(format!("another process has it: {e}")))?;
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut table = Table {
            directory: directory.to_owned(),
            _lock: lock,
            files: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            swept_to: String::new(),
            began: (Instant::now(), nanos(epoch)),
        };
        for file in fs::read_dir(directory)? {
            let name = file?.file_name().into_string().unwrap_or_default();
            // What was being written when the last process ended was not acknowledged.
            if name != LOCK && name != NEW {
                let entry = table.read_file(&name).map_err(|e| io::Error::other(e.to_string()))?;
                table.count(name, Some((entry.encode().len(), entry.until())));
            }
        }
        Ok(FileStore(directory.to_owned(), Arc::new(Mutex::new(table))))
    }
}

impl Store for FileStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn session(&self, _: &mut dyn World, _: Instant) -> Box<dyn Session> {
        Box::new(FileSession { table: Arc::clone(&self.1), replies: Replies::default() })
    }
}

struct FileSession {
    table: Arc<Mutex<Table>>,
    replies: Replies,
}

impl Session for FileSession {
    fn submit(&mut self, now: Instant, tag: Tag, command: Command<'_>) {
        // A panic leaves the files as they were or as they should be; the table is corrected by the next write.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        self.replies.push(tag, table.answer(now, command, &mut bytes));
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

    /// Every command has its answer when `submit` returns, so none is ever abandoned.
    fn abandon(&mut self, _: Instant, _: Tag) -> StoreError {
        StoreError::Timeout
    }

    fn is_immediate(&self) -> bool {
        true
    }
}

impl Table {
    fn answer<'b>(
        &mut self,
        now: Instant,
        command: Command<'_>,
        bytes: &'b mut Vec<u8>,
    ) -> Reply<'b> {
        let now = self.began.1.saturating_add(nanos(now.saturating_duration_since(self.began.0)));
        let after = |ttl: Duration| now.saturating_add(nanos(ttl));
        self.sweep(now, SWEEP_MAX);
        let mut entry = match &command {
            Command::Get { key, .. }
            | Command::Set { key, .. }
            | Command::Delete { key, .. }
            | Command::Take { key, .. } => self.read(&key.to_vec(), now)?,
            _ => Entry::default(),
        };
        if let Command::Get { once: Some(once), .. }
        | Command::Set { once: Some(once), .. }
        | Command::Delete { once: Some(once), .. } = &command
            && let Some(record) = entry.record(once)
        {
            *bytes = record;
            return Ok(Answer::Recorded(bytes));
        }
        match command {
            Command::Get { renew, .. } => {
                let Some((until, value)) = &mut entry.value else {
                    return Ok(Answer::Value(None));
                };
                *bytes = value.clone();
                if let Some(ttl) = renew
                    && after(ttl) > *until
                {
                    *until = after(ttl);
                    self.write(&entry)?;
                }
                Ok(Answer::Value(Some(bytes)))
            }
            Command::Set { value, ttl, when, once, .. } => {
                let left = entry.value.as_ref().map(|(until, _)| *until);
                let until = match (ttl, left) {
                    (Ttl::Exactly(ttl), _) | (Ttl::AtLeast(ttl), None) => after(ttl),
                    (Ttl::AtLeast(ttl), Some(left)) => left.max(after(ttl)),
                    (Ttl::Keep, Some(left)) => left,
                    (Ttl::Keep, None) => return Ok(Answer::Unmet),
                };
                if !entry.holds(&when) {
                    return Ok(Answer::Unmet);
                }
                let there = left.is_some();
                entry.note(&once, there, &value, after);
                entry.value = Some((until, value.into_owned()));
                self.make_room(&entry, now)?;
                self.write(&entry)?;
                Ok(if once.is_some() { Answer::Done { there } } else { Answer::Stored })
            }
            Command::Delete { when, once, .. } => {
                if !entry.holds(&when) {
                    return Ok(Answer::Unmet);
                }
                let there = entry.value.take().is_some();
                entry.note(&once, there, b"", after);
                // A full store refuses no DELETE: it is the way out. One of nothing leaves no record there.
                if there || once.is_some() && self.make_room(&entry, now).is_ok() {
                    self.write(&entry)?;
                }
                Ok(if once.is_some() { Answer::Done { there } } else { Answer::Deleted(there) })
            }
            Command::Take { window, .. } => {
                let count = |(until, count): (u64, Vec<u8>)| {
                    Some((until, u64::from_be_bytes(count.try_into().ok()?)))
                };
                let before = entry.value.take().and_then(count);
                let (until, count) = before.unwrap_or((after(window), 0));
                let count = count.saturating_add(1);
                entry.value = Some((until, count.to_be_bytes().to_vec()));
                self.make_room(&entry, now)?;
                self.write(&entry)?;
                Ok(Answer::Taken { count, resets_in: Duration::from_nanos(until - now) })
            }
            Command::Scan { prefix, cursor, limit } => {
                let page = self.scan(&prefix.to_vec(), cursor, limit, now)?;
                Ok(page.map_or(Answer::BadCursor, |page| Answer::Page(Rc::new(page))))
            }
            Command::GetMany { keys, bytes_max } => {
                let (mut values, mut left) = (Vec::<store::Found>::new(), bytes_max);
                for key in keys {
                    let found =
                        self.read(&key, now).map(|entry| entry.value.map(|(_, value)| value));
                    let size = found.as_ref().ok().and_then(Option::as_ref).map_or(0, Vec::len);
                    match left.checked_sub(size) {
                        Some(rest) => left = rest,
                        None => return Ok(Answer::TooLarge),
                    }
                    values.push(found);
                }
                Ok(Answer::Values(values.into()))
            }
            Command::DeleteMany { keys } => {
                let mut removed = 0;
                for key in keys {
                    let mut entry = self.read(&key, now)?;
                    if entry.value.take().is_some() {
                        self.write(&entry)?;
                        removed += 1;
                    }
                }
                Ok(Answer::Removed(removed))
            }
            // Whether a write would be served.
            Command::Ping => match fs::write(self.directory.join(NEW), b"ping") {
                Ok(()) => Ok(Answer::Pong),
                Err(e) => Err(StoreError::Unavailable(e.to_string())),
            },
        }
    }

    /// In the order of the hashes. A cursor holds the last of them, and so no key; where several keys have that hash,
    /// the page has them all.
    fn scan(
        &self,
        prefix: &[u8],
        cursor: Option<Vec<u8>>,
        limit: usize,
        now: u64,
    ) -> Result<Option<Page>, StoreError> {
        let from = match &cursor {
            None => Some(0),
            Some(cursor) => match cursor::position(cursor, prefix).map(<[u8; 8]>::try_from) {
                Some(Ok(last)) => u64::from_be_bytes(last).checked_add(1),
                _ => return Ok(None),
            },
        };
        let (mut page, mut last) = (Page::default(), None);
        let begins = hex(&prefix[..prefix.len().min(NAMED_BYTES)]);
        let names = from.map(|from| self.files.range(format!("{from:016x}")..));
        for (looked, (name, _)) in names.into_iter().flatten().enumerate() {
            let hash = u64::from_str_radix(&name[..16], 16).ok();
            if (page.keys.len() >= limit || looked >= SCAN_MAX) && hash != last {
                let last = last.unwrap_or_default().to_be_bytes();
                page.next = Some([&cursor::begin(prefix)[..], &last].concat());
                break;
            }
            last = hash;
            if name[17..].starts_with(&begins) {
                let entry = self.read_file(name)?.without_expired(now);
                if let Some((until, _)) = entry.value.filter(|_| entry.key.starts_with(prefix)) {
                    page.keys.push((entry.key, Some(Duration::from_nanos(until - now))));
                }
            }
        }
        Ok(Some(page))
    }

    fn read(&self, key: &[u8], now: u64) -> Result<Entry, StoreError> {
        let name = file_name(key);
        if !self.files.contains_key(&name) {
            return Ok(Entry { key: key.to_vec(), ..Entry::default() });
        }
        let entry = self.read_file(&name)?;
        match entry.key == key {
            true => Ok(entry.without_expired(now)),
            false => Err(StoreError::Refused("another key has the file of this one".to_owned())),
        }
    }

    fn read_file(&self, name: &str) -> Result<Entry, StoreError> {
        let path = self.directory.join(name);
        let bytes = fs::read(&path).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        // Never "absent": a condition would hold, and the next write would take the place of what is there.
        let damaged = || StoreError::Refused(format!("{} is damaged", path.display()));
        Entry::decode(&bytes).filter(|entry| name == file_name(&entry.key)).ok_or_else(damaged)
    }

    /// The one step of every write: before the rename nothing has changed, after it everything has. What is
    /// acknowledged is on the disk: first the bytes, then the name.
    fn write(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let name = file_name(&entry.key);
        let (path, new) = (self.directory.join(&name), self.directory.join(NEW));
        let bytes = entry.encode();
        let replace = || {
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        let replaced = match (entry.is_empty(), self.files.contains_key(&name)) {
            (true, false) => return Ok(()),
            (true, true) => fs::remove_file(&path),
            (false, _) => replace(),
        };
        replaced.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        self.count(name, (!entry.is_empty()).then(|| (bytes.len(), entry.until())));
        // The new name is seen, but it may not outlive a power cut: whether the write took effect is unknown.
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|e| StoreError::Broken(e.to_string()))
    }

    fn count(&mut self, name: String, file: Option<(usize, u64)>) {
        let before = match file {
            Some(file) => self.files.insert(name, file),
            None => self.files.remove(&name),
        };
        self.bytes += file.map_or(0, |(bytes, _)| bytes.max(BLOCK_BYTES));
        self.bytes -= before.map_or(0, |(bytes, _)| bytes.max(BLOCK_BYTES));
    }

    fn make_room(&mut self, entry: &Entry, now: u64) -> Result<(), StoreError> {
        let name = file_name(&entry.key);
        let size = entry.encode().len();
        // The first sweep looks at what lies behind the last one only.
        for _ in 0..3 {
            let freed = self.files.get(&name).map_or(0, |(bytes, _)| (*bytes).max(BLOCK_BYTES));
            if self.bytes - freed + size.max(BLOCK_BYTES) <= self.bytes_max
                && size <= FILE_BYTES_MAX
            {
                return Ok(());
            }
            self.sweep(now, usize::MAX);
        }
        Err(StoreError::Full)
    }

    /// Removes files of which everything has expired: looks at so many, and goes on there the next time. Until then
    /// they are invisible ([`Entry::without_expired`]), and only their bytes count.
    fn sweep(&mut self, now: u64, files_max: usize) {
        let names = self
            .files
            .range(std::mem::take(&mut self.swept_to)..)
            .take(files_max.saturating_add(1));
        let mut looked: Vec<(String, u64)> =
            names.map(|(name, (_, until))| (name.clone(), *until)).collect();
        if looked.len() > files_max {
            self.swept_to = looked.pop().map(|(name, _)| name).unwrap_or_default();
        }
        for (name, _) in looked.into_iter().filter(|(_, until)| *until <= now) {
            if fs::remove_file(self.directory.join(&name)).is_ok() {
                self.count(name, None);
            }
        }
    }
}

/// So many bytes of a key are in the name of its file, in hexadecimal: names have 255 bytes at the most.
const NAMED_BYTES: usize = 100;

/// No byte of a key is used as it is: keys may be `../../etc/passwd`, or differ in upper and lower case only.
fn file_name(key: &[u8]) -> String {
    format!("{:016x}-{}", cursor::hash(key), hex(&key[..key.len().min(NAMED_BYTES)]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nanoseconds in 64 bits, which last until the year 2554.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
