//! A process that was stopped for a while (SIGSTOP, `docker pause`, a freezer, a suspended machine) comes back to
//! deadlines that have passed and to bytes that came before anybody looked. The bytes count: what was here in time is
//! not late because we were.
//!
//! A test freezes kioskd, sends what it has to say into the kernel, lets the deadlines pass and wakes it up. Deadlines
//! begin before the freeze, so they are as long as a slow machine may need to get that far; a pause is only longer.

use std::time::Duration;

use crate::support::hostile::for_each_store;
use crate::support::{Act, Client, FakeRedis, Kioskd, for_each_front};

const DEADLINE: &str = "1s";
const PAUSE: Duration = Duration::from_millis(1100);

/// Freezes `kioskd` for longer than any deadline, and lets `meanwhile` happen after the freeze has begun.
#[track_caller]
fn pause(kioskd: &Kioskd, meanwhile: impl FnOnce()) {
    kioskd.stop();
    meanwhile();
    std::thread::sleep(PAUSE);
    kioskd.cont();
}

const GET: &str = "GET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n";

/// More than a worker takes events in one tick, which is 256.
const CROWD: usize = 300;

#[test]
fn what_clients_have_sent_in_a_pause_is_served() {
    let settings = [
        ("HEAD_TIMEOUT", DEADLINE),
        ("BODY_TIMEOUT", DEADLINE),
        ("IDLE_TIMEOUT", DEADLINE),
        ("WORKERS", "1"),
    ];
    crate::support::hostile::allow_files(2 * CROWD);
    for_each_store(&settings, |kioskd| {
        let with = |said: &str| {
            let mut client = kioskd.connect();
            client.send(said);
            client
        };
        // More than is read for one client in a turn.
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(400_000));
        let post = |id: &str, framing: &str| {
            format!("POST /items?id={id} HTTP/1.1\r\nHost: kiosk\r\n{framing}\r\n\r\n")
        };
        let mut kept = kioskd.connect();
        assert_eq!(kept.get("/livez").status, 200);
        let mut fresh = kioskd.connect();
        let mut head = with("GET /livez HT");
        let mut body = with(&post("1", "Content-Length: 2"));
        let mut chunked = with(&post("2", "Transfer-Encoding: chunked"));
        let (some, more) = large.split_at(4_000);
        let mut slow = with(&post("3", &format!("Content-Length: {}", large.len())));
        let mut big = with(&post("4", &format!("Content-Length: {}", large.len())));
        let mut half = with("GET /livez");
        let mut silent = kioskd.connect();
        let mut crowd: Vec<Client> = (0..CROWD).map(|_| with("GET /li")).collect();
        // One worker: who came later is answered later, so it has seen all of the above.
        assert_eq!(kioskd.connect().get("/livez").status, 200);

        std::thread::scope(|scope| {
            pause(kioskd, || {
                kept.send(GET);
                fresh.send(GET);
                head.send("TP/1.1\r\nHost: kiosk\r\n\r\n");
                body.send("{}");
                chunked.send("2\r\n{}\r\n0\r\n\r\n");
                slow.send(some);
                // The kernel does not take it all while nobody reads.
                scope.spawn(|| big.send(&large));
                for client in &mut crowd {
                    client.send("vez HTTP/1.1\r\nHost: kiosk\r\n\r\n");
                }
            });
        });

        assert_eq!(kept.status_or_end(), Some(200), "a kept connection");
        assert_eq!(fresh.status_or_end(), Some(200), "a new connection");
        assert_eq!(head.status_or_end(), Some(200), "the rest of a head");
        assert_eq!(body.status_or_end(), Some(201), "a body");
        assert_eq!(chunked.status_or_end(), Some(201), "a chunked body");
        assert_eq!(big.status_or_end(), Some(201), "a large body");
        for client in &mut crowd {
            assert_eq!(client.status_or_end(), Some(200), "one of many");
        }
        // Bytes have come, so there is time for more.
        slow.send(more);
        assert_eq!(slow.status_or_end(), Some(201), "half a body");
        // And who said nothing in all that time is late.
        assert_eq!(half.status_or_end(), Some(408), "half a head");
        assert!(silent.is_closed());
    });
}

