//! Writing the answer.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_wire::{BodyLength, CallFrame, Code, Head};
use http::{HeaderMap, Method};

use super::cancel::cancelled;
use super::{Ride, Shared, State, failed};
use crate::call::half_failed;
use crate::error::{CallError, Failure};

/// Writes the answer. Dropped before its end, the answer is cut: the stream is reset.
#[derive(Debug)]
pub struct AnswerWriter {
    shared: Arc<Shared>,
    method: Method,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Accepted,
    Body(BodyLength),
    Over,
}

impl AnswerWriter {
    pub(super) fn new(shared: Arc<Shared>, method: Method) -> Self {
        Self {
            shared,
            method,
            stage: Stage::Start,
        }
    }

    /// Tells the relay that the call has been taken, before anything else is waited for. While
    /// [`Self::cancelled`] is polled the word may wait [`ACCEPTED_RIDE`](crate::limits::ACCEPTED_RIDE)
    /// for the answer's head, to leave with it.
    ///
    /// # Errors
    /// The call was cancelled, or the connection is gone.
    pub async fn accept(&mut self) -> Result<(), CallError> {
        self.push_accepted()?;
        let ride = self.shared.answer().ride;
        match ride {
            Ride::Watch => Ok(()),
            Ride::Nobody => self.flush().await,
        }
    }

    /// Refuses the call: nothing of it has been offered to a backend.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] once the head was written.
    pub async fn refuse(mut self, code: Code) -> Result<(), CallError> {
        match self.stage {
            Stage::Start | Stage::Accepted => self.finish(&CallFrame::Refused(code)).await,
            Stage::Body(_) | Stage::Over => Err(failed(Failure::Violation(Code::Protocol))),
        }
    }

    /// Writes status and headers.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] for a second head, or one that cannot be sent.
    pub async fn head(&mut self, head: Head) -> Result<(), CallError> {
        self.push_head(head)?;
        self.flush().await
    }

    /// Writes a piece of the body, and waits until the transport has taken it.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Length`] above the declared length.
    pub async fn data(&mut self, piece: Bytes) -> Result<(), CallError> {
        self.push(piece)?;
        self.flush().await
    }

    /// Ends the body, with trailers or without: the answer is complete.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Length`] where other than the declared number of bytes was
    /// written, and the relay is told so.
    pub async fn end(mut self, trailers: HeaderMap) -> Result<(), CallError> {
        let Stage::Body(length) = self.stage else {
            return Err(failed(Failure::Violation(Code::Protocol)));
        };
        match length.end() {
            Ok(()) => self.finish(&CallFrame::End(trailers)).await,
            Err(_mismatch) => {
                self.finish(&CallFrame::Abort(Code::BackendProtocol))
                    .await?;
                Err(failed(Failure::Length))
            }
        }
    }

    /// Ends the answer before it is complete, in order: what was written arrives, and the code.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn abort(mut self, code: Code) -> Result<(), CallError> {
        if self.stage == Stage::Start {
            self.push_accepted()?;
        }
        self.finish(&CallFrame::Abort(code)).await
    }

    /// Tells the relay that no more of the request's body is wanted. What still comes is thrown
    /// away.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] before the call was accepted.
    pub async fn enough(&mut self) -> Result<(), CallError> {
        {
            let mut request = self.shared.request();
            if request.state != State::Body || request.intake.is_whole() {
                return Ok(());
            }
            if self.stage == Stage::Start {
                return Err(failed(Failure::Violation(Code::Protocol)));
            }
            request.state = State::Discarded;
            request.frames.discard();
        }
        // Whoever watches throws away from now on.
        self.shared.waiters.wake_other();
        self.push_frame(&CallFrame::Enough)?;
        self.flush().await
    }

    /// Cuts the answer with a code: what has not arrived is lost.
    pub fn reset(mut self, code: Code) {
        self.shared.answer().frames.send().reset(code);
        self.stage = Stage::Over;
    }

    /// Resolves when the opener has given the call up, or the connection is gone. It watches both
    /// directions for as long as it is polled, from before the call is accepted on: whatever the
    /// call waits for belongs into a `select` with it, this branch first.
    pub fn cancelled(&self) -> impl Future<Output = CallError> + Send + 'static + use<> {
        cancelled(self.shared.clone())
    }

    /// Adds `Accepted` to what the next flush takes.
    pub(crate) fn push_accepted(&mut self) -> Result<(), CallError> {
        if self.stage != Stage::Start {
            return Ok(());
        }
        self.push_frame(&CallFrame::Accepted)?;
        self.stage = Stage::Accepted;
        Ok(())
    }

    /// Adds the head.
    pub(crate) fn push_head(&mut self, head: Head) -> Result<(), CallError> {
        self.push_accepted()?;
        if self.stage != Stage::Accepted {
            return Err(failed(Failure::Violation(Code::Protocol)));
        }
        let length = BodyLength::new(head.declared_length(&self.method));
        self.push_frame(&CallFrame::Head(Box::new(head)))?;
        self.stage = Stage::Body(length);
        Ok(())
    }

    /// Adds a piece of the body.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), CallError> {
        let Stage::Body(length) = &mut self.stage else {
            return Err(failed(Failure::Violation(Code::Protocol)));
        };
        length
            .add(piece.len() as u64)
            .map_err(|_mismatch| failed(Failure::Length))?;
        self.shared.answer().frames.push_data(piece);
        Ok(())
    }

    /// Hands over what was pushed.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let flushed = self.shared.answer().frames.poll_flush(cx);
        flushed.map_err(|error| half_failed(error, true))
    }

    fn push_frame(&self, frame: &CallFrame) -> Result<(), CallError> {
        let pushed = self.shared.answer().frames.push(frame);
        pushed.map_err(|error| failed(Failure::Violation(error.code())))
    }

    async fn flush(&self) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes the last word and ends the stream.
    async fn finish(&mut self, last: &CallFrame) -> Result<(), CallError> {
        self.push_frame(last)?;
        self.flush().await?;
        self.shared.answer().frames.send().finish();
        self.stage = Stage::Over;
        Ok(())
    }
}

impl Drop for AnswerWriter {
    fn drop(&mut self) {
        if self.stage != Stage::Over {
            self.shared.answer().frames.send().reset(Code::AgentGone);
        }
    }
}
