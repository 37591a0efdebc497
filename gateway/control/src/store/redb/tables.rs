//! The tables of the file, and the transactions on them. Everything here blocks.
//!
//! Keys whose kind this build does not know are passed over: a newer version wrote them, for
//! itself.

use ::redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use bytes::Bytes;

use super::{
    super::{Change, Entry, Expected, Key, Listing, Revision, Scope, StoreError},
    unavailable,
};

/// Key to the revision of its last change, and its value unless that was a delete.
const ENTRIES: TableDefinition<'_, &str, (u64, Option<&[u8]>)> = TableDefinition::new("entries");

/// Revision to the key whose last change it is.
const CHANGES: TableDefinition<'_, u64, &str> = TableDefinition::new("changes");

/// The rows of `changes` that are deletes, for finding the oldest.
const TOMBSTONES: TableDefinition<'_, u64, &str> = TableDefinition::new("tombstones");

/// Numbers of the store itself.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// The store's revision.
const HEAD: &str = "head";

/// The newest revision whose delete is forgotten: a watch can start there, not before.
const FORGOTTEN: &str = "forgotten";

/// The layout of these tables.
const FORMAT: &str = "format";

/// The layout that this build writes and reads.
const CURRENT_FORMAT: u64 = 1;

/// How many rows a watch reads at a time; its whole queue.
const BATCH: usize = 256;

/// Creates the tables of a new file, and returns the store's revision.
pub(super) fn prepare(database: &Database) -> Result<Revision, StoreError> {
    let transaction = database.begin_write().map_err(unavailable)?;
    let head = {
        transaction.open_table(ENTRIES).map_err(unavailable)?;
        transaction.open_table(CHANGES).map_err(unavailable)?;
        transaction.open_table(TOMBSTONES).map_err(unavailable)?;
        let mut numbers = transaction.open_table(NUMBERS).map_err(unavailable)?;
        let format = number(&numbers, FORMAT)?;
        if format > CURRENT_FORMAT {
            let text = format!("format {format}, written by a newer version");
            return Err(StoreError::Corrupt(text));
        }
        numbers
            .insert(FORMAT, CURRENT_FORMAT)
            .map_err(unavailable)?;
        number(&numbers, HEAD)?
    };
    transaction.commit().map_err(unavailable)?;
    Ok(Revision::new(head))
}

/// One entry.
pub(super) fn read(database: &Database, key: Key) -> Result<Option<Entry>, StoreError> {
    let transaction = begin_read(database)?;
    let entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
    let row = entries.get(key.to_string().as_str()).map_err(unavailable)?;
    Ok(row.and_then(|row| {
        let (revision, value) = row.value();
        value.map(|value| Entry {
            key,
            revision: Revision::new(revision),
            value: Bytes::copy_from_slice(value),
        })
    }))
}

/// One page of the keys that start with `prefix`, in one view.
pub(super) fn list(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Listing, StoreError> {
    let transaction = begin_read(database)?;
    let numbers = transaction.open_table(NUMBERS).map_err(unavailable)?;
    let mut listing = Listing {
        revision: Revision::new(number(&numbers, HEAD)?),
        entries: Vec::new(),
        next: None,
    };
    let entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
    let start = after.map_or(prefix, |after| after.max(prefix));
    for row in entries.range(start..).map_err(unavailable)? {
        let (key, row) = row.map_err(unavailable)?;
        let (key, (revision, value)) = (key.value(), row.value());
        if !key.starts_with(prefix) {
            break;
        }
        let (Some(value), Ok(name)) = (value.filter(|_| Some(key) != after), key.parse()) else {
            continue;
        };
        if listing.entries.len() == limit {
            listing.next = listing.entries.last().map(|entry| entry.key.clone());
            break;
        }
        listing.entries.push(Entry {
            key: name,
            revision: Revision::new(revision),
            value: Bytes::copy_from_slice(value),
        });
    }
    Ok(listing)
}

/// Writes (or deletes, without `value`) one key, durably, if it is as `expected`.
pub(super) fn write(
    database: &Database,
    key: &str,
    expected: Expected,
    value: Option<&[u8]>,
    keep_tombstones: u64,
) -> Result<Revision, StoreError> {
    let transaction = database.begin_write().map_err(unavailable)?;
    let outcome = change(&transaction, key, expected, value, keep_tombstones);
    match outcome {
        Ok(revision) => {
            transaction.commit().map_err(unavailable)?;
            Ok(revision)
        }
        Err(refused) => {
            transaction.abort().map_err(unavailable)?;
            Err(refused)
        }
    }
}

fn change(
    transaction: &WriteTransaction,
    key: &str,
    expected: Expected,
    value: Option<&[u8]>,
    keep_tombstones: u64,
) -> Result<Revision, StoreError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
    let mut changes = transaction.open_table(CHANGES).map_err(unavailable)?;
    let mut tombstones = transaction.open_table(TOMBSTONES).map_err(unavailable)?;
    let mut numbers = transaction.open_table(NUMBERS).map_err(unavailable)?;

    let last = entries
        .get(key)
        .map_err(unavailable)?
        .map(|row| (row.value().0, row.value().1.is_some()));
    let current = last.and_then(|(revision, lives)| lives.then(|| Revision::new(revision)));
    let as_expected = match expected {
        Expected::Absent => current.is_none(),
        Expected::At(revision) => current == Some(revision),
    };
    if !as_expected {
        return Err(StoreError::Conflict { current });
    }

    if let Some((revision, _)) = last {
        changes.remove(revision).map_err(unavailable)?;
        tombstones.remove(revision).map_err(unavailable)?;
    }
    let revision = Revision::new(number(&numbers, HEAD)?).next();
    entries
        .insert(key, (revision.get(), value))
        .map_err(unavailable)?;
    changes.insert(revision.get(), key).map_err(unavailable)?;
    numbers.insert(HEAD, revision.get()).map_err(unavailable)?;
    if value.is_none() {
        tombstones
            .insert(revision.get(), key)
            .map_err(unavailable)?;
        let forgotten = forget(&mut entries, &mut changes, &mut tombstones, keep_tombstones)?;
        if let Some(forgotten) = forgotten {
            numbers.insert(FORGOTTEN, forgotten).map_err(unavailable)?;
        }
    }
    Ok(revision)
}