/// The store's deadlines are no other: its answer is here when we wake up.
#[test]
fn a_reply_that_came_in_a_pause_is_an_answer() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "GET" => Act::Hold(b"$7\r\n{\"a\":1}\r\n".to_vec()),
            _ => Act::Usual,
        });
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("WORKERS", "1"),
            ("REDIS_ADDR", &fake.addr()),
            ("REQUEST_TIMEOUT", DEADLINE),
        ]);
        let mut client = kioskd.connect();
        client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        fake.wait_for("GET");
        pause(&kioskd, || fake.release());
        let reply = client.read_response();
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
        // The connection to Redis was not thought dead either.
        assert_eq!(kioskd.connect().get("/items?id=1").status, 200);
        assert_eq!(sign_ons(&fake), 1, "{}", kioskd.log());
    });
}

/// The first answer of a chain came in the pause, the deadline too: nobody would wait for the second, so it is not asked
/// for. A write that is sent all the same would run, and be told as 504.
#[test]
fn no_write_is_sent_behind_its_deadline() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "GET" => Act::Hold(b"$7\r\n{\"a\":1}\r\n".to_vec()),
            _ => Act::Usual,
        });
        let kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("WORKERS", "1"),
            ("REDIS_ADDR", &fake.addr()),
            ("REQUEST_TIMEOUT", DEADLINE),
        ]);
        let mut client = kioskd.connect();
        client.send("PATCH /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Type: application/merge-patch+json\r\nContent-Length: 7\r\n\r\n{\"b\":2}");
        fake.wait_for("GET");
        pause(&kioskd, || fake.release());
        assert_eq!(client.read_response().problem().0, "store_timeout");
        // One worker, one connection: this comes behind whatever it has sent.
        assert_eq!(kioskd.connect().get("/items?id=1").status, 200);
        let commands = fake.commands();
        let last = commands.last().map(|command| &*command[0]);
        let wrote = commands.iter().any(|c| c[0].starts_with("EVAL") || c[0] == "SET");
        assert!(last == Some("GET") && !wrote, "{commands:?}");
    });
}

/// DRAIN_TIMEOUT passes in the pause, and the reply that everybody waited for is here.
#[test]
fn a_drain_is_not_over_because_of_a_pause() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "GET" => Act::Hold(b"$7\r\n{\"a\":1}\r\n".to_vec()),
            _ => Act::Usual,
        });
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("REDIS_ADDR", &fake.addr()),
            ("REQUEST_TIMEOUT", "50s"),
            ("DRAIN_TIMEOUT", DEADLINE),
        ]);
        let mut client = kioskd.connect();
        client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        fake.wait_for("GET");
        kioskd.signal("TERM");
        kioskd.wait_for_log("draining");
        pause(&kioskd, || fake.release());
        assert_eq!(client.status_or_end(), Some(200));
        drop(client);
        assert_eq!(kioskd.wait_exit().code(), Some(0), "{}", kioskd.log());
    });
}

/// Signing on has a second, and its last answer is the one to PING.
#[test]
fn an_answer_to_signing_on_that_came_in_a_pause_is_heard() {
    for_each_front(|front| {
        let fake = FakeRedis::start(|command| match &*command[0] {
            "PING" => Act::Hold(b"+PONG\r\n".to_vec()),
            _ => Act::Usual,
        });
        let mut kioskd = Kioskd::start(&[
            ("FRONT", front),
            ("WORKERS", "1"),
            ("REDIS_ADDR", &fake.addr()),
            ("REQUEST_TIMEOUT", "50s"),
        ]);
        let mut client = kioskd.connect();
        client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        fake.wait_for("PING");
        pause(&kioskd, || fake.release());
        assert_eq!(client.read_response().status, 404);
        kioskd.wait_for_log(": connected");
        assert_eq!(sign_ons(&fake), 1, "{}", kioskd.log());
    });
}

fn sign_ons(fake: &FakeRedis) -> usize {
    let commands = fake.commands();
    let hello = |command: &&Vec<String>| command[0] == "HELLO";
    commands.iter().filter(hello).count()
}
