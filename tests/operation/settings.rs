//! What is set, what the system gives, and what comes of both: a start that does what was meant, or one that ends and
//! says which value it was, what it may be, or what could not be had.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::hostile::allow_files;
use crate::support::{
    Client, Finished, IN_A_CONTAINER, Kioskd, Redis, eventually, for_each_front, needs_namespaces,
    temp_dir,
};

// ---- What would start another service than was meant ------------------------------------------

/// Each ends the start, on one line that begins with the name, shows the value and says what to do.
#[test]
fn what_would_start_another_service_is_exit_2() {
    let big = "70000000";
    for (settings, name, what_to_do) in [
        (&[("REDIS_ADR", "redis:6379")][..], "REDIS_ADR=\"redis:6379\"", "REDIS_ADDR"),
        (&[("REDIS_HOST", "10.0.0.1")], "REDIS_HOST=\"10.0.0.1\"", "REDIS_ADDR"),
        (&[("REDIS_PORT", "6379")], "REDIS_PORT=\"6379\"", "STORE=memory"),
        (
            &[("REDIS_PASSWORD_FILE", "/dev/null")],
            "REDIS_PASSWORD_FILE=\"/dev/null\"",
            "REDIS_ADDR",
        ),
        (&[("REDIS_CA_FILE", "/dev/null")], "REDIS_CA_FILE=\"/dev/null\"", "REDIS_ADDR"),
        (
            &[("STORE", "memory"), ("REDIS_PASSWORD_FILE", "/dev/null")],
            "REDIS_PASSWORD_FILE=\"/dev/null\"",
            "REDIS_ADDR",
        ),
        (
            &[("REDIS_ADDR", "h"), ("REDIS_CA_FILE", "/dev/null")],
            "REDIS_CA_FILE=\"/dev/null\"",
            "rediss://",
        ),
        (
            &[("REDIS_ADDR", "h"), ("REDIS_CERT_FILE", "/tls.pem")],
            "REDIS_CERT_FILE=\"/tls.pem\"",
            "rediss://",
        ),
        (
            &[("REDIS_URL", "redis://h"), ("REDIS_KEY_FILE", "/tls.key")],
            "REDIS_KEY_FILE=\"/tls.key\"",
            "rediss://",
        ),
        (
            &[("REDIS_ADDR", "h"), ("REDIS_SERVER_NAME", "redis.internal")],
            "REDIS_SERVER_NAME=\"redis.internal\"",
            "rediss://",
        ),
        (&[("REDIS_KEY_FILE", "/tls.key")], "REDIS_KEY_FILE=\"/tls.key\"", "REDIS_ADDR"),
        (
            &[("REDIS_KEY_FILE", "-----BEGIN PRIVATE KEY-----")],
            "REDIS_KEY_FILE=\"***\"",
            "REDIS_ADDR",
        ),
        (
            &[("MAX_TTL", "1h"), ("ITEM_TTL", "2h")],
            "ITEM_TTL=\"2h\"",
            "at most MAX_TTL, which is 1h",
        ),
        (&[("MAX_TTL", "1h"), ("SESSION_TTL", "61m")], "SESSION_TTL=\"61m\"", "at most MAX_TTL"),
        (
            &[("MAX_BODY_BYTES", big), ("MEMORY_MAX_BYTES", big)],
            "MAX_BODY_BYTES=\"70000000\"",
            "MEMORY_MAX_BYTES",
        ),
        #[cfg(feature = "poll")]
        (
            &[("MAX_BODY_BYTES", big), ("MAX_BUFFERED_BYTES", big)],
            "MAX_BODY_BYTES=\"70000000\"",
            "MAX_BUFFERED_BYTES",
        ),
        (&[("MEMORY_MAX_BYTES", "237")], "MEMORY_MAX_BYTES=\"237\"", "from 238"),
        (&[("MAX_BODY_BYTES", "1")], "MAX_BODY_BYTES=\"1\"", "from 2"),
        (&[("MAX_TTL", "999ms")], "MAX_TTL=\"999ms\"", "a second"),
        (
            &[("STORE", "memory"), ("REDIS_ADDR", "h"), ("REDIS_PASSWORD_FILE", "/dev/null")],
            "REDIS_PASSWORD_FILE=\"/dev/null\"",
            "nothing uses it",
        ),
        (
            &[("STORE", "noop"), ("REDIS_URL", "redis://h"), ("REDIS_CA_FILE", "/dev/null")],
            "REDIS_CA_FILE=\"/dev/null\"",
            "nothing uses it",
        ),
        (
            &[("STORE", "memory"), ("REDIS_ADDR", "h"), ("REDIS_PASSWORD", "x")],
            "REDIS_PASSWORD=\"***\"",
            "nothing uses it",
        ),
        (&[("AUTH_TOKENS", "ci:s3cret,ci")], "AUTH_TOKENS=\"***\"", "entry 2"),
        (&[("AUTH_TOKENS_FILE", "/tokens")], "AUTH_TOKENS_FILE=\"/tokens\"", "No such file"),
        (&[("AUTH_TOKENS_FILE", "/dev/null")], "AUTH_TOKENS_FILE=\"/dev/null\"", "at least one"),
        (&[("AUTH_TOKENS_FILE", "/dev/zero")], "AUTH_TOKENS_FILE=\"/dev/zero\"", "larger than"),
        (
            &[("AUTH_TOKENS_FILE", "/dev/null"), ("AUTH_TOKENS", "ci:s3cret")],
            "AUTH_TOKENS_FILE=\"/dev/null\"",
            "not both",
        ),
        (&[("RATE_LIMIT", "9/s"), ("STORE", "noop")], "RATE_LIMIT=\"9/s\"", "counts nothing"),
        (&[("AUTH_TOKENS", "ci:s3cret:")], "AUTH_TOKENS=\"***\"", "entry 1"),
        (&[("RATE_LIMIT", "9/d")], "RATE_LIMIT=\"9/d\"", "10/s"),
        (&[("RATE_LIMIT", "+9/s")], "RATE_LIMIT=\"+9/s\"", "10/s"),
        (
            &[("RATE_LIMIT", "9/s"), ("LISTEN", "unix:/run/kioskd-none/s")],
            "RATE_LIMIT=\"9/s\"",
            "TRUSTED_PROXIES=unix",
        ),
        (&[("CORS_ORIGINS", "*")], "CORS_ORIGINS=\"*\"", "not *"),
        (&[("TRUSTED_PROXIES", "10.0.0.0/33")], "TRUSTED_PROXIES=\"10.0.0.0/33\"", "networks"),
        (&[("TRUSTED_PROXIES", "10.0.0.0/+8")], "TRUSTED_PROXIES=\"10.0.0.0/+8\"", "networks"),
        (&[("METRICS_LISTEN", "9090")], "METRICS_LISTEN=\"9090\"", "an address and a port"),
        (
            &[("LISTEN", ""), ("PORT", "8080"), ("METRICS_LISTEN", "127.0.0.1:8080")],
            "METRICS_LISTEN=\"127.0.0.1:8080\"",
            "another port",
        ),
        (
            &[("LISTEN", "0.0.0.0:8080"), ("METRICS_LISTEN", "127.0.0.1:8080")],
            "METRICS_LISTEN=\"127.0.0.1:8080\"",
            "another port than that of clients",
        ),
        (
            &[("LISTEN", "[::1]:8080"), ("METRICS_LISTEN", "[::]:8080")],
            "METRICS_LISTEN=\"[::]:8080\"",
            "another port than that of clients",
        ),
        (
            &[("LISTEN", "127.0.0.1:8080"), ("METRICS_LISTEN", "127.0.0.1:8080")],
            "METRICS_LISTEN=\"127.0.0.1:8080\"",
            "another port",
        ),
        (&[("KEY_PREFIX", "a")], "KEY_PREFIX=\"a\"", "then a colon"),
        (&[("KEY_PREFIX", ":")], "KEY_PREFIX=\":\"", "1 to 64"),
        (&[("KEY_PREFIX", "a b:")], "KEY_PREFIX=\"a b:\"", "letters"),
        (&[("KEY_PREFIX", "{a}:")], "KEY_PREFIX=\"{a}:\"", "letters"),
        (&[("KEY_PREFIX", "item:")], "KEY_PREFIX=\"item:\"", "not item:"),
        (&[("KEEPALIVE_TIME", "0s")], "KEEPALIVE_TIME=\"0s\"", "above zero"),
        (&[("LISTEN", "unix:@kioskd")], "LISTEN=\"unix:@kioskd\"", "unix:/path"),
        (&[("LISTEN", "[fe80::1%eth0]:80")], "LISTEN=\"[fe80::1%eth0]:80\"", "number"),
        (&[("REDIS_ADDR", "[fe80::1%eth0]")], "REDIS_ADDR=\"[fe80::1%eth0]\"", "zone"),
        (&[("REDIS_URL", "redis://kiosk@h")], "REDIS_URL=\"***\"", "no password"),
        (&[("REDIS_ADDR", "h"), ("REDIS_URL", "redis://h")], "REDIS_ADDR=\"h\"", "not both"),
        (&[("REQUEST_TIMEOUT", "0ms")], "REQUEST_TIMEOUT=\"0ms\"", "above zero"),
        (
            &[("REDIS_URL", "redis://h?timeout=1s")],
            "REDIS_URL=\"***\"",
            "set REQUEST_TIMEOUT instead",
        ),
    ] {
        let ended = Kioskd::run(settings, &[]);
        assert_is_told(&ended, name, what_to_do);
    }
    let long = format!("unix:/{}", "x".repeat(107));
    assert_is_told(&Kioskd::run(&[("LISTEN", &long)], &[]), "LISTEN=\"unix:/xxx", "107");
}

