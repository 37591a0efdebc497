//! The acceptor's side of a call: the agent reads the request and writes the answer.

mod answer;
mod cancel;
mod request;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_wire::{CallDecoder, CallFrame, CallItem, Code, Open};
use tokio::time::timeout;

pub use answer::AnswerWriter;
pub use request::RequestReader;

use crate::call::{Intake, read_failed, violation};
use crate::connection::{CallSlot, Connection};
use crate::error::{CallError, ConnectionEnd, Failure};
use crate::frames::{FrameReader, FrameWriter};
use crate::limits::OPEN_TIMEOUT;
use crate::probe::IncomingProbe;
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
            Some(CallItem::Frame(CallFrame::Probe(nonce))) => Ok(Arrival::Probe(Box::new(
                IncomingProbe::new(nonce, send, frames, slot),
            ))),
            // A forward among them: on an agent's link it may not stand.
            Some(_) | None => Err(violation(slot.connection(), Code::Protocol)),
        }
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
            intake: Intake::new(open.declared_length()),
            state: State::Body,
        };
        let shared = Arc::new(Shared {
            request: Mutex::new(request),
            answer: Mutex::new(Answer {
                frames: FrameWriter::new(send),
                ride: Ride::Nobody,
            }),
            waiters: Waiters::new(),
            slot,
        });
        let answer = AnswerWriter::new(shared.clone(), open.method.clone());
        let body = RequestReader::new(shared);
        body.look_ahead();
        Self { open, body, answer }
    }
}

/// What the two directions of a call and the watch for cancellation share.
#[derive(Debug)]
struct Shared {
    request: Mutex<Request>,
    answer: Mutex<Answer>,
    /// The request body's reader, and the watch.
    waiters: Waiters,
    slot: CallSlot,
}

#[derive(Debug)]
struct Request {
    frames: FrameReader,
    intake: Intake,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The body is being read, or has been.
    Body,
    /// It is not wanted: what arrives is thrown away.
    Discarded,
    /// It cannot be read any further.
    Failed(Failure),
}

#[derive(Debug)]
struct Answer {
    frames: FrameWriter,
    ride: Ride,
}

/// Who sees to it that `Accepted` leaves, where nothing follows it soon that it could leave with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ride {
    /// Nobody: it has to leave at once.
    Nobody,
    /// The watch, in a moment.
    Watch,
}

impl Shared {
    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever fails at this side, the peer has sent the call: it may have begun.
fn failed(failure: Failure) -> CallError {
    CallError::new(failure, true)
}
