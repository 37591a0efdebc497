//! quinn's configuration. Its defaults are made for browsers; each line here says what differs.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{
    HandshakeData, NoInitialCipherSuite, QuicClientConfig, QuicServerConfig,
};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, ValidationTokenConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;

use crate::keys::{KeyError, ResetKeys};
use crate::limits;
use crate::quiet::{self, Reason};
use crate::udp_path::UdpPath;

/// What an endpoint that only dials is bound with.
pub(crate) fn dialling_endpoint(path: Arc<UdpPath>) -> Result<Endpoint, EndpointError> {
    let config = endpoint_config(&ResetKeys::random()?);
    Ok(Endpoint::new_with_abstract_socket(
        config,
        None,
        path,
        Arc::new(TokioRuntime),
    )?)
}

/// What an endpoint that accepts is bound with.
pub(crate) fn listening_endpoint(
    path: Arc<UdpPath>,
    keys: &ResetKeys,
    server: ServerConfig,
) -> Result<Endpoint, EndpointError> {
    let config = endpoint_config(keys);
    Ok(Endpoint::new_with_abstract_socket(
        config,
        Some(server),
        path,
        Arc::new(TokioRuntime),
    )?)
}

/// The dialling side of an agent's link.
#[derive(Clone)]
pub(crate) struct Dialling {
    tls: Arc<QuicClientConfig>,
    transport: Arc<TransportConfig>,
}

impl Dialling {
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>) -> Result<Self, NoInitialCipherSuite> {
        Ok(Self {
            tls: Arc::new(QuicClientConfig::try_from(tls)?),
            transport: Arc::new(transport(limits::PERMITS_MIN as u32)),
        })
    }

    /// The configuration of one connection, whose failure goes into `reason`.
    pub(crate) fn config(&self, reason: &Reason) -> ClientConfig {
        let mut config = ClientConfig::new(quiet::client(self.tls.clone(), reason.clone()));
        config.transport_config(self.transport.clone());
        config
    }
}

/// The accepting side. Its permits are those for an agent: a peer that may open streams of its own
/// gets more once the handshake has proved who it is.
pub(crate) fn server_config(
    tls: Arc<rustls::ServerConfig>,
    keys: &ResetKeys,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut config = ServerConfig::new(Arc::new(QuicServerConfig::try_from(tls)?), keys.token());
    // No tokens for later connections: each proves its address itself when there is a flood.
    let mut later = ValidationTokenConfig::default();
    later.sent(0);
    config
        .transport_config(Arc::new(transport(limits::CONTROL_STREAMS)))
        .validation_token_config(later)
        .max_incoming(limits::REFUSE_ABOVE)
        .incoming_buffer_size(limits::INCOMING_BUFFER)
        .incoming_buffer_size_total(limits::INCOMING_BUFFER_TOTAL);
    Ok(config)
}

/// The name of the key-exchange group that the handshake agreed on. The one place that depends on
/// a feature of quinn-proto that is meant for tests; without it the answer would be `unknown`.
pub(crate) fn negotiated_group(connection: &quinn::Connection) -> &'static str {
    let data = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok());
    match data {
        Some(data) => data
            .negotiated_key_exchange_group
            .as_str()
            .unwrap_or(UNKNOWN_GROUP),
        None => UNKNOWN_GROUP,
    }
}

/// An endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The socket could not be bound.
    #[error("the UDP socket cannot be used")]
    Socket(#[from] std::io::Error),
    /// Its keys could not be made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The TLS configuration lacks the cipher suite of QUIC's first packets.
    #[error("the TLS configuration does not fit QUIC")]
    Tls(#[from] NoInitialCipherSuite),
}

fn endpoint_config(keys: &ResetKeys) -> EndpointConfig {
    let mut config = EndpointConfig::new(keys.reset());
    let id_key = keys.connection_id();
    config
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)))
        .min_reset_interval(limits::RESET_INTERVAL);
    config
}

fn transport(permits: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(permits))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW))
        // Never what runs out: a slow reader would stall the others. Memory is bounded above.
        .receive_window(VarInt::MAX)
        .send_window(limits::SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_TIMEOUT_MS)))
        // The control machines ping.
        .keep_alive_interval(None);
    config
}

const UNKNOWN_GROUP: &str = "unknown";
const IDLE_TIMEOUT_MS: VarInt = VarInt::from_u32(millis(limits::IDLE_TIMEOUT));

const fn millis(duration: Duration) -> u32 {
    duration.as_millis() as u32
}
