//! Is the server still the one that is meant? Addresses outlive servers: a balancer leads to another, a machine behind a
//! name is replaced, a dead node's address is given to somebody else's cluster.

use crate::support::{Act, Cluster, FakeRedis, Kioskd, PATIENCE, Proxy, Redis, eventually};
use kioskd::resp::slot::slot;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A master, a replica that has its data, and a balancer that leads to the master.
fn pair() -> (Redis, Redis, Proxy) {
    let (old, new) = (Redis::start(), Redis::start());
    old.command(&["SET", "item:1", r#"{"v":1}"#]);
    new.command(&["REPLICAOF", "127.0.0.1", &old.port().to_string()]);
    eventually("the replica to have it", || new.command(&["GET", "item:1"]) == r#"{"v":1}"#);
    let balancer = Proxy::start(&old.addr());
    (old, new, balancer)
}

/// The old master is a replica of nobody now, and answers reads with what it has. Its connections live on.
fn switch(old: &Redis, new: &Redis) {
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(old.command(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
}

/// Who never writes is never refused anything.
#[test]
fn who_only_reads_finds_the_new_master_behind_a_balancer() {
    let (old, new, balancer) = pair();
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &balancer.addr()), ("WORKERS", "2")]);
    let mut clients: Vec<_> = (0..6).map(|_| kioskd.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/items/1").text(), r#"{"v":1}"#);
    }
    switch(&old, &new);
    new.command(&["SET", "item:1", r#"{"v":2}"#]);
    balancer.lead_to(&new.addr());
    for client in &mut clients {
        eventually("the new value", || client.get("/items/1").text() == r#"{"v":2}"#);
    }
    assert_eq!(kioskd.connect().get("/readyz").status, 200);
}

#[test]
fn refused_writes_end_soon_after_the_balancer_is_right() {
    let (old, new, balancer) = pair();
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &balancer.addr()), ("WORKERS", "1")]);
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items/2", "{}").status, 201);
    switch(&old, &new);
    // For as long as it leads to the old one, writes are refused, or (on a machine that is very busy) late.
    let refused = Instant::now();
    while refused.elapsed() < Duration::from_secs(3) {
        assert!(matches!(client.post("/items/2", "{}").status, 503 | 504));
    }
    balancer.lead_to(&new.addr());
    let right = Instant::now();
    eventually("a write", || client.post("/items/2", "{}").status == 201);
    let after = right.elapsed();
    eprintln!("a write succeeds {after:?} after the balancer is right");
    // A second at the most is what a connection waits for; the rest is for a slow machine.
    assert!(after < Duration::from_secs(4), "{after:?}");
    assert_eq!(old.command(&["GET", "item:2"]), "{}");
}

/// Two workers, and only one of them is connected to a replica.
#[test]
fn readiness_is_that_of_the_worst_worker() {
    let (old, new, balancer) = pair();
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &balancer.addr()), ("WORKERS", "2")]);
    let ready = |status: u16| (0..10).all(|_| kioskd.connect().get("/readyz").status == status);
    eventually("both to be ready", || ready(200));
    balancer.lead_to(&new.addr());
    let list = old.command(&["CLIENT", "LIST"]);
    let ours = list.lines().find(|line| line.contains("name=kioskd")).expect("a connection");
    let id =
        ours.split(' ').find_map(|word| word.strip_prefix("id=")).expect("CLIENT LIST has ids");
    assert_eq!(old.command(&["CLIENT", "KILL", "ID", id]), "1");
    eventually("no probe to be green", || ready(503));
    balancer.lead_to(&old.addr());
    eventually("all probes to be green", || ready(200));
}

/// A node of a cluster that has every slot, with this id.
fn node(id: &str, port: &str, slots: [u16; 2]) -> Vec<u8> {
    let [first, last] = slots;
    format!(
        "*3\r\n:{first}\r\n:{last}\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n${}\r\n{id}\r\n",
        id.len()
    )
    .into_bytes()
}

fn bulk(text: &str) -> Act {
    Act::Send(format!("${}\r\n{text}\r\n", text.len()).into_bytes())
}

