//! The immutable snapshot of what one tenant's links offer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use culvert_certs::{AgentId, ConnectorName, TenantName};
use culvert_wire::{ServiceKind, ServiceName, ServiceState};

use crate::book::Written;
use crate::handle::Link;
use crate::link::{LinkEntry, LinkState};
use crate::meter::ServiceMeter;

/// What one tenant's links offer.
#[derive(Debug)]
pub struct TenantView<H = Link> {
    /// Whose view it is.
    pub tenant: TenantName,
    /// Grows with every snapshot of this tenant.
    pub revision: u64,
    /// The connectors that have a link here.
    pub connectors: BTreeMap<ConnectorName, ConnectorView<H>>,
}

/// What the links of one connector offer.
#[derive(Debug)]
pub struct ConnectorView<H = Link> {
    /// Services by name.
    pub services: BTreeMap<ServiceName, ServiceView<H>>,
    /// All links, in order of arrival.
    pub links: Vec<Arc<LinkEntry<H>>>,
    /// Offers that are not served because an earlier agent offers the name as another kind.
    pub conflicts: Vec<ServiceConflict>,
}

/// One service, pooled over the links that offer it.
#[derive(Debug)]
pub struct ServiceView<H = Link> {
    /// The kind, the same for all links.
    pub kind: ServiceKind,
    /// The models that at least one link offers, sorted.
    pub models: BTreeSet<String>,
    /// Digests of the definitions; more than one says that agents' files differ.
    pub digests: BTreeSet<[u8; 32]>,
    /// The links that offer it.
    pub links: Vec<ServiceLink<H>>,
}

/// One link's share in a service.
#[derive(Debug)]
pub struct ServiceLink<H = Link> {
    /// The link.
    pub link: Arc<LinkEntry<H>>,
    /// The models that this link offers.
    pub models: BTreeSet<String>,
    /// Digest of this link's definition of the service.
    pub digest: [u8; 32],
    /// Health, load and measured time.
    pub meter: Arc<ServiceMeter>,
}

/// A service that an agent offers in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConflict {
    /// The name in question.
    pub service: ServiceName,
    /// The agent whose offer is not served.
    pub agent: AgentId,
    /// What it offers.
    pub offered: ServiceKind,
    /// What an earlier agent of the connector offers under this name.
    pub serving: ServiceKind,
}

impl<H> TenantView<H> {
    pub(crate) fn empty(tenant: TenantName) -> Self {
        Self {
            tenant,
            revision: 0,
            connectors: BTreeMap::new(),
        }
    }

    /// The pooled service of a connector, where a link offers it.
    #[must_use]
    pub fn service(&self, connector: &ConnectorName, service: &str) -> Option<&ServiceView<H>> {
        self.connectors.get(connector)?.services.get(service)
    }
}

impl<H> ServiceView<H> {
    /// Whether a call would find a link now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.links.iter().any(ServiceLink::is_up)
    }
}

impl<H> ServiceLink<H> {
    /// Whether this link takes new calls and does not know its backend to be down.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.state() == LinkState::Serving && self.meter.state() != ServiceState::Down
    }
}

/// Builds the snapshot of a tenant from its links in order of arrival.
pub(crate) fn build_view<H>(
    tenant: TenantName,
    revision: u64,
    links: &[Written<H>],
) -> TenantView<H> {
    let mut view = TenantView {
        revision,
        ..TenantView::empty(tenant)
    };
    for written in links {
        let connector = written.entry.connector.clone();
        view.connectors
            .entry(connector)
            .or_insert_with(ConnectorView::empty)
            .add(written);
    }
    view
}

impl<H> ConnectorView<H> {
    fn empty() -> Self {
        Self {
            services: BTreeMap::new(),
            links: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    fn add(&mut self, written: &Written<H>) {
        let entry = &written.entry;
        self.links.push(Arc::clone(entry));
        for (name, (offer, meter)) in &written.services {
            let service = self
                .services
                .entry(name.clone())
                .or_insert_with(|| ServiceView {
                    kind: offer.kind,
                    models: BTreeSet::new(),
                    digests: BTreeSet::new(),
                    links: Vec::new(),
                });
            if service.kind != offer.kind {
                self.conflicts.push(ServiceConflict {
                    service: name.clone(),
                    agent: entry.agent,
                    offered: offer.kind,
                    serving: service.kind,
                });
                continue;
            }
            service.models.extend(offer.models.iter().cloned());
            service.digests.insert(offer.digest);
            service.links.push(ServiceLink {
                link: Arc::clone(entry),
                models: offer.models.iter().cloned().collect(),
                digest: offer.digest,
                meter: Arc::clone(meter),
            });
        }
    }
}
