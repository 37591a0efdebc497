//! Who is told of changes: subscriptions of the stateless era, and the URIs that a session subscribed to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::service::SubscriptionSink;

/// The open subscriptions of the stateless era, shared by all requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    sinks: BTreeMap<u64, SubscriptionSink>,
}

/// A subscription is open while this lives.
#[derive(Debug)]
pub(super) struct Listening {
    listeners: Listeners,
    key: u64,
}

/// The URIs that one session subscribed to.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<Mutex<BTreeSet<String>>>);

impl Listeners {
    /// Adds a subscription, until the guard is dropped.
    pub(super) fn add(&self, sink: SubscriptionSink) -> Listening {
        let mut open = lock(&self.0);
        let key = open.next;
        open.next += 1;
        open.sinks.insert(key, sink);
        Listening {
            listeners: self.clone(),
            key,
        }
    }

    /// All that are open now.
    pub(super) fn all(&self) -> Vec<SubscriptionSink> {
        lock(&self.0).sinks.values().cloned().collect()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.listeners.0).sinks.remove(&self.key);
    }
}

impl Watched {
    /// Subscribes to `uri`.
    pub(super) fn add(&self, uri: String) {
        lock(&self.0).insert(uri);
    }

    /// Ends the subscription to `uri`.
    pub(super) fn remove(&self, uri: &str) {
        lock(&self.0).remove(uri);
    }

    /// Whether the session wants to hear of `uri`.
    pub(super) fn has(&self, uri: &str) -> bool {
        lock(&self.0).contains(uri)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
