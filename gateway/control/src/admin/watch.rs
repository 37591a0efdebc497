//! `?watch=1`: what there is, then what changes, as server-sent events.
//!
//! Events: `put` with the document, `delete` with its name, `synced` once everything that there
//! was has been sent, `relist` where the watcher must start anew. Each has the store's revision as
//! its id; a client that comes back with `Last-Event-ID` misses nothing.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use http::HeaderMap;
use serde::Serialize;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Desk,
    documents::{View, shown},
    error::ApiError,
};
use crate::{
    api::{Deleted, Shown},
    control::Control,
    documents::parse,
    error::ControlError,
    records::believed,
    resource::ResourceKind,
    store::{Change, EngineWatch, Entry, Key, Revision, Watch, WatchError},
};

/// How long one watch lasts; its client comes back with `Last-Event-ID` and proves its key again.
const WATCH_LIFETIME: Duration = Duration::from_secs(300);

/// How often a comment is sent where there is no event, so that nothing between cuts the stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Starts a watch of a view.
pub(super) async fn start(
    desk: &Desk,
    view: View,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let permit = desk.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::TooManyWatches)?;
    let records = &desk.control.inner.records;
    let (revision, ready) = match last_seen(headers)? {
        Some(revision) => (revision, VecDeque::new()),
        None => {
            let (revision, found) = records.list_all(&view.scope).await?;
            let found = found.iter().filter(|record| view.shows(&record.key));
            let mut ready = VecDeque::new();
            for record in found {
                let (document, at) = parse(record)?;
                ready.push_back(event("put", at, &shown(document, at))?);
            }
            ready.push_back(event("synced", revision, &serde_json::json!({}))?);
            (revision, ready)
        }
    };
    let watching = Watching {
        control: desk.control.clone(),
        watch: records.watch(&view.scope, revision).await?,
        view,
        ready,
        ends: Instant::now() + WATCH_LIFETIME,
        shutdown: desk.shutdown.clone(),
        _permit: permit,
    };
    let events = stream::unfold(Some(watching), next);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

struct Watching {
    control: Control,
    watch: EngineWatch,
    view: View,
    ready: VecDeque<Event>,
    ends: Instant,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

type Step = Option<(Result<Event, Infallible>, Option<Watching>)>;

async fn next(watching: Option<Watching>) -> Step {
    let mut watching = watching?;
    loop {
        if let Some(event) = watching.ready.pop_front() {
            return Some((Ok(event), Some(watching)));
        }
        let change = tokio::select! {
            biased;
            () = watching.shutdown.cancelled() => return None,
            () = tokio::time::sleep_until(watching.ends) => return None,
            change = watching.watch.next() => change,
        };
        match change {
            Ok(change) if !watching.view.shows(&change.key) => {}
            Ok(change) => match watching.tell(change) {
                Ok(told) => watching.ready.extend(told),
                Err(_) => return None,
            },
            Err(WatchError::Lagged) => {
                return Some((Ok(Event::default().event("relist").data("{}")), None));
            }
            Err(WatchError::Closed) => return None,
        }
    }
}

impl Watching {
    /// What is told of a change; nothing of an entry that control did not write.
    fn tell(&self, change: Change) -> Result<Option<Event>, ApiError> {
        let Change {
            key,
            revision,
            value,
        } = change;
        let Some(value) = value else {
            let gone = deleted(&key, revision);
            return gone
                .map(|gone| event("delete", revision, &gone))
                .transpose();
        };
        let Some(record) = believed(
            Entry {
                key,
                revision,
                value,
            },
            self.control.bundle(),
        ) else {
            return Ok(None);
        };
        let (document, _) = parse(&record)?;
        let document: Shown = shown(document, revision);
        event("put", revision, &document).map(Some)
    }
}

fn deleted(key: &Key, revision: Revision) -> Option<Deleted> {
    let kind = ResourceKind::ALL
        .into_iter()
        .find(|kind| kind.store() == key.kind)?;
    Some(Deleted {
        kind,
        tenant: key.tenant_str().map(str::to_owned),
        name: key.name.to_string(),
        revision: revision.get(),
    })
}

fn event(name: &str, revision: Revision, data: &impl Serialize) -> Result<Event, ApiError> {
    let event = Event::default()
        .event(name)
        .id(revision.to_string())
        .json_data(data);
    event.map_err(|error| ControlError::Make("an event", error.into()).into())
}

fn last_seen(headers: &HeaderMap) -> Result<Option<Revision>, ApiError> {
    let Some(id) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = id.to_str().ok().and_then(|text| text.parse().ok());
    let number = number
        .ok_or_else(|| ApiError::BadRequest("last-event-id must be a revision".to_owned()))?;
    Ok(Some(Revision::new(number)))
}
