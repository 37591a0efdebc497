//! What every engine of the store must do. An engine's test file implements [`Bench`] and names
//! it in [`conformance!`].

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use culvert_control::store::{
    Change, Expected, Key, Kind, MAX_VALUE, Page, Revision, Scope, Store, StoreError, Watch,
    WatchError, list_all,
};
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

/// Longest wait for something that must happen; a healthy engine needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives stores to the tests.
pub(crate) trait Bench {
    /// The engine under test.
    type Store: Store;

    /// Opens the one store of this bench: empty the first time, then whatever is there.
    async fn open(&self) -> Self::Store;

    /// Opens it remembering only so many deletes.
    async fn open_keeping(&self, tombstones: u64) -> Self::Store;
}

macro_rules! conformance {
    ($bench:expr; $($test:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            conformance::$test(&$bench).await;
        })*
    };
    ($bench:expr) => {
        conformance!($bench;
            what_was_put_is_got_and_what_was_not_is_absent
            revisions_are_global_and_only_grow
            of_fifty_writers_of_one_version_one_wins
            contended_increments_are_all_counted
            a_delete_wants_the_version_that_was_seen
            a_value_above_the_limit_is_refused
            a_listing_is_in_order_paged_and_of_its_scope
            a_watch_yields_what_happened_then_what_happens
            a_watch_sees_every_last_change_under_load
            a_watch_of_a_scope_sees_nothing_else
            a_watch_too_far_behind_lags_once_and_a_new_one_goes_on
            a_dropped_wait_loses_nothing
            a_watch_ends_with_its_store
            a_reopened_store_goes_on_where_it_was
            whatever_is_done_a_store_is_as_a_map
        );
    };
}
pub(crate) use conformance;

fn key(name: &str) -> Key {
    Key::of_tenant(Kind::Key, "acme", name).unwrap()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn next(watch: &mut impl Watch) -> Change {
    soon(watch.next()).await.unwrap()
}

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event)
        .await
        .expect("nothing happened in time")
}

async fn put<S: Store>(store: &S, name: &str, text: &str) -> Revision {
    let key = key(name);
    let seen = store.get(&key).await.unwrap();
    let expected = seen.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
    store.put_if(&key, expected, value(text)).await.unwrap()
}

pub(crate) async fn what_was_put_is_got_and_what_was_not_is_absent(bench: &impl Bench) {
    let store = bench.open().await;
    let revision = put(&store, "a", "one").await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"one"[..]));
    assert_eq!(entry.key, key("a"));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
    let other_kind = Key::of_tenant(Kind::Connector, "acme", "a").unwrap();
    assert_eq!(store.get(&other_kind).await.unwrap(), None);
}

pub(crate) async fn revisions_are_global_and_only_grow(bench: &impl Bench) {
    let store = bench.open().await;
    let mut last = Revision::ZERO;
    for name in ["a", "b", "a", "c", "b"] {
        let revision = put(&store, name, "x").await;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    let deleted = store.delete_if(&key("b"), last).await.unwrap();
    assert!(deleted > last);
    let listing = store.list(&Scope::All, Page::FIRST).await.unwrap();
    assert_eq!(listing.revision, deleted);
}

pub(crate) async fn of_fifty_writers_of_one_version_one_wins(bench: &impl Bench) {
    let store = std::sync::Arc::new(bench.open().await);
    let seen = Expected::At(put(&*store, "token", "unused").await);
    let mut writers = JoinSet::new();
    for writer in 0..50 {
        let store = std::sync::Arc::clone(&store);
        let text = value(&format!("used by {writer}"));
        writers.spawn(async move { store.put_if(&key("token"), seen, text).await });
    }
    let outcomes = soon(writers.join_all()).await;
    let won: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
    assert_eq!(won.len(), 1);
    for outcome in &outcomes {
        if let Err(refused) = outcome {
            let StoreError::Conflict { current } = refused else {
                panic!("{refused}");
            };
            assert_eq!(current.as_ref(), Some(won[0]), "the winner's version");
        }
    }
}

pub(crate) async fn contended_increments_are_all_counted(bench: &impl Bench) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 10;
    let store = std::sync::Arc::new(bench.open().await);
    put(&*store, "count", "0").await;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = std::sync::Arc::clone(&store);
        writers.spawn(async move {
            for _ in 0..EACH {
                increment(&*store).await;
            }
        });
    }
    soon(writers.join_all()).await;
    let entry = store.get(&key("count")).await.unwrap().unwrap();
    assert_eq!(entry.value, value(&(WRITERS * EACH).to_string()));
}

