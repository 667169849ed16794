//! Clients that take their time: every phase of a connection has an end, and trickling bytes do not put it off; but who is
//! slow and steady has the time it needs.
//!
//! A dribbling client here sends a byte every few milliseconds for as long as the server listens. If a byte renewed the
//! deadline it would dribble until the test gives up; that the server ends it at all, and not before the deadline, is
//! the claim. How much later is the machine's affair. (A body and a response must keep 1 KiB a second over all, beyond
//! the timeout. A byte every ten milliseconds is a tenth of that.)

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::hostile::{
    Crowd, PROMPT, alone, ask_until, files_at_rest, for_each_store, for_each_store_in_turn, median,
};
use crate::support::{
    Act, Client, FakeRedis, Kioskd, PATIENCE, eventually, for_each_service, temp_dir,
};

/// The deadline of the phase under test, and one that never comes for all others.
const SHORT: Duration = Duration::from_millis(400);
const SHORT_TEXT: &str = "400ms";
const LONG: &str = "5m";

/// Far more than a busy machine is late, far less than a client could dribble.
const LATE: Duration = Duration::from_secs(10);

/// Whoever keeps a worker busy, tick after long tick, keeps nobody's deadline from coming: only what is begun within such a
/// tick is counted from its end. (A tick that took long may have been one in which the process was stopped.)
#[test]
fn long_ticks_put_off_no_deadline_that_was_set_before_them() {
    let settings = [("HEAD_TIMEOUT", SHORT_TEXT), ("IDLE_TIMEOUT", LONG), ("WORKERS", "1")];
    let kioskd = Kioskd::start(&[&settings[..], &[("STORE", "memory")]].concat());
    // Each level is cut into members anew, so that a merge of two of these takes a good part of a second in a debug build.
    let members: Vec<String> = (0..50_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let deep = format!("{}{{{}}}{}", "{\"a\":".repeat(100), members.join(","), "}".repeat(100));
    let mut busy = kioskd.connect();
    assert_eq!(busy.post("/items/1", &deep).status, 201);
    let mut slow = kioskd.connect();
    let start = Instant::now();
    slow.send("GET /livez HTTP/1.1\r\n");
    while !slow.hears_within(Duration::from_millis(1)) {
        assert!(start.elapsed() < LATE, "its head is overdue since long");
        let patch = [("Content-Type", "application/merge-patch+json")];
        let reply = busy.request("PATCH", "/items/1", &patch, deep.as_bytes());
        assert_eq!(reply.status, 200);
    }
    assert!(start.elapsed() >= SHORT);
    assert_eq!(slow.read_response().status, 408);
}

/// Sends one byte of `drip` after the other until the server says or ends something; returns how long that took.
#[track_caller]
fn dribble(client: &mut Client, drip: &[u8]) -> Duration {
    let start = Instant::now();
    for byte in drip.iter().cycle() {
        if client.hears_within(Duration::from_millis(10)) {
            return start.elapsed();
        }
        assert!(start.elapsed() < LATE, "dribbling for {LATE:?} already");
        let _ = client.try_send([*byte]);
    }
    unreachable!("a drip is not empty")
}

/// 408 with its problem, then the end.
#[track_caller]
fn assert_timed_out(client: &mut Client) {
    let reply = client.read_response();
    assert_eq!(reply.status, 408, "{reply:?}");
    assert_eq!(reply.problem().0, "request_timeout");
    assert!(reply.says_close(), "{reply:?}");
    assert!(client.is_closed());
}

#[track_caller]
fn assert_after_deadline(took: Duration) {
    assert!(took >= SHORT, "{took:?} is before the deadline");
}

#[test]
fn a_dribbled_head_gets_408_at_the_head_timeout() {
    let settings = [("HEAD_TIMEOUT", SHORT_TEXT), ("BODY_TIMEOUT", LONG), ("IDLE_TIMEOUT", LONG)];
    for_each_store(&settings, |kioskd| {
        let heads: [&[u8]; 4] = [
            b"G",
            b"GET /livez HTTP/1.1\r\n",
            b"\r\nGET /livez HTTP/1.1\r\nHost: a\r\nX: ",
            b"POST /items?id=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX: ",
        ];
        for head in heads {
            let mut client = kioskd.connect();
            let drip: &[u8] = match head.ends_with(b"\r\n") {
                true => b"X: y\r\n",
                false => b"x",
            };
            let start = Instant::now();
            client.send(head);
            dribble(&mut client, drip);
            assert_after_deadline(start.elapsed());
            assert_timed_out(&mut client);
        }
    });
}

/// The second head of a connection has a clock of its own, whether it comes later or right behind the first.
#[test]
fn a_later_head_gets_the_same_time_as_the_first() {
    for_each_store(&[("HEAD_TIMEOUT", SHORT_TEXT), ("IDLE_TIMEOUT", LONG)], |kioskd| {
        let mut later = kioskd.connect();
        assert_eq!(later.get("/livez").status, 200);
        let start = Instant::now();
        later.send("GET /li");
        dribble(&mut later, b"v");
        assert_after_deadline(start.elapsed());
        assert_timed_out(&mut later);

        let mut behind = kioskd.connect();
        let start = Instant::now();
        behind.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li");
        assert_eq!(behind.read_response().status, 200);
        dribble(&mut behind, b"v");
        assert_after_deadline(start.elapsed());
        assert_timed_out(&mut behind);
    });
}

#[test]
fn a_body_below_the_least_rate_gets_408_behind_the_body_timeout() {
    let settings = [("BODY_TIMEOUT", SHORT_TEXT), ("HEAD_TIMEOUT", LONG), ("IDLE_TIMEOUT", LONG)];
    for_each_store(&settings, |kioskd| {
        let bodies: [(&str, &[u8]); 4] = [
            ("Content-Length: 1000000", b"x"),
            ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
            // A trailer that never ends.
            ("Transfer-Encoding: chunked", b""),
            ("Content-Length: 2\r\nExpect: 100-continue", b""),
        ];
        for (framing, drip) in bodies {
            let mut client = kioskd.connect();
            let start = Instant::now();
            client.send(format!("POST /items?id=1 HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            if framing.contains("Expect") {
                assert_eq!(client.read_response().status, 100);
                assert!(client.hears_within(LATE), "waiting for a body for ever");
            } else if drip.is_empty() {
                client.send("0\r\n");
                dribble(&mut client, b"T: t\r\n");
            } else {
                dribble(&mut client, drip);
            }
            assert_after_deadline(start.elapsed());
            assert_timed_out(&mut client);
        }
        assert_eq!(kioskd.connect().get("/items?id=1").status, 404);
    });
}

/// The store's time begins when there is something to ask it: a body that takes long is not its fault.
#[test]
fn a_body_may_take_longer_than_the_store_has() {
    for_each_service(&[("REQUEST_TIMEOUT", SHORT_TEXT)], |kioskd| {
        // More than tiny_http reads before it hands out the request.
        let item = format!(r#"{{"a":"{}"}}"#, "x".repeat(2000));
        let (most, rest) = item.split_at(item.len() - 1);
        let bulk = format!(r#"{{"ids":["1"]}}{}"#, " ".repeat(2000));
        let (most_of_bulk, rest_of_bulk) = bulk.split_at(bulk.len() - 1);
        let length = format!("Content-Length: {}", item.len());
        let length_of_bulk = format!("Content-Length: {}", bulk.len());
        let chunk = format!("{:x}\r\n{most}", most.len());
        let mut clients = [
            ("POST /items?id=1", &*length, most, rest, 201),
            (
                "PUT /items/2",
                "Transfer-Encoding: chunked",
                &*chunk,
                "\r\n1\r\n}\r\n0\r\n\r\n",
                201,
            ),
            (
                "POST /items/_get",
                &*length_of_bulk,
                most_of_bulk,
                rest_of_bulk,
                200,
            ),
        ]
        .map(|(line, framing, first, rest, status)| {
            let mut client = kioskd.connect();
            client.send(format!(
                "{line} HTTP/1.1\r\nHost: kiosk\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{first}"
            ));
            (client, rest, status, line)
        });
        std::thread::sleep(SHORT + SHORT / 4);
        for (client, rest, status, line) in &mut clients {
            client.send(rest);
            let reply = client.read_response();
            assert_eq!(reply.status, *status, "{line}: {reply:?}");
        }
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word_at_the_idle_timeout() {
    for_each_store(&[("IDLE_TIMEOUT", SHORT_TEXT), ("HEAD_TIMEOUT", LONG)], |kioskd| {
        for used in [false, true] {
            let mut client = kioskd.connect();
            if used {
                assert_eq!(client.get("/livez").status, 200);
            }
            let start = Instant::now();
            assert!(client.is_closed());
            // The server's clock may have begun a moment before ours: it answers, then we look.
            assert!(start.elapsed() > SHORT / 2, "{:?}", start.elapsed());
        }
    });
}

/// Empty lines before a request are skipped (RFC 9112 §2.2). They are no request, so they get no 408 for one that nobody
/// made, and no other clock than that of an idle connection; in one piece or in several.
#[test]
fn lone_empty_lines_end_without_a_word_at_the_idle_timeout() {
    for_each_store(&[("IDLE_TIMEOUT", SHORT_TEXT), ("HEAD_TIMEOUT", LONG)], |kioskd| {
        for pieces in [&["\r\n"][..], &["\r"], &["\r", "\n\r", "\n"]] {
            let mut client = kioskd.connect();
            for piece in pieces {
                let _ = client.try_send(piece);
                // A pause between two segments.
                client.hears_within(Duration::from_millis(10));
            }
            assert!(client.hears_within(LATE), "idle for {LATE:?}");
            assert!(client.is_closed());
        }
    });
}

/// Slow, not stuck: ten times the least rate, in pieces that come long before the timeout, for longer than that.
#[test]
fn a_steady_body_may_take_longer_than_the_body_timeout() {
    let timeout = Duration::from_secs(1);
    for_each_store(&[("BODY_TIMEOUT", "1s")], |kioskd| {
        let begin = |id: &str, fields: &str| {
            let mut client = kioskd.connect();
            client.send(format!("POST /items?id={id} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
            client
        };
        let piece = "x".repeat(500);
        let (first, last) = (r#"{"a":""#, r#""}"#);
        // As many pieces as fit into twice the timeout, fifty milliseconds apart.
        let pieces = 40;
        let length = first.len() + pieces * piece.len() + last.len();
        let mut plain = begin("1", &format!("Content-Length: {length}"));
        let mut chunked = begin("2", "Transfer-Encoding: chunked");
        let mut expecting =
            begin("3", &format!("Content-Length: {length}\r\nExpect: 100-continue"));
        assert_eq!(expecting.read_response().status, 100);
        let mut send = |piece: &str| {
            plain.send(piece);
            chunked.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
            expecting.send(piece);
        };
        let start = Instant::now();
        send(first);
        for _ in 0..pieces {
            std::thread::sleep(Duration::from_millis(50));
            send(&piece);
        }
        send(last);
        assert!(start.elapsed() > timeout + timeout / 2);
        chunked.send("0\r\n\r\n");
        for mut client in [plain, chunked, expecting] {
            assert_eq!(client.read_response().status, 201);
        }
    });
}

/// The same for who reads: most of the response waits in kioskd, because the kernel keeps a part of it only.
#[test]
fn a_steady_reader_may_take_longer_than_the_write_timeout() {
    let dir = temp_dir();
    let listen = format!("unix:{}/kioskd.sock", dir.display());
    let read_steadily = |mut stream: Box<dyn ReadWrite>| {
        let ask = "GET /items/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).expect("it listens");
        let mut piece = [0; 16 * 1024];
        let mut read = 0;
        loop {
            match stream.read(&mut piece).expect("nobody cuts a steady reader") {
                0 => break,
                n => read += n,
            }
            // 350 kB a second: three seconds for all of it.
            std::thread::sleep(Duration::from_millis(46));
        }
        assert!(read > big_item().len(), "{read} bytes");
    };
    let start = |listen: &str| {
        let kioskd = Kioskd::start(&[("LISTEN", listen), ("WRITE_TIMEOUT", "1s")]);
        put_big_item(&kioskd);
        kioskd
    };
    let (tcp, unix) = (start("127.0.0.1:0"), start(&listen));
    std::thread::scope(|scope| {
        scope.spawn(|| read_steadily(Box::new(connect_with_little_room(&tcp.addr()))));
        let path = unix.addr();
        let path = path.trim_start_matches("unix:");
        let stream = UnixStream::connect(path).expect("it listens");
        read_steadily(Box::new(stream));
    });
    let _ = std::fs::remove_dir_all(dir);
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A client whose kernel does not make room as it pleases: what the client has not read, the server has not sent.
fn connect_with_little_room(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("a socket address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
        .expect("a descriptor is left");
    socket.set_recv_buffer_size(64 * 1024).expect("a TCP socket can");
    socket.connect(&address.into()).expect("it listens");
    socket.into()
}

/// A client that takes a response byte by byte holds the connection no longer than one that takes none.
#[test]
fn a_client_that_does_not_take_its_response_is_closed_at_the_write_timeout() {
    let settings = [("WRITE_TIMEOUT", SHORT_TEXT), ("HEAD_TIMEOUT", LONG), ("IDLE_TIMEOUT", LONG)];
    for_each_store(&settings, |kioskd| {
        let fds = files_at_rest(kioskd);
        put_big_item(kioskd);
        for sips in [false, true] {
            let mut client = kioskd.connect();
            let start = Instant::now();
            // Far more than the kernel keeps for a connection.
            client.send(GET_BIG.repeat(100));
            assert!(client.hears_within(LATE), "no response has begun");
            eventually("the connection to be closed", || {
                if sips && client.hears_within(Duration::from_millis(1)) {
                    client.take_byte();
                }
                kioskd.fd_count() <= fds
            });
            assert_after_deadline(start.elapsed());
            let rest = client.read_to_end();
            assert!(rest.len() < 100 * MIB, "it took its responses after all");
        }
    });
}

const MIB: usize = 1024 * 1024;
const GET_BIG: &str = "GET /items/big HTTP/1.1\r\nHost: a\r\n\r\n";

/// An item just below `MAX_BODY_BYTES`.
fn big_item() -> String {
    format!(r#"{{"a":"{}"}}"#, "x".repeat(MIB - 100))
}

#[track_caller]
fn put_big_item(kioskd: &Kioskd) {
    assert_eq!(kioskd.connect().post("/items?id=big", big_item().as_bytes()).status, 201);
}

/// Over a Unix socket the kernel keeps 208 KiB for a connection whatever happens, so a response of 1 MiB gets stuck at
/// once.
#[test]
fn no_request_is_begun_while_a_response_is_not_taken() {
    let dir = temp_dir();
    let listen = format!("unix:{}/kioskd.sock", dir.display());
    assert_eq!(requests_begun_for_one_who_never_reads(&listen), 1);
    let _ = std::fs::remove_dir_all(dir);
}

/// Over TCP the kernel would keep up to 4 MiB for each client (net.ipv4.tcp_wmem) if it were not told otherwise, and a
/// thousand clients that do not read made the whole host slow: see `SEND_BUFFER_BYTES`.
#[test]
fn the_kernel_keeps_little_for_a_client_that_never_reads() {
    let begun = requests_begun_for_one_who_never_reads("127.0.0.1:0");
    assert!(begun <= 2, "{begun} responses of 1 MiB are under way");
}

/// How many of 20 pipelined requests reach the store while nobody takes the responses, of 1 MiB each. One worker: when
/// another client has been answered many times, the loop has had its chance to go on.
fn requests_begun_for_one_who_never_reads(listen: &str) -> usize {
    let item = big_item();
    let reply = format!("${}\r\n{item}\r\n", item.len()).into_bytes();
    let redis = FakeRedis::start(move |command| match command {
        [get, key, ..] if get.starts_with("GET") && key == "item:big" => Act::Send(reply.clone()),
        _ => Act::Usual,
    });
    let kioskd = Kioskd::start(&[
        ("LISTEN", listen),
        ("REDIS_ADDR", &redis.addr()),
        ("WORKERS", "1"),
        ("WRITE_TIMEOUT", LONG),
    ]);
    let asked = || {
        let commands = redis.commands();
        let big = |command: &&Vec<String>| command.iter().any(|word| word == "item:big");
        commands.iter().filter(big).count()
    };
    let mut other = kioskd.connect();
    let mut greedy = kioskd.connect();
    greedy.send(GET_BIG.repeat(20));
    eventually("the first request to reach the store", || asked() > 0);
    for _ in 0..200 {
        assert_eq!(other.get("/items/small").status, 404);
    }
    let begun = asked();
    for _ in 0..20 {
        assert_eq!(greedy.read_response().body.len(), item.len());
    }
    assert_eq!(asked(), 20);
    begun
}

/// What a reader that never reads may cost: one response here, whatever it asks for and whatever the kernel holds.
#[test]
fn a_client_that_never_reads_costs_one_response_of_memory() {
    let _alone = alone();
    for_each_store(&[("WORKERS", "1"), ("WRITE_TIMEOUT", LONG)], |kioskd| {
        put_big_item(kioskd);
        // Once through, so that the buffers a worker keeps are there already.
        assert_eq!(kioskd.connect().get("/items/big").status, 200);
        let before = kioskd.rss_peak_kib();
        let mut greedy = kioskd.connect();
        greedy.send(GET_BIG.repeat(300));
        // The loop has turned often enough to have served all of them.
        let mut left = 500;
        ask_until(kioskd, "/livez", || {
            left -= 1;
            left == 0
        });
        // The kernel counts pages a few at a time, so the most may be less than it was.
        let grown = kioskd.rss_peak_kib().saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB for one client");
    });
}

/// The body was counted, and let go with its response; the byte behind it is all that is counted then.
#[test]
fn a_byte_behind_a_large_body_keeps_no_memory_of_that_body() {
    const CLIENTS: usize = 100;
    let _alone = alone();
    for_each_store(&[("WORKERS", "1"), ("HEAD_TIMEOUT", LONG)], |kioskd| {
        put_big_item(kioskd);
        let before = kioskd.rss_kib();
        let item = big_item();
        let length = item.len();
        let request = format!(
            "PUT /items/big HTTP/1.1\r\nHost: k\r\nContent-Length: {length}\r\n\r\n{item}G"
        );
        let _clients: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let mut client = kioskd.connect();
                client.send(&request);
                assert_eq!(client.read_response().status, 204);
                client
            })
            .collect();
        let grown = kioskd.rss_kib().saturating_sub(before);
        assert!(grown < 20 * 1024, "{grown} KiB for {CLIENTS} clients");
    });
}

/// Nor does a worker keep the memory of a large response until its next one, which may be the next day's.
#[test]
fn the_memory_of_a_large_response_is_given_back_without_another_request() {
    const ITEMS: usize = 12;
    let _alone = alone();
    // glibc then gives back what is free and large, as the image's musl does.
    let settings = [("WORKERS", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")];
    for_each_store(&settings, |kioskd| {
        let mut client = kioskd.connect();
        let ids: Vec<String> = (0..ITEMS).map(|n| format!("big{n}")).collect();
        for id in &ids {
            assert_eq!(client.post(&format!("/items?id={id}"), big_item()).status, 201);
        }
        let before = kioskd.rss_kib();
        let reply = client.post("/items/_get", serde_json::json!({ "ids": ids }).to_string());
        assert!(reply.body.len() > ITEMS * big_item().len(), "{}", reply.status);
        eventually("the memory to be back", || kioskd.rss_kib() < before + 8 * 1024);
    });
}

const CROWD: usize = 1000;

/// A thousand clients of one slow kind, and a good one that must not notice. `work` is what the crowd does between two
/// looks; it is over when the server has told all of them `farewell` and closed.
#[track_caller]
fn assert_crowd_is_survived(kioskd: &Kioskd, first: &[u8], drip: &[u8], farewell: &str) {
    let over = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut crowd = Crowd::connect(&kioskd.addr(), CROWD, first);
            let mut heard = vec![Vec::new(); CROWD];
            let start = Instant::now();
            let mut drip = drip.iter().cycle();
            while crowd.ended(&mut heard) < CROWD && start.elapsed() < PATIENCE {
                if let Some(byte) = drip.next() {
                    crowd.send(&[*byte]);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            over.store(true, Ordering::Relaxed);
            assert!(start.elapsed() < PATIENCE, "the crowd is still there: {}", crowd.len());
            for heard in heard {
                let heard = String::from_utf8_lossy(&heard);
                match farewell {
                    "" => assert_eq!(heard, "", "closed, but not without a word"),
                    _ => assert!(heard.starts_with(farewell), "{heard:?}"),
                }
            }
        });
        ask_until(kioskd, "/items?id=1", || over.load(Ordering::Relaxed))
    });
    let (asked, median) = (took.len(), median(took));
    eprintln!("a good client asked {asked} times and waited {median:?} in the median");
    assert!(median < PROMPT, "{median:?} in the median");
}

#[track_caller]
fn put_small_item(kioskd: &Kioskd) {
    assert_eq!(kioskd.connect().post("/items?id=1", r"{}").status, 201);
}

#[test]
fn a_thousand_head_dribblers_disturb_nobody() {
    let _alone = alone();
    for_each_store(&[("HEAD_TIMEOUT", "2s")], |kioskd| {
        put_small_item(kioskd);
        let head = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ";
        assert_crowd_is_survived(kioskd, head, b"x", "HTTP/1.1 408 ");
    });
}

#[test]
fn a_thousand_body_dribblers_disturb_nobody() {
    let _alone = alone();
    for_each_store(&[("BODY_TIMEOUT", "2s")], |kioskd| {
        put_small_item(kioskd);
        let head = b"POST /items?id=2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        assert_crowd_is_survived(kioskd, head, b"x", "HTTP/1.1 408 ");
        assert_eq!(kioskd.connect().get("/items?id=2").status, 404);
    });
}

#[test]
fn a_thousand_silent_clients_disturb_nobody() {
    let _alone = alone();
    for_each_store(&[("IDLE_TIMEOUT", "2s")], |kioskd| {
        put_small_item(kioskd);
        assert_crowd_is_survived(kioskd, b"", b"", "");
    });
}

/// Over a Unix socket, where the kernel keeps little of what is not read: a thousand TCP connections could make it keep
/// gigabytes, and it is not the kernel that is tested. Items of 64 KiB, so that a thousand stuck responses are 64 MiB.
#[test]
fn a_thousand_clients_that_never_read_disturb_nobody() {
    let _alone = alone();
    let dir = temp_dir();
    let listen = format!("unix:{}/kioskd.sock", dir.display());
    crate::support::hostile::allow_files(CROWD + 200);
    for_each_store_in_turn(&[("LISTEN", &listen), ("WRITE_TIMEOUT", "2s")], |kioskd| {
        put_small_item(kioskd);
        let item = format!(r#"{{"a":"{}"}}"#, "x".repeat(64 * 1024));
        assert_eq!(kioskd.connect().post("/items?id=big", &item).status, 201);
        let (fds, before) = (files_at_rest(kioskd), kioskd.rss_peak_kib());
        let over = AtomicBool::new(false);
        let took = std::thread::scope(|scope| {
            scope.spawn(|| {
                let crowd: Vec<Client> = (0..CROWD)
                    .map(|_| {
                        let mut client = kioskd.connect();
                        client.send(GET_BIG.repeat(50));
                        client
                    })
                    .collect();
                // The good client is the one that stays.
                eventually("the crowd to be closed", || kioskd.fd_count() <= fds + 1);
                over.store(true, Ordering::Relaxed);
                drop(crowd);
            });
            ask_until(kioskd, "/items?id=1", || over.load(Ordering::Relaxed))
        });
        let (asked, median) = (took.len(), median(took));
        eprintln!("a good client asked {asked} times and waited {median:?} in the median");
        assert!(median < PROMPT, "{median:?} in the median");
        let grown = kioskd.rss_peak_kib().saturating_sub(before);
        // One response each, with room for a vector that has grown beyond its need, and the pipelined requests.
        assert!(grown < CROWD as u64 * 80, "{grown} KiB for {CROWD} clients");
    });
    let _ = std::fs::remove_dir_all(dir);
}
