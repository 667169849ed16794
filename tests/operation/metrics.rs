//! `/metrics`: what it says is true, Prometheus' own tool finds nothing to say about it, and no client can make it longer.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{
    Client, FRONTS, IN_A_CONTAINER, Kioskd, Redis, eventually, for_each_front, needs_namespaces,
};

/// The value of a series; 0 where there is none.
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(name, _)| *name == series).map_or(0.0, |(_, n)| n.parse().expect("a number"))
}

fn scrape(kioskd: &Kioskd) -> String {
    let reply = kioskd.connect().get("/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    reply.text()
}

/// Every series without its value.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Some of everything: what is there, what is not, what is wrong, what is cut.
fn some_of_everything(kioskd: &Kioskd) {
    let mut client = kioskd.connect();
    let once = [("Idempotency-Key", "k")];
    assert_eq!(client.request("PUT", "/items/7", &once, b"{}").status, 201);
    assert_eq!(client.request("PUT", "/items/7", &once, b"{}").status, 201);
    assert_eq!(client.get("/items/7").status, 200);
    assert_eq!(client.get("/items/none").status, 404);
    assert_eq!(client.get("/nowhere").status, 404);
    assert_eq!(client.get("/items?limit=1").status, 200);
    assert_eq!(client.post("/items/_get", "{\"ids\":[\"7\"]}").status, 200);
    assert_eq!(client.post("/sess/7", "{}").status, 201);
    assert_eq!(client.request("DELETE", "/sess?prefix=7", &[], b"").status, 200);
    assert_eq!(client.get("/livez").status, 200);
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(client.request("OPTIONS", "/items/7", &[], b"").status, 204);
    let mut bad = kioskd.connect();
    bad.send("GET /items/7 HTTP/1.1\r\nHost : kiosk\r\n\r\n");
    assert!(bad.status_or_end().is_none_or(|status| status == 400));
}

#[test]
fn prometheus_own_tool_finds_nothing_to_say() {
    let redis = Redis::start();
    for_each_front(|front| {
        for settings in [vec![], vec![("REDIS_ADDR", redis.addr())]] {
            let mut all = vec![("FRONT", front)];
            all.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
            let kioskd = Kioskd::start(&all);
            some_of_everything(&kioskd);
            let text = scrape(&kioskd);
            let mut tool = Command::new("promtool")
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("promtool is installed; tests/run does it (Debian's package prometheus)");
            let mut stdin = tool.stdin.take().expect("it is piped");
            stdin.write_all(text.as_bytes()).expect("it reads all of it");
            drop(stdin);
            let said = tool.wait_with_output().expect("it ends");
            let words = [said.stdout, said.stderr].concat();
            assert!(
                said.status.success() && words.is_empty(),
                "{}\n{text}",
                String::from_utf8_lossy(&words)
            );
        }
    });
}

#[test]
fn what_is_counted_is_what_happened() {
    let redis = Redis::start();
    for_each_front(|front| {
        redis.command(&["FLUSHALL"]);
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        some_of_everything(&kioskd);
        let text = scrape(&kioskd);
        for (series, wanted) in [
            ("kioskd_http_requests_total{route=\"item\",method=\"PUT\",status=\"2xx\"}", 2.0),
            ("kioskd_http_requests_total{route=\"item\",method=\"GET\",status=\"2xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"item\",method=\"GET\",status=\"4xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"none\",method=\"GET\",status=\"4xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"list\",method=\"GET\",status=\"2xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"bulk\",method=\"POST\",status=\"2xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"purge\",method=\"DELETE\",status=\"2xx\"}", 1.0),
            ("kioskd_http_requests_total{route=\"livez\",method=\"GET\",status=\"2xx\"}", 1.0),
            (
                "kioskd_http_requests_total{route=\"options\",method=\"OPTIONS\",status=\"2xx\"}",
                1.0,
            ),
            (
                "kioskd_http_request_duration_seconds_count{route=\"item\",method=\"PUT\",status=\"2xx\"}",
                2.0,
            ),
            ("kioskd_store_commands_total{command=\"ping\",outcome=\"ok\"}", 1.0),
            ("kioskd_store_commands_total{command=\"set\",outcome=\"ok\"}", 3.0),
            ("kioskd_store_duration_seconds_count{command=\"scan\"}", 2.0),
            ("kioskd_idempotency_replays_total", 1.0),
            ("kioskd_ready", 1.0),
            ("kioskd_store_up", 1.0),
            ("kioskd_draining", 0.0),
            // This scrape.
            ("kioskd_requests_in_flight", 1.0),
        ] {
            assert_eq!(value(&text, series), wanted, "{front} {series} in\n{text}");
        }
        if front == "poll" {
            let refused = "kioskd_http_refused_total{code=\"bad_request\"}";
            let malformed =
                "kioskd_http_requests_total{route=\"malformed\",method=\"none\",status=\"4xx\"}";
            assert_eq!((value(&text, refused), value(&text, malformed)), (1.0, 1.0));
            assert!(value(&text, "kioskd_redis_connects_total") >= 1.0);
        }
        assert!(value(&text, "process_resident_memory_bytes") > 100_000.0);
        assert!(value(&text, "process_open_fds") > 3.0);

        // As /readyz: the store is away, and is there again.
        redis.stop();
        eventually("not to be ready", || kioskd.connect().get("/readyz").status == 503);
        let text = scrape(&kioskd);
        assert_eq!((value(&text, "kioskd_ready"), value(&text, "kioskd_store_up")), (0.0, 0.0));
        let failed = series(&text).into_iter().filter(|name| {
            let is_ping = name.starts_with("kioskd_store_commands_total{command=\"ping\"");
            is_ping && !name.contains("\"ok\"") && value(&text, name) > 0.0
        });
        assert!(failed.count() >= 1, "{text}");
        redis.cont();
        eventually("to be ready", || kioskd.connect().get("/readyz").status == 200);
        assert_eq!(value(&scrape(&kioskd), "kioskd_ready"), 1.0);
        // And without a probe that fails: a refused write is trouble, too.
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(kioskd.connect().get("/readyz").status, 503);
        assert_eq!(value(&scrape(&kioskd), "kioskd_ready"), 0.0);
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(kioskd.connect().get("/readyz").status, 200);
        assert_eq!(value(&scrape(&kioskd), "kioskd_ready"), 1.0);
    });
}

/// A client that invents paths, methods and fields fills no database with series.
#[test]
fn a_thousand_inventions_add_no_series() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        // The same numbers in every run.
        let mut state = 42_u64;
        let mut next = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut send = |client: &mut Client, n: u64| {
            let methods =
                ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
            let method = match next(10) {
                9 => format!("M{}", next(1000)),
                m => methods[m as usize].to_owned(),
            };
            let path = match next(6) {
                0 => format!("/items/{}", next(1000)),
                1 => format!("/sess?sid={}", next(1000)),
                2 => format!("/x{}", next(1000)),
                3 => format!("/items?prefix={}", next(1000)),
                4 => format!("/items?id={}&ttl={}", next(9), next(9)),
                _ => ["/livez", "/metrics", "/items/_get", "/version", "/openapi.json", "/"]
                    [next(6) as usize]
                    .to_owned(),
            };
            let name = format!("X-{}", next(1000));
            let value = n.to_string();
            let fields = [
                (name.as_str(), value.as_str()),
                ("X-Request-Id", &value),
                ("Content-Type", &name),
            ];
            let reply = client.request(&method, &path, &fields, b"");
            if reply.says_close() {
                *client = kioskd.connect();
            }
        };
        let mut client = kioskd.connect();
        // All that can be there.
        (0..3000).for_each(|n| send(&mut client, n));
        let before = series(&scrape(&kioskd));
        (0..1000).for_each(|n| send(&mut client, n));
        let after = series(&scrape(&kioskd));
        let new: Vec<_> = after.difference(&before).collect();
        assert!(new.is_empty(), "{new:?}");
        assert!(after.len() < 1500, "{}", after.len());
    });
}

