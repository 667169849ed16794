//! What operators read, and what they must never: whole lines, nothing lost without a word, and nobody's secret.

use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{Act, FakeRedis, Kioskd, Redis, eventually, for_each_front, temp_dir};

/// Stands in every session's id here. Not in lower case, so that no word of ours is taken for it.
const SECRET: &str = "S3CRET";

/// Every way to name a session that the router takes or a client could think it takes, with every method, answered in
/// every way: by a store that has it, by one that is away, by one that quotes what it was asked, and by nobody because
/// the request is refused.
#[test]
fn the_log_never_shows_the_id_of_a_session() {
    let redis = Redis::start();
    let mut gone = Redis::start();
    gone.kill();
    let quoting = FakeRedis::start(|command| match &*command[0] {
        "HELLO" | "CLIENT" | "PING" | "SELECT" => Act::Usual,
        name => {
            let quoted = command[1..].join("' '");
            let said =
                format!("ERR unknown command '{name}', with args beginning with: '{quoted}'");
            Act::Send(format!("-{}\r\n", said.replace(['\r', '\n'], " ")).into_bytes())
        }
    });
    for_each_front(|front| {
        for (format, address) in [
            ("text", None),
            ("json", Some(redis.addr())),
            ("text", Some(gone.addr())),
            ("json", Some(quoting.addr())),
        ] {
            eprintln!("-- {format} {address:?}");
            let mut settings = vec![
                ("FRONT", front),
                ("LOG", "trace"),
                ("LOG_FORMAT", format),
                ("ACCESS_LOG", "all"),
                ("REQUEST_TIMEOUT", "300ms"),
            ];
            settings.extend(address.as_deref().map(|address| ("REDIS_ADDR", address)));
            let kioskd = Kioskd::start(&settings);
            let sent = ask_for_the_secret(&kioskd, front);
            eventually("an access line for each request", || {
                let log = kioskd.log();
                // On a slow machine there may be more to say than can be written.
                [r#"peer=127.0.0.1"#, r#""peer":"127.0.0.1""#]
                    .iter()
                    .any(|peer| log.matches(peer).count() == sent)
                    || log.contains("lines were dropped")
            });
            let log = kioskd.log();
            let shown = log.lines().find(|line| line.contains(SECRET));
            assert_eq!(shown, None, "of:\n{log}");
            for masked in ["/sess/…", "/sess?sid=…"] {
                assert!(log.contains(masked), "no {masked} in:\n{log}");
            }
            assert!(log.contains("/items/plain"), "what is no secret:\n{log}");
        }
    });
}

/// How many requests it has sent.
fn ask_for_the_secret(kioskd: &Kioskd, front: &str) -> usize {
    let paths = [
        "/sess/{}",
        "/sess?sid={}",
        "/sess?s%69d={}&ttl=60",
        "/sess?sid={}&sid={}",
        "/sess/{}?sid={}",
        "/sess/{}/",
        "/sess/{}/x",
        "/sess/?sid={}",
        "/%73ess/{}",
        "/%2573ess/{}",
        "/items?x=s%25252569d%3D{}",
        "/sess%2F{}",
        "//sess/{}",
        "/sess/{}%zz",
        "/sess/_{}",
        "/sess?id={}",
        "/sess?prefix={}",
        "/items/plain?sid={}",
        "http://kiosk/sess/{}",
    ];
    let json = ("Content-Type", "application/merge-patch+json");
    let mut sent = 0;
    for path in paths {
        let path = path.replace("{}", SECRET);
        for (method, body) in [
            ("POST", "{}"),
            ("GET", ""),
            ("HEAD", ""),
            ("PATCH", "{}"),
            ("PUT", "[]"),
            ("DELETE", ""),
            ("OPTIONS", ""),
            ("TRACE", ""),
            ("BREW", ""),
        ] {
            // A new connection each time: some of these answers close theirs.
            let key = ("Idempotency-Key", "k");
            let mut client = kioskd.connect();
            client.request(method, &path, &[json, key], body.as_bytes());
            sent += 1;
        }
    }
    let refused = [
        "GET /sess/{} HTTP/1.1\r\n\r\n",
        "GET /sess?sid={} HTTP/1.1\r\nHost: kiosk\r\nExpect: {}\r\n\r\n",
        "POST /sess/{} HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 9999999999\r\n\r\n",
        "POST /sess/{} HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: {}\r\n\r\n",
    ];
    // tiny_http itself answers, or waits for, the others.
    let refused = &refused[..if front == "poll" { 4 } else { 1 }];
    for refused in refused {
        let mut client = kioskd.connect();
        client.send(refused.replace("{}", SECRET));
        assert!(client.read_response().status >= 400);
        sent += 1;
    }
    sent
}

/// The pipe is one that somebody else who has it made non-blocking, as Node.js does. Its reader comes late and takes
/// little at a time; a line is longer than what a pipe takes whole or not at all (4 KiB).
#[test]
fn every_line_through_a_slow_pipe_is_whole_and_every_other_is_counted() {
    for_each_front(|front| {
        let dir = temp_dir();
        let (reader, writer) = pipe().expect("a pipe");
        let nonblocking = File::options()
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .expect("a pipe can be opened anew");
        drop(writer);
        let mut kioskd = start_into(nonblocking, front, &dir);
        let long = format!("/livez?{}", "x".repeat(5000));
        let mut client = kioskd.connect();
        let mut ask = |n| (0..n).for_each(|_| assert_eq!(client.get(&long).status, 200));
        ask(1200);
        let read = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let read = Arc::clone(&read);
            move || read_slowly(reader, &read)
        });
        ask(200);
        eventually("each request to be logged or counted", || {
            let told = told(&read.lock().expect("no reader panics"));
            assert_eq!(told.torn.first(), None);
            assert!(told.requests + told.dropped <= 1400, "{told:?}");
            told.requests + told.dropped == 1400
        });
        let told = told(&read.lock().expect("no reader panics"));
        assert!(told.dropped > 0, "the pipe and the queue had room for all");
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0));
        thread.join().expect("the reader ends with the pipe");
        let read = read.lock().expect("no reader panics");
        assert!(read.ends_with(b"\n"), "half a line at the end");
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// `/dev/full` is a disk without a byte left.
#[test]
fn a_stdout_that_takes_nothing_costs_no_request_and_every_line_is_counted() {
    for_each_front(|front| {
        for name in ["/dev/full", "a pipe without a reader"] {
            eprintln!("-- {name}");
            let dir = temp_dir();
            let mut kioskd = match File::options().write(true).open(name) {
                Ok(full) => start_into(full, front, &dir),
                Err(_) => start_into(pipe().expect("a pipe").1, front, &dir),
            };
            let mut client = kioskd.connect();
            for _ in 0..50 {
                assert_eq!(client.get("/livez").status, 200);
            }
            // Those, and what a start says.
            eventually("every line to be counted", || dropped(&kioskd) > 50);
            kioskd.signal("TERM");
            assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
            let _ = std::fs::remove_dir_all(dir);
        }
    });
}

