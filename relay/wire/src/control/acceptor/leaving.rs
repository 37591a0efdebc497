//! How either side leaves: the agent's `Drain` is binding, our `GoAway` is advice.

use std::time::{Duration, Instant};

use super::{Acceptor, AcceptorEvent, Calls, State};
use crate::control::{Violation, millis};
use crate::frame::{FrameType, GoAway};
use crate::limits::{DRAIN_GRACE, DRAIN_TIMEOUT_MAX, SMEAR_MAX};

impl Acceptor {
    pub(super) fn begin_drain(&mut self, now: Instant, timeout: Duration) -> Result<(), Violation> {
        let timeout = timeout.min(DRAIN_TIMEOUT_MAX);
        let deadline = now + timeout + DRAIN_GRACE;
        match &mut self.state {
            State::Serving => self.state = State::Draining { deadline },
            // Both leave, and each says by when; ours counts once we take no calls either.
            State::Leaving { calls, .. } => {
                if let Calls::Opened = calls {
                    *calls = Calls::Ending { deadline };
                }
            }
            State::Waiting { .. }
            | State::Deciding { .. }
            | State::Draining { .. }
            | State::Closed(_) => return Err(Violation::Misplaced(FrameType::Drain)),
        }
        self.events.push_back(AcceptorEvent::Draining { timeout });
        self.outbox.drain_ack = true;
        Ok(())
    }

    pub(super) fn go_away(&mut self, now: Instant, leave_in: Duration, smear: Duration) {
        let calls = match self.state {
            State::Serving => Calls::Opened,
            State::Draining { deadline } => Calls::Ended { deadline },
            State::Waiting { .. }
            | State::Deciding { .. }
            | State::Leaving { .. }
            | State::Closed(_) => return,
        };
        let (leave_in, smear) = (leave_in.min(DRAIN_TIMEOUT_MAX), smear.min(SMEAR_MAX));
        self.outbox.go_away = Some(GoAway {
            leave_in_ms: millis(leave_in),
            smear_ms: millis(smear),
        });
        self.state = State::Leaving {
            leave_in,
            smeared: now + smear,
            calls,
        };
    }

    /// From here on nothing begins any more: what has begun has `leave_in` to finish.
    pub(super) fn end_calls(&mut self, now: Instant) {
        let State::Leaving {
            leave_in, calls, ..
        } = &mut self.state
        else {
            return;
        };
        let deadline = now + *leave_in;
        match calls {
            Calls::Opened => {
                *calls = Calls::Ending { deadline };
                self.events.push_back(AcceptorEvent::CallsEnd);
            }
            // The agent has ended them; from now on our own time counts.
            Calls::Ending { deadline: end } | Calls::Ended { deadline: end } => {
                *end = deadline.min(*end);
            }
        }
    }
}
