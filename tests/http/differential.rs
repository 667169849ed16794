//! Two readers of HTTP/1.1 heads, ours and `httparse`, on the same bytes.
//!
//! What two readers understand differently, somebody in between can be made to pass on (request
//! smuggling), so no difference may be an accident. httparse reads syntax: it takes lines apart and
//! judges bytes. Ours also judges what the lines mean, and it is stricter on purpose. Each such
//! purpose is a class in `CLASSES` with the evidence that its bytes must show; a disagreement in no
//! class fails the test. So does a class that explains nothing any more.
//!
//! ```text
//! ours \ theirs   head           partial         error
//! head            same parts     never           HTTP/1.2 to 1.9
//! partial         never          agreed          a version judged at its first wrong byte
//! error           a class        a class         agreed
//! ```

use crate::checks::random::Random;
use kioskd::http::{Head, HeadLimits, ParseError, Parsed, parse};
use std::collections::BTreeMap;

/// A disagreement on purpose: its name, and whether these bytes are an instance of it.
type Class = (&'static str, fn(&Case) -> bool);

const CLASSES: &[Class] = &[
    // RFC 9112 §2.2 lets a reader take a lone LF for a line end. Where a proxy does not, two
    // requests become one.
    ("a line feed alone ends no line", |case| {
        case.refused_for(&[ParseError::BareLf]) && case.has_bare_lf()
    }),
    // httparse forgives empty lines without end.
    ("no more than four empty lines come first", |case| {
        case.refused_for(&[ParseError::TooManyEmptyLines])
            && case.input.starts_with(&b"\r\n\r\n\r\n\r\n\r"[..])
    }),
    // RFC 9112 §3.2: for httparse any visible byte, and any above ASCII, is a target.
    ("a target has one of four forms, in ASCII", |case| {
        let target = case.word(1);
        let is_origin = target.starts_with(b"/")
            && target.iter().all(|b| b.is_ascii_graphic() && *b != b'#')
            && case.word(0) != b"CONNECT";
        case.refused_for(&[ParseError::BadTarget]) && !is_origin
    }),
    // RFC 9112 §3.2; httparse leaves the meaning of fields to its caller, here and below.
    ("a 1.1 request has a host", |case| {
        case.refused_for(&[ParseError::MissingHost]) && case.fields("host").is_empty()
    }),
    ("a request has one host", |case| {
        case.refused_for(&[ParseError::RepeatedHost]) && case.fields("host").len() > 1
    }),
    ("a host is a name and a port", |case| {
        let is_plain = |host: &Vec<u8>| {
            let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-.".contains(b);
            !host.is_empty() && host.iter().all(is_name)
        };
        case.refused_for(&[ParseError::BadHost]) && !case.fields("host").iter().all(is_plain)
    }),
    // RFC 9112 §6.1 and §6.3.
    ("a length is one number", |case| {
        let lengths = case.fields("content-length");
        let is_number =
            |v: &Vec<u8>| !v.is_empty() && v.len() < 20 && v.iter().all(u8::is_ascii_digit);
        case.refused_for(&[
            ParseError::BadContentLength,
            ParseError::RepeatedContentLength,
            ParseError::BodyTooLarge,
        ]) && !(lengths.len() == 1 && is_number(&lengths[0]))
    }),
    ("a coding is `chunked`, in HTTP/1.1, without a length", |case| {
        let codings = case.fields("transfer-encoding");
        let is_alone = case.fields("content-length").is_empty()
            && codings.len() == 1
            && codings[0].eq_ignore_ascii_case(b"chunked")
            && case.word(2) != b"HTTP/1.0";
        case.refused_for(&[
            ParseError::BadTransferEncoding,
            ParseError::LengthBesideEncoding,
            ParseError::EncodingInHttp10,
        ]) && !codings.is_empty()
            && !is_alone
    }),
    // httparse has no limits but the number of headers.
    ("there are limits", |case| {
        let limits = limits();
        case.refused_for(&[
            ParseError::HeadTooLarge,
            ParseError::UriTooLong,
            ParseError::MethodTooLong,
            ParseError::TooManyHeaders,
        ]) && (case.input.len() >= limits.head_bytes_max
            || case.word(1).len() > limits.target_bytes_max
            || case.word(0).len() > 32
            || case.lines().len() > limits.headers_max)
    }),
    // RFC 9110 §2.5: a higher minor version is to be read like the highest one known.
    ("HTTP/1.2 is HTTP/1.1 with more to come", |case| {
        let version = case.word(2);
        case.their_error() == Some(httparse::Error::Version)
            && case.ours.is_ok()
            && version.starts_with(b"HTTP/1.")
            && !matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
    }),
    // Ours says of `HTTP/2.0` that it is another version (505) and not that it is none (400), for
    // which it has to see all of it.
    ("a foreign version is read to its end", |case| {
        case.their_error() == Some(httparse::Error::Version)
            && matches!(case.ours, Ok(None))
            && !case.word(2).starts_with(b"HTTP/1.")
            && case.lines().len() == 1
    }),
];

/// Small ones are met often. As many headers as a case can have, and one more, fit for httparse.
fn limits() -> HeadLimits {
    HeadLimits { head_bytes_max: 300, target_bytes_max: 40, headers_max: 8 }
}

/// What two readers made of the same bytes.
struct Case<'a> {
    input: &'a [u8],
    ours: Result<Option<Read>, ParseError>,
    theirs: Result<Option<Read>, httparse::Error>,
}

