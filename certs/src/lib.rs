//! Who is who: identities, the authority, join tokens, the trust bundle and the verifier.
//!
//! This crate decides whom a process believes. It opens no socket and starts no task; time is an
//! argument everywhere, and only the credential store and key files touch the disk.
//!
//! # The chapter in short
//!
//! - An [`Identity`] is a SPIFFE id, the one URI of a leaf certificate: an agent
//!   `spiffe://<trust domain>/tenant/<t>/connector/<c>/agent/<a>`, or a replica of a plane
//!   `spiffe://<trust domain>/plane/<region>/<zone>/<replica>`.
//! - The [`Authority`] has a root, the next root (made at birth, so that its pin is known), and
//!   two issuers: one for agents (client authentication), one for planes (both). What an issuer
//!   may vouch for is its extended key usage, which the root signed.
//! - [`verifier`] is the one place where a proven chain becomes an identity: WebPKI builds the
//!   path, then URI, path, issuer and usages must agree on one role. [`handshake`] lends it to
//!   rustls, [`tls`] makes the configurations, [`peer_leaf`] asks it again while a link lives.
//! - A newcomer holds a [`JoinToken`]: where to dial, whom to believe there, and an Ed25519 seed
//!   that signs its [`JoinRequest`] and never travels. A member renews with its leaf's own key
//!   ([`RenewRequest`]). Either way only the public key of the signing request counts.
//! - The [`TrustBundle`], signed by the root, names roots, the next root's pin and control's
//!   signing keys; with these, members believe [`SignedRecord`]s wherever they were kept. The
//!   [`DenyList`] names those whose certificates are good, but who are not.
//! - At rest: [`CredentialStore`] keeps a member's identity whole over crashes, [`SealingKey`]
//!   seals secrets for one place, [`SecretKey`] is an API or admin key, [`SessionKey`] seals what a
//!   caller has to come back with.
//!
//! # A world in a few lines
//!
//! ```
//! use std::time::SystemTime;
//!
//! use culvert_certs::{
//!     AgentId, AgentIdentity, Authority, LEAF_LIFETIME, PlaneIdentity, ReplicaId, tls,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = SystemTime::now();
//! let authority = Authority::create("culvert.test".parse()?, now)?;
//! let plane = PlaneIdentity {
//!     trust_domain: authority.trust_domain().clone(),
//!     region: "US".parse()?,
//!     zone: "ORF".parse()?,
//!     replica: ReplicaId::random(),
//! };
//! let agent = AgentIdentity {
//!     trust_domain: authority.trust_domain().clone(),
//!     tenant: "acme".parse()?,
//!     connector: "prod-vpc".parse()?,
//!     agent: AgentId::random(),
//! };
//! let hosts = ["localhost".to_owned()];
//! let plane = authority.enroll(&plane.into(), &hosts, LEAF_LIFETIME, now)?;
//! let agent = authority.enroll(&agent.into(), &[], LEAF_LIFETIME, now)?;
//!
//! let server = tls::link_server(&plane)?;
//! let client = tls::agent_link_client(&agent)?;
//! # drop((server, client));
//! # Ok(())
//! # }
//! ```
//!
//! # Joining
//!
//! ```
//! # use std::time::{Duration, SystemTime};
//! # use culvert_certs::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let now = SystemTime::now();
//! # let authority = Authority::create("culvert.test".parse()?, now)?;
//! // Control mints a token, shows it once, and keeps the record.
//! let (token, record) = JoinToken::mint(TokenSpec {
//!     addresses: vec!["gw.example.com:443".parse()?],
//!     trust_domain: authority.trust_domain().clone(),
//!     subject: JoinSubject::Connector {
//!         tenant: "acme".parse()?,
//!         connector: "prod-vpc".parse()?,
//!     },
//!     pins: authority.pins()?,
//!     expiry: now + Duration::from_secs(3600),
//! })?;
//!
//! // The newcomer makes its key and signs the request with the token's seed.
//! let key = KeyPair::generate()?;
//! let request = JoinRequest::new(&token, key.csr()?)?;
//!
//! // Control checks the proof, redeems the token (compare and set), and chooses the identity.
//! let csr = request.verify(&record, authority.trust_domain(), now)?;
//! let identity = AgentIdentity {
//!     trust_domain: authority.trust_domain().clone(),
//!     tenant: "acme".parse()?,
//!     connector: "prod-vpc".parse()?,
//!     agent: AgentId::random(),
//! };
//! let chain = authority.issue_agent(&csr, &identity, LEAF_LIFETIME, now)?;
//! let answer = JoinAnswer {
//!     id: identity.into(),
//!     chain: chain.certificates,
//!     bundle: authority.bundle().as_bytes().to_vec(),
//!     dns_suffixes: Vec::new(),
//!     addresses: token.addresses.clone(),
//!     gateway_url: None,
//! };
//!
//! // The newcomer believes what its token's pins vouch for.
//! let credentials = answer.into_credentials(&token, key, now)?;
//! # assert!(credentials.identity.agent().is_some());
//! # Ok(())
//! # }
//! ```

pub mod address;
pub mod authority;
mod base62;
pub mod bundle;
pub mod credentials;
pub mod deny;
mod files;
pub mod handshake;
pub mod identity;
mod issuer;
mod json;
pub mod key;
pub mod keys;
pub mod name;
mod proof;
mod random;
pub mod record;
pub mod request;
pub mod seal;
pub mod secret;
pub mod session;
pub mod store;
mod text;
mod time;
pub mod tls;
pub mod token;
pub mod verifier;

pub use address::HostPort;
pub use authority::{Authority, AuthorityError, Chain, LEAF_LIFETIME};
pub use bundle::{RootPin, TrustBundle};
pub use credentials::Credentials;
pub use deny::{Denied, DenyList};
pub use handshake::refusal_of;
pub use identity::{AgentId, AgentIdentity, Identity, PlaneIdentity, ReplicaId, Role, TokenId};
pub use key::KeyPair;
pub use keys::{KeyDigest, KeyKind, SecretKey};
pub use name::{ConnectorName, Region, TenantName, TrustDomain, Zone};
pub use record::{RecordHeader, SignedRecord};
pub use request::{JoinAnswer, JoinRequest, ProofError, RenewRequest, VerifiedCsr};
pub use seal::{Place, SealingKey};
pub use secret::SecretText;
pub use session::{SessionKey, SessionKeyId};
pub use store::{CredentialStore, Membership, Refusal, StoredIdentity};
pub use token::{JoinSubject, JoinToken, TokenRecord, TokenSpec};
pub use verifier::{Expect, PeerLeaf, VerifyError, peer_leaf};
