//! Requests that never had their whole answer, and what an operator learns of them: a client that was gone is 499, a
//! response that was cut is `cut`; neither is ever the 200 that was meant, in the log or in the metrics.
//!
//! A client leaves in one of three ways: it resets (a crash, SO_LINGER 0, bytes it has not read), it closes, or it closes
//! its sending half only, and then it is still there and must be answered.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::{Act, Client, FakeRedis, Kioskd, eventually, for_each_front, temp_dir};

const GET: &str = "GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: wanted\r\n\r\n";

/// A client that can leave in every way there is.
enum Leaver {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Leaver {
    #[track_caller]
    fn connect(kioskd: &Kioskd) -> Leaver {
        let address = kioskd.addr();
        match address.strip_prefix("unix:") {
            Some(path) => Leaver::Unix(UnixStream::connect(path).expect("it listens")),
            None => Leaver::Tcp(TcpStream::connect(&*address).expect("it listens")),
        }
    }

    #[track_caller]
    fn say(&mut self, bytes: &str) {
        let said = match self {
            Leaver::Tcp(stream) => stream.write_all(bytes.as_bytes()),
            Leaver::Unix(stream) => stream.write_all(bytes.as_bytes()),
        };
        said.expect("it listens");
    }

    /// Nothing more is sent in order: the peer's kernel hears that there is no such connection. (Over a Unix socket
    /// that is what closing is.)
    #[track_caller]
    fn reset(self) {
        if let Leaver::Tcp(stream) = &self {
            let socket = socket2::SockRef::from(stream);
            let now = Some(Duration::ZERO);
            socket.set_linger(now).expect("a TCP socket can");
        }
        self.close();
    }

    /// Closes in order: the peer's kernel hears of the end of what is sent, and no more. Returns when it has heard it:
    /// on a busy machine that is a moment later, and what is written before that moment is written in good faith.
    #[track_caller]
    fn close(self) {
        let stream = match self {
            Leaver::Tcp(stream) => stream,
            Leaver::Unix(stream) => {
                // A process that another test has just forked has this socket, too, until it becomes a program: to
                // close it here would not end it.
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        };
        let [there, here] = [stream.peer_addr(), stream.local_addr()]
            .map(|address| format!(":{:04X}", address.expect("it is connected").port()));
        drop(stream);
        // A line of the peer's end: a number, its address, ours, and 01 for "established".
        let is_open = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            matches!(words[..], [_, a, b, "01"] if a.ends_with(&there) && b.ends_with(&here))
        };
        eventually("the end to arrive", || {
            let table =
                std::fs::read_to_string("/proc/net/tcp").expect("these suites run on Linux");
            !table.lines().any(is_open)
        });
    }
}

/// A kioskd whose GETs wait for [`FakeRedis::release`], and would be 404.
fn holding(front: &str, listen: &str) -> (Kioskd, FakeRedis) {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "GET" => Act::Hold(b"$-1\r\n".to_vec()),
        _ => Act::Usual,
    });
    let kioskd = Kioskd::start(&[
        ("FRONT", front),
        ("LISTEN", listen),
        ("WORKERS", "1"),
        ("REDIS_ADDR", &fake.addr()),
        ("REQUEST_TIMEOUT", "50s"),
    ]);
    (kioskd, fake)
}

/// The log has one line for the request, in the default setting too, and it says `end`; what is counted is `counted`
/// and nothing else. (One worker, so that a scrape sees what came before.)
#[track_caller]
fn assert_ended(kioskd: &mut Kioskd, request: &str, end: &str, counted: &str) {
    kioskd.wait_for_log("id=wanted");
    let log = kioskd.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("id=wanted")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let wanted = format!(" {request} {end} ");
    assert!(lines[0].contains(&wanted), "no {wanted:?} in {}", lines[0]);
    let metrics = kioskd.connect().get("/metrics").text();
    let ended = metrics.lines().filter(|line| {
        let ended = line.starts_with("kioskd_http_responses_total{")
            || line.starts_with("kioskd_http_cut_total ");
        ended && !line.ends_with(" 0") && !line.contains("\"200\"") && !line.contains("\"201\"")
    });
    assert_eq!(ended.collect::<Vec<_>>(), [counted], "{metrics}");
    assert!(metrics.contains("\nkioskd_requests_in_flight 1\n"), "{metrics}");
}

