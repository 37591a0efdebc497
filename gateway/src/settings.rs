//! What callers meet, as far as it may change while the plane serves.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::watch;

use crate::{cors::Cors, edge_tls::EdgeTls, mcp::origin::Origins, server::Server};

/// What the operator says of the edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeSpec {
    /// Origins of web pages that may call.
    pub origins: Vec<String>,
}

/// What the edge makes of it: a whole that is replaced as one.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which web pages may call MCP servers.
    pub origins: Origins,
    /// Which web pages may call from a browser.
    pub cors: Cors,
}

impl Settings {
    /// The settings of a gateway that is known by these names.
    pub fn new(spec: &EdgeSpec, own_names: &[String]) -> Self {
        Self {
            origins: Origins::new(spec.origins.clone(), own_names.to_vec()),
            cors: Cors::new(&spec.origins),
        }
    }
}

/// The handles of a plane that serves.
#[derive(Clone, Debug)]
pub struct Live {
    /// By which names the gateway is known.
    pub own_names: Vec<String>,
    /// Where requests get the settings from.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Where connections of callers get their certificate from.
    pub tls: EdgeTls,
    /// Who holds the connections.
    pub server: Server,
}

impl Live {
    /// Takes changes: requests under way go on as they began, connections that stand stay.
    pub fn take(&self, spec: &EdgeSpec, tls: Option<Arc<ServerConfig>>, connections: usize) {
        let settings = Settings::new(spec, &self.own_names);
        self.settings.send_replace(Arc::new(settings));
        self.tls.give(tls);
        self.server.set_connections(connections);
    }
}
