//! One step beyond the tested cases: what a server, a cluster or a name does at the moment between two steps.

use super::*;
use crate::resp::fake::Peer;
use crate::resp::slot::slot;

fn tcp(text: &str) -> Endpoint {
    let (host, port) = text.rsplit_once(':').unwrap();
    Endpoint::Tcp { host: host.to_owned(), port: port.parse().unwrap() }
}

/// A rig over several servers, which answer as `say` does: by address and words. `None`: no answer.
impl Rig {
    fn cluster(seeds: &[&str]) -> Rig {
        let target = Target::Cluster { seeds: seeds.iter().map(|s| tcp(s)).collect() };
        Rig::at(Fake::new(), &Redis::new(target, Options::default()))
    }

    fn at(mut world: Fake, store: &Redis) -> Rig {
        let now = world.now;
        let session = store.session(&mut world, now);
        Rig { world, session, done: Vec::new() }
    }

    fn serve(&mut self, say: &mut dyn FnMut(&str, &[String]) -> Option<String>) {
        for n in 0..self.world.sockets.len() {
            let peer = &mut self.world.sockets[n];
            let Some(Address::Tcp(at)) = peer.address.clone() else { continue };
            if peer.closed {
                continue;
            }
            let mut text =
                String::from_utf8_lossy(&std::mem::take(&mut peer.from_client)).into_owned();
            let mut out = String::new();
            while let Some((words, length)) = command(&text) {
                out += &say(&at.to_string(), &words).unwrap_or_default();
                text.drain(..length);
            }
            if !out.is_empty() {
                self.world.say_on(n, out);
            }
        }
    }

