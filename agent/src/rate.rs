//! How many calls of a service may begin in a time: a bucket that fills evenly.

use std::time::{Duration, Instant};

/// `limits.rate`: so many calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSpec {
    /// Calls: as many may come at once, and this many in each such time from then on.
    pub calls: u32,
    /// The time in which they may.
    pub per: Duration,
}

/// The bucket, kept as the moment at which it will be full again.
#[derive(Debug)]
pub(crate) struct Bucket {
    spec: RateSpec,
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(spec: RateSpec) -> Self {
        Self {
            spec,
            full_at: None,
        }
    }

    /// Takes one call out, where there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let each = self.spec.per / self.spec.calls.max(1);
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + each;
        let fits = full_at.duration_since(now) <= self.spec.per;
        if fits {
            self.full_at = Some(full_at);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant, tries: u32) -> usize {
        (0..tries).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(RateSpec {
            calls: 60,
            per: Duration::from_secs(60),
        });
        let start = Instant::now();
        assert_eq!(taken(&mut bucket, start, 100), 60);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(900), 5), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1), 5), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(11), 50), 10);
        // Never more than the whole is saved up.
        assert_eq!(
            taken(&mut bucket, start + Duration::from_secs(9_999), 500),
            60
        );
    }

    #[test]
    fn one_is_one() {
        let mut bucket = Bucket::new(RateSpec {
            calls: 1,
            per: Duration::from_secs(3_600),
        });
        let start = Instant::now();
        assert_eq!(taken(&mut bucket, start, 3), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_599), 3), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600), 3), 1);
    }
}
