//! Frames of a call's stream.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use minicbor::{Decode, Encode};

use super::{FrameType, length, put, put_empty, take};
use crate::code::Code;
use crate::codec::{self, Share};
use crate::error::FrameError;
use crate::ids::{CallId, ServiceName, SessionId};
use crate::limits::{ENVELOPE_BYTES, EXCLUDED_SESSIONS_MAX, NAME_MAX_BYTES, TRACE_STATE_MAX_BYTES};

/// A frame of a call's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFrame {
    /// The request's first frame on an agent's link.
    Open(Box<Open>),
    /// The request's first frame between replicas.
    Forward(Box<Forward>),
    /// The agent has taken the call, and is alive.
    Accepted,
    /// The agent will not carry it out; nothing was offered to a backend.
    Refused(Code),
    /// Status and headers of the answer.
    Head(Box<Head>),
    /// Bytes of a body follow the frame, as many as it says.
    Data(Data),
    /// The body is complete; its trailers, empty where it has none.
    End(HeaderMap),
    /// The body ends here and is not complete.
    Abort(Code),
    /// No more of the request's body is wanted.
    Enough,
    /// A call that only asks for its `ProbeAck`.
    Probe(u64),
    /// What the code that serves calls answers to a `Probe`, with its nonce.
    ProbeAck(u64),
}

/// A request of a caller.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map, context_bound = "Share")]
pub struct Open {
    /// The service that it is for.
    #[n(0)]
    pub service: ServiceName,
    /// The attempt of the request.
    #[n(1)]
    pub call_id: CallId,
    /// Time that is left, in milliseconds; none is no limit.
    #[n(2)]
    pub deadline_ms: Option<u64>,
    /// Where it stands in a trace.
    #[n(3)]
    pub trace: Option<TraceContext>,
    /// Who calls: a claim of the plane.
    #[cbor(n(4), default)]
    pub caller: Caller,
    /// Whether the caller can take trailers.
    #[cbor(n(5), default)]
    pub wants_trailers: bool,
    /// The protocol that the caller wants to change to.
    #[cbor(n(6), decode_with = "codec::optional_text", default)]
    pub upgrade: Option<String>,
    /// The method; never `CONNECT`.
    #[cbor(n(7), with = "codec::method")]
    pub method: Method,
    /// `/path?query`, or `*`.
    #[cbor(n(8), with = "codec::target")]
    pub target: PathAndQuery,
    /// Headers, without those that frame the message or belong to one connection.
    #[cbor(n(9), with = "codec::headers", has_nil)]
    pub headers: HeaderMap,
}

impl fmt::Debug for Open {
    /// Without target and values of headers: they carry what callers keep secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("service", &self.service)
            .field("call_id", &self.call_id)
            .field("deadline_ms", &self.deadline_ms)
            .field("method", &self.method)
            .field("upgrade", &self.upgrade)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// W3C Trace Context.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TraceContext {
    /// The trace.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub trace_id: [u8; 16],
    /// The span that this call belongs under.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub span_id: [u8; 8],
    /// Whether it is sampled, and what else the flags say.
    #[cbor(n(2), default)]
    pub flags: u8,
    /// `tracestate`, at most 512 bytes.
    #[cbor(
        n(3),
        decode_with = "codec::short_text::<_, TRACE_STATE_MAX_BYTES>",
        default
    )]
    pub state: Option<String>,
}

/// Who calls, as the plane claims it. Empty texts where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Caller {
    /// The tenant.
    #[cbor(
        n(0),
        decode_with = "codec::text",
        default,
        skip_if = "String::is_empty"
    )]
    pub tenant: String,
    /// The key's id, never the key.
    #[cbor(
        n(1),
        decode_with = "codec::text",
        default,
        skip_if = "String::is_empty"
    )]
    pub key_id: String,
    /// The end user.
    #[cbor(n(2), decode_with = "codec::optional_text", default)]
    pub user: Option<String>,
}

/// A request for a link that another replica has. The attempt is that of the call id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map, context_bound = "Share")]
pub struct Forward {
    /// The connector's tenant. The receiver checks that the sending plane may serve it.
    #[cbor(n(0), decode_with = "codec::text")]
    pub tenant: String,
    /// The connector.
    #[cbor(n(1), decode_with = "codec::text")]
    pub connector: String,
    /// Sessions that have been tried.
    #[cbor(
        n(2),
        decode_with = "codec::list::<_, _, EXCLUDED_SESSIONS_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub exclude: Vec<SessionId>,
    /// The request.
    #[n(3)]
    pub open: Open,
}

/// Status and headers of an answer.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map, context_bound = "Share")]
pub struct Head {
    /// A final status, or 101 where `Open` asked for an upgrade.
    #[cbor(n(0), with = "codec::status")]
    pub status: StatusCode,
    /// Headers, without those that frame the message or belong to one connection.
    #[cbor(n(1), with = "codec::headers", has_nil)]
    pub headers: HeaderMap,
    /// The trailers that the backend announced.
    #[cbor(n(2), with = "codec::names", default, skip_if = "Vec::is_empty")]
    pub trailer_names: Vec<HeaderName>,
}

