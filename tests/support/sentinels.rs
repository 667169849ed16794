//! A master, its replicas, and three real sentinels that watch them: with one replica, the smallest set-up that fails
//! over.
//!
//! The times are short (a master that is silent for 700 ms is taken for dead, and then two of three must say so, unless
//! only failovers that are ordered are wanted), and the sentinels greet each other and look at the servers more often than by default, so that a group is complete in a
//! second or two, and again after a failover.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::fake_redis::request;
use super::place::Place;
use super::port::Port;
use super::process::{Process, on_path, temp_dir, tethered};
use super::redis::{Redis, ask};
use super::{PATIENCE, eventually};

/// What the sentinels call the master.
pub const NAME: &str = "kiosk";

/// After so many milliseconds of silence a server is taken for dead. On a machine that is busy enough, one that is not is
/// taken for dead, too; where that would be in the way, the sentinels are patient.
const HASTY: &str = "700";
const PATIENT: &str = "30000";

/// A running group.
pub struct Sentinels {
    /// The first is the master at the start.
    pub servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
    data_password: Option<String>,
    password: Option<String>,
    _place: Place,
}

struct Sentinel {
    process: Process,
    port: Port,
    dir: PathBuf,
    lives: bool,
}

impl Sentinels {
    #[track_caller]
    pub fn start() -> Sentinels {
        Sentinels::start_group(1, HASTY, None, None)
    }

    /// With so many replicas. Nothing is taken for dead by itself; see [`Sentinels::be_hasty`].
    #[track_caller]
    pub fn start_with_replicas(replicas: usize) -> Sentinels {
        Sentinels::start_group(replicas, PATIENT, None, None)
    }

    /// With a password for the two servers, and one for the sentinels.
    #[track_caller]
    pub fn start_with_passwords(data: Option<&str>, own: Option<&str>) -> Sentinels {
        Sentinels::start_group(1, HASTY, data, own)
    }

