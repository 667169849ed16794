//! `rediss://`: a real Redis with a real certificate, and what must be refused.
//!
//! A crate of its own, because it needs a feature: `cargo test --features tls --test redis_tls`; `tests/run` does it.
//! What a build without the feature makes of `rediss://` is in `redis/sign_on.rs`.

mod support;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kioskd::net::{Address, Errand, Found, Ready, Socket, StdWorld, World};
use kioskd::resp::tls::{Config, Session};
use support::{Kioskd, Port, Redis, eventually, for_each_front, temp_dir, tethered};

const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A certificate authority, a certificate of it for the server with these names, and `client.pem` for a client.
struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    fn new(names: &str) -> Certificates {
        let certificates = Certificates { directory: temp_dir() };
        certificates.openssl(&format!(
            "req -x509 {EC} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
        ));
        certificates.issue("redis", &format!("subjectAltName={names}"));
        certificates.issue("client", "extendedKeyUsage=clientAuth");
        certificates
    }

    /// `NAME.pem` and `NAME.key`, as files that are written one after the other.
    fn issue(&self, name: &str, extension: &str) {
        self.openssl(&format!("req {EC} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let extensions = format!("{extension}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.path("extensions"), extensions).expect("a file in our own directory");
        self.sign(name);
    }

    /// `NAME.csr`, with the last extensions.
    fn sign(&self, name: &str) {
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
             -out {name}.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let words = arguments.split(' ').filter(|word| !word.is_empty());
        let done = Command::new("openssl").args(words).current_dir(&self.directory).output();
        let done = done.expect("openssl is installed; tests/run does it");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments}: {said}");
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
    arguments.extend(["--tls-ca-cert-file", &ca]);
    if !more.contains(&"--tls-auth-clients") {
        arguments.extend(["--tls-auth-clients", "no"]);
    }
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

const ASKS: [&str; 2] = ["--tls-auth-clients", "yes"];

/// The settings for a client with this pair.
fn with_pair<'a>(
    url: &'a str,
    ca: &'a str,
    certificate: &'a str,
    key: &'a str,
) -> [(&'static str, &'a str); 4] {
    [
        ("REDIS_URL", url),
        ("REDIS_CA_FILE", ca),
        ("REDIS_CERT_FILE", certificate),
        ("REDIS_KEY_FILE", key),
    ]
}

/// What `/readyz?verbose` says once the log has said `text`.
fn not_ready(mut kioskd: Kioskd, text: &str) -> String {
    assert_eq!(kioskd.connect().get("/items?id=7").status, 502);
    kioskd.wait_for_log(text);
    let reply = kioskd.connect().get("/readyz?verbose");
    assert_eq!(reply.status, 503);
    reply.text()
}

#[test]
fn a_server_that_asks_is_shown_our_certificate() {
    let certificates = Certificates::new("IP:127.0.0.1");
    // Keys as they come: PKCS#8 was made above; SEC1, with the parameters that `ecparam` puts before it; PKCS#1.
    certificates.openssl("ec -in client.key -out sec1.key");
    certificates.openssl("ecparam -name prime256v1 -out parameters");
    let read = |name| std::fs::read_to_string(certificates.path(name)).expect("openssl wrote it");
    let sec1 = read("parameters") + &read("sec1.key");
    assert!(sec1.contains("BEGIN EC PARAMETERS") && sec1.contains("BEGIN EC PRIVATE KEY"));
    std::fs::write(certificates.path("sec1.key"), sec1).expect("our own file");
    certificates.openssl("genrsa -traditional -out pkcs1.key 2048");
    assert!(read("pkcs1.key").contains("BEGIN RSA PRIVATE KEY"));
    certificates.openssl("req -new -key pkcs1.key -subj /CN=rsa -out rsa.csr");
    certificates.sign("rsa");
    let ca = certificates.path("ca.pem");
    for protocols in ["TLSv1.2", "TLSv1.3"] {
        let (redis, port) =
            start(&certificates, &[&ASKS[..], &["--tls-protocols", protocols]].concat());
        let url = format!("rediss://127.0.0.1:{}", port.number());
        for (certificate, key) in
            [("client.pem", "client.key"), ("client.pem", "sec1.key"), ("rsa.pem", "pkcs1.key")]
        {
            let (certificate, key) = (certificates.path(certificate), certificates.path(key));
            let settings = with_pair(&url, &ca, &certificate, &key);
            for_each_front(|front| {
                let kioskd = Kioskd::start(&[&settings[..], &[("FRONT", front)]].concat());
                let mut client = kioskd.connect();
                assert_eq!(client.post("/items?id=7", "{}").status / 100, 2, "{protocols} {key}");
                assert_eq!(client.get("/readyz").status, 200);
            });
        }
        drop(redis);
    }
}

