//! Answers that are late: a stream that has begun for the caller before the backend has answered.
//!
//! A caller that asked for a stream and has heard nothing for a while is sent a head of ours, status
//! 200, so that comments can keep its connection alive. From then on nothing is tried again, and what
//! the backend says instead of a stream can only be told inside one.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use culvert_relay::{AnswerBody as RelayBody, Answered, CallFailed};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    answer::Cut,
    dialect::Dialect,
    error::{CallerCode, Problem},
    exchange,
    record::Note,
    sse, upstream,
};

/// How much of an answer that is no stream is told, in bytes.
const TOLD: usize = 64 * 1024;

/// What a call comes to: an answer or a problem, and what the record says of it.
pub type Coming<B> = Pin<Box<dyn Future<Output = (Note, Result<Response<B>, Problem>)> + Send>>;

/// What a call comes to whose caller has been sent a head already.
pub async fn settled(
    call: impl Future<Output = Result<Answered, CallFailed>>,
) -> (Note, Result<Response<RelayBody>, Problem>) {
    match call.await {
        Ok(Answered {
            response, route, ..
        }) => (
            exchange::note(&route, response.status().as_u16()),
            Ok(response),
        ),
        Err(failed) => (
            upstream::note_failure(&failed),
            Err(upstream::failed(&failed)),
        ),
    }
}

/// The body of a backend's answer, that is there or will be.
#[derive(Debug)]
pub enum EdgeBody<B> {
    /// Its head came in time.
    Prompt(B),
    /// It may still come.
    Late(Late<B>),
}

/// A body whose answer may still come.
pub struct Late<B> {
    state: State<B>,
    dialect: Dialect,
    note: Option<oneshot::Sender<Note>>,
}

enum State<B> {
    Coming(Coming<B>),
    Streaming(B),
    /// No stream: it is gathered, to be told as one event.
    Gathering(B, BytesMut, StatusCode),
    Done,
}

impl<B> Late<B> {
    /// The body of what `coming` comes to, and where its note will be.
    pub fn new(coming: Coming<B>, dialect: Dialect) -> (Self, oneshot::Receiver<Note>) {
        let (note, noted) = oneshot::channel();
        (
            Self {
                state: State::Coming(coming),
                dialect,
                note: Some(note),
            },
            noted,
        )
    }

    fn arrived(&mut self, note: Note, outcome: Result<Response<B>, Problem>) -> Result<(), Cut> {
        // Nobody waits for it once the caller has gone.
        let _gone = self.note.take().map(|slot| slot.send(note));
        let answer = outcome.map_err(Cut::Told)?;
        let (head, body) = answer.into_parts();
        self.state = if head.status.is_success() && sse::is_event_stream(&head.headers) {
            State::Streaming(body)
        } else {
            State::Gathering(body, BytesMut::new(), head.status)
        };
        Ok(())
    }

    /// What the backend said instead of a stream, as one event.
    fn tell(&self, said: &[u8], status: StatusCode) -> Result<Frame<Bytes>, Cut> {
        let Ok(object @ Value::Object(_)) = serde_json::from_slice::<Value>(said) else {
            let what = format!("The backend answered {status}, and not with a stream.");
            return Err(Cut::Told(Problem::new(CallerCode::BackendProtocol, what)));
        };
        let name = match self.dialect {
            Dialect::Anthropic | Dialect::OpenAiResponses if !status.is_success() => {
                "event: error\n"
            }
            Dialect::Anthropic | Dialect::OpenAiResponses | Dialect::OpenAi | Dialect::JsonRpc => {
                ""
            }
        };
        Ok(Frame::data(Bytes::from(format!(
            "{name}data: {object}\n\n"
        ))))
    }
}

