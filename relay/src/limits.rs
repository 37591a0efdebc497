//! Every bound of the relay: its name, its unit and its reason.
//!
//! Bounds of frames, offers and reports belong to the wire, those of streams and handshakes to the
//! tunnel.

use std::time::Duration;

use culvert_tunnel::limits::STREAM_WINDOW;

/// Distinct agents that may serve one connector here: more is a fleet that wants several connectors.
pub const MAX_AGENTS: usize = 64;
/// Links that one connector may hold here: selection looks at each of them on every call.
pub const MAX_LINKS: usize = 256;
/// New links per second that one tenant may open; its other agents keep what they have.
pub const NEW_LINKS_PER_SECOND: u32 = 50;
/// Proven connections that have not been registered yet; each costs some 40 KiB.
pub const MAX_GREETING: usize = 1_024;
/// The same of one tenant: what its rate of new links lets in within two seconds.
pub const MAX_GREETING_PER_TENANT: usize = 2 * NEW_LINKS_PER_SECOND as usize;
/// The same of one agent, so that one which dials and says nothing leaves its tenant the rest: it
/// has a session here and may be replacing its connections.
pub const MAX_GREETING_PER_AGENT: usize = 8;
/// From the end of the handshake to the `Hello`, which an agent sends with its first packets.
pub const GREETING_WAIT: Duration = Duration::from_secs(5);
/// Proven connections that were revoked and may greet first, to be told so in control's words;
/// the others are closed with the code alone.
pub const MAX_TURNED_AWAY: usize = 64;
/// The same of one agent: it, and whoever has a copy of its key.
pub const MAX_TURNED_AWAY_PER_AGENT: usize = 2;
/// How long one that is turned away may take to greet: an agent does so with its first packet.
pub const TURNED_AWAY_WAIT: Duration = Duration::from_secs(2);
/// Least time between two rebuilds of one tenant's view.
pub const REBUILD_EVERY: Duration = Duration::from_millis(50);
/// Longest that a call for which there is no link waits for a view that is behind: twenty rebuilds,
/// so that a busy machine does not turn a link that stands into none.
pub const CATCH_UP: Duration = Duration::from_secs(1);

/// Bytes of one call's request body that are kept so that it can be sent again.
pub const REPLAY_CALL_BYTES: usize = 1024 * 1024;
/// Bytes that all calls of this replica together may keep for sending again.
pub const REPLAY_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Pieces of one call's request body that are kept: a caller chooses how small they are.
pub const REPLAY_PIECES: usize = 4_096;
/// What a kept piece costs besides its bytes: its place in the list, and the buffer that it is a
/// slice of, which holds the frame of the piece too.
pub const REPLAY_PIECE_BYTES: usize = 256;
/// Times that one call may be sent, the first included: two more agents, then the caller decides.
pub const MAX_ATTEMPTS: u8 = 3;
/// How long the question whether an agent saw a call may take, before the answer counts as unknown.
pub const ASK_WAIT: Duration = Duration::from_millis(1_000);

/// How long one link may take to carry that question before the agent is asked over the next one
/// too.
pub const ASK_TURN: Duration = Duration::from_millis(250);

/// How long an older session may take to prove itself alive when a second one of its agent appears.
pub const PROOF_WAIT: Duration = Duration::from_millis(500);
/// Oldest news from the store on which new links are still admitted.
pub const MAX_STALENESS: Duration = Duration::from_secs(24 * 3600);
/// How often a session looks whether its leaf has expired, should the clock be set.
pub const LIFETIME_CHECK: Duration = Duration::from_secs(30);
/// Shortest sleep before that look: a clock that stands still must not make a session spin.
pub const LIFETIME_CHECK_MIN: Duration = Duration::from_millis(50);

/// Orders that may wait for a link's control machine.
pub const CONTROL_ORDERS: usize = 256;
/// Events of a link's control machine that may wait for its session.
pub const CONTROL_EVENTS: usize = 64;
/// Questions and doubts of calls that may wait for a link's session.
pub const ERRANDS: usize = 256;
/// From the statement that an agent was revoked to the end of its link: time to read it.
pub const REVOKED_NOTICE: Duration = Duration::from_millis(500);
/// How often round trips and path counters are sampled.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// How long a TCP client may take to send its TLS hello.
pub const TLS_HELLO_WAIT: Duration = Duration::from_secs(5);
/// Bytes of a TLS hello; a post-quantum one with a long chain of extensions needs 2 KiB.
pub const TLS_HELLO_BYTES: usize = 16 * 1024;
/// How long a TLS handshake may have to wait for its turn, and how long it may then take.
pub const TLS_HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// TCP connections that may be in their handshake, or have not sent their join request yet; further
/// ones are closed at once.
pub const MAX_TCP_PENDING: usize = 1_024;
/// The same from one address: a quarter, so that nobody closes the port alone, and yet a site
/// behind one address does not notice. Where a balancer hides its clients all of them are that one
/// address: a balancer in front of this port has to keep their addresses.
pub const MAX_TCP_PENDING_PER_SOURCE: usize = 256;
/// Joins and renewals of strangers that control may have at a time. A place is taken for as long as
/// control works on it, whatever the stranger does: slow requests are counted as pending.
pub const MAX_JOINS: usize = 64;
/// The same from one address.
pub const MAX_JOINS_PER_SOURCE: usize = 16;

