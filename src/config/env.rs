//! Reads one value at a time, collects the errors, and goes on with the default.

use super::settings::{SETTINGS, default_of};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `sun_path` of Linux has 108 bytes, the last of them 0.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The largest value that Redis can store.
pub(super) const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// The end of an error about a feature that this build does not have.
pub(super) const NEEDS_POLL: &str =
    "the default build has it (cargo feature `poll`), this one was built without";

/// Shown in place of a secret value.
const MASK: &str = "***";

/// A longer value is cut when it is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// The environment, and all errors found in it so far.
#[derive(Debug, Default)]
pub(super) struct Env {
    values: BTreeMap<String, String>,
    /// `NAME="value": what it may be`, on one line whatever the value contains.
    pub errors: Vec<String>,
    /// Notes for the operator that do not stop the start.
    pub notes: Vec<String>,
}

impl Env {
    /// Takes the variables whose names are settings. An empty value counts as unset.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Env {
        let mut env = Env::default();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let is_ours = is_setting(&name) || name == "RUST_LOG" || name.starts_with("REDIS_");
            if !is_ours || value.is_empty() {
                continue;
            }
            match value.into_string() {
                Ok(value) => {
                    env.values.insert(name, value);
                }
                Err(value) => {
                    let shown = masked(&name, &value.to_string_lossy()).to_owned();
                    env.fail(&name, shown, "it must be UTF-8, and is not");
                }
            }
        }
        env
    }

    /// Names and values of variables that begin with `REDIS_` and are no setting.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.values.iter().map(|(name, value)| (&**name, &**value));
        all.filter(|(name, _)| name.starts_with("REDIS_") && !is_setting(name))
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value that was set, or the default in the table. `parse` gives the value, or a text that says what it may
    /// be.
    pub fn read<T, E>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, E>) -> T
    where
        E: Into<String>,
    {
        let default = || parse(default_of(name)).ok().expect("BUG: a default in the table is good");
        self.read_set(name, &parse).unwrap_or_else(default)
    }

    /// The value that was set. One that cannot be used counts as unset from here on, so that only one error is
    /// reported.
    pub fn read_set<T, E>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T>
    where
        E: Into<String>,
    {
        let value = parse(self.values.get(name)?);
        let wrong = |expected: E| {
            self.wrong(name, &expected.into());
            self.values.remove(name);
        };
        value.map_err(wrong).ok()
    }

    /// The value cannot be used. It is shown as it is, because the same name may be set in several places; `***` for a
    /// secret.
    pub fn wrong(&mut self, name: &str, expected: &str) {
        let value = self.text(name).unwrap_or_default();
        self.fail(name, masked(name, &value).to_owned(), expected);
    }

    /// As [`wrong`](Env::wrong), for a part of the value, or for something derived from it.
    pub fn fail(&mut self, name: &str, mut value: String, mut expected: &str) {
        // The URL of a store, under any name.
        if value.contains("://") && value.contains('@') {
            if expected.contains(&*value) {
                expected = "not that";
            }
            value = MASK.to_owned();
        }
        if let Some((end, _)) = value.char_indices().nth(SHOWN_CHARS_MAX) {
            value.truncate(end);
            value.push('…');
        }
        self.errors.push(format!("{name}={value:?}: {expected}"));
    }
}

fn is_setting(name: &str) -> bool {
    SETTINGS.iter().any(|(setting, _, _)| *setting == name)
}

pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("one of {}", list()))
    }
}

pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let (least, most) = (range.start(), range.end());
        // No sign is allowed, though Rust's parser accepts a leading plus.
        let n = text.parse().ok().filter(|n| range.contains(n) && !text.starts_with('+'));
        n.ok_or_else(|| match *most {
            usize::MAX => format!("a whole number from {least} on"),
            most => format!("a whole number from {least} to {most}"),
        })
    }
}

pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    match time_or_zero(text)? {
        Duration::ZERO => Err("a duration above zero, such as 250ms, 2s, 30m, 24h or 7d"),
        time => Ok(time),
    }
}

pub(super) fn time_or_zero(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("a duration such as 250ms, 2s, 30m, 24h or 7d, 365d at most")
}

/// A whole number and a unit: `ms`, `s`, `m`, `h` or `d`. A year at most.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let n: u64 = digits.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let value = Duration::from_millis(n.checked_mul(ms)?);
    (value <= Duration::from_secs(365 * 86_400)).then_some(value)
}

