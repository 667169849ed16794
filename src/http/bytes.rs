//! The alphabets of HTTP/1.1 as one table: which bytes are allowed where.
//!
//! A scanner calls `run` for the longest prefix in an alphabet and checks the one byte that stopped it. So every error
//! belongs to exactly one byte.

use super::ParseError;

/// `tchar`: methods and field names (RFC 9110 §5.6.2).
pub(super) const TOKEN: u8 = 1;
/// Visible ASCII without `#`: a fragment is never sent to a server (RFC 9110 §7.1).
pub(super) const TARGET: u8 = 2;
/// The same without the `?` that ends a path.
pub(super) const PATH: u8 = 16;
/// `field-content`: HTAB, SP, visible ASCII and obs-text (RFC 9110 §5.5).
pub(super) const VALUE: u8 = 4;
/// Characters of a `reg-name` that are not escaped, but for the comma (RFC 3986 §3.2.2).
pub(super) const REG_NAME: u8 = 8;

const ALPHABETS: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        if byte.is_ascii_alphanumeric() {
            table[i] |= TOKEN | REG_NAME;
        }
        if byte.is_ascii_graphic() && byte != b'#' {
            table[i] |= if byte == b'?' { TARGET } else { TARGET | PATH };
        }
        if byte == b'\t' || byte == b' ' || byte.is_ascii_graphic() || byte >= 0x80 {
            table[i] |= VALUE;
        }
        i += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] |= TOKEN;
        i += 1;
    }
    let marks = b"-._~!$&'()*+;=";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] |= REG_NAME;
        i += 1;
    }
    table
};

/// How many bytes at the front of `bytes` belong to `alphabet`.
///
/// One table look-up for each byte, and one check of the length for every eight.
#[inline]
pub(super) fn run(bytes: &[u8], alphabet: u8) -> usize {
    let is_in = |byte: u8| ALPHABETS[usize::from(byte)] & alphabet != 0;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        if let Some(i) = eight.iter().position(|byte| !is_in(*byte)) {
            return at + i;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at)
        && is_in(*byte)
    {
        at += 1;
    }
    at
}

/// The same for [`VALUE`]: values are long, and the bytes that end them are easily told from text, eight bytes at a
/// time.
#[inline]
pub(super) fn run_of_value(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let mut suspects = controls(word);
        while suspects != 0 {
            let bit = suspects.trailing_zeros() - 7;
            if ALPHABETS[usize::from((word >> bit) as u8)] & VALUE == 0 {
                return at + bit as usize / 8;
            }
            suspects &= suspects - 1;
        }
        at += 8;
    }
    at + run(&bytes[at..], VALUE)
}

/// Sets the highest bit of each byte of `word` that may be a control byte, and no other bits: in all bytes below 0x20,
/// subtracting 0x20 sets that bit, and in DEL, adding 1 does. The bytes from 0x80 on get it too, and so may a byte
/// whose neighbour has borrowed or carried; therefore each is looked up once more.
fn controls(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    (word.wrapping_sub(ONES * 0x20) | word.wrapping_add(ONES)) & (ONES * 0x80)
}

/// The error for a misplaced byte: its own, or that of the `place` where it was found.
///
/// CR is left to the place, which knows whether a line may end there.
pub(super) fn misplaced(byte: u8, place: ParseError) -> ParseError {
    match byte {
        b'\n' => ParseError::BareLf,
        b'\t' | b'\r' => place,
        _ if byte.is_ascii_control() => ParseError::ControlByte,
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(alphabet: u8) -> Vec<u8> {
        (0..=255).filter(|&byte| run(&[byte], alphabet) == 1).collect()
    }

    #[test]
    fn alphabets_are_those_of_the_rfc() {
        let token = members(TOKEN);
        assert_eq!(token.len(), 26 + 26 + 10 + 15);
        assert!(!token.iter().any(|b| b"\"(),/:;<=>?@[\\]{} ".contains(b)));

        let target = members(TARGET);
        assert_eq!(target.len(), 0x7E - 0x21);
        assert!(!target.contains(&b'#') && !target.contains(&b' '));

        let path = members(PATH);
        assert_eq!(path, target.iter().copied().filter(|b| *b != b'?').collect::<Vec<_>>());

        let value = members(VALUE);
        assert_eq!(value.len(), 1 + (0x7F - 0x20) + 128);
        assert!(!value.contains(&0x7F) && !value.contains(&b'\r'));

        let reg_name = members(REG_NAME);
        assert_eq!(reg_name.len(), 26 + 26 + 10 + 4 + 10);
        assert!(!reg_name.iter().any(|b| b"%,:/?#[]@".contains(b)));
    }

    #[test]
    fn eight_bytes_at_a_time_are_judged_as_one_at_a_time() {
        for place in 0..17 {
            for byte in 0..=255 {
                for filler in [b'a', b' ', b'\t', 0x80, 0xff, 0x7e, 0x20] {
                    let mut bytes = [filler; 17];
                    bytes[place] = byte;
                    let wanted =
                        bytes.iter().take_while(|b| ALPHABETS[usize::from(**b)] & VALUE != 0);
                    assert_eq!(run_of_value(&bytes), wanted.count(), "{bytes:?}");
                }
            }
        }
    }
}
