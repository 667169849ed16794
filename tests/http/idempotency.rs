//! `Idempotency-Key`: a request takes effect once, whatever is late, reset, repeated or sent to another replica.
//!
//! ```text
//! first attempt ──▶ A ──▶ Proxy (holds it) ─ ─ ─ ─ ─ ─ ─▶ redis
//! retry ──────────▶ B ─────────────────────────────────▶ redis
//! ```
//!
//! Whether something took effect is told by what it leaves behind: a repeat that did would undo what somebody else wrote
//! since.

use kioskd::store::redis::scripts::{DELETE, SET};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    Kioskd, Proxy, Redis, Reply, Sentinels, eventually, for_each_front, for_each_service,
};

const KIND: (&str, &str) = ("Content-Type", "application/merge-patch+json");

fn send(
    kioskd: &Kioskd,
    method: &str,
    path: &str,
    key: &str,
    more: &[(&str, &str)],
    body: &str,
) -> Reply {
    let headers = [&[KIND, ("Idempotency-Key", key)], more].concat();
    kioskd.connect().request(method, path, &headers, body.as_bytes())
}

fn is_replayed(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

#[track_caller]
fn assert_fresh(reply: &Reply, status: u16) {
    assert_eq!((reply.status, is_replayed(reply)), (status, false), "{reply:?}");
}

#[track_caller]
fn assert_replayed(reply: &Reply, status: u16) {
    assert_eq!((reply.status, is_replayed(reply)), (status, true), "{reply:?}");
}

/// Every guarded write to an item that has `{"old":1}`: its body, what it is answered, and what it leaves.
const WRITES: [(&str, &str, u16, Option<&str>); 4] = [
    ("POST", r#"{"new":1}"#, 201, Some(r#"{"new":1}"#)),
    ("PUT", r#"{"new":1}"#, 204, Some(r#"{"new":1}"#)),
    ("PATCH", r#"{"new":1}"#, 200, Some(r#"{"old":1,"new":1}"#)),
    ("DELETE", "", 204, None),
];
const OLD: &str = r#"{"old":1}"#;
const OTHER: &str = r#"{"other":1}"#;

// ---- Repeats ----------------------------------------------------------------------------------

#[test]
fn a_repeat_gets_the_stored_outcome_and_changes_nothing() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (n, (method, body, status)) in [
            ("POST", r#"{"a":1}"#, 201),
            ("PUT", r#"{"a":2}"#, 204),
            ("PATCH", r#"{"b":"é"}"#, 200),
            ("DELETE", "", 204),
            ("PUT", r#"{"a":2}"#, 201),
            ("POST", r#"{"a":1}"#, 201),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("key-{n}");
            let first = send(kioskd, method, "/items/1", &key, &[], body);
            assert_fresh(&first, status);
            // Somebody else changes it: a repeat that ran would undo that.
            assert_eq!(client.post("/items/1", OTHER).status, 201);
            // The key may be written with quotes or without, and the id in any spelling.
            for (path, key) in [
                ("/items/1", key.clone()),
                ("/items?id=1", format!("\"{key}\"")),
                ("/items/%31", format!("\"{key}\";p=1")),
            ] {
                let again = send(kioskd, method, path, &key, &[], body);
                assert_replayed(&again, first.status);
                assert_eq!(again.body, first.body, "{method}");
                for name in ["etag", "location", "content-type", "cache-control"] {
                    assert_eq!(again.header(name), first.header(name), "{method}: {name}");
                }
            }
            assert_eq!(client.get("/items/1").text(), OTHER, "{method} ran again");
            if method == "DELETE" {
                client.request("DELETE", "/items/1", &[], b"");
            }
        }
    });
}

/// The largest document, patched, is in the record, too.
#[test]
fn the_outcome_of_a_patch_is_kept_whole() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let long = "x".repeat((1 << 20) - 64);
        client.post("/sess/1", format!("{{\"a\":\"{long}\"}}"));
        let first = send(kioskd, "PATCH", "/sess/1", "k", &[], "{\"b\":1}");
        assert_fresh(&first, 200);
        client.post("/sess/1", OTHER);
        let again = send(kioskd, "PATCH", "/sess/1", "k", &[], "{\"b\":1}");
        assert_replayed(&again, 200);
        assert!(again.body == first.body && again.body.len() > (1 << 20) - 64);
        assert_eq!(client.get("/sess/1").text(), OTHER);
    });
}

/// The record is looked for before any condition is judged: what held the first time is broken by what came of it.
#[test]
fn the_repeat_of_a_conditional_write_is_replayed_and_not_412() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (n, (method, body, status, _)) in WRITES.into_iter().enumerate() {
            let tag = client.post("/items/1", OLD).header("etag").unwrap().to_owned();
            for (form, condition) in
                [("If-Match", &*tag), ("If-Match", "*"), ("If-None-Match", "\"x\"")]
            {
                let key = format!("{n}{form}{}", condition.len());
                client.post("/items/1", OLD);
                let conditions = [(form, condition)];
                assert_fresh(&send(kioskd, method, "/items/1", &key, &conditions, body), status);
                for after in [None, Some(OTHER)] {
                    match after {
                        None => client.request("DELETE", "/items/1", &[], b""),
                        Some(other) => client.post("/items/1", other),
                    };
                    let again = send(kioskd, method, "/items/1", &key, &conditions, body);
                    assert_replayed(&again, status);
                }
                assert_eq!(client.get("/items/1").text(), OTHER);
            }
        }
        // Create if absent, and the retry finds it there.
        client.request("DELETE", "/items/1", &[], b"");
        let none = [("If-None-Match", "*")];
        assert_fresh(&send(kioskd, "PUT", "/items/1", "c", &none, OLD), 201);
        assert_replayed(&send(kioskd, "PUT", "/items/1", "c", &none, OLD), 201);
        // A delete on the condition that nothing is there changes nothing, and that stays so.
        client.request("DELETE", "/items/1", &[], b"");
        for (key, none) in [("d", "*"), ("e", "\"x\"")] {
            let none = [("If-None-Match", none)];
            assert_fresh(&send(kioskd, "DELETE", "/items/1", key, &none, ""), 204);
            client.post("/items/1", OTHER);
            assert_replayed(&send(kioskd, "DELETE", "/items/1", key, &none, ""), 204);
            assert_eq!(client.get("/items/1").text(), OTHER);
            client.request("DELETE", "/items/1", &[], b"");
        }
    });
}