/// Not one that starts without what was asked for.
#[cfg(not(feature = "poll"))]
#[test]
fn what_only_the_default_build_has_is_exit_2() {
    for (settings, name) in [
        (&[("FRONT", "poll")][..], "FRONT=\"poll\""),
        (&[("REDIS_URL", "redis+sentinel://h/m")], "REDIS_URL="),
        (&[("REDIS_URL", "redis+cluster://:hunter2@h")], "REDIS_URL=\"***\""),
    ] {
        let has_it = "the default build has it (cargo feature `poll`), this one was built without";
        assert_is_told(&Kioskd::run(settings, &[]), name, has_it);
    }
}

#[test]
fn version_and_help_say_which_build_it_is() {
    let build = match cfg!(feature = "poll") {
        true => "with the feature",
        false => "poll, which the default build has",
    };
    for argument in ["--version", "--help"] {
        let ended = Kioskd::run(&[], &[argument]);
        assert!(ended.stdout.contains(build), "no `{build}` in {}", ended.stdout);
    }
}

/// The value of a name that nobody knows may be a password's.
#[test]
fn a_secret_in_the_wrong_place_is_not_told() {
    for settings in [
        &[("REDIS_PASSWORD", "hunter2")][..],
        &[("REDIS_PASS", "hunter2")],
        &[("REDIS_AUTH", "hunter2")],
        &[("REDIS_HOST", "redis://:hunter2@redis")],
        &[("REDIS_ADDR", "redis://:hunter2@redis")],
        &[("REDIS_ADDR", ":hunter2@redis"), ("REDIS_URL", "redis://redis")],
        &[("AUTH_TOKENS", "ci:hunter2:x")],
        &[("AUTH_TOKENS_FILE", "ci:hunter2")],
        &[("REDIS_SERVER_PASSWORD", "hunter2")],
        &[("REDIS_HOST_KEY", "hunter2")],
        &[("REDIS_SERVICE_PORT_PASSWORD", "hunter2")],
        &[("REDIS_SERVICE_PORT_PASSWORD", "12345")],
        &[("STORE", "redis://u:hunter2@h")],
        &[("LISTEN", "redis://u:hunter2@h")],
        &[("FRONT", "redis://u:hunter2@h")],
        &[("PORT", "redis://u:hunter2@h")],
        &[("MAX_TTL", "redis://u:hunter2@h")],
        &[("REDIS_PASSWORD_FILE", "redis://u:hunter2@h"), ("REDIS_ADDR", "h")],
        &[("REDIS_PASSWORD_FILE", "hunter2"), ("REDIS_ADDR", "h")],
    ] {
        let ended = Kioskd::run(settings, &[]);
        assert_is_told(&ended, &format!("{}=\"***\"", settings[0].0), "");
        assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    }
    let sentinel = "redis+sentinel://h/m?sentinel_password_file=hunter2";
    let ended = Kioskd::run(&[("REDIS_URL", sentinel)], &[]);
    assert_is_told(&ended, "REDIS_URL=\"…?sentinel_password_file=…\"", "No such file");
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

/// One that `std::env::var` would take for unset, and start with the default.
#[test]
fn a_value_that_is_not_utf_8_is_exit_2() {
    let value = OsStr::from_bytes(b"hunter\xff2");
    for name in ["PORT", "REDIS_ADDR", "REDIS_PASSWORD", "MAX_TTL", "AUTH_TOKENS", "REDIS_X"] {
        let ended = Kioskd::run_with(OsStr::new(name), value);
        assert_is_told(&ended, &format!("{name}=\""), "UTF-8");
        let is_secret = ["REDIS_PASSWORD", "AUTH_TOKENS", "REDIS_X"].contains(&name);
        assert_eq!(ended.stderr.contains("hunter"), !is_secret, "{ended:?}");
    }
    // Those of others may be what they like.
    let mut others = Command::new("timeout");
    others.args(["-s", "TERM", "1", env!("CARGO_BIN_EXE_kioskd")]).env("LS_COLORS", value);
    let ended = others.env("LISTEN", "127.0.0.1:0").env_remove("RUST_LOG").output();
    let said = ended.expect("coreutils are there").stdout;
    assert!(String::from_utf8_lossy(&said).contains("listening on"));
}

/// A default gives way, and the log says to what.
#[test]
fn what_gives_way_and_what_is_not_used_is_told_once() {
    for_each_front(|front| {
        for (settings, told) in [
            (&[("LISTEN", "127.0.0.1:0"), ("PORT", "8080")][..], &["LISTEN is used, not PORT"][..]),
            (
                &[("STORE", "memory"), ("REDIS_ADDR", "redis")],
                &["STORE=memory: REDIS_ADDR is not used"],
            ),
            (
                &[("STORE", "noop"), ("REDIS_URL", "redis://:hunter2@redis")],
                &["STORE=noop: REDIS_URL is not used"],
            ),
            (
                &[("REDIS_URL", "redis://:hunter2@127.0.0.1:1"), ("REDIS_PASSWORD", "hunter2")],
                &["REDIS_PASSWORD is used, not the password in REDIS_URL"],
            ),
            (
                &[
                    ("REDIS_URL", "redis://127.0.0.1:1?connect_timeout=1s"),
                    ("REDIS_CONNECT_TIMEOUT", "2s"),
                ],
                &["connect_timeout in REDIS_URL is used, not REDIS_CONNECT_TIMEOUT"],
            ),
            (
                &[("MAX_TTL", "1m")],
                &[
                    "ITEM_TTL is 1m, not 30m: MAX_TTL is 1m",
                    "SESSION_TTL is 1m, not 30m: MAX_TTL is 1m",
                ],
            ),
            (&[("ITEM_TTL", "30d")], &["MAX_TTL is 30d, not 7d: ITEM_TTL is 30d"]),
            (
                &[("ITEM_TTL", "8d"), ("SESSION_TTL", "9d")],
                &["MAX_TTL is 9d, not 7d: SESSION_TTL is 9d"],
            ),
            (
                &[("MAX_BODY_BYTES", "70000000")],
                &["MEMORY_MAX_BYTES is 70000236, not 67108864: MAX_BODY_BYTES is 70000000"],
            ),
            (
                &[("MEMORY_MAX_BYTES", "100000")],
                &["MAX_BODY_BYTES is 99764, not 1048576: MEMORY_MAX_BYTES is 100000"],
            ),
        ] {
            let settings = [&[("FRONT", front)], settings].concat();
            let kioskd = Kioskd::start(&settings);
            // An answer comes after all that the start has to say.
            assert_eq!(kioskd.connect().get("/livez").status, 200);
            for told in told {
                eventually(told, || kioskd.log().contains(told));
                assert_eq!(kioskd.log().matches(told).count(), 1);
            }
            assert!(!kioskd.log().contains("hunter2"), "{}", kioskd.log());
        }
    });
}

#[test]
fn a_default_time_to_live_gives_way_to_the_longest_that_is_allowed() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("MAX_TTL", "60s")]);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/a", "{}").status, 201);
        let page = client.get("/items?limit=1").text();
        let ttl = page.split("\"ttl\":").nth(1).expect("an item and its time");
        let ttl: u64 = ttl.split(['}', ',']).next().expect("a number").parse().expect("seconds");
        assert!((50..=60).contains(&ttl), "{page}");
        let kioskd = Kioskd::start(&[("FRONT", front), ("ITEM_TTL", "30d")]);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/a?ttl=2592000", "{}").status, 201);
        assert_eq!(client.post("/items/a?ttl=2592001", "{}").status, 400);
    });
}