fn start(url: &str) -> Kioskd {
    Kioskd::start(&[("REDIS_URL", url), ("WORKERS", "1"), ("REQUEST_TIMEOUT", "1s")])
}

/// A stable name, and a new machine behind it: the old one says that the slot is where it was asked, under that name. It
/// was 503 for ever.
#[test]
fn moved_to_the_address_that_was_asked_is_asked_again_on_a_new_connection() {
    for always in [false, true] {
        let own = Arc::new(OnceLock::<String>::new());
        let (me, hellos) = (Arc::clone(&own), AtomicUsize::new(0));
        let fake = FakeRedis::start(move |command| {
            let own = me.get().map_or("", String::as_str);
            let port = own.rsplit_once(':').map_or("", |(_, port)| port);
            match (&*command[0], command.get(1).map_or("", String::as_str)) {
                ("HELLO", _) => {
                    hellos.fetch_add(1, Ordering::SeqCst);
                    Act::Usual
                }
                ("CLUSTER", "MYID") => bulk("me"),
                ("CLUSTER", _) => {
                    Act::Send([b"*1\r\n", &node("me", port, [0, 16_383])[..]].concat())
                }
                ("GET", key) if always || hellos.load(Ordering::SeqCst) == 1 => {
                    Act::Send(format!("-MOVED {} {own}\r\n", slot(key.as_bytes())).into_bytes())
                }
                ("GET", _) => bulk("{}"),
                _ => Act::Usual,
            }
        });
        own.set(fake.addr()).expect("set once");
        let kioskd = start(&format!("redis+cluster://{}", fake.addr()));
        let mut client = kioskd.connect();
        let began = Instant::now();
        if always {
            while began.elapsed() < Duration::from_secs(3) {
                assert_eq!(client.get("/items/1").status, 503);
            }
        } else {
            assert_eq!(client.get("/items/1").status, 200);
        }
        let hellos = fake.commands().iter().filter(|command| command[0] == "HELLO").count();
        // 10 ms apart at the least, and soon a second.
        assert!(hellos <= if always { 30 } else { 2 }, "{hellos} connections");
    }
}

/// Of a cluster of two nodes one dies, and its address is given to a node of another cluster. That one has a map of its own,
/// in which all slots are its own, and answers everything.
#[test]
fn a_node_of_another_cluster_at_a_dead_nodes_address_gets_no_request() {
    let ports = Arc::new(OnceLock::<[String; 2]>::new());
    let is_strange = Arc::new(AtomicBool::new(false));
    let make = |n: usize| {
        let (ports, is_strange) = (Arc::clone(&ports), Arc::clone(&is_strange));
        FakeRedis::start(move |command| {
            let Some([one, two]) = ports.get() else { return Act::Usual };
            let strange = n == 1 && is_strange.load(Ordering::SeqCst);
            match (&*command[0], command.get(1).map_or("", String::as_str), strange) {
                ("CLUSTER", "MYID", true) => bulk("stranger"),
                ("CLUSTER", "MYID", false) => bulk(["one", "two"][n]),
                ("CLUSTER", _, true) => {
                    Act::Send([b"*1\r\n", &node("stranger", two, [0, 16_383])[..]].concat())
                }
                ("CLUSTER", _, false) => Act::Send(
                    [
                        b"*2\r\n",
                        &node("one", one, [0, 8000])[..],
                        &node("two", two, [8001, 16_383]),
                    ]
                    .concat(),
                ),
                ("GET", key, true) => bulk(&format!("\"stranger {key}\"")),
                ("GET", key, false) if (slot(key.as_bytes()) <= 8000) == (n == 0) => bulk("{}"),
                // The cluster has not noticed yet that the other is gone.
                ("GET", key, false) => {
                    let (slot, port) = (slot(key.as_bytes()), [two, one][n]);
                    Act::Send(format!("-MOVED {slot} 127.0.0.1:{port}\r\n").into_bytes())
                }
                _ => Act::Usual,
            }
        })
    };
    let nodes = [make(0), make(1)];
    let port = |n: usize| nodes[n].addr().rsplit_once(':').expect("host:port").1.to_owned();
    ports.set([port(0), port(1)]).expect("set once");
    let kioskd = start(&format!("redis+cluster://{},{}", nodes[0].addr(), nodes[1].addr()));
    let mut client = kioskd.connect();
    for n in 0..20 {
        assert_eq!(client.get(&format!("/items/{n}")).text(), "{}");
    }
    is_strange.store(true, Ordering::SeqCst);
    nodes[1].close_all();
    let began = Instant::now();
    let (mut served, mut failed) = (0, 0);
    while began.elapsed() < Duration::from_secs(4) {
        for n in 0..20 {
            let reply = client.get(&format!("/items/{n}"));
            match reply.status {
                200 => {
                    assert_eq!(reply.text(), "{}", "not the stranger's");
                    served += 1;
                }
                status => {
                    assert!((502..=504).contains(&status), "{reply:?}");
                    failed += 1;
                }
            }
        }
    }
    assert!(served > 0 && failed > 0 && began.elapsed() < PATIENCE, "{served} {failed}");
    let there = nodes[1].commands();
    let since = there.iter().position(|c| c.len() > 1 && c[1] == "MYID").expect("it was asked");
    let strange = there[since..].iter().rev().take_while(|c| c[0] != "HELLO");
    assert!(
        strange.clone().all(|c| c[0] != "GET" && c[0] != "SET"),
        "{:?}",
        strange.collect::<Vec<_>>()
    );
}

