//! Everything that goes wrong between us and one Redis: the next request gets its own answer or an honest error.
//!
//! The numbers are the rows of the list of failure modes that the client was built against, which was gathered from
//! the issue trackers of the clients the world uses. A row is a test here, or a line in this table:
//!
//! ```text
//!  4  fault between bytes and slot   no test can bring it about: `Connection::push` has nothing fallible between
//! 12  split at every byte            resp/codec/tests.rs, for every type and every recorded reply
//! 17–22 lengths, depth, sums, lines  resp/codec/tests.rs (`refuses_…`, `reads_up_to_each_limit_…`), and over the
//!                                    wire in store_down.rs (`bytes_that_are_no_reply_…`)
//! 23  HTTP on the port               store_down.rs; TLS and SSH in resp/codec/tests.rs
//! 26  GET behind a paused SET        waits with it: one connection to each node is the design
//! 29  dead DNS                       resp/resolve.rs: off the loop, one errand at a time
//! 30  network namespaces             a proxy that swallows shows the same to the client
//! 41  stale compare-and-set          store_contract.rs, with 40 and 43
//! 50  NOPROTO                        resp/handshake.rs; a Redis of that age in `an_old_redis_is_spoken_to_in_resp2`
//! 52… Sentinel, Cluster              suites of their own
//! ```
//!
//! A real redis-server wherever one can be brought to do it; a proxy in front of one for the wire; a fake for the rest.

use crate::support::session::{
    Answer, Command, Done, Line, Loop, When, get, key, redis_store, set, take,
};
use crate::support::{Act, ByHand, Client, Cut, FakeRedis, HELLO, Kioskd, PATIENCE, Proxy, Redis};
use crate::support::{Caller, Port, Reply, SetOnDrop, Way, eventually};
use kioskd::resp::options::Options;
use kioskd::store::{StoreError, Ttl};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// The timeout of requests that are meant to meet it.
const SHORT: &str = "300ms";
/// That of requests that are not: a slow machine would make 504 of what they are about.
const LONG: &str = "30s";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// ---- Reply integrity (1.A) ----------------------------------------------------------------------

/// Row 1, the leak of 2023. 64 requests are always in flight, with deadlines of 10 ms, at a Redis that pauses for
/// 30 ms again and again; the connection lives through all of it, so every late reply comes in on it.
#[test]
fn a_late_reply_never_answers_another_request() {
    let redis = Redis::start();
    for n in 0..64 {
        redis.command(&["SET", &format!("item:{n}"), &format!("{n}:value")]);
    }
    let mut turns = Loop::open(&redis_store(&redis.addr(), Options::default()));
    let over = AtomicBool::new(false);
    let (mut answered, mut late, mut next) = (0, 0, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..30 {
                redis.command(&["CLIENT", "PAUSE", "30", "ALL"]);
                std::thread::sleep(ms(45));
            }
            over.store(true, Ordering::SeqCst);
        });
        let mut free: Vec<u64> = (0..64).collect();
        let mut asked = HashMap::new();
        while !over.load(Ordering::SeqCst) {
            for n in free.drain(..) {
                turns.submit(next, get(&format!("item:{n}")), ms(10));
                asked.insert(next, n);
                next += 1;
            }
            let mut done = Done::new();
            turns.turn(ms(20), &mut done);
            for (tag, answer) in done {
                let n = asked.remove(&tag).expect("each is answered once");
                free.push(n);
                match answer {
                    Ok(Answer::Value(Some(value))) => {
                        assert_eq!(value, format!("{n}:value").into_bytes());
                        answered += 1;
                    }
                    Err(StoreError::Timeout) => late += 1,
                    // At the start.
                    Err(StoreError::Unreachable(_)) if answered == 0 => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    assert!(late > 64 && answered > 64, "{late} late, {answered} not");
    assert_eq!(sign_ons(&redis), 1, "one connection for all");
}

/// Row 2. A command of which the server has a part is poison: what follows it goes out on a new connection.
#[test]
fn a_partly_written_command_is_never_continued() {
    static IN: AtomicBool = AtomicBool::new(false);
    let server = ByHand::start(|caller| {
        if caller.number > 1 {
            return caller.serve();
        }
        caller.let_in()?;
        IN.store(true, Ordering::SeqCst);
        std::thread::sleep(PATIENCE);
        Ok(())
    });
    let options = Options { stall_timeout: ms(3000), ..Options::default() };
    let mut turns = Loop::open(&redis_store(&server.addr(), options));
    // What waits for a connection until its deadline was not sent at all.
    eventually("the server to let it in", || {
        assert_eq!(turns.turn_for(ms(10)), []);
        IN.load(Ordering::SeqCst)
    });
    for tag in 0..32 {
        turns.submit(tag, set("item:big", &vec![b'x'; MIB]), ms(2000));
    }
    let done = collect(&mut turns, 32);
    // What no byte was sent of may have gone there as well, or nowhere.
    let fits = |answer: &Result<Answer, StoreError>| {
        use StoreError::{Timeout, Unreachable};
        matches!(answer, Ok(Answer::Stored) | Err(Timeout | Unreachable(_)))
    };
    assert!(done.values().all(fits), "{done:?}");
    assert!(done.values().any(|answer| *answer == Err(StoreError::Timeout)));
    turns.submit(99, get("item:next"), PATIENCE);
    assert_eq!(collect(&mut turns, 1)[&99], Ok(Answer::Value(None)));
    assert_eq!(server.accepted(), 2);
}

/// Row 5. Replies that nobody asked for, alone, behind a proper one, and in part: the connection is given up, and
/// whoever comes next is answered on a new one.
#[test]
fn an_unasked_reply_is_nobodys() {
    for stray in [
        &b"$5\r\nwrong\r\n"[..],
        b"$5\r\nwrong\r\n$5\r\nwrong\r\n",
        b"$5\r\nwr",
        b"$",
        b"_\r\n",
        b"-ERR no\r\n",
    ] {
        eprintln!("-- {}", stray.escape_ascii());
        let server = ByHand::start(move |caller| {
            caller.let_in()?;
            let first = caller.number == 1;
            loop {
                let command = caller.command()?;
                match command.get(1).map(String::as_str) {
                    Some("item:a") if first => {
                        let mut bytes = b"$1\r\na\r\n".to_vec();
                        bytes.extend_from_slice(stray);
                        caller.say(bytes)?;
                    }
                    // On the poisoned connection whatever completes the stray reply would now be taken for ours.
                    Some(_) if first => caller.say("ong\r\n$5\r\nwrong\r\n")?,
                    Some("item:a") => caller.say("$1\r\na\r\n")?,
                    Some("item:b") => caller.say("$1\r\nb\r\n")?,
                    _ => caller.say("+PONG\r\n")?,
                }
            }
        });
        let store = redis_store(&server.addr(), Options::default());
        let mut line = Line::open(&store, Duration::from_secs(5));
        for key in ["a", "b", "a", "b"] {
            let answer = line.ask(get(&format!("item:{key}")));
            assert_eq!(answer, Ok(Answer::Value(Some(key.into()))));
        }
        assert_eq!(server.accepted(), 2, "the first connection was given up");
    }
}

/// Row 5 again, at the moment that matters: the stray reply lies in our socket when a command is queued. It was sent
/// before the command was, so it cannot answer it.
#[test]
fn a_reply_that_came_before_its_command_was_sent_is_not_its_reply() {
    let said = Arc::new(AtomicBool::new(false));
    let server = {
        let said = Arc::clone(&said);
        ByHand::start(move |caller| {
            caller.let_in()?;
            if caller.number == 1 {
                caller.command()?;
                caller.say("$1\r\na\r\n")?;
                std::thread::sleep(ms(50));
                caller.say("$5\r\nwrong\r\n")?;
                said.store(true, Ordering::SeqCst);
            }
            loop {
                caller.command()?;
                caller.say("$5\r\nright\r\n")?;
            }
        })
    };
    let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
    turns.submit(1, get("item:a"), PATIENCE);
    collect(&mut turns, 1);
    eventually("the stray reply to lie in the socket", || said.load(Ordering::SeqCst));
    turns.submit(2, get("item:b"), PATIENCE);
    let done = collect(&mut turns, 1);
    assert_eq!(done[&2], Ok(Answer::Value(Some(b"right".to_vec()))));
}

/// Row 6. What stands behind the answer to HELLO or PING, whole or in part, is not the answer to the first request.
#[test]
fn handshake_leftovers_are_not_replies() {
    for leftover in ["+OK\r\n", "$5\r\nwrong\r\n", "$5\r\nwr", "$"] {
        for behind_ping in [false, true] {
            let server = ByHand::start(move |caller| {
                let left = |yes: bool| if yes { leftover } else { "" };
                caller.command()?;
                caller.say([HELLO, left(!behind_ping).as_bytes()].concat())?;
                caller.command()?;
                caller.say(format!("+PONG\r\n{}", left(behind_ping)))?;
                caller.command()?;
                caller.say("ong\r\n$5\r\nwrong\r\n")
            });
            let store = redis_store(&server.addr(), Options::default());
            let answer = Line::open(&store, ms(500)).ask(get("item:1"));
            assert!(
                matches!(answer, Err(StoreError::Unreachable(_) | StoreError::Broken(_))),
                "{leftover:?} {behind_ping}: {answer:?}"
            );
        }
    }
}

/// Row 7. While HELLO with the password is not answered, nothing else is on the wire.
#[test]
fn the_password_goes_alone_and_is_waited_for() {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "HELLO" => Act::Hold(HELLO.to_vec()),
        _ => Act::Usual,
    });
    let url = format!("redis://:secret@{}/3", fake.addr());
    let kioskd = Kioskd::start(&[("FRONT", "poll"), ("WORKERS", "1"), ("REDIS_URL", &url)]);
    let mut client = kioskd.connect();
    client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    fake.wait_for("HELLO");
    std::thread::sleep(ms(100));
    assert_eq!(fake.commands().len(), 1, "{:?}", fake.commands());
    fake.release();
    assert_eq!(client.read_response().status, 404);
    let names: Vec<String> = fake.commands().iter().map(|c| c[0].clone()).collect();
    assert_eq!(names[..4], ["HELLO", "SELECT", "PING", "GET"]);
}

