//! Identifiers on the wire: 16 bytes each, minted elsewhere, compared here.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::limits::SERVICE_NAME_MAX_BYTES;

/// A text that is no identifier or name of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct InvalidId(&'static str);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $show:ident, $parse:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

        impl $name {
            /// The identifier of these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $show(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $show(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                $parse(text).map(Self).ok_or(InvalidId($what))
            }
        }

        impl From<[u8; 16]> for $name {
            fn from(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }
    };
}

id! {
    /// One session: the life of a link, over one or more connections. Minted by the relay.
    SessionId, "session id", show_base32, parse_base32
}
id! {
    /// One start of an agent.
    InstanceId, "instance id", show_base32, parse_base32
}
id! {
    /// One gateway process of a plane.
    ReplicaId, "replica id", show_base32, parse_base32
}
id! {
    /// One request of a caller, a UUIDv7 minted at the edge.
    RequestId, "request id", show_uuid, parse_uuid
}

/// One attempt of one request: what `Open`, `Ask` and `Forward` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(map)]
pub struct CallId {
    /// The request.
    #[n(0)]
    pub request: RequestId,
    /// Its attempt, from 0.
    #[cbor(n(1), default)]
    pub attempt: u8,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.request, self.attempt)
    }
}

impl FromStr for CallId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (request, attempt) = text.split_once('.').ok_or(InvalidId("call id"))?;
        let canonical = attempt == "0" || !attempt.starts_with(['0', '+']);
        Ok(Self {
            request: request.parse()?,
            attempt: attempt
                .parse()
                .ok()
                .filter(|_| canonical)
                .ok_or(InvalidId("call id"))?,
        })
    }
}

/// The name of a service in an agent's own file: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Box<str>);

impl ServiceName {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// The text is not a DNS label in lower case.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let valid = (1..=SERVICE_NAME_MAX_BYTES).contains(&bytes.len())
            && bytes.iter().all(inner)
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("service name"))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for ServiceName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ServiceName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for ServiceName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<&str> for ServiceName {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::new(&text)
    }
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 128 bits in groups of five.
const BASE32_CHARS: u32 = 26;

/// RFC 4648 base32, lower case, no padding: also how certificates spell these ids.
fn show_base32(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let value = u128::from_be_bytes(*bytes);
    let mut text = String::with_capacity(BASE32_CHARS as usize);
    for index in 0..BASE32_CHARS {
        let end = 5 * (index + 1);
        let group = if end <= 128 {
            value >> (128 - end)
        } else {
            value << (end - 128)
        };
        text.push(char::from(BASE32[(group & 31) as usize]));
    }
    f.write_str(&text)
}

fn parse_base32(text: &str) -> Option<[u8; 16]> {
    if text.len() != BASE32_CHARS as usize {
        return None;
    }
    let (head, last) = text.as_bytes().split_at(text.len() - 1);
    let digit = |byte: &u8| BASE32.iter().position(|c| c == byte).map(|at| at as u128);
    let mut value = 0u128;
    for byte in head {
        value = value << 5 | digit(byte)?;
    }
    // The last character holds three bits, and two that are zero.
    let last = digit(&last[0]).filter(|digit| digit & 3 == 0)?;
    Some((value << 3 | last >> 2).to_be_bytes())
}

fn show_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let canonical = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
    if !canonical {
        return None;
    }
    let digits: String = text.split('-').collect();
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 16] = [
        0x01, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0x7e, 0xff, 0x80, 1, 2, 3, 4, 5, 6, 0xff,
    ];

    #[test]
    fn ids_show_and_parse() {
        let session = SessionId::from_bytes(BYTES);
        assert_eq!(session.to_string(), "agm2vo6m3v7p7aabaibqibig74");
        assert_eq!(session.to_string().parse(), Ok(session));
        let request = RequestId::from_bytes(BYTES);
        assert_eq!(request.to_string(), "0199aabb-ccdd-7eff-8001-0203040506ff");
        assert_eq!(request.to_string().parse(), Ok(request));
        for bytes in [[0; 16], [0xff; 16]] {
            let replica = ReplicaId::from_bytes(bytes);
            assert_eq!(replica.to_string().len(), 26);
            assert_eq!(replica.to_string().parse(), Ok(replica));
        }
    }

    #[test]
    fn spellings_that_are_not_canonical_are_refused() {
        for text in [
            "",
            "a",
            "aaaaaaaaaaaaaaaaaaaaaaaaab",
            "AAAAAAAAAAAAAAAAAAAAAAAAAA",
            "é",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
        for text in [
            "0199AABB-ccdd-7eff-8001-0203040506ff",
            "0199aabbccdd7eff80010203040506ff",
            "+",
        ] {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
        let request = RequestId::from_bytes(BYTES);
        let call = CallId {
            request,
            attempt: 7,
        };
        assert_eq!(call.to_string().parse(), Ok(call));
        for attempt in ["07", "+7", "", "256", "-0"] {
            assert!(
                format!("{request}.{attempt}").parse::<CallId>().is_err(),
                "{attempt}"
            );
        }
    }

    #[test]
    fn service_names_are_lower_case_labels() {
        for name in ["a", "llama", "a-b", "0", &"x".repeat(63)] {
            assert_eq!(ServiceName::new(name).expect(name), *name);
        }
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "ä",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(ServiceName::new(name).is_err(), "{name}");
        }
    }
}
