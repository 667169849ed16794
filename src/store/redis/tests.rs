//! A session over a fake world: the commands it sends, its answers to replies, and what it sends again.

use super::*;
use crate::net::{Address, Found};
use crate::resp::endpoint::Endpoint;
use crate::resp::fake::{Fake, addresses};
use crate::store::{self, Key};

const MS: Duration = Duration::from_millis(1);
const HELLO: &str = "%2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";

/// A session, its world, and the outcomes of its commands.
struct Rig {
    world: Fake,
    session: Box<dyn Session>,
    done: Vec<(Tag, String)>,
}

impl Rig {
    fn new(host: &str, options: Options) -> Rig {
        Rig::over(Fake::new(), host, options)
    }

    fn over(mut world: Fake, host: &str, options: Options) -> Rig {
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port: 6379 };
        let now = world.now;
        let session = Redis::new(Target::Single(endpoint), options).session(&mut world, now);
        Rig { world, session, done: Vec::new() }
    }

    /// A rig whose session has signed on with one server.
    fn up() -> Rig {
        let mut rig = Rig::new("127.0.0.1", Options::default());
        rig.turn();
        rig.sign_on();
        rig
    }

    fn sign_on(&mut self) {
        self.turn();
        assert!(self.world.heard().starts_with("*4\r\n$5\r\nHELLO\r\n"));
        self.world.say(HELLO);
        self.turn();
        assert_eq!(self.world.heard(), "*1\r\n$4\r\nPING\r\n");
        self.world.say("+PONG\r\n");
        self.turn();
    }

    /// One tick of the worker.
    fn turn(&mut self) {
        for ready in self.world.take_ready() {
            assert_eq!(ready.owner, OWNER);
            self.session.ready(ready);
        }
        let now = self.world.now;
        let replies = self.session.progress(&mut self.world, now);
        for (tag, reply) in replies.iter() {
            self.done.push((tag, show(&reply)));
        }
        self.session.give_back(replies);
    }

    fn later(&mut self, wait: Duration) {
        self.world.now += wait;
        self.turn();
    }

    fn submit(&mut self, tag: Tag, command: Command<'_>) {
        let now = self.world.now;
        self.session.submit(now, tag, command);
    }

    fn get(&mut self, tag: Tag) {
        let id = tag.to_string().into_bytes();
        self.submit(tag, Command::Get { key: key(&id), renew: None, once: None });
    }

    fn set(&mut self, tag: Tag, value: &[u8], when: When<'_>) {
        let (id, value) = (tag.to_string().into_bytes(), value.into());
        let ttl = Ttl::Exactly(Duration::from_secs(60));
        self.submit(tag, Command::Set { key: key(&id), value, ttl, when, once: None });
    }

    fn abandon(&mut self, tag: Tag) -> StoreError {
        self.session.abandon(self.world.now, tag)
    }

    fn done(&mut self) -> Vec<(Tag, String)> {
        std::mem::take(&mut self.done)
    }
}

fn key(id: &[u8]) -> Key<'_> {
    Key { prefix: "item:", id: id.into() }
}

fn show(reply: &store::Reply<'_>) -> String {
    match reply {
        Ok(Answer::Value(Some(value))) => String::from_utf8_lossy(value).into_owned(),
        Ok(Answer::Recorded(record)) => format!("recorded {}", String::from_utf8_lossy(record)),
        Ok(answer) => format!("{answer:?}"),
        Err(e) => format!("error: {e}"),
    }
}

fn get_words(tag: Tag) -> String {
    let key = format!("item:{tag}");
    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())
}

fn one(tag: Tag, shown: &str) -> Vec<(Tag, String)> {
    vec![(tag, shown.to_owned())]
}

#[test]
fn a_get_and_a_set_are_asked_and_answered() {
    let mut rig = Rig::up();
    (1..4).for_each(|tag| rig.get(tag));
    rig.set(4, b"{}", When::Always);
    rig.set(5, b"{}", When::Absent);
    rig.turn();
    let set = |tag, nx: &str, n| {
        format!(
            "*{n}\r\n$3\r\nSET\r\n$6\r\nitem:{tag}\r\n$2\r\n{{}}\r\n$2\r\nEX\r\n$2\r\n60\r\n{nx}"
        )
    };
    let words = [1, 2, 3].map(get_words).concat() + &set(4, "", 5) + &set(5, "$2\r\nNX\r\n", 6);
    assert_eq!(rig.world.heard(), words);
    rig.world.say("$5\r\nhello\r\n_\r\n$0\r\n\r\n+OK\r\n_\r\n");
    rig.turn();
    let shown = [(1, "hello"), (2, "Value(None)"), (3, ""), (4, "Stored"), (5, "Unmet")];
    assert_eq!(rig.done(), shown.map(|(tag, shown)| (tag, shown.to_owned())));
    // Nothing is to be done until the connection has been idle for a while.
    assert_eq!(rig.session.next_deadline(), Some(rig.world.now + 5000 * MS));
}

#[test]
fn what_is_submitted_before_there_is_a_connection_waits_for_it() {
    let mut rig = Rig::new("127.0.0.1", Options::default());
    rig.get(1);
    rig.turn();
    rig.sign_on();
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(1));
}

#[test]
fn signing_on_may_take_as_long_as_connecting_and_a_second_at_least() {
    for (connect, most) in [(100, 1000), (3000, 3000)] {
        let connect_timeout = connect * MS;
        let options = Options { connect_timeout, ..Options::default() };
        let mut rig = Rig::new("127.0.0.1", options);
        rig.turn();
        rig.later((most - 1) * MS);
        assert!(rig.world.heard().contains("HELLO") && !rig.world.last().closed, "{connect}");
        rig.later(MS);
        assert!(rig.world.last().closed, "{connect}");
    }
}

