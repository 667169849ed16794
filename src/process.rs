//! What `/metrics` shows beside the service's own: the limits, what the store measures, and what the operating system
//! knows of this process, under the names that Prometheus' own clients give it. Linux alone has the files for that. When
//! the process started we note ourselves: the boot time, from which others reckon it, is hidden where `/proc` shows
//! processes alone (systemd's `ProcSubset=pid`).

use kioskd::config::Config;
use kioskd::front::Front;
use kioskd::service::metrics::{Sample, Value};
use kioskd::store::{Measure, Store};
use std::fs;
use std::time::Duration;

/// A tick of `/proc`: Linux shows a hundred in a second to every program, whatever its own clock does.
const TICK_MICROS: u64 = 10_000;

/// Limits, to be seen beside what they limit.
pub fn limits(config: &Config) -> Vec<Sample> {
    let limit = |name, help, value: usize| Sample {
        name,
        help,
        kind: "gauge",
        value: Value::Whole(value as u64),
    };
    let front = &config.front;
    let mut limits = vec![
        limit("kioskd_workers", "WORKERS.", front.workers),
        limit("kioskd_connections_limit", "MAX_CONNECTIONS.", front.connections_max),
        limit("kioskd_buffered_limit_bytes", "MAX_BUFFERED_BYTES.", front.buffered_bytes_max),
    ];
    // tiny_http knows neither of them.
    limits.truncate(if config.kind == Front::Poll { 3 } else { 1 });
    limits
}

/// What is measured elsewhere; `began` is when the process started, since 1970.
pub fn others(store: &dyn Store, limits: &[Sample], began: Duration) -> Vec<Sample> {
    let sample = |Measure { name, help, is_counter, value }: Measure| {
        let kind = if is_counter { "counter" } else { "gauge" };
        Sample { name, help, kind, value: Value::Whole(value) }
    };
    let mut all = limits.to_vec();
    all.extend(store.measures().into_iter().map(sample));
    all.extend(samples(began));
    all
}

/// One sample for each thing that is known.
fn samples(began: Duration) -> Vec<Sample> {
    let stat = read("stat");
    // The name in brackets may hold spaces, and brackets.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|field| field.parse::<u64>().ok());
    let status = read("status");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let limits = read("limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let open = fs::read_dir("/proc/self/fd").map(|list| list.count().saturating_sub(1));
    let (counter, gauge) = ("counter", "gauge");
    let all = [
        (
            "process_cpu_seconds_total",
            "Processor time, in user and system mode.",
            counter,
            field(14).zip(field(15)).map(|(user, system)| (user + system) * TICK_MICROS),
        ),
        ("process_resident_memory_bytes", "Memory in use.", gauge, kib("VmRSS:")),
        ("process_virtual_memory_bytes", "Address space.", gauge, kib("VmSize:")),
        ("process_threads", "Threads.", gauge, field(20)),
        ("process_open_fds", "Open file descriptors.", gauge, open.ok().map(|n| n as u64)),
        (
            "process_max_fds",
            "The limit on open file descriptors.",
            gauge,
            files.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()),
        ),
        (
            "process_start_time_seconds",
            "When the process started, since 1970.",
            gauge,
            Some(began.as_micros() as u64),
        ),
    ];
    let known = all.into_iter().filter_map(|(name, help, kind, value)| {
        let value = match name.contains("_seconds") {
            true => Value::Micros(value?),
            false => Value::Whole(value?),
        };
        Some(Sample { name, help, kind, value })
    });
    known.collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_all_of_it() {
        let samples = samples(Duration::from_secs(1_800_000_000));
        assert_eq!(samples.len(), 7);
        let started = samples.iter().find(|sample| sample.name == "process_start_time_seconds");
        assert!(started.is_some_and(|sample| sample.value == Value::Micros(1_800_000_000_000_000)));
    }
}
