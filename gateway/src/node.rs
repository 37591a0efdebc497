//! One process: control and a plane, bound, wired, served and drained.
//!
//! ```text
//!  callers --> server --> handler --> relay --> agents
//!  operators -> admin --> control --snapshot--> handler, relay (admission)
//!                            ^------ joins, renewals ------- relay
//! ```

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use culvert_certs::{
    Credentials, HostPort, Identity, LEAF_LIFETIME, PlaneIdentity, tls::edge_server,
};
use culvert_control::{
    Control, ControlConfig, LocalPlane, Places, PlaneKey,
    admin::{self, AdminOptions},
    api::LinkStatus,
};
use culvert_relay::{Edge, EdgeConnection, Relay, RelayConfig, RelayInputs};
use culvert_tunnel::ResetKeys;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission, courier,
    exit::{Failure, chain},
    handler::{Handler, Place, Wiring},
    journal::{Journal, QUEUE},
    mcp::origin::Origins,
    metrics::EdgeMetrics,
    ops::Readiness,
    record::Recorder,
    server::Server,
};

/// Callers' TLS connections between the link port and the edge.
const EDGE_QUEUE: usize = 64;
/// How long to wait before a renewal of our own certificate that failed is tried again.
const RENEW_RETRY: Duration = Duration::from_secs(60);
/// How long the last tasks may take to end once they were told to.
const LAST: Duration = Duration::from_secs(5);

/// What a process is made of.
#[derive(Debug)]
pub struct NodeSpec {
    /// The store and what opens it.
    pub control: ControlConfig,
    /// Where the admin API, health and metrics are served.
    pub admin_listen: SocketAddr,
    /// Names of the admin API, beside loopback and the address itself.
    pub admin_hosts: Vec<String>,
    /// The plane, if this process runs one.
    pub plane: Option<PlaneNode>,
}

/// The plane of a process.
#[derive(Debug)]
pub struct PlaneNode {
    /// Where it is.
    pub place: Place,
    /// What seals what it keeps.
    pub key: PlaneKey,
    /// Where links, joins and callers' TLS are taken.
    pub link_listen: SocketAddr,
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
    /// Connections of callers at once.
    pub max_connections: usize,
    /// The file of records.
    pub records: Option<PathBuf>,
    /// Origins of web pages that may call.
    pub origins: Vec<String>,
}

/// How others reach this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A DNS name or an address.
    pub host: String,
    /// The port, where it is not the bound one.
    pub port: Option<u16>,
}

/// A process that serves.
#[derive(Debug)]
pub struct Node {
    /// Control.
    pub control: Control,
    /// Where the admin API is.
    pub admin: SocketAddr,
    /// Where the plane is, if there is one.
    pub plane: Option<Addresses>,
    running: Running,
}

/// Where a plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Links, joins and callers' TLS.
    pub links: SocketAddr,
    /// As others reach it.
    pub advertised: HostPort,
    /// Callers without TLS.
    pub plain: Option<SocketAddr>,
}

/// What has to be told, and waited for, at the end.
#[derive(Debug)]
struct Running {
    readiness: Readiness,
    plane: Option<RunningPlane>,
    /// Tells all but the relay to end.
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct RunningPlane {
    server: Server,
    relay: Relay,
    /// Tells the relay to drain and end.
    leave: CancellationToken,
    relaying: JoinSet<()>,
    drain_timeout: Duration,
    leave_after: Duration,
}

impl Node {
    /// Opens the store, binds every port, and serves.
    ///
    /// # Errors
    /// A key, the store or a port cannot be used.
    pub async fn start(spec: NodeSpec) -> Result<Self, Failure> {
        let control = Control::open(spec.control)
            .await
            .map_err(|e| Failure::usage(&e))?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (watching, ending) = (control.clone(), stop.clone());
        tasks.spawn(async move { watching.run(ending).await });
        let mut registry = Registry::default();
        let readiness = Readiness::default();
        let (mut addresses, mut plane) = (None, None);
        if let Some(node) = spec.plane {
            let (bound, running) = start_plane(node, &control, &mut registry, &mut tasks).await?;
            (addresses, plane) = (Some(bound), Some(running));
        }
        let listener = bind(spec.admin_listen, "the admin API").await?;
        let admin = listener.local_addr().map_err(|e| Failure::internal(&e))?;
        let options = AdminOptions {
            hosts: spec.admin_hosts,
            links: plane.as_ref().map(|plane| {
                let relay = plane.relay.clone();
                Arc::new(move || links(&relay)) as admin::LinksHook
            }),
        };
        let (serving, ending) = (control.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = admin::serve(listener, serving, options, ending).await {
                tracing::error!(%error, "the admin API cannot be served");
            }
        });
        readiness.set(true);
        let running = Running {
            readiness,
            plane,
            stop,
            tasks,
        };
        Ok(Self {
            control,
            admin,
            plane: addresses,
            running,
        })
    }

