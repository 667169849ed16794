//! Lists of ids and bulk reads (docs/api.md; `src/service/list.rs`): pages that lose nothing, and reads in one write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{
    Act, Client, FakeRedis, Kioskd, Redis, Reply, eventually, for_each_front, for_each_service,
};

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
            *ids.entry(item["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        pages += 1;
        assert!(pages < 20_000, "no end");
        match (reply.header("link"), page["cursor"].as_str()) {
            (Some(link), Some(cursor)) => {
                let target = link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\""));
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
        redis.command(&["EVAL", FILL, "0", "item:stays", "2000"]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    redis.command(&["EVAL", FILL, "0", "item:goes", "8000"]);
                    redis.command(&["EVAL", UNDO, "0", "item:goes", "8000"]);
                }
            });
            // Always stops the other thread, so that a failure is a failure and not a hang.
            let walks = std::panic::catch_unwind(|| {
                for limit in [1000, 100, 100] {
                    let path = format!("/items?prefix=stays&limit={limit}");
                    let (ids, pages) = walk(&mut kioskd.connect(), &path, limit);
                    assert_eq!(ids.len(), 2000, "limit {limit}, {pages} pages");
                }
                let (ids, _) = walk(&mut kioskd.connect(), "/items?limit=1000", 1000);
                let stays = ids.keys().filter(|id| id.starts_with("stays")).count();
                assert_eq!(stays, 2000);
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

/// In each run Redis hashes its keys anew, so that a position of SCAN from before a restart leads past some of them.
#[test]
fn every_id_is_seen_though_redis_is_restarted_between_two_pages() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr())]);
    let mut client = kioskd.connect();
    for n in 0..1000 {
        redis.command(&["SET", &format!("item:a{n}"), "{}", "EX", "1800"]);
    }
    eventually("a page", || client.get("/items?prefix=a&limit=1").status == 200);
    let page = client.get("/items?prefix=a&limit=400").json();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for item in page["items"].as_array().unwrap() {
        *seen.entry(item["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    redis.restart();
    let next = format!("/items?prefix=a&limit=400&cursor={}", page["cursor"].as_str().unwrap());
    eventually("a page of the new run", || client.get(&next).status == 200);
    let (rest, _) = walk(&mut client, &next, 400);
    seen.extend(rest);
    assert_eq!(seen.len(), 1000);
}

/// The name of Redis' run is asked for, and not needed.
#[test]
fn a_user_who_may_not_ask_info_gets_a_whole_list() {
    let redis = Redis::start();
    assert_eq!(redis.command(&["ACL", "SETUSER", "default", "-info"]), "OK");
    redis.command(&["EVAL", FILL, "0", "item:", "300"]);
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr())]);
    let mut client = kioskd.connect();
    eventually("a page", || client.get("/items?limit=1").status == 200);
    let (ids, _) = walk(&mut client, "/items?limit=7", 7);
    assert_eq!((ids.len(), ids.values().max()), (300, Some(&1)));
}

/// A cursor once held the keys of a step that did not fit into the page, and pages of long ids were two to six times too
/// long, because those did not fit into the cursor either.
#[test]
fn long_ids_make_no_page_longer_and_no_cursor_holds_one() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for n in 0..120 {
            let id = format!("{n:-<500}");
            assert_eq!(client.post(&format!("/items/{id}"), "{}").status, 201);
        }
        for limit in [1, 7, 119, 120] {
            let (ids, _) = walk(&mut client, &format!("/items?limit={limit}"), limit);
            assert!(ids.values().all(|times| *times == 1), "{ids:?}");
            assert_eq!(ids.len(), 120, "limit {limit}");
        }
        let page = client.get("/items?limit=1").json();
        let id = page["items"][0]["id"].as_str().unwrap();
        let cursor = page["cursor"].as_str().unwrap();
        let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
        // A piece of it would be too much.
        for at in (0..hex.len() - 16).step_by(2) {
            assert!(!cursor.contains(&hex[at..at + 16]), "{cursor}");
        }
    });
}

