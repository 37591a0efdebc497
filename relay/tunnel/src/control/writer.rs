//! The sending half of a control stream: frames that wait, and how long they have waited.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use culvert_wire::limits::SECOND_LOOK;
use culvert_wire::{ControlFrame, FrameError};

use super::{Happening, now};
use crate::limits::{CONTROL_BACKLOG, CONTROL_STALL};
use crate::stream::{HalfError, SendHalf};

#[derive(Debug)]
pub(super) struct ControlWriter {
    pub(super) send: SendHalf,
    pending: VecDeque<Bytes>,
    backlog: usize,
    progress: Progress,
}

impl ControlWriter {
    pub(super) fn new(send: SendHalf) -> Self {
        Self {
            send,
            pending: VecDeque::new(),
            backlog: 0,
            progress: Progress::Idle,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether no more frames are to be asked for.
    pub(super) fn is_full(&self) -> bool {
        self.backlog >= CONTROL_BACKLOG
    }

    pub(super) fn push(&mut self, frame: &ControlFrame) -> Result<(), FrameError> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes)?;
        self.backlog += bytes.len();
        self.pending.push_back(bytes.freeze());
        self.progress.waits(now());
        Ok(())
    }

    pub(super) async fn flushed<C>(&mut self) -> Happening<C> {
        match poll_fn(|cx| self.poll_flush(cx)).await {
            Ok(()) => Happening::Nothing,
            Err(HalfError::Lost) => Happening::Lost,
            Err(HalfError::Peer(_)) => Happening::Broken(FrameError::Cut),
        }
    }

    /// When [`ControlWriter::has_stalled`] is to be asked, should nothing happen before.
    pub(super) fn stall_due(&self) -> Option<Instant> {
        self.progress.due()
    }

    /// Whether nothing was taken for so long that the peer does not read.
    pub(super) fn has_stalled(&mut self) -> bool {
        self.progress.has_stalled(now())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        while self.is_waiting() {
            let chunks = self.pending.make_contiguous();
            let (gone, bytes) = ready!(self.send.poll_write(cx, chunks))?;
            self.pending.drain(..gone);
            self.backlog = self
                .backlog
                .saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.progress = Progress::Waiting(now());
        }
        self.progress = Progress::Idle;
        Poll::Ready(Ok(()))
    }
}

/// Whether a stream takes what it is given.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing waits.
    Idle,
    /// Something waits, and nothing was taken since.
    Waiting(Instant),
    /// For too long, as a first look at this moment found. A process that stood still looks at its
    /// timers before its sockets, so a second look decides.
    Doubtful(Instant),
}

impl Progress {
    fn waits(&mut self, now: Instant) {
        if *self == Self::Idle {
            *self = Self::Waiting(now);
        }
    }

    fn due(&self) -> Option<Instant> {
        match *self {
            Self::Idle => None,
            Self::Waiting(since) => Some(since + CONTROL_STALL),
            Self::Doubtful(since) => Some(since + SECOND_LOOK),
        }
    }

    fn has_stalled(&mut self, now: Instant) -> bool {
        match *self {
            Self::Waiting(since) if now >= since + CONTROL_STALL => {
                *self = Self::Doubtful(now);
                false
            }
            Self::Doubtful(since) => now >= since + SECOND_LOOK,
            Self::Idle | Self::Waiting(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_believed_at_a_second_look() {
        let start = Instant::now();
        let mut progress = Progress::Idle;
        assert_eq!(progress.due(), None);
        progress.waits(start);
        progress.waits(start + CONTROL_STALL / 2);
        assert_eq!(progress.due(), Some(start + CONTROL_STALL));
        assert!(!progress.has_stalled(start + CONTROL_STALL / 2));
        let first = start + CONTROL_STALL;
        assert!(!progress.has_stalled(first));
        assert_eq!(progress.due(), Some(first + SECOND_LOOK));
        assert!(!progress.has_stalled(first + SECOND_LOOK / 2));
        assert!(progress.has_stalled(first + SECOND_LOOK));
    }
}
