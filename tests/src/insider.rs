//! Who has stolen the authority: certificates that the real issuers have signed, and that nobody may believe.

use std::path::Path;
use std::time::{Duration, SystemTime};

use culvert_certs::{Place, SealingKey};
use culvert_control::store::{Key, Kind, RedbStore, Store};
use minicbor::Decode;
use minicbor::bytes::ByteVec;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::attacker::{Papers, other};
use crate::error::HarnessError;

/// The certificates and keys that sign others.
#[derive(Debug)]
pub struct Insider {
    root: Signer,
    agents: Signer,
    planes: Signer,
}

/// Who signs a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The issuer of agents.
    Agents,
    /// The issuer of planes.
    Planes,
    /// The root itself.
    Root,
}

/// What stands in a leaf.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// URIs of its alternative names.
    pub uris: Vec<String>,
    /// DNS names of its alternative names.
    pub hosts: Vec<String>,
    /// Its subject's common name.
    pub common_name: Option<String>,
    /// What its key is for.
    pub usages: Vec<KeyUsagePurpose>,
    /// What it is for.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    /// When its life begins.
    pub not_before: SystemTime,
    /// When its life ends.
    pub not_after: SystemTime,
    /// Whether it may sign others.
    pub authority: IsCa,
}

impl Leaf {
    /// As the authority makes it for an agent.
    #[must_use]
    pub fn of_agent(uri: &str) -> Self {
        Self::new(uri, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// As the authority makes it for a plane.
    #[must_use]
    pub fn of_plane(uri: &str) -> Self {
        let both = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Self::new(uri, both.to_vec())
    }

    fn new(uri: &str, purposes: Vec<ExtendedKeyUsagePurpose>) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![uri.to_owned()],
            hosts: Vec::new(),
            common_name: None,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes,
            not_before: now - Duration::from_secs(600),
            not_after: now + Duration::from_secs(3600),
            authority: IsCa::ExplicitNoCa,
        }
    }

    fn params(&self) -> Result<CertificateParams, HarnessError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.is_ca = self.authority;
        params.key_usages.clone_from(&self.usages);
        params.extended_key_usages.clone_from(&self.purposes);
        params.use_authority_key_identifier_extension = true;
        for uri in &self.uris {
            let uri = Ia5String::try_from(uri.as_str()).map_err(other)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        for host in &self.hosts {
            let host = Ia5String::try_from(host.as_str()).map_err(other)?;
            params.subject_alt_names.push(SanType::DnsName(host));
        }
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_err(other);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(since(self.not_before)?.as_secs());
        params.not_after = epoch + Duration::from_secs(since(self.not_after)?.as_secs());
        Ok(params)
    }
}

impl Insider {
    /// Opens the authority in the data folder of a gateway that does not run.
    ///
    /// # Errors
    /// Files that are not there, or that nobody of ours wrote.
    pub async fn open(data: &Path) -> Result<Self, HarnessError> {
        let key = SealingKey::from_file(&data.join("authority.key"), false).map_err(other)?;
        let store = RedbStore::open(&data.join("culvert.redb"))
            .await
            .map_err(other)?;
        let place = Key::global(Kind::Authority, "current").map_err(other)?;
        let entry = store.get(&place).await.map_err(other)?;
        let entry = entry.ok_or_else(|| HarnessError::Http("no authority".to_owned()))?;
        let place = Place {
            kind: "authority",
            tenant: None,
            name: "authority",
        };
        let plain = key.open(place, &entry.value).map_err(other)?;
        let stored: Stored = minicbor::decode(&plain).map_err(other)?;
        Ok(Self {
            root: stored.root.signer()?,
            agents: stored.agents.signer()?,
            planes: stored.planes.signer()?,
        })
    }

    /// A chain for `leaf` with a key of its own.
    ///
    /// # Errors
    /// A leaf that cannot be made.
    pub fn sign(&self, by: By, leaf: &Leaf) -> Result<Papers, HarnessError> {
        let signer = match by {
            By::Agents => &self.agents,
            By::Planes => &self.planes,
            By::Root => &self.root,
        };
        let (certificate, key) = signer.sign(leaf)?;
        let mut chain = vec![certificate];
        if by != By::Root {
            chain.push(signer.certificate.clone());
        }
        chain.push(self.root.certificate.clone());
        Ok(Papers { chain, key })
    }
}

/// Signs `leaf` with the key of `papers`, as if its leaf were an issuer.
///
/// # Errors
/// A leaf that cannot be made.
pub fn sign_with(papers: &Papers, leaf: &Leaf) -> Result<Papers, HarnessError> {
    let first = papers.chain.first();
    let signer = Signer {
        certificate: first
            .cloned()
            .ok_or_else(|| HarnessError::Http("no leaf".to_owned()))?,
        pkcs8: papers.key.secret_der().to_vec(),
    };
    let (certificate, key) = signer.sign(leaf)?;
    let mut chain = vec![certificate];
    chain.extend(papers.chain.iter().cloned());
    Ok(Papers { chain, key })
}

/// A certificate that signs others, and its key.
#[derive(Debug)]
struct Signer {
    certificate: CertificateDer<'static>,
    pkcs8: Vec<u8>,
}

impl Signer {
    fn sign(
        &self,
        leaf: &Leaf,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), HarnessError> {
        let own = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let own = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&own, &PKCS_ECDSA_P256_SHA256)
            .map_err(other)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, own).map_err(other)?;
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(other)?;
        let certificate = leaf.params()?.signed_by(&key, &issuer).map_err(other)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((certificate.der().clone(), key.into()))
    }
}

/// What the seal of the authority keeps, as far as it is of use here.
#[derive(Decode)]
#[cbor(map)]
struct Stored {
    #[n(2)]
    root: StoredSigner,
    #[n(4)]
    agents: StoredSigner,
    #[n(5)]
    planes: StoredSigner,
}

#[derive(Decode)]
#[cbor(map)]
struct StoredSigner {
    #[n(1)]
    pkcs8: ByteVec,
    #[n(2)]
    certificate: ByteVec,
}

impl StoredSigner {
    fn signer(&self) -> Result<Signer, HarnessError> {
        let certificate = CertificateDer::from(self.certificate.to_vec());
        Ok(Signer {
            certificate,
            pkcs8: self.pkcs8.to_vec(),
        })
    }
}
