//! Links over QUIC: dial, accept, streams, drain.

pub mod acceptor;
pub mod body;
mod call;
mod calls;
pub mod connection;
pub mod control;
pub mod dial;
mod endpoints;
pub mod error;
mod frames;
pub mod keys;
pub mod limits;
pub mod listener;
pub mod opener;
mod probe;
pub mod quic;
mod send_errors;
mod stream;
pub mod udp_path;
mod waiters;

pub use acceptor::{AnswerWriter, Arrival, IncomingCall, IncomingStream, RequestReader};
pub use body::{AnswerBody, PassError, Passed, RequestBody, Upload};
pub use call::Piece;
pub use connection::{Connection, PathStats, Transport};
pub use control::{ControlStream, DriveEnd, Driven};
pub use dial::{DialError, Dialer, Target, Verify};
pub use error::{CallError, ConnectionEnd, Failure, OpenError};
pub use keys::{KeyError, ResetKeys};
pub use listener::{FloodLimits, HandshakeError, Incoming, ListenerCloser, QuicListener};
pub use opener::{AnswerReader, OutgoingCall, RequestWriter};
pub use probe::IncomingProbe;
pub use quic::EndpointError;
pub use send_errors::SendErrors;
pub use udp_path::{UdpOptions, UdpPath};
