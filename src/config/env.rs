//! Reads one value at a time, remembers what was wrong with it, and goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What is shown of a value that is secret.
const MASK: &str = "***";

/// A longer value is not shown to its end.
const SHOWN_CHARS_MAX: usize = 200;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    name: String,
    value: String,
    expected: String,
}

/// `NAME="value": what it may be`, on one line whatever is in the value.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.name, self.value, self.expected)
    }
}

/// The environment, and all that was found wrong in it so far.
#[derive(Debug, Default)]
pub(super) struct Env {
    values: BTreeMap<String, String>,
    pub mistakes: Vec<Mistake>,
    /// What an operator should hear once, though the start goes on.
    pub notes: Vec<String>,
}

impl Env {
    /// Takes the variables that `is_ours` by their names. An empty value counts as unset.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Env {
        let mut env = Env::default();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !is_ours(&name) || value.is_empty() {
                continue;
            }
            match value.into_string() {
                Ok(value) => {
                    env.values.insert(name, value);
                }
                Err(value) => {
                    let shown = masked(&name, &value.to_string_lossy());
                    env.mistake(&name, shown, "it must be UTF-8, and is not");
                }
            }
        }
        env
    }

    /// Every name and value there is.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.mistake(name, text, &format!("one of {}", list.join(", ")));
        default
    }

    /// `None` when it is not set, or cannot be used.
    pub fn count(&mut self, name: &str, range: RangeInclusive<usize>) -> Option<usize> {
        let text = self.text(name)?;
        // A sign is none of ours, though Rust reads over a plus.
        let n = text.parse().ok().filter(|n| range.contains(n) && !text.starts_with('+'));
        if n.is_none() {
            let (least, most) = range.into_inner();
            let expected = match most {
                usize::MAX => format!("a whole number from {least} on"),
                most => format!("a whole number from {least} to {most}"),
            };
            self.mistake(name, text, &expected);
        }
        n
    }

    pub fn bytes(&mut self, name: &str) -> Option<usize> {
        // The upper end is what one value in Redis can be.
        self.count(name, 1..=512 * 1024 * 1024)
    }

    pub fn duration(&mut self, name: &str) -> Option<Duration> {
        let value = self.duration_or_zero(name)?;
        if value.is_zero() {
            let text = self.text(name).unwrap_or_default();
            let expected = "a duration above zero, such as 250ms, 2s, 30m, 24h or 7d";
            self.mistake(name, text, expected);
            return None;
        }
        Some(value)
    }

    pub fn duration_or_zero(&mut self, name: &str) -> Option<Duration> {
        let text = self.text(name)?;
        let value = duration(&text);
        if value.is_none() {
            let expected = "a duration such as 250ms, 2s, 30m, 24h or 7d, 365d at most";
            self.mistake(name, text, expected);
        }
        value
    }

    /// The value as it was set, so that nobody has to guess which one is meant; `***` for a secret.
    pub fn mistake(&mut self, name: &str, mut value: String, expected: &str) {
        let mut expected = expected;
        // The URL of a store, under whatever name it came.
        if value.contains("://") && value.contains('@') {
            if expected.contains(&*value) {
                expected = "not that";
            }
            value = MASK.to_owned();
        }
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: shown,
            expected: expected.to_owned(),
        });
    }

    /// As [`mistake`](Env::mistake), of the value that is set.
    pub fn wrong(&mut self, name: &str, expected: &str) {
        let value = masked(name, &self.text(name).unwrap_or_default());
        self.mistake(name, value, expected);
    }
}

/// What may be shown of a value. A name that we do not know may be a password's, however it is spelled,
/// so of those only what is called an address, and in no part a secret, is shown.
fn masked(name: &str, value: &str) -> String {
    let is_secret = match name {
        "REDIS_CA_FILE" | "REDIS_PASSWORD_FILE" | "REDIS_CONNECT_TIMEOUT" => false,
        "AUTH_TOKENS" => true,
        _ if !name.starts_with("REDIS_") => false,
        _ => {
            let name = name.to_ascii_lowercase();
            value.contains('@')
                || SECRETS.iter().any(|word| name.contains(word))
                || !name.split('_').any(|word| PLACES.contains(&word))
        }
    };
    if is_secret { MASK } else { value }.to_owned()
}

const PLACES: [&str; 7] = ["adr", "addr", "address", "host", "hostname", "port", "server"];
const SECRETS: [&str; 6] = ["pass", "pw", "secret", "token", "key", "auth"];

/// A whole number and a unit: `ms`, `s`, `m`, `h` or `d`. A year at most.
fn duration(text: &str) -> Option<Duration> {
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
            ("REDIS_URL", "redis://localhost", false),
            ("AUTH_TOKENS", "ci:hunter2", false),
            ("LISTEN", "nowhere", true),
        ] {
            assert_eq!(masked(name, value) == value, shown, "{name}={value}");
        }
    }

    #[test]
    fn a_long_value_is_not_shown_to_its_end() {
        let mut env = Env::default();
        env.mistake("LISTEN", "é".repeat(1_000_000), "an address");
        assert!(env.mistakes[0].to_string().len() < 500);
    }
}
