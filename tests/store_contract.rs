//! What every store promises, a test for each rule, run over each store through `store::Store` and its sessions.
//!
//! ```text
//! Line ── Blocking ── Session ── memory            one table in this process
//!                             ── redis             a real redis-server of the test's own
//!                             ── noop              the rules that hold for something that keeps nothing
//! ```
//!
//! A store for another backend is done when it passes `for_each_store`. `noop` answers as if every key were always
//! absent, so it has its own test at the end for the rules that leaves, and the rules about sessions (each command
//! answered once, deadlines, `Ping`) include it through `for_every_store`.
//!
//! Times to live here are short, and no test sleeps through one: it asks until the value is gone, and then checks that
//! this was not too early by a clock that was started before the write. Where a value must outlive something, a witness
//! with the shorter time is written *later*, and when the witness is gone the value must still be there.

mod support;

use kioskd::resp::client::Target;
use kioskd::resp::link::Options;
use kioskd::resp::url::Endpoint;
use kioskd::store::blocking::Blocking;
use kioskd::store::memory::Memory;
use kioskd::store::noop::Noop;
use kioskd::store::redis::Redis as RedisStore;
use kioskd::store::{Answer, Command, Done, Session, Store, StoreError, Tag, When, Wiring};
use mio::{Events, Poll, Token, Waker};
use std::collections::HashMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use support::{Act, FakeRedis, PATIENCE, Redis, eventually};

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

/// For a value that must still be there a few round trips later: plenty on a busy machine, and short enough to outlive.
const ENOUGH: Duration = Duration::from_secs(1);

/// Two clocks, ours and the server's, and the server's counts whole milliseconds.
const CLOCKS_APART: Duration = Duration::from_millis(10);

// ---- Values -----------------------------------------------------------------------------------

#[test]
fn what_was_never_set_is_absent() {
    for_every_store(|store| {
        let mut line = Line::open(store);
        assert_eq!(line.get(b"k"), None);
        // Renewing nothing creates nothing.
        assert_eq!(line.touch(b"k", HOUR), None);
        assert_eq!(line.get(b"k"), None);
    });
}

#[test]
fn what_was_set_comes_back_byte_for_byte() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let every_byte: Vec<u8> = (0..=255).collect();
        let mebibyte: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
        for value in [
            &b"{\"name\":\"Bob\"}"[..],
            b"",
            b"\r\n",
            b"$-1\r\n",
            b"-ERR no\r\n",
            b"0",
            b"\xff\xfe\0",
            &every_byte,
            &mebibyte,
        ] {
            // Each replaces the one before, longer or shorter.
            assert_eq!(line.set(b"k", value, HOUR, When::Always), Answer::Stored);
            assert_same(line.get(b"k"), value);
            assert_same(line.touch(b"k", HOUR), value);
        }
    });
}

#[test]
fn any_bytes_make_a_key_and_different_bytes_make_different_keys() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let keys: Vec<Vec<u8>> = [
            &b""[..],
            b" ",
            b"\0",
            b"\0\0",
            b"\r\n",
            b"a",
            b"A",
            b"a ",
            b"*1\r\n$4\r\nPING\r\n",
            b"{a}",
            b"item:*",
            b"\xff\xfe",
            "caf\u{e9}".as_bytes(),
            "cafe\u{301}".as_bytes(),
        ]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain([(0..=255).collect(), vec![b'k'; 64 << 10]])
        .collect();
        for (n, key) in keys.iter().enumerate() {
            line.set(key, n.to_string().as_bytes(), HOUR, When::Always);
        }
        for (n, key) in keys.iter().enumerate() {
            assert_same(line.get(key), n.to_string().as_bytes());
        }
        for key in &keys {
            assert_eq!(line.delete(key, When::Always), Answer::Deleted(true));
            assert_eq!(line.get(key), None);
        }
    });
}

#[test]
fn every_session_sees_what_another_wrote() {
    for_each_store(|store| {
        let (mut here, mut there) = (Line::open(store), Line::open(store));
        here.set(b"k", b"1", HOUR, When::Always);
        assert_same(there.get(b"k"), b"1");
        assert_eq!(there.delete(b"k", When::Always), Answer::Deleted(true));
        assert_eq!(here.get(b"k"), None);
    });
}

// ---- Times to live ----------------------------------------------------------------------------

#[test]
fn a_value_is_gone_after_its_ttl_and_not_before() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        // One of whole seconds and one that is not: Redis is told them in different units.
        for ms in [50, 150, 1000] {
            let ttl = Duration::from_millis(ms);
            let before = Instant::now();
            line.set(b"k", b"v", Some(ttl), When::Always);
            line.wait_gone(b"k", before + ttl);
            assert_eq!(line.delete(b"k", When::Always), Answer::Deleted(false));
        }
    });
}

