//! The configuration as planes see it: an immutable snapshot, made from signed records and the
//! trust bundle alone, so that a plane without any key of control's makes the same one.

mod build;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_certs::{
    AgentId, AgentIdentity, DenyList, KeyDigest, SignedRecord, TrustBundle,
    name::{ConnectorName, Region, TenantName, Zone},
};
use tokio::time::Instant;

use self::build::Builder;
use crate::{
    control::Control,
    error::ControlError,
    records::Records,
    resource::Allow,
    session_keys::WrappedKey,
    store::{Change, EngineWatch, Entry, Page, Revision, Scope, Watch, WatchError},
};

/// Snapshots are published at most this often: a burst of writes is one.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// How often the store is asked whether it is there, and [`Control::heard_at`] moves on.
const HEAR_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before a store that failed is read again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Everything that a plane needs to know, at one revision. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConfigSnapshot {
    /// The store's revision that this is of; only grows.
    pub revision: Revision,
    /// The authority's epoch.
    pub epoch: u64,
    /// What members believe.
    pub bundle: Arc<TrustBundle>,
    /// Tenants that are neither deleted nor revoked.
    pub tenants: Arc<BTreeSet<TenantName>>,
    /// Their connectors, without the revoked ones.
    pub connectors: Arc<BTreeMap<(TenantName, ConnectorName), ConnectorView>>,
    /// The planes and their regions.
    pub planes: Arc<BTreeMap<Zone, Region>>,
    /// API keys of these tenants by digest, without the revoked ones. Use
    /// [`ConfigSnapshot::key`], which looks at expiry too.
    pub keys: Arc<HashMap<KeyDigest, KeyView>>,
    /// What session ids are sealed under.
    pub session_keys: Arc<SessionKeys>,
    /// Who is refused although its certificate is good.
    pub deny: Arc<DenyList>,
    /// Control's signed words to those whom it revoked.
    pub revocations: Arc<Revocations>,
}

/// Session keys by tenant, newest first.
pub type SessionKeys = BTreeMap<TenantName, Vec<WrappedKey>>;

/// Control's signed words to each that it revoked.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Tenants, and with them all their agents.
    pub tenants: BTreeMap<TenantName, SignedRecord>,
    /// Connectors, and with them all their agents.
    pub connectors: BTreeMap<(TenantName, ConnectorName), SignedRecord>,
    /// Single agents.
    pub agents: BTreeMap<AgentId, SignedRecord>,
}

/// A connector's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorView {
    /// The only names of services that may be offered; `None` for all.
    pub services: Option<BTreeSet<String>>,
    /// Which of its agents serve.
    pub serving: Serving,
    /// The only zones that may serve it; `None` for all.
    pub zones: Option<BTreeSet<Zone>>,
}

/// Which agents of a connector serve; the links of others are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Each that has joined: new ones are approved by themselves, and none is locked.
    Every,
    /// These only: approved, and not locked.
    Only(BTreeSet<AgentId>),
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Whose it is.
    pub tenant: TenantName,
    /// Its name: what logs and records show.
    pub id: String,
    /// What it may call.
    pub allow: Allow,
    /// When it stops working.
    pub expires: Option<SystemTime>,
}

impl ConfigSnapshot {
    /// The key that a caller presented. Unknown, expired and revoked keys look the same.
    #[must_use]
    pub fn key(&self, presented: &str, now: SystemTime) -> Option<&KeyView> {
        let key = self.keys.get(&KeyDigest::of(presented))?;
        key.expires.is_none_or(|end| now < end).then_some(key)
    }

    /// Control's signed word that an agent, its connector or its tenant is revoked: what the
    /// refused agent is shown.
    #[must_use]
    pub fn revocation(&self, agent: &AgentIdentity) -> Option<&SignedRecord> {
        let connector = (agent.tenant.clone(), agent.connector.clone());
        let revocations = &self.revocations;
        revocations
            .agents
            .get(&agent.agent)
            .or_else(|| revocations.connectors.get(&connector))
            .or_else(|| revocations.tenants.get(&agent.tenant))
    }
}

