//! Whether a call may be sent again: decided here and nowhere else.
//!
//! Sending again is permitted where it is *known* that nothing began: the call never left, the
//! agent refused it, or the agent, asked over another link, never saw it. Where it stays unknown,
//! only what the method declares safe goes again. Once the head of an answer has been handed to
//! the caller nobody comes here any more.

use culvert_wire::{Code, Retry};
use http::Method;

/// How an attempt ended without the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No byte of the call left this replica; the code is what a caller is told.
    NeverSent(Code),
    /// The agent says that nothing began.
    Refused(Code),
    /// The agent says what went wrong with its backend.
    Aborted(Code),
    /// Stream or link ended without a word from the agent.
    Lost {
        /// Whether the agent had taken the call before.
        accepted: bool,
    },
    /// This side gave up: the caller left or its time is over.
    Stopped(Code),
}

/// What the agent answered when it was asked about a lost call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Witness {
    /// It was not asked yet.
    NotAsked,
    /// It never saw the call, and will refuse it should it still arrive.
    NeverSeen,
    /// It saw the call.
    Seen,
    /// It does not know, or could not be asked.
    Unknown,
}

/// What is known about a call whose attempt failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The caller's method is GET or HEAD.
    pub(crate) safe: bool,
    /// The request body is still there as a whole.
    pub(crate) rewindable: bool,
    /// Attempts made so far, this one included.
    pub(crate) attempts: u8,
    pub(crate) max_attempts: u8,
    pub(crate) witness: Witness,
}

/// What to do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it over another link, if the budget permits.
    Again(Reason),
    /// Ask the agent over another of its links, then decide again.
    Ask,
    /// Tell the caller, by its [`ending`].
    GiveUp,
}

/// Why a call is sent again; a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    NeverSent,
    Refused,
    NeverSeen,
    Safe,
}

/// How a call ends that gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: Code,
    pub(crate) maybe_executed: bool,
}

