//! What every store promises, a rule a function. The suites run them over the stores there are: `store_contract.rs` over
//! memory and one Redis, `cluster.rs` over a cluster, `file_store.rs` over the example of `docs/store.md`.
//!
//! Times to live here are short, and no rule sleeps through one: it asks until the value is gone, and then checks that
//! this was not too early by a clock that was started before the write. Where a value must outlive something, a witness
//! with the shorter time is written *later*, and when the witness is gone the value must still be there.

use kioskd::store::{Store, StoreError, Tag, Ttl};
use std::collections::HashMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::support::session::{self, Answer, Command, Done, Once, When, key};
use crate::support::{PATIENCE, eventually};

/// Hands the names of all rules to the macro `$with`: those for stores that keep what they are given, and those for
/// every store.
macro_rules! rules {
    ($with:ident) => {
        $with! {
            for_each_store:
                what_was_set_comes_back_byte_for_byte
                any_bytes_make_a_key_and_different_bytes_make_different_keys
                every_session_sees_what_another_wrote
                a_value_is_gone_after_its_ttl_and_not_before
                the_shortest_ttl_is_a_ttl
                a_new_value_has_a_new_ttl
                a_value_set_without_a_ttl_keeps_what_was_left_of_it
                a_read_renews_only_when_it_is_told_to
                nothing_that_gives_at_least_so_long_takes_away_what_is_left
                a_write_with_a_record_happens_once
                a_delete_with_a_record_happens_once
                a_look_before_a_write_gives_the_record_or_the_value
                a_name_belongs_to_its_key_whatever_that_is_made_of
                a_record_is_gone_after_its_ttl_and_not_before
                of_many_racing_writers_of_one_name_exactly_one_writes
                a_set_happens_when_its_condition_holds_and_else_changes_nothing
                a_delete_happens_when_its_condition_holds_and_else_changes_nothing
                an_unmet_condition_leaves_the_ttl_alone
                an_expired_value_is_absent_to_conditions
                unchanged_compares_every_byte_of_a_large_binary_value
                of_many_racing_conditional_writers_exactly_one_wins
                no_change_made_with_compare_and_set_is_lost
                many_commands_in_flight_are_each_answered_once_with_their_own_value
                large_values_in_one_batch_do_not_mix
                uses_are_counted_over_all_sessions
                a_count_starts_anew_after_its_window
                no_use_is_lost_when_many_take_at_once;
            for_every_store:
                what_was_never_set_is_absent
                ping_is_answered
                a_deadline_in_the_past_is_a_timeout_or_an_answer
                an_idle_session_has_nothing_to_say;
        }
    };
}
pub(crate) use rules;

pub const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

/// For a value that must still be there a few round trips later: plenty on a busy machine, and short enough to outlive.
const ENOUGH: Duration = Duration::from_secs(1);

/// Two clocks, ours and the server's, and the server's counts whole milliseconds.
const CLOCKS_APART: Duration = Duration::from_millis(10);

// ---- Values -----------------------------------------------------------------------------------

pub fn what_was_never_set_is_absent(store: &dyn Store) {
    let mut line = Line::open(store);
    assert_eq!(line.get(b"k"), None);
    // Renewing nothing creates nothing.
    assert_eq!(line.touch(b"k", HOUR), None);
    assert_eq!(line.get(b"k"), None);
}

pub fn what_was_set_comes_back_byte_for_byte(store: &dyn Store) {
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
}

pub fn any_bytes_make_a_key_and_different_bytes_make_different_keys(store: &dyn Store) {
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
}

pub fn every_session_sees_what_another_wrote(store: &dyn Store) {
    let (mut here, mut there) = (Line::open(store), Line::open(store));
    here.set(b"k", b"1", HOUR, When::Always);
    assert_same(there.get(b"k"), b"1");
    assert_eq!(there.delete(b"k", When::Always), Answer::Deleted(true));
    assert_eq!(here.get(b"k"), None);
}

// ---- Times to live ----------------------------------------------------------------------------

pub fn a_value_is_gone_after_its_ttl_and_not_before(store: &dyn Store) {
    let mut line = Line::open(store);
    // One of whole seconds and one that is not: Redis is told them in different units.
    for ms in [50, 150, 1000] {
        let ttl = Duration::from_millis(ms);
        let before = Instant::now();
        line.set(b"k", b"v", Some(ttl), When::Always);
        line.wait_gone(b"k", before + ttl);
        assert_eq!(line.delete(b"k", When::Always), Answer::Deleted(false));
    }
}

