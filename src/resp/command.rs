//! A command as words, and as the bytes that are sent.
//!
//! ```text
//! Words   ["GET", "item:7"]  ─▶  *2⏎$3⏎GET⏎$6⏎item:7⏎
//! Script  its SHA-1 and words  ─▶  EVALSHA sha 1 key …    or, if the server does not know it,  EVAL text 1 key …
//! ```
//!
//! A command is an array of bulk strings, the only form a Redis server needs to read:
//!
//! ```
//! use kioskd::resp::command::{Spelling, Words};
//!
//! let mut out = Vec::new();
//! Words::plain(&[b"GET", b"k"]).write(&mut out, Spelling::default());
//! assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
//! ```
//!
//! Words are borrowed: they are copied once, into the output of a connection. To be sent again, a command is copied from
//! there; of a script's call only the beginning may have to be spelled anew. Nothing that can fail happens between the
//! first byte and the last: half a command in the output would shift every reply after it. So whether a command can be
//! sent is asked before, the memory is reserved next, and then only copies follow.

/// The most words a command may have. The longest that kioskd sends, a script call, has about ten.
const COMMAND_WORDS_MAX: usize = 64;

/// The most bytes of a command's words together: what Redis accepts for a single one of them
/// (`proto-max-bulk-len`, 512 MiB).
const COMMAND_BYTES_MAX: usize = 512 << 20;

/// A command, as words that are stored elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// What is encoded already: the number of words and the first of them, or a whole command.
    start: &'a [u8],
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

    /// Appends the verb and the name.
    fn push(&self, out: &mut Vec<u8>, spelling: Spelling) {
        let (verb, name) = self.name(spelling);
        push_bulk(out, verb);
        push_bulk(out, name.as_bytes());
    }
}

impl<'a> Words<'a> {
    /// A command of these words.
    pub fn plain(words: &'a [&'a [u8]]) -> Words<'a> {
        let bytes = words.iter().fold(0, |sum: usize, word| sum.saturating_add(word.len()));
        Words { start: b"", script: None, words, bytes }
    }

    /// A command that was encoded before.
    pub fn again(command: &'a [u8], script: Option<&'static Script>) -> Words<'a> {
        Words { start: command, script, words: &[], bytes: 0 }
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

    /// Whether Redis reads and answers a command of this many words and bytes. That is no assertion, because words are
    /// made of what clients and servers sent: a cursor with 61 words in it once ended the process.
    pub fn is_sendable(&self) -> bool {
        let own = if self.script.is_some() { 2 } else { 0 };
        (1..=COMMAND_WORDS_MAX).contains(&(self.words.len() + own))
            && self.bytes <= COMMAND_BYTES_MAX
    }

    /// Its size, as counted for the bounds.
    pub fn size(&self) -> usize {
        match self.words {
            [] => self.start.len(),
            words => encoded_bytes(words, self.bytes) + self.script.map_or(0, |s| s.text.len()),
        }
    }

    /// The length of the longest word, as far as it is not encoded.
    pub fn longest(&self) -> usize {
        self.words.iter().map(|word| word.len()).max().unwrap_or(0)
    }

    /// Appends it to `out`.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, spelling: Spelling) {
        match (self.script, self.start) {
            (None, b"") => push_header(out, b'*', self.words.len() as u64),
            (None, start) => out.extend_from_slice(start),
            (Some(script), b"") => {
                push_header(out, b'*', self.words.len() as u64 + 2);
                script.push(out, spelling);
            }
            (Some(script), call) => {
                let (count, words) = split_line(call);
                let (_, after_verb) = split_word(words);
                out.extend_from_slice(count);
                script.push(out, spelling);
                out.extend_from_slice(split_word(after_verb).1);
            }
        }
        out.reserve(encoded_bytes(self.words, self.bytes));
        self.words.iter().for_each(|word| push_bulk(out, word));
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

/// The most bytes that these words, with so many bytes together, take on the wire.
fn encoded_bytes(words: &[&[u8]], bytes: usize) -> usize {
    bytes.saturating_add((words.len() + 1) * BULK_FRAMING_BYTES)
}

/// `$`, up to 9 digits (512 MiB), and two CRLFs.
const BULK_FRAMING_BYTES: usize = 1 + 9 + 2 + 2;

/// Appends one word as a bulk string.
fn push_bulk(out: &mut Vec<u8>, payload: &[u8]) {
    push_header(out, b'$', payload.len() as u64);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn push_header(out: &mut Vec<u8>, kind: u8, number: u64) {
    let digit = |n: u64| b'0' + (n % 10) as u8;
    match number {
        // Nearly all words are that short, and pieces of a fixed size are cheap to append.
        0..10 => out.extend_from_slice(&[kind, digit(number), b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[kind, digit(number / 10), digit(number), b'\r', b'\n']),
        number => {
            out.push(kind);
            out.extend_from_slice(Decimal::new(number).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A number in decimal digits, by hand and in place: `write!` costs about as much as the rest of a small command, and
/// `to_string` allocates.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    /// The digits of `number`.
    pub fn new(mut number: u64) -> Decimal {
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        Decimal { digits, start }
    }

    /// As text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
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
                Words::again(call, Some(&SCRIPT)).write(&mut out, *spelling);
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
    fn writes_commands_as_arrays_of_bulk_strings() {
        for (args, wire) in [
            (&[b"PING" as &[u8]] as &[&[u8]], b"*1\r\n$4\r\nPING\r\n" as &[u8]),
            (&[b"GET", b""], b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"),
            (&[b"SET", b"\r\n", b"\0\xff"], b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$2\r\n\0\xff\r\n"),
            (&[&[b'x'; 10]], b"*1\r\n$10\r\nxxxxxxxxxx\r\n"),
        ] {
            let mut out = Vec::new();
            Words::plain(args).write(&mut out, Spelling::default());
            assert_eq!(out, wire);
        }
    }

    #[test]
    fn appends_and_reserves_once() {
        let mut out = b"before".to_vec();
        Words::plain(&[b"PING"]).write(&mut out, Spelling::default());
        assert_eq!(out, b"before*1\r\n$4\r\nPING\r\n");

        let (value, mut wire) = (vec![b'v'; 100_000], Vec::new());
        Words::plain(&[b"SET", b"key", &value]).write(&mut wire, Spelling::default());
        assert!(wire.capacity() < wire.len() + 4 * BULK_FRAMING_BYTES);
    }

    #[test]
    fn sends_1_to_64_words_of_up_to_512_mib_together() {
        // The same slice several times, so that the test needs no half gigabyte.
        let eighth = vec![0; COMMAND_BYTES_MAX / 8];
        let mut full = vec![&eighth[..]; 8];
        let word: &[u8] = b"w";
        let fits = |words: &[&[u8]]| Words::plain(words).is_sendable();
        assert!(fits(&full));
        full[7] = &eighth[1..];
        assert!(fits(&full));
        full[7] = &eighth;
        full.push(word);
        assert!(!fits(&full));

        for (words, sendable) in [(0, false), (1, true), (63, true), (64, true), (65, false)] {
            assert_eq!(fits(&vec![word; words]), sendable, "{words} words");
        }
    }

    #[test]
    fn writes_decimals_of_every_width() {
        let mut power = 1_u64;
        for number in std::iter::from_fn(|| {
            let current = power;
            power = power.checked_mul(10)?;
            Some(current)
        })
        .flat_map(|power| [power - 1, power, power + 1])
        .chain([u64::MAX])
        {
            assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
            let mut out = Vec::new();
            push_header(&mut out, b'$', number);
            assert_eq!(out, format!("${number}\r\n").as_bytes());
        }
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
