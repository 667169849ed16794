//! From the environment to the exit code: what a start says, what a bad one refuses, and how a signal is obeyed.
//!
//! A request is known to be in flight when [`FakeRedis`] has received its command and holds the reply; a drain is known
//! to have begun when the log says so. Nothing here guesses how long either takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    Act, Client, FakeRedis, Finished, Kioskd, eventually, for_each_front, temp_dir,
};
use socket2::{Domain, SockAddr, Socket, Type};

/// What the log says when a drain begins (and at no other time; the settings' names contain `drain` too).
const DRAINING: &str = "draining";

#[test]
fn a_signal_ends_an_idle_service_with_0() {
    for_each_front(|front| {
        for signal in ["TERM", "INT", "QUIT"] {
            let mut kioskd = Kioskd::start(&[("FRONT", front)]);
            kioskd.signal(signal);
            assert_eq!(kioskd.wait_exit().code(), Some(0), "{signal}:\n{}", kioskd.log());
        }
    });
}

/// `IDLE_TIMEOUT` is 75 s; a drain that waited for it would end as cut short.
#[test]
fn a_drain_closes_idle_connections() {
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[("FRONT", front)]);
        let (mut used, mut unused) = (kioskd.connect(), kioskd.connect());
        assert_eq!(used.get("/livez").status, 200);
        kioskd.signal("TERM");
        assert!(used.is_closed());
        assert!(unused.is_closed());
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
    });
}

/// A head that is not complete when accepting has ended is no request, and nobody's answer is lost: anybody who sends a
/// byte and waits would make every restart fail.
#[test]
fn a_drain_waits_for_no_unfinished_head() {
    for_each_front(|front| {
        let mut kioskd =
            Kioskd::start(&[("FRONT", front), ("HEAD_TIMEOUT", "5m"), ("DRAIN_TIMEOUT", "50s")]);
        let begun = |said: &str| {
            let mut client = kioskd.connect();
            client.send(said);
            client
        };
        let mut used = kioskd.connect();
        assert_eq!(used.get("/livez").status, 200);
        used.send("GET /livez HTTP/1.1\r\nHos");
        let clients = [
            begun("G"),
            begun("\r\nG"),
            begun("GET /livez HTTP/1.1\r\nHost: kiosk\r\n"),
            begun("POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\nX:"),
            used,
        ];
        // Clients are handed out evenly: whoever came later has been answered, so what was said before has been read.
        // (tiny_http would let them wait behind the others.)
        for _ in 0..8 {
            if front == "poll" {
                assert_eq!(kioskd.connect().get("/livez").status, 200);
            }
        }
        kioskd.signal("TERM");
        for mut client in clients {
            let said = client.read_to_end();
            // tiny_http takes the empty line for a request, and refuses it.
            assert!(said.is_empty() || front == "tiny_http", "{said:?}");
        }
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
    });
}

