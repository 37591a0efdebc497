//! Writes that do not go on: a caller that takes nothing is let go of.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// Watches the writes of one connection.
#[derive(Debug)]
pub struct Stall {
    longest: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// For a connection that may wait for `longest` with not one byte taken.
    pub const fn new(longest: Duration) -> Self {
        Self {
            longest,
            waiting: None,
        }
    }

    /// What a write came to. The time runs from the first that has to wait until one that does not.
    pub fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(self.longest)));
        waiting
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, advance};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_never_goes_on_is_given_up() {
        let mut stall = Stall::new(LONGEST);
        let began = Instant::now();
        let ended = poll_fn(|cx| stall.watch::<usize>(cx, Poll::Pending)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Timers are as fine as a millisecond.
        let late = began.elapsed() - LONGEST;
        assert!(late <= Duration::from_millis(2), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_taken_begins_anew() {
        let mut stall = Stall::new(LONGEST);
        for _ in 0..3 {
            poll_fn(|cx| {
                assert!(stall.watch::<usize>(cx, Poll::Pending).is_pending());
                Poll::Ready(())
            })
            .await;
            advance(LONGEST * 2 / 3).await;
            let taken = poll_fn(|cx| stall.watch(cx, Poll::Ready(Ok(1)))).await;
            assert_eq!(taken.unwrap(), 1);
        }
    }
}
