//! Secrets at rest: AES-256-GCM under a key from a file or from the environment.
//!
//! A sealed text names its key and is bound to the kind, tenant and name of what it is, so that a
//! ciphertext cannot be moved to where another one belongs. Two keys exist in a deployment: the
//! authority key opens the authority and is control's alone, the plane key opens everything else.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use data_encoding::{BASE64, HEXLOWER};
use zeroize::Zeroizing;

use crate::files;
use crate::key::sha256;
use crate::name::TenantName;
use crate::proof::SignedInput;
use crate::random;

const DOMAIN: &[u8] = b"culvert-seal-v1\0";
const KEY_ID_DOMAIN: &[u8] = b"culvert-seal-key-v1\0";
const DERIVE_DOMAIN: &[u8] = b"culvert-derive-v1\0";

/// First byte of every sealed text.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// A 256-bit key that secrets are sealed under. Masked when formatted, wiped when dropped.
///
/// Nonces are random: a key seals at most 2^32 texts before two nonces are likely enough to be
/// equal to matter; a busy control plane seals a few a minute.
#[derive(Clone)]
pub struct SealingKey {
    bytes: Zeroizing<[u8; 32]>,
    id: SealingKeyId,
}

/// What a sealed text names its key by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SealingKeyId([u8; KEY_ID_LEN]);

impl fmt::Display for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a key could not be had, or a text not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file could not be read or made.
    #[error("the key file could not be read or made")]
    File(#[source] io::Error),
    /// The environment variable is not set.
    #[error("the environment variable with the key is not set")]
    Missing,
    /// A key is 32 bytes in base64.
    #[error("a sealing key is 32 bytes in base64")]
    BadKey,
    /// The text is not a sealed one.
    #[error("the sealed text is malformed")]
    Malformed,
    /// The text names another key.
    #[error("sealed under key {0}, which is not at hand")]
    OtherKey(SealingKeyId),
    /// The text was changed, or belongs somewhere else.
    #[error("the sealed text was changed or moved")]
    Refused,
}

/// What a sealed text is, and where it belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The kind of secret.
    pub kind: &'a str,
    /// The tenant that it belongs to; none for what concerns all.
    pub tenant: Option<&'a TenantName>,
    /// Its name within kind and tenant.
    pub name: &'a str,
}

