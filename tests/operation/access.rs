//! Who may do what, who is told what, and what stands between deployments that share a Redis or a network.

use crate::support::texts::Stage;
use crate::support::{
    Client, Cluster, Kioskd, Redis, eventually, for_each_front, needs_namespaces, temp_dir,
};
use std::path::Path;

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

/// An address that means something only with its interface. Not every host has one; a network of our own does.
#[test]
fn healthcheck_asks_at_a_link_local_address_too() {
    needs_namespaces();
    let kioskd = Path::new(env!("CARGO_BIN_EXE_kioskd"));
    for_each_front(|front| {
        let stage = Stage::new(temp_dir(), &[("kioskd", kioskd)]);
        let said = stage.play(&format!(
            "ip address add fe80::1/64 dev lo nodad
             until ip -6 route get fe80::1 oif lo | grep -q ^local; do sleep 0.05; done
             export LISTEN=[fe80::1%1]:8080 FRONT={front}
             ./kioskd >log & until grep -qs listening log; do sleep 0.05; done
             ./kioskd healthcheck; echo $?; ./kioskd healthcheck http://$LISTEN/livez; echo $?"
        ));
        assert_eq!(said, "0\n0\n");
    });
}

/// As in most containers: there is an IPv6 to listen with, and no address of it. IPv4 comes to the same socket.
#[test]
fn healthcheck_asks_where_it_is_heard_if_there_is_no_ipv6() {
    needs_namespaces();
    let kioskd = Path::new(env!("CARGO_BIN_EXE_kioskd"));
    for_each_front(|front| {
        let stage = Stage::new(temp_dir(), &[("kioskd", kioskd)]);
        let said = stage.play(&format!(
            "ip address del ::1/128 dev lo
             export LISTEN=[::]:8080 FRONT={front}
             ./kioskd >log & until grep -qs listening log; do sleep 0.05; done
             ./kioskd healthcheck; echo $?; unset LISTEN; ./kioskd healthcheck; echo $?"
        ));
        assert_eq!(said, "0\n0\n");
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

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

/// What a token may do, asked of every kind of path.
#[test]
fn a_token_opens_what_it_is_for_and_nothing_else() {
    for_each_front(|front| {
        let tokens = "all:secret-a,reads:secret-r:ro,web:secret-w:web-*,both:secret-b:ro:web-*";
        let kioskd = Kioskd::start(&[("FRONT", front), ("AUTH_TOKENS", tokens)]);
        assert!(!kioskd.log().contains("secret-"), "{}", kioskd.log());
        let mut client = kioskd.connect();
        let mut status = |method: &str, path: &str, secret: &str, body: &str| {
            let authorization = bearer(secret);
            let fields: &[(&str, &str)] = match secret {
                "" => &[],
                _ => &[("Authorization", &authorization), ("Content-Type", "application/json")],
            };
            let reply = client.request(method, path, fields, body.as_bytes());
            let closes = reply.says_close();
            if reply.status == 401 {
                assert!(reply.header("WWW-Authenticate").is_some_and(|c| c.starts_with("Bearer ")));
                assert_eq!(reply.problem().0, "unauthorized");
            }
            if reply.status == 403 {
                assert_eq!(reply.problem().0, "forbidden");
            }
            if closes {
                client = kioskd.connect();
            }
            reply.status
        };
        for path in ["/livez", "/healthz", "/readyz", "/ready", "/livez?verbose"] {
            assert_eq!(status("GET", path, "", ""), 200, "{path}");
            assert_eq!(status("GET", path, "wrong", ""), 200, "{path}");
        }
        for path in [
            "/items/web-1",
            "/items?prefix=web-",
            "/metrics",
            "/version",
            "/openapi.json",
            "/no",
            "/items",
        ] {
            assert_eq!(status("GET", path, "", ""), 401, "{path}");
            assert_eq!(status("GET", path, "secret-", ""), 401, "{path}");
        }
        assert_eq!(status("OPTIONS", "/items/web-1", "", ""), 401);
        assert_eq!(status("BREW", "/items/web-1", "", ""), 401);
        assert_eq!(status("PUT", "/items/web-1", "", "{}"), 401);
        let (allowed, refused) = (true, false);
        for (method, path, body, may) in [
            ("PUT", "/items/web-1", "{}", [allowed, refused, allowed, refused]),
            ("PUT", "/items/other", "{}", [allowed, refused, refused, refused]),
            ("PUT", "/items?id=web-1", "{}", [allowed, refused, allowed, refused]),
            ("PATCH", "/items/web-1", "{}", [allowed, refused, allowed, refused]),
            ("GET", "/items/web-1", "", [allowed; 4]),
            ("HEAD", "/items/web-1", "", [allowed; 4]),
            ("GET", "/items/other", "", [allowed, allowed, refused, refused]),
            ("GET", "/items?id=other", "", [allowed, allowed, refused, refused]),
            ("GET", "/items?prefix=web-", "", [allowed; 4]),
            ("GET", "/items?prefix=web-1", "", [allowed; 4]),
            ("GET", "/items?prefix=web", "", [allowed, allowed, refused, refused]),
            ("GET", "/items?limit=9", "", [allowed, allowed, refused, refused]),
            ("POST", "/items/_get", "{\"ids\":[\"web-1\"]}", [allowed; 4]),
            (
                "POST",
                "/items/_get",
                "{\"ids\":[\"web-1\",\"x\"]}",
                [allowed, allowed, refused, refused],
            ),
            ("POST", "/sess/web-1", "{}", [allowed, refused, allowed, refused]),
            ("GET", "/sess/web-1", "", [allowed; 4]),
            ("DELETE", "/sess?prefix=web-", "", [allowed, refused, allowed, refused]),
            ("DELETE", "/sess?prefix=we", "", [allowed, refused, refused, refused]),
            ("DELETE", "/items/web-2", "", [allowed, refused, allowed, refused]),
            ("GET", "/metrics", "", [allowed; 4]),
            ("OPTIONS", "/items/web-1", "", [allowed; 4]),
        ] {
            for (secret, may) in
                ["secret-a", "secret-r", "secret-w", "secret-b"].into_iter().zip(may)
            {
                if method == "GET" && path.starts_with("/sess") {
                    status("POST", path, "secret-a", "{}");
                }
                let found = status(method, path, secret, body);
                let wanted = if may { found / 100 == 2 } else { found == 403 };
                assert!(wanted, "{method} {path} {secret}: {found}");
            }
        }
    });
}

/// A key belongs to its token: two users may choose the same.
#[test]
fn an_idempotency_key_belongs_to_its_token() {
    let redis = Redis::start();
    for store in ["memory", "redis"] {
        let address = redis.addr();
        let mut settings = vec![("AUTH_TOKENS", "a:secret-a,b:secret-b"), ("STORE", store)];
        if store == "redis" {
            settings.push(("REDIS_ADDR", &address));
        }
        let kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        let mut put = |secret: &str, body: &str| {
            let fields = [("Authorization", &*bearer(secret)), ("Idempotency-Key", "k")];
            let reply = client.request("PUT", "/items/7", &fields, body.as_bytes());
            (reply.status, reply.header("Idempotency-Replayed").is_some())
        };
        assert_eq!(put("secret-a", "{\"a\":1}"), (201, false));
        assert_eq!(put("secret-b", "{\"b\":1}"), (204, false));
        assert_eq!(put("secret-a", "{\"a\":1}"), (201, true));
        assert_eq!(put("secret-b", "{\"a\":1}"), (422, false));
    }
    assert_eq!(redis.command(&["EXISTS", "idem:{item:7}:a:k", "idem:{item:7}:b:k"]), "2");
}

/// Tokens change while we run; a file that is being written does not lock everybody out.
#[test]
fn a_file_of_tokens_is_read_again_and_one_that_is_not_usable_changes_nothing() {
    for_each_front(|front| {
        let directory = temp_dir();
        let path = directory.join("tokens");
        let file = path.display().to_string();
        std::fs::write(&path, "a:secret-1\n").expect("our own file");
        let mut kioskd =
            Kioskd::start(&[("FRONT", front), ("AUTH_TOKENS_FILE", &file), ("ACCESS_LOG", "all")]);
        let mut client = kioskd.connect();
        let mut status = |secret: &str| {
            client.request("GET", "/version", &[("Authorization", &*bearer(secret))], b"").status
        };
        assert_eq!((status("secret-1"), status("secret-2")), (200, 401));
        for unusable in ["", "a:secret-2\nbroken"] {
            std::fs::write(&path, unusable).expect("our own file");
            kioskd.signal("HUP");
            kioskd.wait_for_log("the tokens stay as they were");
            assert_eq!((status("secret-1"), status("secret-2")), (200, 401));
        }
        // A pipe would be waited for until somebody writes into it.
        std::fs::remove_file(&path).expect("our own file");
        assert!(
            std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success()
        );
        kioskd.signal("HUP");
        kioskd.wait_for_log("a pipe or a socket is no file");
        let ended = Kioskd::run(&[("AUTH_TOKENS_FILE", &file)], &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert_eq!((status("secret-1"), status("secret-2")), (200, 401));
        std::fs::remove_file(&path).expect("our own file");
        std::fs::write(&path, "# the new ones\nb:secret-2,c:secret-3\n").expect("our own file");
        kioskd.signal("HUP");
        kioskd.wait_for_log("2 tokens read from");
        assert_eq!((status("secret-1"), status("secret-2")), (401, 200));
        // Without a signal: it is looked at every 10 s.
        std::fs::write(&path, "d:secret-4\n").expect("our own file");
        kioskd.wait_for_log("1 tokens read from");
        assert_eq!((status("secret-2"), status("secret-4")), (401, 200));
        kioskd.wait_for_log("token=d");
        assert!(!kioskd.log().contains("secret-"), "{}", kioskd.log());
        let _ = std::fs::remove_dir_all(&directory);
    });
}

/// The count is in the store, so the limit holds over all replicas.
#[test]
fn ten_in_a_window_are_ten_over_two_replicas() {
    let redis = Redis::start();
    for_each_front(|front| {
        redis.command(&["FLUSHALL"]);
        let start = || {
            let address = redis.addr();
            let settings = [("FRONT", front), ("REDIS_ADDR", &*address), ("RATE_LIMIT", "10/m")];
            Kioskd::start(&[&settings[..], &[("AUTH_TOKENS", "a:secret-a,b:secret-b")]].concat())
        };
        let replicas = [start(), start()];
        let mut clients = [replicas[0].connect(), replicas[1].connect()];
        let mut ask = |n: usize, secret: &str, path: &str| {
            clients[n % 2].request("GET", path, &[("Authorization", &*bearer(secret))], b"")
        };
        for n in 0..25 {
            let reply = ask(n, "secret-a", "/items/7");
            assert_eq!(reply.status, if n < 10 { 404 } else { 429 }, "{n}: {reply:?}");
            assert_eq!(reply.header("RateLimit-Policy"), Some("\"default\";q=10;w=60"));
            let left = 9_usize.saturating_sub(n);
            let field = reply.header("RateLimit").expect("the rest");
            assert!(field.starts_with(&format!("\"default\";r={left};t=")), "{field}");
            let seconds = reply.header("Retry-After").map(|s| s.parse::<u64>().expect("a number"));
            assert_eq!(seconds.is_some(), n >= 10);
            assert!(seconds.is_none_or(|s| (1..=60).contains(&s)), "{seconds:?}");
        }
        assert_eq!(ask(0, "secret-a", "/items/7").problem().0, "rate_limited");
        // Another token has its own, and probes and scrapes are not counted.
        assert_eq!(ask(0, "secret-b", "/items/7").status, 404);
        (0..30).for_each(|n| assert_eq!(ask(n, "secret-a", "/livez").status, 200));
        assert_eq!(ask(0, "secret-a", "/readyz").status, 200);
        let metrics = ask(0, "secret-a", "/metrics").text();
        assert!(metrics.contains("kioskd_rate_limited_total 9"), "{metrics}");
        let left: i64 = redis.command(&["PTTL", "rate:t:a"]).parse().expect("milliseconds");
        assert!((0..=60_000).contains(&left), "{left}");
    });
}

/// Guesses, above all, and what is refused for any other reason: each is a request.
#[test]
fn what_is_refused_is_counted_too() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("RATE_LIMIT", "5/h"),
            ("AUTH_TOKENS", "a:secret-a,r:secret-r:ro"),
        ]);
        let ask = |method: &str, path: &str, secret: &str, body: &str| {
            let fields = [("Authorization", &*bearer(secret))];
            kioskd.connect().request(method, path, &fields, body.as_bytes()).status
        };
        for n in 0..8 {
            let status = ask("PUT", "/items/7", &format!("guess-{n}"), "{}");
            assert_eq!(status, if n < 5 { 401 } else { 429 }, "{n}");
        }
        for (n, (method, path, status)) in [
            ("PUT", "/items/7", 403),
            ("GET", "/no", 404),
            ("BREW", "/items/7", 403),
            ("POST", "/version", 403),
            ("GET", "/items?limit=0", 400),
        ]
        .into_iter()
        .chain([("GET", "/no", 429), ("GET", "/items/7", 429), ("PUT", "/items/7", 429)])
        .enumerate()
        {
            assert_eq!(ask(method, path, "secret-r", "{}"), status, "{n} {method} {path}");
        }
        // A body that is still on its way is not waited for, nor taken for the next request. The library of the
        // other front reads all of a body before it writes.
        if front == "poll" {
            let mut client = kioskd.connect();
            client.send("PUT /items/7 HTTP/1.1\r\nHost: k\r\nContent-Length: 40\r\n\r\n");
            let reply = client.read_response();
            assert_eq!(reply.status, 429);
            assert!(reply.says_close());
        }
        assert_eq!(ask("GET", "/items/7", "secret-a", ""), 404);
    });
}

