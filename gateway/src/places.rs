//! How many connections there may be at once; the number may change while they stand.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The places for connections.
#[derive(Debug)]
pub struct Places {
    counts: Mutex<Counts>,
    freed: Notify,
}

#[derive(Debug)]
struct Counts {
    most: usize,
    held: usize,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// At most this many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::new(Counts { most, held: 0 }),
            freed: Notify::new(),
        })
    }

    /// Changes how many there may be. Those above stay until they end by themselves.
    pub fn set_most(&self, most: usize) {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .most = most;
        self.freed.notify_waiters();
    }

    /// A place, as soon as there is one.
    pub async fn take(self: &Arc<Self>) -> Place {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on, a place that becomes free is not missed.
            freed.as_mut().enable();
            if self.try_take() {
                return Place(Arc::clone(self));
            }
            freed.await;
        }
    }

    fn try_take(&self) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let free = counts.held < counts.most;
        counts.held += usize::from(free);
        free
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .held -= 1;
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        pin::{Pin, pin},
        task::Poll,
    };

    use super::*;

    async fn now<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| {
            Poll::Ready(match future.as_mut().poll(cx) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let places = Places::new(1);
        let first = places.take().await;
        let mut second = pin!(places.take());
        assert!(now(second.as_mut()).await.is_none());
        drop(first);
        assert!(now(second.as_mut()).await.is_some());
    }

    #[tokio::test]
    async fn the_number_changes_while_they_stand() {
        let places = Places::new(1);
        let first = places.take().await;
        let mut second = pin!(places.take());
        assert!(now(second.as_mut()).await.is_none());
        places.set_most(2);
        let second = now(second.as_mut()).await.unwrap();
        places.set_most(1);
        drop(first);
        let mut third = pin!(places.take());
        assert!(
            now(third.as_mut()).await.is_none(),
            "one stands, and one is all"
        );
        drop(second);
        assert!(now(third.as_mut()).await.is_some());
    }
}
