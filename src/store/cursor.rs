//! How the cursors of all stores begin: a version, and a check of what they were made for.
//!
//! ```text
//! 03 | FNV-1a of `item:a`, 8 bytes | the store's own position
//! ```
//!
//! Clients hold cursors and send them back, so a cursor contains no key, and nothing in it is trusted beyond "continue
//! about there": a client that makes up a cursor gets some page of the prefix it asks for. The check is only against
//! mistakes, such as a cursor that is sent with another prefix; it must be the same on all replicas and in all versions
//! of kioskd.

/// Cursors of any other version are refused.
const VERSION: u8 = 3;

/// The beginning of a cursor for keys with `prefix` (the collection's included).
pub fn begin(prefix: &[u8]) -> Vec<u8> {
    let mut cursor = vec![VERSION];
    cursor.extend_from_slice(&hash(prefix).to_be_bytes());
    cursor
}

/// What follows that beginning; `None` when the cursor was made for another prefix, or not by kioskd.
pub fn position<'a>(cursor: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    cursor.strip_prefix(begin(prefix).as_slice())
}

/// FNV-1a, 64 bits: for names and checks that are not worth forging.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the algorithm's authors.
    #[test]
    fn the_hash_is_fnv_1a() {
        for (text, expected) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_prefix_only() {
        let mut cursor = begin(b"item:a");
        assert_eq!(position(&cursor, b"item:a"), Some(&b""[..]));
        cursor.push(7);
        assert_eq!(position(&cursor, b"item:a"), Some(&[7][..]));
        for other in [&b"item:"[..], b"item:ab", b"sess:a", b""] {
            assert_eq!(position(&cursor, other), None);
        }
        assert_eq!(position(&cursor[..8], b"item:a"), None);
        cursor[0] += 1;
        assert_eq!(position(&cursor, b"item:a"), None);
    }
}
