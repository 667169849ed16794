//! `Idempotency-Key` over two processes and one Redis: a request that arrives twice runs once.
//!
//! Whether something ran is told by what it leaves behind: a repeat that ran would undo what somebody else wrote since, and
//! a second `PUT` on the condition that nothing is there would be 412.

mod support;

use std::sync::{Barrier, Mutex};

use support::{Act, FakeRedis, Kioskd, Redis, Reply, eventually, for_each_front, for_each_service};

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
    kioskd
        .connect()
        .request(method, path, &headers, body.as_bytes())
}

fn is_replayed(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

#[test]
fn a_repeat_gets_the_stored_outcome_and_runs_nothing() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (n, (method, body, status)) in [
            ("POST", r#"{"a":1}"#, 201),
            ("PUT", r#"{"a":2}"#, 204),
            ("PATCH", r#"{"b":"é"}"#, 200),
            ("DELETE", "", 204),
            ("PUT", r#"{"a":2}"#, 201),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("key-{n}");
            let first = send(kioskd, method, "/items/1", &key, &[], body);
            assert_eq!(
                (first.status, is_replayed(&first)),
                (status, false),
                "{first:?}"
            );
            // Somebody else changes it: a repeat that ran would undo that.
            assert_eq!(client.post("/items/1", r#"{"other":1}"#).status, 201);
            // The key may be written with quotes or without.
            for key in [key.clone(), format!("\"{key}\"")] {
                let again = send(kioskd, method, "/items/1", &key, &[], body);
                assert!(is_replayed(&again), "{method}: {again:?}");
                assert_eq!((again.status, &again.body), (first.status, &first.body));
                for name in ["etag", "location", "content-type", "cache-control"] {
                    assert_eq!(again.header(name), first.header(name), "{method}: {name}");
                }
            }
            assert_eq!(
                client.get("/items/1").text(),
                r#"{"other":1}"#,
                "{method} ran again"
            );
            if method == "DELETE" {
                client.request("DELETE", "/items/1", &[], b"");
            }
        }
    });
}

#[test]
fn a_refusal_that_the_state_decided_is_replayed_too() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let first = send(kioskd, "PATCH", "/items/1", "k1", &[], "{}");
        assert_eq!((first.status, is_replayed(&first)), (404, false));
        let first = send(kioskd, "PUT", "/items/1", "k2", &[("If-Match", "*")], "{}");
        assert_eq!((first.status, is_replayed(&first)), (412, false));
        client.post("/items/1", "{}");
        let again = send(kioskd, "PATCH", "/items/1", "k1", &[], "{}");
        assert_eq!(
            (again.status, is_replayed(&again)),
            (404, true),
            "{again:?}"
        );
        let again = send(kioskd, "PUT", "/items/1", "k2", &[("If-Match", "*")], "{}");
        assert_eq!(
            (again.status, is_replayed(&again)),
            (412, true),
            "{again:?}"
        );
        again.problem();
        // What the request itself did wrong is no outcome: the same key may be used rightly.
        assert_eq!(
            send(kioskd, "PUT", "/items/1", "k3", &[], "oops").status,
            400
        );
        assert_eq!(send(kioskd, "PUT", "/items/1", "k3", &[], "{}").status, 204);
    });
}

#[test]
fn a_different_request_with_the_same_key_is_422() {
    for_each_service(&[], |kioskd| {
        assert_eq!(send(kioskd, "POST", "/items/1", "k", &[], "{}").status, 201);
        for (method, path, more, body) in [
            ("PUT", "/items/1", &[][..], "{}"),
            ("POST", "/items/2", &[], "{}"),
            ("POST", "/items/1?ttl=5", &[], "{}"),
            ("POST", "/sess/1", &[], "{}"),
            ("POST", "/items/1", &[("If-Match", "*")], "{}"),
            ("POST", "/items/1", &[], "{ }"),
        ] {
            let reply = send(kioskd, method, path, "k", more, body);
            let context = format!("{method} {path} {body}: {reply:?}");
            assert_eq!(reply.status, 422, "{context}");
            assert_eq!(reply.problem().0, "idempotency_key_reused", "{context}");
        }
        assert_eq!(kioskd.connect().get("/items/2").status, 404);
    });
}

#[test]
fn a_bad_key_is_400_and_runs_nothing() {
    let longest = "k".repeat(255);
    let too_long = "k".repeat(256);
    for_each_service(&[], |kioskd| {
        for bad in ["", "\"\"", "a\tb", &*too_long] {
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
        assert_eq!(
            send(kioskd, "POST", "/items/1", &longest, &[], "{}").status,
            201
        );
    });
}

/// Goal: one execution over replicas. 16 clients send the same at the same moment to two processes, `PUT` on condition
/// that nothing is there; the first gives 201, and a second execution would give 412 to somebody.
#[test]
fn the_same_request_at_the_same_moment_on_two_replicas_runs_once() {
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
            let fresh = |reply: &&Reply| reply.status == 201 && !is_replayed(reply);
            let first: Vec<_> = replies.iter().filter(fresh).collect();
            assert_eq!(first.len(), 1, "{replies:?}");
            for reply in &replies {
                match reply.status {
                    201 => {
                        assert_eq!(reply.header("etag"), first[0].header("etag"));
                        assert_eq!(reply.header("location"), Some(&*path));
                    }
                    409 => {
                        assert_eq!(reply.problem().0, "idempotency_key_in_use");
                        assert_eq!(reply.header("retry-after"), Some("1"));
                    }
                    _ => panic!("{reply:?}"),
                }
            }
            // Who was told to come back gets the outcome.
            let none = [("If-None-Match", "*")];
            let late = send(&replicas[1], "PUT", &path, &key, &none, r#"{"a":1}"#);
            assert_eq!((late.status, is_replayed(&late)), (201, true), "{late:?}");
        }
    });
}

