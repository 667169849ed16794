//! What the operating system knows of this process, under the names that Prometheus' own clients give it. Linux alone has
//! the files for it; elsewhere there is nothing.

use kioskd::service::metrics::Sample;
use std::fs;

/// Ticks of `/proc` in a second: Linux shows a hundred to every program, whatever its own clock does.
const TICKS: f64 = 100.0;

/// One sample for each thing that is known.
pub fn samples() -> Vec<Sample> {
    let stat = read("stat");
    // The name in brackets may hold spaces, and brackets.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|field| field.parse::<f64>().ok());
    let status = read("status");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
    };
    let limits = read("limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    let open = fs::read_dir("/proc/self/fd").map(|list| list.count().saturating_sub(1) as f64);
    let (counter, gauge) = ("counter", "gauge");
    let all = [
        (
            "process_cpu_seconds_total",
            "Processor time, in user and system mode.",
            counter,
            field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
        ),
        ("process_resident_memory_bytes", "Memory in use.", gauge, kib("VmRSS:")),
        ("process_virtual_memory_bytes", "Address space.", gauge, kib("VmSize:")),
        ("process_threads", "Threads.", gauge, field(20)),
        ("process_open_fds", "Open file descriptors.", gauge, open.ok()),
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
            field(22).zip(boot).map(|(ticks, boot)| boot + ticks / TICKS),
        ),
    ];
    let known = all
        .into_iter()
        .filter_map(|(name, help, kind, value)| Some(Sample { name, help, kind, value: value? }));
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
        let samples = samples();
        assert_eq!(samples.len(), 7);
        assert!(samples.iter().all(|sample| sample.value.is_finite() && sample.value >= 0.0));
        let started = samples.iter().find(|sample| sample.name == "process_start_time_seconds");
        assert!(started.is_some_and(|sample| sample.value > 1.7e9));
    }
}
