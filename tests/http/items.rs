//! Items and sessions as docs/api.md has them: verbs, documents, conditions, concurrency, and two replicas on one
//! Redis.
//!
//! What the fronts do with bytes is in `contract.rs` and the suites beside it; here a request is taken for granted, and
//! what it means is looked at, on both fronts, on the memory store and on Redis. With `BY_HAND=1` in the environment the
//! random documents are 10,000 instead of 500 for each service, the rounds of the 32 writers 1,000 instead of 50, and the
//! patches of each of sixteen clients 100 instead of 25.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use crate::support::{
    Act, Client, FakeRedis, Kioskd, Redis, Reply, eventually, for_each_front, for_each_service,
};

// ---- Verbs ------------------------------------------------------------------------------------

const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const MERGE_PATCH: (&str, &str) = ("Content-Type", "application/merge-patch+json");

/// The table of verbs, in both path forms of both collections. A row is a step of one story.
#[test]
fn each_verb_answers_as_the_contract_says() {
    struct Row {
        method: &'static str,
        body: &'static str,
        status: u16,
        /// What GET gives afterwards.
        then: Option<&'static str>,
    }
    let row = |method, body, status, then| Row { method, body, status, then };
    let story = [
        row("GET", "", 404, None),
        row("HEAD", "", 404, None),
        row("DELETE", "", 204, None),
        row("PATCH", r#"{"a":1}"#, 404, None),
        row("PUT", r#"{"a":1}"#, 201, Some(r#"{"a":1}"#)),
        row("PUT", r#"{"a":2}"#, 204, Some(r#"{"a":2}"#)),
        row("POST", r#"{"a":3}"#, 201, Some(r#"{"a":3}"#)),
        row("PATCH", r#"{"b":4}"#, 200, Some(r#"{"a":3,"b":4}"#)),
        row("GET", "", 200, Some(r#"{"a":3,"b":4}"#)),
        row("HEAD", "", 200, Some(r#"{"a":3,"b":4}"#)),
        row("POST", "[]", 400, Some(r#"{"a":3,"b":4}"#)),
        row("PUT", "{} x", 400, Some(r#"{"a":3,"b":4}"#)),
        row("PATCH", "null", 400, Some(r#"{"a":3,"b":4}"#)),
        row("TRACE", "", 405, Some(r#"{"a":3,"b":4}"#)),
        row("BREW", "", 501, Some(r#"{"a":3,"b":4}"#)),
        row("DELETE", "", 204, None),
        row("DELETE", "", 204, None),
        row("POST", "{}", 201, Some("{}")),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (path, location) in [
            ("/items?id=a", "/items/a"),
            ("/items/b", "/items/b"),
            ("/sess?sid=a", "/sess/a"),
            ("/sess/b", "/sess/b"),
        ] {
            for (step, row) in story.iter().enumerate() {
                let headers = [MERGE_PATCH];
                let reply = client.request(row.method, path, &headers, row.body.as_bytes());
                let context = format!("step {step}: {} {path}: {reply:?}", row.method);
                assert_eq!(reply.status, row.status, "{context}");
                match row.status {
                    201 => assert_eq!(reply.header("location"), Some(location), "{context}"),
                    405 => assert_eq!(reply.header("allow"), Some(ALLOW), "{context}"),
                    _ => {}
                }
                let (status, text) = row.then.map_or((404, ""), |text| (200, text));
                let now = client.get(path);
                assert_eq!(now.status, status, "after {context}");
                if status == 200 {
                    assert_eq!(now.text(), text, "after {context}");
                    assert_eq!(now.header("content-type"), Some("application/json"));
                    assert_eq!(now.header("cache-control"), Some("no-store"));
                    // A write gives the tag that a read will give.
                    if reply.status < 300 && reply.header("etag").is_some() {
                        assert_eq!(reply.header("etag"), now.header("etag"), "{context}");
                    }
                    let changes = ["POST", "PUT", "PATCH"].contains(&row.method);
                    assert!(!changes || reply.status >= 300 || reply.header("etag").is_some());
                }
            }
            let options = client.request("OPTIONS", path, &[], b"");
            assert_eq!((options.status, options.header("allow")), (204, Some(ALLOW)));
        }
        let bulk = client.request("GET", "/items/_get", &[], b"");
        assert_eq!((bulk.status, bulk.header("allow")), (405, Some("POST, OPTIONS")));
    });
}

#[test]
fn patch_takes_merge_patches_only() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/items/1", "{}");
        let taken = Some("application/merge-patch+json, application/json");
        let others: [&[&str]; 8] = [
            &[],
            &[""],
            &["text/plain"],
            &["application/json-patch+json"],
            &["application/x-www-form-urlencoded"],
            &["application/jsonx"],
            &["application/json, application/json"],
            // Two of them are none.
            &["application/json", "text/plain"],
        ];
        for kinds in others {
            let kinds: Vec<_> = kinds.iter().map(|kind| ("Content-Type", *kind)).collect();
            for path in ["/items/1", "/sess/1"] {
                let reply = client.request("PATCH", path, &kinds, b"{}");
                assert_eq!(
                    (reply.status, &*reply.problem().0),
                    (415, "unsupported_media_type"),
                    "{kinds:?}"
                );
                assert_eq!(reply.header("accept-patch"), taken, "{reply:?}");
            }
        }
        for kind in [
            "Application/Merge-Patch+JSON",
            "application/merge-patch+json; charset=utf-8",
            "application/json",
            "Application/JSON;charset=utf-8",
        ] {
            let reply = client.request("PATCH", "/items/1", &[("Content-Type", kind)], b"{}");
            assert_eq!(reply.status, 200, "{kind}");
        }
        for (path, taken) in [
            ("/items", taken),
            ("/items/1", taken),
            ("/sess?sid=1", taken),
            ("*", taken),
            ("/items/_get", None),
            ("/livez", None),
        ] {
            let reply = client.request("OPTIONS", path, &[], b"");
            assert_eq!(reply.header("accept-patch"), taken, "{path}: {reply:?}");
        }
    });
}

#[test]
fn a_patch_that_grows_a_document_beyond_the_limit_is_413_and_changes_nothing() {
    for_each_service(&[("MAX_BODY_BYTES", "50")], |kioskd| {
        let mut client = kioskd.connect();
        let old = format!(r#"{{"a":"{}"}}"#, "x".repeat(30));
        assert_eq!(client.post("/items/1", &old).status, 201);
        let patch = format!(r#"{{"b":"{}"}}"#, "y".repeat(30));
        let reply = client.request("PATCH", "/items/1", &[MERGE_PATCH], patch.as_bytes());
        assert_eq!((reply.status, &*reply.problem().0), (413, "body_too_large"));
        assert_eq!(client.get("/items/1").text(), old);
    });
}

// ---- Documents --------------------------------------------------------------------------------

#[test]
fn random_ids_and_documents_survive_a_round_trip() {
    let rounds = if by_hand() { 10_000 } else { 500 };
    for_each_service(&[("MEMORY_MAX_BYTES", "536870912")], |kioskd| {
        let mut client = kioskd.connect();
        let mut random = Random(0x5eed_1234_abcd_0001);
        for round in 0..rounds {
            let (id, document) = (random.id(), random.document());
            let query = format!("/items?id={}", encode(&id, &mut random));
            let reply = client.post(&query, &document);
            assert_eq!(reply.status, 201, "round {round}: {id:?} {document}: {reply:?}");
            let read = if id.starts_with('_') {
                query
            } else {
                format!("/items/{}", encode(&id, &mut random))
            };
            let read = client.get(&read);
            assert_eq!((read.status, read.text()), (200, document), "round {round}: {id:?}");
            let at = client.get(reply.header("location").unwrap());
            assert_eq!(at.header("etag"), reply.header("etag"), "round {round}: {id:?}");
        }
    });
}

#[test]
fn a_document_nests_to_the_limit_and_not_one_deeper() {
    let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (depth, status) in [(123, 201), (124, 201), (125, 400), (50_000, 400)] {
            assert_eq!(client.post("/items/1", nested(depth)).status, status, "{depth}");
        }
        assert_eq!(client.get("/items/1").text(), nested(124));
        // A patch cannot make one deeper than a document may be, since it may not be deeper itself.
        let reply = client.request("PATCH", "/items/1", &[MERGE_PATCH], nested(124).as_bytes());
        assert_eq!((reply.status, reply.text()), (200, nested(124)));
    });
}

/// RFC 7396, appendix A, whole. What is no object there is put into one, here and there: the merge of a member is the
/// merge of its value.
#[test]
fn patch_does_every_example_of_rfc_7396() {
    let rows = [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"{"v":["a","b"]}"#, r#"{"v":["c","d"]}"#, r#"{"v":["c","d"]}"#),
        (r#"{"v":{"a":"b"}}"#, r#"{"v":["c"]}"#, r#"{"v":["c"]}"#),
        (r#"{"v":{"a":"foo"}}"#, r#"{"v":null}"#, "{}"),
        (r#"{"v":{"a":"foo"}}"#, r#"{"v":"bar"}"#, r#"{"v":"bar"}"#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        (r#"{"v":[1,2]}"#, r#"{"v":{"a":"b","c":null}}"#, r#"{"v":{"a":"b"}}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        // Not of the appendix: digits that a float would lose, in what is touched and what is not.
        (
            r#"{"n":12345678901234567890,"m":1.10}"#,
            r#"{"p":0.30000000000000000001}"#,
            r#"{"n":12345678901234567890,"m":1.10,"p":0.30000000000000000001}"#,
        ),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (target, patch, result) in rows {
            assert_eq!(client.post("/items/1", target).status, 201);
            let reply = client.request("PATCH", "/items/1", &[MERGE_PATCH], patch.as_bytes());
            assert_eq!((reply.status, &*reply.text()), (200, result), "{target} + {patch}");
            assert_eq!(client.get("/items/1").text(), result, "{target} + {patch}");
        }
    });
}

/// What is stored may name a member twice, and every reader sees the last; so the last is what a patch goes into. Names
/// are the same when they mean the same text, and halves of surrogate pairs mean something, too.
#[test]
fn of_equal_names_in_a_document_a_patch_changes_the_one_that_readers_see() {
    let rows = [
        (r#"{"a":{"x":1},"a":{"y":2}}"#, r#"{"a":{"z":3}}"#, r#"{"a":{"y":2,"z":3}}"#),
        (
            r#"{"a":{"x":1},"b":0,"\u0061":{"y":2}}"#,
            r#"{"a":{"z":3}}"#,
            r#"{"b":0,"\u0061":{"y":2,"z":3}}"#,
        ),
        (r#"{"a":{"x":1},"a":2}"#, r#"{"a":{"z":3}}"#, r#"{"a":{"z":3}}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":null}"#, "{}"),
        // What a patch does not name stays as it is.
        (r#"{"a":1,"a":2}"#, r#"{"b":3}"#, r#"{"a":1,"a":2,"b":3}"#),
        (r#"{"\ud800":1}"#, r#"{"\uD800":2}"#, r#"{"\ud800":2}"#),
        (r#"{"\ud800":1}"#, r#"{"\uD800":null}"#, "{}"),
        (r#"{"\ud800\u0061":1}"#, r#"{"\uD800a":2}"#, r#"{"\ud800\u0061":2}"#),
        (r#"{"\uDE00":1}"#, r#"{"\ud83d\ude00":2}"#, r#"{"\uDE00":1,"\ud83d\ude00":2}"#),
        (r#"{"\ud83d\ude00":1}"#, r#"{"😀":2}"#, r#"{"\ud83d\ude00":2}"#),
        // A text that looks like an escape is none.
        (r#"{"\\ud800":1}"#, r#"{"\ud800":2}"#, r#"{"\\ud800":1,"\ud800":2}"#),
        (r#"{"\"\\ud800\"":1}"#, r#"{"\ud800":2}"#, r#"{"\"\\ud800\"":1,"\ud800":2}"#),
    ];
    // A name twice on each of sixty levels, and a thousand times on one.
    let deep = |inner: &str| {
        let outer = r#"{"a":{"x":0},"a":"#.repeat(60);
        format!("{outer}{inner}{}", "}".repeat(60))
    };
    let deep_result = format!("{}{}{}", r#"{"a":"#.repeat(60), r#"{"y":2,"z":3}"#, "}".repeat(60));
    let wide = |value: &str| format!(r#"{{{}"a":{value}}}"#, r#""a":{"x":1},"#.repeat(1000));
    let large = [
        (deep(r#"{"y":2}"#), deep(r#"{"z":3}"#), deep_result),
        (wide(r#"{"y":2}"#), wide(r#"{"z":3}"#), r#"{"a":{"y":2,"z":3}}"#.to_owned()),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let large = large.iter().map(|(t, p, r)| (&**t, &**p, &**r));
        for (target, patch, result) in rows.into_iter().chain(large) {
            for path in ["/items/1", "/sess/1"] {
                assert_eq!(client.post(path, target).status, 201);
                let reply = client.request("PATCH", path, &[MERGE_PATCH], patch.as_bytes());
                let context = format!("{target} + {patch}");
                assert_eq!((reply.status, &*reply.text()), (200, result), "{context}");
                assert_eq!(client.get(path).text(), result, "{context}");
            }
        }
    });
}

/// Goal: no concurrent change is lost. 16 clients write 25 members each; a lost one would be missing at the end. Each
/// change is tried against those of fifteen others, and the document grows, so four times as many take ten times as long.
#[test]
fn sixteen_clients_patch_one_document_and_nothing_is_lost() {
    let each = if by_hand() { 100 } else { 25 };
    for_each_service(&[("REQUEST_TIMEOUT", "60s")], |kioskd| {
        assert_eq!(kioskd.connect().post("/items/shared", "{}").status, 201);
        std::thread::scope(|scope| {
            for writer in 0..16 {
                let mut client = kioskd.connect();
                scope.spawn(move || {
                    for n in 0..each {
                        let patch = format!(r#"{{"{writer}-{n}":{n}}}"#);
                        let reply = client.request(
                            "PATCH",
                            "/items/shared",
                            &[MERGE_PATCH],
                            patch.as_bytes(),
                        );
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                });
            }
        });
        let document = kioskd.connect().get("/items/shared").json();
        let members = document.as_object().unwrap();
        assert_eq!(members.len(), 16 * each);
        for (writer, n) in (0..16).flat_map(|w| (0..each).map(move |n| (w, n))) {
            assert_eq!(members[&format!("{writer}-{n}")], n);
        }
    });
}

#[test]
fn patch_keeps_the_remaining_time_to_live_of_an_item_or_sets_the_one_it_names() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        for (n, (path, ms)) in
            [("/items/1", 100_000), ("/items/1?ttl=50", 50_000), ("/items/1?ttl=200", 200_000)]
                .into_iter()
                .enumerate()
        {
            let key = format!("k{n}");
            for headers in [&[MERGE_PATCH][..], &[MERGE_PATCH, ("Idempotency-Key", &*key)]] {
                assert_eq!(client.post("/items/1", "{}").status, 201);
                redis.command(&["PEXPIRE", "item:1", "100000"]);
                let reply = client.request("PATCH", path, headers, br#"{"a":1}"#);
                assert_eq!(reply.status, 200, "{reply:?}");
                let left = pttl(&redis, "item:1");
                assert!((ms - 20_000..=ms).contains(&left), "{path}: {left}");
            }
        }
    });
}

// ---- Conditions -------------------------------------------------------------------------------

/// RFC 9110 §13.1 and §13.2 as a table: what the request says, and its answer to each method when the document is
/// there and when it is not (§13.2.1: what is not there to be read is 404, whatever the conditions). `TAG` is its tag.
#[test]
fn conditions_are_judged_as_rfc_9110_says() {
    // headers; there: GET, PUT, DELETE; absent: GET, PUT, DELETE
    type Row<'a> = (&'a [(&'a str, &'a str)], [u16; 6]);
    let rows: [Row; 16] = [
        (&[], [200, 204, 204, 404, 201, 204]),
        (&[("If-Match", "TAG")], [200, 204, 204, 404, 412, 412]),
        (&[("If-Match", "*")], [200, 204, 204, 404, 412, 412]),
        (&[("If-Match", "\"x\"")], [412, 412, 412, 404, 412, 412]),
        (&[("If-Match", "\"x\", TAG,\"y\"")], [200, 204, 204, 404, 412, 412]),
        (&[("If-Match", "W/TAG")], [412, 412, 412, 404, 412, 412]),
        (&[("If-Match", "\"x\""), ("If-Match", "TAG")], [200, 204, 204, 404, 412, 412]),
        (&[("If-None-Match", "*")], [304, 412, 412, 404, 201, 204]),
        (&[("If-None-Match", "TAG")], [304, 412, 412, 404, 201, 204]),
        (&[("If-None-Match", "W/TAG")], [304, 412, 412, 404, 201, 204]),
        (&[("If-None-Match", "\"x\"")], [200, 204, 204, 404, 201, 204]),
        // If-Match goes first: 412 although If-None-Match would have said 304.
        (&[("If-None-Match", "TAG"), ("If-Match", "\"x\"")], [412, 412, 412, 404, 412, 412]),
        (&[("If-Match", "TAG"), ("If-None-Match", "TAG")], [304, 412, 412, 404, 412, 412]),
        (&[("If-Match", "TAG"), ("If-None-Match", "\"x\"")], [200, 204, 204, 404, 412, 412]),
        (&[("If-Match", "*"), ("If-None-Match", "*")], [304, 412, 412, 404, 412, 412]),
        (&[("If-Match", "oops")], [400, 400, 400, 400, 400, 400]),
    ];
    let old = r#"{"old":true}"#;
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let tag = client.post("/items/1", old).header("etag").unwrap().to_owned();
        for (headers, statuses) in &rows {
            let headers: Vec<(&str, String)> =
                headers.iter().map(|(name, value)| (*name, value.replace("TAG", &tag))).collect();
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            for (place, status) in statuses.iter().enumerate() {
                let there = place < 3;
                for path in ["/items/1", "/sess/1"] {
                    client.request("DELETE", path, &[], b"");
                    if there {
                        assert_eq!(client.post(path, old).header("etag"), Some(&*tag));
                    }
                    let method = ["GET", "PUT", "DELETE"][place % 3];
                    let body: &[u8] = if method == "PUT" { br#"{"new":1}"# } else { b"" };
                    let reply = client.request(method, path, &headers, body);
                    let context = format!("{method} {path} {headers:?}, there: {there}");
                    assert_eq!(reply.status, *status, "{context}: {reply:?}");
                    match reply.status {
                        412 => assert_eq!(reply.problem().0, "precondition_failed"),
                        400 => assert_eq!(reply.problem().0, "bad_condition"),
                        304 => assert_eq!(reply.header("etag"), Some(&*tag)),
                        _ => {}
                    }
                    if reply.status >= 300 {
                        let now = client.get(path);
                        assert_eq!(now.status, if there { 200 } else { 404 }, "{context}");
                        assert!(!there || now.text() == old, "{context} changed it");
                    }
                    if method == "GET" {
                        let head = client.request("HEAD", path, &headers, b"");
                        assert_eq!(head.status, *status, "HEAD, {context}");
                    }
                }
            }
        }
        // POST and PATCH go through the same judge.
        for (method, absent) in [("POST", 412), ("PATCH", 412)] {
            client.request("DELETE", "/items/1", &[], b"");
            for condition in [&*tag, "*"] {
                let headers = [MERGE_PATCH, ("If-Match", condition)];
                let reply = client.request(method, "/items/1", &headers, b"{}");
                assert_eq!(reply.status, absent, "{method} {condition}");
                assert_eq!(client.get("/items/1").status, 404, "{method} created it");
            }
        }
    });
}

/// A proxy that compresses answers makes their tags weak (nginx does), and If-Match compares strongly: whoever sends back
/// what it got would get 412 for ever, and not know why.
#[test]
fn a_412_for_a_weak_tag_says_why_it_can_never_match() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let reply = client.post("/items/1", "{}");
        let tag = reply.header("etag").unwrap().to_owned();
        for (condition, weak) in [
            (format!("W/{tag}"), true),
            ("W/\"x\"".to_owned(), true),
            (format!("\"x\", W/{tag}"), true),
            ("\"x\"".to_owned(), false),
            ("\"W/\"".to_owned(), false),
        ] {
            let headers = [MERGE_PATCH, ("If-Match", &*condition)];
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let reply = client.request(method, "/items/1", &headers, b"{}");
                let (code, detail) = reply.problem();
                assert_eq!((reply.status, &*code), (412, "precondition_failed"));
                assert_eq!(detail.contains("a weak tag (W/) never matches"), weak, "{detail}");
                assert_eq!(detail.contains("a proxy that compresses"), weak, "{detail}");
            }
        }
        // If-None-Match compares weakly, so there it is no mistake.
        let headers = [("If-None-Match", &*format!("W/{tag}"))];
        let reply = client.request("PUT", "/items/1", &headers, b"{}");
        assert_eq!(reply.problem().1, "precondition failed");
    });
}

#[test]
fn a_condition_on_an_expired_item_fails_and_creates_nothing() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let reply = client.post("/items/1?ttl=1", "{}");
        let tag = reply.header("etag").unwrap().to_owned();
        eventually("the item to expire", || client.get("/items/1").status == 404);
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            for condition in [&*tag, "*"] {
                let headers = [MERGE_PATCH, ("If-Match", condition)];
                let reply = client.request(method, "/items/1", &headers, b"{}");
                assert_eq!(reply.status, 412, "{method} {condition}: {reply:?}");
                assert_eq!(client.get("/items/1").status, 404, "{method} created it");
            }
        }
    });
}

/// Goal: a conditional write is atomic over replicas. 32 writers, half on each of two processes, all with the tag of the
/// document as it is, start together; a second 2xx would be a lost update.
#[test]
fn of_32_writers_with_one_tag_one_succeeds() {
    let rounds = if by_hand() { 1000 } else { 50 };
    for_each_front(|front| {
        let redis = Redis::start();
        let settings =
            [("FRONT", front), ("REDIS_ADDR", &*redis.addr()), ("REQUEST_TIMEOUT", "60s")];
        let replicas = [Kioskd::start(&settings), Kioskd::start(&settings)];
        let first = replicas[0].connect().post("/items/1", "{}");
        let tag = Mutex::new(first.header("etag").unwrap().to_owned());
        let barrier = Barrier::new(32);
        let won = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..32usize {
                let replica = &replicas[writer % 2];
                let (tag, barrier, won) = (&tag, &barrier, &won);
                scope.spawn(move || {
                    for round in 0..rounds {
                        // A connection for each: the pool of tiny_http may leave one unserved
                        // until another ends, and here all wait for all.
                        let mut client = replica.connect();
                        let current = tag.lock().unwrap().clone();
                        barrier.wait();
                        let body = format!(r#"{{"round":{round},"writer":{writer}}}"#);
                        let headers = [MERGE_PATCH, ("If-Match", &*current)];
                        let method = ["PUT", "POST", "PATCH"][round % 3];
                        let reply = client.request(method, "/items/1", &headers, body.as_bytes());
                        drop(client);
                        // Judged at the end: a panic here would leave 31 threads at the barrier.
                        if reply.status != 412 {
                            won.lock().unwrap().push((round, writer, reply.status));
                            *tag.lock().unwrap() =
                                reply.header("etag").unwrap_or_default().to_owned();
                        }
                        barrier.wait();
                    }
                });
            }
        });
        let won = won.into_inner().unwrap();
        assert_eq!(won.len(), rounds, "{won:?}");
        for (round, (of, writer, status)) in won.iter().enumerate() {
            assert_eq!((round, [204, 201, 200][round % 3]), (*of, *status), "writer {writer}");
        }
        let last = replicas[1].connect().get("/items/1").json();
        assert_eq!(last["writer"], won[rounds - 1].1);
    });
}

/// A write whose reply is lost may have happened. Asked again it would find its own document and say 412 to a success, or
/// succeed twice; so it is asked once, and the client is told that nobody knows.
#[test]
fn a_lost_reply_to_a_conditional_write_is_neither_412_nor_success() {
    let document = r#"{"a":1}"#;
    let tag = etag_of(document);
    for_each_front(|front| {
        for (lost, status, code) in
            [("silence", 504, "store_timeout"), ("close", 502, "store_unreachable")]
        {
            let fake = FakeRedis::start(move |command| match &*command[0] {
                "GET" => Act::Send(format!("${}\r\n{document}\r\n", document.len()).into_bytes()),
                "SET" if command[1].starts_with("item:\n") => Act::Usual,
                "SET" | "EVALSHA" | "EVAL" if lost == "silence" => Act::Silence,
                "SET" | "EVALSHA" | "EVAL" => Act::Close,
                _ => Act::Usual,
            });
            let rows = [
                ("PUT", ("If-Match", &*tag)),
                ("PATCH", ("If-Match", &*tag)),
                ("DELETE", ("If-Match", &*tag)),
                ("DELETE", ("If-Match", "*")),
                ("PUT", ("If-Match", "*")),
                ("PUT", ("If-None-Match", "*")),
            ];
            let timeout = if lost == "silence" { "300ms" } else { "30s" };
            for (method, condition) in rows {
                // For each: on the connection of one that was not answered the next reply would be taken for its own.
                let kioskd = Kioskd::start(&[
                    ("FRONT", front),
                    ("REDIS_ADDR", &fake.addr()),
                    ("REQUEST_TIMEOUT", timeout),
                    ("WORKERS", "1"),
                ]);
                eventually("a connection", || kioskd.connect().get("/items/1").status == 200);
                let before = writes(&fake);
                let headers = [MERGE_PATCH, condition];
                let reply = kioskd.connect().request(method, "/items/1", &headers, b"{}");
                let context = format!("{lost}: {method} {condition:?}: {reply:?}");
                assert_eq!((reply.status, &*reply.problem().0), (status, code), "{context}");
                assert_eq!(writes(&fake) - before, 1, "{context}: {:?}", fake.commands());
            }
        }
    });
}

// ---- Sessions and replicas --------------------------------------------------------------------

/// A session renews by reading and by PATCH, whatever their conditions say, and neither takes anything away: `?ttl=86400`
/// at its start, and one read later half an hour was left. A key that has no end, another program's, keeps none.
#[test]
fn a_session_is_renewed_by_use_and_never_shortened() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        let mut use_it = |method: &str, path: &str, headers: &[(&str, &str)], n: usize| {
            let key = n.to_string();
            let headers = [&[MERGE_PATCH, ("Idempotency-Key", &*key)], headers].concat();
            let body: &[u8] = if method == "PATCH" { br#"{"a":1}"# } else { b"" };
            client.request(method, path, &headers, body).status
        };
        let plain = "/sess/1";
        let asked = "/sess/1?ttl=3600";
        let mut n = 0;
        for (method, path, headers, status) in [
            ("GET", plain, &[][..], 200),
            ("GET", asked, &[], 200),
            ("HEAD", plain, &[], 200),
            ("GET", plain, &[("If-None-Match", "*")], 304),
            ("GET", plain, &[("If-Match", "\"x\"")], 412),
            ("PATCH", plain, &[], 200),
            ("PATCH", asked, &[], 200),
            ("PATCH", plain, &[("If-Match", "*")], 200),
        ] {
            let wanted = if path == asked { 3_600_000 } else { 1_800_000 };
            for (before, after) in [
                (100_000, wanted),
                (wanted - 1_000, wanted),
                (wanted + 1_000_000, wanted + 1_000_000),
                (86_400_000, 86_400_000),
                (-1, -1),
            ] {
                redis.command(&["SET", "sess:1", "{}"]);
                if before > 0 {
                    redis.command(&["PEXPIRE", "sess:1", &before.to_string()]);
                }
                n += 1;
                let context = format!("{method} {path} {headers:?} with {before} left");
                assert_eq!(use_it(method, path, headers, n), status, "{context}");
                let left = pttl(&redis, "sess:1");
                let enough = if after == -1 { -1..=-1 } else { after - 30_000..=after };
                assert!(enough.contains(&left), "{context}: {left}");
            }
        }
        // A PATCH that is refused changes nothing, the time included.
        redis.command(&["SET", "sess:1", "{}", "PX", "100000"]);
        assert_eq!(use_it("PATCH", plain, &[("If-Match", "\"x\"")], n + 1), 412);
        assert!(pttl(&redis, "sess:1") <= 100_000);
        // Memory that is full stops no use of a session.
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(use_it("GET", plain, &[], n), 200);
        assert!(pttl(&redis, "sess:1") > 1_700_000);
    });
}

#[test]
fn reading_an_item_does_not_renew_it() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        for method in ["GET", "HEAD"] {
            assert_eq!(client.post("/items/1", "{}").status, 201);
            redis.command(&["PEXPIRE", "item:1", "100000"]);
            assert_eq!(client.request(method, "/items/1", &[], b"").status, 200);
            assert!(pttl(&redis, "item:1") <= 100_000, "{method}");
        }
    });
}

/// The same without a Redis to ask: the session outlives an item of the same age because it is read.
#[test]
fn a_session_that_is_read_outlives_an_item_that_is_read() {
    for_each_service(&[("SESSION_TTL", "2s"), ("ITEM_TTL", "2s")], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/sess/1", "{}");
        client.post("/items/1", "{}");
        eventually("the item to expire", || {
            assert_eq!(client.get("/sess/1").status, 200, "a session expired while it was read");
            client.get("/items/1").status == 404
        });
        assert_eq!(client.get("/sess/1").status, 200);
    });
}

/// A session that is only written to lives on by that, too.
#[test]
fn a_session_that_is_only_patched_outlives_an_item_that_is_patched() {
    for_each_service(&[("SESSION_TTL", "2s"), ("ITEM_TTL", "2s")], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/sess/1", "{}");
        client.post("/items/1", "{}");
        eventually("the item to expire", || {
            let patched = client.request("PATCH", "/sess/1", &[MERGE_PATCH], br#"{"a":1}"#);
            assert_eq!(patched.status, 200, "a session expired while it was in use");
            client.request("PATCH", "/items/1", &[MERGE_PATCH], br#"{"a":1}"#).status == 404
        });
    });
}

/// Where larger documents are allowed than a reply was, they come back, too: they were stored for good, and each read of one
/// cost all other commands on the connection their outcome.
#[test]
fn a_document_as_large_as_is_allowed_comes_back() {
    for_each_front(|front| {
        let redis = Redis::start();
        let settings = [("FRONT", front), ("REDIS_ADDR", &*redis.addr())];
        let large = [("MAX_BODY_BYTES", "18000000"), ("REQUEST_TIMEOUT", "30s")];
        let kioskd = Kioskd::start(&[&settings[..], &large].concat());
        let mut client = kioskd.connect();
        let document = format!("{{\"a\":\"{}\"}}", "x".repeat(18_000_000 - 100));
        assert_eq!(client.post("/items/1", &document).status, 201);
        assert_eq!(client.get("/items/1").body, document.as_bytes());
        let patched = client.request("PATCH", "/items/1", &[MERGE_PATCH], br#"{"b":1}"#);
        assert_eq!(patched.status, 200);
        assert!(client.get("/items/1").body == patched.body);
    });
}

/// What has expired is no reason to refuse anything: 507 came while the store was full of it.
#[test]
fn a_memory_store_full_of_what_has_expired_has_room() {
    for_each_front(|front| {
        let settings = [
            ("FRONT", front),
            ("STORE", "memory"),
            ("MEMORY_MAX_BYTES", "1048576"),
            ("MAX_BODY_BYTES", "900000"),
        ];
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        let document = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
        let mut ids = 0;
        while client.post(&format!("/items/{ids}?ttl=1"), &document).status == 201 {
            ids += 1;
        }
        assert!(ids > 500, "{ids}");
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(800 << 10));
        assert_eq!(client.post("/items/large", &large).status, 507);
        // Asked about one item only: each question sweeps a little, and the room must not come from there.
        eventually("the last to expire", || {
            std::thread::sleep(Duration::from_millis(200));
            client.get(&format!("/items/{}", ids - 1)).status == 404
        });
        assert_eq!(client.post("/items/large", &large).status, 201);
    });
}

#[test]
fn a_session_is_the_same_on_every_replica() {
    for_each_front(|front| {
        let redis = Redis::start();
        let settings = [("FRONT", front), ("REDIS_ADDR", &*redis.addr())];
        let (a, b) = (Kioskd::start(&settings), Kioskd::start(&settings));
        assert_eq!(sessions_over_two_replicas(&a.addr(), &b.addr()), Ok(()));
    });
}

/// The original's mistake: sessions in the memory of the process. It does all that kioskd does, alone; behind a load
/// balancer it forgets every other request.
#[test]
fn sessions_in_the_memory_of_a_process_fail_the_test_that_kioskd_passes() {
    let alone = twin();
    assert_eq!(sessions_over_two_replicas(&alone, &alone), Ok(()), "the twin works alone");
    let failed = sessions_over_two_replicas(&twin(), &twin());
    assert_eq!(failed, Err("B does not know what A stored: 404".to_owned()));
}

/// The two-replica test: what one stores the other knows, what one ends is ended on the other at once.
fn sessions_over_two_replicas(a: &str, b: &str) -> Result<(), String> {
    let (mut a, mut b) = (Client::connect(a), Client::connect(b));
    for round in 0..20 {
        let path = format!("/sess?sid=s{round}");
        let user = format!(r#"{{"user":{round}}}"#);
        let stored = a.post(&path, &user);
        if stored.status != 201 {
            return Err(format!("A does not store: {}", stored.status));
        }
        let read = b.get(&path);
        if read.status != 200 || read.text() != user {
            return Err(format!("B does not know what A stored: {}", read.status));
        }
        a.request("DELETE", &path, &[], b"");
        let ended = b.get(&path);
        if ended.status != 404 {
            return Err(format!("B still serves what A ended: {}", ended.status));
        }
    }
    Ok(())
}

/// A server that keeps sessions in a map: `POST`, `GET` and `DELETE /sess?sid=`. Returns its address.
fn twin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sessions: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sessions = Arc::clone(&sessions);
            std::thread::spawn(move || serve_twin(&stream, &sessions));
        }
    });
    address
}

fn serve_twin(mut stream: &TcpStream, sessions: &Mutex<HashMap<String, Vec<u8>>>) -> Option<()> {
    let mut lines = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (lines.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length = head
            .split_once("Content-Length: ")
            .map_or("0", |(_, rest)| rest.split("\r\n").next().unwrap_or("0"));
        let mut body = vec![0; length.parse().ok()?];
        lines.read_exact(&mut body).ok()?;
        let sid = head.split(['=', ' ']).nth(2)?.to_owned();
        let mut sessions = sessions.lock().unwrap();
        let (status, body) = match head.split(' ').next()? {
            "POST" => {
                sessions.insert(sid, body);
                ("201 Created", Vec::new())
            }
            "DELETE" => {
                sessions.remove(&sid);
                ("200 OK", Vec::new())
            }
            _ => match sessions.get(&sid) {
                Some(session) => ("200 OK", session.clone()),
                None => ("404 Not Found", Vec::new()),
            },
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}

// ---- What is in Redis -------------------------------------------------------------------------

/// Goal: no crash leaves a key that lives for ever. The service is killed again and again in the middle of writes of
/// every kind; each key there is then must have a time to live.
#[test]
fn a_service_killed_while_it_writes_leaves_no_key_without_end() {
    for_each_front(|front| {
        let redis = Redis::start();
        let mut answered = 0;
        for round in 0..15 {
            let mut kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let address = kioskd.addr();
                    std::thread::spawn(move || write_until_killed(&address, round * 4 + writer))
                })
                .collect();
            eventually("some writes", || {
                redis.command(&["DBSIZE"]).parse::<u64>().unwrap() > (round + 1) * 60
            });
            kioskd.signal("KILL");
            kioskd.wait_exit();
            answered += writers.into_iter().map(|w| w.join().unwrap()).sum::<u64>();
        }
        let keys = redis.command(&["KEYS", "*"]);
        for key in keys.lines() {
            let left = pttl(&redis, key);
            assert!(left > 0 || left == -2, "{key} has no end: {left}");
        }
        eprintln!("{answered} writes answered, {} keys", keys.lines().count());
        assert!(answered >= 500, "only {answered} writes were answered");
    });
}

fn write_until_killed(address: &str, writer: u64) -> u64 {
    let Ok(stream) = TcpStream::connect(address) else {
        return 0;
    };
    let mut answered = 0;
    let mut lines = BufReader::new(&stream);
    for n in 0u64.. {
        let method = ["POST", "PUT", "PATCH", "POST"][n as usize % 4];
        // A patch finds what was put before; the last has a key of its own, too.
        let id = if method == "PATCH" { n - 1 } else { n };
        let key =
            if n % 4 == 3 { format!("Idempotency-Key: {writer}-{n}\r\n") } else { String::new() };
        let request = format!(
            "{method} /items/{writer}-{id} HTTP/1.1\r\nHost: x\r\n{}: {}\r\n{key}Content-Length: 7\r\n\r\n{{\"a\":1}}",
            MERGE_PATCH.0, MERGE_PATCH.1
        );
        if (&stream).write_all(request.as_bytes()).is_err() {
            break;
        }
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match lines.read_line(&mut head) {
                Ok(bytes) if bytes > 0 => {}
                _ => return answered,
            }
        }
        let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(["200", "201"].contains(&&*status), "{head}");
        if status == "200" {
            let mut body = [0; 7];
            if lines.read_exact(&mut body).is_err() {
                return answered;
            }
        }
        answered += 1;
    }
    answered
}

/// A54: an older, a newer, or the Go service on the same Redis. What `SET item:x json EX n` wrote is served whole, and what
/// is written is that and nothing more.
#[test]
fn the_stored_form_is_the_plain_text_with_an_end() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        let go = r#"{"name":"Alice","n":[1,2.50]}"#;
        redis.command(&["SET", "item:x", go, "EX", "600"]);
        let read = client.get("/items?id=x");
        assert_eq!((read.status, &*read.text()), (200, go));
        let tag = read.header("etag").unwrap().to_owned();
        assert_eq!(tag, etag_of(go));
        let patched = client.request(
            "PATCH",
            "/items/x",
            &[MERGE_PATCH, ("If-Match", &tag)],
            br#"{"n":null}"#,
        );
        assert_eq!(patched.text(), r#"{"name":"Alice"}"#);
        assert_eq!(redis.command(&["GET", "item:x"]), r#"{"name":"Alice"}"#);
        assert!((500_000..=600_000).contains(&pttl(&redis, "item:x")));

        redis.command(&["FLUSHALL"]);
        assert_eq!(client.post("/items?id=7", r#"{"name": "Bob"}"#).status, 201);
        assert_eq!(client.request("PUT", "/sess/%C3%A9?ttl=60", &[], b"{}").status, 201);
        let mut keys: Vec<String> =
            redis.command(&["KEYS", "*"]).lines().map(str::to_owned).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["item:7", "sess:é"], "nothing else is in the keyspace");
        assert_eq!(redis.command(&["TYPE", "item:7"]), "string");
        assert_eq!(redis.command(&["GET", "item:7"]), r#"{"name": "Bob"}"#);
        assert!((1_795_000..=1_800_000).contains(&pttl(&redis, "item:7")));
        assert!((55_000..=60_000).contains(&pttl(&redis, "sess:é")));
    });
}

// ---- Helpers ----------------------------------------------------------------------------------

fn by_hand() -> bool {
    std::env::var_os("BY_HAND").is_some()
}

fn pttl(redis: &Redis, key: &str) -> i64 {
    redis.command(&["PTTL", key]).parse().expect("PTTL is a number")
}

/// The tag kioskd gives this document, asked of one that keeps nothing for long.
fn etag_of(document: &str) -> String {
    let kioskd = Kioskd::start(&[("STORE", "memory")]);
    let reply: Reply = kioskd.connect().post("/items/1", document);
    reply.header("etag").expect("a write gives a tag").to_owned()
}

/// Commands that may change an item; not the readiness probe's.
fn writes(fake: &FakeRedis) -> usize {
    let is_write = |command: &&Vec<String>| match &*command[0] {
        "SET" => !command[1].starts_with("item:\n"),
        "EVAL" | "EVALSHA" | "DEL" => true,
        _ => false,
    };
    fake.commands().iter().filter(is_write).count()
}

/// xorshift: the same documents in every run, so that a failure can be looked at again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }

    /// Any character but those that a string of JSON or an id cannot have.
    fn character(&mut self) -> char {
        loop {
            let most = [0x80, 0x800, 0x1_0000, 0x11_0000][self.below(4) as usize];
            match char::from_u32(self.below(most) as u32) {
                Some(c) if !c.is_control() => return c,
                _ => {}
            }
        }
    }

    /// 1 to 512 bytes.
    fn id(&mut self) -> String {
        let bytes = 1 + if self.below(10) == 0 { 511 } else { self.below(30) as usize };
        let mut id = String::new();
        while id.len() < bytes {
            let c = self.character();
            id.push(if id.len() + c.len_utf8() <= bytes { c } else { 'x' });
        }
        id
    }

    fn document(&mut self) -> String {
        let depth = if self.below(20) == 0 { 124 } else { 1 + self.below(5) };
        let mut text = String::new();
        self.object(&mut text, depth);
        text
    }

    fn object(&mut self, text: &mut String, depth: u64) {
        text.push('{');
        // Of a deep document only one branch is deep.
        let members = if depth > 5 { 1 } else { self.below(4) };
        for n in 0..members {
            text.push_str(if n > 0 { "," } else { "" });
            text.push_str(self.pick(&["", " ", "\n\t"]));
            self.string(text);
            text.push_str(self.pick(&[":", " : ", ":\r\n"]));
            self.value(text, depth - 1);
        }
        text.push('}');
    }

    fn value(&mut self, text: &mut String, depth: u64) {
        let kind = if depth > 5 { 0 } else { self.below(6) };
        match kind {
            0 | 1 if depth > 0 => self.object(text, depth),
            2 if depth > 0 => {
                text.push('[');
                self.value(text, depth - 1);
                text.push_str(" , ");
                self.value(text, 0);
                text.push(']');
            }
            3 => self.string(text),
            4 => text.push_str(self.pick(&["true", "false", "null"])),
            _ => self.number(text),
        }
    }

    fn number(&mut self, text: &mut String) {
        text.push_str(self.pick(&["", "-"]));
        let digits = |random: &mut Random, n: u64| -> String {
            (0..n).map(|_| char::from(b'0' + random.below(10) as u8)).collect()
        };
        text.push_str(self.pick(&["0", "1", "9"]));
        if !text.ends_with('0') {
            let n = self.below(40);
            text.push_str(&digits(self, n));
        }
        if self.below(2) == 0 {
            let n = 1 + self.below(30);
            text.push('.');
            text.push_str(&digits(self, n));
        }
        if self.below(3) == 0 {
            let n = 1 + self.below(3);
            text.push_str(self.pick(&["e", "E", "e+", "E-"]));
            text.push_str(&digits(self, n));
        }
    }

    fn string(&mut self, text: &mut String) {
        text.push('"');
        for _ in 0..self.below(12) {
            match self.character() {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str(self.pick(&[
                    "\\\\",
                    "\\u005c",
                    "\\/",
                    "\\ud83d\\ude00",
                    "\\ud800",
                ])),
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

/// Percent-encodes, what need not be only sometimes, in digits of either case.
fn encode(id: &str, random: &mut Random) -> String {
    let mut out = String::new();
    for byte in id.bytes() {
        if (byte.is_ascii_alphanumeric() || b"-_~".contains(&byte)) && random.below(4) > 0 {
            out.push(char::from(byte));
        } else if random.below(2) == 0 {
            out.push_str(&format!("%{byte:02x}"));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