/// `deploy/kioskd.service` has `ProcSubset=pid`, which hides the host's boot time; an alert, a graph and the status page
/// ask when the process started.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "/proc is Linux's")]
fn when_it_started_is_told_where_proc_shows_processes_alone() {
    needs_namespaces();
    let no_boot = "mount --bind /dev/null /proc/stat && exec \"$@\"";
    let hidden = [&IN_A_CONTAINER[..], &[no_boot]].concat();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    for_each_front(|front| {
        let before = now();
        let kioskd = Kioskd::start_under(&hidden, &[("FRONT", front)]);
        let started = value(&scrape(&kioskd), "process_start_time_seconds");
        assert!((before - 1.0..=now()).contains(&started), "{started}, and it was {before}");
    });
}

/// Scrapers have no token, and come even when all workers are stuck.
#[test]
fn metrics_have_an_address_of_their_own() {
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("AUTH_TOKENS", "a:secret-a"),
            ("METRICS_LISTEN", "127.0.0.1:0"),
        ]);
        let at = metrics_at(&mut kioskd);
        assert_eq!(kioskd.connect().get("/metrics").status, 401);
        let reply = Client::connect(&at).get("/metrics");
        assert_eq!((reply.status, reply.says_close()), (200, true));
        assert!(reply.text().contains("kioskd_ready 1\n"));
        // They, too, find their own id in the answer, or one that nobody else has.
        let id_of = |fields: &[(&str, &str)]| {
            let reply = Client::connect(&at).request("GET", "/metrics", fields, b"");
            reply.header("X-Request-Id").expect("an id").to_owned()
        };
        assert_eq!(id_of(&[("X-Request-Id", "mine")]), "mine");
        assert_ne!(id_of(&[]), id_of(&[]));
        assert_ne!(id_of(&[("X-Request-Id", "not fit")]), "not fit");
        let head = Client::connect(&at).head("/metrics?x=y");
        assert_eq!((head.status, head.body.len()), (200, 0));
        for (method, path, status) in
            [("GET", "/items/7", 404), ("GET", "/livez", 404), ("PUT", "/metrics", 405)]
        {
            assert_eq!(Client::connect(&at).request(method, path, &[], b"").status, status);
        }
        let mut bad = Client::connect(&at);
        bad.send("GET /metrics HTTP/1.1\r\n\r\n");
        assert_eq!(bad.read_response().status, 400);
        // What nobody reads does not reset the connection, which could destroy the answer.
        let mut long = Client::connect(&at);
        let body = "x".repeat(500_000);
        let length = body.len();
        let _ = long.try_send(format!(
            "PUT /metrics HTTP/1.1\r\nHost: k\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert!(long.read_to_clean_end().starts_with(b"HTTP/1.1 405 "));
        // Those who say nothing, or begin and do not end, hold up nobody.
        let began = Instant::now();
        let mut idle: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(&at).expect("it listens")).collect();
        idle[1].write_all(b"GET /metrics HT").expect("it is taken");
        let mut stream = TcpStream::connect(&at).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: k\r\n\r\n").expect("it is taken");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in its turn");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        // They have a second each.
        let mut rest = Vec::new();
        idle[1].set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        assert!(idle[1].read_to_end(&mut rest).is_ok() && rest.is_empty());
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0));
    });
}

