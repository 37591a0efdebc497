//! The bare copy: TCP to a QUIC stream to TCP, in two processes that stand where gateway and agent stand.
//!
//! It is what a tunnel cannot beat: no HTTP, no policy, no frames, and quinn with the same windows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
    VarInt,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::error::HarnessError;
use crate::out;
use crate::process::Process;
use crate::programs::Programs;

/// The windows of our links.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Streams that the far end permits.
const STREAMS: u32 = 10_000;

/// The two processes.
#[derive(Debug)]
pub(super) struct CopyChain {
    pub(super) address: String,
    near: Process,
    far: Process,
    _folder: TempDir,
}

/// What the near process prints once it serves.
#[derive(Debug, Serialize, Deserialize)]
struct NearLine {
    tcp: SocketAddr,
    quic: SocketAddr,
}

impl CopyChain {
    /// Starts both before `backend`.
    pub(super) async fn start(backend: &str) -> Result<Self, HarnessError> {
        let folder = TempDir::new()?;
        let certificate = folder.path().join("certificate.der");
        let program = Programs::built().await?.path("bench-path");
        let mut command = Command::new(&program);
        command.arg("copy-near").arg(&certificate);
        let mut near = Process::start("copy, near", command)?;
        let line: NearLine = near.json_line().await?;
        let mut command = Command::new(&program);
        command
            .arg("copy-far")
            .arg(&certificate)
            .args([line.quic.to_string(), backend.to_owned()]);
        let mut far = Process::start("copy, far", command)?;
        far.json_line::<serde_json::Value>().await?;
        Ok(Self {
            address: line.tcp.to_string(),
            near,
            far,
            _folder: folder,
        })
    }

    /// Both processes.
    pub(super) fn ids(&self) -> Vec<u32> {
        [&self.near, &self.far]
            .into_iter()
            .filter_map(Process::id)
            .collect()
    }
}

/// The near end: takes TCP connections and opens a stream for each on the connection that the far end made.
///
/// # Errors
/// Ports and certificates that cannot be had, or the loss of the far end.
pub async fn near(certificate: PathBuf) -> Result<(), HarnessError> {
    let endpoint = Endpoint::server(
        server_config(&certificate)?,
        SocketAddr::from(([127, 0, 0, 1], 0)),
    )?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let line = NearLine {
        tcp: listener.local_addr()?,
        quic: endpoint.local_addr()?,
    };
    out::line(&serde_json::to_string(&line).map_err(other)?)?;
    let incoming = endpoint
        .accept()
        .await
        .ok_or_else(|| HarnessError::Http("the endpoint closed".to_owned()))?;
    let connection: Connection = incoming.await.map_err(other)?;
    let mut copies = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let (send, receive) = connection.open_bi().await.map_err(other)?;
                copies.spawn(copy(stream, send, receive));
            }
            Some(_) = copies.join_next() => {}
        }
    }
}

/// The far end: dials the near one and connects each of its streams to `backend`.
///
/// # Errors
/// A connection that cannot be made, or its loss.
pub async fn far(
    certificate: PathBuf,
    near: SocketAddr,
    backend: String,
) -> Result<(), HarnessError> {
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    endpoint.set_default_client_config(client_config(&certificate)?);
    let connection = endpoint
        .connect(near, "copy")
        .map_err(other)?
        .await
        .map_err(other)?;
    out::line("{}")?;
    let mut copies = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => {
                let (send, receive) = accepted.map_err(other)?;
                let stream = TcpStream::connect(&backend).await?;
                stream.set_nodelay(true)?;
                copies.spawn(copy(stream, send, receive));
            }
            Some(_) = copies.join_next() => {}
        }
    }
}

/// Copies both ways until both ends have ended.
async fn copy(mut stream: TcpStream, mut send: SendStream, mut receive: RecvStream) {
    let (mut from_tcp, mut to_tcp) = stream.split();
    let up = async {
        tokio::io::copy(&mut from_tcp, &mut send).await?;
        send.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut receive, &mut to_tcp).await?;
        to_tcp.shutdown().await
    };
    // A benchmark whose transfer is cut sees it at its own end.
    drop(tokio::join!(up, down));
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .keep_alive_interval(Some(Duration::from_secs(3)));
    Arc::new(transport)
}

fn server_config(certificate: &Path) -> Result<ServerConfig, HarnessError> {
    let made = rcgen::generate_simple_self_signed(vec!["copy".to_owned()]).map_err(other)?;
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
    config.transport_config(transport());
    Ok(config)
}

fn client_config(certificate: &Path) -> Result<ClientConfig, HarnessError> {
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
    config.transport_config(transport());
    Ok(config)
}

fn other(error: impl std::error::Error) -> HarnessError {
    HarnessError::Http(error.to_string())
}
