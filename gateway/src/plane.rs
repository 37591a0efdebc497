//! The plane of a process: enrolled, bound, wired, served and drained.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use culvert_certs::{Credentials, HostPort, Identity, PlaneIdentity, tls::edge_server};
use culvert_control::{Control, LocalPlane, Places, PlaneKey, api::LinkStatus};
use culvert_relay::{Edge, EdgeConnection, Relay, RelayConfig, RelayInputs, ResetKeys};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission, callers_port, courier,
    edge_tls::EdgeTls,
    exchange::Place,
    exit::Failure,
    handler::{Handler, Wiring},
    journal::{Journal, QUEUE},
    links,
    mcp::session::Sessions,
    metrics::EdgeMetrics,
    node::bind,
    record::Recorder,
    renewal::Renewal,
    server::{Bounds, Server},
    settings::{EdgeSpec, Live, Settings},
};

/// Callers' TLS connections between the link port and the edge.
const EDGE_QUEUE: usize = 64;

/// The plane of a process.
#[derive(Debug)]
pub struct PlaneSpec {
    /// Where it is.
    pub place: Place,
    /// What seals what it keeps.
    pub key: PlaneKey,
    /// Where links and joins are taken; callers' TLS too, unless they have a port of their own.
    pub link_listen: SocketAddr,
    /// A port for callers' TLS alone.
    pub callers_listen: Option<SocketAddr>,
    /// The name or address by which members reach it; the port is the bound one unless given.
    pub advertise: Advertise,
    /// Where callers are served without TLS.
    pub plain_listen: Option<SocketAddr>,
    /// The certificate for callers; by default the plane's own.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long a drain lets started calls finish.
    pub drain_timeout: Duration,
    /// How long it serves on while it says that it is not ready.
    pub leave_after: Duration,
    /// What callers' connections may take up.
    pub bounds: Bounds,
    /// The file of records; without one they go to the log.
    pub records: Option<PathBuf>,
    /// What callers meet.
    pub edge: EdgeSpec,
}

/// How others reach this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A DNS name or an address.
    pub host: String,
    /// The port, where it is not the bound one.
    pub port: Option<u16>,
}

/// Where a plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Links and joins.
    pub links: SocketAddr,
    /// Callers' TLS.
    pub callers: SocketAddr,
    /// As others reach it.
    pub advertised: HostPort,
    /// Callers without TLS.
    pub plain: Option<SocketAddr>,
}

/// A plane that serves.
#[derive(Debug)]
pub struct Plane {
    live: Live,
    relay: Relay,
    /// Where callers reach it.
    gateway: String,
    /// Tells the relay to drain and end.
    leave: CancellationToken,
    relaying: JoinSet<()>,
    drain_timeout: Duration,
    leave_after: Duration,
}

impl Plane {
    /// The links of this plane, for operators.
    pub fn links(&self) -> impl Fn() -> Vec<LinkStatus> + Send + Sync + 'static + use<> {
        let (relay, gateway) = (self.relay.clone(), self.gateway.clone());
        move || links::of(&relay, &gateway)
    }

    /// What may change while it serves.
    pub const fn live(&self) -> &Live {
        &self.live
    }

    /// Balancers see that we are not ready, and agents dial replacements, while we still serve.
    /// Then callers are drained, and last the links that their calls go over.
    pub async fn end(mut self) {
        tracing::info!(within = ?self.drain_timeout, "draining");
        self.relay.announce_leaving();
        sleep(self.leave_after).await;
        self.live.server.drain(self.drain_timeout).await;
        self.leave.cancel();
        while self.relaying.join_next().await.is_some() {}
    }
}

