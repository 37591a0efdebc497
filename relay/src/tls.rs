//! Server configurations that follow the replica's credentials.
//!
//! Both configurations are built before either is published, so that a bad certificate never
//! replaces a good one and the two ports never disagree.

use std::future::pending;
use std::sync::Arc;

use culvert_certs::Credentials;
use culvert_certs::tls::{TlsError, join_server, link_server};
use rustls::ServerConfig;
use tokio::sync::watch;

/// The server configurations of the present credentials.
#[derive(Debug)]
pub(crate) struct ServerTls {
    link: watch::Sender<Arc<ServerConfig>>,
    join: watch::Sender<Arc<ServerConfig>>,
}

impl ServerTls {
    pub(crate) fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        let link = watch::Sender::new(link_server(credentials)?);
        let join = watch::Sender::new(join_server(credentials)?);
        Ok(Self { link, join })
    }

    pub(crate) fn link(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.link.subscribe()
    }

    pub(crate) fn join(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.join.subscribe()
    }

    /// Publishes new configurations as credentials change, for ever.
    pub(crate) async fn follow(&self, mut credentials: watch::Receiver<Arc<Credentials>>) {
        while credentials.changed().await.is_ok() {
            let new = credentials.borrow_and_update().clone();
            match (link_server(&new), join_server(&new)) {
                (Ok(link), Ok(join)) => {
                    self.link.send_replace(link);
                    self.join.send_replace(join);
                    tracing::info!(identity = %new.identity, "serving with new credentials");
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "new credentials cannot serve; the old ones stay");
                }
            }
        }
        // Nobody can change them any more: what is published stays.
        pending().await
    }
}
