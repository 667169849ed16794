//! Every case runs whole, byte by byte and with trailing bytes; the answers must agree. Then the
//! same over random mutations, where only the agreement is known.

use super::ParseError::*;
use super::*;
use crate::http::{HTTPVersion, Method};

/// What a parse came to, in a form that compares: the head as debug text, and its length.
type Outcome = Result<Option<(String, usize)>, ParseError>;

fn feed(parser: &mut HeadParser, input: &[u8], limits: &HeadLimits) -> Outcome {
    let parsed = parser.parse(input, limits)?;
    Ok(parsed.map(|(head, length)| (format!("{head:?}"), length)))
}

/// Grows the input to each of `ends` in turn, as reads from a socket would.
fn feed_up_to(input: &[u8], ends: impl Iterator<Item = usize>, limits: &HeadLimits) -> Outcome {
    let mut parser = HeadParser::new();
    for end in ends {
        let outcome = feed(&mut parser, &input[..end], limits);
        if outcome != Ok(None) {
            return outcome;
        }
    }
    Ok(None)
}

fn outcome(input: &[u8], limits: &HeadLimits) -> Outcome {
    let whole = feed_up_to(input, [input.len()].into_iter(), limits);
    let by_byte = feed_up_to(input, 0..=input.len(), limits);
    assert_eq!(by_byte, whole, "{}", input.escape_ascii());
    if whole != Ok(None) {
        for trailing in ["\r\n", "\0", "GET / HTTP/1.1\r\n\r\n", " a"] {
            let longer = [input, trailing.as_bytes()].concat();
            let trailed = feed_up_to(&longer, [longer.len()].into_iter(), limits);
            assert_eq!(trailed, whole, "{}", input.escape_ascii());
        }
    }
    whole
}

fn assert_accepts(input: impl AsRef<[u8]>) {
    let input = input.as_ref();
    let outcome = outcome(input, &HeadLimits::default());
    let length = outcome.map(|head| head.map(|(_, length)| length));
    assert_eq!(length, Ok(Some(input.len())), "{}", input.escape_ascii());
}

/// The error must come at the last byte given, and not before.
fn assert_refuses(input: impl AsRef<[u8]>, error: ParseError) {
    let (input, limits) = (input.as_ref(), HeadLimits::default());
    assert_eq!(outcome(input, &limits), Err(error), "{}", input.escape_ascii());
    let before = outcome(&input[..input.len() - 1], &limits);
    assert_eq!(before, Ok(None), "{}", input.escape_ascii());
}

fn parse(input: &str) -> Head {
    let parsed = HeadParser::new().parse(input.as_bytes(), &HeadLimits::default());
    parsed.unwrap().unwrap().0
}

