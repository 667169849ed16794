//! The rooms of the house: which folder of `src/` may name which, and who may ask the operating system.
//!
//! The tables are the design's; a file that wants to break one is in the wrong room or does two jobs. What the first
//! cannot see is a name passed through a third layer's `pub use`; no layer re-exports another.

use crate::paths::Named;
use crate::source::{File, files, tokens};

/// Every layer and the layers of ours it may name. `main` and `lib` put the house together and name what they like.
const MAY_NAME: [(&str, &[&str]); 13] = [
    ("http", &[]),
    ("net", &[]),
    ("resp", &["net"]),
    ("store", &["resp", "net"]),
    ("service", &["http", "store"]),
    ("front", &["http", "service", "store", "net", "lifecycle"]),
    ("lifecycle", &[]),
    ("log", &[]),
    ("arguments", &["config", "healthcheck"]),
    ("process", &["config", "front", "service", "store"]),
    ("tokens", &["config", "service"]),
    ("healthcheck", &["config", "front", "net"]),
    ("config", &["http", "net", "resp", "store", "service", "front", "lifecycle", "log"]),
];

/// What the service may name of the store: it asks and is answered. Who answers, and how, is not its business.
const FOR_SERVICE: [&str; 10] =
    ["Answer", "Command", "Found", "Key", "Once", "Page", "Reply", "StoreError", "Ttl", "When"];

/// Something of the operating system, how it is named, and who may name it though everybody else has it from a
/// [`World`](kioskd::net::World), as an argument.
struct Asked {
    what: &'static str,
    names: &'static [&'static str],
    /// The folder or the file, and why.
    by: &'static [(&'static str, &'static str)],
}

const WORLD: (&str, &str) = ("net/", "it is the world");

/// Time as an argument is what makes a tick a function of what the world has told, and a test of one fast.
/// Addresses and instants are values, and anybody may have one.
const ASKED: [Asked; 5] = [
    Asked {
        what: "a clock",
        names: &[
            "Instant::now",
            "Instant as",
            "SystemTime::now",
            "SystemTime as",
            ".elapsed(",
            "::elapsed",
        ],
        by: &[
            WORLD,
            ("main.rs", "the beginning of all"),
            ("log.rs", "a thread of its own, and lines have a time"),
            ("front/accept.rs", "a loop of its own: how often it complains"),
            ("front/scrape.rs", "a thread of its own"),
            ("front/tiny.rs", "a thread for each request, without a loop"),
            ("lifecycle.rs", "a thread of its own: when a signal came"),
        ],
    },
    Asked {
        what: "a thread",
        names: &[
            "thread::spawn",
            "thread::Builder",
            "thread::scope",
            "thread::sleep",
            "thread::park",
            "thread::{",
            "thread::*",
        ],
        by: &[
            WORLD,
            ("arguments.rs", "a stderr that nobody reads holds up nobody"),
            ("log.rs", "its writer, so that a slow stdout holds up nobody"),
            ("lifecycle.rs", "all that live as long as the process, and the one for signals"),
            ("front/listen.rs", "the start waits for the lock of a socket's file"),
            ("front/scrape.rs", "it waits after an accept that failed"),
        ],
    },
    Asked {
        what: "a socket",
        names: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
            "ToSocketAddrs",
            "OwnedFd",
            "RawFd",
            "mio",
            "socket2",
        ],
        by: &[
            WORLD,
            ("front/listen.rs", "it binds, before there is a loop"),
            ("front/accept.rs", "a loop of its own, which sends clients to worlds"),
        ],
    },
    // 32-bit PowerPC and MIPS have none.
    Asked { what: "an atomic of 64 bits", names: &["AtomicU64", "AtomicI64"], by: &[] },
    Asked {
        what: "randomness",
        names: &["RandomState"],
        by: &[WORLD, ("front/tiny.rs", "the name of a thread that has no loop")],
    },
];

#[test]
fn every_file_stays_in_its_room() {
    let faults: Vec<String> = files().iter().flat_map(check).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let files = files();
    for Asked { what, names, by } in ASKED {
        for (place, _) in by {
            let mut there = files.iter().filter(|file| file.path.starts_with(place));
            let is_used = there.any(|file| names.iter().any(|name| contains(&file.tokens, name)));
            assert!(is_used, "{place} need not be allowed {what}");
        }
    }
}

