//! How connections and calls end.

use std::fmt;

use culvert_wire::Code;
use quinn::ConnectionError;

use crate::stream::code_of;

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionEnd {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer closed it with a code of the protocol.
    #[error("closed by the peer: {code} {reason:?}")]
    Peer {
        /// Why.
        code: Code,
        /// In the peer's words.
        reason: String,
    },
    /// The peer does not know the connection: it was restarted, or packets reach another replica.
    #[error("the peer does not know this connection")]
    Reset,
    /// Nothing was received for longer than the transport waits.
    #[error("nothing received for too long")]
    TimedOut,
    /// The peer's transport or TLS ended it; a certificate it does not accept, most often.
    #[error("ended by the peer's transport: {0}")]
    PeerTransport(String),
    /// This side's transport or TLS ended it; a certificate that is not accepted, most often.
    #[error("ended by this side's transport: {0}")]
    Transport(String),
}

impl From<ConnectionError> for ConnectionEnd {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::ApplicationClosed(close) => Self::Peer {
                code: code_of(close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::ConnectionClosed(close) => Self::PeerTransport(close.to_string()),
            ConnectionError::TransportError(error) => Self::Transport(error.to_string()),
            error @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Self::Transport(error.to_string())
            }
        }
    }
}

/// A call could not be opened. Nothing of it was sent: it may be tried elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection carries as many calls as it may.
    #[error("the connection carries {0} calls, the most it may")]
    AtCap(usize),
    /// The peer leaves, and has been told that no call will be opened any more.
    #[error("the peer is leaving")]
    Draining,
    /// The connection is gone.
    #[error("the connection is gone")]
    Lost(#[source] ConnectionEnd),
    /// The call's head is larger than the protocol permits, or cannot be expressed in it.
    #[error("the call's head cannot be sent: {0}")]
    Unsendable(String),
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What ended it.
    pub failure: Failure,
    /// Whether anything of the call was handed to the transport. Where not, nothing can have
    /// begun, whatever ended it.
    pub sent: bool,
}

/// What ended a call, or one direction of it. None of these is a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The agent refused it: nothing reached a backend.
    Refused(Code),
    /// The peer ended its direction in order, with a code.
    Aborted(Code),
    /// The peer cancelled the stream.
    Reset(Code),
    /// The stream finished without an `End`: the body was cut.
    Cut,
    /// The peer sent what the protocol does not permit; the connection is closed with the code.
    Violation(Code),
    /// The connection is gone.
    Lost,
    /// The body's bytes are not as many as its head declares.
    Length,
    /// This side had cancelled the call before.
    Cancelled,
    /// The peer wants no more of the body that is being written. The call goes on.
    NotWanted,
    /// The peer did not do in time what it has to do at once.
    TimedOut,
}

impl CallError {
    pub(crate) fn new(failure: Failure, sent: bool) -> Self {
        Self { failure, sent }
    }

    /// The code for records, and for the next one down the road.
    pub fn code(&self) -> Code {
        match self.failure {
            Failure::Refused(code)
            | Failure::Aborted(code)
            | Failure::Reset(code)
            | Failure::Violation(code) => code,
            Failure::Cut | Failure::Lost | Failure::TimedOut => Code::AgentGone,
            Failure::Length => Code::BackendProtocol,
            Failure::Cancelled => Code::CallerGone,
            Failure::NotWanted => Code::NotWanted,
        }
    }

    /// Whether a backend may have begun with the call.
    pub fn may_have_begun(&self) -> bool {
        match self.failure {
            Failure::Refused(_) => false,
            Failure::Aborted(_)
            | Failure::Reset(_)
            | Failure::Violation(_)
            | Failure::Cut
            | Failure::Lost
            | Failure::TimedOut
            | Failure::Length
            | Failure::NotWanted
            | Failure::Cancelled => self.sent,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure {
            Failure::Refused(code) => write!(f, "the call was refused: {code}"),
            Failure::Aborted(code) => write!(f, "the peer gave the call up: {code}"),
            Failure::Reset(code) => write!(f, "the peer cancelled the call: {code}"),
            Failure::Cut => f.write_str("the call was cut before its end"),
            Failure::Violation(code) => write!(f, "the peer broke the protocol: {code}"),
            Failure::Lost => f.write_str("the link was lost"),
            Failure::Length => f.write_str("the body has another length than declared"),
            Failure::Cancelled => f.write_str("the call was cancelled by this side"),
            Failure::NotWanted => f.write_str("no more of the body is wanted"),
            Failure::TimedOut => f.write_str("the peer did not answer in time"),
        }
    }
}

impl std::error::Error for CallError {}
