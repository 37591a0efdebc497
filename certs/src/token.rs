//! Join tokens: what an operator hands to a machine so that it can become a member.
//!
//! A token carries where to dial, whom to believe there, and an Ed25519 seed. The seed never
//! travels: the newcomer signs its request with it, and the server, which knows the public key
//! only, cannot leak what it does not have.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::address::HostPort;
use crate::base62;
use crate::bundle::RootPin;
use crate::key::{KeyError, sha256};
use crate::name::{ConnectorName, Region, TenantName, TrustDomain, Zone};
use crate::record::{SigningKey, VerifyingKey};
use crate::secret::SecretText;
use crate::time::{from_secs, serde_secs, to_secs};

pub use crate::identity::TokenId;

/// The version of tokens that this build makes and reads.
pub const TOKEN_VERSION: u8 = 1;
/// Longest token in characters, prefix included: it must survive shells, forms and chat windows.
pub const MAX_TOKEN: usize = 1024;
/// Most addresses in one token; more would not fit beside the rest.
pub const MAX_ADDRESSES: usize = 8;

const PREFIX: &str = "cvjoin_";

/// An invitation of one machine into a world. A secret: masked when formatted.
#[derive(Clone)]
pub struct JoinToken {
    /// Where a plane can be reached.
    pub addresses: Vec<HostPort>,
    /// The world that is joined.
    pub trust_domain: TrustDomain,
    /// As whom.
    pub subject: JoinSubject,
    /// The roots that a plane's chain may end in: the current and the next one.
    pub pins: [RootPin; 2],
    /// When the token stops being good.
    pub expiry: SystemTime,
    key: SigningKey,
    public_key: VerifyingKey,
}

/// As whom a token's bearer joins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinSubject {
    /// As an agent of a tenant's connector.
    Connector {
        /// The customer.
        tenant: TenantName,
        /// The customer's network.
        connector: ConnectorName,
    },
    /// As a replica of a plane.
    Plane {
        /// The plane's label.
        region: Region,
        /// The plane's name.
        zone: Zone,
    },
}

/// What a token is to be made of.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// Where a plane can be reached; 1 to [`MAX_ADDRESSES`] of them.
    pub addresses: Vec<HostPort>,
    /// The world that is joined.
    pub trust_domain: TrustDomain,
    /// As whom.
    pub subject: JoinSubject,
    /// The current and the next root.
    pub pins: [RootPin; 2],
    /// When the token stops being good.
    pub expiry: SystemTime,
}

/// What the server keeps of a token: nothing that could redeem it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// What requests name the token by.
    pub id: TokenId,
    /// The Ed25519 key that requests are signed with, in hexadecimal.
    #[serde(with = "crate::json::hex")]
    pub public_key: [u8; 32],
    /// As whom the bearer joins.
    pub subject: JoinSubject,
    /// When the token stops being good, in seconds since the epoch.
    #[serde(with = "serde_secs")]
    pub expiry: SystemTime,
    /// How often it may still be redeemed; 1 when minted.
    pub uses_left: u32,
}

/// Why a token could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text does not start as a join token does.
    #[error("not a join token: it does not start with {PREFIX}")]
    NotAToken,
    /// The text was cut or changed: its checksum does not fit.
    #[error("the join token is damaged: was it copied whole?")]
    Damaged,
    /// The token was made by a newer version.
    #[error("the join token has version {0}, this build reads version {TOKEN_VERSION}")]
    Version(u8),
    /// The checksum fits, but the content does not make sense.
    #[error("the join token is malformed")]
    Malformed,
    /// Too many or too long addresses for [`MAX_TOKEN`] characters, or none.
    #[error("a join token has 1 to {MAX_ADDRESSES} addresses and at most {MAX_TOKEN} characters")]
    Addresses,
    /// The key could not be made.
    #[error("the key of the join token could not be made")]
    Key(#[from] KeyError),
}

impl JoinToken {
    /// Makes a token, and the record that the server keeps of it.
    pub fn mint(spec: TokenSpec) -> Result<(Self, TokenRecord), TokenError> {
        let key = SigningKey::generate();
        let token = Self::assemble(spec, key)?;
        token.encode()?;
        let record = TokenRecord {
            id: token.id(),
            public_key: *token.public_key.as_bytes(),
            subject: token.subject.clone(),
            expiry: token.expiry,
            uses_left: 1,
        };
        Ok((token, record))
    }

