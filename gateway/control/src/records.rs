//! Signed records over the store: nothing that control reads back is believed without its own
//! signature, so that whoever can write to the store can at most take away.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use culvert_certs::{Authority, RecordHeader, SignedRecord, TrustBundle, name::TenantName};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::ControlError,
    store::{Engine, EngineWatch, Entry, Expected, Key, Page, Revision, Scope, Store, StoreError},
};

/// The store, and the authority that signs what goes into it.
#[derive(Debug)]
pub(crate) struct Records {
    engine: Engine,
    authority: Authority,
    /// The largest revision that was seen: a floor for what is signed next.
    seen: AtomicU64,
}

/// An entry whose signature was checked.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: Key,
    /// Of the entry: what a writer has to expect.
    pub(crate) revision: Revision,
    pub(crate) signed: SignedRecord,
}

/// One page of [`Records::list`].
#[derive(Debug)]
pub(crate) struct RecordPage {
    pub(crate) revision: Revision,
    pub(crate) records: Vec<Record>,
    pub(crate) next: Option<Key>,
}

impl Records {
    pub(crate) async fn new(engine: Engine, authority: Authority) -> Result<Self, StoreError> {
        let page = Page {
            after: None,
            limit: 1,
        };
        let seen = engine.list(&Scope::All, page).await?.revision;
        Ok(Self {
            engine,
            authority,
            seen: AtomicU64::new(seen.get()),
        })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Record>, ControlError> {
        let entry = self.engine.get(key).await?;
        entry
            .map(|entry| verify(entry, self.authority.bundle()))
            .transpose()
    }

    /// One page; entries that control did not sign are left out, loudly.
    pub(crate) async fn list(&self, scope: &Scope, page: Page) -> Result<RecordPage, ControlError> {
        let listing = self.engine.list(scope, page).await?;
        let bundle = self.authority.bundle();
        Ok(RecordPage {
            revision: listing.revision,
            records: listing
                .entries
                .into_iter()
                .filter_map(|e| believed(e, bundle))
                .collect(),
            next: listing.next,
        })
    }

    /// Every record of a scope, and the revision to watch from.
    pub(crate) async fn list_all(
        &self,
        scope: &Scope,
    ) -> Result<(Revision, Vec<Record>), ControlError> {
        let mut page = self.list(scope, Page::FIRST).await?;
        let revision = page.revision;
        let mut records = std::mem::take(&mut page.records);
        while let Some(after) = page.next.take() {
            page = self.list(scope, Page::after(after)).await?;
            records.append(&mut page.records);
        }
        Ok((revision, records))
    }

    pub(crate) async fn put<T: Serialize>(
        &self,
        key: &Key,
        expected: Expected,
        value: &T,
    ) -> Result<Revision, ControlError> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| ControlError::Make("a record", error.into()))?;
        let header = RecordHeader {
            kind: key.kind.word().to_owned(),
            tenant: tenant_of(key)?,
            name: key.name.to_string(),
            revision: self.floor(expected).get(),
            epoch: 0,
        };
        let signed = self
            .authority
            .sign_record(header, payload)
            .map_err(|error| ControlError::Make("a record", error.into()))?;
        let bytes = Bytes::copy_from_slice(signed.as_bytes());
        let revision = self.engine.put_if(key, expected, bytes).await?;
        self.saw(revision);
        Ok(revision)
    }

    pub(crate) async fn delete(&self, key: &Key, seen: Revision) -> Result<Revision, ControlError> {
        let revision = self.engine.delete_if(key, seen).await?;
        self.saw(revision);
        Ok(revision)
    }

    pub(crate) async fn watch(
        &self,
        scope: &Scope,
        after: Revision,
    ) -> Result<EngineWatch, ControlError> {
        Ok(self.engine.watch(scope, after).await?)
    }

    /// The lowest revision at which a record that is signed now can stand. A record cannot name
    /// its own revision, which the store gives out; this one grows with every version of a key,
    /// and is never above the one that the store will give.
    fn floor(&self, expected: Expected) -> Revision {
        match expected {
            Expected::At(revision) => revision.next(),
            Expected::Absent => Revision::new(self.seen.load(Ordering::Relaxed)).next(),
        }
    }

    fn saw(&self, revision: Revision) {
        self.seen.fetch_max(revision.get(), Ordering::Relaxed);
    }
}

impl Record {
    /// The payload as what it must be.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        serde_json::from_slice(self.signed.payload()).map_err(|error| {
            tracing::error!(key = %self.key, error = %error, "a stored record cannot be read");
            ControlError::Forged(self.key.to_string(), None)
        })
    }
}

/// Believes an entry if control signed it, for this very place, and not for a later version of
/// the store or of the authority.
pub(crate) fn verify(entry: Entry, bundle: &TrustBundle) -> Result<Record, ControlError> {
    let forged = |cause| ControlError::Forged(entry.key.to_string(), cause);
    let signed = SignedRecord::verify(&entry.value, bundle).map_err(|e| forged(Some(e)))?;
    let header = signed.header();
    let in_place = header.kind == entry.key.kind.word()
        && header.tenant.as_ref().map(TenantName::as_str) == entry.key.tenant_str()
        && header.name == entry.key.name.as_str()
        && header.revision <= entry.revision.get()
        && header.epoch <= bundle.epoch();
    if !in_place {
        return Err(forged(None));
    }
    Ok(Record {
        key: entry.key,
        revision: entry.revision,
        signed,
    })
}

/// As [`verify`], for readers of many: what is not control's is reported and left out.
pub(crate) fn believed(entry: Entry, bundle: &TrustBundle) -> Option<Record> {
    let key = entry.key.to_string();
    match verify(entry, bundle) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::error!(key, error = %error, "an entry of the store was not written by control");
            None
        }
    }
}

fn tenant_of(key: &Key) -> Result<Option<TenantName>, ControlError> {
    let tenant = key.tenant_str().map(str::parse).transpose();
    tenant.map_err(|error: culvert_certs::name::NameError| {
        ControlError::argument("tenant", error.to_string())
    })
}
