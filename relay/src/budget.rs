//! What sending again may cost: a share of the calls, and a bounded amount of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Permits one repetition for every ten calls, so that a failing backend is not hit by a multiple
/// of its load. Each tenant has its own: one tenant's trouble never uses up another's repetitions.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// In hundredths of a repetition.
    saved: AtomicU64,
}

impl RetryBudget {
    /// What each call adds: a tenth of a repetition.
    const PER_CALL: u64 = 10;
    const PER_RETRY: u64 = 100;
    /// A quiet tenant may still repeat a few calls.
    const INITIAL: u64 = 10 * Self::PER_RETRY;
    /// Savings of a busy hour are not spent in one second.
    const MOST: u64 = 100 * Self::PER_RETRY;

    pub(crate) fn new() -> Self {
        Self {
            saved: AtomicU64::new(Self::INITIAL),
        }
    }

    /// Counts a call.
    pub(crate) fn deposit(&self) {
        // A lost race costs or gives a tenth of a repetition: not worth a loop.
        let saved = self.saved.load(Ordering::Relaxed);
        if saved < Self::MOST {
            self.saved.fetch_add(Self::PER_CALL, Ordering::Relaxed);
        }
    }

    /// Takes one repetition, if there is one.
    pub(crate) fn withdraw(&self) -> bool {
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
                saved.checked_sub(Self::PER_RETRY)
            })
            .is_ok()
    }
}

/// The bytes that all calls of a replica together may keep for sending again.
#[derive(Debug, Clone)]
pub(crate) struct ReplayMemory {
    free: Arc<AtomicUsize>,
}

impl ReplayMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    /// A share of this memory that starts empty and is given back when dropped.
    pub(crate) fn share(&self) -> ReplayShare {
        ReplayShare {
            memory: self.clone(),
            held: 0,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }
}

/// What one call holds of the [`ReplayMemory`].
#[derive(Debug)]
pub(crate) struct ReplayShare {
    memory: ReplayMemory,
    held: usize,
}

impl ReplayShare {
    /// Adds `bytes` to this share, or changes nothing where the memory is used up.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let taken = self
            .memory
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                free.checked_sub(bytes)
            })
            .is_ok();
        if taken {
            self.held += bytes;
        }
        taken
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn release(&mut self) {
        self.memory
            .free
            .fetch_add(std::mem::take(&mut self.held), Ordering::Relaxed);
    }
}

impl Drop for ReplayShare {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_ten_may_be_repeated() {
        let budget = RetryBudget::new();
        while budget.withdraw() {}
        let mut repeated = 0;
        for _ in 0..1_000 {
            budget.deposit();
            if budget.withdraw() {
                repeated += 1;
            }
        }
        assert_eq!(repeated, 100);
    }

    #[test]
    fn savings_are_bounded() {
        let budget = RetryBudget::new();
        for _ in 0..1_000_000 {
            budget.deposit();
        }
        let spent = (0..1_000).take_while(|_| budget.withdraw()).count();
        assert_eq!(spent, 100);
    }

    #[test]
    fn memory_is_given_back_on_drop_and_never_exceeded() {
        let memory = ReplayMemory::new(100);
        let mut one = memory.share();
        let mut two = memory.share();
        assert!(one.grow(60));
        assert!(!two.grow(41));
        assert!(two.grow(40));
        assert_eq!(memory.free(), 0);
        drop(one);
        assert_eq!(memory.free(), 60);
        two.release();
        assert_eq!((two.held(), memory.free()), (0, 100));
    }
}