/// A refusal changed nothing, so it has no record: whoever repeats it is judged by what is there then.
#[test]
fn what_was_refused_is_judged_anew() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let patch = || send(kioskd, "PATCH", "/items/1", "k1", &[], "{}");
        let put = || send(kioskd, "PUT", "/items/1", "k2", &[("If-Match", "*")], "{}");
        let impossible = [("If-Match", "\"a\""), ("If-None-Match", "*")];
        let never = || send(kioskd, "PUT", "/items/1", "k4", &impossible, "{}");
        assert_fresh(&patch(), 404);
        assert_fresh(&put(), 412);
        assert_fresh(&never(), 412);
        client.post("/items/1", "{}");
        assert_fresh(&patch(), 200);
        assert_fresh(&put(), 204);
        assert_fresh(&never(), 412);
        assert_replayed(&patch(), 200);
        assert_replayed(&put(), 204);
        // What the request itself did wrong is no outcome either: the same key may be used rightly.
        assert_eq!(send(kioskd, "PUT", "/items/1", "k3", &[], "oops").status, 400);
        assert_fresh(&send(kioskd, "PUT", "/items/1", "k3", &[], "{}"), 204);
    });
}

#[test]
fn another_request_on_the_item_is_422_and_another_item_has_keys_of_its_own() {
    for_each_service(&[], |kioskd| {
        assert_fresh(&send(kioskd, "POST", "/items/1", "k", &[], "{}"), 201);
        for (method, path, more, body) in [
            ("PUT", "/items/1", &[][..], "{}"),
            ("PATCH", "/items/1", &[], "{}"),
            ("DELETE", "/items/1", &[], "{}"),
            ("POST", "/items/1?ttl=5", &[], "{}"),
            ("POST", "/items/1?ttl=1800", &[], "{}"),
            ("POST", "/items/1", &[("If-Match", "*")], "{}"),
            ("POST", "/items/1", &[("If-Match", "\"x\"")], "{}"),
            ("POST", "/items/1", &[("If-None-Match", "\"x\"")], "{}"),
            ("POST", "/items/1", &[("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT")], "{}"),
            ("POST", "/items/1", &[("If-Anything", "x")], "{}"),
            // What can never hold is another request all the same.
            ("PUT", "/items/1", &[("If-Match", "*"), ("If-None-Match", "*")], "{}"),
            ("DELETE", "/items/1", &[("If-Match", "*"), ("If-None-Match", "*")], ""),
            ("POST", "/items/1", &[], "{ }"),
        ] {
            let reply = send(kioskd, method, path, "k", more, body);
            let context = format!("{method} {path} {more:?} {body}: {reply:?}");
            assert_eq!(reply.status, 422, "{context}");
            assert_eq!(reply.problem().0, "idempotency_key_reused", "{context}");
        }
        // The type of a body that is read the same way whatever it is called is no difference.
        let headers = [("Idempotency-Key", "k"), ("Content-Type", "application/json")];
        let again = kioskd.connect().request("POST", "/items/1", &headers, b"{}");
        assert_replayed(&again, 201);
        for path in ["/items/2", "/items/1%20", "/sess/1", "/items?id=sess:1"] {
            assert_fresh(&send(kioskd, "POST", path, "k", &[], "{}"), 201);
            assert_replayed(&send(kioskd, "POST", path, "k", &[], "{}"), 201);
        }
        // On what is no write of one item it means nothing, whatever it says.
        let get = kioskd.connect().request("GET", "/items/1", &[("Idempotency-Key", "\"")], b"");
        assert_eq!(get.status, 200);
    });
}

