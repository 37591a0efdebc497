//! `cargo demo`: the main job end to end on this machine; `--once` ends after the table.

use std::process::ExitCode;

use clap::Parser;
use culvert_tests::{demo, out};

/// A real gateway, agent, model server and MCP server on loopback: joins, calls, and tells what happened.
#[derive(Parser)]
struct Arguments {
    /// End after the table instead of staying up.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo::run(arguments.once).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard output is where the story was told; without it there is nobody to tell.
            drop(out::line(&format!("the demo failed: {error}")));
            ExitCode::FAILURE
        }
    }
}