/// A read that ends its connection, by a value that a proxy does not like perhaps, ends what others have there as well.
#[test]
fn a_read_is_sent_three_times_and_no_more() {
    let mut rig = Rig::up();
    rig.get(1);
    for time in 1..=3 {
        rig.turn();
        assert_eq!(rig.world.heard(), get_words(1));
        rig.world.hang_up(false);
        rig.turn();
        assert_eq!(rig.done.is_empty(), time < 3, "{time}");
        rig.later(200 * MS);
        rig.sign_on();
    }
    assert_eq!(rig.world.heard(), "");
    let done = rig.done();
    assert!(done.len() == 1 && done[0].1.contains("connection broke"), "{done:?}");
}

const ROLE: &str = "*1\r\n$4\r\nROLE\r\n";

/// A firewall that forgets an idle connection does not say so. Found by the simulation.
#[test]
fn an_idle_connection_is_asked_whether_the_server_is_there() {
    let mut rig = Rig::up();
    for _ in 0..3 {
        assert_eq!(rig.session.next_deadline(), Some(rig.world.now + 5000 * MS));
        rig.later(4999 * MS);
        assert_eq!(rig.world.heard(), "");
        rig.later(MS);
        assert_eq!(rig.world.heard(), ROLE);
        rig.world.say("*1\r\n$6\r\nmaster\r\n");
        rig.turn();
    }
    rig.later(5000 * MS);
    assert_eq!(rig.world.heard(), ROLE);
    // The server is gone: there is a new connection before anybody asks for something.
    rig.later(2000 * MS);
    rig.later(100 * MS);
    assert_eq!(rig.world.sockets.len(), 2);
    rig.sign_on();
    rig.get(2);
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(2));
}

/// It is the server's silence that counts, not that of a process that stands still between two steps.
#[test]
fn a_command_that_was_not_sent_before_a_standstill_is_not_unanswered() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.later(10_000 * MS);
    rig.turn();
    assert!(!rig.world.last().closed && rig.world.heard().contains("GET"));
    rig.world.say("$1\r\n1\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(1, "1"));
}

/// Nor that of one which stands still in the middle of a command; but a server that takes half of one and no more is as
/// silent as any.
#[test]
fn a_command_that_was_half_sent_before_a_standstill_is_not_unanswered() {
    for takes_the_rest in [true, false] {
        let mut rig = Rig::up();
        rig.world.give_room(Some(10));
        rig.get(1);
        rig.turn();
        assert_eq!(rig.world.heard(), get_words(1)[..10]);
        rig.world.now += 10_000 * MS;
        if takes_the_rest {
            rig.world.give_room(None);
        }
        rig.turn();
        assert_eq!(rig.world.sockets[0].closed, !takes_the_rest);
        if takes_the_rest {
            assert_eq!(rig.world.heard(), format!("{}{ROLE}", &get_words(1)[10..]));
            rig.world.say("$1\r\n1\r\n");
            rig.turn();
            assert_eq!(rig.done(), one(1, "1"));
        }
    }
}

/// The leak of 2023: the reply to an abandoned request must not go to another.
#[test]
fn the_reply_to_an_abandoned_request_is_dropped_in_its_turn() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.get(2);
    rig.turn();
    assert_eq!(rig.abandon(1), StoreError::Timeout);
    // The same place, another generation.
    let again = 1 | 1 << 32;
    rig.get(again);
    assert_eq!(rig.abandon(1), StoreError::Timeout, "of what is forgotten no more is known");
    rig.turn();
    rig.world.say("$3\r\none\r\n$3\r\ntwo\r\n$5\r\nagain\r\n");
    rig.turn();
    assert_eq!(rig.done(), [(2, "two".to_owned()), (again, "again".to_owned())]);
}

#[test]
fn an_abandoned_request_says_what_it_waited_for() {
    let mut rig = Rig::new("127.0.0.1", Options::default());
    rig.world.refusing.push("127.0.0.1:6379".parse().unwrap());
    rig.get(1);
    rig.turn();
    rig.turn();
    assert!(matches!(rig.abandon(1), StoreError::Unreachable(why) if why.contains("refused")));
    // And after a while no command waits for it.
    for _ in 0..20 {
        rig.later(100 * MS);
    }
    rig.get(2);
    rig.turn();
    let done = rig.done();
    assert!(done[0].1.contains("cannot be reached: connection refused"), "{done:?}");
    assert_eq!(rig.abandon(2), StoreError::Timeout);
}

#[test]
fn a_refused_request_is_asked_again_and_says_what_it_was_refused_with() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.set(2, b"{}", When::Unchanged(b"[]".into()));
    rig.turn();
    let said = rig.world.heard();
    rig.world.say("-LOADING Redis is loading\r\n-LOADING Redis is loading\r\n");
    rig.turn();
    assert_eq!((rig.done(), rig.world.heard()), (vec![], String::new()));
    // Sent again word for word, though the buffer has moved on meanwhile.
    rig.later(300 * MS);
    let again = rig.world.heard();
    assert_eq!(again.len(), said.len());
    assert!(again.contains(&get_words(1)) && said.contains(&again.replace(&get_words(1), "")));
    let loading = StoreError::Unavailable("LOADING Redis is loading".to_owned());
    assert_eq!(rig.abandon(1), loading);
    assert_eq!(rig.abandon(2), StoreError::Timeout, "it may have run");
    rig.get(3);
    rig.world.say("-LOADING Redis is loading\r\n-LOADING Redis is loading\r\n");
    rig.turn();
    rig.world.say("$1\r\n3\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(3, "3"));
}

