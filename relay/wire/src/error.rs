//! What can be wrong with a frame or a head.

use http::header::HeaderName;

use crate::code::Code;
use crate::frame::FrameType;

/// Bytes that are no frame, or no frame that may stand here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The envelope announces more than its type may have, or we were about to send so much.
    #[error("{kind:?} frame of {bytes} bytes, at most {limit} are permitted")]
    TooLong {
        /// The type, `None` for one that is not known.
        kind: Option<FrameType>,
        /// Announced length.
        bytes: u64,
        /// The limit of the type.
        limit: u32,
    },
    /// A type below 64 that this version does not know.
    #[error("unknown critical frame type {0}")]
    UnknownCritical(u8),
    /// More optional frames in a row than a working peer sends.
    #[error("too many unknown frames in a row")]
    TooManyUnknown,
    /// A known frame in a place where it may not stand.
    #[error("{0:?} frame out of place")]
    Misplaced(FrameType),
    /// A payload that cannot be decoded, or a frame that cannot be encoded.
    #[error("malformed {kind:?} frame: {reason}")]
    Malformed {
        /// The type.
        kind: FrameType,
        /// What the decoder says; contains no values of the frame.
        reason: String,
    },
    /// The stream ended in the middle: without `End`, `Abort` or `Refused`, or inside a frame.
    #[error("the stream was cut")]
    Cut,
}

impl FrameError {
    /// The code with which to end the stream or the connection.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } | Self::TooManyUnknown => Code::Limit,
            Self::UnknownCritical(_) => Code::UnknownCritical,
            Self::Misplaced(_) | Self::Malformed { .. } => Code::Protocol,
            Self::Cut => Code::AgentGone,
        }
    }
}

/// A request or an answer that is no head of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A header that frames the message or belongs to one connection.
    #[error("header {0} may not pass")]
    Forbidden(HeaderName),
    /// A name that is not a lower-case token, or a value with bytes that HTTP does not permit.
    #[error("invalid header")]
    InvalidHeader,
    /// More fields than permitted.
    #[error("more than {0} header fields")]
    TooManyHeaders(usize),
    /// More bytes of names and values than permitted.
    #[error("more than {0} bytes of headers")]
    HeadersTooLarge(usize),
    /// `CONNECT`, or no token.
    #[error("invalid method")]
    InvalidMethod,
    /// Not `/path?query` or `*`, with a fragment, or too long.
    #[error("invalid request target")]
    InvalidTarget,
    /// Outside 200 to 599, and not 101.
    #[error("invalid status")]
    InvalidStatus,
    /// Not one decimal number.
    #[error("invalid content-length")]
    InvalidLength,
    /// Something else that is not a valid text of its kind.
    #[error("invalid {0}")]
    InvalidText(&'static str),
}

/// A body that does not keep to its declared length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body has {actual} bytes or more, {declared} were declared")]
pub struct LengthMismatch {
    /// What `content-length` said.
    pub declared: u64,
    /// What has come.
    pub actual: u64,
}
