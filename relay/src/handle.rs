//! What a registered link is used through, by calls and by other sessions.

use std::time::{Duration, SystemTime};

use culvert_tunnel::Connection;
use culvert_wire::{Ask, CallId, CallKnowledge, Code};
use tokio::sync::{mpsc, oneshot};

use crate::limits::ERRANDS;

/// What a registered link is used through.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    errands: mpsc::Sender<Errand>,
    since: SystemTime,
}

/// What others ask of a link's session.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Ask the agent about a call.
    Ask(Ask, oneshot::Sender<CallKnowledge>),
    /// Somebody doubts that the agent serves.
    Suspect,
    /// A newer link has taken its place.
    Replaced,
}

impl Link {
    /// A handle for others, and where its session hears of what they ask.
    pub(crate) fn new(connection: Connection) -> (Self, mpsc::Receiver<Errand>) {
        let (errands, asked) = mpsc::channel(ERRANDS);
        (
            Self {
                connection,
                errands,
                since: SystemTime::now(),
            },
            asked,
        )
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn since(&self) -> SystemTime {
        self.since
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.end().is_none()
    }

    /// Has the agent probed soon; a session that is too busy to hear it is probed anyway.
    pub(crate) fn suspect(&self) {
        drop(self.errands.try_send(Errand::Suspect));
    }

    /// Asks the agent about a call that was sent to it so long ago over another link.
    pub(crate) async fn ask(&self, call_id: CallId, age: Duration) -> Option<CallKnowledge> {
        let (reply, answer) = oneshot::channel();
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.errands
            .send(Errand::Ask(Ask { call_id, age_ms }, reply))
            .await
            .ok()?;
        answer.await.ok()
    }

    pub(crate) fn replaced(&self) {
        if self.errands.try_send(Errand::Replaced).is_err() {
            self.connection
                .close(Code::Duplicate, "replaced by a newer link");
        }
    }
}
