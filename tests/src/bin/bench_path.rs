//! `cargo bench-path`: the path benchmarks as JSON lines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use culvert_tests::bench::{self, Effort, Measure, copy, idle};
use culvert_tests::out;

/// Measures what the tunnel adds; one JSON object per line: name, value, unit, baseline, ratio.
#[derive(Parser)]
struct Arguments {
    /// A few seconds instead of minutes: that it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Only these measures.
    #[arg(value_enum, long)]
    only: Vec<Measure>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The processes of the bare copy and of bare quinn; the benchmark starts them itself.
#[derive(Subcommand)]
enum Part {
    /// Where the gateway stands.
    CopyNear { certificate: PathBuf },
    /// Where the agent stands.
    CopyFar {
        certificate: PathBuf,
        near: SocketAddr,
        backend: String,
    },
    /// Where the gateway stands, holding what it is given.
    IdleNear { certificate: PathBuf, streams: u32 },
    /// Where the agent stands.
    IdleFar {
        certificate: PathBuf,
        near: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let effort = if arguments.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let outcome = match arguments.part {
        None => bench::run(effort, &arguments.only).await,
        Some(Part::CopyNear { certificate }) => copy::near(certificate).await,
        Some(Part::CopyFar {
            certificate,
            near,
            backend,
        }) => copy::far(certificate, near, backend).await,
        Some(Part::IdleNear {
            certificate,
            streams,
        }) => idle::near(certificate, streams).await,
        Some(Part::IdleFar { certificate, near }) => idle::far(certificate, near).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard output is where the figures go; without it there is nobody to tell.
            drop(out::line(&format!("the benchmark failed: {error}")));
            ExitCode::FAILURE
        }
    }
}
