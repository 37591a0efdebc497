//! `pause` and `resume`: the customer's switch.

use std::time::Duration;

use super::{print, status};
use crate::config::Config;
use crate::error::AgentError;
use crate::pause::Paused;
use crate::status::PAUSED;

/// How long the running agent may take to follow.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// What the switch is turned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Pause,
    Resume,
}

pub(super) async fn turn(
    turn: Turn,
    config: &Config,
    service: Option<&str>,
) -> Result<(), AgentError> {
    let known = || config.services.iter().map(|def| def.name.as_str());
    if let Some(name) = service
        && !known().any(|known| known == name)
    {
        return Err(AgentError::Usage(format!(
            "no service is called `{name}`; the file has: {}",
            known().collect::<Vec<_>>().join(", ")
        )));
    }
    let mut paused = Paused::read(&config.state_dir);
    match turn {
        Turn::Pause => paused.pause(service),
        Turn::Resume => paused.resume(service, known()),
    }
    let path = Paused::path(&config.state_dir);
    paused.write(&config.state_dir).map_err(|error| {
        AgentError::Usage(format!("{} cannot be written: {error}", path.display()))
    })?;
    let held: Vec<&str> = known().filter(|name| paused.holds(name)).collect();
    let which = match held.as_slice() {
        [] => "nothing is paused".to_owned(),
        held => format!("paused: {}", held.join(", ")),
    };
    match follows(config, &paused).await {
        Answer::Follows => print(&format!("{which}; calls that have begun finish")),
        Answer::Nobody => print(&format!("{which}; no running agent answers")),
        Answer::DoesNot => Err(AgentError::Unreachable(format!(
            "the file says: {which}; but the agent on {} does not follow: is its state directory {}, and can it read that?",
            config.health_listen,
            config.state_dir.display()
        ))),
    }
}

/// What a running agent makes of it.
enum Answer {
    Follows,
    Nobody,
    DoesNot,
}

/// Whether a running agent shows the switch as it stands now.
async fn follows(config: &Config, paused: &Paused) -> Answer {
    let asking = async {
        loop {
            let Ok(status) = status::current(config.health_listen).await else {
                return Answer::Nobody;
            };
            let as_told = |service: &crate::status::ServiceStatus| {
                (service.state == PAUSED) == paused.holds(&service.name) || service.is_disabled()
            };
            if status.services.iter().all(as_told) {
                return Answer::Follows;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or(Answer::DoesNot)
}
