//! One command on its way: its words, how it may be treated, and how it ended.

use super::away::Away;
use super::codec::Reply;
use super::connection::Shape;
use super::encode::{encoded_bytes, is_sendable, payload_bytes, push_bulk, push_count, push_words};
use super::endpoint::Endpoint;
use super::slot::slot;
use std::time::Instant;

/// How a command may be treated, and whose it is.
#[derive(Debug)]
pub struct Request<P> {
    /// What the requester wants with it; comes back with the outcome.
    pub purpose: P,
    /// What its reply may be.
    pub shape: Shape,
    /// Which server has to have it.
    pub home: Home,
    /// It changes nothing, so it may be sent again even when its first outcome is unknown.
    pub read_only: bool,
    /// No try is made that could not be answered by then.
    pub deadline: Instant,
    /// The client ends it at its deadline. Otherwise whoever asked keeps the time, and has it
    /// [abandoned](super::client::Client::abandon).
    pub expires: bool,
}

/// Which server has to have a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// On a cluster the one that has this slot; otherwise the one there is.
    Slot(u16),
    /// This one and no other: the command goes on with something that was begun there.
    Server(Box<Endpoint>),
    /// This node of the client's: a question of the guide's.
    Node(u64),
}

impl Home {
    /// The home of a key.
    pub fn of(key: &[u8]) -> Home {
        Home::Slot(slot(key))
    }
}

/// A command, as words that lie somewhere else.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The number of words and the first of them, where that is encoded already.
    start: &'static [u8],
    script: Option<&'static Script>,
    words: &'a [&'a [u8]],
    /// Of the words together.
    bytes: usize,
}

/// A command, encoded.
#[derive(Debug, Default)]
pub struct Encoded {
    pub(super) outline: Outline,
    pub(super) bytes: Vec<u8>,
}

/// What there is to know of an encoded command beside its bytes. Of a script the first words are not among them, since they
/// depend on what the server knows of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outline {
    script: Option<&'static Script>,
    /// Of a script, how many words are in the bytes.
    words: u32,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spelling {
    /// EVAL with the text, not EVALSHA with the name.
    pub text: bool,
    /// Without `#!lua`, for a server that does not know it.
    pub plain: bool,
}

impl Script {
    /// The beginning of a command with so many words after the script's own.
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

    /// A script. The words are how many keys there are, the keys, which are all in one slot, and the arguments. On no
    /// keys it looks at whatever the server has.
    pub fn script(script: &'static Script, words: &'a [&'a [u8]]) -> Words<'a> {
        Words { script: Some(script), ..Words::plain(words) }
    }

    /// Whether Redis would take so many words and bytes.
    pub fn is_sendable(&self) -> bool {
        let own = if self.script.is_some() { 2 } else { 0 };
        is_sendable(self.words.len() + own, self.bytes)
    }

    /// How much it counts for the bounds.
    pub fn len(&self) -> usize {
        encoded_bytes(self.words.len(), self.bytes)
            + self.script.map_or(0, |script| script.text.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// In one piece, to be kept.
    pub fn encode(&self) -> Encoded {
        let mut bytes = Vec::new();
        if self.script.is_none() {
            self.write_start(&mut bytes);
        }
        push_words(&mut bytes, self.words, self.bytes);
        Encoded { outline: self.outline(), bytes }
    }

    /// What [`encode`](Words::encode) gives, but for the bytes.
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
    /// How much it counts for the bounds.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.outline.script.map_or(0, |script| script.text.len())
    }

    /// Whether there is none: a command has words.
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

    /// Of what was written so, the bytes.
    pub fn take_back(&self, written: &[u8], spelling: Spelling) -> Vec<u8> {
        let mut beginning = Vec::new();
        self.write(&[], &mut beginning, spelling);
        written.get(beginning.len()..).unwrap_or_default().to_vec()
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
            // What was written so can be written otherwise.
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
