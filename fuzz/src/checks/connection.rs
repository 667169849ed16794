//! A whole connection of the poll front: real sockets, the real loop, any bytes.
//!
//! - The responses are those of the model (`model.rs`), in its order: status, request id, length,
//!   `Connection: close` (which depends on the cuts only behind a refused body). One too many or too few is a request made of another's bytes.
//! - Each is there as soon as its request is, without another byte, and the rest of a bad message
//!   is never answered.
//! - In the end the client sees the end of the stream and not a reset, even if it has sent more
//!   than was read.
//!
//! The first byte of an input says how the rest is sent:
//!
//! ```text
//! bits 0–1   ticks that the store takes for an answer
//! bit  2     impatient: the next piece is sent before the responses due have come
//! bits 3–7   0 whole, 1 byte by byte, above: a walk of random cuts
//! ```

use super::client::{End, Script, Transcript};
use super::front::Front;
use super::model::{Expected, expected};
use super::{random::Random, walk};
use std::ops::Range;

/// Panics if a claim does not hold for `input`.
pub fn check(front: &Front, input: &[u8]) {
    if let Some((&plan, bytes)) = input.split_first() {
        check_sent(front, bytes, plan);
    }
}

/// The same for `bytes` sent as `plan` says.
pub fn check_sent(front: &Front, bytes: &[u8], plan: u8) {
    let ends = ends(bytes.len(), usize::from(plan >> 3));
    let patient = plan & 4 == 0;
    let is_cut = |body: &Range<usize>| ends.iter().any(|end| body.contains(end));
    let expected = |is_whole: &dyn Fn(usize, Range<usize>) -> bool| {
        expected(bytes, front.service(), front.options(), is_whole)
    };
    // An impatient client may have sent the rest before the front looked.
    let mut wanted = expected(&|_, body| !patient || !is_cut(&body));
    let transcript = front.play(Script {
        bytes: bytes.to_vec(),
        due: ends.iter().map(|&end| due(&wanted, end)).collect(),
        ends: ends.clone(),
        head_only: wanted.iter().map(|e| e.head_only).collect(),
        store_ticks: u32::from(plan & 3),
        patient,
    });
    if !patient {
        wanted = expected(&|n, body| !is_cut(&body) || !transcript.closes(n));
    }
    if let Err(fault) = compare(&wanted, &transcript) {
        panic!(
            "{fault}\nsent by plan {plan:#04x}: {}\nexpected: {wanted:#?}\nseen: {transcript:#?}",
            bytes.escape_ascii()
        );
    }
}

fn ends(length: usize, cut: usize) -> Vec<usize> {
    match cut {
        _ if length == 0 => Vec::new(),
        0 => vec![length],
        // A tick or two for each piece: no more of them than a run has time for.
        1 => (1..length.min(500)).chain([length]).collect(),
        _ => {
            let mut random = Random::new(cut as u64);
            let piece_max = random.pick(&[2, 9, 40, 200]).max(length / 500);
            walk(&mut random, length, piece_max)
        }
    }
}

/// How many responses must have come when everything up to `end` is sent.
fn due(expected: &[Expected], end: usize) -> usize {
    expected.iter().take_while(|e| e.due_at <= end).count()
}

fn compare(expected: &[Expected], transcript: &Transcript) -> Result<(), String> {
    let mut seen = transcript.replies.iter();
    for (n, wanted) in expected.iter().enumerate() {
        let mut reply = seen.next().ok_or(format!("no response {n}"))?;
        if reply.status == 100 && wanted.may_continue {
            reply = seen.next().ok_or(format!("no final response {n}"))?;
        }
        if reply.status != wanted.status {
            return Err(format!("response {n} is of another status"));
        }
        match (reply.header("X-Request-Id"), &wanted.request_id) {
            (None, _) => return Err(format!("response {n} has no id")),
            (Some(id), Some(wanted)) if id != wanted => {
                return Err(format!("response {n} is another request's"));
            }
            _ => {}
        }
        if (reply.header("Connection") == Some("close")) != wanted.closes {
            return Err(format!("response {n} is wrong about the connection"));
        }
    }
    if seen.next().is_some() || !transcript.rest.is_empty() {
        return Err("more than the responses due".to_owned());
    }
    match &transcript.end {
        End::Closed => Ok(()),
        End::Broken(error) => Err(format!("the connection broke: {error}")),
        End::Stalled => Err("nothing more comes".to_owned()),
    }
}
