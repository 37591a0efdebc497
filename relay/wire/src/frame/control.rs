//! Frames of the control stream.

use bytes::{Bytes, BytesMut};
use minicbor::{Decode, Encode};

use super::greeting::{Hello, Reject, Welcome};
use super::offer::{Health, Offer};
use super::{FrameType, put, put_empty, take};
use crate::code::Code;
use crate::codec::{self, Share, open_enum};
use crate::error::FrameError;
use crate::ids::CallId;

/// A frame of the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// The agent's first frame.
    Hello(Hello),
    /// The relay's first frame, where it accepts.
    Welcome(Welcome),
    /// The relay's only frame, where it does not.
    Reject(Reject),
    /// What the agent serves now; replaces all of the last offer.
    Offer(Offer),
    /// How the agent's services are.
    Health(Health),
    /// Asks for a `Pong`.
    Ping(Ping),
    /// Answers a `Ping`.
    Pong(Pong),
    /// Asks whether a call was seen.
    Ask(Ask),
    /// Answers an `Ask`.
    Answer(Answer),
    /// A signed request for a certificate, as `culvert-certs` has it.
    Renew(Bytes),
    /// Answers a `Renew`.
    Renewed(Renewed),
    /// A signed list of at most 64 planes.
    Planes(Bytes),
    /// Advice to dial a replacement.
    GoAway(GoAway),
    /// The agent leaves: binding, no call may be opened any more.
    Drain(Drain),
    /// No call will be opened any more.
    DrainAck,
    /// A signed revocation.
    Revoked(Bytes),
}

/// Asks for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ping {
    /// Counts the pings of a connection, from 1.
    #[cbor(n(0), default)]
    pub nonce: u64,
}

/// The sign of life, with what the relay knows of the agent's serving code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pong {
    /// The ping's.
    #[cbor(n(0), default)]
    pub nonce: u64,
    /// How long ago the last probe was answered, in milliseconds; none yet.
    #[n(1)]
    pub probe_age_ms: Option<u64>,
    /// How long a probe has been waiting for its answer, in milliseconds; none waits.
    #[n(2)]
    pub probe_waiting_ms: Option<u64>,
}

/// Asks whether a call reached the agent, over whichever link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ask {
    /// The attempt in question.
    #[n(0)]
    pub call_id: CallId,
    /// How long ago its `Open` was given to the lost link, in milliseconds.
    #[cbor(n(1), default)]
    pub age_ms: u64,
}

/// What the agent knows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Answer {
    /// The question's.
    #[n(0)]
    pub call_id: CallId,
    /// The answer.
    #[cbor(n(1), default)]
    pub knowledge: CallKnowledge,
}

/// What an agent knows of a call id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CallKnowledge {
    /// It may have been forgotten; also an answer of a later version.
    #[default]
    Unknown,
    /// It never came, and will be refused if it comes: anything may be sent again.
    NeverSeen,
    /// It came.
    Seen,
}

/// The end of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// What control issued, as `culvert-certs` has it.
    Issued(Bytes),
    /// Why it did not.
    Refused(Code),
}

/// Advice to be gone by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GoAway {
    /// How long what has begun may take, from the last new call on, in milliseconds.
    #[cbor(n(0), default)]
    pub leave_in_ms: u64,
    /// The replacement is dialled at a random moment of this span, in milliseconds.
    #[cbor(n(1), default)]
    pub smear_ms: u64,
}

/// The agent leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Drain {
    /// When the agent ends what is left, in milliseconds.
    #[cbor(n(0), default)]
    pub timeout_ms: u64,
}

/// A payload of nothing but opaque bytes.
#[derive(Encode, Decode)]
#[cbor(map, context_bound = "Share")]
struct Opaque {
    #[cbor(n(0), with = "codec::shared")]
    payload: Bytes,
}

#[derive(Encode, Decode)]
#[cbor(map, context_bound = "Share")]
struct RenewedFields {
    #[cbor(n(0), with = "codec::optional_shared", has_nil)]
    issued: Option<Bytes>,
    #[n(1)]
    refused: Option<Code>,
}

