//! Kept connections to one backend, HTTP/1.1 or HTTP/2 as TLS agreed.
//!
//! The point of a pool of our own is to know exactly whether anything of a request was
//! offered to the backend: everything before [`hyper`]'s `try_send_request` was not, and
//! neither was a request that it hands back.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, AnswerBody};
use super::connect::{BackendStream, ConnectError, Connector};
use super::dials::{Dials, Made};
use super::form::{in_absolute_form, in_origin_form};
use super::h2::{H2_UNTOLD, Tracked, drive};
use super::{BackendFailure, OutBody};
use crate::queue::Counted;

/// How long an idle HTTP/1.1 connection is kept. Below the 5 s after which uvicorn and Node
/// close theirs: a request that crosses their close would have an unknown outcome.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// Idle HTTP/1.1 connections of one backend.
const MAX_IDLE: usize = 256;
/// Headers of a backend's head.
const MAX_HEADERS: usize = 512;
/// Size of a backend's head, in bytes.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// How often a request goes to another connection because its own was closing.
const MAX_TRIES: usize = 4;
/// HTTP/2 connections are asked for a sign of life this often, and given as long to answer.
const H2_PING: Duration = Duration::from_secs(20);

/// The connections to one backend.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    connector: Connector,
    kept: Arc<Mutex<Kept>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Kept {
    /// The most recently used last.
    h1: Vec<(Instant, http1::SendRequest<OutBody>)>,
    h2: Vec<Shared>,
    dials: Dials<Sender>,
}

/// An HTTP/2 connection, and how many calls it carries.
#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<OutBody>,
    calls: Arc<AtomicU32>,
    /// How many its peer permits.
    permitted: Arc<AtomicU32>,
}

impl Shared {
    /// Another call on it, where its peer permits one: above that hyper would wait, silently.
    fn enter(&self) -> Option<Sender> {
        let calls = self.calls.load(Ordering::Relaxed);
        let permitted = self.permitted.load(Ordering::Relaxed);
        (calls < permitted).then(|| Sender::H2(self.sender.clone(), Counted::one(&self.calls)))
    }

    fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum SendError {
    /// Nothing of it was offered to the backend.
    NotOffered(ConnectError),
    /// Something may have begun.
    Begun(BackendFailure),
}

/// How a call holds its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// As it comes, shared with others where it can be.
    Any,
    /// Alone, on HTTP/1.1: such a connection may change its protocol.
    Alone,
}

enum Sender {
    H1(http1::SendRequest<OutBody>),
    H2(http2::SendRequest<OutBody>, Counted),
}

impl Pool {
    pub(super) fn new(connector: Connector, tasks: TaskTracker) -> Self {
        let kept = Kept {
            h1: Vec::new(),
            h2: Vec::new(),
            dials: Dials::new(if connector.may_share() { u32::MAX } else { 1 }),
        };
        Self {
            connector,
            kept: Arc::new(Mutex::new(kept)),
            tasks,
        }
    }

    /// Whether a connection can be made; it is kept for the next call. An HTTP/2 connection
    /// that is there is asked for signs of life anyway.
    pub(super) async fn try_connect(&self) -> Result<(), ConnectError> {
        if self.has_shared() {
            return Ok(());
        }
        if let Sender::H1(sender) = self.fresh().await? {
            self.keep(sender);
        }
        Ok(())
    }

    /// A connection that a request can be sent on.
    pub(super) async fn ready(&self, hold: Hold) -> Result<Ready, ConnectError> {
        let began = Instant::now();
        let (sender, connect) = match (hold, self.kept_for(hold)) {
            (_, Some(sender)) => (sender, Duration::ZERO),
            (hold, None) => (self.made_for(hold).await?, began.elapsed()),
        };
        Ok(Ready {
            sender,
            connect,
            pool: self.clone(),
            hold,
        })
    }

    fn kept_for(&self, hold: Hold) -> Option<Sender> {
        match hold {
            Hold::Any => self.kept(),
            Hold::Alone => None,
        }
    }

    async fn made_for(&self, hold: Hold) -> Result<Sender, ConnectError> {
        match hold {
            Hold::Any => self.fresh().await,
            Hold::Alone => {
                let made = async {
                    let stream = self.connector.connect_alone().await?;
                    self.handshake_h1(stream).await
                };
                let timeout = self.connector.timeout();
                tokio::time::timeout(timeout, made)
                    .await
                    .map_err(|_| ConnectError::Timeout(timeout))?
            }
        }
    }

    fn has_shared(&self) -> bool {
        let mut kept = self.lock();
        kept.h2.retain(|shared| !shared.sender.is_closed());
        !kept.h2.is_empty()
    }

    fn kept(&self) -> Option<Sender> {
        let mut kept = self.lock();
        kept.h2.retain(|shared| !shared.sender.is_closed());
        if let Some(sender) = kept.h2.iter().find_map(Shared::enter) {
            return Some(sender);
        }
        kept.h1
            .retain(|(since, sender)| since.elapsed() < KEEP_IDLE && !sender.is_closed());
        // One that was given back this moment may not have noticed its end yet.
        let at = kept.h1.iter().rposition(|(_, sender)| sender.is_ready())?;
        Some(Sender::H1(kept.h1.remove(at).1))
    }