    #[track_caller]
    fn start_group(
        replicas: usize,
        down_after: &str,
        data: Option<&str>,
        own: Option<&str>,
    ) -> Sentinels {
        let place = Place::take();
        // A replica that asks for its data gets it now, not after the five seconds in which a second might come.
        let mut words = vec!["--repl-diskless-sync-delay", "0"];
        if let Some(password) = data {
            words.extend(["--requirepass", password, "--masterauth", password]);
        }
        let master = Redis::start_with(&words);
        let port = master.port().to_string();
        let replica = [&words[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let mut servers = vec![master];
        servers.extend((0..replicas).map(|_| Redis::start_with(&replica)));
        let config = configuration(servers[0].port(), down_after, data, own);
        let sentinels = (0..3).map(|_| Sentinel::start(&config, own)).collect();
        let group = Sentinels {
            servers,
            sentinels,
            data_password: data.map(str::to_owned),
            password: own.map(str::to_owned),
            _place: place,
        };
        group.settle(0);
        group
    }

    /// Servers that know nothing of each other, and sentinels that each watch another one (`watched`, by number) under
    /// the one name: what is left of a group whose members were set up at different times.
    #[track_caller]
    pub fn start_apart(servers: usize, watched: [usize; 3]) -> Sentinels {
        let place = Place::take();
        let servers: Vec<Redis> = (0..servers).map(|_| Redis::start()).collect();
        let sentinel = |n: usize| {
            Sentinel::start(&configuration(servers[n].port(), PATIENT, None, None), None)
        };
        let sentinels = watched.map(sentinel).into();
        Sentinels { servers, sentinels, data_password: None, password: None, _place: place }
    }

    /// Waits until every living sentinel names this server, knows the two others and all replicas, and these have their
    /// data.
    #[track_caller]
    pub fn settle(&self, master: usize) {
        self.settle_on(|agreed| agreed == master);
    }

    /// As [`Sentinels::settle`], on whichever server it is. Its number.
    #[track_caller]
    pub fn settle_on_any(&self) -> usize {
        self.settle_on(|_| true)
    }

    #[track_caller]
    fn settle_on(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let start = Instant::now();
        loop {
            if let Some(master) = self.agreed().filter(|master| wanted(*master)) {
                return master;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "no master that sentinels and servers agree on: {}",
                self.describe()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What they say now, and what the sentinels have done, for a test that waits for something else.
    fn describe(&self) -> String {
        let mut text = String::new();
        for (n, sentinel) in self.sentinels.iter().enumerate() {
            let said = self.ask(n, &["SENTINEL", "MASTER", NAME]).replace('\n', " ");
            let log = std::fs::read_to_string(sentinel.dir.join("sentinel.log"));
            text += &format!("\n{n}: {said}\n{}", log.unwrap_or_default());
        }
        for server in &self.servers {
            let password = self.data_password.as_deref();
            let said = ask(server.port(), password, &["ROLE"]).unwrap_or_default();
            text += &format!("\n{}: {}", server.port(), said.replace('\n', " "));
        }
        text
    }

    fn agreed(&self) -> Option<usize> {
        let others = (self.servers.len() - 1).to_string();
        let living = (0..3).filter(|n| self.sentinels[*n].lives);
        let named = living.map(|n| {
            let said = self.ask(n, &["SENTINEL", "MASTER", NAME]);
            let words: Vec<&str> = said.lines().collect();
            let field = |name: &str| words.chunks(2).find(|pair| pair[0] == name).map(|p| p[1]);
            let complete = field("num-slaves") == Some(&others)
                && field("num-other-sentinels") == Some("2")
                && field("flags") == Some("master");
            // One that has not seen that a replica has become one would make it one again, soon after its promotion.
            let replicas = self.ask(n, &["SENTINEL", "REPLICAS", NAME]);
            let replicas: Vec<&str> = replicas.lines().collect();
            let count = |pair: [&str; 2]| replicas.chunks(2).filter(|p| *p == pair).count();
            let seen =
                [["flags", "slave"], ["role-reported", "slave"], ["master-link-status", "ok"]];
            let complete = complete && seen.iter().all(|pair| count(*pair).to_string() == others);
            field("port").filter(|_| complete).map(str::to_owned)
        });
        let mut named: Vec<Option<String>> = named.collect();
        named.dedup();
        let [Some(port)] = &named[..] else {
            return None;
        };
        let mut replicas = self.servers.iter().filter(|s| s.port().to_string() != *port);
        let follow = replicas.all(|replica| {
            let password = self.data_password.as_deref();
            let said = ask(replica.port(), password, &["INFO", "replication"]).unwrap_or_default();
            let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
            let of_it = format!("master_port:{port}");
            ["role:slave", "master_link_status:up", &of_it].iter().all(|line| lines.contains(line))
        });
        let port = port.parse().ok()?;
        follow.then(|| self.server_on(port))
    }

    /// The number of the server on this port.
    #[track_caller]
    pub fn server_on(&self, port: u16) -> usize {
        let at = self.servers.iter().position(|server| server.port() == port);
        at.unwrap_or_else(|| panic!("no server of ours is on port {port}"))
    }

    /// From now on the sentinels take a server for dead that is silent for 700 ms; or no longer so soon.
    pub fn be_hasty(&self, yes: bool) {
        let time = if yes { HASTY } else { PATIENT };
        for n in (0..3).filter(|n| self.sentinels[*n].lives) {
            let set = ["SENTINEL", "SET", NAME, "down-after-milliseconds", time];
            assert_eq!(self.ask(n, &set), "OK");
        }
    }

    /// Orders a failover from this sentinel, which leads it, and waits for what is awaited of it.
    #[track_caller]
    pub fn fail_over(&self, leader: usize, awaited: &Switch) -> News {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            // It refuses while it takes no replica for good enough, and may come to think so later and give up. As long
            // as it is at work it refuses, too.
            self.ask(leader, &["SENTINEL", "FAILOVER", NAME]);
            if let Ok(news) = awaited.heard.recv_timeout(Duration::from_millis(500)) {
                return news;
            }
        }
        panic!("no failover within {PATIENCE:?}");
    }

    /// Orders one and does not wait.
    #[track_caller]
    pub fn begin_failover(&self, leader: usize) {
        eventually("a failover to be begun", || {
            self.ask(leader, &["SENTINEL", "FAILOVER", NAME]) == "OK"
        });
    }

    /// `127.0.0.1:PORT` of each sentinel.
    pub fn addresses(&self) -> Vec<String> {
        let address = |s: &Sentinel| s.port.addr();
        self.sentinels.iter().map(address).collect()
    }

    /// `redis+sentinel://` with all of them.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{NAME}", self.addresses().join(","))
    }

    pub fn port(&self, n: usize) -> u16 {
        self.sentinels[n].port.number()
    }

    /// Asks one sentinel; see [`Redis::command`]. Nothing when it is not there.
    pub fn ask(&self, n: usize, words: &[&str]) -> String {
        ask(self.port(n), self.password.as_deref(), words).unwrap_or_default()
    }

    pub fn kill_sentinel(&mut self, n: usize) {
        self.sentinels[n].process.kill();
        self.sentinels[n].lives = false;
    }

    /// Starts a killed one again, with what it had written down.
    #[track_caller]
    pub fn restart_sentinel(&mut self, n: usize) {
        self.sentinels[n].run(self.password.as_deref());
        assert!(self.sentinels[n].lives, "sentinel {n} does not start again");
    }

    /// Sends STOP or CONT to a sentinel.
    pub fn signal_sentinel(&self, n: usize, name: &str) {
        self.sentinels[n].process.signal(name);
    }

    /// Listens for `+switch-master` at every living sentinel.
    #[track_caller]
    pub fn watch(&self) -> Switch {
        self.watch_for("+switch-master")
    }

    /// Listens on a channel of every living sentinel.
    #[track_caller]
    pub fn watch_for(&self, channel_name: &str) -> Switch {
        let (send, heard) = channel();
        for n in (0..3).filter(|n| self.sentinels[*n].lives) {
            let stream = TcpStream::connect(("127.0.0.1", self.port(n)));
            let mut stream = stream.expect("a sentinel that is there");
            if let Some(password) = &self.password {
                stream.write_all(&request(&["AUTH", password])).expect("it reads");
            }
            let subscribe = request(&["SUBSCRIBE", channel_name]);
            stream.write_all(&subscribe).expect("it reads");
            let mut lines = BufReader::new(stream).lines();
            // Two channel names: in the answer to SUBSCRIBE, and before the message. Here, the answer is awaited.
            let subscribed = lines.find(|line| line.as_ref().is_ok_and(|l| l == ":1"));
            assert!(subscribed.is_some(), "sentinel {n} refuses SUBSCRIBE");
            let send = send.clone();
            // Ends with the sentinel.
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if line.contains(NAME) {
                        let at = Instant::now();
                        let _ = send.send(News { at, sentinel: n, line });
                    }
                }
            });
        }
        Switch { heard }
    }
}

