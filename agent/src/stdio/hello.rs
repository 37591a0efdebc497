//! How a server is greeted, and what it turns out to speak.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::error::{End, StartError};
use super::instance::Instance;
use super::router::Kind;
use super::rpc::{Object, raw};
use super::version;

/// Longest reason that is shown, in bytes.
const MAX_REASON_BYTES: usize = 1_024;

/// What a server speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// The stateless protocol, from 2026-07-28 on.
    Stateless,
    /// Sessions.
    Sessions,
}

/// Asks a server which era it speaks; it is greeted, where that is the one with sessions. Who does
/// not answer `server/discover` within `patience` is asked in both ways.
pub(super) async fn find_out(
    instance: &Arc<Instance>,
    patience: Duration,
) -> Result<(Era, Object), StartError> {
    let mut asked = pin!(instance.ask("server/discover", version::discover()));
    let first = timeout(patience, &mut asked).await;
    if let Ok(answer) = first {
        let answer = answer.map_err(|end| ended(&end, instance))?;
        if version::is_stateless(&answer) {
            return Ok((Era::Stateless, answer));
        }
        instance.become_(Kind::Shared);
        return Ok((Era::Sessions, greet(instance).await?));
    }
    // It may still be starting, or never answer that: the first answer of the two tells.
    let mut greeted = pin!(instance.ask("initialize", version::initialize()));
    let answer = tokio::select! {
        biased;
        answer = &mut asked => answer,
        greeting = &mut greeted => {
            instance.become_(Kind::Shared);
            return Ok((Era::Sessions, understood(greeting, instance)?));
        }
    };
    let answer = answer.map_err(|end| ended(&end, instance))?;
    if version::is_stateless(&answer) {
        return Ok((Era::Stateless, answer));
    }
    instance.become_(Kind::Shared);
    let greeting = greeted.await;
    Ok((Era::Sessions, understood(greeting, instance)?))
}

/// Greets a server as its client: what it says of itself. We cannot do anything for it.
pub(super) async fn greet(instance: &Arc<Instance>) -> Result<Object, StartError> {
    let greeting = instance.ask("initialize", version::initialize()).await;
    understood(greeting, instance)
}

fn understood(answer: Result<Object, End>, instance: &Instance) -> Result<Object, StartError> {
    let answer = answer.map_err(|end| ended(&end, instance))?;
    let Some(result) = answer.get("result").and_then(Object::parse) else {
        let said = answer.text_at(&["error", "message"]).unwrap_or_default();
        return Err(StartError::Refused(bounded(&said)));
    };
    instance.tell("notifications/initialized");
    Ok(result)
}

/// Why a server that was just started is not there, with what it complained about.
pub(super) fn ended(end: &End, instance: &Instance) -> StartError {
    if *end == End::Stopped {
        return StartError::Stopped;
    }
    StartError::Ended {
        end: end.clone(),
        words: bounded(&instance.last_words()),
    }
}

pub(super) fn bounded(text: &str) -> String {
    let whole = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=MAX_REASON_BYTES.min(text.len()))
        .rev()
        .find(whole)
        .unwrap_or(0);
    text[..end].to_owned()
}

/// The answer to a session's `initialize` in a shared process: what the server said, in a
/// version that the client knows.
pub(super) fn greeting(greeting: &Object, wanted: Option<&str>) -> Object {
    let mut greeting = greeting.clone();
    let spoken = greeting.text_at(&["protocolVersion"]).unwrap_or_default();
    if let Some(wanted) = wanted
        && version::is_known(wanted)
        && wanted < spoken.as_str()
    {
        greeting.set("protocolVersion", raw(&wanted));
    }
    greeting
}