/// Row 8. A reply of a type that the command cannot have: everybody behind it would be answered one place off.
#[test]
fn a_reply_of_the_wrong_type_ends_the_connection() {
    for (command, reply) in [
        (get("item:wrong"), ":1\r\n"),
        (get("item:wrong"), "+OK\r\n"),
        (get("item:wrong"), "*1\r\n:1\r\n"),
        (set("item:wrong", b"{}"), ":1\r\n"),
        (set("item:wrong", b"{}"), "+PONG\r\n"),
        (set("item:wrong", b"{}"), "$2\r\nOK\r\n"),
        (delete("item:wrong"), "+OK\r\n"),
        (delete("item:wrong"), ":-1\r\n"),
        (take("item:wrong"), "*1\r\n:1\r\n"),
        (take("item:wrong"), "+OK\r\n"),
    ] {
        let server = ByHand::start(move |caller| {
            caller.let_in()?;
            loop {
                let command = caller.command()?;
                match command.iter().any(|word| word == "item:wrong") {
                    true => caller.say(reply)?,
                    false => caller.say("$4\r\nfine\r\n")?,
                }
            }
        });
        let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
        turns.submit(1, command.clone(), PATIENCE);
        turns.submit(2, get("item:fine"), PATIENCE);
        let done = collect(&mut turns, 2);
        assert!(
            matches!(done[&1], Err(StoreError::Broken(_))),
            "{command:?} {reply:?}: {:?}",
            done[&1]
        );
        // In flight behind it, and so lost with it; not asked again, because the answer would be nonsense again.
        assert_ne!(done[&2], Ok(Answer::Value(Some(b"wrong".to_vec()))));
        turns.submit(3, get("item:fine"), PATIENCE);
        assert_eq!(collect(&mut turns, 1)[&3], Ok(Answer::Value(Some(b"fine".to_vec()))));
        assert_eq!(server.accepted(), 2);
    }
}

/// Rows 9, 10 and 12. Pushes (known, unknown, cut in two) and attributes between the replies take nobody's place, and
/// all of it may come in one segment or a byte at a time.
#[test]
fn pushes_and_attributes_take_nobodys_place() {
    const ROUND: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n\
        $1\r\na\r\n>1\r\n+nobody-knows-this\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n\
        |1\r\n$3\r\nttl\r\n:3600\r\n$1\r\nb\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n";
    for cut in (0..=ROUND.len()).chain([usize::MAX]) {
        let server = ByHand::start(move |caller| {
            caller.let_in()?;
            loop {
                caller.command()?;
                caller.command()?;
                if cut == usize::MAX {
                    for byte in ROUND {
                        caller.say([*byte])?;
                    }
                } else {
                    caller.say(&ROUND[..cut])?;
                    std::thread::sleep(ms(1));
                    caller.say(&ROUND[cut..])?;
                }
            }
        });
        let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
        for round in 0..3 {
            turns.submit(2 * round, get("item:a"), PATIENCE);
            turns.submit(2 * round + 1, get("item:b"), PATIENCE);
            let done = collect(&mut turns, 2);
            assert_eq!(done[&(2 * round)], Ok(Answer::Value(Some(b"a".to_vec()))), "cut at {cut}");
            assert_eq!(
                done[&(2 * round + 1)],
                Ok(Answer::Value(Some(b"b".to_vec()))),
                "cut at {cut}"
            );
        }
        assert_eq!(server.accepted(), 1);
    }
}

/// 2,000 replies in as few segments as the kernel makes of them.
#[test]
fn replies_in_one_huge_segment_are_each_their_own() {
    // The first are answered one by one, so that many may be under way at once.
    const FIRST: u64 = 4000;
    const MANY: u64 = 1000;
    let server = ByHand::start(|caller| {
        caller.let_in()?;
        let answer = |caller: &mut Caller| -> std::io::Result<Vec<u8>> {
            let key = caller.command()?[1].clone();
            Ok(format!("${}\r\n{key}\r\n", key.len()).into_bytes())
        };
        for _ in 0..FIRST {
            let reply = answer(caller)?;
            caller.say(reply)?;
        }
        let mut all = Vec::new();
        for _ in 0..MANY {
            all.extend(answer(caller)?);
        }
        caller.say(all)?;
        caller.serve()
    });
    let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
    for tags in [0..FIRST, FIRST..FIRST + MANY] {
        for tag in tags.clone() {
            turns.submit(tag, get(&format!("item:{tag}")), PATIENCE);
        }
        for (tag, answer) in collect(&mut turns, tags.count()) {
            let own = format!("item:{tag}").into_bytes();
            assert_eq!(answer, Ok(Answer::Value(Some(own))));
        }
    }
}

// ---- The wire (1.B, 1.C) -------------------------------------------------------------------------

/// Rows 13, 31. The first connection ends after exactly N bytes, for every N of a short conversation in both
/// directions: signing on, a write, a read, and a count, which shows how often it was executed. Each is answered, a
/// read with the truth; a write that failed is not repeated behind our back; and all is well on the next connection.
#[test]
fn a_cut_after_any_byte_is_no_wrong_answer_and_no_second_write() {
    const THREADS: usize = 8;
    let redis = Redis::start();
    redis.command(&["SET", "item:fixed", "fixed"]);
    // How long the conversation is, from one that is not cut.
    let lengths = [(Way::Up, 700), (Way::Down, 500)];
    let cases: Vec<Cut> = lengths
        .iter()
        .flat_map(|&(way, length)| (0..length).map(move |after| Cut { way, after }))
        .collect();
    let (cut_short, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (redis, cases, cut_short, whole) = (&redis, &cases, &cut_short, &whole);
            scope.spawn(move || {
                let proxy = Proxy::start(&redis.addr());
                for cut in cases.iter().skip(n).step_by(THREADS) {
                    let before = proxy.accepted();
                    assert_survives(redis, &proxy, *cut);
                    match proxy.accepted() - before {
                        1 => whole.fetch_add(1, Ordering::SeqCst),
                        _ => cut_short.fetch_add(1, Ordering::SeqCst),
                    };
                }
            });
        }
    });
    let (cut_short, whole) = (cut_short.into_inner(), whole.into_inner());
    assert!(
        cut_short > 300 && whole > 20,
        "{cut_short} cut, {whole} not: the conversation has other lengths now"
    );
}

fn assert_survives(redis: &Redis, proxy: &Proxy, cut: Cut) {
    let key = format!("item:{:?}-{}", cut.way, cut.after);
    let count = format!("rate:{:?}-{}", cut.way, cut.after);
    proxy.cut_next(cut);
    // A session of its own, so that no backoff of the case before is in the way.
    let store = redis_store(&proxy.addr(), Options::default());
    let mut line = Line::open(&store, Duration::from_secs(10));

    let written = line.ask(set(&key, b"own"));
    let fixed = line.ask(get("item:fixed"));
    assert_eq!(
        fixed,
        Ok(Answer::Value(Some(b"fixed".to_vec()))),
        "{cut:?}: a read may be asked again"
    );
    let counted = line.ask(take(&count));
    let read = line.ask(get(&key));
    match (&written, &read) {
        (Ok(Answer::Stored), Ok(Answer::Value(Some(value)))) => assert_eq!(value, b"own"),
        (Err(StoreError::Broken(_)), Ok(Answer::Value(_))) => {}
        other => panic!("{cut:?}: {other:?}"),
    }
    let executed = redis.command(&["GET", &count]);
    match counted {
        Ok(Answer::Taken { count: 1, .. }) => assert_eq!(executed, "1", "{cut:?}"),
        Err(StoreError::Broken(_)) => assert!(["", "1"].contains(&&*executed), "{cut:?}"),
        other => panic!("{cut:?}: {other:?}"),
    }
}

