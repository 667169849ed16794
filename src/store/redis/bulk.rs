//! Bulk reads: many GETs, a few at a time.
//!
//! ```text
//! waiting   n4 n5 … n999              keys only
//! under way n1 n2 n3                  16 of one bulk at the most, 64 of all
//! there     n0                        as many bytes as the bulk may have, then it is over: 413
//! ```
//!
//! A thousand GETs at once would be answered by Redis as fast as it can, whether or not anybody wants
//! so much: 1,000 of 1 MB are a gigabyte in its buffers and ours, and everybody else waits behind it. So
//! each answer makes room for the next question, and a bulk that is over or has failed asks nothing more.
//! The places of all bulks in the client are few enough that a probe, or anybody else, finds one too.
//!
//! A key that holds no string, or one that is larger than any document, is an error in its own place.
//! Any other error is the whole bulk's: store trouble is never a success.

use super::{answer, reply};
use crate::resp::codec::Reply;
use crate::resp::connection::Shape;
use crate::resp::request::Failure;
use crate::slab::Slab;
use crate::store::{Answer, Done, StoreError, Tag};
use std::collections::VecDeque;
use std::time::Instant;

/// GETs of one bulk under way: with small documents 1,000 are read in 63 round trips.
const OF_ONE_MAX: usize = 16;

/// GETs of all bulks under way in one session. A connection takes far more commands than that.
const OF_ALL_MAX: usize = 64;

/// Keys that wait for their turn, of all bulks together, in bytes; one more bulk is refused.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a waiting key costs beside its bytes.
const KEY_BYTES: usize = 48;

/// One key of one bulk, on its way.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    bulk: u64,
    place: usize,
}

/// The bulk reads of one session.
#[derive(Debug, Default)]
pub struct Bulks {
    bulks: Slab<Bulk>,
    /// The oldest first.
    order: VecDeque<u64>,
    under_way: usize,
    /// Bytes of values that are there, of all bulks.
    there: usize,
    /// Bytes of keys, of all bulks.
    waiting: usize,
    /// No bulk is due before this. It may lie: bulks end without raising it.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Bulk {
    tag: Tag,
    keys: Vec<Vec<u8>>,
    values: Vec<Result<Option<Vec<u8>>, StoreError>>,
    /// The place of the next key to ask for.
    next: usize,
    under_way: usize,
    bytes: usize,
    bytes_max: usize,
    deadline: Instant,
}

impl Bulks {
    /// Takes in a bulk that may have `bytes_max` bytes of values.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many keys wait already.
    pub fn begin(
        &mut self,
        tag: Tag,
        keys: Vec<Vec<u8>>,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let bulk = Bulk {
            tag,
            values: vec![Ok(None); keys.len()],
            keys,
            next: 0,
            under_way: 0,
            bytes: 0,
            bytes_max,
            deadline,
        };
        if self.waiting + bulk.waiting() > WAITING_BYTES_MAX {
            return Err(StoreError::Overloaded);
        }
        self.waiting += bulk.waiting();
        self.earliest = Some(self.earliest.map_or(deadline, |t| t.min(deadline)));
        let key = self.bulks.insert(bulk);
        self.order.push_back(key);
        Ok(())
    }

    /// The next key to ask for, with its part and its deadline; `None` while enough is under way.
    pub fn ask(&mut self) -> Option<(Part, &[u8], Instant)> {
        if self.under_way >= OF_ALL_MAX {
            return None;
        }
        for (n, key) in self.order.iter().enumerate() {
            let bulk = self.bulks.get_mut(*key)?;
            // The oldest always goes on. The others do while all together hold no more than one may.
            if n > 0 && self.there > bulk.bytes_max {
                return None;
            }
            if bulk.under_way < OF_ONE_MAX && bulk.next < bulk.keys.len() {
                let place = bulk.next;
                bulk.next += 1;
                bulk.under_way += 1;
                self.under_way += 1;
                let bulk = self.bulks.get(*key)?;
                let part = Part { bulk: *key, place };
                return Some((part, bulk.keys.get(place)?, bulk.deadline));
            }
        }
        None
    }

