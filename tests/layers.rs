//! The rooms of the house: which folder of `src/` may name which, checked against the source itself.
//!
//! Data flows one way through the layers, and that only stays true if a file cannot reach back for what it is not
//! given. The table below is the design's; a file that wants to break it is in the wrong room or does two jobs.
//!
//! The check reads tokens, not lines: comments and strings may say what they like, and a path counts wherever it
//! stands, in a `use`, in a group, in a signature, through `super`. Modules under `#[cfg(test)]` are left out: a test
//! may need a neighbour that the code may not have. Two more tables say who may name a socket and who may start a
//! thread. What it cannot see is a name passed through a third layer's `pub use`; no layer re-exports another.

use std::fs;
use std::path::{Path, PathBuf};

/// Every layer and the layers of ours it may name. `main` and `lib` put the house together and name what they like.
const MAY_NAME: [(&str, &[&str]); 10] = [
    ("slab", &[]),
    ("stream", &[]),
    ("http", &[]),
    ("resp", &["slab", "stream"]),
    ("store", &["resp", "slab"]),
    ("service", &["http", "store"]),
    ("front", &["http", "service", "store", "lifecycle", "slab", "stream"]),
    ("lifecycle", &[]),
    ("log", &[]),
    ("config", &["http", "resp", "store", "service", "front", "lifecycle", "log"]),
];

/// The service asks (`Command`) and is answered (`Answer`, `StoreError`). Who answers, and how, is not its business.
const NOT_FOR_SERVICE: [&str; 5] = ["memory", "noop", "redis", "Store", "Session"];

/// Names that mean a socket. Addresses are values, and anybody may have one.
const SOCKETS: [&str; 9] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "ToSocketAddrs",
    "mio",
    "OwnedFd",
];
const MAY_NAME_SOCKETS: [&str; 6] = ["front", "resp", "store", "stream", "main", "lifecycle"];

const THREAD_STARTS: [&str; 3] = ["spawn", "Builder", "scope"];
const MAY_START_THREADS: [&str; 5] = ["front", "log", "resp", "lifecycle", "main"];

