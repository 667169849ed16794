//! The binary under test, started the way an operator starts it: settings in the environment, log on stdout.
//!
//! The start-up line carries `listening on ADDRESS:PORT`. The harness binds port 0 and reads the port from there, so
//! no test can lose a port to another one between choosing and binding it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::process::{Process, tethered};
use super::{Client, PATIENCE, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_kioskd");

/// A running kioskd.
pub struct Kioskd {
    process: Process,
    log: Arc<Log>,
    address: String,
}

/// What a kioskd that was not meant to stay left behind.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Kioskd {
    /// Starts kioskd with these settings and nothing else in its environment but `PATH`, and returns when it listens.
    ///
    /// `LISTEN` is `127.0.0.1:0` unless the settings name `LISTEN` or `PORT`.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Kioskd {
        Kioskd::start_under(&[], settings)
    }

    /// As [`Kioskd::start`], through a program that sets limits and then becomes it: `prlimit --nofile=1024`, or
    /// [`IN_A_CONTAINER`] and what to do there.
    #[track_caller]
    pub fn start_under(limits: &[&str], settings: &[(&str, &str)]) -> Kioskd {
        Kioskd::spawn(under(limits, command(settings, &[])))
    }

    /// As [`Kioskd::start`], another program that takes settings and tells where it listens as kioskd does.
    #[track_caller]
    pub fn start_program(program: &Path, settings: &[(&str, &str)]) -> Kioskd {
        Kioskd::spawn(command_for(program, settings, &[]))
    }

    #[track_caller]
    fn spawn(mut command: Command) -> Kioskd {
        let mut process = Process::spawn(&mut command);
        let log = Log::new();
        let stdout = process.child().stdout.take().expect("stdout is piped");
        let stderr = process.child().stderr.take().expect("stderr is piped");
        log.follow(stdout);
        log.follow(stderr);
        let mut kioskd = Kioskd { process, log, address: String::new() };
        kioskd.wait_for_log("listening on ");
        kioskd.address =
            listening_address(&kioskd.log()).expect("an address follows `listening on `");
        kioskd
    }

    /// As [`Kioskd::start`], with a stdout that the test reads, or nobody. [`Kioskd::log`] has stderr alone then, so
    /// `listen` says where to find it: `unix:PATH`.
    #[track_caller]
    pub fn start_into(stdout: impl Into<Stdio>, listen: &str, settings: &[(&str, &str)]) -> Kioskd {
        let mut command = command(&[settings, &[("LISTEN", listen)]].concat(), &[]);
        let mut process = Process::spawn(command.stdout(stdout));
        let log = Log::new();
        log.follow(process.child().stderr.take().expect("stderr is piped"));
        let path = listen.strip_prefix("unix:").expect("a Unix socket");
        super::eventually("it to listen", || std::os::unix::net::UnixStream::connect(path).is_ok());
        Kioskd { process, log, address: listen.to_owned() }
    }

    /// Runs kioskd with these settings and arguments to its end, for starts that must fail and for `--help`.
    #[track_caller]
    pub fn run(settings: &[(&str, &str)], arguments: &[&str]) -> Finished {
        Kioskd::finish(command(settings, arguments))
    }

    /// As [`Kioskd::run`] without arguments, under limits as in [`Kioskd::start_under`].
    #[track_caller]
    pub fn run_under(limits: &[&str], settings: &[(&str, &str)]) -> Finished {
        Kioskd::finish(under(limits, command(settings, &[])))
    }

    /// As [`Kioskd::run`], for names and values that are no text.
    #[track_caller]
    pub fn run_with(name: &OsStr, value: &OsStr) -> Finished {
        let mut command = command(&[], &[]);
        command.env(name, value);
        Kioskd::finish(command)
    }

    #[track_caller]
    fn finish(mut command: Command) -> Finished {
        let mut process = Process::spawn(&mut command);
        let stdout = read_on_thread(process.child().stdout.take().expect("stdout is piped"));
        let stderr = read_on_thread(process.child().stderr.take().expect("stderr is piped"));
        let ended = process.wait();
        process.kill();
        let [stdout, stderr] =
            [stdout, stderr].map(|thread| thread.join().expect("the reader does not panic"));
        let Some(status) = ended else {
            panic!("{command:?} did not end; stdout:\n{stdout}\nstderr:\n{stderr}");
        };
        Finished { code: status.code(), stdout, stderr }
    }

    /// Where it listens, as the start-up line says: `127.0.0.1:41234`.
    pub fn addr(&self) -> String {
        self.address.clone()
    }

    pub fn port(&self) -> u16 {
        let (_, port) = self.address.rsplit_once(':').expect("a TCP address has a port");
        port.parse().unwrap_or_else(|_| panic!("no port in `{}`", self.address))
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(&self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All it has written so far, stdout and stderr together.
    pub fn log(&self) -> String {
        self.log.text.lock().expect("no reader panics").lines.clone()
    }

    /// Waits until its output contains `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        if let Err(reason) = self.log.wait_for(text) {
            let status = if self.log.ended() { self.process.wait() } else { self.process.exited() };
            panic!(
                "no `{text}` from kioskd: {reason} (exit status: {status:?}). It wrote:\n{}",
                self.log()
            );
        }
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// One right behind the other.
    pub fn signals(&self, names: &[&str]) {
        self.process.signals(names);
    }

    /// Freezes the process, as a debugger, a container's freezer or a suspended machine does, and returns when no thread
    /// of it runs any more. What is sent to it from then on waits in the kernel.
    #[track_caller]
    pub fn stop(&self) {
        self.signal("STOP");
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat =
                thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
            stat.is_ok_and(|stat| stat.contains(") T "))
        };
        eventually("every thread to freeze", || {
            std::fs::read_dir(format!("/proc/{}/task", self.pid()))
                .is_ok_and(|mut threads| threads.all(is_stopped))
        });
    }

    /// Ends [`Kioskd::stop`].
    pub fn cont(&self) {
        self.signal("CONT");
    }

    /// Waits for the process to end by itself. Afterwards [`Kioskd::log`] is complete.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let Some(status) = self.process.wait() else {
            panic!("kioskd is still running after {PATIENCE:?}. It wrote:\n{}", self.log());
        };
        self.log.wait_for_end();
        status
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// Resident memory in KiB (Linux).
    pub fn rss_kib(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    /// The most it has ever had resident, in KiB (Linux).
    pub fn rss_peak_kib(&self) -> u64 {
        self.status_field("VmHWM:")
    }

    /// Processor time it has used so far, in clock ticks (a hundredth of a second on every Linux): `proc(5)`, fields
    /// 14 and 15 of `stat`, counted behind the name, which may contain anything.
    pub fn cpu_ticks(&self) -> u64 {
        let file = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("failed to read {file}: {error}"));
        let (_, behind_name) = stat.rsplit_once(") ").expect("the kernel writes a name");
        let ticks = behind_name.split(' ').skip(11).take(2);
        ticks.map(|n| n.parse::<u64>().expect("the kernel writes numbers")).sum()
    }

    pub fn thread_count(&self) -> u64 {
        self.status_field("Threads:")
    }

    pub fn fd_count(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("failed to read {folder}: {error}"))
            .count()
    }

    fn status_field(&self, name: &str) -> u64 {
        let file = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("failed to read {file}: {error}"));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the kernel writes this field");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }
}

