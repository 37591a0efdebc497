//! Bytes as base62 with a checksum: the body of keys and tokens that people copy by hand.
//!
//! The text is the number that the bytes spell, in digits `0-9A-Za-z`, padded to the width that
//! the count of bytes needs. So each count of bytes has one width, and each value one spelling.

use zeroize::Zeroizing;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CRC_BYTES: usize = 4;

/// log2(62) times 10^9, rounded down: enough for texts far longer than any of ours.
const BITS_PER_DIGIT_E9: usize = 5_954_196_310;

/// The text of `bytes` with their CRC-32 after them.
pub(crate) fn encode_checked(bytes: &[u8]) -> Zeroizing<String> {
    let mut number = Zeroizing::new(bytes.to_vec());
    number.extend_from_slice(&crc32fast::hash(bytes).to_be_bytes());
    encode(&mut number)
}

/// The bytes of a text whose CRC-32 fits; none for anything else, longer texts than `max_bytes`
/// included.
pub(crate) fn decode_checked(text: &str, max_bytes: usize) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() > width(max_bytes + CRC_BYTES) {
        return None;
    }
    let mut bytes = decode(text)?;
    let body = bytes.len().checked_sub(CRC_BYTES)?;
    let (value, crc) = bytes.split_at(body);
    if crc != crc32fast::hash(value).to_be_bytes() {
        return None;
    }
    bytes.truncate(body);
    Some(bytes)
}

/// Digits that `count` bytes need.
fn width(count: usize) -> usize {
    (count * 8 * 1_000_000_000).div_ceil(BITS_PER_DIGIT_E9)
}

/// Divides `number` (big-endian, used up) by 62 for each digit, the lowest first.
fn encode(number: &mut [u8]) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(vec![0; width(number.len())]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let value = (remainder << 8) | u32::from(*byte);
            // The remainder is below 62, so the quotient is below 256.
            *byte = (value / 62) as u8;
            remainder = value % 62;
        }
        *digit = DIGITS[remainder as usize];
    }
    Zeroizing::new(digits.iter().map(|digit| char::from(*digit)).collect())
}

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let count = text.len() * BITS_PER_DIGIT_E9 / (8 * 1_000_000_000);
    if width(count) != text.len() {
        return None;
    }
    let mut number = Zeroizing::new(vec![0_u8; count]);
    for digit in text.bytes() {
        let mut carry = u32::from(digit_value(digit)?);
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 62 + carry;
            // The low eight bits stay, the rest is carried.
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

fn digit_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'Z' => Some(digit - b'A' + 10),
        b'a'..=b'z' => Some(digit - b'a' + 36),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_spellings() {
        assert_eq!(encode(&mut [0]).as_str(), "00");
        assert_eq!(encode(&mut [61]).as_str(), "0z");
        assert_eq!(encode(&mut [255]).as_str(), "47");
        assert_eq!(encode(&mut [0, 0, 62]).as_str(), "00010");
        assert_eq!(width(36), 49);
        assert!(decode("zz").is_none(), "more than a byte");
        assert!(decode("0").is_none(), "no count of bytes is one digit wide");
    }

    proptest! {
        #[test]
        fn round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = encode_checked(&bytes);
            prop_assert_eq!(decode_checked(&text, 200).unwrap().to_vec(), bytes);
        }

        #[test]
        fn one_changed_digit_is_noticed(
            bytes in proptest::collection::vec(any::<u8>(), 1..64),
            place in any::<prop::sample::Index>(),
            digit in "[0-9A-Za-z]",
        ) {
            let text = encode_checked(&bytes);
            let at = place.index(text.len());
            let mut changed = text.to_string();
            changed.replace_range(at..=at, &digit);
            // A CRC-32 misses one change in four thousand million.
            prop_assert_eq!(decode_checked(&changed, 64).is_some(), changed == *text);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,300}") {
            decode_checked(&text, 100);
        }
    }
}
