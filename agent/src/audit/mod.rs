//! The local audit log: one line of JSON for every call, never a body.
//!
//! Lines go through a bounded queue to one writer, so that a slow disk holds no call up.
//! What happens when the queue is full or the disk refuses is the customer's choice.

mod line;
mod rotate;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

pub use line::{CallerClaim, Line, Outcome};
pub use writer::Writer;

use crate::config::{AuditSpec, WhenFull};

/// Lines that may wait for the disk: some seconds of a busy agent, at most about 16 MiB.
pub const QUEUE_LINES: usize = 16_384;

/// Where calls leave their line. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: mpsc::Sender<Line>,
    shared: Arc<Shared>,
    when_full: WhenFull,
}

/// What the writer and its senders know of each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    lost: AtomicU64,
    failing: AtomicBool,
}

/// The promise that a call's line will be taken.
#[derive(Debug)]
#[must_use]
pub struct Slot(Option<mpsc::OwnedPermit<Line>>, Audit);

/// The log cannot be written and the file says `when_full: refuse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct AuditFull;

impl Audit {
    /// An audit log and the writer that has to be run for it.
    pub fn new(spec: &AuditSpec) -> (Self, Writer) {
        let (lines, queue) = mpsc::channel(QUEUE_LINES);
        let shared = Arc::new(Shared::default());
        let audit = Self {
            lines,
            shared: Arc::clone(&shared),
            when_full: spec.when_full,
        };
        (audit, Writer::new(spec.clone(), queue, shared))
    }

    /// Asks before a call begins.
    ///
    /// # Errors
    /// [`AuditFull`], only where the file says `refuse`: the call may not be made.
    pub fn admit(&self) -> Result<Slot, AuditFull> {
        match self.when_full {
            WhenFull::Drop => Ok(Slot(None, self.clone())),
            WhenFull::Refuse if self.is_failing() => Err(AuditFull),
            WhenFull::Refuse => match self.lines.clone().try_reserve_owned() {
                Ok(permit) => Ok(Slot(Some(permit), self.clone())),
                Err(_) => Err(AuditFull),
            },
        }
    }

    /// A line for which no slot was asked: that of a refused call.
    pub fn note(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }
}

impl Slot {
    /// Hands the line over.
    pub fn write(self, line: Line) {
        match self.0 {
            Some(permit) => {
                permit.send(line);
            }
            None => self.1.note(line),
        }
    }
}

#[cfg(test)]
mod tests;
