//! Bodies that are not simply a backend's or a caller's own: read whole and judged, or filtered as
//! they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::{AnswerBody, BackendFailure};
use crate::policy::{Events, ToolPolicy};

/// The body of an answer on its way to the caller.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and a box would cost each call an allocation"
)]
pub enum ReplyBody {
    /// As the backend sends it.
    Backend(AnswerBody),
    /// As the agent has made it.
    Boxed(UnsyncBoxBody<Bytes, BackendFailure>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        match self.get_mut() {
            Self::Backend(body) => Pin::new(body).poll_frame(cx),
            Self::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Backend(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Backend(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

/// A body that is there whole, and its place in what may be held.
#[derive(Debug)]
pub(crate) struct Held {
    whole: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Held {
    pub(crate) fn new(whole: Bytes, place: OwnedSemaphorePermit) -> Self {
        Self {
            whole: Some(whole),
            _place: place,
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = crate::backend::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.whole.take().map(|whole| Ok(Frame::data(whole))))
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.whole.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(left as u64)
    }
}

/// A stream of events, each of which a tool policy has seen.
#[derive(Debug)]
pub(crate) struct FilteredEvents<B> {
    policy: Arc<ToolPolicy>,
    events: Events,
    state: State<B>,
}

#[derive(Debug)]
enum State<B> {
    Open(B),
    /// Everything has come; trailers are the last.
    Over(Option<HeaderMap>),
}

impl<B> FilteredEvents<B> {
    pub(crate) fn new(policy: Arc<ToolPolicy>, body: B) -> Self {
        Self {
            policy,
            events: Events::default(),
            state: State::Open(body),
        }
    }

    fn judged(&self, event: Bytes) -> Result<Frame<Bytes>, BackendFailure> {
        match self.policy.filter_event(event) {
            Ok(event) => Ok(Frame::data(event)),
            Err(error) => {
                tracing::debug!(%error, "an event of a server cannot be judged");
                Err(BackendFailure::Protocol)
            }
        }
    }
}

impl<B> Body for FilteredEvents<B>
where
    B: Body<Data = Bytes, Error = BackendFailure> + Unpin,
{
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        loop {
            match self.events.next_event() {
                Ok(Some(event)) => return Poll::Ready(Some(self.judged(event))),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "an answer cannot be judged");
                    return Poll::Ready(Some(Err(BackendFailure::Protocol)));
                }
            }
            let body = match &mut self.state {
                State::Open(body) => body,
                State::Over(trailers) => {
                    let trailers = trailers.take();
                    return Poll::Ready(match self.events.rest() {
                        Some(event) => {
                            self.state = State::Over(trailers);
                            Some(self.judged(event))
                        }
                        None => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    });
                }
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.events.push(&data),
                    Err(frame) => self.state = State::Over(frame.into_trailers().ok()),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.state = State::Over(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::policy::{NamePattern, ToolRules};

    fn policy() -> Arc<ToolPolicy> {
        let rules = ToolRules {
            allow: vec![NamePattern::parse("a").expect("a pattern")],
            deny: Vec::new(),
            read_only: false,
        };
        Arc::new(ToolPolicy::new(rules, None))
    }

    async fn collected(pieces: &[&'static str]) -> Result<String, BackendFailure> {
        let frames = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::from(*piece))));
        let frames: Vec<_> = frames.collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let bytes = FilteredEvents::new(policy(), body)
            .collect()
            .await?
            .to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn events_are_filtered_as_they_pass() {
        let got = collected(&[
            ": ping\n\nid: 1\ndata: {\"result\":{\"to",
            "ols\":[{\"name\":\"a\"},{\"name\":\"b\"}]}}\n",
            "\ndata: {\"method\":\"x\"}\n\n",
            // Not over when the stream is: judged all the same.
            "data: {\"result\":{\"tools\":[{\"name\":\"b\"}]}}",
        ])
        .await;
        assert_eq!(
            got.as_deref(),
            Ok(
                ": ping\n\nid: 1\ndata: {\"result\":{\"tools\":[{\"name\":\"a\"}]}}\n\ndata: {\"method\":\"x\"}\n\ndata: {\"result\":{\"tools\":[]}}\n\n"
            )
        );
    }

    #[tokio::test]
    async fn what_cannot_be_judged_is_cut() {
        let got = collected(&["data: {\"tools\":1,\"tools\":2}\n\n"]).await;
        assert_eq!(got, Err(BackendFailure::Protocol));
    }
}
