//! Whether the other end lives: by bytes (the transport) and by probes (what serves calls).
//!
//! The agent pings and judges silence after a ping. The relay judges by arrival: a ping that is
//! overdue makes it probe, and silence after the probe is death. Bytes of any kind count against
//! the death of the transport, and only an answered `Probe` against that of the serving code.

use std::time::{Duration, Instant};

use super::Observation;
use crate::limits::{
    BUSY_AFTER_CALL, LATE_TIMER, PING_BUSY, PING_IDLE, TRANSPORT_DEAD_MIN,
    TRANSPORT_DEAD_ROUND_TRIPS,
};

/// What both ends know of their path.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) received_bytes: u64,
    /// When the last byte is known to have come.
    pub(super) heard_at: Instant,
    pub(super) round_trip: Duration,
    pub(super) calls_in_flight: u32,
    pub(super) calls_begun: u64,
    /// Since when calls have been in flight, or ended lately.
    pub(super) busy_since: Instant,
    pub(super) busy_until: Instant,
}

impl Path {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            received_bytes: 0,
            heard_at: now,
            round_trip: Duration::ZERO,
            calls_in_flight: 0,
            calls_begun: 0,
            busy_since: now,
            busy_until: now,
        }
    }

    pub(super) fn observe(&mut self, now: Instant, seen: Observation) {
        if seen.received_bytes != self.received_bytes {
            self.heard_at = now;
        }
        self.received_bytes = seen.received_bytes;
        self.round_trip = seen.round_trip;
        let busy = seen.calls_in_flight > 0
            || self.calls_in_flight > 0
            || seen.calls_begun > self.calls_begun;
        if busy {
            if self.busy_until <= now {
                self.busy_since = now;
            }
            self.busy_until = now + BUSY_AFTER_CALL;
        }
        self.calls_in_flight = seen.calls_in_flight;
        self.calls_begun = seen.calls_begun;
    }

    /// Longest silence of a live path after something that it answers.
    pub(super) fn silence_limit(&self) -> Duration {
        TRANSPORT_DEAD_MIN.max(self.round_trip * TRANSPORT_DEAD_ROUND_TRIPS)
    }

    /// When the ping after one at `last` is due.
    pub(super) fn next_ping(&self, last: Instant) -> Instant {
        let busy = last + PING_BUSY;
        if self.calls_in_flight > 0 || busy <= self.busy_until {
            busy
        } else {
            last + PING_IDLE
        }
    }
}

/// Something was sent that the peer's transport answers; what has been heard since?
#[derive(Clone, Copy, Debug)]
pub(super) enum Silence {
    /// Something has.
    Broken,
    /// Nothing has since `at`. `again`: judged once before, too late to count.
    Since { at: Instant, again: bool },
}

/// What a silence means when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Undecided,
    /// We were not running when it was to be judged: what came meanwhile may not have been read.
    Missed,
    Dead,
}

impl Silence {
    /// Something that must be answered is sent now.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Self::Broken = self {
            *self = Self::Since {
                at: now,
                again: false,
            };
        }
    }

    pub(super) fn update(&mut self, path: &Path) {
        if let Self::Since { at, .. } = self
            && path.heard_at > *at
        {
            *self = Self::Broken;
        }
    }

    /// Since when it lasts.
    pub(super) fn since(self) -> Option<Instant> {
        match self {
            Self::Broken => None,
            Self::Since { at, .. } => Some(at),
        }
    }

    /// Judges it. After `Missed` it lasts from now on, and is judged for good the next time.
    pub(super) fn judge(&mut self, now: Instant, deadline: Option<Instant>) -> Verdict {
        let (Self::Since { again, .. }, Some(deadline)) = (*self, deadline) else {
            return Verdict::Undecided;
        };
        if now < deadline {
            Verdict::Undecided
        } else if now > deadline + LATE_TIMER && !again {
            *self = Self::Since {
                at: now,
                again: true,
            };
            Verdict::Missed
        } else {
            Verdict::Dead
        }
    }
}

/// What a look at the clock brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing has been heard for too long.
    TransportDead,
    /// What serves calls does not answer.
    ServingDead,
}
