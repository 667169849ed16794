//! `deploy/alerts.yml` is held to its unit tests, `deploy/alerts_test.yml`, which promtool runs: no time passes there.

use std::path::{Path, PathBuf};
use std::process::Command;

const RULES: &str = include_str!("../../deploy/alerts.yml");

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

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}
