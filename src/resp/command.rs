//! A command as words, and as the bytes that are sent.
//!
//! ```text
//! Words   ["GET", "item:7"]  ─▶  *2⏎$3⏎GET⏎$6⏎item:7⏎
//! Script  its SHA-1 and words  ─▶  EVALSHA sha 1 key …    or, if the server does not know it,  EVAL text 1 key …
//! ```
//!
//! Words are borrowed: they are copied once, into the output of a connection. To be sent again, a command is copied from
//! there; of a script's call only the beginning may have to be spelled anew.

use super::encode::{encoded_bytes, is_sendable, payload_bytes, push_bulk, push_count, push_words};

/// A command, as words that are stored elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The number of words and the first of them, where these are encoded already.
    start: &'static [u8],
    /// The script that is called, if this is a call of one.
    pub script: Option<&'static Script>,
    words: &'a [&'a [u8]],
    /// The length of the words together.
    bytes: usize,
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
    /// Its verb and its name.
    fn name(&self, spelling: Spelling) -> (&'static [u8], &'static str) {
        match spelling {
            Spelling { text: true, plain } => (b"EVAL", self.text(plain)),
            Spelling { plain: true, .. } => (b"EVALSHA", self.plain_sha),
            Spelling { .. } => (b"EVALSHA", self.sha),
        }
    }

    fn text(&self, plain: bool) -> &'static str {
        match self.text.split_once('\n') {
            Some((first, rest)) if plain && first.starts_with("#!") => rest,
            _ => self.text,
        }
    }

    /// Appends a call that was spelled otherwise.
    pub fn respell(&self, call: &[u8], spelling: Spelling, out: &mut Vec<u8>) {
        let (count, words) = split_line(call);
        let (_, after_verb) = split_word(words);
        let (_, after_name) = split_word(after_verb);
        out.extend_from_slice(count);
        let (verb, name) = self.name(spelling);
        push_bulk(out, b'$', verb);
        push_bulk(out, b'$', name.as_bytes());
        out.extend_from_slice(after_name);
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

    /// The length of the longest word.
    pub fn longest(&self) -> usize {
        self.words.iter().map(|word| word.len()).max().unwrap_or(0)
    }

    /// Appends it to `out`.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, spelling: Spelling) {
        match (self.script, self.start) {
            (Some(script), _) => {
                let (verb, name) = script.name(spelling);
                push_count(out, self.words.len() + 2);
                push_bulk(out, b'$', verb);
                push_bulk(out, b'$', name.as_bytes());
            }
            (None, b"") => push_count(out, self.words.len()),
            (None, start) => out.extend_from_slice(start),
        }
        push_words(out, self.words, self.bytes);
    }
}

/// The words of a command that was encoded here.
pub fn words_of(command: &[u8]) -> Vec<&[u8]> {
    let (_, mut rest) = split_line(command);
    let mut words = Vec::new();
    while !rest.is_empty() {
        let (word, after) = split_word(rest);
        words.push(word);
        rest = after;
    }
    words
}

/// The first line, with its end, and the rest.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}

/// The first bulk string, and the rest.
fn split_word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = split_line(bytes);
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| 10 * length + usize::from(digit - b'0'));
    let word = rest.get(..length).unwrap_or_default();
    (word, rest.get(length + 2..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCRIPT: Script = Script { text: "#!lua\nreturn 1", sha: "aa", plain_sha: "bb" };

    #[test]
    fn a_script_is_spelled_as_the_server_knows_it() {
        let words: [&[u8]; 3] = [b"1", b"k\r\n", b""];
        let script = Words::script(&SCRIPT, &words);
        let rest = "$1\r\n1\r\n$3\r\nk\r\n\r\n$0\r\n\r\n";
        let mut all = Vec::new();
        for (text, plain, begins) in [
            (false, false, "$7\r\nEVALSHA\r\n$2\r\naa\r\n"),
            (false, true, "$7\r\nEVALSHA\r\n$2\r\nbb\r\n"),
            (true, false, "$4\r\nEVAL\r\n$14\r\n#!lua\nreturn 1\r\n"),
            (true, true, "$4\r\nEVAL\r\n$8\r\nreturn 1\r\n"),
        ] {
            let spelling = Spelling { text, plain };
            let mut out = Vec::new();
            script.write(&mut out, spelling);
            assert_eq!(str::from_utf8(&out), Ok(&*format!("*5\r\n{begins}{rest}")));
            assert_eq!(words_of(&out)[2..], words);
            all.push((spelling, out));
        }
        for (_, call) in &all {
            for (spelling, spelled) in &all {
                let mut out = Vec::new();
                SCRIPT.respell(call, *spelling, &mut out);
                assert_eq!(out, *spelled);
            }
        }
    }

    #[test]
    fn a_plain_command_is_as_it_is() {
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        Words::get(&[b"k"]).write(&mut out, Spelling { text: true, plain: true });
        Words::plain(&[b"GET", b"k"]).write(&mut plain, Spelling::default());
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        assert_eq!(out, plain);
        assert_eq!(words_of(&out), [&b"GET"[..], b"k"]);
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
