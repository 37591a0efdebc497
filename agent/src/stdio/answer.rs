//! What a caller gets, as HTTP.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};

use super::error::Problem;
use super::rpc::Raw;
use super::stream::{Beginning, Reader};
use crate::backend::BackendFailure;

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, BackendFailure>;
/// An answer.
pub(super) type Answer = Response<AnswerBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Asks proxies not to hold events back, as the specification wishes.
const NO_BUFFERING: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// A JSON-RPC message.
pub(super) fn message(status: StatusCode, line: Bytes) -> Answer {
    let length = HeaderValue::from(line.len());
    let mut answer = Response::new(Full::new(line).map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// No body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// An error of ours.
pub(super) fn problem(problem: &Problem, id: Option<&Raw>) -> Answer {
    let mut answer = message(problem.status(), problem.line(id));
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, POST, DELETE");
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// A stream of events.
pub(super) fn events(reader: Reader) -> Answer {
    let mut answer = Response::new(Events(reader).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(NO_BUFFERING.0, NO_BUFFERING.1);
    answer
}

/// What has begun: a plain message where it is one. `status` gives that of the server's own.
pub(super) fn begun(reader: Reader, status: impl FnOnce(&Bytes) -> StatusCode) -> Answer {
    match reader.beginning() {
        Beginning::Only(line) => message(status(&line), line),
        Beginning::Failed(line, status) => message(status, line),
        Beginning::Nothing | Beginning::Events => events(reader),
    }
}

fn never(never: Infallible) -> BackendFailure {
    match never {}
}

/// The events that a reader hears. They end as a whole: who misses an answer is told so by one.
#[derive(Debug)]
struct Events(Reader);

impl Body for Events {
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        self.0
            .poll_next(cx)
            .map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
