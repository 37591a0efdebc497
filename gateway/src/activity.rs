//! Whether a connection is in use: it is while a request has not been answered to its end, and its
//! caller takes what is ready for it.
//!
//! On HTTP/2 a caller may grant no window for an answer, and keep the connection alive beside it. Then
//! the connection's writes go on, and only the bodies know: nobody asks them for more.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

/// Largest piece of an answer that is handed to HTTP/2 at once, in bytes: a caller that takes less in the
/// time of [`Bounds::write_stall`](crate::server::Bounds::write_stall) has stalled.
const PIECE: usize = 64 * 1024;

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often an answer was asked for more.
    asked: AtomicU64,
    /// Answers that have handed something over, and have not been asked for more since.
    handed: AtomicU64,
}

/// One request under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Underway(Arc<Counts>);

/// What was seen when somebody looked last.
#[derive(Debug, Default)]
pub struct Look {
    begun: u64,
    ended: u64,
    asked: u64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has not brought a request yet.
    Nothing,
    /// Requests are under way, or were since the last look.
    Busy,
    /// Requests are under way, and since the last look nothing was taken of what is ready for them.
    Stalled,
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
        let asked = self.0.asked.load(Ordering::Relaxed);
        let quiet = begun == last.begun && ended == last.ended && asked == last.asked;
        let waiting = self.0.handed.load(Ordering::Relaxed);
        *last = Look {
            begun,
            ended,
            asked,
        };
        match (begun, begun - ended) {
            (0, _) => Seen::Nothing,
            (_, 0) if quiet => Seen::Idle,
            (_, open) if quiet && open == waiting => Seen::Stalled,
            _ => Seen::Busy,
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
    /// What is left of a piece that was too large.
    rest: Bytes,
    flow: Flow,
    underway: Underway,
}

/// What is known about the flow of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// HTTP/1: the connection's writes tell all.
    Connection,
    /// HTTP/2: the answer was asked for more, and has nothing to hand over.
    Asked,
    /// HTTP/2: it has handed something over, and was not asked since.
    Handed,
}

impl<B> BusyBody<B> {
    /// Holds on to `underway` as long as the body is there.
    pub const fn new(body: B, version: Version, underway: Underway) -> Self {
        let flow = match version {
            Version::HTTP_2 => Flow::Asked,
            _ => Flow::Connection,
        };
        Self {
            body,
            rest: Bytes::new(),
            flow,
            underway,
        }
    }

    fn asked(&mut self) {
        let counts = &self.underway.0;
        if self.flow == Flow::Handed {
            self.flow = Flow::Asked;
            counts.handed.fetch_sub(1, Ordering::Relaxed);
        }
        counts.asked.fetch_add(1, Ordering::Relaxed);
    }

    fn handed(&mut self) {
        if self.flow == Flow::Asked {
            self.flow = Flow::Handed;
            self.underway.0.handed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> BusyBody<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Frame::data(self.piece())
                }
                Err(trailers) => trailers,
            })
        }))
    }

    fn piece(&mut self) -> Bytes {
        let length = match self.flow {
            Flow::Connection => self.rest.len(),
            Flow::Asked | Flow::Handed => self.rest.len().min(PIECE),
        };
        self.rest.split_to(length)
    }
}

impl<B> Drop for BusyBody<B> {
    fn drop(&mut self) {
        if self.flow == Flow::Handed {
            self.underway.0.handed.fetch_sub(1, Ordering::Relaxed);
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
        self.asked();
        let frame = ready!(self.poll(cx));
        self.handed();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn a_connection_is_idle_between_two_looks_without_a_request() {
        let (activity, mut last) = (Activity::default(), Look::default());
        assert_eq!(activity.look(&mut last), Seen::Nothing);
        let underway = activity.begin();
        assert_eq!(activity.look(&mut last), Seen::Busy);
        let body = Full::new(Bytes::from_static(b"a"));
        let body = BusyBody::new(body, Version::HTTP_11, underway);
        assert_eq!(activity.look(&mut last), Seen::Busy, "however long");
        drop(body);
        assert_eq!(activity.look(&mut last), Seen::Busy, "a moment ago");
        assert_eq!(activity.look(&mut last), Seen::Idle);
        drop(activity.begin());
        assert_eq!(activity.look(&mut last), Seen::Busy);
        assert_eq!(activity.look(&mut last), Seen::Idle);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_asks_for_more_has_stalled() {
        let (activity, mut last) = (Activity::default(), Look::default());
        let answer = |length: usize, version| {
            let body = Full::new(Bytes::from(vec![b'x'; length]));
            BusyBody::new(body, version, activity.begin())
        };
        let mut one = answer(3 * PIECE, Version::HTTP_2);
        assert_eq!(one.size_hint().exact(), Some(3 * PIECE as u64));
        let piece = one.frame().await.unwrap().unwrap();
        assert_eq!(piece.data_ref().unwrap().len(), PIECE);
        assert_eq!(one.size_hint().exact(), Some(2 * PIECE as u64));
        assert_eq!(activity.look(&mut last), Seen::Busy, "taken a moment ago");
        assert_eq!(activity.look(&mut last), Seen::Stalled);
        let other = activity.begin();
        assert_eq!(activity.look(&mut last), Seen::Busy);
        assert_eq!(activity.look(&mut last), Seen::Busy, "its answer may come");
        drop(other);
        assert_eq!(activity.look(&mut last), Seen::Busy);
        assert_eq!(activity.look(&mut last), Seen::Stalled);
        assert!(one.frame().await.unwrap().is_ok());
        assert_eq!(activity.look(&mut last), Seen::Busy);
        drop(one);
        let mut slow = answer(3 * PIECE, Version::HTTP_11);
        let whole = slow.frame().await.unwrap().unwrap();
        assert_eq!(whole.data_ref().unwrap().len(), 3 * PIECE);
        assert_eq!(activity.look(&mut last), Seen::Busy);
        assert_eq!(activity.look(&mut last), Seen::Busy, "its writes tell");
    }

    #[tokio::test]
    async fn pieces_are_the_whole() {
        let activity = Activity::default();
        let all: Vec<u8> = (0..=255).cycle().take(2 * PIECE + 1).collect();
        let body = Full::new(Bytes::from(all.clone()));
        let body = BusyBody::new(body, Version::HTTP_2, activity.begin());
        assert_eq!(body.collect().await.unwrap().to_bytes(), all);
    }
}
