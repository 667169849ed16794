//! The README is held to the program: its table of settings, the files it leads to and the tests it names as evidence.
//!
//! A table that somebody keeps by hand is right on the day it is written. Here `config::SETTINGS` is the one list, and
//! the README and `--help` show it word for word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Kioskd;
use kioskd::config::{NOT_BUILT, SETTINGS};

const README: &str = include_str!("../../README.md");

#[test]
#[cfg_attr(not(feature = "poll"), ignore = "the README shows the default build")]
fn the_table_of_settings_is_the_one_in_the_code() {
    let (settings, _limits) = section("## Settings")
        .split_once("\n### ")
        .expect("limits have a heading of their own below the settings");
    let shown: Vec<Vec<&str>> = rows(settings)
        .into_iter()
        .filter(|cells| cells.len() == 3 && cells[0].starts_with('`'))
        .collect();
    let wanted: Vec<Vec<String>> = SETTINGS
        .iter()
        .map(|(name, default, meaning)| {
            vec![format!("`{name}`"), default.to_string(), meaning.to_string()]
        })
        .collect();
    assert_eq!(shown, wanted);
}

#[test]
fn help_shows_every_setting_with_its_default() {
    let help = Kioskd::run(&[], &["--help"]).stdout;
    // `  NAME   meaning [default]`
    let shown: Vec<(&str, &str)> = help
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("  ")?.split_once(' ')?;
            let (_, default) = rest.strip_suffix(']')?.rsplit_once('[')?;
            Some((name, default))
        })
        .collect();
    let wanted: Vec<(&str, &str)> =
        SETTINGS.iter().map(|(name, default, _)| (*name, *default)).collect();
    assert_eq!(shown, wanted, "in:\n{help}");
}

/// A setting that is read and listed nowhere is one that nobody finds. `RUST_LOG` stands in the line of `LOG`.
#[test]
fn every_setting_that_is_read_is_listed() {
    // Not `settings.rs`, which is the list, and not `service_link.rs`, which knows the names of others.
    let sources = [
        include_str!("../../src/config/mod.rs"),
        include_str!("../../src/config/env.rs"),
        include_str!("../../src/config/limits.rs"),
        include_str!("../../src/config/store.rs"),
    ];
    let names: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| source.split("#[cfg(test)]").next())
        .flat_map(|code| code.split('"').skip(1).step_by(2))
        .filter(|text| {
            text.contains(|c: char| c.is_ascii_uppercase())
                && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                // The beginning of names.
                && !text.ends_with('_')
        })
        .collect();
    let mut listed: BTreeSet<&str> = SETTINGS.iter().map(|(name, _, _)| *name).collect();
    listed.insert("RUST_LOG");
    let refused: BTreeSet<&str> = NOT_BUILT.iter().copied().collect();
    assert_eq!(&names - &refused, listed);
}

/// A restart without a failed request wants the delay, and Kubernetes the image that was built.
#[test]
fn every_deployment_sets_a_drain_delay_and_the_image_has_its_name() {
    for file in ["compose.yaml", "kioskd.service", "kubernetes.yaml"] {
        let text = std::fs::read_to_string(root().join("deploy").join(file)).expect("it is there");
        assert!(text.contains("DRAIN_DELAY"), "{file}");
    }
    let image = concat!("kioskd:", env!("CARGO_PKG_VERSION"));
    let kubernetes = include_str!("../../deploy/kubernetes.yaml");
    assert!(kubernetes.contains(&format!("image: {image}\n")));
    let container = section("### In a container");
    assert!(container.contains(&format!("podman build -t {image} ")), "{container}");
    assert!(container.contains("KIOSKD_REVISION"), "{container}");
}

/// Evidence that has been renamed or removed is none.
#[test]
fn every_test_named_as_evidence_exists() {
    let mut functions = BTreeSet::new();
    for folder in ["src", "tests"] {
        collect_functions(&root().join(folder), &mut functions);
    }
    let rows = rows(section("## Requirements, and what shows them"));
    let mut seen = 0;
    for name in rows
        .iter()
        .filter_map(|cells| cells.get(2))
        .flat_map(|cell| code_words(cell))
        // The others are paths (`deploy/check-image`, `/readyz`).
        .filter(|word| !word.contains('/'))
    {
        assert!(functions.contains(name), "the README names a test `{name}`, and there is none");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} names found: has the table moved?");
}

#[test]
fn every_file_the_readme_leads_to_exists() {
    let targets: Vec<&str> = README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .filter(|target| !target.starts_with("http") && !target.starts_with('#'))
        .collect();
    assert!(!targets.is_empty(), "no links found");
    let in_table = rows(section("## Requirements, and what shows them"))
        .into_iter()
        .filter_map(|cells| cells.get(1).copied())
        .flat_map(code_words);
    for target in targets.into_iter().chain(in_table) {
        // The table of requirements names files of src without their folder.
        let found =
            [root().join(target), root().join("src").join(target)].iter().any(|path| path.exists());
        assert!(found, "the README leads to `{target}`, and there is none");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// From a heading to the next one of its level.
#[track_caller]
fn section(heading: &str) -> &'static str {
    let start =
        README.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading `{heading}`"));
    let text = &README[start + 1 + heading.len()..];
    &text[..text.find("\n## ").unwrap_or(text.len())]
}

/// The rows of every table in `text`, their cells trimmed; without the line of dashes.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect())
        .collect()
}

/// What stands between back-quotes.
fn code_words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn collect_functions(folder: &Path, functions: &mut BTreeSet<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("failed to list {folder:?}: {e}"));
    for entry in entries {
        let path: PathBuf = entry.expect("an entry of a folder just listed").path();
        if path.is_dir() {
            collect_functions(&path, functions);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("failed to read {path:?}: {e}"));
            for line in text.lines() {
                let line = line.trim_start();
                // The rules of the store contract are `pub fn`; a macro makes tests of them, one for each store.
                if let Some((name, _)) = line
                    .strip_prefix("pub ")
                    .unwrap_or(line)
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split_once('('))
                {
                    functions.insert(name.to_owned());
                }
            }
        }
    }
}
