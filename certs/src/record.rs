//! Signed records: what control says, believed because control signed it.
//!
//! Configuration, lists of planes, revocations and snapshots travel as records through stores and
//! planes that could change them; the Ed25519 signature of a key that the trust bundle names binds
//! kind, tenant, name, revision and epoch to the payload.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use data_encoding::HEXLOWER;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::bundle::TrustBundle;
use crate::key::{KeyError, sha256};
use crate::name::TenantName;
use crate::proof::SignedInput;
use crate::random;
use crate::text::text_codec;

/// Largest record that is read, in bytes: a snapshot of a large deployment.
pub const MAX_RECORD: usize = 64 * 1024 * 1024;

/// Separates record signatures from every other signature of control.
const DOMAIN: &[u8] = b"culvert-record-v1\0";

/// What a signing key is named by in a record: the first 8 bytes of SHA-256 of its public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SigningKeyId([u8; 8]);

impl fmt::Display for SigningKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SigningKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key id is 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 16 lower-case hexadecimal digits")]
pub struct KeyIdError;

impl FromStr for SigningKeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| KeyIdError)?;
        bytes.try_into().map(Self).map_err(|_| KeyIdError)
    }
}

text_codec!(SigningKeyId);

/// The public half of an Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the key is named by in records.
    pub fn id(&self) -> SigningKeyId {
        let digest = sha256(&self.0);
        SigningKeyId(std::array::from_fn(|i| digest[i]))
    }

    /// Whether `signature` over `message` is this key's.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// An Ed25519 key, kept as its seed and wiped when dropped.
#[derive(Clone)]
pub(crate) struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    pub(crate) fn generate() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(Zeroizing::new(seed))
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn verifying_key(&self) -> Result<VerifyingKey, KeyError> {
        let public = self.pair()?.public_key().clone();
        let bytes = public.as_ref().try_into();
        bytes.map(VerifyingKey).map_err(|_| KeyError::Crypto)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair()?.try_sign(message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError::Crypto)
    }

    fn pair(&self) -> Result<Ed25519KeyPair, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(&*self.0).map_err(|_| KeyError::Malformed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// What a record is about, and its place in the order of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// The kind of resource or message.
    pub kind: String,
    /// The tenant that it belongs to; none for what concerns all.
    pub tenant: Option<TenantName>,
    /// Its name within kind and tenant.
    pub name: String,
    /// Its place in the store's order of changes; only grows.
    pub revision: u64,
    /// The authority's epoch; a restore raises it.
    pub epoch: u64,
}

/// A payload whose signature has been made, or checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    header: RecordHeader,
    payload: Vec<u8>,
    encoded: Vec<u8>,
}

/// Why bytes are not a record of control.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not a record, or are longer than [`MAX_RECORD`].
    #[error("the signed record is malformed")]
    Malformed,
    /// The bundle does not name the key.
    #[error("the signed record is of unknown key {0}")]
    UnknownKey(SigningKeyId),
    /// The signature does not fit.
    #[error("the signature of the record does not fit")]
    BadSignature,
    /// The record could not be made.
    #[error("the signed record could not be made")]
    Make(#[source] KeyError),
}

impl SignedRecord {
    /// Signs a payload.
    pub(crate) fn sign(
        key: &SigningKey,
        header: RecordHeader,
        payload: Vec<u8>,
    ) -> Result<Self, RecordError> {
        let key_id = key.verifying_key().map_err(RecordError::Make)?.id();
        let input = signed_input(&header, key_id, &payload);
        let wire = Wire {
            kind: header.kind.clone(),
            tenant: header.tenant.clone(),
            name: header.name.clone(),
            revision: header.revision,
            epoch: header.epoch,
            key_id: key_id.0.into(),
            payload: payload.into(),
            signature: key.sign(&input).map_err(RecordError::Make)?.into(),
        };
        let encoded = minicbor::to_vec(&wire).map_err(|_| RecordError::Malformed)?;
        Ok(Self {
            header,
            payload: wire.payload.into(),
            encoded,
        })
    }

