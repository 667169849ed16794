//! A master behind three real sentinels, and kioskd in front of it: what clients see when the master dies, freezes,
//! wakes up, or when the sentinels do.
//!
//! ```text
//! clients ── kioskd ─┬─ sentinels  who is the master?
//!                    └─ master ──▶ replica
//! ```
//!
//! Redis replicates without waiting, so a failover may lose writes that were acknowledged a moment before it; what it
//! kept is asked from Redis itself. Times are printed and only asserted by their order of magnitude.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    Act, FakeRedis, Journal, Kioskd, Op, Port, Redis, Sentinels, eventually, temp_dir, under_load,
    under_load_of,
};

/// After the promotion, on a machine that is busy with other things; see the printed figure for what it usually is.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn a_killed_master_is_replaced_under_load() {
    let mut group = Sentinels::start();
    let kioskd = start(&group.url());
    let switch = group.watch();
    let (mut killed, mut switched) = (None, None);
    let journal = under_load(&kioskd, 6, || {
        some_load();
        killed = Some(Instant::now());
        group.servers[0].kill();
        switched = Some(switch.wait());
        recovered(&kioskd);
        some_load();
    });
    let (killed, switched) = (killed.expect("set"), switched.expect("set"));
    assert_writes_soon_after(&journal, switched);
    let lost = assert_kept(&group.servers[1], &journal, |op| {
        // The last moment before the kill, which replication may not have reached.
        op.at + Duration::from_millis(500) > killed && op.at < killed && op.at + op.took < switched
    });
    println!("switch {:?} after the kill, {lost} writes lost by Redis", switched - killed);
    assert_readable(&kioskd, &group.servers[1], &journal);
}

/// The one that was replaced wakes up, takes itself for the master and would say OK for seconds.
#[test]
fn a_frozen_master_that_wakes_up_acknowledges_nothing() {
    let group = Sentinels::start();
    let kioskd = start(&group.url());
    let switch = group.watch();
    let (mut frozen, mut switched) = (None, None);
    let journal = under_load(&kioskd, 6, || {
        some_load();
        group.servers[0].stop();
        frozen = Some(Instant::now());
        switched = Some(switch.wait());
        group.servers[0].cont();
        recovered(&kioskd);
        some_load();
    });
    let (frozen, switched) = (frozen.expect("set"), switched.expect("set"));
    assert_writes_soon_after(&journal, switched);
    // What was acknowledged after the switch was acknowledged by the new master, so it must be there. A reply that was
    // on its way when the old one froze may be of a write the replica never saw.
    let lost =
        assert_kept(&group.servers[1], &journal, |op| op.at < frozen && op.at + op.took < switched);
    println!("switch {:?} after the freeze, {lost} writes lost by Redis", switched - frozen);
    assert_readable(&kioskd, &group.servers[1], &journal);
}

/// While the other replicas are told of the new master, the sentinel that leads a failover goes on naming the old one, and
/// under the new epoch. Of 1,400 acknowledged writes 531 were lost to that.
#[test]
fn failovers_with_two_replicas_lead_forward_only() {
    assert_failovers_lead_forward(2);
}

#[test]
fn failovers_with_three_replicas_lead_forward_only() {
    assert_failovers_lead_forward(3);
}