impl<B> Late<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cut>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            match &mut self.state {
                State::Done => return Poll::Ready(None),
                State::Streaming(body) => {
                    let frame = ready!(Pin::new(body).poll_frame(cx));
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                }
                State::Coming(coming) => {
                    let (note, outcome) = ready!(coming.as_mut().poll(cx));
                    self.state = State::Done;
                    if let Err(cut) = self.arrived(note, outcome) {
                        return Poll::Ready(Some(Err(cut)));
                    }
                }
                State::Gathering(body, said, status) => {
                    let frame = ready!(Pin::new(body).poll_frame(cx));
                    let more = match frame {
                        Some(Ok(frame)) => frame.into_data().ok(),
                        Some(Err(error)) => {
                            self.state = State::Done;
                            return Poll::Ready(Some(Err(error.into())));
                        }
                        None => None,
                    };
                    if let Some(data) = more.filter(|data| said.len() + data.len() <= TOLD) {
                        said.extend_from_slice(&data);
                        continue;
                    }
                    let (said, status) = (said.split(), *status);
                    self.state = State::Done;
                    return Poll::Ready(Some(self.tell(&said, status)));
                }
            }
        }
    }
}

impl<B> Body for EdgeBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cut>,
{
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Prompt(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Self::Late(late) => late.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Prompt(body) => body.is_end_stream(),
            Self::Late(late) => matches!(late.state, State::Done),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Prompt(body) => body.size_hint(),
            Self::Late(_) => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for Late<B> {
    /// Never what was said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Coming(_) => "coming",
            State::Streaming(_) => "streaming",
            State::Gathering(..) => "gathering",
            State::Done => "done",
        };
        f.debug_struct("Late")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    impl From<std::convert::Infallible> for Cut {
        fn from(never: std::convert::Infallible) -> Self {
            match never {}
        }
    }

    async fn told(
        dialect: Dialect,
        status: u16,
        kind: &str,
        body: &'static str,
    ) -> Result<String, CallerCode> {
        let answer = Response::builder()
            .status(status)
            .header("content-type", kind);
        let answer = answer.body(Full::from(body)).unwrap();
        let coming: Coming<Full<Bytes>> = Box::pin(async { (Note::default(), Ok(answer)) });
        read(coming, dialect).await
    }

    async fn read(coming: Coming<Full<Bytes>>, dialect: Dialect) -> Result<String, CallerCode> {
        let (late, noted) = Late::new(coming, dialect);
        let collected = EdgeBody::Late(late).collect().await;
        assert!(noted.await.is_ok(), "the record is told");
        let bytes = collected
            .map_err(|cut| cut.into_problem().code())?
            .to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_stream_that_comes_late_passes() {
        let text = told(Dialect::OpenAi, 200, "text/event-stream", "data: 1\n\n").await;
        assert_eq!(text.unwrap(), "data: 1\n\n");
    }

    #[tokio::test]
    async fn what_is_no_stream_becomes_one_event() {
        let error = "{\n\"error\": {\"code\": \"x\"}\n}";
        let text = told(Dialect::OpenAi, 500, "application/json", error).await;
        assert_eq!(text.unwrap(), "data: {\"error\":{\"code\":\"x\"}}\n\n");
        let text = told(Dialect::Anthropic, 529, "application/json", error).await;
        assert!(text.unwrap().starts_with("event: error\ndata: {"));
        for (status, body) in [(500, "oops"), (200, "[1]")] {
            let code = told(Dialect::OpenAi, status, "text/plain", body).await;
            assert_eq!(code.unwrap_err(), CallerCode::BackendProtocol);
        }
    }

    #[tokio::test]
    async fn a_call_that_fails_late_is_told_in_the_stream() {
        let coming: Coming<Full<Bytes>> = Box::pin(async {
            (
                Note::default(),
                Err(Problem::new(CallerCode::AgentUnavailable, "x.")),
            )
        });
        assert_eq!(
            read(coming, Dialect::OpenAi).await.unwrap_err(),
            CallerCode::AgentUnavailable
        );
    }
}
