//! Who may do what: tokens, limits, proxies, other sites.

use super::env::Env;
use super::store::StoreChoice;
use crate::front::listen::Listen;
use crate::net::read_file;
use crate::service::access::{Proxies, Tokens};
use crate::service::cors::Origins;
use crate::service::rate::Rate;
use std::path::{Path, PathBuf};

/// A file of tokens is no longer than this.
const TOKENS_BYTES_MAX: usize = 1024 * 1024;

/// What is set.
#[derive(Debug)]
pub struct Access {
    /// The tokens, if any are wanted.
    pub tokens: Option<Tokens>,
    /// Where they are from, to be looked at again.
    pub tokens_file: Option<PathBuf>,
    /// See [`Rate`].
    pub rate: Option<Rate>,
    /// See [`Proxies`].
    pub proxies: Proxies,
    /// See [`Origins`].
    pub origins: Origins,
}

pub(super) fn read(env: &mut Env, listen: &Listen, store: &StoreChoice) -> Access {
    let tokens_file = env.text("AUTH_TOKENS_FILE").map(PathBuf::from);
    let tokens = env.read_set("AUTH_TOKENS", Tokens::parse);
    let of_file = match tokens_file.as_deref() {
        Some(_) if env.is_set("AUTH_TOKENS") => Err("not both, this and AUTH_TOKENS".to_owned()),
        Some(path) => read_tokens(path).map(Some),
        None => Ok(None),
    };
    let of_file = of_file.unwrap_or_else(|e| {
        env.wrong("AUTH_TOKENS_FILE", &e);
        None
    });
    let tokens = tokens.or(of_file);
    let rate = env.read_set("RATE_LIMIT", |text| {
        Rate::parse(text).ok_or("requests in a second, a minute or an hour: 10/s, 600/m, 9000/h")
    });
    let proxies = env.read_set("TRUSTED_PROXIES", Proxies::parse).unwrap_or_default();
    let is_anonymous = matches!(listen, Listen::Unix(_)) && !proxies.unix && tokens.is_none();
    if rate.is_some() && is_anonymous {
        let why =
            "who comes over a Unix socket has no address: set TRUSTED_PROXIES=unix, or AUTH_TOKENS";
        env.wrong("RATE_LIMIT", why);
    }
    if rate.is_some() && matches!(store, StoreChoice::Noop) {
        env.wrong("RATE_LIMIT", "nothing with STORE=noop, which counts nothing");
    }
    let origins = env.read_set("CORS_ORIGINS", Origins::parse).unwrap_or_default();
    Access { tokens, tokens_file, rate, proxies, origins }
}

/// Reads a file of tokens.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read_tokens(path: &Path) -> Result<Tokens, String> {
    let bytes = read_file(path, TOKENS_BYTES_MAX + 1).map_err(|e| e.to_string())?;
    if bytes.len() > TOKENS_BYTES_MAX {
        return Err(format!("larger than {TOKENS_BYTES_MAX} bytes"));
    }
    Tokens::parse(&String::from_utf8(bytes).map_err(|_| "not UTF-8")?)
}
