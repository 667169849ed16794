//! Where a request body ends (RFC 9112 §6–7), and how to take it out of its chunks.
//!
//! Content-Length beside Transfer-Encoding is refused: two readers could disagree about where the request stops, and
//! that disagreement is request smuggling. For the same reason a second length is refused even if both agree, and the
//! only accepted coding is a single `chunked`.
//!
//! ```text
//! 5;a=b␍␊     size in hexadecimal; extensions are checked, then dropped
//! hello␍␊     exactly that many bytes
//! 0␍␊         the last chunk
//! Md5: x␍␊    trailer fields: checked like headers, then dropped
//! ␍␊
//! ```
//!
//! Nothing is reserved for a declared size: memory grows with the bytes that arrive.

use super::ParseError;
use super::bytes::{TOKEN, VALUE, misplaced, run};
use super::field;

/// The most bytes of chunk extensions and trailers together in one body, the closing empty line included. No client we
/// know sends either; without a bound they are a body that no limit counts.
const OVERHEAD_BYTES_MAX: usize = 8 * 1024;

/// The default limit for the fields of a head.
const TRAILERS_MAX: usize = 100;

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// After this many bytes; 0 if the head says nothing (RFC 9112 §6.3).
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// Checks `Content-Length` and `Transfer-Encoding` together.
///
/// The length is not compared with any limit here, but one that no `u64` can hold is no syntax error, only too large:
/// 413.
pub(super) fn framing(
    is_http_1_0: bool,
    length: One<'_>,
    coding: One<'_>,
) -> Result<Framing, ParseError> {
    match (length, coding) {
        (One::None, One::None) => Ok(Framing::Length(0)),
        (One::Value(digits), One::None) if digits.iter().all(u8::is_ascii_digit) => {
            match decimal(digits) {
                Some(n) => Ok(Framing::Length(n)),
                None if digits.is_empty() => Err(ParseError::BadContentLength),
                // Only digits are left, so it is too large for a number.
                None => Err(ParseError::BodyTooLarge),
            }
        }
        (One::Value(_), One::None) => Err(ParseError::BadContentLength),
        (One::Several, One::None) => Err(ParseError::RepeatedContentLength),
        _ if is_http_1_0 => Err(ParseError::EncodingInHttp10),
        (One::Value(_) | One::Several, _) => Err(ParseError::LengthBesideEncoding),
        (One::None, One::Value(coding)) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        (One::None, _) => Err(ParseError::BadTransferEncoding),
    }
}

/// A field that may occur once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum One<'a> {
    /// The field is absent.
    None,
    /// The field's one value.
    Value(&'a [u8]),
    /// The field occurs more than once.
    Several,
}

/// A number of nothing but digits, if a `u64` can hold it.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let mut number = (!digits.is_empty()).then_some(0u64)?;
    for digit in digits {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    Some(number)
}

/// Joins the chunks of one body (RFC 9112 §7.1). Make a new one for each.
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    /// The size of the current chunk, then how much of it is still to come.
    chunk_left: u64,
    /// Body bytes in the chunks announced so far.
    body_bytes: u64,
    overhead_bytes: usize,
    trailers: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// After this many digits of a size.
    Size(u8),
    Extension(Extension),
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Trailers,
    Done,
}

/// The position of a size line in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (RFC 9112 §7.1.1).
#[derive(Debug, Clone, Copy)]
enum Extension {
    /// White space behind the size.
    AfterSize,
    /// Behind a semicolon.
    BeforeName,
    Name,
    /// White space behind a name.
    AfterName,
    /// Behind an equals sign.
    BeforeValue,
    Token,
    Quoted,
    /// Behind a backslash in quotes.
    QuotedPair,
    EndQuote,
    /// White space behind a value.
    AfterValue,
}

impl Default for State {
    fn default() -> State {
        State::Size(0)
    }
}