#[test]
fn an_outcome_is_kept_for_the_idempotency_ttl() {
    for (setting, ms) in [(None, 86_400_000), (Some("1h"), 3_600_000)] {
        let redis = Redis::start();
        let addr = redis.addr();
        let mut settings = vec![("REDIS_ADDR", &*addr)];
        settings.extend(setting.map(|ttl| ("IDEMPOTENCY_TTL", ttl)));
        let kioskd = Kioskd::start(&settings);
        assert_eq!(
            send(&kioskd, "POST", "/items/1", "k", &[], "{}").status,
            201
        );
        let left: i64 = redis.command(&["PTTL", "idem:k"]).parse().unwrap();
        assert!((ms - 10_000..=ms).contains(&left), "{left}");
    }
}

/// A replica that died while it held the key: the claim is there, and nobody will ever record an outcome.
#[test]
fn the_claim_of_a_dead_replica_ends_within_the_request_timeout() {
    for_each_front(|front| {
        let redis = Redis::start();
        let addr = redis.addr();
        let settings = [
            ("FRONT", front),
            ("REDIS_ADDR", &*addr),
            ("REQUEST_TIMEOUT", "1s"),
        ];
        let (mut dead, alive) = (Kioskd::start(&settings), Kioskd::start(&settings));
        // Killed with a request on its way; where it dies is chance.
        let mut client = dead.connect();
        for n in 0..=500 {
            let request = format!(
                "POST /items/{n} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k{n}\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            client.send(&request);
            if n == 500 {
                dead.signal("KILL");
                break;
            }
            assert_eq!(client.read_response().status, 201);
        }
        dead.wait_exit();
        // Dead at any point of it: before the claim, between claim and outcome, or after. In each case a claim has an
        // end, and the repeat gets through.
        let left: i64 = redis.command(&["PTTL", "idem:k500"]).parse().unwrap();
        assert!(left != -1, "a claim without an end");
        eventually("the repeat to be served", || {
            let request = [("Idempotency-Key", "k500")];
            let reply = alive
                .connect()
                .request("POST", "/items/500", &request, b"{}");
            assert!([201, 409].contains(&reply.status), "{reply:?}");
            reply.status == 201
        });

        // The middle of it for certain: the claim of exactly this request, as a replica leaves it.
        let request = [("Idempotency-Key", "k500")];
        let record = redis.command(&["GET", "idem:k500"]);
        // A claim is the record's first line.
        let (claim, _) = record.split_once('\n').expect("a record has lines");
        redis.command(&["SET", "idem:k500", &format!("{claim}\n"), "PX", "1000"]);
        let reply = alive
            .connect()
            .request("POST", "/items/500", &request, b"{}");
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (409, Some("1")),
            "{reply:?}"
        );
        eventually("the claim to end", || {
            let reply = alive
                .connect()
                .request("POST", "/items/500", &request, b"{}");
            reply.status == 201 && !is_replayed(&reply)
        });
    });
}

/// The claim is a `SET NX` with the request timeout as its time, and a server error gives the key free.
#[test]
fn a_claim_has_the_request_timeout_and_a_server_error_is_not_stored() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["LPUSH", "item:1", "x"]);
        let reply = send(&kioskd, "PATCH", "/items/1", "k", &[], r#"{"a":1}"#);
        assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
        assert_eq!(
            redis.command(&["EXISTS", "idem:k"]),
            "0",
            "the key is free again"
        );
        redis.command(&["DEL", "item:1"]);
        redis.command(&["SET", "item:1", "{}", "EX", "60"]);
        let reply = send(&kioskd, "PATCH", "/items/1", "k", &[], r#"{"a":1}"#);
        assert_eq!(
            (reply.status, is_replayed(&reply)),
            (200, false),
            "{reply:?}"
        );

        let fake = FakeRedis::start(|command| match command.get(1).map(String::as_str) {
            Some("item:1") => Act::Silence,
            _ => Act::Usual,
        });
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &fake.addr()),
            ("REQUEST_TIMEOUT", "300ms"),
        ]);
        let reply = send(&kioskd, "POST", "/items/1", "k", &[], "{}");
        assert_eq!((reply.status, &*reply.problem().0), (504, "store_timeout"));
        let claim = fake
            .commands()
            .into_iter()
            .find(|c| c.get(1).is_some_and(|k| k == "idem:k"));
        let claim = claim.expect("the key was claimed");
        assert_eq!(
            (&*claim[0], &claim[3..]),
            ("SET", &["PX", "300", "NX"].map(String::from)[..])
        );
    });
}
