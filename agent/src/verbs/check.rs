//! `check`: the file, every backend, and what could be reached from outside.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::print;
use crate::config::{Config, ServiceDef};
use crate::error::AgentError;
use crate::policy::Rules;
use crate::service::Services;

/// For the first probe of every backend.
const PATIENCE: Duration = Duration::from_secs(12);

pub(super) async fn check(config: &Config) -> Result<(), AgentError> {
    let tasks = TaskTracker::new();
    let services = Services::new(Arc::from([]), tasks.clone());
    services
        .apply(&config.services)
        .map_err(|error| AgentError::Usage(error.to_string()))?;
    print(&format!(
        "the configuration is valid: {} services",
        config.services.len()
    ))?;
    let mut changes = services.changes();
    let probed = async {
        while services.all().iter().any(|service| !service.is_probed()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // What has not answered by then is shown as it is.
    let in_time = tokio::time::timeout(PATIENCE, probed).await.is_ok();
    let mut down = Vec::new();
    for (status, service) in services.status().iter().zip(services.all()) {
        print(&format!(
            "\n{}\n{}",
            status.for_people(),
            reach(&service.def)
        ))?;
        if status.backends.iter().any(|backend| backend.state != "up") {
            down.push(status.name.clone());
        }
    }
    services.stop();
    tasks.close();
    if down.is_empty() && in_time {
        return Ok(());
    }
    Err(AgentError::Unreachable(format!(
        "not every backend answers: {}",
        down.join(", ")
    )))
}

/// What the SaaS could reach of a service.
fn reach(def: &ServiceDef) -> String {
    let mut lines = Vec::new();
    for url in &def.urls {
        lines.push(format!("  backend  {}", url.text));
    }
    if let Some(stdio) = &def.stdio {
        lines.push(format!("  runs     {}", stdio.label()));
        let user = stdio.account.as_ref().map(|account| account.name.as_str());
        lines.push(format!(
            "  as       {}",
            user.unwrap_or("the agent's own user")
        ));
        lines.push(format!("  sessions {}", stdio.instances.as_str()));
        lines.push(format!("  callable {}", callable(&def.rules)));
        return lines.join("\n");
    }
    lines.push(format!("  callable {}", callable(&def.rules)));
    let networks = match &def.networks {
        Some(networks) => networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        None => {
            "any address but link-local, multicast, metadata, and loopback unless the url says so"
                .to_owned()
        }
    };
    lines.push(format!("  networks {networks}"));
    let injected: Vec<&str> = def.headers.injected_names().collect();
    if !injected.is_empty() {
        lines.push(format!("  adds     {}", injected.join(", ")));
    }
    let passed: Vec<&str> = def.headers.passed_names().collect();
    if !passed.is_empty() {
        lines.push(format!("  passes   {}", passed.join(", ")));
    }
    lines.join("\n")
}

fn callable(rules: &Rules) -> String {
    match rules {
        Rules::Model => "the model APIs below the url (chat, completions, responses, embeddings, rerank, moderations, audio, images, models, messages)".to_owned(),
        Rules::Mcp => "POST, GET and DELETE on the url itself".to_owned(),
        Rules::Http(allow) => allow
            .iter()
            .map(|entry| {
                let methods: Vec<&str> = entry.methods.iter().map(http::Method::as_str).collect();
                let paths: Vec<String> = entry.paths.iter().map(ToString::to_string).collect();
                format!("{} {}", methods.join(","), paths.join(" "))
            })
            .collect::<Vec<_>>()
            .join("; "),
    }
}
