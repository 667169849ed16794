//! The entity tag of a document: a hash of its bytes, the same on every replica and version.
//!
//! MurmurHash3 x64 128 (Austin Appleby, public domain; written from its description, checked against published
//! vectors). A standard library hasher would not do: its result may change with the compiler, and two replicas must
//! agree. It is no defence against a client that constructs two documents with one tag, and need not be: a conditional
//! write compares the tag here and then the *whole old document* in the store, in one atomic step.

use crate::http::Tag;

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The strong entity tag (RFC 9110 §8.8.3) of `document`.
pub fn etag(document: &[u8]) -> Tag {
    let (a, b) = murmur3(document);
    let mut tag = [b'"'; 34];
    tag[1..17].copy_from_slice(&hex(a));
    tag[17..33].copy_from_slice(&hex(b));
    tag
}

/// Sixteen lower-case hexadecimal digits.
pub fn hex(n: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(n.to_be_bytes()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    digits
}

/// The two digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

fn murmur3(data: &[u8]) -> (u64, u64) {
    let (mut h1, mut h2) = (0u64, 0u64);
    let mut blocks = data.chunks_exact(16);
    for block in blocks.by_ref() {
        let (k1, k2) = lanes(block);
        h1 = (h1 ^ mix1(k1))
            .rotate_left(27)
            .wrapping_add(h2)
            .wrapping_mul(5)
            .wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2))
            .rotate_left(31)
            .wrapping_add(h1)
            .wrapping_mul(5)
            .wrapping_add(0x3849_5ab5);
    }
    let (k1, k2) = lanes(blocks.remainder());
    h1 ^= mix1(k1) ^ data.len() as u64;
    h2 ^= mix2(k2) ^ data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

/// Up to 16 bytes as two little-endian words, filled up with zeros.
fn lanes(bytes: &[u8]) -> (u64, u64) {
    let mut block = [0; 16];
    block[..bytes.len()].copy_from_slice(bytes);
    let n = u128::from_le_bytes(block);
    (n as u64, (n >> 64) as u64)
}

fn mix1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with the reference implementation (seed 0).
    #[test]
    fn agrees_with_the_reference() {
        for (text, h1, h2) in [
            ("", 0, 0),
            ("a", 0x85555565f6597889, 0xe6b53a48510e895a),
            ("hello", 0xcbd8a7b341bd9b02, 0x5b1e906a48ae1d19),
            ("hello, world", 0x342fac623a5ebc8e, 0x4cdcbc079642414d),
            ("The quick brown fox jumps over the lazy dog", 0xe34bbc7bbc071b6c, 0x7a433ca9c49a9347),
        ] {
            assert_eq!(murmur3(text.as_bytes()), (h1, h2), "{text}");
        }
    }

    #[test]
    fn is_quoted_and_differs_for_every_length_around_a_block() {
        let tags: std::collections::HashSet<Tag> = (0..64).map(|n| etag(&vec![0; n])).collect();
        assert_eq!(tags.len(), 64);
        for tag in tags {
            let inner = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).unwrap();
            assert!(inner.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        }
    }

    #[test]
    fn hex_is_as_the_format_machinery_prints_it() {
        for n in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(hex(n), format!("{n:016x}").as_bytes());
        }
    }
}
