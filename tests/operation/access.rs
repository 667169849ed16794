//! Who may do what, who is told what, and what stands between deployments that share a Redis or a network.

use crate::support::{Client, Cluster, Kioskd, Redis, eventually, for_each_front, temp_dir};

#[test]
fn two_deployments_share_one_redis_and_see_nothing_of_each_other() {
    let redis = Redis::start();
    for_each_front(|front| {
        redis.command(&["FLUSHALL"]);
        let start = |prefix| {
            Kioskd::start(&[
                ("FRONT", front),
                ("REDIS_ADDR", &redis.addr()),
                ("KEY_PREFIX", prefix),
            ])
        };
        let all = [start(""), start("a:"), start("a.b:")];
        for (n, kioskd) in all.iter().enumerate() {
            let mut client = kioskd.connect();
            let once = [("Idempotency-Key", "k")];
            let document = format!("{{\"n\":{n}}}");
            let reply = client.request("PUT", "/items/7", &once, document.as_bytes());
            assert_eq!(reply.status, 201, "{reply:?}");
            assert_eq!(client.post("/sess/7", &document).status, 201);
            // A list that is walked in pages.
            (0..3).for_each(|i| assert_eq!(client.post(&format!("/items/l{i}"), "{}").status, 201));
        }
        for (n, kioskd) in all.iter().enumerate() {
            let mut client = kioskd.connect();
            let document = format!("{{\"n\":{n}}}");
            assert_eq!(client.get("/items/7").text(), document);
            assert_eq!(client.get("/sess/7").text(), document);
            let once = [("Idempotency-Key", "k")];
            let reply = client.request("PUT", "/items/7", &once, document.as_bytes());
            assert_eq!(reply.header("Idempotency-Replayed"), Some("true"));
            assert_eq!(ids(&mut client, 2), ["7", "l0", "l1", "l2"]);
            let bulk = client.post("/items/_get", "{\"ids\":[\"7\",\"none\"]}").json();
            assert_eq!(bulk["items"][0]["item"]["n"], n);
            assert_eq!(client.get("/readyz").status, 200);
        }
        for key in ["item:7", "a:item:7", "a.b:item:7", "a:sess:7", "a:idem:{a:item:7}::k"] {
            assert_eq!(redis.command(&["EXISTS", key]), "1", "{key}");
        }
        assert_eq!(redis.command(&["DBSIZE"]), "18");
    });
}

#[test]
fn a_key_prefix_works_on_a_cluster_too() {
    let cluster = Cluster::start();
    let kioskd = Kioskd::start(&[("REDIS_URL", &*cluster.url()), ("KEY_PREFIX", "a:")]);
    let mut client = kioskd.connect();
    eventually("the cluster", || client.get("/readyz").status == 200);
    for n in 0..50 {
        let once = [("Idempotency-Key", "k")];
        let reply = client.request("PUT", &format!("/items/{n}"), &once, b"{}");
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    assert_eq!(ids(&mut client, 1000).len(), 50);
}

/// For an image without a shell. A probe that hangs is as bad as none: a frozen process is noticed.
#[test]
fn healthcheck_is_the_probe_from_inside() {
    let redis = Redis::start();
    for_each_front(|front| {
        let directory = temp_dir();
        let socket = format!("unix:{}", directory.join("kioskd.sock").display());
        for listen in ["127.0.0.1:0", "[::1]:0", &socket] {
            let kioskd = Kioskd::start(&[
                ("FRONT", front),
                ("LISTEN", listen),
                ("REDIS_ADDR", &redis.addr()),
                ("REQUEST_TIMEOUT", "500ms"),
            ]);
            let at = kioskd.addr();
            let url = if listen == socket { socket.clone() } else { format!("http://{at}") };
            let check = |arguments: &[&str]| {
                let words = [&["healthcheck"], arguments].concat();
                let ended = Kioskd::run(&[("LISTEN", &at)], &words);
                (ended.code, ended.stderr)
            };
            let well = (Some(0), String::new());
            assert_eq!(check(&[]), well);
            assert_eq!(check(&[&url]), well);
            redis.stop();
            eventually("not to be ready", || check(&[]).0 == Some(1));
            assert_eq!(check(&[&url]).1, "kioskd: healthcheck: /readyz: 503\n");
            redis.cont();
            eventually("to be ready again", || check(&[]) == well);
            if listen != socket {
                assert_eq!(check(&[&format!("{url}/livez")]), well);
                assert_eq!(
                    check(&[&format!("{url}/nowhere")]).1,
                    "kioskd: healthcheck: /nowhere: 404\n"
                );
                assert_eq!(check(&["https://h"]).0, Some(1));
                assert_eq!(check(&[&url, &url]).0, Some(2));
            }
            if listen == socket {
                kioskd.stop();
                let (code, why) = check(&[]);
                assert_eq!((code, why.contains("no answer in time")), (Some(1), true), "{why}");
                kioskd.cont();
            }
            drop(kioskd);
            assert_eq!(check(&[]).0, Some(1));
        }
        let _ = std::fs::remove_dir_all(&directory);
    });
}

/// All ids, read in pages.
fn ids(client: &mut Client, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/items?limit={limit}{cursor}")).json();
        for item in page["items"].as_array().expect("items") {
            ids.push(item["id"].as_str().expect("an id").to_owned());
        }
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.sort();
    ids
}

/// So that clients spread over new replicas. One that is in the middle of nothing is not closed under its hands: it is
/// told with its next answer.
#[test]
fn an_old_connection_ends_with_its_next_response() {
    let kioskd = Kioskd::start(&[("KEEPALIVE_TIME", "100ms")]);
    let mut client = kioskd.connect();
    eventually("a response that closes", || client.get("/livez").says_close());
    assert!(client.is_closed());
    let kioskd = Kioskd::start(&[]);
    let mut client = kioskd.connect();
    assert!((0..100).all(|_| !client.get("/livez").says_close()));
}
