//! Each limit at n-1, n and n+1: of the head, its fields, its target, the body and the connections
//! (docs/configuration.md).
//!
//! At n a request passes and the next one on its connection is answered too. At n+1 it is refused, the connection ends in
//! order, and a client that declares a size pays for it, not we: nothing is waited for and nothing is reserved.

use crate::support::{Client, Kioskd, Redis, Reply, eventually, temp_dir};

#[test]
fn the_head_limit_is_exact() {
    for (settings, limit) in [
        (&[("MAX_HEAD_BYTES", "300")][..], 300),
        (&[("MAX_HEAD_BYTES", "20000")], 20_000),
        (&[], 16 * 1024),
    ] {
        let kioskd = Kioskd::start(settings);
        let head = |length: usize| {
            let rest = "GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: \r\n\r\n";
            rest.replace("X: ", &format!("X: {}", "x".repeat(length - rest.len())))
        };
        assert_passes(&kioskd, &head(limit - 1), 200);
        assert_passes(&kioskd, &head(limit), 200);
        assert_refused(&kioskd, &head(limit + 1), 431, "head_too_large");
        // Empty lines before a request are part of it.
        assert_passes(&kioskd, &format!("\r\n{}", head(limit - 2)), 200);
        assert_refused(&kioskd, &format!("\r\n{}", head(limit - 1)), 431, "head_too_large");
        // An endless line is refused at the limit, without its end.
        assert_refused(&kioskd, &head(limit * 3)[..limit], 431, "head_too_large");
    }
}

#[test]
fn a_hundred_fields_pass() {
    let kioskd = Kioskd::start(&[]);
    let head = |fields: usize| {
        let fields = "X: y\r\n".repeat(fields - 1);
        format!("GET /livez HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n")
    };
    assert_passes(&kioskd, &head(99), 200);
    assert_passes(&kioskd, &head(100), 200);
    assert_refused(&kioskd, &head(101), 431, "too_many_headers");
}

#[test]
fn a_target_of_8_kib_passes() {
    let kioskd = Kioskd::start(&[]);
    let head = |target: String| format!("GET {target} HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    let origin = |length: usize| head(format!("/{}", "x".repeat(length - 1)));
    let absolute = |length: usize| head(format!("http://kiosk/{}", "x".repeat(length - 13)));
    for target in [&origin as &dyn Fn(usize) -> String, &absolute] {
        assert_passes(&kioskd, &target(8191), 404);
        assert_passes(&kioskd, &target(8192), 404);
        assert_refused(&kioskd, &target(8193), 414, "uri_too_long");
    }
}

#[test]
fn the_declared_body_limit_is_exact_for_every_path() {
    for (settings, limit) in [(&[("MAX_BODY_BYTES", "1000")][..], 1000), (&[], 1 << 20)] {
        let kioskd = Kioskd::start(settings);
        for (line, status) in [
            ("POST /items?id=1", 201),
            ("GET /livez", 200),
            ("GET /items?id=none", 404),
            ("OPTIONS /items", 204),
            ("OPTIONS *", 204),
        ] {
            let head = |length: usize| {
                format!("{line} HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n")
            };
            for length in [limit - 1, limit] {
                let request = head(length) + &document(length);
                assert_passes_whole(&kioskd, &request, status);
            }
            // Nothing of the body is sent: the head alone must be answered.
            let reply = answer_to(&kioskd, &head(limit + 1));
            assert_eq!(reply.status, 413, "{line}: {reply:?}");
            assert_eq!(reply.problem().0, "body_too_large");
        }
    }
}

/// The sizes are judged as they are announced, and in sum; a chunk that goes too far is refused before its data.
#[test]
fn the_chunked_body_limit_is_exact_before_and_while_reading() {
    for (settings, limit) in [(&[("MAX_BODY_BYTES", "1000")][..], 1000), (&[], 1 << 20)] {
        let kioskd = Kioskd::start(settings);
        for line in ["POST /items?id=1", "GET /livez", "OPTIONS *"] {
            let head =
                format!("{line} HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n");
            let status = [201, 200, 204]
                [usize::from(line != "POST /items?id=1") + usize::from(line == "OPTIONS *")];
            for length in [limit - 1, limit] {
                let text = document(length);
                let one = format!("{head}{length:x}\r\n{text}\r\n0\r\n\r\n");
                assert_passes_whole(&kioskd, &one, status);
                let (start, end) = text.split_at(7);
                let two = format!("{head}7\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n", end.len());
                assert_passes_whole(&kioskd, &two, status);
            }
            let start = &document(limit)[..7];
            for announced in [
                format!("{:x}\r\n", limit + 1),
                format!("7\r\n{start}\r\n{:x}\r\n", limit - 6),
                "fffffffffffffff8\r\n".to_owned(),
                // In sum 2^64: an adder that wraps would see 0.
                format!("7\r\n{start}\r\nfffffffffffffff9\r\n"),
            ] {
                assert_refused(&kioskd, &format!("{head}{announced}"), 413, "body_too_large");
            }
        }
    }
}

/// What is neither head nor body has a bound as well: chunk extensions and trailers.
#[test]
fn extensions_and_trailers_are_bounded() {
    let kioskd = Kioskd::start(&[]);
    let request = |body: &str| {
        format!(
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        )
    };
    let extension =
        |bytes: usize| request(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(bytes - 1)));
    assert_passes(&kioskd, &extension(8190), 201);
    assert_refused(&kioskd, &extension(8193), 400, "bad_request");
    let trailers =
        |number: usize| request(&format!("2\r\n{{}}\r\n0\r\n{}\r\n", "a: b\r\n".repeat(number)));
    assert_passes(&kioskd, &trailers(100), 201);
    assert_refused(&kioskd, &trailers(101), 431, "too_many_headers");
    let long = request(&format!("2\r\n{{}}\r\n0\r\na: {}\r\n\r\n", "x".repeat(8192)));
    assert_refused(&kioskd, &long, 431, "head_too_large");
}

