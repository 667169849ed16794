//! What is counted of each request and of each command to the store, by labels from fixed sets.
//!
//! ```text
//! kioskd_http_requests_total{route="item",method="GET",status="2xx"} 17
//! kioskd_http_request_duration_seconds_bucket{route="item",method="GET",status="2xx",le="0.005"} 16
//! kioskd_store_commands_total{command="get",outcome="ok"} 17
//! ```
//!
//! Whatever a client sends, it is counted in one of the cells that are there from the start. Probes and scrapes are
//! routes of their own, so that they can be left out of what users feel; an item that is not there is a 404 of its
//! route, and a path that is not, of route `none`.

use super::id::Collection;
use super::route::Route;
use crate::http::Method;
use crate::store::{Command, Reply, StoreError};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; beyond the last is one more.
const BOUNDS: [usize; 11] =
    [1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000];

/// In the order of [`Method`].
const METHODS: [&str; 11] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY",
    "other",
];

/// Routes with the number of their methods, which are the first ones of [`METHODS`] unless there is but one.
const ROUTES: [(&str, &[&str]); 14] = [
    ("item", METHODS.split_at(6).0),
    ("session", METHODS.split_at(6).0),
    ("list", METHODS.split_at(2).0),
    ("purge", &["DELETE"]),
    ("bulk", &["POST"]),
    ("livez", METHODS.split_at(2).0),
    ("readyz", METHODS.split_at(2).0),
    ("metrics", METHODS.split_at(2).0),
    ("version", METHODS.split_at(2).0),
    ("openapi", METHODS.split_at(2).0),
    ("index", METHODS.split_at(2).0),
    ("options", &["OPTIONS"]),
    ("none", &METHODS),
    ("malformed", &["none"]),
];

/// Where the cells of each route begin; behind the last, how many there are.
const FIRST: [usize; ROUTES.len() + 1] = {
    let (mut first, mut n) = ([0; ROUTES.len() + 1], 0);
    while n < ROUTES.len() {
        first[n + 1] = first[n] + ROUTES[n].1.len();
        n += 1;
    }
    first
};
const PAIRS: usize = FIRST[ROUTES.len()];

const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "499"];

const COMMANDS: [&str; 8] =
    ["get", "set", "delete", "take", "scan", "get_many", "delete_many", "ping"];

const OUTCOMES: [&str; 8] =
    ["ok", "timeout", "unreachable", "broken", "overloaded", "unavailable", "full", "refused"];

/// The counts of one worker, which no other writes.
#[derive(Debug)]
pub struct Traffic {
    requests: [[Histogram; CLASSES.len()]; PAIRS],
    commands: [Histogram; COMMANDS.len()],
    outcomes: [[AtomicUsize; OUTCOMES.len()]; COMMANDS.len()],
}

/// How often something took how long.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicUsize; BOUNDS.len() + 1],
    micros: AtomicUsize,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let micros = took.as_micros() as usize;
        let place = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(place) {
            add(bucket, 1);
        }
        add(&self.micros, micros);
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            requests: std::array::from_fn(|_| Default::default()),
            commands: Default::default(),
            outcomes: Default::default(),
        }
    }
}

impl Traffic {
    /// A request has ended. Without a method its head was malformed; without a route it was refused before it had one.
    pub fn responded(
        &self,
        route: Option<Route>,
        method: Option<Method>,
        status: u16,
        took: Duration,
    ) {
        let class = match status {
            499 => 4,
            500.. => 3,
            400.. => 2,
            300.. => 1,
            _ => 0,
        };
        if let Some(pair) = self.requests.get(pair(route, method)) {
            pair[class].observe(took);
        }
    }

    /// The store has answered a command of this kind, or will not.
    pub fn answered(&self, kind: Kind, reply: &Reply, took: Duration) {
        let (kind, outcome) = (usize::from(kind.0), outcome(reply));
        if let (Some(durations), Some(outcomes)) =
            (self.commands.get(kind), self.outcomes.get(kind))
        {
            durations.observe(took);
            add(&outcomes[outcome], 1);
        }
    }
}

/// The place of an outcome among [`OUTCOMES`].
fn outcome(reply: &Reply) -> usize {
    match reply {
        Ok(_) => 0,
        Err(StoreError::Timeout) => 1,
        Err(StoreError::Unreachable(_)) => 2,
        Err(StoreError::Broken(_)) => 3,
        Err(StoreError::Overloaded) => 4,
        Err(StoreError::Unavailable(_)) => 5,
        Err(StoreError::Full) => 6,
        Err(StoreError::Refused(_)) => 7,
    }
}

/// What an outcome is called in metrics and in the log.
pub fn outcome_name(reply: &Reply) -> &'static str {
    OUTCOMES[outcome(reply)]
}

