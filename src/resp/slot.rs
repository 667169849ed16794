//! Which of a cluster's 16,384 slots a key is in (Redis Cluster specification, "Key distribution model" and "Hash
//! tags").
//!
//! A slot is the key's CRC16 modulo 16,384. If the key has a `{tag}`, only the tag counts, so that
//! keys which belong together can be kept together:
//!
//! ```
//! use kioskd::resp::slot::slot;
//!
//! assert_eq!(slot(b"item:{42}:data"), slot(b"item:{42}:lock"));
//! ```
//!
//! The CRC is CRC-16/XMODEM: polynomial 0x1021, no reflection, starting from 0.

/// The number of slots.
pub const SLOTS: u16 = 16_384;

/// The slot of `key`, below [`SLOTS`].
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// The text between the first `{` and the first `}` after it, unless it is empty. Later braces do not count, even if
/// the first pair is empty.
pub fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let inside = &key[open + 1..];
    let close = inside.iter().position(|&byte| byte == b'}')?;
    (close > 0).then(|| &inside[..close])
}

/// A tag of this slot, to be put between braces. Of two bytes there is one pair for each value of the CRC, which is found
/// by dividing backwards; four values belong to a slot, and one of them has no brace in its pair.
pub fn tag_in(slot: u16) -> [u8; 2] {
    let back = |crc: u16| if crc & 1 == 0 { crc >> 1 } else { (crc ^ 0x1021) >> 1 | 0x8000 };
    let pair = |crc| (0..16).fold(crc, |crc, _| back(crc)).to_be_bytes();
    let pairs = (0..4).map(|n| pair(slot % SLOTS + n * SLOTS));
    pairs.reduce(|good, other| if good.contains(&b'}') { other } else { good }).unwrap_or_default()
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = (crc >> 8) as u8 ^ byte;
        (crc << 8) ^ TABLE[usize::from(index)]
    })
}

/// The CRC of every single byte, computed by the compiler.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    // From `CLUSTER KEYSLOT` of redis-server 7.0.15.
    #[test]
    fn agrees_with_a_real_server() {
        for (key, expected) in [
            (b"123456789" as &[u8], 12739),
            (b"", 0),
            (b"foo{}bar", 14292),
            (b"{user}x", 5474),
            (b"foo{{bar}}zap", 4015),
            (b"{bar", 4015),
            (b"foo{bar}{zap}", 5061),
            (b"}{a}", 15495),
            (b"foo{bar}", 5061),
            (b"a", 15495),
            (b"item:{42}:data", 8000),
            (b"x{}{a}", 15756),
            (b"x}a{", 10760),
            (b"{", 4092),
            (b"{}", 15257),
            (b"}", 12090),
            (b"{a}{b}", 15495),
            (b"kiosk:i:session:42", 12748),
            (b"\0\xff\r\n", 6261),
        ] {
            assert_eq!(slot(key), expected, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn every_slot_has_a_tag() {
        assert!((0..SLOTS).all(|at| slot(&[b"item:{", &tag_in(at)[..], b"}"].concat()) == at));
    }

    // The check value of CRC-16/XMODEM in the catalogue of CRC algorithms.
    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_tag_needs_both_braces_and_something_between() {
        for (key, tag) in [
            (b"{a}" as &[u8], Some(b"a" as &[u8])),
            (b"x{a}y{b}", Some(b"a")),
            (b"x{{a}y", Some(b"{a")),
            (b"}x{a}", Some(b"a")),
            (b"x{}{a}", None),
            (b"x{a", None),
            (b"x}a{", None),
            (b"x", None),
            (b"", None),
        ] {
            assert_eq!(hash_tag(key), tag, "{}", key.escape_ascii());
        }
    }
}
