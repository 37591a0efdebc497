//! The protocol between agent and relay: frames, codes, limits, and the machines of both ends.
//!
//! This crate is pure. It has no socket, clock, task or chance: time and random numbers are
//! arguments, and bytes go in and come out. `culvert-tunnel` moves the bytes; what they mean is
//! decided here. This page is the specification; numbers in it never change their meaning.
//!
//! # Streams
//!
//! The protocol runs over a connection with many ordered, reliable streams, mutually authenticated
//! by TLS with ALPN `culvert/1`: QUIC, or TLS/TCP with yamux, alike. The agent dials. It opens the
//! first stream, *control*. Every other stream is opened by the relay and carries one *call*.
//! Identity comes from the certificates alone; no frame says who somebody is.
//!
//! # Frames
//!
//! ```text
//! +--------+-----------------------+------------------+
//! | type   | length                | payload          |
//! | u8     | u32, big-endian       | length bytes     |
//! +--------+-----------------------+------------------+
//! ```
//!
//! The length is compared with the type's limit before anything is allocated. A payload is one CBOR
//! map with integer keys; in an enum of the protocol, an integer. The keys are the contract: the
//! `n` of each field of the types in [`frame`]. A key that the reader does not know is skipped, a
//! key that is missing means the field's default, and only fields without a sensible default are
//! required. Maps and lists have definite lengths and keys are written in ascending order, so that
//! each value has one encoding. Frames without fields have an empty payload, and a reader ignores
//! what a later version may put there. `Data` is the exception: its payload is raw bytes.
//!
//! Types below 64 are critical: who does not know one ends the connection with `unknown_critical`.
//! Types from 64 on are skipped, at most 16 in a row and 64 KiB each. So either side can be upgraded
//! first; optional behaviour is agreed on by names in `Hello` and `Welcome`.
//!
//! | type | frame | from | limit | says |
//! |---|---|---|---|---|
//! | 1 | `Hello` | agent | 256 KiB | version, features, instance, session to attach to, offer |
//! | 2 | `Welcome` | relay | 64 KiB | session, replica, plane, siblings, settings, features |
//! | 3 | `Reject` | relay | 64 KiB | code; least version; signed revocation |
//! | 4 | `Offer` | agent | 256 KiB | number, and every service: name, kind, models, digest |
//! | 5 | `Health` | agent | 64 KiB | every service: state, calls, capacity, load, latency |
//! | 6 | `Ping` | agent | 64 KiB | nonce |
//! | 7 | `Pong` | relay | 64 KiB | nonce; age of the last good probe; how long one waits |
//! | 8 | `Ask` | relay | 64 KiB | call id, and how long ago it was sent |
//! | 9 | `Answer` | agent | 64 KiB | call id; unknown, never seen, or seen |
//! | 10 | `Renew` | agent | 64 KiB | signed request for a certificate |
//! | 11 | `Renewed` | relay | 64 KiB | chain, or code |
//! | 12 | `Planes` | relay | 64 KiB | signed list of planes |
//! | 13 | `GoAway` | relay | 64 KiB | when the replica is gone; smear |
//! | 14 | `Drain` | agent | 64 KiB | when the agent is gone |
//! | 15 | `DrainAck` | relay | 64 KiB | nothing |
//! | 16 | `Revoked` | relay | 64 KiB | signed revocation |
//! | 32 | `Open` | relay | 256 KiB | service, call id, deadline, trace, caller, request head |
//! | 33 | `Forward` | replica | 256 KiB | tenant, connector, sessions tried, and an `Open` |
//! | 34 | `Accepted` | agent | 1 KiB | nothing |
//! | 35 | `Refused` | agent | 1 KiB | code |
//! | 36 | `Head` | agent | 256 KiB | status, headers, names of trailers |
//! | 37 | `Data` | both | 4 GiB | bytes of a body |
//! | 38 | `End` | both | 16 KiB | trailers |
//! | 39 | `Abort` | both | 1 KiB | code |
//! | 40 | `Enough` | agent | 1 KiB | nothing |
//! | 41 | `Probe` | relay | 1 KiB | nonce |
//! | 42 | `ProbeAck` | agent | 1 KiB | nonce |
//!
//! # Control
//!
//! The agent begins with `Hello`; the relay answers with `Welcome` or `Reject` within ten seconds,
//! and until then neither sends anything else. A `Reject` says by its code whether and where to try
//! again; only a revocation signed by control ends all trying.
//!
//! Then, at any time: the agent sends an `Offer` whenever what it serves has changed, whole, with a
//! number that only grows, at most one a second; and `Health`, whole, at most ten a second. The
//! relay may send `Planes` and `Revoked`. One `Renew` may be under way, and is answered by
//! `Renewed`.
//!
//! *Liveness.* The agent sends a `Ping` every second while calls are in flight or ended in the last
//! ten seconds, else every three. If nothing at all arrives for max(1 s, 4 round trips) after a
//! ping, the transport is dead. The relay expects the pings; one that is overdue by the same bound
//! makes it probe, and silence after that is death. A `Probe` is a call of its own, answered by the
//! code that serves calls; the relay sends one with the first ping and each tenth, and on any doubt,
//! such as a call without its first answer frame for a second. Bytes that arrive without an answer
//! to a probe for 5 s mean that the serving code is dead: the relay takes the link out of selection,
//! the agent learns of it by `Pong` and dials a replacement. Both ends look twice, 50 ms apart,
//! before they believe in a death.
//!
//! *Questions.* A relay that lost a call with its link asks the same agent instance over another
//! one. `NeverSeen` is a promise: the agent leaves a tombstone and refuses the call should it still
//! come, so the relay may send it again, whatever it is. `Unknown` is the answer where the agent
//! may have forgotten ([`CallMemory`]).
//!
//! *Leaving.* Only the relay opens calls, so an agent that leaves binds it: `Drain`; the relay opens
//! no call from the moment it writes `DrainAck`; the agent closes when its calls have ended, or at
//! its deadline. A replica that leaves advises: `GoAway`, upon which the agent dials a replacement
//! at a random moment of the smear; the replica closes when idle after the smear, or at its
//! deadline, which counts from the last call that it opens. Nothing that had begun is cut before the
//! deadline.
//!
//! [`control`] holds both machines and how to drive them.
//!
//! # Calls
//!
//! ```text
//! relay:   Open  Data*  (End | Abort)
//! agent:   Refused
//!        | Accepted  [Enough]  (Refused | Abort | Head  Data*  [Enough]  (End | Abort))
//! ```
//!
//! The relay sends the request without waiting. The agent's first frame is `Refused`, where it can
//! decide at once, else `Accepted`, at once: it proves the agent alive. `Refused` may still follow
//! until the first byte has been offered to a backend, and says that nothing began; after that only
//! codes that say *may have begun* are sent. Interim answers are dropped by the agent; `Head{101}`
//! comes only where `Open` asked for an upgrade, and makes `Data` of both directions the bytes of
//! that protocol. `Enough` says that no more of the request is wanted; the relay answers
//! `Abort{not_wanted}` in that direction, and the answer goes on. `Data` announces bytes that are
//! passed on as they arrive: it never waits to be full, and never is collected.
//!
//! *Ends.* The end of a stream means nothing; `End` does. A direction that ends without `End`,
//! `Abort` or `Refused` was cut, and its body is never taken for a whole one
//! ([`CallDecoder::finish`]). To cancel, the opener resets both directions with a code; the agent
//! watches for it from `Open` on. A declared `content-length` must equal the bytes of `Data`, where
//! the answer has a body at all.
//!
//! *Heads* are [`http`] types as soon as they are decoded. A header that frames a message or belongs
//! to one connection never crosses; both ends check ([`head`]). At most 512 fields and 128 KiB.
//!
//! *Between replicas* a call opens with `Forward` instead of `Open`. The receiver tries one link
//! that is not excluded, and returns everything unchanged.
//!
//! # Codes
//!
//! One closed list, u16 ([`Code`]). The hundred is the class, also of codes of later versions: 1 to
//! 99 reject a connection, 100 to 199 refuse a call and nothing began, with 200 to 299 the backend
//! may have begun, from 300 on the connection is wrong.
//!
//! | code | name | to blame | retry |
//! |---|---|---|---|
//! | 1 | `upgrade` | agent | after |
//! | 2 | `revoked` | agent | never |
//! | 3 | `expired` | agent | after |
//! | 4 | `not_allowed` | agent | after |
//! | 5 | `duplicate` | network | now |
//! | 6 | `busy` | relay | after |
//! | 7 | `stale` | relay | elsewhere |
//! | 8 | `clone` | agent | after |
//! | 100 | `policy` | caller | never |
//! | 101 | `unknown_service` | agent | elsewhere |
//! | 102 | `queue_full` | agent | elsewhere |
//! | 103 | `queue_timeout` | agent | elsewhere |
//! | 104 | `draining` | agent | elsewhere |
//! | 105 | `no_link` | relay | elsewhere |
//! | 106 | `service_conflict` | agent | elsewhere |
//! | 107 | `tombstone` | relay | never |
//! | 108 | `backend_unreachable` | backend | elsewhere |
//! | 109 | `deadline_before` | caller | never |
//! | 110 | `rate_limited` | caller | elsewhere |
//! | 200 | `backend_reset` | backend | elsewhere |
//! | 201 | `backend_protocol` | backend | never |
//! | 202 | `backend_timeout` | backend | never |
//! | 203 | `caller_gone` | caller | never |
//! | 204 | `caller_stalled` | caller | never |
//! | 205 | `not_wanted` | caller | never |
//! | 206 | `deadline_after` | caller | never |
//! | 207 | `agent_gone` | network | elsewhere |
//! | 300 | `protocol` | peer | after |
//! | 301 | `limit` | peer | after |
//! | 302 | `unknown_critical` | peer | after |
//!
//! A retry of what may have begun needs more than its code: it must be known that nothing began, or
//! the request may be repeated (GET, HEAD).

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