#[test]
fn a_certificate_that_is_missing_or_of_a_foreign_authority_is_said_to_be() {
    let (ours, foreign) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let ca = ours.path("ca.pem");
    for protocols in ["TLSv1.2", "TLSv1.3"] {
        let (redis, port) = start(&ours, &[&ASKS[..], &["--tls-protocols", protocols]].concat());
        let url = format!("rediss://127.0.0.1:{}", port.number());
        let (certificate, key) = (foreign.path("client.pem"), foreign.path("client.key"));
        let settings = with_pair(&url, &ca, &certificate, &key);
        for_each_front(|front| {
            let front = &[("FRONT", front)][..];
            let kioskd = Kioskd::start(&[&settings[..2], front].concat());
            let said = not_ready(kioskd, "set REDIS_CERT_FILE and REDIS_KEY_FILE");
            let alert =
                if protocols == "TLSv1.2" { "HandshakeFailure" } else { "CertificateRequired" };
            assert!(said.contains(alert), "{said}");
            let kioskd = Kioskd::start(&[&settings[..], front].concat());
            let said = not_ready(kioskd, "does not trust the authority of REDIS_CERT_FILE");
            assert!(said.contains("UnknownCA"), "{said}");
        });
        assert!(!redis.command(&["INFO", "commandstats"]).contains("cmdstat_get:"));
    }
}

/// The next connection shows what is in the files then. A pair of which only one file is written yet is not used, and
/// the last one is.
#[test]
fn a_renewed_pair_is_shown_by_the_next_connection() {
    let (old, new) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let (redis, port) = start(&old, &ASKS);
    let url = format!("rediss://127.0.0.1:{}", port.number());
    let (ca, certificate, key) = (old.path("ca.pem"), old.path("our.pem"), old.path("our.key"));
    let copy = |from: &Certificates, name: &str, to: &str| {
        std::fs::copy(from.path(name), to).expect("our own file");
    };
    let drop_connections = || redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let ask = |authority: &Certificates| {
        redis.command(&["CONFIG", "SET", "tls-ca-cert-file", &authority.path("ca.pem")]);
        drop_connections();
    };
    for_each_front(|front| {
        copy(&old, "client.pem", &certificate);
        copy(&old, "client.key", &key);
        let settings = with_pair(&url, &ca, &certificate, &key);
        let more = [("FRONT", front), ("WORKERS", "1")];
        let mut kioskd = Kioskd::start(&[&settings[..], &more].concat());
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=7", "{}").status / 100, 2);
        copy(&new, "client.pem", &certificate);
        drop_connections();
        eventually("the last pair", || client.get("/items?id=7").status == 200);
        kioskd.wait_for_log("our.key: it is not the key of the certificate in REDIS_CERT_FILE");
        ask(&new);
        eventually("it is not trusted any more", || client.get("/items?id=7").status == 502);
        copy(&new, "client.key", &key);
        eventually("the new pair", || client.get("/items?id=7").status == 200);
        std::fs::remove_file(&key).expect("our own file");
        drop_connections();
        eventually("without the file", || client.get("/items?id=7").status == 200);
        kioskd.wait_for_log("our.key: No such file");
        ask(&old);
    });
}

