//! The one place where a proven chain becomes an identity.
//!
//! WebPKI builds a path from the leaf to a trusted root; then the leaf's single URI, the path of
//! that URI, the issuer that signed the leaf, and both certificates' extended key usage must
//! agree on one role. Nothing else in a chain is looked at: not a name, not another certificate.

use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::{Anchors, RootPin, TrustBundle};
use crate::identity::{Identity, IdentityError, Role};
use crate::key::sha256;
use crate::name::TrustDomain;
use crate::time::{from_secs, to_unix};

/// Longest chain that is looked at: leaf, issuer, root, and room for one cross-signed root.
pub const MAX_CHAIN: usize = 4;

/// Every certificate and every handshake is signed with ECDSA P-256: one algorithm, so that
/// nothing weaker can be negotiated.
pub(crate) static CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
    &[webpki::aws_lc_rs::ECDSA_P256_SHA256];

/// What is known about a peer once its chain has been proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLeaf {
    /// Who it is.
    pub identity: Identity,
    /// The leaf's serial number, big-endian.
    pub serial: Vec<u8>,
    /// The end of the leaf's life.
    pub not_after: SystemTime,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub key_digest: [u8; 32],
}

/// Who is acceptable at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// An agent that dialled.
    Agent,
    /// A plane that was dialled: its leaf must serve as a TLS server.
    Plane,
    /// Either of them, as a dialler.
    AgentOrPlane,
}

/// Why a chain is not an identity. The reason is for our own log: a peer learns only that it was
/// refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate was sent.
    #[error("no certificate was sent")]
    NoCertificate,
    /// More than [`MAX_CHAIN`] certificates were sent.
    #[error("more than {MAX_CHAIN} certificates were sent")]
    ChainTooLong,
    /// A certificate cannot be read.
    #[error("a certificate is malformed")]
    Malformed,
    /// The chain does not end in a trusted root.
    #[error("the chain does not end in a trusted root")]
    UnknownIssuer,
    /// A certificate of the chain has expired.
    #[error("a certificate has expired")]
    Expired,
    /// A certificate of the chain is not valid yet.
    #[error("a certificate is not valid yet")]
    NotYetValid,
    /// The extended key usage does not permit this use.
    #[error("the certificate's key usage does not permit this")]
    WrongUsage,
    /// WebPKI refused the chain for another reason.
    #[error("the certificate chain is not valid")]
    Chain(#[source] webpki::Error),
    /// The leaf was not signed by an issuing certificate directly below the root.
    #[error("the leaf is not signed by an issuer directly below the root")]
    NotFromIssuer,
    /// The leaf has no URI, or more than one.
    #[error("the leaf has {0} URIs instead of one")]
    UriCount(usize),
    /// The leaf's URI is not an identity.
    #[error("the leaf's URI is not an identity")]
    Identity(#[from] IdentityError),
    /// The identity is of another world.
    #[error("the leaf belongs to trust domain {0}")]
    WrongTrustDomain(TrustDomain),
    /// Issuer and path disagree.
    #[error("the issuer vouches for an {issuer}, the path says {path}")]
    RoleMismatch {
        /// The role that the issuing certificate may vouch for.
        issuer: Role,
        /// The role that the leaf's URI states.
        path: Role,
    },
    /// The role is a good one, but not the one that is spoken to here.
    #[error("an {0} is not accepted here")]
    NotExpected(Role),
}

/// Proves a chain (leaf first) against a bundle at the time `now`.
///
/// Also used after the handshake, and while a link lives, to check its lifetime again.
pub fn peer_leaf(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    expect: Expect,
    now: SystemTime,
) -> Result<PeerLeaf, VerifyError> {
    leaf_under(chain, bundle.anchors(), expect, now)
}

/// As [`peer_leaf`], for one who has anchors but no bundle yet.
pub fn leaf_under(
    chain: &[CertificateDer<'_>],
    anchors: &Anchors,
    expect: Expect,
    now: SystemTime,
) -> Result<PeerLeaf, VerifyError> {
    let (leaf, others) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong);
    }
    let issuer = proven_issuer_role(leaf, others, anchors, expect, now)?;
    let peer = read_leaf(leaf, issuer)?;
    if peer.identity.trust_domain() != &anchors.trust_domain {
        return Err(VerifyError::WrongTrustDomain(
            peer.identity.trust_domain().clone(),
        ));
    }
    expect.accepts(issuer)?;
    Ok(peer)
}

impl Expect {
    fn usage(self) -> KeyUsage {
        match self {
            Self::Plane => KeyUsage::server_auth(),
            Self::Agent | Self::AgentOrPlane => KeyUsage::client_auth(),
        }
    }

    fn accepts(self, role: Role) -> Result<(), VerifyError> {
        match (self, role) {
            (Self::Agent | Self::AgentOrPlane, Role::Agent)
            | (Self::Plane | Self::AgentOrPlane, Role::Plane) => Ok(()),
            (Self::Agent, Role::Plane) | (Self::Plane, Role::Agent) => {
                Err(VerifyError::NotExpected(role))
            }
        }
    }
}

