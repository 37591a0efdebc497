//! What the edge counts. Labels come from closed sets: kinds of endpoints and stable codes.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The edge's counters; cheap to clone, all clones count together.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    requests: Family<Call, Counter>,
    seconds: Family<Kind, Histogram, fn() -> Histogram>,
    first_byte: Family<Kind, Histogram, fn() -> Histogram>,
    active: Family<Kind, Gauge>,
    connections: Gauge,
    turned_away: Family<Reason, Counter>,
    held_bytes: Gauge<u64, AtomicU64>,
    records_lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    kind: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// One connection in the count of those that are open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl EdgeMetrics {
    /// Registers everything under `culvert_gateway_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            first_byte: Family::new_with_constructor(seconds),
            active: Family::default(),
            connections: Gauge::default(),
            turned_away: Family::default(),
            held_bytes: Gauge::default(),
            records_lost: Counter::default(),
        };
        let own = registry.sub_registry_with_prefix("culvert_gateway");
        own.register(
            "requests",
            "Requests by kind of endpoint and outcome",
            metrics.requests.clone(),
        );
        own.register(
            "request_seconds",
            "Time from head to last byte",
            metrics.seconds.clone(),
        );
        own.register(
            "first_byte_seconds",
            "Time to the first byte",
            metrics.first_byte.clone(),
        );
        own.register(
            "calls_active",
            "Requests that have no record yet",
            metrics.active.clone(),
        );
        own.register(
            "connections",
            "Connections of callers",
            metrics.connections.clone(),
        );
        own.register(
            "edge_refused",
            "Connections of callers that were closed at once",
            metrics.turned_away.clone(),
        );
        own.register(
            "held_bytes",
            "Bytes of bodies that are held whole",
            metrics.held_bytes.clone(),
        );
        own.register(
            "records_lost",
            "Records dropped by a full queue",
            metrics.records_lost.clone(),
        );
        metrics
    }

    /// A request began.
    pub(crate) fn began(&self, kind: &'static str) {
        self.active.get_or_create(&Kind { kind }).inc();
    }

    /// The same request ended. `first_byte` is absent where none was sent.
    pub(crate) fn ended(
        &self,
        kind: &'static str,
        code: &'static str,
        total: Duration,
        first_byte: Option<Duration>,
    ) {
        self.active.get_or_create(&Kind { kind }).dec();
        self.requests.get_or_create(&Call { kind, code }).inc();
        self.seconds
            .get_or_create(&Kind { kind })
            .observe(total.as_secs_f64());
        if let Some(first_byte) = first_byte {
            self.first_byte
                .get_or_create(&Kind { kind })
                .observe(first_byte.as_secs_f64());
        }
    }

    /// A record found its queue full.
    pub(crate) fn record_lost(&self) {
        self.records_lost.inc();
    }

    /// A caller's connection is open, until this is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A caller's connection was closed before its first request.
    pub(crate) fn turned_away(&self, reason: &'static str) {
        self.turned_away.get_or_create(&Reason { reason }).inc();
    }

    /// Bytes of bodies that are held now.
    pub(crate) fn set_held_bytes(&self, bytes: u64) {
        self.held_bytes.set(bytes);
    }
}

/// 1 ms to 18 minutes: from a cached answer to a long generation.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 21))
}