    /// A part has come back. `done` is told when its bulk has ended by that.
    pub fn answered(&mut self, part: Part, result: Result<Reply, Failure>, done: &mut Done) {
        self.under_way -= 1;
        // Nobody there: the bulk has ended before.
        let Some(bulk) = self.bulks.get_mut(part.bulk) else {
            return;
        };
        bulk.under_way -= 1;
        let value = match result {
            Ok(Reply::Error(e)) if e.code == "WRONGTYPE" => {
                reply(Ok(Reply::Error(e))).map(|_| None)
            }
            Ok(Reply::TooLarge(n)) => answer(Shape::Value, Ok(Reply::TooLarge(n))).map(|_| None),
            result => match answer(Shape::Value, result) {
                Ok(Answer::Value(value)) => Ok(value),
                Ok(_) => Ok(None),
                Err(e) => return self.end(part.bulk, Err(e), done),
            },
        };
        let bytes = value.as_ref().map_or(0, |v| v.as_ref().map_or(0, Vec::len));
        bulk.bytes += bytes;
        self.there += bytes;
        if let Some(place) = bulk.values.get_mut(part.place) {
            *place = value;
        }
        if bulk.bytes > bulk.bytes_max {
            self.end(part.bulk, Ok(Answer::TooLarge), done);
        } else if bulk.under_way == 0 && bulk.next == bulk.keys.len() {
            let values = std::mem::take(&mut bulk.values);
            self.end(part.bulk, Ok(Answer::Values(values)), done);
        }
    }

    /// Ends what is due. Its parts under way have deadlines of their own, those that wait do not.
    pub fn time_out(&mut self, now: Instant, done: &mut Done) {
        if self.earliest.is_none_or(|t| t > now) {
            return;
        }
        let bulks = self.bulks.iter();
        let due: Vec<u64> =
            bulks.filter_map(|(key, bulk)| (bulk.deadline <= now).then_some(key)).collect();
        for key in due {
            self.end(key, Err(StoreError::Timeout), done);
        }
        self.earliest = self.bulks.iter().map(|(_, bulk)| bulk.deadline).min();
    }

    /// When [`time_out`](Bulks::time_out) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    fn end(&mut self, key: u64, result: Result<Answer, StoreError>, done: &mut Done) {
        if let Some(bulk) = self.bulks.remove(key) {
            self.order.retain(|other| *other != key);
            self.there -= bulk.bytes;
            self.waiting -= bulk.waiting();
            done.push((bulk.tag, result));
        }
    }
}

