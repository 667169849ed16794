//! Where a request body ends (RFC 9112 §6).
//!
//! Content-Length beside Transfer-Encoding is refused: two readers could disagree about where the
//! request stops, and that disagreement is request smuggling. For the same reason a length is
//! refused twice even if both agree, and no coding but a single `chunked` is known.

use super::{HTTPVersion, Header, ParseError};

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// After this many bytes; 0 if the head says nothing (RFC 9112 §6.3).
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// Judges `Content-Length` and `Transfer-Encoding` together.
///
/// The length is not held against any limit here, but one that no `u64` can hold is no syntax
/// error, only too large: 413.
pub fn framing(version: &HTTPVersion, headers: &[Header]) -> Result<Framing, ParseError> {
    let (mut lengths, mut codings) = (0, 0);
    let (mut length, mut coding) = ("", "");
    for header in headers {
        if header.field.equiv("Content-Length") {
            lengths += 1;
            length = header.value.as_str();
        } else if header.field.equiv("Transfer-Encoding") {
            codings += 1;
            coding = header.value.as_str();
        }
    }
    match (lengths, codings) {
        (0, 0) => Ok(Framing::Length(0)),
        (1, 0) => parse_length(length),
        (_, 0) => Err(ParseError::RepeatedContentLength),
        _ if *version < (1, 1) => Err(ParseError::EncodingInHttp10),
        (0, 1) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (0, _) => Err(ParseError::BadTransferEncoding),
        _ => Err(ParseError::LengthBesideEncoding),
    }
}

/// `1*DIGIT`. With only digits left, `u64::from_str` can fail for one reason: overflow.
fn parse_length(digits: &str) -> Result<Framing, ParseError> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::BadContentLength);
    }
    let length = digits.parse().map_err(|_| ParseError::BodyTooLarge)?;
    Ok(Framing::Length(length))
}

#[cfg(test)]
mod tests {
    use super::ParseError::*;
    use super::*;

    fn headers(fields: &[&str]) -> Vec<Header> {
        fields.iter().map(|field| field.parse().unwrap()).collect()
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
            (
                &["Content-Length: 5", "Content-Length: 5"],
                Err(RepeatedContentLength),
            ),
            (
                &["Content-Length: 5", "content-length: 6"],
                Err(RepeatedContentLength),
            ),
            (&["Transfer-Encoding: chunked"], Ok(Framing::Chunked)),
            (&["transfer-encoding: CHUNKED"], Ok(Framing::Chunked)),
            (&["Transfer-Encoding: "], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: identity"], Err(BadTransferEncoding)),
            (
                &["Transfer-Encoding: gzip, chunked"],
                Err(BadTransferEncoding),
            ),
            (
                &["Transfer-Encoding: chunked, chunked"],
                Err(BadTransferEncoding),
            ),
            (&["Transfer-Encoding: chunked,"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked;a"], Err(BadTransferEncoding)),
            (&["Transfer-Encoding: chunked%A0"], Err(BadTransferEncoding)),
            (
                &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
                Err(BadTransferEncoding),
            ),
            (
                &["Content-Length: 5", "Transfer-Encoding: chunked"],
                Err(LengthBesideEncoding),
            ),
            (
                &["Transfer-Encoding: x", "Content-Length: x"],
                Err(LengthBesideEncoding),
            ),
        ];
        for (fields, wanted) in table {
            assert_eq!(
                framing(&HTTPVersion(1, 1), &headers(fields)),
                *wanted,
                "{fields:?}"
            );
        }
        let chunked = headers(&["Transfer-Encoding: chunked"]);
        assert_eq!(framing(&HTTPVersion(1, 0), &chunked), Err(EncodingInHttp10));
        assert_eq!(framing(&HTTPVersion(1, 2), &chunked), Ok(Framing::Chunked));
    }
}