/// A store that cannot count must not stop those whom it could serve, nor hold them up for long.
#[test]
fn a_store_that_does_not_count_lets_all_pass() {
    let redis = Redis::start();
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &redis.addr()),
            ("RATE_LIMIT", "1/h"),
            ("REQUEST_TIMEOUT", "3s"),
        ]);
        redis.command(&["FLUSHALL"]);
        redis.command(&["ACL", "SETUSER", "default", "-incr"]);
        let mut client = kioskd.connect();
        for _ in 0..3 {
            let reply = client.get("/items/7");
            assert_eq!((reply.status, reply.header("RateLimit")), (404, None), "{reply:?}");
        }
        // None of them has failed, and the log must not say so.
        kioskd.wait_for_log("redis: RATE_LIMIT does not hold, requests pass uncounted: ");
        assert!(!kioskd.log().contains("requests fail"), "{}", kioskd.log());
        redis.command(&["ACL", "SETUSER", "default", "+incr"]);
        assert_eq!([client.get("/items/7").status, client.get("/items/7").status], [404, 429]);
        // Frozen: the count has a tenth of the time, and then the request has the rest of it.
        redis.stop();
        let began = std::time::Instant::now();
        assert!(matches!(client.get("/items/7").status, 502 | 504));
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        redis.cont();
        let skipped = |client: &mut Client| {
            let text = client.get("/metrics").text();
            let line =
                text.lines().find(|line| line.starts_with("kioskd_rate_limit_skipped_total"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("a number")
        };
        assert!(skipped(&mut client) >= 4);
        eventually("it to count again", || client.get("/items/7").status == 429);
    });
}

