//! Certificates: what stands in a root, an issuer and a leaf.

use std::time::{Duration, SystemTime};

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, DnsName};
use zeroize::Zeroize;

use crate::authority::AuthorityError;
use crate::bundle::RootPin;
use crate::identity::{Identity, Role};
use crate::key::{KeyError, KeyPair};
use crate::name::TrustDomain;
use crate::random;
use crate::request::VerifiedCsr;
use crate::time::{from_secs, to_secs};
use crate::verifier::stated_not_after;

/// How far a certificate's life starts before it is made: clocks in private networks are off.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10 * 60);
/// How long a root lives. Replacing one touches every member, so it is rare.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long an issuer lives; members learn a new one from the chains that it signs.
const ISSUER_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// A certificate that signs others, and its key.
#[derive(Debug)]
pub(crate) struct CertificateAuthority {
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
}

/// A fresh leaf, before its chain is put around it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) serial: Vec<u8>,
    pub(crate) not_after: SystemTime,
}

impl CertificateAuthority {
    /// A self-signed root.
    pub(crate) fn root(
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        // Root, issuer, leaf: one certificate between a root and a leaf.
        let mut params = authority_params(&format!("{trust_domain} root"), 1);
        set_validity(&mut params, now, now + ROOT_LIFETIME);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { key, certificate })
    }

    /// An issuer under this root, for leaves of one role.
    pub(crate) fn issuer(
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

    /// A leaf for the key in `csr`. It never outlives this issuer: such a leaf would fail in the
    /// field, not here.
    pub(crate) fn leaf(
        &self,
        csr: &VerifiedCsr,
        identity: &Identity,
        hosts: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Leaf, AuthorityError> {
        let issuer_end = stated_not_after(&self.certificate)?;
        let not_after = now
            .checked_add(lifetime)
            .and_then(|end| from_secs(to_secs(end)))
            .map_or(issuer_end, |end| end.min(issuer_end));
        let serial = random_serial();
        let mut params = leaf_params(identity, hosts)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(&mut params, now, not_after);
        let public_key = SubjectPublicKeyInfo::from_der(csr.spki())?;
        let certificate = params.signed_by(&public_key, &self.rcgen_issuer()?)?;
        Ok(Leaf {
            certificate: certificate.der().clone(),
            serial: serial.to_vec(),
            not_after,
        })
    }

    fn rcgen_issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_der(&self.certificate, self.key.clone())
    }

    pub(crate) fn state(&self) -> AuthorityState {
        AuthorityState {
            pkcs8: self.key.pkcs8().to_vec().into(),
            certificate: self.certificate.to_vec().into(),
        }
    }

    pub(crate) fn from_state(state: &AuthorityState) -> Result<Self, KeyError> {
        Ok(Self {
            key: KeyPair::from_pkcs8(&state.pkcs8)?,
            certificate: CertificateDer::from(state.certificate.to_vec()),
        })
    }

    pub(crate) fn pin(&self) -> Result<RootPin, AuthorityError> {
        RootPin::of(&self.certificate).ok_or(AuthorityError::Malformed)
    }
}

/// How a certificate authority is stored, under a seal. Wiped when dropped.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct AuthorityState {
    #[n(1)]
    pkcs8: ByteVec,
    #[n(2)]
    certificate: ByteVec,
}

impl Drop for AuthorityState {
    fn drop(&mut self) {
        self.pkcs8.zeroize();
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
    DnsName::try_from(host).map_err(|_| bad())?;
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

/// 16 random bytes, positive and without a leading zero, so that DER keeps them as they are.
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = random::bytes();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}
