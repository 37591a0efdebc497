//! What an agent remembers of calls, so that a relay that lost a link can ask.
//!
//! One memory for all links of an instance: the question comes over another link than the call.
//! `NeverSeen` is a promise. It is given only where nothing that could have been the call has been
//! forgotten, and it is kept by a tombstone: should the call still come, it is refused.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::frame::CallKnowledge;
use crate::ids::CallId;
use crate::limits::{ASK_TRANSIT_MAX, CALL_MEMORY, CALL_MEMORY_MAX};

/// Call ids of the last 60 seconds, at most 64 Ki of them, and as many tombstones.
#[derive(Debug)]
pub struct CallMemory {
    known: BTreeMap<CallId, Trace>,
    seen: VecDeque<(Instant, CallId)>,
    tombstones: VecDeque<(Instant, CallId)>,
    /// When the youngest call that has been forgotten had come.
    forgotten: Option<Instant>,
    capacity: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    Seen,
    Tombstone,
}

/// Whether an `Open` may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is the first with its id.
    Fresh,
    /// It was said that it never came: `Refused` with [`crate::Code::Tombstone`].
    Tombstone,
    /// It has come before: a fault of the relay, reset with [`crate::Code::Protocol`].
    Repeated,
}

impl CallMemory {
    /// A memory of nothing, for an instance that has just started.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(CALL_MEMORY_MAX)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            known: BTreeMap::new(),
            seen: VecDeque::new(),
            tombstones: VecDeque::new(),
            forgotten: None,
            capacity,
        }
    }

    /// An `Open` has come. Remember it before anything is done about it.
    pub fn opened(&mut self, now: Instant, call: CallId) -> Opened {
        self.forget(now);
        match self.known.get(&call) {
            Some(Trace::Tombstone) => return Opened::Tombstone,
            Some(Trace::Seen) => return Opened::Repeated,
            None => {}
        }
        if self.seen.len() == self.capacity {
            self.forget_oldest();
        }
        self.known.insert(call, Trace::Seen);
        self.seen.push_back((now, call));
        Opened::Fresh
    }

    /// An `Ask` has come, for a call whose `Open` was sent `age` before the question.
    pub fn asked(&mut self, now: Instant, call: CallId, age: Duration) -> CallKnowledge {
        self.forget(now);
        match self.known.get(&call) {
            Some(Trace::Seen) => return CallKnowledge::Seen,
            Some(Trace::Tombstone) => return CallKnowledge::NeverSeen,
            None => {}
        }
        // A promise that cannot be kept is not given.
        if self.may_have_forgotten(now, age) || self.tombstones.len() == self.capacity {
            return CallKnowledge::Unknown;
        }
        self.known.insert(call, Trace::Tombstone);
        self.tombstones.push_back((now, call));
        CallKnowledge::NeverSeen
    }

    /// Whether a call that was sent so long before the question may be among the forgotten.
    fn may_have_forgotten(&self, now: Instant, age: Duration) -> bool {
        let reach = age.saturating_add(ASK_TRANSIT_MAX);
        self.forgotten
            .is_some_and(|came| now.saturating_duration_since(came) <= reach)
    }

    fn forget(&mut self, now: Instant) {
        let expired = |at: Instant| now.saturating_duration_since(at) > CALL_MEMORY;
        while self.seen.front().is_some_and(|(at, _)| expired(*at)) {
            self.forget_oldest();
        }
        while let Some((at, call)) = self.tombstones.front().copied()
            && expired(at)
        {
            self.tombstones.pop_front();
            self.known.remove(&call);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((at, call)) = self.seen.pop_front() {
            self.known.remove(&call);
            self.forgotten = Some(at);
        }
    }
}

impl Default for CallMemory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;

    fn call(number: u8, attempt: u8) -> CallId {
        CallId {
            request: RequestId::from_bytes([number; 16]),
            attempt,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_came_is_seen_and_what_did_not_is_refused_from_then_on() {
        let now = Instant::now();
        let mut memory = CallMemory::new();
        assert_eq!(memory.opened(now, call(1, 0)), Opened::Fresh);
        assert_eq!(memory.opened(now, call(1, 0)), Opened::Repeated);
        assert_eq!(memory.asked(now, call(1, 0), SECOND), CallKnowledge::Seen);
        assert_eq!(
            memory.asked(now, call(1, 1), SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(memory.opened(now, call(1, 1)), Opened::Tombstone);
        assert_eq!(
            memory.asked(now, call(1, 1), SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(memory.opened(now, call(1, 2)), Opened::Fresh);
    }

    #[test]
    fn a_full_memory_knows_that_it_has_forgotten() {
        let start = Instant::now();
        let mut memory = CallMemory::with_capacity(2);
        for (at, number) in [(0, 1), (20, 2), (40, 3)] {
            assert_eq!(
                memory.opened(start + at * SECOND, call(number, 0)),
                Opened::Fresh
            );
        }
        // Call 1, of second 0, is forgotten: 45 s ago, and questions take at most 10 s.
        let now = start + 45 * SECOND;
        assert_eq!(
            memory.asked(now, call(1, 0), 36 * SECOND),
            CallKnowledge::Unknown
        );
        assert_eq!(
            memory.asked(now, call(9, 0), 34 * SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(
            memory.asked(now, call(3, 0), 36 * SECOND),
            CallKnowledge::Seen
        );
    }

    #[test]
    fn a_minute_is_remembered_and_an_older_call_is_unknown() {
        let start = Instant::now();
        let mut memory = CallMemory::new();
        memory.opened(start, call(1, 0));
        let minute = start + CALL_MEMORY;
        assert_eq!(
            memory.asked(minute, call(1, 0), CALL_MEMORY),
            CallKnowledge::Seen
        );
        let later = minute + SECOND;
        assert_eq!(
            memory.asked(later, call(1, 0), CALL_MEMORY),
            CallKnowledge::Unknown
        );
        assert_eq!(
            memory.asked(later, call(2, 0), 5 * SECOND),
            CallKnowledge::NeverSeen
        );
    }

    #[test]
    fn tombstones_are_never_pushed_out() {
        let start = Instant::now();
        let mut memory = CallMemory::with_capacity(2);
        assert_eq!(
            memory.asked(start, call(1, 0), SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(
            memory.asked(start, call(2, 0), SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(
            memory.asked(start, call(3, 0), SECOND),
            CallKnowledge::Unknown
        );
        assert_eq!(memory.opened(start, call(1, 0)), Opened::Tombstone);
        let later = start + CALL_MEMORY + SECOND;
        assert_eq!(
            memory.asked(later, call(3, 0), SECOND),
            CallKnowledge::NeverSeen
        );
        assert_eq!(memory.opened(later, call(1, 0)), Opened::Fresh);
    }
}