    pub(super) fn keep(&self, sender: http1::SendRequest<OutBody>) {
        let mut kept = self.lock();
        if !sender.is_closed() && kept.h1.len() < MAX_IDLE {
            kept.h1.push((Instant::now(), sender));
        }
    }

    /// Closes what was idle for too long.
    pub(super) fn sweep(&self) {
        let mut kept = self.lock();
        kept.h1
            .retain(|(since, sender)| since.elapsed() < KEEP_IDLE && !sender.is_closed());
        // One idle shared connection is enough; the others were for a burst.
        let mut spare = false;
        kept.h2
            .retain(|shared| !shared.is_idle() || !std::mem::replace(&mut spare, true));
    }

    /// How many HTTP/2 connections are kept.
    #[cfg(test)]
    pub(super) fn shared(&self) -> usize {
        self.lock().h2.len()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that is made now, alone or with others.
    async fn fresh(&self) -> Result<Sender, ConnectError> {
        for _ in 0..MAX_TRIES {
            if self.lock().dials.places() == 1 {
                break;
            }
            let dial = self.lock().dials.join(|| {
                let pool = self.clone();
                Box::pin(async move { pool.connect().await.map(Made::new).map_err(Arc::new) })
            });
            let made = dial.await.map_err(ConnectError::Shared)?;
            if let Some(sender) = made.take().or_else(|| self.kept()) {
                return Ok(sender);
            }
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<Sender, ConnectError> {
        let stream = self.connector.connect().await?;
        let shaking = self.handshake(stream);
        tokio::time::timeout(self.connector.timeout(), shaking)
            .await
            .map_err(|_| ConnectError::Timeout(self.connector.timeout()))?
    }

    async fn handshake(&self, stream: BackendStream) -> Result<Sender, ConnectError> {
        if stream.is_h2() {
            return self.handshake_h2(stream).await;
        }
        let sender = self.handshake_h1(stream).await?;
        self.lock().dials.learn(1);
        Ok(sender)
    }

    async fn handshake_h1(&self, stream: BackendStream) -> Result<Sender, ConnectError> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        let connection = connection.with_upgrades();
        self.tasks.spawn(async move { log_end(connection.await) });
        Ok(Sender::H1(sender))
    }

    async fn handshake_h2(&self, stream: BackendStream) -> Result<Sender, ConnectError> {
        let (sender, connection) = http2::Builder::new(Tracked(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING)
            .keep_alive_while_idle(true)
            .initial_max_send_streams(H2_UNTOLD)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        let permitted = Arc::<AtomicU32>::default();
        let (tell, told) = oneshot::channel();
        self.tasks
            .spawn(drive(connection, Arc::clone(&permitted), tell));
        // Its settings are the first that a peer sends; before them nobody knows how many calls
        // the connection takes.
        told.await
            .map_err(|_| ConnectError::Closing)?
            .map_err(ConnectError::Http)?;
        let shared = Shared {
            sender: sender.clone(),
            calls: Arc::default(),
            permitted,
        };
        let ours = Counted::one(&shared.calls);
        let mut kept = self.lock();
        kept.dials.learn(shared.permitted.load(Ordering::Relaxed));
        kept.h2.push(shared);
        Ok(Sender::H2(sender, ours))
    }
}

pub(super) fn log_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a backend connection ended");
    }
}

/// A connection that waits for its request.
pub(super) struct Ready {
    sender: Sender,
    pub(super) connect: Duration,
    pool: Pool,
    hold: Hold,
}

impl Ready {
    /// Sends the request and reads the head of the answer. Interim answers are dropped.
    pub(super) async fn send(self, mut request: Request<OutBody>) -> Result<Answer, SendError> {
        let Self {
            mut sender,
            mut connect,
            pool,
            hold,
        } = self;
        for _ in 0..MAX_TRIES {
            let failed = match sender {
                Sender::H1(mut h1) => {
                    in_origin_form(&mut request);
                    match h1.try_send_request(request).await {
                        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            return Ok(Answer::new(response.map(AnswerBody::switched), connect));
                        }
                        Ok(response) => {
                            let body = |incoming| AnswerBody::kept(incoming, pool, h1);
                            return Ok(Answer::new(response.map(body), connect));
                        }
                        Err(failed) => failed,
                    }
                }
                Sender::H2(mut h2, ours) => {
                    in_absolute_form(&mut request);
                    match h2.try_send_request(request).await {
                        Ok(response) => {
                            let body = |incoming| AnswerBody::shared(incoming, ours);
                            return Ok(Answer::new(response.map(body), connect));
                        }
                        Err(failed) => failed,
                    }
                }
            };
            request = given_back(failed).map_err(SendError::Begun)?;
            let began = Instant::now();
            sender = pool.made_for(hold).await.map_err(SendError::NotOffered)?;
            connect += began.elapsed();
        }
        Err(SendError::NotOffered(ConnectError::Closing))
    }
}

/// The request, where nothing of it was written to a connection that was closing.
fn given_back(
    mut failed: hyper::client::conn::TrySendError<Request<OutBody>>,
) -> Result<Request<OutBody>, BackendFailure> {
    failed
        .take_message()
        .ok_or_else(|| BackendFailure::from(&failed.into_error()))
}
