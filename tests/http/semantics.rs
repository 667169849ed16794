//! What a connection promises between requests: when it stays, in which order it answers, what has a body, and that an
//! early refusal reaches the client (RFC 9112 §9, RFC 9110 §10.1.1).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Act, Client, FakeRedis, Kioskd, Redis, Reply, for_each_front};

/// Would be executed by a reader that takes a body, or what comes after the end, for a request.
const SMUGGLED: &str =
    "POST /items?id=smuggled HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn version_and_connection_options_decide_who_stays() {
    let kioskd = Kioskd::start(&[]);
    for (version, fields, stays) in [
        ("1.1", "", true),
        ("1.2", "", true),
        ("1.0", "", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "connection:close\r\n", false),
        ("1.1", "Connection: x, Close , y\r\n", false),
        ("1.1", "Connection: ,,close,\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection: upgrade\r\nUpgrade: h2c\r\n", true),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: x,\tKeep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "Keep-Alive: timeout=5\r\n", false),
    ] {
        for (path, status) in [("/livez", 200), ("/items?id=none", 404), ("/items", 400)] {
            let request = format!("GET {path} HTTP/{version}\r\nHost: kiosk\r\n{fields}\r\n");
            let mut client = kioskd.connect();
            client.send(request.clone() + &request + SMUGGLED);
            let reply = client.read_response();
            assert_eq!(reply.status, status, "{request:?}: {reply:?}");
            assert_eq!(reply.says_close(), !stays, "{request:?}: {reply:?}");
            if stays {
                // A 1.0 client must be told that it may go on; a 1.1 client knows.
                let told = (version == "1.0").then_some("keep-alive");
                assert_eq!(reply.header("connection"), told, "{request:?}");
                assert_eq!(client.read_response().status, status, "{request:?}");
                assert_eq!(client.read_response().status, 201, "{request:?}");
                client.get("/livez");
            } else {
                assert_eq!(client.read_to_clean_end(), b"", "{request:?}");
            }
        }
    }
}

#[test]
fn nothing_behind_a_close_is_executed() {
    let kioskd = Kioskd::start(&[]);
    for first in [
        "GET /livez HTTP/1.1\r\nHost: kiosk\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.0\r\n\r\n",
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let mut client = kioskd.connect();
        client.send(format!("{first}{SMUGGLED}"));
        assert!(client.read_response().says_close());
        assert_eq!(client.read_to_clean_end(), b"");
        assert_nothing_smuggled(&kioskd);
    }
}

/// Goal: answers keep the order of their requests, though some need the store and some do not. Method: requests carry
/// their number as request id, and 600 of them come at once, more than a worker reads in one go.
#[test]
fn a_pipeline_is_answered_in_order() {
    let fake = FakeRedis::start(|_| Act::Usual);
    for settings in [&[][..], &[("REDIS_ADDR", &*fake.addr())]] {
        let kioskd = Kioskd::start(settings);
        let filler = "x".repeat(400);
        let pipeline: String = (0..600)
            .map(|number| {
                let line = match number % 4 {
                    0 => "GET /items?id=none",
                    1 => "GET /livez",
                    2 => "HEAD /items?id=none",
                    _ => "GET /items",
                };
                format!("{line} HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: n{number}\r\nX: {filler}\r\n\r\n")
            })
            .collect();
        let mut client = kioskd.connect();
        client.send(&pipeline);
        for number in 0..600 {
            let reply = match number % 4 {
                2 => client.read_head_response(),
                _ => client.read_response(),
            };
            assert_eq!(reply.status, [404, 200, 404, 400][number % 4], "{number}: {reply:?}");
            assert_eq!(reply.header("x-request-id"), Some(&*format!("n{number}")));
        }
    }
}

/// Goal: the second of two pipelined requests waits for the first one's answer, not only with its own. Method: the store
/// keeps silent about the first. The only worker then serves other clients in full, several times, so it has had every
/// chance to ask for the second.
#[test]
fn at_most_one_request_of_a_connection_is_in_flight() {
    let silent = AtomicBool::new(true);
    let fake = FakeRedis::start(move |command| match &*command[0] {
        "GET" if silent.swap(false, Ordering::Relaxed) => Act::Silence,
        _ => Act::Usual,
    });
    let asked = |fake: &FakeRedis| -> Vec<String> {
        let commands = fake.commands().into_iter();
        let gets = commands.filter(|command| command[0] == "GET");
        gets.map(|command| command[1].clone()).collect()
    };
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &fake.addr()),
        ("WORKERS", "1"),
        ("REQUEST_TIMEOUT", "50s"),
    ]);
    let mut client = kioskd.connect();
    client.send(concat!(
        "GET /items?id=first HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: first\r\n\r\n",
        "GET /items?id=second HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: second\r\n\r\n",
    ));
    fake.wait_for("GET");
    for _ in 0..10 {
        assert_eq!(kioskd.connect().get("/livez").status, 200);
    }
    assert_eq!(asked(&fake), ["item:first"]);
    // The first one fails now, or is asked again; either way the second one's turn comes after it.
    fake.close_all();
    let replies = [client.read_response(), client.read_response()];
    let ids = replies.each_ref().map(|reply| reply.header("x-request-id"));
    assert_eq!(ids, [Some("first"), Some("second")]);
}

