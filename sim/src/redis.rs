//! A model of one Redis server: values with a time to live, the commands and scripts that kioskd sends, and the states
//! in which a server refuses them. `tests/model.rs` compares it with a real server.
//!
//! Scripts are known by their digests, and written in Rust here, line by line what the Lua says.

use crate::cluster::Node;
use kioskd::resp::command::Script;
use kioskd::store::redis::scripts::{self, all};
use std::collections::BTreeMap;

/// What the server can do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Serves,
    /// It reads its data from disk.
    Loading,
    /// A script of another application has been running for too long.
    Busy,
    /// It is at `maxmemory`.
    Full,
    /// It is a replica now.
    ReadOnly,
    /// It cannot write to its disk.
    NoDisk,
}

/// What a key holds.
#[derive(Debug, Clone)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// In milliseconds of the server's clock.
    pub expires: Option<i64>,
}

/// What a command has made of a key.
pub type Change = (Vec<u8>, Option<Value>);

/// See the module's text.
#[derive(Debug)]
pub struct Db {
    /// In the order of their hashes, which is that of SCAN, and another in each run.
    items: BTreeMap<(i64, Vec<u8>), Value>,
    /// How often it has started.
    starts: u32,
    /// Scripts that are loaded, by their texts.
    loaded: Vec<&'static str>,
    /// See [`Mode`].
    pub mode: Mode,
    /// It follows a master, and refuses writes.
    pub replica: bool,
    /// It is a node of a cluster.
    pub node: Option<Node>,
    /// It knows HELLO, and so RESP3 (6.0).
    pub hello: bool,
    /// It knows `#!lua` (7.0).
    pub shebang: bool,
    /// The time, in milliseconds.
    pub now: i64,
    /// Every write of a value, in order: key, value, life. A DELETE with a record writes its record's name.
    pub written: Vec<(Vec<u8>, Vec<u8>, Option<i64>)>,
    /// What has changed, in order, for its replicas.
    pub changes: Vec<Change>,
    /// How many keys have come and gone, and how often it has started: meanwhile SCAN may give a key twice.
    pub moves: u64,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+`
    Simple(&'static str),
    /// `-`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1` or `_`
    Null,
    /// `*`
    Array(Vec<Reply>),
    /// `%`, or `*` in RESP2: keys, each with its value.
    Map(Vec<Reply>),
    /// `>`, in RESP3.
    Push(Vec<Reply>),
}

/// A reply, or an error reply.
type Outcome = Result<Reply, &'static str>;

const NO_SCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

/// A hash that is a position of SCAN as well: positive.
fn hash(bytes: &[u8]) -> i64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (bytes.iter().fold(1, step) >> 1 | 1) as i64
}

fn parse(word: &[u8]) -> Result<i64, &'static str> {
    let number = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    number.ok_or("ERR value is not an integer or out of range")
}

fn value(value: Option<Vec<u8>>) -> Reply {
    value.map_or(Reply::Null, Reply::Bulk)
}

/// A script's text without its first line.
fn plain(script: &Script) -> &'static str {
    script.text.split_once('\n').filter(|(first, _)| first.starts_with("#!")).map_or(script.text, |(_, rest)| rest)
}

