//! The agent's one listener: health, metrics and status, never anything that carries calls.
//!
//! On a loopback address it serves everything; on any other `/healthz`, `/readyz` and
//! `/metrics` only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::status::Status;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// For the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection: a scrape takes milliseconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After an `accept` that failed (no file descriptors, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener shows.
pub trait Shown: Send + Sync + 'static {
    /// The status now.
    fn status(&self) -> Status;
    /// The metrics now, as Prometheus text.
    fn metrics(&self) -> String;
}

/// Binds; a port that is taken is a warning and no listener.
pub async fn bind(addr: SocketAddr) -> Option<(TcpListener, SocketAddr)> {
    let bound = match TcpListener::bind(addr).await {
        Ok(listener) => listener.local_addr().map(|addr| (listener, addr)),
        Err(error) => Err(error),
    };
    match bound {
        Ok(bound) => Some(bound),
        Err(error) => {
            tracing::warn!(%addr, %error, "no health and metrics: the address cannot be bound; set health_listen");
            None
        }
    }
}

/// Serves until `stop`; connections that are open then are closed.
pub async fn serve(listener: TcpListener, shown: Arc<impl Shown>, stop: CancellationToken) {
    let full = listener
        .local_addr()
        .is_ok_and(|addr| addr.ip().is_loopback());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let shown = Arc::clone(&shown);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&request, &*shown, full);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a local connection ended"),
                Err(_) => tracing::debug!("a local connection took too long"),
            }
            drop(place);
        });
    }
}

fn answer<B>(request: &Request<B>, shown: &impl Shown, full: bool) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if shown.status().is_ready() => plain(StatusCode::OK, "ready\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no link serves calls\n"),
        "/metrics" => typed(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            shown.metrics(),
        ),
        // A page in a browser could make its own name resolve to loopback.
        "/status" if full && names_loopback(request) => {
            match serde_json::to_string_pretty(&shown.status()) {
                Ok(text) => typed("application/json", text + "\n"),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no status\n"),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "not here\n"),
    }
}

fn names_loopback<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST);
    let Some(Ok(authority)) = host.map(|h| http::uri::Authority::try_from(h.as_bytes())) else {
        return false;
    };
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn typed(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{LinkInfo, Phase};

    struct Fixed(bool);

    impl Shown for Fixed {
        fn status(&self) -> Status {
            Status {
                links: vec![LinkInfo {
                    phase: if self.0 { Phase::Serve } else { Phase::Dial },
                    ..LinkInfo::default()
                }],
                ..Status::default()
            }
        }

        fn metrics(&self) -> String {
            "m 1\n".to_owned()
        }
    }

    fn get(path: &str, host: &str, ready: bool, full: bool) -> u16 {
        let request = Request::get(path)
            .header("host", host)
            .body(())
            .expect("a request");
        answer(&request, &Fixed(ready), full).status().as_u16()
    }

    #[test]
    fn status_is_for_loopback_only() {
        assert_eq!(get("/status", "127.0.0.1:9091", true, true), 200);
        assert_eq!(get("/status", "localhost:9091", true, true), 200);
        assert_eq!(get("/status", "[::1]:9091", true, true), 200);
        assert_eq!(get("/status", "evil.example:9091", true, true), 404);
        assert_eq!(get("/status", "127.0.0.1:9091", true, false), 404);
        assert_eq!(get("/metrics", "10.0.0.1:9091", true, false), 200);
        assert_eq!(get("/v1/chat/completions", "localhost", true, true), 404);
    }

    #[test]
    fn ready_means_a_link_serves() {
        assert_eq!(get("/healthz", "h", false, true), 200);
        assert_eq!(get("/readyz", "h", false, true), 503);
        assert_eq!(get("/readyz", "h", true, true), 200);
    }

    #[tokio::test]
    async fn a_taken_port_is_no_listener_and_no_error() {
        let (_listener, addr) = bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("bound");
        assert!(bind(addr).await.is_none());
    }
}
