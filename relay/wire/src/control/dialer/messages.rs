//! What the agent and its machine say to each other.

use std::time::Duration;

use bytes::Bytes;

use crate::code::Code;
use crate::frame::{Answer, Ask, GoAway, Health, Offer, Reject, Renewed, Welcome};

/// An order of the agent to its machine.
#[derive(Clone, Debug)]
pub enum DialerCommand {
    /// What is served now. One whose number is not above the last one's is dropped.
    Offer(Offer),
    /// How all services are now.
    Health(Health),
    /// What is known of a call that was asked about.
    Answer(Answer),
    /// A request for a certificate. While one is under way the newest waits.
    Renew(Bytes),
    /// Leave: no new calls, finish, close. At most an hour.
    Drain {
        /// How long calls may take to finish.
        timeout: Duration,
    },
    /// Be over now.
    Close(Code),
}

/// What the machine tells the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialerEvent {
    /// The session stands: calls may come.
    Welcome(Welcome),
    /// There is no session; the machine is over once this was read.
    Rejected(Reject),
    /// A `Pong` has come.
    Alive {
        /// From the ping to its pong, where nothing overtook it.
        round_trip: Option<Duration>,
        /// How long ago the relay had its last probe answered.
        probe_age: Option<Duration>,
    },
    /// The other side runs, but calls do not come through: dial a replacement. Said once.
    ServingDead,
    /// Answer with [`DialerCommand::Answer`].
    Ask(Ask),
    /// The certificate that was asked for, or why there is none.
    Renewed(Renewed),
    /// A signed list of planes.
    Planes(Bytes),
    /// The replica leaves: dial a replacement.
    GoAway(GoAway),
    /// A signed revocation.
    Revoked(Bytes),
}