/// Row 31. A reset is as good as a close: the read is asked again, the write is not, and says so.
#[test]
fn a_reset_in_the_middle_of_a_reply_is_survived() {
    let sets = Arc::new(AtomicUsize::new(0));
    let server = {
        let sets = Arc::clone(&sets);
        ByHand::start(move |caller| {
            caller.let_in()?;
            if caller.number > 2 {
                return caller.serve();
            }
            // Not read: a socket closed with bytes left in it sends RST and not FIN.
            let mut first = [0; 64];
            let n = caller.stream.peek(&mut first)?;
            if first[..n].windows(3).any(|word| word == b"SET") {
                sets.fetch_add(1, Ordering::SeqCst);
                caller.say("+O")
            } else {
                caller.say("$5\r\nwr")
            }
        })
    };
    let store = redis_store(&server.addr(), Options::default());
    let mut line = Line::open(&store, Duration::from_secs(5));
    assert_eq!(line.ask(get("item:1")), Ok(Answer::Value(None)));
    let answer = line.ask(set("item:1", b"{}"));
    assert!(matches!(answer, Err(StoreError::Broken(_)) | Ok(Answer::Stored)), "{answer:?}");
    assert!(sets.load(Ordering::SeqCst) <= 1);
    assert_eq!(line.ask(get("item:1")), Ok(Answer::Value(None)));
}

/// Row 31. Redis kills our connections in a loop: reads do not notice, a write is done or said to be in doubt, and
/// what was acknowledged is there.
#[test]
fn client_kill_in_a_loop_fails_no_read_and_loses_no_write() {
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), "2s");
    let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut done, mut doubtful) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // On a machine so busy that signing on takes longer than the pause, no connection would ever come about: that
            // is an outage. So a read must have been answered since the last time.
            let mut seen = 0;
            for _ in 0..40 {
                redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                std::thread::sleep(ms(25));
                while reads.load(Ordering::SeqCst) == seen && !over.load(Ordering::SeqCst) {
                    std::thread::sleep(ms(1));
                }
                seen = reads.load(Ordering::SeqCst);
            }
            over.store(true, Ordering::SeqCst);
        });
        // A failed assertion ends the other thread, too.
        let _over = SetOnDrop(&over);
        let mut client = kioskd.connect();
        let mut n = 0;
        while !over.load(Ordering::SeqCst) {
            n += 1;
            let body = format!("{{\"n\":{n}}}");
            let wrote = client.post("/items?id=kill", &body);
            let read = client.get("/items?id=kill");
            reads.fetch_add(1, Ordering::SeqCst);
            match wrote.status {
                201 => {
                    done += 1;
                    assert_eq!((read.status, &*read.text()), (200, &*body));
                }
                _ => {
                    assert_problem(&wrote, 502, "store_unreachable");
                    doubtful += 1;
                    assert!([200, 404].contains(&read.status), "{read:?}");
                }
            }
        }
    });
    assert!(done > 20, "{done} done, {doubtful} in doubt");
}

/// Row 15. Ten milliseconds for each byte is slow, and enough.
#[test]
fn a_byte_every_ten_milliseconds_is_a_reply() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.addr());
    let kioskd = start(&proxy.addr(), "2s");
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items?id=1", r#"{"a":1}"#).status, 201);
    proxy.drip_all(ms(10));
    for _ in 0..3 {
        let reply = client.get("/items?id=1");
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"a":1}"#));
        assert_eq!(client.get("/items?id=2").status, 404);
    }
    assert_eq!(proxy.accepted(), 1);
}

/// Row 15. A reply that is still dripping when its time is over: something moves on the connection, but no reply ever
/// comes of it. It is replaced, and the next requests are answered.
#[test]
fn a_reply_slower_than_the_deadline_costs_its_connection() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.addr());
    let kioskd = start(&proxy.addr(), SHORT);
    let mut client = kioskd.connect();
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    eventually("a write", || client.post("/items?id=1", &body).status == 201);
    proxy.drip_all(ms(20));
    assert_problem(&client.get("/items?id=1"), 504, "store_timeout");
    let start = Instant::now();
    eventually("the reply to come in full on a new connection", || {
        let reply = client.get("/items?id=1");
        assert!(reply.status >= 500 || reply.text() == body, "{reply:?}");
        reply.status == 200
    });
    // The drip would have taken twenty seconds.
    assert!(start.elapsed() < Duration::from_secs(8));
    assert_eq!(proxy.accepted(), 2);
}

/// Rows 14, 30. The network swallows everything on an established connection, while requests keep coming. Each of
/// them moves bytes into the kernel, and that is no sign of life: the connection is replaced all the same.
#[test]
fn a_swallowed_connection_is_replaced_under_steady_requests() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.addr());
    let kioskd = start(&proxy.addr(), SHORT);
    eventually("a write", || kioskd.connect().post("/items?id=1", "{}").status == 201);
    proxy.swallow_all();
    let start = Instant::now();
    std::thread::scope(|scope| {
        // Four clients out of step with each other, so that there is never a silence as long as the timeout.
        for n in 0..4 {
            let kioskd = &kioskd;
            scope.spawn(move || {
                std::thread::sleep(ms(70 * n));
                let mut client = kioskd.connect();
                let mut tries = 0;
                while client.get("/items?id=1").status != 200 {
                    tries += 1;
                    assert!(tries < 30, "still swallowed after {tries} requests");
                }
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(8));
    assert_eq!(proxy.accepted(), 2, "replaced once");
}

/// Row 14. Half a reply, then silence.
#[test]
fn half_a_reply_and_silence_is_a_new_connection_in_time_for_a_read() {
    let server = ByHand::start(|caller| {
        caller.let_in()?;
        if caller.number > 1 {
            return caller.serve();
        }
        caller.command()?;
        caller.say("$7\r\n{\"a\"")?;
        std::thread::sleep(PATIENCE);
        Ok(())
    });
    let kioskd = start(&server.addr(), SHORT);
    let mut client = kioskd.connect();
    let reply = client.get("/items?id=1");
    match reply.status {
        504 => assert_problem(&reply, 504, "store_timeout"),
        status => assert_eq!(status, 404, "sent again on a new connection: {reply:?}"),
    }
    eventually("an answer on a new connection", || client.get("/items?id=1").status == 404);
}

/// Row 16. A value of 8 MiB under an item's key, which no document can be: an honest error for who asks, nothing for
/// the others, and not much memory.
#[test]
fn a_value_beyond_the_limit_is_an_error_and_costs_nobody_else() {
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), "5s");
    redis.command(&["SETRANGE", "item:big", &(8 * MIB).to_string(), "x"]);
    redis.command(&["SET", "item:small", "{}"]);
    let mut client = kioskd.connect();
    assert_eq!(client.get("/items?id=small").status, 200);
    let before = kioskd.rss_kib();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = kioskd.connect();
            for _ in 0..20 {
                assert_problem(&client.get("/items?id=big"), 502, "store_error");
            }
        });
        for _ in 0..20 {
            assert_eq!(client.get("/items?id=small").status, 200);
        }
    });
    let grown = kioskd.rss_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB more");
    assert_eq!(sign_ons(&redis), 1, "the connection was kept");
}

/// Row 24. The text of an error can be anything; it ends in a problem document as text, and nowhere else.
#[test]
fn an_error_text_full_of_control_bytes_hurts_nobody() {
    let fake = FakeRedis::start(|command| match command.get(1).map(String::as_str) {
        Some("item:evil") => {
            let mut text = b"-ERR \x1b[2J\x07\tset-cookie: a=b \xff\xfe\"}".to_vec();
            text.resize(60_000, b'x');
            text.extend_from_slice(b"\r\n");
            Act::Send(text)
        }
        _ => Act::Usual,
    });
    let kioskd = start(&fake.addr(), "2s");
    let mut client = kioskd.connect();
    let reply = client.get("/items?id=evil");
    assert_problem(&reply, 502, "store_error");
    assert!(reply.body.len() < 1000, "{} bytes", reply.body.len());
    let whole = format!("{:?}", reply.headers);
    assert!(!whole.contains("a=b"), "{whole}");
    assert_eq!(client.get("/items?id=next").status, 404);
    assert!(!kioskd.log().contains('\x1b'), "an escape sequence in the log");
}

/// Nothing that a server says makes us panic, whatever it is taken for. Method: a fake that answers each command with
/// something made at random, now and then of the right type and now and then what it should, so that the client gets on;
/// and requests of every kind.
#[test]
fn a_server_that_says_anything_makes_nothing_panic() {
    for scheme in ["redis", "redis+cluster", "redis+sentinel"] {
        let random = Mutex::new(Random(0x9e37_79b9_7f4a_7c15));
        let own = Arc::new(OnceLock::<String>::new());
        let me = Arc::clone(&own);
        let fake = FakeRedis::start(move |command| {
            let port = me.get().and_then(|addr| addr.rsplit_once(':'));
            let mut random = random.lock().expect("it does not panic");
            random.answer(command, port.map_or("0", |(_, port)| port))
        });
        own.set(fake.addr()).expect("set once");
        let path = if scheme == "redis+sentinel" { "/m" } else { "" };
        let kioskd = Kioskd::start(&[
            ("REDIS_URL", &format!("{scheme}://{}{path}", fake.addr())),
            ("WORKERS", "1"),
            ("REQUEST_TIMEOUT", "50ms"),
        ]);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let kioskd = &kioskd;
                scope.spawn(move || ask_everything(&mut kioskd.connect(), n));
            }
        });
        let metrics = kioskd.connect().get("/metrics").text();
        assert!(metrics.contains("kioskd_panics_total 0\n"), "{metrics}");
        assert!(!kioskd.log().contains("panic"), "{}", kioskd.log());
        // It got somewhere: commands of every kind were asked.
        let asked = |word: &str| fake.commands().iter().any(|c| c[0] == word);
        assert!(asked("GET") && asked("SET"), "{scheme}");
        assert!(asked("EVALSHA") || asked("EVAL"), "{scheme}");
    }
}

