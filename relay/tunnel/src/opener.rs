//! The opener's side of a call: the relay writes the request and reads the answer.

mod answer;
mod request;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use culvert_wire::{BodyLength, CallFrame, Code, Open};

pub use answer::AnswerReader;
pub use request::RequestWriter;

use crate::call::half_failed;
use crate::connection::{CallSlot, Connection};
use crate::error::{CallError, Failure, OpenError};
use crate::frames::{FrameWriter, encoded};
use crate::stream::HalfError;
use crate::waiters::Waiters;

/// A call that was opened at this side. The halves may be used by two tasks.
#[derive(Debug)]
pub struct OutgoingCall {
    /// Writes the request's body.
    pub request: RequestWriter,
    /// Reads the answer.
    pub answer: AnswerReader,
}

impl Connection {
    /// Opens a call. Its head leaves with the first piece of the body, or when the request ends or
    /// the answer is asked for.
    ///
    /// # Errors
    /// [`OpenError`]: nothing of the call was sent.
    pub async fn open_call(&self, open: Open) -> Result<OutgoingCall, OpenError> {
        let slot = CallSlot::open(self)?;
        let (method, length) = (open.method.clone(), BodyLength::new(open.declared_length()));
        let may_switch = open.upgrade.is_some();
        let head = encoded(&CallFrame::Open(Box::new(open)))
            .map_err(|error| OpenError::Unsendable(error.to_string()))?;
        let (send, recv) = self
            .open_stream(Code::CallerGone)
            .await
            .map_err(OpenError::Lost)?;
        let frames = FrameWriter::starting_with(head, send);
        let shared = Arc::new(Shared {
            request: Mutex::new(Request {
                frames,
                length,
                state: State::Body,
            }),
            waiters: Waiters::new(),
            slot,
        });
        Ok(OutgoingCall {
            request: RequestWriter::new(shared.clone()),
            answer: AnswerReader::new(recv, shared, method, may_switch),
        })
    }
}

/// What both halves of a call reach: the answer's reader cancels and finishes the request's stream,
/// which stays open until the answer is complete, because only an open stream can be cancelled.
#[derive(Debug)]
struct Shared {
    request: Mutex<Request>,
    /// Whoever writes, and the answer's reader while something waits to be written.
    waiters: Waiters,
    slot: CallSlot,
}

#[derive(Debug)]
struct Request {
    frames: FrameWriter,
    length: BodyLength,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The body is being written.
    Body,
    /// The last word was written; the stream is still open.
    Ended,
    /// It was, and has been handed over; the stream is finished.
    Finished,
    /// No more can be written, and why.
    Closed(Failure),
}

impl Shared {
    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer is complete: the request's stream may end too.
    fn complete(&self) {
        let mut request = self.request();
        if request.state == State::Ended && request.frames.is_flushed() {
            request.frames.send().finish();
            self.close(request, State::Finished);
        } else {
            request.frames.send().reset(Code::NotWanted);
            self.close(request, State::Closed(Failure::NotWanted));
        }
    }

    /// The call is given up.
    fn cancel(&self, code: Code) {
        let mut request = self.request();
        request.frames.send().reset(code);
        self.close(request, State::Closed(Failure::Cancelled));
    }

    /// The agent wants no more of the body.
    fn enough(&self) -> Result<(), CallError> {
        let mut request = self.request();
        if request.state == State::Body {
            let sent = request.frames.sent();
            request
                .frames
                .push(&CallFrame::Abort(Code::NotWanted))
                .map_err(|error| CallError::new(Failure::Violation(error.code()), sent))?;
            self.close(request, State::Ended);
        }
        Ok(())
    }

    /// Ends the writing, wherever somebody waits to write.
    fn close(&self, mut request: MutexGuard<'_, Request>, state: State) {
        request.state = state;
        drop(request);
        self.waiters.wake_owner();
    }
}

impl Request {
    /// Hands over what waits. A peer that wants no more has nothing against the call.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let sent = self.frames.sent();
        match ready!(self.frames.poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(HalfError::Peer(Code::NotWanted)) => {
                self.state = State::Closed(Failure::NotWanted);
                Poll::Ready(Err(CallError::new(Failure::NotWanted, sent)))
            }
            Err(error) => Poll::Ready(Err(half_failed(error, sent))),
        }
    }

    fn writable(&self) -> Result<(), CallError> {
        let failure = match self.state {
            State::Body => return Ok(()),
            State::Ended | State::Finished => Failure::NotWanted,
            State::Closed(failure) => failure,
        };
        Err(CallError::new(failure, self.frames.sent()))
    }
}