/// SCAN never gives a part of its step, and a cursor remembers 200 keys of one. No table of Redis has so many in one place
/// on demand, so the cursor here says that it has given 199, and 200, which are not there.
#[test]
fn what_a_cursor_can_not_remember_is_given_at_once() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["EVAL", FILL, "0", "item:", "40"]);
        let mut client = kioskd.connect();
        let begun = client.get("/items?limit=3").json();
        // A version, a check, a server, its run, a position and how many servers; hashes follow.
        let begun = &begun["cursor"].as_str().unwrap()[..2 * (1 + 8 + 4 + 4 + 8 + 2)];
        for (hashes, ids, bytes) in [(0, 3, 3 * 8), (197, 3, 1600), (199, 1, 1600), (200, 40, 0)] {
            let cursor = format!("{begun}{}", "ff".repeat(8).repeat(hashes));
            let page = client.get(&format!("/items?limit=3&cursor={cursor}"));
            let page = page.json();
            let items = page["items"].as_array().unwrap();
            assert_eq!(items.len(), ids, "{hashes}");
            let more = page["cursor"].as_str().map_or(0, |c| c.len() / 2 - 27);
            assert!(more <= bytes, "{hashes}: {more}");
        }
    });
}

/// A page that found nothing in its share of the work says so and where to go on: Redis does nothing else meanwhile. The
/// script once made 10,000 calls for this page (85 ms), and never gave one up that was empty.
#[test]
fn a_page_beside_many_other_keys_costs_redis_a_few_steps() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        redis.command(&["EVAL", FILL, "0", "other:", "100000"]);
        let mut client = kioskd.connect();
        // Redis was busy filling itself, perhaps for longer than connecting to it may take.
        eventually("Redis to be back", || client.post("/items/the-one", "{}").status == 201);
        redis.command(&["CONFIG", "RESETSTAT"]);
        let (ids, pages) = walk(&mut client, "/items?limit=1", 1);
        assert_eq!(ids.len(), 1);
        let scans = calls(&redis, "scan");
        let scripts = calls(&redis, "evalsha") as usize;
        assert!((pages..pages + 2).contains(&scripts), "{scripts} {pages}");
        assert!(scans <= 40 * pages as u64, "{scans} steps, {pages} pages");
        assert!(pages >= 30, "{pages} pages");
    });
}

/// How often Redis has run this command, from scripts too.
fn calls(redis: &Redis, command: &str) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    let line =
        stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    let (calls, _) =
        line.and_then(|line| line.split_once(',')).unwrap_or_else(|| panic!("{stats}"));
    calls.parse().unwrap()
}

/// Whatever Redis says to PTTL was once taken for "this key has gone": a list was 200 and empty.
#[test]
fn a_list_is_an_error_when_redis_refuses_what_it_needs() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        let mut client = kioskd.connect();
        for there in [false, true] {
            for refused in ["pttl", "scan"] {
                redis.command(&["ACL", "SETUSER", "default", &format!("-{refused}")]);
                let reply = client.get("/items?limit=9");
                let saw = (reply.status, &*reply.problem().0);
                assert_eq!(saw, (502, "store_error"), "-{refused}, {there}");
                redis.command(&["ACL", "SETUSER", "default", &format!("+{refused}")]);
            }
            let page = client.get("/items?limit=9").json();
            assert_eq!(page["items"].as_array().map(Vec::len), Some(there.into()));
            client.post("/items/a", "{}");
        }
    });
}

