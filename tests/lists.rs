//! Lists of ids and bulk reads (API.md, "Items"; `src/service/list.rs`): pages that lose nothing, and reads in one write.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Act, Client, FakeRedis, Kioskd, Redis, Reply, for_each_front, for_each_service};

/// Follows `Link: rel="next"` to the end; every id with how often it came, and how many pages it took.
fn walk(client: &mut Client, first: &str, limit: usize) -> (HashMap<String, usize>, usize) {
    let (mut ids, mut pages, mut path) = (HashMap::new(), 0, first.to_owned());
    loop {
        let reply = client.get(&path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let page = reply.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{path}: {} ids", items.len());
        for item in items {
            let ttl = item["ttl"].as_u64().unwrap_or_else(|| panic!("{item}"));
            assert!((1..=1800).contains(&ttl), "{item}");
            *ids.entry(item["id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        pages += 1;
        assert!(pages < 20_000, "no end");
        match (reply.header("link"), page["cursor"].as_str()) {
            (Some(link), Some(cursor)) => {
                let target = link
                    .strip_prefix('<')
                    .and_then(|l| l.strip_suffix(">; rel=\"next\""));
                path = target.unwrap_or_else(|| panic!("{link}")).to_owned();
                assert!(path.contains(cursor), "{path}: {cursor}");
            }
            (None, None) => return (ids, pages),
            both => panic!("link and cursor disagree: {both:?}"),
        }
    }
}

#[test]
fn pages_are_never_longer_than_the_limit_and_lose_nothing() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for n in 0..250 {
            assert_eq!(client.post(&format!("/items/a{n}"), "{}").status, 201);
            assert_eq!(client.post(&format!("/sess/a{n}"), "{}").status, 201);
        }
        for (query, limit) in [
            ("limit=1", 1),
            ("limit=7", 7),
            ("prefix=", 100),
            ("cursor=", 100),
            ("prefix=a&limit=1000", 1000),
        ] {
            let (ids, pages) = walk(&mut client, &format!("/items?{query}"), limit);
            assert_eq!(ids.len(), 250, "{query}");
            assert!(pages >= 250usize.div_ceil(limit), "{query}: {pages}");
        }
        let (ids, _) = walk(&mut client, "/items?prefix=a24&limit=3", 3);
        assert_eq!(ids.len(), 11, "{ids:?}");
        let (ids, _) = walk(&mut client, "/items?prefix=none", 100);
        assert_eq!(ids.len(), 0);
        let head = client.head("/items?limit=1");
        assert_eq!((head.status, head.header("link").is_some()), (200, true));
    });
}

/// Goal: every id that is there throughout is seen, whatever else happens meanwhile. While the list is read, others are
/// written and removed, so many that Redis grows and shrinks its table (a rehash) more than once.
#[test]
fn every_id_that_is_there_throughout_is_seen_under_concurrent_writes() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["EVAL", FILL, "0", "item:stays", "5000"]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    redis.command(&["EVAL", FILL, "0", "item:goes", "20000"]);
                    redis.command(&["EVAL", UNDO, "0", "item:goes", "20000"]);
                }
            });
            // Always stops the other thread, so that a failure is a failure and not a hang.
            let walks = std::panic::catch_unwind(|| {
                for limit in [1000, 100, 100] {
                    let path = format!("/items?prefix=stays&limit={limit}");
                    let (ids, pages) = walk(&mut kioskd.connect(), &path, limit);
                    assert_eq!(ids.len(), 5000, "limit {limit}, {pages} pages");
                }
                let (ids, _) = walk(&mut kioskd.connect(), "/items?limit=1000", 1000);
                let stays = ids.keys().filter(|id| id.starts_with("stays")).count();
                assert_eq!(stays, 5000);
            });
            stop.store(true, Ordering::Relaxed);
            walks.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        let stats = redis.command(&["INFO", "commandstats"]);
        assert!(stats.contains("cmdstat_scan:"), "{stats}");
        assert!(!stats.contains("cmdstat_keys:"), "KEYS was used: {stats}");
    });
}

