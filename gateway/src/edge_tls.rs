//! The certificate that callers are shown: the operator's, else the plane's own.

use std::{
    fmt::Display,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::sync::watch;

use crate::config::TlsFile;

/// Where callers' connections get their certificate from. Handshakes that have begun go on as they are.
#[derive(Clone, Debug)]
pub struct EdgeTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    choice: Mutex<Choice>,
    shown: watch::Sender<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct Choice {
    given: Option<Arc<ServerConfig>>,
    own: Arc<ServerConfig>,
}

impl Choice {
    fn shown(&self) -> Arc<ServerConfig> {
        Arc::clone(self.given.as_ref().unwrap_or(&self.own))
    }
}

impl EdgeTls {
    /// `given` is the operator's.
    pub fn new(given: Option<Arc<ServerConfig>>, own: Arc<ServerConfig>) -> Self {
        let choice = Choice { given, own };
        let shown = watch::Sender::new(choice.shown());
        Self(Arc::new(Shared {
            choice: Mutex::new(choice),
            shown,
        }))
    }

    /// What is shown, as it changes.
    pub fn shown(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.0.shown.subscribe()
    }

    /// The operator has changed its mind.
    pub fn give(&self, given: Option<Arc<ServerConfig>>) {
        self.change(|choice| choice.given = given);
    }

    /// The plane's own certificate was renewed.
    pub fn renew(&self, own: Arc<ServerConfig>) {
        self.change(|choice| choice.own = own);
    }

    fn change(&self, change: impl FnOnce(&mut Choice)) {
        let choice = &self.0.choice;
        let mut choice = choice.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut choice);
        self.0.shown.send_replace(choice.shown());
    }
}

/// Reads the operator's certificate; no client certificate is asked for.
///
/// # Errors
/// A file cannot be read, is not what it should be, or does not fit the other. The text names it.
pub fn read(file: &TlsFile) -> Result<Arc<ServerConfig>, String> {
    let cannot =
        |path: &Path, error: &dyn Display| format!("plane.tls: {}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(&file.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| cannot(&file.cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(&file.key).map_err(|e| cannot(&file.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| cannot(&file.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
