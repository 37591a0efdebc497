//! The TLS of backend connections: a service's own roots and certificate, or the system's.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{ServiceUrl, TlsSpec};

/// Why a service's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A certificate or key does not fit.
    #[error("the certificate or key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The system trusts nothing.
    #[error("the system has no trusted certificates; set tls.ca")]
    NoRoots,
    /// The host of the url is not a name that a certificate could have.
    #[error("`{0}` is not a name for TLS; set tls.server_name")]
    Name(String),
}

/// What a TLS handshake with one backend needs.
#[derive(Clone, Debug)]
pub(super) struct TlsClient {
    pub(super) config: Arc<ClientConfig>,
    /// The same without HTTP/2.
    pub(super) alone: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl TlsClient {
    pub(super) fn new(spec: &TlsSpec, url: &ServiceUrl) -> Result<Self, TlsSetupError> {
        let name = match &spec.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(url.host.clone())
                .map_err(|_| TlsSetupError::Name(url.host.clone()))?,
        };
        let config = config(spec)?;
        let mut alone = config.clone();
        alone.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            alone: Arc::new(alone),
            name,
        })
    }
}

fn config(spec: &TlsSpec) -> Result<ClientConfig, TlsSetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(spec)?);
    let mut config = match &spec.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(spec: &TlsSpec) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    match &spec.ca {
        Some(list) => {
            for certificate in list {
                roots.add(certificate.clone())?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (_, unusable) = roots.add_parsable_certificates(found.certs);
            if unusable > 0 {
                tracing::debug!(unusable, "some of the system's certificates cannot be used");
            }
        }
    }
    if roots.is_empty() {
        return Err(TlsSetupError::NoRoots);
    }
    Ok(roots)
}
