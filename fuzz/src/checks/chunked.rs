//! `ChunkedDecoder` on any bytes.
//!
//! - Body, length and error are the same in every cut; an unfinished body takes all there is, but for a line of
//!   the trailers that has not ended.
//! - A body is within the limit, and so is all that came before an error.
//! - What it accepts, a naive reader that splits at CRLF understands in the same way.

use super::all_cuts;
use kioskd::http::{ChunkedDecoder, ParseError};

/// What decoding came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    body: Vec<u8>,
    /// The bytes taken if the body is finished, `None` if it wants more.
    end: Result<Option<usize>, ParseError>,
}

/// Panics if a claim does not hold for `input`.
pub fn check(input: &[u8]) {
    for body_bytes_max in [1024 * 1024, 20, 0] {
        check_within(input, body_bytes_max);
    }
}

fn check_within(input: &[u8], body_bytes_max: usize) {
    let whole = read(input, &[input.len()], body_bytes_max);
    for ends in all_cuts(input.len(), input.len() as u64) {
        let cut = read(input, &ends, body_bytes_max);
        assert_eq!(cut, whole, "{}", input.escape_ascii());
    }
    assert!(whole.body.len() <= body_bytes_max.min(input.len()), "{}", input.escape_ascii());
    if let Ok(Some(taken)) = whole.end {
        let naive = read_naively(&input[..taken]);
        assert_eq!(naive, Some(whole.body), "{}", input.escape_ascii());
    }
}

fn read(input: &[u8], ends: &[usize], body_bytes_max: usize) -> Outcome {
    let mut decoder = ChunkedDecoder::default();
    let mut body = Vec::new();
    let mut at = 0;
    for &end in ends {
        let taken = match decoder.decode(&input[at..end], &mut body, body_bytes_max) {
            Ok((taken, false)) => taken,
            Ok((taken, true)) => {
                assert_eq!(
                    decoder.decode(&input[at + taken..], &mut body, body_bytes_max),
                    Ok((0, true)),
                    "a finished decoder takes nothing more"
                );
                let end = Ok(Some(at + taken));
                return Outcome { body, end };
            }
            Err(error) => {
                let end = Err(error);
                return Outcome { body, end };
            }
        };
        at += taken;
        let left = &input[at..end];
        // Its number of bytes is bounded with the trailers', and no line of them ends in it.
        assert!(left.len() < 8 * 1024 && !left.contains(&b'\n'), "{}", input.escape_ascii());
    }
    Outcome { body, end: Ok(None) }
}

/// The body, if `input` is exactly one; it looks for line ends and believes everything else.
fn read_naively(input: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let mut rest = input;
    loop {
        let line = take_line(&mut rest)?;
        let size = line.split(|&byte| byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?.trim_ascii(), 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    while !take_line(&mut rest)?.is_empty() {}
    rest.is_empty().then_some(body)
}

fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}