/// A page is asked for with no id in the query and none in the path; there its three parameters mean nothing.
#[test]
fn an_id_in_the_path_makes_no_page_whatever_the_query_has() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/7", r#"{"n":7}"#).status, 201);
        assert_eq!(client.post("/items/other", r#"{"n":8}"#).status, 201);
        for query in ["limit=5", "limit=0", "prefix=o", "cursor=x", "cursor=&limit=1&prefix="] {
            let reply = client.get(&format!("/items/7?{query}"));
            assert_eq!((reply.status, &*reply.text()), (200, r#"{"n":7}"#), "{query}");
            assert!(reply.header("etag").is_some() && reply.header("link").is_none());
            assert_eq!(client.get(&format!("/items/absent?{query}")).status, 404, "{query}");
            let reply = client.get(&format!("/items/%zz?{query}"));
            assert_eq!((reply.status, &*reply.problem().0), (400, "bad_id"), "{query}");
            assert_eq!(client.get(&format!("/items?id=7&{query}")).text(), r#"{"n":7}"#);
            let head = client.head(&format!("/items/7?{query}"));
            assert_eq!((head.status, head.header("etag").is_some()), (200, true), "{query}");
        }
        let reply = client.get("/items/?limit=5");
        assert_eq!((reply.status, &*reply.problem().0), (400, "missing_id"));
    });
}

/// The cursor of version 0.1 had words for Redis in it. With 61 of them it had more than a command may have: the assertion
/// that said so ended the worker, and the process with it.
#[test]
fn a_forged_cursor_gives_some_page_of_its_prefix_or_none() {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for n in 0..100 {
            client.post(&format!("/items/a{n}"), "{}");
            client.post(&format!("/items/b{n}"), "{}");
        }
        let page = client.get("/items?limit=1").json();
        let ours = page["cursor"].as_str().unwrap();
        let forged = format!("{ours}{}", hex(b"\0item:0").repeat(61));
        let reply = client.get(&format!("/items?limit=1&cursor={forged}"));
        assert_eq!((reply.status, &*reply.problem().0), (400, "bad_cursor"));
        let page = client.get("/items?prefix=a&limit=3").json();
        let cursor = page["cursor"].as_str().unwrap();
        for other in ["", "prefix=b&", "prefix=a1&", "prefix=A&"] {
            let reply = client.get(&format!("/items?{other}limit=3&cursor={cursor}"));
            assert_eq!((reply.status, &*reply.problem().0), (400, "bad_cursor"));
        }
        // Every byte changed, cut off, or followed by more.
        let bytes: Vec<u8> = (0..cursor.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&cursor[at..at + 2], 16).unwrap())
            .collect();
        let mut forged: Vec<Vec<u8>> = (0..bytes.len()).map(|at| bytes[..at].to_vec()).collect();
        for at in 0..bytes.len() {
            for byte in [0, bytes[at] ^ 1, bytes[at] ^ 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] = byte;
                forged.push(other);
            }
        }
        for more in [1, 8, 8 * 150, 8 * 200, 8 * 201, 2048 - bytes.len()] {
            forged.push([&bytes[..], &vec![0xff; more]].concat());
        }
        let end = bytes.len();
        for cursor in forged {
            let reply = client.get(&format!("/items?prefix=a&limit=3&cursor={}", hex(&cursor)));
            if cursor.len() < end.min(27) && !cursor.is_empty() {
                assert_eq!((reply.status, &*reply.problem().0), (400, "bad_cursor"));
            }
            if reply.status == 200 {
                let page = reply.json();
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= 3);
                assert!(items.iter().all(|item| item["id"].as_str().unwrap().starts_with('a')));
            } else {
                assert_eq!((reply.status, &*reply.problem().0), (400, "bad_cursor"));
            }
        }
        assert_eq!(client.get("/items/a1").status, 200);
    });
}