/// Braces make hash tags in a cluster; a record is in the slot of its item all the same, and its own.
#[test]
fn an_id_may_be_made_of_braces() {
    for_each_service(&[], |kioskd| {
        let ids = ["{a}b", "{a}c", "a}b", "a}c", "{}x", "}{a}", "{a", "a}", "{{a}}", "{7}", "7"];
        for id in ids {
            let path = format!("/items?id={id}").replace('{', "%7B").replace('}', "%7D");
            let body = format!("{{\"id\":\"{id}\"}}");
            assert_fresh(&send(kioskd, "PUT", &path, "{k}", &[], &body), 201);
            assert_replayed(&send(kioskd, "PUT", &path, "{k}", &[], &body), 201);
            assert_eq!(kioskd.connect().get(&path).text(), body);
        }
    });
}

#[test]
fn a_bad_key_is_400_and_changes_nothing() {
    let longest = "k".repeat(255);
    let too_long = "k".repeat(256);
    for_each_service(&[], |kioskd| {
        for bad in [
            "",
            "\"\"",
            "a\tb",
            &*too_long,
            "\"abc",
            "\"a\", \"b\"",
            "\"a\"b",
            "\"a\\b\"",
            "\"a\" x",
        ] {
            let reply = send(kioskd, "POST", "/items/1", bad, &[], "{}");
            assert_eq!(
                (reply.status, &*reply.problem().0),
                (400, "bad_idempotency_key"),
                "{bad:?}"
            );
        }
        let twice = [KIND, ("Idempotency-Key", "a"), ("Idempotency-Key", "a")];
        let reply = kioskd.connect().request("POST", "/items/1", &twice, b"{}");
        assert_eq!(reply.status, 400);
        assert_eq!(kioskd.connect().get("/items/1").status, 404);
        assert_fresh(&send(kioskd, "POST", "/items/1", &longest, &[], "{}"), 201);
    });
}

