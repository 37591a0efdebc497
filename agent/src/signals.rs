//! What the system tells the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::AgentError;

/// Hears it.
pub(crate) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

pub(crate) enum Told {
    Leave,
    Reload,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, AgentError> {
        let listen = |kind| {
            signal(kind).map_err(|error| AgentError::Internal(format!("no signals: {error}")))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.term.recv() => Told::Leave,
            _ = self.interrupt.recv() => Told::Leave,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    pub(crate) async fn leave(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}
