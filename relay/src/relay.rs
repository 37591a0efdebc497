//! The relay as its embedder holds it: bound, served, called, drained.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use culvert_certs::{Credentials, Identity, PlaneIdentity};
use culvert_wire::{AcceptorCommand, PlaneName, ReplicaId, SessionId, Settings, Welcome};
use http::Request;
use http_body::Body;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::budget::ReplayMemory;
use crate::call::{Answered, CallFailed, CallMeta, CallTarget};
use crate::config::{RelayConfig, RelayInputs};
use crate::directory::Directory;
use crate::dispatch;
use crate::entry::Entry;
use crate::handle::Link;
use crate::join::{ControlRequest, JoinDesk, JoinInputs};
use crate::limits::{DRAIN_MARGIN, MAX_CONTROL_REQUESTS, REPLAY_TOTAL_BYTES};
use crate::link::LinkEntry;
use crate::metrics::Metrics;
use crate::parking::Parking;
use crate::policy::Admission;
use crate::ports::{BindError, Ports};
use crate::renewal::Renewals;
use crate::replay::BodyError;
use crate::status::RelayStatus;
use crate::view::TenantView;

/// A relay; clones are handles of the same one.
#[derive(Clone)]
pub struct Relay {
    core: Arc<Core>,
    /// Taken by whoever serves.
    ports: Arc<Mutex<Option<Ports>>>,
    address: SocketAddr,
}

/// What all parts of a relay share.
pub(crate) struct Core {
    pub(crate) plane: PlaneIdentity,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) admission: watch::Receiver<Arc<Admission>>,
    pub(crate) heard_at: watch::Receiver<SystemTime>,
    pub(crate) control: mpsc::Sender<ControlRequest>,
    pub(crate) directory: Arc<Directory<Link>>,
    pub(crate) metrics: Metrics,
    pub(crate) replay: ReplayMemory,
    pub(crate) parking: Arc<Parking>,
    pub(crate) entry: Entry,
    pub(crate) renewals: Renewals,
    /// Handshakes and sessions of links.
    pub(crate) sessions: TaskTracker,
    /// Bodies that are still on their way up while their answers stream.
    pub(crate) uploads: TaskTracker,
    config: RelayConfig,
    phase: watch::Sender<Phase>,
}

/// How far a replica is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Takes links and calls.
    Serving,
    /// Takes no new links; agents dial replacements; calls are still taken over the links left.
    Leaving,
    /// Takes no new calls either; what has begun finishes.
    Draining,
}

/// Somebody serves this relay already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay is being served already, or was")]
pub struct AlreadyServed;

impl Relay {
    /// Binds the ports. Nothing is accepted before [`Relay::serve`]; joins and renewals come out
    /// of the receiver, and are refused as unavailable while nobody takes them.
    ///
    /// # Errors
    /// The credentials are no plane's, or a port or its TLS configuration cannot be used.
    pub async fn bind(
        config: RelayConfig,
        inputs: RelayInputs,
    ) -> Result<(Self, mpsc::Receiver<ControlRequest>), BindError> {
        let RelayInputs {
            credentials,
            admission,
            heard_at,
            reset_keys,
            edge,
        } = inputs;
        let first = credentials.borrow().clone();
        let Identity::Plane(plane) = first.identity.clone() else {
            return Err(BindError::NotAPlane);
        };
        let (control, requests) = mpsc::channel(MAX_CONTROL_REQUESTS);
        let metrics = Metrics::default();
        let renewals = Renewals::new();
        let desk = JoinDesk::new(JoinInputs {
            control: control.clone(),
            credentials: credentials.clone(),
            renewals: renewals.clone(),
            metrics: metrics.clone(),
        });
        let ports = Ports::bind(&config, &first, reset_keys, desk, edge).await?;
        let address = ports.address();
        let core = Core {
            plane,
            credentials,
            admission,
            heard_at,
            control,
            directory: Arc::new(Directory::new()),
            metrics,
            replay: ReplayMemory::new(REPLAY_TOTAL_BYTES),
            parking: Arc::new(Parking::new(config.parked)),
            entry: Entry::new(config.doors),
            renewals,
            sessions: TaskTracker::new(),
            uploads: TaskTracker::new(),
            config,
            phase: watch::Sender::new(Phase::Serving),
        };
        let ports = Arc::new(Mutex::new(Some(ports)));
        Ok((
            Self {
                core: Arc::new(core),
                ports,
                address,
            },
            requests,
        ))
    }