/// What sentinels say unasked.
pub struct Switch {
    heard: Receiver<News>,
}

/// One message.
pub struct News {
    pub at: Instant,
    /// Whose.
    pub sentinel: usize,
    pub line: String,
}

impl Switch {
    /// When the next one said so.
    #[track_caller]
    pub fn wait(&self) -> Instant {
        self.next().at
    }

    /// The next message.
    #[track_caller]
    pub fn next(&self) -> News {
        self.heard.recv_timeout(PATIENCE).expect("+switch-master")
    }

    /// The same, if there is one soon.
    pub fn soon(&self) -> Option<News> {
        self.heard.recv_timeout(PATIENCE / 6).ok()
    }

    /// Waits until each of these sentinels has sent one.
    #[track_caller]
    pub fn each_of(&self, mut sentinels: Vec<usize>) {
        while !sentinels.is_empty() {
            let news = self.next();
            sentinels.retain(|n| *n != news.sentinel);
        }
    }
}

impl News {
    /// The port of the new master, where it is about one.
    #[track_caller]
    pub fn new_port(&self) -> u16 {
        let last = self.line.rsplit(' ').next().and_then(|word| word.parse().ok());
        last.unwrap_or_else(|| panic!("no port in {:?}", self.line))
    }
}

impl Sentinel {
    #[track_caller]
    fn start(config: &str, password: Option<&str>) -> Sentinel {
        assert!(
            on_path("redis-sentinel"),
            "no redis-sentinel on the PATH, and these tests want real ones: start them with `tests/run`, which installs it"
        );
        let mut log = String::new();
        // It cannot say which port it got; another is chosen if somebody was faster.
        for _ in 0..20 {
            let (port, dir) = (Port::take(), temp_dir());
            let text = format!("port {}\ndir {}\n{config}", port.number(), dir.display());
            std::fs::write(dir.join("sentinel.conf"), text).expect("our own directory");
            let process = Process::spawn(&mut command(&dir));
            let mut sentinel = Sentinel { process, port, dir, lives: false };
            sentinel.greet(password);
            if sentinel.lives {
                return sentinel;
            }
            log = std::fs::read_to_string(sentinel.dir.join("sentinel.log")).unwrap_or_default();
        }
        panic!("redis-sentinel did not start: {log}");
    }

    #[track_caller]
    fn run(&mut self, password: Option<&str>) {
        self.process = Process::spawn(&mut command(&self.dir));
        self.greet(password);
    }

    /// Waits until it answers, or has ended.
    #[track_caller]
    fn greet(&mut self, password: Option<&str>) {
        let port = self.port.number();
        eventually("a sentinel to answer or to end", || {
            self.process.exited().is_some()
                || ask(port, password, &["SENTINEL", "MYID"]).is_ok_and(|id| id.len() == 40)
        });
        self.lives = self.process.exited().is_none();
        // They find each other by greeting, every two seconds unless told otherwise, and learn what has become of a
        // server by looking, every ten. After four greetings without news a replica that takes itself for the master is
        // put right; a leader needs up to a second to see that it has made one, and must be faster.
        for (what, period) in [("publish-period", "600"), ("info-period", "300")] {
            let _ = ask(port, password, &["SENTINEL", "DEBUG", what, period]);
        }
    }
}

fn command(dir: &Path) -> Command {
    let mut command = tethered("redis-sentinel");
    command.arg(dir.join("sentinel.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn configuration(master: u16, down_after: &str, data: Option<&str>, own: Option<&str>) -> String {
    let mut text = format!(
        "bind 127.0.0.1\nlogfile sentinel.log\n\
         sentinel monitor {NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {NAME} {down_after}\n\
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