const GONE: &str = "kioskd_http_responses_total{status=\"499\"} 1";
const CUT: &str = "kioskd_http_cut_total 1";

#[track_caller]
fn assert_gone(kioskd: &mut Kioskd, request: &str) {
    assert_ended(kioskd, request, "499", GONE);
}

/// Over TCP with tiny_http the end of a client shows only when the response cannot be written.
#[test]
fn who_resets_while_the_store_has_the_word_is_499() {
    for_each_front(|front| {
        let dir = temp_dir();
        for listen in ["127.0.0.1:0", &format!("unix:{}/kioskd.sock", dir.display())] {
            let (mut kioskd, fake) = holding(front, listen);
            let mut client = Leaver::connect(&kioskd);
            client.say(GET);
            fake.wait_for("GET");
            client.reset();
            if front == "poll" {
                // It need not wait for the store to know.
                kioskd.wait_for_log("id=wanted");
            }
            fake.release();
            assert_gone(&mut kioskd, "GET /items?id=1");
        }
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// Whoever has only closed might have closed its sending half: that it is gone shows when the response is refused.
/// tiny_http does not let us look, so there it counts as answered.
#[test]
fn who_closes_while_the_store_has_the_word_is_499() {
    let (mut kioskd, fake) = holding("poll", "127.0.0.1:0");
    let mut client = Leaver::connect(&kioskd);
    client.say(GET);
    fake.wait_for("GET");
    client.close();
    fake.release();
    assert_gone(&mut kioskd, "GET /items?id=1");
}

/// What it had sent behind that request came before its end, and does not show that it is there.
#[test]
fn who_closes_behind_a_pipeline_is_499() {
    for rest in [1, 2, 100] {
        let (mut kioskd, fake) = holding("poll", "127.0.0.1:0");
        let mut client = Leaver::connect(&kioskd);
        client.say(GET);
        client.say(&GET.replace("X-Request-Id: wanted\r\n", "").repeat(rest));
        fake.wait_for("GET");
        client.close();
        fake.release();
        assert_gone(&mut kioskd, "GET /items?id=1");
    }
}

/// The same with a response that says `Connection: close`, as each does while the service drains.
#[test]
fn who_closes_before_the_last_response_is_499() {
    let (mut kioskd, fake) = holding("poll", "127.0.0.1:0");
    let mut client = Leaver::connect(&kioskd);
    client.say(&GET.replace("Host:", "Connection: close\r\nHost:"));
    fake.wait_for("GET");
    client.close();
    fake.release();
    assert_gone(&mut kioskd, "GET /items?id=1");
}

/// The half-closing client of `printf … | nc -N` is there, and is answered, however many requests it had.
#[test]
fn who_has_said_all_and_still_listens_is_not_gone() {
    let dir = temp_dir();
    for listen in ["127.0.0.1:0", &format!("unix:{}/kioskd.sock", dir.display())] {
        for last in ["", "Connection: close\r\n"] {
            let (kioskd, fake) = holding("poll", listen);
            let mut client = kioskd.connect();
            client.send(GET.replace("Host:", "A: b\r\nHost:").repeat(2));
            client.send(GET.replace("Host:", &format!("{last}Host:")));
            fake.wait_for("GET");
            client.close_write();
            fake.release();
            for _ in 0..3 {
                assert_eq!(client.read_response().status, 404);
            }
            assert_eq!(client.read_to_clean_end(), b"");
            eventually("all three to be counted", || {
                let metrics = kioskd.connect().get("/metrics").text();
                assert!(!metrics.contains("responses_total{status=\"499\""), "{metrics}");
                metrics.contains("status=\"404\"} 3") && metrics.contains("in_flight 1\n")
            });
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn who_leaves_in_the_middle_of_a_body_is_499() {
    for_each_front(|front| {
        for leave in [Leaver::reset, Leaver::close] {
            // One worker of the plain front is at the body, and another answers.
            let workers = if front == "poll" { "1" } else { "2" };
            let mut kioskd = Kioskd::start(&[("FRONT", front), ("WORKERS", workers)]);
            let mut client = Leaver::connect(&kioskd);
            client.say("PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: wanted\r\nContent-Length: 5000\r\n\r\n{");
            eventually("the request to be in flight", || {
                let metrics = kioskd.connect().get("/metrics").text();
                metrics.contains("in_flight 2\n")
            });
            leave(client);
            if front == "poll" {
                assert_gone(&mut kioskd, "PUT /items/1");
            } else {
                // It reads that the body has ended, and may write into the void.
                kioskd.wait_for_log("id=wanted");
            }
        }
    });
}

/// An item that no kernel keeps whole.
#[track_caller]
fn put_big(kioskd: &Kioskd) {
    let item = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000_000));
    assert_eq!(kioskd.connect().post("/items?id=1", &item).status, 201);
}

/// One worker, a Unix socket (where the kernel keeps 208 KiB), and a client that has asked for the big item and does not
/// read it.
fn with_a_stuck_client(settings: &[(&str, &str)]) -> (Kioskd, Client) {
    let listen = format!("unix:{}/kioskd.sock", temp_dir().display());
    let mut all = vec![("LISTEN", &*listen), ("WORKERS", "1")];
    all.extend_from_slice(settings);
    let kioskd = Kioskd::start(&all);
    put_big(&kioskd);
    let mut client = kioskd.connect();
    client.send(GET);
    assert!(client.hears_within(Duration::from_secs(20)));
    (kioskd, client)
}

#[test]
fn who_leaves_in_the_middle_of_its_response_is_499() {
    let (mut kioskd, client) = with_a_stuck_client(&[]);
    drop(client);
    assert_gone(&mut kioskd, "GET /items?id=1");
}

#[test]
fn a_response_that_nobody_takes_is_logged_and_counted_as_cut() {
    let (mut kioskd, _client) = with_a_stuck_client(&[("WRITE_TIMEOUT", "200ms")]);
    assert_ended(&mut kioskd, "GET /items?id=1", "cut", CUT);
    kioskd.wait_for_log(" cut: not taken in time");
}

/// Half a megabyte fits into the buffers of a TCP connection, so it takes a second response to get stuck.
#[test]
fn over_tcp_too() {
    let mut kioskd = Kioskd::start(&[("WRITE_TIMEOUT", "200ms"), ("WORKERS", "1")]);
    put_big(&kioskd);
    let mut client = kioskd.connect();
    let many = GET.replace("wanted", "other").repeat(20);
    client.send(many);
    kioskd.wait_for_log("GET /items?id=1 cut ");
    eventually("the cut to be counted", || {
        let metrics = kioskd.connect().get("/metrics").text();
        metrics.contains(CUT)
    });
}

#[test]
fn a_response_for_which_there_is_no_room_is_cut() {
    // The least that may be kept: two of the largest bodies.
    let settings = [("MAX_BUFFERED_BYTES", "2100000")];
    let (mut kioskd, first) = with_a_stuck_client(&settings);
    let mut others = [kioskd.connect(), kioskd.connect(), kioskd.connect()];
    for client in &mut others {
        client.send(GET.replace("wanted", "other"));
    }
    kioskd.wait_for_log("GET /items?id=1 cut ");
    kioskd.wait_for_log(" cut: too many bytes wait to be taken");
    drop((first, others));
}

/// A response that is not out is a request in flight.
#[test]
fn a_response_that_nobody_takes_until_the_drain_timeout_is_cut_and_counted() {
    let settings = [("WRITE_TIMEOUT", "5m"), ("DRAIN_TIMEOUT", "200ms")];
    let (mut kioskd, _client) = with_a_stuck_client(&settings);
    kioskd.signal("TERM");
    assert_eq!(kioskd.wait_exit().code(), Some(1), "{}", kioskd.log());
    kioskd.wait_for_log("; 1 requests in flight were cut");
}