/// `RLIMIT_FSIZE` is the full disk that needs no disk: a write is cut at the limit, and the next one fails (with a
/// signal that ends whoever has no handler for it).
#[test]
fn a_log_file_at_its_limit_ends_nobody_and_goes_on_with_a_whole_line() {
    for_each_front(|front| {
        let dir = temp_dir();
        let path = dir.join("log");
        let file = File::options().create(true).append(true).open(&path);
        let mut kioskd = start_into(file.expect("our own directory"), front, &dir);
        let read = || std::fs::read(&path).expect("it is there");
        let mut client = kioskd.connect();
        let mut sent = 0;
        let mut ask = |n| {
            for _ in 0..n {
                assert_eq!(client.get("/livez").status, 200);
                sent += 1;
            }
            sent
        };
        ask(1);
        eventually("the start and the first request", || told(&read()).requests == 1);
        // Not at the end of a line, whatever the start has said.
        let limit = read().len() + 777;
        limit_file_size(&kioskd, &limit.to_string());
        ask(20);
        let mut scrapes = 0;
        eventually("the limit", || {
            scrapes += 1;
            dropped(&kioskd) > 10
        });
        assert_eq!(read().len(), limit);
        limit_file_size(&kioskd, "unlimited");
        let sent = ask(5) + scrapes;
        eventually("each request to be logged or counted", || {
            let told = told(&read());
            assert!(told.requests + told.dropped <= sent, "{told:?}");
            told.requests + told.dropped == sent
        });
        let text = String::from_utf8(read()).expect("the log is text");
        let told = told(text.as_bytes());
        assert!(told.dropped > 10, "{told:?}");
        // What was cut stands alone on its line, and is the first part of one.
        let [torn] = &told.torn[..] else {
            panic!("{told:?}");
        };
        assert!(torn.starts_with("{\"time\":"), "{torn}");
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// Each from its real cause; two workers, so that each could say it.
#[test]
fn what_redis_refuses_is_told_once_with_what_to_do_about_it() {
    type Row<'a> = (&'a str, &'a [&'a [&'a str]], &'a str, &'a str);
    let refuse: [Row; 7] = [
        ("OOM", &[&["CONFIG", "SET", "maxmemory", "1"]], "POST", "raise maxmemory"),
        ("READONLY", &[&["REPLICAOF", "127.0.0.1", "1"]], "POST", "address of the master"),
        (
            "MASTERDOWN",
            &[
                &["CONFIG", "SET", "replica-serve-stale-data", "no"],
                &["REPLICAOF", "127.0.0.1", "1"],
            ],
            "GET",
            "INFO replication",
        ),
        (
            "NOREPLICAS",
            &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
            "POST",
            "min-replicas-to-write",
        ),
        ("NOPERM", &[&["ACL", "SETUSER", "default", "-get"]], "GET", "ACL SETUSER"),
        ("WRONGTYPE", &[&["LPUSH", "item:1", "x"]], "GET", "another program"),
        (
            "MISCONF",
            &[&["CONFIG", "SET", "save", "1 1"], &["SET", "x", "y"], &["BGSAVE"]],
            "POST",
            "its disk",
        ),
    ];
    for_each_front(|front| {
        for (code, commands, method, advice) in refuse {
            eprintln!("-- {code}");
            let gone = temp_dir();
            let redis = Redis::start_with(&["--dir", &gone.to_string_lossy()]);
            // Nothing can be saved where nothing is.
            std::fs::remove_dir_all(gone).expect("our own directory");
            for command in commands {
                redis.command(command);
            }
            let kioskd = start_before(front, &redis.addr());
            // A new connection each time, so that both workers have some.
            let ask = |()| {
                let mut client = kioskd.connect();
                client.request(method, "/items/1", &[], b"{}").status
            };
            eventually("Redis to refuse", || [(); 6].map(ask).iter().all(|status| *status >= 500));
            let line = format!("requests fail: {code} ");
            eventually("it to be told", || kioskd.log().contains(&line));
            let log = kioskd.log();
            let told: Vec<_> = log.lines().filter(|l| l.contains(&line)).collect();
            assert_eq!(told.len(), 1, "{log}");
            assert!(told[0].contains(advice) && told[0].contains("WARN"), "{log}");
        }
    });
}

/// A password that is wrong is told before the first request comes.
#[test]
fn what_redis_says_to_signing_on_is_told_with_what_to_set() {
    for_each_front(|front| {
        let redis = Redis::start_with(&["--requirepass", "right"]);
        for (user_info, code) in [("", "NOAUTH"), (":wrong@", "WRONGPASS")] {
            let url = format!("redis://{user_info}{}", redis.addr());
            let mut kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_URL", &url)]);
            assert_eq!(kioskd.connect().get("/readyz").status, 503);
            kioskd.wait_for_log(code);
            let log = kioskd.log();
            let line = log.lines().find(|line| line.contains(code));
            assert!(line.is_some_and(|l| l.contains("REDIS_PASSWORD_FILE")), "{log}");
        }
    });
}

/// The advice for a user who may do too little, followed.
#[test]
fn the_permissions_that_the_log_advises_are_enough() {
    let advised = "~item:* ~sess:* ~idem:* +@read +@write +@scripting +@connection";
    let redis = Redis::start();
    let set = |rules: &str| {
        let user = ["ACL", "SETUSER", "kiosk", "on", ">pw"];
        redis.command(&[&user[..], &rules.split(' ').collect::<Vec<_>>()].concat())
    };
    set("+ping");
    let url = format!("redis://kiosk:pw@{}", redis.addr());
    let mut kioskd = Kioskd::start(&[("REDIS_URL", &url), ("FRONT", "poll")]);
    let mut client = kioskd.connect();
    assert_eq!(client.get("/items/1").status, 502);
    kioskd.wait_for_log(advised);
    set(advised);
    let kind = ("Content-Type", "application/merge-patch+json");
    for (method, path, status) in [
        ("POST", "/items/1", 201),
        ("PATCH", "/items/1", 200),
        ("GET", "/items/1", 200),
        ("GET", "/items?limit=5", 200),
        ("DELETE", "/items/1", 204),
        ("POST", "/sess/1", 201),
        ("GET", "/sess/1", 200),
        ("GET", "/readyz", 200),
    ] {
        let key = ("Idempotency-Key", method);
        let reply = client.request(method, path, &[kind, key], b"{}");
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    }
    // What these two need beside that is said with it.
    for (setting, advised) in [
        (("RATE_LIMIT", "1000/s"), "with RATE_LIMIT also ~rate:*"),
        (("KEY_PREFIX", "a:"), "with KEY_PREFIX=a: only ~a:*"),
    ] {
        let mut kioskd = Kioskd::start(&[("REDIS_URL", &url), ("FRONT", "poll"), setting]);
        let mut client = kioskd.connect();
        client.get("/items/1");
        kioskd.wait_for_log(advised);
        set(advised.rsplit(' ').next().expect("it names keys"));
        let reply = client.post("/items/1", "{}");
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(reply.header("RateLimit").is_some(), setting.0 == "RATE_LIMIT", "{reply:?}");
    }
}

#[test]
fn the_end_of_an_outage_is_told_with_what_it_has_cost() {
    for_each_front(|front| {
        let mut redis = Redis::start();
        let mut kioskd = start_before(front, &redis.addr());
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/1", "{}").status, 201);
        redis.kill();
        for _ in 0..5 {
            assert_eq!(client.get("/items/1").status, 502);
        }
        kioskd.wait_for_log("requests fail: cannot be reached");
        redis.restart();
        eventually("the end to be told", || {
            client.post("/items/1", "{}");
            kioskd.log().contains("requests no longer fail (no connection): ")
        });
        let log = kioskd.log();
        let (_, cost) = log.split_once("(no connection): ").expect("found above");
        let cost = cost.split(' ').next().and_then(|n| n.parse::<u32>().ok());
        assert!(cost.is_some_and(|n| n >= 5), "{log}");
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(client.post("/items/2", "{}").status, 503);
        kioskd.wait_for_log("requests fail: OOM");
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        eventually("the end to be told", || {
            // That it can be read says nothing.
            client.get("/items/1");
            assert_eq!(client.post("/items/2", "{}").status, 201);
            kioskd.log().contains("requests no longer fail (OOM): 1 did in 0 s")
        });
    });
}

fn start_before(front: &str, redis: &str) -> Kioskd {
    Kioskd::start(&[
        ("FRONT", front),
        ("WORKERS", "2"),
        ("REDIS_ADDR", redis),
        ("REQUEST_TIMEOUT", "200ms"),
    ])
}

/// Linux.
const O_NONBLOCK: i32 = 0o4000;

/// With every request logged, in JSON.
fn start_into(
    stdout: impl Into<std::process::Stdio>,
    front: &str,
    dir: &std::path::Path,
) -> Kioskd {
    let listen = format!("unix:{}", dir.join("kioskd.sock").display());
    let settings = [("FRONT", front), ("ACCESS_LOG", "all"), ("LOG_FORMAT", "json")];
    Kioskd::start_into(stdout, &listen, &settings)
}

/// util-linux has it, as it has `setpriv`.
fn limit_file_size(kioskd: &Kioskd, soft: &str) {
    let pid = kioskd.pid().to_string();
    let fsize = format!("--fsize={soft}:");
    let status = Command::new("prlimit").args(["--pid", &pid, &fsize]).status();
    assert!(status.expect("prlimit is installed").success());
}

/// What `/metrics` says of lost lines.
fn dropped(kioskd: &Kioskd) -> usize {
    let text = kioskd.connect().get("/metrics").text();
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix("kioskd_log_lines_dropped_total "))
        .expect("a metric of that name")
        .parse()
        .expect("a number")
}

fn read_slowly(mut pipe: PipeReader, read: &Mutex<Vec<u8>>) {
    let mut piece = [0; 1000];
    while let Ok(n @ 1..) = pipe.read(&mut piece) {
        let mut read = read.lock().expect("no reader panics");
        read.write_all(&piece[..n]).expect("a Vec takes any write");
    }
}

/// What a log in JSON has told.
#[derive(Debug, Default)]
struct Told {
    /// Lines of the access log.
    requests: usize,
    /// How many lines it says were lost.
    dropped: usize,
    /// Lines that are not JSON, empty ones aside; what is behind the last line end is not a line yet.
    torn: Vec<String>,
}

fn told(log: &[u8]) -> Told {
    let end = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut told = Told::default();
    for line in String::from_utf8_lossy(&log[..end]).lines() {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
            told.torn.push(line.to_owned());
            continue;
        };
        if value["target"] == "access" {
            told.requests += 1;
            continue;
        }
        let message = value["message"].as_str().expect("every other line has a message");
        if let Some((n, _)) = message.split_once(" log lines were dropped: ") {
            assert_eq!(value["level"], "warn");
            told.dropped += n.parse::<usize>().expect("a number");
        }
    }
    told
}

/// What a machine reads is fields and not a sentence, whatever a client sends.
#[test]
fn an_access_line_in_json_has_fields() {
    let redis = Redis::start();
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &redis.addr()),
            ("ACCESS_LOG", "all"),
            ("LOG_FORMAT", "json"),
            ("AUTH_TOKENS", "ci:s3cret"),
        ]);
        let mut client = kioskd.connect();
        redis.command(&["FLUSHALL"]);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let fields = [
            ("Authorization", "Bearer s3cret"),
            ("X-Request-Id", "r-1"),
            ("traceparent", &*parent),
        ];
        assert_eq!(client.request("PUT", "/items/a%22b", &fields, b"{\"a\":1}").status, 201);
        let read = [("Authorization", "Bearer s3cret"), ("X-Request-Id", "r-2")];
        assert_eq!(client.request("GET", "/items/a%22b", &read, b"").status, 200);
        let secret = [("Authorization", "Bearer s3cret"), ("X-Request-Id", "r-3")];
        assert_eq!(client.request("GET", "/sess/SECRET", &secret, b"").status, 404);
        let mut bad = kioskd.connect();
        bad.send(b"GET /\"\\\x01 HTTP/1.1\r\nHost: k\r\nX-Request-Id: r-4\r\n\r\n");
        let _ = bad.status_or_end();
        kioskd.wait_for_log("\"r-3\"");
        let log = kioskd.log();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let line = |id: &str| {
            let mut lines = lines.iter();
            lines.find(|line| line["request_id"] == id).unwrap_or_else(|| panic!("{id} in {log}"))
        };
        let put = line("r-1");
        for (name, value) in [
            ("target", "access"),
            ("level", "info"),
            ("method", "PUT"),
            ("path", "/items/a%22b"),
            ("route", "item"),
            ("trace_id", trace),
            ("peer", "127.0.0.1"),
            ("token", "ci"),
        ] {
            assert_eq!(put[name], value, "{name} in {put}");
        }
        assert_eq!(put["status"], 201);
        assert!(put["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{put}");
        let (ms, stored) = (put["ms"].as_f64(), put["store_ms"].as_f64());
        assert!(stored > Some(0.0) && ms >= stored, "{put}");
        assert_eq!(put.get("message"), None);
        assert_eq!(line("r-2")["status"], 200);
        assert_eq!(line("r-3")["path"], "/sess/…");
        assert!(!log.contains("SECRET") && !log.contains("s3cret"));
    });
}

