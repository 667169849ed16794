//! Every committed input of the fuzzer, through the same checks, on stable Rust.
//!
//! What a fuzz run has found once stays found: `fuzz/corpus/` is small and each of its files is
//! there because it reaches code that no other reaches. How to run the fuzzer itself is in
//! `fuzz/README.md`.

use std::path::Path;

#[test]
fn head_holds_for_the_corpus() {
    for_each_input("head", crate::checks::head::check);
}

#[test]
fn chunked_holds_for_the_corpus() {
    for_each_input("chunked", crate::checks::chunked::check);
}

#[test]
fn resp_holds_for_the_corpus() {
    for_each_input("resp", crate::checks::resp::check);
}

#[test]
#[cfg(feature = "poll")]
fn connection_holds_for_the_corpus() {
    let front = crate::checks::front::Front::start();
    for_each_input("connection", |input| {
        crate::checks::connection::check(&front, input);
    });
}

fn for_each_input(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("failed to read {}: {error}", folder.display()));
    let mut inputs = 0;
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        eprintln!("== {}", path.display());
        check(&std::fs::read(&path).expect("a committed file can be read"));
        inputs += 1;
    }
    assert!(inputs > 10, "{inputs} inputs of {target}");
}
