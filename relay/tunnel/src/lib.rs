//! Links over QUIC: dial, accept, streams, drain.

pub mod acceptor;
pub mod body;
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
pub mod quic;
mod stream;
pub mod udp_path;
mod waiters;

pub use acceptor::{
    AnswerWriter, Arrival, IncomingCall, IncomingProbe, IncomingStream, RequestReader,
};
pub use body::{AnswerBody, PassError, Passed, RequestBody, Upload};
pub use connection::{Connection, PathStats, Transport};
pub use control::{ControlStream, DriveEnd, Driven};
pub use dial::{DialError, Dialer, Target, Verify};
pub use error::{CallError, ConnectionEnd, Failure, OpenError};
pub use keys::{KeyError, ResetKeys};
pub use listener::{FloodLimits, HandshakeError, Incoming, ListenerCloser, QuicListener};
pub use opener::{AnswerReader, OutgoingCall, Piece, RequestWriter};
pub use quic::EndpointError;
pub use udp_path::{SendErrors, UdpOptions, UdpPath};