/// Redis refuses an expiry of zero, and less than a millisecond would be one.
pub fn the_shortest_ttl_is_a_ttl(store: &dyn Store) {
    let mut line = Line::open(store);
    for ttl in [Duration::from_nanos(1), Duration::from_micros(1001)] {
        for when in [When::Always, When::Absent] {
            let answer = line.set(b"k", b"v", Some(ttl), when);
            assert_eq!(answer, Answer::Stored);
            line.wait_gone(b"k", Instant::now());
        }
        line.set(b"k", b"v", HOUR, When::Always);
        line.set(b"k", b"w", Some(ttl), When::Unchanged(b"v".into()));
        line.wait_gone(b"k", Instant::now());
    }
}

pub fn a_new_value_has_a_new_ttl(store: &dyn Store) {
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
}

/// PATCH changes a document and not how long it lives. Were the time lost with the old value, the key would stay for
/// ever and `wait_gone` would run into its patience.
pub fn a_value_set_without_a_ttl_keeps_what_was_left_of_it(store: &dyn Store) {
    let mut line = Line::open(store);
    let whens =
        [When::Always, When::Present, When::Unchanged(b"v".into()), When::Unchanged(b"v2".into())];
    let before = Instant::now();
    line.set(b"k", b"v", Some(ENOUGH), When::Always);
    for (when, value) in whens.into_iter().zip([b"v1", b"v ", b"v2", b"v3"]) {
        // The third condition wants the value of the first write.
        let value = value.trim_ascii();
        assert_eq!(line.set(b"k", value, None, when), Answer::Stored);
        assert_same(line.get(b"k"), value);
    }
    line.wait_gone(b"k", before + ENOUGH);
}

pub fn a_read_renews_only_when_it_is_told_to(store: &dyn Store) {
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
    line.set(b"k", b"v", Some(ttl / 2), When::Always);
    line.touch(b"k", Some(ttl));
    line.wait_gone(b"k", before + ttl / 2);
    assert_eq!(line.touch(b"k", HOUR), None, "what is gone stays gone");
    assert_eq!(line.get(b"k"), None);
}

/// A session that was opened for a day and read once ended half an hour later.
pub fn nothing_that_gives_at_least_so_long_takes_away_what_is_left(store: &dyn Store) {
    let mut line = Line::open(store);
    let at_least = |when: When, ttl, value: &[u8]| Command::Set {
        key: key(b"k"),
        value: value.to_vec().into(),
        ttl: Ttl::AtLeast(ttl),
        when,
        once: None,
    };
    let brief = Duration::from_millis(20);
    line.set(b"k", b"v", HOUR, When::Always);
    assert_same(line.touch(b"k", Some(brief)), b"v");
    for (when, value) in
        [(When::Unchanged(b"v".into()), b"1"), (When::Present, b"2"), (When::Always, b"3")]
    {
        assert_eq!(line.answer(at_least(when, brief, value)), Answer::Stored);
    }
    line.outlive(brief);
    assert_same(line.get(b"k"), b"3");
    // And it gives what is missing.
    for when in [When::Unchanged(b"v".into()), When::Present, When::Always] {
        line.set(b"k", b"v", Some(ENOUGH), When::Always);
        let set = at_least(when, Duration::from_secs(3600), b"w");
        assert_eq!(line.answer(set), Answer::Stored);
    }
    line.outlive(ENOUGH);
    assert_same(line.get(b"k"), b"w");
    // What is absent has nothing that could be more.
    line.delete(b"k", When::Always);
    let before = Instant::now();
    assert_eq!(line.answer(at_least(When::Absent, brief, b"x")), Answer::Stored);
    line.wait_gone(b"k", before + brief);
}

// ---- Writes that happen once --------------------------------------------------------------------

pub fn once(name: &str, fingerprint: u8, keeps_value: bool) -> Option<Once> {
    Some(Once {
        name: name.as_bytes().to_vec().into(),
        fingerprint: [fingerprint; 32],
        ttl: Duration::from_secs(3600),
        keeps_value,
    })
}

fn set_once(name: &[u8], value: &[u8], when: When, once: Option<Once>) -> Command {
    Command::Set {
        key: key(name),
        value: value.to_vec().into(),
        ttl: Ttl::Exactly(Duration::from_secs(3600)),
        when,
        once: once.map(Box::new),
    }
}

fn delete_once(name: &[u8], when: When, once: Option<Once>) -> Command {
    Command::Delete { key: key(name), when, once: once.map(Box::new) }
}

