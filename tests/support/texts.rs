//! What the documents show, run as it stands, and what they say it prints beside what it prints.
//!
//! ```text
//! docs/*.md ─ blocks ─▶ one script ─▶ bash, in a network and a list of processes of its own ─▶ what it printed
//!      └──────────────── what it should print ─────────────────────────── assert_shown ──────────┘
//! ```
//!
//! In there every port of the documents is free, and whatever a script leaves behind dies with it. The programs of a
//! release build are those under test. Nothing else is put in place of what the reader would type.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longer than any script takes on a slow machine.
const SECONDS_MAX: &str = "240";

/// One block of commands, or of what they print, without the end of its last line.
pub struct Block<'a> {
    pub language: &'a str,
    pub text: &'a str,
}

/// All of them, in order.
pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut parts = text.split("\n```").skip(1);
    let mut blocks = Vec::new();
    while let (Some(block), end) = (parts.next(), parts.next()) {
        assert!(end.is_some(), "a block without an end: {block}");
        let (language, text) = block.split_once('\n').unwrap_or((block, ""));
        blocks.push(Block { language, text });
    }
    blocks
}

/// From a heading of the second level to the next, or from a paragraph that begins with `**` and these words.
#[track_caller]
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (start, ends) = match text.find(&format!("\n## {heading}\n")) {
        Some(start) => (start + 1, &["\n## "][..]),
        None => {
            let start = text.find(&format!("\n**{heading}"));
            (start.unwrap_or_else(|| panic!("no `{heading}`")) + 1, &["\n**", "\n## "][..])
        }
    };
    let rest = &text[start..];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// A folder that has what the documents call.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// In an empty folder. `programs` are a path as the documents have it, or a whole command that begins with `cargo`,
    /// and the program that runs then. Any other command of cargo fails.
    pub fn new(folder: PathBuf, programs: &[(&str, &Path)]) -> Stage {
        let mut cargo = String::from("#!/bin/sh\ncase $* in\n");
        for (called, program) in programs {
            if let Some(arguments) = called.strip_prefix("cargo ") {
                let own = arguments.split_once(" -- ").map_or("", |(_, own)| own);
                cargo += &format!("'{arguments}') exec '{}' {own};;\n", program.display());
            } else {
                let place = folder.join(called);
                fs::create_dir_all(place.parent().expect("a file is in a folder"))
                    .and_then(|()| symlink(program, &place))
                    .unwrap_or_else(|e| panic!("failed to make {place:?}: {e}"));
            }
        }
        cargo += "'build --release') ;;\n*) echo \"cargo $*: no test has that\"; exit 1;;\nesac\n";
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)
            .and_then(|()| fs::write(bin.join("cargo"), cargo))
            .and_then(|()| {
                fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755))
            })
            // No meter where there is no terminal.
            .and_then(|()| fs::write(folder.join(".curlrc"), "silent\nshow-error\n"))
            .unwrap_or_else(|e| panic!("failed to fill {folder:?}: {e}"));
        Stage { folder }
    }

    /// Runs `script` and gives what it prints, errors included.
    #[track_caller]
    pub fn play(&self, script: &str) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = self.folder.display();
        let script = script.replace("/tmp/", &format!("{folder}/"));
        let output = Command::new("timeout")
            .args(["-k", "1", SECONDS_MAX])
            .args(["unshare", "-rnpf", "--mount-proc", "--kill-child", "bash", "-c"])
            .arg(format!("exec 2>&1; ip link set lo up || exit 1\n{script}"))
            .current_dir(&self.folder)
            .env("PATH", format!("{folder}/bin:{path}"))
            .env("CURL_HOME", &self.folder)
            .env("TMPDIR", &self.folder)
            // redis-cli prints as it does on a terminal.
            .env("FAKETTY", "1")
            .output()
            .expect("timeout is there");
        let stderr = String::from_utf8_lossy(&output.stderr);
        // What the shell of the script says stands in its output.
        assert!(stderr.is_empty(), "no namespaces to be had (`unshare -rnp`): {stderr}");
        String::from_utf8_lossy(&output.stdout).replace('\r', "")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A conversation, `$ ` before each command, as a script that prints the commands as well.
pub fn script_of(console: &str) -> String {
    let commands = console.lines().filter_map(|line| line.strip_prefix("$ "));
    let line = |command| format!("cat <<'COMMAND'\n$ {command}\nCOMMAND\n{command}\necho\n");
    commands.map(line).collect()
}

/// Waits in a script until something listens on `port`.
pub fn until(port: u16) -> String {
    format!(
        "until curl -o /dev/null http://localhost:{port}/livez 2>/dev/null; do sleep 0.05; done\n"
    )
}

/// Each line of `shown` was printed, in this order, but for what differs each time. `…` stands for anything.
#[track_caller]
pub fn assert_shown(shown: &str, printed: &str) {
    let lines: Vec<String> = printed.lines().map(settled).collect();
    let mut rest = lines.iter();
    for line in shown.lines().map(settled) {
        assert!(rest.any(|l| is_like(l, &line)), "no `{line}` where it should be in:\n{printed}");
    }
}

fn is_like(line: &str, shown: &str) -> bool {
    let pieces: Vec<&str> = shown.split('…').collect();
    let [first, middle @ .., last] = &pieces[..] else { return line == shown };
    let between = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last));
    between.is_some_and(|mut rest| {
        middle.iter().all(|piece| {
            let end = rest.find(piece).map(|at| at + piece.len());
            rest = &rest[end.unwrap_or_default()..];
            end.is_some()
        })
    })
}

/// Without what differs each time: times, the ids of requests and worlds, how much of half an hour is left.
fn settled(line: &str) -> String {
    let mut line = line.trim_end().to_owned();
    for before in ["\"request_id\":\"", " id=", "digest "] {
        if let Some(start) = line.find(before).map(|at| at + before.len()) {
            let is_id = |c: &char| c.is_ascii_hexdigit();
            let length = line[start..].chars().take_while(is_id).count();
            line.replace_range(start..start + length, "#");
        }
    }
    for left in 1750..1800 {
        line = line.replace(&format!("\"ttl\":{left}"), "\"ttl\":1800");
    }
    for unit in ["ms", " ms", " s"] {
        let mut from = 0;
        while let Some(at) = line[from..].find(unit).map(|at| at + from) {
            let number =
                line[..at].trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').len();
            from = at + unit.len();
            if number < at && !line[from..].starts_with(char::is_alphanumeric) {
                line.replace_range(number..at, "#");
                from = from - (at - number) + 1;
            }
        }
    }
    line
}

#[test]
fn what_is_shown_is_compared_but_for_what_differs() {
    assert_shown("a 0.1 s\n…c\n", "a 12.75 s\nb\nb c\nd");
    assert_shown("x…y…z", "x12y3z");
    assert_shown("x id=12 0ms…", "x id=abc 15ms and more");
    let fails = |shown: &'static str, printed: &'static str| {
        assert!(std::panic::catch_unwind(|| assert_shown(shown, printed)).is_err(), "{shown}");
    };
    fails("a\nb", "b\na");
    fails("a", "ab");
    fails("…a", "ab");
    fails("a…b", "ab c");
    fails("200 after 1 s", "404 after 1 s");
}
