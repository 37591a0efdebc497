//! The opener's side of a call: the relay writes the request and reads the answer.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use culvert_wire::{BodyLength, CallDecoder, CallFrame, CallItem, Code, Head, Open};
use http::{HeaderMap, Method};
use tokio::time::{Instant, timeout};

use crate::connection::{CallSlot, Connection};
use crate::error::{CallError, Failure, OpenError};
use crate::frames::{FrameReader, FrameWriter, ReadError};
use crate::limits::PROBE_TIMEOUT;
use crate::stream::HalfError;
use crate::waiters::Waiters;

/// A piece of a body, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, never none.
    Data(Bytes),
    /// The body is complete; its trailers, empty where it has none.
    End(HeaderMap),
}

/// A call that was opened at this side. The halves may be used by two tasks.
#[derive(Debug)]
pub struct OutgoingCall {
    /// Writes the request's body.
    pub request: RequestWriter,
    /// Reads the answer.
    pub answer: AnswerReader,
}

impl Connection {
    /// Opens a call. Its head leaves with the first piece of the body, or when the request ends or
    /// the answer is asked for.
    ///
    /// # Errors
    /// [`OpenError`]: nothing of the call was sent.
    pub async fn open_call(&self, open: Open) -> Result<OutgoingCall, OpenError> {
        let slot = CallSlot::open(self)?;
        let (send, recv) = self
            .open_stream(Code::CallerGone)
            .await
            .map_err(OpenError::Lost)?;
        let method = open.method.clone();
        let length = BodyLength::new(open.declared_length());
        let mut frames = FrameWriter::new(send);
        frames
            .push(&CallFrame::Open(Box::new(open)))
            .map_err(|error| OpenError::Unsendable(error.to_string()))?;
        let shared = Arc::new(Shared {
            request: Mutex::new(Request {
                frames,
                length,
                state: State::Body,
            }),
            waiters: Waiters::new(),
            slot,
        });
        Ok(OutgoingCall {
            request: RequestWriter {
                shared: shared.clone(),
            },
            answer: AnswerReader {
                frames: FrameReader::new(recv, CallDecoder::answer()),
                shared,
                method,
                stage: Stage::Waiting,
            },
        })
    }

    /// Asks the code that serves calls at the other end for a sign of life. Returns how long the
    /// answer took.
    ///
    /// # Errors
    /// No right answer within [`PROBE_TIMEOUT`], or the connection is gone.
    pub async fn probe(&self, nonce: u64) -> Result<Duration, CallError> {
        let started = Instant::now();
        match timeout(PROBE_TIMEOUT, self.exchange_probe(nonce)).await {
            Ok(answered) => answered.map(|()| started.elapsed()),
            Err(_elapsed) => Err(CallError::new(Failure::TimedOut, true)),
        }
    }

    async fn exchange_probe(&self, nonce: u64) -> Result<(), CallError> {
        // Not counted: a connection that carries all it may still has to prove itself.
        let lost = |_end| CallError::new(Failure::Lost, false);
        let (send, recv) = self.open_stream(Code::NotWanted).await.map_err(lost)?;
        let mut writer = FrameWriter::new(send);
        writer
            .push(&CallFrame::Probe(nonce))
            .map_err(|error| violation(self, error.code()))?;
        poll_fn(|cx| writer.poll_flush(cx))
            .await
            .map_err(|error| half_failed(error, true))?;
        let mut reader = FrameReader::new(recv, CallDecoder::probe_answer());
        let answer = poll_fn(|cx| reader.poll_item(cx)).await;
        match answer.map_err(|error| read_failed(self, error, true))? {
            Some(CallItem::Frame(CallFrame::ProbeAck(echo))) if echo == nonce => {
                writer.send().finish();
                Ok(())
            }
            Some(_) | None => Err(violation(self, Code::Protocol)),
        }
    }
}

/// What both halves of a call reach: the answer's reader cancels and finishes the request's stream,
/// which stays open until the answer is complete, because only an open stream can be cancelled.
#[derive(Debug)]
struct Shared {
    request: Mutex<Request>,
    /// Whoever writes, and the answer's reader while something waits to be written.
    waiters: Waiters,
    slot: CallSlot,
}

#[derive(Debug)]
struct Request {
    frames: FrameWriter,
    length: BodyLength,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The body is being written.
    Body,
    /// The last word was written; the stream is still open.
    Ended,
    /// It was, and has been handed over; the stream is finished.
    Finished,
    /// No more can be written, and why.
    Closed(Failure),
}

