//! Where control keeps what it knows: a small versioned key-value store with watch.
//!
//! The contract is what an embedded database and NATS JetStream key-value can both honour:
//!
//! - **Revisions** are global to a store and only grow: of two writes, whichever keys they were
//!   to, the later one has the larger revision. A reopened store goes on where it was.
//! - **Writes are compare-and-set.** A caller says which version it saw ([`Expected`]); of any
//!   number of callers that saw the same version exactly one wins, the others get
//!   [`StoreError::Conflict`]. A write that has returned survives a crash.
//! - **A watch has no gaps**: it yields, in the order of their revisions, the last change of every
//!   key in scope that changed after the revision it started from, deletes included. It may skip
//!   a version that was already overwritten when the watcher came to it. Its queue is bounded; a
//!   watcher that fell behind what the store still knows gets [`WatchError::Lagged`] once, and
//!   lists again.
//! - A **listing** is one consistent view and names its revision, so that list-then-watch from
//!   that revision misses nothing.

mod engine;
mod key;
mod redb;

use std::future::Future;

use bytes::Bytes;

pub use self::{
    engine::{Engine, EngineWatch},
    key::{InvalidKey, Key, Kind, Scope, Segment},
    redb::{KEEP_TOMBSTONES, RedbStore, RedbWatch},
};

/// Largest value in bytes: a quarter of what NATS takes in one message by default.
pub const MAX_VALUE: usize = 256 * 1024;

/// Most entries in one page of a listing: what an admin client can show, at most 16 MiB of
/// typical documents.
pub const MAX_PAGE: usize = 1_000;

/// A versioned key-value store. See the module's documentation for what it promises.
pub trait Store: Send + Sync + 'static {
    /// The changes of a scope, in the order of their revisions.
    type Watch: Watch;

    /// The current entry of `key`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// One page of the entries of `scope` in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn list(
        &self,
        scope: &Scope,
        page: Page,
    ) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Writes `value` if the entry is still what `expected` says, and returns its revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it is not, [`StoreError::TooLarge`] above [`MAX_VALUE`],
    /// else as [`Store::get`].
    fn put_if(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Deletes the entry if its revision is still `expected`, and returns the delete's revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it is not, else as [`Store::get`].
    fn delete_if(
        &self,
        key: &Key,
        expected: Revision,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// The changes of `scope` with a revision above `after`, those that already happened first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]. A revision from which the store can no longer tell every
    /// delete is not an error here: the watch's first answer is [`WatchError::Lagged`].
    fn watch(
        &self,
        scope: &Scope,
        after: Revision,
    ) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;
}

/// The receiving end of [`Store::watch`].
pub trait Watch: Send + 'static {
    /// The next change; waits until there is one. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] or [`WatchError::Closed`]; the watch is over after either.
    fn next(&mut self) -> impl Future<Output = Result<Change, WatchError>> + Send;
}

/// A store-wide version number; 0 is before the first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Self = Self(0);

    /// The revision of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a writer believes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: never written, or deleted.
    Absent,
    /// The entry of this revision.
    At(Revision),
}

/// One stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub key: Key,
    /// The write that made it.
    pub revision: Revision,
    /// Its bytes; the store never looks inside.
    pub value: Bytes,
}

/// Which part of a listing is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only keys after this one.
    pub after: Option<Key>,
    /// At most so many, clamped to [`MAX_PAGE`].
    pub limit: usize,
}

impl Page {
    /// The first page, as long as pages get.
    pub const FIRST: Self = Self {
        after: None,
        limit: MAX_PAGE,
    };

    /// The page after `key`, as long as pages get.
    #[must_use]
    pub const fn after(key: Key) -> Self {
        Self {
            after: Some(key),
            limit: MAX_PAGE,
        }
    }
}

/// A consistent view of one page.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The store's revision in this view.
    pub revision: Revision,
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
    /// Where the next page starts, if there is one.
    pub next: Option<Key>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: Key,
    /// The revision of the write or delete.
    pub revision: Revision,
    /// The new value, `None` for a delete.
    pub value: Option<Bytes>,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else wrote first (the caller's view is old): read again and decide again.
    #[error("the entry has changed since it was read")]
    Conflict {
        /// What is there now; `None` if nothing is.
        current: Option<Revision>,
    },
    /// The caller's value is above [`MAX_VALUE`].
    #[error("the value has {0} bytes, at most {MAX_VALUE} can be stored")]
    TooLarge(usize),
    /// The store cannot be reached or written now; the same call may succeed later.
    #[error("the store is not available")]
    Unavailable(#[source] BoxedError),
    /// What was read is not what this program wrote.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// The cause under a [`StoreError::Unavailable`].
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The watcher is behind what the store still knows: list, then watch from the listing.
    #[error("the watch fell behind: list again")]
    Lagged,
    /// The store was closed, or cannot be read any more.
    #[error("the store is closed")]
    Closed,
}

/// Every entry of `scope`, page by page, and the revision of the first page: a watch from there
/// repeats what changed while later pages were read.
///
/// # Errors
/// As [`Store::list`].
pub async fn list_all<S: Store>(
    store: &S,
    scope: &Scope,
) -> Result<(Revision, Vec<Entry>), StoreError> {
    let mut page = store.list(scope, Page::FIRST).await?;
    let revision = page.revision;
    let mut entries = std::mem::take(&mut page.entries);
    while let Some(after) = page.next.take() {
        page = store.list(scope, Page::after(after)).await?;
        entries.append(&mut page.entries);
    }
    Ok((revision, entries))
}
