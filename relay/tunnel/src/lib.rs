//! Links of Culvert: dial, accept, streams, drain.
//!
//! This crate is what moves the frames of [`culvert_wire`] between an agent and a relay whose
//! identities [`culvert_certs`] proves. It decides nothing about calls, tenants or services.
//!
//! # A connection
//! An agent [dials](Dialer), a relay [listens](QuicListener). Both get a [`Connection`]: a peer
//! with a proven leaf, one control stream, and call streams. The side that dialled opens the
//! control stream as the first one ([`Connection::open_control`]), the other takes it
//! ([`Connection::accept_control`]), and each runs its [machine](culvert_wire::Machine) over it with
//! [`ControlStream::drive`]. The driver wakes for frames, commands and timers, closes the connection
//! with the machine's code once the machine is over, and sees to it that a last frame arrives before
//! the close that would overtake it. Whether the peer is alive is decided by the machines: the
//! transport's own idle time-out is a backstop far above.
//!
//! # A call
//! Every other stream is one call. The opener, a relay, has a [`RequestWriter`] and an
//! [`AnswerReader`]; the acceptor, an agent, a [`RequestReader`] and an [`AnswerWriter`].
//!
//! ```text
//!  opener                                    acceptor
//!    open_call        --- Open ------------>   accept_call().read()
//!    request.data     --- Data, bytes ----->   body.next
//!    request.end      --- End ------------->
//!    answer.accepted  <-- Accepted ---------   answer.accept      (or Refused: answer.refuse)
//!    answer.head      <-- Head -------------   answer.head
//!    answer.next      <-- Data, bytes ------   answer.data
//!                     <-- End, FIN ---------   answer.end         (or Abort, FIN: answer.abort)
//!                     --- FIN ------------->
//! ```
//!
//! - **Only `End` completes.** A stream that finishes without it was [cut](Failure::Cut), and that is
//!   an error in every reader and in both [`http_body`] adapters ([`AnswerBody`], [`RequestBody`]).
//!   A body that is shorter or longer than its head declares is one too.
//! - **Halves are guards.** Dropped before its end, each resets its stream with a code: quinn alone
//!   would finish a dropped sending half, and a cut body would look like a whole one.
//! - **A call can be cancelled until its answer is complete**, because the opener keeps its sending
//!   half open until then. Dropping the [`AnswerReader`], or [`AnswerReader::cancel`], resets the
//!   request and stops the answer. The acceptor learns of either in [`AnswerWriter::cancelled`],
//!   which it selects against everything that the call waits for.
//! - **Nothing is copied.** What quinn received is what the reader gets; what the writer is given is
//!   what quinn sends. Pieces that are ready together leave together, and none waits for another.
//! - **Frames that are known together leave together**: `Open` with the request's first piece,
//!   `Accepted` with the head of a backend that answers within a [millisecond](limits::ACCEPTED_RIDE).
//! - No task is spawned for a call, and no lock is held across an await.
//!
//! # What holds a call back, and what does not
//! A reader that stops holds back its own stream, at [1 MiB](limits::STREAM_WINDOW); the window of
//! the connection is unlimited, because a shared one would let one reader stall all. The
//! [send window](limits::SEND_WINDOW) is shared, so streams are ranked: control first, then calls
//! that have sent little, then bulk. The opener counts its calls and refuses above
//! [the cap](limits::CALLS_PER_CONNECTION), because the transport would wait in silence; the
//! acceptor's permits follow what is in use and are never what runs out. Every wait is bounded in
//! time, by a constant of [`limits`] or by the life of the connection.
//!
//! # Sockets
//! One [`UdpPath`] of each address family serves all connections of a dialler, and one those of a
//! listener. It counts what the kernel refuses to send, repairs failed segmentation offload, checks
//! its buffers, and is where tests lose packets. After a dead path the next dial leaves from another
//! port. Replicas of a plane share [`ResetKeys`], so that an agent learns of a lost replica from
//! whoever gets its next packet.
//!
//! # Another transport
//! What carries a connection is a variant of private enums in `connection.rs` and `stream.rs`; users
//! of this crate do not see which it is, but for [`Connection::transport`].

pub mod acceptor;
pub mod body;
mod call;
mod calls;
pub mod connection;
pub mod control;
pub mod dial;
mod endpoints;
pub mod error;
pub mod flood;
mod frames;
pub mod keys;
pub mod limits;
pub mod listener;
pub mod opener;
mod probe;
pub mod quic;
mod quiet;
pub mod rate;
mod send_errors;
mod source;
mod stream;
pub mod udp_path;
mod waiters;

pub use acceptor::{AnswerWriter, Arrival, IncomingCall, IncomingStream, RequestReader};
pub use body::{AnswerBody, PassError, Passed, RequestBody, Upload};
pub use call::Piece;
pub use connection::{Connection, PathStats, Transport};
pub use control::{ControlStream, DriveEnd, Driven};
pub use dial::{DialError, Dialer, Target, Verify};
pub use endpoints::PathTotals;
pub use error::{CallError, ConnectionEnd, Failure, OpenError};
pub use flood::{FloodLimits, HandshakeRate};
pub use keys::{KeyError, ResetKeys};
pub use listener::{HandshakeError, Incoming, ListenerCloser, QuicListener};
pub use opener::{AnswerReader, OutgoingCall, RequestWriter};
pub use probe::IncomingProbe;
pub use quic::EndpointError;
pub use rate::{Rate, RatePer};
pub use send_errors::SendErrors;
pub use source::Source;
pub use udp_path::{UdpOptions, UdpPath};