/// Redis refuses an expiry of zero, and less than a millisecond would be one.
#[test]
fn the_shortest_ttl_is_a_ttl() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        for ttl in [Duration::from_nanos(1), Duration::from_micros(1001)] {
            for when in [When::Always, When::Absent] {
                let answer = line.set(b"k", b"v", Some(ttl), when);
                assert_eq!(answer, Answer::Stored);
                line.wait_gone(b"k", Instant::now());
            }
            line.set(b"k", b"v", HOUR, When::Always);
            line.touch(b"k", Some(ttl));
            line.wait_gone(b"k", Instant::now());
            line.set(b"k", b"v", HOUR, When::Always);
            line.set(b"k", b"w", Some(ttl), When::Unchanged(b"v".into()));
            line.wait_gone(b"k", Instant::now());
        }
    });
}

#[test]
fn a_new_value_has_a_new_ttl() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let whens = [When::Always, When::Present, When::Unchanged(b"1".into())];
        for (key, when) in [b"a", b"b", b"c"].into_iter().zip(whens) {
            line.set(key, b"1", HOUR, When::Always);
            let (ttl, before) = (Duration::from_millis(100), Instant::now());
            line.set(key, b"2", Some(ttl), when.clone());
            line.wait_gone(key, before + ttl);

            line.set(key, b"1", Some(ENOUGH), When::Always);
            assert_eq!(line.set(key, b"2", HOUR, when), Answer::Stored);
        }
        line.outlive(ENOUGH);
        for key in [b"a", b"b", b"c"] {
            assert_same(line.get(key), b"2");
        }
    });
}

/// PATCH changes a document and not how long it lives. Were the time lost with the old value, the key would stay for
/// ever and `wait_gone` would run into its patience.
#[test]
fn a_value_set_without_a_ttl_keeps_what_was_left_of_it() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let whens = [
            When::Always,
            When::Present,
            When::Unchanged(b"v".into()),
            When::Unchanged(b"v2".into()),
        ];
        let before = Instant::now();
        line.set(b"k", b"v", Some(ENOUGH), When::Always);
        for (when, value) in whens.into_iter().zip([b"v1", b"v ", b"v2", b"v3"]) {
            // The third condition wants the value of the first write.
            let value = value.trim_ascii();
            assert_eq!(line.set(b"k", value, None, when), Answer::Stored);
            assert_same(line.get(b"k"), value);
        }
        line.wait_gone(b"k", before + ENOUGH);
    });
}

#[test]
fn touch_renews_and_plain_get_does_not() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let (ttl, before) = (Duration::from_millis(200), Instant::now());
        line.set(b"k", b"v", Some(ttl), When::Always);
        // It asks again and again, so a get that renewed would never see the end.
        line.wait_gone(b"k", before + ttl);

        line.set(b"k", b"v", Some(ENOUGH), When::Always);
        assert_same(line.touch(b"k", HOUR), b"v");
        line.outlive(ENOUGH);
        assert_same(line.get(b"k"), b"v");

        // Renewing sets the time, it does not add to it.
        let (ttl, before) = (Duration::from_millis(100), Instant::now());
        assert_same(line.touch(b"k", Some(ttl)), b"v");
        line.wait_gone(b"k", before + ttl);
        assert_eq!(line.touch(b"k", HOUR), None, "what is gone stays gone");
        assert_eq!(line.get(b"k"), None);
    });
}

// ---- Conditions -------------------------------------------------------------------------------

/// Each condition on each state of a key. `None` is absent; a row holds or it does not.
fn conditions() -> Vec<(When, Option<&'static [u8]>, bool)> {
    let same = || When::Unchanged(b"old".into());
    vec![
        (When::Always, None, true),
        (When::Always, Some(b"old"), true),
        (When::Absent, None, true),
        (When::Absent, Some(b"old"), false),
        (When::Absent, Some(b""), false),
        (When::Present, None, false),
        (When::Present, Some(b"old"), true),
        (When::Present, Some(b""), true),
        (same(), None, false),
        (same(), Some(b"old"), true),
        (same(), Some(b"Old"), false),
        (same(), Some(b"old "), false),
        (same(), Some(b"ol"), false),
        (same(), Some(b""), false),
        // Empty is a value, absent is none.
        (When::Unchanged(Vec::new()), None, false),
        (When::Unchanged(Vec::new()), Some(b""), true),
        (When::Unchanged(Vec::new()), Some(b"old"), false),
    ]
}

#[test]
fn a_set_happens_when_its_condition_holds_and_else_changes_nothing() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        for (when, before, holds) in conditions() {
            line.put(b"k", before);
            let answer = line.set(b"k", b"new", HOUR, when.clone());
            let (wanted, after) = match holds {
                true => (Answer::Stored, Some(&b"new"[..])),
                false => (Answer::Unmet, before),
            };
            assert_eq!(answer, wanted, "{when:?} on {before:?}");
            assert_eq!(line.get(b"k").as_deref(), after, "{when:?} on {before:?}");
        }
    });
}