/// The kind of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// Of a command that counts a request.
    pub const TAKE: Kind = Kind(3);

    /// What it is called in metrics and in the log.
    pub fn name(self) -> &'static str {
        COMMANDS.get(usize::from(self.0)).unwrap_or(&"?")
    }

    /// The kind of this command.
    pub fn of(command: &Command) -> Kind {
        Kind(match command {
            Command::Get { .. } => 0,
            Command::Set { .. } => 1,
            Command::Delete { .. } => 2,
            Command::Take { .. } => 3,
            Command::Scan { .. } => 4,
            Command::GetMany { .. } => 5,
            Command::DeleteMany { .. } => 6,
            Command::Ping => 7,
        })
    }
}

/// The place of a route among [`ROUTES`].
fn place(route: Option<Route>, method: Option<Method>) -> usize {
    match route {
        _ if method.is_none() => 13,
        Some(Route::Item(Collection::Items)) => 0,
        Some(Route::Item(Collection::Sessions)) => 1,
        Some(Route::List) => 2,
        Some(Route::Purge) => 3,
        Some(Route::Bulk) => 4,
        Some(Route::Live) => 5,
        Some(Route::Ready) => 6,
        Some(Route::Metrics) => 7,
        Some(Route::Version) => 8,
        Some(Route::OpenApi) => 9,
        Some(Route::Index | Route::Page) => 10,
        Some(Route::Options(_) | Route::Preflight(_)) => 11,
        None => 12,
    }
}

/// The place of the cells of a route and a method. The methods are in the order of [`METHODS`].
fn pair(route: Option<Route>, method: Option<Method>) -> usize {
    let place = place(route, method);
    let method = method.filter(|_| ROUTES[place].1.len() > 1).map_or(0, |method| method as usize);
    FIRST[place] + method
}

/// What a route is called in metrics and in the log.
pub fn route_name(route: Option<Route>, method: Option<Method>) -> &'static str {
    ROUTES[place(route, method)].0
}

/// Writes the families of all workers together.
pub fn render<'a>(out: &mut String, workers: impl Iterator<Item = &'a Traffic> + Clone) {
    let labels = ROUTES.iter().flat_map(|(route, methods)| {
        methods.iter().flat_map(move |method| {
            let label = move |class: &&str| {
                format!("route=\"{route}\",method=\"{method}\",status=\"{class}\"")
            };
            CLASSES.iter().map(label).collect::<Vec<_>>()
        })
    });
    let labels: Vec<String> = labels.collect();
    let cell =
        |worker: &'a Traffic, n: usize| &worker.requests[n / CLASSES.len()][n % CLASSES.len()];
    let cells: Vec<Sum> =
        (0..labels.len()).map(|n| Sum::of(workers.clone().map(|worker| cell(worker, n)))).collect();
    let (name, help) = (
        "kioskd_http_requests_total",
        "Requests, by route, method and class of the response's status.",
    );
    family(out, "counter", name, help);
    for (labels, sum) in labels.iter().zip(&cells) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}{{{labels}}} {}", sum.count());
    }
    let name = "kioskd_http_request_duration_seconds";
    family(
        out,
        "histogram",
        name,
        "From the complete head of a request to the end of its response.",
    );
    labels.iter().zip(&cells).for_each(|(labels, sum)| sum.write(out, name, labels));

    let name = "kioskd_store_commands_total";
    family(out, "counter", name, "Commands to the store, by outcome.");
    for (kind, command) in COMMANDS.iter().enumerate() {
        for (place, outcome) in OUTCOMES.iter().enumerate() {
            let count = |worker: &Traffic| worker.outcomes[kind][place].load(Ordering::Relaxed);
            let n: usize = workers.clone().map(count).sum();
            let _ = writeln!(out, "{name}{{command=\"{command}\",outcome=\"{outcome}\"}} {n}");
        }
    }
    let name = "kioskd_store_duration_seconds";
    family(out, "histogram", name, "From a command's submission to its answer, retries included.");
    for (kind, command) in COMMANDS.iter().enumerate() {
        let sum = Sum::of(workers.clone().map(|worker| &worker.commands[kind]));
        sum.write(out, name, &format!("command=\"{command}\""));
    }
}