fn ask_everything(client: &mut Client, n: usize) {
    let mut cursor = String::new();
    for round in 0..3 {
        let id = format!("/items/{n}-{round}");
        let key = [("Idempotency-Key", "k")];
        let tag = [("If-Match", "\"x\"")];
        let patch = [("Content-Type", "application/merge-patch+json")];
        client.get(&id);
        client.post(&id, "{}");
        client.request("PUT", &id, &key, b"{}");
        client.request("PUT", &id, &tag, b"{}");
        client.request("PATCH", &id, &patch, b"{}");
        client.request("DELETE", &id, &key, b"");
        client.get(&format!("/sess/{n}"));
        client.get("/readyz");
        client.post("/items/_get", r#"{"ids":["a","b","a","c"]}"#);
        let page = client.get(&format!("/items?limit=3&cursor={cursor}"));
        cursor.clear();
        if page.status == 200 {
            cursor.push_str(page.json()["cursor"].as_str().unwrap_or_default());
        }
    }
}

/// Xorshift: enough to wander.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn answer(&mut self, command: &[String], port: &str) -> Act {
        let port = port.to_owned();
        match (&*command[0], self.below(100)) {
            // Otherwise it never gets far.
            ("HELLO" | "PING" | "CLIENT" | "ROLE", 1..) => Act::Usual,
            ("SUBSCRIBE", 1..) => Act::Send(b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".to_vec()),
            ("CLUSTER", 30..) => Act::Send(
                format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$-1\r\n:{port}\r\n").into_bytes(),
            ),
            ("SENTINEL", 30..) if command[1] == "GET-MASTER-ADDR-BY-NAME" => Act::Send(
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len()).into_bytes(),
            ),
            ("SENTINEL", 30..) => {
                let fields = ["ip", "127.0.0.1", "port", &port, "flags", "master"];
                let fields = fields.map(|text| format!("${}\r\n{text}\r\n", text.len()));
                Act::Send(format!("*6\r\n{}", fields.concat()).into_bytes())
            }
            (_, 0) => Act::Close,
            (_, 1) => Act::Send(self.reply(4)),
            (_, 2) => Act::Send([self.reply(1), self.reply(1)].concat()),
            (_, 3) => Act::Usual,
            (_, 4) => Act::Send([b">2\r\n".to_vec(), self.reply(1), self.reply(1)].concat()),
            (_, 5) => Act::Send([b"|1\r\n".to_vec(), self.reply(1), self.reply(2)].concat()),
            (_, 6) => Act::Send(format!("-{}\r\n", self.text()).into_bytes()),
            ("GET", _) => Act::Send(self.bulk()),
            ("SET", 7..50) => Act::Send(b"$-1\r\n".to_vec()),
            ("SET", _) => Act::Send(b"+OK\r\n".to_vec()),
            // The scripts: a page, a look and record, a number.
            (_, 7..30) => {
                let (found, hashes) = (self.below(4), self.below(3));
                let mut page = [b"*4\r\n".to_vec(), self.bulk()].concat();
                page.extend(format!("*{}\r\n", 2 * found).into_bytes());
                for _ in 0..found {
                    page.extend([self.bulk(), self.integer()].concat());
                }
                page.extend(format!("*{hashes}\r\n").into_bytes());
                for _ in 0..hashes {
                    page.extend(self.bulk());
                }
                page.extend(b"$8\r\n0badcafe\r\n");
                Act::Send(page)
            }
            (_, 30..55) => Act::Send([b"*2\r\n".to_vec(), self.integer(), self.bulk()].concat()),
            (_, 55..65) => Act::Send(self.bulk()),
            (_, 65..97) => Act::Send(self.integer()),
            _ => Act::Send(self.reply(3)),
        }
    }

    fn reply(&mut self, depth: usize) -> Vec<u8> {
        match self.below(if depth == 0 { 7 } else { 10 }) {
            0 => self.integer(),
            1 => self.bulk(),
            2 => format!("-{}\r\n", self.text()).into_bytes(),
            3 => format!("+{}\r\n", self.text()).into_bytes(),
            4 => b"_\r\n".to_vec(),
            5 => b"#t\r\n".to_vec(),
            6 => b",nan\r\n".to_vec(),
            kind => {
                let n = self.below(5);
                let (sign, items) = [("*", n), ("~", n), ("%", 2 * n)][kind - 7];
                let mut reply = format!("{sign}{n}\r\n").into_bytes();
                for _ in 0..items {
                    reply.extend(self.reply(depth - 1));
                }
                reply
            }
        }
    }

    fn bulk(&mut self) -> Vec<u8> {
        let text = self.text();
        match self.below(6) {
            0 => b"$-1\r\n".to_vec(),
            _ => format!("${}\r\n{text}\r\n", text.len()).into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        let numbers = [i64::MIN, -2, -1, 0, 1, 2, 16_383, 16_384, 65_536, i64::MAX];
        format!(":{}\r\n", numbers[self.below(numbers.len())]).into_bytes()
    }

    fn text(&mut self) -> String {
        const TEXTS: [&str; 26] = [
            "",
            "0",
            "1",
            "17",
            "-1",
            "18446744073709551615",
            "99999999999999999999",
            "{}",
            "{\"a\":1}",
            "oops",
            "\"",
            "[",
            "é",
            "item:",
            "item:a",
            "sess:a",
            "0123456789abcdef",
            "0123456789abcdef0123456789abcdef1",
            "MOVED 99999 x",
            "MOVED 1 :0",
            "ASK 1 ?:1",
            "NOSCRIPT no",
            "LOADING yes",
            "WRONGTYPE no",
            "ERR Error running script: -READONLY no",
            "CLUSTERDOWN no",
        ];
        TEXTS[self.below(TEXTS.len())].to_owned()
    }
}

// ---- Time, overload, stalls (1.C) ----------------------------------------------------------------

/// Rows 25, 38. 500 requests at a frozen Redis, by HTTP: each is told 504 when its time is over and not long after;
/// the probe is answered at once all the while; memory does not follow.
#[test]
fn a_frozen_redis_costs_500_requests_their_deadline_and_nothing_else() {
    const MANY: usize = 500;
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), "2s");
    let mut clients: Vec<Client> = (0..MANY).map(|_| kioskd.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
    }
    let before = kioskd.rss_kib();
    redis.stop();
    let start = Instant::now();
    for (n, client) in clients.iter_mut().enumerate() {
        match n % 2 {
            0 => client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n"),
            _ => client.send(
                "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\
                 Content-Type: application/json\r\n\r\n{}",
            ),
        }
    }
    let sent = start.elapsed();
    let mut probe = kioskd.connect();
    let mut probes = Vec::new();
    while start.elapsed() < ms(1500) {
        let asked = Instant::now();
        assert_eq!(probe.get("/livez").status, 200);
        probes.push(asked.elapsed());
        std::thread::sleep(ms(10));
    }
    // But for the few during which the machine had other things to do.
    probes.sort_unstable();
    let livez = probes[probes.len() * 9 / 10];
    assert!(livez < ms(100), "/livez took {livez:?}, one in ten longer");
    // None waited for Redis: that would be two seconds.
    let slowest = probes[probes.len() - 1];
    assert!(slowest < ms(1000), "/livez took {slowest:?}");
    let grown = kioskd.rss_kib().saturating_sub(before);
    let mut last = Duration::ZERO;
    for client in &mut clients {
        let reply = client.read_response();
        match reply.status {
            // It waited behind others, and was not sent.
            502 => assert_problem(&reply, 502, "store_unreachable"),
            _ => assert_problem(&reply, 504, "store_timeout"),
        }
        let now = start.elapsed();
        assert!(now >= ms(1900), "told after {now:?} already");
        last = now;
    }
    eprintln!("last of {MANY}: {last:?}, sent within {sent:?}; {grown} KiB more; livez {livez:?}");
    assert!(last < sent + ms(2800), "the last waited {last:?}");
    assert!(grown < 4 * 1024, "{grown} KiB more");

    redis.cont();
    let thawed = Instant::now();
    eventually("an answer after the thaw", || probe.get("/items?id=1").status == 200);
    assert!(thawed.elapsed() < Duration::from_secs(4), "{:?}", thawed.elapsed());
}