/// Builds the path, and says which role the certificate that signed the leaf may vouch for.
fn proven_issuer_role(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &Anchors,
    expect: Expect,
    now: SystemTime,
) -> Result<Role, VerifyError> {
    let end_entity = EndEntityCert::try_from(leaf).map_err(|_| VerifyError::Malformed)?;
    let roots = trusted_roots(others, anchors);
    let path = end_entity
        .verify_for_usage(
            CHAIN_ALGORITHMS,
            &roots,
            others,
            to_unix(now),
            expect.usage(),
            None,
            None,
        )
        .map_err(from_webpki)?;
    let mut intermediates = path.intermediate_certificates();
    match (intermediates.next(), intermediates.next()) {
        (Some(issuer), None) => issuer_role(&issuer.der()),
        _ => Err(VerifyError::NotFromIssuer),
    }
}

/// The known roots, and those among the sent certificates whose key is pinned. Only the holder of
/// a pinned key can have signed below it, so where its certificate came from does not matter.
fn trusted_roots<'a>(
    others: &'a [CertificateDer<'a>],
    anchors: &'a Anchors,
) -> Vec<TrustAnchor<'a>> {
    let pinned = others
        .iter()
        .filter(|certificate| RootPin::of(certificate).is_some_and(|p| anchors.pins.contains(&p)));
    anchors
        .roots
        .iter()
        .chain(pinned)
        .filter_map(|root| anchor_from_trusted_cert(root).ok())
        .collect()
}

/// An issuer's extended key usage, signed by the root, says what it may issue: client
/// authentication alone for agents, both for planes.
fn issuer_role(der: &CertificateDer<'_>) -> Result<Role, VerifyError> {
    let (_, issuer) = X509Certificate::from_der(der).map_err(|_| VerifyError::Malformed)?;
    usage_role(&issuer)
}

fn usage_role(certificate: &X509Certificate<'_>) -> Result<Role, VerifyError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| VerifyError::Malformed)?
        .ok_or(VerifyError::WrongUsage)?
        .value;
    let others = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    match (usage.client_auth, usage.server_auth, others) {
        (true, false, false) => Ok(Role::Agent),
        (true, true, false) => Ok(Role::Plane),
        _ => Err(VerifyError::WrongUsage),
    }
}

/// Reads a leaf whose chain is proven; `issuer` is the role that its issuer vouches for.
fn read_leaf(der: &CertificateDer<'_>, issuer: Role) -> Result<PeerLeaf, VerifyError> {
    let (_, leaf) = X509Certificate::from_der(der).map_err(|_| VerifyError::Malformed)?;
    let identity: Identity = single_uri(&leaf)?.parse()?;
    let path = identity.role();
    if path != issuer {
        return Err(VerifyError::RoleMismatch { issuer, path });
    }
    if usage_role(&leaf)? != path || !may_sign_handshakes(&leaf)? {
        return Err(VerifyError::WrongUsage);
    }
    Ok(PeerLeaf {
        identity,
        serial: leaf.raw_serial().to_vec(),
        not_after: not_after(&leaf)?,
        key_digest: sha256(leaf.public_key().raw),
    })
}

fn single_uri<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, VerifyError> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| VerifyError::Malformed)?
        .map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => Err(VerifyError::UriCount(0)),
        (Some(_), more) => Err(VerifyError::UriCount(1 + more)),
    }
}

/// A leaf signs handshakes and nothing else: no certificates, no revocation lists.
fn may_sign_handshakes(leaf: &X509Certificate<'_>) -> Result<bool, VerifyError> {
    let usage = leaf.key_usage().map_err(|_| VerifyError::Malformed)?;
    Ok(usage.is_some_and(|usage| {
        let usage = usage.value;
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    }))
}

fn not_after(certificate: &X509Certificate<'_>) -> Result<SystemTime, VerifyError> {
    let secs = certificate.validity().not_after.timestamp();
    let secs = u64::try_from(secs).map_err(|_| VerifyError::Malformed)?;
    from_secs(secs).ok_or(VerifyError::Malformed)
}

/// The end of life that a certificate itself states, proven or not.
pub(crate) fn stated_not_after(der: &CertificateDer<'_>) -> Result<SystemTime, VerifyError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| VerifyError::Malformed)?;
    not_after(&certificate)
}

fn from_webpki(error: webpki::Error) -> VerifyError {
    use webpki::Error as E;
    // Roots of one world share a name: a stranger's of the same name is found out by signature.
    if matches!(error, E::UnknownIssuer | E::InvalidSignatureForPublicKey) {
        VerifyError::UnknownIssuer
    } else if matches!(error, E::CertExpired { .. }) {
        VerifyError::Expired
    } else if matches!(error, E::CertNotValidYet { .. }) {
        VerifyError::NotYetValid
    } else if matches!(error, E::RequiredEkuNotFoundContext(_)) {
        VerifyError::WrongUsage
    } else {
        VerifyError::Chain(error)
    }
}
