//! From bytes to frames, in whatever pieces they come.
//!
//! One decoder per direction of a stream. It collects what the envelope of a collected frame
//! announces, after comparing it with the type's limit and never more than has arrived; bytes of
//! `Data` are handed out as they come, without a copy. On a call's stream it also keeps the order of
//! frames, so that whoever reads items from it sees a well-formed request or answer or an error.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::FrameError;
use crate::frame::{CallFrame, ControlFrame, Data, FrameType, Stream};
use crate::limits::{
    ENVELOPE_BYTES, FIRST_OPTIONAL_TYPE, UNKNOWN_FRAMES_IN_A_ROW, UNKNOWN_MAX_BYTES,
};

/// Reads the control stream.
#[derive(Debug)]
pub struct ControlDecoder {
    envelopes: Envelopes,
}

impl ControlDecoder {
    /// Starts at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            envelopes: Envelopes::new(Stream::Control),
        }
    }

    /// Takes bytes of the stream, in their order.
    pub fn push(&mut self, bytes: Bytes) {
        self.envelopes.push(bytes);
    }

    /// The next whole frame; `None` needs more bytes.
    ///
    /// # Errors
    /// The stream is broken, for good: every later call returns the same error.
    pub fn next_frame(&mut self) -> Result<Option<ControlFrame>, FrameError> {
        self.envelopes.guarded(|envelopes| {
            let Some(Piece::Payload(kind, payload)) = envelopes.next_piece()? else {
                return Ok(None);
            };
            ControlFrame::decode(kind, payload)
        })
    }
}

impl Default for ControlDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What a call's stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallItem {
    /// A frame. `Data` is the announcement only.
    Frame(CallFrame),
    /// Bytes of a body, never empty: part of what the last `Data` announced.
    Body(Bytes),
}

/// Reads one direction of a call's stream.
#[derive(Debug)]
pub struct CallDecoder {
    envelopes: Envelopes,
    order: Order,
}

impl CallDecoder {
    /// Reads what the opener sends: a request or a probe.
    #[must_use]
    pub fn request() -> Self {
        Self::starting(Order::RequestStart)
    }

    /// Reads the answer to a request.
    #[must_use]
    pub fn answer() -> Self {
        Self::starting(Order::AnswerStart)
    }

    /// Reads the answer to a probe.
    #[must_use]
    pub fn probe_answer() -> Self {
        Self::starting(Order::ProbeStart)
    }

    fn starting(order: Order) -> Self {
        Self {
            envelopes: Envelopes::new(Stream::Call),
            order,
        }
    }

    /// Takes bytes of the stream, in their order.
    pub fn push(&mut self, bytes: Bytes) {
        self.envelopes.push(bytes);
    }

    /// The next frame or the next bytes of a body; `None` needs more bytes.
    ///
    /// # Errors
    /// The stream is broken, for good: every later call returns the same error.
    pub fn next_item(&mut self) -> Result<Option<CallItem>, FrameError> {
        let order = &mut self.order;
        self.envelopes.guarded(|envelopes| {
            let frame = match envelopes.next_piece()? {
                None => return Ok(None),
                Some(Piece::Body(bytes)) => return Ok(Some(CallItem::Body(bytes))),
                Some(Piece::BodyStart(len)) => CallFrame::Data(Data { len }),
                Some(Piece::Payload(kind, payload)) => match CallFrame::decode(kind, payload)? {
                    Some(frame) => frame,
                    None => return Err(FrameError::Misplaced(kind)),
                },
            };
            *order = order
                .after(frame.kind())
                .ok_or(FrameError::Misplaced(frame.kind()))?;
            Ok(Some(CallItem::Frame(frame)))
        })
    }

    /// Whether the direction has said its last word: `End`, `Abort`, `Refused`, or that of a probe.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.order == Order::Done
    }

    /// The stream has ended (FIN).
    ///
    /// # Errors
    /// [`FrameError::Cut`] where the last word is missing or a frame is not whole; the error of the
    /// stream where it was broken before.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.envelopes.failed {
            return Err(error.clone());
        }
        if self.is_complete() && self.envelopes.is_between_frames() {
            Ok(())
        } else {
            Err(FrameError::Cut)
        }
    }
}

/// Where a direction of a call's stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    RequestStart,
    RequestBody,
    AnswerStart,
    Accepted { enough: bool },
    AnswerBody { enough: bool },
    ProbeStart,
    Done,
}

impl Order {
    /// Where it stands after a frame; `None` where the frame may not come.
    fn after(self, frame: FrameType) -> Option<Self> {
        use FrameType as F;
        match (self, frame) {
            (Self::RequestStart, F::Open | F::Forward) => Some(Self::RequestBody),
            (Self::RequestStart, F::Probe) => Some(Self::Done),
            (Self::RequestBody | Self::AnswerBody { .. }, F::Data) => Some(self),
            (Self::RequestBody | Self::AnswerBody { .. }, F::End | F::Abort) => Some(Self::Done),
            (Self::AnswerStart, F::Accepted) => Some(Self::Accepted { enough: false }),
            (Self::AnswerStart | Self::Accepted { .. }, F::Refused) => Some(Self::Done),
            (Self::Accepted { .. }, F::Abort) => Some(Self::Done),
            (Self::Accepted { enough }, F::Head) => Some(Self::AnswerBody { enough }),
            (Self::Accepted { enough: false }, F::Enough) => Some(Self::Accepted { enough: true }),
            (Self::AnswerBody { enough: false }, F::Enough) => {
                Some(Self::AnswerBody { enough: true })
            }
            (Self::ProbeStart, F::ProbeAck) => Some(Self::Done),
            (_, _) => None,
        }
    }
}