/// Row 36. In an outage the first requests wait for a Redis that may only be restarting; after a second of it nobody
/// waits. When Redis is back, one attempt of ours finds it.
#[test]
fn an_outage_is_answered_at_once_and_its_end_is_noticed() {
    let mut redis = Redis::start();
    let kioskd = start(&redis.addr(), "2s");
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
    redis.kill();
    let start = Instant::now();
    assert_problem(&client.get("/items?id=1"), 502, "store_unreachable");
    assert!(start.elapsed() < Duration::from_secs(3));
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let start = Instant::now();
            assert_problem(&client.get("/items?id=1"), 502, "store_unreachable");
            assert_problem(&client.post("/items?id=1", "{}"), 502, "store_unreachable");
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[20] < ms(50), "two requests took {:?}", times[20]);

    redis.restart();
    let back = Instant::now();
    eventually("a write to be taken again", || client.post("/items?id=1", "{}").status == 201);
    assert!(back.elapsed() < ms(2500), "{:?}", back.elapsed());
}

/// Row 27. An address that swallows SYNs: a listener whose backlog is full. The attempt ends after
/// `REDIS_CONNECT_TIMEOUT`, requests at their deadlines at the latest, and there is one attempt at a time.
#[test]
fn a_black_hole_cannot_be_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it has an address");
    // std asks for a backlog of 128 (or what net.core.somaxconn allows); one more fits in.
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, ms(100)) {
        filling.push(stream);
        if filling.len() > 5000 {
            eprintln!("skipped: this kernel's backlog has no end");
            return;
        }
    }
    let address = address.to_string();
    let kioskd = Kioskd::start(&[
        ("FRONT", "poll"),
        ("WORKERS", "1"),
        ("REDIS_ADDR", &address),
        ("REQUEST_TIMEOUT", "1s"),
        ("REDIS_CONNECT_TIMEOUT", "200ms"),
    ]);
    let mut client = kioskd.connect();
    for _ in 0..3 {
        let start = Instant::now();
        assert_problem(&client.get("/items?id=1"), 502, "store_unreachable");
        assert!(start.elapsed() < ms(1800), "{:?}", start.elapsed());
    }
    assert_eq!(client.get("/livez").status, 200);
    assert!(connecting_to(&address) <= 1, "one connection attempt at a time");
    // Once known it is not waited for.
    let start = Instant::now();
    assert_problem(&client.get("/items?id=1"), 502, "store_unreachable");
    assert!(start.elapsed() < ms(500), "{:?}", start.elapsed());
}

/// Sockets in SYN_SENT to this address, of anybody (the address is this test's own).
fn connecting_to(address: &str) -> usize {
    let port: u16 =
        address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let remote = format!(":{port:04X} 02 ");
    table.lines().filter(|line| line.contains(&remote)).count()
}

/// Row 32. Redis closes idle connections; the request after that does not notice, read or write.
#[test]
fn an_idle_close_is_invisible() {
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), "2s");
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
    redis.command(&["CONFIG", "SET", "timeout", "1"]);
    for n in 2..4 {
        // We connect anew at once, so the sign that it was closed is that we signed on again.
        eventually("Redis to close our connection", || sign_ons(&redis) >= n);
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
        assert_eq!(client.get("/items?id=1").status, 200);
    }
}

/// The connection dies between two requests, a hundred times, and the request comes on the heels of it: the dead
/// connection is noticed before anything is written to it, so even writes are safe to send on the next one.
#[test]
fn a_hundred_cuts_between_requests_are_invisible() {
    let redis = Redis::start();
    // Ten times ten, because waits grow with each loss of a connection that is young.
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let proxy = Proxy::start(&redis.addr());
                let kioskd = start(&proxy.addr(), "5s");
                let mut client = kioskd.connect();
                for n in 0..10 {
                    let reply = client.post("/items?id=1", "{}");
                    let log = kioskd.log();
                    assert_eq!(reply.status, 201, "cut {n}: {}\n{log}", reply.text());
                    std::thread::sleep(ms(n % 3));
                    proxy.cut_all();
                }
            });
        }
    });
}

/// The same with the real thing, which is away for a moment as well.
#[test]
fn a_restart_between_requests_is_invisible() {
    let mut redis = Redis::start();
    let kioskd = start(&redis.addr(), "5s");
    let mut client = kioskd.connect();
    for n in 0..10 {
        let reply = client.post("/items?id=1", "{}");
        assert_eq!(reply.status, 201, "after restart {n}: {reply:?}");
        redis.restart();
    }
}

/// Refused for 300 ms, then up: the request waits for it. On a busy machine a restart can take longer than the second
/// that a request is ready to wait; such a round shows nothing and is made again.
#[test]
fn a_redis_that_is_refused_for_a_moment_is_waited_for() {
    for round in 0..20 {
        let mut redis = Redis::start();
        let kioskd = start(&redis.addr(), "5s");
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
        redis.kill();
        let killed = Instant::now();
        let (reply, away) = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.post("/items?id=2", "{}"));
            std::thread::sleep(ms(300));
            redis.restart();
            let away = killed.elapsed();
            (waiting.join().expect("the client does not panic"), away)
        });
        if away < ms(700) {
            assert_eq!(reply.status, 201, "away for {away:?}: {reply:?}");
            assert_eq!(redis.command(&["EXISTS", "item:2"]), "1");
            return;
        }
        println!("round {round}: away for {away:?}, {}", reply.status);
    }
    panic!("no restart in twenty took less than 700 ms");
}

/// Row 33. No place for us: one attempt every two seconds at the most, an error that names it, and our place back when
/// there is one.
#[test]
fn a_full_redis_is_asked_seldom_and_says_why() {
    let redis = Redis::start_with(&["--maxclients", "2"]);
    let mut holders = Vec::new();
    // Whoever asked whether it is up may still have a place.
    eventually("two places", || {
        let mut holder = TcpStream::connect(redis.addr()).expect("the kernel accepts");
        holder.write_all(b"PING\r\n").expect("it is connected");
        let mut pong = [0; 7];
        if holder.read_exact(&mut pong).is_ok() && &pong == b"+PONG\r\n" {
            holders.push(holder);
        }
        holders.len() == 2
    });
    let mut kioskd = start(&redis.addr(), LONG);
    let mut client = kioskd.connect();
    assert_problem(&client.get("/items?id=1"), 502, "store_error");
    assert_problem(&client.post("/items?id=1", "{}"), 502, "store_error");
    kioskd.wait_for_log("max number of clients reached");
    let start = Instant::now();
    assert_problem(&client.get("/items?id=1"), 502, "store_error");
    assert!(start.elapsed() < ms(500), "not waited for");
    drop(holders);
    let start = Instant::now();
    eventually("a place", || client.get("/items?id=1").status == 404);
    assert!(start.elapsed() < Duration::from_secs(6));
    let stats = redis.command(&["INFO", "stats"]);
    let rejected: u64 = stats
        .lines()
        .find_map(|line| line.strip_prefix("rejected_connections:"))
        .and_then(|n| n.parse().ok())
        .expect("INFO counts them");
    assert!(rejected <= 4, "{rejected} attempts");
}

/// Row 34. A server that lets us in and hangs up, for ever: attempts grow apart, they do not become a storm.
#[test]
fn a_server_that_always_hangs_up_is_not_stormed() {
    let server = ByHand::start(|caller| caller.let_in());
    let kioskd = start(&server.addr(), "2s");
    // How the waits grow is looked at as values, in resp/backoff.rs; here, that they are waited for: the first ones are 50,
    // 100, 200 and 400 ms at the most, half of that on average. Without them there are thousands.
    std::thread::sleep(Duration::from_secs(1));
    let attempts = server.accepted();
    assert!((2..=20).contains(&attempts), "{attempts} attempts in a second");
    assert!(kioskd.log().lines().count() < 200);
    drop(kioskd);
}

/// Row 35. 64 MiB wait for a frozen Redis: what comes on top is refused at once, with 503.
#[test]
fn beyond_the_byte_bound_a_request_is_refused_at_once() {
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), "6s");
    let body = format!("{{\"x\":\"{}\"}}", "x".repeat(MIB - 1024));
    let mut clients: Vec<Client> = (0..70).map(|_| kioskd.connect()).collect();
    assert_eq!(clients[0].post("/items?id=1", &body).status, 201);
    redis.stop();
    let head = format!(
        "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    for client in &mut clients {
        client.send(&head);
        client.send(&body);
    }
    let replies: Vec<Reply> = clients.iter_mut().map(Client::read_response).collect();
    let (late, refused): (Vec<_>, Vec<_>) =
        replies.iter().partition(|reply| [502, 504].contains(&reply.status));
    assert!(late.len() >= 60 && refused.len() >= 4, "{} of 70 refused", refused.len());
    for reply in refused {
        assert_problem(reply, 503, "store_unavailable");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }
}