impl Shared {
    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer is complete: the request's stream may end too.
    fn complete(&self) {
        let mut request = self.request();
        if request.state == State::Ended && request.frames.is_flushed() {
            request.frames.send().finish();
            self.close(request, State::Finished);
        } else {
            request.frames.send().reset(Code::NotWanted);
            self.close(request, State::Closed(Failure::NotWanted));
        }
    }

    /// The call is given up.
    fn cancel(&self, code: Code) {
        let mut request = self.request();
        request.frames.send().reset(code);
        self.close(request, State::Closed(Failure::Cancelled));
    }

    /// The agent wants no more of the body.
    fn enough(&self) -> Result<(), CallError> {
        let mut request = self.request();
        if request.state == State::Body {
            let sent = request.frames.sent();
            request
                .frames
                .push(&CallFrame::Abort(Code::NotWanted))
                .map_err(|error| CallError::new(Failure::Violation(error.code()), sent))?;
            self.close(request, State::Ended);
        }
        Ok(())
    }

    /// Ends the writing, wherever somebody waits to write.
    fn close(&self, mut request: MutexGuard<'_, Request>, state: State) {
        request.state = state;
        drop(request);
        self.waiters.wake_owner();
    }
}

impl Request {
    /// Hands over what waits. A peer that wants no more has nothing against the call.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let sent = self.frames.sent();
        match ready!(self.frames.poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(HalfError::Peer(Code::NotWanted)) => {
                self.state = State::Closed(Failure::NotWanted);
                Poll::Ready(Err(CallError::new(Failure::NotWanted, sent)))
            }
            Err(error) => Poll::Ready(Err(half_failed(error, sent))),
        }
    }

    fn writable(&self) -> Result<(), CallError> {
        let failure = match self.state {
            State::Body => return Ok(()),
            State::Ended | State::Finished => Failure::NotWanted,
            State::Closed(failure) => failure,
        };
        Err(CallError::new(failure, self.frames.sent()))
    }
}

/// Writes a request's body. Dropped before its end, the request is cut: the stream is reset.
///
/// An error with [`Failure::NotWanted`] ends the body and not the call: the answer goes on.
#[derive(Debug)]
pub struct RequestWriter {
    shared: Arc<Shared>,
}

impl RequestWriter {
    /// Writes a piece, and waits until the transport has taken it.
    ///
    /// # Errors
    /// [`CallError`]; with [`Failure::NotWanted`] where the agent wants no more.
    pub async fn data(&mut self, piece: Bytes) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.push(piece)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the body, with trailers or without.
    ///
    /// # Errors
    /// As [`RequestWriter::data`]; [`Failure::Length`] where other than the declared number of
    /// bytes was written: the request is cut then.
    pub async fn end(self, trailers: HeaderMap) -> Result<(), CallError> {
        self.push_end(trailers)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the body before it is complete, in order: what was written arrives.
    ///
    /// # Errors
    /// As [`RequestWriter::data`].
    pub async fn abort(self, code: Code) -> Result<(), CallError> {
        self.push_last(&CallFrame::Abort(code))?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Cuts the body with a code: what has not arrived is lost.
    pub fn reset(self, code: Code) {
        let mut request = self.shared.request();
        if request.state == State::Body {
            request.frames.send().reset(code);
            request.state = State::Closed(Failure::Cancelled);
        }
    }

    /// Adds a piece to what the next flush takes.
    pub(crate) fn push(&self, piece: Bytes) -> Result<(), CallError> {
        let mut request = self.shared.request();
        request.writable()?;
        if request.length.add(piece.len() as u64).is_err() {
            return Err(CallError::new(Failure::Length, request.frames.sent()));
        }
        request.frames.push_data(piece);
        Ok(())
    }

    /// Adds the end.
    pub(crate) fn push_end(&self, trailers: HeaderMap) -> Result<(), CallError> {
        let request = self.shared.request();
        let (length, sent) = (request.length, request.frames.sent());
        drop(request);
        length
            .end()
            .map_err(|_mismatch| CallError::new(Failure::Length, sent))?;
        self.push_last(&CallFrame::End(trailers))
    }

    /// Hands over what was pushed.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        if let State::Closed(failure) = request.state {
            return Poll::Ready(Err(CallError::new(failure, request.frames.sent())));
        }
        request.poll_flush(&mut cx)
    }

    /// As [`Self::poll_flush`], and fails where no more is wanted.
    pub(crate) fn poll_flush_wanted(&self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        request.writable()?;
        request.poll_flush(&mut cx)
    }

