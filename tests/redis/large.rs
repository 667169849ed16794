//! Large values, and what they may cost the others: Redis' memory, a connection's other commands, a place in the queue.

use crate::support::{Kioskd, Redis, eventually};
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: usize = 1024 * 1024;

fn document(bytes: usize) -> String {
    format!("{{\"x\":\"{}\"}}", "x".repeat(bytes - 8))
}

/// Reads one item with so many clients at the same moment; how many were given it.
fn read_together(kioskd: &Kioskd, path: &str, many: usize) -> usize {
    let mut clients: Vec<_> = (0..many).map(|_| kioskd.connect()).collect();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    clients.iter_mut().for_each(|client| client.send(&ask));
    let read = |client: &mut crate::support::Client| client.read_response().status;
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(move || read(client))).collect();
        readers
            .into_iter()
            .filter(|_| true)
            .map(|reader| reader.join())
            .filter(|status| matches!(status, Ok(200)))
            .count()
    })
}

fn info(redis: &Redis, section: &str, name: &str) -> u64 {
    let info = redis.command(&["INFO", section]);
    let mut lines = info.lines();
    let found =
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{info}"))
}

/// Redis holds the replies that are not read yet, and counts them: 400 readers of one document made it hold 368 MB, and
/// evict every other key.
#[test]
fn three_hundred_readers_of_one_large_document_evict_nothing() {
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    for n in 0..1000 {
        redis.command(&["SET", &format!("other:{n}"), &"y".repeat(1000)]);
    }
    // A busy machine may need more than two seconds for 300 MB.
    let time = ("REQUEST_TIMEOUT", "30s");
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr()), ("WORKERS", "2"), time]);
    assert_eq!(kioskd.connect().post("/items/1", document(1_000_000)).status, 201);
    assert_eq!(read_together(&kioskd, "/items/1", 300), 300);
    assert_eq!(info(&redis, "stats", "evicted_keys"), 0);
    // (On a busy machine it may have been replaced because Redis was silent for long.)
    assert!(!kioskd.log().contains("in flight"), "no connection was lost: {}", kioskd.log());
}

/// A client whose replies exceed this is closed by Redis, which was the end of all that it had under way.
#[test]
fn readers_of_a_large_document_stay_below_the_limit_for_one_client() {
    let redis = Redis::start_with(&["--client-output-buffer-limit", "normal 8mb 0 0"]);
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr()), ("WORKERS", "1")]);
    assert_eq!(kioskd.connect().post("/items/1", document(1_000_000)).status, 201);
    for _ in 0..3 {
        assert_eq!(read_together(&kioskd, "/items/1", 24), 24);
    }
}

/// Writes while `disturb` runs: none may fail.
fn write_meanwhile(kioskd: &Kioskd, disturb: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let (over, mut client) = (&over, kioskd.connect());
                scope.spawn(move || {
                    let mut written = 0;
                    while !over.load(Ordering::SeqCst) || written < 10 {
                        let reply = client.post(&format!("/items/w{n}"), "{}");
                        assert_eq!(reply.status, 201, "{reply:?}");
                        written += 1;
                    }
                })
            })
            .collect();
        disturb();
        over.store(true, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| writer.join().expect("every write was taken"));
    });
}

#[test]
fn a_foreign_value_of_a_hundred_megabytes_ends_nobody_elses_writes() {
    let redis = Redis::start();
    redis.command(&["SETRANGE", "item:huge", &(100 * MIB).to_string(), "x"]);
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &redis.addr()),
        ("WORKERS", "1"),
        ("REQUEST_TIMEOUT", "20s"),
    ]);
    write_meanwhile(&kioskd, || {
        let mut client = kioskd.connect();
        for _ in 0..4 {
            let reply = client.get("/items/huge");
            assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
        }
    });
    assert!(!kioskd.log().contains("commands were in flight"), "{}", kioskd.log());
}

/// A thousand keys of 20 KB are more than a reply may have: a list of them ended the connection, and what others had on
/// it. One key of more than the longest document was no key to us, and no list came past it.
#[test]
fn keys_longer_than_any_of_ours_spoil_no_list_and_end_nobody_elses_writes() {
    let redis = Redis::start();
    redis.command(&["SET", "item:ours", "{}"]);
    redis.command(&["SET", &format!("item:{}", "x".repeat(2 * MIB)), "{}"]);
    for n in 0..900 {
        redis.command(&["SET", &format!("item:{n:x<20000}"), "{}"]);
    }
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr()), ("WORKERS", "1")]);
    write_meanwhile(&kioskd, || {
        let (mut client, mut next, mut seen) = (kioskd.connect(), Some(String::new()), 0);
        while let Some(cursor) = next {
            let page = client.get(&format!("/items?limit=1000&cursor={cursor}"));
            assert_eq!(page.status, 200, "{page:?}");
            seen += page.text().matches("\"ours\"").count();
            next = page.json()["cursor"].as_str().map(str::to_owned);
        }
        assert_eq!(seen, 1);
    });
    assert!(!kioskd.log().contains("in flight"), "{}", kioskd.log());
}

#[test]
fn the_longest_key_of_ours_is_in_a_list() {
    let redis = Redis::start();
    let (prefix, id) = (format!("{}:", "p".repeat(64)), "x".repeat(512));
    let kioskd =
        Kioskd::start(&[("REDIS_ADDR", &redis.addr()), ("WORKERS", "1"), ("KEY_PREFIX", &prefix)]);
    let mut client = kioskd.connect();
    assert_eq!(client.post(&format!("/items/{id}"), "{}").status, 201);
    assert!(client.get("/items?limit=9").text().contains(&id));
}

/// `proto-max-bulk-len` is below what is taken from clients. Redis says so, and closes the connection.
#[test]
fn a_document_that_redis_does_not_read_ends_nobody_elses_writes() {
    let redis = Redis::start_with(&["--proto-max-bulk-len", "1mb"]);
    let mut kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &redis.addr()),
        ("WORKERS", "1"),
        ("MAX_BODY_BYTES", "4000000"),
        ("REQUEST_TIMEOUT", "20s"),
    ]);
    eventually("an answer", || kioskd.connect().get("/items/1").status == 404);
    write_meanwhile(&kioskd, || {
        let mut client = kioskd.connect();
        for _ in 0..4 {
            let reply = client.post("/items/long", document(2 * MIB));
            assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
        }
    });
    kioskd.wait_for_log("invalid bulk length");
    assert!(info(&redis, "stats", "total_connections_received") < 30, "not one for each");
    assert_eq!(kioskd.connect().post("/items/short", document(MIB / 2)).status, 201);
}

/// `client-query-buffer-limit`: Redis closes the connection without a word when it has read so much of one command. The
/// kernel does not take all of this one before that, so it was certain that it had not run, and it went out 16 times.
#[test]
fn a_document_at_which_redis_hangs_up_is_not_sent_without_end() {
    let redis = Redis::start_with(&["--client-query-buffer-limit", "1mb"]);
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &redis.addr()),
        ("WORKERS", "1"),
        ("MAX_BODY_BYTES", "32000000"),
        ("MAX_BUFFERED_BYTES", "256000000"),
        ("REQUEST_TIMEOUT", "20s"),
    ]);
    eventually("an answer", || kioskd.connect().get("/items/1").status == 404);
    let before = info(&redis, "stats", "total_connections_received");
    assert_eq!(kioskd.connect().post("/items/long", document(24 * MIB)).status, 502);
    // Those that `info` itself makes are among them.
    assert!(info(&redis, "stats", "total_connections_received") - before < 8);
    assert_eq!(kioskd.connect().post("/items/short", "{}").status, 201);
}
