//! The sockets of a relay and the loops that serve them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use culvert_certs::tls::TlsError;
use culvert_certs::{Credentials, Expect};
use culvert_tunnel::{
    EndpointError, HandshakeRate, Incoming, ListenerCloser, QuicListener, ResetKeys, UdpOptions,
    UdpPath,
};
use culvert_wire::Code;
use tokio::net::TcpListener;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::RelayConfig;
use crate::join::JoinDesk;
use crate::limits::{
    BIND_TRIES, CLOSE_WAIT, PARKED_AFTER, REBUILD_EVERY, REPLAY_TOTAL_BYTES, SAMPLE_EVERY,
};
use crate::link::LinkId;
use crate::relay::{Core, Phase};
use crate::session;
use crate::tcp::{Edge, TcpPort};
use crate::tls::ServerTls;

/// The bound sockets.
#[derive(Debug)]
pub(crate) struct Ports {
    links: QuicListener,
    tcp: TcpPort,
    tls: ServerTls,
    address: SocketAddr,
}

/// Why a relay could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The credentials are an agent's.
    #[error("the credentials are not a plane's")]
    NotAPlane,
    /// The credentials do not make a TLS configuration.
    #[error("the credentials cannot serve TLS")]
    Tls(#[source] TlsError),
    /// The TCP port.
    #[error("cannot listen on TCP {0}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// The UDP port.
    #[error("cannot listen on UDP {0}")]
    Udp(SocketAddr, #[source] EndpointError),
}

impl Ports {
    /// Binds TCP and UDP to the same number.
    pub(crate) async fn bind(
        config: &RelayConfig,
        credentials: &Credentials,
        keys: ResetKeys,
        desk: JoinDesk,
        edge: Option<Edge>,
    ) -> Result<Self, BindError> {
        let listen = config.link_listen;
        let tls = ServerTls::new(credentials).map_err(BindError::Tls)?;
        let (listener, links) = bind_both(listen, &tls, &keys).await?;
        let address = listener
            .local_addr()
            .map_err(|error| BindError::Tcp(listen, error))?;
        if !links.path().buffers().suffice() {
            tracing::warn!(buffers = ?links.path().buffers(), "the kernel grants small UDP buffers");
        }
        let rate = || HandshakeRate::new(config.doors.handshakes_of_one_door());
        let tcp = TcpPort::new(listener, tls.join(), desk, edge, rate());
        Ok(Self {
            links: links.with_handshake_rate(rate()),
            tcp,
            tls,
            address,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `leave` has resolved, then closes what is left and waits for it.
    pub(crate) async fn serve(mut self, core: &Arc<Core>, leave: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        // Dropped half-way, this ends what it started.
        let _ended = stop.clone().drop_guard();
        let closer = self.links.closer();
        let _closed = CloseOnDrop(closer.clone());
        let doors = TaskTracker::new();
        let path = Arc::clone(self.links.path());
        tokio::select! {
            biased;
            () = leave => {}
            () = accept_links(&mut self.links, core, &stop) => {}
            () = self.tcp.run(&doors, &stop, core.phases()) => {}
            () = sample(&path, core) => {}
            () = watch_parked(core) => {}
            () = self.tls.follow(core.credentials.clone()) => {}
            () = core.directory.keep_published() => {}
        }
        stop.cancel();
        closer.close(Code::Draining, "this replica has left");
        doors.close();
        core.sessions.close();
        drop(timeout(CLOSE_WAIT, closer.wait_idle()).await);
        doors.wait().await;
        core.sessions.wait().await;
        // Whoever looks later sees that nobody is left.
        core.directory.publish_due(Instant::now() + REBUILD_EVERY);
    }
}

/// Ends every connection when what serves them is dropped.
struct CloseOnDrop(ListenerCloser);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(Code::Draining, "");
    }
}

/// Takes what the kernel gives for port 0 on TCP, and tries again where UDP has it already.
async fn bind_both(
    listen: SocketAddr,
    tls: &ServerTls,
    keys: &ResetKeys,
) -> Result<(TcpListener, QuicListener), BindError> {
    let mut tries = if listen.port() == 0 { BIND_TRIES } else { 1 };
    loop {
        let cannot_listen = |error| BindError::Tcp(listen, error);
        let tcp = TcpListener::bind(listen).await.map_err(cannot_listen)?;
        let address = tcp.local_addr().map_err(cannot_listen)?;
        let options = UdpOptions {
            dual_stack: address.is_ipv6(),
            ..UdpOptions::default()
        };
        match QuicListener::bind(address, tls.link(), keys.clone(), options) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if tries <= 1 => return Err(BindError::Udp(address, error)),
            Err(_) => tries -= 1,
        }
    }
}

/// Takes connections for as long as this replica stays; each handshake is waited for elsewhere.
async fn accept_links(links: &mut QuicListener, core: &Arc<Core>, stop: &CancellationToken) {
    while let Some(incoming) = links.accept().await {
        if core.phase() == Phase::Serving {
            core.sessions
                .spawn(serve_link(Arc::clone(core), incoming, stop.clone()));
        } else {
            incoming.refuse();
        }
    }
}

async fn serve_link(core: Arc<Core>, incoming: Incoming, stop: CancellationToken) {
    let remote = incoming.remote();
    let bundle = Arc::clone(&core.credentials.borrow().bundle);
    let live = async {
        match incoming.handshake(&bundle, Expect::Agent).await {
            Ok(connection) => session::run(core, connection).await,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::info!(%remote, %error, cause, "handshake refused");
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = live => {}
    }
}

/// Keeps what stalled callers hold within its budgets, for ever.
async fn watch_parked(core: &Core) {
    let mut ticks = interval(PARKED_AFTER);
    loop {
        let now = ticks.tick().await;
        core.metrics.parked(core.parking.sweep(now));
    }
}

/// Reads what paths and sockets count into the metrics, for ever.
async fn sample(links: &Arc<UdpPath>, core: &Core) {
    let mut ticks = interval(SAMPLE_EVERY);
    let mut known: HashMap<LinkId, u64> = HashMap::new();
    let mut black_holes = 0;
    loop {
        ticks.tick().await;
        let mut seen = HashMap::with_capacity(known.len());
        let mut least_mtu: Option<u16> = None;
        for link in core.links() {
            let stats = link.handle.connection().stats();
            core.metrics.sampled_rtt(stats.rtt);
            least_mtu = Some(least_mtu.map_or(stats.mtu, |mtu| mtu.min(stats.mtu)));
            let before = known.get(&link.id).copied().unwrap_or(0);
            black_holes += stats.black_holes.saturating_sub(before);
            seen.insert(link.id, stats.black_holes);
        }
        known = seen;
        core.metrics
            .sampled_paths(links.send_errors().total(), black_holes, least_mtu);
        core.metrics
            .sampled_replay(REPLAY_TOTAL_BYTES.saturating_sub(core.replay.free()));
    }
}
