//! Answers whose callers do not read: each holds up to a stream's window, and all of them together
//! must not hold more than their link, their tenant and the replica may.
//!
//! A caller that reads slowly is no harm; one that has not taken the next piece for a second has
//! parked its answer. Above a budget the answers that were parked first are cut.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use culvert_certs::TenantName;
use tokio::time::Instant;

use crate::answer::Live;
use crate::config::ParkedLimits;
use crate::limits::{PARKED_AFTER, PARKED_BYTES};
use crate::link::LinkId;

/// All answers that stream at this moment.
#[derive(Debug)]
pub(crate) struct Parking {
    limits: ParkedLimits,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    live: HashMap<u64, Arc<Live>>,
    next: u64,
}

/// Keeps an answer in the books until dropped.
#[derive(Debug)]
pub(crate) struct Parked {
    parking: Weak<Parking>,
    number: u64,
}

impl Parking {
    pub(crate) fn new(limits: ParkedLimits) -> Self {
        Self {
            limits,
            answers: Mutex::default(),
        }
    }

    pub(crate) fn enter(self: &Arc<Self>, live: Arc<Live>) -> Parked {
        let mut answers = self.answers();
        let number = answers.next;
        answers.next += 1;
        answers.live.insert(number, live);
        Parked {
            parking: Arc::downgrade(self),
            number,
        }
    }

    /// Cuts what is above a budget, and says how many bytes the other parked answers may hold.
    pub(crate) fn sweep(&self, now: Instant) -> u64 {
        let mut parked: Vec<(Instant, Arc<Live>)> = {
            let answers = self.answers();
            let since =
                |live: &Arc<Live>| live.handed_over().map(|since| (since, Arc::clone(live)));
            let parked = answers.live.values().filter_map(since);
            parked
                .filter(|(since, _)| now.saturating_duration_since(*since) >= PARKED_AFTER)
                .collect()
        };
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

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(parking) = self.parking.upgrade() {
            parking.answers().live.remove(&self.number);
        }
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
