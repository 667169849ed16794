//! `deploy/alerts.yml` and `deploy/dashboard.json` are held to what `/metrics` says: a rule about a metric that is called
//! otherwise is a rule that never fires, and nobody notices.
//!
//! ```text
//! Redis ◀── kioskd      ◀─┐
//!                         ├── Prometheus, with deploy/alerts.yml ◀── every expression of both files
//!           kioskd,     ◀─┘
//!           in memory
//! ```
//!
//! When an alert fires, and when not, is in `deploy/alerts_test.yml`, which promtool runs: no time passes there. Here some
//! of them are provoked in earnest, as far as that can be had in seconds; `pending` is enough, since their `for`s are
//! promtool's part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Client, Kioskd, Prometheus, Redis, eventually};

const RULES: &str = include_str!("../../deploy/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/dashboard.json");

// ---- By themselves -----------------------------------------------------------------------------

#[test]
fn each_alert_fires_when_it_should_and_its_neighbour_does_not() {
    for arguments in [
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"][..],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let mut command = Command::new("promtool");
        let output = command
            .args(arguments)
            .current_dir(deploy())
            .output()
            .expect("promtool is installed; tests/run does it (Debian's package prometheus)");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    // An alert without a test would pass.
    let tests = std::fs::read_to_string(deploy().join("alerts_test.yml")).expect("it is there");
    let alerts: Vec<&str> =
        RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested");
    }
}

/// Also those that only a description mentions. (That some metric is on no panel and in no rule is fine.)
#[test]
fn every_metric_that_is_named_exists() {
    let redis = Redis::start();
    let (kioskd, memory) = two(&redis);
    let address = scraped(&memory);
    some_of_everything(&mut kioskd.connect());
    some_of_everything(&mut memory.connect());
    let texts = [kioskd.connect(), Client::connect(&address)].map(|mut client| {
        let reply = client.get("/metrics");
        assert_eq!(reply.status, 200);
        reply.text()
    });
    let mut there: BTreeSet<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| words(line).next().unwrap_or(""))
        .collect();
    // What Prometheus says when a description speaks of the whole histogram.
    let families = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    there.extend(families);
    let mut seen = BTreeSet::new();
    for (file, text) in [("alerts.yml", RULES), ("dashboard.json", DASHBOARD)] {
        let names = words(text).filter(|word| {
            ["kioskd_", "process_"].iter().any(|prefix| word.starts_with(prefix))
                && !word.ends_with('_')
        });
        for name in names {
            assert!(
                there.contains(name),
                "{file} names {name}, and there is none in\n{}",
                texts[0]
            );
            seen.insert(name);
        }
    }
    assert!(seen.len() > 30, "only {seen:?}: is this where they are?");
}

/// What Grafana would not say until somebody looks: panels that lie on each other, a query of another data source.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: an id that another has");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        assert!(x + w <= 24, "{title} is wider than the dashboard");
        for place in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            let below = taken.insert(place, title);
            assert_eq!(below, None, "{title} lies on another");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> =
        variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "instance"]);
}

// ---- With Prometheus ---------------------------------------------------------------------------

#[test]
#[cfg_attr(not(feature = "poll"), ignore = "MAX_CONNECTIONS is the poll front's")]
fn prometheus_has_an_answer_to_every_expression_and_sees_what_breaks() {
    let mut redis = Redis::start();
    let (kioskd, memory) = two(&redis);
    let of_memory = scraped(&memory);
    let rules = deploy().join("alerts.yml");
    let targets = [("kioskd", kioskd.addr()), ("memory", of_memory)];
    let targets = targets.each_ref().map(|(job, address)| (*job, &**address));
    let prometheus = Prometheus::start(&rules, &targets);

    // All is well: each expression has an answer, and no alert is even pending.
    let expressions = expressions_of_the_dashboard(&prometheus, 2);
    let mut left: Vec<&Expression> = expressions.iter().collect();
    let mut clients = [kioskd.connect(), memory.connect()];
    eventually("every expression of the dashboard to have an answer", || {
        clients.iter_mut().for_each(some_of_everything);
        left.retain(|expression| !has_data(&prometheus, expression));
        let titles: Vec<_> = left.iter().map(|expression| &expression.title).collect();
        eprintln!("without an answer: {titles:?}");
        left.is_empty()
    });
    rules_are_well(&prometheus);
    eventually("no alert to be pending", || {
        let mut active = active(&prometheus);
        // Who runs this on a busy machine may see what it is for.
        active.remove("KioskdSlow");
        eprintln!("{active:?}");
        active.is_empty()
    });

    // Redis goes. However many requests have succeeded, in the end a tenth has failed.
    redis.kill();
    let [client, of_memory] = &mut clients;
    let fail = || {
        for n in 0..10 {
            let status = client.get(&format!("/items/{n}")).status;
            assert!([502, 503, 504].contains(&status), "{status}");
        }
    };
    // One of ten connections is held by the client above.
    let held: Vec<Client> = (0..8).map(|_| memory.connect()).collect();
    let of_redis = [
        "KioskdStoreDown",
        "KioskdManyErrors",
        "KioskdErrors",
        "KioskdStoreFails",
        "KioskdRateLimitSkipped",
    ];
    until_active(&prometheus, &of_redis, fail);
    until_active(&prometheus, &["KioskdNearConnectionLimit"], || ());
    let more: Vec<Client> = (0..4).map(|_| memory.connect()).collect();
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(62_000));
    for n in 0..4 {
        assert_eq!(
            of_memory.request("PUT", &format!("/items/{n}"), &[], large.as_bytes()).status,
            201
        );
    }
    until_active(&prometheus, &["KioskdConnectionsRefused", "KioskdNearMemoryStoreLimit"], || ());
    // One cause, one page. (A scrape that was late on a busy machine is a process that is not there, until the next.)
    eventually("the process not to be the reason", || {
        !active(&prometheus).contains("KioskdNoneReady")
    });
    drop((held, more));

    // And the process. What it had said of the store is not known any more.
    drop((clients, kioskd));
    until_active(&prometheus, &["KioskdNoneReady"], || ());
    eventually("the store not to be the reason", || {
        !active(&prometheus).contains("KioskdStoreDown")
    });
}