/// Behind a proxy all clients would be one.
#[test]
fn a_client_is_who_a_trusted_proxy_says() {
    for_each_front(|front| {
        let directory = temp_dir();
        let socket = format!("unix:{}", directory.join("kioskd.sock").display());
        for (listen, proxies) in [("127.0.0.1:0", "127.0.0.0/8"), (&*socket, "unix")] {
            let mut kioskd = Kioskd::start(&[
                ("FRONT", front),
                ("LISTEN", listen),
                ("RATE_LIMIT", "1/h"),
                ("TRUSTED_PROXIES", proxies),
                ("ACCESS_LOG", "all"),
            ]);
            let mut client = kioskd.connect();
            let mut ask = |from: &str| {
                client.request("GET", "/items/7", &[("X-Forwarded-For", from)], b"").status
            };
            assert_eq!((ask("203.0.113.1"), ask("203.0.113.1")), (404, 429));
            assert_eq!((ask("203.0.113.2"), ask("6.6.6.6, 203.0.113.2")), (404, 429));
            assert_eq!((ask("2001:db8::1"), ask("2001:db8::2")), (404, 429));
            kioskd.wait_for_log("peer=203.0.113.1");
        }
        let kioskd = Kioskd::start(&[("FRONT", front), ("RATE_LIMIT", "1/h")]);
        let mut client = kioskd.connect();
        let mut ask = |from: &str| {
            client.request("GET", "/items/7", &[("X-Forwarded-For", from)], b"").status
        };
        assert_eq!((ask("203.0.113.1"), ask("203.0.113.2")), (404, 429), "nobody is trusted");
        let _ = std::fs::remove_dir_all(&directory);
    });
}