fn recorded(fingerprint: u8, there: bool, value: &[u8]) -> Answer {
    let there: &[u8] = if there { b"1" } else { b"0" };
    Answer::Recorded([&[fingerprint; 32], there, value].concat())
}

/// For each condition on each state of a key: where it holds, the write is done and every later one of that name, alike or
/// not, finds its record and does nothing, whatever has become of the key; where it does not, nothing is recorded.
pub fn a_write_with_a_record_happens_once(store: &dyn Store) {
    let mut line = Line::open(store);
    for (n, (when, before, holds)) in conditions().into_iter().enumerate() {
        for keeps_value in [false, true] {
            let context = format!("{when:?} on {before:?}");
            let name = format!(":{n}{keeps_value}");
            let (there, again) = (before.is_some(), once(&name, b'a', keeps_value));
            line.put(b"k", before);
            let answer = line.answer(set_once(b"k", b"new", when.clone(), again.clone()));
            if !holds {
                assert_eq!(answer, Answer::Unmet, "{context}");
                assert_eq!(line.get(b"k").as_deref(), before, "{context}");
                // Nothing is recorded: when it holds, it is done.
                let answer = line.answer(set_once(b"k", b"new", When::Always, again));
                assert_eq!(answer, Answer::Done { there }, "{context}");
                continue;
            }
            assert_eq!(answer, Answer::Done { there }, "{context}");
            assert_same(line.get(b"k"), b"new");
            let record = recorded(b'a', there, if keeps_value { b"new" } else { b"" });
            for after in [None, Some(&b"other"[..]), before] {
                line.put(b"k", after);
                let alike = set_once(b"k", b"new", when.clone(), again.clone());
                let unlike = set_once(b"k", b"x", When::Always, once(&name, b'b', false));
                let removal = delete_once(b"k", When::Always, again.clone());
                let look =
                    Command::Get { key: key(b"k"), renew: None, once: again.clone().map(Box::new) };
                for command in [alike, unlike, removal, look] {
                    assert_eq!(line.answer(command), record, "{context}");
                }
                assert_eq!(line.get(b"k").as_deref(), after, "{context}");
            }
        }
    }
}

pub fn a_delete_with_a_record_happens_once(store: &dyn Store) {
    let mut line = Line::open(store);
    for (n, (when, before, holds)) in conditions().into_iter().enumerate() {
        let (context, name) = (format!("{when:?} on {before:?}"), format!(":{n}"));
        let (there, again) = (before.is_some(), once(&name, b'a', false));
        line.put(b"k", before);
        let answer = line.answer(delete_once(b"k", when.clone(), again.clone()));
        if !holds {
            assert_eq!(answer, Answer::Unmet, "{context}");
            assert_eq!(line.get(b"k").as_deref(), before, "{context}");
            continue;
        }
        assert_eq!(answer, Answer::Done { there }, "{context}");
        assert_eq!(line.get(b"k"), None, "{context}");
        line.put(b"k", Some(b"later"));
        let answer = line.answer(delete_once(b"k", when.clone(), again));
        assert_eq!(answer, recorded(b'a', there, b""), "{context}");
        assert_same(line.get(b"k"), b"later");
    }
}

pub fn a_look_before_a_write_gives_the_record_or_the_value(store: &dyn Store) {
    let mut line = Line::open(store);
    let look = || Command::Get {
        key: key(b"k"),
        renew: None,
        once: once(":n", b'a', false).map(Box::new),
    };
    assert_eq!(line.answer(look()), Answer::Value(None));
    for value in [&b"v"[..], b"", &[b'x'; 1 << 20]] {
        line.put(b"k", Some(value));
        assert_eq!(line.answer(look()), Answer::Value(Some(value.to_vec())));
    }
    line.answer(set_once(b"k", b"w", When::Always, once(":n", b'a', false)));
    assert_eq!(line.answer(look()), recorded(b'a', true, b""));
}

/// Braces make hash tags, and a record has to be in the slot of its item. No two of these may share one.
pub fn a_name_belongs_to_its_key_whatever_that_is_made_of(store: &dyn Store) {
    let mut line = Line::open(store);
    let keys = [
        "item:7",
        "item:{a}b",
        "item:{a}c",
        "item:a}b",
        "item:a}c",
        "item:{}x",
        "item:}{a}",
        "item:{a",
        "item:a}",
        "item:{{a}}",
        "sess:7",
        "item:{item:7}",
        "item:\u{1F32D}{\u{1F32D}}",
    ];
    for key in keys {
        let write =
            |value| set_once(key.as_bytes(), value, When::Always, once(":{}n}", b'a', true));
        assert_eq!(line.answer(write(b"1")), Answer::Done { there: false }, "{key}");
        assert_eq!(line.answer(write(b"2")), recorded(b'a', false, b"1"), "{key}");
        assert_same(line.get(key.as_bytes()), b"1");
    }
}

