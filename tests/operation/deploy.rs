//! `deploy/` is held to the program: every setting named there exists and can be used as it is set, the times fit
//! together, and the programs that the files are for accept them.
//!
//! What nobody can check here is what needs a cluster or images: `tests/operation/rolling.rs` runs nginx and HAProxy, and
//! `deploy/check-image` the image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::{Kind, Kioskd, on_path, temp_dir};
use kioskd::config::SETTINGS;

const UNIT: &str = include_str!("../../deploy/kioskd.service");
const COMPOSE: &str = include_str!("../../deploy/compose.yaml");
const KUBERNETES: &str = include_str!("../../deploy/kubernetes.yaml");

const CONTAINERFILE: &str = include_str!("../../Containerfile");

/// What a file may mention, whether or not this build has it; and what Kubernetes injects and nobody reads.
const MENTIONED: &[&str] = &["TRUSTED_PROXIES", "METRICS_LISTEN", "REDIS_PORT"];

// ---- What the files name -----------------------------------------------------------------------

/// Set, or only mentioned in a comment.
#[test]
fn every_setting_that_deploy_names_exists() {
    let mut known: BTreeSet<&str> = SETTINGS.iter().map(|(name, _, _)| *name).collect();
    known.extend(MENTIONED);
    let mut seen = BTreeSet::new();
    for (file, text) in files() {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_name = |word: &&str| {
            // systemd's address families look like it, too.
            word.contains('_')
                && !word.starts_with("AF_")
                && !word.contains(|c: char| c.is_ascii_lowercase())
        };
        for word in words.filter(is_name) {
            assert!(known.contains(word), "{file} names {word}, and there is no such setting");
            seen.insert(word.to_owned());
        }
    }
    assert!(seen.len() > 10, "only {seen:?}: is this where they are?");
    for (file, settings) in deployments() {
        for (name, _) in settings {
            assert!(SETTINGS.iter().any(|(known, _, _)| *known == name), "{file} sets {name}");
        }
    }
}