/// Two that were ordered and one that was not, on one group. The sentinel that leads is the first in the list of one
/// kioskd and the last in that of the other.
#[track_caller]
fn assert_failovers_lead_forward(replicas: usize) {
    let mut group = Sentinels::start_with_replicas(replicas);
    let kioskds = there_and_back(&group, "");
    let mut master = 0;
    let mut reigns = vec![group.servers[0].port()];
    let mut interregna: Vec<Interregnum> = Vec::new();
    let mut back = None;
    let forth = under_load_of("forth", &kioskds[0], 3, || {
        back = Some(under_load_of("back", &kioskds[1], 3, || {
            for leader in [Some(0), Some(2), None] {
                let switch = group.watch();
                let begun = Instant::now();
                let news = match leader {
                    Some(leader) => group.fail_over(leader, &switch),
                    None => {
                        group.be_hasty(true);
                        group.servers[master].kill();
                        switch.next()
                    }
                };
                group.be_hasty(false);
                reigns.push(news.new_port());
                if let Some(leader) = leader {
                    // It is alone in what it says.
                    let new =
                        start(&format!("redis+sentinel://{}/kiosk", group.addresses()[leader]));
                    recovered(&new);
                    assert_masters(&new, &[news.new_port()]);
                }
                // From here on nothing that is acknowledged may go to the old one.
                kioskds.iter().for_each(|kioskd| followed(kioskd, &reigns));
                interregna.push((begun, Instant::now()));
                // It is over when the leader has said so too.
                switch.each_of((0..3).filter(|n| *n != news.sentinel).collect());
                if leader.is_none() {
                    group.servers[master].restart();
                }
                master = group.server_on(news.new_port());
                group.settle(master);
            }
            kioskds.iter().for_each(recovered);
        }));
    });
    let journals = [forth, back.expect("set")];
    for (kioskd, journal) in kioskds.iter().zip(&journals) {
        println!("{:?}, should be {reigns:?}", masters(kioskd));
        journal_line(journal);
    }
    for (kioskd, journal) in kioskds.iter().zip(&journals) {
        let lost = assert_kept(&group.servers[master], journal, |op| is_within(op, &interregna));
        println!("{lost} writes lost by Redis");
        assert_masters(kioskd, &reigns);
        assert!(!kioskd.log().contains("under one epoch"), "{}", kioskd.log());
    }
}

/// One kioskd hears the sentinels' news, the other (RESP2) only asks. What was acknowledged after they have found the
/// new master is there, whichever sentinel dies, and when.
#[test]
fn a_sentinel_that_dies_in_a_failover_costs_nothing_acknowledged_after_it() {
    #[derive(Debug, PartialEq)]
    enum Dies {
        /// One that does not lead, before it begins.
        Other,
        /// The first to say who is the new master, then.
        Herald,
        /// The leader, when another has said who is the new master.
        LeaderAtTheNews,
        /// The master, and the first to say who comes after it.
        MasterAndHerald,
        /// The leader, when it has been told to begin. Perhaps nothing comes of it.
        LeaderAtTheStart,
        /// The leader, when there is a new master, and perhaps nobody else knows.
        LeaderAtThePromotion,
    }
    let mut group = Sentinels::start_with_replicas(2);
    let kioskds = there_and_back(&group, "?protocol=2");
    let (mut master, mut reigns) = (0, vec![group.servers[0].port()]);
    let mut interregna: Vec<Interregnum> = Vec::new();
    let mut back = None;
    let forth = under_load_of("forth", &kioskds[0], 3, || {
        back = Some(under_load_of("back", &kioskds[1], 3, || {
            for (leader, dies) in [
                (0, Dies::Other),
                (0, Dies::Herald),
                (2, Dies::LeaderAtTheNews),
                (2, Dies::MasterAndHerald),
                (0, Dies::LeaderAtTheStart),
                (2, Dies::LeaderAtThePromotion),
            ] {
                if dies == Dies::Other {
                    group.kill_sentinel(1);
                }
                let (switch, promotion) = (group.watch(), group.watch_for("+promoted-slave"));
                let begun = Instant::now();
                let news = match dies {
                    Dies::Other | Dies::Herald | Dies::LeaderAtTheNews => {
                        Some(group.fail_over(leader, &switch))
                    }
                    Dies::MasterAndHerald => {
                        group.be_hasty(true);
                        group.servers[master].kill();
                        // On a busy machine they may not come to an agreement for minutes.
                        let news = switch.soon();
                        let news = news.unwrap_or_else(|| group.fail_over(leader, &switch));
                        group.be_hasty(false);
                        Some(news)
                    }
                    Dies::LeaderAtThePromotion => {
                        group.fail_over(leader, &promotion);
                        None
                    }
                    Dies::LeaderAtTheStart => {
                        group.begin_failover(leader);
                        None
                    }
                };
                let victim = match (&dies, &news) {
                    (Dies::Other, _) => 1,
                    (Dies::Herald | Dies::MasterAndHerald, Some(news)) => news.sentinel,
                    _ => leader,
                };
                group.kill_sentinel(victim);
                if let Some(news) = news {
                    reigns.push(news.new_port());
                    kioskds.iter().for_each(|kioskd| followed(kioskd, &reigns));
                    interregna.push((begun, Instant::now()));
                    group.restart_sentinel(victim);
                    if dies == Dies::MasterAndHerald {
                        group.servers[master].restart();
                    }
                    master = group.server_on(news.new_port());
                    group.settle(master);
                    continue;
                }
                // Whatever comes of it. One that has made a master stays away: it would disturb the others with what only
                // it knows. (Two of three have to be there: to one kioskd would not go back, though its master be none.)
                master = group.settle_on_any();
                if dies == Dies::LeaderAtTheStart {
                    group.restart_sentinel(victim);
                    group.settle(master);
                }
                let port = group.servers[master].port();
                for kioskd in &kioskds {
                    eventually("the master that is left to be followed", || {
                        masters(kioskd).last() == Some(&port)
                    });
                    recovered(kioskd);
                }
                interregna.push((begun, Instant::now()));
                some_load();
                assert_eq!(group.settle_on_any(), master, "nothing happens any more");
            }
        }));
    });
    let master = group.settle_on_any();
    for (kioskd, journal) in kioskds.iter().zip([forth, back.expect("set")]) {
        journal_line(&journal);
        let followed = masters(kioskd);
        println!("{followed:?}, should begin {reigns:?}");
        let lost = assert_kept(&group.servers[master], &journal, |op| is_within(op, &interregna));
        println!("{lost} writes lost by Redis");
        assert!(followed.starts_with(&reigns), "{}", kioskd.log());
    }
}