const FILL: &str = "for i = 1, ARGV[2] do redis.call('SET', ARGV[1] .. i, '{}', 'EX', 1000) end";
const UNDO: &str = "for i = 1, ARGV[2] do redis.call('DEL', ARGV[1] .. i) end";

#[test]
fn a_prefix_is_text_and_not_a_pattern() {
    let ids = [
        "a*b", "a?b", "a[xy]b", "a\\b", "axb", "a^b", "a-b", "é*", "{tag}1",
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for id in ids {
            assert_eq!(
                client
                    .post(&format!("/items?id={}", encode(id)), "{}")
                    .status,
                201
            );
        }
        for id in ids {
            let prefix: String = id.chars().take(id.chars().count().min(2)).collect();
            for prefix in [id, &prefix] {
                let (found, _) = walk(
                    &mut client,
                    &format!("/items?limit=3&prefix={}", encode(prefix)),
                    3,
                );
                let mut found: Vec<_> = found.into_keys().collect();
                let mut wanted: Vec<_> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
                found.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "prefix {prefix}");
            }
        }
    });
}

#[test]
fn limits_cursors_and_prefixes_that_are_none_are_refused() {
    let long = "x".repeat(513);
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for n in 0..20 {
            client.post(&format!("/items/p{n}"), "{}");
        }
        for (query, status, code) in [
            ("limit=1", 200, ""),
            ("limit=1000", 200, ""),
            ("limit=0", 400, "bad_limit"),
            ("limit=1001", 400, "bad_limit"),
            ("limit=", 400, "bad_limit"),
            ("limit=-1", 400, "bad_limit"),
            ("limit=1.0", 400, "bad_limit"),
            ("limit=1&limit=1", 400, "bad_limit"),
            ("limit=99999999999999999999", 400, "bad_limit"),
            ("cursor=zz", 400, "bad_cursor"),
            ("cursor=0", 400, "bad_cursor"),
            ("cursor=00", 400, "bad_cursor"),
            // `|1|end|sess:secret`: a made-up cursor must not tell of keys beside its prefix.
            (
                "cursor=7c317c656e647c736573733a736563726574",
                400,
                "bad_cursor",
            ),
            ("prefix=%FF", 400, "bad_prefix"),
            ("prefix=%00", 400, "bad_prefix"),
            (&*format!("prefix={long}"), 400, "bad_prefix"),
            ("other=1", 400, "missing_id"),
        ] {
            let reply = client.get(&format!("/items?{query}"));
            assert_eq!(reply.status, status, "{query}: {reply:?}");
            assert!(
                status == 200 || reply.problem().0 == code,
                "{query}: {reply:?}"
            );
        }
        let reply = client.request("GET", "/items?limit=1", &[("If-Match", "oops")], b"");
        assert_eq!(reply.problem().0, "bad_condition");
        // Sessions are nobody's to list.
        assert_eq!(client.get("/sess?limit=1").problem().0, "missing_sid");
    });
}

#[test]
fn a_list_tells_the_remaining_time() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/items/short?ttl=30", "{}");
        client.post("/items/long?ttl=3000", "{}");
        for (prefix, most) in [("short", 30), ("long", 3000)] {
            let page = client.get(&format!("/items?prefix={prefix}")).json();
            let ttl = page["items"][0]["ttl"].as_u64().unwrap();
            assert!((most - 20..=most).contains(&ttl), "{page}");
        }
    });
}

// ---- Bulk reads -------------------------------------------------------------------------------

fn bulk(client: &mut Client, ids: &[String]) -> Reply {
    client.post("/items/_get", serde_json::json!({ "ids": ids }).to_string())
}

