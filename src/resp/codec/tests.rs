//! The decoder against everything a peer can send, cut everywhere a network can cut it.
//!
//! `receive` acts as the connection: it keeps the bytes that were not taken, adds the next piece, and goes on. Whatever
//! a test checks about some bytes it checks for them whole, byte by byte, and cut in two at every place
//! (`receive_all_ways`), with the same outcome down to the last error.

use super::recorded::RECORDED;
use super::*;

/// The outcome of decoding some bytes.
#[derive(Debug)]
struct Outcome {
    frames: Vec<Frame>,
    error: Option<ProtocolError>,
    idle: bool,
}

fn receive<'a>(
    limits: &Limits,
    protocol: Protocol,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Outcome {
    let mut decoder = Decoder::new(limits.clone());
    decoder.set_protocol(protocol);
    let mut outcome = Outcome { frames: Vec::new(), error: None, idle: true };
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&buffer) {
                Ok((taken, frame)) => {
                    buffer.drain(..taken);
                    let Some(frame) = frame else { break };
                    outcome.frames.push(frame);
                }
                Err(error) => {
                    assert_eq!(decoder.decode(b"+OK\r\n"), Err(error.clone()), "it must stay dead");
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    outcome.idle = decoder.is_idle();
    assert!(buffer.is_empty() || !outcome.idle, "half a line is half a frame");
    outcome
}

/// Compared as text, because a NaN is not equal to itself.
#[track_caller]
fn assert_same(bytes: &[u8], left: &Outcome, right: &Outcome) {
    assert_eq!(format!("{left:?}"), format!("{right:?}"), "{}", bytes.escape_ascii());
}

#[track_caller]
fn receive_all_ways(limits: &Limits, protocol: Protocol, bytes: &[u8]) -> Outcome {
    let whole = receive(limits, protocol, [bytes]);
    assert_same(bytes, &receive(limits, protocol, bytes.chunks(1)), &whole);
    for (left, right) in (1..bytes.len()).map(|at| bytes.split_at(at)) {
        assert_same(bytes, &receive(limits, protocol, [left, right]), &whole);
    }
    whole
}

/// The one reply in `bytes`, in every cut.
#[track_caller]
fn reply_to(bytes: &[u8]) -> Reply {
    let mut outcome = receive_all_ways(&Limits::default(), Protocol::Resp3, bytes);
    assert!(outcome.error.is_none() && outcome.idle, "{outcome:?}");
    assert_eq!(outcome.frames.len(), 1, "{outcome:?}");
    match outcome.frames.remove(0) {
        Frame::Reply(reply) => reply,
        push => panic!("{push:?}"),
    }
}

#[track_caller]
fn error_of(limits: &Limits, bytes: &[u8]) -> ProtocolError {
    let outcome = receive_all_ways(limits, Protocol::Resp3, bytes);
    outcome.error.unwrap_or_else(|| panic!("accepted: {}", bytes.escape_ascii()))
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

fn error(text: &str) -> Reply {
    Reply::Error(ErrorReply::parse(text.as_bytes()))
}

fn over(what: &'static str, limit: usize) -> ProtocolError {
    ProtocolError(format!("saw more than {limit} {what}"))
}

fn bare_line_break(kind: char) -> ProtocolError {
    ProtocolError(format!("saw a CR or LF that is no CRLF in a `{kind}` line"))
}

fn line_too_long(kind: &str, limit: usize) -> ProtocolError {
    ProtocolError(format!("saw a `{kind}` line of more than {limit} bytes"))
}

fn unterminated_bulk(byte: u8) -> ProtocolError {
    ProtocolError(format!("expected CRLF after a bulk and saw `{}`", byte.escape_ascii()))
}

fn unexpected_push() -> ProtocolError {
    ProtocolError("saw a push frame where none may be (RESP2, or inside another frame)".to_owned())
}

fn not_redis(byte: u8) -> ProtocolError {
    let byte = byte.escape_ascii();
    ProtocolError(format!("first byte is `{byte}`, which begins no reply: not Redis?"))
}

/// One reply of each type, in both protocols.
fn every_type() -> Vec<(&'static [u8], Reply)> {
    use Reply::{Array, Integer, Null, Simple};
    let text = |text: &str| Simple(text.into());
    vec![
        (b"+OK\r\n", Reply::Ok),
        (b"+\r\n", Simple(vec![])),
        (b"-ERR no\r\n", error("ERR no")),
        (b"-\r\n", error("")),
        (b":0\r\n", Integer(0)),
        (b":-9223372036854775808\r\n", Integer(i64::MIN)),
        (b"$5\r\nhello\r\n", bulk("hello")),
        (b"$0\r\n\r\n", bulk("")),
        (b"$4\r\n\r\n\r\n\r\n", bulk("\r\n\r\n")),
        (b"$3\r\n\0\xff+\r\n", Reply::Bulk(vec![0, 255, b'+'])),
        (b"$-1\r\n", Null),
        (b"*-1\r\n", Null),
        (b"_\r\n", Null),
        (b"*0\r\n", Array(vec![])),
        (b"*2\r\n$1\r\na\r\n:1\r\n", Array(vec![bulk("a"), Integer(1)])),
        (b"*2\r\n-MY error\r\n$-1\r\n", Array(vec![error("MY error"), Null])),
        (
            b"*3\r\n*0\r\n*1\r\n*0\r\n%0\r\n",
            Array(vec![Array(vec![]), Array(vec![Array(vec![])]), Array(vec![])]),
        ),
        (
            b"%2\r\n+k\r\n:1\r\n+k\r\n*1\r\n:2\r\n",
            Array(vec![text("k"), Integer(1), text("k"), Array(vec![Integer(2)])]),
        ),
        (b"~0\r\n", Array(vec![])),
        (b"~2\r\n#t\r\n#f\r\n", Array(vec![text("t"), text("f")])),
        (b",3.25\r\n", text("3.25")),
        (b",-inf\r\n", text("-inf")),
        (b"(-123456789012345678901234567890\r\n", text("-123456789012345678901234567890")),
        (b"=9\r\ntxt:hello\r\n", bulk("txt:hello")),
        (b"=4\r\nmkd:\r\n", bulk("mkd:")),
        (b"!8\r\nMY \r\n\x01!!\r\n", error("MY \r\n\x01!!")),
        (b"|1\r\n+ttl\r\n*1\r\n:9\r\n:7\r\n", Integer(7)),
        (b"|0\r\n|1\r\n+a\r\n_\r\n*0\r\n", Array(vec![])),
        (b"*2\r\n:1\r\n|1\r\n+a\r\n+b\r\n:2\r\n", Array(vec![Integer(1), Integer(2)])),
        (b"%1\r\n|0\r\n+k\r\n|0\r\n+v\r\n", { Array(vec![text("k"), text("v")]) }),
    ]
}

#[test]
fn decodes_every_type_however_it_is_cut() {
    for (bytes, expected) in every_type() {
        assert_eq!(reply_to(bytes), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn leaves_what_follows_a_reply_alone() {
    for (bytes, expected) in every_type() {
        for trailing in ["+NEXT\r\n", ":", "junk", "\r\n", "\0"] {
            let mut decoder = Decoder::new(Limits::default());
            let mut input = bytes.to_vec();
            input.extend_from_slice(trailing.as_bytes());
            let frame = Frame::Reply(expected.clone());
            assert_eq!(decoder.decode(&input), Ok((bytes.len(), Some(frame))));
            assert!(decoder.is_idle());
        }
    }
}

#[test]
fn decodes_what_a_real_server_sent_however_it_is_cut() {
    for (asked, protocol, bytes) in RECORDED {
        let alone = receive_all_ways(&Limits::default(), *protocol, bytes);
        assert!(alone.error.is_none() && alone.idle, "{asked}: {alone:?}");
        assert!(!alone.frames.is_empty(), "{asked}");

        let mut followed = receive_all_ways(
            &Limits::default(),
            *protocol,
            &[bytes, b"+NEXT\r\n" as &[u8]].concat(),
        );
        let next = followed.frames.pop();
        assert_eq!(next, Some(Frame::Reply(Reply::Simple(b"NEXT".to_vec()))), "{asked}");
        assert_eq!(followed.frames, alone.frames, "{asked}");
    }
}

#[test]
fn reads_the_recorded_values_for_what_they_are() {
    let recorded = |asked: &str, protocol: Protocol| {
        let row = RECORDED.iter().find(|row| row.0 == asked && row.1 == protocol);
        let (_, _, bytes) = row.unwrap_or_else(|| panic!("no recording of {asked}"));
        receive(&Limits::default(), protocol, [*bytes]).frames
    };
    let reply = |asked, protocol| match recorded(asked, protocol).remove(0) {
        Frame::Reply(reply) => reply,
        push => panic!("{push:?}"),
    };
    use Protocol::{Resp2, Resp3};

    let hello = reply("HELLO 3", Resp3);
    assert_eq!(hello.field(b"role"), Some("master"));
    let Reply::Array(hello) = hello else { panic!() };
    assert!(hello.chunks(2).any(|pair| *pair == [bulk("proto"), Reply::Integer(3)]));

    let Reply::Error(moved) = reply("MOVED", Resp2) else { panic!() };
    assert_eq!((&moved.code[..], moved.detail()), ("MOVED", &b"5061 127.0.0.1:27404"[..]));

    let exec = vec![bulk("w"), error("ERR value is not an integer or out of range")];
    assert_eq!(reply("EXEC", Resp2), Reply::Array(exec));

    let Reply::Array(rows) = reply("CLUSTER SLOTS hostname", Resp3) else { panic!() };
    let Reply::Array(row) = &rows[0] else { panic!() };
    let Reply::Array(node) = &row[2] else { panic!() };
    assert_eq!(node[0], bulk("node-a"));
    assert_eq!(node[3], Reply::Array(vec![bulk("ip"), bulk("127.0.0.1")]));

    assert_eq!(reply("DEBUG PROTOCOL double", Resp3), Reply::Simple(b"3.141".to_vec()));
    let text = "txt:This is a verbatim\nstring";
    assert_eq!(reply("DEBUG PROTOCOL verbatim", Resp3), bulk(text));
    assert_eq!(
        reply("DEBUG PROTOCOL attrib", Resp3),
        bulk("Some real reply following the attribute")
    );
    let push = vec![bulk("server-cpu-usage"), Reply::Integer(42)];
    assert_eq!(
        recorded("DEBUG PROTOCOL push", Resp3),
        [Frame::Push(push), Frame::Reply(bulk("Some real reply following the push reply"))]
    );
}

#[test]
fn refuses_what_is_no_reply() {
    let bad = |line: &[u8]| parse_line(line[0], &line[1..]).unwrap_err();
    let bulk_over = |limit| over("bytes in a bulk", limit);
    let many = over("elements in one aggregate", 100_000);
    for (bytes, error) in [
        (b"$9223372036854775807\r\n" as &[u8], bulk_over(512 << 20)),
        (b"!9223372036854775807\r\n", bulk_over(64 << 10)),
        (b"=9223372036854775807\r\ntxt:", bulk_over(512 << 20)),
        (b"$-2\r\n", bad(b"$-2")),
        (b"$+5\r\nhello\r\n", bad(b"$+5")),
        (b"$ 5\r\nhello\r\n", bad(b"$ 5")),
        (b"$05\r\nhello\r\n", bad(b"$05")),
        (b"$\r\n", bad(b"$")),
        (b"$?\r\n;5\r\nhello\r\n;0\r\n", bad(b"$?")),
        (b"*?\r\n:1\r\n.\r\n", bad(b"*?")),
        (b"*4294967295\r\n", many.clone()),
        (b"%9223372036854775807\r\n", many.clone()),
        (b"~9223372036854775807\r\n", many.clone()),
        (b">9223372036854775807\r\n", many.clone()),
        (b"|9223372036854775807\r\n", many),
        (b"%-1\r\n", bad(b"%-1")),
        (b":1\r2\r\n", bare_line_break(':')),
        (b":1\n", bare_line_break(':')),
        (b"+OK\rK\r\n", bare_line_break('+')),
        (b"-ERR\n\r\n", bare_line_break('-')),
        (b"\r\n", not_redis(b'\r')),
        (b"$5\r\nhello\n", unterminated_bulk(b'\n')),
        (b"$5\r\nhello!\r\n", unterminated_bulk(b'!')),
        (b"$5\r\nhello\r\r\n", unterminated_bulk(b'\r')),
        (b"$0\r\n+OK\r\n", unterminated_bulk(b'+')),
        (b"*1\r\n>1\r\n+x\r\n", unexpected_push()),
        (b"|1\r\n>1\r\n+x\r\n", unexpected_push()),
        (b"+OK\r\nHTTP", unknown_type(b'H')),
        (b"*2\r\n:1\r\n\r\n", unknown_type(b'\r')),
        (&[b':'; 66], line_too_long(":", 64)),
    ] {
        assert_eq!(error_of(&Limits::default(), bytes), error, "{}", bytes.escape_ascii());
    }
}

#[test]
fn recognises_other_services_at_the_first_byte() {
    for banner in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" as &[u8],
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail ESMTP\r\n",
        b"ERROR\r\n",
        b"\0\0\0",
    ] {
        let error = error_of(&Limits::default(), banner);
        assert_eq!(error, not_redis(banner[0]));
        assert!(error.to_string().ends_with("not Redis?"));
        assert_eq!(receive(&Limits::default(), Protocol::Resp2, [&banner[..1]]).error, Some(error));
    }
}

#[test]
fn reads_up_to_each_limit_and_no_further() {
    let limits = Limits {
        value_bytes_max: 10,
        bulk_bytes_max: 30,
        depth_max: 3,
        elements_max: 6,
        elements_total_max: 9,
        bytes_total_max: 20,
        line_bytes_max: 12,
        out_of_band_max: 4,
    };
    let bulk_of = |n: usize| format!("${n}\r\n{}\r\n", "x".repeat(n));
    let verbatim_of = |n: usize| format!("={n}\r\n{}\r\n", "x".repeat(n));
    let nested = |n: usize| format!("{}:1\r\n", "*1\r\n".repeat(n));
    let array_of = |n: usize, item: &str| format!("*{n}\r\n{}", item.repeat(n));
    let arrays = |n: usize| format!("*3\r\n*{n}\r\n{}*2\r\n:1\r\n:2\r\n:3\r\n", ":1\r\n".repeat(n));
    let bulks = |n: usize| format!("*3\r\n{}{}+{}\r\n", bulk_of(9), bulk_of(9), "x".repeat(n));
    let two_large = |n: usize| format!("*2\r\n{}{}", bulk_of(n), bulk_of(15));
    type Row<'a> = (&'static str, usize, &'a dyn Fn(usize) -> String);
    let rows: &[Row] = &[
        ("bytes in a bulk", 30, &bulk_of),
        ("bytes in a bulk", 30, &verbatim_of),
        ("bytes in a bulk", 12, &|n| format!("!{n}\r\n{}\r\n", "x".repeat(n))),
        ("discarded bytes in a reply", 15, &two_large),
        ("levels of nesting", 3, &nested),
        ("levels of nesting", 3, &|n| format!("{}*0\r\n", "*1\r\n".repeat(n - 1))),
        ("levels of nesting", 3, &|n| format!("{}|0\r\n:1\r\n", "*1\r\n".repeat(n - 1))),
        ("elements in one aggregate", 6, &|n| array_of(n, ":1\r\n")),
        ("elements in one aggregate", 3, &|n| format!("%{n}\r\n{}", ":1\r\n:2\r\n".repeat(n))),
        ("elements in one aggregate", 3, &|n| format!("|{n}\r\n{}_\r\n", "_\r\n_\r\n".repeat(n))),
        ("elements in a reply", 4, &arrays),
        ("elements in a reply", 2, &|n| format!("|1\r\n_\r\n_\r\n{}", arrays(n))),
        ("bytes in a reply", 2, &bulks),
        ("pushes and attributes in a row", 4, &|n| format!("{}_\r\n", "|0\r\n".repeat(n))),
        ("pushes and attributes in a row", 4, &|n| format!("{}_\r\n", ">0\r\n".repeat(n))),
    ];
    for (what, n, bytes) in rows {
        for (n, refused) in [(n - 1, false), (*n, false), (n + 1, true)] {
            let bytes = bytes(n);
            let outcome = receive_all_ways(&limits, Protocol::Resp3, bytes.as_bytes());
            match (&outcome.error, refused) {
                (None, false) => assert!(outcome.idle, "{bytes:?}"),
                (Some(error), true) => assert!(error.0.ends_with(what), "{bytes:?}: {error}"),
                _ => panic!("{what}: {n}: {outcome:?}"),
            }
        }
    }
    for kind in ["+", "-"] {
        for (n, refused) in [(11, false), (12, false), (13, true)] {
            let line = format!("{kind}{}\r\n", "x".repeat(n));
            let outcome = receive_all_ways(&limits, Protocol::Resp3, line.as_bytes());
            let too_long = line_too_long(kind, 12);
            assert_eq!(outcome.error, refused.then_some(too_long));
        }
    }
    for (n, reply) in [
        (9, bulk(&"x".repeat(9))),
        (10, bulk(&"x".repeat(10))),
        (11, Reply::TooLarge(11)),
        (30, Reply::TooLarge(30)),
    ] {
        let outcome = receive_all_ways(&limits, Protocol::Resp2, bulk_of(n).as_bytes());
        assert_eq!(outcome.frames, [Frame::Reply(reply)]);
    }
}

#[test]
fn budgets_start_anew_with_each_reply() {
    let limits = Limits { elements_total_max: 2, bytes_total_max: 2, ..Limits::default() };
    let bytes = b"*2\r\n+a\r\n+b\r\n".repeat(3);
    assert_eq!(receive_all_ways(&limits, Protocol::Resp2, &bytes).frames.len(), 3);

    let limits = Limits { out_of_band_max: 2, ..Limits::default() };
    let bytes = b">0\r\n|0\r\n:1\r\n".repeat(3);
    assert_eq!(receive_all_ways(&limits, Protocol::Resp3, &bytes).frames.len(), 6);

    // A push answers no command, so many of them share one limit.
    let limits = Limits { bytes_total_max: 2, ..Limits::default() };
    for (pushes, fit) in [(1, true), (2, true), (3, false)] {
        let bytes = [">1\r\n+a\r\n".repeat(pushes), ":1\r\n".to_owned()].concat();
        let outcome = receive_all_ways(&limits, Protocol::Resp3, bytes.as_bytes());
        assert_eq!(outcome.error.is_none(), fit, "{pushes}");
    }
}

#[test]
fn default_depth_is_8() {
    let nested = |depth| "*1\r\n".repeat(depth) + ":1\r\n";
    assert!(receive(&Limits::default(), Protocol::Resp2, [nested(8).as_bytes()]).error.is_none());
    let outcome = receive(&Limits::default(), Protocol::Resp2, [nested(9).as_bytes()]);
    assert_eq!(outcome.error, Some(over("levels of nesting", 8)));
}

// mini-redis overflows its stack on these 120 KB.
#[test]
fn survives_thirty_thousand_nested_arrays() {
    let bomb = b"*1\r\n".repeat(30_000);
    for piece in [1, 4, 1000, bomb.len()] {
        let outcome = receive(&Limits::default(), Protocol::Resp2, bomb.chunks(piece));
        assert_eq!(outcome.error, Some(over("levels of nesting", 8)));
    }
    // Without the limit only the decoder's own stack grows.
    let limits = Limits { depth_max: usize::MAX, ..Limits::default() };
    let outcome = receive(&limits, Protocol::Resp2, [&bomb[..]]);
    assert_eq!((outcome.error, outcome.idle), (None, false));
}

// Every element is within its own limit; only their sum is not.
#[test]
fn refuses_sum_bombs_before_holding_them() {
    let limits = Limits::default();
    let element = [b"$1000000\r\n" as &[u8], &[b'x'; 1_000_000], b"\r\n"].concat();
    let mut decoder = Decoder::new(limits.clone());
    assert_eq!(decoder.decode(b"*1000\r\n"), Ok((7, None)));
    for _ in 0..16 {
        assert_eq!(decoder.decode(&element), Ok((element.len(), None)));
    }
    let refused = over("bytes in a reply", 16 << 20);
    assert_eq!(decoder.decode(b"$1000000\r\n"), Err(refused), "at its header");

    let arrays = format!("*6\r\n{}", ["*100000\r\n", &":1\r\n".repeat(100_000)].concat().repeat(6));
    let outcome = receive(&limits, Protocol::Resp2, [arrays.as_bytes()]);
    assert_eq!(outcome.error, Some(over("elements in a reply", 500_000)));

    // 100,000 texts of 300 bytes, all of which would be kept.
    let text = ["+", &"x".repeat(300), "\r\n"].concat().repeat(100_000);
    let outcome = receive(&limits, Protocol::Resp2, [b"*100000\r\n" as &[u8], text.as_bytes()]);
    assert_eq!(outcome.error, Some(over("bytes in a reply", 16 << 20)));
}

#[test]
fn a_declared_length_allocates_little() {
    let mut decoder = Decoder::new(Limits::default());
    decoder.decode(b"*100000\r\n*100000\r\n$1000000\r\n").unwrap();
    let capacity_of = |decoder: &Decoder| {
        let bulk = decoder.bulk.as_ref().and_then(|bulk| bulk.kept.as_ref());
        bulk.map(Vec::capacity).unwrap()
    };
    assert_eq!(capacity_of(&decoder), 0);
    assert!(decoder.open.iter().all(|aggregate| aggregate.items.capacity() <= 1024));
    decoder.decode(b"x").unwrap();
    assert_eq!(capacity_of(&decoder), 64 << 10);
    decoder.decode(&[b'x'; 70_000]).unwrap();
    assert!(capacity_of(&decoder) <= 2 * 70_001);
}

// A payload is allocated once if it arrives whole or is small, and never takes more than its length.
#[test]
fn a_payload_takes_exactly_its_bytes() {
    for (length, piece) in [(100, 7), (1 << 20, 1 << 21), (1 << 20, 4096), ((64 << 10) + 1, 1)] {
        let wire = format!("${length}\r\n{}\r\n", "x".repeat(length));
        let outcome = receive(&Limits::default(), Protocol::Resp2, wire.as_bytes().chunks(piece));
        let [Frame::Reply(Reply::Bulk(value))] = &outcome.frames[..] else { panic!() };
        assert_eq!((value.len(), value.capacity()), (length, length));
    }
}

#[test]
fn throws_a_large_value_away_and_stays_in_step() {
    let large = (1 << 20) + (64 << 10) + 1;
    let wire = format!("*2\r\n${large}\r\n{}\r\n:1\r\n$4\r\nnext\r\n", "x".repeat(large));
    for piece in [1000, 65_536, wire.len()] {
        let outcome = receive(&Limits::default(), Protocol::Resp2, wire.as_bytes().chunks(piece));
        let first = Reply::Array(vec![Reply::TooLarge(large as u64), Reply::Integer(1)]);
        assert_eq!(outcome.frames, [Frame::Reply(first), Frame::Reply(bulk("next"))]);
        assert!(outcome.idle);
    }
    // A bulk that is not kept must have its announced length, too.
    let wire = format!("${large}\r\n{}\r\n", "x".repeat(large + 1));
    let outcome = receive(&Limits::default(), Protocol::Resp2, [wire.as_bytes()]);
    assert_eq!(outcome.error, Some(unterminated_bulk(b'x')));
}

// Goal: a 64 KiB line that arrives a byte at a time costs 64 Ki steps, not 2 Gi. Method: after each call all bytes so
// far count as scanned.
#[test]
fn scans_an_endless_line_once_and_refuses_it() {
    let line = ["-", &"x".repeat((64 << 10) + 1)].concat();
    let mut decoder = Decoder::new(Limits::default());
    for shown in 1..line.len() {
        assert_eq!(decoder.decode(&line.as_bytes()[..shown]), Ok((0, None)));
        assert_eq!(decoder.scanned, shown);
        assert!(!decoder.is_idle());
    }
    let refused = line_too_long("-", 64 << 10);
    assert_eq!(decoder.decode(line.as_bytes()), Err(refused));
}

#[test]
fn keeps_320_bytes_of_a_text() {
    for (sent, kept) in [(319, 319), (320, 320), (321, 320), (64 << 10, 320)] {
        let text = "x".repeat(sent);
        for wire in [format!("-{text}\r\n"), format!("!{sent}\r\n{text}\r\n")] {
            let outcome = receive(&Limits::default(), Protocol::Resp3, [wire.as_bytes()]);
            let [Frame::Reply(Reply::Error(error))] = &outcome.frames[..] else { panic!() };
            assert_eq!(error.message.len(), kept);
        }
        let wire = format!("+{text}\r\n");
        let outcome = receive(&Limits::default(), Protocol::Resp3, [wire.as_bytes()]);
        let [Frame::Reply(Reply::Simple(simple))] = &outcome.frames[..] else { panic!() };
        assert_eq!(simple.len(), kept);
    }
}

#[test]
fn a_push_answers_nothing_and_only_resp3_has_it() {
    let bytes = b":1\r\n>2\r\n+invalidate\r\n*1\r\n+k\r\n:2\r\n";
    let outcome = receive_all_ways(&Limits::default(), Protocol::Resp3, bytes);
    let push = vec![
        Reply::Simple(b"invalidate".to_vec()),
        Reply::Array(vec![Reply::Simple(b"k".to_vec())]),
    ];
    let replies = [1, 2].map(|number| Frame::Reply(Reply::Integer(number)));
    let [first, second] = replies;
    assert_eq!(outcome.frames, [first.clone(), Frame::Push(push), second]);

    let outcome = receive_all_ways(&Limits::default(), Protocol::Resp2, bytes);
    assert_eq!(outcome.frames, [first]);
    assert_eq!(outcome.error, Some(unexpected_push()));
}

#[test]
fn other_resp3_types_are_read_in_resp2() {
    for (bytes, expected) in every_type() {
        let outcome = receive_all_ways(&Limits::default(), Protocol::Resp2, bytes);
        assert_eq!(outcome.frames, [Frame::Reply(expected)]);
    }
}

#[test]
fn is_idle_only_between_frames() {
    for bytes in every_type().into_iter().map(|(bytes, _)| bytes) {
        for shown in 0..=bytes.len() {
            let outcome = receive(&Limits::default(), Protocol::Resp3, [&bytes[..shown]]);
            assert_eq!(outcome.idle, shown == 0 || shown == bytes.len(), "{bytes:?} {shown}");
        }
    }
}

/// A push may be under way between two replies; anything else that has begun is a reply.
#[test]
fn is_inside_a_reply_from_its_first_byte_to_its_last() {
    for bytes in every_type().into_iter().map(|(bytes, _)| bytes) {
        for (before, bytes) in [(&b""[..], bytes), (b"|1\r\n+a\r\n+b\r\n", bytes)] {
            let whole = [before, bytes].concat();
            for shown in 1..whole.len() {
                let mut decoder = Decoder::new(Limits::default());
                let (taken, frame) = decoder.decode(&whole[..shown]).unwrap();
                assert_eq!(frame, None);
                assert!(decoder.is_inside_reply(&whole[taken..shown]), "{whole:?} {shown}");
            }
        }
    }
    let push = b">2\r\n$1\r\na\r\n*1\r\n:1\r\n";
    for shown in 0..=push.len() {
        let mut decoder = Decoder::new(Limits::default());
        decoder.set_protocol(Protocol::Resp3);
        let (taken, _) = decoder.decode(&push[..shown]).unwrap();
        assert!(!decoder.is_inside_reply(&push[taken..shown]), "{shown}");
    }
}

#[test]
fn what_a_server_would_send_comes_back() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..5_000 {
        let reply = random.reply(3);
        let mut wire = Vec::new();
        print(&mut wire, &reply);
        let outcome = receive(&Limits::default(), Protocol::Resp3, random.cut(&wire));
        assert_eq!(outcome.frames, [Frame::Reply(reply)], "{}", wire.escape_ascii());
        assert!(outcome.idle);
    }
}

// Goal: no bytes make the decoder panic, give different frames for different cuts, or hold more
// than its limits. Method: replies that a server could send, with a few bytes changed, cut at
// random. The limits are small enough for random replies to meet them.
#[test]
fn damaged_replies_have_one_outcome_however_they_are_cut() {
    let limits = Limits {
        value_bytes_max: 24,
        bulk_bytes_max: 40,
        depth_max: 3,
        elements_max: 8,
        elements_total_max: 20,
        bytes_total_max: 120,
        line_bytes_max: 24,
        out_of_band_max: 3,
    };
    let mut random = Random(0xd1b5_4a32_d192_ed03);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..40_000 {
        let mut wire = Vec::new();
        for _ in 0..=random.below(3) {
            print(&mut wire, &random.reply(4));
        }
        for _ in 0..random.below(4) {
            random.damage(&mut wire);
        }
        let protocol = if round % 2 == 0 { Protocol::Resp2 } else { Protocol::Resp3 };
        let whole = receive(&limits, protocol, [&wire[..]]);
        assert_same(&wire, &receive(&limits, protocol, wire.chunks(1)), &whole);
        assert_same(&wire, &receive(&limits, protocol, random.cut(&wire)), &whole);
        for frame in &whole.frames {
            assert!(bytes_held(frame) <= limits.bytes_total_max, "{frame:?}");
        }
        match whole.error {
            Some(_) => refused += 1,
            None => accepted += 1,
        }
    }
    assert!(accepted > 4_000 && refused > 4_000, "{accepted} accepted, {refused} refused");
}

fn bytes_held(frame: &Frame) -> usize {
    fn of(reply: &Reply) -> usize {
        match reply {
            Reply::Bulk(bytes) => bytes.len(),
            Reply::Array(items) => items.iter().map(of).sum(),
            other => line_bytes(other),
        }
    }
    match frame {
        Frame::Reply(reply) => of(reply),
        Frame::Push(items) => items.iter().map(of).sum(),
    }
}

/// Appends `reply` as a RESP3 server would send it. An error whose text holds CR or LF goes out as a bulk error.
fn print(out: &mut Vec<u8>, reply: &Reply) {
    let line =
        |out: &mut Vec<u8>, kind: u8, text: &[u8]| out.extend([&[kind], text, b"\r\n"].concat());
    let bulk = |out: &mut Vec<u8>, kind: u8, payload: &[u8]| {
        line(out, kind, payload.len().to_string().as_bytes());
        out.extend([payload, b"\r\n"].concat());
    };
    match reply {
        Reply::Ok => line(out, b'+', b"OK"),
        Reply::Simple(text) => line(out, b'+', text),
        Reply::Error(e) if e.message.iter().any(|byte| b"\r\n".contains(byte)) => {
            bulk(out, b'!', &e.message)
        }
        Reply::Error(e) => line(out, b'-', &e.message),
        Reply::Integer(number) => line(out, b':', number.to_string().as_bytes()),
        Reply::Bulk(payload) => bulk(out, b'$', payload),
        Reply::Null => line(out, b'_', b""),
        Reply::Array(items) => {
            line(out, b'*', items.len().to_string().as_bytes());
            items.iter().for_each(|item| print(out, item));
        }
        Reply::TooLarge(length) => bulk(out, b'$', &vec![b'x'; usize::try_from(*length).unwrap()]),
    }
}

/// Xorshift: random enough, and the same sequence every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        (0..self.below(length_max + 1)).map(|_| self.next() as u8).collect()
    }

    fn line(&mut self, length_max: usize) -> Vec<u8> {
        (0..self.below(length_max + 1)).map(|_| b' ' + self.below(95) as u8).collect()
    }

    fn reply(&mut self, depth_max: usize) -> Reply {
        match self.below(if depth_max == 0 { 6 } else { 8 }) {
            0 => Reply::Simple(self.line(30)),
            1 => Reply::Error(ErrorReply::parse(&self.line(30))),
            2 => Reply::Integer((self.next() as i64) >> self.below(64)),
            3 => Reply::Bulk(self.bytes(50)),
            4 => Reply::Null,
            5 => Reply::Error(ErrorReply::parse(b"ERR two\r\nlines")),
            _ => Reply::Array(self.replies(depth_max - 1)),
        }
    }

    fn replies(&mut self, depth_max: usize) -> Vec<Reply> {
        (0..self.below(6)).map(|_| self.reply(depth_max)).collect()
    }

    fn damage(&mut self, wire: &mut Vec<u8>) {
        const SNIPPETS: &[&[u8]] = &[
            b"\r\n",
            b"\r",
            b"\n",
            b"$",
            b"*1\r\n",
            b"|1\r\n",
            b">1\r\n",
            b"$-1\r\n",
            b"?",
            b"-",
            b"9",
            b"0",
            b"=8\r\ntxt:",
            b"!4\r\n",
            b"*4294967295\r\n",
            b"+OK\r\n",
            b",nan\r\n",
        ];
        let at = self.below(wire.len() + 1);
        match self.below(5) {
            0 => wire.truncate(at),
            1 if at < wire.len() => wire[at] = self.next() as u8,
            2 if at < wire.len() => wire[at] ^= 1 << self.below(8),
            3 if at < wire.len() => drop(wire.remove(at)),
            _ => {
                let snippet = SNIPPETS[self.below(SNIPPETS.len())];
                wire.splice(at..at, snippet.iter().copied());
            }
        }
    }

    /// The bytes in pieces of random length, many of them empty or short.
    fn cut<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length_max = 1 << self.below(7);
            let (piece, rest) = bytes.split_at(self.below(length_max + 1).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// Goal: a reply found in place is the one that would have been decoded. Method: every beginning of replies that are
/// nearly plain.
#[test]
fn a_plain_reply_is_what_would_have_been_decoded() {
    let limits = Limits { value_bytes_max: 12, ..Limits::default() };
    let decoder = || Decoder::new(limits.clone());
    let mut plain = 0;
    for text in [
        "$0\r\n\r\n",
        "$5\r\nhello\r\n",
        "$12\r\nhello, world\r\n",
        "$-1\r\n",
        "_\r\n",
        "+OK\r\n",
        "$5\r\nhello\r\n+OK\r\n",
        "$13\r\nhello, world!\r\n",
        "$05\r\nhello\r\n",
        "$00\r\n\r\n",
        "$5\r\nhello\n\r",
        "$5\r\nhellox\r\n",
        "$5\r\nhello\rx",
        "$5\n\r",
        "$5x\r\n",
        "$+5\r\nhello\r\n",
        "$-2\r\n",
        "$\r\n",
        "$999999999\r\n",
        "$9999999999\r\n",
        "$9223372036854775807\r\n",
        "_x\r\n",
        "+OKAY\r\n",
        "+O\r\n",
        ":1\r\n",
        "*0\r\n",
        "|1\r\n+a\r\n+b\r\n$0\r\n\r\n",
    ] {
        for end in 0..=text.len() {
            let input = &text.as_bytes()[..end];
            let decoded = decoder().decode(input);
            match decoder().plain_reply(input) {
                None => {}
                Some((taken, Plain::Growing(whole))) => {
                    assert_eq!(taken, 0);
                    assert!(whole > end && matches!(decoded, Ok((_, None))), "{text:?} {end}");
                }
                Some((taken, found)) => {
                    plain += 1;
                    let reply = match found {
                        Plain::Bulk(at) => Reply::Bulk(input[at].to_vec()),
                        Plain::Line(reply) => reply,
                        Plain::Growing(_) => unreachable!(),
                    };
                    assert_eq!(decoded, Ok((taken, Some(Frame::Reply(reply)))), "{text:?} {end}");
                }
            }
        }
    }
    assert_eq!(plain, 7 + 5, "the whole ones, and one with another behind it");
    // Inside an aggregate or bulk, or after an error, no reply is plain.
    for before in ["*1\r\n", "$20\r\nx", "|1\r\n+a\r\n+b\r\n", "?"] {
        let mut decoder = decoder();
        let _ = decoder.decode(before.as_bytes());
        assert_eq!(decoder.plain_reply(b"+OK\r\n"), None, "{before:?}");
    }
}
