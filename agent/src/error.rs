//! How the agent ends, and how errors are shown.

use std::error::Error;
use std::process::ExitCode;

/// Why a command ends without success: one exit code each.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers. Never the end of a `run` that has an identity.
    #[error("{0}")]
    Unreachable(String),
    /// Refused for good: asking again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// A bug, or a system that does not work.
    #[error("{0}")]
    Internal(String),
}

impl AgentError {
    /// The exit code of the process (sysexits).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Unreachable(_) => 69,
            Self::Internal(_) => 70,
            Self::Refused(_) => 77,
        }
    }
}

impl From<&AgentError> for ExitCode {
    fn from(error: &AgentError) -> Self {
        Self::from(error.exit_code())
    }
}

impl From<crate::config::ConfigError> for AgentError {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// An error with what caused it, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // A wrapper that shows its cause already adds nothing.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