/// Who has had its answer and does not hang up is no request in flight. (The server would wait two seconds for it.)
#[test]
fn nothing_in_flight_at_the_drain_timeout_is_a_clean_end() {
    let mut kioskd = Kioskd::start(&[("DRAIN_TIMEOUT", "100ms")]);
    let mut client = kioskd.connect();
    client.send("GET /livez HTTP/1.1\r\nHost: kiosk\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(client.read_to_end(), b"");
    kioskd.signal("TERM");
    assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
}

/// Its head is whole, so it is a request, and the end of its body is waited for; but not for ever.
#[test]
fn a_body_in_a_drain_is_waited_for_until_the_drain_timeout() {
    // More than tiny_http reads before it hands out the request.
    let item = format!(r#"{{"a":"{}"}}"#, "x".repeat(2000));
    for_each_front(|front| {
        for (timeout, finishes) in [("50s", true), ("300ms", false)] {
            let mut kioskd = Kioskd::start(&[
                ("FRONT", front),
                ("DRAIN_TIMEOUT", timeout),
                ("BODY_TIMEOUT", "5m"),
            ]);
            let mut client = kioskd.connect();
            client.send(format!(
                "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {}\r\n\r\n{{",
                item.len()
            ));
            eventually("the request to be in flight", || {
                let metrics = kioskd.connect().get("/metrics").text();
                metrics.contains("kioskd_requests_in_flight 2")
            });
            kioskd.signal("TERM");
            kioskd.wait_for_log(DRAINING);
            if finishes {
                client.send(&item[1..]);
                assert_eq!(client.read_response().status, 201);
                assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
            } else {
                assert_eq!(kioskd.wait_exit().code(), Some(1), "{}", kioskd.log());
                assert!(client.is_closed());
                kioskd.wait_for_log("; 1 requests in flight were cut");
            }
        }
    });
}

#[test]
fn drain_finishes_requests_in_flight() {
    for_each_front(|front| {
        let (mut kioskd, fake, mut client) =
            with_a_request_in_flight(front, &[("DRAIN_TIMEOUT", "50s")]);
        kioskd.signal("TERM");
        kioskd.wait_for_log(DRAINING);
        fake.release();
        let reply = client.read_response();
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
        assert!(client.is_closed());
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
    });
}

/// The port must be free for others as soon as the drain begins. tiny_http closes its listener only when its server is
/// dropped, at the end, so this is the poll front's promise.
#[test]
fn drain_stops_accepting_while_it_finishes() {
    let (mut kioskd, fake, mut client) =
        with_a_request_in_flight("poll", &[("DRAIN_TIMEOUT", "50s")]);
    kioskd.signal("TERM");
    eventually("connections to be refused", || TcpStream::connect(kioskd.addr()).is_err());
    fake.release();
    assert_eq!(client.read_response().status, 200);
    assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
}

#[test]
fn a_drain_cut_short_exits_1_and_says_how_many() {
    for_each_front(|front| {
        let (mut kioskd, _fake, mut client) =
            with_a_request_in_flight(front, &[("DRAIN_TIMEOUT", "300ms")]);
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(1), "{}", kioskd.log());
        assert!(client.is_closed());
        let log = kioskd.log();
        let says_1 =
            |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "1");
        let said = log.lines().any(|line| line.contains("cut") && says_1(line));
        assert!(said, "no line says that 1 request was cut:\n{log}");
    });
}

#[test]
fn during_drain_delay_it_answers_but_is_not_ready() {
    for_each_front(|front| {
        let mut kioskd =
            Kioskd::start(&[("FRONT", front), ("STORE", "memory"), ("DRAIN_DELAY", "50s")]);
        let mut old = kioskd.connect();
        assert_eq!(old.post("/items?id=1", "{}").status, 201);
        kioskd.signal("TERM");
        kioskd.wait_for_log(DRAINING);

        let not_ready = kioskd.connect().get("/readyz");
        assert_eq!(not_ready.status, 503, "{not_ready:?}");
        let found = old.get("/items?id=1");
        assert_eq!(found.status, 200, "{found:?}");
        // A client that connects only now is one whom the load balancer's news has not reached: it is served too.
        let alive = kioskd.connect().get("/livez");
        assert_eq!(alive.status, 200, "{alive:?}");
        // tiny_http drops a `Connection` header that a handler sets, so only the poll front can ask to reconnect.
        if front == "poll" {
            for reply in [not_ready, found, alive] {
                assert!(reply.says_close(), "{reply:?}");
            }
            assert!(old.is_closed());
        }
        assert!(kioskd.is_running());
    });
}

#[test]
fn drain_delay_passes() {
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[("FRONT", front), ("DRAIN_DELAY", "300ms")]);
        let start = Instant::now();
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        assert!(
            start.elapsed() > Duration::from_millis(250),
            "it left after {:?}",
            start.elapsed()
        );
    });
}

