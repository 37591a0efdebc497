//! Probes: a stream that asks the code which serves calls for a sign of life.

use std::future::poll_fn;
use std::time::Duration;

use culvert_wire::{CallDecoder, CallFrame, CallItem, Code};
use tokio::time::{Instant, timeout};

use crate::call::{half_failed, read_failed, violation};
use crate::connection::{CallSlot, Connection};
use crate::error::{CallError, Failure};
use crate::frames::{FrameReader, FrameWriter};
use crate::limits::PROBE_TIMEOUT;
use crate::stream::SendHalf;

impl Connection {
    /// Asks the code that serves calls at the other end for a sign of life. Returns how long the
    /// answer took.
    ///
    /// # Errors
    /// No right answer within [`PROBE_TIMEOUT`], or the connection is gone.
    pub async fn probe(&self, nonce: u64) -> Result<Duration, CallError> {
        let started = Instant::now();
        match timeout(PROBE_TIMEOUT, self.exchange_probe(nonce)).await {
            Ok(answered) => answered.map(|()| started.elapsed()),
            Err(_elapsed) => Err(CallError::new(Failure::TimedOut, true)),
        }
    }

    async fn exchange_probe(&self, nonce: u64) -> Result<(), CallError> {
        // Not counted: a connection that carries all it may still has to prove itself.
        let lost = |_end| CallError::new(Failure::Lost, false);
        let (send, recv) = self.open_stream(Code::NotWanted).await.map_err(lost)?;
        let mut writer = FrameWriter::new(send);
        writer
            .push(&CallFrame::Probe(nonce))
            .map_err(|error| violation(self, error.code()))?;
        poll_fn(|cx| writer.poll_flush(cx))
            .await
            .map_err(|error| half_failed(error, true))?;
        let mut reader = FrameReader::new(recv, CallDecoder::probe_answer());
        let answer = poll_fn(|cx| reader.poll_item(cx)).await;
        match answer.map_err(|error| read_failed(self, error, true))? {
            Some(CallItem::Frame(CallFrame::ProbeAck(echo))) if echo == nonce => {
                writer.send().finish();
                Ok(())
            }
            Some(_) | None => Err(violation(self, Code::Protocol)),
        }
    }
}

/// A question whether whoever handles calls is alive.
#[derive(Debug)]
pub struct IncomingProbe {
    nonce: u64,
    send: SendHalf,
    frames: FrameReader,
    _slot: CallSlot,
}

impl IncomingProbe {
    pub(crate) fn new(nonce: u64, send: SendHalf, frames: FrameReader, slot: CallSlot) -> Self {
        Self {
            nonce,
            send,
            frames,
            _slot: slot,
        }
    }

    /// Answers it. To be called where calls are handled, and only if they could be.
    ///
    /// # Errors
    /// The peer has lost interest, or the connection is gone.
    pub async fn answer(self) -> Result<(), CallError> {
        let Self {
            nonce,
            send,
            mut frames,
            _slot,
        } = self;
        let mut writer = FrameWriter::new(send);
        writer
            .push(&CallFrame::ProbeAck(nonce))
            .map_err(|error| CallError::new(Failure::Violation(error.code()), true))?;
        poll_fn(|cx| writer.poll_flush(cx))
            .await
            .map_err(|error| half_failed(error, true))?;
        writer.send().finish();
        frames.recv().stop_on_drop_with(Code::NotWanted);
        Ok(())
    }
}
