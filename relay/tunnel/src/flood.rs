//! What is done about many handshakes at a time, before any certificate is looked at.
//!
//! Two bounds: how many are open, because each holds memory, and how many begin a second, because
//! each costs about a millisecond of a core that the links which stand need too. Above either an
//! address has to be proven first, which costs the peer a round trip and us nothing; above the
//! second, and far above the first, newcomers are refused.
//!
//! No single source takes more than a part of the second. Whoever has not proven its address may
//! write any, so what it takes is not taken from who has proven the same one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{HANDSHAKES_PER_CORE, REFUSE_ABOVE, RETRY_ABOVE, SOURCES_THAT_FILL_A_DOOR};
use crate::rate::{Rate, RatePer};
use crate::source::Source;

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

/// Handshakes that may begin a second at one door: a bucket of one second, and a smaller one for
/// each source.
#[derive(Debug)]
pub struct HandshakeRate {
    all: Mutex<Rate>,
    each: RatePer<(Source, Address)>,
}

/// What is known of the address that a newcomer writes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// It has answered from there.
    Proven,
    /// It may be anybody's.
    Claimed,
}

impl HandshakeRate {
    /// Permits `per_second` handshakes a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let share = (per_second / SOURCES_THAT_FILL_A_DOOR).max(1);
        Self {
            all: Mutex::new(Rate::new(per_second, per_second)),
            each: RatePer::new(share, share),
        }
    }

    /// [`HANDSHAKES_PER_CORE`] for each core of this machine.
    #[must_use]
    pub fn per_second_here() -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        HANDSHAKES_PER_CORE.saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX))
    }

    /// Takes the permit for one handshake, or says that it is one too many.
    pub(crate) fn take(&self, source: Source, address: Address, now: Instant) -> bool {
        self.each.take(&(source, address), now)
            && self.reserve_of_all(now, Duration::ZERO).is_some()
    }

    /// Waits for the permit of a source whose address is proven, each in its turn. Whether there
    /// is one within `longest`.
    pub async fn wait(&self, source: Source, longest: Duration) -> bool {
        let key = (source, Address::Proven);
        let Some(own) = self.each.reserve(&key, clock(), longest) else {
            return false;
        };
        rest(own).await;
        let left = longest.saturating_sub(own);
        let Some(turn) = self.reserve_of_all(clock(), left) else {
            return false;
        };
        rest(turn).await;
        true
    }

    fn reserve_of_all(&self, now: Instant, longest: Duration) -> Option<Duration> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.reserve(now, longest)
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Who does not have to wait is not made to: a timer counts in milliseconds.
async fn rest(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
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
        source: Source,
        address: Address,
        rate: &HandshakeRate,
        now: Instant,
    ) -> Verdict {
        if open >= self.refuse_above {
            return Verdict::Refuse;
        }
        let is_crowded = open >= self.retry_above && address == Address::Claimed;
        if !is_crowded && rate.take(source, address, now) {
            return Verdict::Begin;
        }
        match address {
            Address::Proven => Verdict::Refuse,
            Address::Claimed => Verdict::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address::{Claimed, Proven};
    use super::*;

    const FEW: FloodLimits = FloodLimits {
        retry_above: 2,
        refuse_above: 4,
    };

    fn source(last: u8) -> Source {
        Source::of(([192, 0, 2, last], 1).into())
    }

    #[test]
    fn open_handshakes_decide_whether_an_address_is_proven_or_refused() {
        let (rate, now) = (HandshakeRate::new(1_000), Instant::now());
        let judge = |open, address| FEW.judge(open, source(1), address, &rate, now);
        assert_eq!(judge(1, Claimed), Verdict::Begin);
        assert_eq!(judge(2, Claimed), Verdict::Retry);
        assert_eq!(judge(3, Proven), Verdict::Begin);
        assert_eq!(judge(4, Proven), Verdict::Refuse);
        assert_eq!(judge(4, Claimed), Verdict::Refuse);
    }

    #[test]
    fn above_the_rate_an_address_is_proven_and_a_proven_one_refused() {
        let (rate, start) = (HandshakeRate::new(10), Instant::now());
        let judge = |last, address, now| FEW.judge(0, source(last), address, &rate, now);
        for last in 0..10 {
            assert_eq!(judge(last, Claimed, start), Verdict::Begin);
        }
        assert_eq!(judge(10, Claimed, start), Verdict::Retry);
        assert_eq!(judge(10, Proven, start), Verdict::Refuse);
        // A tenth of a second later there is room for one more, whoever comes first.
        let later = start + Duration::from_millis(100);
        assert_eq!(judge(11, Proven, later), Verdict::Begin);
        assert_eq!(judge(12, Proven, later), Verdict::Refuse);
    }

    #[test]
    fn a_source_takes_its_share_and_nobody_takes_that_in_its_name() {
        let (rate, now) = (HandshakeRate::new(30), Instant::now());
        let judge = |last, address| FEW.judge(0, source(last), address, &rate, now);
        for _ in 0..10 {
            assert_eq!(judge(1, Claimed), Verdict::Begin);
        }
        assert_eq!(judge(1, Claimed), Verdict::Retry);
        assert_eq!(judge(2, Claimed), Verdict::Begin);
        for _ in 0..10 {
            assert_eq!(judge(1, Proven), Verdict::Begin);
        }
        assert_eq!(judge(1, Proven), Verdict::Refuse);
        assert_eq!(judge(2, Proven), Verdict::Begin);
    }

    #[test]
    fn an_address_that_is_to_be_proven_first_takes_no_permit() {
        let (rate, now) = (HandshakeRate::new(1), Instant::now());
        let judge = |address| FEW.judge(2, source(1), address, &rate, now);
        for _ in 0..5 {
            assert_eq!(judge(Claimed), Verdict::Retry);
        }
        assert_eq!(judge(Proven), Verdict::Begin);
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_wait_gets_its_turn_within_its_time() {
        let rate = HandshakeRate::new(10);
        let start = tokio::time::Instant::now();
        let second = Duration::from_secs(1);
        for last in 0..12 {
            assert!(rate.wait(source(last), second).await);
        }
        let took = start.elapsed();
        assert!((200..=210).contains(&took.as_millis()), "{took:?}");
        assert!(!rate.wait(source(20), Duration::from_millis(50)).await);
    }

    #[test]
    fn a_machine_takes_300_a_second_for_each_core() {
        assert_eq!(HANDSHAKES_PER_CORE, 300);
        let here = HandshakeRate::per_second_here();
        assert!(here >= 300 && here.is_multiple_of(300), "{here}");
    }
}
