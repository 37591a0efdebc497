//! The relay's side of liveness: it judges by what arrives, and probes what serves calls.

use std::time::Instant;

use super::liveness::{Finding, Path, Silence, Wait};
use super::pinger::serving_deadline;
use super::{Observation, earlier, millis};
use crate::frame::Pong;
use crate::limits::{PING_BUSY, PING_IDLE, PINGS_PER_PROBE};

/// The relay's side.
#[derive(Debug)]
pub(super) struct Prober {
    path: Path,
    pings: u64,
    nonce: u64,
    silence: Silence,
    serving: Serving,
    last_good: Option<Instant>,
}

/// What the relay knows of the agent's serving code.
#[derive(Clone, Copy, Debug)]
enum Serving {
    /// No probe waits.
    Alive,
    /// Probes since then have no answer.
    Waiting(Wait),
    /// The same, for too long.
    Dead { since: Instant },
}

/// What a probe's answer brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeSeen {
    /// It was expected.
    Alive,
    /// It had been found dead.
    Back,
}

impl Prober {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            path: Path::new(now),
            pings: 0,
            nonce: 0,
            silence: Silence::default(),
            serving: Serving::Alive,
            last_good: None,
        }
    }

    /// The session stands: pings are expected from now on.
    pub(super) fn start(&mut self, now: Instant) {
        self.heard(now);
    }

    pub(super) fn observe(&mut self, now: Instant, seen: Observation) {
        self.path.observe(now, seen);
        self.silence.update(&self.path);
    }

    /// A frame has come, whatever the transport has counted by now.
    pub(super) fn heard(&mut self, now: Instant) {
        self.path.heard_at = now;
        self.silence.broken();
    }

    pub(super) fn calls_in_flight(&self) -> u32 {
        self.path.calls_in_flight
    }

    /// Takes a ping; a probe's nonce where one is due with it: with the first ping, each tenth, and
    /// every one while the serving code counts as dead.
    pub(super) fn ping(&mut self, now: Instant) -> Option<u64> {
        let due = self.pings.is_multiple_of(PINGS_PER_PROBE);
        self.pings += 1;
        match self.serving {
            Serving::Alive if due => Some(self.probe(now)),
            Serving::Dead { .. } => Some(self.probe(now)),
            Serving::Alive | Serving::Waiting(_) => None,
        }
    }

    /// Somebody doubts; a probe's nonce unless one is waiting already.
    pub(super) fn suspect(&mut self, now: Instant) -> Option<u64> {
        match self.serving {
            Serving::Alive => Some(self.probe(now)),
            Serving::Waiting(_) | Serving::Dead { .. } => None,
        }
    }

    /// Takes a probe's answer; `None` where no such probe was sent, or it is of no interest.
    pub(super) fn answered(&mut self, now: Instant, nonce: u64) -> Option<ProbeSeen> {
        if nonce == 0 || nonce > self.nonce {
            return None;
        }
        self.heard(now);
        self.last_good = Some(now);
        let seen = match self.serving {
            Serving::Dead { .. } => ProbeSeen::Back,
            Serving::Alive | Serving::Waiting(_) => ProbeSeen::Alive,
        };
        self.serving = Serving::Alive;
        Some(seen)
    }

    pub(super) fn pong(&self, now: Instant, nonce: u64) -> Pong {
        let age = |since: Instant| millis(now.saturating_duration_since(since));
        let waiting = match self.serving {
            Serving::Alive => None,
            Serving::Waiting(wait) => Some(age(wait.since)),
            Serving::Dead { since } => Some(age(since)),
        };
        Pong {
            nonce,
            probe_age_ms: self.last_good.map(age),
            probe_waiting_ms: waiting,
        }
    }

    /// What has been found, and a probe's nonce where silence makes one due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> (Option<Finding>, Option<u64>) {
        let deadline = self.silence_deadline();
        if self.silence.is_death(now, deadline) {
            return (Some(Finding::TransportDead), None);
        }
        if let Serving::Waiting(wait) = &mut self.serving
            && wait.in_vain(now, serving_deadline(wait.since, self.path.silence_limit()))
        {
            self.serving = Serving::Dead { since: wait.since };
            return (Some(Finding::ServingDead), None);
        }
        if self.ping_overdue().is_some_and(|overdue| now >= overdue) {
            return (None, Some(self.probe(now)));
        }
        (None, None)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.silence.look_at(self.silence_deadline());
        let serving = match self.serving {
            Serving::Waiting(wait) => {
                let limit = self.path.silence_limit();
                Some(wait.look_at(serving_deadline(wait.since, limit)))
            }
            Serving::Alive | Serving::Dead { .. } => None,
        };
        earlier(earlier(silence, self.ping_overdue()), serving)
    }

    /// A new probe goes out. What waits goes on waiting since the first one.
    fn probe(&mut self, now: Instant) -> u64 {
        self.nonce += 1;
        self.silence.begin(now);
        if let Serving::Alive = self.serving {
            self.serving = Serving::Waiting(Wait::new(now));
        }
        self.nonce
    }

    /// When a silence on which no probe was spent is long enough for a doubt.
    fn ping_overdue(&self) -> Option<Instant> {
        let spent = self.silence.since().is_some();
        (!spent).then(|| self.ping_due() + self.path.silence_limit())
    }

    /// When a silence after a probe is death. The agent may be bound to say nothing but its next
    /// ping: over TCP nobody sees the acknowledgements.
    fn silence_deadline(&self) -> Instant {
        let due = self.ping_due();
        self.silence.since().map_or(due, |since| since.max(due)) + self.path.silence_limit()
    }

    /// When the agent's next ping is to be expected at the latest. A link that has just become busy
    /// is given the time to notice it.
    fn ping_due(&self) -> Instant {
        let heard = self.path.heard_at;
        let idle = heard + PING_IDLE;
        let busy = heard.max(self.path.busy_since) + PING_BUSY;
        if busy < self.path.busy_until {
            idle.min(busy)
        } else {
            idle
        }
    }
}
