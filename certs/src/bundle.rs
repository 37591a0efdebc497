//! The trust bundle: what a world's members believe certificates and records by.
//!
//! A bundle is signed by the current root, whose pin came with the join token; the next root's
//! pin is in it, so a change of root needs no new token. Roots are recognised by the digest of
//! their key, never by a name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::key::{self, KeyPair};
use crate::name::TrustDomain;
use crate::proof::SignedInput;
use crate::record::{SigningKeyId, VerifyingKey};
use crate::text::text_codec;

/// Largest signed bundle that is read, in bytes: four roots and a dozen keys fit many times.
pub const MAX_BUNDLE: usize = 64 * 1024;

/// Separates bundle signatures from every other signature of a root key.
const DOMAIN: &[u8] = b"culvert-bundle-v1\0";

/// SHA-256 of a root's SubjectPublicKeyInfo. Spelled in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootPin([u8; 32]);

impl RootPin {
    /// The pin with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The pin of a certificate's key; none if it is not a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        key::certificate_key_digest(certificate).map(Self)
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pin is 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is 64 lower-case hexadecimal digits")]
pub struct PinError;

impl FromStr for RootPin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

text_codec!(RootPin);

/// What certificate chains may end in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchors {
    /// The world whose identities are accepted.
    pub trust_domain: TrustDomain,
    /// Roots that are known as certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Roots that are known by their key only: the peer has to send the certificate.
    pub pins: Vec<RootPin>,
}

/// The signed description of a world: roots, the next root's pin, and control's signing keys.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    anchors: Anchors,
    signing_keys: Vec<VerifyingKey>,
    epoch: u64,
    revision: u64,
    signed: Arc<[u8]>,
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.anchors.trust_domain)
            .field("pins", &self.anchors.pins)
            .field("epoch", &self.epoch)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// Why a bundle was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The bytes are not a bundle, or are longer than [`MAX_BUNDLE`].
    #[error("the trust bundle is malformed")]
    Malformed,
    /// None of the roots that are already trusted signed it.
    #[error("the trust bundle is not signed by a trusted root")]
    Untrusted,
    /// It speaks of another world.
    #[error("the trust bundle is of trust domain {0}")]
    WrongTrustDomain(TrustDomain),
    /// It is older than the one that is there.
    #[error("the trust bundle is older than the one in use")]
    Older,
    /// It could not be signed or encoded.
    #[error("the trust bundle could not be made")]
    Make,
}

impl TrustBundle {
    /// Accepts a bundle that a root with one of these pins signed.
    pub fn from_signed(bytes: &[u8], pins: &[RootPin]) -> Result<Self, BundleError> {
        let envelope = Envelope::read(bytes)?;
        let body: Body = minicbor::decode(&envelope.body).map_err(|_| BundleError::Malformed)?;
        let signer = body
            .roots
            .iter()
            .find(|root| {
                let pin = key::certificate_key_digest(root).map(RootPin);
                pin.is_some_and(|pin| pins.contains(&pin))
            })
            .ok_or(BundleError::Untrusted)?;
        if !envelope.is_signed_by(signer) {
            return Err(BundleError::Untrusted);
        }
        Ok(Self::assemble(body, bytes))
    }

    /// Accepts what this process itself stored before: the bundle vouches for itself.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, BundleError> {
        let envelope = Envelope::read(bytes)?;
        let body: Body = minicbor::decode(&envelope.body).map_err(|_| BundleError::Malformed)?;
        if !body.roots.iter().any(|root| envelope.is_signed_by(root)) {
            return Err(BundleError::Untrusted);
        }
        Ok(Self::assemble(body, bytes))
    }

    /// Accepts the bundle that follows this one: signed by a root that this one trusts, of the
    /// same world, and not older.
    pub fn successor(&self, bytes: &[u8]) -> Result<Self, BundleError> {
        let next = Self::from_signed(bytes, &self.anchors.pins)?;
        if next.trust_domain() != self.trust_domain() {
            return Err(BundleError::WrongTrustDomain(next.trust_domain().clone()));
        }
        if (next.epoch, next.revision) < (self.epoch, self.revision) {
            return Err(BundleError::Older);
        }
        Ok(next)
    }

    /// The signed encoding, as it is sent and stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// The world that the bundle describes.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.anchors.trust_domain
    }

    /// What certificate chains may end in.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// The root certificates, the current one first.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.anchors.roots
    }

    /// Pins of all roots that are trusted: the current one first, the next one last.
    pub fn pins(&self) -> &[RootPin] {
        &self.anchors.pins
    }

    /// Control's keys that records are signed with.
    pub fn signing_keys(&self) -> &[VerifyingKey] {
        &self.signing_keys
    }

    /// The signing key with this id.
    pub fn signing_key(&self, id: SigningKeyId) -> Option<&VerifyingKey> {
        self.signing_keys.iter().find(|key| key.id() == id)
    }

    /// Raised by a restore of the authority; only grows.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts the bundles of an epoch; only grows.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn assemble(body: Body, bytes: &[u8]) -> Self {
        let mut pins: Vec<RootPin> = body
            .roots
            .iter()
            .filter_map(|root| key::certificate_key_digest(root).map(RootPin))
            .collect();
        pins.push(RootPin(*body.next_pin));
        Self {
            anchors: Anchors {
                trust_domain: body.trust_domain,
                roots: body
                    .roots
                    .into_iter()
                    .map(|root| CertificateDer::from(Vec::from(root)))
                    .collect(),
                pins,
            },
            signing_keys: body
                .signing_keys
                .iter()
                .map(|key| VerifyingKey::from_bytes(**key))
                .collect(),
            epoch: body.epoch,
            revision: body.revision,
            signed: bytes.into(),
        }
    }
}