#[test]
fn a_prefix_is_text_and_not_a_pattern() {
    let ids = ["a*b", "a?b", "a[xy]b", "a\\b", "axb", "a^b", "a-b", "é*", "{tag}1"];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for id in ids {
            assert_eq!(client.post(&format!("/items?id={}", encode(id)), "{}").status, 201);
        }
        for id in ids {
            let prefix: String = id.chars().take(id.chars().count().min(2)).collect();
            for prefix in [id, &prefix] {
                let (found, _) =
                    walk(&mut client, &format!("/items?limit=3&prefix={}", encode(prefix)), 3);
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
            ("cursor=7c317c656e647c736573733a736563726574", 400, "bad_cursor"),
            ("prefix=%FF", 400, "bad_prefix"),
            ("prefix=%00", 400, "bad_prefix"),
            (&*format!("prefix={long}"), 400, "bad_prefix"),
            ("other=1", 400, "missing_id"),
        ] {
            let reply = client.get(&format!("/items?{query}"));
            assert_eq!(reply.status, status, "{query}: {reply:?}");
            assert!(status == 200 || reply.problem().0 == code, "{query}: {reply:?}");
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
            .map(|n| if n % 2 == 0 { format!("b{}", n / 2) } else { format!("none{n}") })
            .collect();
        ids[999] = "b0".to_owned();
        let reply = bulk(&mut client, &ids);
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
        assert!(reply.text().contains(r#""item":{"n":499.10}"#), "every digit");
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
    let settings = [("WORKERS", "1"), ("MAX_BUFFERED_BYTES", "268435456")];
    for_each_service(&settings, |kioskd| {
        let mut client = kioskd.connect();
        store_megabytes(&mut client, 17);
        let ids: Vec<String> = (0..17).map(|n| format!("l{n}")).collect();
        assert_eq!(bulk(&mut client, &ids[..16]).status, 200, "16 MiB exactly");
        assert_too_large(&bulk(&mut client, &ids), 16 << 20);
        assert_eq!(bulk(&mut client, &ids[..1]).status, 200);
    });
}

/// Values and the answer made of them are there at the same time, so a bulk may have half of what its worker may hold.
#[test]
fn a_small_service_reads_smaller_bulks() {
    let settings = [("WORKERS", "2"), ("MAX_BUFFERED_BYTES", "8388608")];
    for_each_service(&settings, |kioskd| {
        let mut client = kioskd.connect();
        store_megabytes(&mut client, 3);
        let ids: Vec<String> = (0..3).map(|n| format!("l{n}")).collect();
        assert_eq!(bulk(&mut client, &ids[..2]).status, 200, "2 MiB exactly");
        assert_too_large(&bulk(&mut client, &ids), 2 << 20);
    });
}

/// Documents of 1 MiB, `l0` and so on.
fn store_megabytes(client: &mut Client, n: usize) {
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_048_576 - 8));
    assert_eq!(large.len(), 1_048_576);
    for n in 0..n {
        assert_eq!(client.post(&format!("/items/l{n}"), &large).status, 201);
    }
}

#[track_caller]
fn assert_too_large(reply: &Reply, bound: usize) {
    let (code, detail) = reply.problem();
    assert_eq!((reply.status, &*code), (413, "bulk_too_large"));
    assert!(detail.contains(&bound.to_string()), "{detail}");
}

/// 7 KB once made Redis send a gigabyte: one id of 1 MB a thousand times. And what is too large together was read to its
/// end, though the first seventeen documents had told.
#[test]
fn redis_sends_no_document_twice_and_little_more_than_may_be_given() {
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &redis.addr()),
            ("WORKERS", "1"),
            ("MAX_BUFFERED_BYTES", "268435456"),
        ]);
        let mut client = kioskd.connect();
        store_megabytes(&mut client, 50);
        let mut megabytes_for = |ids: Vec<String>| {
            redis.command(&["CONFIG", "RESETSTAT"]);
            let reply = bulk(&mut client, &ids);
            // Redis counts what it has sent, and that may be a moment after it is read.
            assert_eq!(client.get("/items/none").status, 404);
            (reply, sent(&redis) >> 20)
        };
        let (reply, megabytes) = megabytes_for(vec!["l0".to_owned(); 1000]);
        assert_too_large(&reply, 16 << 20);
        assert!(megabytes < 2, "{megabytes} MiB");
        let (reply, megabytes) = megabytes_for(vec!["l0".to_owned(); 16]);
        let found = reply.json();
        let found = found["items"].as_array().unwrap();
        assert!(found.len() == 16 && found.iter().all(|item| item["id"] == "l0"));
        assert!(megabytes < 2, "{megabytes} MiB");
        let (reply, megabytes) = megabytes_for((0..50).map(|n| format!("l{n}")).collect());
        assert_too_large(&reply, 16 << 20);
        // Those under way when the seventeenth came.
        assert!(megabytes <= 17 + 16, "{megabytes} MiB");
    });
}

