//! Key pairs of certificates (ECDSA P-256), and the digest that a public key is known by.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use zeroize::Zeroizing;

/// Why a key could not be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are not a PKCS#8 P-256 key.
    #[error("not a PKCS#8 private key on P-256")]
    Malformed,
    /// The crypto library refused to make the key or the signature.
    #[error("the crypto library could not make a key or a signature")]
    Crypto,
}

/// A P-256 key pair, kept as PKCS#8 and wiped when dropped. Cheap to clone.
#[derive(Clone)]
pub struct KeyPair {
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
    signer: Arc<EcdsaKeyPair>,
}

impl KeyPair {
    /// A fresh key.
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Crypto)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// The key with this PKCS#8 encoding.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| KeyError::Malformed)?;
        Ok(Self {
            pkcs8: Arc::new(Zeroizing::new(der.to_vec())),
            signer: Arc::new(signer),
        })
    }

    /// The PKCS#8 encoding: a secret.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// A certificate signing request that proves possession of the key and says nothing else.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(self)
            .map_err(|_| KeyError::Crypto)?;
        Ok(csr.der().to_vec())
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.subject_public_key_info())
    }

    /// An ECDSA signature over SHA-256 of `message`, in ASN.1.
    pub fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.signer
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError::Crypto)
    }

    /// The key in the form that rustls takes.
    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.signer.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    // SHA-256 is 32 bytes long.
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo; none if it is not a certificate.
pub(crate) fn certificate_key_digest(der: &[u8]) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(sha256(certificate.public_key().raw))
}

/// Whether `signature` over `message` is of the P-256 key in this SubjectPublicKeyInfo.
pub(crate) fn verify_p256(
    spki: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let point = &spki.subject_public_key.data;
    is_p256(spki)
        && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(message, signature)
            .is_ok()
}

/// Whether the key is an elliptic-curve key on the named curve P-256.
pub(crate) fn is_p256(spki: &SubjectPublicKeyInfo<'_>) -> bool {
    use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
    let curve = spki.algorithm.parameters.as_ref();
    spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve.as_oid().is_ok_and(|oid| oid == OID_EC_P256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_encoding_and_is_masked() {
        let key = KeyPair::generate().unwrap();
        let same = KeyPair::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(key.digest(), same.digest());
        assert_eq!(format!("{key:?}"), "KeyPair(..)");
        assert_eq!(
            KeyPair::from_pkcs8(b"nonsense").unwrap_err(),
            KeyError::Malformed
        );
    }
}
