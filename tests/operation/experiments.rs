//! What the documents tell a reader to type, typed; and what they say comes of it.
//!
//! The commands run as they stand: [`texts`](crate::support::texts) says how.

use crate::readme;
use crate::support::texts::{Block, Stage, assert_shown, blocks, script_of, section, until};
use crate::support::{needs_namespaces, temp_dir};
use std::collections::BTreeSet;
use std::path::Path;

const README: &str = include_str!("../../README.md");
const API: &str = include_str!("../../docs/api.md");
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const EXPERIMENTS: &str = include_str!("../../docs/experiments.md");
const FRONTS: &str = include_str!("../../docs/fronts.md");

/// The documents whose commands a test types, with the number of their blocks, and where.
const RUN: [(&str, usize, &str); 8] = [
    ("README.md", 4, "here"),
    ("api.md", 1, "here"),
    ("configuration.md", 1, "here"),
    ("experiments.md", 8, "here; the last block in sim/tests/texts.rs"),
    ("fronts.md", 8, "here"),
    ("ladder.md", 1, "tests/ladder"),
    ("simulation.md", 1, "sim/tests/texts.rs"),
    ("store.md", 1, "tests/ladder"),
];

/// Commands that no test types: by the first words of their block, and why not.
const NOT_RUN: [(&str, &str); 5] = [
    ("cargo run --no-default-features", "tests/run runs three suites on that build"),
    ("tests/run", "it is what runs this test"),
    ("cargo test --test file_store", "tests/run runs it"),
    (
        "podman build",
        "no container engine, and no registry, is to be had in a test; deploy/check-image",
    ),
    ("cargo install cargo-fuzz", "a nightly toolchain; tests/http/corpus.rs has the same checks"),
];

#[test]
fn every_block_of_commands_is_run_or_it_is_said_why_not() {
    let mut run = Vec::new();
    let mut excused = BTreeSet::new();
    for path in readme::texts() {
        let text = readme::read(&path);
        let is_command =
            |block: &Block<'_>| matches!(block.language, "" | "sh" | "bash" | "console");
        let mut count = 0;
        for block in blocks(&text).iter().filter(|block| is_command(block)) {
            let reason = NOT_RUN.iter().find(|(words, _)| block.text.starts_with(words));
            excused.extend(reason.map(|(words, _)| *words));
            count += usize::from(reason.is_none());
        }
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        if count > 0 {
            run.push((name, count));
        }
    }
    run.sort();
    let wanted: Vec<(String, usize)> = RUN.map(|(name, count, _)| (name.to_owned(), count)).into();
    assert_eq!(run, wanted, "what a document tells to type, a test types: see RUN");
    assert!(NOT_RUN.iter().all(|(words, _)| excused.contains(words)), "{excused:?}");
}

fn stage() -> Stage {
    needs_namespaces();
    let kioskd = Path::new(env!("CARGO_BIN_EXE_kioskd"));
    Stage::new(temp_dir(), &[("target/release/kioskd", kioskd), ("cargo run --release", kioskd)])
}

/// A conversation with what listens on `ports`, once `before` has started it.
#[track_caller]
fn follow(before: &str, ports: &[u16], console: &str) {
    let wait: String = ports.iter().copied().map(until).collect();
    assert_shown(console, &stage().play(&format!("{before}\n{wait}{}", script_of(console))));
}

#[test]
fn a_minute_with_it_is_as_the_readme_shows_it() {
    let blocks = blocks(section(README, "A minute with it"));
    let [start, minute, tests] = &blocks[..] else { panic!("three blocks") };
    assert_eq!(start.text, "cargo run --release");
    assert_eq!(tests.text, "tests/run");
    follow(&format!("({}) >log &", start.text), &[8080], minute.text);
}

#[test]
fn two_replicas_are_as_the_readme_shows_them() {
    let blocks = blocks(section(README, "Two replicas on one Redis"));
    let [start, talk, image] = &blocks[..] else { panic!("three blocks") };
    assert!(image.text.starts_with("podman build"));
    follow(&format!("exec 3>&1 >log\n{}\nexec >&3", start.text), &[8081, 8082], talk.text);
}

#[test]
fn the_reference_shows_what_happens() {
    for text in [API, CONFIGURATION] {
        let blocks = blocks(text);
        let [console] = &blocks[..] else { panic!("one block") };
        follow("target/release/kioskd >log &", &[8080], console.text);
    }
}

/// The commands of an experiment, and what they print, after the lines that all of them use.
#[track_caller]
fn experiment(heading: &str) -> (String, &'static str) {
    let first = EXPERIMENTS.find("\n## ").expect("headings");
    let common = blocks(&EXPERIMENTS[..first]);
    let blocks = blocks(section(EXPERIMENTS, heading));
    let [commands, shown] = &blocks[..] else { panic!("two blocks") };
    (stage().play(&format!("{}\n{}", common[0].text, commands.text)), shown.text)
}

macro_rules! experiments {
    ($($name:ident: $heading:literal;)*) => {$(
        #[test]
        fn $name() {
            let (printed, shown) = experiment($heading);
            assert_shown(shown, &printed);
        }
    )*};
}