impl Reply {
    /// A bulk string.
    pub fn text(text: &str) -> Reply {
        Reply::Bulk(text.into())
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Reply::Bulk(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            Reply::Array(parts) | Reply::Map(parts) | Reply::Push(parts) => {
                format!("[{}]", parts.iter().map(Reply::shown).collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        }
    }

    /// Appends it as a server sends it.
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        let (line, rest): (String, &[Reply]) = match self {
            Reply::Simple(text) => (format!("+{text}"), &[]),
            Reply::Error(text) => (format!("-{text}"), &[]),
            Reply::Integer(n) => (format!(":{n}"), &[]),
            Reply::Null => (if resp3 { "_" } else { "$-1" }.to_owned(), &[]),
            Reply::Bulk(bytes) => (format!("${}\r\n{}", bytes.len(), String::from_utf8_lossy(bytes)), &[]),
            Reply::Map(parts) if resp3 => (format!("%{}", parts.len() / 2), parts),
            Reply::Push(parts) if resp3 => (format!(">{}", parts.len()), parts),
            Reply::Array(parts) | Reply::Map(parts) | Reply::Push(parts) => (format!("*{}", parts.len()), parts),
        };
        out.extend_from_slice(format!("{line}\r\n").as_bytes());
        rest.iter().for_each(|part| part.write(resp3, out));
    }
}

/// The first command in the input and its length, once it is whole; no words where that is none.
pub fn command(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut at = 0;
    let number = |sign: u8, at: &mut usize| {
        let end = *at + input.get(*at..)?.windows(2).position(|two| two == b"\r\n")?;
        let n = parse(&input[*at + 1..end.max(*at + 1)]).ok().filter(|_| input[*at] == sign);
        *at = end + 2;
        Some(n.map_or(usize::MAX / 2, |n| n as usize))
    };
    let mut words = Vec::new();
    for _ in 0..number(b'*', &mut at)? {
        let n = number(b'$', &mut at)?;
        if n > 1 << 20 {
            return Some((Vec::new(), input.len()));
        }
        words.push(input.get(at..at + n)?.to_vec());
        at += n + 2;
    }
    (at <= input.len()).then_some((words, at))
}

impl Db {
    /// An empty one.
    pub fn new(hello: bool, shebang: bool) -> Db {
        let (items, loaded, written, changes) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        let (mode, replica, node) = (Mode::Serves, false, None);
        Db { items, starts: 0, loaded, mode, replica, node, hello, shebang, now: 0, written, changes, moves: 0 }
    }

    /// Executes a command, on a connection that speaks RESP3 or RESP2.
    pub fn execute(&mut self, resp3: &mut bool, words: &[Vec<u8>]) -> Reply {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.run(resp3, &words).unwrap_or_else(|e| Reply::Error(e.to_owned()))
    }

    /// It has started again, and knows no script any more; nor any data, if it `loses` that.
    pub fn restart(&mut self, loses: bool) {
        self.loaded.clear();
        self.starts += 1;
        self.moves += 1;
        let items = std::mem::take(&mut self.items);
        if !loses {
            self.items = items.into_iter().map(|((_, key), value)| (self.place(&key), value)).collect();
        }
    }

    fn place(&self, key: &[u8]) -> (i64, Vec<u8>) {
        (hash(&[&self.starts.to_be_bytes(), key].concat()), key.to_vec())
    }

    /// What a key holds, unless that has expired.
    pub fn peek(&self, key: &[u8]) -> Option<&Value> {
        let value = self.items.get(&self.place(key));
        value.filter(|value| value.expires.is_none_or(|at| self.now <= at))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.items.keys().map(|(_, key)| key)
    }

    /// Makes a key what it is elsewhere.
    pub fn apply(&mut self, (key, value): &Change) {
        let place = self.place(key);
        match value {
            Some(value) => drop(self.items.insert(place, value.clone())),
            None => drop(self.items.remove(&place)),
        }
        self.moves += 1;
    }

    /// Takes over all that another has.
    pub fn copy(&mut self, other: &Db) {
        let items = other.items.iter().map(|((_, key), value)| (self.place(key), value.clone()));
        self.items = items.collect();
    }

    fn note(&mut self, key: &[u8]) {
        let value = self.items.get(&self.place(key)).cloned();
        self.changes.push((key.to_vec(), value));
    }

