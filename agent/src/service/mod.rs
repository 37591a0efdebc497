//! The services as they run: what a call meets, and what is offered for each.

mod discover;
mod load;
mod probe;
mod table;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_wire::{BackendLoad, ServiceHealth, ServiceName, ServiceOffer, ServiceState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use table::{Services, SetupError};

use crate::backend::{Backends, Endpoint, Ground, Standing, TlsSetupError};
use crate::caller::CallerCheck;
use crate::config::{ServiceDef, ServiceKind};
use crate::judge::Holding;
use crate::policy::{NamePattern, Rules, ToolPolicy};
use crate::queue::Gate;
use crate::stdio::Stdio;

/// One service of the file, running.
#[derive(Debug)]
pub struct Service {
    /// What the file says.
    pub def: ServiceDef,
    /// Its name on the wire.
    pub name: ServiceName,
    /// Its backends.
    pub backends: Backends,
    /// The server that the agent runs itself, in the place of backends.
    pub stdio: Option<Arc<Stdio>>,
    /// How many calls at once.
    pub gate: Gate,
    /// Which tools can be called, where the file says anything about them.
    pub tools: Option<Arc<ToolPolicy>>,
    /// Whose token has to come with a call, where the file says so.
    pub caller: Option<Arc<CallerCheck>>,
    /// What is held of requests that are judged.
    pub(crate) holding: Holding,
    digest: [u8; 32],
    found: Mutex<Found>,
    changes: Changes,
}

/// What probes have found out last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Found {
    rounds: u64,
    models: Option<Vec<String>>,
    load: Option<BackendLoad>,
}

/// Told whenever something that is offered or reported may have changed.
#[derive(Clone, Debug)]
pub(crate) struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    fn tell(&self) {
        self.0.send_modify(|n| *n += 1);
    }
}

impl Service {
    fn new(
        def: ServiceDef,
        (ground, stop): (&Ground, &CancellationToken),
        holding: Holding,
        changes: Changes,
        before: Option<&Self>,
    ) -> Result<Self, SetupError> {
        // The same backends are as they were, and have what they had, until a probe says else.
        let same = before.filter(|old| old.def.kind == def.kind && old.def.urls == def.urls);
        // Calls of the old definition go on, and count.
        let gate = before.filter(|old| old.def.limits == def.limits);
        let setup = |error: TlsSetupError| SetupError::Tls(def.name.clone(), error);
        Ok(Self {
            name: ServiceName::new(&def.name).map_err(|_| SetupError::Name(def.name.clone()))?,
            backends: Backends::new(&def, ground, same.map(|old| &old.backends)).map_err(setup)?,
            stdio: stdio(&def, ground, stop, before),
            gate: gate.map_or_else(|| Gate::new(def.limits), |old| old.gate.clone()),
            caller: match &def.require_caller {
                Some(rule) => {
                    let before = before.and_then(|old| old.caller.as_ref());
                    Some(CallerCheck::begin(rule, ground, before).map_err(setup)?)
                }
                None => None,
            },
            tools: tools(&def, same),
            holding,
            digest: digest(&def),
            found: Mutex::new(same.map(Self::found).unwrap_or_default()),
            changes,
            def,
        })
    }

    /// It is replaced by `next`, if by any: the server that it runs ends with its calls, unless
    /// that is the next one's too.
    fn retire(&self, next: Option<&Arc<Self>>) {
        if let Some(stdio) = &self.stdio {
            let goes_on = next.and_then(|next| next.stdio.as_ref());
            if !goes_on.is_some_and(|next| Arc::ptr_eq(next, stdio)) {
                stdio.stop();
            }
        }
    }

    /// Whether its backends answer: up where one does.
    pub fn state(&self) -> ServiceState {
        let mut state = ServiceState::Down;
        for endpoint in self.endpoints() {
            match endpoint.standing() {
                Standing::Up => return ServiceState::Up,
                Standing::Unknown => state = ServiceState::Unknown,
                Standing::Down => {}
            }
        }
        state
    }

