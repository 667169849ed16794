//! Redis behind a name, and name servers that fail: the address that was good is tried while the name cannot be
//! resolved (RFC 8767).
//!
//! Where this matters most is the image, whose C library is musl. Its resolver gives up on a name when one of the two
//! questions it asks, for A and AAAA, gets no answer. So a name server that fails for a minute must not turn a Redis
//! that was restarted in that minute into one that is gone.
//!
//! A C library asks the servers in `/etc/resolv.conf`, at port 53 and no other. So each test runs in a network and a
//! mount namespace of its own, where port 53 is free and that file is ours: it starts its own binary again inside,
//! with its own name as the only test to run.
//!
//! ```text
//! test ── unshare ─▶ the same test, inside: kioskd ── redis.kiosk.test? ─▶ NameServer, 127.0.0.1:53
//!                                              └──── 127.0.0.1 ────────▶ redis-server
//! ```

use crate::support::{Client, Kioskd, Redis, eventually, temp_dir};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NAME: &str = "redis.kiosk.test";

/// A C library asks again after five seconds. What works before that has not waited for the name.
const BEFORE_THE_RESOLVER_ASKS_AGAIN: Duration = Duration::from_secs(4);

#[test]
fn the_last_good_address_is_tried_while_the_name_server_is_silent() {
    inside("the_last_good_address_is_tried_while_the_name_server_is_silent", || {
        redis_is_found_again_while_the_name_server(Mood::Silent);
    });
}

#[test]
fn the_last_good_address_is_tried_while_the_name_server_refuses() {
    inside("the_last_good_address_is_tried_while_the_name_server_refuses", || {
        redis_is_found_again_while_the_name_server(Mood::Refuses);
    });
}

#[test]
fn the_last_good_address_is_tried_while_the_name_server_drops_aaaa() {
    inside("the_last_good_address_is_tried_while_the_name_server_drops_aaaa", || {
        redis_is_found_again_while_the_name_server(Mood::DropsAaaa);
    });
}

/// Redis and name server start in any order.
#[test]
fn a_start_waits_for_the_name() {
    inside("a_start_waits_for_the_name", || {
        let names = NameServer::start(Mood::Refuses);
        let redis = Redis::start();
        let kioskd = Kioskd::start(&[("REDIS_URL", &url(&redis))]);
        let mut client = kioskd.connect();
        assert_eq!(client.get("/livez").status, 200);
        assert_eq!(client.get("/readyz").status, 503);
        names.set(Mood::Answers);
        eventually("it to be ready", || client.get("/readyz").status == 200);
    });
}

/// Redis is restarted, so every link has to be made anew, at a moment when the name has no address.
#[track_caller]
fn redis_is_found_again_while_the_name_server(mood: Mood) {
    let names = NameServer::start(Mood::Answers);
    let mut redis = Redis::start();
    // Each worker remembers for itself, and of sixteen some have not had a request yet.
    let settings = [("REDIS_URL", &*url(&redis)), ("ACCESS_LOG", "off"), ("WORKERS", "1")];
    let kioskd = Kioskd::start(&settings);
    let mut client = kioskd.connect();
    assert_eq!(put(&mut client), 201);

    names.set(mood);
    let asked_before = names.asked();
    redis.restart();
    let since = Instant::now();
    while put(&mut client) != 201 {
        let waited = since.elapsed();
        assert!(waited < BEFORE_THE_RESOLVER_ASKS_AGAIN, "{mood:?}: {}", kioskd.log());
        std::thread::sleep(Duration::from_millis(20));
    }

    // Not that the good address is kept for ever: the name is asked for, too.
    eventually("the name to be asked for", || names.asked() > asked_before);
}

fn url(redis: &Redis) -> String {
    format!("redis://{NAME}:{}", redis.port())
}

fn put(client: &mut Client) -> u16 {
    client.post("/items/1", "{\"name\":\"Alice\"}").status
}

/// What a name server does when it is asked for [`NAME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// 127.0.0.1 for A, and for AAAA that there is none.
    Answers,
    Silent,
    /// REFUSED, as from a server that has lost its configuration.
    Refuses,
    /// As some home routers and old firewalls do: A is answered, AAAA is not.
    DropsAaaa,
}

/// The name server of this network namespace, for as long as the process lives.
struct NameServer {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start(mood: Mood) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:53").expect("the namespace is ours alone");
        let mood = Arc::new(Mutex::new(mood));
        let asked = Arc::new(AtomicUsize::new(0));
        let server = NameServer { mood: Arc::clone(&mood), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                asked.fetch_add(1, Ordering::SeqCst);
                let mood = *mood.lock().expect("no holder panics");
                if let Some(answer) = answer(&question[..length], mood) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().expect("no holder panics") = mood;
    }

    /// Questions so far.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// RFC 1035 §4.1: a header of twelve bytes; the question is a name, two bytes of type and two of class.
fn answer(message: &[u8], mood: Mood) -> Option<Vec<u8>> {
    const TYPE_A: [u8; 2] = [0, 1];
    const TYPE_AAAA: [u8; 2] = [0, 28];
    let name_ends = 12 + message.get(12..)?.iter().position(|&byte| byte == 0)? + 1;
    let asked_for: [u8; 2] = message.get(name_ends..name_ends + 2)?.try_into().ok()?;
    let question = message.get(12..name_ends + 4)?;
    let has_address = asked_for == TYPE_A && mood != Mood::Refuses;
    let code = match mood {
        Mood::Silent => return None,
        Mood::DropsAaaa if asked_for == TYPE_AAAA => return None,
        Mood::Refuses => 5,
        Mood::Answers | Mood::DropsAaaa => 0,
    };
    // Its id; response, recursion wanted and to be had; one question, and the answer if there is one.
    let mut answer = message[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(question);
    if has_address {
        // The name at byte 12; A, IN, valid for one second, four bytes.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// Runs the test called `name` in namespaces of its own: `test` is called there and not here.
#[track_caller]
fn inside(name: &str, test: impl FnOnce()) {
    const MARK: &str = "KIOSKD_TEST_IS_INSIDE";
    // The files of the outside stay as they are; those of the inside hide them.
    const SET_UP: &str = r#"
        ip link set lo up
        echo 'nameserver 127.0.0.1' >"$1/resolv.conf"
        echo 'hosts: files dns' >"$1/nsswitch.conf"
        for file in resolv.conf nsswitch.conf; do
            [ ! -e "/etc/$file" ] || mount --bind "$1/$file" "/etc/$file"
        done
        shift
        exec "$@"
    "#;
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let run = |command: &[&str]| {
        let (folder, namespaces) = (temp_dir(), ["--map-root-user", "--net", "--mount"]);
        let output = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-ec", SET_UP, "sh"])
            .arg(&folder)
            .args(command)
            .env(MARK, "")
            .output();
        let _ = std::fs::remove_dir_all(folder);
        output.expect("unshare is on every Linux")
    };
    let tried = run(&["true"]);
    let reason = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(tried.status.success(), "no network namespace to be had (`unshare -rnm`): {reason}");
    let myself = std::env::current_exe().expect("the test runs");
    let name =
        format!("{}::{name}", module_path!().split_once("::").expect("a module of a crate").1);
    let output = run(&[&myself.to_string_lossy(), &name, "--exact", "--nocapture"]);
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "inside its own network:\n{}", printed.concat());
    assert!(printed[0].contains("1 passed"), "no test is called {name}: {}", printed[0]);
}
