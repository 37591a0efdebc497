//! The bare copy: TCP to a QUIC stream to TCP, in two processes that stand where gateway and agent stand.
//!
//! It is what a tunnel cannot beat: no HTTP, no policy, no frames, and quinn with the same windows.

use std::net::SocketAddr;
use std::path::PathBuf;

use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::bare::{NAME, dialling, listening};
use crate::attacker::other;
use crate::error::HarnessError;
use crate::out;
use crate::process::Process;
use crate::programs::Programs;

/// Streams that an end permits.
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
    let endpoint = listening(&certificate, STREAMS)?;
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
    let endpoint = dialling(&certificate, STREAMS)?;
    let connection = endpoint
        .connect(near, NAME)
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