#[test]
fn redis_password_signs_on_and_the_one_in_the_file_goes_before_it() {
    let redis = Redis::start_with(&["--requirepass", "s3cret"]);
    let dir = temp_dir();
    let file = dir.join("password");
    std::fs::write(&file, "s3cret\n").expect("our own directory");
    let (address, file) = (redis.addr(), file.display().to_string());
    let url = format!("redis://:wrong@{address}");
    for_each_front(|front| {
        for settings in [
            &[("REDIS_ADDR", &*address), ("REDIS_PASSWORD", "s3cret")][..],
            &[("REDIS_URL", &*url), ("REDIS_PASSWORD", "s3cret")],
            &[
                ("REDIS_ADDR", &*address),
                ("REDIS_PASSWORD", "wrong"),
                ("REDIS_PASSWORD_FILE", &*file),
            ],
        ] {
            let kioskd = Kioskd::start(&[&[("FRONT", front), ("WORKERS", "1")], settings].concat());
            assert_eq!(kioskd.connect().post("/items/1", "{}").status, 201, "{}", kioskd.log());
            assert!(!kioskd.log().contains("s3cret"), "{}", kioskd.log());
        }
    });
    let _ = std::fs::remove_dir_all(dir);
}

// ---- What the system gives --------------------------------------------------------------------

