//! One link as the directory knows it.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use culvert_certs::{AgentId, ConnectorName};
use culvert_wire::{InstanceId, SessionId};

use crate::book::Newcomer;
use crate::handle::Link;

/// One connection of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId {
    /// The session that the connection belongs to.
    pub session: SessionId,
    /// Counts the connections of the session from 0.
    pub connection: u32,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.connection)
    }
}

/// Whether a link takes new calls, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum LinkState {
    /// Takes new calls.
    Serving = 0,
    /// Waits until its agent is approved.
    Held = 1,
    /// A newer link of the same agent instance takes the calls.
    Superseded = 2,
    /// Bytes come, but what serves calls does not answer.
    Silent = 3,
    /// Finishes what has begun.
    Leaving = 4,
    /// Not there any more.
    Gone = 5,
}

/// A link with its owner and its state; `H` is what it is used through.
#[derive(Debug)]
pub struct LinkEntry<H = Link> {
    /// Which connection of which session.
    pub id: LinkId,
    /// Whom the link serves.
    pub connector: ConnectorName,
    /// Who serves, proven by its leaf.
    pub agent: AgentId,
    /// Which start of the agent.
    pub instance: InstanceId,
    pub(crate) handle: H,
    state: AtomicU8,
    calls: AtomicU32,
}

impl<H> LinkEntry<H> {
    pub(crate) fn new(newcomer: &Newcomer, id: LinkId, state: LinkState, handle: H) -> Self {
        Self {
            id,
            connector: newcomer.connector.clone(),
            agent: newcomer.agent,
            instance: newcomer.instance,
            handle,
            state: AtomicU8::new(state as u8),
            calls: AtomicU32::new(0),
        }
    }

    /// Whether the link takes new calls at this moment.
    #[must_use]
    pub fn state(&self) -> LinkState {
        match self.state.load(Ordering::Acquire) {
            0 => LinkState::Serving,
            1 => LinkState::Held,
            2 => LinkState::Superseded,
            3 => LinkState::Silent,
            4 => LinkState::Leaving,
            _ => LinkState::Gone,
        }
    }

    /// Changed only under the lock of the tenant's book.
    pub(crate) fn set_state(&self, state: LinkState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Calls of this replica that are in flight over this link.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Acquire)
    }

    pub(crate) fn call_started(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn call_ended(&self) {
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
