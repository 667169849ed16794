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

/// Prints as `***`, and only with `{:?}`. It does not wipe its memory: a process that can read that can read the
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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The largest password file. A reader that must detect a larger one reads a byte more.
pub const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// The password in a file with these bytes. A line break at the end is not part of it: editors and `echo` add one.
///
/// # Errors
/// When it is empty, not UTF-8 or larger than [`PASSWORD_BYTES_MAX`].
pub fn parse_password(file: &[u8]) -> Result<Secret, &'static str> {
    if file.len() > PASSWORD_BYTES_MAX {
        return Err("it is too large to hold a password");
    }
    let text = std::str::from_utf8(file).map_err(|_| "it is not UTF-8")?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("it is empty"),
        password => Ok(Secret::new(password)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_of_the_text() {
        let secret = Secret::new("sesame");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(secret.expose(), "sesame");
    }

    #[test]
    fn a_password_is_read_without_its_line_break_and_an_empty_one_is_none() {
        let (longest, too_long) =
            ("x".repeat(PASSWORD_BYTES_MAX), "x".repeat(PASSWORD_BYTES_MAX + 1));
        for (text, password) in [
            (&b"s3cret\n"[..], Ok("s3cret")),
            (b"s3cret", Ok("s3cret")),
            (b" s3 \r\n", Ok(" s3 ")),
            (b"\n", Err("it is empty")),
            (b"", Err("it is empty")),
            (b"\xff", Err("it is not UTF-8")),
            (longest.as_bytes(), Ok(&longest)),
            (too_long.as_bytes(), Err("it is too large to hold a password")),
        ] {
            let read = parse_password(text);
            assert_eq!(read.as_ref().map(|p| p.expose()).map_err(|e| *e), password);
        }
    }
}
