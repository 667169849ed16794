//! The user and password for Redis, with a password that does not get into a log by accident.

use std::fmt;

/// The user and password for Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// `None`: Redis's `default` user.
    pub user: Option<String>,
    /// `None`: no AUTH, unless the password comes from elsewhere. Never empty.
    pub password: Option<Secret>,
}

/// Prints as `***`, with `{}` and with `{:?}`. It does not wipe its memory: a process that can read that can read the
/// connection's buffer as well.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_of_the_text() {
        let secret = Secret::new("sesame");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "sesame");
    }
}
