//! The README and the texts in `docs/` are held to the program: the table of settings is the one in the code, and the
//! files that are named exist. What they tell a reader to type is run in `experiments.rs`, and the tests that they name
//! are looked for in `traceability.rs`.
//!
//! A table that somebody keeps by hand is right on the day it is written. Here `config::SETTINGS` is the one list, and
//! `docs/configuration.md` and `--help` show it word for word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Kioskd;
use kioskd::config::SETTINGS;

const README: &str = include_str!("../../README.md");
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const IMAGE: &str = include_str!("../../docs/image.md");

/// What a reader is ready to read at once.
const README_LINES: usize = 220;

#[test]
fn the_readme_is_short() {
    let lines = README.lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}

#[test]
#[cfg_attr(not(feature = "poll"), ignore = "the texts show the default build")]
fn the_table_of_settings_is_the_one_in_the_code() {
    let (settings, _limits) = CONFIGURATION
        .split_once("\n## ")
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
        include_str!("../../src/config/access.rs"),
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
    assert_eq!(names, listed);
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
    for text in [README, IMAGE] {
        assert!(text.contains(&format!("podman build -t {image} ")), "{text}");
    }
    assert!(IMAGE.contains("KIOSKD_REVISION"), "{IMAGE}");
}

/// Links, and the files named in the prose, of all that is written for readers.
#[test]
fn every_file_the_texts_lead_to_exists() {
    for text in texts() {
        let named = read(&text);
        let folder = text.parent().expect("a file is in a folder");
        for target in links(&named) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { text.clone() } else { folder.join(path) };
            assert!(path.exists(), "{text:?} links to `{target}`, and there is none");
            let is_there = heading.is_empty() || headings(&read(&path)).any(|h| h == heading);
            assert!(is_there, "{text:?} links to `{target}`, which has no such heading");
        }
        // Files of src are named without their folder.
        let places = [folder, root(), &root().join("src")];
        for path in code_words(&without_blocks(&named)).filter(|word| is_source(word)) {
            let found = places.iter().any(|place| place.join(path).exists());
            assert!(found, "{text:?} names `{path}`, and there is none");
        }
    }
}

/// A check that finds nothing says that all is well.
#[test]
fn the_check_of_the_texts_sees_what_they_lead_to() {
    let text = "## What *is* not\n[a](docs/a.md), [b](https://b) and [c](#d).\n```sh\n`x/y.rs`\n```\n`front/a.rs`";
    assert_eq!(links(text).collect::<Vec<_>>(), ["docs/a.md", "#d"]);
    assert_eq!(headings(text).collect::<Vec<_>>(), ["what-is-not"]);
    let text = without_blocks(text);
    assert_eq!(
        code_words(&text).filter(|word| is_source(word)).collect::<Vec<_>>(),
        ["front/a.rs"]
    );
    for name in ["README.md", "CONTRIBUTING.md", "docs/fronts.md", "fuzz/README.md"] {
        assert!(texts().contains(&root().join(name)), "{name}");
    }
}

/// What is written for readers of this repository.
pub(super) fn texts() -> Vec<PathBuf> {
    let docs = root().join("docs");
    let mut texts: Vec<PathBuf> = fs::read_dir(&docs)
        .unwrap_or_else(|e| panic!("failed to list {docs:?}: {e}"))
        .map(|entry| entry.expect("an entry of a folder just listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    let others = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "fuzz/README.md"];
    texts.extend(others.map(|name| root().join(name)));
    texts
}

/// The targets of all links that stay in this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .filter(|target| !target.starts_with("http"))
}

/// All headings, as links spell them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// A file of Rust in some folder. Other words with a slash are paths of URLs and types of content.
fn is_source(word: &str) -> bool {
    word.contains('/') && word.ends_with(".rs")
}

/// Without what is shown as a block: commands and what they print.
pub(super) fn without_blocks(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("failed to read {path:?}: {e}"))
}

/// The rows of every table in `text`, their cells trimmed; without the line of dashes.
pub(super) fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect())
        .collect()
}

/// What stands between back-quotes.
pub(super) fn code_words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}
