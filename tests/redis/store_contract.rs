//! The contract of `tests/support/contract.rs`, run over each store through `store::Store` and its sessions; and what
//! only one of them can promise.
//!
//! ```text
//! Line ── Blocking ── Session ── memory            one table in this process
//!                             ── redis             a real redis-server of the test's own
//!                             ── noop              the rules that hold for something that keeps nothing
//! ```
//!
//! A store for another backend is done when it passes `for_each_store`. `noop` answers as if every key were always
//! absent, so it has its own test for the rules that leaves, and the rules about sessions (each command answered once,
//! deadlines, `Ping`) include it through `for_every_store`.

use crate::contract::{self, HOUR, Line, assert_same, conditions, delete, get, rules, set, take};
use crate::support::session::{Answer, Command, When};
use crate::support::{Act, FakeRedis, PATIENCE, Redis, eventually};
use kioskd::resp::command::Script;
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::options::Options;
use kioskd::resp::options::Target;
use kioskd::store::memory::Memory;
use kioskd::store::noop::Noop;
use kioskd::store::redis::{Redis as RedisStore, scripts};
use kioskd::store::{Store, StoreError};
use std::time::Duration;

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

// ---- What only one store can promise ----------------------------------------------------------

/// `noop` is a store in which every key is always absent. What then can be promised is here; what needs a value to have
/// been kept (round trips, times to live, races, counts above one) is not.
#[test]
fn noop_answers_as_if_every_key_were_absent() {
    let mut line = Line::open(&Noop);
    for (when, before, holds) in conditions() {
        if before.is_none() {
            let wanted = if holds { Answer::Stored } else { Answer::Unmet };
            assert_eq!(line.set(b"k", b"v", HOUR, when.clone()), wanted, "{when:?}");
            let wanted = match when {
                When::Always | When::Absent => Answer::Deleted(false),
                _ => Answer::Unmet,
            };
            assert_eq!(line.delete(b"k", when), wanted);
            assert_eq!(line.get(b"k"), None);
        }
    }
    let window = Duration::from_secs(60);
    assert_eq!(line.take(b"k", window), (1, window));
    assert_eq!(line.take(b"k", window), (1, window));
}

#[test]
fn memory_is_full_at_its_bound_and_says_so() {
    let store = Memory::new(1 << 20);
    let mut line = Line::open(&store);
    let full = Err(StoreError::Full);
    assert_eq!(line.ask(set(b"k", &vec![0; 1 << 20], HOUR, When::Always)), full);
    assert_eq!(line.get(b"k"), None);
    line.set(b"k", b"v", HOUR, When::Always);
    for when in [When::Always, When::Present, When::Unchanged(b"v".into())] {
        assert_eq!(line.ask(set(b"k", &vec![0; 1 << 20], None, when)), full);
        assert_same(line.get(b"k"), b"v");
    }
    assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
}

/// The Go service this one replaces reads and writes the same keys, side by side with it.
#[test]
fn redis_holds_a_plain_string_with_its_ttl() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    let minutes = Some(Duration::from_secs(1800));
    let json = br#"{"name":"Bob"}"#;
    for when in [When::Always, When::Present, When::Unchanged(json.into()), When::Absent] {
        for ttl in [minutes, Some(Duration::from_millis(1_799_999))] {
            if when == When::Absent {
                line.delete(b"item:7", When::Always);
            }
            let answer = line.set(b"item:7", json, ttl, when.clone());
            assert_eq!(answer, Answer::Stored, "{when:?}");
            assert_eq!(redis.command(&["TYPE", "item:7"]), "string");
            assert_eq!(redis.command(&["GET", "item:7"]).as_bytes(), json);
            assert_pttl(&redis, "item:7", ttl);
        }
    }
    line.touch(b"item:7", HOUR);
    assert_pttl(&redis, "item:7", HOUR);
    line.take(b"rate:1", Duration::from_secs(60));
    assert_eq!(redis.command(&["GET", "rate:1"]), "1");
    assert_pttl(&redis, "rate:1", Some(Duration::from_secs(60)));

    redis.command(&["SET", "item:8", "{\"by\":\"Go\"}", "EX", "1800"]);
    assert_same(line.get(b"item:8"), b"{\"by\":\"Go\"}");
}

