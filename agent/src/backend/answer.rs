//! The answer of a backend, and what becomes of its connection afterwards.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::pool::Pool;
use super::{BackendFailure, OutBody};
use crate::queue::Counted;

/// An answer whose body still arrives.
#[derive(Debug)]
pub struct Answer {
    /// Head and body.
    pub response: Response<AnswerBody>,
    /// How long the connection took; zero where one was kept.
    pub connect: Duration,
}

impl Answer {
    pub(super) fn new(response: Response<AnswerBody>, connect: Duration) -> Self {
        Self { response, connect }
    }
}

/// A backend's body. Read to its end, the connection is kept for another call; dropped
/// before, the backend sees an abort at once.
#[derive(Debug)]
pub struct AnswerBody {
    incoming: Incoming,
    connection: Option<(Pool, http1::SendRequest<OutBody>)>,
    /// Its place on a connection that is shared.
    _place: Option<Counted>,
}

impl AnswerBody {
    /// Of a connection that serves one call at a time.
    pub(super) fn kept(
        incoming: Incoming,
        pool: Pool,
        sender: http1::SendRequest<OutBody>,
    ) -> Self {
        let mut body = Self {
            incoming,
            connection: Some((pool, sender)),
            _place: None,
        };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    /// Of a connection that speaks HTTP no more.
    pub(super) fn switched(incoming: Incoming) -> Self {
        Self {
            incoming,
            connection: None,
            _place: None,
        }
    }

    /// Of a connection that is shared.
    pub(super) fn shared(incoming: Incoming, place: Counted) -> Self {
        Self {
            incoming,
            connection: None,
            _place: Some(place),
        }
    }

    fn give_back(&mut self) {
        if let Some((pool, sender)) = self.connection.take() {
            pool.keep(sender);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                // Who reads to a declared end asks for no more.
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.connection = None;
                Poll::Ready(Some(Err(BackendFailure::from(&error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