/// `é` as a client sends it, in UTF-8 or in Latin-1, is no key; `%C3%A9` is one of six characters. (tiny_http ends the
/// connection at any byte above ASCII.)
#[test]
#[cfg(feature = "poll")]
fn a_byte_above_ascii_is_no_part_of_a_key() {
    let kioskd = Kioskd::start(&[("STORE", "memory")]);
    assert_fresh(&send(&kioskd, "POST", "/items/1", "%C3%A9", &[], "{}"), 201);
    for key in [&b"\xc3\xa9"[..], b"\xe9", b"\"\xc3\xa9\""] {
        let mut client = kioskd.connect();
        let head = b"POST /items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nIdempotency-Key: ";
        client.send([head, key, b"\r\n\r\n{}"].concat());
        let reply = client.read_response();
        assert_eq!((reply.status, &*reply.problem().0), (400, "bad_idempotency_key"));
    }
}

// ---- Late, lost and at the same moment ----------------------------------------------------------

/// The retry comes first, and the first attempt when nobody waits for it any more. It finds the record of its own retry.
#[test]
fn a_first_attempt_that_comes_after_its_retry_does_nothing() {
    late(|first, retry, other| {
        assert_eq!(first.status, 504, "{first:?}");
        let retried = retry();
        assert!(!is_replayed(&retried), "{retried:?}");
        other();
        retried.status
    });
}

/// The network holds a write until its client has given up, then delivers it. The retry would undo what was written
/// since.
#[test]
fn a_first_attempt_that_arrives_in_the_end_is_not_done_again() {
    for_each_front(|front| {
        for (method, body, status, leaves) in WRITES {
            let held = Held::start(front);
            let first = held.send_and_lose(method, body);
            assert_eq!(first.status, 504, "{first:?}");
            held.proxy.release_all();
            eventually("the write to arrive", || {
                let now = held.b.connect().get("/items/1");
                leaves.map_or(now.status == 404, |document| now.text() == document)
            });
            held.b.connect().post("/items/1", OTHER);
            assert_replayed(&send(&held.b, method, "/items/1", "k", &[], body), status);
            assert_eq!(held.b.connect().get("/items/1").text(), OTHER, "{method}");
        }
    });
}

/// Two replicas of which one is behind a network that holds things back.
struct Held {
    _redis: Redis,
    proxy: Proxy,
    a: Kioskd,
    b: Kioskd,
}

impl Held {
    fn start(front: &str) -> Held {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.addr());
        let one = [("FRONT", front), ("WORKERS", "1"), ("REQUEST_TIMEOUT", "300ms")];
        let start = |addr: &str| Kioskd::start(&[&one[..], &[("REDIS_ADDR", addr)]].concat());
        let (a, b) = (start(&proxy.addr()), start(&redis.addr()));
        // The scripts are known, so that the held attempt is one command and not the question for one.
        for method in ["PUT", "PATCH", "DELETE"] {
            eventually("a write", || a.connect().post("/items/warm", OLD).status == 201);
            send(&a, method, "/items/warm", method, &[], "{}");
        }
        eventually("a write", || b.connect().post("/items/1", OLD).status == 201);
        Held { _redis: redis, proxy, a, b }
    }

    /// Its effect is held up; a PATCH has looked already.
    fn send_and_lose(&self, method: &str, body: &str) -> Reply {
        let script = if method == "DELETE" { &DELETE } else { &SET };
        self.proxy.hold_all(script.sha);
        let first = send(&self.a, method, "/items/1", "k", &[], body);
        assert!(self.proxy.has_held(), "it never left");
        first
    }
}

/// For each write on each front: `first` was held up, `retry` and `other` (somebody else's write) go past it.
fn late(in_between: impl Fn(Reply, &dyn Fn() -> Reply, &dyn Fn()) -> u16) {
    for_each_front(|front| {
        for (method, body, status, _) in WRITES {
            let held = Held::start(front);
            let first = held.send_and_lose(method, body);
            let retry = || send(&held.b, method, "/items/1", "k", &[], body);
            let other = || assert_eq!(held.b.connect().post("/items/1", OTHER).status, 201);
            assert_eq!(in_between(first, &retry, &other), status, "{method}");
            let before = held._redis.command(&["INFO", "commandstats"]);
            held.proxy.release_all();
            // When the script has run once more, the late attempt has come and found its record.
            eventually("the late attempt to arrive", || {
                held._redis.command(&["INFO", "commandstats"]) != before
                    && scripts_run(&held._redis) > scripts_in(&before)
            });
            assert_eq!(held.b.connect().get("/items/1").text(), OTHER, "{method}");
            assert_replayed(&retry(), status);
        }
    });
}

