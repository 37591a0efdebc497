//! One connection to a backend: resolve, check, dial, check again, TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Ground;
use super::names::Names;
use super::tls::{TlsClient, TlsSetupError};
use crate::config::{Scheme, ServiceDef, ServiceUrl};
use crate::reach::{Forbidden, Reach};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why there is no connection. Nothing of a call has been sent in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("the name does not resolve")]
    Resolve(#[source] Arc<io::Error>),
    /// It resolves to nothing.
    #[error("the name has no address")]
    NoAddress,
    /// Each of its addresses is out of bounds.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// No address answers.
    #[error("no connection to {0}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// TLS failed.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The HTTP/2 preface failed.
    #[error("the HTTP handshake failed")]
    Http(#[source] hyper::Error),
    /// Each connection closed before it took the request.
    #[error("the backend closes every connection before it takes a request")]
    Closing,
    /// The connection that several waited for was not made.
    #[error(transparent)]
    Shared(Arc<Self>),
    /// `connect_timeout` has passed.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Makes connections to one backend.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    host: String,
    port: u16,
    reach: Reach,
    tls: Option<TlsClient>,
    timeout: Duration,
    own: Arc<[SocketAddr]>,
    resolver: Resolver,
}

/// How names become addresses.
#[derive(Clone, Debug)]
pub(super) enum Resolver {
    /// As the system does.
    System(Names),
    /// Each look-up takes the next of these answers, for ever the last.
    #[cfg(test)]
    Scripted(Arc<std::sync::Mutex<Vec<Vec<SocketAddr>>>>),
}

impl Connector {
    pub(super) fn new(
        def: &ServiceDef,
        url: &ServiceUrl,
        ground: &Ground,
    ) -> Result<Self, TlsSetupError> {
        Ok(Self {
            host: url.host.clone(),
            port: url.port,
            reach: def.reach(url),
            tls: match url.scheme {
                Scheme::Http => None,
                Scheme::Https => Some(TlsClient::new(&def.tls, url)?),
            },
            timeout: def.connect_timeout,
            own: Arc::clone(&ground.own),
            resolver: Resolver::System(ground.names.clone()),
        })
    }

    #[cfg(test)]
    pub(super) fn with_resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    #[cfg(test)]
    pub(super) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Whether it may turn out to speak HTTP/2.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A connection, TLS included, within the configured time.
    pub(super) async fn connect(&self) -> Result<BackendStream, ConnectError> {
        self.within(self.open(|tls| &tls.config)).await
    }

    /// As [`Self::connect`], and it speaks HTTP/1.1.
    pub(super) async fn connect_alone(&self) -> Result<BackendStream, ConnectError> {
        self.within(self.open(|tls| &tls.alone)).await
    }

    async fn within(
        &self,
        opened: impl Future<Output = Result<BackendStream, ConnectError>>,
    ) -> Result<BackendStream, ConnectError> {
        tokio::time::timeout(self.timeout, opened)
            .await
            .map_err(|_| ConnectError::Timeout(self.timeout))?
    }

    async fn open(
        &self,
        config: fn(&TlsClient) -> &Arc<ClientConfig>,
    ) -> Result<BackendStream, ConnectError> {
        let tcp = self.dial().await?;
        let Some(tls) = &self.tls else {
            return Ok(BackendStream::Plain(tcp));
        };
        TlsConnector::from(Arc::clone(config(tls)))
            .connect(tls.name.clone(), tcp)
            .await
            .map(|stream| BackendStream::Tls(Box::new(stream)))
            .map_err(ConnectError::Tls)
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        let addresses = self.resolver.look_up(&self.host, self.port).await?;
        let mut last = ConnectError::NoAddress;
        let count = addresses.len().min(MAX_ADDRESSES);
        for (at, addr) in addresses.into_iter().take(MAX_ADDRESSES).enumerate() {
            if let Err(forbidden) = self.reach.check(addr, &self.own) {
                last = forbidden.into();
                continue;
            }
            // The first addresses leave time for the last.
            let share = self.timeout / u32::try_from(count - at).unwrap_or(1);
            last = match tokio::time::timeout(share, self.dial_one(addr)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => error,
                Err(_) => ConnectError::Timeout(share),
            };
        }
        Err(last)
    }

    async fn dial_one(&self, addr: SocketAddr) -> Result<TcpStream, ConnectError> {
        let tcp = |error| ConnectError::Tcp(addr, error);
        let stream = TcpStream::connect(addr).await.map_err(tcp)?;
        let peer = stream.peer_addr().map_err(tcp)?;
        let local = stream.local_addr().map_err(tcp)?;
        self.reach.check_connected(peer, local, &self.own)?;
        stream.set_nodelay(true).map_err(tcp)?;
        Ok(stream)
    }
}

impl Resolver {
    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        match self {
            Self::System(names) => names.look_up(host, port).await,
            #[cfg(test)]
            Self::Scripted(answers) => {
                let mut answers = answers.lock().expect("no panic under the lock");
                if answers.len() > 1 {
                    Ok(answers.remove(0))
                } else {
                    Ok(answers.first().cloned().unwrap_or_default())
                }
            }
        }
    }
}

/// A connection to a backend.
#[derive(Debug)]
pub(super) enum BackendStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl BackendStream {
    /// Whether TLS agreed on HTTP/2.
    pub(super) fn is_h2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
