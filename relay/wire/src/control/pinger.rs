//! The agent's side of liveness: it pings, and judges the silence after a ping.

use std::time::{Duration, Instant};

use super::Observation;
use super::liveness::{Finding, Path, Silence, Verdict};
use crate::frame::{Ping, Pong};
use crate::limits::{LATE_TIMER, PING_IDLE, SERVING_DEAD};

/// The agent's side.
#[derive(Debug)]
pub(super) struct Pinger {
    path: Path,
    last: Instant,
    nonce: u64,
    silence: Silence,
    serving: RemoteServing,
}

/// What the agent knows of the relay's view.
#[derive(Clone, Copy, Debug)]
enum RemoteServing {
    /// Every ping has its pong.
    Answered,
    /// Pings since then have none.
    Waiting { since: Instant },
    /// It was found dead; said once.
    Dead,
}

/// What a pong brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PongSeen {
    /// From the ping to its pong, where it is the last one's.
    pub(super) round_trip: Option<Duration>,
    /// The relay has waited too long for a probe.
    pub(super) serving_dead: bool,
}

impl Pinger {
    /// Before the session: nothing is sent, nothing judged.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            path: Path::new(now),
            last: now,
            nonce: 0,
            silence: Silence::Broken,
            serving: RemoteServing::Answered,
        }
    }

    /// The session stands: the first ping is due one interval later.
    pub(super) fn start(&mut self, now: Instant) {
        self.last = now;
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

    pub(super) fn round_trip(&self) -> Duration {
        self.path.round_trip
    }

    /// The ping that is due, if one is.
    pub(super) fn ping(&mut self, now: Instant) -> Option<Ping> {
        if now < self.path.next_ping(self.last) {
            return None;
        }
        self.last = now;
        self.nonce += 1;
        self.silence.begin(now);
        if let RemoteServing::Answered = self.serving {
            self.serving = RemoteServing::Waiting { since: now };
        }
        Some(Ping { nonce: self.nonce })
    }

    /// Takes a pong; `None` where no such ping was sent.
    pub(super) fn pong(&mut self, now: Instant, pong: &Pong) -> Option<PongSeen> {
        if pong.nonce == 0 || pong.nonce > self.nonce {
            return None;
        }
        let of_last = pong.nonce == self.nonce;
        let waiting = Duration::from_millis(pong.probe_waiting_ms.unwrap_or(0));
        let was_dead = matches!(self.serving, RemoteServing::Dead);
        if waiting >= SERVING_DEAD {
            self.serving = RemoteServing::Dead;
        } else if !was_dead {
            // Pings after the one that is answered are younger than the limit still is long.
            self.serving = if of_last {
                RemoteServing::Answered
            } else {
                RemoteServing::Waiting { since: self.last }
            };
        }
        Some(PongSeen {
            round_trip: of_last.then(|| now.saturating_duration_since(self.last)),
            serving_dead: !was_dead && matches!(self.serving, RemoteServing::Dead),
        })
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Finding> {
        match self.silence.judge(now, self.silence_deadline()) {
            Verdict::Dead => return Some(Finding::TransportDead),
            Verdict::Missed => {
                // Make the next ping due, so that there is something to be answered.
                self.last = now.checked_sub(PING_IDLE).unwrap_or(self.last);
                self.serving = self.serving.restarted(now);
            }
            Verdict::Undecided => {}
        }
        let deadline = self.serving.deadline(&self.path)?;
        if now < deadline {
            return None;
        }
        if now > deadline + LATE_TIMER {
            self.serving = self.serving.restarted(now);
            return None;
        }
        self.serving = RemoteServing::Dead;
        Some(Finding::ServingDead)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let next = self.path.next_ping(self.last);
        [self.silence_deadline(), self.serving.deadline(&self.path)]
            .into_iter()
            .flatten()
            .fold(next, Instant::min)
    }

    fn silence_deadline(&self) -> Option<Instant> {
        self.silence
            .since()
            .map(|at| at + self.path.silence_limit())
    }
}

impl RemoteServing {
    /// Not before the silence has been judged: what is dead altogether is not dead in part.
    fn deadline(self, path: &Path) -> Option<Instant> {
        match self {
            Self::Waiting { since } => Some(since + SERVING_DEAD.max(path.silence_limit())),
            Self::Answered | Self::Dead => None,
        }
    }

    fn restarted(self, now: Instant) -> Self {
        match self {
            Self::Waiting { .. } => Self::Waiting { since: now },
            Self::Answered | Self::Dead => self,
        }
    }
}