/// A crash between a SET and an EXPIRE would leave a key for ever: value and time travel in one command.
#[test]
fn a_plain_set_is_one_command_with_its_ttl() {
    let fake = FakeRedis::start(|command| match command[0].as_str() {
        "EVALSHA" if command[1] == scripts::SET.sha => Act::Send(b":1\r\n".to_vec()),
        "EVALSHA" => Act::Send(b"$-1\r\n".to_vec()),
        _ => Act::Usual,
    });
    let store = store_on(&fake.addr());
    let mut line = Line::open(&store);
    let half = Some(Duration::from_millis(500));
    line.set(b"item:7", b"{}", HOUR, When::Always);
    line.set(b"item:7", b"{}", half, When::Absent);
    line.set(b"item:7", b"{}", None, When::Present);
    line.touch(b"sess:7", HOUR);
    let sent: Vec<String> = fake.commands().iter().map(|c| c.join(" ")).collect();
    assert_eq!(
        sent.iter().filter(|c| *c != "PING").collect::<Vec<_>>(),
        [
            "HELLO 3 SETNAME kioskd",
            "SET item:7 {} EX 3600",
            "SET item:7 {} PX 500 NX",
            // Who keeps the time must not make a key without one: the script looks, and sets with KEEPTTL.
            &format!("EVALSHA {} 1 item:7 present  {{}} 0 keep", scripts::SET.sha),
            // A read that renews: GET and PEXPIRE in one script.
            &format!("EVALSHA {} 1 sess:7 3600000", scripts::READ.sha),
        ]
    );
}

/// It is the question behind /readyz: would a write sent here now be served? A plain PING says yes to all of these.
#[test]
fn ping_fails_where_a_write_would() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    for (trouble, cure, code) in [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "OOM"),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "NOREPLICAS",
        ),
    ] {
        redis.command(&trouble);
        assert_unavailable(&mut line, Command::Ping, code);
        redis.command(&cure);
        assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
    }
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_unavailable(&mut line, Command::Ping, "READONLY");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    // A connection that was made while it was a replica says so until it has asked again.
    eventually("a master", || line.ask(Command::Ping) == Ok(Answer::Pong));
    assert_eq!(redis.command(&["DBSIZE"]), "0", "asking leaves nothing behind");
}

/// Servers before 7.0 run our scripts without their first line, and judge memory at the first write that could need some.
/// (So does 7.0, for such scripts.) What deletes nothing leaves nothing behind there either.
#[test]
fn a_full_redis_before_7_records_no_delete_of_nothing() {
    let redis = Redis::start();
    let plain = |script: &Script| script.text.split_once('\n').expect("a first line").1;
    let run = |script: &Script, what: &str| {
        let arguments = ["2", "item:1", "idem:1", "always", "", "f", "60000", what];
        redis.command(&[&["EVAL", plain(script)][..], &arguments].concat())
    };
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = run(&scripts::DELETE, "always");
    assert!(refused.contains("OOM"), "{refused}");
    assert_eq!(run(&scripts::DELETE_WHEN_FULL, "removed"), "0");
    assert_eq!(redis.command(&["DBSIZE"]), "0");
    for (script, what) in [(&scripts::DELETE, "always"), (&scripts::DELETE_WHEN_FULL, "removed")] {
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        redis.command(&["DEL", "idem:1"]);
        redis.command(&["SET", "item:1", "{}"]);
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(run(script, what), "1");
        assert_eq!(redis.command(&["GET", "idem:1"]), "f1");
        assert_eq!(redis.command(&["EXISTS", "item:1"]), "0");
    }
}

/// A foreign key that happens to be called like the prefix of ours is nobody's to write.
#[test]
fn ping_touches_no_key_that_somebody_might_have() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    for key in ["item:", "item", "sess:", "ping"] {
        redis.command(&["SET", key, "other"]);
        assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
        assert_eq!(redis.command(&["GET", key]), "other");
    }
}

/// Somebody else's list under our key will not go away by waiting.
#[test]
fn a_key_of_another_type_is_refused() {
    let redis = Redis::start();
    redis.command(&["RPUSH", "k", "x"]);
    let mut line = Line::open(&store_on(&redis.addr()));
    for command in [
        get(b"k", None),
        get(b"k", HOUR),
        set(b"k", b"v", HOUR, When::Unchanged(b"x".into())),
        delete(b"k", When::Unchanged(b"x".into())),
        take(b"k"),
    ] {
        match line.ask(command.clone()) {
            Err(StoreError::Refused(why)) => assert!(why.contains("WRONGTYPE"), "{why}"),
            other => panic!("{command:?}: {other:?}"),
        }
    }
    assert_eq!(redis.command(&["LRANGE", "k", "0", "-1"]), "x");
    assert_eq!(line.set(b"k", b"v", HOUR, When::Present), Answer::Stored);
    assert_same(line.get(b"k"), b"v");
}