#[test]
fn a_write_that_waits_for_another_try_is_known_not_to_have_run() {
    let mut rig = Rig::up();
    rig.set(1, b"{}", When::Always);
    rig.turn();
    rig.world.say("-LOADING Redis is loading\r\n");
    rig.turn();
    assert!(matches!(rig.abandon(1), StoreError::Unavailable(_)));
    rig.later(300 * MS);
    assert_eq!(rig.world.heard().matches("SET").count(), 1, "and is not tried again");
}

#[test]
fn a_script_that_is_not_known_is_sent_as_text_with_the_same_words() {
    let mut rig = Rig::up();
    rig.set(7, b"new", When::Unchanged(b"old".into()));
    rig.turn();
    let by_name = rig.world.heard();
    let words = by_name.split_once(scripts::SET.sha).unwrap().1;
    assert!(words.contains("$6\r\nitem:7\r\n$4\r\nsame\r\n$3\r\nold\r\n$3\r\nnew\r\n"));
    rig.world.say("-NOSCRIPT No matching script. Please use EVAL.\r\n");
    rig.turn();
    let as_text = rig.world.heard();
    assert!(as_text.contains("$4\r\nEVAL\r\n") && as_text.ends_with(words), "{as_text}");
    rig.world.say(":1\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(7, "Stored"));
}

#[test]
fn of_a_lost_connection_reads_and_what_was_not_sent_go_to_the_next() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.set(2, b"a", When::Always);
    rig.turn();
    assert_eq!(rig.world.heard().matches("item:").count(), 2);
    rig.world.last().room = Some(10);
    rig.set(3, b"b", When::Always);
    rig.turn();
    assert_eq!(rig.world.heard().len(), 10);
    rig.world.hang_up(false);
    rig.turn();
    let done = rig.done();
    assert!(done.len() == 1 && done[0].0 == 2 && done[0].1.contains("broke"), "{done:?}");
    rig.later(900 * MS);
    rig.sign_on();
    rig.turn();
    let said = rig.world.heard();
    assert!(
        said.starts_with(&get_words(1)) && said.ends_with("$1\r\nb\r\n$2\r\nEX\r\n$2\r\n60\r\n")
    );
    rig.world.say("$1\r\n1\r\n+OK\r\n");
    rig.turn();
    assert_eq!(rig.done(), [(1, "1".to_owned()), (3, "Stored".to_owned())]);
}

/// Of two deadlines that pass in one tick, the connection's and the request's, none makes the request go out again.
#[test]
fn nothing_is_sent_at_its_deadline_or_behind_it() {
    let stall_timeout = 1000 * MS;
    let mut rig = Rig::new("127.0.0.1", Options { stall_timeout, ..Options::default() });
    rig.turn();
    rig.sign_on();
    rig.get(1);
    rig.set(2, b"a", When::Always);
    rig.turn();
    rig.world.last().room = Some(0);
    rig.set(3, b"b", When::Always);
    rig.turn();
    rig.later(1000 * MS);
    assert_eq!(rig.done(), one(2, "error: no answer in time"));
    assert_eq!(rig.abandon(1), StoreError::Timeout);
    assert!(matches!(rig.abandon(3), StoreError::Unreachable(_)), "it was not sent");
    rig.later(100 * MS);
    rig.sign_on();
    rig.turn();
    assert!(!rig.world.heard().contains("item:"));
}

#[test]
fn a_connection_is_looked_at_before_it_is_written_to() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.turn();
    rig.world.say("$1\r\n1\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(1, "1"));
    // The server has hung up, and no event reports it.
    rig.later(MS);
    rig.world.hang_up(false);
    rig.world.take_ready();
    rig.set(2, b"{}", When::Always);
    rig.turn();
    assert_eq!(rig.world.sockets[0].from_client, get_words(1).as_bytes(), "nothing was written");
    rig.later(100 * MS);
    rig.sign_on();
    rig.turn();
    assert!(rig.world.heard().contains("item:2"));
    // Nor are the bytes it has sent meanwhile a reply.
    rig.world.say("+OK\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(2, "Stored"));
    rig.later(MS);
    rig.world.say("$5\r\nstray\r\n");
    rig.world.take_ready();
    rig.get(3);
    rig.turn();
    assert_eq!(rig.done(), []);
    assert!(rig.world.last().closed);
}

#[test]
fn an_abandoned_bulk_says_what_its_parts_waited_for() {
    let mut rig = Rig::new("127.0.0.1", Options::default());
    rig.world.refusing.push("127.0.0.1:6379".parse().unwrap());
    let keys = vec![b"item:1".to_vec(), b"item:2".to_vec()];
    rig.submit(1, Command::GetMany { keys, bytes_max: 1000 });
    rig.turn();
    rig.turn();
    assert!(matches!(rig.abandon(1), StoreError::Unreachable(why) if why.contains("refused")));
}

#[test]
fn a_look_finds_replies_of_which_no_event_tells() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.turn();
    rig.world.say("$1\r\n1\r\n");
    rig.world.take_ready();
    rig.turn();
    assert_eq!(rig.done(), []);
    rig.session.look();
    rig.turn();
    assert_eq!(rig.done(), one(1, "1"));
}

#[test]
fn values_of_every_size_come_whole_however_they_are_cut() {
    for size in [0, 1, 9, 10, 16_370, 16_384, 20_000, 65_535, 100_000, 1_000_000] {
        for piece in [1, 7, 1000, 16_384, usize::MAX] {
            if size > 20_000 && piece < 1000 {
                continue;
            }
            let mut rig = Rig::up();
            rig.world.last().piece = Some(piece);
            let value: Vec<u8> = (0..size).map(|n| b'a' + (n % 23) as u8).collect();
            let value = String::from_utf8(value).unwrap();
            (1..4).for_each(|tag| rig.get(tag));
            rig.turn();
            let reply = format!("${size}\r\n{value}\r\n");
            rig.world.say(format!("{reply}$1\r\n2\r\n{reply}"));
            while rig.done.len() < 3 {
                rig.turn();
            }
            let done = rig.done();
            assert!(done[0].1 == value && done[1].1 == "2" && done[2].1 == value, "{size} {piece}");
        }
    }
}

