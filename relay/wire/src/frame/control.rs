//! Frames of the control stream.

use bytes::{Bytes, BytesMut};
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use super::{FrameType, put, put_empty, take};
use crate::code::Code;
use crate::codec::{self, Share};
use crate::error::FrameError;
use crate::ids::{CallId, InstanceId, ReplicaId, ServiceName, SessionId};
use crate::limits::{
    ADDRESSES_MAX, CONNECTIONS_MAX, FEATURES_MAX, MODELS_MAX, SERVICES_MAX, SIBLINGS_MAX,
};

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

/// Who dials, and what it serves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map, context_bound = "Share")]
pub struct Hello {
    /// Of the protocol; this crate speaks [`crate::VERSION`].
    #[n(0)]
    pub version: u16,
    /// Optional behaviour that the agent knows, by name.
    #[cbor(
        n(1),
        decode_with = "codec::texts::<_, FEATURES_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub features: Vec<String>,
    /// This start of the agent.
    #[n(2)]
    pub instance: InstanceId,
    /// The live session that this connection is to be added to.
    #[n(3)]
    pub attach: Option<SessionId>,
    /// What it serves, with the number that it has among the offers of this instance.
    #[cbor(n(4), default)]
    pub offer: Offer,
}

/// The session, as the relay sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// The replica that answers.
    #[n(1)]
    pub replica: ReplicaId,
    /// Its plane.
    #[n(2)]
    pub plane: PlaneName,
    /// All replicas of the plane that the relay knows of.
    #[cbor(
        n(3),
        decode_with = "codec::list::<_, _, SIBLINGS_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub siblings: Vec<Sibling>,
    /// What the relay asks the agent to do differently.
    #[cbor(n(4), default)]
    pub settings: Settings,
    /// Those features of the `Hello` that are in use.
    #[cbor(
        n(5),
        decode_with = "codec::texts::<_, FEATURES_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub features: Vec<String>,
}

/// A plane's labels, `US`/`ORF`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct PlaneName {
    /// Region.
    #[cbor(n(0), decode_with = "codec::text", default)]
    pub region: String,
    /// Zone.
    #[cbor(n(1), decode_with = "codec::text", default)]
    pub zone: String,
}

/// Another replica of the same plane.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Sibling {
    /// The replica.
    #[n(0)]
    pub replica: ReplicaId,
    /// `host:port` at which it can be reached alone; empty where only a balancer leads to it.
    #[cbor(
        n(1),
        decode_with = "codec::texts::<_, ADDRESSES_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub addresses: Vec<String>,
    /// Its share, where not all siblings are dialled.
    #[cbor(n(2), default)]
    pub weight: u16,
}

/// A closed list: it never touches services, limits, policy or files of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Settings {
    /// Connections of the session and transport, 1 to 4; read it through
    /// [`Settings::connections_clamped`].
    #[cbor(n(0), default)]
    pub connections: u8,
}

impl Settings {
    /// Connections to hold, whatever was sent.
    #[must_use]
    pub fn connections_clamped(&self) -> u8 {
        self.connections.clamp(1, CONNECTIONS_MAX)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections: 1 }
    }
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map, context_bound = "Share")]
pub struct Reject {
    /// The reason; it says whether and where to try again.
    #[n(0)]
    pub code: Code,
    /// With `Upgrade`: the least version that is served.
    #[n(1)]
    pub minimum: Option<u16>,
    /// With `Revoked`: control's signed statement. Without it, nothing ends retrying.
    #[cbor(n(2), with = "codec::optional_shared", has_nil)]
    pub signed: Option<Bytes>,
}

impl Reject {
    /// A rejection with nothing but its code.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            minimum: None,
            signed: None,
        }
    }
}

/// What an agent serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Offer {
    /// Grows with every offer of an instance, also from one link to the next.
    #[cbor(n(0), default)]
    pub seq: u64,
    /// Every service; one of a kind that the reader does not know is left out when reading.
    #[cbor(
        n(1),
        decode_with = "known_services",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub services: Vec<ServiceOffer>,
}

impl Offer {
    /// Checks that the offer can be sent, so that one that cannot is an error where it is
    /// configured.
    ///
    /// # Errors
    /// Too many services or models, a name too long, or all together more than 256 KiB.
    pub fn check(&self) -> Result<(), FrameError> {
        let mut out = BytesMut::new();
        ControlFrame::Offer(self.clone()).encode(&mut out)?;
        let mut decoder = crate::decoder::ControlDecoder::new();
        decoder.push(out.freeze());
        // What we write must be readable, so the bounds of the reader are the bounds.
        decoder.next_frame().map(|_| ())
    }
}