#[test]
fn a_client_that_has_said_all_gets_all_its_answers() {
    let requests = concat!(
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
        "GET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n",
        "GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n",
    );
    let redis = Redis::start();
    for settings in [&[][..], &[("REDIS_ADDR", &*redis.addr())]] {
        for send in [Client::send, Client::send_by_byte] {
            let kioskd = Kioskd::start(settings);
            let mut client = kioskd.connect();
            send(&mut client, requests);
            client.close_write();
            let statuses = [(); 3].map(|()| client.read_response().status);
            assert_eq!(statuses, [201, 200, 200]);
            assert_eq!(client.read_to_clean_end(), b"");
        }
    }
}

#[test]
fn a_client_that_has_said_all_is_answered_when_redis_answers() {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "GET" => Act::Hold(b"$7\r\n{\"a\":1}\r\n".to_vec()),
        _ => Act::Usual,
    });
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &fake.addr()),
        ("WORKERS", "1"),
        ("REQUEST_TIMEOUT", "50s"),
    ]);
    let mut client = kioskd.connect();
    client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\nGET /items?id=2 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    fake.wait_for("GET");
    client.close_write();
    // The worker has seen the end when it has answered somebody who came later.
    for _ in 0..3 {
        assert_eq!(kioskd.connect().get("/livez").status, 200);
    }
    fake.release();
    for _ in 0..2 {
        let reply = client.read_response();
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
    }
    assert_eq!(client.read_to_clean_end(), b"");
}

#[test]
fn what_has_no_body_has_no_length_either() {
    let kioskd = Kioskd::start(&[]);
    let mut client = kioskd.connect();
    for path in ["/items?id=1", "/livez", "*"] {
        let reply = client.request("OPTIONS", path, &[], b"");
        assert_eq!(reply.status, 204, "{reply:?}");
        assert_eq!(reply.header("content-length"), None, "{reply:?}");
        assert_eq!(reply.header("transfer-encoding"), None, "{reply:?}");
        // A body where none may be would be taken for this answer.
        assert_eq!(client.get("/livez").text(), "ok");
    }
}

#[test]
fn every_response_is_dated() {
    let kioskd = Kioskd::start(&[]);
    for request in [
        "GET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n",
        "GET /livez HTTP/1.0\r\n\r\n",
        "HEAD /livez HTTP/1.1\r\nHost: kiosk\r\nConnection: close\r\n\r\n",
        "OPTIONS /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n",
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{}",
        "GET /items HTTP/1.1\r\nHost: kiosk\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
    ] {
        let mut client = kioskd.connect();
        let before = seconds();
        client.send(request);
        let reply = client.read_head_response();
        let possible: Vec<_> = (before..=seconds()).map(kioskd::http::http_date).collect();
        let dates: Vec<_> =
            reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("date")).collect();
        let [(_, date)] = *dates else {
            panic!("not one Date: {reply:?}");
        };
        assert!(possible.contains(date), "{request:?}: {date}");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    }
}

/// The client waits; it is told to go on exactly when somebody will read what it sends.
#[test]
fn continue_is_sent_when_the_body_will_be_read() {
    let kioskd = Kioskd::start(&[]);
    for (fields, body) in [
        ("Content-Length: 2\r\nExpect: 100-continue", "{}"),
        ("expect:100-CONTINUE\r\ncontent-length:2", "{}"),
        ("Transfer-Encoding: chunked\r\nExpect: 100-continue", "2\r\n{}\r\n0\r\n\r\n"),
    ] {
        for send in [Client::send, Client::send_by_byte] {
            let mut client = kioskd.connect();
            let head = format!("POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n\r\n");
            send(&mut client, head);
            let interim = client.read_response();
            assert_eq!((interim.status, &*interim.headers), (100, &[][..]), "{fields}");
            send(&mut client, body.to_owned());
            assert_eq!(client.read_response().status, 201, "{fields}");
            assert_eq!(client.get("/livez").status, 200, "{fields}");
        }
    }
}

