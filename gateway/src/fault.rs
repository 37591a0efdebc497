//! Why a request's body broke off, kept for the answer: the relay only knows that it did.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::Problem;

/// What was wrong with a body, should anything be.
#[derive(Clone, Debug, Default)]
pub struct Fault(Arc<OnceLock<Problem>>);

impl Fault {
    /// The first problem of the body.
    pub fn problem(&self) -> Option<Problem> {
        self.0.get().cloned()
    }
}

/// A body whose problem is kept.
#[derive(Debug)]
pub struct Noted<B> {
    body: B,
    fault: Fault,
}

impl<B> Noted<B> {
    /// Keeps it in `fault`.
    pub const fn new(body: B, fault: Fault) -> Self {
        Self { body, fault }
    }
}

impl<B> Body for Noted<B>
where
    B: Body<Data = Bytes, Error = Problem> + Unpin,
{
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(problem))) = &polled {
            self.fault.0.get_or_init(|| problem.clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
