//! Codes: the closed list of reasons with which a connection, a call or a stream ends.

use std::fmt;

/// Why a connection was rejected, a call refused or aborted, or a stream reset.
///
/// The hundred of the number says what may have happened by then, so a code of a later version is
/// still understood by its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    // 1-99: a connection is rejected.
    /// The agent's version is below the least that is served.
    Upgrade,
    /// The identity was revoked; signed by control, ends all retrying.
    Revoked,
    /// The leaf is past its lifetime; it may still renew over the join endpoint.
    Expired,
    /// The connector may not link to this plane, or is held for approval.
    NotAllowed,
    /// This replica already has a link of this instance: dial again for another replica.
    Duplicate,
    /// Above a limit of links or handshakes.
    Busy,
    /// The replica has not heard the store for too long to admit anybody.
    Stale,
    /// Another live instance uses this identity.
    Clone,

    // 100-199: a call is refused, nothing began.
    /// The agent's own file does not allow it.
    Policy,
    /// The agent has no such service, or not that model.
    UnknownService,
    /// The service's queue is full.
    QueueFull,
    /// The call waited in the queue for as long as it may.
    QueueTimeout,
    /// The agent is leaving.
    Draining,
    /// The replica has no link for that connector.
    NoLink,
    /// Another agent of the connector offers the name as another kind.
    ServiceConflict,
    /// The agent has said `NeverSeen` of this call id before it came.
    Tombstone,
    /// No connection to the backend could be made.
    BackendUnreachable,
    /// The deadline passed before anything was sent to the backend.
    DeadlineBefore,
    /// More calls than the service takes in a time.
    RateLimited,

    // 200-299: the backend may have begun.
    /// The backend ended its connection in the middle.
    BackendReset,
    /// The backend's answer breaks HTTP, or its declared length.
    BackendProtocol,
    /// The backend kept silent for longer than the service permits.
    BackendTimeout,
    /// The caller went away.
    CallerGone,
    /// The caller did not read, and what is held for it went above a budget.
    CallerStalled,
    /// The other side wants no more of this body; its own direction goes on.
    NotWanted,
    /// The deadline passed after the request had begun.
    DeadlineAfter,
    /// The agent or the link to it was lost.
    AgentGone,

    // 300 and above: the connection is wrong.
    /// A frame that cannot be decoded, or in a place where it may not stand.
    Protocol,
    /// A frame or a rate above its limit.
    Limit,
    /// A critical frame type that this version does not know.
    UnknownCritical,

    /// A number of a later version. Its class is known, and decides.
    Other(OtherCode),
}

/// The number of a code that this version has no name for.
///
/// It exists only for numbers without a name, so that [`Code`] has one value for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OtherCode(u16);

/// Who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller, or what it asked for.
    Caller,
    /// The backend behind the agent.
    Backend,
    /// The agent or its configuration.
    Agent,
    /// The relay, its plane, or the configuration that it has from control.
    Relay,
    /// The network between agent and relay.
    Network,
    /// Whoever sent the frame that made us say so.
    Peer,
}

/// What the code permits, next to the rules for the kind of request.
///
/// Where [`Code::may_have_begun`] holds, anything but [`Retry::Never`] permits a retry only once it
/// is known that nothing began, or for a request that may be repeated (GET, HEAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// At once, the same way.
    Now,
    /// The same way, after a back-off.
    After,
    /// At once, over another link or at another replica.
    Elsewhere,
    /// Not at all.
    Never,
}

/// One line for each code: its number, word, blame and retry. Everything below reads this table.
#[rustfmt::skip]
const TABLE: &[(Code, u16, &str, Blame, Retry)] = &[
    (Code::Upgrade, 1, "upgrade", Blame::Agent, Retry::After),
    (Code::Revoked, 2, "revoked", Blame::Agent, Retry::Never),
    (Code::Expired, 3, "expired", Blame::Agent, Retry::After),
    (Code::NotAllowed, 4, "not_allowed", Blame::Agent, Retry::After),
    (Code::Duplicate, 5, "duplicate", Blame::Network, Retry::Now),
    (Code::Busy, 6, "busy", Blame::Relay, Retry::After),
    (Code::Stale, 7, "stale", Blame::Relay, Retry::Elsewhere),
    (Code::Clone, 8, "clone", Blame::Agent, Retry::After),
    (Code::Policy, 100, "policy", Blame::Caller, Retry::Never),
    (Code::UnknownService, 101, "unknown_service", Blame::Agent, Retry::Elsewhere),
    (Code::QueueFull, 102, "queue_full", Blame::Agent, Retry::Elsewhere),
    (Code::QueueTimeout, 103, "queue_timeout", Blame::Agent, Retry::Elsewhere),
    (Code::Draining, 104, "draining", Blame::Agent, Retry::Elsewhere),
    (Code::NoLink, 105, "no_link", Blame::Relay, Retry::Elsewhere),
    (Code::ServiceConflict, 106, "service_conflict", Blame::Agent, Retry::Elsewhere),
    (Code::Tombstone, 107, "tombstone", Blame::Relay, Retry::Never),
    (Code::BackendUnreachable, 108, "backend_unreachable", Blame::Backend, Retry::Elsewhere),
    (Code::DeadlineBefore, 109, "deadline_before", Blame::Caller, Retry::Never),
    (Code::RateLimited, 110, "rate_limited", Blame::Caller, Retry::Elsewhere),
    (Code::BackendReset, 200, "backend_reset", Blame::Backend, Retry::Elsewhere),
    (Code::BackendProtocol, 201, "backend_protocol", Blame::Backend, Retry::Never),
    (Code::BackendTimeout, 202, "backend_timeout", Blame::Backend, Retry::Never),
    (Code::CallerGone, 203, "caller_gone", Blame::Caller, Retry::Never),
    (Code::CallerStalled, 204, "caller_stalled", Blame::Caller, Retry::Never),
    (Code::NotWanted, 205, "not_wanted", Blame::Caller, Retry::Never),
    (Code::DeadlineAfter, 206, "deadline_after", Blame::Caller, Retry::Never),
    (Code::AgentGone, 207, "agent_gone", Blame::Network, Retry::Elsewhere),
    (Code::Protocol, 300, "protocol", Blame::Peer, Retry::After),
    (Code::Limit, 301, "limit", Blame::Peer, Retry::After),
    (Code::UnknownCritical, 302, "unknown_critical", Blame::Peer, Retry::After),
];