    fn run(&mut self, resp3: &mut bool, words: &[&[u8]]) -> Outcome {
        let Some((verb, args)) = words.split_first() else { return Err("ERR Protocol error: expected '$'") };
        let verb = *verb;
        match self.mode {
            _ if verb == b"HELLO" => {}
            Mode::Loading if verb == b"CLIENT" || verb == b"SELECT" => {}
            Mode::Loading => return Err("LOADING Redis is loading the dataset in memory"),
            Mode::Busy => return Err("BUSY Redis is busy running a script."),
            _ => {}
        }
        match (verb, args) {
            (b"HELLO", args) if self.hello => {
                *resp3 = args.first() == Some(&&b"3"[..]);
                let role = if self.is_replica() { "replica" } else { "master" };
                let mode = if self.node.is_some() { "cluster" } else { "standalone" };
                Ok(Reply::Map(["mode", mode, "role", role].map(Reply::text).into()))
            }
            (b"ROLE", _) => {
                let role = if self.is_replica() { "slave" } else { "master" };
                Ok(Reply::Array(vec![Reply::text(role), Reply::Integer(0)]))
            }
            (b"PING", _) if self.mode == Mode::NoDisk => self.may_write(false).map(|()| Reply::Null),
            (b"PING", _) => Ok(Reply::Simple("PONG")),
            (b"CLIENT" | b"SELECT", _) => Ok(Reply::Simple("OK")),
            (b"GET", [key]) => Ok(value(self.get(key))),
            (b"PTTL", [key]) => Ok(Reply::Integer(self.left(key))),
            (b"SET", [key, value, options @ ..]) => self.set(key, value, options),
            (b"DEL", [key]) => self.may_write(false).map(|()| Reply::Integer(self.remove(key))),
            (b"SCRIPT", _) => {
                self.loaded.clear();
                Ok(Reply::Simple("OK"))
            }
            (b"EVAL" | b"EVALSHA", [name, number, rest @ ..]) => {
                let (script, number) = (self.script(name)?, parse(number)? as usize);
                if number > rest.len() {
                    return Err("ERR Number of keys can't be greater than number of args");
                }
                self.call(script, &rest[..number], &rest[number..])
            }
            _ => Err("ERR unknown command 'HELLO', with args beginning with: "),
        }
    }

    /// Which script is meant, by its text or by its digest, with its first line or without.
    fn script(&mut self, name: &[u8]) -> Result<&'static Script, &'static str> {
        let is = |is: &str| is.as_bytes() == name;
        let script = all().into_iter().find(|s| is(s.text) || is(s.sha) || is(s.plain_sha) || is(plain(s)));
        let script = script.ok_or(NO_SCRIPT)?;
        let (text, eval) =
            (if is(script.text) || is(script.sha) { script.text } else { plain(script) }, name.len() > 40);
        let begins = text.starts_with("#!");
        if begins && eval && !self.shebang {
            return Err("ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'");
        }
        let known = self.loaded.contains(&text);
        if !eval && !known {
            return Err(NO_SCRIPT);
        }
        // One with a first line is judged by it, before it is loaded; another is refused at its first write.
        if begins {
            self.may_write(!text.starts_with("#!lua flags=allow-oom"))?;
        }
        if !known {
            self.loaded.push(text);
        }
        Ok(script)
    }

