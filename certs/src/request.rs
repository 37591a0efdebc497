//! Joining and renewing: what a member-to-be sends, and how it is proven.
//!
//! A certificate signing request contributes its public key and nothing else. Who may have a
//! certificate for that key is said by the proof beside it: a join token's signature for a
//! newcomer, the current leaf's for a member.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::address::HostPort;
use crate::bundle::{BundleError, TrustBundle};
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{Identity, TokenId};
use crate::key::{self, KeyError, KeyPair, sha256};
use crate::name::TrustDomain;
use crate::proof::SignedInput;
use crate::record::VerifyingKey;
use crate::token::{JoinSubject, JoinToken, TokenRecord};
use crate::verifier::{self, Expect, PeerLeaf, VerifyError, peer_leaf};

/// The version of requests that this build makes and reads.
pub const REQUEST_VERSION: u8 = 1;
/// Largest signing request, in bytes; ours have about 200.
pub const MAX_CSR: usize = 4 * 1024;
/// Largest renewal, in bytes: a signing request, a chain and a signature.
pub const MAX_RENEWAL: usize = 64 * 1024;
/// How long after the end of its life a leaf may still renew itself.
pub const RENEW_AFTER_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);

const JOIN_DOMAIN: &[u8] = b"culvert-join-v1\0";
const RENEW_DOMAIN: &[u8] = b"culvert-renew-v1\0";

/// Why a proof was not accepted. For our own log: a peer learns only that it was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The request is of a version that this build does not know.
    #[error("the request has version {0}")]
    Version(u8),
    /// The request names another token than the one it is checked against.
    #[error("the request names another token")]
    OtherToken,
    /// The signature is not by the token's, or the leaf's, key over this very request.
    #[error("the signature does not fit the request")]
    BadSignature,
    /// The token has expired.
    #[error("the join token has expired")]
    Expired,
    /// The token has been redeemed.
    #[error("the join token has been used")]
    Used,
    /// The signing request is malformed, or not signed by the key in it.
    #[error("the certificate signing request is not valid")]
    BadCsr,
    /// The chain of a renewal is not valid.
    #[error("the chain of the renewal is not valid")]
    Chain(#[from] VerifyError),
    /// The leaf expired so long ago that only a new token helps.
    #[error("the certificate expired too long ago to be renewed")]
    TooLate,
    /// The bytes are not a renewal.
    #[error("the renewal is malformed")]
    Malformed,
}

/// The public key of a signing request whose own signature fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    spki: Vec<u8>,
}

impl VerifiedCsr {
    /// Checks a signing request: a P-256 key, and its holder's signature. All else in it, names
    /// and extensions included, is dropped here.
    pub fn parse(der: &[u8]) -> Result<Self, ProofError> {
        if der.len() > MAX_CSR {
            return Err(ProofError::BadCsr);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| ProofError::BadCsr)?;
        let info = &request.certification_request_info;
        let signature = &request.signature_value.data;
        if !rest.is_empty() || !key::verify_p256(&info.subject_pki, info.raw, signature) {
            return Err(ProofError::BadCsr);
        }
        Ok(Self {
            spki: info.subject_pki.raw.to_vec(),
        })
    }

    /// The SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn key_digest(&self) -> [u8; 32] {
        sha256(&self.spki)
    }
}

/// The body of `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token that is redeemed.
    pub token_id: TokenId,
    /// The signing request, DER; base64 in JSON.
    #[serde(with = "crate::json::base64")]
    pub csr: Vec<u8>,
    /// By the token's key over trust domain, token id and SHA-256 of the signing request.
    #[serde(with = "crate::json::base64")]
    pub signature: Vec<u8>,
    /// [`REQUEST_VERSION`].
    pub version: u8,
}

impl JoinRequest {
    /// The request of a token's bearer for the key in `csr`.
    pub fn new(token: &JoinToken, csr: Vec<u8>) -> Result<Self, KeyError> {
        let input = join_input(&token.trust_domain, token.id(), &csr);
        Ok(Self {
            token_id: token.id(),
            signature: token.sign(&input)?,
            csr,
            version: REQUEST_VERSION,
        })
    }

