//! What is known of one service over one link: its health, its load, and the time that it takes.
//!
//! Health reports and calls change it in place, so that neither rebuilds a view.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use culvert_wire::{ServiceHealth, ServiceState};

/// Health, load and measured time of one service over one link.
#[derive(Debug, Default)]
pub struct ServiceMeter {
    state: AtomicU8,
    /// Calls that this replica has in flight there.
    ours: AtomicU32,
    /// Calls that the agent says it has in flight for everybody.
    reported: AtomicU32,
    /// Calls that the agent takes at once; 0 is unknown.
    capacity: AtomicU32,
    /// Requests that wait inside the model server.
    waiting: AtomicU32,
    /// Moving average of the time to an answer's head, in microseconds; 0 is not measured yet.
    head_us: AtomicU64,
}

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl ServiceMeter {
    /// Takes over what the agent reports.
    pub(crate) fn report(&self, health: &ServiceHealth) {
        let state = match health.state {
            ServiceState::Up => UP,
            ServiceState::Down => DOWN,
            ServiceState::Unknown => UNKNOWN,
        };
        self.state.store(state, Ordering::Relaxed);
        self.reported.store(health.in_flight, Ordering::Relaxed);
        self.capacity.store(health.capacity, Ordering::Relaxed);
        let waiting = health.load.as_ref().map_or(0, |load| load.waiting);
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// What the agent's own probes say of the backend.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        match self.state.load(Ordering::Relaxed) {
            UP => ServiceState::Up,
            DOWN => ServiceState::Down,
            _ => ServiceState::Unknown,
        }
    }

    /// Calls in flight: what the agent reports or what this replica counts, whichever is more.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.ours
            .load(Ordering::Relaxed)
            .max(self.reported.load(Ordering::Relaxed))
    }

    /// Calls that the agent takes at once, where it says so.
    #[must_use]
    pub fn capacity(&self) -> Option<u32> {
        Some(self.capacity.load(Ordering::Relaxed)).filter(|capacity| *capacity > 0)
    }

    /// Moving average of the time to an answer's head, once one was measured.
    #[must_use]
    pub fn head_time(&self) -> Option<Duration> {
        Some(self.head_us.load(Ordering::Relaxed))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    /// What a call more would cost here, for comparison with another meter of the same service:
    /// the work in front of it, times the time that such work takes.
    pub(crate) fn cost(&self, usual: Duration) -> u128 {
        let in_flight = self.in_flight();
        let ahead = u128::from(in_flight) + u128::from(self.waiting.load(Ordering::Relaxed)) + 1;
        let time = self.head_time().unwrap_or(usual).as_micros().max(1);
        match self.capacity() {
            // A full agent queues, and may refuse: anybody with room comes first.
            Some(capacity) if in_flight >= capacity => ahead * time * 1_000,
            _ => ahead * time,
        }
    }

    pub(crate) fn call_started(&self) {
        self.ours.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn call_ended(&self) {
        self.ours.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a measured time to an answer's head. Failures are not measured: a backend that fails
    /// fast would attract calls.
    pub(crate) fn measured(&self, head: Duration) {
        let sample = u64::try_from(head.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.head_us.load(Ordering::Relaxed);
        let new = if old == 0 {
            sample
        } else {
            (old / 8 * 7).saturating_add(sample / 8).max(1)
        };
        // Two calls that end together may lose one sample of a moving average.
        self.head_us.store(new, Ordering::Relaxed);
    }
}
