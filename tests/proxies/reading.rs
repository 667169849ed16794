//! A third reader of HTTP/1.1, small and strict, for what passes on the wire between a proxy and its server.
//!
//! It knows nothing of our parser. What it calls whole is whole for anybody who reads RFC 9112 §6–7 to the letter; what
//! readers could take differently it calls odd, and asks nothing of it but that nobody acts on it and goes on.

/// What the bytes of one request amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// More has to come.
    Part,
    /// It ends after so many bytes.
    Whole(usize),
    /// No end that all readers agree on, and why.
    Odd(&'static str),
}

/// Reads one request from its first byte.
pub fn request(bytes: &[u8]) -> Request {
    let Some(head) = find(bytes, b"\r\n\r\n") else {
        return Request::Part;
    };
    let mut lines = split_lines(&bytes[..head]);
    let line = lines.next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [_, _, b"HTTP/1.1" | b"HTTP/1.0"] = words[..] else {
        return Request::Odd("the request line");
    };
    let (mut length, mut chunked) = (None, false);
    for line in std::iter::once(line).chain(lines.clone()) {
        if line.iter().any(|b| b"\r\n\0".contains(b)) {
            return Request::Odd("a line end that is none, or NUL");
        }
    }
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return Request::Odd("a line without a colon");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|b| !b.is_ascii_graphic()) {
            return Request::Odd("a field name");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match number {
                Some(n) if length.is_none() && value.iter().all(u8::is_ascii_digit) => {
                    length = Some(n);
                }
                _ => return Request::Odd("Content-Length"),
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") || words[2] == b"HTTP/1.0" {
                return Request::Odd("Transfer-Encoding");
            }
            chunked = true;
        }
    }
    let body = head + 4;
    match (length, chunked) {
        (Some(_), true) => Request::Odd("two framings"),
        (None, true) => chunks(bytes, body),
        (length, false) => {
            // A length that no memory holds never ends.
            let end = body.saturating_add(length.unwrap_or(0));
            if bytes.len() < end { Request::Part } else { Request::Whole(end) }
        }
    }
}

fn chunks(bytes: &[u8], mut at: usize) -> Request {
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n").map(|n| &bytes[at..at + n]) else {
            return Request::Part;
        };
        let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(size).ok().filter(|text| !text.starts_with('+'));
        let Some(size) = size.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
            return Request::Odd("a chunk size");
        };
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let end = at.saturating_add(size);
        match bytes.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => at = end + 2,
            [] | [b'\r'] => return Request::Part,
            _ => return Request::Odd("the end of a chunk"),
        }
    }
    loop {
        match find(&bytes[at..], b"\r\n") {
            None => return Request::Part,
            Some(0) => return Request::Whole(at + 2),
            Some(n) => at += n + 2,
        }
    }
}

/// An answer as the server framed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Its `X-Request-Id`.
    pub id: String,
    /// Whether it says that it is the last.
    pub closes: bool,
    /// How many bytes it has.
    pub len: usize,
}

/// Reads one answer, to a HEAD or not; `None` until it is whole.
pub fn answer(bytes: &[u8], to_head: bool) -> Option<Result<Answer, &'static str>> {
    let head = find(bytes, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let Some(status) = status.and_then(|line| line.get(..3)?.parse().ok()) else {
        return Some(Err("no status line"));
    };
    let (mut id, mut closes, mut length) = (String::new(), false, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "x-request-id" => value.trim().clone_into(&mut id),
            "connection" => closes = value.trim().eq_ignore_ascii_case("close"),
            "content-length" => length = value.trim().parse::<usize>().ok(),
            _ => {}
        }
    }
    let body = match length {
        _ if to_head || status < 200 || status == 204 || status == 304 => 0,
        Some(n) => n,
        None => return Some(Err("no length")),
    };
    let len = head + 4 + body;
    (bytes.len() >= len).then_some(Ok(Answer { status, id, closes, len }))
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = find(bytes, b"\r\n");
        rest = end.map(|end| &bytes[end + 2..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

#[test]
fn tells_whole_requests_from_parts_and_odd_ones() {
    use Request::{Odd, Part, Whole};
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (rest, wanted) in [
        ("", Part),
        ("\r\n", Whole(0)),
        ("Content-Length: 5\r\n\r\n1234", Part),
        ("Content-Length: 5\r\n\r\n123456", Whole(1)),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n", Part),
        ("Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n12345\r\n0\r\nA: b\r\n\r\nX", Whole(1)),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n123456\r\n0\r\n\r\n", Odd("the end of a chunk")),
        ("Transfer-Encoding: chunked\r\n\r\n+5\r\n12345\r\n0\r\n\r\n", Odd("a chunk size")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Odd("two framings")),
        ("Content-Length: 5\r\nContent-Length: 5\r\n\r\n", Odd("Content-Length")),
        ("A: b\nC: d\r\n\r\n", Odd("a line end that is none, or NUL")),
        ("A : b\r\n\r\n", Odd("a field name")),
    ] {
        let bytes = format!("{head}{rest}");
        let wanted = match wanted {
            Whole(left) => Whole(bytes.len() - left),
            other => other,
        };
        assert_eq!(request(bytes.as_bytes()), wanted, "{rest:?}");
    }
}