async fn increment<S: Store>(store: &S) {
    loop {
        let entry = store.get(&key("count")).await.unwrap().unwrap();
        let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let next = value(&(count + 1).to_string());
        let seen = Expected::At(entry.revision);
        match store.put_if(&key("count"), seen, next).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn a_delete_wants_the_version_that_was_seen(bench: &impl Bench) {
    let store = bench.open().await;
    let first = put(&store, "a", "one").await;
    let second = put(&store, "a", "two").await;
    let refused = store.delete_if(&key("a"), first).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { current } if current == Some(second)));
    store.delete_if(&key("a"), second).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);

    let gone = store.delete_if(&key("a"), second).await.unwrap_err();
    assert!(matches!(gone, StoreError::Conflict { current: None }));
    let stale = store
        .put_if(&key("a"), Expected::At(second), value("x"))
        .await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: None })));
    store
        .put_if(&key("a"), Expected::Absent, value("three"))
        .await
        .unwrap();
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(entry.value, value("three"));
}

pub(crate) async fn a_value_above_the_limit_is_refused(bench: &impl Bench) {
    let store = bench.open().await;
    let fits = Bytes::from(vec![7; MAX_VALUE]);
    store
        .put_if(&key("a"), Expected::Absent, fits)
        .await
        .unwrap();
    let large = Bytes::from(vec![7; MAX_VALUE + 1]);
    let refused = store.put_if(&key("b"), Expected::Absent, large).await;
    assert!(matches!(refused, Err(StoreError::TooLarge(_))));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
}

pub(crate) async fn a_listing_is_in_order_paged_and_of_its_scope(bench: &impl Bench) {
    let store = bench.open().await;
    for name in ["d", "a", "e", "c", "b"] {
        put(&store, name, name).await;
    }
    let e = store.get(&key("e")).await.unwrap().unwrap();
    store.delete_if(&e.key, e.revision).await.unwrap();
    for other in [
        "key.acme2.a",
        "key._.a",
        "connector.acme.a",
        "admin-key._.a",
    ] {
        let key: Key = other.parse().unwrap();
        store
            .put_if(&key, Expected::Absent, value(""))
            .await
            .unwrap();
    }
    let scope = Scope::Tenant(Kind::Key, "acme".parse().unwrap());
    let mut names = Vec::new();
    let mut page = Page {
        after: None,
        limit: 2,
    };
    loop {
        let listing = store.list(&scope, page).await.unwrap();
        assert!(listing.entries.len() <= 2);
        names.extend(listing.entries.iter().map(|e| e.key.name.to_string()));
        let Some(after) = listing.next else { break };
        page = Page {
            after: Some(after),
            limit: 2,
        };
    }
    assert_eq!(names, ["a", "b", "c", "d"]);
    let count = async |scope| list_all(&store, &scope).await.unwrap().1.len();
    assert_eq!(count(Scope::Kind(Kind::Key)).await, 6);
    assert_eq!(count(Scope::All).await, 8);
}