/// What may be shown of a value. An unknown name may be a misspelt name of a password, so for unknown names the value
/// is shown only if the name says that it is an address, and no part of the name says that it is a secret.
fn masked<'a>(name: &str, value: &'a str) -> &'a str {
    let is_secret = match name {
        "REDIS_CONNECT_TIMEOUT" | "REDIS_SERVER_NAME" => false,
        // Instead of its path, what is in the file.
        "REDIS_PASSWORD_FILE" | "AUTH_TOKENS_FILE" => !value.starts_with(['/', '.']),
        // The two of a pair are easily taken for each other.
        "REDIS_CA_FILE" | "REDIS_CERT_FILE" | "REDIS_KEY_FILE" => is_key(value),
        "AUTH_TOKENS" => true,
        _ if !name.starts_with("REDIS_") => false,
        _ => {
            let name = name.to_ascii_lowercase();
            value.contains('@')
                || SECRETS.iter().any(|word| name.contains(word))
                || !name.split('_').any(|word| PLACES.contains(&word))
        }
    };
    if is_secret { MASK } else { value }
}

/// Whether this is a private key in the place of a path to one: PEM, or the Base64 of a key, which begins with the type of
/// a sequence (0x30) and a length.
pub(super) fn is_key(text: &str) -> bool {
    let is_base64 =
        |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b) || b.is_ascii_whitespace();
    text.contains("-----BEGIN")
        || text.starts_with('M') && text.len() >= 64 && text.bytes().all(is_base64)
}

const PLACES: [&str; 7] = ["adr", "addr", "address", "host", "hostname", "port", "server"];
const SECRETS: [&str; 6] = ["pass", "pw", "secret", "token", "key", "auth"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in [
            ("250ms", Some(250)),
            ("2s", Some(2000)),
            ("30m", Some(1_800_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("0s", Some(0)),
            ("365d", Some(31_536_000_000)),
            ("366d", None),
            ("2", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1S", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for (name, value, shown) in [
            ("REDIS_ADR", "redis:6379", true),
            ("REDIS_HOST", "10.0.0.1", true),
            ("REDIS_HOST", "redis://:hunter2@10.0.0.1", false),
            ("REDIS_PASS", "hunter2", false),
            ("REDIS_SERVER_PASSWORD", "hunter2", false),
            ("REDIS_host_pwd", "hunter2", false),
            ("REDIS_ADDR_SECRETS", "hunter2", false),
            ("REDIS_AUTHTOKEN_HOST", "hunter2", false),
            ("REDIS_SERVER_KEY", "hunter2", false),
            ("REDIS_PASSWORD", "hunter2", false),
            ("REDIS_AUTH", "hunter2", false),
            ("REDIS_PASSWORD_FILE", "/run/secrets/redis", true),
            ("REDIS_PASSWORD_FILE", "hunter2", false),
            ("AUTH_TOKENS_FILE", "./tokens", true),
            ("AUTH_TOKENS_FILE", "ci:hunter2", false),
            ("REDIS_URL", "redis://localhost", false),
            ("REDIS_CERT_FILE", "/run/secrets/redis.pem", true),
            ("REDIS_KEY_FILE", "/run/secrets/redis.key", true),
            ("REDIS_KEY_FILE", "-----BEGIN PRIVATE KEY-----\nMIGHAgEA", false),
            ("REDIS_CERT_FILE", "-----BEGIN PRIVATE KEY-----\nMIGHAgEA", false),
            ("REDIS_CA_FILE", "-----BEGIN PRIVATE KEY-----\nMIGHAgEA", false),
            ("REDIS_KEY_FILE", &format!("MIGHAgEA{}/+Q==\n", "x".repeat(176)), false),
            ("REDIS_KEY_FILE", &format!("MOUNT/{}.key", "x".repeat(176)), true),
            ("REDIS_SERVER_NAME", "redis.internal", true),
            ("AUTH_TOKENS", "ci:hunter2", false),
            ("LISTEN", "nowhere", true),
        ] {
            assert_eq!(masked(name, value) == value, shown, "{name}={value}");
        }
    }

    #[test]
    fn a_long_value_is_not_shown_to_its_end() {
        let mut env = Env::default();
        env.fail("LISTEN", "é".repeat(1_000_000), "an address");
        assert!(env.errors[0].len() < 500);
    }
}