fn scripts_run(redis: &Redis) -> u64 {
    scripts_in(&redis.command(&["INFO", "commandstats"]))
}

fn scripts_in(stats: &str) -> u64 {
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(name))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    calls("cmdstat_evalsha:calls=").unwrap_or(0) + calls("cmdstat_eval:calls=").unwrap_or(0)
}

/// A client that is gone before its answer, by a reset or a close, takes nothing with it: not the effect, not the record.
#[test]
fn a_client_that_is_gone_before_its_answer_leaves_a_record_with_its_effect() {
    for_each_service(&[], |kioskd| {
        // One connection for all that is to be answered: tiny_http may strand one of many.
        let mut other = kioskd.connect();
        for round in 0..3 {
            for (method, body, status, leaves) in WRITES {
                for reset in [false, true] {
                    let key = format!("{round}{method}{reset}");
                    assert_eq!(other.post("/items/1", OLD).status, 201);
                    let mut client = kioskd.connect();
                    client.send(format!(
                        "{method} /items/1 HTTP/1.1\r\nHost: x\r\nContent-Type: {}\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
                        KIND.1,
                        body.len()
                    ));
                    match reset {
                        true => client.reset(),
                        false => drop(client),
                    }
                    // Either it was whole when the reset came and took effect, or it never was one.
                    let mut took_effect = || {
                        let now = other.get("/items/1");
                        leaves.map_or(now.status == 404, |document| now.text() == document)
                    };
                    // A wait that is too short makes the test weaker, never red.
                    let enough = Instant::now() + Duration::from_millis(50);
                    while !took_effect() && Instant::now() < enough {}
                    let effect = took_effect();
                    if effect {
                        other.post("/items/1", OTHER);
                    }
                    let headers = [KIND, ("Idempotency-Key", &*key)];
                    let retry = other.request(method, "/items/1", &headers, body.as_bytes());
                    if effect {
                        assert_replayed(&retry, status);
                        assert_eq!(other.get("/items/1").text(), OTHER, "{method}");
                    } else {
                        assert_eq!(retry.status, status, "{retry:?}");
                    }
                }
            }
        }
    });
}

/// Goal: one execution over replicas. 16 clients send the same at the same moment to two processes, `PUT` on condition
/// that nothing is there; one gives a fresh 201, and all others its replay. Nobody is told to wait.
#[test]
fn the_same_request_at_the_same_moment_on_two_replicas_takes_effect_once() {
    for_each_front(|front| {
        let redis = Redis::start();
        let settings = [("FRONT", front), ("REDIS_ADDR", &*redis.addr())];
        let replicas = [Kioskd::start(&settings), Kioskd::start(&settings)];
        for round in 0..25 {
            let (path, key) = (format!("/items/{round}"), format!("key-{round}"));
            let barrier = Barrier::new(16);
            let replies = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for n in 0..16 {
                    let (replica, barrier, replies) = (&replicas[n % 2], &barrier, &replies);
                    let (path, key) = (&path, &key);
                    scope.spawn(move || {
                        barrier.wait();
                        let none = [("If-None-Match", "*")];
                        let reply = send(replica, "PUT", path, key, &none, r#"{"a":1}"#);
                        replies.lock().unwrap().push(reply);
                    });
                }
            });
            let replies = replies.into_inner().unwrap();
            let fresh: Vec<_> = replies.iter().filter(|reply| !is_replayed(reply)).collect();
            assert_eq!(fresh.len(), 1, "{replies:?}");
            for reply in &replies {
                assert_eq!(reply.status, 201, "{reply:?}");
                assert_eq!(reply.header("etag"), fresh[0].header("etag"));
                assert_eq!(reply.header("location"), Some(&*path));
            }
        }
    });
}

