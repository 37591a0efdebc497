//! The protocol: frames, codes, limits and control machines.

pub mod backoff;
mod code;
mod codec;
pub mod control;
mod decoder;
mod error;
pub mod frame;
pub mod head;
mod ids;
pub mod limits;
mod memory;

pub use backoff::Backoff;
pub use code::{Blame, Class, Code, OtherCode, Retry};
pub use control::{
    Acceptor, AcceptorCommand, AcceptorEvent, Dialer, DialerCommand, DialerEvent, End, Machine,
    Observation, Violation,
};
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
pub use memory::{CallMemory, Opened};

/// The protocol's name in ALPN, over QUIC and TLS/TCP alike.
pub const ALPN: &[u8] = b"culvert/1";

/// The version that this crate speaks.
pub const VERSION: u16 = 1;

/// The least version that this crate still speaks with.
pub const VERSION_MIN: u16 = 1;
