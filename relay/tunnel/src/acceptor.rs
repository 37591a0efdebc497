//! The acceptor's side of a call: the agent reads the request and writes the answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_wire::{BodyLength, CallDecoder, CallFrame, CallItem, Code, Head, Open};
use http::{HeaderMap, Method};
use tokio::time::timeout;

use crate::connection::{CallSlot, Connection};
use crate::error::{CallError, ConnectionEnd, Failure};
use crate::frames::{FrameReader, FrameWriter};
use crate::limits::OPEN_TIMEOUT;
use crate::opener::{Piece, half_failed, read_failed, violation};
use crate::stream::{RecvHalf, SendHalf};
use crate::waiters::Waiters;

impl Connection {
    /// The next stream that the peer opens. What it is has to be read by whoever handles it, so
    /// that a head that is slow to arrive holds up nobody else.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn accept_call(&self) -> Result<IncomingStream, ConnectionEnd> {
        let (send, recv) = self.accept_stream(Code::AgentGone).await?;
        Ok(IncomingStream {
            send,
            recv,
            slot: CallSlot::accept(self),
        })
    }
}

/// A stream that the peer opened. Dropped, it is reset.
#[derive(Debug)]
pub struct IncomingStream {
    send: SendHalf,
    recv: RecvHalf,
    slot: CallSlot,
}

/// What a stream turned out to be.
#[derive(Debug)]
pub enum Arrival {
    /// A call.
    Call(Box<IncomingCall>),
    /// A question whether whoever handles calls is alive.
    Probe(Box<IncomingProbe>),
}

impl IncomingStream {
    /// Reads what the stream is.
    ///
    /// # Errors
    /// The peer cancelled, broke the protocol (the connection is closed then), or did not send a
    /// whole head within [`OPEN_TIMEOUT`].
    pub async fn read(self) -> Result<Arrival, CallError> {
        let Self { send, recv, slot } = self;
        let mut frames = FrameReader::new(recv, CallDecoder::request());
        let first = timeout(OPEN_TIMEOUT, poll_fn(|cx| frames.poll_item(cx)))
            .await
            .map_err(|_elapsed| CallError::new(Failure::TimedOut, true))?
            .map_err(|error| read_failed(slot.connection(), error, true))?;
        match first {
            Some(CallItem::Frame(CallFrame::Open(open))) => Ok(Arrival::Call(Box::new(
                IncomingCall::new(*open, send, frames, slot),
            ))),
            Some(CallItem::Frame(CallFrame::Probe(nonce))) => {
                let probe = IncomingProbe {
                    nonce,
                    send,
                    frames,
                    _slot: slot,
                };
                Ok(Arrival::Probe(Box::new(probe)))
            }
            // A forward among them: on an agent's link it may not stand.
            Some(_) | None => Err(violation(slot.connection(), Code::Protocol)),
        }
    }
}

/// A question whether whoever handles calls is alive.
#[derive(Debug)]
pub struct IncomingProbe {
    nonce: u64,
    send: SendHalf,
    frames: FrameReader,
    _slot: CallSlot,
}

impl IncomingProbe {
    /// Answers it. To be called where calls are handled, and only if they could be.
    ///
    /// # Errors
    /// The peer has lost interest, or the connection is gone.
    pub async fn answer(self) -> Result<(), CallError> {
        let Self {
            nonce,
            send,
            mut frames,
            _slot,
        } = self;
        let mut writer = FrameWriter::new(send);
        push(&mut writer, &CallFrame::ProbeAck(nonce))?;
        poll_fn(|cx| writer.poll_flush(cx))
            .await
            .map_err(|error| half_failed(error, true))?;
        writer.send().finish();
        frames.recv().stop_on_drop_with(Code::NotWanted);
        Ok(())
    }
}

/// A call that the peer opened. The parts may be used by several tasks.
#[derive(Debug)]
pub struct IncomingCall {
    /// The request's head.
    pub open: Open,
    /// Reads the request's body.
    pub body: RequestReader,
    /// Writes the answer.
    pub answer: AnswerWriter,
}

impl IncomingCall {
    fn new(open: Open, send: SendHalf, frames: FrameReader, slot: CallSlot) -> Self {
        let request = Request {
            frames,
            length: BodyLength::new(open.declared_length()),
            state: State::Body,
        };
        let shared = Arc::new(Shared {
            request: Mutex::new(request),
            waiters: Waiters::new(),
            slot,
        });
        let answer = AnswerWriter {
            frames: FrameWriter::new(send),
            shared: shared.clone(),
            method: open.method.clone(),
            stage: Stage::Start,
        };
        let body = RequestReader { shared };
        Self { open, body, answer }
    }
}

/// What the request's reader and the watch for cancellation share.
#[derive(Debug)]
struct Shared {
    request: Mutex<Request>,
    /// The body's reader, and the watch.
    waiters: Waiters,
    slot: CallSlot,
}