/// The same with two real clusters: the port of a master leads to the only node of another, which has all slots and answers
/// everything; and back.
#[test]
fn another_cluster_where_a_master_was_is_asked_nothing() {
    const OURS: &str = r#"{"of":"ours"}"#;
    const THEIRS: &str = r#"{"of":"theirs"}"#;
    let (cluster, stranger) = (Cluster::start(), Redis::start_node());
    assert_eq!(stranger.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    eventually("the other one to be a cluster", || {
        stranger.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    let ids = 0..40;
    for n in ids.clone() {
        assert_eq!(stranger.command(&["SET", &format!("item:{n}"), THEIRS]), "OK");
    }
    let node = &cluster.nodes[cluster.master_of(slot(b"item:0"))];
    let door = Proxy::start(&node.addr());
    let port = door.addr().rsplit_once(':').expect("host:port").1.to_owned();
    node.command(&["CONFIG", "SET", "cluster-announce-port", &port]);
    eventually("every node to tell of the door", || {
        let mut maps = cluster.nodes.iter().map(|node| node.command(&["CLUSTER", "SLOTS"]));
        maps.all(|map| map.lines().any(|line| line == port))
    });
    let others = cluster.nodes.iter().filter(|other| other.port() != node.port());
    let seeds: Vec<String> = others.map(Redis::addr).collect();
    let kioskd = start(&format!("redis+cluster://{}", seeds.join(",")));
    let mut client = kioskd.connect();
    for n in ids.clone() {
        assert_eq!(client.post(&format!("/items/{n}"), OURS).status, 201);
    }
    door.lead_to(&stranger.addr());
    door.cut_all();
    let (began, mut done) = (Instant::now(), [0, 0]);
    while began.elapsed() < Duration::from_secs(3) {
        for n in ids.clone().filter(|_| began.elapsed() < Duration::from_secs(6)) {
            let read = client.get(&format!("/items/{n}"));
            client.post(&format!("/items/{n}"), OURS);
            assert_ne!(read.text(), THEIRS, "{}", kioskd.log());
            done[usize::from(read.text() == OURS)] += 1;
        }
    }
    assert!(done[0] > 0 && done[1] > 0, "{done:?}");
    for n in ids.clone() {
        assert_eq!(stranger.command(&["GET", &format!("item:{n}")]), THEIRS, "{n}");
    }
    door.lead_to(&node.addr());
    door.cut_all();
    eventually("all to be served", || {
        ids.clone().all(|n| client.get(&format!("/items/{n}")).text() == OURS)
    });
}
