//! Two tasks that wait for the same half of a stream.
//!
//! A transport keeps one waker for each half. Where two tasks share a half, both register here, and
//! what the transport keeps wakes both. It holds nothing but the two of them: a waker that held the
//! stream would keep it open from inside the connection.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The tasks that wait for one half of a stream.
#[derive(Debug)]
pub(crate) struct Waiters {
    pair: Arc<Pair>,
    both: Waker,
}

#[derive(Debug, Default)]
struct Pair {
    owner: AtomicWaker,
    other: AtomicWaker,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        let pair = Arc::<Pair>::default();
        Self {
            both: Waker::from(pair.clone()),
            pair,
        }
    }

    /// Registers whoever the half belongs to; the context to poll the half with.
    pub(crate) fn owner(&self, cx: &Context<'_>) -> Context<'_> {
        self.pair.owner.register(cx.waker());
        Context::from_waker(&self.both)
    }

    /// Registers the other one; the context to poll the half with.
    pub(crate) fn other(&self, cx: &Context<'_>) -> Context<'_> {
        self.pair.other.register(cx.waker());
        Context::from_waker(&self.both)
    }

    /// Wakes whoever the half belongs to.
    pub(crate) fn wake_owner(&self) {
        self.pair.owner.wake();
    }

    /// Wakes the other one.
    pub(crate) fn wake_other(&self) {
        self.pair.other.wake();
    }
}

impl Wake for Pair {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.owner.wake();
        self.other.wake();
    }
}