impl Bulk {
    fn waiting(&self) -> usize {
        self.keys.iter().map(|key| key.len() + KEY_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::codec::ErrorReply;
    use std::time::Duration;

    fn keys(n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|n| format!("k{n}").into_bytes()).collect()
    }

    /// Asks for all that may be asked for now.
    fn ask(bulks: &mut Bulks) -> Vec<(Part, String)> {
        std::iter::from_fn(|| {
            let (part, key, _) = bulks.ask()?;
            Some((part, String::from_utf8(key.to_vec()).unwrap()))
        })
        .collect()
    }

    fn value(text: &str) -> Result<Reply, Failure> {
        Ok(Reply::Bulk(text.into()))
    }

    #[test]
    fn an_answer_makes_room_for_a_question_and_values_stand_in_order() {
        let (mut bulks, mut done) = (Bulks::default(), Done::new());
        let now = Instant::now();
        bulks.begin(7, keys(40), 1000, now).unwrap();
        let mut under_way = ask(&mut bulks);
        assert_eq!(under_way.len(), 16);
        let mut order = Vec::new();
        while let Some((part, key)) = under_way.pop() {
            bulks.answered(part, value(&key), &mut done);
            let more = ask(&mut bulks);
            assert!(more.len() <= 1 && under_way.len() + more.len() <= 16);
            under_way.extend(more);
            order.push(key);
        }
        assert_ne!(order, keys(40).iter().map(|k| String::from_utf8_lossy(k)).collect::<Vec<_>>());
        let all = keys(40).into_iter().map(|key| Ok(Some(key))).collect();
        assert_eq!(done, [(7, Ok(Answer::Values(all)))]);
        assert_eq!((bulks.under_way, bulks.there, bulks.waiting), (0, 0, 0));
        assert!(bulks.order.is_empty());
    }

    #[test]
    fn a_bulk_beyond_its_bytes_is_over_and_asks_nothing_more() {
        for (bytes_max, over) in [(4, false), (3, true)] {
            let (mut bulks, mut done) = (Bulks::default(), Done::new());
            bulks.begin(7, keys(17), bytes_max, Instant::now()).unwrap();
            let parts = ask(&mut bulks);
            for (part, _) in &parts[..2] {
                bulks.answered(*part, value("xx"), &mut done);
            }
            assert_eq!(ask(&mut bulks).len(), usize::from(!over));
            assert_eq!(done == [(7, Ok(Answer::TooLarge))], over);
            // What was under way comes to nobody.
            for (part, _) in &parts[2..] {
                bulks.answered(*part, value(""), &mut done);
            }
            assert_eq!(bulks.under_way, usize::from(!over));
        }
    }

    #[test]
    fn what_is_no_document_has_its_own_place_and_trouble_is_everybodys() {
        let error = |text: &str| Ok(Reply::Error(ErrorReply::parse(text.as_bytes())));
        for (result, whole) in [
            (value("{}"), false),
            (Ok(Reply::Null), false),
            (error("WRONGTYPE Operation against a key"), false),
            (Ok(Reply::TooLarge(5_000_000)), false),
            (error("NOPERM this user has no permissions"), true),
            (error("LOADING Redis is loading"), true),
            (Err(Failure::Overloaded), true),
            (Err(Failure::Timeout), true),
        ] {
            let (mut bulks, mut done) = (Bulks::default(), Done::new());
            bulks.begin(7, keys(2), 1000, Instant::now()).unwrap();
            let parts = ask(&mut bulks);
            bulks.answered(parts[0].0, result.clone(), &mut done);
            bulks.answered(parts[1].0, value("{}"), &mut done);
            assert_eq!(done.len(), 1);
            match &done[0].1 {
                Ok(Answer::Values(values)) => assert_eq!(values[1], Ok(Some(b"{}".to_vec()))),
                other => assert!(other.is_err(), "{other:?}"),
            }
            assert_eq!(done[0].1.is_err(), whole, "{result:?}");
        }
    }

    #[test]
    fn many_bulks_share_a_few_places_and_the_oldest_goes_on() {
        let (mut bulks, mut done) = (Bulks::default(), Done::new());
        let now = Instant::now();
        for tag in 0..100 {
            bulks.begin(tag, keys(20), 10, now).unwrap();
        }
        let parts = ask(&mut bulks);
        assert_eq!(parts.len(), OF_ALL_MAX);
        // Two of them hold all the bytes that one may: then only the oldest asks.
        for n in [0, 16] {
            bulks.answered(parts[n].0, value("123456"), &mut done);
        }
        assert_eq!(ask(&mut bulks).len(), 1);
        assert!(done.is_empty());
        // The oldest is over, and the others go on.
        bulks.answered(parts[1].0, value("123456"), &mut done);
        assert_eq!(done, [(0, Ok(Answer::TooLarge))]);
        assert_eq!(ask(&mut bulks).len(), 2);
    }

    #[test]
    fn what_waits_is_bounded_and_has_a_deadline() {
        let (mut bulks, mut done) = (Bulks::default(), Done::new());
        let now = Instant::now();
        let long = || vec![vec![b'x'; 512]; 1000];
        let fit = WAITING_BYTES_MAX / (1000 * (512 + KEY_BYTES));
        for tag in 0..fit as Tag {
            let deadline = now + Duration::from_millis(tag);
            assert_eq!(bulks.begin(tag, long(), 10, deadline), Ok(()));
        }
        let one_more = bulks.begin(99, long(), 10, now);
        assert_eq!(one_more, Err(StoreError::Overloaded));
        assert_eq!(bulks.next_deadline(), Some(now));
        bulks.time_out(now, &mut done);
        assert_eq!(done, [(0, Err(StoreError::Timeout))]);
        assert_eq!(bulks.next_deadline(), Some(now + Duration::from_millis(1)));
        assert_eq!(bulks.begin(99, long(), 10, now), Ok(()));
    }
}
