//! Bodies of `http-body` over the halves of a call, both ways.
//!
//! Reading: a body that was cut is an error, never an end. Writing: each piece leaves as soon as
//! the body has no other one ready, so that an event is never held back, and pieces that are ready
//! together leave together.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::acceptor::{AnswerWriter, RequestReader};
use crate::call::Piece;
use crate::error::CallError;
use crate::limits::PIECES_TOGETHER;
use crate::opener::{AnswerReader, RequestWriter};

/// A caller's answer, as it comes up the tunnel. Dropped before its end, the call is cancelled.
pub struct AnswerBody {
    answer: AnswerReader,
    upload: Option<Upload>,
    left: Option<u64>,
}

/// The rest of a request that is still being written while its answer is read.
pub type Upload = Pin<Box<dyn Future<Output = ()> + Send>>;

impl AnswerBody {
    /// The body behind a head that has been read; `declared` is the length that the head declares.
    pub fn new(answer: AnswerReader, declared: Option<u64>) -> Self {
        Self {
            answer,
            upload: None,
            left: declared,
        }
    }

    /// Goes on writing the request for as long as the answer is read.
    #[must_use]
    pub fn with_upload(mut self, upload: Upload) -> Self {
        self.upload = Some(upload);
        self
    }

    /// Whether the whole answer has come.
    pub fn is_complete(&self) -> bool {
        self.answer.is_complete()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if self
            .upload
            .as_mut()
            .is_some_and(|upload| upload.as_mut().poll(cx).is_ready())
        {
            self.upload = None;
        }
        let piece = ready!(self.answer.poll_next(cx));
        if let (Some(left), Ok(Some(Piece::Data(piece)))) = (&mut self.left, &piece) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(frame(piece))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_drained()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody")
            .field("answer", &self.answer)
            .field("uploading", &self.upload.is_some())
            .finish_non_exhaustive()
    }
}

/// A request's body, as it comes down the tunnel, for the agent's client to send on. Dropped before
/// its end, no more of it is wanted.
#[derive(Debug)]
pub struct RequestBody {
    request: RequestReader,
    left: Option<u64>,
}

impl RequestBody {
    /// The body of a request; `declared` is the length that its head declares.
    pub fn new(request: RequestReader, declared: Option<u64>) -> Self {
        Self {
            request,
            left: declared,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let piece = ready!(self.request.poll_next(cx));
        if let (Some(left), Ok(Some(Piece::Data(piece)))) = (&mut self.left, &piece) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(frame(piece))
    }

    fn is_end_stream(&self) -> bool {
        self.request.is_complete()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Why a body was not passed on whole.
#[derive(Debug)]
pub enum PassError<E> {
    /// The body itself failed.
    Body(E),
    /// The call failed; with [`Failure::NotWanted`](crate::error::Failure::NotWanted) only this
    /// direction of it.
    Call(CallError),
}

/// A body that was passed on whole, but for its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// How many bytes it had.
    pub bytes: u64,
    /// Its trailers, empty where it has none.
    pub trailers: HeaderMap,
}

impl RequestWriter {
    /// Writes a whole body and ends the request; returns how many bytes it had. Where that fails,
    /// the request is cut, unless no more of it is wanted.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn send<B>(mut self, body: B) -> Result<u64, PassError<B::Error>>
    where
        B: Body<Data = Bytes>,
    {
        let Passed { bytes, trailers } = pass(body, &mut self).await?;
        self.end(trailers).await.map_err(PassError::Call)?;
        Ok(bytes)
    }
}

impl AnswerWriter {
    /// Writes a body, without its end. The last pieces may leave with what is written next: end or
    /// abort the answer.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn pass<B>(&mut self, body: B) -> Result<Passed, PassError<B::Error>>
    where
        B: Body<Data = Bytes>,
    {
        pass(body, self).await
    }
}

/// What a body can be written to.
trait Sink {
    /// Adds a piece to what the next flush takes.
    fn push(&mut self, piece: Bytes) -> Result<(), CallError>;
    /// Hands over what was pushed; notices that no more is wanted.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>>;
}

impl Sink for RequestWriter {
    fn push(&mut self, piece: Bytes) -> Result<(), CallError> {
        Self::push(self, piece)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.poll_flush_wanted(cx)
    }
}

impl Sink for AnswerWriter {
    fn push(&mut self, piece: Bytes) -> Result<(), CallError> {
        Self::push(self, piece)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Self::poll_flush(self, cx)
    }
}

async fn pass<B, S>(body: B, sink: &mut S) -> Result<Passed, PassError<B::Error>>
where
    B: Body<Data = Bytes>,
    S: Sink,
{
    let mut body = pin!(body);
    let mut passed = Passed::default();
    let mut together = 0;
    poll_fn(|cx| {
        loop {
            let mut dry = false;
            if together < PIECES_TOGETHER {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        together += take(frame, sink, &mut passed).map_err(PassError::Call)?;
                        if !body.is_end_stream() {
                            continue;
                        }
                        return Poll::Ready(Ok(std::mem::take(&mut passed)));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(PassError::Body(error)));
                    }
                    Poll::Ready(None) => return Poll::Ready(Ok(std::mem::take(&mut passed))),
                    Poll::Pending => dry = true,
                }
            }
            ready!(sink.poll_flush(cx)).map_err(PassError::Call)?;
            together = 0;
            if dry {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Takes one frame of a body; returns how many bytes it had.
fn take<S: Sink>(
    frame: Frame<Bytes>,
    sink: &mut S,
    passed: &mut Passed,
) -> Result<usize, CallError> {
    match frame.into_data() {
        Ok(piece) => {
            let bytes = piece.len();
            sink.push(piece)?;
            passed.bytes += bytes as u64;
            Ok(bytes)
        }
        Err(frame) => {
            if let Ok(trailers) = frame.into_trailers() {
                passed.trailers.extend(trailers);
            }
            Ok(0)
        }
    }
}

/// A piece as `http-body` has it: an end without trailers is no frame.
fn frame(piece: Result<Option<Piece>, CallError>) -> Option<Result<Frame<Bytes>, CallError>> {
    match piece {
        Ok(Some(Piece::Data(bytes))) => Some(Ok(Frame::data(bytes))),
        Ok(Some(Piece::End(trailers))) if !trailers.is_empty() => {
            Some(Ok(Frame::trailers(trailers)))
        }
        Ok(Some(Piece::End(_)) | None) => None,
        Err(error) => Some(Err(error)),
    }
}
