//! The closed set of engines, so that control has one type whichever store it runs on.

use bytes::Bytes;

use super::{
    Change, Entry, Expected, Key, Listing, Page, RedbStore, RedbWatch, Revision, Scope, Store,
    StoreError, Watch, WatchError,
};

/// The store of a control plane.
#[derive(Debug)]
#[non_exhaustive]
pub enum Engine {
    /// Embedded in this process.
    Redb(RedbStore),
}

impl Store for Engine {
    type Watch = EngineWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Redb(store) => store.get(key).await,
        }
    }

    async fn list(&self, scope: &Scope, page: Page) -> Result<Listing, StoreError> {
        match self {
            Self::Redb(store) => store.list(scope, page).await,
        }
    }

    async fn put_if(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        match self {
            Self::Redb(store) => store.put_if(key, expected, value).await,
        }
    }

    async fn delete_if(&self, key: &Key, expected: Revision) -> Result<Revision, StoreError> {
        match self {
            Self::Redb(store) => store.delete_if(key, expected).await,
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<EngineWatch, StoreError> {
        match self {
            Self::Redb(store) => store.watch(scope, after).await.map(EngineWatch::Redb),
        }
    }
}

/// The watch of an [`Engine`].
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineWatch {
    /// Of the embedded store.
    Redb(RedbWatch),
}

impl Watch for EngineWatch {
    async fn next(&mut self) -> Result<Change, WatchError> {
        match self {
            Self::Redb(watch) => watch.next().await,
        }
    }
}
