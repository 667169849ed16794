//! Log lines on stdout, as text or as JSON, one line each.
//!
//! env_logger filters and formats on the thread that logs; a thread of our own writes. Between them is a bounded queue,
//! because a worker must never wait for a log collector: when stdout is a pipe that no process reads, lines are
//! dropped, and counted, instead of requests.
//!
//! A reader gets complete lines only. A full non-blocking pipe is waited for, like a blocking one; where a full disk or
//! `ulimit -f` has cut a line, the next begins with a line end. Lost lines are counted and reported in the log as soon
//! as stdout takes bytes again, and in `/metrics`. One and the same warning is written ten times in ten seconds and then
//! counted: what fails a thousand times a second must not push out what is said once.
//!
//! ```text
//! 2026-01-31T12:00:00.000Z INFO  kioskd: listening on [::]:8080
//! {"time":"2026-01-31T12:00:00.000Z","level":"info","target":"kioskd","message":"listening on …"}
//! ```

use env_logger::{Builder, Target};
use log::Record;
use log::kv::{self, Key, Value, VisitSource};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines that may wait to be written; the next one is dropped.
const LINES_MAX: usize = 1024;

/// How long an exit waits until the queued lines are written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Lost lines are reported this often, at the most: while lines are being lost there is little room.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A warning or an error that comes more often than this in [`FLOOD_TIME`] is counted and not repeated.
const FLOOD_LINES: usize = 10;

/// See [`FLOOD_LINES`].
const FLOOD_TIME: Duration = Duration::from_secs(10);

/// So many of them are told apart.
const FLOODS_MAX: usize = 32;

/// Pauses between tries to write to a full pipe, the first and the longest. There is no readiness to wait for: whether
/// stdout is a pipe, a file or a terminal is not known.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The format of log lines, and the filter.
#[derive(Debug, Clone)]
pub struct Options {
    /// A level, or env_logger's filter syntax (`LOG` or `RUST_LOG`, default `info`).
    pub filter: String,
    /// JSON instead of text (`LOG_FORMAT=json`).
    pub json: bool,
    /// Fields of every JSON line: POD_NAME and NAMESPACE, when set.
    pub context: Vec<(&'static str, String)>,
}

/// The sending end of the queue. env_logger writes to one, a complete line per call.
#[derive(Debug, Clone)]
pub struct Log {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicUsize>,
}

enum Message {
    Line(Vec<u8>),
    /// Write the lines before this, then notify the sender.
    Flush(SyncSender<()>),
}

/// Whether `filter` is a level, or a list of levels for targets: `warn,kioskd::resp=debug`.
///
/// Stricter than env_logger, which takes a misspelt level for the name of a target, and what is behind a `/` for words that
/// a line must have, and then logs nothing.
pub fn is_filter(filter: &str) -> bool {
    filter.split(',').all(|part| {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        level.parse::<log::LevelFilter>().is_ok() && !part.contains('/')
    })
}

/// Starts logging for the process.
///
/// # Errors
/// When the thread or its descriptor is refused, or when a logger is installed already.
pub fn start(options: Options) -> io::Result<Log> {
    let (queue, lines) = sync_channel(LINES_MAX);
    let log = Log { queue, dropped: Arc::default() };
    let options = Arc::new(options);
    // Not through std's stdout: when a write fails midway, it does not report how much was written.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut writer = Writer::new(stdout, Arc::clone(&options), Arc::clone(&log.dropped));
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&lines))?;
    Builder::new()
        .parse_filters(&options.filter)
        .target(Target::Pipe(Box::new(log.clone())))
        .format(move |line, record| options.write(line, SystemTime::now(), record))
        .try_init()
        .map_err(io::Error::other)?;
    Ok(log)
}

/// From now on a panic is logged as an error: it is a bug, wherever it is caught, and its message belongs in the log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current().name().unwrap_or("?").to_owned();
        log::error!("BUG: panic in thread {thread}: {panic}");
    }));
}

impl Log {
    /// Waits until everything logged so far is written, or for a second: an exit must not hang on a pipe that no
    /// process reads.
    pub fn flush(&self) {
        let until = Instant::now() + FLUSH_TIME;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = back;
            thread::sleep(PAUSE_MIN);
        }
        let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
    }

    /// Lines lost so far because stdout did not take them.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes, and the state of its output.
