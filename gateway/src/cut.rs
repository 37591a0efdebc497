//! Answers that end before their end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use culvert_wire::Code;

use crate::{blame, error::Problem};

/// What ended the bytes of an answer before their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A code of the tunnel.
    Code(Code),
    /// Something that is a problem already.
    Told(Problem),
}

impl Cut {
    /// What the caller is told.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Code(code) => blame::cut(code),
            Self::Told(problem) => problem,
        }
    }
}

impl From<culvert_relay::AnswerCut> for Cut {
    fn from(cut: culvert_relay::AnswerCut) -> Self {
        Self::Code(cut.code)
    }
}

/// Set when an answer was cut: a connection of HTTP/1.0 has no other way to tell than to be reset.
#[derive(Clone, Debug, Default)]
pub struct CutFlag(Arc<AtomicBool>);

impl CutFlag {
    /// An answer of this connection was cut.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether an answer of this connection was cut.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
