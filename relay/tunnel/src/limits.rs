//! Every bound of this crate, with its unit and its reason.

use std::time::Duration;

use culvert_wire::limits as wire;

/// Calls that one QUIC connection carries at a time. The opener counts them and refuses above:
/// quinn would wait in silence.
pub const CALLS_PER_CONNECTION: usize = wire::CALLS_PER_QUIC_CONNECTION as usize;

/// Streams that an agent permits at least. Permitting the whole cap at once would cost 675 KiB
/// and 1.1 ms per connection, so the permits follow the streams in use.
pub const PERMITS_MIN: usize = wire::STREAMS_PERMITTED_MIN as usize;

/// Streams that an agent permits at most: twice the cap, so that the counted cap is always what
/// is reached first (a closed stream occupies its permit until the peer has acknowledged it).
pub const PERMITS_MAX: usize = wire::STREAMS_PERMITTED_PER_CALL as usize * CALLS_PER_CONNECTION;

/// Streams that a relay permits on an agent's link: the control stream.
pub const CONTROL_STREAMS: u32 = 1;

/// Receive window of one stream, bytes. quinn cannot grow it: 1 MiB carries 80 Mbit/s at 100 ms.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// Bytes that one connection keeps until they are acknowledged, over all its streams.
pub const SEND_WINDOW: u64 = 64 << 20;

/// Silence after which quinn gives a connection up. A backstop for connections that no control
/// machine watches (yet): far above every liveness bound, so that it is never what decides.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest dial: without a finished handshake by then the address counts as silent.
pub const DIAL_TIMEOUT: Duration = Duration::from_millis(2_700);

/// The longest look-up of a name before a dial.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Head start of one address of a name over the next (RFC 8305, section 5).
pub const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
pub const ADDRESSES_PER_DIAL: usize = 8;

/// Endpoints (source ports) of one address family that a dialler keeps open.
pub const ENDPOINTS_PER_FAMILY: usize = 4;

/// The longest handshake that a listener waits for.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Open handshakes above which a peer must prove its address first (one more round trip).
pub const RETRY_ABOVE: usize = 128;

/// Open handshakes above which newcomers are refused.
pub const REFUSE_ABOVE: usize = 1_024;

/// Handshakes that may begin a second, for each core: each costs it about a millisecond, and the
/// links that stand need the rest.
pub const HANDSHAKES_PER_CORE: u32 = 300;

/// Sources that it takes to use up a door's handshakes: one of them takes the part of one. Where a
/// balancer hides its clients, all of them are one source.
pub const SOURCES_THAT_FILL_A_DOOR: u32 = 3;

/// First packets that quinn keeps for a connection not yet accepted, bytes.
pub const INCOMING_BUFFER: u64 = 16 << 10;

/// The same over all connections not yet accepted, bytes.
pub const INCOMING_BUFFER_TOTAL: u64 = 16 << 20;

/// Least time between two stateless resets. quinn's 20 ms would take 20 s to tell 1,000 agents
/// that the replica they knew is gone; a reset is never larger than the packet it answers.
pub const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Kernel buffer asked for in each direction of a UDP socket, bytes.
pub const UDP_BUFFER: usize = 4 << 20;

/// The control stream has to appear within this time after the handshake.
pub const CONTROL_OPEN_TIMEOUT: Duration = wire::GREETING_TIMEOUT;

/// A call's `Open` has to be whole within this time after its first byte.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long `Accepted` may wait for the answer's head. A backend that is near answers within it,
/// and a datagram is saved; the relay begins to wonder after a thousand times as long.
pub const ACCEPTED_RIDE: Duration = Duration::from_millis(1);

/// A probe that is not answered by then has failed.
pub const PROBE_TIMEOUT: Duration = wire::SERVING_DEAD;

/// Bytes that control frames may wait with before the driver stops asking its machine for more.
pub const CONTROL_BACKLOG: usize = 512 << 10;

/// A control stream that takes nothing for so long, while something waits, is one whose peer does
/// not read: what serves it is dead.
pub const CONTROL_STALL: Duration = wire::SERVING_DEAD;

/// Least sleep of a driver whose machine has more to say than the stream takes. What is due cannot
/// be written then, and only deadlines are looked for.
pub const CONTROL_FULL_LOOK: Duration = wire::SECOND_LOOK;

/// How long the last control frame may take to arrive before the connection is closed.
pub const CONTROL_LINGER: Duration = Duration::from_secs(1);

/// Chunks that one look into a stream takes; each is at most one QUIC packet.
pub const CHUNKS_PER_READ: usize = 16;

/// Bytes that a stream's reader holds beyond what was asked for.
pub const READ_AHEAD: usize = 64 << 10;

/// Bytes of a body that are written together where they are ready together.
pub const PIECES_TOGETHER: usize = 64 << 10;

/// Bytes after which a call stream yields to the others.
pub const BULK_AFTER: u64 = 256 << 10;

/// Silence after which a call stream counts as interactive again.
pub const INTERACTIVE_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(PERMITS_MIN <= CALLS_PER_CONNECTION && CALLS_PER_CONNECTION < PERMITS_MAX);
const _: () = assert!(RETRY_ABOVE < REFUSE_ABOVE);
const _: () = assert!(INCOMING_BUFFER * REFUSE_ABOVE as u64 <= INCOMING_BUFFER_TOTAL);
const _: () = assert!(BULK_AFTER < STREAM_WINDOW as u64);
// The transport's own clock never decides before the control machines do.
const _: () =
    assert!(IDLE_TIMEOUT.as_secs() > wire::PING_IDLE.as_secs() + 4 * wire::SERVING_DEAD.as_secs());
const _: () = assert!(100 * ACCEPTED_RIDE.as_millis() <= wire::ACCEPTED_MISSING.as_millis());
const _: () = assert!(DIAL_TIMEOUT.as_millis() < 3_000);