    fn call(&mut self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Outcome {
        let is = |other: &Script| std::ptr::eq(script, other);
        if is(&scripts::SET) {
            self.conditional_set(keys, args)
        } else if is(&scripts::DELETE) || is(&scripts::DELETE_WHEN_FULL) {
            self.conditional_delete(keys, args)
        } else if is(&scripts::READ) {
            let (left, ttl) = (self.left(keys[0]), parse(args[0])?);
            if left >= 0 && left < ttl {
                self.may_write(false)?;
                self.expire(keys[0], ttl);
            }
            Ok(value(self.get(keys[0])))
        } else if is(&scripts::LOOK) {
            let seen = self.get(keys[1]);
            let parts = if seen.is_some() { (1, seen) } else { (0, self.get(keys[0])) };
            Ok(Reply::Array(vec![Reply::Integer(parts.0), value(parts.1)]))
        } else if is(&scripts::TAKE) {
            self.may_write(true)?;
            let n = self.get(keys[0]).map_or(Ok(0), |value| parse(&value))? + 1;
            let (left, window) = (self.left(keys[0]), parse(args[0])?);
            let left = if (0..=window).contains(&left) { left } else { window };
            self.put(keys[0], n.to_string().into_bytes(), Some(left));
            Ok(Reply::Array(vec![Reply::Integer(n), Reply::Integer(self.left(keys[0]))]))
        } else {
            self.scan(args)
        }
    }

    fn conditional_set(&mut self, keys: &[&[u8]], args: &[&[u8]]) -> Outcome {
        if let Some(seen) = keys.get(1).and_then(|record| self.get(record)) {
            return Ok(Reply::Bulk(seen));
        }
        let (old, mode, left, ttl) = (self.get(keys[0]), args[4], self.left(keys[0]), parse(args[3])?);
        if is_unmet(&old, args[0], args[1]) || old.is_none() && mode == b"keep" {
            return Ok(Reply::Integer(-1));
        }
        self.may_write(true)?;
        let keeps = mode == b"keep" || mode == b"least" && (left == -1 || left > ttl);
        self.put(keys[0], args[2].to_vec(), if keeps { Some(left).filter(|left| *left >= 0) } else { Some(ttl) });
        if let Some(record) = keys.get(1) {
            let kept = if args[7] == b"1" { args[2] } else { b"" };
            self.record(record, args[5], &old, kept, parse(args[6])?);
        }
        Ok(Reply::Integer(old.is_some().into()))
    }

    fn conditional_delete(&mut self, keys: &[&[u8]], args: &[&[u8]]) -> Outcome {
        if let Some(seen) = keys.get(1).and_then(|record| self.get(record)) {
            return Ok(Reply::Bulk(seen));
        }
        let old = self.get(keys[0]);
        if is_unmet(&old, args[0], args[1]) {
            return Ok(Reply::Integer(-1));
        }
        let records = keys.get(1).filter(|_| old.is_some() || args[4] == b"always");
        if old.is_some() || records.is_some() {
            self.may_write(old.is_none())?;
        }
        self.remove(keys[0]);
        if let (true, Some(record)) = (old.is_some(), keys.get(1)) {
            let by = format!("\"by\":\"{}\"", String::from_utf8_lossy(record));
            self.written.push((keys[0].to_vec(), by.into_bytes(), None));
        }
        if let Some(record) = records {
            self.record(record, args[2], &old, b"", parse(args[3])?);
        }
        Ok(Reply::Integer(old.is_some().into()))
    }

    fn record(&mut self, key: &[u8], print: &[u8], old: &Option<Vec<u8>>, kept: &[u8], ttl: i64) {
        let there: &[u8] = if old.is_some() { b"1" } else { b"0" };
        self.put(key, [print, there, kept].concat(), Some(ttl));
    }

    /// Steps of at least 50 keys, as Redis makes them, and now and then of hundreds, as those are that Redis makes after
    /// its table has grown.
    fn scan(&mut self, args: &[&[u8]]) -> Outcome {
        let (mut position, prefix, want) = (parse(args[0])?, args[2], parse(args[3])? as usize);
        let mut given: Vec<Vec<u8>> = args[4].chunks(16).map(<[u8]>::to_vec).collect();
        let run = format!("{:08x}", self.starts).into_bytes();
        if args[5] != run {
            position = 0;
            given.clear();
        }
        let (mut known, mut found, mut whole) = (given.len(), Vec::new(), true);
        let mut elsewhere = false;
        let digits = |key: &[u8]| format!("{:016x}", hash(key)).into_bytes();
        for _ in 0..40 {
            let size = if position % 3 == 1 { 50 + position as usize % 400 } else { 50 };
            let mut rest = self.items.range((position, Vec::new())..).map(|(key, _)| key.clone());
            let step: Vec<_> = rest.by_ref().take(size).collect();
            let next = rest.next().map_or(0, |key| key.0);
            let wanted = |key: &Vec<u8>| key.starts_with(prefix) && !given.contains(&digits(key));
            let mut new: Vec<_> = step.into_iter().map(|(_, key)| key).filter(wanted).collect();
            new.retain(|key| {
                let here = self.node.as_ref().is_none_or(|node| node.owns(key));
                elsewhere |= !here;
                here && self.left(key) != -2
            });
            let (room, more) = (want - found.len() / 2, 200_usize.saturating_sub(known));
            whole = new.len() <= room || more == 0;
            if !whole {
                new.truncate(room.min(more));
                given.extend(new.iter().map(|key| digits(key)));
            }
            for key in new {
                let left = self.left(&key);
                found.extend([Reply::Bulk(key), Reply::Integer(left)]);
            }
            if !whole {
                break;
            }
            (position, known) = (next, 0);
            given.clear();
            if position == 0 || found.len() / 2 >= want {
                break;
            }
        }
        if found.is_empty() && elsewhere && self.node.as_ref().is_some_and(|node| !node.owns(args[6])) {
            return Err("CLUSTERDOWN these keys are elsewhere");
        }
        let given = if whole { vec![] } else { given.into_iter().map(Reply::Bulk).collect() };
        let position = Reply::Bulk(position.to_string().into_bytes());
        Ok(Reply::Array(vec![position, Reply::Array(found), Reply::Array(given), Reply::Bulk(run)]))
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[&[u8]]) -> Outcome {
        self.may_write(true)?;
        let there = self.get(key).is_some();
        if options.contains(&&b"NX"[..]) && there || options.contains(&&b"XX"[..]) && !there {
            return Ok(Reply::Null);
        }
        let ttl = match options {
            [b"EX", seconds, ..] => Some(1000 * parse(seconds)?),
            [b"PX", ms, ..] => Some(parse(ms)?),
            _ => None,
        };
        self.put(key, value.to_vec(), ttl);
        Ok(Reply::Simple("OK"))
    }

    fn is_replica(&self) -> bool {
        self.replica || self.mode == Mode::ReadOnly
    }

    /// Whether a write is not refused; `grows` if it is one that memory can be too full for.
    fn may_write(&self, grows: bool) -> Result<(), &'static str> {
        match self.mode {
            _ if self.replica => Err("READONLY You can't write against a read only replica."),
            Mode::Full if grows => Err("OOM command not allowed when used memory > 'maxmemory'."),
            Mode::ReadOnly => Err("READONLY You can't write against a read only replica."),
            Mode::NoDisk => Err("MISCONF Redis is configured to save RDB snapshots, but it cannot."),
            _ => Ok(()),
        }
    }

    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        (self.left(key) != -2).then(|| self.items[&self.place(key)].bytes.clone())
    }

