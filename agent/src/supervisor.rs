//! The agent as a whole: what runs beside what, and in which order it ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_certs::store::{CredentialStore, Refusal, StoredIdentity};
use culvert_tunnel::{Dialer, Target, UdpOptions};
use culvert_wire::{CallMemory, InstanceId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announced::Announced;
use crate::audit::Audit;
use crate::call::Calls;
use crate::config::{Config, Flags, Sources};
use crate::error::AgentError;
use crate::identity::{connector, keep_refusal};
use crate::link::{self, Linking, Revoked};
use crate::links::Links;
use crate::listen::{self, Shown};
use crate::metrics::Metrics;
use crate::pause::Paused;
use crate::renewal::Renewal;
use crate::service::Services;
use crate::signals::{Signals, Told};
use crate::status::Status;
use crate::watch::FileWatch;
use crate::{clock, gateway, present};

/// Addresses that are linked to at once.
const MAX_LINKS: usize = 16;
/// How much longer than its own limit a drain may take, to say goodbye.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// How long the closes of connections may take to leave: three round trips, with a little patience.
const GOODBYES: Duration = Duration::from_secs(2);
/// For what is left at the end: the last lines of the audit log, connections to backends.
const AFTERMATH: Duration = Duration::from_secs(3);

/// A running agent.
struct Agent {
    config: Config,
    flags: Flags,
    store: Arc<CredentialStore>,
    linking: Arc<Linking>,
    links: Links,
    shown: Arc<Overview>,
    zones: watch::Sender<Option<Vec<String>>>,
    drain_timeout: watch::Sender<Duration>,
    background: TaskTracker,
    stop: CancellationToken,
}

/// What health, metrics and status are made of.
struct Overview {
    services: Arc<Services>,
    links: Links,
    audit: Audit,
    metrics: Arc<Metrics>,
    dialer: Arc<Dialer>,
    leaving: CancellationToken,
    identity: String,
    connector: String,
    gateway_url: Option<String>,
    started: String,
    reload_error: Mutex<Option<String>>,
}

/// Runs until a signal, or until control has revoked the identity.
///
/// # Errors
/// [`AgentError`].
pub async fn run(
    config: Config,
    flags: Flags,
    store: CredentialStore,
    identity: StoredIdentity,
) -> Result<(), AgentError> {
    let mut signals = Signals::new()?;
    let agent = Agent::start(config, flags, store, identity).await?;
    let mut links = agent.dial_all();
    let ended = agent.serve(&mut links, &mut signals).await;
    agent.finish(links, &mut signals).await;
    ended
}

impl Agent {
    async fn start(
        config: Config,
        flags: Flags,
        store: CredentialStore,
        identity: StoredIdentity,
    ) -> Result<Self, AgentError> {
        let store = Arc::new(store);
        let background = TaskTracker::new();
        let stop = CancellationToken::new();
        let listener = listen::bind(config.health_listen).await;
        let own = listener.iter().map(|(_, addr)| *addr).collect();
        let services = Arc::new(Services::new(own, background.clone()));
        services.pause(Paused::read(&config.state_dir));
        services
            .apply(&config.services)
            .map_err(|error| AgentError::Usage(error.to_string()))?;
        let (audit, writer) = Audit::new(&config.audit);
        background.spawn(writer.run());
        let keeper = Arc::clone(&services);
        background.spawn(async move { keeper.run().await });
        let leaving = CancellationToken::new();
        let metrics = Arc::new(Metrics::default());
        let links = Links::default();
        let dialer = Arc::new(Dialer::new(UdpOptions::default()));
        let shown = Arc::new(Overview {
            services: Arc::clone(&services),
            links: links.clone(),
            audit: audit.clone(),
            metrics: Arc::clone(&metrics),
            dialer: Arc::clone(&dialer),
            leaving: leaving.clone(),
            identity: identity.credentials.identity.to_string(),
            connector: connector(&identity.credentials.identity),
            gateway_url: gateway::kept(store.dir()),
            started: clock::now_text(),
            reload_error: Mutex::default(),
        });
        show(&shown, listener, &background, &stop);
        let (zones, zones_now) = watch::channel(config.planes.clone());
        let (drain_timeout, drain_now) = watch::channel(config.drain_timeout);
        let announced = Arc::new(Announced::new(&identity.credentials.identity));
        let linking = Arc::new(Linking {
            identity: Renewal::new(identity, Arc::clone(&store), rand::random()),
            instance: InstanceId::from_bytes(rand::random()),
            calls: Arc::new(Calls {
                services,
                audit,
                metrics,
                memory: Mutex::new(CallMemory::new()),
                leaving: leaving.clone(),
                announced,
            }),
            dialer,
            post_quantum: config.post_quantum,
            zones: zones_now,
            drain_timeout: drain_now,
            leaving,
        });
        Ok(Self {
            config,
            flags,
            store,
            linking,
            links,
            shown,
            zones,
            drain_timeout,
            background,
            stop,
        })
    }

    /// A link to each address that joining gave.
    fn dial_all(&self) -> JoinSet<Result<(), Revoked>> {
        let mut links = JoinSet::new();
        let identity = self.linking.identity.current();
        let addresses = &identity.membership.addresses;
        if addresses.is_empty() {
            tracing::error!("the identity knows no address to dial; join again");
        }
        for address in addresses.iter().take(MAX_LINKS) {
            let target = Target {
                host: address.host(),
                port: address.port(),
                addresses: Vec::new(),
            };
            let guard = self.links.add(&address.to_string());
            links.spawn(link::run(Arc::clone(&self.linking), target, guard));
        }
        links
    }

    /// Until it is time to leave.
    async fn serve(
        &self,
        links: &mut JoinSet<Result<(), Revoked>>,
        signals: &mut Signals,
    ) -> Result<(), AgentError> {
        let file = self.flags.file().ok().flatten();
        let mut file = file.as_deref().map(FileWatch::new);
        let mut switch = Paused::watch(&self.config.state_dir);
        let mut config = self.config.clone();
        self.follow_switch();
        loop {
            tokio::select! {
                biased;
                told = signals.next() => match told {
                    Told::Leave => {
                        tracing::info!("leaving: no new calls, those that have begun finish");
                        return Ok(());
                    }
                    Told::Reload => {
                        self.follow_switch();
                        self.reload(&mut config);
                    }
                },
                Some(ended) = links.join_next() => match ended {
                    Ok(Err(Revoked)) => return Err(self.revoked()),
                    Ok(Ok(())) => {}
                    Err(error) => {
                        return Err(AgentError::Internal(format!("a link has a bug: {error}")));
                    }
                },
                () = changed(&mut file) => self.reload(&mut config),
                () = switch.changed() => self.follow_switch(),
            }
        }
    }

    fn follow_switch(&self) {
        let paused = Paused::read(&self.config.state_dir);
        self.shown.services.pause(paused);
    }

    /// Takes the file as it is now, whole; a bad one changes nothing.
    fn reload(&self, current: &mut Config) {
        let loaded = crate::config::load(&self.flags, &Sources::SYSTEM)
            .map_err(|error| error.to_string())
            .and_then(|config| {
                let applied = self.shown.services.apply(&config.services);
                applied.map(|()| config).map_err(|error| error.to_string())
            });
        let mut reload_error = self
            .shown
            .reload_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Err(error) => {
                tracing::error!(error, "the changed configuration is not taken");
                *reload_error = Some(error);
            }
            Ok(config) => {
                if needs_restart(current, &config) {
                    tracing::warn!(
                        "state_dir, health_listen, audit, post_quantum, join and log take effect at the next start"
                    );
                }
                set(&self.zones, config.planes.clone());
                set(&self.drain_timeout, config.drain_timeout);
                tracing::info!(
                    services = config.services.len(),
                    "the configuration was taken"
                );
                *current = config;
                *reload_error = None;
            }
        }
    }

    fn revoked(&self) -> AgentError {
        let stored = self.linking.identity.current();
        keep_refusal(
            &self.store,
            Refusal {
                code: "revoked".to_owned(),
                reason: "this identity was revoked; join again with a new token".to_owned(),
                identity: Some(stored.credentials.identity.clone()),
                token_id: stored.membership.token_id,
            },
        )
    }

    /// Leaves: links drain, within their time or until a second signal; then everything ends.
    async fn finish(self, mut links: JoinSet<Result<(), Revoked>>, signals: &mut Signals) {
        self.linking.leaving.cancel();
        let limit = *self.drain_timeout.borrow() + DRAIN_GRACE;
        let drained = async { while links.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = signals.leave() => tracing::warn!("a second signal: calls are cut"),
            done = tokio::time::timeout(limit, drained) => {
                if done.is_err() {
                    tracing::warn!("the drain's time is over: calls are cut");
                }
            }
        }
        links.shutdown().await;
        let goodbyes = self.linking.dialer.goodbyes();
        if tokio::time::timeout(GOODBYES, goodbyes).await.is_err() {
            tracing::debug!("not every replica has heard the goodbye");
        }
        tracing::info!("no link is left");
        self.stop.cancel();
        self.shown.services.stop();
        let Self {
            background,
            linking,
            shown,
            ..
        } = self;
        // The writer of the audit log ends with the last of those who write to it.
        drop((linking, shown));
        background.close();
        if tokio::time::timeout(AFTERMATH, background.wait())
            .await
            .is_err()
        {
            tracing::debug!(tasks = background.len(), "not waited for any longer");
        }
        tracing::debug!("ended");
    }
}

