//! What both ends of a call share.

use bytes::Bytes;
use culvert_wire::{Code, FrameError};
use http::HeaderMap;

use crate::connection::Connection;
use crate::error::{CallError, Failure};
use crate::frames::ReadError;
use crate::stream::HalfError;

/// A piece of a body, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, never none.
    Data(Bytes),
    /// The body is complete; its trailers, empty where it has none.
    End(HeaderMap),
}

/// What a broken read means for the call; a peer that breaks the protocol loses the connection.
pub(crate) fn read_failed(connection: &Connection, error: ReadError, sent: bool) -> CallError {
    match error {
        ReadError::Half(error) => half_failed(error, sent),
        ReadError::Frame(FrameError::Cut) => CallError::new(Failure::Cut, sent),
        ReadError::Frame(error) => {
            connection.close(error.code(), &error.to_string());
            CallError::new(Failure::Violation(error.code()), sent)
        }
    }
}

pub(crate) fn half_failed(error: HalfError, sent: bool) -> CallError {
    match error {
        HalfError::Peer(code) => CallError::new(Failure::Reset(code), sent),
        HalfError::Lost => CallError::new(Failure::Lost, sent),
    }
}

pub(crate) fn violation(connection: &Connection, code: Code) -> CallError {
    connection.close(code, "unexpected frame on a call's stream");
    CallError::new(Failure::Violation(code), true)
}
