//! A control plane in a temporary folder, with a clock that tests set.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use culvert_certs::{
    ConnectorName, Credentials, JoinAnswer, JoinRequest, JoinToken, KeyPair, TenantName,
};
use culvert_control::{
    Actor, AuthorityKey, Clock, ConfigSnapshot, Control, ControlConfig, ControlError, Places,
    audit::{AuditEvent, AuditQuery, Outcome},
    documents::{Precondition, Put},
    resource::{Document, ResourceKind},
    store::RedbStore,
    tokens::TOKEN_LIFETIME,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SOURCE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    4711,
);

/// A folder, a clock, and what makes a control of them.
pub(crate) struct World {
    folder: tempfile::TempDir,
    now: Arc<Mutex<SystemTime>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        Self {
            folder,
            now: Arc::new(Mutex::new(start)),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        *self.now.lock().unwrap()
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn config(&self) -> ControlConfig {
        let key = AuthorityKey::from_file(&self.path("authority.key"), true).unwrap();
        let domain = "culvert.test".parse().unwrap();
        let now = Arc::clone(&self.now);
        let clock = Clock::new(move || *now.lock().unwrap());
        let config = ControlConfig::embedded(&self.path("culvert.redb"), key, domain).await;
        ControlConfig {
            clock,
            ..config.unwrap()
        }
    }

    /// Opens control, anew or again.
    pub(crate) async fn open(&self) -> Control {
        let control = Control::open(self.config().await).await.unwrap();
        let addresses = vec!["gateway.test:8443".parse().unwrap()];
        control.announce(Places {
            addresses,
            dns_suffixes: vec!["gateway.test".into()],
            gateway_url: None,
        });
        control
    }

    /// As [`World::open`], with a tenant and a connector.
    pub(crate) async fn with_connector(&self) -> Control {
        let control = self.open().await;
        put(&control, tenant_document(json!({}))).await.unwrap();
        put(&control, connector_document(json!({}))).await.unwrap();
        control
    }

    /// The store itself, while control is not open.
    pub(crate) async fn store(&self) -> RedbStore {
        RedbStore::open(&self.path("culvert.redb")).await.unwrap()
    }
}

pub(crate) fn acme() -> TenantName {
    "acme".parse().unwrap()
}

pub(crate) fn dev() -> ConnectorName {
    "dev".parse().unwrap()
}

pub(crate) fn operator() -> Actor {
    Actor::new("admin-key", "ops").from(Some(SOURCE))
}

pub(crate) fn spec(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(crate) fn tenant_document(value: Value) -> Document {
    let document = Document::new(ResourceKind::Tenant, None, "acme").unwrap();
    Document {
        spec: spec(value),
        ..document
    }
}

pub(crate) fn connector_document(value: Value) -> Document {
    let document = Document::new(ResourceKind::Connector, Some(acme()), "dev").unwrap();
    Document {
        spec: spec(value),
        ..document
    }
}

pub(crate) async fn put(control: &Control, document: Document) -> Result<Put, ControlError> {
    control
        .put_document(&operator(), document, Precondition::None)
        .await
}

pub(crate) async fn mint(control: &Control) -> JoinToken {
    let minted = control
        .mint_connector_token(&operator(), &acme(), &dev(), TOKEN_LIFETIME)
        .await;
    minted.unwrap().text.expose().parse().unwrap()
}

/// A request of the token's bearer, and its key.
pub(crate) fn request(token: &JoinToken) -> (JoinRequest, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (JoinRequest::new(token, key.csr().unwrap()).unwrap(), key)
}

/// A member of `acme/dev`.
pub(crate) async fn join(world: &World, control: &Control) -> Credentials {
    let token = mint(control).await;
    let (request, key) = request(&token);
    let answer: JoinAnswer = control.join(&request, SOURCE).await.unwrap();
    answer.into_credentials(&token, key, world.now()).unwrap()
}

/// Reasons of all refusals of an action, oldest first.
pub(crate) async fn refusals(control: &Control, action: &str) -> Vec<String> {
    let events = audit(control).await;
    let refused = events
        .into_iter()
        .filter(|event| event.outcome == Outcome::Refused && event.action == action);
    refused.map(|event| event.reason.unwrap()).collect()
}

pub(crate) async fn audit(control: &Control) -> Vec<AuditEvent> {
    let since = SystemTime::UNIX_EPOCH;
    let query = AuditQuery {
        tenant: None,
        since,
        after: None,
        limit: None,
    };
    let mut events = control.audit(query).await.unwrap().0;
    events.sort_by(|a, b| a.ts.cmp(&b.ts));
    events
}

/// A control whose work runs until this is dropped.
pub(crate) struct Running {
    pub(crate) control: Control,
    shutdown: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

impl Running {
    pub(crate) fn start(control: Control) -> Self {
        let (shutdown, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        let (running, stop) = (control.clone(), shutdown.clone());
        tasks.spawn(async move { running.run(stop).await });
        Self {
            control,
            shutdown,
            tasks,
        }
    }

    pub(crate) async fn stop(mut self) -> Control {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.control
    }
}

/// Waits until a snapshot is as wanted.
pub(crate) async fn until(
    control: &Control,
    wanted: impl FnMut(&Arc<ConfigSnapshot>) -> bool,
) -> Arc<ConfigSnapshot> {
    let mut snapshots = control.snapshot();
    let found = tokio::time::timeout(PATIENCE, snapshots.wait_for(wanted)).await;
    found.expect("no such snapshot in time").unwrap().clone()
}
