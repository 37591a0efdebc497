//! A body on its way through the agent, counted.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use culvert_tunnel::{CallError, Piece, RequestBody, RequestReader};
use http_body::{Body, Frame, SizeHint};

use crate::headers::HeaderRules;
use crate::record::Counter;

/// A body whose bytes are counted as they pass.
pub(crate) struct Passing<B> {
    /// What was read before the rest was wanted.
    first: Option<Bytes>,
    body: B,
    counter: Counter,
    /// What trailers are bound by, where they go to a backend.
    rules: Option<HeaderRules>,
}

impl<B> Passing<B> {
    pub(crate) fn new(body: B, counter: Counter) -> Self {
        Self {
            first: None,
            body,
            counter,
            rules: None,
        }
    }
}

impl Passing<RequestBody> {
    /// A request's body. Where its end has come with its head it is known to be empty, and no
    /// chunked encoding of nothing is sent.
    pub(crate) fn request(
        mut reader: RequestReader,
        declared: Option<u64>,
        counter: Counter,
        rules: HeaderRules,
    ) -> Self {
        let mut first = None;
        if declared.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            // An end leaves the reader complete; a failure is found again by who reads on.
            if let Poll::Ready(Ok(Some(Piece::Data(piece)))) = reader.poll_next(&mut cx) {
                first = Some(piece);
            }
        }
        Self {
            first,
            body: RequestBody::new(reader, declared),
            counter,
            rules: Some(rules),
        }
    }
}

impl<B> Body for Passing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = match self.first.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        let Poll::Ready(Some(Ok(frame))) = frame else {
            return frame;
        };
        if let Some(data) = frame.data_ref() {
            self.counter.add(data.len());
        }
        Poll::Ready(Some(Ok(match &self.rules {
            Some(rules) => match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(rules.trailers(trailers)),
                Err(data) => data,
            },
            None => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.first {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

/// Names the error of a request's body for the client.
pub(crate) fn boxed(error: CallError) -> crate::backend::BodyError {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn trailers_to_a_backend_obey_the_rules_of_its_service() {
        let mut trailers = HeaderMap::new();
        trailers.insert("authorization", HeaderValue::from_static("theirs"));
        trailers.insert("x-checksum", HeaderValue::from_static("abc"));
        let frames = [
            Ok::<_, CallError>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ];
        let mut body = Passing::new(
            StreamBody::new(futures_util::stream::iter(frames)),
            Counter::default(),
        );
        body.rules = HeaderRules::new(Vec::new(), Vec::new()).ok();
        let got = body.collect().await.expect("a body");
        let trailers = got.trailers().expect("trailers");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert_eq!(trailers["x-checksum"], "abc");
    }
}
