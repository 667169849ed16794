//! Eight programs, each with one idea more, before one list of checks: the score rises, and the last gets all.
//!
//! ```text
//! examples/step1 … step7, kioskd  ×  CHECKS  ─▶  a table, which must be the one in docs/ladder.md
//! ```
//!
//! Every check starts its own server, so none can spoil another. Where a step never answers, its check waits for
//! [`client::SILENCE`]; the steps run at the same time, since they mostly wait.

#![cfg(feature = "poll")] // The last step is the default build, and three others stand on mio.

#[path = "../support/mod.rs"]
mod support;

mod checks;
mod client;

use checks::{CHECKS, Outcome, Scene};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use support::{Redis, needs_namespaces, temp_dir, texts};

/// The last is the program itself.
const STEPS: [&str; 8] = [
    "step1_one_connection",
    "step2_parser",
    "step3_threads",
    "step4_redis",
    "step5_loop",
    "step6_pipelining",
    "step7_drain",
    "kioskd",
];

/// How many of the [`CHECKS`] each step passes. The table in the document says which.
const SCORES: [usize; 8] = [1, 13, 14, 17, 20, 22, 25, 29];

/// More lines than this and a step is no step.
const LINES_MAX: usize = 250;

/// Checks of one step.
const AT_A_TIME: usize = 6;

const DOCUMENT: &str = include_str!("../../docs/ladder.md");

#[test]
fn the_score_rises_from_step_to_step() {
    build_what_is_old();
    let columns: Vec<Vec<Outcome>> = std::thread::scope(|scope| {
        let steps: Vec<_> = STEPS.iter().map(|step| scope.spawn(|| climb(step))).collect();
        let join = |step: std::thread::ScopedJoinHandle<'_, _>| {
            step.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        steps.into_iter().map(join).collect()
    });
    let table = table(&columns);
    println!("{table}");
    for (step, column) in STEPS.iter().zip(&columns) {
        for (check, result) in CHECKS.iter().zip(column) {
            if let Err(why) = result {
                println!("{step}: {}: {why}", check.name);
            }
        }
    }
    let measured: Vec<&str> = table.lines().collect();
    let written: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with('|')).collect();
    let written = &written[..measured.len().min(written.len())];
    assert!(measured == written, "docs/ladder.md shows another table than was measured:\n{table}");
    let scores: Vec<usize> = columns.iter().map(|column| score(column)).collect();
    assert_eq!(scores, SCORES);
}

/// The last paragraph of a step's prologue says where the service has the same idea.
#[test]
fn every_step_leads_to_files_of_the_service() {
    for step in &STEPS[..7] {
        let text = std::fs::read_to_string(source(step)).expect("a step has its source");
        let (_, places) = text.split_once("//! In src/: ").expect("it says where");
        let (places, _) = places.split_once("\n\n").expect("a prologue ends");
        let files = places.split('`').filter(|word| word.ends_with(".rs"));
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut count = 0;
        for file in files {
            assert!(src.join(file).is_file(), "{step}: no src/{file}");
            count += 1;
        }
        assert!(count > 0, "{step} names no file");
    }
}

#[test]
fn every_step_is_short_enough_to_be_read_at_once() {
    for step in &STEPS[..7] {
        let lines = lines(step);
        assert!(lines <= LINES_MAX, "{step}: {lines} lines");
        let link = format!("(../examples/{step}.rs), {lines} lines");
        assert!(DOCUMENT.contains(&link), "docs/ladder.md should say `{link}`");
    }
}

/// The first line of these is for one terminal, the rest for another.
#[test]
fn the_documents_start_a_step_and_a_store() {
    build_what_is_old();
    needs_namespaces();
    let programs = [
        ("cargo run --example step3_threads", &*program("step3_threads")),
        ("cargo run --example file_store -- items", &*program("file_store")),
    ];
    let ladder = texts::blocks(DOCUMENT);
    let store = texts::blocks(include_str!("../../docs/store.md"));
    assert!(ladder.len() == 1 && store.len() == 2);
    for (block, wanted) in [(&ladder[0], "{\"name\":\"Bob\"}"), (&store[0], "")] {
        let (start, ask) = block.text.split_once('\n').expect("more than a line");
        let until = texts::until(8080);
        let script = format!("({start}\n) >log 2>&1 &\n{until}{ask} -w ' %{{http_code}}'");
        let printed = texts::Stage::new(temp_dir(), &programs).play(&script);
        let is_right = printed.contains(" 201") || printed.contains(" 200");
        assert!(is_right && printed.contains(wanted), "{printed}");
    }
    // The other block is what `cargo test` does in any case.
    assert_eq!(store[1].text, "cargo test --test file_store");
}

/// All checks of one step, a few at a time: most of a check that fails is waiting. Each thread has a Redis of its own,
/// and takes the next check when it is done.
fn climb(step: &str) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![Ok(()); CHECKS.len()]);
    let work = || {
        let mut scene = Scene { program: program(step), redis: Redis::start() };
        while let Some(check) = CHECKS.get(next.fetch_add(1, Ordering::SeqCst)) {
            scene.redis.command(&["FLUSHALL"]);
            let result = (check.run)(&mut scene);
            scene.redis.cont();
            let at = CHECKS.iter().position(|other| other.name == check.name);
            let mut results = results.lock().expect("no check panics while it holds this");
            results[at.expect("it is one of them")] = result;
        }
    };
    std::thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    results.into_inner().expect("no check panics while it holds this")
}

fn score(column: &[Outcome]) -> usize {
    column.iter().filter(|result| result.is_ok()).count()
}

/// As the document has it.
fn table(columns: &[Vec<Outcome>]) -> String {
    let mut text = String::from(
        "| step | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (n, check) in CHECKS.iter().enumerate() {
        let marks = columns.iter().map(|column| if column[n].is_ok() { " ✓ |" } else { " · |" });
        let _ = writeln!(text, "| {} |{}", check.name, marks.collect::<String>());
    }
    let scores = columns.iter().map(|column| format!(" **{}** |", score(column)));
    let _ = writeln!(text, "| **of {}** |{}", CHECKS.len(), scores.collect::<String>());
    text
}

fn source(step: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(format!("{step}.rs"))
}

fn lines(step: &str) -> usize {
    std::fs::read_to_string(source(step)).expect("a step has its source").lines().count()
}

/// Where cargo puts it: the examples have a folder beside the program.
fn program(step: &str) -> PathBuf {
    let kioskd = Path::new(env!("CARGO_BIN_EXE_kioskd"));
    if step == "kioskd" { kioskd.to_owned() } else { kioskd.with_file_name("examples").join(step) }
}

/// `cargo test` builds the examples, `cargo test --test ladder` does not: then it is done here.
fn build_what_is_old() {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified());
    let newest = STEPS[..7].iter().filter_map(|step| changed(&source(step)).ok()).max();
    let newest = newest.unwrap_or_else(SystemTime::now);
    let is_new = |step: &str| changed(&program(step)).is_ok_and(|built| built >= newest);
    if STEPS[..7].iter().all(|step| is_new(step)) {
        return;
    }
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--examples", "--profile", profile, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success)
            && STEPS[..7].iter().all(|step| program(step).exists()),
        "the steps of the ladder are not built; run `cargo build --examples` first ({status:?})"
    );
}
