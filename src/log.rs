//! Log lines on stdout, as text or as JSON, one line each.
//!
//! env_logger filters and formats on the thread that logs; a thread of our own writes. Between
//! them is a bounded queue, because a worker must never wait for a log collector: when stdout is a
//! pipe that nobody reads, lines are dropped, and counted, instead of requests.
//!
//! ```text
//! 2026-01-31T12:00:00.000Z INFO  kioskd: listening on [::]:8080
//! {"time":"2026-01-31T12:00:00.000Z","level":"info","target":"kioskd","message":"listening on …"}
//! ```

use env_logger::{Builder, Target};
use log::Record;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that may wait to be written; the next one is dropped.
const LINES_MAX: usize = 1024;

/// How log lines look and which are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// A level, or env_logger's filter syntax (`LOG` or `RUST_LOG`, default `info`).
    pub filter: String,
    /// JSON instead of text (`LOG_FORMAT=json`).
    pub json: bool,
    /// Fields of every JSON line: POD_NAME and NAMESPACE, when set.
    pub context: Vec<(&'static str, String)>,
}

/// The writing end; dropped last.
#[derive(Debug)]
pub struct Log {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Write what is there, then tell the sender.
    Flush(SyncSender<()>),
}

/// Whether `filter` is a level, or a list of levels for targets: `warn,kioskd::resp=debug`.
///
/// Stricter than env_logger, for which a misspelt level is the name of a target, and everything
/// is silent.
pub fn is_filter(filter: &str) -> bool {
    filter.split(',').all(|part| {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        level.parse::<log::LevelFilter>().is_ok()
    })
}

/// Starts logging for the process.
///
/// # Errors
/// When the thread cannot be started, or when somebody logs already.
pub fn start(options: Options) -> io::Result<Log> {
    let (queue, lines) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    thread::Builder::new().name("log".to_owned()).spawn({
        let dropped = Arc::clone(&dropped);
        move || write_lines(&lines, &dropped)
    })?;
    let pipe = Pipe {
        queue: queue.clone(),
        dropped: Arc::clone(&dropped),
    };
    let Options {
        filter,
        json,
        context,
    } = options;
    Builder::new()
        .parse_filters(&filter)
        .target(Target::Pipe(Box::new(pipe)))
        .format(move |line, record| {
            let now = SystemTime::now();
            if json {
                write_json(line, now, record, &context)
            } else {
                write_text(line, now, record)
            }
        })
        .try_init()
        .map_err(io::Error::other)?;
    Ok(Log { queue, dropped })
}

/// From now on a panic is logged as the error it is: it is a bug, whoever catches it, and its message
/// belongs with everything else that is logged.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current().name().unwrap_or("?").to_owned();
        log::error!("BUG: panic in thread {thread}: {panic}");
    }));
}

impl Log {
    /// Waits until everything logged so far is written, or for a second: an exit must not hang on
    /// a pipe that nobody reads.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }

    /// Lines dropped so far because stdout did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What env_logger writes to; it hands over one whole line a call.
struct Pipe {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Message>, dropped: &AtomicU64) {
    let mut told = 0;
    for message in lines {
        // A write that fails has nowhere to be reported: the log is the place for that.
        match message {
            Message::Line(line) => {
                let _ = io::stdout().write_all(&line);
            }
            Message::Flush(done) => {
                let _ = io::stdout().flush();
                let _ = done.send(());
            }
        }
        let now = dropped.load(Ordering::Relaxed);
        if now > told {
            let _ = writeln!(
                io::stdout(),
                "{} log lines were dropped: stdout did not take them in time",
                now - told
            );
            told = now;
        }
    }
}

fn write_text(out: &mut impl Write, now: SystemTime, record: &Record) -> io::Result<()> {
    // A message may carry text from outside: escaped, so that it stays one line.
    let message = record.args().to_string();
    writeln!(
        out,
        "{} {:5} {}: {}",
        Timestamp(now),
        record.level(),
        record.target(),
        message.escape_debug_controls()
    )
}

fn write_json(
    out: &mut impl Write,
    now: SystemTime,
    record: &Record,
    context: &[(&'static str, String)],
) -> io::Result<()> {
    let level = record.level().as_str().to_ascii_lowercase();
    write!(
        out,
        "{{\"time\":\"{}\",\"level\":\"{level}\",\"target\":",
        Timestamp(now)
    )?;
    serde_json::to_writer(&mut *out, record.target())?;
    for (name, value) in context {
        write!(out, ",\"{name}\":")?;
        serde_json::to_writer(&mut *out, value)?;
    }
    out.write_all(b",\"message\":")?;
    serde_json::to_writer(&mut *out, &record.args().to_string())?;
    out.write_all(b"}\n")
}

/// Escapes control characters, and nothing else.
trait EscapeControls {
    fn escape_debug_controls(&self) -> String;
}

impl EscapeControls for str {
    fn escape_debug_controls(&self) -> String {
        if !self.chars().any(char::is_control) {
            return self.to_owned();
        }
        self.chars()
            .map(|c| {
                if c.is_control() {
                    c.escape_default().to_string()
                } else {
                    c.to_string()
                }
            })
            .collect()
    }
}

/// RFC 3339 in UTC with milliseconds.
struct Timestamp(SystemTime);

impl Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// Year, month and day of a day counted from 1970-01-01, by Howard Hinnant's method: years begin
/// in March, so that the leap day is the last day of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    fn line(json: bool, message: &str) -> String {
        let mut out = Vec::new();
        let now = UNIX_EPOCH + Duration::from_millis(951_782_400_042);
        let args = format_args!("{message}").to_string();
        let format = |args: std::fmt::Arguments, out: &mut Vec<u8>| {
            let record = Record::builder()
                .level(Level::Warn)
                .target("kioskd")
                .args(args)
                .build();
            let context = [("pod", "a\"b".to_owned())];
            if json {
                write_json(out, now, &record, &context)
            } else {
                write_text(out, now, &record)
            }
        };
        format(format_args!("{args}"), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        assert_eq!(
            line(false, "a\nb\u{1b}é"),
            "2000-02-29T00:00:00.042Z WARN  kioskd: a\\nb\\u{1b}é\n"
        );
        let json = line(true, "a\n\"b\"");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message"], "a\n\"b\"");
        assert_eq!(value["pod"], "a\"b");
        assert_eq!(value["level"], "warn");
        assert_eq!(json.matches('\n').count(), 1);
    }

    #[test]
    fn a_filter_is_made_of_levels() {
        for (filter, yes) in [
            ("info", true),
            ("OFF", true),
            ("warn,kioskd::resp=debug", true),
            ("loud", false),
            ("", false),
            ("info,", false),
            ("a=b", false),
        ] {
            assert_eq!(is_filter(filter), yes, "{filter}");
        }
    }

    #[test]
    fn dates_come_out_right() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_723, (2024, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_instead_of_waiting() {
        let (queue, _lines) = sync_channel(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut pipe = Pipe {
            queue,
            dropped: Arc::clone(&dropped),
        };
        for _ in 0..5 {
            pipe.write_all(b"line\n").unwrap();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    }
}
