//! The calls of one connection, counted: the opener's cap, the acceptor's permits, and idleness.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::error::OpenError;
use crate::limits::{CALLS_PER_CONNECTION, PERMITS_MAX, PERMITS_MIN};

/// Counts the calls of a connection.
#[derive(Debug)]
pub(crate) struct Calls {
    active: AtomicUsize,
    begun: AtomicU64,
    /// How often calls began while none was in flight.
    rises: AtomicU64,
    rise: Notify,
    /// No call may be opened any more.
    ended: AtomicBool,
    cap: usize,
    /// What the peer is permitted to have open, as the transport was last told.
    permits: AtomicUsize,
    /// Held while the transport is told, so that the last word told is the last one decided.
    telling: Mutex<()>,
    idle: Notify,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            active: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            rises: AtomicU64::new(0),
            rise: Notify::new(),
            ended: AtomicBool::new(false),
            cap: CALLS_PER_CONNECTION,
            permits: AtomicUsize::new(PERMITS_MIN),
            telling: Mutex::new(()),
            idle: Notify::new(),
        }
    }

    /// Calls in flight.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Calls begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// From now on this side opens no call.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Counts a call that this side opens.
    pub(crate) fn open(&self) -> Result<(), OpenError> {
        let before = self.active.fetch_add(1, Ordering::SeqCst);
        let refused = if self.ended.load(Ordering::SeqCst) {
            OpenError::Draining
        } else if before >= self.cap {
            OpenError::AtCap(self.cap)
        } else {
            self.began(before);
            return Ok(());
        };
        self.close();
        Err(refused)
    }

    /// Counts a call that the peer opened, and lets the permits follow.
    pub(crate) fn accept(&self, tell: impl FnOnce(usize)) {
        let before = self.active.fetch_add(1, Ordering::SeqCst);
        self.began(before);
        self.follow(tell);
    }

    /// Counts a call as done.
    pub(crate) fn close(&self) {
        if self.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Counts a call of the peer as done, and lets the permits follow.
    pub(crate) fn close_accepted(&self, tell: impl FnOnce(usize)) {
        self.close();
        self.follow(tell);
    }

    /// Resolves once no call is in flight.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.active() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Resolves with the number of rises from no call once it is another than was seen.
    pub(crate) async fn rise(&self, seen: u64) -> u64 {
        loop {
            let notified = self.rise.notified();
            let rises = self.rises.load(Ordering::SeqCst);
            if rises != seen {
                return rises;
            }
            notified.await;
        }
    }

    fn began(&self, before: usize) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.rises.fetch_add(1, Ordering::SeqCst);
            self.rise.notify_waiters();
        }
    }

    fn follow(&self, tell: impl FnOnce(usize)) {
        if permits_for(self.active(), self.permits.load(Ordering::Relaxed)).is_none() {
            return;
        }
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = permits_for(self.active(), self.permits.load(Ordering::Relaxed)) {
            self.permits.store(permits, Ordering::Relaxed);
            tell(permits);
        }
    }
}

/// The permits for so many calls in use, where they differ from those given. They grow as soon as
/// they are not twice what is in use and shrink once they are sixteen times it, so that a load
/// that swings by less than that costs nothing.
fn permits_for(in_use: usize, given: usize) -> Option<usize> {
    let wanted = (2 * in_use)
        .next_power_of_two()
        .clamp(PERMITS_MIN, PERMITS_MAX);
    (wanted > given || wanted <= given / 8).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_follow_what_is_in_use_and_shrink_late() {
        let mut given = PERMITS_MIN;
        for in_use in (0..=CALLS_PER_CONNECTION).chain((0..CALLS_PER_CONNECTION).rev()) {
            given = permits_for(in_use, given).unwrap_or(given);
            assert!((PERMITS_MIN..=PERMITS_MAX).contains(&given), "{given}");
            assert!(given >= 2 * in_use, "{given} for {in_use}");
            assert!(
                given <= PERMITS_MIN * 8 || given <= 40 * in_use,
                "{given} for {in_use}"
            );
        }
        assert_eq!(permits_for(128, PERMITS_MIN), None);
        assert_eq!(permits_for(129, PERMITS_MIN), Some(512));
    }

    #[test]
    fn the_cap_is_exact() {
        let calls = Calls::new();
        for _ in 0..CALLS_PER_CONNECTION {
            calls.open().unwrap();
        }
        assert_eq!(calls.open(), Err(OpenError::AtCap(CALLS_PER_CONNECTION)));
        assert_eq!(calls.active(), CALLS_PER_CONNECTION);
        calls.close();
        calls.open().unwrap();
    }

    #[tokio::test]
    async fn idle_is_told_when_the_last_call_ends() {
        let calls = Calls::new();
        calls.idle().await;
        calls.open().unwrap();
        calls.open().unwrap();
        let mut idle = std::pin::pin!(calls.idle());
        assert!(futures_util::poll!(idle.as_mut()).is_pending());
        calls.close();
        assert!(futures_util::poll!(idle.as_mut()).is_pending());
        calls.close();
        idle.await;
    }
}
