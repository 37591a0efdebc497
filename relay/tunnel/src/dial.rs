//! Dialling: from a host and port to a connection with a proven peer, or a reason.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use culvert_certs::bundle::TrustBundle;
use culvert_certs::verifier::{Expect, VerifyError};
use culvert_wire::Code;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::Connection;
use crate::endpoints::{DialEndpoint, Endpoints, PathTotals};
use crate::error::ConnectionEnd;
use crate::limits::{ADDRESSES_PER_DIAL, DIAL_TIMEOUT, NEXT_ADDRESS_DELAY, RESOLVE_TIMEOUT};
use crate::listener::prove;
use crate::quic::{Dialling, EndpointError};
use crate::quiet::Reason;
use crate::send_errors::SendErrors;
use crate::udp_path::UdpOptions;

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host as it was configured: what TLS names, and what messages name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Addresses that are known already; none: the host is looked up.
    pub addresses: Vec<IpAddr>,
}

/// What a peer has to prove.
#[derive(Clone, Debug)]
pub struct Verify {
    /// The roots that it may be under.
    pub bundle: Arc<TrustBundle>,
    /// The role that it has to have.
    pub expect: Expect,
}

/// Dials. One socket of each address family serves all connections, until a path is dead.
#[derive(Debug)]
pub struct Dialer {
    options: UdpOptions,
    v4: Mutex<Endpoints>,
    v6: Mutex<Endpoints>,
}

impl Dialer {
    /// Binds nothing yet: a machine without IPv6 is no error until an IPv6 address is dialled.
    pub fn new(options: UdpOptions) -> Self {
        Self {
            options,
            v4: Mutex::new(Endpoints::new(Ipv4Addr::UNSPECIFIED.into())),
            v6: Mutex::new(Endpoints::new(Ipv6Addr::UNSPECIFIED.into())),
        }
    }

    /// Dials the addresses of a target, each with a head start over the next; the first whose
    /// handshake is done serves. Takes at most [`DIAL_TIMEOUT`].
    ///
    /// # Errors
    /// [`DialError`]; where addresses fail differently, the answer that came from the peer.
    pub async fn dial(
        &self,
        target: &Target,
        tls: Arc<rustls::ClientConfig>,
        verify: &Verify,
    ) -> Result<Connection, DialError> {
        let started = Instant::now();
        let deadline = started + DIAL_TIMEOUT;
        let config = Dialling::new(tls).map_err(EndpointError::from)?;
        let addresses = resolve(target, deadline).await?;
        let attempts = Attempts::default();
        let race = self.race(target, &addresses, config, &attempts);
        match timeout_at(deadline, race).await {
            Ok(connected) => {
                let (connection, endpoint) = connected?;
                let leaf = prove(&connection, &verify.bundle, verify.expect)?;
                let port = endpoint.port;
                let connection = Connection::quic(connection, endpoint.path, leaf);
                self.family(connection.remote()).carries(port, &connection);
                Ok(connection)
            }
            Err(_elapsed) => {
                let forbidden = attempts.forbidden();
                attempts.retire(self);
                let (host, port) = (target.host.clone(), target.port);
                let silence = DialError::NoReply {
                    host,
                    port,
                    after: started.elapsed(),
                    forbidden,
                };
                Err(silence.or_graver(attempts.take_gravest()))
            }
        }
    }

    /// Tells that the path of a connection is dead: the next dial leaves from another source port,
    /// because whatever stands in between may remember the old one wrongly for minutes.
    pub fn path_died(&self, connection: &Connection) {
        self.family(connection.remote())
            .retire(connection.local_port());
    }

    /// What all sockets and paths have seen so far.
    pub fn totals(&self) -> PathTotals {
        let (v4, v6) = (lock(&self.v4).totals(), lock(&self.v6).totals());
        v4.sum(v6)
    }

    /// Waits until every connection that was closed has told its peer so. A process that ends before
    /// takes its last words with it.
    pub async fn goodbyes(&self) {
        let mut endpoints = lock(&self.v4).all();
        endpoints.append(&mut lock(&self.v6).all());
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }

    async fn race(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        config: Dialling,
        attempts: &Attempts,
    ) -> Result<(quinn::Connection, DialEndpoint), DialError> {
        let mut racing: FuturesUnordered<_> = addresses
            .iter()
            .zip(0..)
            .map(|(address, place)| {
                let config = &config;
                async move {
                    sleep(NEXT_ADDRESS_DELAY * place).await;
                    self.attempt(target, *address, config, attempts).await
                }
            })
            .collect();
        while let Some(result) = racing.next().await {
            match result {
                Ok(connected) => return Ok(connected),
                Err(error) => attempts.failed(error),
            }
        }
        let none = || DialError::NoAddress {
            host: target.host.clone(),
        };
        Err(attempts.take_gravest().unwrap_or_else(none))
    }

    async fn attempt(
        &self,
        target: &Target,
        address: SocketAddr,
        config: &Dialling,
        attempts: &Attempts,
    ) -> Result<(quinn::Connection, DialEndpoint), DialError> {
        let endpoint = self.family(address).current(&self.options)?;
        attempts.add(address, &endpoint);
        let reason = Reason::default();
        let connecting = endpoint
            .endpoint
            .connect_with(config.config(&reason), address, &target.host)
            .map_err(|error| DialError::Unusable(error.to_string()))?;
        match connecting.await {
            Ok(connection) => Ok((connection, endpoint)),
            Err(error) => Err(DialError::from(reason.end(error))),
        }
    }

