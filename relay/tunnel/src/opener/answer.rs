//! Reading the answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use culvert_wire::{CallDecoder, CallFrame, CallItem, Code, Head};
use http::{Method, StatusCode};

use super::Shared;
use crate::call::{Intake, Piece, read_failed, violation};
use crate::error::{CallError, Failure};
use crate::frames::FrameReader;
use crate::stream::RecvHalf;

/// Reads the answer to a call. Dropped before its end, the call is cancelled.
#[derive(Debug)]
pub struct AnswerReader {
    frames: FrameReader,
    shared: Arc<Shared>,
    method: Method,
    /// Whether the call asked for another protocol.
    may_switch: bool,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Not even the agent's sign of life.
    Waiting,
    /// The agent has the call.
    Accepted,
    /// The head has come, and is handed out unless its body is yet to be seen to be empty.
    Headed {
        head: Option<Box<Head>>,
        intake: Intake,
    },
    /// It will not be complete.
    Failed(CallError),
}

impl AnswerReader {
    pub(super) fn new(
        recv: RecvHalf,
        shared: Arc<Shared>,
        method: Method,
        may_switch: bool,
    ) -> Self {
        let frames = FrameReader::new(recv, CallDecoder::answer());
        Self {
            frames,
            shared,
            method,
            may_switch,
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

    /// Whether the whole answer has come: what is left of it can be read without waiting, and
    /// dropping the reader cancels nothing.
    pub fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::Headed { intake, .. } => intake.is_whole(),
            Stage::Waiting | Stage::Accepted | Stage::Failed(_) => false,
        }
    }

    /// Whether nothing is left to be read: the body has ended, without trailers that nobody took.
    pub fn is_drained(&self) -> bool {
        match &self.stage {
            Stage::Headed { intake, .. } => intake.is_drained(),
            Stage::Waiting | Stage::Accepted | Stage::Failed(_) => false,
        }
    }

    /// As [`Self::accepted`].
    pub fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &self.stage {
            Stage::Waiting => {}
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Accepted | Stage::Headed { .. } => return Poll::Ready(Ok(())),
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

    /// As [`Self::head`]. The head of an answer without a body comes with the answer's end: nobody
    /// would ask for that later.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, CallError>> {
        ready!(self.poll_accepted(cx))?;
        if self.stage == Stage::Accepted {
            let head = match ready!(self.poll_frame(cx))? {
                CallItem::Frame(CallFrame::Head(head)) => head,
                item @ (CallItem::Frame(_) | CallItem::Body(_)) => {
                    return Poll::Ready(Err(self.unexpected(&item)));
                }
            };
            if head.status == StatusCode::SWITCHING_PROTOCOLS && !self.may_switch {
                let failure = Failure::Aborted(Code::BackendProtocol);
                return Poll::Ready(Err(self.fail(failure, Code::BackendProtocol)));
            }
            let intake = Intake::new(expected_length(&head, &self.method));
            self.stage = Stage::Headed {
                head: Some(head),
                intake,
            };
        }
        while let Stage::Headed { head, intake } = &mut self.stage {
            if intake.is_whole() || !intake.is_empty() {
                let Some(head) = head.take() else { break };
                return Poll::Ready(Ok(*head));
            }
            ready!(self.poll_intake(cx))?;
        }
        // It was handed out before.
        Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))))
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        loop {
            match &mut self.stage {
                Stage::Headed { intake, .. } => {
                    if let Some(piece) = intake.ready() {
                        return Poll::Ready(Ok(piece));
                    }
                }
                Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
                Stage::Waiting | Stage::Accepted => {
                    return Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))));
                }
            }
            ready!(self.poll_intake(cx))?;
        }
    }

    /// Takes the next item of the body.
    fn poll_intake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let item = ready!(self.poll_frame(cx))?;
        let Stage::Headed { intake, .. } = &mut self.stage else {
            return Poll::Ready(Err(self.unexpected(&item)));
        };
        match intake.take(item) {
            Ok(()) => {
                if intake.is_whole() {
                    self.complete(cx);
                }
                Poll::Ready(Ok(()))
            }
            Err(Failure::Violation(code)) => {
                let error = violation(self.shared.slot.connection(), code);
                self.stage = Stage::Failed(error.clone());
                Poll::Ready(Err(error))
            }
            Err(Failure::Length) => {
                Poll::Ready(Err(self.fail(Failure::Length, Code::BackendProtocol)))
            }
            Err(failure) => Poll::Ready(Err(self.fail(failure, Code::NotWanted))),
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
        match &self.stage {
            Stage::Headed { intake, .. } => intake.is_whole(),
            Stage::Failed(_) => true,
            Stage::Waiting | Stage::Accepted => false,
        }
    }
}

/// How many bytes the body has to have: none where HTTP permits none, whatever the head declares.
fn expected_length(head: &Head, method: &Method) -> Option<u64> {
    let bodiless = *method == Method::HEAD
        || head.status == StatusCode::NO_CONTENT
        || head.status == StatusCode::NOT_MODIFIED;
    if bodiless {
        Some(0)
    } else {
        head.declared_length(method)
    }
}

impl Drop for AnswerReader {
    fn drop(&mut self) {
        if !self.is_over() {
            self.shared.cancel(Code::CallerGone);
        }
    }
}