/// Bytes that Redis has sent.
fn sent(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "stats"]);
    let bytes = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    bytes.unwrap_or_else(|| panic!("{stats}")).trim().parse().unwrap()
}

/// Sixteen GETs go out before one is answered: a client that waited for each would wait here for ever.
#[test]
fn a_bulk_read_asks_sixteen_at_a_time() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match command.get(1).and_then(|key| place(key)) {
            // Answers to all sixteen, or to the last four.
            Some(n) if n % 16 == 15 => Act::Send(b"$2\r\n{}\r\n".repeat(16)),
            Some(99) => Act::Send(b"$2\r\n{}\r\n".repeat(4)),
            Some(_) => Act::Silence,
            None => Act::Usual,
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

/// And no more than sixteen: somebody else's GET, which comes later on the same connection, finds as many before it.
#[test]
#[cfg(feature = "poll")]
fn a_bulk_read_leaves_others_their_turn() {
    let fake = FakeRedis::start(|command| match &*command[command.len() - 1] {
        "item:other" => Act::Send(b"$2\r\n{}\r\n".repeat(16 + 1)),
        key => match place(key) {
            Some(0..16) => Act::Silence,
            Some(_) => Act::Send(b"$2\r\n{}\r\n".to_vec()),
            None => Act::Usual,
        },
    });
    let kioskd = Kioskd::start(&[("WORKERS", "1"), ("REDIS_ADDR", &fake.addr())]);
    let ids: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    std::thread::scope(|scope| {
        let bulk = scope.spawn(|| bulk(&mut kioskd.connect(), &ids));
        eventually("the first questions", || {
            fake.commands().iter().any(|c| c.last().unwrap() == "item:n15")
        });
        assert_eq!(kioskd.connect().get("/items/other").text(), "{}");
        assert_eq!(bulk.join().unwrap().status, 200);
    });
    let commands = fake.commands();
    let keys = commands.iter().map(|c| c.last().unwrap());
    let before = keys.take_while(|key| *key != "item:other");
    assert_eq!(before.filter(|key| place(key).is_some()).count(), 16);
}

/// Which of a bulk's keys it is.
fn place(key: &str) -> Option<usize> {
    key.strip_prefix("item:n")?.parse().ok()
}

/// Ten bulks of a thousand once took all the places in the client's queue, and everybody else heard 503, the probe too.
#[test]
#[cfg(feature = "poll")]
fn a_dozen_bulk_reads_leave_room_for_others_and_for_the_probe() {
    let redis = Redis::start();
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &redis.addr()),
        ("WORKERS", "1"),
        ("REQUEST_TIMEOUT", "30s"),
    ]);
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items/a", "{}").status, 201);
    let ids: Vec<String> = (0..1000).map(|n| format!("n{n}")).collect();
    redis.stop();
    std::thread::scope(|scope| {
        let bulks: Vec<_> =
            (0..12).map(|_| scope.spawn(|| bulk(&mut kioskd.connect(), &ids).status)).collect();
        eventually("the bulks to be under way", || {
            let metrics = client.get("/metrics").text();
            metrics.contains("kioskd_requests_in_flight 13\n")
        });
        let others = [
            scope.spawn(|| kioskd.connect().get("/items/a").status),
            scope.spawn(|| kioskd.connect().get("/readyz").status),
        ];
        eventually("the others to be under way, or refused", || {
            let metrics = client.get("/metrics").text();
            metrics.contains("kioskd_requests_in_flight 15\n")
                || others.iter().all(|other| other.is_finished())
        });
        redis.cont();
        assert_eq!(others.map(|other| other.join().unwrap()), [200, 200]);
        for bulk in bulks {
            assert_eq!(bulk.join().unwrap(), 200);
        }
    });
}

