//! The OpenAPI document as programs see it: the file of the repository, and good enough to make a client from.
//!
//! The generator is openapi-python-client, which `tests/run` installs
//! in the version it names into `target/openapi-python-client`. `tests/generated_client.py` is what somebody would
//! write with the client it makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Kioskd, for_each_front, for_each_service, temp_dir};

const WRITTEN: &str = include_str!("../../src/service/openapi.json");

#[test]
fn the_served_document_is_the_file() {
    for_each_front(|front| {
        assert_eq!(document(&Kioskd::start(&[("FRONT", front)])), WRITTEN);
    });
}

/// A client that checks a time to live before it asks must not refuse what the operator allows.
#[test]
fn the_served_document_says_the_running_max_ttl() {
    for (max_ttl, seconds) in [("1h", 3600), ("365d", 31_536_000)] {
        let kioskd = Kioskd::start(&[("MAX_TTL", max_ttl)]);
        let document: serde_json::Value = serde_json::from_str(&document(&kioskd)).expect("JSON");
        let mut written: serde_json::Value = serde_json::from_str(WRITTEN).expect("JSON");
        written["components"]["schemas"]["Ttl"]["maximum"] = seconds.into();
        assert_eq!(document, written, "MAX_TTL={max_ttl}");
        let mut client = kioskd.connect();
        for (ttl, status) in [(seconds, 201), (seconds + 1, 400)] {
            let reply = client.post(&format!("/items/7?ttl={ttl}"), "{}");
            assert_eq!(reply.status, status, "{ttl} under MAX_TTL={max_ttl}");
        }
    }
}

/// The first document made a Python client without 24 of 51 operations, every write among them, and Go and TypeScript
/// clients whose writes did not compile or sent the wrong thing: a union in a header, and objects of no property.
#[test]
fn a_generated_client_has_every_operation_and_can_write() {
    let python = generator_python();
    let dir = temp_dir();
    generate(&python, &dir, &document(&Kioskd::start(&[])));
    assert_eq!(
        operations_in(&dir.join("kiosk/api")),
        operations_written(),
        "the generator left out operations"
    );
    for_each_service(&[], |kioskd| {
        let mut script = Command::new(&python);
        script
            .arg("tests/generated_client.py")
            .arg(format!("http://{}", kioskd.addr()))
            .env("PYTHONPATH", &dir)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        run(&mut script);
    });
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

/// Makes the package `kiosk` in `dir`. Any warning about an operation, a parameter or a schema fails.
fn generate(python: &Path, dir: &Path, document: &str) {
    let [input, config] = [dir.join("openapi.json"), dir.join("config.yaml")];
    std::fs::write(&input, document).expect("the directory is ours");
    // It would call a formatter.
    std::fs::write(&config, "post_hooks: []\n").expect("the directory is ours");
    let mut generator = Command::new(python);
    generator
        .args(["-m", "openapi_python_client", "generate", "--meta=none"])
        .arg("--fail-on-warning")
        .arg("--output-path")
        .arg(dir.join("kiosk"))
        .arg("--path")
        .arg(input)
        .arg("--config")
        .arg(config);
    run(&mut generator);
}

/// The names of the functions that were made: a module for each, in a folder for each tag.
fn operations_in(api: &Path) -> Vec<String> {
    let entries = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("no {path:?}: {e}"));
        entries.map(|entry| entry.expect("a readable folder").path())
    };
    let tags = entries(api).filter(|path| path.is_dir());
    let mut names: Vec<String> = tags
        .flat_map(|tag| entries(&tag).collect::<Vec<PathBuf>>())
        .filter_map(|module| Some(module.file_stem()?.to_str()?.to_owned()))
        .filter(|name| !name.starts_with('_'))
        .collect();
    names.sort_unstable();
    names
}

/// The `operationId`s of the file, spelled as Python spells functions.
fn operations_written() -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(WRITTEN).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let items = paths.values().filter_map(serde_json::Value::as_object);
    let mut names: Vec<String> = items
        .flat_map(|item| item.values())
        .filter_map(|operation| operation.get("operationId")?.as_str())
        .map(in_snake_case)
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 54);
    names
}

fn in_snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// The interpreter that has the generator. Without it this suite has failed, not passed.
fn generator_python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("Cargo's folder for tests is in the target folder");
    let python = target.join("openapi-python-client/bin/python");
    assert!(
        python.exists(),
        "no {}: `tests/run openapi::` installs the generator there (it needs python3 and PyPI)",
        python.display()
    );
    python
}

fn run(command: &mut Command) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("failed to start {command:?}: {e}"));
    assert!(
        status.success(),
        "{command:?}: {status}\n{}\n{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
}

fn document(kioskd: &Kioskd) -> String {
    let reply = kioskd.connect().get("/openapi.json");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    String::from_utf8(reply.body).expect("JSON is UTF-8")
}
