//! `user:password@`, and a password that does not get into a log by accident.

use super::UrlError;
use std::fmt;

/// Who we are to Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// `None`: Redis's `default` user.
    pub user: Option<String>,
    /// `None`: no AUTH, unless the password comes from elsewhere. Never empty.
    pub password: Option<Secret>,
}

impl Credentials {
    /// Takes them from the front of what follows `://`; returns the rest as well.
    ///
    /// Splits at the *last* `@` there is, even one in the path or the options: a delimiter before
    /// it may stand inside a password that was not encoded, and then what follows the first
    /// delimiter is secret.
    pub(super) fn split_from(rest: &str) -> Result<(Self, &str), UrlError> {
        let Some((userinfo, rest)) = rest.rsplit_once('@') else {
            return Ok((Credentials::default(), rest));
        };
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        if userinfo.contains(['@', '/', '?']) || password.is_some_and(|text| text.contains(':')) {
            return Err(UrlError::RawDelimiter);
        }
        if password.unwrap_or(user).is_empty() {
            return Err(UrlError::EmptyCredential);
        }
        let user = match user {
            "" => None,
            user => Some(percent_decode(user)?),
        };
        if user.as_ref().is_some_and(|user| user.contains(|c: char| c.is_control())) {
            return Err(UrlError::Escape);
        }
        let password = password.map(percent_decode).transpose()?.map(Secret::new);
        Ok((Credentials { user, password }, rest))
    }
}

fn percent_decode(text: &str) -> Result<String, UrlError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(UrlError::Escape);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match (first, after) {
            (b'%', &[high, low, ref after @ ..]) => {
                rest = after;
                (digit(high)? * 16 + digit(low)?) as u8
            }
            (b'%', _) => return Err(UrlError::Escape),
            (byte, _) => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}

impl fmt::Display for Credentials {
    /// The part of a URL up to and with `@`, without the password; empty if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.user.iter().flat_map(|user| user.as_bytes()) {
            match byte {
                // RFC 3986 §2.3: what never needs encoding.
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(byte))?;
                }
                byte => write!(f, "%{byte:02X}")?,
            }
        }
        match (&self.user, &self.password) {
            (None, None) => Ok(()),
            (Some(_), None) => f.write_str("@"),
            (_, Some(password)) => write!(f, ":{password}@"),
        }
    }
}

/// Prints as `***`, with `{}` and with `{:?}`. It does not wipe its memory: whoever can read that
/// reads the connection's buffer as well.
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