/// Whatever somebody else has put under one of the keys, the others are given. It once was 502 for all.
#[test]
fn what_somebody_else_stored_does_not_spoil_an_answer() {
    let deep = |n: usize| format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n));
    for_each_front(|front| {
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &redis.addr()),
            ("REQUEST_TIMEOUT", "20s"),
        ]);
        let mut client = kioskd.connect();
        client.post("/items/good", "{}");
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(2 << 20));
        for (id, stored) in [
            ("text", "oops"),
            ("array", "[1]"),
            ("half", r#"{"a":"#),
            ("empty", ""),
            ("deep", &*deep(125)),
            ("large", &*large),
        ] {
            redis.command(&["SET", &format!("item:{id}"), stored]);
        }
        redis.command(&["LPUSH", "item:list", "x"]);
        redis.command(&["HSET", "item:hash", "x", "y"]);
        let huge = "redis.call('SET', 'item:huge', string.rep('x', 70 * 1024 * 1024))";
        redis.command(&["EVAL", huge, "0"]);
        let ids = [
            "good", "text", "array", "half", "empty", "deep", "large", "huge", "list", "hash",
            "none", "good",
        ];
        let reply = bulk(&mut client, &ids.map(str::to_owned));
        assert_eq!(reply.status, 200, "{reply:?}");
        let found = reply.json();
        for (id, item) in ids.iter().zip(found["items"].as_array().unwrap()) {
            match *id {
                "good" => assert!(item["item"].is_object() && item["etag"].is_string()),
                "none" => assert!(item.is_null()),
                _ => {
                    assert_eq!(item["id"], *id);
                    assert_eq!(item["error"]["code"], "store_error", "{id}");
                    assert!(item.get("item").is_none() && item.get("etag").is_none());
                }
            }
        }
        // Trouble with the store itself is nobody's place but everybody's.
        redis.command(&["ACL", "SETUSER", "default", "-get"]);
        let reply = bulk(&mut client, &ids.map(str::to_owned));
        assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
        // In a list they are ids like others, and the one without an end says so.
        let page = client.get("/items?prefix=text").json();
        assert_eq!(page["items"][0], serde_json::json!({"id": "text", "ttl": null}));
    });
}

/// A document 125 deep made an answer that serde_json and jq do not read.
#[test]
fn the_deepest_document_is_read_in_bulk() {
    let deep = |n: usize| format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n));
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/a", deep(124)).status, 201);
        assert_eq!(client.post("/items/a", deep(125)).problem().0, "bad_json");
        let reply = bulk(&mut client, &["a".to_owned()]);
        // The reader here is serde_json.
        assert_eq!(reply.json()["items"][0]["id"], "a");
        assert!(reply.text().contains(&deep(124)));
    });
}

