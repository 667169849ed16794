//! Writes commands: arrays of bulk strings, the only form a Redis server needs to read.
//!
//! ```
//! let mut out = Vec::new();
//! kioskd::resp::codec::encode(&mut out, &[b"GET", b"k"])?;
//! assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
//! # Ok::<(), kioskd::resp::codec::Unsendable>(())
//! ```
//!
//! The command is appended to the connection's output buffer, and nothing that can fail happens
//! between the first byte and the last: half a command in the buffer would shift every reply
//! after it. So the checks come first, the memory is reserved next, and then only copies follow.

use super::value::Reply;
use std::fmt;

/// The most words a command may have. The longest that kioskd sends, a script call, has about ten.
pub const COMMAND_WORDS_MAX: usize = 64;

/// The most bytes of a command's words together: what Redis accepts for a single one of them
/// (`proto-max-bulk-len`, 512 MiB).
pub const COMMAND_BYTES_MAX: usize = 512 << 20;

/// A command that Redis would not read, or not answer. Nothing of it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsendable;

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command of no or too many words or bytes")
    }
}

impl std::error::Error for Unsendable {}

/// Appends one command to `out`.
///
/// # Errors
///
/// Before it has written anything, if there are no words (Redis would send no reply, and the next
/// command would take its place), more than [`COMMAND_WORDS_MAX`] or more than
/// [`COMMAND_BYTES_MAX`] bytes. That is no assertion, because words are made of what clients and
/// servers sent: a cursor with 61 words in it once ended the process.
pub fn encode(out: &mut Vec<u8>, args: &[&[u8]]) -> Result<(), Unsendable> {
    if !is_sendable(args.len(), payload_bytes(args)) {
        return Err(Unsendable);
    }
    push_count(out, args.len());
    push_words(out, args, payload_bytes(args));
    Ok(())
}

/// The bytes of these words together.
pub(super) fn payload_bytes(words: &[&[u8]]) -> usize {
    words.iter().fold(0, |sum, word| sum.saturating_add(word.len()))
}

/// Whether Redis accepts a command of this many words with this many bytes together.
pub(super) fn is_sendable(words: usize, bytes: usize) -> bool {
    (1..=COMMAND_WORDS_MAX).contains(&words) && bytes <= COMMAND_BYTES_MAX
}

/// The most bytes that this many words with this many bytes together take on the wire.
pub(super) fn encoded_bytes(words: usize, bytes: usize) -> usize {
    bytes.saturating_add((words + 1) * BULK_FRAMING_BYTES)
}

/// `$`, up to 9 digits (512 MiB), and two CRLFs.
const BULK_FRAMING_BYTES: usize = 1 + 9 + 2 + 2;

/// Appends the number of words of the command.
pub(super) fn push_count(out: &mut Vec<u8>, words: usize) {
    push_header(out, b'*', words as u64);
}

/// Appends the words of a command, after their number; `bytes` is their total length.
pub(super) fn push_words(out: &mut Vec<u8>, words: &[&[u8]], bytes: usize) {
    out.reserve(encoded_bytes(words.len(), bytes));
    for word in words {
        push_bulk(out, b'$', word);
    }
}

/// Appends one word as a bulk string.
pub(super) fn push_bulk(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    push_header(out, kind, payload.len() as u64);
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

/// Appends `reply` as a RESP3 server would send it: the other direction, for tests, fuzzing and
/// benchmarks, so it favours plainness over speed.
///
/// An error whose text holds CR or LF goes out as a bulk error. A simple string is written as it stands, even if a line cannot carry it. [`Reply::TooLarge`] becomes a bulk of
/// that many `x`.
pub fn encode_reply(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Simple(text) => push_line(out, b'+', text),
        Reply::Error(error) if error.message.iter().any(|byte| b"\r\n".contains(byte)) => {
            push_bulk(out, b'!', &error.message);
        }
        Reply::Error(error) => push_line(out, b'-', &error.message),
        Reply::Integer(number) => push_line(out, b':', number.to_string().as_bytes()),
        Reply::Bulk(payload) => push_bulk(out, b'$', payload),
        Reply::Null => push_line(out, b'_', b""),
        Reply::Array(items) => push_aggregate(out, b'*', items),
        Reply::TooLarge(length) => {
            let length = usize::try_from(*length).expect("BUG: a test payload larger than memory");
            push_bulk(out, b'$', &vec![b'x'; length]);
        }
    }
}

fn push_aggregate(out: &mut Vec<u8>, kind: u8, items: &[Reply]) {
    push_header(out, kind, items.len() as u64);
    for item in items {
        encode_reply(out, item);
    }
}

fn push_line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(args: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, args).unwrap();
        out
    }

    #[test]
    fn writes_commands_as_arrays_of_bulk_strings() {
        for (args, wire) in [
            (&[b"PING" as &[u8]] as &[&[u8]], b"*1\r\n$4\r\nPING\r\n" as &[u8]),
            (&[b"GET", b""], b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"),
            (&[b"SET", b"\r\n", b"\0\xff"], b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$2\r\n\0\xff\r\n"),
            (&[&[b'x'; 10]], b"*1\r\n$10\r\nxxxxxxxxxx\r\n"),
        ] {
            assert_eq!(encoded(args), wire);
        }
    }

    #[test]
    fn appends_and_reserves_once() {
        let mut out = b"before".to_vec();
        encode(&mut out, &[b"PING"]).unwrap();
        assert_eq!(out, b"before*1\r\n$4\r\nPING\r\n");

        let value = vec![b'v'; 100_000];
        let wire = encoded(&[b"SET", b"key", &value]);
        assert!(wire.capacity() < wire.len() + 4 * BULK_FRAMING_BYTES);
    }

    #[test]
    fn sends_1_to_64_words_of_up_to_512_mib_together() {
        // The same slice several times, so that the test needs no half gigabyte.
        let eighth = vec![0; COMMAND_BYTES_MAX / 8];
        let mut full = vec![&eighth[..]; 8];
        let word: &[u8] = b"w";
        let fits = |words: &[&[u8]]| is_sendable(words.len(), payload_bytes(words));
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

    /// Half a command, or one that is not answered, would shift every reply after it.
    #[test]
    fn of_a_command_that_redis_would_not_answer_nothing_is_written() {
        let word: &[u8] = b"w";
        for words in [vec![], vec![word; COMMAND_WORDS_MAX + 1]] {
            let mut out = b"before".to_vec();
            assert_eq!(encode(&mut out, &words), Err(Unsendable));
            assert_eq!(out, b"before");
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
}