/// What a bundle is made of, before it is signed.
#[derive(Debug)]
pub(crate) struct BundleParts<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) root: &'a CertificateDer<'static>,
    pub(crate) next_pin: RootPin,
    pub(crate) signing_key: VerifyingKey,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
}

impl BundleParts<'_> {
    /// The bundle of these parts, signed by the root's key.
    pub(crate) fn sign(&self, root_key: &KeyPair) -> Result<TrustBundle, BundleError> {
        let body = Body {
            trust_domain: self.trust_domain.clone(),
            roots: vec![self.root.to_vec().into()],
            next_pin: self.next_pin.0.into(),
            signing_keys: vec![(*self.signing_key.as_bytes()).into()],
            epoch: self.epoch,
            revision: self.revision,
        };
        let encoded = minicbor::to_vec(&body).map_err(|_| BundleError::Make)?;
        let signature = root_key
            .sign_message(&signed_input(&encoded))
            .map_err(|_| BundleError::Make)?;
        let envelope = Envelope {
            body: encoded.into(),
            signature: signature.into(),
        };
        let bytes = minicbor::to_vec(&envelope).map_err(|_| BundleError::Make)?;
        Ok(TrustBundle::assemble(body, &bytes))
    }
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct Envelope {
    #[n(1)]
    body: ByteVec,
    #[n(2)]
    signature: ByteVec,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct Body {
    #[n(1)]
    trust_domain: TrustDomain,
    #[n(2)]
    roots: Vec<ByteVec>,
    #[n(3)]
    next_pin: ByteArray<32>,
    #[n(4)]
    signing_keys: Vec<ByteArray<32>>,
    #[n(5)]
    epoch: u64,
    #[n(6)]
    revision: u64,
}

impl Envelope {
    fn read(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(BundleError::Malformed);
        }
        minicbor::decode(bytes).map_err(|_| BundleError::Malformed)
    }

    fn is_signed_by(&self, root: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(root) else {
            return false;
        };
        let input = signed_input(&self.body);
        key::verify_p256(certificate.public_key(), &input, &self.signature)
    }
}

fn signed_input(body: &[u8]) -> Vec<u8> {
    SignedInput::new(DOMAIN).field(body).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::SigningKey;

    /// A root that signs what it is told.
    struct Root {
        key: KeyPair,
        certificate: CertificateDer<'static>,
    }

    impl Root {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::default();
            let certificate = params.self_signed(&key).unwrap().der().clone();
            Self { key, certificate }
        }

        fn pin(&self) -> RootPin {
            RootPin::of(&self.certificate).unwrap()
        }

        fn bundle(&self, trust_domain: &str, next: &Self, at: (u64, u64)) -> TrustBundle {
            let parts = BundleParts {
                trust_domain: &trust_domain.parse().unwrap(),
                root: &self.certificate,
                next_pin: next.pin(),
                signing_key: SigningKey::from_seed([1; 32]).verifying_key().unwrap(),
                epoch: at.0,
                revision: at.1,
            };
            parts.sign(&self.key).unwrap()
        }
    }

    #[test]
    fn a_bundle_is_followed_by_newer_ones_of_its_world() {
        let (root, next) = (Root::new(), Root::new());
        let bundle = root.bundle("a", &next, (2, 5));
        let follow = |next: &TrustBundle| bundle.successor(next.as_bytes()).map(drop);
        for at in [(2, 5), (2, 6), (3, 1)] {
            assert_eq!(follow(&root.bundle("a", &next, at)), Ok(()), "{at:?}");
        }
        for at in [(2, 4), (1, 9)] {
            let refused = follow(&root.bundle("a", &next, at));
            assert_eq!(refused, Err(BundleError::Older), "{at:?}");
        }
        let elsewhere = follow(&root.bundle("b", &next, (2, 6)));
        let wrong = BundleError::WrongTrustDomain("b".parse().unwrap());
        assert_eq!(elsewhere, Err(wrong));
    }

    #[test]
    fn the_next_root_may_sign_what_follows_and_a_third_may_not() {
        let (root, next, third) = (Root::new(), Root::new(), Root::new());
        let bundle = root.bundle("a", &next, (1, 1));
        let renewed = next.bundle("a", &third, (1, 2));
        let renewed = bundle.successor(renewed.as_bytes()).unwrap();
        assert_eq!(renewed.pins(), [next.pin(), third.pin()]);
        let stranger = third.bundle("a", &root, (1, 2));
        let refused = bundle.successor(stranger.as_bytes());
        assert_eq!(refused, Err(BundleError::Untrusted));
        // A stranger's bundle that lists our root has to be signed by our root.
        let mut forged = root.bundle("a", &next, (9, 9)).as_bytes().to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(bundle.successor(&forged), Err(BundleError::Untrusted));
        assert_eq!(
            TrustBundle::from_stored(&forged),
            Err(BundleError::Untrusted)
        );
        let huge = vec![0; MAX_BUNDLE + 1];
        assert_eq!(bundle.successor(&huge), Err(BundleError::Malformed));
    }
}
