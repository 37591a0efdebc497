//! The agent's side of liveness: it pings, and judges the silence after a ping.

use std::time::{Duration, Instant};

use super::Observation;
use super::liveness::{Finding, Path, Silence, Wait};
use crate::frame::{Ping, Pong};
use crate::limits::SERVING_DEAD;

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
    Waiting(Wait),
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
            silence: Silence::default(),
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
        self.silence.broken();
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
            self.serving = RemoteServing::Waiting(Wait::new(now));
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
                RemoteServing::Waiting(Wait::new(self.last))
            };
        }
        Some(PongSeen {
            round_trip: of_last.then(|| now.saturating_duration_since(self.last)),
            serving_dead: !was_dead && matches!(self.serving, RemoteServing::Dead),
        })
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Finding> {
        let limit = self.path.silence_limit();
        let silent_since = self.silence.since().unwrap_or(now);
        if self.silence.is_death(now, silent_since + limit) {
            return Some(Finding::TransportDead);
        }
        let RemoteServing::Waiting(wait) = &mut self.serving else {
            return None;
        };
        if !wait.in_vain(now, serving_deadline(wait.since, limit)) {
            return None;
        }
        self.serving = RemoteServing::Dead;
        Some(Finding::ServingDead)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let limit = self.path.silence_limit();
        let silence = self
            .silence
            .since()
            .and_then(|since| self.silence.look_at(since + limit));
        let serving = match self.serving {
            RemoteServing::Waiting(wait) => Some(wait.look_at(serving_deadline(wait.since, limit))),
            RemoteServing::Answered | RemoteServing::Dead => None,
        };
        let next = self.path.next_ping(self.last);
        [silence, serving]
            .into_iter()
            .flatten()
            .fold(next, Instant::min)
    }
}

/// Not before the silence has been judged: what is dead altogether is not dead in part.
pub(super) fn serving_deadline(since: Instant, silence_limit: Duration) -> Instant {
    since + SERVING_DEAD.max(silence_limit)
}