fn command(settings: &[(&str, &str)], arguments: &[&str]) -> Command {
    command_for(Path::new(BINARY), settings, arguments)
}

fn command_for(program: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = program.to_str().expect("cargo names programs in UTF-8");
    let mut command = tethered(program);
    command.env_clear().env("PATH", path).args(arguments);
    if !settings.iter().any(|(name, _)| ["LISTEN", "PORT"].contains(name)) {
        command.env("LISTEN", "127.0.0.1:0");
    }
    command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A process that panics tells where; the log of a failed test shows it.
    command.env("RUST_BACKTRACE", "1").current_dir(Path::new("/"));
    command
}

/// A mount namespace of its own, where a shell runs the next argument and `exec "$@"` at its end becomes kioskd. Needs
/// no privileges where user namespaces are allowed; see [`needs_namespaces`].
pub const IN_A_CONTAINER: [&str; 4] = ["unshare", "-rm", "sh", "-c"];

/// Fails with the reason where this host does not let the tests have [`IN_A_CONTAINER`].
#[track_caller]
pub fn needs_namespaces() {
    let mount = [&IN_A_CONTAINER[1..], &["mount -t tmpfs none /mnt"]].concat();
    let output = Command::new(IN_A_CONTAINER[0]).args(mount).output().expect("unshare is there");
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "no user namespace to be had (`unshare -rm`): {reason}");
}

/// `command`, through a program that takes it as its last arguments.
fn under(limits: &[&str], command: Command) -> Command {
    let [program, arguments @ ..] = limits else {
        return command;
    };
    let mut outer = Command::new(program);
    outer.args(arguments);
    if limits.starts_with(&IN_A_CONTAINER) {
        // The name of the shell.
        outer.arg("sh");
    }
    outer.arg(command.get_program()).args(command.get_args());
    outer.env_clear();
    for (name, value) in command.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    outer.stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    outer
}

/// `… listening on 127.0.0.1:41234 …`, in text or inside a JSON string, becomes `127.0.0.1:41234`.
fn listening_address(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    let end = rest.find(|c: char| c.is_whitespace() || ",;\"\\".contains(c)).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

fn read_on_thread(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The lines of one process, growing while it runs.
struct Log {
    text: Mutex<Text>,
    grew: Condvar,
}

#[derive(Default)]
struct Text {
    lines: String,
    open_streams: usize,
}

impl Log {
    fn new() -> Arc<Log> {
        Arc::new(Log { text: Mutex::default(), grew: Condvar::new() })
    }

    /// Copies a stream into the log, a line at a time so that two streams do not mix within one.
    fn follow(self: &Arc<Log>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        log.text.lock().expect("no reader panics").open_streams += 1;
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                log.text
                    .lock()
                    .expect("no reader panics")
                    .lines
                    .push_str(&String::from_utf8_lossy(&line));
                log.grew.notify_all();
                line.clear();
            }
            log.text.lock().expect("no reader panics").open_streams -= 1;
            log.grew.notify_all();
        });
    }

    fn wait_for(&self, wanted: &str) -> Result<(), &'static str> {
        let start = Instant::now();
        let mut text = self.text.lock().expect("no reader panics");
        loop {
            if text.lines.contains(wanted) {
                return Ok(());
            }
            if text.open_streams == 0 {
                return Err("it has ended");
            }
            let Some(left) = PATIENCE.checked_sub(start.elapsed()) else {
                return Err("it stays silent");
            };
            text = self.grew.wait_timeout(text, left).expect("no reader panics").0;
        }
    }

    fn wait_for_end(&self) {
        let text = self.text.lock().expect("no reader panics");
        let _ = self.grew.wait_timeout_while(text, PATIENCE, |text| text.open_streams > 0);
    }

    fn ended(&self) -> bool {
        self.text.lock().expect("no reader panics").open_streams == 0
    }
}