#[test]
fn gives_the_parts_of_a_head() {
    let head = parse(
        "\r\nPUT /items/7?ttl=5 HTTP/1.1\r\nHost: a\r\nX: \tb c \r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(head.method, Method::Put);
    assert_eq!(head.target.path(), "/items/7");
    assert_eq!(head.version, HTTPVersion(1, 1));
    assert_eq!(head.header("x"), Some("b c"));
    assert_eq!(head.headers.len(), 3);
    assert_eq!(head.framing, Framing::Length(3));
}

#[test]
fn request_lines_come_in_accepted_and_refused_pairs() {
    for line in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/1.2",
        "GET / HTTP/1.9",
        "get / HTTP/1.1",
        "M-SEARCH / HTTP/1.1",
        "PROXY / HTTP/1.1",
        "!#$%&'*+-.^_`|~ / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "GET http://b/c HTTP/1.1",
    ] {
        assert_accepts(format!("{line}\r\nHost: a\r\n\r\n"));
    }
    for (line, error) in [
        ("GET /\r", BadRequestLine),
        ("GET\r", BadRequestLine),
        ("GET \r", BadRequestLine),
        ("GET  ", BadRequestLine),
        ("GET\t", BadMethod),
        ("GET /\t", BadTarget),
        (" ", BadMethod),
        ("\t", BadMethod),
        ("G@", BadMethod),
        ("\x15", ControlByte),
        ("\x17", ControlByte),
        ("GET\0", ControlByte),
        ("\x16", Tls),
        ("\r\n\x16", Tls),
        ("G\x16", ControlByte),
        ("\r\n\r\n\0", ProxyProtocol),
        ("\0", ControlByte),
        ("\r\n\0", ControlByte),
        ("\r\n\r\n\r\n\0", ControlByte),
        ("PROXY UNKNOWN\r", ProxyProtocol),
        ("PROXY TCP4 1", ProxyProtocol),
        ("PROXY  ", ProxyProtocol),
        ("\r\nPROXY TCP6 :", ProxyProtocol),
        ("PROXY TCP4 HTTP/1.1\r\n", ProxyProtocol),
        ("PROXY\r", BadRequestLine),
        ("PROXYS TCP4 1", BadVersion),
        ("proxy TCP4 1", BadVersion),
        ("\n", BareLf),
        ("GET\n", BareLf),
        ("GET /\n", BareLf),
        ("GET / HTTP/1.1\n", BareLf),
        ("GET / HTTP/1.1\r\r", BareCr),
        ("\ra", BareCr),
        ("GET / \r", BadVersion),
        ("GET /  ", BadVersion),
        ("GET / h", BadVersion),
        ("GET / HTTP/1\r", BadVersion),
        ("GET / HTTP/1.1 ", BadVersion),
        ("GET / HTTP/1.10", BadVersion),
        ("GET / HTTP/11", BadVersion),
        ("GET / HTTP/1,", BadVersion),
        ("GET / HTTP/x", BadVersion),
        ("GET / HTTP/1.\0", ControlByte),
        ("GET / HTTP/0.9\r\n", VersionNotSupported),
        ("GET / HTTP/3.0\r\n", VersionNotSupported),
        ("PRI * HTTP/2.0\r\n", VersionNotSupported),
        ("GET * HTTP/1.1\r\n", BadTarget),
        ("GET a HTTP/1.1\r\n", BadTarget),
        ("GET /#", BadTarget),
        ("CONNECT a HTTP/1.1\r\n", BadTarget),
    ] {
        assert_refuses(line, error);
    }
    assert_refuses(b"G\xe9", BadMethod);
    assert_refuses(b"GET /\xe9", BadTarget);
    assert_refuses(b"GET /\x7f", ControlByte);
}

#[test]
fn header_lines_are_judged_as_they_come() {
    for (lines, error) in [
        (&b" "[..], FoldedLine),
        (b"Host: a\r\n\t", FoldedLine),
        (b"Host ", SpaceBeforeColon),
        (b"Host\r", BadFieldName),
        (b"\n", BareLf),
        (b"a: b\n", BareLf),
        (b"a: b\rc", BareCr),
        (b"a: \0", ControlByte),
        (b"Host: a\r\n\rx", BareCr),
    ] {
        assert_refuses([b"GET / HTTP/1.1\r\n", lines].concat(), error);
    }
    assert_accepts(b"GET / HTTP/1.1\r\nHost:a\r\nX:\xe9\t\xff\r\nEmpty:\r\n\r\n");
}

