//! An event stream at a set pace, with the faults that a stream can have.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;

use super::answer;
use super::script::{Fault, Script};
use super::stats::Active;
use crate::fault_io::{Break, FaultSwitch};
use crate::serve::Body;

/// The events of one answer; `paced` are the ones that wait for their moment.
pub(super) struct Events {
    /// Sent with the first paced event.
    pub(super) opening: Vec<String>,
    /// One per token.
    pub(super) paced: Vec<String>,
    /// Sent right behind the last paced event.
    pub(super) closing: Vec<String>,
}

struct Player {
    events: std::vec::IntoIter<(bool, String)>,
    script: Script,
    active: Active,
    switch: FaultSwitch,
    played: u32,
    next_at: Instant,
}

/// Answers with `events` at the pace of `script`.
pub(super) fn play(
    events: Events,
    script: Script,
    active: Active,
    switch: FaultSwitch,
) -> Response<Body> {
    let list: Vec<(bool, String)> = events
        .opening
        .into_iter()
        .map(|event| (false, event))
        .chain(events.paced.into_iter().map(|event| (true, event)))
        .chain(events.closing.into_iter().map(|event| (false, event)))
        .collect();
    let player = Player {
        events: list.into_iter(),
        next_at: Instant::now() + script.first,
        script: script.clone(),
        active,
        switch,
        played: 0,
    };
    let body = StreamBody::new(stream::unfold(player, step)).boxed_unsync();
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer::dressed(response, &script)
}

async fn step(mut player: Player) -> Option<(io::Result<Frame<Bytes>>, Player)> {
    let Some((paced, event)) = player.events.next() else {
        player.active.complete();
        return None;
    };
    if paced {
        // A fault comes at its token's time, too: an error at once would take the token before it along.
        if player.next_at > Instant::now() {
            tokio::time::sleep_until(player.next_at).await;
        }
        if let Some(fault) = player.script.fault
            && player.played >= player.script.after
        {
            return Some((Err(player.fail(fault).await), player));
        }
        player.next_at += player.script.interval;
        player.played += 1;
    }
    Some((Ok(Frame::data(Bytes::from(event))), player))
}

impl Player {
    async fn fail(&self, fault: Fault) -> io::Error {
        match fault {
            Fault::Stall => std::future::pending().await,
            Fault::Reset => self.switch.set(Break::Reset),
            Fault::Cut
            | Fault::Internal
            | Fault::RateLimited
            | Fault::Silent
            | Fault::Garbage
            | Fault::HugeHeaders
            | Fault::Redirect => {}
        }
        io::Error::other("cut as told")
    }
}

/// A `data:` event.
pub(super) fn data(value: &serde_json::Value) -> String {
    format!("data: {value}\n\n")
}

/// An event with a name.
pub(super) fn named(name: &str, value: &serde_json::Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}
