//! kioskd on a real Redis Cluster: three masters, three replicas, and what an operator or a fault does to them.
//!
//! ```text
//! the whole store contract       any node as the only seed        slots that move under load
//! a key in the middle of a move  a master killed under load       redirects that lead nowhere (played by a fake)
//! ```
//!
//! Every value names the key it was written under, so an answer from the wrong place shows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::contract::{self, HOUR, Line, assert_same, delete, get, rules, set};
use crate::support::session::{Answer, When};
use crate::support::{
    Act, Cluster, FakeRedis, Journal, Kioskd, Op, PATIENCE, Port, Redis, SetOnDrop, eventually,
    for_each_front, under_load,
};
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::options::Options;
use kioskd::resp::options::Purpose;
use kioskd::resp::options::Target;
use kioskd::resp::slot::slot;
use kioskd::store::Store;
use kioskd::store::redis::Redis as RedisStore;
use kioskd::store::redis::record::record_key;

/// A rule of the contract and its name.
type Rule = (&'static str, fn(&dyn Store));

macro_rules! table {
    ($($stores:ident: $($rule:ident)*;)*) => {
        const RULES: &[Rule] = &[$($((stringify!($rule), contract::$rule)),*),*];
    };
}
rules!(table);

#[test]
fn a_cluster_is_a_store_like_any_other() {
    let cluster = Cluster::start();
    let store = store_on(&cluster);
    for (name, rule) in RULES {
        eprintln!("== {name}");
        rule(&store);
        for master in &cluster.nodes[..3] {
            master.command(&["FLUSHALL"]);
        }
    }
}

/// Where the server that counts for `RATE_LIMIT` does not answer, who wants an item of another server asks for it when the
/// time for the count is over, and not at whatever happens next: that was a look at the clock 16 ms later, each time.
#[test]
fn a_count_that_does_not_come_holds_up_no_item_elsewhere() {
    let cluster = Cluster::start();
    let counter = cluster.master_of(slot(b"rate:a:127.0.0.1"));
    let id = Cluster::id_in(|slot| cluster.master_of(slot) != counter);
    let settings = [("RATE_LIMIT", "1000/s"), ("REQUEST_TIMEOUT", "1s"), ("WORKERS", "1")];
    let url = cluster.url();
    let kioskd = Kioskd::start(&[&settings[..], &[("REDIS_URL", &url)]].concat());
    let mut client = kioskd.connect();
    assert_eq!(client.get(&format!("/items/{id}")).status, 404);
    cluster.nodes[counter].stop();
    for _ in 0..10 {
        assert_eq!(client.get(&format!("/items/{id}")).status, 404);
    }
    let metrics = client.get("/metrics").text();
    let quick = "kioskd_store_duration_seconds_bucket{command=\"get\",le=\"0.01\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(quick)?.parse::<u32>().ok());
    assert!(count.is_some_and(|count| count > 5), "{count:?} of 11 within 10 ms");
}

#[test]
fn any_node_leads_to_the_whole_cluster() {
    let cluster = Cluster::start();
    let assert_whole = |url: &str| {
        let kioskd = start(url);
        let mut client = kioskd.connect();
        for n in 0..20 {
            let (path, body) = (format!("/items/{n}"), format!(r#"{{"n":{n}}}"#));
            let reply = client.post(&path, &body);
            assert_eq!(reply.status, 201, "{url}: {reply:?}\n{}", kioskd.log());
            let reply = client.get(&path);
            assert_eq!((reply.status, reply.text()), (200, body), "{url}");
        }
    };
    let seed = cluster.nodes[5].addr();
    assert_whole(&format!("redis+cluster://{seed}"));
    assert_listed(&format!("redis+cluster://{seed}"));
    for node in &cluster.nodes {
        for protocol in [2, 3] {
            assert_whole(&format!("redis+cluster://{}?protocol={protocol}", node.addr()));
        }
    }
    // Nobody listens on the first two.
    let nobody = [Port::take(), Port::take()];
    let ([dead, also_dead], live) = (nobody.each_ref().map(Port::addr), cluster.nodes[4].addr());
    assert_whole(&format!("redis+cluster://{dead},{also_dead},{live}"));
    assert_whole(&format!("redis+cluster://{live},{dead},{also_dead}"));

    // The three ways a node can be called, and two that leave out what clients would need.
    for (kind, hostname) in [("hostname", "localhost"), ("hostname", ""), ("unknown-endpoint", "")]
    {
        for node in &cluster.nodes {
            node.command(&["CONFIG", "SET", "cluster-announce-hostname", hostname]);
            node.command(&["CONFIG", "SET", "cluster-preferred-endpoint-type", kind]);
        }
        eventually("every node to call the others so", || {
            cluster.nodes.iter().all(|node| {
                let map = node.command(&["CLUSTER", "SLOTS"]);
                let called = map.lines().filter(|line| *line == hostname).count();
                hostname.is_empty() || called == 6
            })
        });
        let port = cluster.nodes[0].port();
        for protocol in [2, 3] {
            for host in ["127.0.0.1", "localhost"] {
                assert_whole(&format!("redis+cluster://{host}:{port}?protocol={protocol}"));
            }
        }
    }
}

/// The rights that docs/redis.md names. Who may not ask a node for its name knows it by its map.
#[test]
fn a_user_who_may_do_little_is_served_by_all_nodes() {
    let cluster = Cluster::start();
    let rules =
        "on >pw ~item:* ~sess:* ~idem:* +@read +@write +@scripting +@connection +cluster|slots";
    for node in &cluster.nodes {
        let words = ["ACL", "SETUSER", "kiosk"].into_iter().chain(rules.split(' '));
        assert_eq!(node.command(&words.collect::<Vec<_>>()), "OK");
    }
    let kioskd = start(&cluster.url().replace("://", "://kiosk:pw@"));
    let mut client = kioskd.connect();
    for n in 0..200 {
        assert_eq!(client.post(&format!("/items/{n}"), "{}").status, 201, "{}", kioskd.log());
        assert_eq!(client.get(&format!("/items/{n}")).status, 200);
    }
    assert_eq!(client.get("/readyz").status, 200);
}

/// Slots go to another master and back, to a node that is new, and away from it before it leaves; meanwhile clients
/// write and read through kioskd, scripts compare and set, and the nodes forget the scripts again and again.
#[test]
fn slots_that_move_under_load_cost_no_answer() {
    let slots = std::env::var("KIOSKD_TEST_SLOTS").map_or(400, |n| n.parse().expect("a number"));
    let mut cluster = Cluster::start();
    let kioskd = start(&cluster.url());
    let store = store_on(&cluster);
    let stop = AtomicBool::new(false);
    let masters: Vec<u16> = cluster.nodes[..3].iter().map(|n| n.port()).collect();
    let (journal, changes) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|n| {
                let (store, stop) = (&store, &stop);
                scope.spawn(move || compare_and_set(store, n, stop))
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for port in &masters {
                    let _ = crate::support::ask(*port, None, &["SCRIPT", "FLUSH"]);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _stops = SetOnDrop(&stop);
        let journal = under_load(&kioskd, 4, || {
            let begin = Instant::now();
            let step = |what: &str| println!("{what} after {:?}", begin.elapsed());
            cluster.reshard(0, 1, slots);
            step("there");
            cluster.reshard(1, 0, slots);
            step("back");
            let new = cluster.add_node();
            cluster.reshard(2, new, slots);
            step("to a new node");
            cluster.reshard(new, 2, slots);
            // What is on its way to the node when it ends has an outcome that nobody knows. Whoever still takes it for a
            // master hears MOVED first; with hundreds of requests a second that is soon over.
            eventually("nobody to ask it any more", || {
                let moved = || cluster.nodes[new].command(&["INFO", "errorstats"]);
                let before = moved();
                std::thread::sleep(Duration::from_millis(500));
                moved() == before
            });
            cluster.remove_last_node();
            step("from it");
        });
        stop.store(true, Ordering::Relaxed);
        let changes: usize = workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum();
        (journal, changes)
    });
    println!("{}; {changes} compare-and-sets", journal.summary());
    journal.assert_no_wrong_answer();
    let errors: Vec<&Op> = journal.errors().collect();
    assert!(errors.is_empty(), "{errors:?}\n{}", kioskd.log());
    assert!(changes > 100);
}

/// The middle of a move, held still. Some keys of the slot are on the new node, some on the old one, and a new key
/// belongs on the new one; nobody there knows our scripts.
#[test]
fn a_key_in_the_middle_of_a_move_is_found_by_every_command() {
    let cluster = Cluster::start();
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let moving = 1000;
    let slot_text = moving.to_string();
    let key = |n: u32| keys_in(moving).nth(n as usize).expect("keys never end");
    let mut line = Line::open(&store_on(&cluster));
    // One for each command, and the same again for the other side.
    for n in 0..20 {
        line.set(&key(n), &key(n), HOUR, When::Always);
    }
    let (from_id, to_id) = (cluster.id_of(0), cluster.id_of(1));
    to.command(&["CLUSTER", "SETSLOT", &slot_text, "IMPORTING", &from_id]);
    from.command(&["CLUSTER", "SETSLOT", &slot_text, "MIGRATING", &to_id]);
    let port = to.port().to_string();
    for n in 0..10 {
        let key = String::from_utf8(key(n)).expect("text");
        let moved = from.command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        assert_eq!(moved, "OK");
    }
    for node in &cluster.nodes {
        node.command(&["SCRIPT", "FLUSH"]);
    }
    for side in [0, 10] {
        let k = |n: u32| key(side + n);
        let unchanged = |n: u32| When::Unchanged(k(n).into());
        for (n, command, answer) in [
            (0, set(&k(0), b"new", HOUR, unchanged(0)), Answer::Stored),
            (1, delete(&k(1), unchanged(1)), Answer::Deleted(true)),
            (2, delete(&k(2), When::Present), Answer::Deleted(true)),
            (3, set(&k(3), b"new", HOUR, When::Absent), Answer::Unmet),
            (4, get(&k(4), HOUR), Answer::Value(Some(k(4)))),
            (5, get(&k(5), None), Answer::Value(Some(k(5)))),
            (6, delete(&k(6), When::Always), Answer::Deleted(true)),
            (7, set(&k(7), b"new", None, When::Present), Answer::Stored),
            (8, set(&k(8), b"new", None, unchanged(0)), Answer::Unmet),
        ] {
            for node in [from, to] {
                node.command(&["SCRIPT", "FLUSH"]);
            }
            assert_eq!(line.ask(command.clone()), Ok(answer), "{side} {n}: {command:?}");
        }
    }
    let new = key(30);
    assert_eq!(line.get(&new), None);
    assert_eq!(line.set(&new, b"v", HOUR, When::Absent), Answer::Stored);
    assert_eq!(line.take(&key(31), Duration::from_secs(60)).0, 1);
    assert_eq!(line.take(&key(31), Duration::from_secs(60)).0, 2);
    let keys = to.command(&["CLUSTER", "COUNTKEYSINSLOT", &slot_text]);
    assert_eq!(keys, "9", "ten were moved, three removed, two are new");

    // The move is called off, and everything is asked at its old place again.
    assert_eq!(line.get(&key(15)), Some(key(15)));
}

/// As on a replica that took its master's place before it heard that these keys had moved away. They are nobody's, and
/// a node that has none but them under a prefix has not lost its slots. Found by the simulation.
#[test]
fn keys_that_were_left_behind_are_in_no_list_and_spoil_none() {
    let cluster = Cluster::start();
    let keys = ["~item:*", "~sess:*", "~idem:*"];
    for node in &cluster.nodes {
        node.command(&[&["ACL", "SETUSER", "kiosk", "on", ">pw", "+@all"][..], &keys].concat());
    }
    let restricted = cluster.url().replace("://", "://kiosk:pw@");
    let kioskds = [start(&cluster.url()), start(&restricted)];
    let mut client = kioskds[0].connect();
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (moving, port) = ("1000", to.port().to_string());
    // As prefixes: one without braces, one that begins a tag, and one with a tag, which decides the only slot.
    let id_in = |wanted, begin, end| {
        let mut ids = (0..).map(|n: u32| format!("{begin}{n}{end}"));
        let is_there = |id: &String| slot(format!("item:{id}").as_bytes()) == wanted;
        ids.find(is_there).expect("ids never end")
    };
    let ids = [("a", ""), ("b{", ""), ("{", "}")].map(|(begin, end)| id_in(1000, begin, end));
    for id in &ids {
        assert_eq!(client.post(&format!("/items?id={id}"), "{}").status, 201);
    }
    to.command(&["CLUSTER", "SETSLOT", moving, "IMPORTING", &cluster.id_of(0)]);
    for id in &ids {
        let key = format!("item:{id}");
        assert_eq!(from.command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]), "OK");
    }
    to.command(&["CLUSTER", "SETSLOT", moving, "STABLE"]);
    assert_eq!(to.command(&["CLUSTER", "COUNTKEYSINSLOT", moving]), "3");

    let list = |kioskd: &Kioskd, id: &str| {
        let (mut client, mut cursor, mut found) = (kioskd.connect(), String::new(), Vec::new());
        for _ in 0..3 {
            let page = client.get(&format!("/items?limit=10&prefix={id}{cursor}"));
            assert_eq!(page.status, 200, "{id}: {page:?}");
            let page = page.json();
            let items = page["items"].as_array().expect("items");
            found.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
            cursor =
                page["cursor"].as_str().map_or(String::new(), |next| format!("&cursor={next}"));
        }
        assert!(cursor.is_empty(), "{id}: each of three masters had its page");
        found
    };
    for (kioskd, id) in kioskds.iter().flat_map(|kioskd| ids.iter().map(move |id| (kioskd, id))) {
        assert_eq!(list(kioskd, id), [""; 0], "{id}");
    }

    // Keys that have moved with their slot are found by one who has not heard of it.
    let id = id_in(0, "{", "}");
    assert_eq!(client.post(&format!("/items?id={id}"), "{}").status, 201);
    cluster.reshard(0, 1, 1);
    assert_eq!(cluster.master_of(0), 1);
    for kioskd in &kioskds {
        assert_eq!(list(kioskd, &id), [&*id]);
    }
}

/// A worker hears MOVED only for a key that moved. A list and a purge have none: they were 200, and without what was
/// on the new node, until the map was fetched as it is now and then, a minute later.
#[test]
fn a_node_that_joined_is_in_lists_and_purges_although_nobody_was_sent_there() {
    let mut cluster = Cluster::start();
    let kioskds = [start(&cluster.url()), start(&cluster.url())];
    let mut client = kioskds[0].connect();
    for n in 0..100 {
        for collection in ["items", "sess"] {
            assert_eq!(client.post(&format!("/{collection}/a{n}"), "{}").status, 201);
        }
    }
    let walk = |kioskd: usize, method: &str, path: &str| {
        let (mut client, mut cursor, mut sum) = (kioskds[kioskd].connect(), String::new(), 0);
        loop {
            let page = client.request(method, &format!("{path}{cursor}"), &[], b"");
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            sum += page["items"].as_array().map_or(0, Vec::len);
            sum += page["deleted"].as_u64().unwrap_or(0) as usize;
            let Some(next) = page["cursor"].as_str() else { return sum };
            cursor = format!("&cursor={next}");
        }
    };
    assert_eq!(walk(0, "GET", "/items?prefix=a"), 100);
    assert_eq!(walk(1, "GET", "/items?prefix=a"), 100);
    let new = cluster.add_node();
    cluster.reshard(0, new, 2000);
    cluster.settle();
    let began = Instant::now();
    eventually("the map not to be quite new", || began.elapsed() > Duration::from_secs(2));
    assert_eq!(walk(0, "GET", "/items?prefix=a"), 100);
    assert_eq!(walk(1, "DELETE", "/sess?prefix=a"), 100);
}

/// A write with a record is on two keys, and while their slot moves Redis runs it only where both are. So it is 503 at
/// once, nothing happens, and when the move is over the same request takes effect, or is replayed if it did before.
#[test]
fn a_guarded_write_to_a_slot_that_moves_is_503_at_once() {
    let cluster = Cluster::start();
    let kioskd = start(&cluster.url());
    let mut client = kioskd.connect();
    let mut send = |method: &str, path: &str, key: &str| {
        let kind = ("Content-Type", "application/merge-patch+json");
        let body: &[u8] = if method == "DELETE" { b"" } else { br#"{"a":1}"# };
        client.request(method, path, &[kind, ("Idempotency-Key", key)], body)
    };
    let moving = 1000;
    // The tag of an id is that of its key.
    let ids: Vec<String> =
        keys_in(moving).filter_map(|id| String::from_utf8(id).ok()).take(3).collect();
    let path = |n: usize| format!("/items?id={}", ids[n]).replace('{', "%7B").replace('}', "%7D");
    for n in 0..2 {
        assert_eq!(send("PUT", &path(n), "before").status, 201);
    }
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (from_id, to_id) = (cluster.id_of(0), cluster.id_of(1));
    let slot = moving.to_string();
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    // The second item has gone already, its record has not; the third was never there.
    let port = to.port().to_string();
    let moved =
        from.command(&["MIGRATE", "127.0.0.1", &port, &format!("item:{}", ids[1]), "0", "5000"]);
    assert_eq!(moved, "OK");
    for method in ["PUT", "PATCH", "DELETE", "POST"] {
        for n in [0, 1, 2] {
            let before = Instant::now();
            let reply = send(method, &path(n), "during");
            let found = (reply.status, &*reply.problem().0, reply.header("retry-after"));
            assert_eq!(found, (503, "store_unavailable", Some("1")), "{method} {n}");
            // Half of the time there would have been to try again and again.
            assert!(before.elapsed() < Duration::from_secs(1), "{method} {n}");
        }
    }
    // Where item and record are together still, the record is found.
    let replayed =
        |reply: &crate::support::Reply| reply.header("idempotency-replayed") == Some("true");
    let again = send("PUT", &path(0), "before");
    assert!(again.status == 201 && replayed(&again), "{again:?}");
    // Writes without a record follow the slot.
    let plain = kioskd.connect().request("PUT", &path(1), &[], b"{}");
    assert_eq!(plain.status, 204);
    assert_eq!(kioskd.connect().get(&path(0)).text(), r#"{"a":1}"#);

    let record = |n: usize| {
        let item = format!("item:{}", ids[n]);
        String::from_utf8(record_key(b"", item.as_bytes(), b":before")).expect("text")
    };
    for key in [format!("item:{}", ids[0]), record(0), record(1)] {
        let moved = from.command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        assert_eq!(moved, "OK", "{key}");
    }
    for node in [to, from, &cluster.nodes[2]] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    for n in 0..2 {
        let again = send("PUT", &path(n), "before");
        assert!(again.status == 201 && replayed(&again), "{n}: {again:?}");
        let first = send("PATCH", &path(n), "during");
        assert!(first.status == 200 && !replayed(&first), "{n}: {first:?}");
    }
}

/// Records are in the slots of their items whatever those are called, also by way of HTTP.
#[test]
fn a_guarded_write_takes_effect_once_on_a_cluster() {
    let cluster = Cluster::start();
    let kioskd = start(&cluster.url());
    let mut client = kioskd.connect();
    for id in ["7", "{a}b", "{a}c", "a}b", "{}x", "}{a}", "{a", "\u{1F32D}"] {
        let escaped: String = id.bytes().map(|b| format!("%{b:02X}")).collect();
        for (n, (method, status)) in
            [("PUT", 201), ("PATCH", 200), ("DELETE", 204), ("POST", 201)].into_iter().enumerate()
        {
            let (path, key) = (format!("/items?id={escaped}"), format!("{{{n}}}"));
            let kind = ("Content-Type", "application/merge-patch+json");
            let mut send =
                || client.request(method, &path, &[kind, ("Idempotency-Key", &key)], br#"{"a":1}"#);
            let (first, again) = (send(), send());
            assert_eq!((first.status, again.status), (status, status), "{id} {method}");
            assert_eq!(first.header("idempotency-replayed"), None, "{id} {method}");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{id} {method}");
            assert_eq!(first.body, again.body);
        }
    }
}

/// Its slots have no master until its replica is elected; all others must not feel it. (Redis itself would refuse them
/// too, with CLUSTERDOWN, if it were left at `cluster-require-full-coverage yes`.)
#[test]
fn a_killed_master_costs_only_its_own_slots_and_only_for_a_while() {
    let mut cluster = Cluster::start();
    let kioskd = start(&cluster.url());
    for node in &cluster.nodes {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let victim = cluster.master_of(0);
    let theirs = |op: &Op| cluster_slot(op) <= 5460;
    let (mut killed, mut promoted) = (None, None);
    let journal = under_load(&kioskd, 6, || {
        std::thread::sleep(Duration::from_secs(1));
        cluster.nodes[victim].kill();
        killed = Some(Instant::now());
        let others: Vec<&crate::support::Redis> =
            (0..6).filter(|n| *n != victim).map(|n| &cluster.nodes[n]).collect();
        eventually("its replica to take over", || {
            others[2..].iter().any(|node| node.command(&["ROLE"]).starts_with("master"))
        });
        promoted = Some(Instant::now());
        let id = Cluster::id_in(|slot| slot <= 5460);
        let mut client = kioskd.connect();
        eventually("its slots to work again", || {
            client.post(&format!("/items/{id}"), "{}").status == 201
        });
        std::thread::sleep(Duration::from_secs(1));
        // Comes back as a replica of its replica, and nobody notices.
        cluster.nodes[victim].restart();
        cluster.settle();
        std::thread::sleep(Duration::from_millis(500));
    });
    let (killed, promoted) = (killed.expect("set"), promoted.expect("set"));
    println!("{}", journal.summary());
    let back = journal
        .ops
        .iter()
        .filter(|op| theirs(op) && op.status < 500)
        .map(|op| op.at + op.took)
        .find(|t| *t > promoted)
        .expect("it came back");
    println!(
        "promoted {:?} after the kill, first answer {:?} later",
        promoted - killed,
        back - promoted
    );
    assert!(back - promoted < Duration::from_secs(3), "{:?}", back - promoted);
    let foreign: Vec<&Op> = journal.errors().filter(|op| !theirs(op)).collect();
    assert!(foreign.is_empty(), "errors for slots that had a master: {foreign:?}");
    let late: Vec<&Op> =
        journal.errors().filter(|op| op.at > back + Duration::from_secs(1)).collect();
    assert!(late.is_empty(), "errors after the recovery: {late:?}");
    let slow = journal.ops.iter().filter(|op| !theirs(op)).map(|op| op.took).max();
    println!("slowest answer for the other slots {slow:?}");
    assert!(slow < Some(Duration::from_millis(800)), "{slow:?}");
    assert_kept(&kioskd, &journal, |op| {
        theirs(op) && op.at + Duration::from_millis(500) > killed && op.at < killed
    });
}

/// A part of the data is better than none: a replica of kioskd that is taken out of service for one master takes the
/// other one's keys with it. Who wants to know asks for the list.
#[test]
fn readiness_is_that_of_any_master_and_verbose_names_those_that_are_away() {
    let (stays, mut goes) = (Redis::start_node(), Redis::start_node());
    stays.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "8000"]);
    goes.command(&["CLUSTER", "ADDSLOTSRANGE", "8001", "16383"]);
    goes.command(&["CLUSTER", "MEET", "127.0.0.1", &stays.port().to_string(), &bus_of(&stays)]);
    for node in [&stays, &goes] {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
        eventually("the nodes to meet", || {
            node.command(&["CLUSTER", "INFO"]).contains("cluster_slots_ok:16384")
        });
    }
    let kioskd = Kioskd::start(&[
        ("REDIS_URL", &*format!("redis+cluster://{}", stays.addr())),
        ("WORKERS", "1"),
    ]);
    let mut client = kioskd.connect();
    let mut verbose = || client.get("/readyz?verbose");
    let well = "[+] lifecycle ok\n[+] store ok\nok\n";
    eventually("the cluster to be known", || verbose().text() == well);
    goes.kill();
    let gone = format!("[-] store server {}: cannot be reached: ", goes.addr());
    eventually("the one that is away to be named", || verbose().text().contains(&gone));
    assert_eq!(verbose().status, 200);
    assert_eq!(kioskd.connect().get("/readyz").status, 200);
    stays.stop();
    eventually("no master to be left", || verbose().status == 503);
    stays.cont();
    goes.restart();
    eventually("all to be well again", || verbose().text() == well);
}

/// The URL names three masters, and then none of the living. Their replicas know, and were never asked.
#[test]
fn masters_that_are_gone_are_found_again_through_their_replicas() {
    let mut cluster = Cluster::start();
    let url = cluster.url();
    let shards = [0..=5460, 5461..=10_922, 10_923..=16_383];
    let ids = shards.map(|shard| Cluster::id_in(|slot| shard.contains(&slot)));
    // A map names only replicas that have got something, and the first one has to name them.
    for (node, id) in cluster.nodes.iter().zip(&ids) {
        assert_eq!(node.command(&["SET", &format!("item:{id}"), "{}"]), "OK");
    }
    let heirs = cluster.heirs_of(&[0, 1, 2]);
    let kioskds = ["poll", "tiny_http"]
        .map(|front| Kioskd::start(&[("REDIS_URL", &*url), ("WORKERS", "1"), ("FRONT", front)]));
    let path = |id: &str| format!("/items/{id}");
    let assert_whole = |what: &str| {
        for (kioskd, id) in kioskds.iter().flat_map(|k| ids.iter().map(move |id| (k, id))) {
            let mut client = kioskd.connect();
            eventually(&format!("{id} to be there after {what}"), || {
                client.get(&path(id)).status == 200
            });
            eventually(&format!("{id} to be written after {what}"), || {
                client.post(&path(id), "{}").status == 201
            });
        }
    };
    assert_whole("the start");
    cluster.heirs_of(&[0, 1, 2]);
    let take_over = |cluster: &Cluster, heirs: &[usize]| {
        for heir in heirs {
            let said = cluster.nodes[*heir].command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
            assert_eq!(said, "OK");
        }
    };
    let masters = [0, 1, 2];
    masters.iter().for_each(|n| cluster.nodes[*n].kill());
    // For a while nobody comes after them. Those who will are not asked without pause, nor each time on a new connection.
    let connected = |node: &usize| {
        let stats = cluster.nodes[*node].command(&["INFO", "stats"]);
        let mut lines = stats.lines();
        let count = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
        let count = count.and_then(|n| n.trim().parse::<usize>().ok());
        count.expect("a number")
    };
    let mut client = kioskds[0].connect();
    eventually("the masters to be known to be away", || {
        let reply = client.get(&path(&ids[0]));
        (reply.status, &*reply.problem().0) == (502, "store_unreachable")
    });
    let before: Vec<usize> = heirs.iter().map(connected).collect();
    for _ in 0..100 {
        for id in &ids {
            assert!(client.get(&path(id)).status >= 500);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = heirs.iter().map(connected);
    let connects: Vec<usize> = after.zip(before).map(|(after, before)| after - before).collect();
    println!("{connects:?} connects");
    // Each kioskd's, ours, and those of a cluster that looks for its masters.
    assert!(connects.iter().all(|n| *n < 10), "{connects:?}");
    take_over(&cluster, &heirs);
    assert_whole("the end of all three");
    masters.iter().for_each(|n| cluster.nodes[*n].restart());
    cluster.settle();

    // The neighbour: two that are silent. (One: see above.)
    let masters = [0, 5461].map(|slot| cluster.master_of(slot));
    let heirs = cluster.heirs_of(&masters);
    masters.iter().for_each(|n| cluster.nodes[*n].stop());
    take_over(&cluster, &heirs);
    assert_whole("the silence of two");
}

/// Of a cluster that says it is down a list was once 200 and empty, and with a map that lacks slots 200 without their ids.
/// One node is a cluster, too, and can lose a slot on demand.
#[test]
fn a_list_is_whole_or_503() {
    let node = Redis::start_node();
    node.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    for_each_front(|front| {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]);
        eventually("the node to be a cluster", || {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok")
        });
        let url = format!("redis+cluster://{}", node.addr());
        let settings = [
            ("REDIS_URL", &*url),
            ("FRONT", front),
            ("WORKERS", "1"),
            ("REQUEST_TIMEOUT", "300ms"),
        ];
        let ids = |kioskd: &Kioskd| {
            let reply = kioskd.connect().get("/items?prefix=a");
            match reply.status {
                200 => Some(reply.json()["items"].as_array().map_or(0, Vec::len)),
                _ => {
                    let saw = (reply.status, &*reply.problem().0);
                    assert_eq!(saw, (503, "store_unavailable"));
                    assert_eq!(reply.header("retry-after"), Some("1"));
                    None
                }
            }
        };
        let first = Kioskd::start(&settings);
        let id = Cluster::id_in(|slot| slot != 16_383);
        let path = format!("/items/a{id}");
        eventually("a write", || first.connect().post(&path, "{}").status == 201);
        assert_eq!(ids(&first), Some(1));

        node.command(&["CLUSTER", "DELSLOTS", "16383"]);
        assert_eq!(ids(&first), None, "the node says that it is down");
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
        let second = Kioskd::start(&settings);
        eventually("the node to serve what it has", || second.connect().get(&path).status == 200);
        assert_eq!(ids(&second), None, "a slot has no master");
        node.command(&["CLUSTER", "ADDSLOTS", "16383"]);
        for kioskd in [&first, &second] {
            eventually("the list to be whole", || ids(kioskd) == Some(1));
        }
    });
}

/// A node that has lost its slots and answers from what it still has: all of its keys are elsewhere, and a page without
/// them would be no answer.
#[test]
fn a_node_whose_keys_are_elsewhere_is_not_believed() {
    let (old, new) = (Redis::start_node(), Redis::start_node());
    old.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    new.command(&["CLUSTER", "MEET", "127.0.0.1", &old.port().to_string(), &bus_of(&old)]);
    eventually("the nodes to meet", || {
        [&old, &new].iter().all(|node| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
    });
    let kioskd = Kioskd::start(&[
        ("REDIS_URL", &format!("redis+cluster://{}", old.addr())),
        ("WORKERS", "1"),
        ("REQUEST_TIMEOUT", "700ms"),
    ]);
    let mut client = kioskd.connect();
    eventually("a write", || client.post("/items/a", "{}").status == 201);
    assert_eq!(client.get("/items?limit=9").json()["items"][0]["id"], "a");
    // The old master becomes a replica of the new one, with the same keys.
    new.command(&["CLUSTER", "REPLICATE", &old.command(&["CLUSTER", "MYID"])]);
    eventually("the replica to have it", || {
        new.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    eventually("the roles to change", || {
        old.command(&["INFO", "replication"]).contains("role:slave")
    });
    eventually("the list from the new master", || {
        let reply = client.get("/items?limit=9");
        // 502: found out in the middle of the request, the node has left the map. 504: it says nothing, for it loads the
        // data of its new master.
        let fails = matches!(reply.status, 502..=504);
        assert!(
            fails || reply.json()["items"][0]["id"] == "a",
            "{} {}\n{}",
            reply.status,
            reply.text(),
            kioskd.log()
        );
        !fails
    });
}

/// The port of a node's bus.
fn bus_of(node: &Redis) -> String {
    let line = node.command(&["CLUSTER", "NODES"]);
    let (_, behind) = line.split_once('@').expect("id ip:port@bus flags");
    behind.split([' ', ',']).next().expect("a port").to_owned()
}

/// Nodes that contradict each other, or themselves: a bounded number of tries and then an error, and never the answer to
/// something else.
#[test]
fn redirects_that_lead_nowhere_come_to_an_end() {
    let other = Arc::new(OnceLock::<String>::new());
    let (own, there) = (Arc::new(OnceLock::<String>::new()), Arc::clone(&other));
    let me = Arc::clone(&own);
    let moved = |key: &str, to: &str| {
        Act::Send(format!("-MOVED {} {to}\r\n", slot(key.as_bytes())).into_bytes())
    };
    let tries = AtomicUsize::new(0);
    let here = FakeRedis::start(move |command| {
        let key = command.get(1).map_or("", String::as_str);
        let own = me.get().map_or("", String::as_str);
        match (&*command[0], key) {
            // All slots, on a node that does not say where it is but for its port.
            ("CLUSTER", _) => {
                let port = own.rsplit_once(':').map_or("", |(_, port)| port);
                let row = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$-1\r\n:{port}\r\n");
                Act::Send(row.into_bytes())
            }
            (_, "item:to-itself") => moved(key, own),
            (_, "item:nowhere") => moved(key, "?:6379"),
            (_, "item:to-and-fro") => moved(key, there.get().map_or("", String::as_str)),
            (_, "item:another-slot") => Act::Send(b"-MOVED 1 127.0.0.1:1\r\n".to_vec()),
            // Only a write with a record can hear it, and it may be so for as long as a slot moves.
            (_, "item:moving") => Act::Send(b"-TRYAGAIN Multiple keys request\r\n".to_vec()),
            (_, "item:down") => Act::Send(b"-CLUSTERDOWN Hash slot not served\r\n".to_vec()),
            (_, "item:later") => match tries.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Act::Send(b"-READONLY You can't write\r\n".to_vec()),
                2 | 3 => Act::Send(b"-CLUSTERDOWN The cluster is down\r\n".to_vec()),
                _ => Act::Usual,
            },
            _ => Act::Usual,
        }
    });
    own.set(here.addr()).expect("set once");
    let back = here.addr();
    let there = FakeRedis::start(move |command| match command.get(1) {
        Some(key) if key == "item:to-and-fro" => moved(key, &back),
        _ => Act::Usual,
    });
    other.set(there.addr()).expect("set once");

    let kioskd = start(&format!("redis+cluster://{}", here.addr()));
    let mut client = kioskd.connect();
    for (id, tries_max) in [
        ("to-itself", 16),
        ("nowhere", 16),
        ("to-and-fro", 6),
        ("another-slot", 1),
        ("moving", 1),
        // Waited for until the deadline, 200 ms apart at the most.
        ("down", 120),
    ] {
        let mut reply = client.post(&format!("/items/{id}"), "{}");
        // The last of its tries may be without an answer when its time is over: then nobody knows.
        while id == "down" && reply.status == 504 {
            reply = client.post(&format!("/items/{id}"), "{}");
        }
        let problem = (reply.status, reply.problem().0);
        assert_eq!(problem, (503, "store_unavailable".to_owned()), "{id}");
        let key = format!("item:{id}");
        let all = [here.commands(), there.commands()].concat();
        let tries = all.iter().filter(|c| c.get(1) == Some(&key)).count();
        assert!((1..=tries_max).contains(&tries), "{id}: {tries}");
    }
    assert_eq!(client.post("/items/later", "{}").status, 201);
    assert_eq!(client.get("/items/none").status, 404, "in step");
}

// ---- Helpers ----------------------------------------------------------------------------------

fn start(url: &str) -> Kioskd {
    Kioskd::start(&[("REDIS_URL", url), ("WORKERS", "1")])
}

fn store_on(cluster: &Cluster) -> RedisStore {
    let seed = Endpoint::parse(&cluster.nodes[0].addr(), 6379).expect("a host and a port");
    // Generous, as in the contract's own suite.
    let options = Options {
        connect_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        purpose: Purpose::ClusterNode,
        ..Options::default()
    };
    RedisStore::new(Target::Cluster { seeds: vec![seed] }, options)
}

/// Counts up a few keys of its own by compare-and-set until `stop`; returns how often. A lost or doubled change shows
/// as a condition that does not hold.
fn compare_and_set(store: &dyn Store, n: usize, stop: &AtomicBool) -> usize {
    let mut line = Line::open(store);
    let key = |i: usize| format!("counter:{n}:{}", i % 50).into_bytes();
    let value = |i: usize, round: usize| [key(i), format!("={round}").into_bytes()].concat();
    for i in 0..50 {
        line.set(&key(i), &value(i, 0), HOUR, When::Always);
    }
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return i;
        }
        let round = i / 50;
        let when = When::Unchanged(value(i, round).into());
        let answer = line.set(&key(i), &value(i, round + 1), None, when);
        assert_eq!(answer, Answer::Stored, "{n} {i}");
        assert_same(line.get(&key(i)), &value(i, round + 1));
        std::thread::sleep(Duration::from_millis(2));
    }
    unreachable!("counting never ends")
}

/// Pages through the twenty items that are there, and reads them all at once.
#[track_caller]
fn assert_listed(url: &str) {
    let kioskd = start(url);
    let mut client = kioskd.connect();
    assert_eq!(client.get("/items/0").status, 200);
    let mut ids: Vec<String> = Vec::new();
    let mut path = "/items?limit=3".to_owned();
    while ids.len() < 100 {
        let page = client.get(&path).json();
        let items = page["items"].as_array().expect("a page");
        let id = |item: &serde_json::Value| item["id"].as_str().expect("a text").to_owned();
        ids.extend(items.iter().map(id));
        match page["cursor"].as_str() {
            Some(cursor) => path = format!("/items?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    ids.sort_unstable_by_key(|id| id.parse::<u32>().ok());
    let all: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(ids, all);
    let body = serde_json::json!({ "ids": ids }).to_string();
    let found = client.post("/items/_get", &body).json();
    for (n, item) in found["items"].as_array().expect("all").iter().enumerate() {
        assert_eq!(item["item"]["n"], n, "{item}");
    }
}

/// Keys in one slot.
fn keys_in(wanted: u16) -> impl Iterator<Item = Vec<u8>> {
    let tag = (0..)
        .map(|n: u32| format!("{{{n}}}"))
        .find(|tag| slot(tag.as_bytes()) == wanted)
        .expect("tags never end");
    (0..).map(move |n: u32| format!("{tag}{n}").into_bytes())
}

fn cluster_slot(op: &Op) -> u16 {
    slot(format!("item:{}", op.id).as_bytes())
}

/// Every acknowledged write is readable, but those that `may_be_lost`.
#[track_caller]
fn assert_kept(kioskd: &Kioskd, journal: &Journal, may_be_lost: impl Fn(&Op) -> bool) {
    let mut client = kioskd.connect();
    let mut lost = 0;
    for op in journal.acknowledged() {
        let reply = client.get(&format!("/items/{}", op.id));
        match reply.status {
            200 => assert_eq!(reply.json()["id"], *op.id),
            404 if may_be_lost(op) => lost += 1,
            _ => panic!("{op:?}: {reply:?}"),
        }
    }
    println!("{lost} writes lost by Redis");
}