#[test]
fn a_value_over_the_limit_is_read_past() {
    let mut rig = Rig::up();
    rig.get(1);
    rig.get(2);
    rig.turn();
    let size = Options::default().limits.value_bytes_max + 1;
    rig.world.say(format!("${size}\r\n{}\r\n$1\r\n2\r\n", "x".repeat(size)));
    while rig.done.len() < 2 {
        rig.turn();
    }
    let done = rig.done();
    assert!(done[0].1.contains("larger than any document") && done[1] == (2, "2".to_owned()));
}

#[test]
fn a_reply_that_was_not_asked_for_ends_the_connection() {
    for stray in ["$1\r\nx\r\n", "$5\r\nx", "$", "+OK\r\n", ":1\r\n"] {
        let mut rig = Rig::up();
        rig.world.say(stray);
        rig.turn();
        assert!(rig.world.last().closed, "{stray}");
    }
    for wrong in
        [":1\r\n", "+OK\r\n", "*0\r\n", "$2\r\nxxx\r\n", "$01\r\nx\r\n", "HTTP/1.1 400\r\n"]
    {
        let mut rig = Rig::up();
        rig.get(1);
        rig.turn();
        rig.world.say(wrong);
        rig.turn();
        assert!(rig.world.last().closed, "{wrong}");
        assert!(rig.done()[0].1.contains("broke"), "{wrong}");
    }
}

/// Goal: no answer goes to another command, whatever is cut, refused, abandoned or lost in between. Method: a server
/// that answers each GET with its key, and random faults.
#[test]
fn every_answer_is_that_of_its_own_command() {
    let mut rig = Rig::up();
    let (mut dice, mut under_way, mut asked) = (7u64, Vec::new(), String::new());
    let mut throw = |sides: u64| {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 33) % sides
    };
    let fits = |tag: Tag, shown: &str| {
        shown == format!("item:{tag}") || shown == "Stored" || shown.contains("BUSY")
    };
    let (mut answered, mut given_up, mut next) = (0, 0, 100);
    for _ in 0..20_000 {
        for _ in 0..throw(5) {
            // A place and a generation, so that places are used again.
            let tag = (next % 64) | (next << 32);
            next += 1;
            if throw(10) == 0 {
                rig.set(
                    tag,
                    "v".repeat(throw(60_000) as usize).as_bytes(),
                    When::Unchanged(b"x".into()),
                );
            } else {
                rig.get(tag);
            }
            under_way.push(tag);
        }
        if throw(20) == 0 && !under_way.is_empty() {
            let tag = under_way.swap_remove(throw(under_way.len() as u64) as usize);
            rig.abandon(tag);
            given_up += 1;
        }
        let piece = 1 + throw(200) as usize;
        rig.world.last().piece = Some(piece);
        let room = (throw(3) == 0).then_some(throw(5000) as usize);
        rig.world.give_room(room);
        rig.turn();
        asked.push_str(&rig.world.heard());
        // The server takes whole commands: words are lines, and every second one is text. It falls behind, so the
        // output grows.
        while let Some((command, length)) = command(&asked)
            && throw(4) > 0
        {
            let reply = match (throw(12), command[0].as_str()) {
                (0, _) => "-BUSY Redis is busy\r\n".to_owned(),
                (1, "EVALSHA") => "-NOSCRIPT No matching script.\r\n".to_owned(),
                (_, "GET") => format!("${}\r\n{}\r\n", command[1].len(), command[1]),
                _ => ":1\r\n".to_owned(),
            };
            rig.world.say(reply);
            asked.drain(..length);
        }
        rig.later(Duration::from_micros(100 * throw(100)));
        for (tag, shown) in rig.done() {
            let at = under_way.iter().position(|other| *other == tag);
            under_way.swap_remove(at.unwrap_or_else(|| panic!("{tag} was answered, {shown}")));
            assert!(fits(tag, &shown), "{tag}: {shown}");
            answered += 1;
        }
        if throw(500) == 0 {
            rig.world.hang_up(throw(2) == 0);
            asked.clear();
            rig.turn();
            for (tag, shown) in rig.done() {
                under_way.retain(|other| *other != tag);
                assert!(shown.contains("broke") || fits(tag, &shown), "{tag}: {shown}");
            }
            for _ in 0..100 {
                if rig.world.last().closed {
                    rig.later(10 * MS);
                }
            }
            rig.sign_on();
        }
    }
    assert!(answered > 20_000 && given_up > 500, "{answered} {given_up}");
}

/// The words of the first command and its length, once it is whole.
fn command(text: &str) -> Option<(Vec<String>, usize)> {
    let (head, mut rest) = text.strip_prefix('*')?.split_once("\r\n")?;
    let mut words = Vec::new();
    for _ in 0..head.parse().unwrap() {
        let (length, after) = rest.strip_prefix('$')?.split_once("\r\n")?;
        let length: usize = length.parse().unwrap();
        words.push(after.get(..length)?.to_owned());
        rest = after.get(length + 2..)?;
    }
    Some((words, text.len() - rest.len()))
}

