//! What both ends of a call share.

use bytes::Bytes;
use culvert_wire::{BodyLength, CallFrame, CallItem, Code, FrameError};
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

/// A body as it is read.
///
/// The piece that makes up the declared length is held until the end is there. Whoever has been
/// given so many bytes asks no further, so the end would never be read: a complete body would look
/// like one that was given up, and one that was cut behind its last byte like a complete one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intake {
    declared: Option<u64>,
    length: BodyLength,
    held: Option<Bytes>,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It has not come.
    Ahead,
    /// It has, with trailers that nobody has taken.
    Untaken(HeaderMap),
    /// Nothing is left.
    Taken,
}

impl Intake {
    pub(crate) fn new(declared: Option<u64>) -> Self {
        let length = BodyLength::new(declared);
        Self {
            declared,
            length,
            held: None,
            end: End::Ahead,
        }
    }

    /// Takes what the stream brings.
    pub(crate) fn take(&mut self, item: CallItem) -> Result<(), Failure> {
        match item {
            CallItem::Frame(CallFrame::Data(_)) => Ok(()),
            CallItem::Body(piece) => {
                self.length
                    .add(piece.len() as u64)
                    .map_err(|_mismatch| Failure::Length)?;
                self.held = Some(piece);
                Ok(())
            }
            CallItem::Frame(CallFrame::End(trailers)) => {
                self.length.end().map_err(|_mismatch| Failure::Length)?;
                self.end = End::Untaken(trailers);
                Ok(())
            }
            CallItem::Frame(CallFrame::Abort(code)) => Err(Failure::Aborted(code)),
            CallItem::Frame(_) => Err(Failure::Violation(Code::Protocol)),
        }
    }

    /// What can be handed out without another item; `None` after the end.
    pub(crate) fn ready(&mut self) -> Option<Option<Piece>> {
        if self.is_whole() {
            let piece = self.held.take().map(Piece::Data);
            return Some(piece.or_else(|| self.end.take().map(Piece::End)));
        }
        if self.has_declared() {
            None
        } else {
            self.held.take().map(|piece| Some(Piece::Data(piece)))
        }
    }

    /// Whether something can be handed out.
    pub(crate) fn has_ready(&self) -> bool {
        self.is_whole() || self.held.is_some() && !self.has_declared()
    }

    /// Whether the end has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.end != End::Ahead
    }

    /// Whether nothing is left to be handed out but an end without trailers.
    pub(crate) fn is_drained(&self) -> bool {
        let nothing_behind = match &self.end {
            End::Ahead => false,
            End::Untaken(trailers) => trailers.is_empty(),
            End::Taken => true,
        };
        nothing_behind && self.held.is_none()
    }

    /// Whether the body has no bytes by its declaration.
    pub(crate) fn is_empty(&self) -> bool {
        self.declared == Some(0)
    }

    /// Whether as many bytes have come as are declared.
    fn has_declared(&self) -> bool {
        self.declared == Some(self.length.actual())
    }
}

impl End {
    fn take(&mut self) -> Option<HeaderMap> {
        match std::mem::replace(self, Self::Taken) {
            Self::Untaken(trailers) => Some(trailers),
            Self::Ahead | Self::Taken => None,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &'static [u8]) -> CallItem {
        CallItem::Body(Bytes::from_static(bytes))
    }

    fn end() -> CallItem {
        CallItem::Frame(CallFrame::End(HeaderMap::new()))
    }

    fn data(bytes: &'static [u8]) -> Option<Option<Piece>> {
        Some(Some(Piece::Data(Bytes::from_static(bytes))))
    }

    #[test]
    fn pieces_are_handed_out_as_they_come() {
        let mut intake = Intake::new(None);
        assert_eq!(intake.ready(), None);
        intake.take(body(b"one")).unwrap();
        assert_eq!(intake.ready(), data(b"one"));
        assert_eq!(intake.ready(), None);
        intake.take(end()).unwrap();
        assert!(intake.is_drained());
        assert_eq!(intake.ready(), Some(Some(Piece::End(HeaderMap::new()))));
        assert_eq!(intake.ready(), Some(None));
    }

    #[test]
    fn the_last_declared_piece_waits_for_the_end() {
        let mut intake = Intake::new(Some(6));
        intake.take(body(b"one")).unwrap();
        assert_eq!(intake.ready(), data(b"one"));
        intake.take(body(b"two")).unwrap();
        assert!(!intake.has_ready());
        assert_eq!(intake.ready(), None);
        intake.take(end()).unwrap();
        assert!(intake.is_whole() && !intake.is_drained());
        assert_eq!(intake.ready(), data(b"two"));
        assert!(intake.is_drained());
    }

    #[test]
    fn a_length_is_kept_to() {
        let mut intake = Intake::new(Some(2));
        assert_eq!(intake.take(body(b"one")), Err(Failure::Length));
        let mut intake = Intake::new(Some(4));
        intake.take(body(b"one")).unwrap();
        assert_eq!(intake.take(end()), Err(Failure::Length));
        assert!(Intake::new(Some(0)).is_empty());
    }
}