#[derive(Debug)]
struct Request {
    frames: FrameReader,
    length: BodyLength,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The body is being read.
    Body,
    /// It was read to its end.
    Ended,
    /// It is not wanted: what arrives is thrown away.
    Discarded,
    /// It cannot be read any further.
    Failed(Failure),
}

impl Shared {
    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for the end of the opener's interest.
    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<CallError> {
        let mut cx = self.waiters.other(cx);
        let mut request = self.request();
        let discards = request.state == State::Discarded;
        let failed = request.frames.poll_failed(&mut cx, discards);
        failed.map(|error| half_failed(error, true))
    }
}

/// Reads a request's body. Dropped before its end, no more of it is wanted; the call goes on.
#[derive(Debug)]
pub struct RequestReader {
    shared: Arc<Shared>,
}

impl RequestReader {
    /// The next piece of the body; `None` after its end.
    ///
    /// # Errors
    /// [`CallError`]: the body is not whole, whatever has come of it.
    pub async fn next(&mut self) -> Result<Option<Piece>, CallError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether the body has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.shared.request().state == State::Ended
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, CallError>> {
        let mut cx = self.shared.waiters.owner(cx);
        let mut request = self.shared.request();
        match request.state {
            State::Body => {}
            State::Ended => return Poll::Ready(Ok(None)),
            State::Discarded => return Poll::Ready(Err(failed(Failure::NotWanted))),
            State::Failed(failure) => return Poll::Ready(Err(failed(failure))),
        }
        let piece = ready!(request.poll_piece(&mut cx));
        Poll::Ready(match piece {
            Ok(piece) => Ok(Some(piece)),
            Err(Broken::Call(failure)) => {
                request.state = State::Failed(failure);
                Err(failed(failure))
            }
            Err(Broken::Read(error)) => {
                let error = read_failed(self.shared.slot.connection(), error, true);
                request.state = State::Failed(error.failure);
                Err(error)
            }
        })
    }
}

impl Drop for RequestReader {
    fn drop(&mut self) {
        let mut request = self.shared.request();
        match request.state {
            State::Body => {
                request.state = State::Discarded;
                request.frames.recv().stop(Code::NotWanted);
                request.frames.discard();
            }
            // The opener holds its stream open until the answer is complete: the watch goes on.
            State::Ended | State::Discarded => {
                request.frames.recv().stop_on_drop_with(Code::NotWanted);
            }
            State::Failed(_) => {}
        }
    }
}

/// Why there is no next piece.
enum Broken {
    Call(Failure),
    Read(crate::frames::ReadError),
}

impl Request {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        loop {
            let item = ready!(self.frames.poll_item(cx)).map_err(Broken::Read)?;
            return Poll::Ready(match item {
                Some(CallItem::Frame(CallFrame::Data(_))) => continue,
                Some(CallItem::Body(piece)) => match self.length.add(piece.len() as u64) {
                    Ok(()) => Ok(Piece::Data(piece)),
                    Err(_mismatch) => Err(Broken::Call(Failure::Length)),
                },
                Some(CallItem::Frame(CallFrame::End(trailers))) => match self.length.end() {
                    Ok(()) => {
                        self.state = State::Ended;
                        Ok(Piece::End(trailers))
                    }
                    Err(_mismatch) => Err(Broken::Call(Failure::Length)),
                },
                Some(CallItem::Frame(CallFrame::Abort(code))) => {
                    Err(Broken::Call(Failure::Aborted(code)))
                }
                Some(CallItem::Frame(_)) => Err(Broken::Call(Failure::Violation(Code::Protocol))),
                None => Err(Broken::Call(Failure::Cut)),
            });
        }
    }
}

/// Writes the answer. Dropped before its end, the answer is cut: the stream is reset.
#[derive(Debug)]
pub struct AnswerWriter {
    frames: FrameWriter,
    shared: Arc<Shared>,
    method: Method,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Accepted,
    Body(BodyLength),
    Over,
}

impl AnswerWriter {
    /// Tells the relay that the call has been taken, before anything else is waited for.
    ///
    /// # Errors
    /// The call was cancelled, or the connection is gone.
    pub async fn accept(&mut self) -> Result<(), CallError> {
        self.push_accepted()?;
        self.flush().await
    }

    /// Refuses the call: nothing of it has been offered to a backend.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] once the head was written.
    pub async fn refuse(mut self, code: Code) -> Result<(), CallError> {
        match self.stage {
            Stage::Start | Stage::Accepted => self.finish(&CallFrame::Refused(code)).await,
            Stage::Body(_) | Stage::Over => Err(failed(Failure::Violation(Code::Protocol))),
        }
    }

    /// Writes status and headers.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] for a second head, or one that cannot be sent.
    pub async fn head(&mut self, head: Head) -> Result<(), CallError> {
        self.push_head(head)?;
        self.flush().await
    }

    /// Writes a piece of the body, and waits until the transport has taken it.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Length`] above the declared length.
    pub async fn data(&mut self, piece: Bytes) -> Result<(), CallError> {
        self.push(piece)?;
        self.flush().await
    }