pub fn a_record_is_gone_after_its_ttl_and_not_before(store: &dyn Store) {
    let mut line = Line::open(store);
    let ttl = Duration::from_millis(100);
    let brief = once(":n", b'a', false).map(|once| Once { ttl, ..once });
    let write = || set_once(b"k", b"v", When::Always, brief.clone());
    let before = Instant::now();
    assert_eq!(line.answer(write()), Answer::Done { there: false });
    eventually("the record to be gone", || line.answer(write()) == Answer::Done { there: true });
    assert!(before.elapsed() + CLOCKS_APART >= ttl, "too early");
}

/// Many send the same at the same moment: it is done once, and all others find the record of that.
pub fn of_many_racing_writers_of_one_name_exactly_one_writes(store: &dyn Store) {
    let writers = 8;
    let mut line = Line::open(store);
    for round in 0..20 {
        let (barrier, name) = (Barrier::new(writers), format!(":{round}"));
        line.put(b"k", None);
        let write = |n: usize| {
            let mut line = Line::open(store);
            barrier.wait();
            let value = [b'0' + n as u8];
            line.answer(set_once(b"k", &value, When::Always, once(&name, b'a', true)))
        };
        let write = &write;
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|n| scope.spawn(move || write(n))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer")).collect()
        });
        let value = line.get(b"k").expect("one has written");
        let done = answers.iter().filter(|a| **a == Answer::Done { there: false });
        assert_eq!(done.count(), 1, "{answers:?}");
        let others = answers.iter().filter(|a| **a == recorded(b'a', false, &value));
        assert_eq!(others.count(), writers - 1, "{answers:?}");
    }
}

// ---- Conditions -------------------------------------------------------------------------------

/// Each condition on each state of a key. `None` is absent; a row holds or it does not.
pub fn conditions() -> Vec<(When, Option<&'static [u8]>, bool)> {
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
        (When::Unchanged(Vec::new().into()), None, false),
        (When::Unchanged(Vec::new().into()), Some(b""), true),
        (When::Unchanged(Vec::new().into()), Some(b"old"), false),
    ]
}

pub fn a_set_happens_when_its_condition_holds_and_else_changes_nothing(store: &dyn Store) {
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
}

/// `Absent` could only remove what is not there: it never acts, and never says that it did.
pub fn a_delete_happens_when_its_condition_holds_and_else_changes_nothing(store: &dyn Store) {
    let mut line = Line::open(store);
    for (when, before, holds) in conditions() {
        line.put(b"k", before);
        let answer = line.delete(b"k", when.clone());
        let (wanted, after) = match holds {
            false => (Answer::Unmet, before),
            true => (Answer::Deleted(before.is_some()), None),
        };
        assert_eq!(answer, wanted, "{when:?} on {before:?}");
        assert_eq!(line.get(b"k").as_deref(), after, "{when:?} on {before:?}");
    }
}

pub fn an_unmet_condition_leaves_the_ttl_alone(store: &dyn Store) {
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
}

pub fn an_expired_value_is_absent_to_conditions(store: &dyn Store) {
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
}

pub fn unchanged_compares_every_byte_of_a_large_binary_value(store: &dyn Store) {
    let mut line = Line::open(store);
    let old: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 5) as u8).collect();
    let new: Vec<u8> = old.iter().map(|b| !b).collect();
    line.set(b"k", &old, HOUR, When::Always);
    for at in [0, old.len() / 2, old.len() - 1] {
        let mut other = old.clone();
        other[at] ^= 1;
        let answer = line.set(b"k", &new, HOUR, When::Unchanged(other.clone().into()));
        assert_eq!(answer, Answer::Unmet, "byte {at}");
        let answer = line.delete(b"k", When::Unchanged(other.into()));
        assert_eq!(answer, Answer::Unmet, "byte {at}");
    }
    let answer = line.set(b"k", &new, HOUR, When::Unchanged(old.into()));
    assert_eq!(answer, Answer::Stored);
    assert_same(line.get(b"k"), &new);
    assert_eq!(line.delete(b"k", When::Unchanged(new.into())), Answer::Deleted(true));
    assert_eq!(line.get(b"k"), None);
}