#[test]
fn a_full_redis_is_asked_whether_it_was_done_before() {
    let mut rig = Rig::up();
    let once = Once {
        name: b":k".into(),
        fingerprint: [b'f'; 32],
        ttl: Duration::from_secs(9),
        keeps_value: false,
    };
    for (reply, shown) in [
        ("*2\r\n:1\r\n$3\r\nrec\r\n", "recorded rec"),
        ("*2\r\n:0\r\n$1\r\nx\r\n", "error: cannot serve now: OOM command not allowed"),
    ] {
        rig.submit(
            9,
            Command::Set {
                key: key(b"9"),
                value: b"v".into(),
                ttl: Ttl::Keep,
                when: When::Always,
                once: Some(Box::new(once.clone())),
            },
        );
        rig.turn();
        assert!(rig.world.heard().contains(scripts::SET.sha));
        rig.world.say("-OOM command not allowed\r\n");
        rig.turn();
        assert!(rig.world.heard().contains(scripts::LOOK.sha));
        rig.world.say(reply);
        rig.turn();
        assert_eq!(rig.done(), one(9, shown));
    }
}

#[test]
fn a_bulk_is_read_a_few_at_a_time_and_ends_when_it_is_abandoned() {
    let mut rig = Rig::up();
    let keys = |n: usize| (0..n).map(|n| format!("item:{n}").into_bytes()).collect();
    rig.submit(1, Command::GetMany { keys: keys(20), bytes_max: 1000 });
    rig.turn();
    assert_eq!(rig.world.heard().matches("GET").count(), 16);
    rig.world.say("$1\r\nx\r\n".repeat(16));
    rig.turn();
    assert_eq!(rig.world.heard().matches("GET").count(), 4);
    rig.world.say("$1\r\nx\r\n".repeat(4));
    rig.turn();
    assert_eq!(rig.done()[0].1.matches("Some").count(), 20);

    rig.submit(2, Command::GetMany { keys: keys(20), bytes_max: 1000 });
    rig.turn();
    assert_eq!(rig.abandon(2), StoreError::Timeout);
    rig.world.heard();
    rig.world.say("$1\r\nx\r\n".repeat(15));
    rig.turn();
    assert_eq!((rig.done(), rig.world.heard()), (vec![], String::new()));
    // Commands still under way end at their deadline.
    rig.later(1000 * MS);
    assert_ne!(rig.session.next_deadline(), Some(rig.world.now));
}

fn named() -> (Rig, &'static str, &'static str) {
    let mut world = Fake::new();
    world.found.push_back(Some(addresses(&["10.0.0.1:6379"])));
    let mut rig = Rig::over(world, "redis.example", Options::default());
    rig.turn();
    rig.turn();
    rig.sign_on();
    (rig, "10.0.0.1:6379", "10.0.0.2:6379")
}

fn connected_to(rig: &mut Rig) -> String {
    match &rig.world.last().address {
        Some(Address::Tcp(address)) => address.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_good_address_is_tried_while_the_name_cannot_be_resolved() {
    let (mut rig, last, _) = named();
    assert_eq!(connected_to(&mut rig), last);
    rig.world.hang_up(false);
    rig.world.found.push_back(Some(Err("no such name")));
    rig.turn();
    for _ in 0..10 {
        rig.later(20 * MS);
    }
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (2, last));
    rig.sign_on();
    rig.get(1);
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(1));
}

#[test]
fn the_last_good_address_is_tried_when_the_name_is_late_and_fresh_ones_come_next() {
    let (mut rig, last, fresh) = named();
    rig.world.hang_up(false);
    rig.turn();
    rig.later(100 * MS);
    assert_eq!(rig.world.errands.len(), 2, "asked, and there is no answer");
    assert_eq!(rig.world.sockets.len(), 1);
    rig.world.silent.push(last.parse().unwrap());
    rig.later(499 * MS);
    assert_eq!(rig.world.sockets.len(), 1);
    assert_eq!(rig.session.next_deadline(), Some(rig.world.now + MS));
    rig.later(MS);
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (2, last));
    // Resolved while that connect hangs: then these addresses are next.
    rig.world.find(1, addresses(&[fresh]));
    rig.later(500 * MS);
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (3, fresh));
    rig.sign_on();
    // From now on that address is the last good one.
    rig.world.hang_up(false);
    rig.world.found.push_back(Some(Err("no such name")));
    rig.turn();
    for _ in 0..10 {
        rig.later(20 * MS);
    }
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (4, fresh));
}

#[test]
fn fresh_addresses_come_before_the_last_good_one() {
    let (mut rig, _, fresh) = named();
    rig.world.hang_up(false);
    rig.world.found.push_back(Some(addresses(&[fresh])));
    rig.turn();
    for _ in 0..10 {
        rig.later(20 * MS);
    }
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (2, fresh));
}

#[test]
fn a_dead_name_server_costs_one_errand_however_often_the_last_address_is_tried() {
    let (mut rig, last, _) = named();
    rig.world.refusing.push(last.parse().unwrap());
    rig.world.hang_up(false);
    for _ in 0..100 {
        rig.later(100 * MS);
    }
    assert_eq!(rig.world.errands.len(), 2);
    assert!(rig.world.sockets.len() > 5, "{}", rig.world.sockets.len());
    rig.get(1);
    rig.turn();
    let why = "error: cannot be reached: the name is not resolved yet; at its last address: connection refused";
    assert_eq!(rig.done(), one(1, why));
}

/// Of two addresses of a name the first accepts and is of no use: it is silent, or hangs up.
#[test]
fn the_next_address_is_tried_when_one_accepts_and_then_fails() {
    for hangs_up in [false, true] {
        let mut world = Fake::new();
        world.found.push_back(Some(addresses(&["10.0.0.1:6379", "10.0.0.2:6379"])));
        let mut rig = Rig::over(world, "redis.example", Options::default());
        rig.turn();
        rig.turn();
        assert_eq!(connected_to(&mut rig), "10.0.0.1:6379");
        if hangs_up {
            rig.world.hang_up(false);
            rig.turn();
        } else {
            rig.later(249 * MS);
            assert_eq!(rig.world.sockets.len(), 1);
            rig.later(MS);
        }
        assert_eq!(connected_to(&mut rig), "10.0.0.2:6379");
        rig.sign_on();
        rig.get(1);
        rig.turn();
        assert_eq!(rig.world.heard(), get_words(1));
    }
}

