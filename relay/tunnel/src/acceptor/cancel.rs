//! The watch for the end of the opener's interest.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::sleep;

use super::{Ride, Shared, State, failed};
use crate::call::half_failed;
use crate::error::{CallError, Failure};
use crate::limits::ACCEPTED_RIDE;

/// Resolves when the opener has given the call up, or the connection is gone. It watches the
/// request's half for a reset and the answer's for a stop, because a peer may do either alone.
///
/// While it is polled it also sees to it that `Accepted` leaves in time where the answer's head is
/// not there to take it along: a datagram of its own costs more than anything else here does.
pub(super) fn cancelled(
    shared: Arc<Shared>,
) -> impl Future<Output = CallError> + Send + 'static + use<> {
    let stopped = shared.answer().frames.send_half().stopped();
    async move {
        let watch = Watch::over(&shared);
        let mut stopped = pin!(stopped);
        let mut listening = true;
        let mut ride = pin!(sleep(ACCEPTED_RIDE));
        let mut riding = true;
        poll_fn(|cx| {
            if listening && let Poll::Ready(stop) = stopped.as_mut().poll(cx) {
                match stop {
                    Ok(Some(code)) => return Poll::Ready(failed(Failure::Reset(code))),
                    Err(error) => return Poll::Ready(half_failed(error, true)),
                    // The answer is complete and has arrived.
                    Ok(None) => listening = false,
                }
            }
            if riding && ride.as_mut().poll(cx).is_ready() {
                riding = false;
                watch.end_ride(cx);
            }
            watch.poll_reset(cx)
        })
        .await
    }
}

/// One watch over a call. Dropped, it takes care of nothing any more.
struct Watch<'a> {
    shared: &'a Shared,
}

impl<'a> Watch<'a> {
    fn over(shared: &'a Shared) -> Self {
        shared.answer().ride = Ride::Watch;
        Self { shared }
    }

    /// Sends what waits for company. Where that cannot leave at once, whoever writes next does it.
    fn end_ride(&self, cx: &mut Context<'_>) {
        let mut answer = self.shared.answer();
        if answer.ride == Ride::Watch {
            answer.ride = Ride::Nobody;
            if let Poll::Ready(Err(error)) = answer.frames.poll_flush(cx) {
                // Whoever writes next finds it again.
                tracing::trace!(?error, "the acceptance of a call could not be sent");
            }
        }
    }

    fn poll_reset(&self, cx: &Context<'_>) -> Poll<CallError> {
        let mut cx = self.shared.waiters.other(cx);
        let mut request = self.shared.request();
        let discards = request.state == State::Discarded;
        let failed = request.frames.poll_failed(&mut cx, discards);
        failed.map(|error| half_failed(error, true))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.end_ride(&mut Context::from_waker(Waker::noop()));
    }
}