/// Reading goes on, and so does deleting: it is the way out.
#[test]
fn a_redis_out_of_memory_is_unavailable_to_writes_only() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    for key in [b"k", b"a", b"b", b"c"] {
        line.set(key, b"v", HOUR, When::Always);
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for command in writes() {
        assert_unavailable(&mut line, command, "OOM");
    }
    assert_same(line.get(b"k"), b"v");
    assert_same(line.touch(b"k", HOUR), b"v");
    assert_eq!(line.delete(b"a", When::Always), Answer::Deleted(true));
    assert_eq!(line.delete(b"b", When::Present), Answer::Deleted(true));
    let unchanged = When::Unchanged(b"v".into());
    assert_eq!(line.delete(b"c", unchanged), Answer::Deleted(true));

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(line.set(b"k", b"w", HOUR, When::Present), Answer::Stored);
}

/// A replica that was a master a moment ago. A condition judged on its old data would be a wrong answer, so whether it
/// holds there makes no difference: nothing is judged.
#[test]
fn a_read_only_replica_is_unavailable_to_everything_that_writes() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    line.set(b"k", b"v", HOUR, When::Always);
    // Of a master that is not there: it answers reads from what it has.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let stale = || When::Unchanged(b"stale".into());
    let deletes = [
        delete(b"k", When::Always),
        delete(b"k", When::Present),
        delete(b"none", When::Present),
        delete(b"k", When::Unchanged(b"v".into())),
        delete(b"k", stale()),
        set(b"k", b"w", HOUR, stale()),
        get(b"k", HOUR),
    ];
    for command in writes().into_iter().chain(deletes) {
        assert_unavailable(&mut line, command, "READONLY");
    }
    assert_same(line.get(b"k"), b"v");

    redis.command(&["REPLICAOF", "NO", "ONE"]);
    assert_same(line.get(b"k"), b"v");
    assert_eq!(line.set(b"k", b"w", HOUR, When::Present), Answer::Stored);
}

// ---- Helpers ----------------------------------------------------------------------------------

/// Runs `rule` over every store that keeps what it is given.
fn for_each_store(rule: impl Fn(&dyn Store)) {
    eprintln!("== memory");
    rule(&Memory::new(64 << 20));
    eprintln!("== redis");
    let redis = Redis::start();
    rule(&store_on(&redis.addr()));
}

/// Runs `rule` over every store there is.
fn for_every_store(rule: impl Fn(&dyn Store)) {
    eprintln!("== noop");
    rule(&Noop);
    for_each_store(rule);
}

fn store_on(address: &str) -> RedisStore {
    let endpoint = Endpoint::parse(address, 6379).expect("a host and a port");
    // Generous: what happens when a server is slow is not this suite's subject, and the machine may be.
    let options =
        Options { connect_timeout: PATIENCE, stall_timeout: PATIENCE, ..Options::default() };
    RedisStore::new(Target::Single(endpoint), options)
}

/// Every command that makes the store hold more, on a `k` that is `v`.
fn writes() -> Vec<Command> {
    vec![
        set(b"k", b"w", HOUR, When::Always),
        set(b"k", b"w", None, When::Always),
        set(b"new", b"w", HOUR, When::Absent),
        set(b"k", b"w", HOUR, When::Present),
        set(b"k", b"w", HOUR, When::Unchanged(b"v".into())),
        set(b"k", b"w", None, When::Unchanged(b"v".into())),
        take(b"rate"),
    ]
}

#[track_caller]
fn assert_unavailable(line: &mut Line, command: Command, code: &str) {
    match line.ask(command.clone()) {
        Err(StoreError::Unavailable(why)) => assert!(why.starts_with(code), "{why}"),
        other => panic!("{command:?}: {other:?}"),
    }
}

/// What is left of a key's time is at most `ttl`, and not a minute less: it was set just now.
#[track_caller]
fn assert_pttl(redis: &Redis, key: &str, ttl: Option<Duration>) {
    let ttl = ttl.expect("every key of ours has one").as_millis() as i64;
    let left: i64 = redis.command(&["PTTL", key]).parse().expect("a number");
    assert!((ttl - 59_000..=ttl).contains(&left), "{left} of {ttl} ms");
}