/// Row 35. The same for their number, which HTTP would need ten thousand connections for.
#[test]
fn beyond_the_command_bound_a_request_is_refused_at_once() {
    use kioskd::resp::client::COMMANDS_MAX;
    let server = ByHand::start(|caller| {
        caller.let_in()?;
        std::thread::sleep(PATIENCE);
        Ok(())
    });
    let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
    for tag in 0..=COMMANDS_MAX as u64 {
        turns.submit(tag, get("item:1"), Duration::from_secs(3));
    }
    let done = turns.turn_for(ms(300));
    assert_eq!(
        done,
        [(COMMANDS_MAX as u64, Err(StoreError::Overloaded))],
        "the last one, and no other"
    );
    assert_eq!(collect(&mut turns, COMMANDS_MAX).len(), COMMANDS_MAX, "the others in their time");
}

/// Rows 35, 38. Requests that gave up leave their commands behind on the connection. They count: a server that takes
/// a command now and then, too few to live on and too many to be called dead, does not fill our memory with them.
#[test]
fn what_requests_left_behind_counts_for_the_bound() {
    let server = ByHand::start(|caller| {
        caller.let_in()?;
        loop {
            caller.command()?;
            caller.say("+OK\r\n")?;
            std::thread::sleep(ms(100));
        }
    });
    let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
    let body = vec![b'x'; MIB];
    let (mut refused, mut accepted) = (0, 0);
    for tag in 0..300 {
        turns.submit(tag, set("item:1", &body), ms(3));
        for (_, answer) in turns.turn_for(ms(4)) {
            match answer {
                Err(StoreError::Overloaded) => refused += 1,
                Err(StoreError::Timeout | StoreError::Unreachable(_)) | Ok(_) => accepted += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(refused > 100, "{refused} refused, {accepted} taken");
}

/// Row 37. A peer that reads only when it has written everything: we read without waiting for our own writes.
#[test]
fn a_peer_that_reads_only_after_writing_does_not_lock_us_up() {
    const MANY: u64 = 16;
    let server = ByHand::start(|caller| {
        caller.let_in()?;
        // 16 MiB come from us; 16 MiB of answers are on their way before a byte of the rest is read.
        caller.command()?;
        for _ in 0..MANY {
            caller.say(format!("${MIB}\r\n"))?;
            caller.say(vec![b'x'; MIB])?;
            caller.say("\r\n")?;
        }
        for _ in 1..2 * MANY {
            caller.command()?;
        }
        for _ in 0..MANY {
            caller.say("+OK\r\n")?;
        }
        caller.serve()
    });
    let mut turns = Loop::open(&redis_store(&server.addr(), Options::default()));
    for tag in 0..MANY {
        turns.submit(tag, get("item:1"), PATIENCE);
    }
    for tag in MANY..2 * MANY {
        turns.submit(tag, set("item:1", &vec![b'y'; MIB]), PATIENCE);
    }
    let done = collect(&mut turns, 2 * MANY as usize);
    assert!(done.values().all(std::result::Result::is_ok));
}

/// A write whose reply is lost: told as what it is, and executed once. Row 31; the fake counts.
#[test]
fn a_write_with_an_unknown_outcome_is_never_repeated() {
    for closes in [true, false] {
        let fake = FakeRedis::start(move |command| match &*command[0] {
            "SET" | "DEL" | "EVALSHA" | "EVAL" if closes => Act::Close,
            // And nothing after it, as a server would that hangs in it.
            "SET" | "DEL" | "EVALSHA" | "EVAL" => Act::Hold(Vec::new()),
            _ => Act::Usual,
        });
        let options = Options { stall_timeout: ms(300), ..Options::default() };
        let store = redis_store(&fake.addr(), options);
        let removal = Command::DeleteMany { keys: vec![b"item:1".to_vec()] };
        for (n, command) in writes("item:1").into_iter().chain([removal]).enumerate() {
            let mut line = Line::open(&store, PATIENCE);
            let other = Ok(Answer::Value(None));
            assert_eq!(line.ask(get("item:other")), other);
            line.timeout = ms(250);
            match (closes, line.ask(command.clone())) {
                (true, Err(StoreError::Broken(_))) | (false, Err(StoreError::Timeout)) => {}
                (_, wrong) => panic!("{command:?}: {wrong:?}"),
            }
            line.timeout = PATIENCE;
            assert_eq!(line.ask(get("item:other")), other);
            assert_eq!(count_writes(&fake), n + 1, "{command:?}");
        }
        // And so it looks from outside.
        let (timeout, status, code) = match closes {
            true => (LONG, 502, "store_unreachable"),
            false => (SHORT, 504, "store_timeout"),
        };
        let kioskd = start(&fake.addr(), timeout);
        let before = count_writes(&fake);
        let mut client = kioskd.connect();
        eventually("a connection", || client.get("/items?id=other").status == 404);
        assert_problem(&client.post("/items?id=1", "{}"), status, code);
        eventually("a connection that works", || client.get("/items?id=other").status == 404);
        assert_eq!(count_writes(&fake), before + 1);
    }
}

/// A network that holds a removal until the client has its answer, and has stored the session anew. A second removal past
/// the first would have been answered 200, and the first would then take the new session.
#[test]
fn a_late_removal_is_not_done_by_another_meanwhile() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.addr());
    let kioskd = start(&proxy.addr(), "2s");
    let mut client = kioskd.connect();
    eventually("a write", || client.post("/sess?sid=u42.a", "{}").status == 201);
    // The script for the page is known, so that only the removal is held.
    assert_eq!(client.request("DELETE", "/sess?prefix=none", &[], b"").status, 200);
    proxy.hold_all("\r\nDEL\r\n");
    let reply = client.request("DELETE", "/sess?prefix=u42.", &[], b"");
    assert!(proxy.has_held(), "it never left: {reply:?}");
    let stored = client.post("/sess?sid=u42.a", r#"{"new":1}"#);
    assert_eq!(stored.status, 201, "{stored:?}");
    assert_problem(&reply, 504, "store_timeout");
    proxy.release_all();
    let removals = || redis.command(&["INFO", "commandstats"]).contains("cmdstat_del:calls=1,");
    eventually("the removal to arrive, once", removals);
}

fn count_writes(fake: &FakeRedis) -> usize {
    let is_write = |name: &str| ["SET", "DEL", "EVAL", "EVALSHA"].contains(&name);
    fake.commands().iter().filter(|command| is_write(&command[0])).count()
}

// ---- Replies that are not answers (1.D) ----------------------------------------------------------

/// Row 39. Loading from disk is waited for inside the deadline, and 503 when it takes longer.
#[test]
fn a_loading_redis_is_waited_for_and_then_503() {
    let redis = Redis::start_with(&["--loading-process-events-interval-bytes", "1024"]);
    let (patient, hasty) = (start(&redis.addr(), "10s"), start(&redis.addr(), SHORT));
    let (mut patient, mut hasty) = (patient.connect(), hasty.connect());
    for n in 0..1000 {
        redis.command(&[
            "SET",
            &format!("item:{n}"),
            r#"{"a":"0123456789012345678901234567890123456789"}"#,
        ]);
    }
    for client in [&mut patient, &mut hasty] {
        eventually("an answer", || client.get("/items?id=1").status == 200);
    }
    // A thousand keys, 3 ms each: three seconds.
    redis.command(&["CONFIG", "SET", "key-load-delay", "3000"]);
    std::thread::scope(|scope| {
        scope.spawn(|| redis.command(&["DEBUG", "RELOAD"]));
        eventually("Redis to load", || {
            let reply = hasty.get("/items?id=1");
            // A server that looks up only now and then may also let the time pass.
            assert!([200, 503, 504].contains(&reply.status), "{reply:?}");
            if reply.status == 503 {
                assert_problem(&reply, 503, "store_unavailable");
                assert!(reply.header("retry-after").is_some(), "{reply:?}");
            }
            reply.status == 503
        });
        assert_eq!(patient.get("/items?id=1").status, 200, "waited for");
        assert_eq!(patient.post("/items?id=1", "{}").status, 201);
    });
}

/// Rows 40, 42–45. States of a server in which it refuses some of what it is asked: the status of a write, and of a
/// read; and that all is well when the state is over.
#[test]
fn refusing_states_are_503_and_pass() {
    let redis = Redis::start();
    let kioskd = start(&redis.addr(), LONG);
    let mut client = kioskd.connect();
    let mut line = Line::open(&redis_store(&redis.addr(), Options::default()), ms(300));
    let nobody = Port::take();
    let nowhere = nobody.number().to_string();
    for (state, begin, end, read) in [
        (
            "OOM",
            &[&["CONFIG", "SET", "maxmemory", "1"][..]][..],
            &[&["CONFIG", "SET", "maxmemory", "0"][..]][..],
            200,
        ),
        (
            "NOREPLICAS",
            &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
            &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
            200,
        ),
        ("READONLY", &[&["REPLICAOF", "127.0.0.1", &nowhere]], &[&["REPLICAOF", "NO", "ONE"]], 200),
        (
            "MASTERDOWN",
            &[
                &["CONFIG", "SET", "replica-serve-stale-data", "no"],
                &["REPLICAOF", "127.0.0.1", &nowhere],
            ],
            &[&["REPLICAOF", "NO", "ONE"], &["CONFIG", "SET", "replica-serve-stale-data", "yes"]],
            503,
        ),
    ] {
        eprintln!("-- {state}");
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
        for command in begin {
            assert_eq!(redis.command(command), "OK");
        }
        let reply = client.post("/items?id=1", r#"{"no":1}"#);
        assert_problem(&reply, 503, "store_unavailable");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        for command in writes("item:1").into_iter().filter(needs_memory) {
            eventually("an answer in time", || match line.ask(command.clone()) {
                Err(StoreError::Unavailable(_)) => true,
                // The last of its tries was without one: nobody knows.
                Err(StoreError::Timeout) => false,
                answer => panic!("{state} {command:?}: {answer:?}"),
            });
        }
        assert_eq!(client.get("/items?id=1").status, read, "a read");
        assert_eq!(client.get("/readyz").status, 503, "not ready for writes");
        for command in end {
            assert_eq!(redis.command(command), "OK");
        }
        eventually("the state to be over", || client.post("/items?id=1", "{}").status == 201);
        assert_eq!(client.get("/items?id=1").text(), "{}", "nothing was stored");
        eventually("to be ready", || client.get("/readyz").status == 200);
    }
}

/// Row 44. The disk is full, say: a background save died, and Redis takes no writes that it cannot save.
#[test]
fn a_redis_that_cannot_save_is_503_to_writes() {
    let redis = Redis::start_with(&["--save", "3600 1", "--rdb-key-save-delay", "1000000"]);
    let kioskd = start(&redis.addr(), LONG);
    let mut client = kioskd.connect();
    for n in 0..5 {
        assert_eq!(client.post(&format!("/items?id={n}"), "{}").status, 201);
    }
    redis.command(&["BGSAVE"]);
    let children = format!("/proc/{0}/task/{0}/children", redis.pid());
    let mut child = String::new();
    eventually("the child that saves", || {
        child = std::fs::read_to_string(&children).unwrap_or_default();
        !child.trim().is_empty()
    });
    let killed =
        std::process::Command::new("sh").args(["-c", "kill -9 \"$0\"", child.trim()]).status();
    assert!(killed.expect("sh is there").success());
    eventually("Redis to miss it", || redis.command(&["SET", "x", "y"]).starts_with("MISCONF"));
    assert_problem(&client.post("/items?id=1", "{}"), 503, "store_unavailable");
    assert_eq!(client.get("/items?id=1").status, 200);
    assert_eq!(client.get("/readyz").status, 503);
    redis.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
}

/// Row 46. A script of somebody else's runs for ever: we wait for it inside the deadline, and never kill it.
#[test]
fn a_busy_redis_is_waited_for_and_then_503() {
    let redis = Redis::start_with(&["--busy-reply-threshold", "50"]);
    let (patient, hasty) = (start(&redis.addr(), "10s"), start(&redis.addr(), "500ms"));
    let (mut patient, mut hasty) = (patient.connect(), hasty.connect());
    for client in [&mut patient, &mut hasty] {
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
    }
    std::thread::scope(|scope| {
        let script = scope.spawn(|| redis.command(&["EVAL", "while true do end", "0"]));
        eventually("Redis to be busy", || redis.command(&["PING"]).starts_with("BUSY"));
        assert_problem(&hasty.get("/items?id=1"), 503, "store_unavailable");
        eventually("a write to be refused", || {
            // The last of its tries may be without an answer when its time is over: then nobody knows.
            let reply = hasty.post("/items?id=1", "{}");
            assert!([503, 504].contains(&reply.status), "{reply:?}");
            reply.status == 503
        });
        let waiting = scope.spawn(move || patient.post("/items?id=1", r#"{"later":1}"#).status);
        std::thread::sleep(ms(300));
        assert!(!script.is_finished(), "the script is not ours to kill");
        redis.command(&["SCRIPT", "KILL"]);
        script.join().expect("the script's connection is fine");
        assert_eq!(waiting.join().expect("no panic"), 201);
    });
    eventually("the hasty one to be served again", || {
        hasty.get("/items?id=1").text() == r#"{"later":1}"#
    });
}

/// Row 47. Scripts are forgotten all the time, under a compare-and-set that eight clients race: nobody notices, and no
/// change is lost.
#[test]
fn a_forgotten_script_is_sent_again_and_no_change_is_lost() {
    const EACH: usize = 50;
    let redis = Redis::start();
    let store = redis_store(&redis.addr(), Options::default());
    redis.command(&["SET", "item:1", "0"]);
    let over = AtomicBool::new(false);
    let flushes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                redis.command(&["SCRIPT", "FLUSH"]);
                flushes.fetch_add(1, Ordering::SeqCst);
            }
        });
        let adders: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..EACH).for_each(|_| add_one(&store)))).collect();
        let failed = adders.into_iter().filter_map(|adder| adder.join().err());
        let failed = failed.count();
        over.store(true, Ordering::SeqCst);
        assert_eq!(failed, 0);
    });
    assert_eq!(redis.command(&["GET", "item:1"]), (8 * EACH).to_string());
    assert!(flushes.into_inner() > 10);
}

