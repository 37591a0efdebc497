//! How the program ends: one error type for commands, one `match` to an exit code.

use std::{error::Error, fmt, process::ExitCode};

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line or a file is wrong.
    Usage(String),
    /// Something that has to be reached or bound is not there.
    Unreachable(String),
    /// The other side refuses.
    Refused(String),
    /// A bug, or a broken machine.
    Internal(String),
}

impl Failure {
    /// The exit code, as in sysexits.h.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 64,
            Self::Unreachable(_) => 69,
            Self::Internal(_) => 70,
            Self::Refused(_) => 77,
        })
    }

    /// A broken machine: the error and its causes.
    pub fn internal(error: &(dyn Error + 'static)) -> Self {
        Self::Internal(chain(error))
    }

    /// A wrong file or command line: the error and its causes.
    pub fn usage(error: &(dyn Error + 'static)) -> Self {
        Self::Usage(chain(error))
    }

    /// Something that cannot be reached: the error and its causes.
    pub fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(chain(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Unreachable(text)
            | Self::Refused(text)
            | Self::Internal(text) => f.write_str(text),
        }
    }
}

impl Error for Failure {}

/// An error and what caused it, in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