/// Effect and record are replicated together, so a failover between attempt and retry changes nothing.
#[test]
#[cfg(feature = "poll")]
fn a_retry_after_a_failover_is_replayed_by_the_new_master() {
    let group = Sentinels::start();
    let kioskd = Kioskd::start(&[("REDIS_URL", &group.url())]);
    for (method, body, status, _) in WRITES {
        let path = format!("/items/{method}");
        kioskd.connect().post(&path, OLD);
        assert_fresh(&send(&kioskd, method, &path, "k", &[], body), status);
        kioskd.connect().post(&path, OTHER);
    }
    // The replica has all of it: Redis itself may lose what it has not.
    let offset = |n: usize| {
        let said = group.servers[n].command(&["INFO", "replication"]);
        let field = |line: &str| line.strip_prefix("master_repl_offset:").map(str::to_owned);
        said.lines().find_map(|line| field(line.trim_end()))
    };
    eventually("the replica to have it all", || offset(0) == offset(1));
    let switch = group.watch();
    group.ask(0, &["SENTINEL", "FAILOVER", "kiosk"]);
    switch.wait();
    for (method, body, status, _) in WRITES {
        let path = format!("/items/{method}");
        let mut reply = send(&kioskd, method, &path, "k", &[], body);
        eventually("the new master to serve", || {
            reply = send(&kioskd, method, &path, "k", &[], body);
            reply.status < 500
        });
        assert_replayed(&reply, status);
        assert_eq!(kioskd.connect().get(&path).text(), OTHER, "{method}");
    }
}

// ---- Records ----------------------------------------------------------------------------------

#[test]
fn a_record_is_kept_for_the_idempotency_ttl_in_its_items_slot() {
    for (setting, ms) in [(None, 86_400_000), (Some("1h"), 3_600_000)] {
        let redis = Redis::start();
        let addr = redis.addr();
        let mut settings = vec![("REDIS_ADDR", &*addr)];
        settings.extend(setting.map(|ttl| ("IDEMPOTENCY_TTL", ttl)));
        let kioskd = Kioskd::start(&settings);
        for (path, record) in [
            ("/items/1", "idem:{item:1}::k"),
            ("/sess/1", "idem:{sess:1}::k"),
            ("/items/%7Ba%7Db", "idem:{a}::k\nitem:{a}b"),
        ] {
            assert_fresh(&send(&kioskd, "POST", path, "k", &[], "{}"), 201);
            let left: i64 = redis.command(&["PTTL", record]).parse().unwrap();
            assert!((ms - 10_000..=ms).contains(&left), "{record}: {left}");
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_502_and_nothing_runs() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        kioskd.connect().post("/items/1", OLD);
        let record = "idem:{item:1}::k";
        let hex = "0".repeat(32);
        for set in [
            &["SET", record, ""][..],
            &["SET", record, "nonsense"],
            &["SET", record, &format!("{hex}2")],
            &["SET", record, &format!("{hex}\n201\n\n\n\n")],
            &["RPUSH", record, "x"],
            &["HSET", record, "a", "b"],
        ] {
            redis.command(&["DEL", record]);
            redis.command(set);
            for (method, body, _, _) in WRITES {
                for condition in ["*", "\"x\""] {
                    let reply =
                        send(&kioskd, method, "/items/1", "k", &[("If-Match", condition)], body);
                    let found = (reply.status, &*reply.problem().0);
                    assert_eq!(found, (502, "store_error"), "{set:?} {method}");
                }
            }
            assert_eq!(kioskd.connect().get("/items/1").text(), OLD);
        }
    });
}

