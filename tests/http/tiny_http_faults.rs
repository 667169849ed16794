//! Why there are two fronts: each fault of tiny_http's connection handling, as a test that the poll front does not have it;
//! and what the plain front, on top of tiny_http, can and does refuse. Where another suite says more, the test is there:
//!
//! ```text
//! 1  a declared length that aborts        limits.rs: a_huge_declared_length_costs_nothing
//! 2  heads without end                    here
//! 3  no deadlines, threads without bound  here
//! 4  a burst that is stranded             hostile/connections.rs: two_hundred_simultaneous_connections_are_all_answered
//! 5  an accept that fails ends it all     hostile/connections.rs: running_out_of_descriptors_is_survived_without_spinning
//! 6  HTTP/2.0 locks a thread              here; bytes above ASCII: syntax.rs, what_is_unusual_but_right_is_answered
//! 7  lenient framing, no close            syntax.rs: content_length_is_one_plain_number and those behind it;
//!                                         semantics.rs: version_and_connection_options_decide_who_stays
//! ```

use std::process::Command;

use crate::support::{Client, Kioskd, for_each_service, on_path};

/// tiny_http reads a head for as long as it comes.
#[test]
fn fault_2_an_endless_head_is_refused() {
    let kioskd = Kioskd::start(&[]);
    let line = format!("X: {}\r\n", "x".repeat(1020));
    for endless in [line.repeat(4 << 10), "x".repeat(4 << 20)] {
        let before = kioskd.rss_kib();
        let mut client = kioskd.connect();
        client.send("GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: ");
        client.send(endless);
        let reply = client.read_response();
        assert_eq!(reply.status, 431, "{reply:?}");
        assert_eq!(client.read_to_clean_end(), b"");
        let grown = kioskd.rss_kib().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB for a head of 4 MiB");
    }
}