#[test]
fn continue_is_not_sent_where_nobody_waits_for_it() {
    let kioskd = Kioskd::start(&[]);
    for (status, request) in [
        (200, "GET /livez HTTP/1.1\r\nHost: kiosk\r\nExpect: 100-continue\r\n\r\n"),
        (
            400,
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        ),
        // HTTP/1.0 has no interim responses, and so no expectations.
        (201, "POST /items?id=1 HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"),
        (201, "POST /items?id=1 HTTP/1.0\r\nExpect: the-impossible\r\nContent-Length: 2\r\n\r\n{}"),
        // The body is there already (RFC 9110 §10.1.1 lets a server save the words).
        (
            201,
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        ),
    ] {
        let mut client = kioskd.connect();
        client.send(request);
        assert_eq!(client.read_response().status, status, "{request:?}");
        client.close_write();
        assert_eq!(client.read_to_clean_end(), b"", "{request:?}");
    }
}

/// Whoever expects 100 and is refused may send the body or not, so nobody can know where a next request would begin.
#[test]
fn an_expectation_is_answered_with_the_final_status_when_the_body_is_not_wanted() {
    let kioskd = Kioskd::start(&[]);
    for (status, line, fields) in [
        (400, "POST /items", "Content-Length: 20"),
        (400, "POST /items", "Transfer-Encoding: chunked"),
        (400, "POST /items?id=%00", "Content-Length: 20"),
        (404, "POST /nowhere", "Content-Length: 20"),
        (405, "POST /livez", "Content-Length: 20"),
        (413, "POST /items?id=1", "Content-Length: 2000000"),
        (501, "BREW /items?id=1", "Content-Length: 20"),
    ] {
        let head =
            format!("{line} HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\nExpect: 100-continue\r\n\r\n");
        assert_refused_at_once(&kioskd, status, &head);
        // A client that gave up waiting (RFC 9110 §10.1.1 lets it) has sent on.
        assert_refused_at_once(&kioskd, status, &(head + SMUGGLED));
    }
    // In 1.0 the expectation is ignored, but a client that wrote it may still keep its body.
    let head = "POST /items HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n";
    assert_refused_at_once(&kioskd, 400, head);
    assert_nothing_smuggled(&kioskd);
}

#[test]
fn an_unknown_expectation_is_417() {
    let kioskd = Kioskd::start(&[]);
    for expected in [
        "the-impossible",
        "100-continue, the-impossible",
        "100-continued",
        "200-ok",
        "100-continue=1",
    ] {
        for fields in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"] {
            let head = format!(
                "POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r\n{fields}Expect: {expected}\r\n\r\n"
            );
            let reply = assert_refused_at_once(&kioskd, 417, &head);
            assert_eq!(reply.problem().0, "expectation_failed");
            assert_refused_at_once(&kioskd, 417, &(head + SMUGGLED));
        }
        // Without a body both sides know where the next request begins.
        let mut client = kioskd.connect();
        let expectation = [("Expect", expected)];
        assert_eq!(client.request("GET", "/livez", &expectation, b"").status, 417);
        assert_eq!(client.get("/livez").status, 200);
    }
    assert_nothing_smuggled(&kioskd);
    assert_eq!(kioskd.connect().get("/items?id=bad").status, 404);
}

/// What comes behind such a refusal could be taken for a body by one reader and for a request by another, so nothing may.
#[test]
fn a_refusal_before_the_whole_body_has_come_closes() {
    let kioskd = Kioskd::start(&[]);
    let length = SMUGGLED.len();
    for (line, status) in REFUSED_BY_THE_HEAD {
        for (length, come) in [
            (1, ""),
            (length, ""),
            (length, &SMUGGLED[1..]),
            (length + 1, SMUGGLED),
            (64 * 1024, SMUGGLED),
            (1_000_000, SMUGGLED),
        ] {
            let head =
                format!("{line} HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n");
            assert_refused_at_once(&kioskd, status, &(head.clone() + come));
            // The rest, and a request behind it, after the refusal.
            let mut client = kioskd.connect();
            client.send(head);
            let reply = client.read_response();
            assert_eq!((reply.status, reply.says_close()), (status, true), "{line}");
            let _ = client.try_send(SMUGGLED.repeat(2));
            assert_eq!(client.read_to_clean_end(), b"");
        }
        let chunked =
            format!("{line} HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n");
        for come in ["", "2\r\n", "2\r\n{}\r\n0\r\n\r\n"] {
            assert_refused_at_once(&kioskd, status, &format!("{chunked}{come}{SMUGGLED}"));
        }
    }
    assert_nothing_smuggled(&kioskd);
}

