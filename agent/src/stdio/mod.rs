//! MCP servers on stdio, run by the agent.
//!
//! ```text
//!  bridge      HTTP of both eras                    body, mirror, params, version, answer, error
//!   |
//!  session     what lives between requests          stream: events, kept to be resumed
//!   |
//!  supply      which processes run                  hello: which era they speak
//!   |
//!  instance    one process that serves              router: who hears what
//!   |
//!  process     its group, environment, directory    framing, complaints, noise
//! ```
//!
//! A server sees one client on its standard streams, and the agent is it. What is one-to-one on
//! HTTP (a request and its answer's stream) is found again by ids; what a server says without
//! naming a request reaches only a session that has the process to itself.
//!
//! Everything has a bound: the length of a line, requests at once, bytes that wait for a caller,
//! what a server may write to nobody, the time to start, to read and to end.

mod account;
mod answer;
mod body;
mod bridge;
mod complaints;
mod error;
mod framing;
mod hello;
mod instance;
mod media;
mod mirror;
mod noise;
mod params;
mod process;
mod router;
mod rpc;
mod session;
mod spec;
mod stream;
mod supply;
mod version;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use account::Account;
pub use spec::{DEFAULT_IDLE, DEFAULT_INSTANCES, Sharing, StdioLimits, StdioSpec};

use crate::backend::Endpoint;
use session::Sessions;
use spec::Pace;
use supply::Supply;

/// A server on stdio.
#[derive(Debug)]
pub struct Stdio {
    spec: StdioSpec,
    supply: Supply,
    sessions: Sessions,
    endpoint: Arc<Endpoint>,
    /// Woken when it is to be looked at.
    alarm: Arc<Notify>,
    stop: CancellationToken,
    /// What is held of requests.
    holding: Arc<Semaphore>,
    params: params::Known,
}

/// Bytes of requests that are held at once, from their arrival until a process has read them.
const MAX_HELD_BYTES: usize = 128 << 20;

/// Why nothing of a call has reached a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// It does not run, and why.
    #[error("{0}")]
    Unreachable(String),
    /// As many run as may.
    #[error("as many processes run as `limits.instances` permits")]
    Full,
}

impl Stdio {
    /// A server that is started when it is needed, or probed. `tasks` runs its processes, until
    /// `stop`.
    pub fn new(
        service: &str,
        spec: StdioSpec,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        if process::shares_account(&spec) {
            tracing::warn!(
                service,
                "this server runs as the same user as the agent, whose key it could read: name another `user`"
            );
        }
        Self::paced(service, spec, Pace::default(), (tasks, stop))
    }

    fn paced(
        service: &str,
        spec: StdioSpec,
        pace: Pace,
        (tasks, stop): (TaskTracker, CancellationToken),
    ) -> Self {
        let alarm: Arc<Notify> = Arc::default();
        let endpoint = Arc::new(Endpoint::new(spec.label(), Arc::clone(&alarm)));
        let running = (tasks, stop.clone());
        Self {
            supply: Supply::new(service, spec.clone(), pace, running, Arc::clone(&endpoint)),
            spec,
            sessions: Sessions::default(),
            endpoint,
            alarm,
            stop,
            holding: Arc::new(Semaphore::new(MAX_HELD_BYTES)),
            params: params::Known::default(),
        }
    }

    /// What is known of it.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Resolves when it is to be looked at: a process has fallen, or may have.
    pub async fn troubled(&self) {
        self.alarm.notified().await;
    }

    /// Ends it: sessions at once, processes when their callers have their answers.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it can be started: it is, unless that is known. Ends what nobody has used for
    /// long.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), String> {
        self.sessions.sweep(self.spec.limits.idle);
        self.supply.sweep().await;
        self.supply.probe().await.map_err(|error| error.reason())
    }
}

#[cfg(test)]
mod tests;