#[test]
fn a_bulk_read_gives_each_document_with_its_tag_or_null() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let mut tags = Vec::new();
        for n in 0..500 {
            let document = format!(r#"{{"n":{n}.10}}"#);
            let reply = client.post(&format!("/items/b{n}"), document);
            tags.push(reply.header("etag").unwrap().to_owned());
        }
        // Every second is not there; one comes twice; the query form's ids can be asked for, too.
        let mut ids: Vec<String> = (0..1000)
            .map(|n| {
                if n % 2 == 0 {
                    format!("b{}", n / 2)
                } else {
                    format!("none{n}")
                }
            })
            .collect();
        ids[999] = "b0".to_owned();
        let reply = bulk(&mut client, &ids);
        assert_eq!(
            (reply.status, reply.header("cache-control")),
            (200, Some("no-store"))
        );
        assert!(
            reply.text().contains(r#""item":{"n":499.10}"#),
            "every digit"
        );
        let found = reply.json();
        let found = found["items"].as_array().unwrap();
        assert_eq!(found.len(), 1000);
        for (n, item) in found.iter().enumerate() {
            let of = if n == 999 { 0 } else { n / 2 };
            if n % 2 == 0 || n == 999 {
                assert_eq!(
                    (&item["id"], &item["etag"]),
                    (&ids[n].as_str().into(), &tags[of].as_str().into())
                );
            } else {
                assert!(item.is_null(), "{n}: {item}");
            }
        }
        ids.push("one too many".to_owned());
        assert_eq!(bulk(&mut client, &ids).problem().0, "bad_ids");
        for (body, code) in [
            (r#"{"ids":[]}"#, "bad_ids"),
            (r#"{"ids":"b1"}"#, "bad_ids"),
            ("{}", "bad_ids"),
            ("[]", "bad_ids"),
            ("oops", "bad_json"),
            (r#"{"ids":["b1",""]}"#, "bad_id"),
            (r#"{"ids":["b1",1]}"#, "bad_id"),
            (r#"{"ids":["a\u0000b"]}"#, "bad_id"),
        ] {
            let reply = client.post("/items/_get", body);
            assert_eq!((reply.status, &*reply.problem().0), (400, code), "{body}");
        }
    });
}

#[test]
fn a_bulk_read_beyond_16_mib_is_413_and_the_service_goes_on() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_048_576 - 8));
        assert_eq!(large.len(), 1_048_576);
        for n in 0..17 {
            assert_eq!(client.post(&format!("/items/l{n}"), &large).status, 201);
        }
        let ids: Vec<String> = (0..17).map(|n| format!("l{n}")).collect();
        assert_eq!(bulk(&mut client, &ids[..16]).status, 200, "16 MiB exactly");
        let reply = bulk(&mut client, &ids);
        assert_eq!((reply.status, &*reply.problem().0), (413, "bulk_too_large"));
        assert_eq!(bulk(&mut client, &ids[..1]).status, 200);
    });
}

/// One round trip: no GET is answered before all have arrived. A client that waited for one answer before it sent the next
/// question would wait for ever.
#[test]
fn a_bulk_read_is_one_round_trip() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match command.get(1).map(String::as_str) {
            Some("item:n0") => Act::Silence,
            // The answers to all hundred, when the last has come.
            Some("item:n99") => Act::Send(b"$2\r\n{}\r\n".repeat(100)),
            Some(key) if key.starts_with("item:n") => Act::Silence,
            _ => Act::Usual,
        });
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &fake.addr())]);
        let ids: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
        let reply = bulk(&mut kioskd.connect(), &ids);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.json()["items"].as_array().unwrap().len(), 100);
        let gets = fake.commands().iter().filter(|c| c[0] == "GET").count();
        assert_eq!(gets, 100);
    });
}

/// What is no JSON, or no string, under one of the keys: the whole answer is 502, never a hole or a broken document.
#[test]
fn what_somebody_else_stored_does_not_spoil_an_answer() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        client.post("/items/good", "{}");
        redis.command(&["SET", "item:bad", "oops"]);
        redis.command(&["LPUSH", "item:list", "x"]);
        for id in ["bad", "list"] {
            let reply = bulk(&mut client, &["good".to_owned(), id.to_owned()]);
            assert_eq!(
                (reply.status, &*reply.problem().0),
                (502, "store_error"),
                "{id}"
            );
        }
        // In a list they are ids like others, and the one without an end says so.
        let page = client.get("/items?prefix=bad").json();
        assert_eq!(
            page["items"][0],
            serde_json::json!({"id": "bad", "ttl": null})
        );
    });
}

fn encode(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