    /// What is known of each of its backends, or of its server.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let backends = self.backends.iter().map(|backend| &backend.endpoint);
        backends.chain(self.stdio.iter().map(|stdio| stdio.endpoint()))
    }

    /// Resolves when a call could not be brought to one of them.
    async fn troubled(&self) {
        match &self.stdio {
            Some(stdio) => stdio.troubled().await,
            None => self.backends.troubled().await,
        }
    }

    /// Its models: those of the file, else those found.
    pub fn models(&self) -> Vec<String> {
        match &self.def.models {
            Some(models) => models.clone(),
            None => self.found().models.unwrap_or_default(),
        }
    }

    /// The load that its backends publish.
    pub fn load(&self) -> Option<BackendLoad> {
        self.found().load
    }

    /// Whether it was probed since it began.
    pub fn is_probed(&self) -> bool {
        self.found().rounds > 0
    }

    /// The mean of its backends' usual times to the head of an answer.
    pub fn latency(&self) -> Duration {
        let known = self.endpoints().map(|endpoint| endpoint.latency());
        let known: Vec<Duration> = known.filter(|latency| !latency.is_zero()).collect();
        let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
        known
            .iter()
            .sum::<Duration>()
            .checked_div(count)
            .unwrap_or_default()
    }

    fn offer(&self) -> ServiceOffer {
        ServiceOffer {
            name: self.name.clone(),
            kind: match self.def.kind {
                ServiceKind::Model => culvert_wire::ServiceKind::Model,
                ServiceKind::Mcp => culvert_wire::ServiceKind::Mcp,
                ServiceKind::Http => culvert_wire::ServiceKind::Http,
            },
            models: self.models(),
            digest: self.digest,
        }
    }

    fn health(&self) -> ServiceHealth {
        ServiceHealth {
            name: self.name.clone(),
            state: self.state(),
            in_flight: self.gate.in_flight().saturating_add(self.gate.waiting()),
            capacity: self.gate.capacity().unwrap_or(0),
            load: self.load(),
            latency_us: u64::try_from(self.latency().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Keeps what a round has found. Models stay known while no backend answers: the offer
    /// says what is served, health says whether it is up.
    fn publish(&self, models: Option<Vec<String>>, load: Option<BackendLoad>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.rounds += 1;
        if models.is_some() {
            found.models = models;
        }
        found.load = load;
        drop(found);
        self.changes.tell();
    }

    fn found(&self) -> Found {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The policy of the tools; what is known of the tools of the same server stays known.
fn tools(def: &ServiceDef, before: Option<&Service>) -> Option<Arc<ToolPolicy>> {
    let rules = def.tools.as_ref()?;
    let before = before.and_then(|before| before.tools.as_deref());
    Some(Arc::new(ToolPolicy::new(rules.clone(), before)))
}

/// The server that the file wants to be run: the same one, where nothing of it has changed.
fn stdio(
    def: &ServiceDef,
    ground: &Ground,
    stop: &CancellationToken,
    before: Option<&Service>,
) -> Option<Arc<Stdio>> {
    let spec = def.stdio.as_ref()?;
    let same = before.filter(|old| old.def.stdio.as_ref() == Some(spec));
    if let Some(kept) = same.and_then(|old| old.stdio.as_ref()) {
        return Some(Arc::clone(kept));
    }
    let (tasks, stop) = (ground.tasks().clone(), stop.child_token());
    Some(Arc::new(Stdio::new(&def.name, spec.clone(), tasks, stop)))
}

/// SHA-256 over kind, urls or command, policy and the models of the file. Never over secrets: two agents
/// with different keys for the same backend serve the same.
fn digest(def: &ServiceDef) -> [u8; 32] {
    let mut text = format!("{}\n", def.kind);
    let mut add = |key: &str, value: &str| {
        // Lengths keep one list from reading like another.
        let written = writeln!(text, "{key} {} {value}", value.len());
        debug_assert!(written.is_ok());
    };
    for url in &def.urls {
        add("url", &url.text);
        for name in url.base.query_names() {
            add("query", &name);
        }
    }
    if let Some(stdio) = &def.stdio {
        stdio.shown.iter().for_each(|word| add("command", word));
        stdio.env.keys().for_each(|name| add("env", name));
        add("instances", stdio.instances.as_str());
        for (key, value) in [
            (
                "cwd",
                stdio.cwd.as_ref().map(|cwd| cwd.display().to_string()),
            ),
            (
                "user",
                stdio.account.as_ref().map(|account| account.name.clone()),
            ),
        ] {
            value.iter().for_each(|value| add(key, value));
        }
    }
    if let Rules::Http(allow) = &def.rules {
        for entry in allow {
            entry.methods.iter().for_each(|m| add("method", m.as_str()));
            entry.paths.iter().for_each(|p| add("path", &p.to_string()));
            entry.upgrade.iter().for_each(|name| add("upgrade", name));
        }
    }
    if let Some(rule) = &def.require_caller {
        add("issuer", &rule.issuer);
        rule.audience.iter().for_each(|name| add("audience", name));
        for (name, values) in &rule.claims {
            add("claim", name);
            values
                .iter()
                .for_each(|value| add("is", &value.to_string()));
        }
    }
    if let Some(tools) = &def.tools {
        let mut each = |key: &str, list: &[NamePattern]| {
            list.iter().for_each(|name| add(key, &name.to_string()));
        };
        each("tool", &tools.allow);
        each("no tool", &tools.deny);
        add("read only", if tools.read_only { "yes" } else { "no" });
    }
    for model in def.models.iter().flatten() {
        add("model", model);
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

#[cfg(test)]
mod tests;
