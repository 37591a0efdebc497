//! The relay's side of liveness: it judges by what arrives, and probes what serves calls.

use std::time::Instant;

use super::liveness::{Finding, Path, Silence, Verdict};
use super::{Observation, earlier, millis};
use crate::frame::Pong;
use crate::limits::{LATE_TIMER, PING_BUSY, PING_IDLE, PINGS_PER_PROBE, SERVING_DEAD};

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
    Waiting { since: Instant },
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
            silence: Silence::Broken,
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
        self.silence = Silence::Broken;
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
            Serving::Alive | Serving::Waiting { .. } => None,
        }
    }

    /// Somebody doubts; a probe's nonce unless one is waiting already.
    pub(super) fn suspect(&mut self, now: Instant) -> Option<u64> {
        match self.serving {
            Serving::Alive => Some(self.probe(now)),
            Serving::Waiting { .. } | Serving::Dead { .. } => None,
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
            Serving::Alive | Serving::Waiting { .. } => ProbeSeen::Alive,
        };
        self.serving = Serving::Alive;
        Some(seen)
    }

    pub(super) fn pong(&self, now: Instant, nonce: u64) -> Pong {
        let age = |since: Instant| millis(now.saturating_duration_since(since));
        let waiting = match self.serving {
            Serving::Alive => None,
            Serving::Waiting { since } | Serving::Dead { since } => Some(age(since)),
        };
        Pong {
            nonce,
            probe_age_ms: self.last_good.map(age),
            probe_waiting_ms: waiting,
        }
    }

    /// What has been found, and a probe's nonce where silence makes one due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> (Option<Finding>, Option<u64>) {
        match self.silence.judge(now, self.silence_deadline()) {
            Verdict::Dead => return (Some(Finding::TransportDead), None),
            Verdict::Missed => {
                self.restart_wait(now);
                return (None, Some(self.probe(now)));
            }
            Verdict::Undecided => {}
        }
        if let Some(deadline) = self.serving_deadline()
            && now >= deadline
        {
            if now > deadline + LATE_TIMER {
                self.restart_wait(now);
            } else if let Serving::Waiting { since } = self.serving {
                self.serving = Serving::Dead { since };
                return (Some(Finding::ServingDead), None);
            }
        }
        if self.ping_overdue().is_some_and(|overdue| now >= overdue) {
            return (None, Some(self.probe(now)));
        }
        (None, None)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let silence = earlier(self.silence_deadline(), self.ping_overdue());
        earlier(silence, self.serving_deadline())
    }

    /// A new probe goes out. What waits goes on waiting since the first one.
    fn probe(&mut self, now: Instant) -> u64 {
        self.nonce += 1;
        self.silence.begin(now);
        if let Serving::Alive = self.serving {
            self.serving = Serving::Waiting { since: now };
        }
        self.nonce
    }

    fn restart_wait(&mut self, now: Instant) {
        if let Serving::Waiting { since } = &mut self.serving {
            *since = now;
        }
    }

    /// When a silence on which no probe was spent is long enough for a doubt.
    fn ping_overdue(&self) -> Option<Instant> {
        match self.silence {
            Silence::Broken => Some(self.ping_due() + self.path.silence_limit()),
            Silence::Since { .. } => None,
        }
    }

    /// When a silence after a probe is death. The agent may be bound to say nothing but its next
    /// ping: over TCP nobody sees the acknowledgements.
    fn silence_deadline(&self) -> Option<Instant> {
        let at = self.silence.since()?;
        Some(at.max(self.ping_due()) + self.path.silence_limit())
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

    /// Not before the silence has been judged, as for the agent.
    fn serving_deadline(&self) -> Option<Instant> {
        match self.serving {
            Serving::Waiting { since } => Some(since + SERVING_DEAD.max(self.path.silence_limit())),
            Serving::Alive | Serving::Dead { .. } => None,
        }
    }
}