    /// Where links and joins are taken: the same number on UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then drains, and returns once nothing of the relay runs.
    /// Dropped before, it cuts everything off.
    ///
    /// # Errors
    /// Somebody else serves this relay.
    pub async fn serve(&self, shutdown: impl Future<Output = ()>) -> Result<(), AlreadyServed> {
        let ports = self
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let ports = ports.ok_or(AlreadyServed)?;
        let leave = async {
            shutdown.await;
            self.drain().await;
        };
        ports.serve(&self.core, leave).await;
        self.core.uploads.close();
        self.core.uploads.wait().await;
        Ok(())
    }

    /// Hands a call to an agent that serves one of the target's services, and waits for the head
    /// of its answer. Whether and where a failed attempt is repeated is decided inside: see the
    /// crate's documentation.
    ///
    /// # Errors
    /// [`CallFailed`] says who is to blame, and whether a backend may have begun.
    pub async fn call<B>(
        &self,
        target: CallTarget,
        meta: CallMeta,
        request: Request<B>,
    ) -> Result<Answered, CallFailed>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        dispatch::call(&self.core, target, meta, request).await
    }

    /// Who serves what.
    #[must_use]
    pub fn directory(&self) -> &Directory<Link> {
        &self.core.directory
    }

    /// The links as an operator wants to see them.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        RelayStatus::of(&self.core)
    }

    /// The relay's counters, to be registered with the embedder's.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// How far this replica is from its end; ready for new callers is only [`Phase::Serving`].
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.core.phase()
    }

    /// Tells every agent to dial a replacement. Calls are still taken until [`Relay::drain`], so
    /// that an edge can finish what its callers have sent; the links stay until then.
    pub fn announce_leaving(&self) {
        self.core.enter(Phase::Leaving);
    }

    /// Announces that this replica leaves, takes no new calls, and waits until every link has
    /// finished what had begun: at most the configured time, and no longer than it takes.
    pub async fn drain(&self) {
        self.core.enter(Phase::Draining);
        let core = &self.core;
        tracing::info!(links = core.links().count(), timeout = ?core.config.drain_timeout, "draining");
        core.sessions.close();
        // The machines end what is left at the deadline; the margin is for their goodbyes.
        let limit = core.config.drain_timeout + DRAIN_MARGIN;
        if timeout(limit, core.sessions.wait()).await.is_err() {
            tracing::warn!("links were still there at the end of the drain");
        }
    }
}

impl Core {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn refuses_calls(&self) -> bool {
        self.phase() == Phase::Draining
    }

    /// Phases only go forward.
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|present| {
            let forward = phase > *present;
            if forward {
                *present = phase;
            }
            forward
        });
    }

    /// All links, as of each tenant's last snapshot.
    pub(crate) fn links(&self) -> impl Iterator<Item = Arc<LinkEntry<Link>>> {
        let connectors = |view: Arc<TenantView<Link>>| {
            view.connectors
                .values()
                .flat_map(|connector| connector.links.clone())
                .collect::<Vec<_>>()
        };
        self.directory.views().into_iter().flat_map(connectors)
    }

    pub(crate) fn go_away(&self) -> AcceptorCommand {
        AcceptorCommand::GoAway {
            leave_in: self.config.drain_timeout,
            smear: self.config.drain_smear,
        }
    }

    pub(crate) fn welcome(&self, session: SessionId) -> Welcome {
        Welcome {
            session,
            replica: ReplicaId::from_bytes(*self.plane.replica.as_bytes()),
            plane: PlaneName {
                region: self.plane.region.to_string(),
                zone: self.plane.zone.to_string(),
            },
            // Presence tells of siblings; one replica knows of none.
            siblings: Vec::new(),
            settings: Settings::default(),
            features: Vec::new(),
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("plane", &self.core.plane)
            .field("address", &self.address)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