    /// As PTTL. A key that has expired is deleted.
    fn left(&mut self, key: &[u8]) -> i64 {
        match self.items.get(&self.place(key)).map(|value| value.expires) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) if self.now > at => {
                self.items.remove(&self.place(key));
                self.moves += 1;
                -2
            }
            Some(Some(at)) => at - self.now,
        }
    }

    /// Sets a value, for so many milliseconds.
    pub fn put(&mut self, key: &[u8], bytes: Vec<u8>, ttl: Option<i64>) {
        self.written.push((key.to_vec(), bytes.clone(), ttl));
        let expires = ttl.map(|ttl| self.now + ttl);
        let old = self.items.insert(self.place(key), Value { bytes, expires });
        self.moves += u64::from(old.is_none());
        self.note(key);
    }

    fn expire(&mut self, key: &[u8], ttl: i64) {
        let value = self.items.get_mut(&self.place(key));
        value.into_iter().for_each(|value| value.expires = Some(self.now + ttl));
        self.note(key);
    }

    fn remove(&mut self, key: &[u8]) -> i64 {
        let there = self.left(key) != -2;
        self.items.remove(&self.place(key));
        self.moves += u64::from(there);
        self.note(key);
        there.into()
    }
}

fn is_unmet(old: &Option<Vec<u8>>, when: &[u8], same: &[u8]) -> bool {
    match when {
        b"present" => old.is_none(),
        b"absent" => old.is_some(),
        b"same" => old.as_deref() != Some(same),
        _ => false,
    }
}