experiments! {
    the_frozen_redis_is_as_shown: "Freeze Redis";
    one_byte_a_second_is_as_shown: "Send one byte a second";
    the_end_of_tiny_http_is_as_shown: "End tiny_http with one request";
    sessions_in_the_process_are_as_shown: "Keep sessions in the process";
    the_write_held_in_the_network_is_as_shown: "Hold a write in the network";
}

/// How many requests are refused in each second is another matter every time.
#[test]
fn the_killed_master_is_as_shown() {
    let (printed, shown) = experiment("Kill a master of a cluster under load");
    let is_second = |line: &&str| line.starts_with("second ");
    let others: Vec<&str> = shown.lines().filter(|line| !is_second(line)).collect();
    assert_shown(&others.join("\n"), &printed);
    let seconds: Vec<&str> = printed.lines().filter(is_second).collect();
    assert!(seconds.iter().any(|line| line.contains("502: ")), "{printed}");
    let last = seconds.last().expect("some");
    assert!(last.contains("204: ") && !last.contains("502: "), "{printed}");
}

/// What one fault of the laboratory prints on a front.
#[track_caller]
fn laboratory(fault: &str, front: &str) -> String {
    let all = blocks(FRONTS);
    let blocks = blocks(section(FRONTS, fault));
    let [commands] = &blocks[..] else { panic!("one block") };
    assert!(commands.text.contains("front tiny_http"));
    let commands = commands.text.replace("front tiny_http", &format!("front {front}"));
    stage().play(&format!("{}\n{commands}", all[0].text))
}

fn numbers(printed: &str) -> Vec<u64> {
    printed.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn fault_1_one_request_ends_the_process() {
    assert!(!laboratory("1. ", "tiny_http").contains("alive"));
    assert_eq!(laboratory("1. ", "poll"), "413\nalive\n");
}

#[test]
fn fault_2_a_head_has_no_end() {
    let plain = laboratory("2. ", "tiny_http");
    assert!(numbers(&plain)[0] > 100_000 && !plain.contains("HTTP"), "{plain}");
    let poll = laboratory("2. ", "poll");
    assert!(numbers(&poll)[0] < 30_000 && poll.contains("HTTP/1.1 431"), "{poll}");
}

#[test]
fn fault_3_nothing_times_out_and_every_connection_is_a_thread() {
    let plain = laboratory("3. ", "tiny_http");
    let [threads, connections] = numbers(&plain)[..] else { panic!("two numbers: {plain}") };
    assert!(threads > 60 && connections == 200, "{plain}");
    let poll = laboratory("3. ", "poll");
    let [threads, connections] = numbers(&poll)[..] else { panic!("two numbers: {poll}") };
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(threads <= 4 + workers && connections == 0, "{poll}");
}

/// It is a race, so nothing is known of the plain front.
#[test]
fn fault_4_a_burst_strands_some_connections() {
    assert!(laboratory("4. ", "tiny_http").ends_with(" of 50 answered\n"));
    assert_eq!(laboratory("4. ", "poll"), "50 of 50 answered\n");
}

#[test]
fn fault_5_too_many_open_files_once() {
    let plain = laboratory("5. ", "tiny_http");
    assert!(plain.contains("curl: (7)") && !plain.contains("alive"), "{plain}");
    let poll = laboratory("5. ", "poll");
    assert!(poll.contains("ok\n alive") || poll.contains("ok alive"), "{poll}");
}

#[test]
fn fault_6_another_version_and_a_byte_above_ascii() {
    let plain = laboratory("6. ", "tiny_http");
    assert!(!plain.contains("HTTP") && plain.ends_with("\nclosed\n"), "{plain}");
    let poll = laboratory("6. ", "poll");
    assert!(poll.contains("HTTP/1.1 505") && poll.ends_with("\nHTTP/1.1 200\nclosed\n"), "{poll}");
    let threads: Vec<&str> = poll.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert!(threads.len() == 2 && threads[0] == threads[1], "{poll}");
}

#[test]
fn fault_7_it_guesses_where_a_body_ends() {
    let answers = |front| {
        let printed = laboratory("7. ", front).replace("HTTP/1.1 ", "");
        printed.lines().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let (open, closed) = ("still open", "closed");
    assert_eq!(
        answers("tiny_http"),
        format!("400 200 {open} 400 200 {open} 400 400 {closed} 201 {open} 400 400 {closed}")
    );
    assert_eq!(
        answers("poll"),
        format!("400 {closed} 400 {closed} 400 {closed} 400 {closed} 201 {closed}")
    );
}

#[test]
fn what_is_shown_is_compared_but_for_what_differs() {
    assert_shown("a 0.1 s\n…c\n", "a 12.75 s\nb\nb c\nd");
    assert_shown("x…y…z", "x12y3z");
    assert_shown("x id=12 0ms…", "x id=abc 15ms and more");
    let fails = |shown: &'static str, printed: &'static str| {
        assert!(std::panic::catch_unwind(|| assert_shown(shown, printed)).is_err(), "{shown}");
    };
    fails("a\nb", "b\na");
    fails("a", "ab");
    fails("…a", "ab");
    fails("a…b", "ab c");
    fails("200 after 1 s", "404 after 1 s");
}