#[test]
fn host_is_there_once_and_well_formed() {
    for (start, fields) in [
        ("GET / HTTP/1.1", "Host: a\r\n"),
        ("GET / HTTP/1.1", "hOST:[::1]:80\r\n"),
        ("GET / HTTP/1.1", "Host:\r\n"),
        ("GET / HTTP/1.0", ""),
        ("GET / HTTP/1.0", "Host: a\r\n"),
        ("GET http://a/ HTTP/1.1", "Host: b\r\n"),
    ] {
        assert_accepts(format!("{start}\r\n{fields}\r\n"));
    }
    for (start, fields, error) in [
        ("GET / HTTP/1.1", "\r\n", MissingHost),
        ("GET / HTTP/1.2", "X-Host: a\r\n\r\n", MissingHost),
        ("GET http://a/ HTTP/1.1", "\r\n", MissingHost),
        ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", RepeatedHost),
        ("GET / HTTP/1.1", "Host: a\r\nhost:\r\n", RepeatedHost),
        ("GET / HTTP/1.0", "Host: a\r\nHost: b\r\n", RepeatedHost),
        ("GET / HTTP/1.1", "Host: a, b\r\n", BadHost),
        ("GET / HTTP/1.1", "Host: u@a\r\n", BadHost),
        ("GET / HTTP/1.1", "Host: a/b\r\n", BadHost),
        ("GET / HTTP/1.1", "Host: a:65536\r\n", BadHost),
        ("GET / HTTP/1.0", "Host: a b\r\n", BadHost),
        ("GET http://a/ HTTP/1.1", "Host:\r\n", BadHost),
        ("GET / HTTP/1.1", "Host: k\u{f6}sk\r\n", BadHost),
    ] {
        assert_refuses(format!("{start}\r\n{fields}"), error);
    }
}

#[test]
fn bad_framing_is_refused_with_the_head() {
    for (fields, error) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", LengthBesideEncoding),
        ("Content-Length: 5\r\nContent-Length: 5", RepeatedContentLength),
        ("Content-Length: \u{b2}", BadContentLength),
        ("Content-Length: 18446744073709551616", BodyTooLarge),
        ("Transfer-Encoding: gzip", BadTransferEncoding),
    ] {
        assert_refuses(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"), error);
    }
    assert_refuses("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", EncodingInHttp10);
}

#[test]
fn forgives_four_empty_lines_and_no_fifth() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_accepts(format!("{}{request}", "\r\n".repeat(3)));
    assert_accepts(format!("{}{request}", "\r\n".repeat(4)));
    assert_refuses(format!("{}\r", "\r\n".repeat(4)), TooManyEmptyLines);
}

#[test]
fn a_head_of_exactly_the_limit_passes() {
    let head = |len: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        rest.replace("X: ", &format!("X: {}", "x".repeat(len - rest.len())))
    };
    assert_accepts(head(16 * 1024 - 1));
    assert_accepts(head(16 * 1024));
    // Proved one byte before its end: the limit is full and the head is not.
    assert_refuses(&head(16 * 1024 + 1)[..16 * 1024], HeadTooLarge);
    // Empty lines count.
    assert_refuses(&format!("\r\n{}", head(16 * 1024 - 1))[..16 * 1024], HeadTooLarge);
    assert_accepts(format!("\r\n{}", head(16 * 1024 - 2)));
}

#[test]
fn a_hundred_headers_pass() {
    let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(n - 1));
    assert_accepts(head(99) + "\r\n");
    assert_accepts(head(100) + "\r\n");
    assert_refuses(head(100) + "X", TooManyHeaders);
}

#[test]
fn a_target_of_exactly_the_limit_passes() {
    let line = |len: usize| format!("GET /{}", "a".repeat(len - 1));
    assert_accepts(line(8191) + " HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_accepts(line(8192) + " HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_refuses(line(8193), UriTooLong);
}

#[test]
fn a_smaller_head_limit_wins_over_the_target_limit() {
    let limits = HeadLimits { head_bytes_max: 50, target_bytes_max: 100, ..HeadLimits::default() };
    let line = format!("GET /{}", "a".repeat(200));
    assert_eq!(outcome(line.as_bytes(), &limits), Err(HeadTooLarge));
    // Whatever stands beyond the limit, it is not looked at.
    let ends_beyond = format!("{}\0", &line[..50]);
    assert_eq!(outcome(ends_beyond.as_bytes(), &limits), Err(HeadTooLarge));
    let limits = HeadLimits { target_bytes_max: 45, ..limits };
    assert_eq!(outcome(line.as_bytes(), &limits), Err(UriTooLong));
}

#[test]
fn a_method_of_thirty_two_bytes_passes() {
    for len in [31, 32] {
        assert_accepts(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(len)));
    }
    assert_refuses("M".repeat(33), MethodTooLong);
}

