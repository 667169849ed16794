//! Replies as values: one [`Reply`] per command, and the [`Frame`]s of a connection.
//!
//! Payloads are bytes. Nothing here or in the codec checks for UTF-8: the content of a key is up to the application
//! that stored it.
//!
//! RESP2 and RESP3 share these types. A map is a flat array, as in RESP2, and a missing value, `$-1` or `*-1` there, is
//! [`Reply::Null`].

use std::fmt;

/// How much of an error's text is kept. Redis writes at most a line or two; a Lua script can make it as long as it
/// likes. A MOVED to the longest name there may be, of 255 bytes, has 274.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 320;

/// The longest error code. Redis's own longest, `UNKILLABLE`, is 10.
const ERROR_CODE_BYTES_MAX: usize = 32;

/// One complete frame of a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The reply to the oldest command still unanswered.
    Reply(Reply),
    /// A push (RESP3 `>`): it answers no command. The first element names its kind.
    Push(Vec<Reply>),
}

/// The reply to one command, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `+OK`
    Ok,
    /// Another status, and any other type that is a text in a line. Only the first 320 bytes are kept; no status we ask
    /// for comes near.
    Simple(Vec<u8>),
    /// `-ERR …` or its bulk form `!`. Inside an aggregate it is a value like any other: a failed
    /// command of a transaction does not fail its neighbours.
    Error(ErrorReply),
    /// `:42`
    Integer(i64),
    /// `$5`, five bytes. Any bytes.
    Bulk(Vec<u8>),
    /// `_`, `$-1` or `*-1`: there is no such value.
    Null,
    /// `*2`, two replies; a set; or a map, keys and values in turn.
    Array(Vec<Reply>),
    /// A bulk string over [`Limits::value_bytes_max`](super::codec::Limits): its length. The bytes were
    /// read and dropped, so the connection is still in step.
    TooLarge(u64),
}

impl Reply {
    /// The elements of an array.
    pub fn array(&self) -> Option<&[Reply]> {
        match self {
            Reply::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// A string, if it is text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Bulk(bytes) | Reply::Simple(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The text of a field of a map.
    pub fn field(&self, name: &[u8]) -> Option<&str> {
        let is_name = |r: &Reply| matches!(r, Reply::Bulk(b) | Reply::Simple(b) if b == name);
        let mut pairs = self.array()?.chunks_exact(2);
        pairs.find(|pair| is_name(&pair[0]))?[1].text()
    }
}

/// The reply to one command as a connection hands it on: a plain one borrows the bytes that were read.
#[derive(Debug, PartialEq)]
pub enum Received<'a> {
    /// A bulk string.
    Bulk(&'a [u8]),
    /// Anything else. (A bulk string may come so, too.)
    Other(Reply),
}

impl Received<'_> {
    /// A reply that owns its bytes.
    pub fn into_reply(self) -> Reply {
        match self {
            Received::Bulk(bytes) => Reply::Bulk(bytes.to_vec()),
            Received::Other(reply) => reply,
        }
    }
}

/// Redis's refusal of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// The first word if it looks like a code (1–32 of `A-Z`, `0-9`, `_`), otherwise `ERR`.
    pub code: String,
    /// The text as sent, code included, cut to 320 bytes. It may contain control bytes and whatever a script was given:
    /// escape it (as `Display` does) before it goes into a log or a header.
    pub message: Vec<u8>,
}

impl ErrorReply {
    /// Parses the text of an error: the text between `-` and CRLF, or of a bulk error.
    pub fn parse(text: &[u8]) -> Self {
        let word = text.split(|&byte| byte == b' ').next().unwrap_or_default();
        let is_code = (1..=ERROR_CODE_BYTES_MAX).contains(&word.len())
            && word.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
        let code = if is_code { word } else { b"ERR" };
        ErrorReply {
            code: code.iter().copied().map(char::from).collect(),
            message: text[..text.len().min(ERROR_MESSAGE_BYTES_MAX)].to_vec(),
        }
    }

    /// The message after its code: `3999 10.0.0.7:6379` of `MOVED 3999 10.0.0.7:6379`. The whole
    /// message if it had no code, nothing if it was only a code.
    pub fn detail(&self) -> &[u8] {
        match self.message.strip_prefix(self.code.as_bytes()) {
            Some([b' ', detail @ ..]) => detail,
            Some([]) => &[],
            _ => &self.message,
        }
    }
}

impl fmt::Display for ErrorReply {
    /// The message with everything but printable ASCII escaped, and without what it quotes of our
    /// command, which may be a session's id or a document: fit for a line of a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = QUOTES.iter().filter_map(|quote| {
            let at = self.message.windows(quote.len()).position(|w| w == *quote)?;
            Some(at + quote.len())
        });
        let end = end.min().unwrap_or(self.message.len());
        for byte in &self.message[..end] {
            match byte {
                b'\'' | b'"' => write!(f, "{}", char::from(*byte))?,
                byte => byte.escape_ascii().fmt(f)?,
            }
        }
        f.write_str(if end < self.message.len() { "…" } else { "" })
    }
}

/// After these words an error quotes our command: the texts that Redis uses for an unknown command, and the prefixes of
/// our keys, in case another server or proxy quotes them.
const QUOTES: [&[u8]; 5] = [b"with args beginning with:", b"item:", b"sess:", b"idem:", b"rate:"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_code_is_the_first_word_if_it_looks_like_one() {
        let long = "A".repeat(32);
        let too_long = "A".repeat(33);
        for (text, code, detail) in [
            ("MOVED 1 h:2", "MOVED", "1 h:2"),
            ("ERR", "ERR", ""),
            ("ERR ", "ERR", ""),
            ("ERR max number", "ERR", "max number"),
            ("E_2 x", "E_2", "x"),
            ("Err lower", "ERR", "Err lower"),
            (" leading", "ERR", " leading"),
            ("ERRÖR x", "ERR", "ERRÖR x"),
            ("WRONG: x", "ERR", "WRONG: x"),
            ("", "ERR", ""),
            (&long, &long, ""),
            (&too_long, "ERR", &too_long),
        ] {
            let error = ErrorReply::parse(text.as_bytes());
            assert_eq!(error.code, code, "{text:?}");
            assert_eq!(error.detail(), detail.as_bytes(), "{text:?}");
            assert_eq!(error.message, text.as_bytes());
        }
    }

    #[test]
    fn error_message_is_cut_at_320_bytes() {
        for (sent, kept) in [(319, 319), (320, 320), (321, 320)] {
            assert_eq!(ErrorReply::parse(&vec![b'x'; sent]).message.len(), kept);
        }
    }

    #[test]
    fn displays_control_bytes_escaped() {
        let error = ErrorReply::parse(b"ERR \x1b[2J\r\nset-cookie: \xff");
        assert_eq!(error.to_string(), r"ERR \x1b[2J\r\nset-cookie: \xff");
    }

    #[test]
    fn displays_nothing_that_is_quoted_of_our_command() {
        for (text, shown) in [
            (
                "ERR unknown command 'GETEX', with args beginning with: 'sess:SECRET' 'EX' ",
                "ERR unknown command 'GETEX', with args beginning with:…",
            ),
            ("ERR no shard for `a:sess:SECRET`", "ERR no shard for `a:sess:…"),
            ("ERR idem:{sess:SECRET}", "ERR idem:…"),
            ("ERR no sess:", "ERR no sess:"),
        ] {
            assert_eq!(ErrorReply::parse(text.as_bytes()).to_string(), shown);
        }
    }
}
