//! The few arguments that there are. All settings come from the environment.

use crate::healthcheck;
use kioskd::config::{BUILD, SETTINGS};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// The name and the version.
pub const VERSION: &str = concat!("kioskd ", env!("CARGO_PKG_VERSION"));

/// For whoever reads stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// Does what the arguments ask for; `None` when there are none, and the service is to run.
pub fn follow() -> Option<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Option<Vec<&str>> = arguments.iter().map(|word| word.to_str()).collect();
    Some(match words.as_deref() {
        Some([]) => return None,
        Some(["--version" | "-V"]) => print(&format!("{VERSION} ({BUILD})\n")),
        Some(["--help" | "-h"]) => print(&help()),
        Some(["healthcheck", url @ ..]) if url.len() <= 1 => {
            match healthcheck::run(url.first().copied()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    complain(format_args!("healthcheck: {why}"));
                    ExitCode::FAILURE
                }
            }
        }
        _ => {
            complain(format_args!("unknown arguments {arguments:?}; see kioskd --help"));
            ExitCode::from(2)
        }
    })
}

fn help() -> String {
    let mut text = format!(
        "{VERSION}: a stateless HTTP service for JSON items whose state lives in Redis\n\
         ({BUILD})\n\n\
         usage: kioskd [--help | --version | healthcheck [URL]]\n\n\
         settings, from the environment:\n"
    );
    for (name, default, meaning) in SETTINGS {
        text.push_str(&format!("  {name:22} {meaning} [{default}]\n"));
    }
    text.push_str(
        "\ndurations: 250ms, 2s, 30m, 24h, 7d\n\
         exit codes: 0 clean drain, 1 drain cut short or run-time failure, 2 bad configuration or arguments\n",
    );
    text
}

/// Prints the requested text on stdout. A reader that stops early (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("failed to write to stdout: {e}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints on stderr what cannot go to the log. When stderr fails, there is no other place to report it; and where nobody
/// takes what is written there, neither the start nor the end waits longer than a second.
pub fn complain(what: impl fmt::Display) {
    let text = format!("kioskd: {what}\n");
    let (done, is_done) = sync_channel(1);
    let written = text.clone();
    let write = move || {
        let _ = io::stderr().write_all(written.as_bytes());
        let _ = done.send(());
    };
    if thread::Builder::new().name("stderr".to_owned()).spawn(write).is_ok() {
        let _ = is_done.recv_timeout(PATIENCE);
    } else {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
