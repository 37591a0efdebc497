//! The rustls configurations: one function for each end of each conversation.
//!
//! Links are TLS 1.3 with certificates on both sides, X25519MLKEM768 preferred, and every
//! handshake is a full one: no tickets, no resumption, no early data, so that a revoked or
//! expired identity cannot come back by a shortcut.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};

use crate::bundle::{Anchors, RootPin};
use crate::credentials::Credentials;
use crate::handshake::PeerVerifier;
use crate::identity::Role;
use crate::name::TrustDomain;
use crate::verifier::Expect;

/// ALPN of links, over QUIC and over TLS/TCP alike.
pub const ALPN_LINK: &[u8] = b"culvert/1";
/// ALPN of joining.
pub const ALPN_JOIN: &[u8] = b"culvert-join/1";

/// Whether key exchange must withstand a quantum computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PostQuantum {
    /// X25519MLKEM768 or nothing.
    Require,
    /// X25519MLKEM768 first, classical groups after it.
    #[default]
    Prefer,
    /// Classical groups only: for one retry over a path that drops the large ClientHello.
    Avoid,
}

/// Why a configuration could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The credentials are of the other role.
    #[error("credentials of an {0} do not serve here")]
    WrongRole(Role),
    /// rustls refused the chain or the key.
    #[error("the TLS configuration was refused")]
    Rustls(#[from] rustls::Error),
}

/// An agent's end of a link: dials, shows its leaf, accepts only a plane.
pub fn agent_link_client(credentials: &Credentials) -> Result<Arc<ClientConfig>, TlsError> {
    agent_link_client_with(credentials, PostQuantum::Prefer)
}

/// As [`agent_link_client`], with a say in the key exchange.
pub fn agent_link_client_with(
    credentials: &Credentials,
    post_quantum: PostQuantum,
) -> Result<Arc<ClientConfig>, TlsError> {
    require(credentials, Role::Agent)?;
    link_client(credentials, post_quantum)
}

/// A plane's end of a link that it dials to another plane.
pub fn plane_link_client(credentials: &Credentials) -> Result<Arc<ClientConfig>, TlsError> {
    require(credentials, Role::Plane)?;
    link_client(credentials, PostQuantum::Prefer)
}

/// A plane's end of links that are dialled to it: a client certificate is required, of an agent
/// or of another plane.
pub fn link_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    require(credentials, Role::Plane)?;
    let anchors = credentials.bundle.anchors().clone();
    let verifier = Arc::new(PeerVerifier::new(anchors, Expect::AgentOrPlane));
    let config = server_builder()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.to_rustls())?;
    Ok(full_handshakes_only(config, &[ALPN_LINK]))
}

/// A plane's end of joining: whoever comes has no certificate yet.
pub fn join_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    open_server(credentials, &[ALPN_JOIN])
}

/// The public edge under the plane's own leaf: no client certificate, HTTP.
pub fn edge_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    open_server(credentials, &[b"h2", b"http/1.1"])
}

/// A newcomer's end of joining: all it knows is the pins and the trust domain of its token.
pub fn join_client(
    pins: &[RootPin],
    trust_domain: &TrustDomain,
) -> Result<Arc<ClientConfig>, TlsError> {
    let anchors = Anchors {
        trust_domain: trust_domain.clone(),
        roots: Vec::new(),
        pins: pins.to_vec(),
    };
    let verifier = Arc::new(PeerVerifier::new(anchors, Expect::Plane));
    let config = client_builder(PostQuantum::Prefer)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(no_resumption(config, ALPN_JOIN))
}

fn require(credentials: &Credentials, role: Role) -> Result<(), TlsError> {
    let actual = credentials.identity.role();
    if actual == role {
        Ok(())
    } else {
        Err(TlsError::WrongRole(actual))
    }
}

fn link_client(
    credentials: &Credentials,
    post_quantum: PostQuantum,
) -> Result<Arc<ClientConfig>, TlsError> {
    let anchors = credentials.bundle.anchors().clone();
    let verifier = Arc::new(PeerVerifier::new(anchors, Expect::Plane));
    let config = client_builder(post_quantum)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.to_rustls())?;
    Ok(no_resumption(config, ALPN_LINK))
}

fn open_server(credentials: &Credentials, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    require(credentials, Role::Plane)?;
    let config = server_builder()?
        .with_no_client_auth()
        .with_single_cert(credentials.chain.clone(), credentials.key.to_rustls())?;
    Ok(full_handshakes_only(config, alpn))
}

fn client_builder(
    post_quantum: PostQuantum,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(provider(post_quantum)))
        .with_protocol_versions(&[&TLS13])
}

fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::new(provider(PostQuantum::Prefer)))
        .with_protocol_versions(&[&TLS13])
}

/// aws-lc-rs with our groups. TLS13_AES_128_GCM_SHA256 stays in: QUIC's first packets need it.
fn provider(post_quantum: PostQuantum) -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_256_GCM_SHA384,
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: match post_quantum {
            PostQuantum::Require => vec![X25519MLKEM768],
            PostQuantum::Prefer => vec![X25519MLKEM768, X25519, SECP256R1],
            PostQuantum::Avoid => vec![X25519, SECP256R1],
        },
        ..aws_lc_rs::default_provider()
    }
}

fn no_resumption(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

fn full_handshakes_only(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}
