//! Any split of the bytes gives the same requests, over a whole connection.
//!
//! The tables beside `head` and `body` cut single messages. Here several stand behind one another,
//! with the last one broken, and are read twice: by the parsers put together as the front does it,
//! where the requests can be looked at, and by the front itself over a socket, where the responses
//! can.

#[cfg(feature = "poll")]
use crate::checks::connection::check_sent;
#[cfg(feature = "poll")]
use crate::checks::front::Front;
use crate::checks::random::Random;
use kioskd::http::{ChunkedDecoder, Framing, Head, HeadLimits, ParseError, Parsed, parse};

/// What became of a connection's bytes.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    requests: Vec<Request>,
    error: Option<ParseError>,
    /// Another request has begun and is not whole.
    begun: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Request {
    method: String,
    target: String,
    headers: usize,
    body: Vec<u8>,
}

#[test]
fn requests_are_those_that_were_sent_however_they_are_cut() {
    let mut random = Random::new(1);
    for _ in 0..2_000 {
        let Pipeline { wire, wanted } = pipeline(&mut random);
        for ends in cuts(wire.len(), &mut random) {
            assert_eq!(read(&wire, &ends), wanted, "{}", wire.escape_ascii());
        }
    }
}

#[test]
fn damaged_requests_are_the_same_however_they_are_cut() {
    let mut random = Random::new(2);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..3_000 {
        let Pipeline { mut wire, .. } = pipeline(&mut random);
        damage(&mut wire, &mut random);
        let reading = read(&wire, &[wire.len()]);
        for ends in cuts(wire.len(), &mut random) {
            assert_eq!(read(&wire, &ends), reading, "{}", wire.escape_ascii());
        }
        whole += reading.requests.len();
        broken += usize::from(reading.error.is_some());
    }
    assert!(whole > 3_000 && broken > 1_000, "{whole} whole, {broken} broken");
}

// The front answers from a store that may take its time, and may have more of the client's bytes
// by then than it can use: that is in the plan as well as the cuts.
#[test]
#[cfg(feature = "poll")]
fn the_front_answers_the_same_requests_however_they_are_cut() {
    let front = Front::start();
    let mut random = Random::new(3);
    for round in 0..600 {
        let Pipeline { mut wire, .. } = pipeline(&mut random);
        if round % 2 == 1 {
            damage(&mut wire, &mut random);
        }
        for _ in 0..4 {
            check_sent(&front, &wire, random.below(256) as u8);
        }
    }
}

// Found by the fuzz target `connection`: empty lines that came alone used to be dropped with their
// count, so that five before a request were refused in one piece and forgiven in two, and half of
// one began a request, so that `\r`, `\n` and the end of the stream made a 400 where `\r\n` did not.
#[test]
#[cfg(feature = "poll")]
fn empty_lines_count_however_they_are_cut() {
    const GET: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    const WHOLE: u8 = 0;
    const BYTE_BY_BYTE: u8 = 1 << 3;
    let front = Front::start();
    for plan in [WHOLE, BYTE_BY_BYTE] {
        for wire in [
            format!("{}{GET}", "\r\n".repeat(4)),
            format!("{}{GET}", "\r\n".repeat(5)),
            format!("{GET}{}{GET}", "\r\n".repeat(5)),
            format!("{GET}\r\n"),
            format!("{GET}\r"),
            "\r".to_owned(),
        ] {
            check_sent(&front, wire.as_bytes(), plan);
        }
    }
}

/// Puts the parsers together as the front does: bytes that were taken are gone.
fn read(wire: &[u8], ends: &[usize]) -> Reading {
    let mut reader = Reader::default();
    let mut at = 0;
    for &end in ends {
        reader.input.extend_from_slice(&wire[at..end]);
        at = end;
        if let Err(error) = reader.advance() {
            (reader.reading.error, reader.reading.begun) = (Some(error), false);
            // What is behind a broken message is nobody's.
            return reader.reading;
        }
    }
    reader.reading.begun |= reader.open.is_some();
    reader.reading
}

#[derive(Default)]
struct Reader {
    input: Vec<u8>,
    /// A request whose head is there, with as much as there is of its body.
    open: Option<(Request, Framing, ChunkedDecoder)>,
    reading: Reading,
}

impl Reader {
    fn advance(&mut self) -> Result<(), ParseError> {
        loop {
            let Some((request, framing, decoder)) = &mut self.open else {
                let index = match parse(&self.input, &HeadLimits::default())? {
                    Parsed::Whole(index) => index,
                    Parsed::More { begun } => {
                        self.reading.begun = begun;
                        return Ok(());
                    }
                };
                self.reading.begun = false;
                let head = Head::new(&index, &self.input);
                let request = Request {
                    method: text(head.method_text()),
                    target: text(head.target_text()),
                    headers: head.fields().count(),
                    body: Vec::new(),
                };
                self.open = Some((request, index.framing(), ChunkedDecoder::default()));
                self.input.drain(..index.len());
                continue;
            };
            let body = &mut request.body;
            let whole = match *framing {
                Framing::Length(length) => {
                    let missing = length as usize - body.len();
                    let taken = missing.min(self.input.len());
                    body.extend(self.input.drain(..taken));
                    taken == missing
                }
                Framing::Chunked => {
                    let (taken, whole) = decoder.decode(&self.input, body, BODY_BYTES_MAX)?;
                    self.input.drain(..taken);
                    whole
                }
            };
            if !whole {
                return Ok(());
            }
            self.reading.requests.extend(self.open.take().map(|(request, ..)| request));
        }
    }
}

