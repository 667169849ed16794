//! Redis gone, frozen, wrong or strange: the client is told which, in time, and nobody has to restart kioskd.
//!
//! Store trouble is never a 404 and never a success. Deadlines are asserted by their order of magnitude: where the request
//! timeout is what is looked at it is 300 ms, and an answer after ten seconds would still mean that something else
//! answered. Elsewhere it never comes, so that a machine that is slow does not make 504 of what is 502.

use std::time::{Duration, Instant};

use crate::support::{Act, Client, FakeRedis, Kioskd, Redis, Reply, eventually, for_each_front};

const SHORT: &str = "300ms";
const LONG: &str = "30s";
/// Not much less than the timeout: a timer may fire a little early by its own rounding.
const NOT_BEFORE: Duration = Duration::from_millis(250);
const LONG_BEFORE: Duration = Duration::from_secs(10);

#[test]
fn a_stopped_redis_is_502_and_recovers() {
    for_each_front(|front| {
        let mut redis = Redis::start();
        let kioskd = start(front, &redis.addr(), LONG);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=1", "{}").status, 201);

        redis.kill();
        assert_both_fail(&mut client, 502, "store_unreachable");
        assert_not_ready(&mut client);
        assert_eq!(client.get("/livez").status, 200);

        redis.restart();
        assert_recovers(&mut client);
    });
}

#[test]
fn a_redis_that_comes_later_is_found() {
    for_each_front(|front| {
        let mut redis = Redis::start();
        redis.kill();
        let kioskd = start(front, &redis.addr(), LONG);
        let mut client = kioskd.connect();
        assert_both_fail(&mut client, 502, "store_unreachable");
        assert_not_ready(&mut client);

        redis.restart();
        assert_recovers(&mut client);
    });
}

/// Between two calls nobody looks at an attempt to connect: with one request every two seconds a thread of the plain front
/// never found a Redis that was back.
#[test]
fn few_requests_find_a_redis_that_is_back() {
    for_each_front(|front| {
        let mut redis = Redis::start();
        let settings = [
            ("FRONT", front),
            ("WORKERS", "1"),
            ("REDIS_ADDR", &*redis.addr()),
            ("REQUEST_TIMEOUT", "5s"),
        ];
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        assert_recovers(&mut client);
        redis.kill();
        for _ in 0..5 {
            assert_eq!(client.get("/readyz").status, 503);
        }
        redis.restart();
        // Longer than signing on may take, and than any wait between attempts.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(client.get("/readyz").status, 200);
        std::thread::sleep(Duration::from_millis(1500));
        assert_recovers(&mut client);
    });
}

#[test]
fn a_frozen_redis_is_504_in_time_and_recovers() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = start(front, &redis.addr(), SHORT);
        let mut client = kioskd.connect();
        eventually("a write", || client.post("/items?id=1", "{}").status == 201);

        redis.stop();
        let start = Instant::now();
        for reply in [client.get("/items?id=1"), client.post("/items?id=2", "{}")] {
            match reply.status {
                // There was no connection yet, or any more.
                502 => assert_problem(&reply, 502, "store_unreachable"),
                _ => assert_problem(&reply, 504, "store_timeout"),
            }
        }
        assert!(start.elapsed() > NOT_BEFORE * 2, "two timeouts after only {:?}", start.elapsed());
        assert!(start.elapsed() < LONG_BEFORE, "two timeouts took {:?}", start.elapsed());
        assert_not_ready(&mut client);

        redis.cont();
        assert_recovers(&mut client);
    });
}

/// One worker, so that the loop which waits for Redis is the one that has to answer the probe.
#[test]
#[cfg(feature = "poll")]
fn livez_answers_while_a_request_waits_for_a_frozen_redis() {
    let redis = Redis::start();
    let kioskd = Kioskd::start(&[
        ("FRONT", "poll"),
        ("WORKERS", "1"),
        ("REDIS_ADDR", &redis.addr()),
        ("REQUEST_TIMEOUT", "15s"),
    ]);
    let mut waiting = kioskd.connect();
    assert_eq!(waiting.post("/items?id=1", r#"{"a":1}"#).status, 201);
    redis.stop();
    waiting.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");

    let start = Instant::now();
    let mut probe = kioskd.connect();
    for _ in 0..10 {
        assert_eq!(probe.get("/livez").status, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "ten probes took {:?}", start.elapsed());

    redis.cont();
    let reply = waiting.read_response();
    assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
}

#[test]
fn a_wrong_password_is_store_error() {
    for_each_front(|front| {
        let redis = Redis::start_with(&["--requirepass", "right"]);
        let start_with = |user_info: &str| {
            let url = format!("redis://{user_info}{}/0", redis.addr());
            Kioskd::start(&[("FRONT", front), ("REDIS_URL", &url)])
        };
        for wrong in ["", ":wrong@", "default:wrong@"] {
            eprintln!("-- {wrong}");
            let kioskd = start_with(wrong);
            let mut client = kioskd.connect();
            assert_both_fail(&mut client, 502, "store_error");
            assert_not_ready(&mut client);
            assert!(
                !kioskd.log().contains(":wrong"),
                "the log tells the password:\n{}",
                kioskd.log()
            );
        }
        for right in [":right@", "default:right@"] {
            let kioskd = start_with(right);
            assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201, "{right}");
        }
    });
}

#[test]
fn an_error_reply_is_store_error() {
    for_each_front(|front| {
        let redis = Redis::start();
        // Not a string: WRONGTYPE, whichever command reads it.
        redis.command(&["LPUSH", "item:1", "x"]);
        let kioskd = start(front, &redis.addr(), LONG);
        assert_problem(&kioskd.connect().get("/items?id=1"), 502, "store_error");
        // The connection is not spoilt by it.
        assert_eq!(kioskd.connect().get("/items?id=2").status, 404);
    });
}

#[test]
fn a_redis_that_cannot_take_writes_now_is_503_with_retry_after() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = start(front, &redis.addr(), LONG);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=1", "{}").status, 201);

        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        let reply = client.post("/items?id=2", "{}");
        assert_problem(&reply, 503, "store_unavailable");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        assert_eq!(client.get("/items?id=1").status, 200, "reading needs no memory");

        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(client.post("/items?id=2", "{}").status, 201);
    });
}

