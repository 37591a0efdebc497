//! `tls: { ca, cert, key, server_name }`: read and checked when the file is.

use std::path::PathBuf;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::raw::{RawTls, Text};
use super::{ConfigError, Sources, optional, value};

/// The certificates of one service. The system's roots where `ca` is absent.
#[derive(Default)]
pub struct TlsSpec {
    /// The only roots that are believed.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The client certificate and its key.
    pub client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// SNI and the name that is verified, in place of the url's host.
    pub server_name: Option<ServerName<'static>>,
}

pub(super) fn parse(raw: Option<&RawTls>, sources: &Sources) -> Result<TlsSpec, ConfigError> {
    let Some(raw) = raw else {
        return Ok(TlsSpec::default());
    };
    let client = match (&raw.cert, &raw.key) {
        (Some(cert), Some(key)) => Some((certificates(cert, sources)?, private_key(key, sources)?)),
        (None, None) => None,
        (Some(alone), None) | (None, Some(alone)) => {
            return Err(ConfigError::at(alone, "`cert` and `key` go together"));
        }
    };
    Ok(TlsSpec {
        ca: raw
            .ca
            .as_ref()
            .map(|ca| certificates(ca, sources))
            .transpose()?,
        client,
        server_name: optional(raw.server_name.as_ref(), sources, |text| {
            ServerName::try_from(text.to_owned()).map_err(|_| format!("`{text}` is not a name"))
        })?,
    })
}

fn certificates(
    path: &Text,
    sources: &Sources,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let file = PathBuf::from(value(path, sources)?);
    let fail = |message: String| ConfigError::at(path, format!("{}: {message}", file.display()));
    let list: Vec<_> = CertificateDer::pem_file_iter(&file)
        .and_then(Iterator::collect)
        .map_err(|error| fail(error.to_string()))?;
    if list.is_empty() {
        return Err(fail("holds no certificate".to_owned()));
    }
    Ok(list)
}

fn private_key(path: &Text, sources: &Sources) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let file = PathBuf::from(value(path, sources)?);
    PrivateKeyDer::from_pem_file(&file)
        .map_err(|error| ConfigError::at(path, format!("{}: {error}", file.display())))
}

impl Clone for TlsSpec {
    fn clone(&self) -> Self {
        Self {
            ca: self.ca.clone(),
            client: self
                .client
                .as_ref()
                .map(|(chain, key)| (chain.clone(), key.clone_key())),
            server_name: self.server_name.clone(),
        }
    }
}

/// Two are equal if they would connect alike: a rotated certificate is a change.
impl PartialEq for TlsSpec {
    fn eq(&self, other: &Self) -> bool {
        let client = |spec: &Self| {
            spec.client.as_ref().map(|(chain, key)| {
                (
                    chain.clone(),
                    zeroize::Zeroizing::new(key.secret_der().to_vec()),
                )
            })
        };
        self.ca == other.ca
            && self.server_name == other.server_name
            && client(self) == client(other)
    }
}

impl std::fmt::Debug for TlsSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSpec")
            .field("ca", &self.ca.as_ref().map(Vec::len))
            .field("client", &self.client.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