    /// Ends the body, with trailers or without: the answer is complete.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Length`] where other than the declared number of bytes was
    /// written, and the relay is told so.
    pub async fn end(mut self, trailers: HeaderMap) -> Result<(), CallError> {
        let Stage::Body(length) = self.stage else {
            return Err(failed(Failure::Violation(Code::Protocol)));
        };
        match length.end() {
            Ok(()) => self.finish(&CallFrame::End(trailers)).await,
            Err(_mismatch) => {
                self.finish(&CallFrame::Abort(Code::BackendProtocol))
                    .await?;
                Err(failed(Failure::Length))
            }
        }
    }

    /// Ends the answer before it is complete, in order: what was written arrives, and the code.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn abort(mut self, code: Code) -> Result<(), CallError> {
        if self.stage == Stage::Start {
            self.push_accepted()?;
        }
        self.finish(&CallFrame::Abort(code)).await
    }

    /// Tells the relay that no more of the request's body is wanted. What still comes is thrown
    /// away.
    ///
    /// # Errors
    /// As [`Self::accept`]; [`Failure::Violation`] before the call was accepted.
    pub async fn enough(&mut self) -> Result<(), CallError> {
        {
            let mut request = self.shared.request();
            if request.state != State::Body {
                return Ok(());
            }
            if self.stage == Stage::Start {
                return Err(failed(Failure::Violation(Code::Protocol)));
            }
            request.state = State::Discarded;
            request.frames.discard();
        }
        // Whoever watches throws away from now on.
        self.shared.waiters.wake_other();
        push(&mut self.frames, &CallFrame::Enough)?;
        self.flush().await
    }

    /// Cuts the answer with a code: what has not arrived is lost.
    pub fn reset(mut self, code: Code) {
        self.frames.send().reset(code);
        self.stage = Stage::Over;
    }

    /// Resolves when the opener has given the call up, or the connection is gone. It watches both
    /// directions for as long as it is polled, from before the call is accepted on: whatever the
    /// call waits for belongs into a `select` with it.
    pub fn cancelled(&self) -> impl Future<Output = CallError> + Send + 'static + use<> {
        let stopped = self.frames.send_half().stopped();
        let shared = self.shared.clone();
        async move {
            let mut stopped = pin!(stopped);
            let mut listening = true;
            poll_fn(|cx| {
                if listening && let Poll::Ready(stop) = stopped.as_mut().poll(cx) {
                    match stop {
                        Ok(Some(code)) => return Poll::Ready(failed(Failure::Reset(code))),
                        Err(error) => return Poll::Ready(half_failed(error, true)),
                        // The answer is complete and has arrived.
                        Ok(None) => listening = false,
                    }
                }
                shared.poll_cancelled(cx)
            })
            .await
        }
    }

    /// Adds `Accepted` to what the next flush takes.
    pub(crate) fn push_accepted(&mut self) -> Result<(), CallError> {
        if self.stage != Stage::Start {
            return Ok(());
        }
        push(&mut self.frames, &CallFrame::Accepted)?;
        self.stage = Stage::Accepted;
        Ok(())
    }

    /// Adds the head.
    pub(crate) fn push_head(&mut self, head: Head) -> Result<(), CallError> {
        self.push_accepted()?;
        if self.stage != Stage::Accepted {
            return Err(failed(Failure::Violation(Code::Protocol)));
        }
        let length = BodyLength::new(head.declared_length(&self.method));
        push(&mut self.frames, &CallFrame::Head(Box::new(head)))?;
        self.stage = Stage::Body(length);
        Ok(())
    }

    /// Adds a piece of the body.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), CallError> {
        let Stage::Body(length) = &mut self.stage else {
            return Err(failed(Failure::Violation(Code::Protocol)));
        };
        length
            .add(piece.len() as u64)
            .map_err(|_mismatch| failed(Failure::Length))?;
        self.frames.push_data(piece);
        Ok(())
    }

    /// Hands over what was pushed.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.frames
            .poll_flush(cx)
            .map_err(|error| half_failed(error, true))
    }

    async fn flush(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes the last word and ends the stream.
    async fn finish(&mut self, last: &CallFrame) -> Result<(), CallError> {
        push(&mut self.frames, last)?;
        self.flush().await?;
        self.frames.send().finish();
        self.stage = Stage::Over;
        Ok(())
    }
}

impl Drop for AnswerWriter {
    fn drop(&mut self) {
        if self.stage != Stage::Over {
            self.frames.send().reset(Code::AgentGone);
        }
    }
}

fn push(frames: &mut FrameWriter, frame: &CallFrame) -> Result<(), CallError> {
    frames
        .push(frame)
        .map_err(|error| failed(Failure::Violation(error.code())))
}

/// Whatever fails at this side, the peer has sent the call: it may have begun.
fn failed(failure: Failure) -> CallError {
    CallError::new(failure, true)
}