    /// Turns and answers, for so long, in steps of 5 ms.
    fn run(&mut self, time: Duration, say: &mut dyn FnMut(&str, &[String]) -> Option<String>) {
        let until = self.world.now + time;
        while self.world.now < until {
            self.turn();
            self.serve(say);
            self.later(5 * MS);
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

const CLUSTER_HELLO: &str = "%2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";

/// A map of one row, or more: first, last, host, port, id, and the address of a host that is a name.
fn map(rows: &[(u16, u16, &str, u16, &str, &str)]) -> String {
    let mut out = format!("*{}\r\n", rows.len());
    for (first, last, host, port, id, ip) in rows {
        let meta = match *ip {
            "" => "*0\r\n".to_owned(),
            ip => format!("*2\r\n{}{}", bulk("ip"), bulk(ip)),
        };
        let node = format!("*4\r\n{}:{port}\r\n{}{meta}", bulk(host), bulk(id));
        out += &format!("*3\r\n:{first}\r\n:{last}\r\n{node}");
    }
    out
}

/// What every node says: signing on, and the map.
fn node(words: &[String], id: &str, map: &str) -> Option<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words[..] {
        ["HELLO", ..] => CLUSTER_HELLO.to_owned(),
        ["CLUSTER", "MYID"] => bulk(id),
        ["CLUSTER", "SLOTS"] => map.to_owned(),
        ["PING"] => "+PONG\r\n".to_owned(),
        ["ROLE"] => format!("*1\r\n{}", bulk("master")),
        ["ASKING"] => "+OK\r\n".to_owned(),
        _ => return None,
    })
}

fn tag_at(wanted: impl Fn(u16) -> bool) -> Tag {
    (1..).find(|tag: &Tag| wanted(slot(format!("item:{tag}").as_bytes()))).unwrap()
}

/// Nobody else wakes the worker.
#[test]
fn a_cluster_session_connects_without_a_request() {
    let mut rig = Rig::cluster(&["10.0.0.1:7000"]);
    rig.turn();
    let deadline = rig.session.next_deadline();
    assert!(
        !rig.world.sockets.is_empty() || deadline.is_some(),
        "no socket, and no deadline: it sleeps until somebody asks for something"
    );
}

/// Of two workers one has no map, or no master: `/readyz` is the worst of them.
#[test]
fn a_session_that_never_reached_its_cluster_or_master_is_a_trouble() {
    let seed = || vec![tcp("10.0.0.1:7000")];
    let sentinel = Target::Sentinel {
        seeds: seed(),
        name: "m".to_owned(),
        user: None,
        password_file: None,
        tls: None,
    };
    let mut wrong = Vec::new();
    for (name, target) in [
        ("single", Target::Single(tcp("10.0.0.1:7000"))),
        ("cluster", Target::Cluster { seeds: seed() }),
        ("sentinel", sentinel),
    ] {
        let store = Redis::new(target, Options::default());
        let mut world = Fake::new();
        world.refusing.push("10.0.0.1:7000".parse().unwrap());
        let mut rig = Rig::at(world, &store);
        rig.get(1);
        rig.run(5000 * MS, &mut |_, _| None);
        rig.get(2);
        rig.turn();
        assert!(
            rig.done().iter().all(|(_, shown)| shown.contains("refused")),
            "it is out of order"
        );
        if store.health.trouble(rig.world.now).is_none() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "all requests fail, and no trouble is known: {wrong:?}");
}

/// CLUSTER MYID is refused while a node loads, HELLO is not.
#[test]
fn a_node_of_another_cluster_that_is_loading_when_we_come_gets_no_request() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let ours = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "10.0.0.2", 7000, "id-b", ""),
    ]);
    for loads in [false, true] {
        let mut rig = Rig::cluster(&[a]);
        rig.get(tag_at(|slot| slot < 8192));
        let mut ask = |at: &str, words: &[String]| {
            node(words, if at == a { "id-a" } else { "id-b" }, &ours).or(Some(bulk("ours")))
        };
        rig.run(300 * MS, &mut ask);
        let there = tag_at(|slot| slot >= 8192);
        rig.get(there);
        rig.run(100 * MS, &mut ask);
        assert_eq!(rig.done().last().unwrap().1, "ours");
        // The node dies, and its address is another cluster's by now, which is just starting.
        let n = (0..rig.world.sockets.len())
            .rfind(|n| matches!(&rig.world.sockets[*n].address, Some(Address::Tcp(at)) if at.to_string() == b))
            .unwrap();
        rig.world.hang_up_on(n);
        let strange = map(&[(0, 16_383, "10.0.0.2", 7000, "id-x", "")]);
        let mut ask = |at: &str, words: &[String]| {
            if at == a {
                return node(words, "id-a", &ours).or(Some(bulk("ours")));
            }
            match words {
                [one, two] if one == "CLUSTER" && two == "MYID" && loads => {
                    Some("-LOADING Redis is loading the dataset in memory\r\n".to_owned())
                }
                words => node(words, "id-x", &strange).or(Some(bulk("theirs"))),
            }
        };
        rig.run(1500 * MS, &mut ask);
        rig.get(there);
        rig.run(1000 * MS, &mut ask);
        let done = rig.done();
        assert!(
            !done.iter().any(|(_, shown)| shown == "theirs"),
            "loads {loads}: a value of another cluster: {done:?}"
        );
    }
}

/// To ask the slot's owner again would only bring ASK again.
#[test]
fn a_key_that_is_asked_for_at_a_node_that_signs_on_slowly_is_waited_for() {
    // A command, and a script: behind ASKING that is its text, also after a wait.
    [false, true].into_iter().for_each(asked_for_at_a_slow_node);
}

