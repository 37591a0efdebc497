//! Every bound of the protocol, with its unit and the reason for it.
//!
//! A bound that is checked by one side only is still here: the other side has to know what it may
//! send. Relations between bounds are assertions at the end of the file, so that a change that
//! breaks one does not compile.

use std::time::Duration;

/// Bytes of the envelope in front of every payload: u8 type, u32 length, big-endian.
pub const ENVELOPE_BYTES: usize = 5;

/// Payload of `Hello` and `Offer`: 256 services with their models.
pub const OFFER_MAX_BYTES: u32 = 256 * 1024;
/// Payload of every other control frame; the largest is a signed list of planes.
pub const CONTROL_MAX_BYTES: u32 = 64 * 1024;
/// Payload of `Open`, `Forward` and `Head`: 128 KiB of headers, the target, and the framing of both.
pub const HEAD_MAX_BYTES: u32 = 256 * 1024;
/// Payload of `End`, which carries trailers.
pub const TRAILERS_MAX_BYTES: u32 = 16 * 1024;
/// Payload of the call frames that carry a number or nothing; room for keys of later versions.
pub const SMALL_MAX_BYTES: u32 = 1024;
/// Bytes that one `Data` header announces. They are streamed, never collected, so the length field
/// itself is the bound.
pub const DATA_MAX_BYTES: u32 = u32::MAX;
/// Payload of a frame that this version does not know and may skip; skipped without buffering.
pub const UNKNOWN_MAX_BYTES: u32 = 64 * 1024;

/// Types below this number are critical: who does not know one closes the connection.
pub const FIRST_OPTIONAL_TYPE: u8 = 64;
/// Unknown optional frames in a row before the peer counts as broken.
pub const UNKNOWN_FRAMES_IN_A_ROW: u32 = 16;

/// Fields of one head. Twice what a browser with many cookies sends; hyper's default is 100.
pub const HEADERS_MAX: usize = 512;
/// Bytes of names and values of one head.
pub const HEADER_BYTES_MAX: usize = 128 * 1024;
/// Fields of one set of trailers.
pub const TRAILERS_MAX: usize = 64;
/// Bytes of a request target. `http` itself ends at 65,534.
pub const TARGET_MAX_BYTES: usize = 32 * 1024;
/// Bytes of a method; the longest registered one has 18.
pub const METHOD_MAX_BYTES: usize = 32;
/// Bytes of a `tracestate`, as W3C Trace Context asks a vendor to carry.
pub const TRACE_STATE_MAX_BYTES: usize = 512;

/// Bytes of any name: service, model, tenant, feature.
pub const NAME_MAX_BYTES: usize = 256;
/// Bytes of a service's name, a DNS label.
pub const SERVICE_NAME_MAX_BYTES: usize = 63;
/// Services of one agent.
pub const SERVICES_MAX: usize = 256;
/// Models of one service.
pub const MODELS_MAX: usize = 1_000;
/// Names of features in a `Hello` or a `Welcome`.
pub const FEATURES_MAX: usize = 64;
/// Siblings in a `Welcome`.
pub const SIBLINGS_MAX: usize = 64;
/// Addresses of one sibling: one of each family, and a name.
pub const ADDRESSES_MAX: usize = 3;
/// Planes in a signed list.
pub const PLANES_MAX: usize = 64;
/// Sessions that a `Forward` excludes: those that refused this call.
pub const EXCLUDED_SESSIONS_MAX: usize = 64;

/// Connections of one session and transport.
pub const CONNECTIONS_MAX: u8 = 4;
/// Call streams that the opener holds on one QUIC connection; above it refuses before opening.
pub const CALLS_PER_QUIC_CONNECTION: u32 = 10_000;
/// Call streams that the opener holds on one TCP connection.
pub const CALLS_PER_TCP_CONNECTION: u32 = 1_024;
/// Fewest streams that an agent permits at any time, so that a burst needs no round trip.
pub const STREAMS_PERMITTED_MIN: u32 = 256;
/// The transport's own limit over the opener's cap: above it quinn waits silently and yamux kills
/// the connection, so it must never be what is reached.
pub const STREAMS_PERMITTED_PER_CALL: u32 = 2;