/// A head as both can tell it.
#[derive(Debug, PartialEq)]
struct Read {
    length: usize,
    method: String,
    target: String,
    minor_version: u8,
    headers: Vec<(String, Vec<u8>)>,
}

impl Case<'_> {
    fn of(input: &[u8]) -> Case<'_> {
        let ours = parse(input, &limits()).map(|parsed| match parsed {
            Parsed::Whole(index) => Some(ours(&Head::new(&index, input), index.len())),
            Parsed::More { .. } => None,
        });
        Case { input, ours, theirs: theirs(input) }
    }

    fn agrees(&self) -> bool {
        match (&self.ours, &self.theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(_), Err(_)) => true,
            _ => false,
        }
    }

    /// Ours refused it for one of these reasons, and theirs did not.
    fn refused_for(&self, reasons: &[ParseError]) -> bool {
        self.theirs.is_ok() && self.ours.as_ref().is_err_and(|e| reasons.contains(e))
    }

    fn their_error(&self) -> Option<httparse::Error> {
        self.theirs.as_ref().err().copied()
    }

    fn has_bare_lf(&self) -> bool {
        self.input.first() == Some(&b'\n')
            || self.input.windows(2).any(|two| two[0] != b'\r' && two[1] == b'\n')
    }

    /// The lines up to an empty one, as anybody would split them.
    fn lines(&self) -> Vec<&[u8]> {
        let lines = self.input.split(|&byte| byte == b'\n');
        lines
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .skip_while(|line| line.is_empty())
            .take_while(|line| !line.is_empty())
            .collect()
    }

    /// The words of the request line.
    fn word(&self, n: usize) -> &[u8] {
        let line = self.lines().first().copied().unwrap_or_default();
        line.split(|&byte| byte == b' ').nth(n).unwrap_or_default()
    }

    /// The values of the fields called `name`.
    fn fields(&self, name: &str) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        for line in self.lines().iter().skip(1) {
            let colon = line.iter().position(|&byte| byte == b':');
            if let Some((field, value)) = colon.map(|at| (&line[..at], &line[at + 1..]))
                && field.eq_ignore_ascii_case(name.as_bytes())
            {
                values.push(value.trim_ascii().to_vec());
            }
        }
        values
    }
}

fn ours(head: &Head, length: usize) -> Read {
    Read {
        length,
        method: text(head.method_text()),
        target: text(head.target_text()),
        // They know no other.
        minor_version: u8::from(!head.is_http_1_0()),
        headers: head.fields().map(|(name, value)| (text(name), value.to_vec())).collect(),
    }
}

fn text(ascii: &[u8]) -> String {
    String::from_utf8(ascii.to_vec()).expect("only a value has other bytes")
}

fn theirs(input: &[u8]) -> Result<Option<Read>, httparse::Error> {
    let mut room = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut room);
    let httparse::Status::Complete(length) = request.parse(input)? else {
        return Ok(None);
    };
    Ok(Some(Read {
        length,
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        minor_version: request.version.unwrap_or_default(),
        headers: request
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), header.value.to_vec()))
            .collect(),
    }))
}

