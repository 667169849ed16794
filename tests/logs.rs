//! What operators read, and what they must never: whole lines, nothing lost without a word, and nobody's secret.

mod support;

use support::{Act, FakeRedis, Kioskd, Redis, eventually, for_each_front};

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
                kioskd.log().matches("peer=127.0.0.1").count() == sent
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