#[test]
fn a_head_request_is_known_by_its_first_word() {
    for (message, is) in [
        ("", None),
        ("\r\n\r\n", None),
        ("H", Some(true)),
        ("HEAD", Some(true)),
        ("HEAD ", Some(true)),
        ("\r\nHEAD / HT", Some(true)),
        ("HEAD\r", Some(true)),
        ("HEAD\t", Some(true)),
        ("HEAD\0", Some(true)),
        ("HEADS", Some(false)),
        ("HEADS /", Some(false)),
        ("HEA ", Some(false)),
        ("head ", Some(false)),
        (" HEAD", Some(false)),
        ("G", Some(false)),
        ("\0", Some(false)),
        ("\r", None),
        ("\rHEAD", Some(false)),
        ("\nHEAD", Some(false)),
        ("\r\n\r\n\r\n\r\nHEAD", Some(true)),
        ("\r\n\r\n\r\n\r\n\r\nHEAD", Some(false)),
    ] {
        assert_eq!(is_head(message.as_bytes()), is, "{message:?}");
    }
}

#[test]
fn the_parser_is_ready_for_the_next_message() {
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let pipeline = [request.as_slice(), request].concat();
    let (mut parser, limits) = (HeadParser::new(), HeadLimits::default());
    let first = feed(&mut parser, &pipeline, &limits).unwrap().unwrap();
    assert_eq!(first.1, request.len());
    let second = feed(&mut parser, &pipeline[first.1..], &limits).unwrap().unwrap();
    assert_eq!(first, second);
    assert_eq!(feed(&mut parser, b"", &limits), Ok(None));
}

#[test]
fn an_idle_parser_is_small() {
    let size = size_of::<HeadParser>();
    assert!(size <= 192, "{size} bytes for each of ten thousand idle connections");
}

/// Goal: no cut between reads can change an answer. Method: mutate valid heads at random (mostly
/// into almost valid ones, with bytes that matter to the grammar), and compare random cuts, single
/// bytes and the whole. Limits are small, so that they are met often.
#[test]
fn cuts_never_change_the_answer() {
    let seeds: [&[u8]; 4] = [
        b"GET /items?id=12 HTTP/1.1\r\nHost: 127.0.0.1:18080\r\n\r\n",
        b"\r\n\r\nPOST http://a:1/b HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT /items/7 HTTP/1.0\r\nContent-Length: 12\r\nX: \t a\xe9b \r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nA: 1\r\nHost: [::1]\r\nB: 2\r\nConnection: close\r\n\r\n",
    ];
    let limits = HeadLimits { head_bytes_max: 90, target_bytes_max: 20, headers_max: 4 };
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut input = seeds[round % seeds.len()].to_vec();
        for _ in 0..random.below(3) {
            mutate(&mut input, &mut random);
        }
        let whole = outcome(&input, &limits);
        for _ in 0..3 {
            let mut ends: Vec<_> = (0..3).map(|_| random.below(input.len() + 1)).collect();
            ends.push(input.len());
            ends.sort_unstable();
            let cut = feed_up_to(&input, ends.into_iter(), &limits);
            assert_eq!(cut, whole, "{}", input.escape_ascii());
        }
        accepted += usize::from(matches!(whole, Ok(Some(_))));
        refused += usize::from(whole.is_err());
    }
    // Otherwise the mutations test one side only.
    assert!(accepted > 2000 && refused > 2000, "{accepted} accepted, {refused} refused");
}

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    const TELLING: &[u8] = b"\r\n\r\n \t:/,;@#%[]*.0159aH\0\x7f\x80\xff";
    let at = random.below(input.len());
    let byte = TELLING[random.below(TELLING.len())];
    match random.below(5) {
        0 => input[at] = byte,
        1 => input.insert(at, byte),
        2 if input.len() > 1 => drop(input.remove(at)),
        3 => input.truncate(at + 1),
        _ => {
            let end = (at + 1 + random.below(40)).min(input.len());
            let piece = input[at..end].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, piece);
        }
    }
}

/// xorshift64: the same inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