#[test]
fn a_pair_that_cannot_be_used_ends_the_start() {
    let (ours, other) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    ours.openssl("pkcs8 -topk8 -in client.key -passout pass:hunter2 -out encrypted.key");
    ours.openssl("ec -in client.key -aes128 -passout pass:hunter2 -out old.key");
    let key = std::fs::read_to_string(ours.path("client.key")).expect("openssl wrote it");
    let secret = key.lines().nth(1).expect("the first line of the key itself").to_owned();
    let one_line = key.replace('\n', " ");
    let cut = &key[..key.len() / 2];
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text) in
        [("empty", ""), ("line.key", &*one_line), ("cut.key", cut), ("nonsense", nonsense)]
    {
        std::fs::write(ours.path(name), text).expect("our own file");
    }
    let (good, good_key) = (ours.path("client.pem"), ours.path("client.key"));
    for (certificate, key, begins, says) in [
        (&*good, "", "REDIS_CERT_FILE=", "set REDIS_KEY_FILE"),
        ("", &*good_key, "REDIS_KEY_FILE=", "set REDIS_CERT_FILE"),
        ("/does/not/exist", &good_key, "REDIS_CERT_FILE=", "/does/not/exist: No such file"),
        (&good, "/does/not/exist", "REDIS_KEY_FILE=", "/does/not/exist: No such file"),
        ("/dev/zero", &good_key, "REDIS_CERT_FILE=", "/dev/zero: there is none in it"),
        (&good, "/dev/zero", "REDIS_KEY_FILE=", "/dev/zero: there is none in it"),
        (&good, &ours.path("empty"), "REDIS_KEY_FILE=", "empty: there is none in it"),
        (&good, &good, "REDIS_KEY_FILE=", "client.pem: there is none in it"),
        (&good_key, &good_key, "REDIS_CERT_FILE=", "client.key: there is none in it"),
        (&good, &other.path("client.key"), "REDIS_KEY_FILE=", "client.key: it is not the key of"),
        (&good, &ours.path("encrypted.key"), "REDIS_KEY_FILE=", "encrypted.key: it is encrypted"),
        (&good, &ours.path("old.key"), "REDIS_KEY_FILE=", "old.key: it is encrypted"),
        (&good, &ours.path("line.key"), "REDIS_KEY_FILE=", "line.key: it is no PEM"),
        (&ours.path("line.key"), &good_key, "REDIS_CERT_FILE=", "line.key: it is no PEM"),
        (&good, &ours.path("cut.key"), "REDIS_KEY_FILE=", "cut.key: it is no PEM, or is cut off"),
        (
            &ours.path("nonsense"),
            &good_key,
            "REDIS_CERT_FILE=",
            "nonsense: it is no X.509 certificate",
        ),
        (&good, &one_line, "REDIS_KEY_FILE=\"***\"", "not what is in it"),
    ] {
        let settings = [
            ("REDIS_URL", "rediss://localhost"),
            ("REDIS_CERT_FILE", certificate),
            ("REDIS_KEY_FILE", key),
        ];
        let ended = Kioskd::run(&settings, &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(begins) && ended.stderr.contains(says), "{says}: {ended:?}");
        assert!(!ended.stderr.contains(&secret), "the key is not shown: {ended:?}");
    }
}

