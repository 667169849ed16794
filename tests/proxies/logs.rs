//! The logs of the proxy and of kioskd, read while they grow.

use crate::relay::Turn;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A line of kioskd's access log.
#[derive(Debug)]
pub struct Logged<'a> {
    method: &'a str,
    target: &'a str,
    pub status: &'a str,
    pub id: &'a str,
}

impl Logged<'_> {
    /// `…: GET /items/7 404 0ms id=… …`, if it is one.
    pub fn read(line: &str) -> Option<Logged<'_>> {
        let (before, after) = line.split_once("ms id=")?;
        let mut words = before.rsplit(' ').skip(1);
        let (status, target, method) = (words.next()?, words.next()?, words.next()?);
        Some(Logged { method, target, status, id: after.split(' ').next()? })
    }

    /// Whether this is that request, and its answer.
    pub fn is(&self, turn: &Turn) -> bool {
        let mut words = turn.line.split(' ');
        let same = words.next() == Some(self.method) && words.next() == Some(self.target);
        let status = turn.answer.as_ref().map(|answer| answer.status.to_string());
        // A head that was refused at a byte has no method and target.
        (same || (self.method, self.target) == ("-", "-"))
            && (Some(self.status) == status.as_deref() || ["499", "cut"].contains(&self.status))
    }
}

/// A file that grows.
pub struct Tail {
    path: PathBuf,
    at: u64,
    part: String,
    kept: Vec<String>,
}

/// A line of it.
pub struct Line {
    pub text: String,
    /// It has been kept once.
    pub was_kept: bool,
}

impl Tail {
    pub fn of(path: PathBuf) -> Tail {
        Tail { path, at: 0, part: String::new(), kept: Vec::new() }
    }

    /// The whole lines that were written since.
    pub fn read(&mut self) -> Vec<String> {
        let mut file = File::open(&self.path).expect("the log is there");
        file.seek(SeekFrom::Start(self.at)).expect("a file can");
        let mut bytes = Vec::new();
        self.at += file.read_to_end(&mut bytes).expect("a file can be read") as u64;
        self.part += &String::from_utf8_lossy(&bytes);
        let end = self.part.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.part.split_off(end);
        std::mem::replace(&mut self.part, rest).lines().map(str::to_owned).collect()
    }

    /// The lines that were kept, and those that come until `done` says so of one, or patience is at its end. It is asked
    /// before the first, too.
    pub fn read_until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&str) -> bool,
    ) -> Vec<Line> {
        let start = Instant::now();
        let kept = std::mem::take(&mut self.kept).into_iter();
        let mut lines: Vec<Line> = kept.map(|text| Line { text, was_kept: true }).collect();
        let mut is_done = lines.iter().fold(done(""), |is_done, line| done(&line.text) | is_done);
        loop {
            for text in self.read() {
                is_done |= done(&text);
                lines.push(Line { text, was_kept: false });
            }
            if is_done || start.elapsed() > patience {
                return lines;
            }
            // A file tells nobody that it has grown.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Keeps a line for the next time. A client that has left is not waited for, so its request may be forwarded after
    /// all others of a round are over: it is in the logs of this round, and on the wire in the next.
    pub fn keep(&mut self, line: String) {
        self.kept.push(line);
    }
}
