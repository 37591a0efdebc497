//! The authority: root, issuers and signing key of a world. Lives in control only.
//!
//! The root vouches for two issuing certificates, one for agents and one for planes, whose
//! extended key usage says what they may vouch for in turn. The next root is made at birth, so
//! that its pin stands in every token and bundle from the first one on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use crate::bundle::{BundleError, BundleParts, RootPin, TrustBundle};
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{AgentIdentity, Identity, PlaneIdentity, Role};
use crate::key::{KeyError, KeyPair};
use crate::name::TrustDomain;
use crate::random;
use crate::record::{RecordError, RecordHeader, SignedRecord, SigningKey};
use crate::request::{ProofError, VerifiedCsr};
use crate::time::{from_secs, to_secs};
use crate::verifier::{VerifyError, stated_not_after};

/// How long a leaf lives unless configured otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(7 * DAY);
/// How far a certificate's life starts before it is made: clocks in private networks are off.
pub const BACKDATE: Duration = Duration::from_secs(10 * 60);
/// How long a root lives. Replacing one touches every member, so it is rare.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * DAY);
/// How long an issuer lives; members learn a new one from the chains that it signs.
pub const ISSUER_LIFETIME: Duration = Duration::from_secs(5 * 365 * DAY);

const DAY: u64 = 24 * 3600;

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

/// A certificate that signs others, and its key.
#[derive(Debug)]
struct CertificateAuthority {
    key: KeyPair,
    certificate: CertificateDer<'static>,
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
        let serial = random_serial();
        // A leaf that outlived its issuer would fail in the field, not here.
        let not_after = (now + lifetime).min(stated_not_after(&issuer.certificate)?);
        let mut params = leaf_params(identity, hosts)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(&mut params, now, not_after);
        let public_key = SubjectPublicKeyInfo::from_der(csr.spki())?;
        let leaf = params.signed_by(&public_key, &issuer.rcgen_issuer()?)?;
        Ok(Chain {
            certificates: vec![
                leaf.der().clone(),
                issuer.certificate.clone(),
                self.root.certificate.clone(),
            ],
            serial: serial.to_vec(),
            not_after: whole_seconds(not_after),
        })
    }
}

impl CertificateAuthority {
    fn root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        // Root, issuer, leaf: one certificate between a root and a leaf.
        let mut params = authority_params(&format!("{trust_domain} root"), 1);
        set_validity(&mut params, now, now + ROOT_LIFETIME);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { key, certificate })
    }

    fn issuer(
        &self,
        trust_domain: &TrustDomain,
        role: Role,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(&format!("{trust_domain} {role}s"), 0);
        params.extended_key_usages = usages(role);
        set_validity(&mut params, now, now + ISSUER_LIFETIME);
        let certificate = params.signed_by(&key, &self.rcgen_issuer()?)?.der().clone();
        Ok(Self { key, certificate })
    }

    fn rcgen_issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_der(&self.certificate, self.key.clone())
    }

    fn pin(&self) -> Result<RootPin, AuthorityError> {
        RootPin::of(&self.certificate).ok_or(AuthorityError::Malformed)
    }
}

fn authority_params(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A leaf has no subject: the URI is its only name, and whoever reads names finds none.
fn leaf_params(identity: &Identity, hosts: &[String]) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages(identity.role());
    params.use_authority_key_identifier_extension = true;
    let uri = Ia5String::try_from(identity.to_string())?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    for host in hosts {
        params.subject_alt_names.push(host_name(host)?);
    }
    Ok(params)
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || AuthorityError::BadHost(host.to_owned());
    rustls::pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    let name = Ia5String::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(name))
}

fn usages(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Agent => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Plane => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    }
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, not_after: SystemTime) {
    let epoch = date_time_ymd(1970, 1, 1);
    let not_before = to_secs(now).saturating_sub(BACKDATE.as_secs());
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(to_secs(not_after));
}

/// Certificates tell time in whole seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    from_secs(to_secs(time)).unwrap_or(time)
}

/// 16 random bytes, positive and without a leading zero, so that DER keeps them as they are.
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = random::bytes();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}
