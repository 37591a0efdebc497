//! The TCP side of the link port: joining, and the embedder's public edge, told apart by ALPN.
//!
//! The TLS hello is read first, within its own bounds, and decides what the connection may do:
//! `culvert-join/1` gets the replica's certificate and one HTTP request; anything that does not
//! speak of culvert goes to the embedder with a certificate of its choice. No client certificate
//! is asked for on either.
//!
//! A connection holds a place until its handshake is done, and a join for as long as it lives, so
//! that newcomers who say nothing occupy what their address may occupy and no more. What goes to
//! the edge holds none: its embedder counts it. Handshakes have a rate of their own beside the
//! links', and wait for their turn in it.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_tunnel::{HandshakeRate, Source};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::join::JoinDesk;
use crate::limits::{
    MAX_TCP_PENDING, MAX_TCP_PENDING_PER_SOURCE, TLS_HANDSHAKE_WAIT, TLS_HELLO_BYTES,
    TLS_HELLO_WAIT,
};
use crate::relay::Phase;
use crate::slots::{Slot, Slots};

/// How the embedder takes over connections that are neither links nor joins.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The certificate and protocols shown to the public.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Where finished handshakes go; a connection is closed where the queue is full.
    pub connections: mpsc::Sender<EdgeConnection>,
}

/// A public connection whose handshake is done.
#[derive(Debug)]
pub struct EdgeConnection {
    /// The connection; what was negotiated can be asked of it.
    pub stream: TlsStream<TcpStream>,
    /// Who is at the other end.
    pub source: SocketAddr,
}

/// Accepts on TCP until it is told to stop.
#[derive(Debug)]
pub(crate) struct TcpPort {
    listener: TcpListener,
    doors: Arc<Doors>,
    /// Places of those whose handshake is not done.
    pending: Arc<Slots<Source>>,
}

/// What may stand behind a TLS hello.
#[derive(Debug)]
struct Doors {
    join_tls: watch::Receiver<Arc<ServerConfig>>,
    desk: JoinDesk,
    edge: Option<Edge>,
    rate: HandshakeRate,
}

/// Why a connection was closed without having been served.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("no whole TLS hello within its bounds")]
    Hello(#[source] io::Error),
    #[error("no TLS hello in time")]
    HelloTimeout,
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the TLS handshake took too long")]
    HandshakeTimeout,
    #[error("nothing is served for these protocols")]
    NoSuchDoor,
    #[error("too many handshakes begin at the moment")]
    TooFast,
    #[error("the edge does not take any more connections")]
    EdgeFull,
}

/// A short rest after a failure to accept: being out of descriptors does not heal by trying again at once.
const ACCEPT_REST: Duration = Duration::from_millis(50);

impl TcpPort {
    pub(crate) fn new(
        listener: TcpListener,
        join_tls: watch::Receiver<Arc<ServerConfig>>,
        desk: JoinDesk,
        edge: Option<Edge>,
        rate: HandshakeRate,
    ) -> Self {
        let doors = Arc::new(Doors {
            join_tls,
            desk,
            edge,
            rate,
        });
        Self {
            listener,
            doors,
            pending: Slots::new(MAX_TCP_PENDING, MAX_TCP_PENDING_PER_SOURCE),
        }
    }

    /// Accepts until this replica drains, for ever otherwise; connections run in `tasks` and end
    /// with `stop`. It never returns.
    pub(crate) async fn run(
        self,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        phase: watch::Receiver<Phase>,
    ) {
        tokio::select! {
            biased;
            () = drained(phase) => {}
            () = self.accept(tasks, stop) => {}
        }
        // A listener that only rests would let the kernel go on taking connections.
        drop(self.listener);
        pending().await
    }

    async fn accept(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        loop {
            match self.listener.accept().await {
                Ok((stream, source)) => {
                    // A token must not wait for the acknowledgement of the one before.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection takes no TCP_NODELAY");
                    }
                    self.open(stream, source, tasks, stop);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on TCP");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn open(
        &self,
        stream: TcpStream,
        source: SocketAddr,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Some(place) = self.pending.take(&Source::of(source)) else {
            tracing::debug!(%source, "too many TCP connections in their handshake");
            return;
        };
        let doors = Arc::clone(&self.doors);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopped => {}
                closed = doors.serve(stream, source, place) => {
                    if let Err(error) = closed {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::debug!(%source, %error, cause, "closed a TCP connection");
                    }
                }
            }
        });
    }
}