fn asked_for_at_a_slow_node(renews: bool) {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let ours = map(&[(0, 16_383, "10.0.0.1", 7000, "id-a", "")]);
    let mut rig = Rig::cluster(&[a]);
    let slot = slot(b"item:1");
    let mut asked = 0;
    let begin = rig.world.now;
    // The other node answers after 800 ms: signing on may take a second.
    for step in 0..400 {
        if step == 40 {
            let renew = renews.then_some(1000 * MS);
            rig.submit(1, Command::Get { key: key(b"1"), renew, once: None });
        }
        rig.turn();
        let slow = rig.world.now < begin + 1000 * MS;
        let mut held = Vec::new();
        if slow {
            for n in 0..rig.world.sockets.len() {
                let peer = &mut rig.world.sockets[n];
                if matches!(&peer.address, Some(Address::Tcp(at)) if at.to_string() == b) {
                    held.push((n, std::mem::take(&mut peer.from_client)));
                }
            }
        }
        rig.serve(&mut |at, words| {
            if let Some(said) = node(words, if at == a { "id-a" } else { "id-b" }, &ours) {
                return Some(said);
            }
            if at == a {
                asked += 1;
                return Some(format!("-ASK {slot} {b}\r\n"));
            }
            match words[0].as_str() {
                "EVALSHA" => Some("-NOSCRIPT No matching script.\r\n".to_owned()),
                _ => Some(bulk("there")),
            }
        });
        for (n, bytes) in held {
            rig.world.sockets[n].from_client = bytes;
        }
        rig.later(5 * MS);
    }
    assert_eq!((rig.done(), asked <= 2), (one(1, "there"), true), "asked {asked} times");
}

/// ASK leads to a node that is just gone, and where it was is another cluster's.
#[test]
fn what_was_asked_for_at_a_node_does_not_go_to_a_stranger_in_its_place() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let ours = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "10.0.0.2", 7000, "id-b", ""),
    ]);
    let strange = map(&[(0, 16_383, "10.0.0.2", 7000, "id-x", "")]);
    let mut rig = Rig::cluster(&[a]);
    let here = tag_at(|slot| slot < 8192);
    for (id, map_of_b) in [("id-b", &ours), ("id-x", &strange)] {
        let mut theirs = 0;
        rig.get(here);
        rig.run(400 * MS, &mut |at, words| {
            let (id, map) = if at == a { ("id-a", &ours) } else { (id, map_of_b) };
            node(words, id, map).or_else(|| {
                theirs += usize::from(at == b);
                Some(match at == a {
                    true => format!("-ASK {} {b}\r\n", slot(words[1].as_bytes())),
                    false => bulk("there"),
                })
            })
        });
        assert_eq!(theirs, usize::from(id == "id-b"));
        let of_b =
            |peer: &Peer| matches!(&peer.address, Some(Address::Tcp(at)) if at.to_string() == b);
        let n = rig.world.sockets.iter().rposition(of_b).unwrap();
        rig.world.hang_up_on(n);
    }
}

/// A redirect leads to a node that no map has: a new one of ours, or one that has taken its address since.
#[test]
fn who_is_in_no_map_tells_its_own_before_it_is_asked_for_anything() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let before = map(&[(0, 16_383, "10.0.0.1", 7000, "id-a", "")]);
    let after = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "10.0.0.2", 7000, "id-b", ""),
    ]);
    let strange = map(&[(0, 16_383, "10.0.0.2", 7000, "id-b", "")]);
    let there = tag_at(|slot| slot >= 8192);
    for (kind, of_b, served) in [
        ("MOVED", &after, true),
        ("MOVED", &strange, false),
        ("ASK", &after, true),
        ("ASK", &strange, false),
    ] {
        let mut rig = Rig::cluster(&[a]);
        let mut theirs = 0;
        let mut ask = |at: &str, words: &[String]| {
            let (id, map) = if at == a { ("id-a", &before) } else { ("id-b", of_b) };
            node(words, id, map).or_else(|| {
                theirs += usize::from(at == b);
                Some(match at == a {
                    true => format!("-{kind} {} {b}\r\n", slot(words[1].as_bytes())),
                    false => bulk("there"),
                })
            })
        };
        rig.run(300 * MS, &mut ask);
        rig.get(there);
        rig.run(2000 * MS, &mut ask);
        assert_eq!(theirs, usize::from(served), "{kind}, one of ours: {served}");
        assert_eq!(rig.done() == one(there, "there"), served);
    }
}

