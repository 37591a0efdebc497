//! The control stream: two machines without IO, one for each end.
//!
//! A driver owns a machine and the stream. It repeats, in this order and without waiting in between:
//!
//! 1. [`Machine::observe`] with what the transport counts;
//! 2. whatever has happened: [`Machine::handle_frame`], [`Machine::handle_command`], and
//!    [`Machine::handle_timeout`] once [`Machine::poll_timeout`] has been reached;
//! 3. [`Machine::poll_event`] until there is none, acting on each;
//! 4. [`Machine::poll_frame`] until there is none, writing each;
//! 5. [`Machine::end`]: once there is one, close the connection with its code.
//!
//! Events come before frames so that what a frame promises is true when it is written: at
//! [`AcceptorEvent::Draining`] the driver closes the connection for new calls, then writes
//! `DrainAck`.

mod acceptor;
mod dialer;
mod liveness;
mod pinger;
mod prober;
mod rate;

use std::time::{Duration, Instant};

pub use acceptor::{Acceptor, AcceptorCommand, AcceptorEvent};
pub use dialer::{Dialer, DialerCommand, DialerEvent};

use crate::code::Code;
use crate::frame::{ControlFrame, FrameType};

/// One end of a control stream. Time is an argument everywhere; it must not go backwards.
pub trait Machine {
    /// What its owner asks of it.
    type Command;
    /// What it tells its owner.
    type Event;

    /// Takes what the transport counts. Call it before everything else at each wake-up, and when
    /// the number of calls rises from none.
    fn observe(&mut self, now: Instant, observation: Observation);

    /// Takes an order of its owner.
    fn handle_command(&mut self, now: Instant, command: Self::Command);

    /// Takes a frame of the peer.
    ///
    /// # Errors
    /// The peer broke the protocol; the machine has ended.
    fn handle_frame(&mut self, now: Instant, frame: ControlFrame) -> Result<(), Violation>;

    /// Does what is due by now; harmless at any other time.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing to tell its owner.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// The next frame to write. A frame that is not asked for is not collected: newer offers,
    /// reports and pongs replace older ones.
    fn poll_frame(&mut self, now: Instant) -> Option<ControlFrame>;

    /// When [`Machine::handle_timeout`] or [`Machine::poll_frame`] has something to do next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Why it is over. No event and no frame comes after that.
    fn end(&self) -> Option<End>;
}

/// What the transport of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Bytes received so far, of anything: where the transport counts datagrams, those.
    pub received_bytes: u64,
    /// Smoothed round trip; its best guess where it has measured none.
    pub round_trip: Duration,
    /// Calls in flight on this connection.
    pub calls_in_flight: u32,
    /// Calls begun on this connection so far.
    pub calls_begun: u64,
}

/// Why a machine is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The relay refused the connection.
    Rejected(Code),
    /// The peer broke the protocol.
    Violation(Violation),
    /// Nothing has come for longer than a live path can be silent.
    TransportDead,
    /// `Hello`, or the answer to it, has not come in time.
    NoGreeting,
    /// The agent has left.
    Drained {
        /// Whether every call had ended by then.
        clean: bool,
    },
    /// The replica has left.
    Left {
        /// Whether every call had ended by then.
        clean: bool,
    },
    /// The owner wanted it.
    Closed(Code),
}

impl End {
    /// The code with which to close the connection.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected(code) | Self::Closed(code) => *code,
            Self::Violation(violation) => violation.code(),
            Self::TransportDead => Code::AgentGone,
            Self::NoGreeting => Code::Protocol,
            Self::Drained { .. } | Self::Left { .. } => Code::Draining,
        }
    }
}

/// How a peer broke the protocol of the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame that this end may not get, or not now.
    #[error("{0:?} frame out of place")]
    Misplaced(FrameType),
    /// Frames of a type above their rate.
    #[error("{0:?} frames above their rate")]
    TooFast(FrameType),
    /// More open questions than permitted.
    #[error("too many {0:?} frames without an answer")]
    TooMany(FrameType),
    /// An offer that is not newer than the last.
    #[error("offer {seq} after {last}")]
    StaleOffer {
        /// Its number.
        seq: u64,
        /// The last one's.
        last: u64,
    },
    /// A connection that was to be added to a session was welcomed to another one.
    #[error("welcomed to another session")]
    OtherSession,
    /// An answer to nothing that was asked.
    #[error("{0:?} frame answers nothing")]
    Unasked(FrameType),
}

impl Violation {
    /// The code with which to close the connection.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::TooFast(_) | Self::TooMany(_) => Code::Limit,
            Self::Misplaced(_)
            | Self::StaleOffer { .. }
            | Self::OtherSession
            | Self::Unasked(_) => Code::Protocol,
        }
    }
}

/// The earlier of two moments that may not be.
fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Milliseconds as frames carry them.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