/// A Redis restarts while more clients come than there is room for, and keep their ends open. Those inside find their
/// worker's link whole again: nobody took its descriptor meanwhile.
#[test]
fn clients_leave_the_links_to_redis_their_descriptors() {
    allow_files(4096);
    let mut redis = Redis::start();
    let mut kioskd = Kioskd::start_under(
        &["prlimit", "--nofile=1024:1024"],
        &[("REDIS_ADDR", &redis.addr()), ("WORKERS", "4"), ("IDLE_TIMEOUT", "5m")],
    );
    kioskd.wait_for_log("MAX_CONNECTIONS is ");
    let mut held = Vec::new();
    for _ in 0..960 {
        let mut client = kioskd.connect();
        let _ = client.try_send("GET /items/1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        match client.status_or_end() {
            Some(404) => held.push(client),
            Some(503) => {}
            other => panic!("{other:?} for client {}", held.len()),
        }
    }
    assert!(held.len() > 900, "only {} are held", held.len());
    let told = format!("MAX_CONNECTIONS is {}, not 10000", held.len());
    assert!(kioskd.log().contains(&told), "no `{told}` in {}", kioskd.log());

    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (kioskd, enough) = (&kioskd, &enough);
        let crowd = scope.spawn(move || {
            let mut crowd = std::collections::VecDeque::new();
            while !enough.load(Ordering::Relaxed) {
                // Whoever is let go makes room for another.
                crowd.push_back(kioskd.connect());
                if crowd.len() > 100 {
                    crowd.pop_front();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        redis.kill();
        eventually("kioskd to miss Redis", || held[0].get("/items/1").status == 502);
        redis.restart();
        for (n, client) in held.iter_mut().enumerate() {
            eventually(&format!("client {n} to be served"), || {
                client.get("/items/1").status == 404
            });
        }
        enough.store(true, Ordering::Relaxed);
        crowd.join().expect("whoever comes can connect");
    });
    let lacking = "Too many open files";
    assert!(!kioskd.log().contains(lacking), "{}", kioskd.log());
}

/// As many workers as the message says have room, and one more has not.
#[test]
fn workers_that_the_open_files_cannot_carry_are_exit_2() {
    let redis = Redis::start();
    let address = redis.addr();
    for_each_front(|front| {
        let settings =
            |workers| [("FRONT", front), ("REDIS_ADDR", &*address), ("WORKERS", workers)];
        let few = ["prlimit", "--nofile=128:128"];
        let ended = Kioskd::run_under(&few, &settings("200"));
        assert_is_told(&ended, "WORKERS=\"200\"", "128 open files");
        let (_, most) = ended.stderr.split_once("at most ").expect("how many it may be");
        let most = most.split(',').next().expect("a number").to_owned();
        let kioskd = Kioskd::start_under(&few, &settings(&most));
        for _ in 0..3 {
            // There may be room for one only, and the last one may not be gone yet.
            eventually("a client to be served", || {
                let mut client = kioskd.connect();
                let _ = client.try_send("GET /items/1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
                client.status_or_end() == Some(404)
            });
        }
        let one_more = most.parse::<usize>().expect("a number") + 1;
        let ended = Kioskd::run_under(&few, &settings(&one_more.to_string()));
        assert_is_told(&ended, &format!("WORKERS=\"{one_more}\""), "128 open files");
        // Not even one.
        let ended = Kioskd::run_under(&["prlimit", "--nofile=12:12"], &[("FRONT", front)]);
        assert_is_told(&ended, "WORKERS=", "12 open files");
    });
}

/// In 8 MiB of memory 2 MiB are for bodies and responses.
#[test]
fn buffers_are_a_quarter_of_the_memory_limit() {
    needs_namespaces();
    let control_groups = "mount -t tmpfs none /sys/fs/cgroup && echo 8388608 >/sys/fs/cgroup/memory.max && exec \"$@\"";
    let limit = [&IN_A_CONTAINER[..], &[control_groups]].concat();
    let kioskd = Kioskd::start_under(&limit, &[("WORKERS", "1")]);
    let length = 900_000;
    let begin = |client: &mut Client| {
        client.send(format!(
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n{{\"a\":\"{}",
            "x".repeat(length - 10)
        ));
    };
    let mut two = [kioskd.connect(), kioskd.connect()];
    two.iter_mut().for_each(begin);
    // Each exchange is a turn of the only worker, in which it reads 128 KiB of each.
    let mut turns = kioskd.connect();
    (0..40).for_each(|_| assert_eq!(turns.get("/livez").status, 200));
    let mut third = kioskd.connect();
    let _ = third.try_send(format!(
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length - 10)
    ));
    let refused = third.read_response();
    assert_eq!((refused.status, &*refused.problem().0), (503, "overloaded"));
    for client in &mut two {
        client.send("xx\"}");
        assert_eq!(client.read_response().status, 201);
    }

    // No share is more than its part: a default gives way, and what was set and cannot be is exit 2.
    let mut kioskd = Kioskd::start_under(&limit, &[("WORKERS", "2")]);
    kioskd.wait_for_log("MAX_BODY_BYTES is 524288, not 1048576");
    let mut client = kioskd.connect();
    let document = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    assert_eq!(client.post("/items/1", document(524_288)).status, 201);
    assert_eq!(client.get("/items/1").body.len(), 524_288);
    let head = "POST /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 524289\r\n\r\n";
    client.send(head);
    assert_eq!(client.read_response().status, 413);
    let ended = Kioskd::run_under(&limit, &[("WORKERS", "2"), ("MAX_BODY_BYTES", "1048577")]);
    assert_is_told(&ended, "MAX_BODY_BYTES=\"1048577\"", "8388608");
}

/// What `deploy/kubernetes.yaml` gives, and more large documents at a time than fit: begun and never finished, asked for
/// and not taken, and on their way to a Redis that is frozen. Long heads, too, with no end or no body, or waiting. Some are
/// turned away.
#[test]
fn in_64_mib_no_crowd_of_large_documents_is_the_end() {
    needs_namespaces();
    let control_groups = "mount -t tmpfs none /sys/fs/cgroup && echo 67108864 >/sys/fs/cgroup/memory.max && exec \"$@\"";
    let limit = [&IN_A_CONTAINER[..], &[control_groups]].concat();
    let redis = Redis::start();
    let document = format!("{{\"a\":\"{}\"}}", "x".repeat(1_000_000));
    let post = format!(
        "POST /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    let get = "GET /items/1 HTTP/1.1\r\nHost: kiosk\r\n\r\n";
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(16_000));
    let fields = (0..95).map(|n| format!("A{n}: {}\r\n", "x".repeat(150)));
    let long = fields.collect::<String>();
    let long_get = get.replace("\r\n\r\n", &format!("\r\n{long}\r\n"));
    let long_post = post[..90].replace("Host", &format!("{long}Host"));
    for store in ["memory", "redis"] {
        let address = redis.addr();
        let mut settings =
            vec![("WORKERS", "2"), ("ACCESS_LOG", "off"), ("REQUEST_TIMEOUT", "500ms")];
        if store == "redis" {
            settings.push(("REDIS_ADDR", &address));
        }
        let mut kioskd = Kioskd::start_under(&limit, &settings);
        assert_eq!(kioskd.connect().post("/items/1", &document).status, 201);
        let crowd = |size: usize, request: &str| -> Vec<Client> {
            (0..size)
                .map(|_| {
                    let mut client = kioskd.connect();
                    // Who is turned away may hear so before it has sent all.
                    let _ = client.try_send(request);
                    client
                })
                .collect()
        };
        let _unfinished = crowd(100, &post[..post.len() - 1]);
        let _not_taken = crowd(300, &get.repeat(3));
        let _endless = crowd(1000, &head);
        let mut no_body = crowd(1000, &long_post);
        let mut is_turned_away = |client: &mut Client| {
            client.hears_within(Duration::from_millis(1)) && client.status_or_end() == Some(503)
        };
        eventually("one to be turned away", || no_body.iter_mut().any(&mut is_turned_away));
        drop(no_body);
        if store == "redis" {
            redis.stop();
            let mut asking = crowd(100, &post);
            asking.extend(crowd(1000, &long_get));
            for client in &mut asking {
                // What was never sent, because a frozen server lets nobody sign on, is 502.
                assert!(matches!(client.status_or_end(), Some(502..=504) | None));
            }
            redis.cont();
        }
        assert_eq!(kioskd.connect().get("/livez").status, 200);
        assert!(kioskd.is_running());
        let peak = kioskd.rss_peak_kib();
        eprintln!("{peak} KiB at the most, STORE={store}");
        assert!(peak < 64 * 1024, "{peak} KiB, STORE={store}");
    }
}

/// What is read at a time is bounded, and what is left over is read without another event.
#[test]
fn a_document_many_times_what_is_read_at_once_comes_whole() {
    let redis = Redis::start();
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &redis.addr()),
            ("MAX_BODY_BYTES", "16777216"),
            ("WORKERS", "1"),
        ]);
        let mut client = kioskd.connect();
        for length in [1 << 20, (1 << 20) + 1, 1 << 24] {
            let document = format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
            assert_eq!(client.post("/items/1", &document).status, 201);
            let get = "GET /items/1 HTTP/1.1\r\nHost: kiosk\r\n\r\n";
            client.send(get.repeat(3));
            for _ in 0..3 {
                let reply = client.read_response();
                assert_eq!((reply.status, reply.body.len()), (200, length));
                assert!(reply.body == document.as_bytes());
            }
        }
    });
}

