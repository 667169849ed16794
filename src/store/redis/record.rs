//! The key of a record: in the slot of its item, so that one script may use both.
//!
//! ```text
//! item:7       ─▶ idem:{item:7}::KEY               a key without braces is a tag as it is
//! item:{a}b    ─▶ idem:{a}::KEY⏎item:{a}b          it has a tag; but so does `item:{a}c`, hence the rest
//! item:a}b     ─▶ idem:{1042}::KEY⏎item:a}b        no tag can hold it: a number with the same slot
//! ```
//!
//! The space between the braces and the name is reserved for the name of a token. See the Redis Cluster specification,
//! "Hash tags". No id holds a line feed, so two items never share a key.

use crate::resp::slot::{SLOTS, hash_tag, slot};
use std::sync::OnceLock;

/// The key under which the write `name` on `item`, whole key, is recorded; `before` stands before every key.
pub fn record_key(before: &[u8], item: &[u8], name: &[u8]) -> Vec<u8> {
    let (mut key, number);
    let tag = match hash_tag(item) {
        Some(tag) => tag,
        None if !item.contains(&b'}') => item,
        None => {
            number = number_in(slot(item)).to_string();
            number.as_bytes()
        }
    };
    key = [before, b"idem:{", tag, b"}:", name].concat();
    if tag != item {
        key.push(b'\n');
        key.extend_from_slice(item);
    }
    key
}

/// The numbers below this cover all slots; with one less, one slot would have no number.
const NUMBERS: u32 = 109_758;

/// The smallest number whose digits hash to this slot. The table is made when it is first needed.
fn number_in(slot_wanted: u16) -> u32 {
    static TABLE: OnceLock<Vec<u32>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = vec![0; usize::from(SLOTS)];
        // In descending order, so that the smallest number is written last.
        for number in (0..NUMBERS).rev() {
            table[usize::from(slot(number.to_string().as_bytes()))] = number;
        }
        table
    });
    table[usize::from(slot_wanted)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_record_is_in_the_slot_of_its_item_whatever_its_id_is_made_of() {
        let pieces = ["", "a", "{", "}", "{}", "}{", "{{", "}}", "7"];
        let mut keys = HashSet::new();
        let mut items = HashSet::new();
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let item = format!("item:{a}{b}{c}");
                    if !items.insert(item.clone()) {
                        continue;
                    }
                    for name in [":k", ":{x}", ":}{", ":{}"] {
                        let key = record_key(b"", item.as_bytes(), name.as_bytes());
                        assert_eq!(slot(&key), slot(item.as_bytes()), "{item} {name}");
                        assert!(keys.insert(key), "{item} {name}: not its own");
                    }
                }
            }
        }
    }

    #[test]
    fn keys_are_as_the_contract_spells_them() {
        for (item, key) in [
            ("item:7", "idem:{item:7}::k"),
            ("item:{a", "idem:{item:{a}::k"),
            ("item:{a}b", "idem:{a}::k\nitem:{a}b"),
            ("item:}{a}", "idem:{a}::k\nitem:}{a}"),
        ] {
            assert_eq!(record_key(b"", item.as_bytes(), b":k"), key.as_bytes());
        }
        let numbered = record_key(b"", b"item:a}b", b":k");
        let text = String::from_utf8(numbered).unwrap();
        let number = text.strip_prefix("idem:{").and_then(|t| t.split_once('}'));
        assert!(number.is_some_and(|(n, _)| n.parse::<u32>().is_ok()), "{text}");
        assert!(text.ends_with("}::k\nitem:a}b"), "{text}");
    }

    #[test]
    fn every_slot_has_a_number() {
        for wanted in 0..SLOTS {
            assert_eq!(slot(number_in(wanted).to_string().as_bytes()), wanted);
        }
    }
}