/// Enrols the plane, binds its ports and serves.
///
/// # Errors
/// A key or a port cannot be used.
pub async fn start(
    node: PlaneSpec,
    control: &Control,
    registry: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> Result<(Addresses, Plane), Failure> {
    let hosts = hosts(&node.advertise.host);
    let (replica, first) = enroll(&node, control, &hosts).await?;
    let own_tls = edge_server(&first).map_err(|e| Failure::internal(&e))?;
    let tls = EdgeTls::new(node.tls.clone(), own_tls);
    let credentials = watch::Sender::new(Arc::new(first));
    let (edge_queue, edge_connections) = mpsc::channel::<EdgeConnection>(EDGE_QUEUE);
    let callers = serve_callers(&node, &tls, &edge_queue, tasks).await?;
    let edge = callers.is_none().then(|| Edge {
        tls: tls.shown(),
        connections: edge_queue,
    });
    let relay = relay(&node, control, credentials.subscribe(), edge, tasks).await?;
    relay.metrics().register(registry);
    keep_session_keys(control, &node.key, tasks).await?;
    let renewal = Renewal {
        replica,
        hosts,
        credentials,
        edge_tls: tls.clone(),
    };
    tasks.spawn(renewal.run(control.clone()));
    let links = relay.address();
    let own_names = own_names(&node.advertise.host);
    let settings = Settings::new(&node.edge, &own_names);
    let settings = watch::Sender::new(Arc::new(settings));
    let shown = settings.subscribe();
    let handler = handler(&node, control, &relay, shown, registry, tasks).await?;
    tasks.spawn(Arc::clone(handler.names()).follow(control.snapshot()));
    let server = Server::new(Arc::new(handler), node.bounds);
    let plain = serve_edge(&server, node.plain_listen, edge_connections, tasks).await?;
    let callers = callers.unwrap_or(links);
    let (advertised, gateway) = announce(control, &node.advertise, (links, callers), plain)?;
    let leave = CancellationToken::new();
    let mut relaying = JoinSet::new();
    let (serving, leaving) = (relay.clone(), leave.clone());
    relaying.spawn(async move {
        if let Err(error) = serving.serve(leaving.cancelled_owned()).await {
            tracing::error!(%error, "the relay cannot serve");
        }
    });
    let (drain_timeout, leave_after) = (node.drain_timeout, node.leave_after);
    let live = Live {
        own_names,
        settings,
        tls,
        server,
    };
    let running = Plane {
        live,
        gateway,
        relay,
        leave,
        relaying,
        drain_timeout,
        leave_after,
    };
    Ok((
        Addresses {
            links,
            callers,
            advertised,
            plain,
        },
        running,
    ))
}

/// Binds the relay, and brings it what control knows and to control what it asks.
async fn relay(
    node: &PlaneSpec,
    control: &Control,
    credentials: watch::Receiver<Arc<Credentials>>,
    edge: Option<Edge>,
    tasks: &mut JoinSet<()>,
) -> Result<Relay, Failure> {
    let config = control.snapshot();
    let admitted = watch::Sender::new(Arc::new(admission::of(&config.borrow())));
    let inputs = RelayInputs {
        credentials,
        admission: admitted.subscribe(),
        heard_at: control.heard_at(),
        reset_keys: reset_keys(&node.key)?,
        edge,
    };
    let mut relay_config = RelayConfig::new(node.link_listen);
    relay_config.drain_timeout = node.drain_timeout;
    let bound = Relay::bind(relay_config, inputs).await;
    let (relay, requests) = bound.map_err(|e| Failure::unreachable(&e))?;
    tasks.spawn(admission::follow(config, admitted));
    tasks.spawn(courier::carry(control.clone(), requests));
    Ok(relay)
}

/// Those that are wanted now are there before anybody can call.
async fn keep_session_keys(
    control: &Control,
    key: &PlaneKey,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let minted = control.mint_session_keys(key).await;
    minted.map_err(|e| Failure::internal(&e))?;
    let (control, key) = (control.clone(), key.clone());
    tasks.spawn(async move { control.keep_session_keys(key).await });
    Ok(())
}

async fn enroll(
    node: &PlaneSpec,
    control: &Control,
    hosts: &[String],
) -> Result<(PlaneIdentity, Credentials), Failure> {
    let Place { region, zone } = node.place.clone();
    let local = LocalPlane {
        region,
        zone,
        hosts: hosts.to_vec(),
    };
    let enrolled = control
        .enroll_plane(&local)
        .await
        .map_err(|e| Failure::internal(&e))?;
    match enrolled.identity.clone() {
        Identity::Plane(replica) => Ok((replica, enrolled)),
        Identity::Agent(_) => Err(Failure::Internal(
            "control enrolled an agent as a plane".into(),
        )),
    }
}

async fn handler(
    node: &PlaneSpec,
    control: &Control,
    relay: &Relay,
    settings: watch::Receiver<Arc<Settings>>,
    registry: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Handler, Failure> {
    let metrics = EdgeMetrics::new(registry);
    let journal = Journal::open(node.records.clone()).await;
    let journal = journal.map_err(|error| Failure::Usage(format!("edge.records: {error}")))?;
    let (queue, records) = mpsc::channel(QUEUE);
    tasks.spawn(journal.run(records));
    Ok(Handler::new(Wiring {
        place: node.place.clone(),
        config: control.snapshot(),
        relay: relay.clone(),
        settings,
        sessions: Sessions::new(control.snapshot(), node.key.clone()),
        recorder: Recorder::new(metrics.clone(), queue),
        metrics,
    }))
}

/// The names of this gateway, as web pages that it serves itself would give them.
fn own_names(advertised: &str) -> Vec<String> {
    let here = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
    here.into_iter().chain([advertised.to_owned()]).collect()
}

/// Serves callers' TLS on a port of its own, where there is one.
async fn serve_callers(
    node: &PlaneSpec,
    tls: &EdgeTls,
    connections: &mpsc::Sender<EdgeConnection>,
    tasks: &mut JoinSet<()>,
) -> Result<Option<SocketAddr>, Failure> {
    let Some(address) = node.callers_listen else {
        return Ok(None);
    };
    let listener = bind(address, "callers").await?;
    let address = listener.local_addr().map_err(|e| Failure::internal(&e))?;
    tasks.spawn(callers_port::accept(
        listener,
        tls.shown(),
        connections.clone(),
    ));
    Ok(Some(address))
}

async fn serve_edge(
    server: &Server,
    plain: Option<SocketAddr>,
    over_tls: mpsc::Receiver<EdgeConnection>,
    tasks: &mut JoinSet<()>,
) -> Result<Option<SocketAddr>, Failure> {
    let tls = server.clone();
    tasks.spawn(async move { tls.accept_tls(over_tls).await });
    let Some(address) = plain else {
        return Ok(None);
    };
    let listener = bind(address, "callers").await?;
    let address = listener.local_addr().map_err(|e| Failure::internal(&e))?;
    let plain = server.clone();
    tasks.spawn(async move { plain.accept_plain(listener).await });
    Ok(Some(address))
}

/// Tells control where members find this plane, so that it can mint tokens.
fn announce(
    control: &Control,
    advertise: &Advertise,
    (links, callers): (SocketAddr, SocketAddr),
    plain: Option<SocketAddr>,
) -> Result<(HostPort, String), Failure> {
    let at = |port: u16| {
        HostPort::new(&advertise.host, port)
            .map_err(|error| Failure::Usage(format!("advertise `{}`: {error}", advertise.host)))
    };
    let advertised = at(advertise.port.unwrap_or(links.port()))?;
    let public = if callers == links {
        advertised.clone()
    } else {
        at(callers.port())?
    };
    let gateway = gateway_url(&public, plain);
    let suffix = advertised.ip().is_none().then(|| advertised.host());
    control.announce(Places {
        addresses: vec![advertised.clone()],
        dns_suffixes: suffix.into_iter().collect(),
        gateway_url: Some(gateway.clone()),
    });
    Ok((advertised, gateway))
}

/// Where callers reach this plane: without TLS where they can reach that port, else over the link port.
pub fn gateway_url(advertised: &HostPort, plain: Option<SocketAddr>) -> String {
    let here = advertised.ip().is_some_and(|ip| ip.is_loopback());
    let plain = plain.filter(|plain| here || !plain.ip().is_loopback());
    let named = plain.and_then(|plain| HostPort::new(&advertised.host(), plain.port()).ok());
    named.map_or_else(
        || format!("https://{advertised}"),
        |named| format!("http://{named}"),
    )
}

fn reset_keys(key: &PlaneKey) -> Result<ResetKeys, Failure> {
    let secret = key.sealing_key().derive("culvert quic keys v1");
    let secret = secret.map_err(|e| Failure::internal(&e))?;
    ResetKeys::derive(&secret).map_err(|e| Failure::internal(&e))
}

/// What the plane's certificate is for. Loopback always, so that the machine itself can call.
fn hosts(advertised: &str) -> Vec<String> {
    let mut hosts = vec![advertised.to_owned()];
    for own in ["localhost", "127.0.0.1", "::1"] {
        if own != advertised {
            hosts.push(own.to_owned());
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_sent_where_they_can_go() {
        let url = |advertised: &str, plain: Option<&str>| {
            gateway_url(
                &advertised.parse().unwrap(),
                plain.map(|text| text.parse().unwrap()),
            )
        };
        assert_eq!(
            url("127.0.0.1:8443", Some("127.0.0.1:8080")),
            "http://127.0.0.1:8080"
        );
        assert_eq!(
            url("gw.example:443", Some("0.0.0.0:8080")),
            "http://gw.example:8080"
        );
        assert_eq!(
            url("gw.example:443", Some("127.0.0.1:8080")),
            "https://gw.example:443"
        );
        assert_eq!(url("gw.example:443", None), "https://gw.example:443");
    }
}