    /// The token as text: this is the secret that is shown once.
    pub fn encode(&self) -> Result<SecretText, TokenError> {
        let wire = Wire {
            version: TOKEN_VERSION,
            addresses: self.addresses.clone(),
            trust_domain: self.trust_domain.clone(),
            tenant: self.subject.tenant().cloned(),
            subject: WireSubject::from(&self.subject),
            pins: self.pins.map(|pin| (*pin.as_bytes()).into()),
            seed: (*self.key.seed()).into(),
            expiry: to_secs(self.expiry),
        };
        let cbor = minicbor::to_vec(&wire).map_err(|_| TokenError::Malformed)?;
        let cbor = Zeroizing::new(cbor);
        let body = base62::encode_checked(&cbor);
        if PREFIX.len() + body.len() > MAX_TOKEN {
            return Err(TokenError::Addresses);
        }
        Ok(Zeroizing::new(format!("{PREFIX}{}", *body)).into())
    }

    /// What the server knows the token by.
    pub fn id(&self) -> TokenId {
        token_id(&self.public_key)
    }

    /// Signs with the token's seed.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.key.sign(message)
    }

    fn assemble(spec: TokenSpec, key: SigningKey) -> Result<Self, TokenError> {
        if spec.addresses.is_empty() || spec.addresses.len() > MAX_ADDRESSES {
            return Err(TokenError::Addresses);
        }
        Ok(Self {
            addresses: spec.addresses,
            trust_domain: spec.trust_domain,
            subject: spec.subject,
            pins: spec.pins,
            expiry: spec.expiry,
            public_key: key.verifying_key()?,
            key,
        })
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Damaged);
        }
        let cbor = base62::decode_checked(body, MAX_TOKEN).ok_or(TokenError::Damaged)?;
        let version: Version = minicbor::decode(&cbor).map_err(|_| TokenError::Malformed)?;
        if version.version != TOKEN_VERSION {
            return Err(TokenError::Version(version.version));
        }
        let wire: Wire = minicbor::decode(&cbor).map_err(|_| TokenError::Malformed)?;
        wire.into_token()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id())
            .field("trust_domain", &self.trust_domain)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl JoinSubject {
    /// The tenant, where an agent joins.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Connector { tenant, .. } => Some(tenant),
            Self::Plane { .. } => None,
        }
    }
}

impl fmt::Display for JoinSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connector { tenant, connector } => write!(f, "connector {tenant}/{connector}"),
            Self::Plane { region, zone } => write!(f, "plane {region}/{zone}"),
        }
    }
}

fn token_id(public_key: &VerifyingKey) -> TokenId {
    let digest = sha256(public_key.as_bytes());
    TokenId::from_bytes(std::array::from_fn(|i| digest[i]))
}

/// Only the version, so that a token of another version is called that, not malformed.
#[derive(Debug, Decode)]
#[cbor(map)]
struct Version {
    #[n(1)]
    version: u8,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(1)]
    version: u8,
    #[n(2)]
    addresses: Vec<HostPort>,
    #[n(3)]
    trust_domain: TrustDomain,
    #[n(4)]
    tenant: Option<TenantName>,
    #[n(5)]
    subject: WireSubject,
    #[n(6)]
    pins: [ByteArray<32>; 2],
    #[n(7)]
    seed: ByteArray<32>,
    #[n(8)]
    expiry: u64,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl Wire {
    fn into_token(mut self) -> Result<JoinToken, TokenError> {
        let subject = match (self.tenant.take(), self.subject.clone()) {
            (Some(tenant), WireSubject::Connector(connector)) => {
                JoinSubject::Connector { tenant, connector }
            }
            (None, WireSubject::Plane(region, zone)) => JoinSubject::Plane { region, zone },
            (Some(_), WireSubject::Plane(..)) | (None, WireSubject::Connector(_)) => {
                return Err(TokenError::Malformed);
            }
        };
        let spec = TokenSpec {
            addresses: std::mem::take(&mut self.addresses),
            trust_domain: self.trust_domain.clone(),
            subject,
            pins: self.pins.map(|pin| RootPin::from_bytes(*pin)),
            expiry: from_secs(self.expiry).ok_or(TokenError::Malformed)?,
        };
        JoinToken::assemble(spec, SigningKey::from_seed(*self.seed))
    }
}

/// A connector is a text, a plane an array of region and zone.
#[derive(Debug, Clone)]
enum WireSubject {
    Connector(ConnectorName),
    Plane(Region, Zone),
}

impl From<&JoinSubject> for WireSubject {
    fn from(subject: &JoinSubject) -> Self {
        match subject {
            JoinSubject::Connector { connector, .. } => Self::Connector(connector.clone()),
            JoinSubject::Plane { region, zone } => Self::Plane(region.clone(), zone.clone()),
        }
    }
}

impl<C> Encode<C> for WireSubject {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self {
            Self::Connector(connector) => connector.encode(encoder, context),
            Self::Plane(region, zone) => (region, zone).encode(encoder, context),
        }
    }
}