/// `Absent` could only remove what is not there: it never acts, and never says that it did.
#[test]
fn a_delete_happens_when_its_condition_holds_and_else_changes_nothing() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        for (when, before, holds) in conditions() {
            line.put(b"k", before);
            let answer = line.delete(b"k", when.clone());
            let (wanted, after) = match (&when, holds) {
                (When::Absent, _) | (_, false) => (Answer::Unmet, before),
                (_, true) => (Answer::Deleted(before.is_some()), None),
            };
            assert_eq!(answer, wanted, "{when:?} on {before:?}");
            assert_eq!(line.get(b"k").as_deref(), after, "{when:?} on {before:?}");
        }
    });
}

#[test]
fn an_unmet_condition_leaves_the_ttl_alone() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let unmet = [When::Absent, When::Unchanged(b"other".into())];
        for when in unmet {
            let (ttl, before) = (Duration::from_millis(200), Instant::now());
            line.set(b"short", b"v", Some(ttl), When::Always);
            line.set(b"long", b"v", HOUR, When::Always);
            let brief = Some(Duration::from_millis(50));
            assert_eq!(line.set(b"long", b"w", brief, when.clone()), Answer::Unmet);
            assert_eq!(line.delete(b"long", when.clone()), Answer::Unmet);
            // On a machine that slept through the time to live, `Absent` would hold.
            match line.set(b"short", b"w", HOUR, when) {
                Answer::Unmet => line.wait_gone(b"short", before + ttl),
                answer => {
                    assert_eq!(answer, Answer::Stored);
                    assert!(before.elapsed() + CLOCKS_APART >= ttl);
                    line.delete(b"short", When::Always);
                }
            }
            line.outlive(Duration::from_millis(50));
            assert_same(line.get(b"long"), b"v");
        }
    });
}

#[test]
fn an_expired_value_is_absent_to_conditions() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let brief = Some(Duration::from_millis(1));
        for (when, answer) in [
            (When::Present, Answer::Unmet),
            (When::Unchanged(b"v".into()), Answer::Unmet),
            (When::Absent, Answer::Stored),
        ] {
            line.set(b"k", b"v", brief, When::Always);
            line.wait_gone(b"k", Instant::now());
            assert_eq!(line.set(b"k", b"w", HOUR, when.clone()), answer, "{when:?}");
            line.delete(b"k", When::Always);
        }
    });
}

#[test]
fn unchanged_compares_every_byte_of_a_large_binary_value() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        let old: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 5) as u8).collect();
        let new: Vec<u8> = old.iter().map(|b| !b).collect();
        line.set(b"k", &old, HOUR, When::Always);
        for at in [0, old.len() / 2, old.len() - 1] {
            let mut other = old.clone();
            other[at] ^= 1;
            let answer = line.set(b"k", &new, HOUR, When::Unchanged(other.clone()));
            assert_eq!(answer, Answer::Unmet, "byte {at}");
            let answer = line.delete(b"k", When::Unchanged(other));
            assert_eq!(answer, Answer::Unmet, "byte {at}");
        }
        let answer = line.set(b"k", &new, HOUR, When::Unchanged(old));
        assert_eq!(answer, Answer::Stored);
        assert_same(line.get(b"k"), &new);
        assert_eq!(
            line.delete(b"k", When::Unchanged(new)),
            Answer::Deleted(true)
        );
        assert_eq!(line.get(b"k"), None);
    });
}

// ---- Many at once -----------------------------------------------------------------------------

/// API.md: of 32 concurrent writers with one ETag exactly one succeeds. The same for the two other conditions that only
/// one can meet.
#[test]
fn of_many_racing_conditional_writers_exactly_one_wins() {
    const WRITERS: usize = 32;
    type Race = fn(Vec<u8>) -> Command;
    let races: [(Option<&[u8]>, Race); 4] = [
        (Some(b"old"), |mine| {
            set(b"k", &mine, HOUR, When::Unchanged(b"old".into()))
        }),
        (None, |mine| set(b"k", &mine, HOUR, When::Absent)),
        (Some(b"old"), |_| delete(b"k", When::Present)),
        (Some(b"old"), |_| {
            delete(b"k", When::Unchanged(b"old".into()))
        }),
    ];
    for_each_store(|store| {
        let mut line = Line::open(store);
        let start = Barrier::new(WRITERS);
        for (before, race) in races {
            line.put(b"k", before);
            let answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..WRITERS)
                    .map(|n| {
                        let start = &start;
                        scope.spawn(move || {
                            let mut line = Line::open(store);
                            // Connected before the start, so that they do arrive together.
                            line.ask(Command::Ping).expect("a store that is there");
                            start.wait();
                            let mine = n.to_string().into_bytes();
                            (n, line.ask(race(mine)).expect("an answer"))
                        })
                    })
                    .collect();
                writers
                    .into_iter()
                    .map(|w| w.join().expect("no writer panics"))
                    .collect()
            });
            let winners: Vec<_> = answers
                .iter()
                .filter(|(_, answer)| *answer != Answer::Unmet)
                .collect();
            match winners[..] {
                [(n, Answer::Stored)] => assert_same(line.get(b"k"), n.to_string().as_bytes()),
                [(_, Answer::Deleted(true))] => assert_eq!(line.get(b"k"), None),
                _ => panic!("winners: {winners:?}"),
            }
        }
    });
}