/// What is left of a group whose members were set up at different times: three sentinels, three masters, one name, and
/// the epoch that all begin with. Of 120 acknowledged writes, 105 were scattered over the two servers that were not the
/// last one asked.
#[test]
fn sentinels_that_name_three_masters_do_not_scatter_the_data() {
    let mut group = Sentinels::start_apart(3, [0, 1, 2]);
    let ports: Vec<u16> = group.servers.iter().map(Redis::port).collect();
    let kioskds = there_and_back(&group, "");
    let warnings = |kioskd: &Kioskd| kioskd.log().matches("under one epoch").count();
    let on_both = |during: &mut dyn FnMut()| {
        let mut back = None;
        let forth = under_load_of("forth", &kioskds[0], 3, || {
            back = Some(under_load_of("back", &kioskds[1], 3, &mut *during));
        });
        [forth, back.expect("set")]
    };
    let journals = on_both(&mut || {
        some_load();
        // Nor does it matter which of them is there.
        for n in 0..3 {
            group.kill_sentinel(n);
            some_load();
            group.restart_sentinel(n);
        }
    });
    for ((kioskd, journal), server) in kioskds.iter().zip(&journals).zip([0, 2]) {
        journal_line(journal);
        assert_eq!(assert_kept(&group.servers[server], journal, |_| false), 0);
        // The first in its list.
        assert_masters(kioskd, &[ports[server]]);
        eventually("to be warned of it", || warnings(kioskd) > 0);
        assert_eq!(warnings(kioskd), 1, "{}", kioskd.log());
        let errors: Vec<&Op> = journal.errors().collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert_eq!(group.servers[1].command(&["DBSIZE"]), "0");

    // When it dies they go to another that is named, and stay there.
    group.servers[0].kill();
    eventually("the next master", || kioskds[0].connect().post("/items?id=1", "{}").status == 201);
    let next = group.servers[1].command(&["EXISTS", "item:1"]);
    group.servers[0].restart();
    let journals = on_both(&mut || (0..2).for_each(|_| some_load()));
    eventually("the log to say so", || masters(&kioskds[0]).len() > 1);
    let now = masters(&kioskds[0]);
    assert_eq!(now.len(), 2, "{now:?}");
    let place = group.server_on(now[1]);
    assert_eq!((place, &*next), (1, "1"));
    assert_eq!(assert_kept(&group.servers[place], &journals[0], |_| false), 0);
    assert_eq!(group.servers[0].command(&["DBSIZE"]), "0");
}

/// It does not matter where in the list the odd one is, nor which of them is heard first.
#[test]
fn sentinels_that_disagree_at_the_start_are_outvoted() {
    let group = Sentinels::start_apart(2, [0, 1, 1]);
    for (turn, front) in (0..3).zip(["poll", "tiny_http", "poll"]) {
        let mut list = group.addresses();
        // Named more than once, the first has one vote all the same.
        list.extend([list[0].clone(), list[0].clone()]);
        list.rotate_left(turn);
        let url = format!("redis+sentinel://{}/kiosk", list.join(","));
        let kioskd = Kioskd::start(&[("REDIS_URL", &*url), ("WORKERS", "2"), ("FRONT", front)]);
        for n in 0..6 {
            let reply = kioskd.connect().post(&format!("/items/{turn}-{n}"), "{}");
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let port = group.servers[1].port();
        // Of each worker.
        assert_masters(&kioskd, &[port, port]);
    }
    assert_eq!(group.servers[0].command(&["DBSIZE"]), "0");
    assert_eq!(group.servers[1].command(&["DBSIZE"]), "18");
}

/// Each sentinel of the URL but one is of no use, in the ways that happen.
#[test]
fn one_sentinel_that_knows_is_enough() {
    let group = Sentinels::start();
    // Frozen: takes the connection and says nothing.
    group.signal_sentinel(1, "STOP");
    let silent = &group.addresses()[1];
    let real = &group.addresses()[0];
    let garbage = FakeRedis::start(|_| Act::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    let no = b"-ERR No such master with that name\r\n".to_vec();
    let ignorant = sentinel((no, b"*-1\r\n".to_vec()), SUBSCRIBED);
    let plain = Redis::start();
    let nobody = Port::take();
    let dead = nobody.addr();
    for others in [
        vec![dead.clone()],
        vec![garbage.addr()],
        vec![ignorant.addr()],
        // A data server in place of a sentinel.
        vec![plain.addr()],
        vec![silent.clone()],
        vec![dead, garbage.addr(), ignorant.addr(), plain.addr(), silent.clone()],
    ] {
        for protocol in [2, 3] {
            let seeds = others.join(",");
            let url = format!("redis+sentinel://{seeds},{real}/kiosk?protocol={protocol}");
            let kioskd = start(&url);
            let reply = kioskd.connect().post("/items?id=1", "{}");
            assert_eq!(reply.status, 201, "{url}: {reply:?}\n{}", kioskd.log());
        }
    }
    assert_eq!(plain.command(&["DBSIZE"]), "0");
}

#[test]
fn a_master_that_nobody_knows_is_an_error_and_no_wait() {
    let group = Sentinels::start();
    let url = group.url().replace("/kiosk", "/kisok");
    let mut kioskd = start(&url);
    let mut client = kioskd.connect();
    eventually("requests to be turned away at once", || {
        let start = Instant::now();
        let reply = client.post("/items?id=1", "{}");
        assert_eq!(reply.status / 100, 5, "{reply:?}");
        reply.status == 502 && start.elapsed() < Duration::from_secs(1)
    });
    kioskd.wait_for_log("kisok");
}

/// Sentinels that lag behind name a server that is a replica now. It would refuse writes, but answer reads with what it
/// happens to have.
#[test]
fn a_replica_is_not_taken_for_the_master() {
    let group = Sentinels::start();
    group.servers[0].command(&["SET", "item:1", "{}"]);
    eventually("the replica to have it", || group.servers[1].command(&["GET", "item:1"]) == "{}");
    for protocol in [2, 3] {
        let liar = naming(group.servers[1].port());
        let url = format!("redis+sentinel://{}/kiosk?protocol={protocol}", liar.addr());
        let kioskd = start(&url);
        let mut client = kioskd.connect();
        for reply in [client.get("/items?id=1"), client.post("/items?id=2", "{}")] {
            assert!(matches!(reply.status, 502..=504), "{reply:?}");
        }
        assert!(kioskd.log().contains("not a master"), "{}", kioskd.log());
        // The sentinel hears of it.
        let now = naming(group.servers[0].port());
        let url = format!("redis+sentinel://{},{}/kiosk", liar.addr(), now.addr());
        drop(kioskd);
        let kioskd = start(&url);
        // Of one age, and one of them is wrong: what it names is given up for what the other names.
        let mut client = kioskd.connect();
        eventually("the master", || {
            let reply = client.get("/items?id=1");
            assert!(matches!(reply.status, 200 | 502..=504), "{reply:?}");
            reply.status == 200
        });
    }
}

/// A user of the sentinels may be allowed to ask and not to listen. Then asking has to do.
#[test]
fn a_sentinel_that_forbids_subscribing_is_asked_all_the_same() {
    let redis = Redis::start();
    let answer = master_at("127.0.0.1", redis.port());
    let fake = sentinel(answer, b"-NOPERM this user has no permissions to run 'subscribe'\r\n");
    let kioskd = start(&format!("redis+sentinel://{}/kiosk", fake.addr()));
    let count = |name: &str| fake.commands().iter().filter(|c| c[0] == name).count();
    assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
    eventually("the next rounds of questions", || count("SENTINEL") >= 3);
    assert_eq!((count("HELLO"), count("SUBSCRIBE")), (1, 1), "{}", kioskd.log());
}

/// They were two masters, in turn: eleven connections in twelve seconds.
#[test]
fn a_name_and_an_address_are_no_reason_to_reconnect() {
    let redis = Redis::start();
    let one = naming(redis.port());
    let other = sentinel(master_at("localhost", redis.port()), SUBSCRIBED);
    for (first, second) in [(&one, &other), (&other, &one)] {
        let url = format!("redis+sentinel://{},{}/kiosk", first.addr(), second.addr());
        let kioskd = start(&url);
        assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
        let asked =
            || [first, second].map(|s| s.commands().iter().filter(|c| c[0] == "SENTINEL").count());
        let before = asked();
        eventually("a few more rounds", || {
            asked().iter().zip(before).all(|(now, before)| *now >= before + 3)
        });
        assert_masters(&kioskd, &[redis.port()]);
    }
}

/// Or to ask for the address and no more.
#[test]
fn a_sentinel_that_tells_no_more_than_the_address_is_believed() {
    let redis = Redis::start();
    let port = redis.port().to_string();
    let address = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
    let fake = FakeRedis::start(move |command| match &*command[0] {
        "SENTINEL" if command[1] == "GET-MASTER-ADDR-BY-NAME" => {
            Act::Send(address.clone().into_bytes())
        }
        "SENTINEL" => Act::Send(b"-NOPERM this user has no permissions\r\n".to_vec()),
        "SUBSCRIBE" => Act::Send(SUBSCRIBED.to_vec()),
        _ => Act::Usual,
    });
    let kioskd = start(&format!("redis+sentinel://{}/kiosk", fake.addr()));
    assert_eq!(kioskd.connect().post("/items?id=1", "{}").status, 201);
}

/// The URL names one, and that one dies. The others go on without it, and so does kioskd.
#[test]
fn sentinels_that_the_url_does_not_name_are_asked_when_its_own_have_gone() {
    let mut group = Sentinels::start_with_replicas(1);
    let url = format!("redis+sentinel://{}/kiosk", group.addresses()[0]);
    let kioskds = [("poll", "2"), ("tiny_http", "3")].map(|(front, protocol)| {
        let url = format!("{url}?protocol={protocol}");
        Kioskd::start(&[("REDIS_URL", &*url), ("WORKERS", "1"), ("FRONT", front)])
    });
    kioskds.iter().for_each(recovered);
    group.kill_sentinel(0);
    let switch = group.watch();
    let port = group.fail_over(1, &switch).new_port();
    let reigns = [group.servers[0].port(), port];
    for (n, kioskd) in kioskds.iter().enumerate() {
        let (mut client, path) = (kioskd.connect(), format!("/items/{n}"));
        // The plain front looks around only while it is asked.
        eventually("the new master", || {
            client.post(&path, "{}").status == 201 && masters(kioskd) == reigns
        });
        assert_eq!(client.post(&path, "{}").status, 201);
        let there = group.servers[1].command(&["EXISTS", &format!("item:{n}")]);
        assert_eq!(there, "1");
        assert_masters(kioskd, &reigns);
    }
}

/// Those that it names were silent for a while, and are back: here the same ones, which now have two names.
#[test]
fn sentinels_that_the_url_does_not_name_are_left_when_its_own_are_back() {
    let group = Sentinels::start();
    let url = group.url().replace("127.0.0.1", "localhost");
    let kioskd = Kioskd::start(&[("REDIS_URL", &*url), ("WORKERS", "1")]);
    recovered(&kioskd);
    let joins = |n| kioskd.log().contains(&format!("redis 127.0.0.1:{}: ", group.port(n)));
    (0..3).for_each(|n| group.signal_sentinel(n, "STOP"));
    eventually("the others to be asked", || (0..3).any(joins));
    (0..3).for_each(|n| group.signal_sentinel(n, "CONT"));
    let connected = |n| format!("redis localhost:{}: connected", group.port(n));
    let is_back = |n| kioskd.log().matches(&connected(n)).count() > 1;
    eventually("its own to be back", || (0..3).all(is_back));
    let connections = |n| group.ask(n, &["CLIENT", "LIST"]).matches("name=kioskd").count();
    eventually("only its own to be asked", || [0, 1, 2].map(connections) == [1; 3]);
}

/// And it is not hammered with questions that nobody answers.
#[test]
fn without_sentinels_the_present_master_stays_in_use() {
    let mut group = Sentinels::start();
    let kioskd = start(&group.url());
    let mut client = kioskd.connect();
    assert_eq!(client.post("/items?id=1", "{}").status, 201);
    for n in 0..3 {
        group.kill_sentinel(n);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let connects: Vec<_> = (0..3).map(|n| count(group.port(n), &stop)).collect();
    let start = Instant::now();
    let (mut asked, time) = (0, Duration::from_secs(4));
    while start.elapsed() < time {
        assert_eq!(client.post("/items?id=2", "{}").status, 201);
        assert_eq!(client.get("/items?id=1").status, 200);
        asked += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let connects: Vec<usize> = connects.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    println!("{connects:?} connects in {time:?}, {asked} writes");
    // One worker. Waits double up to a second, with full jitter: about two a second, and some at the start.
    assert!(connects.iter().all(|n| (1..40).contains(n)), "{connects:?}");
}

/// The data has one password, the sentinels another, and neither is told the other's.
#[test]
fn sentinels_and_servers_have_passwords_of_their_own() {
    let group = Sentinels::start_with_passwords(Some("of-data"), Some("of-sentinels"));
    let dir = temp_dir();
    let file = dir.join("sentinels");
    std::fs::write(&file, "of-sentinels\n").expect("our own directory");
    let seeds = group.addresses().join(",");
    for protocol in [2, 3] {
        let options = format!("protocol={protocol}&sentinel_password_file={}", file.display());
        let kioskd = start(&format!("redis+sentinel://:of-data@{seeds}/kiosk?{options}"));
        let reply = kioskd.connect().post("/items?id=1", "{}");
        assert_eq!(reply.status, 201, "{reply:?}\n{}", kioskd.log());

        let kioskd = start(&format!("redis+sentinel://:of-data@{seeds}/kiosk?protocol={protocol}"));
        let mut client = kioskd.connect();
        eventually("to be told that it is the password", || {
            let reply = client.post("/items?id=1", "{}");
            assert_ne!(reply.status, 201);
            reply.status == 502 && reply.problem().0 == "store_error"
        });

        let kioskd = start(&format!("redis+sentinel://:wrong@{seeds}/kiosk?{options}"));
        let reply = kioskd.connect().post("/items?id=1", "{}");
        assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
    }
    let _ = std::fs::remove_dir_all(dir);
}

// ---- Helpers ----------------------------------------------------------------------------------

/// From the beginning of a failover until kioskd is known to follow the new master. What is acknowledged in it may be
/// lost by Redis.
type Interregnum = (Instant, Instant);

fn is_within(op: &Op, interregna: &[Interregnum]) -> bool {
    // What was acknowledged just before a master died may not have been on its replicas.
    let margin = Duration::from_millis(500);
    let mut any = interregna.iter();
    any.any(|(begun, followed)| op.at < *followed && op.at + op.took + margin > *begun)
}

/// The port of each master that kioskd has followed, in order.
fn masters(kioskd: &Kioskd) -> Vec<u16> {
    let log = kioskd.log();
    let address = |line: &str| {
        let (_, address) = line.split_once("the master of \"kiosk\" is ")?;
        address.trim().rsplit_once(':')?.1.parse().ok()
    };
    log.lines().filter_map(address).collect()
}

/// Exactly these. What is logged is on its way when a request is answered.
#[track_caller]
fn assert_masters(kioskd: &Kioskd, wanted: &[u16]) {
    eventually("the log to say whom it follows", || masters(kioskd).len() >= wanted.len());
    assert_eq!(masters(kioskd), wanted, "{}", kioskd.log());
}

/// Two, on one front each. The sentinel that is first for one of them is the last for the other.
fn there_and_back(group: &Sentinels, options_of_the_second: &str) -> [Kioskd; 2] {
    let there = group.addresses();
    let back: Vec<String> = there.iter().rev().cloned().collect();
    [(there, "", "poll"), (back, options_of_the_second, "tiny_http")].map(
        |(list, options, front)| {
            let url = format!("redis+sentinel://{}/kiosk{options}", list.join(","));
            Kioskd::start(&[("REDIS_URL", &*url), ("WORKERS", "1"), ("FRONT", front)])
        },
    )
}

/// Waits until it has followed all these masters.
#[track_caller]
fn followed(kioskd: &Kioskd, reigns: &[u16]) {
    eventually("the new master to be followed", || {
        let followed = masters(kioskd);
        followed.len() >= reigns.len() && followed.contains(&reigns[reigns.len() - 1])
    });
}

fn start(url: &str) -> Kioskd {
    Kioskd::start(&[("REDIS_URL", url), ("WORKERS", "1")])
}

/// Long enough for a few hundred requests.
fn some_load() {
    std::thread::sleep(Duration::from_secs(1));
}

#[track_caller]
fn recovered(kioskd: &Kioskd) {
    eventually("kioskd to be ready again", || kioskd.connect().get("/readyz").status == 200);
}

#[track_caller]
fn assert_writes_soon_after(journal: &Journal, switched: Instant) {
    journal_line(journal);
    let first = journal
        .acknowledged()
        .map(|op| op.at + op.took)
        .find(|done| *done > switched)
        .expect("writes after the switch");
    println!("the first write {:?} after +switch-master", first - switched);
    assert!(first - switched < SOON, "{:?}", first - switched);
}

fn journal_line(journal: &Journal) {
    println!("{}", journal.summary());
}

/// Every acknowledged write is in the new master, but those that `may_be_lost`. Returns how many those were.
#[track_caller]
fn assert_kept(master: &Redis, journal: &Journal, may_be_lost: impl Fn(&Op) -> bool) -> usize {
    let there: std::collections::HashSet<String> =
        master.command(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    let lost: Vec<&Op> =
        journal.acknowledged().filter(|op| !there.contains(&format!("item:{}", op.id))).collect();
    let wrong: Vec<&&Op> = lost.iter().filter(|op| !may_be_lost(op)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} acknowledged by whom? {:?}",
        wrong.len(),
        journal.acknowledged().count(),
        &wrong[..wrong.len().min(5)]
    );
    lost.len()
}

/// What Redis has kept, kioskd reads.
#[track_caller]
fn assert_readable(kioskd: &Kioskd, master: &Redis, journal: &Journal) {
    let mut client = kioskd.connect();
    for op in journal.acknowledged() {
        let reply = client.get(&format!("/items/{}", op.id));
        let kept = master.command(&["GET", &format!("item:{}", op.id)]);
        match kept.is_empty() {
            true => assert_eq!(reply.status, 404, "{reply:?}"),
            false => assert_eq!((reply.status, reply.text()), (200, kept)),
        }
    }
}

/// A sentinel that names this port.
fn naming(port: u16) -> FakeRedis {
    sentinel(master_at("127.0.0.1", port), SUBSCRIBED)
}

/// What SENTINEL MASTER and GET-MASTER-ADDR-BY-NAME answer.
fn master_at(host: &str, port: u16) -> (Vec<u8>, Vec<u8>) {
    let port = port.to_string();
    let array = |words: &[&str]| {
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!("*{}\r\n{}", words.len(), bulks.collect::<String>()).into_bytes()
    };
    (array(&["ip", host, "port", &port, "flags", "master"]), array(&[host, &port]))
}

/// In RESP3 SUBSCRIBE is answered by a push.
const SUBSCRIBED: &[u8] = b">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n";

/// A sentinel with these answers to what it is asked of the master, and to SUBSCRIBE.
fn sentinel((master, address): (Vec<u8>, Vec<u8>), subscribe: &'static [u8]) -> FakeRedis {
    FakeRedis::start(move |command| match &*command[0] {
        "SENTINEL" if command[1] == "GET-MASTER-ADDR-BY-NAME" => Act::Send(address.clone()),
        "SENTINEL" => Act::Send(master.clone()),
        "SUBSCRIBE" => Act::Send(subscribe.to_vec()),
        _ => Act::Usual,
    })
}

/// Takes a port and counts who comes, until `stop`.
fn count(port: u16, stop: &Arc<AtomicBool>) -> Arc<AtomicUsize> {
    let (seen, stop) = (Arc::new(AtomicUsize::new(0)), Arc::clone(stop));
    let counter = Arc::clone(&seen);
    let mut listener = None;
    eventually("the dead sentinel's port", || {
        listener = TcpListener::bind(("127.0.0.1", port)).ok();
        listener.is_some()
    });
    let listener = listener.expect("eventually() returns when it is there");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            drop(stream);
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    seen
}
