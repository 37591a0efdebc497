//! A token bucket for each key, with `now` as an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use culvert_tunnel::Rate;

/// One [`Rate`] for each key; idle buckets are forgotten, so that the map holds only recent keys.
#[derive(Debug)]
pub(crate) struct RatePer<K> {
    fresh: Rate,
    buckets: Mutex<HashMap<K, Rate>>,
}

impl<K: Eq + Hash + Clone> RatePer<K> {
    /// Buckets above which idle ones are swept before another is added.
    const SWEEP_AT: usize = 1_024;

    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            fresh: Rate::new(per_second, burst),
            buckets: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn take(&self, key: &K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= Self::SWEEP_AT {
            buckets.retain(|_, rate| !rate.is_idle(now));
        }
        buckets
            .entry(key.clone())
            .or_insert_with(|| self.fresh.clone())
            .take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
