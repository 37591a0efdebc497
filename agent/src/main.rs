//! The agent's binary: arguments, then one verb, then an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use culvert_agent::cli::Cli;
use culvert_agent::error::AgentError;
use culvert_agent::{out, verbs};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return say(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&AgentError::Internal(format!("no runtime: {error}"))),
    };
    let ended = runtime.block_on(verbs::carry_out(cli.command));
    // Look-ups of names cannot be interrupted: nobody waits for one.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// What clap has to say: help and version are no mistakes.
fn say(error: &clap::Error) -> ExitCode {
    let wanted = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    match error.print() {
        Ok(()) if wanted => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::from(AgentError::Usage(String::new()).exit_code()),
    }
}

fn fail(error: &AgentError) -> ExitCode {
    match out::complain(&error.to_string()) {
        Ok(()) | Err(_) => ExitCode::from(error),
    }
}