#[test]
fn the_check_sees_a_broken_wall() {
    // (file, source, what the fault must mention)
    let bad = [
        ("http/parse.rs", "use crate::service::Step;", "service"),
        ("http/mod.rs", "fn f() { crate::log::set(); }", "log"),
        ("net/mio.rs", "use crate::resp::Link;", "resp"),
        ("resp/codec.rs", "use crate::{\n    resp::Value, // ours\n    http,\n};", "http"),
        ("store/redis.rs", "use crate::resp; use crate :: http :: Request ;", "http"),
        ("store/mod.rs", "use super::front;", "front"),
        ("store/redis/scan.rs", "use super::super::super::front::Limits;", "front"),
        ("service/items.rs", "use crate::resp::Value;", "resp"),
        ("service/items.rs", "use crate::net::World;", "net"),
        ("service/items.rs", "use crate::{store::{Command, memory::Memory}, http};", "memory"),
        ("service/mod.rs", "use crate::store::Session;", "Session"),
        ("service/mod.rs", "use crate::store; fn f(s: &dyn store::Session) {}", "Session"),
        ("service/mod.rs", "use std::net::{IpAddr, TcpStream};", "TcpStream"),
        ("service/mod.rs", "fn f() { std::thread::spawn(|| {}); }", "thread"),
        ("service/mod.rs", "fn f() { let now = Instant::now(); }", "clock"),
        ("service/mod.rs", "fn f(t: Instant) { t.elapsed() }", "clock"),
        ("service/mod.rs", "fn f() { SystemTime :: now() }", "clock"),
        ("front/poll/worker.rs", "use {crate::http, crate::resp::Value};", "resp"),
        ("front/poll/worker.rs", "use std::time::Instant as Now;", "clock"),
        ("front/poll/worker.rs", "use std::thread::{self, spawn};", "thread"),
        ("front/poll/mod.rs", "use mio::Poll;", "mio"),
        ("front/accept.rs", "fn f() { thread::Builder::new(); }", "thread"),
        ("front/mod.rs", "fn f<'a>(x: &'a crate::config::Config) {}", "config"),
        ("resp/node.rs", "fn f() { TcpStream::connect(a); }", "TcpStream"),
        ("resp/backoff.rs", "use std::hash::RandomState;", "randomness"),
        ("lifecycle.rs", "use crate::front;", "front"),
        ("http/mod.rs", "fn f() {} #[cfg(test)] mod tests { } use crate::store::Answer;", "store"),
        (
            "http/mod.rs",
            "const Q: char = '\"'; use crate::store::Answer; const R: char = '\"';",
            "store",
        ),
        ("store/memory.rs", "use std::thread; fn f() { thread::Builder::new(); }", "thread"),
        ("store/mod.rs", "use std::sync::atomic::AtomicU64;", "64 bits"),
        ("helpers.rs", "fn f() {}", "helpers"),
    ];
    for (file, source, wanted) in bad {
        let faults = check(&File::of(file, source));
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
            "// use crate::service;\n/* crate::resp /* nested */ */ use super::body;",
        ),
        ("http/mod.rs", r##"const A: &str = "crate::store"; const B: &str = r#"crate::"resp"#;"##),
        ("http/mod.rs", "#[cfg(test)]\nmod tests { use crate::store::Answer; fn f() { { } } }"),
        ("http/mod.rs", "#[cfg(test)] use crate::store::Answer;"),
        ("http/head/name.rs", "use super::super::parse; use crate::http::parse;"),
        ("net/mio.rs", "use mio::net::TcpStream; fn f() { std::thread::spawn(g); Instant::now() }"),
        (
            "store/redis.rs",
            "use crate::resp::{Client, Value}; use super::Command; use crate::net::World;",
        ),
        (
            "service/items.rs",
            "use crate::{http::{Head, Response}, store::{Answer, Command, StoreError}};",
        ),
        (
            "service/mod.rs",
            "use std::net::{IpAddr, SocketAddr}; use std::time::{Duration, Instant};",
        ),
        ("service/mod.rs", "fn f(now: Instant) { now.saturating_duration_since(self.began) }"),
        ("config/system.rs", "fn f() { std::thread::available_parallelism() }"),
        (
            "front/poll/mod.rs",
            "use crate::lifecycle::State; fn f() { lifecycle.spawn(name, run); }",
        ),
        ("front/accept.rs", "use mio::net::TcpListener; fn f() { Instant::now() }"),
        ("config.rs", "use crate::{front, log, resp, store};"),
        ("main.rs", "use kioskd::{config, front, resp}; fn f() { Instant::now() }"),
        ("lib.rs", "pub mod http; pub use crate::http::Request;"),
        (
            "http/mod.rs",
            "pub(crate) fn f<'a>(a: &'a [u8], c: char) -> bool { c == 'a' || c == '\\'' }",
        ),
    ];
    for (file, source) in good {
        assert_eq!(check(&File::of(file, source)), Vec::<String>::new(), "{file} `{source}`");
    }
}

/// The faults of one file.
fn check(file: &File) -> Vec<String> {
    let mut faults = strangers(file);
    let layer = file.room();
    if ["main", "lib"].contains(&layer) {
        return faults;
    }
    let path = &file.path;
    let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{path}: `{layer}` is none of the rooms in this test's table")];
    };
    let named = Named::by(file);
    let imports = named.uses.into_iter().map(|import| import.path);
    for named in imports.chain(named.paths).filter(|named| !named.is_empty()) {
        let other = named[0].as_str();
        let is_layer = MAY_NAME.iter().any(|(name, _)| *name == other);
        if is_layer && other != layer && !allowed.contains(&other) {
            faults.push(format!("src/{path}: `{layer}` may not name `{}`", named.join("::")));
        }
        if let [other, item, ..] = &named[..]
            && (layer, &**other) == ("service", "store")
            && !FOR_SERVICE.contains(&&**item)
        {
            faults.push(format!("src/{path}: `service` may not name `store::{item}`"));
        }
    }
    faults
}

/// What this file asks of the operating system and may not.
fn strangers(file: &File) -> Vec<String> {
    let asked = ASKED
        .iter()
        .filter(|asked| !asked.by.iter().any(|(place, _)| file.path.starts_with(place)));
    asked
        .flat_map(|Asked { what, names, .. }| {
            let named = names.iter().filter(|name| contains(&file.tokens, name));
            named.map(move |name| format!("src/{}: it may not ask for {what}: `{name}`", file.path))
        })
        .collect()
}

fn contains(all: &[String], name: &str) -> bool {
    let name = tokens(name);
    all.windows(name.len()).any(|window| window == name)
}
