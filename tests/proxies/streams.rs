//! Streams of requests that two readers might take apart differently, each made from one number.
//!
//! ```text
//! PUT /items/s2a-0 HTTP/1.1␍␊            a good request, in which up to three things are wrong:
//! Host: kiosk␍␊                          where its body ends, how a line is written, what a field says
//! Transfer-Encoding: chunked␍␊
//! Content-Length: 4␍␊
//! ␍␊
//! 0␍␊␍␊GET /items/s2a-0-hidden HTTP/1.1…  its body may be another request
//! GET /items/s2a-1 HTTP/1.1␍␊            the next one
//! …
//! GET /items/s2a-end HTTP/1.1␍␊          the last one is good, and asks for the end of the connection
//! ```
//!
//! Every request names the stream and its own place in it, so whatever turns up where it should not tells where it is
//! from. The [mistakes](super::mistakes) are known ones; then bytes are changed at random.

use super::mistakes::{body, field, line, spoil_field};
use super::random::Random;

/// What one client does on one connection.
pub struct Stream {
    pub seed: u64,
    /// Each is written by itself.
    pub pieces: Vec<Piece>,
    /// The client goes away without waiting for an answer.
    pub leaves: bool,
    /// Which of a proxy's doors.
    pub door: usize,
}

#[derive(Debug, PartialEq)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Time enough for the proxy to have read what came before, and perhaps to have passed it on.
    Pause,
}

impl Stream {
    /// The stream that this number names.
    pub fn of(seed: u64) -> Stream {
        let mut random = Random::new(seed);
        let mut bytes = Vec::new();
        let count = 1 + random.below(4);
        // What comes behind a request that is refused is not read any more, so most are good.
        let bad = random.below(count + 1);
        for n in 0..count {
            let is_bad = n == bad || random.below(8) == 0;
            let mut request = request(&mut random, &format!("s{seed:x}-{n}"), is_bad);
            if is_bad && random.below(6) == 0 {
                damage(&mut request, &mut random);
            }
            bytes.extend_from_slice(&request);
        }
        let end = "Host: kiosk\r\nConnection: close\r\n\r\n";
        bytes.extend_from_slice(format!("GET /items/s{seed:x}-end HTTP/1.1\r\n{end}").as_bytes());
        let leaves = random.below(30) == 0;
        if leaves || random.below(40) == 0 {
            bytes.truncate(1 + random.below(bytes.len()));
        }
        Stream { seed, pieces: cut(bytes, &mut random), leaves, door: random.below(2) }
    }

    /// All of its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let bytes = self.pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => &bytes[..],
            Piece::Pause => b"",
        });
        bytes.collect::<Vec<_>>().concat()
    }
}

/// Mostly whole; else in a few pieces anywhere, or a stretch of it byte by byte.
fn cut(bytes: Vec<u8>, random: &mut Random) -> Vec<Piece> {
    let mut ends: Vec<usize> = match random.below(4) {
        0 => (0..1 + random.below(5)).map(|_| random.below(bytes.len())).collect(),
        1 => {
            let from = random.below(bytes.len());
            (from..(from + 40).min(bytes.len())).collect()
        }
        _ => Vec::new(),
    };
    ends.sort_unstable();
    ends.push(bytes.len());
    let pauses = random.below(3) == 0;
    let (mut pieces, mut from) = (Vec::new(), 0);
    for end in ends {
        if end > from {
            if from > 0 && pauses && random.below(4) == 0 {
                pieces.push(Piece::Pause);
            }
            pieces.push(Piece::Bytes(bytes[from..end].to_vec()));
            from = end;
        }
    }
    pieces
}

/// A request in parts that can be spoiled one by one.
pub struct Draft {
    pub line: Vec<u8>,
    /// Without their line ends.
    pub fields: Vec<Vec<u8>>,
    pub body: Vec<u8>,
}

fn request(random: &mut Random, name: &str, is_bad: bool) -> Vec<u8> {
    let has_body = random.below(5) > 1;
    let method = match has_body {
        true => random.pick(&["PUT", "POST", "PUT", "PATCH", "GET", "DELETE", "HEAD", "OPTIONS"]),
        false => random.pick(&["GET", "GET", "HEAD", "DELETE", "OPTIONS"]),
    };
    let target = match method {
        "POST" => format!("/items?id={name}"),
        _ => format!("/items/{name}"),
    };
    let mut draft = Draft {
        line: format!("{method} {target} HTTP/1.1").into_bytes(),
        fields: vec![b"Host: kiosk".to_vec()],
        body: Vec::new(),
    };
    if has_body {
        draft.fields.push(b"Content-Type: application/json".to_vec());
        body(&mut draft, random, name, is_bad);
    }
    if !is_bad {
        return write(draft, random, false);
    }
    for _ in 0..random.pick(&[0, 1, 1, 2]) {
        match random.below(5) {
            0 => draft.line = line(random, method, name),
            1 => spoil_field(&mut draft.fields, random),
            _ => {
                let at = random.below(draft.fields.len() + 1);
                draft.fields.insert(at, field(random));
            }
        }
    }
    let odd_ends = random.below(12) == 0;
    write(draft, random, odd_ends)
}

fn write(draft: Draft, random: &mut Random, odd_ends: bool) -> Vec<u8> {
    let mut end = || match odd_ends && random.below(3) == 0 {
        true => random.pick(&["\n", "\r", "\r\r\n", "\n\r", "\0\r\n", " \r\n", "\r\n \r\n"]),
        false => "\r\n",
    };
    let mut out = draft.line;
    out.extend_from_slice(end().as_bytes());
    for field in draft.fields {
        out.extend_from_slice(&field);
        out.extend_from_slice(end().as_bytes());
    }
    out.extend_from_slice(end().as_bytes());
    out.extend_from_slice(&draft.body);
    out
}

/// Changes a few bytes, those that matter more often than others.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const TELLING: &[u8] = b"\r\n\r\n \t:/,;@#%[]*.0129aH\0\x7f\x80\xff";
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        let byte = random.pick(TELLING);
        match random.below(5) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            3 => {
                let end = (at + 1 + random.below(60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let end = (at + 1 + random.below(20)).min(bytes.len());
                if end - at < bytes.len() {
                    bytes.drain(at..end);
                }
            }
        }
    }
}

#[test]
fn a_seed_names_one_stream() {
    for seed in [0, 1, u64::from(u32::MAX)] {
        let stream = Stream::of(seed);
        assert_eq!(stream.pieces, Stream::of(seed).pieces);
        assert!(stream.bytes() != Stream::of(seed + 1).bytes());
    }
}