impl fmt::Debug for Head {
    /// Without values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("status", &self.status)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// The announcement of bytes that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// How many.
    pub len: u32,
}

impl Data {
    /// The envelope to write in front of a piece of a body.
    #[must_use]
    pub fn header(self) -> [u8; ENVELOPE_BYTES] {
        let [a, b, c, d] = self.len.to_be_bytes();
        [FrameType::Data as u8, a, b, c, d]
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct CodeField {
    #[n(0)]
    code: Code,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct NonceField {
    #[cbor(n(0), default)]
    nonce: u64,
}

#[derive(Encode, Decode)]
#[cbor(map, context_bound = "Share")]
struct EndFields {
    #[cbor(n(0), with = "codec::trailers", has_nil)]
    trailers: HeaderMap,
}

impl CallFrame {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> FrameType {
        match self {
            Self::Open(_) => FrameType::Open,
            Self::Forward(_) => FrameType::Forward,
            Self::Accepted => FrameType::Accepted,
            Self::Refused(_) => FrameType::Refused,
            Self::Head(_) => FrameType::Head,
            Self::Data(_) => FrameType::Data,
            Self::End(_) => FrameType::End,
            Self::Abort(_) => FrameType::Abort,
            Self::Enough => FrameType::Enough,
            Self::Probe(_) => FrameType::Probe,
            Self::ProbeAck(_) => FrameType::ProbeAck,
        }
    }

    /// Appends the frame, envelope and payload. Of `Data` that is the envelope: the bytes are
    /// written behind it, in any number of pieces.
    ///
    /// # Errors
    /// The payload is above the type's limit, or a head holds what may not pass; nothing is
    /// appended then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let kind = self.kind();
        match self {
            Self::Open(open) => put(kind, &**open, out),
            Self::Forward(forward) => put(kind, &**forward, out),
            Self::Head(head) => put(kind, &**head, out),
            Self::Refused(code) | Self::Abort(code) => put(kind, &CodeField { code: *code }, out),
            Self::Probe(nonce) | Self::ProbeAck(nonce) => {
                put(kind, &NonceField { nonce: *nonce }, out)
            }
            Self::End(trailers) if !trailers.is_empty() => put(
                kind,
                &EndFields {
                    trailers: trailers.clone(),
                },
                out,
            ),
            Self::Data(data) => {
                out.put_slice(&data.header());
                Ok(())
            }
            Self::Accepted | Self::Enough | Self::End(_) => {
                put_empty(kind, out);
                Ok(())
            }
        }
    }

    /// Decodes the payload of a call type that has one; `None` for a type of the control stream,
    /// and for `Data`, whose payload is streamed.
    pub(crate) fn decode(kind: FrameType, payload: Bytes) -> Result<Option<Self>, FrameError> {
        Ok(Some(match kind {
            FrameType::Open => Self::Open(take(kind, payload)?),
            FrameType::Forward => Self::Forward(take(kind, payload)?),
            FrameType::Accepted => Self::Accepted,
            FrameType::Refused => Self::Refused(take::<CodeField>(kind, payload)?.code),
            FrameType::Head => Self::Head(take(kind, payload)?),
            FrameType::End if payload.is_empty() => Self::End(HeaderMap::new()),
            FrameType::End => Self::End(take::<EndFields>(kind, payload)?.trailers),
            FrameType::Abort => Self::Abort(take::<CodeField>(kind, payload)?.code),
            FrameType::Enough => Self::Enough,
            FrameType::Probe => Self::Probe(take::<NonceField>(kind, payload)?.nonce),
            FrameType::ProbeAck => Self::ProbeAck(take::<NonceField>(kind, payload)?.nonce),
            FrameType::Hello
            | FrameType::Welcome
            | FrameType::Reject
            | FrameType::Offer
            | FrameType::Health
            | FrameType::Ping
            | FrameType::Pong
            | FrameType::Ask
            | FrameType::Answer
            | FrameType::Renew
            | FrameType::Renewed
            | FrameType::Planes
            | FrameType::GoAway
            | FrameType::Drain
            | FrameType::DrainAck
            | FrameType::Revoked
            | FrameType::Data => return Ok(None),
        }))
    }

    /// The announcement of a piece of a body.
    ///
    /// # Errors
    /// The piece is longer than one frame can announce; split it.
    pub fn data(bytes: usize) -> Result<Self, FrameError> {
        length(FrameType::Data, bytes as u64).map(|len| Self::Data(Data { len }))
    }
}

// The largest caller fits beside the largest head.
const _: () = assert!(3 * NAME_MAX_BYTES + TRACE_STATE_MAX_BYTES + 1024 <= 4096);
