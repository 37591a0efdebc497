//! A token bucket, with `now` as an argument.

use std::time::{Duration, Instant};

/// Permits so many events a second, and up to so many at once.
#[derive(Debug, Clone)]
pub struct Rate {
    interval: Duration,
    /// How far the next permitted moment may run ahead of now.
    slack: Duration,
    /// The theoretical arrival of the next event if all came evenly.
    next: Option<Instant>,
}

impl Rate {
    /// Permits `per_second` events a second, at least one, and up to `burst` at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self {
            interval,
            slack: interval * burst.saturating_sub(1),
            next: None,
        }
    }

    /// Takes one permit, or says that this event is one too many.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        let next = self.next.map_or(now, |next| next.max(now));
        if next > now + self.slack {
            return false;
        }
        self.next = Some(next + self.interval);
        true
    }

    /// Whether nothing is owed any more, so that forgetting this bucket changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut rate = Rate::new(50, 50);
        let at_once = (0..100).filter(|_| rate.take(start)).count();
        assert_eq!(at_once, 50);
        let within_a_second = (1..=1_000)
            .filter(|ms| rate.take(start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(within_a_second, 50);
    }

    #[test]
    fn a_pause_gives_back_no_more_than_the_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(10, 5);
        assert!(rate.take(start));
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 5);
        assert!(!rate.is_idle(later) && rate.is_idle(later + Duration::from_secs(1)));
    }
}
