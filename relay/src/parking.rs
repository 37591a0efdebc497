//! Answers whose callers do not read: each holds up to a stream's window, and all of them together
//! must not hold more than their link, their tenant and the replica may.
//!
//! A caller that reads slowly is no harm; one that has not taken the next piece for a second has
//! parked its answer. Above a budget the answers that were parked first are cut. So are answers whose
//! time is over: whoever does not read would not notice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_certs::TenantName;
use tokio::time::Instant;

use crate::answer::Live;
use crate::config::ParkedLimits;
use crate::limits::{PARKED_AFTER, PARKED_BYTES};
use crate::link::LinkId;

/// Calls on different threads enter different books.
const SHARDS: usize = 32;

/// All answers that stream at this moment.
#[derive(Debug)]
pub(crate) struct Parking {
    limits: ParkedLimits,
    /// Where the next answer is entered; the number is its name there.
    next: AtomicUsize,
    shards: [Mutex<Answers>; SHARDS],
}

type Answers = HashMap<usize, Arc<Live>>;

/// Keeps an answer in the books until dropped.
#[derive(Debug)]
pub(crate) struct Parked {
    parking: Arc<Parking>,
    number: usize,
}

impl Parking {
    pub(crate) fn new(limits: ParkedLimits) -> Self {
        Self {
            limits,
            next: AtomicUsize::new(0),
            shards: Default::default(),
        }
    }

    pub(crate) fn enter(self: &Arc<Self>, live: Arc<Live>) -> Parked {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).insert(number, live);
        Parked {
            parking: Arc::clone(self),
            number,
        }
    }

    /// Cuts what is past its deadline or above a budget, and says how many bytes the other parked
    /// answers may hold.
    pub(crate) fn sweep(&self, now: Instant) -> u64 {
        let mut parked: Vec<(Instant, Arc<Live>)> = Vec::new();
        for number in 0..SHARDS {
            // Looked at after the lock: an answer's own may take longer, and calls come and go.
            let live: Vec<_> = self.shard(number).values().cloned().collect();
            let waiting = live.into_iter().filter_map(|live| {
                live.check_deadline(now);
                let since = live.handed_over()?;
                Some((since, live))
            });
            parked.extend(
                waiting.filter(|(since, _)| now.saturating_duration_since(*since) >= PARKED_AFTER),
            );
        }
        parked.sort_by_key(|(since, _)| *since);
        let owners: Vec<_> = parked
            .iter()
            .map(|(_, live)| (live.link(), live.tenant()))
            .collect();
        let cut = above_budget(&owners, self.limits);
        for index in &cut {
            parked[*index].1.stall();
        }
        (parked.len() - cut.len()) as u64 * PARKED_BYTES
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Answers> {
        self.shards[number % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.parking.shard(self.number).remove(&self.number);
    }
}

/// Which of the parked answers, longest parked first, have to go so that the rest is within every
/// budget. Those parked last are kept, because their callers are the likeliest to come back.
fn above_budget(longest_first: &[(LinkId, &TenantName)], limits: ParkedLimits) -> Vec<usize> {
    let (mut links, mut tenants, mut total) = (HashMap::new(), HashMap::new(), 0);
    let mut above = Vec::new();
    for (index, (link, tenant)) in longest_first.iter().enumerate().rev() {
        let of_link: &mut u64 = links.entry(*link).or_default();
        let of_tenant: &mut u64 = tenants.entry(*tenant).or_default();
        let fits = *of_link + PARKED_BYTES <= limits.link
            && *of_tenant + PARKED_BYTES <= limits.tenant
            && total + PARKED_BYTES <= limits.total;
        if fits {
            *of_link += PARKED_BYTES;
            *of_tenant += PARKED_BYTES;
            total += PARKED_BYTES;
        } else {
            above.push(index);
        }
    }
    above
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use culvert_wire::SessionId;

    use super::*;

    const SMALL: ParkedLimits = ParkedLimits {
        link: 2 * PARKED_BYTES,
        tenant: 3 * PARKED_BYTES,
        total: 4 * PARKED_BYTES,
    };

    fn link(number: u8) -> LinkId {
        LinkId {
            session: SessionId::from_bytes([number; 16]),
            connection: 0,
        }
    }

    /// Whatever the sweep waits for, calls begin and end meanwhile.
    #[test]
    fn calls_do_not_wait_for_the_sweep() {
        let parking = Arc::new(Parking::new(SMALL));
        let slow = Arc::new(Live::over("acme".parse().unwrap(), link(1)));
        let _entered = parking.enter(Arc::clone(&slow));
        let patience = Duration::from_secs(30);
        std::thread::scope(|scope| {
            let held = slow.hold();
            let (swept, sweeps) = mpsc::channel();
            let sweeping = Arc::clone(&parking);
            scope.spawn(move || swept.send(sweeping.sweep(Instant::now())));
            // The sweep has taken the answer out of its book, and waits for it.
            let started = Instant::now();
            while Arc::strong_count(&slow) < 3 && started.elapsed() < patience {
                std::thread::yield_now();
            }
            let (entered, enters) = mpsc::channel();
            scope.spawn(move || {
                for _ in 0..SHARDS {
                    let live = Live::over("acme".parse().unwrap(), link(2));
                    drop(parking.enter(Arc::new(live)));
                }
                entered.send(())
            });
            let passed = enters.recv_timeout(patience);
            let still_sweeps = sweeps.try_recv().is_err();
            drop(held);
            passed.unwrap();
            assert!(still_sweeps);
            assert_eq!(sweeps.recv().unwrap(), 0);
        });
    }

    #[test]
    fn within_the_budgets_nothing_is_cut() {
        let tenant: TenantName = "acme".parse().unwrap();
        assert!(above_budget(&[], SMALL).is_empty());
        assert!(
            above_budget(
                &[(link(1), &tenant), (link(1), &tenant), (link(2), &tenant)],
                SMALL
            )
            .is_empty()
        );
    }

    #[test]
    fn above_a_budget_the_longest_parked_of_that_owner_goes_first() {
        let acme: TenantName = "acme".parse().unwrap();
        let other: TenantName = "other".parse().unwrap();
        let of_link = [
            (link(1), &acme),
            (link(9), &other),
            (link(1), &acme),
            (link(1), &acme),
        ];
        assert_eq!(above_budget(&of_link, SMALL), [0]);
        let of_tenant = [
            (link(1), &acme),
            (link(2), &acme),
            (link(3), &acme),
            (link(4), &acme),
        ];
        assert_eq!(above_budget(&of_tenant, SMALL), [0]);
        let total = [
            (link(1), &acme),
            (link(2), &other),
            (link(3), &acme),
            (link(4), &other),
            (link(5), &acme),
        ];
        assert_eq!(above_budget(&total, SMALL), [0]);
    }
}
