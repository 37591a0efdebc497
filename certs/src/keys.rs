//! API and admin keys: shown once, kept as a digest.
//!
//! A key is `cvk_` or `cvadm_` and the base62 of 32 random bytes with their CRC-32, so that a
//! damaged key is told apart from a wrong one without looking anything up.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::base62;
use crate::key::sha256;
use crate::random;
use crate::secret::SecretText;
use crate::text::text_codec;

/// Random bytes in a key.
const KEY_BYTES: usize = 32;

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// A caller's key at the edge: `cvk_`.
    Api,
    /// An operator's key at the admin API: `cvadm_`.
    Admin,
}

impl KeyKind {
    /// What keys of this kind start with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Api => "cvk_",
            Self::Admin => "cvadm_",
        }
    }
}

/// A key in plain text. Masked when formatted, wiped when dropped.
#[derive(Debug, Clone)]
pub struct SecretKey {
    kind: KeyKind,
    text: SecretText,
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    /// The text starts with no prefix of ours.
    #[error("not a key: it starts neither with cvk_ nor with cvadm_")]
    NotAKey,
    /// The checksum does not fit.
    #[error("the key is damaged: was it copied whole?")]
    Damaged,
}

impl SecretKey {
    /// A fresh key.
    pub fn generate(kind: KeyKind) -> Self {
        let bytes = Zeroizing::new(random::bytes::<KEY_BYTES>());
        let body = base62::encode_checked(&*bytes);
        let text = Zeroizing::new(format!("{}{}", kind.prefix(), *body));
        Self {
            kind,
            text: text.into(),
        }
    }

    /// What the key opens.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The text: shown once, to the one who asked for the key.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// What is kept of the key.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.expose())
    }
}

impl FromStr for SecretKey {
    type Err = SecretKeyError;

    fn from_str(text: &str) -> Result<Self, SecretKeyError> {
        let (kind, body) = [KeyKind::Api, KeyKind::Admin]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind.prefix())?)))
            .ok_or(SecretKeyError::NotAKey)?;
        let bytes = base62::decode_checked(body, KEY_BYTES);
        if bytes.is_none_or(|bytes| bytes.len() != KEY_BYTES) {
            return Err(SecretKeyError::Damaged);
        }
        Ok(Self {
            kind,
            text: text.to_owned().into(),
        })
    }
}

/// SHA-256 of a key's text: what is stored, and what a presented key is looked up by.
///
/// Comparing takes the same time wherever two digests differ. Spelled in hexadecimal.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of whatever a caller presented; a text that is no key matches nothing.
    pub fn of(presented: &str) -> Self {
        Self(sha256(presented.as_bytes()))
    }

    /// The digest itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest is 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's digest is 64 lower-case hexadecimal digits")]
pub struct KeyDigestError;

impl FromStr for KeyDigest {
    type Err = KeyDigestError;

    fn from_str(text: &str) -> Result<Self, KeyDigestError> {
        let bytes = HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| KeyDigestError)?;
        bytes.try_into().map(Self).map_err(|_| KeyDigestError)
    }
}

text_codec!(KeyDigest);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_recognised_by_its_digest() {
        for kind in [KeyKind::Api, KeyKind::Admin] {
            let key = SecretKey::generate(kind);
            let parsed: SecretKey = key.expose().parse().unwrap();
            assert_eq!(parsed.kind(), kind);
            assert_eq!(parsed.digest(), key.digest());
            assert_eq!(key.expose().len(), kind.prefix().len() + 49);
            assert_eq!(key.digest().to_string().parse(), Ok(key.digest()));
        }
    }

    #[test]
    fn a_key_is_masked() {
        let key = SecretKey::generate(KeyKind::Api);
        assert!(!format!("{key:?}").contains(key.expose()));
    }

    #[test]
    fn damaged_and_foreign_texts_are_told_apart() {
        let key = SecretKey::generate(KeyKind::Api);
        let text = key.expose();
        let cut = &text[..text.len() - 1];
        assert_eq!(
            cut.parse::<SecretKey>().unwrap_err(),
            SecretKeyError::Damaged
        );
        let short = format!("cvk_{}", *base62::encode_checked(&[7; 16]));
        assert_eq!(
            short.parse::<SecretKey>().unwrap_err(),
            SecretKeyError::Damaged
        );
        let foreign = "sk-proj-x".parse::<SecretKey>();
        assert_eq!(foreign.unwrap_err(), SecretKeyError::NotAKey);
    }

    proptest! {
        #[test]
        fn garbage_never_parses_and_never_panics(text in "(cvk_|cvadm_)?\\PC{0,80}") {
            prop_assert!(text.parse::<SecretKey>().is_err());
        }
    }
}