impl<'b, C> Decode<'b, C> for WireSubject {
    fn decode(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        if decoder.datatype()? == minicbor::data::Type::String {
            return ConnectorName::decode(decoder, context).map(Self::Connector);
        }
        let (region, zone) = Decode::decode(decoder, context)?;
        Ok(Self::Plane(region, zone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(subject: JoinSubject) -> JoinToken {
        let spec = TokenSpec {
            addresses: vec![
                "gw.example.com:443".parse().unwrap(),
                "[::1]:8443".parse().unwrap(),
            ],
            trust_domain: "culvert.test".parse().unwrap(),
            subject,
            pins: [RootPin::from_bytes([1; 32]), RootPin::from_bytes([2; 32])],
            expiry: from_secs(1_800_000_000).unwrap(),
        };
        JoinToken::assemble(spec, SigningKey::from_seed([3; 32])).unwrap()
    }

    /// A token that was handed out stays readable.
    #[test]
    fn golden_tokens() {
        let connector = JoinSubject::Connector {
            tenant: "acme".parse().unwrap(),
            connector: "prod-vpc".parse().unwrap(),
        };
        let plane = JoinSubject::Plane {
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
        };
        for (subject, text) in [
            (
                connector,
                "cvjoin_LZQ1V1axPvU9Zzjq88TPlE5oD3tRwca5b1Qknho1gzyXH4Ecv7fgVEmlo3B1bny1fwvhH\
             rDyhs7yrAa5pKB0tOBSqp6qoD7fmTV8bddr6tD4EAkpITCAob6KIkZvqvEF7QIHJ4RT55E26FCdP\
             sytEZ3U6K1bRVxjxfCtTgYd1hacvvD6uZZ28r4rDWnyFLPNiuoDr9QlVO3kYtk35oadmS6jjjkxP\
             saB0R906iP6HWiKFIQbN2",
            ),
            (
                plane,
                "cvjoin_41l20ZcaP2lIuyXmQRI3vCne1ZvtZJFUYQU0TZuIPKcIlzBygdAZOzLH0Wsc0T3I2G28z\
             W8ktantFIbg530q0gcq29R3ff8Wu29l7H8ZAg5Vf5O8AwMZQ9a5rgUz5Fic1A5gnlKb0VWzKe5NZ\
             XYClDfV0OcMK9rJ3xfShSQ4jLu3Yxmlt5MoQHzaNJAiNEDAthuKJnA45jnHO017EHt6CH07AKMrO\
             zPCOm5ODAu3O",
            ),
        ] {
            let token = token(subject.clone());
            assert_eq!(token.encode().unwrap().expose(), text);
            let read: JoinToken = text.parse().unwrap();
            assert_eq!(read.subject, subject);
            assert_eq!(read.addresses, token.addresses);
            assert_eq!(read.trust_domain, token.trust_domain);
            assert_eq!(read.pins, token.pins);
            assert_eq!(read.expiry, token.expiry);
            assert_eq!(read.id(), token.id());
            assert_eq!(read.id().to_string(), "wyxim75c6m5p4ywv22ywilqwee");
        }
    }

    #[test]
    fn a_newer_token_says_so() {
        // {1: 2}, and nothing that this build would understand.
        let text = format!("{PREFIX}{}", *base62::encode_checked(&[0xa1, 1, 2]));
        assert_eq!(
            text.parse::<JoinToken>().unwrap_err(),
            TokenError::Version(2)
        );
        let text = format!("{PREFIX}{}", *base62::encode_checked(&[0xa1, 1, 1]));
        assert_eq!(
            text.parse::<JoinToken>().unwrap_err(),
            TokenError::Malformed
        );
    }

    #[test]
    fn a_subject_without_its_tenant_is_malformed() {
        let mut wire = Wire {
            version: TOKEN_VERSION,
            addresses: vec!["a:1".parse().unwrap()],
            trust_domain: "t".parse().unwrap(),
            tenant: None,
            subject: WireSubject::Connector("c".parse().unwrap()),
            pins: [[0; 32].into(), [0; 32].into()],
            seed: [0; 32].into(),
            expiry: 0,
        };
        let encode = |wire: &Wire| {
            let cbor = minicbor::to_vec(wire).unwrap();
            format!("{PREFIX}{}", *base62::encode_checked(&cbor))
        };
        let text = encode(&wire);
        assert_eq!(
            text.parse::<JoinToken>().unwrap_err(),
            TokenError::Malformed
        );
        wire.tenant = Some("t".parse().unwrap());
        assert!(encode(&wire).parse::<JoinToken>().is_ok());
        wire.subject = WireSubject::Plane("R".parse().unwrap(), "Z".parse().unwrap());
        assert!(encode(&wire).parse::<JoinToken>().is_err());
        wire.tenant = None;
        assert!(encode(&wire).parse::<JoinToken>().is_ok());
        wire.expiry = u64::MAX;
        assert!(encode(&wire).parse::<JoinToken>().is_err());
    }
}