/// Bytes of a join request's body: a CSR, a signature and an id.
pub const JOIN_BODY_BYTES: usize = 16 * 1024;
/// How long a join request may take, head and body together.
pub const JOIN_REQUEST_WAIT: Duration = Duration::from_secs(5);
/// How long control may take to answer a join.
pub const JOIN_ANSWER_WAIT: Duration = Duration::from_secs(15);
/// How long a whole join connection may live, whatever it sends.
pub const JOIN_CONNECTION_WAIT: Duration = Duration::from_secs(30);
/// Bytes of head that hyper may buffer for a join; its own minimum is 8 KiB.
pub const JOIN_HEAD_BYTES: usize = 16 * 1024;
/// Requests to control that may wait for it.
pub const MAX_CONTROL_REQUESTS: usize = 256;
/// Renewals that may be on their way to control.
pub const MAX_RENEWALS: usize = 64;
/// The same of one tenant: half of what the gateway has control work on at once.
pub const MAX_RENEWALS_PER_TENANT: usize = 8;
/// How long control may take to answer a renewal.
pub const RENEW_ANSWER_WAIT: Duration = Duration::from_secs(15);

/// A caller that has not taken the next piece of its answer for so long has parked it.
pub const PARKED_AFTER: Duration = Duration::from_secs(1);
/// What a parked answer may hold: the receive window of its stream, in bytes.
pub const PARKED_BYTES: u64 = STREAM_WINDOW as u64;
/// Bytes that the parked answers of one link may hold together.
pub const PARKED_LINK_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes that the parked answers of one tenant may hold together.
pub const PARKED_TENANT_BYTES: u64 = 512 * 1024 * 1024;
/// Bytes that all parked answers of this replica may hold together.
pub const PARKED_TOTAL_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How often a port that is free for both TCP and UDP is looked for.
pub const BIND_TRIES: usize = 16;
/// How long peers may take to hear that this replica has left.
pub const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// How long a drain lets started calls finish.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// What a drain waits beyond its time-out for goodbyes to be said.
pub const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// The time over which agents spread their replacement dials when this replica leaves.
pub const DRAIN_SMEAR: Duration = Duration::from_secs(2);

const _: () = assert!(MAX_GREETING_PER_TENANT < MAX_GREETING);
const _: () =
    assert!(MAX_RENEWALS_PER_TENANT < MAX_RENEWALS && MAX_RENEWALS <= MAX_CONTROL_REQUESTS);
const _: () = assert!(MAX_GREETING_PER_AGENT < MAX_GREETING_PER_TENANT);
const _: () = assert!(MAX_TURNED_AWAY_PER_AGENT < MAX_TURNED_AWAY);
const _: () = assert!(MAX_TCP_PENDING_PER_SOURCE < MAX_TCP_PENDING);
const _: () = assert!(MAX_JOINS_PER_SOURCE < MAX_JOINS && MAX_JOINS <= MAX_CONTROL_REQUESTS);
const _: () = assert!(REPLAY_CALL_BYTES <= REPLAY_TOTAL_BYTES);
const _: () = assert!(REPLAY_PIECE_BYTES >= 2 * size_of::<bytes::Bytes>());
const _: () = assert!(ASK_TURN.as_millis() * 2 <= ASK_WAIT.as_millis());
const _: () = assert!(MAX_AGENTS <= MAX_LINKS);
const _: () =
    assert!(PARKED_LINK_BYTES <= PARKED_TENANT_BYTES && PARKED_TENANT_BYTES <= PARKED_TOTAL_BYTES);
const _: () = assert!(MAX_ATTEMPTS >= 2);
const _: () = assert!(
    JOIN_CONNECTION_WAIT.as_secs() > JOIN_ANSWER_WAIT.as_secs() + JOIN_REQUEST_WAIT.as_secs()
);