/// Who writes a parser begins with the line in the documentation. Numbers differ, and so does the time.
#[test]
fn the_access_line_that_the_documentation_shows_is_one_of_ours() {
    let shape = |line: &str| -> String {
        line.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect()
    };
    let production = include_str!("../../docs/production.md");
    let shown = production.lines().find(|line| line.starts_with("{\"time\":")).expect("an example");
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("POD_NAME", "kiosk-7"),
            ("ACCESS_LOG", "all"),
            ("LOG_FORMAT", "json"),
        ]);
        let mut client = kioskd.connect();
        let reply = client.request("GET", "/items/none", &[("X-Request-Id", "demo-1")], b"");
        assert_eq!(reply.status, 404);
        kioskd.wait_for_log("\"demo-1\"");
        let log = kioskd.log();
        let line = log.lines().find(|line| line.contains("\"demo-1\"")).expect("it has come");
        assert_eq!(shape(line), shape(shown));
    });
}

/// What somebody looks for who has a connection that ends, or a request that is slow.
#[test]
fn debug_tells_the_life_of_a_connection_and_of_a_command() {
    let redis = Redis::start();
    for_each_front(|front| {
        let settings = [("FRONT", front), ("REDIS_ADDR", &*redis.addr()), ("LOG", "debug")];
        let mut kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        assert_eq!(client.get("/items/S3CRET").status, 404);
        for what in ["asks the store: get", "the store answers get: ok"] {
            kioskd.wait_for_log(what);
        }
        if front == "poll" {
            kioskd.wait_for_log("connects from 127.0.0.1");
            drop(client);
            kioskd.wait_for_log("is closed");
        }
        assert!(!kioskd.log().contains("S3CRET"), "{}", kioskd.log());
    });
}