/// What failed has no record: the retry is the first that takes effect.
#[test]
fn a_write_that_the_store_refused_has_no_record() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["LPUSH", "item:1", "x"]);
        let reply = send(&kioskd, "PATCH", "/items/1", "k", &[], r#"{"a":1}"#);
        assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
        redis.command(&["DEL", "item:1"]);
        assert_eq!(redis.command(&["DBSIZE"]), "0");
        redis.command(&["SET", "item:1", "{}", "EX", "60"]);
        assert_fresh(&send(&kioskd, "PATCH", "/items/1", "k", &[], r#"{"a":1}"#), 200);

        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        for (method, body) in [("POST", "{}"), ("PUT", "{}"), ("PATCH", "{}")] {
            let reply = send(&kioskd, method, "/items/1", "full", &[], body);
            let found = (reply.status, &*reply.problem().0, reply.header("retry-after"));
            assert_eq!(found, (503, "store_unavailable", Some("1")), "{method}");
        }
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_fresh(&send(&kioskd, "PUT", "/items/1", "full", &[], "{}"), 204);
    });
}

/// A full Redis refuses a write before it is looked at, and yet a retry of one that was done is told so.
#[test]
fn a_full_redis_knows_what_was_done_before() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        for (method, body, _, _) in WRITES {
            let path = format!("/items/{method}");
            kioskd.connect().post(&path, OLD);
            for (n, conditions) in [&[][..], &[("If-Match", "*")]].into_iter().enumerate() {
                kioskd.connect().post(&path, OLD);
                let key = n.to_string();
                let first = send(&kioskd, method, &path, &key, conditions, body);
                redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
                let again = send(&kioskd, method, &path, &key, conditions, body);
                assert_replayed(&again, first.status);
                let another = send(&kioskd, method, &path, &key, conditions, r#"{"another":1}"#);
                assert_eq!(another.status, 422, "{method}: {another:?}");
                redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
            }
        }
    });
}

/// A full store stops no DELETE. There it is recorded only if it removed something: what removes nothing can be sent for
/// ever, and each would take more of the room that is not there.
#[test]
fn a_full_redis_lets_a_guarded_delete_through() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        for id in ["plain", "tag", "gone"] {
            client.post(&format!("/items/{id}"), OLD);
        }
        let tag = client.get("/items/tag").header("etag").unwrap().to_owned();
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        for (path, conditions) in
            [("/items/plain", &[][..]), ("/items/tag", &[("If-Match", &*tag)])]
        {
            assert_fresh(&send(&kioskd, "DELETE", path, "k", conditions, ""), 204);
            assert_eq!(client.get(path).status, 404);
            assert_replayed(&send(&kioskd, "DELETE", path, "k", conditions, ""), 204);
        }
        assert_eq!(redis.command(&["DBSIZE"]), "3", "two records and one item");
        for n in 0..20 {
            let reply = send(&kioskd, "DELETE", "/items/none", &format!("n{n}"), &[], "");
            assert_fresh(&reply, 204);
        }
        assert_eq!(redis.command(&["DBSIZE"]), "3", "nothing was removed, nothing recorded");
        let reply = send(&kioskd, "DELETE", "/items/none", "k", &[("If-Match", "*")], "");
        assert_fresh(&reply, 412);
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_fresh(&send(&kioskd, "DELETE", "/items/none", "n0", &[], ""), 204);
        assert_replayed(&send(&kioskd, "DELETE", "/items/none", "n0", &[], ""), 204);
    });
}

#[test]
fn a_full_memory_store_lets_a_guarded_delete_through() {
    for_each_front(|front| {
        let settings = [("FRONT", front), ("STORE", "memory"), ("MEMORY_MAX_BYTES", "4000")];
        let settings = [&settings[..], &[("MAX_BODY_BYTES", "1000")]].concat();
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        let mut ids = 0;
        while client.post(&format!("/items/{ids}"), "{}").status == 201 {
            ids += 1;
        }
        for id in 0..ids {
            let path = format!("/items/{id}");
            assert_fresh(&send(&kioskd, "DELETE", &path, "k", &[], ""), 204);
            assert_eq!(client.get(&path).status, 404);
            assert_replayed(&send(&kioskd, "DELETE", &path, "k", &[], ""), 204);
        }
        for n in 0..100 {
            let reply = send(&kioskd, "DELETE", "/items/none", &format!("n{n}"), &[], "");
            assert_fresh(&reply, 204);
        }
        assert_replayed(&send(&kioskd, "DELETE", "/items/0", "k", &[], ""), 204);
    });
}
