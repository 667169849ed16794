//! kioskd and its peers side by side: one machine, one Redis, one run; `benches/compare/run` starts it.
//!
//! ```text
//! for each workload    GET, 90 % reads, writes; 100 B, 1 KiB, 16 KiB; 1 to 1,000 connections; pipelined; reconnecting
//!   for each round     so that a machine that is busy for a while is busy for all
//!     for each server  the load, for a second
//! ```
//!
//! The table gives the median round. A ratio is taken within each round, to axum + redis-rs, before the median: read the
//! ratios, the figures themselves are as good as the machine was idle.

mod contenders;
mod load;
mod plot;

use contenders::{ALL, Contender, Running, Site};
use load::{Load, Measured};
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Documents, in bytes.
pub const SIZES: [usize; 3] = [100, 1024, 16 * 1024];

/// Items in Redis.
const KEYS: usize = 100_000;

/// Requests made beforehand, each for an item drawn from all of them.
const REQUESTS: usize = 20_000;

/// What all others are compared with.
const YARDSTICK: Contender = Contender::Axum;

/// A row of the table, in three lines.
pub struct Workload {
    pub name: &'static str,
    /// Of 100 requests.
    writes: usize,
    size: usize,
    pub connections: usize,
    pipelined: usize,
    reconnect: bool,
}

const fn workload(name: &'static str, writes: usize, size: usize, connections: usize) -> Workload {
    Workload { name, writes, size, connections, pipelined: 1, reconnect: false }
}

const WORKLOADS: [Workload; 12] = [
    workload("GET", 0, SIZES[0], 1),
    workload("GET", 0, SIZES[0], 16),
    workload("GET", 0, SIZES[0], 64),
    workload("GET", 0, SIZES[0], 256),
    workload("GET", 0, SIZES[0], 1000),
    workload("POST", 100, SIZES[0], 64),
    workload("90 % GET", 10, SIZES[0], 64),
    workload("90 % GET", 10, SIZES[1], 64),
    workload("90 % GET", 10, SIZES[2], 64),
    workload("90 % GET", 10, SIZES[0], 1000),
    Workload { pipelined: 16, ..workload("GET, 16 pipelined", 0, SIZES[0], 16) },
    Workload { reconnect: true, ..workload("GET, a connection for each", 0, SIZES[0], 16) },
];

/// The rounds of a contender under a workload, or why there are none.
pub type Outcome = Result<Vec<Measured>, String>;

/// A workload and what became of each contender.
pub struct Row {
    pub workload: &'static Workload,
    pub outcomes: Vec<(Contender, Outcome)>,
}

struct Options {
    rounds: usize,
    seconds: f64,
    only: String,
    kioskd: PathBuf,
    out: PathBuf,
}

