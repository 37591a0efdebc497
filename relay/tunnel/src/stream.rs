//! The two halves of a stream, whatever carries it.
//!
//! Each half is a guard: one that is dropped before its end resets. quinn would *finish* a dropped
//! sending half, so that a cut body would look like a whole one.
//!
//! A transport is a variant of the two private enums here and of the one in `connection.rs`;
//! nothing above these files knows which one it has.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_wire::Code;
use quinn::{ReadError, StoppedError, VarInt, WriteError};

/// How a half ended other than by its own side's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfError {
    /// The peer reset what it sent, or wants no more of what is sent to it.
    Peer(Code),
    /// The connection is gone.
    Lost,
}

/// The sending half. Dropped before [`SendHalf::finish`], it resets with its code.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream,
    open: bool,
    on_drop: Code,
}

#[derive(Debug)]
enum SendStream {
    Quic(quinn::SendStream),
}

impl SendHalf {
    pub(crate) fn quic(stream: quinn::SendStream, on_drop: Code) -> Self {
        Self {
            stream: SendStream::Quic(stream),
            open: true,
            on_drop,
        }
    }

    /// Hands over chunks, as many as the peer's window and the send window take. Returns how many
    /// chunks went whole and how many bytes in all; a chunk that went in part is shortened.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<(usize, u64), HalfError>> {
        let SendStream::Quic(stream) = &mut self.stream;
        // The future keeps nothing between two polls: what waits is registered in the connection.
        pin!(stream.write_chunks(chunks))
            .poll(cx)
            .map(|written| match written {
                Ok(written) => Ok((written.chunks, written.bytes as u64)),
                Err(WriteError::Stopped(code)) => Err(HalfError::Peer(code_of(code))),
                Err(
                    WriteError::ConnectionLost(_)
                    | WriteError::ClosedStream
                    | WriteError::ZeroRttRejected,
                ) => Err(HalfError::Lost),
            })
    }

    /// Ends the half in order: all that was written arrives, then FIN.
    pub(crate) fn finish(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            let SendStream::Quic(stream) = &mut self.stream;
            // It fails only where the half or the connection has ended otherwise.
            drop(stream.finish());
        }
    }

    /// Ends the half at once: the peer is told the code, and loses what it has not read.
    pub(crate) fn reset(&mut self, code: Code) {
        if std::mem::replace(&mut self.open, false) {
            let SendStream::Quic(stream) = &mut self.stream;
            drop(stream.reset(error_code(code)));
        }
    }

    /// Ranks the half among those of its connection; the higher goes first.
    pub(crate) fn set_priority(&mut self, priority: i32) {
        let SendStream::Quic(stream) = &mut self.stream;
        drop(stream.set_priority(priority));
    }

    /// Resolves when the peer wants no more; with nothing if the half ended in order before.
    pub(crate) fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<Code>, HalfError>> + Send + 'static + use<> {
        let SendStream::Quic(stream) = &self.stream;
        let stopped = stream.stopped();
        async move {
            match stopped.await {
                Ok(code) => Ok(code.map(code_of)),
                Err(StoppedError::ConnectionLost(_) | StoppedError::ZeroRttRejected) => {
                    Err(HalfError::Lost)
                }
            }
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        self.reset(self.on_drop);
    }
}

/// The receiving half. Dropped before its end was read, it stops the peer with its code.
#[derive(Debug)]
pub(crate) struct RecvHalf {
    stream: RecvStream,
    open: bool,
    on_drop: Code,
}

#[derive(Debug)]
enum RecvStream {
    Quic(quinn::RecvStream),
}

impl RecvHalf {
    pub(crate) fn quic(stream: quinn::RecvStream, on_drop: Code) -> Self {
        Self {
            stream: RecvStream::Quic(stream),
            open: true,
            on_drop,
        }
    }

    /// Takes what has arrived, without copying; `None` is the peer's FIN.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, HalfError>> {
        let RecvStream::Quic(stream) = &mut self.stream;
        let read = pin!(stream.read_chunks(chunks))
            .poll(cx)
            .map_err(|error| match error {
                ReadError::Reset(code) => HalfError::Peer(code_of(code)),
                ReadError::ConnectionLost(_)
                | ReadError::ClosedStream
                | ReadError::IllegalOrderedRead
                | ReadError::ZeroRttRejected => HalfError::Lost,
            });
        if matches!(read, Poll::Ready(Ok(None) | Err(_))) {
            self.open = false;
        }
        read
    }

    /// Refuses what is still to come.
    pub(crate) fn stop(&mut self, code: Code) {
        if std::mem::replace(&mut self.open, false) {
            let RecvStream::Quic(stream) = &mut self.stream;
            drop(stream.stop(error_code(code)));
        }
    }

    /// The code with which a later drop stops the peer.
    pub(crate) fn stop_on_drop_with(&mut self, code: Code) {
        self.on_drop = code;
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.stop(self.on_drop);
    }
}

pub(crate) fn error_code(code: Code) -> VarInt {
    VarInt::from_u32(u32::from(code.to_u16()))
}

pub(crate) fn code_of(number: VarInt) -> Code {
    Code::from_transport(number.into_inner())
}
