//! The two conversations the README opens with, over both fronts: an item goes in and comes out of one process, and
//! goes into one process and comes out of another through Redis. Once by our own client, once by the curl a reader
//! would type.

use std::process::Command;

use crate::support::{Kioskd, Redis, Reply, for_each_front, for_each_service, on_path, temp_dir};

#[test]
fn an_item_goes_in_and_comes_out() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        assert_created(&kioskd.connect().post("/items?id=42", r#"{"name":"Alice"}"#), "/items/42");
        assert_found(&kioskd.connect().get("/items?id=42"), r#"{"name":"Alice"}"#);
    });
}

#[test]
fn an_item_goes_in_and_comes_out_with_curl() {
    if !has_curl() {
        return;
    }
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        let url = format!("http://{}/items?id=42", kioskd.addr());
        let json = ["-H", "Content-Type: application/json", "-i"];
        let created =
            curl(&[&["-X", "POST", &url, "-d", r#"{"name":"Alice"}"#], &json[..]].concat());
        assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
        let found = curl(&[&url, "-i"]);
        assert!(found.starts_with("HTTP/1.1 200 "), "{found}");
        assert!(found.ends_with("\r\n\r\n{\"name\":\"Alice\"}"), "{found}");
    });
}

/// `curl -C` goes on where an upload stopped: it sends the rest of the file, and `Content-Range` says that it is the rest.
#[test]
fn an_upload_that_curl_resumes_does_not_replace_the_document_by_its_rest() {
    if !has_curl() {
        return;
    }
    let dir = temp_dir();
    let file = dir.join("document.json");
    std::fs::write(&file, r#"{"a":"b"}{"c":1}"#).expect("the directory is ours");
    let file = file.to_str().expect("the path is text");
    for_each_service(&[], |kioskd| {
        let url = format!("http://{}/items/42", kioskd.addr());
        assert_eq!(kioskd.connect().post("/items/42", r#"{"old":1}"#).status, 201);
        let refused = curl(&["-C", "9", "-T", file, &url, "-i"]);
        // Behind a `100 Continue` on tiny_http, which says it to whoever waits for it.
        assert!(refused.contains("HTTP/1.1 400 "), "{refused}");
        assert!(refused.contains(r#""code":"partial_put""#), "{refused}");
        assert_eq!(kioskd.connect().get("/items/42").text(), r#"{"old":1}"#);
    });
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn an_item_written_by_one_process_is_read_by_another() {
    for_each_front(|front| {
        let redis = Redis::start();
        let addr = redis.addr();
        let settings = [("FRONT", front), ("REDIS_ADDR", &*addr)];
        let (writer, reader) = (Kioskd::start(&settings), Kioskd::start(&settings));

        assert_created(&writer.connect().post("/items?id=7", r#"{"name":"Bob"}"#), "/items/7");
        assert_found(&reader.connect().get("/items?id=7"), r#"{"name":"Bob"}"#);
        assert_stored_for_half_an_hour(&redis);
    });
}

#[test]
fn an_item_written_by_one_process_is_read_by_another_with_curl() {
    if !has_curl() {
        return;
    }
    for_each_front(|front| {
        let redis = Redis::start();
        let addr = redis.addr();
        let settings = [("FRONT", front), ("REDIS_ADDR", &*addr)];
        let (writer, reader) = (Kioskd::start(&settings), Kioskd::start(&settings));

        let url = |kioskd: &Kioskd| format!("http://{}/items?id=7", kioskd.addr());
        let created = curl(&["-X", "POST", &url(&writer), "-d", r#"{"name":"Bob"}"#, "-i"]);
        assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
        let found = curl(&[&url(&reader), "-i"]);
        assert!(found.starts_with("HTTP/1.1 200 "), "{found}");
        assert!(found.ends_with("\r\n\r\n{\"name\":\"Bob\"}"), "{found}");
        assert_stored_for_half_an_hour(&redis);
    });
}

/// The Go service this one replaces may write the item, and read ours: a plain string with its TTL.
#[test]
fn an_item_written_by_another_program_is_read() {
    for_each_front(|front| {
        let redis = Redis::start();
        redis.command(&["SET", "item:9", r#"{"name":"Carol"}"#, "EX", "1800"]);
        let kioskd = Kioskd::start(&[("FRONT", front), ("REDIS_ADDR", &redis.addr())]);
        assert_found(&kioskd.connect().get("/items?id=9"), r#"{"name":"Carol"}"#);
    });
}

#[track_caller]
fn assert_created(reply: &Reply, location: &str) {
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("location"), Some(location), "{reply:?}");
}

#[track_caller]
fn assert_found(reply: &Reply, document: &str) {
    assert_eq!((reply.status, reply.text()), (200, document.to_owned()), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
}

/// Five seconds of slack below the half hour: what a slow machine may take from POST to PTTL.
#[track_caller]
fn assert_stored_for_half_an_hour(redis: &Redis) {
    assert_eq!(redis.command(&["GET", "item:7"]), r#"{"name":"Bob"}"#);
    let left: i64 = redis.command(&["PTTL", "item:7"]).parse().expect("PTTL answers an integer");
    assert!(left > 1_795_000 && left <= 1_800_000, "PTTL {left}");
}

/// The tests of the same names without curl show the same; these only add that curl agrees.
fn has_curl() -> bool {
    let found = on_path("curl");
    if !found {
        eprintln!("no curl on the PATH; `tests/run` installs it");
    }
    found
}

/// What curl writes to stdout. `--noproxy` because a proxy in the environment must not be asked for loopback.
fn curl(arguments: &[&str]) -> String {
    let fixed = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"];
    let output =
        Command::new("curl").args(fixed).args(arguments).output().expect("curl is on the PATH");
    assert!(
        output.status.success(),
        "curl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}
