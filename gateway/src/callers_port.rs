//! A port for callers alone, where links have one of their own: TLS, then the edge.

use std::{sync::Arc, time::Duration};

use culvert_relay::EdgeConnection;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::sources::Sources;

/// Handshakes at once; above, callers wait in the kernel's queue.
const PENDING: usize = 1024;
/// Of them, those of one source.
const PENDING_OF_SOURCE: usize = 256;
/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Rest after a failure to accept: being out of descriptors does not heal by trying again at once.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Accepts until nobody takes the connections any more.
pub async fn accept(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    connections: mpsc::Sender<EdgeConnection>,
) {
    let pending = Arc::new(Semaphore::new(PENDING));
    let sources = Sources::new(PENDING_OF_SOURCE);
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = connections.closed() => return,
            accepted = async {
                let place = Arc::clone(&pending).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, source) = match accepted {
            (Ok(accepted), _) => accepted,
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a caller's connection");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(own) = sources.take(source.ip()) else {
            tracing::debug!(%source, "a source has too many handshakes under way");
            continue;
        };
        let (config, connections) = (Arc::clone(&tls.borrow()), connections.clone());
        let place = accepted.1;
        handshakes.spawn(async move {
            match timeout(HANDSHAKE, handshake(config, stream)).await {
                Ok(Ok(stream)) => {
                    // Where nobody takes it any more, we are leaving.
                    connections
                        .send(EdgeConnection { stream, source })
                        .await
                        .ok();
                }
                Ok(Err(error)) => tracing::debug!(%source, %error, "a caller's handshake failed"),
                Err(_) => tracing::debug!(%source, "a caller's handshake took too long"),
            }
            drop((place, own));
        });
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    // Head and body are two writes, and so are two tokens: neither waits for an acknowledgement.
    stream.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(stream).await
}
