//! Somebody who holds the authority's keys and makes what the authority never would.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_certs::{Authority, Credentials, KeyPair, Place, SealingKey};
use minicbor::Decode;
use minicbor::bytes::ByteVec;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

pub(crate) use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// One key and certificate of an authority.
#[derive(Decode)]
#[cbor(map)]
struct Sealed {
    #[n(1)]
    pkcs8: ByteVec,
    #[n(2)]
    certificate: ByteVec,
}

/// The authority's secrets, as its sealed form holds them.
#[derive(Decode)]
#[cbor(map)]
struct Secrets {
    #[n(2)]
    root: Sealed,
    #[n(3)]
    next_root: Sealed,
    #[n(4)]
    agents: Sealed,
    #[n(5)]
    planes: Sealed,
}

#[derive(Clone)]
pub(crate) struct Signer {
    key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
}

/// All that signs in a world.
pub(crate) struct Forge {
    pub(crate) root: Signer,
    pub(crate) next_root: Signer,
    pub(crate) agents: Signer,
    pub(crate) planes: Signer,
}

/// A chain and the key of its leaf.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Forge {
    pub(crate) fn of(authority: &Authority) -> Self {
        let key = SealingKey::generate();
        let sealed = authority.seal(&key).unwrap();
        let place = Place {
            kind: "authority",
            tenant: None,
            name: "authority",
        };
        let secrets: Secrets = minicbor::decode(&key.open(place, &sealed).unwrap()).unwrap();
        Self {
            root: Signer::from(&secrets.root),
            next_root: Signer::from(&secrets.next_root),
            agents: Signer::from(&secrets.agents),
            planes: Signer::from(&secrets.planes),
        }
    }

    /// The chain that the authority itself would send after a leaf of this issuer.
    pub(crate) fn under(&self, issuer: &Signer, leaf: LeafSpec) -> Forged {
        let key = KeyPair::generate().unwrap();
        let certificate = issuer.sign(&leaf.params, &key);
        Forged {
            chain: vec![
                certificate,
                issuer.certificate.clone(),
                self.root.certificate.clone(),
            ],
            key,
        }
    }
}

impl From<&Sealed> for Signer {
    fn from(sealed: &Sealed) -> Self {
        Self {
            key: KeyPair::from_pkcs8(&sealed.pkcs8).unwrap(),
            certificate: sealed.certificate.to_vec().into(),
        }
    }
}

impl From<&Forged> for Signer {
    fn from(forged: &Forged) -> Self {
        Self {
            key: forged.key.clone(),
            certificate: forged.chain[0].clone(),
        }
    }
}

impl From<&Credentials> for Forged {
    fn from(credentials: &Credentials) -> Self {
        Self {
            chain: credentials.chain.clone(),
            key: credentials.key.clone(),
        }
    }
}

impl Signer {
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> CertificateDer<'static> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key.clone()).unwrap();
        params.signed_by(key, &issuer).unwrap().der().clone()
    }

    /// An issuing certificate below this one.
    pub(crate) fn issuer(&self, usages: &[ExtendedKeyUsagePurpose], life: Life) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("forged issuer");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = usages.to_vec();
        life.apply(&mut params);
        let certificate = self.sign(&params, &key);
        Self { key, certificate }
    }
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Life {
    Now,
    Past,
    Future,
}

impl Life {
    fn apply(self, params: &mut CertificateParams) {
        let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (from, to) = match self {
            Self::Now => (today - DAY, today + DAY),
            Self::Past => (today - 2 * DAY, today - DAY),
            Self::Future => (today + DAY, today + 2 * DAY),
        };
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(from.as_secs());
        params.not_after = epoch + Duration::from_secs(to.as_secs());
    }
}

/// A leaf to be forged; as the authority would make it until told otherwise.
#[derive(Clone)]
pub(crate) struct LeafSpec {
    pub(crate) params: CertificateParams,
}

impl LeafSpec {
    pub(crate) fn new(uris: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        Life::Now.apply(&mut params);
        Self { params }
    }

    pub(crate) fn life(mut self, life: Life) -> Self {
        life.apply(&mut self.params);
        self
    }

    pub(crate) fn common_name(mut self, name: &str) -> Self {
        self.params.distinguished_name = common_name(name);
        self
    }

    pub(crate) fn dns(mut self, name: &str) -> Self {
        let name = SanType::DnsName(name.try_into().unwrap());
        self.params.subject_alt_names.push(name);
        self
    }

    pub(crate) fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.params.key_usages = usages.to_vec();
        self
    }

    pub(crate) fn authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