fn main() -> io::Result<()> {
    let options = options();
    let folder = std::env::temp_dir().join(format!("kioskd-compare-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let redis_port = free_port()?;
    let redis = start_redis(&folder, redis_port)?;
    let site =
        Site { kioskd: std::path::absolute(&options.kioskd)?, folder: folder.clone(), redis_port };

    let (mut started, mut missing) = (Vec::new(), Vec::new());
    fill(redis_port, SIZES[0])?;
    for contender in ALL {
        let port = free_port()?;
        let running = contender.start(&site, port);
        match running.and_then(|running| serves_the_item(contender, port).map(|()| running)) {
            Ok(running) => started.push((contender, running, port)),
            Err(reason) => missing.push(format!("{} took no part: {reason}", contender.name())),
        }
    }

    let mut rows = Vec::new();
    for workload in WORKLOADS.iter().filter(|workload| workload.title().contains(&options.only)) {
        eprintln!("{}", workload.title());
        fill(redis_port, workload.size)?;
        rows.push(compare(workload, &started, &options));
    }
    drop((started, redis));
    std::fs::remove_dir_all(folder)?;

    let text = table(&rows, &missing, &options);
    print!("{text}");
    std::fs::write(options.out.join("results.md"), text)?;
    std::fs::write(options.out.join("results.svg"), plot::plot(&rows))
}

fn options() -> Options {
    let mut options = Options {
        rounds: 5,
        seconds: 1.0,
        only: String::new(),
        kioskd: "target/release/kioskd".into(),
        out: "benches/compare".into(),
    };
    let usage = || -> ! {
        eprintln!(
            "usage: run [--rounds 5] [--seconds 1] [--only TEXT] [--kioskd PROGRAM] [--out FOLDER]"
        );
        std::process::exit(2);
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().unwrap_or_else(|| usage());
        match name.as_str() {
            "--rounds" => options.rounds = value.parse().unwrap_or_else(|_| usage()),
            "--seconds" => options.seconds = value.parse().unwrap_or_else(|_| usage()),
            "--only" => options.only = value,
            "--kioskd" => options.kioskd = value.into(),
            "--out" => options.out = value.into(),
            _ => usage(),
        }
    }
    options
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start_redis(folder: &Path, port: u16) -> io::Result<Running> {
    let mut redis = Command::new("redis-server");
    redis.args(["--bind", "127.0.0.1"]).args(["--port", &port.to_string()]);
    // Nothing on disk, and no complaint when `fill` takes its time.
    redis.args(["--save", ""]).args(["--appendonly", "no"]).args(["--busy-reply-threshold", "0"]);
    Running::start(redis.current_dir(folder), port)
}

/// Writes every item anew, all of one size, as no two sizes fit in memory together.
fn fill(redis_port: u16, size: usize) -> io::Result<()> {
    const SCRIPT: &str = "redis.call('FLUSHALL') for n = 0, ARGV[1] - 1 do redis.call('SET', 'item:' .. n, ARGV[2]) end";
    let words = ["EVAL", SCRIPT, "0", &KEYS.to_string(), &document(size)];
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", redis_port))?;
    stream.write_all(request.as_bytes())?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    if &reply == b"$-1\r\n" {
        Ok(())
    } else {
        Err(io::Error::other("redis-server did not take the items"))
    }
}

/// A server that answers fast and wrong is no peer.
fn serves_the_item(contender: Contender, port: u16) -> io::Result<()> {
    let (size, mut response) = (SIZES[0], String::new());
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(&contender.request(1, size, None, true))?;
    stream.read_to_string(&mut response)?;
    let constant = contender == Contender::NginxConstant;
    let wanted = if constant { "x".repeat(size) } else { document(size) };
    let right = response.starts_with("HTTP/1.1 200 ") && response.ends_with(&wanted);
    if right { Ok(()) } else { Err(io::Error::other(format!("it answered {response:?}"))) }
}

fn document(size: usize) -> String {
    let document = r#"{"name":"Alice","visits":1207,"tags":["new","paid"],"note":""}"#;
    let note = "x".repeat(size - document.len());
    document.replace("\"\"", &format!("\"{note}\""))
}

fn compare(
    workload: &'static Workload,
    started: &[(Contender, Running, u16)],
    options: &Options,
) -> Row {
    let batches: Vec<_> =
        started.iter().map(|(contender, ..)| workload.batches(*contender)).collect();
    let mut outcomes: Vec<_> =
        started.iter().map(|(contender, ..)| (*contender, Ok(Vec::new()))).collect();
    for _ in 0..options.rounds {
        for (n, (_, running, port)) in started.iter().enumerate() {
            let load = Load {
                address: SocketAddr::from(([127, 0, 0, 1], *port)),
                batches: &batches[n],
                batch_size: workload.pipelined,
                connections: workload.connections,
                reconnect: workload.reconnect,
                time: Duration::from_secs_f64(options.seconds),
            };
            let outcome: &mut Outcome = &mut outcomes[n].1;
            let Ok(rounds) = outcome else { continue };
            match load.run(|| running.cpu()) {
                Ok(measured) => rounds.push(measured),
                Err(e) => *outcome = Err(e.to_string()),
            }
        }
    }
    Row { workload, outcomes }
}

impl Workload {
    fn title(&self) -> String {
        let size = if self.size < 1024 {
            format!("{} B", self.size)
        } else {
            format!("{} KiB", self.size / 1024)
        };
        let connections = if self.connections == 1 { "connection" } else { "connections" };
        format!("{}, {size}, {} {connections}", self.name, self.connections)
    }

    fn batches(&self, contender: Contender) -> Vec<Vec<u8>> {
        let document = document(self.size);
        // Marsaglia's xorshift: all contenders get the same keys, in each run.
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut request = |_| {
            let document = (random(100) < self.writes).then_some(document.as_str());
            contender.request(random(KEYS), self.size, document, self.reconnect)
        };
        (0..REQUESTS / self.pipelined)
            .map(|_| (0..self.pipelined).flat_map(&mut request).collect())
            .collect()
    }
}

impl Row {
    /// The rounds of a contender that has any.
    pub fn rounds(&self, contender: Contender) -> Option<&[Measured]> {
        let (_, outcome) = self.outcomes.iter().find(|(each, _)| *each == contender)?;
        outcome.as_deref().ok()
    }
}

/// The middle one; of an even number, the upper.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

type Quantity = (&'static str, fn(&Measured) -> f64, usize);

const QUANTITIES: [Quantity; 3] = [
    ("requests/s", |m| m.per_second, 0),
    ("CPU µs each", |m| m.cpu_us, 1),
    ("p99 µs", |m| m.p99_us, 0),
];

fn table(rows: &[Row], missing: &[String], options: &Options) -> String {
    let mut text = format!(
        "{} rounds of {} s each, interleaved; {KEYS} items in Redis; {} processors, shared with Redis and the load. The \
         median round, and in brackets the ratio to {}.\n\n",
        options.rounds,
        options.seconds,
        std::thread::available_parallelism().map_or(0, usize::from),
        YARDSTICK.name()
    );
    let present = || {
        ALL.into_iter()
            .filter(|each| rows.iter().any(|row| row.outcomes.iter().any(|(c, _)| c == each)))
    };
    let names: Vec<_> = present().map(Contender::name).collect();
    let _ =
        writeln!(text, "| | | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        for (n, (quantity, of, digits)) in QUANTITIES.into_iter().enumerate() {
            let title = if n == 0 { row.workload.title() } else { String::new() };
            let _ = write!(text, "| {title} | {quantity} |");
            for contender in present() {
                let Some(rounds) = row.rounds(contender) else {
                    text += " failed |";
                    continue;
                };
                let _ = write!(text, " {:.digits$}", median(rounds.iter().map(of)));
                if let Some(yardstick) = row.rounds(YARDSTICK).filter(|_| contender != YARDSTICK) {
                    let ratio = median(
                        rounds.iter().zip(yardstick).map(|(one, other)| of(one) / of(other)),
                    );
                    let _ = write!(text, " ({ratio:.2})");
                }
                text += " |";
            }
            text += "\n";
        }
    }
    text += "\n";
    for contender in present() {
        let _ = writeln!(text, "- {}: {}", contender.name(), contender.note());
    }
    for line in missing.iter().cloned().chain(rows.iter().flat_map(failures)) {
        let _ = writeln!(text, "- {line}");
    }
    text
}

/// What went wrong under a workload, in words.
fn failures(row: &Row) -> Vec<String> {
    let title = row.workload.title();
    let words = |(contender, outcome): &(Contender, Outcome)| match outcome {
        Err(reason) => Some(format!("{title}: {} failed: {reason}", contender.name())),
        Ok(rounds) => match rounds.iter().map(|round| round.failed).sum() {
            0 => None,
            failed => Some(format!(
                "{title}: {} had {failed} responses that were no 2xx",
                contender.name()
            )),
        },
    };
    row.outcomes.iter().filter_map(words).collect()
}
