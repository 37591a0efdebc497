//! The listener: connections bounded in number, heads bounded in size and time, and every task
//! joined.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    AdminOptions, Desk, MAX_WATCHES,
    access::{Hosts, Peer},
    router,
};
use crate::control::Control;

/// Most connections at once: operators and their tools, not callers.
const MAX_CONNECTIONS: usize = 256;

/// Longest that a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Longest wait for requests in flight once shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// How long to wait after an accept that failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin API on `listener` until `shutdown`, then lets requests in flight finish.
///
/// # Errors
/// Where the listener cannot tell its address.
pub async fn serve(
    listener: TcpListener,
    control: Control,
    options: AdminOptions,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let bound = listener.local_addr()?;
    let desk = Desk {
        control,
        hosts: Arc::new(Hosts::new(&options.hosts, bound)),
        links: options.links,
        watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        shutdown: shutdown.clone(),
    };
    let router = router(desk, options.open);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, peer, router, shutdown).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "the admin listener could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!(left = connections.len(), "admin connections were cut");
    }
    Ok(())
}

/// The next connection, once there is room for it: until then it waits in the kernel.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let router = router.clone();
        async move { Ok::<_, Infallible>(call(router, request.map(Body::new)).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, peer = %peer, "an admin connection ended badly");
    }
}

async fn call(mut router: Router, request: Request<Body>) -> axum::response::Response {
    use tower_service::Service as _;
    let Ok(response) = router.call(request).await;
    response
}
