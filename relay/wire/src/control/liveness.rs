//! Whether the other end lives: by bytes (the transport) and by probes (what serves calls).
//!
//! The agent pings and judges silence after a ping. The relay judges by arrival: a ping that is
//! overdue makes it probe, and silence after the probe is death. Bytes of any kind count against
//! the death of the transport, and only an answered `Probe` against that of the serving code.

use std::time::{Duration, Instant};

use super::Observation;
use crate::limits::{
    BUSY_AFTER_CALL, PING_BUSY, PING_IDLE, SECOND_LOOK, TRANSPORT_DEAD_MIN,
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

/// A wait for something that must come. That it was in vain is believed at the second look only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) since: Instant,
    /// The first look after the deadline.
    looked: Option<Instant>,
}

impl Wait {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            looked: None,
        }
    }

    /// When to look, where the wait is over at `deadline`.
    pub(super) fn look_at(&self, deadline: Instant) -> Instant {
        self.looked
            .map_or(deadline, |looked| deadline.max(looked + SECOND_LOOK))
    }

    /// Looks; whether it was in vain.
    pub(super) fn in_vain(&mut self, now: Instant, deadline: Instant) -> bool {
        if now < self.look_at(deadline) {
            return false;
        }
        self.looked.replace(now).is_some()
    }
}

/// The wait for anything to be heard after something was sent that the peer's transport answers.
#[derive(Debug, Default)]
pub(super) struct Silence(Option<Wait>);

impl Silence {
    /// Something that must be answered is sent now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.0.get_or_insert(Wait::new(now));
    }

    pub(super) fn broken(&mut self) {
        self.0 = None;
    }

    pub(super) fn update(&mut self, path: &Path) {
        if self.0.is_some_and(|wait| path.heard_at > wait.since) {
            self.broken();
        }
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.0.map(|wait| wait.since)
    }

    pub(super) fn look_at(&self, deadline: Instant) -> Option<Instant> {
        self.0.map(|wait| wait.look_at(deadline))
    }

    pub(super) fn is_death(&mut self, now: Instant, deadline: Instant) -> bool {
        self.0
            .as_mut()
            .is_some_and(|wait| wait.in_vain(now, deadline))
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
