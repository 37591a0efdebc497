//! The backends of one service: chosen by load, connected to within bounds, and called.

mod answer;
mod balance;
mod connect;
mod dials;
mod form;
mod h2;
mod names;
mod pool;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Limited};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub use answer::{Answer, AnswerBody};
pub use balance::{Endpoint, InFlight, Standing};
pub use connect::ConnectError;
pub use pool::SendError;
pub use tls::TlsSetupError;

use crate::config::ServiceDef;
use connect::Connector;
use names::Names;
use pool::{Hold, Pool, Ready};

/// A request's body on its way to a backend.
pub type OutBody = UnsyncBoxBody<Bytes, BodyError>;
/// Why a request's body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// How a backend failed after a call may have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendFailure {
    /// The connection ended before the answer did.
    #[error("the backend closed the connection before the end of its answer")]
    Reset,
    /// It does not speak HTTP as it is written.
    #[error("the backend's answer is not valid HTTP")]
    Protocol,
    /// It gave no sign of life on HTTP/2.
    #[error("the backend's connection timed out")]
    Timeout,
    /// The request's own body ended early: the caller's side, not the backend's.
    #[error("the request's body was not complete")]
    Request,
}

impl From<&hyper::Error> for BackendFailure {
    fn from(error: &hyper::Error) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_user() {
            Self::Request
        } else if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
            Self::Protocol
        } else {
            Self::Reset
        }
    }
}

/// What the backends of all services share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The agent's own listeners, which no backend may be.
    own: Arc<[SocketAddr]>,
    /// Runs connections and look-ups.
    tasks: TaskTracker,
    names: Names,
}

impl Ground {
    /// `own` are the agent's listeners, which no backend may be; `tasks` runs what goes on beside
    /// calls.
    pub fn new(own: Arc<[SocketAddr]>, tasks: TaskTracker) -> Self {
        Self {
            names: Names::new(tasks.clone()),
            own,
            tasks,
        }
    }

    /// Runs what goes on beside calls.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// The backends of a service.
#[derive(Debug)]
pub struct Backends {
    list: Vec<Backend>,
    alarm: Arc<Notify>,
}

/// One of them.
#[derive(Debug)]
pub struct Backend {
    /// What is known of it, and how busy it is.
    pub endpoint: Arc<Endpoint>,
    pool: Pool,
    url: crate::config::ServiceUrl,
    headers: crate::headers::HeaderRules,
}

/// A connection that waits for its request, and the place of the call in its backend's
/// count.
#[expect(missing_debug_implementations, reason = "hyper's senders say nothing")]
pub struct Connected<'b> {
    /// Whose.
    pub backend: &'b Backend,
    ready: Ready,
    load: InFlight,
}

/// A call that is answered by a backend. Dropping it aborts the call there.
#[derive(Debug)]
pub struct Called {
    /// Head and body.
    pub answer: Answer,
    /// Counts the call until it is over.
    pub load: InFlight,
}

impl Backends {
    /// Nothing is connected before the first call or probe. What is known of the backends of
    /// `before`, which have the same urls, stays known.
    ///
    /// # Errors
    /// [`TlsSetupError`] where certificates of the file do not fit.
    pub fn new(
        def: &ServiceDef,
        ground: &Ground,
        before: Option<&Self>,
    ) -> Result<Self, TlsSetupError> {
        let alarm = before.map_or_else(Arc::default, |before| Arc::clone(&before.alarm));
        let backend = |(at, url): (usize, &crate::config::ServiceUrl)| {
            let known = before.and_then(|before| before.list.get(at));
            let connector = Connector::new(def, url, ground)?;
            Ok(Backend {
                endpoint: match known {
                    Some(known) => Arc::clone(&known.endpoint),
                    None => Arc::new(Endpoint::new(url.text.clone(), Arc::clone(&alarm))),
                },
                pool: Pool::new(connector, ground.tasks.clone()),
                url: url.clone(),
                headers: def.headers.clone(),
            })
        };
        let list = def
            .urls
            .iter()
            .enumerate()
            .map(backend)
            .collect::<Result<_, TlsSetupError>>()?;
        Ok(Self { list, alarm })
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Backend> {
        self.list.iter()
    }

    /// Resolves when a call could not be brought to one of them.
    pub async fn troubled(&self) {
        self.alarm.notified().await;
    }

    /// A connection to one of them, chosen by load; to another where there is none.
    ///
    /// # Errors
    /// The last [`ConnectError`], when none can be connected to.
    pub async fn connect(
        &self,
        chance: impl FnMut() -> u64,
    ) -> Result<Connected<'_>, ConnectError> {
        self.connect_by(chance, Hold::Any).await
    }

