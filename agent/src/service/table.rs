//! All services, replaced one by one when the file changes, and what is offered for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use culvert_wire::{Health, Offer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Changes, Service, probe};
use crate::backend::{Ground, TlsSetupError};
use crate::config::ServiceDef;
use crate::error::chain;
use crate::judge::Holding;
use crate::pause::Paused;
use crate::status::ServiceStatus;

/// The services that calls meet. Links and calls share it.
#[derive(Debug)]
pub struct Services {
    current: ArcSwap<BTreeMap<String, Running>>,
    changing: Mutex<()>,
    offer: watch::Sender<Arc<Offer>>,
    changes: Changes,
    ground: Ground,
    holding: Holding,
    /// What takes no calls, as the customer's switch says.
    paused: ArcSwap<Paused>,
    /// What the file names and does not want to be run.
    disabled: ArcSwap<Vec<ServiceStatus>>,
    stop: CancellationToken,
}

#[derive(Clone, Debug)]
struct Running {
    service: Arc<Service>,
    /// Stops its probes; calls that have begun go on.
    stop: CancellationToken,
}

/// Why a service cannot run as the file says.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its TLS cannot be set up.
    #[error("the service `{0}`: {err}", err = chain(.1))]
    Tls(String, TlsSetupError),
    /// Its name does not fit the wire.
    #[error("the service `{0}`: not a name")]
    Name(String),
    /// All of them do not fit into one offer.
    #[error("the services do not fit into one offer: {0}")]
    Offer(String),
}

impl Services {
    /// None yet. `own` are the agent's listeners, which no backend may be; `tasks` runs
    /// probes and backend connections.
    pub fn new(own: Arc<[SocketAddr]>, tasks: TaskTracker) -> Self {
        Self {
            current: ArcSwap::default(),
            changing: Mutex::default(),
            offer: watch::Sender::default(),
            changes: Changes::new(),
            ground: Ground::new(own, tasks),
            holding: Holding::default(),
            paused: ArcSwap::default(),
            disabled: ArcSwap::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Makes exactly these run. A service whose definition is unchanged is left alone, its
    /// connections, queue and health with it; nothing changes if one of them cannot run.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn apply(&self, defs: &[ServiceDef]) -> Result<(), SetupError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        let mut new = BTreeMap::new();
        let mut started = Vec::new();
        for def in defs.iter().filter(|def| def.enabled) {
            let running = match old.get(&def.name) {
                Some(running) if running.service.def == *def => running.clone(),
                before => {
                    let changes = self.changes.clone();
                    let before = before.map(|running| &*running.service);
                    let service = Service::new(
                        def.clone(),
                        (&self.ground, &self.stop),
                        self.holding.clone(),
                        changes,
                        before,
                    )?;
                    let running = Running {
                        service: Arc::new(service),
                        stop: self.stop.child_token(),
                    };
                    started.push(running.clone());
                    running
                }
            };
            new.insert(def.name.clone(), running);
        }
        // What is paused has its place in the offer.
        offer_of(&new, &Paused::default(), 1)
            .check()
            .map_err(|error| SetupError::Offer(error.to_string()))?;
        for (name, running) in old.iter() {
            let next = new.get(name).map(|running| &running.service);
            if !next.is_some_and(|next| Arc::ptr_eq(next, &running.service)) {
                running.stop.cancel();
                running.service.retire(next);
            }
        }
        self.current.store(Arc::new(new));
        let disabled = defs.iter().filter(|def| !def.enabled);
        let disabled = disabled.map(ServiceStatus::disabled).collect();
        self.disabled.store(Arc::new(disabled));
        for running in started {
            self.ground
                .tasks()
                .spawn(probe::run(running.service, running.stop));
        }
        self.changes.tell();
        self.renew_offer();
        Ok(())
    }

    /// Pauses exactly these: they are offered no more, and those that are not paused any more
    /// are. Calls that have begun go on.
    pub fn pause(&self, paused: Paused) {
        if **self.paused.load() == paused {
            return;
        }
        tracing::info!(?paused, "what is paused has changed");
        self.paused.store(Arc::new(paused));
        self.changes.tell();
        self.renew_offer();
    }

    /// The service of a name, where it takes calls.
    pub fn get(&self, name: &str) -> Option<Arc<Service>> {
        if self.paused.load().holds(name) {
            return None;
        }
        self.current
            .load()
            .get(name)
            .map(|r| Arc::clone(&r.service))
    }

    /// All that run, by name.
    pub fn all(&self) -> Vec<Arc<Service>> {
        let current = self.current.load();
        current.values().map(|r| Arc::clone(&r.service)).collect()
    }

    /// What is offered, newest last; its number grows with every change.
    pub fn offers(&self) -> watch::Receiver<Arc<Offer>> {
        self.offer.subscribe()
    }

    /// Told when health may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.0.subscribe()
    }

    /// The state of each service now.
    pub fn health(&self) -> Health {
        let current = self.current.load();
        let paused = self.paused.load();
        let taken = current.iter().filter(|(name, _)| !paused.holds(name));
        Health {
            services: taken.map(|(_, r)| r.service.health()).collect(),
        }
    }

    /// Each that runs, as `status` shows it.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let (current, paused) = (self.current.load(), self.paused.load());
        let shown = |(name, running): (&String, &Running)| {
            let status = ServiceStatus::from(&*running.service);
            match paused.holds(name) {
                true => status.paused(),
                false => status,
            }
        };
        current.iter().map(shown).collect()
    }

    /// Each that the file names.
    pub fn overview(&self) -> Vec<ServiceStatus> {
        let mut all = self.status();
        all.extend(self.disabled.load().iter().cloned());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Keeps the offer in step with what probes find, until the probes are stopped.
    pub async fn run(&self) {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            self.renew_offer();
        }
    }

    /// Ends all probes.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn renew_offer(&self) {
        self.offer.send_if_modified(|offer| {
            let next = offer_of(&self.current.load(), &self.paused.load(), offer.seq + 1);
            if next.services == offer.services && offer.seq > 0 {
                return false;
            }
            if let Err(error) = next.check() {
                tracing::error!(%error, "what was discovered does not fit into one offer");
                return false;
            }
            *offer = Arc::new(next);
            true
        });
    }
}

fn offer_of(services: &BTreeMap<String, Running>, paused: &Paused, seq: u64) -> Offer {
    let taken = services.iter().filter(|(name, _)| !paused.holds(name));
    Offer {
        seq,
        services: taken.map(|(_, r)| r.service.offer()).collect(),
    }
}