/// A tunnel, a port that is forwarded, a load balancer: the address says another name than the certificate.
#[test]
fn the_name_in_the_certificate_may_be_another_than_the_address_says() {
    let certificates = Certificates::new("DNS:redis.internal,IP:192.0.2.7");
    let (redis, port) = start(&certificates, &[]);
    let (url, ca) = (format!("rediss://127.0.0.1:{}", port.number()), certificates.path("ca.pem"));
    let settings = [("REDIS_URL", &*url), ("REDIS_CA_FILE", &*ca)];
    for_each_front(|front| {
        let settings = [&settings[..], &[("FRONT", front)]].concat();
        let named = |name| Kioskd::start(&[&settings[..], &[("REDIS_SERVER_NAME", name)]].concat());
        for name in ["redis.internal", "192.0.2.7"] {
            let kioskd = named(name);
            assert_eq!(kioskd.connect().post("/items?id=7", "{}").status / 100, 2, "{name}");
        }
        for (kioskd, name) in [
            (Kioskd::start(&settings), "127.0.0.1"),
            (named("redis.example"), "redis.example"),
            (named("192.0.2.8"), "192.0.2.8"),
        ] {
            let said = not_ready(kioskd, "set REDIS_SERVER_NAME to a name in its certificate");
            assert!(said.contains(name) && said.contains("redis.internal"), "{said}");
        }
    });
    drop(redis);
}

