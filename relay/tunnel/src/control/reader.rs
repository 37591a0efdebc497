//! The receiving half of a control stream: chunks in, frames out.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_wire::{ControlDecoder, FrameError};

use super::Happening;
use crate::limits::CHUNKS_PER_READ;
use crate::stream::{HalfError, RecvHalf};

#[derive(Debug)]
pub(super) struct ControlReader {
    recv: RecvHalf,
    decoder: ControlDecoder,
    ahead: VecDeque<Bytes>,
}

impl ControlReader {
    pub(super) fn new(recv: RecvHalf) -> Self {
        Self {
            recv,
            decoder: ControlDecoder::new(),
            ahead: VecDeque::new(),
        }
    }

    pub(super) async fn frame<C>(&mut self) -> Happening<C> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    fn poll_frame<C>(&mut self, cx: &mut Context<'_>) -> Poll<Happening<C>> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Poll::Ready(Happening::Frame(frame)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Happening::Broken(error)),
            }
            if let Some(chunk) = self.ahead.pop_front() {
                self.decoder.push(chunk);
                continue;
            }
            let mut chunks: [Bytes; CHUNKS_PER_READ] = Default::default();
            match ready!(self.recv.poll_read(cx, &mut chunks)) {
                Ok(Some(count)) => self.ahead.extend(chunks.into_iter().take(count)),
                Ok(None) => return Poll::Ready(Happening::Finished),
                Err(HalfError::Peer(_)) => {
                    return Poll::Ready(Happening::Broken(FrameError::Cut));
                }
                Err(HalfError::Lost) => return Poll::Ready(Happening::Lost),
            }
        }
    }
}