/// Read, add, put back if it is unchanged, as often as it takes.
fn add_one(store: &kioskd::store::redis::Redis) {
    let mut line = Line::open(store, PATIENCE);
    loop {
        let old = match line.ask(get("item:1")) {
            Ok(Answer::Value(Some(old))) => old,
            other => panic!("{other:?}"),
        };
        let number: usize = String::from_utf8_lossy(&old).parse().expect("a number");
        let Command::Set { key, value, ttl, .. } =
            set("item:1", (number + 1).to_string().as_bytes())
        else {
            unreachable!("set() makes a Set");
        };
        let when = When::Unchanged(old.into());
        match line.ask(Command::Set { key, value, ttl, when, once: None }) {
            Ok(Answer::Stored) => return,
            Ok(Answer::Unmet) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Rows 48, 49. Who we are: wrong, unknown, changed under us, or not allowed to.
#[test]
fn refused_credentials_are_store_error_and_never_logged() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    for rule in [
        &[
            "ACL",
            "SETUSER",
            "reader",
            "on",
            ">pw-reader",
            "~*",
            "&*",
            "+@all",
            "-set",
            "-eval",
            "-evalsha",
        ][..],
        &["ACL", "SETUSER", "kiosk", "on", ">pw-kiosk", "~*", "&*", "+@all"][..],
    ] {
        assert_eq!(redis.command(rule), "OK");
    }
    let with = |user: &str| {
        let url = format!("redis://{user}@{}/0", redis.addr());
        Kioskd::start(&[
            ("FRONT", "poll"),
            ("WORKERS", "1"),
            ("REDIS_URL", &url),
            ("REQUEST_TIMEOUT", LONG),
        ])
    };

    // NOPERM: the connection stays, and what is allowed is answered.
    let reader = with("reader:pw-reader");
    let mut client = reader.connect();
    assert_problem(&client.post("/items?id=1", "{}"), 502, "store_error");
    assert_eq!(client.get("/items?id=1").status, 404);
    assert_eq!(client.get("/readyz").status, 503);

    // WRONGPASS, and no such user.
    for wrong in ["kiosk:pw-wrong", "nobody:pw-kiosk"] {
        let mut refused = with(wrong);
        let mut client = refused.connect();
        let start = Instant::now();
        for _ in 0..20 {
            assert_problem(&client.get("/items?id=1"), 502, "store_error");
        }
        assert!(start.elapsed() < Duration::from_secs(15), "refused at once, twenty times");
        // The log is written by a thread of its own.
        refused.wait_for_log("WRONGPASS");
        assert!(!refused.log().contains("pw-"), "{}", refused.log());
    }
    assert!(sign_ons(&redis) <= 5, "no hammering");

    // The password changes: a connection that stands is not disturbed. It is cut: now it matters.
    let kiosk = with("kiosk:pw-kiosk");
    let mut client = kiosk.connect();
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
    redis.command(&["ACL", "SETUSER", "kiosk", "resetpass", ">pw-new"]);
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
    redis.command(&["CLIENT", "KILL", "USER", "kiosk"]);
    assert_problem(&client.get("/items?id=1"), 502, "store_error");
    redis.command(&["ACL", "SETUSER", "kiosk", "resetpass", ">pw-kiosk"]);
    eventually("to be let in again", || client.get("/items?id=1").status == 200);

    // The user is deleted, which closes the connection at once.
    redis.command(&["ACL", "DELUSER", "kiosk"]);
    assert_problem(&client.get("/items?id=1"), 502, "store_error");
    assert!(!kiosk.log().contains("pw-"), "{}", kiosk.log());
}

/// Row 48. NOAUTH in the middle of a connection (a server that was swapped behind a proxy, say) makes us sign on
/// again, though not more often than is polite, and is an error in the meantime.
#[test]
fn a_connection_that_lost_its_standing_is_an_error_and_not_a_storm() {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "GET" => Act::Send(b"-NOAUTH Authentication required.\r\n".to_vec()),
        _ => Act::Usual,
    });
    let kioskd = start(&fake.addr(), LONG);
    let mut client = kioskd.connect();
    for _ in 0..5 {
        assert_problem(&client.get("/items?id=1"), 502, "store_error");
    }
    let hellos = fake.commands().iter().filter(|c| c[0] == "HELLO").count();
    assert!(hellos <= 2, "{hellos} connections");
}

