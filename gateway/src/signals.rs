//! SIGTERM and SIGINT: the first one drains, the second one ends at once. SIGHUP ends nothing.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a process is sent.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To end.
    End,
    /// To take a changed configuration.
    Reload,
}

impl Signals {
    /// Takes them over from here on.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one, whatever it asks for.
    pub async fn any(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits for the next one that asks for the end.
    pub async fn next(&mut self) {
        while self.any().await != Asked::End {}
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_hangup_ends_nothing() {
        let mut signals = Signals::install().unwrap();
        let sent = Command::new("sh").args(["-c", "kill -HUP $PPID"]).status();
        assert!(sent.unwrap().success());
        let asked = timeout(Duration::from_secs(30), signals.any()).await;
        assert_eq!(asked.unwrap(), Asked::Reload);
    }
}