/// tiny_http waits for ever, with a thread for every connection.
#[test]
fn fault_3_waiting_has_an_end_and_connections_a_bound() {
    let kioskd = Kioskd::start(&[
        ("HEAD_TIMEOUT", "200ms"),
        ("BODY_TIMEOUT", "200ms"),
        ("IDLE_TIMEOUT", "200ms"),
    ]);
    for said in [
        "GET /livez HTTP/1.1\r\nHost:",
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{",
    ] {
        let mut client = kioskd.connect();
        client.send(said);
        assert_eq!(client.read_response().status, 408, "{said:?}");
        assert_eq!(client.read_to_clean_end(), b"");
    }
    assert_eq!(kioskd.connect().read_to_clean_end(), b"", "silence");

    let kioskd = Kioskd::start(&[("MAX_CONNECTIONS", "40")]);
    let threads = kioskd.thread_count();
    let mut silent: Vec<Client> = (0..40).map(|_| kioskd.connect()).collect();
    assert_eq!(kioskd.connect().read_response().status, 503);
    assert_eq!(kioskd.thread_count(), threads);
    assert_eq!(silent[39].get("/livez").status, 200);
}

/// The plain front cannot survive that there are no files left: it ends, for somebody to restart, and is no zombie that
/// never accepts.
#[test]
fn a_plain_front_that_cannot_accept_any_more_exits() {
    let mut kioskd = Kioskd::start(&[("FRONT", "tiny_http")]);
    leave_room_for_files(&kioskd, 5);
    // Each takes two: tiny_http clones the socket. One of the two is refused.
    let mut crowd = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect(kioskd.addr()) {
        crowd.push(client);
        if crowd.len() == 30 {
            break;
        }
    }
    let status = kioskd.wait_exit();
    assert_eq!(status.code(), Some(1), "{}", kioskd.log());
    kioskd.wait_for_log("accept");
}

fn leave_room_for_files(kioskd: &Kioskd, more: usize) {
    assert!(on_path("prlimit"), "no prlimit on the PATH: it is in util-linux, where setpriv is");
    let room = kioskd.fd_count() + more;
    let status = Command::new("prlimit")
        .arg(format!("--pid={}", kioskd.pid()))
        .arg(format!("--nofile={room}:{room}"))
        .status();
    assert!(status.expect("prlimit starts").success());
}

/// tiny_http answers `HTTP/2.0` and then turns in a circle: the connection's thread is lost.
#[test]
fn fault_6_http_2_is_505_and_the_end() {
    let kioskd = Kioskd::start(&[("WORKERS", "1")]);
    for line in ["GET / HTTP/2.0", "GET /livez HTTP/3.0", "PRI * HTTP/2.0"] {
        let mut client = kioskd.connect();
        client.send(format!("{line}\r\nHost: kiosk\r\n\r\nSM\r\n\r\n"));
        let reply = client.read_response();
        assert_eq!(reply.status, 505, "{line}: {reply:?}");
        assert!(reply.says_close(), "{reply:?}");
        assert_eq!(client.read_to_clean_end(), b"");
        assert_eq!(kioskd.connect().get("/livez").status, 200, "the only worker");
    }
}

/// What the plain front sees of a request that tiny_http let pass, it refuses by the same rules, says so, and executes
/// nothing of it. What tiny_http makes of the bytes behind it is beyond us (fault 7), so nothing follows here.
#[test]
fn the_plain_front_refuses_what_it_can_see() {
    let mut kioskd = Kioskd::start(&[("FRONT", "tiny_http")]);
    for (start, fields) in [
        ("POST /items?id=bad HTTP/1.1", "Content-Length: 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nHost: a\r\nContent-Length: 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a, b\r\nContent-Length: 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a b\r\nContent-Length: 2\r\n"),
        ("POST http://a/items?id=bad HTTP/1.1", "Host:\r\nContent-Length: 2\r\n"),
        ("POST items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: 2\r\n"),
        ("POST /items?id=bad#part HTTP/1.1", "Host: a\r\nContent-Length: 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: abc\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: +2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: -2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: 0x2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: 2, 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length:\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n"),
        (
            "POST /items?id=bad HTTP/1.1",
            "Host: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n"),
        ("POST /items?id=bad HTTP/1.1", "Host: a\r\nTransfer-Encoding: identity\r\n"),
        ("POST /items?id=bad HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
    ] {
        let mut client = kioskd.connect();
        client.send(format!("{start}\r\n{fields}\r\n{{}}"));
        let reply = client.read_response();
        assert_eq!(reply.status, 400, "{start} {fields:?}: {reply:?}");
        let (code, detail) = reply.problem();
        assert_eq!(code, "bad_request", "{start} {fields:?}");
        assert!(reply.says_close(), "{start} {fields:?}: {reply:?}");
        let id = reply.header("x-request-id").expect("problem() saw it");
        kioskd.wait_for_log(id);
        kioskd.wait_for_log(&format!("refused: {detail}"));
    }
    assert_eq!(kioskd.connect().get("/items?id=bad").status, 404);

    // Whatever our own parser refuses, and tiny_http does not.
    let long = "x".repeat(20_000);
    for (status, head) in [
        (400, "P\x1bST /items?id=bad HTTP/1.1\r\nHost: a".to_owned()),
        (400, "P\nST /items?id=bad HTTP/1.1\r\nHost: a".to_owned()),
        (400, "P(ST /items?id=bad HTTP/1.1\r\nHost: a".to_owned()),
        (400, "POST /items?id=\0bad HTTP/1.1\r\nHost: a".to_owned()),
        (400, "POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX(Y): z".to_owned()),
        (400, "POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX: \0".to_owned()),
        (400, "POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX: y\x7f".to_owned()),
        (400, "POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX: y\nZ: z".to_owned()),
        (400, "POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX: y\rz".to_owned()),
        (501, format!("{} /items?id=bad HTTP/1.1\r\nHost: a", "M".repeat(33))),
        (414, format!("POST /items?id=bad&{long} HTTP/1.1\r\nHost: a")),
        (431, format!("POST /items?id=bad HTTP/1.1\r\nHost: a\r\nX: {long}")),
        (431, format!("POST /items?id=bad HTTP/1.1\r\nHost: a{}", "\r\nX: y".repeat(100))),
        (505, "POST /items?id=bad HTTP/0.9".to_owned()),
    ] {
        let mut client = kioskd.connect();
        client.send(format!("{head}\r\nContent-Length: 2\r\n\r\n{{}}"));
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{head:.60?}: {reply:?}");
        reply.problem();
        assert!(reply.says_close(), "{head:.60?}: {reply:?}");
    }
    assert_eq!(kioskd.connect().get("/items?id=bad").status, 404);
}

/// What Java's HttpClient and `curl --http2` send with each request. tiny_http gives the raw connection for the body
/// then, which has no end: the plain front waited for it for ever, and two such clients were all its workers.
#[test]
fn a_body_behind_an_upgrade_ends_where_it_is_declared_to() {
    const UPGRADE: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(5_000));
    let length = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = |body: &str| {
        let (a, b) = body.split_at(body.len() / 2);
        let chunk = |part: &str| format!("{:x};a=b\r\n{part}\r\n", part.len());
        format!("Transfer-Encoding: chunked\r\n\r\n{}{}0\r\nX: y\r\n\r\n", chunk(a), chunk(b))
    };
    for_each_service(&[("WORKERS", "2"), ("MAX_BODY_BYTES", "6000")], |kioskd| {
        // All of them stay on the line.
        let mut clients = Vec::new();
        for (line, rest, status) in [
            ("POST /items?id=1", length("{}"), 201),
            ("POST /items?id=2", length(&large), 201),
            ("POST /items?id=3", chunked("{}"), 201),
            ("POST /items?id=4", chunked(&large), 201),
            ("GET /livez", "\r\n".to_owned(), 200),
            ("HEAD /livez", "\r\n".to_owned(), 200),
            ("DELETE /items/1", length(""), 204),
            ("POST /items", length("{}"), 400),
            ("POST /items", length(&large), 400),
            ("POST /nowhere", chunked(&large), 404),
            ("POST /items?id=5", length(&large.repeat(2)), 413),
            ("POST /items?id=6", chunked(&large.repeat(2)), 413),
            (
                "POST /items?id=7",
                "Transfer-Encoding: chunked\r\n\r\n2;\r\n{}\r\n0\r\n\r\n".to_owned(),
                400,
            ),
        ] {
            let mut client = kioskd.connect();
            client.send(format!("{line} HTTP/1.1\r\nHost: kiosk\r\n{UPGRADE}{rest}"));
            let reply = match line.starts_with("HEAD") {
                true => client.read_head_response(),
                false => client.read_response(),
            };
            assert_eq!(reply.status, status, "{line}: {reply:?}");
            assert_eq!(reply.header("upgrade"), None, "{reply:?}");
            // tiny_http has made it the last request, and that is said.
            match reply.says_close() {
                true => assert_eq!(client.read_to_clean_end(), b"", "{line}"),
                false => assert_eq!(client.get("/livez").status, 200, "{line}"),
            }
            clients.push(client);
        }
        assert_eq!(kioskd.connect().get("/items/2").body, large.as_bytes());
        assert_eq!(kioskd.connect().get("/items/4").body, large.as_bytes());
        assert_eq!(kioskd.connect().get("/livez").status, 200);
    });
}

/// tiny_http waits for the body before it lets a request go, and who expects 100 waits for that.
#[test]
fn the_plain_front_refuses_a_body_that_waits_for_100_without_waiting_for_it() {
    let kioskd = Kioskd::start(&[("FRONT", "tiny_http"), ("WORKERS", "1")]);
    let body = SMUGGLED.repeat(100);
    let length = format!("Content-Length: {}", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (line, fields, body, status) in [
        ("POST /items", "Content-Length: 2", "{}", 400),
        ("POST /items", &length, &body, 400),
        ("POST /nowhere", &length, &body, 404),
        ("POST /items", "Transfer-Encoding: chunked", &chunked, 400),
        ("POST /items?id=1", "Host: again\r\nContent-Length: 2", "{}", 400),
        ("POST /items?id=1", "Content-Encoding: gzip\r\nContent-Length: 2", "{}", 415),
    ] {
        let mut client = kioskd.connect();
        client.send(format!(
            "{line} HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\nExpect: 100-continue\r\n\r\n"
        ));
        // It is asked for its body, since there is no way to refuse it and go on.
        let asked = client.read_response();
        assert_eq!(asked.status, 100, "{line} {fields}: {asked:?}");
        client.send(body);
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{line} {fields}: {reply:?}");
        reply.problem();
        assert_eq!(client.get("/livez").status, 200, "{line} {fields}");
    }
    assert_eq!(kioskd.connect().get("/items?id=smuggled").status, 404);
}

/// The connection of a plain front goes on, so what is left of the chunks of a refused body must not be the next request.
#[test]
fn the_plain_front_reads_a_refused_chunked_body_to_its_end() {
    let kioskd = Kioskd::start(&[("FRONT", "tiny_http"), ("MAX_BODY_BYTES", "1000")]);
    let large = SMUGGLED.repeat(100);
    // The data of the chunk, read up to the limit, ends where a request begins.
    let cut = format!("{}{SMUGGLED}", " ".repeat(1001));
    for (line, body, status) in [
        ("POST /items", SMUGGLED, 400),
        ("POST /items", &large, 400),
        ("POST /nowhere", SMUGGLED, 404),
        ("PUT /livez", SMUGGLED, 405),
        ("POST /items?id=1", &large, 413),
        ("POST /items?id=1", &cut, 413),
    ] {
        let mut client = kioskd.connect();
        let size = body.len();
        client.send(format!(
            "{line} HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
        ));
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{line} {size}: {reply:?}");
        assert_eq!(client.get("/livez").status, 200, "{line} {size}");
    }
    assert_eq!(kioskd.connect().get("/items?id=smuggled").status, 404);
}

/// Would be executed by a reader that takes a body for a request.
const SMUGGLED: &str =
    "POST /items?id=smuggled HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{}";

/// A body that is not what its framing says is refused there too, where tiny_http lets its reader see the fault.
#[test]
fn the_plain_front_refuses_a_bad_chunk() {
    let kioskd = Kioskd::start(&[("FRONT", "tiny_http")]);
    for body in ["x\r\n{}\r\n0\r\n\r\n", "2\r\n{}0\r\n\r\n"] {
        let mut client = kioskd.connect();
        client.send(format!(
            "POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        client.close_write();
        let reply = client.read_response();
        assert_eq!(reply.status, 400, "{body:?}: {reply:?}");
        assert_eq!(reply.problem().0, "bad_request");
    }
    assert_eq!(kioskd.connect().get("/items?id=bad").status, 404);
}