    /// Checks the request against what the server kept of the token.
    ///
    /// Redeeming is the caller's: `uses_left` has to be taken down with compare-and-set.
    pub fn verify(
        &self,
        record: &TokenRecord,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<VerifiedCsr, ProofError> {
        if self.version != REQUEST_VERSION {
            return Err(ProofError::Version(self.version));
        }
        if self.token_id != record.id {
            return Err(ProofError::OtherToken);
        }
        let input = join_input(trust_domain, self.token_id, &self.csr);
        // First of all: whoever has no seed learns nothing about the token.
        if !VerifyingKey::from_bytes(record.public_key).verifies(&input, &self.signature) {
            return Err(ProofError::BadSignature);
        }
        if now >= record.expiry {
            return Err(ProofError::Expired);
        }
        if record.uses_left == 0 {
            return Err(ProofError::Used);
        }
        VerifiedCsr::parse(&self.csr)
    }
}

/// The answer to a [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The identity that control chose.
    pub id: Identity,
    /// Leaf, issuer, root; base64 in JSON.
    #[serde(with = "crate::json::chain")]
    pub chain: Vec<CertificateDer<'static>>,
    /// The signed trust bundle; base64 in JSON.
    #[serde(with = "crate::json::base64")]
    pub bundle: Vec<u8>,
    /// Under which names planes may be announced later; fixed here.
    #[serde(default)]
    pub dns_suffixes: Vec<String>,
    /// Where planes can be reached.
    pub addresses: Vec<HostPort>,
    /// Where callers reach the gateway: shown to people, used for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
}

/// Why an answer is not what the token promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The bundle is not signed by a root that the token pins, or of another world.
    #[error("the trust bundle of the answer is not the token's")]
    Bundle(#[from] BundleError),
    /// The chain is not valid, or for another key.
    #[error("the certificate of the answer is not usable")]
    Credentials(#[from] CredentialsError),
    /// The identity is not one that the token invites.
    #[error("the answer is for {0}, which the token does not invite")]
    OtherSubject(Identity),
}

impl JoinAnswer {
    /// Checks the answer against the token and the own key, and makes credentials of it.
    pub fn into_credentials(
        self,
        token: &JoinToken,
        key: KeyPair,
        now: SystemTime,
    ) -> Result<Credentials, AnswerError> {
        let bundle = TrustBundle::from_signed(&self.bundle, &token.pins)?;
        if bundle.trust_domain() != &token.trust_domain {
            let other = bundle.trust_domain().clone();
            return Err(BundleError::WrongTrustDomain(other).into());
        }
        let credentials = Credentials::new(self.chain, key, Arc::new(bundle), now)?;
        if !token.subject.invites(&credentials.identity) {
            return Err(AnswerError::OtherSubject(credentials.identity));
        }
        Ok(credentials)
    }
}

impl JoinSubject {
    /// Whether a token with this subject may lead to this identity.
    pub fn invites(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Connector { tenant, connector }, Identity::Agent(agent)) => {
                *tenant == agent.tenant && *connector == agent.connector
            }
            (Self::Plane { region, zone }, Identity::Plane(plane)) => {
                *region == plane.region && *zone == plane.zone
            }
            (Self::Connector { .. }, Identity::Plane(_))
            | (Self::Plane { .. }, Identity::Agent(_)) => false,
        }
    }
}

/// A member's request for a certificate for a new key, signed with its current one.
///
/// It travels as CBOR, through planes that can read but not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// The signing request of the new key, DER.
    pub csr: Vec<u8>,
    /// The current chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// By the current leaf's key over SHA-256 of the signing request and the leaf's serial.
    pub signature: Vec<u8>,
}

/// A renewal whose proof fits. Whether the member has been revoked is for the caller to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRenewal {
    /// The new key.
    pub csr: VerifiedCsr,
    /// The leaf that proves it: the new certificate is for its identity.
    pub leaf: PeerLeaf,
}

impl RenewRequest {
    /// The request of `current` for a certificate for `next`.
    pub fn new(current: &Credentials, next: &KeyPair) -> Result<Self, KeyError> {
        let csr = next.csr()?;
        let leaf = current.chain.first().ok_or(KeyError::Malformed)?;
        let serial = serial_of(leaf).ok_or(KeyError::Malformed)?;
        let signature = current.key.sign_message(&renew_input(&csr, &serial))?;
        Ok(Self {
            csr,
            chain: current.chain.clone(),
            signature,
        })
    }

