//! Accepting connections: floods are met before any certificate is looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use culvert_certs::bundle::TrustBundle;
use culvert_certs::verifier::{Expect, PeerLeaf, VerifyError, peer_leaf};
use culvert_wire::Code;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Endpoint, ServerConfig};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::error::ConnectionEnd;
use crate::flood::{Address, FloodLimits, HandshakeRate, Verdict};
use crate::keys::ResetKeys;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::quic::{EndpointError, listening_endpoint, server_config};
use crate::quiet;
use crate::source::Source;
use crate::stream::error_code;
use crate::udp_path::{UdpOptions, UdpPath};

/// A UDP port that takes QUIC connections.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    path: Arc<UdpPath>,
    keys: ResetKeys,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    config: Arc<ServerConfig>,
    flood: FloodLimits,
    rate: HandshakeRate,
    open: Arc<AtomicUsize>,
}

impl QuicListener {
    /// Binds a port. Certificates may change later through `tls`: connections that are there keep
    /// theirs, and a configuration that QUIC cannot use leaves the last good one in place.
    ///
    /// # Errors
    /// The socket, the keys or the first TLS configuration cannot be used.
    pub fn bind(
        address: SocketAddr,
        mut tls: watch::Receiver<Arc<rustls::ServerConfig>>,
        keys: ResetKeys,
        options: UdpOptions,
    ) -> Result<Self, EndpointError> {
        let config = server_config(tls.borrow_and_update().clone(), &keys)?;
        let path = UdpPath::bind(address, options)?;
        let endpoint = listening_endpoint(path.clone(), &keys, config.clone())?;
        Ok(Self {
            endpoint,
            path,
            keys,
            tls,
            config: Arc::new(config),
            flood: FloodLimits::default(),
            rate: HandshakeRate::new(HandshakeRate::per_second_here()),
            open: Arc::default(),
        })
    }

    /// Sets other flood limits than the usual.
    #[must_use]
    pub fn with_flood_limits(mut self, limits: FloodLimits) -> Self {
        self.flood = limits;
        self
    }

    /// Sets another rate of handshakes than this machine's whole.
    #[must_use]
    pub fn with_handshake_rate(mut self, rate: HandshakeRate) -> Self {
        self.rate = rate;
        self
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The socket: its buffers, and what the kernel refused to send.
    pub fn path(&self) -> &Arc<UdpPath> {
        &self.path
    }

    /// Handshakes that are under way.
    pub fn open_handshakes(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The next connection that wants a handshake; `None` once the listener is closed. It is to
    /// be awaited again at once: a handshake is waited for elsewhere.
    pub async fn accept(&mut self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let (open, now) = (self.open_handshakes(), Instant::now().into_std());
            let source = Source::of(incoming.remote_address());
            let address = if incoming.remote_address_validated() {
                Address::Proven
            } else {
                Address::Claimed
            };
            match self.flood.judge(open, source, address, &self.rate, now) {
                Verdict::Begin => {
                    self.follow_tls();
                    return Some(Incoming {
                        incoming,
                        config: self.config.clone(),
                        path: self.path.clone(),
                        slot: HandshakeSlot::new(&self.open),
                    });
                }
                // It fails only for an address that is validated.
                Verdict::Retry => drop(incoming.retry()),
                Verdict::Refuse => incoming.refuse(),
            }
        }
    }

    /// A handle that ends the listener, and all its connections, from elsewhere.
    pub fn closer(&self) -> ListenerCloser {
        ListenerCloser {
            endpoint: self.endpoint.clone(),
        }
    }

    fn follow_tls(&mut self) {
        if !self.tls.has_changed().unwrap_or(false) {
            return;
        }
        match server_config(self.tls.borrow_and_update().clone(), &self.keys) {
            Ok(config) => self.config = Arc::new(config),
            Err(error) => tracing::error!(%error, "new TLS configuration does not fit QUIC"),
        }
    }
}

/// Ends a listener.
#[derive(Clone, Debug)]
pub struct ListenerCloser {
    endpoint: Endpoint,
}

impl ListenerCloser {
    /// Refuses newcomers and closes every connection with the code.
    pub fn close(&self, code: Code, reason: &str) {
        self.endpoint.close(error_code(code), reason.as_bytes());
    }

    /// Waits until every connection is closed and the peers had time to hear it.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// A connection before its handshake. Dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    config: Arc<ServerConfig>,
    path: Arc<UdpPath>,
    slot: HandshakeSlot,
}

impl Incoming {
    /// The address that the first packet names as its sender.
    pub fn remote(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Tells the peer to go away, without a handshake.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Does the handshake and proves who the peer is. Whether the identity is admitted is for the
    /// caller to decide.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed then.
    pub async fn handshake(
        self,
        bundle: &TrustBundle,
        expect: Expect,
    ) -> Result<Connection, HandshakeError> {
        let Self {
            incoming,
            config,
            path,
            slot,
        } = self;
        let remote = incoming.remote_address();
        let (config, reason) = quiet::server(&config);
        let connecting = incoming
            .accept_with(config)
            .map_err(|error| HandshakeError::Ended(remote, reason.end(error)))?;
        let connection = timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_elapsed| HandshakeError::TimedOut(remote))?
            .map_err(|error| HandshakeError::Ended(remote, reason.end(error)))?;
        let peer = prove(&connection, bundle, expect)
            .map_err(|error| HandshakeError::Identity(remote, error))?;
        drop(slot);
        Ok(Connection::quic(connection, path, peer))
    }
}

/// A handshake that led to no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took longer than [`HANDSHAKE_TIMEOUT`].
    #[error("the handshake with {0} took too long")]
    TimedOut(SocketAddr),
    /// One side ended it.
    #[error("the handshake with {0} failed")]
    Ended(SocketAddr, #[source] ConnectionEnd),
    /// The peer's chain proves no identity that may connect here.
    #[error("the peer at {0} has no identity that is accepted here")]
    Identity(SocketAddr, #[source] VerifyError),
}

/// The identity that a finished handshake proves; without one the connection is closed.
pub(crate) fn prove(
    connection: &quinn::Connection,
    bundle: &TrustBundle,
    expect: Expect,
) -> Result<PeerLeaf, VerifyError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = match chain {
        Some(chain) => peer_leaf(&chain, bundle, expect, SystemTime::now()),
        None => Err(VerifyError::NoCertificate),
    };
    if leaf.is_err() {
        // The reason stays here: it would teach whoever tries.
        connection.close(error_code(Code::NotAllowed), b"");
    }
    leaf
}

/// One open handshake, counted until dropped.
#[derive(Debug)]
struct HandshakeSlot {
    open: Arc<AtomicUsize>,
}

impl HandshakeSlot {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self { open: open.clone() }
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