/// Does this until these alerts are pending or firing.
#[track_caller]
fn until_active(prometheus: &Prometheus, wanted: &[&str], mut meanwhile: impl FnMut()) {
    eventually("alerts to be pending", || {
        meanwhile();
        let active = active(prometheus);
        eprintln!("{active:?}");
        wanted.iter().all(|name| active.contains(*name))
    });
}

/// The names of the alerts that are pending or firing. What each says must have no gap, where a label was not there.
fn active(prometheus: &Prometheus) -> BTreeSet<String> {
    let data = prometheus.get("/api/v1/alerts").expect("it knows its alerts");
    let alerts = data["alerts"].as_array().expect("a list");
    let name = |alert: &Value| {
        let summary = alert["annotations"]["summary"].as_str().expect("a summary");
        let has_gap = summary.contains("  ") || summary.starts_with(' ') || summary.ends_with(' ');
        assert!(!has_gap && !summary.contains('<') && !summary.contains("()"), "{summary}");
        alert["labels"]["alertname"].as_str().expect("a name").to_owned()
    };
    alerts.iter().map(name).collect()
}

/// Each rule can be judged, says what it should, and whatever it looks at is there. (Of an alert the expression itself
/// gives nothing while all is well, so its selectors are asked.)
#[track_caller]
fn rules_are_well(prometheus: &Prometheus) {
    eventually("all rules to be judged", || {
        prometheus
            .get("/api/v1/rules")
            .is_ok_and(|data| rules(&data).iter().all(|rule| rule["health"] != "unknown"))
    });
    let data = prometheus.get("/api/v1/rules").expect("it knows its rules");
    let rules = rules(&data);
    assert_eq!(rules.len(), RULES.matches("\n        expr:").count(), "{data}");
    for rule in rules {
        let name = rule["name"].as_str().expect("a name");
        assert_eq!(rule["health"], "ok", "{name}: {}", rule["lastError"]);
        let query = rule["query"].as_str().expect("a query");
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{name}: {query}");
        for selector in selectors {
            let found =
                prometheus.query(&selector).unwrap_or_else(|e| panic!("{name}: {selector}: {e}"));
            assert!(!found.is_empty(), "{name}: nothing is {selector}");
        }
        if rule["type"] == "recording" {
            continue;
        }
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        let [summary, description] = ["summary", "description"].map(|part| {
            rule["annotations"][part].as_str().unwrap_or_else(|| panic!("{name} has no {part}"))
        });
        assert!(description.len() > 100, "{name}: {description}");
        // What was added up by job has lost its instance.
        if query.contains("by (job)") && !query.contains("and on (job)") {
            assert!(!summary.contains("$labels.instance"), "{name}: {summary}");
        }
    }
}

fn rules(data: &Value) -> Vec<&Value> {
    let groups = data["groups"].as_array().expect("a list");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("a list")).collect()
}

/// What a panel asks, with the labels that its legend shows.
struct Expression {
    title: String,
    text: String,
    labels: Vec<String>,
}