/// The loop every PATCH is: read, change, write if unchanged, else again.
#[test]
fn no_change_made_with_compare_and_set_is_lost() {
    const WRITERS: usize = 4;
    const CHANGES: usize = 25;
    for_each_store(|store| {
        Line::open(store).set(b"k", b"0", HOUR, When::Always);
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    let mut line = Line::open(store);
                    for _ in 0..CHANGES {
                        loop {
                            let old = line.get(b"k").expect("nobody deletes it");
                            let n: usize = std::str::from_utf8(&old).unwrap().parse().unwrap();
                            let new = (n + 1).to_string();
                            let when = When::Unchanged(old);
                            if line.set(b"k", new.as_bytes(), None, when) == Answer::Stored {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let total = (WRITERS * CHANGES).to_string();
        assert_same(Line::open(store).get(b"k"), total.as_bytes());
    });
}

/// A session driven by a loop of our own, as the poll front drives it, and all commands submitted before the first is
/// looked at. Tags are the caller's and say nothing about order.
#[test]
fn many_commands_in_flight_are_each_answered_once_with_their_own_value() {
    const N: u64 = 2000;
    for_each_store(|store| {
        let mut turn = Loop::open(store);
        let key = |n: u64| format!("k{n}").into_bytes();
        let value = |n: u64| format!("value {n} {}", "x".repeat(n as usize % 300)).into_bytes();
        let tag = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);

        for n in 0..N {
            turn.submit(tag(n), set(&key(n), &value(n), HOUR, When::Absent));
        }
        let answers = turn.run(N as usize);
        for n in 0..N {
            assert_eq!(answers[&tag(n)], Ok(Answer::Stored), "set {n}");
        }

        // Every kind of command between the others: a reply that is read one place off would show.
        for n in 0..N {
            let command = match n % 5 {
                0 => get(&key(n), HOUR),
                1 => set(&key(n), b"new", HOUR, When::Unchanged(value(n))),
                2 => Command::Ping,
                3 => delete(&key(n), When::Present),
                _ => get(&key(n), None),
            };
            turn.submit(tag(n), command);
        }
        let answers = turn.run(N as usize);
        for n in 0..N {
            let wanted = match n % 5 {
                0 | 4 => Answer::Value(Some(value(n))),
                1 => Answer::Stored,
                2 => Answer::Pong,
                _ => Answer::Deleted(true),
            };
            assert_eq!(answers[&tag(n)], Ok(wanted), "command {n}");
        }
        turn.assert_nothing_more();
    });
}

#[test]
fn large_values_in_one_batch_do_not_mix() {
    for_each_store(|store| {
        let mut turn = Loop::open(store);
        let value = |n: u64| vec![n as u8; 1 << 20];
        for n in 0..16 {
            turn.submit(n, set(&[n as u8], &value(n), HOUR, When::Always));
        }
        turn.run(16);
        for n in 0..16 {
            turn.submit(n, get(&[n as u8], None));
        }
        for (n, answer) in turn.run(16) {
            assert_same(value_of(answer), &value(n));
        }
    });
}

// ---- Counting ---------------------------------------------------------------------------------

#[test]
fn uses_are_counted_over_all_sessions() {
    for_each_store(|store| {
        let (mut here, mut there) = (Line::open(store), Line::open(store));
        let window = Duration::from_secs(3600);
        let mut left = window;
        for n in 1..=10 {
            let line = if n % 2 == 0 { &mut here } else { &mut there };
            let (count, resets_in) = line.take(b"rate:a", window);
            assert_eq!(count, n);
            // The window began with the first use: what is left only shrinks.
            assert!(!resets_in.is_zero() && resets_in <= left, "{resets_in:?}");
            left = resets_in;
        }
        assert!(left > Duration::from_secs(3000), "{left:?}");
        assert_eq!(here.take(b"rate:b", window).0, 1, "a count of its own");
    });
}

/// It takes all the time: a window that every use prolonged would never end.
#[test]
fn a_count_starts_anew_after_its_window() {
    for_each_store(|store| {
        let mut line = Line::open(store);
        for ms in [50, 200] {
            let window = Duration::from_millis(ms);
            let before = Instant::now();
            assert_eq!(line.take(b"rate", window).0, 1);
            eventually("a new window", || {
                let (count, resets_in) = line.take(b"rate", window);
                assert!(resets_in <= window);
                count == 1
            });
            assert!(before.elapsed() + CLOCKS_APART >= window);
            // The window that has just begun would be the next round's.
            line.delete(b"rate", When::Always);
        }
    });
}

#[test]
fn no_use_is_lost_when_many_take_at_once() {
    for_each_store(|store| {
        let mut counts: Vec<u64> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut line = Line::open(store);
                        let take = |_| line.take(b"rate", Duration::from_secs(3600)).0;
                        (0..25).map(take).collect::<Vec<_>>()
                    })
                })
                .collect();
            let joined = takers.into_iter().map(|t| t.join().expect("no panic"));
            joined.flatten().collect()
        });
        counts.sort_unstable();
        assert_eq!(counts, (1..=100).collect::<Vec<u64>>());
    });
}