/// What stands between two envelopes.
enum Piece {
    /// A collected payload.
    Payload(FrameType, Bytes),
    /// `Data` was announced.
    BodyStart(u32),
    /// Bytes of it.
    Body(Bytes),
}

/// Cuts a stream into payloads and pieces of bodies.
#[derive(Debug)]
struct Envelopes {
    stream: Stream,
    /// Bytes that have not been looked at.
    input: Bytes,
    /// The beginning of what is being collected: an envelope or a payload.
    partial: BytesMut,
    state: State,
    unknown_in_a_row: u32,
    failed: Option<FrameError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Envelope,
    Payload { kind: FrameType, bytes: usize },
    Body { left: usize },
    Skip { left: usize },
}

impl Envelopes {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: Bytes::new(),
            partial: BytesMut::new(),
            state: State::Envelope,
            unknown_in_a_row: 0,
            failed: None,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if self.failed.is_some() {
            return;
        }
        if self.input.is_empty() {
            self.input = bytes;
        } else if !bytes.is_empty() {
            // The reader has not asked for everything yet. It should: this copies.
            let mut both = BytesMut::with_capacity(self.input.len() + bytes.len());
            both.extend_from_slice(&self.input);
            both.extend_from_slice(&bytes);
            self.input = both.freeze();
        }
    }

    fn is_between_frames(&self) -> bool {
        self.state == State::Envelope && self.partial.is_empty() && self.input.is_empty()
    }

    /// Runs one step, and remembers its error.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = step(self);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.input = Bytes::new();
            self.partial = BytesMut::new();
        }
        result
    }

    fn next_piece(&mut self) -> Result<Option<Piece>, FrameError> {
        loop {
            match self.state {
                State::Envelope => {
                    let Some(envelope) = self.collect(ENVELOPE_BYTES) else {
                        return Ok(None);
                    };
                    let started = self.begin(envelope)?;
                    if started.is_some() {
                        return Ok(started);
                    }
                }
                State::Payload { kind, bytes } => {
                    let Some(payload) = self.collect(bytes) else {
                        return Ok(None);
                    };
                    self.state = State::Envelope;
                    return Ok(Some(Piece::Payload(kind, payload)));
                }
                State::Body { left } => {
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                    let piece = self.input.split_to(left.min(self.input.len()));
                    self.advance(State::Body {
                        left: left - piece.len(),
                    });
                    return Ok(Some(Piece::Body(piece)));
                }
                State::Skip { left } => {
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                    let skipped = left.min(self.input.len());
                    self.input.advance(skipped);
                    self.advance(State::Skip {
                        left: left - skipped,
                    });
                }
            }
        }
    }

    /// Decides what follows an envelope.
    fn begin(&mut self, mut envelope: Bytes) -> Result<Option<Piece>, FrameError> {
        let (number, bytes) = (envelope.get_u8(), envelope.get_u32());
        let Some(kind) = FrameType::from_u8(number) else {
            return self.begin_unknown(number, bytes).map(|()| None);
        };
        self.unknown_in_a_row = 0;
        if kind.stream() != self.stream {
            return Err(FrameError::Misplaced(kind));
        }
        if bytes > kind.limit() {
            return Err(too_long(Some(kind), bytes, kind.limit()));
        }
        let length = bytes as usize;
        if kind == FrameType::Data {
            self.advance(State::Body { left: length });
            return Ok(Some(Piece::BodyStart(bytes)));
        }
        self.state = State::Payload {
            kind,
            bytes: length,
        };
        Ok(None)
    }

    fn begin_unknown(&mut self, number: u8, bytes: u32) -> Result<(), FrameError> {
        if number < FIRST_OPTIONAL_TYPE {
            return Err(FrameError::UnknownCritical(number));
        }
        if bytes > UNKNOWN_MAX_BYTES {
            return Err(too_long(None, bytes, UNKNOWN_MAX_BYTES));
        }
        self.unknown_in_a_row += 1;
        if self.unknown_in_a_row > UNKNOWN_FRAMES_IN_A_ROW {
            return Err(FrameError::TooManyUnknown);
        }
        self.advance(State::Skip {
            left: bytes as usize,
        });
        Ok(())
    }

    /// Goes on with what is left, or with the next envelope where nothing is.
    fn advance(&mut self, state: State) {
        self.state = match state {
            State::Body { left: 0 } | State::Skip { left: 0 } => State::Envelope,
            State::Envelope | State::Payload { .. } | State::Body { .. } | State::Skip { .. } => {
                state
            }
        };
    }

    /// The next `count` bytes, once they are all there. Where one piece holds them all, they are
    /// shared with it.
    fn collect(&mut self, count: usize) -> Option<Bytes> {
        if self.partial.is_empty() && self.input.len() >= count {
            return Some(self.input.split_to(count));
        }
        let missing = count - self.partial.len();
        let arrived = self.input.split_to(missing.min(self.input.len()));
        self.partial.extend_from_slice(&arrived);
        (self.partial.len() == count).then(|| self.partial.split().freeze())
    }
}

fn too_long(kind: Option<FrameType>, bytes: u32, limit: u32) -> FrameError {
    FrameError::TooLong {
        kind,
        bytes: u64::from(bytes),
        limit,
    }
}
