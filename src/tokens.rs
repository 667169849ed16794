//! `AUTH_TOKENS_FILE`, read again while the service runs.

use kioskd::config::read_tokens;
use kioskd::service::access::{Guard, Tokens};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often the file of tokens is looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Keeps the tokens as their file has them: on a thread of its own, since a disk that hangs must hang nothing else. A file
/// that is not usable, or gone, changes nothing.
pub fn watch(path: &Path, mut last: Tokens, guard: &Guard, nudges: &Receiver<()>) {
    let mut complaint = None;
    loop {
        let is_asked = match nudges.recv_timeout(EVERY) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match read_tokens(path) {
            Ok(tokens) => {
                if is_asked || tokens != last {
                    guard.replace(tokens.clone());
                    log::info!("{} tokens read from {}", tokens.len(), path.display());
                    last = tokens;
                }
                complaint = None;
            }
            Err(e) => {
                if is_asked || complaint.as_ref() != Some(&e) {
                    log::error!("the tokens stay as they were: {}: {e}", path.display());
                }
                complaint = Some(e);
            }
        }
    }
}