// ---- Sessions ---------------------------------------------------------------------------------

#[test]
fn ping_is_answered() {
    for_every_store(|store| {
        let mut line = Line::open(store);
        for _ in 0..3 {
            assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
        }
    });
}

/// Whether it ran is not said, so both are allowed, but it must be one of them and soon. On the first session there is
/// no connection yet, on the second there is. A reply that comes for somebody who gave up is not the next one's.
#[test]
fn a_deadline_in_the_past_is_a_timeout_or_an_answer() {
    for_every_store(|store| {
        for warm in [false, true] {
            let mut line = Line::open(store);
            if warm {
                assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
            }
            let past = Instant::now();
            for n in 0..50 {
                let key = format!("k{n}").into_bytes();
                let value = format!("v{n}").into_bytes();
                for command in [
                    set(&key, &value, HOUR, When::Always),
                    get(&key, None),
                    Command::Ping,
                ] {
                    let answer = line.0.call(command.clone(), past);
                    let answer_fits = match (&command, &answer) {
                        (_, Err(StoreError::Timeout)) => true,
                        (Command::Set { .. }, Ok(Answer::Stored)) => true,
                        (Command::Get { .. }, Ok(Answer::Value(None))) => true,
                        (Command::Get { .. }, Ok(Answer::Value(Some(v)))) => *v == value,
                        (Command::Ping, Ok(Answer::Pong)) => true,
                        _ => false,
                    };
                    assert!(answer_fits, "{command:?}: {answer:?}");
                }
                let other = format!("never {n}").into_bytes();
                assert_eq!(line.get(&other), None, "in step");
            }
            assert!(past.elapsed() < PATIENCE);
        }
    });
}

#[test]
fn an_idle_session_has_nothing_to_say() {
    for_every_store(|store| {
        let mut turn = Loop::open(store);
        turn.assert_nothing_more();
        turn.submit(7, Command::Ping);
        assert_eq!(turn.run(1)[&7], Ok(Answer::Pong));
        turn.assert_nothing_more();
    });
}

// ---- What only one store can promise ----------------------------------------------------------

/// `noop` is a store in which every key is always absent. What then can be promised is here; what needs a value to have
/// been kept (round trips, times to live, races, counts above one) is not.
#[test]
fn noop_answers_as_if_every_key_were_absent() {
    let mut line = Line::open(&Noop);
    for (when, before, holds) in conditions() {
        if before.is_none() {
            let wanted = if holds { Answer::Stored } else { Answer::Unmet };
            assert_eq!(line.set(b"k", b"v", HOUR, when.clone()), wanted, "{when:?}");
            let wanted = match when {
                When::Always => Answer::Deleted(false),
                _ => Answer::Unmet,
            };
            assert_eq!(line.delete(b"k", when), wanted);
            assert_eq!(line.get(b"k"), None);
        }
    }
    let window = Duration::from_secs(60);
    assert_eq!(line.take(b"k", window), (1, window));
    assert_eq!(line.take(b"k", window), (1, window));
}

#[test]
fn memory_is_full_at_its_bound_and_says_so() {
    let store = Memory::new(1 << 20);
    let mut line = Line::open(&store);
    let full = Err(StoreError::Full);
    assert_eq!(
        line.ask(set(b"k", &vec![0; 1 << 20], HOUR, When::Always)),
        full
    );
    assert_eq!(line.get(b"k"), None);
    line.set(b"k", b"v", HOUR, When::Always);
    for when in [When::Always, When::Present, When::Unchanged(b"v".to_vec())] {
        assert_eq!(line.ask(set(b"k", &vec![0; 1 << 20], None, when)), full);
        assert_same(line.get(b"k"), b"v");
    }
    assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
}

