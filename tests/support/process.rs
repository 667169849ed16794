//! What every child process of the harness needs: to die with the test, to take signals, and to be waited for.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::PATIENCE;

/// A child that is killed and reaped when dropped, and by the kernel when this process dies without dropping it.
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`. The caller has set up its streams.
    pub fn spawn(command: &mut Command) -> Process {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        Process { child, status: None }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `INT`, `STOP`, …).
    pub fn signal(&self, name: &str) {
        self.signals(&[name]);
    }

    /// Sends signals by name, one right behind the other. The shell's `kill` does it: the crate forbids unsafe code,
    /// and std has no call for it.
    pub fn signals(&self, names: &[&str]) {
        let status = Command::new("sh")
            .args(["-c", "for name; do kill -s \"$name\" \"$0\" || exit; done"])
            .arg(self.pid().to_string())
            .args(names)
            .status()
            .expect("sh is on every system these tests run on");
        assert!(status.success(), "failed to send {names:?} to process {}", self.pid());
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the child is ours to wait for");
        }
        self.status
    }

    /// Waits for the end of the process; `None` when it is still there after [`PATIENCE`].
    pub fn wait(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        while self.exited().is_none() && start.elapsed() < PATIENCE {
            // std offers a wait without end or a look without waiting, and a deadline needs the latter.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.status
    }

    /// Kills (a stopped process dies of SIGKILL too) and reaps.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command for `program` that the kernel kills when the thread that starts it ends.
///
/// `Drop` covers a test that passes or panics. It does not run when `cargo test` is interrupted or killed, and a
/// stray server would then hold memory and a port for ever; util-linux's `setpriv` sets the parent-death signal for us
/// and replaces itself with the program, so the process id is the server's own. Without `setpriv` (not Linux) `Drop`
/// has to do. Start children from the test's own thread: a helper thread that ends would take its child with it.
pub fn tethered(program: &str) -> Command {
    tethered_by("KILL", program)
}

/// As [`tethered`], by another signal: for a program that has children of its own, and ends them when it is asked to.
pub fn tethered_by(signal: &str, program: &str) -> Command {
    if on_path("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal, "--", program]);
        command
    } else {
        Command::new(program)
    }
}

/// Whether a program of this name is in a folder of `PATH`.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A new empty directory. Its path is short, because a Unix socket's may not exceed 107 bytes.
pub fn temp_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        remove_dirs_of_the_dead();
    }
    let path = std::env::temp_dir().join(format!("{DIR_PREFIX}{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path)
        .unwrap_or_else(|error| panic!("failed to create {path:?}: {error}"));
    path
}

const DIR_PREFIX: &str = "kioskd-test-";

/// A run that was killed could not remove its directories; the next one does. Their names carry its process id.
fn remove_dirs_of_the_dead() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(DIR_PREFIX).and_then(|rest| rest.split('-').next());
        let lives = |pid: &str| {
            pid == std::process::id().to_string()
                || std::path::Path::new("/proc").join(pid).exists()
        };
        // Without /proc nobody can be declared dead.
        if pid.is_some_and(|pid| !lives(pid)) && std::path::Path::new("/proc/self").exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