    /// Serves until `shutdown`, then drains: no new callers, agents elsewhere, then the end.
    ///
    /// # Errors
    /// A part of the process ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self {
            control,
            mut running,
            ..
        } = self;
        drop(control);
        let ended = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            Some(part) = running.tasks.join_next() => Err(Failure::Internal(match part {
                Ok(()) => "a part of the gateway ended".to_owned(),
                Err(error) => chain(&error),
            })),
        };
        running.end().await;
        ended
    }
}

impl Running {
    async fn end(mut self) {
        self.readiness.set(false);
        if let Some(plane) = self.plane.take() {
            plane.end().await;
        }
        self.stop.cancel();
        let last = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST, last).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

impl RunningPlane {
    /// Balancers see that we are not ready, and agents dial replacements, while we still serve.
    /// Then callers are drained, and last the links that their calls go over.
    async fn end(mut self) {
        tracing::info!(within = ?self.drain_timeout, "draining");
        self.relay.announce_leaving();
        sleep(self.leave_after).await;
        self.server.drain(self.drain_timeout).await;
        self.leave.cancel();
        while self.relaying.join_next().await.is_some() {}
    }
}

async fn start_plane(
    node: PlaneNode,
    control: &Control,
    registry: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> Result<(Addresses, RunningPlane), Failure> {
    let hosts = hosts(&node.advertise.host);
    let local = LocalPlane {
        region: node.place.region.clone(),
        zone: node.place.zone.clone(),
        hosts: hosts.clone(),
    };
    let first = control
        .enroll_plane(&local)
        .await
        .map_err(|e| Failure::internal(&e))?;
    let Identity::Plane(replica) = first.identity.clone() else {
        return Err(Failure::Internal(
            "control enrolled something that is no plane".into(),
        ));
    };
    let edge_tls = edge_config(&node, &first)?;
    let credentials = watch::Sender::new(Arc::new(first));
    let edge_tls = watch::Sender::new(edge_tls);
    let (edge_queue, edge_connections) = mpsc::channel::<EdgeConnection>(EDGE_QUEUE);
    let edge = Edge {
        tls: edge_tls.subscribe(),
        connections: edge_queue,
    };
    let config = control.snapshot();
    let admitted = watch::Sender::new(Arc::new(admission::of(&config.borrow())));
    let inputs = RelayInputs {
        credentials: credentials.subscribe(),
        admission: admitted.subscribe(),
        reset_keys: reset_keys(&node.key)?,
        edge: Some(edge),
    };
    let mut relay_config = RelayConfig::new(node.link_listen);
    relay_config.drain_timeout = node.drain_timeout;
    let bound = Relay::bind(relay_config, inputs).await;
    let (relay, requests) = bound.map_err(|e| Failure::unreachable(&e))?;
    relay.metrics().register(registry);
    tasks.spawn(admission::follow(config, admitted));
    tasks.spawn(courier::carry(control.clone(), requests));
    let renewal = Renewal {
        replica,
        hosts,
        public: node.tls.is_none(),
        credentials,
        edge_tls,
    };
    tasks.spawn(renewal.run(control.clone()));
    let links = relay.address();
    let advertised = announce(control, &node.advertise, links)?;
    let handler = handler(&node, control, &relay, registry, tasks).await?;
    let server = Server::new(Arc::new(handler), node.max_connections);
    let plain = serve_edge(&server, node.plain_listen, edge_connections, tasks).await?;
    let leave = CancellationToken::new();
    let mut relaying = JoinSet::new();
    let (serving, leaving) = (relay.clone(), leave.clone());
    relaying.spawn(async move {
        if let Err(error) = serving.serve(leaving.cancelled_owned()).await {
            tracing::error!(%error, "the relay cannot serve");
        }
    });
    let (drain_timeout, leave_after) = (node.drain_timeout, node.leave_after);
    let running = RunningPlane {
        server,
        relay,
        leave,
        relaying,
        drain_timeout,
        leave_after,
    };
    Ok((
        Addresses {
            links,
            advertised,
            plain,
        },
        running,
    ))
}

async fn handler(
    node: &PlaneNode,
    control: &Control,
    relay: &Relay,
    registry: &mut Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Handler, Failure> {
    let metrics = EdgeMetrics::new(registry);
    let mut queue = None;
    if let Some(path) = &node.records {
        let journal = Journal::open(path.clone())
            .await
            .map_err(|error| Failure::Usage(format!("records at {}: {error}", path.display())))?;
        let (sender, records) = mpsc::channel(QUEUE);
        queue = Some(sender);
        tasks.spawn(journal.run(records));
    }
    let own = ["localhost", "127.0.0.1", "[::1]"]
        .map(str::to_owned)
        .into_iter();
    let names = own.chain([node.advertise.host.clone()]).collect();
    Ok(Handler::new(Wiring {
        place: node.place.clone(),
        config: control.snapshot(),
        relay: relay.clone(),
        origins: Origins::new(node.origins.clone(), names),
        recorder: Recorder::new(metrics.clone(), queue),
        metrics,
    }))
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
    links: SocketAddr,
) -> Result<HostPort, Failure> {
    let port = advertise.port.unwrap_or(links.port());
    let advertised = HostPort::new(&advertise.host, port)
        .map_err(|error| Failure::Usage(format!("advertise `{}`: {error}", advertise.host)))?;
    let suffix = advertised.ip().is_none().then(|| advertised.host());
    control.announce(Places {
        addresses: vec![advertised.clone()],
        dns_suffixes: suffix.into_iter().collect(),
    });
    Ok(advertised)
}

/// Keeps the plane's own certificate fresh.
struct Renewal {
    replica: PlaneIdentity,
    hosts: Vec<String>,
    /// Whether callers see this certificate too.
    public: bool,
    credentials: watch::Sender<Arc<Credentials>>,
    edge_tls: watch::Sender<Arc<ServerConfig>>,
}

impl Renewal {
    /// From half-life on, for as long as the process lives.
    async fn run(self, control: Control) {
        let mut wait = LEAF_LIFETIME / 2;
        loop {
            sleep(wait).await;
            wait = match self.renew(&control).await {
                Ok(()) => LEAF_LIFETIME / 2,
                Err(error) => {
                    tracing::warn!(%error, "the plane's certificate is not renewed yet");
                    RENEW_RETRY
                }
            };
        }
    }

    async fn renew(&self, control: &Control) -> Result<(), Failure> {
        let renewed = control.renew_plane_here(&self.replica, &self.hosts).await;
        let renewed = renewed.map_err(|e| Failure::internal(&e))?;
        if self.public {
            self.edge_tls
                .send_replace(edge_server(&renewed).map_err(|e| Failure::internal(&e))?);
        }
        self.credentials.send_replace(Arc::new(renewed));
        Ok(())
    }
}

fn edge_config(node: &PlaneNode, own: &Credentials) -> Result<Arc<ServerConfig>, Failure> {
    match &node.tls {
        Some(tls) => Ok(Arc::clone(tls)),
        None => edge_server(own).map_err(|e| Failure::internal(&e)),
    }
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

fn links(relay: &Relay) -> Vec<LinkStatus> {
    let status = relay.status();
    let link = |link| {
        let mut value = serde_json::to_value(link).ok()?;
        value
            .as_object_mut()?
            .insert("plane".to_owned(), status.zone.clone().into());
        serde_json::from_value(value).ok()
    };
    status.links.iter().filter_map(link).collect()
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Unreachable(format!("cannot listen on {address} for {what}: {error}"))
    })
}