impl ControlFrame {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> FrameType {
        match self {
            Self::Hello(_) => FrameType::Hello,
            Self::Welcome(_) => FrameType::Welcome,
            Self::Reject(_) => FrameType::Reject,
            Self::Offer(_) => FrameType::Offer,
            Self::Health(_) => FrameType::Health,
            Self::Ping(_) => FrameType::Ping,
            Self::Pong(_) => FrameType::Pong,
            Self::Ask(_) => FrameType::Ask,
            Self::Answer(_) => FrameType::Answer,
            Self::Renew(_) => FrameType::Renew,
            Self::Renewed(_) => FrameType::Renewed,
            Self::Planes(_) => FrameType::Planes,
            Self::GoAway(_) => FrameType::GoAway,
            Self::Drain(_) => FrameType::Drain,
            Self::DrainAck => FrameType::DrainAck,
            Self::Revoked(_) => FrameType::Revoked,
        }
    }

    /// Appends the frame, envelope and payload.
    ///
    /// # Errors
    /// The payload is above the type's limit; nothing is appended then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let kind = self.kind();
        match self {
            Self::Hello(hello) => put(kind, hello, out),
            Self::Welcome(welcome) => put(kind, welcome, out),
            Self::Reject(reject) => put(kind, reject, out),
            Self::Offer(offer) => put(kind, offer, out),
            Self::Health(health) => put(kind, health, out),
            Self::Ping(ping) => put(kind, ping, out),
            Self::Pong(pong) => put(kind, pong, out),
            Self::Ask(ask) => put(kind, ask, out),
            Self::Answer(answer) => put(kind, answer, out),
            Self::Renewed(renewed) => put(kind, &renewed.fields(), out),
            Self::GoAway(go_away) => put(kind, go_away, out),
            Self::Drain(drain) => put(kind, drain, out),
            Self::Renew(payload) | Self::Planes(payload) | Self::Revoked(payload) => put(
                kind,
                &Opaque {
                    payload: payload.clone(),
                },
                out,
            ),
            Self::DrainAck => {
                put_empty(kind, out);
                Ok(())
            }
        }
    }

    /// Decodes the payload of a control type; `None` for a type of call streams.
    pub(crate) fn decode(kind: FrameType, payload: Bytes) -> Result<Option<Self>, FrameError> {
        Ok(Some(match kind {
            FrameType::Hello => Self::Hello(take(kind, payload)?),
            FrameType::Welcome => Self::Welcome(take(kind, payload)?),
            FrameType::Reject => Self::Reject(take(kind, payload)?),
            FrameType::Offer => Self::Offer(take(kind, payload)?),
            FrameType::Health => Self::Health(take(kind, payload)?),
            FrameType::Ping => Self::Ping(take(kind, payload)?),
            FrameType::Pong => Self::Pong(take(kind, payload)?),
            FrameType::Ask => Self::Ask(take(kind, payload)?),
            FrameType::Answer => Self::Answer(take(kind, payload)?),
            FrameType::Renew => Self::Renew(take::<Opaque>(kind, payload)?.payload),
            FrameType::Renewed => Self::Renewed(take::<RenewedFields>(kind, payload)?.whole()?),
            FrameType::Planes => Self::Planes(take::<Opaque>(kind, payload)?.payload),
            FrameType::GoAway => Self::GoAway(take(kind, payload)?),
            FrameType::Drain => Self::Drain(take(kind, payload)?),
            FrameType::DrainAck => Self::DrainAck,
            FrameType::Revoked => Self::Revoked(take::<Opaque>(kind, payload)?.payload),
            FrameType::Open
            | FrameType::Forward
            | FrameType::Accepted
            | FrameType::Refused
            | FrameType::Head
            | FrameType::Data
            | FrameType::End
            | FrameType::Abort
            | FrameType::Enough
            | FrameType::Probe
            | FrameType::ProbeAck => return Ok(None),
        }))
    }
}

impl Renewed {
    fn fields(&self) -> RenewedFields {
        match self {
            Self::Issued(issued) => RenewedFields {
                issued: Some(issued.clone()),
                refused: None,
            },
            Self::Refused(code) => RenewedFields {
                issued: None,
                refused: Some(*code),
            },
        }
    }
}

impl RenewedFields {
    fn whole(self) -> Result<Renewed, FrameError> {
        match (self.issued, self.refused) {
            (Some(issued), None) => Ok(Renewed::Issued(issued)),
            (None, Some(code)) => Ok(Renewed::Refused(code)),
            (Some(_), Some(_)) | (None, None) => Err(FrameError::Malformed {
                kind: FrameType::Renewed,
                reason: "neither issued nor refused, or both".to_owned(),
            }),
        }
    }
}

open_enum!(CallKnowledge {
    Unknown = 0,
    NeverSeen = 1,
    Seen = 2
});
