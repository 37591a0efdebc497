//! The embedded engine: one `redb` file, owned by one process.
//!
//! Every change takes the next revision in the same transaction that makes it durable. The table
//! `changes` has one row per key, at the revision of the key's last change; a watch reads it from
//! where it stands, so its queue is a batch of fixed size and nothing is ever pushed at it.
//! Deleted keys stay as tombstones, of which the newest [`KEEP_TOMBSTONES`] are kept.

mod tables;
mod watch;

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use ::redb::{Database, backends::FileBackend};
use bytes::Bytes;
use tokio::sync::{Semaphore, watch::Sender};

use super::{
    BoxedError, Entry, Expected, Key, Listing, MAX_PAGE, MAX_VALUE, Page, Revision, Scope, Store,
    StoreError,
};

pub use self::watch::RedbWatch;

/// How many deletes a watch can be behind before it must list again: hours of a busy fleet's, a
/// few MiB on disk.
pub const KEEP_TOMBSTONES: u64 = 16 * 1024;

/// Page cache of the database in bytes: a fleet's whole configuration fits many times.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// A store in one file.
#[derive(Debug)]
pub struct RedbStore {
    database: Arc<Database>,
    /// One writer at a time: waiting is done here, not on a thread.
    writer: Arc<Semaphore>,
    /// The store's revision, for watches; they end when it goes.
    head: Arc<Sender<Revision>>,
    keep_tombstones: u64,
}

impl RedbStore {
    /// Opens the file, or creates it readable by its owner only. The file is locked: a second
    /// process gets [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_keeping(path, KEEP_TOMBSTONES).await
    }

    /// As [`RedbStore::open`], with another number of deletes that a watch may be behind.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub async fn open_keeping(path: &Path, tombstones: u64) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (database, head) = blocking(move || open_database(&path)).await?;
        Ok(Self {
            database: Arc::new(database),
            writer: Arc::new(Semaphore::new(1)),
            head: Arc::new(Sender::new(head)),
            keep_tombstones: tombstones,
        })
    }

    /// Runs one write transaction and tells the watches. The transaction runs to its end even if
    /// the caller goes away, with the writer's permit.
    async fn write(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<Bytes>,
    ) -> Result<Revision, StoreError> {
        let permit = Arc::clone(&self.writer).acquire_owned().await;
        let permit = permit.map_err(|closed| StoreError::Unavailable(closed.into()))?;
        let (database, head) = (Arc::clone(&self.database), Arc::clone(&self.head));
        let (key, keep) = (key.to_string(), self.keep_tombstones);
        blocking(move || {
            let _permit = permit;
            let written = tables::write(&database, &key, expected, value.as_deref(), keep)?;
            head.send_replace(written);
            Ok(written)
        })
        .await
    }
}

impl Store for RedbStore {
    type Watch = RedbWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let (database, key) = (Arc::clone(&self.database), key.clone());
        blocking(move || tables::read(&database, key)).await
    }

    async fn list(&self, scope: &Scope, page: Page) -> Result<Listing, StoreError> {
        let (database, prefix) = (Arc::clone(&self.database), scope.prefix());
        let limit = page.limit.clamp(1, MAX_PAGE);
        let after = page.after.map(|key| key.to_string());
        blocking(move || tables::list(&database, &prefix, after.as_deref(), limit)).await
    }

    async fn put_if(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge(value.len()));
        }
        self.write(key, expected, Some(value)).await
    }

    async fn delete_if(&self, key: &Key, expected: Revision) -> Result<Revision, StoreError> {
        self.write(key, Expected::At(expected), None).await
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<RedbWatch, StoreError> {
        Ok(RedbWatch::new(
            Arc::clone(&self.database),
            self.head.subscribe(),
            scope.clone(),
            after,
        ))
    }
}

fn open_database(path: &Path) -> Result<(Database, Revision), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(unavailable)?;
    let backend = FileBackend::new(file).map_err(unavailable)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(unavailable)?;
    let head = tables::prepare(&database)?;
    Ok((database, head))
}

/// Runs `work`, which reads or writes the disk, off the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| Err(StoreError::Unavailable(panicked.into())))
}

fn unavailable(cause: impl Into<BoxedError>) -> StoreError {
    StoreError::Unavailable(cause.into())
}