/// All servers are verified against the one name: the sentinel, and the master that it names by its address.
#[test]
fn sentinels_and_their_master_have_the_one_name_and_are_shown_our_certificate() {
    let certificates = Certificates::new("DNS:redis.internal");
    let (redis, tls_port) = start(&certificates, &ASKS);
    let (ca, at, port) = (certificates.path("ca.pem"), certificates.path("conf"), Port::take());
    let (certificate, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let text = format!(
        "bind 127.0.0.1\nport 0\ntls-port {}\nsentinel monitor m 127.0.0.1 {} 1\n\
         tls-replication yes\ntls-auth-clients yes\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {ca}\n",
        port.number(),
        tls_port.number(),
        certificates.path("redis.pem"),
        certificates.path("redis.key"),
    );
    std::fs::write(&at, text).expect("a file in our own directory");
    let mut sentinel = tethered("redis-sentinel");
    let mut sentinel = sentinel.arg(&at).stdout(Stdio::null()).spawn().expect("redis-sentinel");
    let url = format!("rediss+sentinel://127.0.0.1:{}/m", port.number());
    let settings = with_pair(&url, &ca, &certificate, &key);
    let kioskd =
        Kioskd::start(&[&settings[..], &[("REDIS_SERVER_NAME", "redis.internal")]].concat());
    eventually(&url, || kioskd.connect().get("/readyz").status == 200);
    assert_eq!(kioskd.connect().post("/items?id=7", "{}").status / 100, 2);
    sentinel.kill().and_then(|()| sentinel.wait()).expect("it was there");
    drop(redis);
}

/// A cluster names its nodes by their addresses.
#[test]
fn the_nodes_of_a_cluster_have_the_one_name_and_are_shown_our_certificate() {
    let certificates = Certificates::new("DNS:redis.internal");
    let directory = temp_dir();
    let conf = directory.join("nodes.conf").display().to_string();
    // Unless it is told, it takes the port 10,000 above, which may be anybody's.
    let bus = Port::take();
    let bus = bus.number().to_string();
    let more = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-config-file", &conf];
    let more = [&ASKS[..], &more, &["--cluster-port", &bus]].concat();
    let (redis, port) = start(&certificates, &more);
    redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let (ca, certificate, key) = (
        certificates.path("ca.pem"),
        certificates.path("client.pem"),
        certificates.path("client.key"),
    );
    let url = format!("rediss+cluster://127.0.0.1:{}", port.number());
    let settings = with_pair(&url, &ca, &certificate, &key);
    let kioskd =
        Kioskd::start(&[&settings[..], &[("REDIS_SERVER_NAME", "redis.internal")]].concat());
    eventually(&url, || kioskd.connect().post("/items?id=7", "{}").status / 100 == 2);
    assert_eq!(kioskd.connect().get("/items?id=7").status, 200);
    drop(redis);
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn a_name_that_is_none_ends_the_start() {
    for name in ["redis internal", "redis.internal:6379", "[::1]", "https://redis", "-", "a..b"] {
        let ended =
            Kioskd::run(&[("REDIS_URL", "rediss://localhost"), ("REDIS_SERVER_NAME", name)], &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let shown = format!("REDIS_SERVER_NAME={name:?}: ");
        assert!(ended.stderr.contains(&shown), "{ended:?}");
        assert!(ended.stderr.contains("without a port"), "{ended:?}");
    }
}

/// A world whose sockets take so many bytes more, and then are broken.
struct Breaking {
    world: StdWorld,
    left: usize,
}

impl World for Breaking {
    fn send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.world.send(socket, &bytes[..bytes.len().min(self.left)])?;
        self.left -= sent;
        Ok(sent)
    }

    fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Instant> {
        self.world.wait(until, ready)
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn unix_time(&self) -> Duration {
        self.world.unix_time()
    }

    fn random(&mut self) -> u64 {
        self.world.random()
    }

    fn connect(&mut self, to: &Address, timeout: Duration) -> io::Result<Socket> {
        self.world.connect(to, timeout)
    }

    fn connected(&mut self, socket: Socket) -> io::Result<bool> {
        self.world.connected(socket)
    }

    fn set_owner(&mut self, socket: Socket, owner: u64) {
        self.world.set_owner(socket, owner);
    }

    fn recv(&mut self, socket: Socket, into: &mut [u8]) -> io::Result<usize> {
        self.world.recv(socket, into)
    }

    fn shut_down(&mut self, socket: Socket) -> io::Result<()> {
        self.world.shut_down(socket)
    }

    fn has_ended(&mut self, socket: Socket) -> bool {
        self.world.has_ended(socket)
    }

    fn has_taken(&mut self, socket: Socket) -> io::Result<bool> {
        self.world.has_taken(socket)
    }

    fn peer(&self, socket: Socket) -> Option<IpAddr> {
        self.world.peer(socket)
    }

    fn close(&mut self, socket: Socket) {
        self.world.close(socket);
    }

    fn close_all(&mut self, owner: u64) {
        self.world.close_all(owner);
    }

    fn look_up(&mut self, name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> Errand {
        self.world.look_up(name, file)
    }

    fn looked_up(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        self.world.looked_up(errand)
    }
}

/// A write of which a record has gone out may take effect. If it passed for unsent it would be sent again.
#[test]
fn what_a_session_has_taken_is_sent_though_the_connection_breaks_behind_it() {
    let certificates = Certificates::new("DNS:localhost,IP:127.0.0.1");
    let (_redis, port) = start(&certificates, &[]);
    let mut config = Config::new().expect("TLS is in this build");
    let unusable = config.read([Some(certificates.path("ca.pem").into()), None, None]);
    assert!(unusable.is_empty(), "{unusable:?}");
    let address = Address::Tcp(port.addr().parse().expect("an address"));
    // A record has 16 KiB: none of the first, a part of it, the first and a part of the second.
    for left in [0, 100, 20_000] {
        let mut world = Breaking { world: StdWorld::default(), left: usize::MAX };
        let socket = world.connect(&address, Duration::from_secs(10)).expect("Redis listens");
        let mut session = config.begin("localhost").expect("a name");
        session.send(&mut world, socket, b"PING\r\n").expect("an open socket");
        assert_eq!(received(&mut *session, &mut world, socket), "+PONG\r\n");

        world.left = left;
        let taken = session.send(&mut world, socket, &[b'x'; 40_000]);
        assert!(taken.is_ok_and(|taken| taken > 0), "after {left} bytes");
        let next = session.send(&mut world, socket, b"x");
        assert_eq!(next.map_err(|e| e.kind()), Err(io::ErrorKind::BrokenPipe));
    }
}

fn received(session: &mut dyn Session, world: &mut Breaking, socket: Socket) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    let mut bytes = [0; 64];
    while Instant::now() < end {
        match session.recv(world, socket, &mut bytes) {
            Ok(n) => return String::from_utf8_lossy(&bytes[..n]).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                world.wait(Some(end), &mut Vec::new()).expect("it can wait");
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("nothing came");
}
