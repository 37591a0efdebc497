//! The keys under which planes seal the session ids of a tenant's callers: made here, kept wrapped
//! for the planes, and replaced while the sessions of the old ones last.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use culvert_certs::{SessionKey, SessionKeyId, name::TenantName};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    at_rest::PlaneKey,
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    records::Record,
    resource::Timestamp,
    retire::moment,
    snapshot::ConfigSnapshot,
    store::{Expected, Key, Kind, Scope},
};

/// How long a sealed session id is good.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How old a key becomes before another one takes its place.
const ROTATE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long after its successor was due a key may still be sealed with: until somebody looks,
/// until the successor has settled, and an hour for planes that hear of it late.
const SEALED_LATE: Duration =
    Duration::from_secs(LOOK_EVERY.as_secs() + SETTLES_IN.as_secs() + 3600);

/// How long a key is kept: for the last session that was sealed under it.
pub(crate) const KEEP: Duration = Duration::from_secs(
    ROTATE_AFTER.as_secs() + SEALED_LATE.as_secs() + SESSION_LIFETIME.as_secs(),
);

/// A younger key is not sealed with while there is an older one: other replicas may not have it.
const SETTLES_IN: Duration = Duration::from_secs(60);

/// How often it is looked whether a key has become old.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// How long to wait after the store has failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A session key as planes get it: wrapped, for whoever has a plane's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// What sealed ids name it by.
    pub id: SessionKeyId,
    made: SystemTime,
    /// By the name of the plane key.
    wrapped: BTreeMap<String, Vec<u8>>,
}

/// What is stored of a session key.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSessionKey {
    made: String,
    /// Base64, by the name of the plane key.
    wrapped: BTreeMap<String, String>,
}

impl WrappedKey {
    /// The key, for a plane that it was wrapped for.
    #[must_use]
    pub fn open(&self, tenant: &TenantName, plane: &PlaneKey) -> Option<SessionKey> {
        let under = plane.sealing_key();
        let wrapped = self.wrapped.get(&under.id().to_string())?;
        match SessionKey::unwrap(tenant, self.id, under, wrapped) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!(%tenant, key = %self.id, %error, "a session key cannot be opened");
                None
            }
        }
    }

    /// Of keys in the order of a snapshot, newest first, the one that a plane seals with.
    #[must_use]
    pub fn current<'a>(keys: &'a [Self], plane: &PlaneKey, now: SystemTime) -> Option<&'a Self> {
        let mut usable = keys.iter().filter(|key| key.is_for(plane));
        let settled = usable.clone().find(|key| now >= key.made + SETTLES_IN);
        settled.or_else(|| usable.next_back())
    }

    fn is_for(&self, plane: &PlaneKey) -> bool {
        let named = plane.sealing_key().id().to_string();
        self.wrapped.contains_key(&named)
    }

    /// What a record says; nothing where it cannot be read.
    pub(crate) fn read(record: &Record) -> Option<Self> {
        let stored: StoredSessionKey = record.parse().ok()?;
        let decode = |(name, text): (String, String)| {
            let wrapped = BASE64.decode(text.as_bytes()).ok()?;
            Some((name, wrapped))
        };
        Some(Self {
            id: record.key.name.as_str().parse().ok()?,
            made: moment(&stored.made)?,
            wrapped: stored.wrapped.into_iter().filter_map(decode).collect(),
        })
    }

    /// When it was made.
    pub(crate) fn made(&self) -> SystemTime {
        self.made
    }
}

impl Control {
    /// Sees to it that each tenant has a session key that `plane` can open: a new tenant at once,
    /// another one in time before the old one ends. For ever.
    pub async fn keep_session_keys(&self, plane: PlaneKey) {
        let mut config = self.snapshot();
        loop {
            config.mark_unchanged();
            let wait = match self.mint_session_keys(&plane).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "session keys cannot be made");
                    RETRY_AFTER
                }
            };
            tokio::select! {
                changed = config.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Makes a session key for each tenant that has none which `plane` can open, or an old one.
    ///
    /// # Errors
    /// Where the store fails; the tenants before that have theirs.
    pub async fn mint_session_keys(&self, plane: &PlaneKey) -> Result<(), ControlError> {
        let snapshot = self.inner.published.borrow().clone();
        self.mint_session_keys_missing_in(&snapshot, plane).await
    }

    /// The same, by a snapshot that may be old: what the store has meanwhile is not made again.
    ///
    /// # Errors
    /// As [`Self::mint_session_keys`].
    pub async fn mint_session_keys_missing_in(
        &self,
        snapshot: &ConfigSnapshot,
        plane: &PlaneKey,
    ) -> Result<(), ControlError> {
        let now = self.now();
        let mut is_behind = false;
        for tenant in snapshot.tenants.iter() {
            let keys = snapshot.session_keys.get(tenant);
            let serves = |key: &WrappedKey| key.is_for(plane) && now < key.made + ROTATE_AFTER;
            if keys.into_iter().flatten().any(serves) {
                continue;
            }
            if !self.stored_session_keys(tenant).await?.iter().any(serves) {
                self.mint_session_key(tenant, plane).await?;
            }
            is_behind = true;
        }
        if is_behind {
            self.refresh().await?;
        }
        Ok(())
    }

    async fn stored_session_keys(
        &self,
        tenant: &TenantName,
    ) -> Result<Vec<WrappedKey>, ControlError> {
        let scope = Scope::Tenant(Kind::SessionKey, tenant.as_str().parse()?);
        let (_, records) = self.inner.records.list_all(&scope).await?;
        Ok(records.iter().filter_map(WrappedKey::read).collect())
    }

    async fn mint_session_key(
        &self,
        tenant: &TenantName,
        plane: &PlaneKey,
    ) -> Result<(), ControlError> {
        let key = SessionKey::generate();
        let under = plane.sealing_key();
        let wrapped = key
            .wrap(tenant, under)
            .map_err(|error| ControlError::Make("a session key", error.into()))?;
        let stored = StoredSessionKey {
            made: Timestamp::from(self.now()).to_string(),
            wrapped: BTreeMap::from([(under.id().to_string(), BASE64.encode(&wrapped))]),
        };
        let name = key.id().to_string();
        let place = Key::of_tenant(Kind::SessionKey, tenant.as_str(), &name)?;
        self.inner
            .records
            .put(&place, Expected::Absent, &stored)
            .await?;
        let about = Subject::new(Some(tenant), "session-key", &name);
        self.done(&Actor::control(), "session-key.mint", about)
            .await;
        Ok(())
    }
}

const _: () = assert!(SETTLES_IN.as_secs() < ROTATE_AFTER.as_secs());
const _: () = assert!(
    KEEP.as_secs() > ROTATE_AFTER.as_secs() + LOOK_EVERY.as_secs() + SESSION_LIFETIME.as_secs()
);
