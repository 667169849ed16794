//! One real server, and what stands between the first packet and the first command: passwords that change, users with
//! few rights, old protocols; and the names of our scripts.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Client, Kioskd, Redis, eventually, temp_dir};

/// Redis names a script by its SHA-1; ours are constants, with the first line (`#!lua`) and without.
#[test]
fn scripts_have_the_names_that_redis_gives_them() {
    let redis = Redis::start();
    for script in kioskd::store::redis::scripts::all() {
        let plain = match script.text.split_once('\n') {
            Some((first, rest)) if first.starts_with("#!") => rest,
            _ => script.text,
        };
        for (text, name) in [(script.text, script.sha), (plain, script.plain_sha)] {
            assert_eq!(redis.command(&["SCRIPT", "LOAD", text]), name, "{text}");
        }
    }
}

/// In RESP2, because the server does not know HELLO or because we are told to: password, database, name, scripts.
#[test]
fn a_server_is_spoken_to_in_resp2_if_it_must_be() {
    for (arguments, options, hello) in
        [(&["--rename-command", "HELLO", ""][..], "", true), (&[], "?protocol=2", false)]
    {
        let all = [&["--requirepass", "s3cret"], arguments].concat();
        let redis = Redis::start_with(&all);
        let kioskd = start(&format!("redis://:s3cret@{}/2{options}", redis.addr()));
        let mut client = kioskd.connect();
        assert_serves(&mut client);
        let clients = redis.command(&["CLIENT", "LIST"]);
        let ours = clients.lines().find(|line| line.contains("name=kioskd"));
        let ours = ours.unwrap_or_else(|| panic!("not named: {clients}"));
        assert!(ours.contains(" db=2 ") && ours.contains(" resp=2"), "{ours}");
        let stats = redis.command(&["INFO", "commandstats"]);
        assert!(!hello || !stats.contains("cmdstat_hello"), "{stats}");

        let kioskd = start(&format!("redis://:wrong@{}/2{options}", redis.addr()));
        assert_store_error(&mut kioskd.connect());
        let kioskd = start(&format!("redis://{}/2{options}", redis.addr()));
        assert_store_error(&mut kioskd.connect());
    }
}

/// An operator changes the password: first at the server, then in the file. Nobody restarts kioskd.
#[test]
fn a_password_file_is_read_again() {
    let redis = Redis::start_with(&["--requirepass", "first"]);
    let dir = temp_dir();
    let file = dir.join("password");
    std::fs::write(&file, "first\n").expect("our own directory");
    let path = file.display().to_string();
    let kioskd = Kioskd::start(&[
        ("REDIS_ADDR", &redis.addr()),
        ("REDIS_PASSWORD_FILE", &path),
        ("WORKERS", "1"),
    ]);
    let mut client = kioskd.connect();
    assert_serves(&mut client);

    let mut admin = Admin::connect(&redis);
    admin.says("AUTH first", "+OK");
    admin.says("CONFIG SET requirepass second", "+OK");
    assert_serves(&mut client);
    admin.says("CLIENT KILL TYPE normal SKIPME yes", ":");
    eventually("the old password to be refused", || client.get("/items/1").status == 502);
    assert_store_error(&mut client);

    std::fs::write(&file, "second\n").expect("our own directory");
    eventually("the new password to be read", || client.get("/items/1").status == 200);
    assert_serves(&mut client);
    let log = kioskd.log();
    assert!(!log.contains("first") && !log.contains("second"), "{log}");
    let _ = std::fs::remove_dir_all(dir);
}

/// Its rights end somewhere, and what is beyond them is an error; the connection and all else goes on.
#[test]
fn a_user_with_few_rights_can_do_what_it_may() {
    let redis = Redis::start();
    let rules = "on >pw ~item:* +get +set";
    let words: Vec<&str> =
        ["ACL", "SETUSER", "kiosk"].into_iter().chain(rules.split(' ')).collect();
    assert_eq!(redis.command(&words), "OK");
    for protocol in [2, 3] {
        let mut kioskd = start(&format!("redis://kiosk:pw@{}?protocol={protocol}", redis.addr()));
        let mut client = kioskd.connect();
        for _ in 0..3 {
            assert_eq!(client.post("/items/1", "{}").status, 201);
            assert_eq!(client.get("/items/1").status, 200);
            assert_eq!(client.get("/readyz").status, 200);
            // A key that is not its own, and a command: the script behind a conditional write.
            let etag = client.get("/items/1").header("etag").expect("a tag").to_owned();
            let json = ("Content-Type", "application/json");
            let conditional =
                client.request("PUT", "/items/1", &[json, ("If-Match", &etag)], b"{}");
            for reply in [client.post("/sess/1", "{}"), conditional] {
                assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
            }
        }
        kioskd.wait_for_log(": connected");
        let connected = kioskd.log().matches(": connected").count();
        assert_eq!(connected, 1, "{}", kioskd.log());
    }
}

/// Every address of a name is tried. Where `localhost` is `::1` first, nobody listens there.
#[test]
fn a_name_leads_to_whichever_address_answers() {
    let redis = Redis::start();
    let kioskd = start(&format!("redis://localhost:{}", redis.port()));
    assert_serves(&mut kioskd.connect());
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_rediss_is_refused_with_what_to_do() {
    let ended = Kioskd::run(&[("REDIS_URL", "rediss://u:hunter2@localhost")], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--features tls"), "{ended:?}");
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

// ---- Helpers ----------------------------------------------------------------------------------

fn start(url: &str) -> Kioskd {
    Kioskd::start(&[("REDIS_URL", url), ("WORKERS", "1")])
}

/// A write, a conditional one (a script) and a read.
#[track_caller]
fn assert_serves(client: &mut Client) {
    let reply = client.post("/items/1", r#"{"a":1}"#);
    assert_eq!(reply.status, 201, "{reply:?}");
    let media = ("Content-Type", "application/merge-patch+json");
    let reply = client.request("PATCH", "/items/1", &[media], br#"{"b":2}"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(client.get("/items/1").text(), r#"{"a":1,"b":2}"#);
}

#[track_caller]
fn assert_store_error(client: &mut Client) {
    let reply = client.post("/items/1", "{}");
    assert_eq!((reply.status, &*reply.problem().0), (502, "store_error"));
}

/// A connection of an operator's, who was there before.
struct Admin(TcpStream);

impl Admin {
    fn connect(redis: &Redis) -> Admin {
        let stream = TcpStream::connect(redis.addr()).expect("a server that is there");
        let limit = stream.set_read_timeout(Some(crate::support::PATIENCE));
        limit.expect("a connected socket takes options");
        Admin(stream)
    }

    /// Sends a line, as one does by hand, and reads a line.
    #[track_caller]
    fn says(&mut self, line: &str, answer: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).expect("it reads");
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("an answer");
            said.push(byte[0]);
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with(answer), "{line}: {said}");
    }
}