/// Starts what shows the agent: its listener, where there is one, and the first lines once it is up.
fn show(
    shown: &Arc<Overview>,
    listener: Option<(TcpListener, SocketAddr)>,
    background: &TaskTracker,
    stop: &CancellationToken,
) {
    if let Some((listener, addr)) = listener {
        tracing::info!(%addr, "health, metrics and status");
        background.spawn(listen::serve(listener, Arc::clone(shown), stop.clone()));
    }
    let up = present::when_up(Arc::clone(shown), shown.links.serving(), stop.clone());
    background.spawn(up);
}

/// Whether something has changed that is only read at a start.
fn needs_restart(old: &Config, new: &Config) -> bool {
    old.state_dir != new.state_dir
        || old.health_listen != new.health_listen
        || old.audit != new.audit
        || old.post_quantum != new.post_quantum
        || old.log != new.log
}

/// Tells those who listen, if it is something new.
fn set<T: PartialEq>(told: &watch::Sender<T>, value: T) {
    told.send_if_modified(|now| {
        let is_new = *now != value;
        if is_new {
            *now = value;
        }
        is_new
    });
}

async fn changed(file: &mut Option<FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}

impl Shown for Overview {
    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.identity.clone(),
            connector: self.connector.clone(),
            started: self.started.clone(),
            gateway_url: self.gateway_url.clone(),
            draining: self.leaving.is_cancelled(),
            links: self.links.all(),
            services: self.services.overview(),
            audit_lost: self.audit.lost(),
            audit_failing: self.audit.is_failing(),
            reload_error: self
                .reload_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    fn metrics(&self) -> String {
        let paths = self.dialer.totals();
        self.metrics.render(&self.links.all(), &paths, &self.audit)
    }
}
