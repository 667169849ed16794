//! A real redis-server for one test: its own port, its own directory, no persistence, gone when the test is.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::fake_redis::{read_value, request};
use super::port::Port;
use super::process::{Process, on_path, temp_dir, tethered};
use super::{PATIENCE, eventually};

/// A running redis-server.
pub struct Redis {
    process: Process,
    port: Port,
    dir: PathBuf,
    arguments: Vec<String>,
    /// Of the node of a cluster; held, no more.
    bus: Option<Port>,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts a server with more arguments, say `["--requirepass", "x"]`, and returns when it answers.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Redis {
        assert!(
            on_path("redis-server"),
            "no redis-server on the PATH, and these tests want a real one: start them with `tests/run`, which installs it"
        );
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let dir = temp_dir();
        // redis-server cannot say which port it got, so one is chosen for it, and another if somebody was faster.
        for _ in 0..20 {
            let port = Port::take();
            if let Some(process) = try_start(port.number(), &dir, &arguments) {
                return Redis { process, port, dir, arguments, bus: None };
            }
        }
        panic!("redis-server did not start: {}", log_of(&dir));
    }

    /// A node for a cluster, alone and without slots. The port of its bus is chosen here too: the usual one, 10,000
    /// above, does not exist for every port the kernel gives.
    #[track_caller]
    pub fn start_node() -> Redis {
        let bus = Port::take();
        let number = bus.number().to_string();
        let node = ["--cluster-enabled", "yes", "--cluster-port", &number];
        let timeout = ["--cluster-node-timeout", "2000"];
        // A new replica is served at once, not after the five seconds in which more might come.
        let hurry = ["--repl-diskless-sync-delay", "0"];
        let mut node = Redis::start_with(&[&node[..], &timeout, &hurry].concat());
        node.bus = Some(bus);
        node
    }

    /// As [`Redis::start_with`], with a Unix socket beside the port: [`Redis::socket`].
    #[track_caller]
    pub fn start_with_socket() -> Redis {
        // A relative path: the server resolves it in its own directory.
        Redis::start_with(&["--unixsocket", "redis.sock"])
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.port.addr()
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The path of its Unix socket, when it was started with one.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// Sends one command on a connection of its own, authenticated when the server wants a password.
    ///
    /// The reply as redis-cli prints it to a pipe: text bare, an integer in digits, nil as an empty string, an error
    /// as its message, an array as lines.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> String {
        let password = self
            .arguments
            .iter()
            .position(|word| word == "--requirepass")
            .map(|at| &self.arguments[at + 1]);
        ask(self.port(), password.map(String::as_str), arguments).unwrap_or_else(|error| {
            panic!("failed to ask Redis {arguments:?}: {error}; {}", log_of(&self.dir))
        })
    }

    /// Freezes the process: connections stay, connecting works (the kernel does that), nothing is answered.
    pub fn stop(&self) {
        self.process.signal("STOP");
        // The signal is on its way, not there: a command sent now might still be answered.
        eventually("redis-server to freeze", || self.state() == 'T');
    }

    /// Ends [`Redis::stop`].
    pub fn cont(&self) {
        self.process.signal("CONT");
    }

    /// Ends the process at once. Connections are reset, new ones refused, data lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a new, empty server on the same port after [`Redis::kill`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        let mut started = None;
        eventually("redis-server to take its port again", || {
            started = try_start(self.port(), &self.dir, &self.arguments);
            started.is_some()
        });
        self.process = started.expect("eventually() returns when it is there");
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The one-letter state of the process in `/proc`, `T` when stopped.
    fn state(&self) -> char {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.chars().next().unwrap_or('?')
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts a server and waits until it answers PING; `None` when it ended instead, as it does when the port is taken.
fn try_start(port: u16, dir: &PathBuf, arguments: &[String]) -> Option<Process> {
    let mut command = tethered("redis-server");
    command.current_dir(dir).args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]);
    command.args(["--appendonly", "no", "--enable-debug-command", "yes", "--daemonize", "no"]);
    command.args(["--logfile", "redis.log"]).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if process.exited().is_some() {
            return None;
        }
        // Its own process id in the reply: on a stolen port somebody else's server might answer PING.
        let password = arguments
            .iter()
            .position(|word| word == "--requirepass")
            .map(|at| arguments[at + 1].as_str());
        let info = ask(port, password, &["INFO", "server"]).unwrap_or_default();
        if info.lines().any(|line| line == format!("process_id:{}", process.pid())) {
            return Some(process);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Sends one command to whatever listens on `port`; see [`Redis::command`].
pub fn ask(port: u16, password: Option<&str>, arguments: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    if let Some(password) = password {
        stream.write_all(&request(&["AUTH", password]))?;
        read_value(&mut reader)?;
    }
    stream.write_all(&request(arguments))?;
    Ok(read_value(&mut reader)?.join("\n"))
}

fn log_of(dir: &std::path::Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(dir.join("redis.log"));
    let _ = file.and_then(|mut file| file.read_to_string(&mut text));
    format!("its log:\n{text}")
}