    fn push_last(&self, frame: &CallFrame) -> Result<(), CallError> {
        let mut request = self.shared.request();
        request.writable()?;
        let sent = request.frames.sent();
        request
            .frames
            .push(frame)
            .map_err(|error| CallError::new(Failure::Violation(error.code()), sent))?;
        request.state = State::Ended;
        Ok(())
    }
}

impl Drop for RequestWriter {
    fn drop(&mut self) {
        let mut request = self.shared.request();
        if request.state == State::Body {
            request.frames.send().reset(Code::CallerGone);
            request.state = State::Closed(Failure::Cancelled);
        }
    }
}

/// Reads the answer to a call. Dropped before its end, the call is cancelled.
#[derive(Debug)]
pub struct AnswerReader {
    frames: FrameReader,
    shared: Arc<Shared>,
    method: Method,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Not even the agent's sign of life.
    Waiting,
    /// The agent has the call.
    Accepted,
    /// The body.
    Body(BodyLength),
    /// Complete.
    Complete,
    /// It will not be.
    Failed(CallError),
}

impl AnswerReader {
    /// Waits until the agent has taken the call.
    ///
    /// # Errors
    /// [`CallError`], [`Failure::Refused`] among them.
    pub async fn accepted(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_accepted(cx)).await
    }

    /// Waits for status and headers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn head(&mut self) -> Result<Head, CallError> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// The next piece of the body; `None` after its end. To be called after [`Self::head`].
    ///
    /// # Errors
    /// [`CallError`]: the body is not whole, whatever has come of it.
    pub async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Gives the call up, with a code for the agent.
    pub fn cancel(mut self, code: Code) {
        self.frames.recv().stop_on_drop_with(code);
        if !self.is_over() {
            self.shared.cancel(code);
            self.stage = Stage::Failed(self.error(Failure::Cancelled));
        }
    }

    /// Whether anything of the call was handed to the transport.
    pub fn sent(&self) -> bool {
        self.shared.request().frames.sent()
    }

    /// Whether the answer has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// As [`Self::accepted`].
    pub fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &self.stage {
            Stage::Waiting => {}
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Accepted | Stage::Body(_) | Stage::Complete => return Poll::Ready(Ok(())),
        }
        match ready!(self.poll_frame(cx))? {
            CallItem::Frame(CallFrame::Accepted) => {
                self.stage = Stage::Accepted;
                Poll::Ready(Ok(()))
            }
            item @ (CallItem::Frame(_) | CallItem::Body(_)) => {
                Poll::Ready(Err(self.unexpected(&item)))
            }
        }
    }

    /// As [`Self::head`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, CallError>> {
        ready!(self.poll_accepted(cx))?;
        if self.stage != Stage::Accepted {
            // Head was read before.
            return Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))));
        }
        match ready!(self.poll_frame(cx))? {
            CallItem::Frame(CallFrame::Head(head)) => {
                let declared = head.declared_length(&self.method);
                self.stage = Stage::Body(BodyLength::new(declared));
                Poll::Ready(Ok(*head))
            }
            item @ (CallItem::Frame(_) | CallItem::Body(_)) => {
                Poll::Ready(Err(self.unexpected(&item)))
            }
        }
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        match &self.stage {
            Stage::Body(_) => {}
            Stage::Complete => return Poll::Ready(Ok(None)),
            Stage::Failed(error) => return Poll::Ready(Err(error.clone())),
            Stage::Waiting | Stage::Accepted => {
                return Poll::Ready(Err(self.error(Failure::Violation(Code::Protocol))));
            }
        }
        loop {
            let item = ready!(self.poll_frame(cx))?;
            let Stage::Body(length) = &mut self.stage else {
                return Poll::Ready(Err(self.unexpected(&item)));
            };
            match item {
                CallItem::Frame(CallFrame::Data(_)) => {}
                CallItem::Body(piece) if length.add(piece.len() as u64).is_ok() => {
                    return Poll::Ready(Ok(Some(Piece::Data(piece))));
                }
                CallItem::Frame(CallFrame::End(trailers)) if length.end().is_ok() => {
                    self.complete(cx);
                    return Poll::Ready(Ok(Some(Piece::End(trailers))));
                }
                CallItem::Body(_) | CallItem::Frame(CallFrame::End(_)) => {
                    return Poll::Ready(Err(self.fail(Failure::Length, Code::BackendProtocol)));
                }
                item @ CallItem::Frame(_) => return Poll::Ready(Err(self.unexpected(&item))),
            }
        }
    }

    /// The next item but `Enough`; hands over first what of the request still waits.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<CallItem, CallError>> {
        self.flush_request(cx)?;
        loop {
            match ready!(self.frames.poll_item(cx)) {
                Ok(Some(CallItem::Frame(CallFrame::Enough))) => {
                    self.shared.enough()?;
                    self.flush_request(cx)?;
                }
                Ok(Some(item)) => return Poll::Ready(Ok(item)),
                Ok(None) => return Poll::Ready(Err(self.fail(Failure::Cut, Code::NotWanted))),
                Err(error) => {
                    let error = read_failed(self.shared.slot.connection(), error, self.sent());
                    self.shared.cancel(Code::NotWanted);
                    self.stage = Stage::Failed(error.clone());
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Nobody else may be left to do it: the writer ends with its last frame, and `Abort` after
    /// `Enough` is written by this side.
    fn flush_request(&mut self, cx: &Context<'_>) -> Result<(), CallError> {
        let mut request = self.shared.request();
        if request.frames.is_flushed() {
            return Ok(());
        }
        match request.poll_flush(&mut self.shared.waiters.other(cx)) {
            // A request that the agent reads no further: its answer says why.
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.shared.waiters.wake_owner();
                Ok(())
            }
            Poll::Ready(Err(error)) if error.failure == Failure::Lost && !error.sent => {
                drop(request);
                self.stage = Stage::Failed(error.clone());
                Err(error)
            }
            Poll::Ready(Err(_)) => Ok(()),
        }
    }

    /// The last word was read. A FIN that has come is taken; one that has not carries no meaning.
    fn complete(&mut self, cx: &mut Context<'_>) {
        self.shared.complete();
        self.stage = Stage::Complete;
        self.frames.recv().stop_on_drop_with(Code::NotWanted);
        // The decoder lets nothing pass behind the last word.
        drop(self.frames.poll_item(cx));
    }

    /// A frame that ends the call, or that the decoder should not have let pass.
    fn unexpected(&mut self, item: &CallItem) -> CallError {
        match item {
            CallItem::Frame(CallFrame::Refused(code)) => {
                self.fail(Failure::Refused(*code), Code::NotWanted)
            }
            CallItem::Frame(CallFrame::Abort(code)) => {
                self.fail(Failure::Aborted(*code), Code::NotWanted)
            }
            CallItem::Frame(_) | CallItem::Body(_) => {
                let error = violation(self.shared.slot.connection(), Code::Protocol);
                self.stage = Stage::Failed(error.clone());
                error
            }
        }
    }

    /// The call has failed; the agent is told the code where it is still busy with it.
    fn fail(&mut self, failure: Failure, tell: Code) -> CallError {
        self.frames.recv().stop_on_drop_with(tell);
        let error = self.error(failure);
        match failure {
            Failure::Refused(_) | Failure::Aborted(_) => self.shared.complete(),
            Failure::NotWanted
            | Failure::Reset(_)
            | Failure::Cut
            | Failure::Length
            | Failure::Violation(_)
            | Failure::Lost
            | Failure::Cancelled
            | Failure::TimedOut => self.shared.cancel(tell),
        }
        self.stage = Stage::Failed(error.clone());
        error
    }

    fn error(&self, failure: Failure) -> CallError {
        CallError::new(failure, self.sent())
    }

    fn is_over(&self) -> bool {
        match self.stage {
            Stage::Complete | Stage::Failed(_) => true,
            Stage::Waiting | Stage::Accepted | Stage::Body(_) => false,
        }
    }
}

impl Drop for AnswerReader {
    fn drop(&mut self) {
        if !self.is_over() {
            self.shared.cancel(Code::CallerGone);
        }
    }
}

/// What a broken read means for the call; a peer that breaks the protocol loses the connection.
pub(crate) fn read_failed(connection: &Connection, error: ReadError, sent: bool) -> CallError {
    match error {
        ReadError::Half(error) => half_failed(error, sent),
        ReadError::Frame(culvert_wire::FrameError::Cut) => CallError::new(Failure::Cut, sent),
        ReadError::Frame(error) => {
            connection.close(error.code(), &error.to_string());
            CallError::new(Failure::Violation(error.code()), sent)
        }
    }
}

pub(crate) fn half_failed(error: HalfError, sent: bool) -> CallError {
    match error {
        HalfError::Peer(code) => CallError::new(Failure::Reset(code), sent),
        HalfError::Lost => CallError::new(Failure::Lost, sent),
    }
}

pub(crate) fn violation(connection: &Connection, code: Code) -> CallError {
    connection.close(code, "unexpected frame on a call's stream");
    CallError::new(Failure::Violation(code), true)
}
