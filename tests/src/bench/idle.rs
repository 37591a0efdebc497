//! What bare quinn needs for an idle connection and for an idle stream, measured in two processes of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::bare::{NAME, dialling, listening};
use super::usage::resident_kib;
use crate::attacker::other;
use crate::error::HarnessError;
use crate::out;
use crate::process::Process;
use crate::programs::Programs;

/// A listener where the gateway stands, and diallers where agents stand.
#[derive(Debug)]
pub(super) struct Bare {
    near: Process,
    quic: SocketAddr,
    certificate: PathBuf,
    _folder: TempDir,
}

/// A process with one connection, that opens streams when it is told to.
#[derive(Debug)]
pub(super) struct Dialler {
    process: Process,
    orders: TcpStream,
}

/// What each of the processes prints once it is ready: where it listens.
#[derive(Debug, Serialize, Deserialize)]
struct ReadyLine {
    address: SocketAddr,
}

impl Bare {
    /// Starts the near end, which permits `streams` of each connection.
    pub(super) async fn start(streams: u32) -> Result<Self, HarnessError> {
        let folder = TempDir::new()?;
        let certificate = folder.path().join("certificate.der");
        let mut command = Command::new(Programs::built().await?.path("bench-path"));
        command.arg("idle-near").arg(&certificate);
        command.arg(streams.to_string());
        let mut near = Process::start("idle, near", command)?;
        let line: ReadyLine = near.json_line().await?;
        Ok(Self {
            near,
            quic: line.address,
            certificate,
            _folder: folder,
        })
    }

    /// One more connection, from a process of its own.
    pub(super) async fn dial(&self) -> Result<Dialler, HarnessError> {
        let mut command = Command::new(Programs::built().await?.path("bench-path"));
        command.arg("idle-far").arg(&self.certificate);
        command.arg(self.quic.to_string());
        let mut process = Process::start("idle, far", command)?;
        let line: ReadyLine = process.json_line().await?;
        let orders = TcpStream::connect(line.address).await?;
        Ok(Dialler { process, orders })
    }

    /// What the near end has, in KiB.
    pub(super) fn resident_kib(&self) -> Result<f64, HarnessError> {
        Ok(resident_kib(self.near.id().unwrap_or_default())?)
    }
}

impl Dialler {
    /// Opens `count` more streams, and returns when the near end has taken them all.
    pub(super) async fn open(&mut self, count: u32) -> Result<(), HarnessError> {
        self.orders.write_u32(count).await?;
        self.orders.read_u8().await?;
        Ok(())
    }

    /// What it has, in KiB.
    pub(super) fn resident_kib(&self) -> Result<f64, HarnessError> {
        Ok(resident_kib(self.process.id().unwrap_or_default())?)
    }
}

/// Takes connections and streams, and holds them.
///
/// # Errors
/// A port or a certificate that cannot be had.
pub async fn near(certificate: PathBuf, streams: u32) -> Result<(), HarnessError> {
    let endpoint = listening(&certificate, streams)?;
    ready(endpoint.local_addr()?)?;
    let mut held = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        held.spawn(async move {
            // Whoever lost its connection is not counted: its dialler has failed.
            let Ok(connection) = incoming.await else {
                return;
            };
            let mut streams: Vec<(SendStream, RecvStream)> = Vec::new();
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let mut byte = [0];
                if receive.read_exact(&mut byte).await.is_ok()
                    && send.write_all(&byte).await.is_ok()
                {
                    streams.push((send, receive));
                }
            }
        });
    }
    Ok(())
}

/// Dials, and opens streams as it is told to over TCP.
///
/// # Errors
/// A connection that cannot be made or is lost; none when nobody gives orders any more.
pub async fn far(certificate: PathBuf, near: SocketAddr) -> Result<(), HarnessError> {
    // The near end opens none.
    let endpoint = dialling(&certificate, 0)?;
    let connecting = endpoint.connect(near, NAME).map_err(other)?;
    let connection = connecting.await.map_err(other)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(listener.local_addr()?)?;
    let (mut orders, _) = listener.accept().await?;
    let mut held = Vec::new();
    while let Ok(count) = orders.read_u32().await {
        for _ in 0..count {
            held.push(stream(&connection).await?);
        }
        orders.write_u8(1).await?;
    }
    Ok(())
}

async fn stream(connection: &Connection) -> Result<(SendStream, RecvStream), HarnessError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(other)?;
    send.write_all(&[0]).await.map_err(other)?;
    receive.read_exact(&mut [0]).await.map_err(other)?;
    Ok((send, receive))
}

fn ready(address: SocketAddr) -> Result<(), HarnessError> {
    let line = serde_json::to_string(&ReadyLine { address }).map_err(other)?;
    Ok(out::line(&line)?)
}
