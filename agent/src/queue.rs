//! How many calls a service makes at once, and how many wait for their turn.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::LimitSpec;
use crate::rate::Bucket;

/// The gate of one service.
#[derive(Clone, Debug)]
pub struct Gate {
    slots: Option<Arc<Semaphore>>,
    waiting: Arc<AtomicU32>,
    in_flight: Arc<AtomicU32>,
    rate: Option<Arc<Mutex<Bucket>>>,
    spec: LimitSpec,
}

/// What a call finds at the gate.
#[derive(Debug)]
pub enum Entry {
    /// It may go on at once.
    Now(Turn),
    /// It has a place in the queue.
    Wait(Ticket),
    /// Neither: the queue is full.
    Full,
}

/// A call that may be made; its place is free again when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _slot: Option<OwnedSemaphorePermit>,
    _in_flight: Counted,
}

/// A place in the queue.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    slots: Arc<Semaphore>,
    place: Counted,
    in_flight: Arc<AtomicU32>,
    wait: Duration,
}

/// `queue_wait` has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call waited too long for its turn")]
pub struct WaitedTooLong;

impl Gate {
    /// An empty one.
    pub fn new(spec: LimitSpec) -> Self {
        Self {
            slots: spec
                .concurrency
                .map(|n| Arc::new(Semaphore::new(usize::try_from(n).unwrap_or(usize::MAX)))),
            waiting: Arc::default(),
            in_flight: Arc::default(),
            rate: spec
                .rate
                .map(|rate| Arc::new(Mutex::new(Bucket::new(rate)))),
            spec,
        }
    }

    /// Whether the rate permits another call; it is counted where it does.
    pub fn permits(&self, now: Instant) -> bool {
        self.rate.as_ref().is_none_or(|bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(now)
        })
    }

    /// Asks to go through. Never waits: [`Ticket::turn`] does.
    pub fn enter(&self) -> Entry {
        let Some(slots) = &self.slots else {
            return Entry::Now(self.turn(None));
        };
        // Waiting calls are served in order by the semaphore, which hands a free slot to
        // the first of them: nobody who comes later finds it free.
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Entry::Now(self.turn(Some(slot)));
        }
        match Counted::below(&self.waiting, self.spec.queue) {
            None => Entry::Full,
            Some(place) => Entry::Wait(Ticket {
                slots: Arc::clone(slots),
                place,
                in_flight: Arc::clone(&self.in_flight),
                wait: self.spec.queue_wait,
            }),
        }
    }

    /// Calls being made now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Calls waiting now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Calls that may be made at once, where there is a limit.
    pub fn capacity(&self) -> Option<u32> {
        self.spec.concurrency
    }

    fn turn(&self, slot: Option<OwnedSemaphorePermit>) -> Turn {
        Turn {
            _slot: slot,
            _in_flight: Counted::one(&self.in_flight),
        }
    }
}

impl Ticket {
    /// Waits for a turn, at most `queue_wait`.
    ///
    /// # Errors
    /// [`WaitedTooLong`].
    pub async fn turn(self) -> Result<Turn, WaitedTooLong> {
        let slot = tokio::time::timeout(self.wait, self.slots.acquire_owned()).await;
        drop(self.place);
        match slot {
            Ok(Ok(slot)) => Ok(Turn {
                _slot: Some(slot),
                _in_flight: Counted::one(&self.in_flight),
            }),
            // The semaphore is never closed; a closed one would give no turn either.
            Ok(Err(_)) | Err(_) => Err(WaitedTooLong),
        }
    }
}

/// One of a count, until dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU32>);

impl Counted {
    pub(crate) fn one(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }

    fn below(count: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            })
            .ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: Option<u32>, queue: u32) -> Gate {
        Gate::new(LimitSpec {
            concurrency,
            queue,
            queue_wait: Duration::from_secs(10),
            rate: None,
        })
    }

    fn now(entry: Entry) -> Turn {
        match entry {
            Entry::Now(turn) => turn,
            Entry::Wait(_) | Entry::Full => panic!("it has to wait"),
        }
    }

    fn wait(entry: Entry) -> Ticket {
        match entry {
            Entry::Wait(ticket) => ticket,
            Entry::Now(_) | Entry::Full => panic!("it does not wait"),
        }
    }

    #[test]
    fn without_a_limit_everybody_goes_on() {
        let gate = gate(None, 0);
        let turns: Vec<Turn> = (0..100).map(|_| now(gate.enter())).collect();
        assert_eq!(gate.in_flight(), 100);
        drop(turns);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_a_length_and_an_order() {
        let gate = gate(Some(1), 2);
        let first = now(gate.enter());
        let second = wait(gate.enter());
        let third = wait(gate.enter());
        assert!(matches!(gate.enter(), Entry::Full));
        assert_eq!(gate.waiting(), 2);

        let mut second = tokio_test_poll(second.turn());
        let mut third = tokio_test_poll(third.turn());
        assert!(second.is_pending() && third.is_pending());
        drop(first);
        let turn = second.get().await.expect("a turn");
        assert!(third.is_pending());
        assert_eq!((gate.in_flight(), gate.waiting()), (1, 1));
        drop(turn);
        drop(third.get().await.expect("a turn"));
        assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_configured() {
        let gate = gate(Some(1), 1);
        let _first = now(gate.enter());
        let began = tokio::time::Instant::now();
        assert_eq!(wait(gate.enter()).turn().await.err(), Some(WaitedTooLong));
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(gate.waiting(), 0);
    }

    #[test]
    fn a_caller_that_goes_away_frees_its_place() {
        let gate = gate(Some(1), 1);
        let _first = now(gate.enter());
        drop(wait(gate.enter()));
        assert!(matches!(gate.enter(), Entry::Wait(_)));
    }

    /// A future that is polled by hand, once when made.
    struct Polled<F: Future>(std::pin::Pin<Box<F>>, Option<F::Output>);

    fn tokio_test_poll<F: Future>(future: F) -> Polled<F> {
        let mut polled = Polled(Box::pin(future), None);
        polled.is_pending();
        polled
    }

    impl<F: Future> Polled<F> {
        fn is_pending(&mut self) -> bool {
            use futures_util::FutureExt as _;
            if self.1.is_none() {
                self.1 = self.0.as_mut().now_or_never();
            }
            self.1.is_none()
        }

        async fn get(self) -> F::Output {
            match self.1 {
                Some(done) => done,
                None => self.0.await,
            }
        }
    }
}
