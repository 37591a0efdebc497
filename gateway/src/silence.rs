//! Silence in a stream, and when it has lasted.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep, sleep};

/// The time since something was last said.
#[derive(Debug)]
pub struct Silence {
    longest: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    /// Silence that begins now, and has lasted after `longest`.
    pub fn new(longest: Duration) -> Self {
        Self {
            longest,
            timer: Box::pin(sleep(longest)),
        }
    }

    /// Silence that has lasted already.
    pub fn lasted(longest: Duration) -> Self {
        Self {
            longest,
            timer: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// Something was said.
    pub fn end(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.longest);
    }

    /// Whether it has lasted; then it begins anew. Else, or after that, we are woken in time.
    pub fn has_lasted(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.end();
        // Polled once more so that the timer wakes us again.
        let _armed = self.timer.as_mut().poll(cx);
        true
    }
}
