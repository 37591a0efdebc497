//! What a server may write that nobody can use: a greeting does no harm, a flood does.

use std::time::Duration;

use tokio::time::Instant;

/// What is counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines that are no messages: many servers greet on the wrong stream.
const MAX_GARBAGE: u32 = 200;
/// Messages that reach nobody.
const MAX_LOST: u32 = 20_000;

/// The count of a process.
#[derive(Debug)]
pub(super) struct Noise {
    since: Instant,
    garbage: u32,
    lost: u32,
}

impl Noise {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            garbage: 0,
            lost: 0,
        }
    }

    /// A line was no message: whether that is too much.
    pub(super) fn garbage(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.garbage += 1;
        self.garbage > MAX_GARBAGE
    }

    /// A message reached nobody: whether that is too much.
    pub(super) fn lost(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.lost += 1;
        self.lost > MAX_LOST
    }

    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.since) > WINDOW {
            *self = Self::new(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_heard_out_and_a_flood_is_not() {
        let mut now = Instant::now();
        let mut noise = Noise::new(now);
        for _ in 0..3 {
            assert!((0..MAX_GARBAGE).all(|_| !noise.garbage(now)));
            now += WINDOW * 2;
        }
        assert!((0..MAX_GARBAGE).all(|_| !noise.garbage(now)));
        assert!(noise.garbage(now));
        assert!((0..MAX_LOST).all(|_| !noise.lost(now)));
        assert!(noise.lost(now));
    }
}
