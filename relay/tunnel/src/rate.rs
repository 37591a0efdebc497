//! A token bucket, and one for each key; `now` is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
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
        self.reserve(now, Duration::ZERO).is_some()
    }

    /// Books one permit, and says after which time it may be used; `None` where that is longer
    /// than `longest`.
    #[must_use]
    pub fn reserve(&mut self, now: Instant, longest: Duration) -> Option<Duration> {
        let next = self.next.map_or(now, |next| next.max(now));
        let wait = next.saturating_duration_since(now + self.slack);
        if wait > longest {
            return None;
        }
        self.next = Some(next + self.interval);
        Some(wait)
    }

    /// Whether nothing is owed any more, so that forgetting this bucket changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }
}

/// One [`Rate`] for each key; idle buckets are forgotten, so that the map holds only recent keys.
#[derive(Debug)]
pub struct RatePer<K> {
    fresh: Rate,
    buckets: Mutex<HashMap<K, Rate>>,
}

impl<K: Eq + Hash + Clone> RatePer<K> {
    /// Buckets above which idle ones are swept before another is added.
    const SWEEP_AT: usize = 1_024;

    /// For each key a bucket like [`Rate::new`].
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            fresh: Rate::new(per_second, burst),
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// As [`Rate::take`].
    #[must_use]
    pub fn take(&self, key: &K, now: Instant) -> bool {
        self.reserve(key, now, Duration::ZERO).is_some()
    }

    /// As [`Rate::reserve`].
    #[must_use]
    pub fn reserve(&self, key: &K, now: Instant, longest: Duration) -> Option<Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= Self::SWEEP_AT {
            buckets.retain(|_, rate| !rate.is_idle(now));
        }
        buckets
            .entry(key.clone())
            .or_insert_with(|| self.fresh.clone())
            .reserve(now, longest)
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

    #[test]
    fn what_is_booked_is_used_in_turn() {
        let start = Instant::now();
        let (mut rate, longest) = (Rate::new(10, 1), Duration::from_millis(250));
        let waits: Vec<_> = (0..5).map(|_| rate.reserve(start, longest)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [ms(0), ms(100), ms(200), None, None]);
    }

    #[test]
    fn keys_do_not_share_and_idle_ones_are_forgotten() {
        let start = Instant::now();
        let rates = RatePer::new(1, 1);
        for key in 0..RatePer::<u32>::SWEEP_AT {
            assert!(rates.take(&key, start));
            assert!(!rates.take(&key, start));
        }
        assert!(rates.take(&usize::MAX, start + Duration::from_secs(2)));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
