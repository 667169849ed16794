//! A real Prometheus that scrapes what a test tells it to, four times a second, and judges rules as often.
//!
//! It is asked as Grafana asks it: `/api/v1/query?query=…`. What it stores is in a temporary directory.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::Client;
use super::eventually;
use super::port::Port;
use super::process::{Process, on_path, temp_dir, tethered};

/// A running one.
pub struct Prometheus {
    process: Process,
    port: Port,
    dir: PathBuf,
}

impl Prometheus {
    /// Starts it with this file of rules and these targets, each the name of a job and an address, and returns when it
    /// answers.
    #[track_caller]
    pub fn start(rules: &Path, targets: &[(&str, &str)]) -> Prometheus {
        assert!(
            on_path("prometheus"),
            "no prometheus on the PATH, and these tests want a real one: start them with `tests/run`, which installs it"
        );
        let dir = temp_dir();
        // A scrape may take as long as the interval; on a busy machine one may fail, and tests wait for the next.
        let mut config = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms }}\n\
             rule_files: ['{}']\nscrape_configs:\n",
            rules.display()
        );
        for (job, address) in targets {
            config.push_str(&format!(
                "  - {{ job_name: {job}, static_configs: [{{ targets: ['{address}'] }}] }}\n"
            ));
        }
        let path = dir.join("prometheus.yml");
        for _ in 0..20 {
            let port = Port::take();
            std::fs::write(&path, &config).expect("our own directory");
            let log = std::fs::File::create(dir.join("output")).expect("our own directory");
            let same = log.try_clone().expect("an open file");
            let mut command = tethered("prometheus");
            command.arg(format!("--config.file={}", path.display()));
            command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
            command.arg(format!("--web.listen-address={}", port.addr())).arg("--log.level=warn");
            let process = Process::spawn(command.current_dir(&dir).stdout(log).stderr(same));
            let mut prometheus = Prometheus { process, port, dir: dir.clone() };
            eventually("Prometheus to be ready, or to end", || {
                prometheus.process.exited().is_some() || prometheus.is_ready()
            });
            if prometheus.process.exited().is_none() {
                return prometheus;
            }
            // Its port was taken by somebody who was faster; or something else is wrong, which the log says.
            let log = prometheus.log();
            assert!(log.contains("address already in use"), "{log}");
            drop(prometheus);
            std::fs::create_dir_all(&dir).expect("our own directory");
        }
        panic!("Prometheus found no free port");
    }

    fn is_ready(&self) -> bool {
        let listens = std::net::TcpStream::connect(self.port.addr()).is_ok();
        listens && Client::connect(&self.port.addr()).get("/-/ready").status == 200
    }

    /// The `data` of an answer of its API.
    ///
    /// # Errors
    /// What it says is wrong with the question.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let reply = Client::connect(&self.port.addr()).get(path);
        let mut answer: Value =
            serde_json::from_slice(&reply.body).map_err(|e| format!("{e}: {}", reply.text()))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// What an expression gives now: one value for each series, with its labels.
    ///
    /// # Errors
    /// What it says is wrong with the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let escape = |byte: u8| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        let escaped: String = expression.bytes().map(escape).collect();
        let mut data = self.get(&format!("/api/v1/query?query={escaped}"))?;
        let Value::Array(series) = data["result"].take() else {
            return Err(format!("not a list of series: {data}"));
        };
        let pair = |mut one: Value| {
            // Prometheus writes numbers as text, for `NaN` and `+Inf`.
            let value = one["value"][1].as_str().and_then(|text| text.parse().ok());
            (one["metric"].take(), value.expect("a number"))
        };
        Ok(series.into_iter().map(pair).collect())
    }

    /// What it has complained about so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("output")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It would first write what it has to the disk.
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
