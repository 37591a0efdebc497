//! A call that changes its protocol: a connection of its own, HTTP/1.1 up to the backend's 101, and
//! from then on bytes both ways as they come. One that the backend declines is a call like any other.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use culvert_tunnel::{AnswerWriter, PassError, Piece, RequestReader};
use culvert_wire::{Code, Head, Open};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::poll_read_buf;

use super::{Last, Plan, code_of, last_of, pass, turn, unreachable};
use crate::backend::{AnswerBody, BackendFailure, Called, SendError};
use crate::headers;
use crate::passing::Passing;
use crate::record::{Counter, Record};
use crate::reply::ReplyBody;

/// How much is read from a backend at once, in bytes.
const READ: usize = 16 * 1024;
/// The protocol that knows no half of a connection: the end of one side is the end of both.
const WEBSOCKET: &str = "websocket";
/// How long the backend may go on after the caller's end of a WebSocket: time for the last word of
/// the closing handshake.
const AFTER_END: Duration = Duration::from_secs(5);

/// Queue, connect, ask for the protocol, and pass on what comes of it.
pub(super) async fn carry(
    plan: &Plan,
    (open, protocol): (&Open, &str),
    body: RequestReader,
    answer: &mut AnswerWriter,
    record: &mut Record,
    begun: &AtomicBool,
) -> Last {
    let turn = match turn(plan, answer, record).await {
        Ok(turn) => turn,
        Err(last) => return last,
    };
    let Called { answer: got, load } = match ask(plan, open, protocol, record, begun).await {
        Ok(called) => called,
        Err(last) => return last,
    };
    let last = if got.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        switch(got.response, protocol, body, answer, record).await
    } else {
        drop(body);
        pass(got.response.map(ReplyBody::Backend), open, answer, record).await
    };
    drop((turn, load));
    last
}

/// Asks a backend to change the protocol.
async fn ask(
    plan: &Plan,
    open: &Open,
    protocol: &str,
    record: &mut Record,
    begun: &AtomicBool,
) -> Result<Called, Last> {
    let backends = &plan.service.backends;
    let connected = match backends.connect_alone(rand::random).await {
        Ok(connected) => connected,
        Err(error) => return Err(unreachable(open, &error)),
    };
    record.connected(connected.connect_time());
    let mut head = connected
        .backend
        .head(open.method.clone(), &plan.admitted, open.headers.clone())
        .map_err(|_| Last::Refuse(Code::Policy))?;
    let name = HeaderValue::from_str(protocol).map_err(|_| Last::Refuse(Code::Policy))?;
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, name);
    begun.store(true, Ordering::Relaxed);
    let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
    match connected.send(head, nothing).await {
        Ok(called) => Ok(called),
        Err(SendError::NotOffered(error)) => {
            begun.store(false, Ordering::Relaxed);
            Err(unreachable(open, &error))
        }
        Err(SendError::Begun(failure)) => Err(Last::Abort(code_of(failure))),
    }
}

/// The backend has changed the protocol.
async fn switch(
    mut response: Response<AnswerBody>,
    protocol: &str,
    body: RequestReader,
    answer: &mut AnswerWriter,
    record: &mut Record,
) -> Last {
    let on = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    record.head(parts.status.as_u16());
    if !agrees(&parts.headers, protocol) {
        return Last::Abort(Code::BackendProtocol);
    }
    parts.headers = headers::answer(parts.headers);
    parts.headers.remove(CONTENT_LENGTH);
    let Ok(head) = Head::new(parts) else {
        return Last::Abort(Code::BackendProtocol);
    };
    if let Err(error) = answer.head(head).await {
        return last_of(error);
    }
    let Ok(io) = on.await else {
        return Last::Abort(Code::BackendReset);
    };
    let (reader, writer) = tokio::io::split(TokioIo::new(io));
    let (bytes_in, bytes_out) = record.counters();
    let mut down = pin!(answer.pass(Passing::new(Reading::new(reader), bytes_out)));
    let up = pin!(bring_up(body, writer, bytes_in));
    let passed = tokio::select! {
        biased;
        passed = &mut down => passed,
        () = up => {
            if !protocol.eq_ignore_ascii_case(WEBSOCKET) {
                down.await
            } else if let Ok(passed) = tokio::time::timeout(AFTER_END, &mut down).await {
                passed
            } else {
                return Last::Abort(Code::CallerGone);
            }
        }
    };
    match passed {
        Ok(_) => Last::End(HeaderMap::new()),
        Err(PassError::Body(failure)) => Last::Abort(code_of(failure)),
        Err(PassError::Call(error)) => last_of(error),
    }
}

/// Whether a 101 is to the protocol that was asked for.
fn agrees(headers: &HeaderMap, protocol: &str) -> bool {
    let values = headers.get_all(UPGRADE).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(protocol))
}

/// Writes what the caller sends, until its end or until the backend takes no more: what that still
/// sends is for the other direction to find out.
async fn bring_up(mut body: RequestReader, mut writer: impl AsyncWrite + Unpin, count: Counter) {
    loop {
        match body.next().await {
            Ok(Some(Piece::Data(bytes))) => {
                count.add(bytes.len());
                let written = async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                };
                if let Err(error) = written.await {
                    tracing::debug!(%error, "a backend reads no more");
                    return;
                }
            }
            Ok(Some(Piece::End(_)) | None) => break,
            Err(error) => {
                // Whoever watches the call is told too.
                tracing::debug!(%error, "a caller's bytes were cut");
                return;
            }
        }
    }
    if let Err(error) = writer.shutdown().await {
        tracing::debug!(%error, "a backend's connection broke at the caller's end");
    }
}

/// What a backend sends, as a body.
struct Reading<R> {
    reader: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R> Reading<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
            ended: false,
        }
    }
}

impl<R: AsyncRead + Unpin> Body for Reading<R> {
    type Data = Bytes;
    type Error = BackendFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackendFailure>>> {
        let Self {
            reader,
            buffer,
            ended,
        } = &mut *self;
        if *ended {
            return Poll::Ready(None);
        }
        buffer.reserve(READ);
        let read = ready!(poll_read_buf(Pin::new(reader), cx, buffer));
        *ended = !matches!(read, Ok(1..));
        Poll::Ready(match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(Frame::data(buffer.split().freeze()))),
            Err(error) => {
                tracing::debug!(%error, "a backend's connection broke");
                Some(Err(BackendFailure::Reset))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_agrees_by_name() {
        let headers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(value));
            headers
        };
        assert!(agrees(&headers("WebSocket"), "websocket"));
        assert!(agrees(&headers("a, websocket"), "websocket"));
        assert!(!agrees(&headers("h2c"), "websocket"));
        assert!(!agrees(&HeaderMap::new(), "websocket"));
    }

    #[tokio::test]
    async fn a_backends_bytes_come_as_they_are_sent() {
        let (mut backend, reader) = tokio::io::duplex(64);
        let mut body = Reading::new(reader);
        for piece in ["one", "two"] {
            backend.write_all(piece.as_bytes()).await.expect("room");
            let frame = body.frame().await.expect("a piece").expect("no failure");
            assert_eq!(frame.into_data().expect("bytes"), piece);
        }
        drop(backend);
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }
}