/// `DRAIN_DELAY` and `DRAIN_TIMEOUT` are 50 s: nothing but the second signal can end them.
#[test]
fn a_second_signal_more_than_a_second_after_the_first_exits_at_once() {
    for_each_front(|front| {
        let start = Instant::now();
        let dir = temp_dir();
        let delayed = [("TERM", "TERM"), ("INT", "QUIT")].map(|pair| {
            let listen = format!("unix:{}/{}.sock", dir.display(), pair.0);
            let settings = [("FRONT", front), ("LISTEN", &listen), ("DRAIN_DELAY", "50s")];
            (Kioskd::start(&settings), pair, None)
        });
        let finishing = [("INT", "INT"), ("QUIT", "TERM")].map(|pair| {
            let (kioskd, fake, client) =
                with_a_request_in_flight(front, &[("DRAIN_TIMEOUT", "50s")]);
            (kioskd, pair, Some((fake, client)))
        });
        // A second for all of them together.
        let mut all: Vec<_> = delayed.into_iter().chain(finishing).collect();
        let signalled = Instant::now();
        for (kioskd, (first, _), _) in &mut all {
            kioskd.signal(first);
            kioskd.wait_for_log(DRAINING);
        }
        for (kioskd, (first, second), _) in &mut all {
            eventually("the end", || {
                kioskd.signal(second);
                !kioskd.is_running()
            });
            let log = kioskd.log();
            assert!(
                signalled.elapsed() > Duration::from_secs(1),
                "{first} {second} ended it before a second had passed:\n{log}"
            );
            assert_eq!(kioskd.wait_exit().code(), Some(1), "{first} {second}: {log}");
        }
        let left = std::fs::read_dir(&dir).expect("it is ours").count();
        assert_eq!(left, 0, "sockets that nobody listens on");
        let _ = std::fs::remove_dir_all(dir);
        assert!(start.elapsed() < Duration::from_secs(40), "it took {:?}", start.elapsed());
    });
}

/// A terminal sends its signal to the whole group, and a parent that has got it to its child: one wish, told twice.
#[test]
fn two_signals_within_a_second_are_one() {
    for_each_front(|front| {
        for signals in [&["TERM", "TERM"][..], &["TERM", "INT", "QUIT"], &["INT", "INT", "INT"]] {
            for delay in ["0s", "300ms"] {
                let settings = [("DRAIN_TIMEOUT", "50s"), ("DRAIN_DELAY", delay)];
                let (mut kioskd, fake, mut client) = with_a_request_in_flight(front, &settings);
                kioskd.signals(signals);
                kioskd.wait_for_log(DRAINING);
                // Of two that are the same the kernel may keep one.
                let heard = if signals.contains(&"QUIT") { 2 } else { 0 };
                let same = || kioskd.log().matches("taken for the same").count();
                eventually("each to be heard", || same() >= heard);
                fake.release();
                assert_eq!(client.read_response().status, 200, "{signals:?}");
                drop(client);
                assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
            }
        }
    });
}

/// In all its life, also twice in quick succession.
#[test]
fn a_signal_that_is_not_for_it_does_nothing() {
    let others = ["HUP", "USR1", "USR2", "PIPE", "XFSZ"];
    let twice = others.map(|name| [name, name]).concat();
    for_each_front(|front| {
        for delay in ["0s", "300ms"] {
            let settings = [("DRAIN_TIMEOUT", "50s"), ("DRAIN_DELAY", delay)];
            let (mut kioskd, fake, mut client) = with_a_request_in_flight(front, &settings);
            kioskd.signals(&twice);
            assert_eq!(kioskd.connect().get("/livez").status, 200);
            kioskd.wait_for_log("SIGHUP");
            kioskd.signal("TERM");
            kioskd.wait_for_log(DRAINING);
            let noted = |kioskd: &Kioskd| kioskd.log().matches("SIGHUP").count();
            let before = noted(&kioskd);
            kioskd.signals(&twice);
            eventually("it to be noted in a drain, too", || noted(&kioskd) > before);
            fake.release();
            assert_eq!(client.read_response().status, 200);
            drop(client);
            assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        }
    });
}

#[test]
fn a_port_in_use_exits_1_and_says_which() {
    for_each_front(|front| {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = taken.local_addr().expect("a bound socket has an address").to_string();
        for log in ["info", "off"] {
            let ended = Kioskd::run(&[("FRONT", front), ("LISTEN", &address), ("LOG", log)], &[]);
            assert_eq!(ended.code, Some(1), "{ended:?}");
            let said = all(&ended);
            assert_eq!(said.matches(&address).count(), 1, "it is to be named once: {ended:?}");
        }
    });
}

