//! A small HTTP server for fixtures: one port, one JSON line when it serves, an end on SIGTERM.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::fault_io::{FaultIo, FaultSwitch};
use crate::out;

/// The body of every answer of a fixture.
pub type Body = UnsyncBoxBody<bytes::Bytes, io::Error>;

/// Room for a request head: fixtures must take whatever the tunnel can carry.
const HEAD_BUFFER_BYTES: usize = 256 * 1024;
/// As many headers as the tunnel can carry, and some.
const MAX_HEADERS: usize = 600;

/// What answers the requests of a fixture.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; `switch` breaks the connection underneath it.
    fn handle(
        &self,
        request: Request<Incoming>,
        switch: FaultSwitch,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Binds `PORT` of the environment on loopback (0 or unset: any port), prints `{"port":N}`, and serves until SIGTERM.
///
/// # Errors
/// The port that cannot be read or bound, or standard output that cannot be written.
pub async fn run(handler: impl Handler) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port_from_environment()?)).await?;
    out::line(&format!("{{\"port\":{}}}", listener.local_addr()?.port()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => Ok(()),
        end = serve(listener, Arc::new(handler)) => end,
    }
}

/// Serves `listener` for ever; dropping the future drops every connection.
///
/// # Errors
/// An `accept` that failed for a reason other than one connection.
pub async fn serve(listener: TcpListener, handler: Arc<impl Handler>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _): (TcpStream, SocketAddr) = accepted?;
                connections.spawn(connection(stream, Arc::clone(&handler)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, handler: Arc<impl Handler>) {
    let switch = FaultSwitch::default();
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let io = TokioIo::new(FaultIo::new(stream, switch.clone()));
    let service = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        let switch = switch.clone();
        async move { Ok::<_, Infallible>(handler.handle(request, switch).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_headers(MAX_HEADERS)
        .max_buf_size(HEAD_BUFFER_BYTES);
    // How a connection of a fixture ends is the business of the test that ended it.
    drop(builder.serve_connection_with_upgrades(io, service).await);
}

fn port_from_environment() -> io::Result<u16> {
    match std::env::var("PORT") {
        Ok(text) => text.parse().map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("PORT={text}: {error}"))
        }),
        Err(_) => Ok(0),
    }
}
