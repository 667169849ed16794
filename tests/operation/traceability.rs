//! The texts that name tests as evidence are held to what is there: `docs/traceability.md` has every requirement once,
//! with a file and a test; each of `docs/experiments.md` names the test that shows the same; the functions of the tour
//! exist; and what `docs/from-go.md` quotes is in the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::readme::{code_words, read, root, rows, texts, without_blocks};

const TRACEABILITY: &str = include_str!("../../docs/traceability.md");
const EXPERIMENTS: &str = include_str!("../../docs/experiments.md");
const TOUR: &str = include_str!("../../docs/tour.md");
const FROM_GO: &str = include_str!("../../docs/from-go.md");

/// A38 and A39 were never given out.
fn ids() -> Vec<String> {
    let of = |document, numbers: std::ops::RangeInclusive<u32>| {
        numbers.map(move |n| format!("{document}{n:02}"))
    };
    of('A', 1..=37).chain(of('A', 40..=71)).chain(of('B', 1..=26)).collect()
}

/// The rows of the requirements: id, what we do, file, test.
fn requirements() -> Vec<Vec<&'static str>> {
    let rows = rows(TRACEABILITY).into_iter();
    rows.filter(|cells| cells.len() == 4 && cells[0] != "id" && !cells[0].starts_with("--"))
        .collect()
}

#[test]
fn every_requirement_has_its_row() {
    let shown: Vec<&str> = requirements().iter().map(|cells| cells[0]).collect();
    assert_eq!(shown, ids(), "each once, in this order");
}

#[test]
fn every_row_leads_to_a_file() {
    for cells in requirements() {
        let mut files = code_words(cells[2]).peekable();
        assert!(files.peek().is_some(), "{} names no file", cells[0]);
        for file in files {
            let found =
                [root().join(file), root().join("src").join(file)].iter().any(|p| p.exists());
            assert!(found, "{} names `{file}`, and there is none", cells[0]);
        }
    }
}

/// A test, a script, or in words why there is none.
#[test]
fn every_row_names_what_shows_it_or_says_why_nothing_does() {
    let functions = functions();
    for cells in requirements() {
        let (id, shown) = (cells[0], cells[3]);
        if ["by hand: ", "out of scope: "].iter().any(|reason| shown.starts_with(reason)) {
            continue;
        }
        assert!(shown.starts_with('`'), "{id}: {shown}");
        for name in code_words(shown) {
            let found = match name.contains('/') {
                true => root().join(name).exists(),
                false => functions.contains(name),
            };
            assert!(found, "{id} names `{name}`, and there is none");
        }
    }
}

/// Evidence that has been renamed or removed is none. Four words and more in a row are the name of a test, or of a
/// metric.
#[test]
fn every_test_that_the_texts_name_exists() {
    let functions = functions();
    let mut seen = 0;
    for path in texts() {
        let text = without_blocks(&read(&path));
        for name in code_words(&text).filter(|word| is_test(word)) {
            assert!(functions.contains(name), "{path:?} names a test `{name}`, and there is none");
            seen += 1;
        }
    }
    assert!(seen > 200, "only {seen} names found");
}

fn is_test(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && word.bytes().filter(|b| *b == b'_').count() >= 3
        && !word.starts_with("kioskd_")
}

#[test]
fn every_experiment_names_the_tests_that_show_the_same() {
    let experiments: Vec<&str> = EXPERIMENTS.split("\n## ").skip(1).collect();
    assert_eq!(experiments.len(), 7);
    for experiment in experiments {
        let title = experiment.lines().next().unwrap_or_default();
        let (_, named) = experiment.split_once("\nAs tests: ").unwrap_or_else(|| panic!("{title}"));
        assert!(code_words(named).any(is_test), "{title}");
    }
}

/// A tour through functions that have other names by now leads nowhere.
#[test]
fn every_function_of_the_tour_exists() {
    let mut functions = BTreeSet::new();
    collect_functions(&root().join("src"), &mut functions);
    let (_, life) = TOUR.split_once("## The life of one GET").expect("the tour has it");
    let block = life.split("```").nth(1).expect("the block is closed");
    let paths: Vec<&str> = block
        .lines()
        .filter_map(|line| line.trim_start().split([' ', '(']).next())
        .filter(|word| word.contains("::"))
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let (_, name) = path.rsplit_once("::").expect("it has two parts");
        assert!(functions.contains(name), "the tour names `{path}`, and there is none");
    }
}

/// Each block is of the file that was linked last. Between two parts of it stands `// …`.
#[test]
fn what_is_quoted_from_the_source_is_there() {
    let mut seen = 0;
    for (before, block) in blocks(FROM_GO) {
        let (_, link) = before.rsplit_once("](../").expect("a link to the file stands before");
        let (file, _) = link.split_once(')').expect("a link has an end");
        let source = read(&root().join(file));
        for part in parts(block) {
            assert!(source.contains(&part), "{file} has no such lines:\n{part}");
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} quotations found");
}

/// The blocks of Rust, each with all that stands before it.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("```rust\n").map(|(at, fence)| {
        let behind = &text[at + fence.len()..];
        (&text[..at], behind.split("```").next().unwrap_or(behind))
    })
}

/// Whole lines, with their indentation.
fn parts(block: &str) -> Vec<String> {
    let lines: Vec<&str> = block.lines().collect();
    let parts = lines.split(|line| line.trim() == "// …").filter(|part| !part.is_empty());
    parts.map(|part| part.iter().map(|line| format!("{line}\n")).collect()).collect()
}

/// A check that finds nothing says that all is well.
#[test]
fn the_check_of_evidence_sees_what_is_named() {
    assert!(is_test("a_name_of_a_test") && !is_test("kioskd_a_b_c") && !is_test("max_ttl"));
    let text = "[`a.rs`](../src/a.rs)\n```rust\n    a\n    // …\n    b\n    c\n```\n";
    let found: Vec<_> = blocks(text).map(|(_, block)| parts(block)).collect();
    assert_eq!(found, [["    a\n", "    b\n    c\n"]]);
    assert_eq!((ids().len(), &*ids()[37]), (95, "A40"));
}

/// All functions in `src`, `tests` and `sim`. (The rules of the store contract are `pub fn`; a macro makes tests of
/// them, one for each store.)
fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for folder in ["src", "tests", "sim/src", "sim/tests"] {
        collect_functions(&root().join(folder), &mut functions);
    }
    functions
}

fn collect_functions(folder: &Path, functions: &mut BTreeSet<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("failed to list {folder:?}: {e}"));
    for entry in entries {
        let path: PathBuf = entry.expect("an entry of a folder just listed").path();
        if path.is_dir() {
            collect_functions(&path, functions);
        } else if path.extension().is_some_and(|e| e == "rs") {
            for line in read(&path).lines() {
                let line = line.trim_start();
                if let Some((name, _)) = line
                    .strip_prefix("pub ")
                    .unwrap_or(line)
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split_once(['(', '<']))
                {
                    functions.insert(name.to_owned());
                }
            }
        }
    }
}
