//! What a person sees when the agent is up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::listen::Shown;
use crate::out;
use crate::status::{Status, ready_curl};

/// How long the first probes are waited for once a link serves.
const FIRST_PROBES: Duration = Duration::from_secs(3);
/// How often it is looked whether they are done.
const LOOK: Duration = Duration::from_millis(50);

/// Prints once, when the first link serves and services have been probed.
pub(crate) async fn when_up(
    shown: Arc<impl Shown>,
    mut serving: watch::Receiver<usize>,
    stop: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        up = serving.wait_for(|links| *links > 0) => if up.is_err() { return },
    }
    let probed = async {
        while shown.status().services.iter().any(|s| s.state == "unknown") {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        // Those that are not probed by then are shown as unknown.
        _ = tokio::time::timeout(FIRST_PROBES, probed) => {}
    }
    if let Err(error) = out::print(&summary(&shown.status())) {
        tracing::debug!(%error, "standard output cannot be written");
    }
}

/// The status, and a curl for each service that is up.
pub(crate) fn summary(status: &Status) -> String {
    let mut text = status.for_people();
    let gateway = status.gateway_url.as_deref().unwrap_or("$CULVERT_GATEWAY");
    let curls: Vec<String> = status
        .services
        .iter()
        .filter(|service| service.state == "up")
        .map(|service| ready_curl(gateway, &status.connector, service))
        .collect();
    if !curls.is_empty() {
        text.push_str("\n\nTry (with CULVERT_API_KEY set to a key of the gateway");
        if status.gateway_url.is_none() {
            text.push_str(", and CULVERT_GATEWAY to its URL");
        }
        text.push_str("):\n");
        text.push_str(&curls.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ServiceStatus;

    #[test]
    fn only_what_is_up_has_a_curl() {
        let service = |name: &str, state: &str| ServiceStatus {
            name: name.to_owned(),
            kind: "mcp".to_owned(),
            state: state.to_owned(),
            ..ServiceStatus::default()
        };
        let mut status = Status {
            connector: "dev".to_owned(),
            services: vec![service("a", "up"), service("b", "down")],
            ..Status::default()
        };
        let text = summary(&status);
        assert!(text.contains("$CULVERT_GATEWAY/mcp/dev/a "), "{text}");
        assert!(!text.contains("/mcp/dev/b"), "{text}");
        status.gateway_url = Some("http://g:8080".to_owned());
        assert!(summary(&status).contains("http://g:8080/mcp/dev/a "));
    }
}