    /// As [`Self::connect`], and the connection is the call's own: it may change its protocol.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_alone(
        &self,
        chance: impl FnMut() -> u64,
    ) -> Result<Connected<'_>, ConnectError> {
        self.connect_by(chance, Hold::Alone).await
    }

    async fn connect_by(
        &self,
        mut chance: impl FnMut() -> u64,
        hold: Hold,
    ) -> Result<Connected<'_>, ConnectError> {
        let mut tried = vec![false; self.list.len()];
        let mut last = ConnectError::NoAddress;
        while let Some(at) = balance::choose(&self.list, &tried, chance()) {
            tried[at] = true;
            let backend = &self.list[at];
            let load = backend.endpoint.enter();
            match backend.pool.ready(hold).await {
                Ok(ready) => {
                    return Ok(Connected {
                        backend,
                        ready,
                        load,
                    });
                }
                Err(error) => {
                    backend.endpoint.unreachable(&error);
                    last = error;
                }
            }
        }
        Err(last)
    }
}

impl Connected<'_> {
    /// How long the connection took; zero where one was kept.
    pub fn connect_time(&self) -> Duration {
        self.ready.connect
    }

    /// Sends the call. From here on it may have begun.
    ///
    /// # Errors
    /// [`SendError`]: whether anything was offered, and what went wrong.
    pub async fn send(self, head: Parts, body: OutBody) -> Result<Called, SendError> {
        let began = Instant::now();
        match self.ready.send(Request::from_parts(head, body)).await {
            Ok(answer) => {
                self.backend.endpoint.answered(began.elapsed());
                Ok(Called {
                    answer,
                    load: self.load,
                })
            }
            Err(SendError::NotOffered(error)) => {
                self.backend.endpoint.unreachable(&error);
                Err(SendError::NotOffered(error))
            }
            Err(begun) => Err(begun),
        }
    }
}

impl Backend {
    /// The head of a call to it: an admitted target and the caller's headers.
    ///
    /// # Errors
    /// A target that is no valid path, which an admitted one never is.
    pub fn head(
        &self,
        method: Method,
        admitted: &crate::policy::Admitted,
        caller: HeaderMap,
    ) -> Result<Parts, http::uri::InvalidUri> {
        let uri: Uri = self.url.base.target(admitted).parse()?;
        let headers = self.headers.outgoing(caller, &self.url.authority);
        Ok(parts(method, uri, headers))
    }

    /// Whether it takes connections.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn try_connect(&self) -> Result<(), ConnectError> {
        self.pool.sweep();
        self.pool.try_connect().await
    }

    /// GET on a path of the backend's origin: our own, for probes.
    ///
    /// # Errors
    /// [`OwnError`].
    pub async fn get_origin(&self, path: &str, max_bytes: usize) -> Result<(u16, Bytes), OwnError> {
        self.get(path.parse().map_err(|_| OwnError::Path)?, max_bytes)
            .await
    }

    /// GET below the service's url: our own, for discovery.
    ///
    /// # Errors
    /// [`OwnError`].
    pub async fn get_below(&self, path: &str, max_bytes: usize) -> Result<(u16, Bytes), OwnError> {
        let target = format!("{}{path}", self.url.base.prefix());
        self.get(target.parse().map_err(|_| OwnError::Path)?, max_bytes)
            .await
    }

    async fn get(&self, uri: Uri, max_bytes: usize) -> Result<(u16, Bytes), OwnError> {
        self.pool.sweep();
        let ready = self
            .pool
            .ready(Hold::Any)
            .await
            .map_err(OwnError::Connect)?;
        let head = parts(Method::GET, uri, self.headers.own(&self.url.authority));
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let answer = ready.send(Request::from_parts(head, body)).await?;
        let (head, body) = answer.response.into_parts();
        let bytes = Limited::new(body, max_bytes)
            .collect()
            .await
            .map_err(|_| OwnError::Body)?
            .to_bytes();
        Ok((head.status.as_u16(), bytes))
    }
}

/// Why a request of our own has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// No connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// No head.
    #[error(transparent)]
    Failed(BackendFailure),
    /// No whole body within the bound.
    #[error("the answer is cut or too large")]
    Body,
    /// Not a path.
    #[error("the path is not valid")]
    Path,
}

impl From<SendError> for OwnError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotOffered(error) => Self::Connect(error),
            SendError::Begun(failure) => Self::Failed(failure),
        }
    }
}

fn parts(method: Method, uri: Uri, headers: HeaderMap) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.headers = headers;
    parts
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
