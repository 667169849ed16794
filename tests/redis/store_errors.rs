//! Every row of docs/api.md's table of store trouble, from a real cause, for every verb: what `store_down.rs` has for
//! reading and writing one item, here for the rest of the contract (conditions, patches, keys, lists, bulk reads) and
//! the causes that are missing there: read-only, cut off from its master, loading, busy, not permitted, not a string,
//! full.

use crate::support::{Act, FakeRedis, Kioskd, Redis, Reply, eventually, for_each_front};

const KIND: (&str, &str) = ("Content-Type", "application/merge-patch+json");

/// As [`ask_everything`], of a store that refuses. What it refuses may be tried again until the deadline, and on a slow
/// machine the last try may be without an answer then: 504, and the request says nothing and is made again.
fn ask_of_one_that_refuses(kioskd: &Kioskd) -> Vec<(String, bool, Reply)> {
    let mut replies = Vec::new();
    eventually("every request to be answered by the store", || {
        replies = ask_everything(kioskd);
        replies.iter().all(|(_, _, reply)| reply.status != 504)
    });
    replies
}

/// A request of every kind that asks the store: name, and whether it writes.
fn ask_everything(kioskd: &Kioskd) -> Vec<(String, bool, Reply)> {
    let key = [("Idempotency-Key", "k")];
    let any = [("If-Match", "*")];
    let tag = [("If-Match", "\"x\"")];
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, bool);
    let rows: [Row; 14] = [
        ("GET", "/items/1", &[], "", false),
        ("GET", "/items?limit=5", &[], "", false),
        ("POST", "/items/_get", &[], r#"{"ids":["1","2"]}"#, false),
        ("POST", "/items/1", &[], "{}", true),
        ("PUT", "/items/1", &[], "{}", true),
        ("PUT", "/items/1", &any, "{}", true),
        ("PUT", "/items/1", &[("If-None-Match", "*")], "{}", true),
        ("DELETE", "/items/1", &[], "", true),
        ("DELETE", "/items/1", &any, "", true),
        ("POST", "/sess/1", &[], "{}", true),
        ("POST", "/items/1", &key, "{}", true),
        ("DELETE", "/items/1", &key, "", true),
        ("GET", "/items/1", &tag, "", false),
        ("PATCH", "/items/1", &[], "{}", true),
    ];
    // Together, because most of them are waited for until the deadline; each with a connection that ends, because tiny_http
    // may strand one behind another.
    let ask = |(method, path, headers, body, writes): Row| {
        let headers = [&[KIND, ("Connection", "close")], headers].concat();
        let reply = kioskd.connect().request(method, path, &headers, body.as_bytes());
        (format!("{method} {path} {headers:?}"), writes, reply)
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = rows.into_iter().map(|row| scope.spawn(move || ask(row))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}

#[track_caller]
fn assert_trouble(reply: &Reply, status: u16, code: &str, name: &str) {
    assert_eq!((reply.status, &*reply.problem().0), (status, code), "{name}: {reply:?}");
    assert_eq!(reply.header("retry-after").is_some(), status == 503, "{name}: {reply:?}");
    assert!(reply.problem().1.starts_with("store error"), "{name}: {reply:?}");
}

#[test]
fn a_stopped_and_a_frozen_redis_are_502_and_504_for_every_request() {
    for_each_front(|front| {
        let mut redis = Redis::start();
        let kioskd = start(front, &redis.addr(), "300ms");
        eventually("an answer", || kioskd.connect().get("/items/1").status == 404);
        redis.stop();
        for (name, _, reply) in ask_everything(&kioskd) {
            match reply.status {
                // On a thread that had no connection yet, it was not sent.
                502 => assert_trouble(&reply, 502, "store_unreachable", &name),
                _ => assert_trouble(&reply, 504, "store_timeout", &name),
            }
        }
        redis.kill();
        // Another one: the first still waits, between two attempts, for the connection it lost.
        let kioskd = start(front, &redis.addr(), "30s");
        for (name, _, reply) in ask_everything(&kioskd) {
            assert_trouble(&reply, 502, "store_unreachable", &name);
        }
    });
}

#[test]
fn a_read_only_redis_is_503_for_writes_and_serves_reads() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["SET", "item:1", "{}", "EX", "600"]);
        // A replica of nobody: port 1 refuses.
        redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
        for (name, writes, reply) in ask_of_one_that_refuses(&kioskd) {
            match writes {
                true => assert_trouble(&reply, 503, "store_unavailable", &name),
                false => assert!([200, 412].contains(&reply.status), "{name}: {reply:?}"),
            }
        }
        redis.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
        for (name, _, reply) in ask_of_one_that_refuses(&kioskd) {
            assert_trouble(&reply, 503, "store_unavailable", &name);
        }
        redis.command(&["REPLICAOF", "NO", "ONE"]);
        eventually("writes again", || kioskd.connect().post("/items/1", "{}").status == 201);
    });
}

