//! What can go wrong with the harness itself.

use std::fmt;
use std::io;
use std::time::Duration;

/// A failure of the harness, never of what it tests.
#[derive(thiserror::Error)]
pub enum HarnessError {
    /// `cargo build` of the real programs failed; its output was shown.
    #[error("building the programs failed: {0}")]
    Build(String),
    /// A program could not be started.
    #[error("starting {name}")]
    Start {
        /// The program.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended before it said that it serves.
    #[error("{name} ended before it was ready:\n{log}")]
    Ended {
        /// The program.
        name: String,
        /// All that it said.
        log: String,
    },
    /// A line that a program printed was not what it should be.
    #[error("{name} printed {line:?}: {why}")]
    BadLine {
        /// The program.
        name: String,
        /// The line.
        line: String,
        /// What is wrong with it.
        why: String,
    },
    /// A condition did not come true in time.
    #[error("{what} did not come true within {within:?}; last seen: {last}")]
    TimedOut {
        /// The condition.
        what: String,
        /// The deadline.
        within: Duration,
        /// The last status.
        last: String,
    },
    /// An official SDK is not there, and how to get it.
    #[error("{0}")]
    Sdk(String),
    /// A script of an SDK failed.
    #[error("{script} failed:\n{output}")]
    Script {
        /// The script.
        script: String,
        /// What it printed.
        output: String,
    },
    /// An HTTP exchange failed below HTTP.
    #[error("{0}")]
    Http(String),
    /// Files and pipes of the harness.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// As its `Display`: what `unwrap` prints in a test is a log to be read.
impl fmt::Debug for HarnessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        std::error::Error::source(self).map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}