    fn family(&self, address: SocketAddr) -> std::sync::MutexGuard<'_, Endpoints> {
        lock(if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        })
    }
}

/// Why a dial led to no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No handshake was finished in time: the network drops UDP, most often.
    #[error(
        "no reply over UDP from {host}:{port} within {after:.1?}{}",
        if *forbidden { ": this machine's firewall forbids sending there (EPERM)" } else { "" }
    )]
    NoReply {
        /// The host as configured.
        host: String,
        /// The UDP port.
        port: u16,
        /// How long was waited.
        after: Duration,
        /// Whether the kernel refused to send: EPERM.
        forbidden: bool,
    },
    /// The host could not be looked up.
    #[error("{host} cannot be resolved: {reason}")]
    Resolve {
        /// The host as configured.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// The host has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The host as configured.
        host: String,
    },
    /// The peer ended the connection with a code of the protocol.
    #[error("refused by the peer: {code} {reason:?}")]
    Refused {
        /// Why.
        code: Code,
        /// In the peer's words.
        reason: String,
    },
    /// TLS or QUIC failed at this side: a certificate that is not accepted, most often.
    #[error("the peer is not accepted: {0}")]
    Tls(String),
    /// TLS or QUIC failed at the peer: it does not accept our certificate, or is busy.
    #[error("not accepted by the peer: {0}")]
    PeerTls(String),
    /// The handshake was fine, the identity is not.
    #[error("the peer has no identity that is accepted here")]
    Identity(#[from] VerifyError),
    /// The peer knows nothing of the connection.
    #[error("the peer dropped the connection")]
    Dropped,
    /// The address or the host cannot be dialled at all.
    #[error("cannot be dialled: {0}")]
    Unusable(String),
    /// No socket could be had.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl DialError {
    /// Of two addresses' errors the one to report: what a peer said, before what this machine
    /// could not do.
    fn or_graver(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.gravity() > self.gravity() => other,
            Some(_) | None => self,
        }
    }

    fn gravity(&self) -> u8 {
        match self {
            Self::Refused { .. } => 4,
            Self::PeerTls(_) | Self::Tls(_) | Self::Identity(_) => 3,
            Self::Dropped => 2,
            Self::NoReply { .. } => 1,
            Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::Unusable(_)
            | Self::Endpoint(_) => 0,
        }
    }
}

impl From<ConnectionEnd> for DialError {
    fn from(end: ConnectionEnd) -> Self {
        match end {
            ConnectionEnd::Peer { code, reason } => Self::Refused { code, reason },
            ConnectionEnd::PeerTransport(reason) => Self::PeerTls(reason),
            ConnectionEnd::Transport(reason) => Self::Tls(reason),
            ConnectionEnd::Local | ConnectionEnd::Reset | ConnectionEnd::TimedOut => Self::Dropped,
        }
    }
}

/// What has become of the addresses of one dial.
#[derive(Default)]
struct Attempts {
    /// The error to report, of the addresses that failed.
    gravest: Mutex<Option<DialError>>,
    /// The sockets that were sent from, and what the kernel had refused them before.
    tried: Mutex<Vec<(SocketAddr, DialEndpoint, SendErrors)>>,
}

impl Attempts {
    fn add(&self, address: SocketAddr, endpoint: &DialEndpoint) {
        let before = endpoint.path.send_errors();
        lock(&self.tried).push((address, endpoint.clone(), before));
    }

    fn failed(&self, error: DialError) {
        let mut gravest = lock(&self.gravest);
        *gravest = Some(error.or_graver(gravest.take()));
    }

    fn take_gravest(&self) -> Option<DialError> {
        lock(&self.gravest).take()
    }

    /// Whether the kernel refused to send anything since.
    fn forbidden(&self) -> bool {
        lock(&self.tried).iter().any(|(_, endpoint, before)| {
            endpoint.path.send_errors().not_permitted > before.not_permitted
        })
    }

    /// None of these ports led anywhere.
    fn retire(&self, dialer: &Dialer) {
        for (address, endpoint, _) in lock(&self.tried).drain(..) {
            dialer.family(address).retire(endpoint.port);
        }
    }
}

/// The addresses of a target, the families in turn (RFC 8305, section 4), IPv6 first.
async fn resolve(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
    let known: Vec<SocketAddr> = match target.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, target.port)],
        Err(_) if !target.addresses.is_empty() => {
            let addresses = target.addresses.iter();
            addresses
                .map(|address| SocketAddr::new(*address, target.port))
                .collect()
        }
        Err(_) => look_up(target, deadline.min(Instant::now() + RESOLVE_TIMEOUT)).await?,
    };
    let (v6, v4): (Vec<_>, Vec<_>) = known.into_iter().partition(SocketAddr::is_ipv6);
    let mut addresses = Vec::with_capacity(v4.len() + v6.len());
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    loop {
        let before = addresses.len();
        addresses.extend(v6.next());
        addresses.extend(v4.next());
        if addresses.len() == before || addresses.len() >= ADDRESSES_PER_DIAL {
            addresses.truncate(ADDRESSES_PER_DIAL);
            return Ok(addresses);
        }
    }
}

async fn look_up(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |reason: String| DialError::Resolve {
        host: target.host.clone(),
        reason,
    };
    let looking = tokio::net::lookup_host((target.host.as_str(), target.port));
    match bounded(deadline, looking).await {
        Some(Ok(addresses)) => Ok(addresses.collect()),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("no answer in time".to_owned())),
    }
}

async fn bounded<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    timeout_at(deadline, future).await.ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
