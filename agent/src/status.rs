//! What the agent says of itself: the document behind `/status`, and how a person reads it.

use std::fmt::Write as _;

use culvert_wire::ServiceState;
use serde::{Deserialize, Serialize};

use crate::backend::Standing;
use crate::config::ServiceDef;
use crate::links::{LinkInfo, Phase};
use crate::service::Service;

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The version of the binary.
    pub version: String,
    /// The identity, a SPIFFE URI.
    pub identity: String,
    /// The connector that is served.
    pub connector: String,
    /// When this instance started (RFC 3339, UTC).
    pub started: String,
    /// The gateway's URL, where it said so.
    pub gateway_url: Option<String>,
    /// Whether it is leaving.
    pub draining: bool,
    /// The links.
    pub links: Vec<LinkInfo>,
    /// The services.
    pub services: Vec<ServiceStatus>,
    /// Lines of the audit log that were lost.
    pub audit_lost: u64,
    /// The audit log cannot be written now.
    pub audit_failing: bool,
    /// Why the last change of the file was not taken.
    pub reload_error: Option<String>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `up`, `down`, `unknown`, `paused` or `disabled`.
    pub state: String,
    /// Its models.
    pub models: Vec<String>,
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls waiting.
    pub waiting: u32,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    /// Its url, or the command of a server that the agent runs.
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Why it is down.
    pub reason: Option<String>,
    /// Calls in flight.
    pub in_flight: u32,
    /// The usual time to the head of an answer, in milliseconds.
    pub latency_ms: f64,
}

impl From<&Service> for ServiceStatus {
    fn from(service: &Service) -> Self {
        Self {
            name: service.def.name.clone(),
            kind: service.def.kind.to_string(),
            state: match service.state() {
                ServiceState::Up => "up",
                ServiceState::Down => "down",
                ServiceState::Unknown => "unknown",
            }
            .to_owned(),
            models: service.models(),
            in_flight: service.gate.in_flight(),
            waiting: service.gate.waiting(),
            backends: service
                .endpoints()
                .map(|endpoint| BackendStatus {
                    url: endpoint.url().to_owned(),
                    state: match endpoint.standing() {
                        Standing::Up => "up",
                        Standing::Down => "down",
                        Standing::Unknown => "unknown",
                    }
                    .to_owned(),
                    reason: endpoint.reason(),
                    in_flight: endpoint.in_flight(),
                    latency_ms: endpoint.latency().as_secs_f64() * 1000.0,
                })
                .collect(),
        }
    }
}

/// Models that are listed for a person; the rest is counted.
const MODELS_SHOWN: usize = 8;

impl Status {
    /// Whether calls can come.
    pub fn is_ready(&self) -> bool {
        !self.draining && self.links.iter().any(|link| link.phase == Phase::Serve)
    }

    /// For a terminal.
    pub fn for_people(&self) -> String {
        let mut out = Vec::new();
        out.push(format!("agent      {} ({})", self.identity, self.version));
        out.push(format!("started    {}", self.started));
        if self.draining {
            out.push("state      draining".to_owned());
        }
        if let Some(error) = &self.reload_error {
            out.push(format!("file       the last change was not taken: {error}"));
        }
        if self.audit_failing || self.audit_lost > 0 {
            let state = if self.audit_failing {
                "cannot be written; "
            } else {
                ""
            };
            out.push(format!("audit      {state}{} lines lost", self.audit_lost));
        }
        out.extend(self.links.iter().map(link_line));
        out.extend(self.services.iter().map(ServiceStatus::for_people));
        out.join("\n")
    }
}

fn link_line(link: &LinkInfo) -> String {
    let mut line = format!("link       {} {}", link.address, phase_word(link.phase));
    let mut add = |what: &str, value: &Option<String>| {
        if let Some(value) = value {
            let written = write!(line, " {what}{value}");
            debug_assert!(written.is_ok());
        }
    };
    add("", &link.plane);
    add("over ", &link.transport);
    add("", &link.group);
    add("rtt ", &link.rtt_ms.map(|ms| format!("{ms:.1} ms")));
    if link.phase != Phase::Serve {
        add("- ", &link.last_error);
    }
    line
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Dial => "dialling",
        Phase::Register => "registering",
        Phase::Serve => "serving",
        Phase::Drain => "draining",
        Phase::Pause => "waiting to dial again",
    }
}

