//! Reading the request's body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use culvert_wire::Code;

use super::{Request, Shared, State, failed};
use crate::call::{Piece, read_failed};
use crate::connection::Connection;
use crate::error::{CallError, Failure};

/// Reads a request's body. Dropped before its end, no more of it is wanted; the call goes on.
#[derive(Debug)]
pub struct RequestReader {
    shared: Arc<Shared>,
}

impl RequestReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next piece of the body; `None` after its end.
    ///
    /// # Errors
    /// [`CallError`]: the body is not whole, whatever has come of it.
    pub async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether nothing is left to be read: the body has ended, without trailers that nobody took.
    pub fn is_complete(&self) -> bool {
        self.shared.request().intake.is_drained()
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        loop {
            match request.state {
                State::Body => {}
                State::Discarded => return Poll::Ready(Err(failed(Failure::NotWanted))),
                State::Failed(failure) => return Poll::Ready(Err(failed(failure))),
            }
            if let Some(piece) = request.intake.ready() {
                return Poll::Ready(Ok(piece));
            }
            ready!(request.poll_intake(&mut cx, self.shared.slot.connection()));
        }
    }

    /// Takes what has come with the head, so that a request without a body is seen to have none.
    pub(super) fn look_ahead(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut request = self.shared.request();
        while request.state == State::Body && !request.intake.has_ready() {
            if request
                .poll_intake(&mut cx, self.shared.slot.connection())
                .is_pending()
            {
                return;
            }
        }
    }
}

impl Drop for RequestReader {
    fn drop(&mut self) {
        let mut request = self.shared.request();
        match request.state {
            // The opener holds its stream open until the answer is complete: the watch goes on.
            State::Body if request.intake.is_whole() => {
                request.frames.recv().stop_on_drop_with(Code::NotWanted);
            }
            State::Body => {
                request.state = State::Discarded;
                request.frames.recv().stop(Code::NotWanted);
                request.frames.discard();
            }
            State::Discarded => request.frames.recv().stop_on_drop_with(Code::NotWanted),
            State::Failed(_) => {}
        }
    }
}

impl Request {
    /// Takes the next item of the stream; `Ready` says that something has changed.
    fn poll_intake(&mut self, cx: &mut Context<'_>, connection: &Connection) -> Poll<()> {
        let taken = match ready!(self.frames.poll_item(cx)) {
            Ok(Some(item)) => self.intake.take(item),
            Ok(None) => Err(Failure::Cut),
            Err(error) => Err(read_failed(connection, error, true).failure),
        };
        if let Err(failure) = taken {
            self.state = State::Failed(failure);
        }
        Poll::Ready(())
    }
}
