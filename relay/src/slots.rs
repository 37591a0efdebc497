//! Places that are counted, in all and for each of those who take them.
//!
//! Whoever is not linked yet is let in by number: a cap on all bounds what is occupied, and a cap
//! on each keeps one tenant or address from occupying it alone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Places for at most so many at a time.
#[derive(Debug)]
pub(crate) struct Slots<K: Eq + Hash> {
    total: usize,
    each: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    count: usize,
    /// Holds no key whose count is zero, so that it is never larger than `total`.
    by_key: HashMap<K, usize>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot<K: Eq + Hash> {
    slots: Arc<Slots<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// `total` places, of which one key may take `each`.
    pub(crate) fn new(total: usize, each: usize) -> Arc<Self> {
        let taken = Taken {
            count: 0,
            by_key: HashMap::new(),
        };
        Arc::new(Self {
            total,
            each,
            taken: Mutex::new(taken),
        })
    }

    /// Takes a place, if there is one for this key.
    pub(crate) fn take(self: &Arc<Self>, key: &K) -> Option<Slot<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_key.get(key).copied().unwrap_or(0);
        if taken.count >= self.total || own >= self.each {
            return None;
        }
        taken.count += 1;
        taken.by_key.insert(key.clone(), own + 1);
        Some(Slot {
            slots: Arc::clone(self),
            key: key.clone(),
        })
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let taken = self.slots.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.count = taken.count.saturating_sub(1);
        if let Some(own) = taken.by_key.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_and_come_back() {
        let slots = Slots::new(3, 2);
        let first = slots.take(&"a").unwrap();
        let _second = slots.take(&"a").unwrap();
        assert!(slots.take(&"a").is_none(), "a has its share");
        let _third = slots.take(&"b").unwrap();
        assert!(slots.take(&"c").is_none(), "no place is left");
        drop(first);
        let again = slots.take(&"c").unwrap();
        assert!(slots.take(&"a").is_none());
        drop(again);
        assert!(slots.take(&"a").is_some());
    }

    #[test]
    fn who_has_no_place_is_forgotten() {
        let slots = Slots::new(10, 1);
        for key in 0..100 {
            drop(slots.take(&key).unwrap());
        }
        assert!(slots.taken.lock().unwrap().by_key.is_empty());
    }
}
