//! A small HTTP server for fixtures: one port, one JSON line when it serves, an end on SIGTERM.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
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
        async move {
            let is_head = request.method() == http::Method::HEAD;
            let response = handler.handle(request, switch).await;
            Ok::<_, Infallible>(without_body(response, is_head))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_headers(MAX_HEADERS)
        .max_buf_size(HEAD_BUFFER_BYTES);
    builder
        .http2()
        .max_header_list_size(u32::try_from(HEAD_BUFFER_BYTES).unwrap_or(u32::MAX));
    // How a connection of a fixture ends is the business of the test that ended it.
    drop(builder.serve_connection_with_upgrades(io, service).await);
}

/// What HTTP/1 does by itself: no body to HEAD, nor with a status that has none; the length is that of the body all the same.
fn without_body(response: Response<Body>, is_head: bool) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let bodiless = matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if !is_head && !bodiless {
        return Response::from_parts(head, body);
    }
    if let (Some(length), false) = (body.size_hint().exact(), bodiless) {
        let length = HeaderValue::from(length);
        head.headers.entry(CONTENT_LENGTH).or_insert(length);
    }
    let nothing = http_body_util::Empty::new().map_err(|never| match never {});
    Response::from_parts(head, nothing.boxed_unsync())
}

fn port_from_environment() -> io::Result<u16> {
    match std::env::var("PORT") {
        Ok(text) => text.parse().map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("PORT={text}: {error}"))
        }),
        Err(_) => Ok(0),
    }
}
