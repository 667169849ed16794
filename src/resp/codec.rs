//! RESP2 and RESP3 as bytes in, replies out. No sockets: `connection` passes in what it reads.
//!
//! The decoder keeps the aggregates it is inside of on a stack of its own, so that a peer cannot
//! overflow ours, and takes elements and payload bytes as they come, so that every byte is looked
//! at once however the network cuts them:
//!
//! ```text
//! *2\r\n $3\r\nfoo\r\n *1\r\n :4|2\r\n        read up to the bar:
//!
//!   open   Array 1 of 2 [foo]  ›  Array 0 of 1 []        2 of 8 levels
//!   input  ":4"                an unfinished line stays with the caller
//! ```
//!
//! One connection carries the replies of many requests, matched by position alone. A decoder that is wrong by one byte
//! gives one user's data to another, so anything unexpected is fatal: after an error every call returns that error
//! again. A length alone allocates nothing; memory follows the bytes that arrive, and every sum has a limit (see
//! [`Limits`]).
//!
//! ```
//! use kioskd::resp::codec::{Decoder, Frame, Limits, Reply};
//!
//! let mut decoder = Decoder::new(Limits::default());
//! let (taken, frame) = decoder.decode(b"$5\r\nhel")?;
//! assert_eq!((taken, frame), (7, None));
//! let (taken, frame) = decoder.decode(b"lo\r\n:7\r\n")?;
//! assert_eq!((taken, frame), (4, Some(Frame::Reply(Reply::Bulk(b"hello".to_vec())))));
//! # Ok::<(), kioskd::resp::codec::ProtocolError>(())
//! ```
//!
//! The lines and their grammar are in `header`, the values in `value`.

pub use super::limits::{Limits, Protocol};
pub use super::protocol_error::ProtocolError;
pub use super::value::{ERROR_MESSAGE_BYTES_MAX, ErrorReply, Frame, Received, Reply};

use super::header::{
    AggregateKind, BulkKind, Header, find_line_end, is_bulk_ended, parse_line, text_bytes_max,
    unknown_type,
};
use std::ops::Range;

/// Turns the bytes of one connection into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    protocol: Protocol,
    /// The aggregates being filled, outermost first.
    open: Vec<Aggregate>,
    /// The payload being read, if we are inside one.
    bulk: Option<Bulk>,
    /// How much of an unfinished line has been searched for its end.
    scanned: usize,
    /// An attribute has been read and its reply has not begun.
    attributed: bool,
    /// What has been spent since the last reply, on pushes, attributes and the next reply so far.
    spent: Spent,
    /// A line has been parsed: the peer speaks RESP.
    spoke_resp: bool,
    failed: Option<ProtocolError>,
}

#[derive(Debug)]
struct Aggregate {
    kind: AggregateKind,
    /// Keys and values of a map alternate.
    items: Vec<Reply>,
    length: usize,
}

#[derive(Debug)]
struct Bulk {
    kind: BulkKind,
    length: usize,
    missing: usize,
    /// `None`: too large to keep.
    kept: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Spent {
    elements: usize,
    bytes: usize,
    discarded: usize,
    /// Pushes and attributes.
    out_of_band: usize,
}

/// What part of a value the input contained.
enum Part {
    /// Not even a part that can be taken.
    Unfinished,
    /// A header whose payload or elements come next.
    Opened,
    Value(Reply),
}

/// A plain reply, by its place in the input; see [`Decoder::plain_reply`].
#[derive(Debug, PartialEq)]
pub enum Plain {
    /// A bulk string: these bytes of the input.
    Bulk(Range<usize>),
    /// `+OK` or null.
    Line(Reply),
    /// Part of a bulk string that will take this many bytes of input in all.
    Growing(usize),
}

/// The most that is allocated for a payload or an aggregate before any of it has arrived.
pub(super) const FIRST_BYTES_MAX: usize = 64 << 10;
const FIRST_ELEMENTS_MAX: usize = 1024;

impl Decoder {
    /// A decoder for a new connection, in RESP2.
    pub fn new(limits: Limits) -> Self {
        Decoder { limits, ..Decoder::default() }
    }

    /// Changes the protocol from the next frame on. The time to do so is after the reply to `HELLO 3` (any earlier is
    /// harmless: it only allows pushes).
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// True when no frame is half-read: between replies, and so at the end of a handshake.
    ///
    /// An attribute whose reply has not come counts as half a frame; so does an unfinished line
    /// that `decode` was shown and left with the caller.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.bulk.is_none() && !self.attributed && self.scanned == 0
    }

    /// True when part of a reply has arrived: taken already, or at the front of `rest`, the bytes that `decode` left
    /// with the caller. Part of a push is not part of a reply.
    pub fn is_inside_reply(&self, rest: &[u8]) -> bool {
        match self.open.first() {
            Some(outermost) => !matches!(outermost.kind, AggregateKind::Push),
            None => {
                let begins = rest.first().is_some_and(|kind| *kind != b'>');
                self.bulk.is_some() || self.attributed || begins
            }
        }
    }