impl Control {
    /// Reads the store now and publishes what is there: for those who cannot wait for
    /// [`Control::run`] to hear of it.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn refresh(&self) -> Result<(), ControlError> {
        let bundle = Arc::clone(self.bundle());
        let (snapshot, _) = Feed::read(&self.inner.records, bundle, self.now()).await?;
        self.publish(snapshot);
        Ok(())
    }

    /// Publishes every change, until it is dropped.
    pub(crate) async fn follow(&self) {
        loop {
            let bundle = Arc::clone(self.bundle());
            match Feed::read(&self.inner.records, bundle, self.now()).await {
                Ok((snapshot, feed)) => {
                    self.publish(snapshot);
                    self.follow_feed(feed).await;
                }
                Err(error) => tracing::error!(error = %error, "the configuration cannot be read"),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Until the watch ends: it lagged, or the store is gone.
    async fn follow_feed(&self, mut feed: Feed) {
        let mut published = Instant::now();
        loop {
            match feed.changed(published + PUBLISH_EVERY, self.now()).await {
                Ok(()) => self.publish(feed.snapshot(self.now())),
                Err(FeedError::Quiet) => match self.inner.records.list(&Scope::All, ONE).await {
                    Ok(_) => self.hear(),
                    Err(error) => tracing::warn!(error = %error, "the store does not answer"),
                },
                Err(FeedError::Watch(WatchError::Lagged)) => return,
                Err(FeedError::Watch(WatchError::Closed)) => {
                    tracing::error!("the store was closed, the configuration stays as it is");
                    return;
                }
            }
            published = Instant::now();
        }
    }

    /// The version that is published only grows.
    fn publish(&self, snapshot: ConfigSnapshot) {
        self.hear();
        self.inner.published.send_if_modified(|current| {
            let newer = snapshot.revision >= current.revision;
            if newer {
                *current = Arc::new(snapshot);
            }
            newer
        });
    }

    /// That the store still answers is no news to who follows the configuration.
    fn hear(&self) {
        self.inner.heard_at.send_replace(self.now());
    }
}

const ONE: Page = Page {
    after: None,
    limit: 1,
};

/// The records that make a snapshot, and the watch that keeps them so.
#[derive(Debug)]
pub(crate) struct Feed {
    builder: Builder,
    watch: EngineWatch,
}

/// Why there is no change to publish.
#[derive(Debug)]
enum FeedError {
    /// Nothing happened for [`HEAR_EVERY`].
    Quiet,
    Watch(WatchError),
}

impl Feed {
    /// Reads everything, and watches from there.
    pub(crate) async fn read(
        records: &Records,
        bundle: Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<(ConfigSnapshot, Self), ControlError> {
        let mut builder = Builder::new(bundle);
        let mut revision = None;
        for kind in Builder::KINDS {
            let (at, found) = records.list_all(&Scope::Kind(kind)).await?;
            revision.get_or_insert(at);
            for record in found {
                builder.set(record);
            }
        }
        let revision = revision.unwrap_or(Revision::ZERO);
        builder.reached(revision);
        let watch = records.watch(&Scope::All, revision).await?;
        let feed = Self { builder, watch };
        Ok((feed.snapshot(now), feed))
    }

    /// Waits for a change that planes see, and takes in what follows until `publish_at`.
    async fn changed(&mut self, publish_at: Instant, now: SystemTime) -> Result<(), FeedError> {
        let quiet_at = Instant::now() + HEAR_EVERY;
        loop {
            let change = tokio::time::timeout_at(quiet_at, self.watch.next()).await;
            let change = change.map_err(|_| FeedError::Quiet)?;
            if self.apply(change.map_err(FeedError::Watch)?, now) {
                break;
            }
        }
        while let Ok(more) = tokio::time::timeout_at(publish_at, self.watch.next()).await {
            self.apply(more.map_err(FeedError::Watch)?, now);
        }
        Ok(())
    }

    /// Takes a change in. Whether planes see it: the audit log alone makes no new snapshot.
    fn apply(&mut self, change: Change, now: SystemTime) -> bool {
        let Change {
            key,
            revision,
            value,
        } = change;
        self.builder.reached(revision);
        let seen = Builder::KINDS.contains(&key.kind);
        match value {
            Some(value) if seen => self.builder.set_entry(Entry {
                key,
                revision,
                value,
            }),
            None if seen => self.builder.remove(&key, now),
            Some(_) | None => {}
        }
        seen
    }

    fn snapshot(&self, now: SystemTime) -> ConfigSnapshot {
        self.builder.snapshot(now)
    }
}
