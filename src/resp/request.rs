//! One command on its way: its words, how it may be handled, and how it ended.

use super::away::Away;
use super::codec::Reply;
use super::connection::Shape;
use super::encode::{encoded_bytes, is_sendable, payload_bytes, push_bulk, push_count, push_words};
use super::endpoint::Endpoint;
use super::slot::slot;
use std::time::Instant;

/// How a command may be handled, and what it is for.
#[derive(Debug)]
pub struct Request<P> {
    /// The requester's own note on it; comes back with the outcome.
    pub purpose: P,
    /// The shape its reply may have.
    pub shape: Shape,
    /// Which server must get it.
    pub home: Home,
    /// It changes nothing, so it may be sent again even when its first outcome is unknown.
    pub read_only: bool,
    /// No try is made that could not be answered by then.
    pub deadline: Instant,
    /// The client ends it at its deadline. Otherwise the requester keeps the time, and
    /// [abandons](super::client::Client::abandon) it.
    pub expires: bool,
}

/// Which server must get a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// On a cluster the node that has this slot; otherwise the one server.
    Slot(u16),
    /// This server only: the command continues something that was begun there.
    Server(Box<Endpoint>),
    /// This node of the client's: for a request of the guide's.
    Node(u64),
}

impl Home {
    /// The home of a key.
    pub fn of(key: &[u8]) -> Home {
        Home::Slot(slot(key))
    }
}

/// A command, as words that are stored elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The number of words and the first of them, where these are encoded already.
    start: &'static [u8],
    script: Option<&'static Script>,
    words: &'a [&'a [u8]],
    /// The length of the words together.
    bytes: usize,
}

/// A command, encoded.
#[derive(Debug, Default)]
pub struct Encoded {
    pub(super) outline: Outline,
    pub(super) bytes: Vec<u8>,
}

/// The properties of an encoded command beside its bytes. For a script the bytes do not include the first words, since
/// they depend on whether the server knows the script.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outline {
    script: Option<&'static Script>,
    /// For a script, how many words are in the bytes.
    words: u32,
}

/// A Lua script and its names.
#[derive(Debug)]
pub struct Script {
    /// Begins with `#!lua`, so that a server that has become a replica says READONLY instead of
    /// judging a condition on stale data.
    pub text: &'static str,
    /// SHA-1 of `text`, as SCRIPT LOAD returns it; a test checks it against a real server.
    pub sha: &'static str,
    /// SHA-1 of the text without its first line, for servers before 7.0.
    pub plain_sha: &'static str,
}

/// How a script is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spelling {
    /// EVAL with the text, not EVALSHA with the SHA-1.
    pub text: bool,
    /// Without `#!lua`, for a server that does not know it.
    pub plain: bool,
}

impl Script {
    /// The beginning of a command with this many words after the script's own.
    fn write(&self, out: &mut Vec<u8>, words: usize, spelling: Spelling) {
        let (verb, name): (&[u8], &str) = match spelling {
            Spelling { text: true, plain } => (b"EVAL", self.text(plain)),
            Spelling { plain: true, .. } => (b"EVALSHA", self.plain_sha),
            Spelling { .. } => (b"EVALSHA", self.sha),
        };
        push_count(out, words + 2);
        push_bulk(out, b'$', verb);
        push_bulk(out, b'$', name.as_bytes());
    }

    fn text(&self, plain: bool) -> &'static str {
        match self.text.split_once('\n') {
            Some((first, rest)) if plain && first.starts_with("#!") => rest,
            _ => self.text,
        }
    }
}

