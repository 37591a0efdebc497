//! What an agent serves, and how it is.

use bytes::BytesMut;
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use super::control::ControlFrame;
use crate::codec::{self, open_enum};
use crate::error::FrameError;
use crate::ids::ServiceName;
use crate::limits::{MODELS_MAX, SERVICES_MAX};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ServiceKind {
    /// A model server with an OpenAI or Anthropic API.
    Model = 1,
    /// An MCP server.
    Mcp = 2,
    /// Anything else that speaks HTTP.
    Http = 3,
}

impl ServiceKind {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Model, Self::Mcp, Self::Http]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

impl<Ctx> Encode<Ctx> for ServiceKind {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u8(*self as u8)?.ok()
    }
}

/// A service as it is read: a kind of a later version must not make the others unreadable.
#[derive(Decode)]
#[cbor(map)]
struct AnyService {
    #[n(0)]
    name: ServiceName,
    #[n(1)]
    kind: u64,
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
            ServiceKind::from_number(kind).map(|kind| ServiceOffer {
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
    /// Every service of the last offer: a newer report replaces one that has not been sent.
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

open_enum!(ServiceState {
    Unknown = 0,
    Up = 1,
    Down = 2
});