/// The Go service this one replaces reads and writes the same keys, side by side with it.
#[test]
fn redis_holds_a_plain_string_with_its_ttl() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    let minutes = Some(Duration::from_secs(1800));
    let json = br#"{"name":"Bob"}"#;
    for when in [
        When::Always,
        When::Present,
        When::Unchanged(json.to_vec()),
        When::Absent,
    ] {
        for ttl in [minutes, Some(Duration::from_millis(1_799_999))] {
            if when == When::Absent {
                line.delete(b"item:7", When::Always);
            }
            let answer = line.set(b"item:7", json, ttl, when.clone());
            assert_eq!(answer, Answer::Stored, "{when:?}");
            assert_eq!(redis.command(&["TYPE", "item:7"]), "string");
            assert_eq!(redis.command(&["GET", "item:7"]).as_bytes(), json);
            assert_pttl(&redis, "item:7", ttl);
        }
    }
    line.touch(b"item:7", HOUR);
    assert_pttl(&redis, "item:7", HOUR);
    line.take(b"rate:1", Duration::from_secs(60));
    assert_eq!(redis.command(&["GET", "rate:1"]), "1");
    assert_pttl(&redis, "rate:1", Some(Duration::from_secs(60)));

    redis.command(&["SET", "item:8", "{\"by\":\"Go\"}", "EX", "1800"]);
    assert_same(line.get(b"item:8"), b"{\"by\":\"Go\"}");
}

/// A crash between a SET and an EXPIRE would leave a key for ever: value and time travel in one command.
#[test]
fn a_plain_set_is_one_command_with_its_ttl() {
    let fake = FakeRedis::start(|_| Act::Usual);
    let store = store_on(&fake.addr());
    let mut line = Line::open(&store);
    let half = Some(Duration::from_millis(500));
    line.set(b"item:7", b"{}", HOUR, When::Always);
    line.set(b"item:7", b"{}", half, When::Absent);
    line.set(b"item:7", b"{}", None, When::Present);
    line.touch(b"sess:7", HOUR);
    let sent: Vec<String> = fake.commands().iter().map(|c| c.join(" ")).collect();
    assert_eq!(
        sent.iter().filter(|c| *c != "PING").collect::<Vec<_>>(),
        [
            "HELLO 3 SETNAME kioskd",
            "SET item:7 {} EX 3600",
            "SET item:7 {} PX 500 NX",
            "SET item:7 {} KEEPTTL XX",
            "GETEX sess:7 EX 3600",
        ]
    );
}

/// It is the question behind /readyz: would a write sent here now be served? A plain PING says yes to all of these.
#[test]
fn ping_fails_where_a_write_would() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    for (trouble, cure, code) in [
        (
            ["CONFIG", "SET", "maxmemory", "1"],
            ["CONFIG", "SET", "maxmemory", "0"],
            "OOM",
        ),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "NOREPLICAS",
        ),
    ] {
        redis.command(&trouble);
        assert_unavailable(&mut line, Command::Ping, code);
        redis.command(&cure);
        assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
    }
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_unavailable(&mut line, Command::Ping, "READONLY");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
    assert_eq!(
        redis.command(&["DBSIZE"]),
        "0",
        "asking leaves nothing behind"
    );
}

/// Somebody else's list under our key will not go away by waiting.
#[test]
fn a_key_of_another_type_is_refused() {
    let redis = Redis::start();
    redis.command(&["RPUSH", "k", "x"]);
    let mut line = Line::open(&store_on(&redis.addr()));
    for command in [
        get(b"k", None),
        get(b"k", HOUR),
        set(b"k", b"v", HOUR, When::Unchanged(b"x".into())),
        delete(b"k", When::Unchanged(b"x".into())),
        take(b"k"),
    ] {
        match line.ask(command.clone()) {
            Err(StoreError::Refused(why)) => assert!(why.contains("WRONGTYPE"), "{why}"),
            other => panic!("{command:?}: {other:?}"),
        }
    }
    assert_eq!(redis.command(&["LRANGE", "k", "0", "-1"]), "x");
    assert_eq!(line.set(b"k", b"v", HOUR, When::Present), Answer::Stored);
    assert_same(line.get(b"k"), b"v");
}

/// Reading goes on, and so does deleting: it is the way out.
#[test]
fn a_redis_out_of_memory_is_unavailable_to_writes_only() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    for key in [b"k", b"a", b"b", b"c"] {
        line.set(key, b"v", HOUR, When::Always);
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for command in writes() {
        assert_unavailable(&mut line, command, "OOM");
    }
    assert_same(line.get(b"k"), b"v");
    assert_same(line.touch(b"k", HOUR), b"v");
    assert_eq!(line.delete(b"a", When::Always), Answer::Deleted(true));
    assert_eq!(line.delete(b"b", When::Present), Answer::Deleted(true));
    let unchanged = When::Unchanged(b"v".into());
    assert_eq!(line.delete(b"c", unchanged), Answer::Deleted(true));

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(line.set(b"k", b"w", HOUR, When::Present), Answer::Stored);
}