/// Where the host has IPv6; where it has none, `PORT` means 0.0.0.0.
#[test]
fn port_binds_every_interface() {
    let ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("PORT", "0"), ("ACCESS_LOG", "all")]);
        let any = if ipv6 { "[::]:" } else { "0.0.0.0:" };
        assert!(kioskd.addr().starts_with(any), "{}", kioskd.addr());
        let mut client = Client::connect(&format!("127.0.0.1:{}", kioskd.port()));
        assert_eq!(client.get("/livez?v4").status, 200);
        if ipv6 {
            let mut client = Client::connect(&format!("[::1]:{}", kioskd.port()));
            assert_eq!(client.get("/livez?v6").status, 200);
        }
        // A peer is written as what it is, not as what the listener makes of it.
        let peer_of = |mark: &str| {
            let log = kioskd.log();
            let line = log.lines().find(|line| line.contains(mark))?;
            line.split_once(" peer=")?.1.split(' ').next().map(str::to_owned)
        };
        eventually("the access log", || peer_of("/livez?v4").is_some());
        assert_eq!(peer_of("/livez?v4").as_deref(), Some("127.0.0.1"));
        if ipv6 {
            eventually("the access log", || peer_of("/livez?v6").is_some());
            assert_eq!(peer_of("/livez?v6").as_deref(), Some("::1"));
        }
    });
}

/// One half of a port taken is a port taken: no start that only half of the clients can reach.
#[test]
fn a_port_that_somebody_has_in_one_family_is_in_use() {
    for taken in ["0.0.0.0:0", "[::]:0"] {
        let Ok(taken) = TcpListener::bind(taken) else {
            continue;
        };
        let port = taken.local_addr().expect("a bound socket has an address").port();
        for_each_front(|front| {
            let ended = Kioskd::run(&[("FRONT", front), ("PORT", &port.to_string())], &[]);
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(all(&ended).contains(&format!("port {port}")), "{ended:?}");
        });
    }
}

