//! The protocol: frames, codes, limits and control machines.

mod code;
mod codec;
mod decoder;
mod error;
pub mod frame;
pub mod head;
mod ids;
pub mod limits;

pub use code::{Blame, Class, Code, OtherCode, Retry};
pub use decoder::{CallDecoder, CallItem, ControlDecoder};
pub use error::{FrameError, HeadError, LengthMismatch};
pub use frame::{
    Answer, Ask, BackendLoad, CallFrame, CallKnowledge, Caller, ControlFrame, Data, Drain, Forward,
    FrameType, GoAway, Head, Health, Hello, Offer, Open, Ping, PlaneName, Pong, Reject, Renewed,
    ServiceHealth, ServiceKind, ServiceOffer, ServiceState, Settings, Sibling, TraceContext,
    Welcome,
};
pub use head::{BodyLength, RequestHead};
pub use ids::{CallId, InstanceId, InvalidId, ReplicaId, RequestId, ServiceName, SessionId};

/// The protocol's name in ALPN, over QUIC and TLS/TCP alike.
pub const ALPN: &[u8] = b"culvert/1";

/// The version that this crate speaks.
pub const VERSION: u16 = 1;