/// A service that takes no calls because of the customer's switch.
pub(crate) const PAUSED: &str = "paused";
/// A service that the file does not want to be run.
const DISABLED: &str = "disabled";

impl ServiceStatus {
    pub(crate) fn disabled(def: &ServiceDef) -> Self {
        Self {
            name: def.name.clone(),
            kind: def.kind.to_string(),
            state: DISABLED.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.state == DISABLED
    }

    pub(crate) fn paused(self) -> Self {
        Self {
            state: PAUSED.to_owned(),
            ..self
        }
    }

    /// A line for the service, and one for each backend that is not well.
    pub fn for_people(&self) -> String {
        let mut out = format!("service    {} ({}) {}", self.name, self.kind, self.state);
        if self.kind == "model" && self.state == "up" {
            out.push_str(": ");
            out.push_str(&models_text(&self.models));
        }
        for backend in self.backends.iter().filter(|b| b.state == "down") {
            let reason = backend.reason.as_deref().unwrap_or("no reason known");
            out.push_str(&format!("\n           {} is down: {reason}", backend.url));
        }
        out
    }
}

fn models_text(models: &[String]) -> String {
    match models {
        [] => "no models".to_owned(),
        _ if models.len() <= MODELS_SHOWN => models.join(", "),
        _ => format!(
            "{} and {} more",
            models[..MODELS_SHOWN].join(", "),
            models.len() - MODELS_SHOWN
        ),
    }
}

/// A curl that a person can paste, per service that is up.
pub fn ready_curl(gateway: &str, connector: &str, service: &ServiceStatus) -> String {
    let gateway = gateway.trim_end_matches('/');
    let key = "-H \"Authorization: Bearer $CULVERT_API_KEY\"";
    match service.kind.as_str() {
        "model" => {
            let model = service.models.first().map_or("MODEL", String::as_str);
            // The model first: it is what a person changes.
            let model = serde_json::Value::from(format!("{connector}/{model}"));
            let body =
                format!(r#"{{"model":{model},"messages":[{{"role":"user","content":"hello"}}]}}"#);
            let quoted = body.replace('\'', "'\\''");
            format!(
                "curl {gateway}/v1/chat/completions {key} -H 'content-type: application/json' -d '{quoted}'"
            )
        }
        "mcp" => {
            let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
            format!(
                "curl {gateway}/mcp/{connector}/{} {key} -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' -d '{body}'",
                service.name
            )
        }
        _ => format!("curl {gateway}/http/{connector}/{}/ {key}", service.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str, models: &[&str]) -> ServiceStatus {
        ServiceStatus {
            name: "llama".to_owned(),
            kind: kind.to_owned(),
            state: "up".to_owned(),
            models: models.iter().map(|m| (*m).to_owned()).collect(),
            ..ServiceStatus::default()
        }
    }

    #[test]
    fn curls_name_gateway_connector_and_model() {
        let curl = ready_curl("http://g:1/", "dev", &service("model", &["meta/l'lama"]));
        assert!(curl.contains("http://g:1/v1/chat/completions"), "{curl}");
        assert!(curl.contains(r#""model":"dev/meta/l'\''lama""#), "{curl}");
        let curl = ready_curl("http://g:1", "dev", &service("mcp", &[]));
        assert!(curl.contains("http://g:1/mcp/dev/llama "), "{curl}");
        let curl = ready_curl("http://g:1", "dev", &service("http", &[]));
        assert!(curl.contains("http://g:1/http/dev/llama/ "), "{curl}");
    }

    #[test]
    fn a_person_reads_what_is_wrong() {
        let mut status = Status {
            identity: "spiffe://x".to_owned(),
            services: vec![service("model", &["a"])],
            ..Status::default()
        };
        status.services[0].backends.push(BackendStatus {
            url: "http://h".to_owned(),
            state: "down".to_owned(),
            reason: Some("refused".to_owned()),
            ..BackendStatus::default()
        });
        status.links.push(LinkInfo {
            address: "g:443".to_owned(),
            phase: Phase::Pause,
            last_error: Some("no reply over UDP".to_owned()),
            ..LinkInfo::default()
        });
        let text = status.for_people();
        for part in [
            "g:443 waiting to dial again - no reply over UDP",
            "up: a",
            "http://h is down: refused",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!status.is_ready());
    }
}
