//! Frames on the halves of a stream: what both ends of a call read and write with.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use culvert_wire::{CallDecoder, CallFrame, CallItem, Data, FrameError};

use crate::limits::{BULK_AFTER, CHUNKS_PER_READ, INTERACTIVE_AFTER, READ_AHEAD};
use crate::stream::{HalfError, RecvHalf, SendHalf};

/// How reading ended without the peer's last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    Half(HalfError),
    Frame(FrameError),
}

/// Reads frames and pieces of bodies.
#[derive(Debug)]
pub(crate) struct FrameReader {
    recv: RecvHalf,
    decoder: CallDecoder,
    /// Chunks that have been taken from the transport and not been looked at.
    ahead: VecDeque<Bytes>,
    ahead_bytes: usize,
    source: Source,
}

/// What the transport has said about the rest.
#[derive(Clone, Copy, Debug)]
enum Source {
    Open,
    Finished,
    Failed(HalfError),
}

impl FrameReader {
    pub(crate) fn new(recv: RecvHalf, decoder: CallDecoder) -> Self {
        Self {
            recv,
            decoder,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            source: Source::Open,
        }
    }

    /// The next frame or piece of a body; `None` is the peer's FIN after its last word.
    pub(crate) fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<CallItem>, ReadError>> {
        loop {
            if let Some(item) = self.decoder.next_item().map_err(ReadError::Frame)? {
                return Poll::Ready(Ok(Some(item)));
            }
            if let Some(chunk) = self.ahead.pop_front() {
                self.ahead_bytes -= chunk.len();
                self.decoder.push(chunk);
                continue;
            }
            match self.source {
                Source::Open => ready!(self.poll_fill(cx)),
                Source::Finished => {
                    self.decoder.finish().map_err(ReadError::Frame)?;
                    return Poll::Ready(Ok(None));
                }
                Source::Failed(error) => return Poll::Ready(Err(ReadError::Half(error))),
            }
        }
    }

    /// Watches for the peer's reset, or the loss of the connection, while nobody wants items. What
    /// arrives meanwhile is kept, up to a bound, or thrown away; beyond the bound the watch is
    /// blind until items are read.
    pub(crate) fn poll_failed(&mut self, cx: &mut Context<'_>, discards: bool) -> Poll<HalfError> {
        loop {
            if discards {
                self.discard();
            }
            match self.source {
                Source::Failed(error) => return Poll::Ready(error),
                Source::Finished => return Poll::Pending,
                Source::Open if self.ahead_bytes >= READ_AHEAD => return Poll::Pending,
                Source::Open => ready!(self.poll_fill(cx)),
            }
        }
    }

    /// Forgets what was read ahead.
    pub(crate) fn discard(&mut self) {
        self.ahead.clear();
        self.ahead_bytes = 0;
    }

    pub(crate) fn recv(&mut self) -> &mut RecvHalf {
        &mut self.recv
    }

    /// Takes chunks from the transport: `Ready` says that something has changed.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut chunks: [Bytes; CHUNKS_PER_READ] = Default::default();
        match ready!(self.recv.poll_read(cx, &mut chunks)) {
            Ok(Some(count)) => {
                for chunk in chunks.into_iter().take(count) {
                    self.ahead_bytes += chunk.len();
                    self.ahead.push_back(chunk);
                }
            }
            Ok(None) => self.source = Source::Finished,
            Err(error) => self.source = Source::Failed(error),
        }
        Poll::Ready(())
    }
}

/// Writes frames and pieces of bodies. What is pushed waits until it is flushed, so that frames
/// which are known together leave together.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    send: SendHalf,
    pending: Vec<Bytes>,
    /// Chunks of `pending` that have gone.
    gone: usize,
    sent: bool,
    pace: Pace,
}

impl FrameWriter {
    pub(crate) fn new(send: SendHalf) -> Self {
        Self {
            send,
            pending: Vec::new(),
            gone: 0,
            sent: false,
            pace: Pace::default(),
        }
    }