// ---- Many at once -----------------------------------------------------------------------------

/// The promise of `If-Match`: of 32 concurrent writers with one ETag exactly one succeeds. The same for the two other
/// conditions that only one can meet.
pub fn of_many_racing_conditional_writers_exactly_one_wins(store: &dyn Store) {
    const WRITERS: usize = 32;
    type Race = fn(Vec<u8>) -> Command;
    let races: [(Option<&[u8]>, Race); 4] = [
        (Some(b"old"), |mine| set(b"k", &mine, HOUR, When::Unchanged(b"old".into()))),
        (None, |mine| set(b"k", &mine, HOUR, When::Absent)),
        (Some(b"old"), |_| delete(b"k", When::Present)),
        (Some(b"old"), |_| delete(b"k", When::Unchanged(b"old".into()))),
    ];
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
            writers.into_iter().map(|w| w.join().expect("no writer panics")).collect()
        });
        let winners: Vec<_> =
            answers.iter().filter(|(_, answer)| *answer != Answer::Unmet).collect();
        match winners[..] {
            [(n, Answer::Stored)] => assert_same(line.get(b"k"), n.to_string().as_bytes()),
            [(_, Answer::Deleted(true))] => assert_eq!(line.get(b"k"), None),
            _ => panic!("winners: {winners:?}"),
        }
    }
}

/// The loop every PATCH is: read, change, write if unchanged, else again.
pub fn no_change_made_with_compare_and_set_is_lost(store: &dyn Store) {
    const WRITERS: usize = 4;
    const CHANGES: usize = 25;
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
                        let when = When::Unchanged(old.into());
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
}

/// A session driven by a loop of our own, as the poll front drives it, and all commands submitted before the first is
/// looked at. Tags are the caller's and say nothing about order.
pub fn many_commands_in_flight_are_each_answered_once_with_their_own_value(store: &dyn Store) {
    const N: u64 = 2000;
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
            1 => set(&key(n), b"new", HOUR, When::Unchanged(value(n).into())),
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
}

pub fn large_values_in_one_batch_do_not_mix(store: &dyn Store) {
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
}

// ---- Counting ---------------------------------------------------------------------------------

pub fn uses_are_counted_over_all_sessions(store: &dyn Store) {
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
}

/// It takes all the time: a window that every use prolonged would never end.
pub fn a_count_starts_anew_after_its_window(store: &dyn Store) {
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
}

pub fn no_use_is_lost_when_many_take_at_once(store: &dyn Store) {
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
}

// ---- Sessions ---------------------------------------------------------------------------------

pub fn ping_is_answered(store: &dyn Store) {
    let mut line = Line::open(store);
    for _ in 0..3 {
        assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
    }
}

