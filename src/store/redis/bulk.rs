//! Bulks: many GETs, or many DELs, a few at a time.
//!
//! ```text
//! waiting    n4 n5 … n999              keys only
//! under way  n1 n2 n3                  16 of one bulk at the most, 64 of all
//! received   n0                        as many bytes as the bulk may have, then it is over: 413
//! ```
//!
//! Redis would answer a thousand GETs at once as fast as it can, whether or not the client can take them: 1,000 of 1 MB
//! are a gigabyte in its buffers and ours, and every other request waits behind it. So each answer admits the next GET,
//! and a bulk that is over or has failed sends no more. The GETs of all bulks take few enough places in the client that
//! a probe, or any other request, finds one too.
//!
//! A key that holds no string, or a value larger than any document, is an error for that key only. Any other error
//! fails the whole bulk: a failing store must never look like a success.

use super::reply::{error, reply, too_large, wrong_type};
use crate::resp::codec::{Received, Reply};
use crate::resp::request::Failure;
use crate::store::{self, Answer, Found, StoreError, Tag};
use std::collections::VecDeque;

/// GETs of one bulk under way: with small documents 1,000 are read in 63 round trips.
const OF_ONE_MAX: usize = 16;

/// GETs of all bulks under way in one session. A connection takes far more commands than that.
const OF_ALL_MAX: usize = 64;

/// Bytes of the keys that wait for their turn, of all bulks together; a bulk beyond that is refused.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a waiting key costs beside its bytes.
const KEY_BYTES: usize = 48;

/// The bulk reads of one session.
#[derive(Debug, Default)]
pub struct Bulks {
    /// The oldest first.
    bulks: VecDeque<Bulk>,
    under_way: usize,
    /// Bytes of received values, of all bulks.
    there: usize,
    /// Bytes of waiting keys, of all bulks.
    waiting: usize,
}

/// One bulk read.
#[derive(Debug)]
pub struct Bulk {
    tag: Tag,
    keys: Vec<Vec<u8>>,
    values: Vec<Found>,
    /// The index of the next key to read.
    next: usize,
    /// How many of its GETs are under way.
    under_way: usize,
    bytes: usize,
    bytes_max: usize,
    /// It removes its keys; so many were there.
    removes: bool,
    removed: usize,
}

impl Bulks {
    /// Adds a bulk that reads its keys, and may have `bytes_max` bytes of values; or one that removes them.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many keys wait already.
    pub fn begin(
        &mut self,
        tag: Tag,
        keys: Vec<Vec<u8>>,
        bytes_max: usize,
        removes: bool,
    ) -> Result<(), StoreError> {
        let bulk = Bulk {
            tag,
            values: vec![Ok(None); keys.len()],
            keys,
            next: 0,
            under_way: 0,
            bytes: 0,
            bytes_max,
            removes,
            removed: 0,
        };
        if self.waiting + bulk.waiting() > WAITING_BYTES_MAX {
            return Err(StoreError::Overloaded);
        }
        self.waiting += bulk.waiting();
        self.bulks.push_back(bulk);
        Ok(())
    }

    /// Whether there are no bulks.
    pub fn is_empty(&self) -> bool {
        self.bulks.is_empty()
    }

    /// How many keys and bytes are counted for bulks: none without any.
    pub fn counted(&self) -> usize {
        self.under_way + self.there + self.waiting
    }

    /// The next key to read or to remove, which is under way from now on, with the tag of its bulk, its place there,
    /// and whether it is to be removed; `None` while enough commands are under way.
    pub fn ask(&mut self) -> Option<(Tag, usize, &[u8], bool)> {
        let Bulks { bulks, under_way, there, .. } = self;
        if *under_way >= OF_ALL_MAX {
            return None;
        }
        // The oldest bulk always goes on. The others do while all together hold no more than one may.
        let go_on = |(n, bulk): &(usize, &mut Bulk)| *n == 0 || *there <= bulk.bytes_max;
        let is_next = |bulk: &&mut Bulk| bulk.under_way < OF_ONE_MAX && bulk.next < bulk.keys.len();
        let mut bulks = bulks.iter_mut().enumerate().take_while(go_on).map(|(_, bulk)| bulk);
        let bulk = bulks.find(is_next)?;
        *under_way += 1;
        bulk.under_way += 1;
        bulk.next += 1;
        let place = bulk.next - 1;
        Some((bulk.tag, place, bulk.keys.get(place)?, bulk.removes))
    }

