//! Which backend of a service takes a call: power of two choices over what is in flight,
//! among those that are not known to be down.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Backend;
use super::connect::ConnectError;
use crate::queue::Counted;

/// Failed probes in a row that put a backend out. A failed connection does at once.
const FAILURES_TO_EJECT: u8 = 2;

/// What is known of a backend, and how busy it is.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    standing: AtomicU8,
    failures: AtomicU8,
    in_flight: Arc<AtomicU32>,
    /// Moving average of the time to the head of an answer, in microseconds.
    latency_us: AtomicU64,
    reason: Mutex<Option<String>>,
    /// Woken when a call could not be brought to it.
    alarm: Arc<Notify>,
}

/// Whether a backend takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not tried yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not; probes go on, and the first good one takes it back.
    Down,
}

/// A call in a backend's count, until dropped.
#[derive(Debug)]
#[must_use]
pub struct InFlight(#[expect(dead_code, reason = "held for its drop")] Counted);

impl Endpoint {
    pub(crate) fn new(url: String, alarm: Arc<Notify>) -> Self {
        Self {
            url,
            standing: AtomicU8::new(UNKNOWN),
            failures: AtomicU8::new(0),
            in_flight: Arc::default(),
            latency_us: AtomicU64::new(0),
            reason: Mutex::default(),
            alarm,
        }
    }

    /// The url, as it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it takes calls.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            UP => Standing::Up,
            DOWN => Standing::Down,
            _ => Standing::Unknown,
        }
    }

    /// Why it is down.
    pub fn reason(&self) -> Option<String> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Calls that it works on.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The usual time to the head of an answer.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(Ordering::Relaxed))
    }

    /// A probe has succeeded.
    pub fn probe_passed(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.become_(UP, None);
    }

    /// A probe has failed.
    pub fn probe_failed(&self, reason: String) {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        // One that was never up has no credit.
        if failures >= FAILURES_TO_EJECT || self.standing() != Standing::Up {
            self.become_(DOWN, Some(reason));
        }
    }

    /// A call could not be brought to it: no other call waits for the next probe.
    pub(super) fn unreachable(&self, error: &ConnectError) {
        self.fell(crate::error::chain(error));
    }

    /// It is known to be down.
    pub(crate) fn fell(&self, reason: String) {
        self.become_(DOWN, Some(reason));
        self.trouble();
    }

    /// It is to be looked at soon.
    pub(crate) fn trouble(&self) {
        self.alarm.notify_one();
    }

    pub(crate) fn answered(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let old = self.latency_us.load(Ordering::Relaxed);
        let new = if old == 0 {
            time
        } else {
            old - old / 8 + time / 8
        };
        self.latency_us.store(new, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self) -> InFlight {
        InFlight(Counted::one(&self.in_flight))
    }

    fn become_(&self, standing: u8, reason: Option<String>) {
        let before = self.standing.swap(standing, Ordering::Relaxed);
        if before != standing {
            match &reason {
                Some(reason) => tracing::warn!(url = self.url, reason, "a backend is down"),
                None => tracing::info!(url = self.url, "a backend is up"),
            }
        }
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// The next backend to try, none of `tried`: of two taken by chance the less busy one, among
/// those not down; where all are down, among all, as a call that nobody tries to bring
/// somewhere is lost for certain.
pub(super) fn choose(list: &[Backend], tried: &[bool], chance: u64) -> Option<usize> {
    let loads: Vec<Candidate> = list
        .iter()
        .enumerate()
        .filter(|(at, _)| tried.get(*at) == Some(&false))
        .map(|(at, backend)| Candidate {
            at,
            down: backend.endpoint.standing() == Standing::Down,
            in_flight: backend.endpoint.in_flight(),
        })
        .collect();
    pick(&loads, chance)
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    at: usize,
    down: bool,
    in_flight: u32,
}

fn pick(all: &[Candidate], chance: u64) -> Option<usize> {
    let up: Vec<Candidate> = all.iter().filter(|c| !c.down).copied().collect();
    let among = if up.is_empty() { all } else { &up };
    let count = u64::try_from(among.len()).ok().filter(|n| *n > 0)?;
    let first = chance % count;
    // Another one than the first, each as likely.
    let second = match count {
        1 => first,
        _ => (first + 1 + (chance >> 32) % (count - 1)) % count,
    };
    let candidate = |n: u64| usize::try_from(n).ok().and_then(|n| among.get(n));
    let (first, second) = (candidate(first)?, candidate(second)?);
    Some(if second.in_flight < first.in_flight {
        second.at
    } else {
        first.at
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(list: &[(bool, u32)]) -> Vec<Candidate> {
        list.iter()
            .enumerate()
            .map(|(at, (down, in_flight))| Candidate {
                at,
                down: *down,
                in_flight: *in_flight,
            })
            .collect()
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let two = candidates(&[(false, 5), (false, 1)]);
        for chance in [0, 1, 1 << 32, u64::MAX] {
            assert_eq!(pick(&two, chance), Some(1));
        }
    }

    #[test]
    fn one_that_is_down_is_taken_only_if_all_are() {
        let one_down = candidates(&[(true, 0), (false, 9), (true, 0)]);
        for chance in 0..16 {
            assert_eq!(pick(&one_down, chance), Some(1));
        }
        assert!(pick(&candidates(&[(true, 0)]), 7).is_some());
        assert_eq!(pick(&[], 7), None);
    }

    #[test]
    fn equal_ones_share() {
        let equal = candidates(&[(false, 0); 4]);
        let mut taken = [0; 4];
        for chance in 0..64_u64 {
            if let Some(at) = pick(&equal, chance | chance << 32) {
                taken[at] += 1;
            }
        }
        assert_eq!(taken, [16; 4]);
    }

    #[test]
    fn two_failed_probes_put_out_and_one_good_takes_back() {
        let endpoint = Endpoint::new("http://h".to_owned(), Arc::default());
        assert_eq!(endpoint.standing(), Standing::Unknown);
        endpoint.probe_passed();
        endpoint.probe_failed("no".to_owned());
        assert_eq!(endpoint.standing(), Standing::Up);
        endpoint.probe_failed("no".to_owned());
        assert_eq!(endpoint.standing(), Standing::Down);
        assert_eq!(endpoint.reason().as_deref(), Some("no"));
        endpoint.probe_passed();
        assert_eq!(
            (endpoint.standing(), endpoint.reason()),
            (Standing::Up, None)
        );
        endpoint.unreachable(&ConnectError::NoAddress);
        assert_eq!(endpoint.standing(), Standing::Down);
    }
}
