//! The plane's own certificate, renewed in this process.

use std::{sync::Arc, time::Duration};

use culvert_certs::{Credentials, LEAF_LIFETIME, PlaneIdentity, tls::edge_server};
use culvert_control::Control;
use tokio::{sync::watch, time::sleep};

use crate::{edge_tls::EdgeTls, exit::Failure};

/// How long to wait before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps the plane's own certificate fresh.
#[derive(Debug)]
pub struct Renewal {
    /// Who the replica is; this does not change.
    pub replica: PlaneIdentity,
    /// What the certificate is for.
    pub hosts: Vec<String>,
    /// Where links get it.
    pub credentials: watch::Sender<Arc<Credentials>>,
    /// Where callers get it, unless the operator has given another.
    pub edge_tls: EdgeTls,
}

impl Renewal {
    /// From half-life on, for as long as the process lives.
    pub async fn run(self, control: Control) {
        let mut wait = LEAF_LIFETIME / 2;
        loop {
            sleep(wait).await;
            wait = match self.renew(&control).await {
                Ok(()) => LEAF_LIFETIME / 2,
                Err(error) => {
                    tracing::warn!(%error, "the plane's certificate is not renewed yet");
                    RETRY
                }
            };
        }
    }

    async fn renew(&self, control: &Control) -> Result<(), Failure> {
        let renewed = control.renew_plane_here(&self.replica, &self.hosts).await;
        let renewed = renewed.map_err(|e| Failure::internal(&e))?;
        let shown = edge_server(&renewed).map_err(|e| Failure::internal(&e))?;
        self.edge_tls.renew(shown);
        self.credentials.send_replace(Arc::new(renewed));
        Ok(())
    }
}
