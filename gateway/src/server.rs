//! Connections of callers: accepted up to a cap, served as HTTP/1 or HTTP/2, drained in order.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use culvert_relay::EdgeConnection;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    activity::{Activity, BusyBody, Look, Seen, Underway},
    answer::CutFlag,
    caller_io::{Guarded, Io},
    exchange::{EdgeAnswer, Peer},
    exit::chain,
    handler::Handler,
    limit::{MAX_HEAD_BYTES, MAX_HEADERS},
    places::{Place, Places},
    sources::{SourcePlace, Sources},
    upgrade::Pumps,
};

/// What callers' connections may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one source address over TLS; a quarter of all unless it is said.
    pub per_source: Option<usize>,
    /// Time for the head of a request, also between two of them on a connection.
    pub head_timeout: Duration,
    /// Longest time in which a caller takes nothing of what is ready for it: networks that lose packets
    /// recover within seconds, a suspended laptop does not.
    pub write_stall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            per_source: None,
            head_timeout: HEAD_TIMEOUT,
            write_stall: WRITE_STALL,
        }
    }
}

/// Connections of callers at once, by default: about 20 KiB each while idle.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Which part of all connections one source address may hold over TLS.
const SOURCE_SHARE: usize = 4;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_STALL: Duration = Duration::from_secs(60);
/// How many times the time for a head an idle connection that was told to end may take for it: the last
/// answer may still be on its way to a slow caller.
const IDLE_LOOKS: u32 = 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// Silence on an HTTP/2 connection after which the caller is asked whether it lives, and the wait.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Rest after a failure to accept: being out of descriptors does not heal by trying again at once.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Time between the end of the answers and the end of the connections, when they are forced.
const FORCED: Duration = Duration::from_secs(1);

/// Everything that serves callers.
#[derive(Debug, Clone)]
pub struct Server {
    handler: Arc<Handler>,
    builder: auto::Builder<TokioExecutor>,
    bounds: Bounds,
    places: Arc<Places>,
    sources: Arc<Sources>,
    tasks: TaskTracker,
    /// No new connections, and no new requests on the old ones.
    stop: CancellationToken,
    /// No more answers.
    abort: CancellationToken,
}

impl Server {
    /// A server within these bounds.
    pub fn new(handler: Arc<Handler>, bounds: Bounds) -> Self {
        Self {
            handler,
            builder: builder(bounds),
            bounds,
            places: Places::new(bounds.connections),
            sources: Sources::new(share(bounds.connections, bounds.per_source)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Changes how many connections there may be. Those above stay until they end by themselves.
    pub fn set_connections(&self, most: usize, per_source: Option<usize>) {
        self.places.set_most(most);
        self.sources.set_most(share(most, per_source));
    }

    /// Accepts plain HTTP until the drain begins. All of it may come from the one address of a balancer.
    pub async fn accept_plain(&self, listener: TcpListener) {
        loop {
            let Some(place) = self.place().await else {
                return;
            };
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, source)) => {
                    // Head and body are two writes, and so are two tokens: neither waits for an acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a caller's connection takes no TCP_NODELAY");
                    }
                    self.open(Io::Plain(stream), source, (place, None));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a caller's connection");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Takes over the public TLS connections of the link port until the drain begins.
    pub async fn accept_tls(&self, mut connections: mpsc::Receiver<EdgeConnection>) {
        loop {
            let Some(place) = self.place().await else {
                return;
            };
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = connections.recv() => next,
            };
            let Some(EdgeConnection { stream, source }) = next else {
                return;
            };
            let Some(own) = self.sources.take(source.ip()) else {
                self.handler.metrics().turned_away("source");
                if self.sources.may_warn(Instant::now()) {
                    tracing::warn!(%source, "one address holds all the connections that it may: edge.max_connections_per_source");
                }
                continue;
            };
            self.open(Io::Tls(Box::new(stream)), source, (place, Some(own)));
        }
    }

    /// Lets the answers under way finish for at most `patience`; then nothing of them is left.
    pub async fn drain(&self, patience: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                left = self.tasks.len(),
                "callers' connections are cut: the drain's time is over"
            );
            self.abort.cancel();
            if timeout(FORCED, self.tasks.wait()).await.is_err() {
                tracing::error!(left = self.tasks.len(), "connections did not end");
            }
        }
    }

    /// A place for one more connection; `None` once the drain has begun. At the cap, callers wait in
    /// the kernel's queue.
    async fn place(&self) -> Option<Place> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            place = self.places.take() => Some(place),
        }
    }

    fn open(&self, io: Io, source: SocketAddr, place: (Place, Option<SourcePlace>)) {
        let server = self.clone();
        self.tasks.spawn(async move {
            let _counted = server.handler.metrics().connection();
            let aborted = server.abort.clone().cancelled_owned();
            tokio::select! {
                biased;
                () = aborted => {}
                () = server.serve(io, source) => {}
            }
            drop(place);
        });
    }

    async fn serve(&self, io: Io, source: SocketAddr) {
        let (pumps, mut pumping) = Pumps::new();
        let peer = Peer {
            address: source.ip(),
            scheme: io.scheme(),
            cut: CutFlag::default(),
            pumps,
        };
        let io = Guarded::new(io, peer.cut.clone(), self.bounds.write_stall);
        let activity = Activity::default();
        let (handler, asking) = (Arc::clone(&self.handler), activity.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            answer(Arc::clone(&handler), request, peer.clone(), asking.begin())
        });
        let io = TokioIo::new(io);
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(io, service));
        let every = self.bounds.head_timeout;
        let mut looks = interval_at(Instant::now() + every, every);
        let (mut last, mut idle, mut stalled, mut stopping) = (Look::default(), 0, 0, false);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                // The library's own time-outs start with the first bytes only, and not at all on HTTP/2.
                _ = looks.tick() => match activity.look(&mut last) {
                    Seen::Nothing => return,
                    Seen::Busy => stalled = 0,
                    // What has changed its protocol may be silent for ever.
                    Seen::Stalled | Seen::Idle if !pumping.is_idle() => {}
                    Seen::Stalled => {
                        stalled += 1;
                        if every * stalled >= self.bounds.write_stall {
                            tracing::debug!(%source, "a caller takes nothing of its answers");
                            return;
                        }
                    }
                    Seen::Idle if idle >= IDLE_LOOKS => return,
                    Seen::Idle => {
                        idle += 1;
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                },
                () = pumping.turn() => {}
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%source, error = %chain(error.as_ref()), "a caller's connection broke");
                    }
                    break;
                }
            }
        }
        pumping.finish().await;
    }
}

async fn answer(
    handler: Arc<Handler>,
    request: Request<Incoming>,
    peer: Peer,
    underway: Underway,
) -> Result<Response<BusyBody<EdgeAnswer>>, Infallible> {
    let version = request.version();
    let answer = Box::pin(handler.handle(request, peer)).await;
    Ok(answer.map(|body| BusyBody::new(body, version, underway)))
}

/// What one source address may hold of all connections over TLS.
fn share(connections: usize, per_source: Option<usize>) -> usize {
    per_source.unwrap_or((connections / SOURCE_SHARE).max(1))
}

fn builder(bounds: Bounds) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
