//! Reading the answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use culvert_wire::{BodyLength, CallDecoder, CallFrame, CallItem, Code, Head};
use http::Method;

use super::Shared;
use crate::call::{Piece, read_failed, violation};
use crate::error::{CallError, Failure};
use crate::frames::FrameReader;
use crate::stream::RecvHalf;

/// Reads the answer to a call. Dropped before its end, the call is cancelled.
#[derive(Debug)]
pub struct AnswerReader {
    frames: FrameReader,
    shared: Arc<Shared>,
    method: Method,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Not even the agent's sign of life.
    Waiting,
    /// The agent has the call.
    Accepted,
    /// The body.
    Body(BodyLength),
    /// Complete.
    Complete,
    /// It will not be.
    Failed(CallError),
}

impl AnswerReader {
    pub(super) fn new(recv: RecvHalf, shared: Arc<Shared>, method: Method) -> Self {
        let frames = FrameReader::new(recv, CallDecoder::answer());
        Self {
            frames,
            shared,
            method,
            stage: Stage::Waiting,
        }
    }

    /// Waits until the agent has taken the call.
    ///
    /// # Errors
    /// [`CallError`], [`Failure::Refused`] among them.
    pub async fn accepted(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_accepted(cx)).await
    }

    /// Waits for status and headers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn head(&mut self) -> Result<Head, CallError> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// The next piece of the body; `None` after its end. To be called after [`Self::head`].
    ///
    /// # Errors
    /// [`CallError`]: the body is not whole, whatever has come of it.
    pub async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Gives the call up, with a code for the agent.
    pub fn cancel(mut self, code: Code) {
        self.frames.recv().stop_on_drop_with(code);
        if !self.is_over() {
            self.shared.cancel(code);
            self.stage = Stage::Failed(self.error(Failure::Cancelled));
        }
    }

    /// Whether anything of the call was handed to the transport.
    pub fn sent(&self) -> bool {
        self.shared.request().frames.sent()
    }

    /// Whether the answer has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// As [`Self::accepted`].
    pub fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &self.stage {
            Stage::Waiting => {}
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Accepted | Stage::Body(_) | Stage::Complete => return Poll::Ready(Ok(())),
        }
        match ready!(self.poll_frame(cx))? {
            CallItem::Frame(CallFrame::Accepted) => {
                self.stage = Stage::Accepted;
                Poll::Ready(Ok(()))
            }
            item @ (CallItem::Frame(_) | CallItem::Body(_)) => {
                Poll::Ready(Err(self.unexpected(&item)))
            }
        }
    }

    /// As [`Self::head`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, CallError>> {
        ready!(self.poll_accepted(cx))?;
        if self.stage != Stage::Accepted {
            // Head was read before.
            return Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))));
        }
        match ready!(self.poll_frame(cx))? {
            CallItem::Frame(CallFrame::Head(head)) => {
                let declared = head.declared_length(&self.method);
                self.stage = Stage::Body(BodyLength::new(declared));
                Poll::Ready(Ok(*head))
            }
            item @ (CallItem::Frame(_) | CallItem::Body(_)) => {
                Poll::Ready(Err(self.unexpected(&item)))
            }
        }
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        match &self.stage {
            Stage::Body(_) => {}
            Stage::Complete => return Poll::Ready(Ok(None)),
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Waiting | Stage::Accepted => {
                return Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))));
            }
        }
        loop {
            let item = ready!(self.poll_frame(cx))?;
            let Stage::Body(length) = &mut self.stage else {
                return Poll::Ready(Err(self.unexpected(&item)));
            };
            match item {
                CallItem::Frame(CallFrame::Data(_)) => {}
                CallItem::Body(piece) if length.add(piece.len() as u64).is_ok() => {
                    return Poll::Ready(Ok(Some(Piece::Data(piece))));
                }
                CallItem::Frame(CallFrame::End(trailers)) if length.end().is_ok() => {
                    self.complete(cx);
                    return Poll::Ready(Ok(Some(Piece::End(trailers))));
                }
                CallItem::Body(_) | CallItem::Frame(CallFrame::End(_)) => {
                    return Poll::Ready(Err(self.fail(Failure::Length, Code::BackendProtocol)));
                }
                item @ CallItem::Frame(_) => return Poll::Ready(Err(self.unexpected(&item))),
            }
        }
    }

    /// The next item but `Enough`; hands over first what of the request still waits.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<CallItem, CallError>> {
        self.flush_request(cx)?;
        loop {
            match ready!(self.frames.poll_item(cx)) {
                Ok(Some(CallItem::Frame(CallFrame::Enough))) => {
                    self.shared.enough()?;
                    self.flush_request(cx)?;
                }
                Ok(Some(item)) => return Poll::Ready(Ok(item)),
                Ok(None) => return Poll::Ready(Err(self.fail(Failure::Cut, Code::NotWanted))),
                Err(error) => {
                    let error = read_failed(self.shared.slot.connection(), error, self.sent());
                    self.shared.cancel(Code::NotWanted);
                    self.stage = Stage::Failed(error.clone());
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Nobody else may be left to do it: the writer ends with its last frame, and `Abort` after
    /// `Enough` is written by this side.
    fn flush_request(&mut self, cx: &Context<'_>) -> Result<(), CallError> {
        let mut request = self.shared.request();
        if request.frames.is_flushed() {
            return Ok(());
        }
        match request.poll_flush(&mut self.shared.waiters.other(cx)) {
            // A request that the agent reads no further: its answer says why.
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.shared.waiters.wake_owner();
                Ok(())
            }
            Poll::Ready(Err(error)) if error.failure == Failure::Lost && !error.sent => {
                drop(request);
                self.stage = Stage::Failed(error.clone());
                Err(error)
            }
            Poll::Ready(Err(_)) => Ok(()),
        }
    }

    /// The last word was read. A FIN that has come is taken; one that has not carries no meaning.
    fn complete(&mut self, cx: &mut Context<'_>) {
        self.shared.complete();
        self.stage = Stage::Complete;
        self.frames.recv().stop_on_drop_with(Code::NotWanted);
        // The decoder lets nothing pass behind the last word.
        drop(self.frames.poll_item(cx));
    }

    /// A frame that ends the call, or that the decoder should not have let pass.
    fn unexpected(&mut self, item: &CallItem) -> CallError {
        match item {
            CallItem::Frame(CallFrame::Refused(code)) => {
                self.fail(Failure::Refused(*code), Code::NotWanted)
            }
            CallItem::Frame(CallFrame::Abort(code)) => {
                self.fail(Failure::Aborted(*code), Code::NotWanted)
            }
            CallItem::Frame(_) | CallItem::Body(_) => {
                let error = violation(self.shared.slot.connection(), Code::Protocol);
                self.stage = Stage::Failed(error.clone());
                error
            }
        }
    }

    /// The call has failed; the agent is told the code where it is still busy with it.
    fn fail(&mut self, failure: Failure, tell: Code) -> CallError {
        self.frames.recv().stop_on_drop_with(tell);
        let error = self.error(failure);
        match failure {
            Failure::Refused(_) | Failure::Aborted(_) => self.shared.complete(),
            Failure::NotWanted
            | Failure::Reset(_)
            | Failure::Cut
            | Failure::Length
            | Failure::Violation(_)
            | Failure::Lost
            | Failure::Cancelled
            | Failure::TimedOut => self.shared.cancel(tell),
        }
        self.stage = Stage::Failed(error.clone());
        error
    }

    fn error(&self, failure: Failure) -> CallError {
        CallError::new(failure, self.sent())
    }

    fn is_over(&self) -> bool {
        match self.stage {
            Stage::Complete | Stage::Failed(_) => true,
            Stage::Waiting | Stage::Accepted | Stage::Body(_) => false,
        }
    }
}

impl Drop for AnswerReader {
    fn drop(&mut self) {
        if !self.is_over() {
            self.shared.cancel(Code::CallerGone);
        }
    }
}