/// A replica that was a master a moment ago. A condition judged on its old data would be a wrong answer, so whether it
/// holds there makes no difference: nothing is judged.
#[test]
fn a_read_only_replica_is_unavailable_to_everything_that_writes() {
    let redis = Redis::start();
    let mut line = Line::open(&store_on(&redis.addr()));
    line.set(b"k", b"v", HOUR, When::Always);
    // Of a master that is not there: it answers reads from what it has.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let stale = || When::Unchanged(b"stale".into());
    let deletes = [
        delete(b"k", When::Always),
        delete(b"k", When::Present),
        delete(b"none", When::Present),
        delete(b"k", When::Unchanged(b"v".into())),
        delete(b"k", stale()),
        set(b"k", b"w", HOUR, stale()),
        get(b"k", HOUR),
    ];
    for command in writes().into_iter().chain(deletes) {
        assert_unavailable(&mut line, command, "READONLY");
    }
    assert_same(line.get(b"k"), b"v");

    redis.command(&["REPLICAOF", "NO", "ONE"]);
    assert_same(line.get(b"k"), b"v");
    assert_eq!(line.set(b"k", b"w", HOUR, When::Present), Answer::Stored);
}

// ---- Helpers ----------------------------------------------------------------------------------

/// Runs `rule` over every store that keeps what it is given.
fn for_each_store(rule: impl Fn(&dyn Store)) {
    eprintln!("== memory");
    rule(&Memory::new(64 << 20));
    eprintln!("== redis");
    let redis = Redis::start();
    rule(&store_on(&redis.addr()));
}

/// Runs `rule` over every store there is.
fn for_every_store(rule: impl Fn(&dyn Store)) {
    eprintln!("== noop");
    rule(&Noop);
    for_each_store(rule);
}

fn store_on(address: &str) -> RedisStore {
    let endpoint = Endpoint::parse(address, 6379).expect("a host and a port");
    // Generous: what happens when a server is slow is not this suite's subject, and the machine may be.
    let options = Options {
        connect_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        ..Options::default()
    };
    RedisStore::new(Target::Single(endpoint), options)
}

/// A session that waits, and the commands as calls.
struct Line(Blocking);

impl Line {
    fn open(store: &dyn Store) -> Line {
        Line(Blocking::new(store).expect("the system has a poll left"))
    }

    fn ask(&mut self, command: Command) -> Result<Answer, StoreError> {
        self.0.call(command, Instant::now() + PATIENCE)
    }

    #[track_caller]
    fn answer(&mut self, command: Command) -> Answer {
        let asked = command.clone();
        self.ask(command)
            .unwrap_or_else(|error| panic!("{asked:?}: {error}"))
    }

    #[track_caller]
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        value_of(Ok(self.answer(get(key, None))))
    }

    #[track_caller]
    fn touch(&mut self, key: &[u8], ttl: Option<Duration>) -> Option<Vec<u8>> {
        value_of(Ok(self.answer(get(key, ttl))))
    }

    #[track_caller]
    fn set(&mut self, key: &[u8], value: &[u8], ttl: Option<Duration>, when: When) -> Answer {
        self.answer(set(key, value, ttl, when))
    }

    #[track_caller]
    fn delete(&mut self, key: &[u8], when: When) -> Answer {
        self.answer(delete(key, when))
    }

    #[track_caller]
    fn take(&mut self, key: &[u8], window: Duration) -> (u64, Duration) {
        let key = key.to_vec();
        match self.answer(Command::Take { key, window }) {
            Answer::Taken { count, resets_in } => (count, resets_in),
            other => panic!("{other:?}"),
        }
    }

    /// Brings a key into a state: this value for a long time, or absent.
    #[track_caller]
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.set(key, value, HOUR, When::Always),
            None => self.delete(key, When::Always),
        };
    }

    /// Asks for `key` until it is absent, which must not be before `due`.
    #[track_caller]
    fn wait_gone(&mut self, key: &[u8], due: Instant) {
        eventually("its time to live to end", || self.get(key).is_none());
        let early = due.saturating_duration_since(Instant::now());
        assert!(early <= CLOCKS_APART, "gone {early:?} too early");
    }

    /// Waits until something that lives this long, written now, is gone: so is whatever was to live as long before it.
    #[track_caller]
    fn outlive(&mut self, ttl: Duration) {
        self.set(b"witness", b"", Some(ttl), When::Always);
        self.wait_gone(b"witness", Instant::now());
    }
}