impl Doors {
    async fn serve(
        &self,
        stream: TcpStream,
        source: SocketAddr,
        _place: Slot<Source>,
    ) -> Result<(), Closed> {
        let start = read_hello(stream).await?;
        match Door::of(start.client_hello().alpn()) {
            Door::Join => {
                let stream = self.handshake(start, source, &self.join_tls).await?;
                self.desk.serve(stream, source).await;
                Ok(())
            }
            Door::Edge => {
                let edge = self.edge.as_ref().ok_or(Closed::NoSuchDoor)?;
                let stream = self.handshake(start, source, &edge.tls).await?;
                edge.connections
                    .try_send(EdgeConnection { stream, source })
                    .map_err(|_| Closed::EdgeFull)
            }
            Door::Link => Err(Closed::NoSuchDoor),
        }
    }

    async fn handshake(
        &self,
        start: StartHandshake<TcpStream>,
        source: SocketAddr,
        tls: &watch::Receiver<Arc<ServerConfig>>,
    ) -> Result<TlsStream<TcpStream>, Closed> {
        // Its place is held meanwhile: so many wait, and no more.
        let source = Source::of(source);
        if !self.rate.wait(source, TLS_HANDSHAKE_WAIT).await {
            return Err(Closed::TooFast);
        }
        let tls = tls.borrow().clone();
        timeout(TLS_HANDSHAKE_WAIT, start.into_stream(tls))
            .await
            .map_err(|_| Closed::HandshakeTimeout)?
            .map_err(Closed::Handshake)
    }
}

/// Waits until this replica drains.
async fn drained(mut phase: watch::Receiver<Phase>) {
    drop(phase.wait_for(|phase| *phase == Phase::Draining).await);
}

/// What a TLS hello asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Join,
    /// Links over TCP are not served yet.
    Link,
    Edge,
}

impl Door {
    fn of<'a>(protocols: Option<impl Iterator<Item = &'a [u8]>>) -> Self {
        for protocol in protocols.into_iter().flatten() {
            match protocol {
                b"culvert-join/1" => return Self::Join,
                other if other.starts_with(b"culvert") => return Self::Link,
                _ => {}
            }
        }
        Self::Edge
    }
}

async fn read_hello(stream: TcpStream) -> Result<StartHandshake<TcpStream>, Closed> {
    let capped = Capped {
        stream,
        left: TLS_HELLO_BYTES,
    };
    let start = timeout(
        TLS_HELLO_WAIT,
        LazyConfigAcceptor::new(Acceptor::default(), capped),
    )
    .await
    .map_err(|_| Closed::HelloTimeout)?
    .map_err(Closed::Hello)?;
    Ok(StartHandshake::from_parts(start.accepted, start.io.stream))
}

/// A stream that yields no more than so many bytes: rustls itself would buffer 64 KiB of a hello.
#[derive(Debug)]
struct Capped {
    stream: TcpStream,
    left: usize,
}

impl AsyncRead for Capped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the TLS hello is too large",
            )));
        }
        let mut limited = buf.take(self.left);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut limited))?;
        // Copied, because only unsafe code could tell `buf` that its bytes are there already.
        let bytes = limited.filled().to_vec();
        self.left -= bytes.len();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Capped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_choose_the_door() {
        let door = |protocols: &[&'static [u8]]| Door::of(Some(protocols.iter().copied()));
        assert_eq!(door(&[b"culvert-join/1"]), Door::Join);
        assert_eq!(door(&[b"h2", b"http/1.1"]), Door::Edge);
        assert_eq!(door(&[b"culvert/1"]), Door::Link);
        assert_eq!(door(&[b"culvert/2", b"h2"]), Door::Link);
        assert_eq!(Door::of(None::<std::iter::Empty<&[u8]>>), Door::Edge);
    }
}