impl<'a> Words<'a> {
    /// A command of these words.
    pub fn plain(words: &'a [&'a [u8]]) -> Words<'a> {
        Words { start: b"", script: None, words, bytes: payload_bytes(words) }
    }

    /// GET, the most frequent command by far: its beginning costs as much as the rest of it.
    pub fn get(key: &'a [&'a [u8]; 1]) -> Words<'a> {
        Words { start: b"*2\r\n$3\r\nGET\r\n", ..Words::plain(key) }
    }

    /// A script. The words are the number of keys, the keys, which are all in one slot, and the arguments. Without keys
    /// it reads whatever keys the server has.
    pub fn script(script: &'static Script, words: &'a [&'a [u8]]) -> Words<'a> {
        Words { script: Some(script), ..Words::plain(words) }
    }

    /// Whether Redis accepts this many words and bytes.
    pub fn is_sendable(&self) -> bool {
        let own = if self.script.is_some() { 2 } else { 0 };
        is_sendable(self.words.len() + own, self.bytes)
    }

    /// Its size, as counted for the bounds.
    pub fn len(&self) -> usize {
        encoded_bytes(self.words.len(), self.bytes)
            + self.script.map_or(0, |script| script.text.len())
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Encodes it, to be kept.
    pub fn encode(&self) -> Encoded {
        let mut bytes = Vec::new();
        if self.script.is_none() {
            self.write_start(&mut bytes);
        }
        push_words(&mut bytes, self.words, self.bytes);
        Encoded { outline: self.outline(), bytes }
    }

    /// What [`encode`](Words::encode) gives, without the bytes.
    pub(super) fn outline(&self) -> Outline {
        Outline { script: self.script, words: self.words.len() as u32 }
    }

    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>, spelling: Spelling) {
        match self.script {
            None => self.write_start(out),
            Some(script) => script.write(out, self.words.len(), spelling),
        }
        push_words(out, self.words, self.bytes);
    }

    fn write_start(&self, out: &mut Vec<u8>) {
        match self.start {
            b"" => push_count(out, self.words.len()),
            start => out.extend_from_slice(start),
        }
    }
}

impl Encoded {
    /// Its size, as counted for the bounds.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.outline.script.map_or(0, |script| script.text.len())
    }

    /// Whether there is no command: a command has words.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Outline {
    /// Appends the command with these bytes to `out`.
    pub fn write(&self, bytes: &[u8], out: &mut Vec<u8>, spelling: Spelling) {
        if let Some(script) = self.script {
            script.write(out, self.words as usize, spelling);
        }
        out.extend_from_slice(bytes);
    }

    /// The bytes of a command that was written with `spelling`.
    pub fn take_back(&self, written: &[u8], spelling: Spelling) -> Vec<u8> {
        let mut beginning = Vec::new();
        self.write(&[], &mut beginning, spelling);
        written.get(beginning.len()..).unwrap_or_default().to_vec()
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline has passed. It may have run.
    Timeout,
    /// There is no connection. It did not run.
    Unreachable(String),
    /// The connection was lost after it had been sent. It may have run.
    Broken(String),
    /// A limit of ours is reached. It did not run.
    Overloaded,
    /// The server refuses our connection. It did not run.
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

/// A request that ended without a reply that could be borrowed.
pub type Outcome<P> = (P, Shape, Result<Reply, Failure>);

#[cfg(test)]
mod tests {
    use super::*;

    static SCRIPT: Script = Script { text: "#!lua\nreturn 1", sha: "aa", plain_sha: "bb" };

    #[test]
    fn a_script_is_spelled_as_the_server_knows_it() {
        let words: [&[u8]; 3] = [b"1", b"k", b"x"];
        let script = Words::script(&SCRIPT, &words);
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
            let spelling = Spelling { text, plain };
            let mut out = Vec::new();
            script.write(&mut out, spelling);
            assert_eq!(std::str::from_utf8(&out), Ok(expected));
            // A command written in one spelling can be written in another.
            let bytes = script.outline().take_back(&out, spelling);
            assert_eq!(bytes, script.encode().bytes);
            let mut again = Vec::new();
            script.outline().write(&bytes, &mut again, spelling);
            assert_eq!(again, out);
        }
    }

    #[test]
    fn a_plain_command_is_as_it_is() {
        let (mut out, spelling) = (Vec::new(), Spelling { text: true, plain: true });
        let words: [&[u8]; 2] = [b"GET", b"k"];
        let key: [&[u8]; 1] = [b"k"];
        let get = Words::get(&key);
        get.write(&mut out, spelling);
        assert_eq!(out, Words::plain(&words).encode().bytes);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        assert_eq!(get.outline().take_back(&out, spelling), out);
        assert_eq!(get.encode().bytes, out);
    }

    #[test]
    fn a_script_has_two_words_of_its_own() {
        let word: &[u8] = b"w";
        for (words, plain, script) in [(62, true, true), (63, true, false), (65, false, false)] {
            let words = vec![word; words];
            assert_eq!(Words::plain(&words).is_sendable(), plain);
            assert_eq!(Words::script(&SCRIPT, &words).is_sendable(), script);
        }
    }
}
