//! A master, its replica, and three real sentinels that watch them: the smallest set-up that fails over.
//!
//! The times are short (a master that is silent for 700 ms is taken for dead, and then two of three must say so), and
//! the sentinels greet each other more often than by default, so that a group is complete in a second or two.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::fake_redis::request;
use super::process::{Process, on_path, temp_dir, tethered};
use super::redis::{Redis, ask, free_port};
use super::{PATIENCE, eventually};

/// What the sentinels call the master.
pub const NAME: &str = "kiosk";

/// A running group.
pub struct Sentinels {
    /// The first is the master at the start.
    pub servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
    password: Option<String>,
}

struct Sentinel {
    process: Process,
    port: u16,
    dir: PathBuf,
}

impl Sentinels {
    #[track_caller]
    pub fn start() -> Sentinels {
        Sentinels::start_with_passwords(None, None)
    }

    /// With a password for the two servers, and one for the sentinels.
    #[track_caller]
    pub fn start_with_passwords(data: Option<&str>, own: Option<&str>) -> Sentinels {
        // A replica that asks for its data gets it now, not after the five seconds in which a second might come.
        let mut words = vec!["--repl-diskless-sync-delay", "0"];
        if let Some(password) = data {
            words.extend(["--requirepass", password, "--masterauth", password]);
        }
        let master = Redis::start_with(&words);
        let of = format!("127.0.0.1 {}", master.port());
        let (host, port) = of.split_once(' ').expect("written so just now");
        let replica = Redis::start_with(&[&words[..], &["--replicaof", host, port]].concat());
        let config = configuration(master.port(), data, own);
        let sentinels = (0..3).map(|_| Sentinel::start(&config, own)).collect();
        let group = Sentinels {
            servers: vec![master, replica],
            sentinels,
            password: own.map(str::to_owned),
        };
        group.settle();
        group
    }

    /// Waits until every sentinel knows the two others and the replica, and the replica has its data.
    #[track_caller]
    fn settle(&self) {
        eventually("the sentinels to know each other", || {
            (0..3).all(|n| {
                let said = self.ask(n, &["SENTINEL", "MASTER", NAME]);
                let words: Vec<&str> = said.lines().collect();
                let field = |name: &str| words.chunks(2).find(|pair| pair[0] == name).map(|p| p[1]);
                field("num-slaves") == Some("1")
                    && field("num-other-sentinels") == Some("2")
                    && field("flags") == Some("master")
            })
        });
        eventually("the replica to have its data", || {
            let said = self.servers[1].command(&["INFO", "replication"]);
            said.contains("master_link_status:up")
        });
    }

    /// `127.0.0.1:PORT` of each sentinel.
    pub fn addresses(&self) -> Vec<String> {
        let address = |s: &Sentinel| format!("127.0.0.1:{}", s.port);
        self.sentinels.iter().map(address).collect()
    }

    /// `redis+sentinel://` with all of them.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{NAME}", self.addresses().join(","))
    }

    pub fn port(&self, n: usize) -> u16 {
        self.sentinels[n].port
    }

    /// Asks one sentinel; see [`Redis::command`]. Nothing when it is not there.
    pub fn ask(&self, n: usize, words: &[&str]) -> String {
        ask(self.sentinels[n].port, self.password.as_deref(), words).unwrap_or_default()
    }

    pub fn kill_sentinel(&mut self, n: usize) {
        self.sentinels[n].process.kill();
    }

    /// Sends STOP or CONT to a sentinel.
    pub fn signal_sentinel(&self, n: usize, name: &str) {
        self.sentinels[n].process.signal(name);
    }

    /// Listens for `+switch-master` at every sentinel.
    #[track_caller]
    pub fn watch(&self) -> Switch {
        let (send, heard) = channel();
        for n in 0..3 {
            let stream = TcpStream::connect(("127.0.0.1", self.sentinels[n].port));
            let mut stream = stream.expect("a sentinel that is there");
            if let Some(password) = &self.password {
                stream
                    .write_all(&request(&["AUTH", password]))
                    .expect("it reads");
            }
            let subscribe = request(&["SUBSCRIBE", "+switch-master"]);
            stream.write_all(&subscribe).expect("it reads");
            let mut lines = BufReader::new(stream).lines();
            // Two channel names: in the answer to SUBSCRIBE, and before the message. Here, the answer is awaited.
            let subscribed = lines.find(|line| line.as_ref().is_ok_and(|l| l == ":1"));
            assert!(subscribed.is_some(), "sentinel {n} refuses SUBSCRIBE");
            let send = send.clone();
            // Ends with the sentinel.
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if line.starts_with(NAME) {
                        let _ = send.send((Instant::now(), line));
                    }
                }
            });
        }
        Switch { heard }
    }
}

/// The first news of a new master.
pub struct Switch {
    heard: Receiver<(Instant, String)>,
}

impl Switch {
    /// When the first sentinel said so.
    #[track_caller]
    pub fn wait(&self) -> Instant {
        let (at, _) = self.heard.recv_timeout(PATIENCE).expect("+switch-master");
        at
    }
}

impl Sentinel {
    #[track_caller]
    fn start(config: &str, password: Option<&str>) -> Sentinel {
        assert!(
            on_path("redis-sentinel"),
            "no redis-sentinel on the PATH, and these tests want real ones: start them with `tests/run`, which installs it"
        );
        let dir = temp_dir();
        // It cannot say which port it got; another is chosen if somebody was faster.
        for _ in 0..20 {
            let port = free_port();
            let file = dir.join("sentinel.conf");
            let text = format!("port {port}\ndir {}\n{config}", dir.display());
            std::fs::write(&file, text).expect("our own directory");
            let mut command = tethered("redis-sentinel");
            command
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut process = Process::spawn(&mut command);
            eventually("a sentinel to answer or to end", || {
                process.exited().is_some()
                    || ask(port, password, &["SENTINEL", "MYID"]).is_ok_and(|id| id.len() == 40)
            });
            if process.exited().is_none() {
                // They find each other by greeting; every two seconds unless told otherwise.
                let _ = ask(
                    port,
                    password,
                    &["SENTINEL", "DEBUG", "publish-period", "300"],
                );
                return Sentinel { process, port, dir };
            }
        }
        let log = std::fs::read_to_string(dir.join("sentinel.log")).unwrap_or_default();
        panic!("redis-sentinel did not start: {log}");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn configuration(master: u16, data: Option<&str>, own: Option<&str>) -> String {
    let mut text = format!(
        "bind 127.0.0.1\nlogfile sentinel.log\n\
         sentinel monitor {NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {NAME} 700\n\
         sentinel failover-timeout {NAME} 3000\n"
    );
    if let Some(password) = data {
        text += &format!("sentinel auth-pass {NAME} {password}\n");
    }
    if let Some(password) = own {
        text += &format!("requirepass {password}\nsentinel sentinel-pass {password}\n");
    }
    text
}
