//! What the relay and its machine say to each other.

use std::time::Duration;

use bytes::Bytes;

use crate::code::Code;
use crate::frame::{Answer, Ask, Health, Hello, Offer, Reject, Renewed, Welcome};

/// An order of the relay to its machine.
#[derive(Clone, Debug)]
pub enum AcceptorCommand {
    /// Accept the agent.
    Welcome(Welcome),
    /// Do not.
    Reject(Reject),
    /// Ask the agent about a call. Where too many questions are open, the answer is `Unknown`.
    Ask(Ask),
    /// Answers a [`AcceptorEvent::Renew`].
    Renewed(Renewed),
    /// Tell the agent of the planes; the newest list is what is sent.
    Planes(Bytes),
    /// Tell the agent of a revocation.
    Revoked(Bytes),
    /// The replica leaves. At most an hour, and a smear of at most five minutes. Calls may still be
    /// opened, so that the link stays, idle or not, until [`AcceptorCommand::EndCalls`].
    GoAway {
        /// How long calls may take to finish, from [`AcceptorCommand::EndCalls`] on.
        leave_in: Duration,
        /// The span in which agents dial their replacements.
        smear: Duration,
    },
    /// No new calls come to a replica that leaves: the link is closed once it is idle, and after
    /// `leave_in` at the latest. Nothing before [`AcceptorCommand::GoAway`].
    EndCalls,
    /// A call has been without its first answer frame for a second, or somebody has another doubt.
    Suspect,
    /// The probe of an [`AcceptorEvent::Probe`] was answered.
    ProbeAnswered {
        /// The probe's.
        nonce: u64,
    },
    /// Be over now.
    Close(Code),
}

/// What the machine tells the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptorEvent {
    /// Decide within ten seconds, with [`AcceptorCommand::Welcome`] or [`AcceptorCommand::Reject`].
    Hello(Box<Hello>),
    /// What the agent serves now.
    Offer(Offer),
    /// How its services are now.
    Health(Health),
    /// Open a stream with `CallFrame::Probe(nonce)`, and say when its answer has come. A stream
    /// without one may be given up when the next probe is asked for.
    Probe {
        /// The probe's.
        nonce: u64,
    },
    /// Bytes come, but calls are not served: out of selection.
    ServingDead,
    /// They are again.
    ServingBack,
    /// The answer to an [`AcceptorCommand::Ask`].
    Answered(Answer),
    /// The agent wants a certificate.
    Renew(Bytes),
    /// The agent leaves: open no call from now on. `DrainAck` is written after this event.
    Draining {
        /// How long it lets calls finish.
        timeout: Duration,
    },
    /// The answer to [`AcceptorCommand::EndCalls`]: open no call from now on. The link is judged
    /// idle only by an observation that is made after this event.
    CallsEnd,
}