#[test]
fn a_name_that_was_never_resolved_is_waited_for() {
    let mut rig = Rig::new("redis.example", Options::default());
    rig.get(1);
    rig.turn();
    assert_eq!(rig.world.errands[0].0, "redis.example:6379");
    rig.later(500 * MS);
    let why = "the name is not resolved yet".to_owned();
    assert_eq!(rig.abandon(1), StoreError::Unreachable(why));
    rig.later(10_000 * MS);
    assert_eq!((rig.world.errands.len(), rig.world.sockets.len()), (1, 0));
    rig.world.find(0, addresses(&["10.0.0.1:6379"]));
    rig.turn();
    rig.sign_on();
}

#[test]
fn the_password_is_read_for_every_connection_and_a_bad_file_is_named() {
    let file = |text: &str| Some(Ok(Found { addresses: vec![], file: Some(text.into()) }));
    let options = Options { password_file: Some("/run/secret".into()), ..Options::default() };
    let mut world = Fake::new();
    world.found.extend([file("\n"), file("s3cret\n"), file("other\n")]);
    let mut rig = Rig::over(world, "127.0.0.1", options);
    rig.get(1);
    rig.turn();
    let why = "failed to read the password file /run/secret: it is empty";
    assert_eq!(rig.abandon(1), StoreError::Unreachable(why.to_owned()));
    for password in ["$6\r\ns3cret\r\n", "$5\r\nother\r\n"] {
        rig.later(1000 * MS);
        rig.turn();
        assert!(rig.world.heard().contains(password));
        rig.world.say(HELLO);
        rig.turn();
        rig.world.say("+PONG\r\n");
        rig.turn();
        rig.world.hang_up(false);
        rig.turn();
    }
    assert_eq!(rig.world.errands.len(), 3);
}

#[test]
fn what_is_refused_at_once_is_answered_at_once() {
    let mut rig = Rig::up();
    let prefix = key(b"a");
    rig.submit(1, Command::Scan { prefix, cursor: Some(b"none".to_vec()), limit: 1 });
    assert!(rig.session.next_deadline().is_some_and(|t| t <= rig.world.now));
    rig.turn();
    assert_eq!(rig.done(), one(1, "BadCursor"));
    let crowd = crate::resp::client::COMMANDS_MAX as Tag;
    (0..=crowd).for_each(|tag| rig.get(tag));
    assert!(rig.session.next_deadline().is_some_and(|t| t <= rig.world.now));
    rig.turn();
    assert_eq!(rig.done(), one(crowd, "error: too many commands are waiting"));
    // The abandoned commands still fill the connection.
    (0..crowd).for_each(|tag| drop(rig.abandon(tag)));
    rig.get(1);
    rig.turn();
    assert_eq!(rig.done(), one(1, "error: too many commands are waiting"));
}

/// A worker that is only read from never hears READONLY; it served stale values for ever.
#[test]
fn a_server_that_says_it_is_a_replica_is_left_for_another_under_its_name() {
    let mut rig = Rig::up();
    rig.later(5000 * MS);
    assert_eq!(rig.world.heard(), ROLE);
    rig.world.say("*3\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n");
    rig.get(1);
    rig.turn();
    assert_eq!(rig.world.sockets.len(), 2);
    // Meanwhile the old connection serves.
    let first =
        |rig: &mut Rig| String::from_utf8(std::mem::take(&mut rig.world.sockets[0].from_client));
    assert_eq!(first(&mut rig).unwrap(), get_words(1));
    rig.get(2);
    rig.turn();
    assert_eq!(first(&mut rig).unwrap(), get_words(2));
    rig.sign_on();
    rig.get(3);
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(3));
    // What is under way there is answered there.
    rig.world.say_on(0, "$1\r\n1\r\n$1\r\n2\r\n");
    rig.turn();
    assert_eq!(rig.done(), [(1, "1".to_owned()), (2, "2".to_owned())]);
    rig.turn();
    assert!(rig.world.sockets[0].closed);
}

/// One that hangs up on HELLO is asked for no role. It may have had another reason, a balancer whose server was away: its
/// readers then stayed with a replica for ever.
#[test]
fn a_server_that_has_hung_up_on_hello_is_asked_again_after_a_while() {
    let ping = "*1\r\n$4\r\nPING\r\n";
    let mut rig = Rig::new("127.0.0.1", Options::default());
    rig.turn();
    rig.turn();
    assert!(rig.world.heard().contains("HELLO"));
    rig.world.hang_up_on(0);
    for _ in 0..3 {
        rig.turn();
    }
    assert_eq!(rig.world.heard(), ping);
    rig.world.say("+PONG\r\n");
    rig.turn();
    for _ in 0..11 {
        rig.later(5000 * MS);
        assert_eq!((&*rig.world.heard(), rig.world.sockets.len()), (ping, 2));
        rig.world.say("+PONG\r\n");
        rig.turn();
    }
    rig.later(5000 * MS);
    rig.world.say_on(1, "+PONG\r\n");
    rig.sign_on();
    assert_eq!(rig.world.sockets.len(), 3);
    rig.world.heard();
    rig.later(5000 * MS);
    assert_eq!(rig.world.heard(), ROLE);
}

