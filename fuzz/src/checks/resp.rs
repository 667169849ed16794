//! The RESP `Decoder` on any bytes, as a connection would feed it.
//!
//! - Frames, error and state at the end are the same in every cut; an error stays for ever.
//! - What is held of a frame is within the limits and grows with the bytes that came, never with
//!   a length that was only declared.
//! - A reply of RESP2's types printed as a server would is decoded as itself again.
//!
//! The first byte of an input chooses protocol and limits; the rest is the wire.

use super::all_cuts;
use kioskd::resp::codec::{Decoder, Frame, Limits, Protocol, ProtocolError, Reply};

/// What came of some bytes.
#[derive(Debug)]
struct Outcome {
    frames: Vec<Frame>,
    error: Option<ProtocolError>,
    idle: bool,
}

/// Panics if a claim does not hold for `input`.
pub fn check(input: &[u8]) {
    let Some((plan, wire)) = input.split_first() else {
        return;
    };
    let protocol = match plan & 1 {
        0 => Protocol::Resp2,
        _ => Protocol::Resp3,
    };
    let limits = match plan & 2 {
        0 => Limits::default(),
        _ => small_limits(),
    };
    let whole = receive(wire, &[wire.len()], protocol, &limits);
    for ends in all_cuts(wire.len(), wire.len() as u64) {
        let cut = receive(wire, &ends, protocol, &limits);
        // As text, because a NaN is not equal to itself.
        assert_eq!(format!("{cut:?}"), format!("{whole:?}"), "{}", wire.escape_ascii());
    }
    for frame in &whole.frames {
        assert_is_bounded(frame, wire, &limits);
    }
    if limits == Limits::default() {
        whole.frames.iter().for_each(assert_reads_back);
    }
}

/// Small enough for a short input to meet each of them.
fn small_limits() -> Limits {
    Limits {
        value_bytes_max: 24,
        bulk_bytes_max: 40,
        depth_max: 3,
        elements_max: 8,
        elements_total_max: 20,
        bytes_total_max: 120,
        line_bytes_max: 24,
        out_of_band_max: 3,
    }
}

/// Plays the connection: keeps what was not taken, adds the next piece, and goes on.
fn receive(wire: &[u8], ends: &[usize], protocol: Protocol, limits: &Limits) -> Outcome {
    let mut decoder = Decoder::new(limits.clone());
    decoder.set_protocol(protocol);
    let mut frames = Vec::new();
    let mut at = 0;
    for &end in ends {
        loop {
            match decoder.decode(&wire[at..end]) {
                Ok((taken, frame)) => {
                    at += taken;
                    assert!(at <= end, "{}", wire.escape_ascii());
                    let Some(frame) = frame else { break };
                    frames.push(frame);
                }
                Err(error) => {
                    let again = decoder.decode(b"+OK\r\n");
                    assert_eq!(again, Err(error.clone()), "it must stay dead");
                    return Outcome { frames, error: Some(error), idle: false };
                }
            }
        }
        let unfinished = end - at;
        assert!(
            unfinished <= limits.line_bytes_max.max(4096) + 8,
            "{unfinished} bytes stay with the caller"
        );
    }
    let idle = decoder.is_idle();
    assert!(at == wire.len() || !idle, "half a line is half a frame");
    Outcome { frames, error: None, idle }
}

fn assert_is_bounded(frame: &Frame, wire: &[u8], limits: &Limits) {
    /// An element takes three bytes of wire at least and this many of memory, in a vector that
    /// may have twice the room it needs.
    const ELEMENT_BYTES: usize = size_of::<Reply>();
    let (mut elements, mut payload, mut memory) = (0, 0, 0);
    let items = match frame {
        Frame::Reply(reply) => std::slice::from_ref(reply),
        Frame::Push(items) => {
            elements += items.len();
            memory += items.capacity() * ELEMENT_BYTES;
            items.as_slice()
        }
    };
    let mut open: Vec<&Reply> = items.iter().collect();
    while let Some(reply) = open.pop() {
        let (kept, room) = match reply {
            Reply::Simple(text) => (text.len(), text.capacity()),
            Reply::Bulk(bytes) => (bytes.len(), bytes.capacity()),
            Reply::Error(error) => {
                (error.message.len(), error.message.capacity() + error.code.capacity())
            }
            Reply::Array(items) => {
                elements += items.len();
                open.extend(items);
                (0, items.capacity() * ELEMENT_BYTES)
            }
            Reply::Ok | Reply::Integer(_) | Reply::Null | Reply::TooLarge(_) => (0, 0),
        };
        payload += kept;
        memory += room;
    }
    let shown = wire.escape_ascii();
    assert!(payload <= limits.bytes_total_max, "{payload} of {shown}");
    assert!(elements <= limits.elements_total_max, "{elements} of {shown}");
    let proportionate = wire.len() * (1 + ELEMENT_BYTES);
    assert!(
        memory <= proportionate + 64,
        "{memory} bytes held of {} received: {shown}",
        wire.len()
    );
}

fn assert_reads_back(frame: &Frame) {
    let Frame::Reply(reply) = frame else { return };
    let mut wire = Vec::new();
    print(&mut wire, reply);
    let again = receive(&wire, &[wire.len()], Protocol::Resp3, &Limits::default());
    assert_eq!(format!("{:?}", again.frames), format!("{:?}", [frame]), "{}", wire.escape_ascii());
    assert!(again.idle && again.error.is_none());
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
