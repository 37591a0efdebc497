//! Frames: a closed table of types, each with its number, its stream and its limit.

mod call;
mod control;
mod greeting;
mod offer;

use bytes::{BufMut, BytesMut};
use minicbor::Encode;

pub use call::{CallFrame, Caller, Data, Forward, Head, Open, TraceContext};
pub use control::{Answer, Ask, CallKnowledge, ControlFrame, Drain, GoAway, Ping, Pong, Renewed};
pub use greeting::{Hello, PlaneName, Reject, Settings, Sibling, Welcome};
pub use offer::{
    BackendLoad, Health, Offer, ServiceHealth, ServiceKind, ServiceOffer, ServiceState,
};

use crate::codec::{Payload, Tail};
use crate::error::FrameError;
use crate::limits::{
    CONTROL_MAX_BYTES, DATA_MAX_BYTES, ENVELOPE_BYTES, HEAD_MAX_BYTES, OFFER_MAX_BYTES,
    SMALL_MAX_BYTES, TRAILERS_MAX_BYTES,
};

/// Which kind of stream a frame belongs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The first stream of a connection.
    Control,
    /// Every other one.
    Call,
}

macro_rules! frame_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $stream:ident, $limit:ident;)*) => {
        /// The types of this version. Numbers are the contract and never used again for another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameType {
            $($(#[$doc])* $name = $number,)*
        }

        impl FrameType {
            /// Every type, in the order of numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The type of a number, if this version knows it.
            #[must_use]
            pub fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The largest payload, in bytes.
            #[must_use]
            pub fn limit(self) -> u32 {
                match self {
                    $(Self::$name => $limit,)*
                }
            }

            /// The stream that it belongs on.
            #[must_use]
            pub fn stream(self) -> Stream {
                match self {
                    $(Self::$name => Stream::$stream,)*
                }
            }
        }
    };
}

frame_types! {
    /// Agent: who I am and what I serve.
    Hello = 1, Control, OFFER_MAX_BYTES;
    /// Relay: the session.
    Welcome = 2, Control, CONTROL_MAX_BYTES;
    /// Relay: no session.
    Reject = 3, Control, CONTROL_MAX_BYTES;
    /// Agent: what I serve now.
    Offer = 4, Control, OFFER_MAX_BYTES;
    /// Agent: how my services are.
    Health = 5, Control, CONTROL_MAX_BYTES;
    /// Agent: are you there?
    Ping = 6, Control, CONTROL_MAX_BYTES;
    /// Relay: yes, and so are your calls.
    Pong = 7, Control, CONTROL_MAX_BYTES;
    /// Relay: have you seen this call?
    Ask = 8, Control, CONTROL_MAX_BYTES;
    /// Agent: the answer.
    Answer = 9, Control, CONTROL_MAX_BYTES;
    /// Agent: a certificate, please.
    Renew = 10, Control, CONTROL_MAX_BYTES;
    /// Relay: the certificate, or why not.
    Renewed = 11, Control, CONTROL_MAX_BYTES;
    /// Relay: the planes there are, signed by control.
    Planes = 12, Control, CONTROL_MAX_BYTES;
    /// Relay: dial a replacement.
    GoAway = 13, Control, CONTROL_MAX_BYTES;
    /// Agent: no more calls.
    Drain = 14, Control, CONTROL_MAX_BYTES;
    /// Relay: there will be none.
    DrainAck = 15, Control, CONTROL_MAX_BYTES;
    /// Relay: an identity was revoked, signed by control.
    Revoked = 16, Control, CONTROL_MAX_BYTES;
    /// Relay: a request.
    Open = 32, Call, HEAD_MAX_BYTES;
    /// Replica to replica: a request for a link that you have.
    Forward = 33, Call, HEAD_MAX_BYTES;
    /// Agent: I have taken it.
    Accepted = 34, Call, SMALL_MAX_BYTES;
    /// Agent: I will not, and nothing began.
    Refused = 35, Call, SMALL_MAX_BYTES;
    /// Agent: status and headers.
    Head = 36, Call, HEAD_MAX_BYTES;
    /// Either: bytes of a body.
    Data = 37, Call, DATA_MAX_BYTES;
    /// Either: the body is complete.
    End = 38, Call, TRAILERS_MAX_BYTES;
    /// Either: there will be no end.
    Abort = 39, Call, SMALL_MAX_BYTES;
    /// Agent: no more of the request's body.
    Enough = 40, Call, SMALL_MAX_BYTES;
    /// Relay: a call that is only answered.
    Probe = 41, Call, SMALL_MAX_BYTES;
    /// Agent: its answer.
    ProbeAck = 42, Call, SMALL_MAX_BYTES;
}

// All of this version's types are critical.
const _: () = assert!((FrameType::ProbeAck as u8) < crate::limits::FIRST_OPTIONAL_TYPE);

/// Appends one frame whose payload is `body`.
fn put<T>(kind: FrameType, body: &T, out: &mut BytesMut) -> Result<(), FrameError>
where
    T: Encode<Payload>,
{
    let start = out.len();
    out.put_u8(kind as u8);
    out.put_u32(0);
    let written = minicbor::encode_with(body, Tail(out), &mut Payload::default());
    let bytes = out.len() - start - ENVELOPE_BYTES;
    let checked = written
        .map_err(|error| malformed(kind, &error))
        .and_then(|()| length(kind, bytes as u64));
    match checked {
        Ok(length) => {
            out[start + 1..start + ENVELOPE_BYTES].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends one frame without a payload.
fn put_empty(kind: FrameType, out: &mut BytesMut) {
    out.put_u8(kind as u8);
    out.put_u32(0);
}

/// A payload's length as the envelope has it.
fn length(kind: FrameType, bytes: u64) -> Result<u32, FrameError> {
    let limit = kind.limit();
    u32::try_from(bytes)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or(FrameError::TooLong {
            kind: Some(kind),
            bytes,
            limit,
        })
}

fn malformed(kind: FrameType, error: &dyn std::error::Error) -> FrameError {
    let reason = error
        .source()
        .map_or_else(|| error.to_string(), |source| source.to_string());
    FrameError::Malformed { kind, reason }
}

/// Decodes one payload. What stands behind the frame's map is refused: it would be lost.
fn take<T>(kind: FrameType, payload: bytes::Bytes) -> Result<T, FrameError>
where
    T: for<'b> minicbor::Decode<'b, Payload>,
{
    let mut context = Payload::new(payload.clone());
    let mut decoder = minicbor::Decoder::new(&payload);
    let frame = decoder
        .decode_with(&mut context)
        .map_err(|error| malformed(kind, &error))?;
    if decoder.position() == payload.len() {
        Ok(frame)
    } else {
        Err(FrameError::Malformed {
            kind,
            reason: "trailing bytes".to_owned(),
        })
    }
}
