//! What is known of each link, for status, metrics and readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One link, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// What is dialled, `host:port`.
    pub address: String,
    /// How far it is.
    pub phase: Phase,
    /// The plane that was reached, `region/zone`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plane: Option<String>,
    /// Its replica.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replica: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// `quic`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transport: Option<String>,
    /// The negotiated key exchange.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// Measured round trip in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_ms: Option<f64>,
    /// Since when it is in this phase (RFC 3339, UTC).
    pub since: String,
    /// Why the last one ended, or could not be made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<String>,
    /// How often it was dialled.
    pub dials: u64,
}

/// The phases of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A connection is being made.
    #[default]
    Dial,
    /// Waiting for `Welcome`.
    Register,
    /// Calls come.
    Serve,
    /// No new calls; those that have begun finish.
    Drain,
    /// Waiting before the next dial.
    Pause,
}

/// All links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Links {
    list: Arc<Mutex<BTreeMap<String, LinkInfo>>>,
    serving: Arc<watch::Sender<usize>>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            serving: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Links {
    /// Adds a link to an address; it is shown until the guard is dropped.
    pub fn add(&self, address: &str) -> LinkGuard {
        let info = LinkInfo {
            address: address.to_owned(),
            since: crate::clock::now_text(),
            ..LinkInfo::default()
        };
        self.change(|list| list.insert(address.to_owned(), info));
        LinkGuard {
            links: self.clone(),
            address: address.to_owned(),
        }
    }

    /// All, by address.
    pub fn all(&self) -> Vec<LinkInfo> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.values().cloned().collect()
    }

    /// How many serve calls, now and whenever that changes.
    pub fn serving(&self) -> watch::Receiver<usize> {
        self.serving.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, LinkInfo>) -> T) -> T {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut list);
        let serving = list
            .values()
            .filter(|link| link.phase == Phase::Serve)
            .count();
        self.serving
            .send_if_modified(|n| std::mem::replace(n, serving) != serving);
        result
    }
}

/// A link's own entry.
#[derive(Debug)]
pub struct LinkGuard {
    links: Links,
    address: String,
}

impl LinkGuard {
    /// Moves to a phase, and notes what is known with it.
    pub fn enter(&self, phase: Phase, note: impl FnOnce(&mut LinkInfo)) {
        self.links.change(|list| {
            if let Some(info) = list.get_mut(&self.address) {
                if info.phase != phase {
                    info.since = crate::clock::now_text();
                }
                info.phase = phase;
                note(info);
            }
        });
    }

    /// Notes what changes within a phase.
    pub fn note(&self, note: impl FnOnce(&mut LinkInfo)) {
        self.links
            .change(|list| list.get_mut(&self.address).map(note));
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.links.change(|list| list.remove(&self.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_while_they_serve() {
        let links = Links::default();
        let serving = links.serving();
        let a = links.add("a:1");
        a.enter(Phase::Serve, |info| info.plane = Some("ORF/EU".to_owned()));
        let b = links.add("b:1");
        b.enter(Phase::Serve, |_| {});
        assert_eq!(*serving.borrow(), 2);
        b.enter(Phase::Drain, |_| {});
        assert_eq!(*serving.borrow(), 1);
        drop(a);
        assert_eq!(*serving.borrow(), 0);
        assert_eq!(links.all().len(), 1);
    }
}