/// Drops the oldest tombstones above `keep`, and returns the newest revision that went.
fn forget(
    entries: &mut ::redb::Table<'_, &str, (u64, Option<&[u8]>)>,
    changes: &mut ::redb::Table<'_, u64, &str>,
    tombstones: &mut ::redb::Table<'_, u64, &str>,
    keep: u64,
) -> Result<Option<u64>, StoreError> {
    use ::redb::ReadableTableMetadata;
    let mut newest = None;
    while tombstones.len().map_err(unavailable)? > keep {
        let oldest = tombstones.pop_first().map_err(unavailable)?;
        let Some((revision, key)) = oldest.map(|(r, k)| (r.value(), k.value().to_owned())) else {
            break;
        };
        entries.remove(key.as_str()).map_err(unavailable)?;
        changes.remove(revision).map_err(unavailable)?;
        newest = Some(revision);
    }
    Ok(newest)
}

/// What a watch finds when it looks.
#[derive(Debug)]
pub(super) enum Batch {
    /// It asked for what is forgotten.
    Forgotten,
    /// The changes after where it stood, and where it stands now.
    Changes(Vec<Change>, Revision),
}

/// The next changes of `scope` after `after`, in one view.
pub(super) fn batch(
    database: &Database,
    scope: &Scope,
    after: Revision,
) -> Result<Batch, StoreError> {
    let transaction = begin_read(database)?;
    let numbers = transaction.open_table(NUMBERS).map_err(unavailable)?;
    if after.get() < number(&numbers, FORGOTTEN)? {
        return Ok(Batch::Forgotten);
    }
    let changes = transaction.open_table(CHANGES).map_err(unavailable)?;
    let entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
    let mut found = Vec::new();
    let mut stand = after;
    for row in changes.range(after.next().get()..).map_err(unavailable)? {
        let (revision, key) = row.map_err(unavailable)?;
        stand = Revision::new(revision.value());
        let Some(key) = key.value().parse().ok().filter(|key| scope.contains(key)) else {
            continue;
        };
        let row = entries
            .get(key.to_string().as_str())
            .map_err(unavailable)?
            .ok_or_else(|| StoreError::Corrupt(format!("{key} changed but has no entry")))?;
        found.push(Change {
            key,
            revision: stand,
            value: row.value().1.map(Bytes::copy_from_slice),
        });
        if found.len() == BATCH {
            break;
        }
    }
    Ok(Batch::Changes(found, stand))
}

fn begin_read(database: &Database) -> Result<ReadTransaction, StoreError> {
    database.begin_read().map_err(unavailable)
}

fn number(numbers: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, StoreError> {
    let row = numbers.get(name).map_err(unavailable)?;
    Ok(row.map_or(0, |row| row.value()))
}

#[cfg(test)]
mod tests {
    use ::redb::backends::InMemoryBackend;

    use super::*;

    /// A newer version may have stored kinds that this build has no name for.
    #[test]
    fn kinds_of_a_newer_version_are_passed_over() {
        let backend = InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).unwrap();
        prepare(&database).unwrap();
        for key in ["key.acme.a", "later.acme.b", "tenant._.acme"] {
            write(&database, key, Expected::Absent, Some(b"x"), 10).unwrap();
        }
        let listed = list(&database, "", None, 10).unwrap();
        assert_eq!(listed.entries.len(), 2);
        assert_eq!(listed.revision, Revision::new(3));
        let Batch::Changes(changes, stand) = batch(&database, &Scope::All, Revision::ZERO).unwrap()
        else {
            panic!("nothing was forgotten");
        };
        assert_eq!((changes.len(), stand), (2, Revision::new(3)));
    }
}