fn encode(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// "Log out everywhere": all sessions of one user, and nobody else's.
#[test]
fn the_sessions_under_a_prefix_end_a_page_at_a_time() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for n in 0..250 {
            assert_eq!(client.post(&format!("/sess/u42.{n}"), "{}").status, 201);
        }
        let others = ["/sess/u421", "/sess/u4", "/items/u42.7"];
        others.iter().for_each(|other| assert_eq!(client.post(other, "{}").status, 201));
        let delete = |client: &mut Client, path: &str| client.request("DELETE", path, &[], b"");
        let (mut deleted, mut pages, mut cursor) = (0, 0, String::new());
        loop {
            let reply = delete(&mut client, &format!("/sess?prefix=u42.&limit=99{cursor}"));
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            let page = reply.json();
            deleted += page["deleted"].as_u64().expect("a number");
            pages += 1;
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(deleted, 250);
        assert!(pages >= 3, "{pages}");
        (0..250).for_each(|n| assert_eq!(client.get(&format!("/sess/u42.{n}")).status, 404));
        others.iter().for_each(|other| assert_eq!(client.get(other).status, 200));
        let again = delete(&mut client, "/sess?prefix=u42.");
        assert_eq!(again.text(), "{\"deleted\":0,\"cursor\":null}");

        for (path, code) in [
            ("/sess?prefix=", "bad_prefix"),
            ("/sess?prefix", "bad_prefix"),
            ("/sess?prefix=u&prefix=u", "bad_prefix"),
            ("/sess?prefix=u&limit=0", "bad_limit"),
            ("/sess?prefix=u&cursor=00", "bad_cursor"),
            ("/sess?prefix=u&ttl=1", "bad_ttl"),
            ("/sess", "missing_sid"),
            ("/sess?limit=9", "missing_sid"),
            // Items are not removed by the page.
            ("/items?prefix=u", "missing_id"),
        ] {
            let reply = delete(&mut client, path);
            assert_eq!((reply.status, reply.problem().0.as_str()), (400, code), "{path}");
        }
        let tagged = client.request("DELETE", "/sess?prefix=u", &[("If-Match", "\"x\"")], b"");
        assert_eq!(tagged.status, 412);
        let evil = [("Sec-Fetch-Site", "cross-site")];
        assert_eq!(client.request("DELETE", "/sess?prefix=u", &evil, b"").status, 403);
        // A cursor is for its prefix only, and one of a list of items is none here.
        assert_eq!(client.post("/items/u43", "{}").status, 201);
        let page = client.get("/items?prefix=u&limit=1").json();
        let cursor = page["cursor"].as_str().expect("two items");
        assert_eq!(delete(&mut client, &format!("/sess?prefix=u&cursor={cursor}")).status, 400);
        others.iter().for_each(|other| assert_eq!(client.get(other).status, 200));
        // With a sid the prefix means nothing.
        assert_eq!(delete(&mut client, "/sess?prefix=u&sid=u421").status, 204);
        assert_eq!(client.get("/sess/u4").status, 200);
    });
}

/// What is done is done, and the same request goes on with the rest.
#[test]
fn a_store_that_fails_in_the_middle_of_a_page_loses_no_session_that_is_not_ended() {
    let redis = Redis::start();
    for_each_front(|front| {
        let settings =
            [("FRONT", front), ("REDIS_ADDR", &*redis.addr()), ("REQUEST_TIMEOUT", "300ms")];
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        for n in 0..20 {
            assert_eq!(client.post(&format!("/sess/u.{n}"), "{}").status, 201);
        }
        let commands = ["ACL", "SETUSER", "default", "-del"];
        assert_eq!(redis.command(&commands), "OK");
        let refused = client.request("DELETE", "/sess?prefix=u.", &[], b"");
        assert_eq!((refused.status, refused.problem().0.as_str()), (502, "store_error"));
        assert_eq!(redis.command(&["ACL", "SETUSER", "default", "+del"]), "OK");
        redis.stop();
        let status = client.request("DELETE", "/sess?prefix=u.", &[], b"").status;
        assert!(matches!(status, 502 | 504), "{status}");
        redis.cont();
        let mut deleted = 0;
        eventually("all to be gone", || {
            let reply = client.request("DELETE", "/sess?prefix=u.", &[], b"");
            deleted += reply.json()["deleted"].as_u64().unwrap_or(0);
            reply.status == 200 && redis.command(&["EXISTS", "sess:u.0", "sess:u.19"]) == "0"
        });
        assert!(deleted <= 20);
    });
}
