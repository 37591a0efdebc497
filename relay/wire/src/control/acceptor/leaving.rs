//! How either side leaves: the agent's `Drain` is binding, our `GoAway` is advice.

use std::time::{Duration, Instant};

use super::{Acceptor, AcceptorEvent, State};
use crate::control::{Violation, millis};
use crate::frame::{FrameType, GoAway};
use crate::limits::{DRAIN_GRACE, DRAIN_TIMEOUT_MAX, SMEAR_MAX};

impl Acceptor {
    pub(super) fn begin_drain(&mut self, now: Instant, timeout: Duration) -> Result<(), Violation> {
        let timeout = timeout.min(DRAIN_TIMEOUT_MAX);
        match self.state {
            State::Serving => {
                self.state = State::Draining {
                    deadline: now + timeout + DRAIN_GRACE,
                };
            }
            // We leave anyway, and sooner or later than it.
            State::Leaving { .. } => {}
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
        if !self.is_live() || matches!(self.state, State::Leaving { .. }) {
            return;
        }
        let (leave_in, smear) = (leave_in.min(DRAIN_TIMEOUT_MAX), smear.min(SMEAR_MAX));
        self.outbox.go_away = Some(GoAway {
            leave_in_ms: millis(leave_in),
            smear_ms: millis(smear),
        });
        self.state = State::Leaving {
            deadline: now + leave_in,
            smeared: now + smear,
            calls_ended: matches!(self.state, State::Draining { .. }),
        };
    }

    pub(super) fn end_calls(&mut self) {
        if let State::Leaving {
            calls_ended: false, ..
        } = self.state
        {
            self.events.push_back(AcceptorEvent::CallsEnd);
        }
    }
}
