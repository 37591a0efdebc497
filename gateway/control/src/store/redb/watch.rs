//! The watch of the embedded engine: a place in the table of changes, and a bell.

use std::{collections::VecDeque, sync::Arc};

use ::redb::Database;
use tokio::sync::watch::Receiver;

use super::{
    super::{Change, Revision, Scope, Watch, WatchError},
    blocking,
    tables::{self, Batch},
};

/// Changes of a scope of a [`super::RedbStore`].
#[derive(Debug)]
pub struct RedbWatch {
    database: Arc<Database>,
    head: Receiver<Revision>,
    scope: Scope,
    /// Everything up to here was yielded or is in `ready`.
    stand: Revision,
    /// At most one batch.
    ready: VecDeque<Change>,
}

impl RedbWatch {
    pub(super) fn new(
        database: Arc<Database>,
        head: Receiver<Revision>,
        scope: Scope,
        after: Revision,
    ) -> Self {
        Self {
            database,
            head,
            scope,
            stand: after,
            ready: VecDeque::new(),
        }
    }

    async fn look(&mut self) -> Result<(), WatchError> {
        let (database, scope, stand) = (Arc::clone(&self.database), self.scope.clone(), self.stand);
        let batch = blocking(move || tables::batch(&database, &scope, stand)).await;
        match batch {
            Ok(Batch::Changes(changes, stand)) => {
                self.ready.extend(changes);
                self.stand = stand;
                Ok(())
            }
            Ok(Batch::Forgotten) => Err(WatchError::Lagged),
            Err(error) => {
                tracing::error!(error = %error, "a watch cannot read the store");
                Err(WatchError::Closed)
            }
        }
    }
}

impl Watch for RedbWatch {
    async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            // The bell may be answered by a call that is then dropped; what counts is where the
            // store is. So: look while it is ahead, and only then wait for it to ring.
            if *self.head.borrow_and_update() > self.stand {
                self.look().await?;
            } else {
                self.head.changed().await.map_err(|_| WatchError::Closed)?;
            }
        }
    }
}
