//! The documents' commands of the simulator, run as they stand; see `tests/support/texts.rs`.

#[allow(dead_code)] // The other user of it has more documents.
#[path = "../../tests/support/texts.rs"]
mod texts;

use std::path::Path;
use texts::{Stage, assert_shown, blocks, script_of, section};

/// Runs commands in a folder where `tests/simulate` is the program of this build.
fn play(name: &str, script: &str) -> String {
    let folder = std::env::temp_dir().join(format!("kioskd-{name}-{}", std::process::id()));
    let simulate = Path::new(env!("CARGO_BIN_EXE_kioskd-sim"));
    Stage::new(folder, &[("tests/simulate", simulate)]).play(script)
}

/// How many requests and faults a world has is another matter whenever the code has changed.
fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn a_world_is_run_as_shown() {
    let document = include_str!("../../docs/simulation.md");
    let blocks = blocks(section(document, "Run a world"));
    let [console] = &blocks[..] else { panic!("one block") };
    let printed = play("world", &script_of(console.text));
    assert_shown(&without_numbers(console.text), &without_numbers(&printed));
}

#[test]
fn a_world_is_replayed_as_shown() {
    let document = include_str!("../../docs/experiments.md");
    let blocks = blocks(section(document, "Replay a world"));
    let [commands, shown] = &blocks[..] else { panic!("two blocks") };
    let printed = play("replay", commands.text);
    // What is frozen, and when, changes with the code as well.
    let is_story = |line: &str| line.contains("frozen") || line.contains("stands still");
    let digests: Vec<&str> = shown.text.lines().filter(|line| !is_story(line)).collect();
    assert_shown(&without_numbers(&digests.join("\n")), &without_numbers(&printed));
    assert!(printed.lines().any(is_story), "{printed}");
    let seeds: Vec<&str> = printed.lines().filter(|line| line.starts_with("seed 5 ")).collect();
    assert!(seeds.len() == 2 && seeds[0] == seeds[1], "{printed}");
}