/// As Grafana sends them: its variables are the values that it has found.
#[track_caller]
fn expressions_of_the_dashboard(prometheus: &Prometheus, instances: usize) -> Vec<Expression> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let variable = &dashboard["templating"]["list"][1];
    assert_eq!(variable["query"]["query"], "label_values(kioskd_build_info, instance)");
    let mut found = Vec::new();
    eventually("both to be scraped", || {
        let values = prometheus.get("/api/v1/label/instance/values?match%5B%5D=kioskd_build_info");
        found = values.expect("an answer").as_array().expect("a list").clone();
        found.len() == instances
    });
    let values: Vec<String> =
        found.iter().map(|value| value.as_str().expect("text").replace('.', "\\\\.")).collect();
    let instance = format!("({})", values.join("|"));
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut expressions = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().expect("an expression");
            let text = text.replace("$instance", &instance).replace("$__rate_interval", "10s");
            assert!(!text.contains('$'), "{text}");
            let legend = target["legendFormat"].as_str().expect("a legend");
            let labels = legend.split("{{").skip(1).filter_map(|part| part.split("}}").next());
            let labels = labels.map(str::to_owned).collect();
            expressions.push(Expression {
                title: format!("{}: {legend}", panel["title"]),
                text,
                labels,
            });
        }
    }
    assert!(expressions.len() > 50, "{}", expressions.len());
    expressions
}

/// Whether it gives numbers, and what its legend shows. (A quantile of nothing is not a number.)
#[track_caller]
fn has_data(prometheus: &Prometheus, Expression { title, text, labels }: &Expression) -> bool {
    let series = prometheus.query(text).unwrap_or_else(|e| panic!("{title}: {text}: {e}"));
    for (metric, _) in &series {
        for label in labels {
            // Prometheus has no label for an empty text, and a build without a revision says so in this way.
            let is_there = metric[label].is_string() || label == "revision";
            assert!(is_there, "{title}: no {label} in {metric}");
        }
    }
    series.iter().any(|(_, value)| value.is_finite())
}

// ---- Helpers -----------------------------------------------------------------------------------

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// One with Redis and one without, since each has metrics that the other has not. The second is small, so that it comes
/// near its limits, and is scraped where these do not count.
fn two(redis: &Redis) -> (Kioskd, Kioskd) {
    let kioskd = Kioskd::start(&[("REDIS_ADDR", &redis.addr()), ("RATE_LIMIT", "1000000/s")]);
    let mut memory = Kioskd::start(&[
        ("STORE", "memory"),
        ("METRICS_LISTEN", "127.0.0.1:0"),
        ("MAX_CONNECTIONS", "10"),
        ("MAX_BODY_BYTES", "100000"),
        ("MEMORY_MAX_BYTES", "300000"),
    ]);
    memory.wait_for_log("metrics at ");
    (kioskd, memory)
}

/// Where the second of them is scraped.
fn scraped(memory: &Kioskd) -> String {
    let log = memory.log();
    let (_, rest) = log.split_once("metrics at ").expect("it was waited for");
    rest.lines().next().expect("an address").to_owned()
}

/// A few of each, and nothing that fails.
fn some_of_everything(client: &mut Client) {
    for (method, path, body, status) in [
        ("PUT", "/items/7", "{}", [201, 204]),
        ("PATCH", "/items/7", "{}", [200, 200]),
        ("GET", "/items/7", "", [200, 200]),
        ("GET", "/items/none", "", [404, 404]),
        ("DELETE", "/items/8", "", [204, 204]),
        ("GET", "/items?limit=1", "", [200, 200]),
        ("POST", "/items/_get", "{\"ids\":[\"7\"]}", [200, 200]),
        ("POST", "/sess/7", "{}", [201, 201]),
        ("GET", "/sess/7", "", [200, 200]),
        ("DELETE", "/sess?prefix=7", "", [200, 200]),
        ("GET", "/nowhere", "", [404, 404]),
        ("GET", "/livez", "", [200, 200]),
        ("GET", "/readyz", "", [200, 200]),
    ] {
        let fields = [("Content-Type", "application/json")];
        let reply = client.request(method, path, &fields, body.as_bytes());
        assert!(status.contains(&reply.status), "{method} {path}: {reply:?}");
    }
}

/// What could be the name of a metric, or of a recorded one.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    // In a sentence, a colon may follow.
    words.map(|word| word.trim_end_matches(':'))
}

/// The selectors in an expression, without their ranges: `kioskd_ready`, `up{job="kioskd"}`.
fn selectors(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[begin..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let is_metric =
            name == "up" || ["kioskd_", "process_", "job:"].iter().any(|p| name.starts_with(p));
        let braces = match behind.starts_with('{') {
            true => behind.find('}').map_or(0, |end| end + 1),
            false => 0,
        };
        if is_metric {
            found.insert(format!("{name}{}", &behind[..braces]));
        }
        rest = &behind[braces..];
    }
    found
}

#[test]
fn selectors_are_found() {
    let found = selectors(
        "sum by (job) (rate(kioskd_a_total{x=~\"b|c\"}[5m])) > 0 or absent(up{job=\"kioskd\"})",
    );
    let wanted = ["kioskd_a_total{x=~\"b|c\"}", "up{job=\"kioskd\"}"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}