impl SealingKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(random::bytes()))
    }

    /// The key in a file: one line of base64. Where there is no file and `create` is set, a fresh
    /// key is written, readable by the owner only; a file that is there is never replaced.
    pub fn from_file(path: &Path, create: bool) -> Result<Self, SealError> {
        match files::read_bounded(path) {
            Ok(bytes) => Self::from_base64(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let key = Self::generate();
                let line = Zeroizing::new(format!("{}\n", *key.to_base64()));
                files::create_private(path, line.as_bytes()).map_err(SealError::File)?;
                Ok(key)
            }
            Err(error) => Err(SealError::File(error)),
        }
    }

    /// The key in an environment variable: base64.
    pub fn from_env(variable: impl AsRef<OsStr>) -> Result<Self, SealError> {
        let text = std::env::var_os(variable).ok_or(SealError::Missing)?;
        Self::from_base64(text.as_encoded_bytes())
    }

    /// What sealed texts name this key by.
    pub fn id(&self) -> SealingKeyId {
        self.id
    }

    /// Seals `plaintext` for one place.
    pub fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut body = Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(plaintext);
        self.cipher()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                self.binding(place),
                &mut body,
            )
            .map_err(|_| SealError::Refused)?;
        Ok([&[VERSION][..], &self.id.0, &nonce, &body].concat())
    }

    /// Opens what was sealed for the same place under this key.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, body) = sealed
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(SealError::Malformed)?;
        let [version, rest @ ..] = header;
        if *version != VERSION {
            return Err(SealError::Malformed);
        }
        let (id, nonce) = rest
            .split_first_chunk::<KEY_ID_LEN>()
            .ok_or(SealError::Malformed)?;
        if *id != self.id.0 {
            return Err(SealError::OtherKey(SealingKeyId(*id)));
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Malformed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .cipher()?
            .open_in_place(nonce, self.binding(place), &mut body)
            .map_err(|_| SealError::Refused)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// A key of its own for one purpose, the same wherever this key is: HKDF-SHA256.
    pub fn derive(&self, label: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut out = Zeroizing::new([0; 32]);
        let prk = Salt::new(HKDF_SHA256, DERIVE_DOMAIN).extract(&*self.bytes);
        prk.expand(&[label.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *out))
            .map_err(|_| SealError::Refused)?;
        Ok(out)
    }

    fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let input = Zeroizing::new(SignedInput::new(KEY_ID_DOMAIN).field(&*bytes).finish());
        let digest = sha256(&input);
        Self {
            bytes,
            id: SealingKeyId(std::array::from_fn(|i| digest[i])),
        }
    }

    fn from_base64(text: &[u8]) -> Result<Self, SealError> {
        let decoded = BASE64.decode(text.trim_ascii());
        let decoded = Zeroizing::new(decoded.map_err(|_| SealError::BadKey)?);
        let bytes: [u8; 32] = decoded[..].try_into().map_err(|_| SealError::BadKey)?;
        Ok(Self::from_bytes(Zeroizing::new(bytes)))
    }

    fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&*self.bytes))
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        UnboundKey::new(&AES_256_GCM, &*self.bytes)
            .map(LessSafeKey::new)
            .map_err(|_| SealError::BadKey)
    }

    /// No tenant and a tenant are told apart by the length: names are never empty.
    fn binding(&self, place: Place<'_>) -> Aad<Vec<u8>> {
        let tenant = place.tenant.map_or("", TenantName::as_str);
        Aad::from(
            SignedInput::new(DOMAIN)
                .field(&self.id.0)
                .field(place.kind.as_bytes())
                .field(tenant.as_bytes())
                .field(place.name.as_bytes())
                .finish(),
        )
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HERE: Place<'static> = Place {
        kind: "provider",
        tenant: None,
        name: "openai",
    };

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let key = SealingKey::generate();
        let tenant: TenantName = "acme".parse().unwrap();
        let sealed = key.seal(HERE, b"secret").unwrap();
        assert_eq!(key.open(HERE, &sealed).unwrap().as_slice(), b"secret");
        for elsewhere in [
            Place {
                name: "anthropic",
                ..HERE
            },
            Place {
                kind: "session",
                ..HERE
            },
            Place {
                tenant: Some(&tenant),
                ..HERE
            },
            Place {
                kind: "provideropenai",
                name: "",
                ..HERE
            },
        ] {
            let refused = key.open(elsewhere, &sealed);
            assert!(matches!(refused, Err(SealError::Refused)), "{elsewhere:?}");
        }
    }

    #[test]
    fn another_key_is_named() {
        let sealed = SealingKey::generate().seal(HERE, b"secret").unwrap();
        let refused = SealingKey::generate().open(HERE, &sealed);
        assert!(matches!(refused, Err(SealError::OtherKey(_))));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let key = SealingKey::generate();
        let sealed = key.seal(HERE, b"secret").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(HERE, &changed).is_err(), "byte {at} changed");
            assert!(key.open(HERE, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_same_text_never_seals_alike() {
        let key = SealingKey::generate();
        assert_ne!(key.seal(HERE, b"x").unwrap(), key.seal(HERE, b"x").unwrap());
    }

    #[test]
    fn a_key_file_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority.key");
        assert!(matches!(
            SealingKey::from_file(&path, false),
            Err(SealError::File(_))
        ));
        let made = SealingKey::from_file(&path, true).unwrap();
        let again = SealingKey::from_file(&path, true).unwrap();
        assert_eq!(made.id(), again.id());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, "too short").unwrap();
        assert!(matches!(
            SealingKey::from_file(&path, true),
            Err(SealError::BadKey)
        ));
    }

    /// What is on disks stays readable, and the keys that replicas derive stay the same.
    #[test]
    fn golden_sealed_text() {
        let key = SealingKey::from_base64(BASE64.encode(&[5; 32]).as_bytes()).unwrap();
        assert_eq!(key.id().to_string(), "a762ff1a9f88c741");
        let sealed = HEXLOWER
            .decode(
                b"01a762ff1a9f88c741000102030405060708090a0ba9cbe5db2b33f35e32e1009863fd922a28\
             1a9f956dda",
            )
            .unwrap();
        assert_eq!(key.open(HERE, &sealed).unwrap().as_slice(), b"secret");
        let derived = key.derive("quic-reset").unwrap();
        assert_eq!(
            HEXLOWER.encode(&*derived),
            "01c99e947a48754e6a7830eeb93badcbd645e1136bb9ba3af3166c4e74eb6502"
        );
    }

    #[test]
    fn derived_keys_differ_by_label_and_repeat() {
        let key = SealingKey::generate();
        assert_eq!(key.derive("reset").unwrap(), key.derive("reset").unwrap());
        assert_ne!(key.derive("reset").unwrap(), key.derive("retry").unwrap());
        assert_ne!(*key.derive("reset").unwrap(), *key.bytes);
    }

    #[test]
    fn a_key_is_masked() {
        let key = SealingKey::generate();
        let shown = format!("{key:?}");
        assert!(!shown.contains(key.to_base64().trim_end_matches('=')));
        assert!(shown.contains(&key.id().to_string()));
    }
}