/// One service of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
#[cbor(map)]
pub struct ServiceOffer {
    /// Its name in the agent's file.
    #[n(0)]
    pub name: ServiceName,
    /// Its kind.
    #[n(1)]
    pub kind: ServiceKind,
    /// The models of a `model` service.
    #[cbor(n(2), skip_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// SHA-256 over kind, url, policy and models; never over secrets.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub digest: [u8; 32],
}

/// What kind of thing a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ServiceKind {
    /// A model server with an OpenAI or Anthropic API.
    #[n(1)]
    Model,
    /// An MCP server.
    #[n(2)]
    Mcp,
    /// Anything else that speaks HTTP.
    #[n(3)]
    Http,
}

/// A service as it is read: a kind of a later version must not make the others unreadable.
#[derive(Decode)]
#[cbor(map)]
struct AnyService {
    #[n(0)]
    name: ServiceName,
    #[n(1)]
    kind: Option<ServiceKind>,
    #[cbor(n(2), decode_with = "codec::texts::<_, MODELS_MAX>", default)]
    models: Vec<String>,
    #[cbor(n(3), with = "minicbor::bytes", default)]
    digest: [u8; 32],
}

fn known_services<Ctx>(
    d: &mut Decoder<'_>,
    ctx: &mut Ctx,
) -> Result<Vec<ServiceOffer>, decode::Error> {
    let any = codec::list::<Ctx, AnyService, SERVICES_MAX>(d, ctx)?;
    let known = any.into_iter().filter_map(
        |AnyService {
             name,
             kind,
             models,
             digest,
         }| {
            kind.map(|kind| ServiceOffer {
                name,
                kind,
                models,
                digest,
            })
        },
    );
    Ok(known.collect())
}

/// How the services of an agent are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Health {
    /// Every service of the last offer that has changed, or all of them.
    #[cbor(
        n(0),
        decode_with = "codec::list::<_, _, SERVICES_MAX>",
        default,
        skip_if = "Vec::is_empty"
    )]
    pub services: Vec<ServiceHealth>,
}

/// How one service is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ServiceHealth {
    /// The service.
    #[n(0)]
    pub name: ServiceName,
    /// Whether its backend answers.
    #[cbor(n(1), default)]
    pub state: ServiceState,
    /// Calls that it is working on.
    #[cbor(n(2), default)]
    pub in_flight: u32,
    /// Calls that it may work on at the same time; 0 is no limit.
    #[cbor(n(3), default)]
    pub capacity: u32,
    /// What the backend says of its own load.
    #[n(4)]
    pub load: Option<BackendLoad>,
    /// Median time to the first byte lately, in microseconds; 0 where none was measured.
    #[cbor(n(5), default)]
    pub latency_us: u64,
}

/// Whether a backend answers its probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// Not probed yet, or a state of a later version.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// What a model server publishes about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BackendLoad {
    /// Requests that it runs.
    #[cbor(n(0), default)]
    pub running: u32,
    /// Requests that wait.
    #[cbor(n(1), default)]
    pub waiting: u32,
    /// Use of its KV cache, in thousandths.
    #[cbor(n(2), default)]
    pub cache_permille: u16,
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
    /// When the replica ends what is left, in milliseconds.
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

/// Codec of an enum whose unknown numbers read as its default.
macro_rules! open_enum {
    ($name:ident { $($variant:ident = $number:literal),* }) => {
        impl<Ctx> Encode<Ctx> for $name {
            fn encode<W: Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut Ctx,
            ) -> Result<(), encode::Error<W::Error>> {
                let number = match self {
                    $(Self::$variant => $number,)*
                };
                e.u8(number)?.ok()
            }
        }

        impl<'b, Ctx> Decode<'b, Ctx> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut Ctx) -> Result<Self, decode::Error> {
                Ok(match d.u64()? {
                    $($number => Self::$variant,)*
                    _ => Self::default(),
                })
            }
        }
    };
}

open_enum!(ServiceState { Unknown = 0, Up = 1, Down = 2 });
open_enum!(CallKnowledge { Unknown = 0, NeverSeen = 1, Seen = 2 });
