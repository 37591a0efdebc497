//! What is done about many handshakes at a time, before any certificate is looked at.
//!
//! Two bounds: how many are open, because each holds memory, and how many begin a second, because
//! each costs about a millisecond of a core that the links which stand need too. Above either an
//! address has to be proven first, which costs the peer a round trip and us nothing; above the
//! second, and far above the first, newcomers are refused.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::{HANDSHAKES_PER_CORE, REFUSE_ABOVE, RETRY_ABOVE};
use crate::rate::Rate;

/// What a listener does about many handshakes that are open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// Open handshakes above which an address has to be proven first.
    pub retry_above: usize,
    /// Open handshakes above which newcomers are refused.
    pub refuse_above: usize,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            retry_above: RETRY_ABOVE,
            refuse_above: REFUSE_ABOVE,
        }
    }
}

/// Handshakes that may begin a second, over all the doors that share it: a bucket of one second.
#[derive(Debug)]
pub struct HandshakeRate(Mutex<Rate>);

impl HandshakeRate {
    /// Permits `per_second` handshakes a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self(Mutex::new(Rate::new(per_second, per_second)))
    }

    /// [`HANDSHAKES_PER_CORE`] for each core of this machine.
    #[must_use]
    pub fn per_second_here() -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        HANDSHAKES_PER_CORE.saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX))
    }

    /// Takes the permit for one handshake, or says that it is one too many.
    #[must_use]
    pub fn take(&self, now: Instant) -> bool {
        let mut rate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(now)
    }
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its handshake begins.
    Begin,
    /// It has to prove its address first.
    Retry,
    /// It is told to go away.
    Refuse,
}

impl FloodLimits {
    /// Decides about a newcomer while `open` handshakes are under way. A permit of the rate is
    /// taken only where the handshake begins.
    pub(crate) fn judge(
        self,
        open: usize,
        is_validated: bool,
        rate: &HandshakeRate,
        now: Instant,
    ) -> Verdict {
        if open >= self.refuse_above {
            return Verdict::Refuse;
        }
        let is_crowded = open >= self.retry_above && !is_validated;
        if !is_crowded && rate.take(now) {
            Verdict::Begin
        } else if is_validated {
            Verdict::Refuse
        } else {
            Verdict::Retry
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FEW: FloodLimits = FloodLimits {
        retry_above: 2,
        refuse_above: 4,
    };

    #[test]
    fn open_handshakes_decide_whether_an_address_is_proven_or_refused() {
        let (rate, now) = (HandshakeRate::new(1_000), Instant::now());
        let judge = |open, validated| FEW.judge(open, validated, &rate, now);
        assert_eq!(judge(1, false), Verdict::Begin);
        assert_eq!(judge(2, false), Verdict::Retry);
        assert_eq!(judge(3, true), Verdict::Begin);
        assert_eq!(judge(4, true), Verdict::Refuse);
        assert_eq!(judge(4, false), Verdict::Refuse);
    }

    #[test]
    fn above_the_rate_an_address_is_proven_and_a_proven_one_refused() {
        let (rate, start) = (HandshakeRate::new(10), Instant::now());
        let judge = |validated, now| FEW.judge(0, validated, &rate, now);
        for _ in 0..10 {
            assert_eq!(judge(false, start), Verdict::Begin);
        }
        assert_eq!(judge(false, start), Verdict::Retry);
        assert_eq!(judge(true, start), Verdict::Refuse);
        // A tenth of a second later there is room for one more, whoever comes first.
        let later = start + Duration::from_millis(100);
        assert_eq!(judge(true, later), Verdict::Begin);
        assert_eq!(judge(true, later), Verdict::Refuse);
    }

    #[test]
    fn an_address_that_is_to_be_proven_first_takes_no_permit() {
        let (rate, now) = (HandshakeRate::new(1), Instant::now());
        for _ in 0..5 {
            assert_eq!(FEW.judge(2, false, &rate, now), Verdict::Retry);
        }
        assert_eq!(FEW.judge(2, true, &rate, now), Verdict::Begin);
    }

    #[test]
    fn a_machine_takes_300_a_second_for_each_core() {
        assert_eq!(HANDSHAKES_PER_CORE, 300);
        let here = HandshakeRate::per_second_here();
        assert!(here >= 300 && here.is_multiple_of(300), "{here}");
    }
}
