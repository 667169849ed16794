//! Every case runs whole, byte by byte and with trailing bytes; the answers must agree. Then the
//! same over random mutations, where only the agreement is known.

use super::ParseError::*;
use super::*;

/// A head with its bytes, for the tests of all modules.
#[derive(Debug)]
pub(crate) struct OwnedHead {
    index: HeadIndex,
    bytes: Vec<u8>,
}

impl OwnedHead {
    /// The head that `message` begins with; it must be complete and valid.
    #[track_caller]
    pub(crate) fn of(message: impl AsRef<[u8]>) -> OwnedHead {
        let bytes = message.as_ref().to_vec();
        match parse(&bytes, &HeadLimits::default()) {
            Ok(Parsed::Whole(index)) => OwnedHead { index, bytes },
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head::new(&self.index, &self.bytes)
    }

    /// The bytes behind the head.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.index.len()..]
    }
}

/// The result of a parse, in a form that compares: the index as debug text, and its length.
type Outcome = Result<Option<(String, usize)>, ParseError>;

fn feed(input: &[u8], limits: &HeadLimits) -> Outcome {
    Ok(match parse(input, limits)? {
        Parsed::Whole(index) => Some((format!("{index:?}"), index.len())),
        Parsed::More { .. } => None,
    })
}

/// Grows the input to each of `ends` in turn, as reads from a socket would.
fn feed_up_to(input: &[u8], ends: impl Iterator<Item = usize>, limits: &HeadLimits) -> Outcome {
    for end in ends {
        let outcome = feed(&input[..end], limits);
        if outcome != Ok(None) {
            return outcome;
        }
    }
    Ok(None)
}