#[test]
fn it_listens_on_a_unix_socket() {
    for_each_front(|front| {
        let dir = temp_dir();
        let listen = format!("unix:{}", dir.join("kioskd.sock").display());
        let mut kioskd = Kioskd::start(&[("FRONT", front), ("LISTEN", &listen)]);
        assert_eq!(Client::connect(&listen).post("/items?id=1", "{}").status, 201);
        assert_eq!(Client::connect(&listen).get("/items?id=1").status, 200);
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// What is at the path when it ends may be somebody else's by then.
#[test]
fn at_the_end_the_unix_socket_goes_if_it_is_the_one_that_was_bound() {
    for_each_front(|front| {
        let dir = temp_dir();
        let path = dir.join("kioskd.sock");
        let listen = format!("unix:{}", path.display());
        let start = || Kioskd::start(&[("FRONT", front), ("LISTEN", &listen)]);
        let end = |mut kioskd: Kioskd| {
            kioskd.signal("TERM");
            assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        };
        end(start());
        assert!(!path.exists(), "its own");

        let old = start();
        std::fs::remove_file(&path).expect("it listens there");
        let successor = start();
        // Used before, so that there is something to close and a connection that goes on.
        let mut stays = Client::connect(&listen);
        assert_eq!(stays.get("/livez").status, 200);
        end(old);
        assert_eq!(Client::connect(&listen).get("/livez").status, 200);
        assert_eq!(stays.get("/livez").status, 200);
        std::fs::rename(&path, dir.join("moved")).expect("it listens there");
        std::fs::write(&path, "precious").expect("our own directory");
        end(successor);
        let kept = std::fs::read_to_string(&path);
        assert_eq!(kept.ok().as_deref(), Some("precious"));
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// A start that finds its path taken leaves what is there, and says so.
#[test]
fn a_unix_socket_in_use_exits_1_and_one_left_behind_is_taken_over() {
    for_each_front(|front| {
        let dir = temp_dir();
        let path = dir.join("kioskd.sock");
        let listen = format!("unix:{}", path.display());
        let settings = [("FRONT", front), ("LISTEN", &*listen)];
        let mut first = Kioskd::start(&settings);
        let ended = Kioskd::run(&settings, &[]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(all(&ended).contains(&listen), "{ended:?}");
        assert_eq!(Client::connect(&listen).get("/livez").status, 200);
        first.signal("KILL");
        first.wait_exit();
        assert!(path.exists(), "nobody could remove it");
        let _second = Kioskd::start(&settings);
        assert_eq!(Client::connect(&listen).get("/livez").status, 200);
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// Between another's bind and its listen a connect is refused, and its socket looks like one left behind. So kioskd binds
/// under a lock of the directory; here the other one is this test.
#[test]
fn a_unix_socket_that_another_is_about_to_listen_on_is_in_use() {
    for_each_front(|front| {
        let dir = temp_dir();
        let path = dir.join("kioskd.sock");
        let listen = format!("unix:{}", path.display());
        let lock = File::open(&dir).expect("our own directory");
        lock.lock().expect("nobody else has it");
        let other = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        other.bind(&SockAddr::unix(&path).expect("a short path")).expect("a fresh path");
        let ended = std::thread::scope(|scope| {
            let late = scope.spawn(|| Kioskd::run(&[("FRONT", front), ("LISTEN", &listen)], &[]));
            // Long enough to find the path, if it looked; and should it come later, it finds one who listens.
            std::thread::sleep(Duration::from_millis(300));
            other.listen(1).expect("it is bound");
            lock.unlock().expect("it is ours");
            late.join().expect("it ends")
        });
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(all(&ended).contains("in use"), "{ended:?}");
        assert!(path.exists());
        let _ = std::fs::remove_dir_all(dir);
    });
}

/// Each time one that was killed has left its file behind.
#[test]
fn of_several_that_start_together_on_one_unix_socket_one_remains() {
    let dir = temp_dir();
    let path = dir.join("kioskd.sock");
    let listen = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).expect("a fresh path"));
    for _ in 0..3 {
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kioskd"));
            let quiet = command.env("LISTEN", &listen).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().expect("it is there")
        };
        let mut together: Vec<_> = (0..4).map(|_| start()).collect();
        eventually("all but one have ended", || {
            together.retain_mut(|one| one.try_wait().expect("our child").is_none());
            together.len() <= 1
        });
        assert_eq!(Client::connect(&listen).get("/livez").status, 200);
        for mut one in together {
            one.kill().expect("our child");
            one.wait().expect("our child");
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn every_bad_setting_is_told_at_once_on_a_line_of_its_own() {
    let bad = [
        ("FRONT", "nginx"),
        ("STORE", "mongo"),
        ("LISTEN", "nowhere"),
        ("WORKERS", "many"),
        ("REQUEST_TIMEOUT", "2 parsecs"),
        ("ITEM_TTL", "-5s"),
        ("MAX_BODY_BYTES", "lots"),
        ("DRAIN_DELAY", "soon"),
        ("LOG_FORMAT", "xml"),
        ("REDIS_URL", "redis://user:hunter2@host:notaport/0"),
    ];
    let ended = Kioskd::run(&bad, &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for (name, value) in bad {
        let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(lines.len(), 1, "{name} on {} lines of:\n{}", lines.len(), ended.stderr);
        if name != "REDIS_URL" {
            assert!(lines[0].contains(value), "{name} without `{value}`: {}", lines[0]);
        }
    }
    assert!(!all(&ended).contains("hunter2"), "the password is told:\n{}", all(&ended));
}

#[test]
fn each_bad_value_ends_the_start_with_2() {
    let bad = [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "+80"),
        ("MAX_CONNECTIONS", "+80"),
        ("WORKERS", "0"),
        ("REQUEST_TIMEOUT", "0s"),
        ("REQUEST_TIMEOUT", "2"),
        ("ITEM_TTL", "99999999999999999999d"),
        ("REDIS_ADDR", "host:port"),
        ("REDIS_URL", "http://host"),
    ];
    for (name, value) in bad {
        let ended = Kioskd::run(&[(name, value)], &[]);
        assert_eq!(ended.code, Some(2), "{name}={value}: {ended:?}");
        assert!(ended.stderr.contains(name), "{name}={value}: {ended:?}");
    }
    // Each is good alone; together nobody can say which one is meant.
    let ended = Kioskd::run(&[("STORE", "redis")], &[]);
    assert_eq!(ended.code, Some(2), "STORE=redis without an address: {ended:?}");
}

#[test]
fn an_empty_value_counts_as_unset() {
    let empty = [
        "STORE",
        "REDIS_ADDR",
        "REDIS_URL",
        "FRONT",
        "WORKERS",
        "REQUEST_TIMEOUT",
        "LOG",
        "LOG_FORMAT",
    ];
    let settings: Vec<_> = empty.iter().map(|&name| (name, "")).collect();
    let kioskd = Kioskd::start(&settings);
    assert_eq!(kioskd.connect().get("/readyz").status, 200);
}

/// Kubernetes injects `REDIS_PORT=tcp://…` and its like into every pod beside a Service named `redis`.
#[test]
fn names_that_others_set_are_not_read() {
    let others = [
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_SERVICE_HOST", "10.0.0.1"),
        ("REDIS_SERVICE_PORT", "6379"),
        ("REDIS_SERVICE_PORT_MAIN", "6379"),
        ("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        // The original's example of a setting; there is no database here.
        ("DATABASE_URL", "postgres://user:hunter2@10.0.0.1/kiosk"),
    ];
    let kioskd = Kioskd::start(&others);
    assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
}

#[test]
fn help_lists_every_setting() {
    let ended = Kioskd::run(&[], &["--help"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let names = [
        "PORT",
        "LISTEN",
        "STORE",
        "REDIS_ADDR",
        "REDIS_URL",
        "FRONT",
        "WORKERS",
        "REQUEST_TIMEOUT",
        "REDIS_CONNECT_TIMEOUT",
        "ITEM_TTL",
        "MAX_TTL",
        "MEMORY_MAX_BYTES",
        "MAX_BODY_BYTES",
        "DRAIN_DELAY",
        "DRAIN_TIMEOUT",
        "LOG",
        "LOG_FORMAT",
        "POD_NAME",
        "NAMESPACE",
    ];
    for name in names {
        assert!(ended.stdout.contains(name), "no {name} in:\n{}", ended.stdout);
    }
}

#[test]
fn version_is_the_crates() {
    let ended = Kioskd::run(&[], &["--version"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with(concat!("kioskd ", env!("CARGO_PKG_VERSION"))), "{ended:?}");
}

#[test]
fn an_unknown_argument_exits_2() {
    let ended = Kioskd::run(&[], &["--nonsense"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--nonsense"), "{ended:?}");
}

#[test]
fn the_start_up_line_says_what_runs_where() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|_| Act::Usual);
        let url = format!("redis://user:hunter2@{}/0", fake.addr());
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("WORKERS", "3"),
            ("REDIS_URL", &url),
            ("POD_NAME", "kiosk-7"),
            ("NAMESPACE", "prod"),
        ]);
        let log = kioskd.log();
        let line =
            log.lines().find(|line| line.contains("listening on")).expect("start() waited for it");
        for wanted in [env!("CARGO_PKG_VERSION"), front, "3", "redis", "kiosk-7", "prod"] {
            assert!(line.contains(wanted), "no {wanted} in: {line}");
        }
        assert!(!log.contains("hunter2"), "the log tells the password:\n{log}");
    });
}

/// A Service leads to the pod's own address, and finds nobody there.
#[test]
fn loopback_inside_a_pod_comes_with_a_warning() {
    let has_warning = |kioskd: &Kioskd| {
        kioskd.log().lines().any(|line| line.contains("WARN") && line.contains("loopback"))
    };
    let pod = Kioskd::start(&[("LISTEN", "127.0.0.1:0"), ("POD_NAME", "kiosk-7")]);
    eventually("the warning", || has_warning(&pod));
    let host = Kioskd::start(&[("LISTEN", "127.0.0.1:0")]);
    // The warning of the memory store comes in front of where this one would be; the answer is behind both.
    eventually("the start", || host.log().contains("memory store"));
    assert_eq!(host.connect().get("/readyz").status, 200);
    assert!(!has_warning(&host), "{}", host.log());
}

#[test]
fn the_memory_store_comes_with_a_warning() {
    let has_warning = |kioskd: &Kioskd| {
        let log = kioskd.log().to_lowercase();
        log.lines().any(|line| line.contains("warn") && line.contains("memory"))
    };
    let memory = Kioskd::start(&[]);
    // It may be written after the start-up line; a request that was answered came after both.
    assert_eq!(memory.connect().get("/readyz").status, 200);
    eventually("the warning", || has_warning(&memory));
    let noop = Kioskd::start(&[("STORE", "noop")]);
    assert_eq!(noop.connect().get("/readyz").status, 200);
    assert!(!has_warning(&noop), "{}", noop.log());
}

#[test]
fn json_logs_are_one_object_a_line() {
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("LOG", "debug"),
            ("LOG_FORMAT", "json"),
            ("ACCESS_LOG", "all"),
            ("POD_NAME", "kiosk-\"7\""),
            ("NAMESPACE", "prod"),
        ]);
        assert_eq!(kioskd.connect().get("/items?id=%22quoted%22").status, 404);
        kioskd.signal("TERM");
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
        for line in kioskd.log().lines() {
            let object: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
            let members = object.as_object().unwrap_or_else(|| panic!("not an object: {line}"));
            for wanted in ["kiosk-\"7\"", "prod"] {
                assert!(members.values().any(|value| value == wanted), "no {wanted} in: {line}");
            }
        }
    });
}

/// A worker that has ended has counted, too: whoever adds counters up takes one that falls for a new process.
#[test]
fn no_counter_falls_while_one_worker_after_the_other_ends() {
    for_each_front(|front| {
        let settings =
            [("METRICS_LISTEN", "127.0.0.1:0"), ("WORKERS", "2"), ("DRAIN_TIMEOUT", "2s")];
        let (mut kioskd, _fake, _client) = with_a_request_in_flight(front, &settings);
        let log = kioskd.log();
        let (_, at) = log.split_once("metrics at ").expect("it is said before the start");
        let at = at.lines().next().expect("an address");
        let mut last = BTreeMap::new();
        let mut compare = |text: &str| {
            // The end of the process may cut the last line.
            let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
            for line in
                whole.lines().filter(|line| line.contains("_total") && !line.starts_with('#'))
            {
                let (series, n) = line.rsplit_once(' ').expect("a name and a number");
                let n: f64 = n.parse().expect("a number");
                let before = last.insert(series.to_owned(), n).unwrap_or(0.0);
                assert!(n >= before, "{series} was {before} and is {n}");
            }
        };
        // Only the poll front's workers connect before they have a request.
        let links = if front == "poll" { 2 } else { 1 };
        eventually("every worker's link", || {
            let text = Client::connect(at).get("/metrics").text();
            compare(&text);
            text.contains(&format!("kioskd_redis_connects_total {links}\n"))
        });
        kioskd.signal("TERM");
        // To the end of the process.
        while let Ok(mut stream) = TcpStream::connect(at) {
            let mut text = String::new();
            let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: k\r\n\r\n");
            let _ = asked.and_then(|()| stream.read_to_string(&mut text));
            compare(&text);
        }
        assert_eq!(kioskd.wait_exit().code(), Some(1), "its request was cut");
    });
}

/// A kioskd whose only request waits for the reply to its GET.
fn with_a_request_in_flight(front: &str, settings: &[(&str, &str)]) -> (Kioskd, FakeRedis, Client) {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "GET" | "GETEX" => Act::Hold(b"$7\r\n{\"a\":1}\r\n".to_vec()),
        _ => Act::Usual,
    });
    let addr = fake.addr();
    let mut all = vec![("FRONT", front), ("REDIS_ADDR", &*addr), ("REQUEST_TIMEOUT", "50s")];
    all.extend_from_slice(settings);
    let kioskd = Kioskd::start(&all);
    let mut client = kioskd.connect();
    client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    fake.wait_for("GET");
    (kioskd, fake, client)
}

fn all(ended: &Finished) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}
