//! The processes of a service: how many, when one is started again, and which of the two eras
//! of MCP the server speaks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_wire::Backoff;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::StartError;
use super::hello::{Era, bounded, find_out, greet};
use super::instance::{Begin, Instance};
use super::process::Process;
use super::router::Kind;
use super::rpc::Object;
use super::spec::{Pace, Sharing, StdioSpec};
use crate::backend::{Endpoint, Standing};
use crate::error::chain;

/// Starts processes.
#[derive(Debug)]
pub(super) struct Supply {
    service: Arc<str>,
    spec: StdioSpec,
    pub(super) pace: Pace,
    tasks: TaskTracker,
    stop: CancellationToken,
    places: Arc<Semaphore>,
    endpoint: Arc<Endpoint>,
    restart: Mutex<Restart>,
    /// A caller's process has not answered: it may be the server's fault.
    suspected: AtomicBool,
    slots: tokio::sync::Mutex<Slots>,
}

/// When a process may be started again.
#[derive(Debug)]
struct Restart {
    backoff: Backoff,
    not_before: Option<tokio::time::Instant>,
    reason: String,
}

/// Processes that serve more than one caller, and what the server is known to speak.
#[derive(Debug, Default)]
struct Slots {
    era: Option<Era>,
    stateless: Option<Ready>,
    shared: Option<Ready>,
}

/// A process that has answered.
#[derive(Debug)]
struct Ready {
    instance: Arc<Instance>,
    /// Its answer to `initialize`.
    greeting: Object,
    _own: DropGuard,
}

/// Why there is no process for the stateless protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotStateless {
    /// The server does not speak it.
    Older,
    /// It does not run.
    Start(StartError),
}

impl Supply {
    pub(super) fn new(
        service: &str,
        spec: StdioSpec,
        pace: Pace,
        (tasks, stop): (TaskTracker, CancellationToken),
        endpoint: Arc<Endpoint>,
    ) -> Self {
        let places = usize::try_from(spec.limits.instances).unwrap_or(usize::MAX);
        Self {
            service: service.into(),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            restart: Mutex::new(Restart {
                backoff: Backoff::with(pace.restart.0, pace.restart.1),
                not_before: None,
                reason: String::new(),
            }),
            spec,
            pace,
            tasks,
            stop,
            endpoint,
            suspected: AtomicBool::new(false),
            slots: tokio::sync::Mutex::default(),
        }
    }

    /// A process for one session; the caller greets it. Where all places are taken, `make_room`
    /// may free one.
    pub(super) async fn own(
        &self,
        make_room: impl FnOnce(),
    ) -> Result<(Arc<Instance>, DropGuard), StartError> {
        if self.places.available_permits() == 0 {
            make_room();
        }
        self.start(Kind::Session).await
    }