/// A value that cannot be used would be exit code 2. (Where it listens is what the machine of the test has free, and the
/// file with the password is one that is there.)
#[test]
fn every_deployment_starts_with_what_it_sets() {
    let dir = temp_dir();
    let password = dir.join("redis-password");
    std::fs::write(&password, "change-me").expect("our own directory");
    let password = password.to_str().expect("a path in UTF-8");
    for (file, settings) in deployments() {
        let set: Vec<(&str, &str)> = settings
            .iter()
            .filter(|(name, _)| !["PORT", "LISTEN"].contains(&&**name))
            .map(|(name, value)| match &**name {
                "REDIS_PASSWORD_FILE" => ("REDIS_PASSWORD_FILE", password),
                _ => (&**name, &**value),
            })
            .collect();
        let kioskd = Kioskd::start(&set);
        assert_eq!(kioskd.connect().get("/livez").status, 200, "{file}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// A liveness probe that asked Redis would restart every replica in an outage. And nothing is written: the root is
/// read-only, and the only volume is one of secrets.
#[test]
fn kubernetes_asks_each_probe_at_its_path() {
    for (probe, path) in [("livenessProbe:", "/livez"), ("readinessProbe:", "/readyz")] {
        let (_, behind) = KUBERNETES.split_once(probe).expect("the manifest has both");
        let asked = behind.lines().nth(1).unwrap_or_default();
        assert!(asked.contains(&format!("httpGet: {{ path: {path}, ")), "{probe} {asked}");
    }
    assert!(KUBERNETES.contains("kind: Deployment\n"));
    assert!(KUBERNETES.contains("readOnlyRootFilesystem: true\n"));
    let (_, volumes) = KUBERNETES.split_once("\n      volumes:\n").expect("secrets are one");
    let (volumes, _) = volumes.split_once("\n---").expect("a Service follows");
    assert_eq!(volumes.matches("- name: ").count(), 1, "{volumes}");
    assert!(volumes.contains("secret: { "), "{volumes}");
}

/// Who has never seen the file learns from its first lines what it is for and what to put there.
#[test]
fn every_file_says_what_to_change() {
    for (file, text) in files() {
        let head: String = match file.ends_with(".json") {
            false => text.lines().take_while(|line| line.starts_with('#')).collect(),
            // Which has no comments, and a dashboard a description.
            true => text.lines().filter(|line| line.starts_with("  \"description\": ")).collect(),
        };
        assert!(head.contains("What to change: "), "{file}");
    }
}

/// Who takes the comment's `#` away means nginx to be believed, so it must have that address.
#[test]
fn compose_would_trust_the_address_of_its_nginx() {
    let mut lines = COMPOSE.lines();
    let trusted = lines.find_map(|line| line.trim_start().strip_prefix("# TRUSTED_PROXIES: "));
    let (_, nginx) = COMPOSE.split_once("\n  nginx:\n").expect("one of the services");
    let address = format!("ipv4_address: {}}}", trusted.expect("an example"));
    assert!(nginx.contains(&address), "no `{address}`");
}

// ---- Times -------------------------------------------------------------------------------------

/// A restart without a failed request wants a second of `DRAIN_DELAY`; and whoever kills at the end of a grace period must
/// not cut off a drain.
#[test]
fn a_drain_fits_into_the_time_it_is_given() {
    for (file, grace) in [
        ("kioskd.service", after(UNIT, "TimeoutStopSec=")),
        ("compose.yaml", after(COMPOSE, "stop_grace_period: ")),
        ("kubernetes.yaml", after(KUBERNETES, "terminationGracePeriodSeconds: ")),
    ] {
        let settings = deployments().into_iter().find(|(name, _)| *name == file);
        let (_, settings) = settings.expect("one of the three");
        let of = |wanted: &str| {
            let set = settings.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
            let default = SETTINGS.iter().find(|(name, _, _)| *name == wanted);
            seconds(set.or(default.map(|(_, default, _)| *default)).expect("a setting"))
        };
        let (delay, timeout) = (of("DRAIN_DELAY"), of("DRAIN_TIMEOUT"));
        assert!(delay >= Duration::from_secs(1), "{file}: {delay:?}");
        assert!(delay + timeout < seconds(grace), "{file}: {delay:?} + {timeout:?}, {grace}");
    }
}

/// A proxy must not give up before kioskd has said what became of a request, nor use a connection that kioskd closes.
#[test]
fn the_times_of_the_proxies_fit_those_of_kioskd() {
    let of = |wanted: &str| {
        let row = SETTINGS.iter().find(|(name, _, _)| *name == wanted);
        seconds(row.map(|(_, default, _)| *default).expect("a setting"))
    };
    let (nginx, haproxy) = (Kind::Nginx.shipped(), Kind::Haproxy.shipped());
    let (upstream, server) = nginx.split_once("\nserver {").expect("an upstream, then a server");
    let within = |text: &'static str, what: &str| seconds(after(text, what).trim_end_matches(';'));
    assert!(within(server, "proxy_read_timeout ") > of("REQUEST_TIMEOUT"));
    assert!(within(haproxy, "set-timeout server ") > of("REQUEST_TIMEOUT"));
    assert!(within(haproxy, "timeout check ") > of("REQUEST_TIMEOUT"));
    assert!(within(haproxy, "timeout server ") > of("REQUEST_TIMEOUT") + of("BODY_TIMEOUT"));
    // The least that a deployment drains for.
    assert!(within(upstream, "keepalive_timeout ") < Duration::from_secs(1));
    let [first, second] = ["inter ", "fastinter "].map(|what| within(haproxy, what));
    assert!(
        first + second < Duration::from_secs(1) / 2,
        "with time left for the checks themselves"
    );
}

// ---- What others say of them -------------------------------------------------------------------

#[test]
fn nginx_and_haproxy_accept_their_configurations() {
    for kind in Kind::ALL {
        let output = kind.check();
        let said = said(&output);
        assert!(output.status.success(), "{kind:?}: {said}");
        assert!(!said.to_lowercase().contains("warn"), "{kind:?}: {said}");
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "systemd is Linux's")]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    assert!(
        on_path("systemd-analyze"),
        "no systemd-analyze on the PATH, which judges the unit: start the tests with `tests/run`, which installs it where \
         there is one"
    );
    let dir = temp_dir();
    let unit = dir.join("kioskd.service");
    let installed = "/usr/local/bin/kioskd";
    assert!(UNIT.contains(&format!("\nExecStart={installed}\n")));
    std::fs::write(&unit, UNIT.replace(installed, env!("CARGO_BIN_EXE_kioskd"))).expect("ours");
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(&unit).output().expect("it is there")
    };
    let verified = analyze(&["verify"]);
    assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));
    // In tenths: 1.5.
    let exposure = analyze(&["security", "--offline=true", "--no-pager", "--threshold=15"]);
    assert!(exposure.status.success(), "{}", said(&exposure));
    let _ = std::fs::remove_dir_all(dir);
}