/// GET and HEAD: sending them twice asks for nothing twice.
pub(crate) fn is_safe(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Decides about a failed attempt.
pub(crate) fn decide(failed: Failed, facts: Facts) -> Next {
    let again = match failed {
        Failed::NeverSent(_) => Some(Reason::NeverSent),
        Failed::Refused(code) => (code.retry() != Retry::Never).then_some(Reason::Refused),
        Failed::Aborted(code) => {
            (code.retry() != Retry::Never && facts.safe).then_some(Reason::Safe)
        }
        Failed::Lost { accepted: false }
            if facts.witness == Witness::NotAsked && facts.can_repeat() =>
        {
            return Next::Ask;
        }
        Failed::Lost { .. } => match facts.witness {
            Witness::NeverSeen => Some(Reason::NeverSeen),
            Witness::NotAsked | Witness::Seen | Witness::Unknown => {
                facts.safe.then_some(Reason::Safe)
            }
        },
        Failed::Stopped(_) => None,
    };
    match again {
        Some(reason) if facts.can_repeat() => Next::Again(reason),
        _ => Next::GiveUp,
    }
}

/// What the caller is told when a failed attempt is the last one.
pub(crate) fn ending(failed: Failed, witness: Witness) -> Ending {
    let never_seen = witness == Witness::NeverSeen;
    match failed {
        Failed::NeverSent(code) | Failed::Refused(code) => Ending {
            code,
            maybe_executed: false,
        },
        Failed::Aborted(code) | Failed::Stopped(code) => Ending {
            code,
            maybe_executed: code.may_have_begun(),
        },
        Failed::Lost { .. } => Ending {
            code: Code::AgentGone,
            maybe_executed: !never_seen,
        },
    }
}

impl Facts {
    fn can_repeat(&self) -> bool {
        self.rewindable && self.attempts < self.max_attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        safe: false,
        rewindable: true,
        attempts: 1,
        max_attempts: 3,
        witness: Witness::NotAsked,
    };

    fn all_failures() -> Vec<Failed> {
        let mut all = vec![
            Failed::NeverSent(Code::NoLink),
            Failed::Lost { accepted: false },
            Failed::Lost { accepted: true },
        ];
        for code in [
            Code::Policy,
            Code::UnknownService,
            Code::QueueFull,
            Code::QueueTimeout,
            Code::Draining,
        ] {
            all.push(Failed::Refused(code));
        }
        for code in [
            Code::BackendReset,
            Code::BackendProtocol,
            Code::BackendTimeout,
            Code::AgentGone,
        ] {
            all.push(Failed::Aborted(code));
        }
        for code in [Code::CallerGone, Code::DeadlineAfter] {
            all.push(Failed::Stopped(code));
        }
        all
    }

    #[test]
    fn what_is_known_not_to_have_begun_goes_elsewhere() {
        assert_eq!(
            decide(Failed::NeverSent(Code::NoLink), FACTS),
            Next::Again(Reason::NeverSent)
        );
        assert_eq!(
            decide(Failed::Refused(Code::Draining), FACTS),
            Next::Again(Reason::Refused)
        );
        assert_eq!(
            decide(Failed::Refused(Code::QueueFull), FACTS),
            Next::Again(Reason::Refused)
        );
    }

    #[test]
    fn a_lost_call_is_asked_about_before_anything_else() {
        let lost = Failed::Lost { accepted: false };
        assert_eq!(decide(lost, FACTS), Next::Ask);
        let never_seen = Facts {
            witness: Witness::NeverSeen,
            ..FACTS
        };
        assert_eq!(decide(lost, never_seen), Next::Again(Reason::NeverSeen));
        for witness in [Witness::Seen, Witness::Unknown] {
            let facts = Facts { witness, ..FACTS };
            assert_eq!(
                decide(lost, facts),
                Next::GiveUp,
                "a POST that may have begun went again"
            );
            let ending = ending(lost, witness);
            assert_eq!(
                ending,
                Ending {
                    code: Code::AgentGone,
                    maybe_executed: true
                }
            );
        }
    }

    /// A request whose backend may have begun is sent again only where code and kind permit.
    #[test]
    fn nothing_unsafe_that_may_have_begun_is_ever_repeated() {
        for failed in all_failures() {
            for witness in [Witness::NotAsked, Witness::Seen, Witness::Unknown] {
                let may_have_begun = match failed {
                    Failed::NeverSent(_) | Failed::Refused(_) => false,
                    Failed::Aborted(_) | Failed::Lost { .. } | Failed::Stopped(_) => true,
                };
                let next = decide(failed, Facts { witness, ..FACTS });
                if may_have_begun {
                    assert!(
                        !matches!(next, Next::Again(_)),
                        "{failed:?} after {witness:?} gave {next:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn get_and_head_go_again_where_it_stays_unknown() {
        let facts = Facts {
            safe: true,
            witness: Witness::Unknown,
            ..FACTS
        };
        assert_eq!(
            decide(Failed::Lost { accepted: false }, facts),
            Next::Again(Reason::Safe)
        );
        assert_eq!(
            decide(Failed::Lost { accepted: true }, facts),
            Next::Again(Reason::Safe)
        );
        assert!(is_safe(&Method::GET) && is_safe(&Method::HEAD));
        for method in [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::OPTIONS,
        ] {
            assert!(!is_safe(&method), "{method}");
        }
    }

    #[test]
    fn a_gone_body_or_a_used_up_number_of_attempts_ends_it() {
        for failed in all_failures() {
            for facts in [
                Facts {
                    rewindable: false,
                    ..FACTS
                },
                Facts {
                    attempts: 3,
                    ..FACTS
                },
            ] {
                let facts = Facts {
                    safe: true,
                    ..facts
                };
                assert!(
                    matches!(decide(failed, facts), Next::GiveUp),
                    "{failed:?} {facts:?}"
                );
            }
        }
    }

    #[test]
    fn the_caller_is_told_whether_it_may_have_been_executed() {
        for failed in all_failures() {
            let ending = ending(failed, Witness::Unknown);
            let expected = !matches!(failed, Failed::NeverSent(_) | Failed::Refused(_));
            assert_eq!(ending.maybe_executed, expected, "{failed:?}");
        }
        assert!(!ending(Failed::Lost { accepted: false }, Witness::NeverSeen).maybe_executed);
    }

    #[test]
    fn this_side_giving_up_is_final() {
        let facts = Facts {
            safe: true,
            ..FACTS
        };
        assert!(matches!(
            decide(Failed::Stopped(Code::DeadlineAfter), facts),
            Next::GiveUp
        ));
    }
}
