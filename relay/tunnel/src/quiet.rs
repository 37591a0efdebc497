//! TLS that keeps its reasons to itself: a peer whose handshake fails is told the alert and nothing else.
//!
//! quinn writes the text of rustls's error into the packet that closes the connection, and that text says which rule a
//! certificate broke: it would teach whoever tries. A [`Reason`] keeps it for this side's log instead.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use quinn::ConnectionError;
use quinn::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

use crate::error::ConnectionEnd;

/// Why the handshake of one connection failed, as this side saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reason(Arc<OnceLock<String>>);

impl Reason {
    /// The end of a connection whose handshake this reason is of.
    pub(crate) fn end(&self, error: ConnectionError) -> ConnectionEnd {
        match (ConnectionEnd::from(error), self.0.get()) {
            (ConnectionEnd::Transport(alert), Some(reason)) => {
                ConnectionEnd::Transport(format!("{alert}: {reason}"))
            }
            (end, _) => end,
        }
    }

    /// Keeps the text of the first error, and takes it from what goes to the peer.
    fn keep(&self, mut error: TransportError) -> TransportError {
        let reason = std::mem::take(&mut error.reason);
        self.0.get_or_init(|| reason);
        error
    }
}

/// `config` for one connection, with the reason of its failure.
pub(crate) fn server(config: &quinn::ServerConfig) -> (Arc<quinn::ServerConfig>, Reason) {
    let reason = Reason::default();
    let mut config = config.clone();
    config.crypto = Arc::new(Quiet {
        inner: config.crypto,
        reason: reason.clone(),
    });
    (Arc::new(config), reason)
}

/// The dialling end of `config` for one connection, whose failure goes into `reason`.
pub(crate) fn client(
    config: Arc<dyn crypto::ClientConfig>,
    reason: Reason,
) -> Arc<dyn crypto::ClientConfig> {
    Arc::new(Quiet {
        inner: config,
        reason,
    })
}

/// What it wraps, but for the reasons.
struct Quiet<T> {
    inner: T,
    reason: Reason,
}

impl crypto::ServerConfig for Quiet<Arc<dyn crypto::ServerConfig>> {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(Quiet {
            inner: Arc::clone(&self.inner).start_session(version, params),
            reason: self.reason.clone(),
        })
    }
}

impl crypto::ClientConfig for Quiet<Arc<dyn crypto::ClientConfig>> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(Quiet {
            inner,
            reason: self.reason.clone(),
        }))
    }
}

impl Session for Quiet<Box<dyn Session>> {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner
            .read_handshake(buf)
            .map_err(|error| self.reason.keep(error))
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}