pub(crate) async fn a_watch_yields_what_happened_then_what_happens(bench: &impl Bench) {
    let store = bench.open().await;
    let first = put(&store, "a", "one").await;
    let b = put(&store, "b", "one").await;
    let deleted = store.delete_if(&key("b"), b).await.unwrap();
    let mut watch = store.watch(&Scope::All, first).await.unwrap();
    let change = next(&mut watch).await;
    assert_eq!(
        (change.key, change.revision, change.value),
        (key("b"), deleted, None)
    );

    let again = put(&store, "b", "two").await;
    let change = next(&mut watch).await;
    assert_eq!(change.revision, again);
    assert_eq!(change.value, Some(value("two")));
}

/// Whatever was skipped, a copy that follows the watch ends up equal to the store, and never goes
/// back: that is what "without gaps" is worth to a reader.
pub(crate) async fn a_watch_sees_every_last_change_under_load(bench: &impl Bench) {
    const WRITES: usize = 300;
    let store = std::sync::Arc::new(bench.open().await);
    let mut watch = store.watch(&Scope::All, Revision::ZERO).await.unwrap();
    let mut writers = JoinSet::new();
    let writer = std::sync::Arc::clone(&store);
    writers.spawn(async move {
        for n in 0..WRITES {
            let name = format!("k{}", n % 17);
            if n % 5 == 4 {
                if let Some(entry) = writer.get(&key(&name)).await.unwrap() {
                    writer.delete_if(&entry.key, entry.revision).await.unwrap();
                }
            } else {
                put(&*writer, &name, &n.to_string()).await;
            }
        }
        put(&*writer, "end", "").await
    });
    let mut copy = BTreeMap::new();
    let mut last = Revision::ZERO;
    loop {
        let change = next(&mut watch).await;
        assert!(change.revision > last, "{} after {last}", change.revision);
        last = change.revision;
        if change.key == key("end") {
            break;
        }
        match change.value {
            Some(value) => copy.insert(change.key, value),
            None => copy.remove(&change.key),
        };
    }
    assert_eq!(soon(writers.join_all()).await, [last]);
    let (_, entries) = list_all(&*store, &Scope::All).await.unwrap();
    let stored: BTreeMap<_, _> = entries
        .into_iter()
        .filter(|entry| entry.key != key("end"))
        .map(|entry| (entry.key, entry.value))
        .collect();
    assert_eq!(copy, stored);
}

pub(crate) async fn a_watch_of_a_scope_sees_nothing_else(bench: &impl Bench) {
    let store = bench.open().await;
    let scope = Scope::Tenant(Kind::Key, "acme".parse().unwrap());
    let mut watch = store.watch(&scope, Revision::ZERO).await.unwrap();
    for other in ["key.acme2.a", "connector.acme.a"] {
        let key: Key = other.parse().unwrap();
        store
            .put_if(&key, Expected::Absent, value(""))
            .await
            .unwrap();
    }
    put(&store, "mine", "x").await;
    assert_eq!(next(&mut watch).await.key, key("mine"));
}

pub(crate) async fn a_watch_too_far_behind_lags_once_and_a_new_one_goes_on(bench: &impl Bench) {
    let store = bench.open_keeping(3).await;
    let start = put(&store, "a", "x").await;
    let mut late = store.watch(&Scope::All, start).await.unwrap();
    for n in 0..5 {
        let name = format!("gone{n}");
        let revision = put(&store, &name, "x").await;
        store.delete_if(&key(&name), revision).await.unwrap();
    }
    assert!(matches!(soon(late.next()).await, Err(WatchError::Lagged)));

    let (listed, entries) = list_all(&store, &Scope::All).await.unwrap();
    assert_eq!(entries.len(), 1);
    let mut fresh = store.watch(&Scope::All, listed).await.unwrap();
    let revision = put(&store, "b", "x").await;
    assert_eq!(next(&mut fresh).await.revision, revision);
}