impl ChunkedDecoder {
    /// Takes what it can from `input`, the bytes not yet consumed, and appends body bytes to `out`.
    ///
    /// Gives the bytes consumed, and whether the body is finished; then any bytes left over belong to the next request.
    /// Before that they are an unfinished trailer line, to be passed again with the bytes that follow. A body of
    /// exactly `body_bytes_max` passes. A chunk that would take it further is 413 as soon as its size line is read,
    /// before any of its data.
    pub fn decode(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        body_bytes_max: usize,
    ) -> Result<(usize, bool), ParseError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Size(digits) => {
                    self.state = self.size_byte(digits, byte)?;
                    at += 1;
                }
                State::Extension(extension) => {
                    self.state = self.extension_byte(extension, byte)?;
                    at += 1;
                }
                State::SizeLineFeed if byte == b'\n' => {
                    self.state = self.announce(body_bytes_max as u64)?;
                    at += 1;
                }
                State::SizeLineFeed => return Err(ParseError::BareCr),
                State::Data => {
                    let rest = &input[at..];
                    let len =
                        rest.len().min(usize::try_from(self.chunk_left).unwrap_or(usize::MAX));
                    out.extend_from_slice(&rest[..len]);
                    self.chunk_left -= len as u64;
                    at += len;
                    if self.chunk_left == 0 {
                        self.state = State::DataReturn;
                    }
                }
                State::DataReturn if byte == b'\r' => {
                    self.state = State::DataLineFeed;
                    at += 1;
                }
                State::DataLineFeed if byte == b'\n' => {
                    self.state = State::Size(0);
                    at += 1;
                }
                State::DataReturn | State::DataLineFeed => return Err(ParseError::BadChunkEnd),
                State::Trailers => match self.trailer(&input[at..])? {
                    Some(len) => at += len,
                    None => break,
                },
                State::Done => break,
            }
        }
        Ok((at, matches!(self.state, State::Done)))
    }

    /// One byte of a size line. Sixteen digits fill a `u64` and cannot overflow it.
    fn size_byte(&mut self, digits: u8, byte: u8) -> Result<State, ParseError> {
        match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if digits < 16 => {
                self.chunk_left = self.chunk_left << 4 | u64::from(digit);
                Ok(State::Size(digits + 1))
            }
            (None, b'\r') if digits > 0 => Ok(State::SizeLineFeed),
            (None, b';' | b' ' | b'\t') if digits > 0 => {
                self.extension_byte(Extension::AfterSize, byte)
            }
            _ => Err(misplaced(byte, ParseError::BadChunkSize)),
        }
    }

    /// One byte of a chunk extension, or the one that ends them all.
    fn extension_byte(&mut self, before: Extension, byte: u8) -> Result<State, ParseError> {
        use Extension::*;
        let after = match (before, byte) {
            (Name | Token | EndQuote, b'\r') => return Ok(State::SizeLineFeed),
            (Quoted, b'"') => EndQuote,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if run(&[byte], VALUE) == 1 => Quoted,
            (BeforeName | Name, _) if run(&[byte], TOKEN) == 1 => Name,
            (BeforeValue | Token, _) if run(&[byte], TOKEN) == 1 => Token,
            (BeforeValue, b'"') => Quoted,
            (AfterSize | BeforeName | AfterName | BeforeValue | AfterValue, b' ' | b'\t') => before,
            (Name, b' ' | b'\t') => AfterName,
            (Token | EndQuote, b' ' | b'\t') => AfterValue,
            (Name | AfterName, b'=') => BeforeValue,
            (AfterSize | Name | AfterName | Token | EndQuote | AfterValue, b';') => BeforeName,
            (AfterSize, _) => return Err(misplaced(byte, ParseError::BadChunkSize)),
            _ => return Err(misplaced(byte, ParseError::BadChunkExtension)),
        };
        self.overhead_bytes += 1;
        if self.overhead_bytes > OVERHEAD_BYTES_MAX {
            return Err(ParseError::ChunkExtensionsTooLarge);
        }
        Ok(State::Extension(after))
    }

    /// Checks the size of the chunk that comes next. `body_bytes` is within the limit already, so the subtraction holds
    /// unless a caller lowers the limit midway.
    fn announce(&mut self, body_bytes_max: u64) -> Result<State, ParseError> {
        if self.chunk_left > body_bytes_max.saturating_sub(self.body_bytes) {
            return Err(ParseError::BodyTooLarge);
        }
        self.body_bytes += self.chunk_left;
        Ok(if self.chunk_left == 0 { State::Trailers } else { State::Data })
    }

    /// Takes one line of the trailers, never looking beyond the overhead allowed. `None` when it is incomplete: it
    /// stays in the input, to be checked again with the bytes that follow.
    fn trailer(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let window = &input[..input.len().min(OVERHEAD_BYTES_MAX - self.overhead_bytes)];
        let full = self.trailers == TRAILERS_MAX;
        let end = window.strip_prefix(field::LINE_END);
        let trailer = field::split(window).filter(|_| !full).map(|(_, _, behind)| behind);
        let behind = end.or(trailer);
        if let (None, Some(e)) = (behind, field::fault(window, full)) {
            return Err(e);
        }
        let len = window.len() - behind.map_or(0, <[u8]>::len);
        if self.overhead_bytes + len == OVERHEAD_BYTES_MAX && end.is_none() {
            return Err(ParseError::TrailersTooLarge);
        }
        if behind.is_none() {
            return Ok(None);
        }
        self.overhead_bytes += len;
        match end {
            Some(_) => self.state = State::Done,
            None => self.trailers += 1,
        }
        Ok(Some(len))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, Parsed, parse};
    use super::ParseError::*;
    use super::*;

    /// The framing of a complete head with these fields.
    fn framing_of(version: &str, fields: &[&str]) -> Result<Framing, ParseError> {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        match parse(head.as_bytes(), &HeadLimits::default())? {
            Parsed::Whole(index) => Ok(index.framing()),
            Parsed::More { .. } => panic!("{head}"),
        }
    }

    #[test]
    fn framing_is_one_length_or_one_chunked() {
        let longest = format!("Content-Length: {}", u64::MAX);
        let endless = format!("Content-Length: {}", "9".repeat(8000));
        let zeros = format!("Content-Length: {}7", "0".repeat(100));
        let table: &[(&[&str], Result<Framing, ParseError>)] = &[
            (&[], Ok(Framing::Length(0))),
            (&["Content-Length: 0"], Ok(Framing::Length(0))),
            (&["content-length: 007"], Ok(Framing::Length(7))),
            (&[&zeros], Ok(Framing::Length(7))),
            (&[&longest], Ok(Framing::Length(u64::MAX))),
            (&["Content-Length: 18446744073709551616"], Err(BodyTooLarge)),
            (&[&endless], Err(BodyTooLarge)),
            (&["Content-Length: "], Err(BadContentLength)),
            (&["Content-Length: +5"], Err(BadContentLength)),
            (&["Content-Length: -5"], Err(BadContentLength)),
            (&["Content-Length: 0x5"], Err(BadContentLength)),
            (&["Content-Length: 5 5"], Err(BadContentLength)),
            (&["Content-Length: 5, 5"], Err(BadContentLength)),
            (&["Content-Length: 5."], Err(BadContentLength)),
            (&["Content-Length: %C2%B2"], Err(BadContentLength)),
            (&["Content-Length: 5", "Content-Length: 5"], Err(RepeatedContentLength)),
            (&["Content-Length: 5", "content-length: 6"], Err(RepeatedContentLength)),
            (&["Transfer-Encoding: chunked"], Ok(Framing::Chunked)),
            (&["transfer-encoding: CHUNKED"], Ok(Framing::Chunked)),
            (&["Transfer-Encoding: "], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: identity"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: gzip, chunked"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked, chunked"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked,"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked;a"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked%A0"], Err(BadTransferEncoding)),
            (
                &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
                Err(BadTransferEncoding),
            ),
            (&["Content-Length: 5", "Transfer-Encoding: chunked"], Err(LengthBesideEncoding)),
            (&["Transfer-Encoding: x", "Content-Length: x"], Err(LengthBesideEncoding)),
        ];
        for (fields, wanted) in table {
            assert_eq!(framing_of("1.1", fields), *wanted, "{fields:?}");
        }
        let chunked = ["Transfer-Encoding: chunked"];
        assert_eq!(framing_of("1.0", &chunked), Err(EncodingInHttp10));
        assert_eq!(framing_of("1.2", &chunked), Ok(Framing::Chunked));
    }

    /// The joined body and the bytes it took; `None` if it is not finished.
    type Decoded = Result<Option<(Vec<u8>, usize)>, ParseError>;

    /// As a connection does it: bytes that were not taken are passed again, with those that arrived since.
    fn decode_in_pieces(input: &[u8], piece: usize, max: usize) -> Decoded {
        let mut decoder = ChunkedDecoder::default();
        let (mut out, mut at, mut end) = (Vec::new(), 0, 0);
        while end < input.len() {
            end = input.len().min(end + piece);
            let (taken, finished) = decoder.decode(&input[at..end], &mut out, max)?;
            at += taken;
            if finished {
                return Ok(Some((out, at)));
            }
            let is_in_trailers = matches!(decoder.state, State::Trailers);
            assert!(at == end || is_in_trailers, "only an unfinished trailer line is left");
        }
        Ok(None)
    }

    /// Decodes whole, in pieces of each small size and with trailing bytes; all must agree.
    fn decode(input: &[u8], max: usize) -> Decoded {
        let result = decode_in_pieces(input, input.len(), max);
        for piece in 1..8 {
            let pieces = decode_in_pieces(input, piece, max);
            assert_eq!(pieces, result, "{}", input.escape_ascii());
        }
        if result != Ok(None) {
            let trailing = [input, b"\nGET / HTTP/1.1\0"].concat();
            assert_eq!(decode_in_pieces(&trailing, trailing.len(), max), result);
        }
        result
    }

    #[test]
    fn joins_chunks_and_refuses_malformed_ones() {
        let body = |text: &str| Ok(Some(text.as_bytes().to_vec()));
        for (input, wanted) in [
            (&b"0\r\n\r\n"[..], body("")),
            (b"5\r\nhello\r\n0\r\n\r\n", body("hello")),
            (b"1\r\na\r\n0002\r\n\r\n\r\n000\r\n\r\n", body("a\r\n")),
            (b"A\r\n0123456789\r\n0\r\n\r\n", body("0123456789")),
            (b"a\r\n0123456789\r\n0\r\n\r\n", body("0123456789")),
            (b"0000000000000001\r\na\r\n0\r\n\r\n", body("a")),
            (b"1;x=\"y;\";z\r\na\r\n0;a\r\n\r\n", body("a")),
            (b"0\r\nMd5: x\r\nContent-Length: 9\r\n\r\n", body("")),
            (b"5\r\nhello\r\n0\r\n\r", Ok(None)),
            (b"5\r\nhell", Ok(None)),
            (b"", Ok(None)),
            (b"00000000000000001", Err(BadChunkSize)),
            (b"\r", Err(BadChunkSize)),
            (b";", Err(BadChunkSize)),
            (b" 5", Err(BadChunkSize)),
            (b"5 \r", Err(BadChunkSize)),
            (b"5\t\r", Err(BadChunkSize)),
            (b"5 5", Err(BadChunkSize)),
            (b"5 =", Err(BadChunkSize)),
            (b"5 \n", Err(BareLf)),
            (b"+5", Err(BadChunkSize)),
            (b"-5", Err(BadChunkSize)),
            (b"0x5", Err(BadChunkSize)),
            (b"5g", Err(BadChunkSize)),
            (b"5\n", Err(BareLf)),
            (b"5\r\r", Err(BareCr)),
            (b"5;a\n", Err(BareLf)),
            (b"5;a\0", Err(ControlByte)),
            (b"5;a\rb", Err(BareCr)),
            (b"5\0", Err(ControlByte)),
            (b"5\r\nhello!", Err(BadChunkEnd)),
            (b"5\r\nhello\n", Err(BadChunkEnd)),
            (b"5\r\nhello\r\r", Err(BadChunkEnd)),
            (b"1\r\na0", Err(BadChunkEnd)),
            (b"0\r\n a: b", Err(FoldedLine)),
            (b"0\r\na : b", Err(SpaceBeforeColon)),
            (b"0\r\n0\r", Err(BadFieldName)),
            (b"0\r\n\n", Err(BareLf)),
            (b"0\r\na: \0", Err(ControlByte)),
        ] {
            let result = decode(input, 100);
            if let Ok(Some((_, taken))) = &result {
                assert_eq!(*taken, input.len());
            }
            let out = result.map(|done| done.map(|(out, _)| out));
            assert_eq!(out, wanted, "{}", input.escape_ascii());
        }
    }

    /// The white space is bad (BWS), and RFC 9112 §7.1.1 requires it to be skipped: around `;` and `=`, nowhere else.
    #[test]
    fn extensions_are_those_of_the_rfc() {
        for extensions in [
            "",
            ";a",
            ";a=b",
            " ;a=b",
            "\t \t; \ta \t=\t b \t;c",
            ";a;b=c;d=\"e\" ;f",
            ";a=\"\"",
            ";a=\"b;c=d\t \u{e9}\"",
            ";a=\"\\\"\\\\\\ \\\u{e9}\"",
            ";!#$%&'*+-.^_`|~9=!#$%&'*+-.^_`|~9",
        ] {
            let input = format!("1{extensions}\r\na\r\n0{extensions}\r\n\r\n");
            let result = decode(input.as_bytes(), 9);
            assert_eq!(result, Ok(Some((b"a".to_vec(), input.len()))), "{input:?}");
        }
        for (extensions, error) in [
            (";\r", BadChunkExtension),
            ("; \r", BadChunkExtension),
            (";;", BadChunkExtension),
            (";=", BadChunkExtension),
            (";\"", BadChunkExtension),
            (";\u{e9}", BadChunkExtension),
            (";a \r", BadChunkExtension),
            (";a b", BadChunkExtension),
            (";a\"", BadChunkExtension),
            (";a=\r", BadChunkExtension),
            (";a= \r", BadChunkExtension),
            (";a==", BadChunkExtension),
            (";a=;", BadChunkExtension),
            (";a=b=", BadChunkExtension),
            (";a=b\"", BadChunkExtension),
            (";a=b \r", BadChunkExtension),
            (";a=b c", BadChunkExtension),
            (";a=\"b\r", BadChunkExtension),
            (";a=\"b\\\r", BadChunkExtension),
            (";a=\"b\"c", BadChunkExtension),
            (";a=\"b\"\"", BadChunkExtension),
            (";a=\"b\" \r", BadChunkExtension),
            (";a=\"b\n", BareLf),
            (";a=\"\0", ControlByte),
            (";a=\"\\\x7f", ControlByte),
            (";\n", BareLf),
        ] {
            let input = format!("1{extensions}");
            assert_eq!(decode(input.as_bytes(), 9), Err(error), "{input:?}");
            let before =
                &input.as_bytes()[..input.len() - extensions.chars().last().unwrap().len_utf8()];
            assert_eq!(decode(before, 9), Ok(None), "{input:?}");
        }
    }

    #[test]
    fn a_body_of_exactly_the_limit_passes() {
        let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(decode(input, 6).unwrap().unwrap().0, b"abcde");
        assert_eq!(decode(input, 5).unwrap().unwrap().0, b"abcde");
        assert_eq!(decode(input, 4), Err(BodyTooLarge));
        assert_eq!(decode(b"0\r\n\r\n", 0).unwrap().unwrap().0, b"");
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_its_data() {
        assert_eq!(decode(b"3\r\nabc\r\n3\r", 5), Ok(None));
        assert_eq!(decode(b"3\r\nabc\r\n3\r\n", 5), Err(BodyTooLarge));
        assert_eq!(decode(b"1\r\na\r\nffffffffffffffff\r\n", 5), Err(BodyTooLarge));
        assert_eq!(decode(b"ffffffffffffffff\r\n", usize::MAX), Ok(None));
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let body = |len: usize| format!("1;{0}\r\na\r\n1;{0}\r\nb\r\n1\r\n", "x".repeat(len));
        assert_eq!(decode(body(4095).as_bytes(), 9), Ok(None));
        assert_eq!(decode(body(4096).as_bytes(), 9), Err(ChunkExtensionsTooLarge));
        let spaces = |len: usize| format!("1{};x\r\na\r\n", " ".repeat(len));
        assert_eq!(decode(spaces(8190).as_bytes(), 9), Ok(None));
        assert_eq!(decode(spaces(8191).as_bytes(), 9), Err(ChunkExtensionsTooLarge));
    }

    #[test]
    fn trailers_are_bounded_in_bytes_and_number() {
        // "a:", the value, two line ends: 6 bytes beside the value.
        let bytes = |len: usize| format!("0\r\na:{}\r\n\r\n", "x".repeat(len));
        for (len, passes) in [(8185, true), (8186, true), (8187, false)] {
            let result = decode(bytes(len).as_bytes(), 9);
            assert_eq!(result.is_ok(), passes, "{len}");
            assert!(passes || result == Err(TrailersTooLarge));
        }
        let number = |n: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(n));
        for (n, passes) in [(99, true), (100, true), (101, false)] {
            let result = decode(number(n).as_bytes(), 9);
            assert_eq!(result.is_ok(), passes, "{n}");
            assert!(passes || result == Err(TooManyHeaders));
        }
    }

    #[test]
    fn extensions_leave_less_for_trailers() {
        let body = |len: usize| format!("0;{}\r\na: b\r\n\r\n", "x".repeat(len));
        // The semicolon is one byte, the trailer and the empty line eight.
        assert!(matches!(decode(body(8192 - 9).as_bytes(), 9), Ok(Some(_))));
        assert_eq!(decode(body(8192 - 8).as_bytes(), 9), Err(TrailersTooLarge));
        assert_eq!(decode(body(8192 - 1).as_bytes(), 9), Err(TrailersTooLarge));
    }

    #[test]
    fn a_finished_decoder_takes_nothing_more() {
        let mut decoder = ChunkedDecoder::default();
        let mut out = Vec::new();
        assert_eq!(decoder.decode(b"0\r\n\r\n5\r\n", &mut out, 9), Ok((5, true)));
        assert_eq!(decoder.decode(b"5\r\n", &mut out, 9), Ok((0, true)));
    }
}
