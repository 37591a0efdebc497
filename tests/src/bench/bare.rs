//! quinn with nothing around it, and with what our links have below: the same windows, the same buffers of the socket.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::SockRef;

use crate::attacker::other;
use crate::error::HarnessError;

/// What the listening end is called.
pub(super) const NAME: &str = "copy";
/// The windows of our links.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// The buffers that our sockets ask for.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// An endpoint that listens on any port, and puts its certificate into a file. Each of the `streams` that it permits
/// costs memory, opened or not.
pub(super) fn listening(certificate: &Path, streams: u32) -> Result<Endpoint, HarnessError> {
    endpoint(Some(server_config(certificate, streams)?))
}

/// An endpoint that dials who shows the certificate in that file, and permits `streams`.
pub(super) fn dialling(certificate: &Path, streams: u32) -> Result<Endpoint, HarnessError> {
    let mut endpoint = endpoint(None)?;
    endpoint.set_default_client_config(client_config(certificate, streams)?);
    Ok(endpoint)
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint, HarnessError> {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let buffers = SockRef::from(&socket);
    // The kernel grants what it permits, to us as to whom we compare with.
    buffers.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let config = EndpointConfig::default();
    Ok(Endpoint::new(
        config,
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

fn transport(streams: u32) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .keep_alive_interval(Some(Duration::from_secs(3)));
    Arc::new(transport)
}

fn server_config(certificate: &Path, streams: u32) -> Result<ServerConfig, HarnessError> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).map_err(other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    std::fs::write(certificate, made.cert.der())?;
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(other)?;
    let mut config =
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(other)?));
    config.transport_config(transport(streams));
    Ok(config)
}

fn client_config(certificate: &Path, streams: u32) -> Result<ClientConfig, HarnessError> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(std::fs::read(certificate)?))
        .map_err(other)?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(other)?));
    config.transport_config(transport(streams));
    Ok(config)
}
