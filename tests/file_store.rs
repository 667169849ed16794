//! The store of `examples/file_store`, which `docs/store.md` walks through, keeps the contract of every store
//! (`support/contract.rs`); and what a store in a directory promises beyond it.

#[path = "support/contract.rs"]
mod contract;
#[path = "../examples/file_store/entry.rs"]
mod entry;
#[path = "../examples/file_store/store.rs"]
mod file_store;
mod support;

use contract::{HOUR, Line, assert_same, once, rules};
use file_store::FileStore;
use kioskd::store::{self, Store, StoreError, Ttl};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::session::{Answer, Command, When, key};
use support::temp_dir;

macro_rules! tests {
    ($($stores:ident: $($rule:ident)*;)*) => {
        $($(
            #[test]
            fn $rule() {
                $stores(contract::$rule);
            }
        )*)*
    };
}
rules!(tests);

fn for_each_store(rule: impl Fn(&dyn Store)) {
    let directory = Directory::in_memory();
    rule(&directory.open());
}

fn for_every_store(rule: impl Fn(&dyn Store)) {
    for_each_store(rule);
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        Directory(temp_dir())
    }

    /// Where there is such a place: the rules have times to live of a second, and a disk that many write to can take as
    /// long for one `fsync`.
    fn in_memory() -> Directory {
        let on_disk = Directory::new();
        let name = on_disk.0.file_name().expect("it has a name");
        let in_memory = Path::new("/dev/shm").join(name);
        match std::fs::create_dir(&in_memory) {
            Ok(()) => Directory(in_memory),
            Err(_) => on_disk,
        }
    }

    fn open(&self) -> FileStore {
        FileStore::open(&self.0, 1 << 30).expect("a directory of our own")
    }

    /// The files, but for the lock.
    fn files(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(&self.0).expect("it is there");
        let paths = all.map(|file| file.expect("it is there").path());
        paths.filter(|path| !path.ends_with("lock")).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn set_once(name: &str, value: &[u8]) -> Command {
    Command::Set {
        key: key(b"k"),
        value: value.to_vec().into(),
        ttl: Ttl::Exactly(Duration::from_secs(3600)),
        when: When::Always,
        once: once(name, b'a', false).map(Box::new),
    }
}

/// The time to live goes on while nobody runs, and so does the memory of what was done.
#[test]
fn a_restart_loses_nothing_and_prolongs_nothing() {
    let directory = Directory::new();
    let brief = Duration::from_millis(50);
    let mut line = Line::open(&directory.open());
    assert_eq!(line.answer(set_once(":1", b"v")), Answer::Done { there: false });
    line.set(b"brief", b"v", Some(brief), When::Always);
    let before = Instant::now();
    drop(line);
    let mut line = Line::open(&directory.open());
    assert_same(line.get(b"k"), b"v");
    let record = [&[b'a'; 32][..], b"0"].concat();
    assert_eq!(line.answer(set_once(":1", b"w")), Answer::Recorded(record));
    line.wait_gone(b"brief", before);
}

/// What a process that dies in the middle of a write leaves is its new file, half written.
#[test]
fn a_write_that_was_cut_off_has_not_happened() {
    let directory = Directory::new();
    let mut line = Line::open(&directory.open());
    line.set(b"k", b"old", HOUR, When::Always);
    let whole = std::fs::read(&directory.files()[0]).expect("the one file");
    drop(line);
    std::fs::write(directory.0.join("new"), &whole[..whole.len() / 2]).expect("our own file");
    let mut line = Line::open(&directory.open());
    assert_same(line.get(b"k"), b"old");
    line.set(b"k", b"new", HOUR, When::Unchanged(b"old".into()));
    assert_same(line.get(b"k"), b"new");
}

/// Absent would be wrong: `If-None-Match: *` would hold, and the next write would bury what is there.
#[test]
fn a_damaged_file_is_an_error_and_not_an_absent_item() {
    let directory = Directory::new();
    let mut line = Line::open(&directory.open());
    line.set(b"k", b"v", HOUR, When::Always);
    let path = directory.files().remove(0);
    let whole = std::fs::read(&path).expect("the one file");
    for size in 0..whole.len() {
        std::fs::write(&path, &whole[..size]).expect("our own file");
        let answer = line.ask(contract::get(b"k", None));
        assert!(matches!(answer, Err(StoreError::Refused(_))), "{size}: {answer:?}");
    }
    drop(line);
    assert!(FileStore::open(&directory.0, 1 << 30).is_err());
}

#[test]
fn a_directory_has_one_owner() {
    let directory = Directory::new();
    let store = directory.open();
    let refused = FileStore::open(&directory.0, 1 << 30).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("another process"), "{refused}");
    drop(store);
    directory.open();
}