    /// A session's process has not come up: it is looked at soon whether another one does.
    pub(super) fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
        self.endpoint.trouble();
    }

    /// The process that serves the stateless protocol.
    pub(super) async fn stateless(&self) -> Result<Arc<Instance>, NotStateless> {
        let mut slots = self.slots().await;
        if let Some(ready) = &slots.stateless {
            return Ok(Arc::clone(&ready.instance));
        }
        if slots.era != Some(Era::Sessions) {
            self.open(&mut slots).await.map_err(NotStateless::Start)?;
        }
        let ready = slots.stateless.as_ref().ok_or(NotStateless::Older)?;
        Ok(Arc::clone(&ready.instance))
    }

    /// The process that all sessions share, and what it said when it was greeted.
    pub(super) async fn shared(&self) -> Result<(Arc<Instance>, Object), StartError> {
        let mut slots = self.slots().await;
        if slots.shared.is_none() {
            if slots.era.is_none() {
                self.open(&mut slots).await?;
            }
            if slots.shared.is_none() {
                let ready = self.noted(self.greeted().await)?;
                slots.shared = Some(ready);
            }
        }
        let ready = slots.shared.as_ref().ok_or(StartError::Stopped)?;
        Ok((Arc::clone(&ready.instance), ready.greeting.clone()))
    }

    /// Whether the server can be started: by starting it, unless that is known.
    pub(super) async fn probe(&self) -> Result<(), StartError> {
        let mut slots = self.slots().await;
        let suspected = self.suspected.swap(false, Ordering::Relaxed);
        if self.endpoint.standing() == Standing::Up && !suspected {
            return Ok(());
        }
        match self.open(&mut slots).await {
            // It runs as often as it may: that is no failure.
            Err(StartError::Full) => Ok(()),
            other => other,
        }
    }

    /// Ends processes that nobody has used for long.
    pub(super) async fn sweep(&self) {
        let mut slots = self.slots().await;
        let Slots {
            stateless, shared, ..
        } = &mut *slots;
        for slot in [stateless, shared] {
            let idle = slot.as_ref().map(|ready| ready.instance.idle());
            if idle.is_some_and(|idle| idle >= self.spec.limits.idle) {
                *slot = None;
            }
        }
    }

    /// The slots, without processes that have ended.
    async fn slots(&self) -> tokio::sync::MutexGuard<'_, Slots> {
        let mut slots = self.slots.lock().await;
        let Slots {
            stateless, shared, ..
        } = &mut *slots;
        for slot in [stateless, shared] {
            if let Some(end) = slot.as_ref().and_then(|ready| ready.instance.ended()) {
                *slot = None;
                self.failed(&end.to_string());
            }
        }
        slots
    }

    /// Finds out what the server speaks, and keeps the process that was started for it where it
    /// can serve several callers.
    async fn open(&self, slots: &mut Slots) -> Result<(), StartError> {
        let (era, ready) = self.noted(self.opened(slots.era).await)?;
        slots.era = Some(era);
        match era {
            Era::Stateless => slots.stateless = Some(ready),
            Era::Sessions if self.spec.instances == Sharing::Shared => slots.shared = Some(ready),
            Era::Sessions => {}
        }
        Ok(())
    }

    /// As the specification of 2026-07-28 has it: whoever does not answer `server/discover` in
    /// its way is greeted in the older one. Some older servers never answer it, some end.
    async fn opened(&self, known: Option<Era>) -> Result<(Era, Ready), StartError> {
        if known == Some(Era::Sessions) {
            return Ok((Era::Sessions, self.greeted().await?));
        }
        let (instance, own) = self.start(Kind::Stateless).await?;
        let found = timeout(self.pace.start, find_out(&instance, self.pace.discover)).await;
        let ready = |greeting| Ready {
            instance: Arc::clone(&instance),
            greeting,
            _own: own,
        };
        match found.map_err(|_| StartError::Silent)? {
            Ok((era, greeting)) => Ok((era, ready(greeting))),
            // Asked in the newer way some end; greeted first, they live.
            Err(StartError::Ended { .. }) => Ok((Era::Sessions, self.greeted().await?)),
            Err(error) => Err(error),
        }
    }

    /// A process that several sessions share.
    async fn greeted(&self) -> Result<Ready, StartError> {
        let (instance, own) = self.start(Kind::Shared).await?;
        let greeting = timeout(self.pace.start, greet(&instance))
            .await
            .map_err(|_| StartError::Silent)??;
        Ok(Ready {
            instance,
            greeting,
            _own: own,
        })
    }

    async fn start(&self, kind: Kind) -> Result<(Arc<Instance>, DropGuard), StartError> {
        if let Some(reason) = self.waits() {
            return Err(StartError::Waits(reason));
        }
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match timeout(self.pace.place, place).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(StartError::Stopped),
            Err(_) => return Err(StartError::Full),
        };
        if self.stop.is_cancelled() {
            return Err(StartError::Stopped);
        }
        let process = Process::spawn(&self.spec).map_err(|error| {
            let reason = chain(&error);
            self.failed(&reason);
            StartError::Spawn(reason)
        })?;
        let begin = Begin {
            service: Arc::clone(&self.service),
            kind,
            pace: self.pace,
            stop: self.stop.child_token(),
            place,
        };
        Ok(Instance::serve(begin, process, &self.tasks))
    }

    /// Draws the conclusion from a start that needed no caller.
    fn noted<T>(&self, result: Result<T, StartError>) -> Result<T, StartError> {
        match &result {
            Ok(_) => {
                self.restart().not_before = None;
                self.restart().backoff.accepted(std::time::Instant::now());
                self.endpoint.probe_passed();
            }
            // These have been noted, or say nothing of the server.
            Err(
                StartError::Spawn(_)
                | StartError::Waits(_)
                | StartError::Full
                | StartError::Stopped,
            ) => {}
            Err(
                error @ (StartError::Ended { .. } | StartError::Silent | StartError::Refused(_)),
            ) => {
                self.failed(&error.reason());
            }
        }
        result
    }

    /// The server is down until it has been started again, after a while.
    fn failed(&self, reason: &str) {
        let mut restart = self.restart();
        let wait = restart
            .backoff
            .next(std::time::Instant::now(), rand::random());
        restart.not_before = Some(tokio::time::Instant::now() + wait);
        bounded(reason).clone_into(&mut restart.reason);
        let reason = restart.reason.clone();
        drop(restart);
        self.endpoint.fell(reason);
    }

    /// Why nothing is started now.
    fn waits(&self) -> Option<String> {
        let restart = self.restart();
        restart
            .not_before
            .filter(|at| tokio::time::Instant::now() < *at)
            .map(|_| restart.reason.clone())
    }

    fn restart(&self) -> MutexGuard<'_, Restart> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