    /// With a frame that is known already.
    pub(crate) fn starting_with(frame: Bytes, send: SendHalf) -> Self {
        let mut writer = Self::new(send);
        writer.pending.push(frame);
        writer
    }

    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: &CallFrame) -> Result<(), FrameError> {
        self.pending.push(encoded(frame)?);
        Ok(())
    }

    /// Adds a piece of a body: its header, and the piece itself without copying it.
    pub(crate) fn push_data(&mut self, mut piece: Bytes) {
        while !piece.is_empty() {
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            self.pending
                .push(Bytes::copy_from_slice(&Data { len }.header()));
            self.pending.push(piece.split_to(len as usize));
        }
    }

    /// Hands everything to the transport.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        while self.gone < self.pending.len() {
            if let Some(priority) = self.pace.before_write() {
                self.send.set_priority(priority);
            }
            let written = self.send.poll_write(cx, &mut self.pending[self.gone..]);
            let (chunks, bytes) = ready!(written)?;
            self.gone += chunks;
            self.sent = true;
            if let Some(priority) = self.pace.after_write(bytes) {
                self.send.set_priority(priority);
            }
        }
        self.pending.clear();
        self.gone = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether anything was handed to the transport.
    pub(crate) fn sent(&self) -> bool {
        self.sent
    }

    /// Whether nothing waits to be flushed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn send_half(&self) -> &SendHalf {
        &self.send
    }

    pub(crate) fn send(&mut self) -> &mut SendHalf {
        &mut self.send
    }
}

/// A frame's bytes.
pub(crate) fn encoded(frame: &CallFrame) -> Result<Bytes, FrameError> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes)?;
    Ok(bytes.freeze())
}

/// Rank of the control stream among the streams of its connection.
pub(crate) const CONTROL_PRIORITY: i32 = 1;
/// Rank of a call that has sent little: that of a stream that nobody has ranked.
const INTERACTIVE_PRIORITY: i32 = 0;
/// Rank of a call that has sent much.
const BULK_PRIORITY: i32 = -1;

/// A call's rank: the send window is shared by all streams, and a bulk transfer that fills it would
/// hold back another call's tokens for seconds.
#[derive(Debug)]
enum Pace {
    /// Has sent so many bytes since it was last silent.
    Interactive(u64),
    /// Has sent much; when it last did.
    Bulk(Instant),
}

impl Pace {
    /// The rank for what is about to be written, where it changes.
    fn before_write(&mut self) -> Option<i32> {
        match self {
            Self::Bulk(last) if last.elapsed() >= INTERACTIVE_AFTER => {
                *self = Self::default();
                Some(INTERACTIVE_PRIORITY)
            }
            Self::Bulk(_) | Self::Interactive(_) => None,
        }
    }

    /// The rank after so many bytes more, where it changes.
    fn after_write(&mut self, bytes: u64) -> Option<i32> {
        match self {
            Self::Interactive(sent) if *sent + bytes < BULK_AFTER => {
                *sent += bytes;
                None
            }
            Self::Interactive(_) => {
                *self = Self::Bulk(Instant::now());
                Some(BULK_PRIORITY)
            }
            Self::Bulk(last) => {
                *last = Instant::now();
                None
            }
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::Interactive(0)
    }
}

const _: () = assert!(CONTROL_PRIORITY > INTERACTIVE_PRIORITY);
const _: () = assert!(INTERACTIVE_PRIORITY > BULK_PRIORITY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_yields_after_much_and_recovers_after_silence() {
        let mut pace = Pace::default();
        assert_eq!(pace.after_write(BULK_AFTER - 1), None);
        assert_eq!(pace.before_write(), None);
        assert_eq!(pace.after_write(1), Some(BULK_PRIORITY));
        assert_eq!(pace.before_write(), None);
        assert_eq!(pace.after_write(BULK_AFTER), None);
        let Pace::Bulk(last) = &mut pace else {
            panic!("{pace:?}")
        };
        *last -= INTERACTIVE_AFTER;
        assert_eq!(pace.before_write(), Some(INTERACTIVE_PRIORITY));
        assert_eq!(pace.after_write(BULK_AFTER - 1), None);
    }
}