fn text(ascii: &[u8]) -> String {
    String::from_utf8_lossy(ascii).into_owned()
}

const BODY_BYTES_MAX: usize = 1000;

struct Pipeline {
    wire: Vec<u8>,
    wanted: Reading,
}

/// Up to five good requests of every kind, and sometimes a bad one with a good one behind it.
fn pipeline(random: &mut Random) -> Pipeline {
    const BAD: &[(&str, ParseError)] = &[
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", ParseError::BareLf),
        ("GET / HTTP/1.1\r\n\r\n", ParseError::MissingHost),
        ("GET / HTTP/2.0\r\n\r\n", ParseError::VersionNotSupported),
        (
            "POST /items/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ParseError::LengthBesideEncoding,
        ),
        (
            "POST /items/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            ParseError::BadChunkEnd,
        ),
        (
            "POST /items/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na : b\r\n\r\n",
            ParseError::SpaceBeforeColon,
        ),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", ParseError::TooManyEmptyLines),
    ];
    let mut pipeline = Pipeline { wire: Vec::new(), wanted: Reading::default() };
    for n in 0..random.below(6) {
        let empty_lines = random.pick(&[0, 0, 0, 1, 4]);
        pipeline.wire.extend("\r\n".repeat(empty_lines).bytes());
        pipeline.push(n, random);
    }
    if random.below(2) == 0 {
        let (wire, error) = random.pick(BAD);
        pipeline.wire.extend_from_slice(wire.as_bytes());
        pipeline.wire.extend_from_slice(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
        pipeline.wanted.error = Some(error);
    }
    pipeline
}

impl Pipeline {
    fn push(&mut self, n: usize, random: &mut Random) {
        let (method, target) = random.pick(&[
            ("GET", "/items?id=7"),
            ("HEAD", "/sess/a%2Fb"),
            ("POST", "/items/8?ttl=5"),
            ("POST", "/sess?sid=9"),
            ("POST", "/nowhere"),
            ("OPTIONS", "*"),
        ]);
        let body = match method {
            "POST" => random.pick(&[&b""[..], b"{}", b"{\"name\":\"Bob\"}", b"\r\n\r\n0\r\n\r\n"]),
            _ => b"",
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: r{n}\r\n");
        self.wire.extend_from_slice(head.as_bytes());
        match (method, random.below(2)) {
            ("POST", 0) => {
                self.wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                self.push_chunks(body, random);
            }
            ("POST", _) => {
                let length = format!("Content-Length: {}\r\n\r\n", body.len());
                self.wire.extend_from_slice(length.as_bytes());
                self.wire.extend_from_slice(body);
            }
            _ => self.wire.extend_from_slice(b"\r\n"),
        }
        self.wanted.requests.push(Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: if method == "POST" { 3 } else { 2 },
            body: body.to_vec(),
        });
    }

    fn push_chunks(&mut self, mut body: &[u8], random: &mut Random) {
        const EXTENSIONS: &[&str] = &["", "", " ; a", ";a=b", ";a=\"\t;\";c"];
        while !body.is_empty() {
            let (chunk, rest) = body.split_at(1 + random.below(body.len()));
            let size = match random.below(2) {
                0 => format!("{:x}", chunk.len()),
                _ => format!("{:04X}", chunk.len()),
            };
            let line = size + random.pick(EXTENSIONS) + "\r\n";
            self.wire.extend_from_slice(line.as_bytes());
            self.wire.extend_from_slice(chunk);
            self.wire.extend_from_slice(b"\r\n");
            body = rest;
        }
        let trailers = random.pick(&["", "", "Md5: x\r\n", "A:\r\nContent-Length: 99\r\n"]);
        let last = format!("0{}\r\n{trailers}\r\n", random.pick(EXTENSIONS));
        self.wire.extend_from_slice(last.as_bytes());
    }
}

/// One change to bytes that matter.
fn damage(wire: &mut Vec<u8>, random: &mut Random) {
    if wire.is_empty() {
        return;
    }
    let at = random.below(wire.len());
    let byte = random.pick(b"\r\n\r\n :;/015aH\0\x80");
    match random.below(5) {
        0 => wire[at] = byte,
        1 => wire.insert(at, byte),
        2 => drop(wire.remove(at)),
        3 => wire.truncate(at),
        _ => {
            let end = (at + 1 + random.below(40)).min(wire.len());
            let piece = wire[at..end].to_vec();
            let to = random.below(wire.len());
            wire.splice(to..to, piece);
        }
    }
}

/// Whole, byte by byte, in two, and at random.
fn cuts(length: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut cuts = vec![vec![length], (1..=length).collect()];
    for pieces in [2, 3, 10] {
        let mut ends: Vec<usize> = (1..pieces).map(|_| random.below(length + 1)).collect();
        ends.push(length);
        ends.sort_unstable();
        cuts.push(ends);
    }
    cuts
}