/// `Content-Length: 70368744177664` aborts a server that makes room for what is declared.
#[test]
fn a_huge_declared_length_costs_nothing() {
    let kioskd = Kioskd::start(&[]);
    let ask = |line: &str, field: &str| {
        let reply =
            answer_to(&kioskd, &format!("{line} HTTP/1.1\r\nHost: kiosk\r\n{field}\r\n\r\n"));
        assert_eq!(reply.status, 413, "{line} {field}: {reply:?}");
    };
    // The first of each kind brings in what the process needs for any request.
    ask("POST /items?id=1", "Content-Length: 70368744177664");
    assert_eq!(kioskd.connect().get("/livez").status, 200);
    let before = kioskd.rss_kib();
    for power in [46, 62, 63, 64] {
        for length in [(1_u128 << power) - 1, 1 << power, (1 << power) + 1] {
            for line in ["POST /items?id=1", "POST /items", "GET /livez", "OPTIONS *"] {
                ask(line, &format!("Content-Length: {length}"));
            }
        }
    }
    let grown = kioskd.rss_kib().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB for lengths that were only declared");
    assert_eq!(kioskd.connect().get("/livez").status, 200);
}

/// A chunk that is announced and never comes holds what came, not what was announced.
#[test]
fn an_announced_chunk_costs_nothing() {
    let kioskd = Kioskd::start(&[("BODY_TIMEOUT", "50s")]);
    let announce = || {
        let mut client = kioskd.connect();
        client.send(
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(client.read_response().status, 100);
        client.send("100000\r\n{");
        client
    };
    let _first = announce();
    let before = kioskd.rss_kib();
    let waiting: Vec<Client> = (0..200).map(|_| announce()).collect();
    // Every worker has read what was sent before it answers somebody who came later.
    for _ in 0..4 {
        assert_eq!(kioskd.connect().get("/livez").status, 200);
    }
    let grown = kioskd.rss_kib().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB for {} chunks of 1 MiB to come", waiting.len());
}

/// Who sends more behind a request than there is room for gets the answer to that request all the same, whatever the store
/// takes for it, and hears 503 or the end behind it. A write that Redis had was once cut without a word.
#[test]
fn who_pipelines_beyond_the_buffers_has_an_answer() {
    let redis = Redis::start();
    let tight = [("MAX_BODY_BYTES", "1024"), ("MAX_BUFFERED_BYTES", "4096"), ("WORKERS", "1")];
    let put = "PUT /items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let more = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
    for addr in [None, Some(redis.addr())] {
        let address = addr.as_deref().map(|addr| ("REDIS_ADDR", addr));
        let kioskd = Kioskd::start(&tight.into_iter().chain(address).collect::<Vec<_>>());
        assert_eq!(kioskd.connect().get("/items/none").status, 404);
        if addr.is_some() {
            redis.stop();
        }
        let mut client = kioskd.connect();
        client.send(format!("{put}{more}"));
        if addr.is_some() {
            // More comes while the store has the word.
            eventually("the write to be on its way", || {
                kioskd.connect().get("/metrics").text().contains("kioskd_requests_in_flight 2")
            });
            let _ = client.try_send("G");
            redis.cont();
        }
        let first = client.read_response();
        assert_eq!(first.status, 201, "{first:?}");
        while !client.is_closed() {
            let next = client.read_response();
            assert!([200, 503].contains(&next.status), "{next:?}");
        }
        assert_eq!(kioskd.connect().get("/items/1").text(), "{}");
        assert!(!kioskd.log().contains(" cut "), "{}", kioskd.log());
    }
}

/// Nor is any request passed over that comes behind an answered one in more bytes than there is room for, if its client
/// has said all it wants to say: half of a request was once read as the next. Each is 64 bytes long, and 64 KiB are read
/// at once.
#[test]
fn who_pipelines_beyond_the_buffers_and_falls_silent_is_not_misread() {
    let dir = temp_dir();
    let listen = format!("unix:{}/socket", dir.display());
    let tight = [("MAX_BODY_BYTES", "1024"), ("MAX_BUFFERED_BYTES", "4096"), ("WORKERS", "1")];
    let kioskd = Kioskd::start(&[&tight[..], &[("LISTEN", &listen)]].concat());
    let mut client = kioskd.connect();
    assert_eq!(client.get("/livez").status, 200);
    kioskd.stop();
    let one =
        |n| format!("GET /livez?{n:0>11} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {n:0>4}\r\n\r\n");
    client.send((0..1040).map(one).collect::<String>());
    client.close_write();
    kioskd.cont();
    let all = String::from_utf8(client.read_to_clean_end()).expect("heads and bodies are text");
    let ids = all.lines().filter_map(|line| line.strip_prefix("X-Request-Id: "));
    let given: Vec<&str> = ids.filter(|id| id.len() == 4).collect();
    let wanted: Vec<String> = (0..given.len()).map(|n| format!("{n:0>4}")).collect();
    assert!(!given.is_empty() && given == wanted, "{given:?}");
    let _ = std::fs::remove_dir_all(dir);
}

/// Who pipelines within them is served, and what it has sent is counted once: it was refused as if it were two.
#[test]
fn who_pipelines_within_the_buffers_is_served_to_the_end() {
    let room = [("MAX_BODY_BYTES", "1024"), ("MAX_BUFFERED_BYTES", "60000"), ("WORKERS", "1")];
    let kioskd = Kioskd::start(&room);
    let mut client = kioskd.connect();
    kioskd.stop();
    client.send("GET /items/none HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000));
    kioskd.cont();
    for n in 0..1000 {
        assert_eq!(client.read_response().status, 404, "{n}");
    }
}

/// A JSON object of this many bytes, 8 at least.
fn document(length: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8))
}