/// A loop around one session, as a worker of the poll front has it.
struct Loop {
    poll: Poll,
    session: Box<dyn Session>,
    _waker: Arc<Waker>,
}

impl Loop {
    fn open(store: &dyn Store) -> Loop {
        let poll = Poll::new().expect("the system has a poll left");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("and a waker"));
        let session = store.session(Wiring {
            registry: poll.registry(),
            first_token: 1,
            waker: Arc::clone(&waker),
        });
        Loop {
            poll,
            session: session.expect("a session needs no server yet"),
            _waker: waker,
        }
    }

    fn submit(&mut self, tag: Tag, command: Command) {
        let now = Instant::now();
        self.session.submit(now, tag, command, now + PATIENCE);
    }

    /// Turns until `wanted` answers are there. One too many, or two of one tag, is a fault.
    #[track_caller]
    fn run(&mut self, wanted: usize) -> HashMap<Tag, Result<Answer, StoreError>> {
        let mut answers = HashMap::new();
        let mut events = Events::with_capacity(16);
        loop {
            let mut done: Done = Vec::new();
            self.session.progress(Instant::now(), &mut done);
            for (tag, answer) in done {
                assert!(answers.insert(tag, answer).is_none(), "{tag} came twice");
            }
            if answers.len() >= wanted {
                assert_eq!(answers.len(), wanted);
                return answers;
            }
            let until = self.session.next_deadline();
            let wait = until.map(|t| t.saturating_duration_since(Instant::now()));
            self.poll.poll(&mut events, wait).expect("a poll");
            for event in events.iter().filter(|e| e.token() != Token(0)) {
                self.session.ready(event);
            }
        }
    }

    /// A few turns more: an answer that came now would be one too many.
    #[track_caller]
    fn assert_nothing_more(&mut self) {
        let mut events = Events::with_capacity(16);
        for _ in 0..5 {
            let mut done: Done = Vec::new();
            self.session.progress(Instant::now(), &mut done);
            assert!(done.is_empty(), "{done:?}");
            let moment = Some(Duration::from_millis(5));
            self.poll.poll(&mut events, moment).expect("a poll");
            for event in events.iter().filter(|e| e.token() != Token(0)) {
                self.session.ready(event);
            }
        }
    }
}

fn get(key: &[u8], touch: Option<Duration>) -> Command {
    let key = key.to_vec();
    Command::Get { key, touch }
}

fn set(key: &[u8], value: &[u8], ttl: Option<Duration>, when: When) -> Command {
    let (key, value) = (key.to_vec(), value.to_vec());
    Command::Set {
        key,
        value,
        ttl,
        when,
    }
}

fn delete(key: &[u8], when: When) -> Command {
    let key = key.to_vec();
    Command::Delete { key, when }
}

fn take(key: &[u8]) -> Command {
    let (key, window) = (key.to_vec(), Duration::from_secs(60));
    Command::Take { key, window }
}

/// Every command that makes the store hold more, on a `k` that is `v`.
fn writes() -> Vec<Command> {
    vec![
        set(b"k", b"w", HOUR, When::Always),
        set(b"k", b"w", None, When::Always),
        set(b"new", b"w", HOUR, When::Absent),
        set(b"k", b"w", HOUR, When::Present),
        set(b"k", b"w", HOUR, When::Unchanged(b"v".into())),
        set(b"k", b"w", None, When::Unchanged(b"v".into())),
        take(b"rate"),
    ]
}

#[track_caller]
fn value_of(answer: Result<Answer, StoreError>) -> Option<Vec<u8>> {
    match answer {
        Ok(Answer::Value(value)) => value,
        other => panic!("not an answer to a get: {other:?}"),
    }
}

/// Compares without printing a mebibyte when it fails.
#[track_caller]
fn assert_same(found: Option<Vec<u8>>, wanted: &[u8]) {
    let found = found.expect("something is there");
    let show = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    let (n, m) = (found.len(), wanted.len());
    assert!(
        found == wanted,
        "found {n} bytes, {}…, wanted {m}, {}…",
        show(&found),
        show(wanted)
    );
}

#[track_caller]
fn assert_unavailable(line: &mut Line, command: Command, code: &str) {
    match line.ask(command.clone()) {
        Err(StoreError::Unavailable(why)) => assert!(why.starts_with(code), "{why}"),
        other => panic!("{command:?}: {other:?}"),
    }
}

/// What is left of a key's time is at most `ttl`, and not a minute less: it was set just now.
#[track_caller]
fn assert_pttl(redis: &Redis, key: &str, ttl: Option<Duration>) {
    let ttl = ttl.expect("every key of ours has one").as_millis() as i64;
    let left: i64 = redis.command(&["PTTL", key]).parse().expect("a number");
    assert!((ttl - 59_000..=ttl).contains(&left), "{left} of {ttl} ms");
}