#[test]
fn a_connection_broken_before_the_reply_is_never_a_success() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "SET" | "GET" | "GETEX" => Act::Close,
            _ => Act::Usual,
        });
        let kioskd = start(front, &fake.addr(), LONG);
        assert_both_fail(&mut kioskd.connect(), 502, "store_unreachable");
    });
}

#[test]
fn a_reply_in_pieces_is_one_reply() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "GET" | "GETEX" => {
                Act::Pieces(b"$7\r\n{\"a\":1}\r\n".iter().map(|&byte| vec![byte]).collect())
            }
            _ => Act::Usual,
        });
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &fake.addr())]);
        let reply = kioskd.connect().get("/items?id=1");
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
    });
}

/// After a timeout the late reply must not become the answer to somebody else's question.
#[test]
fn a_late_reply_is_nobody_elses_answer() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match command.get(1).map(String::as_str) {
            Some("item:late") => Act::Hold(b"$12\r\n{\"of\":\"late\"}\r\n".to_vec()),
            Some("item:next") => Act::Send(b"$13\r\n{\"of\":\"next\"}\r\n".to_vec()),
            _ => Act::Usual,
        });
        let kioskd = start(front, &fake.addr(), SHORT);
        let mut client = kioskd.connect();
        assert_problem(&client.get("/items?id=late"), 504, "store_timeout");
        fake.release();
        eventually("the next item to be read", || {
            let reply = client.get("/items?id=next");
            assert!(reply.status >= 500 || reply.text() == r#"{"of":"next"}"#, "{reply:?}");
            reply.status == 200
        });
    });
}

#[test]
fn bytes_that_are_no_reply_are_an_error_not_a_crash() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match command.get(1).map(String::as_str) {
            Some("item:nested") => Act::Send(b"*1\r\n".repeat(30_000)),
            Some("item:huge") => Act::Send(b"$99999999999999999\r\n".to_vec()),
            Some("item:http") => Act::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Some("item:number") => Act::Send(b":7\r\n".to_vec()),
            _ => Act::Usual,
        });
        let mut kioskd = start(front, &fake.addr(), LONG);
        let mut client = kioskd.connect();
        for id in ["nested", "huge", "http", "number"] {
            let reply = client.get(&format!("/items?id={id}"));
            assert_eq!(reply.status, 502, "{id}: {reply:?}");
            reply.problem();
        }
        eventually("a good reply after the bad ones", || {
            client.get("/items?id=none").status == 404
        });
        assert!(kioskd.is_running());
    });
}

#[test]
fn redis_is_reached_over_a_unix_socket() {
    for_each_front(|front| {
        let redis = Redis::start_with_socket();
        let url = format!("unix://{}", redis.socket().display());
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_URL", &url)]);
        assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
        assert_eq!(redis.command(&["GET", "item:1"]), "{}");
    });
}

fn start(front: &str, redis: &str, timeout: &str) -> Kioskd {
    Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", redis), ("REQUEST_TIMEOUT", timeout)])
}

#[track_caller]
fn assert_both_fail(client: &mut Client, status: u16, code: &str) {
    assert_problem(&client.post("/items?id=1", r#"{"lost":true}"#), status, code);
    assert_problem(&client.get("/items?id=1"), status, code);
}

#[track_caller]
fn assert_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.problem().0, code, "{reply:?}");
}

#[track_caller]
fn assert_not_ready(client: &mut Client) {
    let reply = client.get("/readyz");
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.text().contains("dependencies not ready"), "{reply:?}");
}

#[track_caller]
fn assert_recovers(client: &mut Client) {
    eventually("kioskd to be ready again", || client.get("/readyz").status == 200);
    eventually("a write to succeed again", || {
        client.post("/items?id=1", r#"{"back":true}"#).status == 201
    });
    eventually("a read to succeed again", || {
        client.get("/items?id=1").text() == r#"{"back":true}"#
    });
}
