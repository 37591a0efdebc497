//! The embedded engine: what every engine must do, and what is its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod conformance;

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use conformance::{Bench, conformance};
use culvert_control::store::{RedbStore, StoreError};

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("culvert.redb")
    }
}

impl Bench for File {
    type Store = RedbStore;

    async fn open(&self) -> RedbStore {
        RedbStore::open(&self.path()).await.unwrap()
    }

    async fn open_keeping(&self, tombstones: u64) -> RedbStore {
        RedbStore::open_keeping(&self.path(), tombstones)
            .await
            .unwrap()
    }
}

conformance!(File::new());

#[tokio::test]
async fn the_file_is_its_owners_only() {
    let file = File::new();
    let _store = file.open().await;
    let mode = std::fs::metadata(file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let file = File::new();
    let _store = file.open().await;
    let second = RedbStore::open(&file.path()).await;
    assert!(matches!(second, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let file = File::new();
    std::fs::write(file.path(), b"not a database, but long enough to look at").unwrap();
    assert!(RedbStore::open(&file.path()).await.is_err());
}