/// A node went elsewhere, another cluster's came to its place, the others' map learns of it late, and nobody asks for a
/// key: no MOVED tells.
#[test]
fn a_stranger_in_a_masters_place_is_a_reason_for_new_maps() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let mut rig = Rig::cluster(&[a]);
    for (told, at_b, well) in
        [("10.0.0.2", "id-b", true), ("10.0.0.2", "id-x", false), ("10.0.0.3", "id-x", true)]
    {
        let ours =
            map(&[(0, 8191, "10.0.0.1", 7000, "id-a", ""), (8192, 16_383, told, 7000, "id-b", "")]);
        let mut ask = |at: &str, words: &[String]| {
            let id = if at == a {
                "id-a"
            } else if at == b {
                at_b
            } else {
                "id-b"
            };
            node(words, id, &ours)
                .or_else(|| Some("*4\r\n$1\r\n0\r\n*0\r\n*0\r\n$8\r\n0badcafe\r\n".to_owned()))
        };
        rig.run(2000 * MS, &mut ask);
        rig.submit(1, Command::Scan { prefix: key(b""), cursor: None, limit: 9 });
        rig.run(2000 * MS, &mut ask);
        let done = rig.done();
        let is_page = matches!(&done[..], [(1, said)] if said.contains("Page"));
        assert_eq!(is_page, well, "{told} {at_b}: {done:?}");
        let of_b =
            |peer: &Peer| matches!(&peer.address, Some(Address::Tcp(at)) if at.to_string() == b);
        let n = rig.world.sockets.iter().rposition(of_b).unwrap();
        if at_b == "id-b" {
            rig.world.hang_up_on(n);
        }
    }
}

/// What is there already must not be taken for the reply.
#[test]
fn a_reply_that_came_before_its_command_was_sent_is_not_its_reply() {
    let mut rig = Rig::up();
    let keys = (0..17).map(|n: u8| format!("item:{n}").into_bytes()).collect();
    rig.submit(1, Command::GetMany { keys, bytes_max: 16 << 20 });
    rig.turn();
    assert_eq!(rig.world.heard().matches("GET").count(), 16);
    // Sixteen replies are a mebibyte; behind them is a seventeenth that nobody has asked for.
    let mine = format!("$65536\r\n{}\r\n", "m".repeat(65_536));
    rig.world.say(format!("{}$5\r\nstray\r\n", mine.repeat(16)));
    for _ in 0..10 {
        rig.turn();
    }
    let done = rig.done();
    assert!(
        done.is_empty() && rig.world.sockets[0].closed,
        "{}",
        &done[0].1[done[0].1.len() - 60..]
    );
}

/// Half an error that nobody asked for is in the buffer when a write is to go out.
#[test]
fn half_an_error_that_was_not_asked_for_is_no_answer_to_what_is_sent_afterwards() {
    let mut rig = Rig::up();
    rig.world.say("-LOADING Redis is ");
    rig.turn();
    rig.set(1, b"{}", When::Always);
    rig.turn();
    let first = rig.world.heard().matches("SET").count();
    rig.world.say("loading\r\n+OK\r\n");
    rig.turn();
    for _ in 0..40 {
        if rig.world.last().closed {
            rig.later(10 * MS);
        }
    }
    if !rig.world.last().closed {
        rig.sign_on();
        rig.later(300 * MS);
    }
    let second = rig.world.heard().matches("SET").count();
    assert!(first + second <= 1, "it ran (+OK), and was sent again");
}

/// A node that does not know where the slot is: `MOVED 958 ?:6379`. The map, which comes at once, does.
#[test]
fn a_redirect_to_nowhere_waits_for_the_map_and_no_longer() {
    let a = "10.0.0.1:7000";
    let before = map(&[(0, 16_383, "10.0.0.1", 7000, "id-a", "")]);
    let after = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "10.0.0.2", 7000, "id-b", ""),
    ]);
    let mut rig = Rig::cluster(&[a]);
    let there = tag_at(|slot| slot >= 8192);
    let mut moved = false;
    let mut ask = |at: &str, words: &[String]| {
        let id = if at == a { "id-a" } else { "id-b" };
        if let Some(said) = node(words, id, if moved { &after } else { &before }) {
            return Some(said);
        }
        if at == a {
            moved = true;
            return Some(format!("-MOVED {} ?:7000\r\n", slot(words[1].as_bytes())));
        }
        Some(bulk("there"))
    };
    rig.run(500 * MS, &mut ask);
    rig.get(there);
    rig.run(100 * MS, &mut ask);
    assert_eq!(rig.done(), one(there, "there"));
}