#[test]
fn as_many_workers_as_half_of_the_processors_or_sixteen_threads() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for (front, workers) in [("poll", (processors / 2).clamp(1, 128)), ("tiny_http", 16)] {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        let told = format!(" workers={workers} ");
        assert!(kioskd.log().contains(&told), "no `{told}` in {}", kioskd.log());
    }
    // Those that it may use, not those that there are.
    let kioskd = Kioskd::start_under(&["taskset", "-c", "0"], &[("FRONT", "poll")]);
    assert!(kioskd.log().contains(" workers=1 "), "{}", kioskd.log());
}

// ---- What could not be had --------------------------------------------------------------------

/// Not the address, which is as good as any.
#[test]
fn a_start_that_fails_for_want_of_a_thread_names_the_thread() {
    for_each_front(|front| {
        // Each thread wants a GiB of address space for its stack, and there are 4.
        let ended = Kioskd::run_under(
            &["prlimit", "--as=4294967296"],
            &[("FRONT", front), ("WORKERS", "9"), ("RUST_MIN_STACK", "1073741824")],
        );
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = all(&ended);
        assert!(said.contains("failed to start") && said.contains("thread"), "{said}");
        assert!(!said.contains("127.0.0.1"), "{said}");
    });
}

/// Without `/proc` nobody can say before how many there are.
#[test]
fn a_start_that_fails_for_want_of_a_descriptor_names_what_it_was_for() {
    needs_namespaces();
    let no_proc = "mount -t tmpfs none /proc && ulimit -n 20 && exec \"$@\"";
    let limit = [&IN_A_CONTAINER[..], &[no_proc]].concat();
    for_each_front(|front| {
        let ended = Kioskd::run_under(&limit, &[("FRONT", front), ("WORKERS", "9")]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = all(&ended);
        assert!(said.contains("open files"), "{said}");
        let what = if front == "poll" { "for worker-" } else { "a session of the store" };
        assert!(said.contains(what), "{said}");
        assert!(front != "poll" || !said.contains("127.0.0.1"), "{said}");
    });
}

/// `RUST_LOG` may have been set for everything on a host, and a service that starts without a word looks like one that
/// does not start.
#[test]
fn a_rust_log_that_mutes_the_start_is_told_with_the_line_it_mutes() {
    for_each_front(|front| {
        for (name, filter) in [("RUST_LOG", "h2=debug"), ("LOG", "kioskd::resp=debug")] {
            let kioskd = Kioskd::start(&[("FRONT", front), (name, filter)]);
            assert!(!kioskd.log().contains("RUST_LOG"), "{}", kioskd.log());
        }
        for filter in ["warn", "off"] {
            let kioskd = Kioskd::start(&[("FRONT", front), ("RUST_LOG", filter)]);
            assert_eq!(kioskd.connect().get("/livez").status, 200);
            eventually("a word on why", || kioskd.log().contains("RUST_LOG mutes this line"));
        }
        // LOG is ours alone, and whoever sets it means it.
        for settings in [&[("LOG", "error")][..], &[("LOG", "error"), ("RUST_LOG", "off")]] {
            let dir = temp_dir();
            let listen = format!("unix:{}", dir.join("s").display());
            let settings = [&[("FRONT", front), ("LISTEN", &*listen)], settings].concat();
            let ended = Kioskd::run_under(&["timeout", "-s", "TERM", "1"], &settings);
            assert_eq!(all(&ended), "", "{ended:?}");
            let _ = std::fs::remove_dir_all(dir);
        }
    });
}

// ---- What cannot be written -------------------------------------------------------------------

#[test]
fn help_that_nobody_can_read_is_no_panic() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let unread = || Stdio::from(std::io::pipe().expect("the system has a pipe").1);
    for argument in ["--help", "-h", "--version", "-V"] {
        let ended = say(&[argument.as_ref()], full(), Stdio::piped());
        assert_eq!(ended.status.code(), Some(1), "{argument}: {ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.starts_with("kioskd: failed to write to stdout: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");

        // `kioskd --help | head -1`: who has had enough is no failure.
        let ended = say(&[argument.as_ref()], unread(), Stdio::piped());
        assert_eq!(ended.status.code(), Some(0), "{argument}: {ended:?}");
        assert_eq!(ended.stderr, b"");
        assert_eq!(say(&[argument.as_ref()], full(), full()).status.code(), Some(1));
    }
    let closed = "exec \"$0\" --help >&-";
    let ended = Command::new("sh").args(["-c", closed, env!("CARGO_BIN_EXE_kioskd")]).output();
    assert_eq!(ended.expect("sh starts").stderr, b"");
}

#[test]
fn what_is_wrong_is_exit_2_though_nobody_can_be_told() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    for argument in [OsStr::new("--nonsense"), OsStr::from_bytes(b"--\xff")] {
        assert_eq!(say(&[argument], Stdio::null(), full()).status.code(), Some(2));
        let ended = say(&[argument], Stdio::null(), Stdio::piped());
        assert_eq!(ended.status.code(), Some(2));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.starts_with("kioskd: unknown arguments"), "{said}");
    }
    let mut bad_setting = Command::new(env!("CARGO_BIN_EXE_kioskd"));
    let status = bad_setting.env("FRONT", "nginx").stderr(full()).status();
    assert_eq!(status.expect("it starts").code(), Some(2));
}

