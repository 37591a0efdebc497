//! What reached the backend: counts, and the heads of the last requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use serde::Serialize;

/// How many request heads are remembered.
const REMEMBERED: usize = 512;
/// How much of a body is remembered.
const REMEMBERED_BODY_BYTES: usize = 16 * 1024;

/// Counts of one backend, shared by all of its connections.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<Inner>>);

#[derive(Debug, Default, Serialize)]
struct Inner {
    counts: Counts,
    by_route: BTreeMap<String, u64>,
    by_model: BTreeMap<String, u64>,
    /// Microseconds since the epoch.
    last_cancel_us: Option<u64>,
    #[serde(skip)]
    seen: VecDeque<Seen>,
}

/// Every request is active, completed or cancelled.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    requests: u64,
    active: u64,
    completed: u64,
    cancelled: u64,
}

/// One request as it reached the backend.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body_bytes: usize,
    body: String,
}

impl Seen {
    /// Takes what the head of `request` says.
    pub fn of<B>(request: &http::Request<B>) -> Self {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.headers = request.headers().clone();
        Self::new(&parts, &[])
    }

    /// Takes what `parts` and `body` say.
    pub fn new(parts: &Parts, body: &[u8]) -> Self {
        let shown = &body[..body.len().min(REMEMBERED_BODY_BYTES)];
        Self {
            method: parts.method.to_string(),
            target: parts.uri.to_string(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    )
                })
                .collect(),
            body_bytes: body.len(),
            body: String::from_utf8_lossy(shown).into_owned(),
        }
    }
}

impl Stats {
    /// Counts a request in; the guard counts it out.
    pub fn begin(&self, route: &str) -> Active {
        let mut inner = self.lock();
        inner.counts.requests += 1;
        inner.counts.active += 1;
        *inner.by_route.entry(route.to_owned()).or_default() += 1;
        Active {
            stats: self.clone(),
            completed: false,
        }
    }

    /// Remembers a request, and forgets the oldest above the limit.
    pub fn remember(&self, seen: Seen) {
        let mut inner = self.lock();
        if inner.seen.len() == REMEMBERED {
            inner.seen.pop_front();
        }
        inner.seen.push_back(seen);
    }

    /// Counts a model's name.
    pub fn model(&self, name: &str) {
        *self.lock().by_model.entry(name.to_owned()).or_default() += 1;
    }

    /// The counts as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&*self.lock()).unwrap_or_default()
    }

    /// The remembered requests as JSON, the oldest first.
    pub fn seen_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.lock().seen).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that is being served: completed if it says so, else cancelled when it is dropped.
#[derive(Debug)]
pub struct Active {
    stats: Stats,
    completed: bool,
}

impl Active {
    /// The last byte of the answer was handed over.
    pub fn complete(&mut self) {
        self.completed = true;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut inner = self.stats.lock();
        inner.counts.active -= 1;
        if self.completed {
            inner.counts.completed += 1;
        } else {
            inner.counts.cancelled += 1;
            inner.last_cancel_us = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .and_then(|since| u64::try_from(since.as_micros()).ok());
        }
    }
}
