//! How many connections one source address may hold: no single host takes all places.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How often the log says that sources are refused.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Connections by source.
#[derive(Debug)]
pub struct Sources {
    held: Mutex<HashMap<IpAddr, usize>>,
    most: AtomicUsize,
    warned: Mutex<Option<Instant>>,
}

/// One connection of a source; given back when it is dropped.
#[derive(Debug)]
pub struct SourcePlace {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// At most this many for each.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            most: AtomicUsize::new(most),
            warned: Mutex::default(),
        })
    }

    /// Changes how many each may hold. Those above stay until they end by themselves.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether somebody should be told that a source was refused: once in a while.
    pub fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if due {
            *warned = Some(now);
        }
        due
    }

    /// One more for this source, if it may have it.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<SourcePlace> {
        let source = network(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.entry(source).or_default();
        if *own >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        *own += 1;
        Some(SourcePlace {
            sources: Arc::clone(self),
            source,
        })
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut held = self
            .sources
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.source);
            }
        }
    }
}

/// One host has a whole /64 of IPv6 to call from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_share() {
        let sources = Sources::new(2);
        let take = |text: &str| sources.take(text.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _mapped = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        let _other = take("192.0.2.2").unwrap();
        drop(first);
        let _again = take("192.0.2.1").unwrap();
        let _six = [take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()];
        assert!(take("2001:db8::3").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn the_log_says_it_once_in_a_while() {
        let (sources, now) = (Sources::new(1), Instant::now());
        assert!(sources.may_warn(now) && !sources.may_warn(now));
        assert!(sources.may_warn(now + WARN_EVERY));
    }

    #[test]
    fn nothing_is_kept_of_a_source_that_has_gone() {
        let sources = Sources::new(1);
        drop(sources.take([192, 0, 2, 1].into()).unwrap());
        assert!(sources.held.lock().unwrap().is_empty());
    }
}
