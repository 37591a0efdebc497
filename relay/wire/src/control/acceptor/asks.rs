//! Questions to the agent about calls.

use std::collections::{BTreeSet, VecDeque};

use crate::frame::{Answer, Ask, CallKnowledge};
use crate::ids::CallId;
use crate::limits::ASKS_PENDING_MAX;

/// Those that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: BTreeSet<CallId>,
    unwritten: VecDeque<Ask>,
}

impl Asks {
    /// Takes a question, once. Where too many are open, the answer is here: unknown.
    pub(super) fn ask(&mut self, ask: Ask) -> Option<Answer> {
        if self.open.contains(&ask.call_id) {
            return None;
        }
        if self.open.len() == ASKS_PENDING_MAX {
            return Some(Answer {
                call_id: ask.call_id,
                knowledge: CallKnowledge::Unknown,
            });
        }
        self.open.insert(ask.call_id);
        self.unwritten.push_back(ask);
        None
    }

    /// Takes an answer; whether it was asked for.
    pub(super) fn answered(&mut self, call: &CallId) -> bool {
        self.open.remove(call)
    }

    /// The next question to write.
    pub(super) fn poll(&mut self) -> Option<Ask> {
        self.unwritten.pop_front()
    }
}
