//! What the relay counts, under the names `culvert_relay_*`.
//!
//! Labels come from closed sets or from configuration, never from a caller or an agent; there is
//! no label for tenants.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use culvert_wire::{Code, ServiceKind};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::retry::Reason;
use crate::status;

/// The relay's counters; cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    first_byte_seconds: Histogram,
    calls_active: Gauge,
    links: Family<LinkLabels, Gauge>,
    link_rtt_seconds: Histogram,
    refused: Family<CodeLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
    joins: Family<OutcomeLabel, Counter>,
    replay_bytes: Gauge,
    parked_bytes: Gauge,
    udp_send_errors: Counter,
    quic_mtu_bytes: Gauge,
    quic_black_holes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    code: &'static str,
}

/// Labels of one link, closed sets all but the plane, which is configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LinkLabels {
    pub(crate) plane: String,
    pub(crate) transport: &'static str,
    pub(crate) group: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Seconds from a token's pace to a long answer.
const SECONDS: [f64; 14] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0,
];
/// Round trips from one rack to a satellite, in seconds.
const ROUND_TRIPS: [f64; 10] = [
    0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_seconds: Histogram::new(SECONDS),
            first_byte_seconds: Histogram::new(SECONDS),
            calls_active: Gauge::default(),
            links: Family::default(),
            link_rtt_seconds: Histogram::new(ROUND_TRIPS),
            refused: Family::default(),
            retries: Family::default(),
            joins: Family::default(),
            replay_bytes: Gauge::default(),
            parked_bytes: Gauge::default(),
            udp_send_errors: Counter::default(),
            quic_mtu_bytes: Gauge::default(),
            quic_black_holes: Counter::default(),
        }
    }
}

impl Metrics {
    /// Registers all of them under `culvert_relay_`.
    pub fn register(&self, registry: &mut Registry) {
        let relay = registry.sub_registry_with_prefix("culvert_relay");
        relay.register(
            "requests",
            "Calls that ended, by kind of service and code",
            self.requests.clone(),
        );
        relay.register(
            "request_seconds",
            "Whole time of a call",
            self.request_seconds.clone(),
        );
        relay.register(
            "first_byte_seconds",
            "Time to the head of an answer",
            self.first_byte_seconds.clone(),
        );
        relay.register("calls_active", "Calls in flight", self.calls_active.clone());
        relay.register("links", "Links of agents", self.links.clone());
        relay.register(
            "link_rtt_seconds",
            "Round trips of links, sampled",
            self.link_rtt_seconds.clone(),
        );
        relay.register(
            "refused",
            "Links that were rejected and calls that were refused",
            self.refused.clone(),
        );
        relay.register(
            "retries",
            "Calls sent again, by what permitted it",
            self.retries.clone(),
        );
        relay.register("joins", "Join requests, by outcome", self.joins.clone());
        relay.register(
            "replay_bytes",
            "Bytes kept so that calls can be sent again",
            self.replay_bytes.clone(),
        );
        relay.register(
            "parked_bytes",
            "Bytes that answers may hold whose callers do not read",
            self.parked_bytes.clone(),
        );
        relay.register(
            "udp_send_errors",
            "Datagrams that the kernel refused to send",
            self.udp_send_errors.clone(),
        );
        relay.register(
            "quic_mtu_bytes",
            "Smallest path MTU of all links",
            self.quic_mtu_bytes.clone(),
        );
        relay.register(
            "quic_black_holes",
            "Paths that dropped large packets",
            self.quic_black_holes.clone(),
        );
    }

    pub(crate) fn call_started(&self) {
        self.calls_active.inc();
    }

    pub(crate) fn call_headed(&self, after: Duration) {
        self.first_byte_seconds.observe(after.as_secs_f64());
    }

    pub(crate) fn call_ended(
        &self,
        kind: Option<ServiceKind>,
        outcome: Result<(), Code>,
        after: Duration,
    ) {
        let labels = RequestLabels {
            kind: kind.map_or("none", status::kind),
            code: outcome.map_or_else(Code::name, |()| "ok"),
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(after.as_secs_f64());
        self.calls_active.dec();
    }

    pub(crate) fn refused(&self, code: Code) {
        self.refused
            .get_or_create(&CodeLabel { code: code.name() })
            .inc();
    }

    pub(crate) fn retried(&self, reason: Reason) {
        let reason = match reason {
            Reason::NeverSent => "never_sent",
            Reason::Refused => "refused",
            Reason::NeverSeen => "never_seen",
            Reason::Safe => "safe",
        };
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn joined(&self, outcome: &'static str) {
        self.joins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a link until the guard is dropped.
    pub(crate) fn link(&self, labels: &LinkLabels) -> LinkCount {
        let gauge = self.links.get_or_create_owned(labels);
        gauge.inc();
        LinkCount { gauge }
    }

    pub(crate) fn sampled_rtt(&self, rtt: Duration) {
        self.link_rtt_seconds.observe(rtt.as_secs_f64());
    }

    /// Takes over what the sockets and paths have counted; totals only ever grow.
    pub(crate) fn sampled_paths(&self, send_errors: u64, black_holes: u64, least_mtu: Option<u16>) {
        raise(&self.udp_send_errors, send_errors);
        raise(&self.quic_black_holes, black_holes);
        if let Some(mtu) = least_mtu {
            self.quic_mtu_bytes.set(i64::from(mtu));
        }
    }

    pub(crate) fn parked(&self, bytes: u64) {
        self.parked_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn sampled_replay(&self, bytes: usize) {
        self.replay_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// One link in the gauge.
#[derive(Debug)]
pub(crate) struct LinkCount {
    gauge: Gauge,
}

impl Drop for LinkCount {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn raise(counter: &Counter<u64, AtomicU64>, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
