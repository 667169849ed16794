//! Who may name which crate, and what the build without the feature `poll` consists of.

use crate::source::files;
use std::process::Command;

/// Every crate, and where it is named: the rest of the house does not know whose work it stands on. `http` does not log.
const NAMED_IN: [(&str, &[&str]); 9] = [
    ("tiny_http", &["front/tiny.rs"]),
    ("serde_json", &["http/print.rs", "log.rs", "service/"]),
    ("signal-hook", &["lifecycle.rs"]),
    (
        "log",
        &[
            "config/",
            "front/",
            "log.rs",
            "main.rs",
            "net/",
            "resp/",
            "service/",
            "store/",
            "tokens.rs",
        ],
    ),
    ("env_logger", &["log.rs"]),
    ("mio", &["net/", "front/accept.rs"]),
    ("socket2", &["net/mio.rs", "front/listen.rs"]),
    ("rustls", &["resp/tls.rs"]),
    ("webpki-roots", &["resp/tls.rs"]),
];

#[test]
fn every_crate_is_named_in_its_place_alone() {
    let mut files = files();
    // It declares a module `log`.
    files.retain(|file| file.path != "lib.rs");
    for (name, places) in NAMED_IN {
        let name = name.replace('-', "_");
        let named: Vec<&str> = files
            .iter()
            .filter(|file| file.tokens.contains(&name))
            .map(|file| &*file.path)
            .collect();
        for path in &named {
            let is_its_place = places.iter().any(|place| path.starts_with(place));
            assert!(is_its_place, "{path} may not name {name}");
        }
        for place in places {
            let is_there = named.iter().any(|path| path.starts_with(place));
            assert!(is_there, "{name} is not named in {place}");
        }
    }
}

#[test]
fn the_table_has_every_dependency() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").expect("a program depends on others");
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let mut wanted: Vec<&str> =
        lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let mut table = NAMED_IN.map(|(name, _)| name);
    wanted.sort_unstable();
    table.sort_unstable();
    assert_eq!(table[..], wanted);
}

/// What was ordered: a server on tiny_http, and no more than it needs.
#[test]
fn the_build_without_poll_has_exactly_five_crates() {
    assert_eq!(
        dependencies(&["--no-default-features"]),
        ["env_logger", "log", "serde_json", "signal-hook", "tiny_http"]
    );
}

#[test]
fn the_default_build_adds_two() {
    assert_eq!(
        dependencies(&[]),
        ["env_logger", "log", "mio", "serde_json", "signal-hook", "socket2", "tiny_http"]
    );
}

/// What `cargo tree` says that the program is linked with, directly.
fn dependencies(features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--frozen", "--edges", "normal", "--depth", "1", "--prefix", "none"])
        .args(["--format", "{p}", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .args(features)
        .output()
        .expect("cargo runs this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("names of crates");
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(names.remove(0), "kioskd", "the program itself comes first");
    names.sort_unstable();
    names
}
