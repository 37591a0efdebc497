//! Greetings: what the first frames of a control stream carry.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::offer::Offer;
use crate::code::Code;
use crate::codec::{self, Share};
use crate::ids::{InstanceId, ReplicaId, SessionId};
use crate::limits::{ADDRESSES_MAX, CONNECTIONS_MAX, FEATURES_MAX, SIBLINGS_MAX};

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