/// What the build stage copies and makes is what Cargo wants to see. (A test that Cargo.toml named and nobody copied ended
/// every build of the image.) Cargo reads all of it before it finds that it has nothing of this name to build.
#[test]
fn the_image_can_be_built_from_what_it_copies() {
    let (stage, _) = CONTAINERFILE.split_once("\nFROM ${BASE}").expect("two stages");
    let dir = temp_dir();
    let ignored = include_str!("../../.containerignore");
    for copied in stage.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let (sources, _) = copied.rsplit_once(' ').expect("what, and where to");
        for source in sources.split(' ') {
            assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source}");
            let mut copy = Command::new("cp");
            let status = copy.arg("-r").arg(root().join(source)).arg(&dir).status();
            assert!(status.expect("cp is everywhere").success(), "{source}");
        }
    }
    let touched = stage.split(" && touch ").skip(1).filter_map(|rest| rest.lines().next());
    for file in touched.flat_map(|line| line.trim_end_matches(" \\").split(' ')) {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("our own directory");
        std::fs::write(path, "").expect("our own directory");
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--locked", "--bin", "nobody"]).current_dir(&dir);
    let output = cargo.output().expect("cargo runs this test");
    assert!(said(&output).contains("no bin target named `nobody`"), "{}", said(&output));
    let _ = std::fs::remove_dir_all(dir);
}

/// Who installs the crate gets what builds, deploys and explains it, and not the workshop.
#[test]
fn the_package_holds_what_a_user_needs() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(root());
    let output = cargo.output().expect("cargo runs this test");
    assert!(output.status.success(), "{}", said(&output));
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let files: BTreeSet<&str> = list.lines().collect();
    for needed in [
        "src/main.rs",
        "deploy/kioskd.service",
        "deploy/nginx.conf",
        "Containerfile",
        ".containerignore",
        ".cargo/config.toml",
        "README.md",
        "LICENSE-MIT",
    ] {
        assert!(files.contains(needed), "no {needed}");
    }
    for file in files {
        let folder = file.split('/').next().expect("a name");
        assert_ne!(file, "deploy/check-image", "which compares with what only we have");
        let unwanted = [".ci", "tests", "sim", "fuzz", "benches", "rustfmt.toml", ".gitignore"];
        assert!(!unwanted.contains(&folder), "{file}");
    }
}

// ---- Helpers -----------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All that is in `deploy/`, but for the script, which is for us.
fn files() -> Vec<(String, String)> {
    let folder = root().join("deploy");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("failed to list {folder:?}: {e}"));
    let paths = entries.map(|entry| entry.expect("an entry of a folder just listed").path());
    let is_shipped = |path: &PathBuf| path.extension().is_some();
    let files: Vec<_> = paths
        .filter(is_shipped)
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, text)
        })
        .collect();
    assert!(files.len() >= 6, "{files:?}");
    files
}

type Settings = Vec<(String, String)>;

/// What each of the three that start kioskd sets.
fn deployments() -> [(&'static str, Settings); 3] {
    let unit = UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    // `    NAME: value`, in a block of its own.
    let (_, block) = COMPOSE.split_once("\n  environment:\n").expect("one environment");
    let block = block.lines().take_while(|line| line.starts_with("    "));
    let compose = block.filter_map(|line| line.trim_start().split_once(": "));
    // `- { name: NAME, value: "value" }`
    let kubernetes = KUBERNETES.lines().filter_map(|line| {
        let pair = line.trim_start().strip_prefix("- { name: ")?.strip_suffix(" }")?;
        pair.split_once(", value: ")
    });
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.trim_matches('"').to_owned());
    let is_set = |(name, _): &(&str, &str)| !name.starts_with('#');
    let all = [
        ("kioskd.service", unit.map(owned).collect::<Settings>()),
        ("compose.yaml", compose.filter(is_set).map(owned).collect()),
        ("kubernetes.yaml", kubernetes.map(owned).collect()),
    ];
    for (file, settings) in &all {
        assert!(settings.len() > 1, "{file}: {settings:?}");
    }
    all
}

/// The word behind `what`, at its only place in a line that is no comment.
#[track_caller]
fn after<'a>(text: &'a str, what: &str) -> &'a str {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    // Not the end of another word.
    let found = lines.filter_map(|line| {
        let (before, rest) = line.split_once(what)?;
        (!before.ends_with(|c: char| c.is_alphanumeric() || c == '-')).then_some(rest)
    });
    let found: Vec<&str> = found.collect();
    assert!(!found.is_empty(), "no `{what}`");
    found[0].split_whitespace().next().expect("a value")
}

/// `1500ms`, `5s`, and seconds without a unit.
#[track_caller]
fn seconds(text: &str) -> Duration {
    let number = |digits: &str| digits.parse().unwrap_or_else(|_| panic!("not a time: {text}"));
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(milliseconds), _) => Duration::from_millis(number(milliseconds)),
        (_, Some(seconds)) => Duration::from_secs(number(seconds)),
        _ => Duration::from_secs(number(text)),
    }
}

/// All that a program has printed.
fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}
