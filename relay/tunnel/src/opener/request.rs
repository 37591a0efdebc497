//! Writing the request's body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_wire::{CallFrame, Code};
use http::HeaderMap;

use super::{Shared, State};
use crate::error::{CallError, Failure};

/// Writes a request's body. Dropped before its end, the request is cut: the stream is reset.
///
/// An error with [`Failure::NotWanted`] ends the body and not the call: the answer goes on.
#[derive(Debug)]
pub struct RequestWriter {
    shared: Arc<Shared>,
}

impl RequestWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Writes a piece, and waits until the transport has taken it.
    ///
    /// # Errors
    /// [`CallError`]; with [`Failure::NotWanted`] where the agent wants no more.
    pub async fn data(&mut self, piece: Bytes) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.push(piece)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the body, with trailers or without.
    ///
    /// # Errors
    /// As [`RequestWriter::data`]; [`Failure::Length`] where other than the declared number of
    /// bytes was written: the request is cut then.
    pub async fn end(self, trailers: HeaderMap) -> Result<(), CallError> {
        self.push_end(trailers)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the body before it is complete, in order: what was written arrives.
    ///
    /// # Errors
    /// As [`RequestWriter::data`].
    pub async fn abort(self, code: Code) -> Result<(), CallError> {
        self.push_last(&CallFrame::Abort(code))?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Cuts the body with a code: what has not arrived is lost.
    pub fn reset(self, code: Code) {
        let mut request = self.shared.request();
        if request.state == State::Body {
            request.frames.send().reset(code);
            request.state = State::Closed(Failure::Cancelled);
        }
    }

    /// Adds a piece to what the next flush takes.
    pub(crate) fn push(&self, piece: Bytes) -> Result<(), CallError> {
        let mut request = self.shared.request();
        request.writable()?;
        if request.length.add(piece.len() as u64).is_err() {
            return Err(CallError::new(Failure::Length, request.frames.sent()));
        }
        request.frames.push_data(piece);
        Ok(())
    }

    /// Adds the end.
    pub(crate) fn push_end(&self, trailers: HeaderMap) -> Result<(), CallError> {
        let request = self.shared.request();
        let (length, sent) = (request.length, request.frames.sent());
        drop(request);
        length
            .end()
            .map_err(|_mismatch| CallError::new(Failure::Length, sent))?;
        self.push_last(&CallFrame::End(trailers))
    }

    /// Hands over what was pushed.
    pub(crate) fn poll_flush(&self, cx: &Context<'_>) -> Poll<Result<(), CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        if let State::Closed(failure) = request.state {
            return Poll::Ready(Err(CallError::new(failure, request.frames.sent())));
        }
        request.poll_flush(&mut cx)
    }

    /// As [`Self::poll_flush`], and fails where no more is wanted.
    pub(crate) fn poll_flush_wanted(&self, cx: &Context<'_>) -> Poll<Result<(), CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        request.writable()?;
        request.poll_flush(&mut cx)
    }

    fn push_last(&self, frame: &CallFrame) -> Result<(), CallError> {
        let mut request = self.shared.request();
        request.writable()?;
        let sent = request.frames.sent();
        request
            .frames
            .push(frame)
            .map_err(|error| CallError::new(Failure::Violation(error.code()), sent))?;
        request.state = State::Ended;
        Ok(())
    }
}

impl Drop for RequestWriter {
    fn drop(&mut self) {
        let mut request = self.shared.request();
        if request.state == State::Body {
            request.frames.send().reset(Code::CallerGone);
            request.state = State::Closed(Failure::Cancelled);
        }
    }
}