fn outcome(input: &[u8], limits: &HeadLimits) -> Outcome {
    let whole = feed(input, limits);
    // In long inputs the middle is uniform: there some cuts are enough.
    let len = input.len();
    let is_cut = |end: &usize| *end < 200 || *end + 200 > len || end.is_multiple_of(61);
    let by_byte = feed_up_to(input, (0..=len).filter(is_cut), limits);
    assert_eq!(by_byte, whole, "{}", input.escape_ascii());
    if whole != Ok(None) {
        for trailing in ["\r\n", "\0", "GET / HTTP/1.1\r\n\r\n", " a"] {
            let trailed = feed(&[input, trailing.as_bytes()].concat(), limits);
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

#[test]
fn gives_the_parts_of_a_head() {
    let read = OwnedHead::of(
        "\r\nPUT /items/7?ttl=5 HTTP/1.1\r\nHost: a\r\nX: \tb c \r\nContent-Length: 3\r\n\r\nabc",
    );
    let head = read.head();
    assert_eq!((head.method(), head.method_text()), (Method::Put, &b"PUT"[..]));
    assert_eq!(head.target_text(), b"/items/7?ttl=5");
    assert_eq!((head.path(), head.query_text()), (&b"/items/7"[..], Some(&b"ttl=5"[..])));
    assert!(!head.is_http_1_0());
    let fields: Vec<_> = head.fields().collect();
    let wanted: [(&[u8], &[u8]); 3] = [(b"Host", b"a"), (b"X", b"b c"), (b"Content-Length", b"3")];
    assert_eq!(fields, wanted);
    assert_eq!(head.framing(), Framing::Length(3));
    assert_eq!(read.rest(), b"abc");
}

#[test]
fn a_value_has_no_white_space_around_it_and_is_else_as_sent() {
    for (line, value) in [
        (&b"Expect:\r\n"[..], &b""[..]),
        (b"Expect: \t \r\n", b""),
        (b"Expect: \tb  c\t \r\n", b"b  c"),
        (b"Expect: caf\xc3\xa9\r\n", b"caf\xc3\xa9"),
        (b"Expect: caf\xe9\r\n", b"caf\xe9"),
        (b"Expect: 100%\r\n", b"100%"),
    ] {
        let read = OwnedHead::of([b"GET / HTTP/1.0\r\n", line, b"\r\n"].concat());
        assert_eq!(read.head().first(Field::Expect), Some(value));
    }
}

#[test]
fn finds_fields_in_any_case_and_in_order() {
    let read = OwnedHead::of(
        "GET / HTTP/1.1\r\nHost: a\r\nIf-Match: 1\r\nexpect: 2\r\nIF-MATCH: 3,,4\r\nx: 5\r\n\r\n",
    );
    let head = read.head();
    assert_eq!(head.first(Field::IfMatch), Some(&b"1"[..]));
    assert_eq!(head.all(Field::IfMatch).collect::<Vec<_>>(), [&b"1"[..], b"3,,4"]);
    assert_eq!(head.members(Field::IfMatch).collect::<Vec<_>>(), [&b"1"[..], b"3", b"", b"4"]);
    assert_eq!((head.only(Field::Expect), head.only(Field::IfMatch)), (Some(&b"2"[..]), None));
    assert!(head.is_repeated(Field::IfMatch) && !head.is_repeated(Field::Expect));
    assert_eq!((head.first(Field::Origin), head.only(Field::Origin)), (None, None));
    assert_eq!(head.all(Field::Origin).count(), 0);
}

#[test]
fn version_and_connection_options_decide_persistence() {
    for (version, fields, wanted) in [
        ("1.1", "", true),
        ("1.2", "", true),
        ("1.0", "", false),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection: a, ,close\t,b\r\n", false),
        ("1.1", "Connection: a\r\nconnection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive\r\nConnection: close\r\n", false),
        ("1.0", "Connection: keep alive\r\n", false),
    ] {
        let read = OwnedHead::of(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(read.head().keep_alive(), wanted, "{version} {fields}");
    }
    let tunnel = OwnedHead::of("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert!(!tunnel.head().keep_alive());
}

#[test]
fn only_http_1_1_expects_continue_or_the_unknown() {
    for (version, fields, to_continue, the_unknown) in [
        ("1.1", "Expect: 100-continue\r\n", true, false),
        ("1.1", "expect: ,100-Continue\r\n", true, false),
        ("1.1", "Expect: 200-ok\r\n", false, true),
        ("1.1", "Expect: 100-continue\r\nExpect: a\r\n", true, true),
        ("1.1", "Expect:\r\n", false, false),
        ("1.1", "", false, false),
        ("1.0", "Expect: 100-continue\r\n", false, false),
        ("1.0", "Expect: 200-ok\r\n", false, false),
    ] {
        let read = OwnedHead::of(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
        let found = (read.head().expects_continue(), read.head().expects_the_unknown());
        assert_eq!(found, (to_continue, the_unknown), "{version} {fields}");
    }
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
    // Shown one byte before its end: the limit is reached and the head is incomplete.
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
    // Bytes beyond the limit are never looked at.
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
        ("HEAD: /", Some(false)),
        ("HEAD/", Some(false)),
        ("HEAD\u{e9}", Some(false)),
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
fn messages_of_a_pipeline_are_parsed_one_after_the_other() {
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let pipeline = [request.as_slice(), request].concat();
    let limits = HeadLimits::default();
    let first = feed(&pipeline, &limits).unwrap().unwrap();
    assert_eq!(first.1, request.len());
    let second = feed(&pipeline[first.1..], &limits).unwrap().unwrap();
    assert_eq!(first, second);
    assert_eq!(feed(b"", &limits), Ok(None));
}

#[test]
fn empty_lines_begin_no_request() {
    for (message, has_begun) in [
        ("", false),
        ("\r", false),
        ("\r\n", false),
        ("\r\n\r\n\r", false),
        ("G", true),
        ("\r\nG", true),
        ("GET / HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r", true),
    ] {
        let parsed = parse(message.as_bytes(), &HeadLimits::default());
        let found = matches!(parsed, Ok(Parsed::More { begun }) if begun == has_begun);
        assert!(found, "{message:?}: {parsed:?}");
    }
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
    // Otherwise the mutations would test one side only.
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