    /// Takes bytes from the front of `input` until a frame is complete or nothing more can be
    /// taken. Returns how many it took, and the frame.
    ///
    /// With a frame, call again with the rest: there may be another. Without one, read more from
    /// the peer, and call again with the bytes that were not taken (an unfinished line, at most
    /// `line_bytes_max` and a few) and the new ones after them.
    ///
    /// # Errors
    ///
    /// The same one for ever once it has been returned. The result does not depend on how the
    /// bytes were cut.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance(input).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// For a reader that keeps the bytes that were not taken in one piece: the replies to GET and SET, in the common
    /// case, stay in its buffer and cost no copy. Returns how many bytes the reply takes, which are thereby taken; of a
    /// partial reply none are. Any other input, malformed input included, is for [`decode`](Decoder::decode).
    #[inline]
    pub fn plain_reply(&mut self, input: &[u8]) -> Option<(usize, Plain)> {
        let (taken, plain) = self.find_plain(input)?;
        if taken > 0 {
            self.scanned = 0;
            self.spoke_resp = true;
            self.spent = Spent::default();
        }
        Some((taken, plain))
    }

    fn find_plain(&self, input: &[u8]) -> Option<(usize, Plain)> {
        if !self.open.is_empty() || self.bulk.is_some() || self.attributed || self.failed.is_some()
        {
            return None;
        }
        match input {
            [b'$', first @ b'0'..=b'9', rest @ ..] => {
                let mut length = usize::from(first - b'0');
                // With nine digits no sum here overflows.
                let digits = rest.iter().take(8).take_while(|byte| byte.is_ascii_digit());
                let mut at = 2;
                for digit in digits {
                    length = length * 10 + usize::from(digit - b'0');
                    at += 1;
                }
                let leading_zero = *first == b'0' && at > 2;
                let room = self.limits.bytes_total_max.saturating_sub(self.spent.bytes);
                if leading_zero
                    || input.get(at..at + 2) != Some(b"\r\n")
                    || length > self.limits.value_bytes_max.min(room)
                {
                    return None;
                }
                let payload = at + 2..at + 2 + length;
                let whole = payload.end + 2;
                match input.get(payload.end..whole) {
                    Some(b"\r\n") => Some((whole, Plain::Bulk(payload))),
                    Some(_) => None,
                    // A wrong byte is refused as soon as it arrives.
                    None if input.get(payload.end).is_some_and(|byte| *byte != b'\r') => None,
                    None => Some((0, Plain::Growing(whole))),
                }
            }
            [b'+', b'O', b'K', b'\r', b'\n', ..] => Some((5, Plain::Line(Reply::Ok))),
            [b'_', b'\r', b'\n', ..] => Some((3, Plain::Line(Reply::Null))),
            [b'$', b'-', b'1', b'\r', b'\n', ..] => Some((5, Plain::Line(Reply::Null))),
            _ => None,
        }
    }

    fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), ProtocolError> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            let (length, part) = match self.bulk.take() {
                Some(bulk) => self.read_bulk(bulk, rest)?,
                None => self.read_line(rest)?,
            };
            taken += length;
            let frame = match part {
                Part::Unfinished => return Ok((taken, None)),
                Part::Opened => self.close_full(),
                Part::Value(value) => self.place(value),
            };
            if frame.is_some() {
                return Ok((taken, frame));
            }
        }
    }

    fn read_line(&mut self, input: &[u8]) -> Result<(usize, Part), ProtocolError> {
        const UNFINISHED: (usize, Part) = (0, Part::Unfinished);
        let Some(&kind) = input.first() else {
            return Ok(UNFINISHED);
        };
        let Some(text_bytes_max) = text_bytes_max(kind, self.limits.line_bytes_max) else {
            if self.spoke_resp {
                return Err(unknown_type(kind));
            }
            // Most likely another kind of server listens there: HTTP (`H`), TLS (0x15), SSH (`S`).
            let byte = kind.escape_ascii();
            let why = format!("first byte is `{byte}`, which begins no reply: not Redis?");
            return Err(ProtocolError(why));
        };
        if kind == b'>' && (self.protocol == Protocol::Resp2 || !self.open.is_empty()) {
            let why = "saw a push frame where none may be (RESP2, or inside another frame)";
            return Err(ProtocolError(why.to_owned()));
        }
        let Some(length) = find_line_end(input, &mut self.scanned, kind, text_bytes_max)? else {
            return Ok(UNFINISHED);
        };
        let taken = 1 + length + 2;
        let part = match parse_line(kind, &input[1..1 + length])? {
            Header::Value(value) => {
                self.spend_bytes(line_bytes(&value))?;
                Part::Value(value)
            }
            Header::Bulk(kind, length) => {
                self.bulk = Some(self.open_bulk(kind, length)?);
                Part::Opened
            }
            Header::Aggregate(kind, length) => {
                self.open_aggregate(kind, length)?;
                Part::Opened
            }
        };
        self.scanned = 0;
        self.spoke_resp = true;
        Ok((taken, part))
    }

    fn open_bulk(&mut self, kind: BulkKind, length: u64) -> Result<Bulk, ProtocolError> {
        let length_max = match kind {
            BulkKind::String => self.limits.bulk_bytes_max,
            BulkKind::Error => self.limits.line_bytes_max,
        };
        let length = within(length, length_max, "bytes in a bulk")?;
        let keep = kind == BulkKind::Error || length <= self.limits.value_bytes_max;
        if keep {
            self.spend_bytes(length)?;
        } else {
            self.spent.discarded += length;
            let discarded = self.spent.discarded as u64;
            within(discarded, self.limits.bulk_bytes_max, "discarded bytes in a reply")?;
        }
        Ok(Bulk { kind, length, missing: length, kept: keep.then(Vec::new) })
    }

    fn read_bulk(&mut self, mut bulk: Bulk, input: &[u8]) -> Result<(usize, Part), ProtocolError> {
        let taken = bulk.fill_from(input);
        let after = &input[taken..];
        if bulk.missing > 0 || !is_bulk_ended(after)? {
            self.bulk = Some(bulk);
            return Ok((taken, Part::Unfinished));
        }
        let value = match (bulk.kind, bulk.kept) {
            (_, None) => Reply::TooLarge(bulk.length as u64),
            (BulkKind::String, Some(bytes)) => Reply::Bulk(bytes),
            (BulkKind::Error, Some(bytes)) => Reply::Error(ErrorReply::parse(&bytes)),
        };
        Ok((taken + 2, Part::Value(value)))
    }

    fn open_aggregate(&mut self, kind: AggregateKind, length: u64) -> Result<(), ProtocolError> {
        let length = within(length, self.limits.elements_max, "elements in one aggregate")?;
        self.spent.elements += length;
        let elements = self.spent.elements as u64;
        within(elements, self.limits.elements_total_max, "elements in a reply")?;
        within(self.open.len() as u64 + 1, self.limits.depth_max, "levels of nesting")?;
        if matches!(kind, AggregateKind::Push | AggregateKind::Attribute) {
            self.spent.out_of_band += 1;
            let in_a_row = self.spent.out_of_band as u64;
            within(in_a_row, self.limits.out_of_band_max, "pushes and attributes in a row")?;
        }
        let items = Vec::with_capacity(length.min(FIRST_ELEMENTS_MAX));
        self.open.push(Aggregate { kind, items, length });
        Ok(())
    }

    /// Puts a complete value into the aggregate or frame it belongs to.
    fn place(&mut self, value: Reply) -> Option<Frame> {
        match self.open.last_mut() {
            Some(parent) => {
                parent.items.push(value);
                self.close_full()
            }
            None => Some(self.finish(Frame::Reply(value))),
        }
    }

    /// Closes the innermost aggregate, if it has all its elements, and thereby perhaps those around it. These are no more
    /// than the limit of nesting.
    fn close_full(&mut self) -> Option<Frame> {
        let full = self.open.pop_if(|last| last.items.len() == last.length)?;
        match full.kind {
            AggregateKind::Array => self.place(Reply::Array(full.items)),
            AggregateKind::Push => Some(self.finish(Frame::Push(full.items))),
            AggregateKind::Attribute => {
                self.attributed = true;
                None
            }
        }
    }

    fn finish(&mut self, frame: Frame) -> Frame {
        self.attributed = false;
        // Pushes count until there is a reply: a thousand of the largest would be 16 GB.
        if matches!(frame, Frame::Reply(_)) {
            self.spent = Spent::default();
        }
        frame
    }

    fn spend_bytes(&mut self, bytes: usize) -> Result<(), ProtocolError> {
        self.spent.bytes += bytes;
        let bytes = self.spent.bytes as u64;
        within(bytes, self.limits.bytes_total_max, "bytes in a reply").map(|_| ())
    }
}

impl Bulk {
    /// Takes the part of the payload that has arrived; returns its length.
    fn fill_from(&mut self, input: &[u8]) -> usize {
        let arrived = &input[..input.len().min(self.missing)];
        if let Some(kept) = &mut self.kept {
            if kept.capacity() - kept.len() < arrived.len() {
                // Doubling keeps the copying linear; `missing` keeps a finished value from
                // holding twice its size.
                let growth = arrived.len().max(kept.len()).max(FIRST_BYTES_MAX);
                kept.reserve_exact(growth.min(self.missing));
            }
            kept.extend_from_slice(arrived);
        }
        self.missing -= arrived.len();
        arrived.len()
    }
}

/// How many bytes a value that fits in a line adds to what is kept.
fn line_bytes(value: &Reply) -> usize {
    match value {
        Reply::Simple(text) => text.len(),
        Reply::Error(error) => error.message.len(),
        _ => 0,
    }
}

fn within(count: u64, limit: usize, what: &'static str) -> Result<usize, ProtocolError> {
    match usize::try_from(count) {
        Ok(count) if count <= limit => Ok(count),
        _ => Err(ProtocolError(format!("saw more than {limit} {what}"))),
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
