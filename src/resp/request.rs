//! One command on its way: its bytes, how it may be treated, and how it ended.

use super::codec::{COMMAND_WORDS_MAX, Reply, Unsendable, encode};
use super::connection::Shape;
use super::encode::push_bulk;
use super::endpoint::Endpoint;
use super::link::Away;
use super::slot::slot;
use std::time::Instant;

/// One command, encoded, and how it may be treated.
#[derive(Debug)]
pub struct Request {
    /// The requester's name for it; comes back with the outcome.
    pub tag: u64,
    /// The command as it goes on the wire.
    pub command: Wire,
    /// What its reply may be.
    pub shape: Shape,
    /// Which server has to have it.
    pub home: Home,
    /// It changes nothing, so it may be sent again even when its first outcome is unknown.
    pub read_only: bool,
    /// The outcome is due then.
    pub deadline: Instant,
}

/// Which server has to have a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// On a cluster the one that has this slot; otherwise the one there is.
    Slot(u16),
    /// This one and no other: the command goes on with something that was begun there.
    Server(Endpoint),
    /// Whoever asks knows better: a question of the guide's.
    Elsewhere,
}

impl Home {
    /// The home of a key.
    pub fn of(key: &[u8]) -> Home {
        Home::Slot(slot(key))
    }
}

/// A command as bytes.
#[derive(Debug)]
pub enum Wire {
    /// As it is.
    Plain(Vec<u8>),
    /// A script with its keys and its arguments, encoded; the first words depend on what the
    /// server knows of it.
    Script {
        /// Which.
        script: &'static Script,
        /// How many words are in `rest`.
        words: usize,
        /// `1 key argument…`, each as a bulk string.
        rest: Vec<u8>,
    },
    /// It has too many words or bytes for Redis; the client refuses it.
    Unsendable,
}

/// A Lua script and its names.
#[derive(Debug)]
pub struct Script {
    /// Begins with `#!lua`, so that a server that has become a replica says READONLY instead of
    /// judging a condition on stale data.
    pub text: &'static str,
    /// SHA-1 of `text`, as SCRIPT LOAD says it; a test asks a real server.
    pub sha: &'static str,
    /// SHA-1 of the text without its first line, for servers before 7.0.
    pub plain_sha: &'static str,
}

/// How a script is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling {
    /// EVAL with the text, not EVALSHA with the name.
    pub text: bool,
    /// Without `#!lua`, for a server that does not know it.
    pub plain: bool,
}

impl Script {
    fn text(&self, plain: bool) -> &'static str {
        match self.text.split_once('\n') {
            Some((first, rest)) if plain && first.starts_with("#!") => rest,
            _ => self.text,
        }
    }
}

impl Wire {
    /// A command of these words.
    pub fn plain(words: &[&[u8]]) -> Wire {
        let mut bytes = Vec::new();
        match encode(&mut bytes, words) {
            Ok(()) => Wire::Plain(bytes),
            Err(Unsendable) => Wire::Unsendable,
        }
    }

    /// A script on these keys, which are all in one slot; on none it looks at whatever the server has.
    pub fn script(script: &'static Script, keys: &[&[u8]], arguments: &[&[u8]]) -> Wire {
        let count = keys.len().to_string();
        let words = [&[count.as_bytes()], keys, arguments].concat();
        let mut whole = Vec::new();
        if words.len() + 2 > COMMAND_WORDS_MAX || encode(&mut whole, &words).is_err() {
            return Wire::Unsendable;
        }
        // Behind the `*n` line the words stand one after the other.
        let at = whole.iter().position(|b| *b == b'\n').map_or(0, |i| i + 1);
        Wire::Script { script, words: words.len(), rest: whole.split_off(at) }
    }

    /// Whether there is something that [`write`](Wire::write) could append.
    pub fn is_sendable(&self) -> bool {
        !matches!(self, Wire::Unsendable)
    }

    /// Whether it is this script.
    pub fn is_of(&self, other: &'static Script) -> bool {
        matches!(self, Wire::Script { script, .. } if std::ptr::eq(*script, other))
    }

    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>, spelling: Spelling) {
        match self {
            Wire::Unsendable => {}
            Wire::Plain(bytes) => out.extend_from_slice(bytes),
            Wire::Script { script, words, rest } => {
                let (verb, name): (&[u8], &str) = match spelling {
                    Spelling { text: true, plain } => (b"EVAL", script.text(plain)),
                    Spelling { plain: true, .. } => (b"EVALSHA", script.plain_sha),
                    Spelling { .. } => (b"EVALSHA", script.sha),
                };
                out.extend_from_slice(format!("*{}\r\n", words + 2).as_bytes());
                push_bulk(out, b'$', verb);
                push_bulk(out, b'$', name.as_bytes());
                out.extend_from_slice(rest);
            }
        }
    }

    /// How much it counts for the bounds.
    pub fn len(&self) -> usize {
        match self {
            Wire::Plain(bytes) => bytes.len(),
            Wire::Script { script, rest, .. } => script.text.len() + rest.len() + 64,
            Wire::Unsendable => 0,
        }
    }

    /// Only what cannot be sent: there is no command without words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline came first. It may have run.
    Timeout,
    /// There is no connection. It did not run.
    Unreachable(String),
    /// The connection was lost after it had been sent. It may have run.
    Broken(String),
    /// A bound of ours is reached. It did not run.
    Overloaded,
    /// The server does not let us in. It did not run.
    Refused(String),
}

impl From<&Away> for Failure {
    fn from(away: &Away) -> Failure {
        match away {
            Away::Unreachable(why) => Failure::Unreachable(why.clone()),
            Away::Silent(_) => Failure::Timeout,
            Away::Refused(why) => Failure::Refused(why.clone()),
        }
    }
}

/// The end of a request: its tag, its shape, and the reply or the reason there is none.
pub type Outcome = (u64, Shape, Result<Reply, Failure>);

#[cfg(test)]
mod tests {
    use super::*;

    static SCRIPT: Script = Script { text: "#!lua\nreturn 1", sha: "aa", plain_sha: "bb" };

    #[test]
    fn a_script_is_spelled_as_the_server_knows_it() {
        let wire = Wire::script(&SCRIPT, &[b"k"], &[b"x"]);
        for (text, plain, expected) in [
            (false, false, "*5\r\n$7\r\nEVALSHA\r\n$2\r\naa\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\nx\r\n"),
            (false, true, "*5\r\n$7\r\nEVALSHA\r\n$2\r\nbb\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\nx\r\n"),
            (
                true,
                false,
                "*5\r\n$4\r\nEVAL\r\n$14\r\n#!lua\nreturn 1\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\nx\r\n",
            ),
            (true, true, "*5\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\nx\r\n"),
        ] {
            let mut out = Vec::new();
            wire.write(&mut out, Spelling { text, plain });
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_plain_command_is_as_it_is() {
        let mut out = Vec::new();
        Wire::plain(&[b"GET", b"k"]).write(&mut out, Spelling { text: true, plain: true });
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