/// What the hundred of a code's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 1-99: a connection is rejected.
    Reject,
    /// 100-199: a call is refused, nothing began.
    Refused,
    /// 200-299: the backend may have begun.
    MayHaveBegun,
    /// 300 and above, and the number 0: the connection is wrong.
    Connection,
}

impl Code {
    /// The code of a number; one without a name keeps its number and its class.
    #[must_use]
    pub fn from_u16(number: u16) -> Self {
        TABLE
            .iter()
            .find(|row| row.1 == number)
            .map_or(Self::Other(OtherCode(number)), |row| row.0)
    }

    /// The code of a transport's error code, as QUIC's `RESET_STREAM` and `CONNECTION_CLOSE` carry
    /// it. A number above u16 is no code of ours: [`Code::Protocol`].
    #[must_use]
    pub fn from_transport(number: u64) -> Self {
        u16::try_from(number).map_or(Self::Protocol, Self::from_u16)
    }

    /// The number on the wire.
    #[must_use]
    pub fn to_u16(self) -> u16 {
        if let Self::Other(OtherCode(number)) = self {
            return number;
        }
        self.row().1
    }

    /// The word for logs, metrics and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The class by the number's hundred.
    #[must_use]
    pub fn class(self) -> Class {
        match self.to_u16() {
            1..=99 => Class::Reject,
            100..=199 => Class::Refused,
            200..=299 => Class::MayHaveBegun,
            0 | 300..=u16::MAX => Class::Connection,
        }
    }

    /// Who has to do something about it.
    #[must_use]
    pub fn blame(self) -> Blame {
        self.row().3
    }

    /// Whether the backend may have begun when a call ends with this code. A connection that is
    /// wrong says nothing about its calls, so they may have begun.
    #[must_use]
    pub fn may_have_begun(self) -> bool {
        match self.class() {
            Class::Reject | Class::Refused => false,
            Class::MayHaveBegun | Class::Connection => true,
        }
    }

    /// The retry that this code permits.
    #[must_use]
    pub fn retry(self) -> Retry {
        self.row().4
    }

    /// Every code that has a name, in the order of numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> (Self, u16, &'static str, Blame, Retry) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .copied()
            .unwrap_or_else(|| self.unnamed_row())
    }

    /// What is assumed of a code of a later version: the cautious reading of its class.
    fn unnamed_row(self) -> (Self, u16, &'static str, Blame, Retry) {
        let Self::Other(OtherCode(number)) = self else {
            return (self, 0, "other", Blame::Peer, Retry::Never);
        };
        match number {
            1..=99 => (self, number, "other_reject", Blame::Agent, Retry::After),
            100..=199 => (
                self,
                number,
                "other_refused",
                Blame::Agent,
                Retry::Elsewhere,
            ),
            200..=299 => (self, number, "other_begun", Blame::Backend, Retry::Never),
            0 | 300..=u16::MAX => (self, number, "other_connection", Blame::Peer, Retry::After),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Other(OtherCode(number)) = self {
            return write!(f, "code_{number}");
        }
        f.write_str(self.name())
    }
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        code.to_u16()
    }
}

impl From<u16> for Code {
    fn from(number: u16) -> Self {
        Self::from_u16(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_one_code_and_back() {
        for number in 0..=u16::MAX {
            assert_eq!(Code::from_u16(number).to_u16(), number);
        }
        for code in Code::all() {
            assert_eq!(Code::from_u16(code.to_u16()), code);
        }
    }

    #[test]
    fn the_class_follows_the_hundred_for_unknown_numbers_too() {
        assert!(!Code::from_u16(42).may_have_begun());
        assert!(!Code::from_u16(199).may_have_begun());
        assert!(Code::from_u16(299).may_have_begun());
        assert!(Code::from_u16(301).may_have_begun());
        assert!(Code::from_u16(9_999).may_have_begun());
        assert_eq!(Code::from_u16(150).retry(), Retry::Elsewhere);
        assert_eq!(Code::from_u16(250).retry(), Retry::Never);
    }

    #[test]
    fn a_transport_number_above_u16_is_a_protocol_error() {
        assert_eq!(
            Code::from_transport(u64::from(u16::MAX) + 1),
            Code::Protocol
        );
        assert_eq!(Code::from_transport(104), Code::Draining);
    }

    #[test]
    fn only_revoked_ends_the_retrying_of_a_link() {
        let final_codes: Vec<Code> = Code::all()
            .filter(|code| code.class() == Class::Reject && code.retry() == Retry::Never)
            .collect();
        assert_eq!(final_codes, [Code::Revoked]);
    }
}
