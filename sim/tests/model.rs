//! The model of Redis and a real server are sent the same random commands, in every state that a real one can be brought
//! into (not `Loading`: that passes too fast), and must answer the same.

use kioskd::store::redis::scan::SCAN;
use kioskd::store::redis::scripts::{DELETE, DELETE_WHEN_FULL, LOOK, READ, SET, TAKE};
use kioskd_sim::net::Dice;
use kioskd_sim::redis::{Db, Mode, Reply};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

const PATIENCE: Duration = Duration::from_secs(60);
const COMMANDS: usize = 3000;

/// A real server, in a directory of its own, without a port.
struct Real {
    child: Child,
    dir: PathBuf,
}

impl Real {
    fn start(name: &str) -> Real {
        let dir = env::temp_dir().join(format!("kioskd-model-{name}-{}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        // A test that is interrupted drops nothing; where there is util-linux, the server ends with the test's thread.
        let tethered = Command::new("setpriv").arg("--version").output().is_ok();
        let mut command = Command::new(if tethered { "setpriv" } else { "redis-server" });
        if tethered {
            command.args(["--pdeathsig", "KILL", "--", "redis-server"]);
        }
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"]);
        command.current_dir(&dir).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("no redis-server: tests/run installs it");
        let real = Real { child, dir };
        eventually(|| UnixStream::connect(real.dir.join("redis.sock")).is_ok());
        real
    }

    fn connect(&self) -> Conn {
        let stream = UnixStream::connect(self.dir.join("redis.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Conn(BufReader::new(stream))
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

struct Conn(BufReader<UnixStream>);

impl Conn {
    fn send(&mut self, words: &[Vec<u8>]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes).unwrap();
    }

    fn ask(&mut self, words: &[Vec<u8>]) -> Reply {
        self.send(words);
        self.read()
    }

    fn say(&mut self, text: &str) -> Reply {
        self.ask(&text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn read(&mut self) -> Reply {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Reply::Simple(if rest == "OK" { "OK" } else { "PONG" }),
            "-" => Reply::Error(rest.split(' ').next().unwrap().to_owned()),
            ":" => Reply::Integer(number()),
            "_" => Reply::Null,
            "$" | "*" if number() < 0 => Reply::Null,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..number()).map(|_| self.read()).collect()),
            "%" => Reply::Map((0..2 * number()).map(|_| self.read()).collect()),
            _ => panic!("{line:?}"),
        }
    }
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// A random command, of those that the crate sends, on a few keys.
fn command(dice: &mut Dice) -> Vec<Vec<u8>> {
    let key = |dice: &mut Dice| format!("item:{}", dice.below(5)).into_bytes();
    let value = |dice: &mut Dice| format!("v{}", dice.below(3)).into_bytes();
    // So far apart that a second more or less does not matter; or gone when the next command comes.
    let ttl = |dice: &mut Dice| dice.pick(&["100000", "200000", "300000", "400000", "1"]).as_bytes().to_vec();
    let (item, value, other, ms) = (key(dice), value(dice), value(dice), ttl(dice));
    let record = format!("idem:{{{}}}::{}", String::from_utf8_lossy(&item), dice.below(3)).into_bytes();
    let when = dice.pick(&[&b"always"[..], b"absent", b"present", b"same"]);
    let mode = dice.pick(&[&b"set"[..], b"least", b"keep"]);
    let once = dice.percent(50);
    let script = dice.pick(&[&SET, &SET, &DELETE, &DELETE_WHEN_FULL, &READ, &LOOK, &TAKE]);
    let (keep, always) = (dice.pick(&[&b"0"[..], b"1"]), dice.pick(&[&b"always"[..], b"removed"]));
    match dice.below(10) {
        0 => words(&[b"GET", &item]),
        1 => words(&[b"PTTL", &item]),
        2 => words(&[b"DEL", &item]),
        3 => words(&[b"SET", &item, &value, b"EX", dice.pick(&[b"100", b"200"])]),
        4 => words(&[b"SET", &item, &value, b"PX", &ms, dice.pick(&[b"NX", b"XX"])]),
        5 if dice.percent(5) => words(&[b"SCRIPT", b"FLUSH"]),
        _ => {
            let (number, keys): (&[u8], Vec<&[u8]>) = match script.sha {
                sha if sha == LOOK.sha => (b"2", vec![&item, &record]),
                sha if sha == TAKE.sha => (b"1", vec![b"rate:1"]),
                sha if once && (sha == SET.sha || sha == DELETE.sha) => (b"2", vec![&item, &record]),
                _ => (b"1", vec![&item]),
            };
            let arguments: Vec<&[u8]> = match script.sha {
                sha if sha == SET.sha => {
                    vec![when, &other, &value, &ms, mode, b"print", b"500000", keep]
                }
                sha if sha == READ.sha || sha == TAKE.sha => vec![&ms],
                sha if sha == LOOK.sha => vec![],
                _ => vec![when, &other, b"print", b"500000", always],
            };
            let plain = dice.percent(20);
            let text = if plain { script.text.split_once('\n').unwrap().1 } else { script.text };
            let sha = if plain { script.plain_sha } else { script.sha };
            let (verb, name): (&[u8], &str) = if dice.percent(20) { (b"EVAL", text) } else { (b"EVALSHA", sha) };
            [words(&[verb, name.as_bytes(), number]), words(&keys), words(&arguments)].concat()
        }
    }
}

/// Errors by their codes; times to live, of whatever shape the reply is, to within two seconds.
fn same(a: &Reply, b: &Reply) -> bool {
    match (a, b) {
        (Reply::Integer(a), Reply::Integer(b)) => a == b || a.min(b) > &1000 && (a - b).abs() < 2000,
        (Reply::Error(a), Reply::Error(b)) => a.split(' ').next() == b.split(' ').next(),
        (Reply::Array(a), Reply::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

/// Compares them in one state.
fn compare(name: &str, mode: Mode, prepare: impl FnOnce(&Real), resp3: bool, seed: u64) {
    let real = Real::start(name);
    let mut conn = real.connect();
    let mut db = Db::new(true, true);
    let (mut resp3_here, mut dice, start) = (false, Dice(seed), Instant::now());
    if resp3 {
        let hello = words(&[b"HELLO", b"3", b"SETNAME", b"kioskd"]);
        conn.ask(&hello);
        db.execute(&mut resp3_here, &hello);
    }
    let (mut story, mut prepare) = (Vec::new(), Some(prepare));
    for n in 0..COMMANDS {
        if n == COMMANDS / 2 {
            // What is there from before can be read, and more or less of it be written.
            prepare.take().unwrap()(&real);
            db.mode = mode;
        }
        let command = command(&mut dice);
        db.now = start.elapsed().as_millis() as i64;
        let (theirs, ours) = (conn.ask(&command), db.execute(&mut resp3_here, &command));
        let shown: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        story.push(format!("{:.150} -> {theirs:?}", shown.join(" ")));
        let last = &story[story.len().saturating_sub(20)..];
        assert!(same(&theirs, &ours), "{mode:?}: the model says {ours:?}\n{}", last.join("\n"));
        if shown.iter().skip(3).any(|word| word == "1") {
            thread::sleep(Duration::from_millis(3));
        }
    }
    assert!(story.iter().any(|line| line.contains("NOSCRIPT")));
}

#[test]
fn the_model_answers_as_a_server_that_serves() {
    compare("serves", Mode::Serves, |_| {}, false, 1);
    compare("serves-3", Mode::Serves, |_| {}, true, 2);
}

#[test]
fn the_model_answers_as_a_server_that_is_full() {
    let fill = |real: &Real| drop(real.connect().say("CONFIG SET maxmemory 1"));
    compare("full", Mode::Full, fill, true, 3);
}

#[test]
fn the_model_answers_as_a_server_that_has_become_a_replica() {
    let demote = |real: &Real| drop(real.connect().say("REPLICAOF 127.0.0.1 1"));
    compare("replica", Mode::ReadOnly, demote, true, 4);
}

#[test]
fn the_model_answers_as_a_server_that_cannot_write_to_its_disk() {
    let lose_disk = |real: &Real| {
        // It cannot replace a folder by a file.
        fs::create_dir_all(real.dir.join("dump.rdb/x")).unwrap();
        let mut conn = real.connect();
        for command in ["CONFIG SET save 3600000", "CONFIG SET save"] {
            conn.say(command);
        }
        conn.ask(&words(&[b"CONFIG", b"SET", b"save", b"3600000 1"]));
        conn.say("BGSAVE");
        eventually(|| {
            let Reply::Bulk(info) = conn.say("INFO persistence") else { panic!() };
            String::from_utf8_lossy(&info).contains("rdb_last_bgsave_status:err")
        });
    };
    compare("disk", Mode::NoDisk, lose_disk, true, 5);
}

#[test]
fn the_model_answers_as_a_server_that_is_busy() {
    let occupy = |real: &Real| {
        let mut conn = real.connect();
        conn.say("CONFIG SET busy-reply-threshold 1");
        conn.send(&words(&[b"EVAL", b"while true do end", b"0"]));
        let mut other = real.connect();
        eventually(|| matches!(other.say("GET x"), Reply::Error(e) if e == "BUSY"));
        std::mem::forget(conn);
    };
    compare("busy", Mode::Busy, occupy, false, 6);
}

/// What pages a walk has depends on the server; what it gives does not: all that is there, once.
#[test]
fn the_model_walks_as_a_server_does() {
    let real = Real::start("walk");
    let mut conn = real.connect();
    let mut db = Db::new(true, true);
    for n in 0..1500 {
        let set = words(&[b"SET", format!("item:{}{n}", if n % 3 == 0 { "a" } else { "b" }).as_bytes(), b"x"]);
        conn.ask(&set);
        db.execute(&mut false, &set);
    }
    for limit in ["1", "7", "50", "100", "1000"] {
        let walk = |ask: &mut dyn FnMut(&[Vec<u8>]) -> Reply| {
            let (mut found, mut position, mut given) = (Vec::new(), b"0".to_vec(), Vec::new());
            let mut run = b"00000000".to_vec();
            loop {
                let ask_for = words(&[
                    b"EVAL",
                    SCAN.text.as_bytes(),
                    b"0",
                    &position,
                    b"item:a*",
                    b"item:a",
                    limit.as_bytes(),
                    &given,
                    &run,
                ]);
                let Reply::Array(parts) = ask(&ask_for) else { panic!() };
                let [Reply::Bulk(next), Reply::Array(keys), Reply::Array(hashes), Reply::Bulk(is)] = &parts[..] else {
                    panic!()
                };
                run.clone_from(is);
                found.extend(keys.iter().step_by(2).map(|key| format!("{key:?}")));
                assert!(keys.iter().skip(1).step_by(2).all(|ttl| *ttl == Reply::Integer(-1)));
                given = hashes.iter().flat_map(|h| if let Reply::Bulk(h) = h { h.clone() } else { vec![] }).collect();
                position.clone_from(next);
                if position == b"0" && given.is_empty() {
                    return found;
                }
            }
        };
        let theirs = walk(&mut |words| conn.ask(words));
        let ours = walk(&mut |words| db.execute(&mut false, words));
        assert_eq!((theirs.len(), ours.len()), (500, 500), "{limit}");
        let [theirs, ours] = [theirs, ours].map(BTreeSet::from_iter);
        assert!(theirs == ours && ours.len() == 500, "{limit}");
    }
}