/// The request passes, whole and byte by byte, and leaves the connection ready for another.
#[track_caller]
fn assert_passes(kioskd: &Kioskd, request: &str, status: u16) {
    assert_passes_sent(kioskd, request, status, Client::send_by_byte);
    assert_passes_whole(kioskd, request, status);
}

#[track_caller]
fn assert_passes_whole(kioskd: &Kioskd, request: &str, status: u16) {
    assert_passes_sent(kioskd, request, status, Client::send);
}

#[track_caller]
fn assert_passes_sent<'a>(
    kioskd: &Kioskd,
    request: &'a str,
    status: u16,
    send: fn(&mut Client, &'a str),
) {
    let mut client = kioskd.connect();
    send(&mut client, request);
    let reply = client.read_response();
    assert_eq!(reply.status, status, "{} bytes: {reply:?}", request.len());
    assert_eq!(client.get("/livez").status, 200, "the next request");
}

/// The request is refused, whole and byte by byte, though what follows it in the stream is a request of its own.
#[track_caller]
fn assert_refused(kioskd: &Kioskd, request: &str, status: u16, code: &str) {
    for send in [Client::send, Client::send_by_byte] {
        let mut client = kioskd.connect();
        send(&mut client, request.to_owned());
        client.send("\r\nGET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{} bytes: {reply:?}", request.len());
        assert_eq!(reply.problem().0, code);
        assert!(reply.says_close(), "{reply:?}");
        assert_eq!(client.read_to_clean_end(), b"");
    }
}

/// The answer to these bytes and not one more.
#[track_caller]
fn answer_to(kioskd: &Kioskd, bytes: &str) -> Reply {
    let mut client = kioskd.connect();
    client.send(bytes);
    client.read_response()
}

/// Each within its own limit, all of them together beyond theirs: the one that adds to it is turned
/// away, and the others are served.
#[test]
fn all_bodies_together_are_bounded() {
    let kioskd = Kioskd::start(&[
        ("WORKERS", "1"),
        ("MAX_BODY_BYTES", "100000"),
        ("MAX_BUFFERED_BYTES", "400000"),
    ]);
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(90_000));
    let (most, rest) = body.split_at(body.len() - 1);
    let begin = |id: usize| {
        let mut client = kioskd.connect();
        client.send(
            format!(
                "POST /items?id={id} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{most}",
                body.len()
            )
            .as_bytes(),
        );
        client
    };
    let mut four: Vec<_> = (0..4).map(begin).collect();
    // A whole exchange on another connection: by then the worker has read what the four have sent.
    crate::support::eventually("the bodies of four to have come", || {
        let text = kioskd.connect().get("/metrics").text();
        text.contains("kioskd_requests_in_flight 5")
    });
    let mut fifth = begin(4);
    let refused = fifth.read_response();
    assert_eq!((refused.status, refused.problem().0.as_str()), (503, "overloaded"));
    assert!(refused.says_close() && refused.header("Retry-After").is_some());
    for client in &mut four {
        client.send(rest.as_bytes());
        assert_eq!(client.read_response().status, 201);
    }
    assert_eq!(kioskd.connect().post("/items?id=4", &body).status, 201, "room again");
}
