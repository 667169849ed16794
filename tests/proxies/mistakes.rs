//! What can be wrong with a request so that two readers find its end in different places.
//!
//! The lists are of what smuggling was made of so far (RFC 9112 §11.2): two lengths, a length beside chunks, names and
//! values that one reader sees and another one does not, lines that end for one of them, numbers that one reads further
//! than the other. In them `{n}` and the like stand for what differs from case to case.

use super::random::Random;
use super::streams::Draft;

/// A body, and what the head says of where it ends.
pub fn body(draft: &mut Draft, random: &mut Random, name: &str, is_bad: bool) {
    // Up to 16 KiB are what most proxies read before they decide how to pass a body on.
    let filler = "z".repeat(if random.below(12) == 0 { 15_000 + random.below(20_000) } else { 0 });
    let json = format!(r#"{{"of":"{name}{filler}"}}"#).into_bytes();
    let hidden = hidden(random, name);
    if !is_bad {
        // Good as it is, the next request but one may be in it.
        let body = if random.below(3) == 0 { hidden } else { json };
        match random.below(2) {
            0 => {
                draft.fields.push(format!("Content-Length: {}", body.len()).into_bytes());
                draft.body = body;
            }
            _ => {
                draft.fields.push(b"Transfer-Encoding: chunked".to_vec());
                draft.body = chunked(&body, random, false);
            }
        }
        return;
    }
    let is_odd = random.below(2) == 0;
    draft.body = match random.below(6) {
        0 => json.clone(),
        1 => chunked(&json, random, is_odd),
        2 => [chunked(&json, random, is_odd), hidden].concat(),
        3 => [&b"0\r\n\r\n"[..], &hidden].concat(),
        4 => hidden,
        _ => chunked(&hidden, random, is_odd),
    };
    let whole = draft.body.len();
    let other = random.pick(&[0, 1, 3, 5, json.len(), whole - 1, whole + 1, whole + 30]);
    let framing = random.pick(FRAMINGS);
    let framing = framing.replace("{n}", &whole.to_string()).replace("{m}", &other.to_string());
    draft.fields.extend(framing.split('|').map(|field| field.as_bytes().to_vec()));
}

/// A whole request that should be part of another.
fn hidden(random: &mut Random, name: &str) -> Vec<u8> {
    let method = random.pick(&["GET", "DELETE", "HEAD", "PUT"]);
    let rest = random.pick(&[
        "\r\n",
        "Content-Length: 2\r\n\r\n{}",
        "Content-Length: 200\r\n\r\n",
        "X: y",
    ]);
    format!("{method} /items/{name}-hidden HTTP/1.1\r\nHost: kiosk\r\n{rest}").into_bytes()
}

/// Ways to say where a body ends: of `{n}` bytes as a whole, or perhaps `{m}`. Fields are separated by `|`.
const FRAMINGS: &[&str] = &[
    "Content-Length: {n}",
    "Content-Length: {n}",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked",
    "Content-Length: {m}",
    "Content-Length: {n}|Content-Length: {n}",
    "Content-Length: {n}|Content-Length: {m}",
    "Content-Length: {m}|Content-Length: {n}",
    "Content-Length: {n}, {n}",
    "Content-Length: {m}, {n}",
    "Content-Length: +{n}",
    "Content-Length: -{n}",
    "Content-Length: 0x{n}",
    "Content-Length: 00{n}",
    "Content-Length: {n} ",
    "Content-Length:\t{n}",
    "Content-Length:\x0b{n}",
    "Content-Length: {n}\x0c",
    "Content-Length: {n};a",
    "Content-Length: {n}\0",
    "Content-Length: ",
    "Content-Length: 99999999999999999999",
    "Content-Length: 1844674407370955{n}",
    "Content-Length: 4294967296",
    "Content-Length : {n}",
    " Content-Length: {n}",
    "Content_Length: {n}",
    "Content-Length\0: {n}",
    "Content-Length:\r\n {n}",
    "Content-Length: {n}\r\n {m}",
    "Content-Length: {n}|Connection: Content-Length",
    "Transfer-Encoding: chunked|Content-Length: {n}",
    "Transfer-Encoding: chunked|Content-Length: {m}",
    "Content-Length: {n}|Transfer-Encoding: chunked",
    "Content-Length: {m}|Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked|Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked|Transfer-Encoding: identity",
    "Transfer-Encoding: identity|Transfer-Encoding: chunked",
    "Transfer-Encoding: identity|Content-Length: {n}",
    "Transfer-Encoding: x|Content-Length: {m}",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip|Content-Length: {n}",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding:\x0bchunked|Content-Length: {n}",
    "Transfer-Encoding: chunked\x0b|Content-Length: {n}",
    "Transfer-Encoding: xchunked|Content-Length: {n}",
    "Transfer-Encoding: chunkedx|Content-Length: {m}",
    "Transfer-Encoding: \"chunked\"|Content-Length: {n}",
    "Transfer-Encoding: chunked;q=1|Content-Length: {n}",
    "Transfer-Encoding: chun\0ked|Content-Length: {n}",
    "Transfer-Encoding|Content-Length: {n}",
    "Transfer-Encoding: |Content-Length: {n}",
    "Transfer-Encoding : chunked|Content-Length: {n}",
    "Transfer-Encoding\t: chunked|Content-Length: {m}",
    " Transfer-Encoding: chunked|Content-Length: {n}",
    "Transfer_Encoding: chunked|Content-Length: {n}",
    "Transfer-Encoding\0: chunked|Content-Length: {n}",
    "Transfer\u{2011}Encoding: chunked|Content-Length: {n}",
    "Transfer-Encoding:\r\n chunked|Content-Length: {n}",
    "Transfer-\r\n Encoding: chunked|Content-Length: {n}",
    "X: y\nTransfer-Encoding: chunked|Content-Length: {n}",
    "X: y\rTransfer-Encoding: chunked|Content-Length: {n}",
    "X: y\r\r\nTransfer-Encoding: chunked|Content-Length: {n}",
    "X:\nContent-Length: {m}|Content-Length: {n}",
    "Transfer-Encoding: chunked|Connection: Transfer-Encoding",
    "Transfer-Encoding: chunked|Connection: close, Transfer-Encoding|Content-Length: {n}",
    "TE: chunked, trailers|Content-Length: {n}",
    "Trailer: Content-Length|Transfer-Encoding: chunked",
    "Upgrade: h2c|Connection: Upgrade, HTTP2-Settings|HTTP2-Settings: AAMAAABk|Content-Length: {n}",
    "Expect: 100-continue|Content-Length: {n}",
    "Expect: 100-continue|Content-Length: {m}",
    "Expect: 100-continue|Transfer-Encoding: chunked",
    "Content-Encoding: chunked|Content-Length: {n}",
    "X: y",
];

/// `data` in a few chunks; some written in ways that readers disagree about, if it is to be odd.
fn chunked(data: &[u8], random: &mut Random, is_odd: bool) -> Vec<u8> {
    const SIZES: &[&str] = &[
        "{}",
        "000{}",
        "{};a",
        "{};a=b",
        "{};a=\"b c\"",
        "{} ",
        "{} ;a",
        "{}\t",
        "{};",
        "{};\0",
        "{};a=\"\r\n\"",
        "{};a\n",
        "+{}",
        "-{}",
        "0x{}",
        " {}",
        "{}_",
        "{},",
        "{}h",
        "{}.0",
        "10000000000000000{}",
        "fffffffffffffff{}",
        "100000000{}",
        "8000000000000000",
        "",
        "00000000000000000{}",
    ];
    const ENDS: &[&str] =
        &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", "\n\r\n", "", "x\r\n"];
    const LASTS: &[&str] = &[
        "0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "0\r\nContent-Length: 50\r\n\r\n",
        "0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nGET /items/trailer HTTP/1.1\r\n\r\n",
        "0\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\n\r\n",
        "00\r\n\r\n",
        "0;a=b\r\n\r\n",
        "0 \r\n\r\n",
        "0\r\n\r",
        "",
        "0x0\r\n\r\n",
    ];
    let mut out = Vec::new();
    let size_max = 1 + data.len() / 100 + random.below(data.len());
    for chunk in data.chunks(size_max) {
        let mut odd = |choices: &[&'static str]| match is_odd && random.below(3) == 0 {
            true => random.pick(choices),
            false => choices[0],
        };
        let (size, line_end, end) = (odd(SIZES), odd(ENDS), odd(ENDS));
        let upper = random.below(2) == 0;
        let mut digits = format!("{:x}", chunk.len());
        if upper {
            digits.make_ascii_uppercase();
        }
        out.extend_from_slice(size.replace("{}", &digits).as_bytes());
        out.extend_from_slice(line_end.as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(end.as_bytes());
    }
    let last = if is_odd && random.below(2) == 0 { random.pick(LASTS) } else { LASTS[0] };
    out.extend_from_slice(last.as_bytes());
    out
}

/// A request line that is unusual or wrong.
pub fn line(random: &mut Random, method: &str, name: &str) -> Vec<u8> {
    let lines = [
        "{M} http://kiosk/items/{t} HTTP/1.1",
        "{M} http://other:81/items/{t} HTTP/1.1",
        "{M} HTTP://kiosk?id={t} HTTP/1.1",
        "{M} https://u:p@kiosk/items/{t} HTTP/1.1",
        "{M} //items/{t} HTTP/1.1",
        "{M} /./items/../items/{t} HTTP/1.1",
        "{M} /items/{t}?a=b#c HTTP/1.1",
        "{M} /items/{t}%0d%0aX:%20y HTTP/1.1",
        "{M} /items/{t}%00 HTTP/1.1",
        "{M} /items/{t}%2f%2e%2e HTTP/1.1",
        "{M} /items/{t}%zz HTTP/1.1",
        "{M} /items/{t}\u{e9} HTTP/1.1",
        "{M} /items/{t}\\x HTTP/1.1",
        "{M} /items/{t}\"<> HTTP/1.1",
        "{M} /items/{t} x HTTP/1.1",
        "{M} /items/{t}\tHTTP/1.1",
        "{M}  /items/{t}  HTTP/1.1",
        " {M} /items/{t} HTTP/1.1",
        "{M} /items/{t} HTTP/1.1 ",
        "{M} /items/{t} HTTP/1.0",
        "{M} /items/{t} HTTP/1.0",
        "{M} /items/{t} HTTP/1.0",
        "{M} /items/{t} HTTP/1.2",
        "{M} /items/{t} HTTP/2.0",
        "{M} /items/{t} HTTP/0.9",
        "{M} /items/{t} http/1.1",
        "{M} /items/{t} HTTP/1.10",
        "{M} /items/{t}",
        "{M}\0 /items/{t} HTTP/1.1",
        "\r\n{M} /items/{t} HTTP/1.1",
        "\r\n\r\n\r\n{M} /items/{t} HTTP/1.1",
        "\n{M} /items/{t} HTTP/1.1",
        "{M} * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT kiosk:80 HTTP/1.1",
        "CONNECT /items/{t} HTTP/1.1",
        "TRACE /items/{t} HTTP/1.1",
        "PURGE /items/{t} HTTP/1.1",
        "LOCK /items/{t} HTTP/1.1",
        "get /items/{t} HTTP/1.1",
        "HEAD /items/{t} HTTP/1.1",
        "GETGETGETGETGETGETGETGETGETGETGETGET /items/{t} HTTP/1.1",
        "G\u{e9}T /items/{t} HTTP/1.1",
        "PRI * HTTP/2.0",
        "{M} /items/{t}?{long} HTTP/1.1",
    ];
    let long = "x".repeat(random.pick(&[100, 4000, 8150, 8192, 17000]));
    let text = random.pick(&lines);
    text.replace("{M}", method).replace("{t}", name).replace("{long}", &long).into_bytes()
}

/// A field that is unusual or wrong.
pub fn field(random: &mut Random) -> Vec<u8> {
    let fields: &[&[u8]] = &[
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: close, keep-alive",
        // Not the field of the id: a proxy may take it out again, as it should (RFC 9110 §7.6.1).
        b"Connection: Host, Content-Type",
        b"Connection: Upgrade",
        b"Connection:",
        b"Connection: \0",
        b"Keep-Alive: timeout=0, max=1",
        b"Proxy-Connection: keep-alive",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13",
        b"Upgrade: TLS/1.0, HTTP/2.0",
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Expect: 100-continue, x",
        b"Host: other",
        b"Host:",
        b"Host: a b",
        b"Host: kiosk, other",
        b"Host : kiosk",
        b"X-Request-Id: of-the-client",
        b"X-Request-Id : of-the-client",
        b"X_Request_Id: of-the-client",
        b"X-Request-Id: a\r\n b",
        b"X-Request-Id\0: of-the-client",
        b"Content-Length: 0",
        b"Content-Length: 7",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b"X: a\r\n \r\n",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: a\r\r",
        b"X: a\0b",
        b"X: \x01\x7f\x1b",
        b"X: \xff\xfe\xe9",
        b"\xff\xe9: x",
        b"X\x80Y: x",
        b": no name",
        b"no colon",
        b"X",
        b"X :y",
        b"X\t:y",
        b"X Y: z",
        b"X(: y",
        b"X\": y",
        b"X/Y: z",
        b"X@: y",
        b"_: y",
        b"!#$%&'*+.^`|~: y",
        b"\tX: y",
        b"\x0bX: y",
        b"GET /items/field HTTP/1.1",
        b"Range: bytes=0-1",
        b"Content-Range: bytes 0-1/2",
        b"Max-Forwards: 0",
        b"Via: 1.0 x",
        b"Forwarded: for=x",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-HTTP-Method-Override: DELETE",
        b"If-Match: *",
        b"If-None-Match: *",
        b"Trailer: X-Request-Id",
        b"TE: trailers",
        b"Accept-Encoding: gzip",
    ];
    match random.below(20) {
        0 => {
            let long = "y".repeat(random.pick(&[900, 4000, 8100, 16300, 20000]));
            format!("X: {long}").into_bytes()
        }
        1 => {
            let many = random.pick(&[50, 98, 99, 101, 150]);
            let many: Vec<String> = (0..many).map(|n| format!("X-{n}: y")).collect();
            many.join("\r\n").into_bytes()
        }
        _ => random.pick(fields).to_vec(),
    }
}

/// Something is wrong with a field that was good.
pub fn spoil_field(fields: &mut Vec<Vec<u8>>, random: &mut Random) {
    let at = random.below(fields.len());
    match random.below(6) {
        0 if fields.len() > 1 => drop(fields.remove(at)),
        1 => fields.push(fields[at].clone()),
        2 => fields[at].make_ascii_uppercase(),
        3 => fields[at].insert(0, b' '),
        4 => fields[at].push(random.pick(b" \t\r\n\0\x0b;,")),
        _ => {
            let colon = fields[at].iter().position(|b| *b == b':').unwrap_or(0);
            fields[at].insert(colon, random.pick(b" \t\0_-\x0b\xa0\r"));
        }
    }
}