/// From the first byte of a control stream to `Hello`, and from `Hello` to `Welcome`.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pings while calls are in flight or ended lately.
pub const PING_BUSY: Duration = Duration::from_secs(1);
/// Between two pings of an idle link.
pub const PING_IDLE: Duration = Duration::from_secs(3);
/// How long a link counts as busy after its last call ended.
pub const BUSY_AFTER_CALL: Duration = Duration::from_secs(10);
/// Least silence after a ping that means the transport is dead.
pub const TRANSPORT_DEAD_MIN: Duration = Duration::from_secs(1);
/// The same, in round trips, where that is longer.
pub const TRANSPORT_DEAD_ROUND_TRIPS: u32 = 4;
/// Without an answer to a `Probe` while bytes arrive: what serves calls is dead.
pub const SERVING_DEAD: Duration = Duration::from_secs(5);
/// A call without its first answer frame for so long makes the relay probe.
pub const ACCEPTED_MISSING: Duration = Duration::from_secs(1);
/// The relay probes on each ping whose number this divides.
pub const PINGS_PER_PROBE: u64 = 10;
/// Between the first look at an expired silence and the second, which believes it. A process that
/// stood still looks at its timers before its sockets, and must not take its absence for a death.
pub const SECOND_LOOK: Duration = Duration::from_millis(50);

/// Least time between two offers of one session.
pub const OFFER_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two reports of health: ten a second.
pub const HEALTH_INTERVAL: Duration = Duration::from_millis(100);
/// How far ahead of their intervals offers, reports and pings may arrive: a path that stalled and
/// recovered delivers together what was sent apart.
pub const BURST_SPAN: Duration = Duration::from_secs(60);

/// Questions about calls that await their answer, per connection.
pub const ASKS_PENDING_MAX: usize = 1_024;
/// How long an agent remembers a call id.
pub const CALL_MEMORY: Duration = Duration::from_secs(60);
/// How many call ids an agent remembers; and as many tombstones.
pub const CALL_MEMORY_MAX: usize = 64 * 1024;
/// Longest way of a question on a live link. Added to the age that it states, because the age was
/// taken when it was sent.
pub const ASK_TRANSIT_MAX: Duration = Duration::from_secs(10);

/// How long a side that leaves lets streams finish, unless configured.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest drain that a peer may ask for.
pub const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// How long a drained agent stays at least after its last call, and four round trips at least: an
/// `Open` that was sent before `DrainAck` may arrive behind it.
pub const DRAIN_LINGER: Duration = Duration::from_millis(100);
/// How much longer than an agent's drain the relay keeps its link.
pub const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// Longest smear of a `GoAway`.
pub const SMEAR_MAX: Duration = Duration::from_secs(300);

/// First back-off of a dial loop, before jitter.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Longest back-off of a dial loop, before jitter.
pub const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// How long an accepted link must have stood before its end starts the back-off from the base.
pub const BACKOFF_STABLE: Duration = Duration::from_secs(30);

// A head at its limits fits its frame: values and names, at most 8 bytes of CBOR for each field,
// the target, and 4 KiB for everything else.
const _: () = assert!(
    HEADER_BYTES_MAX + 8 * HEADERS_MAX + TARGET_MAX_BYTES + 4096 <= HEAD_MAX_BYTES as usize
);
// The excluded sessions of a forward fit beside the largest head.
const _: () = assert!(
    HEADER_BYTES_MAX
        + 8 * HEADERS_MAX
        + TARGET_MAX_BYTES
        + 4096
        + 17 * EXCLUDED_SESSIONS_MAX
        + 4 * NAME_MAX_BYTES
        <= HEAD_MAX_BYTES as usize
);
// Frames that are collected are bounded well below what one connection may hold.
const _: () = assert!(HEAD_MAX_BYTES <= 1024 * 1024 && OFFER_MAX_BYTES <= 1024 * 1024);
// An offer of the largest number of services leaves each of them room for name and digest.
const _: () = assert!(SERVICES_MAX * (SERVICE_NAME_MAX_BYTES + 64) <= OFFER_MAX_BYTES as usize);
// All siblings with all their addresses fit a `Welcome`.
const _: () = assert!(
    SIBLINGS_MAX * (32 + ADDRESSES_MAX * (NAME_MAX_BYTES + 3)) <= CONTROL_MAX_BYTES as usize
);
// An idle link's silence is noticed before the usual 30 s of a UDP mapping in a NAT.
const _: () = assert!(PING_IDLE.as_secs() + 2 * TRANSPORT_DEAD_MIN.as_secs() < 30);
const _: () = assert!(PING_BUSY.as_millis() <= PING_IDLE.as_millis());
// A serving code that is dead is found out by pings that still flow.
const _: () = assert!(PING_BUSY.as_millis() < SERVING_DEAD.as_millis());
// What is asked about a call that was just lost is still remembered.
const _: () = assert!(
    CALL_MEMORY.as_secs()
        > ASK_TRANSIT_MAX.as_secs() + SERVING_DEAD.as_secs() + PING_IDLE.as_secs()
);
const _: () = assert!(BACKOFF_BASE.as_millis() < BACKOFF_CAP.as_millis());
const _: () = assert!(DRAIN_TIMEOUT.as_secs() <= DRAIN_TIMEOUT_MAX.as_secs());
const _: () = assert!(CALLS_PER_TCP_CONNECTION <= CALLS_PER_QUIC_CONNECTION);