/// A load and a store, not a locked instruction: each has one writer.
pub(super) fn add(n: &AtomicUsize, more: usize) {
    n.store(n.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// `# HELP` and `# TYPE`.
#[inline(never)]
pub(super) fn family(out: &mut String, kind: &str, name: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// A number of millionths, as a decimal. (The formatting of floating-point numbers is 60 KiB of code.)
pub struct Micros(pub u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / 1_000_000)?;
        let (mut rest, mut digits) = (self.0 % 1_000_000, 6);
        if rest == 0 {
            return Ok(());
        }
        while rest.is_multiple_of(10) {
            (rest, digits) = (rest / 10, digits - 1);
        }
        write!(f, ".{rest:0digits$}")
    }
}

/// A histogram, added up over all workers.
struct Sum {
    buckets: [usize; BOUNDS.len() + 1],
    micros: usize,
}

impl Sum {
    fn of<'a>(all: impl Iterator<Item = &'a Histogram>) -> Sum {
        let mut sum = Sum { buckets: [0; BOUNDS.len() + 1], micros: 0 };
        for one in all {
            for (total, bucket) in sum.buckets.iter_mut().zip(&one.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
            sum.micros += one.micros.load(Ordering::Relaxed);
        }
        sum
    }

    fn count(&self) -> usize {
        self.buckets.iter().sum()
    }

    /// Nothing for what never happened: each histogram has fourteen lines.
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let count = self.count();
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (bound, n) in BOUNDS.iter().zip(&self.buckets) {
            below += n;
            let le = Micros(*bound as u64);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {below}");
        }
        let seconds = Micros(self.micros as u64);
        let _ = write!(
            out,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {count}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::route::READS;

    fn rendered(traffic: &Traffic) -> String {
        let mut out = String::new();
        render(&mut out, [traffic].into_iter());
        out
    }

    #[test]
    fn every_route_and_method_has_a_cell_of_its_own() {
        let methods = [
            Method::Get,
            Method::Head,
            Method::Post,
            Method::Put,
            Method::Patch,
            Method::Delete,
            Method::Options,
            Method::Connect,
            Method::Trace,
            Method::Query,
            Method::Other,
        ];
        let six = &methods[..6];
        let two = &methods[..2];
        let mut all = Vec::new();
        for (route, methods) in [
            (Some(Route::Item(Collection::Items)), six),
            (Some(Route::Item(Collection::Sessions)), six),
            (Some(Route::List), two),
            (Some(Route::Purge), &methods[5..6]),
            (Some(Route::Bulk), &methods[2..3]),
            (Some(Route::Live), two),
            (Some(Route::Ready), two),
            (Some(Route::Metrics), two),
            (Some(Route::Version), two),
            (Some(Route::OpenApi), two),
            (Some(Route::Page), two),
            (Some(Route::Options(&READS)), &methods[6..7]),
            (None, &methods),
        ] {
            all.extend(methods.iter().map(|method| pair(route, Some(*method))));
        }
        all.push(pair(None, None));
        assert_eq!(
            route_name(Some(Route::Item(Collection::Sessions)), Some(Method::Delete)),
            "session"
        );
        assert_eq!(route_name(None, Some(Method::Get)), "none");
        assert_eq!(route_name(None, None), "malformed");
        assert_eq!(all, (0..PAIRS).collect::<Vec<_>>());
    }

    #[test]
    fn a_request_is_in_its_bucket_and_all_above_it() {
        let traffic = Traffic::default();
        let item = Some(Route::Item(Collection::Items));
        for (status, ms) in
            [(200, 0), (200, 1), (204, 3), (404, 2500), (404, 2501), (499, 1), (503, 1)]
        {
            traffic.responded(item, Some(Method::Get), status, Duration::from_millis(ms));
        }
        let text = rendered(&traffic);
        let cell = "route=\"item\",method=\"GET\"";
        for line in [
            format!("kioskd_http_requests_total{{{cell},status=\"2xx\"}} 3"),
            format!("kioskd_http_requests_total{{{cell},status=\"4xx\"}} 2"),
            format!("kioskd_http_requests_total{{{cell},status=\"499\"}} 1"),
            format!("kioskd_http_requests_total{{{cell},status=\"5xx\"}} 1"),
            format!("kioskd_http_requests_total{{{cell},status=\"3xx\"}} 0"),
            format!(
                "kioskd_http_request_duration_seconds_bucket{{{cell},status=\"2xx\",le=\"0.001\"}} 2"
            ),
            format!(
                "kioskd_http_request_duration_seconds_bucket{{{cell},status=\"2xx\",le=\"0.005\"}} 3"
            ),
            format!(
                "kioskd_http_request_duration_seconds_bucket{{{cell},status=\"4xx\",le=\"2.5\"}} 1"
            ),
            format!(
                "kioskd_http_request_duration_seconds_bucket{{{cell},status=\"4xx\",le=\"+Inf\"}} 2"
            ),
            format!("kioskd_http_request_duration_seconds_sum{{{cell},status=\"4xx\"}} 5.001"),
            format!("kioskd_http_request_duration_seconds_count{{{cell},status=\"4xx\"}} 2"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("seconds_count{route=\"session\""));
    }

    #[test]
    fn millionths_are_a_decimal_without_needless_zeros() {
        for (micros, text) in [
            (0, "0"),
            (1, "0.000001"),
            (1000, "0.001"),
            (250_000, "0.25"),
            (1_000_000, "1"),
            (12_000_010, "12.00001"),
        ] {
            assert_eq!(Micros(micros).to_string(), text);
        }
    }

    #[test]
    fn a_command_is_counted_by_its_outcome() {
        let traffic = Traffic::default();
        let ping = Kind::of(&Command::Ping);
        traffic.answered(ping, &Err(StoreError::Timeout), Duration::from_secs(2));
        traffic.answered(ping, &Ok(crate::store::Answer::Pong), Duration::ZERO);
        let text = rendered(&traffic);
        for line in [
            "kioskd_store_commands_total{command=\"ping\",outcome=\"ok\"} 1",
            "kioskd_store_commands_total{command=\"ping\",outcome=\"timeout\"} 1",
            "kioskd_store_duration_seconds_sum{command=\"ping\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