    /// The request as it travels.
    pub fn encode(&self) -> Result<Vec<u8>, ProofError> {
        let wire = RenewWire {
            csr: self.csr.clone().into(),
            chain: self.chain.iter().map(|c| c.to_vec().into()).collect(),
            signature: self.signature.clone().into(),
        };
        minicbor::to_vec(&wire).map_err(|_| ProofError::Malformed)
    }

    /// Reads what [`Self::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > MAX_RENEWAL {
            return Err(ProofError::Malformed);
        }
        let wire: RenewWire = minicbor::decode(bytes).map_err(|_| ProofError::Malformed)?;
        let chain = wire.chain.into_iter().map(|c| Vec::from(c).into());
        Ok(Self {
            csr: wire.csr.into(),
            chain: chain.collect(),
            signature: wire.signature.into(),
        })
    }

    /// Checks chain and signature at the time `now`, up to [`RENEW_AFTER_EXPIRY`] after the end
    /// of the leaf's life.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<VerifiedRenewal, ProofError> {
        let leaf = self.chain.first().ok_or(VerifyError::NoCertificate)?;
        let end = verifier::stated_not_after(leaf)?;
        if now > end + RENEW_AFTER_EXPIRY {
            return Err(ProofError::TooLate);
        }
        // An expired leaf is judged by the last moment of its life: all else must still hold.
        let peer = peer_leaf(&self.chain, bundle, Expect::AgentOrPlane, now.min(end))?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| VerifyError::Malformed)?;
        let input = renew_input(&self.csr, &peer.serial);
        if !key::verify_p256(certificate.public_key(), &input, &self.signature) {
            return Err(ProofError::BadSignature);
        }
        Ok(VerifiedRenewal {
            csr: VerifiedCsr::parse(&self.csr)?,
            leaf: peer,
        })
    }
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct RenewWire {
    #[n(1)]
    csr: ByteVec,
    #[n(2)]
    chain: Vec<ByteVec>,
    #[n(3)]
    signature: ByteVec,
}

fn join_input(trust_domain: &TrustDomain, token_id: TokenId, csr: &[u8]) -> Vec<u8> {
    SignedInput::new(JOIN_DOMAIN)
        .field(trust_domain.as_str().as_bytes())
        .field(token_id.as_bytes())
        .field(&sha256(csr))
        .finish()
}

fn renew_input(csr: &[u8], serial: &[u8]) -> Vec<u8> {
    SignedInput::new(RENEW_DOMAIN)
        .field(&sha256(csr))
        .field(serial)
        .finish()
}

fn serial_of(leaf: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    Some(certificate.raw_serial().to_vec())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    const SHA256_OF_CSR: &str = "c27338c453067b437471afbce792704d816112c6031bb996b62c698ea599ef80";

    /// Both ends sign and verify these bytes for ever: a change here breaks every other version.
    #[test]
    fn golden_join_input() {
        let input = join_input(
            &"culvert.test".parse().unwrap(),
            TokenId::from_bytes(std::array::from_fn(|i| i as u8)),
            b"csr",
        );
        let expected = [
            b"culvert-join-v1\0".as_slice(),
            b"\0\0\0\x0cculvert.test",
            b"\0\0\0\x10\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
            b"\0\0\0\x20",
            &HEXLOWER.decode(SHA256_OF_CSR.as_bytes()).unwrap(),
        ]
        .concat();
        assert_eq!(input, expected);
    }

    #[test]
    fn golden_renew_input() {
        let expected = [
            b"culvert-renew-v1\0".as_slice(),
            b"\0\0\0\x20",
            &HEXLOWER.decode(SHA256_OF_CSR.as_bytes()).unwrap(),
            b"\0\0\0\x03\x41\x02\x03",
        ]
        .concat();
        assert_eq!(renew_input(b"csr", &[0x41, 2, 3]), expected);
    }

    #[test]
    fn golden_join_request() {
        let request = JoinRequest {
            token_id: TokenId::from_bytes([0; 16]),
            csr: b"csr".to_vec(),
            signature: vec![0xff; 3],
            version: REQUEST_VERSION,
        };
        let json = r#"{"token_id":"aaaaaaaaaaaaaaaaaaaaaaaaaa","csr":"Y3Ny","signature":"////","version":1}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<JoinRequest>(json).unwrap(), request);
    }
}