#[test]
fn a_full_store_refuses_what_makes_it_grow_and_no_delete() {
    let directory = Directory::new();
    let store = FileStore::open(&directory.0, 2 * 4096).expect("a directory of our own");
    let mut line = Line::open(&store);
    let brief = Duration::from_millis(20);
    line.set(b"a", b"v", HOUR, When::Always);
    line.set(b"b", b"v", Some(brief), When::Always);
    let refused = line.ask(contract::set(b"c", b"v", HOUR, When::Always));
    // Unless the other has expired by now.
    assert!(matches!(refused, Err(StoreError::Full) | Ok(Answer::Stored)), "{refused:?}");
    line.delete(b"c", When::Always);
    line.wait_gone(b"b", Instant::now());
    assert_eq!(line.set(b"c", b"v", HOUR, When::Always), Answer::Stored);
    assert_eq!(line.ask(contract::set(b"d", b"v", HOUR, When::Always)), Err(StoreError::Full));
    assert_eq!(line.ask(contract::take(b"rate")), Err(StoreError::Full));
    assert_eq!(line.set(b"c", b"w", HOUR, When::Always), Answer::Stored, "it does not grow");
    let delete = |name: &[u8]| Command::Delete {
        key: key(name),
        when: When::Always,
        once: once(":1", b'a', false).map(Box::new),
    };
    assert_eq!(line.answer(delete(b"none")), Answer::Done { there: false });
    assert_eq!(line.answer(delete(b"c")), Answer::Done { there: true });
    assert_eq!(line.delete(b"a", When::Always), Answer::Deleted(true));
    assert_eq!(directory.files().len(), 1, "the record of the second, and none of the first");
}

#[test]
fn expired_files_are_removed_a_few_with_every_command() {
    let directory = Directory::new();
    let mut line = Line::open(&directory.open());
    for n in 0..40 {
        line.set(format!("{n}").as_bytes(), b"v", Some(Duration::from_millis(1)), When::Always);
    }
    support::eventually("no file", || {
        line.get(b"none");
        directory.files().iter().all(|path| path.ends_with("new"))
    });
}

/// Every key once, whatever the size of the page; and none of another collection.
#[test]
fn pages_have_every_key_of_their_prefix_once() {
    let directory = Directory::new();
    let store = directory.open();
    let mut line = Line::open(&store);
    let mut keys: Vec<Vec<u8>> = (0..30).map(|n| format!("item:{n}").into_bytes()).collect();
    keys.push([b"item:", &[b'x'; 300][..]].concat());
    for key in &keys {
        line.set(key, b"v", HOUR, When::Always);
        line.set(&[b"sess:", &key[5..]].concat(), b"v", HOUR, When::Always);
    }
    keys.sort();
    for limit in [1, 7, 31, 100] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = scan(&store, cursor, limit).expect("a cursor of its own");
            assert!(page.keys.len() <= limit);
            found.extend(page.keys.into_iter().map(|(key, _)| key));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        found.sort();
        assert_eq!(found, keys, "{limit}");
    }
    assert!(scan(&store, Some(b"x".to_vec()), 1).is_none(), "a bad cursor");
}

fn scan(store: &FileStore, cursor: Option<Vec<u8>>, limit: usize) -> Option<store::Page> {
    let prefix = store::Key { prefix: "item:", id: b""[..].into() };
    let mut session = store::blocking::Blocking::new(store).expect("a descriptor is left");
    let deadline = Instant::now() + support::PATIENCE;
    let replies = session.call(Command::Scan { prefix, cursor, limit }, deadline);
    let (_, reply) = replies.iter().next().expect("an answer");
    match reply.expect("a page") {
        store::Answer::Page(page) => Some((*page).clone()),
        store::Answer::BadCursor => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_leaves_no_directory() {
    let directory = Directory::new();
    let mut line = Line::open(&directory.open());
    line.set(b"../../escaped", b"v", HOUR, When::Always);
    let files = directory.files();
    assert!(files.iter().all(|path| path.parent() == Some(Path::new(&directory.0))));
    assert_eq!(files.len(), 1);
}