#[test]
fn a_redis_that_is_loading_or_busy_is_503() {
    for_each_front(|front| {
        for error in [
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
        ] {
            let fake = FakeRedis::start(move |command| match &*command[0] {
                "GET" | "GETEX" | "SET" | "DEL" | "EVAL" | "EVALSHA" => {
                    Act::Send(format!("-{error}\r\n").into_bytes())
                }
                _ => Act::Usual,
            });
            // The default timeout: with less, a request may end while its connection waits for
            // the next attempt, and nobody knows then what the server would have said.
            let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &fake.addr())]);
            for (name, _, reply) in ask_of_one_that_refuses(&kioskd) {
                assert_trouble(&reply, 503, "store_unavailable", &format!("{error}: {name}"));
            }
        }
    });
}

#[test]
fn what_redis_does_not_permit_is_store_error() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = start(front, &redis.addr(), "30s");
        redis.command(&[
            "ACL", "SETUSER", "default", "-get", "-getex", "-set", "-del", "-eval", "-evalsha",
        ]);
        for (name, _, reply) in ask_of_one_that_refuses(&kioskd) {
            assert_trouble(&reply, 502, "store_error", &name);
        }
    });
}

#[test]
fn a_key_that_is_no_string_or_no_document_is_store_error_and_can_be_replaced() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = start(front, &redis.addr(), "30s");
        let mut client = kioskd.connect();
        redis.command(&["LPUSH", "item:1", "x"]);
        for (method, headers) in [
            ("GET", &[KIND][..]),
            ("PATCH", &[KIND]),
            ("PUT", &[KIND, ("If-Match", "\"x\"")]),
            ("DELETE", &[KIND, ("If-Match", "\"x\"")]),
        ] {
            let reply = client.request(method, "/items/1", headers, b"{}");
            assert_trouble(&reply, 502, "store_error", method);
        }
        // Whoever writes without asking what was there gets what they want.
        assert_eq!(client.post("/items/1", "{}").status, 201);
        redis.command(&["SET", "item:1", "oops", "EX", "60"]);
        let reply = client.request("PATCH", "/items/1", &[KIND], b"{}");
        assert_trouble(&reply, 502, "store_error", "PATCH of what is no document");
        assert_eq!(client.request("DELETE", "/items/1", &[], b"").status, 204);
    });
}

#[test]
fn a_full_memory_store_is_507_and_still_deletes() {
    for_each_front(|front| {
        let settings = [("FRONT", front), ("STORE", "memory"), ("MEMORY_MAX_BYTES", "8192")];
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/1", r#"{"a":1}"#).status, 201);
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(5000));
        assert_eq!(client.post("/items/3", &large).status, 201);
        for (method, path) in
            [("POST", "/items/2"), ("PUT", "/items/1"), ("PATCH", "/items/1"), ("POST", "/sess/1")]
        {
            let reply = client.request(method, path, &[KIND], large.as_bytes());
            assert_trouble(&reply, 507, "store_full", method);
        }
        assert_eq!(client.get("/items/1").text(), r#"{"a":1}"#, "a refused write changes nothing");
        assert_eq!(client.request("DELETE", "/items/1", &[], b"").status, 204);
        assert_eq!(client.post("/items/1", "{}").status, 201);
    });
}

/// With `volatile-ttl`, which stood there, no write was ever refused, and what had been acknowledged turned into 404.
#[test]
fn the_redis_of_compose_refuses_rather_than_lose_what_was_acknowledged() {
    let written = include_str!("../../deploy/compose.yaml");
    let (_, command) =
        written.split_once("command: [redis-server, ").expect("compose starts a redis-server");
    let (command, _) = command.split_once(']').expect("a list on one line");
    let options = command.split(", ").map(|word| word.trim_matches('"')).collect::<Vec<_>>();
    for_each_front(|front| {
        let redis = Redis::start_with(&options);
        // Full sooner than with the quarter of a gigabyte of the file.
        redis.command(&["CONFIG", "SET", "maxmemory", "8mb"]);
        let kioskd = start(front, &redis.addr(), "30s");
        let mut client = kioskd.connect();
        assert_eq!(client.post("/sess/s", "{}").status, 201);
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(100_000));
        let mut acknowledged = 0;
        let refused = loop {
            let reply = client.post(&format!("/items/{acknowledged}"), &large);
            if reply.status != 201 {
                break reply;
            }
            acknowledged += 1;
            assert!(acknowledged < 1000, "8 MB hold no 100 MB");
        };
        assert_trouble(&refused, 503, "store_unavailable", "a full Redis");
        assert!(acknowledged > 10, "{acknowledged}");
        for id in 0..acknowledged {
            let reply = client.request("HEAD", &format!("/items/{id}"), &[], b"");
            assert_eq!(reply.status, 200, "item {id} of {acknowledged}");
        }
        assert_eq!(client.get("/sess/s").status, 200);
        // More than one, because Redis counts its clients' buffers too.
        for id in 0..10 {
            let reply = client.request("DELETE", &format!("/items/{id}"), &[], b"");
            assert_eq!(reply.status, 204);
        }
        assert_eq!(client.post("/items/0", &large).status, 201);
        let stats = redis.command(&["INFO", "stats"]);
        assert!(stats.contains("evicted_keys:0"), "{stats}");
    });
}

fn start(front: &str, redis: &str, timeout: &str) -> Kioskd {
    Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", redis), ("REQUEST_TIMEOUT", timeout)])
}