/// Whether it ran is not said, so both are allowed, but it must be one of them and soon. On the first session there is
/// no connection yet, on the second there is. A reply that comes for somebody who gave up is not the next one's.
pub fn a_deadline_in_the_past_is_a_timeout_or_an_answer(store: &dyn Store) {
    for warm in [false, true] {
        let mut line = Line::open(store);
        if warm {
            assert_eq!(line.ask(Command::Ping), Ok(Answer::Pong));
        }
        let past = Instant::now();
        for n in 0..50 {
            let key = format!("k{n}").into_bytes();
            let value = format!("v{n}").into_bytes();
            for command in [set(&key, &value, HOUR, When::Always), get(&key, None), Command::Ping] {
                let answer = line.0.ask_until(command.clone(), past);
                let answer_fits = match (&command, &answer) {
                    (_, Err(StoreError::Timeout)) => true,
                    // It was not even sent.
                    (_, Err(StoreError::Unreachable(_))) => !warm,
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
}

pub fn an_idle_session_has_nothing_to_say(store: &dyn Store) {
    let mut turn = Loop::open(store);
    turn.assert_nothing_more();
    turn.submit(7, Command::Ping);
    assert_eq!(turn.run(1)[&7], Ok(Answer::Pong));
    turn.assert_nothing_more();
}
// ---- Helpers ----------------------------------------------------------------------------------

/// A session that waits, and the commands as calls.
pub struct Line(session::Line);

impl Line {
    pub fn open(store: &dyn Store) -> Line {
        Line(session::Line::open(store, PATIENCE))
    }

    pub fn ask(&mut self, command: Command) -> Result<Answer, StoreError> {
        self.0.ask(command)
    }

    #[track_caller]
    pub fn answer(&mut self, command: Command) -> Answer {
        let asked = command.clone();
        self.ask(command).unwrap_or_else(|error| panic!("{asked:?}: {error}"))
    }

    #[track_caller]
    pub fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        value_of(Ok(self.answer(get(key, None))))
    }

    #[track_caller]
    pub fn touch(&mut self, key: &[u8], ttl: Option<Duration>) -> Option<Vec<u8>> {
        value_of(Ok(self.answer(get(key, ttl))))
    }

    #[track_caller]
    pub fn set(&mut self, key: &[u8], value: &[u8], ttl: Option<Duration>, when: When) -> Answer {
        self.answer(set(key, value, ttl, when))
    }

    #[track_caller]
    pub fn delete(&mut self, key: &[u8], when: When) -> Answer {
        self.answer(delete(key, when))
    }

    #[track_caller]
    pub fn take(&mut self, key: &[u8], window: Duration) -> (u64, Duration) {
        match self.answer(Command::Take { key: self::key(key), window }) {
            Answer::Taken { count, resets_in } => (count, resets_in),
            other => panic!("{other:?}"),
        }
    }

    /// Brings a key into a state: this value for a long time, or absent.
    #[track_caller]
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.set(key, value, HOUR, When::Always),
            None => self.delete(key, When::Always),
        };
    }

    /// Asks for `key` until it is absent, which must not be before `due`.
    #[track_caller]
    pub fn wait_gone(&mut self, key: &[u8], due: Instant) {
        eventually("its time to live to end", || self.get(key).is_none());
        let early = due.saturating_duration_since(Instant::now());
        assert!(early <= CLOCKS_APART, "gone {early:?} too early");
    }

    /// Waits until something that lives this long, written now, is gone: so is whatever was to live as long before it.
    #[track_caller]
    pub fn outlive(&mut self, ttl: Duration) {
        self.set(b"witness", b"", Some(ttl), When::Always);
        self.wait_gone(b"witness", Instant::now());
    }
}

/// A [`session::Loop`], with answers that are counted.
pub struct Loop(session::Loop);

impl Loop {
    pub fn open(store: &dyn Store) -> Loop {
        Loop(session::Loop::open(store))
    }

    pub fn submit(&mut self, tag: Tag, command: Command) {
        self.0.submit(tag, command, PATIENCE);
    }

    /// Turns until `wanted` answers are there. One too many, or two of one tag, is a fault.
    #[track_caller]
    pub fn run(&mut self, wanted: usize) -> HashMap<Tag, Result<Answer, StoreError>> {
        let mut answers = HashMap::new();
        while answers.len() < wanted {
            let mut done = Done::new();
            self.0.turn(PATIENCE, &mut done);
            for (tag, answer) in done {
                assert!(answers.insert(tag, answer).is_none(), "{tag} came twice");
            }
        }
        assert_eq!(answers.len(), wanted);
        answers
    }

    /// A few turns more: an answer that came now would be one too many.
    #[track_caller]
    pub fn assert_nothing_more(&mut self) {
        for _ in 0..5 {
            let mut done = Done::new();
            self.0.turn(Duration::from_millis(5), &mut done);
            assert!(done.is_empty(), "{done:?}");
        }
    }
}

pub fn get(name: &[u8], renew: Option<Duration>) -> Command {
    Command::Get { key: key(name), renew, once: None }
}

pub fn set(name: &[u8], value: &[u8], ttl: Option<Duration>, when: When) -> Command {
    Command::Set {
        key: key(name),
        value: value.to_vec().into(),
        ttl: ttl.map_or(Ttl::Keep, Ttl::Exactly),
        when,
        once: None,
    }
}

pub fn delete(name: &[u8], when: When) -> Command {
    Command::Delete { key: key(name), when, once: None }
}

pub fn take(name: &[u8]) -> Command {
    Command::Take { key: key(name), window: Duration::from_secs(60) }
}

#[track_caller]
pub fn value_of(answer: Result<Answer, StoreError>) -> Option<Vec<u8>> {
    match answer {
        Ok(Answer::Value(value)) => value,
        other => panic!("not an answer to a get: {other:?}"),
    }
}

/// Compares without printing a mebibyte when it fails.
#[track_caller]
pub fn assert_same(found: Option<Vec<u8>>, wanted: &[u8]) {
    let found = found.expect("something is there");
    let show = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    let (n, m) = (found.len(), wanted.len());
    assert!(found == wanted, "found {n} bytes, {}…, wanted {m}, {}…", show(&found), show(wanted));
}