#[test]
fn every_file_stays_in_its_room() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(!files.is_empty(), "no source in {}", src.display());
    let mut faults = Vec::new();
    for file in files {
        let path = file
            .strip_prefix(&src)
            .expect("collected below it")
            .to_string_lossy()
            .replace('\\', "/");
        let text = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("failed to read {path}: {error}"));
        faults.extend(check(&path, &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_check_sees_a_broken_wall() {
    // (file, source, what the fault must mention)
    let bad = [
        ("http/parse.rs", "use crate::service::Step;", "service"),
        ("http/mod.rs", "fn f() { crate::log::set(); }", "log"),
        ("resp/codec.rs", "use crate::{\n    resp::Value, // ours\n    http,\n};", "http"),
        ("store/redis.rs", "use crate::resp; use crate :: http :: Request ;", "http"),
        ("store/mod.rs", "use super::front;", "front"),
        ("store/redis.rs", "use super::super::front::Limits;", "front"),
        ("service/items.rs", "use crate::resp::Value;", "resp"),
        ("service/items.rs", "use crate::{store::{Command, memory::Memory}, http};", "memory"),
        ("service/mod.rs", "use crate::store::Session;", "Session"),
        ("service/mod.rs", "use std::net::{IpAddr, TcpStream};", "TcpStream"),
        ("service/mod.rs", "fn f() { std::thread::spawn(|| {}); }", "thread"),
        ("front/poll.rs", "use {crate::http, crate::resp::Value};", "resp"),
        ("front/mod.rs", "fn f<'a>(x: &'a crate::config::Config) {}", "config"),
        ("lifecycle.rs", "use crate::front;", "front"),
        ("http/mod.rs", "fn f() {} #[cfg(test)] mod tests { } use crate::store::Answer;", "store"),
        (
            "http/mod.rs",
            "const Q: char = '\"'; use crate::store::Answer; const R: char = '\"';",
            "store",
        ),
        ("store/memory.rs", "use std::thread; fn f() { thread::Builder::new(); }", "thread"),
        ("helpers.rs", "fn f() {}", "helpers"),
    ];
    for (file, source, wanted) in bad {
        let faults = check(file, source);
        assert!(
            faults.iter().any(|fault| fault.contains(wanted)),
            "{file} `{source}` gave {faults:?}"
        );
    }
}

#[test]
fn the_check_leaves_an_honest_file_alone() {
    let good = [
        (
            "http/parse.rs",
            "// use crate::service;\n/* crate::resp /* nested */ */ use tiny_http::Method; use super::body;",
        ),
        ("http/mod.rs", r##"const A: &str = "crate::store"; const B: &str = r#"crate::"resp"#;"##),
        ("http/mod.rs", "#[cfg(test)]\nmod tests { use crate::store::Answer; fn f() { { } } }"),
        ("http/mod.rs", "#[cfg(test)] use crate::store::Answer;"),
        ("http/head/name.rs", "use super::super::parse; use crate::http::parse;"),
        (
            "store/redis.rs",
            "use crate::resp::{Client, Value}; use super::Command; use mio::net::TcpStream;",
        ),
        (
            "service/items.rs",
            "use crate::{http::{Request, Response}, store::{Answer, Command, StoreError}};",
        ),
        ("service/mod.rs", "use std::net::{IpAddr, SocketAddr};"),
        (
            "front/poll.rs",
            "use crate::lifecycle::State; fn f() { std::thread::spawn(|| log::info!(\"x\")); }",
        ),
        ("config.rs", "use crate::{front, log, resp, store};"),
        ("main.rs", "use kioskd::{config, front, resp}; use std::net::TcpListener;"),
        ("lib.rs", "pub mod http; pub use crate::http::Request;"),
        (
            "http/mod.rs",
            "pub(crate) fn f<'a>(a: &'a [u8], c: char) -> bool { c == 'a' || c == '\\'' }",
        ),
    ];
    for (file, source) in good {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file} `{source}`");
    }
}

/// The faults of one file, given its path below `src/`.
fn check(path: &str, source: &str) -> Vec<String> {
    let layer = path.split('/').next().expect("split gives one").trim_end_matches(".rs");
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    if ["main", "lib"].contains(&layer) || is_test {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{path}: `{layer}` is none of the rooms in this test's table")];
    };
    let tokens = without_tests(tokens(source));
    let mut faults = Vec::new();
    for named in named_paths(&tokens, module_depth(path)) {
        let other = named[0].as_str();
        let is_layer = MAY_NAME.iter().any(|(name, _)| *name == other);
        if is_layer && other != layer && !allowed.contains(&other) {
            faults.push(format!("src/{path}: `{layer}` may not name `{}`", named.join("::")));
        }
        let item = named.get(1).map_or("", String::as_str);
        if layer == "service" && other == "store" && NOT_FOR_SERVICE.contains(&item) {
            faults.push(format!("src/{path}: `service` may not name `store::{item}`"));
        }
    }
    if !MAY_NAME_SOCKETS.contains(&layer) {
        let sockets = tokens.iter().filter(|token| SOCKETS.contains(&token.as_str()));
        faults.extend(
            sockets.map(|name| format!("src/{path}: `{layer}` may not name a socket: `{name}`")),
        );
    }
    let starts = |window: &[String]| {
        window[0] == "thread"
            && window[1] == "::"
            && (THREAD_STARTS.contains(&window[2].as_str()) || window[2] == "{")
    };
    if !MAY_START_THREADS.contains(&layer) && tokens.windows(3).any(starts) {
        faults.push(format!("src/{path}: `{layer}` may not start a thread"));
    }
    faults
}

/// How many modules deep a file is: `src/front/poll.rs` is `crate::front::poll`, two.
fn module_depth(path: &str) -> usize {
    let parts = path.split('/').count();
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// Every path that starts at the crate's root, without its root: `crate::a::b`, each leaf of `crate::{a::b, c}`, and
/// as many `super::` as there are modules above.
fn named_paths(tokens: &[String], depth: usize) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut supers = 0;
        while tokens.get(at + 2 * supers).is_some_and(|token| token == "super") {
            supers += 1;
        }
        // `pub(crate)` has no `::` behind it.
        let root = if tokens[at] == "crate" { 1 } else { supers };
        let is_root = tokens[at] == "crate" || (supers > 0 && supers == depth);
        if is_root && tokens.get(at + 2 * root - 1).is_some_and(|token| token == "::") {
            leaves(tokens, at + 2 * root, Vec::new(), &mut paths);
        }
        at += (2 * supers).max(1);
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// Reads a use tree from `at`, adds each leaf below `prefix` to `paths`, and returns where the tree ends.
fn leaves(
    tokens: &[String],
    mut at: usize,
    mut prefix: Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    while let Some(token) = tokens.get(at) {
        if token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                // `name as other` and the commas between trees are stepped over.
                at = leaves(tokens, at, prefix.clone(), paths).max(at + 1);
            }
            return at + 1;
        }
        if !is_word(token) {
            break;
        }
        prefix.push(token.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    paths.push(prefix);
    at
}

/// Removes what follows `#[cfg(test)]`: a block in braces, or a line that ends in a semicolon.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        if rest.len() < attribute.len()
            || rest.iter().zip(attribute).any(|(token, wanted)| token != wanted)
        {
            kept.push(token.clone());
            rest = after;
            continue;
        }
        let mut depth = 0;
        let end = rest.iter().position(|token| {
            depth += i32::from(token == "{") - i32::from(token == "}");
            depth == 0 && (token == "}" || token == ";")
        });
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
    }
    kept
}

/// The words and marks of a Rust source, `::` as one mark; without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if first == '_' || first.is_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.push(rest[..length].to_owned());
            length
        };
        rest = &rest[length..];
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c == '_' || c.is_alphanumeric())
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` and so on; `None` if this is something else.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|&byte| byte == b'#').count();
    let start = prefix.len() + hashes + 1;
    if text.as_bytes().get(start - 1) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[start..].find(&end).map(|at| start + at + end.len())
}

/// The length of a literal between two of `quote`, backslashes minded.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime, of which only the mark is taken here.
fn character_or_lifetime(text: &str) -> usize {
    let mut after = text[1..].chars();
    match (after.next(), after.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("failed to list {}: {error}", folder.display()))
    {
        let path = entry.expect("an entry of a folder that can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}
