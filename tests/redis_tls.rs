//! `rediss://`: a real Redis with a real certificate, and what must be refused.
//!
//! A crate of its own, because it needs a feature: `cargo test --features tls --test redis_tls`; `tests/run` does it.
//! What a build without the feature makes of `rediss://` is in `redis/sign_on.rs`.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Kioskd, Port, Redis, eventually, for_each_front, temp_dir, tethered};

/// A certificate authority, and a certificate of it for `names`.
struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    fn new(names: &str) -> Certificates {
        let directory = temp_dir();
        let run = |arguments: &str| {
            let done =
                Command::new("openssl").args(arguments.split(' ')).current_dir(&directory).output();
            let done = done.expect("openssl is installed; tests/run does it");
            assert!(
                done.status.success(),
                "openssl {arguments}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        };
        run(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        );
        run(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=redis -keyout redis.key -out redis.csr",
        );
        let extensions = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(directory.join("names"), extensions).expect("a file in our own directory");
        run(
            "x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.pem",
        );
        Certificates { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn start(certificates: &Certificates, more: &[&str]) -> (Redis, Port) {
    let port = Port::take();
    let (tls_port, certificate, key, ca) = (
        port.number().to_string(),
        certificates.path("redis.pem"),
        certificates.path("redis.key"),
        certificates.path("ca.pem"),
    );
    let mut arguments =
        vec!["--tls-port", &tls_port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    arguments.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"]);
    arguments.extend(more);
    (Redis::start_with(&arguments), port)
}

#[test]
fn items_go_in_and_out_over_tls() {
    let certificates = Certificates::new("DNS:localhost,IP:127.0.0.1");
    let (redis, port) = start(&certificates, &[]);
    let ca = certificates.path("ca.pem");
    for_each_front(|front| {
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("rediss://{host}:{}", port.number());
            let kioskd =
                Kioskd::start(&[("FRONT", front), ("REDIS_URL", &url), ("REDIS_CA_FILE", &ca)]);
            let mut client = kioskd.connect();
            // Larger than any buffer on the way, both ways.
            let document = format!("{{\"large\":\"{}\"}}", "x".repeat(1_000_000));
            assert_eq!(client.post("/items?id=7", &document).status, 201);
            assert_eq!(client.get("/items?id=7").text(), document);
            assert_eq!(client.get("/readyz").status, 200);
        }
    });
    assert_eq!(redis.command(&["STRLEN", "item:7"]), "1000012");
    // Dropped by the server, found dead, made again.
    let url = format!("rediss://localhost:{}", port.number());
    let kioskd = Kioskd::start(&[("REDIS_URL", &url), ("REDIS_CA_FILE", &ca)]);
    let mut client = kioskd.connect();
    assert_eq!(client.get("/items?id=7").status, 200);
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("the item over a new connection", || client.get("/items?id=7").status == 200);
}

#[test]
fn a_server_that_cannot_prove_its_name_gets_nothing() {
    let certificates = Certificates::new("DNS:redis.example");
    let (redis, port) = start(&certificates, &["--requirepass", "hunter2"]);
    let ca = certificates.path("ca.pem");
    let url = format!("rediss://:hunter2@localhost:{}", port.number());
    for (settings, why) in
        [(vec![("REDIS_CA_FILE", ca.as_str())], "another name"), (vec![], "an unknown authority")]
    {
        let settings = [vec![("REDIS_URL", url.as_str())], settings].concat();
        let mut kioskd = Kioskd::start(&settings);
        let mut client = kioskd.connect();
        let reply = client.get("/items?id=7");
        assert_eq!((reply.status, reply.problem().0.as_str()), (502, "store_unreachable"), "{why}");
        kioskd.wait_for_log("certificate");
        assert_eq!(client.get("/readyz").status, 503);
    }
    drop(redis);
}

#[test]
fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let redis = Redis::start();
    let url = format!("rediss://{}", redis.addr());
    let kioskd = Kioskd::start(&[("REDIS_URL", &url)]);
    // It waits for the end of what it takes for a line, or says that it is none.
    let status = kioskd.connect().get("/items?id=7").status;
    assert!(matches!(status, 502 | 504), "{status}");
    assert!(!redis.command(&["INFO", "commandstats"]).contains("cmdstat_get:"));
}

#[test]
fn a_file_that_holds_no_certificate_ends_the_start() {
    let directory = temp_dir();
    let path = directory.join("empty.pem");
    std::fs::write(&path, "").expect("a file in our own directory");
    for file in [path.as_path(), Path::new("/does/not/exist")] {
        let ended = Kioskd::run(
            &[("REDIS_URL", "rediss://localhost"), ("REDIS_CA_FILE", &file.display().to_string())],
            &[],
        );
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("REDIS_CA_FILE="), "{ended:?}");
    }
    let _ = std::fs::remove_dir_all(&directory);
}

/// Authorities change. A file that is not usable for a moment, because it is just being written, is no reason to lose a
/// server: the certificates that were read last are used.
#[test]
fn the_authority_is_read_again_for_every_connection() {
    let (old, new) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let (redis, port) = start(&old, &[]);
    let ca = old.path("trusted.pem");
    let trust =
        |from: &Certificates| std::fs::copy(from.path("ca.pem"), &ca).expect("our own file");
    trust(&old);
    let url = format!("rediss://127.0.0.1:{}", port.number());
    for_each_front(|front| {
        let settings = [("FRONT", front), ("REDIS_URL", &*url), ("REDIS_CA_FILE", &*ca)];
        let mut kioskd = Kioskd::start(&[&settings[..], &[("WORKERS", "1")]].concat());
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=7", "{}").status / 100, 2);
        let reconnect = |certificates: &Certificates| {
            let (cert, key) = (certificates.path("redis.pem"), certificates.path("redis.key"));
            let both = ["CONFIG", "SET", "tls-cert-file", &cert, "tls-key-file", &key];
            redis.command(&both);
            redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        };
        for unusable in ["", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&ca, unusable).expect("our own file");
            reconnect(&old);
            eventually("the last certificates", || client.get("/items?id=7").status == 200);
            kioskd.wait_for_log("the last certificates are used");
        }
        std::fs::remove_file(&ca).expect("our own file");
        reconnect(&old);
        eventually("without the file", || client.get("/items?id=7").status == 200);
        trust(&old);
        reconnect(&new);
        eventually("another authority", || client.get("/items?id=7").status == 502);
        trust(&new);
        eventually("it is trusted now", || client.get("/items?id=7").status == 200);
        trust(&old);
        reconnect(&old);
    });
}

/// Managed services often have TLS for the data and none for the sentinels; and a sentinel that has it can name a server
/// that has not.
#[test]
fn sentinels_have_tls_apart_from_the_data() {
    let certificates = Certificates::new("IP:127.0.0.1");
    let (redis, tls_port) = start(&certificates, &[]);
    let ca = certificates.path("ca.pem");
    for (data, sentinel) in [(true, false), (false, true), (true, true)] {
        let (plain, secure, at) = (Port::take(), Port::take(), certificates.path("sentinel.conf"));
        let master = if data { tls_port.number() } else { redis.port() };
        let text = format!(
            "bind 127.0.0.1\nport {}\ntls-port {}\nsentinel monitor m 127.0.0.1 {master} 1\n\
             tls-replication {}\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {ca}\n",
            plain.number(),
            secure.number(),
            if data { "yes" } else { "no" },
            certificates.path("redis.pem"),
            certificates.path("redis.key"),
        );
        std::fs::write(&at, text).expect("a file in our own directory");
        let mut process = tethered("redis-sentinel");
        let mut process = process.arg(&at).stdout(Stdio::null()).spawn().expect("redis-sentinel");
        let (s, port) = if data { ("s", &plain) } else { ("", &secure) };
        let port = if data && sentinel { &secure } else { port };
        let option = if data == sentinel {
            ""
        } else if sentinel {
            "?sentinel_tls=yes"
        } else {
            "?sentinel_tls=no"
        };
        let url = format!("redis{s}+sentinel://127.0.0.1:{}/m{option}", port.number());
        let kioskd = Kioskd::start(&[("REDIS_URL", &url), ("REDIS_CA_FILE", &ca)]);
        eventually(&url, || kioskd.connect().get("/readyz").status == 200);
        assert_eq!(kioskd.connect().post("/items?id=7", "{}").status / 100, 2);
        process.kill().and_then(|()| process.wait()).expect("it was there");
    }
}