// Goal: no disagreement that nobody meant. Method: heads put together from good and bad parts, then
// damaged a little, whole and truncated.
#[test]
fn every_disagreement_has_a_reason() {
    let mut random = Random::new(0);
    let (mut accepted, mut refused, mut partial) = (0, 0, 0);
    let mut explained: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..150_000 {
        let mut input = head(&mut random);
        for _ in 0..random.below(3) {
            damage(&mut input, &mut random);
        }
        let case = Case::of(&input);
        if !case.agrees() {
            let class = CLASSES.iter().find(|(_, is_of)| is_of(&case));
            let (name, _) = class.unwrap_or_else(|| {
                panic!(
                    "an unexplained disagreement over {}\nours:   {:?}\ntheirs: {:?}",
                    input.escape_ascii(),
                    case.ours,
                    case.theirs
                )
            });
            *explained.entry(name).or_default() += 1;
        }
        match (&case.ours, &case.theirs) {
            (Ok(Some(_)), Ok(Some(_))) => accepted += 1,
            (Err(_), Err(_)) => refused += 1,
            (Ok(None), Ok(None)) => partial += 1,
            _ => {}
        }
    }
    eprintln!("agreed: {accepted} accepted, {refused} refused, {partial} partial");
    eprintln!("on purpose: {explained:#?}");
    assert!(accepted > 5_000 && refused > 5_000 && partial > 5_000);
    for (name, _) in CLASSES {
        let number = explained.get(name).copied().unwrap_or(0);
        assert!(number > 20, "{number} times: {name}");
    }
}

/// A head, more often good than bad.
fn head(random: &mut Random) -> Vec<u8> {
    const METHODS: &[&str] = &["GET", "POST", "OPTIONS", "CONNECT", "M-SEARCH", "get", "PRI"];
    const TARGETS: &[&str] =
        &["/", "/items?id=7", "/a%2Fb", "*", "a:443", "http://a/b", "/#", "/caf\u{e9}", "//", "?"];
    const VERSIONS: &[&str] =
        &["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "http/1.1", "HTTP/10"];
    const FIELDS: &[&str] = &[
        "Content-Length: 5",
        "Content-Length: +5",
        "content-length:99999999999999999999",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Connection: close",
        "X: \u{e9}\t b ",
        "Empty:",
        "Host: b:80",
        "Host: [::1]",
        "Host: u@a",
        "Host:",
        "A : b",
        " folded",
        ": b",
        "A: b: c",
        "!#$%&'*+-.^_`|~: x",
        "Expect: 100-continue",
    ];
    let mut text = "\r\n".repeat(random.pick(&[0, 0, 0, 0, 1, 4, 5]));
    let usual = |random: &mut Random| random.below(4) > 0;
    text += match usual(random) {
        true => "GET",
        false => random.pick(METHODS),
    };
    text += " ";
    text += match usual(random) {
        true => "/items?id=7",
        false => random.pick(TARGETS),
    };
    text += " ";
    text += match usual(random) {
        true => random.pick(&["HTTP/1.1", "HTTP/1.0"]),
        false => random.pick(VERSIONS),
    };
    text += "\r\n";
    if usual(random) {
        text += "Host: a\r\n";
    }
    for _ in 0..random.below(4) {
        text += random.pick(FIELDS);
        text += random.pick(&["\r\n", "\r\n", "\r\n", "\r\n", "\n"]);
    }
    text += "\r\n";
    text.into_bytes()
}

fn damage(input: &mut Vec<u8>, random: &mut Random) {
    const TELLING: &[u8] = b"\r\n\r\n \t:/,;@#%[]*.0129aH\0\x7f\x80\xff";
    let at = random.below(input.len());
    let byte = random.pick(TELLING);
    match random.below(7) {
        0 => input[at] = byte,
        1 => input.insert(at, byte),
        2 if input.len() > 1 => drop(input.remove(at)),
        3 => input.truncate(at + 1),
        4 => {
            let end = (at + 1 + random.below(60)).min(input.len());
            let piece = input[at..end].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, piece);
        }
        5 => {
            let run = vec![b'a'; random.below(300)];
            input.splice(at..at, run);
        }
        _ => input.extend_from_slice(b"GET / HTTP/1.1\r\n"),
    }
}