    /// Reads a record and checks its signature against the keys that the bundle names.
    ///
    /// Whether kind, tenant, name and revision are the expected ones is for the caller to say.
    pub fn verify(bytes: &[u8], bundle: &TrustBundle) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::Malformed);
        }
        let wire: Wire = minicbor::decode(bytes).map_err(|_| RecordError::Malformed)?;
        let key_id = SigningKeyId(*wire.key_id);
        let key = bundle
            .signing_key(key_id)
            .ok_or(RecordError::UnknownKey(key_id))?;
        let header = RecordHeader {
            kind: wire.kind,
            tenant: wire.tenant,
            name: wire.name,
            revision: wire.revision,
            epoch: wire.epoch,
        };
        let input = signed_input(&header, key_id, &wire.payload);
        if !key.verifies(&input, &wire.signature) {
            return Err(RecordError::BadSignature);
        }
        Ok(Self {
            header,
            payload: wire.payload.into(),
            encoded: bytes.to_vec(),
        })
    }

    /// What the record is about.
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// What control said.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The encoding with its signature, as it is sent and stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }
}

#[derive(Debug, Encode, Decode)]
struct Wire {
    #[n(0)]
    kind: String,
    #[n(1)]
    tenant: Option<TenantName>,
    #[n(2)]
    name: String,
    #[n(3)]
    revision: u64,
    #[n(4)]
    epoch: u64,
    #[n(5)]
    key_id: ByteArray<8>,
    #[n(6)]
    payload: ByteVec,
    #[n(7)]
    signature: ByteVec,
}

/// No tenant and a tenant are told apart by the length: names are never empty.
fn signed_input(header: &RecordHeader, key_id: SigningKeyId, payload: &[u8]) -> Vec<u8> {
    let tenant = header.tenant.as_ref().map_or("", TenantName::as_str);
    SignedInput::new(DOMAIN)
        .field(header.kind.as_bytes())
        .field(tenant.as_bytes())
        .field(header.name.as_bytes())
        .field(&header.revision.to_be_bytes())
        .field(&header.epoch.to_be_bytes())
        .field(&key_id.0)
        .field(payload)
        .finish()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            kind: "connector".to_owned(),
            tenant: Some("acme".parse().unwrap()),
            name: "prod".to_owned(),
            revision: 7,
            epoch: 2,
        }
    }

    /// Stores and planes of other versions hold these bytes: they never change.
    #[test]
    fn golden_signed_input() {
        let input = signed_input(&header(), SigningKeyId(*b"01234567"), b"spec");
        let expected = b"culvert-record-v1\0\
            \0\0\0\x09connector\
            \0\0\0\x04acme\
            \0\0\0\x04prod\
            \0\0\0\x08\0\0\0\0\0\0\0\x07\
            \0\0\0\x08\0\0\0\0\0\0\0\x02\
            \0\0\0\x0801234567\
            \0\0\0\x04spec";
        assert_eq!(input, expected);
    }

    #[test]
    fn golden_record() {
        let key = SigningKey::from_seed([7; 32]);
        let record = SignedRecord::sign(&key, header(), b"spec".to_vec()).unwrap();
        assert_eq!(
            HEXLOWER.encode(record.as_bytes()),
            "8869636f6e6e6563746f726461636d656470726f64070248fe812c12f3ab4ce6447370656358\
             40106c41ed1ac3c5d37d83b9ed520b7b3d1bf43c416ff8a4035b9fa2956f892e82c0780cc133\
             c5fd7ebce6ab07113fdef110dd4911458acd7e130704c96818b608"
        );
    }

    #[test]
    fn no_tenant_is_not_a_tenant() {
        let nobody = RecordHeader {
            tenant: None,
            ..header()
        };
        let id = SigningKeyId([0; 8]);
        assert_ne!(
            signed_input(&nobody, id, b""),
            signed_input(&header(), id, b"")
        );
    }
}
