//! From the codes of the tunnel to what a caller is told: one `match` before the answer's head, one
//! after it.

use culvert_wire::{Class, Code};

use crate::error::{CallerCode, Problem};

/// A call that got no head of an answer.
pub fn no_answer(code: Code, maybe_executed: bool) -> Problem {
    let lost = match maybe_executed {
        true => CallerCode::MaybeExecuted,
        false => CallerCode::AgentUnavailable,
    };
    let caller = match code {
        Code::Policy => CallerCode::NotAllowed,
        Code::QueueFull | Code::QueueTimeout => CallerCode::QueueFull,
        Code::RateLimited => CallerCode::RateLimited,
        Code::BackendUnreachable => CallerCode::BackendUnreachable,
        Code::BackendReset | Code::BackendProtocol => CallerCode::BackendProtocol,
        Code::DeadlineBefore | Code::DeadlineAfter | Code::BackendTimeout => {
            CallerCode::DeadlineExceeded
        }
        Code::CallerGone | Code::CallerStalled | Code::NotWanted => CallerCode::BadRequest,
        Code::NotAllowed => CallerCode::PlaneNotAllowed,
        Code::Busy => CallerCode::Overloaded,
        Code::UnknownService
        | Code::Draining
        | Code::NoLink
        | Code::ServiceConflict
        | Code::Tombstone
        | Code::Upgrade
        | Code::Revoked
        | Code::Expired
        | Code::Duplicate
        | Code::Stale
        | Code::Clone => CallerCode::AgentUnavailable,
        Code::AgentGone | Code::Protocol | Code::Limit | Code::UnknownCritical => lost,
        Code::Other(_) => match code.class() {
            Class::Reject | Class::Refused => CallerCode::AgentUnavailable,
            Class::MayHaveBegun | Class::Connection => lost,
        },
    };
    Problem::new(caller, what_happened(code))
}

const fn what_happened(code: Code) -> &'static str {
    match code {
        Code::Policy => "The agent's own file does not allow this call.",
        Code::UnknownService => "No connected agent serves this target any more.",
        Code::QueueFull => "The service's queue is full.",
        Code::RateLimited => "The service takes no more calls in this time.",
        Code::QueueTimeout => "The call waited too long in the service's queue.",
        Code::Draining => "The only agent that serves this is leaving.",
        Code::ServiceConflict => "The connector's agents disagree about this service.",
        Code::Tombstone => "The call came too late to the agent.",
        Code::BackendUnreachable => "The agent could not connect to the backend.",
        Code::DeadlineBefore => "The deadline passed before the backend was asked.",
        Code::DeadlineAfter => "The deadline passed before the backend answered.",
        Code::BackendTimeout => "The backend kept silent for longer than its service permits.",
        Code::BackendReset => "The backend closed the connection without an answer.",
        Code::BackendProtocol => "The backend's answer is not valid HTTP.",
        Code::CallerGone | Code::CallerStalled | Code::NotWanted => {
            "The request's body broke off before its end."
        }
        Code::NotAllowed => "The connector does not allow this plane.",
        Code::Busy => "Every link that could carry the call is full.",
        Code::AgentGone | Code::Protocol | Code::Limit | Code::UnknownCritical => {
            "The link to the agent was lost."
        }
        Code::NoLink
        | Code::Upgrade
        | Code::Revoked
        | Code::Expired
        | Code::Duplicate
        | Code::Stale
        | Code::Clone => "No agent that serves this is connected.",
        Code::Other(_) => "The call was given up on its way.",
    }
}

/// An answer that began and did not end.
pub fn cut(code: Code) -> Problem {
    let (caller, what) = match code {
        Code::DeadlineAfter | Code::DeadlineBefore => (
            CallerCode::DeadlineExceeded,
            "The deadline passed in the middle of the answer.",
        ),
        Code::BackendReset => (CallerCode::AnswerCut, "The backend broke off its answer."),
        Code::BackendProtocol => (
            CallerCode::AnswerCut,
            "The backend's answer broke HTTP's rules.",
        ),
        Code::BackendTimeout => (
            CallerCode::AnswerCut,
            "The backend fell silent in its answer.",
        ),
        Code::CallerStalled => (CallerCode::AnswerCut, "The answer was read too slowly."),
        Code::AgentGone => (
            CallerCode::AnswerCut,
            "The link to the agent was lost in the answer.",
        ),
        Code::Upgrade
        | Code::Revoked
        | Code::Expired
        | Code::NotAllowed
        | Code::Duplicate
        | Code::Busy
        | Code::Stale
        | Code::Clone
        | Code::Policy
        | Code::UnknownService
        | Code::QueueFull
        | Code::QueueTimeout
        | Code::Draining
        | Code::NoLink
        | Code::ServiceConflict
        | Code::Tombstone
        | Code::RateLimited
        | Code::BackendUnreachable
        | Code::CallerGone
        | Code::NotWanted
        | Code::Protocol
        | Code::Limit
        | Code::UnknownCritical
        | Code::Other(_) => (CallerCode::AnswerCut, "The answer was given up on its way."),
    };
    Problem::new(caller, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_began_is_never_called_maybe_executed() {
        for code in Code::all() {
            let problem = no_answer(code, false);
            assert_ne!(problem.code(), CallerCode::MaybeExecuted, "{code:?}");
        }
        assert_eq!(
            no_answer(Code::AgentGone, true).code(),
            CallerCode::MaybeExecuted
        );
    }

    #[test]
    fn refusals_of_the_agent_have_their_statuses() {
        for (code, status) in [
            (Code::Policy, 403),
            (Code::QueueFull, 429),
            (Code::NoLink, 503),
            (Code::BackendUnreachable, 502),
            (Code::DeadlineBefore, 504),
            (Code::RateLimited, 429),
            (Code::BackendReset, 502),
        ] {
            assert_eq!(no_answer(code, false).code().status(), status, "{code:?}");
        }
    }

    #[test]
    fn a_cut_answer_is_cut_or_late() {
        for code in Code::all() {
            let caller = cut(code).code();
            assert!(
                matches!(caller, CallerCode::AnswerCut | CallerCode::DeadlineExceeded),
                "{code:?}"
            );
        }
    }
}