/// A page of a listed site may do what others may, and reads why it may not.
#[test]
fn pages_of_listed_sites_may_ask() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("CORS_ORIGINS", "https://app.example,http://localhost:3000"),
            ("AUTH_TOKENS", "a:secret-a"),
        ]);
        let mut client = kioskd.connect();
        let mut ask =
            |method: &str, path: &str, origin: &str, more: &[(&str, &str)], body: &str| {
                let fields = [&[("Origin", origin)], more].concat();
                let reply = client.request(method, path, &fields, body.as_bytes());
                if reply.says_close() {
                    client = kioskd.connect();
                }
                assert_eq!(reply.header("Vary"), Some("Origin"), "{reply:?}");
                assert_eq!(reply.header("Access-Control-Allow-Credentials"), None);
                let named = reply.header("Access-Control-Allow-Origin").map(str::to_owned);
                let exposed = reply.header("Access-Control-Expose-Headers");
                assert_eq!(exposed.is_some(), named.is_some());
                (reply.status, named, reply)
            };
        let app = Some("https://app.example".to_owned());
        let asks = [("Access-Control-Request-Method", "PUT")];
        let (status, named, reply) = ask("OPTIONS", "/items/7", "https://app.example", &asks, "");
        assert_eq!((status, &named), (204, &app));
        assert_eq!(
            reply.header("Access-Control-Allow-Methods"),
            Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        );
        assert!(
            reply.header("Access-Control-Allow-Headers").is_some_and(|h| h.contains("If-Match"))
        );
        assert_eq!(reply.header("Access-Control-Max-Age"), Some("600"));
        // One that is not listed is nobody special.
        let (status, named, reply) = ask("OPTIONS", "/items/7", "https://evil.example", &asks, "");
        assert_eq!((status, named), (401, None));
        assert_eq!(reply.header("Access-Control-Allow-Methods"), None);

        let authorization = bearer("secret-a");
        let authorized = [("Authorization", &*authorization), ("Sec-Fetch-Site", "cross-site")];
        for (path, origin, fields, body, wanted) in [
            ("/items/7", "https://app.example", &authorized[..], "{}", (201, &app)),
            ("/items/7", "https://app.example", &authorized, "[]", (400, &app)),
            ("/items/7", "https://app.example", &[], "{}", (401, &app)),
            ("/no", "https://app.example", &authorized, "{}", (404, &app)),
            ("/items/7", "https://evil.example", &authorized, "{}", (403, &None)),
        ] {
            let (status, named, _) = ask("PUT", path, origin, fields, body);
            assert_eq!((status, &named), wanted, "{path} {origin}");
        }
        let reply = kioskd.connect().get("/livez");
        assert_eq!(reply.header("Vary"), Some("Origin"));
    });
    // Those that are refused before there is a head, too: a page could not read why.
    let kioskd = Kioskd::start(&[
        ("CORS_ORIGINS", "https://app.example"),
        ("HEAD_TIMEOUT", "300ms"),
        ("MAX_HEAD_BYTES", "1000"),
    ]);
    let start = "GET /items/7 HTTP/1.1\r\nHost: k\r\nOrigin: https://app.example\r\n";
    for (rest, status) in [
        (format!("A: {}\r\n\r\n", "x".repeat(1000)), 431),
        ("Content-Length: x\r\n\r\n".to_owned(), 400),
        ("A: b".to_owned(), 408),
    ] {
        let mut client = kioskd.connect();
        client.send(format!("{start}{rest}"));
        let reply = client.read_response();
        let named = reply.header("Access-Control-Allow-Origin");
        assert_eq!((reply.status, named), (status, Some("https://app.example")));
    }
    let settings = [("CORS_ORIGINS", "https://app.example"), ("MAX_CONNECTIONS", "2")];
    let kioskd = Kioskd::start(&settings);
    let held = [kioskd.connect(), kioskd.connect()];
    eventually("the house to be full", || {
        let mut client = kioskd.connect();
        client.send(format!("{start}\r\n"));
        let reply = client.read_response();
        let named = reply.header("Access-Control-Allow-Origin");
        assert_eq!(named, Some("https://app.example"), "{reply:?}");
        reply.status == 503
    });
    drop(held);
    let kioskd = Kioskd::start(&[]);
    let reply = kioskd.connect().request("GET", "/livez", &[("Origin", "https://a.example")], b"");
    assert_eq!((reply.header("Vary"), reply.header("Access-Control-Allow-Origin")), (None, None));
}