/// Settings that cannot be used, a start that fails though the log is off, and one that is muted: each has something to say
/// on stderr, and that is a pipe without room. It once waited there for ever, and SIGTERM for it.
#[test]
fn a_stderr_that_nobody_reads_holds_up_neither_start_nor_end() {
    let dir = temp_dir();
    let listen = format!("unix:{}", dir.join("s").display());
    // `sleep` keeps the pipe open, and `yes` fills it.
    let full = "mkfifo \"$0\" && { sleep 60 <\"$0\" & exec 2>\"$0\"; timeout 1 yes >&2; \
                \"$@\"; code=$?; kill $!; exit $code; }";
    let ended_by_signal = ["timeout", "-k", "10", "-s", "TERM", "2"];
    for_each_front(|front| {
        for (settings, under, code) in [
            (&[("REQUEST_TIMEOUT", "0s"), ("ITEM_TTL", "0s")][..], &[][..], 2),
            (&[("LOG", "off"), ("LISTEN", "unix:/does/not/exist")], &[], 1),
            // The code is that of `timeout`; it would be another if SIGTERM had not been enough.
            (&[("RUST_LOG", "off"), ("LISTEN", &listen)], &ended_by_signal, 124),
        ] {
            let pipe = dir.join("pipe").display().to_string();
            let settings = [&[("FRONT", front)], settings].concat();
            let ended = Kioskd::run_under(&[&["sh", "-c", full, &pipe], under].concat(), &settings);
            assert_eq!(ended.code, Some(code), "{settings:?}: {ended:?}");
            let _ = std::fs::remove_file(pipe);
        }
    });
    let _ = std::fs::remove_dir_all(dir);
}

// ---- Helpers ----------------------------------------------------------------------------------

fn say(arguments: &[&OsStr], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kioskd"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().and_then(|child| child.wait_with_output()).expect("it starts")
}

/// Exit code 2, and one line for the one error: `kioskd: NAME="value": … what to do …`.
#[track_caller]
fn assert_is_told(ended: &Finished, start: &str, what_to_do: &str) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", ended.stderr);
    assert!(lines[0].starts_with(&format!("kioskd: {start}")), "no `{start}`: {}", lines[0]);
    assert!(lines[0].contains(what_to_do), "no `{what_to_do}`: {}", lines[0]);
}

fn all(ended: &Finished) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}
