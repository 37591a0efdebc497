//! Who somebody is: the SPIFFE ids of agents and planes.
//!
//! An identity has exactly one spelling. Parsing is strict, so that two different texts are
//! never the same identity, and so that nothing needs normalising before it is compared.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use crate::name::{ConnectorName, NameError, Region, TenantName, TrustDomain, Zone};
use crate::random;
use crate::text::text_codec;

/// Longest SPIFFE id that is looked at; the SPIFFE standard's own bound, in bytes.
pub const MAX_SPIFFE_ID: usize = 2048;

/// The identity that a proven leaf carries. Displayed as its SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A process in a customer's network that serves a connector.
    Agent(AgentIdentity),
    /// One replica of a plane.
    Plane(PlaneIdentity),
}

/// `spiffe://<trust domain>/tenant/<t>/connector/<c>/agent/<a>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentIdentity {
    /// The authority's world.
    pub trust_domain: TrustDomain,
    /// The customer.
    pub tenant: TenantName,
    /// The customer's network.
    pub connector: ConnectorName,
    /// This agent among those that serve the connector.
    pub agent: AgentId,
}

/// `spiffe://<trust domain>/plane/<region>/<zone>/<replica>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaneIdentity {
    /// The authority's world.
    pub trust_domain: TrustDomain,
    /// The plane's label.
    pub region: Region,
    /// The plane's name.
    pub zone: Zone,
    /// This process among those of the plane.
    pub replica: ReplicaId,
}

/// What an identity is allowed to be; also what an issuing certificate vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Dials out and answers calls.
    Agent,
    /// Accepts links and opens calls.
    Plane,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Plane => "plane",
        })
    }
}

impl Identity {
    /// The role that the path of the id states.
    pub fn role(&self) -> Role {
        match self {
            Self::Agent(_) => Role::Agent,
            Self::Plane(_) => Role::Plane,
        }
    }

    /// The world that the id belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Agent(agent) => &agent.trust_domain,
            Self::Plane(plane) => &plane.trust_domain,
        }
    }

    /// The agent, if it is one.
    pub fn agent(&self) -> Option<&AgentIdentity> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Plane(_) => None,
        }
    }

    /// The plane's replica, if it is one.
    pub fn plane(&self) -> Option<&PlaneIdentity> {
        match self {
            Self::Plane(plane) => Some(plane),
            Self::Agent(_) => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => agent.fmt(f),
            Self::Plane(plane) => plane.fmt(f),
        }
    }
}

impl fmt::Display for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            tenant,
            connector,
            agent,
        } = self;
        write!(
            f,
            "spiffe://{trust_domain}/tenant/{tenant}/connector/{connector}/agent/{agent}"
        )
    }
}

impl fmt::Display for PlaneIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            region,
            zone,
            replica,
        } = self;
        write!(f, "spiffe://{trust_domain}/plane/{region}/{zone}/{replica}")
    }
}

impl From<AgentIdentity> for Identity {
    fn from(agent: AgentIdentity) -> Self {
        Self::Agent(agent)
    }
}

impl From<PlaneIdentity> for Identity {
    fn from(plane: PlaneIdentity) -> Self {
        Self::Plane(plane)
    }
}

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text does not start with `spiffe://`, or is longer than [`MAX_SPIFFE_ID`].
    #[error("not a SPIFFE id")]
    NotSpiffe,
    /// The path is neither that of an agent nor that of a plane.
    #[error("the path of the SPIFFE id names neither an agent nor a plane")]
    UnknownPath,
    /// One of the names in it is not one.
    #[error("a name in the SPIFFE id is malformed")]
    Name(#[from] NameError),
    /// The agent or replica id in it is not one.
    #[error("an id in the SPIFFE id is malformed")]
    Id(#[from] IdError),
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(IdentityError::NotSpiffe);
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(IdentityError::NotSpiffe)?;
        let mut parts = rest.split('/');
        // Seven parts at most are of interest; an eighth makes the id unknown.
        let parts: [Option<&str>; 8] = std::array::from_fn(|_| parts.next());
        match parts {
            [
                Some(domain),
                Some("tenant"),
                Some(tenant),
                Some("connector"),
                Some(connector),
                Some("agent"),
                Some(agent),
                None,
            ] => Ok(Self::Agent(AgentIdentity {
                trust_domain: domain.parse()?,
                tenant: tenant.parse()?,
                connector: connector.parse()?,
                agent: agent.parse()?,
            })),
            [
                Some(domain),
                Some("plane"),
                Some(region),
                Some(zone),
                Some(replica),
                None,
                None,
                None,
            ] => Ok(Self::Plane(PlaneIdentity {
                trust_domain: domain.parse()?,
                region: region.parse()?,
                zone: zone.parse()?,
                replica: replica.parse()?,
            })),
            _ => Err(IdentityError::UnknownPath),
        }
    }
}

text_codec!(Identity);

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 26 characters of lower-case base32")]
pub struct IdError;

/// Declares an id of 16 random bytes, spelled as lower-case base32 without padding.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh id.
            pub fn random() -> Self {
                Self(random::bytes())
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode_id(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode_id(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode_id(text).map(Self)
            }
        }

        text_codec!($name);
    };
}

id!(
    /// One agent of a connector.
    AgentId
);
id!(
    /// One process of a plane.
    ReplicaId
);
id!(
    /// What the server knows a join token by: the first 16 bytes of SHA-256 of its public key.
    TokenId
);

fn encode_id(bytes: &[u8; 16]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

fn decode_id(text: &str) -> Result<[u8; 16], IdError> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(IdError);
    }
    let bytes = BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| IdError)?;
    bytes.try_into().map_err(|_| IdError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENT: &str = "spiffe://culvert.test/tenant/acme/connector/prod-vpc/agent/\
                         aebagbafaydqqcikbmga2dqpca";
    const PLANE: &str = "spiffe://culvert.test/plane/US/ORF/aebagbafaydqqcikbmga2dqpca";

    #[test]
    fn both_forms_round_trip() {
        for text in [AGENT, PLANE] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(identity.to_string(), text);
        }
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8 + 1);
        assert_eq!(
            AGENT.parse::<Identity>().unwrap().agent().unwrap().agent,
            AgentId::from_bytes(bytes)
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        let upper = AGENT.to_ascii_uppercase();
        let slash = format!("{AGENT}/");
        let query = format!("{AGENT}?x=1");
        let port = AGENT.replace("culvert.test", "culvert.test:1");
        let dots = AGENT.replace("/agent/", "/./agent/");
        let long_id = format!("{AGENT}a");
        let escaped = AGENT.replace("acme", "acm%65");
        for text in [
            "",
            "spiffe://",
            "spiffe://culvert.test",
            "https://culvert.test/plane/US/ORF/x",
            "spiffe://culvert.test/tenant/acme",
            "spiffe://culvert.test/plane/US/ORF/",
            "spiffe:///plane/US/ORF/aebagbafaydqqcikbmga2dqpca",
            &upper,
            &slash,
            &query,
            &port,
            &dots,
            &long_id,
            &escaped,
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = AgentId::random();
        assert_eq!(id.to_string().parse::<AgentId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<AgentId>().is_err());
        // The last character has two bits that carry nothing: they must be zero.
        assert!("aaaaaaaaaaaaaaaaaaaaaaaaab".parse::<AgentId>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_displays_as_itself(text in "spiffe://[a-z./]{0,8}/(tenant|plane)/[a-zA-Z0-9/-]{0,60}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
