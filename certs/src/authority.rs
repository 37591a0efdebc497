//! The authority: root, issuers and signing key of a world. Lives in control only.
//!
//! The root vouches for two issuing certificates, one for agents and one for planes, whose
//! extended key usage says what they may vouch for in turn. The next root is made at birth, so
//! that its pin stands in every token and bundle from the first one on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use zeroize::{Zeroize, Zeroizing};

use crate::bundle::{BundleError, BundleParts, RootPin, TrustBundle};
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{AgentIdentity, Identity, PlaneIdentity, Role};
use crate::issuer::{AuthorityState, CertificateAuthority};
use crate::key::{KeyError, KeyPair};
use crate::name::TrustDomain;
use crate::record::{RecordError, RecordHeader, SignedRecord, SigningKey};
use crate::request::{ProofError, VerifiedCsr};
use crate::seal::{Place, SealError, SealingKey};
use crate::verifier::VerifyError;

/// How long a leaf lives unless configured otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const STATE_VERSION: u8 = 1;

/// Where the sealed authority belongs: there is one in a deployment.
const PLACE: Place<'static> = Place {
    kind: "authority",
    tenant: None,
    name: "authority",
};

/// A world's root, issuers and signing key.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    root: CertificateAuthority,
    next_root: CertificateAuthority,
    agents: CertificateAuthority,
    planes: CertificateAuthority,
    signing: SigningKey,
    bundle: Arc<TrustBundle>,
}

/// A fresh leaf with its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Leaf, issuer, root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The leaf's serial number, big-endian.
    pub serial: Vec<u8>,
    /// The end of the leaf's life.
    pub not_after: SystemTime,
}

