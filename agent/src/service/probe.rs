//! Looks after the backends of a service: do they answer, which models have they, how busy
//! are they.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_wire::BackendLoad;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{Service, discover, load};
use crate::backend::{Backend, OwnError, Standing};
use crate::config::ServiceKind;
use crate::error::chain;

/// Longest probe of one backend, connection included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A backend that is down is looked at this often, if probes are not more frequent anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A server that publishes no load is asked again after this long.
const LOAD_AGAIN: Duration = Duration::from_secs(300);
/// Most bytes of an answer that are read: of `/models`, of health.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// What one round has found out about one backend.
#[derive(Debug, Default)]
struct Found {
    models: Option<Vec<String>>,
    load: Option<BackendLoad>,
}

/// Probes until `stop`.
pub(super) async fn run(service: Arc<Service>, stop: CancellationToken) {
    let mut next_load = vec![Instant::now(); service.backends.iter().len()];
    loop {
        let round = round(&service, &mut next_load);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = round => {}
        }
        let mut all = service.endpoints();
        let all_up = all.all(|endpoint| endpoint.standing() == Standing::Up);
        drop(all);
        let every = service.def.health.every;
        let pause = if all_up { every } else { every.min(LOOK_AGAIN) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => continue,
            // Told upwards at once, and looked at again soon.
            () = service.troubled() => service.changes.tell(),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every.min(LOOK_AGAIN)) => {}
        }
    }
}

/// One look at every backend.
async fn round(service: &Service, next_load: &mut [Instant]) {
    if let Some(stdio) = &service.stdio {
        // It has times of its own: a server may be fetched before it starts.
        if let Err(reason) = stdio.probe().await {
            tracing::debug!(service = %service.name, reason, "a server does not start");
        }
        return service.publish(None, None);
    }
    let now = Instant::now();
    let probes = service
        .backends
        .iter()
        .zip(next_load.iter())
        .map(|(backend, next)| {
            let with_load = service.def.kind == ServiceKind::Model && *next <= now;
            async move {
                tokio::time::timeout(PROBE_TIMEOUT, probe(service, backend, with_load))
                    .await
                    .unwrap_or_else(|_| Err("no answer to the probe in time".to_owned()))
            }
        });
    let mut found = Vec::new();
    for ((result, backend), next) in join_all(probes)
        .await
        .into_iter()
        .zip(service.backends.iter())
        .zip(next_load)
    {
        match result {
            Ok(one) => {
                backend.endpoint.probe_passed();
                if one.load.is_none() && *next <= now {
                    *next = now + LOAD_AGAIN;
                }
                found.push(one);
            }
            Err(reason) => backend.endpoint.probe_failed(reason),
        }
    }
    let lists: Vec<Vec<String>> = found
        .iter_mut()
        .filter_map(|one| one.models.take())
        .collect();
    let load = load::total(found.iter().filter_map(|one| one.load));
    service.publish(discover::common(&lists), load);
}

async fn probe(service: &Service, backend: &Backend, with_load: bool) -> Result<Found, String> {
    let mut found = Found::default();
    if let Some(path) = &service.def.health.path {
        let (status, _) = backend
            .get_origin(path, MAX_ANSWER_BYTES)
            .await
            .map_err(|error| failed(path, &error))?;
        if !(200..300).contains(&status) {
            return Err(format!("{path} answers {status}"));
        }
    }
    match service.def.kind {
        ServiceKind::Model => found.models = models(service, backend).await?,
        // Opening a stream on an MCP server, or anything on an unknown one, may have an effect.
        ServiceKind::Mcp | ServiceKind::Http if service.def.health.path.is_none() => {
            backend.try_connect().await.map_err(|error| chain(&error))?;
        }
        ServiceKind::Mcp | ServiceKind::Http => {}
    }
    if with_load {
        found.load = match backend.get_origin("/metrics", MAX_ANSWER_BYTES).await {
            Ok((200, body)) => std::str::from_utf8(&body).ok().and_then(load::parse),
            Ok(_) | Err(_) => None,
        };
    }
    Ok(found)
}

/// The models of a backend; asking for them shows that it answers.
async fn models(service: &Service, backend: &Backend) -> Result<Option<Vec<String>>, String> {
    let named = service.def.models.is_some();
    if named && service.def.health.path.is_some() {
        return Ok(None);
    }
    let (status, body) = backend
        .get_below("/models", MAX_ANSWER_BYTES)
        .await
        .map_err(|error| failed("/models", &error))?;
    match status {
        200 => match discover::models(&body) {
            Some(models) => Ok(Some(models)),
            None if named => Ok(None),
            None => Err("/models answers something else than a list of models".to_owned()),
        },
        401 | 403 => Err(format!(
            "/models answers {status}: set `headers` for its key"
        )),
        // It answers, and the file says what it has.
        _ if named && status < 500 => Ok(None),
        404 => Err("/models answers 404: does the url end in /v1?".to_owned()),
        _ => Err(format!("/models answers {status}")),
    }
}

fn failed(path: &str, error: &OwnError) -> String {
    match error {
        OwnError::Connect(error) => chain(error),
        OwnError::Failed(_) | OwnError::Body | OwnError::Path => {
            format!("{path}: {}", chain(error))
        }
    }
}