fn metrics_at(kioskd: &mut Kioskd) -> String {
    told(kioskd, "metrics at ")
}

/// What stands in the log behind these words.
fn told(kioskd: &mut Kioskd, words: &str) -> String {
    kioskd.wait_for_log(words);
    let log = kioskd.log();
    let (_, rest) = log.split_once(words).expect("it was waited for");
    rest.split([',', '\n']).next().expect("something").to_owned()
}

/// A debugger, or a machine that sleeps, interrupts whoever reads from a socket.
#[test]
fn a_scrape_that_a_pause_interrupts_is_answered() {
    let mut kioskd = Kioskd::start(&[("METRICS_LISTEN", "127.0.0.1:0")]);
    let at = metrics_at(&mut kioskd);
    for _ in 0..5 {
        let (began, mut scraper) = (Instant::now(), Client::connect(&at));
        scraper.send("GET /metrics HTTP/1.1\r\n");
        kioskd.stop();
        kioskd.cont();
        let _ = scraper.try_send("Host: k\r\n\r\n");
        // It has a second, which goes on in the pause.
        if scraper.status_or_end() != Some(200) {
            assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
        }
    }
}

/// Who is served and who is refused leave scrapers what they need: the listener, their own, and the files of `/proc`.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "/proc is Linux's")]
fn a_full_house_leaves_scrapers_their_descriptors() {
    if !FRONTS.contains(&"poll") {
        return; // tiny_http accepts every client.
    }
    let mut kioskd = Kioskd::start_under(
        &["prlimit", "--nofile=160:160"],
        &[("METRICS_LISTEN", "127.0.0.1:0"), ("WORKERS", "1")],
    );
    let at = metrics_at(&mut kioskd);
    let clients = told(&mut kioskd, "MAX_CONNECTIONS is ").parse::<usize>().expect("a number");
    let mut served: Vec<Client> = (0..clients).map(|_| kioskd.connect()).collect();
    for client in &mut served {
        assert_eq!(client.get("/livez").status, 200);
    }
    // Those refused linger for two seconds, and a scraper that says nothing for one: only a machine that is slow lets them
    // end before the last one is answered.
    eventually("a scrape among all of them", || {
        let mut refused: Vec<Client> = (0..64).map(|_| kioskd.connect()).collect();
        let all = refused.iter_mut().all(|client| client.status_or_end() == Some(503));
        let _idle: Vec<Client> = (0..31).map(|_| Client::connect(&at)).collect();
        let text = Client::connect(&at).get("/metrics").text();
        let open = value(&text, "process_open_fds");
        assert_eq!(value(&text, "kioskd_connections_refused_total{reason=\"descriptors\"}"), 0.0);
        all && open > (clients + 64 + 31) as f64
    });
}
