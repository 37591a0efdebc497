//! A link port that does not behave: whatever certificates, shown to whoever dials.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::ALPN_LINK;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;

use crate::attacker::{Papers, Shown, other};
use crate::error::HarnessError;

/// A listener on a link port that shows papers of its choice, and sees whether anybody believes them.
#[derive(Debug)]
pub struct FalseGateway {
    endpoint: Endpoint,
}

impl FalseGateway {
    /// Listens on `address`.
    ///
    /// # Errors
    /// A port or a key that cannot be had.
    pub fn bind(address: SocketAddr, papers: &Papers) -> Result<Self, HarnessError> {
        let config = server_config(papers)?;
        Ok(Self {
            endpoint: Endpoint::server(config, address)?,
        })
    }

    /// Gives the port back.
    pub async fn close(self) {
        self.endpoint.close(0_u8.into(), b"");
        self.endpoint.wait_idle().await;
    }

    /// Shows `papers` to whoever dials next, and gives all that the dialler told when it did not believe.
    ///
    /// # Errors
    /// Nobody dials, or somebody believed.
    pub async fn refused_dial(
        &self,
        papers: &Papers,
        within: Duration,
    ) -> Result<ConnectionError, HarnessError> {
        let config = Arc::new(server_config(papers)?);
        let dials = async {
            let mut open = FuturesUnordered::new();
            loop {
                tokio::select! {
                    incoming = self.endpoint.accept() => {
                        let incoming = incoming
                            .ok_or_else(|| HarnessError::Http("the port was closed".to_owned()))?;
                        open.push(incoming.accept_with(Arc::clone(&config)).map_err(other)?);
                    }
                    Some(ended) = open.next() => match ended {
                        // Of a dialler that was killed before it was answered.
                        Err(ConnectionError::TimedOut | ConnectionError::Reset) => {}
                        Err(error) => return Ok(error),
                        Ok(_) => {
                            let believed = "the dialler believed a false gateway";
                            return Err(HarnessError::Http(believed.to_owned()));
                        }
                    },
                }
            }
        };
        let dialled = tokio::time::timeout(within, dials).await;
        dialled.map_err(|_| HarnessError::Http(format!("nobody dialled within {within:?}")))?
    }
}

fn server_config(papers: &Papers) -> Result<quinn::ServerConfig, HarnessError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(papers.certified()?)));
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let crypto = QuicServerConfig::try_from(config).map_err(other)?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
}
