//! Reading the request's body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use culvert_wire::{CallFrame, CallItem, Code};

use super::{Request, Shared, State, failed};
use crate::call::{Piece, read_failed};
use crate::error::{CallError, Failure};
use crate::frames::ReadError;

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

    /// Whether the body has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.shared.request().state == State::Ended
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        match request.state {
            State::Body => {}
            State::Ended => return Poll::Ready(Ok(None)),
            State::Discarded => return Poll::Ready(Err(failed(Failure::NotWanted))),
            State::Failed(failure) => return Poll::Ready(Err(failed(failure))),
        }
        let piece = ready!(request.poll_piece(&mut cx));
        Poll::Ready(match piece {
            Ok(piece) => Ok(Some(piece)),
            Err(Broken::Call(failure)) => {
                request.state = State::Failed(failure);
                Err(failed(failure))
            }
            Err(Broken::Read(error)) => {
                let error = read_failed(self.shared.slot.connection(), error, true);
                request.state = State::Failed(error.failure);
                Err(error)
            }
        })
    }
}

impl Drop for RequestReader {
    fn drop(&mut self) {
        let mut request = self.shared.request();
        match request.state {
            State::Body => {
                request.state = State::Discarded;
                request.frames.recv().stop(Code::NotWanted);
                request.frames.discard();
            }
            // The opener holds its stream open until the answer is complete: the watch goes on.
            State::Ended | State::Discarded => {
                request.frames.recv().stop_on_drop_with(Code::NotWanted);
            }
            State::Failed(_) => {}
        }
    }
}

/// Why there is no next piece.
enum Broken {
    Call(Failure),
    Read(ReadError),
}

impl Request {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        loop {
            let item = ready!(self.frames.poll_item(cx)).map_err(Broken::Read)?;
            return Poll::Ready(match item {
                Some(CallItem::Frame(CallFrame::Data(_))) => continue,
                Some(CallItem::Body(piece)) => match self.length.add(piece.len() as u64) {
                    Ok(()) => Ok(Piece::Data(piece)),
                    Err(_mismatch) => Err(Broken::Call(Failure::Length)),
                },
                Some(CallItem::Frame(CallFrame::End(trailers))) => match self.length.end() {
                    Ok(()) => {
                        self.state = State::Ended;
                        Ok(Piece::End(trailers))
                    }
                    Err(_mismatch) => Err(Broken::Call(Failure::Length)),
                },
                Some(CallItem::Frame(CallFrame::Abort(code))) => {
                    Err(Broken::Call(Failure::Aborted(code)))
                }
                Some(CallItem::Frame(_)) => Err(Broken::Call(Failure::Violation(Code::Protocol))),
                None => Err(Broken::Call(Failure::Cut)),
            });
        }
    }
}
