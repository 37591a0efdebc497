//! When a dial loop tries again.

use std::time::{Duration, Instant};

use crate::limits::{BACKOFF_BASE, BACKOFF_CAP, BACKOFF_STABLE};

/// Exponential back-off with full jitter: the n-th wait is a random part of `base * 2^n`, at most
/// of the cap.
///
/// It starts over only after a link that was accepted *and* stood for a while: a relay that accepts
/// and hangs up at once would otherwise be dialled for ever at the fastest rate.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    accepted_at: Option<Instant>,
}

impl Backoff {
    /// The back-off of links: 500 ms to 30 s.
    #[must_use]
    pub fn new() -> Self {
        Self::with(BACKOFF_BASE, BACKOFF_CAP)
    }

    /// A back-off with other bounds.
    #[must_use]
    pub fn with(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap: cap.max(base),
            failures: 0,
            accepted_at: None,
        }
    }

    /// A link was accepted.
    pub fn accepted(&mut self, now: Instant) {
        self.accepted_at = Some(now);
    }

    /// An attempt failed or an accepted link ended: how long to wait before the next attempt.
    ///
    /// `random` is uniform over all of u64. Its wait is uniform from zero to the bound.
    pub fn next(&mut self, now: Instant, random: u64) -> Duration {
        let stood = self
            .accepted_at
            .take()
            .map(|at| now.saturating_duration_since(at));
        if stood.is_some_and(|stood| stood >= BACKOFF_STABLE) {
            self.failures = 0;
        }
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        scaled(bound, random)
    }

    /// Attempts that failed since the last start from the base.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The longest wait that [`Backoff::next`] can give after another failure.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// A uniform part of a span, which counts at most as 584 years: also for a `GoAway`'s smear.
#[must_use]
pub fn scaled(span: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let now = Instant::now();
        let mut backoff = Backoff::new();
        let bounds: Vec<u128> = (0..9)
            .map(|_| {
                let bound = backoff.bound().as_millis();
                assert!(backoff.next(now, u64::MAX).as_millis() <= bound);
                bound
            })
            .collect();
        assert_eq!(
            bounds,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        for _ in 0..100 {
            backoff.next(now, 0);
        }
        assert_eq!(backoff.bound(), BACKOFF_CAP);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(scaled(Duration::from_secs(8), 0), Duration::ZERO);
        assert_eq!(
            scaled(Duration::from_secs(8), 1 << 63),
            Duration::from_secs(4)
        );
        assert!(scaled(Duration::from_secs(8), u64::MAX) < Duration::from_secs(8));
        assert!(scaled(Duration::MAX, u64::MAX) > Duration::from_secs(1 << 33));
    }

    #[test]
    fn accepting_and_hanging_up_does_not_start_over() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.accepted(now);
            now += Duration::from_secs(1);
            backoff.next(now, 0);
        }
        assert_eq!(backoff.bound(), BACKOFF_CAP);
        backoff.accepted(now);
        now += BACKOFF_STABLE;
        backoff.next(now, 0);
        assert_eq!(backoff.failures(), 1);
        assert_eq!(backoff.bound(), 2 * BACKOFF_BASE);
    }
}
