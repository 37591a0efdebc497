//! Whether a connection is in use: it is while a request has not been answered to its end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// One request under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Underway(Arc<Counts>);

/// What was seen when somebody looked last.
#[derive(Debug, Default)]
pub struct Look {
    begun: u64,
    ended: u64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has not brought a request yet.
    Nothing,
    /// Requests are under way, or were since the last look.
    Busy,
    /// No request since the last look.
    Idle,
}

impl Activity {
    /// A request begins.
    pub fn begin(&self) -> Underway {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        Underway(Arc::clone(&self.0))
    }

    /// What it does now; `last` is what it did before, and is brought up to date.
    pub fn look(&self, last: &mut Look) -> Seen {
        let ended = self.0.ended.load(Ordering::Acquire);
        let begun = self.0.begun.load(Ordering::Relaxed);
        let quiet = begun == ended && begun == last.begun && ended == last.ended;
        *last = Look { begun, ended };
        match (begun, quiet) {
            (0, _) => Seen::Nothing,
            (_, true) => Seen::Idle,
            (_, false) => Seen::Busy,
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

/// The body of an answer whose request is under way for as long as it lives.
#[derive(Debug)]
pub struct BusyBody<B> {
    body: B,
    _underway: Underway,
}

impl<B> BusyBody<B> {
    /// Holds on to `underway` as long as the body is there.
    pub const fn new(body: B, underway: Underway) -> Self {
        Self {
            body,
            _underway: underway,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for BusyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_connection_is_idle_between_two_looks_without_a_request() {
        let (activity, mut last) = (Activity::default(), Look::default());
        assert_eq!(activity.look(&mut last), Seen::Nothing);
        let underway = activity.begin();
        assert_eq!(activity.look(&mut last), Seen::Busy);
        let body = BusyBody::new(Full::new(Bytes::from_static(b"a")), underway);
        assert_eq!(activity.look(&mut last), Seen::Busy, "however long");
        drop(body);
        assert_eq!(activity.look(&mut last), Seen::Busy, "a moment ago");
        assert_eq!(activity.look(&mut last), Seen::Idle);
        drop(activity.begin());
        assert_eq!(activity.look(&mut last), Seen::Busy);
        assert_eq!(activity.look(&mut last), Seen::Idle);
    }
}
