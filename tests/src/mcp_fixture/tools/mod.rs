//! The tools, one file per kind.

pub(super) mod asking;
pub(super) mod content;
pub(super) mod input;
pub(super) mod notices;
pub(super) mod own;
pub(super) mod state;
pub(super) mod tasks;