pub(crate) async fn a_dropped_wait_loses_nothing(bench: &impl Bench) {
    let store = bench.open().await;
    let mut watch = store.watch(&Scope::All, Revision::ZERO).await.unwrap();
    for n in 0..20 {
        let revision = put(&store, "a", &n.to_string()).await;
        // Poll the wait once and drop it, at whatever point it has come to.
        let polled = futures_util::poll!(std::pin::pin!(watch.next()));
        match polled {
            std::task::Poll::Ready(change) => assert_eq!(change.unwrap().revision, revision),
            std::task::Poll::Pending => assert_eq!(next(&mut watch).await.revision, revision),
        }
    }
}

pub(crate) async fn a_watch_ends_with_its_store(bench: &impl Bench) {
    let store = bench.open().await;
    let mut watch = store.watch(&Scope::All, Revision::ZERO).await.unwrap();
    drop(store);
    assert!(matches!(soon(watch.next()).await, Err(WatchError::Closed)));
}

pub(crate) async fn a_reopened_store_goes_on_where_it_was(bench: &impl Bench) {
    let (first, deleted, last) = {
        let store = bench.open().await;
        let first = put(&store, "a", "one").await;
        let b = put(&store, "b", "one").await;
        let deleted = store.delete_if(&key("b"), b).await.unwrap();
        let last = put(&store, "c", "two").await;
        (first, deleted, last)
    };
    let store = bench.open().await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(entry.revision, first);
    assert_eq!(store.get(&key("b")).await.unwrap(), None);

    let mut watch = store.watch(&Scope::All, first).await.unwrap();
    let change = next(&mut watch).await;
    assert_eq!(
        (change.revision, change.value),
        (deleted, None),
        "deletes are kept"
    );
    assert_eq!(next(&mut watch).await.revision, last);
    assert!(put(&store, "d", "x").await > last, "revisions go on");
}

/// Random operations, some of them with an old view, against a map that does the same.
pub(crate) async fn whatever_is_done_a_store_is_as_a_map(bench: &impl Bench) {
    let seed: u64 = rand::random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let store = bench.open().await;
    let mut map: BTreeMap<Key, (Revision, Bytes)> = BTreeMap::new();
    let mut last = Revision::ZERO;
    for step in 0..400 {
        let key = key(&format!("k{}", random.random_range(0..6)));
        let current = map.get(&key).map(|(revision, _)| *revision);
        let believed = match random.random_range(0..4) {
            0 => Some(Revision::new(random.random_range(0..=last.get() + 1))),
            _ => current,
        };
        let value = value(&step.to_string());
        let (outcome, new) = match (random.random_bool(0.7), believed) {
            (true, None) => {
                let put = store.put_if(&key, Expected::Absent, value.clone()).await;
                (put, Some(value))
            }
            (true, Some(revision)) => {
                let put = store
                    .put_if(&key, Expected::At(revision), value.clone())
                    .await;
                (put, Some(value))
            }
            (false, believed) => {
                let revision = believed.unwrap_or(Revision::ZERO);
                (store.delete_if(&key, revision).await, None)
            }
        };
        let at = format!("seed {seed}, step {step}");
        let deletes_nothing = new.is_none() && current.is_none();
        match outcome {
            Ok(revision) => {
                assert!(
                    believed == current && !deletes_nothing && revision > last,
                    "{at}"
                );
                last = revision;
                match new {
                    Some(value) => map.insert(key, (revision, value)),
                    None => map.remove(&key),
                };
            }
            Err(StoreError::Conflict { current: told }) => {
                assert!(believed != current || deletes_nothing, "{at}");
                assert_eq!(told, current, "{at}");
            }
            Err(error) => panic!("{at}: {error}"),
        }
    }
    let (revision, entries) = list_all(&store, &Scope::All).await.unwrap();
    let stored = entries
        .into_iter()
        .map(|entry| (entry.key, (entry.revision, entry.value)));
    assert_eq!(stored.collect::<BTreeMap<_, _>>(), map, "seed {seed}");
    assert_eq!(revision, last, "seed {seed}");
}