/// Why the authority could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The identity is of another world.
    #[error("the identity belongs to trust domain {0}")]
    WrongTrustDomain(TrustDomain),
    /// A host for a plane's certificate is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadHost(String),
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// A key could not be made or read.
    #[error("a key could not be made or read")]
    Key(#[from] KeyError),
    /// The trust bundle could not be made or read.
    #[error("the trust bundle could not be made or read")]
    Bundle(#[from] BundleError),
    /// The stored authority cannot be opened, or not be sealed.
    #[error("the stored authority could not be opened or sealed")]
    Seal(#[from] SealError),
    /// The stored authority cannot be read.
    #[error("the stored authority is malformed")]
    Malformed,
    /// A certificate of the authority cannot be used.
    #[error("a certificate of the authority cannot be used")]
    Certificate(#[from] VerifyError),
    /// A fresh signing request of our own was not accepted.
    #[error("a signing request could not be made")]
    Request(#[from] ProofError),
    /// Fresh credentials did not prove themselves.
    #[error("fresh credentials are not usable")]
    Credentials(#[from] CredentialsError),
}

impl Authority {
    /// A new world: two roots, two issuers, a signing key, and the first bundle.
    pub fn create(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = CertificateAuthority::root(&trust_domain, now)?;
        let next_root = CertificateAuthority::root(&trust_domain, now)?;
        let agents = root.issuer(&trust_domain, Role::Agent, now)?;
        let planes = root.issuer(&trust_domain, Role::Plane, now)?;
        let signing = SigningKey::generate();
        let bundle = BundleParts {
            trust_domain: &trust_domain,
            root: &root.certificate,
            next_pin: next_root.pin()?,
            signing_key: signing.verifying_key()?,
            epoch: 1,
            revision: 1,
        }
        .sign(&root.key)?;
        Ok(Self {
            trust_domain,
            root,
            next_root,
            agents,
            planes,
            signing,
            bundle: Arc::new(bundle),
        })
    }

    /// The world that this is the authority of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What members believe.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// Pins of the current and the next root, as they stand in join tokens.
    pub fn pins(&self) -> Result<[RootPin; 2], AuthorityError> {
        Ok([self.root.pin()?, self.next_root.pin()?])
    }

    /// A certificate for an agent: client authentication.
    pub fn issue_agent(
        &self,
        csr: &VerifiedCsr,
        identity: &AgentIdentity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, AuthorityError> {
        self.issue(csr, &identity.clone().into(), &[], lifetime, now)
    }

    /// A certificate for a plane: server and client authentication. `hosts` are the DNS names
    /// and IP addresses that the public edge answers to; links ignore them.
    pub fn issue_plane(
        &self,
        csr: &VerifiedCsr,
        identity: &PlaneIdentity,
        hosts: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, AuthorityError> {
        self.issue(csr, &identity.clone().into(), hosts, lifetime, now)
    }

    /// A fresh key and a certificate for it, for a member that lives in this very process (and
    /// for tests): what joining does, without the travelling.
    pub fn enroll(
        &self,
        identity: &Identity,
        hosts: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::generate()?;
        let csr = VerifiedCsr::parse(&key.csr()?)?;
        let chain = self.issue(&csr, identity, hosts, lifetime, now)?;
        let bundle = Arc::clone(&self.bundle);
        Ok(Credentials::new(chain.certificates, key, bundle, now)?)
    }

    /// The authority as it is stored: nobody opens it without the authority key.
    pub fn seal(&self, key: &SealingKey) -> Result<Vec<u8>, AuthorityError> {
        let state = State {
            version: STATE_VERSION,
            root: self.root.state(),
            next_root: self.next_root.state(),
            agents: self.agents.state(),
            planes: self.planes.state(),
            signing_seed: (*self.signing.seed()).into(),
            bundle: self.bundle.as_bytes().to_vec().into(),
        };
        let plain = minicbor::to_vec(&state).map_err(|_| AuthorityError::Malformed)?;
        Ok(key.seal(PLACE, &Zeroizing::new(plain))?)
    }

    /// Opens what [`Self::seal`] made.
    pub fn open(sealed: &[u8], key: &SealingKey) -> Result<Self, AuthorityError> {
        let plain = key.open(PLACE, sealed)?;
        let state: State = minicbor::decode(&plain).map_err(|_| AuthorityError::Malformed)?;
        if state.version != STATE_VERSION {
            return Err(AuthorityError::Malformed);
        }
        let bundle = TrustBundle::from_stored(&state.bundle)?;
        Ok(Self {
            trust_domain: bundle.trust_domain().clone(),
            root: CertificateAuthority::from_state(&state.root)?,
            next_root: CertificateAuthority::from_state(&state.next_root)?,
            agents: CertificateAuthority::from_state(&state.agents)?,
            planes: CertificateAuthority::from_state(&state.planes)?,
            signing: SigningKey::from_seed(*state.signing_seed),
            bundle: Arc::new(bundle),
        })
    }

    /// Signs a record with control's key. The authority's epoch replaces the header's.
    pub fn sign_record(
        &self,
        header: RecordHeader,
        payload: Vec<u8>,
    ) -> Result<SignedRecord, RecordError> {
        let epoch = self.bundle.epoch();
        SignedRecord::sign(&self.signing, RecordHeader { epoch, ..header }, payload)
    }

    fn issue(
        &self,
        csr: &VerifiedCsr,
        identity: &Identity,
        hosts: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, AuthorityError> {
        if identity.trust_domain() != &self.trust_domain {
            let other = identity.trust_domain().clone();
            return Err(AuthorityError::WrongTrustDomain(other));
        }
        let issuer = match identity.role() {
            Role::Agent => &self.agents,
            Role::Plane => &self.planes,
        };
        let leaf = issuer.leaf(csr, identity, hosts, lifetime, now)?;
        Ok(Chain {
            certificates: vec![
                leaf.certificate,
                issuer.certificate.clone(),
                self.root.certificate.clone(),
            ],
            serial: leaf.serial,
            not_after: leaf.not_after,
        })
    }
}

/// What is sealed. Wiped when dropped.
#[derive(Encode, Decode)]
#[cbor(map)]
struct State {
    #[n(1)]
    version: u8,
    #[n(2)]
    root: AuthorityState,
    #[n(3)]
    next_root: AuthorityState,
    #[n(4)]
    agents: AuthorityState,
    #[n(5)]
    planes: AuthorityState,
    #[n(6)]
    signing_seed: ByteArray<32>,
    #[n(7)]
    bundle: ByteVec,
}

impl Drop for State {
    fn drop(&mut self) {
        self.signing_seed.zeroize();
    }
}