/// As above, of two requests; the second is told so only when the map has come.
#[test]
fn a_redirect_to_nowhere_does_not_wait_when_the_map_has_come() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let with = |last| {
        let (first, second) = ("10.0.0.1", "10.0.0.2");
        map(&[(0, last, first, 7000, "id-a", ""), (last + 1, 16_383, second, 7000, "id-b", "")])
    };
    let (before, after) = (with(16_000), with(100));
    let mut rig = Rig::cluster(&[a, b]);
    let first = tag_at(|slot| (101..16_000).contains(&slot));
    let second =
        (first + 1..).find(|tag| (101..16_000).contains(&slot(format!("item:{tag}").as_bytes())));
    let second = second.unwrap();
    let mut told = Vec::new();
    let mut ask = |at: &str, words: &[String]| {
        let id = if at == a { "id-a" } else { "id-b" };
        let now = if told.is_empty() { &before } else { &after };
        if let Some(said) = node(words, id, now) {
            assert!(told.is_empty() || at == b || words[0] != "CLUSTER", "the other one is asked");
            return Some(said);
        }
        if at == b {
            return Some(bulk("there"));
        }
        told.push(slot(words[1].as_bytes()));
        // The second reply is late.
        (told.len() == 1).then(|| format!("-MOVED {} ?:7000\r\n", told[0]))
    };
    rig.run(500 * MS, &mut ask);
    rig.get(first);
    rig.get(second);
    rig.run(50 * MS, &mut ask);
    assert_eq!(rig.done(), one(first, "there"));
    let socket = rig.world.sockets.iter().position(|peer| {
        matches!(&peer.address, Some(Address::Tcp(at)) if at.to_string() == a) && !peer.closed
    });
    let moved = slot(format!("item:{second}").as_bytes());
    rig.world.say_on(socket.unwrap(), format!("-MOVED {moved} ?:7000\r\n"));
    rig.run(50 * MS, &mut ask);
    assert_eq!(rig.done(), one(second, "there"));
}

/// A name in a redirect, then a map that tells its address: "a row whose host name does not resolve is reached by its ip".
#[test]
fn a_node_known_by_a_redirect_is_reached_by_the_address_in_the_map() {
    let a = "10.0.0.1:7000";
    let ours = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "redis-b", 7000, "id-b", "10.0.0.2"),
    ]);
    for by_redirect in [false, true] {
        let mut rig = Rig::cluster(&[a]);
        rig.world.found.extend((0..1000).map(|_| Some(Err("no such name"))));
        let there = tag_at(|slot| slot >= 8192);
        let old = map(&[(0, 16_383, "10.0.0.1", 7000, "id-a", "")]);
        let mut moved = !by_redirect;
        let mut ask = |at: &str, words: &[String]| {
            let id = if at == a { "id-a" } else { "id-b" };
            let now = if moved { &ours } else { &old };
            if let Some(said) = node(words, id, now) {
                return Some(said);
            }
            if at == a {
                moved = true;
                let slot = slot(words[1].as_bytes());
                return Some(format!("-MOVED {slot} redis-b:7000\r\n"));
            }
            Some(bulk("there"))
        };
        rig.get(there);
        rig.run(3000 * MS, &mut ask);
        rig.done();
        rig.get(there);
        rig.run(1000 * MS, &mut ask);
        let done = rig.done();
        assert_eq!(done, one(there, "there"), "known by a redirect first: {by_redirect}");
    }
}

