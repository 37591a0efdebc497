//! What a process proves itself with: its chain, its key, and the bundle it believes.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::identity::{Identity, Role};
use crate::key::KeyPair;
use crate::verifier::{Expect, PeerLeaf, VerifyError, peer_leaf, stated_not_after};

/// An identity with everything that proves it. Cheap enough to clone; published whole.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who this process is.
    pub identity: Identity,
    /// Leaf, issuer, root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: KeyPair,
    /// Whom this process believes.
    pub bundle: Arc<TrustBundle>,
}

/// Why chain, key and bundle do not make credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The chain is not valid under the bundle.
    #[error("the certificate chain is not valid")]
    Chain(#[from] VerifyError),
    /// The leaf is for another key.
    #[error("the certificate is for another key")]
    WrongKey,
}

impl Credentials {
    /// Puts credentials together, proving at the time `now` that they belong together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        bundle: Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let leaf = peer_leaf(&chain, &bundle, Expect::AgentOrPlane, now)?;
        if leaf.key_digest != key.digest() {
            return Err(CredentialsError::WrongKey);
        }
        Ok(Self {
            identity: leaf.identity,
            chain,
            key,
            bundle,
        })
    }

    /// Puts back together what was stored. The leaf may have expired since: it is judged by the
    /// last moment of its life, because it may still renew itself.
    pub(crate) fn restore(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        bundle: Arc<TrustBundle>,
    ) -> Result<Self, CredentialsError> {
        let leaf = chain.first().ok_or(VerifyError::NoCertificate)?;
        let end = stated_not_after(leaf)?;
        Self::new(chain, key, bundle, end)
    }

    /// The own leaf, as a peer would see it at the time `now`.
    pub fn leaf(&self, now: SystemTime) -> Result<PeerLeaf, VerifyError> {
        let expect = match self.identity.role() {
            Role::Agent => Expect::Agent,
            Role::Plane => Expect::Plane,
        };
        peer_leaf(&self.chain, &self.bundle, expect, now)
    }

    /// The same identity with a newer bundle.
    pub fn with_bundle(&self, bundle: Arc<TrustBundle>) -> Self {
        Self {
            bundle,
            ..self.clone()
        }
    }
}