    /// Takes the answer to the GET of one key; gives the result of its bulk, if that has ended with it.
    pub fn answered(
        &mut self,
        tag: Tag,
        place: usize,
        result: Result<Received<'_>, Failure>,
    ) -> Option<store::Reply<'static>> {
        // No such bulk: it has ended before.
        let bulk = self.bulks.iter_mut().find(|bulk| bulk.tag == tag)?;
        self.under_way -= 1;
        bulk.under_way -= 1;
        let value = match result {
            Ok(Received::Other(Reply::Error(e))) if e.code == "WRONGTYPE" => Err(error(&e)),
            result => match reply(result).map(Received::into_reply) {
                Ok(Reply::Bulk(value)) => Ok(Some(value)),
                Ok(Reply::Null) => Ok(None),
                Ok(Reply::TooLarge(n)) => Err(too_large(n)),
                Ok(Reply::Integer(n)) if bulk.removes => {
                    bulk.removed += usize::from(n > 0);
                    Ok(None)
                }
                other => {
                    let e = other.err().unwrap_or_else(wrong_type);
                    self.end(tag);
                    return Some(Err(e));
                }
            },
        };
        let bytes = value.as_ref().map_or(0, |v| v.as_ref().map_or(0, Vec::len));
        bulk.bytes += bytes;
        self.there += bytes;
        if let Some(place) = bulk.values.get_mut(place) {
            *place = value;
        }
        let is_too_large = bulk.bytes > bulk.bytes_max;
        if !is_too_large && (bulk.under_way > 0 || bulk.next < bulk.keys.len()) {
            return None;
        }
        let Bulk { values, removes, removed, .. } = self.end(tag)?;
        Some(Ok(match (is_too_large, removes) {
            (true, _) => Answer::TooLarge,
            (false, true) => Answer::Removed(removed),
            (false, false) => Answer::Values(values.into()),
        }))
    }

    /// Ends a bulk. Answers to its GETs that are under way are for nobody then.
    pub fn end(&mut self, tag: Tag) -> Option<Bulk> {
        let place = self.bulks.iter().position(|bulk| bulk.tag == tag)?;
        let bulk = self.bulks.remove(place)?;
        self.under_way -= bulk.under_way;
        self.there -= bulk.bytes;
        self.waiting -= bulk.waiting();
        Some(bulk)
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

    type Ended = Option<store::Reply<'static>>;

    fn keys(n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|n| format!("k{n}").into_bytes()).collect()
    }

    /// Asks for every part that may be under way now.
    fn ask(bulks: &mut Bulks) -> Vec<(usize, String)> {
        std::iter::from_fn(|| {
            let (_, place, key, _) = bulks.ask()?;
            let key = String::from_utf8(key.to_vec()).unwrap();
            Some((place, key))
        })
        .collect()
    }

    fn value(text: &str) -> Result<Received<'_>, Failure> {
        Ok(Received::Bulk(text.as_bytes()))
    }

    #[test]
    fn an_answer_makes_room_for_a_question_and_values_stand_in_order() {
        let mut bulks = Bulks::default();
        bulks.begin(7, keys(40), 1000, false).unwrap();
        let mut under_way = ask(&mut bulks);
        assert_eq!(under_way.len(), 16);
        let (mut order, mut ended) = (Vec::new(), None);
        while let Some((part, key)) = under_way.pop() {
            assert_eq!(ended, None);
            ended = bulks.answered(7, part, value(&key));
            let more = ask(&mut bulks);
            assert!(more.len() <= 1 && under_way.len() + more.len() <= 16);
            under_way.extend(more);
            order.push(key);
        }
        assert_ne!(order, keys(40).iter().map(|k| String::from_utf8_lossy(k)).collect::<Vec<_>>());
        let all = keys(40).into_iter().map(|key| Ok(Some(key))).collect();
        assert_eq!(ended, Some(Ok(Answer::Values(all))));
        assert_eq!((bulks.under_way, bulks.there, bulks.waiting), (0, 0, 0));
        assert!(bulks.is_empty());
    }

    #[test]
    fn a_bulk_beyond_its_bytes_is_over_and_asks_nothing_more() {
        for (bytes_max, over) in [(4, false), (3, true)] {
            let mut bulks = Bulks::default();
            bulks.begin(7, keys(17), bytes_max, false).unwrap();
            let parts = ask(&mut bulks);
            assert_eq!(bulks.answered(7, parts[0].0, value("xx")), None);
            let ended = bulks.answered(7, parts[1].0, value("xx"));
            assert_eq!(ended == Some(Ok(Answer::TooLarge)), over);
            assert_eq!(ask(&mut bulks).len(), usize::from(!over));
            // Answers to parts that were under way are dropped.
            for (part, _) in &parts[2..] {
                assert_eq!(bulks.answered(7, *part, value("")), None);
            }
            assert_eq!(bulks.under_way, usize::from(!over));
        }
    }

    #[test]
    fn what_is_no_document_has_its_own_place_and_trouble_is_everybodys() {
        let other = |reply| Ok(Received::Other(reply));
        let error = |text: &str| other(Reply::Error(ErrorReply::parse(text.as_bytes())));
        for (result, whole) in [
            (value("{}"), false),
            (other(Reply::Null), false),
            (error("WRONGTYPE Operation against a key"), false),
            (other(Reply::TooLarge(5_000_000)), false),
            (error("NOPERM this user has no permissions"), true),
            (error("LOADING Redis is loading"), true),
            (Err(Failure::Overloaded), true),
            (Err(Failure::Timeout), true),
        ] {
            let mut bulks = Bulks::default();
            bulks.begin(7, keys(2), 1000, false).unwrap();
            let parts = ask(&mut bulks);
            let shown = format!("{result:?}");
            let first = bulks.answered(7, parts[0].0, result);
            let second: Ended = bulks.answered(7, parts[1].0, value("{}"));
            assert_eq!(first.is_some(), whole, "{shown}");
            assert_eq!(second.is_some(), !whole, "{shown}");
            match first.or(second).unwrap() {
                Ok(Answer::Values(values)) => assert_eq!(values[1], Ok(Some(b"{}".to_vec()))),
                other => assert!(other.is_err() && whole, "{other:?}"),
            }
        }
    }

    #[test]
    fn many_bulks_share_a_few_places_and_the_oldest_goes_on() {
        let mut bulks = Bulks::default();
        for tag in 0..100 {
            bulks.begin(tag, keys(20), 10, false).unwrap();
        }
        assert_eq!(ask(&mut bulks).len(), OF_ALL_MAX);
        // The received bytes of two bulks reach the limit of one: then only the oldest sends more.
        for tag in [0, 1] {
            assert_eq!(bulks.answered(tag, 0, value("123456")), None);
        }
        assert_eq!(ask(&mut bulks).len(), 1);
        // The oldest is over, and the others go on.
        assert_eq!(bulks.answered(0, 1, value("123456")), Some(Ok(Answer::TooLarge)));
        assert_eq!(ask(&mut bulks).len(), 1 + 16);
    }

    #[test]
    fn what_waits_is_bounded_and_one_that_is_ended_makes_room() {
        let mut bulks = Bulks::default();
        let long = || vec![vec![b'x'; 512]; 1000];
        let fit = WAITING_BYTES_MAX / (1000 * (512 + KEY_BYTES));
        for tag in 0..fit as Tag {
            bulks.begin(tag, long(), 10, false).unwrap();
        }
        assert_eq!(bulks.begin(99, long(), 10, false), Err(StoreError::Overloaded));
        let (tag, place, ..) = bulks.ask().unwrap();
        assert_eq!((tag, place), (0, 0));
        bulks.end(tag);
        assert!(bulks.begin(99, long(), 10, false).is_ok());
        // The answer to its part is dropped.
        assert_eq!(bulks.answered(tag, place, Err(Failure::Timeout)), None);
        assert_eq!(bulks.under_way, 0);
    }
}