/// A user who may not PEXPIRE leaves a count without an end, and an hour's window outlives the setting: whoever was
/// counted there was refused for ever, or for an hour.
#[test]
fn a_count_that_outlives_its_window_gets_one() {
    let redis = Redis::start();
    let set = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(redis.command(&words), "OK");
    };
    set("ACL SETUSER kiosk on >pw ~* +@all -pexpire");
    let url = format!("redis://kiosk:pw@{}", redis.addr());
    let kioskd = Kioskd::start(&[("REDIS_URL", &url), ("RATE_LIMIT", "2/s")]);
    let mut client = kioskd.connect();
    for _ in 0..9 {
        assert_eq!(client.get("/items/1").status, 404, "the store does not count");
    }
    set("ACL SETUSER kiosk +pexpire");
    for before in ["", "SET rate:a:127.0.0.1 1000 PX 3600000"] {
        if !before.is_empty() {
            set(before);
        }
        assert_eq!(client.get("/items/1").status, 429);
        eventually("a new window", || client.get("/items/1").status == 404);
    }
}

/// Row 48. WRONGTYPE is one request's trouble, whichever command meets it.
#[test]
fn a_key_of_another_type_is_store_error_for_each_command() {
    let redis = Redis::start();
    redis.command(&["LPUSH", "item:1", "x"]);
    redis.command(&["LPUSH", "sess:1", "x"]);
    let kioskd = start(&redis.addr(), "2s");
    let mut client = kioskd.connect();
    assert_problem(&client.get("/items?id=1"), 502, "store_error");
    assert_problem(&client.get("/sess?sid=1"), 502, "store_error");
    assert_eq!(client.get("/items?id=2").status, 404);
    assert_eq!(client.post("/items?id=1", "{}").status, 201, "SET replaces");
}

/// Rows 50, 51. A server that knows neither HELLO nor CLIENT SETNAME is spoken to in RESP2, with AUTH alone and first.
#[test]
fn an_old_redis_is_spoken_to_in_resp2() {
    let fake = FakeRedis::start(|command| match &*command[0] {
        "HELLO" => {
            Act::Send(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n".to_vec())
        }
        "CLIENT" => Act::Send(
            b"-ERR Unknown subcommand or wrong number of arguments for 'SETNAME'\r\n".to_vec(),
        ),
        "AUTH" => Act::Hold(b"+OK\r\n".to_vec()),
        "GET" => Act::Send(b"$2\r\n{}\r\n".to_vec()),
        _ => Act::Usual,
    });
    let url = format!("redis://:secret@{}", fake.addr());
    let kioskd = Kioskd::start(&[("FRONT", "poll"), ("WORKERS", "1"), ("REDIS_URL", &url)]);
    let mut client = kioskd.connect();
    client.send("GET /items?id=1 HTTP/1.1\r\nHost: kiosk\r\n\r\n");
    fake.wait_for("AUTH");
    std::thread::sleep(ms(50));
    assert_eq!(fake.commands().len(), 2, "nothing behind AUTH");
    fake.release();
    assert_eq!(client.read_response().status, 200);
    let names: Vec<String> = fake.commands().iter().map(|c| c[0].clone()).collect();
    assert_eq!(names, ["HELLO", "AUTH", "CLIENT", "ROLE", "PING", "GET"]);
}

/// A Redis before 7.0 stumbles over `#!lua`, and so does Dragonfly, in other words; they are then asked without. With
/// several scripts under way when that was found out, all but the first were 502: Redis 6.2 and KeyDB, at the first
/// crowd behind each new connection. And all were, always, in Dragonfly's words.
#[test]
fn scripts_on_their_way_to_a_server_without_shebang_are_all_sent_again() {
    for words in [
        "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
        "ERR user_script:2: unexpected symbol near '#'",
    ] {
        let fake = FakeRedis::start(move |command| match &*command[0] {
            "EVALSHA" => Act::Send(b"-NOSCRIPT No matching script. Please use EVAL.\r\n".to_vec()),
            "EVAL" if command[1].starts_with("#!") => {
                Act::Send(format!("-{words}\r\n").into_bytes())
            }
            "EVAL" => Act::Send(b":1\r\n".to_vec()),
            _ => Act::Usual,
        });
        let mut turns = Loop::open(&redis_store(&fake.addr(), Options::default()));
        for tag in 0..16 {
            let write = Command::Set {
                key: key(format!("item:{tag}").as_bytes()),
                value: b"{}".into(),
                ttl: Ttl::Keep,
                when: When::Unchanged(b"[]".into()),
                once: None,
            };
            turns.submit(tag, write, PATIENCE);
        }
        for (tag, answer) in collect(&mut turns, 16) {
            assert_eq!(answer, Ok(Answer::Stored), "write {tag}");
        }
        let with_shebang = |c: &&Vec<String>| c[0] == "EVAL" && c[1].starts_with("#!");
        assert_eq!(fake.commands().iter().filter(with_shebang).count(), 16);
    }
}

/// It was upgraded, or its master is a newer one now: what `#!lua` is good for is not given up until we are restarted.
#[test]
fn a_server_that_knows_the_shebang_by_now_gets_it_again() {
    let upgraded = Arc::new(AtomicBool::new(false));
    let knows = Arc::clone(&upgraded);
    let fake = FakeRedis::start(move |command| match &*command[0] {
        "EVALSHA" => Act::Send(b"-NOSCRIPT No matching script. Please use EVAL.\r\n".to_vec()),
        "EVAL" if command[1].starts_with("#!") && !knows.load(Ordering::Relaxed) => {
            Act::Send(b"-ERR user_script:1: unexpected symbol near '#'\r\n".to_vec())
        }
        "EVAL" => Act::Send(b":1\r\n".to_vec()),
        _ => Act::Usual,
    });
    let kioskd = start(&fake.addr(), "2s");
    let mut client = kioskd.connect();
    let mut sent = || {
        let before = fake.commands().len();
        let reply = client.request("DELETE", "/items/1", &[("If-Match", "*")], b"");
        assert_eq!(reply.status, 204, "{reply:?}");
        let scripts = fake.commands().split_off(before);
        let with = |c: Vec<String>| (c[0] == "EVAL").then(|| c[1].starts_with("#!"));
        scripts.into_iter().filter_map(with).collect::<Vec<bool>>()
    };
    assert_eq!(sent(), [true, false]);
    assert_eq!(sent(), [false]);
    fake.close_all();
    assert_eq!(sent(), [true, false]);
    upgraded.store(true, Ordering::Relaxed);
    fake.close_all();
    assert_eq!(sent(), [true]);
    let log = kioskd.log();
    assert_eq!(log.matches("does not know `#!lua`").count(), 1, "{log}");
}

// ---- Helpers --------------------------------------------------------------------------------------

/// One worker, so that there is one connection to Redis and everybody shares it.
fn start(redis: &str, timeout: &str) -> Kioskd {
    Kioskd::start(&[
        ("FRONT", "poll"),
        ("WORKERS", "1"),
        ("REDIS_ADDR", redis),
        ("REQUEST_TIMEOUT", timeout),
    ])
}

#[track_caller]
fn assert_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.problem().0, code, "{reply:?}");
}

/// Turns until so many are answered; each once.
#[track_caller]
fn collect(
    turns: &mut Loop,
    wanted: usize,
) -> HashMap<u64, std::result::Result<Answer, StoreError>> {
    let (mut answers, start) = (HashMap::new(), Instant::now());
    while answers.len() < wanted {
        assert!(start.elapsed() < PATIENCE, "{} of {wanted} answers", answers.len());
        let mut done = Done::new();
        turns.turn(ms(100), &mut done);
        for (tag, answer) in done {
            assert!(answers.insert(tag, answer).is_none(), "{tag} came twice");
        }
    }
    answers
}

/// How many connections to this Redis have begun to sign on.
fn sign_ons(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_hello:calls="))
        .and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

fn delete(name: &str) -> Command {
    Command::Delete { key: key(name.as_bytes()), when: When::Always, once: None }
}

/// Every command that changes something, each in its kind.
fn writes(name: &str) -> Vec<Command> {
    let put = |when: When| {
        let Command::Set { key, value, ttl, .. } = set(name, b"{}") else {
            unreachable!("set() makes a Set");
        };
        Command::Set { key, value, ttl, when, once: None }
    };
    let remove = |when: When| Command::Delete { key: key(name.as_bytes()), when, once: None };
    let unchanged = || When::Unchanged(b"{}".into());
    vec![
        put(When::Always),
        put(When::Absent),
        put(When::Present),
        put(unchanged()),
        remove(When::Always),
        remove(When::Present),
        remove(unchanged()),
        take(name),
    ]
}

/// All but the deletions, which are the way out of a full memory.
fn needs_memory(command: &Command) -> bool {
    !matches!(command, Command::Delete { .. })
}