/// A connection that was dropped in silence cost each read its deadline.
#[test]
fn a_read_on_a_silent_connection_is_sent_on_another_and_a_write_is_not() {
    let mut rig = Rig::up();
    // A connection that has just been made is not replaced at once.
    rig.later(5000 * MS);
    rig.world.say("*1\r\n$6\r\nmaster\r\n");
    rig.turn();
    rig.world.heard();
    rig.get(1);
    rig.set(2, b"{}", When::Always);
    rig.turn();
    rig.later(799 * MS);
    assert_eq!(rig.world.sockets.len(), 1);
    rig.later(MS);
    assert_eq!(rig.world.sockets.len(), 2);
    rig.sign_on();
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(1), "and nothing else");
    rig.world.say("$3\r\nnew\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(1, "new"));
    // If the old one speaks after all, that is the write's reply, and the read has one already.
    rig.world.say_on(0, "$3\r\nold\r\n+OK\r\n");
    rig.turn();
    assert_eq!(rig.done(), one(2, "Stored"));
}

/// Redis keeps replies in its memory until they are read.
#[test]
fn large_values_are_asked_for_a_few_at_a_time() {
    let mut rig = Rig::up();
    (0..300).for_each(|tag| rig.get(tag));
    rig.turn();
    let asked = |rig: &mut Rig| rig.world.heard().matches("GET").count();
    assert_eq!(asked(&mut rig), 32);
    let large = format!("$1000000\r\n{}\r\n", "x".repeat(1_000_000));
    rig.world.say(large.repeat(32));
    while rig.done.len() < 32 {
        rig.turn();
    }
    assert_eq!(asked(&mut rig), 6, "as many as six mebibytes hold");
    // While values are small, each answer makes room for two more.
    for (answered, then) in [(6, 12), (12, 24), (24, 48)] {
        rig.world.say("$1\r\nx\r\n".repeat(answered));
        rig.turn();
        assert_eq!(asked(&mut rig), then);
    }
}

#[test]
fn a_name_that_has_moved_is_followed() {
    let (mut rig, _, fresh) = named();
    let (before, began) = (rig.world.errands.len(), rig.world.now);
    rig.world.found.extend([None, Some(addresses(&[fresh]))]);
    while rig.world.sockets.len() == 1 {
        rig.later(5000 * MS);
        if rig.world.sockets.len() == 1 {
            rig.world.say("*1\r\n$6\r\nmaster\r\n");
        }
        rig.turn();
        if rig.world.errands.len() == before + 1 {
            rig.world.find(before, addresses(&[fresh]));
        }
    }
    assert!(rig.world.now <= began + 60_000 * MS);
    assert_eq!((rig.world.sockets.len(), connected_to(&mut rig).as_str()), (2, fresh));
}

/// As twemproxy does with what it does not know.
#[test]
fn a_server_that_hangs_up_on_hello_is_spoken_to_in_resp2() {
    let mut rig = Rig::new("127.0.0.1", Options::default());
    rig.get(1);
    rig.turn();
    rig.turn();
    assert!(rig.world.heard().contains("HELLO"));
    rig.world.hang_up(false);
    rig.turn();
    rig.turn();
    let ping = "*1\r\n$4\r\nPING\r\n";
    assert_eq!(rig.world.heard(), ping, "and nothing that it might not know");
    rig.world.say("+PONG\r\n");
    rig.turn();
    rig.turn();
    assert_eq!(rig.world.heard(), get_words(1));
    rig.world.say("$1\r\n1\r\n");
    rig.turn();
    rig.later(5000 * MS);
    assert_eq!(rig.world.heard(), ping);
}

#[test]
fn a_server_that_is_busy_when_we_sign_on_is_503() {
    let mut rig = Rig::new("127.0.0.1", Options { database: 2, ..Options::default() });
    rig.get(1);
    rig.turn();
    rig.turn();
    rig.world.say(HELLO);
    rig.turn();
    assert_eq!(rig.world.heard().matches("SELECT").count(), 1);
    rig.world.say("-BUSY Redis is busy running a script.\r\n");
    rig.turn();
    let busy = "BUSY Redis is busy running a script.".to_owned();
    assert_eq!(rig.abandon(1), StoreError::Unavailable(busy));
}

/// `proto-max-bulk-len`. Redis closes the connection, and has not run what was sent behind.
#[test]
fn what_redis_finds_too_long_costs_nobody_else_and_is_not_tried_again() {
    let mut rig = Rig::up();
    let long = vec![b'x'; 100_000];
    rig.set(1, b"{}", When::Always);
    rig.set(2, &long, When::Always);
    rig.set(3, b"{}", When::Always);
    rig.turn();
    rig.world.say("+OK\r\n-ERR Protocol error: invalid bulk length\r\n");
    rig.world.hang_up(false);
    rig.turn();
    let refused = "error: answered with an error: ERR Protocol error: invalid bulk length";
    assert_eq!(rig.done(), [(1, "Stored".to_owned()), (2, refused.to_owned())]);
    rig.later(100 * MS);
    rig.sign_on();
    rig.turn();
    let said = rig.world.heard();
    assert!(said.contains("item:3") && !said.contains("item:2"), "{said}");
    rig.set(4, &long, When::Always);
    rig.turn();
    assert_eq!((rig.world.heard(), rig.done()), (String::new(), one(4, refused)));
    rig.set(5, &long[1..], When::Always);
    rig.turn();
    assert!(rig.world.heard().contains("item:5"));
    // Somebody may have raised the limit.
    rig.world.say("+OK\r\n+OK\r\n");
    rig.turn();
    rig.later(60_000 * MS);
    rig.world.say("*1\r\n$6\r\nmaster\r\n");
    rig.turn();
    rig.set(6, &long, When::Always);
    rig.turn();
    assert!(rig.world.heard().contains("item:6"));
}

