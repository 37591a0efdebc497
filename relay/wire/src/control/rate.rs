//! How often a peer may send.

use std::time::{Duration, Instant};

use crate::limits::BURST_SPAN;

/// One event per interval on average, and as many at once as [`BURST_SPAN`] holds.
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    /// When the next event would come if all had kept to the interval.
    next: Option<Instant>,
}

impl Rate {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: None,
        }
    }

    /// Counts an event; `false` where it is one too many.
    pub(super) fn permit(&mut self, now: Instant) -> bool {
        let next = self.next.map_or(now, |next| next.max(now));
        if next.saturating_duration_since(now) > BURST_SPAN {
            return false;
        }
        self.next = Some(next + self.interval);
        true
    }
}

/// The newest value of a kind that is sent at most once per interval.
#[derive(Debug)]
pub(super) struct Paced<T> {
    interval: Duration,
    value: Option<T>,
    last: Option<Instant>,
}

impl<T> Paced<T> {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            value: None,
            last: None,
        }
    }

    /// The value to send next, in place of one that has not been sent.
    pub(super) fn set(&mut self, value: T) {
        self.value = Some(value);
    }

    /// Counts what was sent by other means.
    pub(super) fn sent(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The value, once it may be sent.
    pub(super) fn take(&mut self, now: Instant) -> Option<T> {
        if self.value.is_none() || self.last.is_some_and(|last| now < last + self.interval) {
            return None;
        }
        self.last = Some(now);
        self.value.take()
    }

    /// When [`Paced::take`] gives the value; `None` where it has none or gives it now.
    pub(super) fn due(&self) -> Option<Instant> {
        self.value
            .as_ref()
            .and(self.last)
            .map(|last| last + self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let start = Instant::now();
        let mut rate = Rate::new(Duration::from_secs(1));
        let at_once = (0..1000).take_while(|_| rate.permit(start)).count();
        assert_eq!(at_once, 61);
        assert!(!rate.permit(start));
        assert!(rate.permit(start + Duration::from_secs(1)));
        let mut steady = Rate::new(Duration::from_secs(1));
        assert!((0..1000).all(|second| steady.permit(start + Duration::from_secs(second))));
    }

    #[test]
    fn only_the_newest_value_is_sent_and_not_too_soon() {
        let start = Instant::now();
        let mut paced = Paced::new(Duration::from_secs(1));
        paced.set(1);
        assert_eq!(paced.take(start), Some(1));
        paced.set(2);
        paced.set(3);
        assert_eq!(paced.take(start + Duration::from_millis(999)), None);
        assert_eq!(paced.due(), Some(start + Duration::from_secs(1)));
        assert_eq!(paced.take(start + Duration::from_secs(1)), Some(3));
        assert_eq!(paced.due(), None);
    }
}