struct Writer<W> {
    out: W,
    options: Arc<Options>,
    dropped: Arc<AtomicUsize>,
    /// How many of them have been reported, and when that was last tried.
    told: usize,
    told_at: Option<Instant>,
    /// The last byte written is not a line end.
    torn: bool,
    /// The error of the last failed write.
    failure: Option<String>,
    floods: Vec<Flood>,
}

/// A warning that comes again and again.
struct Flood {
    /// Without its time.
    line: Vec<u8>,
    since: Instant,
    count: usize,
}

impl<W: Write> Writer<W> {
    fn new(out: W, options: Arc<Options>, dropped: Arc<AtomicUsize>) -> Writer<W> {
        Writer {
            out,
            options,
            dropped,
            told: 0,
            told_at: None,
            torn: false,
            failure: None,
            floods: Vec::new(),
        }
    }

    fn run(&mut self, lines: &Receiver<Message>) {
        loop {
            match lines.recv_timeout(TELL_EVERY) {
                Ok(Message::Line(line)) => {
                    let now = Instant::now();
                    self.tell(now);
                    self.end_floods(now);
                    if self.is_flood(&line, now) {
                        continue;
                    }
                    if let Err(e) = self.put(&line) {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                        self.failure = Some(e.to_string());
                    }
                }
                Ok(Message::Flush(done)) => {
                    self.told_at = None;
                    self.tell(Instant::now());
                    // It may be the last: what was counted is told now.
                    self.end_floods(Instant::now() + FLOOD_TIME);
                    // The receiver has gone when this took longer than an exit may wait.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.tell(Instant::now());
                    self.end_floods(Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether this line is only to be counted.
    fn is_flood(&mut self, line: &[u8], now: Instant) -> bool {
        let Some(line) = self.options.warning(line) else {
            return false;
        };
        if let Some(flood) = self.floods.iter_mut().find(|flood| flood.line == line) {
            flood.count += 1;
            return flood.count > FLOOD_LINES;
        }
        if self.floods.len() < FLOODS_MAX {
            self.floods.push(Flood { line: line.to_vec(), since: now, count: 1 });
        }
        false
    }

    /// Tells how often those lines came that were counted for long enough.
    fn end_floods(&mut self, now: Instant) {
        let is_over = |flood: &Flood| now.saturating_duration_since(flood.since) >= FLOOD_TIME;
        if !self.floods.first().is_some_and(is_over) {
            return;
        }
        let (over, others): (Vec<Flood>, Vec<Flood>) =
            std::mem::take(&mut self.floods).into_iter().partition(is_over);
        self.floods = others;
        for flood in over.iter().filter(|flood| flood.count > FLOOD_LINES) {
            let (more, text) = (flood.count - FLOOD_LINES, String::from_utf8_lossy(&flood.line));
            let args = format_args!("{more} more in {} s of {}", FLOOD_TIME.as_secs(), text.trim());
            // A failure shows with the next line.
            let _ = self.say(args);
        }
    }

    /// Logs how many lines were lost since the last report, if any were.
    fn tell(&mut self, now: Instant) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let early = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        if dropped == self.told || self.told_at.is_some_and(early) {
            return;
        }
        self.told_at = Some(now);
        let n = dropped - self.told;
        let why = match &self.failure {
            Some(e) => format!(": {e}"),
            None => " in time".to_owned(),
        };
        let lost = format_args!("{n} log lines were dropped: stdout did not take them{why}");
        if self.say(lost).is_ok() {
            self.told = dropped;
            self.failure = None;
        }
    }

    /// Writes a warning of our own.
    fn say(&mut self, args: fmt::Arguments) -> io::Result<()> {
        let record =
            Record::builder().level(log::Level::Warn).target("kioskd::log").args(args).build();
        let mut line = Vec::new();
        self.options.write(&mut line, SystemTime::now(), &record)?;
        self.put(&line)
    }

    /// Writes one line, after a line end if the previous line was cut. A full pipe is waited for as long as it takes,
    /// as if it were a blocking one: to stop in the middle would cut the line, and meanwhile the queue fills, drops and
    /// counts.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        let mut pause = PAUSE_MIN;
        let ended;
        let mut rest = line;
        if self.torn {
            ended = [b"\n", line].concat();
            rest = &ended;
        }
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.torn = rest[n - 1] != b'\n';
                    rest = &rest[n..];
                    pause = PAUSE_MIN;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The text of a log line.
impl Options {
    /// What a warning or an error says, without its time; `None` for other lines, and for access lines, which are never
    /// alike.
    fn warning<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let time = if self.json {
            "{\"time\":\"2026-01-31T12:00:00.000Z\","
        } else {
            "2026-01-31T12:00:00.000Z "
        };
        let rest = line.get(time.len()..)?;
        let levels: [&[u8]; 2] = match self.json {
            true => [b"\"level\":\"warn\",\"target\":", b"\"level\":\"error\",\"target\":"],
            false => [b"WARN  ", b"ERROR "],
        };
        let behind = levels.iter().find_map(|level| rest.strip_prefix(*level))?;
        let is_access = behind.starts_with(b"access:") || behind.starts_with(b"\"access\"");
        (!is_access).then_some(rest)
    }

    fn write(&self, out: &mut impl Write, now: SystemTime, record: &Record) -> io::Result<()> {
        match self.json {
            true => self.write_json(out, now, record),
            false => write_text(out, now, record),
        }
    }

    fn write_json(&self, out: &mut impl Write, now: SystemTime, record: &Record) -> io::Result<()> {
        let level = record.level().as_str().to_ascii_lowercase();
        write!(out, "{{\"time\":\"{}\",\"level\":\"{level}\",\"target\":", Timestamp(now))?;
        serde_json::to_writer(&mut *out, record.target())?;
        for (name, value) in &self.context {
            write!(out, ",\"{name}\":")?;
            serde_json::to_writer(&mut *out, value)?;
        }
        let fields = record.key_values();
        if fields.count() == 0 {
            out.write_all(b",\"message\":")?;
            serde_json::to_writer(&mut *out, &record.args().to_string())?;
        } else {
            // They say the same as the message.
            fields.visit(&mut Fields(out)).map_err(io::Error::other)?;
        }
        out.write_all(b"}\n")
    }
}

/// Writes the fields of a record as members of an object; one whose name begins with `#` is a number.
struct Fields<'a, W>(&'a mut W);

impl<'kvs, W: Write> VisitSource<'kvs> for Fields<'_, W> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        // Only texts come here: the formatting of all that a value can be is 20 KiB of code.
        let text = value.to_borrowed_str().unwrap_or_default();
        let written = match key.as_str().strip_prefix('#') {
            Some(name) => write!(self.0, ",\"{name}\":{text}"),
            None => write!(self.0, ",\"{key}\":")
                .and_then(|()| serde_json::to_writer(&mut *self.0, text).map_err(io::Error::other)),
        };
        written.map_err(|_| fmt::Error.into())
    }
}

fn write_text(out: &mut impl Write, now: SystemTime, record: &Record) -> io::Result<()> {
    // A message may contain text from outside: escaped, so that it stays one line.
    let message = escape_controls(record.args().to_string());
    writeln!(out, "{} {:5} {}: {message}", Timestamp(now), record.level(), record.target())
}

/// Escapes control characters, and nothing else.
fn escape_controls(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// RFC 3339 in UTC with milliseconds.
struct Timestamp(SystemTime);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    fn line(json: bool, message: &str) -> String {
        let mut out = Vec::new();
        let now = UNIX_EPOCH + Duration::from_millis(951_782_400_042);
        let context = vec![("pod", "a\"b".to_owned())];
        let options = Options { filter: String::new(), json, context };
        let mut write = |args: fmt::Arguments| {
            let record = Record::builder().level(Level::Warn).target("kioskd").args(args).build();
            options.write(&mut out, now, &record)
        };
        write(format_args!("{message}")).unwrap();
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
            ("a/b=debug", false),
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
        let mut log = Log { queue, dropped: Arc::default() };
        for _ in 0..5 {
            log.write_all(b"line\n").unwrap();
        }
        assert_eq!(log.dropped(), 3);
    }

    /// Follows the script: takes this many bytes, or fails with an error.
    struct Narrow {
        script: Vec<Result<usize, io::ErrorKind>>,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let next = match self.script.is_empty() {
                true => Ok(usize::MAX),
                false => self.script.remove(0),
            };
            let n = next?.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes `one`, `two` and `three` to stdout as the script allows; gives the output, without the time in the
    /// report.
    fn written(script: &[Result<usize, io::ErrorKind>]) -> String {
        let options = Options { filter: String::new(), json: false, context: Vec::new() };
        let out = Narrow { script: script.to_vec(), taken: Vec::new() };
        let mut writer = Writer::new(out, Arc::new(options), Arc::default());
        let (queue, lines) = sync_channel(8);
        for line in ["one\n", "two\n", "three\n"] {
            queue.send(Message::Line(line.into())).unwrap();
        }
        let (done, _wait) = sync_channel(1);
        queue.send(Message::Flush(done)).unwrap();
        drop(queue);
        writer.run(&lines);
        let text = String::from_utf8(writer.out.taken).unwrap();
        let lines = text.split_inclusive('\n');
        lines.map(|l| l.split_once("log: ").map_or(l, |(_, l)| l)).collect()
    }

    #[test]
    fn a_pipe_that_has_no_room_gets_every_line_whole() {
        use io::ErrorKind::{Interrupted, WouldBlock};
        for script in [
            vec![],
            vec![Err(WouldBlock), Err(WouldBlock)],
            vec![Ok(1), Err(WouldBlock), Ok(2), Err(WouldBlock), Ok(1), Ok(1)],
            vec![Ok(3), Err(Interrupted), Err(WouldBlock), Ok(1), Ok(3), Err(WouldBlock)],
        ] {
            assert_eq!(written(&script), "one\ntwo\nthree\n", "{script:?}");
        }
    }

    #[test]
    fn a_flood_is_counted_and_what_is_said_once_is_not() {
        for json in [false, true] {
            let options = Arc::new(Options { filter: String::new(), json, context: Vec::new() });
            let mut writer = Writer::new(Vec::new(), Arc::clone(&options), Arc::default());
            let (start, mut written) = (Instant::now(), 0);
            let mut say = |writer: &mut Writer<Vec<u8>>, level, target: &str, text: &str, ms| {
                let mut line = Vec::new();
                let args = format_args!("{text}");
                let record = Record::builder().level(level).target(target).args(args).build();
                let time = UNIX_EPOCH + Duration::from_millis(ms);
                options.write(&mut line, time, &record).unwrap();
                let now = start + Duration::from_millis(ms);
                writer.end_floods(now);
                written += usize::from(!writer.is_flood(&line, now));
                written
            };
            for n in 0..1000 {
                let expected = (n + 1).min(FLOOD_LINES);
                let ms = n as u64;
                assert_eq!(say(&mut writer, Level::Warn, "kioskd", "no room", ms), expected);
            }
            assert_eq!(say(&mut writer, Level::Error, "kioskd", "another", 1000), FLOOD_LINES + 1);
            for n in 1..=100 {
                say(&mut writer, Level::Info, "kioskd", "well", 1000);
                let all = say(&mut writer, Level::Warn, "access", "GET /", 1000);
                assert_eq!(all, FLOOD_LINES + 1 + 2 * n);
            }
            assert!(writer.out.is_empty());
            writer.end_floods(start + FLOOD_TIME);
            let told = String::from_utf8(writer.out.clone()).unwrap();
            assert!(told.contains("990 more in 10 s of ") && told.contains("no room"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
            // It begins anew.
            let before = say(&mut writer, Level::Warn, "kioskd", "no room", 20_000);
            assert_eq!(say(&mut writer, Level::Warn, "kioskd", "no room", 20_001), before + 1);
        }
    }

    #[test]
    fn a_line_cut_by_a_full_disk_is_ended_and_every_lost_one_is_told_of() {
        let full = || Err(io::ErrorKind::StorageFull);
        let notice =
            |n| format!("{n} log lines were dropped: stdout did not take them: no storage space\n");
        // The report precedes the next line that can be written, and comes at the end in any case.
        for (script, expected) in [
            (vec![full()], format!("{}two\nthree\n", notice(1))),
            (vec![Ok(2), full()], format!("on\n{}two\nthree\n", notice(1))),
            (vec![Ok(3), full()], format!("one\n{}two\nthree\n", notice(1))),
            // The report itself is cut, then the line after it; a second later it would be repeated.
            (vec![full(), Ok(9), full(), full()], format!("TIME\nthree\n{}", notice(2))),
            // Only the line end fits.
            (vec![Ok(2), full(), Ok(1), full(), full()], format!("on\nthree\n{}", notice(2))),
            (vec![full(), full(), full(), full(), full()], String::new()),
        ] {
            let got = written(&script);
            let got = got.split_inclusive('\n').map(|line| {
                match line.len() == 10 && line.starts_with("20") {
                    true => "TIME\n",
                    false => line,
                }
            });
            assert_eq!(got.collect::<String>(), expected, "{script:?}");
        }
    }
}