/// What the errand of an attempt that was given up has brought is old by the next one.
#[test]
fn the_password_of_a_connection_was_read_for_it() {
    let file = |text: &str| Some(Ok(Found { addresses: vec![], file: Some(text.into()) }));
    let options = Options { password_file: Some("/run/secret".into()), ..Options::default() };
    let mut world = Fake::new();
    world.found.extend([file("old\n"), None]);
    let mut rig = Rig::over(world, "127.0.0.1", options);
    rig.turn();
    rig.turn();
    assert!(rig.world.heard().contains("$3\r\nold\r\n"));
    rig.world.say(HELLO);
    rig.turn();
    rig.world.say("+PONG\r\n");
    rig.turn();
    rig.later(5000 * MS);
    rig.world.say("*1\r\n$6\r\nmaster\r\n");
    rig.turn();
    rig.world.heard();
    // Silent for a moment: a second connection is begun, the file is being read, and then the first one speaks.
    rig.get(1);
    rig.turn();
    rig.later(800 * MS);
    assert_eq!((rig.world.errands.len(), rig.world.sockets.len()), (2, 1));
    rig.world.say("$1\r\n1\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(1, "1"));
    rig.world.find(1, Ok(Found { addresses: vec![], file: Some(b"old\n".to_vec()) }));
    for _ in 0..100 {
        rig.later(5000 * MS);
        rig.world.say("*1\r\n$6\r\nmaster\r\n");
        rig.turn();
    }
    // Minutes later the password is changed, and the connection ends.
    rig.world.found.push_back(file("new\n"));
    rig.world.hang_up(false);
    rig.turn();
    for _ in 0..20 {
        rig.later(10 * MS);
    }
    assert_eq!(rig.world.sockets.len(), 2);
    let said = rig.world.heard();
    assert!(said.contains("$3\r\nnew\r\n"), "{said:?}");
}

/// `REQUEST_TIMEOUT` may be long, and a server may load for long.
#[test]
fn a_request_may_be_refused_more_than_255_times() {
    let mut rig = Rig::up();
    rig.get(1);
    for _ in 0..300 {
        rig.turn();
        let said = rig.world.heard();
        let gets = said.matches("GET").count();
        if said.contains("ROLE") {
            rig.world.say("*1\r\n$6\r\nmaster\r\n");
        }
        rig.world.say("-LOADING Redis is loading\r\n".repeat(gets));
        rig.turn();
        rig.later(300 * MS);
    }
    assert_eq!(rig.done(), one(1, "error: cannot serve now: LOADING Redis is loading"));
}

/// Each failure has everything that is parked looked at.
#[test]
fn a_name_that_is_late_fails_once() {
    let mut rig = Rig::new("redis.example", Options::default());
    rig.turn();
    rig.later(500 * MS);
    let mut world = Fake::new();
    let now = world.now;
    let mut connector = crate::resp::connector::Connector::new(
        tcp("redis.example:6379"),
        std::rc::Rc::new(Options::default()),
        OWNER,
        1,
        now,
    );
    connector.start(&mut world, now, true);
    assert!(connector.progress(&mut world, now).is_none());
    for _ in 0..50 {
        assert!(connector.progress(&mut world, now + 500 * MS).is_none());
    }
    assert_eq!(connector.failures(), 1);
}

/// A user who may ask for the map and not for MYID. What its map has proven to be a stranger is one after a new
/// connection, too: the new one is made by ourselves, and tells nothing else.
#[test]
fn a_node_whose_map_was_another_clusters_gets_no_request_after_a_new_connection() {
    let (a, b) = ("10.0.0.1:7000", "10.0.0.2:7000");
    let ours = map(&[
        (0, 8191, "10.0.0.1", 7000, "id-a", ""),
        (8192, 16_383, "10.0.0.2", 7000, "id-b", ""),
    ]);
    let strange = map(&[(0, 16_383, "10.0.0.2", 7000, "id-x", "")]);
    let there = tag_at(|slot| slot >= 8192);
    let mut rig = Rig::cluster(&[a]);
    // From the first moment of the second half, `b` is another cluster's.
    let mut is_other = false;
    let mut shown = Vec::new();
    // When `b` has told its map, which proves it.
    let mut proven = None;
    for step in 0..1200 {
        if step == 60 {
            is_other = true;
            let n = rig.world.sockets.iter().rposition(
                |peer| matches!(&peer.address, Some(Address::Tcp(at)) if at.to_string() == b),
            );
            rig.world.hang_up_on(n.unwrap());
        }
        // Only after its map has told what it is.
        if step % 4 == 0 && (step < 60 || proven.is_some_and(|at| step > at + 10)) {
            rig.get(there);
        }
        // A doubt now and then, so that the map is asked for.
        if step % 50 == 0 {
            rig.get(tag_at(|slot| slot < 8192));
        }
        rig.turn();
        rig.serve(&mut |at, words| {
            if words[0] == "CLUSTER" && words[1] == "MYID" {
                return Some("-NOPERM this user has no permissions to run it\r\n".to_owned());
            }
            let is_strange = at == b && is_other;
            if is_strange && words[0] == "CLUSTER" {
                proven.get_or_insert(step);
            }
            let said = node(words, "", if is_strange { &strange } else { &ours });
            said.or_else(|| match is_strange {
                true => Some(bulk("theirs")),
                false if at == b => Some(bulk("ours")),
                false if slot(words[1].as_bytes()) < 8192 => {
                    Some("-CLUSTERDOWN The cluster is down\r\n".to_owned())
                }
                false => Some(format!("-MOVED {} {b}\r\n", slot(words[1].as_bytes()))),
            })
        });
        rig.later(5 * MS);
        shown.extend(rig.done().into_iter().map(|(_, shown)| shown));
    }
    let theirs = shown.iter().filter(|shown| *shown == "theirs").count();
    assert_eq!(theirs, 0, "of {} answers", shown.len());
}

/// A second connection is refused, for the server is full; then the first one ends, which makes room.
#[test]
fn a_lost_connection_is_made_anew_at_once_though_a_renewal_was_refused_before() {
    let mut rig = Rig::up();
    rig.later(5000 * MS);
    assert_eq!(rig.world.heard(), ROLE);
    rig.world.say("*3\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n");
    rig.turn();
    rig.turn();
    assert!(rig.world.heard().contains("HELLO"));
    rig.world.say("-ERR max number of clients reached\r\n");
    rig.turn();
    assert_eq!((rig.world.sockets.len(), rig.world.sockets[1].closed), (2, true));
    rig.world.hang_up_on(0);
    rig.turn();
    assert!(rig.world.sockets[0].closed);
    rig.get(1);
    let began = rig.world.now;
    while rig.world.sockets.len() == 2 && rig.done.is_empty() {
        rig.later(10 * MS);
    }
    let waited = rig.world.now - began;
    assert!(waited <= 1100 * MS, "neither a new connection nor an answer for {waited:?}");
}

/// What is answered on the old connection says nothing of the server that the new one leads to.
#[test]
fn a_role_that_was_asked_for_on_the_old_connection_is_not_that_of_the_new_server() {
    let (mut rig, _, fresh) = named();
    let before = rig.world.errands.len();
    rig.world.found.extend([None, Some(addresses(&[fresh]))]);
    while rig.world.sockets.len() == 1 {
        rig.later(5000 * MS);
        if rig.world.errands.len() == before + 1 {
            rig.world.find(before, addresses(&[fresh]));
        }
        // The old server is slow to answer the last of these.
        if rig.world.sockets.len() == 1 && rig.world.errands.len() < before + 2 {
            rig.world.say("*1\r\n$6\r\nmaster\r\n");
        }
        rig.turn();
    }
    rig.sign_on();
    rig.world.say_on(0, "*3\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n");
    for _ in 0..100 {
        rig.later(10 * MS);
    }
    assert_eq!(
        rig.world.sockets.len(),
        2,
        "the new connection is replaced, for what the old server said"
    );
}
