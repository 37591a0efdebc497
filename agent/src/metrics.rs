//! What the agent counts, in Prometheus text. Labels come from closed sets and from the file.

use std::sync::atomic::AtomicU64;

use culvert_tunnel::PathTotals;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::Audit;
use crate::links::{LinkInfo, Phase};

/// Upper bounds in seconds: a token, a page, a long completion.
const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0,
];

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<CallLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    request_seconds: Histogram,
    first_byte_seconds: Histogram,
    /// Calls in flight.
    pub calls_active: Gauge,
    links: Family<LinkLabels, Gauge>,
    link_rtt: Family<AddressLabels, Gauge<f64, AtomicU64>>,
    audit_lost: Gauge,
    udp_send_errors: Counter,
    quic_mtu_bytes: Gauge,
    quic_black_holes: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    kind: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LinkLabels {
    plane: String,
    transport: String,
    group: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AddressLabels {
    address: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("culvert_agent");
        let seconds = || Histogram::new(SECONDS);
        let metrics = Self {
            requests: Family::default(),
            refused: Family::default(),
            request_seconds: seconds(),
            first_byte_seconds: seconds(),
            calls_active: Gauge::default(),
            links: Family::default(),
            link_rtt: Family::default(),
            audit_lost: Gauge::default(),
            udp_send_errors: Counter::default(),
            quic_mtu_bytes: Gauge::default(),
            quic_black_holes: Counter::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "requests",
            "Calls by kind and how they ended",
            metrics.requests.clone(),
        );
        r.register(
            "refused",
            "Calls refused before a backend, by code",
            metrics.refused.clone(),
        );
        r.register_with_unit(
            "request",
            "Time of a call",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        r.register_with_unit(
            "first_byte",
            "Time to the backend's head",
            Unit::Seconds,
            metrics.first_byte_seconds.clone(),
        );
        r.register(
            "calls_active",
            "Calls in flight",
            metrics.calls_active.clone(),
        );
        r.register("links", "Links that serve", metrics.links.clone());
        r.register_with_unit(
            "link_rtt",
            "Round trip",
            Unit::Seconds,
            metrics.link_rtt.clone(),
        );
        r.register(
            "audit_lines_lost",
            "Audit lines lost",
            metrics.audit_lost.clone(),
        );
        metrics.register_paths(r);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A call is over: `code` is the class of its status, or the wire's word.
    pub fn call(&self, kind: &'static str, code: String, seconds: f64, first_byte: Option<f64>) {
        self.requests
            .get_or_create(&CallLabels { kind, code })
            .inc();
        self.request_seconds.observe(seconds);
        if let Some(first_byte) = first_byte {
            self.first_byte_seconds.observe(first_byte);
        }
    }

    /// A call was refused.
    pub fn refused(&self, code: String) {
        self.refused.get_or_create(&CodeLabels { code }).inc();
    }

    /// What sockets and paths count.
    fn register_paths(&self, registry: &mut Registry) {
        registry.register(
            "udp_send_errors",
            "Datagrams that the kernel refused to send",
            self.udp_send_errors.clone(),
        );
        registry.register(
            "quic_mtu_bytes",
            "Smallest path MTU of all links, 0 without one",
            self.quic_mtu_bytes.clone(),
        );
        registry.register(
            "quic_black_holes",
            "Paths that dropped large packets",
            self.quic_black_holes.clone(),
        );
    }

    fn set_paths(&self, paths: &PathTotals) {
        raise(&self.udp_send_errors, paths.send_errors.total());
        raise(&self.quic_black_holes, paths.black_holes);
        self.quic_mtu_bytes
            .set(i64::from(paths.least_mtu.unwrap_or_default()));
    }

    /// The text, with the gauges as they are now.
    pub fn render(&self, links: &[LinkInfo], paths: &PathTotals, audit: &Audit) -> String {
        self.set_paths(paths);
        self.links.clear();
        self.link_rtt.clear();
        for link in links.iter().filter(|link| link.phase == Phase::Serve) {
            let or_unknown = |text: &Option<String>| text.clone().unwrap_or("unknown".to_owned());
            let labels = LinkLabels {
                plane: or_unknown(&link.plane),
                transport: or_unknown(&link.transport),
                group: or_unknown(&link.group),
            };
            self.links.get_or_create(&labels).inc();
            if let Some(rtt_ms) = link.rtt_ms {
                let address = link.address.clone();
                self.link_rtt
                    .get_or_create(&AddressLabels { address })
                    .set(rtt_ms / 1000.0);
            }
        }
        self.audit_lost
            .set(i64::try_from(audit.lost()).unwrap_or(i64::MAX));
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

/// Two scrapes at a time may both have read an older total: it grows to the larger.
fn raise(counter: &Counter, total: u64) {
    counter
        .inner()
        .fetch_max(total, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuditSpec, WhenFull};

    #[test]
    fn the_names_are_those_of_the_documentation() {
        let metrics = Metrics::default();
        metrics.call("model", "2xx".to_owned(), 0.2, Some(0.1));
        metrics.refused("policy".to_owned());
        let (audit, _writer) = Audit::new(&AuditSpec {
            path: "audit.jsonl".into(),
            rotate: 1 << 20,
            keep: 1,
            when_full: WhenFull::Drop,
        });
        let links = crate::links::Links::default();
        links
            .add("h:1")
            .enter(Phase::Serve, |info| info.rtt_ms = Some(12.0));
        let guard = links.add("h:2");
        guard.enter(Phase::Serve, |info| info.rtt_ms = Some(12.0));
        let mut paths = PathTotals {
            black_holes: 2,
            least_mtu: Some(1_452),
            ..PathTotals::default()
        };
        paths.send_errors.not_permitted = 3;
        metrics.render(&links.all(), &paths, &audit);
        let text = metrics.render(&links.all(), &paths, &audit);
        for line in [
            "culvert_agent_requests_total{kind=\"model\",code=\"2xx\"} 1",
            "culvert_agent_refused_total{code=\"policy\"} 1",
            "culvert_agent_request_seconds_count 1",
            "culvert_agent_first_byte_seconds_count 1",
            "culvert_agent_calls_active 0",
            "culvert_agent_links{plane=\"unknown\",transport=\"unknown\",group=\"unknown\"} 1",
            "culvert_agent_link_rtt_seconds{address=\"h:2\"} 0.012",
            "culvert_agent_udp_send_errors_total 3",
            "culvert_agent_quic_mtu_bytes 1452",
            "culvert_agent_quic_black_holes_total 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
