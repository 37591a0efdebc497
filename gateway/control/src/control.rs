//! Control itself: what its parts share, opening it, and its long-running work.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use bytes::Bytes;
use culvert_certs::{Authority, HostPort, TrustBundle, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    at_rest::AuthorityKey,
    audit::Audit,
    clock::Clock,
    error::ControlError,
    records::Records,
    snapshot::{ConfigSnapshot, Feed},
    store::{Engine, Expected, Key, Kind, RedbStore, Store, StoreError},
    sweep,
};

/// The name of the one stored authority.
const AUTHORITY: &str = "current";

/// The control plane: keeps configuration and the authority. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) records: Records,
    pub(crate) audit: Audit,
    pub(crate) clock: Clock,
    pub(crate) places: RwLock<Places>,
    pub(crate) published: watch::Sender<Arc<ConfigSnapshot>>,
    /// Apart from what is published: it moves on every few seconds.
    pub(crate) heard_at: watch::Sender<SystemTime>,
}

/// Where members find the planes; written into tokens and answers to joining.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Where a plane can be reached.
    pub addresses: Vec<HostPort>,
    /// Under which names planes may be announced to agents later.
    pub dns_suffixes: Vec<String>,
    /// Where callers reach the gateway: agents show it to people.
    pub gateway_url: Option<String>,
}

/// What control needs to open.
#[derive(Debug)]
pub struct ControlConfig {
    /// Where everything is kept.
    pub engine: Engine,
    /// What opens the authority.
    pub authority_key: AuthorityKey,
    /// The world that a first start creates, and that a later one must find.
    pub trust_domain: TrustDomain,
    /// Where time comes from.
    pub clock: Clock,
}

impl ControlConfig {
    /// The configuration of a control whose store is one file.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub async fn embedded(
        store: &Path,
        authority_key: AuthorityKey,
        trust_domain: TrustDomain,
    ) -> Result<Self, OpenError> {
        let engine = Engine::Redb(RedbStore::open(store).await?);
        Ok(Self {
            engine,
            authority_key,
            trust_domain,
            clock: Clock::system(),
        })
    }
}

/// Why control did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store cannot be opened or read.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// The authority cannot be made, or not be opened with this authority key.
    #[error("the authority cannot be made, or not be opened with this authority key")]
    Authority(#[from] culvert_certs::AuthorityError),
    /// The store belongs to another world than the configuration.
    #[error("the store is of trust domain {0}, not of the configured one")]
    OtherTrustDomain(TrustDomain),
    /// What is stored cannot be read.
    #[error("the configuration cannot be read from the store")]
    Read(#[from] ControlError),
}

impl Control {
    /// Opens the authority (a first start makes one) and reads the configuration.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing has changed then, but for the authority of a first start.
    pub async fn open(config: ControlConfig) -> Result<Self, OpenError> {
        let ControlConfig {
            engine,
            authority_key,
            trust_domain,
            clock,
        } = config;
        let authority = open_authority(&engine, &authority_key, trust_domain, clock.now()).await?;
        let bundle = Arc::clone(authority.bundle());
        let records = Records::new(engine, authority).await?;
        let (snapshot, _) = Feed::read(&records, bundle, clock.now()).await?;
        let heard_at = watch::Sender::new(clock.now());
        Ok(Self {
            inner: Arc::new(Inner {
                records,
                audit: Audit::default(),
                clock,
                heard_at,
                places: RwLock::default(),
                published: watch::Sender::new(Arc::new(snapshot)),
            }),
        })
    }

    /// Follows the store and sweeps it, until `shutdown`. Without it nothing is published but
    /// what [`Control::open`] and [`Control::refresh`] read.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
            () = sweep::every_hour(self) => {}
        }
    }

    /// The configuration as it stands, and as it changes while [`Control::run`] runs.
    #[must_use]
    pub fn snapshot(&self) -> watch::Receiver<Arc<ConfigSnapshot>> {
        self.inner.published.subscribe()
    }

    /// When the store was last heard; moves on every few seconds while [`Control::run`] runs.
    #[must_use]
    pub fn heard_at(&self) -> watch::Receiver<SystemTime> {
        self.inner.heard_at.subscribe()
    }

    /// What members believe.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        self.inner.records.authority().bundle()
    }

    /// The world of this control.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.inner.records.authority().trust_domain()
    }

    /// Says where planes can be reached. Tokens cannot be minted before.
    pub fn announce(&self, places: Places) {
        *self
            .inner
            .places
            .write()
            .unwrap_or_else(PoisonError::into_inner) = places;
    }

    pub(crate) fn places(&self) -> Places {
        let places = self.inner.places.read();
        places.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }
}

/// The stored authority, or a new one. Of several first starts at once, one makes it.
async fn open_authority(
    engine: &Engine,
    sealing: &AuthorityKey,
    trust_domain: TrustDomain,
    now: SystemTime,
) -> Result<Authority, OpenError> {
    let key = Key::global(Kind::Authority, AUTHORITY).map_err(ControlError::from)?;
    let sealed = match engine.get(&key).await? {
        Some(entry) => entry.value,
        None => {
            let new = Authority::create(trust_domain.clone(), now)?;
            let sealed = Bytes::from(sealing.seal(&new)?);
            match engine.put_if(&key, Expected::Absent, sealed.clone()).await {
                Ok(_) => {
                    tracing::info!(trust_domain = %trust_domain, "made a new authority");
                    sealed
                }
                Err(StoreError::Conflict { .. }) => {
                    let winner = engine.get(&key).await?;
                    winner.map(|entry| entry.value).unwrap_or_default()
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let authority = sealing.open(&sealed)?;
    if *authority.trust_domain() != trust_domain {
        return Err(OpenError::OtherTrustDomain(
            authority.trust_domain().clone(),
        ));
    }
    Ok(authority)
}