/// Redis says so as soon as it has read how long the word is.
#[test]
fn what_redis_finds_too_long_before_all_of_it_was_sent_is_not_tried_again() {
    let mut rig = Rig::up();
    let long = vec![b'x'; 100_000];
    rig.world.give_room(Some(50_000));
    rig.set(1, &long, When::Always);
    rig.set(2, b"{}", When::Always);
    rig.turn();
    rig.world.say("-ERR Protocol error: invalid bulk length\r\n");
    rig.turn();
    let refused = "error: answered with an error: ERR Protocol error: invalid bulk length";
    assert_eq!(rig.done(), one(1, refused));
    rig.world.heard();
    rig.world.give_room(None);
    rig.turn();
    assert_eq!(rig.world.heard(), "", "nothing more is sent there");
    rig.world.hang_up(false);
    rig.turn();
    rig.later(100 * MS);
    rig.sign_on();
    rig.turn();
    assert!(rig.world.heard().contains("item:2"));
    rig.set(3, &long, When::Always);
    rig.turn();
    assert_eq!((rig.world.heard(), rig.done()), (String::new(), one(3, refused)));
}

/// A server that calls a short word too long is not believed for the next ones. One that does not hang up is left.
#[test]
fn what_is_short_is_sent_again_though_it_was_called_too_long() {
    for hangs_up in [true, false] {
        let mut rig = Rig::up();
        rig.set(1, b"{}", When::Always);
        rig.turn();
        rig.world.say("-ERR Protocol error: invalid bulk length\r\n");
        if hangs_up {
            rig.world.hang_up(false);
        }
        rig.turn();
        assert!(rig.done()[0].1.contains("invalid bulk length"));
        rig.world.heard();
        rig.set(2, b"{}", When::Always);
        rig.turn();
        assert_eq!(rig.world.heard(), "");
        rig.later(100 * MS);
        rig.sign_on();
        rig.turn();
        assert!(rig.world.heard().contains("item:2"));
    }
}

/// It was its server that read no more. What others have sent through the proxy may have been run.
#[test]
fn a_proxy_that_passes_on_that_a_word_is_too_long_is_no_server_that_reads_no_more() {
    let mut rig = Rig::up();
    rig.set(1, &vec![b'x'; 100_000], When::Always);
    rig.set(2, b"{}", When::Always);
    rig.set(3, b"{}", When::Always);
    rig.turn();
    rig.world.say("-ERR Protocol error: invalid bulk length\r\n+OK\r\n");
    rig.world.hang_up(false);
    rig.turn();
    let done = rig.done();
    assert_eq!(done[1], (2, "Stored".to_owned()));
    assert!(done.len() == 3 && done[2].1.contains("connection broke"), "{done:?}");
    rig.later(100 * MS);
    rig.sign_on();
    rig.turn();
    assert_eq!(rig.world.heard(), "", "no second time");
}

/// A proxy says so, and its server may have run the command.
#[test]
fn what_a_proxy_has_lost_is_as_unknown_as_what_we_have_lost() {
    for said in ["upstream failure", "ERR Connection timed out", "ERR unknown"] {
        let mut rig = Rig::up();
        rig.set(1, b"{}", When::Always);
        rig.set(2, b"{}", When::Unchanged(b"[]".into()));
        rig.get(3);
        rig.turn();
        rig.world.heard();
        rig.world.say(format!("-{said}\r\n").repeat(3));
        rig.turn();
        let broke = format!("error: connection broke: {said}");
        assert_eq!(rig.done(), [(1, broke.clone()), (2, broke)]);
        assert_eq!(rig.world.heard(), get_words(3), "only the read is sent again");
        rig.world.say("$2\r\n{}\r\n");
        rig.turn();
        assert!(rig.done()[0].1.contains("{}"));
    }
}

/// A name server may give any number; each cost a piece of the stack.
#[test]
fn of_five_thousand_addresses_that_refuse_none_is_left_out() {
    let all: Vec<String> =
        (0..5000).map(|n| format!("10.0.{}.{}:6379", n / 250, n % 250)).collect();
    let mut world = Fake::new();
    world.refusing = all.iter().map(|address| address.parse().unwrap()).collect();
    world.found.push_back(Some(addresses(&all.iter().map(String::as_str).collect::<Vec<_>>())));
    let mut rig = Rig::over(world, "redis.example", Options::default());
    rig.turn();
    assert_eq!(rig.world.sockets.len(), 5000);
    assert!(rig.world.sockets.iter().all(|socket| socket.closed));
}

/// Of the addresses of a name, one is a replica.
#[test]
fn of_several_addresses_a_master_is_preferred_and_a_replica_is_better_than_nothing() {
    let replica = HELLO.replace("$6\r\nmaster", "$7\r\nreplica");
    for has_master in [true, false] {
        let mut world = Fake::new();
        world.found.push_back(Some(addresses(&["10.0.0.1:6379", "10.0.0.2:6379"])));
        let mut rig = Rig::over(world, "redis.example", Options::default());
        rig.turn();
        rig.turn();
        rig.world.say(&replica);
        rig.turn();
        rig.world.say("+PONG\r\n");
        rig.turn();
        assert_eq!(connected_to(&mut rig), "10.0.0.2:6379");
        rig.turn();
        rig.world.say(if has_master { HELLO } else { &replica });
        rig.turn();
        rig.world.say("+PONG\r\n");
        rig.turn();
        rig.get(1);
        rig.turn();
        let closed = [0, 1].map(|n| rig.world.sockets[n].closed);
        assert_eq!(closed, [has_master, !has_master]);
    }
}

#[cfg(feature = "poll")]
mod neighbours;
