//! The links as an operator wants to see them.

use std::time::{SystemTime, UNIX_EPOCH};

use culvert_tunnel::Transport;
use culvert_wire::{ServiceKind, ServiceState};
use serde::Serialize;

use crate::handle::Link;
use crate::link::{LinkEntry, LinkState};
use crate::relay::{Core, Phase};
use crate::view::{ConnectorView, TenantView};

/// What a replica serves at this moment.
#[derive(Debug, Clone, Serialize)]
pub struct RelayStatus {
    /// Region of the plane.
    pub region: String,
    /// Zone of the plane.
    pub zone: String,
    /// The replica.
    pub replica: String,
    /// How far it is from its end.
    pub phase: Phase,
    /// All links.
    pub links: Vec<LinkStatus>,
    /// Services that are offered in vain.
    pub conflicts: Vec<ConflictStatus>,
}

/// One link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStatus {
    /// The tenant.
    pub tenant: String,
    /// The connector.
    pub connector: String,
    /// The agent, as its leaf proves.
    pub agent: String,
    /// Its start.
    pub instance: String,
    /// Session and connection.
    pub session: String,
    /// Whether it takes calls.
    pub state: LinkState,
    /// What carries it.
    pub transport: &'static str,
    /// The key-exchange group of its handshake.
    pub group: &'static str,
    /// Where its packets come from; shown, never trusted.
    pub remote: String,
    /// When it was registered, in seconds since 1970.
    pub since: u64,
    /// When the agent's certificate ends, in seconds since 1970.
    pub certificate_ends: u64,
    /// Estimated round trip, in microseconds.
    pub rtt_us: u64,
    /// Largest packet of the path, in bytes.
    pub mtu: u16,
    /// Packets lost so far.
    pub lost_packets: u64,
    /// Calls in flight from this replica.
    pub calls: u32,
    /// What it offers.
    pub services: Vec<ServiceStatus>,
}

/// One service of a link.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `model`, `mcp` or `http`.
    pub kind: &'static str,
    /// `up`, `down` or `unknown`.
    pub state: &'static str,
    /// Calls in flight.
    pub in_flight: u32,
    /// Models that it offers.
    pub models: usize,
    /// Whether agents of the connector define it differently.
    pub definitions_differ: bool,
}

/// A service that an agent offers in vain.
#[derive(Debug, Clone, Serialize)]
pub struct ConflictStatus {
    /// The tenant.
    pub tenant: String,
    /// The connector.
    pub connector: String,
    /// The agent whose offer is not served.
    pub agent: String,
    /// The service.
    pub service: String,
    /// The kind that it offers.
    pub offered: &'static str,
    /// The kind that is served under the name.
    pub serving: &'static str,
}

impl RelayStatus {
    pub(crate) fn of(core: &Core) -> Self {
        let (mut links, mut conflicts) = (Vec::new(), Vec::new());
        for view in core.directory.views() {
            for (name, connector) in &view.connectors {
                let all = connector
                    .links
                    .iter()
                    .filter(|link| link.state() != LinkState::Gone);
                links.extend(all.map(|link| LinkStatus::of(&view, connector, link)));
                conflicts.extend(connector.conflicts.iter().map(|conflict| ConflictStatus {
                    tenant: view.tenant.to_string(),
                    connector: name.to_string(),
                    agent: conflict.agent.to_string(),
                    service: conflict.service.to_string(),
                    offered: kind(conflict.offered),
                    serving: kind(conflict.serving),
                }));
            }
        }
        Self {
            region: core.plane.region.to_string(),
            zone: core.plane.zone.to_string(),
            replica: core.plane.replica.to_string(),
            phase: core.phase(),
            links,
            conflicts,
        }
    }
}

impl LinkStatus {
    fn of(
        view: &TenantView<Link>,
        connector: &ConnectorView<Link>,
        link: &LinkEntry<Link>,
    ) -> Self {
        let connection = link.handle.connection();
        let stats = connection.stats();
        Self {
            tenant: view.tenant.to_string(),
            connector: link.connector.to_string(),
            agent: link.agent.to_string(),
            instance: link.instance.to_string(),
            session: link.id.to_string(),
            state: link.state(),
            transport: transport(connection.transport()),
            group: connection.group(),
            remote: connection.remote().to_string(),
            since: seconds(link.handle.since()),
            certificate_ends: seconds(connection.peer().not_after),
            rtt_us: u64::try_from(stats.rtt.as_micros()).unwrap_or(u64::MAX),
            mtu: stats.mtu,
            lost_packets: stats.lost_packets,
            calls: link.calls(),
            services: services(connector, link),
        }
    }
}

fn services(connector: &ConnectorView<Link>, link: &LinkEntry<Link>) -> Vec<ServiceStatus> {
    let mut services = Vec::new();
    for (name, service) in &connector.services {
        for share in service
            .links
            .iter()
            .filter(|share| share.link.id == link.id)
        {
            services.push(ServiceStatus {
                name: name.to_string(),
                kind: kind(service.kind),
                state: match share.meter.state() {
                    ServiceState::Up => "up",
                    ServiceState::Down => "down",
                    ServiceState::Unknown => "unknown",
                },
                in_flight: share.meter.in_flight(),
                models: share.models.len(),
                definitions_differ: service.digests.len() > 1,
            });
        }
    }
    services
}

/// The word for a kind, in status and metrics.
pub(crate) fn kind(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Model => "model",
        ServiceKind::Mcp => "mcp",
        ServiceKind::Http => "http",
    }
}

/// The word for a transport, in status and metrics.
pub(crate) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "quic",
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