/// A client with a mistake in its id, whose body came with its head, keeps its connection: the body is dropped, whatever
/// it looks like.
#[test]
fn a_refused_body_that_has_come_whole_is_dropped_and_not_read_as_a_request() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        for (line, status) in REFUSED_BY_THE_HEAD {
            for length in [1, SMUGGLED.len(), 1024, 1025, 60_000] {
                let body = &SMUGGLED.repeat(length / SMUGGLED.len() + 1)[..length];
                let mut client = kioskd.connect();
                let refused = format!(
                    "{line} HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                client.send(refused + "GET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n");
                let reply = client.read_response();
                assert_eq!(reply.status, status, "{line} {length}: {reply:?}");
                // Where the network cut it, the poll front may have had to close.
                if front == "poll" && reply.says_close() && length > 1025 {
                    assert_eq!(client.read_to_clean_end(), b"");
                    continue;
                }
                assert!(!reply.says_close(), "{line} {length}: {reply:?}");
                assert_eq!(client.read_response().status, 200, "{line} {length}");
            }
        }
        assert_nothing_smuggled(&kioskd);
    });
}

/// Requests that are refused whatever their body is.
const REFUSED_BY_THE_HEAD: [(&str, u16); 5] = [
    ("POST /items", 400),
    ("POST /items?id=%00", 400),
    ("POST /nowhere", 404),
    ("PUT /livez", 405),
    ("BREW /items?id=1", 501),
];

/// Goal: no reset overtakes an early answer. Method: the client sends 1 MiB more before it reads; a server that closed
/// its socket over unread bytes would lose some of these two hundred answers.
#[test]
fn an_early_refusal_reaches_a_client_that_keeps_sending() {
    let kioskd = Kioskd::start(&[("MAX_BODY_BYTES", "4000000")]);
    let more = SMUGGLED.repeat((1 << 20) / SMUGGLED.len());
    for (status, head) in [
        (400, "POST /items HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 1048576\r\n\r\n"),
        (400, "POST /items HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (404, "POST /nowhere HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 1048576\r\n\r\n"),
        (413, "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 9000000\r\n\r\n"),
        (400, "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: x\r\n\r\n"),
    ] {
        for _ in 0..50 {
            let mut client = kioskd.connect();
            client.send(head);
            client.send(&more);
            let reply = client.read_response();
            assert_eq!(reply.status, status, "{head:?}: {reply:?}");
            assert!(reply.says_close(), "{head:?}: {reply:?}");
            reply.problem();
            assert_eq!(client.read_to_clean_end(), b"");
        }
    }
    assert_nothing_smuggled(&kioskd);
}

/// A body refused for its size or an expectation is refused by the protocol, and so it is logged and counted, although
/// its head is sound.
#[test]
fn a_refusal_by_the_head_is_logged_and_counted() {
    let mut kioskd = Kioskd::start(&[]);
    for (code, fields) in [
        ("bad_request", "Content-Length: x"),
        ("body_too_large", "Content-Length: 2000000"),
        ("body_too_large", "Content-Length: 99999999999999999999"),
        ("expectation_failed", "Content-Length: 2\r\nExpect: the-impossible"),
    ] {
        let counted = |kioskd: &Kioskd| -> u64 {
            let metrics = kioskd.connect().get("/metrics").text();
            let name = format!("kioskd_http_refused_total{{code=\"{code}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap_or_else(|| panic!("no {name}in {metrics}")).parse().expect("a number")
        };
        let before = counted(&kioskd);
        let head = format!("POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n\r\n");
        let mut client = kioskd.connect();
        client.send(head);
        let reply = client.read_response();
        let (found, detail) = reply.problem();
        assert_eq!(found, code);
        kioskd.wait_for_log(reply.header("x-request-id").expect("problem() saw it"));
        kioskd.wait_for_log(&format!("refused: {detail}"));
        assert_eq!(counted(&kioskd), before + 1, "{fields}");
    }
}

/// The answer comes before any body is sent, is the only one, and the end follows.
#[track_caller]
fn assert_refused_at_once(kioskd: &Kioskd, status: u16, bytes: &str) -> Reply {
    let mut client = kioskd.connect();
    client.send(bytes);
    let reply = client.read_response();
    assert_eq!(reply.status, status, "{bytes:?}: {reply:?}");
    assert!(reply.says_close(), "{bytes:?}: {reply:?}");
    reply.problem();
    assert_eq!(client.read_to_clean_end(), b"", "{bytes:?}");
    reply
}

#[track_caller]
fn assert_nothing_smuggled(kioskd: &Kioskd) {
    let reply = kioskd.connect().get("/items?id=smuggled");
    assert_eq!(reply.status, 404, "executed: {reply:?}");
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is after 1970").as_secs()
}
